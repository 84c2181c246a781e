//! The mark beside a key that says that nobody has ever spoken with it.
//!
//! Whoever draws a key (`quorate init`) writes the mark beside it. It is consumed when a directory takes the key into
//! use: by `quorate format` once the directory is durable, or by the first start on one that `quorate init` has made,
//! before the replica says anything. Before that directory says of itself that the key is its own, the mark names it: a
//! mark that names another directory counts as none. So a key that has voted has none, and a directory that is formatted for it anew
//! makes no voter that has forgotten its votes (DESIGN section 5).
//!
//! Whoever judges the mark and acts on that holds it meanwhile ([`Mark::hold`]): of two directories that are made or started
//! with one key at the same moment, only one is a voter's.

use crate::data_directory::{DirectoryError, failed, sync_directory, try_lock, write_durably};
use quorate_types::PublicKey;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tracing::warn;

/// What the name of the mark ends with, behind that of the key file.
const SUFFIX: &str = ".never-spoken";

/// What precedes the directory that is about to take the key into use.
const DIRECTORY: &str = "directory: ";
/// The length of its name, which is hexadecimal.
const NAME_DIGITS: usize = 32;

/// The path of the mark of the key in `key_file`.
#[must_use]
pub fn mark_path(key_file: &Path) -> PathBuf {
    let mut name = key_file.file_name().unwrap_or_default().to_owned();
    name.push(SUFFIX);
    key_file.with_file_name(name)
}

/// What the mark of a key says.
#[must_use]
pub fn mark_text(key: &PublicKey) -> String {
    format!(
        "# Nobody has ever spoken with the key beside this file. `quorate format` or the first start removes it; it is\n\
         # never to be copied or written by hand: a replica could then forget its votes and contradict them.\n{}\n",
        key.to_hex()
    )
}

/// What the mark of a key says once a directory is about to take the key into use.
fn assigned_text(key: &PublicKey, directory: &[u8; 16]) -> String {
    format!("{}{}", mark_text(key), directory_line(directory))
}

fn directory_line(directory: &[u8; 16]) -> String {
    format!("{DIRECTORY}{}\n", hex::encode(directory))
}

/// Whether a mark is no directory's yet: whoever was killed while it wrote the line of one has not said so of itself.
fn is_unassigned(text: &str, key: &PublicKey) -> bool {
    let Some(line) = text.strip_prefix(&mark_text(key)) else { return false };
    match line.strip_prefix(DIRECTORY) {
        Some(name) => name.len() <= NAME_DIGITS && name.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => DIRECTORY.starts_with(line),
    }
}

/// The mark of a key while nobody else judges or changes it: between a look at it and what is written after that, no other
/// directory may come. It may be missing.
#[derive(Debug)]
pub struct Mark {
    path: PathBuf,
    key: PublicKey,
    /// The file of the key, locked while it is open. The mark itself is replaced and removed, so a lock on it would bind
    /// only those who have opened the same one.
    _locked: File,
}

impl Mark {
    /// The mark of the key in `key_file`, which is `key`. It does not wait: whoever takes a key into use at the same moment
    /// does so by mistake.
    ///
    /// # Errors
    /// When another process holds it, or the system refuses.
    pub fn hold(key_file: &Path, key: &PublicKey) -> Result<Self, DirectoryError> {
        let file = open_for_locking(key_file).map_err(failed(key_file, "open it"))?;
        if !try_lock(key_file, &file)? {
            return Err(DirectoryError::KeyBusy { key_file: key_file.to_owned() });
        }
        Ok(Self { path: mark_path(key_file), key: key.clone(), _locked: file })
    }

    /// Whether the mark says that nobody has ever spoken with the key, so that this directory may take it into use. One
    /// that another directory was about to take into use is not free: that one may have done so.
    ///
    /// # Errors
    /// When the system does not let it be read.
    pub fn is_free_for(&self, directory: &[u8; 16]) -> Result<bool, DirectoryError> {
        is_free(&self.path, &self.key, directory)
    }

    /// This directory is about to take the key into use, and no other one may from here on: durable when this returns. It
    /// comes before the directory says so of itself. Whoever is killed between the two leaves a mark that is this
    /// directory's alone.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn assign(&self, directory: &[u8; 16]) -> Result<(), DirectoryError> {
        let (path, text) = (&self.path, assigned_text(&self.key, directory));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match write_durably(directory_of(path), &name, text.as_bytes()) {
            Err(DirectoryError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                assign_in_place(path, &self.key, directory)
            }
            written => written,
        }
    }

    /// Consumes the mark, if there is one for this directory, which has the key in use: durable when this returns. Where
    /// the file may be written and its directory may not, it is emptied: half a mark is none. One that names this directory
    /// is no other one's, and may stay where the system lets it be neither removed nor emptied.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn consume(&self, directory: &[u8; 16]) -> Result<(), DirectoryError> {
        self.consume_with(directory, |path| consume_by(path, |path| std::fs::remove_file(path)))
    }

    fn consume_with(
        &self,
        directory: &[u8; 16],
        consume: impl Fn(&Path) -> Result<(), DirectoryError>,
    ) -> Result<(), DirectoryError> {
        let text = read(&self.path)?;
        let is_own = text == assigned_text(&self.key, directory);
        if !is_own && !is_unassigned(&text, &self.key) {
            return Ok(());
        }
        match consume(&self.path) {
            Err(error) if is_own => {
                warn!("the mark names this directory, which has the key in use, and stays: {error}");
                Ok(())
            }
            consumed => consumed,
        }
    }
}

/// Whether the mark of the key in `key_file` is free for a directory at this moment ([`Mark::is_free_for`]), for whoever only
/// looks.
///
/// # Errors
/// When the system does not let it be read.
pub(crate) fn seems_free_for(
    key_file: &Path,
    key: &PublicKey,
    directory: &[u8; 16],
) -> Result<bool, DirectoryError> {
    is_free(&mark_path(key_file), key, directory)
}

fn is_free(path: &Path, key: &PublicKey, directory: &[u8; 16]) -> Result<bool, DirectoryError> {
    let text = read(path)?;
    Ok(is_unassigned(&text, key) || text == assigned_text(key, directory))
}

/// Some file systems lock only for those who may write.
fn open_for_locking(key_file: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(key_file).or_else(|_| File::open(key_file))
}

/// Whether there is anything beside the key in `key_file`, which may be a mark.
///
/// # Errors
/// When the system does not tell.
pub fn is_there(key_file: &Path) -> Result<bool, DirectoryError> {
    let path = mark_path(key_file);
    path.try_exists().map_err(failed(&path, "see whether the key was ever used"))
}

/// What a mark says; nothing where there is none.
fn read(path: &Path) -> Result<String, DirectoryError> {
    match std::fs::read_to_string(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
            Ok(String::new())
        }
        text => text.map_err(failed(path, "read whether the key was ever used")),
    }
}

/// Where the file may be written and its directory may not. What it says already stays whole meanwhile: a kill leaves it as
/// it was, or with a part of the line that counts as none.
fn assign_in_place(path: &Path, key: &PublicKey, directory: &[u8; 16]) -> Result<(), DirectoryError> {
    let write = |mut file: File| {
        file.set_len(mark_text(key).len() as u64)?;
        file.write_all(directory_line(directory).as_bytes())?;
        file.sync_all()
    };
    let written = OpenOptions::new().append(true).open(path).and_then(write);
    written.map_err(failed(path, "write which directory takes the key into use"))
}

/// Marks a new key.
///
/// # Errors
/// When the system refuses.
pub fn mark(key_file: &Path, key: &PublicKey) -> Result<(), DirectoryError> {
    let path = mark_path(key_file);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    write_durably(directory_of(&path), &name, mark_text(key).as_bytes())
}

fn consume_by(path: &Path, remove: impl Fn(&Path) -> io::Result<()>) -> Result<(), DirectoryError> {
    match remove(path) {
        Ok(()) => sync_directory(directory_of(path)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let emptied = OpenOptions::new().write(true).truncate(true).open(path);
            let emptied = emptied.and_then(|file| file.sync_all());
            emptied.map_err(failed(path, "empty the mark that the key was never used"))
        }
        Err(error) => Err(failed(path, "remove the mark that the key was never used")(error)),
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::SigningKey;

    /// A folder with a file for a key in it, and the path of that.
    fn folder() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let key_file = directory.path().join("replica-3.key");
        std::fs::write(&key_file, "").unwrap();
        (directory, key_file)
    }

    fn hold(key_file: &Path, key: &PublicKey) -> Mark {
        Mark::hold(key_file, key).unwrap()
    }

    fn is_free(key_file: &Path, key: &PublicKey, directory: [u8; 16]) -> bool {
        hold(key_file, key).is_free_for(&directory).unwrap()
    }

    #[test]
    fn a_mark_is_of_one_key_and_consumed_once() {
        let (directory, key_file) = folder();
        let [own, other] = [1, 2].map(|seed| SigningKey::from_seed(&[seed; 32]).public());
        let is_marked = |key: &PublicKey| is_free(&key_file, key, [7; 16]);
        let consume = |key: &PublicKey| hold(&key_file, key).consume(&[7; 16]).unwrap();
        assert!(!is_marked(&own) && !is_there(&key_file).unwrap());
        mark(&key_file, &own).unwrap();
        assert!(is_marked(&own) && !is_marked(&other) && is_there(&key_file).unwrap());
        let path = directory.path().join("replica-3.key.never-spoken");
        std::fs::write(&path, &mark_text(&own)[..100]).unwrap();
        assert!(!is_marked(&own), "half a mark is none");
        mark(&key_file, &own).unwrap();
        consume(&other);
        assert!(is_marked(&own), "it is not that key's");
        consume(&own);
        assert!(!is_marked(&own) && !path.exists());
        consume(&own);
        // The key's directory is not the replica's own, its files are.
        mark(&key_file, &own).unwrap();
        consume_by(&path, |_| Err(io::ErrorKind::PermissionDenied.into())).unwrap();
        assert!(path.exists() && !is_marked(&own));
        consume(&own);
        let error = consume_by(&path, |_| Err(io::ErrorKind::ReadOnlyFilesystem.into())).unwrap_err();
        assert!(error.to_string().contains("make the disk writable"), "{error}");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let error = hold(&key_file, &own).is_free_for(&[7; 16]).unwrap_err().to_string();
        assert!(
            error.contains("replica-3.key.never-spoken: cannot read whether the key was ever used"),
            "{error}"
        );
    }

    #[test]
    fn a_mark_is_held_by_one_at_a_time() {
        let (_directory, key_file) = folder();
        let key = SigningKey::from_seed(&[1; 32]).public();
        let held = hold(&key_file, &key);
        let refused = Mark::hold(&key_file, &key).unwrap_err();
        assert!(refused.to_string().contains("replica-3.key: another process is just taking"), "{refused}");
        assert!(!refused.is_configuration(), "it may be tried again");
        drop(held);
        hold(&key_file, &key);
        std::fs::remove_file(&key_file).unwrap();
        let gone = Mark::hold(&key_file, &key).unwrap_err().to_string();
        assert!(gone.contains("replica-3.key: cannot open it"), "{gone}");
    }

    #[test]
    fn a_mark_that_names_a_directory_is_no_other_ones() {
        let (_directory, key_file) = folder();
        let key = SigningKey::from_seed(&[1; 32]).public();
        let (own, other) = ([7; 16], [8; 16]);
        for in_place in [false, true] {
            mark(&key_file, &key).unwrap();
            let mark = hold(&key_file, &key);
            if in_place {
                assign_in_place(&mark_path(&key_file), &key, &own).unwrap();
            } else {
                mark.assign(&own).unwrap();
            }
            assert!(mark.is_free_for(&own).unwrap() && !mark.is_free_for(&other).unwrap());
            mark.consume(&other).unwrap();
            assert!(mark_path(&key_file).exists(), "it is not that directory's");
            mark.consume(&own).unwrap();
            assert!(!mark_path(&key_file).exists());
        }
    }

    /// Where the directory of the key is not the replica's own, the mark is written where it lies.
    #[test]
    fn a_kill_while_a_directory_is_named_leaves_the_mark_to_any() {
        let (_directory, key_file) = folder();
        let key = SigningKey::from_seed(&[1; 32]).public();
        let (own, other) = ([0xa7; 16], [8; 16]);
        let is_marked = |directory| is_free(&key_file, &key, directory);
        let path = mark_path(&key_file);
        let whole = assigned_text(&key, &own);
        for length in mark_text(&key).len()..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(is_marked(own) && is_marked(other), "{length} bytes");
            assign_in_place(&path, &key, &other).unwrap();
            assert!(!is_marked(own) && is_marked(other), "{length} bytes");
        }
        std::fs::write(&path, format!("{whole}{DIRECTORY}")).unwrap();
        assert!(!is_marked(own) && !is_marked(other), "it is another file");
    }

    #[test]
    fn a_mark_that_names_the_directory_in_use_may_stay() {
        let (_directory, key_file) = folder();
        let key = SigningKey::from_seed(&[1; 32]).public();
        let refuse = |path: &Path| consume_by(path, |_| Err(io::ErrorKind::ReadOnlyFilesystem.into()));
        mark(&key_file, &key).unwrap();
        let mark = hold(&key_file, &key);
        let error = mark.consume_with(&[7; 16], refuse).unwrap_err();
        assert!(error.to_string().contains("make the disk writable"), "any directory could take it: {error}");
        mark.assign(&[7; 16]).unwrap();
        mark.consume_with(&[7; 16], refuse).unwrap();
        assert!(!mark.is_free_for(&[8; 16]).unwrap());
    }
}
