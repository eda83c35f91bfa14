//! The hostile agent, and how it is paced.

use std::{
    net::{SocketAddr, UdpSocket},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use kakuremichi_benches::machine::{Trouble, wait_for};
use kakuremichi_tunnel::testing::hostile::{Attack, Hostile, Place};

/// The port at which a gateway takes the feeds of agents.
const FEED: u16 = 1;

/// Each attack, and its name in the table.
pub(crate) const ATTACKS: [(&str, Attack); 13] = [
    ("handshakes with a wrong mac1", Attack::WrongMac),
    ("initiations of the agent", Attack::Initiations),
    ("initiations from 200 addresses", Attack::ForgedSenders),
    ("replays", Attack::Replays),
    ("garbage of all lengths", Attack::Garbage),
    ("packets of others", Attack::Foreign),
    ("SYNs to an open port", Attack::Syns(FEED)),
    ("SYNs to all ports", Attack::Scan),
    ("flows without a word", Attack::Flows(FEED)),
    ("segments of no flow", Attack::Segments(FEED)),
    ("datagrams to all ports", Attack::Datagrams),
    ("echo requests", Attack::Echoes),
    ("first fragments", Attack::Fragments),
];

/// How often datagrams are sent, so many at once.
const PACE: Duration = Duration::from_millis(1);

/// A hostile agent with a session.
pub(crate) struct Attacker {
    hostile: Hostile,
    /// Where datagrams go that are not for the gateway. Nobody reads it.
    elsewhere: UdpSocket,
}

/// An attack under way.
pub(crate) struct Assault {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(Attacker, f64)>,
}

impl Attacker {
    /// Takes the place of an agent that was enrolled, and shakes hands.
    pub(crate) fn connect(state: &Path, gateway: SocketAddr) -> Result<Self, Trouble> {
        let place = Place::of_agent(state, gateway).map_err(Trouble::io("the agent's state"))?;
        let mut hostile = Hostile::new(place).map_err(Trouble::io("no sockets"))?;
        wait_for("the hostile agent's session", || {
            hostile.attend();
            hostile.is_connected()
        })?;
        let elsewhere = UdpSocket::bind("127.0.0.1:0").map_err(Trouble::io("no socket"))?;
        Ok(Self { hostile, elsewhere })
    }

    /// Begins to send, at the gateway or elsewhere.
    pub(crate) fn begin(mut self, attack: Attack, rate: u32, diverted: bool) -> Result<Assault, Trouble> {
        let elsewhere = self.elsewhere.local_addr();
        let elsewhere = elsewhere.map_err(Trouble::io("no address"))?;
        self.hostile.divert(diverted.then_some(elsewhere));
        self.hostile.prepare(attack);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let begin = Instant::now();
            let mut sent = 0_u64;
            while !stopped.load(Ordering::Relaxed) {
                self.hostile.attend();
                let due = begin.elapsed().as_micros() as u64 * u64::from(rate) / 1_000_000;
                // Who was not let run for long does not make up for all of it.
                let count = (due - sent).min(u64::from(rate) / 50);
                self.hostile.strike(attack, count as usize);
                sent = due;
                thread::sleep(PACE);
            }
            let rate = sent as f64 / begin.elapsed().as_secs_f64();
            (self, rate)
        });
        Ok(Assault { stop, thread })
    }
}

impl Assault {
    /// Ends it; how many datagrams a second there were.
    pub(crate) fn end(self) -> (Attacker, f64) {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(ended) => ended,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}
