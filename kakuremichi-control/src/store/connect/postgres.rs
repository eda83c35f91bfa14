//! Connections to a PostgreSQL server.

use sea_orm::{DatabaseConnection, SqlxPostgresConnector};
use sqlx::{
    ConnectOptions,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::{ACQUIRE_TIMEOUT, ConnectError};

/// The most connections to a PostgreSQL server, but for the one that listens to other instances. Who finds
/// all of them taken waits, as for a reader of SQLite.
pub const MAX_CONNECTIONS: u32 = 10;

/// What every connection asks of the server. A process that hangs, or a machine that vanishes in the middle
/// of a transaction, must not hold everybody else's rows for ever.
const SETTINGS: [(&str, &str); 3] = [
    ("idle_in_transaction_session_timeout", "30s"),
    ("lock_timeout", "10s"),
    ("client_min_messages", "warning"),
];

/// Whether a URL is of a PostgreSQL database.
pub(super) fn accepts(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

/// Opens a pool. It is made here and not by sea-orm, whose spans would show the password in the URL.
pub(super) async fn pool(url: &str) -> Result<DatabaseConnection, ConnectError> {
    let options: PgConnectOptions = url.parse().map_err(ConnectError::Postgres)?;
    let options = options
        .application_name("kakuremichi-control")
        .options(SETTINGS)
        // Statements carry what should not be in a log.
        .disable_statement_logging();
    let pool = PgPoolOptions::new()
        .max_connections(MAX_CONNECTIONS + 1)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_with(options)
        .await
        .map_err(ConnectError::Postgres)?;
    Ok(SqlxPostgresConnector::from_sqlx_postgres_pool(pool))
}
