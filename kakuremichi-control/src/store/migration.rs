//! The schema, by steps forward. A step that was released is never changed.

mod m0001_initial;

use sea_orm::{DatabaseConnection, SqliteTransactionMode, TransactionOptions, TransactionTrait};
use sea_orm_migration::{MigrationTrait, MigratorTrait};

use super::ConnectError;

/// All steps, oldest first.
struct Steps;

impl MigratorTrait for Steps {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(m0001_initial::Step)]
    }
}

/// Brings the schema up to date in one transaction, which keeps other processes out meanwhile.
pub(super) async fn run(database: &DatabaseConnection) -> Result<(), ConnectError> {
    let transaction = database.begin_with_options(immediate()).await?;
    let known = Steps::migrations();
    let applied = Steps::get_migration_models(&transaction).await?;
    let newer = applied
        .into_iter()
        .find(|row| known.iter().all(|step| step.name() != row.version));
    if let Some(row) = newer {
        return Err(ConnectError::Newer {
            migration: row.version,
        });
    }
    Steps::up(&transaction, None).await?;
    Ok(transaction.commit().await?)
}

/// A transaction that takes the write lock at its start. One that begins by reading could find, when it
/// comes to write, that somebody else wrote meanwhile; SQLite does not let it wait then.
pub(super) fn immediate() -> TransactionOptions {
    TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    }
}
