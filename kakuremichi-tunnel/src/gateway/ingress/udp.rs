//! UDP services: ports that open and close with the plan, and the visitors' sessions at them.
//!
//! UDP has no connections, so the gateway makes sessions: what one visitor's address and port sends to one
//! port of ours, for as long as datagrams pass in either direction. A session is decided about when it
//! begins, and again with each plan. Its first datagrams wait until then, within bounds.

#![expect(
    clippy::disallowed_methods,
    reason = "each port and session has a task, which its owner ends"
)]

mod admission;
mod session;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use kakuremichi_core::{model::Transport, plan::PlannedTarget};
use rustc_hash::FxHashMap;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, sleep},
};

pub(crate) use admission::SessionAdmissions;

use self::session::Begun;
use super::{BindError, bind_udp, tcp::PortStatus};
use crate::{
    datagram::{Buffers, DatagramSocket},
    gateway::{
        drain::Drain,
        serving::Serving,
        table::RouteTable,
        upstream::{SessionWay, Upstream},
        usage::ServiceUsage,
    },
    session::{Queue, SessionSender},
};

/// When the system fails to receive, it is asked again after so long.
const PAUSE: Duration = Duration::from_millis(100);
/// How often it is asked whether the sessions of a port are still where they are served.
const LOOK: Duration = Duration::from_secs(2);

/// The ports of UDP services.
#[derive(Debug)]
pub(crate) struct UdpPorts<U> {
    serving: Rc<Serving<U>>,
    admissions: Rc<SessionAdmissions>,
    drain: Drain,
    address: IpAddr,
    buffers: Rc<RefCell<Buffers>>,
    ports: BTreeMap<u16, Port>,
    listeners: JoinSet<()>,
}

/// A port of the plan.
#[derive(Debug)]
enum Port {
    /// Datagrams are received at it, until this is dropped.
    Open {
        /// Tells the listener and its sessions.
        _close: watch::Sender<()>,
    },
    /// It could not be opened, and will be tried again.
    Failed(Arc<BindError>),
}

impl<U: Upstream> UdpPorts<U> {
    /// Opens ports on `address`.
    pub(crate) fn new(serving: Rc<Serving<U>>, drain: Drain, address: IpAddr) -> Self {
        let admissions = SessionAdmissions::new(&serving.limits, Arc::clone(&serving.counters));
        Self {
            serving,
            admissions: Rc::new(admissions),
            drain,
            address,
            buffers: Rc::new(RefCell::new(Buffers::new())),
            ports: BTreeMap::new(),
            listeners: JoinSet::new(),
        }
    }

    /// Opens the ports that the table has and that are not open, closes those that it no longer has, and
    /// ends the sessions at them.
    pub(crate) fn reconcile(&mut self, table: &RouteTable) {
        while self.listeners.try_join_next().is_some() {}
        self.ports
            .retain(|port, _| table.port(Transport::Udp, *port).is_some());
        if self.drain.has_begun() {
            return;
        }
        for port in table.ports(Transport::Udp) {
            if matches!(self.ports.get(&port), Some(Port::Open { .. })) {
                continue;
            }
            let opened = self.open(port);
            let state = opened.unwrap_or_else(|error| {
                if !matches!(self.ports.get(&port), Some(Port::Failed(_))) {
                    tracing::warn!(port, transport = "udp", error = %error.source, "cannot open the port of a service");
                }
                Port::Failed(Arc::new(error))
            });
            self.ports.insert(port, state);
        }
    }

    /// Whether a port waits to be tried again.
    pub(crate) fn has_failed(&self) -> bool {
        self.ports.values().any(|port| matches!(port, Port::Failed(_)))
    }

    /// How the ports are, ascending.
    pub(crate) fn status(&self) -> Vec<PortStatus> {
        let status = |(port, state): (&u16, &Port)| PortStatus {
            transport: Transport::Udp,
            port: *port,
            error: match state {
                Port::Open { .. } => None,
                Port::Failed(error) => Some(Arc::clone(error)),
            },
        };
        self.ports.iter().map(status).collect()
    }

    /// Closes all ports and ends all sessions. There is nothing to wait for: a session has no end that its
    /// visitor would tell.
    pub(crate) async fn close(&mut self) {
        self.ports.clear();
        while self.listeners.join_next().await.is_some() {}
    }

    fn open(&mut self, port: u16) -> Result<Port, BindError> {
        let address = SocketAddr::new(self.address, port);
        let (socket, local) = bind_udp(address)?;
        let socket = DatagramSocket::new(socket).map_err(|source| BindError { address, source })?;
        let (close, closed) = watch::channel(());
        let listener = Rc::new(Listener {
            serving: Rc::clone(&self.serving),
            admissions: Rc::clone(&self.admissions),
            drain: self.drain.clone(),
            closed,
            socket,
            local,
            buffers: Rc::clone(&self.buffers),
            sessions: RefCell::default(),
        });
        self.listeners.spawn_local(listen(listener));
        tracing::info!(port, transport = "udp", "the port of a service is open");
        Ok(Port::Open { _close: close })
    }
}

/// Who a session is with: the visitor, and the address of ours that it speaks to.
type Ends = (SocketAddr, Option<IpAddr>);

/// A port that is open.
struct Listener<U> {
    serving: Rc<Serving<U>>,
    admissions: Rc<SessionAdmissions>,
    drain: Drain,
    closed: watch::Receiver<()>,
    socket: DatagramSocket,
    local: SocketAddr,
    /// Shared by all ports: each is read from at once.
    buffers: Rc<RefCell<Buffers>>,
    /// The sessions, bounded by [`SessionAdmissions`].
    sessions: RefCell<FxHashMap<Ends, Rc<Entry>>>,
}

/// A session, as the listener finds it.
struct Entry {
    state: RefCell<State>,
    usage: Arc<ServiceUsage>,
    /// Is told when the session is to begin anew, on another lane.
    moves: Notify,
}

enum State {
    /// It is being decided about, or its target is being chosen.
    Deciding(Queue),
    /// Datagrams go this way.
    Open(SessionSender, Arc<PlannedTarget>, SessionWay),
    /// It was denied by this table.
    Denied(Arc<RouteTable>),
    /// It is over.
    Over,
}

/// Receives until the port is closed.
async fn listen<U: Upstream>(listener: Rc<Listener<U>>) {
    let mut sessions = JoinSet::new();
    let mut closed = listener.closed.clone();
    let mut look = pin!(sleep(LOOK));
    loop {
        tokio::select! {
            readable = listener.socket.readable() => {
                if let Err(error) = readable.and_then(|()| listener.receive(&mut sessions)) {
                    tracing::debug!(port = listener.local.port(), %error, "datagrams cannot be received");
                    sleep(PAUSE).await;
                }
            }
            Some(_) = sessions.join_next(), if !sessions.is_empty() => {}
            () = &mut look => {
                listener.look();
                look.as_mut().reset(Instant::now() + LOOK);
            }
            _ = closed.changed() => break,
        }
    }
    while sessions.join_next().await.is_some() {}
}

impl<U: Upstream> Listener<U> {
    /// Receives one batch.
    fn receive(self: &Rc<Self>, tasks: &mut JoinSet<()>) -> io::Result<()> {
        let mut buffers = self.buffers.borrow_mut();
        match self.socket.try_recv(&mut buffers) {
            Ok(()) => self.take(&buffers, tasks),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Hands datagrams to their sessions, new ones included.
    fn take(self: &Rc<Self>, buffers: &Buffers, tasks: &mut JoinSet<()>) {
        for (visitor, local, datagrams) in buffers.received() {
            let ends = (visitor, local);
            let known = self.sessions.borrow().get(&ends).map(Rc::clone);
            let entry = known
                .filter(|entry| !self.is_outdated(entry))
                .or_else(|| self.begin(ends, tasks));
            if let Some(entry) = entry {
                self.push(&entry, datagrams);
            }
        }
    }

    /// Whether the next datagram begins another session: a plan came since this one was denied.
    fn is_outdated(&self, entry: &Entry) -> bool {
        match &*entry.state.borrow() {
            State::Denied(table) => !Arc::ptr_eq(table, &self.serving.table.load()),
            State::Deciding(_) | State::Open(..) | State::Over => false,
        }
    }

    /// Tells the sessions whose lane carries no more, where another one does.
    #[expect(clippy::iter_over_hash_type, reason = "each is told by itself, in any order")]
    fn look(&self) {
        for entry in self.sessions.borrow().values() {
            if let State::Open(_, target, way) = &*entry.state.borrow()
                && !self.serving.upstream.stays(target, *way)
            {
                entry.moves.notify_one();
            }
        }
    }

    fn begin(self: &Rc<Self>, ends: Ends, tasks: &mut JoinSet<()>) -> Option<Rc<Entry>> {
        if self.drain.has_begun() || ends.0.port() == 0 {
            return None;
        }
        let table = self.serving.table.load_full();
        let service = Arc::clone(table.port(Transport::Udp, self.local.port())?);
        let at_service = self.sessions.borrow().len();
        let place = self.admissions.admit(ends.0.ip(), at_service)?;
        let entry = Rc::new(Entry {
            state: RefCell::new(State::Deciding(Queue::default())),
            usage: self.serving.usage.of(service.id),
            moves: Notify::new(),
        });
        self.sessions.borrow_mut().insert(ends, Rc::clone(&entry));
        let begun = Begun {
            listener: Rc::clone(self),
            table,
            service,
            ends,
            entry: Rc::clone(&entry),
            _place: place,
        };
        tasks.spawn_local(begun.run());
        Some(entry)
    }

    fn push<'a>(&self, entry: &Entry, datagrams: impl Iterator<Item = &'a [u8]> + Clone) {
        let counters = &self.serving.counters;
        let bytes: usize = datagrams.clone().map(<[u8]>::len).sum();
        let shed = match &mut *entry.state.borrow_mut() {
            State::Deciding(queue) => datagrams.filter(|data| !queue.push(data)).count() as u64,
            State::Open(sender, ..) => match sender.send(datagrams) {
                Ok(shed) => shed,
                // Its task is about to notice.
                Err(_) => return,
            },
            State::Denied(_) | State::Over => return,
        };
        entry.usage.add_in(bytes as u64);
        counters.bytes_in.add(bytes as u64);
        counters.udp_shed.add(shed);
    }

    fn forget(&self, ends: &Ends, entry: &Rc<Entry>) {
        let mut sessions = self.sessions.borrow_mut();
        if sessions.get(ends).is_some_and(|known| Rc::ptr_eq(known, entry)) {
            sessions.remove(ends);
        }
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").finish_non_exhaustive()
    }
}
