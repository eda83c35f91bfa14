//! Nodes that wait until somebody approves them.

use std::time::Duration;

use kakuremichi_core::{
    id::{NodeId, OrganizationId},
    model::{MAX_PENDING_NODES, Node, NodeState, Pending},
    store::{Mutation, Stored, UniqueKey},
    time::Timestamp,
};

use super::{Actor, ENCODED_NODE, UseCaseError, UseCases, now, random};

/// How long a node waits for approval. Then it is forgotten: if it still asks, and its token is still of use, it waits
/// anew.
pub const PENDING_LIFE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// What forgets nodes that nobody answered holds.
pub(super) const EXPIRY: &str = "pending-expiry";
/// How often it looks for them.
const LOOK: Duration = Duration::from_secs(10 * 60);

impl UseCases {
    /// Lets a node in that waits for it: it has a plan, and is in those of others, from now on. Doing it again changes
    /// nothing.
    ///
    /// # Errors
    /// When it is not there, was refused or revoked, what nodes are told has no room for it, or the storage fails.
    pub async fn approve_node(&self, actor: &Actor, id: NodeId) -> Result<Stored<Node>, UseCaseError> {
        self.room_for(actor, ENCODED_NODE)?;
        let changed = self.change_node(actor, "node.approve", id, None, |node| {
            if node.state() == NodeState::Pending {
                node.pending = None;
            }
        });
        match changed.await? {
            node if node.value.is_active() => Ok(node),
            _ => Err(UseCaseError::NodeRevoked),
        }
    }

    /// Turns a node away that waits for approval. It stays known, as revoked, so that it cannot ask again with the same
    /// identity; once it is deleted, it can. Doing it again changes nothing.
    ///
    /// # Errors
    /// When it is not there, was approved already, or the storage fails.
    pub async fn refuse_node(&self, actor: &Actor, id: NodeId) -> Result<Stored<Node>, UseCaseError> {
        let at = now();
        let changed = self.change_node(actor, "node.refuse", id, None, |node| {
            if node.state() == NodeState::Pending {
                node.revoked = Some(at);
            }
        });
        match changed.await? {
            node if node.value.is_active() => Err(UseCaseError::NotPending),
            node => Ok(node),
        }
    }

    /// A place for one more node of an organization that waits.
    pub(super) async fn pending(
        &self,
        organization: OrganizationId,
        at: Timestamp,
    ) -> Result<Pending, UseCaseError> {
        // Two who come at once hardly look at the same place.
        let first = u16::from_be_bytes(random()?) % MAX_PENDING_NODES;
        for n in 0..MAX_PENDING_NODES {
            let place = (first + n) % MAX_PENDING_NODES;
            let key = UniqueKey::PendingPlace(organization, place);
            if self.store().find(&key).await?.is_none() {
                let until = at.after(PENDING_LIFE);
                return Ok(Pending { place, until });
            }
        }
        Err(UseCaseError::ManyPending)
    }

    /// Forgets the nodes that nobody has approved or refused in time.
    pub(super) async fn forget_unanswered(&self, at: Timestamp) -> Result<(), UseCaseError> {
        let over = |pending: Pending| pending.until <= at;
        self.sweep_nodes("node.expire", |stored| {
            let forgotten =
                stored.value.state() == NodeState::Pending && stored.value.pending.is_some_and(over);
            forgotten.then(|| Mutation::Delete(stored.value.id.into(), Some(stored.version)))
        })
        .await
    }
}

/// Forgets nodes that nobody answered, whenever this process has the lease.
pub(crate) async fn expire_for_ever(use_cases: UseCases) {
    let forget = || use_cases.forget_unanswered(now());
    use_cases
        .lease(EXPIRY)
        .tend(LOOK, "nodes that nobody answered cannot be forgotten", forget)
        .await;
}

#[cfg(test)]
mod tests;
