//! How two sides meet, and how they know that the other is still there.

use kakuremichi_core::plan::MAX_SIGNING_KEYS;
use serde::{Deserialize, Serialize};

use super::{Endpoint, NodeId, Subject};
use crate::codec::{Array, List, SecretArray};

/// The most versions that a [`Hello`] offers.
pub const MAX_VERSIONS: usize = 16;
/// The most live declarations of one node.
pub const MAX_DECLARATIONS: usize = 256;
/// The most services that a node names as denied; the count says how many there are.
pub const MAX_DENIED: usize = 1024;
/// The most endpoints of a gateway.
pub const MAX_ENDPOINTS: usize = 16;

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// An agent.
    Agent,
    /// A gateway.
    Gateway,
}

/// The first frame of a connection, from the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The versions that the node speaks.
    pub versions: List<u16, MAX_VERSIONS>,
    /// What it can do.
    pub capabilities: u64,
    /// What it is.
    pub role: Role,
    /// 32 fresh random bytes.
    pub nonce: [u8; 32],
    /// Its Ed25519 key.
    pub identity: [u8; 32],
    /// Its X25519 key.
    pub wireguard: [u8; 32],
    /// Control's URL as the node was given it.
    pub url: String,
    /// Who it is, if it has enrolled.
    pub node: Option<NodeId>,
}

/// Control's answer: which version is spoken, and a proof that it is the Control that the node wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// The version that is spoken from now on.
    pub version: u16,
    /// What Control can do.
    pub capabilities: u64,
    /// 32 fresh random bytes.
    pub nonce: [u8; 32],
    /// Control's Ed25519 key.
    pub control: [u8; 32],
    /// Control's signature over the transcript.
    pub signature: Array<64>,
}

/// What a node proves itself with, besides its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProofKind {
    /// A node that is new: the secret of its enrolment token.
    Enrol {
        /// The secret.
        secret: SecretArray,
        /// The name it would like to have.
        name: String,
    },
    /// A node that has enrolled.
    Known,
}

/// The node's proof. It is sent only after Control has proven itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// What it is.
    pub kind: ProofKind,
    /// The node's signature over the transcript and the kind.
    pub signature: Array<64>,
}

/// Control lets the node in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Who the node is from now on.
    pub node: NodeId,
    /// The organization it belongs to.
    pub organization: [u8; 16],
    /// The name it has.
    pub name: String,
    /// The number of this session; a later session of the node has a larger one.
    pub session: u64,
    /// The overlay's /48.
    pub overlay: [u8; 6],
}

/// A plan that a node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanHave {
    /// Its revision.
    pub revision: u64,
    /// Its hash.
    pub hash: [u8; 32],
}

/// What a node has when it comes (back).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The node, and the session in which it is said.
    pub subject: Subject,
    /// The plan it has.
    pub plan: Option<PlanHave>,
    /// The services of that plan which it denies because it does not understand them.
    pub denied: List<[u8; 16], MAX_DENIED>,
    /// The names of its live declarations. Each follows as a `Declare`; what was declared before and
    /// is not named here is no longer live.
    pub declarations: List<String, MAX_DECLARATIONS>,
    /// The number of the first request that follows.
    pub request_next: u64,
    /// The stream of usage that it counts in.
    pub usage_epoch: u64,
    /// The number of the first batch of usage that follows, now or later.
    pub usage_next: u64,
}

/// What Control should know about the node's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// The node, and the session in which it is said.
    pub subject: Subject,
    /// The version of its software.
    pub software: String,
    /// What only a gateway has.
    pub gateway: Option<GatewayInfo>,
}

/// How a gateway is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayInfo {
    /// Where agents reach its WireGuard socket, best first.
    pub endpoints: List<Endpoint, MAX_ENDPOINTS>,
    /// Where visitors reach its HTTPS listener.
    pub https_port: u16,
}

/// What a gateway signs the session cookies of visitors with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKeys {
    /// The node, and the session in which it is said.
    pub subject: Subject,
    /// The public halves of all its keys, in the place of those that were said before.
    pub keys: List<[u8; 32], MAX_SIGNING_KEYS>,
}

/// Asks whether the other side is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// Counts up from 1.
    pub number: u64,
}

/// Answers a ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The number of the newest ping that was seen.
    pub number: u64,
}
