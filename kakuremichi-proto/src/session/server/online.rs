//! A session that is open.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use kakuremichi_core::{
    code::Code,
    id::NodeId,
    key::{IdentityKey, WireGuardKey},
    model::Role,
    plan::Revision,
    time::Timestamp,
};

use super::{
    Accepted, CommandError, Resumed, RotateRequest, ServerEvent, handshake::Proven, unexpected, violation,
};
use crate::session::is_current;
use crate::{
    capability::Capabilities,
    convert::role_of,
    declare::{Declaration, DeclaredService},
    frame::Message,
    identity::{RotationTranscript, Signature, Verifier},
    message::{self, Subject},
    plan::{PlanHash, WirePlan},
    report::{NodeInfo, Refusal, UsageBatch, UsageKey},
    session::{
        Command, DRAIN_TIMEOUT, MAX_COMMANDS, MAX_OPEN_REQUESTS, MAX_USAGE_BATCHES, Reason, RequestId, Timer,
        earlier,
        heartbeat::{Heartbeat, Silent},
        request::Requests,
        sync::{Outcome, PlanSender},
    },
};

#[derive(Debug)]
pub(super) struct Online {
    node: NodeId,
    subject: Subject,
    /// The identity in it is that of the keys that the node has now.
    proven: Proven,
    /// Keys that the caller has not answered; one set at a time.
    rotating: Option<IdentityKey>,
    rotated_due: Option<message::KeysRotated>,
    heartbeat: Heartbeat,
    plan: PlanSender,
    /// The request that follows.
    request_next: RequestId,
    /// Requests of the node that the caller has not answered.
    open: BTreeMap<RequestId, Asked>,
    /// Answers to requests. Together with `open` at most [`MAX_OPEN_REQUESTS`].
    answers: VecDeque<Message>,
    commands: Requests<()>,
    /// Commands to send; they are in `commands` too, which bounds them.
    commands_due: VecDeque<message::Command>,
    /// The batch of usage that follows.
    usage_next: UsageKey,
    /// Batches that the caller has not acknowledged; at most [`MAX_USAGE_BATCHES`], as on the node.
    usage_open: Vec<UsageKey>,
    /// One acknowledgement is for all before it.
    usage_due: Option<message::UsageAck>,
    draining: Option<(Reason, Instant)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Declare,
    Undeclare,
}

impl Online {
    pub(super) fn new(accepted: &Accepted, proven: Proven, resumed: &Resumed, now: Instant) -> Self {
        let subject = accepted.subject();
        let deltas = proven.capabilities.contains(Capabilities::PLAN_DELTA);
        Self {
            node: accepted.node,
            subject,
            proven,
            rotating: None,
            rotated_due: None,
            heartbeat: Heartbeat::new(now),
            plan: PlanSender::new(subject, deltas, resumed.plan),
            request_next: resumed.request_next,
            open: BTreeMap::new(),
            answers: VecDeque::new(),
            // The session's number keeps answers to an earlier session's commands apart.
            commands: Requests::new(accepted.session << 32),
            commands_due: VecDeque::new(),
            usage_next: resumed.usage,
            usage_open: Vec::new(),
            usage_due: None,
            draining: None,
        }
    }

    pub(super) const fn node(&self) -> NodeId {
        self.node
    }

    pub(super) const fn rtt(&self) -> Option<Duration> {
        self.heartbeat.rtt()
    }

    pub(super) fn handle(
        &mut self,
        message: Message,
        verifier: &dyn Verifier,
        now: Instant,
        events: &mut VecDeque<ServerEvent>,
    ) -> Result<(), Reason> {
        if let Some(subject) = message.subject()
            && !is_current(subject, self.subject)?
        {
            return Ok(());
        }
        match message {
            Message::Ping(ping) => self.heartbeat.handle_ping(ping),
            Message::Pong(pong) => self.heartbeat.handle_pong(pong, now),
            Message::NodeInfo(info) => {
                let info = NodeInfo::try_from(info).map_err(violation)?;
                if info.gateway.is_some() && role_of(self.node) != Role::Gateway {
                    return Err(violation("an agent says how a gateway is reached"));
                }
                events.push_back(ServerEvent::Info(info));
            }
            Message::SigningKeys(signing) => {
                if role_of(self.node) != Role::Gateway {
                    return Err(violation("an agent says what it signs session cookies with"));
                }
                events.push_back(ServerEvent::SigningKeys(signing.read()));
            }
            Message::PlanAck(ack) => {
                let name = (Revision(ack.revision), PlanHash(ack.hash));
                match self.plan.acknowledge(name) {
                    Outcome::Acknowledged => events.push_back(ServerEvent::PlanApplied {
                        revision: name.0,
                        hash: name.1,
                        denied: crate::convert::services(&ack.denied),
                        denied_count: ack.denied_count,
                    }),
                    other => self.resent(other, events)?,
                }
            }
            Message::PlanRequest(request) => {
                let outcome = self.plan.request(request.transfer);
                self.resent(outcome, events)?;
            }
            Message::Declare(declare) => self.declare(declare, events)?,
            Message::Undeclare(undeclare) => {
                let request = RequestId(undeclare.request);
                let name = undeclare.name.parse().map_err(violation)?;
                if self.ask(request, Asked::Undeclare)? {
                    events.push_back(ServerEvent::Undeclare {
                        request,
                        name,
                        delete: undeclare.delete,
                    });
                }
            }
            Message::Status(status) => {
                events.push_back(ServerEvent::Status {
                    replace: status.replace,
                    status: status.into(),
                });
            }
            Message::Certificates(certificates) => {
                if role_of(self.node) != Role::Gateway {
                    return Err(violation("an agent says which certificates visitors see"));
                }
                events.push_back(ServerEvent::Certificates(certificates.read()));
            }
            Message::Event(event) => {
                events.push_back(ServerEvent::Incident {
                    lost: event.lost,
                    incident: event.into(),
                });
            }
            Message::Usage(usage) => {
                if self.usage_open.len() >= MAX_USAGE_BATCHES {
                    return Err(violation("too many batches of usage are open"));
                }
                let batch = UsageBatch::from(usage);
                // Batches come in order and without gaps; any other was sent twice.
                if batch.key == self.usage_next {
                    self.usage_next.sequence = self.usage_next.sequence.wrapping_add(1);
                    self.usage_open.push(batch.key);
                    events.push_back(ServerEvent::Usage(batch));
                }
            }
            Message::Commanded(commanded) => {
                let request = RequestId(commanded.request);
                if self.commands.close(request).is_some() {
                    let result = commanded.into_result();
                    events.push_back(ServerEvent::Commanded { request, result });
                }
            }
            Message::RotateKeys(rotate) => self.rotate(&rotate, verifier, events)?,
            // Frames of a handshake that is over, sent again.
            Message::Hello(_) | Message::Proof(_) | Message::Resume(_) => {}
            Message::Challenge(_)
            | Message::Welcome(_)
            | Message::Close(_)
            | Message::PlanBegin(_)
            | Message::PlanRecords(_)
            | Message::PlanEnd(_)
            | Message::Declared(_)
            | Message::Undeclared(_)
            | Message::UsageAck(_)
            | Message::Command(_)
            | Message::KeysRotated(_) => return Err(unexpected(message.tag())),
        }
        Ok(())
    }

    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        events: &mut VecDeque<ServerEvent>,
    ) -> Result<(), Reason> {
        while let Some((request, ())) = self.commands.expire(now) {
            let late = Refusal::new(Code::TRY_LATER, "the node has not answered the command");
            events.push_back(ServerEvent::Commanded {
                request,
                result: Err(late),
            });
        }
        if let Some((reason, deadline)) = &self.draining
            && *deadline <= now
        {
            return Err(reason.clone());
        }
        if self.plan.poll_timeout().is_some_and(|deadline| deadline <= now) {
            return Err(Reason::passing(
                Code::TRY_LATER,
                "the node has not acknowledged its plan",
            ));
        }
        self.heartbeat
            .handle_timeout(now)
            .map_err(|Silent| Reason::passing(Code::HEARTBEAT_LOST, "the node has not answered for too long"))
    }

    pub(super) fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        let heartbeat = Some(self.heartbeat.poll_timeout());
        let plan = self.plan.poll_timeout().map(|at| (at, Timer::PlanAck));
        let commands = self.commands.poll_timeout().map(|at| (at, Timer::Request));
        let drain = self.draining.as_ref().map(|(_, at)| (*at, Timer::Drain));
        earlier(earlier(heartbeat, plan), earlier(commands, drain))
    }

    pub(super) fn poll_transmit(&mut self, now: Instant) -> Option<Message> {
        if let Some(pong) = self.heartbeat.poll_pong() {
            return Some(pong.into());
        }
        if let Some(ping) = self.heartbeat.poll_ping() {
            return Some(ping.into());
        }
        if let Some(ack) = self.usage_due.take() {
            return Some(ack.into());
        }
        if let Some(rotated) = self.rotated_due.take() {
            return Some(rotated.into());
        }
        if let Some(answer) = self.answers.pop_front() {
            return Some(answer);
        }
        if let Some(command) = self.commands_due.pop_front() {
            return Some(command.into());
        }
        self.plan.poll(now)
    }

    pub(super) fn set_plan(&mut self, plan: Arc<WirePlan>, base: Option<Arc<WirePlan>>) {
        if self.draining.is_none() {
            self.plan.set(plan, base);
        }
    }

    pub(super) fn answer_declare(&mut self, request: RequestId, result: Result<DeclaredService, Refusal>) {
        if self.open.get(&request) == Some(&Asked::Declare) {
            self.open.remove(&request);
            let declared = message::Declared::new(request.0, self.subject, result);
            self.answers.push_back(declared.into());
        }
    }

    pub(super) fn answer_undeclare(&mut self, request: RequestId) {
        if self.open.get(&request) == Some(&Asked::Undeclare) {
            self.open.remove(&request);
            let undeclared = message::Undeclared {
                request: request.0,
                subject: self.subject,
            };
            self.answers.push_back(undeclared.into());
        }
    }

    pub(super) fn acknowledge_usage(&mut self, upto: UsageKey) {
        self.usage_open
            .retain(|key| key.epoch != upto.epoch || key.sequence > upto.sequence);
        self.usage_due = Some(message::UsageAck {
            epoch: upto.epoch,
            sequence: upto.sequence,
        });
    }

    pub(super) fn answer_rotation(&mut self, result: Result<Option<Timestamp>, Refusal>) {
        let Some(identity) = self.rotating.take() else {
            return;
        };
        if result.is_ok() {
            self.proven.identity = identity;
        }
        self.rotated_due = Some(message::KeysRotated {
            subject: self.subject,
            identity: *identity.as_bytes(),
            outcome: result.into(),
        });
    }

    pub(super) fn command(&mut self, command: Command, now: Instant) -> Result<RequestId, CommandError> {
        let rotation = Capabilities::KEY_ROTATION;
        if command == Command::RotateKeys && !self.proven.capabilities.contains(rotation) {
            return Err(CommandError::Unsupported);
        }
        if self.commands.len() >= MAX_COMMANDS {
            return Err(CommandError::TooMany);
        }
        let request = self.commands.open((), now);
        self.commands_due.push_back(message::Command {
            request: request.0,
            subject: self.subject,
            kind: command.into(),
        });
        Ok(request)
    }

    pub(super) fn drain(&mut self, reason: Reason, now: Instant) {
        self.draining.get_or_insert((reason, now + DRAIN_TIMEOUT));
    }

    /// Why the connection ends, if it drains and nothing is open on it.
    pub(super) fn drained(&self) -> Option<Reason> {
        let (reason, _) = self.draining.as_ref()?;
        let idle = self.plan.is_idle()
            && self.open.is_empty()
            && self.commands.len() == 0
            && self.rotating.is_none()
            && self.usage_open.is_empty();
        idle.then(|| reason.clone())
    }

    fn declare(
        &mut self,
        declare: message::Declare,
        events: &mut VecDeque<ServerEvent>,
    ) -> Result<(), Reason> {
        if role_of(self.node) != Role::Agent {
            return Err(violation("a gateway declares a service"));
        }
        let request = RequestId(declare.request);
        if !self.ask(request, Asked::Declare)? {
            return Ok(());
        }
        let refusal = if self.draining.is_some() {
            Refusal::new(Code::TRY_LATER, "this connection is about to end")
        } else {
            match Declaration::try_from(declare) {
                Ok(declaration) => {
                    events.push_back(ServerEvent::Declare { request, declaration });
                    return Ok(());
                }
                Err(invalid) => Refusal::new(Code::REQUEST_INVALID, invalid.to_string()),
            }
        };
        self.answer_declare(request, Err(refusal));
        Ok(())
    }

    /// Keys are proposed (LESSONS, advisory 10: of the node that the channel authenticated, by the identity that
    /// authenticated it, and in this session).
    fn rotate(
        &mut self,
        rotate: &message::RotateKeys,
        verifier: &dyn Verifier,
        events: &mut VecDeque<ServerEvent>,
    ) -> Result<(), Reason> {
        if !self.proven.capabilities.contains(Capabilities::KEY_ROTATION) {
            return Err(violation("this node did not say that it rotates keys"));
        }
        let request = RotateRequest {
            old: self.proven.identity,
            new: IdentityKey::from_bytes(rotate.identity),
            wireguard: WireGuardKey::from_bytes(rotate.wireguard),
        };
        // What was answered, or is being answered, was sent twice.
        if request.new == request.old || self.rotating == Some(request.new) {
            return Ok(());
        }
        if self.rotating.is_some() {
            return Err(violation("other keys are being answered"));
        }
        let transcript = RotationTranscript {
            binding: &self.proven.binding,
            node: self.node,
            session: self.subject.session,
            old: request.old,
            new: request.new,
            wireguard: request.wireguard,
        };
        let (by_old, by_new) = (Signature(rotate.by_old.0), Signature(rotate.by_new.0));
        if !verifier.verify(&request.old, &transcript.old_message(), &by_old)
            || !verifier.verify(&request.new, &transcript.new_message(), &by_new)
        {
            return Err(Reason::passing(
                Code::PROOF_INVALID,
                "a signature of the keys that are proposed does not verify",
            ));
        }
        self.rotating = Some(request.new);
        events.push_back(ServerEvent::RotateKeys(request));
        Ok(())
    }

    /// Opens a request. Requests come in order and without gaps: any other was sent twice, and `false`
    /// says so. A declaration that was repeated after its end would otherwise be live again.
    fn ask(&mut self, request: RequestId, asked: Asked) -> Result<bool, Reason> {
        if request != self.request_next {
            return Ok(false);
        }
        if self.open.len() + self.answers.len() >= MAX_OPEN_REQUESTS {
            return Err(violation("too many requests are open"));
        }
        self.request_next = RequestId(request.0.wrapping_add(1));
        self.open.insert(request, asked);
        Ok(true)
    }

    fn resent(&self, outcome: Outcome, events: &mut VecDeque<ServerEvent>) -> Result<(), Reason> {
        match outcome {
            Outcome::Resent => events.push_back(ServerEvent::PlanResent),
            Outcome::Stale | Outcome::Acknowledged => {}
            Outcome::GiveUp => {
                return Err(Reason::passing(
                    Code::TRY_LATER,
                    "the node could not use its plan, again and again",
                ));
            }
        }
        Ok(())
    }
}
