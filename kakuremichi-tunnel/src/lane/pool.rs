//! How many connections a lane of TLS streams keeps open.

use std::time::{Duration, Instant};

/// The bounds of a pool, and its pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// So many connections without a flow are kept, so that a flow pays no handshake; none on standby.
    pub idle: usize,
    /// The most connections. Beyond, flows wait at the gateway until one is free.
    pub connections: usize,
    /// The most that are dialled at a time; the rest follows as these end.
    pub dials: usize,
    /// The most that are told to go at a time; the rest follows as these are closed. After a rush there are
    /// hundreds, and flows are not to wait for the end of all of them.
    pub retirements: usize,
    /// What was used at a time within the last two of these spans is kept open.
    pub span: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            idle: 2,
            connections: 256,
            dials: 16,
            retirements: 16,
            span: Duration::from_secs(10),
        }
    }
}

/// Counts the connections of one lane and says how many to dial and to retire.
///
/// Tell what happens by the `handle_*` methods and at [`poll_timeout`](Self::poll_timeout) by
/// [`handle_timeout`](Self::handle_timeout); then dial [`poll_dials`](Self::poll_dials) and retire
/// [`poll_retirements`](Self::poll_retirements).
#[derive(Debug, Clone)]
pub struct Pool {
    limits: PoolLimits,
    /// Flows are not expected.
    standby: bool,
    dialling: usize,
    idle: usize,
    busy: usize,
    /// Idle ones that were told to go.
    retiring: usize,
    /// The most that were wanted at a time, in this span and in the one before.
    peak: usize,
    peak_before: usize,
    span_ends: Instant,
}

impl Pool {
    /// A pool without connections.
    #[must_use]
    pub fn new(limits: PoolLimits, now: Instant) -> Self {
        Self {
            limits,
            standby: false,
            dialling: 0,
            idle: 0,
            busy: 0,
            retiring: 0,
            peak: 0,
            peak_before: 0,
            span_ends: now + limits.span,
        }
    }

    /// Says whether flows are not expected: then only those connections are kept that flows use, or wait for.
    pub const fn set_standby(&mut self, standby: bool) {
        self.standby = standby;
    }

    /// How many connections there are.
    #[must_use]
    pub const fn open(&self) -> usize {
        self.idle + self.busy
    }

    /// How many carry a flow.
    #[must_use]
    pub const fn busy(&self) -> usize {
        self.busy
    }

    /// A connection is there.
    pub const fn handle_opened(&mut self) {
        self.dialling = self.dialling.saturating_sub(1);
        self.idle += 1;
    }

    /// A connection could not be made. When to dial again is for the caller to say.
    pub const fn handle_failed(&mut self) {
        self.dialling = self.dialling.saturating_sub(1);
    }

    /// A flow began on an idle connection.
    pub fn handle_begun(&mut self) {
        self.idle = self.idle.saturating_sub(1);
        self.retiring = self.retiring.min(self.idle);
        self.busy += 1;
        self.peak = self.peak.max(self.busy);
    }

    /// A flow ended, and its connection is idle again.
    pub const fn handle_ended(&mut self) {
        self.busy = self.busy.saturating_sub(1);
        self.idle += 1;
    }

    /// An idle connection was closed, by whomever.
    pub const fn handle_closed_idle(&mut self) {
        self.idle = self.idle.saturating_sub(1);
        self.retiring = self.retiring.saturating_sub(1);
    }

    /// A connection was closed with its flow.
    pub const fn handle_closed_busy(&mut self) {
        self.busy = self.busy.saturating_sub(1);
    }

    /// So many flows wait for a connection at the gateway.
    pub fn handle_demand(&mut self, flows: usize) {
        let wanted = self.busy.saturating_add(flows).min(self.limits.connections);
        self.peak = self.peak.max(wanted);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now < self.span_ends {
            return;
        }
        self.peak_before = self.peak;
        self.peak = self.busy;
        self.span_ends = now + self.limits.span;
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    #[must_use]
    pub const fn poll_timeout(&self) -> Instant {
        self.span_ends
    }

    /// How many connections there should be.
    fn target(&self) -> usize {
        let used = self.peak.max(self.peak_before).max(self.busy);
        let idle = if self.standby { 0 } else { self.limits.idle };
        (used + idle).min(self.limits.connections)
    }

    /// So many connections are to be dialled now. They count as being dialled.
    #[must_use = "these count as being dialled"]
    pub fn poll_dials(&mut self) -> usize {
        let staying = (self.open() + self.dialling).saturating_sub(self.retiring);
        let missing = self.target().saturating_sub(staying);
        let room = self
            .limits
            .connections
            .saturating_sub(self.open() + self.dialling);
        let dials = missing
            .min(room)
            .min(self.limits.dials.saturating_sub(self.dialling));
        self.dialling += dials;
        dials
    }

    /// So many idle connections are to be told to go now. They count as retiring until they are closed.
    #[must_use = "these count as retiring"]
    pub fn poll_retirements(&mut self) -> usize {
        let staying = (self.open() + self.dialling).saturating_sub(self.retiring);
        let spare = staying.saturating_sub(self.target());
        let retirements = spare
            .min(self.idle.saturating_sub(self.retiring))
            .min(self.limits.retirements.saturating_sub(self.retiring));
        self.retiring += retirements;
        retirements
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn start() -> (Pool, Instant) {
        #[expect(
            clippy::disallowed_methods,
            reason = "a test needs some instant to start from"
        )]
        let now = Instant::now();
        (Pool::new(PoolLimits::default(), now), now)
    }

    /// Dials and retires whatever is asked for, until nothing is.
    fn settle(pool: &mut Pool) {
        (0..pool.dialling).for_each(|_| pool.handle_opened());
        loop {
            let (dials, retirements) = (pool.poll_dials(), pool.poll_retirements());
            if dials + retirements == 0 {
                return;
            }
            (0..dials).for_each(|_| pool.handle_opened());
            (0..retirements).for_each(|_| pool.handle_closed_idle());
        }
    }

    #[test]
    fn a_few_connections_wait_for_flows() {
        let (mut pool, _) = start();
        assert_eq!((pool.poll_dials(), pool.poll_dials()), (2, 0));
        pool.handle_opened();
        pool.handle_failed();
        assert_eq!((pool.poll_dials(), pool.open()), (1, 1));
    }

    #[test]
    fn a_standby_has_connections_for_flows_only_where_there_are_flows() {
        let (mut pool, _) = start();
        pool.set_standby(true);
        settle(&mut pool);
        assert_eq!(pool.open(), 0);
        // The gateway may notice earlier than the agent that WireGuard does not get through.
        pool.handle_demand(1);
        settle(&mut pool);
        assert_eq!(pool.open(), 1);
        pool.set_standby(false);
        settle(&mut pool);
        assert_eq!(pool.open(), 3);
        pool.set_standby(true);
        for _ in 0..2 {
            pool.handle_timeout(pool.poll_timeout());
        }
        settle(&mut pool);
        assert_eq!(pool.open(), 0);
    }

    #[test]
    fn it_grows_with_what_is_used_and_shrinks_when_it_no_longer_is() {
        let (mut pool, mut now) = start();
        settle(&mut pool);
        for _ in 0..40 {
            pool.handle_begun();
            settle(&mut pool);
        }
        assert_eq!((pool.open(), pool.busy()), (42, 40));
        (0..40).for_each(|_| pool.handle_ended());
        // Flows that come and go keep what they use.
        for expected in [42, 42, 2] {
            settle(&mut pool);
            assert_eq!(pool.open(), expected);
            now = pool.poll_timeout();
            pool.handle_timeout(now);
        }
        pool.handle_timeout(now);
        assert_eq!((pool.poll_dials(), pool.poll_retirements()), (0, 0));
    }

    #[test]
    fn flows_that_wait_are_dialled_for_a_few_at_a_time() {
        let (mut pool, _) = start();
        settle(&mut pool);
        pool.handle_demand(100);
        assert_eq!((pool.poll_dials(), pool.poll_dials()), (16, 0));
        pool.handle_opened();
        assert_eq!(pool.poll_dials(), 1);
        pool.handle_demand(usize::MAX);
        settle(&mut pool);
        assert_eq!(pool.open(), PoolLimits::default().connections);
    }

    #[test]
    fn connections_that_are_too_many_go_a_few_at_a_time() {
        let (mut pool, _) = start();
        settle(&mut pool);
        pool.handle_demand(100);
        settle(&mut pool);
        (0..2).for_each(|_| pool.handle_timeout(pool.poll_timeout()));
        assert_eq!(pool.open(), 102);
        assert_eq!((pool.poll_retirements(), pool.poll_retirements()), (16, 0));
        pool.handle_closed_idle();
        assert_eq!(pool.poll_retirements(), 1);
        // One that a flow takes does not go.
        (0..100).for_each(|_| pool.handle_begun());
        assert_eq!((pool.idle, pool.retiring, pool.poll_retirements()), (1, 1, 0));
    }

    #[test]
    fn a_flow_that_takes_a_retiring_connection_changes_no_count() {
        let (mut pool, _) = start();
        settle(&mut pool);
        pool.handle_demand(1);
        settle(&mut pool);
        let mut now = pool.poll_timeout();
        pool.handle_timeout(now);
        now = pool.poll_timeout();
        pool.handle_timeout(now);
        assert_eq!((pool.open(), pool.poll_retirements()), (3, 1));
        (0..3).for_each(|_| pool.handle_begun());
        assert_eq!((pool.poll_retirements(), pool.poll_dials()), (0, 2));
    }

    proptest! {
        /// Counts never run away, the bounds hold, and it comes to rest.
        #[test]
        fn the_bounds_hold(steps in proptest::collection::vec((0_u8..8, 0_u16..400), 0..200)) {
            let (mut pool, mut now) = start();
            let limits = PoolLimits::default();
            for (step, number) in steps {
                match step {
                    0 if pool.dialling > 0 => pool.handle_opened(),
                    1 if pool.dialling > 0 => pool.handle_failed(),
                    2 if pool.idle > 0 => pool.handle_begun(),
                    3 if pool.busy > 0 => pool.handle_ended(),
                    4 if pool.idle > 0 => pool.handle_closed_idle(),
                    5 if pool.busy > 0 => pool.handle_closed_busy(),
                    6 => pool.handle_demand(number.into()),
                    7 => {
                        now += Duration::from_secs(u64::from(number) / 20);
                        pool.handle_timeout(now);
                    }
                    _ => {}
                }
                let _ = (pool.poll_dials(), pool.poll_retirements());
                prop_assert!(pool.dialling <= limits.dials);
                prop_assert!(pool.open() + pool.dialling <= limits.connections);
                prop_assert!(pool.retiring <= pool.idle.min(limits.retirements));
            }
            settle(&mut pool);
            prop_assert!(pool.open() >= limits.idle || pool.dialling > 0);
        }
    }
}
