//! Between the domain's plans and those on the wire.

use std::collections::BTreeSet;

use kakuremichi_core::{
    id::{NodeId, ServiceId},
    plan::{Plan, Record},
};

use super::{PlanError, WirePlan, WireRecord};
use crate::convert::Invalid;

/// A domain record that has a form on the wire.
pub trait PlanRecord: Record {
    /// The record for the wire.
    ///
    /// # Errors
    /// When a field has no form on the wire, or the record is too large.
    fn to_wire(&self) -> Result<WireRecord, EncodePlanError>;

    /// The record from the wire; `None` when its tag is not known here.
    ///
    /// # Errors
    /// When a field is not valid.
    fn from_wire(record: &WireRecord) -> Result<Option<Self>, Invalid>;

    /// The node for which the plan is, if this record says it.
    fn subject(&self) -> Option<NodeId>;
}

/// A plan cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodePlanError {
    /// A field has no form on the wire.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// It is past a bound.
    #[error(transparent)]
    TooLarge(#[from] PlanError),
}

/// The plan is for another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the plan is for {for_node}, this is {this}")]
pub struct WrongNode {
    /// This node.
    pub this: NodeId,
    /// The node in the plan.
    pub for_node: NodeId,
}

/// A domain plan, and what of the wire plan is missing in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded<R: Record> {
    /// The plan. No service is in it of which a record was rejected.
    pub plan: Plan<R>,
    /// The records that were not understood.
    pub rejected: Vec<Rejected>,
}

impl<R: Record> Decoded<R> {
    /// The services that are denied because a record of theirs was rejected.
    #[must_use]
    pub fn denied(&self) -> Vec<ServiceId> {
        let services: BTreeSet<_> = self.rejected.iter().filter_map(|record| record.service).collect();
        services.into_iter().collect()
    }
}

/// A record that was not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Its tag.
    pub tag: u16,
    /// The service that it belongs to, which is denied.
    pub service: Option<ServiceId>,
    /// Why it was not.
    pub why: Rejection,
}

/// Why a record was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// This build does not know the tag.
    #[error("this version does not know records of this kind")]
    UnknownTag,
    /// A field is not valid.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

impl WirePlan {
    /// Makes the wire's plan of a domain plan.
    ///
    /// # Errors
    /// When a field has no form on the wire, or the plan is too large.
    pub fn from_plan<R: PlanRecord>(plan: &Plan<R>) -> Result<Self, EncodePlanError> {
        let records: Vec<_> = plan.records().map(R::to_wire).collect::<Result<_, _>>()?;
        Ok(Self::new(plan.revision(), records)?)
    }

    /// Makes the domain's plan of the wire's. What is not understood is left out, together with all
    /// else of the service that it belongs to, and reported: better not served than served wrongly.
    ///
    /// # Errors
    /// When the plan is for another node than `this`.
    pub fn to_plan<R: PlanRecord>(&self, this: NodeId) -> Result<Decoded<R>, WrongNode> {
        let mut rejected = Vec::new();
        let mut records = Vec::with_capacity(self.records().len());
        for wire in self.records() {
            let why = match understand::<R>(wire) {
                Ok(record) => {
                    if let Some(for_node) = record.subject().filter(|node| *node != this) {
                        return Err(WrongNode { this, for_node });
                    }
                    records.push(record);
                    continue;
                }
                Err(why) => why,
            };
            rejected.push(Rejected {
                tag: wire.tag(),
                service: wire.service(),
                why,
            });
        }
        let mut decoded = Decoded {
            plan: Plan::default(),
            rejected,
        };
        let denied = decoded.denied();
        records.retain(|record| {
            record
                .service()
                .is_none_or(|service| denied.binary_search(&service).is_err())
        });
        decoded.plan = Plan::new(self.revision(), records);
        Ok(decoded)
    }
}

fn understand<R: PlanRecord>(wire: &WireRecord) -> Result<R, Rejection> {
    let record = R::from_wire(wire)?.ok_or(Rejection::UnknownTag)?;
    // The service outside the body is what a node goes by that cannot read the body.
    if record.service() != wire.service() {
        return Err(Invalid::mismatch("service").into());
    }
    Ok(record)
}
