//! A TCP socket and the flow that serves it, for as long as both are open.

use std::{io, time::Duration};

use kakuremichi_proto::lane::record::ResetCode;
use socket2::SockRef;
use tokio::net::TcpStream;

#[cfg(feature = "agent")]
use super::flow::LaneFlow;
use super::{
    connection::Connection,
    finish::{Fate, Home, Returned},
    pump::{PumpEnd, pump},
};
use crate::engine::{EndReason, Meter};

/// A socket and a connection. Dropping it before its end resets both.
#[derive(Debug)]
pub(crate) struct LaneSplice {
    socket: Option<TcpStream>,
    connection: Option<Connection>,
    home: Home,
    /// This end took the flow.
    replied: bool,
}

impl LaneSplice {
    /// A flow that this end begins, with what it says first queued.
    ///
    /// # Errors
    /// When the runtime does not take the socket. The connection is given back.
    pub(crate) fn new(socket: std::net::TcpStream, connection: Connection, home: Home) -> io::Result<Self> {
        let mut this = Self {
            socket: None,
            connection: Some(connection),
            home,
            replied: false,
        };
        socket.set_nonblocking(true)?;
        this.socket = Some(TcpStream::from_std(socket)?);
        Ok(this)
    }

    /// The same for a flow that this end has accepted.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    #[cfg(feature = "agent")]
    pub(crate) fn taken(socket: std::net::TcpStream, flow: LaneFlow) -> io::Result<Self> {
        let (connection, home) = flow.into_parts();
        let connection = connection.ok_or(io::ErrorKind::NotConnected)?;
        let mut this = Self::new(socket, connection, home)?;
        this.replied = true;
        Ok(this)
    }

    /// Serves the socket until the flow is over.
    pub(crate) async fn serve(&mut self, meter: &Meter) -> PumpEnd {
        match (&mut self.socket, &mut self.connection) {
            (Some(socket), Some(connection)) => pump(socket, connection, meter, self.replied).await,
            // It is over already.
            _ => PumpEnd {
                reason: EndReason::Cancelled,
                fate: Fate::Broken,
            },
        }
    }

    /// Gives the connection back, and the socket: after an end in order closed, otherwise reset, or as it
    /// is where nobody has taken it.
    pub(crate) fn finish(&mut self, fate: Fate, reason: EndReason) -> Option<std::net::TcpStream> {
        if let Some(connection) = self.connection.take() {
            // Whoever kept connections may be gone, and they with it.
            let _ = self.home.send(Returned { connection, fate });
        }
        let socket = self.socket.take()?;
        match reason {
            EndReason::Refused(_) | EndReason::NotConnected(_) => socket.into_std().ok(),
            EndReason::Finished => None,
            _ => {
                reset(&socket);
                None
            }
        }
    }
}

impl Drop for LaneSplice {
    fn drop(&mut self) {
        let _ = self.finish(Fate::Reset(ResetCode::Cancelled), EndReason::Cancelled);
    }
}

/// Has the system reset the socket when it is closed.
fn reset(socket: &TcpStream) {
    // Without it the other end learns of an end in order, which is all that can be said.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}
