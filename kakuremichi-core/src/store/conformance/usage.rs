//! Usage.

use super::sample;
use crate::{
    id::{NodeId, ServiceId},
    store::{Batch, Mutation, Store, UsageCounts, UsageEntry, UsageReport},
};

/// A report counts once, however often it is sent, and each node has numbers of its own.
pub async fn usage_is_counted_once(store: &dyn Store) {
    let (one, two) = (sample::gateway(0, 1).id, sample::gateway(0, 2).id);
    let (a, b) = (
        ServiceId::from_bytes(sample::bytes(1)),
        ServiceId::from_bytes(sample::bytes(2)),
    );
    let counts = UsageCounts {
        connections: 1,
        requests: 20,
        bytes_in: 300,
        bytes_out: 1 << 53,
    };
    let entry = |service| UsageEntry { service, counts };
    assert_eq!(totals(store, a).await, UsageCounts::default());
    assert_eq!(record(store, one, 1, &[entry(a), entry(b)]).await, 1);
    assert_eq!(record(store, one, 1, &[entry(a), entry(b)]).await, 1);
    assert_eq!(totals(store, a).await, counts);
    assert_eq!(record(store, two, 1, &[entry(a)]).await, 1);
    assert_eq!(totals(store, a).await, counts.plus(counts));
    // Numbers may skip, but an older one is a repetition.
    assert_eq!(record(store, one, 5, &[entry(a), entry(a)]).await, 5);
    assert_eq!(record(store, one, 4, &[entry(a)]).await, 5);
    assert_eq!(record(store, one, 6, &[]).await, 6);
    assert_eq!(
        totals(store, a).await,
        counts.plus(counts).plus(counts).plus(counts)
    );
    assert_eq!(totals(store, b).await, counts);

    // A node that lost its numbers starts another stream, from 1.
    assert_eq!(record_in(store, one, 7, 1, &[entry(b)]).await, 1);
    assert_eq!(record_in(store, one, 7, 1, &[entry(b)]).await, 1);
    assert_eq!(totals(store, b).await, counts.plus(counts));

    // What is left of the stream before is neither counted again nor lost.
    assert_eq!(record(store, one, 6, &[entry(b)]).await, 6);
    assert_eq!(totals(store, b).await, counts.plus(counts));
    assert_eq!(record(store, one, 7, &[entry(b)]).await, 7);
    assert_eq!(record_in(store, one, 7, 1, &[entry(b)]).await, 1);
    assert_eq!(totals(store, b).await, counts.plus(counts).plus(counts));

    // A count stops at its end.
    let huge = UsageCounts {
        connections: u64::MAX,
        requests: 1,
        bytes_in: 0,
        bytes_out: UsageCounts::MAX,
    };
    let entry = UsageEntry {
        service: b,
        counts: huge,
    };
    assert_eq!(record_in(store, one, 7, 2, &[entry]).await, 2);
    assert_eq!(totals(store, b).await.requests, 61);
    assert_eq!(totals(store, b).await.connections, UsageCounts::MAX);
}

/// What was counted goes with its service, and what was noted with its node.
pub async fn usage_goes_with_its_record(store: &dyn Store) {
    let (node, service) = (sample::gateway(0, 1), sample::tcp_service(0, 1));
    let entry = UsageEntry {
        service: service.id,
        counts: UsageCounts {
            requests: 1,
            ..UsageCounts::default()
        },
    };
    let commit = async |mutations| {
        let audit = sample::audit("test.usage");
        store.commit(Batch { mutations, audit }).await.expect("works");
    };
    let records = [
        sample::organization(0).into(),
        node.clone().into(),
        service.clone().into(),
    ];
    commit(records.map(Mutation::Create).to_vec()).await;
    assert_eq!(record(store, node.id, 5, &[entry]).await, 5);
    commit(vec![
        Mutation::Delete(service.id.into(), None),
        Mutation::Delete(node.id.into(), None),
    ])
    .await;
    assert_eq!(totals(store, service.id).await, UsageCounts::default());
    assert_eq!(record(store, node.id, 1, &[]).await, 1);
}

async fn record(store: &dyn Store, node: NodeId, sequence: u64, entries: &[UsageEntry]) -> u64 {
    record_in(store, node, u64::MAX, sequence, entries).await
}

async fn record_in(
    store: &dyn Store,
    node: NodeId,
    epoch: u64,
    sequence: u64,
    entries: &[UsageEntry],
) -> u64 {
    let report = UsageReport { epoch, sequence };
    let last = store.record_usage(node, report, entries).await.expect("works");
    assert_eq!(last.epoch, epoch);
    last.sequence
}

async fn totals(store: &dyn Store, service: ServiceId) -> UsageCounts {
    store.usage_totals(service).await.expect("works")
}
