//! Decisions that people ask for.

use std::time::Duration;

use super::*;
use crate::auth::{Identity, Strength};

fn visitor(target: &str) -> Visitor {
    Visitor {
        now: NOON,
        source: "192.0.2.1".parse().unwrap(),
        country: None,
        asn: None,
        request: Some(CanonicalRequest::parse("GET", "h.example", target).unwrap()),
        proofs: Vec::new(),
        objection: false,
    }
}

fn signed_in(target: &str, identity: Identity) -> Visitor {
    Visitor {
        proofs: vec![Proof::SignedIn(identity)],
        ..visitor(target)
    }
}

fn ann() -> Identity {
    Identity::new(Principal::new("sso", "ann"))
}

fn rule(name: &str, when: Condition, effect: Effect) -> Rule {
    Rule::new(name.parse().unwrap(), when, effect)
}

fn country(code: &str) -> Condition {
    Condition::Country(code.parse().unwrap())
}

fn admin() -> Condition {
    Condition::Role("admin".parse().unwrap())
}

fn path(pattern: &str) -> Condition {
    Condition::Path(pattern.parse().unwrap())
}

fn not(condition: Condition) -> Condition {
    Condition::Not(Box::new(condition))
}

fn policy(rules: Vec<Rule>, access: Access) -> Policy {
    let policy = Policy { rules, access };
    assert_eq!(policy.validate(), Ok(()));
    policy
}

fn is_challenge(told: &Told) -> bool {
    matches!(told, Told::Challenge(Challenge { signed_in: true, .. }))
}

#[test]
fn the_default_policy_denies() {
    let known = signed_in("/", ann());
    assert_eq!(told(&Policy::default(), &known), Told::Deny(Denial::Default));
    assert!(matches!(
        told(&Policy::public(), &known),
        Told::Permit { rule: None, .. }
    ));
}

/// LESSONS, advisory 5: a missing database of countries is a denial, whichever way a rule is written.
#[test]
fn without_a_database_no_rule_about_countries_lets_anybody_past() {
    let denied = policy(vec![rule("abroad", country("XX"), Effect::Deny)], Access::Public);
    let only = policy(
        vec![rule("only", not(country("DE")), Effect::Deny)],
        Access::Public,
    );
    let allowed = policy(vec![rule("home", country("DE"), Effect::Allow)], Access::Deny);
    let others = policy(
        vec![rule("others", not(country("XX")), Effect::Allow)],
        Access::Deny,
    );
    let from = |code: Option<&str>| Visitor {
        country: code.map(|code| code.parse().unwrap()),
        ..visitor("/")
    };
    for policy in [&denied, &only, &allowed, &others] {
        assert!(matches!(told(policy, &from(None)), Told::Deny(_)));
        assert!(matches!(told(policy, &from(Some("DE"))), Told::Permit { .. }));
        assert!(matches!(told(policy, &from(Some("XX"))), Told::Deny(_)));
    }
    assert_eq!(
        told(&denied, &from(None)),
        Told::Deny(Denial::Unknown("abroad".parse().unwrap()))
    );
}

/// Nobody is turned away before they could say who they are.
#[test]
fn who_may_be_an_admin_is_asked_to_sign_in() {
    let access = || Access::AnyOf(vec![Method::signed_in()]);
    let but_admins = rule(
        "but-admins",
        Condition::All(vec![path("/admin"), not(admin())]),
        Effect::Deny,
    );
    let admins_first = vec![
        rule("admins", admin(), Effect::Allow),
        rule("closed", path("/admin"), Effect::Deny),
    ];
    for policy in [policy(vec![but_admins], access()), policy(admins_first, access())] {
        assert!(is_challenge(&told(&policy, &visitor("/admin"))));
        let boss = ann().with_roles(["admin".parse().unwrap()]);
        assert!(matches!(
            told(&policy, &signed_in("/admin", boss)),
            Told::Permit { .. }
        ));
        for other in [ann(), ann().with_roles([])] {
            assert!(matches!(
                told(&policy, &signed_in("/admin", other.clone())),
                Told::Deny(_)
            ));
        }
        assert!(matches!(
            told(&policy, &signed_in("/", ann().with_roles([]))),
            Told::Permit { .. }
        ));
    }
    let nobody = policy(vec![rule("admins", admin(), Effect::Deny)], Access::Deny);
    assert!(
        matches!(told(&nobody, &visitor("/")), Told::Deny(_)),
        "asking would lead nowhere"
    );
}

#[test]
fn going_on_leads_to_the_methods_past_later_rules() {
    let policy = policy(
        vec![
            rule("login", path("/admin"), Effect::Continue),
            rule(
                "office",
                Condition::Source("192.0.2.0/24".parse().unwrap()),
                Effect::Allow,
            ),
        ],
        Access::AnyOf(vec![Method::signed_in()]),
    );
    assert!(matches!(told(&policy, &visitor("/")), Told::Permit { .. }));
    assert!(is_challenge(&told(&policy, &visitor("/admin"))));
}

#[test]
fn after_an_undecided_rule_to_go_on_later_rules_only_deny() {
    let rules = |effect| {
        let office = Condition::Source("192.0.2.0/24".parse().unwrap());
        vec![
            rule("abroad", country("XX"), Effect::Continue),
            rule("office", office, effect),
        ]
    };
    let access = || Access::AnyOf(vec![Method::signed_in()]);
    assert!(is_challenge(&told(
        &policy(rules(Effect::Allow), access()),
        &visitor("/")
    )));
    assert!(matches!(
        told(&policy(rules(Effect::Deny), access()), &visitor("/")),
        Told::Deny(_)
    ));
}

#[test]
fn a_method_asks_for_roles_groups_and_strength() {
    let requirement = Requirement {
        roles: vec!["admin".parse().unwrap()],
        groups: vec!["ops".to_owned()],
        strength: Strength::TwoFactors,
        max_age: None,
    };
    let policy = policy(Vec::new(), Access::AnyOf(vec![Method::SignedIn(requirement)]));
    let try_as = |identity| told(&policy, &signed_in("/", identity));
    let asked = Challenge {
        service_token: false,
        basic: false,
        signed_in: true,
        strength: Strength::TwoFactors,
        max_age: None,
    };
    assert_eq!(told(&policy, &visitor("/")), Told::Challenge(asked));
    let member = ann().with_roles(["admin".parse().unwrap()]).with_groups(["ops"]);
    assert_eq!(
        try_as(member.clone()),
        Told::Challenge(asked),
        "a stronger proof is asked for"
    );
    assert!(matches!(
        try_as(member.with_strength(Strength::PhishingResistant)),
        Told::Permit { .. }
    ));
    let silent = ann()
        .with_roles(["admin".parse().unwrap()])
        .with_strength(Strength::TwoFactors);
    assert_eq!(
        try_as(silent),
        Told::Deny(Denial::Unqualified),
        "no loop of asking"
    );
}

/// Who signed in too long ago is asked again, and who is asked for one of two things is asked for one of them whole: with
/// what they bring then they get past, so that nobody is sent round and round.
#[test]
fn a_sign_in_that_is_too_old_is_asked_for_again() {
    let within = |strength, minutes: Option<u64>| {
        Method::SignedIn(Requirement {
            strength,
            max_age: minutes.map(|minutes| Duration::from_secs(minutes * 60)),
            ..Requirement::default()
        })
    };
    let at = |seconds: i64| Timestamp::from_millis(NOON.as_millis() - seconds * 1000);
    let asked = |told| match told {
        Told::Challenge(challenge) => Some((challenge.strength, challenge.max_age.map(|age| age.as_secs()))),
        _ => None,
    };
    let hour = policy(
        Vec::new(),
        Access::AnyOf(vec![within(Strength::OneFactor, Some(60))]),
    );
    assert!(CompiledPolicy::new(&hour).needs().time);
    let try_as = |policy: &Policy, identity| asked(told(policy, &signed_in("/", identity)));
    assert_eq!(try_as(&hour, ann().with_authenticated(at(3599))), None);
    let again = Some((Strength::OneFactor, Some(3600)));
    assert_eq!(try_as(&hour, ann().with_authenticated(at(3600))), again);
    assert_eq!(try_as(&hour, ann()), again, "when is not known");
    // A clock that is ahead makes nobody too old.
    assert_eq!(try_as(&hour, ann().with_authenticated(at(-60))), None);

    let methods = vec![
        within(Strength::PhishingResistant, None),
        within(Strength::TwoFactors, Some(10)),
        within(Strength::TwoFactors, Some(60)),
    ];
    let any = policy(Vec::new(), Access::AnyOf(methods.clone()));
    let offered = try_as(&any, ann()).unwrap();
    assert_eq!(offered, (Strength::TwoFactors, Some(3600)));
    let brings = ann().with_strength(offered.0).with_authenticated(at(0));
    assert_eq!(try_as(&any, brings), None);
    let all = policy(Vec::new(), Access::AllOf(methods));
    assert_eq!(
        try_as(&all, ann()),
        Some((Strength::PhishingResistant, Some(600)))
    );
    for seconds in [0, 299, 86_401] {
        let age = Duration::from_secs(seconds);
        let requirement = Requirement {
            max_age: Some(age),
            ..Requirement::default()
        };
        let access = Access::AnyOf(vec![Method::SignedIn(requirement)]);
        assert_eq!(access.validate(), Err(PolicyError::Age));
    }
}

/// Who could prove more is asked to, by rules as by methods, and gets past when they have.
#[test]
fn who_is_too_weak_for_a_rule_is_asked_to_sign_in_more_strongly() {
    use Strength::{OneFactor, PhishingResistant, TwoFactors};

    let strong = || Condition::Strength(TwoFactors);
    let ops = || Condition::Group("ops".to_owned());
    let asked = |strength, max_age| {
        Told::Challenge(Challenge {
            basic: false,
            signed_in: true,
            service_token: false,
            strength,
            max_age,
        })
    };
    let member = |strength| ann().with_groups(["ops"]).with_strength(strength);
    let people = || Access::AnyOf(vec![Method::signed_in()]);
    let allows = policy(vec![rule("strong", strong(), Effect::Allow)], Access::Deny);
    let denies = policy(vec![rule("weak", not(strong()), Effect::Deny)], people());
    let both = Condition::All(vec![ops(), strong()]);
    let group = policy(vec![rule("strong-ops", both, Effect::Allow)], Access::Deny);
    for policy in [&allows, &denies, &group] {
        let explained = explain(
            &CompiledPolicy::new(policy),
            SUBJECT,
            &signed_in("/", member(OneFactor)).facts(),
        );
        assert!(explained.instead_of.is_some());
        let try_as = |strength| told(policy, &signed_in("/", member(strength)));
        assert_eq!(try_as(OneFactor), asked(TwoFactors, None));
        for strength in [TwoFactors, PhishingResistant] {
            assert!(matches!(try_as(strength), Told::Permit { .. }));
        }
        // Who is not known is asked to sign in at all, and nobody can be asked at a TCP service.
        assert!(is_challenge(&told(policy, &visitor("/"))));
        let mut port = signed_in("/", member(OneFactor));
        port.request = None;
        assert!(matches!(told(policy, &port), Told::Deny(_)));
        let objection = Visitor {
            objection: true,
            ..signed_in("/", member(OneFactor))
        };
        assert_eq!(told(policy, &objection), Told::Deny(Denial::Authorizer));
    }
    // Where more strength leads nowhere, it is not asked for.
    let outsider = ann().with_groups(["sales"]);
    assert_eq!(
        told(&group, &signed_in("/", outsider)),
        Told::Deny(Denial::Default)
    );
    let shut = policy(
        vec![
            rule("shut", path("/"), Effect::Deny),
            rule("strong", strong(), Effect::Allow),
        ],
        people(),
    );
    assert!(matches!(
        told(&shut, &signed_in("/", member(OneFactor))),
        Told::Deny(_)
    ));
    let passkeys_only_elsewhere = policy(
        vec![rule(
            "no-passkeys",
            Condition::Strength(PhishingResistant),
            Effect::Deny,
        )],
        people(),
    );
    assert!(matches!(
        told(&passkeys_only_elsewhere, &signed_in("/", member(OneFactor))),
        Told::Permit { .. }
    ));
    // A trial asks nobody for anything.
    let mut trial = allows;
    trial.rules[0].dry_run = true;
    assert_eq!(
        told(&trial, &signed_in("/", member(OneFactor))),
        Told::Deny(Denial::Default)
    );
    // What a method wants of the same sign-in is asked for at once.
    let recent = Requirement {
        max_age: Some(Duration::from_secs(600)),
        ..Requirement::default()
    };
    let weak = vec![rule("weak", not(strong()), Effect::Deny)];
    let recent = policy(weak, Access::AnyOf(vec![Method::SignedIn(recent)]));
    assert_eq!(
        told(&recent, &signed_in("/", member(OneFactor))),
        asked(TwoFactors, Some(Duration::from_secs(600)))
    );
    // Who is asked for a password goes on being asked for it: sent away to sign in they would not see the question.
    let users = vec![BasicUser {
        name: "door".to_owned(),
        password_hash: "hash".to_owned(),
    }];
    let beside = policy(
        vec![rule("strong", strong(), Effect::Allow)],
        Access::AnyOf(vec![Method::Basic { users }]),
    );
    assert!(matches!(
        told(&beside, &signed_in("/", member(OneFactor))),
        Told::Challenge(Challenge {
            basic: true,
            signed_in: false,
            ..
        })
    ));
}

#[test]
fn all_methods_are_needed_where_all_are_asked_for() {
    let users = vec![BasicUser {
        name: "door".to_owned(),
        password_hash: "hash".to_owned(),
    }];
    let policy = policy(
        Vec::new(),
        Access::AllOf(vec![Method::Basic { users }, Method::signed_in()]),
    );
    let mut known = signed_in("/", ann());
    let basic = |told| {
        matches!(
            told,
            Told::Challenge(Challenge {
                basic: true,
                signed_in: false,
                ..
            })
        )
    };
    assert!(basic(told(&policy, &known)));
    known.proofs.push(Proof::Basic {
        service: SERVICE,
        principal: Principal::new("basic", "door"),
    });
    let principal = Some(Principal::new("sso", "ann"));
    assert_eq!(
        told(&policy, &known),
        Told::Permit {
            rule: None,
            principal
        }
    );
}

/// LESSONS, advisory 4: nothing is let past because of a User-Agent or a forwarded header.
#[test]
fn a_header_can_only_close() {
    let agent = || Condition::Header {
        name: "User-Agent".parse().unwrap(),
        is: HeaderTest::Contains("bot".to_owned()),
    };
    let with = |effect, when| Policy {
        rules: vec![rule("bots", when, effect)],
        access: Access::Public,
    };
    for when in [agent(), not(agent()), Condition::All(vec![path("/"), agent()])] {
        for effect in [Effect::Allow, Effect::Continue] {
            let refused = with(effect, when.clone()).validate();
            assert_eq!(refused, Err(PolicyError::Header("bots".parse().unwrap())));
        }
        assert_eq!(with(Effect::Deny, when).validate(), Ok(()));
    }
    let policy = with(Effect::Deny, agent());
    let by = |lines: &[&str]| {
        let mut bot = visitor("/");
        let lines: Vec<_> = lines.iter().map(|line| line.as_bytes()).collect();
        bot.request = bot
            .request
            .map(|request| request.note("user-agent".parse().unwrap(), lines));
        told(&policy, &bot)
    };
    assert!(matches!(by(&["Googlebot/2"]), Told::Deny(Denial::Rule(_))));
    assert!(matches!(by(&["curl"]), Told::Permit { .. }));
    assert!(matches!(by(&[]), Told::Permit { .. }));
    // Whoever decides must have looked.
    assert!(matches!(
        told(&policy, &visitor("/")),
        Told::Deny(Denial::Unknown(_))
    ));
    assert_eq!(
        CompiledPolicy::new(&policy).needs().headers,
        ["user-agent".parse().unwrap()]
    );
}

#[test]
fn an_explanation_names_the_part_that_decided() {
    let office = Condition::Source("198.51.100.0/24".parse().unwrap());
    let mut tried = rule("trial", path("/"), Effect::Deny);
    tried.dry_run = true;
    let policy = policy(
        vec![
            rule(
                "office",
                Condition::All(vec![path("/"), office.clone()]),
                Effect::Allow,
            ),
            tried,
            rule(
                "abroad",
                Condition::Any(vec![path("/x"), country("XX")]),
                Effect::Deny,
            ),
        ],
        Access::Public,
    );
    let explanation = explain(&CompiledPolicy::new(&policy), SUBJECT, &visitor("/").facts());
    let parts: Vec<_> = explanation
        .trail
        .iter()
        .map(|step| (step.truth, step.part.clone()))
        .collect();
    assert_eq!(
        parts,
        [
            (Truth::False, office),
            (Truth::True, path("/")),
            (Truth::Unknown(Missing::Fact), country("XX")),
        ]
    );
    let tried: Vec<_> = explanation.dry_runs().map(|step| step.rule.to_string()).collect();
    assert_eq!(tried, ["trial"]);
    assert_eq!(
        explanation.by,
        DecidedBy::Rule {
            policy: None,
            rule: "abroad".parse().unwrap()
        }
    );
}

/// A program's token opens what it is named for, and nothing that is for people.
#[test]
fn a_service_token_is_no_person() {
    let token = |n| ServiceTokenId::from_bytes([n; 16]);
    let methods = |tokens: Vec<ServiceTokenId>| Access::AnyOf(vec![Method::ServiceToken { tokens }]);
    let told = |access: Access, proofs: Vec<Proof>| {
        let policy = policy(Vec::new(), access);
        let visitor = Visitor {
            proofs,
            ..visitor("/")
        };
        told(&policy, &visitor)
    };
    let shown = || vec![Proof::service_token(token(1))];
    for access in [methods(Vec::new()), methods(vec![token(2), token(1)])] {
        assert!(
            matches!(told(access.clone(), shown()), Told::Permit { principal: Some(who), .. }
            if who.authority() == Proof::SERVICE_TOKEN)
        );
        assert!(matches!(
            told(access, Vec::new()),
            Told::Challenge(Challenge {
                service_token: true,
                signed_in: false,
                ..
            })
        ));
    }
    assert!(matches!(
        told(methods(vec![token(2)]), shown()),
        Told::Deny(Denial::Unqualified)
    ));
    let people = Access::AnyOf(vec![Method::signed_in()]);
    assert!(matches!(
        told(people, shown()),
        Told::Challenge(Challenge { signed_in: true, .. })
    ));
}
