//! The assertion: what the fields say, as a JSON Web Token (RFC 7519) with an Ed25519 signature (RFC 8037).
//!
//! It is for one host, for a few minutes. Signing takes longer than anything else that is done for a request, so one
//! assertion serves all requests of a visitor for half of its life, under the plan that it was made under.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use data_encoding::BASE64URL_NOPAD;
use kakuremichi_core::{auth::Strength, key::SigningKey, name::Hostname, time::Timestamp};
use kakuremichi_proto::{
    identity::{Signer, sha256},
    sign_in::key_id,
};
use rustc_hash::FxHashMap;
use serde_json::{Map, Value, json};

use super::{Introduction, Names, jwks::write_key_id};

/// How long an assertion is good.
pub(crate) const ASSERTION_LIFE: Duration = Duration::from_secs(5 * 60);
/// How long it is used: as much of its life is left to a target that gets it last, and to clocks that differ.
const USED: Duration = Duration::from_secs(150);
/// The assertions that are kept, so that a request costs no signature. Beyond, all are made anew.
const KEPT: usize = 16_384;

/// Assertions that were made under one plan.
#[derive(Debug, Default)]
pub(crate) struct Assertions(Mutex<FxHashMap<[u8; 32], (Signed, Timestamp)>>);

/// An assertion, as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signed(Arc<str>);

impl Signed {
    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Assertions {
    /// The assertion about a visitor for `host`, which `sign` makes with a key unless it is there.
    pub(crate) fn of(
        &self,
        told: &Introduction,
        (issuer, host): (&str, &Hostname),
        now: Timestamp,
        sign: impl FnOnce(&dyn Fn(&dyn Signer) -> Signed) -> Option<Signed>,
    ) -> Option<Signed> {
        let claims = claims(told, issuer, host);
        let until = told.until.map_or(i64::MAX, Timestamp::as_millis);
        let mut name = Value::Object(claims.clone()).to_string().into_bytes();
        name.extend(until.to_be_bytes());
        let name = sha256(&name);
        if let Some((kept, made)) = self.lock().get(&name)
            && *made <= now
            && now < made.after(USED)
        {
            return Some(kept.clone());
        }
        let signed = sign(&|key| write(claims.clone(), now, until, key))?;
        let mut kept = self.lock();
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(name, (signed.clone(), now));
        Some(signed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, FxHashMap<[u8; 32], (Signed, Timestamp)>> {
        // Nothing that is done under the lock panics half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything but the times.
fn claims(told: &Introduction, issuer: &str, host: &Hostname) -> Map<String, Value> {
    let list = |names: &Names| json!(names.told);
    let incomplete = Some(told.incomplete()).filter(|lists| !lists.is_empty());
    let claims = [
        ("iss", Some(json!(issuer))),
        ("aud", Some(json!(host.as_str()))),
        ("sub", Some(json!(told.subject))),
        ("email", told.email.as_ref().map(|email| json!(email))),
        ("name", Some(json!(told.name))),
        ("organization", Some(json!(told.organization.to_string()))),
        ("service", Some(json!(told.service.to_string()))),
        ("method", Some(json!(told.method))),
        ("roles", told.roles.as_ref().map(list)),
        ("groups", told.groups.as_ref().map(list)),
        ("acr", told.strength.map(|strength| json!(strength.as_str()))),
        (
            "auth_time",
            told.authenticated
                .map(|at| json!(at.as_millis().div_euclid(1000))),
        ),
        ("amr", told.strength.and_then(methods)),
        ("incomplete", incomplete.map(|lists| json!(lists))),
    ];
    let claims = claims.into_iter();
    claims
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
}

/// The methods that a strength stands for (RFC 8176); which one factor it was is not known.
fn methods(strength: Strength) -> Option<Value> {
    match strength {
        Strength::OneFactor => None,
        Strength::TwoFactors => Some(json!(["mfa"])),
        Strength::PhishingResistant => Some(json!(["mfa", "pop"])),
    }
}

fn write(mut claims: Map<String, Value>, now: Timestamp, until: i64, key: &dyn Signer) -> Signed {
    let seconds = |at: i64| json!(at.div_euclid(1000));
    let expires = now.after(ASSERTION_LIFE).as_millis().min(until);
    claims.insert("iat".to_owned(), seconds(now.as_millis()));
    claims.insert("exp".to_owned(), seconds(expires));
    let public = SigningKey::from_bytes(*key.public_key().as_bytes());
    let header = json!({ "alg": "EdDSA", "kid": write_key_id(&key_id(&public)), "typ": "JWT" });
    let part = |value: String| BASE64URL_NOPAD.encode(value.as_bytes());
    let signed = format!(
        "{}.{}",
        part(header.to_string()),
        part(Value::Object(claims).to_string())
    );
    let signature = BASE64URL_NOPAD.encode(&key.sign(signed.as_bytes()).0);
    Signed(format!("{signed}.{signature}").into())
}
