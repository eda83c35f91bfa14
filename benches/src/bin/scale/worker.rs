//! The process that a part of the crowd lives in: one thread, and a socket for each agent.

use std::{
    io::{self, BufRead as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use kakuremichi_benches::machine::print;
use mio::{Events, Interest, Poll, Token};

use crate::simulated::{Agent, Counts, Gateway};

/// How often each agent's clock is looked at, as an engine does it.
const TICK: Duration = Duration::from_millis(250);
/// A tick is spread over so many turns.
const SHARES: usize = 10;
/// Agents that begin per second in this process: starting a crowd is not to look like a flood.
const BEGIN_PER_SECOND: f64 = 2_000.0;
/// How often the counts are told.
const TELL: Duration = Duration::from_millis(100);
const EVENTS: usize = 1024;

/// Runs the agents `first..first + count` until standard input ends. On it come `quiet` and `normal`; the
/// counts go to standard output, as four numbers.
pub(crate) fn run(gateway: &Gateway, first: u32, count: u32) -> io::Result<()> {
    let (quiet, ended) = listen();
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(EVENTS);
    let mut agents: Vec<Agent> = Vec::new();
    let (mut counts, mut told) = (Counts::default(), None);
    let begun = Instant::now();
    let (mut share, mut next_share, mut next_tell) = (0, begun, begun);
    let mut is_quiet = false;
    while !ended.load(Ordering::Relaxed) {
        let now = Instant::now();
        let due = (now - begun).as_secs_f64() * BEGIN_PER_SECOND;
        while agents.len() < count as usize && (agents.len() as f64) < due {
            let mut agent = Agent::new(first + agents.len() as u32, gateway, now)?;
            let token = Token(agents.len());
            poll.registry()
                .register(agent.socket(), token, Interest::READABLE)?;
            agent.tick(&mut counts, now);
            agents.push(agent);
        }
        if quiet.load(Ordering::Relaxed) != is_quiet {
            is_quiet = !is_quiet;
            agents.iter_mut().for_each(|agent| agent.set_quiet(is_quiet));
        }
        if now >= next_share {
            next_share = now + TICK / SHARES as u32;
            share = (share + 1) % SHARES;
            for agent in agents.iter_mut().skip(share).step_by(SHARES) {
                agent.tick(&mut counts, now);
            }
        }
        if now >= next_tell {
            next_tell = now + TELL;
            counts.feeds = agents.iter().filter(|agent| agent.has_feed()).count();
            if told.replace(counts) != Some(counts) {
                let Counts {
                    up,
                    feeds,
                    called,
                    withheld,
                } = counts;
                print(&format!("{up} {feeds} {called} {withheld}\n"));
            }
        }
        match poll.poll(&mut events, Some(TICK / SHARES as u32)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let now = Instant::now();
        for event in &events {
            if let Some(agent) = agents.get_mut(event.token().0) {
                agent.receive(&mut counts, now);
            }
        }
    }
    Ok(())
}

/// Listens to standard input: whether to be quiet, and whether it has ended.
fn listen() -> (Arc<AtomicBool>, Arc<AtomicBool>) {
    let both: (Arc<AtomicBool>, Arc<AtomicBool>) = Default::default();
    let (quiet, ended) = both.clone();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            quiet.store(line == "quiet", Ordering::Relaxed);
        }
        ended.store(true, Ordering::Relaxed);
    });
    both
}
