//! Services whose targets are told less of who a visitor is than everything.

use kakuremichi_core::{
    model::IdentityForm,
    plan::{GatewayService, PlannedKind},
};

use super::{Invalid, guarded};
use crate::plan::record::{self, GatewayIdentityForm};

/// Whether the targets of a service are told less than everything.
pub(super) fn is_discreet(service: &GatewayService) -> bool {
    form(service).is_some()
}

fn form(service: &GatewayService) -> Option<GatewayIdentityForm> {
    let PlannedKind::Http { identity, .. } = &service.kind else {
        return None;
    };
    match identity {
        IdentityForm::Nothing => Some(GatewayIdentityForm::Nothing),
        IdentityForm::Headers => Some(GatewayIdentityForm::Headers),
        IdentityForm::Assertion => Some(GatewayIdentityForm::Assertion),
        IdentityForm::Both => None,
    }
}

impl TryFrom<&GatewayService> for record::GatewayDiscreetService {
    type Error = Invalid;

    fn try_from(service: &GatewayService) -> Result<Self, Invalid> {
        let (policies, routes) = guarded::attached(service)?;
        Ok(Self {
            service: service.try_into()?,
            policies,
            routes,
            // One that tells everything has another record.
            identity: form(service).ok_or_else(|| Invalid::mismatch("identity"))?,
        })
    }
}

impl TryFrom<record::GatewayDiscreetService> for GatewayService {
    type Error = Invalid;

    fn try_from(discreet: record::GatewayDiscreetService) -> Result<Self, Invalid> {
        let mut service = Self::try_from(discreet.service)?;
        guarded::attach(&mut service, &discreet.policies, &discreet.routes)?;
        let PlannedKind::Http { identity, .. } = &mut service.kind else {
            return Err(Invalid::mismatch("kind"));
        };
        *identity = match discreet.identity {
            GatewayIdentityForm::Nothing => IdentityForm::Nothing,
            GatewayIdentityForm::Headers => IdentityForm::Headers,
            GatewayIdentityForm::Assertion => IdentityForm::Assertion,
        };
        Ok(service)
    }
}
