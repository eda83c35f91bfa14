//! What a gateway says about itself: its state as one value.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use kakuremichi_core::{
    id::{GatewayId, PeerId, ServiceId},
    name::{HostPattern, Label},
    plan::{GatewayPeer, GatewayPlan, GatewaySibling, PlannedKind, Revision},
};
use kakuremichi_proto::report::{self, LaneEnd};
pub use kakuremichi_proto::report::{CertificateStatus, LaneKind};

pub use super::ingress::tcp::PortStatus;
use super::streams::StreamView;
use crate::{
    engine::PeerView,
    lane::{PathHealth, is_another_round_trip},
    link::LinkStatus,
};

/// Everything about a gateway, at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GatewayStatus {
    /// Whether it takes visitors.
    pub phase: Phase,
    /// The link to Control. It says nothing about the data path.
    pub link: LinkStatus,
    /// The plan that is served; none while there is none that knows this gateway.
    pub revision: Option<Revision>,
    /// The lanes that were up when the process before this one stopped are up again, or had their time.
    pub settled: bool,
    /// The lane to each peer of the plan, in the order of the plan.
    pub peers: Vec<PeerStatus>,
    /// The lane to each other gateway, in the order of the plan.
    pub siblings: Vec<SiblingStatus>,
    /// The services, in the order of the plan.
    pub services: Arc<[ServiceStatus]>,
    /// The ports of TCP services, and behind them those of UDP services.
    pub ports: Vec<PortStatus>,
    /// The certificates that do not renew themselves.
    pub certificates: Vec<CertificateStatus>,
}

impl GatewayStatus {
    /// Whether a visitor who comes now is served as well as can be: there is a plan, the gateway does not
    /// drain, and lanes that a restart has interrupted are back.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Running && self.revision.is_some() && self.settled
    }
}

/// Whether a gateway takes visitors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// It does.
    Running,
    /// It is about to stop, or Control asks for it to be left alone: it is not ready, so that load
    /// balancers send visitors elsewhere.
    Draining,
    /// It has stopped.
    Closed,
}

/// A lane to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStatus {
    /// The peer.
    pub id: PeerId,
    /// Its name.
    pub name: Label,
    /// What the lane is made of: the one that takes new flows.
    pub kind: LaneKind,
    /// Whether the lane carries.
    pub state: PeerState,
    /// Since when it is in this state.
    pub since: SystemTime,
    /// Where the peer is.
    pub endpoint: Option<SocketAddr>,
    /// The longest packet that passes to it over WireGuard, as far as is known, in bytes; zero for a peer
    /// that is not probed.
    pub mtu: u16,
}

/// Whether a lane to a peer carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerState {
    /// It has not been found out yet.
    Probing,
    /// Probes are answered, or a peer that is not probed has a session.
    Up {
        /// The smoothed round trip; zero for a peer that is not probed.
        rtt: Duration,
    },
    /// It does not.
    Down,
}

/// A lane to another gateway, through which flows to agents are passed on that only one of the two has a
/// lane to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SiblingStatus {
    /// The other gateway.
    pub id: GatewayId,
    /// Its name.
    pub name: Label,
    /// Whether the lane carries.
    pub state: PeerState,
    /// Since when it is in this state.
    pub since: SystemTime,
    /// Where the other gateway is.
    pub endpoint: Option<SocketAddr>,
    /// The agents that it reaches, as it says.
    pub agents: usize,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceStatus {
    /// Its identifier.
    pub id: ServiceId,
    /// Its name.
    pub name: Label,
    /// The hosts of an HTTP service.
    pub hosts: Vec<HostPattern>,
    /// The port of a TCP or UDP service.
    pub port: Option<u16>,
}

impl PeerState {
    /// What is known of a path, without the time.
    pub(super) const fn of(health: Option<PathHealth>) -> Self {
        match health {
            None | Some(PathHealth::Unknown) => Self::Probing,
            Some(PathHealth::Up { rtt, .. }) => Self::Up { rtt },
            Some(PathHealth::Down { .. }) => Self::Down,
        }
    }

    /// The same, with a round trip that is almost the one that was told before told again.
    fn settled(self, before: Option<Self>) -> Self {
        match (before, self) {
            (Some(told @ Self::Up { rtt: was }), Self::Up { rtt }) if !is_another_round_trip(was, rtt) => {
                told
            }
            _ => self,
        }
    }

    /// Whether the two differ by more than a round trip.
    pub(super) fn is_other(self, other: Self) -> bool {
        std::mem::discriminant(&self) != std::mem::discriminant(&other)
    }
}

impl PeerStatus {
    /// A peer as it is now; `before` is how it was.
    pub(super) fn observe(
        peer: &GatewayPeer,
        view: Option<&PeerView>,
        stream: Option<StreamView>,
        before: Option<&Self>,
        now: SystemTime,
    ) -> Self {
        let wireguard = view.map(|view| view.health);
        let up = matches!(wireguard, Some(PathHealth::Up { .. }));
        let stream = stream
            .filter(StreamView::is_up)
            .filter(|stream| !up || stream.choice == LaneKind::TlsStream);
        let (kind, health) = match stream {
            Some(stream) => (LaneKind::TlsStream, Some(stream.health)),
            None => (LaneKind::WireGuard, wireguard),
        };
        let state = PeerState::of(health).settled(before.map(|before| before.state));
        let since = before
            .filter(|before| !before.state.is_other(state))
            .map_or(now, |before| before.since);
        Self {
            id: peer.id,
            name: peer.name.clone(),
            kind,
            state,
            since,
            endpoint: view.and_then(|view| view.endpoint),
            mtu: view.map_or(0, |view| view.mtu),
        }
    }

    /// What Control is told; nothing while nothing is known.
    pub(super) fn report(&self) -> Option<report::LaneStatus> {
        let (state, rtt) = match self.state {
            PeerState::Probing => return None,
            PeerState::Up { rtt } => (report::LaneState::Up, Some(rtt).filter(|rtt| !rtt.is_zero())),
            PeerState::Down => (report::LaneState::Down, None),
        };
        Some(report::LaneStatus {
            end: match self.id {
                PeerId::Agent(agent) => LaneEnd::Agent(agent),
                PeerId::Site(site) => LaneEnd::Site(site),
            },
            kind: self.kind,
            state,
            rtt,
            since: self.since.into(),
            error: None,
        })
    }
}

impl SiblingStatus {
    /// A sibling as it is now; `before` is how it was.
    pub(super) fn observe(
        sibling: &GatewaySibling,
        view: Option<&PeerView>,
        agents: usize,
        before: Option<&Self>,
        now: SystemTime,
    ) -> Self {
        let state = PeerState::of(view.map(|view| view.health));
        let state = state.settled(before.map(|before| before.state));
        let since = before
            .filter(|before| !before.state.is_other(state))
            .map_or(now, |before| before.since);
        Self {
            id: sibling.id,
            name: sibling.name.clone(),
            state,
            since,
            endpoint: view.and_then(|view| view.endpoint),
            agents,
        }
    }
}

/// The services of a plan.
pub(super) fn services(plan: &GatewayPlan) -> Arc<[ServiceStatus]> {
    plan.services()
        .map(|service| {
            let (hosts, port) = match &service.kind {
                PlannedKind::Http { hosts, .. } => (hosts.clone(), None),
                PlannedKind::Tcp { port, .. } | PlannedKind::Udp { port, .. } => (Vec::new(), Some(*port)),
            };
            ServiceStatus {
                id: service.id,
                name: service.name.clone(),
                hosts,
                port,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::disallowed_methods,
        reason = "a test needs some instants to start from"
    )]

    use std::time::Instant;

    use kakuremichi_core::{id::AgentId, key::WireGuardKey};

    use super::*;

    /// Control is told of what changes, not of every probe.
    #[test]
    fn a_round_trip_that_is_almost_the_same_is_no_news() {
        let peer = GatewayPeer {
            id: PeerId::Agent(AgentId::from_bytes([1; 16])),
            name: "edge".parse().unwrap(),
            identity: None,
            wireguard: WireGuardKey::from_bytes([1; 32]),
            address: std::net::Ipv6Addr::LOCALHOST,
            allowed_ips: Vec::new(),
            endpoint: None,
        };
        let view = |rtt| PeerView {
            health: PathHealth::Up {
                since: Instant::now(),
                rtt: Duration::from_micros(rtt),
            },
            doubtful: false,
            session_since: None,
            last_received: None,
            endpoint: None,
            mtu: 1_420,
            received_bytes: 0,
            sent_bytes: 0,
        };
        let observe =
            |rtt, before| PeerStatus::observe(&peer, Some(&view(rtt)), None, before, SystemTime::now());
        let first = observe(20_000, None);
        assert_eq!(observe(24_000, Some(&first)), first);
        assert_ne!(observe(26_000, Some(&first)), first);
        let down = PeerStatus::observe(&peer, None, None, Some(&first), SystemTime::now());
        assert!(down.state.is_other(first.state));
    }
}
