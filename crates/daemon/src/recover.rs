//! What a replica finds in its data directory when it starts, and what follows from it.

use crate::config::{Durability, NodeConfig};
use crate::data_directory::{DataDirectory, Role};
use crate::run::StartError;
use crate::segment_files;
use quorate_journal::{Damage, Scan};
use quorate_replica::{Found, Recovery, ReplicaSetup};
use quorate_state::State;
use quorate_types::CoreId;
use std::collections::BTreeMap;
use std::time::Instant;
use tracing::{info, warn};

/// What the cores begin with.
pub(crate) struct Beginning {
    pub(crate) recovery: Recovery,
    /// Where the logs go on.
    pub(crate) scans: BTreeMap<CoreId, Scan>,
}

/// Reads the logs, of however many cores, and puts them together with the newest checkpoint. A replica whose votes may
/// be lost is a learner from here on, and its directory remembers that.
pub(crate) fn recover(
    config: &NodeConfig,
    setup: &ReplicaSetup,
    data: &mut DataDirectory,
    state: Option<State>,
) -> Result<Beginning, StartError> {
    let started = Instant::now();
    let (mut scans, mut found) = (BTreeMap::new(), Found { state, ..Found::default() });
    for (core, directory) in data.logs()? {
        let sync = config.durability == Durability::Sync;
        let mut scan = segment_files::read_log(&directory, data.log_identity(core), sync)
            .map_err(|source| StartError::Disk { path: directory.clone(), source })?;
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
    let recovery = Recovery::of(setup, found).map_err(|problem| StartError::Recovery {
        path: data.path().to_owned(),
        problem: problem.to_string(),
    })?;
    if records > 0 {
        info!(records, elapsed_ms = started.elapsed().as_millis(), "the logs are read");
    }
    Ok(Beginning { recovery, scans })
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
