//! Sessions of datagrams: over TLS streams, through the engine, and through siblings.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use kakuremichi_core::{
    id::AgentId,
    model::VirtualPort,
    plan::{PlannedTarget, Via},
};
use kakuremichi_proto::{lane::RELAY_PORT, preface::Preface};

use super::{Lanes, Way, peer, preface, written};
use crate::{
    engine::OpenSession,
    gateway::{
        balance::Reach,
        siblings::{Candidate, RelayGrant},
        upstream::{FlowError, FlowRequest, OpenedSession, SessionWay},
    },
    session::TunnelSession,
    streams::datagrams,
};

impl Lanes {
    /// Opens a session on the lane that takes new ones.
    pub(super) async fn open_session(
        &self,
        request: &FlowRequest<'_>,
        idle: Duration,
    ) -> Result<OpenedSession, FlowError> {
        let via = &request.target.via;
        let (session, way) = match (self.way(request.target), via) {
            (Way::Streams(agent), Via::Agent { port, .. }) => {
                let preface = self.datagram_preface(request)?;
                let ends = (request.visitor.local, request.visitor.address);
                let opened = self.session_over_streams((agent, *port), &preface, ends, idle);
                (opened.await?, SessionWay::Streams)
            }
            (Way::Siblings(candidates), _) => {
                return self.session_through_sibling(&candidates, request, idle).await;
            }
            (Way::Engine | Way::Streams(_), _) => {
                let preface = match via {
                    Via::Agent { .. } => Some(self.datagram_preface(request)?),
                    Via::Site { .. } => None,
                };
                let opened = self.session_through_engine(via, preface, idle);
                (opened.await?, SessionWay::Engine)
            }
        };
        Ok(OpenedSession { session, way })
    }

    /// Opens a session that a sibling asked for, straight to the agent or not at all. The sibling has a
    /// [`Permit`](kakuremichi_core::policy::Permit), of which the grant is the sequel.
    pub(crate) async fn pass_session_on(
        &self,
        grant: &RelayGrant,
        preface: Preface,
        idle: Duration,
    ) -> Result<OpenedSession, FlowError> {
        let via = grant.via();
        let ends = (preface.destination, preface.source);
        let preface = written(&grant.onward(preface), Preface::encode_datagram)?;
        let (session, way) = if let Some(agent) = self.over_streams(&via) {
            let opened = self.session_over_streams((agent, grant.port), &preface, ends, idle);
            (opened.await?, SessionWay::Streams)
        } else if self.direct(&via) == Reach::Online {
            let opened = self.session_through_engine(&via, Some(preface), idle);
            (opened.await?, SessionWay::Engine)
        } else {
            return Err(FlowError::Offline);
        };
        Ok(OpenedSession { session, way })
    }

    async fn session_over_streams(
        &self,
        (agent, port): (AgentId, VirtualPort),
        preface: &[u8],
        ends: (SocketAddr, SocketAddr),
        idle: Duration,
    ) -> Result<TunnelSession, FlowError> {
        let place = self.streams.session_place(agent)?;
        let connection = self.begin_with(agent, port, preface).await?;
        let home = self.streams.home(&connection);
        let (session, carrier) = datagrams::open(connection, home, ends, Arc::default(), idle);
        self.streams.carry(carrier, place);
        Ok(session)
    }

    /// To an agent, or a site, unless it is known not to be there.
    async fn session_through_engine(
        &self,
        via: &Via,
        preface: Option<Vec<u8>>,
        idle: Duration,
    ) -> Result<TunnelSession, FlowError> {
        if self.direct(via) == Reach::Offline {
            return Err(FlowError::Offline);
        }
        let known = self.known.load().peers.get(&peer(via)).copied();
        let (keys, overlay) = known.ok_or(FlowError::Offline)?;
        let remote = match via {
            Via::Agent { port, .. } => SocketAddr::from((overlay, port.get())),
            Via::Site { address, .. } => *address,
        };
        let open = OpenSession {
            peer: self.key(keys),
            remote,
            preface,
            idle,
            meter: Arc::default(),
        };
        Ok(self.shards.open_session(open).await?)
    }

    /// To the port of a sibling at which it takes what it is to pass on. Whether it does shows by its answers
    /// only: after one that refused, the next session tries another.
    async fn session_through_sibling(
        &self,
        candidates: &[Candidate],
        request: &FlowRequest<'_>,
        idle: Duration,
    ) -> Result<OpenedSession, FlowError> {
        let turn = self.siblings.refused_sessions() % candidates.len().max(1);
        let sibling = candidates.get(turn).ok_or(FlowError::Offline)?.sibling;
        let (keys, overlay) = self.siblings.address(sibling).ok_or(FlowError::Offline)?;
        let open = OpenSession {
            peer: self.key(keys),
            remote: SocketAddr::from((overlay, RELAY_PORT)),
            preface: Some(self.datagram_preface(request)?),
            idle,
            meter: Arc::default(),
        };
        let session = self.shards.open_session(open).await?;
        self.siblings.passes_on();
        request.relay.set(Some(sibling));
        let way = SessionWay::Sibling(sibling);
        Ok(OpenedSession { session, way })
    }

    fn datagram_preface(&self, request: &FlowRequest<'_>) -> Result<Vec<u8>, FlowError> {
        let gateway = self.known.load().gateway.ok_or(FlowError::Offline)?;
        written(&preface(request, gateway), Preface::encode_datagram)
    }

    /// Whether a session is left where it is.
    pub(super) fn session_stays(&self, target: &PlannedTarget, way: SessionWay) -> bool {
        match (way, &target.via) {
            (SessionWay::Streams, _) | (SessionWay::Sibling(_), Via::Site { .. }) => true,
            (SessionWay::Engine, via) => {
                self.direct(via) == Reach::Online || matches!(self.way(target), Way::Engine)
            }
            (SessionWay::Sibling(sibling), Via::Agent { agent, .. }) => {
                self.siblings
                    .reaches(sibling, *agent, |keys| self.round_trip(keys))
            }
        }
    }

    /// Whether a session that is passed on goes on as it was opened.
    pub(crate) fn carries_on(&self, grant: &RelayGrant, way: SessionWay) -> bool {
        way != SessionWay::Engine || self.direct(&grant.via()) == Reach::Online
    }
}
