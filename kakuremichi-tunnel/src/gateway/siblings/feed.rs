//! What siblings tell each other over their lane: which agents they reach, and how the targets of those
//! are. The newest is told; what came between is not.

#![expect(clippy::disallowed_methods, reason = "a feed waits before it is tried again")]

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    net::{Ipv6Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use kakuremichi_core::{
    id::{AgentId, GatewayId, TargetId},
    plan::{GatewayPlan, Via},
};
use kakuremichi_proto::lane::{
    AgentReach, FEED_PORT, FeedFrame, TargetHealth, encode_agents, encode_targets, parse,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    sync::watch,
    time,
};

use super::{
    Siblings,
    board::{MAX_TOLD_AGENTS, MAX_TOLD_TARGETS},
    lanes::up,
};
use crate::{
    engine::{Connect, ShardSet},
    gateway::{
        balance::Health,
        health::{HealthBoard, targets},
    },
    peer::PeerKeys,
    stream::TunnelStream,
};

/// The pause before a feed that broke is opened again.
const PAUSE: Duration = Duration::from_secs(1);
/// What is read of a feed at once, in bytes. With it, a frame that is not complete is all that is kept.
const PIECE: usize = 4 * 1024;

/// What a gateway tells its siblings. Beyond what they keep of it, the agents and targets with the largest
/// identifiers are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Told {
    agents: BTreeSet<AgentId>,
    targets: BTreeMap<TargetId, bool>,
}

impl Told {
    /// The agents that take flows, and those of their targets of which it is known whether they pass.
    pub(crate) fn of(agents: BTreeSet<AgentId>, plan: &GatewayPlan, health: &HealthBoard) -> Self {
        let all = plan.services().flat_map(|service| targets(&service.kind));
        let mine = all.filter(|target| match target.via {
            Via::Agent { agent, .. } => agents.contains(&agent),
            Via::Site { .. } => false,
        });
        let known = mine.filter_map(|target| match health.of(target) {
            Health::Passing => Some((target.id, true)),
            Health::Failing => Some((target.id, false)),
            Health::Unknown => None,
        });
        let known = known.collect();
        Self::new(agents, known)
    }

    fn new(agents: BTreeSet<AgentId>, targets: BTreeMap<TargetId, bool>) -> Self {
        Self {
            agents: agents.into_iter().take(MAX_TOLD_AGENTS).collect(),
            targets: targets.into_iter().take(MAX_TOLD_TARGETS).collect(),
        }
    }

    /// The frames that say this to somebody who was told `before`, or nothing yet.
    fn frames(&self, before: Option<&Self>) -> Vec<u8> {
        let reach = |reached| {
            move |agent: &AgentId| AgentReach {
                agent: *agent,
                reached,
            }
        };
        let health = |(target, passing): (&TargetId, &bool)| TargetHealth {
            target: *target,
            passing: *passing,
        };
        let mut frames = Vec::new();
        let all: Vec<_> = self.targets.iter().map(health).collect();
        let Some(before) = before else {
            let agents: Vec<_> = self.agents.iter().map(reach(true)).collect();
            encode_agents(true, &agents, &mut frames);
            encode_targets(true, &all, &mut frames);
            return frames;
        };
        let gone = before.agents.difference(&self.agents).map(reach(false));
        let new = self.agents.difference(&before.agents).map(reach(true));
        let agents: Vec<_> = gone.chain(new).collect();
        if !agents.is_empty() {
            encode_agents(false, &agents, &mut frames);
        }
        if before
            .targets
            .keys()
            .any(|target| !self.targets.contains_key(target))
        {
            encode_targets(true, &all, &mut frames);
        } else {
            let changed = self.targets.iter();
            let changed = changed.filter(|(target, passing)| before.targets.get(*target) != Some(*passing));
            let changed: Vec<_> = changed.map(health).collect();
            if !changed.is_empty() {
                encode_targets(false, &changed, &mut frames);
            }
        }
        frames
    }
}

/// Keeps a feed to one sibling, for as long as the lane to it is up.
pub(super) async fn run(
    shards: ShardSet,
    sibling: Rc<Cell<PeerKeys>>,
    address: Ipv6Addr,
    mut told: watch::Receiver<Arc<Told>>,
) {
    let remote = SocketAddr::from((address, FEED_PORT));
    let mut peers = shards.watch_peers();
    loop {
        up(&shards, &mut peers, &sibling).await;
        let key = sibling.get().known(|key| shards.peer(&key).is_some());
        match shards.connect(Connect::new(key, remote)).await {
            Ok(stream) => tell(stream, &mut told).await,
            Err(error) => tracing::debug!(%key, %error, "no feed to a sibling"),
        }
        time::sleep(PAUSE).await;
    }
}

/// Tells everything, and then whatever changes, until the flow breaks.
async fn tell(stream: TunnelStream, told: &mut watch::Receiver<Arc<Told>>) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut answer = [0; 64];
    let mut before: Option<Arc<Told>> = None;
    loop {
        let now = Arc::clone(&told.borrow_and_update());
        let frames = now.frames(before.as_deref());
        if !frames.is_empty() && writer.write_all(&frames).await.is_err() {
            return;
        }
        before = Some(now);
        loop {
            tokio::select! {
                changed = told.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    break;
                }
                // A sibling says nothing here; a newer one may, and what it says is skipped.
                read = reader.read(&mut answer) => if !matches!(read, Ok(1..)) {
                    return;
                },
            }
        }
    }
}

/// A feed of a sibling, until it is dropped: then what was said is void.
struct Hearing<'a> {
    siblings: &'a Siblings,
    sibling: GatewayId,
    feed: u64,
}

impl Drop for Hearing<'_> {
    fn drop(&mut self) {
        self.siblings.board_mut().end(self.sibling, self.feed);
    }
}

impl Hearing<'_> {
    fn take(&self, frame: FeedFrame) {
        let mut board = self.siblings.board_mut();
        let beyond = match frame {
            FeedFrame::Agents { replace, agents } => {
                board.tell_agents(self.sibling, self.feed, replace, &agents)
            }
            FeedFrame::Targets { replace, targets } => {
                board.tell_targets(self.sibling, self.feed, replace, &targets)
            }
            // That an agent drains is told by leaving it out.
            FeedFrame::Draining(_) | FeedFrame::Unknown(_) => 0,
        };
        self.siblings.0.counters.sibling_overflows.add(beyond as u64);
    }
}

/// Hears a sibling, until its feed ends or breaks the protocol.
pub(super) async fn listen(mut stream: impl AsyncRead + Unpin, sibling: GatewayId, siblings: &Siblings) {
    let feed = siblings.board_mut().begin(sibling);
    let hearing = Hearing {
        siblings,
        sibling,
        feed,
    };
    let mut bytes = Vec::with_capacity(PIECE);
    while matches!(
        (&mut stream).take(PIECE as u64).read_buf(&mut bytes).await,
        Ok(1..)
    ) {
        let mut read = 0;
        loop {
            match parse(&bytes[read..]) {
                Ok(Some((frame, length))) => {
                    read += length;
                    hearing.take(frame);
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(gateway = %sibling, %error, "a sibling's feed is damaged");
                    return;
                }
            }
        }
        bytes.drain(..read);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::testing::local;

    const SIBLING: GatewayId = GatewayId::from_bytes([1; 16]);

    fn told(agents: &[u8], targets: &[(u8, bool)]) -> Told {
        Told::new(
            agents
                .iter()
                .map(|number| AgentId::from_bytes([*number; 16]))
                .collect(),
            targets
                .iter()
                .map(|(number, passing)| (TargetId::from_bytes([*number; 16]), *passing))
                .collect(),
        )
    }

    /// What is said in pieces is what would have been said at once.
    #[test]
    fn changes_lead_to_what_is_told() {
        local(async {
            let siblings = Siblings::new(&crate::gateway::Limits::default(), Arc::default());
            let states = [
                told(&[1, 2], &[(1, true), (2, false)]),
                told(&[2, 3], &[(1, false), (2, false), (3, true)]),
                told(&[3], &[(3, true)]),
                told(&[3], &[(3, true)]),
                told(&[], &[]),
            ];
            let (mut teller, heard) = tokio::io::duplex(1 << 16);
            let listening = listen(heard, SIBLING, &siblings);
            let telling = async {
                let mut before = None;
                for state in &states {
                    teller.write_all(&state.frames(before)).await.unwrap();
                    before = Some(state);
                    let holds = || {
                        let board = siblings.board();
                        (1..4).all(|number| {
                            let agent = AgentId::from_bytes([number; 16]);
                            let target = TargetId::from_bytes([number; 16]);
                            let expected = match state.targets.get(&target) {
                                Some(true) => Health::Passing,
                                Some(false) => Health::Failing,
                                None => Health::Unknown,
                            };
                            board.reaching(agent).any(|sibling| sibling == SIBLING)
                                == state.agents.contains(&agent)
                                && board.health(SIBLING, target) == expected
                        })
                    };
                    while !holds() {
                        tokio::task::yield_now().await;
                    }
                }
                assert!(states[3].frames(Some(&states[2])).is_empty());
                teller.write_all(&states[0].frames(None)).await.unwrap();
                drop(teller);
            };
            tokio::join!(listening, telling);
            assert_eq!(siblings.agents(SIBLING), 0, "the feed has ended");
        });
    }

    #[test]
    fn garbage_ends_a_feed_and_what_it_said() {
        local(async {
            let siblings = Siblings::new(&crate::gateway::Limits::default(), Arc::default());
            let mut bytes = told(&[1], &[]).frames(None);
            bytes.extend([0, 0, 0]);
            listen(bytes.as_slice(), SIBLING, &siblings).await;
            assert_eq!(siblings.agents(SIBLING), 0);
        });
    }
}
