//! The data directory of one replica: whose it is, who uses it, and where things lie in it.
//!
//! | name | what |
//! | --- | --- |
//! | `identity`, `identity.copy` | whose it is, and what must not be forgotten of it (`identity.rs`) |
//! | `spoken` | there once the replica has said something |
//! | `lock` | locked (flock) by the process that uses the directory, whose number it holds |
//! | `log-<core>/` | the segments of the log of one core |
//! | `log-<core>.made` | up to which number they were made |
//! | `pages/` | the pages of checkpointed states |
//! | `checkpoints/` | what the pages of a checkpoint are |
//!
//! A directory is *formatted* on purpose, by `quorate init` or `quorate format`, never by `quorate start`. **Absent is
//! not lost** (DESIGN section 5): where a formatted directory was expected and is none, a disk may not be mounted, or
//! `data_dir` mistyped. Nothing starts there; an operator says whether it is lost.
//!
//! Whatever is written here is written under another name, synced, renamed, and its directory synced.

use crate::identity::{Copies, IDENTITY, IDENTITY_COPY, Identity, Role};
use crate::never_spoken;
use crate::page_folder::{FolderError, PageFolder, write_checkpoint};
use crate::segment_files::MADE;
use quorate_journal::LogIdentity;
use quorate_state::{CheckpointHead, Frozen};
use quorate_types::{ClusterConfig, CoreId, Nanoseconds, PublicKey, ReplicaId};
use quorate_wire::Position;
use quorate_wire::header::genesis;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;
use tracing::warn;

/// There once the replica has said something.
const SPOKEN: &str = "spoken";
const LOCK: &str = "lock";
const LOG: &str = "log-";
const PAGES: &str = "pages";
const CHECKPOINTS: &str = "checkpoints";
/// What a new file is called until it is whole.
const UNFINISHED: &str = ".new";
/// File systems put this into their roots.
const LOST_AND_FOUND: &str = "lost+found";
/// Why a data directory cannot be used.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// The system refused something.
    #[error("{path}: cannot {what}: {source}; {remedy}", path = path.display(), remedy = remedy(source))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Something is there already where a new directory is to be made.
    #[error(
        "{path}: the directory holds {found:?} and is not formatted over; name another data_dir, or move this one away \
         if it is no longer wanted",
        path = path.display()
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// One of its entries.
        found: String,
    },
    /// The directory is used for something else.
    #[error(
        "{path}: the directory holds {found:?}, which is no part of a replica's data; name a directory of its own in \
         data_dir",
        path = path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// One of its entries.
        found: String,
    },
    /// It belongs to another cluster, replica, configuration or format.
    #[error("{path}: {problem}", path = path.display())]
    OtherIdentity {
        /// The directory.
        path: PathBuf,
        /// What differs, and the remedy.
        problem: String,
    },
    /// There is none.
    #[error(
        "{path}: {reason}; mount the disk that holds it, or correct data_dir. If it is lost, \
         `quorate format --learner --config FILE` makes a new one, of a replica that casts no votes",
        path = path.display()
    )]
    Unformatted {
        /// Where it should be.
        path: PathBuf,
        /// What is there instead.
        reason: String,
    },
    /// Another process uses it.
    #[error(
        "{path}: in use by {holder}; stop that process, or name another data_dir",
        path = path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Who says to use it.
        holder: String,
    },
}

/// A data directory in use by this process.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    identity: Identity,
    /// Locked while it is open.
    _lock: File,
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on the disk",
        io::ErrorKind::PermissionDenied => "give the user that the replica runs as the right to it",
        io::ErrorKind::ReadOnlyFilesystem => "make the disk writable",
        _ if is_out_of_descriptors(error) => "raise the limit of open files (ulimit -n, LimitNOFILE)",
        _ => "check data_dir and the disk (dmesg, smartctl)",
    }
}

impl DirectoryError {
    /// Whether it lies in what an operator has configured or mounted rather than in the machine at work: the directory
    /// is another one, or not there, or not this user's.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
        match self {
            Self::Io { source, .. } => {
                matches!(source.kind(), NotADirectory | NotFound | PermissionDenied | ReadOnlyFilesystem)
            }
            _ => true,
        }
    }

    /// What the system says, of an error of the system.
    pub(crate) fn into_source(self) -> io::Error {
        match self {
            Self::Io { source, .. } => source,
            other => io::Error::other(other.to_string()),
        }
    }
}

pub(crate) fn failed(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> DirectoryError {
    move |source| DirectoryError::Io { path: path.to_owned(), what, source }
}

/// Makes a data directory that belongs to `identity`. What exists must be empty.
///
/// # Errors
/// When there is something in it, or the system refuses.
pub fn format(path: &Path, identity: &Identity) -> Result<(), DirectoryError> {
    if let Some(found) = entries(path)?.into_iter().next() {
        return Err(DirectoryError::NotEmpty { path: path.to_owned(), found });
    }
    build(path, identity)
}

/// As [`format()`] for a replica that votes with the key in `key_file`, with which nobody has ever spoken: it belongs to this
/// directory when this returns, and to no other one once the directory says so of itself.
///
/// # Errors
/// As for [`format()`].
pub fn format_voter(
    path: &Path,
    identity: Identity,
    key_file: &Path,
    key: &PublicKey,
) -> Result<(), DirectoryError> {
    if let Some(found) = entries(path)?.into_iter().next() {
        return Err(DirectoryError::NotEmpty { path: path.to_owned(), found });
    }
    // One that cannot be made whole has not taken the key: another one may. As by a start, which goes on after a kill here.
    build(path, &Identity { claimed: false, ..identity.clone() })?;
    never_spoken::assign(key_file, key, &identity.directory)?;
    Identity { claimed: true, ..identity.clone() }.write(path)?;
    never_spoken::consume(key_file, key, &identity.directory)
}

/// Makes a data directory of a replica that casts no votes, for `reason`: a new one, or out of the one that is there and
/// its own, of which nothing is removed. Says whether it is a new one.
///
/// # Errors
/// When there is something else in it, or the system refuses.
pub fn format_learner(
    path: &Path,
    cluster: &ClusterConfig,
    replica: ReplicaId,
    reason: String,
) -> Result<bool, DirectoryError> {
    match open(path, cluster, replica) {
        Ok(mut directory) => directory.become_learner(reason).map(|()| false),
        Err(DirectoryError::Unformatted { .. } | DirectoryError::Foreign { .. }) => {
            format(path, &Identity::new(cluster, replica, Role::Learner { reason })).map(|()| true)
        }
        Err(error) => Err(error),
    }
}

/// As [`format()`], with the state that the cluster begins with. When that fails, nothing of it is left in the way of
/// another attempt.
///
/// # Errors
/// As for [`format()`]; and when the state cannot be written.
pub fn format_with_state(path: &Path, identity: &Identity, state: &Frozen) -> Result<(), FormatError> {
    if let Some(found) = entries(path)?.into_iter().next() {
        return Err(DirectoryError::NotEmpty { path: path.to_owned(), found }.into());
    }
    let built = build_with_state(path, identity, state);
    if built.is_err() {
        // None of these were there before.
        for name in [PAGES, CHECKPOINTS] {
            let _ = std::fs::remove_dir_all(path.join(name));
        }
        for name in [IDENTITY, IDENTITY_COPY] {
            let _ = std::fs::remove_file(path.join(name));
            let _ = std::fs::remove_file(path.join(format!("{name}{UNFINISHED}")));
        }
    }
    built
}

fn build_with_state(path: &Path, identity: &Identity, state: &Frozen) -> Result<(), FormatError> {
    let pages = path.join(PAGES);
    make_directory(&pages)?;
    let Position { seq, digest } = genesis(identity.configuration);
    let head = CheckpointHead { seq, digest, timestamp: Nanoseconds(0), certificate: Vec::new() };
    write_checkpoint(state, head, &mut PageFolder::open(&pages, true)?, |_| {})?;
    Ok(build(path, identity)?)
}

/// Why a data directory could not be made with a state in it.
#[derive(Debug, Error)]
pub enum FormatError {
    /// The directory itself could not be made.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The state could not be written.
    #[error(transparent)]
    Pages(#[from] FolderError),
}

/// Opens and locks a data directory.
///
/// # Errors
/// When there is none, when it belongs to others or is in use, or when the system refuses. Nothing is changed then.
pub fn open(
    path: &Path,
    cluster: &ClusterConfig,
    replica: ReplicaId,
) -> Result<DataDirectory, DirectoryError> {
    examine_names(path)?;
    let lock = lock(path, replica)?;
    let (identity, whole) = examine_identity(path, cluster, replica)?;
    let directory = DataDirectory { path: path.to_owned(), identity, _lock: lock };
    if !whole {
        warn!("{}: one copy of the identity was damaged and is written again", path.display());
        directory.identity.write(path)?;
    }
    Ok(directory)
}

/// Whose a data directory is and what its replica may do, without taking it into use.
///
/// # Errors
/// As for [`open`], but that it may be in use.
pub fn examine(path: &Path, cluster: &ClusterConfig, replica: ReplicaId) -> Result<Identity, DirectoryError> {
    examine_names(path)?;
    examine_identity(path, cluster, replica).map(|(identity, _)| identity)
}

/// What a data directory says of itself to whoever only looks: nothing is locked, written or decided.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    /// Whose it is, or why it does not tell.
    pub(crate) identity: Result<Identity, String>,
    /// The copies of the identity that are missing, damaged or differ.
    pub(crate) bad_copies: Vec<&'static str>,
    /// Who uses it.
    pub(crate) holder: Option<String>,
    /// The logs that are there, by core.
    pub(crate) logs: Vec<(CoreId, PathBuf)>,
    /// Where the page files are.
    pub(crate) pages: PathBuf,
    /// An entry that is no part of a replica's data.
    pub(crate) foreign: Option<String>,
}

/// Looks at a data directory, whoever it belongs to.
///
/// # Errors
/// When the system refuses.
pub(crate) fn look(path: &Path) -> Result<Look, DirectoryError> {
    let names = entries(path)?;
    let copies = Copies::read(path)?;
    let bad_copies = copies.bad();
    let identity = match (copies.other_format(), &copies.identity) {
        (Some(other), _) => Err(other),
        (None, Some(identity)) => Ok(identity.clone()),
        (None, None) if names.is_empty() => Err("it is empty or does not exist".to_owned()),
        (None, None) => Err(format!("{IDENTITY} and its copy are {}", copies.why_none())),
    };
    let foreign = names.into_iter().find(|name| !is_known(name));
    let (logs, pages) = (logs(path)?, path.join(PAGES));
    Ok(Look { identity, bad_copies, holder: holder(path), logs, pages, foreign })
}

/// Who has the directory locked, as the system tells without a lock of our own, which might keep a replica from
/// starting.
fn holder(path: &Path) -> Option<String> {
    let path = path.join(LOCK);
    let inode = format!(":{}", std::fs::metadata(&path).ok()?.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let names_it = |line: &str| line.contains("FLOCK") && line.split(' ').any(|word| word.ends_with(&inode));
    locks.lines().any(names_it).then_some(())?;
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    Some(if text.trim().is_empty() { "another process".to_owned() } else { text.trim().to_owned() })
}

fn logs(path: &Path) -> Result<Vec<(CoreId, PathBuf)>, DirectoryError> {
    let cores = entries(path)?.into_iter().filter_map(|name| name.strip_prefix(LOG)?.parse().ok());
    let mut found: Vec<_> = cores.map(|core: u8| (CoreId(core), path.join(format!("{LOG}{core}")))).collect();
    found.sort();
    Ok(found)
}

/// Refuses a directory that is none of ours by its names.
fn examine_names(path: &Path) -> Result<(), DirectoryError> {
    let found = entries(path)?;
    if found.is_empty() {
        let what = if path.exists() { "is empty" } else { "does not exist" };
        let reason = format!("the data directory {what}");
        return Err(DirectoryError::Unformatted { path: path.to_owned(), reason });
    }
    match found.into_iter().find(|name| !is_known(name)) {
        Some(found) => Err(DirectoryError::Foreign { path: path.to_owned(), found }),
        None => Ok(()),
    }
}

/// The identity of a directory, and whether both copies are as they should be.
fn examine_identity(
    path: &Path,
    cluster: &ClusterConfig,
    replica: ReplicaId,
) -> Result<(Identity, bool), DirectoryError> {
    let copies = Copies::read(path)?;
    if let Some(problem) = copies.other_format() {
        return Err(DirectoryError::OtherIdentity { path: path.to_owned(), problem });
    }
    let whole = copies.bad().is_empty();
    let Some(identity) = copies.identity else {
        let reason =
            format!("it does not tell whose it is: {IDENTITY} and its copy are {}", copies.why_none());
        return Err(DirectoryError::Unformatted { path: path.to_owned(), reason });
    };
    identity.check(path, cluster, replica)?;
    Ok((identity, whole))
}

impl DataDirectory {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the replica may do with what is in it.
    #[must_use]
    pub fn role(&self) -> &Role {
        &self.identity.role
    }

    /// Whose the log of one core is.
    #[must_use]
    pub fn log_identity(&self, core: CoreId) -> LogIdentity {
        self.identity.log(core)
    }

    /// From now on the replica casts no vote, for `reason`. Durable when this returns. An older reason stays.
    ///
    /// # Errors
    /// When the system refuses; the replica must not go on then.
    pub fn become_learner(&mut self, reason: String) -> Result<(), DirectoryError> {
        if self.identity.role == Role::Founding {
            self.identity.role = Role::Learner { reason };
            self.identity.write(&self.path)?;
        }
        Ok(())
    }

    /// What the directory says of itself.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The never-spoken mark of the key is this directory's. Durable when this returns.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn claim(&mut self) -> Result<(), DirectoryError> {
        self.set(|identity| identity.claimed = true)
    }

    /// From now on it is known in which boot of the system a run has not made durable what it wrote; or, with none, that
    /// all is durable. Durable when this returns.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn set_unsynced_boot(&mut self, boot: Option<String>) -> Result<(), DirectoryError> {
        self.set(|identity| identity.unsynced_boot = boot)
    }

    /// The replica has halted and must not go on by itself, for a reason; or, with none, was told to go on. Durable when
    /// this returns.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn set_halted(&mut self, reason: Option<String>) -> Result<(), DirectoryError> {
        self.set(|identity| identity.halted = reason)
    }

    fn set(&mut self, change: impl FnOnce(&mut Identity)) -> Result<(), DirectoryError> {
        let before = self.identity.clone();
        change(&mut self.identity);
        if self.identity == before { Ok(()) } else { self.identity.write(&self.path) }
    }

    /// Whether the replica has ever said something.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn has_spoken(&self) -> Result<bool, DirectoryError> {
        has_spoken(&self.path)
    }

    /// The directory of the segments of one core, which is made if it is not there.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn log(&self, core: CoreId) -> Result<PathBuf, DirectoryError> {
        let path = self.path.join(format!("{LOG}{}", core.0));
        make_directory(&path)?;
        Ok(path)
    }

    /// The directories of segments that are there, by core; an earlier run may have had more cores.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn logs(&self) -> Result<Vec<(CoreId, PathBuf)>, DirectoryError> {
        logs(&self.path)
    }

    /// Makes the folder of page files, if it was lost.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn make_pages(&self) -> Result<(), DirectoryError> {
        make_directory(&self.pages())
    }

    /// Where the pages of checkpointed states are.
    #[must_use]
    pub fn pages(&self) -> PathBuf {
        self.path.join(PAGES)
    }

    /// Where it stands what the pages of a checkpoint are.
    #[must_use]
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join(CHECKPOINTS)
    }
}

/// Notes that the replica of a data directory, which this process uses, has halted. Durable when this returns. An older
/// reason stays.
///
/// # Errors
/// When the system refuses, or the directory does not tell whose it is any more.
pub(crate) fn note_halted(path: &Path, reason: &str) -> Result<(), DirectoryError> {
    let copies = Copies::read(path)?;
    let Some(mut identity) = copies.identity else {
        let reason = format!("{IDENTITY} and its copy are {}", copies.why_none());
        return Err(DirectoryError::Unformatted { path: path.to_owned(), reason });
    };
    identity.halted.get_or_insert_with(|| reason.to_owned());
    identity.write(path)
}

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
    let write = || -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&unfinished, &path)
    };
    write().map_err(failed(&path, "write it"))?;
    sync_directory(directory)
}

/// Makes the names in a directory durable.
///
/// # Errors
/// When the system refuses.
pub fn sync_directory(path: &Path) -> Result<(), DirectoryError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(failed(path, "sync it"))
}

/// Makes a directory, and those above it, with their names durable, unless it is there.
fn make_directory(path: &Path) -> Result<(), DirectoryError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_directory(parent)?;
    DirBuilder::new().mode(0o700).create(path).map_err(failed(path, "create it"))?;
    sync_directory(parent)
}

fn build(path: &Path, identity: &Identity) -> Result<(), DirectoryError> {
    make_directory(path)?;
    make_directory(&path.join(PAGES))?;
    make_directory(&path.join(CHECKPOINTS))?;
    // Last, since with it the directory counts as formatted.
    identity.write(path)
}

/// The names in a directory; none for a directory that does not exist.
fn entries(path: &Path) -> Result<Vec<String>, DirectoryError> {
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

fn is_known(name: &str) -> bool {
    let name = name.strip_suffix(UNFINISHED).unwrap_or(name);
    let log = name.strip_suffix(MADE).unwrap_or(name).strip_prefix(LOG);
    let log = log.is_some_and(|core| core.parse::<u8>().is_ok());
    log || [IDENTITY, IDENTITY_COPY, SPOKEN, LOCK, PAGES, CHECKPOINTS, crate::sync_probe::SCRATCH]
        .contains(&name)
}

/// Locks the directory, as long as the file is open.
fn lock(path: &Path, replica: ReplicaId) -> Result<File, DirectoryError> {
    let file_path = path.join(LOCK);
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&file_path).map_err(failed(&file_path, "open it"))?;
    match file.try_lock() {
        Ok(()) => {
            let text = format!("replica {replica}, process {}\n", std::process::id());
            let write = file.set_len(0).and_then(|()| file.write_all(text.as_bytes()));
            write.map_err(failed(&file_path, "write it"))?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let holder = match holder.trim() {
                "" => "another process".to_owned(),
                holder => holder.to_owned(),
            };
            Err(DirectoryError::Locked { path: path.to_owned(), holder })
        }
        Err(TryLockError::Error(source)) => Err(failed(&file_path, "lock it")(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{decode, encode};
    use quorate_types::{Digest, SigningKey};

    fn cluster(id: u8) -> ClusterConfig {
        let key = |number: u8| SigningKey::from_seed(&[number; 32]).public().to_hex();
        let replica = |number: u8| {
            format!(
                "[[replica]]\nid = {number}\nkey = \"{}\"\nmesh = \"127.0.0.1:{}\"\nclient = \"127.0.0.1:{}\"\n",
                key(number + 1),
                8000 + u16::from(number),
                9000 + u16::from(number)
            )
        };
        let replicas: String = (0..4).map(replica).collect();
        let head = format!("cluster_id = \"{}\"\nepoch = 0\nlinks = 1\n", hex::encode([id; 32]));
        ClusterConfig::parse(&format!("{head}clients = [\"{}\"]\n{replicas}", key(99))).unwrap()
    }

    const ME: ReplicaId = ReplicaId(2);

    fn founding() -> Identity {
        Identity { directory: [3; 16], ..Identity::new(&cluster(1), ME, Role::Founding) }
    }

    fn formatted(path: &Path) -> DataDirectory {
        open(path, &cluster(1), ME).unwrap()
    }

    fn refused(path: &Path) -> DirectoryError {
        open(path, &cluster(1), ME).unwrap_err()
    }

    #[test]
    fn a_formatted_directory_opens_once_and_names_who_has_it() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        format(&path, &founding()).unwrap();
        let directory = formatted(&path);
        assert_eq!(directory.role(), &Role::Founding);
        assert!(directory.pages().is_dir() && directory.checkpoints().is_dir());
        let error = open(&path, &cluster(1), ME).unwrap_err().to_string();
        assert!(error.contains(&format!("replica 2, process {}", std::process::id())), "{error}");
        drop(directory);
        formatted(&path);
    }

    #[test]
    fn nothing_is_formatted_over() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join(LOST_AND_FOUND)).unwrap();
        format(directory.path(), &founding()).unwrap();
        let error = format(directory.path(), &founding()).unwrap_err();
        assert!(matches!(error, DirectoryError::NotEmpty { .. }), "{error}");
        let other = tempfile::tempdir().unwrap();
        std::fs::write(other.path().join("thesis.tex"), "").unwrap();
        assert!(format(other.path(), &founding()).unwrap_err().to_string().contains("thesis.tex"));
        assert!(matches!(refused(other.path()), DirectoryError::Foreign { .. }));
    }

    #[test]
    fn the_data_of_others_is_refused_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        format(directory.path(), &founding()).unwrap();
        let refusal = |id: u8, replica: u8| {
            open(directory.path(), &cluster(id), ReplicaId(replica)).unwrap_err().to_string()
        };
        assert!(refusal(2, 2).contains("cluster 01010101, and the cluster file has 02020202; name the"));
        assert!(refusal(1, 3).contains("data of replica 2"));
        let mut other = founding();
        other.configuration = Digest([7; 32]);
        let second = tempfile::tempdir().unwrap();
        format(second.path(), &other).unwrap();
        let error = open(second.path(), &cluster(1), ME).unwrap_err().to_string();
        assert!(error.contains("put the old cluster file back"), "{error}");
    }

    #[test]
    fn where_no_formatted_directory_is_nothing_starts_and_nothing_is_made() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let told = |path: &Path| {
            let error = refused(path);
            assert!(error.is_configuration());
            let text = error.to_string();
            for part in ["mount the disk that holds it, or correct data_dir", "format --learner"] {
                assert!(text.contains(part), "{text}");
            }
            text
        };
        assert!(told(&path).contains("the data directory does not exist"));
        assert!(!path.exists());
        std::fs::create_dir(&path).unwrap();
        assert!(told(&path).contains("the data directory is empty"));
        assert_eq!(entries(&path).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_directory_becomes_a_learners_on_purpose_and_keeps_what_it_holds() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let learn = |reason: &str| format_learner(&path, &cluster(1), ME, reason.to_owned());
        assert!(learn("a lost disk").unwrap(), "there was none");
        assert!(!learn("another reason").unwrap());
        let role = Role::Learner { reason: "a lost disk".to_owned() };
        assert_eq!(formatted(&path).role(), &role);
        let second = parent.path().join("second");
        format(&second, &founding()).unwrap();
        std::fs::create_dir(second.join("log-0")).unwrap();
        assert!(!format_learner(&second, &cluster(1), ME, "a lost segment".to_owned()).unwrap());
        assert!(second.join("log-0").is_dir() && matches!(formatted(&second).role(), Role::Learner { .. }));
        let error = format_learner(&second, &cluster(2), ME, String::new()).unwrap_err();
        assert!(matches!(error, DirectoryError::OtherIdentity { .. }), "{error}");
        let other = tempfile::tempdir().unwrap();
        std::fs::write(other.path().join("thesis.tex"), "").unwrap();
        let error = format_learner(other.path(), &cluster(1), ME, String::new()).unwrap_err();
        assert!(matches!(error, DirectoryError::NotEmpty { .. }), "{error}");
    }

    /// The disk is full, or the place above it may not be written.
    #[test]
    fn a_directory_that_cannot_be_made_has_not_taken_the_key() {
        let parent = tempfile::tempdir().unwrap();
        let (key_file, key) = (parent.path().join("key"), SigningKey::from_seed(&[1; 32]).public());
        never_spoken::mark(&key_file, &key).unwrap();
        // No directory is made over a link that leads nowhere.
        let nowhere = parent.path().join("nowhere");
        std::os::unix::fs::symlink(parent.path().join("gone"), &nowhere).unwrap();
        let make = |path: &Path, directory| {
            format_voter(path, Identity { directory, ..founding() }, &key_file, &key)
        };
        make(&nowhere, [7; 16]).unwrap_err();
        assert!(never_spoken::is_marked(&key_file, &key, &[8; 16]).unwrap());
        let path = parent.path().join("data");
        make(&path, [8; 16]).unwrap();
        assert!(formatted(&path).identity().claimed);
        assert!(!never_spoken::mark_path(&key_file).exists());
    }

    #[test]
    fn what_must_not_be_forgotten_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        format(directory.path(), &founding()).unwrap();
        let mut open = formatted(directory.path());
        assert!(!open.has_spoken().unwrap());
        note_spoken(directory.path()).unwrap();
        open.claim().unwrap();
        open.set_unsynced_boot(Some("a".to_owned())).unwrap();
        open.set_halted(Some("two roots".to_owned())).unwrap();
        drop(open);
        let mut open = formatted(directory.path());
        let expected = Identity {
            claimed: true,
            unsynced_boot: Some("a".to_owned()),
            halted: Some("two roots".to_owned()),
            ..founding()
        };
        assert_eq!((open.identity(), open.has_spoken().unwrap()), (&expected, true));
        open.set_unsynced_boot(None).unwrap();
        open.set_halted(None).unwrap();
        drop(open);
        assert_eq!(formatted(directory.path()).identity(), &Identity { claimed: true, ..founding() });
    }

    #[test]
    fn a_founder_that_becomes_a_learner_stays_one_for_its_first_reason() {
        let directory = tempfile::tempdir().unwrap();
        format(directory.path(), &founding()).unwrap();
        let mut open = formatted(directory.path());
        for reason in ["votes \"damaged\"\nin segment 3", "another"] {
            open.become_learner(reason.to_owned()).unwrap();
        }
        drop(open);
        let role = formatted(directory.path()).role().clone();
        assert_eq!(role, Role::Learner { reason: "votes \"damaged\"\nin segment 3".to_owned() });
        // A crash in between leaves two that differ: the one that does not vote stands.
        write_durably(directory.path(), IDENTITY, encode(&founding()).as_bytes()).unwrap();
        assert_eq!(formatted(directory.path()).role(), &role);
        let mended = std::fs::read(directory.path().join(IDENTITY)).unwrap();
        assert_eq!(decode(&mended).unwrap().role, role);
    }

    #[test]
    fn one_damaged_copy_is_mended_and_two_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        format(directory.path(), &founding()).unwrap();
        let whole = std::fs::read(directory.path().join(IDENTITY)).unwrap();
        for name in [IDENTITY, IDENTITY_COPY] {
            std::fs::write(directory.path().join(name), &whole[..40]).unwrap();
            assert_eq!(formatted(directory.path()).role(), &Role::Founding);
            assert_eq!(std::fs::read(directory.path().join(name)).unwrap(), whole);
        }
        std::fs::write(directory.path().join(IDENTITY), "").unwrap();
        std::fs::remove_file(directory.path().join(IDENTITY_COPY)).unwrap();
        let error = refused(directory.path()).to_string();
        assert!(error.contains("identity and its copy are damaged"), "{error}");
        assert_eq!(std::fs::read(directory.path().join(IDENTITY)).unwrap(), b"");
    }

    #[test]
    fn an_identity_that_the_system_does_not_let_read_makes_no_learner() {
        let directory = tempfile::tempdir().unwrap();
        format(directory.path(), &founding()).unwrap();
        // Whoever reads a directory is refused, root too.
        let refuse = |name: &str| {
            std::fs::remove_file(directory.path().join(name)).unwrap();
            std::fs::create_dir(directory.path().join(name)).unwrap();
        };
        refuse(IDENTITY);
        assert_eq!(Copies::read(directory.path()).unwrap().identity, Some(founding()), "the copy serves");
        refuse(IDENTITY_COPY);
        for error in [refused(directory.path()), look(directory.path()).unwrap_err()] {
            let text = error.to_string();
            assert!(text.contains("/identity: cannot read whose data this is: Is a directory"), "{text}");
            assert!(text.contains("check data_dir"), "{text}");
        }
    }

    #[test]
    fn what_the_system_refuses_is_told_with_its_remedy_and_whose_fault_it_is() {
        let errno = |errno: rustix::io::Errno| failed(Path::new("data"), "read it")(errno.into());
        for (error, is_configuration, remedy) in [
            (
                errno(rustix::io::Errno::ACCESS),
                true,
                "give the user that the replica runs as the right to it",
            ),
            (errno(rustix::io::Errno::ROFS), true, "make the disk writable"),
            (errno(rustix::io::Errno::MFILE), false, "raise the limit of open files"),
            (errno(rustix::io::Errno::NOSPC), false, "make room on the disk"),
            (errno(rustix::io::Errno::IO), false, "check data_dir and the disk"),
        ] {
            assert_eq!(error.is_configuration(), is_configuration, "{error}");
            assert!(error.to_string().contains(remedy), "{error}");
        }
    }

    #[test]
    fn another_format_is_left_to_the_program_that_knows_it() {
        let directory = tempfile::tempdir().unwrap();
        format(directory.path(), &founding()).unwrap();
        // One copy is enough: whoever has written it may have begun to change the rest.
        let text = encode(&founding()).replace("reader = 3", "reader = 4");
        let (covered, _) = text.rsplit_once("check = ").unwrap();
        let text = format!("{covered}check = \"{:08x}\"\n", crc32c::crc32c(covered.as_bytes()));
        std::fs::write(directory.path().join(IDENTITY_COPY), &text).unwrap();
        let error = refused(directory.path()).to_string();
        assert!(
            error.contains("format 4 and newer may open, and this version knows 3")
                && error.contains("run the version"),
            "{error}"
        );
        assert_eq!(std::fs::read_to_string(directory.path().join(IDENTITY_COPY)).unwrap(), text);
    }

    #[test]
    fn logs_of_all_cores_are_found_in_order() {
        let directory = tempfile::tempdir().unwrap();
        format(directory.path(), &founding()).unwrap();
        let open = formatted(directory.path());
        assert_eq!(open.logs().unwrap(), []);
        for core in [10, 2, 0] {
            assert!(open.log(CoreId(core)).unwrap().is_dir());
        }
        let cores: Vec<u8> = open.logs().unwrap().into_iter().map(|(core, _)| core.0).collect();
        assert_eq!(cores, [0, 2, 10]);
    }
}
