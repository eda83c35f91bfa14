//! How other threads and tasks talk to the engine.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kakuremichi_proto::flow::FlowReply;
use tokio::sync::{Notify, oneshot};

use super::{Connect, ConnectError, Drained, Meter, Metrics, Network, OpenSession, SpliceEnd};
use crate::{
    netstack::{FlowId, SessionId},
    session::TunnelSession,
    stream::{Shared, TunnelStream},
};

/// What the engine is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    Connect(Connect, Opener),
    /// Opens a UDP session.
    Session(OpenSession, oneshot::Sender<Result<TunnelSession, ConnectError>>),
    /// Decides on an incoming flow.
    Accept(FlowId, Verdict),
    Metrics(oneshot::Sender<Metrics>),
    Shutdown(Duration, oneshot::Sender<Drained>),
}

/// Who uses a flow that is being opened.
#[derive(Debug)]
pub(super) enum Opener {
    Stream(oneshot::Sender<Result<TunnelStream, ConnectError>>),
    Socket(SocketUser),
}

impl Opener {
    /// Whether nobody waits for the flow any more.
    pub(super) fn is_gone(&self) -> bool {
        match self {
            Self::Stream(sender) => sender.is_closed(),
            Self::Socket(user) => user.link.is_cancelled(),
        }
    }
}

/// A socket to be spliced, and who waits for its end.
#[derive(Debug)]
pub(super) struct SocketUser {
    pub(super) socket: std::net::TcpStream,
    pub(super) done: oneshot::Sender<SpliceEnd>,
    pub(super) link: Arc<Link>,
}

/// What is to become of an incoming flow.
#[derive(Debug)]
pub(super) enum Verdict {
    Stream(Arc<Shared>, Arc<Meter>),
    Socket(SocketUser, Arc<Meter>),
    Refuse(FlowReply),
    Abort,
}

/// The engine's mailbox.
///
/// Requests are bounded ([`EngineLimits::requests`](super::EngineLimits::requests)) and refused
/// beyond; verdicts are bounded by the flows they are about, flows and sessions that want attention stand in
/// their list once, and of several desired networks the newest counts.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    wake: Notify,
    bound: usize,
}

#[derive(Debug, Default)]
struct State {
    commands: VecDeque<Command>,
    touched: Vec<FlowId>,
    sessions: Vec<SessionId>,
    network: Option<Arc<Network>>,
    /// The last handle was dropped.
    orphaned: bool,
    /// The engine is gone.
    closed: bool,
}

impl Inbox {
    pub(super) fn new(bound: usize) -> Self {
        Self {
            state: Mutex::default(),
            wake: Notify::new(),
            bound,
        }
    }

    /// Hands a request over.
    pub(super) fn request(&self, command: Command) -> Result<(), ConnectError> {
        {
            let mut state = self.lock();
            if state.closed {
                return Err(ConnectError::Stopped);
            }
            if state.commands.len() >= self.bound {
                return Err(ConnectError::Overloaded);
            }
            state.commands.push_back(command);
        }
        self.wake.notify_one();
        Ok(())
    }

    /// Hands over what is bounded elsewhere: verdicts and the shutdown.
    pub(super) fn push(&self, command: Command) {
        {
            let mut state = self.lock();
            if state.closed {
                return;
            }
            state.commands.push_back(command);
        }
        self.wake.notify_one();
    }

    pub(super) fn set_network(&self, network: Arc<Network>) {
        self.lock().network = Some(network);
        self.wake.notify_one();
    }

    pub(super) fn orphan(&self) {
        self.lock().orphaned = true;
        self.wake.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Moves what came in to the engine's own lists, whose memory is used again.
    pub(super) fn take(
        &self,
        commands: &mut VecDeque<Command>,
        touched: &mut Vec<FlowId>,
        sessions: &mut Vec<SessionId>,
    ) -> Taken {
        let mut state = self.lock();
        commands.append(&mut state.commands);
        touched.append(&mut state.touched);
        sessions.append(&mut state.sessions);
        Taken {
            network: state.network.take(),
            orphaned: state.orphaned,
        }
    }

    /// Refuses everything from now on.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let commands = std::mem::take(&mut state.commands);
        // Dropping a command may touch the inbox.
        drop(state);
        drop(commands);
    }

    /// Wakes the engine.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    pub(super) fn touch_session(&self, session: SessionId) {
        {
            let mut state = self.lock();
            if state.closed {
                return;
            }
            state.sessions.push(session);
        }
        self.wake.notify_one();
    }

    fn touch(&self, flow: FlowId) {
        {
            let mut state = self.lock();
            if state.closed {
                return;
            }
            state.touched.push(flow);
        }
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under the lock panics half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What [`Inbox::take`] found besides lists.
pub(super) struct Taken {
    pub(super) network: Option<Arc<Network>>,
    pub(super) orphaned: bool,
}

/// What connects the user of a flow to the engine.
#[derive(Debug)]
pub(crate) struct Link {
    inbox: Arc<Inbox>,
    flow: OnceLock<FlowId>,
    touched: AtomicBool,
    cancelled: AtomicBool,
}

impl Link {
    pub(super) const fn new(inbox: Arc<Inbox>) -> Self {
        Self {
            inbox,
            flow: OnceLock::new(),
            touched: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
        }
    }

    /// A link whose flow is known.
    pub(super) fn to(inbox: Arc<Inbox>, flow: FlowId) -> Self {
        let link = Self::new(inbox);
        link.bind(flow);
        link
    }

    /// Tells which flow it is.
    pub(super) fn bind(&self, flow: FlowId) {
        let _ = self.flow.set(flow);
    }

    /// Asks the engine to look at the flow.
    pub(crate) fn touch(&self) {
        if let Some(&flow) = self.flow.get()
            && !self.touched.swap(true, Ordering::AcqRel)
        {
            self.inbox.touch(flow);
        }
    }

    /// The engine looks now: what is done from here on asks again. It sees what was done before the touch
    /// that it takes note of, a cancellation above all: a mere store could be ordered behind the look.
    pub(super) fn seen(&self) {
        self.touched.swap(false, Ordering::AcqRel);
    }

    /// Nobody uses the flow any more.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.touch();
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }
}
