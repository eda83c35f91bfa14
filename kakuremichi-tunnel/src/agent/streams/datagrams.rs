//! Sessions of datagrams that a gateway begins on a connection of its lane.

#![expect(
    clippy::disallowed_methods,
    reason = "what carries a session is a task of the shard"
)]

use std::{sync::Arc, time::Duration};

use kakuremichi_core::model::Transport;
use kakuremichi_proto::flow::FlowReply;

use super::serve::LaneIncoming;
use crate::{
    agent::{
        sessions::IncomingDatagrams,
        table::{Opened, Opener},
    },
    engine::Meter,
    session::TunnelSession,
    streams::datagrams::take,
};

/// A session ends when no datagram passes for so long: longer than at the gateway, which ends sessions by its
/// own setting, so that the target's side does not change under one that goes on.
const IDLE: Duration = Duration::from_secs(120);

/// A session that a gateway began, and that nobody has decided on. Dropping it resets the flow.
#[derive(Debug)]
pub(in super::super) struct LaneDatagrams(pub(super) LaneIncoming);

impl IncomingDatagrams for LaneDatagrams {
    fn opened(&self) -> Opened {
        Opened {
            transport: Transport::Udp,
            by: Opener::Gateway(self.0.gateway),
            local: self.0.local,
            remote: self.0.remote,
        }
    }

    fn preface(&self) -> &[u8] {
        &self.0.preface
    }

    fn refuse(self, reply: FlowReply) {
        self.0.flow.refuse(reply);
    }

    fn accept(self, meter: Arc<Meter>) -> TunnelSession {
        let LaneIncoming {
            flow, local, remote, ..
        } = self.0;
        let (session, carrier) = take(flow, (local, remote), meter, IDLE);
        // What is dropped is counted by the session.
        tokio::task::spawn_local(carrier.run(|_| {}));
        session
    }
}
