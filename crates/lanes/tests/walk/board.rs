//! What a replica's ordering role knows of one lane: a small model of `quorate_consensus::Board`.

use quorate_types::{LaneUpdate, Lsn, Mark, Support, Why};
use std::collections::BTreeMap;

/// One batch.
#[derive(Clone, Copy)]
pub(crate) struct Known {
    previous: Mark,
    lsn: Lsn,
    pub(crate) support: Option<Support>,
    /// The view in which it came, if nothing but a header speaks for it.
    pub(crate) named: Option<u64>,
}

/// The batches of one lane above what is executed.
#[derive(Default)]
pub(crate) struct Board {
    pub(crate) known: BTreeMap<Mark, Known>,
    /// The end of the chain that goes on.
    pub(crate) tip: Mark,
}

impl Board {
    pub(crate) fn on_update(&mut self, update: &LaneUpdate, view: u64) {
        for entry in &update.held {
            let previous = Mark { upto: entry.mark.upto.previous(), chain: entry.previous };
            let named = (entry.why == Why::Named).then_some(view);
            let fresh = Known { previous, lsn: entry.lsn, support: None, named };
            let known = self.known.entry(entry.mark).or_insert(fresh);
            known.named = named.and(known.named);
        }
        self.tip = update.tip;
        for (support, mark) in &update.supported {
            let mut at = *mark;
            while let Some(known) = self.known.get_mut(&at)
                && known.support < Some(*support)
            {
                known.support = Some(*support);
                at = known.previous;
            }
        }
    }

    /// What is executed is of no more interest.
    pub(crate) fn settle(&mut self, executed: Mark) {
        while let Some(lowest) = self.known.first_entry()
            && lowest.key().upto <= executed.upto
        {
            lowest.remove();
        }
    }

    pub(crate) fn descends(&self, mark: Mark, from: Mark) -> bool {
        let mut at = mark;
        while at.upto > from.upto {
            let Some(known) = self.known.get(&at) else { return false };
            at = known.previous;
        }
        at == from
    }

    pub(crate) fn holds(&self, mark: Mark, from: Mark) -> bool {
        mark.upto <= from.upto || self.known.contains_key(&mark) && self.descends(mark, from)
    }

    /// When the journal is durable up to here, all from `from` up to `mark` is.
    pub(crate) fn durable_after(&self, mark: Mark, from: Mark) -> Lsn {
        let (mut at, mut after) = (mark, Lsn(0));
        while at.upto > from.upto
            && let Some(known) = self.known.get(&at)
        {
            after = after.max(known.lsn);
            at = known.previous;
        }
        after
    }

    /// The highest that q replicas have acknowledged and that continues `from`.
    pub(crate) fn quorum(&self, from: Mark) -> Option<Mark> {
        let above = self.known.iter().rev().take_while(|(mark, _)| mark.upto > from.upto);
        let quorum = above.filter(|(_, known)| known.support == Some(Support::Quorum));
        quorum.map(|(mark, _)| *mark).find(|mark| self.descends(*mark, from))
    }

    /// The highest that q replicas have acknowledged above the number of `from`, on whatever chain.
    pub(crate) fn quorum_anywhere(&self, from: Mark) -> Option<Mark> {
        let above = self.known.iter().rev().take_while(|(mark, _)| mark.upto > from.upto);
        above.filter(|(_, known)| known.support == Some(Support::Quorum)).map(|(mark, _)| *mark).next()
    }

    /// Forgets what nothing but headers of views below `view` names and `decided` does not lie behind; returns it, each
    /// before its parent.
    pub(crate) fn unname(&mut self, view: u64, decided: Mark) -> Vec<Mark> {
        let mut gone = Vec::new();
        let marks: Vec<Mark> = self.known.keys().rev().copied().collect();
        for mark in marks {
            let named = self.known[&mark].named.is_some_and(|named| named < view);
            if named
                && !self.known.values().any(|known| known.previous == mark)
                && !self.descends(decided, mark)
            {
                self.known.remove(&mark);
                gone.push(mark);
            }
        }
        gone
    }
}
