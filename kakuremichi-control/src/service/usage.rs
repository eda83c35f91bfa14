//! Usage.

use kakuremichi_core::{
    id::{NodeId, ServiceId},
    model::Service,
    store::{Stored, UsageCounts, UsageEntry, UsageReport},
};

use super::{Actor, UseCaseError, UseCases};

impl UseCases {
    /// Records what a node counted, once. Entries of services that are not of the node's organization are
    /// left out: a node speaks for its own (LESSONS, advisory 10).
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn record_usage(
        &self,
        node: NodeId,
        actor: &Actor,
        report: UsageReport,
        entries: &[UsageEntry],
    ) -> Result<UsageReport, UseCaseError> {
        let mut own = Vec::with_capacity(entries.len());
        for entry in entries {
            match self.load::<Service>(actor, entry.service).await {
                Ok(_) => own.push(*entry),
                Err(UseCaseError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.store().record_usage(node, report, &own).await?)
    }

    /// What was counted for a service by all nodes together.
    ///
    /// # Errors
    /// When the service is not there or the storage fails.
    pub async fn usage(&self, actor: &Actor, service: ServiceId) -> Result<UsageCounts, UseCaseError> {
        let _: Stored<Service> = self.load(actor, service).await?;
        Ok(self.store().usage_totals(service).await?)
    }
}
