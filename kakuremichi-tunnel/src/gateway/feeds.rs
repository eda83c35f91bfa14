//! What agents say on their feeds.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use kakuremichi_core::{
    id::{AgentId, PeerId},
    key::WireGuardKey,
    plan::GatewayPlan,
};
use kakuremichi_proto::lane::{FEED_PORT, FeedError, FeedFrame, parse};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{http::TaskGuard, network, serving::Serving, upstream::Upstream};
use crate::engine::{IncomingFlow, LocalShard};

/// What is read of a feed at once, in bytes. With it, a frame that is not complete is all that is kept. Small,
/// since each agent has one and seldom says anything.
const PIECE: usize = 512;

/// The feeds of all agents, at most one of each: a newer one replaces the older.
#[derive(Debug, Default)]
pub(crate) struct Feeds {
    agents: BTreeMap<WireGuardKey, AgentId>,
    open: BTreeMap<AgentId, TaskGuard>,
}

impl Feeds {
    /// Follows a new plan: who is no longer in it is no longer heard.
    pub(crate) fn apply(&mut self, plan: &GatewayPlan) {
        self.agents = plan
            .peers()
            .filter_map(|peer| match peer.id {
                PeerId::Agent(agent) => Some((network::keys(plan, peer), agent)),
                PeerId::Site(_) => None,
            })
            .flat_map(|(keys, agent)| keys.all().map(move |key| (key, agent)))
            .collect();
        let agents: BTreeSet<AgentId> = self.agents.values().copied().collect();
        self.open.retain(|open, _| agents.contains(open));
    }

    /// Hears nobody any more.
    pub(crate) fn close(&mut self) {
        *self = Self::default();
    }

    /// Takes a flow that a peer opened to this gateway: a feed of an agent, or nothing. The agent is
    /// told by the lane, never by what it says.
    pub(crate) fn take<U: Upstream>(
        &mut self,
        flow: IncomingFlow,
        local: &LocalShard,
        serving: &Rc<Serving<U>>,
    ) {
        let agent = self.agents.get(&flow.peer).copied();
        let (FEED_PORT, Some(agent)) = (flow.local.port(), agent) else {
            // Dropping it resets it.
            return;
        };
        let stream = flow.accept_stream(std::sync::Arc::default());
        let serving = Rc::clone(serving);
        let task = local.spawn(async move { listen(stream, agent, &serving).await });
        self.open.insert(agent, TaskGuard(task.abort_handle()));
    }
}

/// A feed that comes in pieces: what was said stands until something else is. An agent that is gone is
/// told by its lane.
#[derive(Debug)]
pub(super) struct FeedReader {
    /// The beginning of a frame.
    bytes: Vec<u8>,
}

impl FeedReader {
    /// A feed that begins. Whoever opens one is there to serve, unless it says otherwise.
    pub(super) fn open<U: Upstream>(agent: AgentId, serving: &Serving<U>) -> Self {
        serving.draining.set(agent, false);
        Self { bytes: Vec::new() }
    }

    /// Takes the next bytes. An error is the end of the feed.
    pub(super) fn push<U: Upstream>(
        &mut self,
        bytes: &[u8],
        agent: AgentId,
        serving: &Serving<U>,
    ) -> Result<(), FeedError> {
        self.bytes.extend_from_slice(bytes);
        let mut read = 0;
        let end = loop {
            match parse(&self.bytes[read..]) {
                Ok(Some((frame, length))) => {
                    read += length;
                    take(frame, agent, serving);
                }
                Ok(None) => break Ok(()),
                Err(error) => {
                    tracing::warn!(%agent, %error, "an agent's feed is damaged");
                    break Err(error);
                }
            }
        };
        self.bytes.drain(..read);
        end
    }
}

/// Reads a feed until it ends or breaks the protocol.
async fn listen<U: Upstream>(mut stream: impl AsyncRead + Unpin, agent: AgentId, serving: &Serving<U>) {
    let mut feed = FeedReader::open(agent, serving);
    let mut piece = Vec::with_capacity(PIECE);
    loop {
        piece.clear();
        let room = PIECE as u64;
        if !matches!((&mut stream).take(room).read_buf(&mut piece).await, Ok(1..)) {
            return;
        }
        if feed.push(&piece, agent, serving).is_err() {
            return;
        }
    }
}

fn take<U: Upstream>(frame: FeedFrame, agent: AgentId, serving: &Serving<U>) {
    let (replace, targets) = match frame {
        FeedFrame::Targets { replace, targets } => (replace, targets),
        FeedFrame::Draining(draining) => return serving.draining.set(agent, draining),
        // Of agents only gateways speak.
        FeedFrame::Agents { .. } | FeedFrame::Unknown(_) => return,
    };
    let mut health = serving.health.write();
    if replace {
        health.forget(agent);
    }
    for told in targets {
        if !health.report(agent, told.target, told.passing) {
            tracing::debug!(%agent, target_id = %told.target, "an agent speaks of a target that is not its own");
        }
    }
}

#[cfg(test)]
mod tests {
    use kakuremichi_core::{id::TargetId, policy::Policy};
    use kakuremichi_proto::lane::{TargetHealth, encode_draining, encode_targets};
    use rustls::RootCertStore;

    use super::*;
    use crate::gateway::{
        balance::Health,
        settings::Timeouts,
        testing::{PlainTcp, local, plan, serving, target, tcp_service},
    };

    /// A gateway that went on sending would keep an agent from stopping.
    #[test]
    fn an_agent_that_drains_gets_nothing_new_until_it_says_otherwise() {
        local(async {
            let plan = plan(
                1,
                [tcp_service(1, 5432, Policy::public(), vec![target(1), target(2)])],
            );
            let upstream = PlainTcp::default();
            for number in [1, 2] {
                let address = "127.0.0.1:9".parse().unwrap();
                let id = TargetId::from_bytes([number; 16]);
                upstream.addresses.borrow_mut().insert(id, address);
            }
            let serving = serving(&plan, upstream, Timeouts::default(), RootCertStore::empty());
            let port = serving
                .table
                .load()
                .port(kakuremichi_core::model::Transport::Tcp, 5432)
                .unwrap()
                .clone();
            let offered = || serving.candidates(port.pool().unwrap()).unwrap().len();
            assert_eq!(offered(), 2);
            let agent = AgentId::from_bytes([1; 16]);
            let mut bytes = Vec::new();
            encode_draining(true, &mut bytes);
            listen(bytes.as_slice(), agent, &serving).await;
            assert_eq!(offered(), 1, "also when the feed has ended");
            // Started again it opens another feed, which may be of a version that says nothing of it.
            listen([].as_slice(), agent, &serving).await;
            assert_eq!(offered(), 2);
        });
    }

    #[test]
    fn a_feed_replaces_what_was_said_and_ends_at_garbage() {
        local(async {
            let plan = plan(
                1,
                [tcp_service(1, 5432, Policy::public(), vec![target(1), target(2)])],
            );
            let serving = serving(
                &plan,
                PlainTcp::default(),
                Timeouts::default(),
                RootCertStore::empty(),
            );
            let agent = AgentId::from_bytes([1; 16]);
            let said = |number: u8, passing| TargetHealth {
                target: TargetId::from_bytes([number; 16]),
                passing,
            };
            let mut bytes = Vec::new();
            // The second target is another agent's.
            encode_targets(true, &[said(1, false), said(2, false)], &mut bytes);
            listen(bytes.as_slice(), agent, &serving).await;
            let health = |number| serving.health.read().of(&target(number));
            assert_eq!((health(1), health(2)), (Health::Failing, Health::Unknown));
            bytes.clear();
            encode_targets(true, &[], &mut bytes);
            bytes.extend([0, 0, 0]);
            encode_targets(true, &[said(1, true)], &mut bytes);
            listen(bytes.as_slice(), agent, &serving).await;
            assert_eq!(health(1), Health::Unknown);
        });
    }
}
