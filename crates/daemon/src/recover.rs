//! What a replica finds in its data directory when it starts, and what follows from it.

use crate::config::{Durability, NodeConfig};
use crate::data_directory::{DataDirectory, Role};
use crate::page_folder::{self, PageFolder};
use crate::run::StartError;
use crate::segment_files::{self, LogRead};
use quorate_journal::{Damage, Scan};
use quorate_replica::{Found, Recovery, ReplicaSetup};
use quorate_state::{PageStore, State, StoreOptions};
use quorate_types::{CoreId, limits};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;
use tracing::{info, warn};

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

/// Refuses a state that the cluster did not begin with. One that follows a header is proven by its certificate.
fn check_beginning(config: &NodeConfig, path: &Path, state: Option<&State>) -> Result<(), StartError> {
    let Some(root) = config.cluster.genesis_root() else { return Ok(()) };
    match state {
        None => Err(no_beginning(path, "it has no checkpoint that is whole")),
        Some(state) if state.header().is_none() && state.freeze().root() != root => {
            Err(no_beginning(path, "its first state has another root"))
        }
        Some(_) => Ok(()),
    }
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
    check_beginning(config, data.path(), found.state.as_ref())?;
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
