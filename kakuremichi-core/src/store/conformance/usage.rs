//! Usage.

use std::time::Duration;

use super::sample;
use crate::{
    id::{NodeId, OrganizationId, ServiceId},
    store::{
        Batch, Mutation, NodeUsage, Store, UsageCounts, UsageEntry, UsageGroup, UsageLevel, UsageOf,
        UsagePoint, UsageQuery, UsageReport,
    },
    time::Timestamp,
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
        store
            .commit(Batch {
                mutations,
                audit,
                request: None,
            })
            .await
            .expect("works");
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
    let usage = sample::usage(node, report, entries);
    let last = store.record_usage(&usage).await.expect("works");
    assert_eq!(last.epoch, epoch);
    last.sequence
}

async fn totals(store: &dyn Store, service: ServiceId) -> UsageCounts {
    store.usage_totals(service).await.expect("works")
}

/// What was counted over time is found at each level, told apart by service and by node, and outlives both.
pub async fn usage_is_kept_over_time(store: &dyn Store) {
    let organization = OrganizationId::from_bytes(sample::bytes(0));
    let day = UsageLevel::Day.start_of(sample::NOW);
    let at = |minutes: u64| day.after(Duration::from_secs(60 * minutes));
    let requests = |requests| UsageCounts {
        requests,
        ..UsageCounts::default()
    };
    let (one, two) = (sample::http_service(0, 1).id, sample::http_service(0, 2).id);
    let (gate, edge) = (sample::gateway(0, 1).id, sample::agent(0, 2).id);
    let counted = async |node: NodeId, sequence, minutes, entries: &[(ServiceId, u64)], unattributed| {
        let entries = entries.iter().map(|(service, n)| UsageEntry {
            service: *service,
            counts: requests(*n),
        });
        let usage = NodeUsage {
            node,
            organization,
            at: at(minutes).after(Duration::from_millis(1)),
            report: UsageReport { epoch: 1, sequence },
            entries: entries.collect(),
            unattributed: requests(unattributed),
        };
        store.record_usage(&usage).await.expect("works");
    };
    for _ in 0..2 {
        counted(gate, 1, 0, &[(one, 1), (two, 10)], 0).await;
        counted(gate, 2, 1, &[(one, 2)], 100).await;
        counted(gate, 3, 60, &[(one, 4)], 0).await;
        // What the other end counted is the same traffic.
        counted(edge, 1, 0, &[(one, 7)], 0).await;
    }
    assert_eq!(totals(store, one).await, requests(7));
    let query = UsageQuery {
        organization,
        level: UsageLevel::Minute,
        from: at(0),
        to: at(24 * 60),
        group: UsageGroup::Whole,
        service: None,
        limit: 100,
    };
    let read = async |query: UsageQuery| {
        let points = store.usage(&query).await.expect("works");
        let point = |point: UsagePoint| (point.start, point.of, point.counts.requests);
        points.into_iter().map(point).collect::<Vec<_>>()
    };
    let whole = UsageOf::Whole;
    assert_eq!(
        read(query).await,
        [(at(0), whole, 11), (at(1), whole, 102), (at(60), whole, 4)]
    );
    let hours = UsageQuery {
        level: UsageLevel::Hour,
        ..query
    };
    assert_eq!(read(hours).await, [(at(0), whole, 113), (at(60), whole, 4)]);
    let days = UsageQuery {
        level: UsageLevel::Day,
        ..query
    };
    assert_eq!(read(days).await, [(at(0), whole, 117)]);
    assert_eq!(
        read(UsageQuery {
            from: at(1),
            to: at(60),
            ..query
        })
        .await,
        [(at(1), whole, 102)]
    );
    assert_eq!(read(UsageQuery { limit: 1, ..query }).await, [(at(0), whole, 11)]);
    let of = UsageOf::Service;
    let by_service = UsageQuery {
        group: UsageGroup::Service,
        ..days
    };
    let mut services = read(by_service).await;
    services.sort_by_key(|(_, of, _)| *of);
    let mut expected = [
        (at(0), of(None), 100),
        (at(0), of(Some(one)), 7),
        (at(0), of(Some(two)), 10),
    ];
    expected.sort_by_key(|(_, of, _)| *of);
    assert_eq!(services, expected);
    let of_two = UsageQuery {
        service: Some(two),
        ..by_service
    };
    assert_eq!(read(of_two).await, [(at(0), of(Some(two)), 10)]);
    let by_gateway = UsageQuery {
        group: UsageGroup::Gateway,
        ..days
    };
    assert_eq!(read(by_gateway).await, [(at(0), UsageOf::Node(gate), 117)]);
    let by_agent = UsageQuery {
        group: UsageGroup::Agent,
        ..days
    };
    assert_eq!(read(by_agent).await, [(at(0), UsageOf::Node(edge), 7)]);
    let others = UsageQuery {
        organization: OrganizationId::from_bytes(sample::bytes(1)),
        ..query
    };
    assert_eq!(read(others).await, []);

    // Each level is forgotten by itself.
    store
        .forget_usage(UsageLevel::Minute, at(60))
        .await
        .expect("works");
    assert_eq!(read(query).await, [(at(60), whole, 4)]);
    assert_eq!(read(days).await, [(at(0), whole, 117)]);

    // A count stops at its end here too.
    let huge = UsageCounts {
        requests: UsageCounts::MAX,
        ..UsageCounts::default()
    };
    let usage = NodeUsage {
        at: Timestamp::from_millis(at(60).as_millis()),
        unattributed: huge,
        ..sample::usage(
            gate,
            UsageReport {
                epoch: 1,
                sequence: 4,
            },
            &[],
        )
    };
    store.record_usage(&usage).await.expect("works");
    let usage = NodeUsage {
        report: UsageReport {
            epoch: 1,
            sequence: 5,
        },
        ..usage
    };
    store.record_usage(&usage).await.expect("works");
    let gone = UsageQuery {
        group: UsageGroup::Service,
        from: at(60),
        ..query
    };
    let points = store.usage(&gone).await.expect("works");
    assert!(
        points
            .iter()
            .any(|point| point.of == of(None) && point.counts.requests == UsageCounts::MAX)
    );
}
