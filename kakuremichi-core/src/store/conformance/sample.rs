//! Records to test with. `n` makes them differ.

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use crate::{
    audit::AuditEntry,
    auth::{Principal, Strength},
    id::{
        AgentId, ApiKeyId, ChannelId, GatewayId, GroupId, InvitationId, MemberId, NodeId, OrganizationId,
        PasskeyId, PolicyId, ProviderId, RoleId, RouteId, ServiceId, ServiceTokenId, SessionId, SiteId,
        TargetId, TokenId, UserId,
    },
    key::{IdentityKey, SigningKey, WireGuardKey},
    model::{
        AccountPolicy, ApiKey, Channel, ChannelTarget, ClaimNames, DeclareScope, EndedSession,
        EnrolmentToken, Group, Health, HealthCheck, IdentityForm, IdentityProvider, Invitation, Labels,
        Lifetime, LinkedIdentity, MailedSecret, Member, Node, NodeKind, Organization, Passkey, Permission,
        Permissions, Pool, PreviousKeys, ProviderProtocol, Role, Rotation, RotationAsked, Route, Service,
        ServiceKind, ServiceToken, Session, SignIn, Site, Target, TargetAddress, TargetPlace, TargetScheme,
        Totp, User, UserRole, VirtualPort, parse_label,
    },
    name::{Hostname, Label},
    net::{Cidr, Endpoint},
    policy::{
        Access, BasicUser, Condition, Effect, HeaderTest, Method, Policy, Requirement, Rule, SharedPolicy,
        TimeWindow, Weekdays,
    },
    secret::SecretHash,
    store::{NodeUsage, UsageCounts, UsageEntry, UsageReport},
    time::Timestamp,
};

/// The time of all samples.
pub const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_123);

fn labels(texts: &[&str]) -> Labels {
    let labels = texts.iter().map(|text| parse_label(text).expect("a valid label"));
    Labels::new(labels).expect("few labels")
}

/// Sixteen bytes that are `n`, but for the last.
#[must_use]
pub const fn bytes(n: u8) -> [u8; 16] {
    let mut bytes = [n; 16];
    bytes[15] = 0xa5;
    bytes
}

fn label(text: &str) -> Label {
    text.parse().expect("a valid label")
}

fn endpoint(text: &str) -> Endpoint {
    text.parse().expect("a valid endpoint")
}

fn cidr(text: &str) -> Cidr {
    text.parse().expect("a valid network")
}

fn host(text: &str) -> Hostname {
    text.parse().expect("a valid name")
}

/// A channel of [`organization`]`(organization)`: a webhook, or mail when `n` is even.
#[must_use]
pub fn channel(organization: u8, n: u8) -> Channel {
    let target = match n.is_multiple_of(2) {
        true => ChannelTarget::Mail(vec!["anna@example.net".parse().expect("a valid address")]),
        false => ChannelTarget::Webhook {
            url: "https://hooks.example.net/a?b=c".to_owned(),
            sealed_secret: vec![n, 0, 255],
        },
    };
    Channel {
        id: ChannelId::from_bytes(bytes(n)),
        organization: OrganizationId::from_bytes(bytes(organization)),
        name: label(&format!("channel-{n}")),
        target,
        events: vec!["service.".to_owned(), "node.down".to_owned()],
        created: NOW,
    }
}

/// What a node of organization 0 counted.
#[must_use]
pub fn usage(node: NodeId, report: UsageReport, entries: &[UsageEntry]) -> NodeUsage {
    NodeUsage {
        node,
        organization: OrganizationId::from_bytes(bytes(0)),
        at: NOW,
        report,
        entries: entries.to_vec(),
        unattributed: UsageCounts::default(),
    }
}

/// A deed by a principal.
#[must_use]
pub fn audit(action: &str) -> AuditEntry {
    AuditEntry {
        at: NOW,
        actor: Some(Principal::new("api-key", "key of somebody")),
        organization: Some(OrganizationId::from_bytes(bytes(0))),
        action: action.to_owned(),
        subject: Some(ServiceId::from_bytes(bytes(1)).into()),
    }
}

/// An organization.
#[must_use]
pub fn organization(n: u8) -> Organization {
    Organization {
        id: OrganizationId::from_bytes(bytes(n)),
        name: label(&format!("organization-{n}")),
        accounts: AccountPolicy {
            multi_factor: n.is_multiple_of(2),
            session_life: n.is_multiple_of(2).then_some(Duration::from_secs(3600)),
            passwords: !n.is_multiple_of(2),
        },
        created: NOW,
    }
}

/// An agent of [`organization`]`(organization)`.
#[must_use]
pub fn agent(organization: u8, n: u8) -> Node {
    Node {
        id: AgentId::from_bytes(bytes(n)).into(),
        organization: OrganizationId::from_bytes(bytes(organization)),
        name: label(&format!("agent-{n}")),
        identity: IdentityKey::from_bytes([n; 32]),
        wireguard: WireGuardKey::from_bytes([n; 32]),
        token: TokenId::from_bytes(bytes(n)),
        created: NOW,
        revoked: None,
        pending: None,
        labels: Labels::default(),
        rotation: Rotation::default(),
        kind: NodeKind::Agent {
            declare: DeclareScope {
                hosts: vec!["*.example.net".parse().expect("a valid pattern")],
                ports: vec!["5000-5999".parse().expect("a valid range")],
            },
            next_port: VirtualPort::FIRST,
        },
    }
}

/// The [`agent`] with other keys, and those of before beside them.
#[must_use]
pub fn rotated(organization: u8, n: u8) -> Node {
    let before = agent(organization, n);
    Node {
        identity: IdentityKey::from_bytes([n | 0x80; 32]),
        wireguard: WireGuardKey::from_bytes([n | 0x80; 32]),
        rotation: Rotation {
            rotated: Some(NOW),
            asked: Some(RotationAsked {
                at: NOW.after(Duration::from_secs(1)),
                overlap: Duration::from_secs(3600),
            }),
            previous: Some(PreviousKeys {
                identity: before.identity,
                wireguard: before.wireguard,
                until: NOW.after(Duration::from_secs(60)),
            }),
        },
        ..before
    }
}

/// A gateway of [`organization`]`(organization)`.
#[must_use]
pub fn gateway(organization: u8, n: u8) -> Node {
    Node {
        id: GatewayId::from_bytes(bytes(n)).into(),
        name: label(&format!("gateway-{n}")),
        identity: IdentityKey::from_bytes([!n; 32]),
        wireguard: WireGuardKey::from_bytes([!n; 32]),
        revoked: Some(NOW),
        labels: labels(&["env=prod", "example.net/rack="]),
        kind: NodeKind::Gateway {
            endpoints: vec![endpoint("gw.example.net:51820"), endpoint("[2001:db8::1]:51820")],
            https_port: 8443,
            address_v4: Ipv4Addr::new(100, 64, 2, n),
            signing_keys: vec![SigningKey::from_bytes([n ^ 0x55; 32])],
        },
        ..agent(organization, n)
    }
}

/// A site of [`organization`]`(organization)`.
#[must_use]
pub fn site(organization: u8, n: u8) -> Site {
    Site {
        id: SiteId::from_bytes(bytes(n)),
        organization: OrganizationId::from_bytes(bytes(organization)),
        name: label(&format!("site-{n}")),
        wireguard: WireGuardKey::from_bytes([n ^ 0x55; 32]),
        address_v4: Ipv4Addr::new(100, 64, 1, n),
        networks: vec![cidr("192.168.7.0/24"), cidr("2001:db8:7::/48")],
        endpoint: Some(endpoint("192.0.2.7:51820")),
        created: NOW,
    }
}

/// An enrolment token of [`organization`]`(organization)`.
#[must_use]
pub fn token(organization: u8, n: u8) -> EnrolmentToken {
    EnrolmentToken {
        id: TokenId::from_bytes(bytes(n)),
        organization: OrganizationId::from_bytes(bytes(organization)),
        name: label(&format!("token-{n}")),
        role: Role::Agent,
        secret_hash: SecretHash::from_bytes([n; 32]),
        uses_left: Some(3),
        expires: Some(NOW.after(Duration::from_secs(60))),
        revoked: None,
        declare: DeclareScope {
            hosts: vec!["one.example.net".parse().expect("a valid pattern")],
            ports: vec!["1-65535".parse().expect("a valid range")],
        },
        approval: true,
        labels: labels(&["env=test"]),
        created: NOW,
    }
}

/// An API key of [`organization`]`(organization)`.
#[must_use]
pub fn api_key(organization: u8, n: u8) -> ApiKey {
    ApiKey {
        id: ApiKeyId::from_bytes(bytes(n)),
        organization: OrganizationId::from_bytes(bytes(organization)),
        name: label(&format!("key-{n}")),
        secret_hash: SecretHash::from_bytes([n; 32]),
        permissions: Permissions::NONE
            .with(Permission::NodesRead)
            .with(Permission::ServicesWrite),
        maker: Some(user(n).id),
        expires: None,
        created: NOW,
    }
}

/// A service token of [`organization`]`(organization)`.
#[must_use]
pub fn service_token(organization: u8, n: u8) -> ServiceToken {
    ServiceToken {
        id: ServiceTokenId::from_bytes(bytes(n)),
        organization: OrganizationId::from_bytes(bytes(organization)),
        name: label(&format!("service-token-{n}")),
        secret_hash: SecretHash::from_bytes([n; 32]),
        expires: n.is_multiple_of(2).then_some(NOW),
        created: NOW,
    }
}

/// A user.
#[must_use]
pub fn user(n: u8) -> User {
    User {
        id: UserId::from_bytes(bytes(n)),
        email: format!("user-{n}@example.net").parse().expect("a valid address"),
        name: format!("User {n} 花子").parse().expect("a valid name"),
        password_hash: Some("$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA".to_owned()),
        totp: Some(Totp {
            sealed_secret: vec![n, 0, 255],
            last_step: 57_000_000,
        }),
        passkeys: vec![Passkey {
            id: PasskeyId::from_bytes(bytes(n)),
            name: "Phone 花子".parse().expect("a valid name"),
            credential_hash: [n ^ 0x55; 32],
            credential: format!(r#"{{"n":{n}}}"#),
            answered: NOW,
            used: None,
            created: NOW,
        }],
        passkeys_since: NOW,
        recovery_codes: vec![SecretHash::from_bytes([n; 32]), SecretHash::from_bytes([!n; 32])],
        reset: Some(MailedSecret {
            hash: SecretHash::from_bytes([n ^ 0x33; 32]),
            expires: NOW,
        }),
        verification: None,
        administrator: n.is_multiple_of(2),
        identities: vec![LinkedIdentity {
            provider: ProviderId::from_bytes(bytes(n)),
            subject: format!("auth0|{n} \u{0} 花子"),
            since: NOW,
        }],
        verified: Some(NOW),
        disabled: None,
        tickets_since: Timestamp::from_millis(7),
        ended: vec![EndedSession {
            id: SessionId::from_bytes(bytes(n)),
            expires: NOW,
        }],
        created: NOW,
    }
}

/// A role of people of [`organization`]`(organization)`.
#[must_use]
pub fn role(organization: u8, n: u8) -> UserRole {
    UserRole {
        id: RoleId::from_bytes(bytes(n)),
        organization: OrganizationId::from_bytes(bytes(organization)),
        name: label(&format!("role-{n}")),
        permissions: Permissions::EVERYTHING,
        built_in: n.is_multiple_of(2),
        created: NOW,
    }
}

/// A group of people of [`organization`]`(organization)`.
#[must_use]
pub fn group(organization: u8, n: u8) -> Group {
    Group {
        id: GroupId::from_bytes(bytes(n)),
        organization: OrganizationId::from_bytes(bytes(organization)),
        name: label(&format!("group-{n}")),
        created: NOW,
    }
}

/// [`user`]`(n)` in [`organization`]`(organization)`.
#[must_use]
pub fn member(organization: u8, n: u8) -> Member {
    let mut id = bytes(n);
    id[0] = organization;
    Member {
        id: MemberId::from_bytes(id),
        organization: OrganizationId::from_bytes(bytes(organization)),
        user: user(n).id,
        roles: [role(organization, 1).id, role(organization, 2).id].into(),
        groups: [group(organization, 1).id].into(),
        created: NOW,
    }
}

/// An invitation to [`organization`]`(organization)`.
#[must_use]
pub fn invitation(organization: u8, n: u8) -> Invitation {
    Invitation {
        id: InvitationId::from_bytes(bytes(n)),
        organization: OrganizationId::from_bytes(bytes(organization)),
        email: Some(user(n).email),
        roles: [role(organization, 1).id].into(),
        groups: [group(organization, 1).id].into(),
        administrator: false,
        secret_hash: SecretHash::from_bytes([n; 32]),
        inviter: Some(Principal::new("user", "somebody")),
        maker: Some(user(n).id),
        expires: NOW,
        created: NOW,
    }
}

/// A session of [`user`]`(of)`.
#[must_use]
pub fn session(of: u8, n: u8) -> Session {
    Session {
        id: SessionId::from_bytes(bytes(n)),
        user: user(of).id,
        secret_hash: SecretHash::from_bytes([n; 32]),
        sign_in: SignIn::PasswordAndTotp,
        organization: n.is_multiple_of(2).then(|| OrganizationId::from_bytes(bytes(n))),
        source: Some("2001:db8::7".parse().expect("a valid address")),
        user_agent: "Mozilla/5.0 \"quoted\"".to_owned(),
        created: NOW,
        authenticated: NOW,
        expires: NOW,
    }
}

/// The [`tcp_service`] of the same numbers, as a UDP service.
#[must_use]
pub fn udp_service(organization: u8, n: u8) -> Service {
    let tcp = tcp_service(organization, n);
    let ServiceKind::Tcp { port, pool } = tcp.kind.clone() else {
        return tcp;
    };
    Service {
        name: label(&format!("udp-{n}")),
        kind: ServiceKind::Udp { port, pool },
        ..tcp
    }
}

/// A TCP service of [`organization`]`(organization)` on the port 5000 + `n`.
#[must_use]
pub fn tcp_service(organization: u8, n: u8) -> Service {
    let target = Target {
        id: TargetId::from_bytes(bytes(n)),
        place: TargetPlace::Site {
            site: SiteId::from_bytes(bytes(n)),
            address: "[2001:db8:7::5]:5432".parse().expect("a valid address"),
        },
        scheme: TargetScheme::Plain,
    };
    Service {
        id: ServiceId::from_bytes(bytes(n)),
        organization: OrganizationId::from_bytes(bytes(organization)),
        name: label(&format!("tcp-{n}")),
        kind: ServiceKind::Tcp {
            port: 5000 + u16::from(n),
            pool: Pool {
                targets: vec![target],
                health: None,
            },
        },
        policy: Policy::public(),
        policies: Vec::new(),
        lifetime: Lifetime::Ephemeral(AgentId::from_bytes(bytes(n))),
        created: NOW,
    }
}

/// An HTTP service of [`organization`]`(organization)` that uses everything a service can have.
#[must_use]
pub fn http_service(organization: u8, n: u8) -> Service {
    let at_agent = |k: u8, address, scheme| Target {
        id: TargetId::from_bytes(bytes(k)),
        place: TargetPlace::Agent {
            agent: AgentId::from_bytes(bytes(n)),
            port: VirtualPort::new(2000 + u16::from(k)).unwrap_or(VirtualPort::FIRST),
            address,
        },
        scheme,
    };
    let tls = |server_name, roots| TargetScheme::Tls { server_name, roots };
    let check = |check| HealthCheck {
        check,
        interval: Duration::from_millis(1500),
        timeout: Duration::from_secs(1),
        unhealthy_after: 3,
        healthy_after: 2,
    };
    let route = |k, path: &str, targets, health| Route {
        id: RouteId::from_bytes(bytes(k)),
        path: path.parse().expect("a valid path"),
        pool: Pool { targets, health },
        policies: vec![PolicyId::from_bytes(bytes(k)), PolicyId::from_bytes(bytes(9))],
    };
    let everything = vec![
        at_agent(
            1,
            TargetAddress::Tcp(endpoint("backend.internal:8080")),
            TargetScheme::Plain,
        ),
        at_agent(
            2,
            TargetAddress::Tcp(endpoint("[::1]:443")),
            tls(Some(host("backend")), vec![vec![1, 2], vec![3]]),
        ),
        at_agent(
            3,
            TargetAddress::Unix(PathBuf::from("/run/app.sock")),
            TargetScheme::Plain,
        ),
    ];
    let http = Health::Http {
        path: "/healthz?deep=1".to_owned(),
        host: Some(host("app.example.net")),
    };
    Service {
        id: ServiceId::from_bytes(bytes(n)),
        organization: OrganizationId::from_bytes(bytes(organization)),
        name: label(&format!("http-{n}")),
        kind: ServiceKind::Http {
            hosts: vec![
                format!("app-{n}.example.net").parse().expect("a valid pattern"),
                format!("*.app-{n}.example.net").parse().expect("a valid pattern"),
            ],
            routes: vec![
                route(1, "/", everything, Some(check(http))),
                route(
                    2,
                    "=/exact",
                    vec![at_agent(4, TargetAddress::InProcess, TargetScheme::Plain)],
                    Some(check(Health::Tcp)),
                ),
                route(3, "/none", Vec::new(), None),
            ],
            identity: IdentityForm::Assertion,
        },
        policy: policy(),
        policies: vec![PolicyId::from_bytes(bytes(n))],
        lifetime: Lifetime::Configured,
        created: NOW,
    }
}

/// A shared policy of [`organization`]`(organization)`.
#[must_use]
pub fn shared_policy(organization: u8, n: u8) -> SharedPolicy {
    let Policy { rules, access } = policy();
    let methods = access.methods().to_vec();
    SharedPolicy {
        id: PolicyId::from_bytes(bytes(n)),
        organization: OrganizationId::from_bytes(bytes(organization)),
        name: label(&format!("policy-{n}")),
        rules,
        access: n.is_multiple_of(2).then_some(Access::AllOf(methods)),
        created: NOW,
    }
}

/// An identity provider of [`organization`]`(n)`, or of the whole Control.
#[must_use]
pub fn identity_provider(organization: Option<u8>, n: u8) -> IdentityProvider {
    IdentityProvider {
        id: ProviderId::from_bytes(bytes(n)),
        organization: organization.map(|organization| OrganizationId::from_bytes(bytes(organization))),
        name: label(&format!("provider-{n}")),
        protocol: match n.is_multiple_of(2) {
            true => ProviderProtocol::Oidc {
                issuer: "https://id.example.net".to_owned(),
            },
            false => ProviderProtocol::OAuth2 {
                authorize: "https://git.example.net/authorize".to_owned(),
                token: "https://git.example.net/token".to_owned(),
                userinfo: "https://git.example.net/user".to_owned(),
            },
        },
        client_id: "kakuremichi".to_owned(),
        sealed_secret: vec![n, 0, 255],
        scopes: ["email".to_owned(), "groups".to_owned()].into(),
        claims: ClaimNames::default(),
        provision: true,
        require_verified: n.is_multiple_of(2),
        link_verified: false,
        multi_factor: n.is_multiple_of(3),
        default_roles: [RoleId::from_bytes(bytes(n))].into(),
        group_roles: [("CN=Ops,DC=example".to_owned(), RoleId::from_bytes(bytes(n)))].into(),
        created: NOW,
    }
}

/// A policy that uses everything a policy can have.
#[must_use]
pub fn policy() -> Policy {
    let office = Condition::All(vec![
        Condition::Source(cidr("192.0.2.0/24")),
        Condition::Not(Box::new(Condition::Any(vec![
            Condition::Method("POST".to_owned()),
            Condition::Path("/admin".parse().expect("a valid path")),
        ]))),
    ]);
    let header = |name: &str, is| Condition::Header {
        name: name.parse().expect("a valid name"),
        is,
    };
    let robots = Condition::Any(vec![
        header("user-agent", HeaderTest::Contains("bot".to_owned())),
        header("user-agent", HeaderTest::Prefix("curl/".to_owned())),
        header("x-purpose", HeaderTest::Equal("prefetch".to_owned())),
        header("x-probe", HeaderTest::Present),
    ]);
    let night = TimeWindow::new(Weekdays::ALL, 22 * 60, 6 * 60, -90).expect("a valid window");
    let abroad = Condition::All(vec![
        Condition::Not(Box::new(Condition::Country(
            "JP".parse().expect("a valid country"),
        ))),
        Condition::Asn(64_500),
        Condition::Time(night),
    ]);
    let staff = Condition::Any(vec![
        Condition::User(Principal::new("directory", "ann")),
        Condition::Role(label("admin")),
        Condition::Group("CN=Ops,DC=example".to_owned()),
        Condition::Strength(Strength::PhishingResistant),
    ]);
    let rule = |name, when, effect| Rule::new(label(name), when, effect);
    let trial = Rule {
        dry_run: true,
        ..rule("trial", Condition::All(Vec::new()), Effect::Deny)
    };
    Policy {
        rules: vec![
            rule("office", office, Effect::Allow),
            rule(
                "mallory",
                Condition::Subject("mallory \"quoted\" 悪".to_owned()),
                Effect::Deny,
            ),
            rule("robots", robots, Effect::Deny),
            trial,
            rule("abroad", abroad, Effect::Continue),
            rule("staff", staff, Effect::Allow),
        ],
        access: Access::AnyOf(vec![
            Method::signed_in(),
            Method::Basic {
                users: vec![BasicUser {
                    name: "alice".to_owned(),
                    password_hash: "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA".to_owned(),
                }],
            },
            Method::SignedIn(Requirement {
                roles: vec![label("staff")],
                groups: vec!["Ops".to_owned()],
                strength: Strength::TwoFactors,
                max_age: Some(Duration::from_secs(900)),
            }),
            Method::ServiceToken {
                tokens: vec![ServiceTokenId::from_bytes(bytes(1))],
            },
        ]),
    }
}
