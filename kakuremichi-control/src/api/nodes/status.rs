//! What a node said of itself lately.

use kakuremichi_proto::report::{LaneEnd, LaneKind, LaneState, Severity, TargetState};
use serde::Serialize;
use utoipa::ToSchema;

use super::super::text::TimeText;
use crate::hub::Presence;

/// What a node said of itself lately.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NodeStatusView {
    /// Whether it is connected to Control.
    pub(super) connected: bool,
    /// Whether that is another instance of Control than the one that answers.
    pub(super) elsewhere: bool,
    /// The version of its software.
    #[serde(skip_serializing_if = "Option::is_none")]
    software: Option<String>,
    /// The time from a ping to its answer, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_us: Option<u64>,
    /// The plan that it has applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<PlanView>,
    /// Whether it takes no new flows.
    draining: bool,
    /// Its lanes.
    lanes: Vec<LaneView>,
    /// The targets that it checks.
    targets: Vec<TargetStateView>,
    /// The certificates that visitors of a gateway see, and that do not renew themselves.
    certificates: Vec<CertificateView>,
    /// What happened lately, newest last.
    incidents: Vec<IncidentView>,
}

/// The plan that a node has applied.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PlanView {
    /// Its revision.
    revision: u64,
    /// Its hash: SHA-256, hexadecimal.
    hash: String,
    /// The services that the node denies because it is too old to understand them.
    denied: Vec<String>,
}

/// The state of a lane.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LaneView {
    /// The far end: an agent, a gateway or a site.
    end: String,
    /// What it is made of.
    kind: &'static str,
    /// Whether it carries: `up` or `down`.
    state: &'static str,
    /// The round-trip time, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_us: Option<u64>,
    /// Since when it is in this state.
    #[schema(value_type = String, format = DateTime)]
    since: TimeText,
    /// What went wrong last.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The state of a target.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TargetStateView {
    /// The target.
    target: String,
    /// Whether it passes its check: `passing`, `failing` or `unknown`.
    state: &'static str,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    since: TimeText,
    /// What went wrong last.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A certificate.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CertificateView {
    /// Its first name.
    name: String,
    /// How many further names it has.
    more_names: u16,
    /// From when on it is valid.
    #[schema(value_type = String, format = DateTime)]
    since: TimeText,
    /// When it ends.
    #[schema(value_type = String, format = DateTime)]
    expires: TimeText,
}

/// Something that happened on a node.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct IncidentView {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: TimeText,
    /// How grave it is: `info`, `warning` or `error`.
    severity: &'static str,
    /// Its code.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    /// One sentence for people.
    message: String,
}

impl From<Presence> for NodeStatusView {
    fn from(presence: Presence) -> Self {
        let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let lanes = presence.status.lanes.into_values().map(|lane| LaneView {
            end: match lane.end {
                LaneEnd::Agent(id) => id.to_string(),
                LaneEnd::Gateway(id) => id.to_string(),
                LaneEnd::Site(id) => id.to_string(),
            },
            kind: match lane.kind {
                LaneKind::WireGuard => "wireguard",
                LaneKind::TlsStream => "tls_stream",
            },
            state: match lane.state {
                LaneState::Up => "up",
                LaneState::Down => "down",
            },
            rtt_us: lane.rtt.map(micros),
            since: lane.since.into(),
            error: lane.error,
        });
        let targets = presence
            .status
            .targets
            .into_values()
            .map(|target| TargetStateView {
                target: target.target.to_string(),
                state: match target.state {
                    TargetState::Unknown => "unknown",
                    TargetState::Passing => "passing",
                    TargetState::Failing => "failing",
                },
                since: target.since.into(),
                error: target.error,
            });
        let certificates = presence.status.certificates.into_iter();
        let certificates = certificates.map(|certificate| CertificateView {
            name: certificate.name,
            more_names: certificate.more,
            since: certificate.since.into(),
            expires: certificate.expires.into(),
        });
        let incidents = presence.incidents.into_iter().map(|incident| IncidentView {
            at: incident.at.into(),
            severity: match incident.severity {
                Severity::Info => "info",
                Severity::Warning => "warning",
                Severity::Error => "error",
            },
            code: incident.code.map(kakuremichi_core::code::Code::as_str),
            message: incident.message,
        });
        Self {
            connected: presence.connected.is_some(),
            elsewhere: false,
            software: presence.software,
            rtt_us: presence.rtt.map(micros),
            plan: presence.plan.map(|plan| PlanView {
                revision: plan.revision.0,
                hash: plan.hash.to_string(),
                denied: plan.denied.iter().map(ToString::to_string).collect(),
            }),
            draining: presence.status.draining,
            lanes: lanes.collect(),
            targets: targets.collect(),
            certificates: certificates.collect(),
            incidents: incidents.collect(),
        }
    }
}
