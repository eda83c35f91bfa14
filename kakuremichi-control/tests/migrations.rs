//! Databases of every schema that was ever released become today's, and lose nothing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{os::unix::fs::PermissionsExt, path::Path};

use kakuremichi_control::store::{ConnectError, SqlStore};
use kakuremichi_core::{
    model::{
        AccountPolicy, ApiKey, EnrolmentToken, IdentityForm, Labels, NodeKind, Organization, Permissions,
        Service, ServiceKind,
    },
    net::Overlay,
    policy::{Access, Method, SharedPolicy},
    store::{
        Batch, Mutation, Sequence, Store, StoreRecord, UsageCounts, UsageEntry, UsageReport, Version,
        conformance::sample,
    },
};
use kakuremichi_tests::Postgres;
use sea_orm::{ConnectionTrait, Database};

/// A released schema, with a database of it as text.
struct Released {
    schema: &'static str,
    sqlite: &'static str,
    postgresql: &'static str,
    /// What is in it.
    records: fn() -> Vec<StoreRecord>,
}

/// The released schemas, oldest first.
const RELEASED: [Released; 4] = [
    Released {
        schema: "m0001_initial",
        sqlite: include_str!("schemas/m0001_initial.sqlite.sql"),
        postgresql: include_str!("schemas/m0001_initial.postgresql.sql"),
        records: first_records,
    },
    Released {
        schema: "m0002_usage_streams",
        sqlite: include_str!("schemas/m0002_usage_streams.sqlite.sql"),
        postgresql: include_str!("schemas/m0002_usage_streams.postgresql.sql"),
        records: first_records,
    },
    Released {
        schema: "m0013_passkeys",
        sqlite: include_str!("schemas/m0013_passkeys.sqlite.sql"),
        postgresql: include_str!("schemas/m0013_passkeys.postgresql.sql"),
        records: undated_records,
    },
    Released {
        schema: "m0016_questions",
        sqlite: include_str!("schemas/m0016_questions.sqlite.sql"),
        postgresql: include_str!("schemas/m0016_questions.postgresql.sql"),
        records: talkative_records,
    },
];

const COUNTS: UsageCounts = UsageCounts {
    connections: 1,
    requests: 20,
    bytes_in: 300,
    bytes_out: 1 << 53,
};

/// A service with what a policy could have at the time: two rules and two methods, and nothing that is shared.
fn service() -> Service {
    let mut service = sample::http_service(0, 4);
    service.policies = Vec::new();
    if let ServiceKind::Http { routes, .. } = &mut service.kind {
        routes.iter_mut().for_each(|route| route.policies = Vec::new());
    }
    talkative(&mut service);
    service.policy.rules.truncate(2);
    if let Access::AnyOf(methods) = &mut service.policy.access {
        methods.truncate(2);
    }
    undated(&mut service.policy.access);
    service
}

/// Takes from a policy what there was not at the time: how long ago somebody may have signed in.
fn undated(access: &mut Access) {
    if let Access::AnyOf(methods) | Access::AllOf(methods) = access {
        for method in methods {
            if let Method::SignedIn(requirement) = method {
                requirement.max_age = None;
            }
        }
    }
}

/// All targets were told everything at the time.
fn talkative(service: &mut Service) {
    if let ServiceKind::Http { identity, .. } = &mut service.kind {
        *identity = IdentityForm::Both;
    }
}

/// One of each kind, and a node that has keys of before.
fn records() -> Vec<StoreRecord> {
    with_rotated(sample::http_service(0, 4))
}

/// The same, from when all targets were told everything.
fn talkative_records() -> Vec<StoreRecord> {
    let mut service = sample::http_service(0, 4);
    talkative(&mut service);
    with_rotated(service)
}

fn with_rotated(service: Service) -> Vec<StoreRecord> {
    let mut records = one_of_each(service, sample::shared_policy(0, 16));
    records.push(sample::rotated(0, 19).into());
    records
}

/// One of each kind, from when nobody was asked how long ago they had signed in.
fn undated_records() -> Vec<StoreRecord> {
    let mut service = sample::http_service(0, 4);
    undated(&mut service.policy.access);
    talkative(&mut service);
    let mut policy = sample::shared_policy(0, 16);
    policy.access.iter_mut().for_each(undated);
    one_of_each(service, policy)
}

fn one_of_each(service: Service, policy: SharedPolicy) -> Vec<StoreRecord> {
    vec![
        sample::organization(0).into(),
        sample::user(8).into(),
        sample::agent(0, 1).into(),
        sample::gateway(0, 2).into(),
        sample::site(0, 3).into(),
        service.into(),
        sample::tcp_service(0, 5).into(),
        sample::token(0, 6).into(),
        sample::api_key(0, 7).into(),
        sample::service_token(0, 9).into(),
        sample::role(0, 10).into(),
        sample::group(0, 11).into(),
        sample::member(0, 12).into(),
        sample::invitation(0, 13).into(),
        sample::session(8, 14).into(),
        sample::udp_service(0, 15).into(),
        policy.into(),
        sample::identity_provider(Some(0), 17).into(),
        sample::channel(0, 18).into(),
    ]
}

/// What there was in the beginning.
fn first_records() -> Vec<StoreRecord> {
    // Whoever had a key had every right.
    let key = ApiKey {
        permissions: Permissions::EVERYTHING,
        maker: None,
        ..sample::api_key(0, 7)
    };
    // Nothing was asked of accounts.
    let organization = Organization {
        accounts: AccountPolicy::default(),
        ..sample::organization(0)
    };
    // No gateway signed sessions.
    let mut gateway = sample::gateway(0, 2);
    if let NodeKind::Gateway { signing_keys, .. } = &mut gateway.kind {
        signing_keys.clear();
    }
    // There were no labels, and nobody was asked.
    gateway.labels = Labels::default();
    let token = EnrolmentToken {
        approval: false,
        labels: Labels::default(),
        ..sample::token(0, 6)
    };
    vec![
        organization.into(),
        sample::agent(0, 1).into(),
        gateway.into(),
        sample::site(0, 3).into(),
        service().into(),
        sample::tcp_service(0, 5).into(),
        token.into(),
        key.into(),
    ]
}

fn overlay() -> Overlay {
    Overlay::from_global_id([1, 2, 3, 4, 5])
}

/// Fills a store as the databases of [`RELEASED`] were.
async fn fill(store: &SqlStore, records: Vec<StoreRecord>) {
    store.overlay(overlay()).await.unwrap();
    let commit = async |mutations| {
        let audit = sample::audit("test.write");
        store
            .commit(Batch {
                mutations,
                audit,
                request: None,
            })
            .await
            .unwrap();
    };
    commit(records.into_iter().map(Mutation::Create).collect()).await;
    commit(vec![Mutation::Update(
        sample::tcp_service(0, 5).into(),
        Version(1),
    )])
    .await;
    let report = UsageReport {
        epoch: u64::MAX,
        sequence: 3,
    };
    let entry = UsageEntry {
        service: sample::http_service(0, 4).id,
        counts: COUNTS,
    };
    store
        .record_usage(&sample::usage(sample::gateway(0, 2).id, report, &[entry]))
        .await
        .unwrap();
}

/// Checks that nothing of it is missing, and that it can be worked with.
async fn check(store: &SqlStore, records: Vec<StoreRecord>) {
    assert_eq!(
        store.overlay(Overlay::from_global_id([9; 5])).await.unwrap(),
        overlay()
    );
    let changed = records.len() + 1;
    for record in records {
        let stored = store.get(record.id()).await.unwrap().unwrap();
        let twice = record.id() == sample::tcp_service(0, 5).id.into();
        assert_eq!(stored.version, Version(if twice { 2 } else { 1 }));
        for key in record.unique_keys() {
            assert_eq!(store.find(&key).await.unwrap().as_ref(), Some(&stored));
        }
        assert_eq!(stored.value, record);
    }
    let audit = store.audit(Sequence::START).await.unwrap();
    assert_eq!(audit.len(), 2);
    assert!(
        audit
            .iter()
            .all(|(_, entry)| *entry == sample::audit("test.write"))
    );
    let changes = store.changes(Sequence::START).await.unwrap();
    assert_eq!(changes.len(), changed);

    // A report that was recorded is known; the next one counts.
    let (node, service) = (sample::gateway(0, 2).id, sample::http_service(0, 4).id);
    let entry = UsageEntry {
        service,
        counts: COUNTS,
    };
    for sequence in [3, 4] {
        let report = UsageReport {
            epoch: u64::MAX,
            sequence,
        };
        assert_eq!(
            store
                .record_usage(&sample::usage(node, report, &[entry]))
                .await
                .unwrap(),
            report
        );
    }
    assert_eq!(store.usage_totals(service).await.unwrap(), COUNTS.plus(COUNTS));

    // What is written now comes behind what is there.
    let mutation = Mutation::Update(sample::tcp_service(0, 5).into(), Version(2));
    let batch = Batch {
        mutations: vec![mutation],
        audit: sample::audit("test.later"),
        request: None,
    };
    let committed = store.commit(batch).await.unwrap();
    let last = changes.last().unwrap().sequence;
    assert!(committed.sequence > last);
    assert_eq!(store.changes(last).await.unwrap().len(), 1);
    assert_eq!(store.audit(audit[1].0).await.unwrap().len(), 1);
}

async fn load(path: &Path, dump: &str) {
    let url = format!("sqlite://{}?mode=rwc", path.display());
    let database = Database::connect(url).await.unwrap();
    database.execute_unprepared(dump).await.unwrap();
    database.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_released_sqlite_database_is_brought_up_to_date() {
    for Released {
        schema,
        sqlite,
        records,
        ..
    } in RELEASED
    {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.db");
        load(&path, sqlite).await;
        let old = matches!(SqlStore::visit(&path).await, Err(ConnectError::Older));
        let store = SqlStore::open(&path).await.unwrap();
        check(&store, records()).await;
        store.close().await.unwrap();

        // It was copied as it was, if it was to be changed.
        let copy = directory.path().join(format!("control.db.{schema}"));
        assert_eq!(copy.exists(), old, "{schema}");
        if old {
            assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            assert!(matches!(SqlStore::visit(&copy).await, Err(ConnectError::Older)));
            check(&SqlStore::open(&copy).await.unwrap(), records()).await;
        }
        let partial = directory.path().join(format!("control.db.{schema}.partial"));
        assert!(!partial.exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_released_postgresql_database_is_brought_up_to_date() {
    let Some(server) = Postgres::shared() else { return };
    for released in RELEASED {
        let url = server.database();
        server.sql(&url, released.postgresql);
        let store = SqlStore::connect(&url).await.unwrap();
        check(&store, (released.records)()).await;
    }
}

/// The newest schema is among them, or whoever released it forgot to add it: fill a database of it, and dump it.
#[tokio::test]
async fn a_new_database_is_filled_as_those_were() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqlStore::open(directory.path().join("control.db")).await.unwrap();
    fill(&store, records()).await;
    check(&store, records()).await;
}
