//! Both ends of a connection prove who they are.

#[cfg(feature = "gateway")]
mod receive;

#[cfg(feature = "gateway")]
pub(crate) use receive::receive;

use std::io;

use kakuremichi_core::{
    id::{AgentId, GatewayId},
    key::IdentityKey,
};
use kakuremichi_proto::{
    identity::{Signer as _, Verifier as _},
    lane::hello::{
        ANSWER_LEN, AgentHello, BadHello, EXPORTER_LABEL, EXPORTER_LEN, GatewayAnswer, HelloRefusal,
        LaneTranscript, Purpose, binding,
    },
};
use rustls::ConnectionCommon;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::keys::{NodeKeys, RingVerifier};

/// The secret that both ends of one TLS connection, and nobody else, have.
pub(crate) type Exporter = [u8; EXPORTER_LEN];

/// Why a connection is none of a lane.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum HelloError {
    /// It broke.
    #[error("the connection ended during the proof of identity")]
    Io(#[from] io::Error),
    /// The other end does not speak our protocol.
    #[error(transparent)]
    Protocol(#[from] BadHello),
    /// The gateway refuses the agent.
    #[error(transparent)]
    Refused(#[from] HelloRefusal),
    /// The other end is not the gateway of the plan.
    #[error("the other end does not prove that it is the gateway of the plan")]
    NotTheGateway,
}

/// The secret of an established TLS connection.
pub(crate) fn exporter<D>(tls: &ConnectionCommon<D>) -> io::Result<Exporter> {
    tls.export_keying_material([0; EXPORTER_LEN], EXPORTER_LABEL, None)
        .map_err(io::Error::other)
}

/// The ends of a lane, as the agent's plan has them.
#[derive(Debug, Clone)]
pub(crate) struct Ends {
    pub(crate) agent: AgentId,
    pub(crate) gateway: GatewayId,
    pub(crate) gateway_key: IdentityKey,
    /// The agent's own.
    pub(crate) keys: NodeKeys,
}

/// The agent's part: proves who it is, and has the gateway prove itself.
pub(crate) async fn introduce<T>(
    io: &mut T,
    exporter: &Exporter,
    ends: &Ends,
    purpose: Purpose,
) -> Result<(), HelloError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let transcript = LaneTranscript {
        exporter,
        agent: ends.agent,
        gateway: ends.gateway,
        agent_key: ends.keys.identity(),
        gateway_key: ends.gateway_key,
        purpose,
    };
    let hello = AgentHello {
        agent: ends.agent,
        gateway: ends.gateway,
        purpose,
        binding: binding(exporter),
        signature: ends.keys.sign(&transcript.agent_message()),
    };
    io.write_all(&hello.encode()).await?;
    io.flush().await?;
    let mut answer = [0; ANSWER_LEN];
    io.read_exact(&mut answer).await?;
    match GatewayAnswer::parse(&answer)? {
        GatewayAnswer::Refused(refusal) => Err(refusal.into()),
        GatewayAnswer::Accepted(signature) => {
            let message = transcript.gateway_message();
            if RingVerifier.verify(&ends.gateway_key, &message, &signature) {
                Ok(())
            } else {
                Err(HelloError::NotTheGateway)
            }
        }
    }
}
