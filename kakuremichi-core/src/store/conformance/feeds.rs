//! The change feed and the audit.

use super::{at_once, batch, create, sample};
use crate::{
    model::Role,
    store::{Batch, CommitError, Mutation, Sequence, Store, Version},
};

/// Each mutation has a row, in order; a commit returns its last one.
pub async fn changes_are_fed_in_order(store: &dyn Store) {
    assert_eq!(store.changes(Sequence::START).await.expect("works"), []);
    let first = create(
        store,
        [
            sample::organization(0).into(),
            sample::organization(1).into(),
            sample::agent(1, 1).into(),
        ],
    )
    .await;
    let second = create(store, [sample::token(0, 1).into()]).await;
    let node = sample::agent(1, 1);
    let third = store
        .commit(batch([
            Mutation::Update(node.clone().into(), Version(1)),
            Mutation::ConsumeToken {
                token: sample::token(0, 1).id,
                role: Role::Agent,
                now: sample::NOW,
            },
            Mutation::Delete(node.id.into(), None),
        ]))
        .await
        .expect("works");
    let changes = store.changes(Sequence::START).await.expect("works");
    let rows: Vec<_> = changes.iter().map(|row| (row.record, row.organization)).collect();
    let (zero, one) = (sample::organization(0).id, sample::organization(1).id);
    let token = sample::token(0, 1).id.into();
    assert_eq!(
        rows,
        [
            (zero.into(), Some(zero)),
            (one.into(), Some(one)),
            (node.id.into(), Some(one)),
            (token, Some(zero)),
            (node.id.into(), Some(one)),
            (token, Some(zero)),
            (node.id.into(), Some(one)),
        ]
    );
    assert!(changes.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
    assert!(changes[0].sequence > Sequence::START);
    assert_eq!(
        [changes[2].sequence, changes[3].sequence, changes[6].sequence],
        [first.sequence, second.sequence, third.sequence]
    );
    let rest = store.changes(first.sequence).await.expect("works");
    assert_eq!(rest, &changes[3..]);
    assert_eq!(store.changes(third.sequence).await.expect("works"), []);

    // A deed that changes nothing has no row, and the last one is still the last.
    let nothing = store.commit(batch([])).await.expect("works");
    assert_eq!(nothing, third);
    assert_eq!(store.changes(third.sequence).await.expect("works"), []);
}

/// Each batch has its entry, in order and unchanged.
pub async fn audit_is_kept_in_order(store: &dyn Store) {
    create(store, [sample::organization(0).into()]).await;
    let mut bare = sample::audit("control.start");
    (bare.actor, bare.organization, bare.subject) = (None, None, None);
    let entries = [
        sample::audit("one.do \"quoted\" 悪"),
        bare,
        sample::audit("two.do"),
    ];
    for audit in entries.clone() {
        let batch = Batch {
            mutations: Vec::new(),
            audit,
            request: None,
        };
        store.commit(batch).await.expect("works");
    }
    let kept = store.audit(Sequence::START).await.expect("works");
    assert_eq!(kept.len(), 4);
    assert!(kept.windows(2).all(|pair| pair[0].0 < pair[1].0));
    let texts: Vec<_> = kept[1..].iter().map(|(_, entry)| entry.clone()).collect();
    assert_eq!(texts, entries);
    let rest = store.audit(kept[2].0).await.expect("works");
    assert_eq!(rest, &kept[3..]);
}

/// Of many who want the same value at once, one gets it, and the feed has only that one.
pub async fn one_of_many_gets_a_unique_value(store: &dyn Store) {
    let start = create(store, [sample::organization(0).into()]).await.sequence;
    let wants = (1..=16).map(|n| {
        let mut service = sample::tcp_service(0, n);
        service.kind = sample::tcp_service(0, 1).kind;
        store.commit(batch([Mutation::Create(service.into())]))
    });
    let outcomes = at_once(wants).await;
    let mut won = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(committed) => won.push(committed.sequence),
            Err(CommitError::Taken { .. }) => {}
            Err(error) => panic!("the value is taken, nothing else: {error}"),
        }
    }
    assert_eq!(won.len(), 1);
    let changes = store.changes(start).await.expect("works");
    assert_eq!(changes.iter().map(|row| row.sequence).collect::<Vec<_>>(), won);
}
