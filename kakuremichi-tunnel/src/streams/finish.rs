//! What becomes of a connection when its flow is over.

#![expect(clippy::disallowed_methods, reason = "an end is waited for, within a time")]

use std::{io, time::Duration};

use kakuremichi_proto::{
    flow::FlowReply,
    lane::record::{Record, ResetCode},
};
use tokio::{sync::mpsc, time::timeout};

use super::connection::{Connection, Signal};

/// How long the other end has to end its direction once ours has ended and nobody reads any more.
const LINGER: Duration = Duration::from_secs(10);
/// What it may send until then, in bytes. Beyond, the connection is closed.
const LINGER_BYTES: usize = 1024 * 1024;
/// How long a reset may take to be sent.
const LAST_WORD: Duration = Duration::from_secs(2);

/// How a flow left its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Both directions have ended.
    Clean,
    /// Ours has; the other one's data are discarded until it has too.
    Ended,
    /// The flow is given up: the other end is told why, and the connection is closed.
    Reset(ResetCode),
    /// It broke.
    Broken,
}

/// A connection whose flow is over.
#[derive(Debug)]
pub(crate) struct Returned {
    pub(crate) connection: Connection,
    pub(crate) fate: Fate,
}

/// Where connections go whose flow is over. Not bounded by itself: there are no more messages than
/// connections.
pub(crate) type Home = mpsc::UnboundedSender<Returned>;

/// Brings a flow to its end; returns the connection if it may be used again. After an error it may not.
pub(crate) async fn finish(returned: Returned) -> Option<Connection> {
    let Returned { mut connection, fate } = returned;
    match fate {
        Fate::Clean if connection.is_drained() => Some(connection),
        Fate::Clean => {
            let drained = timeout(LINGER, connection.drain()).await;
            matches!(drained, Ok(Ok(()))).then_some(connection)
        }
        Fate::Ended => {
            let ended = timeout(LINGER, ended(&mut connection)).await;
            matches!(ended, Ok(Ok(()))).then_some(connection)
        }
        Fate::Reset(code) => {
            connection.queue(Record::Reset(code));
            // Where it does not arrive, the end of the connection tells the same.
            let _ = timeout(LAST_WORD, connection.drain()).await;
            None
        }
        Fate::Broken => None,
    }
}

async fn ended(connection: &mut Connection) -> io::Result<()> {
    connection.drain().await?;
    let mut discarded = 0;
    loop {
        match connection.next().await? {
            Some(Signal::Data(data)) => {
                discarded += data.len();
                if discarded > LINGER_BYTES {
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
            Some(Signal::End) => return Ok(()),
            Some(Signal::Datagram(_) | Signal::Reply(FlowReply::Connected)) => {}
            // A refusal is the end, too.
            Some(Signal::Reply(_)) => return Ok(()),
            _ => return Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}
