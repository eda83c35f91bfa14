//! The clock of a simulation.
//!
//! boringtun reads the clock by itself, and so does the engine where it begins a turn. In this crate's own
//! tests the C library's `clock_gettime` is therefore replaced by one that says what a simulation wants, on
//! the thread of the simulation and nowhere else: there every clock, that of the day too, stands still until
//! it is moved.

#![expect(clippy::disallowed_methods, reason = "this is the clock")]

use std::{
    cell::Cell,
    marker::PhantomData,
    time::{Duration, Instant},
};

thread_local! {
    /// What the clocks of this thread say, if it is not the system that says it.
    static NOW: Cell<Option<Duration>> = const { Cell::new(None) };
    /// How far the clock of the day is behind the others.
    static BEHIND: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// What the clocks say at first: the same in each run.
const BEGIN: Duration = Duration::from_secs(1_700_000_000);

/// Holds the clocks of this thread, until it is dropped.
#[derive(Debug)]
pub(crate) struct VirtualClock {
    /// Of this thread.
    _here: PhantomData<*const ()>,
}

impl VirtualClock {
    /// Stops the clocks of this thread.
    ///
    /// # Panics
    /// When they are stopped already.
    pub(crate) fn start() -> Self {
        assert_eq!(NOW.replace(Some(BEGIN)), None, "one simulation at a time");
        Self { _here: PhantomData }
    }

    /// What they say.
    #[expect(
        clippy::unused_self,
        reason = "they are only known to stand still while this exists"
    )]
    pub(crate) fn now(&self) -> Instant {
        Instant::now()
    }

    /// Sets the clock of the day back behind the others, by so much in all.
    #[expect(
        clippy::unused_self,
        reason = "they are only known to stand still while this exists"
    )]
    pub(crate) fn set_back(&self, by: Duration) {
        BEHIND.set(by);
    }

    /// Moves them; what is in the past is ignored.
    pub(crate) fn advance_to(&self, to: Instant) {
        let ahead = to.saturating_duration_since(self.now());
        NOW.set(NOW.get().map(|now| now + ahead));
    }
}

impl Drop for VirtualClock {
    fn drop(&mut self) {
        NOW.set(None);
        BEHIND.set(Duration::ZERO);
    }
}

/// In the place of the C library's.
#[expect(unsafe_code, reason = "only so can a simulation tell boringtun the time")]
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, out: *mut libc::timespec) -> libc::c_int {
    let Some(now) = NOW.get() else {
        // SAFETY: the system's own function, with what its caller gave.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, out) as libc::c_int };
    };
    let now = match clock {
        libc::CLOCK_REALTIME => now.saturating_sub(BEHIND.get()),
        _ => now,
    };
    let time = libc::timespec {
        tv_sec: now.as_secs() as libc::time_t,
        tv_nsec: now.subsec_nanos().into(),
    };
    // SAFETY: whoever calls this function gives a place for the answer.
    unsafe { out.write(time) };
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_of_a_simulation_stand_still_and_those_of_others_do_not() {
        let clock = VirtualClock::start();
        let begin = clock.now();
        let outside = std::thread::spawn(Instant::now).join().unwrap();
        assert_eq!(clock.now(), begin);
        clock.advance_to(begin + Duration::from_secs(3_600));
        assert_eq!(clock.now() - begin, Duration::from_secs(3_600));
        assert_eq!(begin.elapsed(), Duration::from_secs(3_600));
        let later = std::thread::spawn(Instant::now).join().unwrap();
        assert!(later > outside && later - outside < Duration::from_secs(600));
        drop(clock);
        assert!(Instant::now() >= later);
    }
}
