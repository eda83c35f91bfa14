//! What tasks of Control keep about records.

use kakuremichi_core::store::{MAX_PAGE, RecordId, StoreError};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseConnection, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect, TryInsertResult, sea_query::Expr,
};

use super::{backend, entity::memo, feed::unreadable, row};

pub(super) async fn read(
    database: &impl ConnectionTrait,
    about: RecordId,
    name: &str,
) -> Result<Option<String>, StoreError> {
    let row = memo::Entity::find_by_id((name.to_owned(), about.to_string()))
        .one(database)
        .await
        .map_err(backend)?;
    Ok(row.map(|row| row.memo))
}

pub(super) async fn all(
    database: &impl ConnectionTrait,
    name: &str,
    after: Option<RecordId>,
) -> Result<Vec<(RecordId, String)>, StoreError> {
    let mut select = memo::Entity::find().filter(memo::Column::Name.eq(name));
    if let Some(after) = after {
        select = select.filter(memo::Column::About.gt(after.to_string()));
    }
    let rows = select
        .order_by_asc(memo::Column::About)
        .limit(MAX_PAGE as u64)
        .all(database)
        .await
        .map_err(backend)?;
    let read = |row: memo::Model| Ok((row::text("about", &row.about).map_err(unreadable)?, row.memo));
    rows.into_iter().map(read).collect()
}

pub(super) async fn write(
    database: &DatabaseConnection,
    about: RecordId,
    name: &str,
    expected: Option<&str>,
    memo: &str,
) -> Result<bool, StoreError> {
    use memo::Column;
    let Some(expected) = expected else {
        let row = memo::ActiveModel {
            name: Set(name.to_owned()),
            about: Set(about.to_string()),
            memo: Set(memo.to_owned()),
        };
        let inserted = memo::Entity::insert(row)
            .on_conflict_do_nothing()
            .exec_without_returning(database)
            .await
            .map_err(backend)?;
        return Ok(matches!(inserted, TryInsertResult::Inserted(1)));
    };
    let wrote = memo::Entity::update_many()
        .col_expr(Column::Memo, Expr::val(memo))
        .filter(Column::Name.eq(name))
        .filter(Column::About.eq(about.to_string()))
        .filter(Column::Memo.eq(expected))
        .exec(database)
        .await
        .map_err(backend)?;
    Ok(wrote.rows_affected == 1)
}

/// Forgets what belongs to a record that is deleted.
pub(super) async fn forget(database: &impl ConnectionTrait, about: RecordId) -> Result<(), StoreError> {
    memo::Entity::delete_many()
        .filter(memo::Column::About.eq(about.to_string()))
        .exec(database)
        .await
        .map_err(backend)?;
    Ok(())
}
