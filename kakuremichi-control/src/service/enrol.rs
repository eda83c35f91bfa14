//! Enrolment: a token for an identity.

use std::net::Ipv4Addr;

use kakuremichi_core::{
    id::{AgentId, GatewayId, NodeId},
    model::{EnrolmentToken, Node, NodeKind, Role, Rotation, TokenUnusable, VirtualPort},
    store::{Mutation, Stored, UniqueKey},
};
use kakuremichi_proto::session::EnrolRequest;

use super::{Actor, ENCODED_NODE, UseCaseError, UseCases, names::node_name, now, random};

/// Names, and IPv4 addresses, that are tried before it is given up.
const TRIES: usize = 64;
/// Where visitors reach a gateway that has not said so yet.
const HTTPS_PORT: u16 = 443;

impl UseCases {
    /// Lets a node join, in one transaction with the use of its token. A node that enrolled already, and did
    /// not hear of it, is told again who it is; that uses the token no second time.
    ///
    /// When the token asks for approval, the node is known afterwards, and waits: that is an error, too.
    ///
    /// # Errors
    /// When the token is of no use, the node waits or was revoked, or the storage fails.
    pub async fn enrol(&self, enrolment: &EnrolRequest) -> Result<Node, UseCaseError> {
        for attempt in 0..TRIES {
            let key = UniqueKey::Identity(enrolment.identity);
            if let Some(known) = self.store().find(&key).await?.and_then(Stored::narrow::<Node>) {
                let role = role_of(known.value.id);
                if role != enrolment.role {
                    return Err(TokenUnusable::Role(role).into());
                }
                return self
                    .login(known.value.id, enrolment.identity, enrolment.wireguard)
                    .await;
            }
            match self.try_enrol(enrolment, attempt).await {
                // The name or the address was taken: try others. The identity: it is known by now.
                Err(UseCaseError::Taken(
                    UniqueKey::NodeName(..)
                    | UniqueKey::OverlayV4(_)
                    | UniqueKey::PendingPlace(..)
                    | UniqueKey::Identity(_),
                ))
                | Err(UseCaseError::Contended) => {}
                Ok(node) if node.pending.is_some() => return Err(UseCaseError::NodePending),
                outcome => return outcome,
            }
        }
        Err(UseCaseError::Limit("no name or address is left for another node"))
    }

    async fn try_enrol(&self, enrolment: &EnrolRequest, attempt: usize) -> Result<Node, UseCaseError> {
        let found = self
            .store()
            .find(&UniqueKey::TokenSecret(*enrolment.secret_hash.as_bytes()))
            .await?;
        let token = found
            .and_then(Stored::narrow::<EnrolmentToken>)
            .map(|stored| stored.value)
            .filter(|token| token.secret_hash == enrolment.secret_hash)
            .ok_or(TokenUnusable::Unknown)?;
        let (id, kind) = match enrolment.role {
            Role::Agent => (
                NodeId::Agent(AgentId::from_bytes(random()?)),
                NodeKind::Agent {
                    declare: token.declare.clone(),
                    next_port: VirtualPort::FIRST,
                },
            ),
            Role::Gateway => (
                NodeId::Gateway(GatewayId::from_bytes(random()?)),
                NodeKind::Gateway {
                    endpoints: Vec::new(),
                    https_port: HTTPS_PORT,
                    address_v4: random_v4()?,
                    signing_keys: Vec::new(),
                },
            ),
        };
        let name = node_name(&enrolment.name, attempt).map_err(|error| UseCaseError::field("name", error))?;
        let at = now();
        // Who has no usable token is told that first, whoever waits.
        token.usable(enrolment.role, at)?;
        let pending = if token.approval {
            Some(self.pending(token.organization, at).await?)
        } else {
            None
        };
        let node = Node {
            id,
            organization: token.organization,
            name,
            identity: enrolment.identity,
            wireguard: enrolment.wireguard,
            token: token.id,
            created: at,
            revoked: None,
            pending,
            labels: token.labels,
            rotation: Rotation::default(),
            kind,
        };
        let actor = Actor::node(&node);
        self.room_for(&actor, ENCODED_NODE)?;
        let write = vec![
            // First: who has no usable token is not told which names are taken.
            Mutation::ConsumeToken {
                token: token.id,
                role: enrolment.role,
                now: at,
            },
            Mutation::Create(node.clone().into()),
        ];
        self.commit(&actor, "node.enrol", id, write).await?;
        Ok(node)
    }
}

const fn role_of(node: NodeId) -> Role {
    match node {
        NodeId::Agent(_) => Role::Agent,
        NodeId::Gateway(_) => Role::Gateway,
    }
}

/// A random address of 100.64.0.0/10, neither the first nor the last. Whether it is free, the store says.
pub(super) fn random_v4() -> Result<Ipv4Addr, UseCaseError> {
    const NETWORK: u32 = u32::from_be_bytes([100, 64, 0, 0]);
    const HOSTS: u32 = (1 << 22) - 2;
    let host = u32::from_be_bytes(random()?) % HOSTS + 1;
    Ok(Ipv4Addr::from_bits(NETWORK | host))
}
