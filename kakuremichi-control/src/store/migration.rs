//! The schema, by steps forward. A step that was released is never changed.

mod m0001_initial;
mod m0002_usage_streams;
mod m0003_people;
mod m0003b_policy;
mod m0004_sign_in;
mod m0005_audit_chain;
mod m0005b_usage;
mod m0006_idempotency;
mod m0008_presence;
mod m0009_channels;
mod m0010_approval;
mod m0011_service_tokens;
mod m0013_passkeys;
mod m0014_rotation;
mod m0016_questions;

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, EntityTrait, Statement};
use sea_orm_migration::{MigrationTrait, MigratorTrait, seaql_migrations};

use super::{ConnectError, order::Order, transaction};

/// All steps, oldest first.
struct Steps;

impl MigratorTrait for Steps {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_initial::Step),
            Box::new(m0002_usage_streams::Step),
            Box::new(m0003_people::Step),
            Box::new(m0003b_policy::Step),
            Box::new(m0004_sign_in::Step),
            Box::new(m0005_audit_chain::Step),
            Box::new(m0005b_usage::Step),
            Box::new(m0006_idempotency::Step),
            Box::new(m0008_presence::Step),
            Box::new(m0009_channels::Step),
            Box::new(m0010_approval::Step),
            Box::new(m0011_service_tokens::Step),
            Box::new(m0013_passkeys::Step),
            Box::new(m0014_rotation::Step),
            Box::new(m0016_questions::Step),
        ]
    }
}

/// Which two instances that start at once take on PostgreSQL, so that one waits for the other.
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('kakuremichi.migration', 0))";
/// How long it waits: longer than any step takes.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '10min'";

/// Brings the schema up to date in one transaction, which keeps other processes out meanwhile. Returns how
/// feeds are numbered.
pub(super) async fn run(database: &DatabaseConnection) -> Result<Order, ConnectError> {
    let transaction = transaction::begin(database).await?;
    if transaction.get_database_backend() == DbBackend::Postgres {
        transaction.execute_unprepared(LOCK_TIMEOUT).await?;
        transaction.execute_unprepared(LOCK).await?;
    }
    let applied = Steps::get_migration_models(&transaction).await?;
    known(&applied.into_iter().map(|row| row.version).collect::<Vec<_>>())?;
    Steps::up(&transaction, None).await?;
    let order = Order::settle(&transaction).await?;
    transaction.commit().await?;
    Ok(order)
}

/// The newest step of an SQLite database that is older than this version; nothing for a new one, or one that
/// is up to date.
pub(super) async fn outdated(database: &DatabaseConnection) -> Result<Option<String>, ConnectError> {
    let statement = Statement::from_string(
        DbBackend::Sqlite,
        "SELECT name FROM sqlite_master WHERE name = 'seaql_migrations'",
    );
    if database.query_one_raw(statement).await?.is_none() {
        return Ok(None);
    }
    let applied = seaql_migrations::Entity::find().all(database).await?;
    let mut applied: Vec<_> = applied.into_iter().map(|row| row.version).collect();
    known(&applied)?;
    applied.sort();
    let pending = Steps::migrations().len() > applied.len();
    Ok(applied.pop().filter(|_| pending))
}

/// Checks that the schema is what this version makes it, and changes nothing.
pub(super) async fn check(database: &DatabaseConnection) -> Result<(), ConnectError> {
    let applied = seaql_migrations::Entity::find().all(database).await?;
    let applied: Vec<_> = applied.into_iter().map(|row| row.version).collect();
    known(&applied)?;
    let done = |name: &str| applied.iter().any(|version| name == version);
    if !Steps::migrations().iter().all(|step| done(step.name())) {
        return Err(ConnectError::Older);
    }
    Ok(())
}

/// Checks that there is no step that this version does not know.
fn known(applied: &[String]) -> Result<(), ConnectError> {
    let known = Steps::migrations();
    let unknown = |version: &&String| known.iter().all(|step| step.name() != version.as_str());
    match applied.iter().find(unknown) {
        Some(migration) => Err(ConnectError::Newer {
            migration: migration.clone(),
        }),
        None => Ok(()),
    }
}
