//! Keys of before that count still.

use crate::{
    id::NodeId,
    key::{IdentityKey, WireGuardKey},
};

/// The keys that another node of the plan had before, and which count beside those that its record has, until
/// a plan has this no more. A lane that was proven by them is a lane to that node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedPreviousKeys {
    /// The node.
    pub node: NodeId,
    /// Who it was.
    pub identity: IdentityKey,
    /// Its WireGuard key; that of now where only the identity is another.
    pub wireguard: WireGuardKey,
}
