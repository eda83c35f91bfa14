//! Services as somebody asks for them: without the identifiers and ports that Control gives.

use std::net::SocketAddr;

use kakuremichi_core::{
    id::{AgentId, PolicyId, ServiceTokenId, SiteId},
    model::{HealthCheck, IdentityForm, TargetAddress, TargetScheme},
    name::{HostPattern, Label, PathPattern},
    policy::{Access, Method, Policy, Requirement, Rule},
    secret::Secret,
};

/// A service that somebody asks for.
#[derive(Debug, Clone)]
pub struct ServiceDraft {
    /// Its name.
    pub name: Label,
    /// What is published.
    pub kind: KindDraft,
    /// Who may reach it.
    pub policy: PolicyDraft,
    /// The shared policies that go before it, in this order.
    pub policies: Vec<Reference<PolicyId>>,
}

/// A shared policy that somebody asks for.
#[derive(Debug, Clone)]
pub struct SharedPolicyDraft {
    /// Its name.
    pub name: Label,
    /// The rules.
    pub rules: Vec<Rule>,
    /// What is asked of visitors for whom no rule decided, if it says that.
    pub access: Option<AccessDraft>,
}

/// What is published.
#[derive(Debug, Clone)]
pub enum KindDraft {
    /// HTTP at host names.
    Http {
        /// The hosts.
        hosts: Vec<HostPattern>,
        /// The routes.
        routes: Vec<RouteDraft>,
        /// What the targets are told of who a visitor is.
        identity: IdentityForm,
    },
    /// Raw TCP on a port.
    Tcp {
        /// The port.
        port: u16,
        /// Where connections go.
        pool: PoolDraft,
    },
    /// Datagrams on a UDP port.
    Udp {
        /// The port.
        port: u16,
        /// Where sessions go.
        pool: PoolDraft,
    },
}

/// A path and where its requests go.
#[derive(Debug, Clone)]
pub struct RouteDraft {
    /// The paths.
    pub path: PathPattern,
    /// Where the requests go.
    pub pool: PoolDraft,
    /// The shared policies that go before the service's own, for this route.
    pub policies: Vec<Reference<PolicyId>>,
}

/// Targets that serve the same thing.
#[derive(Debug, Clone)]
pub struct PoolDraft {
    /// The targets.
    pub targets: Vec<TargetDraft>,
    /// How agents check them.
    pub health: Option<HealthCheck>,
}

/// Where to deliver.
#[derive(Debug, Clone)]
pub struct TargetDraft {
    /// Who reaches it, and at which address.
    pub place: PlaceDraft,
    /// What is spoken to it.
    pub scheme: TargetScheme,
}

/// Who reaches a target, and at which address.
#[derive(Debug, Clone)]
pub enum PlaceDraft {
    /// An agent.
    Agent {
        /// Which.
        agent: Reference<AgentId>,
        /// What it dials.
        address: TargetAddress,
    },
    /// A stock WireGuard device.
    Site {
        /// Which.
        site: Reference<SiteId>,
        /// The address behind it.
        address: SocketAddr,
    },
}

/// Something by its identifier, or by its name in the organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference<T> {
    /// By identifier.
    Id(T),
    /// By name.
    Name(Label),
}

/// Who may reach a service.
#[derive(Debug, Clone)]
pub struct PolicyDraft {
    /// The rules.
    pub rules: Vec<Rule>,
    /// What is asked of visitors for whom no rule decided.
    pub access: AccessDraft,
}

/// What is asked of visitors for whom no rule decided.
#[derive(Debug, Clone)]
pub enum AccessDraft {
    /// They are denied.
    Deny,
    /// They pass.
    Public,
    /// They pass once they have proven themselves by one of these.
    AnyOf(Vec<MethodDraft>),
    /// They pass once they have proven themselves by each of these.
    AllOf(Vec<MethodDraft>),
}

/// A way to prove who one is.
#[derive(Debug, Clone)]
pub enum MethodDraft {
    /// Name and password.
    Basic(Vec<UserDraft>),
    /// Whoever has signed in so, and meets this.
    SignedIn(Requirement),
    /// One of these service tokens; any of the organization's if there are none here.
    ServiceToken(Vec<Reference<ServiceTokenId>>),
}

/// A name and a password.
#[derive(Debug, Clone)]
pub struct UserDraft {
    /// The name.
    pub name: String,
    /// The password.
    pub password: PasswordDraft,
}

/// A password, in one of three forms.
#[derive(Debug, Clone)]
pub enum PasswordDraft {
    /// In the clear; Control stores its hash.
    Plain(Secret<String>),
    /// Its Argon2id hash in PHC string format.
    Hash(String),
    /// The one that the user of this name has in the service as it is.
    Keep,
}

impl From<Policy> for PolicyDraft {
    fn from(policy: Policy) -> Self {
        let method = |method: Method| match method {
            Method::Basic { users } => MethodDraft::Basic(
                users
                    .into_iter()
                    .map(|user| UserDraft {
                        name: user.name,
                        password: PasswordDraft::Hash(user.password_hash),
                    })
                    .collect(),
            ),
            Method::SignedIn(requirement) => MethodDraft::SignedIn(requirement),
            Method::ServiceToken { tokens } => {
                MethodDraft::ServiceToken(tokens.into_iter().map(Reference::Id).collect())
            }
        };
        Self {
            rules: policy.rules,
            access: match policy.access {
                Access::Deny => AccessDraft::Deny,
                Access::Public => AccessDraft::Public,
                Access::AnyOf(methods) => AccessDraft::AnyOf(methods.into_iter().map(method).collect()),
                Access::AllOf(methods) => AccessDraft::AllOf(methods.into_iter().map(method).collect()),
            },
        }
    }
}
