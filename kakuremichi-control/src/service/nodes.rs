//! Nodes, once they have enrolled.

use kakuremichi_core::{
    id::{AgentId, NodeId, OrganizationId},
    key::{IdentityKey, SigningKey, WireGuardKey},
    model::{KeyAge, Labels, Node, NodeKind, NodeState, Service, TargetPlace},
    name::Label,
    net::Endpoint,
    store::{MAX_PAGE, Mutation, Query, RecordKind, Stored, Version},
};

use super::{ATTEMPTS, Actor, UseCaseError, UseCases, at_version, now, update, written};

/// What of a node somebody wants to be otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeChange {
    /// Its name.
    pub name: Option<Label>,
    /// All its labels.
    pub labels: Option<Labels>,
}

impl UseCases {
    /// Reads a node.
    ///
    /// # Errors
    /// When it is not there or the storage fails.
    pub async fn node(&self, actor: &Actor, id: NodeId) -> Result<Stored<Node>, UseCaseError> {
        self.load(actor, id).await
    }

    /// Changes the name or the labels of a node.
    ///
    /// # Errors
    /// When it is not there, has changed since `expected`, the name is taken, or the storage fails.
    pub async fn update_node(
        &self,
        actor: &Actor,
        id: NodeId,
        change: &NodeChange,
        expected: Option<Version>,
    ) -> Result<Stored<Node>, UseCaseError> {
        self.change_node(actor, "node.update", id, expected, |node| {
            if let Some(name) = &change.name {
                node.name.clone_from(name);
            }
            if let Some(labels) = &change.labels {
                node.labels.clone_from(labels);
            }
        })
        .await
    }

    /// Revokes a node: its connections are refused from now on, and it leaves everybody's plan. Doing it
    /// again changes nothing.
    ///
    /// # Errors
    /// When it is not there or the storage fails.
    pub async fn revoke_node(&self, actor: &Actor, id: NodeId) -> Result<Stored<Node>, UseCaseError> {
        let at = now();
        self.change_node(actor, "node.revoke", id, None, |node| {
            node.revoked.get_or_insert(at);
        })
        .await
    }

    /// Deletes a node, and what it declared. Its identity can enrol anew.
    ///
    /// # Errors
    /// When it is not there, is not at the version that is expected, services that others made have targets at
    /// it, or the storage fails.
    pub async fn delete_node(
        &self,
        actor: &Actor,
        id: NodeId,
        expected: Option<Version>,
    ) -> Result<(), UseCaseError> {
        for _ in 0..ATTEMPTS {
            // Read first: whoever gives the node a target after this has to write it, and then the
            // version is another.
            let node = self.node(actor, id).await?;
            at_version(&node, expected)?;
            let mut write = Vec::new();
            if let NodeId::Agent(agent) = id {
                let (own, others) = self.services_at(actor, agent).await?;
                if !others.is_empty() {
                    return Err(UseCaseError::InUse(others));
                }
                write.extend(
                    own.into_iter()
                        .map(|service| Mutation::Delete(service.value.id.into(), Some(service.version))),
                );
            }
            write.push(Mutation::Delete(id.into(), Some(node.version)));
            match self
                .commit(actor, "node.delete", id, write)
                .await
                .map_err(Into::into)
            {
                Ok(_) => return Ok(()),
                Err(UseCaseError::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Err(UseCaseError::Contended)
    }

    /// Has Control itself do to each node what `write` makes of it, if anything: each in a transaction of its own. One that
    /// somebody else changed meanwhile is left to the next time.
    pub(super) async fn sweep_nodes(
        &self,
        action: &'static str,
        write: impl Fn(Stored<Node>) -> Option<Mutation>,
    ) -> Result<(), UseCaseError> {
        for stored in self.store().all::<Node>(None).await? {
            let (id, actor) = (stored.value.id, Actor::control(stored.value.organization));
            let Some(mutation) = write(stored) else { continue };
            match self
                .commit(&actor, action, id, vec![mutation])
                .await
                .map_err(Into::into)
            {
                Ok(_) | Err(UseCaseError::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// A node that enrolled before shows its keys, whose possession it has proven. A new WireGuard key takes
    /// the place of the one that is known; one of before does not.
    ///
    /// # Errors
    /// When the node is not known, waits for approval, was revoked, or the identity is another's.
    pub async fn login(
        &self,
        id: NodeId,
        identity: IdentityKey,
        wireguard: WireGuardKey,
    ) -> Result<Node, UseCaseError> {
        let found = self.store().get(id.into()).await?;
        let Some(Stored { value: node, .. }) = found.and_then(Stored::narrow::<Node>) else {
            return Err(UseCaseError::NodeUnknown);
        };
        let Some(age) = node.speaks_as(&identity, now()) else {
            return Err(UseCaseError::NodeKey);
        };
        match node.state() {
            NodeState::Active => {}
            NodeState::Pending => return Err(UseCaseError::NodePending),
            NodeState::Revoked => return Err(UseCaseError::NodeRevoked),
        }
        let previous = node.rotation.previous;
        let of_before = age == KeyAge::Previous || previous.is_some_and(|keys| keys.wireguard == wireguard);
        if node.wireguard == wireguard || of_before {
            return Ok(node);
        }
        let actor = Actor::node(&node);
        let changed = self.change_node(&actor, "node.rotate", id, None, |node| node.wireguard = wireguard);
        Ok(changed.await?.value)
    }

    /// A gateway says how it is reached.
    ///
    /// # Errors
    /// When it is not there or the storage fails.
    pub async fn set_gateway(
        &self,
        actor: &Actor,
        id: NodeId,
        reached_at: &[Endpoint],
        port: u16,
    ) -> Result<Stored<Node>, UseCaseError> {
        self.change_node(actor, "gateway.update", id, None, |node| {
            if let NodeKind::Gateway {
                endpoints,
                https_port,
                ..
            } = &mut node.kind
            {
                *endpoints = reached_at.to_vec();
                *https_port = port;
            }
        })
        .await
    }

    /// A gateway says what it signs session cookies with: all its keys.
    ///
    /// # Errors
    /// When it is not there or the storage fails.
    pub async fn set_signing_keys(
        &self,
        actor: &Actor,
        id: NodeId,
        keys: &[SigningKey],
    ) -> Result<Stored<Node>, UseCaseError> {
        self.change_node(actor, "gateway.rotate", id, None, |node| {
            if let NodeKind::Gateway { signing_keys, .. } = &mut node.kind {
                *signing_keys = keys.to_vec();
            }
        })
        .await
    }

    /// Changes a node; when that makes no difference, nothing is written.
    pub(super) async fn change_node(
        &self,
        actor: &Actor,
        action: &str,
        id: NodeId,
        expected: Option<Version>,
        change: impl Fn(&mut Node),
    ) -> Result<Stored<Node>, UseCaseError> {
        for _ in 0..ATTEMPTS {
            let stored = self.node(actor, id).await?;
            at_version(&stored, expected)?;
            let mut node = stored.value.clone();
            change(&mut node);
            if node == stored.value {
                return Ok(stored);
            }
            let write = vec![update(node.clone(), stored.version)];
            match self.commit(actor, action, id, write).await.map_err(Into::into) {
                Ok(_) => return Ok(written(node, Some(stored.version))),
                Err(UseCaseError::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Err(UseCaseError::Contended)
    }

    /// The services with targets at an agent: those that it declared, and the names of all others.
    async fn services_at(
        &self,
        actor: &Actor,
        agent: AgentId,
    ) -> Result<(Vec<Stored<Service>>, Vec<Label>), UseCaseError> {
        let (mut own, mut others) = (Vec::new(), Vec::new());
        for stored in self.store().all::<Service>(Some(actor.organization)).await? {
            let at_agent =
                |place: &TargetPlace| matches!(place, TargetPlace::Agent { agent: at, .. } if *at == agent);
            if stored.value.lifetime.declared_by() == Some(agent) {
                own.push(stored);
            } else if stored.value.targets().any(|target| at_agent(&target.place)) {
                others.push(stored.value.name);
            }
        }
        Ok((own, others))
    }

    /// The gateways of an organization.
    pub(super) async fn gateways(&self, organization: OrganizationId) -> Result<Vec<Node>, UseCaseError> {
        let mut query = Query {
            // Agents come before gateways.
            after: Some(AgentId::from_bytes([0xff; 16]).into()),
            limit: MAX_PAGE,
            ..Query::all(RecordKind::Node).of(organization)
        };
        let mut gateways = Vec::new();
        loop {
            let page = self.store().list(query).await?;
            let nodes = page.records.into_iter().filter_map(Stored::narrow::<Node>);
            gateways.extend(nodes.map(|stored| stored.value));
            match page.next {
                Some(next) => query.after = Some(next),
                None => return Ok(gateways),
            }
        }
    }
}
