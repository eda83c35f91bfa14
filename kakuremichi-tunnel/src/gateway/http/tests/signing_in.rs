//! Browsers that are sent to Control and come back, with a stand-in for Control that signs tickets.

use data_encoding::BASE64URL_NOPAD;
use kakuremichi_core::{
    auth::Strength,
    id::{GatewayId, OrganizationId, ServiceId, SessionId, UserId},
    key::SigningKey,
    model::IdentityForm,
    plan::{GatewayMember, GatewayNode, GatewayService, GatewaySignIn, GatewaySigner, PlannedKind},
    policy::{Access, Method, Requirement},
    time::Timestamp,
};
use kakuremichi_proto::{identity::Signer as _, sign_in::Ticket};

use super::*;
use crate::{
    gateway::{access::wall_clock, testing::local},
    keys::NodeKeys,
};

pub(super) const BROWSER: &str =
    "Accept: text/html\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n";
pub(super) const ORGANIZATION: OrganizationId = OrganizationId::from_bytes([9; 16]);

/// A gateway with a service for people who signed in, and who signs tickets.
pub(super) struct Office {
    pub(super) scene: Scene,
    pub(super) control: NodeKeys,
    pub(super) policy: Policy,
    pub(super) identity: IdentityForm,
}

impl Office {
    pub(super) async fn open() -> Self {
        let requirement = Requirement {
            roles: vec!["developer".parse().unwrap()],
            ..Requirement::default()
        };
        let policy = Policy {
            rules: Vec::new(),
            access: Access::AnyOf(vec![Method::SignedIn(requirement)]),
        };
        let office = Self {
            scene: Scene::new(1),
            control: NodeKeys::generate().unwrap(),
            policy,
            identity: IdentityForm::default(),
        };
        office.scene.online(1, serve_target(echo).await);
        office.plan(2, Some(anna()));
        office
    }

    pub(super) fn plan(&self, revision: u64, member: Option<GatewayMember>) {
        let id = GatewayId::from_bytes([3; 16]);
        let node = GatewayNode {
            id,
            organization: ORGANIZATION,
            name: "gateway".parse().unwrap(),
            address: "fd00::1".parse().unwrap(),
            address_v4: "100.64.0.1".parse().unwrap(),
        };
        let sign_in = GatewaySignIn {
            control: "https://control.example:7443/km".to_owned(),
            keys: vec![SigningKey::from_bytes(*self.control.public_key().as_bytes())],
        };
        let signer = GatewaySigner {
            id,
            keys: self.scene.serving.sign_in.public_keys(),
        };
        let mut service = Scene::service(self.policy.clone(), 1);
        if let GatewayRecord::Service(GatewayService {
            kind: PlannedKind::Http { identity, .. },
            ..
        }) = &mut service
        {
            *identity = self.identity;
        }
        let records = [
            GatewayRecord::Node(node),
            GatewayRecord::SignIn(sign_in),
            GatewayRecord::Signer(signer),
            service,
        ];
        let member = member.map(GatewayRecord::Member);
        self.scene
            .serving
            .apply(&plan(revision, records.into_iter().chain(member)));
    }

    pub(super) fn ticket(&self, binding: [u8; 32]) -> Ticket {
        let now = wall_clock();
        Ticket {
            id: crate::keys::random().unwrap(),
            service: ServiceId::from_bytes([1; 16]),
            host: HOST.parse().unwrap(),
            binding,
            user: anna().user,
            session: SessionId::from_bytes([2; 16]),
            session_expires: now.after(Duration::from_secs(3600)),
            strength: Strength::OneFactor,
            authenticated: None,
            made: now,
        }
    }

    /// Goes to a page without a session. Returns the binding and the cookie of the attempt.
    async fn sent_away(&self, path: &str) -> ([u8; 32], String) {
        let answer = self.scene.get(path, BROWSER).await;
        assert!(answer.starts_with("HTTP/1.1 303 "), "{answer}");
        let location = field(&answer, "location");
        let query = location
            .strip_prefix("https://control.example:7443/km/sign-in/service?service=")
            .unwrap();
        assert!(
            query.contains("&host=h.example&port=443&binding=") && query.ends_with("&strength=one-factor")
        );
        (Self::binding(&answer), cookie(&answer))
    }

    /// What a browser that is sent away is known by.
    pub(super) fn binding(answer: &str) -> [u8; 32] {
        let location = field(answer, "location");
        let binding = location.split("&binding=").nth(1).unwrap();
        let binding = binding.split('&').next().unwrap();
        let binding = BASE64URL_NOPAD.decode(binding.as_bytes()).unwrap();
        binding.try_into().unwrap()
    }

    pub(super) async fn arrives(&self, ticket: &str, cookie: &str) -> String {
        let path = format!("/.kakuremichi/signed-in?ticket={ticket}");
        self.scene.get(&path, &format!("Cookie: {cookie}\r\n")).await
    }

    /// Signs in. Returns the session's cookie.
    pub(super) async fn signs_in(&self) -> String {
        let (binding, attempt) = self.sent_away("/").await;
        cookie(
            &self
                .arrives(&self.ticket(binding).seal(&self.control), &attempt)
                .await,
        )
    }
}

pub(super) fn anna() -> GatewayMember {
    GatewayMember {
        organization: ORGANIZATION,
        user: UserId::from_bytes([7; 16]),
        email: "anna@example.net".parse().unwrap(),
        roles: vec!["developer".parse().unwrap()],
        groups: Vec::new(),
        tickets_since: Timestamp::default(),
        ended: Vec::new(),
    }
}

/// The value of the first field of this name.
pub(super) fn field(answer: &str, name: &str) -> String {
    let prefix = format!("{name}: ");
    let line = answer.lines().find_map(|line| line.strip_prefix(prefix.as_str()));
    line.unwrap_or_else(|| panic!("no {name} in {answer}")).to_owned()
}

/// The first cookie that an answer sets, as the browser shows it.
pub(super) fn cookie(answer: &str) -> String {
    field(answer, "set-cookie").split(';').next().unwrap().to_owned()
}

#[test]
fn whoever_signs_in_comes_back_to_where_they_wanted() {
    local(async {
        let office = Office::open().await;
        let (binding, attempt) = office.sent_away("/deep/link?a=b").await;
        let answer = office
            .arrives(&office.ticket(binding).seal(&office.control), &attempt)
            .await;
        assert!(answer.starts_with("HTTP/1.1 303 "), "{answer}");
        assert_eq!(field(&answer, "location"), "/deep/link?a=b");
        assert_eq!(field(&answer, "referrer-policy"), "no-referrer");
        let session = cookie(&answer);
        let lines = format!("{BROWSER}Cookie: theirs=1; {session}\r\n");
        let answer = office.scene.get("/deep/link?a=b", &lines).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        // The target sees its own cookies only.
        assert!(
            answer.contains("cookie: theirs=1\n") && !answer.contains("__Host-kkm"),
            "{answer}"
        );
        assert_eq!(office.scene.serving.counters.signed_in.get(), 1);
    });
}

/// LESSONS, advisory 12: login tickets are single-use, bound to the browser and to the host.
#[test]
fn a_ticket_is_good_once_and_in_its_browser() {
    local(async {
        let office = Office::open().await;
        let (binding, attempt) = office.sent_away("/").await;
        let text = office.ticket(binding).seal(&office.control);
        let (_, other) = office.sent_away("/").await;
        for wrong in ["", &other] {
            let answer = office.arrives(&text, wrong).await;
            assert!(
                answer.starts_with("HTTP/1.1 400 ") && answer.contains("KKM-G015"),
                "{answer}"
            );
        }
        let mut elsewhere = office.ticket(binding);
        elsewhere.host = "other.example".parse().unwrap();
        let mut another = office.ticket(binding);
        another.service = ServiceId::from_bytes([5; 16]);
        let stranger = office.ticket(binding).seal(&NodeKeys::generate().unwrap());
        let control = &office.control;
        for wrong in [
            elsewhere.seal(control),
            another.seal(control),
            stranger,
            "x".to_owned(),
        ] {
            assert!(
                office
                    .arrives(&wrong, &attempt)
                    .await
                    .starts_with("HTTP/1.1 400 ")
            );
        }
        assert!(office.arrives(&text, &attempt).await.starts_with("HTTP/1.1 303 "));
        assert!(office.arrives(&text, &attempt).await.starts_with("HTTP/1.1 400 "));
    });
}

/// A program is told that it is not let in, and is not sent to a page.
#[test]
fn programs_get_401_and_are_not_sent_away() {
    local(async {
        let office = Office::open().await;
        let fetch = "Accept: text/html\r\nSec-Fetch-Mode: cors\r\n";
        let frame = "Accept: text/html\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\n";
        for lines in ["Accept: application/json\r\n", "", fetch, frame] {
            let answer = office.scene.get("/", lines).await;
            assert!(
                answer.starts_with("HTTP/1.1 401 ") && !answer.contains("set-cookie"),
                "{answer}"
            );
        }
        let post = format!(
            "POST / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Length: 0\r\n{BROWSER}\r\n"
        );
        assert!(
            office
                .scene
                .raw(post.as_bytes())
                .await
                .starts_with("HTTP/1.1 401 ")
        );
    });
}

#[test]
fn who_the_plan_no_longer_has_is_nobody_and_whoever_lost_a_role_is_denied() {
    local(async {
        let office = Office::open().await;
        let lines = format!("{BROWSER}Cookie: {}\r\n", office.signs_in().await);
        assert!(office.scene.get("/", &lines).await.starts_with("HTTP/1.1 200 "));
        let mut demoted = anna();
        demoted.roles = vec!["guest".parse().unwrap()];
        office.plan(3, Some(demoted));
        // No loop: signing in again would not help.
        assert!(office.scene.get("/", &lines).await.starts_with("HTTP/1.1 403 "));
        office.plan(4, Some(anna()));
        assert!(office.scene.get("/", &lines).await.starts_with("HTTP/1.1 200 "));
        let mut ended = anna();
        ended.ended.push(SessionId::from_bytes([2; 16]));
        office.plan(5, Some(ended));
        assert!(office.scene.get("/", &lines).await.starts_with("HTTP/1.1 303 "));
        office.plan(6, None);
        assert!(office.scene.get("/", &lines).await.starts_with("HTTP/1.1 303 "));
        // And whoever it does not know yet is not sent round and round.
        let (binding, attempt) = office.sent_away("/").await;
        let answer = office
            .arrives(&office.ticket(binding).seal(&office.control), &attempt)
            .await;
        assert!(
            answer.starts_with("HTTP/1.1 503 ") && answer.contains("KKM-G016"),
            "{answer}"
        );
    });
}

#[test]
fn a_visitor_signs_out_by_a_form_of_the_host() {
    local(async {
        let office = Office::open().await;
        let asked = office.scene.get("/.kakuremichi/sign-out", BROWSER).await;
        assert!(asked.contains("<form method=\"post\" action=\"/.kakuremichi/sign-out\">"));
        let post = |lines: &str| {
            let request = format!(
                "POST /.kakuremichi/sign-out HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Length: 0\r\n{lines}\r\n"
            );
            let scene = &office.scene;
            async move { scene.raw(request.as_bytes()).await }
        };
        let out = post("Sec-Fetch-Site: same-origin\r\n").await;
        assert!(
            out.starts_with("HTTP/1.1 200 ")
                && field(&out, "set-cookie").starts_with("__Host-kkm-session=; Max-Age=0;")
        );
        assert!(
            post("Origin: https://h.example\r\n")
                .await
                .starts_with("HTTP/1.1 200 ")
        );
        for foreign in [
            "Sec-Fetch-Site: cross-site\r\n",
            "Origin: https://evil.example\r\n",
            "",
        ] {
            assert!(post(foreign).await.starts_with("HTTP/1.1 403 "));
        }
        // Nothing else below the reserved path reaches a target.
        assert!(
            office
                .scene
                .get("/.kakuremichi/x", "")
                .await
                .starts_with("HTTP/1.1 404 ")
        );
    });
}

/// A forged session counts as a wrong credential, so that nobody keeps the gateway verifying.
#[test]
fn forged_sessions_are_throttled() {
    local(async {
        let office = Office::open().await;
        let session = office.signs_in().await;
        let known = format!("Cookie: {session}\r\n");
        assert!(office.scene.get("/", &known).await.starts_with("HTTP/1.1 200 "));
        let mut forged = session.clone().into_bytes();
        let at = forged.len() - 10;
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        let lines = format!("Cookie: {}\r\n", String::from_utf8(forged).unwrap());
        let mut last = String::new();
        for _ in 0..12 {
            last = office.scene.get("/", &lines).await;
        }
        assert!(last.starts_with("HTTP/1.1 429 "), "{last}");
        // Whoever was known before goes on, from the same address.
        assert!(office.scene.get("/", &known).await.starts_with("HTTP/1.1 200 "));
    });
}
