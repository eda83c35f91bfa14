//! Leases: what only one of several processes may do at a time.

use kakuremichi_core::{store::StoreError, time::Timestamp};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, Condition, DatabaseConnection, EntityTrait, QueryFilter, TryInsertResult,
    sea_query::{Expr, ExprTrait, OnConflict},
};

use super::{backend, entity::lease};

/// One statement whose condition is the whole question, so that two who come at once never both have it.
pub(super) async fn hold(
    database: &DatabaseConnection,
    name: &str,
    holder: &str,
    now: Timestamp,
    until: Timestamp,
) -> Result<bool, StoreError> {
    use lease::Column;
    let row = lease::ActiveModel {
        name: Set(name.to_owned()),
        holder: Set(holder.to_owned()),
        until: Set(until.as_millis()),
    };
    let there = |column: Column| Expr::col((lease::Entity, column));
    let free = Condition::any()
        .add(there(Column::Holder).eq(holder))
        .add(there(Column::Until).lte(now.as_millis()));
    let taken = lease::Entity::insert(row)
        .on_conflict(
            OnConflict::column(Column::Name)
                .update_columns([Column::Holder, Column::Until])
                .action_cond_where(free)
                .to_owned(),
        )
        .try_insert()
        .exec_without_returning(database)
        .await
        .map_err(backend)?;
    Ok(matches!(taken, TryInsertResult::Inserted(1)))
}

pub(super) async fn release(
    database: &DatabaseConnection,
    name: &str,
    holder: &str,
) -> Result<(), StoreError> {
    lease::Entity::delete_many()
        .filter(lease::Column::Name.eq(name))
        .filter(lease::Column::Holder.eq(holder))
        .exec(database)
        .await
        .map_err(backend)?;
    Ok(())
}
