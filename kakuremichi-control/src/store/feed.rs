//! The change feed.

use kakuremichi_core::store::{Change, MAX_FEED, MAX_PAGE, Sequence, StoreError};
use sea_orm::{ColumnTrait, ConnectionTrait, DbBackend, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::{
    backend,
    entity::change,
    order::{self, Looks, Order},
    row::{self, RowError},
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
