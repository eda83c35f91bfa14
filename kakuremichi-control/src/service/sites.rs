//! Stock WireGuard devices.

use std::net::IpAddr;

use kakuremichi_core::{
    id::SiteId,
    key::WireGuardKey,
    model::{Service, Site, TargetPlace},
    name::Label,
    net::{Cidr, Endpoint, OVERLAY_V4, Overlay},
    store::{Mutation, Stored, UniqueKey, Version},
};

use super::{
    ATTEMPTS, Actor, ENCODED_NODE, FieldError, UseCaseError, UseCases, at_version, enrol::random_v4, now,
    random, update, written,
};

/// The most networks behind one device.
pub const MAX_NETWORKS: usize = 256;

/// The most bytes that a network has in a plan.
const ENCODED_NETWORK: usize = 24;

/// A device as somebody describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteDraft {
    /// Its name.
    pub name: Label,
    /// Its public key.
    pub wireguard: WireGuardKey,
    /// The networks behind it.
    pub networks: Vec<Cidr>,
    /// Where it listens, if gateways are to reach out.
    pub endpoint: Option<Endpoint>,
}

impl UseCases {
    /// Adds a device, and gives it an address in the overlay.
    ///
    /// # Errors
    /// When the draft is not valid, its name or key is taken, or the storage fails.
    pub async fn create_site(&self, actor: &Actor, draft: SiteDraft) -> Result<Stored<Site>, UseCaseError> {
        self.check_site(&draft).await?;
        self.room_for(actor, encoded_len(&draft))?;
        for _ in 0..ATTEMPTS {
            let site = Site {
                id: SiteId::from_bytes(random()?),
                organization: actor.organization,
                name: draft.name.clone(),
                wireguard: draft.wireguard,
                address_v4: random_v4()?,
                networks: draft.networks.clone(),
                endpoint: draft.endpoint.clone(),
                created: now(),
            };
            let create = vec![Mutation::Create(site.clone().into())];
            match self
                .commit(actor, "site.create", site.id, create)
                .await
                .map_err(Into::into)
            {
                Ok(_) => return Ok(written(site, None)),
                Err(UseCaseError::Taken(UniqueKey::OverlayV4(_)) | UseCaseError::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Err(UseCaseError::Contended)
    }

    /// Reads a device.
    ///
    /// # Errors
    /// When it is not there or the storage fails.
    pub async fn site(&self, actor: &Actor, id: SiteId) -> Result<Stored<Site>, UseCaseError> {
        self.load(actor, id).await
    }

    /// Describes a device anew. Its address stays.
    ///
    /// # Errors
    /// When it is not there, has changed since `expected`, the draft is not valid, leaves out a network in
    /// which a service has a target, or the storage fails.
    pub async fn update_site(
        &self,
        actor: &Actor,
        id: SiteId,
        draft: SiteDraft,
        expected: Option<Version>,
    ) -> Result<Stored<Site>, UseCaseError> {
        self.check_site(&draft).await?;
        for _ in 0..ATTEMPTS {
            let stored = self.site(actor, id).await?;
            at_version(&stored, expected)?;
            let site = Site {
                name: draft.name.clone(),
                wireguard: draft.wireguard,
                networks: draft.networks.clone(),
                endpoint: draft.endpoint.clone(),
                ..stored.value.clone()
            };
            if site == stored.value {
                return Ok(stored);
            }
            let more = site.networks.len().saturating_sub(stored.value.networks.len());
            self.room_for(actor, more * ENCODED_NETWORK)?;
            let overlay = self.start().await?.overlay;
            let cut_off = self.services_behind(actor, id, |address| !reaches(&site, overlay, address));
            let cut_off = cut_off.await?;
            if !cut_off.is_empty() {
                return Err(UseCaseError::InUse(cut_off));
            }
            let write = vec![update(site.clone(), stored.version)];
            match self
                .commit(actor, "site.update", id, write)
                .await
                .map_err(Into::into)
            {
                Ok(_) => return Ok(written(site, Some(stored.version))),
                Err(UseCaseError::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Err(UseCaseError::Contended)
    }

    /// Removes a device.
    ///
    /// # Errors
    /// When it is not there, has changed since `expected`, services have targets behind it, or the storage
    /// fails.
    pub async fn delete_site(
        &self,
        actor: &Actor,
        id: SiteId,
        expected: Option<Version>,
    ) -> Result<(), UseCaseError> {
        for _ in 0..ATTEMPTS {
            let stored = self.site(actor, id).await?;
            at_version(&stored, expected)?;
            let users = self.services_behind(actor, id, |_| true).await?;
            if !users.is_empty() {
                return Err(UseCaseError::InUse(users));
            }
            let delete = vec![Mutation::Delete(id.into(), Some(stored.version))];
            match self
                .commit(actor, "site.delete", id, delete)
                .await
                .map_err(Into::into)
            {
                Ok(_) => return Ok(()),
                Err(UseCaseError::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Err(UseCaseError::Contended)
    }

    /// The names of the services with a target behind a device, at an address that `counts`.
    async fn services_behind(
        &self,
        actor: &Actor,
        site: SiteId,
        counts: impl Fn(IpAddr) -> bool,
    ) -> Result<Vec<Label>, UseCaseError> {
        let services = self.store().all::<Service>(Some(actor.organization)).await?;
        let uses = |service: &Service| {
            service.targets().any(|target| match &target.place {
                TargetPlace::Site { site: of, address } => *of == site && counts(address.ip()),
                TargetPlace::Agent { .. } => false,
            })
        };
        let users = services.into_iter().filter(|stored| uses(&stored.value));
        Ok(users.map(|stored| stored.value.name).collect())
    }

    async fn check_site(&self, draft: &SiteDraft) -> Result<(), UseCaseError> {
        if draft.networks.len() > MAX_NETWORKS {
            let message = format!("at most {MAX_NETWORKS} networks: sum them up by shorter prefixes");
            return Err(UseCaseError::field("networks", message));
        }
        let overlay = self.start().await?.overlay.cidr();
        let mut errors = Vec::new();
        for (index, network) in draft.networks.iter().enumerate() {
            let field = format!("networks[{index}]");
            if let Some(own) = [overlay, OVERLAY_V4].iter().find(|own| own.overlaps(network)) {
                let message = format!("{network} overlaps {own}, which Control gives addresses from");
                errors.push(FieldError::new(field, message));
            } else if draft.networks[..index].contains(network) {
                errors.push(FieldError::new(field, format!("{network} stands twice")));
            }
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(UseCaseError::Invalid(errors))
        }
    }
}

/// The most bytes of a device in the plan of a gateway.
fn encoded_len(draft: &SiteDraft) -> usize {
    ENCODED_NODE + draft.networks.len() * ENCODED_NETWORK
}

/// Whether a packet to `address` may be sent to the device: its own addresses, and the networks behind it.
pub(super) fn reaches(site: &Site, overlay: Overlay, address: IpAddr) -> bool {
    address == IpAddr::from(site.address_v4)
        || address == IpAddr::from(overlay.address(site.id.as_bytes()))
        || site.networks.iter().any(|network| network.contains(address))
}
