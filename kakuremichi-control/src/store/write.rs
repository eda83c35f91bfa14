//! Writing batches.

use kakuremichi_core::{
    audit::AuditEntry,
    id::{OrganizationId, TokenId},
    key::IdentityKey,
    model::{EnrolmentToken, Role, TokenUnusable},
    net::{Cidr, Overlay},
    store::{
        Batch, CommitError, Committed, Mutation, RecordId, Sequence, StoreError, StoreRecord, Stored,
        UniqueKey, Version,
    },
    time::Timestamp,
};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, Condition, ConnectionTrait, DatabaseConnection, DatabaseTransaction, EntityTrait, ExprTrait,
    PaginatorTrait, QueryFilter, QuerySelect, TryInsertResult,
    sea_query::{Expr, LockType},
};

use super::{
    backend,
    entity::{audit, change, meta, organization, token, unique_key},
    feed, memo,
    order::{Numbers, Order},
    presence, request, row,
    table::{self, Table, with_record, with_table},
    transaction::{self, Attempts},
    usage, wake,
};

/// The key of the overlay in `meta`.
const OVERLAY: &str = "overlay";
/// The key of the identity that the nodes of this database know.
const IDENTITY: &str = "identity";

pub(super) async fn overlay(database: &DatabaseConnection, fresh: Overlay) -> Result<Overlay, StoreError> {
    let value = first(database, OVERLAY, fresh.cidr().to_string()).await?;
    let network: Cidr = value.parse().map_err(unreadable)?;
    Overlay::try_from(network).map_err(unreadable)
}

/// The identity that was given first.
pub(super) async fn identity(
    database: &DatabaseConnection,
    given: IdentityKey,
) -> Result<IdentityKey, StoreError> {
    let value = first(database, IDENTITY, given.to_string()).await?;
    value.parse().map_err(unreadable)
}

/// What was stored first under a key of `meta`; that is `fresh` if nothing was.
async fn first(database: &DatabaseConnection, key: &str, fresh: String) -> Result<String, StoreError> {
    let row = meta::ActiveModel {
        key: Set(key.to_owned()),
        value: Set(fresh.clone()),
    };
    meta::Entity::insert(row)
        .on_conflict_do_nothing()
        .exec_without_returning(database)
        .await
        .map_err(backend)?;
    let row = meta::Entity::find_by_id(key)
        .one(database)
        .await
        .map_err(backend)?;
    Ok(row.map_or(fresh, |row| row.value))
}

fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Backend(Box::new(error))
}

pub(super) async fn commit(
    database: &DatabaseConnection,
    order: Order,
    batch: Batch,
) -> Result<Committed, CommitError> {
    let mut attempts = Attempts::default();
    loop {
        match attempt(database, order, &batch).await {
            Err(CommitError::Store(error)) if attempts.again(&error).await => {}
            outcome => return outcome,
        }
    }
}

async fn attempt(
    database: &DatabaseConnection,
    order: Order,
    batch: &Batch,
) -> Result<Committed, CommitError> {
    let transaction = transaction::begin(database).await.map_err(backend)?;
    // An error returns here, and the transaction is rolled back when it is dropped.
    if let Some(idempotent) = batch.request {
        request::remember(&transaction, idempotent, &batch.audit).await?;
    }
    let mut changed = Vec::new();
    for mutation in &batch.mutations {
        let organization = apply(&transaction, mutation.clone()).await?;
        changed.push((mutation.record(), organization));
    }
    let numbers = order.numbers(&transaction).await?;
    let sequence = feed_changes(&transaction, numbers.clone(), changed).await?;
    write_audit(&transaction, numbers, batch.audit.clone()).await?;
    let sequence = match sequence {
        Some(sequence) => sequence,
        None => feed::last_change(&transaction, order).await?,
    };
    wake::notify(&transaction).await.map_err(backend)?;
    transaction.commit().await.map_err(backend)?;
    Ok(Committed { sequence })
}

/// Applies a mutation, and says whose record it changed.
async fn apply(
    transaction: &DatabaseTransaction,
    mutation: Mutation,
) -> Result<Option<OrganizationId>, CommitError> {
    match mutation {
        Mutation::Create(record) => create(transaction, record).await,
        Mutation::Update(record, expected) => update(transaction, record, expected).await,
        Mutation::Delete(id, expected) => delete(transaction, id, expected).await,
        Mutation::ConsumeToken { token, role, now } => consume(transaction, token, role, now).await,
    }
}

async fn create(
    transaction: &DatabaseTransaction,
    record: StoreRecord,
) -> Result<Option<OrganizationId>, CommitError> {
    let id = record.id();
    if table::get(transaction, id).await?.is_some() {
        return Err(CommitError::Exists(id));
    }
    within_bound(transaction, &record).await?;
    take_unique(transaction, &record).await?;
    with_record!(&record, T, entity => {
        let row = T::write(entity, Version(1)).map_err(|error| error.of(id))?;
        T::insert(row).exec_without_returning(transaction).await.map_err(backend)?;
    });
    Ok(record.organization())
}

/// Checks that the organization can have one more of the kind. Its row is locked first: of those who create at the same
/// time, each counts what the one before it has created.
async fn within_bound(transaction: &DatabaseTransaction, record: &StoreRecord) -> Result<(), CommitError> {
    let kind = record.id().kind();
    let (Some(most), Some(owner)) = (kind.most_in_organization(), record.organization()) else {
        return Ok(());
    };
    organization::Entity::find()
        .filter(organization::Column::Id.eq(row::key(owner.into())))
        // As a change of a column that is no key locks it, so that records which name it can be written meanwhile.
        .lock(LockType::NoKeyUpdate)
        .one(transaction)
        .await
        .map_err(backend)?;
    let count = with_table!(kind, T => {
        T::find()
            .filter(T::ORGANIZATION.eq(row::key(owner.into())))
            .count(transaction)
            .await
            .map_err(backend)?
    });
    if count >= most as u64 {
        return Err(CommitError::Bound { kind, most });
    }
    Ok(())
}

async fn update(
    transaction: &DatabaseTransaction,
    record: StoreRecord,
    expected: Version,
) -> Result<Option<OrganizationId>, CommitError> {
    let id = record.id();
    let old = at_version(transaction, id, Some(expected)).await?;
    free_unique(transaction, id).await?;
    take_unique(transaction, &record).await?;
    with_record!(&record, T, entity => {
        let row = T::write(entity, Version(expected.0 + 1)).map_err(|error| error.of(id))?;
        T::update_many()
            .set(row)
            .filter(T::ID.eq(row::key(id)))
            .exec(transaction)
            .await
            .map_err(backend)?;
    });
    Ok(old.value.organization())
}

async fn delete(
    transaction: &DatabaseTransaction,
    id: RecordId,
    expected: Option<Version>,
) -> Result<Option<OrganizationId>, CommitError> {
    let old = at_version(transaction, id, expected).await?;
    free_unique(transaction, id).await?;
    usage::forget_of(transaction, id).await?;
    memo::forget(transaction, id).await?;
    if let RecordId::Node(node) = id {
        presence::forget(transaction, node).await?;
    }
    with_table!(id.kind(), T => {
        T::delete_many()
            .filter(T::ID.eq(row::key(id)))
            .exec(transaction)
            .await
            .map_err(backend)?;
    });
    Ok(old.value.organization())
}

async fn at_version(
    transaction: &DatabaseTransaction,
    id: RecordId,
    expected: Option<Version>,
) -> Result<Stored<StoreRecord>, CommitError> {
    let old = table::get_locked(transaction, id)
        .await?
        .ok_or(CommitError::Missing(id))?;
    match expected {
        Some(expected) if expected != old.version => Err(CommitError::Stale(id)),
        Some(_) | None => Ok(old),
    }
}

/// Takes a use by one statement whose condition is the whole of [`EnrolmentToken::usable`]; only if it
/// changed nothing is the reason looked for.
async fn consume(
    transaction: &DatabaseTransaction,
    id: TokenId,
    role: Role,
    now: Timestamp,
) -> Result<Option<OrganizationId>, CommitError> {
    use token::Column;
    let open = |column: Column, holds: sea_orm::sea_query::SimpleExpr| {
        Condition::any().add(column.is_null()).add(holds)
    };
    let taken = token::Entity::update_many()
        .col_expr(Column::UsesLeft, Expr::col(Column::UsesLeft).sub(1))
        .col_expr(Column::Version, Expr::col(Column::Version).add(1))
        .filter(Column::Id.eq(row::key(id.into())))
        .filter(Column::Role.eq(role.as_str()))
        .filter(Column::Revoked.is_null())
        .filter(open(Column::Expires, Column::Expires.gt(now.as_millis())))
        .filter(open(Column::UsesLeft, Column::UsesLeft.gt(0)))
        .exec(transaction)
        .await
        .map_err(backend)?;
    let token = table::get(transaction, id.into()).await?;
    let Some(token) = token.and_then(Stored::narrow::<EnrolmentToken>) else {
        return Err(TokenUnusable::Unknown.into());
    };
    if taken.rows_affected == 0 {
        token.value.usable(role, now)?;
        // The row was there, usable, and not changed: it was locked against others all the time.
        return Err(CommitError::Stale(id.into()));
    }
    Ok(Some(token.value.organization))
}

pub(super) async fn take_unique(
    transaction: &DatabaseTransaction,
    record: &StoreRecord,
) -> Result<(), CommitError> {
    for key in record.unique_keys() {
        let row = unique_key::ActiveModel {
            key: Set(key.to_string()),
            holder: Set(record.id().to_string()),
        };
        let outcome = unique_key::Entity::insert(row)
            .on_conflict_do_nothing()
            .exec_without_returning(transaction)
            .await
            .map_err(backend)?;
        if !matches!(outcome, TryInsertResult::Inserted(1)) {
            return Err(taken(transaction, key).await?);
        }
    }
    Ok(())
}

async fn taken(transaction: &DatabaseTransaction, key: UniqueKey) -> Result<CommitError, StoreError> {
    match table::holder(transaction, &key).await? {
        Some(holder) => Ok(CommitError::Taken { key, holder }),
        None => Err(transaction::vanished()),
    }
}

async fn free_unique(transaction: &DatabaseTransaction, id: RecordId) -> Result<(), StoreError> {
    unique_key::Entity::delete_many()
        .filter(unique_key::Column::Holder.eq(id.to_string()))
        .exec(transaction)
        .await
        .map_err(backend)?;
    Ok(())
}

/// Writes the rows of the change feed; returns the number of the last.
async fn feed_changes(
    transaction: &DatabaseTransaction,
    mut numbers: Numbers,
    changed: Vec<(RecordId, Option<OrganizationId>)>,
) -> Result<Option<Sequence>, StoreError> {
    let mut last = None;
    for (record, organization) in changed {
        let row = change::ActiveModel {
            sequence: numbers.next()?,
            record: Set(record.to_string()),
            organization: Set(row::owner_of_change(organization)),
        };
        let inserted = change::Entity::insert(row)
            .exec(transaction)
            .await
            .map_err(backend)?;
        last = Some(inserted.last_insert_id);
    }
    if let Some(last) = last {
        feed::forget_changes(transaction, last).await?;
    }
    Ok(last.map(|last| Sequence(row::number(last))))
}

async fn write_audit(
    transaction: &impl ConnectionTrait,
    mut numbers: Numbers,
    entry: AuditEntry,
) -> Result<(), StoreError> {
    let (authority, actor) = entry
        .actor
        .map(|actor| (actor.authority().to_owned(), actor.subject().to_owned()))
        .unzip();
    let row = audit::ActiveModel {
        sequence: numbers.next()?,
        at: Set(entry.at.as_millis()),
        authority: Set(authority),
        actor: Set(actor),
        organization: Set(entry.organization.map(|id| row::key(id.into()))),
        action: Set(entry.action),
        subject: Set(entry.subject.map(|id| id.to_string())),
        hash: Set(None),
    };
    audit::Entity::insert(row)
        .exec_without_returning(transaction)
        .await
        .map_err(backend)?;
    Ok(())
}
