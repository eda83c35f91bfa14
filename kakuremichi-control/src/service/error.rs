//! Why a use case was not done.

use std::time::Duration;

use kakuremichi_core::{
    code::Code,
    id::AgentId,
    model::{Permission, TokenUnusable},
    name::{HostPattern, Label},
    store::{CommitError, RecordKind, StoreError, UniqueKey},
};

/// A field of a request that cannot be as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Which one, as a path: `routes[0].targets[1].agent`.
    pub field: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl FieldError {
    /// Says what is wrong with a field.
    pub fn new(field: impl Into<String>, message: impl ToString) -> Self {
        Self {
            field: field.into(),
            message: message.to_string(),
        }
    }
}

/// Why a use case was not done. Nothing of it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UseCaseError {
    /// Fields are not valid.
    #[error("the request is not valid")]
    Invalid(Vec<FieldError>),
    /// What it is about is not there.
    #[error("there is no such {}", noun(*.0))]
    NotFound(RecordKind),
    /// A value is taken.
    #[error("{}", taken(.0))]
    Taken(UniqueKey),
    /// It changed since it was read.
    #[error("it changed since it was read: read it again, and apply your change to what it is now")]
    Stale,
    /// Others changed at the same time what it builds on, again and again.
    #[error("others are changing the same things at the same time: try again")]
    Contended,
    /// Services use it.
    #[error("it is used by the services {}", names(.0))]
    InUse(Vec<Label>),
    /// The service is an agent's own.
    #[error(
        "the service was declared by {0}, which would overwrite the change: change it there, or delete it"
    )]
    Declared(AgentId),
    /// A bound is reached.
    #[error("{0}")]
    Limit(&'static str),
    /// The token enrols nobody, or not this node.
    #[error(transparent)]
    Token(#[from] TokenUnusable),
    /// The node is not known any more.
    #[error("the node is not known: it was deleted, or enrolled elsewhere")]
    NodeUnknown,
    /// The node was refused or revoked.
    #[error("the node was revoked")]
    NodeRevoked,
    /// The node waits for approval.
    #[error(
        "the node waits for approval: somebody with the permission `nodes.approve` has to let it in; it asks again by itself"
    )]
    NodePending,
    /// As many nodes wait for approval as may.
    #[error("too many nodes of the organization wait for approval: approve or refuse some of them")]
    ManyPending,
    /// The node does not wait for approval any more.
    #[error("the node was approved already: revoke it, if it is to go")]
    NotPending,
    /// The node proved other keys than those that it has.
    #[error(
        "these are not the keys of the node: they were rotated since, or are another node's. If its state directory comes \
         from a backup, empty it and enrol the node anew"
    )]
    NodeKey,
    /// Keys of before made others.
    #[error(
        "the node has newer keys than these, which make no others and end to count: if its state directory comes from a \
         backup, empty it and enrol the node anew"
    )]
    PreviousKeys,
    /// A gateway's WireGuard key is in the configurations of stock devices.
    #[error(
        "sites have the gateway's WireGuard key in their configurations, so it gets another identity only"
    )]
    WireGuardKeyKnown,
    /// Those that a node has are to count for nothing, and it proposes one of them again.
    #[error("the keys that the node has are to count for nothing, so it gets another WireGuard key as well")]
    WireGuardKeyWanted,
    /// An agent may declare nothing.
    #[error("the token that the agent enrolled with does not let it declare services")]
    ScopeNone,
    /// An agent may not declare a host.
    #[error("the token that the agent enrolled with does not cover the host {0}")]
    ScopeHost(HostPattern),
    /// An agent may not declare a port.
    #[error("the token that the agent enrolled with does not cover the port {0}")]
    ScopePort(u16),
    /// A name, a host or a port that an agent declares belongs to another service.
    #[error("{}", taken(.0))]
    NameTaken(UniqueKey),
    /// An agent declares too much.
    #[error("an agent declares at most {0} services")]
    DeclareLimit(usize),
    /// What is given would allow more than the giver may.
    #[error("nobody can give a permission that they do not have: {}", listed(.0))]
    Exceeds(Vec<Permission>),
    /// It came with Control or with an organization.
    #[error("it is built in, and stays as it is")]
    BuiltIn,
    /// A role or a group has members.
    #[error("it has members: take it from them first")]
    HasMembers,
    /// An organization is in use.
    #[error("the organization has nodes, sites or services: delete them first")]
    NotEmpty,
    /// Nobody would administer this Control any more.
    #[error("nobody else administers this Control: make somebody else an administrator first")]
    LastAdministrator,
    /// It is an administrator's to do.
    #[error("only an administrator of this Control can do this")]
    NoAdministrator,
    /// It is about an account of a person, and no person asks.
    #[error("only a person who signed in can do this: an API key has no account")]
    NoPerson,
    /// The person is not in the organization, or in none.
    #[error("you are no member of this organization")]
    NoMember,
    /// The person is in several organizations.
    #[error("you are in several organizations: name one in the header `Kakuremichi-Organization`")]
    ChooseOrganization,
    /// What was shown to sign in is wrong.
    #[error("the address, the password or the code is wrong")]
    WrongCredentials,
    /// The password that confirms a change is wrong.
    #[error("the password is wrong")]
    WrongPassword,
    /// A passkey is nobody's here, or did not prove what it has to.
    #[error(
        "the passkey is not known here, or it did not prove what it has to: sign in otherwise, or try again"
    )]
    PasskeyRefused,
    /// An account has no such passkey.
    #[error("there is no such passkey")]
    NoPasskey,
    /// Passkeys do not work at this Control's URL.
    #[error(
        "passkeys work only where Control's public URL has a name and is `https`: whoever runs it sets `--public-url`"
    )]
    NoPasskeys,
    /// The person signed in too long ago for this.
    #[error(
        "this needs a sign-in of the last {} minutes, with a second factor where there is one: sign out, and sign in again",
        super::RECENT_SIGN_IN.as_secs() / 60
    )]
    SignInAgain,
    /// Nothing else would be left to sign in with, as it has to be.
    #[error("{0}")]
    LastFactor(&'static str),
    /// What a sign-in began with is not good any more.
    #[error("this sign-in took too long, or what it began with has changed: begin it again")]
    SignInOver,
    /// The organization asks for two factors.
    #[error(
        "the organization asks for two factors: set up a second one in your account, and sign in with it"
    )]
    MultiFactor,
    /// The organization takes no password.
    #[error("the organization takes no password: sign in with a passkey, or by an identity provider")]
    NoPasswords,
    /// The session is older than the organization lets one be.
    #[error("the session is too old for the organization: sign out, and sign in again")]
    SessionAge,
    /// The session counts in another organization only.
    #[error(
        "you signed in by the identity provider of one organization, and act in that only: sign in otherwise"
    )]
    OtherOrganization,
    /// An identity provider said nothing that would let somebody in.
    #[error("{0}")]
    Provider(&'static str),
    /// An identity provider cannot be reached, or breaks the protocol.
    #[error("the identity provider does not answer as it should")]
    ProviderBroken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A code of the second factor is missing.
    #[error("a second factor is needed: a code, a recovery code, or a passkey")]
    SecondFactor,
    /// Too much was guessed.
    #[error("too many attempts: try again in {} seconds", .0.as_secs() + 1)]
    TooManyAttempts(Duration),
    /// A link is not good.
    #[error("the link is not good: it was used, has expired, or a newer one was sent")]
    Link,
    /// No mail server is set.
    #[error("this Control sends no mail: whoever runs it sets a mail server with `--smtp-url`")]
    NoMail,
    /// An invitation is not good.
    #[error("the invitation is not good: it was used or taken back, has expired, or is for somebody else")]
    Invitation,
    /// The organization has as many of this kind as it may.
    #[error("an organization has at most {1} of this kind ({noun}): delete what is not needed", noun = noun(*.0))]
    Bound(RecordKind, usize),
    /// The request was carried out by somebody else, just now.
    #[error("a request with this idempotency key is being worked on: ask again, and get its answer")]
    Repeated,
    /// Too much of the same is going on.
    #[error("too many requests of this kind are being worked on: try again later")]
    Busy,
    /// The storage failed.
    #[error("the storage failed")]
    Store(#[source] StoreError),
    /// The system gave no random numbers.
    #[error("the system gave no random numbers")]
    Random,
}

impl UseCaseError {
    /// Refuses for the sake of one field.
    pub fn field(field: impl Into<String>, message: impl ToString) -> Self {
        Self::Invalid(vec![FieldError::new(field, message)])
    }

    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Invalid(_) => Code::REQUEST_INVALID,
            Self::NotFound(_) => Code::NOT_FOUND,
            Self::Taken(_) | Self::Declared(_) => Code::CONFLICT,
            Self::Stale | Self::Contended => Code::STALE,
            Self::InUse(_) => Code::IN_USE,
            Self::Limit(_) | Self::Bound(..) => Code::LIMIT,
            Self::Repeated => Code::KEY_BUSY,
            Self::Token(TokenUnusable::Unknown) => Code::TOKEN_UNKNOWN,
            Self::Token(TokenUnusable::Revoked) => Code::TOKEN_REVOKED,
            Self::Token(TokenUnusable::Expired) => Code::TOKEN_EXPIRED,
            Self::Token(TokenUnusable::UsedUp) => Code::TOKEN_USED_UP,
            Self::Token(TokenUnusable::Role(_)) => Code::TOKEN_ROLE,
            Self::NodeUnknown => Code::NODE_UNKNOWN,
            Self::NodeRevoked => Code::NODE_REVOKED,
            Self::NodePending => Code::NODE_PENDING,
            Self::NotPending => Code::CONFLICT,
            Self::NodeKey | Self::PreviousKeys => Code::NODE_KEYS,
            Self::WireGuardKeyKnown => Code::WIREGUARD_KEY_KNOWN,
            Self::WireGuardKeyWanted => Code::WIREGUARD_KEY_WANTED,
            Self::ScopeNone => Code::SCOPE_NONE,
            Self::ScopeHost(_) => Code::SCOPE_HOST,
            Self::ScopePort(_) => Code::SCOPE_PORT,
            Self::NameTaken(_) => Code::NAME_TAKEN,
            Self::DeclareLimit(_) => Code::DECLARE_LIMIT,
            Self::Exceeds(_) | Self::NoAdministrator | Self::NoPerson | Self::NoMember => Code::FORBIDDEN,
            Self::BuiltIn | Self::LastAdministrator => Code::CONFLICT,
            Self::HasMembers | Self::NotEmpty => Code::IN_USE,
            Self::ChooseOrganization => Code::ORGANIZATION,
            Self::WrongCredentials => Code::UNAUTHENTICATED,
            Self::WrongPassword => Code::WRONG_PASSWORD,
            Self::SecondFactor => Code::SECOND_FACTOR,
            Self::PasskeyRefused => Code::PASSKEY_REFUSED,
            Self::NoPasskey => Code::NOT_FOUND,
            Self::NoPasskeys => Code::NO_PASSKEYS,
            Self::SignInAgain => Code::SIGN_IN_AGAIN,
            Self::LastFactor(_) => Code::LAST_FACTOR,
            Self::SignInOver => Code::SIGN_IN_OVER,
            Self::MultiFactor => Code::MULTI_FACTOR,
            Self::NoPasswords => Code::NO_PASSWORDS,
            Self::SessionAge => Code::SESSION_AGE,
            Self::OtherOrganization => Code::OTHER_ORGANIZATION,
            Self::Provider(_) => Code::PROVIDER_REFUSED,
            Self::ProviderBroken(_) => Code::PROVIDER_BROKEN,
            Self::TooManyAttempts(_) => Code::ATTEMPTS,
            Self::Invitation => Code::INVITATION,
            Self::Link => Code::LINK,
            Self::NoMail => Code::NO_MAIL,
            Self::Busy | Self::ManyPending => Code::TRY_LATER,
            Self::Store(_) | Self::Random => Code::INTERNAL,
        }
    }

    /// Whether the same request can succeed later although nobody changes anything.
    #[must_use]
    pub const fn is_temporary(&self) -> bool {
        match self {
            Self::Contended
            | Self::Busy
            | Self::NodePending
            | Self::ManyPending
            | Self::Repeated
            | Self::TooManyAttempts(_)
            | Self::ProviderBroken(_)
            | Self::Store(_)
            | Self::Random => true,
            Self::Invalid(_)
            | Self::NotFound(_)
            | Self::Taken(_)
            | Self::Stale
            | Self::InUse(_)
            | Self::Declared(_)
            | Self::Limit(_)
            | Self::Bound(..)
            | Self::Token(_)
            | Self::NodeUnknown
            | Self::NodeRevoked
            | Self::NotPending
            | Self::NodeKey
            | Self::PreviousKeys
            | Self::WireGuardKeyKnown
            | Self::WireGuardKeyWanted
            | Self::ScopeNone
            | Self::ScopeHost(_)
            | Self::ScopePort(_)
            | Self::NameTaken(_)
            | Self::DeclareLimit(_)
            | Self::Exceeds(_)
            | Self::BuiltIn
            | Self::HasMembers
            | Self::NotEmpty
            | Self::LastAdministrator
            | Self::NoAdministrator
            | Self::NoPerson
            | Self::NoMember
            | Self::ChooseOrganization
            | Self::WrongCredentials
            | Self::WrongPassword
            | Self::SecondFactor
            | Self::PasskeyRefused
            | Self::NoPasskey
            | Self::NoPasskeys
            | Self::SignInAgain
            | Self::LastFactor(_)
            | Self::SignInOver
            | Self::MultiFactor
            | Self::NoPasswords
            | Self::SessionAge
            | Self::OtherOrganization
            | Self::Provider(_)
            | Self::Link
            | Self::NoMail
            | Self::Invitation => false,
        }
    }

    /// What it says to people: the fields too, if it is about fields.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self {
            Self::Invalid(fields) => {
                let fields = fields
                    .iter()
                    .map(|error| format!("`{}`: {}", error.field, error.message));
                fields.collect::<Vec<_>>().join("; ")
            }
            other => other.to_string(),
        }
    }
}

impl From<CommitError> for UseCaseError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Taken { key, .. } => Self::Taken(key),
            CommitError::Token(unusable) => Self::Token(unusable),
            CommitError::Bound { kind, most } => Self::Bound(kind, most),
            CommitError::Repeated => Self::Repeated,
            CommitError::Store(error) => Self::Store(error),
            // What was read just now is not there any more, or another. Whoever can starts anew.
            _ => Self::Contended,
        }
    }
}

fn names(labels: &[Label]) -> String {
    labels.iter().map(Label::as_str).collect::<Vec<_>>().join(", ")
}

fn listed(permissions: &[Permission]) -> String {
    if permissions.is_empty() {
        return "every one that there will be".to_owned();
    }
    permissions
        .iter()
        .map(|permission| permission.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

const fn noun(kind: RecordKind) -> &'static str {
    match kind {
        RecordKind::Organization => "organization",
        RecordKind::Node => "node",
        RecordKind::Site => "site",
        RecordKind::Service => "service",
        RecordKind::Token => "enrolment token",
        RecordKind::ApiKey => "API key",
        RecordKind::User => "user",
        RecordKind::Role => "role",
        RecordKind::Group => "group",
        RecordKind::Member => "member",
        RecordKind::Invitation => "invitation",
        RecordKind::Session => "session",
        RecordKind::Policy => "policy",
        RecordKind::IdentityProvider => "identity provider",
        RecordKind::Channel => "notification channel",
        RecordKind::ServiceToken => "service token",
    }
}

/// Without who has it: that can be another organization's business.
fn taken(key: &UniqueKey) -> String {
    match key {
        UniqueKey::OrganizationName(name) => format!("another organization is called {name}"),
        UniqueKey::NodeName(_, name) => format!("another node or site is called {name}"),
        UniqueKey::ServiceName(_, name) => format!("another service is called {name}"),
        UniqueKey::PolicyName(_, name) => format!("another policy is called {name}"),
        UniqueKey::ChannelName(_, name) => format!("another notification channel is called {name}"),
        UniqueKey::Host(host) => format!("the host {host} belongs to another service"),
        UniqueKey::TcpPort(_, port) => format!("the port {port} belongs to another service"),
        UniqueKey::UdpPort(_, port) => format!("the UDP port {port} belongs to another service"),
        UniqueKey::Identity(_) => "another node has this identity".to_owned(),
        UniqueKey::WireGuard(_) => "another node or site has this WireGuard key".to_owned(),
        UniqueKey::OverlayV4(address) => format!("another node or site has the address {address}"),
        UniqueKey::Email(email) => {
            format!("there is an account with the address {email}: sign in with it, and join then")
        }
        UniqueKey::RoleName(_, name) => format!("another role is called {name}"),
        UniqueKey::GroupName(_, name) => format!("another group is called {name}"),
        UniqueKey::ServiceTokenName(_, name) => format!("another service token is called {name}"),
        UniqueKey::Membership(..) => "the user is in the organization already".to_owned(),
        UniqueKey::ProviderName(_, name) => format!("another identity provider is called {name}"),
        UniqueKey::LinkedIdentity(..) => "another account is linked to it".to_owned(),
        UniqueKey::Passkey(_) => "the passkey is of an account already".to_owned(),
        UniqueKey::PendingPlace(..) => "another node waits for approval at this place".to_owned(),
        UniqueKey::SetUp
        | UniqueKey::TokenSecret(_)
        | UniqueKey::ApiKeySecret(_)
        | UniqueKey::ServiceTokenSecret(_)
        | UniqueKey::InvitationSecret(_)
        | UniqueKey::SessionSecret(_)
        | UniqueKey::MailedSecret(_) => "another credential has this secret".to_owned(),
    }
}
