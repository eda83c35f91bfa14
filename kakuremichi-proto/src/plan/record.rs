//! The records of plans, as plain data.
//!
//! Like [messages](crate::message) these structs are frozen once released. What has to change becomes a
//! new struct under a new tag, with the same key.

use std::fmt;

use kakuremichi_core::{
    model::{MAX_MEMBER_GROUPS, MAX_MEMBER_ROLES},
    plan::{MAX_ENDED_SESSIONS, MAX_SIGNING_KEYS},
};
use serde::{Deserialize, Serialize};

use crate::{
    codec::List,
    message::{
        Access, Cidr, Endpoint, HealthCheck, NodeId, PeerId, Policy, Rule, SocketAddress, TargetAddress,
        TargetScheme,
    },
};

macro_rules! record_tags {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        /// The kind of a record. Tags are a registry that only grows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum RecordTag {
            $($(#[$doc])* $name = $code,)*
        }

        impl RecordTag {
            /// Every tag, in the order of the registry.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The tag as a number.
            #[must_use]
            pub const fn code(self) -> u16 {
                self as u16
            }

            /// Finds a tag by its number.
            #[must_use]
            pub const fn from_code(code: u16) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The name, as in the registry.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

record_tags! {
    /// [`GatewayNode`].
    GatewayNode = 0x0101;
    /// [`GatewayPeer`].
    GatewayPeer = 0x0102;
    /// [`GatewayService`].
    GatewayService = 0x0103;
    /// [`GatewayUdpService`], with the key of a [`GatewayService`].
    GatewayUdpService = 0x0104;
    /// [`GatewaySibling`].
    GatewaySibling = 0x0105;
    /// [`GatewayPolicy`].
    GatewayPolicy = 0x0106;
    /// [`GatewayGuardedService`], with the key of a [`GatewayService`].
    GatewayGuardedService = 0x0107;
    /// [`GatewaySignIn`].
    GatewaySignIn = 0x0108;
    /// [`GatewaySigner`].
    GatewaySigner = 0x0109;
    /// [`GatewayMember`].
    GatewayMember = 0x010a;
    /// [`GatewayServiceToken`].
    GatewayServiceToken = 0x010b;
    /// [`PreviousKeys`] of an agent or another gateway.
    GatewayPreviousKeys = 0x010c;
    /// [`GatewayDiscreetService`], with the key of a [`GatewayService`].
    GatewayDiscreetService = 0x010d;
    /// [`AgentNode`].
    AgentNode = 0x0201;
    /// [`AgentGateway`].
    AgentGateway = 0x0202;
    /// [`AgentService`].
    AgentService = 0x0203;
    /// [`AgentUdpService`], with the key of an [`AgentService`].
    AgentUdpService = 0x0204;
    /// [`PreviousKeys`] of a gateway.
    AgentPreviousKeys = 0x0205;
}

impl fmt::Display for RecordTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A gateway itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayNode {
    /// Its identifier.
    pub id: [u8; 16],
    /// The owner.
    pub organization: [u8; 16],
    /// Its name.
    pub name: String,
    /// Its address in the overlay.
    pub address: [u8; 16],
    /// Its IPv4 address toward stock WireGuard sites.
    pub address_v4: [u8; 4],
}

/// A peer of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayPeer {
    /// Its identifier.
    pub id: PeerId,
    /// Its name.
    pub name: String,
    /// Who it is; a site has none.
    pub identity: Option<[u8; 32]>,
    /// Its key.
    pub wireguard: [u8; 32],
    /// Its own address in the overlay.
    pub address: [u8; 16],
    /// The networks from which its packets may come.
    pub allowed_ips: List<Cidr, 1024>,
    /// Where it listens.
    pub endpoint: Option<Endpoint>,
}

/// A service of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayService {
    /// Its identifier.
    pub id: [u8; 16],
    /// The owner.
    pub organization: [u8; 16],
    /// Its name.
    pub name: String,
    /// What is published.
    pub kind: GatewayServiceKind,
    /// Who may reach it.
    pub policy: Policy,
}

/// What is published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GatewayServiceKind {
    /// HTTP.
    Http {
        /// The hosts.
        hosts: List<String, 64>,
        /// The routes.
        routes: List<GatewayRoute, 256>,
    },
    /// Raw TCP.
    Tcp {
        /// The port.
        port: u16,
        /// Where connections go.
        targets: List<GatewayTarget, 64>,
    },
}

/// A UDP service of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayUdpService {
    /// Its identifier.
    pub id: [u8; 16],
    /// The owner.
    pub organization: [u8; 16],
    /// Its name.
    pub name: String,
    /// The port.
    pub port: u16,
    /// Where sessions go.
    pub targets: List<GatewayTarget, 64>,
    /// Who may reach it.
    pub policy: Policy,
}

/// A policy that services share. It belongs to none of them: whoever cannot read it denies each service
/// that is guarded by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayPolicy {
    /// Its identifier.
    pub id: [u8; 16],
    /// The rules.
    pub rules: List<Rule, 256>,
    /// What is asked of whom no rule decided about, if it says that.
    pub access: Option<Access>,
}

/// A service of a gateway to which shared policies are attached. Whoever does not know this record
/// denies the service, and does not serve it without them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayGuardedService {
    /// The service.
    pub service: GatewayAnyService,
    /// The policies that go before its own.
    pub policies: List<[u8; 16], 16>,
    /// The policies of its routes; a route without any is not here.
    pub routes: List<GatewayRoutePolicies, 256>,
}

/// An HTTP service of a gateway whose targets are told less of who a visitor is than everything. Whoever does not know this
/// record denies the service, and does not tell them more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayDiscreetService {
    /// The service.
    pub service: GatewayService,
    /// The policies that go before its own.
    pub policies: List<[u8; 16], 16>,
    /// The policies of its routes; a route without any is not here.
    pub routes: List<GatewayRoutePolicies, 256>,
    /// What the targets are told.
    pub identity: GatewayIdentityForm,
}

/// In which form targets are told who a visitor is, if not in every one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GatewayIdentityForm {
    /// They are not told.
    Nothing,
    /// Header fields.
    Headers,
    /// An assertion.
    Assertion,
}

/// A service of whatever transport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GatewayAnyService {
    /// HTTP or raw TCP.
    Stream(GatewayService),
    /// Datagrams.
    Datagram(GatewayUdpService),
}

/// The policies of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayRoutePolicies {
    /// The route.
    pub route: [u8; 16],
    /// The policies.
    pub policies: List<[u8; 16], 16>,
}

/// A route of an HTTP service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayRoute {
    /// Its identifier.
    pub id: [u8; 16],
    /// The paths.
    pub path: String,
    /// Where requests go.
    pub targets: List<GatewayTarget, 64>,
}

/// A target as a gateway reaches it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayTarget {
    /// Its identifier.
    pub id: [u8; 16],
    /// How to get there.
    pub via: Via,
    /// What is spoken to it.
    pub scheme: TargetScheme,
    /// The name that an `https` target's certificate must have.
    pub server_name: Option<String>,
    /// Whether its agent checks it.
    pub checked: bool,
}

/// How to get to a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Via {
    /// Through an agent's virtual port.
    Agent {
        /// The agent.
        agent: [u8; 16],
        /// The port.
        port: u16,
    },
    /// Straight to an address behind a stock WireGuard device.
    Site {
        /// The site.
        site: [u8; 16],
        /// The address.
        address: SocketAddress,
    },
}

/// Another gateway of the same deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewaySibling {
    /// Its identifier.
    pub id: [u8; 16],
    /// The owner.
    pub organization: [u8; 16],
    /// Its name.
    pub name: String,
    /// Its key.
    pub wireguard: [u8; 32],
    /// Its address in the overlay.
    pub address: [u8; 16],
    /// Where its WireGuard socket is, best first.
    pub endpoints: List<Endpoint, 16>,
}

/// Where visitors of a gateway sign in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewaySignIn {
    /// Control's public URL.
    pub control: String,
    /// The Ed25519 keys that Control signs tickets with.
    pub keys: List<[u8; 32], MAX_SIGNING_KEYS>,
}

/// A gateway whose session cookies are taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewaySigner {
    /// The gateway.
    pub id: [u8; 16],
    /// The Ed25519 keys that it signs with.
    pub keys: List<[u8; 32], MAX_SIGNING_KEYS>,
}

/// A person who may sign in to services of an organization.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayMember {
    /// The organization.
    pub organization: [u8; 16],
    /// The person.
    pub user: [u8; 16],
    /// The person's address.
    pub email: String,
    /// The names of the person's roles.
    pub roles: List<String, MAX_MEMBER_ROLES>,
    /// The names of the person's groups.
    pub groups: List<String, MAX_MEMBER_GROUPS>,
    /// Tickets of before this, in milliseconds since the epoch, count no more.
    pub tickets_since: i64,
    /// Sessions that ended before their time.
    pub ended: List<[u8; 16], MAX_ENDED_SESSIONS>,
}

/// A service token of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayServiceToken {
    /// Its identifier.
    pub id: [u8; 16],
    /// The organization to whose services it can lead.
    pub organization: [u8; 16],
    /// SHA-256 of the secret.
    pub secret_hash: [u8; 32],
    /// When it ends to be of use, in milliseconds since the epoch.
    pub expires: Option<i64>,
}

/// The keys that another node had before, and which count beside those in its own record. Whoever does not know this
/// record goes by the new keys alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousKeys {
    /// The node.
    pub node: NodeId,
    /// Who it was.
    pub identity: [u8; 32],
    /// Its WireGuard key.
    pub wireguard: [u8; 32],
}

/// An agent itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentNode {
    /// Its identifier.
    pub id: [u8; 16],
    /// The owner.
    pub organization: [u8; 16],
    /// Its name.
    pub name: String,
    /// Its address in the overlay.
    pub address: [u8; 16],
}

/// A gateway of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentGateway {
    /// Its identifier.
    pub id: [u8; 16],
    /// Its name.
    pub name: String,
    /// Who it is.
    pub identity: [u8; 32],
    /// Its key.
    pub wireguard: [u8; 32],
    /// Its address in the overlay.
    pub address: [u8; 16],
    /// Where its WireGuard socket is, best first.
    pub endpoints: List<Endpoint, 16>,
    /// Where it takes TLS stream lanes, best first.
    pub streams: List<Endpoint, 16>,
}

/// A service with targets at an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentService {
    /// Its identifier.
    pub id: [u8; 16],
    /// Its name.
    pub name: String,
    /// The hosts of an HTTP service.
    pub hosts: List<String, 64>,
    /// The port of a TCP service.
    pub port: Option<u16>,
    /// Where visitors find it.
    pub urls: List<String, 1024>,
    /// The targets at this agent.
    pub targets: List<AgentTarget, 16384>,
}

/// A UDP service with targets at an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentUdpService {
    /// Its identifier.
    pub id: [u8; 16],
    /// Its name.
    pub name: String,
    /// The port.
    pub port: u16,
    /// Where visitors find it.
    pub urls: List<String, 1024>,
    /// The targets at this agent.
    pub targets: List<AgentTarget, 16384>,
}

/// A target as its agent reaches it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentTarget {
    /// Its identifier.
    pub id: [u8; 16],
    /// The overlay port at which flows for it arrive.
    pub port: u16,
    /// What to dial.
    pub address: TargetAddress,
    /// Whether TLS is spoken to it.
    pub tls: bool,
    /// How to check it.
    pub health: Option<HealthCheck>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was released stays: this list only grows at its end.
    #[test]
    fn the_registry_of_records_is_exhaustive_and_only_grows() {
        let registry: Vec<_> = RecordTag::ALL
            .iter()
            .map(|tag| (tag.code(), tag.name()))
            .collect();
        assert_eq!(
            registry,
            [
                (0x0101, "GatewayNode"),
                (0x0102, "GatewayPeer"),
                (0x0103, "GatewayService"),
                (0x0104, "GatewayUdpService"),
                (0x0105, "GatewaySibling"),
                (0x0106, "GatewayPolicy"),
                (0x0107, "GatewayGuardedService"),
                (0x0108, "GatewaySignIn"),
                (0x0109, "GatewaySigner"),
                (0x010a, "GatewayMember"),
                (0x010b, "GatewayServiceToken"),
                (0x010c, "GatewayPreviousKeys"),
                (0x010d, "GatewayDiscreetService"),
                (0x0201, "AgentNode"),
                (0x0202, "AgentGateway"),
                (0x0203, "AgentService"),
                (0x0204, "AgentUdpService"),
                (0x0205, "AgentPreviousKeys"),
            ]
        );
        let known = (0..=u16::MAX)
            .filter(|code| RecordTag::from_code(*code).is_some())
            .count();
        assert_eq!(known, RecordTag::ALL.len());
    }
}
