//! What is held of every lane: the ground on which cuts are proposed and accepted.
//!
//! The link roles push their lanes' progress here; the rules of DESIGN section 4 about cuts are decided
//! from it without asking back.

use crate::Reject;
use quorate_types::{After, BoardEntry, ClusterConfig, Digest, LaneId, LaneNumber, LaneUpdate, ReplicaId};
use quorate_wire::{Header, LaneTip};
use std::collections::{BTreeMap, VecDeque};

/// Where a lane stands at some header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) upto: LaneNumber,
    pub(crate) chain: Digest,
}

/// Where every lane stands at some header; absent lanes stand at their start.
pub(crate) type Marks = BTreeMap<LaneId, Mark>;

pub(crate) fn advance(marks: &mut Marks, header: &Header) {
    for tip in &header.cut {
        marks.insert(tip.lane, Mark { upto: tip.upto, chain: tip.chain });
    }
}

#[derive(Debug, Default)]
struct Window {
    /// The last batch below the entries.
    base: Mark,
    entries: VecDeque<BoardEntry>,
    weak: LaneNumber,
    quorum: LaneNumber,
}

impl Window {
    fn tip(&self) -> LaneNumber {
        self.base.upto.plus(self.entries.len() as u64)
    }

    fn entry(&self, number: LaneNumber) -> Option<&BoardEntry> {
        let above = number.0.checked_sub(self.base.upto.0)?.checked_sub(1)?;
        self.entries.get(usize::try_from(above).ok()?)
    }

    fn chain(&self, number: LaneNumber) -> Option<Digest> {
        if number == self.base.upto {
            return Some(self.base.chain);
        }
        self.entry(number).map(|entry| entry.chain)
    }

    /// Takes newly held entries; false when they stand on another chain than the window.
    fn follow(&mut self, update: &LaneUpdate) -> bool {
        if update.entries.is_empty() {
            return true;
        }
        if update.first > self.base.upto {
            let fits = self.chain(update.first.previous()) == Some(update.before);
            let keep = update.first.since(self.base.upto) - 1;
            self.entries.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
            if fits {
                self.entries.extend(&update.entries);
            }
            return fits;
        }
        // What lies at or below the base is decided: the update must pass through it.
        let below = usize::try_from(self.base.upto.since(update.first)).unwrap_or(usize::MAX);
        let fits = update.entries.get(below).is_some_and(|entry| entry.chain == self.base.chain);
        self.entries.clear();
        if fits {
            self.entries.extend(&update.entries[below + 1..]);
        }
        fits
    }

    /// Begins behind `mark`; what is held above on its chain stays.
    fn rebase(&mut self, mark: Mark) {
        if self.chain(mark.upto) == Some(mark.chain) {
            let drop = usize::try_from(mark.upto.since(self.base.upto)).unwrap_or(usize::MAX);
            self.entries.drain(..drop.min(self.entries.len()));
        } else {
            self.entries.clear();
        }
        self.base = mark;
        self.weak = self.weak.max(mark.upto);
        self.quorum = self.quorum.max(mark.upto);
    }

    /// The entries above `from` up to `upto`; both must be held.
    fn between(&self, from: LaneNumber, upto: LaneNumber) -> impl Iterator<Item = &BoardEntry> {
        let skip = usize::try_from(from.since(self.base.upto)).unwrap_or(usize::MAX);
        let take = usize::try_from(upto.since(from)).unwrap_or(usize::MAX);
        self.entries.iter().skip(skip).take(take)
    }
}

/// Whether a header may be accepted now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Yes; its batches are durable after this.
    Accept(After),
    /// Not yet: a batch or an acknowledgement is missing.
    Wait(LaneTip),
    /// Never.
    Refuse(Reject),
}

/// What is held of every lane.
#[derive(Debug)]
pub struct Board {
    windows: BTreeMap<LaneId, Window>,
    cut_batches_max: u64,
    cut_bytes_max: u64,
}

impl Board {
    /// Nothing is held yet.
    #[must_use]
    pub fn new(config: &ClusterConfig) -> Self {
        Self {
            windows: config.lanes().map(|lane| (lane, Window::default())).collect(),
            cut_batches_max: config.tuning().cut_batches_max,
            cut_bytes_max: config.tuning().cut_bytes_max,
        }
    }

    /// Takes the progress of a lane.
    pub fn on_update(&mut self, update: &LaneUpdate) {
        let Some(window) = self.windows.get_mut(&update.lane) else { return };
        if !window.follow(update) {
            // Another chain than the one decided: nothing on it counts until the link role has fetched that.
            window.weak = window.base.upto;
            window.quorum = window.base.upto;
            return;
        }
        window.weak = update.weak;
        window.quorum = update.quorum;
    }

    /// Whether the batch at `tip` is held, on the chain that it names.
    pub(crate) fn holds(&self, tip: &LaneTip) -> bool {
        self.windows
            .get(&tip.lane)
            .is_some_and(|window| tip.upto < window.base.upto || window.chain(tip.upto) == Some(tip.chain))
    }

    /// Forgets what lies below a committed tip, once it is held; after what is returned it is durable too.
    pub(crate) fn settle(&mut self, tip: &LaneTip) -> After {
        let mut after = After::nothing();
        let Some(window) = self.windows.get_mut(&tip.lane) else { return after };
        if window.chain(tip.upto) == Some(tip.chain) {
            let drop =
                usize::try_from(tip.upto.since(window.base.upto)).expect("invariant: within the window");
            window.entries.drain(..drop).for_each(|entry| after.and(entry.journal, entry.lsn));
            window.base = Mark { upto: tip.upto, chain: tip.chain };
        }
        after
    }

    /// The committed tips are `marks` now, whatever was decided here before: what is held on those chains above them
    /// stays.
    pub(crate) fn rebase(&mut self, marks: &Marks) {
        for (lane, window) in &mut self.windows {
            window.rebase(marks.get(lane).copied().unwrap_or_default());
        }
    }

    /// The state has these tips, which are committed: what is behind them is held no more, nor needed.
    pub(crate) fn raise(&mut self, marks: &Marks) {
        for (lane, mark) in marks {
            if let Some(window) = self.windows.get_mut(lane)
                && window.base.upto < mark.upto
            {
                window.rebase(*mark);
            }
        }
    }

    /// When all batches are durable that lie above the committed tips and up to `marks`, which must be held.
    pub(crate) fn cover(&self, marks: &Marks) -> After {
        let mut after = After::nothing();
        for (lane, mark) in marks {
            let Some(window) = self.windows.get(lane) else { continue };
            for entry in window.between(window.base.upto, mark.upto) {
                after.and(entry.journal, entry.lsn);
            }
        }
        after
    }

    /// The highest held batch of a lane that q replicas acknowledged.
    pub(crate) fn quorum_tip(&self, lane: LaneId) -> LaneNumber {
        self.windows.get(&lane).map_or(LaneNumber(0), |window| window.quorum)
    }

    /// All lanes.
    pub(crate) fn lanes(&self) -> impl Iterator<Item = LaneId> + '_ {
        self.windows.keys().copied()
    }

    /// Decides whether the cut of a header that follows `parent` may be accepted (DESIGN section 4, rule 1).
    pub(crate) fn judge(&self, header: &Header, parent: &Marks, primary: ReplicaId) -> Verdict {
        if header.cut.is_empty() || !header.cut_is_canonical() {
            return Verdict::Refuse(Reject::Cut);
        }
        let mut after = After::nothing();
        for tip in &header.cut {
            match self.judge_tip(tip, parent.get(&tip.lane).copied().unwrap_or_default(), primary) {
                Verdict::Accept(durable) => after.and_all(&durable),
                other => return other,
            }
        }
        Verdict::Accept(after)
    }

    fn judge_tip(&self, tip: &LaneTip, parent: Mark, primary: ReplicaId) -> Verdict {
        let Some(window) = self.windows.get(&tip.lane) else { return Verdict::Refuse(Reject::Cut) };
        let advance = tip.upto.since(parent.upto);
        if advance == 0 || advance > self.cut_batches_max {
            return Verdict::Refuse(Reject::Cut);
        }
        if window.chain(tip.upto) != Some(tip.chain) {
            return Verdict::Wait(*tip);
        }
        match window.chain(parent.upto) {
            Some(chain) if chain == parent.chain => {}
            Some(_) => return Verdict::Refuse(Reject::Cut),
            None => return Verdict::Wait(*tip),
        }
        let mut after = After::nothing();
        let mut bytes = 0;
        for entry in window.between(parent.upto, tip.upto) {
            bytes += entry.bytes;
            after.and(entry.journal, entry.lsn);
        }
        if bytes > self.cut_bytes_max {
            return Verdict::Refuse(Reject::Cut);
        }
        if tip.lane.origin != primary && window.weak < tip.upto {
            return Verdict::Wait(*tip);
        }
        Verdict::Accept(after)
    }

    /// The cut that primary `me` may propose after `parent`: own lanes up to what is held, others up to q
    /// acknowledgements (rule 5). Also the bytes that it names.
    pub(crate) fn propose(&self, parent: &Marks, me: ReplicaId) -> (Vec<LaneTip>, u64) {
        let mut cut = Vec::new();
        let mut total = 0;
        for (lane, window) in &self.windows {
            let from = parent.get(lane).copied().unwrap_or_default();
            let limit = if lane.origin == me { window.tip() } else { window.quorum.min(window.tip()) };
            if limit <= from.upto || window.chain(from.upto) != Some(from.chain) {
                continue;
            }
            let mut bytes = 0;
            let mut tip = None;
            let count = usize::try_from(self.cut_batches_max).expect("invariant: a small number");
            for (offset, entry) in (1..).zip(window.between(from.upto, limit).take(count)) {
                bytes += entry.bytes;
                if bytes > self.cut_bytes_max {
                    break;
                }
                tip = Some(LaneTip { lane: *lane, upto: from.upto.plus(offset), chain: entry.chain });
            }
            total += bytes;
            cut.extend(tip);
        }
        (cut, total)
    }

    /// The number of batches known and not yet settled, for audits.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.windows.values().map(|window| window.entries.len()).sum()
    }
}
