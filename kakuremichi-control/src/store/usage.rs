//! Usage: what was reported, the totals, and usage over time.

use std::collections::BTreeMap;

use kakuremichi_core::{
    id::{AgentId, GatewayId, NodeId, ServiceId},
    store::{
        NodeUsage, RecordId, StoreError, UsageCounts, UsageGroup, UsageLevel, UsageOf, UsagePoint,
        UsageQuery, UsageReport, UsageReports,
    },
    time::Timestamp,
};
use sea_orm::{
    ActiveValue::{Set, Unchanged},
    ColumnTrait, ConnectionTrait, DatabaseConnection, DbBackend, EntityTrait, FromQueryResult,
    IntoActiveModel, QueryFilter, QueryOrder, QuerySelect, Statement, TryGetable,
    sea_query::{Expr, ExprTrait, Func, OnConflict},
};

use super::{
    backend,
    entity::{usage_report, usage_step, usage_total},
    feed::unreadable,
    row,
    transaction::{self, Attempts},
};

pub(super) async fn record(
    database: &DatabaseConnection,
    usage: &NodeUsage,
) -> Result<UsageReport, StoreError> {
    let mut counted: BTreeMap<ServiceId, UsageCounts> = BTreeMap::new();
    for entry in &usage.entries {
        let counts = counted.entry(entry.service).or_default();
        *counts = counts.plus(entry.counts);
    }
    let mut attempts = Attempts::default();
    loop {
        match attempt(database, usage, &counted).await {
            Err(error) if attempts.again(&error).await => {}
            outcome => return outcome,
        }
    }
}

async fn attempt(
    database: &DatabaseConnection,
    usage: &NodeUsage,
    counted: &BTreeMap<ServiceId, UsageCounts>,
) -> Result<UsageReport, StoreError> {
    let transaction = transaction::begin(database).await.map_err(backend)?;
    let (node, report) = (usage.node.to_string(), usage.report);
    one_report_at_once(&transaction, &node).await?;
    let stored = usage_report::Entity::find_by_id(node.as_str())
        .one(&transaction)
        .await
        .map_err(backend)?;
    let mut reports = stored.as_ref().map(read_reports).unwrap_or_default();
    if let Err(last) = reports.note(report) {
        return Ok(last);
    }
    let row = usage_report::ActiveModel {
        node: Set(node),
        epoch: Set(report.epoch.cast_signed()),
        sequence: Set(row::count(report.sequence)),
        earlier: Set(Some(write_earlier(&reports))),
    };
    usage_report::Entity::insert(row)
        .on_conflict(
            OnConflict::column(usage_report::Column::Node)
                .update_columns([
                    usage_report::Column::Epoch,
                    usage_report::Column::Sequence,
                    usage_report::Column::Earlier,
                ])
                .to_owned(),
        )
        .exec_without_returning(&transaction)
        .await
        .map_err(backend)?;
    // In the order of the services, so that two nodes never wait for each other's.
    for (service, counts) in counted {
        if let NodeId::Gateway(_) = usage.node {
            add(&transaction, *service, *counts).await?;
        }
        step(&transaction, usage, row::key((*service).into()), *counts).await?;
    }
    if usage.unattributed != UsageCounts::default() {
        step(&transaction, usage, Vec::new(), usage.unattributed).await?;
    }
    transaction.commit().await.map_err(backend)?;
    Ok(report)
}

/// Holds up whoever reports for the same node through another instance. There may be no row yet to be locked.
async fn one_report_at_once(transaction: &impl ConnectionTrait, node: &str) -> Result<(), StoreError> {
    let backend_kind = transaction.get_database_backend();
    if backend_kind != DbBackend::Postgres {
        return Ok(());
    }
    let lock = Statement::from_sql_and_values(
        backend_kind,
        "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))",
        [node.into()],
    );
    transaction.execute_raw(lock).await.map_err(backend)?;
    Ok(())
}

async fn add(
    transaction: &impl ConnectionTrait,
    service: ServiceId,
    counts: UsageCounts,
) -> Result<(), StoreError> {
    let nothing = usage_total::Model {
        service: row::key(service.into()),
        connections: 0,
        requests: 0,
        bytes_in: 0,
        bytes_out: 0,
    };
    // A row that is there can be locked.
    usage_total::Entity::insert(nothing.into_active_model())
        .on_conflict_do_nothing()
        .exec_without_returning(transaction)
        .await
        .map_err(backend)?;
    let row = usage_total::Entity::find_by_id(row::key(service.into()))
        .lock_exclusive()
        .one(transaction)
        .await
        .map_err(backend)?
        .ok_or_else(transaction::vanished)?;
    let total = read_total(&row).plus(counts);
    let row = usage_total::ActiveModel {
        service: Unchanged(row.service),
        connections: Set(row::count(total.connections)),
        requests: Set(row::count(total.requests)),
        bytes_in: Set(row::count(total.bytes_in)),
        bytes_out: Set(row::count(total.bytes_out)),
    };
    usage_total::Entity::update(row)
        .exec(transaction)
        .await
        .map_err(backend)?;
    Ok(())
}

fn read_total(row: &usage_total::Model) -> UsageCounts {
    UsageCounts {
        connections: row::number(row.connections),
        requests: row::number(row.requests),
        bytes_in: row::number(row.bytes_in),
        bytes_out: row::number(row.bytes_out),
    }
}

fn read_reports(row: &usage_report::Model) -> UsageReports {
    let newest = UsageReport {
        epoch: row.epoch.cast_unsigned(),
        sequence: row::number(row.sequence),
    };
    let earlier = row.earlier.as_deref().unwrap_or_default();
    let (numbers, _) = earlier.as_chunks::<8>();
    let (pairs, _) = numbers.as_chunks::<2>();
    let earlier = pairs.iter().map(|[epoch, sequence]| UsageReport {
        epoch: u64::from_be_bytes(*epoch),
        sequence: u64::from_be_bytes(*sequence),
    });
    UsageReports::new(std::iter::once(newest).chain(earlier))
}

fn write_earlier(reports: &UsageReports) -> Vec<u8> {
    let earlier = reports.as_slice().iter().skip(1);
    earlier
        .flat_map(|report| [report.epoch, report.sequence])
        .flat_map(u64::to_be_bytes)
        .collect()
}

/// Forgets what belongs to a record that is deleted.
pub(super) async fn forget_of(database: &impl ConnectionTrait, id: RecordId) -> Result<(), StoreError> {
    match id {
        RecordId::Node(node) => {
            let reports = usage_report::Entity::delete_by_id(node.to_string());
            reports.exec(database).await.map_err(backend)?;
        }
        RecordId::Service(_) => {
            let totals = usage_total::Entity::delete_by_id(row::key(id));
            totals.exec(database).await.map_err(backend)?;
        }
        RecordId::Organization(_) => {
            let steps =
                usage_step::Entity::delete_many().filter(usage_step::Column::Organization.eq(row::key(id)));
            steps.exec(database).await.map_err(backend)?;
        }
        _ => {}
    }
    Ok(())
}

pub(super) async fn totals(
    database: &impl ConnectionTrait,
    service: ServiceId,
) -> Result<UsageCounts, StoreError> {
    let row = usage_total::Entity::find_by_id(row::key(service.into()))
        .one(database)
        .await
        .map_err(backend)?;
    Ok(row.map_or_else(UsageCounts::default, |row| read_total(&row)))
}

/// Adds to the step of each level. The rows are this node's own, and its reports come one by one.
async fn step(
    transaction: &impl ConnectionTrait,
    usage: &NodeUsage,
    service: Vec<u8>,
    counts: UsageCounts,
) -> Result<(), StoreError> {
    use usage_step::Column;
    let mut conflict = OnConflict::columns([
        Column::Level,
        Column::Organization,
        Column::Start,
        Column::Service,
        Column::Node,
    ]);
    for (column, name) in [
        (Column::Connections, "connections"),
        (Column::Requests, "requests"),
        (Column::BytesIn, "bytes_in"),
        (Column::BytesOut, "bytes_out"),
    ] {
        conflict.value(column, Expr::cust(sum_that_stops(name)));
    }
    for (number, level) in (0..).zip(UsageLevel::ALL) {
        let row = usage_step::Model {
            level: number,
            organization: row::key(usage.organization.into()),
            start: level.start_of(usage.at).as_millis(),
            service: service.clone(),
            node: usage.node.to_string(),
            connections: row::count(counts.connections),
            requests: row::count(counts.requests),
            bytes_in: row::count(counts.bytes_in),
            bytes_out: row::count(counts.bytes_out),
        };
        usage_step::Entity::insert(row.into_active_model())
            .on_conflict(conflict.clone())
            .exec_without_returning(transaction)
            .await
            .map_err(backend)?;
    }
    Ok(())
}

/// SQL of what is there and what is added, which stops at the end of the column's range.
fn sum_that_stops(column: &str) -> String {
    let (there, more, end) = (
        format!("usage_step.{column}"),
        format!("excluded.{column}"),
        i64::MAX,
    );
    format!("CASE WHEN {there} > {end} - {more} THEN {end} ELSE {there} + {more} END")
}

/// A row of usage over time, told apart by `of`.
#[derive(Debug, FromQueryResult)]
struct Point<T: TryGetable> {
    start: i64,
    of: T,
    connections: i64,
    requests: i64,
    bytes_in: i64,
    bytes_out: i64,
}

pub(super) async fn over_time(
    database: &impl ConnectionTrait,
    query: &UsageQuery,
) -> Result<Vec<UsagePoint>, StoreError> {
    use usage_step::Column;
    let level = UsageLevel::ALL.iter().position(|level| *level == query.level);
    let nodes = match query.group {
        UsageGroup::Agent => AgentId::PREFIX,
        UsageGroup::Whole | UsageGroup::Service | UsageGroup::Gateway => GatewayId::PREFIX,
    };
    // Every prefix has four characters.
    let prefix = Func::cust("substr").args([Expr::col(Column::Node), Expr::val(1_i32), Expr::val(4_i32)]);
    let mut select = usage_step::Entity::find()
        .select_only()
        .column(Column::Start)
        .filter(Column::Level.eq(row::count(level.unwrap_or_default() as u64)))
        .filter(Column::Organization.eq(row::key(query.organization.into())))
        .filter(Column::Start.gte(query.from.as_millis()))
        .filter(Column::Start.lt(query.to.as_millis()))
        .filter(Expr::expr(prefix).eq(nodes));
    if let Some(service) = query.service {
        select = select.filter(Column::Service.eq(row::key(service.into())));
    }
    for name in ["connections", "requests", "bytes_in", "bytes_out"] {
        // PostgreSQL sums up to a number without bounds; on SQLite a sum beyond the range is an error.
        select = select.column_as(Expr::cust(format!("CAST(SUM({name}) AS bigint)")), name);
    }
    let select = select
        .group_by(Column::Start)
        .order_by_asc(Column::Start)
        .limit(query.limit as u64);
    let by = |column: Column| {
        let select = select.clone();
        select
            .column_as(Expr::col(column), "of")
            .group_by(column)
            .order_by_asc(column)
    };
    match query.group {
        UsageGroup::Whole => {
            let select = select.clone().column_as(Expr::cust("0"), "of");
            let points = select
                .into_model::<Point<i32>>()
                .all(database)
                .await
                .map_err(backend)?;
            points.iter().map(|point| point.of(UsageOf::Whole)).collect()
        }
        UsageGroup::Service => {
            let points = by(Column::Service).into_model::<Point<Vec<u8>>>();
            let points = points.all(database).await.map_err(backend)?;
            let points = points.iter().map(|point| {
                let service = match point.of.as_slice() {
                    [] => None,
                    id => Some(ServiceId::from_bytes(
                        row::bytes("service", id).map_err(unreadable)?,
                    )),
                };
                point.of(UsageOf::Service(service))
            });
            points.collect()
        }
        UsageGroup::Gateway | UsageGroup::Agent => {
            let points = by(Column::Node).into_model::<Point<String>>();
            let points = points.all(database).await.map_err(backend)?;
            let points = points
                .iter()
                .map(|point| point.of(UsageOf::Node(row::text("node", &point.of).map_err(unreadable)?)));
            points.collect()
        }
    }
}

impl<T: TryGetable> Point<T> {
    fn of(&self, of: UsageOf) -> Result<UsagePoint, StoreError> {
        Ok(UsagePoint {
            start: row::time(self.start),
            of,
            counts: UsageCounts {
                connections: row::number(self.connections),
                requests: row::number(self.requests),
                bytes_in: row::number(self.bytes_in),
                bytes_out: row::number(self.bytes_out),
            },
        })
    }
}

pub(super) async fn forget(
    database: &impl ConnectionTrait,
    level: UsageLevel,
    before: Timestamp,
) -> Result<(), StoreError> {
    use usage_step::Column;
    let number = UsageLevel::ALL
        .iter()
        .position(|of| *of == level)
        .unwrap_or_default();
    usage_step::Entity::delete_many()
        .filter(Column::Level.eq(row::count(number as u64)))
        .filter(Column::Start.lt(before.as_millis()))
        .exec(database)
        .await
        .map_err(backend)?;
    Ok(())
}
