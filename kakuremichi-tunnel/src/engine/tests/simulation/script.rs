//! What happens in a run: made out of a seed.

use std::{cell::RefCell, fmt, time::Duration};

use super::{
    nat::Kind,
    network::Link,
    node::{Cipher, Shards},
    talk::Talking,
    world::World,
};
use crate::random::SplitMix64;

/// Faults begin and transfers are begun up to this time.
const EVENTFUL: u64 = 70_000;

/// Something that happens to one node, or to its host.
#[derive(Debug, Clone, Copy)]
pub(super) enum Action {
    /// Datagrams are lost, come twice (both in a thousand) or take up to so long more than others.
    Trouble {
        loss: u64,
        repeat: u64,
        jitter: Duration,
    },
    /// That is over.
    NoTrouble,
    /// Nothing passes.
    Cut,
    /// It does again.
    Heal,
    /// The NAT forgets its mappings.
    Rebind,
    /// The host has another address, in front of NAT or behind it.
    Roam,
    /// The node is gone.
    Crash,
    /// It is back.
    Start,
    /// The socket is full.
    Fill,
    /// It is empty.
    Empty,
    /// Somebody uses a flow to the node, from the gateway, or the other way around.
    Transfer {
        from_agent: bool,
        up: u64,
        down: u64,
        pace: Option<(usize, Duration)>,
    },
    /// Somebody talks in the same way, over a UDP session.
    Talk {
        from_agent: bool,
        with_preface: bool,
        wanted: Talking,
    },
}

/// One run.
#[derive(Clone)]
pub(super) struct Script {
    pub(super) seed: u64,
    /// The gateway's.
    pub(super) shards: Shards,
    pub(super) nats: Vec<Option<Kind>>,
    pub(super) links: Vec<Link>,
    /// By time, with the number of the node that it happens to.
    pub(super) actions: Vec<(Duration, u8, Action)>,
    /// When the last fault is over.
    pub(super) calm: Duration,
}

/// Which faults a script may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Faults {
    /// None, or those that only delay.
    pub(super) mild: bool,
    /// Nodes crash, too.
    pub(super) crashes: bool,
}

impl fmt::Debug for Script {
    /// A line for each action.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}, a gateway of {:?}, agents behind {:?}",
            self.seed, self.shards, self.nats
        )?;
        for link in &self.links {
            writeln!(f, "  {link:?}")?;
        }
        for (at, node, action) in &self.actions {
            writeln!(f, "  {at:?} node {node}: {action:?}")?;
        }
        write!(f, "  calm at {:?}", self.calm)
    }
}

impl Script {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        let random = RefCell::new(SplitMix64::new(seed));
        let below = |bound: u64| random.borrow_mut().next() % bound;
        let agents = 1 + below(3);
        let nats = (0..agents)
            .map(|_| match below(3) {
                0 => None,
                1 => Some(Kind::EndpointIndependent),
                _ => Some(Kind::AddressAndPortDependent),
            })
            .collect();
        let links = (0..=agents)
            .map(|_| Link {
                delay: Duration::from_millis(1 + below(40)),
                jitter: Duration::from_millis(below(20)),
                loss: below(10),
                ..Link::default()
            })
            .collect();
        let mut script = Self {
            seed,
            shards: Shards::ONE,
            nats,
            links,
            actions: Vec::new(),
            calm: Duration::ZERO,
        };
        let kinds = match faults {
            Faults { mild: true, .. } => 1,
            Faults { crashes: false, .. } => 6,
            Faults { crashes: true, .. } => 8,
        };
        for _ in 0..below(6) {
            let begin = Duration::from_millis(5_000 + below(EVENTFUL - 5_000));
            let lasts = Duration::from_millis(200 + below(1 << below(15)));
            let any = 1 + below(agents + 1) as u8;
            let agent = 2 + below(agents) as u8;
            let (node, first, last) = match below(kinds) {
                0 => {
                    let trouble = Action::Trouble {
                        loss: below(if faults.mild { 100 } else { 600 }),
                        repeat: below(300),
                        jitter: Duration::from_millis(below(300)),
                    };
                    (any, trouble, Some(Action::NoTrouble))
                }
                1 | 2 => (any, Action::Cut, Some(Action::Heal)),
                3 => (agent, Action::Rebind, None),
                4 => (agent, Action::Roam, None),
                5 => (any, Action::Fill, Some(Action::Empty)),
                _ => (any, Action::Crash, Some(Action::Start)),
            };
            script.actions.push((begin, node, first));
            if let Some(last) = last {
                script.actions.push((begin + lasts, node, last));
            }
        }
        script.calm = script
            .actions
            .iter()
            .map(|(at, ..)| *at)
            .max()
            .unwrap_or_default();
        for _ in 0..1 + below(6) {
            let slow = below(4) == 0;
            let pace = slow.then(|| {
                (
                    2_000 + below(8_000) as usize,
                    Duration::from_millis(1 + below(200)),
                )
            });
            let transfer = Action::Transfer {
                from_agent: below(4) == 0,
                up: below(1 << below(19)),
                down: below(1 << below(19)),
                pace,
            };
            let at = Duration::from_millis(3_000 + below(EVENTFUL));
            script.actions.push((at, 2 + below(agents) as u8, transfer));
        }
        script.shards = Shards::any(below(12));
        for _ in 0..below(5) {
            let talk = Action::Talk {
                from_agent: below(4) == 0,
                with_preface: below(2) == 0,
                wanted: Talking {
                    number: 0,
                    count: 1 + below(1 << below(8)),
                    pause: Duration::from_millis(below(1 << below(12))),
                    answers: 1 + below(3),
                    leaves: below(3) == 0,
                },
            };
            let at = Duration::from_millis(3_000 + below(EVENTFUL));
            script.actions.push((at, 2 + below(agents) as u8, talk));
        }
        script.actions.sort_by_key(|(at, ..)| *at);
        script
    }

    /// Runs until the last fault is over and the last transfer was begun.
    pub(super) fn play(&self, cipher: Cipher) -> (World, Vec<u64>) {
        let mut world = World::with_shards(self.seed, cipher, self.shards, &self.nats);
        for (host, link) in world.net.hosts.iter_mut().zip(&self.links) {
            host.link = link.clone();
        }
        let mut transfers = Vec::new();
        for &(at, node, action) in &self.actions {
            world.run_for(at.saturating_sub(world.elapsed()));
            transfers.extend(self.act(&mut world, node, action));
        }
        (world, transfers)
    }

    fn act(&self, world: &mut World, node: u8, action: Action) -> Option<u64> {
        let calm = &self.links[usize::from(node) - 1];
        let host = world.host(node);
        match action {
            Action::Trouble { loss, repeat, jitter } => {
                host.link.loss = loss;
                host.link.repeat = repeat;
                host.link.jitter = jitter;
            }
            Action::NoTrouble => {
                host.link = Link {
                    cut: host.link.cut,
                    mtu: host.link.mtu,
                    ..calm.clone()
                }
            }
            Action::Cut => host.link.cut = true,
            Action::Heal => host.link.cut = false,
            Action::Rebind => {
                if let Some(nat) = &mut host.nat {
                    nat.rebind();
                }
            }
            Action::Roam => world.roam(node),
            Action::Crash => world.crash(node),
            Action::Start => {
                if world.node(node).is_none() {
                    world.start(node);
                }
            }
            Action::Fill | Action::Empty => {
                world.set_full(node, matches!(action, Action::Fill));
            }
            Action::Transfer {
                from_agent,
                up,
                down,
                pace,
            } => {
                let (from, to) = if from_agent { (node, 1) } else { (1, node) };
                return world.transfer(from, to, up, down, pace);
            }
            Action::Talk {
                from_agent,
                with_preface,
                wanted,
            } => {
                let (from, to) = if from_agent { (node, 1) } else { (1, node) };
                world.talk(from, to, with_preface, wanted);
            }
        }
        None
    }
}
