//! Requests that may be sent again.

use kakuremichi_core::{
    audit::AuditEntry,
    store::{
        CommitError, IDEMPOTENCY_LIFE, IdempotencyKey, IdempotentRequest, MAX_IDEMPOTENCY_KEYS, Remembered,
        StoreError,
    },
    time::Timestamp,
};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter,
    QueryOrder, QuerySelect, TryInsertResult, sea_query::Expr,
};

use super::{
    backend,
    entity::idempotency::{ActiveModel, Column, Entity, Model},
    row,
};

/// The time at and before which requests are forgotten.
fn forgotten(now: Timestamp) -> i64 {
    let life = i64::try_from(IDEMPOTENCY_LIFE.as_millis()).unwrap_or(i64::MAX);
    now.as_millis().saturating_sub(life)
}

/// Remembers a request, unless it was carried out. Of two transactions that do it at once, the second waits for the
/// first.
pub(super) async fn remember(
    transaction: &DatabaseTransaction,
    request: IdempotentRequest,
    audit: &AuditEntry,
) -> Result<(), CommitError> {
    let caller = request.key.caller.to_vec();
    Entity::delete_many()
        .filter(Column::At.lte(forgotten(audit.at)))
        .exec(transaction)
        .await
        .map_err(backend)?;
    let row = ActiveModel {
        caller: Set(caller.clone()),
        key: Set(request.key.key.to_vec()),
        request: Set(request.request.to_vec()),
        subject: Set(audit.subject.map(|id| id.to_string())),
        at: Set(audit.at.as_millis()),
        answer: Set(None),
    };
    let outcome = Entity::insert(row)
        .on_conflict_do_nothing()
        .exec_without_returning(transaction)
        .await
        .map_err(backend)?;
    if !matches!(outcome, TryInsertResult::Inserted(1)) {
        return Err(CommitError::Repeated);
    }
    let oldest_kept = Entity::find()
        .filter(Column::Caller.eq(caller.clone()))
        .order_by_desc(Column::At)
        .order_by_desc(Column::Key)
        .offset(MAX_IDEMPOTENCY_KEYS as u64)
        .limit(1)
        .one(transaction)
        .await
        .map_err(backend)?;
    if let Some(first_too_many) = oldest_kept {
        Entity::delete_many()
            .filter(Column::Caller.eq(caller))
            .filter(Column::At.lte(first_too_many.at))
            .filter(Column::Key.ne(request.key.key.to_vec()))
            .exec(transaction)
            .await
            .map_err(backend)?;
    }
    Ok(())
}

pub(super) async fn remembered(
    database: &impl ConnectionTrait,
    key: IdempotencyKey,
    now: Timestamp,
) -> Result<Option<Remembered>, StoreError> {
    let row = Entity::find_by_id((key.caller.to_vec(), key.key.to_vec()))
        .filter(Column::At.gt(forgotten(now)))
        .one(database)
        .await
        .map_err(backend)?;
    row.map(read).transpose()
}

fn read(row: Model) -> Result<Remembered, StoreError> {
    let subject = row.subject.as_deref().map(str::parse).transpose();
    Ok(Remembered {
        request: row::bytes("request", &row.request).map_err(|error| StoreError::Backend(Box::new(error)))?,
        subject: subject.map_err(|error| StoreError::Backend(Box::new(error)))?,
        at: row::time(row.at),
        answer: row.answer,
    })
}

pub(super) async fn keep_answer(
    database: &impl ConnectionTrait,
    key: IdempotencyKey,
    answer: Vec<u8>,
) -> Result<(), StoreError> {
    Entity::update_many()
        .col_expr(Column::Answer, Expr::value(answer))
        .filter(Column::Caller.eq(key.caller.to_vec()))
        .filter(Column::Key.eq(key.key.to_vec()))
        .exec(database)
        .await
        .map_err(backend)?;
    Ok(())
}
