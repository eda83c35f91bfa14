//! A node as Control sees it: the protocol's client session over a connection, and no data path.

use std::{
    future::pending,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use kakuremichi_core::{
    backoff::Backoff,
    id::NodeId,
    key::{IdentityKey, WireGuardKey},
    model::Role,
    time::Timestamp,
};
use kakuremichi_proto::{
    capability::Capabilities,
    identity::{Signature, Signer, TokenText, Verifier},
    report::{GatewayInfo, LaneEnd, LaneKind, LaneState, LaneStatus, NodeInfo, Status},
    session::{Client, ClientConfig, ClientEvent, Credential, UsageQueue},
};
use ring::{
    rand::{SecureRandom as _, SystemRandom},
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use tokio::{
    sync::watch,
    time::{interval, sleep, sleep_until},
};
use tokio_tungstenite::tungstenite::Message;

use crate::link::{Dialler, Socket, source};

/// The pauses before a node comes again, as real ones make them.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A session that lasted so long makes the next pause short again.
const STABLE: Duration = Duration::from_secs(10);
/// A connection must be there within this time.
const CONNECT: Duration = Duration::from_secs(15);
/// How often a gateway says how its lanes do, as real ones do at most.
const REPORT: Duration = Duration::from_secs(1);

/// What the nodes of a process share.
pub(crate) struct Shared {
    pub(crate) dialler: Dialler,
    /// Nodes that were let in.
    pub(crate) online: AtomicUsize,
    /// Nodes that have a plan which they acknowledged.
    pub(crate) planned: AtomicUsize,
    /// Connections that were tried.
    pub(crate) attempts: AtomicUsize,
    /// Turns when all are to drop their connections.
    pub(crate) cut: watch::Receiver<u64>,
}

/// What is known of one node while it lives.
pub(crate) struct Seen {
    pub(crate) id: OnceLock<NodeId>,
    /// The plans that it acknowledged.
    pub(crate) plans: watch::Sender<u64>,
}

impl Seen {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            id: OnceLock::new(),
            plans: watch::Sender::new(0),
        })
    }
}

/// The lanes that a gateway tells of.
pub(crate) type Lanes = Arc<Vec<NodeId>>;

/// A node.
pub(crate) struct Node {
    number: u32,
    role: Role,
    client: Client,
    shared: Arc<Shared>,
    seen: Arc<Seen>,
    cut: watch::Receiver<u64>,
    lanes: watch::Receiver<Lanes>,
    reports: u32,
}

impl Node {
    /// A node that enrols when it comes for the first time. The number tells it from all others.
    pub(crate) fn new(
        number: u32,
        role: Role,
        token: &TokenText,
        shared: &Arc<Shared>,
        seen: Arc<Seen>,
        lanes: watch::Receiver<Lanes>,
    ) -> Result<Self, BadNode> {
        let kind = if role == Role::Gateway { "gateway" } else { "agent" };
        let config = ClientConfig {
            url: shared.dialler.url().parse().map_err(|_| BadNode)?,
            control: token.control(),
            role,
            credential: Credential::Enrol {
                secret: token.secret().clone(),
                name: format!("{kind}-{number}").parse().map_err(|_| BadNode)?,
            },
            wireguard: WireGuardKey::from_bytes(random()?),
            capabilities: Capabilities::SUPPORTED,
            signer: Arc::new(Keys::new()?),
            verifier: Arc::new(Ring),
        };
        let usage = UsageQueue::new(u64::from_be_bytes(random()?));
        let mut client = Client::new(config, usage, Instant::now());
        client.set_info(NodeInfo {
            software: "fleet".to_owned(),
            gateway: (role == Role::Gateway).then(|| GatewayInfo {
                endpoints: format!("gw-{number}.example.net:51820")
                    .parse()
                    .into_iter()
                    .collect(),
                https_port: 443,
            }),
        });
        Ok(Self {
            number,
            role,
            client,
            cut: shared.cut.clone(),
            shared: Arc::clone(shared),
            seen,
            lanes,
            reports: 0,
        })
    }

    /// Lives for ever.
    pub(crate) async fn live(mut self) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            self.shared.attempts.fetch_add(1, Ordering::Relaxed);
            let connecting = self.shared.dialler.socket(source(self.number));
            let begun = Instant::now();
            let mut pause = None;
            if let Ok(Ok(socket)) = tokio::time::timeout(CONNECT, connecting).await {
                let before = Instant::now();
                pause = self.session(socket).await;
                if before.elapsed() >= STABLE {
                    backoff.reset();
                }
            }
            let random = u32::from_be_bytes(random().unwrap_or_default());
            let pause = backoff.next(random).max(pause.unwrap_or_default());
            sleep_until((begun + pause).max(Instant::now() + FIRST_PAUSE / 2).into()).await;
        }
    }

    /// One session, from the connection to its end. Returns how long Control asked to wait.
    async fn session(&mut self, socket: Socket) -> Option<Duration> {
        let (mut sink, mut stream) = socket.split();
        self.cut.mark_unchanged();
        self.client.connect(random().unwrap_or_default(), Instant::now());
        let mut standing = Standing::new(Arc::clone(&self.shared));
        let mut report = interval(REPORT);
        let gateway = self.role == Role::Gateway;
        loop {
            let mut acknowledged = 0;
            while let Some(event) = self.client.poll_event() {
                match event {
                    ClientEvent::Connected(membership) => {
                        let _ = self.seen.id.set(membership.node);
                        standing.online();
                    }
                    ClientEvent::Plan(plan) => {
                        self.client.applied(&plan, &[], Instant::now());
                        acknowledged += 1;
                    }
                    ClientEvent::Closed(closed) => {
                        self.client.handle_disconnect(Instant::now());
                        return match closed {
                            kakuremichi_proto::session::Closed::Remote(reason) => reason.retry_after,
                            _ => None,
                        };
                    }
                    _ => {}
                }
            }
            let mut failed = false;
            while let Some(frame) = self.client.poll_transmit() {
                failed |= sink.feed(Message::Binary(frame.into())).await.is_err();
            }
            failed |= sink.flush().await.is_err();
            if failed {
                self.client.handle_disconnect(Instant::now());
                continue;
            }
            if acknowledged > 0 {
                standing.planned();
                self.seen.plans.send_modify(|plans| *plans += acknowledged);
            }
            let deadline = self.client.poll_timeout().map(|(at, _)| at);
            tokio::select! {
                message = stream.next() => match message {
                    Some(Ok(Message::Binary(frame))) => self.client.handle_frame(&frame, Instant::now()),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => self.client.handle_disconnect(Instant::now()),
                },
                () = at(deadline) => self.client.handle_timeout(Instant::now()),
                Ok(()) = self.cut.changed() => {
                    self.client.handle_disconnect(Instant::now());
                    while self.client.poll_event().is_some() {}
                    return None;
                }
                _ = report.tick(), if gateway => self.report(),
            }
        }
    }

    /// Says how the lanes do: all are up, and what a probe takes differs a little each time.
    fn report(&mut self) {
        self.reports += 1;
        let lanes = Arc::clone(&self.lanes.borrow());
        let since = Timestamp::from_millis(1_700_000_000_000);
        let lane = |(at, node): (usize, &NodeId)| {
            let NodeId::Agent(agent) = *node else { return None };
            let turn = self.reports.wrapping_add(at as u32);
            Some(LaneStatus {
                end: LaneEnd::Agent(agent),
                kind: LaneKind::WireGuard,
                state: LaneState::Up,
                rtt: Some(Duration::from_micros(20_000 + u64::from(turn % 10) * 100)),
                since,
                error: None,
            })
        };
        self.client.set_status(Status {
            certificates: Vec::new(),
            draining: false,
            lanes: lanes.iter().enumerate().filter_map(lane).collect(),
            targets: Vec::new(),
        });
    }
}

/// Where a session stands in the counts; taken back when dropped.
struct Standing {
    shared: Arc<Shared>,
    online: bool,
    planned: bool,
}

impl Standing {
    const fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            online: false,
            planned: false,
        }
    }

    fn online(&mut self) {
        self.online = true;
        self.shared.online.fetch_add(1, Ordering::Relaxed);
    }

    fn planned(&mut self) {
        if !std::mem::replace(&mut self.planned, true) {
            self.shared.planned.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.shared
            .online
            .fetch_sub(usize::from(self.online), Ordering::Relaxed);
        self.shared
            .planned
            .fetch_sub(usize::from(self.planned), Ordering::Relaxed);
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => pending().await,
    }
}

/// A node cannot be made: the system has no random numbers, or Control's URL is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadNode;

struct Keys(Ed25519KeyPair);

impl Keys {
    fn new() -> Result<Self, BadNode> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| BadNode)?;
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).map_err(|_| BadNode)?;
        Ok(Self(pair))
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl Signer for Keys {
    fn public_key(&self) -> IdentityKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.public_key().as_ref());
        IdentityKey::from_bytes(key)
    }

    fn sign(&self, message: &[u8]) -> Signature {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.0.sign(message).as_ref());
        Signature(signature)
    }
}

#[derive(Debug)]
struct Ring;

impl Verifier for Ring {
    fn verify(&self, key: &IdentityKey, message: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, key.as_bytes())
            .verify(message, &signature.0)
            .is_ok()
    }
}

fn random<const N: usize>() -> Result<[u8; N], BadNode>
where
    [u8; N]: Sized,
{
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| BadNode)?;
    Ok(bytes)
}

/// Lets so many nodes come at once when they are new: a fleet is not rolled out in one instant.
pub(crate) async fn stagger(place: u32, per_second: f64) {
    sleep(Duration::from_secs_f64(f64::from(place) / per_second)).await;
}
