//! What a store holds.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use data_encoding::BASE64URL_NOPAD;

use crate::{
    email::EmailAddress,
    id::{
        AgentId, ApiKeyId, ChannelId, GatewayId, GroupId, InvitationId, MemberId, NodeId, OrganizationId,
        ParseIdError, PolicyId, ProviderId, RoleId, ServiceId, ServiceTokenId, SessionId, SiteId, TokenId,
        UserId,
    },
    key::{IdentityKey, WireGuardKey},
    model::{
        ApiKey, Channel, EnrolmentToken, Group, IdentityProvider, Invitation, Member, Node, NodeKind,
        Organization, Service, ServiceKind, ServiceToken, Session, Site, User, UserRole,
    },
    name::{HostPattern, Label},
    policy::SharedPolicy,
};

/// Counts the changes of one record, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

/// A record and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<T> {
    /// The record.
    pub value: T,
    /// How often it was written.
    pub version: Version,
}

impl Stored<StoreRecord> {
    /// The record as what it is, if it is that.
    #[must_use]
    pub fn narrow<E: Entity>(self) -> Option<Stored<E>> {
        Some(Stored {
            value: E::from_record(self.value)?,
            version: self.version,
        })
    }
}

macro_rules! records {
    ($($(#[$doc:meta])* $variant:ident($entity:ty, $id:ty);)*) => {
        /// A record of any kind.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum StoreRecord {
            $($(#[$doc])* $variant($entity),)*
        }

        /// The identifier of a record. Its text is that of the identifier inside.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum RecordId {
            $($(#[$doc])* $variant($id),)*
        }

        /// The kind of a record.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum RecordKind {
            $($(#[$doc])* $variant,)*
        }

        impl RecordKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
        }

        impl RecordId {
            /// The kind of the record.
            #[must_use]
            pub const fn kind(&self) -> RecordKind {
                match self {
                    $(Self::$variant(_) => RecordKind::$variant,)*
                }
            }
        }

        impl fmt::Display for RecordId {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant(id) => fmt::Display::fmt(id, f),)*
                }
            }
        }

        impl StoreRecord {
            /// The identifier.
            #[must_use]
            pub const fn id(&self) -> RecordId {
                match self {
                    $(Self::$variant(entity) => RecordId::$variant(entity.id),)*
                }
            }
        }

        $(
            impl From<$entity> for StoreRecord {
                fn from(entity: $entity) -> Self {
                    Self::$variant(entity)
                }
            }

            impl From<$id> for RecordId {
                fn from(id: $id) -> Self {
                    Self::$variant(id)
                }
            }

            impl Entity for $entity {
                const KIND: RecordKind = RecordKind::$variant;

                fn from_record(record: StoreRecord) -> Option<Self> {
                    match record {
                        StoreRecord::$variant(entity) => Some(entity),
                        _ => None,
                    }
                }
            }
        )*
    };
}

records! {
    /// An organization.
    Organization(Organization, OrganizationId);
    /// A node.
    Node(Node, NodeId);
    /// A site.
    Site(Site, SiteId);
    /// A service with its routes and targets.
    Service(Service, ServiceId);
    /// An enrolment token.
    Token(EnrolmentToken, TokenId);
    /// An API key.
    ApiKey(ApiKey, ApiKeyId);
    /// A user.
    User(User, UserId);
    /// A role of people.
    Role(UserRole, RoleId);
    /// A group of people.
    Group(Group, GroupId);
    /// A user in an organization.
    Member(Member, MemberId);
    /// An invitation.
    Invitation(Invitation, InvitationId);
    /// A session of a user.
    Session(Session, SessionId);
    /// A policy that services and routes share.
    Policy(SharedPolicy, PolicyId);
    /// An identity provider.
    IdentityProvider(IdentityProvider, ProviderId);
    /// A notification channel.
    Channel(Channel, ChannelId);
    /// A service token.
    ServiceToken(ServiceToken, ServiceTokenId);
}

impl From<AgentId> for RecordId {
    fn from(id: AgentId) -> Self {
        Self::Node(id.into())
    }
}

impl From<GatewayId> for RecordId {
    fn from(id: GatewayId) -> Self {
        Self::Node(id.into())
    }
}

impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RecordId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        fn of<T: FromStr<Err = ParseIdError> + Into<RecordId>>(text: &str) -> Result<RecordId, ParseIdError> {
            text.parse::<T>().map(Into::into)
        }
        of::<OrganizationId>(text)
            .or_else(|_| of::<NodeId>(text))
            .or_else(|_| of::<SiteId>(text))
            .or_else(|_| of::<ServiceId>(text))
            .or_else(|_| of::<TokenId>(text))
            .or_else(|_| of::<ApiKeyId>(text))
            .or_else(|_| of::<UserId>(text))
            .or_else(|_| of::<RoleId>(text))
            .or_else(|_| of::<GroupId>(text))
            .or_else(|_| of::<MemberId>(text))
            .or_else(|_| of::<InvitationId>(text))
            .or_else(|_| of::<SessionId>(text))
            .or_else(|_| of::<PolicyId>(text))
            .or_else(|_| of::<ProviderId>(text))
            .or_else(|_| of::<ChannelId>(text))
            .or_else(|_| of::<ServiceTokenId>(text))
    }
}

/// Something that is stored as a record of its own.
pub trait Entity: Into<StoreRecord> + Sized {
    /// The kind of its records.
    const KIND: RecordKind;

    /// Takes the entity out of a record of its kind.
    fn from_record(record: StoreRecord) -> Option<Self>;
}

/// A value that only one record of the store may have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UniqueKey {
    /// The name of an organization.
    OrganizationName(Label),
    /// The name of a node or a site in its organization.
    NodeName(OrganizationId, Label),
    /// The name of a service in its organization.
    ServiceName(OrganizationId, Label),
    /// The name of a shared policy in its organization.
    PolicyName(OrganizationId, Label),
    /// The name of a notification channel in its organization.
    ChannelName(OrganizationId, Label),
    /// A host of an HTTP service.
    Host(HostPattern),
    /// The port of a TCP service. Gateways belong to one organization, so ports do too.
    TcpPort(OrganizationId, u16),
    /// The port of a UDP service.
    UdpPort(OrganizationId, u16),
    /// A node's identity: that of now, and that of before while it counts.
    Identity(IdentityKey),
    /// The WireGuard key of a node or a site: that of now, and that of before while it counts.
    WireGuard(WireGuardKey),
    /// The IPv4 address of a site or a gateway in the overlay.
    OverlayV4(Ipv4Addr),
    /// A place among the nodes of an organization that wait for approval.
    PendingPlace(OrganizationId, u16),
    /// The hash of an enrolment token's secret.
    TokenSecret([u8; 32]),
    /// The hash of an API key's secret.
    ApiKeySecret([u8; 32]),
    /// The name of a service token in its organization.
    ServiceTokenName(OrganizationId, Label),
    /// The hash of a service token's secret.
    ServiceTokenSecret([u8; 32]),
    /// A user's address.
    Email(EmailAddress),
    /// The name of a role in its organization.
    RoleName(OrganizationId, Label),
    /// The name of a group in its organization.
    GroupName(OrganizationId, Label),
    /// A user's place in an organization.
    Membership(OrganizationId, UserId),
    /// The hash of an invitation's secret.
    InvitationSecret([u8; 32]),
    /// The invitation of the first start.
    SetUp,
    /// The hash of a session's secret.
    SessionSecret([u8; 32]),
    /// The hash of a secret that was mailed to a user.
    MailedSecret([u8; 32]),
    /// The name of an identity provider in its organization, or among those of the whole Control.
    ProviderName(Option<OrganizationId>, Label),
    /// Who a user is at an identity provider.
    LinkedIdentity(ProviderId, String),
    /// The hash of a passkey's identifier.
    Passkey([u8; 32]),
}

impl fmt::Display for UniqueKey {
    /// One line that differs for different keys: for use as a key in a database.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = |bytes: &[u8; 32]| data_encoding::HEXLOWER.encode(bytes);
        match self {
            Self::OrganizationName(name) => write!(f, "organization/{name}"),
            Self::NodeName(organization, name) => write!(f, "node/{organization}/{name}"),
            Self::ServiceName(organization, name) => write!(f, "service/{organization}/{name}"),
            Self::PolicyName(organization, name) => write!(f, "policy/{organization}/{name}"),
            Self::ChannelName(organization, name) => write!(f, "notification-channel/{organization}/{name}"),
            Self::Host(host) => write!(f, "host/{host}"),
            Self::TcpPort(organization, port) => write!(f, "tcp/{organization}/{port}"),
            Self::UdpPort(organization, port) => write!(f, "udp/{organization}/{port}"),
            Self::Identity(key) => write!(f, "identity/{}", hex(key.as_bytes())),
            Self::WireGuard(key) => write!(f, "wireguard/{}", hex(key.as_bytes())),
            Self::OverlayV4(address) => write!(f, "overlay/{address}"),
            Self::PendingPlace(organization, place) => write!(f, "pending/{organization}/{place}"),
            Self::TokenSecret(hash) => write!(f, "token/{}", hex(hash)),
            Self::ApiKeySecret(hash) => write!(f, "api-key/{}", hex(hash)),
            Self::ServiceTokenName(organization, name) => {
                write!(f, "service-token-name/{organization}/{name}")
            }
            Self::ServiceTokenSecret(hash) => write!(f, "service-token/{}", hex(hash)),
            Self::Email(email) => write!(f, "email/{email}"),
            Self::RoleName(organization, name) => write!(f, "role/{organization}/{name}"),
            Self::GroupName(organization, name) => write!(f, "group/{organization}/{name}"),
            Self::Membership(organization, user) => write!(f, "member/{organization}/{user}"),
            Self::InvitationSecret(hash) => write!(f, "invitation/{}", hex(hash)),
            Self::SetUp => f.write_str("set-up"),
            Self::SessionSecret(hash) => write!(f, "session/{}", hex(hash)),
            Self::MailedSecret(hash) => write!(f, "mailed/{}", hex(hash)),
            Self::Passkey(hash) => write!(f, "passkey/{}", hex(hash)),
            Self::ProviderName(Some(organization), name) => {
                write!(f, "identity-provider/{organization}/{name}")
            }
            Self::ProviderName(None, name) => write!(f, "identity-provider//{name}"),
            // Whatever the provider calls somebody, in characters that every database takes.
            Self::LinkedIdentity(provider, subject) => {
                write!(
                    f,
                    "identity/{provider}/{}",
                    BASE64URL_NOPAD.encode(subject.as_bytes())
                )
            }
        }
    }
}

impl StoreRecord {
    /// The organization that the record belongs to (itself, if it is one); none for what is of the whole
    /// Control.
    #[must_use]
    pub const fn organization(&self) -> Option<OrganizationId> {
        Some(match self {
            Self::Organization(organization) => organization.id,
            Self::Node(node) => node.organization,
            Self::Site(site) => site.organization,
            Self::Service(service) => service.organization,
            Self::Token(token) => token.organization,
            Self::ApiKey(key) => key.organization,
            Self::Role(role) => role.organization,
            Self::Group(group) => group.organization,
            Self::Member(member) => member.organization,
            Self::Invitation(invitation) => invitation.organization,
            Self::Policy(policy) => policy.organization,
            Self::Channel(channel) => channel.organization,
            Self::ServiceToken(token) => token.organization,
            Self::IdentityProvider(IdentityProvider {
                organization: Some(organization),
                ..
            }) => *organization,
            Self::User(_) | Self::Session(_) | Self::IdentityProvider(_) => return None,
        })
    }

    /// The record that this one is of, so that it can be listed by it: the agent that declared a service, the
    /// user of a member or of a session.
    #[must_use]
    pub fn owner(&self) -> Option<RecordId> {
        match self {
            Self::Service(service) => service.lifetime.declared_by().map(Into::into),
            Self::Member(member) => Some(member.user.into()),
            Self::Session(session) => Some(session.user.into()),
            Self::Organization(_)
            | Self::Node(_)
            | Self::Site(_)
            | Self::Token(_)
            | Self::ApiKey(_)
            | Self::User(_)
            | Self::Role(_)
            | Self::Group(_)
            | Self::Invitation(_)
            | Self::Policy(_)
            | Self::IdentityProvider(_)
            | Self::Channel(_)
            | Self::ServiceToken(_) => None,
        }
    }

    /// The values that no other record may have.
    #[must_use]
    pub fn unique_keys(&self) -> Vec<UniqueKey> {
        match self {
            Self::Organization(organization) => vec![UniqueKey::OrganizationName(organization.name.clone())],
            Self::Node(node) => {
                let mut keys = vec![
                    UniqueKey::NodeName(node.organization, node.name.clone()),
                    UniqueKey::Identity(node.identity),
                    UniqueKey::WireGuard(node.wireguard),
                ];
                // Keys of before count still: nobody else may come to have them.
                if let Some(previous) = &node.rotation.previous {
                    keys.push(UniqueKey::Identity(previous.identity));
                    if previous.wireguard != node.wireguard {
                        keys.push(UniqueKey::WireGuard(previous.wireguard));
                    }
                }
                if let NodeKind::Gateway { address_v4, .. } = &node.kind {
                    keys.push(UniqueKey::OverlayV4(*address_v4));
                }
                let pending = node.pending.filter(|_| node.revoked.is_none());
                keys.extend(pending.map(|pending| UniqueKey::PendingPlace(node.organization, pending.place)));
                keys
            }
            Self::Site(site) => vec![
                UniqueKey::NodeName(site.organization, site.name.clone()),
                UniqueKey::WireGuard(site.wireguard),
                UniqueKey::OverlayV4(site.address_v4),
            ],
            Self::Service(service) => {
                let mut keys = vec![UniqueKey::ServiceName(service.organization, service.name.clone())];
                match &service.kind {
                    ServiceKind::Http { hosts, .. } => {
                        keys.extend(hosts.iter().cloned().map(UniqueKey::Host))
                    }
                    ServiceKind::Tcp { port, .. } => {
                        keys.push(UniqueKey::TcpPort(service.organization, *port))
                    }
                    ServiceKind::Udp { port, .. } => {
                        keys.push(UniqueKey::UdpPort(service.organization, *port))
                    }
                }
                keys
            }
            Self::Token(token) => vec![UniqueKey::TokenSecret(*token.secret_hash.as_bytes())],
            Self::ApiKey(key) => vec![UniqueKey::ApiKeySecret(*key.secret_hash.as_bytes())],
            Self::User(user) => {
                let mailed = [&user.reset, &user.verification].into_iter().flatten();
                let mailed = mailed.map(|mailed| UniqueKey::MailedSecret(*mailed.hash.as_bytes()));
                let identities = user.identities.iter();
                let identities =
                    identities.map(|at| UniqueKey::LinkedIdentity(at.provider, at.subject.clone()));
                let passkeys = user.passkeys.iter();
                let passkeys = passkeys.map(|passkey| UniqueKey::Passkey(passkey.credential_hash));
                std::iter::once(UniqueKey::Email(user.email.clone()))
                    .chain(mailed)
                    .chain(identities)
                    .chain(passkeys)
                    .collect()
            }
            Self::Role(role) => vec![UniqueKey::RoleName(role.organization, role.name.clone())],
            Self::Group(group) => vec![UniqueKey::GroupName(group.organization, group.name.clone())],
            Self::Member(member) => vec![UniqueKey::Membership(member.organization, member.user)],
            Self::Invitation(invitation) => {
                let mut keys = vec![UniqueKey::InvitationSecret(*invitation.secret_hash.as_bytes())];
                keys.extend(invitation.administrator.then_some(UniqueKey::SetUp));
                keys
            }
            Self::Session(session) => vec![UniqueKey::SessionSecret(*session.secret_hash.as_bytes())],
            Self::Channel(channel) => {
                vec![UniqueKey::ChannelName(channel.organization, channel.name.clone())]
            }
            Self::Policy(policy) => {
                vec![UniqueKey::PolicyName(policy.organization, policy.name.clone())]
            }
            Self::ServiceToken(token) => vec![
                UniqueKey::ServiceTokenName(token.organization, token.name.clone()),
                UniqueKey::ServiceTokenSecret(*token.secret_hash.as_bytes()),
            ],
            Self::IdentityProvider(provider) => vec![UniqueKey::ProviderName(
                provider.organization,
                provider.name.clone(),
            )],
        }
    }
}
