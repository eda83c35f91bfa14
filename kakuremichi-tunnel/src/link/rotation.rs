//! New keys for the node, over the link.

#![expect(clippy::disallowed_methods, reason = "keys are made, and end, by the clock")]

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use kakuremichi_core::{code::Code, time::Timestamp};
use kakuremichi_proto::{
    report::Refusal,
    session::{self, Reason},
};

use super::{
    NodeRecord, RotateKeysError,
    driver::{Chain, Driver, on_disk},
    supply::RotationAnswer,
};
use crate::keys::{NodeKeys, Renewed};

/// The most who wait for the answer to keys; further ones are told that others did.
const WAITING: usize = 16;

/// How long a node whose old keys are to be replaced by itself waits after Control did not take new ones.
const REST: Duration = Duration::from_secs(60 * 60);

/// How it is with the keys of a node.
#[derive(Debug, Default)]
pub(super) struct Rotating {
    /// Until when those of before count.
    previous_until: Option<Timestamp>,
    /// Whether the node shows the keys that it proposes, because those that it has are refused: Control took them, and
    /// the node did not hear of it for so long.
    shows_next: bool,
    /// Whether Control did not get to the keys that are proposed, so that they are to be proposed again.
    postponed: bool,
    /// Until when the node does not want other keys by itself: Control did not take some.
    rests: Option<Timestamp>,
    waiting: Vec<RotationAnswer>,
}

impl Rotating {
    pub(super) fn new(previous_until: Option<Timestamp>) -> Self {
        Self {
            previous_until,
            ..Self::default()
        }
    }
}

impl<R: NodeRecord> Driver<R> {
    /// Makes keys, puts them on the disk, and proposes them. Those that were proposed and not answered are proposed
    /// again.
    pub(super) async fn rotate(&mut self, renewed: Renewed) -> Result<(), Refusal> {
        let ring = self.supply.own_keys().ring.clone();
        if let Some(next) = ring.held().next {
            self.client.rotate_keys(shown(&next));
            return Ok(());
        }
        let (state, current) = (self.supply.state().clone(), ring.current());
        let made = tokio::task::spawn_blocking(move || state.next_keys(&current, renewed)).await;
        let failed = |error: &dyn std::error::Error| {
            tracing::error!(error = %Chain(error), "no new keys can be kept on disk");
            Refusal::new(Code::INTERNAL, "the node cannot keep new keys on its disk")
        };
        let next = match made {
            Ok(Ok(next)) => next,
            Ok(Err(error)) => return Err(failed(&error)),
            Err(error) => return Err(failed(&error)),
        };
        ring.propose(Some(next.clone()));
        self.client.rotate_keys(shown(&next));
        Ok(())
    }

    /// Somebody in this process wants new keys.
    pub(super) async fn rotate_for(&mut self, answer: RotationAnswer) {
        self.rotating.waiting.retain(|waiting| !waiting.is_closed());
        if self.rotating.waiting.len() >= WAITING {
            // Whoever asked may be gone.
            let _ = answer.send(Err(RotateKeysError::Busy));
            return;
        }
        match self.rotate(Renewed::Both).await {
            Ok(()) => self.rotating.waiting.push(answer),
            Err(refusal) => drop(answer.send(Err(RotateKeysError::Refused(refusal)))),
        }
    }

    /// Control answered.
    pub(super) async fn rotated(&mut self, result: Result<Option<Timestamp>, Refusal>) {
        let otherwise = result
            .as_ref()
            .err()
            .and_then(|refusal| self.renewed_otherwise(refusal));
        let result = match otherwise {
            Some(renewed) => match self.propose_otherwise(renewed).await {
                Ok(()) => return,
                Err(refusal) => Err(refusal),
            },
            None => result,
        };
        let told = match result {
            Ok(until) => {
                self.promote(until).await;
                Ok(())
            }
            Err(refusal) if refusal.code() == Some(Code::TRY_LATER) => {
                self.rotating.postponed = true;
                tracing::warn!(%refusal, "Control did not get to the new keys");
                Err(RotateKeysError::Refused(refusal))
            }
            Err(refusal) => {
                tracing::warn!(%refusal, "Control does not take new keys: the node has those that it had");
                self.discard().await;
                self.rotating.rests = Some(Timestamp::from(SystemTime::now()).after(REST));
                Err(RotateKeysError::Refused(refusal))
            }
        };
        for waiting in self.rotating.waiting.drain(..) {
            let _ = waiting.send(told.clone());
        }
    }

    /// Which keys Control wants in the place of those that were proposed, if that is why it refuses them.
    fn renewed_otherwise(&self, refusal: &Refusal) -> Option<Renewed> {
        let held = self.supply.own_keys().ring.held();
        let other_tunnels = held.next?.wireguard() != held.current.wireguard();
        match refusal.code()? {
            Code::WIREGUARD_KEY_KNOWN if other_tunnels => Some(Renewed::Identity),
            Code::WIREGUARD_KEY_WANTED if !other_tunnels => Some(Renewed::Both),
            _ => None,
        }
    }

    /// Proposes other keys in the place of those that Control refused.
    async fn propose_otherwise(&mut self, renewed: Renewed) -> Result<(), Refusal> {
        tracing::info!(?renewed, "Control wants other keys of this node");
        if !self.discard().await {
            return Err(Refusal::new(
                Code::INTERNAL,
                "the node cannot take keys off its disk",
            ));
        }
        self.rotate(renewed).await
    }

    /// The keys that were proposed are none. Returns whether they are off the disk, too.
    async fn discard(&self) -> bool {
        self.supply.own_keys().ring.propose(None);
        let state = self.supply.state().clone();
        match tokio::task::spawn_blocking(move || state.discard_next_keys()).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => tracing::error!(error = %Chain(&error), "keys cannot be taken off the disk"),
            Err(error) => tracing::error!(%error, "keys cannot be taken off the disk"),
        }
        false
    }

    /// The keys that were proposed are those that the node has.
    async fn promote(&mut self, until: Option<Timestamp>) {
        let state = self.supply.state().clone();
        on_disk("the new keys", move || state.promote_keys(until)).await;
        let ring = &self.supply.own_keys().ring;
        ring.promote(until.is_some());
        self.rotating.previous_until = until;
        tracing::info!(identity = %ring.current().identity(), "the node has new keys");
    }

    /// The node was let in. When that was by the keys that it proposed, Control has taken them long ago.
    pub(super) async fn let_in(&mut self) {
        if std::mem::take(&mut self.rotating.shows_next) {
            self.client.keep_keys();
            self.promote(None).await;
        }
    }

    /// Whether there are other keys to show, where Control refused those that were shown.
    pub(super) fn shows_other_keys(&mut self, reason: &Reason) -> bool {
        if reason.refusal.code() != Some(Code::NODE_KEYS) {
            return false;
        }
        let held = self.supply.own_keys().ring.held();
        let next = held.next.filter(|_| !self.rotating.shows_next);
        self.rotating.shows_next = next.is_some();
        self.client
            .set_keys(shown(next.as_ref().unwrap_or(&held.current)));
        next.is_some()
    }

    /// Ends the time of keys of before, and looks whether those that the node has are old.
    pub(super) async fn tend_keys(&mut self) {
        let now = Timestamp::from(SystemTime::now());
        if self
            .rotating
            .previous_until
            .take_if(|until| *until <= now)
            .is_some()
        {
            let state = self.supply.state().clone();
            on_disk("that keys of before are gone", move || {
                state.forget_previous_keys()
            })
            .await;
            self.supply.own_keys().ring.forget_previous();
        }
        if std::mem::take(&mut self.rotating.postponed) {
            if let Err(refusal) = self.rotate(Renewed::Both).await {
                tracing::warn!(%refusal, "new keys cannot be proposed again");
            }
            return;
        }
        let keys = self.supply.own_keys();
        if keys.ring.held().next.is_some() || self.rotating.rests.is_some_and(|until| now < until) {
            return;
        }
        let made = keys
            .rotate_after
            .and_then(|age| Some((age, self.supply.state().keys_made()?)));
        if made.is_some_and(|(age, made)| made.after(age) <= now)
            && let Err(refusal) = self.rotate(Renewed::Both).await
        {
            tracing::warn!(%refusal, "the keys are old, and stay");
        }
    }
}

fn shown(keys: &NodeKeys) -> session::OwnKeys {
    session::OwnKeys {
        signer: Arc::new(keys.clone()),
        wireguard: keys.wireguard(),
    }
}
