//! The other gateways of this deployment, and flows through them.
//!
//! Gateways hold WireGuard lanes to each other ([`lanes`]) and tell each other over them which agents they
//! reach ([`feed`]), which each writes down ([`board`]). A gateway that is asked for an agent to which it
//! has no lane offers the flow to those siblings that have one ([`choice`]). A sibling judges it by its
//! own plan ([`table`]) and passes it on ([`relays`]), straight to the agent: a flow makes one hop. None of
//! this asks Control.

mod board;
mod choice;
mod feed;
mod lanes;
mod relays;
mod table;

pub(crate) use choice::Candidate;
pub(super) use feed::Told;
pub(super) use lanes::SiblingLanes;
pub(crate) use relays::Relays;
pub(crate) use table::RelayGrant;

use std::{
    net::Ipv6Addr,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use kakuremichi_core::{
    id::{AgentId, GatewayId, TargetId},
    plan::GatewayPlan,
};

use self::{board::Board, table::RelayTable};
use super::{balance::Health, metrics::Counters, settings::Limits, upstream::FlowError};
use crate::peer::PeerKeys;

/// The siblings to which a gateway holds lanes. Of more, those with the largest identifiers are left out,
/// with a warning.
const MAX_SIBLINGS: usize = 32;

/// What all shards of a gateway know of its siblings.
#[derive(Debug, Clone)]
pub(crate) struct Siblings(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    table: ArcSwap<RelayTable>,
    board: RwLock<Board>,
    /// Flows that are passed on for siblings now, and how many there may be.
    relayed: AtomicUsize,
    limit: usize,
    /// The same of sessions.
    sessions: AtomicUsize,
    session_limit: usize,
    /// How many sessions siblings refused.
    refused: AtomicUsize,
    counters: Arc<Counters>,
}

impl Siblings {
    /// Passes on as many flows and sessions at a time as `limits` say.
    pub(crate) fn new(limits: &Limits, counters: Arc<Counters>) -> Self {
        Self(Arc::new(Shared {
            table: ArcSwap::default(),
            board: RwLock::default(),
            relayed: AtomicUsize::new(0),
            limit: limits.relayed_flows,
            sessions: AtomicUsize::new(0),
            session_limit: limits.relayed_sessions,
            refused: AtomicUsize::new(0),
            counters,
        }))
    }

    /// Follows a new plan: who is no longer in it has said nothing.
    pub(crate) fn apply(&self, plan: &GatewayPlan) {
        let table = RelayTable::new(plan);
        self.board_mut().keep(|sibling| table.is_sibling(sibling));
        self.0.table.store(Arc::new(table));
    }

    /// Where a sibling is in the overlay, and its keys.
    pub(crate) fn address(&self, sibling: GatewayId) -> Option<(PeerKeys, Ipv6Addr)> {
        self.0.table.load().address(sibling)
    }

    /// The siblings to offer a flow to, best first. `lane` tells the round trip of a lane that is up.
    pub(crate) fn candidates(
        &self,
        agent: AgentId,
        target: TargetId,
        lane: impl Fn(PeerKeys) -> Option<Duration>,
    ) -> Vec<Candidate> {
        choice::order(self.reaching(agent, target, lane))
    }

    /// Whether a sibling reaches an agent, by a lane that is up.
    pub(crate) fn reach(&self, agent: AgentId, lane: impl Fn(PeerKeys) -> Option<Duration>) -> bool {
        let (table, board) = (self.0.table.load(), self.board());
        board.reaching(agent).any(|sibling| {
            let address = table.address(sibling);
            address.is_some_and(|(keys, _)| lane(keys).is_some())
        })
    }

    /// What siblings that reach an agent say about one of its targets: the best word of all.
    pub(crate) fn health(
        &self,
        agent: AgentId,
        target: TargetId,
        lane: impl Fn(PeerKeys) -> Option<Duration>,
    ) -> Health {
        choice::best_word(self.reaching(agent, target, lane))
    }

    /// A sibling has taken a flow.
    pub(crate) fn passes_on(&self) {
        self.0.counters.relay_flows.one();
    }

    /// A sibling has not taken a flow.
    pub(crate) fn failed(&self, sibling: GatewayId, error: FlowError) {
        self.0.counters.relay_failures.one();
        tracing::debug!(gateway = %sibling, %error, "a sibling does not pass a flow on");
    }

    /// A sibling has refused a session.
    pub(crate) fn refused_session(&self, sibling: GatewayId) {
        self.0.refused.fetch_add(1, Ordering::Relaxed);
        self.failed(sibling, FlowError::Refused);
    }

    /// How many sessions siblings refused.
    pub(crate) fn refused_sessions(&self) -> usize {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// Whether one sibling reaches an agent, and is reached.
    pub(crate) fn reaches(
        &self,
        sibling: GatewayId,
        agent: AgentId,
        lane: impl Fn(PeerKeys) -> Option<Duration>,
    ) -> bool {
        let reached = self
            .address(sibling)
            .is_some_and(|(keys, _)| lane(keys).is_some());
        reached && self.board().reaching(agent).any(|reaching| reaching == sibling)
    }

    fn reaching(
        &self,
        agent: AgentId,
        target: TargetId,
        lane: impl Fn(PeerKeys) -> Option<Duration>,
    ) -> Vec<Candidate> {
        let (table, board) = (self.0.table.load(), self.board());
        let reaching = board.reaching(agent).filter_map(|sibling| {
            let (keys, _) = table.address(sibling)?;
            Some(Candidate {
                sibling,
                rtt: lane(keys)?,
                health: board.health(sibling, target),
            })
        });
        reaching.collect()
    }

    /// How many agents a sibling says that it reaches.
    fn agents(&self, sibling: GatewayId) -> usize {
        self.board().agents(sibling)
    }

    fn board(&self) -> RwLockReadGuard<'_, Board> {
        // Nothing that is done under the lock panics half way.
        self.0.board.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn board_mut(&self) -> RwLockWriteGuard<'_, Board> {
        self.0.board.write().unwrap_or_else(PoisonError::into_inner)
    }
}
