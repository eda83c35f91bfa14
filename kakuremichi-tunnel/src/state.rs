//! The state directory: what a node has to remember when it starts again.
//!
//! Keys, the enrolment, the last good plan and usage that Control has not acknowledged. The directory is
//! 0700 and each file 0600; a file is replaced whole, by a rename, after its bytes are on the disk.
//! All methods block for as long as the disk does.

mod enrolment;
mod file;
mod rotation;

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use kakuremichi_core::secret::Secret;

pub use enrolment::Enrolment;

use crate::keys::{self, KeyError, NodeKeys};

/// The longest plan, and the longest usage report, that is read back, in bytes.
pub const MAX_BLOB: u64 = 64 * 1024 * 1024;

const LOCK: &str = "state.lock";
const IDENTITY: &str = "identity.pk8";
const WIREGUARD: &str = "wireguard.key";
const ENROLMENT: &str = "enrolment";
const PLAN: &str = "plan";
const USAGE: &str = "usage";
/// The private key of a gateway's own certificate authority.
pub(crate) const CA_KEY: &str = "ca.key";
/// What a gateway signs sessions of visitors with.
pub(crate) const SIGNING: &str = "signing.keys";
/// Where a gateway's peers were last.
pub(crate) const PEERS: &str = "peers";

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
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
    /// Another process, or another part of this one, works with it.
    #[error("the state directory {} is in use by another node", .0.display())]
    InUse(PathBuf),
    /// It was there before, holds other things, and others may look into it.
    #[error("{} holds other files and is open to other users: use a directory of its own", .0.display())]
    OpenToOthers(PathBuf),
    /// A key or the enrolment is damaged. It is never replaced by itself: the node would be another one.
    #[error("{} is damaged", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, if it is a key.
        #[source]
        source: Option<KeyError>,
    },
    /// No key could be made.
    #[error("cannot make a key")]
    Key(#[source] KeyError),
}

/// The state directory of one node. A clone shares it, and the lock on it.
#[derive(Debug, Clone)]
pub struct StateDir {
    place: Option<Arc<Place>>,
}

#[derive(Debug)]
struct Place {
    path: PathBuf,
    /// Held for as long as the directory is used.
    _lock: File,
}

impl StateDir {
    /// Opens a directory, creates it when it is missing, and locks it.
    ///
    /// An existing directory that others may look into is closed to them when it is empty or was used
    /// before, and refused otherwise: it might be somebody's home.
    ///
    /// # Errors
    /// [`StateError::Io`], [`StateError::InUse`] and [`StateError::OpenToOthers`].
    pub fn open(path: &Path) -> Result<Self, StateError> {
        file::prepare_directory(path, LOCK)?;
        let lock_path = path.join(LOCK);
        let lock = file::open_private(&lock_path).map_err(|source| StateError::Io {
            doing: "open",
            path: lock_path.clone(),
            source,
        })?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => {
                return Err(StateError::Io {
                    doing: "lock",
                    path: lock_path,
                    source,
                });
            }
        }
        for name in [
            IDENTITY,
            WIREGUARD,
            ENROLMENT,
            PLAN,
            USAGE,
            CA_KEY,
            PEERS,
            SIGNING,
            rotation::NEXT,
            rotation::PREVIOUS,
        ] {
            file::close_to_others(&path.join(name))?;
        }
        Ok(Self {
            place: Some(Arc::new(Place {
                path: path.to_owned(),
                _lock: lock,
            })),
        })
    }

    /// Remembers nothing: a node with it is a new one each time it starts.
    #[must_use]
    pub const fn memory() -> Self {
        Self { place: None }
    }

    /// Where it is; `None` when nothing is remembered.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.place.as_deref().map(|place| place.path.as_path())
    }

    /// The node's keys. They are made when there are none.
    ///
    /// # Errors
    /// [`StateError::Damaged`] when a file holds no key; also [`StateError::Io`] and [`StateError::Key`].
    pub fn keys(&self) -> Result<NodeKeys, StateError> {
        let Some(place) = &self.place else {
            return NodeKeys::generate().map_err(StateError::Key);
        };
        let identity = match place.read(IDENTITY)? {
            Some(bytes) => Secret::new(bytes),
            None => {
                let identity = keys::generate_identity().map_err(StateError::Key)?;
                place.write(IDENTITY, identity.expose())?;
                identity
            }
        };
        let wireguard = match place.read(WIREGUARD)? {
            Some(bytes) => Secret::new(String::from_utf8(bytes).unwrap_or_default()),
            None => {
                let wireguard = keys::generate_wireguard().map_err(StateError::Key)?;
                place.write(WIREGUARD, wireguard.expose().as_bytes())?;
                wireguard
            }
        };
        NodeKeys::assemble(&identity, &wireguard).map_err(|error| match error {
            KeyError::Identity => place.damaged(IDENTITY, Some(error)),
            KeyError::WireGuard => place.damaged(WIREGUARD, Some(error)),
            KeyError::Random => StateError::Key(error),
        })
    }

    /// The enrolment, if the node has enrolled.
    ///
    /// # Errors
    /// [`StateError::Damaged`] and [`StateError::Io`].
    pub fn enrolment(&self) -> Result<Option<Enrolment>, StateError> {
        let Some(place) = &self.place else { return Ok(None) };
        let Some(bytes) = place.read(ENROLMENT)? else {
            return Ok(None);
        };
        std::str::from_utf8(&bytes)
            .ok()
            .and_then(Enrolment::from_text)
            .map(Some)
            .ok_or_else(|| place.damaged(ENROLMENT, None))
    }

    /// Remembers the enrolment.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn store_enrolment(&self, enrolment: &Enrolment) -> Result<(), StateError> {
        self.write(ENROLMENT, enrolment.to_text().as_bytes())
    }

    /// The last good plan, as [`WirePlan`](kakuremichi_proto::plan::WirePlan) writes itself. Whether it is
    /// undamaged, it says by itself. One longer than [`MAX_BLOB`] is reported in the log and counts as none.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn plan(&self) -> Result<Option<Vec<u8>>, StateError> {
        self.place
            .as_ref()
            .map_or(Ok(None), |place| place.read_replaceable(PLAN))
    }

    /// Remembers a plan.
    ///
    /// # Errors
    /// [`StateError::Io`]; the plan before stays then.
    pub fn store_plan(&self, plan: &[u8]) -> Result<(), StateError> {
        self.write(PLAN, plan)
    }

    /// The usage that Control has not acknowledged. A damaged file, or one longer than [`MAX_BLOB`], is
    /// reported in the log and counts as none.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn usage(&self) -> Result<Option<Vec<u8>>, StateError> {
        let Some(place) = &self.place else { return Ok(None) };
        let Some(bytes) = place.read_replaceable(USAGE)? else {
            return Ok(None);
        };
        let opened = file::unseal(&bytes).map(<[u8]>::to_vec);
        if opened.is_none() {
            tracing::warn!(path = %place.path.join(USAGE).display(), "damaged usage is ignored");
        }
        Ok(opened)
    }

    /// Remembers usage.
    ///
    /// # Errors
    /// [`StateError::Io`]; what was remembered before stays then.
    pub fn store_usage(&self, usage: &[u8]) -> Result<(), StateError> {
        self.write(USAGE, &file::seal(usage))
    }

    /// A file that a part of the node keeps for itself.
    #[cfg(feature = "gateway")]
    pub(crate) fn read_own(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        self.place.as_ref().map_or(Ok(None), |place| place.read(name))
    }

    /// Writes such a file.
    #[cfg(feature = "gateway")]
    pub(crate) fn write_own(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        self.write(name, bytes)
    }

    /// Writes such a file, for everybody to read who may enter the directory.
    #[cfg(feature = "gateway")]
    pub(crate) fn write_public(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        use std::os::unix::fs::PermissionsExt as _;
        self.write(name, bytes)?;
        let Some(place) = &self.place else { return Ok(()) };
        let path = place.path.join(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(|source| StateError::Io {
            doing: "open to others",
            path,
            source,
        })
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        self.place
            .as_ref()
            .map_or(Ok(()), |place| place.write(name, bytes))
    }
}

impl Place {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.path.join(name);
        let error = |source| StateError::Io {
            doing: "read",
            path: path.clone(),
            source,
        };
        match fs::metadata(&path) {
            Err(absent) if absent.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(other) => return Err(error(other)),
            Ok(metadata) if metadata.len() > MAX_BLOB => return Err(self.damaged(name, None)),
            Ok(_) => {}
        }
        fs::read(&path).map(Some).map_err(error)
    }

    /// Reads what Control sends again when it is not there.
    fn read_replaceable(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        match self.read(name) {
            Err(StateError::Damaged { path, .. }) => {
                tracing::warn!(path = %path.display(), "a file that is too long is ignored");
                Ok(None)
            }
            other => other,
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        file::replace(&self.path, name, bytes).map_err(|source| StateError::Io {
            doing: "write",
            path: self.path.join(name),
            source,
        })
    }

    /// Removes a file, if it is there.
    fn remove(&self, name: &str) -> Result<(), StateError> {
        file::remove(&self.path, name).map_err(|source| StateError::Io {
            doing: "remove",
            path: self.path.join(name),
            source,
        })
    }

    fn damaged(&self, name: &str, source: Option<KeyError>) -> StateError {
        StateError::Damaged {
            path: self.path.join(name),
            source,
        }
    }
}

#[cfg(test)]
mod tests;
