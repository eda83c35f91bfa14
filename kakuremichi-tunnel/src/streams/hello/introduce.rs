//! The agent's half of the proof.

use kakuremichi_core::{
    id::{AgentId, GatewayId},
    key::IdentityKey,
};
use kakuremichi_proto::{
    identity::{Signer as _, Verifier as _},
    lane::hello::{ANSWER_LEN, AgentHello, GatewayAnswer, LaneTranscript, Purpose, binding},
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{Exporter, HelloError};
use crate::keys::{NodeKeys, RingVerifier};

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
