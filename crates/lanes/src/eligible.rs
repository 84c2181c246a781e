//! What may be named of one lane, as the ordering role is told: what is held, and per chain the highest digest that f+1 and
//! that q replicas have acknowledged.

use crate::held::Held;
use quorate_types::{BoardEntry, JournalId, LaneId, LaneNumber, LaneUpdate, Mark, Support};
use std::collections::BTreeSet;

/// The ends of what so many have acknowledged; usually one.
#[derive(Debug, Default)]
struct Ends(Vec<Mark>);

impl Ends {
    /// Takes an end, in the place of those before it on its chain; false when it says nothing new.
    fn raise(&mut self, held: &Held, mark: Mark) -> bool {
        if self.0.iter().any(|end| held.descends(*end, mark)) {
            return false;
        }
        self.0.retain(|end| !held.descends(mark, *end));
        self.0.push(mark);
        true
    }

    fn retain(&mut self, held: &Held) {
        self.0.retain(|end| end.upto > held.executed().upto && held.contains(*end));
    }
}

/// What is eligible of one lane.
#[derive(Debug)]
pub(crate) struct Eligible {
    weak: Ends,
    quorum: Ends,
    /// What the ordering role has not heard of.
    held: Vec<Mark>,
    supported: Vec<(Support, Mark)>,
    tip: Mark,
}

impl Eligible {
    pub(crate) fn new() -> Self {
        let (weak, quorum) = (Ends::default(), Ends::default());
        Self { weak, quorum, held: Vec::new(), supported: Vec::new(), tip: Mark::default() }
    }

    /// So many have acknowledged a held batch, and those before it.
    pub(crate) fn on_support(&mut self, held: &Held, mark: Mark, support: Support) {
        let ends = if support == Support::Weak { &mut self.weak } else { &mut self.quorum };
        if ends.raise(held, mark) {
            self.supported.push((support, mark));
        }
    }

    /// The highest digests with f+1 acknowledgements and with q, one for each chain.
    pub(crate) fn supported(&self) -> impl Iterator<Item = Mark> {
        self.weak.0.iter().chain(&self.quorum.0).copied()
    }

    /// The highest batch of the main chain that q replicas have acknowledged, or that is executed.
    pub(crate) fn main_quorum(&self, held: &Held) -> LaneNumber {
        // An end beside it stands for what lies below, too.
        let highest = self.quorum.0.iter().filter_map(|end| held.meets_main(*end)).max();
        highest.unwrap_or_default().upto.max(held.executed().upto)
    }

    pub(crate) fn is_unreported(&self) -> bool {
        !self.held.is_empty()
    }

    pub(crate) fn on_held(&mut self, mark: Mark) {
        self.held.push(mark);
    }

    /// The ordering role has let go of a batch that is still held, and so of all behind it.
    pub(crate) fn tell_of(&mut self, held: &Held, mark: Mark) {
        let behind: BTreeSet<Mark> = held.behind(mark).into_iter().collect();
        // Some of them may be told of already, but none before its parent.
        self.held.retain(|other| !behind.contains(other));
        self.held.extend(behind.iter().copied());
        let supports = [(Support::Weak, &self.weak), (Support::Quorum, &self.quorum)];
        for (support, ends) in supports {
            let of_chain = ends.0.iter().copied().filter(|end| behind.contains(end));
            self.supported.extend(of_chain.map(|end| (support, end)));
        }
    }

    /// A batch is held no more.
    pub(crate) fn on_let_go(&mut self, mark: Mark) {
        self.held.retain(|other| *other != mark);
        self.weak.0.retain(|end| *end != mark);
        self.quorum.0.retain(|end| *end != mark);
    }

    /// The lane is executed further.
    pub(crate) fn on_executed(&mut self, held: &Held) {
        self.weak.retain(held);
        self.quorum.retain(held);
    }

    /// All that is not executed is told again.
    pub(crate) fn tell_again(&mut self, held: &Held) {
        self.held = held.unexecuted();
        let supports = [(Support::Weak, &self.weak), (Support::Quorum, &self.quorum)];
        let all = |(support, ends): (Support, &Ends)| -> Vec<_> {
            ends.0.iter().map(|end| (support, *end)).collect()
        };
        self.supported = supports.into_iter().flat_map(all).collect();
    }

    /// What the ordering role has not heard of, if there is any.
    pub(crate) fn report(&mut self, lane: LaneId, held: &Held, journal: JournalId) -> Option<LaneUpdate> {
        let tip = held.end();
        if self.held.is_empty() && self.supported.is_empty() && self.tip == tip {
            return None;
        }
        self.tip = tip;
        let entry = |mark: Mark| {
            let node = held.get(mark)?;
            let (previous, bytes) = (node.batch.previous(), node.batch.bytes() as u64);
            Some(BoardEntry { mark, previous, bytes, journal, lsn: node.lsn, why: node.why })
        };
        let entries = self.held.drain(..).filter_map(entry).collect();
        Some(LaneUpdate { lane, held: entries, supported: std::mem::take(&mut self.supported), tip })
    }
}
