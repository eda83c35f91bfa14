//! From what a provider says to what Control knows of people.

use std::collections::BTreeSet;

use data_encoding::BASE64URL_NOPAD;
use kakuremichi_core::model::ClaimNames;
use serde_json::{Map, Value};

use crate::service::{UseCaseError, Vouched, parse_email};

/// The most groups that are looked at; the rest gives nothing.
const MAX_GROUPS: usize = 1024;

/// The claims of an ID token that was verified.
pub(super) fn of_verified(id_token: &str) -> Result<Map<String, Value>, UseCaseError> {
    let payload = id_token.split('.').nth(1).unwrap_or_default();
    let bytes = BASE64URL_NOPAD
        .decode(payload.as_bytes())
        .map_err(super::broken)?;
    serde_json::from_slice(&bytes).map_err(super::broken)
}

/// Of whom claims speak.
pub(super) fn vouched(names: &ClaimNames, claims: &Map<String, Value>) -> Result<Vouched, UseCaseError> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let subject = match claims.get(&names.subject) {
        Some(Value::String(subject)) => subject.clone(),
        // GitHub's, and that of others like it.
        Some(Value::Number(number)) if number.is_u64() => number.to_string(),
        _ => {
            return Err(UseCaseError::Provider(
                "the identity provider says no subject: does the claim have another name there?",
            ));
        }
    };
    let email_verified = match claims.get(&names.email_verified) {
        Some(Value::Bool(verified)) => *verified,
        Some(Value::String(verified)) => verified == "true",
        _ => false,
    };
    let groups = match claims.get(&names.groups) {
        Some(Value::Array(groups)) => {
            let groups = groups.iter().take(MAX_GROUPS).filter_map(Value::as_str);
            groups.map(str::to_owned).collect()
        }
        Some(Value::String(group)) => BTreeSet::from([group.clone()]),
        _ => BTreeSet::new(),
    };
    let email = text(&names.email).and_then(|email| parse_email(email).ok());
    Ok(Vouched {
        subject,
        email_verified: email_verified && email.is_some(),
        email,
        name: text(&names.name).and_then(|name| name.parse().ok()),
        groups,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(claims: Value, names: &ClaimNames) -> Result<Vouched, UseCaseError> {
        vouched(names, claims.as_object().unwrap())
    }

    #[test]
    fn claims_have_the_names_that_the_provider_gives_them() {
        let oidc = json!({"sub": "a|1", "email": "Anna@Example.net", "email_verified": true, "name": "Anna",
                          "groups": ["ops", 7, "dev"]});
        let anna = read(oidc, &ClaimNames::default()).unwrap();
        assert_eq!(anna.subject, "a|1");
        assert_eq!(
            anna.email.as_ref().map(|email| email.as_str()),
            Some("anna@example.net")
        );
        assert!(anna.email_verified);
        assert_eq!(anna.groups, ["dev".to_owned(), "ops".to_owned()].into());
        let names = ClaimNames {
            subject: "id".to_owned(),
            groups: "team".to_owned(),
            ..ClaimNames::default()
        };
        let git = json!({"id": 42, "email": null, "email_verified": true, "team": "ops", "name": "\u{202e}"});
        let git = read(git, &names).unwrap();
        assert_eq!(
            (git.subject.as_str(), git.email, git.email_verified),
            ("42", None, false)
        );
        assert_eq!((git.groups, git.name), (["ops".to_owned()].into(), None));
    }

    #[test]
    fn there_is_nobody_without_a_subject() {
        for bad in [
            json!({}),
            json!({"sub": null}),
            json!({"sub": 1.5}),
            json!({"sub": ["a"]}),
            json!({"id": "a"}),
        ] {
            assert!(matches!(
                read(bad, &ClaimNames::default()),
                Err(UseCaseError::Provider(_))
            ));
        }
    }
}
