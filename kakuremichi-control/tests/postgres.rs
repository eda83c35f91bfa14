//! What only a database with many writers can get wrong.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{slice, sync::Arc, time::Duration};

use kakuremichi_control::{
    Control, identity_key,
    service::UseCaseError,
    store::{ConnectError, SqlStore},
};
use kakuremichi_core::{
    id::{OrganizationId, ServiceId},
    key::{IdentityKey, WireGuardKey},
    model::{EnrolmentToken, Node, Organization, Role},
    net::Overlay,
    store::{
        Batch, Change, CommitError, MAX_FEED, Mutation, Question, RecordId, Sequence, Sighting, Store,
        StoreRecord, UsageCounts, UsageEntry, UsageReport, Version, conformance::sample,
    },
    time::Timestamp,
};
use kakuremichi_proto::session::RotateRequest;
use kakuremichi_tests::{Postgres, TestCa, component};
use sqlx::{Connection, PgConnection};
use tokio::time::timeout;

/// More than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn batch(mutations: impl IntoIterator<Item = Mutation>) -> Batch {
    Batch {
        mutations: mutations.into_iter().collect(),
        audit: sample::audit("test.write"),
        request: None,
    }
}

fn create(record: impl Into<StoreRecord>) -> Batch {
    batch([Mutation::Create(record.into())])
}

/// Writes a row of the change feed the way that the store does.
async fn write_change(connection: &mut PgConnection, record: RecordId) {
    sqlx::query(
        "INSERT INTO change (sequence, record, organization)
         VALUES (pg_current_xact_id()::text::bigint << 20, $1, $2)",
    )
    .bind(record.to_string())
    .bind(sample::bytes(0).as_slice())
    .execute(connection)
    .await
    .unwrap();
}

fn records(changes: &[Change]) -> Vec<RecordId> {
    changes.iter().map(|change| change.record).collect()
}

/// DESIGN section 8: the change feed is read below the snapshot's xmin, since transactions end in another order than they
/// begin.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_that_end_out_of_order_lose_and_repeat_nothing() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let store = SqlStore::connect(&url).await.unwrap();
    let start = store
        .commit(create(sample::organization(0)))
        .await
        .unwrap()
        .sequence;
    let mut early = PgConnection::connect(&url).await.unwrap();
    let mut late = PgConnection::connect(&url).await.unwrap();
    let (one, two, three): (RecordId, RecordId, RecordId) = (
        sample::agent(0, 1).id.into(),
        sample::agent(0, 2).id.into(),
        sample::agent(0, 3).id.into(),
    );

    // The first to begin is the last to end, and writes its row when the other's is there already.
    let mut first = early.begin().await.unwrap();
    sqlx::query("SELECT pg_current_xact_id()")
        .execute(&mut *first)
        .await
        .unwrap();
    let mut second = late.begin().await.unwrap();
    write_change(&mut second, two).await;
    second.commit().await.unwrap();
    store.commit(create(sample::agent(0, 3))).await.unwrap();
    assert_eq!(
        store.changes(start).await.unwrap(),
        [],
        "the first could still come before"
    );
    // Whoever starts now starts in front of what is still to come.
    let marked = store.commit(batch([])).await.unwrap().sequence;
    assert_eq!(marked, start);
    write_change(&mut first, one).await;
    first.commit().await.unwrap();
    let changes = store.changes(start).await.unwrap();
    assert_eq!(records(&changes), [one, two, three]);
    assert!(changes.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));

    // Read in pieces it is the same, and one that is given up leaves nothing.
    let mut first = early.begin().await.unwrap();
    write_change(&mut first, one).await;
    let mut second = late.begin().await.unwrap();
    write_change(&mut second, two).await;
    second.commit().await.unwrap();
    let place = changes.last().unwrap().sequence;
    assert_eq!(store.changes(place).await.unwrap(), []);
    first.rollback().await.unwrap();
    let rest = store.changes(place).await.unwrap();
    assert_eq!(records(&rest), [two]);
    assert_eq!(store.changes(rest[0].sequence).await.unwrap(), []);
}

/// A job that runs for hours in another database of the server keeps nothing from the nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_of_other_databases_hold_nothing_back() {
    let Some(server) = Postgres::shared() else { return };
    let store = SqlStore::connect(&server.database()).await.unwrap();
    let mut other = PgConnection::connect(&server.database()).await.unwrap();
    let mut job = other.begin().await.unwrap();
    sqlx::query("SELECT pg_current_xact_id()")
        .execute(&mut *job)
        .await
        .unwrap();
    let committed = store.commit(create(sample::organization(0))).await.unwrap();
    let changes = store.changes(Sequence::START).await.unwrap();
    assert_eq!(records(&changes), [sample::organization(0).id.into()]);
    assert_eq!(store.commit(batch([])).await.unwrap(), committed);
    assert_eq!(store.audit(Sequence::START).await.unwrap().len(), 2);
    job.rollback().await.unwrap();
}

/// Another server counts its transactions anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_go_on_when_the_database_moves_to_another_server() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let store = SqlStore::connect(&url).await.unwrap();
    store.commit(create(sample::organization(0))).await.unwrap();
    store.close().await.unwrap();
    let far = 1_u64 << 50;
    server.sql(&url, &format!("UPDATE change SET sequence = {far}"));
    let store = SqlStore::connect(&url).await.unwrap();
    assert_eq!(store.changes(Sequence::START).await.unwrap().len(), 1);
    let beside = SqlStore::connect(&url).await.unwrap();
    let committed = store.commit(create(sample::agent(0, 1))).await.unwrap();
    assert!(committed.sequence > Sequence(far));
    let later = beside.commit(create(sample::agent(0, 2))).await.unwrap();
    assert!(later.sequence > committed.sequence);
    assert_eq!(beside.changes(Sequence(far)).await.unwrap().len(), 2);
}

/// The feed has a bound, though the numbers of transactions have gaps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_changes_are_forgotten() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let store = SqlStore::connect(&url).await.unwrap();
    let mut last = store.commit(create(sample::organization(0))).await.unwrap();
    let rows = MAX_FEED + 50;
    let insert = format!(
        "INSERT INTO change SELECT number, record, organization FROM change, generate_series(1, {rows}) AS number"
    );
    server.sql(&url, &insert);
    // It happens at one of 64 transactions, and others use up some.
    for version in 1..10_000 {
        let update = Mutation::Update(sample::organization(0).into(), Version(version));
        last = store.commit(batch([update])).await.unwrap();
        let count = server.sql(&url, "SELECT count(*) FROM change");
        if count.trim().parse::<usize>().unwrap() <= MAX_FEED {
            break;
        }
    }
    let oldest = store.changes(Sequence::START).await.unwrap()[0].sequence;
    assert!(oldest > Sequence(50), "{oldest:?}");
    assert_eq!(store.changes(last.sequence).await.unwrap(), []);
}

/// Several instances write at once: each outcome is as if they had written one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_do_not_come_in_each_others_way() {
    const WRITERS: u8 = 8;
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let stores = tokio::join!(SqlStore::connect(&url), SqlStore::connect(&url));
    let stores = [Arc::new(stores.0.unwrap()), Arc::new(stores.1.unwrap())];
    let store = |n: u8| Arc::clone(&stores[usize::from(n % 2)]);
    let overlays = tokio::join!(
        stores[0].overlay(Overlay::from_global_id([1; 5])),
        stores[1].overlay(Overlay::from_global_id([2; 5]))
    );
    assert_eq!(overlays.0.unwrap(), overlays.1.unwrap());

    let token = EnrolmentToken {
        uses_left: Some(3),
        ..sample::token(0, 1)
    };
    let token_id = token.id;
    let mutations = [sample::organization(0).into(), token.into()].map(Mutation::Create);
    let start = stores[0].commit(batch(mutations)).await.unwrap().sequence;

    let tasks = (0..WRITERS).map(|n| {
        let store = store(n);
        tokio::spawn(async move {
            let mut updated = 0;
            // A counter in a record, by optimistic concurrency.
            while updated < 5 {
                let id = sample::organization(0).id.into();
                let old = store.get(id).await.unwrap().unwrap();
                let value = Organization {
                    name: format!("name-{n}-{updated}").parse().unwrap(),
                    ..sample::organization(0)
                };
                match store
                    .commit(batch([Mutation::Update(value.into(), old.version)]))
                    .await
                {
                    Ok(_) => updated += 1,
                    Err(CommitError::Stale(_)) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
            // The same report through whichever instance: it counts once.
            let counts = UsageCounts {
                requests: 1,
                ..UsageCounts::default()
            };
            let service = ServiceId::from_bytes(sample::bytes(1));
            let other = ServiceId::from_bytes(sample::bytes(2));
            for sequence in 1..=5 {
                let report = UsageReport { epoch: 1, sequence };
                let entries = if n % 2 == 0 {
                    [service, other]
                } else {
                    [other, service]
                };
                let entries = entries.map(|service| UsageEntry { service, counts });
                store
                    .record_usage(&sample::usage(sample::gateway(0, n / 2).id, report, &entries))
                    .await
                    .unwrap();
            }
            // The same value and the same use, each for one of them.
            let mut service = sample::tcp_service(0, n + 1);
            service.kind = sample::tcp_service(0, 1).kind;
            let won = match store.commit(create(service)).await {
                Ok(_) => 1,
                Err(CommitError::Taken { .. }) => 0,
                Err(error) => panic!("{error:?}"),
            };
            let consume = Mutation::ConsumeToken {
                token: token_id,
                role: Role::Agent,
                now: sample::NOW,
            };
            let consumed = match store.commit(batch([consume])).await {
                Ok(_) => 1,
                Err(CommitError::Token(_)) => 0,
                Err(error) => panic!("{error:?}"),
            };
            (won, consumed)
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let (mut won, mut consumed) = (0, 0);
    for task in tasks {
        let outcome = timeout(PATIENCE, task).await.unwrap().unwrap();
        won += outcome.0;
        consumed += outcome.1;
    }
    assert_eq!((won, consumed), (1, 3));
    let updates = u64::from(WRITERS) * 5;
    let organization = stores[0]
        .get(sample::organization(0).id.into())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(organization.version.0, 1 + updates);
    for n in [1, 2] {
        let total = stores[1]
            .usage_totals(ServiceId::from_bytes(sample::bytes(n)))
            .await
            .unwrap();
        assert_eq!(
            total.requests,
            u64::from(WRITERS / 2) * 5,
            "each node's five reports"
        );
    }
    let changes = stores[1].changes(start).await.unwrap();
    assert_eq!(changes.len() as u64, updates + 1 + 3);
    assert!(changes.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
    let ours =
        |change: &&Change| change.record == RecordId::from(OrganizationId::from_bytes(sample::bytes(0)));
    assert_eq!(changes.iter().filter(ours).count() as u64, updates);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_start_at_once_do_not_collide() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let starting: Vec<_> = (0..4)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { SqlStore::connect(&url).await })
        })
        .collect();
    for started in starting {
        timeout(PATIENCE, started).await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_instance_is_woken() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let writer = SqlStore::connect(&url).await.unwrap();
    let reader = SqlStore::connect(&url).await.unwrap();
    let first = writer.commit(create(sample::organization(0))).await.unwrap();
    // What was there before anybody listened counts too.
    timeout(PATIENCE, reader.wake(Sequence::START)).await.unwrap();
    let waiting = tokio::spawn({
        let reader = reader.clone();
        async move { reader.wake(first.sequence).await }
    });
    assert!(!waiting.is_finished());
    writer.commit(create(sample::agent(0, 1))).await.unwrap();
    timeout(PATIENCE, waiting).await.unwrap().unwrap();
    reader.close().await.unwrap();
    assert!(
        reader.changes(Sequence::START).await.is_err(),
        "it is closed, and the listener too"
    );
}

/// LESSONS: "upgrade fails, control plane will not start".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_schema_is_refused() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    SqlStore::connect(&url).await.unwrap().close().await.unwrap();
    server.sql(
        &url,
        "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m9999_future', 0)",
    );
    for outcome in [SqlStore::connect(&url).await, SqlStore::visit_url(&url).await] {
        assert!(matches!(outcome, Err(ConnectError::Newer { migration }) if migration == "m9999_future"));
    }
    server.sql(&url, "DELETE FROM seaql_migrations");
    assert!(matches!(
        SqlStore::visit_url(&url).await,
        Err(ConnectError::Older)
    ));
}

/// An error about a URL does not repeat its password.
#[tokio::test]
async fn a_server_that_is_not_there_is_said_without_the_password() {
    let directory = tempfile::tempdir().unwrap();
    for url in [
        format!(
            "postgres://me:hunter2@localhost/db?host={}",
            directory.path().display()
        ),
        "postgres://me:hunter2@localhost:port/db".to_owned(),
        "postgresq://me:hunter2@localhost/db".to_owned(),
    ] {
        let error = SqlStore::connect(&url).await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
}

/// LESSONS: "stuck tunnels": who listens goes on listening after the server was away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_listens_hears_again_after_the_server_was_restarted() {
    if !component::have(&[component::POSTGRESQL]) {
        return;
    }
    let mut server = Postgres::start();
    let url = server.database();
    let (one, other) = (
        SqlStore::connect(&url).await.unwrap(),
        SqlStore::connect(&url).await.unwrap(),
    );
    let first = one.commit(create(sample::organization(0))).await.unwrap();
    timeout(PATIENCE, other.wake(Sequence::START)).await.unwrap();

    let mut server = tokio::task::spawn_blocking(move || {
        server.kill();
        server.start_again();
        server
    })
    .await
    .unwrap();
    // Whoever writes has to find out that its connections are gone.
    let second = loop {
        match one.commit(create(sample::organization(1))).await {
            Ok(committed) => break committed,
            Err(CommitError::Exists(_)) => break first,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    timeout(PATIENCE, other.wake(first.sequence)).await.unwrap();
    // And it is a notice that is heard now, not only the look after the connection was made anew.
    let heard = other.wake(second.sequence.max(first.sequence));
    let (heard, third) = tokio::join!(
        timeout(PATIENCE, heard),
        one.commit(create(sample::organization(2)))
    );
    heard.unwrap();
    third.unwrap();
    one.close().await.unwrap();
    other.close().await.unwrap();
    tokio::task::spawn_blocking(move || server.kill()).await.unwrap();
}

/// What crosses a network to the database is encrypted, by a certificate that is verified.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_certificate_is_verified() {
    if !component::have(&[component::POSTGRESQL]) {
        return;
    }
    let authority = TestCa::new("database");
    let server = Postgres::start_with_tls(&authority.issue(&["localhost"]));
    let directory = tempfile::tempdir().unwrap();
    let roots = |name: &str, authority: &TestCa| {
        let path = directory.path().join(name);
        std::fs::write(&path, authority.pem()).unwrap();
        path
    };
    let connect = async |host: &str, mode: &str, roots: &std::path::Path| {
        let roots = roots.display();
        let options = format!("sslmode={mode}&sslrootcert={roots}");
        let url = server.tcp_url("postgres", host, &options);
        SqlStore::connect(&url).await
    };
    let (right, wrong) = (
        roots("right", &authority),
        roots("wrong", &TestCa::new("another")),
    );
    let store = connect("localhost", "verify-full", &right).await.unwrap();
    store.commit(create(sample::organization(0))).await.unwrap();
    let encrypted = server.sql("postgres", "SELECT count(*) FROM pg_stat_ssl WHERE ssl");
    assert_ne!(encrypted.trim(), "0");
    store.close().await.unwrap();
    // Another authority, and another name than the certificate's.
    for (host, roots) in [("localhost", &wrong), ("127.0.0.1", &right)] {
        let refused = connect(host, "verify-full", roots).await;
        assert!(matches!(refused, Err(ConnectError::Postgres(_))), "{host}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_session_counts_and_a_silent_instance_has_none() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let store = SqlStore::connect(&url).await.unwrap();
    let (one, other) = ([1; 16], [2; 16]);
    let node = sample::agent(0, 1).id;
    let seen = |session, connected: Option<i64>, disconnected: Option<i64>| Sighting {
        node,
        session,
        connected: connected.map(Timestamp::from_millis),
        disconnected: disconnected.map(Timestamp::from_millis),
    };
    let told_to = async |instance: &[u8; 16]| store.sightings(instance, &[node]).await.unwrap();
    store.announce(&one, &[seen(5, Some(100), None)]).await.unwrap();
    assert_eq!(told_to(&other).await, [seen(5, Some(100), None)]);
    assert_eq!(told_to(&one).await, [], "an instance knows its own");
    // The end of an older session, which another instance had, is no news.
    store.announce(&other, &[seen(4, None, Some(90))]).await.unwrap();
    assert_eq!(told_to(&other).await, [seen(5, Some(100), None)]);

    server.sql(&url, "UPDATE instance SET seen = seen - interval '1 minute'");
    let silent = told_to(&other).await;
    assert!(silent[0].connected.is_none() && silent[0].disconnected.is_some());

    store.announce(&other, &[seen(6, Some(200), None)]).await.unwrap();
    assert_eq!(told_to(&one).await, [seen(6, Some(200), None)]);
    store.announce(&other, &[seen(6, None, Some(300))]).await.unwrap();
    assert_eq!(told_to(&one).await, [seen(6, None, Some(300))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_reaches_every_other_instance_once() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let store = SqlStore::connect(&url).await.unwrap();
    let (one, other) = ([1; 16], [2; 16]);
    let question = Question {
        id: [7; 16],
        text: "where?".to_owned(),
    };
    store.announce(&one, &[]).await.unwrap();
    assert_eq!(
        store.ask(&one, &question).await.unwrap(),
        0,
        "there is nobody else"
    );
    store.announce(&other, &[]).await.unwrap();
    assert_eq!(store.ask(&one, &question).await.unwrap(), 1);
    assert_eq!(store.questions(&other).await.unwrap(), slice::from_ref(&question));
    assert_eq!(store.answers(question.id).await.unwrap(), [""; 0]);
    for _ in 0..2 {
        store.answer(&other, question.id, "here").await.unwrap();
    }
    assert_eq!(store.answers(question.id).await.unwrap(), ["here"]);
    // Nobody is asked twice, and who asked is not asked.
    for instance in [&one, &other] {
        let asked = timeout(Duration::from_secs(1), store.questions(instance)).await;
        assert!(asked.is_err(), "{asked:?}");
    }

    // LESSONS: every table has a bound. What is old goes when somebody asks again.
    server.sql(&url, "UPDATE question SET asked = asked - interval '2 minutes'");
    let next = Question {
        id: [8; 16],
        ..question.clone()
    };
    store.ask(&one, &next).await.unwrap();
    assert_eq!(store.questions(&other).await.unwrap(), [next]);
    store.answer(&other, question.id, "late").await.unwrap();
    assert_eq!(store.answers(question.id).await.unwrap(), [""; 0]);
}

/// A node that was connected to one instance is connected to another one, and both ask for it. Of two proposals that come
/// at once one counts, whichever it is, and the other one is told that it comes from keys of before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_rotations_at_two_instances_one_counts() {
    const ROUNDS: u8 = 8;
    let Some(server) = Postgres::shared() else { return };
    let (url, key) = (server.database(), identity_key().unwrap());
    let mut instances = Vec::new();
    for _ in 0..2 {
        let store = SqlStore::connect(&url).await.unwrap();
        let builder = Control::builder(store).public_url("https://control.example.net");
        instances.push(builder.identity(key.expose()).build().unwrap());
    }
    let store = SqlStore::connect(&url).await.unwrap();
    store.commit(create(sample::organization(0))).await.unwrap();
    let id = sample::agent(0, 1).id;
    store.commit(create(sample::agent(0, 1))).await.unwrap();
    let read = async || {
        let found = store.get(id.into()).await.unwrap().unwrap();
        found.narrow::<Node>().unwrap().value
    };
    for round in 0..ROUNDS {
        let before = read().await;
        let proposed = [0, 1].map(|instance| RotateRequest {
            old: before.identity,
            new: IdentityKey::from_bytes([100 + 2 * round + instance; 32]),
            wireguard: WireGuardKey::from_bytes([100 + 2 * round + instance; 32]),
        });
        let [one, two] = [0, 1].map(|instance: usize| {
            let use_cases = instances[instance].use_cases().clone();
            let request = proposed[instance];
            tokio::spawn(async move { use_cases.rotate_keys(id, &request).await })
        });
        let answers = [one.await.unwrap(), two.await.unwrap()];
        let winners: Vec<usize> = (0..2).filter(|instance| answers[*instance].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        let winner = winners[0];
        assert!(
            matches!(answers[1 - winner], Err(UseCaseError::PreviousKeys)),
            "{answers:?}"
        );
        let after = read().await;
        assert_eq!(
            (after.identity, after.wireguard),
            (proposed[winner].new, proposed[winner].wireguard)
        );
        let previous = after.rotation.previous.unwrap();
        assert_eq!(
            (previous.identity, previous.wireguard),
            (before.identity, before.wireguard)
        );
    }
}
