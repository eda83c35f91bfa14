//! Opening flows, and what becomes of spliced ones.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use kakuremichi_core::key::WireGuardKey;
use kakuremichi_proto::flow::FlowReply;
use tokio::sync::oneshot;

use super::Link;

/// Counts the bytes of whoever is charged for a flow. Preface and reply are not counted.
#[derive(Debug, Default)]
pub struct Meter {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Meter {
    /// Bytes sent toward the peer.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes received from the peer.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, sent: usize, received: usize) {
        if sent > 0 {
            self.sent.fetch_add(sent as u64, Ordering::Relaxed);
        }
        if received > 0 {
            self.received.fetch_add(received as u64, Ordering::Relaxed);
        }
    }
}

/// A flow to be opened.
#[derive(Debug, Clone)]
pub struct Connect {
    /// Through whom.
    pub peer: WireGuardKey,
    /// To where: an address in the peer's networks, and a port.
    pub remote: SocketAddr,
    /// What to send first. Data may follow at once.
    pub preface: Option<Vec<u8>>,
    /// Whether the peer answers with a [`FlowReply`], as kakuremichi's nodes do and others do not.
    pub expect_reply: bool,
    /// Who counts the bytes.
    pub meter: Arc<Meter>,
    /// How long to wait for the flow to be connected; the reply is not waited for.
    pub timeout: Duration,
}

impl Connect {
    /// A flow without preface and reply, given up after ten seconds.
    #[must_use]
    pub fn new(peer: WireGuardKey, remote: SocketAddr) -> Self {
        Self {
            peer,
            remote,
            preface: None,
            expect_reply: false,
            meter: Arc::default(),
            timeout: Duration::from_secs(10),
        }
    }
}

/// Why a flow could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No such peer is configured.
    #[error("the peer is not known")]
    UnknownPeer,
    /// The lane to the peer is down, or the peer was never heard from; or the peer, which was to reply,
    /// took the flow not in time.
    #[error("the peer is offline")]
    Offline,
    /// The remote address is not one of the peer's, or we have no address of its family.
    #[error("the address is not behind the peer")]
    Unroutable,
    /// The peer reset the attempt: nobody listens there.
    #[error("the peer refused the flow")]
    Refused,
    /// The peer, which was not expected to reply, or what is behind it did not answer in time.
    #[error("the peer did not answer in time")]
    TimedOut,
    /// A bound on flows, buffers or requests is reached.
    #[error("there are too many flows")]
    Overloaded,
    /// The socket to be spliced cannot be used.
    #[error("the local socket cannot be used")]
    Socket,
    /// The shard stops or has stopped.
    #[error("the shard has stopped")]
    Stopped,
}

/// How a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// Both directions ended in order.
    Finished,
    /// The local socket failed.
    Socket(io::ErrorKind),
    /// The peer reset the flow.
    Reset,
    /// The peer fell silent.
    TimedOut,
    /// The peer, or the address of ours that the flow used, is no longer configured; or its lane was
    /// down for too long.
    PeerGone,
    /// The other end refused the flow.
    Refused(FlowReply),
    /// The other end did not speak our protocol.
    Protocol,
    /// The flow was never connected.
    NotConnected(ConnectError),
    /// Whoever asked for the splice dropped it.
    Cancelled,
    /// The shard stopped.
    Stopped,
}

/// What became of a spliced flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpliceEnd {
    /// Bytes sent toward the peer.
    pub sent: u64,
    /// Bytes received from the peer.
    pub received: u64,
    /// How it ended.
    pub reason: EndReason,
}

/// A socket that is being served inside the engine; resolves when that ends. Dropping it resets both
/// the flow and the socket.
#[derive(Debug)]
#[must_use = "dropping a splice resets the flow"]
pub struct Splice {
    pub(super) done: oneshot::Receiver<SpliceEnd>,
    pub(super) link: Arc<Link>,
}

impl Future for Splice {
    type Output = SpliceEnd;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<SpliceEnd> {
        Pin::new(&mut self.done).poll(cx).map(|end| {
            // The engine answers before it forgets a flow; it is gone otherwise.
            end.unwrap_or(SpliceEnd {
                sent: 0,
                received: 0,
                reason: EndReason::Stopped,
            })
        })
    }
}

impl Drop for Splice {
    fn drop(&mut self) {
        self.link.cancel();
    }
}
