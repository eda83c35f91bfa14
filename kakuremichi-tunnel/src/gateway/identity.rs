//! Tells targets who a visitor is: in header fields, and in an assertion that they can verify.
//!
//! Only whom the [`Permit`](kakuremichi_core::policy::Permit) names is told of: a policy asked who the visitor is, or a rule
//! let past somebody who had proven it. Nobody else gets any of these fields, and what a visitor sends under their names
//! is taken away before (LESSONS, advisories 2 and 3).

mod assertion;
mod fields;
mod jwks;

pub(crate) use assertion::{Assertions, Signed};
pub(crate) use fields::Fields;
pub(crate) use jwks::{JWKS_PATH, jwks};

use kakuremichi_core::{
    auth::{Identity, Principal, Strength},
    id::{OrganizationId, ServiceId},
    policy::Proof,
    time::Timestamp,
};

use super::{access::Admission, sign_in::People, table::ServiceEntry};

/// The longest name that targets are told, as it is written, in bytes. Of whom it is longer nothing is told.
const MAX_NAME: usize = 384;
/// The most bytes that the roles, and that the groups, of a visitor take. Those that do not fit are left out, from the
/// first one that does not, and it is said that some are missing.
const MAX_LIST: usize = 1024;
/// The most bytes of all fields together, which follows from the two above. Servers take 16 KiB of head at least, and
/// 8,190 bytes of one field.
#[cfg(test)]
const MAX_FIELDS: usize = 10 * 1024;

/// What targets are told of a visitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Introduction {
    /// Who it is, in one form for all authorities: the identifier of a user or a service token, or else the authority and
    /// the name.
    pub(crate) subject: String,
    /// What people call it: the address of a user, or else the name that the authority has for it.
    pub(crate) name: String,
    /// The address, of a user.
    pub(crate) email: Option<String>,
    /// The organization of the service.
    pub(crate) organization: OrganizationId,
    /// The service.
    pub(crate) service: ServiceId,
    /// Who vouches for it.
    pub(crate) method: String,
    /// How strongly it was proven, of whoever signed in.
    pub(crate) strength: Option<Strength>,
    /// When the person last proved to be there, if that is known.
    pub(crate) authenticated: Option<Timestamp>,
    /// The roles, if anything is known of them.
    pub(crate) roles: Option<Names>,
    /// The groups, if anything is known of them.
    pub(crate) groups: Option<Names>,
    /// What of the visitor proved it ends then.
    pub(crate) until: Option<Timestamp>,
}

/// As many names as may be told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Names {
    /// These, in their own spelling.
    pub(crate) told: Vec<String>,
    /// There are others.
    pub(crate) more: bool,
}

impl Names {
    fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut list, mut length) = (Self::default(), 0);
        for name in names {
            // With what stands between two of them.
            length += written(name) + 1;
            if length > MAX_LIST {
                list.more = true;
                break;
            }
            list.told.push(name.to_owned());
        }
        list
    }
}

impl Introduction {
    /// What is told of who was admitted to a service; nothing of a visitor whom nobody knows, or whose name is too long.
    pub(crate) fn of(admission: &Admission, people: &People, service: &ServiceEntry) -> Option<Self> {
        let principal = admission.permit.principal()?;
        let proofs = &admission.facts.proofs;
        let proof = proofs.iter().find(|proof| proof.principal() == principal);
        let (identity, is_token) = match proof {
            Some(Proof::SignedIn(identity)) => (Some(identity), false),
            Some(Proof::ServiceToken { .. }) => (None, true),
            Some(Proof::Basic { .. }) | None => (None, false),
        };
        let session = admission.facts.session.as_deref();
        let member = session.and_then(|session| people.member(service.organization, session.user));
        let member =
            member.filter(|member| identity.is_some() && is_user(principal, &member.user.to_string()));
        let subject = match (member, is_token) {
            (Some(_), _) | (None, true) => principal.subject().to_owned(),
            (None, false) => principal.to_string(),
        };
        let email = member.map(|member| member.email.as_str().to_owned());
        let told = Self {
            name: email.clone().unwrap_or_else(|| principal.subject().to_owned()),
            subject,
            email,
            organization: service.organization,
            service: service.id,
            method: principal.authority().to_owned(),
            strength: identity.map(Identity::strength),
            authenticated: identity.and_then(Identity::authenticated),
            roles: identity
                .and_then(Identity::roles)
                .map(|roles| Names::new(roles.iter().map(|role| role.as_str()))),
            groups: identity
                .and_then(Identity::groups)
                .map(|groups| Names::new(groups.iter().map(String::as_str))),
            until: session
                .filter(|_| member.is_some())
                .map(|session| session.expires),
        };
        let fits = [&told.subject, &told.name, &told.method]
            .iter()
            .all(|name| written(name) <= MAX_NAME);
        if !fits {
            tracing::warn!(service = %service.id, "the name of a visitor is too long to be told to the target");
        }
        fits.then_some(told)
    }

    /// What of it is not complete, by the names of the lists.
    pub(crate) fn incomplete(&self) -> Vec<&'static str> {
        let lists = [("roles", &self.roles), ("groups", &self.groups)];
        let more = |list: &Option<Names>| list.as_ref().is_some_and(|list| list.more);
        let incomplete = lists.into_iter().filter(|(_, list)| more(list));
        incomplete.map(|(name, _)| name).collect()
    }
}

/// The bytes of a name as it is written, in a field or in the assertion.
fn written(name: &str) -> usize {
    fields::escape(name)
        .len()
        .max(serde_json::Value::from(name).to_string().len())
}

/// Whether a principal is the user of this identifier, and no other authority's that is called so.
fn is_user(principal: &Principal, user: &str) -> bool {
    principal.authority() == People::AUTHORITY && principal.subject() == user
}

#[cfg(test)]
mod tests;
