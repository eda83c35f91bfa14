#![cfg(all(feature = "agent", feature = "gateway"))]
#![expect(clippy::disallowed_methods, reason = "tests run both ends, within a time")]

use kakuremichi_core::id::AgentId;
use proptest::prelude::*;
use tokio::{
    io::{DuplexStream, duplex},
    runtime,
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

use super::*;
use crate::{
    session::SessionEnded,
    streams::{connection::Signal, finish::finish},
};

const AGENT: AgentId = AgentId::from_bytes([1; 16]);
const LONG: Duration = Duration::from_secs(60);
/// The longest datagram that UDP has, over IPv6.
const LONGEST: usize = 65_527;

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let soon = async { timeout(Duration::from_secs(20), test).await.unwrap() };
    runtime.unwrap().block_on(soon)
}

/// Two ends of a connection.
fn pair(pipe: usize) -> (Connection, Connection) {
    let (one, other) = duplex(pipe);
    let connection = |end: DuplexStream| Connection::new(AGENT, 0, Box::new(end), None);
    (connection(one), connection(other))
}

/// One end of a session, and what carries it.
struct End {
    session: TunnelSession,
    carrying: JoinHandle<()>,
    home: mpsc::UnboundedReceiver<Returned>,
}

impl End {
    fn new(make: impl FnOnce(Home) -> (TunnelSession, Carrier)) -> Self {
        let (home, returned) = mpsc::unbounded_channel();
        let (session, carrier) = make(home);
        Self {
            session,
            carrying: tokio::spawn(carrier.run(|_| {})),
            home: returned,
        }
    }

    fn open(mut connection: Connection, idle: Duration) -> Self {
        connection.queue(Record::Begin {
            port: 2000,
            preface: b"preface",
        });
        Self::new(|home| open(connection, home, ends(), Arc::default(), idle))
    }

    async fn take(mut connection: Connection) -> Self {
        let begin = Signal::Begin(2000, b"preface".to_vec());
        assert_eq!(connection.next().await.unwrap(), Some(begin));
        Self::new(|home| {
            take(
                LaneFlow::undecided(connection, home),
                ends(),
                Arc::default(),
                LONG,
            )
        })
    }

    async fn both() -> (Self, Self) {
        let (near, far) = pair(256 * 1024);
        let near = Self::open(near, LONG);
        (near, Self::take(far).await)
    }

    async fn recv(&mut self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; LONGEST];
        let length = self.session.recv(&mut buffer).await?;
        buffer.truncate(length);
        Ok(buffer)
    }

    async fn ended(&mut self) -> EndReason {
        let error = self.recv().await.unwrap_err();
        let inner = error.into_inner().unwrap();
        inner.downcast_ref::<SessionEnded>().unwrap().0
    }

    /// The connection, when it can be used again. The session is left, if it is not over.
    async fn free(mut self) -> Option<Connection> {
        drop(self.session);
        self.carrying.await.unwrap();
        finish(self.home.recv().await.unwrap()).await
    }
}

fn ends() -> (SocketAddr, SocketAddr) {
    let any = "[::]:0".parse().unwrap();
    (any, any)
}

#[test]
fn datagrams_of_any_length_pass_and_one_session_follows_the_other() {
    run(async {
        let (mut near, mut far) = pair(256 * 1024);
        for _ in 0..3 {
            let mut asks = End::open(near, LONG);
            let mut serves = End::take(far).await;
            for length in [0, 1, 1_200, 0, 20_000, LONGEST] {
                let data = vec![length as u8; length];
                asks.session.try_send(&data).unwrap();
                assert!(serves.recv().await.unwrap() == data);
                serves.session.try_send(&data).unwrap();
                assert!(asks.recv().await.unwrap() == data);
            }
            assert_eq!((asks.session.refusals(), asks.session.shed()), (0, 0));
            // The other end learns of it, and both connections are free.
            let near_is_free = tokio::spawn(asks.free());
            assert_eq!(serves.ended().await, EndReason::Finished);
            far = serves.free().await.unwrap();
            near = near_is_free.await.unwrap().unwrap();
        }
    });
}

#[test]
fn a_session_without_an_answer_ends_in_order_when_it_idles() {
    run(async {
        let (near, far) = pair(64 * 1024);
        let mut asks = End::open(near, Duration::from_millis(50));
        asks.session.try_send(b"to who only listens").unwrap();
        let mut serves = End::take(far).await;
        assert_eq!(serves.recv().await.unwrap(), b"to who only listens");
        assert_eq!(asks.ended().await, EndReason::TimedOut);
        let near = tokio::spawn(asks.free());
        assert_eq!(serves.ended().await, EndReason::Finished);
        assert!(serves.free().await.is_some() && near.await.unwrap().is_some());
    });
}

/// A target that refuses costs no connection, until it has answered.
#[test]
fn a_refusal_before_an_answer_leaves_the_connection_and_one_after_it_takes_it_along() {
    for answered in [false, true] {
        run(async {
            let (mut asks, mut serves) = End::both().await;
            asks.session.try_send(b"anybody?").unwrap();
            assert_eq!(serves.recv().await.unwrap(), b"anybody?");
            if answered {
                serves.session.try_send(b"yes").unwrap();
                assert_eq!(asks.recv().await.unwrap(), b"yes");
            }
            serves.session.refuse();
            let far = tokio::spawn(serves.free());
            assert_eq!(asks.ended().await, EndReason::Refused(FlowReply::Refused));
            assert_eq!(asks.session.refusals(), 1);
            let (near, far) = (asks.free().await, far.await.unwrap());
            assert_eq!((near.is_some(), far.is_some()), (!answered, !answered));
        });
    }
}

/// An agent that does not know sessions refuses what it takes for a flow, and skips the short datagrams.
#[test]
fn an_older_agent_denies_and_the_connection_is_free() {
    run(async {
        let (near, mut far) = pair(64 * 1024);
        let mut asks = End::open(near, LONG);
        asks.session.try_send(b"hello").unwrap();
        assert!(matches!(far.next().await.unwrap(), Some(Signal::Begin(..))));
        far.queue(Record::Reply(FlowReply::Denied));
        far.drain().await.unwrap();
        assert_eq!(asks.ended().await, EndReason::Refused(FlowReply::Denied));
        assert!(asks.free().await.is_some());
    });
}

#[test]
fn streams_and_sessions_do_not_mix() {
    run(async {
        let (mut asks, mut serves) = {
            let (near, mut far) = pair(64 * 1024);
            let asks = End::open(near, LONG);
            assert!(matches!(far.next().await.unwrap(), Some(Signal::Begin(..))));
            (asks, far)
        };
        serves.queue(Record::Reply(FlowReply::Connected));
        serves.queue_data(b"of a stream");
        serves.drain().await.unwrap();
        assert_eq!(asks.ended().await, EndReason::Protocol);
        assert!(asks.free().await.is_none());
        // Datagrams before the reply are none of the protocol either.
        let (near, mut far) = pair(64 * 1024);
        let mut asks = End::open(near, LONG);
        far.queue_datagram(b"too early");
        far.drain().await.unwrap();
        assert_eq!(asks.ended().await, EndReason::Protocol);
    });
}

/// A lane that breaks off is told from an end, so that the session begins anew elsewhere.
#[test]
fn a_connection_that_breaks_resets_the_session() {
    run(async {
        let (near, far) = pair(64 * 1024);
        let mut asks = End::open(near, LONG);
        drop(far);
        assert_eq!(asks.ended().await, EndReason::Reset);
        assert!(asks.free().await.is_none());
        // Whoever carries is stopped before the end.
        let (mut asks, mut serves) = End::both().await;
        asks.carrying.abort();
        assert_eq!(asks.ended().await, EndReason::Stopped);
        assert!(finish(asks.home.recv().await.unwrap()).await.is_none());
        assert_eq!(serves.ended().await, EndReason::Reset);
    });
}

/// Overload sheds load; it never grows memory.
#[test]
fn no_datagram_waits_behind_a_connection_that_takes_no_more() {
    run(async {
        let (near, far) = pair(4 * 1024);
        let asks = End::open(near, LONG);
        let mut sent = 0;
        while asks.session.shed() == 0 {
            sent += 1;
            asks.session.try_send(&[1; 1_000]).unwrap();
            tokio::task::yield_now().await;
        }
        // What was in the pipe, and one batch, but no queue.
        assert!(sent <= 10, "{sent} were kept");
        let mut serves = End::take(far).await;
        let kept = sent - asks.session.shed();
        for _ in 0..kept {
            assert_eq!(serves.recv().await.unwrap(), [1; 1_000]);
        }
        asks.session.try_send(b"newer").unwrap();
        assert_eq!(serves.recv().await.unwrap(), b"newer");
    });
}

proptest! {
    /// Whatever the pipe takes at once: what arrives was sent, in order and whole, and the rest was counted.
    #[test]
    fn each_datagram_arrives_whole_or_is_counted(
        pipe in 64_usize..80_000,
        lengths in prop::collection::vec(0_usize..5_000, 1..60),
    ) {
        run(async {
            let (near, far) = pair(pipe);
            let asks = End::open(near, LONG);
            let mut serves = End::take(far).await;
            for (number, length) in lengths.iter().enumerate() {
                let mut data = vec![number as u8; *length];
                data.push(number as u8);
                let _ = asks.session.try_send(&data);
                if number % 3 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            let shared = Arc::clone(asks.session.shared());
            let freed = tokio::spawn(asks.free());
            let mut seen = Vec::new();
            while let Ok(data) = serves.recv().await {
                let number = usize::from(data[0]);
                assert!(data.len() == lengths[number] + 1 && data.iter().all(|byte| *byte == data[0]));
                seen.push(number);
            }
            assert!(seen.is_sorted_by(|one, next| one < next));
            let (near, far) = tokio::join!(freed, serves.free());
            assert!(near.unwrap().is_some() && far.is_some());
            let end = TunnelSession::new(shared, ends().0, ends().1);
            assert_eq!(seen.len() as u64 + end.shed(), lengths.len() as u64);
        });
    }
}
