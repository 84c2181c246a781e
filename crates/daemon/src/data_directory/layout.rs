//! The names in a data directory, and how what stands under them is made durable.

use super::{DirectoryError, failed};
use crate::identity::{IDENTITY, IDENTITY_COPY};
use crate::segment_files::MADE;
use quorate_types::CoreId;
use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// There once the replica has said something.
const SPOKEN: &str = "spoken";
/// Locked by the process that uses the directory.
pub(super) const LOCK: &str = "lock";
const LOG: &str = "log-";
pub(super) const PAGES: &str = "pages";
pub(super) const CHECKPOINTS: &str = "checkpoints";
/// What a new file is called until it is whole.
pub(super) const UNFINISHED: &str = ".new";
/// File systems put this into their roots.
pub(super) const LOST_AND_FOUND: &str = "lost+found";

/// Whether the replica of a data directory has ever said something.
pub(crate) fn has_spoken(directory: &Path) -> Result<bool, DirectoryError> {
    let path = directory.join(SPOKEN);
    match std::fs::symlink_metadata(&path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed(&path, "see whether the replica has spoken")(error)),
    }
}

/// Notes that the replica of a data directory says something from here on; durable when this returns.
pub(crate) fn note_spoken(directory: &Path) -> Result<(), DirectoryError> {
    write_durably(directory, SPOKEN, b"The replica has said something: its log is not empty.\n")
}

/// Replaces the file `name` of a directory as a whole; durable when this returns.
///
/// # Errors
/// When the system refuses; the old file is there then, or the new one.
pub fn write_durably(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), DirectoryError> {
    let unfinished = directory.join(format!("{name}{UNFINISHED}"));
    let path = directory.join(name);
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished);
    let written = file.and_then(|file| write_synced(file, bytes));
    written.and_then(|()| std::fs::rename(&unfinished, &path)).map_err(failed(&path, "write it"))?;
    sync_directory(directory)
}

/// Makes a file that was not there, with the rights `mode`. What it holds is durable when this returns; its name is so
/// after [`sync_directory`], once for all that were made.
///
/// # Errors
/// When there is a file already, or the system refuses; then nothing of it is left in the way of another attempt.
pub fn create_durably(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), DirectoryError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = write_synced(file.map_err(failed(path, "create it"))?, bytes);
    written.inspect_err(|_| drop(std::fs::remove_file(path))).map_err(failed(path, "write it"))
}

/// All that must not be forgotten, and every key, goes to its disk through here.
fn write_synced(mut file: File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the names in a directory durable.
///
/// # Errors
/// When the system refuses.
pub fn sync_directory(path: &Path) -> Result<(), DirectoryError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(failed(path, "sync it"))
}

/// Makes a directory, and those above it, with the rights `mode`, unless it is there, and its name durable.
///
/// # Errors
/// When the system refuses.
pub fn make_directory(path: &Path, mode: u32) -> Result<(), DirectoryError> {
    make_directory_by(path, mode, &mut sync_directory)
}

fn make_directory_by(
    path: &Path,
    mode: u32,
    sync: &mut dyn FnMut(&Path) -> Result<(), DirectoryError>,
) -> Result<(), DirectoryError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if path.is_dir() {
        // Whoever has made it may have been killed before its name was durable.
        return match sync(parent) {
            Err(DirectoryError::Io { source, .. }) if is_of_another(&source) => Ok(()),
            synced => synced,
        };
    }
    make_directory_by(parent, mode, sync)?;
    DirBuilder::new().mode(mode).create(path).map_err(failed(path, "create it"))?;
    sync(parent)
}

/// Whether a directory cannot be synced in which nothing of this program's was made: there, the same would have failed.
fn is_of_another(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    matches!(error.kind(), InvalidInput | PermissionDenied | ReadOnlyFilesystem | Unsupported)
}

/// Makes a directory of data as [`make_directory`] does, for its owner alone.
pub(super) fn make_private(path: &Path) -> Result<(), DirectoryError> {
    make_directory(path, 0o700)
}

/// The names in a directory; none for a directory that does not exist.
pub(super) fn entries(path: &Path) -> Result<Vec<String>, DirectoryError> {
    let found = match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        found => found.and_then(Iterator::collect::<io::Result<Vec<_>>>),
    };
    let found = found.map_err(failed(path, "read it"))?;
    let names = found.into_iter().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name != LOST_AND_FOUND).collect();
    names.sort();
    Ok(names)
}

/// Whether an entry is part of a replica's data.
pub(super) fn is_known(name: &str) -> bool {
    let name = name.strip_suffix(UNFINISHED).unwrap_or(name);
    let log = name.strip_suffix(MADE).unwrap_or(name).strip_prefix(LOG);
    let log = log.is_some_and(|core| core.parse::<u8>().is_ok());
    log || [IDENTITY, IDENTITY_COPY, SPOKEN, LOCK, PAGES, CHECKPOINTS, crate::sync_probe::SCRATCH]
        .contains(&name)
}

/// The directories of segments that are there or were, by core: the note of what was made of a log stands beside it, and
/// outlives its directory.
pub(super) fn logs(path: &Path) -> Result<Vec<(CoreId, PathBuf)>, DirectoryError> {
    let of_log = |name: &String| name.strip_suffix(MADE).unwrap_or(name).strip_prefix(LOG)?.parse().ok();
    let cores: BTreeSet<u8> = entries(path)?.iter().filter_map(of_log).collect();
    Ok(cores.into_iter().map(|core| (CoreId(core), log_path(path, CoreId(core)))).collect())
}

/// The directory of the segments of one core.
pub(crate) fn log_path(directory: &Path, core: CoreId) -> PathBuf {
    directory.join(format!("{LOG}{}", core.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `make_directory_by` has synced, in order.
    fn made(path: &Path, fails: Option<io::ErrorKind>) -> (Result<(), DirectoryError>, Vec<PathBuf>) {
        let mut synced = Vec::new();
        let made = make_directory_by(path, 0o700, &mut |parent| {
            synced.push(parent.to_owned());
            fails.map_or(Ok(()), |kind| Err(failed(parent, "sync it")(kind.into())))
        });
        (made, synced)
    }

    #[test]
    fn the_name_of_a_directory_is_made_durable_though_it_was_there() {
        let root = tempfile::tempdir().unwrap();
        let (root, above) = (root.path().to_owned(), root.path().parent().unwrap().to_owned());
        let (outer, inner) = (root.join("outer"), root.join("outer/inner"));
        // Each before what is made in it.
        let (result, synced) = made(&inner, None);
        assert!(result.is_ok() && inner.is_dir());
        assert_eq!(synced, [above, root, outer.clone()]);
        assert_eq!(made(&inner, None).1, [outer]);
        // It is somebody else's, or the disk is bad.
        assert!(made(&inner, Some(io::ErrorKind::PermissionDenied)).0.is_ok());
        assert!(made(&inner, Some(io::ErrorKind::Other)).0.is_err());
    }
}
