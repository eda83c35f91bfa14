//! Sessions of datagrams over the connections of an agent: how many there may be, and who carries them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use kakuremichi_core::id::AgentId;

use super::Streams;
use crate::{
    gateway::{settings::Limits, upstream::FlowError},
    streams::datagrams::Carrier,
};

/// One in so many connections of an agent may carry a session. Each session keeps its connection for as long
/// as it is there, and those that idle are to leave most of them to flows. Beyond, no new session begins.
const SHARE: usize = 4;

/// The most sessions of one agent.
pub(super) const fn most(limits: &Limits) -> usize {
    limits.lane_connections.div_ceil(SHARE)
}

/// The place of a session among those of its agent, until this is dropped.
#[derive(Debug)]
pub(crate) struct SessionPlace(Arc<AtomicUsize>);

impl Streams {
    /// Finds room for one more session of an agent.
    ///
    /// # Errors
    /// At the bound, and for an agent that is not in the plan.
    pub(crate) fn session_place(&self, agent: AgentId) -> Result<SessionPlace, FlowError> {
        let count = self.lane(agent, |lane| Arc::clone(&lane.sessions));
        let count = count.ok_or(FlowError::Offline)?;
        let before = count.fetch_add(1, Ordering::Relaxed);
        // From here on it is counted off again.
        let place = SessionPlace(count);
        if before >= self.inner.sessions {
            self.inner.counters.lane_sessions_overflowed.one();
            return Err(FlowError::Overloaded);
        }
        Ok(place)
    }

    /// Has a session carried to its end, as a task of the shard.
    #[expect(
        clippy::disallowed_methods,
        reason = "the session ends the task, or the lane, or the shard"
    )]
    pub(crate) fn carry(&self, carrier: Carrier, place: SessionPlace) {
        let counters = Arc::clone(&self.inner.counters);
        counters.lane_sessions.one();
        tokio::task::spawn_local(async move {
            carrier.run(|shed| counters.udp_shed.add(shed)).await;
            drop(place);
        });
    }
}

impl Drop for SessionPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
