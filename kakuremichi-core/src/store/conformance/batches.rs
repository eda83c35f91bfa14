//! Batches: all or nothing.

use super::{batch, create, read, sample};
use crate::{
    model::Role,
    store::{CommitError, Mutation, Sequence, Store, UniqueKey, Version},
};

/// A mutation sees what those before it in the batch did.
pub async fn mutations_apply_in_order(store: &dyn Store) {
    create(
        store,
        [sample::organization(0).into(), sample::http_service(0, 1).into()],
    )
    .await;
    let mut heir = sample::http_service(0, 2);
    heir.kind = sample::http_service(0, 1).kind;
    store
        .commit(batch([
            Mutation::Delete(sample::http_service(0, 1).id.into(), None),
            Mutation::Create(heir.clone().into()),
            Mutation::Update(heir.clone().into(), Version(1)),
            Mutation::Create(sample::agent(0, 1).into()),
            Mutation::Delete(sample::agent(0, 1).id.into(), Some(Version(1))),
        ]))
        .await
        .expect("each precondition holds at its turn");
    let stored = read(store, heir.id).await.expect("it was created");
    assert_eq!((stored.value, stored.version), (heir.into(), Version(2)));
    assert_eq!(read(store, sample::agent(0, 1).id).await, None);
}

/// When one mutation fails, nothing of the batch remains: no record, no unique value, no use of a token,
/// no row in a feed.
pub async fn failing_batches_leave_nothing(store: &dyn Store) {
    create(
        store,
        [
            sample::organization(0).into(),
            sample::token(0, 1).into(),
            sample::agent(0, 1).into(),
            sample::agent(0, 2).into(),
        ],
    )
    .await;
    let before = snapshot(store).await;
    let mut renamed = sample::agent(0, 1);
    renamed.name = "renamed".parse().expect("a valid label");
    let good = [
        Mutation::ConsumeToken {
            token: sample::token(0, 1).id,
            role: Role::Agent,
            now: sample::NOW,
        },
        Mutation::Create(sample::agent(0, 3).into()),
        Mutation::Update(renamed.into(), Version(1)),
        Mutation::Delete(sample::agent(0, 2).id.into(), None),
    ];
    let bad = [
        Mutation::Create(sample::agent(0, 1).into()),
        Mutation::Update(sample::agent(0, 1).into(), Version(7)),
        Mutation::Delete(sample::agent(0, 9).id.into(), None),
        Mutation::ConsumeToken {
            token: sample::token(0, 1).id,
            role: Role::Gateway,
            now: sample::NOW,
        },
        Mutation::Create({
            let mut twin = sample::agent(0, 4);
            twin.identity = sample::agent(0, 3).identity;
            twin.into()
        }),
    ];
    for bad in bad {
        let mutations = good.iter().cloned().chain([bad.clone()]);
        let error = store
            .commit(batch(mutations))
            .await
            .expect_err("the last mutation cannot be");
        assert!(!matches!(error, CommitError::Store(_)), "{bad:?}: {error}");
        assert_eq!(snapshot(store).await, before, "{bad:?}");
        let new = UniqueKey::Identity(sample::agent(0, 3).identity);
        assert_eq!(store.find(&new).await.expect("works"), None, "{bad:?}");
        let old = UniqueKey::Identity(sample::agent(0, 2).identity);
        assert!(store.find(&old).await.expect("works").is_some(), "{bad:?}");
    }
    store
        .commit(batch(good))
        .await
        .expect("without the bad one it works");
    assert_ne!(snapshot(store).await, before);
}

async fn snapshot(store: &dyn Store) -> String {
    let mut records = Vec::new();
    for n in 0..10 {
        records.push(read(store, sample::agent(0, n).id).await);
    }
    records.push(read(store, sample::token(0, 1).id).await);
    let changes = store.changes(Sequence::START).await.expect("works");
    let audit = store.audit(Sequence::START).await.expect("works");
    format!("{records:?} {changes:?} {audit:?}")
}
