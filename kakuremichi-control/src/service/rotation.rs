//! Nodes get other keys, and those of before count beside them for a while.

use std::time::Duration;

use kakuremichi_core::{
    id::NodeId,
    key::IdentityKey,
    model::{KEY_OVERLAP, KeyAge, MAX_KEY_OVERLAP, Node, NodeKind, NodeState, PreviousKeys, RotationAsked},
    store::{Query, RecordKind, Stored},
    time::Timestamp,
};
use kakuremichi_proto::session::RotateRequest;

use super::{ATTEMPTS, Actor, UseCaseError, UseCases, now, update};

/// What takes keys of before away once their time is over holds.
pub(super) const OVERLAPS: &str = "key-overlaps";
/// How often it looks for them. Control itself takes them no longer than they count; only in the plans of others
/// they are so much longer.
const LOOK: Duration = Duration::from_secs(30);

impl UseCases {
    /// Asks a node for new keys, whenever and wherever it is connected. Those that it has count beside the new ones for
    /// `overlap`, at most [`MAX_KEY_OVERLAP`]; [`KEY_OVERLAP`] where nothing is said. With none they do not count at
    /// all, and those of before do not from now on.
    ///
    /// # Errors
    /// When it is not there, does not take part, the overlap is too long, or the storage fails.
    pub async fn ask_for_keys(
        &self,
        actor: &Actor,
        id: NodeId,
        overlap: Option<Duration>,
    ) -> Result<Stored<Node>, UseCaseError> {
        let overlap = overlap.unwrap_or(KEY_OVERLAP);
        if overlap > MAX_KEY_OVERLAP {
            let days = MAX_KEY_OVERLAP.as_secs() / (24 * 60 * 60);
            return Err(UseCaseError::field("overlap", format!("at most {days} days")));
        }
        let at = now();
        let changed = self.change_node(actor, "node.ask_for_keys", id, None, |node| {
            if !node.is_active() {
                return;
            }
            node.rotation.asked = Some(RotationAsked { at, overlap });
            if overlap.is_zero() {
                node.rotation.previous = None;
            }
        });
        taking_part(changed.await?)
    }

    /// The keys of before count no longer, at once. Doing it again changes nothing.
    ///
    /// # Errors
    /// When it is not there or the storage fails.
    pub async fn revoke_previous_keys(
        &self,
        actor: &Actor,
        id: NodeId,
    ) -> Result<Stored<Node>, UseCaseError> {
        self.change_node(actor, "node.revoke_previous_keys", id, None, |node| {
            node.rotation.previous = None;
        })
        .await
    }

    /// A node proposes other keys, and has proven that it is who it was, and who it will be. Returns until when those of
    /// before count. A node that has them already, and did not hear of it, gets the same answer.
    ///
    /// Keys of before make no other ones: whoever found them would keep the node. A gateway of an organization that has
    /// sites keeps its WireGuard key, since their configurations have it: unless those of before are to count for
    /// nothing, as when somebody else has them.
    ///
    /// # Errors
    /// When the node is not there or does not take part, the keys it was let in with are no longer its own, the new ones
    /// are or were somebody's, sites know the WireGuard key, it is to be replaced and is not, or the storage fails.
    pub async fn rotate_keys(
        &self,
        id: NodeId,
        request: &RotateRequest,
    ) -> Result<Option<Timestamp>, UseCaseError> {
        for _ in 0..ATTEMPTS {
            let found = self.store().get(id.into()).await?;
            let Some(stored) = found.and_then(Stored::narrow::<Node>) else {
                return Err(UseCaseError::NodeUnknown);
            };
            let stored = taking_part(stored)?;
            let (node, at) = (&stored.value, now());
            let Some(age) = node.speaks_as(&request.old, at) else {
                return Err(UseCaseError::NodeKey);
            };
            if node.identity == request.new {
                return Ok(node.rotation.previous.map(|previous| previous.until));
            }
            if age == KeyAge::Previous {
                return Err(UseCaseError::PreviousKeys);
            }
            let rotated = rotated(node, request, at)?;
            let until = rotated.rotation.previous.map(|previous| previous.until);
            let other_tunnels = rotated.wireguard != node.wireguard;
            if until.is_none() && !other_tunnels {
                return Err(UseCaseError::WireGuardKeyWanted);
            }
            // A site that is made in this very moment is not seen: whoever configures it reads the key later.
            if until.is_some() && other_tunnels && self.is_known_to_sites(node).await? {
                return Err(UseCaseError::WireGuardKeyKnown);
            }
            let actor = Actor::node(node);
            let write = vec![update(rotated, stored.version)];
            match self
                .commit(&actor, "node.rotate", id, write)
                .await
                .map_err(Into::into)
            {
                Ok(_) => return Ok(until),
                Err(UseCaseError::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Err(UseCaseError::Contended)
    }

    /// Whether a node is a gateway of an organization that has sites.
    async fn is_known_to_sites(&self, node: &Node) -> Result<bool, UseCaseError> {
        if !matches!(node.kind, NodeKind::Gateway { .. }) {
            return Ok(false);
        }
        let sites = Query {
            organization: Some(node.organization),
            limit: 1,
            ..Query::all(RecordKind::Site)
        };
        Ok(!self.store().list(sites).await?.records.is_empty())
    }

    /// Whether a node that was let in by `identity` still may be.
    ///
    /// # Errors
    /// When it is not there, does not take part, those are no longer its keys, or the storage fails.
    pub(crate) async fn check_keys(&self, id: NodeId, identity: &IdentityKey) -> Result<(), UseCaseError> {
        let found = self.store().get(id.into()).await?;
        let Some(stored) = found.and_then(Stored::narrow::<Node>) else {
            return Err(UseCaseError::NodeUnknown);
        };
        let node = taking_part(stored)?.value;
        match node.speaks_as(identity, now()) {
            Some(_) => Ok(()),
            None => Err(UseCaseError::NodeKey),
        }
    }

    /// Takes keys away whose time is over.
    pub(super) async fn end_overlaps(&self, at: Timestamp) -> Result<(), UseCaseError> {
        let over = |previous: PreviousKeys| previous.until <= at;
        self.sweep_nodes("node.end_overlap", |stored| {
            let mut node = stored.value;
            node.rotation.previous.take_if(|previous| over(*previous))?;
            Some(update(node, stored.version))
        })
        .await
    }
}

/// The node with other keys.
fn rotated(node: &Node, request: &RotateRequest, at: Timestamp) -> Result<Node, UseCaseError> {
    let previous = node.rotation.previous;
    let returns = |previous: PreviousKeys| {
        previous.identity == request.new
            || (previous.wireguard == request.wireguard && node.wireguard != request.wireguard)
    };
    if previous.is_some_and(returns) {
        return Err(UseCaseError::field("identity", "the node had these keys before"));
    }
    let overlap = node.rotation.asked.map_or(KEY_OVERLAP, |asked| asked.overlap);
    let mut node = node.clone();
    node.rotation.previous = (!overlap.is_zero()).then_some(PreviousKeys {
        identity: node.identity,
        wireguard: node.wireguard,
        until: at.after(overlap),
    });
    node.rotation.rotated = Some(at);
    node.rotation.asked = None;
    node.identity = request.new;
    node.wireguard = request.wireguard;
    Ok(node)
}

fn taking_part(stored: Stored<Node>) -> Result<Stored<Node>, UseCaseError> {
    match stored.value.state() {
        NodeState::Active => Ok(stored),
        NodeState::Pending => Err(UseCaseError::NodePending),
        NodeState::Revoked => Err(UseCaseError::NodeRevoked),
    }
}

/// Takes keys away whose time is over, whenever this process has the lease.
pub(crate) async fn end_overlaps_for_ever(use_cases: UseCases) {
    let end = || use_cases.end_overlaps(now());
    use_cases
        .lease(OVERLAPS)
        .tend(LOOK, "keys of nodes whose time is over cannot be taken away", end)
        .await;
}

#[cfg(test)]
mod tests;
