//! A node: the protocol's client session over a WebSocket, and no data path.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use kakuremichi_core::{
    code::Code,
    id::{AgentId, NodeId},
    key::{IdentityKey, WireGuardKey},
    model::Role,
    plan::{AgentPlan, AgentRecord, GatewayPlan, GatewayRecord},
};
use kakuremichi_proto::{
    capability::Capabilities,
    frame::{self, Incoming, Message},
    identity::{Signature, Signer, TokenText, Verifier},
    message::{self, PlanKind},
    plan::WirePlan,
    session::{
        Client, ClientConfig, ClientEvent, ClientState, Closed, Credential, Membership, Reason, UsageQueue,
    },
    version::{LINK_PATH, SUBPROTOCOL},
};
use ring::{
    rand::{SecureRandom, SystemRandom},
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use tokio::{
    net::TcpStream,
    time::{sleep_until, timeout},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{self, ClientRequestBuilder},
};

use super::world::{LIMIT, PUBLIC_URL, World};

pub(crate) type WebSocket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Who a node is.
pub(crate) struct Keys(Ed25519KeyPair);

impl Keys {
    pub(crate) fn new() -> Arc<Self> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Arc::new(Self(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap()))
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl Signer for Keys {
    fn public_key(&self) -> IdentityKey {
        IdentityKey::from_bytes(self.0.public_key().as_ref().try_into().unwrap())
    }

    fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).as_ref().try_into().unwrap())
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

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).unwrap();
    bytes
}

/// Opens a WebSocket to a Control as a node does.
pub(crate) async fn dial(world: &World) -> Result<WebSocket, tungstenite::Error> {
    let uri = format!("ws://{}{LINK_PATH}", world.address).parse().unwrap();
    let request = ClientRequestBuilder::new(uri).with_sub_protocol(SUBPROTOCOL);
    let (socket, _) = timeout(LIMIT, connect_async(request)).await.unwrap()?;
    Ok(socket)
}

/// A node.
pub(crate) struct Node {
    pub(crate) client: Client,
    pub(crate) config: ClientConfig,
    pub(crate) socket: Option<WebSocket>,
    /// How each plan came that came since the connection was made.
    pub(crate) plans: Vec<PlanKind>,
}

impl Node {
    /// A node that is about to enrol.
    pub(crate) fn new(world: &World, role: Role, name: &str, token: &TokenText) -> Self {
        Self::with(ClientConfig {
            url: PUBLIC_URL.parse().unwrap(),
            control: world.identity(),
            role,
            credential: Credential::Enrol {
                secret: token.secret().clone(),
                name: name.parse().unwrap(),
            },
            wireguard: WireGuardKey::from_bytes(random()),
            capabilities: Capabilities::SUPPORTED,
            signer: Keys::new(),
            verifier: Arc::new(Ring),
        })
    }

    pub(crate) fn with(config: ClientConfig) -> Self {
        let usage = UsageQueue::new(u64::from_be_bytes(random()));
        Self {
            client: Client::new(config.clone(), usage, Instant::now()),
            config,
            socket: None,
            plans: Vec::new(),
        }
    }

    /// Another process of the same node, which knows nothing but who it is.
    pub(crate) fn twin(&self) -> Self {
        Self::with(ClientConfig {
            credential: Credential::Known(self.id()),
            ..self.config.clone()
        })
    }

    /// A node that enrolled and has its plan.
    pub(crate) async fn enrolled(world: &World, role: Role, name: &str) -> Self {
        let token = world.token(role).await;
        Self::enrolled_with(world, role, name, &token).await
    }

    pub(crate) async fn enrolled_with(world: &World, role: Role, name: &str, token: &TokenText) -> Self {
        let mut node = Self::new(world, role, name, token);
        node.join(world).await.unwrap();
        node.plan().await;
        node
    }

    pub(crate) fn id(&self) -> NodeId {
        self.client.node().unwrap()
    }

    pub(crate) fn agent(&self) -> AgentId {
        match self.id() {
            NodeId::Agent(id) => id,
            NodeId::Gateway(_) => panic!("a gateway"),
        }
    }

    /// Opens a connection, and says nothing on it yet.
    pub(crate) async fn connect(&mut self, world: &World) {
        self.socket = Some(dial(world).await.unwrap());
        self.plans.clear();
        self.client.connect(random(), Instant::now());
    }

    /// Opens a connection, and waits until the node is let in or is not.
    pub(crate) async fn join(&mut self, world: &World) -> Result<Membership, Reason> {
        self.connect(world).await;
        self.until(|event| match event {
            ClientEvent::Connected(membership) => Some(Ok(membership)),
            ClientEvent::Closed(Closed::Remote(reason)) => Some(Err(reason)),
            ClientEvent::Closed(closed) => panic!("{closed:?}"),
            _ => None,
        })
        .await
    }

    /// The connection is lost: nothing is said to Control.
    pub(crate) fn cut(&mut self) {
        self.socket = None;
        self.client.handle_disconnect(Instant::now());
        while self.client.poll_event().is_some() {}
    }

    /// Waits for the next plan, and acknowledges it.
    pub(crate) async fn plan(&mut self) -> Arc<WirePlan> {
        let plan = self
            .until(|event| match event {
                ClientEvent::Plan(plan) => Some(plan),
                ClientEvent::PlanFault(fault) => panic!("{fault}"),
                ClientEvent::Closed(closed) => panic!("{closed:?}"),
                _ => None,
            })
            .await;
        self.client.applied(&plan, &[], Instant::now());
        self.flush().await;
        plan
    }

    pub(crate) async fn agent_plan(&mut self) -> AgentPlan {
        let plan = self.plan().await;
        plan.to_plan::<AgentRecord>(self.id()).unwrap().plan
    }

    pub(crate) async fn gateway_plan(&mut self) -> GatewayPlan {
        let plan = self.plan().await;
        plan.to_plan::<GatewayRecord>(self.id()).unwrap().plan
    }

    /// Waits until Control ends the connection.
    pub(crate) async fn closed(&mut self) -> Reason {
        self.until(|event| match event {
            ClientEvent::Closed(Closed::Remote(reason)) => Some(reason),
            ClientEvent::Closed(closed) => panic!("{closed:?}"),
            _ => None,
        })
        .await
    }

    pub(crate) async fn closed_with(&mut self) -> Code {
        self.closed().await.refusal.code().unwrap()
    }

    /// Sends what there is to send.
    pub(crate) async fn flush(&mut self) {
        let socket = self.socket.as_mut().unwrap();
        while let Some(frame) = self.client.poll_transmit() {
            // Control may have gone: that is seen when reading.
            let _ = socket.send(tungstenite::Message::Binary(frame.into())).await;
        }
    }

    /// Sends a frame past the session.
    pub(crate) async fn inject(&mut self, message: impl Into<Message>) {
        let frame = message.into().encode().unwrap();
        let message = tungstenite::Message::Binary(frame.into());
        self.socket.as_mut().unwrap().send(message).await.unwrap();
    }

    /// Who speaks, in frames past the session.
    pub(crate) fn subject(&self, node: NodeId) -> message::Subject {
        let ClientState::Online { session } = self.client.state() else {
            panic!("the node is not online");
        };
        message::Subject {
            node: node.into(),
            session,
        }
    }

    /// Runs the session until it brings what is looked for. Other events are passed over, but no plan is
    /// acknowledged.
    pub(crate) async fn until<T>(&mut self, mut look: impl FnMut(ClientEvent) -> Option<T>) -> T {
        let run = async {
            loop {
                while let Some(event) = self.client.poll_event() {
                    if let Some(found) = look(event) {
                        self.flush().await;
                        return found;
                    }
                }
                self.step().await;
            }
        };
        timeout(LIMIT, run).await.expect("it did not happen in time")
    }

    /// Runs the session until Control has said something, and returns what.
    pub(crate) async fn heard(&mut self) -> Message {
        timeout(LIMIT, async {
            loop {
                if let Some(message) = self.step().await {
                    return message;
                }
            }
        })
        .await
        .expect("nothing was heard in time")
    }

    async fn step(&mut self) -> Option<Message> {
        self.flush().await;
        let deadline = self.client.poll_timeout().map(|(at, _)| at);
        let deadline = deadline.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        let socket = self.socket.as_mut().unwrap();
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(tungstenite::Message::Binary(bytes))) => {
                    let message = match frame::decode(&bytes).unwrap() {
                        Incoming::Known(message) => Some(message),
                        Incoming::Unknown(_) => None,
                    };
                    if let Some(Message::PlanBegin(begin)) = &message {
                        self.plans.push(begin.kind);
                    }
                    self.client.handle_frame(&bytes, Instant::now());
                    message
                }
                Some(Ok(tungstenite::Message::Close(_)) | Err(_)) | None => {
                    self.client.handle_disconnect(Instant::now());
                    None
                }
                Some(Ok(_)) => None,
            },
            () = sleep_until(deadline.into()) => {
                self.client.handle_timeout(Instant::now());
                None
            }
        }
    }
}
