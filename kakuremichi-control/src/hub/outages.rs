//! Tells organizations when nodes go down, and when they are up again: by entries of the audit, which notification
//! channels send on.
//!
//! A node is down once it was connected to no instance, and carried to by no gateway, for the whole of a grace. That
//! is counted by whoever has the lease, from when it began to watch: so neither a node that reconnects nor a Control
//! that restarts wakes anybody. What was told last is a memo about the node, which outlives processes. One that goes
//! up and down again and again is told of once, until it has settled.

mod health;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use kakuremichi_core::{
    id::NodeId,
    model::Node,
    store::{RecordId, StoreError, Stored},
};
use tokio::time::sleep;

use self::health::Health;
use super::Hub;
use crate::{lease::Lease, memo, service::UseCaseError};

/// The lease of whoever watches.
pub(crate) const LEASE: &str = "outages";
/// The name of the memo.
const MEMO: &str = "health";
/// How often it is looked, as a part of the grace; at least every five seconds, at most twice a second.
const LOOKS: u32 = 4;
const SELDOM: Duration = Duration::from_secs(5);
const OFTEN: Duration = Duration::from_millis(500);
/// How often the nodes are read anew, at least.
const READ: Duration = Duration::from_secs(60);

/// What whoever has the lease knows.
struct Watch {
    nodes: Vec<Node>,
    read: Instant,
    /// What was told last, of those of which anything is known.
    health: BTreeMap<NodeId, Health>,
    /// Since when nodes are seen to be away.
    away: BTreeMap<NodeId, Instant>,
}

impl Hub {
    /// Watches, whenever this process has the lease. A node is down after `grace`. Runs for ever.
    pub(crate) async fn watch_outages(self: Arc<Self>, grace: Duration) {
        let lease = self.use_cases.lease(LEASE);
        let mut watch = None;
        loop {
            if let Err(error) = self.look(&lease, grace, &mut watch).await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the nodes cannot be watched"
                );
            }
            sleep((grace / LOOKS).clamp(OFTEN, SELDOM)).await;
        }
    }

    async fn look(
        &self,
        lease: &Lease,
        grace: Duration,
        watch: &mut Option<Watch>,
    ) -> Result<(), UseCaseError> {
        if !lease.hold().await? {
            *watch = None;
            return Ok(());
        }
        let now = Instant::now();
        let watch = match watch {
            Some(watch) => {
                if now.saturating_duration_since(watch.read) >= grace.min(READ) {
                    watch.nodes = self.watched_nodes().await?;
                    watch.read = now;
                }
                watch
            }
            None => watch.insert(Watch {
                nodes: self.watched_nodes().await?,
                read: now,
                health: self.known_health().await?,
                away: BTreeMap::new(),
            }),
        };
        let ids: Vec<NodeId> = watch.nodes.iter().map(|node| node.id).collect();
        let seen = self.seen(&ids).await?;
        let absent = |node: &&Node| seen.get(&node.id).is_none_or(|seen| seen.connected.is_none());
        let agents = watch
            .nodes
            .iter()
            .filter(absent)
            .filter_map(|node| match node.id {
                NodeId::Agent(agent) => Some((node.organization, agent)),
                NodeId::Gateway(_) => None,
            });
        let agents: BTreeSet<_> = agents.collect();
        let mut carried = self.registry.carried(agents.iter().copied());
        let others: BTreeSet<_> = agents.difference(&carried).copied().collect();
        carried.extend(self.carried_elsewhere(&others).await?);
        watch.away.retain(|id, _| seen.contains_key(id));
        watch.health.retain(|id, _| seen.contains_key(id));
        for node in &watch.nodes {
            let there = !absent(&node)
                || matches!(node.id, NodeId::Agent(agent) if carried.contains(&(node.organization, agent)));
            let down = if there {
                watch.away.remove(&node.id);
                false
            } else {
                let since = *watch.away.entry(node.id).or_insert(now);
                if now.saturating_duration_since(since) < grace {
                    continue;
                }
                true
            };
            let before = watch.health.get(&node.id);
            let (after, event) = Health::next(before, down, SystemTime::now().into());
            if before == after.as_ref() {
                continue;
            }
            if let Some(after) = after
                && self.tell(node, before, &after, event).await?
            {
                watch.health.insert(node.id, after);
            }
        }
        Ok(())
    }

    /// Tells what happened to a node, and remembers that it was told. Returns whether the node is still there.
    async fn tell(
        &self,
        node: &Node,
        before: Option<&Health>,
        after: &Health,
        event: Option<&'static str>,
    ) -> Result<bool, UseCaseError> {
        let store = self.use_cases.store();
        let there = store.entity::<Node>(node.id).await?;
        if there.is_none_or(|node| !node.value.is_active()) {
            return Ok(false);
        }
        // First the event, so that a process that dies in between repeats it rather than to lose it.
        if let Some(event) = event {
            self.use_cases
                .note_event(node.organization, event, node.id)
                .await?;
        }
        let before = before.map(memo::text);
        store
            .set_memo(node.id.into(), MEMO, before.as_deref(), &memo::text(after))
            .await?;
        Ok(true)
    }

    async fn watched_nodes(&self) -> Result<Vec<Node>, StoreError> {
        let nodes: Vec<Stored<Node>> = self.use_cases.store().all(None).await?;
        let nodes = nodes.into_iter().map(|node| node.value);
        Ok(nodes.filter(Node::is_active).collect())
    }

    async fn known_health(&self) -> Result<BTreeMap<NodeId, Health>, StoreError> {
        let (mut known, mut after) = (BTreeMap::new(), None);
        loop {
            let memos = self.use_cases.store().memos(MEMO, after).await?;
            let Some((last, _)) = memos.last() else {
                return Ok(known);
            };
            after = Some(*last);
            for (about, text) in memos {
                if let RecordId::Node(node) = about {
                    known.insert(node, memo::read(MEMO, &text)?);
                }
            }
        }
    }
}
