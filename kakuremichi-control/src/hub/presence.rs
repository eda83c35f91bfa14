//! What Control knows of a node's connection, in memory.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use kakuremichi_core::{
    id::{ServiceId, TargetId},
    plan::Revision,
    time::Timestamp,
};
use kakuremichi_proto::{
    plan::PlanHash,
    report::{CertificateStatus, Incident, LaneEnd, LaneStatus, Status, TargetStatus},
};

/// The most lanes, and the most targets, that are remembered of one node. What would be more is left out.
pub const MAX_STATES_KEPT: usize = 16 * 1024;
/// The last incidents of a node that are remembered; the oldest gives way.
pub const MAX_INCIDENTS_KEPT: usize = 32;

/// What is known of a node's connection. A node that was not seen since Control started has the default.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Presence {
    /// Since when it is connected, if it is.
    pub connected: Option<Timestamp>,
    /// When its last connection ended.
    pub disconnected: Option<Timestamp>,
    /// The version of its software.
    pub software: Option<String>,
    /// The time from a ping to its answer.
    pub rtt: Option<Duration>,
    /// The plan that it has applied.
    pub plan: Option<PlanStatus>,
    /// Its lanes and targets.
    pub status: NodeStatus,
    /// What happened lately, newest last.
    pub incidents: VecDeque<Incident>,
}

/// The plan that a node has applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanStatus {
    /// Its revision.
    pub revision: Revision,
    /// Its hash.
    pub hash: PlanHash,
    /// The services that the node denies because it does not understand a record of theirs.
    pub denied: Vec<ServiceId>,
}

/// The state of what a node has.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeStatus {
    /// Whether it takes no new flows.
    pub draining: bool,
    /// Its lanes.
    pub lanes: BTreeMap<LaneEnd, LaneStatus>,
    /// The targets that it checks.
    pub targets: BTreeMap<TargetId, TargetStatus>,
    /// The certificates that visitors of a gateway may see, and that do not renew themselves.
    pub certificates: Vec<CertificateStatus>,
}

impl NodeStatus {
    /// Takes what a node says: all there is, or what is to be added.
    pub(super) fn apply(&mut self, status: Status, replace: bool) {
        if replace {
            (self.lanes, self.targets) = (BTreeMap::new(), BTreeMap::new());
        }
        self.draining = status.draining;
        for lane in status.lanes {
            if self.lanes.len() < MAX_STATES_KEPT || self.lanes.contains_key(&lane.end) {
                self.lanes.insert(lane.end, lane);
            }
        }
        for target in status.targets {
            if self.targets.len() < MAX_STATES_KEPT || self.targets.contains_key(&target.target) {
                self.targets.insert(target.target, target);
            }
        }
    }
}

impl Presence {
    pub(super) fn remember(&mut self, incident: Incident) {
        if self.incidents.len() >= MAX_INCIDENTS_KEPT {
            self.incidents.pop_front();
        }
        self.incidents.push_back(incident);
    }
}
