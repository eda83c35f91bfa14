//! Certificates in files that somebody else renews.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use kakuremichi_core::name::{HostPattern, Hostname};
use kakuremichi_proto::report::CertificateStatus;
use rustls::sign::CertifiedKey;

use super::{CertificateSource, GivenCertificates, GivenError};
use crate::gateway::stamp::{Stamp, stamp};

/// What is read of a file, in bytes. What is longer is no chain or key.
const MAX_BYTES: u64 = 1024 * 1024;

/// Certificate chains and their keys in PEM files, which are read again when they change.
///
/// Files that cannot be used never take the place of what could: whoever renews a pair may write one file after the
/// other, and is not ready in between.
#[derive(Debug)]
pub struct CertificateFiles {
    pairs: Vec<Pair>,
    newest: ArcSwap<GivenCertificates>,
    seen: Mutex<Seen>,
}

/// How the files were when they were looked at last.
#[derive(Debug)]
struct Seen {
    stamps: Vec<Stamp>,
    /// Why they could not be used then, which is said once.
    failure: Option<String>,
}

/// The files of a certificate.
#[derive(Debug)]
struct Pair {
    chain: PathBuf,
    key: PathBuf,
}

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateFileError {
    /// One cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// One is no certificate, or has another key.
    #[error("{} and {} cannot be used", .chain.display(), .key.display())]
    Use {
        /// The chain.
        chain: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why not.
        #[source]
        source: GivenError,
    },
}

impl CertificateFiles {
    /// Reads pairs of files: a chain, the leaf first, and its key.
    ///
    /// # Errors
    /// When one cannot be read or used.
    pub fn open(pairs: impl IntoIterator<Item = (PathBuf, PathBuf)>) -> Result<Self, CertificateFileError> {
        let pairs: Vec<Pair> = pairs
            .into_iter()
            .map(|(chain, key)| Pair { chain, key })
            .collect();
        // First how they are, then what is in them: a change in between is seen later.
        let seen = Seen {
            stamps: stamps(&pairs),
            failure: None,
        };
        Ok(Self {
            newest: ArcSwap::from_pointee(read_all(&pairs)?),
            seen: Mutex::new(seen),
            pairs,
        })
    }

    /// Reads the files again if one of them changed.
    fn read_again(&self, seen: &mut Vec<Stamp>) -> Result<(), CertificateFileError> {
        let now = stamps(&self.pairs);
        if *seen == now {
            return Ok(());
        }
        let read = read_all(&self.pairs);
        // What cannot be read may be readable later, and is the same file then.
        if !matches!(read, Err(CertificateFileError::Read { .. })) {
            *seen = now;
        }
        self.newest.store(Arc::new(read?));
        tracing::info!(pairs = self.pairs.len(), "the certificates were read again");
        Ok(())
    }
}

impl CertificateSource for CertificateFiles {
    fn certificate(&self, name: &Hostname, pattern: &HostPattern) -> Option<Arc<CertifiedKey>> {
        self.newest.load().certificate(name, pattern)
    }

    fn refresh(&self) {
        // Nothing panics under the lock.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = self.read_again(&mut seen.stamps).err();
        let said = failure.as_ref().map(|error| format!("{error:?}"));
        let is_news = seen.failure != said;
        seen.failure = said;
        if let Some(error) = failure.filter(|_| is_news) {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the certificates are those that were read before"
            );
        }
    }

    fn known(&self) -> Vec<CertificateStatus> {
        self.newest.load().known()
    }
}

fn stamps(pairs: &[Pair]) -> Vec<Stamp> {
    pairs
        .iter()
        .flat_map(|pair| [stamp(&pair.chain), stamp(&pair.key)])
        .collect()
}

fn read_all(pairs: &[Pair]) -> Result<GivenCertificates, CertificateFileError> {
    pairs.iter().try_fold(GivenCertificates::new(), |given, pair| {
        let (chain, key) = (read(&pair.chain)?, read(&pair.key)?);
        given
            .with_pem(&chain, &key)
            .map_err(|source| CertificateFileError::Use {
                chain: pair.chain.clone(),
                key: pair.key.clone(),
                source,
            })
    })
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateFileError> {
    let failed = |source| CertificateFileError::Read {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(failed)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{super::testing::pair, *};

    #[test]
    fn renewed_files_are_read_and_broken_ones_change_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (chain, key) = (
            directory.path().join("chain.pem"),
            directory.path().join("key.pem"),
        );
        // Each writing is at another time, however coarse the file system's clock is.
        let mut writings = 0;
        let mut write = |path: &Path, text: &str| {
            writings += 1;
            fs::write(path, text).unwrap();
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + writings);
            fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_modified(at)
                .unwrap();
        };
        let missing = CertificateFiles::open([(chain.clone(), key.clone())]);
        assert!(matches!(missing, Err(CertificateFileError::Read { .. })));

        let (old, old_key) = pair(&["a.example.net"]);
        write(&chain, &old);
        write(&key, &old_key);
        let files = CertificateFiles::open([(chain.clone(), key.clone())]).unwrap();
        let names = || files.known().into_iter().map(|one| one.name).collect::<Vec<_>>();
        assert_eq!(names(), ["a.example.net"]);

        let (new, new_key) = pair(&["b.example.net"]);
        write(&chain, &new);
        files.refresh();
        assert_eq!(names(), ["a.example.net"], "the key is another one's");
        write(&key, &new_key);
        files.refresh();
        assert_eq!(names(), ["b.example.net"]);
        fs::remove_file(&key).unwrap();
        files.refresh();
        assert_eq!(names(), ["b.example.net"]);
    }
}
