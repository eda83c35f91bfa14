//! How long the audit is kept.
//!
//! Old entries go from the start of the chain, in parts, and the link up to which they went becomes its start: the
//! rest verifies as before. Beside the start stands a proof that only Control can make, so that whoever can write to
//! the database cannot pass entries off as pruned.

use std::{collections::BTreeMap, time::Duration};

use kakuremichi_core::{
    audit::{AuditChain, AuditLink, AuditQuery, AuditRow},
    id::OrganizationId,
    model::Channel,
    store::{Sequence, StoreError, Stored},
    time::Timestamp,
};
use ring::{
    hkdf::{HKDF_SHA256, Salt},
    hmac,
};

use crate::{
    lease::Lease,
    service::{UseCaseError, UseCases, channels, now},
};

/// The lease of whoever prunes.
pub(in crate::service) const LEASE: &str = "audit-retention";
/// How long entries are kept beyond their time that a stream of the audit has not delivered yet.
pub const MAX_HELD: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How often it is looked for what is too old.
const PRUNE: Duration = Duration::from_secs(60 * 60);

/// Proves where the audit starts, with a key that comes from Control's identity (HKDF-SHA256, RFC 5869), which is not
/// in the database.
#[derive(Debug, Clone)]
pub(crate) struct StartKey(hmac::Key);

impl StartKey {
    /// Derives the key from the private key of Control's identity.
    pub(crate) fn new(identity: &[u8]) -> Option<Self> {
        let salt = Salt::new(HKDF_SHA256, b"kakuremichi control");
        let secret = salt.extract(identity);
        let okm = secret
            .expand(&[b"start of the audit 1"], hmac::HMAC_SHA256)
            .ok()?;
        Some(Self(okm.into()))
    }

    fn proof(&self, start: &AuditLink) -> [u8; 32] {
        let mut proof = [0; 32];
        proof.copy_from_slice(hmac::sign(&self.0, &message(start)).as_ref());
        proof
    }

    /// Whether a chain starts at its first entry, or where Control pruned it to.
    pub(super) fn proves(&self, chain: &AuditChain) -> bool {
        let proven = |proof: [u8; 32]| hmac::verify(&self.0, &message(&chain.start), &proof).is_ok();
        chain.start == AuditLink::default() || chain.proof.is_some_and(proven)
    }
}

fn message(start: &AuditLink) -> Vec<u8> {
    [&start.sequence.0.to_be_bytes()[..], &start.hash].concat()
}

/// Prunes what is older than `keep`, whenever this process has the lease.
pub(crate) async fn prune_for_ever(use_cases: UseCases, keep: Duration) {
    let lease = use_cases.lease(LEASE);
    let prune = || prune(&lease, &use_cases, keep);
    lease.tend(PRUNE, "the audit cannot be pruned", prune).await;
}

async fn prune(lease: &Lease, use_cases: &UseCases, keep: Duration) -> Result<(), UseCaseError> {
    let mut pruned = 0;
    while lease.hold().await? {
        match use_cases.prune_page(keep, now()).await? {
            0 => break,
            entries => pruned += entries,
        }
    }
    if pruned > 0 {
        let actor = use_cases.control().await?;
        use_cases
            .commit(&actor, "audit.prune", actor.organization, Vec::new())
            .await?;
        tracing::info!(entries = pruned, "old entries of the audit are pruned");
    }
    Ok(())
}

impl UseCases {
    /// Prunes at most a page. Returns how many entries it was.
    pub(super) async fn prune_page(&self, keep: Duration, now: Timestamp) -> Result<usize, StoreError> {
        let store = self.store();
        let start = store.audit_chain().await?.start;
        let query = AuditQuery {
            after: Some(start.sequence),
            ..AuditQuery::default()
        };
        let rows = store.audit_rows(&query).await?;
        if rows.first().is_none_or(|row| now < row.entry.at.after(keep)) {
            return Ok(0);
        }
        let delivered = self.delivered_by_streams().await?;
        let may_go = |row: &AuditRow| {
            let held = row
                .entry
                .organization
                .and_then(|organization| delivered.get(&organization))
                .is_some_and(|delivered| row.sequence > *delivered);
            let until = if held { keep + MAX_HELD } else { keep };
            now >= row.entry.at.after(until)
        };
        let links: Vec<AuditLink> = rows
            .iter()
            .take_while(|row| may_go(row))
            .map_while(|row| {
                row.hash.map(|hash| AuditLink {
                    sequence: row.sequence,
                    hash,
                })
            })
            .collect();
        let Some(last) = links.last() else {
            return Ok(0);
        };
        let pruned = store
            .prune_audit(start, *last, self.0.audit_start.proof(last))
            .await?;
        // Whoever was faster did the same.
        Ok(if pruned { links.len() } else { 0 })
    }

    /// Up to where the slowest stream of each organization has delivered.
    async fn delivered_by_streams(&self) -> Result<BTreeMap<OrganizationId, Sequence>, StoreError> {
        let channels: Vec<Stored<Channel>> = self.store().all(None).await?;
        let mut delivered = BTreeMap::new();
        for Stored { value: channel, .. } in channels {
            if channel.is_stream() {
                let position = channels::position(self.store(), channel.id).await?;
                let position = position.map_or(Sequence::START, |position| position.sequence());
                delivered
                    .entry(channel.organization)
                    .and_modify(|slowest: &mut Sequence| *slowest = position.min(*slowest))
                    .or_insert(position);
            }
        }
        Ok(delivered)
    }
}

#[cfg(test)]
mod tests;
