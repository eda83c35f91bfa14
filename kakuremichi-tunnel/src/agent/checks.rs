//! The health checks of all targets.

#![expect(
    clippy::disallowed_methods,
    reason = "checks run by the clock, as tasks of the shard"
)]

use std::{
    collections::BTreeMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use kakuremichi_core::{
    id::TargetId,
    model::{HealthCheck, TargetAddress},
    plan::AgentTarget,
};
use kakuremichi_proto::report::TargetState;
use tokio::{sync::mpsc, task::AbortHandle, time};

use super::{
    check::{self, CheckError, CheckTls},
    health::Tally,
    incoming::Shared,
};

/// The outcomes that wait for the agent; checks wait beyond.
pub(super) const OUTCOMES: usize = 64;

/// One outcome of one check.
#[derive(Debug)]
pub(super) struct Outcome {
    target: TargetId,
    /// Tells the task that made it from one that was replaced.
    number: u64,
    result: Result<(), CheckError>,
}

/// All targets that are checked.
#[derive(Debug)]
pub(super) struct Checks {
    entries: BTreeMap<TargetId, Entry>,
    outcomes: mpsc::Sender<Outcome>,
    tls: CheckTls,
    next_number: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    plan: AgentTarget,
    check: HealthCheck,
    tally: Tally,
    since: SystemTime,
    last_error: Option<Arc<str>>,
    task: AbortHandle,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A target whose state changed, or that is as it is.
#[derive(Debug, Clone)]
pub(super) struct Checked {
    pub(super) target: TargetId,
    pub(super) state: TargetState,
    pub(super) since: SystemTime,
    pub(super) last_error: Option<Arc<str>>,
}

impl Checks {
    /// Targets that speak TLS are asked inside `tls`.
    pub(super) const fn new(outcomes: mpsc::Sender<Outcome>, tls: CheckTls) -> Self {
        Self {
            entries: BTreeMap::new(),
            outcomes,
            tls,
            next_number: 0,
        }
    }

    /// Checks these targets from now on. What is known of one that stays as it was is kept.
    pub(super) fn plan<'a>(&mut self, targets: impl Iterator<Item = &'a AgentTarget>, shared: &Rc<Shared>) {
        let mut before = std::mem::take(&mut self.entries);
        for target in targets {
            let Some(health) = &target.health else { continue };
            let entry = match before.remove(&target.id) {
                Some(entry) if entry.plan == *target => entry,
                _ => self.begin(target, health, shared),
            };
            self.entries.insert(target.id, entry);
        }
    }

    fn begin(&mut self, target: &AgentTarget, health: &HealthCheck, shared: &Rc<Shared>) -> Entry {
        self.next_number += 1;
        let number = self.next_number;
        let task = run(
            target.clone(),
            health.clone(),
            self.tls.clone(),
            number,
            self.outcomes.clone(),
            Rc::clone(shared),
        );
        Entry {
            number,
            plan: target.clone(),
            check: health.clone(),
            tally: Tally::new(),
            since: SystemTime::now(),
            last_error: None,
            task: tokio::task::spawn_local(task).abort_handle(),
        }
    }

    /// Takes an outcome; returns the target if its state changed.
    pub(super) fn record(&mut self, outcome: Outcome) -> Option<Checked> {
        let entry = self
            .entries
            .get_mut(&outcome.target)
            .filter(|entry| entry.number == outcome.number)?;
        let changed = entry.tally.record(outcome.result.is_ok(), &entry.check);
        entry.last_error = outcome.result.err().map(|error| error.to_string().into());
        if !changed {
            return None;
        }
        entry.since = SystemTime::now();
        Some(entry.checked(outcome.target))
    }

    /// The target, if it is checked.
    pub(super) fn get(&self, target: TargetId) -> Option<Checked> {
        self.entries.get(&target).map(|entry| entry.checked(target))
    }

    /// Every target that is checked.
    pub(super) fn all(&self) -> impl Iterator<Item = Checked> {
        self.entries.iter().map(|(target, entry)| entry.checked(*target))
    }
}

impl Entry {
    fn checked(&self, target: TargetId) -> Checked {
        Checked {
            target,
            state: self.tally.state(),
            since: self.since,
            last_error: self.last_error.clone(),
        }
    }
}

async fn run(
    target: AgentTarget,
    health: HealthCheck,
    tls: CheckTls,
    number: u64,
    outcomes: mpsc::Sender<Outcome>,
    shared: Rc<Shared>,
) {
    loop {
        let result = match target.address {
            TargetAddress::InProcess if shared.has_inlet(target.id) => Ok(()),
            TargetAddress::InProcess => Err(CheckError::NoListener),
            TargetAddress::Tcp(_) | TargetAddress::Unix(_) | TargetAddress::Udp(_) => {
                check::check(&target.address, target.tls.then_some(&tls), &health).await
            }
        };
        let outcome = Outcome {
            target: target.id,
            number,
            result,
        };
        if outcomes.send(outcome).await.is_err() {
            return;
        }
        let in_process = target.address == TargetAddress::InProcess;
        tokio::select! {
            () = time::sleep(spread(health.interval)) => {}
            // A listener that came or went is known at once.
            () = shared.rebound.notified(), if in_process => {}
        }
    }
}

/// The interval, less up to a tenth, so that the checks of many targets do not fall together.
fn spread(interval: Duration) -> Duration {
    let random = crate::keys::random().map_or(0, u32::from_le_bytes);
    interval.mul_f64(1.0 - 0.1 * f64::from(random) / f64::from(u32::MAX))
}
