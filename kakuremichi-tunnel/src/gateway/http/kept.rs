//! Connections to targets that one visitor's connection may use again.
//!
//! They are never shared between visitors: what a target makes of a connection (who it is from, what
//! state it is in) cannot reach another visitor.

#![expect(
    clippy::disallowed_methods,
    reason = "the age of a kept connection is told by the clock"
)]

use std::{cell::RefCell, collections::VecDeque, rc::Rc, sync::Arc, time::Duration};

use hyper::client::conn::http1::SendRequest;
use kakuremichi_core::{
    auth::Principal,
    id::{GatewayId, ServiceId},
    plan::PlannedTarget,
};
use tokio::{task::AbortHandle, time::Instant};

use super::body::RequestBody;
use crate::gateway::draining::Draining;

/// Connections that are kept for one visitor's connection. Beyond, the oldest is closed.
const MAX_KEPT: usize = 8;
/// How long after its last answer a connection is trusted with a request that cannot be sent twice: a
/// target that closes idle connections may be doing so right now.
const FRESH: Duration = Duration::from_secs(1);

/// Whose connection it is, and where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeptKey {
    /// The service that the connection was opened for: its preface says so.
    pub(crate) service: ServiceId,
    /// Who the preface says the visitor is.
    pub(crate) principal: Option<Principal>,
    /// The target as it was planned then; any change makes it another.
    pub(crate) target: Arc<PlannedTarget>,
}

/// The kept connections of one visitor's connection.
#[derive(Debug)]
pub(crate) struct Kept {
    idle: RefCell<VecDeque<Idle>>,
    draining: Rc<Draining>,
    /// Names it there.
    key: usize,
}

#[derive(Debug)]
struct Idle {
    connection: TargetConnection,
    key: KeptKey,
    since: Instant,
}

/// A connection to a target. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct TargetConnection {
    /// Sends requests.
    pub(crate) sender: SendRequest<RequestBody>,
    /// The gateway through which it leads, if it is another one.
    pub(crate) relay: Option<GatewayId>,
    /// The task that drives it.
    _task: TaskGuard,
}

impl TargetConnection {
    /// A connection, by way of which gateway, and the task that drives it.
    pub(crate) const fn new(
        sender: SendRequest<RequestBody>,
        relay: Option<GatewayId>,
        task: TaskGuard,
    ) -> Self {
        Self {
            sender,
            relay,
            _task: task,
        }
    }
}

/// Ends a task when dropped.
#[derive(Debug)]
pub(crate) struct TaskGuard(pub(crate) AbortHandle);

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.draining.forget(self.key);
    }
}

impl Kept {
    /// Keeps none yet.
    pub(crate) const fn new(draining: Rc<Draining>, key: usize) -> Self {
        Self {
            idle: RefCell::new(VecDeque::new()),
            draining,
            key,
        }
    }

    /// Closes those to targets that `leave`.
    pub(crate) fn close(&self, leave: impl Fn(&PlannedTarget) -> bool) {
        self.idle.borrow_mut().retain(|idle| !leave(&idle.key.target));
    }

    /// Takes a connection that is ready for another request. `repeatable` says that the request may be
    /// sent again if the target closes the connection meanwhile.
    pub(crate) fn take(&self, key: &KeptKey, repeatable: bool) -> Option<TargetConnection> {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|idle| !idle.connection.sender.is_closed());
        let position = idle.iter().rposition(|idle| {
            idle.key == *key
                && idle.connection.sender.is_ready()
                && (repeatable || idle.since.elapsed() < FRESH)
        })?;
        idle.remove(position).map(|idle| idle.connection)
    }

    fn keep(&self, key: KeptKey, connection: TargetConnection) {
        if self.draining.has(&key.target) {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= MAX_KEPT {
            idle.pop_front();
        }
        idle.push_back(Idle {
            connection,
            key,
            since: Instant::now(),
        });
    }
}

/// A connection that is being used. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct InUse {
    /// The connection.
    pub(crate) connection: TargetConnection,
    /// Under which name, and where, it is kept afterwards; `None` if it is not.
    pub(crate) keep: Option<(KeptKey, Rc<Kept>)>,
}

impl InUse {
    /// The answer has ended. The connection is kept if it is `clean`: both messages were read whole.
    pub(crate) fn finish(self, clean: bool) {
        if let Some((key, kept)) = self.keep
            && clean
            && !self.connection.sender.is_closed()
        {
            kept.keep(key, self.connection);
        }
    }
}
