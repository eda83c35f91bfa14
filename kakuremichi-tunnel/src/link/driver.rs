//! The link's life: connect, have a session, wait, and again.

#![expect(
    clippy::disallowed_methods,
    reason = "the link waits for sockets and for time"
)]

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use kakuremichi_core::{
    backoff::Backoff, code::Code, id::NodeId, key::IdentityKey, name::Label, time::Timestamp,
};
use kakuremichi_proto::{
    declare::DeclaredService,
    report::Refusal,
    session::{Client, Closed, DeclareError},
};
use rustls::crypto::CryptoProvider;
use tokio::time;

use super::{
    ControlUrl, EgressProxy, LinkEnd, LinkError, LinkStatus, NodeRecord, Supply,
    rotation::Rotating,
    session::SessionEnd,
    socket,
    status::{FIRST_PAUSE, LONGEST_PAUSE},
    tls::Trust,
};
use crate::{keys, state::Enrolment};

/// A session that lasted so long makes the next pause short again.
const STABLE: Duration = Duration::from_secs(10);

/// What the node knows of its Control.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) control: IdentityKey,
    pub(super) ca: Option<[u8; 32]>,
    pub(super) enrolment: Option<Enrolment>,
}

pub(super) struct Driver<R: NodeRecord> {
    pub(super) supply: Supply<R>,
    pub(super) client: Client,
    pub(super) url: ControlUrl,
    trust: Trust,
    provider: Arc<CryptoProvider>,
    egress: Option<EgressProxy>,
    known: Known,
    /// The wishes that the client knows, by their numbers.
    wished: BTreeMap<Label, u64>,
    /// The wishes that Control did not get to: they are asked again.
    postponed: Vec<Label>,
    /// What was written to the disk last.
    saved_usage: Vec<u8>,
    backoff: Backoff,
    pub(super) rotating: Rotating,
}

impl<R: NodeRecord> Driver<R> {
    pub(super) fn new(
        supply: Supply<R>,
        client: Client,
        url: ControlUrl,
        trust: Trust,
        provider: Arc<CryptoProvider>,
        egress: Option<EgressProxy>,
        known: Known,
    ) -> Self {
        Self {
            saved_usage: client.usage().to_bytes(),
            rotating: Rotating::new(supply.own_keys().previous_until),
            supply,
            client,
            url,
            trust,
            provider,
            egress,
            known,
            wished: BTreeMap::new(),
            postponed: Vec::new(),
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
        }
    }

    pub(super) async fn run(mut self) -> LinkEnd {
        let end = self.live().await;
        self.count_usage().await;
        if end != LinkEnd::Stopped {
            tracing::error!(reason = %end, "the link to Control has ended for good");
        }
        self.supply.set_status(LinkStatus::Ended(end.clone()));
        end
    }

    async fn live(&mut self) -> LinkEnd {
        loop {
            self.supply.set_status(LinkStatus::Connecting);
            let egress = self.egress.as_ref();
            let trust = self.trust.clone();
            let attempts = self.backoff.attempts();
            let connecting = socket::connect(&self.url, trust, &self.provider, egress, attempts);
            let stop = self.supply.stop.clone();
            let (error, retry_after) = tokio::select! {
                biased;
                () = super::supply::stopped(stop) => return LinkEnd::Stopped,
                connected = connecting => match connected {
                    Err(error) => {
                        let retry_after = error.retry_after();
                        (LinkError::Connect(error), retry_after)
                    }
                    Ok(socket) => {
                        let begun = Instant::now();
                        let end = self.session(socket).await;
                        if begun.elapsed() >= STABLE {
                            self.backoff.reset();
                        }
                        match end {
                            SessionEnd::Stopped => return LinkEnd::Stopped,
                            SessionEnd::Broken(error) => (LinkError::Broken(error), None),
                            SessionEnd::Closed(Closed::Lost) => (LinkError::Ended, None),
                            SessionEnd::Closed(Closed::Local(reason) | Closed::Remote(reason)) => {
                                if !self.shows_other_keys(&reason) && reason.permanent {
                                    return LinkEnd::Refused(reason.refusal);
                                }
                                (LinkError::Closed(reason.refusal), reason.retry_after)
                            }
                        }
                    }
                },
            };
            if self.pause(error, retry_after).await {
                return LinkEnd::Stopped;
            }
        }
    }

    /// Waits until it is time to try again. Returns whether the node stops.
    async fn pause(&mut self, error: LinkError, retry_after: Option<Duration>) -> bool {
        let random = keys::random().map_or(u32::MAX, u32::from_le_bytes);
        let pause = self.backoff.next(random);
        let pause = retry_after.map_or(pause, |asked| pause.max(asked.min(socket::RETRY_AFTER_CAP)));
        let attempts = self.backoff.attempts();
        tracing::warn!(error = %Chain(&error), attempts, pause = ?pause, "no link to Control");
        self.supply.set_status(LinkStatus::Waiting {
            error: Arc::new(error),
            attempts,
            until: SystemTime::now() + pause,
        });
        self.count_usage().await;
        tokio::select! {
            biased;
            () = super::supply::stopped(self.supply.stop.clone()) => true,
            () = time::sleep(pause) => false,
        }
    }

    /// Control let the node in as `node`. What it is from now on has to be on the disk before anything
    /// else, or it would enrol again at its next start.
    pub(super) async fn enrolled(&mut self, node: NodeId) {
        let enrolment = Enrolment {
            node,
            url: self.url.to_string(),
            control: self.known.control,
            ca: self.known.ca,
        };
        if self.known.enrolment.as_ref() == Some(&enrolment) {
            return;
        }
        let state = self.supply.state().clone();
        let stored = enrolment.clone();
        self.known.enrolment = Some(enrolment);
        on_disk("the enrolment", move || state.store_enrolment(&stored)).await;
    }

    /// Brings the client's declarations to what the node wishes.
    pub(super) fn sync_wishes(&mut self) {
        let wishes = Arc::clone(&self.supply.wishes.borrow_and_update());
        let client = &mut self.client;
        self.wished.retain(|name, _| {
            let stays = wishes.contains_key(name);
            if !stays {
                client.undeclare(name, false);
            }
            stays
        });
        for (name, (number, declaration)) in wishes.iter() {
            if self.wished.insert(name.clone(), *number) == Some(*number) {
                continue;
            }
            if let Err(error) = self.client.declare(declaration.clone()) {
                self.supply.answer(name, *number, Err(undeclarable(&error)));
            }
        }
    }

    /// Asks again for what Control did not get to.
    pub(super) fn ask_again(&mut self) {
        if self.postponed.is_empty() {
            return;
        }
        for name in self.postponed.drain(..) {
            self.wished.remove(&name);
        }
        self.sync_wishes();
    }

    /// Control answered a declaration.
    pub(super) fn answered(&mut self, name: &Label, result: Result<DeclaredService, Refusal>) {
        let later = result
            .as_ref()
            .is_err_and(|refusal| refusal.code() == Some(Code::TRY_LATER));
        if later {
            tracing::debug!(%name, "Control has not answered a declaration yet");
            self.postponed.push(name.clone());
            return;
        }
        if let Some(number) = self.wished.get(name) {
            self.supply.answer(name, *number, result);
        }
    }

    /// Moves what the node counted into the queue that is sent, and keeps the queue on disk: before it is
    /// sent, so that no number is ever used for two batches.
    pub(super) async fn count_usage(&mut self) {
        let now = Timestamp::from(SystemTime::now());
        for (service, amount) in self.supply.take_usage() {
            self.client.record_usage(service, amount, now);
        }
        self.client.flush_usage(now);
        let bytes = self.client.usage().to_bytes();
        if bytes == self.saved_usage {
            return;
        }
        self.saved_usage.clone_from(&bytes);
        let state = self.supply.state().clone();
        on_disk("usage", move || state.store_usage(&bytes)).await;
    }
}

/// Writes to the state directory, away from the thread that moves packets. A disk that fails is
/// reported: it costs what is not remembered at the next start, and nothing now.
pub(crate) async fn on_disk(
    what: &'static str,
    write: impl FnOnce() -> Result<(), crate::state::StateError> + Send + 'static,
) {
    let written = tokio::task::spawn_blocking(write).await;
    match written {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(error = %Chain(&error), what, "cannot be kept on disk"),
        Err(error) => tracing::error!(%error, what, "cannot be kept on disk"),
    }
}

fn undeclarable(error: &DeclareError) -> Refusal {
    Refusal::new(Code::DECLARE_LIMIT, error.to_string())
}

/// An error with its causes, in one line.
pub(super) struct Chain<'a>(pub(super) &'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
