//! Transactions that write, on both databases.

use std::{error::Error, time::Duration};

use kakuremichi_core::store::StoreError;
use sea_orm::{
    DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, IsolationLevel, RuntimeErr,
    SqliteTransactionMode, TransactionOptions, TransactionTrait,
};

/// How often a transaction is tried that others came in the way of.
const ATTEMPTS: u32 = 20;
/// The pause before it is tried again; one more of it each time.
const PAUSE: Duration = Duration::from_millis(3);

/// What PostgreSQL says of a transaction that will do when it is tried again: it could not be serialized, it
/// was chosen to end a deadlock, or somebody else's row came first and is seen the next time.
const CONTENTION: [&str; 3] = ["40001", "40P01", "23505"];

/// Begins a transaction that writes.
///
/// On SQLite it takes the write lock at its start. One that begins by reading could find, when it comes to
/// write, that somebody else wrote meanwhile; SQLite does not let it wait then.
///
/// On PostgreSQL writers run side by side. Each statement sees what was committed before it, and each row that
/// a decision rests on is locked by the statement that reads it: the version of a record, the use of a token,
/// the totals of a service. Unique values are rows of their own, and the second who inserts one waits for the
/// first. So the outcome is that of writing one after the other, and only those wait who want the same rows.
pub(super) async fn begin(database: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    let options = match database.get_database_backend() {
        DbBackend::Postgres => TransactionOptions {
            isolation_level: Some(IsolationLevel::ReadCommitted),
            ..TransactionOptions::default()
        },
        _ => TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        },
    };
    database.begin_with_options(options).await
}

/// Counts how often a transaction was tried.
#[derive(Debug, Default)]
pub(super) struct Attempts(u32);

impl Attempts {
    /// Whether a transaction that failed is worth another attempt; waits a little if so.
    pub(super) async fn again(&mut self, error: &StoreError) -> bool {
        self.0 += 1;
        if self.0 >= ATTEMPTS || !is_contention(error) {
            return false;
        }
        tokio::time::sleep(PAUSE * self.0).await;
        true
    }
}

/// What was there a moment ago is gone: somebody else deleted it in between.
#[derive(Debug, thiserror::Error)]
#[error("a row vanished while it was looked at")]
struct Vanished;

/// The error for what can only be because of another transaction.
pub(super) fn vanished() -> StoreError {
    StoreError::Backend(Box::new(Vanished))
}

fn is_contention(error: &StoreError) -> bool {
    let StoreError::Backend(source) = error else {
        return false;
    };
    let source: &(dyn Error + 'static) = source.as_ref();
    if source.is::<Vanished>() {
        return true;
    }
    let Some(DbErr::Exec(cause) | DbErr::Query(cause) | DbErr::Conn(cause)) = source.downcast_ref() else {
        return false;
    };
    let RuntimeErr::SqlxError(cause) = cause else {
        return false;
    };
    let Some(answer) = cause.as_database_error() else {
        return false;
    };
    answer.code().is_some_and(|code| CONTENTION.contains(&&*code))
}
