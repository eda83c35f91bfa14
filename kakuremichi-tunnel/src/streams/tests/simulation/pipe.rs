//! Streams of bytes that behave as badly as those of any network.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::random::SplitMix64;

/// How a pipe carries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conditions {
    pub(super) delay: Duration,
    /// What is on its way and not read, each way.
    pub(super) room: usize,
    /// The most that one call reads or writes.
    pub(super) piece: usize,
}

/// How a pipe breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Break {
    /// Both ends learn at once, and what was under way is lost.
    Reset,
    /// What was sent arrives, and then the end.
    End,
    /// Nothing arrives any more, and nobody is told.
    Silence,
}

/// All pipes.
#[derive(Debug, Clone, Default)]
pub(super) struct Net(Arc<Pipes>);

#[derive(Debug, Default)]
struct Pipes {
    pipes: Mutex<Vec<Weak<Mutex<Pipe>>>>,
    /// How often something happened.
    moved: AtomicU64,
    /// What, and in which order.
    trace: AtomicU64,
}

#[derive(Debug)]
struct Pipe {
    conditions: Conditions,
    random: SplitMix64,
    ways: [Way; 2],
    /// Nothing that is sent arrives before.
    stalled: Option<Instant>,
    /// It breaks behind so many bytes.
    breaks: Option<(u64, Break)>,
    broken: Option<Break>,
}

/// One direction.
#[derive(Debug, Default)]
struct Way {
    /// By the time when they arrive; an empty one is the end.
    flying: VecDeque<(Instant, Vec<u8>)>,
    arrived: VecDeque<u8>,
    /// Who writes has ended it, and who reads knows.
    ended: (bool, bool),
    /// Nobody reads any more.
    deaf: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// One end of a pipe.
#[derive(Debug)]
pub(super) struct End {
    net: Net,
    pipe: Arc<Mutex<Pipe>>,
    side: usize,
}

impl Net {
    pub(super) fn pipe(&self, conditions: Conditions, seed: u64) -> (End, End) {
        let pipe = Arc::new(Mutex::new(Pipe {
            conditions,
            random: SplitMix64::new(seed),
            ways: Default::default(),
            stalled: None,
            breaks: None,
            broken: None,
        }));
        let mut pipes = self.0.pipes.lock().unwrap();
        pipes.retain(|pipe| pipe.strong_count() > 0);
        pipes.push(Arc::downgrade(&pipe));
        let end = |side| End {
            net: self.clone(),
            pipe: Arc::clone(&pipe),
            side,
        };
        (end(0), end(1))
    }

    /// How many pipes somebody has an end of.
    pub(super) fn alive(&self) -> usize {
        self.all().len()
    }

    pub(super) fn moved(&self) -> u64 {
        self.0.moved.load(Ordering::Relaxed)
    }

    /// Of everything that happened: the same in two runs of one seed.
    pub(super) fn trace(&self) -> u64 {
        self.0.trace.load(Ordering::Relaxed)
    }

    /// When something arrives next.
    pub(super) fn next(&self) -> Option<Instant> {
        let first = |pipe: Arc<Mutex<Pipe>>| {
            let pipe = pipe.lock().unwrap();
            let ways = pipe.ways.iter();
            ways.filter_map(|way| Some(way.flying.front()?.0)).min()
        };
        self.all().into_iter().filter_map(first).min()
    }

    /// Gives what has arrived by now to those who wait for it.
    pub(super) fn arrive(&self, now: Instant) {
        for pipe in self.all() {
            let mut pipe = pipe.lock().unwrap();
            for way in &mut pipe.ways {
                let due = way.flying.iter().take_while(|(at, _)| *at <= now).count();
                for (_, bytes) in way.flying.drain(..due) {
                    way.ended.1 |= bytes.is_empty();
                    way.arrived.extend(bytes);
                }
                if due > 0 {
                    self.happened(&[due as u64]);
                    wake(&mut way.reader);
                }
            }
        }
    }

    fn all(&self) -> Vec<Arc<Mutex<Pipe>>> {
        let pipes = self.0.pipes.lock().unwrap();
        pipes.iter().filter_map(Weak::upgrade).collect()
    }

    fn happened(&self, what: &[u64]) {
        self.0.moved.fetch_add(1, Ordering::Relaxed);
        for word in what {
            let mixed = SplitMix64::new(self.trace() ^ word).next();
            self.0.trace.store(mixed, Ordering::Relaxed);
        }
    }
}

/// Does something to a pipe from outside.
#[derive(Debug, Clone)]
pub(super) struct Handle(Net, Weak<Mutex<Pipe>>);

impl Handle {
    pub(super) fn break_now(&self, how: Break) {
        if let Some(pipe) = self.1.upgrade() {
            pipe.lock().unwrap().break_now(how);
            self.0.happened(&[1]);
        }
    }

    pub(super) fn break_behind(&self, bytes: u64, how: Break) {
        if let Some(pipe) = self.1.upgrade() {
            pipe.lock().unwrap().breaks = Some((bytes, how));
        }
    }

    /// It does not break after all.
    pub(super) fn spare(&self) {
        if let Some(pipe) = self.1.upgrade() {
            pipe.lock().unwrap().breaks = None;
        }
    }

    /// Nothing arrives for so long.
    pub(super) fn stall_for(&self, time: Duration) {
        if let Some(pipe) = self.1.upgrade() {
            pipe.lock().unwrap().stalled = Some(now() + time);
        }
    }

    /// Whether somebody has an end of it.
    pub(super) fn is_there(&self) -> bool {
        self.1.strong_count() > 0
    }

    /// Whether nothing passes, and nobody knows.
    pub(super) fn is_silent(&self) -> bool {
        let pipe = self.1.upgrade();
        pipe.is_some_and(|pipe| pipe.lock().unwrap().broken == Some(Break::Silence))
    }
}

impl Pipe {
    fn break_now(&mut self, how: Break) {
        match self.broken {
            Some(Break::Reset) => return,
            // Nothing arrives any more, so no end does either.
            Some(Break::Silence) if how != Break::Reset => return,
            _ => {}
        }
        self.broken = Some(how);
        for way in &mut self.ways {
            match how {
                Break::Reset => {
                    way.flying.clear();
                    way.arrived.clear();
                }
                Break::End => way.end(),
                Break::Silence => way.flying.clear(),
            }
            if how != Break::Silence {
                wake(&mut way.reader);
                wake(&mut way.writer);
            }
        }
    }

    /// One call in eight has to come again.
    fn hesitates(&mut self, cx: &Context<'_>) -> bool {
        let hesitates = self.random.next().is_multiple_of(8);
        if hesitates {
            cx.waker().wake_by_ref();
        }
        hesitates
    }

    fn piece(&mut self, most: usize) -> usize {
        let most = most.min(self.conditions.piece);
        // Mostly all there is, so that it comes to an end.
        if self.random.next().is_multiple_of(4) {
            1 + (self.random.next() % most as u64) as usize
        } else {
            most
        }
    }
}

impl Way {
    fn waiting(&self) -> usize {
        self.arrived.len() + self.flying.iter().map(|(_, bytes)| bytes.len()).sum::<usize>()
    }

    /// Nothing comes behind what is on its way.
    fn end(&mut self) {
        if !std::mem::replace(&mut self.ended.0, true) {
            match self.flying.back() {
                Some(&(at, _)) => self.flying.push_back((at, Vec::new())),
                None => self.ended.1 = true,
            }
            wake(&mut self.reader);
        }
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

#[expect(clippy::disallowed_methods, reason = "the clock of the simulation")]
fn now() -> Instant {
    Instant::now()
}

impl End {
    pub(super) fn handle(&self) -> Handle {
        Handle(self.net.clone(), Arc::downgrade(&self.pipe))
    }

    fn lock(&self) -> MutexGuard<'_, Pipe> {
        self.pipe.lock().unwrap()
    }
}

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.lock();
        if pipe.broken == Some(Break::Reset) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let way = &mut pipe.ways[1 - self.side];
        let ready = way.arrived.len().min(out.remaining());
        if ready == 0 {
            if way.ended.1 && way.arrived.is_empty() {
                return Poll::Ready(Ok(()));
            }
            way.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if pipe.hesitates(cx) {
            return Poll::Pending;
        }
        let piece = pipe.piece(ready);
        let way = &mut pipe.ways[1 - self.side];
        let bytes: Vec<u8> = way.arrived.drain(..piece).collect();
        out.put_slice(&bytes);
        wake(&mut way.writer);
        self.net.happened(&[self.side as u64, piece as u64]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut pipe = self.lock();
        let room = pipe.conditions.room;
        let (broken, delay) = (pipe.broken, pipe.conditions.delay);
        let way = &mut pipe.ways[self.side];
        let gone = way.ended.0 || way.deaf || matches!(broken, Some(Break::Reset | Break::End));
        if gone {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = room.saturating_sub(way.waiting()).min(data.len());
        if room == 0 && !data.is_empty() {
            way.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if pipe.hesitates(cx) {
            return Poll::Pending;
        }
        let mut piece = pipe.piece(room);
        let mut breaks = None;
        if let Some((left, how)) = &mut pipe.breaks {
            piece = piece.min(usize::try_from(*left).unwrap_or(usize::MAX).max(1));
            *left = left.saturating_sub(piece as u64);
            breaks = (*left == 0).then_some(*how);
        }
        let earliest = pipe.stalled.unwrap_or_else(now);
        let way = &mut pipe.ways[self.side];
        let last = way.flying.back().map_or(earliest, |(at, _)| *at);
        let at = (now() + delay).max(last).max(earliest);
        // In silence it is as if the system still took some.
        let at = if broken.is_some() {
            at + Duration::from_secs(1 << 32)
        } else {
            at
        };
        way.flying.push_back((at, data[..piece].to_vec()));
        if let Some(how) = breaks {
            pipe.breaks = None;
            pipe.break_now(how);
        }
        self.net.happened(&[2 + self.side as u64, piece as u64]);
        Poll::Ready(Ok(piece))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.lock();
        if pipe.broken != Some(Break::Silence) {
            pipe.ways[self.side].end();
            self.net.happened(&[4]);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    /// As the system does it: what was sent still arrives.
    fn drop(&mut self) {
        let mut pipe = self.lock();
        if pipe.broken != Some(Break::Silence) {
            pipe.ways[self.side].end();
            let back = &mut pipe.ways[1 - self.side];
            back.deaf = true;
            wake(&mut back.writer);
        }
        drop(pipe);
        self.net.happened(&[5]);
    }
}
