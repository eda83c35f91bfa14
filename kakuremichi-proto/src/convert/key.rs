//! The keys of records: a byte for the kind, and the identifier of what the record is about. The tag is
//! not in them, so that a record of a newer layout takes the place of the older one.

use kakuremichi_core::{
    id::{NodeId, PeerId},
    plan::{AgentKey, GatewayKey},
};

use crate::plan::{PlanError, RecordKey};

const NODE: u8 = 0;
const AGENT_PEER: u8 = 1;
const SITE_PEER: u8 = 2;
const GATEWAY: u8 = 3;
const SERVICE: u8 = 4;
const POLICY: u8 = 5;
const SIGN_IN: u8 = 6;
const SIGNER: u8 = 7;
const MEMBER: u8 = 8;
const SERVICE_TOKEN: u8 = 9;
const AGENT_KEYS: u8 = 10;
const GATEWAY_KEYS: u8 = 11;

pub(super) fn gateway(key: GatewayKey) -> Result<RecordKey, PlanError> {
    match key {
        GatewayKey::Node => RecordKey::new(&[NODE]),
        GatewayKey::Peer(PeerId::Agent(id)) => with(AGENT_PEER, id.as_bytes()),
        GatewayKey::Peer(PeerId::Site(id)) => with(SITE_PEER, id.as_bytes()),
        GatewayKey::Service(id) => with(SERVICE, id.as_bytes()),
        GatewayKey::Sibling(id) => with(GATEWAY, id.as_bytes()),
        GatewayKey::Policy(id) => with(POLICY, id.as_bytes()),
        GatewayKey::SignIn => RecordKey::new(&[SIGN_IN]),
        GatewayKey::Signer(id) => with(SIGNER, id.as_bytes()),
        GatewayKey::ServiceToken(id) => with(SERVICE_TOKEN, id.as_bytes()),
        GatewayKey::PreviousKeys(node) => previous(node),
        GatewayKey::Member(organization, user) => {
            let mut key = [MEMBER; 33];
            key[1..17].copy_from_slice(organization.as_bytes());
            key[17..].copy_from_slice(user.as_bytes());
            RecordKey::new(&key)
        }
    }
}

pub(super) fn agent(key: AgentKey) -> Result<RecordKey, PlanError> {
    match key {
        AgentKey::Node => RecordKey::new(&[NODE]),
        AgentKey::Gateway(id) => with(GATEWAY, id.as_bytes()),
        AgentKey::Service(id) => with(SERVICE, id.as_bytes()),
        AgentKey::PreviousKeys(node) => previous(node),
    }
}

fn previous(node: NodeId) -> Result<RecordKey, PlanError> {
    match node {
        NodeId::Agent(id) => with(AGENT_KEYS, id.as_bytes()),
        NodeId::Gateway(id) => with(GATEWAY_KEYS, id.as_bytes()),
    }
}

fn with(kind: u8, id: &[u8; 16]) -> Result<RecordKey, PlanError> {
    let mut key = [kind; 17];
    key[1..].copy_from_slice(id);
    RecordKey::new(&key)
}
