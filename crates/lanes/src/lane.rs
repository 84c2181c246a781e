//! One lane as this replica holds it: a chain of batches above what was dropped.

use crate::acknowledgements::Acknowledgements;
use crate::batch::Batch;
use quorate_types::{BoardEntry, Digest, JournalId, LaneId, LaneNumber, LaneUpdate, Lsn};
use quorate_wire::LaneTip;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// While a peer copies an older state, so many times the usual bytes of executed batches are kept for it.
const PINNED_TIMES: usize = 4;

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
    /// While a peer copies an older state: what is executed above this is kept for it, within a larger bound.
    pinned: Option<LaneNumber>,
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
    /// Whether what was acknowledged may no longer be on the present chain.
    replaced: bool,
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
            pinned: None,
            kept_bytes: 0,
            open_bytes: 0,
            aside_bytes: 0,
            unreported: LaneNumber(1),
            reported_weak: LaneNumber(0),
            reported_quorum: LaneNumber(0),
            announced: LaneTip { lane: id, upto: LaneNumber(0), chain: Digest::ZERO },
            replaced: false,
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
        assert!(!self.aside.contains_key(&(batch.number(), batch.chain())), "a batch is held once");
        self.open_bytes += batch.bytes();
        let number = batch.number();
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
                self.replaced = true;
            }
            self.acknowledgements.on_chain_changed(number.next(), true, |_| None);
        }
    }

    /// Holds a batch beside the present chain. Its parent is held.
    pub(crate) fn set_aside(&mut self, batch: Arc<Batch>, lsn: Lsn) {
        let (number, chain) = (batch.number(), batch.chain());
        assert!(number > self.executed, "what is set aside may still be executed");
        self.aside_bytes += batch.bytes();
        let before = self.aside.insert((number, chain), Entry { batch, lsn });
        assert!(before.is_none(), "a batch is held once");
    }

    /// The batch that was set aside at `number` with this payload.
    pub(crate) fn aside_with(&self, number: LaneNumber, payload: &[u8]) -> Option<&Arc<Batch>> {
        let at_number = (number, Digest::ZERO)..=(number, Digest([u8::MAX; 32]));
        let mut batches = self.aside.range(at_number).map(|(_, entry)| &entry.batch);
        batches.find(|batch| batch.frame().payload() == payload)
    }

    /// Takes a batch back from what was set aside: it goes on at the tip of the present chain.
    pub(crate) fn take_back(&mut self, tip: &LaneTip) -> bool {
        let Some(entry) = self.aside.remove(&(tip.upto, tip.chain)) else { return false };
        self.aside_bytes -= entry.batch.bytes();
        self.append(entry.batch, entry.lsn);
        true
    }

    /// The number of batches that are held beside the present chain.
    pub(crate) fn forked(&self) -> usize {
        self.aside.len()
    }

    /// All batches above the executed tip, on whatever chain, each after its parent.
    pub(crate) fn unexecuted(&self) -> Vec<&Arc<Batch>> {
        let entries = self.entries.iter().chain(self.aside.values()).map(|entry| &entry.batch);
        let mut batches: Vec<_> = entries.filter(|batch| batch.number() > self.executed).collect();
        batches.sort_by_key(|batch| batch.number());
        batches
    }

    /// Where the held batches lie in the journal.
    pub(crate) fn positions(&self) -> impl Iterator<Item = (Lsn, LaneTip)> {
        self.entries.iter().chain(self.aside.values()).map(|entry| (entry.lsn, entry.batch.tip()))
    }

    /// Where the chain to `tip` leaves the present one, if all of it is held.
    pub(crate) fn branch(&self, tip: &LaneTip) -> Option<LaneNumber> {
        let (mut number, mut chain) = (tip.upto, tip.chain);
        while self.chain_at(number) != Some(chain) {
            chain = self.aside.get(&(number, chain))?.batch.previous();
            number = number.previous();
        }
        Some(number)
    }

    /// Whether a quorum holds the batch at `number` of the present chain, for all that is known.
    ///
    /// A replica that has acknowledged it and says to hold another chain by now does not count: without that, one
    /// that lies to some about what it holds could keep them for ever on a chain that nobody continues.
    pub(crate) fn is_quorums(&self, number: LaneNumber, quorum: usize) -> bool {
        self.acknowledgements.holders(number, |upto, chain| {
            let tip = LaneTip { lane: self.id, upto, chain };
            upto > self.tip().upto && !self.aside.contains_key(&(upto, chain))
                || self.branch(&tip).is_some_and(|branch| branch >= number)
        }) >= quorum
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
        for (upto, chain) in path.into_iter().rev() {
            let back = self.take_back(&LaneTip { lane: self.id, upto, chain });
            assert!(back, "what was just found is there");
        }
        true
    }

    pub(crate) fn on_acknowledgement(&mut self, from: quorate_types::ReplicaId, tip: &LaneTip, full: bool) {
        let own = self.chain_at(tip.upto);
        self.acknowledgements.on_acknowledgement(from, tip.upto, tip.chain, full, |_| own);
    }

    /// Batches up to `tip` are executed; keeps at most `kept_max` bytes of executed ones for peers that lag. Returns
    /// what was held above the executed tip and will never be executed, each batch after its parent.
    pub(crate) fn on_executed(&mut self, tip: &LaneTip, kept_max: usize) -> Vec<Arc<Batch>> {
        if tip.upto <= self.executed {
            return Vec::new();
        }
        // The executed chain is the lane; another one may have been held here when its commit became known.
        let reached = self.reaches(tip);
        let mut dead = if reached { Vec::new() } else { self.start_at(tip) };
        while self.executed < tip.upto
            && let Some(entry) = self.entry(self.executed.next())
        {
            let bytes = entry.batch.bytes();
            self.open_bytes -= bytes;
            self.kept_bytes += bytes;
            self.executed = self.executed.next();
        }
        self.drop_kept(kept_max);
        // Each fork leaves the present chain somewhere, so none is dead before its lowest batch is at the executed tip.
        let lowest = self.aside.first_key_value().map(|((number, _), _)| *number);
        if lowest.is_some_and(|lowest| !reached || lowest <= self.executed) {
            self.drop_dead_forks(&mut dead);
        }
        dead.sort_by_key(|batch| batch.number());
        dead
    }

    /// Keeps what is executed above `upto` beyond the usual bound, or no longer does.
    pub(crate) fn pin(&mut self, upto: Option<LaneNumber>, kept_max: usize) {
        self.pinned = upto;
        self.drop_kept(kept_max);
    }

    /// Drops the oldest executed batches over the bound.
    fn drop_kept(&mut self, kept_max: usize) {
        while self.base < self.executed && self.base.next() < self.unreported {
            let pinned = self.pinned.is_some_and(|pinned| self.base >= pinned);
            let bound = if pinned { PINNED_TIMES * kept_max } else { kept_max };
            if self.kept_bytes <= bound {
                return;
            }
            let Some(entry) = self.entries.pop_front() else { return };
            self.kept_bytes -= entry.batch.bytes();
            self.base = entry.batch.number();
            self.base_chain = entry.batch.chain();
        }
    }

    /// Holds nothing but an executed tip, which is not on the present chain. Returns what was held of that one above
    /// what is executed.
    fn start_at(&mut self, tip: &LaneTip) -> Vec<Arc<Batch>> {
        let executed = self.executed;
        let entries = std::mem::take(&mut self.entries).into_iter().map(|entry| entry.batch);
        let dead = entries.filter(|batch| batch.number() > executed).collect();
        (self.base, self.base_chain, self.executed) = (tip.upto, tip.chain, tip.upto);
        (self.open_bytes, self.kept_bytes) = (0, 0);
        self.unreported = tip.upto.next();
        self.announced = *tip;
        let chain = tip.chain;
        let acknowledgements = &mut self.acknowledgements;
        acknowledgements.on_chain_changed(tip.upto, true, |at| (at == tip.upto).then_some(chain));
        dead
    }

    /// Drops what was set aside and does not descend from the executed tip: it will never be committed.
    fn drop_dead_forks(&mut self, dead: &mut Vec<Arc<Batch>>) {
        for (key, entry) in std::mem::take(&mut self.aside) {
            let (number, previous) = (key.0.previous(), entry.batch.previous());
            let on_chain = number >= self.executed && self.chain_at(number) == Some(previous);
            if key.0 > self.executed && (on_chain || self.aside.contains_key(&(number, previous))) {
                self.aside.insert(key, entry);
            } else {
                self.aside_bytes -= entry.batch.bytes();
                dead.push(entry.batch);
            }
        }
    }

    /// The lane as it is found again: it starts at the executed `tip`, and of `batches` holds what descends from it.
    ///
    /// Which of several chains was the present one, the order of the journal says: a batch is appended after its
    /// parent, so the last one that was appended ends the chain that was held last.
    pub(crate) fn recover(mut self, tip: &LaneTip, batches: Vec<(Lsn, Arc<Batch>)>) -> Self {
        self.start_at(tip);
        self.announce_again();
        let mut found: BTreeMap<(LaneNumber, Digest), Entry> = BTreeMap::new();
        for (lsn, batch) in batches {
            found.insert((batch.number(), batch.chain()), Entry { batch, lsn });
        }
        for ((number, _), Entry { batch, lsn }) in found {
            let parent = (number.previous(), batch.previous());
            let descends = parent == (self.base, self.base_chain) || self.aside.contains_key(&parent);
            if number > self.executed && descends {
                self.set_aside(batch, lsn);
            }
        }
        let mut present = *tip;
        // A batch that was damaged once and fetched again lies behind its children: those are not lost for that.
        let mut best = self.aside.values().max_by_key(|entry| entry.lsn);
        while let Some(entry) = best {
            present = entry.batch.tip();
            let from = (present.upto.next(), Digest::ZERO);
            let children =
                self.aside.range(from..).map(|(_, child)| child).filter(|child| {
                    child.batch.number() == from.0 && child.batch.previous() == present.chain
                });
            best = children.max_by_key(|child| child.lsn);
        }
        let reached = self.reaches(&present);
        assert!(reached, "what was set aside descends from the executed tip");
        self
    }

    /// Another state was installed, or everybody has forgotten what was said: all is told again.
    pub(crate) fn report_again(&mut self) {
        self.unreported = self.executed.next();
        (self.reported_weak, self.reported_quorum) = (LaneNumber(0), LaneNumber(0));
        self.announce_again();
    }

    fn announce_again(&mut self) {
        self.announced = LaneTip { lane: self.id, upto: LaneNumber(0), chain: Digest::ZERO };
    }

    /// The tip to acknowledge with its journal position, if it moved since the last time, and whether that takes the
    /// place of what was acknowledged before.
    pub(crate) fn announce(&mut self) -> Option<(LaneTip, Lsn, bool)> {
        let (tip, lsn) = self.frontier();
        let replaced = std::mem::take(&mut self.replaced);
        if tip == self.announced && !replaced {
            return None;
        }
        self.announced = tip;
        Some((tip, lsn, replaced))
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
