//! One connection of a node.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use kakuremichi_core::{
    code::Code,
    id::{NodeId, ServiceId},
    key::IdentityKey,
};

use super::{Client, ClientConfig, ClientEvent, ClientState, Credential, End, Membership, Outbox, OwnKeys};
use crate::{
    capability::Capabilities,
    codec::{Array, List, SecretArray},
    frame::{self, Incoming, Message, Tag},
    identity::{RotationTranscript, Signature, SignedProof, Transcript, sha256},
    message::{self, ProofKind, Subject},
    plan::WirePlan,
    report::Refusal,
    session::{
        CHALLENGE_TIMEOUT, Command, MAX_COMMANDS, MAX_HANDSHAKE_BYTES, Reason, RequestId, Timer,
        WELCOME_TIMEOUT, earlier,
        heartbeat::{Heartbeat, Silent},
        is_current,
        sync::{self, PlanReceiver},
    },
    version::Version,
};

#[derive(Debug)]
pub(super) struct Link {
    phase: Phase,
    heartbeat: Heartbeat,
    /// Frames of the handshake, and the last frame; never more than two.
    out: VecDeque<Message>,
    handshake_bytes: usize,
}

#[derive(Debug)]
enum Phase {
    /// The hello was sent.
    Challenge {
        hello: Box<message::Hello>,
        deadline: Instant,
    },
    /// The proof was sent.
    Welcome { deadline: Instant, session: Handshaken },
    /// The node was let in.
    Online(Box<Online>),
    /// The last frame was sent or received.
    Closed,
}

/// What came of the handshake.
#[derive(Debug, Clone, Copy)]
struct Handshaken {
    /// Tells it from every other one.
    binding: [u8; 32],
    /// What both sides can do.
    capabilities: Capabilities,
}

#[derive(Debug)]
struct Online {
    subject: Subject,
    session: Handshaken,
    /// Whether keys that are proposed are to be sent.
    rotate_due: bool,
    receiver: PlanReceiver,
    resume_due: bool,
    ack_due: Option<message::PlanAck>,
    request_due: Option<message::PlanRequest>,
    /// Commands that the caller has not answered.
    commands: BTreeSet<u64>,
    /// Answers to commands. Together with `commands` at most [`MAX_COMMANDS`].
    answers: VecDeque<message::Commanded>,
}

impl Link {
    pub(super) fn connect(config: &ClientConfig, nonce: [u8; 32], now: Instant) -> Self {
        let versions = Version::SUPPORTED.iter().map(|version| version.0);
        let hello = message::Hello {
            versions: List::truncated(versions),
            capabilities: config.capabilities.bits(),
            role: config.role.into(),
            nonce,
            identity: *config.signer.public_key().as_bytes(),
            wireguard: *config.wireguard.as_bytes(),
            url: config.url.to_string(),
            node: match &config.credential {
                Credential::Known(node) => Some((*node).into()),
                Credential::Enrol { .. } => None,
            },
        };
        Self {
            out: VecDeque::from([hello.clone().into()]),
            phase: Phase::Challenge {
                hello: Box::new(hello),
                deadline: now + CHALLENGE_TIMEOUT,
            },
            heartbeat: Heartbeat::new(now),
            handshake_bytes: 0,
        }
    }

    pub(super) fn state(&self) -> ClientState {
        match &self.phase {
            Phase::Challenge { .. } | Phase::Welcome { .. } => ClientState::Connecting,
            Phase::Online(online) => ClientState::Online {
                session: online.subject.session,
            },
            Phase::Closed => ClientState::Offline,
        }
    }

    pub(super) const fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    pub(super) const fn rtt(&self) -> Option<Duration> {
        self.heartbeat.rtt()
    }

    pub(super) fn close(&mut self, last: Option<message::Close>) {
        self.phase = Phase::Closed;
        self.out.clear();
        self.out.extend(last.map(Message::from));
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<(), End> {
        match &self.phase {
            Phase::Challenge { deadline, .. } | Phase::Welcome { deadline, .. } if *deadline <= now => {
                Err(Reason::passing(Code::HEARTBEAT_LOST, "Control did not go on with the handshake").into())
            }
            Phase::Online(_) => self.heartbeat.handle_timeout(now).map_err(|Silent| {
                Reason::passing(Code::HEARTBEAT_LOST, "Control has not answered for too long").into()
            }),
            Phase::Challenge { .. } | Phase::Welcome { .. } | Phase::Closed => Ok(()),
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        match &self.phase {
            Phase::Challenge { deadline, .. } | Phase::Welcome { deadline, .. } => {
                Some((*deadline, Timer::Handshake))
            }
            Phase::Online(_) => earlier(Some(self.heartbeat.poll_timeout()), None),
            Phase::Closed => None,
        }
    }

    pub(super) fn applied(&mut self, plan: &WirePlan, denied: &[ServiceId]) {
        if let Phase::Online(online) = &mut self.phase {
            online.ack_due = Some(sync::ack(online.subject, sync::name_of(plan), denied));
        }
    }

    pub(super) fn answer_command(&mut self, request: RequestId, result: Result<(), Refusal>) {
        if let Phase::Online(online) = &mut self.phase
            && online.commands.remove(&request.0)
        {
            online.answers.push_back(message::Commanded {
                request: request.0,
                subject: online.subject,
                refused: result
                    .err()
                    .map(|refusal| (refusal.code_text().to_owned(), refusal.message().to_owned())),
            });
        }
    }

    /// There are keys to propose.
    pub(super) fn propose(&mut self, client: &mut Client) {
        let (Phase::Online(online), Some(next)) = (&mut self.phase, &client.next) else {
            return;
        };
        if online.session.capabilities.contains(Capabilities::KEY_ROTATION) {
            online.rotate_due = true;
            return;
        }
        let identity = next.signer.public_key();
        client.next = None;
        let old = "this Control is of a version that cannot rotate keys";
        client.push(ClientEvent::KeysRotated {
            identity,
            result: Err(Refusal::new(Code::VERSION_UNSUPPORTED, old)),
        });
    }

    pub(super) fn poll_transmit(
        &mut self,
        config: &ClientConfig,
        next: Option<&OwnKeys>,
        outbox: &mut Outbox,
        plan: Option<&WirePlan>,
        denied: &[ServiceId],
        now: Instant,
    ) -> Option<Message> {
        if let Some(message) = self.out.pop_front() {
            return Some(message);
        }
        let Phase::Online(online) = &mut self.phase else {
            return None;
        };
        if std::mem::take(&mut online.resume_due) {
            let mut resume = outbox.resume(online.subject);
            resume.plan = plan.map(|plan| message::PlanHave {
                revision: plan.revision().0,
                hash: plan.hash().0,
            });
            resume.denied = List::truncated(denied.iter().map(|id| *id.as_bytes()));
            return Some(resume.into());
        }
        if let Some(pong) = self.heartbeat.poll_pong() {
            return Some(pong.into());
        }
        if let Some(ping) = self.heartbeat.poll_ping() {
            return Some(ping.into());
        }
        if let Some(ack) = online.ack_due.take() {
            return Some(ack.into());
        }
        if let Some(request) = online.request_due.take() {
            return Some(request.into());
        }
        if let Some(answer) = online.answers.pop_front() {
            return Some(answer.into());
        }
        if std::mem::take(&mut online.rotate_due)
            && let Some(next) = next
        {
            return Some(online.rotate(config, next).into());
        }
        outbox.poll(online.subject, now)
    }

    pub(super) fn handle_frame(&mut self, frame: &[u8], client: &mut Client) -> Result<(), End> {
        if self.is_closed() {
            return Ok(());
        }
        if !matches!(self.phase, Phase::Online(_)) {
            self.handshake_bytes = self.handshake_bytes.saturating_add(frame.len());
            if self.handshake_bytes > MAX_HANDSHAKE_BYTES {
                return Err(violation("too many bytes before the welcome").into());
            }
        }
        let message = match frame::decode(frame) {
            Ok(Incoming::Known(message)) => message,
            Ok(Incoming::Unknown(_)) => {
                client.unknown_frames = client.unknown_frames.saturating_add(1);
                return Ok(());
            }
            Err(error) => return Err(violation(error).into()),
        };
        if let Message::Close(close) = message {
            let verified = !matches!(self.phase, Phase::Challenge { .. });
            return Err(End::Remote(believed(close.into(), &client.config, verified)));
        }
        match &mut self.phase {
            Phase::Challenge { hello, .. } => {
                let Message::Challenge(challenge) = message else {
                    return Err(unexpected(message.tag()).into());
                };
                let (proof, session) = prove(&client.config, hello, &challenge)?;
                self.out.push_back(proof.into());
                self.phase = Phase::Welcome {
                    deadline: client.now + WELCOME_TIMEOUT,
                    session,
                };
                Ok(())
            }
            Phase::Welcome { session, .. } => {
                let session = *session;
                let Message::Welcome(welcome) = message else {
                    return Err(unexpected(message.tag()).into());
                };
                let membership = Membership::try_from(&welcome).map_err(violation)?;
                check_membership(&client.config, &membership)?;
                client.config.credential = Credential::Known(membership.node);
                self.phase = Phase::Online(Box::new(Online::new(&membership, session)));
                self.heartbeat = Heartbeat::new(client.now);
                client.push(ClientEvent::Connected(membership));
                self.propose(client);
                Ok(())
            }
            Phase::Online(online) => {
                if client.events.len() >= crate::session::MAX_EVENTS {
                    return Err(Reason::passing(Code::TRY_LATER, "the node is overloaded").into());
                }
                match message {
                    Message::Ping(ping) => self.heartbeat.handle_ping(ping),
                    Message::Pong(pong) => self.heartbeat.handle_pong(pong, client.now),
                    other => online.handle(other, client)?,
                }
                Ok(())
            }
            Phase::Closed => Ok(()),
        }
    }
}

impl Online {
    fn new(membership: &Membership, session: Handshaken) -> Self {
        Self {
            subject: Subject {
                node: membership.node.into(),
                session: membership.session,
            },
            session,
            rotate_due: false,
            receiver: PlanReceiver::default(),
            resume_due: true,
            ack_due: None,
            request_due: None,
            commands: BTreeSet::new(),
            answers: VecDeque::new(),
        }
    }

    fn handle(&mut self, message: Message, client: &mut Client) -> Result<(), Reason> {
        if let Some(subject) = message.subject()
            && !is_current(subject, self.subject)?
        {
            return Ok(());
        }
        match message {
            Message::PlanBegin(begin) => {
                let result = self.receiver.begin(&begin, client.plan.as_deref());
                self.check_plan(result, client);
            }
            Message::PlanRecords(records) => {
                let result = self.receiver.records(&records);
                self.check_plan(result, client);
            }
            Message::PlanEnd(end) => {
                let result = self.receiver.end(&end);
                if let Some(Some(plan)) = self.check_plan(result, client) {
                    let plan = Arc::new(plan);
                    client.plan = Some(Arc::clone(&plan));
                    client.push(ClientEvent::Plan(plan));
                }
            }
            Message::Declared(declared) => self.declared(declared, client)?,
            Message::Undeclared(undeclared) => {
                if let Some(name) = client.outbox.declarations().undeclared(undeclared.request) {
                    client.push(ClientEvent::Undeclared { name });
                }
            }
            Message::UsageAck(ack) => client.outbox.acknowledge_usage(ack),
            Message::Command(command) => {
                // A command that is open already was sent twice.
                if self.commands.contains(&command.request) {
                    return Ok(());
                }
                if self.commands.len() + self.answers.len() >= MAX_COMMANDS {
                    return Err(violation("too many commands are open"));
                }
                self.commands.insert(command.request);
                client.push(ClientEvent::Command {
                    request: RequestId(command.request),
                    command: Command::from(command.kind),
                });
            }
            Message::KeysRotated(rotated) => keys_rotated(rotated, client),
            // Frames of a handshake that is over, sent again.
            Message::Challenge(_) | Message::Welcome(_) => {}
            Message::Hello(_)
            | Message::Proof(_)
            | Message::Close(_)
            | Message::Ping(_)
            | Message::Pong(_)
            | Message::Resume(_)
            | Message::NodeInfo(_)
            | Message::SigningKeys(_)
            | Message::PlanAck(_)
            | Message::PlanRequest(_)
            | Message::Declare(_)
            | Message::Undeclare(_)
            | Message::Status(_)
            | Message::Event(_)
            | Message::Certificates(_)
            | Message::Usage(_)
            | Message::Commanded(_)
            | Message::RotateKeys(_) => return Err(unexpected(message.tag())),
        }
        Ok(())
    }

    /// Proposes keys, signed by both identities.
    fn rotate(&self, config: &ClientConfig, next: &OwnKeys) -> message::RotateKeys {
        let (old, new) = (config.signer.public_key(), next.signer.public_key());
        let transcript = RotationTranscript {
            binding: &self.session.binding,
            node: self.subject.node.into(),
            session: self.subject.session,
            old,
            new,
            wireguard: next.wireguard,
        };
        message::RotateKeys {
            subject: self.subject,
            identity: *new.as_bytes(),
            wireguard: *next.wireguard.as_bytes(),
            by_old: Array(config.signer.sign(&transcript.old_message()).0),
            by_new: Array(next.signer.sign(&transcript.new_message()).0),
        }
    }

    fn declared(&self, declared: message::Declared, client: &mut Client) -> Result<(), Reason> {
        let request = declared.request();
        if let Some(name) = client.outbox.declarations().declared(request) {
            let result = declared.into_result();
            client.push(ClientEvent::Declared { name, result });
        }
        Ok(())
    }

    /// Asks for the whole plan if what was sent cannot be used.
    fn check_plan<T>(&mut self, result: Result<T, sync::PlanFault>, client: &mut Client) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(fault) => {
                self.request_due = Some(message::PlanRequest {
                    subject: self.subject,
                    transfer: self.receiver.transfer(),
                });
                client.push(ClientEvent::PlanFault(fault));
                None
            }
        }
    }
}

/// Control answered keys; those that are not proposed any more were answered twice.
fn keys_rotated(rotated: message::KeysRotated, client: &mut Client) {
    let identity = IdentityKey::from_bytes(rotated.identity);
    let answered = client.next.take_if(|next| next.signer.public_key() == identity);
    let Some(next) = answered else { return };
    let result = rotated.outcome.into_result();
    if result.is_ok() {
        client.set_keys(next);
    }
    client.push(ClientEvent::KeysRotated { identity, result });
}

/// What the node believes of a reason that the other side gave.
///
/// That there is no use in coming back is believed of a Control that has proven who it is. Before that anybody
/// who ends TLS for it could send a node away for good. The one thing that Control itself says so early, that
/// it is known under another URL, ends a node that enrols, since somebody has just typed the URL; an enrolled
/// node comes back, because Control may be started with a wrong URL too.
fn believed(reason: Reason, config: &ClientConfig, verified: bool) -> Reason {
    let code = reason.refusal.code();
    let believable = if is_enrolling(config) {
        verified || code == Some(Code::URL_MISMATCH)
    } else {
        verified && !matches!(code, Some(Code::URL_MISMATCH | Code::OTHER_CONTROL))
    };
    Reason {
        permanent: reason.permanent && believable,
        ..reason
    }
}

const fn is_enrolling(config: &ClientConfig) -> bool {
    matches!(config.credential, Credential::Enrol { .. })
}

/// Checks that Control is the one that the node wants; only then is anything proven to it.
fn prove(
    config: &ClientConfig,
    hello: &message::Hello,
    challenge: &message::Challenge,
) -> Result<(message::Proof, Handshaken), Reason> {
    if challenge.control != *config.control.as_bytes() {
        let reason = Reason::passing(
            Code::OTHER_CONTROL,
            "this is another Control than the one that the token, or the state directory, belongs to",
        );
        // Nobody has proven anything yet. A name that leads elsewhere for a while must not cost an enrolled
        // node its link; whoever enrols is about to be told what is wrong with the token.
        return Err(Reason {
            permanent: is_enrolling(config),
            ..reason
        });
    }
    let offered = hello.versions.as_slice();
    if Version::negotiate(&[challenge.version]).is_none() || !offered.contains(&challenge.version) {
        return Err(Reason::passing(
            Code::VERSION_UNSUPPORTED,
            format!("Control wants protocol version {}", challenge.version),
        ));
    }
    let transcript = Transcript {
        offered,
        version: Version(challenge.version),
        node_capabilities: config.capabilities,
        control_capabilities: Capabilities::from_bits(challenge.capabilities),
        role: config.role,
        node_nonce: &hello.nonce,
        control_nonce: &challenge.nonce,
        node_key: IdentityKey::from_bytes(hello.identity),
        control_key: config.control,
        wireguard: config.wireguard,
        url: &hello.url,
        node: hello.node.map(NodeId::from),
    };
    let signature = Signature(challenge.signature.0);
    if !config
        .verifier
        .verify(&config.control, &transcript.control_message(), &signature)
    {
        return Err(Reason::passing(
            Code::PROOF_INVALID,
            "Control's signature does not verify",
        ));
    }
    let (kind, message) = match &config.credential {
        Credential::Enrol { secret, name } => {
            let signed = transcript.node_message(SignedProof::Enrol {
                secret_hash: &sha256(secret.expose()),
                name: name.as_str(),
            });
            let kind = ProofKind::Enrol {
                secret: SecretArray(secret.clone()),
                name: name.as_str().to_owned(),
            };
            (kind, signed)
        }
        Credential::Known(_) => (ProofKind::Known, transcript.node_message(SignedProof::Known)),
    };
    let session = Handshaken {
        binding: transcript.binding(),
        capabilities: transcript
            .node_capabilities
            .common(transcript.control_capabilities),
    };
    let proof = message::Proof {
        kind,
        signature: Array(config.signer.sign(&message).0),
    };
    Ok((proof, session))
}

fn check_membership(config: &ClientConfig, membership: &Membership) -> Result<(), Reason> {
    let role_fits = crate::convert::role_of(membership.node) == config.role;
    let same_node = match config.credential {
        Credential::Known(node) => node == membership.node,
        Credential::Enrol { .. } => true,
    };
    if role_fits && same_node {
        Ok(())
    } else {
        Err(violation("Control welcomes another node than this one"))
    }
}

fn unexpected(tag: Tag) -> Reason {
    violation(format_args!("a {tag} is not expected now"))
}

fn violation(what: impl ToString) -> Reason {
    Reason::passing(Code::PROTOCOL_VIOLATION, what.to_string())
}
