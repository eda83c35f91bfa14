//! UDP sessions inside tunnels, as their users see them.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use crate::engine::{EndReason, Meter, SessionLink};

/// The bytes and the datagrams that wait in one direction of a session. Beyond either the newest is
/// dropped and counted: what is late is of no use to who waits for what is new, but a sender that hears
/// nothing of a loss cannot slow down.
pub const QUEUE_BYTES: usize = 256 * 1024;
/// See [`QUEUE_BYTES`].
pub const QUEUE_DATAGRAMS: usize = 1_024;

/// An empty queue keeps so much memory, in bytes.
const KEEP: usize = 4 * 1024;

/// Datagrams behind each other, so that those of one length can be sent at once.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// The first that was not taken, and where it begins.
    next: usize,
    begin: usize,
}

/// Datagrams of one length, but the last one, which may be shorter.
#[cfg(any(test, feature = "agent", feature = "gateway"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run<'a> {
    /// Their data, behind each other.
    pub(crate) bytes: &'a [u8],
    /// The length of each but the last.
    pub(crate) segment: usize,
    /// How many they are.
    pub(crate) count: usize,
}

impl Queue {
    /// Adds a datagram, unless there is no room.
    pub(crate) fn push(&mut self, data: &[u8]) -> bool {
        if self.ends.len() - self.next >= QUEUE_DATAGRAMS
            || self.bytes.len() - self.begin + data.len() > QUEUE_BYTES
        {
            return false;
        }
        self.bytes.extend_from_slice(data);
        self.ends.push(self.bytes.len());
        true
    }

    /// The first datagram.
    pub(crate) fn front(&self) -> Option<&[u8]> {
        let end = *self.ends.get(self.next)?;
        Some(&self.bytes[self.begin..end])
    }

    /// The first datagrams that can be sent in one call: at most `most`, of `bytes` together.
    #[cfg(any(test, feature = "agent", feature = "gateway"))]
    pub(crate) fn run(&self, most: usize, bytes: usize) -> Option<Run<'_>> {
        let segment = self.front()?.len();
        let mut count = 1;
        let mut end = self.begin + segment;
        // Empty datagrams go one by one.
        while count < most && segment > 0 {
            let Some(&next) = self.ends.get(self.next + count) else {
                break;
            };
            let length = next - end;
            if length == 0 || length > segment || next - self.begin > bytes {
                break;
            }
            end = next;
            count += 1;
            if length < segment {
                break;
            }
        }
        Some(Run {
            bytes: &self.bytes[self.begin..end],
            segment,
            count,
        })
    }

    /// All datagrams.
    #[cfg(feature = "gateway")]
    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut begin = self.begin;
        self.ends[self.next..].iter().map(move |end| {
            let data = &self.bytes[begin..*end];
            begin = *end;
            data
        })
    }

    /// Takes the first `count` datagrams off.
    pub(crate) fn advance(&mut self, count: usize) {
        self.next = (self.next + count).min(self.ends.len());
        self.begin = match self.next.checked_sub(1) {
            Some(last) => self.ends[last],
            None => 0,
        };
        if self.next == self.ends.len() {
            self.clear();
        }
    }

    /// Whether there is none.
    pub(crate) const fn is_empty(&self) -> bool {
        self.next == self.ends.len()
    }

    /// The bytes of all of them together.
    #[cfg(any(feature = "agent", feature = "gateway"))]
    pub(crate) const fn byte_count(&self) -> usize {
        self.bytes.len() - self.begin
    }

    /// How many there are.
    #[cfg(any(feature = "agent", feature = "gateway"))]
    pub(crate) const fn count(&self) -> usize {
        self.ends.len() - self.next
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEEP);
        self.ends.clear();
        self.ends.shrink_to(KEEP / 64);
        (self.next, self.begin) = (0, 0);
    }
}

/// A UDP session through a tunnel: datagrams to and from one host behind a peer, or one visitor.
///
/// Dropping it ends the session. It wakes tasks of whatever runtime it is used on.
#[derive(Debug)]
pub struct TunnelSession {
    shared: Arc<Shared>,
    local: SocketAddr,
    remote: SocketAddr,
    /// What was taken over from the engine and is yet to be read.
    taken: Queue,
}

/// Sends in a [`TunnelSession`] from elsewhere; does not keep it.
#[derive(Debug, Clone)]
#[cfg(feature = "gateway")]
pub(crate) struct SessionSender(Arc<Shared>);

impl TunnelSession {
    pub(crate) fn new(shared: Arc<Shared>, local: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            shared,
            local,
            remote,
            taken: Queue::default(),
        }
    }

    /// Our end.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The other end.
    #[must_use]
    pub const fn peer_addr(&self) -> SocketAddr {
        self.remote
    }

    /// Sends a datagram. It may be lost, as any may.
    ///
    /// # Errors
    /// `WouldBlock` when so many wait ([`QUEUE_DATAGRAMS`]) that this one is dropped; else why the session
    /// has ended.
    pub fn try_send(&self, data: &[u8]) -> io::Result<()> {
        send(&self.shared, [data]).map(|_| ())
    }

    /// Receives a datagram and returns its length; what of it does not fit into `buffer` is lost.
    ///
    /// # Errors
    /// Why the session has ended, when there is no further datagram.
    pub async fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_ready(cx)).await.map_err(ended)?;
        let Some(data) = self.taken.front() else {
            return Ok(0);
        };
        let length = data.len().min(buffer.len());
        buffer[..length].copy_from_slice(&data[..length]);
        self.taken.advance(1);
        Ok(length)
    }

    /// Sends datagrams; those for which there is no room are dropped and counted.
    #[cfg(any(feature = "agent", feature = "gateway"))]
    pub(crate) fn send_all<'a>(&self, datagrams: impl IntoIterator<Item = &'a [u8]>) {
        // When it has ended, its reader is told.
        let _ = send(&self.shared, datagrams);
    }

    /// Ends the session and tells the other end that nobody wants its datagrams (ICMP port unreachable).
    #[cfg(any(feature = "agent", feature = "gateway"))]
    pub(crate) fn refuse(&self) {
        self.shared.link.refuse();
    }

    /// How often the other end said that it does not want the datagrams (ICMP unreachable).
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.shared.refusals.load(Ordering::Relaxed)
    }

    /// How many datagrams were dropped, in either direction, because too many waited.
    #[must_use]
    pub fn shed(&self) -> u64 {
        self.shared.shed.load(Ordering::Relaxed)
    }

    /// The bytes that the engine has put on their way.
    #[cfg(feature = "gateway")]
    pub(crate) fn meter_sent(&self) -> u64 {
        self.shared.meter.get().map_or(0, |meter| meter.sent())
    }

    /// Waits until the other end has refused the datagrams more often than `known` times, or there are some.
    #[cfg(feature = "gateway")]
    pub(crate) fn poll_news(&mut self, cx: &Context<'_>, known: u64) -> Poll<Result<(), EndReason>> {
        match self.poll_ready(cx) {
            Poll::Pending if self.refusals() > known => Poll::Ready(Ok(())),
            other => other,
        }
    }

    /// Waits for datagrams; then [`queue`](Self::queue) has some.
    pub(crate) fn poll_ready(&mut self, cx: &Context<'_>) -> Poll<Result<(), EndReason>> {
        if !self.taken.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut state = self.shared.lock();
        if !state.received.is_empty() {
            std::mem::swap(&mut state.received, &mut self.taken);
            return Poll::Ready(Ok(()));
        }
        if let Some(end) = state.end {
            return Poll::Ready(Err(end));
        }
        match &mut state.reader {
            Some(waker) => waker.clone_from(cx.waker()),
            None => state.reader = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Sends what was received and not taken in another session; what there is no room for is dropped and
    /// counted there.
    #[cfg(feature = "gateway")]
    pub(crate) fn pass_on(&mut self, to: &Self) {
        to.send_all(self.taken.iter());
        self.taken.advance(self.taken.count());
    }

    /// The datagrams that were received and not taken.
    #[cfg(any(feature = "agent", feature = "gateway"))]
    pub(crate) const fn queue(&mut self) -> &mut Queue {
        &mut self.taken
    }

    #[cfg(feature = "gateway")]
    pub(crate) fn sender(&self) -> SessionSender {
        SessionSender(Arc::clone(&self.shared))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for TunnelSession {
    fn drop(&mut self) {
        self.shared.link.close();
    }
}

#[cfg(feature = "gateway")]
impl SessionSender {
    /// Sends datagrams; returns how many were dropped because too many waited.
    ///
    /// # Errors
    /// Why the session has ended.
    pub(crate) fn send<'a>(&self, datagrams: impl IntoIterator<Item = &'a [u8]>) -> io::Result<u64> {
        match send(&self.0, datagrams) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(1),
            other => other,
        }
    }
}

fn send<'a>(shared: &Shared, datagrams: impl IntoIterator<Item = &'a [u8]>) -> io::Result<u64> {
    let mut state = shared.lock();
    if let Some(end) = state.end {
        return Err(ended(end));
    }
    let (mut sent, mut shed) = (0_u64, 0_u64);
    for data in datagrams {
        if state.sent.push(data) {
            sent += 1;
        } else {
            shed += 1;
        }
    }
    drop(state);
    shared.count_shed(shed);
    if sent > 0 {
        shared.link.touch();
    } else if shed == 1 {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    Ok(shed)
}

/// What a session and the engine share. It is locked once per batch of datagrams.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) link: SessionLink,
    /// Who counts the bytes, once it is known.
    meter: OnceLock<Arc<Meter>>,
    refusals: AtomicU64,
    shed: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// From the peer, not yet taken.
    received: Queue,
    /// Toward the peer, not yet taken by the engine.
    sent: Queue,
    /// The session is no more.
    end: Option<EndReason>,
    reader: Option<Waker>,
    /// Bytes that came before it was known who counts them.
    uncounted: usize,
}

impl Shared {
    pub(crate) fn new(link: SessionLink) -> Self {
        Self {
            link,
            meter: OnceLock::new(),
            refusals: AtomicU64::new(0),
            shed: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// Hands datagrams to the reader, as many as `each` gives, and counts them. Returns how many were
    /// dropped.
    pub(crate) fn give<'a>(&self, mut each: impl FnMut() -> Option<&'a [u8]>) -> u64 {
        let mut state = self.lock();
        let (mut bytes, mut shed) = (0, 0);
        while let Some(data) = each() {
            bytes += data.len();
            if !state.received.push(data) {
                shed += 1;
            }
        }
        self.given(state, bytes, shed);
        shed
    }

    /// The same with all datagrams of a queue.
    #[cfg(any(feature = "agent", feature = "gateway"))]
    pub(crate) fn give_all(&self, queue: &mut Queue) -> u64 {
        let (bytes, mut shed) = (queue.byte_count(), 0);
        let mut state = self.lock();
        if state.received.is_empty() {
            std::mem::swap(&mut state.received, queue);
        }
        while let Some(data) = queue.front() {
            shed += u64::from(!state.received.push(data));
            queue.advance(1);
        }
        self.given(state, bytes, shed);
        shed
    }

    fn given(&self, mut state: MutexGuard<'_, State>, bytes: usize, shed: u64) {
        match self.meter.get() {
            Some(meter) => meter.add(0, bytes),
            None => state.uncounted += bytes,
        }
        self.count_shed(shed);
        Self::wake(state);
    }

    /// So many datagrams were dropped by who moves them.
    pub(crate) fn count_shed(&self, shed: u64) {
        if shed > 0 {
            self.shed.fetch_add(shed, Ordering::Relaxed);
        }
    }

    /// Says who counts the bytes; what came before is counted too. The first word counts.
    pub(crate) fn set_meter(&self, meter: Arc<Meter>) {
        let mut state = self.lock();
        meter.add(0, std::mem::take(&mut state.uncounted));
        let _ = self.meter.set(meter);
    }

    /// Who counts the bytes.
    pub(crate) fn meter(&self) -> Option<&Arc<Meter>> {
        self.meter.get()
    }

    /// Swaps what the user sent with an empty queue.
    pub(crate) fn take(&self, queue: &mut Queue) {
        debug_assert!(queue.is_empty());
        std::mem::swap(&mut self.lock().sent, queue);
    }

    /// The other end does not want the datagrams.
    pub(crate) fn refuse(&self) {
        // Before the lock, under which the reader says that it waits: it sees the number or is woken.
        self.refusals.fetch_add(1, Ordering::Relaxed);
        Self::wake(self.lock());
    }

    /// The session is no more.
    pub(crate) fn end(&self, reason: EndReason) {
        let mut state = self.lock();
        state.end = Some(reason);
        Self::wake(state);
    }

    fn wake(mut state: MutexGuard<'_, State>) {
        let reader = state.reader.take();
        // A waker may do anything, so it is called without the lock.
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under the lock panics half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ended(end: EndReason) -> io::Error {
    let kind = match end {
        EndReason::TimedOut => io::ErrorKind::TimedOut,
        EndReason::NotConnected(_) | EndReason::Refused(_) => io::ErrorKind::NotConnected,
        _ => io::ErrorKind::ConnectionAborted,
    };
    io::Error::new(kind, SessionEnded(end))
}

/// A session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the session is over: {0:?}")]
pub struct SessionEnded(pub EndReason);

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(queue: &mut Queue, most: usize, bytes: usize) -> Vec<(usize, usize)> {
        let mut runs = Vec::new();
        while let Some(run) = queue.run(most, bytes) {
            let count = run.count;
            runs.push((run.bytes.len(), count));
            queue.advance(count);
        }
        runs
    }

    #[test]
    fn datagrams_of_one_length_are_sent_together() {
        let mut queue = Queue::default();
        for length in [10, 10, 4, 10, 12, 12, 0, 0, 12] {
            assert!(queue.push(&vec![length as u8; length]));
        }
        assert_eq!(
            lengths(&mut queue, 64, 65_000),
            [(24, 3), (10, 1), (24, 2), (0, 1), (0, 1), (12, 1)]
        );
        assert!(queue.is_empty() && queue.run(64, 65_000).is_none());
        for _ in 0..5 {
            queue.push(&[0; 10]);
        }
        assert_eq!(lengths(&mut queue, 2, 65_000), [(20, 2), (20, 2), (10, 1)]);
        for _ in 0..3 {
            queue.push(&[0; 10]);
        }
        assert_eq!(lengths(&mut queue, 64, 25), [(20, 2), (10, 1)]);
    }

    /// Overload sheds load; it never grows memory.
    #[test]
    fn a_full_queue_drops_the_newest_and_gives_its_memory_back() {
        let mut queue = Queue::default();
        let kept = (0..2_000u32).filter(|n| queue.push(&n.to_be_bytes())).count();
        assert_eq!(kept, QUEUE_DATAGRAMS);
        assert_eq!(queue.front(), Some(&0u32.to_be_bytes()[..]));
        queue.advance(QUEUE_DATAGRAMS);
        assert!(queue.bytes.capacity() <= KEEP && queue.ends.capacity() <= KEEP / 64);
        let kept = (0..10).filter(|_| queue.push(&[0; 60_000])).count();
        assert_eq!(kept, QUEUE_BYTES / 60_000);
        assert!(queue.push(&[0; 1]));
    }
}
