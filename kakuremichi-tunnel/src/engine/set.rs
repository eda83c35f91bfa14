//! The shards of one node, as one.

use std::{
    fmt,
    future::{Future, poll_fn},
    net::{SocketAddr, TcpStream},
    ops::Deref,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use kakuremichi_core::{key::WireGuardKey, secret::Secret};
use tokio::sync::watch;

use super::{
    BuildShard, Connect, ConnectError, Drained, Metrics, Network, OpenSession, PeerView, Peers, Shard,
    ShardConfig, ShardHandle, SpawnError, Splice, shard,
};
use crate::{
    session::TunnelSession,
    stream::TunnelStream,
    wg::{MAX_SHARDS, Owners},
};

/// The shards of one node, for as long as they run. Does not keep them running.
///
/// All of them know all peers, and each peer is owned by one: the one that received its handshake, for
/// as long as it has a session with it or flows of it. What is asked for here goes to the owner.
#[derive(Clone)]
pub struct ShardSet {
    pub(super) shards: Arc<[Shard]>,
    pub(super) owners: Arc<Owners>,
}

impl ShardSet {
    /// Brings all shards to a desired state, as [`Shard::configure`] does.
    pub fn configure(&self, network: impl Into<Arc<Network>>) {
        let network = network.into();
        for shard in &*self.shards {
            shard.configure(Arc::clone(&network));
        }
    }

    /// Gives all shards a new private key, as [`Shard::rekey`] does.
    pub fn rekey(&self, private: &Secret<[u8; 32]>) {
        // There is always a first one, and all have the same keys.
        self.shards[0].rekey(private);
    }

    /// Drops the private key before the newest, as [`Shard::forget_previous_key`] does.
    pub fn forget_previous_key(&self) {
        self.shards[0].forget_previous_key();
    }

    /// Opens a flow to be used as a stream, on whatever thread.
    ///
    /// # Errors
    /// As [`Shard::connect`]. A peer that another shard takes over in that moment is
    /// [`Offline`](ConnectError::Offline).
    pub async fn connect(&self, connect: Connect) -> Result<TunnelStream, ConnectError> {
        match self.owner(&connect.peer) {
            Some(shard) => shard.connect(connect).await,
            None => Err(ConnectError::Stopped),
        }
    }

    /// Opens a flow and serves a connected socket with it, on the thread of the shard that owns the peer.
    pub fn splice(&self, socket: TcpStream, connect: Connect) -> Splice {
        // There is always a first one.
        let shard = self.owner(&connect.peer).unwrap_or(&self.shards[0]);
        shard.splice(socket, connect)
    }

    /// Opens a UDP session, on whatever thread.
    ///
    /// # Errors
    /// As [`Shard::open_session`].
    pub async fn open_session(&self, open: OpenSession) -> Result<TunnelSession, ConnectError> {
        match self.owner(&open.peer) {
            Some(shard) => shard.open_session(open).await,
            None => Err(ConnectError::Stopped),
        }
    }

    /// One peer as its owner knows it.
    #[must_use]
    pub fn peer(&self, key: &WireGuardKey) -> Option<PeerView> {
        self.owner(key)?.peers.borrow().get(key).copied()
    }

    /// The peers of all shards.
    #[must_use]
    pub fn watch_peers(&self) -> WatchPeers {
        WatchPeers {
            receivers: self.shards.iter().map(|shard| shard.peers.clone()).collect(),
            owners: Arc::clone(&self.owners),
        }
    }

    /// What all shards counted; `None` when one has stopped or is overloaded.
    pub async fn metrics(&self) -> Option<Metrics> {
        let mut sum = Metrics::default();
        for shard in &*self.shards {
            sum += shard.metrics().await?;
        }
        Some(sum)
    }

    /// What all shards had counted about a second ago.
    #[must_use]
    pub fn latest_metrics(&self) -> Metrics {
        let mut sum = Metrics::default();
        for shard in &*self.shards {
            sum += shard.latest_metrics();
        }
        sum
    }

    /// The addresses at which datagrams are received, by all shards.
    #[must_use]
    pub fn local_addresses(&self) -> &[SocketAddr] {
        self.shards.first().map_or(&[], Shard::local_addresses)
    }

    /// The shards, the first one first.
    #[must_use]
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The shard, by its number, that owns a peer.
    #[must_use]
    pub fn owner_of(&self, peer: &WireGuardKey) -> u8 {
        self.owners.owner(peer)
    }

    fn owner(&self, peer: &WireGuardKey) -> Option<&Shard> {
        self.shards.get(usize::from(self.owners.owner(peer)))
    }
}

impl fmt::Debug for ShardSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardSet")
            .field("shards", &self.shards.len())
            .field("addresses", &self.local_addresses())
            .finish_non_exhaustive()
    }
}

/// Shards of one node, kept running: they stop when the last clone is dropped, resetting all flows. One
/// that breaks takes the others with it.
#[derive(Debug, Clone)]
pub struct ShardSetHandle {
    set: ShardSet,
    handles: Arc<[ShardHandle]>,
}

impl ShardSetHandle {
    /// How many shards can be: what the address of the sockets and the receiver index can be shared by.
    /// Only Linux spreads datagrams over sockets.
    pub const MAX: u8 = if cfg!(target_os = "linux") { MAX_SHARDS } else { 1 };

    /// Starts a shard for each of `builds`, which runs on its thread before anything else; the first is
    /// number 0.
    ///
    /// # Errors
    /// As [`ShardHandle::spawn`], and when there is none or more than [`MAX`](Self::MAX).
    pub fn spawn(config: &ShardConfig, builds: Vec<BuildShard>) -> Result<Self, SpawnError> {
        if builds.is_empty() || builds.len() > usize::from(Self::MAX) {
            return Err(SpawnError::Shards(builds.len()));
        }
        let (shards, owners) = shard::spawn(config, builds)?;
        Ok(Self {
            handles: shards.iter().cloned().map(ShardHandle::keep).collect(),
            set: ShardSet {
                shards: shards.into(),
                owners,
            },
        })
    }

    /// Shuts all shards down at once, as [`ShardHandle::shutdown`] does, and waits for all.
    pub async fn shutdown(&self, grace: Duration) -> Drained {
        // Each is told before the first is waited for.
        let told: Vec<_> = self
            .handles
            .iter()
            .map(|shard| shard.begin_shutdown(grace))
            .collect();
        let mut drained = Drained::default();
        for shard in told {
            drained.cut += shard.await.unwrap_or_default().cut;
        }
        drained
    }

    /// The shards without the right to keep them running.
    #[must_use]
    pub fn downgrade(&self) -> ShardSet {
        self.set.clone()
    }
}

impl Deref for ShardSetHandle {
    type Target = ShardSet;

    fn deref(&self) -> &ShardSet {
        &self.set
    }
}

/// Tells the peers of all shards.
#[derive(Debug, Clone)]
pub struct WatchPeers {
    receivers: Vec<watch::Receiver<Arc<Peers>>>,
    owners: Arc<Owners>,
}

impl WatchPeers {
    /// Waits until a shard has published its peers anew. Never, once one has stopped.
    pub async fn changed(&mut self) {
        let receivers = self.receivers.iter_mut();
        let mut changes: Vec<_> = receivers.map(|receiver| Box::pin(receiver.changed())).collect();
        let change = poll_fn(|cx| {
            let ready = changes
                .iter_mut()
                .find_map(|change| match change.as_mut().poll(cx) {
                    Poll::Ready(change) => Some(change),
                    Poll::Pending => None,
                });
            ready.map_or(Poll::Pending, Poll::Ready)
        });
        if change.await.is_err() {
            std::future::pending().await
        }
    }

    /// All peers as they were published last. [`changed`](Self::changed) waits for newer ones.
    #[must_use]
    pub fn latest(&mut self) -> Arc<Peers> {
        for receiver in &mut self.receivers {
            receiver.mark_unchanged();
        }
        self.peek()
    }

    /// All peers as they were published last, without a mark.
    #[must_use]
    pub fn peek(&self) -> Arc<Peers> {
        if let [only] = self.receivers.as_slice() {
            return Arc::clone(&only.borrow());
        }
        let mut all = Peers::new();
        for (shard, receiver) in self.receivers.iter().enumerate() {
            for (key, view) in receiver.borrow().iter() {
                // A peer that has just been taken over may be known to both.
                if !all.contains_key(key) || usize::from(self.owners.owner(key)) == shard {
                    all.insert(*key, *view);
                }
            }
        }
        Arc::new(all)
    }
}
