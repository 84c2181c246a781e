//! Durable before send (DESIGN section 5): what leaves a replica never says more than what its disk holds.
//!
//! Only what a core was told to be durable counts, so a replica that guesses right is still found.

use super::Violation;
use crate::ledger::Ledger;
use quorate_journal::Record;
use quorate_types::{Digest, JournalId, LaneId, LaneNumber, Lsn, ReplicaId, Seq, View};
use quorate_wire::message::{Commit, Prepare};
use quorate_wire::{LaneTip, Position};
use std::collections::{BTreeMap, BTreeSet};

const ORACLE: &str = "durable before send";

/// What a record says, without its bulk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A batch is held.
    Batch(Digest),
    /// A header was accepted.
    Accept(View, Digest),
    /// A slot is prepared.
    Prepared(View, Position),
    /// A checkpoint is certified.
    Checkpoint(Seq),
    /// All views below are left.
    ViewState(View),
    /// A view begins at a slot.
    EnterView(View, Seq),
}

impl Fact {
    /// The fact in a record, which is noted in the ledger too.
    pub fn of(record: &Record, ledger: &mut Ledger) -> Result<Self, Violation> {
        Ok(match record {
            Record::Batch(frame) => {
                let noted = ledger.note_batch(frame);
                Self::Batch(
                    noted.map_err(|error| Violation::new(ORACLE, format!("wrote a batch: {error}")))?.chain,
                )
            }
            Record::Accept { view, header, .. } => Self::Accept(*view, ledger.note_header(header)),
            Record::Prepared { view, position, .. } => Self::Prepared(*view, *position),
            Record::Checkpoint(certificate) => Self::Checkpoint(certificate.position.seq),
            Record::ViewState { view } => Self::ViewState(*view),
            Record::EnterView { view, head, .. } => Self::EnterView(*view, head.seq),
        })
    }
}

/// What one replica has on disk.
#[derive(Debug, Default)]
struct Disk {
    written: BTreeMap<(JournalId, Lsn), Fact>,
    /// Every batch that was ever appended.
    appended: BTreeSet<Digest>,
    batches: BTreeSet<Digest>,
    accepts: BTreeSet<(View, Digest)>,
    prepared: BTreeMap<(View, Seq), Digest>,
    stable: Seq,
    /// The highest view up to which all lower ones are left.
    left: View,
    /// The views that were entered, with their heads.
    entered: BTreeMap<View, Seq>,
    /// Headers whose batches, and those of all ancestors above stable, were found durable.
    covered: BTreeSet<Digest>,
    /// Lane tips whose chain was found durable.
    chains: BTreeSet<Digest>,
}

/// What all replicas have on disk.
#[derive(Debug)]
pub struct Durability {
    disks: Vec<Disk>,
}

impl Durability {
    /// Empty disks.
    #[must_use]
    pub fn new(replicas: usize) -> Self {
        Self { disks: (0..replicas).map(|_| Disk::default()).collect() }
    }

    /// A record is on its way to the disk. Nobody forks a lane here, so who writes a batch again has let go
    /// of one that it held and may have acknowledged.
    pub fn on_append(
        &mut self,
        replica: ReplicaId,
        journal: JournalId,
        lsn: Lsn,
        fact: Fact,
    ) -> Result<(), Violation> {
        let disk = &mut self.disks[replica.index()];
        disk.written.insert((journal, lsn), fact);
        match fact {
            Fact::Batch(chain) if !disk.appended.insert(chain) => {
                Err(Violation::new("written once", format!("batch {chain:?} is written a second time")))
            }
            _ => Ok(()),
        }
    }

    /// A replica is told that a journal is durable up to a position.
    pub fn on_durable(&mut self, replica: ReplicaId, journal: JournalId, upto: Lsn) {
        let disk = &mut self.disks[replica.index()];
        let durable: Vec<(JournalId, Lsn)> =
            disk.written.range((journal, Lsn(0))..=(journal, upto)).map(|(key, _)| *key).collect();
        for key in durable {
            match disk.written.remove(&key) {
                Some(Fact::Batch(chain)) => {
                    disk.batches.insert(chain);
                }
                Some(Fact::Accept(view, digest)) => {
                    disk.accepts.insert((view, digest));
                }
                Some(Fact::Prepared(view, position)) => {
                    disk.prepared.insert((view, position.seq), position.digest);
                }
                Some(Fact::Checkpoint(seq)) => disk.stable = disk.stable.max(seq),
                Some(Fact::ViewState(view)) => disk.left = disk.left.max(view),
                Some(Fact::EnterView(view, head)) => {
                    disk.left = disk.left.max(view);
                    disk.entered.insert(view, head);
                }
                None => {}
            }
        }
    }

    /// A PREPARE leaves: its headers are accepted on disk, and so are the batches of them and their ancestors
    /// above the stable checkpoint.
    pub fn before_prepare(
        &mut self,
        ledger: &Ledger,
        replica: ReplicaId,
        message: &Prepare,
    ) -> Result<(), Violation> {
        let disk = &mut self.disks[replica.index()];
        let head = disk.entered.get(&message.view).copied();
        if message.view > View(0) && head.is_none_or(|head| message.lo < head) {
            let (view, lo) = (message.view, message.lo);
            let text = format!("PREPARE from {lo:?} in {view:?}, which begins on disk at {head:?}");
            return Err(Violation::new(ORACLE, text));
        }
        for (offset, digest) in (0..).zip(&message.digests) {
            let seq = message.lo.plus(offset);
            if !disk.accepts.contains(&(message.view, *digest)) {
                let text = format!("PREPARE for {seq:?}:{digest:?}, whose Accept is not durable");
                return Err(Violation::new(ORACLE, text));
            }
            disk.cover(ledger, Position { seq, digest: *digest })?;
        }
        Ok(())
    }

    /// A COMMIT leaves: its certificate is on disk.
    pub fn before_commit(&self, replica: ReplicaId, message: &Commit) -> Result<(), Violation> {
        let position = message.position;
        let held = self.disks[replica.index()].prepared.get(&(message.view, position.seq));
        if held != Some(&position.digest) {
            let (seq, digest) = (position.seq, position.digest);
            let text = format!("COMMIT for {seq:?}:{digest:?}, whose certificate is not durable");
            return Err(Violation::new(ORACLE, text));
        }
        Ok(())
    }

    /// A VIEW-CHANGE leaves: what it promises is on disk.
    pub fn before_view_change(&self, replica: ReplicaId, view: View) -> Result<(), Violation> {
        let left = self.disks[replica.index()].left;
        if left < view {
            let text = format!("VIEW-CHANGE to {view:?}, while the disk says {left:?}");
            return Err(Violation::new(ORACLE, text));
        }
        Ok(())
    }

    /// A NEW-VIEW leaves a replica, its primary or one that passes it on: the view is entered on disk.
    pub fn before_new_view(&self, replica: ReplicaId, view: View) -> Result<(), Violation> {
        if !self.disks[replica.index()].entered.contains_key(&view) {
            let text = format!("NEW-VIEW of {view:?}, which is not entered on disk");
            return Err(Violation::new(ORACLE, text));
        }
        Ok(())
    }

    /// An acknowledgement leaves: the batch and all before it are on disk.
    pub fn before_acknowledgement(
        &mut self,
        ledger: &Ledger,
        replica: ReplicaId,
        tip: &LaneTip,
    ) -> Result<(), Violation> {
        let disk = &mut self.disks[replica.index()];
        let (mut number, mut chain) = (tip.upto, tip.chain);
        while number > LaneNumber(0) && !disk.chains.contains(&chain) {
            let batch = ledger.batch(&chain).filter(|_| disk.batches.contains(&chain));
            let Some(batch) = batch.filter(|batch| batch.lane == tip.lane && batch.number == number) else {
                let text = format!("acknowledgement of {tip:?}, but batch {number:?} is not durable");
                return Err(Violation::new(ORACLE, text));
            };
            (number, chain) = (number.previous(), batch.previous);
        }
        disk.chains.insert(tip.chain);
        Ok(())
    }

    /// Something was acknowledged to a client at `position`: q replicas must be unable to forget it.
    #[must_use]
    pub fn replicas_with_certificate(&self, ledger: &Ledger, position: Position) -> usize {
        let covers = |disk: &Disk| {
            disk.prepared.iter().any(|((_, seq), digest)| {
                let certified = Position { seq: *seq, digest: *digest };
                *seq >= position.seq
                    && ledger.headers_down(certified, position.seq).is_some_and(|headers| {
                        let below = headers.last().map_or(*digest, |(_, header)| header.parent);
                        below == position.digest
                    })
            })
        };
        self.disks.iter().filter(|disk| covers(disk)).count()
    }
}

impl Disk {
    fn cover(&mut self, ledger: &Ledger, tip: Position) -> Result<(), Violation> {
        let mut at = tip;
        let mut fresh = Vec::new();
        while at.seq > self.stable && !self.covered.contains(&at.digest) {
            let Some(header) = ledger.header(&at.digest) else { break };
            for named in &header.cut {
                self.check_named(ledger, tip, at.seq, named, &header.parent)?;
            }
            fresh.push(at.digest);
            at = Position { seq: at.seq.previous(), digest: header.parent };
        }
        self.covered.extend(fresh);
        Ok(())
    }

    /// All batches of a lane that a header names, down to where its parent chain had left the lane.
    fn check_named(
        &self,
        ledger: &Ledger,
        tip: Position,
        seq: Seq,
        named: &LaneTip,
        parent: &Digest,
    ) -> Result<(), Violation> {
        let above = named_before(ledger, named.lane, parent);
        let Some(batches) = ledger.batches_between(above, named) else {
            let text = format!("PREPARE for {:?} names {named:?}, which nobody wrote down", tip.seq);
            return Err(Violation::new(ORACLE, text));
        };
        let chains = batches.iter().skip(1).map(|batch| batch.previous).chain([named.chain]);
        for (batch, chain) in batches.iter().zip(chains) {
            if !self.batches.contains(&chain) {
                let text = format!(
                    "PREPARE for {:?}, but batch {:?} of {:?}, named by {seq:?}, is not durable",
                    tip.seq, batch.number, batch.lane
                );
                return Err(Violation::new(ORACLE, text));
            }
        }
        Ok(())
    }
}

/// Where the chain that ends with `digest` has left a lane.
fn named_before(ledger: &Ledger, lane: LaneId, digest: &Digest) -> LaneNumber {
    let mut at = *digest;
    while let Some(header) = ledger.header(&at) {
        if let Some(tip) = header.cut.iter().find(|tip| tip.lane == lane) {
            return tip.upto;
        }
        at = header.parent;
    }
    LaneNumber(0)
}

#[cfg(test)]
mod tests;
