//! What is signed when two sides meet.
//!
//! Both signatures cover everything that was said: what was offered and what was chosen, both nonces,
//! both identities, the node's WireGuard key, its role and the URL. The two are of different domains,
//! so that neither can be shown as the other, and neither side can be relayed to a third.

use kakuremichi_core::{
    id::NodeId,
    key::{IdentityKey, WireGuardKey},
    model::Role,
};
use sha2::{Digest, Sha256};

use super::sha256;
use crate::{capability::Capabilities, version::Version};

/// Before what Control signs.
const CONTROL_LABEL: &[u8] = b"kakuremichi control link v1: control\0";
/// Before what a node signs.
const NODE_LABEL: &[u8] = b"kakuremichi control link v1: node\0";

/// Before what a node signs with the identity that it gives up.
const OLD_LABEL: &[u8] = b"kakuremichi key rotation v1: old identity\0";
/// Before what it signs with the identity that it takes.
const NEW_LABEL: &[u8] = b"kakuremichi key rotation v1: new identity\0";

/// What was said before the signatures.
#[derive(Debug, Clone, Copy)]
pub struct Transcript<'a> {
    /// The versions that the node offered, in its order.
    pub offered: &'a [u16],
    /// The version that Control chose.
    pub version: Version,
    /// What the node can do.
    pub node_capabilities: Capabilities,
    /// What Control can do.
    pub control_capabilities: Capabilities,
    /// What the node is.
    pub role: Role,
    /// The node's nonce.
    pub node_nonce: &'a [u8; 32],
    /// Control's nonce.
    pub control_nonce: &'a [u8; 32],
    /// Who the node is.
    pub node_key: IdentityKey,
    /// Who Control is.
    pub control_key: IdentityKey,
    /// The node's WireGuard key.
    pub wireguard: WireGuardKey,
    /// Control's URL, in the node's words.
    pub url: &'a str,
    /// The node's identifier, if it has enrolled.
    pub node: Option<NodeId>,
}

/// What the node's signature covers besides the transcript.
#[derive(Debug, Clone, Copy)]
pub enum SignedProof<'a> {
    /// It enrols.
    Enrol {
        /// SHA-256 of the token's secret.
        secret_hash: &'a [u8; 32],
        /// The name it would like to have.
        name: &'a str,
    },
    /// It has enrolled.
    Known,
}

impl Transcript<'_> {
    /// The message that Control signs.
    #[must_use]
    pub fn control_message(&self) -> Vec<u8> {
        [CONTROL_LABEL, &self.digest()].concat()
    }

    /// The message that the node signs.
    #[must_use]
    pub fn node_message(&self, proof: SignedProof<'_>) -> Vec<u8> {
        let mut message = [NODE_LABEL, &self.digest()].concat();
        match proof {
            SignedProof::Enrol { secret_hash, name } => {
                message.push(1);
                message.extend_from_slice(secret_hash);
                message.extend_from_slice(&sha256(name.as_bytes()));
            }
            SignedProof::Known => message.push(0),
        }
        message
    }

    /// What tells this handshake from every other one: both nonces are in it. What is said later in the same session is
    /// bound to it by this.
    #[must_use]
    pub fn binding(&self) -> [u8; 32] {
        self.digest()
    }

    /// Every field with its length before it, so that no two transcripts have the same bytes.
    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        let offered: Vec<u8> = self
            .offered
            .iter()
            .flat_map(|version| version.to_be_bytes())
            .collect();
        field(&offered);
        field(&self.version.0.to_be_bytes());
        field(&self.node_capabilities.bits().to_be_bytes());
        field(&self.control_capabilities.bits().to_be_bytes());
        field(self.role.as_str().as_bytes());
        field(self.node_nonce);
        field(self.control_nonce);
        field(self.node_key.as_bytes());
        field(self.control_key.as_bytes());
        field(self.wireguard.as_bytes());
        field(self.url.as_bytes());
        field(
            self.node
                .map(|node| node.to_string())
                .unwrap_or_default()
                .as_bytes(),
        );
        hash.finalize().into()
    }
}

/// What is signed when a node gets other keys: by both identities, each in a domain of its own, so that it is proven
/// that the one gives the node to the other, and that the other takes it. It is bound to one session, so that
/// nothing of it can be said again in another.
#[derive(Debug, Clone, Copy)]
pub struct RotationTranscript<'a> {
    /// The [`binding`](Transcript::binding) of the session's handshake.
    pub binding: &'a [u8; 32],
    /// The node.
    pub node: NodeId,
    /// The number of the session.
    pub session: u64,
    /// Who the node is.
    pub old: IdentityKey,
    /// Who it will be.
    pub new: IdentityKey,
    /// Its WireGuard key to be.
    pub wireguard: WireGuardKey,
}

impl RotationTranscript<'_> {
    /// The message that the identity signs which the node gives up.
    #[must_use]
    pub fn old_message(&self) -> Vec<u8> {
        [OLD_LABEL, &self.digest()].concat()
    }

    /// The message that the identity signs which the node takes.
    #[must_use]
    pub fn new_message(&self) -> Vec<u8> {
        [NEW_LABEL, &self.digest()].concat()
    }

    /// Every field has one length, but for the node's, which comes last.
    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.binding);
        hash.update(self.session.to_be_bytes());
        hash.update(self.old.as_bytes());
        hash.update(self.new.as_bytes());
        hash.update(self.wireguard.as_bytes());
        hash.update(self.node.to_string().as_bytes());
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use kakuremichi_core::id::AgentId;

    use super::*;

    fn transcript() -> Transcript<'static> {
        Transcript {
            offered: &[1],
            version: Version::V1,
            node_capabilities: Capabilities::SUPPORTED,
            control_capabilities: Capabilities::SUPPORTED,
            role: Role::Agent,
            node_nonce: &[1; 32],
            control_nonce: &[2; 32],
            node_key: IdentityKey::from_bytes([3; 32]),
            control_key: IdentityKey::from_bytes([4; 32]),
            wireguard: WireGuardKey::from_bytes([5; 32]),
            url: "https://control.example",
            node: None,
        }
    }

    #[test]
    fn signatures_cover_every_field() {
        let base = transcript();
        let others = [
            Transcript {
                offered: &[1, 2],
                ..base
            },
            Transcript {
                version: Version(2),
                ..base
            },
            Transcript {
                node_capabilities: Capabilities::default(),
                ..base
            },
            Transcript {
                control_capabilities: Capabilities::default(),
                ..base
            },
            Transcript {
                role: Role::Gateway,
                ..base
            },
            Transcript {
                node_nonce: &[9; 32],
                ..base
            },
            Transcript {
                control_nonce: &[9; 32],
                ..base
            },
            Transcript {
                node_key: IdentityKey::from_bytes([9; 32]),
                ..base
            },
            Transcript {
                control_key: IdentityKey::from_bytes([9; 32]),
                ..base
            },
            Transcript {
                wireguard: WireGuardKey::from_bytes([9; 32]),
                ..base
            },
            Transcript {
                url: "https://other.example",
                ..base
            },
            Transcript {
                node: Some(AgentId::from_bytes([1; 16]).into()),
                ..base
            },
        ];
        let mut messages: Vec<_> = others.iter().map(Transcript::control_message).collect();
        messages.push(base.control_message());
        messages.sort();
        messages.dedup();
        assert_eq!(messages.len(), others.len() + 1);
    }

    #[test]
    fn a_rotation_is_of_one_session_and_signed_in_two_domains() {
        let base = RotationTranscript {
            binding: &[1; 32],
            node: AgentId::from_bytes([2; 16]).into(),
            session: 3,
            old: IdentityKey::from_bytes([4; 32]),
            new: IdentityKey::from_bytes([5; 32]),
            wireguard: WireGuardKey::from_bytes([6; 32]),
        };
        let others = [
            base,
            RotationTranscript {
                binding: &[9; 32],
                ..base
            },
            RotationTranscript {
                node: AgentId::from_bytes([9; 16]).into(),
                ..base
            },
            RotationTranscript { session: 9, ..base },
            RotationTranscript {
                old: IdentityKey::from_bytes([9; 32]),
                ..base
            },
            RotationTranscript {
                new: IdentityKey::from_bytes([9; 32]),
                ..base
            },
            RotationTranscript {
                wireguard: WireGuardKey::from_bytes([9; 32]),
                ..base
            },
        ];
        let mut messages: Vec<_> = others
            .iter()
            .flat_map(|transcript| [transcript.old_message(), transcript.new_message()])
            .collect();
        messages.sort();
        messages.dedup();
        assert_eq!(messages.len(), 2 * others.len());
    }

    #[test]
    fn the_two_sides_sign_in_different_domains() {
        let base = transcript();
        let enrol = base.node_message(SignedProof::Enrol {
            secret_hash: &[0; 32],
            name: "a",
        });
        let known = base.node_message(SignedProof::Known);
        assert!(enrol != known && known[..CONTROL_LABEL.len()] != *CONTROL_LABEL);
        assert_ne!(
            enrol,
            base.node_message(SignedProof::Enrol {
                secret_hash: &[0; 32],
                name: "b"
            })
        );
    }
}
