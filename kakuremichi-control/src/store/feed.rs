//! The change feed, the audit, and usage.

use kakuremichi_core::{
    audit::AuditEntry,
    auth::Principal,
    id::{NodeId, ServiceId},
    store::{
        Change, MAX_PAGE, RecordId, Sequence, StoreError, UsageCounts, UsageEntry, UsageReport, UsageReports,
    },
};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseConnection, EntityTrait, IntoActiveModel,
    QueryFilter, QueryOrder, QuerySelect, TransactionTrait, sea_query::OnConflict,
};

use super::{
    backend,
    entity::{audit, change, usage_report, usage_total},
    migration::immediate,
    row::{self, RowError},
};

pub(super) async fn changes(
    database: &impl ConnectionTrait,
    after: Sequence,
) -> Result<Vec<Change>, StoreError> {
    let rows = change::Entity::find()
        .filter(change::Column::Sequence.gt(row::count(after.0)))
        .order_by_asc(change::Column::Sequence)
        .limit(MAX_PAGE as u64)
        .all(database)
        .await
        .map_err(backend)?;
    rows.into_iter()
        .map(|row| read_change(&row).map_err(unreadable))
        .collect()
}

pub(super) async fn last_change(database: &impl ConnectionTrait) -> Result<Sequence, StoreError> {
    let last = change::Entity::find()
        .order_by_desc(change::Column::Sequence)
        .one(database)
        .await
        .map_err(backend)?;
    Ok(last.map_or(Sequence::START, |row| Sequence(row::number(row.sequence))))
}

fn read_change(row: &change::Model) -> Result<Change, RowError> {
    Ok(Change {
        sequence: Sequence(row::number(row.sequence)),
        record: row::text("record", &row.record)?,
        organization: row::organization(&row.organization)?,
    })
}

pub(super) async fn audit(
    database: &impl ConnectionTrait,
    after: Sequence,
) -> Result<Vec<(Sequence, AuditEntry)>, StoreError> {
    let rows = audit::Entity::find()
        .filter(audit::Column::Sequence.gt(row::count(after.0)))
        .order_by_asc(audit::Column::Sequence)
        .limit(MAX_PAGE as u64)
        .all(database)
        .await
        .map_err(backend)?;
    rows.into_iter()
        .map(|row| read_audit(row).map_err(unreadable))
        .collect()
}

fn read_audit(row: audit::Model) -> Result<(Sequence, AuditEntry), RowError> {
    let organization = row.organization.as_deref().map(row::organization).transpose()?;
    let subject = row.subject.map(|text| row::text("subject", &text)).transpose()?;
    let entry = AuditEntry {
        at: row::time(row.at),
        actor: row
            .authority
            .zip(row.actor)
            .map(|(authority, actor)| Principal::new(authority, actor)),
        organization,
        action: row.action,
        subject,
    };
    Ok((Sequence(row::number(row.sequence)), entry))
}

fn unreadable(error: RowError) -> StoreError {
    StoreError::Backend(Box::new(error))
}

pub(super) async fn record_usage(
    database: &DatabaseConnection,
    node: NodeId,
    report: UsageReport,
    entries: &[UsageEntry],
) -> Result<UsageReport, StoreError> {
    let transaction = database.begin_with_options(immediate()).await.map_err(backend)?;
    let node = node.to_string();
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
    for entry in entries {
        let total = usage_totals(&transaction, entry.service)
            .await?
            .plus(entry.counts);
        let row = usage_total::Model {
            service: row::key(entry.service.into()),
            connections: row::count(total.connections),
            requests: row::count(total.requests),
            bytes_in: row::count(total.bytes_in),
            bytes_out: row::count(total.bytes_out),
        };
        usage_total::Entity::insert(row.into_active_model())
            .on_conflict(
                OnConflict::column(usage_total::Column::Service)
                    .update_columns([
                        usage_total::Column::Connections,
                        usage_total::Column::Requests,
                        usage_total::Column::BytesIn,
                        usage_total::Column::BytesOut,
                    ])
                    .to_owned(),
            )
            .exec_without_returning(&transaction)
            .await
            .map_err(backend)?;
    }
    transaction.commit().await.map_err(backend)?;
    Ok(report)
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
        RecordId::Organization(_)
        | RecordId::Site(_)
        | RecordId::Token(_)
        | RecordId::ApiKey(_)
        | RecordId::Policy(_) => {}
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
    Ok(row.map_or_else(UsageCounts::default, |row| UsageCounts {
        connections: row::number(row.connections),
        requests: row::number(row.requests),
        bytes_in: row::number(row.bytes_in),
        bytes_out: row::number(row.bytes_out),
    }))
}
