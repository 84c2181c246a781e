//! One lane as this replica holds it: a chain of batches above what was dropped.

use crate::acknowledgements::Acknowledgements;
use crate::batch::Batch;
use quorate_types::{BoardEntry, Digest, JournalId, LaneId, LaneNumber, LaneUpdate, Lsn};
use quorate_wire::LaneTip;
use std::collections::{BTreeMap, VecDeque};
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
    /// What was held before another chain took its place. It was acknowledged, so whoever asks still gets it,
    /// and it may be what is committed in the end.
    aside: BTreeMap<(LaneNumber, Digest), Entry>,
    executed: LaneNumber,
    /// The bytes of entries at or below the executed one, and above.
    kept_bytes: usize,
    open_bytes: usize,
    aside_bytes: usize,
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
            aside: BTreeMap::new(),
            executed: LaneNumber(0),
            kept_bytes: 0,
            open_bytes: 0,
            aside_bytes: 0,
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

    /// The batch with this chain digest, whether it is on the present chain or was set aside.
    pub(crate) fn find(&self, number: LaneNumber, chain: Digest) -> Option<&Arc<Batch>> {
        let held = self.batch(number).filter(|batch| batch.chain() == chain);
        held.or_else(|| self.aside.get(&(number, chain)).map(|entry| &entry.batch))
    }

    /// As [`Lane::find`], to fill in what is not known of the batch yet.
    pub(crate) fn find_mut(&mut self, number: LaneNumber, chain: Digest) -> Option<&mut Arc<Batch>> {
        let held = self.batch(number).is_some_and(|batch| batch.chain() == chain);
        if !held {
            return self.aside.get_mut(&(number, chain)).map(|entry| &mut entry.batch);
        }
        let index = usize::try_from(number.since(self.base)).ok()?.checked_sub(1)?;
        self.entries.get_mut(index).map(|entry| &mut entry.batch)
    }

    pub(crate) fn executed(&self) -> LaneNumber {
        self.executed
    }

    pub(crate) fn open_bytes(&self) -> usize {
        self.open_bytes
    }

    /// What counts against the lane's budget: all that is not executed, on whatever chain.
    pub(crate) fn unexecuted_bytes(&self) -> usize {
        self.open_bytes + self.aside_bytes
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.unexecuted_bytes() + self.kept_bytes
    }

    /// Appends the next batch, which lies at `lsn` of the journal.
    pub(crate) fn append(&mut self, batch: Arc<Batch>, lsn: Lsn) {
        let tip = self.tip();
        assert_eq!(batch.number(), tip.upto.next(), "a lane is held without gaps");
        assert_eq!(batch.previous(), tip.chain, "a lane is one chain");
        self.open_bytes += batch.bytes();
        let number = batch.number();
        if let Some(same) = self.aside.remove(&(number, batch.chain())) {
            self.aside_bytes -= same.batch.bytes();
        }
        self.entries.push_back(Entry { batch, lsn });
        self.unreported = self.unreported.min(number);
        let (chain, acknowledgements) = (self.tip().chain, &mut self.acknowledgements);
        acknowledgements.on_chain_changed(number, false, |at| (at == number).then_some(chain));
    }

    /// Sets aside what is held above `number`, to hold another chain there. Executed batches are never replaced.
    pub(crate) fn truncate(&mut self, number: LaneNumber) {
        assert!(number >= self.executed, "an executed batch is never replaced");
        let mut replaced = false;
        while self.tip().upto > number
            && let Some(entry) = self.entries.pop_back()
        {
            let bytes = entry.batch.bytes();
            self.open_bytes -= bytes;
            self.aside_bytes += bytes;
            self.aside.insert((entry.batch.number(), entry.batch.chain()), entry);
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

    /// Whether `tip` is on the present chain. What was set aside is taken back if it leads there.
    pub(crate) fn reaches(&mut self, tip: &LaneTip) -> bool {
        let mut path = Vec::new();
        let (mut number, mut chain) = (tip.upto, tip.chain);
        while self.chain_at(number) != Some(chain) {
            let Some(entry) = self.aside.get(&(number, chain)) else { return false };
            path.push((number, chain));
            (number, chain) = (number.previous(), entry.batch.previous());
        }
        if path.is_empty() {
            return true;
        }
        if number < self.executed {
            return false;
        }
        self.truncate(number);
        for key in path.iter().rev() {
            let entry = self.aside.remove(key).expect("invariant: just found");
            self.aside_bytes -= entry.batch.bytes();
            self.append(entry.batch, entry.lsn);
        }
        true
    }

    pub(crate) fn on_acknowledgement(&mut self, from: quorate_types::ReplicaId, tip: &LaneTip, full: bool) {
        let own = self.chain_at(tip.upto);
        self.acknowledgements.on_acknowledgement(from, tip.upto, tip.chain, full, |_| own);
    }

    /// Batches up to `tip` are executed; keeps at most `kept_max` bytes of executed ones for peers that lag.
    pub(crate) fn on_executed(&mut self, tip: &LaneTip, kept_max: usize) {
        if tip.upto <= self.executed {
            return;
        }
        // The executed chain is the lane; another one may have been held here when its commit became known.
        if !self.reaches(tip) {
            self.start_at(tip);
        }
        while self.executed < tip.upto
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
        self.drop_dead_forks();
    }

    /// Holds nothing but an executed tip.
    fn start_at(&mut self, tip: &LaneTip) {
        self.entries.clear();
        (self.base, self.base_chain, self.executed) = (tip.upto, tip.chain, tip.upto);
        (self.open_bytes, self.kept_bytes) = (0, 0);
        self.unreported = tip.upto.next();
        self.announced = *tip;
        let chain = tip.chain;
        let acknowledgements = &mut self.acknowledgements;
        acknowledgements.on_chain_changed(tip.upto, true, |at| (at == tip.upto).then_some(chain));
    }

    /// Drops what was set aside and does not descend from the executed tip: it will never be committed. Each
    /// fork leaves the present chain somewhere, so none is dead before its lowest batch is at the executed tip.
    fn drop_dead_forks(&mut self) {
        if self.aside.first_key_value().is_none_or(|((number, _), _)| *number > self.executed) {
            return;
        }
        for (key, entry) in std::mem::take(&mut self.aside) {
            let (number, previous) = (key.0.previous(), entry.batch.previous());
            let on_chain = number >= self.executed && self.chain_at(number) == Some(previous);
            if key.0 > self.executed && (on_chain || self.aside.contains_key(&(number, previous))) {
                self.aside.insert(key, entry);
            } else {
                self.aside_bytes -= entry.batch.bytes();
            }
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
