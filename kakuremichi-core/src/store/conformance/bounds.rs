//! How much there may be.

use super::{at_once, batch, create, sample};
use crate::{
    id::RoleId,
    model::UserRole,
    store::{CommitError, Mutation, Query, RecordKind, Store},
};

fn role(organization: u8, n: usize) -> UserRole {
    let mut id = [organization; 16];
    id[..8].copy_from_slice(&(n as u64).to_be_bytes());
    UserRole {
        id: RoleId::from_bytes(id),
        name: format!("role-{n}").parse().expect("a valid label"),
        ..sample::role(organization, 0)
    }
}

fn create_role(organization: u8, n: usize) -> Mutation {
    Mutation::Create(role(organization, n).into())
}

fn most() -> usize {
    RecordKind::Role
        .most_in_organization()
        .expect("roles have a bound")
}

/// One more than the bound is refused, whatever is beside it in the batch; what is deleted makes room, and what another
/// organization has does not count.
pub async fn an_organization_has_no_more_than_it_may(store: &dyn Store) {
    create(
        store,
        [sample::organization(0).into(), sample::organization(1).into()],
    )
    .await;
    let all = (0..most()).map(|n| create_role(0, n));
    store.commit(batch(all)).await.expect("as many as may be");
    let more = [create_role(1, 0), create_role(0, most())];
    let refused = store.commit(batch(more)).await.expect_err("one more");
    let CommitError::Bound { kind, most: said } = refused else {
        panic!("not for its number: {refused}");
    };
    assert_eq!((kind, said), (RecordKind::Role, most()));
    let others = Query::all(RecordKind::Role).of(sample::organization(1).id);
    assert_eq!(store.list(others).await.expect("works").records.len(), 0);
    let exchange = [
        Mutation::Delete(role(0, 0).id.into(), None),
        create_role(0, most()),
        create_role(1, 0),
    ];
    store.commit(batch(exchange)).await.expect("there is room");
}

/// Those who create at the same time do not get past the bound together.
pub async fn many_at_once_stay_within_the_bound(store: &dyn Store) {
    create(store, [sample::organization(0).into()]).await;
    let room = 2;
    let all = (room..most()).map(|n| create_role(0, n));
    store.commit(batch(all)).await.expect("fewer than may be");
    let more = (0..6).map(|n| store.commit(batch([create_role(0, most() + n)])));
    let done = at_once(more).await;
    assert_eq!(done.iter().filter(|outcome| outcome.is_ok()).count(), room);
    for outcome in done {
        assert!(
            matches!(outcome, Ok(_) | Err(CommitError::Bound { .. })),
            "{outcome:?}"
        );
    }
}
