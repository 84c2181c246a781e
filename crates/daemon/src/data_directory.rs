//! The data directory of one replica: whose it is, who uses it, and where things lie in it.
//!
//! | name | what |
//! | --- | --- |
//! | `identity`, `identity.copy` | the same text twice: cluster, configuration, replica, format, role, checksum |
//! | `lock` | locked (flock) by the process that uses the directory, whose number it holds |
//! | `log-<core>/` | the segments of the log of one core |
//! | `pages/` | the pages of checkpointed states |
//! | `checkpoints/` | what the pages of a checkpoint are |
//!
//! A directory is *formatted* on purpose, by `quorate init` or `quorate format`, never by `quorate start`: an empty
//! directory where a formatted one was expected means that votes may be lost (DESIGN section 5). A replica that finds
//! none makes one as a *learner*, which never votes, and the directory remembers why. The role is read from whichever
//! copy of the identity is intact; where both are and differ, the learner wins.
//!
//! Whatever is written here is written under another name, synced, renamed, and its directory synced.

use crate::page_folder::{FolderError, PageFolder, write_checkpoint};
use quorate_journal::LogIdentity;
use quorate_state::{CheckpointHead, Frozen};
use quorate_types::{ClusterConfig, CoreId, Digest, Nanoseconds, ReplicaId};
use quorate_wire::Position;
use quorate_wire::header::genesis;
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;
use tracing::warn;

/// The format of all that is in the directory. Another one is another program's.
const FORMAT: u32 = 1;
const IDENTITY: &str = "identity";
const IDENTITY_COPY: &str = "identity.copy";
const LOCK: &str = "lock";
const LOG: &str = "log-";
const PAGES: &str = "pages";
const CHECKPOINTS: &str = "checkpoints";
/// What a new file is called until it is whole.
const UNFINISHED: &str = ".new";
/// File systems put this into their roots.
const LOST_AND_FOUND: &str = "lost+found";
/// What precedes the checksum, which covers all above it.
const CHECK: &str = "check = \"";
const HEADER: &str = "\
# Whose data this is. Written by quorate; a change by hand is taken for damage.
";

/// What a replica may do with what the directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The replica has had this directory since the cluster began, and so all its votes.
    Founding,
    /// Votes may be lost, so it casts none.
    Learner {
        /// Why, in words.
        reason: String,
    },
}

/// Whose data a directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: [u8; 32],
    /// The digest of the cluster's configuration; all that is signed carries it.
    pub configuration: Digest,
    /// The replica.
    pub replica: ReplicaId,
    /// What tells this directory from every other: drawn when it is formatted, and part of all that is written to its
    /// logs.
    pub directory: [u8; 16],
    /// What it may do.
    pub role: Role,
}

impl Identity {
    /// The identity of a new directory of a replica of a cluster.
    #[must_use]
    pub fn new(cluster: &ClusterConfig, replica: ReplicaId, role: Role) -> Self {
        let mut directory = [0; 16];
        getrandom::fill(&mut directory).expect("invariant: the kernel's random source does not fail");
        Self { cluster_id: *cluster.cluster_id(), configuration: cluster.digest(), replica, directory, role }
    }

    /// Whose the log of one core is.
    #[must_use]
    pub fn log(&self, core: CoreId) -> LogIdentity {
        let Self { cluster_id, replica, directory, .. } = *self;
        LogIdentity { cluster_id, replica, core, directory }
    }
}

/// The identity as it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    format: u32,
    cluster_id: String,
    configuration: String,
    replica: u8,
    directory: String,
    role: RoleName,
    reason: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RoleName {
    Founding,
    Learner,
}

/// Why a data directory cannot be used.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// The system refused something.
    #[error("{path}: cannot {what}: {source}; {remedy}", path = path.display(), remedy = remedy(source.kind()))]
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

/// What [`open`] found.
#[derive(Debug)]
pub enum Opened {
    /// A formatted directory, now locked.
    Formatted(DataDirectory),
    /// None: it is missing, or was never formatted, or does not tell whose it is any more.
    Unformatted {
        /// What is wrong, in words.
        reason: String,
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

fn remedy(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on the disk",
        io::ErrorKind::PermissionDenied => "give the user that the replica runs as the right to it",
        io::ErrorKind::ReadOnlyFilesystem => "make the disk writable",
        _ => "check data_dir and the disk (dmesg, smartctl)",
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
/// When it belongs to others, is in use, or the system refuses.
pub fn open(path: &Path, cluster: &ClusterConfig, replica: ReplicaId) -> Result<Opened, DirectoryError> {
    if let Err(reason) = examine_names(path)? {
        return Ok(Opened::Unformatted { reason });
    }
    let lock = lock(path, replica)?;
    let (identity, whole) = match examine_identity(path, cluster, replica)? {
        Ok(found) => found,
        Err(reason) => return Ok(Opened::Unformatted { reason }),
    };
    let directory = DataDirectory { path: path.to_owned(), identity, _lock: lock };
    if !whole {
        warn!("{}: one copy of the identity was damaged and is written again", path.display());
        directory.write_identity()?;
    }
    Ok(Opened::Formatted(directory))
}

/// What a replica may do with a data directory, or what is wrong with it, without taking it into use.
///
/// # Errors
/// When it belongs to others, or the system refuses.
pub fn examine(
    path: &Path,
    cluster: &ClusterConfig,
    replica: ReplicaId,
) -> Result<Result<Role, String>, DirectoryError> {
    if let Err(reason) = examine_names(path)? {
        return Ok(Err(reason));
    }
    Ok(examine_identity(path, cluster, replica)?.map(|(identity, _)| identity.role))
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
    let (copies, chosen) = read_copies(path)?;
    let [first, second] = &copies;
    let bad = [IDENTITY, IDENTITY_COPY].into_iter().zip(&copies);
    let bad = bad.filter(|(_, copy)| copy.as_ref().ok() != chosen.as_ref());
    let bad_copies = bad.map(|(name, _)| name).collect();
    let identity = match (chosen, first, second) {
        (Some(identity), ..) => Ok(identity),
        (None, Err(Unreadable::OtherFormat(format)), _) | (None, _, Err(Unreadable::OtherFormat(format))) => {
            Err(format!("its format is {format}, and this version knows {FORMAT}"))
        }
        (None, Err(Unreadable::Missing), Err(Unreadable::Missing)) if names.is_empty() => {
            Err("it is empty or does not exist".to_owned())
        }
        _ => Err(format!("{IDENTITY} and its copy are missing or damaged")),
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

/// Whether a directory is one of ours, or why it may become one.
fn examine_names(path: &Path) -> Result<Result<(), String>, DirectoryError> {
    let found = entries(path)?;
    if found.is_empty() {
        let what = if path.exists() { "is empty" } else { "does not exist" };
        return Ok(Err(format!("{} {what}", path.display())));
    }
    match found.into_iter().find(|name| !is_known(name)) {
        Some(found) => Err(DirectoryError::Foreign { path: path.to_owned(), found }),
        None => Ok(Ok(())),
    }
}

/// The identity of a directory and whether both copies are as they should be, or why it has none.
fn examine_identity(
    path: &Path,
    cluster: &ClusterConfig,
    replica: ReplicaId,
) -> Result<Result<(Identity, bool), String>, DirectoryError> {
    let (copies, chosen) = read_copies(path)?;
    if let Some(identity) = chosen {
        check_identity(path, &identity, cluster, replica)?;
        let whole = copies.iter().all(|copy| copy.as_ref() == Ok(&identity));
        return Ok(Ok((identity, whole)));
    }
    let other = copies.iter().find_map(|copy| match copy {
        Err(Unreadable::OtherFormat(format)) => Some(format),
        _ => None,
    });
    if let Some(format) = other {
        let problem =
            format!("its format is {format}, and this version knows {FORMAT}; run the version that wrote it");
        return Err(DirectoryError::OtherIdentity { path: path.to_owned(), problem });
    }
    let state =
        if copies.iter().all(|copy| *copy == Err(Unreadable::Missing)) { "missing" } else { "damaged" };
    Ok(Err(format!("{} does not tell whose it is: {IDENTITY} and its copy are {state}", path.display())))
}

/// Opens and locks the data directory of a replica that is to run; where there is none, makes one as a learner.
///
/// # Errors
/// As for [`open`].
pub fn open_or_learn(
    path: &Path,
    cluster: &ClusterConfig,
    replica: ReplicaId,
) -> Result<DataDirectory, DirectoryError> {
    match open(path, cluster, replica)? {
        Opened::Formatted(directory) => Ok(directory),
        Opened::Unformatted { reason } => {
            build(path, &Identity::new(cluster, replica, Role::Learner { reason }))?;
            match open(path, cluster, replica)? {
                Opened::Formatted(directory) => Ok(directory),
                Opened::Unformatted { reason } => {
                    let source = io::Error::other(reason);
                    Err(DirectoryError::Io { path: path.to_owned(), what: "format it", source })
                }
            }
        }
    }
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
            self.write_identity()?;
        }
        Ok(())
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

    fn write_identity(&self) -> Result<(), DirectoryError> {
        let text = encode(&self.identity);
        write_durably(&self.path, IDENTITY_COPY, text.as_bytes())?;
        write_durably(&self.path, IDENTITY, text.as_bytes())
    }
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
    let text = encode(identity);
    write_durably(path, IDENTITY_COPY, text.as_bytes())?;
    write_durably(path, IDENTITY, text.as_bytes())
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
    let log = name.strip_prefix(LOG).is_some_and(|core| core.parse::<u8>().is_ok());
    log || [IDENTITY, IDENTITY_COPY, LOCK, PAGES, CHECKPOINTS, crate::sync_probe::SCRATCH].contains(&name)
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

fn encode(identity: &Identity) -> String {
    let (role, reason) = match &identity.role {
        Role::Founding => (RoleName::Founding, String::new()),
        Role::Learner { reason } => (RoleName::Learner, reason.clone()),
    };
    let file = IdentityFile {
        format: FORMAT,
        cluster_id: Digest(identity.cluster_id).to_hex(),
        configuration: identity.configuration.to_hex(),
        replica: identity.replica.0,
        directory: hex::encode(identity.directory),
        role,
        reason,
    };
    let fields = toml::to_string(&file).expect("invariant: numbers and strings are valid TOML");
    let text = format!("{HEADER}{fields}");
    let check = crc32c::crc32c(text.as_bytes());
    format!("{text}{CHECK}{check:08x}\"\n")
}

/// What a copy of the identity says.
type IdentityCopy = Result<Identity, Unreadable>;

/// Why a copy of the identity says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Unreadable {
    Missing,
    Damaged,
    /// Whole, and of another program.
    OtherFormat(u32),
}

/// Both copies, and the identity that stands. One that the system does not let read counts as damaged only beside one
/// that is whole: nothing is known of what it holds, and a learner must not be made for that.
fn read_copies(path: &Path) -> Result<([IdentityCopy; 2], Option<Identity>), DirectoryError> {
    let mut refused = None;
    let copies = [IDENTITY, IDENTITY_COPY].map(|name| {
        let path = path.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => decode(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Unreadable::Missing),
            Err(error) => {
                refused.get_or_insert_with(|| failed(&path, "read whose data this is")(error));
                Err(Unreadable::Damaged)
            }
        }
    });
    match (choose(&copies), refused) {
        (None, Some(refused)) => Err(refused),
        (chosen, _) => Ok((copies, chosen)),
    }
}

fn decode(bytes: &[u8]) -> Result<Identity, Unreadable> {
    let text = std::str::from_utf8(bytes).map_err(|_| Unreadable::Damaged)?;
    let (covered, check) = text.rsplit_once(CHECK).ok_or(Unreadable::Damaged)?;
    if check != format!("{:08x}\"\n", crc32c::crc32c(covered.as_bytes())) {
        return Err(Unreadable::Damaged);
    }
    let table: toml::Table = covered.parse().map_err(|_| Unreadable::Damaged)?;
    match table.get("format").and_then(toml::Value::as_integer).map(u32::try_from) {
        Some(Ok(FORMAT)) => {}
        Some(Ok(other)) => return Err(Unreadable::OtherFormat(other)),
        _ => return Err(Unreadable::Damaged),
    }
    let file: IdentityFile = table.try_into().map_err(|_| Unreadable::Damaged)?;
    let role = match file.role {
        RoleName::Founding => Role::Founding,
        RoleName::Learner => Role::Learner { reason: file.reason },
    };
    Ok(Identity {
        cluster_id: digits(&file.cluster_id)?,
        configuration: Digest(digits(&file.configuration)?),
        replica: ReplicaId(file.replica),
        directory: digits(&file.directory)?,
        role,
    })
}

fn digits<const N: usize>(text: &str) -> Result<[u8; N], Unreadable> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| Unreadable::Damaged)?;
    Ok(bytes)
}

/// The identity that stands: of two that differ, as after a crash between writing one and the other, the learner's.
fn choose(copies: &[IdentityCopy; 2]) -> Option<Identity> {
    let intact = || copies.iter().filter_map(|copy| copy.as_ref().ok());
    intact().find(|copy| copy.role != Role::Founding).or_else(|| intact().next()).cloned()
}

fn check_identity(
    path: &Path,
    found: &Identity,
    cluster: &ClusterConfig,
    replica: ReplicaId,
) -> Result<(), DirectoryError> {
    let problem = if found.cluster_id != *cluster.cluster_id() {
        format!(
            "this is the data of a replica of the cluster {}, and the cluster file has {}; name the data_dir of this \
             cluster, or another one for a new cluster",
            Digest(found.cluster_id).short(),
            Digest(*cluster.cluster_id()).short()
        )
    } else if found.replica != replica {
        format!(
            "this is the data of replica {}, and the configuration is of replica {replica}; name the data_dir of replica \
             {replica}",
            found.replica
        )
    } else if found.configuration != cluster.digest() {
        format!(
            "this data was written under the configuration {}, and the cluster file now has {}; put the old cluster file \
             back, as a running cluster cannot change it in this version",
            found.configuration.short(),
            cluster.digest().short()
        )
    } else {
        return Ok(());
    };
    Err(DirectoryError::OtherIdentity { path: path.to_owned(), problem })
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::SigningKey;

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
        match open(path, &cluster(1), ME).unwrap() {
            Opened::Formatted(directory) => directory,
            Opened::Unformatted { reason } => panic!("{reason}"),
        }
    }

    fn unformatted(path: &Path) -> String {
        match open(path, &cluster(1), ME).unwrap() {
            Opened::Formatted(_) => panic!("formatted"),
            Opened::Unformatted { reason } => reason,
        }
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
        let error = open_or_learn(other.path(), &cluster(1), ME).unwrap_err();
        assert!(matches!(error, DirectoryError::Foreign { .. }), "{error}");
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
    fn without_a_formatted_directory_a_replica_learns_and_remembers_why() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        assert!(unformatted(&path).contains("does not exist"));
        std::fs::create_dir(&path).unwrap();
        assert!(unformatted(&path).contains("is empty"));
        let Role::Learner { reason } = open_or_learn(&path, &cluster(1), ME).unwrap().role().clone() else {
            panic!("it may vote")
        };
        assert!(reason.contains("is empty"), "{reason}");
        let again = open_or_learn(&path, &cluster(1), ME).unwrap();
        assert_eq!(again.role(), &Role::Learner { reason });
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
    fn one_damaged_copy_is_mended_and_two_make_a_learner() {
        let directory = tempfile::tempdir().unwrap();
        format(directory.path(), &founding()).unwrap();
        let whole = std::fs::read(directory.path().join(IDENTITY)).unwrap();
        for name in [IDENTITY, IDENTITY_COPY] {
            for index in 0..whole.len() {
                let mut damaged = whole.clone();
                damaged[index] ^= 1 << (index % 8);
                assert_eq!(decode(&damaged), Err(Unreadable::Damaged), "byte {index}");
                assert_eq!(decode(&whole[..index]), Err(Unreadable::Damaged), "cut at {index}");
            }
            std::fs::write(directory.path().join(name), &whole[..40]).unwrap();
            assert_eq!(formatted(directory.path()).role(), &Role::Founding);
            assert_eq!(std::fs::read(directory.path().join(name)).unwrap(), whole);
        }
        std::fs::write(directory.path().join(IDENTITY), "").unwrap();
        std::fs::remove_file(directory.path().join(IDENTITY_COPY)).unwrap();
        assert!(unformatted(directory.path()).contains("damaged"));
        let learner = open_or_learn(directory.path(), &cluster(1), ME).unwrap();
        assert!(matches!(learner.role(), Role::Learner { .. }));
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
        assert_eq!(read_copies(directory.path()).unwrap().1, Some(founding()), "the copy serves");
        refuse(IDENTITY_COPY);
        let opened = open_or_learn(directory.path(), &cluster(1), ME);
        for text in [opened.unwrap_err().to_string(), look(directory.path()).unwrap_err().to_string()] {
            assert!(text.contains("/identity: cannot read whose data this is: Is a directory"), "{text}");
            assert!(text.contains("check data_dir"), "{text}");
        }
    }

    #[test]
    fn a_later_format_is_left_to_the_program_that_knows_it() {
        let directory = tempfile::tempdir().unwrap();
        format(directory.path(), &founding()).unwrap();
        let text = encode(&founding()).replace("format = 1", "format = 2");
        let (covered, _) = text.rsplit_once(CHECK).unwrap();
        let text = format!("{covered}{CHECK}{:08x}\"\n", crc32c::crc32c(covered.as_bytes()));
        for name in [IDENTITY, IDENTITY_COPY] {
            std::fs::write(directory.path().join(name), &text).unwrap();
        }
        let error = open_or_learn(directory.path(), &cluster(1), ME).unwrap_err().to_string();
        assert!(error.contains("its format is 2"), "{error}");
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
