//! What is held of one lane: batches by digest, on however many chains, above the last one that was let go of.
//!
//! Nothing here depends on which chain is the main one, but for an own lane, which goes on there. What was executed decides
//! which chains live; nothing else ever takes a batch out.

use crate::batch::Batch;
use quorate_types::{Chains, LaneNumber, Lsn, Mark, ReplicaSet, Why};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// While a peer copies an older state, so many times the usual bytes of executed batches are kept for it.
const PINNED_TIMES: usize = 4;

/// A lane holds no more batches than so many for its budget, so that they can be looked through: each counts at least this
/// part of it.
const BUDGET_PARTS: usize = 16 * 1024;

/// A batch that is held.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) batch: Arc<Batch>,
    pub(crate) lsn: Lsn,
    /// When the journal is durable up to here, this batch and all before it are, with why they are held.
    pub(crate) durable: Lsn,
    pub(crate) why: Why,
    /// Who has said to hold it; [`crate::acknowledged`] alone writes it.
    pub(crate) holders: ReplicaSet,
}

/// A batch that has left memory and lies in the journal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shelved {
    pub(crate) mark: Mark,
    pub(crate) lsn: Lsn,
    pub(crate) why: Why,
    pub(crate) bytes: usize,
}

/// The batches of one lane.
#[derive(Debug)]
pub(crate) struct Held {
    chains: Chains<Node>,
    executed: Mark,
    /// What each batch counts at least while it is not executed.
    cost_min: usize,
    /// Whether as many chains came from the origin as are taken; none goes before the lane is executed further.
    is_full: bool,
    /// When the journal is durable up to here, all is that was let go of.
    durable: Lsn,
    /// Executed batches just below the root that no certified state of this replica covers, in order.
    shelf: VecDeque<Shelved>,
    /// Up to where one does.
    covered: LaneNumber,
    /// While a peer copies an older state: what is executed above this is kept for it, within a larger bound.
    pinned: Option<LaneNumber>,
    /// The bytes of executed batches, of others from the origin's own link, and of all others.
    kept_bytes: usize,
    own_link_bytes: usize,
    other_bytes: usize,
    /// The bytes of what is not executed, without what small batches count besides.
    unexecuted_bytes: usize,
}

impl Held {
    /// Nothing is held above an executed tip.
    pub(crate) fn new(budget: usize, executed: Mark) -> Self {
        Self {
            chains: Chains::new(executed),
            executed,
            cost_min: budget / BUDGET_PARTS,
            is_full: false,
            durable: Lsn(0),
            shelf: VecDeque::new(),
            covered: executed.upto,
            pinned: None,
            kept_bytes: 0,
            own_link_bytes: 0,
            other_bytes: 0,
            unexecuted_bytes: 0,
        }
    }

    /// The end of the main chain.
    pub(crate) fn tip(&self) -> Mark {
        self.chains.tip()
    }

    /// As far as this replica acknowledges the main chain: an own lane goes on behind that.
    pub(crate) fn end(&self) -> Mark {
        self.sayable(self.tip())
    }

    pub(crate) fn executed(&self) -> Mark {
        self.executed
    }

    pub(crate) fn get(&self, mark: Mark) -> Option<&Node> {
        self.chains.get(mark)
    }

    pub(crate) fn get_mut(&mut self, mark: Mark) -> Option<&mut Node> {
        self.chains.get_mut(mark)
    }

    /// Whether a batch is held, or was the last one to be let go of.
    pub(crate) fn contains(&self, mark: Mark) -> bool {
        self.chains.contains(mark)
    }

    pub(crate) fn is_main(&self, mark: Mark) -> bool {
        self.chains.is_main(mark)
    }

    /// Where the way down from a held batch meets the main chain.
    pub(crate) fn meets_main(&self, mark: Mark) -> Option<Mark> {
        self.chains.meets_main(mark)
    }

    pub(crate) fn main_at(&self, number: LaneNumber) -> Option<Mark> {
        self.chains.main_at(number)
    }

    pub(crate) fn parent(&self, mark: Mark) -> Option<Mark> {
        self.chains.parent(mark)
    }

    pub(crate) fn descends(&self, mark: Mark, from: Mark) -> bool {
        self.chains.descends(mark, from)
    }

    pub(crate) fn down_from(&self, mark: Mark) -> impl Iterator<Item = (Mark, &Node)> {
        self.chains.down_from(mark)
    }

    pub(crate) fn children(&self, mark: Mark) -> impl Iterator<Item = Mark> {
        self.chains.children(mark)
    }

    /// A held batch and all that are held behind it, in the order of their numbers.
    pub(crate) fn behind(&self, mark: Mark) -> Vec<Mark> {
        let (mut behind, mut known) = (vec![mark], BTreeSet::from([mark]));
        for (at, node) in self.chains.iter().filter(|(at, _)| at.upto > mark.upto) {
            let parent = Mark { upto: at.upto.previous(), chain: node.batch.previous() };
            if known.contains(&parent) {
                known.insert(at);
                behind.push(at);
            }
        }
        behind.sort_by_key(|at| at.upto);
        behind
    }

    pub(crate) fn leaves(&self) -> Vec<Mark> {
        self.chains.leaves()
    }

    /// The number of batches beside the main chain.
    pub(crate) fn forked(&self) -> usize {
        self.chains.forked()
    }

    /// Up to where the journal must be durable before this replica says to hold a batch.
    pub(crate) fn durable(&self, mark: Mark) -> Lsn {
        self.get(mark).map_or(self.durable, |node| node.durable)
    }

    /// What came on the origin's own link and is not executed: this counts against the budget of the lane.
    pub(crate) fn own_link_bytes(&self) -> usize {
        self.own_link_bytes
    }

    /// What is held for another reason and not executed.
    pub(crate) fn other_bytes(&self) -> usize {
        self.other_bytes
    }

    pub(crate) fn unexecuted_bytes(&self) -> usize {
        self.unexecuted_bytes
    }

    /// The bytes of what is not executed and more than named, counted anew.
    pub(crate) fn own_bytes(&self) -> usize {
        let above = self
            .chains
            .iter()
            .filter(|(mark, node)| mark.upto > self.executed.upto && node.why != Why::Named);
        above.map(|(_, node)| node.batch.bytes()).sum()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.unexecuted_bytes() + self.kept_bytes
    }

    fn open_bytes(&mut self, why: Why) -> &mut usize {
        if why == Why::OwnLink { &mut self.own_link_bytes } else { &mut self.other_bytes }
    }

    /// What a batch of so many bytes counts against the budget of its lane while it is not executed.
    pub(crate) fn cost(&self, bytes: usize) -> usize {
        bytes.max(self.cost_min)
    }

    /// Whether as many chains as `most` came from the origin.
    pub(crate) fn is_full(&mut self, most: usize) -> bool {
        self.is_full = self.is_full || self.own_link_forks() >= most;
        self.is_full
    }

    /// Holds a batch, whose parent is held; it lies at `lsn` of the journal.
    pub(crate) fn insert(&mut self, batch: Arc<Batch>, lsn: Lsn, why: Why) -> Mark {
        let (mark, previous) = (batch.mark(), batch.previous());
        let parent = Mark { upto: mark.upto.previous(), chain: previous };
        assert!(mark.upto > self.executed.upto, "what is held anew may still be executed");
        let before = self.get(parent);
        let says = before
            .is_none_or(|before| before.why != Why::Named || before.batch.number() <= self.executed.upto);
        assert!(why == Why::Named || says, "who acknowledges a batch acknowledges those before it");
        let durable = before.map_or(self.durable, |before| before.durable).max(lsn);
        let cost = self.cost(batch.bytes());
        *self.open_bytes(why) += cost;
        self.unexecuted_bytes += batch.bytes();
        let node = Node { batch, lsn, durable, why, holders: ReplicaSet::EMPTY };
        assert!(self.chains.insert(mark, previous, node), "a batch is held once, and after its parent");
        mark
    }

    /// A batch is held for a better reason, which lies at `lsn` of the journal with it.
    pub(crate) fn raise(&mut self, mark: Mark, why: Why, lsn: Lsn) {
        let node = self.get_mut(mark).expect("invariant: the caller has found it");
        assert!(why > node.why, "a reason rises");
        let (before, bytes) = (std::mem::replace(&mut node.why, why), node.batch.bytes());
        node.durable = node.durable.max(lsn);
        let bytes = self.cost(bytes);
        *self.open_bytes(before) -= bytes;
        *self.open_bytes(why) += bytes;
    }

    /// A batch was written to the journal again and lies at `lsn` from now on, which is durable before its old place goes.
    pub(crate) fn moved(&mut self, mark: Mark, lsn: Lsn) {
        if let Some(node) = self.get_mut(mark) {
            node.lsn = lsn;
        } else if let Some(shelved) = self.shelved_at(mark) {
            self.shelf[shelved].lsn = lsn;
        }
    }

    /// Lets go of a batch that is merely named, if nothing lies behind it.
    pub(crate) fn remove_named(&mut self, mark: Mark) -> Option<ReplicaSet> {
        let node = self.chains.remove_leaf(mark)?;
        assert!(node.why == Why::Named && mark.upto > self.executed.upto, "what is acknowledged stays");
        self.other_bytes -= self.cost(node.batch.bytes());
        self.unexecuted_bytes -= node.batch.bytes();
        Some(node.holders)
    }

    /// The batches that are merely named on the way from `mark` down, parents first.
    pub(crate) fn named_up_to(&self, mark: Mark) -> Vec<Mark> {
        let executed = self.executed.upto;
        let named =
            self.down_from(mark).take_while(|(at, node)| at.upto > executed && node.why == Why::Named);
        let mut named: Vec<Mark> = named.map(|(at, _)| at).collect();
        named.reverse();
        named
    }

    /// The highest batch on the way from `mark` down that may be acknowledged; the executed one if none is above that.
    pub(crate) fn sayable(&self, mark: Mark) -> Mark {
        let executed = self.executed;
        let mut above = self.down_from(mark).take_while(|(at, _)| at.upto > executed.upto);
        above.find(|(_, node)| node.why != Why::Named).map_or(executed, |(at, _)| at)
    }

    /// The ends of all chains that may be acknowledged: the executed tip if there is none above.
    pub(crate) fn live_tips(&self) -> Vec<Mark> {
        let mut tips: Vec<Mark> = Vec::new();
        for leaf in self.leaves() {
            let tip = self.sayable(leaf);
            if !tips.iter().any(|other| self.descends(*other, tip)) {
                tips.retain(|other| !self.descends(tip, *other));
                tips.push(tip);
            }
        }
        if tips.is_empty() {
            tips.push(self.executed);
        }
        tips
    }

    /// The number of chains that came on the origin's own link.
    pub(crate) fn own_link_forks(&self) -> usize {
        let mut ends: Vec<Mark> = Vec::new();
        for leaf in self.leaves() {
            let above = self.down_from(leaf).take_while(|(at, _)| at.upto > self.executed.upto);
            let end = above.into_iter().find(|(_, node)| node.why == Why::OwnLink).map(|(at, _)| at);
            if let Some(end) = end
                && !ends.iter().any(|other| self.descends(*other, end))
            {
                ends.retain(|other| !self.descends(end, *other));
                ends.push(end);
            }
        }
        ends.len()
    }

    /// All batches above the executed tip, on whatever chain, each after its parent.
    pub(crate) fn unexecuted(&self) -> Vec<Mark> {
        let above = self.chains.iter().map(|(mark, _)| mark).filter(|mark| mark.upto > self.executed.upto);
        let mut above: Vec<Mark> = above.collect();
        above.sort_by_key(|mark| mark.upto);
        above
    }

    /// Where the held batches lie in the journal.
    pub(crate) fn places(&self) -> impl Iterator<Item = (Mark, Lsn)> {
        self.chains.iter().map(|(mark, node)| (mark, node.lsn))
    }

    /// The chain through a held batch is the one that goes on.
    pub(crate) fn prefer(&mut self, mark: Mark) {
        self.chains.prefer(mark);
        self.go_on_sayable();
    }

    /// The main chain goes on along what this replica acknowledges: what is merely named may be anybody's, however long.
    fn go_on_sayable(&mut self) {
        if self.chains.forked() == 0 {
            return;
        }
        let end = self.end();
        let behind = self.live_tips().into_iter().filter(|tip| *tip != end && self.descends(*tip, end));
        if let Some(tip) = behind.max() {
            self.chains.prefer(tip);
        }
    }

    /// Batches up to `tip` are executed. Returns those that will never be, each after its parent.
    pub(crate) fn on_executed(&mut self, tip: Mark) -> Vec<(Mark, Node)> {
        assert!(tip.upto > self.executed.upto, "execution does not go back");
        let before = std::mem::replace(&mut self.executed, tip);
        self.is_full = false;
        if !self.chains.contains(tip) {
            // A state that came from others covers what is not held.
            let mut dead = self.chains.restart(tip);
            dead.retain(|(mark, _)| mark.upto > before.upto);
            (self.kept_bytes, self.own_link_bytes, self.other_bytes, self.unexecuted_bytes) = (0, 0, 0, 0);
            self.shelf.clear();
            // That state is durable.
            self.durable = Lsn(0);
            self.covered = tip.upto;
            return dead;
        }
        let dead = self.chains.decide(tip);
        self.go_on_sayable();
        for (_, node) in &dead {
            let cost = self.cost(node.batch.bytes());
            *self.open_bytes(node.why) -= cost;
            self.unexecuted_bytes -= node.batch.bytes();
        }
        for number in (before.upto.0 + 1..=tip.upto.0).map(LaneNumber) {
            let mark = self.main_at(number).expect("invariant: a chain has no gaps");
            let node = self.get(mark).expect("invariant: it is above the root");
            let (why, bytes, cost) = (node.why, node.batch.bytes(), self.cost(node.batch.bytes()));
            *self.open_bytes(why) -= cost;
            self.unexecuted_bytes -= bytes;
            self.kept_bytes += bytes;
        }
        dead
    }

    /// Keeps what is executed above `upto` beyond the usual bound, or no longer does.
    pub(crate) fn pin(&mut self, upto: Option<LaneNumber>) {
        self.pinned = upto;
    }

    /// Lets the oldest executed batches over the bound go. Those that no certified state covers stay on the shelf.
    pub(crate) fn let_go(&mut self, kept_max: usize) {
        while self.chains.root().upto < self.executed.upto {
            let pinned = self.pinned.is_some_and(|pinned| self.chains.root().upto >= pinned);
            let bound = if pinned { PINNED_TIMES * kept_max } else { kept_max };
            if self.kept_bytes <= bound {
                return;
            }
            let Some((mark, node)) = self.chains.advance() else { return };
            let bytes = node.batch.bytes();
            self.kept_bytes -= bytes;
            self.durable = self.durable.max(node.durable);
            if mark.upto > self.covered {
                self.shelf.push_back(Shelved { mark, lsn: node.lsn, why: node.why, bytes });
            }
        }
    }

    /// A certified state of this replica covers the lane up to a batch: what lies below need not be served.
    pub(crate) fn cover(&mut self, upto: LaneNumber) {
        self.covered = self.covered.max(upto);
        while self.shelf.pop_front_if(|shelved| shelved.mark.upto <= self.covered).is_some() {}
    }

    /// What lies in the journal of the chain that ends with `mark`, from there down.
    pub(crate) fn shelved_from(&self, mark: Mark) -> impl Iterator<Item = &Shelved> {
        let end = self.shelved_at(mark).map_or(0, |found| found + 1);
        self.shelf.range(..end).rev()
    }

    /// What lies in the journal alone, of an executed batch.
    pub(crate) fn shelved(&self, mark: Mark) -> Option<Shelved> {
        self.shelved_at(mark).map(|found| self.shelf[found])
    }

    fn shelved_at(&self, mark: Mark) -> Option<usize> {
        let found = self.shelf.binary_search_by_key(&mark.upto, |shelved| shelved.mark.upto).ok();
        found.filter(|found| self.shelf[*found].mark == mark)
    }
}
