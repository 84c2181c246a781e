//! What a replica finds in its data directory when it starts, and what follows from it.

use crate::config::{Durability, NodeConfig};
use crate::data_directory::{DataDirectory, note_spoken};
use crate::evidence::{Evidence, FIRST_CORE, Verdict, boot_id};
use crate::page_folder::{self, FolderError, PageFolder};
use crate::run::StartError;
use crate::segment_files::{self, LogRead, Reading};
use quorate_journal::{Damage, FoundBatch, Record, Scan};
use quorate_replica::{Found, Recovery, ReplicaSetup};
use quorate_state::{Frozen, Manifest, PageStore, StoreOptions};
use quorate_types::{ClusterConfig, CoreId};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tracing::{info, warn};

/// What the cores begin with.
pub(crate) struct Beginning {
    pub(crate) recovery: Recovery,
    /// Where the logs go on.
    pub(crate) scans: BTreeMap<CoreId, Scan>,
    /// Where the page files go on.
    pub(crate) store: PageStore,
    /// The checkpoint that they hold and the state in it, if it is whole.
    pub(crate) newest: Option<(Manifest, Frozen)>,
}

/// A cluster that began with the state of a backup has a replica that does not have it.
pub(crate) fn no_beginning(reason: &str) -> String {
    format!(
        "the cluster began with the state of a backup (genesis_root in the cluster file), and this replica does not \
         have it: {reason}; move the directory away and make it anew with `quorate restore --from BACKUP --config FILE`"
    )
}

/// Refuses a state that the cluster did not begin with. One that follows a header is proven by its certificate. Without
/// any, the replica executes nothing before it has taken one over: a certified one, or where what it had itself is damaged,
/// the first one, whose root the configuration names. It serves what is intact of that to others, who may lack just this.
///
/// # Errors
/// The problem, with its remedy.
pub(crate) fn check_beginning(cluster: &ClusterConfig, found: &Found) -> Result<(), String> {
    let Some(root) = cluster.genesis_root() else { return Ok(()) };
    match &found.state {
        None if found.certificate().is_some() || found.broken.is_some() || found.salvage.is_some() => Ok(()),
        None => Err(no_beginning("it has no checkpoint, and its logs name no certified state")),
        Some(state) if state.header().is_none() && state.freeze().root() != root => {
            Err(no_beginning("its first state has another root"))
        }
        Some(_) => Ok(()),
    }
}

/// Reads the logs, of however many cores, and puts them together with the checkpoint that goes with them. Nothing is
/// changed before it is clear that the replica may start. One whose votes may be lost is a learner from here on, and its
/// directory remembers that.
pub(crate) fn recover(
    config: &NodeConfig,
    setup: &ReplicaSetup,
    data: &mut DataDirectory,
    folder: &mut PageFolder,
) -> Result<Beginning, StartError> {
    let started = Instant::now();
    let reading = Reading { sync: config.durability == Durability::Sync, batches: false };
    let mut logs = Vec::new();
    for (core, directory) in data.logs()? {
        let LogRead { scan, unreadable } =
            segment_files::read_log(&directory, data.log_identity(core), reading)?;
        unreadable.iter().for_each(|blocks| warn!("{blocks}"));
        logs.push((core, directory, scan));
    }
    let refused = |problem: String| StartError::Recovery { path: data.path().to_owned(), problem };
    let is_restored = config.cluster.genesis_root().is_some();
    let mut found = Found { is_restored, ..Found::default() };
    let pages = folder.survey().map_err(|error| refuse_to_start(folder.path(), &error))?;
    let seen = logs.iter().map(|(core, directory, scan)| (*core, &**directory, scan)).collect();
    let (boot, has_spoken) = (boot_id()?, data.has_spoken()?);
    match Evidence::new(data.identity(), &boot, has_spoken, seen, pages).judge() {
        Verdict::Refuse(problem) => return Err(refused(problem)),
        Verdict::Learn(reason) => found.learner = Some(reason),
        Verdict::Vote => {}
    }
    for (_, _, scan) in &mut logs {
        found.records.append(&mut scan.records);
        found.lost.append(&mut scan.lost_batches);
        for (journal, lsn) in &scan.last {
            let end = found.ends.entry(*journal).or_default();
            *end = (*end).max(*lsn);
        }
    }
    let is_batch = |record: &Record| matches!(record, Record::Batch(..));
    assert!(
        !found.records.iter().any(|(.., record)| is_batch(record)),
        "a log that is longer than memory is read without its batches"
    );
    let mut pages = load_checkpoint(folder, &mut found)?;
    read_batches(&logs, &mut found)?;
    check_beginning(&config.cluster, &found).map_err(refused)?;
    let (learner, records) = (found.learner.clone(), found.records.len());
    let recovery = Recovery::of(setup, found).map_err(|problem| refused(problem.to_string()))?;
    // It may start. From here on something is changed.
    if let Some(reason) = learner {
        data.become_learner(reason.clone())?;
        warn!(
            "this replica is a learner and casts no votes, because {reason}; it counts as one of the faulty ones. With more \
             than f of those nothing is ordered any more: `quorate backup --help` has the way out"
        );
    }
    for (_, directory, scan) in &logs {
        segment_files::repair(directory, &scan.repairs)?;
        tell(&directory.display().to_string(), scan);
    }
    if logs.iter().any(|(core, _, scan)| *core == FIRST_CORE && !scan.is_empty()) && !has_spoken {
        note_spoken(data.path())?;
    }
    data.make_pages()?;
    for number in pages.settle(folder)? {
        warn!("one copy of manifest {number} was damaged and is written anew");
    }
    if records > 0 {
        info!(records, elapsed_ms = started.elapsed().as_millis(), "the logs are read");
    }
    let scans = logs.into_iter().map(|(core, _, scan)| (core, scan)).collect();
    Ok(Beginning { recovery, scans, store: pages.store, newest: pages.restored.whole })
}

/// Reads back the batches that are not executed in the state: what was executed stays on the disk.
fn read_batches(logs: &[(CoreId, PathBuf, Scan)], found: &mut Found) -> Result<(), StartError> {
    for (_, directory, scan) in logs {
        for FoundBatch { journal, lsn, lane, number, place, name } in &scan.batches {
            if !found.needs_batch(*lane, *number) {
                continue;
            }
            // One that went bad meanwhile is fetched like any other that is lost.
            match segment_files::read_record(directory, place)? {
                Some(record) => found.records.push((*journal, *lsn, record)),
                None => found.lost.extend(*name),
            }
        }
    }
    Ok(())
}

/// Loads the checkpoint that goes with the logs, and what a transfer had received when the replica stopped. Changes
/// nothing.
fn load_checkpoint(folder: &mut PageFolder, found: &mut Found) -> Result<page_folder::Found, StartError> {
    let started = Instant::now();
    let mut pages = page_folder::find(folder, StoreOptions::default(), found.known()).map_err(|error| {
        if error.is_damage() { StartError::Pages(error) } else { refuse_to_start(folder.path(), &error) }
    })?;
    for error in &pages.damaged {
        warn!("a checkpoint is damaged: {error}; it stays where it is until a newer certified one is whole");
    }
    let has_part = pages.restored.part.is_some();
    let salvaged = pages.restored.salvage.as_ref().map(|salvage| salvage.blocks());
    let newest = pages.restored.whole.clone();
    let whole = found.take(std::mem::take(&mut pages.restored));
    pages.restored.whole = newest;
    let elapsed_ms = started.elapsed().as_millis();
    if let Some((position, _)) = whole {
        info!(seq = position.seq.0, elapsed_ms, has_part, "the newest certified checkpoint is loaded");
    } else if let Some(broken) = &found.broken {
        warn!(
            seq = broken.position.seq.0,
            intact_pages = salvaged.unwrap_or_default(),
            elapsed_ms,
            "the newest certified checkpoint has bad pages: those that are intact are served, the others are fetched, and \
             nothing is executed before"
        );
    }
    Ok(pages)
}

/// Something is there and cannot be read: whoever went on without it would take it for lost.
fn refuse_to_start(path: &Path, error: &FolderError) -> StartError {
    let problem = format!(
        "{error}; nothing was changed: see to the rights, limits and mounts of this directory, or to the version of this \
         program, and start again"
    );
    StartError::Recovery { path: path.to_owned(), problem }
}

fn tell(directory: &str, scan: &Scan) {
    if scan.repaired > 0 {
        warn!("{directory}: {} groups were damaged in one place and served from their copies", scan.repaired);
    }
    for torn in &scan.torn_batches {
        info!(
            "{directory}: {torn} of a write that was cut short; they are had from other replicas as needed"
        );
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
    use crate::config::HistogramConfig;
    use crate::data_directory;
    use crate::identity::{Identity, Role};
    use crate::segment_files::Opening;
    use quorate_journal::{CONSENSUS_JOURNAL, Log, LogOptions, SegmentAction, batch_journal};
    use quorate_replica::{Broken, Core, Effect, Input};
    use quorate_types::{Digest, LaneId, LaneNumber, LinkId, Lsn, Nanoseconds, ReplicaId, Seq, Why};
    use quorate_wire::header::genesis;
    use quorate_wire::message::{CheckpointCertificate, FetchBatches, Message};
    use quorate_wire::{BatchHead, Frame, Kind, LaneTip, Position, batch, testing};
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;
    use std::time::Duration;

    const ME: ReplicaId = ReplicaId(2);
    const PEER: ReplicaId = ReplicaId(1);

    fn config(directory: &Path) -> NodeConfig {
        NodeConfig {
            cluster: Arc::new(testing::config(4)),
            replica: ME,
            key: testing::replica_key(ME.0),
            key_file: directory.join("replica-2.key"),
            cores: vec![None],
            spin: Duration::ZERO,
            data_directory: directory.join("data"),
            durability: Durability::Sync,
            journal_bytes_max: 1 << 30,
            free_bytes_min: 0,
            security: "plaintext",
            histograms: HistogramConfig { directory: directory.to_owned(), interval: None },
            remarks: Vec::new(),
        }
    }

    /// A data directory with one batch in its log, the directory of the log, and the name of the batch.
    fn with_a_batch(config: &NodeConfig) -> (DataDirectory, PathBuf, LaneTip) {
        let identity = Identity::new(&config.cluster, ME, Role::Founding);
        data_directory::format(&config.data_directory, &identity).unwrap();
        let data = data_directory::open(&config.data_directory, &config.cluster, ME).unwrap();
        let directory = data.log(FIRST_CORE).unwrap();
        let options = LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() };
        let mut log = Log::create(data.log_identity(FIRST_CORE), options);
        while let Some(action) = log.next_action() {
            let SegmentAction::Create { number } = action else { panic!("{action:?}") };
            let first = log.first_block(number);
            segment_files::create(&directory, number, &first, 64 << 10, Opening::Buffered).unwrap();
            log.on_segment_ready(number);
        }
        let lane = LaneId { origin: PEER, link: LinkId(0) };
        let tip = LaneTip { lane, upto: LaneNumber(1), chain: Digest([7; 32]) };
        let frame = Frame::encode(Kind::Batch, |out| {
            batch::write_head(out, &BatchHead { lane, number: tip.upto, previous: Digest::ZERO }, 1);
            out.extend_from_slice(&[9; 6000]);
        });
        log.append(batch_journal(FIRST_CORE), Lsn(1), Record::Batch(frame, Why::OwnLink), Some(tip));
        for confirms in [false, true] {
            if confirms {
                log.confirm();
            }
            let write = log.next_write().unwrap();
            let mut bytes = vec![0; write.len];
            log.encode(write.id, &mut bytes);
            let path = segment_files::path(&directory, write.segment);
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            file.write_all_at(&bytes, write.offset).unwrap();
            log.on_written(write.id, &mut Vec::new());
        }
        (data, directory, tip)
    }

    /// The bytes of the batch go bad; its name, in both copies of the directory of its group, is intact.
    fn spoil(directory: &Path, identity: quorate_journal::LogIdentity) -> LogRead {
        let reading = Reading { sync: false, batches: false };
        let read = segment_files::read_log(directory, identity, reading).unwrap();
        let place = read.scan.batches[0].place;
        let path = segment_files::path(directory, place.segment);
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&[0xee; 64], place.offset + 3000).unwrap();
        read
    }

    #[test]
    fn a_start_asks_others_for_a_batch_that_its_log_names_and_cannot_give_back() {
        let root = tempfile::tempdir().unwrap();
        let config = config(root.path());
        let (mut data, directory, tip) = with_a_batch(&config);
        spoil(&directory, data.log_identity(FIRST_CORE));
        let (cluster, key) = (Arc::clone(&config.cluster), config.key.clone());
        let setup = ReplicaSetup { config: cluster, me: ME, key, cores: 1 };
        let mut folder = PageFolder::at(&data.pages(), true);
        let mut recovery = recover(&config, &setup, &mut data, &mut folder).unwrap().recovery;
        let mut core = Core::recover(&setup, FIRST_CORE, &mut recovery);
        let mut effects = Vec::new();
        let (now, peer, link) = (Nanoseconds(1 << 40), PEER, tip.lane.link);
        core.step(now, Input::PeerConnected { peer, link }, &mut effects);
        core.step(now, Input::TickEnd, &mut effects);
        let asked = effects.iter().filter_map(|effect| match effect {
            Effect::SendPeer { frame, .. } if frame.kind() == Kind::FetchBatches => {
                Some(FetchBatches::decode(frame.payload()).unwrap())
            }
            _ => None,
        });
        let asked: Vec<_> = asked.map(|asked| (asked.lane, asked.upto, asked.chain)).collect();
        assert_eq!(asked, [(tip.lane, tip.upto, tip.chain)]);
    }

    #[test]
    fn a_batch_that_goes_bad_between_the_scan_and_its_reading_is_lost_by_its_name() {
        let root = tempfile::tempdir().unwrap();
        let (data, directory, tip) = with_a_batch(&config(root.path()));
        let LogRead { scan, .. } = spoil(&directory, data.log_identity(FIRST_CORE));
        let mut found = Found::default();
        read_batches(&[(FIRST_CORE, directory, scan)], &mut found).unwrap();
        let lost: Vec<_> = found.lost.iter().map(|lost| (lost.lsn, lost.tip, lost.why)).collect();
        assert_eq!((lost, found.records.len()), (vec![(Lsn(1), tip, Why::OwnLink)], 0));
    }

    #[test]
    fn without_the_state_that_a_cluster_began_with_a_certified_one_must_be_known() {
        let digest = Digest([9; 32]);
        let cluster = testing::restored_config(4, digest);
        let mut found = Found::default();
        let refused = check_beginning(&cluster, &found).unwrap_err();
        assert!(refused.contains("no certified state; move the directory away"), "{refused}");
        check_beginning(&testing::config(4), &found).unwrap();
        let (position, timestamp) = (genesis(cluster.digest()), Nanoseconds(0));
        found.broken = Some(Broken { position, timestamp, tips: Vec::new() });
        check_beginning(&cluster, &found).unwrap();
        found.broken = None;
        let position = Position { seq: Seq(64), digest };
        let (root, next_config, signatures) = (digest, digest, Vec::new());
        let certificate = Arc::new(CheckpointCertificate { position, root, next_config, signatures });
        found.records.push((CONSENSUS_JOURNAL, Lsn(1), Record::Checkpoint(certificate)));
        check_beginning(&cluster, &found).unwrap();
    }
}
