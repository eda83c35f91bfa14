//! The agent's half of the proof.

use kakuremichi_core::{
    id::{AgentId, GatewayId},
    key::IdentityKey,
};
use kakuremichi_proto::{
    identity::{Signer as _, Verifier as _},
    lane::hello::{ANSWER_LEN, AgentHello, GatewayAnswer, LaneTranscript, Purpose, binding},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::watch,
};

use super::{Exporter, HelloError, Identities};
use crate::keys::{KeyRing, NodeKeys, RingVerifier};

/// The ends of a lane, as the agent's plan has them.
#[derive(Debug, Clone)]
pub(crate) struct Ends {
    pub(crate) agent: AgentId,
    pub(crate) gateway: GatewayId,
    /// Who the gateway is, now and whenever it changes.
    pub(crate) gateway_keys: watch::Receiver<Identities>,
    /// The agent's own.
    pub(crate) keys: KeyRing,
}

/// By which keys the two ends are to know each other.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) own: NodeKeys,
    pub(crate) gateway: IdentityKey,
}

impl Ends {
    /// Whether one of the two ends has newer keys than those.
    pub(crate) fn has_newer(&self, shown: &Shown) -> bool {
        shown.own.identity() != self.keys.current().identity()
            || shown.gateway != self.gateway_keys.borrow().current
    }

    /// The pairs of keys that may fit, those first that do once everybody has heard of everything.
    pub(crate) fn shown(&self) -> Vec<Shown> {
        let (held, gateway) = (self.keys.held(), *self.gateway_keys.borrow());
        let pairs = gateway.all().flat_map(|gateway| {
            let pair = move |own: &NodeKeys| Shown {
                own: own.clone(),
                gateway,
            };
            held.all().map(pair).collect::<Vec<_>>()
        });
        pairs.collect()
    }
}

/// The agent's part: proves who it is, and has the gateway prove itself.
pub(crate) async fn introduce<T>(
    io: &mut T,
    exporter: &Exporter,
    ends: &Ends,
    shown: &Shown,
    purpose: Purpose,
) -> Result<(), HelloError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let transcript = LaneTranscript {
        exporter,
        agent: ends.agent,
        gateway: ends.gateway,
        agent_key: shown.own.identity(),
        gateway_key: shown.gateway,
        purpose,
    };
    let hello = AgentHello {
        agent: ends.agent,
        gateway: ends.gateway,
        purpose,
        binding: binding(exporter),
        signature: shown.own.sign(&transcript.agent_message()),
    };
    io.write_all(&hello.encode()).await?;
    io.flush().await?;
    let mut answer = [0; ANSWER_LEN];
    io.read_exact(&mut answer).await?;
    match GatewayAnswer::parse(&answer)? {
        GatewayAnswer::Refused(refusal) => Err(refusal.into()),
        GatewayAnswer::Accepted(signature) => {
            let message = transcript.gateway_message();
            if RingVerifier.verify(&shown.gateway, &message, &signature) {
                Ok(())
            } else {
                Err(HelloError::NotTheGateway)
            }
        }
    }
}
