use kakuremichi_core::{auth::Strength, model::IdentityForm};
use kakuremichi_proto::identity::Signer;
use serde_json::Value;

use super::*;
use crate::keys::NodeKeys;

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn told(names: impl Iterator<Item = String>) -> Introduction {
    let names: Vec<_> = names.collect();
    Introduction {
        subject: "usr_0123456789".to_owned(),
        name: "anna@example.net".to_owned(),
        email: Some("anna@example.net".to_owned()),
        organization: OrganizationId::from_bytes([9; 16]),
        service: ServiceId::from_bytes([1; 16]),
        method: "user".to_owned(),
        strength: Some(Strength::PhishingResistant),
        authenticated: Some(NOW),
        roles: Some(Names::new(["developer"])),
        groups: Some(Names::new(names.iter().map(String::as_str))),
        until: None,
    }
}

fn signed(assertions: &Assertions, told: &Introduction, key: &NodeKeys, now: Timestamp) -> String {
    let host = "h.example".parse().unwrap();
    let signed = assertions.of(told, ("https://control.example", &host), now, |sign| {
        Some(sign(key))
    });
    signed.unwrap().as_str().to_owned()
}

fn claims(assertion: &str) -> Value {
    let claims = assertion.split('.').nth(1).unwrap();
    let claims = data_encoding::BASE64URL_NOPAD.decode(claims.as_bytes()).unwrap();
    serde_json::from_slice(&claims).unwrap()
}

/// Groups without end make no request that the target refuses, and are not left out silently.
#[test]
fn groups_that_do_not_fit_are_left_out_and_it_is_said() {
    let key = NodeKeys::generate().unwrap();
    // The worst of all spellings, too.
    for name in ["group", "\u{1}\u{1}\u{1}", "グループ", "\"\"\"\"", ",,,"] {
        let mut told = told((0..10_000).map(|number| format!("{name}{number}")));
        told.roles.clone_from(&told.groups);
        for field in [&mut told.subject, &mut told.name, &mut told.method] {
            *field = "x".repeat(MAX_NAME);
        }
        let groups = told.groups.clone().unwrap();
        assert!(groups.more && !groups.told.is_empty() && groups.told.len() < 300);
        let assertion = signed(&Assertions::default(), &told, &key, NOW);
        assert!(assertion.len() < 8190, "{}", assertion.len());
        let claims = claims(&assertion);
        assert_eq!(claims["incomplete"], serde_json::json!(["roles", "groups"]));
        assert_eq!(claims["groups"].as_array().unwrap().len(), groups.told.len());
        let fields = Fields::new(&told, IdentityForm::Both, Some(assertion.as_str()));
        assert!(fields.length() <= MAX_FIELDS, "{}", fields.length());
        let mut headers = http::HeaderMap::new();
        fields.write(&mut headers);
        assert_eq!(headers["x-kakuremichi-incomplete"], "roles,groups");
        let written = headers["x-kakuremichi-groups"].to_str().unwrap();
        assert_eq!(written.split(',').count(), groups.told.len());
    }
    let few = told(["a".to_owned(), "b".to_owned()].into_iter());
    let assertion = signed(&Assertions::default(), &few, &key, NOW);
    assert!(claims(&assertion).get("incomplete").is_none());
}

#[test]
fn a_name_cannot_end_its_field_or_its_place_in_a_list() {
    assert_eq!(fields::escape("anna@example.net"), "anna@example.net");
    assert_eq!(fields::escape("a,b%\r\nX: y"), "a%2Cb%25%0D%0AX:%20y");
    assert_eq!(fields::escape("道"), "%E9%81%93");
}

#[test]
fn an_assertion_is_used_for_half_of_its_life_and_never_outlasts_the_session() {
    let (key, assertions) = (NodeKeys::generate().unwrap(), Assertions::default());
    let mut told = told(std::iter::empty());
    let first = signed(&assertions, &told, &key, NOW);
    let at = |seconds| NOW.after(std::time::Duration::from_secs(seconds));
    assert_eq!(signed(&assertions, &told, &key, at(149)), first);
    let second = signed(&assertions, &told, &key, at(150));
    assert_ne!(second, first);
    assert_eq!(claims(&second)["exp"], (at(450).as_millis() / 1000));
    // A clock that was set back makes one of now.
    assert_eq!(
        claims(&signed(&assertions, &told, &key, NOW))["iat"],
        NOW.as_millis() / 1000
    );
    told.until = Some(at(20));
    assert_eq!(
        claims(&signed(&assertions, &told, &key, NOW))["exp"],
        at(20).as_millis() / 1000
    );
}

/// A target that has the set of a key from before finds the new key under another identifier.
#[test]
fn each_key_has_its_identifier() {
    let keys = [NodeKeys::generate().unwrap(), NodeKeys::generate().unwrap()];
    let public = keys
        .each_ref()
        .map(|key| kakuremichi_core::key::SigningKey::from_bytes(*key.public_key().as_bytes()));
    let set: Value = serde_json::from_slice(jwks(&public, false).body()).unwrap();
    for (at, key) in keys.iter().enumerate() {
        let assertion = signed(&Assertions::default(), &told(std::iter::empty()), key, NOW);
        let header = assertion.split('.').next().unwrap();
        let header = data_encoding::BASE64URL_NOPAD.decode(header.as_bytes()).unwrap();
        let header: Value = serde_json::from_slice(&header).unwrap();
        assert_eq!(header["kid"], set["keys"][at]["kid"]);
    }
    assert_ne!(set["keys"][0]["kid"], set["keys"][1]["kid"]);
    assert!(jwks(&public, true).body().is_empty());
}
