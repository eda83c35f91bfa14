//! Usage.

use std::time::Duration;

use kakuremichi_core::{
    id::ServiceId,
    model::Service,
    store::{NodeUsage, Stored, UsageCounts, UsageGroup, UsageLevel, UsagePoint, UsageQuery, UsageReport},
    time::Timestamp,
};

use super::{Actor, FieldError, UseCaseError, UseCases, now};

/// The most points of one answer about usage over time.
pub const MAX_USAGE_POINTS: usize = 10_000;
/// What forgets old steps holds.
pub(super) const RETENTION: &str = "usage-retention";
/// How often old steps are forgotten.
const FORGET: Duration = Duration::from_secs(60 * 60);

/// Which usage over time somebody wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageWish {
    /// How finely.
    pub level: UsageLevel,
    /// From the step in which this time is.
    pub from: Timestamp,
    /// To the last step that begins before this time.
    pub to: Timestamp,
    /// By what.
    pub group: UsageGroup,
    /// Only of this service.
    pub service: Option<ServiceId>,
}

impl UseCases {
    /// Records what a node counted, once. Entries of services of another organization are left out: a node
    /// speaks for its own (LESSONS, advisory 10). What was counted for services that are gone stays the
    /// organization's.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn record_usage(&self, actor: &Actor, usage: NodeUsage) -> Result<UsageReport, UseCaseError> {
        let mut own = Vec::with_capacity(usage.entries.len());
        let mut unattributed = usage.unattributed;
        for entry in usage.entries {
            match self.store().get(entry.service.into()).await? {
                Some(stored) if stored.value.organization() == Some(actor.organization) => own.push(entry),
                Some(_) => {}
                None => unattributed = unattributed.plus(entry.counts),
            }
        }
        let usage = NodeUsage {
            organization: actor.organization,
            // A clock that is ahead counts for the step that is under way.
            at: usage.at.min(now()),
            entries: own,
            unattributed,
            ..usage
        };
        Ok(self.store().record_usage(&usage).await?)
    }

    /// What gateways counted for a service together.
    ///
    /// # Errors
    /// When the service is not there or the storage fails.
    pub async fn usage(&self, actor: &Actor, service: ServiceId) -> Result<UsageCounts, UseCaseError> {
        let _: Stored<Service> = self.load(actor, service).await?;
        Ok(self.store().usage_totals(service).await?)
    }

    /// What was used in the actor's organization over time, in the order of the steps; steps in which nothing was
    /// have no point.
    ///
    /// # Errors
    /// When that are more than [`MAX_USAGE_POINTS`] points, or the storage fails.
    pub async fn usage_over_time(
        &self,
        actor: &Actor,
        wish: UsageWish,
    ) -> Result<Vec<UsagePoint>, UseCaseError> {
        if wish.from >= wish.to {
            return Err(UseCaseError::field("from", "a time before `to`"));
        }
        let query = UsageQuery {
            organization: actor.organization,
            level: wish.level,
            from: wish.level.start_of(wish.from),
            to: wish.to,
            group: wish.group,
            service: wish.service,
            limit: MAX_USAGE_POINTS + 1,
        };
        let points = self.store().usage(&query).await?;
        if points.len() > MAX_USAGE_POINTS {
            let message =
                format!("more than {MAX_USAGE_POINTS} points: ask for larger steps or a shorter time");
            return Err(UseCaseError::Invalid(vec![FieldError::new("step", message)]));
        }
        Ok(points)
    }

    /// Forgets the steps that are older than their level is kept.
    pub(super) async fn forget_old_usage(&self, now: Timestamp) -> Result<(), UseCaseError> {
        for level in UsageLevel::ALL {
            let kept = i64::try_from(level.kept().as_millis()).unwrap_or(i64::MAX);
            let before = Timestamp::from_millis(now.as_millis().saturating_sub(kept));
            self.store().forget_usage(level, before).await?;
        }
        Ok(())
    }
}

/// Forgets old steps, whenever this process has the lease.
pub(crate) async fn forget_for_ever(use_cases: UseCases) {
    let forget = || use_cases.forget_old_usage(now());
    use_cases
        .lease(RETENTION)
        .tend(FORGET, "old usage cannot be forgotten", forget)
        .await;
}
