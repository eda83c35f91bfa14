//! Who uses flows: bytes in both directions, each of which is checked.

use std::{io, sync::Arc};

use kakuremichi_proto::{flow::FlowReply, lane::record::Record};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
};

use super::pipe::{Break, Conditions, Handle, Net};
use crate::{
    engine::{EndReason, Meter},
    stream::TunnelStream,
    streams::{
        connection::Connection,
        finish::{Returned, finish},
        flow::LaneFlow,
        pump::pump,
    },
};

/// What one end of a flow does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// So many bytes.
    pub(super) sends: usize,
    pub(super) manner: Manner,
    /// By a socket and a pump, as raw TCP is; otherwise as a stream.
    pub(super) socket: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// Both directions to their ends.
    Whole,
    /// It is gone after so many bytes.
    Leaves(usize),
    /// It sends everything, and reads nothing.
    Deaf,
}

/// A flow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flow {
    pub(super) number: u16,
    /// The end that begins it, and the other one.
    pub(super) near: Part,
    pub(super) far: Part,
    pub(super) refused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All that was to come came, and then the end.
    Complete,
    /// It went itself.
    Left,
    Failed(io::ErrorKind),
}

/// The byte at an offset of a direction of a flow.
fn byte(number: u16, from_near: bool, at: usize) -> u8 {
    let mixed = (at ^ (at >> 8).wrapping_mul(0x9d)).wrapping_add(usize::from(number) * 0x6b);
    mixed as u8 ^ u8::from(from_near)
}

impl Flow {
    /// Begins it on a free connection; returns what became of it, and the connection if it is free again.
    pub(super) async fn begin(self, mut connection: Connection, net: &Net) -> (Outcome, Option<Connection>) {
        connection.queue(Record::Begin {
            port: self.number,
            preface: b"preface",
        });
        if self.near.socket {
            return self.splice(connection, true, net).await;
        }
        let (home, mut returned) = mpsc::unbounded_channel();
        let flow = LaneFlow::opened(connection, home, Arc::default());
        let outcome = self.stream(flow, true).await;
        (outcome, finish(returned.recv().await.unwrap()).await)
    }

    /// The same for who was asked for it.
    pub(super) async fn serve(self, mut connection: Connection, net: &Net) -> (Outcome, Option<Connection>) {
        let (home, mut returned) = mpsc::unbounded_channel();
        if self.refused {
            LaneFlow::undecided(connection, home).refuse(FlowReply::Denied);
            let one = returned.recv().await.unwrap();
            return (Outcome::Left, finish(one).await);
        }
        if self.far.socket {
            connection.queue(Record::Reply(FlowReply::Connected));
            return self.splice(connection, false, net).await;
        }
        let mut flow = LaneFlow::undecided(connection, home);
        flow.accept(Arc::default());
        let outcome = self.stream(flow, false).await;
        (outcome, finish(returned.recv().await.unwrap()).await)
    }

    async fn stream(self, flow: LaneFlow, near: bool) -> Outcome {
        let any = "[::]:0".parse().unwrap();
        self.talk(TunnelStream::over_lane(flow, any, any), near, None)
            .await
    }

    async fn splice(
        self,
        mut connection: Connection,
        near: bool,
        net: &Net,
    ) -> (Outcome, Option<Connection>) {
        let conditions = Conditions {
            delay: std::time::Duration::ZERO,
            room: 32 * 1024,
            piece: 16 * 1024,
        };
        let (user, mut socket) = net.pipe(conditions, self.number.into());
        let pumping = async {
            let end = pump(&mut socket, &mut connection, &Meter::default(), !near).await;
            if end.reason != EndReason::Finished {
                // As a splice resets its socket.
                socket.handle().break_now(Break::Reset);
            }
            drop(socket);
            end.fate
        };
        let handle = user.handle();
        let (fate, outcome) = tokio::join!(pumping, self.talk(user, near, Some(handle)));
        (outcome, finish(Returned { connection, fate }).await)
    }

    /// Does this end's part. Who leaves a socket resets it.
    async fn talk(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        near: bool,
        socket: Option<Handle>,
    ) -> Outcome {
        let part = if near { self.near } else { self.far };
        let expected = if near { self.far.sends } else { self.near.sends };
        let (mut read, mut write) = tokio::io::split(stream);
        let sends = match part.manner {
            Manner::Leaves(after) => after.min(part.sends),
            Manner::Whole | Manner::Deaf => part.sends,
        };
        let sending = async {
            let mut sent = 0;
            while sent < sends {
                let until = sends.min(sent + 3_000);
                let data: Vec<u8> = (sent..until).map(|at| byte(self.number, near, at)).collect();
                write.write_all(&data).await?;
                sent = until;
            }
            write.flush().await?;
            if !matches!(part.manner, Manner::Leaves(_)) {
                write.shutdown().await?;
            }
            Ok(())
        };
        let receiving = async {
            if part.manner != Manner::Whole {
                return Ok(());
            }
            let (mut received, mut buffer) = (0, [0; 5_000]);
            loop {
                let count = read.read(&mut buffer).await?;
                if count == 0 {
                    assert_eq!(received, expected, "{self:?} was cut short");
                    return Ok(());
                }
                for &got in &buffer[..count] {
                    assert_eq!(got, byte(self.number, !near, received), "{self:?}, at {received}");
                    received += 1;
                }
            }
        };
        let done: io::Result<((), ())> = tokio::try_join!(sending, receiving);
        if let (Manner::Leaves(_), Some(socket)) = (part.manner, socket) {
            socket.break_now(Break::Reset);
        }
        match done {
            Err(error) => Outcome::Failed(error.kind()),
            Ok(_) if part.manner == Manner::Whole => Outcome::Complete,
            Ok(_) => Outcome::Left,
        }
    }
}
