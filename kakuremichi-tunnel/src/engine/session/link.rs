//! What connects the user of a session to whoever moves its datagrams.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU8, Ordering},
};

#[cfg(any(feature = "agent", feature = "gateway"))]
use tokio::sync::Notify;

use crate::{engine::command::Inbox, netstack::SessionId};

/// What connects the two.
#[derive(Debug)]
pub(crate) struct SessionLink {
    mover: Mover,
    touched: AtomicBool,
    /// What the user did: [`IN_USE`], [`CLOSED`] or [`REFUSED`].
    state: AtomicU8,
}

/// Who moves the datagrams.
#[derive(Debug)]
enum Mover {
    /// The engine of a shard.
    Engine(Arc<Inbox>, SessionId),
    /// A task, which carries them over something else.
    #[cfg(any(feature = "agent", feature = "gateway"))]
    Task(Notify),
}

/// What the user wants of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Its datagrams are to be moved.
    Use,
    /// Nobody uses it any more.
    Close,
    /// The other end is to be told that nobody uses it.
    Refuse,
}

const IN_USE: u8 = 0;
const CLOSED: u8 = 1;
const REFUSED: u8 = 2;

impl SessionLink {
    /// To the engine that has the session.
    pub(super) fn to_engine(inbox: Arc<Inbox>, session: SessionId) -> Self {
        Self::new(Mover::Engine(inbox, session))
    }

    /// To a task, which waits to be [touched](Self::touched).
    #[cfg(any(feature = "agent", feature = "gateway"))]
    pub(crate) fn to_task() -> Self {
        Self::new(Mover::Task(Notify::new()))
    }

    const fn new(mover: Mover) -> Self {
        Self {
            mover,
            touched: AtomicBool::new(false),
            state: AtomicU8::new(IN_USE),
        }
    }

    /// Asks the mover to look at the session.
    pub(crate) fn touch(&self) {
        if !self.touched.swap(true, Ordering::AcqRel) {
            match &self.mover {
                Mover::Engine(inbox, session) => inbox.touch_session(*session),
                #[cfg(any(feature = "agent", feature = "gateway"))]
                Mover::Task(task) => task.notify_one(),
            }
        }
    }

    /// Nobody uses the session any more.
    pub(crate) fn close(&self) {
        // What was refused stays refused.
        let _ = self
            .state
            .compare_exchange(IN_USE, CLOSED, Ordering::AcqRel, Ordering::Acquire);
        self.touch();
    }

    /// The peer is to be told that nobody uses the session.
    pub(crate) fn refuse(&self) {
        self.state.store(REFUSED, Ordering::Release);
        self.touch();
    }

    /// What the user wants. What it does from here on asks the mover again, and what it did before is seen.
    pub(crate) fn take(&self) -> Wish {
        self.touched.swap(false, Ordering::AcqRel);
        match self.state.load(Ordering::Acquire) {
            REFUSED => Wish::Refuse,
            CLOSED => Wish::Close,
            _ => Wish::Use,
        }
    }

    /// Waits, as the task that moves the datagrams, until the user did something.
    #[cfg(any(feature = "agent", feature = "gateway"))]
    pub(crate) async fn touched(&self) {
        match &self.mover {
            Mover::Task(task) => task.notified().await,
            Mover::Engine(..) => std::future::pending().await,
        }
    }
}
