//! Each node's newest session, and what is known of the node.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use kakuremichi_core::{
    code::Code,
    id::{AgentId, NodeId, OrganizationId},
    model::Node,
    time::Timestamp,
};
use kakuremichi_proto::{
    plan::WirePlan,
    report::{CertificateStatus, LaneEnd, LaneState},
    session::Reason,
};
use tokio::sync::{Mutex as Turn, watch};

use super::Presence;
use crate::service::Actor;

/// Each node's newest session. A node has one place here from its first connection on, until it is deleted.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<BTreeMap<NodeId, Place>>);

/// Since when a node is connected, and when its last connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    pub(crate) connected: Option<Timestamp>,
    pub(crate) disconnected: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Place {
    /// Known once a session was opened.
    organization: Option<OrganizationId>,
    session: Option<Session>,
    presence: Presence,
    /// The newest plan that the node acknowledged: after a reconnect, plans are sent as a difference to it.
    acknowledged: Option<Arc<WirePlan>>,
    turn: Arc<Turn<()>>,
}

#[derive(Debug)]
struct Session {
    number: u64,
    end: watch::Sender<Option<Reason>>,
}

/// A session in which a node does something.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    pub(super) node: NodeId,
    pub(super) session: u64,
    /// The node, in its organization.
    pub(super) actor: Actor,
    /// Held while something is done for the node, so that what an older session asked for never comes after
    /// what a newer one did.
    pub(super) turn: Arc<Turn<()>>,
}

impl Registry {
    /// Opens a session; an older one of the node is told that it was superseded. The receiver turns when
    /// this one has to end.
    pub(super) fn open(&self, node: &Node, session: u64) -> (Seat, watch::Receiver<Option<Reason>>) {
        let (end, ended) = watch::channel(None);
        let mut places = self.places();
        let place = places.entry(node.id).or_default();
        let number = session;
        if let Some(older) = place.session.replace(Session { number, end }) {
            // Not permanent: two processes with one identity would both give up.
            let reason = Reason::passing(Code::SUPERSEDED, "a newer connection of this node took over");
            older.end.send_replace(Some(reason));
        }
        place.organization = Some(node.organization);
        place.presence.connected = Some(SystemTime::now().into());
        let seat = Seat {
            node: node.id,
            session,
            actor: Actor::node(node),
            turn: Arc::clone(&place.turn),
        };
        (seat, ended)
    }

    /// Whether this is the node's newest session.
    pub(super) fn is_newest(&self, seat: &Seat) -> bool {
        let places = self.places();
        let newest = places.get(&seat.node).and_then(|place| place.session.as_ref());
        newest.is_some_and(|session| session.number == seat.session)
    }

    /// Whether a node is connected.
    pub(super) fn is_connected(&self, node: NodeId) -> bool {
        self.places()
            .get(&node)
            .is_some_and(|place| place.session.is_some())
    }

    /// Those of these agents that a connected gateway of their organization carries to: a probe through the lane
    /// was answered lately.
    pub(super) fn carried(
        &self,
        agents: impl IntoIterator<Item = (OrganizationId, AgentId)>,
    ) -> BTreeSet<(OrganizationId, AgentId)> {
        let places = self.places();
        let gateways = places.iter().filter(|(node, place)| {
            matches!(node, NodeId::Gateway(_)) && place.session.is_some() && place.organization.is_some()
        });
        // There are few gateways, and each has a lane to every agent.
        let gateways: Vec<_> = gateways.map(|(_, place)| place).collect();
        let carries = |(organization, agent): &(OrganizationId, AgentId)| {
            gateways.iter().any(|gateway| {
                let lane = gateway.presence.status.lanes.get(&LaneEnd::Agent(*agent));
                gateway.organization == Some(*organization)
                    && lane.is_some_and(|lane| lane.state == LaneState::Up)
            })
        };
        agents.into_iter().filter(carries).collect()
    }

    /// The certificates of each connected gateway that said which it has.
    pub(super) fn certificates(&self) -> Vec<(NodeId, OrganizationId, Vec<CertificateStatus>)> {
        let places = self.places();
        let connected = places.iter().filter(|(_, place)| place.session.is_some());
        connected
            .filter_map(|(node, place)| {
                let certificates = &place.presence.status.certificates;
                let there = !certificates.is_empty();
                there.then_some((*node, place.organization?, certificates.clone()))
            })
            .collect()
    }

    /// Whether an agent is connected, or a gateway carries to it.
    pub(super) fn is_there(&self, organization: OrganizationId, agent: AgentId) -> bool {
        self.is_connected(agent.into()) || !self.carried([(organization, agent)]).is_empty()
    }

    /// What is held while something is done for a node that may not be connected. Its place, if it had none,
    /// goes with [`tidy`](Self::tidy).
    pub(super) fn turn(&self, node: NodeId) -> Arc<Turn<()>> {
        Arc::clone(&self.places().entry(node).or_default().turn)
    }

    /// Takes back the place of a node that nothing is known of, and for which nothing is being done.
    pub(super) fn tidy(&self, node: NodeId) {
        let mut places = self.places();
        if let Some(place) = places.get(&node)
            && place.session.is_none()
            && place.presence == Presence::default()
            && Arc::strong_count(&place.turn) == 1
        {
            places.remove(&node);
        }
    }

    /// The node has this plan, if this is its newest session.
    pub(super) fn acknowledge(&self, seat: &Seat, plan: Arc<WirePlan>) {
        self.change(seat, |place| place.acknowledged = Some(plan));
    }

    /// The newest plan that a node acknowledged.
    pub(super) fn acknowledged(&self, node: NodeId) -> Option<Arc<WirePlan>> {
        self.places().get(&node)?.acknowledged.clone()
    }

    /// A session has ended. Returns whether the node has no other.
    pub(super) fn close(&self, seat: &Seat) -> bool {
        let mut places = self.places();
        let Some(place) = places.get_mut(&seat.node) else {
            return true;
        };
        let newest = place
            .session
            .as_ref()
            .is_none_or(|session| session.number == seat.session);
        if newest {
            place.session = None;
            place.presence.connected = None;
            place.presence.disconnected = Some(SystemTime::now().into());
            place.presence.rtt = None;
        }
        newest
    }

    /// Changes what is known of a node, if this is its newest session.
    pub(super) fn update(&self, seat: &Seat, change: impl FnOnce(&mut Presence)) {
        self.change(seat, |place| change(&mut place.presence));
    }

    fn change(&self, seat: &Seat, change: impl FnOnce(&mut Place)) {
        if let Some(place) = self.places().get_mut(&seat.node)
            && place
                .session
                .as_ref()
                .is_some_and(|session| session.number == seat.session)
        {
            change(place);
        }
    }

    /// Nothing is to be known of a node any more.
    pub(super) fn forget(&self, node: NodeId) {
        self.places().remove(&node);
    }

    pub(super) fn presence(&self, node: NodeId) -> Presence {
        self.places()
            .get(&node)
            .map(|place| place.presence.clone())
            .unwrap_or_default()
    }

    pub(super) fn seen(&self, node: NodeId) -> Seen {
        let places = self.places();
        let presence = places.get(&node).map(|place| &place.presence);
        presence.map_or_else(Seen::default, |presence| Seen {
            connected: presence.connected,
            disconnected: presence.disconnected,
        })
    }

    pub(super) fn connected(&self) -> usize {
        self.places()
            .values()
            .filter(|place| place.session.is_some())
            .count()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.places().is_empty()
    }

    fn places(&self) -> MutexGuard<'_, BTreeMap<NodeId, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use kakuremichi_core::store::conformance::sample;

    use super::*;

    #[test]
    fn the_newest_session_wins_and_an_old_one_says_nothing_any_more() {
        let registry = Registry::default();
        let node = sample::agent(0, 1);
        let (old, told) = registry.open(&node, 1);
        let (new, untold) = registry.open(&node, 2);
        let reason = told.borrow().as_ref().map(|reason| reason.refusal.code());
        assert_eq!(reason, Some(Some(Code::SUPERSEDED)));
        assert!(untold.borrow().is_none());
        assert!(registry.is_newest(&new) && !registry.is_newest(&old));
        registry.update(&old, |presence| presence.software = Some("old".to_owned()));
        assert_eq!(registry.presence(node.id).software, None);
        assert!(!registry.close(&old));
        assert_eq!(registry.connected(), 1);
        assert!(registry.close(&new));
        assert_eq!(
            (registry.connected(), registry.presence(node.id).connected),
            (0, None)
        );
    }
}
