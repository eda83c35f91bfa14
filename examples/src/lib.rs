//! A small world for the examples: a Control and a gateway on loopback, in this process.
//!
//! The examples themselves need none of this: they are given the URL of a Control and a token. Their tests start
//! a [`Playground`] instead of asking for one.

use std::net::SocketAddr;

use kakuremichi_control::{
    Control, identity_key,
    service::{ServiceTokenDraft, TokenDraft},
};
use kakuremichi_core::{
    id::ServiceTokenId,
    model::{DeclareScope, Role},
    secret::Secret,
    store::MemoryStore,
};
use kakuremichi_tunnel::{ControlLink, Gateway};
use tokio::{net::TcpListener, task::JoinHandle};

/// Whatever goes wrong in an example.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A Control and a gateway. They end when dropped.
#[derive(Debug)]
pub struct Playground {
    control: Control,
    gateway: Gateway,
    server: JoinHandle<()>,
}

impl Playground {
    /// Starts both.
    ///
    /// # Errors
    /// When either cannot start.
    pub async fn start() -> Result<Self, Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let control = Control::builder(MemoryStore::new())
            .public_url(url)
            .identity(identity_key()?.expose())
            .build()?;
        let service = control
            .router()
            .into_make_service_with_connect_info::<SocketAddr>();
        let server = tokio::spawn(async move {
            // It ends with the task.
            let _ = axum::serve(listener, service).await;
        });
        let token = token(&control, Role::Gateway, DeclareScope::default()).await?;
        let link = ControlLink::new(control.public_url().to_string(), token.expose().as_str());
        let gateway = Gateway::builder(link)
            .https("127.0.0.1:0")
            .wireguard("127.0.0.1:0")
            .spawn()
            .await?;
        Ok(Self {
            control,
            gateway,
            server,
        })
    }

    /// Control's URL.
    #[must_use]
    pub fn control_url(&self) -> String {
        self.control.public_url().to_string()
    }

    /// A token for an agent that may declare services at `host`, and TCP and UDP services at `port`.
    ///
    /// # Errors
    /// When `host` or `port` is none.
    pub async fn agent_token(&self, host: &str, port: &str) -> Result<Secret<String>, Error> {
        let declare = DeclareScope {
            hosts: vec![host.parse()?],
            ports: vec![port.parse()?],
        };
        token(&self.control, Role::Agent, declare).await
    }

    /// A token for one more gateway.
    ///
    /// # Errors
    /// When Control refuses it.
    pub async fn gateway_token(&self) -> Result<Secret<String>, Error> {
        token(&self.control, Role::Gateway, DeclareScope::default()).await
    }

    /// A service token of the organization: its identifier, and its text.
    ///
    /// # Errors
    /// When Control refuses it.
    pub async fn service_token(&self) -> Result<(ServiceTokenId, Secret<String>), Error> {
        let us = self.control.use_cases().control().await?;
        let draft = ServiceTokenDraft {
            name: "example".parse()?,
            expires: None,
        };
        let made = self.control.use_cases().create_service_token(&us, draft).await?;
        Ok((made.token.value.id, made.text))
    }

    /// Where the gateway serves visitors.
    #[must_use]
    pub fn https_address(&self) -> SocketAddr {
        self.gateway.https_address()
    }

    /// The certificate, in PEM, that visitors have to trust.
    #[must_use]
    pub fn ca(&self) -> &str {
        self.gateway.ca_certificate().unwrap_or_default()
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Ends when the user presses ctrl-C.
pub async fn interrupted() {
    // Without a handler for the signal it ends the process, which will do too.
    let _ = tokio::signal::ctrl_c().await;
}

/// Makes a token for one node.
///
/// # Errors
/// When Control refuses it.
pub async fn token(control: &Control, role: Role, declare: DeclareScope) -> Result<Secret<String>, Error> {
    let us = control.use_cases().control().await?;
    let draft = TokenDraft {
        name: "example".parse()?,
        role,
        uses: Some(1),
        expires: None,
        declare,
        approval: false,
        labels: Default::default(),
    };
    Ok(control.use_cases().create_token(&us, draft).await?.text)
}

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
