//! Tells organizations when a certificate that visitors of a gateway see is about to end, and when it has ended: by
//! entries of the audit, which notification channels send on.
//!
//! Each instance looks at the gateways that are connected to it. What was told is a memo about the gateway, so that
//! neither a reconnect nor a restart tells it again.

mod own;
mod told;

pub(crate) use own::LEASE as OWN_CERTIFICATE;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use kakuremichi_core::{
    id::{NodeId, OrganizationId},
    model::Node,
};
use kakuremichi_proto::report::CertificateStatus;
use tokio::time::sleep;

use self::told::Told;
use super::Hub;
use crate::{memo, service::UseCaseError};

/// The name of the memo.
const MEMO: &str = "certificates";
/// How often it is looked.
const LOOK: Duration = Duration::from_secs(5);

impl Hub {
    /// Watches the certificates of gateways that are connected here. Runs for ever.
    pub(crate) async fn watch_certificates(self: Arc<Self>) {
        let mut known = BTreeMap::new();
        loop {
            let gateways = self.registry.certificates();
            known.retain(|id, _| gateways.iter().any(|(node, ..)| node == id));
            for (node, organization, certificates) in gateways {
                if let Err(error) = self
                    .look_at_certificates((node, organization), &certificates, &mut known)
                    .await
                {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        %node,
                        "the certificates of a gateway cannot be watched"
                    );
                }
            }
            sleep(LOOK).await;
        }
    }

    /// `known` is what was told of each gateway, as far as it was read.
    async fn look_at_certificates(
        &self,
        (node, organization): (NodeId, OrganizationId),
        certificates: &[CertificateStatus],
        known: &mut BTreeMap<NodeId, Told>,
    ) -> Result<(), UseCaseError> {
        let now = SystemTime::now().into();
        if let Some(told) = known.get(&node)
            && told.next(certificates, now).0 == *told
        {
            return Ok(());
        }
        let store = self.use_cases.store();
        if store.entity::<Node>(node).await?.is_none() {
            return Ok(());
        }
        let before = store.memo(node.into(), MEMO).await?;
        let told = before.as_deref().map(|text| memo::read::<Told>(MEMO, text));
        let told = told.transpose()?.unwrap_or_default();
        let (after, events) = told.next(certificates, now);
        // First the events, so that a process that dies in between repeats them rather than to lose them.
        for event in events {
            self.use_cases.note_event(organization, event, node).await?;
        }
        if after == told
            || store
                .set_memo(node.into(), MEMO, before.as_deref(), &memo::text(&after))
                .await?
        {
            known.insert(node, after);
        }
        Ok(())
    }
}
