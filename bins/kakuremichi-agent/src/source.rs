//! What an agent tells on its admin address.

use std::sync::Arc;

use kakuremichi_bins_common::{AdminSource, Exposition, MetricKind, Readiness, engine};
use kakuremichi_core::plan::Revision;
use kakuremichi_tunnel::agent::Agent;
use kakuremichi_tunnel::engine::Metrics;
use kakuremichi_tunnel::status::{AgentStatus, LaneKind, LaneState, Phase, ServiceState};
use tokio::sync::watch;

/// Answers from the agent's status and counters.
#[derive(Debug)]
pub struct Source {
    status: watch::Receiver<Arc<AgentStatus>>,
    engine: watch::Receiver<Metrics>,
}

impl Source {
    /// Answers about this agent.
    #[must_use]
    pub fn new(agent: &Agent) -> Self {
        Self {
            status: agent.watch_status(),
            engine: agent.watch_engine_metrics(),
        }
    }
}

impl AdminSource for Source {
    fn readiness(&self) -> Readiness {
        let status = Arc::clone(&self.status.borrow());
        let missing = match status.phase {
            Phase::Running if status.revision == Revision::default() => "no plan yet",
            Phase::Running if !status.is_online() => "no lane works",
            Phase::Running => return Readiness::Ready,
            Phase::Draining => "draining",
            _ => "ended",
        };
        Readiness::NotReady(missing.to_owned())
    }

    fn metrics(&self, page: &mut Exposition) {
        let status = Arc::clone(&self.status.borrow());
        let (gauge, flag) = (MetricKind::Gauge, u8::from);
        page.single(
            "kakuremichi_link_up",
            "Whether there is a session with Control.",
            gauge,
            flag(status.link.is_up()),
        );
        page.single(
            "kakuremichi_plan_revision",
            "The plan that is served.",
            gauge,
            status.revision,
        );
        page.family(
            "kakuremichi_lane_up",
            "Whether a probe through the lane was answered lately.",
            gauge,
        );
        for lane in &status.lanes {
            let up = matches!(lane.state, LaneState::Up { .. });
            page.sample(
                "kakuremichi_lane_up",
                &[("gateway", lane.name.as_str())],
                flag(up),
            );
        }
        page.family(
            "kakuremichi_lane_over_tls",
            "Whether new flows take TLS streams; over WireGuard otherwise.",
            gauge,
        );
        for lane in &status.lanes {
            page.sample(
                "kakuremichi_lane_over_tls",
                &[("gateway", lane.name.as_str())],
                flag(lane.kind == LaneKind::TlsStream),
            );
        }
        page.family(
            "kakuremichi_lane_standby",
            "Whether TLS streams stand by while new flows take WireGuard.",
            gauge,
        );
        for lane in &status.lanes {
            page.sample(
                "kakuremichi_lane_standby",
                &[("gateway", lane.name.as_str())],
                flag(lane.standby),
            );
        }
        page.family(
            "kakuremichi_lane_rtt_seconds",
            "The smoothed round trip of a lane that is up.",
            gauge,
        );
        for lane in &status.lanes {
            if let LaneState::Up { rtt } = lane.state {
                page.sample(
                    "kakuremichi_lane_rtt_seconds",
                    &[("gateway", lane.name.as_str())],
                    rtt.as_secs_f64(),
                );
            }
        }
        page.family(
            "kakuremichi_service_published",
            "Whether the service is in the plan and served.",
            gauge,
        );
        for service in &status.services {
            let published = service.state == ServiceState::Published;
            page.sample(
                "kakuremichi_service_published",
                &[("service", service.name.as_str())],
                flag(published),
            );
        }
        engine::tell(page, &self.engine.borrow());
    }
}
