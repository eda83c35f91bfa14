//! What the node wants Control to know. It survives connections.

use std::{collections::VecDeque, time::Instant};

use kakuremichi_core::{key::SigningKey, name::Label};

use super::{declarations::Declarations, told::Told};
use crate::{
    frame::Message,
    message::{self, Subject},
    report::{Incident, NodeInfo, Status, UsageKey},
    session::{MAX_INCIDENTS, UsageQueue},
};

#[derive(Debug)]
pub(super) struct Outbox {
    info: NodeInfo,
    info_due: bool,
    /// What a gateway signs with; agents, and gateways that nobody signs in at, say nothing.
    signing_keys: Option<Vec<SigningKey>>,
    signing_keys_due: bool,
    status: Option<Status>,
    /// The pieces of a status that are not sent. The next one is looked at when they are.
    status_due: VecDeque<Message>,
    status_stale: bool,
    told: Told,
    declarations: Declarations,
    usage: UsageQueue,
    /// The newest batch that was sent on this connection.
    usage_sent: u64,
    incidents: VecDeque<Incident>,
    lost_incidents: u32,
}

impl Outbox {
    pub(super) fn new(usage: UsageQueue) -> Self {
        Self {
            info: NodeInfo::default(),
            info_due: true,
            signing_keys: None,
            signing_keys_due: false,
            status: None,
            status_due: VecDeque::new(),
            status_stale: false,
            told: Told::default(),
            declarations: Declarations::default(),
            usage,
            usage_sent: 0,
            incidents: VecDeque::new(),
            lost_incidents: 0,
        }
    }

    pub(super) const fn usage(&self) -> &UsageQueue {
        &self.usage
    }

    pub(super) const fn usage_mut(&mut self) -> &mut UsageQueue {
        &mut self.usage
    }

    pub(super) const fn declarations(&mut self) -> &mut Declarations {
        &mut self.declarations
    }

    pub(super) fn set_info(&mut self, info: NodeInfo) {
        self.info = info;
        self.info_due = true;
    }

    pub(super) fn set_signing_keys(&mut self, keys: Vec<SigningKey>) {
        self.signing_keys = Some(keys);
        self.signing_keys_due = true;
    }

    pub(super) fn set_status(&mut self, status: Status) {
        self.status = Some(status);
        self.status_stale = true;
    }

    pub(super) fn report(&mut self, incident: Incident) {
        if self.incidents.len() >= MAX_INCIDENTS {
            self.incidents.pop_front();
            self.lost_incidents = self.lost_incidents.saturating_add(1);
        }
        self.incidents.push_back(incident);
    }

    /// Everything is to be said again.
    pub(super) fn disconnected(&mut self, nonce: &[u8; 32]) {
        self.info_due = true;
        self.signing_keys_due = self.signing_keys.is_some();
        self.status_stale = self.status.is_some();
        self.status_due.clear();
        self.told = Told::default();
        self.usage_sent = 0;
        self.declarations.disconnected(nonce);
    }

    pub(super) fn resume(&self, subject: Subject) -> message::Resume {
        let names = self.declarations.names().map(|name| name.as_str().to_owned());
        message::Resume {
            subject,
            plan: None,
            denied: Default::default(),
            declarations: crate::codec::List::truncated(names),
            request_next: self.declarations.next_request(),
            usage_epoch: self.usage.next_key().epoch,
            usage_next: self.usage.next_key().sequence,
        }
    }

    pub(super) fn acknowledge_usage(&mut self, ack: message::UsageAck) {
        self.usage.acknowledge(UsageKey {
            epoch: ack.epoch,
            sequence: ack.sequence,
        });
    }

    pub(super) fn expire(&mut self, now: Instant) -> Vec<Label> {
        self.declarations.expire(now)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.declarations.poll_timeout()
    }

    /// The next thing to say, the more urgent first.
    pub(super) fn poll(&mut self, subject: Subject, now: Instant) -> Option<Message> {
        if std::mem::take(&mut self.info_due) {
            return Some(self.info.to_message(subject).into());
        }
        if std::mem::take(&mut self.signing_keys_due)
            && let Some(keys) = &self.signing_keys
        {
            return Some(message::SigningKeys::new(subject, keys).into());
        }
        if let Some(message) = self.declarations.poll(subject, now) {
            return Some(message);
        }
        if self.status_due.is_empty()
            && std::mem::take(&mut self.status_stale)
            && let Some(status) = &self.status
        {
            self.status_due = self.told.update(status, subject).into();
        }
        if let Some(piece) = self.status_due.pop_front() {
            return Some(piece);
        }
        if let Some(batch) = self.usage.sealed_after(self.usage_sent) {
            self.usage_sent = batch.key.sequence;
            return Some(batch.to_message(subject).into());
        }
        let incident = self.incidents.pop_front()?;
        let lost = std::mem::take(&mut self.lost_incidents);
        Some(incident.to_message(subject, lost).into())
    }
}
