//! Reading records, whatever their table.

use kakuremichi_core::store::{
    Entity, MAX_PAGE, Page, Query, RecordId, StoreError, StoreRecord, Stored, UniqueKey, Version,
};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::{
    backend,
    entity::unique_key,
    row::{self, RowError},
};

/// The table of one kind of record.
pub(super) trait Table: EntityTrait {
    /// What its rows mean.
    type Domain: Entity;
    /// The primary key, made by [`row::key`].
    const ID: Self::Column;
    /// The owner.
    const ORGANIZATION: Self::Column;
    /// The record that this one is of, where that can be.
    const OWNER: Option<Self::Column> = None;

    /// Makes a row, all columns set.
    fn write(domain: &Self::Domain, version: Version) -> Result<Self::ActiveModel, RowError>;

    /// Understands a row.
    fn read(model: Self::Model) -> Result<(Self::Domain, Version), RowError>;
}

/// Runs `$body` with `$table` as the table of `$kind`.
macro_rules! with_table {
    ($kind:expr, $table:ident => $body:expr) => {{
        use kakuremichi_core::store::RecordKind;
        use $crate::store::entity::{
            api_key, node, organization,
            people::{
                channel, group, identity_provider, invitation, member, role, service_token, session, user,
            },
            policy, service, site, token,
        };
        match $kind {
            RecordKind::Organization => {
                type $table = organization::Entity;
                $body
            }
            RecordKind::Node => {
                type $table = node::Entity;
                $body
            }
            RecordKind::Site => {
                type $table = site::Entity;
                $body
            }
            RecordKind::Service => {
                type $table = service::Entity;
                $body
            }
            RecordKind::Token => {
                type $table = token::Entity;
                $body
            }
            RecordKind::ApiKey => {
                type $table = api_key::Entity;
                $body
            }
            RecordKind::User => {
                type $table = user::Entity;
                $body
            }
            RecordKind::Role => {
                type $table = role::Entity;
                $body
            }
            RecordKind::Group => {
                type $table = group::Entity;
                $body
            }
            RecordKind::Member => {
                type $table = member::Entity;
                $body
            }
            RecordKind::Invitation => {
                type $table = invitation::Entity;
                $body
            }
            RecordKind::Session => {
                type $table = session::Entity;
                $body
            }
            RecordKind::Policy => {
                type $table = policy::Entity;
                $body
            }
            RecordKind::IdentityProvider => {
                type $table = identity_provider::Entity;
                $body
            }
            RecordKind::Channel => {
                type $table = channel::Entity;
                $body
            }
            RecordKind::ServiceToken => {
                type $table = service_token::Entity;
                $body
            }
        }
    }};
}
pub(super) use with_table;

/// Runs `$body` with `$table` as the table of `$record`, and `$entity` as what is in it.
macro_rules! with_record {
    ($record:expr, $table:ident, $entity:ident => $body:expr) => {{
        use kakuremichi_core::store::StoreRecord;
        use $crate::store::entity::{
            api_key, node, organization,
            people::{
                channel, group, identity_provider, invitation, member, role, service_token, session, user,
            },
            policy, service, site, token,
        };
        match $record {
            StoreRecord::Organization($entity) => {
                type $table = organization::Entity;
                $body
            }
            StoreRecord::Node($entity) => {
                type $table = node::Entity;
                $body
            }
            StoreRecord::Site($entity) => {
                type $table = site::Entity;
                $body
            }
            StoreRecord::Service($entity) => {
                type $table = service::Entity;
                $body
            }
            StoreRecord::Token($entity) => {
                type $table = token::Entity;
                $body
            }
            StoreRecord::ApiKey($entity) => {
                type $table = api_key::Entity;
                $body
            }
            StoreRecord::User($entity) => {
                type $table = user::Entity;
                $body
            }
            StoreRecord::Role($entity) => {
                type $table = role::Entity;
                $body
            }
            StoreRecord::Group($entity) => {
                type $table = group::Entity;
                $body
            }
            StoreRecord::Member($entity) => {
                type $table = member::Entity;
                $body
            }
            StoreRecord::Invitation($entity) => {
                type $table = invitation::Entity;
                $body
            }
            StoreRecord::Session($entity) => {
                type $table = session::Entity;
                $body
            }
            StoreRecord::Policy($entity) => {
                type $table = policy::Entity;
                $body
            }
            StoreRecord::IdentityProvider($entity) => {
                type $table = identity_provider::Entity;
                $body
            }
            StoreRecord::Channel($entity) => {
                type $table = channel::Entity;
                $body
            }
            StoreRecord::ServiceToken($entity) => {
                type $table = service_token::Entity;
                $body
            }
        }
    }};
}
pub(super) use with_record;

pub(super) async fn get(
    database: &impl ConnectionTrait,
    id: RecordId,
) -> Result<Option<Stored<StoreRecord>>, StoreError> {
    with_table!(id.kind(), T => get_from::<T>(database, id, false).await)
}

/// Reads a record that the transaction is about to change: nobody else changes it meanwhile.
pub(super) async fn get_locked(
    database: &impl ConnectionTrait,
    id: RecordId,
) -> Result<Option<Stored<StoreRecord>>, StoreError> {
    with_table!(id.kind(), T => get_from::<T>(database, id, true).await)
}

pub(super) async fn find(
    database: &impl ConnectionTrait,
    key: &UniqueKey,
) -> Result<Option<Stored<StoreRecord>>, StoreError> {
    match holder(database, key).await? {
        Some(holder) => get(database, holder).await,
        None => Ok(None),
    }
}

/// Who has this unique value.
pub(super) async fn holder(
    database: &impl ConnectionTrait,
    key: &UniqueKey,
) -> Result<Option<RecordId>, StoreError> {
    let row = unique_key::Entity::find_by_id(key.to_string())
        .one(database)
        .await
        .map_err(backend)?;
    row.map(|row| {
        row.holder
            .parse()
            .map_err(|error| StoreError::Backend(Box::new(error)))
    })
    .transpose()
}

pub(super) async fn list(database: &impl ConnectionTrait, query: Query) -> Result<Page, StoreError> {
    let limit = query.limit.clamp(1, MAX_PAGE);
    let mut records = with_table!(query.kind, T => list_from::<T>(database, query, limit + 1).await)?;
    let more = records.len() > limit;
    records.truncate(limit);
    let next = records.last().filter(|_| more).map(|stored| stored.value.id());
    Ok(Page { records, next })
}

async fn get_from<T: Table>(
    database: &impl ConnectionTrait,
    id: RecordId,
    lock: bool,
) -> Result<Option<Stored<StoreRecord>>, StoreError> {
    let select = T::find().filter(T::ID.eq(row::key(id)));
    let select = if lock { select.lock_exclusive() } else { select };
    let row = select.one(database).await.map_err(backend)?;
    row.map(|row| read::<T>(row).map_err(|error| error.of(id)))
        .transpose()
}

async fn list_from<T: Table>(
    database: &impl ConnectionTrait,
    query: Query,
    limit: usize,
) -> Result<Vec<Stored<StoreRecord>>, StoreError> {
    let mut select = T::find().order_by_asc(T::ID).limit(limit as u64);
    if let Some(organization) = query.organization {
        select = select.filter(T::ORGANIZATION.eq(row::key(organization.into())));
    }
    match (query.owner, T::OWNER) {
        (Some(owner), Some(column)) => select = select.filter(column.eq(row::key(owner))),
        (Some(_), None) => return Ok(Vec::new()),
        (None, _) => {}
    }
    if let Some(after) = query.after {
        select = select.filter(T::ID.gt(row::key(after)));
    }
    let rows = select.all(database).await.map_err(backend)?;
    rows.into_iter()
        .map(|row| read::<T>(row).map_err(|error| StoreError::Backend(Box::new(error))))
        .collect()
}

fn read<T: Table>(row: T::Model) -> Result<Stored<StoreRecord>, RowError> {
    let (value, version) = T::read(row)?;
    Ok(Stored {
        value: value.into(),
        version,
    })
}
