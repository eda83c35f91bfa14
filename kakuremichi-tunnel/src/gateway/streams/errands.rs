//! What is done on the shard of a connection, from whichever it is asked for: serving a socket, so that a
//! flow's bytes cross no thread, and bringing flows to their end.

#![expect(
    clippy::disallowed_methods,
    reason = "a socket that another shard hands over, and a flow whose other direction is open, are tasks of the shard"
)]

use std::{net::TcpStream, sync::Arc};

use tokio::sync::{mpsc, oneshot};

use super::Streams;
use crate::{
    engine::{EndReason, Meter},
    streams::{
        connection::Connection,
        finish::{Fate, Home, Returned, finish},
        splice::LaneSplice,
    },
};

/// Where errands of one shard are put. The lists are not bounded by themselves: each connection is on them
/// once at most.
#[derive(Debug, Clone)]
pub(super) struct Desk {
    pub(super) home: Home,
    handed: mpsc::UnboundedSender<Handed>,
}

/// Where a shard takes its errands from; see [`tend`].
#[derive(Debug)]
pub(crate) struct Errands {
    returned: mpsc::UnboundedReceiver<Returned>,
    handed: mpsc::UnboundedReceiver<Handed>,
}

/// A socket to be served by a connection.
#[derive(Debug)]
struct Handed {
    socket: TcpStream,
    connection: Connection,
    meter: Arc<Meter>,
    done: oneshot::Sender<Served>,
}

/// How a socket was served.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) reason: EndReason,
    /// The socket, if nobody has taken it.
    pub(crate) socket: Option<TcpStream>,
}

/// The two ends of a shard's lists.
pub(super) fn desk() -> (Desk, Errands) {
    let (home, returned) = mpsc::unbounded_channel();
    let (hand, handed) = mpsc::unbounded_channel();
    (Desk { home, handed: hand }, Errands { returned, handed })
}

impl Streams {
    /// Serves a socket by a flow whose beginning is queued, on the shard of the connection. Dropping the
    /// future resets both.
    pub(crate) async fn splice(
        &self,
        socket: TcpStream,
        connection: Connection,
        meter: Arc<Meter>,
    ) -> Served {
        let desk = self.desk(connection.shard);
        if connection.shard == self.shard {
            return serve(socket, connection, &desk.home, &meter).await;
        }
        let (done, served) = oneshot::channel();
        let handed = Handed {
            socket,
            connection,
            meter,
            done,
        };
        // A shard that has stopped answers nothing.
        let _ = desk.handed.send(handed);
        served.await.unwrap_or(Served {
            reason: EndReason::Stopped,
            socket: None,
        })
    }
}

async fn serve(socket: TcpStream, connection: Connection, home: &Home, meter: &Meter) -> Served {
    let Ok(mut splice) = LaneSplice::new(socket, connection, home.clone()) else {
        return Served {
            reason: EndReason::Stopped,
            socket: None,
        };
    };
    let end = splice.serve(meter).await;
    Served {
        socket: splice.finish(end.fate, end.reason),
        reason: end.reason,
    }
}

/// Does a shard's errands, for as long as it lives.
pub(crate) async fn tend(streams: Streams, mut errands: Errands) {
    loop {
        tokio::select! {
            Some(one) = errands.returned.recv() => take_back(&streams, one),
            Some(one) = errands.handed.recv() => take_over(&streams, one),
            else => return,
        }
    }
}

/// Has a connection whose flow is over wait for the next one, or closes it.
fn take_back(streams: &Streams, one: Returned) {
    match one.fate {
        Fate::Clean if one.connection.is_drained() => streams.put(one.connection),
        Fate::Broken => {}
        Fate::Clean | Fate::Ended | Fate::Reset(_) => {
            let streams = streams.clone();
            tokio::task::spawn_local(async move {
                if let Some(connection) = finish(one).await {
                    streams.put(connection);
                }
            });
        }
    }
}

fn take_over(streams: &Streams, handed: Handed) {
    let Handed {
        socket,
        connection,
        meter,
        mut done,
    } = handed;
    let home = streams.desk(connection.shard).home.clone();
    tokio::task::spawn_local(async move {
        let served = tokio::select! {
            served = serve(socket, connection, &home, &meter) => served,
            () = done.closed() => return,
        };
        // Whoever waited may be gone by now.
        let _ = done.send(served);
    });
}
