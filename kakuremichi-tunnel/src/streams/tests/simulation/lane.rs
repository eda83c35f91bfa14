//! A lane: an agent that dials, a gateway that visitors come to, and what lies between them.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinSet};

use super::{
    agent::Agent,
    flows::{for_seeds, part, sleep},
    gateway::Gateway,
    hours::run,
    pipe::{Break, Conditions, End, Handle, Net},
    user::{Flow, Manner, Outcome, Part},
};
use crate::{
    random::SplitMix64,
    streams::{connection::Connection, tests::AGENT},
};

/// After the last fault a lane is up within this time: a dial that fails, the longest pause, and another dial.
const UP_WITHIN: Duration = Duration::from_secs(45);
/// Until a connection whose other end has gone without a word is given up, and a pool has its first size again.
const AT_REST: Duration = Duration::from_secs(150);
/// The system finds out within this time that nothing passes on a connection, if nobody else does before.
const KEEP_ALIVE: Duration = Duration::from_secs(65);
/// How long an attempt to connect takes to fail.
const DIAL: Duration = Duration::from_secs(8);
/// Faults begin, and visitors come, up to this time.
const EVENTFUL: u64 = 60_000;
/// Probes of both ends every five seconds (less a tenth), for each of which one end is woken twice and the other
/// once, and the pool's spans of ten; in five minutes.
const IDLE_WAKEUPS: u64 = 450;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Control,
    Flows,
}

/// Something that happens to what is between.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// Nothing arrives for so long.
    Stall(Duration),
    /// Nothing that is open carries any more, and nothing new is opened for so long.
    Outage(Duration),
    /// All connections break.
    Break(Break),
    /// The one that concerns the lane does, and those with flows go on.
    BreakControl(Break),
    /// One does, behind so many bytes.
    BreakOne(u64, Break),
}

/// What happens in a run.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) seed: u64,
    pub(super) conditions: Conditions,
    pub(super) faults: Vec<(Duration, Fault)>,
    pub(super) visits: Vec<(Duration, Flow)>,
}

/// What is between the two.
pub(super) struct Link {
    pub(super) seed: u64,
    pub(super) net: Net,
    conditions: Conditions,
    carries: Cell<bool>,
    dialled: Cell<u64>,
    door: mpsc::UnboundedSender<(Purpose, End)>,
    pipes: RefCell<Vec<Handle>>,
    control: RefCell<Option<Handle>>,
    outcomes: RefCell<BTreeMap<(u16, bool), Outcome>>,
}

pub(super) fn connection(end: End) -> Connection {
    Connection::new(AGENT, 0, Box::new(end), None)
}

impl Link {
    /// A connection, with what ends it from outside.
    pub(super) async fn dial(&self, purpose: Purpose) -> Option<(Connection, Handle)> {
        if self.carries.get() {
            sleep(self.conditions.delay * 6).await;
        }
        if !self.carries.get() {
            sleep(DIAL).await;
            return None;
        }
        self.dialled.update(|dialled| dialled + 1);
        let (near, far) = self
            .net
            .pipe(self.conditions, self.seed ^ self.dialled.get() << 32);
        self.pipes.borrow_mut().retain(Handle::is_there);
        self.pipes.borrow_mut().push(near.handle());
        if purpose == Purpose::Control {
            *self.control.borrow_mut() = Some(near.handle());
        }
        self.door.send((purpose, far)).ok()?;
        let cut = near.handle();
        Some((connection(near), cut))
    }

    pub(super) fn record(&self, number: u16, near: bool, outcome: Outcome) {
        let before = self.outcomes.borrow_mut().insert((number, near), outcome);
        assert_eq!(before, None, "flow {number} came twice");
    }

    /// As the system does it for each connection.
    async fn keep_alive(&self) {
        loop {
            sleep(KEEP_ALIVE).await;
            let pipes = self.pipes.borrow().clone();
            pipes
                .iter()
                .filter(|pipe| pipe.is_silent())
                .for_each(|pipe| pipe.break_now(Break::Reset));
        }
    }

    async fn suffer(&self, fault: Fault) {
        let pipes = self.pipes.borrow().clone();
        match fault {
            Fault::Stall(time) => pipes.iter().for_each(|pipe| pipe.stall_for(time)),
            Fault::Outage(time) => {
                self.carries.set(false);
                pipes.iter().for_each(|pipe| pipe.break_now(Break::Silence));
                sleep(time).await;
                self.carries.set(true);
            }
            Fault::Break(how) => pipes.iter().for_each(|pipe| pipe.break_now(how)),
            Fault::BreakControl(how) => {
                if let Some(control) = &*self.control.borrow() {
                    control.break_now(how);
                }
            }
            Fault::BreakOne(bytes, how) => {
                if let Some(pipe) = pipes.get(bytes as usize % pipes.len().max(1)) {
                    pipe.break_behind(bytes, how);
                }
            }
        }
    }
}

impl Script {
    fn new(seed: u64, faults: bool) -> Self {
        let mut random = SplitMix64::new(seed);
        let mut below = |bound: u64| random.next() % bound;
        let conditions = Conditions {
            delay: Duration::from_millis(1 + below(80)),
            room: 4_096 + below(1 << 16) as usize,
            piece: 256 + below(1 << 14) as usize,
        };
        let count = if faults { below(5) } else { 0 };
        let mut at = Duration::ZERO;
        let faults = (0..count)
            .map(|_| {
                at += Duration::from_millis(below(EVENTFUL / count));
                let how = [Break::Reset, Break::End, Break::Silence][below(3) as usize];
                let fault = match below(6) {
                    0 => Fault::Stall(Duration::from_millis(below(8_000))),
                    1 | 2 => Fault::Outage(Duration::from_millis(below(60_000))),
                    3 => Fault::Break(how),
                    4 => Fault::BreakControl(how),
                    _ => Fault::BreakOne(1 + below(50_000), how),
                };
                (at, fault)
            })
            .collect();
        let visitors = 1 + below(24) as u16;
        let visits = (0..visitors)
            .map(|number| {
                let near = part(&mut random, 60_000, false);
                let flow = Flow {
                    number,
                    near,
                    far: part(&mut random, 60_000, near.manner != Manner::Whole),
                    refused: random.next().is_multiple_of(8),
                };
                (Duration::from_millis(random.next() % EVENTFUL), flow)
            })
            .collect();
        Self {
            seed,
            conditions,
            faults,
            visits,
        }
    }
}

/// The two ends, and what is between.
struct World {
    link: Rc<Link>,
    agent: Rc<Agent>,
    gateway: Rc<Gateway>,
    /// A flow that is begun when everything is over.
    last: Flow,
}

impl World {
    fn is_up(&self) -> bool {
        self.agent.is_up.get() && self.gateway.is_up.get()
    }

    fn wakeups(&self) -> u64 {
        self.agent.wakeups.get() + self.gateway.wakeups.get()
    }

    fn outcome(&self, number: u16, near: bool) -> Option<Outcome> {
        self.link.outcomes.borrow().get(&(number, near)).copied()
    }
}

/// Plays a script until the last fault is over and the last visitor has gone, and then `after`.
fn play(script: &Script, after: impl AsyncFnOnce(&World)) -> u64 {
    run(Duration::from_secs(7_200), async |net| {
        let (door, come) = mpsc::unbounded_channel();
        let whole = Part {
            sends: 20_000,
            manner: Manner::Whole,
            socket: true,
        };
        let last = Flow {
            number: script.visits.len() as u16,
            near: whole,
            far: whole,
            refused: false,
        };
        let mut flows: Vec<Flow> = script.visits.iter().map(|(_, flow)| *flow).collect();
        flows.push(last);
        let world = World {
            link: Rc::new(Link {
                seed: script.seed,
                net: net.clone(),
                conditions: script.conditions,
                carries: Cell::new(true),
                dialled: Cell::new(0),
                door,
                pipes: RefCell::default(),
                control: RefCell::default(),
                outcomes: RefCell::default(),
            }),
            agent: Rc::default(),
            gateway: Rc::default(),
            last,
        };
        let ends = async {
            tokio::join!(
                Rc::clone(&world.agent).run(Rc::clone(&world.link), Rc::new(flows)),
                Rc::clone(&world.gateway).run(come),
                world.link.keep_alive(),
            )
        };
        let events = async {
            let mut visits = JoinSet::new();
            for &(at, flow) in &script.visits {
                let (gateway, link) = (Rc::clone(&world.gateway), Rc::clone(&world.link));
                visits.spawn_local(async move {
                    sleep(at).await;
                    gateway.visit(flow, &link).await;
                });
            }
            let mut now = Duration::ZERO;
            for &(at, fault) in &script.faults {
                sleep(at.saturating_sub(now)).await;
                now = at;
                world.link.suffer(fault).await;
            }
            world.link.pipes.borrow().iter().for_each(Handle::spare);
            after(&world).await;
            while let Some(visited) = visits.join_next().await {
                visited.unwrap();
            }
        };
        tokio::select! {
            biased;
            () = events => {}
            _ = ends => unreachable!(),
        }
        net.trace()
    })
}

/// Visitors that are there when everything is over have had their time.
async fn settle(world: &World) {
    sleep(Duration::from_millis(EVENTFUL) + AT_REST).await;
    assert!(world.is_up());
}

#[test]
fn after_the_last_fault_the_lane_is_up_soon_and_carries() {
    for_seeds(
        60,
        |seed| Script::new(seed, true),
        |script| {
            play(script, async |world| {
                sleep(UP_WITHIN).await;
                assert!(world.is_up());
                // Also where only one connection had carried nothing.
                sleep(KEEP_ALIVE).await;
                world.gateway.visit(world.last, &world.link).await;
                for near in [true, false] {
                    assert_eq!(world.outcome(world.last.number, near), Some(Outcome::Complete));
                }
                // And stays so.
                for _ in 0..30 {
                    sleep(Duration::from_secs(1)).await;
                    assert!(world.is_up());
                }
            });
        },
    );
}

#[test]
fn without_faults_every_visitor_is_served() {
    for_seeds(
        30,
        |seed| Script::new(seed, false),
        |script| {
            play(script, async |world| {
                settle(world).await;
                for (_, flow) in &script.visits {
                    let is_whole = |part: Part| part.manner == Manner::Whole;
                    if is_whole(flow.near) && is_whole(flow.far) && !flow.refused {
                        for near in [true, false] {
                            assert_eq!(
                                world.outcome(flow.number, near),
                                Some(Outcome::Complete),
                                "{flow:?}"
                            );
                        }
                    }
                    assert!(world.outcome(flow.number, true).is_some());
                }
            });
        },
    );
}

/// What is kept when everything is over is what an idle lane has.
pub(super) fn returns_to_idle(script: &Script) {
    play(script, async |world| {
        settle(world).await;
        // Two for the next flows, and the one that concerns the lane.
        assert_eq!(world.agent.counted.get(), (2, 0));
        assert_eq!(world.gateway.idle.borrow().len(), 2);
        assert_eq!(world.gateway.count_waiting(), 0);
        assert_eq!(world.link.net.alive(), 3);
        let before = world.wakeups();
        sleep(Duration::from_secs(300)).await;
        let woken = world.wakeups() - before;
        assert!(woken <= IDLE_WAKEUPS, "{woken}");
    });
}

#[test]
fn what_is_kept_returns_to_what_an_idle_lane_has() {
    for_seeds(20, |seed| Script::new(seed, true), returns_to_idle);
}

#[test]
fn a_seed_always_gives_the_same_run() {
    for_seeds(
        10,
        |seed| Script::new(seed, true),
        |script| {
            let run = || play(script, async |_| sleep(AT_REST).await);
            assert_eq!(run(), run());
        },
    );
}
