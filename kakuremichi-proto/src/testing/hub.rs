//! A model of Control: [`Server`]s, and the database behind them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use kakuremichi_core::{
    code::Code,
    id::{AgentId, GatewayId, NodeId, OrganizationId, ServiceId},
    key::{IdentityKey, SigningKey},
    model::Role,
    name::Label,
    net::Overlay,
    plan::Revision,
    time::Timestamp,
};

use super::{Node, ToyKeys, ToyVerifier};
use crate::{
    capability::Capabilities,
    declare::{Declaration, DeclaredService},
    identity::{Signer, secret_hash, sha256},
    plan::{PlanHash, WirePlan},
    report::{Amount, Incident, NodeInfo, Refusal, Status, UsageBatch},
    session::{
        Accepted, Closed, EnrolRequest, Reason, RequestId, Resumed, RotateRequest, Server, ServerConfig,
        ServerEvent, UsageCursor,
    },
};

/// Control. Its database survives [`restart`](Self::restart); its connections do not.
#[derive(Debug)]
pub struct Hub {
    /// The connections, by the number of the transport.
    pub servers: BTreeMap<u64, Server>,
    /// How often the token was used.
    pub enrolled: u32,
    /// How often the token may be used.
    pub uses: u32,
    /// The node that enrolled.
    pub node: Option<(NodeId, IdentityKey)>,
    /// Who it was before, if that counts still.
    pub previous: Option<IdentityKey>,
    /// Whether the node was revoked.
    pub revoked: bool,
    /// What was declared and is live.
    pub live: BTreeMap<Label, Declaration>,
    /// What was declared and stays.
    pub stored: BTreeSet<Label>,
    /// The usage that was stored.
    pub used: Amount,
    /// The batches of usage that came, also those that had been stored.
    pub batches: usize,
    /// The plan that the node is to have.
    pub plan: Arc<WirePlan>,
    /// The plan that the node acknowledged last.
    pub applied: Option<(Revision, PlanHash)>,
    /// The services that the node says it denies.
    pub denied: Vec<ServiceId>,
    /// How often a plan was sent anew because the node could not use it.
    pub resent: usize,
    /// What the node said about itself last.
    pub info: Option<NodeInfo>,
    /// What the gateway signs with.
    pub signing_keys: Vec<SigningKey>,
    /// The state of lanes and targets.
    pub status: Status,
    /// What happened on the node.
    pub incidents: Vec<Incident>,
    /// The incidents that were lost.
    pub lost_incidents: u32,
    /// The answers to commands.
    pub commanded: Vec<(RequestId, Result<(), Refusal>)>,
    /// What each node had that came back.
    pub resumed: Vec<Resumed>,
    /// The ends of connections.
    pub closed: Vec<Closed>,
    /// Declarations are answered.
    pub answers: bool,
    /// Keys that are proposed are decided about, and answered.
    pub answers_rotations: bool,
    /// Usage is acknowledged.
    pub stores: bool,
    config: Arc<ServerConfig>,
    cursor: UsageCursor,
    /// Plans whose records are still at hand.
    recent: BTreeMap<(Revision, PlanHash), Arc<WirePlan>>,
    sessions: u64,
    current: Option<u64>,
    ready: bool,
}

impl Hub {
    /// What Control signs with.
    pub const KEYS: ToyKeys = ToyKeys([0xc0; 32]);
    /// Until when keys of before count.
    pub const PREVIOUS_UNTIL: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    pub(super) fn new() -> Self {
        Self {
            servers: BTreeMap::new(),
            enrolled: 0,
            uses: 1,
            node: None,
            previous: None,
            revoked: false,
            live: BTreeMap::new(),
            stored: BTreeSet::new(),
            used: Amount::default(),
            batches: 0,
            plan: Arc::new(WirePlan::default()),
            applied: None,
            denied: Vec::new(),
            resent: 0,
            info: None,
            signing_keys: Vec::new(),
            status: Status::default(),
            incidents: Vec::new(),
            lost_incidents: 0,
            commanded: Vec::new(),
            resumed: Vec::new(),
            closed: Vec::new(),
            answers: true,
            answers_rotations: true,
            stores: true,
            config: Arc::new(ServerConfig {
                url: super::pair::url(),
                capabilities: Capabilities::SUPPORTED,
                signer: Arc::new(Self::KEYS),
                verifier: Arc::new(ToyVerifier),
            }),
            cursor: UsageCursor::default(),
            recent: BTreeMap::new(),
            sessions: 0,
            current: None,
            ready: false,
        }
    }

    /// The key that nodes pin.
    #[must_use]
    pub fn key() -> IdentityKey {
        Self::KEYS.public_key()
    }

    /// Changes what Control says about itself.
    pub fn configure(&mut self, change: impl FnOnce(&mut ServerConfig)) {
        let mut config = ServerConfig::clone(&self.config);
        change(&mut config);
        self.config = Arc::new(config);
    }

    /// The node is to have another plan.
    pub fn publish(&mut self, plan: WirePlan, now: Instant) {
        self.plan = Arc::new(plan);
        self.recent
            .insert((self.plan.revision(), self.plan.hash()), Arc::clone(&self.plan));
        if let Some(server) = self.current_server() {
            let plan = Arc::clone(&self.plan);
            if let Some(server) = self.servers.get_mut(&server) {
                server.set_plan(plan, None, now);
            }
        }
    }

    /// The connection of the newest session, if it is open.
    pub fn current(&mut self) -> Option<&mut Server> {
        let id = self.current_server()?;
        self.servers.get_mut(&id)
    }

    /// Ends each connection when what is open on it is done.
    pub fn drain(&mut self, now: Instant) {
        let reason = Reason::passing(Code::TRY_LATER, "Control restarts").retry_after(Duration::from_secs(2));
        for server in self.servers.values_mut() {
            server.drain(reason.clone(), now);
        }
    }

    /// The process ends without warning and starts again.
    pub fn restart(&mut self) {
        self.servers.clear();
        self.recent.clear();
        self.current = None;
    }

    pub(super) fn open(&mut self, transport: u64, nonce: [u8; 32], now: Instant) {
        let server = Server::new(Arc::clone(&self.config), nonce, now);
        self.servers.insert(transport, server);
    }

    pub(super) fn handle_events(&mut self, now: Instant) {
        // What one connection says may end another.
        while let Some((transport, event)) = self.next_event() {
            self.handle_event(transport, event, now);
        }
    }

    /// Whether the newest session is open and the node has said what it has.
    pub(super) fn is_ready(&self) -> bool {
        self.ready && self.current_server().is_some()
    }

    fn next_event(&mut self) -> Option<(u64, ServerEvent)> {
        let mut servers = self.servers.iter_mut();
        servers.find_map(|(id, server)| server.poll_event().map(|event| (*id, event)))
    }

    fn current_server(&self) -> Option<u64> {
        self.current
            .filter(|id| self.servers.get(id).is_some_and(|server| !server.is_closed()))
    }

    fn handle_event(&mut self, transport: u64, event: ServerEvent, now: Instant) {
        match event {
            ServerEvent::Enrol(request) => match self.enrol(&request) {
                Ok(node) => self.accept(transport, node, now),
                Err(reason) => self.with(transport, |server| server.refuse(reason, now)),
            },
            ServerEvent::Authenticate(request) => {
                if self.revoked {
                    let reason = Reason::permanent(Code::NODE_REVOKED, "the node was revoked");
                    self.with(transport, |server| server.refuse(reason, now));
                } else if self.knows(request.node, request.identity) {
                    self.accept(transport, request.node, now);
                } else {
                    let reason = Reason::permanent(Code::NODE_UNKNOWN, "the node is not known");
                    self.with(transport, |server| server.refuse(reason, now));
                }
            }
            ServerEvent::Ready(resumed) => self.ready(transport, resumed, now),
            ServerEvent::Info(info) => self.info = Some(info),
            ServerEvent::SigningKeys(keys) => self.signing_keys = keys,
            ServerEvent::RotateKeys(request) => {
                let result = self.rotate(request);
                if self.answers_rotations {
                    self.with(transport, |server| server.answer_rotation(result, now));
                }
            }
            ServerEvent::PlanApplied {
                revision,
                hash,
                denied,
                ..
            } => {
                self.applied = Some((revision, hash));
                self.denied = denied;
            }
            ServerEvent::PlanResent => self.resent += 1,
            ServerEvent::Declare { request, declaration } => {
                if self.answers {
                    let service = self.declare(declaration);
                    self.with(transport, |server| {
                        server.answer_declare(request, Ok(service), now)
                    });
                }
            }
            ServerEvent::Undeclare {
                request,
                name,
                delete,
            } => {
                self.live.remove(&name);
                if delete {
                    self.stored.remove(&name);
                }
                self.with(transport, |server| server.answer_undeclare(request, now));
            }
            ServerEvent::Status { status, replace } => {
                if replace {
                    self.status.lanes.clear();
                    self.status.targets.clear();
                }
                self.status.draining = status.draining;
                self.status.lanes.extend(status.lanes);
                self.status.targets.extend(status.targets);
            }
            ServerEvent::Certificates(certificates) => self.status.certificates = certificates,
            ServerEvent::Incident { incident, lost } => {
                self.incidents.push(incident);
                self.lost_incidents += lost;
            }
            ServerEvent::Usage(batch) => {
                if self.stores {
                    self.store(&batch);
                    self.with(transport, |server| server.acknowledge_usage(batch.key, now));
                }
            }
            ServerEvent::Commanded { request, result } => self.commanded.push((request, result)),
            ServerEvent::Closed(closed) => self.closed.push(closed),
        }
    }

    fn with(&mut self, transport: u64, act: impl FnOnce(&mut Server)) {
        if let Some(server) = self.servers.get_mut(&transport) {
            act(server);
        }
    }

    fn knows(&self, node: NodeId, identity: IdentityKey) -> bool {
        self.node.is_some_and(|(known, current)| {
            known == node && (current == identity || self.previous == Some(identity))
        })
    }

    /// Gives the node other keys. It is answered alike when it has them.
    fn rotate(&mut self, request: RotateRequest) -> Result<Option<Timestamp>, Refusal> {
        let Some((node, identity)) = self.node else {
            return Err(Refusal::new(Code::NODE_UNKNOWN, "the node is not known"));
        };
        if identity != request.new {
            if identity != request.old {
                return Err(Refusal::new(Code::NODE_KEYS, "it has other keys"));
            }
            self.node = Some((node, request.new));
            self.previous = Some(identity);
        }
        Ok(Some(Self::PREVIOUS_UNTIL))
    }

    /// A node that comes again with the identity that enrolled gets the same answer.
    fn enrol(&mut self, request: &EnrolRequest) -> Result<NodeId, Reason> {
        if request.secret_hash != secret_hash(&Node::SECRET) {
            return Err(Reason::permanent(Code::TOKEN_UNKNOWN, "the token is not known"));
        }
        if let Some((node, identity)) = self.node
            && identity == request.identity
        {
            return Ok(node);
        }
        if self.enrolled >= self.uses {
            return Err(Reason::permanent(Code::TOKEN_USED_UP, "the token is used up"));
        }
        self.enrolled += 1;
        let node = match request.role {
            Role::Agent => AgentId::from_bytes([0xa0; 16]).into(),
            Role::Gateway => GatewayId::from_bytes([0x90; 16]).into(),
        };
        self.node = Some((node, request.identity));
        Ok(node)
    }

    /// Lets a node in, and ends its other sessions.
    fn accept(&mut self, transport: u64, node: NodeId, now: Instant) {
        for (_, other) in self.servers.iter_mut().filter(|(id, _)| **id != transport) {
            if other.node() == Some(node) {
                other.close(
                    Reason::passing(Code::SUPERSEDED, "a newer connection took over"),
                    now,
                );
            }
        }
        self.sessions += 1;
        self.current = Some(transport);
        self.ready = false;
        let accepted = Accepted {
            node,
            organization: OrganizationId::from_bytes([0x09; 16]),
            name: super::pair::label("node"),
            overlay: Overlay::from_global_id([1, 2, 3, 4, 5]),
            session: self.sessions,
        };
        self.with(transport, |server| server.accept(accepted, now));
    }

    fn ready(&mut self, transport: u64, resumed: Resumed, now: Instant) {
        self.live.retain(|name, _| resumed.declarations.contains(name));
        self.applied = resumed.plan;
        self.denied.clone_from(&resumed.denied);
        let base = resumed.plan.and_then(|name| self.recent.get(&name).cloned());
        let plan = Arc::clone(&self.plan);
        self.resumed.push(resumed);
        self.ready = true;
        self.with(transport, |server| server.set_plan(plan, base, now));
    }

    fn declare(&mut self, declaration: Declaration) -> DeclaredService {
        let name = declaration.name.clone();
        if !declaration.ephemeral {
            self.stored.insert(name.clone());
        }
        self.live.insert(name.clone(), declaration);
        let mut service = [0; 16];
        service.copy_from_slice(&sha256(name.as_str().as_bytes())[..16]);
        DeclaredService {
            service: ServiceId::from_bytes(service),
            urls: vec![format!("https://{name}.example")],
        }
    }

    fn store(&mut self, batch: &UsageBatch) {
        self.batches += 1;
        if self.cursor.admit(batch.key) {
            batch
                .entries
                .iter()
                .for_each(|(_, amount)| self.used.add(*amount));
        }
    }
}
