//! Flows through siblings: those that this gateway offers, and those that it passes on.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use kakuremichi_proto::{lane::RELAY_PORT, preface::Preface};

use super::{Lanes, encoded, peer, reason, written};
use crate::{
    engine::Connect,
    gateway::{
        balance::Reach,
        siblings::{Candidate, RelayGrant},
        upstream::{FlowError, FlowRequest, SpliceOutcome},
    },
    stream::TunnelStream,
    streams::flow::LaneFlow,
};

/// How long a sibling has to take a flow: it is no farther than any server.
const SIBLING: Duration = Duration::from_secs(3);

impl Lanes {
    /// Offers a flow to one sibling after the other. Whether the agent has it is waited for, as only then
    /// it is known that no other has to be asked.
    pub(super) async fn open_through_siblings(
        &self,
        candidates: &[Candidate],
        request: &FlowRequest<'_>,
    ) -> Result<TunnelStream, FlowError> {
        let mut last = FlowError::Offline;
        for candidate in candidates {
            let opened = async {
                let connect = self.to_sibling(candidate, request)?;
                let mut stream = self.shards.connect(connect).await?;
                stream.connected().await.map_err(|error| reason(&error))?;
                Ok(stream)
            };
            match opened.await {
                Ok(stream) => {
                    self.siblings.passes_on();
                    request.relay.set(Some(candidate.sibling));
                    return Ok(stream);
                }
                Err(error) => {
                    self.siblings.failed(candidate.sibling, error);
                    last = error;
                    if !may_ask_another(error) {
                        break;
                    }
                }
            }
        }
        Err(last)
    }

    /// Opens a flow that a sibling asked for, straight to the agent or not at all, and waits until the agent
    /// has it. The sibling has a [`Permit`](kakuremichi_core::policy::Permit), of which the grant is the
    /// sequel.
    pub(crate) async fn pass_on(
        &self,
        grant: &RelayGrant,
        preface: Preface,
    ) -> Result<TunnelStream, FlowError> {
        let via = grant.via();
        let (local, remote) = (preface.destination, preface.source);
        let preface = written(&grant.onward(preface), Preface::encode)?;
        let mut stream = if let Some(agent) = self.over_streams(&via) {
            let connection = self.begin_with(agent, grant.port, &preface).await?;
            let home = self.streams.home(&connection);
            let flow = LaneFlow::opened(connection, home, Arc::default());
            TunnelStream::over_lane(flow, local, remote)
        } else if self.direct(&via) == Reach::Online {
            let known = self.known.load().peers.get(&peer(&via)).copied();
            let (keys, address) = known.ok_or(FlowError::Offline)?;
            let mut connect = Connect::new(self.key(keys), SocketAddr::from((address, grant.port.get())));
            connect.preface = Some(preface);
            connect.expect_reply = true;
            connect.timeout = self.connect;
            self.shards.connect(connect).await?
        } else {
            return Err(FlowError::Offline);
        };
        stream.connected().await.map_err(|error| reason(&error))?;
        Ok(stream)
    }

    /// A flow to the port of a sibling at which it takes flows to pass on.
    fn to_sibling(&self, candidate: &Candidate, request: &FlowRequest<'_>) -> Result<Connect, FlowError> {
        let address = self.siblings.address(candidate.sibling);
        let (keys, address) = address.ok_or(FlowError::Offline)?;
        let gateway = self.known.load().gateway.ok_or(FlowError::Offline)?;
        let mut connect = Connect::new(self.key(keys), SocketAddr::from((address, RELAY_PORT)));
        connect.preface = Some(encoded(request, gateway)?);
        connect.expect_reply = true;
        connect.timeout = self.connect.min(SIBLING);
        Ok(connect)
    }

    /// Offers a socket to one sibling after the other.
    pub(super) async fn splice_through_siblings(
        &self,
        candidates: &[Candidate],
        mut socket: std::net::TcpStream,
        request: &FlowRequest<'_>,
    ) -> SpliceOutcome {
        let mut last = FlowError::Offline;
        for candidate in candidates {
            let connect = match self.to_sibling(candidate, request) {
                Ok(connect) => connect,
                Err(error) => return SpliceOutcome::failed(error, Some(socket)),
            };
            request.relay.set(Some(candidate.sibling));
            let outcome = self.splice_through_engine(connect, socket, request).await;
            let Some(error) = outcome.error else {
                self.siblings.passes_on();
                return outcome;
            };
            if outcome.received > 0 {
                // It was taken, and broke off later.
                self.siblings.passes_on();
                return outcome;
            }
            self.siblings.failed(candidate.sibling, error);
            match outcome.returned {
                Some(returned) if may_ask_another(error) => (last, socket) = (error, returned),
                _ => return outcome,
            }
        }
        request.relay.set(None);
        SpliceOutcome::failed(last, Some(socket))
    }
}

/// Whether another sibling may have another answer. What is said about the target is true of it
/// everywhere.
const fn may_ask_another(error: FlowError) -> bool {
    match error {
        FlowError::Offline | FlowError::Overloaded | FlowError::Denied | FlowError::Broken => true,
        FlowError::Refused | FlowError::TimedOut | FlowError::Unreachable | FlowError::Certificate => false,
    }
}
