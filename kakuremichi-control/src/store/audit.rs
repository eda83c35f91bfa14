//! The audit, and its chain.

use data_encoding::HEXLOWER;
use kakuremichi_core::{
    audit::{AuditChain, AuditEntry, AuditLink, AuditQuery, AuditRow},
    auth::Principal,
    store::{Sequence, StoreError},
};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction, EntityTrait, QueryFilter,
    QueryOrder, QuerySelect, Select,
    sea_query::{Expr, ExprTrait, Func},
};

use super::{
    backend,
    entity::{audit, meta},
    feed::unreadable,
    order::{Looks, Order},
    row::{self, RowError},
    transaction::{self, Attempts},
};

/// The key of the newest link in `meta`.
const HEAD: &str = "audit_head";
/// The key of the link behind which the audit begins in `meta`.
const START: &str = "audit_start";

/// What is behind a place, as a feed.
pub(super) async fn behind(
    database: &impl ConnectionTrait,
    order: Order,
    after: Sequence,
) -> Result<Vec<(Sequence, AuditEntry)>, StoreError> {
    let query = AuditQuery {
        after: Some(after),
        ..AuditQuery::default()
    };
    let rows = rows(database, order, &query).await?;
    Ok(rows.into_iter().map(|row| (row.sequence, row.entry)).collect())
}

pub(super) async fn rows(
    database: &impl ConnectionTrait,
    order: Order,
    query: &AuditQuery,
) -> Result<Vec<AuditRow>, StoreError> {
    let mut looks = Looks::default();
    while let Some(bound) = order.next_bound(database, &mut looks).await? {
        let mut select = select(query);
        // The newest are none that others may yet appear in front of.
        if let (true, Some(end)) = (query.newest_first, bound.end()) {
            select = select.filter(audit::Column::Sequence.lt(end));
        }
        let rows = select.all(database).await.map_err(backend)?;
        let read = rows.len();
        let rows = rows.into_iter().filter(|row| bound.allows(row.sequence));
        let found: Result<Vec<_>, _> = rows.map(|row| read_row(row).map_err(unreadable)).collect();
        match found {
            Ok(found) if looks.look_again(found.len(), read) => {}
            outcome => return outcome,
        }
    }
    Ok(Vec::new())
}

fn select(query: &AuditQuery) -> Select<audit::Entity> {
    use audit::Column;
    let mut select = audit::Entity::find().limit(query.page() as u64);
    select = match query.newest_first {
        true => select.order_by_desc(Column::Sequence),
        false => select.order_by_asc(Column::Sequence),
    };
    if let Some(after) = query.after.map(|after| row::count(after.0)) {
        select = select.filter(match query.newest_first {
            true => Column::Sequence.lt(after),
            false => Column::Sequence.gt(after),
        });
    }
    if let Some(organization) = query.organization {
        select = select.filter(Column::Organization.eq(row::key(organization.into())));
    }
    if let Some(actor) = &query.actor {
        select = select.filter(Column::Actor.eq(actor.as_str()));
    }
    if let Some(action) = &query.action {
        select = match action.ends_with('.') {
            true => select.filter(begins_with(Column::Action, action)),
            false => select.filter(Column::Action.eq(action.as_str())),
        };
    }
    if let Some(subject) = query.subject {
        select = select.filter(Column::Subject.eq(subject.to_string()));
    }
    if let Some(from) = query.from {
        select = select.filter(Column::At.gte(from.as_millis()));
    }
    if let Some(to) = query.to {
        select = select.filter(Column::At.lt(to.as_millis()));
    }
    select
}

/// `LIKE` has characters of its own, and on SQLite does not tell upper case from lower case.
fn begins_with(column: audit::Column, prefix: &str) -> Expr {
    let characters = i32::try_from(prefix.chars().count()).unwrap_or(i32::MAX);
    let beginning = Func::cust("substr").args([Expr::col(column), Expr::val(1_i32), Expr::val(characters)]);
    Expr::expr(beginning).eq(prefix)
}

fn read_row(row: audit::Model) -> Result<AuditRow, RowError> {
    let organization = row.organization.as_deref().map(row::organization).transpose()?;
    let subject = row.subject.map(|text| row::text("subject", &text)).transpose()?;
    let hash = row.hash.map(|hash| {
        let hash: Result<[u8; 32], _> = hash.as_slice().try_into();
        hash.map_err(|error| RowError::new("hash", error))
    });
    Ok(AuditRow {
        sequence: Sequence(row::number(row.sequence)),
        entry: AuditEntry {
            at: row::time(row.at),
            actor: row
                .authority
                .zip(row.actor)
                .map(|(authority, actor)| Principal::new(authority, actor)),
            organization,
            action: row.action,
            subject,
        },
        hash: hash.transpose()?,
    })
}

pub(super) async fn chain(database: &impl ConnectionTrait) -> Result<AuditChain, StoreError> {
    let head = text(database, HEAD).await?;
    let (start, proof) = read_start(text(database, START).await?.as_deref())?;
    Ok(AuditChain {
        start,
        proof,
        head: head.map_or(Ok(AuditLink::default()), |text| read_link(&text))?,
    })
}

async fn text(database: &impl ConnectionTrait, key: &str) -> Result<Option<String>, StoreError> {
    let row = meta::Entity::find_by_id(key)
        .one(database)
        .await
        .map_err(backend)?;
    Ok(row.map(|row| row.value))
}

/// The start is a link, behind which stands, once something was pruned, a space and the proof.
fn read_start(text: Option<&str>) -> Result<(AuditLink, Option<[u8; 32]>), StoreError> {
    match text.map(|text| text.split_once(' ').ok_or(text)) {
        None => Ok((AuditLink::default(), None)),
        Some(Err(link)) => Ok((read_link(link)?, None)),
        Some(Ok((link, proof))) => {
            let proof = HEXLOWER.decode(proof.as_bytes()).ok();
            let proof = proof.and_then(|proof| proof.try_into().ok());
            let wrong = || unreadable(RowError::new("value", "it is no proof of the audit's start"));
            Ok((read_link(link)?, Some(proof.ok_or_else(wrong)?)))
        }
    }
}

fn read_link(text: &str) -> Result<AuditLink, StoreError> {
    let parsed = text.split_once(':').and_then(|(sequence, hash)| {
        let hash = HEXLOWER.decode(hash.as_bytes()).ok()?;
        Some(AuditLink {
            sequence: Sequence(sequence.parse().ok()?),
            hash: hash.try_into().ok()?,
        })
    });
    parsed.ok_or_else(|| unreadable(RowError::new("value", "it is no link of the audit's chain")))
}

fn write_link(link: AuditLink) -> String {
    format!("{}:{}", link.sequence.0, HEXLOWER.encode(&link.hash))
}

pub(super) async fn seal(
    database: &DatabaseConnection,
    head: AuditLink,
    links: &[AuditLink],
) -> Result<bool, StoreError> {
    let mut attempts = Attempts::default();
    loop {
        match attempt(database, head, links).await {
            Err(error) if attempts.again(&error).await => {}
            outcome => return outcome,
        }
    }
}

async fn attempt(
    database: &DatabaseConnection,
    head: AuditLink,
    links: &[AuditLink],
) -> Result<bool, StoreError> {
    let transaction = transaction::begin(database).await.map_err(backend)?;
    let text = locked(&transaction, HEAD).await?;
    if read_link(&text)? != head {
        return Ok(false);
    }
    for link in links {
        let sealed = audit::Entity::update_many()
            .col_expr(audit::Column::Hash, Expr::val(link.hash.to_vec()))
            .filter(audit::Column::Sequence.eq(row::count(link.sequence.0)))
            .filter(audit::Column::Hash.is_null())
            .exec(&transaction)
            .await
            .map_err(backend)?;
        if sealed.rows_affected != 1 {
            let error = RowError::new("hash", "an entry of the audit is not there, or is sealed already");
            return Err(unreadable(error));
        }
    }
    let newest = meta::ActiveModel {
        key: Set(HEAD.to_owned()),
        value: Set(write_link(links.last().copied().unwrap_or(head))),
    };
    meta::Entity::update(newest)
        .exec(&transaction)
        .await
        .map_err(backend)?;
    transaction.commit().await.map_err(backend)?;
    Ok(true)
}

pub(super) async fn prune(
    database: &DatabaseConnection,
    start: AuditLink,
    to: AuditLink,
    proof: [u8; 32],
) -> Result<bool, StoreError> {
    let mut attempts = Attempts::default();
    loop {
        match attempt_to_prune(database, start, to, proof).await {
            Err(error) if attempts.again(&error).await => {}
            outcome => return outcome,
        }
    }
}

async fn attempt_to_prune(
    database: &DatabaseConnection,
    start: AuditLink,
    to: AuditLink,
    proof: [u8; 32],
) -> Result<bool, StoreError> {
    use audit::Column;
    let transaction = transaction::begin(database).await.map_err(backend)?;
    let text = locked(&transaction, START).await?;
    if read_start(Some(&text))?.0 != start {
        return Ok(false);
    }
    let last = row::count(to.sequence.0);
    let row = audit::Entity::find_by_id(last)
        .one(&transaction)
        .await
        .map_err(backend)?;
    if row.and_then(|row| row.hash).as_deref() != Some(&to.hash[..]) {
        let error = RowError::new("hash", "an entry of the audit is not there, or has another link");
        return Err(unreadable(error));
    }
    audit::Entity::delete_many()
        .filter(Column::Sequence.lte(last))
        .exec(&transaction)
        .await
        .map_err(backend)?;
    let newest = meta::ActiveModel {
        key: Set(START.to_owned()),
        value: Set(format!("{} {}", write_link(to), HEXLOWER.encode(&proof))),
    };
    meta::Entity::update(newest)
        .exec(&transaction)
        .await
        .map_err(backend)?;
    transaction.commit().await.map_err(backend)?;
    Ok(true)
}

/// A link in `meta`, which nobody else changes until the transaction ends.
async fn locked(transaction: &DatabaseTransaction, key: &str) -> Result<String, StoreError> {
    let first = meta::ActiveModel {
        key: Set(key.to_owned()),
        value: Set(write_link(AuditLink::default())),
    };
    // A row that is there can be locked.
    meta::Entity::insert(first)
        .on_conflict_do_nothing()
        .exec_without_returning(transaction)
        .await
        .map_err(backend)?;
    let row = meta::Entity::find_by_id(key)
        .lock_exclusive()
        .one(transaction)
        .await
        .map_err(backend)?
        .ok_or_else(transaction::vanished)?;
    Ok(row.value)
}
