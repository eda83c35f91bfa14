//! The use cases on a real database, and on the memory store.

use std::{sync::Arc, time::Duration};

use kakuremichi_core::{
    code::Code,
    id::{AgentId, NodeId},
    key::{IdentityKey, WireGuardKey},
    model::{
        DeclareScope, EnrolmentToken, IdentityForm, Lifetime, Node, NodeKind, Permissions, Role, Service,
        ServiceKind, TargetAddress, TargetPlace, TargetScheme, TokenUnusable,
    },
    name::Label,
    policy::{Access, Method, Policy},
    secret::{Secret, SecretHash},
    store::{
        MemoryStore, Sequence, Store, Stored, UsageCounts, UsageEntry, UsageReport, conformance::sample,
    },
};
use kakuremichi_proto::{
    declare::{Declaration, DeclaredKind, DeclaredTarget},
    identity::TokenText,
    session::EnrolRequest,
};

use super::*;

pub(crate) fn label(text: &str) -> Label {
    text.parse().unwrap()
}

fn control() -> UseCases {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    UseCases::new(Wiring {
        ca: Some([8; 32]),
        ..Wiring::tests(store)
    })
}

async fn token(control: &UseCases, role: Role, uses: Option<u32>) -> TokenText {
    let actor = control.control().await.unwrap();
    let declare = match role {
        Role::Agent => DeclareScope {
            hosts: vec!["*.example.net".parse().unwrap()],
            ports: vec!["5000-5999".parse().unwrap()],
        },
        Role::Gateway => DeclareScope::default(),
    };
    let draft = TokenDraft {
        name: label("test"),
        role,
        uses,
        expires: None,
        declare,
        approval: false,
        labels: Default::default(),
    };
    let made = control.create_token(&actor, draft).await.unwrap();
    made.text.expose().parse().unwrap()
}

fn wants_in(token: &TokenText, role: Role, n: u8) -> EnrolRequest {
    EnrolRequest {
        secret_hash: token.secret_hash(),
        role,
        name: label("node"),
        identity: IdentityKey::from_bytes([n; 32]),
        wireguard: WireGuardKey::from_bytes([n; 32]),
    }
}

async fn agent(control: &UseCases, n: u8) -> (AgentId, Actor) {
    let token = token(control, Role::Agent, Some(1)).await;
    let node = control.enrol(&wants_in(&token, Role::Agent, n)).await.unwrap();
    let NodeId::Agent(id) = node.id else {
        panic!("an agent")
    };
    (id, Actor::node(&node))
}

fn at(agent: AgentId, address: &str) -> TargetDraft {
    TargetDraft {
        place: PlaceDraft::Agent {
            agent: Reference::Id(agent),
            address: TargetAddress::Tcp(address.parse().unwrap()),
        },
        scheme: TargetScheme::Plain,
    }
}

fn http(
    name: &str,
    host: &str,
    routes: impl IntoIterator<Item = (&'static str, Vec<TargetDraft>)>,
) -> ServiceDraft {
    let route = |(path, targets): (&str, _)| RouteDraft {
        path: path.parse().unwrap(),
        pool: PoolDraft {
            targets,
            health: None,
        },
        policies: Vec::new(),
    };
    ServiceDraft {
        name: label(name),
        kind: KindDraft::Http {
            hosts: vec![parse_host_pattern(host).unwrap()],
            routes: routes.into_iter().map(route).collect(),
            identity: IdentityForm::default(),
        },
        policy: Policy::public().into(),
        policies: Vec::new(),
    }
}

fn ports(service: &Stored<Service>) -> Vec<u16> {
    let port = |place: &TargetPlace| match place {
        TargetPlace::Agent { port, .. } => port.get(),
        TargetPlace::Site { .. } => 0,
    };
    service
        .value
        .targets()
        .map(|target| port(&target.place))
        .collect()
}

#[tokio::test]
async fn the_first_start_is_the_only_first_start() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let make = || UseCases::new(Wiring::tests(Arc::clone(&store)));
    let (one, two) = (make(), make());
    assert_eq!(one.start().await.unwrap(), two.start().await.unwrap());
    let actor = one.control().await.unwrap();
    assert_eq!(
        one.organization(&actor).await.unwrap().value.name,
        label("default")
    );
    // One creation, however often it starts.
    assert_eq!(store.audit(Sequence::START).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_token_enrols_as_often_as_it_may_and_pins_control() {
    let control = control();
    let token = token(&control, Role::Agent, Some(1)).await;
    assert_eq!(
        (token.control(), token.ca()),
        (IdentityKey::from_bytes([9; 32]), Some(&[8; 32]))
    );
    let first = control.enrol(&wants_in(&token, Role::Agent, 1)).await.unwrap();
    assert!(matches!(first.kind, NodeKind::Agent { ref declare, .. } if !declare.is_empty()));
    // It did not hear of it and comes again: it is who it was.
    let again = control.enrol(&wants_in(&token, Role::Agent, 1)).await.unwrap();
    assert_eq!(again, first);
    let error = control
        .enrol(&wants_in(&token, Role::Agent, 2))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::TOKEN_USED_UP);
}

#[tokio::test]
async fn a_token_is_refused_with_its_reason() {
    let control = control();
    let actor = control.control().await.unwrap();
    let gateways = token(&control, Role::Gateway, None).await;
    let error = control
        .enrol(&wants_in(&gateways, Role::Agent, 1))
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        UseCaseError::Token(TokenUnusable::Role(Role::Gateway))
    ));
    let listed = control
        .list::<EnrolmentToken>(&actor, None, 10, |_| true)
        .await
        .unwrap();
    let revoked = control
        .revoke_token(&actor, listed.items[0].value.id)
        .await
        .unwrap();
    assert_eq!(
        control.revoke_token(&actor, revoked.value.id).await.unwrap(),
        revoked
    );
    let error = control
        .enrol(&wants_in(&gateways, Role::Gateway, 1))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::TOKEN_REVOKED);
    let mut unknown = wants_in(&gateways, Role::Gateway, 1);
    unknown.secret_hash = SecretHash::from_bytes([0; 32]);
    assert_eq!(
        control.enrol(&unknown).await.unwrap_err().code(),
        Code::TOKEN_UNKNOWN
    );
    let past = TokenDraft {
        name: label("past"),
        role: Role::Agent,
        uses: None,
        expires: Some(now()),
        declare: DeclareScope::default(),
        approval: false,
        labels: Default::default(),
    };
    assert_eq!(
        control.create_token(&actor, past).await.unwrap_err().code(),
        Code::REQUEST_INVALID
    );
}

#[tokio::test]
async fn nodes_of_one_name_get_numbers_and_gateways_an_address() {
    let control = control();
    let token = token(&control, Role::Gateway, None).await;
    let mut addresses = BTreeSet::new();
    for (n, name) in [(1, "node"), (2, "node-2"), (3, "node-3")] {
        let node = control.enrol(&wants_in(&token, Role::Gateway, n)).await.unwrap();
        assert_eq!(node.name.as_str(), name);
        let NodeKind::Gateway { address_v4, .. } = node.kind else {
            panic!("a gateway")
        };
        assert!(kakuremichi_core::net::OVERLAY_V4.contains(address_v4.into()));
        assert!(addresses.insert(address_v4));
    }
}

#[tokio::test]
async fn a_revoked_node_is_out_and_a_node_is_its_key() {
    let control = control();
    let actor = control.control().await.unwrap();
    let (id, _) = agent(&control, 1).await;
    let keys = |n| {
        (
            IdentityKey::from_bytes([n; 32]),
            WireGuardKey::from_bytes([n; 32]),
        )
    };
    let login = async |identity, wireguard| control.login(id.into(), identity, wireguard).await;
    assert!(login(keys(1).0, keys(1).1).await.is_ok());
    assert_eq!(
        login(keys(2).0, keys(1).1).await.unwrap_err().code(),
        Code::NODE_KEYS
    );
    // Its own identity may bring another WireGuard key.
    assert_eq!(login(keys(1).0, keys(7).1).await.unwrap().wireguard, keys(7).1);
    control.revoke_node(&actor, id.into()).await.unwrap();
    assert_eq!(
        login(keys(1).0, keys(7).1).await.unwrap_err().code(),
        Code::NODE_REVOKED
    );
    control.delete_node(&actor, id.into(), None).await.unwrap();
    assert_eq!(
        login(keys(1).0, keys(7).1).await.unwrap_err().code(),
        Code::NODE_UNKNOWN
    );
}

/// DESIGN, section 6: a virtual port is never reused.
#[tokio::test]
async fn unchanged_targets_keep_their_ports_and_others_get_new_ones() {
    let control = control();
    let actor = control.control().await.unwrap();
    let (one, _) = agent(&control, 1).await;
    let (two, _) = agent(&control, 2).await;
    let draft = http(
        "web",
        "a.example",
        [
            ("/", vec![at(one, "10.0.0.1:80"), at(one, "10.0.0.2:80")]),
            ("/api", vec![at(two, "10.0.0.1:80")]),
        ],
    );
    let made = control.create_service(&actor, draft.clone()).await.unwrap();
    assert_eq!(ports(&made), [1024, 1025, 1024]);
    let same = control
        .update_service(&actor, made.value.id, draft, None)
        .await
        .unwrap();
    assert_eq!(same, made, "the same again changes nothing");

    let swapped = http(
        "web",
        "a.example",
        [
            ("/", vec![at(one, "10.0.0.2:80"), at(one, "10.0.0.3:80")]),
            ("/api", vec![at(two, "10.0.0.1:80"), at(two, "10.0.0.1:80")]),
        ],
    );
    let changed = control
        .update_service(&actor, made.value.id, swapped, Some(made.version))
        .await
        .unwrap();
    assert_eq!(ports(&changed), [1025, 1026, 1024, 1025]);
    let ids = |service: &Stored<Service>| match &service.value.kind {
        ServiceKind::Http { routes, .. } => (
            routes[0].id,
            routes[0].pool.targets.iter().map(|t| t.id).collect::<Vec<_>>(),
        ),
        ServiceKind::Tcp { .. } | ServiceKind::Udp { .. } => panic!("it is HTTP"),
    };
    assert_eq!(ids(&changed).0, ids(&made).0);
    assert_eq!(ids(&changed).1[0], ids(&made).1[1]);

    // What was given back is not given again.
    control.delete_service(&actor, made.value.id, None).await.unwrap();
    let next = http("web", "a.example", [("/", vec![at(one, "10.0.0.1:80")])]);
    assert_eq!(
        ports(&control.create_service(&actor, next).await.unwrap()),
        [1027]
    );
    let stale = control
        .update_service(
            &actor,
            made.value.id,
            http("web", "a.example", []),
            Some(made.version),
        )
        .await;
    assert_eq!(stale.unwrap_err().code(), Code::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_made_at_once_never_share_a_port() {
    let control = control();
    let actor = control.control().await.unwrap();
    let (one, _) = agent(&control, 1).await;
    let mut made = tokio::task::JoinSet::new();
    for n in 0..6 {
        let (control, actor) = (control.clone(), actor.clone());
        made.spawn(async move {
            let draft = http(
                &format!("s{n}"),
                &format!("s{n}.example"),
                [("/", vec![at(one, "10.0.0.1:80")])],
            );
            control.create_service(&actor, draft).await.unwrap()
        });
    }
    let mut ports: Vec<_> = made.join_all().await.iter().flat_map(ports).collect();
    ports.sort_unstable();
    assert_eq!(ports, [1024, 1025, 1026, 1027, 1028, 1029]);
}

#[tokio::test]
async fn what_is_wrong_is_said_of_the_field() {
    let control = control();
    let actor = control.control().await.unwrap();
    let (one, _) = agent(&control, 1).await;
    let field = async |draft| match control.create_service(&actor, draft).await {
        Err(UseCaseError::Invalid(errors)) => errors[0].field.clone(),
        other => panic!("a field was expected to be wrong: {other:?}"),
    };
    let unknown = http(
        "web",
        "a.example",
        [("/", vec![at(one, "h:1"), at(AgentId::from_bytes([7; 16]), "h:1")])],
    );
    assert_eq!(field(unknown).await, "http.routes[0].targets[1].agent");
    let twice = http("web", "a.example", [("/", vec![]), ("/", vec![])]);
    assert_eq!(field(twice).await, "http.routes");
    let mut users = http("web", "a.example", []);
    let user = |name: &str, password| UserDraft {
        name: name.to_owned(),
        password,
    };
    users.policy.access =
        AccessDraft::AnyOf(vec![MethodDraft::Basic(vec![user("a:b", PasswordDraft::Keep)])]);
    assert_eq!(
        field(users.clone()).await,
        "policy.access.any_of[0].basic.users[0].name"
    );
    users.policy.access =
        AccessDraft::AnyOf(vec![MethodDraft::Basic(vec![user("ann", PasswordDraft::Keep)])]);
    assert_eq!(
        field(users).await,
        "policy.access.any_of[0].basic.users[0].password"
    );
    let made = control
        .create_service(&actor, http("web", "a.example", []))
        .await
        .unwrap();
    let taken = control
        .create_service(&actor, http("other", "A.Example", []))
        .await
        .unwrap_err();
    assert_eq!(
        (taken.code(), taken.to_string().contains("a.example")),
        (Code::CONFLICT, true)
    );
    assert!(
        control.urls(&made.value).await.unwrap().is_empty(),
        "there is no gateway yet"
    );
}

#[tokio::test]
async fn passwords_are_stored_as_hashes_and_can_stay() {
    let control = control();
    let actor = control.control().await.unwrap();
    let with = |password| {
        let mut draft = http("web", "a.example", []);
        let user = UserDraft {
            name: "ann".to_owned(),
            password,
        };
        draft.policy.access = AccessDraft::AnyOf(vec![MethodDraft::Basic(vec![user])]);
        draft
    };
    let hash = |service: &Stored<Service>| match &service.value.policy.access {
        Access::AnyOf(methods) => match &methods[0] {
            Method::Basic { users } => users[0].password_hash.clone(),
            Method::SignedIn(_) | Method::ServiceToken { .. } => panic!("it is Basic"),
        },
        Access::Deny | Access::Public | Access::AllOf(_) => panic!("it has methods"),
    };
    let plain = PasswordDraft::Plain(Secret::new("correct horse".to_owned()));
    let made = control.create_service(&actor, with(plain)).await.unwrap();
    assert!(hash(&made).starts_with("$argon2id$") && !format!("{made:?}").contains("correct horse"));
    let kept = control
        .update_service(&actor, made.value.id, with(PasswordDraft::Keep), None)
        .await
        .unwrap();
    assert_eq!(hash(&kept), hash(&made));
}

/// LESSONS, advisory 9: the organization of the loaded object counts, not what a request says.
#[tokio::test]
async fn another_organizations_things_are_not_there() {
    let control = control();
    let (id, actor) = agent(&control, 1).await;
    let made = control
        .create_service(&actor, http("web", "a.example", [("/", vec![at(id, "h:1")])]))
        .await
        .unwrap();
    let stranger = Actor::control(OrganizationId::from_bytes([7; 16]));
    let not_found =
        |result: Result<(), UseCaseError>| assert_eq!(result.unwrap_err().code(), Code::NOT_FOUND);
    not_found(control.service(&stranger, made.value.id).await.map(|_| ()));
    not_found(control.delete_service(&stranger, made.value.id, None).await);
    not_found(control.revoke_node(&stranger, id.into()).await.map(|_| ()));
    not_found(control.usage(&stranger, made.value.id).await.map(|_| ()));
    assert!(
        control
            .list::<Node>(&stranger, None, 10, |_| true)
            .await
            .unwrap()
            .items
            .is_empty()
    );
    let borrowed = http("mine", "mine.example", [("/", vec![at(id, "h:1")])]);
    assert_eq!(
        control
            .create_service(&stranger, borrowed)
            .await
            .unwrap_err()
            .code(),
        Code::REQUEST_INVALID
    );
    let gateway = sample::gateway(0, 9).id;
    // LESSONS, advisory 10: usage of a service of another organization is not counted.
    let entry = UsageEntry {
        service: made.value.id,
        counts: UsageCounts {
            requests: 1,
            ..UsageCounts::default()
        },
    };
    let report = UsageReport {
        epoch: 1,
        sequence: 1,
    };
    control
        .record_usage(&stranger, sample::usage(id.into(), report, &[entry]))
        .await
        .unwrap();
    assert_eq!(
        control.usage(&actor, made.value.id).await.unwrap(),
        UsageCounts::default()
    );
    let report = UsageReport {
        epoch: 1,
        sequence: 2,
    };
    control
        .record_usage(&actor, sample::usage(gateway, report, &[entry]))
        .await
        .unwrap();
    assert_eq!(control.usage(&actor, made.value.id).await.unwrap().requests, 1);
}

#[tokio::test]
async fn what_services_use_cannot_be_deleted() {
    let control = control();
    let actor = control.control().await.unwrap();
    let (id, _) = agent(&control, 1).await;
    let draft = SiteDraft {
        name: label("office"),
        wireguard: WireGuardKey::from_bytes([3; 32]),
        networks: vec!["10.1.0.0/16".parse().unwrap()],
        endpoint: None,
    };
    let site = control.create_site(&actor, draft.clone()).await.unwrap();
    let behind = |address: &str| TargetDraft {
        place: PlaceDraft::Site {
            site: Reference::Name(label("office")),
            address: address.parse().unwrap(),
        },
        scheme: TargetScheme::Plain,
    };
    let outside = http("web", "a.example", [("/", vec![behind("10.2.0.1:80")])]);
    assert_eq!(
        control.create_service(&actor, outside).await.unwrap_err().code(),
        Code::REQUEST_INVALID
    );
    let draft_service = http(
        "web",
        "a.example",
        [("/", vec![at(id, "h:1"), behind("10.1.0.1:80")])],
    );
    let service = control.create_service(&actor, draft_service).await.unwrap();
    assert_eq!(
        control
            .delete_node(&actor, id.into(), None)
            .await
            .unwrap_err()
            .code(),
        Code::IN_USE
    );
    assert_eq!(
        control
            .delete_site(&actor, site.value.id, None)
            .await
            .unwrap_err()
            .code(),
        Code::IN_USE
    );
    let shrunk = SiteDraft {
        networks: vec!["10.1.1.0/24".parse().unwrap()],
        ..draft.clone()
    };
    let error = control
        .update_site(&actor, site.value.id, shrunk, None)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("web"), "{error}");
    control
        .delete_service(&actor, service.value.id, None)
        .await
        .unwrap();
    control.delete_node(&actor, id.into(), None).await.unwrap();
    control.delete_site(&actor, site.value.id, None).await.unwrap();

    let overlay = SiteDraft {
        networks: vec!["100.64.0.0/16".parse().unwrap()],
        ..draft
    };
    assert_eq!(
        control.create_site(&actor, overlay).await.unwrap_err().code(),
        Code::REQUEST_INVALID
    );
}

fn declaration(name: &str, host: &str, ephemeral: bool) -> Declaration {
    Declaration {
        name: label(name),
        kind: DeclaredKind::Http {
            hosts: vec![host.parse().unwrap()],
            path: "/".parse().unwrap(),
        },
        target: DeclaredTarget {
            address: TargetAddress::InProcess,
            scheme: TargetScheme::Plain,
            health: None,
        },
        policy: Policy::public(),
        ephemeral,
    }
}

#[tokio::test]
async fn an_agent_declares_within_its_scope_only() {
    let control = control();
    let (id, actor) = agent(&control, 1).await;
    let declare = async |declaration: &Declaration| control.declare(id, &actor, declaration).await;
    let made = declare(&declaration("web", "web.example.net", true))
        .await
        .unwrap();
    let stored = control.service(&actor, made.service).await.unwrap();
    assert_eq!(stored.value.lifetime, Lifetime::Ephemeral(id));
    // The same again changes nothing; another under the name takes its place and keeps its port.
    assert_eq!(
        declare(&declaration("web", "web.example.net", true))
            .await
            .unwrap()
            .service,
        made.service
    );
    assert_eq!(control.service(&actor, made.service).await.unwrap(), stored);
    declare(&declaration("web", "www.example.net", false))
        .await
        .unwrap();
    let changed = control.service(&actor, made.service).await.unwrap();
    assert_eq!(changed.value.lifetime, Lifetime::Declared(id));
    assert_eq!(ports(&changed), ports(&stored));

    let outside = declare(&declaration("evil", "bank.example", true))
        .await
        .unwrap_err();
    assert_eq!(
        (outside.code(), outside.to_string().contains("bank.example")),
        (Code::SCOPE_HOST, true)
    );
    let mut tcp = declaration("tcp", "x.example.net", true);
    tcp.kind = DeclaredKind::Tcp { port: 22 };
    assert_eq!(declare(&tcp).await.unwrap_err().code(), Code::SCOPE_PORT);
    tcp.kind = DeclaredKind::Tcp { port: 5022 };
    assert!(declare(&tcp).await.is_ok());
    // The same port of the other transport is another port, and within the same scope.
    let mut udp = declaration("udp", "x.example.net", true);
    udp.kind = DeclaredKind::Udp { port: 53 };
    assert_eq!(declare(&udp).await.unwrap_err().code(), Code::SCOPE_PORT);
    udp.kind = DeclaredKind::Udp { port: 5022 };
    assert!(declare(&udp).await.is_ok());

    // Another agent neither takes a name or host, nor ends what is not its own.
    let (other, other_actor) = agent(&control, 2).await;
    for taken in [
        declaration("web", "else.example.net", true),
        declaration("else", "www.example.net", true),
    ] {
        let error = control.declare(other, &other_actor, &taken).await.unwrap_err();
        assert_eq!(error.code(), Code::NAME_TAKEN);
    }
    control
        .undeclare(other, &other_actor, &label("web"), true)
        .await
        .unwrap();
    assert!(control.service(&actor, made.service).await.is_ok());
    // Nor does the API change what the agent would change back.
    let update = control
        .update_service(&actor, made.service, http("web", "a.example", []), None)
        .await;
    assert!(matches!(update, Err(UseCaseError::Declared(by)) if by == id));
}

/// LESSONS: "Stopping is not deleting: Ephemeral and Declared are different lifetimes".
#[tokio::test]
async fn what_stays_stays_and_what_is_ephemeral_goes() {
    let control = control();
    let (id, actor) = agent(&control, 1).await;
    let declare = async |name: &str, ephemeral| {
        let declaration = declaration(name, &format!("{name}.example.net"), ephemeral);
        control.declare(id, &actor, &declaration).await.unwrap().service
    };
    let (stays, goes, kept) = (
        declare("stays", false).await,
        declare("goes", true).await,
        declare("kept", true).await,
    );
    let there = async |service| control.service(&actor, service).await.is_ok();
    control
        .keep_declared(id, &actor, &[label("kept")].into())
        .await
        .unwrap();
    assert_eq!(
        (there(stays).await, there(goes).await, there(kept).await),
        (true, false, true)
    );
    control
        .undeclare(id, &actor, &label("stays"), false)
        .await
        .unwrap();
    assert!(there(stays).await);
    control.end_lease(id, &actor).await.unwrap();
    assert_eq!((there(stays).await, there(kept).await), (true, false));
    control
        .undeclare(id, &actor, &label("stays"), true)
        .await
        .unwrap();
    assert!(!there(stays).await);
    control
        .undeclare(id, &actor, &label("stays"), true)
        .await
        .unwrap();
}

#[tokio::test]
async fn an_api_key_opens_until_it_is_deleted() {
    let control = control();
    let actor = control.control().await.unwrap();
    let draft = ApiKeyDraft {
        name: label("ci"),
        permissions: Permissions::EVERYTHING,
        expires: Some(now().after(Duration::from_secs(60))),
    };
    let made = control.create_api_key(&actor, draft).await.unwrap();
    let text = made.text.expose();
    let who = control.actor_of(text).await.unwrap().unwrap();
    assert_eq!(who.organization, actor.organization);
    assert_eq!(who.principal.unwrap().subject(), made.key.value.id.to_string());
    assert_eq!(control.actor_of("kkm_api_nonsense").await.unwrap(), None);
    control
        .delete_api_key(&actor, made.key.value.id, None)
        .await
        .unwrap();
    assert_eq!(control.actor_of(text).await.unwrap(), None);
}

/// Remembers what it hears.
#[derive(Debug, Default)]
struct Ear(Mutex<Vec<String>>);

impl Ear {
    async fn heard(&self, deeds: &[&str]) {
        let whole = async {
            while *self.0.lock().unwrap() != deeds {
                tokio::task::yield_now().await;
            }
        };
        let limit = Duration::from_secs(20);
        let heard = tokio::time::timeout(limit, whole).await;
        assert!(heard.is_ok(), "{deeds:?} were not heard: {self:?}");
    }
}

/// Never gets done with what it hears.
#[derive(Debug)]
struct Stuck;

#[async_trait::async_trait]
impl AuditSink for Stuck {
    async fn record(&self, _: &AuditEntry) {
        std::future::pending().await
    }
}

#[tokio::test]
async fn nothing_waits_for_a_sink_and_no_sink_misses_a_deed() {
    let (store, ear) = (Arc::new(MemoryStore::new()), Arc::new(Ear::default()));
    let shared: Arc<dyn Store> = store.clone();
    let before = UseCases::new(Wiring::tests(Arc::clone(&shared)));
    for _ in 0..9 {
        before.mark_start().await.unwrap();
    }
    let sinks: Vec<Arc<dyn AuditSink>> = vec![Arc::new(Stuck), ear.clone()];
    let control = UseCases::new(Wiring {
        sinks,
        ..Wiring::tests(shared)
    });
    let (_, actor) = agent(&control, 1).await;
    // Whoever asks hangs up at once.
    let draft = ApiKeyDraft {
        name: "key".parse().unwrap(),
        permissions: Permissions::EVERYTHING,
        expires: None,
    };
    let actor = Actor::control(actor.organization);
    let mut asked = Box::pin(control.create_api_key(&actor, draft));
    let hung_up =
        std::future::poll_fn(|context| std::task::Poll::Ready(asked.as_mut().poll(context).is_pending()));
    assert!(hung_up.await);
    drop(asked);
    ear.heard(&["token.create", "node.enrol", "api_key.create"]).await;
}

#[async_trait::async_trait]
impl AuditSink for Ear {
    async fn record(&self, entry: &AuditEntry) {
        self.0.lock().unwrap().push(entry.action.clone());
    }
}

#[tokio::test]
async fn the_audit_has_every_deed_and_sinks_hear_of_those_that_were_done() {
    let (store, ear) = (Arc::new(MemoryStore::new()), Arc::new(Ear::default()));
    let (shared, sink): (Arc<dyn Store>, Arc<dyn AuditSink>) = (store.clone(), ear.clone());
    let control = UseCases::new(Wiring {
        sinks: vec![sink],
        ..Wiring::tests(shared)
    });
    let (id, actor) = agent(&control, 1).await;
    let made = control
        .create_service(&actor, http("web", "a.example", [("/", vec![at(id, "h:1")])]))
        .await
        .unwrap();
    assert!(
        control
            .create_service(&actor, http("web", "b.example", []))
            .await
            .is_err()
    );
    let deeds = [
        "organization.create",
        "token.create",
        "node.enrol",
        "service.create",
    ];
    ear.heard(&deeds).await;
    let audit = store.audit(Sequence::START).await.unwrap();
    assert_eq!(
        audit
            .iter()
            .map(|(_, entry)| entry.action.as_str())
            .collect::<Vec<_>>(),
        deeds
    );
    let (_, last) = audit.last().unwrap();
    assert_eq!(
        (last.subject, &last.actor),
        (Some(made.value.id.into()), &actor.principal)
    );
}
