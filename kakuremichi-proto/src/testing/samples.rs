//! One of everything, with every field filled, for golden bytes, seeds and benches.

use std::time::Duration;

use kakuremichi_core::{
    auth::{Principal, Strength},
    id::{
        AgentId, GatewayId, NodeId, OrganizationId, PeerId, PolicyId, RouteId, ServiceId, ServiceTokenId,
        SessionId, SiteId, TargetId, UserId,
    },
    key::{IdentityKey, SigningKey, WireGuardKey},
    model::{Health, HealthCheck, IdentityForm, TargetAddress, TargetScheme, Transport, VirtualPort},
    name::{HostPattern, Label},
    plan::{
        AgentGateway, AgentNode, AgentPlan, AgentRecord, AgentService, AgentTarget, GatewayMember,
        GatewayNode, GatewayPeer, GatewayPlan, GatewayPolicy, GatewayRecord, GatewayService,
        GatewayServiceToken, GatewaySibling, GatewaySignIn, GatewaySigner, PlannedKind, PlannedPool,
        PlannedPreviousKeys, PlannedRoute, PlannedTarget, Revision, Via,
    },
    policy::{
        Access, BasicUser, Condition, Effect, HeaderTest, Method, Policy, Requirement, Rule, TimeWindow,
        Weekdays,
    },
    secret::{Secret, SecretHash},
    time::Timestamp,
};

use crate::{
    codec::{Array, Bytes, List, SecretArray},
    declare::{Declaration, DeclaredKind, DeclaredTarget},
    frame::{Message, Tag},
    message,
    report::{
        Amount, CertificateStatus, GatewayInfo, Incident, LaneEnd, LaneKind, LaneState, LaneStatus, NodeInfo,
        Severity, Status, TargetState, TargetStatus, UsageBatch, UsageKey,
    },
};

/// The agent of the samples.
#[must_use]
pub fn agent() -> NodeId {
    AgentId::from_bytes([0xa1; 16]).into()
}

/// The agent, in a session.
#[must_use]
pub fn subject() -> message::Subject {
    message::Subject {
        node: agent().into(),
        session: 300,
    }
}

/// A message of each tag, in the order of the registry.
#[must_use]
pub fn messages() -> Vec<Message> {
    Tag::ALL.iter().map(|tag| message(*tag)).collect()
}

/// A message of a tag.
#[must_use]
pub fn message(tag: Tag) -> Message {
    let node = message::NodeId::from(agent());
    let subject = subject();
    match tag {
        Tag::Hello => message::Hello {
            versions: List::truncated([1, 2]),
            capabilities: 1,
            role: message::Role::Agent,
            nonce: [1; 32],
            identity: [2; 32],
            wireguard: [3; 32],
            url: "https://control.example".to_owned(),
            node: Some(node),
        }
        .into(),
        Tag::Challenge => message::Challenge {
            version: 1,
            capabilities: 1,
            nonce: [4; 32],
            control: [5; 32],
            signature: Array([6; 64]),
        }
        .into(),
        Tag::Proof => message::Proof {
            kind: message::ProofKind::Enrol {
                secret: SecretArray(Secret::new([7; 32])),
                name: "home".to_owned(),
            },
            signature: Array([8; 64]),
        }
        .into(),
        Tag::Welcome => message::Welcome {
            node,
            organization: [9; 16],
            name: "home".to_owned(),
            session: 300,
            overlay: [0xfd, 1, 2, 3, 4, 5],
        }
        .into(),
        Tag::Close => message::Close {
            code: "KKM-E024".to_owned(),
            message: "Control restarts".to_owned(),
            permanent: false,
            retry_after: Some(2000),
        }
        .into(),
        Tag::Ping => message::Ping { number: 1 }.into(),
        Tag::Pong => message::Pong { number: 300 }.into(),
        Tag::Resume => message::Resume {
            subject,
            plan: Some(message::PlanHave {
                revision: 5,
                hash: [10; 32],
            }),
            denied: List::truncated([[11; 16]]),
            declarations: List::truncated(["billing".to_owned()]),
            request_next: 77,
            usage_epoch: 0x0102_0304_0506_0708,
            usage_next: 2,
        }
        .into(),
        Tag::NodeInfo => info().to_message(subject).into(),
        Tag::SigningKeys => message::SigningKeys::new(subject, &signing_keys()).into(),
        Tag::PlanBegin => message::PlanBegin {
            subject,
            transfer: 1,
            revision: 6,
            kind: message::PlanKind::Delta {
                base: 5,
                base_hash: [10; 32],
            },
        }
        .into(),
        Tag::PlanRecords => message::PlanRecords {
            transfer: 1,
            offset: 65536,
            bytes: Bytes(vec![0xab; 9]),
        }
        .into(),
        Tag::PlanEnd => message::PlanEnd {
            transfer: 1,
            length: 65545,
            hash: [12; 32],
        }
        .into(),
        Tag::PlanAck => message::PlanAck {
            subject,
            revision: 6,
            hash: [12; 32],
            denied: List::truncated([[11; 16]]),
            denied_count: 1,
        }
        .into(),
        Tag::PlanRequest => message::PlanRequest { subject, transfer: 1 }.into(),
        Tag::Declare => {
            #[expect(clippy::expect_used, reason = "the sample has a form on the wire")]
            let declare = message::Declare::try_from(&declaration("billing")).expect("a declaration");
            let request = 77;
            message::Declare {
                request,
                subject,
                ..declare
            }
            .into()
        }
        Tag::Declared => message::Declared::Accepted {
            request: 77,
            subject,
            service: [11; 16],
            urls: List::truncated(["https://billing.example.net".to_owned()]),
        }
        .into(),
        Tag::Undeclare => message::Undeclare {
            request: 78,
            subject,
            name: "billing".to_owned(),
            delete: true,
        }
        .into(),
        Tag::Undeclared => message::Undeclared { request: 78, subject }.into(),
        Tag::Status => status().to_messages(subject).remove(0).into(),
        Tag::Certificates => message::Certificates::new(subject, &certificates()).into(),
        Tag::Event => incident().to_message(subject, 3).into(),
        Tag::Usage => usage().to_message(subject).into(),
        Tag::UsageAck => message::UsageAck {
            epoch: 9,
            sequence: 4,
        }
        .into(),
        Tag::Command => message::Command {
            request: 1 << 40,
            subject,
            kind: message::CommandKind::Drain { grace: 10_000 },
        }
        .into(),
        Tag::Commanded => message::Commanded {
            request: 1 << 40,
            subject,
            refused: Some(("KKM-E024".to_owned(), "busy".to_owned())),
        }
        .into(),
        Tag::RotateKeys => message::RotateKeys {
            subject,
            identity: [14; 32],
            wireguard: [15; 32],
            by_old: Array([16; 64]),
            by_new: Array([17; 64]),
        }
        .into(),
        Tag::KeysRotated => message::KeysRotated {
            subject,
            identity: [14; 32],
            outcome: message::Rotated::Accepted {
                previous_until: Some(1_700_000_000_000),
            },
        }
        .into(),
    }
}

/// What a gateway says about itself.
#[must_use]
pub fn info() -> NodeInfo {
    NodeInfo {
        software: "0.1.0".to_owned(),
        gateway: Some(GatewayInfo {
            endpoints: vec![parsed("gw.example.net:51820"), parsed("[2001:db8::1]:51820")],
            https_port: 8443,
        }),
    }
}

/// What a gateway signs session cookies with.
#[must_use]
pub fn signing_keys() -> Vec<SigningKey> {
    vec![
        SigningKey::from_bytes([0x61; 32]),
        SigningKey::from_bytes([0x62; 32]),
    ]
}

/// One record of each kind that is about signing in, a policy that takes a service token, and one that asks for a recent
/// sign-in.
#[must_use]
pub fn sign_in_records() -> [GatewayRecord; 6] {
    [
        GatewayRecord::SignIn(GatewaySignIn {
            control: "https://control.example.net/km".to_owned(),
            keys: signing_keys(),
        }),
        GatewayRecord::Signer(GatewaySigner {
            id: GatewayId::from_bytes([13; 16]),
            keys: signing_keys(),
        }),
        GatewayRecord::Member(GatewayMember {
            organization: OrganizationId::from_bytes([9; 16]),
            user: UserId::from_bytes([0x75; 16]),
            email: parsed("anna@example.net"),
            roles: vec![parsed("developer"), parsed("owner")],
            groups: vec![parsed("berlin")],
            tickets_since: Timestamp::from_millis(1_700_000_000_000),
            ended: vec![SessionId::from_bytes([0x76; 16])],
        }),
        GatewayRecord::ServiceToken(GatewayServiceToken {
            id: ServiceTokenId::from_bytes([0x77; 16]),
            organization: OrganizationId::from_bytes([9; 16]),
            secret_hash: SecretHash::from_bytes([0x78; 32]),
            expires: Some(Timestamp::from_millis(1_700_000_000_000)),
        }),
        GatewayRecord::Policy(GatewayPolicy {
            id: PolicyId::from_bytes([0xf2; 16]),
            rules: Vec::new(),
            access: Some(Access::AnyOf(vec![Method::ServiceToken {
                tokens: vec![ServiceTokenId::from_bytes([0x77; 16])],
            }])),
        }),
        GatewayRecord::Policy(GatewayPolicy {
            id: PolicyId::from_bytes([0xf3; 16]),
            rules: Vec::new(),
            access: Some(recent_policy().access),
        }),
    ]
}

/// The keys that an agent and a gateway had before, as a gateway is told of them, and as an agent is.
#[must_use]
pub fn previous_keys() -> ([GatewayRecord; 2], AgentRecord) {
    let keys = |node: NodeId| PlannedPreviousKeys {
        node,
        identity: IdentityKey::from_bytes([0x81; 32]),
        wireguard: WireGuardKey::from_bytes([0x82; 32]),
    };
    let gateway = GatewayId::from_bytes([0x91; 16]).into();
    let records = [agent(), gateway].map(|node| GatewayRecord::PreviousKeys(keys(node)));
    (records, AgentRecord::PreviousKeys(keys(gateway)))
}

/// The status of an agent.
#[must_use]
pub fn status() -> Status {
    Status {
        draining: false,
        lanes: vec![LaneStatus {
            end: LaneEnd::Gateway(GatewayId::from_bytes([13; 16])),
            kind: LaneKind::WireGuard,
            state: LaneState::Up,
            rtt: Some(Duration::from_micros(1500)),
            since: Timestamp::from_millis(1_700_000_000_000),
            error: None,
        }],
        targets: vec![TargetStatus {
            target: TargetId::from_bytes([14; 16]),
            state: TargetState::Failing,
            since: Timestamp::from_millis(1_700_000_000_001),
            error: Some("connection refused".to_owned()),
        }],
        certificates: Vec::new(),
    }
}

/// The certificates of a gateway.
#[must_use]
pub fn certificates() -> Vec<CertificateStatus> {
    vec![CertificateStatus {
        expires: Timestamp::from_millis(1_800_000_000_000),
        since: Timestamp::from_millis(1_790_000_000_000),
        name: "*.example.net".to_owned(),
        more: 2,
    }]
}

/// An incident.
#[must_use]
pub fn incident() -> Incident {
    Incident {
        at: Timestamp::from_millis(1_700_000_000_000),
        severity: Severity::Warning,
        code: None,
        message: "the disk is full".to_owned(),
    }
}

/// A batch of usage.
#[must_use]
pub fn usage() -> UsageBatch {
    let amount = Amount {
        connections: 1,
        requests: 2,
        received: 300,
        sent: 1 << 40,
    };
    UsageBatch {
        key: UsageKey {
            epoch: 9,
            sequence: 4,
        },
        from: Timestamp::from_millis(1_700_000_000_000),
        to: Timestamp::from_millis(1_700_000_060_000),
        entries: vec![(None, amount), (Some(ServiceId::from_bytes([11; 16])), amount)],
    }
}

/// A declaration of an HTTP service.
#[must_use]
pub fn declaration(name: &str) -> Declaration {
    Declaration {
        name: parsed(name),
        kind: DeclaredKind::Http {
            hosts: vec![parsed(&format!("{name}.example.net"))],
            path: parsed("/"),
        },
        target: DeclaredTarget {
            address: TargetAddress::InProcess,
            scheme: TargetScheme::Plain,
            health: None,
        },
        policy: Policy::public(),
        ephemeral: true,
    }
}

/// A policy with one of each part.
#[must_use]
pub fn policy() -> Policy {
    Policy {
        rules: vec![Rule::new(
            parsed("office"),
            Condition::All(vec![
                Condition::Any(vec![
                    Condition::Source(parsed("192.0.2.0/24")),
                    Condition::Source(parsed("2001:db8::/32")),
                ]),
                Condition::Not(Box::new(Condition::Method("DELETE".to_owned()))),
                Condition::Path(parsed("/api")),
                Condition::Subject("alice".to_owned()),
            ]),
            Effect::Allow,
        )],
        access: Access::AnyOf(vec![
            Method::Basic {
                users: vec![BasicUser {
                    name: "alice".to_owned(),
                    password_hash: "$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA".to_owned(),
                }],
            },
            Method::signed_in(),
        ]),
    }
}

/// A policy with one of each part that [`policy`] does not have.
#[must_use]
pub fn guarding_policy() -> Policy {
    let header = |is| Condition::Header {
        name: parsed("user-agent"),
        is,
    };
    let night = TimeWindow::new(Weekdays::ALL, 22 * 60, 6 * 60, -90);
    let rule = |name, when, effect| Rule::new(parsed(name), when, effect);
    let tried = |name, effect| Rule {
        dry_run: true,
        ..rule(name, Condition::Asn(64_500), effect)
    };
    Policy {
        rules: vec![
            rule(
                "robots",
                Condition::Any(vec![
                    header(HeaderTest::Present),
                    header(HeaderTest::Equal("curl".to_owned())),
                    header(HeaderTest::Prefix("wget/".to_owned())),
                    header(HeaderTest::Contains("bot".to_owned())),
                ]),
                Effect::Deny,
            ),
            rule(
                "abroad",
                Condition::Any(vec![
                    Condition::Not(Box::new(Condition::Country(parsed("JP")))),
                    Condition::Time(sure(night)),
                ]),
                Effect::Continue,
            ),
            rule(
                "staff",
                Condition::Any(vec![
                    Condition::User(Principal::new("directory", "ann")),
                    Condition::Role(parsed("admin")),
                    Condition::Group("CN=Ops,DC=example".to_owned()),
                    Condition::Strength(Strength::PhishingResistant),
                ]),
                Effect::Allow,
            ),
            tried("try-allow", Effect::Allow),
            tried("try-deny", Effect::Deny),
            tried("try-continue", Effect::Continue),
        ],
        access: Access::AllOf(vec![
            Method::SignedIn(Requirement {
                roles: vec![parsed("staff")],
                groups: vec!["Ops".to_owned()],
                strength: Strength::TwoFactors,
                max_age: None,
            }),
            Method::signed_in(),
        ]),
    }
}

/// A policy that asks people to have signed in recently.
#[must_use]
pub fn recent_policy() -> Policy {
    Policy {
        rules: Vec::new(),
        access: Access::AnyOf(vec![Method::SignedIn(Requirement {
            roles: vec![parsed("staff")],
            groups: vec!["Ops".to_owned()],
            strength: Strength::PhishingResistant,
            max_age: Some(Duration::from_secs(900)),
        })]),
    }
}

/// A service to which a policy is attached, another on one of its routes, and the two policies.
#[must_use]
pub fn guarded_service() -> [GatewayRecord; 4] {
    let [service, route] = [[0xf0; 16], [0xf1; 16]].map(PolicyId::from_bytes);
    let id = ServiceId::from_bytes([0xde; 16]);
    let to = |number, policies| PlannedRoute {
        id: RouteId::from_bytes([number; 16]),
        path: parsed(&format!("/{number}")),
        pool: PlannedPool::default(),
        policies,
    };
    let http = GatewayService {
        id,
        organization: OrganizationId::from_bytes([9; 16]),
        name: parsed("guarded"),
        kind: PlannedKind::Http {
            hosts: vec![parsed("guarded.example.net")],
            routes: vec![to(1, Vec::new()), to(2, vec![route])],
            identity: IdentityForm::Both,
        },
        policy: Policy::deny(),
        policies: vec![service],
    };
    let (GatewayRecord::Service(udp), _) = udp_service() else {
        return [(); 4].map(|()| GatewayRecord::Service(http.clone()));
    };
    let Policy { rules, access } = guarding_policy();
    let policy = |id, rules, access| GatewayRecord::Policy(GatewayPolicy { id, rules, access });
    [
        GatewayRecord::Service(http),
        GatewayRecord::Service(GatewayService {
            id: ServiceId::from_bytes([0xdf; 16]),
            policies: vec![service, route],
            ..udp
        }),
        policy(service, rules, Some(access)),
        policy(route, Vec::new(), None),
    ]
}

/// Services whose targets are told less than everything, to the last of which policies are attached.
#[must_use]
pub fn discreet_services() -> [GatewayRecord; 3] {
    let of = |number: u8, form, guarded: bool| {
        let mut policies = vec![PolicyId::from_bytes([0xf0; 16])];
        policies.retain(|_| guarded);
        GatewayRecord::Service(GatewayService {
            id: ServiceId::from_bytes([number; 16]),
            organization: OrganizationId::from_bytes([9; 16]),
            name: parsed("discreet"),
            kind: PlannedKind::Http {
                hosts: vec![parsed(&format!("discreet-{number}.example.net"))],
                routes: vec![PlannedRoute {
                    id: RouteId::from_bytes([number; 16]),
                    path: parsed("/"),
                    pool: PlannedPool::default(),
                    policies: policies.clone(),
                }],
                identity: form,
            },
            policy: Policy::public(),
            policies,
        })
    };
    [
        of(1, IdentityForm::Nothing, false),
        of(2, IdentityForm::Headers, false),
        of(3, IdentityForm::Assertion, true),
    ]
}

/// The plan of a gateway, with `services` HTTP services besides one of each kind of record.
#[must_use]
pub fn gateway_plan(revision: u64, services: u32) -> GatewayPlan {
    let agent = AgentId::from_bytes([0xa1; 16]);
    let site = SiteId::from_bytes([0x51; 16]);
    let peer = |id: PeerId, last: u16| {
        GatewayRecord::Peer(GatewayPeer {
            id,
            name: parsed("peer"),
            identity: matches!(id, PeerId::Agent(_)).then_some(IdentityKey::from_bytes([0x23; 32])),
            wireguard: WireGuardKey::from_bytes([0x22; 32]),
            address: [0xfd01, 0x203, 0x405, 0, 0, 0, 0, last].into(),
            allowed_ips: vec![parsed("fd01:203:405::/128"), parsed("192.168.7.0/24")],
            endpoint: Some(parsed("site.example.net:51820")),
        })
    };
    let via_agent = Via::Agent {
        agent,
        port: VirtualPort::FIRST,
    };
    let via_site = Via::Site {
        site,
        address: parsed("192.168.7.9:5432"),
    };
    let target = |via| PlannedTarget {
        id: TargetId::from_bytes([0x77; 16]),
        via,
        scheme: TargetScheme::Tls {
            server_name: None,
            roots: vec![vec![0x30, 0x82]],
        },
        server_name: Some(parsed("db.internal")),
        checked: true,
    };
    let tcp = GatewayRecord::Service(GatewayService {
        id: ServiceId::from_bytes([0xdb; 16]),
        organization: OrganizationId::from_bytes([9; 16]),
        name: parsed("database"),
        kind: PlannedKind::Tcp {
            port: 5432,
            pool: PlannedPool {
                targets: vec![target(via_site)],
            },
        },
        policy: policy(),
        policies: Vec::new(),
    });
    let http = (0..services).map(|number| {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        GatewayRecord::Service(GatewayService {
            id: ServiceId::from_bytes(id),
            organization: OrganizationId::from_bytes([9; 16]),
            name: parsed(&format!("service-{number}")),
            kind: PlannedKind::Http {
                hosts: vec![parsed::<HostPattern>(&format!("s{number}.example.net"))],
                routes: vec![PlannedRoute {
                    id: RouteId::from_bytes(id),
                    path: parsed("/"),
                    pool: PlannedPool {
                        targets: vec![target(via_agent)],
                    },
                    policies: Vec::new(),
                }],
                identity: IdentityForm::Both,
            },
            policy: Policy::public(),
            policies: Vec::new(),
        })
    });
    let node = GatewayRecord::Node(GatewayNode {
        id: GatewayId::from_bytes([0x90; 16]),
        organization: OrganizationId::from_bytes([9; 16]),
        name: parsed("edge"),
        address: [0xfd01, 0x203, 0x405, 0, 0, 0, 0, 1].into(),
        address_v4: [100, 64, 0, 1].into(),
    });
    let sibling = GatewayRecord::Sibling(GatewaySibling {
        id: GatewayId::from_bytes([0x91; 16]),
        organization: OrganizationId::from_bytes([9; 16]),
        name: parsed("other-edge"),
        wireguard: WireGuardKey::from_bytes([0x24; 32]),
        address: [0xfd01, 0x203, 0x405, 0, 0, 0, 0, 4].into(),
        endpoints: vec![parsed("gw2.example.net:51820"), parsed("203.0.113.2:51820")],
    });
    let rest = [node, peer(agent.into(), 2), peer(site.into(), 3), tcp, sibling];
    GatewayPlan::new(Revision(revision), rest.into_iter().chain(http))
}

/// The plan of an agent, with `services` services.
#[must_use]
pub fn agent_plan(revision: u64, services: u32) -> AgentPlan {
    let node = AgentRecord::Node(AgentNode {
        id: AgentId::from_bytes([0xa0; 16]),
        organization: OrganizationId::from_bytes([9; 16]),
        name: parsed::<Label>("home"),
        address: [0xfd01, 0x203, 0x405, 0, 0, 0, 0, 2].into(),
    });
    let gateway = AgentRecord::Gateway(AgentGateway {
        id: GatewayId::from_bytes([0x90; 16]),
        name: parsed("edge"),
        identity: IdentityKey::from_bytes([0x34; 32]),
        wireguard: WireGuardKey::from_bytes([0x33; 32]),
        address: [0xfd01, 0x203, 0x405, 0, 0, 0, 0, 1].into(),
        endpoints: vec![parsed("gw.example.net:51820"), parsed("198.51.100.1:51820")],
        streams: vec![parsed("gw.example.net:443"), parsed("198.51.100.1:443")],
    });
    let addresses = [
        TargetAddress::Tcp(parsed("localhost:8080")),
        TargetAddress::Unix("/run/app.sock".into()),
        TargetAddress::InProcess,
    ];
    let service = |number: u32| {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        AgentRecord::Service(AgentService {
            id: ServiceId::from_bytes(id),
            name: parsed(&format!("service-{number}")),
            transport: Transport::Tcp,
            hosts: vec![parsed(&format!("s{number}.example.net"))],
            port: Some(8000),
            urls: vec![format!("https://s{number}.example.net")],
            targets: vec![AgentTarget {
                id: TargetId::from_bytes(id),
                port: VirtualPort::FIRST,
                address: addresses[number as usize % addresses.len()].clone(),
                tls: false,
                health: Some(HealthCheck {
                    check: Health::Http {
                        path: "/healthz".to_owned(),
                        host: Some(parsed("app.internal")),
                    },
                    interval: Duration::from_secs(10),
                    timeout: Duration::from_secs(2),
                    unhealthy_after: 3,
                    healthy_after: 2,
                }),
            }],
        })
    };
    AgentPlan::new(
        Revision(revision),
        [node, gateway].into_iter().chain((0..services).map(service)),
    )
}

/// A UDP service, as a gateway and as an agent is told of it.
#[must_use]
pub fn udp_service() -> (GatewayRecord, AgentRecord) {
    let id = ServiceId::from_bytes([0xdc; 16]);
    let target = TargetId::from_bytes([0x78; 16]);
    let gateway = GatewayService {
        id,
        organization: OrganizationId::from_bytes([9; 16]),
        name: parsed("names"),
        kind: PlannedKind::Udp {
            port: 53,
            pool: PlannedPool {
                targets: vec![PlannedTarget {
                    id: target,
                    via: Via::Agent {
                        agent: AgentId::from_bytes([0xa0; 16]),
                        port: VirtualPort::FIRST,
                    },
                    scheme: TargetScheme::Plain,
                    server_name: None,
                    checked: false,
                }],
            },
        },
        policy: Policy::public(),
        policies: Vec::new(),
    };
    let agent = AgentService {
        id,
        name: parsed("names"),
        transport: Transport::Udp,
        hosts: Vec::new(),
        port: Some(53),
        urls: vec!["udp://gw.example.net:53".to_owned()],
        targets: vec![AgentTarget {
            id: target,
            port: VirtualPort::FIRST,
            address: TargetAddress::Udp(parsed("resolver.internal:53")),
            tls: false,
            health: None,
        }],
    };
    (GatewayRecord::Service(gateway), AgentRecord::Service(agent))
}

#[expect(clippy::expect_used, reason = "it is a constant")]
fn sure<T, E: std::fmt::Debug>(made: Result<T, E>) -> T {
    made.expect("a constant that is valid")
}

#[expect(clippy::expect_used, reason = "the texts are constants")]
fn parsed<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a constant that parses")
}
