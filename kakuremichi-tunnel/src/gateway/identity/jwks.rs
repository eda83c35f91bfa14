//! The keys that assertions verify with, as a JSON Web Key Set (RFC 7517; RFC 8037 for Ed25519).

use bytes::Bytes;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use http::{HeaderValue, Response, header};
use kakuremichi_core::key::{SigningKey, SigningKeyId};
use kakuremichi_proto::sign_in::key_id;
use serde_json::{Value, json};

/// Where the keys are, at every host that has a service.
pub(crate) const JWKS_PATH: &str = "/.kakuremichi/jwks.json";
/// How long a target may keep the set. A key is in it well before it signs, and until all that it signed is over.
const CACHE: HeaderValue = HeaderValue::from_static("public, max-age=300");
const KIND: HeaderValue = HeaderValue::from_static("application/jwk-set+json");

/// The set of these keys. It is for everybody: there is nothing secret in it.
pub(crate) fn jwks(keys: &[SigningKey], head: bool) -> Response<Bytes> {
    let keys: Vec<_> = keys.iter().map(jwk).collect();
    let text = json!({ "keys": keys }).to_string();
    let length = text.len();
    let mut response = Response::new(if head { Bytes::new() } else { text.into() });
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, KIND);
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(header::CACHE_CONTROL, CACHE);
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

fn jwk(key: &SigningKey) -> Value {
    json!({
        "kty": "OKP",
        "crv": "Ed25519",
        "alg": "EdDSA",
        "use": "sig",
        "kid": write_key_id(&key_id(key)),
        "x": BASE64URL_NOPAD.encode(key.as_bytes()),
    })
}

/// The `kid` of a key.
pub(super) fn write_key_id(id: &SigningKeyId) -> String {
    HEXLOWER.encode(id)
}
