//! A plan that does not change by itself.

use std::{fs, path::Path};

use kakuremichi_core::{id::NodeId, plan::Plan};
use kakuremichi_proto::plan::WirePlan;

use super::{LinkEnd, LinkStatus, NodeRecord, PlanSource, SetupError, SourceFuture, Supply};

/// A plan from a file or a value, for set-ups without Control.
///
/// Declarations are never answered with a new service: only what the plan has can be served.
#[derive(Debug, Clone)]
pub struct FixedPlan<R: NodeRecord> {
    plan: Plan<R>,
}

impl<R: NodeRecord> FixedPlan<R> {
    /// Takes a plan. The keys in it that are the node's own are those of its state directory, see
    /// [`StateDir::keys`](crate::state::StateDir::keys).
    #[must_use]
    pub const fn new(plan: Plan<R>) -> Self {
        Self { plan }
    }

    /// Reads the plan from a file as [`WirePlan::to_bytes`] makes it, which is also the form of the file
    /// `plan` in a state directory: a node can be run from what another Control left.
    ///
    /// # Errors
    /// When the file cannot be read, or holds no plan of such a node.
    pub fn from_file(path: &Path) -> Result<Self, SetupError> {
        let bytes = fs::read(path).map_err(SetupError::PlanFile)?;
        let wire = WirePlan::from_bytes(&bytes)?;
        let subject = wire.records().find_map(|record| match R::from_wire(record) {
            Ok(Some(record)) => record.subject(),
            Ok(None) | Err(_) => None,
        });
        let this: NodeId = subject.ok_or(SetupError::PlanRole)?;
        let decoded = wire.to_plan(this).map_err(|_| SetupError::PlanRole)?;
        for rejected in &decoded.rejected {
            tracing::warn!(tag = rejected.tag, service = ?rejected.service, why = %rejected.why, "a record of the plan is not understood");
        }
        Ok(Self { plan: decoded.plan })
    }
}

impl<R: NodeRecord> PlanSource<R> for FixedPlan<R> {
    fn open(&self, supply: Supply<R>) -> Result<SourceFuture, SetupError> {
        supply.publish(self.plan.clone());
        supply.set_status(LinkStatus::Fixed);
        Ok(Box::pin(async move {
            supply.stopping().await;
            LinkEnd::Stopped
        }))
    }
}
