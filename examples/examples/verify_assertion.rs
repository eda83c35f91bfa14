//! A target that believes nobody but the gateway: an axum app that verifies `X-Kakuremichi-Assertion`.
//!
//! Header fields such as `X-Kakuremichi-User` are enough where nothing but the agent reaches the target. Where something
//! else does, only the assertion proves who asks. It verifies offline, with keys that every gateway shows at each host:
//!
//! ```text
//! curl -o jwks.json https://HOST/.kakuremichi/jwks.json
//! cargo run -p kakuremichi-examples --example verify_assertion -- 127.0.0.1:8000 CONTROL-URL HOST jwks.json
//! ```
//!
//! Keys follow each other: fetch the set again from time to time, and when an assertion names a key that is not in it.
//! This app reads the file again then.
#![expect(clippy::print_stdout, reason = "an example says what it does")]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Router,
    extract::{FromRef, FromRequestParts},
    http::{StatusCode, request::Parts},
    routing::get,
};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, jwk::JwkSet};
use kakuremichi_examples::{Error, interrupted};
use serde::Deserialize;
use tokio::net::TcpListener;

/// Verifies assertions for one host.
#[derive(Debug)]
struct Verifier {
    keys: PathBuf,
    validation: Validation,
}

/// Who asks, as the gateway says it.
#[derive(Debug, Deserialize)]
struct Caller {
    /// The identifier of a user (`usr_…`) or of a service token (`stk_…`); it stays when an address changes.
    sub: String,
    /// The address, of a user.
    email: Option<String>,
    /// The groups, where something is known of them.
    #[serde(default)]
    groups: Vec<String>,
    /// The lists that are too long to be told whole.
    #[serde(default)]
    incomplete: Vec<String>,
}

impl Verifier {
    /// For `host`, of what Control at `issuer` runs.
    fn new(issuer: &str, host: &str, keys: &Path) -> Self {
        // One algorithm, whatever the assertion says of itself.
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[host]);
        validation.set_required_spec_claims(&["iss", "aud", "sub", "exp"]);
        Self {
            keys: keys.to_owned(),
            validation,
        }
    }

    /// Who an assertion is about; nobody if anything about it is wrong.
    fn verify(&self, assertion: &str) -> Option<Caller> {
        let kid = decode_header(assertion).ok()?.kid?;
        let keys = std::fs::read(&self.keys).ok()?;
        let keys: JwkSet = serde_json::from_slice(&keys).ok()?;
        let key = DecodingKey::from_jwk(keys.find(&kid)?).ok()?;
        let verified = decode::<Caller>(assertion, &key, &self.validation).ok()?;
        Some(verified.claims)
    }
}

impl<S> FromRequestParts<S> for Caller
where
    Arc<Verifier>: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, StatusCode> {
        let mut fields = parts.headers.get_all("x-kakuremichi-assertion").iter();
        // One field and no other: nobody chooses between two.
        let (Some(field), None) = (fields.next(), fields.next()) else {
            return Err(StatusCode::UNAUTHORIZED);
        };
        let verifier = Arc::<Verifier>::from_ref(state);
        let caller = field.to_str().ok().and_then(|text| verifier.verify(text));
        caller.ok_or(StatusCode::UNAUTHORIZED)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, issuer, host, keys] = arguments.as_slice() else {
        return Err("usage: verify_assertion LISTEN CONTROL-URL HOST JWKS-FILE".into());
    };
    let listener = TcpListener::bind(listen).await?;
    println!("serving at {}", listener.local_addr()?);
    let verifier = Verifier::new(issuer, host, Path::new(keys));
    axum::serve(listener, app(verifier))
        .with_graceful_shutdown(interrupted())
        .await?;
    Ok(())
}

fn app(verifier: Verifier) -> Router {
    Router::new()
        .route("/", get(greet))
        .with_state(Arc::new(verifier))
}

async fn greet(caller: Caller) -> String {
    let name = caller.email.as_deref().unwrap_or(&caller.sub);
    let all = if caller.incomplete.is_empty() {
        ""
    } else {
        " and others"
    };
    format!("{name}, in the groups {:?}{all}\n", caller.groups)
}

#[cfg(test)]
mod tests {
    use http::Method;
    use kakuremichi_core::policy::{Access, Method as Proof, Policy};
    use kakuremichi_examples::Playground;
    use kakuremichi_tests::{Version, Visitor, client, wait};
    use kakuremichi_tunnel::{Agent, Service};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_target_believes_the_gateway_and_nobody_else() {
        let world = Playground::start().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("jwks.json");
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = free.local_addr().unwrap();
        let verifier = Verifier::new(&world.control_url(), "proof.localhost", &keys);
        tokio::spawn(async move { axum::serve(free, app(verifier)).await });

        let token = world.agent_token("*.localhost", "1-65535").await.unwrap();
        let agent = Agent::builder(world.control_url(), token.expose().as_str())
            .spawn()
            .await
            .unwrap();
        let policy = Policy {
            rules: Vec::new(),
            access: Access::AnyOf(vec![Proof::ServiceToken { tokens: Vec::new() }]),
        };
        let service = Service::http("proof.localhost").policy(policy);
        let _forwarded = agent.forward(service, &target.to_string()).await.unwrap();
        let (id, secret) = world.service_token().await.unwrap();

        let visitor = Visitor::trusting(&[world.ca()]);
        let port = world.https_address().port();
        let ask = async |path: &str, fields: &[(&'static str, &str)]| {
            let mut asked = client::request(Method::GET, &format!("https://proof.localhost:{port}{path}"));
            for (name, value) in fields {
                asked.headers_mut().insert(*name, value.parse().unwrap());
            }
            visitor.send(Version::Http2, asked).await
        };
        let bearer = format!("Bearer {}", secret.expose());
        let shown = [
            ("authorization", bearer.as_str()),
            ("x-kakuremichi-assertion", "forged"),
        ];
        let refused = wait::until_async("the target to be asked", async || {
            // It has no keys yet. The gateway, which says more, refuses before it knows of the token.
            let reply = ask("/", &shown).await.ok()?;
            (reply.status == 401 && reply.text().is_empty()).then_some(())
        });
        refused.await;
        let set = ask("/.kakuremichi/jwks.json", &[]).await.unwrap();
        std::fs::write(&keys, set.text()).unwrap();
        let page = wait::until_async("the caller to be believed", async || {
            ask("/", &shown).await.ok().filter(|reply| reply.status == 200)
        });
        assert_eq!(page.await.text(), format!("{id}, in the groups []\n"));

        // Whoever goes around the gateway is nobody.
        let mut around = TcpStream::connect(target).await.unwrap();
        let asked = b"GET / HTTP/1.0\r\nX-Kakuremichi-User: root@example.net\r\n\r\n";
        around.write_all(asked).await.unwrap();
        let mut reply = String::new();
        around.read_to_string(&mut reply).await.unwrap();
        assert!(reply.starts_with("HTTP/1.0 401 "), "{reply}");
    }
}
