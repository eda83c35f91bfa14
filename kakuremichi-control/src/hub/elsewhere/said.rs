//! What one instance tells another of a node: in the messages of the node itself.

use std::time::Duration;

use kakuremichi_core::{id::NodeId, plan::Revision, time::Timestamp};
use kakuremichi_proto::{
    message::{self, Subject},
    plan::PlanHash,
    report::Status,
};
use serde::{Deserialize, Serialize};

use crate::hub::{NodeStatus, PlanStatus, Presence};

/// What is known of a node.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Said {
    connected: Option<i64>,
    software: Option<String>,
    rtt_us: Option<u64>,
    plan: Option<Plan>,
    statuses: Vec<message::Status>,
    certificates: message::Certificates,
    incidents: Vec<message::Event>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    revision: u64,
    hash: [u8; 32],
    denied: Vec<String>,
}

impl Said {
    pub(super) fn of(node: NodeId, presence: &Presence) -> Self {
        let subject = Subject {
            node: node.into(),
            session: 0,
        };
        let status = Status {
            draining: presence.status.draining,
            lanes: presence.status.lanes.values().cloned().collect(),
            targets: presence.status.targets.values().cloned().collect(),
            certificates: Vec::new(),
        };
        let micros = |rtt: Duration| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
        Self {
            connected: presence.connected.map(Timestamp::as_millis),
            software: presence.software.clone(),
            rtt_us: presence.rtt.map(micros),
            plan: presence.plan.as_ref().map(|plan| Plan {
                revision: plan.revision.0,
                hash: plan.hash.0,
                denied: plan.denied.iter().map(ToString::to_string).collect(),
            }),
            statuses: status.to_messages(subject),
            certificates: message::Certificates::new(subject, &presence.status.certificates),
            incidents: presence
                .incidents
                .iter()
                .map(|incident| incident.to_message(subject, 0))
                .collect(),
        }
    }

    pub(super) fn presence(self) -> Presence {
        let mut status = NodeStatus::default();
        for piece in self.statuses {
            let replace = piece.replace;
            status.apply(piece.into(), replace);
        }
        status.certificates = self.certificates.read();
        Presence {
            connected: self.connected.map(Timestamp::from_millis),
            disconnected: None,
            software: self.software,
            rtt: self.rtt_us.map(Duration::from_micros),
            plan: self.plan.map(|plan| PlanStatus {
                revision: Revision(plan.revision),
                hash: PlanHash(plan.hash),
                denied: plan.denied.iter().filter_map(|id| id.parse().ok()).collect(),
            }),
            status,
            incidents: self.incidents.into_iter().map(Into::into).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use kakuremichi_core::{id::TargetId, store::conformance::sample};
    use kakuremichi_proto::report::{
        CertificateStatus, Incident, LaneEnd, LaneKind, LaneState, LaneStatus, Severity, TargetState,
        TargetStatus,
    };

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn status() -> Status {
        let NodeId::Agent(agent) = sample::agent(0, 1).id else {
            panic!("an agent")
        };
        Status {
            draining: true,
            lanes: vec![LaneStatus {
                end: LaneEnd::Agent(agent),
                kind: LaneKind::TlsStream,
                state: LaneState::Up,
                rtt: Some(Duration::from_micros(1500)),
                since: NOW,
                error: Some("no answer".to_owned()),
            }],
            targets: vec![TargetStatus {
                target: TargetId::from_bytes([14; 16]),
                state: TargetState::Failing,
                since: NOW,
                error: None,
            }],
            certificates: Vec::new(),
        }
    }

    #[test]
    fn what_is_told_is_what_is_known() {
        let mut presence = Presence {
            connected: Some(Timestamp::from_millis(7)),
            software: Some("1.2.3".to_owned()),
            rtt: Some(Duration::from_micros(1500)),
            plan: Some(PlanStatus {
                revision: Revision(3),
                hash: PlanHash([9; 32]),
                denied: vec![sample::http_service(0, 4).id],
            }),
            ..Presence::default()
        };
        presence.status.apply(status(), true);
        presence.status.certificates.push(CertificateStatus {
            expires: NOW,
            since: Timestamp::from_millis(0),
            name: "a.example.net".to_owned(),
            more: 2,
        });
        presence.incidents.push_back(Incident {
            at: NOW,
            severity: Severity::Warning,
            code: None,
            message: "the disk is full".to_owned(),
        });
        let text = serde_json::to_string(&Said::of(sample::gateway(0, 2).id, &presence)).unwrap();
        let said: Said = serde_json::from_str(&text).unwrap();
        assert_eq!(said.presence(), presence);
    }
}
