//! The two paths to a gateway and the choice between them, under outages that are made out of a seed.
//!
//! The paths, the choice and the pauses between dials are those that agents have. What is between is two links,
//! each of which delays, loses, and carries nothing for a while again and again.

use std::time::{Duration, Instant};

use kakuremichi_core::backoff::Backoff;
use kakuremichi_proto::report::LaneKind;

use super::{ChoiceTiming, LaneChoice, LanePreference, PathHealth, PathState, Probe, Timing, TlsWanted};
use crate::random::SplitMix64;

/// How exactly time passes.
const STEP: Duration = Duration::from_millis(100);
/// How long a run is.
const RUN: Duration = Duration::from_secs(1_800);
/// A path that carries nothing is found out within this time, while it is used: five seconds until a probe, and
/// three of a second or more.
const NOTICED: Duration = Duration::from_secs(15);
/// One that carries again is found within this time: the longest pause between dials, with the dial under way
/// that may fail before it, or between probes.
const FOUND: Duration = Duration::from_secs(45);
/// Flows go back to WireGuard so often at most within ten minutes, since the time that it has to be up doubles
/// when it breaks soon: 10 + 20 + 40 seconds and one that lasts for 60, again and again.
const RETURNS: usize = 16;
/// As an agent has them for the lane of TLS streams.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
const DIAL: Duration = Duration::from_secs(8);

/// One of the two ways.
struct Link {
    delay: Duration,
    /// Probes, in a thousand.
    loss: u64,
    /// How long it carries, and does not, at most; in seconds.
    spells: (u64, u64),
    carries: bool,
    /// Since when it does, or does not, and until when.
    since: Instant,
    until: Instant,
    flying: Vec<(Instant, Probe)>,
}

impl Link {
    fn new(random: &mut SplitMix64, lossy: bool, now: Instant) -> Self {
        let exponent = random.next() % 10;
        Self {
            delay: Duration::from_millis(1 + random.next() % 300),
            loss: if lossy { random.next() % 50 } else { 0 },
            spells: (2 << exponent, 2 << (random.next() % 9)),
            carries: true,
            since: now,
            until: now + Duration::from_secs(1 + random.next() % 120),
            flying: Vec::new(),
        }
    }

    fn pass(&mut self, random: &mut SplitMix64, now: Instant) {
        if now >= self.until {
            self.carries = !self.carries;
            let most = if self.carries {
                self.spells.0
            } else {
                self.spells.1
            };
            self.since = now;
            self.until = now + Duration::from_millis(100 + random.next() % (most * 1_000));
            self.flying.clear();
        }
    }

    fn send(&mut self, probe: Probe, random: &mut SplitMix64, now: Instant) {
        if self.carries && random.next() % 1_000 >= self.loss {
            self.flying.push((now + self.delay * 2, probe));
        }
    }

    fn arrived(&mut self, now: Instant) -> Vec<Probe> {
        let (arrived, flying) = self.flying.drain(..).partition(|(at, _)| *at <= now);
        self.flying = flying;
        let arrived: Vec<(Instant, Probe)> = arrived;
        arrived.into_iter().map(|(_, probe)| probe).collect()
    }

    /// Whether it has been in this state for so long.
    fn has(&self, carries: bool, time: Duration, now: Instant) -> bool {
        self.carries == carries && now - self.since >= time
    }
}

/// A lane of TLS streams: there is a connection, or there will be an attempt to make one.
enum Tls {
    Gone(Instant),
    /// It succeeds or fails then.
    Dialling(Instant, bool),
    There(Box<PathState>),
}

struct World {
    random: SplitMix64,
    now: Instant,
    links: [Link; 2],
    wireguard: PathState,
    tls: Tls,
    pauses: Backoff,
    told: (PathHealth, Option<Instant>),
    wanted: TlsWanted,
    choice: LaneChoice,
    /// When flows went back to WireGuard since it had been up for long enough.
    returns: Vec<Instant>,
    moves: usize,
    dials: usize,
    probes: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "a test needs some instant to start from"
        )]
        let now = Instant::now();
        let mut random = SplitMix64::new(seed);
        let lossy = random.next().is_multiple_of(2);
        let links = [(); 2].map(|()| Link::new(&mut random, lossy, now));
        let standby = random.next().is_multiple_of(2);
        let timing = ChoiceTiming::default();
        Self {
            links,
            wireguard: PathState::new(Timing::sparing(), random.next(), now),
            tls: Tls::Gone(now),
            pauses: Backoff::new(PAUSES.0, PAUSES.1),
            told: (PathHealth::Unknown, None),
            wanted: TlsWanted::Nothing,
            choice: LaneChoice::new(LanePreference::Auto, standby, timing, now),
            returns: Vec::new(),
            moves: 0,
            dials: 0,
            probes: 0,
            random,
            now,
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        let now = self.now;
        for link in &mut self.links {
            link.pass(&mut self.random, now);
        }
        // Somebody always begins a flow.
        if self.choice.chosen() == LaneKind::WireGuard {
            self.wireguard.handle_use(now);
        }
        for probe in self.links[0].arrived(now) {
            self.wireguard.handle_answer(probe.sequence, probe.payload, now);
        }
        self.wireguard.handle_timeout(now);
        if let Some(probe) = self.wireguard.poll_probe(now) {
            self.probes += 1;
            self.links[0].send(probe, &mut self.random, now);
        }
        self.streams(now);
        self.choose(now);
    }

    /// As an agent keeps its lane of TLS streams.
    fn streams(&mut self, now: Instant) {
        let link = &mut self.links[1];
        let arrived = link.arrived(now);
        match &mut self.tls {
            _ if self.wanted == TlsWanted::Nothing => {
                self.tls = Tls::Gone(now);
                self.told.0 = PathHealth::Unknown;
            }
            Tls::Gone(until) if now >= *until => {
                self.dials += 1;
                self.tls = if link.carries {
                    Tls::Dialling(now + link.delay * 6, true)
                } else {
                    Tls::Dialling(now + DIAL, false)
                };
            }
            Tls::Gone(_) => {}
            Tls::Dialling(until, _) if now < *until => {}
            Tls::Dialling(_, true) if link.carries => {
                self.pauses.reset();
                let mut path = PathState::new(Timing::default(), self.random.next(), now);
                set_timing(&mut path, self.wanted, now);
                self.tls = Tls::There(Box::new(path));
            }
            Tls::Dialling(..) => self.fail(now),
            Tls::There(path) => {
                let heard = !arrived.is_empty();
                for probe in arrived {
                    path.handle_answer(probe.sequence, probe.payload, now);
                }
                path.handle_timeout(now);
                if let Some(probe) = path.poll_probe(now) {
                    self.probes += 1;
                    // TCP sends again what is lost.
                    let again = self.random.next() % 1_000 < link.loss;
                    if link.carries {
                        let late = if again { 4 } else { 2 };
                        link.flying.push((now + link.delay * late, probe));
                    }
                }
                self.told = (path.health(), if heard { Some(now) } else { self.told.1 });
                if matches!(path.health(), PathHealth::Down { .. }) {
                    self.fail(now);
                }
            }
        }
    }

    fn fail(&mut self, now: Instant) {
        let pause = self.pauses.next(self.random.next() as u32);
        self.tls = Tls::Gone(now + pause);
        self.told.0 = PathHealth::Down { since: now };
    }

    fn choose(&mut self, now: Instant) {
        let before = self.choice.chosen();
        let doubtful = self.wireguard.is_up() && self.wireguard.misses() > 0;
        let suspected = doubtful || !self.wireguard.is_up();
        self.choice
            .handle_wireguard(self.wireguard.health(), doubtful, now);
        let after_doubt = self.choice.chosen();
        self.choice.handle_tls(self.told.0, self.told.1, now);
        self.choice.handle_timeout(now);
        let chosen = self.choice.chosen();
        self.moves += usize::from(chosen != before);
        if before == LaneKind::WireGuard {
            assert!(
                chosen == before || suspected,
                "flows left a lane that was in order"
            );
        } else if chosen != before && after_doubt == before && matches!(self.told.0, PathHealth::Up { .. }) {
            self.returns.push(now);
        }
        let wanted = self.choice.wants_tls(now);
        if std::mem::replace(&mut self.wanted, wanted) != wanted {
            match &mut self.tls {
                Tls::There(path) => set_timing(path, wanted, now),
                // Somebody waits for it now.
                Tls::Gone(until) if wanted == TlsWanted::Everything => *until = now,
                Tls::Gone(_) | Tls::Dialling(..) => {}
            }
        }
    }

    fn link(&self, kind: LaneKind) -> &Link {
        &self.links[usize::from(kind == LaneKind::TlsStream)]
    }
}

fn set_timing(path: &mut PathState, wanted: TlsWanted, now: Instant) {
    let stands_by = wanted == TlsWanted::Standby;
    let timing = if stands_by {
        Timing::standby()
    } else {
        Timing::default()
    };
    path.set_timing(timing, now);
    if !stands_by && path.is_up() {
        path.nudge(now);
    }
}

fn other(kind: LaneKind) -> LaneKind {
    match kind {
        LaneKind::WireGuard => LaneKind::TlsStream,
        LaneKind::TlsStream => LaneKind::WireGuard,
    }
}

#[test]
fn flows_take_a_lane_that_is_up_wherever_one_has_been_for_a_while() {
    for seed in 0..100 {
        let mut world = World::new(seed);
        let begun = world.now;
        while world.now - begun < RUN {
            world.step();
            let chosen = world.choice.chosen();
            let dead = world.link(chosen).has(false, NOTICED, world.now);
            let better = world.link(other(chosen)).has(true, FOUND, world.now);
            assert!(
                !dead || !better,
                "seed {seed}, after {:?}: {:?}",
                world.now - begun,
                world.choice
            );
        }
    }
}

#[test]
fn flows_do_not_go_back_and_forth_and_nobody_is_asked_all_the_time() {
    let mut moved = 0;
    for seed in 0..100 {
        let mut world = World::new(seed);
        let begun = world.now;
        while world.now - begun < RUN {
            world.step();
        }
        for window in world.returns.windows(RETURNS + 1) {
            let within = window[RETURNS] - window[0];
            assert!(within > Duration::from_secs(600), "seed {seed}: {within:?}");
        }
        let seconds = RUN.as_secs() as usize;
        // A probe each second on either path at most, and dials with pauses between.
        assert!(world.probes < 2 * seconds, "seed {seed}: {}", world.probes);
        assert!(world.dials < seconds / 5, "seed {seed}: {}", world.dials);
        moved += world.moves;
    }
    assert!(moved > 500, "there was something to choose: {moved}");
}
