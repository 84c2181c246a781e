//! What a replica finds in its data directory when it starts, and what follows from it.

use crate::config::{Durability, NodeConfig};
use crate::data_directory::{DataDirectory, Role};
use crate::page_folder::{self, FolderError, PageFolder};
use crate::run::StartError;
use crate::segment_files::{self, LogRead};
use quorate_journal::{Damage, Scan};
use quorate_replica::{Found, Recovery, ReplicaSetup};
use quorate_state::{PageStore, State, StoreOptions};
use quorate_types::{ClusterConfig, CoreId, limits};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;
use tracing::{info, warn};

/// The core whose log has the votes.
const FIRST_CORE: CoreId = CoreId(0);

/// What the cores begin with.
pub(crate) struct Beginning {
    pub(crate) recovery: Recovery,
    /// Where the logs go on.
    pub(crate) scans: BTreeMap<CoreId, Scan>,
    /// Where the page files go on.
    pub(crate) store: PageStore,
}

/// A cluster that began with the state of a backup has a replica that does not have it.
pub(crate) fn no_beginning(path: &Path, reason: &str) -> StartError {
    let problem = format!(
        "the cluster began with the state of a backup (genesis_root in the cluster file), and this replica does not \
         have it: {reason}; move the directory away and make it anew with `quorate restore --from BACKUP --config FILE`"
    );
    StartError::Recovery { path: path.to_owned(), problem }
}

/// Refuses a state that the cluster did not begin with. One that follows a header is proven by its certificate. Without
/// any, the replica executes nothing before it has taken over a certified one, which it can only where the logs name one.
fn check_beginning(cluster: &ClusterConfig, path: &Path, found: &Found) -> Result<(), StartError> {
    let Some(root) = cluster.genesis_root() else { return Ok(()) };
    match &found.state {
        None if found.certificate().is_some() => Ok(()),
        None => Err(no_beginning(
            path,
            "it has no checkpoint that is whole, and its logs name no certified state",
        )),
        Some(state) if state.header().is_none() && state.freeze().root() != root => {
            Err(no_beginning(path, "its first state has another root"))
        }
        Some(_) => Ok(()),
    }
}

/// Why votes are lost although no log tells: the log of the first core holds nothing, and something else shows that the
/// replica has spoken. It says nothing before that log holds a record.
pub(crate) fn forgotten<'a>(
    scans: impl Iterator<Item = (CoreId, &'a Scan)>,
    folder: &PageFolder,
) -> Result<Option<String>, FolderError> {
    let used: Vec<CoreId> = scans.filter(|(_, scan)| !scan.is_empty()).map(|(core, _)| core).collect();
    let shown = match used.first() {
        Some(_) if used.contains(&FIRST_CORE) => return Ok(None),
        Some(other) => format!("log-{other} does"),
        None if folder.follows_headers()? => format!("{} has a later checkpoint", folder.path().display()),
        None => return Ok(None),
    };
    Ok(Some(format!("log-{FIRST_CORE} holds nothing, and {shown}: the votes of this replica are lost")))
}

/// Reads the logs, of however many cores, and puts them together with the checkpoint that goes with them. A replica whose
/// votes may be lost is a learner from here on, and its directory remembers that.
pub(crate) fn recover(
    config: &NodeConfig,
    setup: &ReplicaSetup,
    data: &mut DataDirectory,
    folder: &mut PageFolder,
) -> Result<Beginning, StartError> {
    let started = Instant::now();
    let (mut scans, mut found) = (BTreeMap::new(), Found::default());
    for (core, directory) in data.logs()? {
        let sync = config.durability == Durability::Sync;
        let LogRead { mut scan, unreadable } =
            segment_files::read_log(&directory, data.log_identity(core), sync)?;
        unreadable.iter().for_each(|blocks| warn!("{blocks}"));
        segment_files::repair(&directory, &scan)?;
        tell(&directory.display().to_string(), &scan);
        if scan.votes_are_lost() && *data.role() == Role::Founding {
            data.become_learner(format!("{}: {}", directory.display(), scan.damage))?;
        }
        found.records.append(&mut scan.records);
        for (journal, lsn) in &scan.last {
            let end = found.ends.entry(*journal).or_default();
            *end = (*end).max(*lsn);
        }
        scans.insert(core, scan);
    }
    if let Some(reason) = forgotten(scans.iter().map(|(core, scan)| (*core, scan)), folder)? {
        data.become_learner(format!("{}: {reason}", data.path().display()))?;
    }
    if let Role::Learner { reason } = data.role() {
        warn!(
            "this replica is a learner and casts no votes, because {reason}; it counts as one of the faulty ones until it \
             is given a new key by a change of configuration"
        );
        found.learner = Some(reason.clone());
    }
    let records = found.records.len();
    if records > 0 {
        info!(records, elapsed_ms = started.elapsed().as_millis(), "the logs are read");
    }
    let store = load_checkpoint(folder, &mut found)?;
    check_beginning(&config.cluster, data.path(), &found)?;
    let recovery = Recovery::of(setup, found).map_err(|problem| StartError::Recovery {
        path: data.path().to_owned(),
        problem: problem.to_string(),
    })?;
    Ok(Beginning { recovery, scans, store })
}

/// Loads the checkpoint that goes with the logs, and what a transfer had received when the replica stopped.
fn load_checkpoint(folder: &mut PageFolder, found: &mut Found) -> Result<PageStore, StartError> {
    let started = Instant::now();
    let pages = page_folder::find(folder, StoreOptions::default(), found.certified())?;
    for error in &pages.damaged {
        warn!("a checkpoint is damaged: {error}; another one, or the other replicas, serve instead");
    }
    if let Some((manifest, frozen)) = pages.state {
        found.state = Some(State::from_frozen(&frozen, limits::SESSIONS_MAX));
        let (seq, elapsed_ms) = (manifest.head.seq.0, started.elapsed().as_millis());
        info!(seq, elapsed_ms, "the newest certified checkpoint is loaded");
    }
    found.part = pages.partial.map(|(_, forest)| forest);
    Ok(pages.store)
}

fn tell(directory: &str, scan: &Scan) {
    if scan.repaired > 0 {
        warn!("{directory}: {} groups were damaged in one place and served from their copies", scan.repaired);
    }
    match &scan.damage {
        Damage::None => {}
        // What was under way when the replica was stopped by force.
        Damage::TornTail(torn) => info!("{directory}: {torn}"),
        damage => warn!("{directory}: {damage}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page_folder::write_checkpoint;
    use quorate_journal::{CONSENSUS_JOURNAL, Fate, GroupNumber, GroupSummary, Record, SegmentNumber};
    use quorate_state::CheckpointHead;
    use quorate_types::{Digest, Lsn, Nanoseconds, Seq};
    use quorate_wire::message::CheckpointCertificate;
    use quorate_wire::{Position, testing};
    use std::sync::Arc;

    fn used() -> Scan {
        let mut scan = Scan::default();
        scan.groups.push(GroupSummary {
            segment: SegmentNumber(1),
            offset: 4096,
            bytes: 8192,
            number: GroupNumber(1),
            watermark: GroupNumber(0),
            run: SegmentNumber(1),
            fate: Fate::Kept,
            repaired: false,
            announced: 0,
            records: Vec::new(),
        });
        scan
    }

    fn reason(logs: &[Scan], folder: &PageFolder) -> Option<String> {
        let scans = logs.iter().enumerate();
        forgotten(scans.map(|(core, scan)| (CoreId(u8::try_from(core).unwrap()), scan)), folder).unwrap()
    }

    fn checkpoint(folder: &mut PageFolder, seq: u64) {
        let (digest, certificate) = (Digest::ZERO, Vec::new());
        let head = CheckpointHead { seq: Seq(seq), digest, timestamp: Nanoseconds(seq), certificate };
        write_checkpoint(&State::new([[7; 32]]).freeze(), head, folder, |_| {}).unwrap();
    }

    #[test]
    fn an_emptied_log_is_told_from_one_of_a_replica_that_never_spoke() {
        let directory = tempfile::tempdir().unwrap();
        let mut folder = PageFolder::open(directory.path(), true).unwrap();
        let empty = Scan::default;
        assert_eq!(reason(&[empty(), empty()], &folder), None, "it never spoke");
        assert_eq!(reason(&[used(), empty()], &folder), None);
        let told = reason(&[empty(), empty(), used()], &folder).unwrap();
        assert!(told.contains("log-0 holds nothing, and log-2 does: the votes"), "{told}");
        // A restored cluster begins with the state of a backup, which follows no header.
        checkpoint(&mut folder, 0);
        assert_eq!(reason(&[empty()], &folder), None, "it may vote");
        checkpoint(&mut folder, 9);
        assert!(reason(&[empty()], &folder).unwrap().contains("has a later checkpoint"));
        assert_eq!(reason(&[used()], &folder), None);
    }
    #[test]
    fn without_the_state_that_a_cluster_began_with_a_certified_one_must_be_known() {
        let digest = Digest([9; 32]);
        let cluster = testing::restored_config(4, digest);
        let mut found = Found::default();
        let refused = check_beginning(&cluster, Path::new("data-1"), &found).unwrap_err().to_string();
        assert!(refused.contains("no certified state; move the directory away"), "{refused}");
        check_beginning(&testing::config(4), Path::new("data-1"), &found).unwrap();
        let position = Position { seq: Seq(64), digest };
        let (root, next_config, signatures) = (digest, digest, Vec::new());
        let certificate = Arc::new(CheckpointCertificate { position, root, next_config, signatures });
        found.records.push((CONSENSUS_JOURNAL, Lsn(1), Record::Checkpoint(certificate)));
        check_beginning(&cluster, Path::new("data-1"), &found).unwrap();
    }
}
