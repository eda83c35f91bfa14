//! From what somebody asks for to what is stored: references become identifiers, targets get their ports.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use kakuremichi_core::{
    id::{AgentId, NodeId, PolicyId, RouteId, SiteId, TargetId},
    model::{Node, NodeKind, Pool, Route, Service, ServiceKind, Site, Target, TargetPlace, VirtualPort},
    name::{Label, PathPattern},
    net::Overlay,
    policy::{Access, BasicUser, MAX_ATTACHED, Method, Policy, SharedPolicy},
    store::{Mutation, Stored, UniqueKey},
};

use super::{
    AccessDraft, Actor, KindDraft, MethodDraft, PasswordDraft, PlaceDraft, PolicyDraft, PoolDraft, Reference,
    TargetDraft, UseCaseError, UseCases, UserDraft,
    names::At,
    passwords::{MAX_PASSWORD, check_hash},
    random,
    sites::reaches,
    update,
};

/// The longest name of a user, in bytes.
const MAX_USER_NAME: usize = 255;

/// What a draft comes to.
pub(super) struct Resolved {
    pub(super) kind: ServiceKind,
    /// What is attached to the service.
    pub(super) policies: Vec<PolicyId>,
    /// Writes the agents whose ports were given away, and the sites and policies that are newly used: who
    /// deletes one of them at the same time finds it changed.
    pub(super) beside: Vec<Mutation>,
}

impl UseCases {
    /// Resolves what is published. Targets of `old` that are still wanted keep identifier and port; each
    /// other gets a port that its agent never had.
    pub(super) async fn resolve_kind(
        &self,
        actor: &Actor,
        draft: KindDraft,
        policies: Vec<Reference<PolicyId>>,
        old: Option<&Service>,
    ) -> Result<Resolved, UseCaseError> {
        let mut resolver = Resolver {
            use_cases: self,
            actor,
            overlay: self.start().await?.overlay,
            agents: BTreeMap::new(),
            sites: BTreeMap::new(),
            policies: BTreeMap::new(),
            kept_policies: old.map(Service::attached).unwrap_or_default(),
            spare: old.map(spare).unwrap_or_default(),
        };
        let policies = resolver.policies(policies, "policies").await?;
        let kind = match draft {
            KindDraft::Http {
                hosts,
                routes,
                identity,
            } => {
                let mut resolved = Vec::with_capacity(routes.len());
                for (index, route) in routes.into_iter().enumerate() {
                    let id = match old.and_then(|old| route_of(old, &route.path)) {
                        Some(id) => id,
                        None => RouteId::from_bytes(random()?),
                    };
                    let pool = resolver
                        .pool(route.pool, "http", Some((index, &route.path)))
                        .await?;
                    let field = format!("http.routes[{index}].policies");
                    let policies = resolver.policies(route.policies, &field).await?;
                    resolved.push(Route {
                        id,
                        path: route.path,
                        pool,
                        policies,
                    });
                }
                ServiceKind::Http {
                    hosts,
                    routes: resolved,
                    identity,
                }
            }
            KindDraft::Tcp { port, pool } => ServiceKind::Tcp {
                port,
                pool: resolver.pool(pool, "tcp", None).await?,
            },
            KindDraft::Udp { port, pool } => ServiceKind::Udp {
                port,
                pool: resolver.pool(pool, "udp", None).await?,
            },
        };
        Ok(Resolved {
            kind,
            policies,
            beside: resolver.beside(),
        })
    }

    /// Resolves who may reach the service: passwords are hashed, and those that are to stay are taken from
    /// `old`.
    pub(super) async fn resolve_policy(
        &self,
        actor: &Actor,
        draft: PolicyDraft,
        old: Option<&Policy>,
    ) -> Result<Policy, UseCaseError> {
        let old = old.map(|policy| &policy.access);
        let policy = Policy {
            rules: draft.rules,
            access: self
                .resolve_access(actor, draft.access, "policy.access", old)
                .await?,
        };
        policy
            .validate()
            .map_err(|error| UseCaseError::field("policy", error))?;
        Ok(policy)
    }

    /// Resolves what is asked of visitors, at the field `at`.
    pub(super) async fn resolve_access(
        &self,
        actor: &Actor,
        draft: AccessDraft,
        at: &str,
        old: Option<&Access>,
    ) -> Result<Access, UseCaseError> {
        let (methods, all) = match draft {
            AccessDraft::Deny => return Ok(Access::Deny),
            AccessDraft::Public => return Ok(Access::Public),
            AccessDraft::AnyOf(methods) => (methods, false),
            AccessDraft::AllOf(methods) => (methods, true),
        };
        let at = format!("{at}.{}", if all { "all_of" } else { "any_of" });
        let mut resolved = Vec::with_capacity(methods.len());
        for (index, method) in methods.into_iter().enumerate() {
            resolved.push(match method {
                MethodDraft::SignedIn(requirement) => Method::SignedIn(requirement),
                MethodDraft::ServiceToken(wanted) => Method::ServiceToken {
                    tokens: self
                        .resolve_service_tokens(actor, &format!("{at}[{index}]"), &wanted, old)
                        .await?,
                },
                MethodDraft::Basic(users) => Method::Basic {
                    users: self.resolve_users(&format!("{at}[{index}]"), users, old).await?,
                },
            });
        }
        Ok(if all {
            Access::AllOf(resolved)
        } else {
            Access::AnyOf(resolved)
        })
    }

    async fn resolve_users(
        &self,
        method: &str,
        users: Vec<UserDraft>,
        old: Option<&Access>,
    ) -> Result<Vec<BasicUser>, UseCaseError> {
        let mut resolved: Vec<BasicUser> = Vec::with_capacity(users.len());
        if users.len() > kakuremichi_core::policy::MAX_BASIC_USERS {
            return Err(UseCaseError::field(
                "policy",
                kakuremichi_core::policy::PolicyError::Users,
            ));
        }
        for (index, user) in users.into_iter().enumerate() {
            let at = |field: &str| format!("{method}.basic.users[{index}].{field}");
            // RFC 7617: no colon and no control characters, or the header could not carry it.
            if user.name.is_empty() || user.name.len() > MAX_USER_NAME {
                return Err(UseCaseError::field(
                    at("name"),
                    format!("a name has 1 to {MAX_USER_NAME} bytes"),
                ));
            }
            if user.name.contains(|c: char| c == ':' || c.is_control()) {
                return Err(UseCaseError::field(
                    at("name"),
                    "a name has neither `:` nor control characters",
                ));
            }
            if resolved.iter().any(|other| other.name == user.name) {
                return Err(UseCaseError::field(at("name"), "the name stands twice"));
            }
            let password_hash = match user.password {
                PasswordDraft::Plain(password) if password.expose().is_empty() => {
                    return Err(UseCaseError::field(at("password"), "the password is empty"));
                }
                PasswordDraft::Plain(password) if password.expose().len() > MAX_PASSWORD => {
                    let message = format!("a password has at most {MAX_PASSWORD} bytes");
                    return Err(UseCaseError::field(at("password"), message));
                }
                PasswordDraft::Plain(password) => self.0.passwords.hash(password).await?,
                PasswordDraft::Hash(hash) => {
                    check_hash(&hash).map_err(|error| UseCaseError::field(at("password_hash"), error))?;
                    hash
                }
                PasswordDraft::Keep => kept_hash(old, &user.name).ok_or_else(|| {
                    UseCaseError::field(
                        at("password"),
                        "the user is new: give `password` or `password_hash`",
                    )
                })?,
            };
            resolved.push(BasicUser {
                name: user.name,
                password_hash,
            });
        }
        Ok(resolved)
    }
}

fn kept_hash(old: Option<&Access>, name: &str) -> Option<String> {
    old?.basic_users()
        .find(|user| user.name == name)
        .map(|user| user.password_hash.clone())
}

fn route_of(old: &Service, path: &PathPattern) -> Option<RouteId> {
    match &old.kind {
        ServiceKind::Http { routes, .. } => routes
            .iter()
            .find(|route| route.path == *path)
            .map(|route| route.id),
        ServiceKind::Tcp { .. } | ServiceKind::Udp { .. } => None,
    }
}

/// A target that the service has, and the path at which it has it.
type Spare = (Option<PathPattern>, Target);

fn spare(old: &Service) -> Vec<Spare> {
    match &old.kind {
        ServiceKind::Http { routes, .. } => {
            let at = |route: &Route| {
                let path = route.path.clone();
                let targets = route.pool.targets.clone().into_iter();
                targets.map(move |target| (Some(path.clone()), target))
            };
            routes.iter().flat_map(at).collect()
        }
        ServiceKind::Tcp { pool, .. } | ServiceKind::Udp { pool, .. } => {
            pool.targets.iter().map(|target| (None, target.clone())).collect()
        }
    }
}

struct Resolver<'a> {
    use_cases: &'a UseCases,
    actor: &'a Actor,
    overlay: Overlay,
    agents: BTreeMap<AgentId, Seen<Node>>,
    sites: BTreeMap<SiteId, Seen<Site>>,
    policies: BTreeMap<PolicyId, Seen<SharedPolicy>>,
    /// What is attached already.
    kept_policies: BTreeSet<PolicyId>,
    spare: Vec<Spare>,
}

struct Seen<T> {
    stored: Stored<T>,
    written: bool,
}

impl Resolver<'_> {
    async fn pool(
        &mut self,
        draft: PoolDraft,
        kind: &str,
        route: Option<(usize, &PathPattern)>,
    ) -> Result<Pool, UseCaseError> {
        let mut targets = Vec::with_capacity(draft.targets.len());
        for (index, target) in draft.targets.into_iter().enumerate() {
            let at = |field| At {
                kind,
                route: route.map(|(index, _)| index),
                target: index,
                field,
            };
            targets.push(self.target(target, route.map(|(_, path)| path), at).await?);
        }
        Ok(Pool {
            targets,
            health: draft.health,
        })
    }

    async fn target<'f>(
        &mut self,
        draft: TargetDraft,
        path: Option<&PathPattern>,
        at: impl Fn(&'f str) -> At<'f>,
    ) -> Result<Target, UseCaseError> {
        let (id, place) = match draft.place {
            PlaceDraft::Agent { agent, address } => {
                let agent = self.agent(agent, at("agent")).await?;
                let kept = self.take_spare(path, |place| match place {
                    TargetPlace::Agent {
                        agent: of,
                        address: old,
                        ..
                    } => *of == agent && *old == address,
                    TargetPlace::Site { .. } => false,
                });
                match kept {
                    Some(kept) => (kept.id, kept.place),
                    None => {
                        let port = self.give_port(agent)?;
                        (
                            TargetId::from_bytes(random()?),
                            TargetPlace::Agent { agent, port, address },
                        )
                    }
                }
            }
            PlaceDraft::Site { site, address } => {
                let site = self.site(site, at("site")).await?;
                let wanted = TargetPlace::Site { site, address };
                match self.take_spare(path, |place| *place == wanted) {
                    Some(kept) => (kept.id, kept.place),
                    None => {
                        self.use_site(site, address.ip(), at("address"))?;
                        (TargetId::from_bytes(random()?), wanted)
                    }
                }
            }
        };
        Ok(Target {
            id,
            place,
            scheme: draft.scheme,
        })
    }

    /// Takes a target that the service has already: one of the same route if there is one.
    fn take_spare(
        &mut self,
        path: Option<&PathPattern>,
        is: impl Fn(&TargetPlace) -> bool,
    ) -> Option<Target> {
        let same_route = self
            .spare
            .iter()
            .position(|(at, target)| at.as_ref() == path && is(&target.place));
        let found = same_route.or_else(|| self.spare.iter().position(|(_, target)| is(&target.place)))?;
        Some(self.spare.swap_remove(found).1)
    }

    async fn agent(&mut self, wanted: Reference<AgentId>, at: At<'_>) -> Result<AgentId, UseCaseError> {
        let found = match wanted {
            Reference::Id(id) if self.agents.contains_key(&id) => return Ok(id),
            Reference::Id(id) => match self.use_cases.node(self.actor, id.into()).await {
                Ok(stored) => Some(stored),
                Err(UseCaseError::NotFound(_)) => None,
                Err(error) => return Err(error),
            },
            Reference::Name(name) => self.by_name(name).await?.and_then(Stored::narrow),
        };
        let missing = || UseCaseError::field(at.to_string(), "there is no such agent in this organization");
        let stored: Stored<Node> = found.ok_or_else(missing)?;
        let NodeId::Agent(id) = stored.value.id else {
            return Err(UseCaseError::field(
                at.to_string(),
                "this is a gateway: targets are at agents",
            ));
        };
        // One that waits for approval is reached once it is approved.
        if stored.value.revoked.is_some() {
            return Err(UseCaseError::field(at.to_string(), "the agent was revoked"));
        }
        self.agents.entry(id).or_insert(Seen {
            stored,
            written: false,
        });
        Ok(id)
    }

    async fn site(&mut self, wanted: Reference<SiteId>, at: At<'_>) -> Result<SiteId, UseCaseError> {
        let found = match wanted {
            Reference::Id(id) if self.sites.contains_key(&id) => return Ok(id),
            Reference::Id(id) => match self.use_cases.site(self.actor, id).await {
                Ok(stored) => Some(stored),
                Err(UseCaseError::NotFound(_)) => None,
                Err(error) => return Err(error),
            },
            Reference::Name(name) => self.by_name(name).await?.and_then(Stored::narrow),
        };
        let missing = || UseCaseError::field(at.to_string(), "there is no such site in this organization");
        let stored: Stored<Site> = found.ok_or_else(missing)?;
        let id = stored.value.id;
        self.sites.entry(id).or_insert(Seen {
            stored,
            written: false,
        });
        Ok(id)
    }

    /// Finds what is attached. A policy that is newly attached is written beside, so that who deletes it at
    /// the same time finds it changed.
    async fn policies(
        &mut self,
        wanted: Vec<Reference<PolicyId>>,
        field: &str,
    ) -> Result<Vec<PolicyId>, UseCaseError> {
        if wanted.len() > MAX_ATTACHED {
            return Err(UseCaseError::field(
                field,
                format!("at most {MAX_ATTACHED} policies"),
            ));
        }
        let mut found = Vec::with_capacity(wanted.len());
        for (index, wanted) in wanted.into_iter().enumerate() {
            let stored = match wanted {
                Reference::Id(id) => match self.use_cases.policy(self.actor, id).await {
                    Ok(stored) => Some(stored),
                    Err(UseCaseError::NotFound(_)) => None,
                    Err(error) => return Err(error),
                },
                Reference::Name(name) => {
                    let key = UniqueKey::PolicyName(self.actor.organization, name);
                    let found = self.use_cases.store().find(&key).await?;
                    found.and_then(Stored::narrow::<SharedPolicy>)
                }
            };
            let stored = stored.ok_or_else(|| {
                let message = "there is no such policy in this organization";
                UseCaseError::field(format!("{field}[{index}]"), message)
            })?;
            let id = stored.value.id;
            let written = !self.kept_policies.contains(&id);
            self.policies.entry(id).or_insert(Seen { stored, written });
            found.push(id);
        }
        Ok(found)
    }

    async fn by_name(
        &self,
        name: Label,
    ) -> Result<Option<Stored<kakuremichi_core::store::StoreRecord>>, UseCaseError> {
        let key = UniqueKey::NodeName(self.actor.organization, name);
        Ok(self.use_cases.store().find(&key).await?)
    }

    /// Ports only go up: an old flow to a port can never reach a newer target.
    fn give_port(&mut self, agent: AgentId) -> Result<VirtualPort, UseCaseError> {
        const EXHAUSTED: UseCaseError = UseCaseError::Limit(
            "the agent has given all its virtual ports: delete it, and let it enrol anew",
        );
        let seen = self.agents.get_mut(&agent).ok_or(UseCaseError::Contended)?;
        let NodeKind::Agent { next_port, .. } = &mut seen.stored.value.kind else {
            return Err(UseCaseError::Contended);
        };
        let port = *next_port;
        *next_port = port.next().ok_or(EXHAUSTED)?;
        seen.written = true;
        Ok(port)
    }

    fn use_site(&mut self, site: SiteId, address: IpAddr, at: At<'_>) -> Result<(), UseCaseError> {
        let seen = self.sites.get_mut(&site).ok_or(UseCaseError::Contended)?;
        if !reaches(&seen.stored.value, self.overlay, address) {
            let message = format!("{address} is neither the site's own address nor in one of its networks");
            return Err(UseCaseError::field(at.to_string(), message));
        }
        seen.written = true;
        Ok(())
    }

    fn beside(self) -> Vec<Mutation> {
        let agents = self.agents.into_values().filter(|seen| seen.written);
        let agents = agents.map(|seen| update(seen.stored.value, seen.stored.version));
        let sites = self.sites.into_values().filter(|seen| seen.written);
        let sites = sites.map(|seen| update(seen.stored.value, seen.stored.version));
        let policies = self.policies.into_values().filter(|seen| seen.written);
        let policies = policies.map(|seen| update(seen.stored.value, seen.stored.version));
        agents.chain(sites).chain(policies).collect()
    }
}
