//! Control, a gateway and an agent in one program, of which each could be on a machine of its own.
//!
//! ```text
//! cargo run -p kakuremichi-examples --example all_in_one
//! ```
#![expect(clippy::print_stdout, reason = "an example says what it does")]

use std::{net::SocketAddr, time::Duration};

use axum::{Router, routing::get};
use kakuremichi_control::{Control, identity_key};
use kakuremichi_core::{
    model::{DeclareScope, Role},
    store::MemoryStore,
};
use kakuremichi_examples::{Error, interrupted, token};
use kakuremichi_tunnel::{Agent, ControlLink, Gateway, Service, agent::TunnelListener};
use tokio::net::TcpListener;

/// Everything that runs.
struct World {
    control: Control,
    gateway: Gateway,
    agent: Agent,
    listener: TunnelListener,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let world = start("127.0.0.1:0", "127.0.0.1:8443").await?;
    println!("hello at {}", world.listener.url());
    if let Some(ca) = world.gateway.ca_certificate() {
        println!("trust this certificate:\n{ca}");
    }
    world.serve(interrupted()).await
}

impl World {
    /// Serves visitors until `stop` ends.
    async fn serve(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), Error> {
        axum::serve(self.listener, app())
            .with_graceful_shutdown(stop)
            .await?;
        let grace = Duration::from_secs(5);
        self.gateway.shutdown(grace).await;
        self.agent.shutdown(grace).await;
        self.control.shutdown(grace).await;
        Ok(())
    }
}

fn app() -> Router {
    Router::new().route("/", get(async || "hello\n"))
}

async fn start(control_address: &str, https: &str) -> Result<World, Error> {
    // Control: in earnest it has a file for its database, a kept identity and TLS.
    let socket = TcpListener::bind(control_address).await?;
    let url = format!("http://{}", socket.local_addr()?);
    let control = Control::builder(MemoryStore::new())
        .public_url(&url)
        .identity(identity_key()?.expose())
        .build()?;
    let router = control
        .router()
        .into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(socket, router).await });

    // A gateway, which enrols with a token.
    let gateway_token = token(&control, Role::Gateway, DeclareScope::default()).await?;
    let gateway = Gateway::builder(ControlLink::new(&url, gateway_token.expose().as_str()))
        .https(https)
        .wireguard("127.0.0.1:0")
        .spawn()
        .await?;

    // An agent, whose token lets it publish at one host.
    let scope = DeclareScope {
        hosts: vec!["hello.localhost".parse()?],
        ports: Vec::new(),
    };
    let agent_token = token(&control, Role::Agent, scope).await?;
    let agent = Agent::builder(&url, agent_token.expose().as_str())
        .spawn()
        .await?;
    let listener = agent.expose(Service::http("hello.localhost").public()).await?;
    Ok(World {
        control,
        gateway,
        agent,
        listener,
    })
}

#[cfg(test)]
mod tests {
    use kakuremichi_tests::{Visitor, wait};
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_visitor_reaches_the_page() {
        let world = start("127.0.0.1:0", "127.0.0.1:0").await.unwrap();
        let visitor = Visitor::trusting(&[world.gateway.ca_certificate().unwrap()]);
        let url = format!(
            "https://hello.localhost:{}/",
            world.gateway.https_address().port()
        );
        let (stop, stopped) = oneshot::channel::<()>();
        let example = tokio::spawn(world.serve(async { drop(stopped.await) }));
        let page = wait::until_async("the page", async || {
            visitor.get(&url).await.ok().filter(|page| page.status == 200)
        });
        assert_eq!(page.await.text(), "hello\n");
        drop(stop);
        example.await.unwrap().unwrap();
    }
}
