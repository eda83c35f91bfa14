//! Handles to a shard.

use std::{
    cell::RefCell,
    fmt,
    future::Future,
    io,
    net::{SocketAddr, TcpStream},
    ops::Deref,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use kakuremichi_core::{key::WireGuardKey, secret::Secret};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};

use super::{
    Connect, ConnectError, EndReason, IncomingFlow, IncomingSession, Link, Metrics, Network, OpenSession,
    Peers, ShardConfig, Splice, SpliceEnd,
    command::{Command, Inbox, Opener, SocketUser},
    shard,
};
use crate::{netstack::BuildError, session::TunnelSession, stream::TunnelStream, wg::OwnKeys};

/// Why a shard could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// No address was given, or two of one family.
    #[error("one UDP address of each family can be bound, and one is needed")]
    Addresses,
    /// More shards than the system can do, or none.
    #[error("there cannot be {0} shards")]
    Shards(usize),
    /// An address cannot be bound.
    #[error("cannot receive datagrams at {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The netstack's settings are unusable, or its memory cannot be had.
    #[error("the netstack cannot be set up")]
    Stack(#[from] BuildError),
    /// The thread or its runtime cannot be had.
    #[error("the shard's thread cannot be started")]
    Thread(#[source] io::Error),
}

/// What a shutdown did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drained {
    /// Flows that were still open when the time was up, and were reset.
    pub cut: usize,
}

/// A shard, for as long as it runs. Does not keep it running.
#[derive(Clone)]
pub struct Shard {
    pub(super) inbox: Arc<Inbox>,
    pub(super) peers: watch::Receiver<Arc<Peers>>,
    pub(super) metrics: watch::Receiver<Metrics>,
    pub(super) addresses: Arc<[SocketAddr]>,
    pub(super) keys: Arc<OwnKeys>,
}

impl Shard {
    /// Brings the shard to a desired state. Flows of peers, addresses and ports that stay go on.
    /// Takes effect soon; when called again before that, only the newest state is applied.
    pub fn configure(&self, network: impl Into<Arc<Network>>) {
        self.inbox.set_network(network.into());
    }

    /// Has these WireGuard private keys and no others, at once and with all shards of the node, whichever is told. Each peer
    /// goes over to the newest with its open flows once it knows it, see [`PeerSettings`](super::PeerSettings).
    pub fn hold_keys(&self, newest: &Secret<[u8; 32]>, previous: Option<&Secret<[u8; 32]>>) {
        self.keys.hold(newest, previous);
    }

    /// Takes up a new WireGuard private key; with all shards of the node, whichever is told. The key before is kept
    /// beside it, and each peer goes over with its open flows once it knows the new one, see [`PeerSettings`](super::PeerSettings).
    /// A key that was kept before that is dropped. The newest key given again changes nothing.
    pub fn rekey(&self, private: &Secret<[u8; 32]>) {
        self.keys.rekey(private);
    }

    /// Drops the private key before the newest: peers that have not gone over lose their sessions, and are refused until
    /// they know the new one.
    pub fn forget_previous_key(&self) {
        self.keys.forget_previous();
    }

    /// The public half of the newest private key.
    #[must_use]
    pub fn public_key(&self) -> WireGuardKey {
        self.keys.public_key()
    }

    /// Opens a flow to be used as a stream.
    ///
    /// # Errors
    /// When the flow cannot be opened, or the time is up. Dropping the future gives the attempt up.
    pub async fn connect(&self, connect: Connect) -> Result<TunnelStream, ConnectError> {
        let (sender, receiver) = oneshot::channel();
        self.inbox
            .request(Command::Connect(connect, Opener::Stream(sender)))?;
        receiver.await.unwrap_or(Err(ConnectError::Stopped))
    }

    /// Opens a flow and serves a connected socket with it inside the engine: the fastest way from a
    /// TCP connection to a flow and back.
    pub fn splice(&self, socket: TcpStream, connect: Connect) -> Splice {
        let (sender, done) = oneshot::channel();
        let link = Arc::new(Link::new(Arc::clone(&self.inbox)));
        let user = SocketUser {
            socket,
            done: sender,
            link: Arc::clone(&link),
        };
        if let Err(error) = self
            .inbox
            .request(Command::Connect(connect, Opener::Socket(user)))
        {
            // The socket went with the request.
            let (sender, done) = oneshot::channel();
            let reason = EndReason::NotConnected(error);
            let _ = sender.send(SpliceEnd {
                sent: 0,
                received: 0,
                reason,
            });
            return Splice { done, link };
        }
        Splice { done, link }
    }

    /// Opens a UDP session. Nothing is sent for it: whether somebody answers shows by the answers.
    ///
    /// # Errors
    /// When the session cannot be opened.
    pub async fn open_session(&self, open: OpenSession) -> Result<TunnelSession, ConnectError> {
        let (sender, receiver) = oneshot::channel();
        self.inbox.request(Command::Session(open, sender))?;
        receiver.await.unwrap_or(Err(ConnectError::Stopped))
    }

    /// The peers as they are: published on every change, and their counters once per second.
    #[must_use]
    pub fn watch_peers(&self) -> watch::Receiver<Arc<Peers>> {
        self.peers.clone()
    }

    /// What was counted; `None` when the shard has stopped or is overloaded.
    pub async fn metrics(&self) -> Option<Metrics> {
        let (sender, receiver) = oneshot::channel();
        self.inbox.request(Command::Metrics(sender)).ok()?;
        receiver.await.ok()
    }

    /// What was counted when the peers were published last, which is at most a second ago where there
    /// are any.
    #[must_use]
    pub fn latest_metrics(&self) -> Metrics {
        *self.metrics.borrow()
    }

    /// The same, whenever it is published.
    #[must_use]
    pub fn watch_metrics(&self) -> watch::Receiver<Metrics> {
        self.metrics.clone()
    }

    /// The addresses at which datagrams are received.
    #[must_use]
    pub fn local_addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Whether the shard has stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.inbox.is_closed()
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// A shard, kept running: it stops when the last clone is dropped, resetting all flows.
#[derive(Debug, Clone)]
pub struct ShardHandle {
    shard: Shard,
    _keeper: Arc<Keeper>,
}

impl ShardHandle {
    /// Starts a shard. `build` runs on its thread before anything else, and sets up what belongs to
    /// the node there.
    ///
    /// # Errors
    /// When no socket can be bound, or memory or a thread cannot be had. Nothing is left running.
    pub fn spawn(
        config: ShardConfig,
        build: impl FnOnce(LocalShard) + Send + 'static,
    ) -> Result<Self, SpawnError> {
        let (shards, _) = shard::spawn(&config, vec![Box::new(build)])?;
        let shard = shards.into_iter().next();
        let shard = shard.ok_or_else(|| SpawnError::Thread(io::ErrorKind::InvalidInput.into()))?;
        Ok(Self::keep(shard))
    }

    /// Keeps a shard running.
    pub(super) fn keep(shard: Shard) -> Self {
        let keeper = Arc::new(Keeper(Arc::clone(&shard.inbox)));
        Self {
            shard,
            _keeper: keeper,
        }
    }

    /// Stops taking new flows, waits for those that are open, and resets what is left after `grace`.
    /// The thread ends then.
    pub async fn shutdown(&self, grace: Duration) -> Drained {
        self.begin_shutdown(grace).await.unwrap_or_default()
    }

    /// Begins a shutdown; what is returned tells its end.
    pub(super) fn begin_shutdown(&self, grace: Duration) -> oneshot::Receiver<Drained> {
        let (sender, receiver) = oneshot::channel();
        self.inbox.push(Command::Shutdown(grace, sender));
        receiver
    }

    /// The shard without the right to keep it running.
    #[must_use]
    pub fn downgrade(&self) -> Shard {
        self.shard.clone()
    }
}

impl Deref for ShardHandle {
    type Target = Shard;

    fn deref(&self) -> &Shard {
        &self.shard
    }
}

#[derive(Debug)]
struct Keeper(Arc<Inbox>);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.orphan();
    }
}

/// What takes incoming flows.
pub(super) type Handler = Rc<dyn Fn(IncomingFlow)>;
/// Where it stands.
pub(super) type HandlerSlot = Rc<RefCell<Option<Handler>>>;
/// What takes incoming sessions.
pub(super) type SessionHandler = Rc<dyn Fn(IncomingSession)>;
/// Where it stands.
pub(super) type SessionHandlerSlot = Rc<RefCell<Option<SessionHandler>>>;

/// A shard, seen from its own thread.
#[derive(Clone)]
pub struct LocalShard {
    pub(super) shard: Shard,
    pub(super) number: u8,
    pub(super) handler: HandlerSlot,
    pub(super) session_handler: SessionHandlerSlot,
}

impl LocalShard {
    /// Sets what takes incoming flows, from now on. It is called on the shard's thread and must not
    /// block: what takes time is for a task of its own, see [`spawn`](Self::spawn). Without it,
    /// incoming flows are reset.
    pub fn on_incoming(&self, handler: impl Fn(IncomingFlow) + 'static) {
        *self.handler.borrow_mut() = Some(Rc::new(handler));
    }

    /// Sets what takes incoming UDP sessions, from now on, as [`on_incoming`](Self::on_incoming) does for
    /// flows. Without it, they are refused.
    pub fn on_session(&self, handler: impl Fn(IncomingSession) + 'static) {
        *self.session_handler.borrow_mut() = Some(Rc::new(handler));
    }

    /// Runs a task on the shard's thread. It is dropped with the shard.
    #[expect(clippy::disallowed_methods, reason = "the shard owns the task")]
    pub fn spawn<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> JoinHandle<T> {
        tokio::task::spawn_local(task)
    }

    /// Its number, from zero, among the shards of its node.
    #[must_use]
    pub const fn number(&self) -> u8 {
        self.number
    }

    /// The shard, for other threads too.
    #[must_use]
    pub const fn shard(&self) -> &Shard {
        &self.shard
    }
}

impl Deref for LocalShard {
    type Target = Shard;

    fn deref(&self) -> &Shard {
        &self.shard
    }
}

impl fmt::Debug for LocalShard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalShard")
            .field("shard", &self.shard)
            .finish_non_exhaustive()
    }
}
