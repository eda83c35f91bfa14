//! What the engine does with its network and its flows.

use std::{net::IpAddr, sync::Arc, time::Instant};

use kakuremichi_core::key::WireGuardKey;
use kakuremichi_proto::flow::{FlowReply, REPLY_LEN};
use mio::{Interest, Token};

use super::{
    Connect, ConnectError, Drained, EndReason, IncomingFlow, Link, Network,
    command::{Command, Opener, Verdict},
    flow::{Flow, Spliced, User, end_of, fail, refuse_socket},
    net,
    pump::{self, PrefaceStep, Step},
    turn::{Engine, FIRST_FLOW, PADDED_IDENTIFIER, Shutdown},
};
use crate::{
    netstack::{self, Event, FlowId},
    peer::PeerId,
    stream::{Shared, TunnelStream},
    wg::PeerConfig,
};

impl Engine {
    pub(super) fn configure(&mut self, network: &Network, now: Instant) {
        let configs: Vec<PeerConfig> = network.peers.iter().map(|peer| peer.wireguard.clone()).collect();
        let done = self.device.set_peers(&configs, now);
        for peer in done.removed {
            self.stack.remove_peer(peer);
            self.peers.remove(peer, now);
        }
        for peer in &network.peers {
            let key = peer.wireguard.public_key;
            if let Some(id) = self.device.peer(&key) {
                self.peers.set(id, key, peer.probe, now);
            }
        }
        for (peer, network) in done.conflicts {
            tracing::warn!(%peer, %network, "a network belongs to another peer already");
        }
        for peer in done.refused {
            tracing::warn!(%peer, "a peer cannot be configured");
        }
        let addresses = net::families(&network.addresses);
        if addresses != self.addresses {
            match self.stack.set_addresses(addresses.0, addresses.1) {
                Ok(()) => self.addresses = addresses,
                Err(error) => tracing::warn!(%error, "the overlay addresses cannot be used"),
            }
        }
        self.ports = network
            .listen
            .iter()
            .map(|listen| (listen.port, listen.preface))
            .collect();
        self.udp_ports = network
            .listen_udp
            .iter()
            .map(|listen| (listen.port, listen.preface))
            .collect();
        if self.shutdown.is_none() {
            self.stack.listen(network.listen.iter().map(|listen| listen.port));
            self.stack
                .listen_udp(network.listen_udp.iter().map(|listen| listen.port));
        }
        self.peers.handle_timeout(&self.device, now, &mut self.tasks);
        self.run_tasks(now);
    }

    pub(super) fn command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Connect(connect, opener) => self.connect(connect, opener, now),
            Command::Session(open, answer) => self.open_session(open, answer, now),
            Command::Accept(flow, verdict) => self.decide(flow, verdict, now),
            Command::Metrics(sender) => {
                let _ = sender.send(self.metrics());
            }
            Command::Shutdown(grace, reply) => {
                self.stack.listen([]);
                self.stack.listen_udp([]);
                let until = now + grace;
                let shutdown = self.shutdown.get_or_insert(Shutdown {
                    until,
                    replies: Vec::new(),
                });
                shutdown.until = shutdown.until.min(until);
                shutdown.replies.push(reply);
            }
        }
    }

    pub(super) fn event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Incoming {
                flow,
                peer,
                local,
                remote,
            } => self.incoming(flow, peer, local, remote, now),
            Event::Established(flow) => self.established(flow),
            Event::Ready(flow) => self.flows.mark(flow),
            Event::Closed { flow, reason } => match self.flows.get_mut(flow) {
                Some(state) => {
                    state.ended = Some(reason);
                    self.flows.mark(flow);
                }
                None => self.stack.release(flow),
            },
            Event::SessionEnded { session, reason } => self.session_ended(session, reason),
            Event::SessionRefused(session) => self.session_refused(session),
            Event::Pong {
                peer,
                identifier: PADDED_IDENTIFIER,
                sequence,
                payload,
                ..
            } => {
                if let Some(mtu) = self.peers.handle_padded_pong(peer, sequence, payload, now) {
                    self.set_mtu(peer, mtu);
                }
            }
            Event::Pong {
                peer,
                sequence,
                payload,
                ..
            } => self.peers.handle_pong(peer, sequence, payload, now),
        }
    }

    /// Moves what can be moved, and draws the consequences.
    pub(super) fn serve_flow(&mut self, id: FlowId, now: Instant) {
        let Some(mut flow) = self.flows.take(id) else {
            return;
        };
        flow.dirty = false;
        // Taken apart for the time being: the user is served with the rest of the flow.
        let mut user = std::mem::replace(&mut flow.user, User::Nobody);
        let step = match &mut user {
            User::Opening { opener, .. } => match flow.ended {
                Some(reason) => Step::Release(end_of(reason)),
                None if opener.is_gone() => Step::Abort(EndReason::Cancelled),
                None => {
                    pump::write_head(&mut flow, &mut self.stack);
                    Step::Stay
                }
            },
            User::Preface { length, bytes, .. } => {
                let bound = self.limits.preface_length;
                match pump::read_preface(id, *length, bytes, bound, &mut self.stack) {
                    PrefaceStep::Complete => {
                        user = self.deliver(&mut flow, user);
                        Step::Stay
                    }
                    PrefaceStep::Awaited => flow.ended.map_or(Step::Stay, |end| Step::Release(end_of(end))),
                    PrefaceStep::Broken => {
                        self.counters.bad_prefaces += 1;
                        Step::Abort(EndReason::Protocol)
                    }
                }
            }
            // Who decides later finds it gone.
            User::Deciding { .. } => flow.ended.map_or(Step::Stay, |end| Step::Release(end_of(end))),
            User::Stream(shared) => pump::serve_stream(&mut flow, shared, &mut self.stack),
            User::Socket(spliced) => pump::serve_socket(&mut flow, spliced, &mut self.stack),
            User::Nobody => pump::serve_nobody(&mut flow, &mut self.stack),
        };
        flow.user = user;
        if self.stack.unacknowledged(id) > 0 {
            self.peers.used(flow.peer, now);
        }
        match step {
            Step::Stay => self.flows.put(flow),
            Step::Linger => {
                if flow.deadline.is_none() {
                    self.linger(&mut flow, now);
                }
                self.flows.put(flow);
            }
            Step::Release(reason) => {
                self.stack.release(id);
                flow.finish(reason);
            }
            Step::Abort(reason) => {
                self.stack.abort(id);
                flow.finish(reason);
            }
        }
    }

    /// Sets the time until when something has to happen to a flow that its user has left.
    fn linger(&self, flow: &mut Flow, now: Instant) {
        flow.lingering = Some(flow.undelivered(&self.stack));
        flow.deadline = Some(now + self.limits.linger);
    }

    /// A flow's time is up, unless it is still delivering what its user left behind.
    pub(super) fn give_up(&mut self, mut flow: Box<Flow>, now: Instant) {
        if let Some(before) = flow.lingering {
            let undelivered = flow.undelivered(&self.stack);
            if undelivered < before {
                self.linger(&mut flow, now);
                return self.flows.put(flow);
            }
            if undelivered == 0 && flow.shut {
                self.stack.forget(flow.id);
                return flow.finish(EndReason::Finished);
            }
        }
        if matches!(flow.user, User::Preface { .. }) {
            self.counters.bad_prefaces += 1;
        }
        self.stack.abort(flow.id);
        flow.finish(EndReason::TimedOut);
    }

    /// Whether a shutdown has nothing left to wait for.
    pub(super) fn is_drained(&self, now: Instant) -> bool {
        // The netstack's own flows may still be bringing their last bytes to the peers. Sessions have no
        // end that could be waited for.
        self.shutdown
            .as_ref()
            .is_some_and(|shutdown| self.stack.flows() == 0 || now >= shutdown.until)
    }

    /// Resets what is left and says goodbye.
    pub(super) fn stop(&mut self, now: Instant) {
        // Flows of peers that nobody was told about yet are aborted with the others.
        self.stack.listen([]);
        self.ports.clear();
        while let Some(event) = self.stack.poll_event() {
            self.event(event, now);
        }
        let mut cut = 0;
        while let Some(flow) = self.flows.pop() {
            cut += 1;
            self.stack.abort(flow.id);
            flow.finish(EndReason::Stopped);
        }
        while self.transmit(now) && !self.udp.is_blocked() {}
        self.udp.flush();
        // First closed, so that who hears of the end finds the shard stopped.
        self.inbox.close();
        for reply in self
            .shutdown
            .take()
            .into_iter()
            .flat_map(|shutdown| shutdown.replies)
        {
            let _ = reply.send(Drained { cut });
        }
    }

    fn connect(&mut self, connect: Connect, opener: Opener, now: Instant) {
        let (id, peer, local) = match self.open(&connect, now) {
            Ok(opened) => opened,
            Err(error) => return fail(opener, error),
        };
        if let Opener::Socket(user) = &opener {
            if net::prepare(&user.socket).is_err() {
                self.stack.abort(id);
                return fail(opener, ConnectError::Socket);
            }
            user.link.bind(id);
        }
        let remote = connect.remote;
        let local = (local, 0).into();
        let mut flow = Flow::new(
            id,
            peer,
            User::Opening {
                opener,
                local,
                remote,
            },
        );
        flow.meter = connect.meter;
        flow.head = connect.preface.unwrap_or_default();
        flow.reply = connect.expect_reply.then(|| Vec::with_capacity(REPLY_LEN));
        flow.deadline = Some(now + connect.timeout);
        self.flows.insert(flow);
    }

    fn open(&mut self, connect: &Connect, now: Instant) -> Result<(FlowId, PeerId, IpAddr), ConnectError> {
        let (peer, local) = self.way_to(&connect.peer, connect.remote.ip())?;
        self.peers.used(peer, now);
        let flow = self
            .stack
            .connect(peer, local, connect.remote, now)
            .map_err(|error| match error {
                netstack::ConnectError::NotOurs | netstack::ConnectError::Unaddressable => {
                    ConnectError::Unroutable
                }
                _ => ConnectError::Overloaded,
            })?;
        Ok((flow, peer, local))
    }

    /// The peer behind which an address is, and our own address toward it.
    pub(super) fn way_to(
        &self,
        key: &WireGuardKey,
        remote: IpAddr,
    ) -> Result<(PeerId, IpAddr), ConnectError> {
        if self.shutdown.is_some() {
            return Err(ConnectError::Stopped);
        }
        let peer = self.device.peer(key).ok_or(ConnectError::UnknownPeer)?;
        if self.device.route(remote) != Some(peer) {
            return Err(ConnectError::Unroutable);
        }
        // A peer that another shard took over meanwhile is asked for again, if at all, there.
        let reachable = self
            .device
            .status(peer)
            .is_some_and(|status| status.owned && status.endpoint.is_some());
        if !reachable || self.peers.is_down(peer) {
            return Err(ConnectError::Offline);
        }
        let local = match remote {
            IpAddr::V6(_) => self.addresses.0.map(IpAddr::from),
            IpAddr::V4(_) => self.addresses.1.map(IpAddr::from),
        };
        Ok((peer, local.ok_or(ConnectError::Unroutable)?))
    }

    /// A flow that we opened is connected.
    fn established(&mut self, id: FlowId) {
        let Some(mut flow) = self.flows.take(id) else {
            return self.stack.abort(id);
        };
        flow.deadline = None;
        match std::mem::replace(&mut flow.user, User::Nobody) {
            User::Opening {
                opener: Opener::Stream(sender),
                local,
                remote,
            } => {
                let link = Link::to(Arc::clone(&self.inbox), id);
                let shared = Arc::new(Shared::new(link, self.limits.stream_buffer));
                flow.user = User::Stream(Arc::clone(&shared));
                self.flows.put(flow);
                // When nobody waits any more, dropping the stream resets the flow.
                drop(sender.send(Ok(TunnelStream::new(shared, local, remote))));
            }
            User::Opening {
                opener: Opener::Socket(user),
                ..
            } => self.attach(flow, Spliced::new(user)),
            user => {
                flow.user = user;
                self.flows.put(flow);
            }
        }
        self.flows.mark(id);
    }

    /// Serves a socket with a flow from now on.
    fn attach(&mut self, mut flow: Box<Flow>, mut spliced: Spliced) {
        let token = Token(FIRST_FLOW + flow.id.slot());
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.registry.register(&mut spliced.socket, token, interest) {
            self.stack.abort(flow.id);
            return spliced.finish(EndReason::Socket(error.kind()));
        }
        flow.user = User::Socket(Box::new(spliced));
        self.flows.put(flow);
    }

    /// A peer opened a flow.
    fn incoming(
        &mut self,
        id: FlowId,
        peer: PeerId,
        local: std::net::SocketAddr,
        remote: std::net::SocketAddr,
        now: Instant,
    ) {
        let Some(&preface) = self.ports.get(&local.port()).filter(|_| self.shutdown.is_none()) else {
            return self.stack.abort(id);
        };
        let mut flow = Flow::new(id, peer, User::Nobody);
        match preface {
            Some(length) => {
                flow.user = User::Preface {
                    length,
                    bytes: Vec::new(),
                    local,
                    remote,
                };
                flow.deadline = Some(now + self.limits.preface_timeout);
                self.flows.insert(flow);
            }
            None => {
                flow.user = self.hand_out(id, peer, local, remote, Vec::new(), false);
                self.flows.insert(flow);
            }
        }
    }

    /// A preface is complete.
    fn deliver(&self, flow: &mut Flow, user: User) -> User {
        let User::Preface {
            bytes, local, remote, ..
        } = user
        else {
            return user;
        };
        flow.deadline = None;
        self.hand_out(flow.id, flow.peer, local, remote, bytes, true)
    }

    /// Asks who takes incoming flows what is to become of one. The answer comes as a command.
    fn hand_out(
        &self,
        flow: FlowId,
        peer: PeerId,
        local: std::net::SocketAddr,
        remote: std::net::SocketAddr,
        preface: Vec<u8>,
        has_preface: bool,
    ) -> User {
        let handler = self.handler.borrow().clone();
        // Without a key or a handler the flow is dropped, which resets it.
        if let Some(key) = self.peers.key(peer) {
            let incoming = IncomingFlow {
                peer: key,
                local,
                remote,
                preface,
                flow,
                inbox: Arc::clone(&self.inbox),
                buffer: self.limits.stream_buffer,
                decided: false,
            };
            match handler {
                Some(handler) => handler(incoming),
                None => incoming.refuse(FlowReply::Unknown),
            }
        }
        User::Deciding { has_preface }
    }

    /// Somebody decided on an incoming flow.
    fn decide(&mut self, id: FlowId, verdict: Verdict, now: Instant) {
        let known = self.flows.take(id);
        let Some((mut flow, has_preface)) = known.and_then(|flow| match flow.user {
            User::Deciding { has_preface } => Some((flow, has_preface)),
            _ => None,
        }) else {
            // It ended in the meantime.
            return match verdict {
                Verdict::Stream(shared, _) => shared.turn(|turn| turn.end(EndReason::Reset)),
                Verdict::Socket(user, _) => refuse_socket(user, EndReason::Reset),
                Verdict::Refuse(_) | Verdict::Abort => {}
            };
        };
        let greeting = if has_preface {
            FlowReply::Connected.encode().to_vec()
        } else {
            Vec::new()
        };
        match verdict {
            Verdict::Stream(shared, meter) => {
                flow.meter = meter;
                flow.head = greeting;
                flow.user = User::Stream(shared);
                self.flows.put(flow);
            }
            Verdict::Socket(user, meter) => {
                flow.meter = meter;
                flow.head = greeting;
                match net::prepare(&user.socket) {
                    Ok(()) => self.attach(flow, Spliced::new(user)),
                    Err(error) => {
                        self.stack.abort(id);
                        refuse_socket(user, EndReason::Socket(error.kind()));
                    }
                }
            }
            Verdict::Refuse(reply) if has_preface => {
                flow.head = reply.encode().to_vec();
                flow.user = User::Nobody;
                flow.deadline = Some(now + self.limits.linger);
                self.flows.put(flow);
            }
            Verdict::Refuse(_) | Verdict::Abort => return self.stack.abort(id),
        }
        self.flows.mark(id);
    }
}
