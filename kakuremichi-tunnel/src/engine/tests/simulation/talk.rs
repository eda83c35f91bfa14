//! What uses UDP sessions: datagrams in both directions, each of which says which one it is.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::Future,
    io,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use crate::{
    engine::{ConnectError, IncomingSession, OpenSession, ShardSet},
    random::SplitMix64,
    session::TunnelSession,
};

/// What each datagram begins with: the number of the talk, its own number with the direction, and how many
/// datagrams get an answer.
const HEAD: usize = 24;
/// The longest one: it is fragmented.
const MOST: usize = 6_000;

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Talking {
    pub(super) number: u64,
    /// So many datagrams of the client's, one behind the other after each pause.
    pub(super) count: u64,
    pub(super) pause: Duration,
    /// One in so many gets an answer.
    pub(super) answers: u64,
    /// The client goes when it has said everything, and does not wait until the session has idled.
    pub(super) leaves: bool,
}

/// How an end of a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Not yet.
    Running,
    /// It was never opened.
    Refused(ConnectError),
    /// Nothing passed for long enough.
    Idle,
    /// Its user went.
    Left,
    /// Something else ended it.
    Broken(io::ErrorKind),
}

/// What both ends of all talks sent, and what arrived of it.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// By talk, and whether the client sent them.
    sent: BTreeMap<(u64, bool), u64>,
    arrived: BTreeSet<(u64, bool, u64)>,
}

impl Book {
    /// How many datagrams of a talk were sent, and arrived.
    pub(super) fn of(&self, number: u64, by_client: bool) -> (u64, u64) {
        let sent = self.sent.get(&(number, by_client)).copied().unwrap_or_default();
        let all = (number, by_client, 0)..=(number, by_client, u64::MAX);
        (sent, self.arrived.range(all).count() as u64)
    }
}

type Opening = Pin<Box<dyn Future<Output = Result<TunnelSession, ConnectError>>>>;

/// One end of a talk.
pub(super) struct Talk {
    book: Rc<RefCell<Book>>,
    /// The number, once it is known.
    number: Option<u64>,
    /// The client's.
    wanted: Option<Talking>,
    opening: Option<Opening>,
    session: Option<TunnelSession>,
    pub(super) ended: Ended,
    /// When it goes on sending.
    pub(super) next: Option<Instant>,
}

/// The preface of a talk, which names it.
pub(super) fn preface(number: u64) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\0\0\0\0".to_vec();
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes
}

/// A datagram, of a length that follows from what it is.
fn datagram(number: u64, by_client: bool, at: u64, answers: u64) -> Vec<u8> {
    let mut random = SplitMix64::new(number << 32 ^ at << 1 ^ u64::from(by_client));
    let long = random.next().is_multiple_of(16);
    let most = if long { MOST } else { 1_300 };
    let length = HEAD + random.next() as usize % (most - HEAD);
    let words = [number, at << 1 | u64::from(by_client), answers];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    while bytes.len() < length {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

impl Talk {
    /// Opens a session.
    pub(super) fn open(
        set: ShardSet,
        open: OpenSession,
        wanted: Talking,
        book: &Rc<RefCell<Book>>,
        now: Instant,
    ) -> Self {
        let opening: Opening = Box::pin(async move { set.open_session(open).await });
        Self {
            book: Rc::clone(book),
            number: Some(wanted.number),
            wanted: Some(wanted),
            opening: Some(opening),
            session: None,
            ended: Ended::Running,
            next: Some(now),
        }
    }

    /// Takes one.
    pub(super) fn accept(session: IncomingSession, book: &Rc<RefCell<Book>>) -> Self {
        let number = session.preface.last_chunk().copied().map(u64::from_le_bytes);
        Self {
            book: Rc::clone(book),
            number,
            wanted: None,
            opening: None,
            session: Some(session.accept(Arc::default())),
            ended: Ended::Running,
            next: None,
        }
    }

    pub(super) const fn number(&self) -> Option<u64> {
        self.number
    }

    pub(super) const fn is_client(&self) -> bool {
        self.wanted.is_some()
    }

    /// Does what can be done; returns whether anything was.
    pub(super) fn poll(&mut self, now: Instant) -> bool {
        if self.ended != Ended::Running {
            return false;
        }
        let mut cx = Context::from_waker(Waker::noop());
        if let Some(opening) = &mut self.opening {
            match opening.as_mut().poll(&mut cx) {
                Poll::Pending => return false,
                Poll::Ready(Ok(session)) => self.session = Some(session),
                Poll::Ready(Err(error)) => self.end(Ended::Refused(error)),
            }
            self.opening = None;
            return true;
        }
        let sent = self.speak(now);
        self.listen(&mut cx) | sent
    }

    fn end(&mut self, ended: Ended) {
        self.ended = ended;
        self.session = None;
        self.next = None;
    }

    /// The client says what is due.
    fn speak(&mut self, now: Instant) -> bool {
        let Some(wanted) = self.wanted.filter(|_| self.next.is_some_and(|next| next <= now)) else {
            return false;
        };
        let (said, _) = self.book.borrow().of(wanted.number, true);
        if said < wanted.count {
            self.next = Some(now + wanted.pause);
            self.say(wanted.number, true, wanted.answers);
        } else if wanted.leaves {
            self.end(Ended::Left);
        } else {
            self.next = None;
        }
        true
    }

    fn say(&self, number: u64, by_client: bool, answers: u64) {
        let Some(session) = &self.session else {
            return;
        };
        let mut book = self.book.borrow_mut();
        let said = book.sent.entry((number, by_client)).or_default();
        // Whether it was dropped, or the session has ended, is seen by what arrives.
        let _ = session.try_send(&datagram(number, by_client, *said, answers));
        *said += 1;
    }

    fn listen(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Some(session) = &mut self.session {
            let mut storage = [0; MOST + 1];
            let received = pin!(session.recv(&mut storage)).poll(cx);
            match received {
                Poll::Pending => return moved,
                Poll::Ready(Ok(length)) => self.hear(&storage[..length]),
                Poll::Ready(Err(error)) => self.end(match error.kind() {
                    io::ErrorKind::TimedOut => Ended::Idle,
                    kind => Ended::Broken(kind),
                }),
            }
            moved = true;
        }
        moved
    }

    /// Checks what came: that it is whole, is of this talk and of the other end, was sent, and came once. What
    /// the network repeats is found out by WireGuard.
    fn hear(&mut self, data: &[u8]) {
        let (words, _) = data.as_chunks::<8>();
        let words: Vec<u64> = words.iter().take(3).copied().map(u64::from_le_bytes).collect();
        let [number, which, answers] = words[..] else {
            panic!("{self:?}: a datagram of {} bytes", data.len());
        };
        let (by_client, at) = (which & 1 == 1, which >> 1);
        assert!(
            data == datagram(number, by_client, at, answers),
            "{self:?}: not whole"
        );
        let own = *self.number.get_or_insert(number);
        assert_eq!(own, number, "{self:?}: another's");
        assert_eq!(by_client, self.wanted.is_none(), "{self:?}: its own");
        let (sent, _) = self.book.borrow().of(number, by_client);
        assert!(at < sent, "{self:?}: {at} was never sent");
        let is_new = self.book.borrow_mut().arrived.insert((number, by_client, at));
        assert!(is_new, "{self:?}: {at} came twice");
        if by_client && at % answers == 0 {
            self.say(number, false, answers);
        }
    }
}

impl fmt::Debug for Talk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Talk")
            .field("number", &self.number)
            .field("is_client", &self.wanted.is_some())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
