//! Flows that peers open.

use std::{
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use kakuremichi_core::key::WireGuardKey;
use kakuremichi_proto::flow::FlowReply;
use tokio::sync::oneshot;

use super::{
    Link, Meter, Splice,
    command::{Command, Inbox, SocketUser, Verdict},
};
use crate::{
    netstack::FlowId,
    stream::{Shared, TunnelStream},
};

/// A flow that a peer opened and that nobody has decided on. Dropping it resets the flow.
#[derive(Debug)]
#[must_use = "dropping an incoming flow resets it"]
pub struct IncomingFlow {
    /// Who opened it.
    pub peer: WireGuardKey,
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// The preface as it came, empty on a port without one.
    pub preface: Vec<u8>,
    pub(super) flow: FlowId,
    pub(super) inbox: Arc<Inbox>,
    /// The bound of the buffers of a stream.
    pub(super) buffer: usize,
    pub(super) decided: bool,
}

impl IncomingFlow {
    /// Takes the flow as a stream; the peer is told that it is connected.
    #[must_use]
    pub fn accept_stream(mut self, meter: Arc<Meter>) -> TunnelStream {
        let link = Link::to(Arc::clone(&self.inbox), self.flow);
        let shared = Arc::new(Shared::new(link, self.buffer));
        self.decide(Verdict::Stream(Arc::clone(&shared), meter));
        TunnelStream::new(shared, self.local, self.remote)
    }

    /// Serves a connected socket with the flow, inside the engine; the peer is told that it is
    /// connected.
    pub fn accept_socket(mut self, socket: TcpStream, meter: Arc<Meter>) -> Splice {
        let (sender, done) = oneshot::channel();
        let link = Arc::new(Link::to(Arc::clone(&self.inbox), self.flow));
        let user = SocketUser {
            socket,
            done: sender,
            link: Arc::clone(&link),
        };
        self.decide(Verdict::Socket(user, meter));
        Splice { done, link }
    }

    /// Tells the peer why not. On a port without a preface the flow is reset.
    pub fn refuse(mut self, reply: FlowReply) {
        self.decide(Verdict::Refuse(reply));
    }

    fn decide(&mut self, verdict: Verdict) {
        self.decided = true;
        self.inbox.push(Command::Accept(self.flow, verdict));
    }
}

impl Drop for IncomingFlow {
    fn drop(&mut self) {
        if !self.decided {
            self.decide(Verdict::Abort);
        }
    }
}
