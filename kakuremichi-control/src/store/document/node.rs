//! What only one role has.

use std::{net::Ipv4Addr, time::Duration};

use kakuremichi_core::{
    key::{IdentityKey, SigningKey, WireGuardKey},
    model::{DeclareScope, NodeKind, Pending, PreviousKeys, Rotation, RotationAsked, VirtualPort},
    name::HostPattern,
    net::{Endpoint, PortRange},
    time::Timestamp,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::text::{Text, texts, untexts};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(in crate::store) enum NodeDocument {
    Agent {
        declare: ScopeDocument,
        next_port: PortDocument,
    },
    Gateway {
        endpoints: Vec<Text<Endpoint>>,
        https_port: u16,
        address_v4: Text<Ipv4Addr>,
        #[serde(default)]
        signing_keys: Vec<Text<SigningKey>>,
    },
}

impl From<&NodeKind> for NodeDocument {
    fn from(kind: &NodeKind) -> Self {
        match kind {
            NodeKind::Agent { declare, next_port } => Self::Agent {
                declare: declare.into(),
                next_port: PortDocument(*next_port),
            },
            NodeKind::Gateway {
                endpoints,
                https_port,
                address_v4,
                signing_keys,
            } => Self::Gateway {
                endpoints: texts(endpoints),
                https_port: *https_port,
                address_v4: Text(*address_v4),
                signing_keys: texts(signing_keys),
            },
        }
    }
}

impl From<NodeDocument> for NodeKind {
    fn from(document: NodeDocument) -> Self {
        match document {
            NodeDocument::Agent { declare, next_port } => Self::Agent {
                declare: declare.into(),
                next_port: next_port.0,
            },
            NodeDocument::Gateway {
                endpoints,
                https_port,
                address_v4,
                signing_keys,
            } => Self::Gateway {
                endpoints: untexts(endpoints),
                https_port,
                address_v4: address_v4.0,
                signing_keys: untexts(signing_keys),
            },
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct ScopeDocument {
    hosts: Vec<Text<HostPattern>>,
    ports: Vec<Text<PortRange>>,
}

impl From<&DeclareScope> for ScopeDocument {
    fn from(scope: &DeclareScope) -> Self {
        Self {
            hosts: texts(&scope.hosts),
            ports: texts(&scope.ports),
        }
    }
}

impl From<ScopeDocument> for DeclareScope {
    fn from(document: ScopeDocument) -> Self {
        Self {
            hosts: untexts(document.hosts),
            ports: untexts(document.ports),
        }
    }
}

/// A node waits for approval.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct PendingDocument {
    place: u16,
    until: i64,
}

impl From<Pending> for PendingDocument {
    fn from(pending: Pending) -> Self {
        Self {
            place: pending.place,
            until: pending.until.as_millis(),
        }
    }
}

impl From<PendingDocument> for Pending {
    fn from(document: PendingDocument) -> Self {
        Self {
            place: document.place,
            until: Timestamp::from_millis(document.until),
        }
    }
}

/// How the keys of a node follow each other.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct RotationDocument {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rotated: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asked: Option<RotationAskedDocument>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<PreviousKeysDocument>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RotationAskedDocument {
    at: i64,
    /// In milliseconds.
    overlap: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PreviousKeysDocument {
    identity: Text<IdentityKey>,
    wireguard: Text<WireGuardKey>,
    until: i64,
}

impl RotationDocument {
    /// None where there is nothing to say.
    pub(in crate::store) fn of(rotation: &Rotation) -> Option<Self> {
        if *rotation == Rotation::default() {
            return None;
        }
        Some(Self {
            rotated: rotation.rotated.map(Timestamp::as_millis),
            asked: rotation.asked.map(|asked| RotationAskedDocument {
                at: asked.at.as_millis(),
                overlap: u64::try_from(asked.overlap.as_millis()).unwrap_or(u64::MAX),
            }),
            previous: rotation.previous.map(|previous| PreviousKeysDocument {
                identity: Text(previous.identity),
                wireguard: Text(previous.wireguard),
                until: previous.until.as_millis(),
            }),
        })
    }
}

impl From<RotationDocument> for Rotation {
    fn from(document: RotationDocument) -> Self {
        Self {
            rotated: document.rotated.map(Timestamp::from_millis),
            asked: document.asked.map(|asked| RotationAsked {
                at: Timestamp::from_millis(asked.at),
                overlap: Duration::from_millis(asked.overlap),
            }),
            previous: document.previous.map(|previous| PreviousKeys {
                identity: previous.identity.0,
                wireguard: previous.wireguard.0,
                until: Timestamp::from_millis(previous.until),
            }),
        }
    }
}

/// A virtual port, as a number.
#[derive(Debug)]
pub(in crate::store) struct PortDocument(pub(super) VirtualPort);

impl Serialize for PortDocument {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.get().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PortDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let port = u16::deserialize(deserializer)?;
        VirtualPort::new(port)
            .map(Self)
            .ok_or_else(|| D::Error::custom(format_args!("{port} is reserved")))
    }
}
