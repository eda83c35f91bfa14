//! The part of the fleet that lives in processes of its own.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use kakuremichi_benches::machine::Trouble;

use crate::{control::Control, worker::TOKEN};

/// Agents in one process: below the 20,000 files that a process may have open, and few enough that one thread keeps
/// up with them.
const PER_PROCESS: u32 = 5_000;

/// What happened to the agents.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Agents that were let in.
    pub(crate) online: usize,
    /// Agents with a plan that they acknowledged.
    pub(crate) planned: usize,
    /// Connections that were tried.
    pub(crate) attempts: usize,
}

/// Agents; they end with the value.
#[derive(Debug)]
pub(crate) struct Crowd(Vec<Worker>);

#[derive(Debug)]
struct Worker {
    child: Child,
    orders: Option<ChildStdin>,
    counts: Arc<Mutex<Counts>>,
}

impl Crowd {
    /// Starts the agents `first..first + count`.
    pub(crate) fn start(control: &Control, token: &str, first: u32, count: u32) -> Result<Self, Trouble> {
        let firsts = (0..count).step_by(PER_PROCESS as usize);
        let worker = |place| Worker::start(control, token, first + place, PER_PROCESS.min(count - place));
        firsts.map(worker).collect::<Result<_, _>>().map(Self)
    }

    /// What happened to all of them.
    pub(crate) fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for worker in &self.0 {
            let counts = *worker.counts.lock().unwrap_or_else(PoisonError::into_inner);
            sum.online += counts.online;
            sum.planned += counts.planned;
            sum.attempts += counts.attempts;
        }
        sum
    }

    /// All of them drop their connections.
    pub(crate) fn cut(&mut self) {
        for orders in self.0.iter_mut().filter_map(|worker| worker.orders.as_mut()) {
            // One that has ended is missed where its agents are counted.
            let _ = orders.write_all(b"cut\n").and_then(|()| orders.flush());
        }
    }
}

impl Worker {
    fn start(control: &Control, token: &str, first: u32, count: u32) -> Result<Self, Trouble> {
        let program = std::env::current_exe().map_err(Trouble::io("where is this program"))?;
        let mut command = Command::new(program);
        command.args(["crowd", &control.address().to_string()]);
        command.arg(control.authority());
        command.args([first.to_string(), count.to_string()]);
        command.env(TOKEN, token);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(Trouble::io("cannot run a part of the fleet"))?;
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
        online: next()?,
        planned: next()?,
        attempts: next()?,
    })
}
