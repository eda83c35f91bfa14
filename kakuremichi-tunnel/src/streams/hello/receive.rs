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

use super::{Exporter, HelloError, Identities};
use crate::keys::{Held, NodeKeys, RingVerifier};

/// The gateway's part. `keys` are all that it holds: whoever has not heard of new ones speaks to those of before, and who
/// has heard of them first to those to be. `known` says who an agent is by the plan of this moment, so that a session
/// that TLS resumed is checked anew: by its keys, and by those of before while they count. `place` finds room for its
/// connection, which one of those proved. The answer is sent in every case.
pub(crate) async fn receive<T, P>(
    io: &mut T,
    exporter: &Exporter,
    gateway: Option<GatewayId>,
    keys: &Held,
    known: impl FnOnce(AgentId) -> Option<Identities>,
    place: impl FnOnce(AgentId, IdentityKey) -> Option<P>,
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
        let agent_keys = known(hello.agent).ok_or(HelloRefusal::Unknown)?;
        if !constant_time_eq(&hello.binding, &binding(exporter)) {
            return Err(HelloRefusal::Intercepted);
        }
        let spoken = |agent_key: IdentityKey, own: &NodeKeys| {
            let transcript = LaneTranscript {
                exporter,
                agent: hello.agent,
                gateway,
                agent_key,
                gateway_key: own.identity(),
                purpose: hello.purpose,
            };
            RingVerifier
                .verify(&agent_key, &transcript.agent_message(), &hello.signature)
                .then(|| (agent_key, own.sign(&transcript.gateway_message())))
        };
        let met = agent_keys
            .all()
            .find_map(|agent_key| keys.all().find_map(|own| spoken(agent_key, own)));
        let (agent_key, signature) = met.ok_or(HelloRefusal::Identity)?;
        let place = place(hello.agent, agent_key).ok_or(HelloRefusal::Overloaded)?;
        Ok((place, signature))
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
