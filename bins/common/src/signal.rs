//! SIGTERM and SIGINT: the first asks a process to drain, the second to leave at once.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// The two signals that ask a process to end, as one stream.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// How a drain ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Drained<T> {
    /// The work ended by itself.
    Done(T),
    /// The time was up.
    TimeUp,
    /// A second signal came.
    Cut,
}

impl Signals {
    /// Takes both signals over from the system's default of ending the process.
    ///
    /// # Errors
    ///
    /// The system refuses the handler.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with IO enabled.
    pub fn listen() -> Result<Self, Failure> {
        let take = |kind| signal(kind).map_err(|error| Failure::because("cannot listen for signals", &error));
        Ok(Self {
            terminate: take(SignalKind::terminate())?,
            interrupt: take(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal and returns its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// Lets `work` end what is under way, for at most `grace` and until the next signal.
    pub async fn drain<T>(&mut self, grace: Duration, work: impl Future<Output = T>) -> Drained<T> {
        tokio::select! {
            biased;
            _ = self.next() => Drained::Cut,
            outcome = tokio::time::timeout(grace, work) => outcome.map_or(Drained::TimeUp, Drained::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    fn send(signal: Signal) {
        kill_process(getpid(), signal).unwrap();
    }

    /// One test, because a signal reaches every listener in the process.
    #[tokio::test]
    async fn the_first_signal_drains_and_the_second_cuts() {
        let mut signals = Signals::listen().unwrap();
        send(Signal::TERM);
        assert_eq!(signals.next().await, "SIGTERM");
        assert_eq!(
            signals.drain(Duration::from_secs(60), async { 7 }).await,
            Drained::Done(7)
        );
        let never = std::future::pending::<()>;
        assert_eq!(
            signals.drain(Duration::from_millis(1), never()).await,
            Drained::TimeUp
        );
        send(Signal::INT);
        assert_eq!(
            signals.drain(Duration::from_secs(60), never()).await,
            Drained::Cut
        );
    }
}
