//! Making data directories: of voters, of learners, and with the state that a cluster begins with.

use super::layout::{CHECKPOINTS, PAGES, UNFINISHED, entries, make_private};
use super::{DirectoryError, FormatError, open};
use crate::identity::{IDENTITY, IDENTITY_COPY, Identity, Role};
use crate::never_spoken::{Mark, mark_path};
use crate::page_folder::{PageFolder, write_checkpoint};
use quorate_state::{CheckpointHead, Frozen};
use quorate_types::{ClusterConfig, Nanoseconds, PublicKey, ReplicaId};
use quorate_wire::Position;
use quorate_wire::header::genesis;
use std::path::Path;

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

/// As [`format()`] for a replica with the key in `key_file`, which is `key`: of a voter, where nobody has ever spoken with
/// that key, and then it belongs to this directory and to no other one; else of a learner. Says which.
///
/// # Errors
/// As for [`format()`]; and while another process takes the key into use.
pub fn format_with_key(
    path: &Path,
    cluster: &ClusterConfig,
    replica: ReplicaId,
    (key_file, key): (&Path, &PublicKey),
) -> Result<Role, DirectoryError> {
    let voter = Identity::new(cluster, replica, Role::Founding);
    // Held to the end: whoever else makes a directory for the key sees what this one has done with it.
    let mark = Mark::hold(key_file, key)?;
    if !mark.is_free_for(&voter.directory)? {
        let mark = mark_path(key_file);
        let reason = format!(
            "its key may have voted before: {} was not there, or named another directory, when it was formatted",
            mark.display()
        );
        let role = Role::Learner { reason };
        return format(path, &Identity { role: role.clone(), ..voter }).map(|()| role);
    }
    // One that cannot be made whole has not taken the key: another one may. As by a start, which goes on after a kill here.
    format(path, &voter)?;
    mark.assign(&voter.directory)?;
    let voter = Identity { claimed: true, ..voter };
    voter.write(path)?;
    mark.consume(&voter.directory)?;
    Ok(voter.role)
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
    make_private(&pages)?;
    let Position { seq, digest } = genesis(identity.configuration);
    let head = CheckpointHead { seq, digest, timestamp: Nanoseconds(0), certificate: Vec::new() };
    write_checkpoint(state, head, &mut PageFolder::open(&pages, true)?, |_| {})?;
    Ok(build(path, identity)?)
}

fn build(path: &Path, identity: &Identity) -> Result<(), DirectoryError> {
    make_private(path)?;
    make_private(&path.join(PAGES))?;
    make_private(&path.join(CHECKPOINTS))?;
    // Last, since with it the directory counts as formatted.
    identity.write(path)
}
