//! Reading and sealing the audit, and leases.

use std::time::Duration;

use super::{at_once, sample};
use crate::{
    audit::{AuditChain, AuditEntry, AuditLink, AuditQuery, AuditRow},
    auth::Principal,
    id::OrganizationId,
    store::{Batch, MAX_PAGE, Mutation, RecordId, Sequence, Store},
    time::Timestamp,
};

async fn deed(store: &dyn Store, audit: AuditEntry) {
    let mutations = Vec::new();
    store
        .commit(Batch {
            mutations,
            audit,
            request: None,
        })
        .await
        .expect("works");
}

async fn rows(store: &dyn Store, query: &AuditQuery) -> Vec<AuditRow> {
    store.audit_rows(query).await.expect("works")
}

/// Entries are found by what they say, from either end, part by part.
pub async fn audit_is_found_by_what_it_is(store: &dyn Store) {
    let at = |millis| Timestamp::from_millis(millis);
    for n in 0..6_u8 {
        let entry = AuditEntry {
            at: at(i64::from(n)),
            actor: (n > 0).then(|| Principal::new("user", format!("u{}", n % 2))),
            organization: (n > 1).then(|| OrganizationId::from_bytes(sample::bytes(n % 2))),
            action: ["a.create", "a.delete", "ab.create"][usize::from(n % 3)].to_owned(),
            ..sample::audit("")
        };
        deed(store, entry).await;
    }
    let all = rows(store, &AuditQuery::default()).await;
    assert_eq!(all.len(), 6);
    assert!(all.iter().all(|row| row.hash.is_none()));
    assert!(all.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
    let newest = AuditQuery {
        newest_first: true,
        ..AuditQuery::default()
    };
    assert!(rows(store, &newest).await.iter().eq(all.iter().rev()));
    let some = AuditQuery::default;
    let queries = [
        AuditQuery {
            actor: Some("u1".to_owned()),
            ..some()
        },
        AuditQuery {
            organization: Some(OrganizationId::from_bytes(sample::bytes(0))),
            ..some()
        },
        AuditQuery {
            action: Some("a.create".to_owned()),
            ..some()
        },
        AuditQuery {
            action: Some("a.".to_owned()),
            ..some()
        },
        AuditQuery {
            action: Some("a_create".to_owned()),
            ..some()
        },
        AuditQuery {
            action: Some("%.".to_owned()),
            ..some()
        },
        AuditQuery {
            subject: sample::audit("").subject,
            ..some()
        },
        AuditQuery {
            subject: Some(sample::agent(0, 1).id.into()),
            ..some()
        },
        AuditQuery {
            from: Some(at(2)),
            to: Some(at(4)),
            ..some()
        },
        AuditQuery {
            after: Some(all[1].sequence),
            newest_first: true,
            ..some()
        },
        AuditQuery {
            after: Some(all[1].sequence),
            from: Some(at(3)),
            ..some()
        },
    ];
    for query in queries {
        let mut expected: Vec<_> = all
            .iter()
            .filter(|row| query.matches(row.sequence, &row.entry))
            .collect();
        if query.newest_first {
            expected.reverse();
        }
        let found = rows(store, &query).await;
        assert!(found.iter().eq(expected), "{query:?}: {found:?}");
    }
    let page = AuditQuery {
        limit: 2,
        after: Some(all[2].sequence),
        ..some()
    };
    assert_eq!(rows(store, &page).await, &all[3..5]);
    assert_eq!(
        AuditQuery {
            limit: MAX_PAGE + 1,
            ..some()
        }
        .page(),
        MAX_PAGE
    );
}

/// Links are added at the head only, and of several who add at once one does.
pub async fn audit_is_sealed_from_its_head(store: &dyn Store) {
    for _ in 0..3 {
        deed(store, sample::audit("test.write")).await;
    }
    assert_eq!(store.audit_chain().await.expect("works"), AuditChain::default());
    let sequences: Vec<Sequence> = rows(store, &AuditQuery::default())
        .await
        .iter()
        .map(|row| row.sequence)
        .collect();
    let link = |at: usize, hash: u8| AuditLink {
        sequence: sequences[at],
        hash: [hash; 32],
    };
    let start = AuditLink::default();
    let first = [link(0, 1), link(1, 2)];
    let outcomes = at_once((0..4).map(|_| store.seal_audit(start, &first))).await;
    let sealed = outcomes
        .into_iter()
        .filter(|outcome| matches!(outcome, Ok(true)))
        .count();
    assert_eq!(sealed, 1);
    // Neither from a head that was, nor what is sealed, nor what is not there.
    assert!(!store.seal_audit(start, &[link(2, 3)]).await.expect("works"));
    assert!(
        store
            .seal_audit(first[1], &[link(2, 3), link(0, 3)])
            .await
            .is_err()
    );
    let nowhere = AuditLink {
        sequence: Sequence(1 << 60),
        hash: [9; 32],
    };
    assert!(store.seal_audit(first[1], &[link(2, 3), nowhere]).await.is_err());
    assert_eq!(store.audit_chain().await.expect("works").head, first[1]);
    assert!(store.seal_audit(first[1], &[link(2, 3)]).await.expect("works"));
    let hashes = rows(store, &AuditQuery::default()).await;
    let hashes: Vec<_> = hashes.iter().map(|row| row.hash).collect();
    assert_eq!(hashes, [Some([1; 32]), Some([2; 32]), Some([3; 32])]);
    let chain = store.audit_chain().await.expect("works");
    assert_eq!((chain.start, chain.head), (start, link(2, 3)));
}

/// The oldest entries go, and the chain begins behind them; only what is sealed can go.
pub async fn audit_is_pruned_from_its_start(store: &dyn Store) {
    for n in 0..4 {
        let audit = sample::audit(&format!("test.{n}"));
        deed(store, audit).await;
    }
    let before = rows(store, &AuditQuery::default()).await;
    let link = |at: usize, byte: u8| AuditLink {
        sequence: before[at].sequence,
        hash: [byte; 32],
    };
    let (start, proof) = (AuditLink::default(), [7; 32]);
    let links = [link(0, 1), link(1, 2), link(2, 3)];
    assert!(store.seal_audit(start, &links).await.expect("works"));
    assert!(store.prune_audit(start, link(1, 9), proof).await.is_err());
    assert!(store.prune_audit(start, link(3, 4), proof).await.is_err());
    assert_eq!(
        rows(store, &AuditQuery::default()).await,
        rows_sealed(&before, &links)
    );
    assert!(store.prune_audit(start, links[1], proof).await.expect("works"));
    assert!(!store.prune_audit(start, links[2], proof).await.expect("works"));
    let chain = store.audit_chain().await.expect("works");
    assert_eq!(
        (chain.start, chain.proof, chain.head),
        (links[1], Some(proof), links[2])
    );
    assert_eq!(
        rows(store, &AuditQuery::default()).await,
        rows_sealed(&before, &links)[2..]
    );
}

fn rows_sealed(rows: &[AuditRow], links: &[AuditLink]) -> Vec<AuditRow> {
    let sealed = rows.iter().enumerate().map(|(at, row)| AuditRow {
        hash: links.get(at).map(|link| link.hash),
        ..row.clone()
    });
    sealed.collect()
}

/// A memo is written by one of those who write it at once, is listed, and goes with its record.
pub async fn a_memo_is_written_from_what_it_was(store: &dyn Store) {
    let (one, two) = (sample::channel(0, 1), sample::channel(0, 2));
    write(store, Mutation::Create(sample::organization(0).into())).await;
    for channel in [&one, &two] {
        write(store, Mutation::Create(channel.clone().into())).await;
    }
    let about = RecordId::from(one.id);
    let memo = async |name: &str| store.memo(about, name).await.expect("works");
    assert_eq!(memo("test").await, None);
    for (from, to) in [(None, "a"), (Some("a"), "b")] {
        let wrote = at_once((0..4).map(|_| store.set_memo(about, "test", from, to))).await;
        let wrote = wrote.into_iter().filter(|wrote| matches!(wrote, Ok(true)));
        assert_eq!(wrote.count(), 1);
        assert_eq!(memo("test").await.as_deref(), Some(to));
    }
    let set =
        async |about: RecordId, name: &str| store.set_memo(about, name, None, "c").await.expect("works");
    assert!(!set(about, "test").await);
    assert!(set(about, "another").await);
    assert!(set(two.id.into(), "test").await);
    let all = store.memos("test", None).await.expect("works");
    assert_eq!(all.len(), 2);
    let rest = store.memos("test", Some(all[0].0)).await.expect("works");
    assert_eq!(rest, all[1..]);
    write(store, Mutation::Delete(about, None)).await;
    assert_eq!((memo("test").await, memo("another").await), (None, None));
    let left = store.memos("test", None).await.expect("works");
    assert_eq!(left, [(two.id.into(), "c".to_owned())]);
}

async fn write(store: &dyn Store, mutation: Mutation) {
    let batch = Batch {
        mutations: vec![mutation],
        audit: sample::audit("test.write"),
        request: None,
    };
    store.commit(batch).await.expect("works");
}

/// Of several who want a lease one has it, until it gives it back or its time is over.
pub async fn a_lease_has_one_holder(store: &dyn Store) {
    let at = |seconds| sample::NOW.after(Duration::from_secs(seconds));
    let hold = async |name: &str, holder: &str, now: u64| {
        store
            .hold_lease(name, holder, at(now), at(now + 10))
            .await
            .expect("works")
    };
    let holders: Vec<String> = (0..8).map(|n| format!("holder {n}")).collect();
    let held = at_once(holders.iter().map(|holder| hold("one", holder, 0))).await;
    assert_eq!(held.iter().filter(|held| **held).count(), 1, "{held:?}");
    assert!(hold("two", "a", 0).await);
    assert!(!hold("two", "b", 9).await);
    assert!(hold("two", "a", 5).await);
    assert!(!hold("two", "b", 14).await);
    assert!(hold("two", "b", 15).await);
    assert!(!hold("two", "a", 16).await);
    store.release_lease("two", "a").await.expect("works");
    assert!(!hold("two", "a", 16).await);
    store.release_lease("two", "b").await.expect("works");
    assert!(hold("two", "a", 16).await);
}
