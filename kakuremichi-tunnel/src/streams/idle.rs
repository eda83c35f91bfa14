//! The agent's end of a connection that has no flow: it waits for one, until it is told to go.

#![expect(
    clippy::disallowed_methods,
    reason = "a connection that retires is closed by the clock"
)]

use std::{io, time::Duration};

use kakuremichi_proto::lane::record::Record;
use tokio::{
    sync::{Notify, mpsc},
    time::timeout,
};

use super::connection::{Connection, Signal};

/// How long the gateway has to close a connection that retires.
const FAREWELL: Duration = Duration::from_secs(30);

/// Waits for what the gateway says next; `None` when the connection is over.
///
/// It retires when `retire` tells it, or when nobody listens to `lane` any more: the lane has begun anew since,
/// and counts the connections that it makes from then on. It would tell this one to go in the place of one of its
/// own, or never. A flow that the gateway had begun by then is still served, and `retiring` says to go after it.
pub(crate) async fn next<E>(
    connection: &mut Connection,
    retiring: &mut bool,
    retire: &Notify,
    lane: &mpsc::UnboundedSender<E>,
) -> io::Result<Option<Signal>> {
    if !*retiring {
        tokio::select! {
            // What the gateway has said counts first.
            biased;
            signal = connection.next() => return signal,
            () = retire.notified() => {}
            () = lane.closed() => {}
        }
        *retiring = true;
    }
    connection.queue(Record::Retire);
    let gone = async {
        connection.drain().await?;
        connection.next().await
    };
    timeout(FAREWELL, gone).await.unwrap_or(Ok(None))
}
