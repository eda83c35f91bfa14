//! The directory in which a process keeps its keys, its last plan and its database.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::failure::Failure;

/// Held while a process uses the directory; it contains the process's id.
const LOCK: &str = "lock";

/// A directory that only this user can look into and only this process uses.
///
/// Clones and subdirectories share the lock, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct DataDir {
    path: PathBuf,
    /// None for a visitor: the lock is another process's.
    lock: Option<Arc<File>>,
}

/// Why a directory cannot be used, or a file in it cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Something else has its name.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// Its owner could replace what this process trusts.
    #[error("{} belongs to another user (id {owner})", .path.display())]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// It was there before, holds other things, and others may look into it.
    #[error("{} holds other files and is open to other users (mode {mode:o}): use a directory of its own, or chmod 700 it", .path.display())]
    OpenToOthers {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another process works in it.
    #[error("{} is in use by process {holder}", .path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other process's id, as far as it is known.
        holder: String,
    },
    /// The file system says no.
    #[error("cannot {doing} {}", .path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What came of it.
        #[source]
        source: io::Error,
    },
}

impl DataDir {
    /// Opens a directory, creates it (mode 0700) when it is missing, and locks it for this process.
    ///
    /// An existing directory that others may look into is closed to them when it is empty or was used before, and
    /// refused otherwise: it might be somebody's home.
    ///
    /// # Errors
    ///
    /// Each [`DataDirError`]; nothing has been changed then, except that an empty directory may be left.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        create(path)?;
        let mode = own_directory(path)?;
        if mode & 0o077 != 0 {
            let mut entries = fs::read_dir(path).map_err(io_error("list", path))?;
            if entries.next().is_some() && !path.join(LOCK).is_file() {
                return Err(DataDirError::OpenToOthers {
                    path: path.to_owned(),
                    mode,
                });
            }
            let private = Permissions::from_mode(0o700);
            fs::set_permissions(path, private).map_err(io_error("close to other users", path))?;
        }
        let lock = Some(Arc::new(lock(path)?));
        Ok(Self {
            path: path.to_owned(),
            lock,
        })
    }

    /// Opens a directory that is there, for a command that works beside the process which uses it. It takes no
    /// lock: the process may start meanwhile. Such a command reads, and changes only what is made to be shared,
    /// such as a database.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open), but for [`DataDirError::InUse`].
    pub fn visit(path: &Path) -> Result<Self, DataDirError> {
        let mode = own_directory(path)?;
        // Where nobody has run there is nothing to be read by others; the command finds out by itself.
        if mode & 0o077 != 0 && path.join(LOCK).is_file() {
            return Err(DataDirError::OpenToOthers {
                path: path.to_owned(),
                mode,
            });
        }
        Ok(Self {
            path: path.to_owned(),
            lock: None,
        })
    }

    /// A directory inside this one (mode 0700), under the same lock.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Io`], or something else has its name.
    pub fn subdirectory(&self, name: &str) -> Result<Self, DataDirError> {
        let path = self.path.join(name);
        create(&path)?;
        if !path.is_dir() {
            return Err(DataDirError::NotADirectory(path));
        }
        Ok(Self {
            path,
            lock: self.lock.clone(),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a file of this name is, or would be.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// What a file holds; `None` when there is no such file.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Io`].
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, DataDirError> {
        let path = self.file(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("read", &path)(error)),
        }
    }

    /// Writes a file that is for this user only (mode 0600). After a crash it holds the old bytes or the new.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Io`].
    pub fn write_secret(&self, name: &str, bytes: &[u8]) -> Result<(), DataDirError> {
        self.write(name, bytes, 0o600)
    }

    /// Writes a file that everybody may read once it has been copied elsewhere, such as a CA's certificate
    /// (mode 0644). After a crash it holds the old bytes or the new.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Io`].
    pub fn write_public(&self, name: &str, bytes: &[u8]) -> Result<(), DataDirError> {
        self.write(name, bytes, 0o644)
    }

    fn write(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), DataDirError> {
        let path = self.file(name);
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(&self.path)?;
            file.as_file().set_permissions(Permissions::from_mode(mode))?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            // The rename itself must survive a crash too.
            File::open(&self.path)?.sync_all()
        };
        write().map_err(io_error("write", &path))
    }
}

impl From<DataDirError> for Failure {
    fn from(error: DataDirError) -> Self {
        Self::because("--data", &error)
    }
}

/// The mode of a directory that belongs to this user.
fn own_directory(path: &Path) -> Result<u32, DataDirError> {
    let metadata = fs::metadata(path).map_err(io_error("look at", path))?;
    if !metadata.is_dir() {
        return Err(DataDirError::NotADirectory(path.to_owned()));
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(DataDirError::NotOurs {
            path: path.to_owned(),
            owner: metadata.uid(),
        });
    }
    Ok(metadata.mode() & 0o7777)
}

fn create(path: &Path) -> Result<(), DataDirError> {
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        // What has its name may still be a directory; the caller looks.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        outcome => outcome.map_err(io_error("create", path)),
    }
}

fn lock(directory: &Path) -> Result<File, DataDirError> {
    let path = directory.join(LOCK);
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    let mut file = options.open(&path).map_err(io_error("write", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let read = file.read_to_string(&mut holder);
            let holder = if read.is_ok() && !holder.is_empty() {
                holder
            } else {
                "unknown".to_owned()
            };
            return Err(DataDirError::InUse {
                path: directory.to_owned(),
                holder: holder.trim().to_owned(),
            });
        }
        Err(TryLockError::Error(error)) => return Err(io_error("lock", &path)(error)),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(io_error("write", &path))?;
    Ok(file)
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    move |source| DataDirError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_missing_directory_is_made_for_this_user_only() {
        let top = tempfile::tempdir().unwrap();
        let data = DataDir::open(&top.path().join("a/b")).unwrap();
        assert_eq!(mode(data.path()), 0o700);
        assert_eq!(mode(data.subdirectory("agent").unwrap().path()), 0o700);
        data.write_secret("key", b"one").unwrap();
        data.write_secret("key", b"two").unwrap();
        data.write_public("ca.pem", b"public").unwrap();
        assert_eq!(mode(&data.file("key")), 0o600);
        assert_eq!(mode(&data.file("lock")), 0o600);
        assert_eq!(mode(&data.file("ca.pem")), 0o644);
        assert_eq!(data.read("key").unwrap().unwrap(), b"two");
        assert_eq!(data.read("nothing").unwrap(), None);
        let names = fs::read_dir(data.path()).unwrap().count();
        assert_eq!(names, 4, "lock, agent, key, ca.pem and no temporary file");
    }

    #[test]
    fn two_processes_never_share_one() {
        let top = tempfile::tempdir().unwrap();
        let first = DataDir::open(top.path()).unwrap();
        let error = DataDir::open(top.path()).unwrap_err().to_string();
        assert!(
            error.contains(&format!("in use by process {}", std::process::id())),
            "{error}"
        );
        let sub = first.subdirectory("agent").unwrap();
        drop(first);
        assert!(
            DataDir::open(top.path()).is_err(),
            "a subdirectory keeps the lock"
        );
        let visitor = DataDir::visit(top.path()).unwrap();
        drop(sub);
        DataDir::open(top.path()).unwrap();
        drop(visitor);
    }

    #[test]
    fn a_visitor_keeps_nobody_out_and_makes_nothing() {
        let top = tempfile::tempdir().unwrap();
        let data = top.path().join("data");
        assert!(DataDir::visit(&data).is_err() && !data.exists());
        drop(DataDir::open(&data).unwrap());
        let visitor = DataDir::visit(&data).unwrap();
        let owner = DataDir::open(&data).unwrap();
        drop((visitor, owner));
        fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(
            DataDir::visit(&data),
            Err(DataDirError::OpenToOthers { .. })
        ));
        assert_eq!(mode(&data), 0o755);
    }

    #[test]
    fn somebodys_home_is_refused_and_an_own_directory_is_closed() {
        let top = tempfile::tempdir().unwrap();
        let open = |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        let empty = top.path().join("empty");
        fs::create_dir(&empty).unwrap();
        open(&empty);
        drop(DataDir::open(&empty).unwrap());
        assert_eq!(mode(&empty), 0o700);
        fs::write(empty.join("database"), "x").unwrap();
        open(&empty);
        DataDir::open(&empty).unwrap();
        assert_eq!(mode(&empty), 0o700, "used before");
        let home = top.path().join("home");
        fs::create_dir(&home).unwrap();
        open(&home);
        fs::write(home.join("letter"), "x").unwrap();
        let error = DataDir::open(&home).unwrap_err().to_string();
        assert!(error.contains("open to other users (mode 755)"), "{error}");
        assert_eq!(mode(&home), 0o755);
    }

    #[test]
    fn a_file_is_not_a_directory() {
        let top = tempfile::tempdir().unwrap();
        let file = top.path().join("file");
        fs::write(&file, "x").unwrap();
        let failure = Failure::from(DataDir::open(&file).unwrap_err());
        assert_eq!(
            failure.to_string(),
            format!("--data: {} is not a directory", file.display())
        );
        let below = DataDir::open(&file.join("below")).unwrap_err();
        assert!(
            matches!(below, DataDirError::Io { doing: "create", .. }),
            "{below}"
        );
    }
}
