//! Backups, and what a Control is after it was restored: the same, on whichever database.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use kakuremichi_control::{
    backup::{self, File, OpenError, RestoreError},
    store::SqlStore,
};
use kakuremichi_core::{
    audit::AuditEntry,
    net::Overlay,
    secret::Secret,
    store::{
        Batch, Mutation, Query, RecordKind, Sequence, Store, StoreRecord, Stored, UsageCounts, UsageEntry,
        UsageReport, Version, conformance::sample,
    },
};
use kakuremichi_tests::Postgres;
use tempfile::TempDir;

async fn sqlite() -> (SqlStore, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let store = SqlStore::open(directory.path().join("control.db")).await.unwrap();
    (store, directory)
}

async fn postgres() -> Option<SqlStore> {
    let url = Postgres::shared()?.database();
    Some(SqlStore::connect(&url).await.unwrap())
}

fn passphrase(text: &str) -> Secret<String> {
    Secret::new(text.to_owned())
}

fn batch(mutations: Vec<Mutation>) -> Batch {
    let audit = sample::audit("test.write");
    Batch {
        mutations,
        audit,
        request: None,
    }
}

fn counted(requests: u64) -> UsageCounts {
    UsageCounts {
        requests,
        ..UsageCounts::default()
    }
}

async fn fill(store: &SqlStore) {
    store.overlay(Overlay::from_global_id([7; 5])).await.unwrap();
    let records: [StoreRecord; 8] = [
        sample::organization(0).into(),
        sample::agent(0, 1).into(),
        sample::gateway(0, 2).into(),
        sample::site(0, 3).into(),
        sample::http_service(0, 4).into(),
        sample::tcp_service(0, 5).into(),
        sample::token(0, 6).into(),
        sample::api_key(0, 7).into(),
    ];
    store
        .commit(batch(records.map(Mutation::Create).to_vec()))
        .await
        .unwrap();
    for version in 1..4 {
        let update = Mutation::Update(sample::tcp_service(0, 5).into(), Version(version));
        store.commit(batch(vec![update])).await.unwrap();
    }
    let entry = UsageEntry {
        service: sample::http_service(0, 4).id,
        counts: counted(5),
    };
    for epoch in [1, u64::MAX] {
        let report = UsageReport { epoch, sequence: 3 };
        store
            .record_usage(&sample::usage(sample::gateway(0, 2).id, report, &[entry]))
            .await
            .unwrap();
    }
}

/// Everything that can be read of a store, but for where its change feed is.
#[derive(Debug, PartialEq)]
struct Everything {
    overlay: Overlay,
    records: Vec<Stored<StoreRecord>>,
    audit: Vec<(Sequence, AuditEntry)>,
    totals: Vec<UsageCounts>,
}

async fn everything(store: &SqlStore) -> Everything {
    let mut records = Vec::new();
    for kind in RecordKind::ALL {
        records.extend(store.list(Query::all(*kind)).await.unwrap().records);
    }
    for stored in &records {
        for key in stored.value.unique_keys() {
            assert_eq!(store.find(&key).await.unwrap().as_ref(), Some(stored));
        }
    }
    let mut totals = Vec::new();
    for service in [sample::http_service(0, 4).id, sample::tcp_service(0, 5).id] {
        totals.push(store.usage_totals(service).await.unwrap());
    }
    Everything {
        overlay: store.overlay(Overlay::from_global_id([0; 5])).await.unwrap(),
        records,
        audit: store.audit(Sequence::START).await.unwrap(),
        totals,
    }
}

async fn last_change(store: &SqlStore) -> Sequence {
    store
        .changes(Sequence::START)
        .await
        .unwrap()
        .last()
        .unwrap()
        .sequence
}

fn files() -> Vec<File> {
    // More than one chunk.
    let long = (0..200_000_u32)
        .map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1])
        .collect();
    [("identity.p8", vec![1, 2, 3]), ("long", long)]
        .map(|(name, contents)| File {
            name: name.to_owned(),
            contents: Secret::new(contents),
        })
        .to_vec()
}

async fn backed_up(store: &SqlStore) -> Vec<u8> {
    let mut made = Vec::new();
    backup::write(store, &files(), &passphrase("correct horse"), &mut made)
        .await
        .unwrap();
    made
}

/// Restores what is in `from` into `to`, and checks that nothing differs, and that work goes on.
async fn moves(from: &SqlStore, to: &mut SqlStore) {
    let before = everything(from).await;
    let made = backed_up(from).await;
    let restored = backup::restore(to, &passphrase("correct horse"), false, made.as_slice())
        .await
        .unwrap();
    assert_eq!(restored.len(), 2);
    for (restored, file) in restored.iter().zip(files()) {
        assert_eq!(
            (&restored.name, restored.contents.expose()),
            (&file.name, file.contents.expose())
        );
    }
    assert_eq!(everything(to).await, before);
    // Plans that nodes have seen have smaller numbers than those to come, also what they saw since the backup.
    let seen = last_change(from).await;
    let later = batch(vec![Mutation::Update(
        sample::tcp_service(0, 5).into(),
        Version(4),
    )]);
    let committed = to.commit(later).await.unwrap().sequence;
    assert!(committed.0 > seen.0 + 1_000_000);
    assert_eq!(last_change(to).await, committed);
    let audit = to.audit(before.audit.last().unwrap().0).await.unwrap();
    assert_eq!(audit.len(), 1, "its number is behind those of before");
    // A report that was recorded is known.
    let entry = UsageEntry {
        service: sample::http_service(0, 4).id,
        counts: counted(5),
    };
    for (epoch, sequence) in [(1, 3), (u64::MAX, 3), (1, 4)] {
        let report = UsageReport { epoch, sequence };
        to.record_usage(&sample::usage(sample::gateway(0, 2).id, report, &[entry]))
            .await
            .unwrap();
    }
    assert_eq!(
        to.usage_totals(sample::http_service(0, 4).id).await.unwrap(),
        counted(15)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_moves_from_sqlite_to_postgresql() {
    let (from, _directory) = sqlite().await;
    fill(&from).await;
    let Some(mut to) = postgres().await else { return };
    moves(&from, &mut to).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_moves_from_postgresql_to_sqlite() {
    let Some(from) = postgres().await else { return };
    fill(&from).await;
    let (mut to, _directory) = sqlite().await;
    moves(&from, &mut to).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_in_use_is_replaced_only_when_told() {
    let (from, _directory) = sqlite().await;
    fill(&from).await;
    let made = backed_up(&from).await;
    let (one, _directory) = sqlite().await;
    for mut to in [Some(one), postgres().await].into_iter().flatten() {
        to.commit(batch(vec![Mutation::Create(sample::organization(9).into())]))
            .await
            .unwrap();
        let seen = last_change(&to).await;
        let before = everything(&to).await;
        let refused = backup::restore(&mut to, &passphrase("correct horse"), false, made.as_slice()).await;
        assert!(matches!(refused, Err(RestoreError::NotEmpty)));
        // One that fails in the midst of it has changed nothing either.
        let cut = &made[..made.len() - 1];
        let refused = backup::restore(&mut to, &passphrase("correct horse"), true, cut).await;
        assert!(matches!(refused, Err(RestoreError::Open(OpenError::Truncated))));
        assert_eq!(everything(&to).await, before);
        backup::restore(&mut to, &passphrase("correct horse"), true, made.as_slice())
            .await
            .unwrap();
        assert_eq!(everything(&to).await, everything(&from).await);
        assert!(last_change(&to).await > seen);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_the_whole_backup_is_told_apart() {
    let (from, _directory) = sqlite().await;
    fill(&from).await;
    let made = backed_up(&from).await;
    let (mut to, _directory) = sqlite().await;
    let wrong = backup::restore(&mut to, &passphrase("correct mule"), false, made.as_slice()).await;
    assert!(
        matches!(wrong, Err(RestoreError::Open(OpenError::WrongPassphrase))),
        "{wrong:?}"
    );
    let mut open =
        async |bytes: &[u8]| match backup::restore(&mut to, &passphrase("correct horse"), false, bytes).await
        {
            Err(RestoreError::Open(error)) => error,
            other => panic!("a backup that is not whole was opened: {other:?}"),
        };
    let chunk = 64 * 1024 + 16;
    for end in [30, 80, 80 + chunk - 1, 80 + chunk, 80 + chunk + 1, made.len() - 1] {
        let error = open(&made[..end]).await;
        assert!(matches!(error, OpenError::Truncated), "{end}: {error:?}");
    }
    assert!(matches!(open(b"SQLite format 3").await, OpenError::NotABackup));
    assert!(matches!(open(b"").await, OpenError::NotABackup));
    let mut damaged = made.clone();
    damaged[100] ^= 1;
    assert!(matches!(open(&damaged).await, OpenError::Damaged));
    // Chunks in another order, and one left out.
    let (header, chunks) = made.split_at(80);
    let moved = [
        header,
        &chunks[chunk..2 * chunk],
        &chunks[..chunk],
        &chunks[2 * chunk..],
    ]
    .concat();
    assert!(matches!(open(&moved).await, OpenError::Damaged));
    let fewer = [header, &chunks[chunk..]].concat();
    assert!(matches!(open(&fewer).await, OpenError::Damaged));
    let mut longer = made.clone();
    longer.push(0);
    assert!(matches!(
        open(&longer).await,
        OpenError::Truncated | OpenError::Damaged
    ));
    // A passphrase that costs more than it may is not tried.
    let mut costly = made.clone();
    costly[20..24].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(matches!(open(&costly).await, OpenError::Damaged));
    // Nothing of it lies open.
    assert!(
        !made
            .windows(8)
            .any(|part| part == b"identity" || part == b"test.wri")
    );
    let nobody = backup::write(&from, &[], &passphrase(""), Vec::new()).await;
    assert!(nobody.is_err());
}
