//! Lists.

use super::{batch, create, sample};
use crate::{
    id::{AgentId, OrganizationId},
    model::EnrolmentToken,
    secret::SecretHash,
    store::{MAX_PAGE, Mutation, Query, RecordId, RecordKind, Store, Version},
};

/// Pages hold every record of the kind and the organization, once, in the order of identifiers.
pub async fn pages_hold_every_record_once(store: &dyn Store) {
    create(
        store,
        [sample::organization(0).into(), sample::organization(1).into()],
    )
    .await;
    for n in [9, 3, 250, 17, 1, 128] {
        create(
            store,
            [
                sample::agent(0, n).into(),
                sample::gateway(0, n).into(),
                sample::agent(1, n + 1).into(),
                sample::token(0, n).into(),
            ],
        )
        .await;
    }
    let all = ids(store, Query::all(RecordKind::Node)).await;
    assert_eq!(all.len(), 18);
    assert!(
        all.is_sorted() && all.windows(2).all(|pair| pair[0] != pair[1]),
        "{all:?}"
    );

    let mine = Query::all(RecordKind::Node).of(sample::organization(0).id);
    let expected = ids(store, mine).await;
    assert_eq!(expected.len(), 12);
    for limit in [1, 5, 6, 11, 12, 13] {
        assert_eq!(
            ids(store, Query { limit, ..mine }).await,
            expected,
            "pages of {limit}"
        );
    }
    // A full last page is the last.
    let page = store.list(Query { limit: 12, ..mine }).await.expect("works");
    assert_eq!((page.records.len(), page.next), (12, None));
    // The place of a record that is gone is still a place.
    let gone = expected[5];
    store
        .commit(batch([Mutation::Delete(gone, None)]))
        .await
        .expect("it can be deleted");
    let after = Query {
        after: Some(gone),
        ..mine
    };
    assert_eq!(ids(store, after).await, &expected[6..]);

    let none = Query::all(RecordKind::Node).of(OrganizationId::from_bytes(sample::bytes(77)));
    assert_eq!(ids(store, none).await, []);
    assert_eq!(ids(store, Query::all(RecordKind::Site)).await, []);
}

/// The services that an agent declared are found among all others.
pub async fn declared_services_are_found(store: &dyn Store) {
    create(
        store,
        [
            sample::organization(0).into(),
            sample::agent(0, 1).into(),
            sample::http_service(0, 1).into(),
            sample::tcp_service(0, 2).into(),
            sample::tcp_service(0, 3).into(),
        ],
    )
    .await;
    let by = |agent: AgentId| Query::all(RecordKind::Service).owned_by(agent);
    let (two, three) = (sample::tcp_service(0, 2), sample::tcp_service(0, 3));
    let agent = two.lifetime.declared_by().expect("an agent declared it");
    assert_eq!(ids(store, by(agent)).await, [RecordId::from(two.id)]);
    assert_eq!(ids(store, by(agent).of(sample::organization(1).id)).await, []);
    let of_nodes = Query {
        kind: RecordKind::Node,
        ..by(agent)
    };
    assert_eq!(ids(store, of_nodes).await, []);
    // A service can change hands.
    let mut moved = three.clone();
    moved.lifetime = two.lifetime;
    let update = Mutation::Update(moved.into(), Version(1));
    store.commit(batch([update])).await.expect("works");
    assert_eq!(
        ids(store, by(agent)).await,
        [RecordId::from(two.id), three.id.into()]
    );
}

/// What is of a user is found in whichever organization, and what is of no organization in none.
pub async fn records_of_a_user_are_found(store: &dyn Store) {
    create(
        store,
        [
            sample::organization(0).into(),
            sample::organization(1).into(),
            sample::user(1).into(),
            sample::user(2).into(),
            sample::member(0, 1).into(),
            sample::member(1, 1).into(),
            sample::member(0, 2).into(),
            sample::session(1, 1).into(),
            sample::session(2, 2).into(),
        ],
    )
    .await;
    let user = sample::user(1).id;
    let members = Query::all(RecordKind::Member).owned_by(user);
    let both = [sample::member(0, 1).id.into(), sample::member(1, 1).id.into()];
    assert_eq!(ids(store, members).await, both);
    let zero = sample::organization(0).id;
    assert_eq!(ids(store, members.of(zero)).await, both[..1]);
    let sessions = Query::all(RecordKind::Session).owned_by(user);
    assert_eq!(
        ids(store, sessions).await,
        [RecordId::from(sample::session(1, 1).id)]
    );
    assert_eq!(ids(store, sessions.of(zero)).await, []);
    assert_eq!(ids(store, Query::all(RecordKind::User).of(zero)).await, []);
    assert_eq!(ids(store, Query::all(RecordKind::User)).await.len(), 2);
}

/// No page is larger than [`MAX_PAGE`], whatever is asked for.
pub async fn pages_are_bounded(store: &dyn Store) {
    create(store, [sample::organization(0).into()]).await;
    let tokens = (0..MAX_PAGE + 1).map(|n| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(n as u64).to_be_bytes());
        let mut secret_hash = [0; 32];
        secret_hash[..16].copy_from_slice(&id);
        let token = EnrolmentToken {
            id: crate::id::TokenId::from_bytes(id),
            secret_hash: SecretHash::from_bytes(secret_hash),
            ..sample::token(0, 0)
        };
        Mutation::Create(token.into())
    });
    store.commit(batch(tokens)).await.expect("they can be created");
    let query = Query {
        limit: usize::MAX,
        ..Query::all(RecordKind::Token)
    };
    let page = store.list(query).await.expect("works");
    assert_eq!(page.records.len(), MAX_PAGE);
    assert!(page.next.is_some());
    assert_eq!(ids(store, query).await.len(), MAX_PAGE + 1);
    let changes = store.changes(Default::default()).await.expect("works");
    assert_eq!(changes.len(), MAX_PAGE);
}

async fn ids(store: &dyn Store, mut query: Query) -> Vec<RecordId> {
    let mut found = Vec::new();
    loop {
        let page = store.list(query).await.expect("works");
        assert!(page.records.len() <= query.limit);
        found.extend(page.records.iter().map(|stored| stored.value.id()));
        match page.next {
            Some(next) => query.after = Some(next),
            None => return found,
        }
    }
}
