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

mod error;
mod format;
mod layout;
mod lock;

pub(crate) use error::failed;
pub use error::{DirectoryError, FormatError};
pub use format::{format, format_learner, format_with_key, format_with_state};
pub use layout::{create_durably, make_directory, sync_directory, write_durably};
pub(crate) use layout::{has_spoken, log_path, note_spoken};
pub(crate) use lock::{hold, try_lock};

use crate::identity::{Copies, IDENTITY, Identity, Role};
use layout::{CHECKPOINTS, PAGES, entries, is_known, logs, make_private};
use quorate_journal::LogIdentity;
use quorate_types::{ClusterConfig, CoreId, ReplicaId};
use std::fs::File;
use std::path::{Path, PathBuf};
use tracing::warn;

/// A data directory in use by this process.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    identity: Identity,
    /// Locked while it is open.
    _lock: File,
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
    let lock = lock::lock(path, replica)?;
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

/// Refuses a data directory that a process uses. One that does not exist is used by nobody.
///
/// # Errors
/// When it is in use, or the system refuses.
pub fn check_unused(path: &Path) -> Result<(), DirectoryError> {
    lock::hold(path).map(drop)
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
    Ok(Look { identity, bad_copies, holder: lock::holder(path), logs, pages, foreign })
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
        let path = log_path(&self.path, core);
        make_private(&path)?;
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
        make_private(&self.pages())
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

#[cfg(test)]
mod tests;
