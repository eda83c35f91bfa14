//! The copy of an SQLite database that is kept before its schema changes.

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement};

use super::ConnectError;

/// Copies the database at `path` to `PATH.SCHEMA`, for its owner only. One that is there is of an upgrade that
/// did not come to its end, so the database is still what it was, and it is replaced.
pub(super) async fn keep(
    database: &DatabaseConnection,
    path: &Path,
    schema: &str,
) -> Result<(), ConnectError> {
    let kept = beside(path, schema);
    let partial = beside(&kept, "partial");
    let error = |source| ConnectError::Copy {
        path: kept.clone(),
        source,
    };
    make_private(&partial).map_err(error)?;
    let copy = Statement::from_sql_and_values(
        DbBackend::Sqlite,
        "VACUUM INTO ?",
        [partial.to_string_lossy().into_owned().into()],
    );
    database.execute_raw(copy).await?;
    finish(&partial, &kept).map_err(error)?;
    tracing::info!(path = %kept.display(), "kept the database as it was before the upgrade");
    Ok(())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// SQLite fills a file that is empty, and leaves it its mode.
fn make_private(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)?;
    Ok(())
}

/// After a crash there is the whole copy, or none of this name.
fn finish(partial: &Path, kept: &Path) -> io::Result<()> {
    fs::File::open(partial)?.sync_all()?;
    fs::rename(partial, kept)?;
    let directory = kept.parent().filter(|parent| !parent.as_os_str().is_empty());
    fs::File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()
}
