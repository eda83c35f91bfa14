//! Requests that are sent again.

use super::{at_once, batch, create, read, sample};
use crate::store::{
    Batch, CommitError, IDEMPOTENCY_LIFE, IdempotencyKey, IdempotentRequest, MAX_IDEMPOTENCY_KEYS, Mutation,
    Store,
};

fn key(n: usize) -> IdempotencyKey {
    let mut key = [7; 32];
    key[..8].copy_from_slice(&(n as u64).to_be_bytes());
    IdempotencyKey { caller: [1; 32], key }
}

fn request(n: usize, mutations: impl IntoIterator<Item = Mutation>) -> Batch {
    let request = IdempotentRequest {
        key: key(n),
        request: [3; 32],
    };
    Batch {
        request: Some(request),
        ..batch(mutations)
    }
}

/// A request is remembered when its batch is applied, and only then; the next with its name is not done, until the first
/// is forgotten. Its answer is kept.
pub async fn a_request_is_carried_out_once(store: &dyn Store) {
    create(store, [sample::organization(0).into()]).await;
    let token = |n| Mutation::Create(sample::token(0, n).into());
    let missing = Mutation::Delete(sample::token(0, 9).id.into(), None);
    let failed = store.commit(request(0, [token(1), missing])).await;
    failed.expect_err("what is deleted is not there");
    let now = sample::NOW;
    assert_eq!(store.remembered(key(0), now).await.expect("works"), None);

    let both = (0..2).map(|n| store.commit(request(0, [token(1 + n)])));
    let done = at_once(both).await;
    assert_eq!(done.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert!(
        done.iter()
            .any(|outcome| matches!(outcome, Err(CommitError::Repeated)))
    );
    let mut there = Vec::new();
    for n in 1..3 {
        there.extend(read(store, sample::token(0, n).id).await);
    }
    assert_eq!(there.len(), 1);

    let remembered = store
        .remembered(key(0), now)
        .await
        .expect("works")
        .expect("it is");
    assert_eq!(
        (remembered.request, remembered.at, remembered.answer),
        ([3; 32], now, None)
    );
    assert_eq!(remembered.subject, sample::audit("test.write").subject);
    store
        .keep_answer(key(0), b"answer".to_vec())
        .await
        .expect("works");
    store
        .keep_answer(key(5), b"nothing".to_vec())
        .await
        .expect("works");
    let remembered = store
        .remembered(key(0), now)
        .await
        .expect("works")
        .expect("it is");
    assert_eq!(remembered.answer.as_deref(), Some(&b"answer"[..]));
    let other = IdempotencyKey {
        caller: [2; 32],
        ..key(0)
    };
    assert_eq!(store.remembered(other, now).await.expect("works"), None);

    let later = now.after(IDEMPOTENCY_LIFE);
    assert_eq!(store.remembered(key(0), later).await.expect("works"), None);
    let mut again = request(0, [token(4)]);
    again.audit.at = later;
    store.commit(again).await.expect("the first is forgotten");
}

/// With one more than may be remembered of a caller, the oldest is forgotten.
pub async fn no_more_requests_are_remembered_than_may_be(store: &dyn Store) {
    create(store, [sample::organization(0).into()]).await;
    for n in 0..=MAX_IDEMPOTENCY_KEYS {
        let mut batch = request(n, []);
        batch.audit.at = sample::NOW.after(std::time::Duration::from_millis(n as u64));
        store.commit(batch).await.expect("works");
    }
    let remembered = async |n| {
        store
            .remembered(key(n), sample::NOW)
            .await
            .expect("works")
            .is_some()
    };
    assert!(!remembered(0).await);
    assert!(remembered(1).await && remembered(MAX_IDEMPOTENCY_KEYS).await);
}
