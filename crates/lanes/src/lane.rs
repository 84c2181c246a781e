//! One lane as this replica holds it: a chain of batches above what was dropped.

use crate::acknowledgements::Acknowledgements;
use crate::batch::Batch;
use quorate_types::{BoardEntry, Digest, JournalId, LaneId, LaneNumber, LaneUpdate, Lsn};
use quorate_wire::LaneTip;
use std::collections::VecDeque;
use std::sync::Arc;

#[derive(Debug)]
struct Entry {
    batch: Arc<Batch>,
    lsn: Lsn,
}

/// One lane.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) id: LaneId,
    pub(crate) acknowledgements: Acknowledgements,
    journal: JournalId,
    /// The last batch that was dropped.
    base: LaneNumber,
    base_chain: Digest,
    entries: VecDeque<Entry>,
    executed: LaneNumber,
    /// The bytes of entries at or below the executed one, and above.
    kept_bytes: usize,
    open_bytes: usize,
    /// The first position that the ordering role has not heard of.
    unreported: LaneNumber,
    reported_weak: LaneNumber,
    reported_quorum: LaneNumber,
    /// The tip that was acknowledged last.
    announced: LaneTip,
}

impl Lane {
    pub(crate) fn new(id: LaneId, replicas: usize, journal: JournalId) -> Self {
        Self {
            id,
            acknowledgements: Acknowledgements::new(replicas),
            journal,
            base: LaneNumber(0),
            base_chain: Digest::ZERO,
            entries: VecDeque::new(),
            executed: LaneNumber(0),
            kept_bytes: 0,
            open_bytes: 0,
            unreported: LaneNumber(1),
            reported_weak: LaneNumber(0),
            reported_quorum: LaneNumber(0),
            announced: LaneTip { lane: id, upto: LaneNumber(0), chain: Digest::ZERO },
        }
    }

    pub(crate) fn tip(&self) -> LaneTip {
        match self.entries.back() {
            Some(entry) => entry.batch.tip(),
            None => LaneTip { lane: self.id, upto: self.base, chain: self.base_chain },
        }
    }

    fn entry(&self, number: LaneNumber) -> Option<&Entry> {
        let index = number.0.checked_sub(self.base.0)?.checked_sub(1)?;
        self.entries.get(usize::try_from(index).ok()?)
    }

    pub(crate) fn batch(&self, number: LaneNumber) -> Option<&Arc<Batch>> {
        self.entry(number).map(|entry| &entry.batch)
    }

    /// The chain digest at a position that is still held, or just dropped.
    pub(crate) fn chain_at(&self, number: LaneNumber) -> Option<Digest> {
        if number == self.base {
            return Some(self.base_chain);
        }
        self.batch(number).map(|batch| batch.chain())
    }

    pub(crate) fn executed(&self) -> LaneNumber {
        self.executed
    }

    pub(crate) fn open_bytes(&self) -> usize {
        self.open_bytes
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.open_bytes + self.kept_bytes
    }

    /// Appends the next batch, which lies at `lsn` of the journal.
    pub(crate) fn append(&mut self, batch: Arc<Batch>, lsn: Lsn) {
        let tip = self.tip();
        assert_eq!(batch.number(), tip.upto.next(), "a lane is held without gaps");
        assert_eq!(batch.previous(), tip.chain, "a lane is one chain");
        self.open_bytes += batch.bytes();
        let number = batch.number();
        self.entries.push_back(Entry { batch, lsn });
        self.unreported = self.unreported.min(number);
        let (chain, acknowledgements) = (self.tip().chain, &mut self.acknowledgements);
        acknowledgements.on_chain_changed(number, false, |at| (at == number).then_some(chain));
    }

    /// Drops what is held above `number`, to hold another chain there. Executed batches are never replaced.
    pub(crate) fn truncate(&mut self, number: LaneNumber) {
        assert!(number >= self.executed, "an executed batch is never replaced");
        let mut replaced = false;
        while self.tip().upto > number
            && let Some(entry) = self.entries.pop_back()
        {
            self.open_bytes -= entry.batch.bytes();
            replaced = true;
        }
        if replaced {
            self.unreported = self.unreported.min(number.next());
            if self.announced.upto > number {
                self.announced = self.tip();
            }
            self.acknowledgements.on_chain_changed(number.next(), true, |_| None);
        }
    }

    pub(crate) fn on_acknowledgement(&mut self, from: quorate_types::ReplicaId, tip: &LaneTip, full: bool) {
        let own = self.chain_at(tip.upto);
        self.acknowledgements.on_acknowledgement(from, tip.upto, tip.chain, full, |_| own);
    }

    /// Batches up to `number` are executed; keeps at most `kept_max` bytes of executed ones for peers that
    /// lag.
    pub(crate) fn on_executed(&mut self, number: LaneNumber, kept_max: usize) {
        while self.executed < number
            && let Some(entry) = self.entry(self.executed.next())
        {
            let bytes = entry.batch.bytes();
            self.open_bytes -= bytes;
            self.kept_bytes += bytes;
            self.executed = self.executed.next();
        }
        while self.kept_bytes > kept_max
            && self.base < self.executed
            && self.base.next() < self.unreported
            && let Some(entry) = self.entries.pop_front()
        {
            self.kept_bytes -= entry.batch.bytes();
            self.base = entry.batch.number();
            self.base_chain = entry.batch.chain();
        }
    }

    /// The tip to acknowledge with its journal position, if it moved since the last time.
    pub(crate) fn announce(&mut self) -> Option<(LaneTip, Lsn)> {
        let tip = self.tip();
        if tip == self.announced {
            return None;
        }
        self.announced = tip;
        Some((tip, self.entries.back().map_or(Lsn(0), |entry| entry.lsn)))
    }

    /// The tip with its journal position.
    pub(crate) fn frontier(&self) -> (LaneTip, Lsn) {
        (self.tip(), self.entries.back().map_or(Lsn(0), |entry| entry.lsn))
    }

    /// The progress since the last report, if there is any.
    pub(crate) fn report(&mut self, weak: usize, quorum: usize) -> Option<LaneUpdate> {
        let weak = self.acknowledgements.acknowledged_by(weak);
        let quorum = self.acknowledgements.acknowledged_by(quorum);
        let first = self.unreported.max(self.base.next());
        let skip = usize::try_from(first.since(self.base) - 1).expect("invariant: 64-bit platform");
        let entries: Vec<BoardEntry> = self
            .entries
            .iter()
            .skip(skip)
            .map(|entry| BoardEntry {
                chain: entry.batch.chain(),
                bytes: entry.batch.bytes() as u64,
                journal: self.journal,
                lsn: entry.lsn,
            })
            .collect();
        if entries.is_empty() && (weak, quorum) == (self.reported_weak, self.reported_quorum) {
            return None;
        }
        self.unreported = self.tip().upto.next();
        self.reported_weak = weak;
        self.reported_quorum = quorum;
        let before = self.chain_at(first.previous()).expect("invariant: at or above the base");
        Some(LaneUpdate { lane: self.id, first, before, entries, weak, quorum })
    }
}
