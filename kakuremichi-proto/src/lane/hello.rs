//! How the two ends of a connection of a TLS stream lane prove who they are.
//!
//! The certificate of the TLS connection proves nothing, and need not: once TLS stands, both ends export
//! the same secret from it (RFC 8446, section 7.5), and each signs it with its node's identity key,
//! together with both identifiers, both identity keys and the purpose. Whoever stands in between has
//! another secret with either end, so that neither signature is of use to it. A resumed TLS session
//! exports a secret of its own, and is checked like any other.
//!
//! The agent speaks first. Both messages have one length, so that a state before the proof is bounded by
//! it.

use kakuremichi_core::{
    id::{AgentId, GatewayId},
    key::IdentityKey,
};
use sha2::{Digest, Sha256};

use crate::identity::{Signature, sha256};

/// The label under which the secret is exported. There is no context.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-kakuremichi-lane-1";
/// The length of the secret, in bytes.
pub const EXPORTER_LEN: usize = 32;
/// The length of an [`AgentHello`], in bytes.
pub const HELLO_LEN: usize = 4 + 2 + 16 + 16 + 32 + 64;
/// The length of a [`GatewayAnswer`], in bytes.
pub const ANSWER_LEN: usize = 4 + 2 + 64;

const MAGIC: [u8; 4] = *b"KKML";
const VERSION: u8 = 1;
/// Before what an agent signs.
const AGENT_LABEL: &[u8] = b"kakuremichi lane v1: agent\0";
/// Before what a gateway signs.
const GATEWAY_LABEL: &[u8] = b"kakuremichi lane v1: gateway\0";
/// Before what tells whether both ends have the same secret.
const BINDING_LABEL: &[u8] = b"kakuremichi lane v1: binding\0";

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Purpose {
    /// Probes, the feed, and what concerns the lane as a whole.
    Control = 0,
    /// Flows, one after the other.
    Flows = 1,
}

/// What both ends sign.
#[derive(Debug, Clone, Copy)]
pub struct LaneTranscript<'a> {
    /// The secret of the TLS connection.
    pub exporter: &'a [u8; EXPORTER_LEN],
    /// The agent.
    pub agent: AgentId,
    /// The gateway.
    pub gateway: GatewayId,
    /// Who the agent is, by the plan.
    pub agent_key: IdentityKey,
    /// Who the gateway is, by the plan.
    pub gateway_key: IdentityKey,
    /// What the connection is for.
    pub purpose: Purpose,
}

impl LaneTranscript<'_> {
    /// The message that the agent signs.
    #[must_use]
    pub fn agent_message(&self) -> Vec<u8> {
        [AGENT_LABEL, &self.digest()].concat()
    }

    /// The message that the gateway signs.
    #[must_use]
    pub fn gateway_message(&self) -> Vec<u8> {
        [GATEWAY_LABEL, &self.digest()].concat()
    }

    /// Every field has one length, so that no two transcripts have the same bytes.
    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.exporter);
        hash.update(self.agent.as_bytes());
        hash.update(self.gateway.as_bytes());
        hash.update(self.agent_key.as_bytes());
        hash.update(self.gateway_key.as_bytes());
        hash.update([self.purpose as u8]);
        hash.finalize().into()
    }
}

/// What tells, without giving the secret away, whether the other end has the same one: where it has not,
/// somebody in between intercepts TLS.
#[must_use]
pub fn binding(exporter: &[u8; EXPORTER_LEN]) -> [u8; 32] {
    sha256(&[BINDING_LABEL, exporter].concat())
}

/// What the agent says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentHello {
    /// Who it says it is.
    pub agent: AgentId,
    /// Whom it wants to speak to.
    pub gateway: GatewayId,
    /// What the connection is for.
    pub purpose: Purpose,
    /// The [`binding`] of its secret.
    pub binding: [u8; 32],
    /// Over [`LaneTranscript::agent_message`].
    pub signature: Signature,
}

/// What the gateway says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayAnswer {
    /// The connection is taken; the signature is over [`LaneTranscript::gateway_message`].
    Accepted(Signature),
    /// It is not, and is closed.
    Refused(HelloRefusal),
}

/// Why a gateway does not take a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u8)]
#[non_exhaustive]
pub enum HelloRefusal {
    /// The agent is not in the gateway's plan, or means another gateway.
    #[error("the gateway's plan does not know this agent")]
    Unknown = 1,
    /// The two ends of the TLS connection are not the same: somebody in between ends it.
    #[error("TLS is intercepted between the agent and the gateway")]
    Intercepted = 2,
    /// The signature is not one of the agent's identity.
    #[error("the agent's identity is not the one in the gateway's plan")]
    Identity = 3,
    /// A bound is reached.
    #[error("the gateway takes no more connections of this agent")]
    Overloaded = 4,
    /// A reason that this build does not know.
    #[error("the gateway refuses for a reason that this version does not know")]
    Other = 255,
}

/// The bytes are not a hello, or not the answer to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the other end does not speak version 1 of the lane's protocol")]
pub struct BadHello;

impl AgentHello {
    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HELLO_LEN] {
        let mut bytes = [0; HELLO_LEN];
        fill(
            &mut bytes,
            &[
                &MAGIC,
                &[VERSION, self.purpose as u8],
                self.agent.as_bytes(),
                self.gateway.as_bytes(),
                &self.binding,
                &self.signature.0,
            ],
        );
        bytes
    }

    /// Reads a hello.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn parse(bytes: &[u8; HELLO_LEN]) -> Result<Self, BadHello> {
        let ([purpose], rest) = body(bytes)?;
        let (agent, rest) = take(rest)?;
        let (gateway, rest) = take(rest)?;
        let (binding, rest) = take(rest)?;
        let (signature, _) = take(rest)?;
        Ok(Self {
            agent: AgentId::from_bytes(agent),
            gateway: GatewayId::from_bytes(gateway),
            purpose: match purpose {
                0 => Purpose::Control,
                1 => Purpose::Flows,
                _ => return Err(BadHello),
            },
            binding,
            signature: Signature(signature),
        })
    }
}

impl GatewayAnswer {
    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; ANSWER_LEN] {
        let (status, signature) = match self {
            Self::Accepted(signature) => (0, signature.0),
            Self::Refused(refusal) => (*refusal as u8, [0; 64]),
        };
        let mut bytes = [0; ANSWER_LEN];
        fill(&mut bytes, &[&MAGIC, &[VERSION, status], &signature]);
        bytes
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn parse(bytes: &[u8; ANSWER_LEN]) -> Result<Self, BadHello> {
        let ([status], rest) = body(bytes)?;
        let (signature, _) = take(rest)?;
        Ok(match status {
            0 => Self::Accepted(Signature(signature)),
            1 => Self::Refused(HelloRefusal::Unknown),
            2 => Self::Refused(HelloRefusal::Intercepted),
            3 => Self::Refused(HelloRefusal::Identity),
            4 => Self::Refused(HelloRefusal::Overloaded),
            _ => Self::Refused(HelloRefusal::Other),
        })
    }
}

fn fill(out: &mut [u8], parts: &[&[u8]]) {
    let bytes = parts.iter().flat_map(|part| part.iter());
    out.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
}

fn body(bytes: &[u8]) -> Result<([u8; 1], &[u8]), BadHello> {
    let (magic, rest) = take::<4>(bytes)?;
    let ([version], rest) = take::<1>(rest)?;
    if magic != MAGIC || version != VERSION {
        return Err(BadHello);
    }
    take(rest)
}

fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), BadHello> {
    let (head, rest) = bytes.split_first_chunk().ok_or(BadHello)?;
    Ok((*head, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcript() -> LaneTranscript<'static> {
        LaneTranscript {
            exporter: &[1; 32],
            agent: AgentId::from_bytes([2; 16]),
            gateway: GatewayId::from_bytes([3; 16]),
            agent_key: IdentityKey::from_bytes([4; 32]),
            gateway_key: IdentityKey::from_bytes([5; 32]),
            purpose: Purpose::Flows,
        }
    }

    #[test]
    fn signatures_cover_every_field_and_are_of_two_domains() {
        let base = transcript();
        let others = [
            base,
            LaneTranscript {
                exporter: &[9; 32],
                ..base
            },
            LaneTranscript {
                agent: AgentId::from_bytes([9; 16]),
                ..base
            },
            LaneTranscript {
                gateway: GatewayId::from_bytes([9; 16]),
                ..base
            },
            LaneTranscript {
                agent_key: IdentityKey::from_bytes([9; 32]),
                ..base
            },
            LaneTranscript {
                gateway_key: IdentityKey::from_bytes([9; 32]),
                ..base
            },
            LaneTranscript {
                purpose: Purpose::Control,
                ..base
            },
        ];
        let mut messages: Vec<_> = others
            .iter()
            .flat_map(|transcript| [transcript.agent_message(), transcript.gateway_message()])
            .collect();
        messages.sort();
        messages.dedup();
        assert_eq!(messages.len(), 2 * others.len());
        assert_ne!(binding(&[1; 32]), binding(&[2; 32]));
    }

    #[test]
    fn hellos_and_answers_round_trip_and_others_are_refused() {
        let hello = AgentHello {
            agent: AgentId::from_bytes([2; 16]),
            gateway: GatewayId::from_bytes([3; 16]),
            purpose: Purpose::Control,
            binding: [4; 32],
            signature: Signature([5; 64]),
        };
        let bytes = hello.encode();
        assert_eq!(AgentHello::parse(&bytes), Ok(hello));
        for (place, wrong) in [(0, b'G'), (4, 2), (5, 2)] {
            let mut bytes = bytes;
            bytes[place] = wrong;
            assert_eq!(AgentHello::parse(&bytes), Err(BadHello));
        }
        let refusals = [
            HelloRefusal::Unknown,
            HelloRefusal::Intercepted,
            HelloRefusal::Identity,
            HelloRefusal::Overloaded,
            HelloRefusal::Other,
        ];
        let mut answers = vec![GatewayAnswer::Accepted(Signature([6; 64]))];
        answers.extend(refusals.map(GatewayAnswer::Refused));
        for answer in answers {
            assert_eq!(GatewayAnswer::parse(&answer.encode()), Ok(answer));
        }
        let mut newer = answer_bytes();
        newer[5] = 77;
        assert_eq!(
            GatewayAnswer::parse(&newer),
            Ok(GatewayAnswer::Refused(HelloRefusal::Other))
        );
    }

    fn answer_bytes() -> [u8; ANSWER_LEN] {
        GatewayAnswer::Refused(HelloRefusal::Unknown).encode()
    }
}
