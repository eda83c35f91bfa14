//! The change feed, and usage.

use std::collections::BTreeMap;

use kakuremichi_core::{
    id::{NodeId, ServiceId},
    store::{
        Change, MAX_FEED, MAX_PAGE, RecordId, Sequence, StoreError, UsageCounts, UsageEntry, UsageReport,
        UsageReports,
    },
};
use sea_orm::{
    ActiveValue::{Set, Unchanged},
    ColumnTrait, ConnectionTrait, DatabaseConnection, DbBackend, EntityTrait, IntoActiveModel, QueryFilter,
    QueryOrder, QuerySelect, Statement,
    sea_query::OnConflict,
};

use super::{
    backend,
    entity::{change, usage_report, usage_total},
    order::{self, Looks, Order},
    row::{self, RowError},
    transaction::{self, Attempts},
};

/// Rows of the change feed are counted at one of so many transactions.
const FORGET_EVERY: i64 = 64;

pub(super) async fn changes(
    database: &impl ConnectionTrait,
    order: Order,
    after: Sequence,
) -> Result<Vec<Change>, StoreError> {
    let mut looks = Looks::default();
    while let Some(bound) = order.next_bound(database, &mut looks).await? {
        let rows = change::Entity::find()
            .filter(change::Column::Sequence.gt(row::count(after.0)))
            .order_by_asc(change::Column::Sequence)
            .limit(MAX_PAGE as u64)
            .all(database)
            .await
            .map_err(backend)?;
        let read = rows.len();
        let rows = rows.into_iter().take_while(|row| bound.allows(row.sequence));
        let found: Result<Vec<_>, _> = rows.map(|row| read_change(&row).map_err(unreadable)).collect();
        match found {
            Ok(found) if looks.look_again(found.len(), read) => {}
            outcome => return outcome,
        }
    }
    Ok(Vec::new())
}

/// The last row in front of which nothing will appear.
pub(super) async fn last_change(
    database: &impl ConnectionTrait,
    order: Order,
) -> Result<Sequence, StoreError> {
    let mut select = change::Entity::find().order_by_desc(change::Column::Sequence);
    if let Some(bound) = order.nearest_bound(database).await? {
        select = select.filter(change::Column::Sequence.lt(bound));
    }
    let last = select.one(database).await.map_err(backend)?;
    Ok(last.map_or(Sequence::START, |row| Sequence(row::number(row.sequence))))
}

/// Forgets all rows but the newest [`MAX_FEED`], now and then. `last` was just written.
pub(super) async fn forget_changes(database: &impl ConnectionTrait, last: i64) -> Result<(), StoreError> {
    if database.get_database_backend() != DbBackend::Postgres {
        let end = last.saturating_sub(row::count(MAX_FEED as u64));
        return forget_up_to(database, end).await;
    }
    // The numbers of transactions have gaps, so rows have to be counted.
    if order::transaction(last) % FORGET_EVERY != 0 {
        return Ok(());
    }
    let oldest = change::Entity::find()
        .order_by_desc(change::Column::Sequence)
        .offset(MAX_FEED as u64)
        .limit(1)
        .one(database)
        .await
        .map_err(backend)?;
    match oldest {
        Some(oldest) => forget_up_to(database, oldest.sequence).await,
        None => Ok(()),
    }
}

async fn forget_up_to(database: &impl ConnectionTrait, number: i64) -> Result<(), StoreError> {
    change::Entity::delete_many()
        .filter(change::Column::Sequence.lte(number))
        .exec(database)
        .await
        .map_err(backend)?;
    Ok(())
}

fn read_change(row: &change::Model) -> Result<Change, RowError> {
    Ok(Change {
        sequence: Sequence(row::number(row.sequence)),
        record: row::text("record", &row.record)?,
        // Empty for what is of the whole Control.
        organization: match row.organization.as_slice() {
            [] => None,
            id => Some(row::organization(id)?),
        },
    })
}

pub(super) fn unreadable(error: RowError) -> StoreError {
    StoreError::Backend(Box::new(error))
}

pub(super) async fn record_usage(
    database: &DatabaseConnection,
    node: NodeId,
    report: UsageReport,
    entries: &[UsageEntry],
) -> Result<UsageReport, StoreError> {
    let mut counted: BTreeMap<ServiceId, UsageCounts> = BTreeMap::new();
    for entry in entries {
        let counts = counted.entry(entry.service).or_default();
        *counts = counts.plus(entry.counts);
    }
    let mut attempts = Attempts::default();
    loop {
        match attempt_usage(database, node, report, &counted).await {
            Err(error) if attempts.again(&error).await => {}
            outcome => return outcome,
        }
    }
}

async fn attempt_usage(
    database: &DatabaseConnection,
    node: NodeId,
    report: UsageReport,
    counted: &BTreeMap<ServiceId, UsageCounts>,
) -> Result<UsageReport, StoreError> {
    let transaction = transaction::begin(database).await.map_err(backend)?;
    let node = node.to_string();
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
        add(&transaction, *service, *counts).await?;
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
pub(super) async fn forget_usage(database: &impl ConnectionTrait, id: RecordId) -> Result<(), StoreError> {
    match id {
        RecordId::Node(node) => {
            let reports = usage_report::Entity::delete_by_id(node.to_string());
            reports.exec(database).await.map_err(backend)?;
        }
        RecordId::Service(_) => {
            let totals = usage_total::Entity::delete_by_id(row::key(id));
            totals.exec(database).await.map_err(backend)?;
        }
        _ => {}
    }
    Ok(())
}

pub(super) async fn usage_totals(
    database: &impl ConnectionTrait,
    service: ServiceId,
) -> Result<UsageCounts, StoreError> {
    let row = usage_total::Entity::find_by_id(row::key(service.into()))
        .one(database)
        .await
        .map_err(backend)?;
    Ok(row.map_or_else(UsageCounts::default, |row| read_total(&row)))
}
