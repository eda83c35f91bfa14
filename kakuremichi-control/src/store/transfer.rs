//! Everything out of a database, and into another: see [`backup`](crate::backup).

use data_encoding::HEXLOWER;
use kakuremichi_core::{
    id::OrganizationId,
    store::{Query, RecordId, RecordKind, StoreError, Version},
};
use sea_orm::{
    AccessMode, ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction,
    DbBackend, EntityTrait, IntoActiveModel, IsolationLevel, QueryFilter, QueryOrder, QuerySelect,
    TransactionOptions, TransactionTrait,
};

use super::{
    SqlStore, backend,
    entity::{audit, change, memo, meta, unique_key, usage_report, usage_step, usage_total},
    order::{self, Order},
    record_from_json, record_to_json,
    row::{self, RowError},
    table::{self, Table, with_record, with_table},
    transaction, write,
};
use crate::backup::{BackupError, Line, RestoreError};

/// Rows that are read at once.
const PAGE: u64 = 500;
/// How far the numbers of the feed go on behind those of the backup. Nodes have seen plans since it was made,
/// by numbers that it does not know, and a plan with a number that they have seen would not be taken.
const LEAP: i64 = 1 << 40;

/// What takes the lines of a backup.
pub(crate) type Sink<'a> = dyn FnMut(Line) -> Result<(), BackupError> + Send + 'a;
/// What gives them.
pub(crate) type Lines<'a> = dyn FnMut() -> Result<Option<Line>, RestoreError> + Send + 'a;

impl SqlStore {
    /// Hands out everything as it is at one moment.
    pub(crate) async fn export(&self, sink: &mut Sink<'_>) -> Result<(), BackupError> {
        let snapshot = snapshot(&self.readers).await.map_err(backend)?;
        export_meta(&snapshot, sink).await?;
        for kind in RecordKind::ALL {
            export_records(&snapshot, *kind, sink).await?;
        }
        export_audit(&snapshot, sink).await?;
        export_usage(&snapshot, sink).await?;
        export_memos(&snapshot, sink).await?;
        sink(Line::Position(last_number(&snapshot).await?))?;
        Ok(snapshot.rollback().await.map_err(backend)?)
    }

    /// Takes everything in, in one transaction.
    pub(crate) async fn import(&mut self, replace: bool, lines: &mut Lines<'_>) -> Result<(), RestoreError> {
        let transaction = transaction::begin(&self.writer).await.map_err(backend)?;
        let mut last = last_number(&transaction).await?;
        if !is_empty(&transaction).await? {
            if !replace {
                return Err(RestoreError::NotEmpty);
            }
            clear(&transaction).await?;
        }
        let mut first = None;
        while let Some(line) = lines()? {
            match line {
                Line::Record { record, version } => {
                    let (id, organization) = import_record(&transaction, &record, version).await?;
                    first.get_or_insert((id, organization));
                }
                Line::Position(position) => last = last.max(position),
                line => import_row(&transaction, line).await?,
            }
        }
        if let Some((id, organization)) = first {
            // Who plans begins behind this row, and reads everything anyway.
            let row = change::ActiveModel {
                sequence: Set(last.saturating_add(LEAP)),
                record: Set(id.to_string()),
                organization: Set(row::owner_of_change(organization)),
            };
            change::Entity::insert(row)
                .exec_without_returning(&transaction)
                .await
                .map_err(backend)?;
        }
        let order = Order::settle(&transaction).await.map_err(backend)?;
        transaction.commit().await.map_err(backend)?;
        self.order = order;
        Ok(())
    }
}

async fn snapshot(database: &DatabaseConnection) -> Result<DatabaseTransaction, sea_orm::DbErr> {
    let options = match database.get_database_backend() {
        DbBackend::Postgres => TransactionOptions {
            isolation_level: Some(IsolationLevel::RepeatableRead),
            access_mode: Some(AccessMode::ReadOnly),
            ..TransactionOptions::default()
        },
        // One that reads sees what was there at its first statement.
        _ => TransactionOptions::default(),
    };
    database.begin_with_options(options).await
}

async fn last_number(database: &impl ConnectionTrait) -> Result<i64, StoreError> {
    let last = change::Entity::find()
        .order_by_desc(change::Column::Sequence)
        .one(database)
        .await
        .map_err(backend)?;
    Ok(last.map_or(0, |row| row.sequence))
}

async fn export_meta(database: &impl ConnectionTrait, sink: &mut Sink<'_>) -> Result<(), BackupError> {
    let rows = meta::Entity::find()
        // This one says something of the database, not of what is in it.
        .filter(meta::Column::Key.ne(order::BASE))
        .order_by_asc(meta::Column::Key)
        .all(database)
        .await
        .map_err(backend)?;
    for meta::Model { key, value } in rows {
        sink(Line::Meta { key, value })?;
    }
    Ok(())
}

async fn export_records(
    database: &impl ConnectionTrait,
    kind: RecordKind,
    sink: &mut Sink<'_>,
) -> Result<(), BackupError> {
    let mut query = Query::all(kind);
    loop {
        let page = table::list(database, query).await?;
        for stored in page.records {
            let record = record_to_json(&stored.value)
                .map_err(|error| BackupError::Record(stored.value.id(), error))?;
            let version = stored.version.0;
            sink(Line::Record { record, version })?;
        }
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(()),
        }
    }
}

async fn export_audit(database: &impl ConnectionTrait, sink: &mut Sink<'_>) -> Result<(), BackupError> {
    let mut after = 0;
    loop {
        let rows = audit::Entity::find()
            .filter(audit::Column::Sequence.gt(after))
            .order_by_asc(audit::Column::Sequence)
            .limit(PAGE)
            .all(database)
            .await
            .map_err(backend)?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = last.sequence;
        for row in rows {
            sink(Line::Audit {
                sequence: row.sequence,
                at: row.at,
                authority: row.authority,
                actor: row.actor,
                organization: row.organization.map(|id| HEXLOWER.encode(&id)),
                action: row.action,
                subject: row.subject,
                hash: row.hash.map(|hash| HEXLOWER.encode(&hash)),
            })?;
        }
    }
}

async fn export_usage(database: &impl ConnectionTrait, sink: &mut Sink<'_>) -> Result<(), BackupError> {
    let mut after = String::new();
    loop {
        let rows = usage_report::Entity::find()
            .filter(usage_report::Column::Node.gt(after))
            .order_by_asc(usage_report::Column::Node)
            .limit(PAGE)
            .all(database)
            .await
            .map_err(backend)?;
        let Some(last) = rows.last() else { break };
        after = last.node.clone();
        for row in rows {
            sink(Line::Report {
                node: row.node,
                epoch: row.epoch,
                sequence: row.sequence,
                earlier: row.earlier.map(|earlier| HEXLOWER.encode(&earlier)),
            })?;
        }
    }
    let mut after = Vec::new();
    loop {
        let rows = usage_total::Entity::find()
            .filter(usage_total::Column::Service.gt(after))
            .order_by_asc(usage_total::Column::Service)
            .limit(PAGE)
            .all(database)
            .await
            .map_err(backend)?;
        let Some(last) = rows.last() else { break };
        after = last.service.clone();
        for row in rows {
            sink(Line::Total {
                service: HEXLOWER.encode(&row.service),
                connections: row.connections,
                requests: row.requests,
                bytes_in: row.bytes_in,
                bytes_out: row.bytes_out,
            })?;
        }
    }
    export_steps(database, sink).await
}

async fn export_steps(database: &impl ConnectionTrait, sink: &mut Sink<'_>) -> Result<(), BackupError> {
    use usage_step::Column;
    let key = (
        Column::Level,
        Column::Organization,
        Column::Start,
        Column::Service,
        Column::Node,
    );
    let mut cursor = usage_step::Entity::find().cursor_by(key);
    loop {
        let rows = cursor.first(PAGE).all(database).await.map_err(backend)?;
        let Some(last) = rows.last() else { return Ok(()) };
        cursor.after((
            last.level,
            last.organization.clone(),
            last.start,
            last.service.clone(),
            last.node.clone(),
        ));
        for row in rows {
            sink(Line::Step {
                level: row.level,
                organization: HEXLOWER.encode(&row.organization),
                start: row.start,
                service: HEXLOWER.encode(&row.service),
                node: row.node,
                counts: [row.connections, row.requests, row.bytes_in, row.bytes_out],
            })?;
        }
    }
}

async fn export_memos(database: &impl ConnectionTrait, sink: &mut Sink<'_>) -> Result<(), BackupError> {
    use memo::Column;
    let mut cursor = memo::Entity::find().cursor_by((Column::Name, Column::About));
    loop {
        let rows = cursor.first(PAGE).all(database).await.map_err(backend)?;
        let Some(last) = rows.last() else { return Ok(()) };
        cursor.after((last.name.clone(), last.about.clone()));
        for memo::Model { name, about, memo } in rows {
            sink(Line::Memo { name, about, memo })?;
        }
    }
}

/// Whether nobody has worked with the database. Every deed leaves an entry in the audit.
async fn is_empty(database: &impl ConnectionTrait) -> Result<bool, StoreError> {
    let deed = audit::Entity::find().one(database).await.map_err(backend)?;
    let total = usage_total::Entity::find().one(database).await.map_err(backend)?;
    let overlay = meta::Entity::find()
        .filter(meta::Column::Key.ne(order::BASE))
        .one(database)
        .await
        .map_err(backend)?;
    Ok(deed.is_none() && total.is_none() && overlay.is_none())
}

async fn clear(database: &impl ConnectionTrait) -> Result<(), StoreError> {
    async fn all<E: EntityTrait>(database: &impl ConnectionTrait) -> Result<(), StoreError> {
        E::delete_many().exec(database).await.map_err(backend)?;
        Ok(())
    }
    // Those that belong to others first.
    for kind in RecordKind::ALL.iter().rev() {
        with_table!(kind, T => all::<T>(database).await?);
    }
    all::<unique_key::Entity>(database).await?;
    all::<change::Entity>(database).await?;
    all::<audit::Entity>(database).await?;
    all::<usage_report::Entity>(database).await?;
    all::<usage_total::Entity>(database).await?;
    all::<usage_step::Entity>(database).await?;
    all::<memo::Entity>(database).await?;
    meta::Entity::delete_many()
        .filter(meta::Column::Key.ne(order::BASE))
        .exec(database)
        .await
        .map_err(backend)?;
    Ok(())
}

async fn import_record(
    transaction: &DatabaseTransaction,
    text: &str,
    version: u64,
) -> Result<(RecordId, Option<OrganizationId>), RestoreError> {
    let record = record_from_json(text).map_err(|error| StoreError::Backend(Box::new(error)))?;
    let id = record.id();
    write::take_unique(transaction, &record)
        .await
        .map_err(|error| StoreError::Backend(Box::new(error)))?;
    with_record!(&record, T, entity => {
        let row = T::write(entity, Version(version)).map_err(|error| error.of(id))?;
        T::insert(row).exec_without_returning(transaction).await.map_err(backend)?;
    });
    Ok((id, record.organization()))
}

async fn import_row(database: &impl ConnectionTrait, line: Line) -> Result<(), StoreError> {
    async fn insert<A>(database: &impl ConnectionTrait, row: A) -> Result<(), StoreError>
    where
        A: sea_orm::ActiveModelTrait,
    {
        A::Entity::insert(row)
            .exec_without_returning(database)
            .await
            .map_err(backend)?;
        Ok(())
    }
    let bytes = |column, text: &str| {
        HEXLOWER
            .decode(text.as_bytes())
            .map_err(|error| StoreError::Backend(Box::new(RowError::new(column, error))))
    };
    match line {
        Line::Meta { key, value } => insert(database, meta::Model { key, value }.into_active_model()).await,
        Line::Audit {
            sequence,
            at,
            authority,
            actor,
            organization,
            action,
            subject,
            hash,
        } => {
            let row = audit::ActiveModel {
                sequence: Set(sequence),
                at: Set(at),
                authority: Set(authority),
                actor: Set(actor),
                organization: Set(organization
                    .map(|text| bytes("organization", &text))
                    .transpose()?),
                action: Set(action),
                subject: Set(subject),
                hash: Set(hash.map(|text| bytes("hash", &text)).transpose()?),
            };
            insert(database, row).await
        }
        Line::Report {
            node,
            epoch,
            sequence,
            earlier,
        } => {
            let row = usage_report::ActiveModel {
                node: Set(node),
                epoch: Set(epoch),
                sequence: Set(sequence),
                earlier: Set(earlier.map(|text| bytes("earlier", &text)).transpose()?),
            };
            insert(database, row).await
        }
        Line::Total {
            service,
            connections,
            requests,
            bytes_in,
            bytes_out,
        } => {
            let row = usage_total::Model {
                service: bytes("service", &service)?,
                connections,
                requests,
                bytes_in,
                bytes_out,
            };
            insert(database, row.into_active_model()).await
        }
        Line::Step {
            level,
            organization,
            start,
            service,
            node,
            counts: [connections, requests, bytes_in, bytes_out],
        } => {
            let row = usage_step::Model {
                level,
                organization: bytes("organization", &organization)?,
                start,
                service: bytes("service", &service)?,
                node,
                connections,
                requests,
                bytes_in,
                bytes_out,
            };
            insert(database, row.into_active_model()).await
        }
        Line::Memo { name, about, memo } => {
            insert(database, memo::Model { name, about, memo }.into_active_model()).await
        }
        // Whoever reads the lines takes these out.
        Line::Begin { .. } | Line::File { .. } | Line::Record { .. } | Line::Position(_) | Line::End => Err(
            StoreError::Backend(Box::new(RowError::new("line", "a line is not where it belongs"))),
        ),
    }
}
