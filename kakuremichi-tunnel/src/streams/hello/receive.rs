//! The gateway's end.

use kakuremichi_core::{
    id::{AgentId, GatewayId},
    key::IdentityKey,
};
use kakuremichi_proto::{
    identity::{Signer as _, Verifier as _, constant_time_eq},
    lane::hello::{AgentHello, GatewayAnswer, HELLO_LEN, HelloRefusal, LaneTranscript, Purpose, binding},
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{Exporter, HelloError};
use crate::keys::{NodeKeys, RingVerifier};

/// The gateway's part. `known` says who an agent is by the plan of this moment, so that a session that TLS
/// resumed is checked anew; `place` finds room for its connection. The answer is sent in every case.
pub(crate) async fn receive<T, P>(
    io: &mut T,
    exporter: &Exporter,
    gateway: Option<GatewayId>,
    keys: &NodeKeys,
    known: impl FnOnce(AgentId) -> Option<IdentityKey>,
    place: impl FnOnce(AgentId, Purpose) -> Option<P>,
) -> Result<(AgentId, Purpose, P), HelloError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut bytes = [0; HELLO_LEN];
    io.read_exact(&mut bytes).await?;
    let hello = AgentHello::parse(&bytes)?;
    let accepted = || {
        let gateway = gateway.filter(|gateway| *gateway == hello.gateway);
        let gateway = gateway.ok_or(HelloRefusal::Unknown)?;
        let agent_key = known(hello.agent).ok_or(HelloRefusal::Unknown)?;
        if !constant_time_eq(&hello.binding, &binding(exporter)) {
            return Err(HelloRefusal::Intercepted);
        }
        let transcript = LaneTranscript {
            exporter,
            agent: hello.agent,
            gateway,
            agent_key,
            gateway_key: keys.identity(),
            purpose: hello.purpose,
        };
        if !RingVerifier.verify(&agent_key, &transcript.agent_message(), &hello.signature) {
            return Err(HelloRefusal::Identity);
        }
        let place = place(hello.agent, hello.purpose).ok_or(HelloRefusal::Overloaded)?;
        Ok((place, keys.sign(&transcript.gateway_message())))
    };
    match accepted() {
        Ok((place, signature)) => {
            io.write_all(&GatewayAnswer::Accepted(signature).encode()).await?;
            io.flush().await?;
            Ok((hello.agent, hello.purpose, place))
        }
        Err(refusal) => {
            io.write_all(&GatewayAnswer::Refused(refusal).encode()).await?;
            // The answer is to arrive before the connection ends.
            io.shutdown().await?;
            Err(refusal.into())
        }
    }
}
