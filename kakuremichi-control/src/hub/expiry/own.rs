//! The certificate that Control itself serves: it is read again when its files change, and its end is told to the
//! organization that is always there, which is that of the server's administrators.
//!
//! What was told is a memo about that organization. Several instances tell of a certificate that they share once; of
//! different ones each tells of its own.

use std::{sync::Arc, time::SystemTime};

use kakuremichi_proto::report::CertificateStatus;
use tokio::{task::spawn_blocking, time::sleep};

use super::{LOOK, told::Told};
use crate::{hub::Hub, lease::Lease, memo, service::UseCaseError, tls::CertificateFiles};

/// The lease of whoever tells.
pub(crate) const LEASE: &str = "own-certificate";
/// The name of the memo.
const MEMO: &str = "own-certificate";

impl Hub {
    /// Looks at the files of Control's certificate. Runs for ever.
    pub(crate) async fn watch_own_certificate(self: Arc<Self>, files: Arc<CertificateFiles>) {
        let lease = self.use_cases.lease(LEASE);
        let mut known = None;
        loop {
            let looked = Arc::clone(&files);
            let read = spawn_blocking(move || {
                looked.refresh();
                looked.status()
            });
            if let Ok(Some(certificate)) = read.await
                && let Err(error) = self.look_at_own(certificate, &lease, &mut known).await
            {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "Control's certificate cannot be watched"
                );
            }
            sleep(LOOK).await;
        }
    }

    /// `known` is what was told of it, as far as it was read.
    async fn look_at_own(
        &self,
        certificate: CertificateStatus,
        lease: &Lease,
        known: &mut Option<Told>,
    ) -> Result<(), UseCaseError> {
        let (certificates, now) = ([certificate], SystemTime::now().into());
        let news = |told: &Told| told.next(&certificates, now).0 != *told;
        if known.as_ref().is_some_and(|told| !news(told)) || !lease.hold().await? {
            return Ok(());
        }
        let (store, organization) = (self.use_cases.store(), self.use_cases.start().await?.organization);
        let before = store.memo(organization.into(), MEMO).await?;
        let told = before.as_deref().map(|text| memo::read::<Told>(MEMO, text));
        let told = told.transpose()?.unwrap_or_default();
        let (own, events) = told.next(&certificates, now);
        // First the events, so that a process that dies in between repeats them rather than to lose them.
        for event in events {
            self.use_cases
                .note_event(organization, event, organization)
                .await?;
        }
        let after = own.clone().beside(&told, now);
        if after == told
            || store
                .set_memo(organization.into(), MEMO, before.as_deref(), &memo::text(&after))
                .await?
        {
            *known = Some(own);
        }
        Ok(())
    }
}
