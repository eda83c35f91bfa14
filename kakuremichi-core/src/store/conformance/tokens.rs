//! Enrolment tokens.

use super::{at_once, batch, create, read, sample};
use crate::{
    id::TokenId,
    model::{EnrolmentToken, Role, TokenUnusable},
    store::{CommitError, Mutation, Store, StoreRecord},
    time::Timestamp,
};

/// Each reason for which a token may be of no use is told, and costs no use.
pub async fn a_token_says_why_it_is_of_no_use(store: &dyn Store) {
    let token = sample::token(0, 1);
    let used_up = EnrolmentToken {
        uses_left: Some(0),
        ..sample::token(0, 2)
    };
    let revoked = EnrolmentToken {
        revoked: Some(sample::NOW),
        ..sample::token(0, 3)
    };
    let ids = (token.id, used_up.id, revoked.id);
    let expires = token.expires.unwrap_or_default();
    create(
        store,
        [
            sample::organization(0).into(),
            token.into(),
            used_up.into(),
            revoked.into(),
        ],
    )
    .await;
    let unknown = TokenId::from_bytes(sample::bytes(99));
    for (token, role, now, reason) in [
        (unknown, Role::Agent, sample::NOW, TokenUnusable::Unknown),
        (
            ids.0,
            Role::Gateway,
            sample::NOW,
            TokenUnusable::Role(Role::Agent),
        ),
        (ids.0, Role::Agent, expires, TokenUnusable::Expired),
        (ids.1, Role::Agent, sample::NOW, TokenUnusable::UsedUp),
        (ids.2, Role::Agent, sample::NOW, TokenUnusable::Revoked),
    ] {
        match consume(store, token, role, now).await {
            Err(CommitError::Token(why)) => assert_eq!(why, reason),
            other => panic!("{reason:?} was expected, not {other:?}"),
        }
    }
    assert_eq!(uses_left(store, ids.0).await, Some(3));
}

/// LESSONS, advisory 11: a use is taken by one conditional statement, so of many who come at once no more
/// get one than there are.
pub async fn a_token_is_used_no_more_often_than_it_may_be(store: &dyn Store) {
    let endless = EnrolmentToken {
        uses_left: None,
        expires: None,
        ..sample::token(0, 2)
    };
    let (three, endless_id) = (sample::token(0, 1).id, endless.id);
    create(
        store,
        [
            sample::organization(0).into(),
            sample::token(0, 1).into(),
            endless.into(),
        ],
    )
    .await;
    let outcomes = at_once((0..16).map(|_| consume(store, three, Role::Agent, sample::NOW))).await;
    let mut used = 0;
    for outcome in outcomes {
        match outcome {
            Ok(()) => used += 1,
            Err(CommitError::Token(TokenUnusable::UsedUp)) => {}
            Err(error) => panic!("the token is used up, nothing else: {error}"),
        }
    }
    assert_eq!(used, 3);
    assert_eq!(uses_left(store, three).await, Some(0));
    for _ in 0..4 {
        consume(store, endless_id, Role::Agent, sample::NOW)
            .await
            .expect("it has no end");
    }
    assert_eq!(uses_left(store, endless_id).await, None);
}

async fn consume(store: &dyn Store, token: TokenId, role: Role, now: Timestamp) -> Result<(), CommitError> {
    let mutation = Mutation::ConsumeToken { token, role, now };
    store.commit(batch([mutation])).await.map(|_| ())
}

async fn uses_left(store: &dyn Store, token: TokenId) -> Option<u32> {
    match read(store, token).await.expect("it exists").value {
        StoreRecord::Token(token) => token.uses_left,
        other => panic!("a token was expected, not {other:?}"),
    }
}
