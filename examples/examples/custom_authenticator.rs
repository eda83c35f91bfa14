//! A gateway that proves who visitors are in a way of your own: here by tokens from a list, elsewhere by your
//! single sign-on.
//!
//! ```text
//! cargo run -p kakuremichi-examples --example custom_authenticator -- https://control.example.net GATEWAY-TOKEN DIR
//! ```
//!
//! Services whose policy asks for `signed_in` let in whom the authenticator proves, and nobody else.
#![expect(clippy::print_stdout, reason = "an example says what it does")]

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use kakuremichi_core::auth::{
    Authentication, AuthenticationError, AuthenticationRequest, Authenticator, Credential, Principal,
};
use kakuremichi_examples::{Error, interrupted};
use kakuremichi_tunnel::{ControlLink, Gateway, gateway::GatewayBuilder};

/// Knows people by the tokens that they send as `Authorization: Bearer …`.
#[derive(Debug)]
struct Badges(BTreeMap<&'static str, &'static str>);

impl Badges {
    fn new() -> Self {
        Self(BTreeMap::from([
            ("badge-of-alice", "alice"),
            ("badge-of-bob", "bob"),
        ]))
    }
}

#[async_trait]
impl Authenticator for Badges {
    fn name(&self) -> &'static str {
        "badges"
    }

    async fn authenticate(
        &self,
        request: AuthenticationRequest<'_>,
    ) -> Result<Authentication, AuthenticationError> {
        let Credential::Bearer(token) = request.credential else {
            return Ok(Authentication::NotMine);
        };
        Ok(match self.0.get(token.expose().as_str()) {
            Some(name) => Authentication::Proven(Principal::new(self.name(), *name).into()),
            None => Authentication::Refused,
        })
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, token, dir] = arguments.as_slice() else {
        return Err("usage: custom_authenticator CONTROL-URL GATEWAY-TOKEN DIR".into());
    };
    let gateway = Gateway::builder(ControlLink::new(url, token)).state_dir(dir);
    run(gateway, interrupted()).await
}

/// Runs a gateway that knows badges until `stop` ends.
async fn run(gateway: GatewayBuilder, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let gateway = gateway.authenticator(Badges::new()).spawn().await?;
    println!("serving at {}", gateway.https_address());
    stop.await;
    gateway.shutdown(Duration::from_secs(10)).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::{Router, routing::get};
    use kakuremichi_core::policy::{Access, Method, Policy};
    use kakuremichi_examples::Playground;
    use kakuremichi_tests::{Version, Visitor, client, wait};
    use kakuremichi_tunnel::{Agent, Service};
    use tokio::{net::TcpListener, sync::oneshot};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn only_people_with_a_badge_get_in() {
        let world = Playground::start().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let token = world.gateway_token().await.unwrap();
        let gateway = Gateway::builder(ControlLink::new(world.control_url(), token.expose().as_str()))
            .state_dir(dir.path())
            .https(&address.to_string())
            .wireguard("127.0.0.1:0");
        let (stop, stopped) = oneshot::channel::<()>();
        let example = tokio::spawn(run(gateway, async { drop(stopped.await) }));

        let token = world.agent_token("*.localhost", "1-65535").await.unwrap();
        let agent = Agent::builder(world.control_url(), token.expose().as_str())
            .spawn()
            .await
            .unwrap();
        let policy = Policy {
            rules: Vec::new(),
            access: Access::AnyOf(vec![Method::signed_in()]),
        };
        let listener = agent
            .expose(Service::http("team.localhost").policy(policy))
            .await
            .unwrap();
        let url = format!("https://team.localhost:{}/", address.port());
        let app = Router::new().route("/", get(async || "team only\n"));
        tokio::spawn(async move { axum::serve(listener, app).await });

        let authority = dir.path().join("ca.pem");
        let authority = wait::until("the gateway's authority", || {
            std::fs::read_to_string(&authority).ok()
        });
        let visitor = Visitor::trusting(&[&authority]);
        let ask = async |badge: Option<&str>| {
            let mut request = client::request(http::Method::GET, &url);
            if let Some(badge) = badge {
                request
                    .headers_mut()
                    .insert("authorization", format!("Bearer {badge}").parse().unwrap());
            }
            visitor.send(Version::Http1, request).await
        };
        let page = wait::until_async("alice to get in", async || {
            ask(Some("badge-of-alice"))
                .await
                .ok()
                .filter(|reply| reply.status == 200)
        });
        assert_eq!(page.await.text(), "team only\n");
        assert_eq!(ask(Some("forged")).await.unwrap().status, 401);
        assert_eq!(ask(None).await.unwrap().status, 401);
        drop(stop);
        example.await.unwrap().unwrap();
    }
}
