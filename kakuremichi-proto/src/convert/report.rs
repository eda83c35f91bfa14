//! What a node reports.

use std::time::Duration;

use kakuremichi_core::{
    code::Code,
    id::{ServiceId, TargetId},
    time::Timestamp,
};

use crate::{
    codec::List,
    message::{self, MAX_STATUS_ITEMS, Subject},
    report::{
        Amount, CertificateStatus, Incident, LaneStatus, MAX_CERTIFICATE_NAME, MAX_TEXT, Status,
        TargetStatus, UsageBatch, UsageKey, cut,
    },
};

impl Status {
    /// The messages for Control about lanes and targets: as many as it takes.
    #[must_use]
    pub fn to_messages(&self, subject: Subject) -> Vec<message::Status> {
        let pieces = self
            .lanes
            .len()
            .max(self.targets.len())
            .div_ceil(MAX_STATUS_ITEMS)
            .max(1);
        (0..pieces)
            .map(|piece| {
                let skip = piece * MAX_STATUS_ITEMS;
                message::Status {
                    subject,
                    replace: piece == 0,
                    draining: self.draining,
                    lanes: List::truncated(self.lanes.iter().skip(skip).map(Into::into)),
                    targets: List::truncated(self.targets.iter().skip(skip).map(Into::into)),
                }
            })
            .collect()
    }
}

impl From<message::Status> for Status {
    fn from(status: message::Status) -> Self {
        Self {
            draining: status.draining,
            lanes: status.lanes.into_vec().into_iter().map(Into::into).collect(),
            targets: status.targets.into_vec().into_iter().map(Into::into).collect(),
            certificates: Vec::new(),
        }
    }
}

impl message::Certificates {
    /// The message for Control. When there are more than fit, those that end last are left out.
    #[must_use]
    pub fn new(subject: Subject, certificates: &[CertificateStatus]) -> Self {
        let mut first: Vec<&CertificateStatus> = certificates.iter().collect();
        first.sort_unstable();
        Self {
            subject,
            certificates: List::truncated(first.into_iter().map(Into::into)),
        }
    }

    /// The certificates.
    #[must_use]
    pub fn read(self) -> Vec<CertificateStatus> {
        self.certificates.into_vec().into_iter().map(Into::into).collect()
    }
}

impl From<&CertificateStatus> for message::CertificateStatus {
    fn from(certificate: &CertificateStatus) -> Self {
        Self {
            name: cut(certificate.name.clone(), MAX_CERTIFICATE_NAME),
            more: certificate.more,
            since: certificate.since.as_millis(),
            expires: certificate.expires.as_millis(),
        }
    }
}

impl From<message::CertificateStatus> for CertificateStatus {
    fn from(certificate: message::CertificateStatus) -> Self {
        Self {
            expires: Timestamp::from_millis(certificate.expires),
            since: Timestamp::from_millis(certificate.since),
            name: cut(certificate.name, MAX_CERTIFICATE_NAME),
            more: certificate.more,
        }
    }
}

/// The longest text about one lane or target, in bytes, so that a full status fits in a frame.
const MAX_ITEM_TEXT: usize = 128;

fn item_text(text: Option<&String>) -> Option<String> {
    text.map(|text| cut(text.clone(), MAX_ITEM_TEXT))
}

impl From<&LaneStatus> for message::LaneStatus {
    fn from(lane: &LaneStatus) -> Self {
        Self {
            end: lane.end.into(),
            kind: lane.kind,
            state: lane.state,
            rtt: lane
                .rtt
                .map(|rtt| u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX)),
            since: lane.since.as_millis(),
            error: item_text(lane.error.as_ref()),
        }
    }
}

impl From<message::LaneStatus> for LaneStatus {
    fn from(lane: message::LaneStatus) -> Self {
        Self {
            end: lane.end.into(),
            kind: lane.kind,
            state: lane.state,
            rtt: lane.rtt.map(|rtt| Duration::from_micros(rtt.into())),
            since: Timestamp::from_millis(lane.since),
            error: item_text(lane.error.as_ref()),
        }
    }
}

impl From<&TargetStatus> for message::TargetStatus {
    fn from(target: &TargetStatus) -> Self {
        Self {
            target: *target.target.as_bytes(),
            state: target.state,
            since: target.since.as_millis(),
            error: item_text(target.error.as_ref()),
        }
    }
}

impl From<message::TargetStatus> for TargetStatus {
    fn from(target: message::TargetStatus) -> Self {
        Self {
            target: TargetId::from_bytes(target.target),
            state: target.state,
            since: Timestamp::from_millis(target.since),
            error: item_text(target.error.as_ref()),
        }
    }
}

impl Incident {
    /// The message for Control.
    #[must_use]
    pub fn to_message(&self, subject: Subject, lost: u32) -> message::Event {
        message::Event {
            subject,
            at: self.at.as_millis(),
            severity: self.severity,
            code: self.code.map(|code| code.as_str().to_owned()),
            message: cut(self.message.clone(), MAX_TEXT),
            lost,
        }
    }
}

impl From<message::Event> for Incident {
    fn from(event: message::Event) -> Self {
        Self {
            at: Timestamp::from_millis(event.at),
            severity: event.severity,
            code: event.code.as_deref().and_then(Code::from_text),
            message: cut(event.message, MAX_TEXT),
        }
    }
}

impl UsageBatch {
    /// The message for Control.
    #[must_use]
    pub fn to_message(&self, subject: Subject) -> message::Usage {
        message::Usage {
            subject,
            epoch: self.key.epoch,
            sequence: self.key.sequence,
            from: self.from.as_millis(),
            to: self.to.as_millis(),
            entries: List::truncated(self.entries.iter().copied().map(Into::into)),
        }
    }
}

impl From<message::Usage> for UsageBatch {
    fn from(usage: message::Usage) -> Self {
        Self {
            key: UsageKey {
                epoch: usage.epoch,
                sequence: usage.sequence,
            },
            from: Timestamp::from_millis(usage.from),
            to: Timestamp::from_millis(usage.to),
            entries: usage.entries.into_vec().into_iter().map(Into::into).collect(),
        }
    }
}

impl From<(Option<ServiceId>, Amount)> for message::UsageEntry {
    fn from((service, amount): (Option<ServiceId>, Amount)) -> Self {
        Self {
            service: service.map(|id| *id.as_bytes()),
            connections: amount.connections,
            requests: amount.requests,
            received: amount.received,
            sent: amount.sent,
        }
    }
}

impl From<message::UsageEntry> for (Option<ServiceId>, Amount) {
    fn from(entry: message::UsageEntry) -> Self {
        let amount = Amount {
            connections: entry.connections,
            requests: entry.requests,
            received: entry.received,
            sent: entry.sent,
        };
        (entry.service.map(ServiceId::from_bytes), amount)
    }
}
