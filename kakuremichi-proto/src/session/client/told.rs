//! What Control was told of lanes, targets and certificates on this connection, so that only what differs is said.

use std::{collections::BTreeMap, time::Duration};

use kakuremichi_core::id::TargetId;

use crate::{
    frame::Message,
    message::{self, Subject},
    report::{CertificateStatus, LaneEnd, LaneStatus, Status, TargetStatus},
};

/// A round-trip time that moved by less than this, or by less than a quarter of what it was, is not worth telling: with
/// many lanes one always moves a little.
const RTT_MOVED: Duration = Duration::from_millis(5);

/// What Control was told on this connection. As large as the newest status.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// `None` before anything was.
    draining: Option<bool>,
    lanes: BTreeMap<LaneEnd, LaneStatus>,
    targets: BTreeMap<TargetId, TargetStatus>,
    /// Nothing is as good as none.
    certificates: Vec<CertificateStatus>,
}

impl Told {
    /// The messages after which Control knows `status`.
    pub(super) fn update(&mut self, status: &Status, subject: Subject) -> Vec<Message> {
        let certificates = self.certificates(status, subject);
        let states = self.states(status, subject);
        states
            .into_iter()
            .map(Message::from)
            .chain(certificates.map(Message::from))
            .collect()
    }

    fn certificates(&mut self, status: &Status, subject: Subject) -> Option<message::Certificates> {
        if self.certificates == status.certificates {
            return None;
        }
        self.certificates.clone_from(&status.certificates);
        Some(message::Certificates::new(subject, &status.certificates))
    }

    /// What there is to tell of lanes and targets. What is not there any more can only be told by telling everything.
    fn states(&mut self, status: &Status, subject: Subject) -> Vec<message::Status> {
        if self.draining.is_none() || self.is_more_than(status) {
            (self.lanes, self.targets) = (BTreeMap::new(), BTreeMap::new());
            self.remember(status);
            return status.to_messages(subject);
        }
        let lanes = status.lanes.iter().filter(|lane| {
            let told = self.lanes.get(&lane.end);
            told.is_none_or(|told| is_news(told, lane))
        });
        let targets = status
            .targets
            .iter()
            .filter(|target| self.targets.get(&target.target) != Some(target));
        let news = Status {
            draining: status.draining,
            lanes: lanes.cloned().collect(),
            targets: targets.cloned().collect(),
            certificates: Vec::new(),
        };
        if self.draining == Some(news.draining) && news.lanes.is_empty() && news.targets.is_empty() {
            return Vec::new();
        }
        self.remember(&news);
        let mut messages = news.to_messages(subject);
        for message in &mut messages {
            message.replace = false;
        }
        messages
    }

    /// Whether anything was told of that is not in `status`.
    fn is_more_than(&self, status: &Status) -> bool {
        let known = |lane: &&LaneStatus| self.lanes.contains_key(&lane.end);
        let checked = |target: &&TargetStatus| self.targets.contains_key(&target.target);
        // Each stands in a status once.
        status.lanes.iter().filter(known).count() < self.lanes.len()
            || status.targets.iter().filter(checked).count() < self.targets.len()
    }

    fn remember(&mut self, status: &Status) {
        self.draining = Some(status.draining);
        let lanes = status.lanes.iter().map(|lane| (lane.end, lane.clone()));
        self.lanes.extend(lanes);
        let targets = status
            .targets
            .iter()
            .map(|target| (target.target, target.clone()));
        self.targets.extend(targets);
    }
}

/// Whether there is more to tell of a lane than a round-trip time that moved a little.
fn is_news(told: &LaneStatus, now: &LaneStatus) -> bool {
    let same = told.kind == now.kind
        && told.state == now.state
        && told.since == now.since
        && told.error == now.error;
    !same || moved(told.rtt, now.rtt)
}

fn moved(told: Option<Duration>, now: Option<Duration>) -> bool {
    let (Some(told), Some(now)) = (told, now) else {
        return told != now;
    };
    told.abs_diff(now) > RTT_MOVED.max(told / 4)
}

#[cfg(test)]
mod tests {
    use kakuremichi_core::{id::AgentId, time::Timestamp};

    use super::*;
    use crate::{
        frame::Tag,
        message::MAX_STATUS_ITEMS,
        report::{LaneKind, LaneState},
        testing::samples,
    };

    fn lane(n: u16, state: LaneState, rtt: u64) -> LaneStatus {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&n.to_be_bytes());
        LaneStatus {
            end: LaneEnd::Agent(AgentId::from_bytes(id)),
            kind: LaneKind::WireGuard,
            state,
            rtt: Some(Duration::from_millis(rtt)),
            since: Timestamp::from_millis(7),
            error: None,
        }
    }

    fn status(lanes: impl IntoIterator<Item = LaneStatus>) -> Status {
        Status {
            draining: false,
            lanes: lanes.into_iter().collect(),
            targets: Vec::new(),
            certificates: Vec::new(),
        }
    }

    fn lanes(messages: Vec<message::Status>) -> Vec<usize> {
        let count = |message: message::Status| Status::from(message).lanes.len();
        messages.into_iter().map(count).collect()
    }

    #[test]
    fn of_many_lanes_only_those_that_changed_are_told() {
        let subject = samples::subject();
        let mut told = Told::default();
        let many = MAX_STATUS_ITEMS as u16 + 1;
        let up = |n| lane(n, LaneState::Up, 20);
        let all = status((0..many).map(up));
        let first = told.states(&all, subject);
        assert!(first[0].replace && !first[1].replace);
        assert_eq!(lanes(first), [MAX_STATUS_ITEMS, 1]);
        assert!(told.states(&all, subject).is_empty(), "nothing is news");

        let jittery = status((0..many).map(|n| lane(n, LaneState::Up, 20 + u64::from(n % 6))));
        assert!(told.states(&jittery, subject).is_empty());
        let mut changed = all.clone();
        changed.lanes[3] = lane(3, LaneState::Down, 20);
        changed.lanes[4] = lane(4, LaneState::Up, 40);
        let news = told.states(&changed, subject);
        assert!(!news[0].replace);
        assert_eq!(lanes(news), [2]);

        let more = status((0..=many).map(up));
        assert_eq!(lanes(told.states(&more, subject)), [3]);
        // One is gone: everything is told.
        let fewer = told.states(&status((1..many).map(up)), subject);
        assert!(fewer[0].replace);
        assert_eq!(lanes(fewer), [MAX_STATUS_ITEMS]);
    }

    #[test]
    fn a_node_that_drains_says_so_at_once() {
        let subject = samples::subject();
        let mut told = Told::default();
        let mut now = samples::status();
        now.draining = false;
        told.states(&now, subject);
        now.draining = true;
        let news = told.states(&now, subject);
        let [news] = news.as_slice() else {
            panic!("one message")
        };
        assert!(news.draining && !news.replace);
    }

    #[test]
    fn certificates_are_told_when_they_change() {
        let subject = samples::subject();
        let (mut told, mut now) = (Told::default(), samples::status());
        now.certificates = samples::certificates();
        let tags = |messages: Vec<Message>| messages.iter().map(Message::tag).collect::<Vec<_>>();
        assert_eq!(tags(told.update(&now, subject)), [Tag::Status, Tag::Certificates]);
        assert_eq!(tags(told.update(&now, subject)), []);
        now.certificates.clear();
        assert_eq!(tags(told.update(&now, subject)), [Tag::Certificates]);
    }
}
