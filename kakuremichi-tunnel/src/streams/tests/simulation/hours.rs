//! The time of a simulation.

use std::time::{Duration, Instant};

use tokio::{runtime, task};

use super::pipe::Net;
use crate::virtual_clock::VirtualClock;

/// How far the clock moves at most at once: what waits for a time comes so much too late.
const STEP: Duration = Duration::from_millis(50);
/// So many rounds in which nothing moved mean that nothing will.
const QUIET: usize = 4;

/// Runs a scenario to its end; `limit` is how long it may take.
pub(super) fn run<T>(limit: Duration, scenario: impl AsyncFnOnce(Net) -> T) -> T {
    let clock = VirtualClock::start();
    let end = clock.now() + limit;
    let net = Net::default();
    // Its timers go by the clock of this thread.
    let runtime = runtime::Builder::new_current_thread().enable_time().build();
    let passing = pass(&clock, &net, end);
    runtime.unwrap().block_on(task::LocalSet::new().run_until(async {
        tokio::select! {
            biased;
            result = scenario(net.clone()) => result,
            () = passing => panic!("this takes too long"),
        }
    }))
}

/// Has everybody do what there is to do, and then moves the clock to the next event, again and again.
async fn pass(clock: &VirtualClock, net: &Net, end: Instant) {
    while clock.now() < end {
        let (mut seen, mut quiet) = (net.moved(), 0);
        while quiet < QUIET {
            task::yield_now().await;
            quiet = if net.moved() == seen { quiet + 1 } else { 0 };
            seen = net.moved();
        }
        let next = clock.now() + STEP;
        clock.advance_to(net.next().map_or(next, |at| at.min(next)));
        net.arrive(clock.now());
    }
}
