use std::sync::Arc;

use kakuremichi_core::{
    audit::AuditEntry,
    model::ChannelTarget,
    store::{Batch, MAX_PAGE, MemoryStore, Mutation, Store, conformance::sample},
};
use kakuremichi_tests::Postgres;

use super::{
    super::{AuditFault, sealing::seal_page},
    *,
};
use crate::{service::Wiring, store::SqlStore};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn day(day: u32) -> Timestamp {
    sample::NOW.after(DAY * day)
}

async fn deed(use_cases: &UseCases, at: Timestamp, organization: Option<u8>, mutations: Vec<Mutation>) {
    let audit = AuditEntry {
        at,
        organization: organization.map(|n| OrganizationId::from_bytes(sample::bytes(n))),
        ..sample::audit("test.write")
    };
    let batch = Batch {
        mutations,
        audit,
        request: None,
    };
    use_cases.store().commit(batch).await.unwrap();
}

async fn seal(use_cases: &UseCases) {
    while seal_page(use_cases.store()).await.unwrap() {}
}

async fn kept(use_cases: &UseCases) -> usize {
    let rows = use_cases.store().audit_rows(&AuditQuery::default()).await;
    rows.unwrap().len()
}

/// On each kind of store.
async fn each() -> Vec<(UseCases, Option<tempfile::TempDir>)> {
    let directory = tempfile::tempdir().unwrap();
    let file = SqlStore::open(directory.path().join("control.db")).await.unwrap();
    let mut stores: Vec<(Arc<dyn Store>, _)> = vec![
        (Arc::new(MemoryStore::new()), None),
        (Arc::new(file), Some(directory)),
    ];
    if let Some(server) = Postgres::shared() {
        let store = SqlStore::connect(&server.database()).await.unwrap();
        stores.push((Arc::new(store), None));
    }
    let stores = stores.into_iter();
    stores
        .map(|(store, directory)| (UseCases::new(Wiring::tests(store)), directory))
        .collect()
}

#[tokio::test]
async fn what_is_left_still_verifies() {
    for (use_cases, _directory) in each().await {
        for n in 0..10 {
            deed(&use_cases, day(n), None, Vec::new()).await;
        }
        let early = {
            seal(&use_cases).await;
            use_cases.verify_audit(None).await.unwrap().unwrap().head
        };
        for n in 10..12 {
            deed(&use_cases, day(n), None, Vec::new()).await;
        }
        // What is not sealed stays, however old it is.
        assert_eq!(use_cases.prune_page(DAY, day(100)).await.unwrap(), 10);
        assert_eq!(kept(&use_cases).await, 2);
        seal(&use_cases).await;
        let verified = use_cases.verify_audit(Some(early)).await.unwrap().unwrap();
        assert_eq!((verified.sealed, verified.start), (2, early));
        assert_eq!(use_cases.prune_page(DAY, day(11)).await.unwrap(), 1);
        assert_eq!(use_cases.prune_page(DAY, day(11)).await.unwrap(), 0);
        let verified = use_cases
            .verify_audit(Some(verified.head))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(verified.sealed, 1);
        // A head from before cannot be looked for any more.
        let outcome = use_cases.verify_audit(Some(early)).await.unwrap();
        assert_eq!(
            outcome,
            Err(AuditFault::Pruned {
                pin: early.sequence,
                start: verified.start.sequence
            })
        );
    }
}

/// Who can write to the database cuts the chain, and moves its start.
#[tokio::test]
async fn a_start_that_control_did_not_make_is_seen() {
    for (use_cases, _directory) in each().await {
        for n in 0..4 {
            deed(&use_cases, day(n), None, Vec::new()).await;
        }
        seal(&use_cases).await;
        let rows = use_cases
            .store()
            .audit_rows(&AuditQuery::default())
            .await
            .unwrap();
        let to = AuditLink {
            sequence: rows[1].sequence,
            hash: rows[1].hash.unwrap(),
        };
        let forged = use_cases.store().prune_audit(AuditLink::default(), to, [7; 32]);
        assert!(forged.await.unwrap());
        let outcome = use_cases.verify_audit(None).await.unwrap();
        assert_eq!(outcome, Err(AuditFault::Start(to.sequence)));
    }
}

#[tokio::test]
async fn a_page_is_pruned_at_a_time() {
    let use_cases = UseCases::new(Wiring::tests(Arc::new(MemoryStore::new())));
    for _ in 0..MAX_PAGE + 20 {
        deed(&use_cases, day(0), None, Vec::new()).await;
    }
    seal(&use_cases).await;
    let mut pages = Vec::new();
    for _ in 0..3 {
        pages.push(use_cases.prune_page(DAY, day(2)).await.unwrap());
    }
    assert_eq!(pages, [MAX_PAGE, 20, 0]);
}

/// What a stream has not delivered stays for longer, but not for ever.
#[tokio::test]
async fn a_stream_holds_what_it_has_not_delivered() {
    for (use_cases, _directory) in each().await {
        let mut stream = sample::channel(0, 1);
        stream.events = Vec::new();
        assert!(matches!(stream.target, ChannelTarget::Webhook { .. }));
        let make = vec![
            Mutation::Create(sample::organization(0).into()),
            Mutation::Create(stream.clone().into()),
        ];
        deed(&use_cases, day(0), Some(1), make).await;
        for n in 0..4 {
            deed(&use_cases, day(n), Some(0), Vec::new()).await;
        }
        seal(&use_cases).await;
        // The entry of another organization goes.
        assert_eq!(use_cases.prune_page(DAY, day(10)).await.unwrap(), 1);
        let rows = use_cases
            .store()
            .audit_rows(&AuditQuery::default())
            .await
            .unwrap();
        channels::stand_at(use_cases.store(), stream.id, rows[1].sequence).await;
        assert_eq!(use_cases.prune_page(DAY, day(10)).await.unwrap(), 2);
        assert_eq!(use_cases.prune_page(DAY, day(10)).await.unwrap(), 0);
        assert_eq!(use_cases.prune_page(DAY, day(33)).await.unwrap(), 1);
        assert_eq!(kept(&use_cases).await, 1);
    }
}
