//! The link to Control: what it is made of, and how it begins.

#![expect(clippy::disallowed_methods, reason = "the session is told when it begins")]

use std::{fmt, sync::Arc, time::Instant};

use kakuremichi_core::{id::NodeId, model::Role, secret::Secret};
use kakuremichi_proto::{
    capability::Capabilities,
    identity::TokenText,
    plan::WirePlan,
    session::{Client, ClientConfig, Credential, OwnKeys, UsageQueue},
};
use rustls::{RootCertStore, crypto::CryptoProvider};

use super::{
    ControlUrl, EgressProxy, NodeRecord, PlanSource, SetupError, SourceFuture, Supply,
    driver::{Driver, Known},
    tls::Trust,
};
use crate::{
    crypto,
    keys::{self, RingVerifier},
    state::{Enrolment, StateDir, StateError},
};

/// A Control, by its URL, and the token to enrol with.
///
/// The token counts once: from then on the node is known by the keys in its state directory. What is
/// wrong with the two texts is said when the node is spawned.
///
/// Control's certificate is verified by the system's roots, or, when the token says so, by the CA of
/// Control's own whose fingerprint it carries; and whoever holds the certificate, Control then proves the
/// identity that the token pins, before the token's secret is sent.
#[derive(Clone)]
pub struct ControlLink {
    url: String,
    token: Secret<String>,
    roots: Option<Arc<RootCertStore>>,
    provider: Option<Arc<CryptoProvider>>,
    egress: Option<EgressProxy>,
}

impl ControlLink {
    /// The Control at `url`, `https://control.example.net`; `http://` is for this machine only. The
    /// token may be empty for a node that has enrolled.
    #[must_use]
    pub fn new(url: impl Into<String>, token: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            token: Secret::new(token.into()),
            roots: None,
            provider: None,
            egress: None,
        }
    }

    /// Verifies Control's certificate by these roots instead of the system's.
    #[must_use]
    pub fn roots(mut self, roots: RootCertStore) -> Self {
        self.roots = Some(Arc::new(roots));
        self
    }

    /// The cryptography for TLS; without, what
    /// [`crypto::default_provider`](crate::crypto::default_provider) says. It is used for this link, and not installed
    /// process-wide.
    #[must_use]
    pub fn crypto_provider(mut self, provider: Arc<CryptoProvider>) -> Self {
        self.provider = Some(provider);
        self
    }

    /// Reaches Control through a proxy. A Control on this machine is reached without it.
    #[must_use]
    pub fn egress_proxy(mut self, proxy: EgressProxy) -> Self {
        self.egress = Some(proxy);
        self
    }

    fn token(&self, enrolled: bool) -> Result<Option<TokenText>, SetupError> {
        let text = self.token.expose().trim();
        if text.is_empty() {
            return Ok(None);
        }
        match text.parse() {
            Ok(token) => Ok(Some(token)),
            Err(error) if enrolled => {
                tracing::warn!(%error, "the token is unusable, which does not matter: this node has enrolled");
                Ok(None)
            }
            Err(error) => Err(SetupError::Token(error)),
        }
    }
}

impl<R: NodeRecord> PlanSource<R> for ControlLink {
    fn open(&self, supply: Supply<R>) -> Result<SourceFuture, SetupError> {
        let url: ControlUrl = self.url.trim().parse()?;
        let enrolment = supply.state().enrolment()?;
        let token = self.token(enrolment.is_some())?;
        let (known, credential) = match (enrolment, token) {
            (Some(enrolment), token) => {
                if token.is_some_and(|token| token.control() != enrolment.control) {
                    return Err(SetupError::OtherControl);
                }
                if role(enrolment.node) != supply.role() {
                    return Err(SetupError::Role(enrolment.node));
                }
                let node = enrolment.node;
                (Known::from(enrolment), Credential::Known(node))
            }
            (None, Some(token)) => {
                let known = Known {
                    control: token.control(),
                    ca: token.ca().copied(),
                    enrolment: None,
                };
                let credential = Credential::Enrol {
                    secret: token.secret().clone(),
                    name: supply.name().clone(),
                };
                (known, credential)
            }
            (None, None) => return Err(SetupError::NoToken),
        };
        let trust = match (&self.roots, known.ca) {
            (Some(roots), _) => Trust::Roots(Arc::clone(roots)),
            (None, Some(fingerprint)) => Trust::Fingerprint(fingerprint),
            (None, None) => Trust::System,
        };
        let keys = supply.keys();
        let config = ClientConfig {
            url: url.canonical().clone(),
            control: known.control,
            role: supply.role(),
            credential,
            wireguard: keys.wireguard(),
            capabilities: Capabilities::SUPPORTED,
            signer: Arc::new(keys),
            verifier: Arc::new(RingVerifier),
        };
        let mut client = Client::new(config, usage(supply.state())?, Instant::now());
        if let Some(node) = client.node() {
            restore_plan(&mut client, node, &supply)?;
        }
        // Nobody knows whether Control took them before this process began.
        if let Some(next) = supply.own_keys().ring.held().next {
            client.rotate_keys(OwnKeys {
                wireguard: next.wireguard(),
                signer: Arc::new(next),
            });
        }
        let provider = match &self.provider {
            Some(provider) => Arc::clone(provider),
            None => crypto::default_provider(),
        };
        let driver = Driver::new(supply, client, url, trust, provider, self.egress.clone(), known);
        Ok(Box::pin(driver.run()))
    }
}

impl fmt::Debug for ControlLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlLink")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl From<Enrolment> for Known {
    fn from(enrolment: Enrolment) -> Self {
        Self {
            control: enrolment.control,
            ca: enrolment.ca,
            enrolment: Some(enrolment),
        }
    }
}

const fn role(node: NodeId) -> Role {
    match node {
        NodeId::Agent(_) => Role::Agent,
        NodeId::Gateway(_) => Role::Gateway,
    }
}

fn usage(state: &StateDir) -> Result<UsageQueue, SetupError> {
    if let Some(bytes) = state.usage()? {
        match UsageQueue::from_bytes(&bytes) {
            Ok(queue) => return Ok(queue),
            Err(error) => tracing::warn!(%error, "what was counted before this start is lost"),
        }
    }
    let epoch = keys::random().map_err(|error| SetupError::State(StateError::Key(error)))?;
    Ok(UsageQueue::new(u64::from_le_bytes(epoch)))
}

/// Serves the last good plan, if there is one. A file that holds none is reported and ignored: Control
/// sends the plan again.
fn restore_plan<R: NodeRecord>(
    client: &mut Client,
    node: NodeId,
    supply: &Supply<R>,
) -> Result<(), SetupError> {
    let Some(bytes) = supply.state().plan()? else {
        return Ok(());
    };
    let wire = match WirePlan::from_bytes(&bytes) {
        Ok(wire) => wire,
        Err(error) => {
            tracing::warn!(%error, "the plan on disk is unusable and is ignored");
            return Ok(());
        }
    };
    match wire.to_plan::<R>(node) {
        Ok(decoded) => {
            client.restore_plan(Arc::new(wire), &decoded.denied());
            tracing::info!(revision = decoded.plan.revision().0, "serving the plan on disk");
            supply.publish(decoded.plan);
        }
        Err(error) => tracing::warn!(%error, "the plan on disk is ignored"),
    }
    Ok(())
}
