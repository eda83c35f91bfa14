//! Requests that wait for an answer.

use std::{collections::BTreeMap, time::Instant};

use super::{REQUEST_TIMEOUT, RequestId};

/// Requests under their numbers, each with a deadline. A number is used once.
#[derive(Debug)]
pub(super) struct Requests<T> {
    next: u64,
    open: BTreeMap<u64, (T, Instant)>,
}

impl<T> Requests<T> {
    /// Numbers start at `first`.
    pub(super) const fn new(first: u64) -> Self {
        Self {
            next: first,
            open: BTreeMap::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn open(&mut self, request: T, now: Instant) -> RequestId {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.open.insert(number, (request, now + REQUEST_TIMEOUT));
        RequestId(number)
    }

    /// Takes a request whose answer came; `None` if there is none with this number.
    pub(super) fn close(&mut self, id: RequestId) -> Option<T> {
        self.open.remove(&id.0).map(|(request, _)| request)
    }

    /// Takes a request whose time is over.
    pub(super) fn expire(&mut self, now: Instant) -> Option<(RequestId, T)> {
        let number = *self.open.iter().find(|(_, (_, deadline))| *deadline <= now)?.0;
        self.close(RequestId(number))
            .map(|request| (RequestId(number), request))
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.open.values().map(|(_, deadline)| *deadline).min()
    }
}
