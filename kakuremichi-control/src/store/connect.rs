//! Opening a database: its file or its server, its connections, its schema.

mod copy;
mod postgres;

pub use postgres::MAX_CONNECTIONS;

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use sea_orm::{ConnectOptions, Database, DatabaseConnection, DbErr};

use super::{SqlStore, migration, order::Order, wake::Wake};

/// The most connections that read at once. Who finds all of them taken waits, for as long as
/// `ACQUIRE_TIMEOUT`; then reading fails.
pub const MAX_READERS: u32 = 4;
/// How long to wait for a connection of the pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for another process (the command line) to end its write.
const BUSY_TIMEOUT_MS: u64 = 10_000;

/// A database cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL is not of a database that is supported.
    #[error(
        "a database URL is `sqlite://` and the path of a file, or `postgres://USER:PASSWORD@HOST/DATABASE`"
    )]
    Url,
    /// The PostgreSQL server cannot be reached, or does not let us in.
    #[error("the PostgreSQL database cannot be reached")]
    Postgres(#[source] sqlx::Error),
    /// The file cannot be created or opened.
    #[error("the database file {} cannot be opened", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The database cannot be copied before its schema is brought up to date, so it was not.
    #[error("the database cannot be copied to {} before it is brought up to date", .path.display())]
    Copy {
        /// The copy.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The schema has migrations that this version does not know.
    #[error(
        "the database was written by a newer version (its schema has {migration}, which this one does not \
         know): run that version, or restore the backup from before the upgrade"
    )]
    Newer {
        /// The first unknown migration.
        migration: String,
    },
    /// The schema is not brought up to date yet.
    #[error(
        "the database was written by an older version: run this version's Control first, which brings it up to date"
    )]
    Older,
    /// The database answers with an error, or is none.
    #[error("the database cannot be used")]
    Database(#[from] DbErr),
}

impl SqlStore {
    /// Opens the database at `url`, and brings its schema up to date: `sqlite://` and a path, whose file is
    /// created when it is not there, readable by its owner only; or `postgres://USER:PASSWORD@HOST/DATABASE`.
    /// What a PostgreSQL URL leaves out is as libpq has it: `sslmode` is `prefer`, and the variables `PGHOST`,
    /// `PGUSER` and their like count.
    ///
    /// # Errors
    /// When the URL is of another kind, the file or the server cannot be opened, or the schema is newer than
    /// this version.
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        if !postgres::accepts(url) {
            return Self::open(sqlite_path(url)?).await;
        }
        let pool = postgres::pool(url).await?;
        let order = migration::run(&pool).await?;
        Ok(Self::new(pool.clone(), pool, order))
    }

    /// Opens the database at `url` as [`visit`](Self::visit) does.
    ///
    /// # Errors
    /// When the file or the server cannot be opened, or the schema is older or newer than this version.
    pub async fn visit_url(url: &str) -> Result<Self, ConnectError> {
        if !postgres::accepts(url) {
            return Self::visit(sqlite_path(url)?).await;
        }
        let pool = postgres::pool(url).await?;
        migration::check(&pool).await?;
        let order = Order::read(&pool).await?;
        Ok(Self::new(pool.clone(), pool, order))
    }

    /// Opens the database in the file at `path`; see [`connect`](Self::connect). Before an older schema is
    /// brought up to date, the database is copied to a file beside it, which is named after that schema.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, ConnectError> {
        let path = path.as_ref();
        // SQLite gives the files beside it (`-wal`, `-shm`) the mode of this one.
        fs::OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| ConnectError::File {
                path: path.to_owned(),
                source,
            })?;
        let writer = pool(path, 1, false).await?;
        if let Some(schema) = migration::outdated(&writer).await? {
            copy::keep(&writer, path, &schema).await?;
        }
        let order = migration::run(&writer).await?;
        let readers = pool(path, MAX_READERS, true).await?;
        Ok(Self::new(writer, readers, order))
    }

    /// Opens the database in the file at `path` for a command that works beside the process which owns it:
    /// nothing is created, and the schema has to be this version's.
    ///
    /// # Errors
    /// When the file cannot be opened, or its schema is older or newer than this version.
    pub async fn visit(path: impl AsRef<Path>) -> Result<Self, ConnectError> {
        let path = path.as_ref();
        fs::metadata(path).map_err(|source| ConnectError::File {
            path: path.to_owned(),
            source,
        })?;
        let writer = pool(path, 1, false).await?;
        migration::check(&writer).await?;
        let order = Order::read(&writer).await?;
        let readers = pool(path, MAX_READERS, true).await?;
        Ok(Self::new(writer, readers, order))
    }

    fn new(writer: DatabaseConnection, readers: DatabaseConnection, order: Order) -> Self {
        let wake = Wake::new(&writer);
        Self {
            writer,
            readers,
            order,
            wake,
        }
    }

    /// Closes the connections, after what runs on them has ended.
    ///
    /// # Errors
    /// When the database fails to.
    pub async fn close(&self) -> Result<(), ConnectError> {
        self.readers.close_by_ref().await?;
        Ok(self.writer.close_by_ref().await?)
    }
}

/// The path in an SQLite URL. Others are not repeated: they could hold a password.
fn sqlite_path(url: &str) -> Result<&str, ConnectError> {
    url.strip_prefix("sqlite://")
        .filter(|path| !path.is_empty() && !path.starts_with(':') && !path.contains('?'))
        .ok_or(ConnectError::Url)
}

async fn pool(path: &Path, connections: u32, read_only: bool) -> Result<DatabaseConnection, DbErr> {
    let mut options = ConnectOptions::new("sqlite://");
    let path = path.to_owned();
    options
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // Statements carry what should not be in a log.
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(move |options| {
            options
                .filename(&path)
                .create_if_missing(false)
                .foreign_keys(true)
                .busy_timeout(Duration::from_millis(BUSY_TIMEOUT_MS))
                .pragma("journal_mode", "WAL")
                // A commit that was answered survives a power cut: a plan's revision must not go back.
                .pragma("synchronous", "FULL")
                .pragma("query_only", if read_only { "ON" } else { "OFF" })
        });
    Database::connect(options).await
}
