//! The schema, by steps forward. A step that was released is never changed.

mod m0001_initial;
mod m0002_usage_streams;
mod m0003_people;
mod m0003b_policy;

use sea_orm::{DatabaseConnection, EntityTrait, SqliteTransactionMode, TransactionOptions, TransactionTrait};
use sea_orm_migration::{MigrationTrait, MigratorTrait, seaql_migrations};

use super::ConnectError;

/// All steps, oldest first.
struct Steps;

impl MigratorTrait for Steps {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_initial::Step),
            Box::new(m0002_usage_streams::Step),
            Box::new(m0003_people::Step),
            Box::new(m0003b_policy::Step),
        ]
    }
}

/// Brings the schema up to date in one transaction, which keeps other processes out meanwhile.
pub(super) async fn run(database: &DatabaseConnection) -> Result<(), ConnectError> {
    let transaction = database.begin_with_options(immediate()).await?;
    let applied = Steps::get_migration_models(&transaction).await?;
    known(&applied.into_iter().map(|row| row.version).collect::<Vec<_>>())?;
    Steps::up(&transaction, None).await?;
    Ok(transaction.commit().await?)
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

/// A transaction that takes the write lock at its start. One that begins by reading could find, when it
/// comes to write, that somebody else wrote meanwhile; SQLite does not let it wait then.
pub(super) fn immediate() -> TransactionOptions {
    TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    }
}
