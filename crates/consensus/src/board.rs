//! What is held of every lane: the ground on which cuts are proposed and accepted.
//!
//! The link roles push here what is held, by digest and on whatever chain, and how many have acknowledged it; the rules of
//! DESIGN section 4 about cuts are decided from it without asking back. A digest that is held stays so, whatever happens to
//! other chains of its lane, until the committed tips leave it behind.

use quorate_types::mistakes::is_made;
use quorate_types::{
    After, BoardEntry, Chains, ClusterConfig, JournalId, LaneId, LaneUpdate, Lsn, Mistake, ReplicaId,
    Support, View, Why,
};
use quorate_wire::{Header, LaneTip};
use std::collections::BTreeMap;

/// Where a lane stands at some header.
pub(crate) use quorate_types::Mark;

/// Where every lane stands at some header; absent lanes stand at their start.
pub(crate) type Marks = BTreeMap<LaneId, Mark>;

pub(crate) fn advance(marks: &mut Marks, header: &Header) {
    for tip in &header.cut {
        marks.insert(tip.lane, tip.mark());
    }
}

#[derive(Debug)]
struct Entry {
    bytes: u64,
    journal: JournalId,
    lsn: Lsn,
    /// How many have acknowledged it, be it by what descends from it.
    support: Option<Support>,
    /// The view in which it came, if nothing but a header speaks for it.
    named: Option<View>,
}

/// What is held of one lane above the tip that is committed and held.
#[derive(Debug)]
struct Window {
    chains: Chains<Entry>,
    /// Per chain the highest that q replicas have acknowledged; usually one.
    quorum: Vec<Mark>,
    /// The end of the chain that goes on.
    tip: Mark,
}

/// How far a tip takes a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Advance {
    /// It is not held.
    Lacks,
    /// It does not descend from where the lane stands.
    Beside,
    /// So many bytes of batches, which are durable after this, acknowledged by so many.
    Takes(u64, After, Option<Support>),
}

impl Window {
    fn new() -> Self {
        Self { chains: Chains::new(Mark::default()), quorum: Vec::new(), tip: Mark::default() }
    }

    fn on_update(&mut self, update: &LaneUpdate, view: View) {
        for BoardEntry { mark, previous, bytes, journal, lsn, why } in &update.held {
            let named = (*why == Why::Named).then_some(view);
            if let Some(known) = self.chains.get_mut(*mark) {
                known.named = named.and(known.named);
                continue;
            }
            // What does not descend from the committed tip is of no more interest.
            let entry = Entry { bytes: *bytes, journal: *journal, lsn: *lsn, support: None, named };
            self.chains.insert(*mark, *previous, entry);
        }
        for (support, mark) in &update.supported {
            self.on_support(*support, *mark);
        }
        self.tip = update.tip;
    }

    fn on_support(&mut self, support: Support, mark: Mark) {
        let mut at = mark;
        while let Some(entry) = self.chains.get_mut(at)
            && entry.support < Some(support)
        {
            entry.support = Some(support);
            match self.chains.parent(at) {
                Some(parent) => at = parent,
                None => break,
            }
        }
        let known = self.quorum.iter().any(|end| self.chains.descends(*end, mark));
        if support == Support::Quorum && !known && self.chains.get(mark).is_some() {
            let chains = &self.chains;
            self.quorum.retain(|end| !chains.descends(mark, *end));
            self.quorum.push(mark);
        }
    }

    /// Begins behind a held tip: what lies beside it is of no more interest. When all up to there is durable.
    fn settle(&mut self, mark: Mark) -> After {
        let mut after = After::nothing();
        self.chains.decide(mark);
        while self.chains.root().upto < mark.upto
            && let Some((_, entry)) = self.chains.advance()
        {
            after.and(entry.journal, entry.lsn);
        }
        let chains = &self.chains;
        self.quorum.retain(|end| chains.get(*end).is_some());
        after
    }

    /// Begins behind `mark`; what is held above on its chain stays.
    fn rebase(&mut self, mark: Mark) {
        if self.chains.contains(mark) {
            self.settle(mark);
        } else {
            self.chains.restart(mark);
            self.quorum.clear();
        }
    }

    /// How far `mark` takes the lane from `from`.
    fn advance(&self, from: Mark, mark: Mark) -> Advance {
        if !self.chains.contains(mark) {
            return Advance::Lacks;
        }
        if !self.chains.descends(mark, from) {
            return Advance::Beside;
        }
        let (mut bytes, mut after) = (0, After::nothing());
        for (_, entry) in self.chains.down_from(mark).take_while(|(at, _)| at.upto > from.upto) {
            bytes += entry.bytes;
            after.and(entry.journal, entry.lsn);
        }
        Advance::Takes(bytes, after, self.chains.get(mark).and_then(|entry| entry.support))
    }

    /// Whether `mark` lies strictly above `from` and on its chain.
    fn continues(&self, from: Mark, mark: Mark) -> bool {
        mark.upto > from.upto && self.chains.descends(mark, from)
    }

    /// The highest that may be named after `from`: what q replicas have acknowledged, and of an own lane its end.
    fn highest(&self, from: Mark, is_own: bool) -> Option<Mark> {
        let ends = self.quorum.iter().copied().chain(is_own.then_some(self.tip));
        ends.filter(|end| self.continues(from, *end)).max()
    }

    /// The places above `from` up to `to`, which continues it, ascending, at most `count`.
    fn between(&self, from: Mark, to: Mark, count: u64) -> Vec<(Mark, &Entry)> {
        let highest = from.upto.plus(count).min(to.upto);
        // On the main chain the way up need not be looked for from above.
        let on_main = self.chains.is_main(to).then(|| self.chains.main_at(highest)).flatten();
        let way = self.chains.down_from(on_main.unwrap_or(to));
        let mut way: Vec<_> =
            way.skip_while(|(at, _)| at.upto > highest).take_while(|(at, _)| at.upto > from.upto).collect();
        way.reverse();
        way
    }
}

/// What a header may name.
#[derive(Debug, Default)]
pub(crate) struct Cut {
    /// The new tips.
    pub(crate) tips: Vec<LaneTip>,
    /// The bytes up to them.
    pub(crate) bytes: u64,
    /// Whether a lane has more than one header may name of it.
    pub(crate) is_cut_short: bool,
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
            windows: config.lanes().map(|lane| (lane, Window::new())).collect(),
            cut_batches_max: config.tuning().cut_batches_max,
            cut_bytes_max: config.tuning().cut_bytes_max,
        }
    }

    /// Takes what is new of a lane while this replica works in `view`.
    pub fn on_update(&mut self, update: &LaneUpdate, view: View) {
        if let Some(window) = self.windows.get_mut(&update.lane) {
            window.on_update(update, view);
        }
    }

    /// Whether the batch at `tip` is held, on the chain that it names, or lies behind the committed tips.
    pub(crate) fn holds(&self, tip: &LaneTip) -> bool {
        self.windows
            .get(&tip.lane)
            .is_some_and(|window| tip.upto < window.chains.root().upto || window.chains.contains(tip.mark()))
    }

    /// Forgets what lies below a committed tip, once it is held; after what is returned it is durable too.
    pub(crate) fn settle(&mut self, tip: &LaneTip) -> After {
        match self.windows.get_mut(&tip.lane) {
            Some(window) if window.chains.contains(tip.mark()) => window.settle(tip.mark()),
            _ => After::nothing(),
        }
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
                && window.chains.root().upto < mark.upto
            {
                window.rebase(*mark);
            }
        }
    }

    /// When all batches are durable that lie above the committed tips and up to `marks`; nothing while one of them is
    /// not held.
    pub(crate) fn cover(&self, marks: &Marks) -> Option<After> {
        let mut after = After::nothing();
        for (lane, mark) in marks {
            let Some(window) = self.windows.get(lane) else { continue };
            let root = window.chains.root();
            if mark.upto < root.upto || *mark == root {
                continue;
            }
            match window.advance(root, *mark) {
                Advance::Takes(_, durable, _) => after.and_all(&durable),
                Advance::Lacks | Advance::Beside => return None,
            }
        }
        Some(after)
    }

    /// How far a tip takes its lane from where the parent header leaves it. None for a lane that does not exist.
    pub(crate) fn advance(&self, from: &Marks, tip: &LaneTip) -> Option<Advance> {
        let from = from.get(&tip.lane).copied().unwrap_or_default();
        self.windows.get(&tip.lane).map(|window| window.advance(from, tip.mark()))
    }

    /// A tip with q acknowledgements that lies above the one that the accepted headers leave, and on its chain.
    pub(crate) fn awaited<'a>(&'a self, accepted: &'a Marks) -> impl Iterator<Item = (LaneId, Mark)> + 'a {
        self.windows.iter().filter(|(_, window)| !window.quorum.is_empty()).filter_map(|(lane, window)| {
            let from = accepted.get(lane).copied().unwrap_or_default();
            window.highest(from, false).map(|mark| (*lane, mark))
        })
    }

    /// Whether a tip that was awaited still is: nothing stands for it at or beyond its place, nor leaves its chain.
    pub(crate) fn is_awaited(&self, accepted: &Marks, lane: LaneId, mark: Mark) -> bool {
        let from = accepted.get(&lane).copied().unwrap_or_default();
        let is_awaited = |window: &Window| {
            window.continues(from, mark) || (mark.upto > from.upto && is_made(Mistake::AwaitsDeadForks))
        };
        self.windows.get(&lane).is_some_and(is_awaited)
    }

    /// The cut that primary `me` may propose after `parent`: own lanes up to what is held, others up to q
    /// acknowledgements (rule 5).
    pub(crate) fn propose(&self, parent: &Marks, me: ReplicaId) -> Cut {
        let mut cut = Cut::default();
        for (lane, window) in &self.windows {
            let from = parent.get(lane).copied().unwrap_or_default();
            let Some(highest) = window.highest(from, lane.origin == me) else { continue };
            let mut bytes = 0;
            let mut tip = None;
            for (mark, entry) in window.between(from, highest, self.cut_batches_max) {
                if bytes + entry.bytes > self.cut_bytes_max {
                    break;
                }
                bytes += entry.bytes;
                tip = Some(LaneTip::at(*lane, mark));
            }
            cut.bytes += bytes;
            cut.is_cut_short |= tip.is_some_and(|tip| tip.upto < highest.upto);
            cut.tips.extend(tip);
        }
        cut
    }

    /// Something is committed that was proposed in `view`: forgets batches that nothing but headers of lower views speaks
    /// for, unless they are on the way to `accepted`; no later view brings those headers back. Returns them, each before
    /// its parent.
    pub(crate) fn unname(&mut self, view: View, accepted: &Marks) -> Vec<LaneTip> {
        let mut gone = Vec::new();
        for (lane, window) in &mut self.windows {
            let accepted = accepted.get(lane).copied().unwrap_or_default();
            loop {
                let chains = &window.chains;
                let is_obsolete = |leaf: &Mark| {
                    chains.get(*leaf).is_some_and(|entry| entry.named.is_some_and(|named| named < view))
                        && !chains.descends(accepted, *leaf)
                };
                let leaves = window.chains.leaves();
                let Some(leaf) = leaves.into_iter().find(is_obsolete) else { break };
                window.chains.remove_leaf(leaf);
                window.quorum.retain(|end| *end != leaf);
                gone.push(LaneTip::at(*lane, leaf));
            }
        }
        gone
    }

    /// The number of batches known and not yet settled, for audits.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.windows.values().map(|window| window.chains.len()).sum()
    }
}
