//! What only one role has.

use std::net::Ipv4Addr;

use kakuremichi_core::{
    key::SigningKey,
    model::{DeclareScope, NodeKind, Pending, VirtualPort},
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
