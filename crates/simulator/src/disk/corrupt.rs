//! Damage to what is on disk. *Corruption* spares nothing and may cost the vote; *rot* takes blocks of which there are
//! copies, here or elsewhere, so it may cost nothing. Of what stands twice in logs only what later groups vouch for is
//! damaged: nobody can tell a damaged last group from one that was never written whole, so a disk that does that is
//! beyond what is promised. A batch may be bad wherever it stands: that is a lost batch and no torn tail.

use super::{Disk, SECTOR_BYTES};
use crate::random::Random;
use quorate_journal::{FoundBatch, GroupSummary, Scan};
use quorate_types::{JournalId, Lsn};
use std::collections::BTreeSet;

impl Disk {
    /// Damages something; says what, in words.
    pub fn corrupt(&mut self, random: &mut Random) -> String {
        if random.percent(25) {
            return self.corrupt_checkpoint(random);
        }
        let core = random.index(self.logs.len());
        let log = &mut self.logs[core];
        let scan = log.scan();
        let vouched = |group: &&GroupSummary| group.number <= scan.watermark;
        let groups: Vec<&GroupSummary> = scan.groups.iter().filter(vouched).collect();
        if groups.is_empty() {
            return "nothing: no group is vouched for".to_owned();
        }
        let victim = *random.pick(&groups);
        let at = usize::try_from(victim.offset).expect("invariant: segments are small");
        let length = usize::try_from(victim.bytes).expect("invariant: segments are small");
        let (segment, number) = (victim.segment, victim.number);
        match random.below(7) {
            6 => {
                log.take_away(segment);
                format!("core {core}: segment {segment} is gone")
            }
            0 => {
                // The bytes of another group in its place.
                let other = *random.pick(&groups);
                let from = usize::try_from(other.offset).expect("invariant: segments are small");
                let count = length.min(usize::try_from(other.bytes).expect("invariant: segments are small"));
                let bytes = log.segment_mut(other.segment).map(|bytes| bytes[from..from + count].to_vec());
                if let (Some(bytes), Some(target)) = (bytes, log.segment_mut(segment)) {
                    target[at..at + count].copy_from_slice(&bytes);
                }
                format!("core {core}: group {} over group {number}", other.number)
            }
            1 => {
                // Only a segment that later ones vouch for as a whole.
                let last =
                    scan.groups.iter().filter(|group| group.segment == segment).map(|group| group.number);
                let later = scan.groups.iter().filter(|group| group.segment > segment);
                let known = later.map(|group| group.watermark).max();
                if known < last.max() {
                    return "nothing: no later segment vouches for all of this one".to_owned();
                }
                let cut = at + random.index(length);
                log.segment_mut(segment).into_iter().for_each(|bytes| bytes.truncate(cut));
                format!("core {core}: segment {segment} cut at {cut}")
            }
            _ => {
                let flips = random.magnitude(1, 64);
                let start = at + random.index(length);
                for _ in 0..flips {
                    let place = (start + random.index(600)).min(at + length - 1);
                    let flip = 1 << random.below(8);
                    log.segment_mut(segment).into_iter().for_each(|bytes| bytes[place] ^= flip);
                }
                format!("core {core}: {flips} bits of group {number} at {start} of segment {segment}")
            }
        }
    }

    /// Blocks go bad of which there are copies: page blocks and batches that no other of the `replicas` loses, and one
    /// copy of what stands twice. Says what, in words.
    pub fn rot(&mut self, random: &mut Random, replicas: u8) -> String {
        let share = Share { own: self.replica.0, of: replicas };
        let mut told = Vec::new();
        if random.percent(80) {
            told.push(self.pages.rot(random, share));
        }
        for core in 0..self.logs.len() {
            for _ in 0..random.below(4) {
                told.extend(self.rot_log(random, core, share));
            }
            if random.percent(60) {
                let batches = self.rot_batches(random, core, share).len();
                told.push(format!("core {core}: {batches} batches"));
            }
        }
        if told.is_empty() { "nothing".to_owned() } else { told.join(", ") }
    }

    /// Flips bits in one sector of a log, if that costs neither votes nor what other replicas may lose too.
    fn rot_log(&mut self, random: &mut Random, core: usize, share: Share) -> Option<String> {
        let log = &mut self.logs[core];
        let before = log.scan();
        let vouched = |group: &&GroupSummary| group.number <= before.watermark;
        let groups: Vec<&GroupSummary> = before.groups.iter().filter(vouched).collect();
        if groups.is_empty() || !matches!(before.damage, quorate_journal::Damage::None) {
            return None;
        }
        let victim = *random.pick(&groups);
        let start = usize::try_from(victim.offset).expect("invariant: segments are small");
        let length = usize::try_from(victim.bytes).expect("invariant: segments are small");
        let sector = start + random.index(length) / SECTOR_BYTES * SECTOR_BYTES;
        let bytes = log.segment_mut(victim.segment)?;
        let whole = bytes.clone();
        for _ in 0..random.magnitude(1, 16) {
            let place = (sector + random.index(SECTOR_BYTES)).min(start + length - 1);
            bytes[place] ^= 1 << random.below(8);
        }
        let after = log.scan();
        let lost = lost(&before, &after);
        if after.votes_are_lost() || !lost.iter().all(|batch| share.is_own(&place_of(batch))) {
            *log.segment_mut(victim.segment)? = whole;
            return None;
        }
        self.rotten.extend(lost.iter().map(|batch| (batch.journal, batch.lsn)));
        Some(format!(
            "core {core}: a sector of group {} at {sector} of segment {}",
            victim.number, victim.segment
        ))
    }

    /// Batches of a log that is in use go bad, of which others of the `replicas` have copies. Returns those that the log
    /// still needs.
    pub fn decay(&mut self, random: &mut Random, core: usize, replicas: u8) -> Vec<(JournalId, Lsn)> {
        let share = Share { own: self.replica.0, of: replicas };
        let mut rotten = self.rot_batches(random, core, share);
        rotten.retain(|(journal, lsn)| self.logs[core].needs(*journal, *lsn));
        rotten
    }

    /// Flips bits in batches of a log, wherever they stand, and in nothing else. Returns in which.
    fn rot_batches(&mut self, random: &mut Random, core: usize, share: Share) -> Vec<(JournalId, Lsn)> {
        let log = &mut self.logs[core];
        let chance = random.between(5, 100);
        let mut rotten = Vec::new();
        for batch in log.scan().batches {
            if !share.is_own(&place_of(&batch)) || !random.percent(chance) {
                continue;
            }
            let start = usize::try_from(batch.place.offset).expect("invariant: segments are small");
            let at = start + random.index(batch.place.bytes as usize);
            if let Some(bytes) = log.segment_mut(batch.place.segment) {
                bytes[at] ^= 1 << random.below(8);
                rotten.push((batch.journal, batch.lsn));
            }
        }
        self.rotten.extend(rotten.iter().copied());
        rotten
    }

    fn corrupt_checkpoint(&mut self, random: &mut Random) -> String {
        let Some(file) = self.pages.any_file_mut(random) else {
            return "nothing: there is no checkpoint".to_owned();
        };
        if file.is_empty() {
            return "nothing: a file without bytes".to_owned();
        }
        if random.percent(20) {
            let cut = random.index(file.len());
            file.truncate(cut);
            return format!("a file of checkpoints cut at {cut}");
        }
        let at = random.index(file.len());
        file[at] ^= 1 << random.below(8);
        format!("a bit of a file of checkpoints at {at}")
    }
}

/// The part of all blocks that may go bad under one replica: no two replicas have one in common, so that nothing is bad
/// everywhere.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    own: u8,
    of: u8,
}

impl Share {
    /// Whether what these bytes say may go bad here.
    #[must_use]
    pub fn is_own(self, bytes: &[u8]) -> bool {
        let sum = bytes.iter().fold(0u64, |sum, byte| sum.wrapping_mul(0x0100_0000_01b3) ^ u64::from(*byte));
        (sum >> 7) % u64::from(self.of) == u64::from(self.own)
    }
}

/// The batches that a log had and has no more.
fn lost(before: &Scan, after: &Scan) -> Vec<FoundBatch> {
    let left: BTreeSet<(JournalId, Lsn)> =
        after.batches.iter().map(|batch| (batch.journal, batch.lsn)).collect();
    let gone = before.batches.iter().filter(|batch| !left.contains(&(batch.journal, batch.lsn)));
    gone.copied().collect()
}

/// The place of a batch in its lane, in bytes: all replicas that have it, have it there.
fn place_of(batch: &FoundBatch) -> Vec<u8> {
    [&batch.lane.to_bytes()[..], &batch.number.0.to_le_bytes()].concat()
}
