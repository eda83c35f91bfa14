//! Who somebody is: principals, credentials and the traits that others implement.

use std::{fmt, net::IpAddr, sync::Arc};

use async_trait::async_trait;

mod identity;

pub use identity::{Identity, Strength};

use crate::{id::ServiceId, policy::Subject, request::CanonicalRequest, secret::Secret};

/// Somebody who has proven who they are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal {
    authority: String,
    subject: String,
}

impl Principal {
    /// Makes a principal: the `authority` that vouches for it (`basic`, or an authenticator's own name)
    /// and the name it has there.
    #[must_use]
    pub fn new(authority: impl Into<String>, subject: impl Into<String>) -> Self {
        Self {
            authority: authority.into(),
            subject: subject.into(),
        }
    }

    /// Who vouches for it.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Its name there.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.authority, self.subject)
    }
}

/// What somebody shows to prove who they are.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Credential {
    /// Name and password (RFC 7617).
    Basic {
        /// The name.
        name: String,
        /// The password.
        password: Secret<String>,
    },
    /// A bearer token (RFC 6750).
    Bearer(Secret<String>),
}

/// What an [`Authenticator`] is asked. It can grow.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct AuthenticationRequest<'a> {
    /// Where the caller comes from.
    pub source: IpAddr,
    /// What the caller shows.
    pub credential: &'a Credential,
    /// The service that is asked for; none at Control's own API.
    pub service: Option<ServiceId>,
    /// The request; none at Control's own API.
    pub request: Option<&'a CanonicalRequest>,
}

impl<'a> AuthenticationRequest<'a> {
    /// Asks about `credential`, shown from `source`.
    #[must_use]
    pub const fn new(source: IpAddr, credential: &'a Credential) -> Self {
        Self {
            source,
            credential,
            service: None,
            request: None,
        }
    }

    /// Says which service is asked for, by which request.
    #[must_use]
    pub const fn at_service(self, service: ServiceId, request: &'a CanonicalRequest) -> Self {
        Self {
            service: Some(service),
            request: Some(request),
            ..self
        }
    }
}

/// What an [`Authenticator`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// The credential proves that it is this one.
    Proven(Identity),
    /// The credential is not of a kind this authenticator knows: the next may be asked.
    NotMine,
    /// The credential is of its kind, and wrong: nobody else is asked.
    Refused,
}

/// An [`Authenticator`] could not find out. It counts as a refusal (LESSONS, advisory 5: any error in
/// a check is a denial).
#[derive(Debug, thiserror::Error)]
#[error("the authenticator {authenticator} failed")]
pub struct AuthenticationError {
    /// Which one.
    pub authenticator: &'static str,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Proves who somebody is from what they show.
///
/// Implementers may take their time (ask a directory, verify a signature): what they return is a fact
/// that the pure decision consumes. They are called for each request that carries a credential, so
/// what is slow should be remembered for a while.
#[async_trait]
pub trait Authenticator: fmt::Debug + Send + Sync + 'static {
    /// A short constant name, for logs.
    fn name(&self) -> &'static str;

    /// Looks at a credential.
    ///
    /// # Errors
    /// When it cannot be found out whether the credential is good.
    async fn authenticate(
        &self,
        request: AuthenticationRequest<'_>,
    ) -> Result<Authentication, AuthenticationError>;
}

/// Asks authenticators in turn, until one knows the kind of credential.
#[derive(Debug, Clone, Default)]
pub struct Chain(Vec<Arc<dyn Authenticator>>);

impl Chain {
    /// An empty chain, which knows no credential.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an authenticator at the end.
    #[must_use]
    pub fn with(mut self, authenticator: impl Authenticator) -> Self {
        self.0.push(Arc::new(authenticator));
        self
    }
}

#[async_trait]
impl Authenticator for Chain {
    fn name(&self) -> &'static str {
        "chain"
    }

    async fn authenticate(
        &self,
        request: AuthenticationRequest<'_>,
    ) -> Result<Authentication, AuthenticationError> {
        for authenticator in &self.0 {
            match authenticator.authenticate(request).await? {
                Authentication::NotMine => {}
                found @ (Authentication::Proven(_) | Authentication::Refused) => return Ok(found),
            }
        }
        Ok(Authentication::NotMine)
    }
}

/// What an [`Authorizer`] is asked. It can grow.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct AuthorizationRequest<'a> {
    /// Where the visitor comes from.
    pub source: IpAddr,
    /// Who the visitor is, as far as proven.
    pub principal: Option<&'a Principal>,
    /// What is asked for.
    pub subject: Subject,
    /// The request; none at a TCP or UDP service.
    pub request: Option<&'a CanonicalRequest>,
}

impl<'a> AuthorizationRequest<'a> {
    /// Asks about a visitor from `source` who wants `subject`.
    #[must_use]
    pub const fn new(
        source: IpAddr,
        principal: Option<&'a Principal>,
        subject: Subject,
        request: Option<&'a CanonicalRequest>,
    ) -> Self {
        Self {
            source,
            principal,
            subject,
            request,
        }
    }
}

/// An [`Authorizer`] could not find out. It counts as a denial.
#[derive(Debug, thiserror::Error)]
#[error("the authorizer failed")]
pub struct AuthorizationError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// A second opinion, from outside the policy. It can only take away: whom the policy denies is not
/// asked about, and whom it denies is denied.
#[async_trait]
pub trait Authorizer: fmt::Debug + Send + Sync + 'static {
    /// Whether the visitor may pass.
    ///
    /// # Errors
    /// When it cannot be found out.
    async fn authorize(&self, request: AuthorizationRequest<'_>) -> Result<bool, AuthorizationError>;
}
