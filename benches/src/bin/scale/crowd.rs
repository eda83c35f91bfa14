//! The crowd of simulated agents, in as many processes as it needs.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use kakuremichi_benches::machine::Trouble;

use crate::simulated::{Counts, Gateway};

/// Agents in one process: a socket each, below the 20,000 files that a process may have open, and few
/// enough that one thread keeps up with them.
const PER_PROCESS: u32 = 5_000;

/// Simulated agents; they end with the value.
#[derive(Debug)]
pub(crate) struct Crowd {
    workers: Vec<Worker>,
}

#[derive(Debug)]
struct Worker {
    child: Child,
    orders: Option<ChildStdin>,
    counts: Arc<Mutex<Counts>>,
}

impl Crowd {
    /// Starts so many agents of a gateway, numbered from zero.
    pub(crate) fn start(gateway: &Gateway, count: u32) -> Result<Self, Trouble> {
        let firsts = (0..count).step_by(PER_PROCESS as usize);
        let worker = |first| Worker::start(gateway, first, PER_PROCESS.min(count - first));
        let workers = firsts.map(worker).collect::<Result<_, _>>()?;
        Ok(Self { workers })
    }

    /// What has happened to all of them.
    pub(crate) fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for worker in &self.workers {
            let counts = *worker.counts.lock().unwrap_or_else(PoisonError::into_inner);
            sum.up += counts.up;
            sum.feeds += counts.feeds;
            sum.called += counts.called;
            sum.withheld += counts.withheld;
        }
        sum
    }

    /// From now on they initiate no handshake.
    pub(crate) fn be_quiet(&mut self) {
        for orders in self
            .workers
            .iter_mut()
            .filter_map(|worker| worker.orders.as_mut())
        {
            // One that has ended is missed where its agents are counted.
            let _ = orders.write_all(b"quiet\n").and_then(|()| orders.flush());
        }
    }
}

impl Worker {
    fn start(gateway: &Gateway, first: u32, count: u32) -> Result<Self, Trouble> {
        let program = std::env::current_exe().map_err(Trouble::io("where is this program"))?;
        let mut command = Command::new(program);
        command.arg("crowd");
        command.args([gateway.key.to_string(), gateway.overlay.to_string()]);
        command.args([gateway.socket.to_string(), first.to_string(), count.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(Trouble::io("cannot run a part of the crowd"))?;
        let orders = child.stdin.take();
        let counts: Arc<Mutex<Counts>> = Arc::default();
        if let Some(said) = child.stdout.take() {
            let counts = Arc::clone(&counts);
            std::thread::spawn(move || {
                for line in BufReader::new(said).lines().map_while(Result::ok) {
                    if let Some(newest) = parse(&line) {
                        *counts.lock().unwrap_or_else(PoisonError::into_inner) = newest;
                    }
                }
            });
        }
        Ok(Self {
            child,
            orders,
            counts,
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.orders.take());
        let _ = self.child.wait();
    }
}

fn parse(line: &str) -> Option<Counts> {
    let mut numbers = line.split(' ').map(|number| number.parse().ok());
    let mut next = || numbers.next().flatten();
    Some(Counts {
        up: next()?,
        feeds: next()?,
        called: next()?,
        withheld: next()?,
    })
}
