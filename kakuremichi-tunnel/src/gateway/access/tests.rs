//! Decisions from end to end of this module.

use std::{error::Error, io};

use async_trait::async_trait;
use data_encoding::BASE64;
use http::{HeaderValue, header};
use kakuremichi_core::{
    auth::{AuthenticationError, AuthorizationError},
    id::ServiceTokenId,
    plan::{GatewayPlan, GatewayRecord, GatewayServiceToken, Revision},
    policy::{Access, Condition, Effect, HeaderTest, Method, Policy, Rule},
};

use super::*;
use crate::gateway::testing::{argon2id, basic_policy, http_service, local, matched};

const VISITOR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

fn control(hooks: Hooks) -> AccessControl {
    impatient(hooks, Timeouts::default().judgement)
}

fn impatient(hooks: Hooks, judgement: Duration) -> AccessControl {
    let timeouts = Timeouts {
        judgement,
        ..Timeouts::default()
    };
    let limits = Limits {
        judgements: 1,
        ..Limits::default()
    };
    AccessControl::new(&limits, &timeouts, hooks, &[3; 32], Arc::default())
}

fn shows(field: &str) -> HeaderMap {
    [(header::AUTHORIZATION, HeaderValue::from_str(field).unwrap())]
        .into_iter()
        .collect()
}

fn password(user: &str, password: &str) -> HeaderMap {
    shows(&format!(
        "Basic {}",
        BASE64.encode(format!("{user}:{password}").as_bytes())
    ))
}

async fn decide(control: &AccessControl, policy: &Policy, headers: &HeaderMap) -> Verdict {
    let service = http_service(1, "h.example", policy.clone(), Vec::new());
    let matched = matched(service, "h.example", "/x");
    let request = CanonicalRequest::parse("GET", "h.example", "/x").unwrap();
    control
        .decide(VISITOR, headers, &request, (&People::default(), &matched))
        .await
}

#[test]
fn a_password_lets_in_and_is_remembered_until_the_plan_changes() {
    local(async {
        let control = control(Hooks::default());
        let policy = basic_policy("ann", &argon2id("sesame"));
        let none = HeaderMap::new();
        assert!(matches!(
            decide(&control, &policy, &none).await,
            Verdict::Challenged(Challenge { basic: true, .. }, _)
        ));
        for _ in 0..3 {
            let Verdict::Admitted(admission) = decide(&control, &policy, &password("ann", "sesame")).await
            else {
                panic!("not admitted");
            };
            assert_eq!(admission.permit.principal().unwrap().to_string(), "basic:ann");
            assert!(admission.authorization_used);
        }
        assert_eq!(control.counters.verifications.get(), 1);
        control.plan_changed();
        decide(&control, &policy, &password("ann", "sesame")).await;
        assert_eq!(control.counters.verifications.get(), 2);
    });
}

#[test]
fn wrong_passwords_are_challenged_then_throttled_and_never_remembered() {
    local(async {
        let control = control(Hooks::default());
        let policy = basic_policy("ann", &argon2id("sesame"));
        let good = password("ann", "sesame");
        assert!(matches!(
            decide(&control, &policy, &good).await,
            Verdict::Admitted(_)
        ));
        for number in 0..10 {
            let user = if number % 2 == 0 { "ann" } else { "nobody" };
            let verdict = decide(&control, &policy, &password(user, "guess")).await;
            assert!(
                matches!(verdict, Verdict::Challenged(..)),
                "{number}: {verdict:?}"
            );
        }
        let before = control.counters.verifications.get();
        let verdict = decide(&control, &policy, &password("ann", "guess")).await;
        assert!(matches!(verdict, Verdict::Throttled(_)));
        assert_eq!(control.counters.verifications.get(), before);
        // Who was let in before is not shut out by others behind the same address.
        assert!(matches!(
            decide(&control, &policy, &good).await,
            Verdict::Admitted(_)
        ));
    });
}

#[test]
fn an_address_that_a_rule_denies_costs_no_verification() {
    local(async {
        let control = control(Hooks::default());
        let mut policy = basic_policy("ann", &argon2id("sesame"));
        policy.rules.push(Rule::new(
            "banned".parse().unwrap(),
            Condition::Source("192.0.2.0/24".parse().unwrap()),
            Effect::Deny,
        ));
        let verdict = decide(&control, &policy, &password("ann", "sesame")).await;
        assert!(matches!(verdict, Verdict::Denied(Denial::Rule(_))));
        assert_eq!(control.counters.verifications.get(), 0);
    });
}

#[test]
fn a_rule_sees_the_fields_that_it_looks_at() {
    local(async {
        let control = control(Hooks::default());
        let mut policy = Policy::public();
        policy.rules.push(Rule::new(
            "robots".parse().unwrap(),
            Condition::Header {
                name: "user-agent".parse().unwrap(),
                is: HeaderTest::Contains("bot".to_owned()),
            },
            Effect::Deny,
        ));
        let by = |agent: &'static str| {
            [(header::USER_AGENT, HeaderValue::from_static(agent))]
                .into_iter()
                .collect()
        };
        let robot = decide(&control, &policy, &by("Some-Bot/1")).await;
        assert!(matches!(robot, Verdict::Denied(Denial::Rule(_))), "{robot:?}");
        for headers in [by("Mozilla/5.0"), HeaderMap::new()] {
            let verdict = decide(&control, &policy, &headers).await;
            assert!(matches!(verdict, Verdict::Admitted(_)), "{verdict:?}");
        }
    });
}

/// LESSONS, advisory 5: a missing GeoIP database is a denial.
#[test]
fn without_a_database_a_rule_about_countries_denies() {
    local(async {
        let control = control(Hooks::default());
        let mut policy = Policy::public();
        let abroad = Condition::Country("XX".parse().unwrap());
        policy
            .rules
            .push(Rule::new("abroad".parse().unwrap(), abroad, Effect::Deny));
        let verdict = decide(&control, &policy, &HeaderMap::new()).await;
        assert!(
            matches!(verdict, Verdict::Denied(Denial::Unknown(_))),
            "{verdict:?}"
        );
        policy.rules[0].dry_run = true;
        let verdict = decide(&control, &policy, &HeaderMap::new()).await;
        assert!(matches!(verdict, Verdict::Admitted(_)), "{verdict:?}");
    });
}

#[test]
fn a_public_service_leaves_the_field_to_the_target() {
    local(async {
        let control = control(Hooks::default());
        let verdict = decide(&control, &Policy::public(), &password("ann", "its own")).await;
        assert!(matches!(verdict, Verdict::Admitted(admission) if !admission.authorization_used));
        let verdict = decide(&control, &Policy::default(), &HeaderMap::new()).await;
        assert!(matches!(verdict, Verdict::Denied(Denial::Default)));
    });
}

#[derive(Debug)]
struct Tokens;

#[async_trait]
impl Authenticator for Tokens {
    fn name(&self) -> &'static str {
        "tokens"
    }

    async fn authenticate(
        &self,
        request: AuthenticationRequest<'_>,
    ) -> Result<Authentication, AuthenticationError> {
        match request.credential {
            Credential::Bearer(token) => match token.expose().as_str() {
                "good" => Ok(Authentication::Proven(Principal::new("tokens", "ci").into())),
                "broken" => Err(AuthenticationError {
                    authenticator: "tokens",
                    source: Box::<dyn Error + Send + Sync>::from("the directory is away"),
                }),
                _ => Ok(Authentication::Refused),
            },
            _ => Ok(Authentication::NotMine),
        }
    }
}

#[test]
fn an_authenticator_proves_and_its_failure_is_no_proof() {
    local(async {
        let control = control(Hooks {
            authenticator: Some(Arc::new(Tokens)),
            ..Hooks::default()
        });
        let policy = Policy {
            rules: Vec::new(),
            access: Access::AnyOf(vec![Method::signed_in()]),
        };
        let verdict = decide(&control, &policy, &shows("Bearer good")).await;
        assert!(matches!(verdict, Verdict::Admitted(admission) if admission.authorization_used));
        for bad in ["Bearer bad", "Bearer broken", "Basic eDp5", "Digest x"] {
            let verdict = decide(&control, &policy, &shows(bad)).await;
            assert!(matches!(verdict, Verdict::Challenged(..)), "{bad}: {verdict:?}");
        }
        assert_eq!(control.counters.wrong_credentials.get(), 1);
    });
}

#[derive(Debug)]
struct Moody(Result<bool, ()>);

#[async_trait]
impl Authorizer for Moody {
    async fn authorize(&self, _request: AuthorizationRequest<'_>) -> Result<bool, AuthorizationError> {
        self.0
            .map_err(|()| AuthorizationError(Box::new(io::Error::other("away"))))
    }
}

/// LESSONS, advisory 5: an authorizer that fails denies.
#[test]
fn an_authorizer_only_takes_away() {
    local(async {
        for (opinion, admitted) in [(Ok(true), true), (Ok(false), false), (Err(()), false)] {
            let control = control(Hooks {
                authorizer: Some(Arc::new(Moody(opinion))),
                ..Hooks::default()
            });
            let verdict = decide(&control, &Policy::public(), &HeaderMap::new()).await;
            assert_eq!(matches!(verdict, Verdict::Admitted(_)), admitted);
            let verdict = decide(&control, &Policy::deny(), &HeaderMap::new()).await;
            assert!(matches!(verdict, Verdict::Denied(Denial::Default)));
        }
    });
}

/// Never answers.
#[derive(Debug)]
struct Silent;

#[async_trait]
impl Authenticator for Silent {
    fn name(&self) -> &'static str {
        "silent"
    }

    async fn authenticate(
        &self,
        _: AuthenticationRequest<'_>,
    ) -> Result<Authentication, AuthenticationError> {
        std::future::pending().await
    }
}

#[async_trait]
impl Authorizer for Silent {
    async fn authorize(&self, _: AuthorizationRequest<'_>) -> Result<bool, AuthorizationError> {
        std::future::pending().await
    }
}

/// LESSONS, advisories 5 and 7: what does not answer in time denies, and only so many wait for it.
#[test]
fn a_judgement_has_a_deadline_and_there_are_only_so_many_at_once() {
    local(async {
        let signed_in = Policy {
            rules: Vec::new(),
            access: Access::AnyOf(vec![Method::signed_in()]),
        };
        let asks = impatient(
            Hooks {
                authenticator: Some(Arc::new(Silent)),
                ..Hooks::default()
            },
            Duration::from_millis(50),
        );
        let token = shows("Bearer some-token");
        let (first, second) = tokio::join!(
            decide(&asks, &signed_in, &token),
            decide(&asks, &signed_in, &token)
        );
        assert!(matches!(first, Verdict::Challenged(..)), "{first:?}");
        assert!(matches!(second, Verdict::Overloaded), "{second:?}");
        assert_eq!(asks.counters.judgements_failed.get(), 2);
        let objects = impatient(
            Hooks {
                authorizer: Some(Arc::new(Silent)),
                ..Hooks::default()
            },
            Duration::from_millis(50),
        );
        let none = HeaderMap::new();
        for _ in 0..2 {
            let verdict = decide(&objects, &Policy::public(), &none).await;
            assert!(matches!(verdict, Verdict::Denied(_)), "{verdict:?}");
        }
        assert_eq!(objects.counters.judgements_failed.get(), 2);
    });
}

#[test]
fn a_service_token_lets_in_is_not_passed_on_and_wrong_ones_are_throttled() {
    local(async {
        let control = control(Hooks::default());
        let token = ServiceTokenText::new(Secret::new([7; 32]));
        let policy = Policy {
            rules: Vec::new(),
            access: Access::AnyOf(vec![Method::ServiceToken { tokens: Vec::new() }]),
        };
        let service = http_service(1, "h.example", policy, Vec::new());
        let matched = matched(service, "h.example", "/x");
        let planned = GatewayRecord::ServiceToken(GatewayServiceToken {
            id: ServiceTokenId::from_bytes([9; 16]),
            organization: matched.service.organization,
            secret_hash: token.secret_hash(),
            expires: None,
        });
        let people = People::new(&GatewayPlan::new(Revision(1), [planned]));
        let request = CanonicalRequest::parse("GET", "h.example", "/x").unwrap();
        let decide = async |headers: &HeaderMap| {
            control
                .decide(VISITOR, headers, &request, (&people, &matched))
                .await
        };
        let none = HeaderMap::new();
        assert!(matches!(
            decide(&none).await,
            Verdict::Challenged(
                Challenge {
                    service_token: true,
                    ..
                },
                _
            )
        ));
        let good = shows(&format!("Bearer {}", token.to_text().expose()));
        let Verdict::Admitted(admission) = decide(&good).await else {
            panic!("not admitted")
        };
        assert!(admission.authorization_used);
        let who = admission.permit.principal().unwrap();
        assert_eq!(who.authority(), Proof::SERVICE_TOKEN);
        let wrong = ServiceTokenText::new(Secret::new([8; 32]));
        let wrong = shows(&format!("Bearer {}", wrong.to_text().expose()));
        let mut throttled = false;
        for _ in 0..100 {
            throttled |= matches!(decide(&wrong).await, Verdict::Throttled(_));
        }
        assert!(throttled);
        assert!(
            matches!(decide(&good).await, Verdict::Admitted(_)),
            "who is known is not held up by what others guess"
        );
    });
}
