//! A plan from Control to a node: newest wins, acknowledged by revision and hash.

use std::{sync::Arc, time::Instant};

use kakuremichi_core::plan::Revision;

use super::{MAX_PLAN_RETRIES, MAX_SUPERSEDED, PLAN_ACK_TIMEOUT, PLAN_PIECE};
use crate::{
    codec::Bytes,
    frame::Message,
    message::{self, PlanBegin, PlanEnd, PlanKind, PlanRecords, Subject},
    plan::{
        ChangeParser, ChangeWriter, MAX_PLAN_BYTES, PlanBuilder, PlanError, PlanHash, StreamError, WirePlan,
    },
};

/// The longest stream of changes: a plan's bytes and what stands around them, twice, because a delta
/// may remove everything and put everything.
const MAX_STREAM: u64 = 2 * MAX_PLAN_BYTES as u64 + (1 << 24);

/// Why a plan that was sent could not be used. The whole plan was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlanFault {
    /// It is the difference to a plan that the node does not have.
    #[error("the plan is the difference to another plan than the one at hand")]
    Base,
    /// A piece of the stream is missing.
    #[error("a piece of the plan is missing")]
    Gap,
    /// The stream does not decode.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The plan is past a bound.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The hash is another than what was announced.
    #[error("the plan's hash is {computed}, announced was {announced}")]
    Hash {
        /// The hash of what was received.
        computed: PlanHash,
        /// The hash that was announced.
        announced: PlanHash,
    },
}

/// What a plan is known by.
pub(super) type Name = (Revision, PlanHash);

pub(super) fn name_of(plan: &WirePlan) -> Name {
    (plan.revision(), plan.hash())
}

/// Control's side.
#[derive(Debug)]
pub(super) struct PlanSender {
    subject: Subject,
    deltas: bool,
    /// What the node has, as far as it said.
    has: Option<Name>,
    /// The same plan with its records, if it is at hand.
    base: Option<Arc<WirePlan>>,
    /// What the node is to have.
    target: Option<Arc<WirePlan>>,
    state: SendState,
    transfer: u32,
    superseded: u32,
    retries: u32,
}

#[derive(Debug)]
enum SendState {
    Idle,
    Begin {
        plan: Arc<WirePlan>,
    },
    Records {
        plan: Arc<WirePlan>,
        writer: ChangeWriter,
    },
    AwaitAck {
        plan: Arc<WirePlan>,
        deadline: Instant,
    },
}

/// What came of an acknowledgement or a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The node has this plan now.
    Acknowledged,
    /// The whole plan is sent again.
    Resent,
    /// It is about something that is over.
    Stale,
    /// The node asked too often.
    GiveUp,
}

impl PlanSender {
    pub(super) const fn new(subject: Subject, deltas: bool, has: Option<Name>) -> Self {
        Self {
            subject,
            deltas,
            has,
            base: None,
            target: None,
            state: SendState::Idle,
            transfer: 0,
            superseded: 0,
            retries: 0,
        }
    }

    /// The node is to have `plan`. With `base`, the records of a plan that it may have, less is sent.
    /// Returns whether the node has the plan already.
    pub(super) fn set(&mut self, plan: Arc<WirePlan>, base: Option<Arc<WirePlan>>) -> bool {
        if let Some(base) = base
            && self.base.is_none()
            && self.has == Some(name_of(&base))
        {
            self.base = Some(base);
        }
        self.target = Some(plan);
        self.advance()
    }

    /// Whether nothing is being sent or awaited.
    pub(super) const fn is_idle(&self) -> bool {
        matches!(self.state, SendState::Idle)
    }

    pub(super) fn acknowledge(&mut self, name: Name) -> Outcome {
        let SendState::AwaitAck { plan, .. } = &self.state else {
            return Outcome::Stale;
        };
        if name != name_of(plan) {
            // The plan before this one, acknowledged twice, says nothing about this one.
            if self.has == Some(name) {
                return Outcome::Stale;
            }
            return self.resend();
        }
        self.has = Some(name);
        self.base = Some(Arc::clone(plan));
        self.state = SendState::Idle;
        (self.superseded, self.retries) = (0, 0);
        self.advance();
        Outcome::Acknowledged
    }

    /// The node could not use what was sent.
    pub(super) fn request(&mut self, transfer: u32) -> Outcome {
        if transfer != self.transfer || self.is_idle() {
            return Outcome::Stale;
        }
        self.resend()
    }

    pub(super) fn poll(&mut self, now: Instant) -> Option<Message> {
        match std::mem::replace(&mut self.state, SendState::Idle) {
            SendState::Idle => None,
            SendState::Begin { plan } => {
                let base = self.base.as_ref().filter(|_| self.deltas);
                let (kind, changes) = match base {
                    Some(base) => (
                        PlanKind::Delta {
                            base: base.revision().0,
                            base_hash: base.hash().0,
                        },
                        base.changes_to(&plan),
                    ),
                    None => (PlanKind::Snapshot, plan.contents()),
                };
                self.transfer = self.transfer.wrapping_add(1);
                let begin = PlanBegin {
                    subject: self.subject,
                    transfer: self.transfer,
                    revision: plan.revision().0,
                    kind,
                };
                let writer = ChangeWriter::new(changes);
                self.state = SendState::Records { plan, writer };
                Some(begin.into())
            }
            SendState::Records { plan, mut writer } => {
                let offset = writer.written();
                let Some(piece) = writer.next_piece(PLAN_PIECE) else {
                    let end = PlanEnd {
                        transfer: self.transfer,
                        length: offset,
                        hash: plan.hash().0,
                    };
                    let deadline = now + PLAN_ACK_TIMEOUT;
                    self.state = SendState::AwaitAck { plan, deadline };
                    return Some(end.into());
                };
                self.state = SendState::Records { plan, writer };
                Some(
                    PlanRecords {
                        transfer: self.transfer,
                        offset,
                        bytes: Bytes(piece),
                    }
                    .into(),
                )
            }
            waiting @ SendState::AwaitAck { .. } => {
                self.state = waiting;
                None
            }
        }
    }

    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            SendState::AwaitAck { deadline, .. } => Some(*deadline),
            SendState::Idle | SendState::Begin { .. } | SendState::Records { .. } => None,
        }
    }

    /// Starts to send the target, where that makes sense now. Returns whether the node has it.
    fn advance(&mut self) -> bool {
        let Some(target) = &self.target else {
            return false;
        };
        match &self.state {
            // What follows is the difference to what is being acknowledged.
            SendState::AwaitAck { .. } => return false,
            SendState::Idle | SendState::Begin { .. } | SendState::Records { .. }
                if self.has == Some(name_of(target)) =>
            {
                self.base = Some(Arc::clone(target));
                self.state = SendState::Idle;
                return true;
            }
            SendState::Idle | SendState::Begin { .. } => {}
            SendState::Records { plan, .. } => {
                if Arc::ptr_eq(plan, target) || self.superseded >= MAX_SUPERSEDED {
                    return false;
                }
                self.superseded += 1;
            }
        }
        self.state = SendState::Begin {
            plan: Arc::clone(target),
        };
        false
    }

    fn resend(&mut self) -> Outcome {
        if self.retries >= MAX_PLAN_RETRIES {
            return Outcome::GiveUp;
        }
        self.retries += 1;
        (self.has, self.base) = (None, None);
        self.state = SendState::Idle;
        self.advance();
        Outcome::Resent
    }
}

/// The node's side.
#[derive(Debug, Default)]
pub(super) struct PlanReceiver {
    transfer: Option<Receiving>,
    /// The newest transfer that was begun.
    begun: u32,
}

#[derive(Debug)]
struct Receiving {
    revision: Revision,
    builder: PlanBuilder,
    parser: ChangeParser,
    received: u64,
}

impl PlanReceiver {
    /// The transfer that the node's request is about.
    pub(super) const fn transfer(&self) -> u32 {
        self.begun
    }

    /// A plan follows. Transfers of the session come in order; one that was begun before is a frame
    /// that was sent twice.
    pub(super) fn begin(&mut self, begin: &PlanBegin, current: Option<&WirePlan>) -> Result<(), PlanFault> {
        if begin.transfer <= self.begun {
            return Ok(());
        }
        self.begun = begin.transfer;
        self.transfer = None;
        let builder = match begin.kind {
            PlanKind::Snapshot => PlanBuilder::default(),
            PlanKind::Delta { base, base_hash } => current
                .filter(|plan| name_of(plan) == (Revision(base), PlanHash(base_hash)))
                .map(PlanBuilder::from_plan)
                .ok_or(PlanFault::Base)?,
        };
        self.transfer = Some(Receiving {
            revision: Revision(begin.revision),
            builder,
            parser: ChangeParser::default(),
            received: 0,
        });
        Ok(())
    }

    pub(super) fn records(&mut self, records: &PlanRecords) -> Result<(), PlanFault> {
        let Some(receiving) = self.transfer.as_mut().filter(|_| records.transfer == self.begun) else {
            return Ok(());
        };
        let result = receiving.push(records);
        if result.is_err() {
            self.transfer = None;
        }
        result
    }

    /// The plan, if the end is that of the transfer at hand.
    pub(super) fn end(&mut self, end: &PlanEnd) -> Result<Option<WirePlan>, PlanFault> {
        if end.transfer != self.begun {
            return Ok(None);
        }
        let Some(receiving) = self.transfer.take() else {
            return Ok(None);
        };
        if receiving.received != end.length {
            return Err(PlanFault::Gap);
        }
        receiving.parser.finish()?;
        let plan = receiving.builder.finish(receiving.revision);
        let announced = PlanHash(end.hash);
        if plan.hash() != announced {
            return Err(PlanFault::Hash {
                computed: plan.hash(),
                announced,
            });
        }
        Ok(Some(plan))
    }
}

impl Receiving {
    fn push(&mut self, records: &PlanRecords) -> Result<(), PlanFault> {
        if records.offset < self.received {
            // Sent twice.
            return Ok(());
        }
        if records.offset > self.received {
            return Err(PlanFault::Gap);
        }
        self.received += records.bytes.0.len() as u64;
        if self.received > MAX_STREAM {
            return Err(PlanError::Bytes.into());
        }
        let builder = &mut self.builder;
        self.parser.push(&records.bytes.0, |change| {
            builder.apply(change).map_err(PlanFault::from)
        })
    }
}

/// The acknowledgement of a plan.
pub(super) fn ack(
    subject: Subject,
    plan: Name,
    denied: &[kakuremichi_core::id::ServiceId],
) -> message::PlanAck {
    message::PlanAck {
        subject,
        revision: plan.0.0,
        hash: plan.1.0,
        denied: crate::codec::List::truncated(denied.iter().map(|id| *id.as_bytes())),
        denied_count: u32::try_from(denied.len()).unwrap_or(u32::MAX),
    }
}
