//! Locks that the system lets go of with the process that holds them.

use super::layout::LOCK;
use super::{DirectoryError, failed};
use quorate_types::ReplicaId;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Locks a file (flock) for as long as it is open; says `false` where somebody else has it locked.
pub(crate) fn try_lock(path: &Path, file: &File) -> Result<bool, DirectoryError> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(source)) => Err(failed(path, "lock it")(source)),
    }
}

/// Locks the directory, as long as the file is open.
pub(super) fn lock(path: &Path, replica: ReplicaId) -> Result<File, DirectoryError> {
    let file_path = path.join(LOCK);
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&file_path).map_err(failed(&file_path, "open it"))?;
    if try_lock(&file_path, &file)? {
        let text = format!("replica {replica}, process {}\n", std::process::id());
        let write = file.set_len(0).and_then(|()| file.write_all(text.as_bytes()));
        write.map_err(failed(&file_path, "write it"))?;
        return Ok(file);
    }
    Err(locked(path, file))
}

/// Keeps replicas from starting on the directory, as long as the file is open, and changes nothing of it; others may do the
/// same meanwhile. There is no file where no process has ever used it.
pub(crate) fn hold(path: &Path) -> Result<Option<File>, DirectoryError> {
    let file_path = path.join(LOCK);
    let file = match File::open(&file_path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed(&file_path, "open it"))?,
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(locked(path, file)),
        Err(TryLockError::Error(source)) => Err(failed(&file_path, "lock it")(source)),
    }
}

fn locked(path: &Path, mut file: File) -> DirectoryError {
    let mut holder = String::new();
    let _ = file.read_to_string(&mut holder);
    let holder = match holder.trim() {
        "" => "another process".to_owned(),
        holder => holder.to_owned(),
    };
    DirectoryError::Locked { path: path.to_owned(), holder }
}

/// Who has the directory locked, as the system tells without a lock of our own, which might keep a replica from
/// starting.
pub(super) fn holder(path: &Path) -> Option<String> {
    let path = path.join(LOCK);
    let inode = format!(":{}", std::fs::metadata(&path).ok()?.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let names_it = |line: &str| line.contains("FLOCK") && line.split(' ').any(|word| word.ends_with(&inode));
    locks.lines().any(names_it).then_some(())?;
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    Some(if text.trim().is_empty() { "another process".to_owned() } else { text.trim().to_owned() })
}
