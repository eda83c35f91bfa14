//! A model of a node: a [`Client`], the disk of its process, and what its program wants.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use kakuremichi_core::{
    id::{NodeId, ServiceId},
    key::{IdentityKey, WireGuardKey},
    model::Role,
    name::Label,
    secret::Secret,
    time::Timestamp,
};

use super::{ToyKeys, ToyVerifier};
use crate::{
    capability::Capabilities,
    declare::{Declaration, DeclaredService},
    identity::Signer,
    plan::{PlanHash, WirePlan},
    report::{Amount, Refusal},
    session::{Client, ClientConfig, ClientEvent, Closed, Command, Credential, OwnKeys, UsageQueue},
};

/// A node. What a process keeps on its disk survives [`restart`](Self::restart); the rest does not.
#[derive(Debug)]
pub struct Node {
    /// The session.
    pub client: Client,
    /// What the program has declared.
    pub wants: BTreeMap<Label, Declaration>,
    /// What Control answered.
    pub declared: BTreeMap<Label, Result<DeclaredService, Refusal>>,
    /// The plan that was applied last.
    pub applied: Option<Arc<WirePlan>>,
    /// The plans that were applied, in their order, over all restarts.
    pub plans: Vec<PlanHash>,
    /// How often a plan could not be used.
    pub faults: usize,
    /// The commands that were received.
    pub commands: Vec<Command>,
    /// What came of keys that were proposed.
    pub rotations: Vec<Result<Option<Timestamp>, Refusal>>,
    /// The ends of connections.
    pub closed: Vec<Closed>,
    /// What was counted, over all restarts.
    pub used: Amount,
    /// What the node denies of each plan.
    pub denies: Vec<ServiceId>,
    /// Whether commands are answered.
    pub answers_commands: bool,
    /// Whether plans are acknowledged.
    pub applies: bool,
    /// How many processes there were.
    pub starts: u64,
    role: Role,
    control: IdentityKey,
    disk: Disk,
}

/// The keys that a node has on its disk.
#[derive(Debug, Clone, Copy)]
struct DiskKeys {
    current: ToyKeys,
    next: Option<ToyKeys>,
}

#[derive(Debug)]
struct Disk {
    keys: DiskKeys,
    node: Option<NodeId>,
    plan: Option<Vec<u8>>,
    usage: Option<Vec<u8>>,
}

impl Node {
    /// The secret of the token that nodes enrol with.
    pub const SECRET: [u8; 32] = [0x5e; 32];
    /// What nodes sign with.
    pub const KEYS: ToyKeys = ToyKeys([0xa9; 32]);

    pub(super) fn new(role: Role, control: IdentityKey, now: Instant) -> Self {
        let disk = Disk {
            keys: DiskKeys {
                current: Self::KEYS,
                next: None,
            },
            node: None,
            plan: None,
            usage: None,
        };
        Self {
            client: start(role, control, &disk, 1, now),
            wants: BTreeMap::new(),
            declared: BTreeMap::new(),
            applied: None,
            plans: Vec::new(),
            faults: 0,
            commands: Vec::new(),
            rotations: Vec::new(),
            closed: Vec::new(),
            used: Amount::default(),
            denies: Vec::new(),
            answers_commands: true,
            applies: true,
            starts: 1,
            role,
            control,
            disk,
        }
    }

    /// Declares a service.
    ///
    /// # Panics
    /// When it cannot be declared.
    pub fn declare(&mut self, declaration: Declaration) {
        self.wants.insert(declaration.name.clone(), declaration.clone());
        let result = self.client.declare(declaration);
        assert_eq!(result, Ok(()));
    }

    /// Ends a declaration.
    pub fn undeclare(&mut self, name: &Label, delete: bool) {
        self.wants.remove(name);
        self.declared.remove(name);
        self.client.undeclare(name, delete);
    }

    /// Makes other keys, keeps them beside those that the node has, and proposes them; those that were made before, if
    /// they were not answered.
    pub fn rotate(&mut self, next: ToyKeys) {
        let next = *self.disk.keys.next.get_or_insert(next);
        self.client.rotate_keys(own_keys(next));
    }

    /// Whether no keys are proposed.
    pub(super) const fn is_settled(&self) -> bool {
        self.disk.keys.next.is_none()
    }

    /// The keys that the node has.
    #[must_use]
    pub fn keys(&self) -> ToyKeys {
        self.disk.keys.current
    }

    /// Counts usage and sends it.
    pub fn record(&mut self, service: ServiceId, amount: Amount, at: Timestamp) {
        self.used.add(amount);
        self.client.record_usage(service, amount, at);
        self.client.flush_usage(at);
        self.save_usage();
    }

    /// The process ends without warning and starts again. Its program declares nothing until it is told
    /// to.
    pub fn restart(&mut self, now: Instant) {
        self.starts += 1;
        self.client = start(self.role, self.control, &self.disk, self.starts, now);
        self.wants.clear();
        self.declared.clear();
        let stored = self
            .disk
            .plan
            .as_deref()
            .and_then(|bytes| WirePlan::from_bytes(bytes).ok());
        self.applied = stored.map(Arc::new);
        if let Some(plan) = &self.applied {
            self.client.restore_plan(Arc::clone(plan), &self.denies);
        }
    }

    /// The file with the usage is lost before the next start.
    pub fn lose_usage(&mut self) {
        self.disk.usage = None;
    }

    /// Handles what the session has to say. Returns how long to wait for the next connection, if one
    /// ended.
    pub(super) fn handle_events(&mut self, now: Instant) -> Option<Duration> {
        let mut reconnect = None;
        while let Some(event) = self.client.poll_event() {
            match event {
                ClientEvent::Connected(membership) => self.disk.node = Some(membership.node),
                ClientEvent::Plan(plan) => {
                    self.plans.push(plan.hash());
                    self.disk.plan = Some(plan.to_bytes());
                    if self.applies {
                        self.client.applied(&plan, &self.denies, now);
                    }
                    self.applied = Some(plan);
                }
                ClientEvent::PlanFault(_) => self.faults += 1,
                ClientEvent::Declared { name, result } => {
                    if self.wants.contains_key(&name) {
                        self.declared.insert(name, result);
                    }
                }
                ClientEvent::Undeclared { .. } => {}
                ClientEvent::Command { request, command } => {
                    self.commands.push(command);
                    if self.answers_commands {
                        self.client.answer_command(request, Ok(()));
                    }
                }
                ClientEvent::KeysRotated { result, .. } => {
                    let next = self.disk.keys.next.take();
                    if let (Ok(_), Some(next)) = (&result, next) {
                        self.disk.keys.current = next;
                    }
                    self.rotations.push(result);
                }
                ClientEvent::Closed(closed) => {
                    let wait = closed.reason().and_then(|reason| reason.retry_after);
                    if !closed.is_permanent() {
                        reconnect = Some(wait.unwrap_or(Duration::from_secs(1)));
                    }
                    self.closed.push(closed);
                }
            }
        }
        self.save_usage();
        reconnect
    }

    fn save_usage(&mut self) {
        self.disk.usage = Some(self.client.usage().to_bytes());
    }
}

fn start(role: Role, control: IdentityKey, disk: &Disk, starts: u64, now: Instant) -> Client {
    let stored = disk
        .usage
        .as_deref()
        .and_then(|bytes| UsageQueue::from_bytes(bytes).ok());
    let keys = own_keys(disk.keys.current);
    let config = ClientConfig {
        url: super::pair::url(),
        control,
        role,
        credential: match disk.node {
            Some(node) => Credential::Known(node),
            None => Credential::Enrol {
                secret: Secret::new(Node::SECRET),
                name: super::pair::label("node"),
            },
        },
        wireguard: keys.wireguard,
        capabilities: Capabilities::SUPPORTED,
        signer: keys.signer,
        verifier: Arc::new(ToyVerifier),
    };
    let mut client = Client::new(config, stored.unwrap_or_else(|| UsageQueue::new(starts)), now);
    if let Some(next) = disk.keys.next {
        client.rotate_keys(own_keys(next));
    }
    client
}

fn own_keys(keys: ToyKeys) -> OwnKeys {
    OwnKeys {
        wireguard: WireGuardKey::from_bytes(*keys.public_key().as_bytes()),
        signer: Arc::new(keys),
    }
}
