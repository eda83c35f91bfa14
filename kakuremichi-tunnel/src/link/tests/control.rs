//! A Control of one WebSocket at a time, told what to do by the test.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use kakuremichi_core::{
    id::{NodeId, OrganizationId},
    name::Label,
    net::Overlay,
    plan::{AgentPlan, Revision},
    secret::{Secret, SecretHash},
    time::Timestamp,
};
use kakuremichi_proto::{
    capability::Capabilities,
    declare::{Declaration, DeclaredService},
    identity::{TokenText, secret_hash},
    plan::{PlanHash, WirePlan},
    report::{Refusal, UsageBatch, UsageKey},
    session::{
        Accepted, Closed, Command, Reason, RequestId, Resumed, RotateRequest, Server, ServerConfig,
        ServerEvent,
    },
    version::SUBPROTOCOL,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
        http::header::SEC_WEBSOCKET_PROTOCOL,
    },
};

use crate::{
    keys::{NodeKeys, RingVerifier},
    link::ControlLink,
};

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(20);
const SECRET: [u8; 32] = [0x5e; 32];

pub(crate) struct FakeControl {
    listener: TcpListener,
    config: Arc<ServerConfig>,
    keys: NodeKeys,
}

impl FakeControl {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        Self::with(listener, &url)
    }

    /// A Control that thinks its public URL is another.
    pub(crate) async fn start_as(url: &str) -> Self {
        Self::with(TcpListener::bind("127.0.0.1:0").await.unwrap(), url)
    }

    fn with(listener: TcpListener, url: &str) -> Self {
        let keys = NodeKeys::generate().unwrap();
        let config = ServerConfig {
            url: url.parse().unwrap(),
            capabilities: Capabilities::SUPPORTED,
            signer: Arc::new(keys.clone()),
            verifier: Arc::new(RingVerifier),
        };
        Self {
            listener,
            config: Arc::new(config),
            keys,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.listener.local_addr().unwrap())
    }

    pub(crate) fn token(&self) -> String {
        let token = TokenText::new(Secret::new(SECRET), self.keys.identity(), None);
        token.to_text().expose().clone()
    }

    pub(crate) fn secret_hash(&self) -> SecretHash {
        secret_hash(&SECRET)
    }

    pub(crate) fn link(&self) -> ControlLink {
        ControlLink::new(self.url(), self.token())
    }

    /// Nobody is there any more.
    pub(crate) async fn close(self) {
        drop(self.listener);
        // A socket that listened is gone when nothing waits in it.
        tokio::task::yield_now().await;
    }

    pub(crate) async fn accept(&self) -> Connection {
        let (stream, _) = timeout(LIMIT, self.listener.accept()).await.unwrap().unwrap();
        #[expect(clippy::result_large_err, reason = "the signature is tungstenite's")]
        let choose = |request: &Request, mut response: Response| {
            assert_eq!(request.uri().path(), "/api/v1/link");
            assert_eq!(request.headers()[SEC_WEBSOCKET_PROTOCOL], SUBPROTOCOL);
            let chosen = SUBPROTOCOL.parse().unwrap();
            response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, chosen);
            Ok(response)
        };
        Connection {
            socket: accept_hdr_async(stream, choose).await.unwrap(),
            server: Server::new(Arc::clone(&self.config), [9; 32], Instant::now()),
        }
    }
}

pub(crate) struct Connection {
    socket: WebSocketStream<TcpStream>,
    server: Server,
}

impl Connection {
    /// The next event of the session.
    pub(crate) async fn event(&mut self) -> ServerEvent {
        timeout(LIMIT, self.next_event()).await.unwrap()
    }

    async fn next_event(&mut self) -> ServerEvent {
        loop {
            if let Some(event) = self.server.poll_event() {
                return event;
            }
            self.flush().await;
            let wait = self.server.poll_timeout().map_or(LIMIT, |(deadline, _)| {
                deadline
                    .saturating_duration_since(Instant::now())
                    .max(Duration::from_millis(1))
            });
            match timeout(wait, self.socket.next()).await {
                Ok(Some(Ok(Message::Binary(frame)))) => self.server.handle_frame(&frame, Instant::now()),
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(_)) | None) => self.server.handle_disconnect(Instant::now()),
                Err(_) => self.server.handle_timeout(Instant::now()),
            }
        }
    }

    async fn flush(&mut self) {
        while let Some(frame) = self.server.poll_transmit() {
            // The node may be gone.
            let _ = self.socket.send(Message::Binary(frame.into())).await;
        }
    }

    /// Skips events until one is wanted.
    async fn find<T>(&mut self, mut wanted: impl FnMut(ServerEvent) -> Option<T>) -> T {
        loop {
            let event = self.event().await;
            if let ServerEvent::Closed(closed) = &event {
                panic!("the connection ended: {closed:?}");
            }
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    }

    pub(crate) fn accepted(&mut self, node: NodeId) {
        let accepted = Accepted {
            node,
            organization: OrganizationId::from_bytes([1; 16]),
            name: "edge".parse().unwrap(),
            overlay: Overlay::from_global_id([1, 2, 3, 4, 5]),
            session: 1,
        };
        self.server.accept(accepted, Instant::now());
    }

    /// Lets the node in, whatever it shows.
    pub(crate) async fn welcome(&mut self, node: NodeId) -> Resumed {
        let request = self.event().await;
        assert!(
            matches!(request, ServerEvent::Enrol(_) | ServerEvent::Authenticate(_)),
            "{request:?}"
        );
        self.accepted(node);
        self.find(|event| match event {
            ServerEvent::Ready(resumed) => Some(resumed),
            _ => None,
        })
        .await
    }

    /// Sends a plan and waits until the node has it.
    pub(crate) async fn give(&mut self, plan: &AgentPlan) -> (Revision, PlanHash) {
        let wire = WirePlan::from_plan(plan).unwrap();
        let name = (wire.revision(), wire.hash());
        self.server.set_plan(Arc::new(wire), None, Instant::now());
        let applied = self.find(|event| match event {
            ServerEvent::PlanApplied { revision, hash, .. } => Some((revision, hash)),
            _ => None,
        });
        assert_eq!(applied.await, name);
        name
    }

    pub(crate) async fn refuse(&mut self, reason: Reason) {
        self.server.refuse(reason, Instant::now());
        self.flush().await;
        self.until_closed().await;
    }

    pub(crate) async fn until_closed(&mut self) -> Closed {
        loop {
            if let ServerEvent::Closed(closed) = self.event().await {
                self.flush().await;
                return closed;
            }
        }
    }

    pub(crate) async fn declare(&mut self) -> (RequestId, Declaration) {
        self.find(|event| match event {
            ServerEvent::Declare { request, declaration } => Some((request, declaration)),
            _ => None,
        })
        .await
    }

    pub(crate) async fn undeclare(&mut self) -> Label {
        let (request, name) = self
            .find(|event| match event {
                ServerEvent::Undeclare { request, name, .. } => Some((request, name)),
                _ => None,
            })
            .await;
        self.server.answer_undeclare(request, Instant::now());
        self.flush().await;
        name
    }

    pub(crate) async fn answer(&mut self, request: RequestId, answer: Result<DeclaredService, Refusal>) {
        self.server.answer_declare(request, answer, Instant::now());
        self.flush().await;
    }

    pub(crate) async fn usage(&mut self) -> UsageBatch {
        self.find(|event| match event {
            ServerEvent::Usage(batch) => Some(batch),
            _ => None,
        })
        .await
    }

    pub(crate) async fn acknowledge(&mut self, upto: UsageKey) {
        self.server.acknowledge_usage(upto, Instant::now());
        self.flush().await;
    }

    /// The keys that the node proposes.
    pub(crate) async fn rotation(&mut self) -> RotateRequest {
        self.find(|event| match event {
            ServerEvent::RotateKeys(request) => Some(request),
            _ => None,
        })
        .await
    }

    pub(crate) async fn answer_rotation(&mut self, answer: Result<Option<Timestamp>, Refusal>) {
        self.server.answer_rotation(answer, Instant::now());
        self.flush().await;
    }

    pub(crate) async fn command(&mut self, command: Command) -> Result<(), Refusal> {
        let asked = self.server.command(command, Instant::now()).unwrap();
        self.find(|event| match event {
            ServerEvent::Commanded { request, result } if request == asked => Some(result),
            _ => None,
        })
        .await
    }
}
