//! Bounds: how many connections there are, before and after their ends are known.

use std::{
    net::IpAddr,
    sync::{Arc, Weak, atomic::Ordering},
};

use kakuremichi_core::{id::AgentId, key::IdentityKey};

use super::{Inner, Streams};
use crate::{gateway::per_address::Share, streams::socket::Cut};

/// A connection whose ends have not proven who they are, until this is dropped.
pub(super) struct Handshaking {
    streams: Streams,
    _share: Share,
}

impl Handshaking {
    /// Counts one more; `None` at a bound. One address does not take the places of all others.
    pub(super) fn begin(streams: &Streams, from: IpAddr) -> Option<Self> {
        let begun = Self::count(streams, from);
        if begun.is_none() {
            streams.inner.counters.lanes_refused.one();
        }
        begun
    }

    fn count(streams: &Streams, from: IpAddr) -> Option<Self> {
        let inner = &streams.inner;
        let share = inner.handshaking_per_address.take(from)?;
        let before = inner.handshaking.fetch_add(1, Ordering::Relaxed);
        // From here on it is counted off again.
        let this = Self {
            streams: streams.clone(),
            _share: share,
        };
        (before < inner.handshakes).then_some(this)
    }
}

impl Drop for Handshaking {
    fn drop(&mut self) {
        self.streams.inner.handshaking.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The place of a connection among those of its agent, until this is dropped.
pub(super) struct Place {
    inner: Weak<Inner>,
    pub(super) agent: AgentId,
    pub(super) number: u64,
}

impl Place {
    /// Finds room for one more; `None` at the bound, and for an agent that is not in the plan.
    pub(super) fn find(streams: &Streams, agent: AgentId, identity: IdentityKey, cut: Cut) -> Option<Self> {
        let inner = &streams.inner;
        let mut state = streams.lock();
        let number = state.next;
        state.next += 1;
        let lane = state.lanes.get_mut(&agent)?;
        if lane.cuts.len() >= inner.connections {
            inner.counters.lanes_refused.one();
            return None;
        }
        // The plan may have turned since the proof.
        if !lane.identities.has(identity) {
            return None;
        }
        lane.cuts.insert(number, (identity, cut));
        Some(Self {
            inner: Arc::downgrade(inner),
            agent,
            number,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.upgrade() {
            inner.lane(self.agent, |lane| lane.cuts.remove(&self.number));
        }
    }
}
