//! Batches that a restart has found in the journal and that connect to nothing: something before them went bad.
//!
//! What is intact is not lost with what is not (DESIGN section 5). A stray is held by its digest: it is served, the journal
//! keeps it, and a walk that passes through it need not fetch it. But it is not acknowledged, and nothing may name it, before
//! the hole below it is closed and its whole chain is here. It stays in memory until then: what it takes there it took before
//! the restart, and would take if nothing had gone bad.
//!
//! Of what went bad the journal still knows the name and why it was held. So a batch that nothing intact lies behind is known
//! to be lost, too, until the journal is trimmed there for the second time.

use crate::batch::Batch;
use crate::lane::Found;
use quorate_types::{Lsn, Mark, Why};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A batch that connects to nothing.
#[derive(Debug)]
pub(crate) struct Stray {
    pub(crate) batch: Arc<Batch>,
    pub(crate) lsn: Lsn,
    pub(crate) why: Why,
}

impl Stray {
    fn parent(&self) -> Mark {
        Mark { upto: self.batch.number().previous(), chain: self.batch.previous() }
    }
}

/// The strays of one lane. Only a restart adds to them.
#[derive(Debug, Default)]
pub(crate) struct Strays {
    strays: BTreeMap<Mark, Stray>,
    /// What is missing: each is the parent of a stray, and none itself.
    holes: BTreeSet<Mark>,
    /// What went bad and was held for a better reason than its name.
    bad: BTreeMap<Mark, Why>,
    bytes: usize,
}

impl Strays {
    /// Keeps what was found, in the order of the numbers. Of one that was written several times the best reason counts, and
    /// stands for all before it that is here: see [`Lane::recover`](crate::lane::Lane::recover).
    pub(crate) fn keep(&mut self, (lsn, batch, why): Found) {
        let mark = batch.mark();
        let stray = Stray { batch, lsn, why };
        if why != Why::Named {
            self.vouch_before(stray.parent());
        }
        if let Some(known) = self.strays.get_mut(&mark) {
            if known.why < why {
                (known.why, known.lsn) = (why, lsn);
            }
            return;
        }
        if !self.strays.contains_key(&stray.parent()) {
            self.holes.insert(stray.parent());
        }
        self.bytes += stray.batch.bytes();
        self.strays.insert(mark, stray);
    }

    /// What lies at a place and before it, and was found for its name alone, was held for a better reason.
    fn vouch_before(&mut self, mut place: Mark) {
        while let Some(stray) = self.strays.get_mut(&place).filter(|stray| stray.why == Why::Named) {
            stray.why = Why::Acknowledged;
            place = stray.parent();
        }
    }

    /// What the journal names, and was held for this reason, went bad there. The strays are kept already.
    pub(crate) fn miss(&mut self, mark: Mark, why: Why) {
        if self.strays.contains_key(&mark) {
            return self.vouch_before(mark);
        }
        let known = self.bad.entry(mark).or_insert(why);
        *known = why.max(*known);
    }

    /// Whether nothing is kept, and nothing is known to be missing.
    pub(crate) fn is_empty(&self) -> bool {
        self.strays.is_empty() && self.bad.is_empty()
    }

    /// Whether the journal alone tells that this is missing.
    pub(crate) fn is_bad(&self, mark: Mark) -> bool {
        self.bad.contains_key(&mark)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn get(&self, mark: Mark) -> Option<&Stray> {
        self.strays.get(&mark)
    }

    /// A stray was written to the journal again and lies at `lsn` from now on.
    pub(crate) fn moved(&mut self, mark: Mark, lsn: Lsn) {
        if let Some(stray) = self.strays.get_mut(&mark) {
            stray.lsn = lsn;
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Mark, &Stray)> {
        self.strays.iter().map(|(mark, stray)| (*mark, stray))
    }

    /// The strays from one down to the hole below it. Nothing for what is none.
    pub(crate) fn down_from(&self, mark: Mark) -> impl Iterator<Item = (Mark, &Stray)> {
        let at = |mark: Mark| self.strays.get(&mark).map(|stray| (mark, stray));
        std::iter::successors(at(mark), move |(_, stray)| at(stray.parent()))
    }

    /// What is missing of what this replica has acknowledged, ascending.
    pub(crate) fn lost(&self) -> BTreeSet<Mark> {
        let holes =
            self.holes.iter().filter(|hole| self.why_lost(**hole).is_some_and(|why| why != Why::Named));
        holes.chain(self.bad.keys()).copied().collect()
    }

    /// Why a batch that is missing was held, as far as it is known: all that lies before a stray was held here for such a
    /// reason as that, too.
    pub(crate) fn why_lost(&self, mark: Mark) -> Option<Why> {
        let behind = self.behind(mark).filter_map(|at| self.strays.get(&at)).map(|stray| stray.why).max();
        behind.max(self.bad.get(&mark).copied())
    }

    /// Takes out what lies just behind a place, which is missing no more.
    pub(crate) fn take_behind(&mut self, mark: Mark) -> Vec<Stray> {
        let behind: Vec<Mark> = self.behind(mark).collect();
        self.holes.remove(&mark);
        self.bad.remove(&mark);
        behind.into_iter().filter_map(|at| self.remove(at)).collect()
    }

    /// No chain through this place will ever be executed.
    pub(crate) fn forget_behind(&mut self, mark: Mark) {
        let mut ends = vec![mark];
        while let Some(end) = ends.pop() {
            ends.extend(self.take_behind(end).into_iter().map(|stray| stray.batch.mark()));
        }
    }

    /// The lane is executed up to `tip`: what lies at or below it is not needed any more, and what descends from another
    /// place there is dead.
    pub(crate) fn on_executed(&mut self, tip: Mark) {
        self.bad.retain(|mark, _| mark.upto > tip.upto);
        let is_over = |mark: &&Mark| mark.upto <= tip.upto;
        let strays = self.strays.keys().take_while(is_over);
        let over: Vec<Mark> = strays.chain(self.holes.iter().take_while(is_over)).copied().collect();
        for mark in over {
            self.remove(mark);
            self.holes.remove(&mark);
            if mark.upto == tip.upto && mark != tip {
                self.forget_behind(mark);
            }
        }
    }

    fn remove(&mut self, mark: Mark) -> Option<Stray> {
        let stray = self.strays.remove(&mark)?;
        self.bytes -= stray.batch.bytes();
        Some(stray)
    }

    fn behind(&self, mark: Mark) -> impl Iterator<Item = Mark> {
        let upto = mark.upto.next();
        let from = Mark { upto, chain: quorate_types::Digest::ZERO };
        let of_number = self.strays.range(from..).take_while(move |(at, _)| at.upto == upto);
        of_number.filter(move |(_, stray)| stray.batch.previous() == mark.chain).map(|(at, _)| *at)
    }
}
