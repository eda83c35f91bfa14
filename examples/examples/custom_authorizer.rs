//! A gateway with a second opinion of your own: policies written in Cedar, the language of Amazon Verified Permissions,
//! are asked about whomever Control's policy lets in.
//!
//! ```text
//! cargo run -p kakuremichi-examples --example custom_authorizer -- https://control.example.net GATEWAY-TOKEN DIR
//! ```
//!
//! An authorizer can only take away: whom the policy denies is not asked about. An error is an objection.
#![expect(clippy::print_stdout, reason = "an example says what it does")]

use std::time::Duration;

use async_trait::async_trait;
use cedar_policy::{
    Authorizer as Cedar, Context, Decision, Entities, EntityId, EntityUid, PolicySet, Request,
    RestrictedExpression,
};
use kakuremichi_core::auth::{AuthorizationError, AuthorizationRequest, Authorizer};
use kakuremichi_examples::{Error, interrupted};
use kakuremichi_tunnel::{ControlLink, Gateway, gateway::GatewayBuilder};

/// Everybody may read; editors may do anything, from this machine or from the office's network.
const POLICIES: &str = r#"
    permit (principal, action == Action::"GET", resource);
    permit (principal in Group::"editors", action, resource) when {
        context.address.isLoopback() || context.address.isInRange(ip("192.0.2.0/24"))
    };
    forbid (principal, action, resource) when { context.path like "/internal/*" };
"#;

/// Who is in which group. A real one would be read from a directory, again and again.
const PEOPLE: &str = r#"[
    { "uid": { "type": "Visitor", "id": "alice" }, "attrs": {}, "parents": [{ "type": "Group", "id": "editors" }] }
]"#;

/// Decides by policies in Cedar.
#[derive(Debug)]
struct Policies {
    policies: PolicySet,
    people: Entities,
}

impl Policies {
    fn new() -> Result<Self, Error> {
        Ok(Self {
            policies: POLICIES.parse()?,
            people: Entities::from_json_str(PEOPLE, None)?,
        })
    }

    fn decide(&self, asked: &AuthorizationRequest<'_>) -> Result<bool, Error> {
        let visitor = asked.principal.map_or("nobody", |principal| principal.subject());
        let (method, path) = match asked.request {
            Some(request) => (request.method(), request.path()),
            // A connection to a TCP service, or a session at a UDP service.
            None => ("CONNECT", ""),
        };
        let context = [
            ("address", RestrictedExpression::new_ip(asked.source.to_string())),
            ("path", RestrictedExpression::new_string(path.to_owned())),
        ];
        let context = context.map(|(name, value)| (name.to_owned(), value));
        let request = Request::new(
            entity("Visitor", visitor)?,
            entity("Action", method)?,
            entity("Service", &asked.subject.service.to_string())?,
            Context::from_pairs(context)?,
            None,
        )?;
        let answer = Cedar::new().is_authorized(&request, &self.policies, &self.people);
        // A policy that could not be evaluated may be one that forbids.
        if let Some(error) = answer.diagnostics().errors().next() {
            return Err(error.to_string().into());
        }
        Ok(answer.decision() == Decision::Allow)
    }
}

fn entity(kind: &str, id: &str) -> Result<EntityUid, Error> {
    Ok(EntityUid::from_type_name_and_id(kind.parse()?, EntityId::new(id)))
}

#[async_trait]
impl Authorizer for Policies {
    async fn authorize(&self, request: AuthorizationRequest<'_>) -> Result<bool, AuthorizationError> {
        self.decide(&request).map_err(AuthorizationError)
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, token, dir] = arguments.as_slice() else {
        return Err("usage: custom_authorizer CONTROL-URL GATEWAY-TOKEN DIR".into());
    };
    let gateway = Gateway::builder(ControlLink::new(url, token)).state_dir(dir);
    run(gateway, interrupted()).await
}

/// Runs a gateway that asks the policies until `stop` ends.
async fn run(gateway: GatewayBuilder, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let gateway = gateway.authorizer(Policies::new()?).spawn().await?;
    println!("serving at {}", gateway.https_address());
    stop.await;
    gateway.shutdown(Duration::from_secs(10)).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::{Router, routing::any};
    use http::Method;
    use kakuremichi_core::{auth::Principal, id::ServiceId, policy::Subject, request::CanonicalRequest};
    use kakuremichi_examples::Playground;
    use kakuremichi_tests::{Version, Visitor, client, wait};
    use kakuremichi_tunnel::{Agent, Service};
    use tokio::{net::TcpListener, sync::oneshot};

    use super::*;

    #[test]
    fn groups_addresses_and_paths_decide() {
        let policies = Policies::new().unwrap();
        let may = |name: &str, from: &str, method: &str, path: &str| {
            let (principal, request) = (
                Principal::new("test", name),
                CanonicalRequest::parse(method, "team.example.net", path).unwrap(),
            );
            let subject = Subject {
                service: ServiceId::from_bytes([1; 16]),
                route: None,
            };
            let asked =
                AuthorizationRequest::new(from.parse().unwrap(), Some(&principal), subject, Some(&request));
            policies.decide(&asked).unwrap()
        };
        assert!(may("bob", "203.0.113.1", "GET", "/"));
        assert!(!may("bob", "192.0.2.1", "DELETE", "/"));
        assert!(may("alice", "192.0.2.1", "DELETE", "/"));
        assert!(!may("alice", "203.0.113.1", "DELETE", "/"));
        assert!(!may("alice", "192.0.2.1", "GET", "/internal/keys"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn cedar_objects_to_what_the_policy_permits() {
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
        let listener = agent
            .expose(Service::http("team.localhost").public())
            .await
            .unwrap();
        let app = Router::new().fallback(any(async || "served\n"));
        tokio::spawn(async move { axum::serve(listener, app).await });

        let authority = dir.path().join("ca.pem");
        let authority = wait::until("the gateway's authority", || {
            std::fs::read_to_string(&authority).ok()
        });
        let visitor = Visitor::trusting(&[&authority]);
        let ask = async |method: Method, path: &str| {
            let url = format!("https://team.localhost:{}{path}", address.port());
            visitor.send(Version::Http1, client::request(method, &url)).await
        };
        let page = wait::until_async("the page", async || {
            ask(Method::GET, "/")
                .await
                .ok()
                .filter(|reply| reply.status == 200)
        });
        assert_eq!(page.await.text(), "served\n");
        // Nobody has proven to be an editor.
        assert_eq!(ask(Method::DELETE, "/").await.unwrap().status, 403);
        assert_eq!(ask(Method::GET, "/internal/keys").await.unwrap().status, 403);
        drop(stop);
        example.await.unwrap().unwrap();
    }
}
