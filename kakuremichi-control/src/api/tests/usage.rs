//! Usage over time through the API.

use kakuremichi_core::store::{NodeUsage, UsageCounts, UsageEntry, UsageReport, conformance::sample};

use super::*;
use crate::service::now;

#[tokio::test]
async fn usage_is_read_over_time_and_outlives_its_service() {
    let api = Api::start().await;
    let agent = api.agent("edge").await;
    let made = api
        .post(
            "/services",
            json!({"name": "db", "tcp": {"port": 5432, "targets": [{"agent": agent, "address": "127.0.0.1:5432"}]}}),
        )
        .await;
    made.is(201, "");
    let service = text(&made.body["id"]);
    let actor = api.control.use_cases().control().await.unwrap();
    let gateway = sample::gateway(0, 1).id;
    let count = async |sequence: u64, bytes_in: u64| {
        let entry = UsageEntry {
            service: service.parse().unwrap(),
            counts: UsageCounts {
                bytes_in,
                ..UsageCounts::default()
            },
        };
        let report = UsageReport { epoch: 1, sequence };
        let usage = NodeUsage {
            at: now(),
            ..sample::usage(gateway, report, &[entry])
        };
        api.control.use_cases().record_usage(&actor, usage).await.unwrap();
    };
    count(1, 5).await;
    count(1, 5).await;
    let total = async |query: &str| {
        let answer = api.get(&format!("/usage{query}")).await;
        answer.is(200, "");
        answer.body["totals"].clone()
    };
    let by_service = "?group_by=service&step=minute";
    let counted = |id: Option<&str>, bytes: u64| {
        let mut total = json!({"connections": 0, "requests": 0, "bytes_in": bytes, "bytes_out": 0});
        if let Some(id) = id {
            total["id"] = json!(id);
        }
        total
    };
    assert_eq!(total(by_service).await, json!([counted(Some(&service), 5)]));
    assert_eq!(
        total(&format!("?service={service}")).await,
        json!([counted(None, 5)])
    );
    assert_eq!(
        total("?group_by=gateway&step=day").await,
        json!([counted(Some(&gateway.to_string()), 5)])
    );
    assert_eq!(total("?group_by=agent").await, json!([]));

    // What is reported of a service that is gone is the organization's still.
    api.send("DELETE", &format!("{PREFIX}/services/{service}"), &[], None)
        .await
        .is(204, "");
    count(2, 7).await;
    assert_eq!(
        total(by_service).await,
        json!([counted(None, 7), counted(Some(&service), 5)])
    );
    assert_eq!(total("").await, json!([counted(None, 12)]));

    for (query, field) in [
        ("?group_by=colour", "query"),
        ("?step=year", "query"),
        ("?from=2030-01-01T00:00:00Z&to=2029-01-01T00:00:00Z", "from"),
    ] {
        api.get(&format!("/usage{query}")).await.names(field);
    }
}
