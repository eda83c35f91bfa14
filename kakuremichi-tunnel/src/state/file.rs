//! Files that only this user reads, replaced whole.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use ring::digest::{SHA256, digest};

use super::StateError;

/// Before each file whose content is checked when it is read back: what it is, and in which form.
const MAGIC: &[u8; 8] = b"kkmstat1";
const CHECKSUM: usize = 32;

/// Makes `path` a directory of mode 0700. One that is open to others is closed to them if it is empty
/// or has a file `known`.
pub(super) fn prepare_directory(path: &Path, known: &str) -> Result<(), StateError> {
    let error = |doing| {
        move |source| StateError::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(error("create"))?;
    let mode = fs::metadata(path).map_err(error("look at"))?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let empty = fs::read_dir(path).map_err(error("look into"))?.next().is_none();
    if !empty && !path.join(known).exists() {
        return Err(StateError::OpenToOthers(path.to_owned()));
    }
    fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(error("close"))
}

/// Takes the rights of others from a file, if it is there.
pub(super) fn close_to_others(path: &Path) -> Result<(), StateError> {
    let result = match fs::metadata(path) {
        Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => {
            fs::set_permissions(path, Permissions::from_mode(0o600))
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    result.map_err(|source| StateError::Io {
        doing: "close",
        path: path.to_owned(),
        source,
    })
}

/// Opens a file of mode 0600, making it if it is missing.
pub(super) fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// Replaces the file `name` of `directory`: who reads it sees the old bytes or the new ones, also after
/// a power failure.
pub(super) fn replace(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!("{name}.new"));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(name))?;
    File::open(directory)?.sync_all()
}

/// Removes the file `name` of `directory`, if it is there: for good, also after a power failure.
pub(super) fn remove(directory: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(directory.join(name)) {
        Ok(()) => File::open(directory)?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Puts a checksum before `content`.
pub(super) fn seal(content: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(MAGIC.len() + CHECKSUM + content.len());
    sealed.extend_from_slice(MAGIC);
    sealed.extend_from_slice(digest(&SHA256, content).as_ref());
    sealed.extend_from_slice(content);
    sealed
}

/// The content behind the checksum, if it is undamaged.
pub(super) fn unseal(sealed: &[u8]) -> Option<&[u8]> {
    let (checksum, content) = sealed.strip_prefix(MAGIC)?.split_at_checked(CHECKSUM)?;
    (digest(&SHA256, content).as_ref() == checksum).then_some(content)
}
