//! The REST API by the typed client and by the command line, against a Control that runs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use kakuremichi_api::{
    Access, Api, ApiKey, ApiKeyDraft, Condition, Effect, Group, Header, HeaderTest, Method, Named, NodeRole,
    Organization, Policy, Principal, Requirement, Rule, Service, ServiceDraft, ServiceTokens, SharedPolicy,
    SharedPolicyDraft, Site, SiteDraft, Strength, Target, Tcp, TimeWindow, Token, TokenDraft, Weekday,
};
use kakuremichi_tests::deployment::Control;
use kakuremichi_tests::process::Finished;
use kakuremichi_tests::{Families, Network, Program, component, net};
use serde_json::{Value, json};

fn site(name: &str) -> SiteDraft {
    SiteDraft {
        name: name.to_owned(),
        wireguard_key: "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=".to_owned(),
        networks: vec!["10.1.0.0/16".to_owned()],
        endpoint: None,
    }
}

/// A policy with one of each condition.
fn policy() -> SharedPolicyDraft {
    let text = str::to_owned;
    let everything = vec![
        Condition::Any(vec![
            Condition::Path(text("/admin")),
            Condition::Method(text("POST")),
        ]),
        !Condition::Source(text("192.0.2.0/24")),
        Condition::Subject(text("ann")),
        Condition::Header(Header {
            name: text("user-agent"),
            is: HeaderTest::Contains(text("bot")),
        }),
        Condition::Country(text("DE")),
        Condition::Asn(64_496),
        Condition::Time(TimeWindow {
            days: vec![Weekday::Monday, Weekday::Sunday],
            utc_offset_minutes: 60,
            ..TimeWindow::daily("09:00", "18:00")
        }),
        Condition::User(Principal {
            authority: text("user"),
            subject: text("ann"),
        }),
        Condition::Role(text("developer")),
        Condition::Group(text("berlin")),
    ];
    let strong = Condition::Strength(Strength::TwoFactors);
    let requirement = Requirement {
        groups: vec![text("berlin")],
        strength: Strength::PhishingResistant,
        max_age: Some(900),
        ..Requirement::default()
    };
    SharedPolicyDraft {
        name: text("everything"),
        rules: vec![
            Rule {
                dry_run: true,
                ..Rule::new("all", Condition::All(everything), Effect::Deny)
            },
            Rule::new("strong", strong, Effect::Allow),
        ],
        access: Some(Access::AnyOf(vec![
            Method::SignedIn,
            Method::SignedInAs(requirement),
            Method::ServiceToken(ServiceTokens::default()),
        ])),
    }
}

#[test]
fn the_typed_client_does_what_the_api_does() {
    if !component::have(&net::COMPONENTS) {
        return;
    }
    let network = Network::new(Families::Both);
    let directory = tempfile::tempdir().unwrap();
    let control = Control::start(network.host("control"), &directory.path().join("control"));
    control.api(async |api: Api| {
        let office = api.create::<Site>(&site("office")).await.unwrap();
        let tcp = Tcp {
            port: 2222,
            targets: vec![Target::behind_site("office", "10.1.0.1:22")],
            health: None,
        };
        let made = api
            .create::<Service>(&ServiceDraft::tcp("ssh", tcp))
            .await
            .unwrap();
        assert_eq!(made.value.policy, Policy::default());

        // What is put back with the tag that was read is taken; with one that is old, not.
        let mut draft = made.value.draft();
        draft.policy = Policy::public();
        let id = made.value.id;
        let changed = api.replace::<Service>(id, &draft, Some(&made.tag)).await.unwrap();
        assert_eq!(changed.value.policy, Policy::public());
        let late = api.replace::<Service>(id, &draft, Some(&made.tag)).await;
        assert!(late.unwrap_err().is_outdated());
        assert_eq!(api.get::<Service>(id).await.unwrap(), changed);

        // Policies come back as they were described.
        let policy = policy();
        let shared = api.create::<SharedPolicy>(&policy).await.unwrap();
        assert_eq!(shared.value.draft(), policy);
        let policy_id = shared.value.id;
        assert_eq!(api.get::<SharedPolicy>(policy_id).await.unwrap(), shared);
        let again = api
            .replace::<SharedPolicy>(policy_id, &policy, Some(&shared.tag))
            .await;
        assert_eq!(again.unwrap(), shared);
        api.delete::<SharedPolicy>(policy_id).await.unwrap();

        // Lists, parts of lists, filters.
        for name in ["a", "b", "c"] {
            api.create::<Group>(&Named::new(name)).await.unwrap();
        }
        let part = api.list::<Group>(&[("limit", "2")]).await.unwrap();
        assert!(part.items.len() == 2 && part.next_cursor.is_some());
        let all = api.list_all::<Group>(&[("limit", "2")], 100).await.unwrap();
        assert_eq!(all.len(), 3);
        assert_eq!(
            api.list_all::<Group>(&[("limit", "1")], 2).await.unwrap().len(),
            2
        );
        let site = office.value.id.to_string();
        let behind = api
            .list::<Service>(&[("site", &site), ("kind", "tcp")])
            .await
            .unwrap();
        assert_eq!(behind.items, [changed.value]);

        // Secrets are shown once, and not printed.
        let token = api
            .create::<Token>(&TokenDraft::new("t", NodeRole::Agent))
            .await
            .unwrap();
        assert!(token.value.token.expose().starts_with("kkm_enroll_"));
        assert!(!format!("{token:?}").contains("kkm_enroll_"));
        let revoked = api.revoke::<Token>(token.value.view.id).await.unwrap();
        assert!(revoked.value.revoked_at.is_some());
        let key = ApiKeyDraft {
            name: "reader".to_owned(),
            permissions: Some(vec!["services.read".to_owned()]),
            expires_in: Some(60),
        };
        let key = api.create::<ApiKey>(&key).await.unwrap();
        assert_eq!(key.value.view.permissions, ["services.read"]);

        // What is refused says why.
        let wrong = api.create::<Site>(&site_without_key()).await.unwrap_err();
        assert_eq!(wrong.problem().unwrap().errors[0].field, "wireguard_key");
        api.delete::<Service>(id).await.unwrap();
        assert!(api.get::<Service>(id).await.unwrap_err().is_not_found());
        assert_eq!(api.list::<Organization>(&[]).await.unwrap().items.len(), 1);
    });
}

fn site_without_key() -> SiteDraft {
    SiteDraft {
        wireguard_key: "none".to_owned(),
        ..site("other")
    }
}

struct Shell<'a> {
    control: &'a Control,
    authority: &'a Path,
}

impl Shell<'_> {
    fn run(&self, words: &[&str]) -> Finished {
        Program::ours("kakuremichi")
            .args(words)
            .on(self.control.host())
            .env("KAKUREMICHI_CONTROL", self.control.url())
            .env("KAKUREMICHI_API_KEY", self.control.key())
            .env("KAKUREMICHI_CA", self.authority)
            .finish()
    }

    #[track_caller]
    fn says(&self, words: &[&str]) -> String {
        let finished = self.run(words);
        assert!(finished.status.success(), "{words:?}: {}", finished.err);
        finished.out
    }
}

#[test]
fn the_command_line_does_what_the_api_does() {
    if !component::have(&net::COMPONENTS) {
        return;
    }
    let network = Network::new(Families::Both);
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("control");
    let control = Control::start(network.host("control"), &data);
    control.is_known_on(control.host());
    let authority = data.join("ca.pem");
    let shell = Shell {
        control: &control,
        authority: &authority,
    };
    let draft = directory.path().join("site.json");
    let body = json!({"name": "office", "networks": ["10.1.0.0/16"],
        "wireguard_key": "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="});
    fs::write(&draft, body.to_string()).unwrap();
    let draft = draft.to_str().unwrap();

    let made: Value = serde_json::from_str(&shell.says(&["create", "sites", "-f", draft])).unwrap();
    let id = made["id"].as_str().unwrap();
    let table = shell.says(&["list", "sites"]);
    let lines: Vec<_> = table.lines().collect();
    assert!(
        lines.len() == 2 && lines[0].starts_with("ID") && lines[1].contains("office"),
        "{table}"
    );
    assert_eq!(
        shell
            .says(&["list", "sites", "--filter", "search=home"])
            .lines()
            .count(),
        1
    );
    let items: Value = serde_json::from_str(&shell.says(&["list", "sites", "-o", "json"])).unwrap();
    assert_eq!(
        items[0],
        serde_json::from_str::<Value>(&shell.says(&["get", "sites", id])).unwrap()
    );
    let account = shell.says(&["request", "get", "services?kind=tcp"]);
    assert_eq!(
        serde_json::from_str::<Value>(&account).unwrap()["items"],
        json!([])
    );

    // What is refused is said as Control says it, with another status than what is wrong on the command line.
    let again = shell.run(&["create", "sites", "-f", draft]);
    assert!(
        !again.status.success() && again.err.contains("KKM-"),
        "{}",
        again.err
    );
    let wrong = shell.run(&["list", "sites", "--filter", "search"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", wrong.err);
    let other = shell.run(&["delete", "sites", &format!("{id}/..")]);
    assert_eq!(other.status.code(), Some(2), "{}", other.err);
    assert_eq!(shell.says(&["delete", "sites", id]), "");
    assert!(!shell.run(&["get", "sites", id]).status.success());
}
