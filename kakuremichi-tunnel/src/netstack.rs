//! TCP flows and UDP sessions through tunnels, as one state machine per shard.
//!
//! A [`Stack`] ends the TCP connections that travel inside the tunnels of many peers, and the UDP sessions
//! beside them: datagrams between two addresses, for as long as some pass. It does no IO,
//! reads no clock and draws no random numbers: packets, time and a seed are arguments, packets go out
//! through a [`PacketSink`].
//!
//! # One turn
//!
//! 1. [`handle_packet`](Stack::handle_packet) for each packet that was decrypted (whole batches pass
//!    through a [`Coalescer`](crate::packet::Coalescer) first), then
//!    [`handle_timeout`](Stack::handle_timeout).
//! 2. [`poll_event`](Stack::poll_event) until it returns `None`. On [`Event::Ready`], and when the
//!    local socket of a flow became ready, [`recv`](Stack::recv) and [`send`](Stack::send) until one
//!    of them is not called back or the local socket would block.
//!    Datagrams of sessions are [taken](Stack::take_received), and [sent](Stack::send_datagram) at once.
//! 3. [`transmit`](Stack::transmit). When it returns `true` there is more to send: have another turn
//!    without sleeping, or, when the sink was not ready, as soon as it is. Have another turn, too,
//!    while there are [events](Stack::has_events): a time-out is found out when a flow has its turn.
//! 4. Sleep until [`poll_timeout`](Stack::poll_timeout) or the next packet or socket event.
//!
//! # Bounds
//!
//! Flows, half-open flows, sessions and buffers are bounded, in all and per peer ([`Limits`]); a connection
//! attempt beyond a bound is reset and counted ([`Counters`]). So is the memory that flows take: who
//! needs less gives some back, all are slowed down, and at last the largest flows are reset. The work of one
//! turn is bounded by [`TURN_BYTES`], and within it each peer by [`QUANTUM`] in turn, however many flows it
//! has, and flows that send little, or were quiet, first. Back-pressure is TCP's own: what the engine does not
//! take stays in the flow's ring, and the
//! window closes.

mod again;
mod api;
mod device;
mod egress;
mod errors;
mod flow;
mod host;
mod icmp;
mod ingress;
mod life;
mod memory;
mod ports;
mod reassembly;
mod rim;
mod schedule;
mod sessions;
mod stack;
mod tcp;
#[cfg(feature = "testing")]
pub(crate) mod testing;
mod time_wait;
mod track;
mod udp;
mod wheel;

pub use api::{
    BuildError, CloseReason, ConnectError, Counters, Event, FlowId, InvalidAddress, Limits, PacketSink,
    PingError, Settings,
};
pub use egress::{QUANTUM, TURN_BYTES};
pub use sessions::SessionId;
pub use stack::Stack;
pub use udp::{RECEIVED_BYTES, Received, SendError};

#[cfg(test)]
mod tests;
