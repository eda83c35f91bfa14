//! What a node asks of Control, done by the use cases, one thing after the other.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use kakuremichi_core::{
    code::Code,
    id::NodeId,
    key::{IdentityKey, SigningKey},
    model::Node,
    name::Label,
    store::{NodeUsage, UsageCounts, UsageEntry, UsageReport},
    time::Timestamp,
};
use kakuremichi_proto::{
    declare::{Declaration, DeclaredService},
    report::{GatewayInfo, Refusal, UsageBatch, UsageKey},
    session::{AuthenticateRequest, EnrolRequest, Reason, RequestId, Resumed, RotateRequest},
};

use tokio::sync::watch;

use super::{Hub, counters, registry::Seat};
use crate::{
    planner::{NodeKeys, Planned},
    service::{Actor, Start, UseCaseError},
};

/// Something to do.
#[derive(Debug)]
pub(super) enum Work {
    /// Let a new node in.
    Enrol(EnrolRequest),
    /// Let a node in that has enrolled.
    Authenticate(AuthenticateRequest),
    /// A node was let in and said what it has.
    Resume(Resumed),
    /// A gateway says how it is reached.
    Gateway(GatewayInfo),
    /// A gateway says what it signs session cookies with.
    SigningKeys(Vec<SigningKey>),
    /// A node proposes other keys.
    RotateKeys(RotateRequest),
    /// The keys of a node are others: is it still what it was let in as?
    CheckKeys(IdentityKey),
    /// An agent declares a service.
    Declare {
        request: RequestId,
        declaration: Box<Declaration>,
    },
    /// An agent ends a declaration.
    Undeclare {
        request: RequestId,
        name: Label,
        delete: bool,
    },
    /// A node reports usage.
    Usage(UsageBatch),
}

/// A node that may come in.
#[derive(Debug)]
pub(super) struct Admission {
    pub(super) node: Node,
    /// What it was let in as.
    pub(super) identity: IdentityKey,
    pub(super) start: Start,
    /// Its plan, and each one that follows.
    pub(super) plans: watch::Receiver<Planned>,
    /// Its keys, and each change of them.
    pub(super) keys: watch::Receiver<NodeKeys>,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Done {
    /// The node may come in.
    Admitted(Box<Admission>),
    /// It may not.
    Refused(Reason),
    /// Its plan can be sent.
    Resumed(Resumed),
    /// Keys are answered.
    Rotated(IdentityKey, Result<Option<Timestamp>, Refusal>),
    /// A declaration is answered.
    Declared(RequestId, Result<DeclaredService, Refusal>),
    /// The end of a declaration is answered.
    Undeclared(RequestId),
    /// Usage up to here is stored.
    Counted(UsageKey),
    /// There is nothing to say.
    Nothing,
    /// It could not be done: the connection ends, so that the node comes again with it.
    Failed(Reason),
}

/// Does it. `seat` is that of the node, once it was let in.
pub(super) async fn perform(hub: &Hub, seat: Option<Seat>, work: Work) -> Done {
    match (work, seat) {
        (Work::Enrol(request), _) => {
            let node = hub.use_cases.enrol(&request).await;
            if node.is_ok() {
                counters::count(&hub.tally.enrolments);
            }
            admitted(hub, node, request.identity).await
        }
        (Work::Authenticate(request), _) => {
            let node = hub
                .use_cases
                .login(request.node, request.identity, request.wireguard)
                .await;
            admitted(hub, node, request.identity).await
        }
        (work, Some(seat)) => {
            let _turn = seat.turn.lock().await;
            // Usage counts once, whoever brings it; all else is for the newest session to say.
            if !matches!(work, Work::Usage(_)) && !hub.registry.is_newest(&seat) {
                return Done::Nothing;
            }
            perform_for(hub, &seat, work).await
        }
        (_, None) => misplaced(),
    }
}

async fn perform_for(hub: &Hub, seat: &Seat, work: Work) -> Done {
    let actor = &seat.actor;
    match (work, seat.node) {
        (Work::Resume(resumed), NodeId::Agent(agent)) => {
            let live: BTreeSet<Label> = resumed.declarations.iter().cloned().collect();
            match hub.use_cases.keep_declared(agent, actor, &live).await {
                Ok(()) => Done::Resumed(resumed),
                Err(error) => failed(&error),
            }
        }
        (Work::Resume(resumed), NodeId::Gateway(_)) => Done::Resumed(resumed),
        (Work::Gateway(info), node @ NodeId::Gateway(_)) => {
            let set = hub
                .use_cases
                .set_gateway(actor, node, &info.endpoints, info.https_port);
            match set.await {
                // The node was deleted: the board tells.
                Ok(_) | Err(UseCaseError::NotFound(_)) => Done::Nothing,
                Err(error) => failed(&error),
            }
        }
        (Work::SigningKeys(keys), node @ NodeId::Gateway(_)) => {
            match hub.use_cases.set_signing_keys(actor, node, &keys).await {
                Ok(_) | Err(UseCaseError::NotFound(_)) => Done::Nothing,
                Err(error) => failed(&error),
            }
        }
        (Work::RotateKeys(request), node) => {
            let rotated = hub.use_cases.rotate_keys(node, &request).await;
            if let Err(error) = &rotated {
                tracing::warn!(%node, code = %error.code(), error = error as &dyn std::error::Error, "a node keeps its keys");
            }
            Done::Rotated(request.new, rotated.map_err(|error| reason(&error).refusal))
        }
        (Work::CheckKeys(identity), node) => match hub.use_cases.check_keys(node, &identity).await {
            Ok(()) => Done::Nothing,
            // Whoever has newer ones comes again with them.
            Err(error @ UseCaseError::NodeKey) => Done::Failed(Reason {
                permanent: false,
                ..reason(&error)
            }),
            // The board tells.
            Err(UseCaseError::NodeUnknown | UseCaseError::NodeRevoked) => Done::Nothing,
            Err(error) => failed(&error),
        },
        (Work::Declare { request, declaration }, NodeId::Agent(agent)) => {
            match hub.use_cases.declare(agent, actor, &declaration).await {
                Ok(declared) => Done::Declared(request, Ok(declared)),
                Err(error) => Done::Declared(request, Err(refused(hub, actor, &error).await)),
            }
        }
        (
            Work::Undeclare {
                request,
                name,
                delete,
            },
            NodeId::Agent(agent),
        ) => match hub.use_cases.undeclare(agent, actor, &name, delete).await {
            Ok(()) => Done::Undeclared(request),
            Err(error) => failed(&error),
        },
        (Work::Usage(batch), node) => count(hub, node, actor, &batch).await,
        // The session lets none of these come.
        (Work::Enrol(_) | Work::Authenticate(_), _)
        | (Work::Gateway(_) | Work::SigningKeys(_), NodeId::Agent(_))
        | (Work::Declare { .. } | Work::Undeclare { .. }, NodeId::Gateway(_)) => misplaced(),
    }
}

fn misplaced() -> Done {
    Done::Failed(Reason::passing(
        Code::PROTOCOL_VIOLATION,
        "this node cannot ask for that",
    ))
}

async fn admitted(hub: &Hub, node: Result<Node, UseCaseError>, identity: IdentityKey) -> Done {
    let admission = async {
        let (node, start) = (node?, hub.use_cases.start().await?);
        let plans = hub.board.subscribe(node.id);
        let keys = hub.board.keys(node.id);
        // Whoever deleted the node before this is seen now, and whoever does after it is seen on the board.
        hub.use_cases.check_keys(node.id, &identity).await?;
        Ok(Box::new(Admission {
            node,
            identity,
            start,
            plans,
            keys,
        }))
    };
    match admission.await {
        Ok(admission) => Done::Admitted(admission),
        Err(error) => {
            let error: UseCaseError = error;
            if matches!(error, UseCaseError::NodePending) {
                // It asks again and again: that it waits is in the audit, and in the list of nodes.
                tracing::debug!("a node waits for approval");
                return Done::Refused(reason(&error));
            }
            tracing::warn!(code = %error.code(), error = &error as &dyn std::error::Error, "a node is refused");
            Done::Refused(reason(&error))
        }
    }
}

async fn count(hub: &Hub, node: NodeId, actor: &Actor, batch: &UsageBatch) -> Done {
    let mut usage = NodeUsage {
        node,
        organization: actor.organization,
        at: batch.to,
        report: UsageReport {
            epoch: batch.key.epoch,
            sequence: batch.key.sequence,
        },
        entries: Vec::with_capacity(batch.entries.len()),
        unattributed: UsageCounts::default(),
    };
    for (service, amount) in &batch.entries {
        let counts = UsageCounts {
            connections: amount.connections,
            requests: amount.requests,
            bytes_in: amount.received,
            bytes_out: amount.sent,
        };
        match service {
            Some(service) => usage.entries.push(UsageEntry {
                service: *service,
                counts,
            }),
            // What could not be told apart is of no service, and of the organization still.
            None => usage.unattributed = usage.unattributed.plus(counts),
        }
    }
    match hub.use_cases.record_usage(actor, usage).await {
        Ok(last) => Done::Counted(UsageKey {
            epoch: last.epoch,
            sequence: last.sequence,
        }),
        Err(error) => failed(&error),
    }
}

/// A node that has to come again because of a passing trouble waits so long.
const RETRY: Duration = Duration::from_secs(5);

fn reason(error: &UseCaseError) -> Reason {
    let code = match error {
        UseCaseError::NodePending => error.code(),
        _ if error.is_temporary() => Code::TRY_LATER,
        _ => error.code(),
    };
    if error.is_temporary() {
        Reason::passing(code, error.sentence()).retry_after(RETRY)
    } else {
        Reason::permanent(code, error.sentence())
    }
}

/// Why a declaration is refused. A name that belongs to an agent which is gone is free when its lease ends:
/// an agent that crashed, and enrolled anew, gets what it had.
async fn refused(hub: &Hub, actor: &Actor, error: &UseCaseError) -> Refusal {
    let refusal = reason(error).refusal;
    let UseCaseError::NameTaken(key) = error else {
        return refusal;
    };
    let holder = match hub.use_cases.ephemeral_holder(actor, key).await {
        Ok(holder) => holder,
        Err(error) => return reason(&error).refusal,
    };
    let Some(agent) = holder else { return refusal };
    if hub.registry.is_there(actor.organization, agent) {
        return refusal;
    }
    match hub.is_elsewhere(agent.into(), Duration::ZERO).await {
        Ok(true) => refusal,
        Err(error) => reason(&error.into()).refusal,
        Ok(false) => {
            let rest = hub.leases.rest(agent, Instant::now()).as_secs() + 1;
            let message =
                format!("{error}, whose agent is gone: it is free in {rest} s, unless that agent comes back");
            Refusal::new(Code::TRY_LATER, message)
        }
    }
}

fn failed(error: &UseCaseError) -> Done {
    tracing::error!(
        error = error as &dyn std::error::Error,
        "what a node asked for cannot be done"
    );
    Done::Failed(Reason {
        permanent: false,
        ..reason(error)
    })
}
