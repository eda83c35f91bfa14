//! One decision about a visitor, by a policy of 10, 50 and 250 rules of which none decides until the last, and the same
//! with the reasons.

#![expect(
    clippy::expect_used,
    reason = "a benchmark that cannot be set up has nothing to measure"
)]

use std::{hint::black_box, net::IpAddr};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use kakuremichi_core::{
    auth::{Identity, Principal, Strength},
    id::{RouteId, ServiceId},
    policy::{
        Access, CompiledPolicy, Condition, Effect, Facts, HeaderTest, Method, Policy, Proof, Rule, Subject,
        TimeWindow, Weekdays, evaluate, explain,
    },
    request::CanonicalRequest,
    time::Timestamp,
};

const RULES: [usize; 3] = [10, 50, 250];

fn parsed<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a constant that parses")
}

/// A condition that does not hold, but only its last part says so.
fn condition(number: usize) -> Condition {
    let path = Condition::Path(parsed("/api"));
    let night = TimeWindow::new(Weekdays::ALL, 22 * 60, 6 * 60, 60).expect("a valid window");
    let rest = match number % 6 {
        0 => vec![
            path,
            Condition::Source(parsed(&format!("10.{}.0.0/16", number % 256))),
        ],
        1 => vec![
            path,
            Condition::Method("POST".to_owned()),
            Condition::Country(parsed("SE")),
        ],
        2 => vec![
            Condition::Country(parsed("DE")),
            Condition::Role(parsed(&format!("role-{number}"))),
        ],
        3 => vec![
            Condition::Not(Box::new(Condition::Time(night))),
            Condition::Asn(64_500),
        ],
        4 => vec![Condition::Any(vec![
            Condition::Group(format!("group-{number}")),
            Condition::User(Principal::new("directory", format!("user-{number}"))),
            Condition::Strength(Strength::PhishingResistant),
        ])],
        _ => vec![
            path,
            Condition::Header {
                name: parsed("user-agent"),
                is: HeaderTest::Prefix(format!("robot-{number}")),
            },
        ],
    };
    Condition::All(rest)
}

fn policy(rules: usize) -> Policy {
    let rule = |number| Rule::new(parsed(&format!("rule-{number}")), condition(number), Effect::Deny);
    Policy {
        rules: (0..rules).map(rule).collect(),
        access: Access::AnyOf(vec![Method::signed_in()]),
    }
}

fn decisions(criterion: &mut Criterion) {
    let agent: &[u8] = b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0";
    let request = CanonicalRequest::parse("POST", "app.example.net", "/api/v1/items?page=2")
        .expect("a valid request")
        .note(parsed("user-agent"), [agent]);
    let identity = Identity::new(Principal::new("directory", "ann"))
        .with_roles(["staff", "billing"].map(parsed))
        .with_groups(["everybody", "berlin"])
        .with_strength(Strength::TwoFactors);
    let proofs = [Proof::SignedIn(identity)];
    let facts = Facts {
        // A Monday, noon.
        now: Timestamp::from_millis(1_704_110_400_000),
        source: IpAddr::from([203, 0, 113, 7]),
        country: Some(parsed("DE")),
        asn: Some(3320),
        request: Some(&request),
        proofs: &proofs,
        objection: false,
    };
    let subject = Subject {
        service: ServiceId::from_bytes([1; 16]),
        route: Some(RouteId::from_bytes([2; 16])),
    };
    for rules in RULES {
        let policy = policy(rules);
        policy.validate().expect("a valid policy");
        let compiled = CompiledPolicy::new(&policy);
        let mut group = criterion.benchmark_group("policy");
        group.bench_function(BenchmarkId::new("evaluate", rules), |bencher| {
            bencher.iter(|| evaluate(black_box(&compiled), subject, black_box(&facts)));
        });
        group.bench_function(BenchmarkId::new("explain", rules), |bencher| {
            bencher.iter(|| explain(black_box(&compiled), subject, black_box(&facts)));
        });
        group.bench_function(BenchmarkId::new("compile", rules), |bencher| {
            bencher.iter(|| CompiledPolicy::new(black_box(&policy)));
        });
        group.finish();
    }
}

criterion_group!(benches, decisions);
criterion_main!(benches);
