//! The disk of a replica, in bytes: the segments of its logs, its page files and manifests, and what its data
//! directory says of its role. A crash keeps what is there, and of each write under way all, nothing, or some of its
//! sectors.

pub mod corrupt;
pub mod log;
pub mod pages;

use crate::random::Random;
use log::LogDisk;
use pages::PageDisk;
use quorate_journal::{Damage, FoundBatch, LogIdentity, LogOptions, Record, Scan};
use quorate_replica::Found;
use quorate_types::{CoreId, Digest, JournalId, Lsn, ReplicaId};
use quorate_wire::Position;
use std::collections::BTreeSet;

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;
/// How many of a hundred restarts are interrupted while they repair the log, and begin anew.
const INTERRUPTED_PERCENT: u64 = 20;

/// What a disk gave back.
#[derive(Debug)]
pub struct Restored {
    /// What the roles begin with.
    pub found: Found,
    /// The batches that are on the disk and that the roles do not need, as their state has executed them.
    pub executed: Vec<(JournalId, Lsn, Record)>,
    /// The slot and the root of the checkpoint in it.
    pub checkpoint: Option<(Position, Digest)>,
    /// What is wrong with the logs, in words; nothing if that is nothing.
    pub damage: String,
}

/// The disk of one replica.
#[derive(Debug)]
pub struct Disk {
    cluster_id: [u8; 32],
    replica: ReplicaId,
    options: LogOptions,
    /// The mark of the data directory; another one after each loss.
    directory: [u8; 16],
    /// The logs, by core.
    pub logs: Vec<LogDisk>,
    /// The checkpoints.
    pub pages: PageDisk,
    /// Why the replica must not vote; remembered, whatever is found later.
    pub learner: Option<String>,
    /// The batches in its logs that have gone bad.
    pub rotten: BTreeSet<(JournalId, Lsn)>,
}

impl Disk {
    /// A disk that was just formatted for a replica with so many cores.
    #[must_use]
    pub fn new(cluster_id: [u8; 32], replica: ReplicaId, cores: usize, options: LogOptions) -> Self {
        let directory = [0; 16];
        let mut disk = Self {
            cluster_id,
            replica,
            options,
            directory,
            logs: Vec::new(),
            pages: PageDisk::default(),
            learner: None,
            rotten: BTreeSet::new(),
        };
        disk.logs = (0..cores).map(|core| LogDisk::create(disk.identity(core), options)).collect();
        disk
    }

    fn identity(&self, core: usize) -> LogIdentity {
        let core = CoreId(u8::try_from(core).expect("invariant: a few cores"));
        let Self { cluster_id, replica, directory, .. } = *self;
        LogIdentity { cluster_id, replica, core, directory }
    }

    /// The process is gone.
    pub fn crash(&mut self, random: &mut Random) {
        self.logs.iter_mut().for_each(|log| log.crash(random));
        self.pages.crash(random);
    }

    /// Everything is gone, and an empty directory takes its place: who goes on from it never votes again.
    pub fn lose(&mut self) {
        self.directory[0] += 1;
        self.learner = Some("its disk was lost".to_owned());
        self.pages = PageDisk::default();
        self.rotten.clear();
        self.logs =
            (0..self.logs.len()).map(|core| LogDisk::create(self.identity(core), self.options)).collect();
    }

    /// Reads everything back, as a process does that starts. It may be killed while it repairs, and start again.
    pub fn restore(&mut self, random: &mut Random) -> Restored {
        let mut found = Found::default();
        let (mut damage, mut batches) = (Vec::new(), Vec::new());
        for (core, log) in self.logs.iter_mut().enumerate() {
            let mut scan = log.scan();
            if random.percent(INTERRUPTED_PERCENT) {
                let all = std::mem::take(&mut scan.repairs);
                log.repair(all.into_iter().filter(|_| random.percent(50)));
                scan = log.scan();
            }
            log.repair(std::mem::take(&mut scan.repairs));
            if let Damage::Unknown { what } = &scan.damage {
                unreachable!("nobody writes what nobody knows: {what}");
            }
            // Where a segment is missing a replica refuses to start, until its operator makes a learner of it.
            if scan.votes_are_lost() && self.learner.is_none() {
                self.learner = Some(format!("the log of core {core}: {}", scan.damage));
            }
            if !matches!(scan.damage, Damage::None) {
                damage.push(format!("core {core}: {}", scan.damage));
            }
            batches.append(&mut scan.batches);
            add(&mut found, &mut scan);
            log.resume(&scan);
        }
        found.learner.clone_from(&self.learner);
        let checkpoint = found.take(self.pages.restore(found.known()));
        let mut executed = Vec::new();
        for FoundBatch { journal, lsn, lane, number, .. } in batches {
            let record = self.logs.iter().find_map(|log| log.read_back(journal, lsn));
            let record = record.expect("invariant: it was just found, and nobody writes");
            let part = if found.needs_batch(lane, number) { &mut found.records } else { &mut executed };
            part.push((journal, lsn, record));
        }
        Restored { found, executed, checkpoint, damage: damage.join("; ") }
    }
}

fn add(found: &mut Found, scan: &mut Scan) {
    found.records.append(&mut scan.records);
    found.lost.append(&mut scan.lost_batches);
    for (journal, lsn) in &scan.last {
        let end = found.ends.entry(*journal).or_default();
        *end = (*end).max(*lsn);
    }
}

/// Puts into `target` what a write that was under way has left there: all, nothing, or some of its sectors.
fn land(target: &mut Vec<u8>, offset: usize, bytes: &[u8], random: &mut Random) {
    let share = match random.below(3) {
        0 => 0,
        1 => 100,
        _ => random.between(1, 99),
    };
    for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
        if random.percent(share) {
            put(target, offset + index * SECTOR_BYTES, sector);
        }
    }
}

/// Writes bytes; what lies between them and the end of the file is zero.
fn put(target: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if target.len() < end {
        target.resize(end, 0);
    }
    target[offset..end].copy_from_slice(bytes);
}
