//! Usage is exact, whatever is lost, repeated or started anew on the way.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use kakuremichi_control::store::SqlStore;
use kakuremichi_core::{
    id::{NodeId, OrganizationId, ServiceId},
    store::{
        MemoryStore, NodeUsage, Store, UsageCounts, UsageEntry, UsageGroup, UsageLevel, UsageOf, UsageQuery,
        UsageReport, conformance::sample,
    },
    time::Timestamp,
};
use kakuremichi_tests::Postgres;
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tempfile::TempDir;

const NODES: usize = 4;
const SERVICES: u8 = 3;
/// Streams of one node: fewer than are remembered.
const STREAMS: u64 = 6;

/// What happens.
#[derive(Debug, Clone)]
enum Step {
    /// A node counts something, at a minute of the day; without a service it could not tell.
    Count(usize, Option<u8>, u32, u32),
    /// Some of what a node has not heard of being stored arrives, in its order; it hears of it, or does not.
    Arrive(usize, usize, bool),
    /// Something that arrived arrives again.
    Again(usize),
    /// A node loses what it has not reported, and starts another stream.
    Lose(usize),
    /// Control starts anew.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 0..NODES;
    prop_oneof![
        6 => (node(), proptest::option::of(0..SERVICES), 0..3000_u32, 0..1000_u32)
            .prop_map(|(node, service, minute, amount)| Step::Count(node, service, minute, amount)),
        4 => (node(), 1..6_usize, any::<bool>()).prop_map(|(node, count, heard)| Step::Arrive(node, count, heard)),
        3 => any::<usize>().prop_map(Step::Again),
        1 => node().prop_map(Step::Lose),
        1 => Just(Step::Restart),
    ]
}

/// A store that can be opened anew, but for one in memory.
enum Place {
    Memory(Arc<dyn Store>),
    Database {
        url: String,
        _directory: Option<TempDir>,
    },
}

impl Place {
    fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("control.db").display());
        Self::Database {
            url,
            _directory: Some(directory),
        }
    }

    async fn open(&self) -> Arc<dyn Store> {
        match self {
            Self::Memory(store) => Arc::clone(store),
            Self::Database { url, .. } => Arc::new(SqlStore::connect(url).await.unwrap()),
        }
    }
}

struct Node {
    id: NodeId,
    stream: u64,
    next: u64,
    /// What it has not heard of being stored.
    open: VecDeque<NodeUsage>,
}

/// Two gateways and two agents.
fn nodes() -> Vec<Node> {
    let ids = [
        sample::gateway(0, 1).id,
        sample::gateway(0, 2).id,
        sample::agent(0, 3).id,
        sample::agent(0, 4).id,
    ];
    let node = |id| Node {
        id,
        stream: 1,
        next: 1,
        open: VecDeque::new(),
    };
    ids.into_iter().map(node).collect()
}

fn service(n: u8) -> ServiceId {
    ServiceId::from_bytes(sample::bytes(n))
}

fn day() -> Timestamp {
    UsageLevel::Day.start_of(sample::NOW)
}

impl Node {
    fn count(&mut self, of: Option<u8>, minute: u32, amount: u32) {
        let counts = UsageCounts {
            connections: 1,
            requests: u64::from(amount),
            bytes_in: u64::from(amount) << 20,
            bytes_out: 3,
        };
        let report = UsageReport {
            epoch: self.stream,
            sequence: self.next,
        };
        let entry = of.map(|n| UsageEntry {
            service: service(n),
            counts,
        });
        let usage = NodeUsage {
            at: day().after(Duration::from_secs(u64::from(minute) * 60 + 7)),
            unattributed: if of.is_none() {
                counts
            } else {
                UsageCounts::default()
            },
            ..sample::usage(self.id, report, entry.as_slice())
        };
        self.next += 1;
        self.open.push_back(usage);
    }
}

/// Runs the steps, then brings the rest, and compares everything that can be asked with what was counted.
async fn run(place: &Place, steps: &[Step]) {
    let mut store = place.open().await;
    let mut nodes = nodes();
    let mut stored: Vec<NodeUsage> = Vec::new();
    let arrive = async |store: &dyn Store, stored: &mut Vec<NodeUsage>, usage: &NodeUsage| {
        let last = store.record_usage(usage).await.unwrap();
        assert!(last.epoch == usage.report.epoch && last.sequence >= usage.report.sequence);
        stored.push(usage.clone());
    };
    for step in steps {
        match step {
            Step::Count(node, of, minute, amount) => nodes[*node].count(*of, *minute, *amount),
            Step::Arrive(node, count, heard) => {
                let node = &mut nodes[*node];
                for usage in node.open.iter().take(*count) {
                    arrive(&*store, &mut stored, usage).await;
                }
                if *heard {
                    node.open.drain(..(*count).min(node.open.len()));
                }
            }
            Step::Again(index) if !stored.is_empty() => {
                let usage = stored[index % stored.len()].clone();
                arrive(&*store, &mut stored, &usage).await;
            }
            Step::Lose(node) if nodes[*node].stream < STREAMS => {
                let node = &mut nodes[*node];
                (node.stream, node.next) = (node.stream + 1, 1);
                node.open.clear();
            }
            Step::Again(_) | Step::Lose(_) => {}
            Step::Restart => store = place.open().await,
        }
    }
    for node in &nodes {
        for usage in &node.open {
            arrive(&*store, &mut stored, usage).await;
        }
    }
    compare(&*store, &stored).await;
}

async fn compare(store: &dyn Store, stored: &[NodeUsage]) {
    let mut seen = BTreeSet::new();
    let once: Vec<_> = stored
        .iter()
        .filter(|usage| seen.insert((usage.node, usage.report)))
        .collect();
    let gateways = || {
        once.iter()
            .filter(|usage| matches!(usage.node, NodeId::Gateway(_)))
    };
    for n in 0..SERVICES {
        let entries = gateways().flat_map(|usage| &usage.entries);
        let entries = entries.filter(|entry| entry.service == service(n));
        let expected = entries.fold(UsageCounts::default(), |sum, entry| sum.plus(entry.counts));
        assert_eq!(store.usage_totals(service(n)).await.unwrap(), expected);
    }
    let groups = [
        UsageGroup::Whole,
        UsageGroup::Service,
        UsageGroup::Gateway,
        UsageGroup::Agent,
    ];
    for (level, group) in UsageLevel::ALL
        .into_iter()
        .flat_map(|level| groups.map(|group| (level, group)))
    {
        let mut expected: BTreeMap<(Timestamp, UsageOf), UsageCounts> = BTreeMap::new();
        for usage in &once {
            if matches!(usage.node, NodeId::Agent(_)) != (group == UsageGroup::Agent) {
                continue;
            }
            let entry = usage.entries.first();
            let counts = entry.map_or(usage.unattributed, |entry| entry.counts);
            let of = match group {
                UsageGroup::Whole => UsageOf::Whole,
                UsageGroup::Service => UsageOf::Service(entry.map(|entry| entry.service)),
                UsageGroup::Gateway | UsageGroup::Agent => UsageOf::Node(usage.node),
            };
            let point = expected.entry((level.start_of(usage.at), of)).or_default();
            *point = point.plus(counts);
        }
        let query = UsageQuery {
            organization: OrganizationId::from_bytes(sample::bytes(0)),
            level,
            from: day(),
            to: day().after(Duration::from_secs(4 * 24 * 60 * 60)),
            group,
            service: None,
            limit: 10_000,
        };
        let points = store.usage(&query).await.unwrap();
        assert!(points.windows(2).all(|pair| pair[0].start <= pair[1].start));
        let points: BTreeMap<_, _> = points
            .into_iter()
            .map(|point| ((point.start, point.of), point.counts))
            .collect();
        assert_eq!(points, expected, "{level:?} {group:?}");
    }
}

fn check(cases: u32, steps: usize, place: impl Fn() -> Place) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&vec(step(), 1..steps), |steps| {
            runtime.block_on(run(&place(), &steps));
            Ok(())
        })
        .unwrap();
}

#[test]
fn usage_is_exact_in_memory() {
    check(256, 80, || Place::Memory(Arc::new(MemoryStore::new())));
}

#[test]
fn usage_is_exact_on_sqlite() {
    check(6, 60, Place::sqlite);
}

#[test]
fn usage_is_exact_on_postgresql() {
    let Some(server) = Postgres::shared() else { return };
    check(4, 60, || Place::Database {
        url: server.database(),
        _directory: None,
    });
}
