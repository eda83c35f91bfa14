//! People who are known, and have to sign in more strongly, or again.

use kakuremichi_core::{
    auth::Strength,
    policy::{Access, Condition, Effect, Method, Requirement, Rule},
    time::Timestamp,
};

use super::{
    signing_in::{BROWSER, Office, anna, cookie, field},
    *,
};
use crate::gateway::{access::wall_clock, testing::local};

/// What a program of a person sends, which shows the person's session.
fn program(session: &str) -> String {
    format!("Accept: application/json\r\nCookie: {session}\r\n")
}

fn policy(strength: Strength, max_age: Option<Duration>) -> Policy {
    let requirement = Requirement {
        strength,
        max_age,
        ..Requirement::default()
    };
    Policy {
        rules: Vec::new(),
        access: Access::AnyOf(vec![Method::SignedIn(requirement)]),
    }
}

/// FEATURES E1: step-up. The deep link is kept, and whoever comes back as strong as that is not asked again.
#[test]
fn who_is_too_weak_steps_up_and_comes_back_to_the_deep_link() {
    local(async {
        let mut office = Office::open().await;
        let session = office.signs_in().await;
        assert!(
            office
                .scene
                .get("/", &program(&session))
                .await
                .starts_with("HTTP/1.1 200 ")
        );
        office.policy = policy(Strength::PhishingResistant, None);
        office.plan(3, Some(anna()));

        // A program is told what would do (RFC 9470), and is not sent away.
        let refused = office.scene.get("/deep?a=b", &program(&session)).await;
        assert!(
            refused.starts_with("HTTP/1.1 401 ") && refused.contains("KKM-G017"),
            "{refused}"
        );
        assert_eq!(
            field(&refused, "www-authenticate"),
            "Bearer realm=\"kakuremichi\", error=\"insufficient_user_authentication\", \
             acr_values=\"phishing-resistant\""
        );
        // Nobody at all is told to sign in.
        let nobody = office.scene.get("/", "Accept: application/json\r\n").await;
        assert!(nobody.contains("KKM-G004"), "{nobody}");

        let lines = format!("{BROWSER}Cookie: {session}\r\n");
        let away = office.scene.get("/deep?a=b", &lines).await;
        assert!(away.starts_with("HTTP/1.1 303 "), "{away}");
        assert!(
            field(&away, "location").ends_with("&strength=phishing-resistant"),
            "{away}"
        );
        let mut ticket = office.ticket(Office::binding(&away));
        ticket.strength = Strength::PhishingResistant;
        let back = office
            .arrives(
                &ticket.seal(&office.control),
                &format!("{session}; {}", cookie(&away)),
            )
            .await;
        assert_eq!(field(&back, "location"), "/deep?a=b");
        let lines = format!("{BROWSER}Cookie: {}\r\n", cookie(&back));
        let answer = office.scene.get("/deep?a=b", &lines).await;
        assert!(
            answer.starts_with("HTTP/1.1 200 ")
                && answer.contains("x-kakuremichi-strength: phishing-resistant\n"),
            "{answer}"
        );
    });
}

/// A session that does not say when the person signed in, or says that it was too long ago, is asked for again; one that
/// gets too old has what is open closed.
#[test]
fn who_signed_in_too_long_ago_confirms_it() {
    local(async {
        let mut office = Office::open().await;
        let old = office.signs_in().await;
        let age = Duration::from_secs(600);
        office.policy = policy(Strength::OneFactor, Some(age));
        office.plan(3, Some(anna()));
        let refused = office.scene.get("/", &program(&old)).await;
        assert!(refused.contains("KKM-G017"), "{refused}");
        assert!(
            field(&refused, "www-authenticate").ends_with(", max_age=\"600\""),
            "{refused}"
        );

        let signs_in = async |ago: i64| {
            let lines = format!("{BROWSER}Cookie: {old}\r\n");
            let away = office.scene.get("/", &lines).await;
            let location = field(&away, "location");
            assert!(
                location.ends_with("&strength=one-factor&max_age=600"),
                "{location}"
            );
            let mut ticket = office.ticket(Office::binding(&away));
            let at = wall_clock().as_millis() - ago * 1000;
            ticket.authenticated = Some(Timestamp::from_millis(at));
            cookie(
                &office
                    .arrives(&ticket.seal(&office.control), &cookie(&away))
                    .await,
            )
        };
        let fresh = signs_in(10).await;
        let answer = office.scene.get("/", &program(&fresh)).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let stale = signs_in(601).await;
        let refused = office.scene.get("/", &program(&stale)).await;
        assert!(
            refused.starts_with("HTTP/1.1 401 ") && refused.contains("KKM-G017"),
            "{refused}"
        );
        // Another plan forgets which sessions were verified, and not when anybody signed in.
        office.plan(4, Some(anna()));
        assert!(
            office
                .scene
                .get("/", &program(&fresh))
                .await
                .starts_with("HTTP/1.1 200 ")
        );
        assert!(office.scene.get("/", &program(&stale)).await.contains("KKM-G017"));
    });
}

/// A rule asks for a stronger sign-in as a method does, whether it allows the strong or denies the weak.
#[test]
fn who_is_too_weak_for_a_rule_steps_up() {
    let strong = || Condition::Strength(Strength::TwoFactors);
    let rule = |when, effect| Rule::new("strong".parse().unwrap(), when, effect);
    let allows = Policy {
        rules: vec![rule(strong(), Effect::Allow)],
        access: Access::Deny,
    };
    let denies = Policy {
        rules: vec![rule(Condition::Not(Box::new(strong())), Effect::Deny)],
        access: Access::AnyOf(vec![Method::signed_in()]),
    };
    for policy in [allows, denies] {
        local(async {
            let mut office = Office::open().await;
            let session = office.signs_in().await;
            office.policy = policy.clone();
            office.plan(3, Some(anna()));
            let refused = office.scene.get("/", &program(&session)).await;
            assert!(
                refused.starts_with("HTTP/1.1 401 ")
                    && field(&refused, "www-authenticate").ends_with("acr_values=\"two-factors\""),
                "{refused}"
            );
            let lines = format!("{BROWSER}Cookie: {session}\r\n");
            let away = office.scene.get("/deep", &lines).await;
            assert!(
                field(&away, "location").ends_with("&strength=two-factors"),
                "{away}"
            );

            let mut ticket = office.ticket(Office::binding(&away));
            ticket.strength = Strength::TwoFactors;
            let attempt = cookie(&away);
            let back = office.arrives(&ticket.seal(&office.control), &attempt).await;
            let lines = format!("{BROWSER}Cookie: {}\r\n", cookie(&back));
            let answer = office.scene.get("/deep", &lines).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        });
    }
}
