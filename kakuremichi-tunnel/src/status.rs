//! What an agent says about itself: its state as one value, and its events.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use kakuremichi_core::{
    id::{GatewayId, ServiceId, TargetId},
    name::Label,
    plan::Revision,
};
use kakuremichi_proto::report::Refusal;
pub use kakuremichi_proto::report::{LaneKind, TargetState};
use tokio::sync::broadcast;

use crate::{
    agent::FlowDenial,
    error::CloseReason,
    link::{LinkEnd, LinkStatus},
};

/// The events that wait for a slow subscriber; beyond, the oldest are lost and counted.
pub const EVENTS: usize = 256;

/// Everything about an agent, at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AgentStatus {
    /// Whether it takes flows.
    pub phase: Phase,
    /// The link to Control. It says nothing about the data path.
    pub link: LinkStatus,
    /// The plan that is served.
    pub revision: Revision,
    /// The lane to each gateway of the plan, by the gateways' identifiers.
    pub lanes: Vec<LaneStatus>,
    /// The services, by their names: those of the plan, and those asked for.
    pub services: Vec<ServiceStatus>,
}

impl AgentStatus {
    /// Whether the data path works: a probe through one lane at least was answered.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.phase == Phase::Running
            && self
                .lanes
                .iter()
                .any(|lane| matches!(lane.state, LaneState::Up { .. }))
    }
}

/// Whether an agent takes flows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// It does.
    Running,
    /// It takes no new ones, and waits for those there are.
    Draining,
    /// It has stopped.
    Closed(CloseReason),
}

/// A lane to a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaneStatus {
    /// The gateway.
    pub gateway: GatewayId,
    /// Its name.
    pub name: Label,
    /// What the lane is made of.
    pub kind: LaneKind,
    /// Whether TLS streams stand by, so that flows can leave WireGuard at once.
    pub standby: bool,
    /// Whether it carries.
    pub state: LaneState,
    /// Since when it is in this state.
    pub since: SystemTime,
    /// What went wrong last.
    pub last_error: Option<String>,
}

/// Whether a lane carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LaneState {
    /// No probe was answered or given up yet.
    Probing,
    /// Probes are answered.
    Up {
        /// The smoothed round trip.
        rtt: Duration,
    },
    /// Probes are not answered.
    Down,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceStatus {
    /// Its identifier, once it has one.
    pub id: Option<ServiceId>,
    /// Its name.
    pub name: Label,
    /// Where visitors find it.
    pub urls: Vec<String>,
    /// Whether it is published.
    pub state: ServiceState,
    /// Its targets at this agent.
    pub targets: Vec<TargetStatus>,
}

/// Whether a service is published.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServiceState {
    /// It was asked for, and Control has not answered.
    Declaring,
    /// It is in the plan.
    Published,
    /// It is in the plan, and what would serve it in this process is not there.
    Unserved,
    /// Control refuses it.
    Refused(Refusal),
}

/// A target of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TargetStatus {
    /// The target.
    pub id: TargetId,
    /// Whether it passes its check; unknown without one.
    pub state: TargetState,
    /// Why it did not pass last.
    pub last_error: Option<String>,
}

/// Something that happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum AgentEvent {
    /// The link to Control has a session.
    LinkUp,
    /// The link to Control is lost, and will be tried again.
    LinkLost,
    /// The link to Control has ended for good.
    LinkEnded(LinkEnd),
    /// A plan is served.
    PlanApplied(Revision),
    /// A lane carries.
    LaneUp {
        /// To which gateway.
        gateway: GatewayId,
        /// The round trip.
        rtt: Duration,
    },
    /// A lane does not carry any more.
    LaneDown {
        /// To which gateway.
        gateway: GatewayId,
    },
    /// A service that was asked for is published.
    Published {
        /// Its name.
        name: Label,
        /// Where visitors find it.
        urls: Vec<String>,
    },
    /// A service that was asked for is refused.
    Refused {
        /// Its name.
        name: Label,
        /// Why.
        refusal: Refusal,
    },
    /// A target passes its check, or does not any more.
    Target {
        /// The target.
        target: TargetId,
        /// Whether it passes.
        state: TargetState,
        /// Why it does not.
        error: Option<Arc<str>>,
    },
    /// A flow was refused because the plan does not allow it.
    Denied {
        /// Why.
        denial: FlowDenial,
        /// From which gateway, if it was one.
        gateway: Option<GatewayId>,
    },
    /// A connection was refused because too many wait to be accepted.
    Overflowed {
        /// The service.
        name: Label,
    },
    /// So many events were lost, because this subscriber was too slow.
    Lost(u64),
}

/// The events from now on.
#[derive(Debug)]
pub struct Events(pub(crate) broadcast::Receiver<AgentEvent>);

impl Events {
    /// The next event; `None` when the agent is gone. What was lost is said by
    /// [`AgentEvent::Lost`], in the place of what was.
    pub async fn next(&mut self) -> Option<AgentEvent> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(lost)) => Some(AgentEvent::Lost(lost)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_subscriber_learns_how_much_it_missed() {
        let (sender, receiver) = broadcast::channel(4);
        let mut events = Events(receiver);
        for revision in 1..=7 {
            sender.send(AgentEvent::PlanApplied(Revision(revision))).unwrap();
        }
        assert!(matches!(events.next().await, Some(AgentEvent::Lost(3))));
        assert!(matches!(
            events.next().await,
            Some(AgentEvent::PlanApplied(Revision(4)))
        ));
        drop(sender);
        for _ in 0..3 {
            assert!(events.next().await.is_some());
        }
        assert!(events.next().await.is_none());
    }
}
