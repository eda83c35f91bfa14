//! Single records.

use super::{batch, create, read, sample};
use crate::{
    model::{Pending, PreviousKeys},
    net::Overlay,
    store::{CommitError, Mutation, RecordId, Store, StoreRecord, UniqueKey, Version},
};

/// The first overlay stays.
pub async fn overlay_is_made_once(store: &dyn Store) {
    let (first, second) = (
        Overlay::from_global_id([1, 2, 3, 4, 255]),
        Overlay::from_global_id([9; 5]),
    );
    assert_eq!(store.overlay(first).await.expect("works"), first);
    assert_eq!(store.overlay(second).await.expect("works"), first);
}

fn one_of_each() -> [StoreRecord; 21] {
    [
        sample::organization(0).into(),
        sample::agent(0, 1).into(),
        sample::gateway(0, 1).into(),
        sample::site(0, 1).into(),
        sample::http_service(0, 1).into(),
        sample::tcp_service(0, 2).into(),
        sample::token(0, 1).into(),
        sample::api_key(0, 1).into(),
        sample::user(1).into(),
        sample::role(0, 1).into(),
        sample::group(0, 1).into(),
        sample::member(0, 1).into(),
        sample::invitation(0, 1).into(),
        sample::session(1, 1).into(),
        sample::shared_policy(0, 1).into(),
        sample::shared_policy(0, 2).into(),
        sample::identity_provider(Some(0), 1).into(),
        sample::identity_provider(None, 2).into(),
        sample::channel(0, 1).into(),
        sample::channel(0, 2).into(),
        sample::service_token(0, 1).into(),
    ]
}

/// What was written is read back, by its identifier and by each of its unique values.
pub async fn records_round_trip(store: &dyn Store) {
    for record in one_of_each() {
        assert_eq!(read(store, record.id()).await, None);
        for key in record.unique_keys() {
            assert_eq!(store.find(&key).await.expect("works"), None, "{key}");
        }
    }
    create(store, one_of_each()).await;
    for record in one_of_each() {
        let stored = read(store, record.id()).await.expect("it was created");
        assert_eq!((&stored.value, stored.version), (&record, Version(1)));
        for key in record.unique_keys() {
            let found = store.find(&key).await.expect("works");
            assert_eq!(found.as_ref(), Some(&stored), "{key}");
        }
    }
    let mut bare = sample::token(0, 7);
    (bare.uses_left, bare.expires, bare.revoked) = (None, None, Some(sample::NOW));
    bare.declare = Default::default();
    create(store, [bare.clone().into()]).await;
    let stored = read(store, bare.id).await.expect("it was created");
    assert_eq!(stored.value, bare.into());
    let mut waiting = sample::agent(0, 8);
    waiting.pending = Some(Pending {
        place: 99,
        until: sample::NOW,
    });
    create(store, [waiting.clone().into()]).await;
    let stored = read(store, waiting.id).await.expect("it was created");
    assert_eq!(stored.value, waiting.into());
    let rotated = sample::rotated(0, 9);
    create(store, [rotated.clone().into()]).await;
    let stored = read(store, rotated.id).await.expect("it was created");
    assert_eq!(stored.value, rotated.into());
}

/// Keys of before are their node's for as long as they count, whichever of the two another one has.
pub async fn keys_of_before_are_nobody_elses(store: &dyn Store) {
    let rotated = sample::rotated(0, 1);
    let previous = rotated.rotation.previous.expect("it was rotated");
    create(store, [sample::organization(0).into(), rotated.clone().into()]).await;
    let keys = [
        UniqueKey::Identity(previous.identity),
        UniqueKey::WireGuard(previous.wireguard),
    ];
    for key in &keys {
        let found = store
            .find(key)
            .await
            .expect("works")
            .map(|stored| stored.value.id());
        assert_eq!(found, Some(rotated.id.into()));
    }
    // As its own key, and as one of before.
    let mut twin = sample::agent(0, 2);
    twin.identity = previous.identity;
    refused(store, Mutation::Create(twin.into()), rotated.id).await;
    let mut twin = sample::agent(0, 2);
    twin.wireguard = previous.wireguard;
    refused(store, Mutation::Create(twin.into()), rotated.id).await;
    let mut twin = sample::rotated(0, 2);
    twin.rotation.previous = Some(PreviousKeys {
        identity: rotated.identity,
        ..previous
    });
    refused(store, Mutation::Create(twin.into()), rotated.id).await;
    // Once they no longer count they are free.
    let mut done = rotated.clone();
    done.rotation.previous = None;
    let update = Mutation::Update(done.into(), Version(1));
    store
        .commit(batch([update]))
        .await
        .expect("the keys of before go");
    for key in &keys {
        assert_eq!(store.find(key).await.expect("works"), None);
    }
}

/// An update names the version that it replaces.
pub async fn records_are_updated_at_their_version(store: &dyn Store) {
    create(
        store,
        [sample::organization(0).into(), sample::agent(0, 1).into()],
    )
    .await;
    let mut node = sample::agent(0, 1);
    let id = RecordId::from(node.id);
    node.name = "renamed".parse().expect("a valid label");
    node.revoked = Some(sample::NOW);
    for (expected, becomes) in [(1, 2), (2, 3)] {
        let update = Mutation::Update(node.clone().into(), Version(expected));
        store.commit(batch([update])).await.expect("the version is right");
        let stored = read(store, id).await.expect("it exists");
        assert_eq!(
            (stored.value, stored.version),
            (node.clone().into(), Version(becomes))
        );
    }
    for wrong in [0, 1, 2, 4] {
        let update = Mutation::Update(node.clone().into(), Version(wrong));
        let error = store
            .commit(batch([update]))
            .await
            .expect_err("the version is wrong");
        assert!(
            matches!(error, CommitError::Stale(stale) if stale == id),
            "{error}"
        );
    }
    let absent = Mutation::Update(sample::agent(0, 2).into(), Version(1));
    let error = store
        .commit(batch([absent]))
        .await
        .expect_err("it does not exist");
    assert!(matches!(error, CommitError::Missing(_)), "{error}");
    let again = Mutation::Create(sample::agent(0, 1).into());
    let error = store.commit(batch([again])).await.expect_err("it exists");
    assert!(
        matches!(error, CommitError::Exists(exists) if exists == id),
        "{error}"
    );
}

/// What is deleted is gone, and its unique values are free.
pub async fn records_are_deleted(store: &dyn Store) {
    create(store, one_of_each()).await;
    let mut records = one_of_each();
    // The organization last: what belongs to it goes first.
    records.rotate_left(1);
    for record in records {
        let id = record.id();
        let stale = Mutation::Delete(id, Some(Version(2)));
        let error = store
            .commit(batch([stale]))
            .await
            .expect_err("the version is wrong");
        assert!(
            matches!(error, CommitError::Stale(stale) if stale == id),
            "{error}"
        );
        let version = matches!(record, StoreRecord::Node(_)).then_some(Version(1));
        store
            .commit(batch([Mutation::Delete(id, version)]))
            .await
            .expect("it can be deleted");
        assert_eq!(read(store, id).await, None);
        for key in record.unique_keys() {
            assert_eq!(store.find(&key).await.expect("works"), None, "{key}");
        }
        let error = store
            .commit(batch([Mutation::Delete(id, None)]))
            .await
            .expect_err("it is gone");
        assert!(
            matches!(error, CommitError::Missing(missing) if missing == id),
            "{error}"
        );
    }
    create(store, one_of_each()).await;
    let stored = read(store, sample::agent(0, 1).id).await.expect("it is back");
    assert_eq!(stored.version, Version(1));
}

/// No two records have a unique value in common.
pub async fn unique_values_are_unique(store: &dyn Store) {
    create(
        store,
        [
            sample::organization(0).into(),
            sample::organization(1).into(),
            sample::agent(0, 1).into(),
            sample::http_service(0, 1).into(),
            sample::tcp_service(0, 2).into(),
        ],
    )
    .await;

    // Names are unique in their organization only, hosts everywhere, ports in their organization.
    let mut elsewhere = sample::agent(1, 2);
    elsewhere.name = sample::agent(0, 1).name;
    let mut same_port = sample::tcp_service(1, 3);
    same_port.kind = sample::tcp_service(0, 2).kind;
    create(store, [elsewhere.clone().into(), same_port.into()]).await;

    let mut same_name = sample::site(0, 3);
    same_name.name = sample::agent(0, 1).name;
    refused(store, Mutation::Create(same_name.into()), sample::agent(0, 1).id).await;
    let mut same_host = sample::http_service(1, 4);
    same_host.kind = sample::http_service(0, 1).kind;
    refused(
        store,
        Mutation::Create(same_host.into()),
        sample::http_service(0, 1).id,
    )
    .await;
    elsewhere.wireguard = sample::agent(0, 1).wireguard;
    refused(
        store,
        Mutation::Update(elsewhere.into(), Version(1)),
        sample::agent(0, 1).id,
    )
    .await;

    // A value that an update gives up is free, and one that it keeps is not in its own way.
    let mut node = sample::agent(0, 1);
    node.identity = sample::agent(0, 9).identity;
    let update = Mutation::Update(node.clone().into(), Version(1));
    store
        .commit(batch([update]))
        .await
        .expect("the new value is free");
    let given_up = UniqueKey::Identity(sample::agent(0, 1).identity);
    assert_eq!(store.find(&given_up).await.expect("works"), None);
    let taken = store
        .find(&UniqueKey::Identity(node.identity))
        .await
        .expect("works");
    assert_eq!(taken.map(|stored| stored.value), Some(node.into()));
}

async fn refused(store: &dyn Store, mutation: Mutation, by: impl Into<RecordId>) {
    let by = by.into();
    let error = store
        .commit(batch([mutation]))
        .await
        .expect_err("the value is taken");
    assert!(
        matches!(error, CommitError::Taken { holder, .. } if holder == by),
        "{error}"
    );
}
