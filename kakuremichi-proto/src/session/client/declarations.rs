//! What the program on the node publishes: it survives connections, and each new one hears all of it.

use std::{collections::BTreeMap, time::Instant};

use kakuremichi_core::name::Label;

use crate::{
    convert::Invalid,
    declare::Declaration,
    frame::{Message, Tag},
    message::{self, MAX_DECLARATIONS, Subject},
    session::{MAX_DECLARES_IN_FLIGHT, REQUEST_TIMEOUT},
};

/// Why something cannot be declared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeclareError {
    /// A field has no form on the wire.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// It is larger than a frame.
    #[error("the declaration is larger than {} bytes", Tag::Declare.limit())]
    TooLarge,
    /// There are as many as there may be.
    #[error("a node declares at most {MAX_DECLARATIONS} services")]
    TooMany,
}

#[derive(Debug, Default)]
pub(in crate::session) struct Declarations {
    live: BTreeMap<Label, Live>,
    /// Declarations that ended and of which Control has not said that it knows.
    ended: BTreeMap<Label, Ended>,
    next_request: u64,
}

#[derive(Debug)]
struct Live {
    /// Complete but for the subject and the request.
    message: message::Declare,
    asked: Asked,
}

#[derive(Debug)]
struct Ended {
    delete: bool,
    asked: Asked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// It is to be sent on this connection.
    No,
    /// It was sent.
    Open { request: u64, deadline: Instant },
    /// The caller was told that the answer is late; it is still taken when it comes.
    Late { request: u64 },
    /// It was answered on this connection.
    Answered,
}

impl Asked {
    const fn request(self) -> Option<u64> {
        match self {
            Self::Open { request, .. } | Self::Late { request } => Some(request),
            Self::No | Self::Answered => None,
        }
    }
}

impl Declarations {
    pub(in crate::session) fn declare(&mut self, declaration: Declaration) -> Result<(), DeclareError> {
        let name = declaration.name.clone();
        let message = message::Declare::try_from(&declaration)?;
        // Numbers are written as short as they are: these are the longest.
        let longest = message::Declare {
            request: u64::MAX,
            subject: Subject {
                session: u64::MAX,
                ..message.subject
            },
            ..message.clone()
        };
        if Message::from(longest).encode().is_err() {
            return Err(DeclareError::TooLarge);
        }
        if self.live.len() >= MAX_DECLARATIONS && !self.live.contains_key(&name) {
            return Err(DeclareError::TooMany);
        }
        self.ended.remove(&name);
        let asked = Asked::No;
        self.live.insert(name, Live { message, asked });
        Ok(())
    }

    pub(in crate::session) fn undeclare(&mut self, name: &Label, delete: bool) -> bool {
        if self.live.remove(name).is_none() {
            return false;
        }
        // Past the bound Control hears of it at the next reconnect, where the name is missing.
        if self.ended.len() < MAX_DECLARATIONS {
            let asked = Asked::No;
            self.ended.insert(name.clone(), Ended { delete, asked });
        }
        true
    }

    pub(super) const fn next_request(&self) -> u64 {
        self.next_request
    }

    pub(in crate::session) fn names(&self) -> impl Iterator<Item = &Label> {
        self.live.keys()
    }

    /// A new connection hears everything anew. Numbers of requests are never used twice in a process,
    /// and start at random, so that an answer from an old connection is not taken for a new one's.
    pub(super) fn disconnected(&mut self, nonce: &[u8; 32]) {
        if self.next_request == 0
            && let Some(start) = nonce.first_chunk()
        {
            self.next_request = u64::from_be_bytes(*start);
        }
        self.live.values_mut().for_each(|live| live.asked = Asked::No);
        self.ended.values_mut().for_each(|ended| ended.asked = Asked::No);
    }

    /// The next declaration, or end of one, to send.
    pub(super) fn poll(&mut self, subject: Subject, now: Instant) -> Option<Message> {
        let open = |asked: &Asked| matches!(asked, Asked::Open { .. } | Asked::Late { .. });
        let in_flight = self.live.values().filter(|live| open(&live.asked)).count()
            + self.ended.values().filter(|ended| open(&ended.asked)).count();
        if in_flight >= MAX_DECLARES_IN_FLIGHT {
            return None;
        }
        let asked = Asked::Open {
            request: self.next_request,
            deadline: now + REQUEST_TIMEOUT,
        };
        if let Some((name, ended)) = self.ended.iter_mut().find(|(_, ended)| ended.asked == Asked::No) {
            ended.asked = asked;
            let undeclare = message::Undeclare {
                request: self.next_request,
                subject,
                name: name.as_str().to_owned(),
                delete: ended.delete,
            };
            self.next_request = self.next_request.wrapping_add(1);
            return Some(undeclare.into());
        }
        let live = self.live.values_mut().find(|live| live.asked == Asked::No)?;
        live.asked = asked;
        let declare = message::Declare {
            request: self.next_request,
            subject,
            ..live.message.clone()
        };
        self.next_request = self.next_request.wrapping_add(1);
        Some(declare.into())
    }

    /// The declaration that an answer is for.
    pub(super) fn declared(&mut self, request: u64) -> Option<Label> {
        let (name, live) = self
            .live
            .iter_mut()
            .find(|(_, live)| live.asked.request() == Some(request))?;
        live.asked = Asked::Answered;
        Some(name.clone())
    }

    /// The declaration of whose end an answer is.
    pub(super) fn undeclared(&mut self, request: u64) -> Option<Label> {
        let found = self
            .ended
            .iter()
            .find(|(_, ended)| ended.asked.request() == Some(request));
        let name = found?.0.clone();
        self.ended.remove(&name);
        Some(name)
    }

    /// The declarations whose answer is late.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Label> {
        let mut late = Vec::new();
        for (name, live) in &mut self.live {
            if let Asked::Open { request, deadline } = live.asked
                && deadline <= now
            {
                live.asked = Asked::Late { request };
                late.push(name.clone());
            }
        }
        late
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let deadline = |live: &Live| match live.asked {
            Asked::Open { deadline, .. } => Some(deadline),
            Asked::No | Asked::Late { .. } | Asked::Answered => None,
        };
        self.live.values().filter_map(deadline).min()
    }
}
