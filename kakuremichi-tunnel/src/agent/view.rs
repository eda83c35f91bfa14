//! The agent's state, as it is shown.

use std::{sync::Arc, time::SystemTime};

use kakuremichi_core::{
    id::TargetId,
    model::TargetAddress,
    plan::{AgentPlan, AgentService},
    time::Timestamp,
};
use kakuremichi_proto::report::{self, LaneEnd};

use super::{checks::Checks, exposure::Exposures, lanes::Lanes};
use crate::{
    link::LinkStatus,
    status::{
        AgentStatus, LaneState, LaneStatus, Phase, ServiceState, ServiceStatus, TargetState, TargetStatus,
    },
};

/// What is known of an agent that has just begun.
pub(super) fn initial() -> Arc<AgentStatus> {
    Arc::new(AgentStatus {
        phase: Phase::Running,
        link: LinkStatus::Idle,
        revision: Default::default(),
        lanes: Vec::new(),
        services: Vec::new(),
    })
}

pub(super) fn status(
    phase: Phase,
    link: &LinkStatus,
    plan: &AgentPlan,
    lanes: &Lanes,
    checks: &Checks,
    exposures: &Exposures,
    served: impl Fn(TargetId) -> bool,
) -> AgentStatus {
    let planned = plan.services().map(|service| planned(service, checks, &served));
    let pending = exposures.pending().map(|name| ServiceStatus {
        id: None,
        name: name.clone(),
        urls: Vec::new(),
        state: ServiceState::Declaring,
        targets: Vec::new(),
    });
    let mut services: Vec<_> = planned.chain(pending).collect();
    services.sort_by(|a, b| a.name.cmp(&b.name));
    AgentStatus {
        phase,
        link: link.clone(),
        revision: plan.revision(),
        lanes: lanes.statuses().collect(),
        services,
    }
}

fn planned(service: &AgentService, checks: &Checks, served: impl Fn(TargetId) -> bool) -> ServiceStatus {
    let unserved = service
        .targets
        .iter()
        .any(|target| target.address == TargetAddress::InProcess && !served(target.id));
    let target = |id: TargetId| {
        let checked = checks.get(id);
        TargetStatus {
            id,
            state: checked
                .as_ref()
                .map_or(TargetState::Unknown, |checked| checked.state),
            last_error: checked.and_then(|checked| checked.last_error.as_deref().map(str::to_owned)),
        }
    };
    ServiceStatus {
        id: Some(service.id),
        name: service.name.clone(),
        urls: service.urls.clone(),
        state: if unserved {
            ServiceState::Unserved
        } else {
            ServiceState::Published
        },
        targets: service.targets.iter().map(|planned| target(planned.id)).collect(),
    }
}

/// What Control is told.
pub(super) fn report(status: &AgentStatus, checks: &Checks) -> report::Status {
    report::Status {
        certificates: Vec::new(),
        draining: status.phase != Phase::Running,
        lanes: status.lanes.iter().filter_map(lane).collect(),
        targets: checks
            .all()
            .map(|checked| report::TargetStatus {
                target: checked.target,
                state: checked.state,
                since: timestamp(checked.since),
                error: checked.last_error.as_deref().map(str::to_owned),
            })
            .collect(),
    }
}

/// A lane of which nothing is known yet is not reported.
fn lane(lane: &LaneStatus) -> Option<report::LaneStatus> {
    let (state, rtt) = match lane.state {
        LaneState::Probing => return None,
        LaneState::Up { rtt } => (report::LaneState::Up, Some(rtt)),
        LaneState::Down => (report::LaneState::Down, None),
    };
    Some(report::LaneStatus {
        end: LaneEnd::Gateway(lane.gateway),
        kind: lane.kind,
        state,
        rtt,
        since: timestamp(lane.since),
        error: lane.last_error.clone(),
    })
}

fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::from(time)
}
