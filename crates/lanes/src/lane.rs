//! One lane of one replica: what is held of it, who has acknowledged it, and what of it is eligible.
//!
//! The three are types of their own; here are the verbs that touch more than one of them.

use crate::acknowledged::Acknowledged;
use crate::batch::Batch;
use crate::eligible::Eligible;
use crate::held::{Held, Node};
use crate::strays::{Stray, Strays};
use quorate_types::mistakes::is_made;
use quorate_types::{
    ClusterConfig, JournalId, LaneId, LaneNumber, LaneUpdate, Lsn, Mark, Mistake, Quorums, ReplicaId,
    ReplicaSet, Why,
};
use quorate_wire::LaneTip;
use std::sync::Arc;

/// One lane.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) id: LaneId,
    me: ReplicaId,
    quorums: Quorums,
    journal: JournalId,
    pub(crate) held: Held,
    /// What a restart has found besides, and that connects to nothing held.
    pub(crate) strays: Strays,
    pub(crate) acknowledged: Acknowledged,
    pub(crate) eligible: Eligible,
    /// Batches that were merely named and that f+1 others have acknowledged by now.
    raised: Vec<Mark>,
}

/// A recovered batch with its place in the journal and why it is held.
pub(crate) type Found = (Lsn, Arc<Batch>, Why);

impl Lane {
    /// A lane of which nothing is held above an executed tip.
    pub(crate) fn new(
        id: LaneId,
        me: ReplicaId,
        config: &ClusterConfig,
        journal: JournalId,
        executed: Mark,
    ) -> Self {
        let (quorums, budget) = (config.quorums(), config.tuning().lane_bytes_held_max());
        Self {
            id,
            me,
            quorums,
            journal,
            held: Held::new(budget, executed),
            strays: Strays::default(),
            acknowledged: Acknowledged::new(quorums),
            eligible: Eligible::new(),
            raised: Vec::new(),
        }
    }

    pub(crate) fn executed(&self) -> LaneNumber {
        self.held.executed().upto
    }

    pub(crate) fn find(&self, mark: Mark) -> Option<&Arc<Batch>> {
        self.held.get(mark).map(|node| &node.batch)
    }

    /// The batch at `number` of the main chain.
    pub(crate) fn main_batch(&self, number: LaneNumber) -> Option<&Arc<Batch>> {
        self.find(self.held.main_at(number)?)
    }

    /// Holds a batch, whose parent is held; it lies at `lsn` of the journal.
    pub(crate) fn insert(&mut self, batch: Arc<Batch>, lsn: Lsn, why: Why) {
        let parent = Mark { upto: batch.number().previous(), chain: batch.previous() };
        let mark = self.held.insert(batch, lsn, why);
        if why != Why::Named {
            self.go_on_with(mark, parent);
        }
        self.eligible.on_held(mark);
        let raised = self.acknowledged.place(&mut self.held, &mut self.eligible, self.me, mark);
        self.raised.extend(raised);
        if why != Why::Named {
            self.acknowledged.may_say(parent, mark);
        }
    }

    /// What this replica acknowledges behind the main chain goes on with that, if nothing does that it acknowledges.
    fn go_on_with(&mut self, mark: Mark, parent: Mark) {
        if self.held.is_main(mark) || !self.held.is_main(parent) {
            return;
        }
        // What goes on there may be anybody's.
        let beside = self.held.main_at(mark.upto).and_then(|beside| self.held.get(beside));
        if beside.is_some_and(|beside| beside.why == Why::Named) {
            self.held.prefer(mark);
        }
    }

    /// A batch that was merely named is held for a better reason, which lies at `lsn` of the journal with it.
    pub(crate) fn raise(&mut self, mark: Mark, why: Why, lsn: Lsn) {
        self.held.raise(mark, why, lsn);
        self.eligible.on_held(mark);
        let parent = self.held.parent(mark).unwrap_or_default();
        self.go_on_with(mark, parent);
        self.acknowledged.may_say(parent, mark);
    }

    /// Lets go of a batch that is held for nothing but a header that is void, and that nothing lies behind; otherwise the
    /// ordering role, which has let go of it, is told of it again.
    pub(crate) fn unname(&mut self, mark: Mark) -> bool {
        let Some(node) = self.held.get(mark).filter(|_| mark.upto > self.executed()) else { return false };
        // What f+1 others have acknowledged is about to be held for that.
        if node.why == Why::Named
            && !self.is_vouched_for(node.holders)
            && let Some(holders) = self.held.remove_named(mark)
        {
            self.eligible.on_let_go(mark);
            holders.iter().for_each(|from| self.acknowledged.keep_unplaced(from, mark));
            return true;
        }
        self.eligible.tell_of(&self.held, mark);
        false
    }

    pub(crate) fn has_raised(&self) -> bool {
        !self.raised.is_empty()
    }

    pub(crate) fn take_raised(&mut self) -> Vec<Mark> {
        std::mem::take(&mut self.raised)
    }

    pub(crate) fn on_acknowledgement(&mut self, from: ReplicaId, mark: Mark) {
        let raised = self.acknowledged.note(&mut self.held, &mut self.eligible, self.me, from, mark);
        self.raised.extend(raised);
    }

    /// Whoever has acknowledged a digest, held or not.
    pub(crate) fn holders(&self, mark: Mark) -> ReplicaSet {
        let placed = self.held.get(mark).map(|node| node.holders);
        placed.unwrap_or_else(|| self.acknowledged.holders_of_unplaced(mark))
    }

    /// Whether f+1 replicas other than this one have acknowledged a digest.
    pub(crate) fn is_vouched_for(&self, holders: ReplicaSet) -> bool {
        holders.len() - usize::from(holders.contains(self.me)) >= self.quorums.weak
    }

    /// The bytes of all that is in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.held.bytes() + self.strays.bytes()
    }

    /// Whether q replicas have acknowledged a held batch.
    pub(crate) fn is_quorums(&self, mark: Mark) -> bool {
        let quorum = self.quorums.quorum;
        mark.upto <= self.executed() || self.held.get(mark).is_some_and(|node| node.holders.len() >= quorum)
    }

    /// The highest batch of the main chain that q replicas have acknowledged, or that is executed.
    pub(crate) fn main_quorum(&self) -> LaneNumber {
        self.eligible.main_quorum(&self.held)
    }

    /// Whether a peer has not acknowledged something that f+1 replicas have.
    pub(crate) fn lags(&self, peer: ReplicaId) -> bool {
        let says = |mark: Mark| self.held.get(mark).is_none_or(|node| node.holders.contains(peer));
        !self.eligible.supported().all(says)
    }

    /// Batches up to `tip` are executed; keeps at most `kept_max` bytes of executed ones in memory. Returns what was held
    /// above the executed tip and will never be executed, each batch after its parent.
    pub(crate) fn on_executed(&mut self, tip: Mark, kept_max: usize) -> Vec<(Mark, Node)> {
        if tip.upto <= self.executed() {
            return Vec::new();
        }
        let dead = self.held.on_executed(tip);
        self.strays.on_executed(tip);
        self.eligible.on_executed(&self.held);
        self.acknowledged.on_executed(&self.held);
        self.let_go(kept_max);
        dead
    }

    pub(crate) fn pin(&mut self, upto: Option<LaneNumber>, kept_max: usize) {
        self.held.pin(upto);
        self.let_go(kept_max);
    }

    fn let_go(&mut self, kept_max: usize) {
        // What the ordering role has not heard of yet, it hears of first.
        if !self.eligible.is_unreported() {
            self.held.let_go(kept_max);
        }
    }

    /// Of the batches found in the journal, holds those that descend from the executed tip, and keeps those that may do so
    /// when what was lost before them is here again. The one that was appended last ends the main chain. What the journal
    /// names as `lost` is missing, if it lies nowhere else.
    pub(crate) fn recover(&mut self, mut found: Vec<Found>, lost: Vec<(Mark, Why)>) {
        // A batch may have been written again for a better reason, or after damage behind its children.
        found.sort_by_key(|(lsn, batch, _)| (batch.number(), *lsn));
        let mut last = None;
        for (lsn, batch, why) in found {
            let mark = batch.mark();
            let parent = Mark { upto: mark.upto.previous(), chain: batch.previous() };
            if mark.upto <= self.executed() {
                continue;
            }
            if !self.held.contains(parent) {
                self.strays.keep((lsn, batch, why));
                continue;
            }
            if why != Why::Named {
                self.vouch_before(parent, lsn);
            }
            if let Some(node) = self.held.get(mark) {
                if node.why < why {
                    self.raise(mark, why, lsn);
                    // If the disk loses a record of it, it is this one that must be written again.
                    self.held.moved(mark, lsn);
                }
                continue;
            }
            if why != Why::Named {
                last = last.max(Some((lsn, mark)));
            }
            self.insert(batch, lsn, why);
        }
        if let Some((_, mark)) = last {
            self.held.prefer(mark);
        }
        for (mark, why) in lost.into_iter().filter(|(_, why)| *why != Why::Named) {
            if self.held.contains(mark) {
                // It was written before for its name alone, and only that is intact.
                self.vouch_before(mark, Lsn(0));
            } else {
                self.strays.miss(mark, why);
            }
        }
        self.strays.on_executed(self.held.executed());
    }

    /// Behind a place lies, at `lsn`, what was found with a better reason than that a header named it. When that was written
    /// all before it was held for such a reason, too, or was executed: it is again, or this replica would take back what
    /// it has acknowledged. Damage, or a state that has not executed it yet, has left but the name.
    fn vouch_before(&mut self, place: Mark, lsn: Lsn) {
        for named in self.held.named_up_to(place) {
            self.raise(named, Why::Acknowledged, lsn);
        }
    }

    /// A place is held, or executed, that was not before: holds the strays behind it, and returns them, each after its
    /// parent.
    pub(crate) fn connect(&mut self, mark: Mark) -> Vec<Mark> {
        let (mut connected, mut next) = (Vec::new(), 0);
        let mut parent = Some(mark).filter(|_| !self.strays.is_empty());
        while let Some(at) = parent {
            for Stray { batch, lsn, why } in self.strays.take_behind(at) {
                connected.push(batch.mark());
                if why != Why::Named {
                    self.vouch_before(at, lsn);
                }
                self.insert(batch, lsn, why);
            }
            parent = connected.get(next).copied();
            next += 1;
        }
        connected
    }

    /// A batch that is in memory, held or stray, with where it lies in the journal and why.
    pub(crate) fn find_any(&self, mark: Mark) -> Option<(Lsn, &Arc<Batch>, Why)> {
        let held = self.held.get(mark).map(|node| (node.lsn, &node.batch, node.why));
        held.or_else(|| self.strays.get(mark).map(|stray| (stray.lsn, &stray.batch, stray.why)))
    }

    /// The batches that are in memory from `mark` down, up to where one is missing.
    pub(crate) fn down_from(&self, mark: Mark) -> impl Iterator<Item = (Mark, &Arc<Batch>)> {
        let held = self.held.down_from(mark).map(|(at, node)| (at, &node.batch));
        held.chain(self.strays.down_from(mark).map(|(at, stray)| (at, &stray.batch)))
    }

    /// Where all that is in memory lies in the journal.
    pub(crate) fn positions(&self) -> impl Iterator<Item = (Lsn, LaneTip)> {
        let place = |mark: Mark, lsn: Lsn| (lsn, LaneTip::at(self.id, mark));
        let held = self.held.places().map(move |(mark, lsn)| place(mark, lsn));
        held.chain(self.strays.iter().map(move |(mark, stray)| place(mark, stray.lsn)))
    }

    /// A batch was written to the journal again and lies at `lsn` from now on, which is durable before its old place goes.
    pub(crate) fn moved(&mut self, mark: Mark, lsn: Lsn) {
        self.held.moved(mark, lsn);
        self.strays.moved(mark, lsn);
    }

    /// All is told again: to the ordering role, and to the others where the lane stands.
    pub(crate) fn tell_again(&mut self) {
        self.eligible.tell_again(&self.held);
        for tip in self.held.live_tips().into_iter().filter(|tip| tip.upto > LaneNumber(0)) {
            let parent = self.held.parent(tip).unwrap_or_default();
            self.acknowledged.may_say(parent, tip);
        }
    }

    /// What may be said anew, and what must be durable for that.
    pub(crate) fn say(&mut self) -> (Vec<Mark>, Lsn) {
        self.acknowledged.say(&self.held)
    }

    /// All live tips, and per chain the highest digests that f+1 and q replicas have acknowledged; with what must be
    /// durable before they are named.
    pub(crate) fn frontier(&self) -> (Vec<Mark>, Lsn) {
        let mut tips = self.held.live_tips();
        for mark in self.eligible.supported() {
            if self.held.sayable(mark) == mark
                && !tips.contains(&mark)
                && !is_made(Mistake::CoalescesAcknowledgements)
            {
                tips.push(mark);
            }
        }
        let after = tips.iter().map(|tip| self.held.durable(*tip)).max().unwrap_or_default();
        (tips, after)
    }

    /// Whether this replica has acknowledged a digest, be it by what descends from it, once the journal is durable up to
    /// what is returned.
    pub(crate) fn says(&self, mark: Mark) -> Option<Lsn> {
        let is_executed = mark.upto <= self.executed() && self.held.is_main(mark);
        let may_say = |node: &Node| mark.upto > self.executed() && node.why != Why::Named;
        let says = is_executed || self.held.get(mark).is_some_and(may_say);
        says.then(|| self.held.durable(mark))
    }

    /// Up to where whoever holds these tips has the main chain. Of those that are not known nothing above the executed tip
    /// is believed to be.
    pub(crate) fn common(&self, tips: &[Mark]) -> LaneNumber {
        let common = tips.iter().filter_map(|tip| self.held.meets_main(*tip)).max();
        let highest = tips.iter().map(|tip| tip.upto).max().unwrap_or_default();
        common.map_or(highest.min(self.executed()), |common| common.upto)
    }

    /// The highest held batch that f+1 others have acknowledged, on whatever chain.
    pub(crate) fn longest_vouched_for(&self) -> Option<Mark> {
        let highest = |leaf: Mark| {
            let mut path = self.held.down_from(leaf).take_while(|(at, _)| at.upto > self.executed());
            path.find(|(_, node)| self.is_vouched_for(node.holders)).map(|(at, _)| at)
        };
        self.held.leaves().into_iter().filter_map(highest).max()
    }

    /// What q replicas have not acknowledged, for all that is known here: the lowest such batch of each chain that this
    /// replica acknowledges.
    pub(crate) fn open(&self) -> Vec<Mark> {
        let lowest = |tip: Mark| {
            if self.held.is_main(tip) {
                let lowest = self.main_quorum().next();
                return self.held.main_at(lowest).filter(|lowest| lowest.upto <= tip.upto);
            }
            let path = self.held.down_from(tip).map(|(at, _)| at);
            path.take_while(|at| !self.is_quorums(*at)).last()
        };
        self.held.live_tips().into_iter().filter_map(lowest).collect()
    }

    /// Whether anything is open of this lane: a batch without q acknowledgements, or one that others have and that is not
    /// here.
    pub(crate) fn is_open(&self) -> bool {
        self.main_quorum() < self.held.end().upto
            || self.acknowledged.is_open()
            || self.held.forked() > 0 && self.held.live_tips().into_iter().any(|tip| !self.is_quorums(tip))
    }

    /// What the ordering role has not heard of, if there is any.
    pub(crate) fn report(&mut self) -> Option<LaneUpdate> {
        self.eligible.report(self.id, &self.held, self.journal)
    }
}
