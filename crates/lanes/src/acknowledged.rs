//! Who has said to hold what of one lane, and what this replica has not said yet.
//!
//! An acknowledgement is a fact about a digest and the whole chain before it. It is never taken back: one that is newer adds
//! to what is known. Facts about batches that are held lie in their nodes; those that cannot be placed are kept beside, until
//! the batch comes or the lane is executed at or beyond them.

use crate::eligible::Eligible;
use crate::held::Held;
use crate::receive::FORKS_MAX;
use quorate_types::mistakes::is_made;
use quorate_types::{LaneNumber, Lsn, Mark, Mistake, Quorums, ReplicaId, ReplicaSet, Support, Why};
use std::collections::{BTreeMap, BTreeSet};

/// The facts of one peer about one lane that cannot be placed; the lowest give way. An honest one has F chains from the
/// origin's own link and at most (n−f)·F that others have acknowledged, and says three digests of each in a frontier; what
/// it said before can be asked for.
fn unplaced_max(quorums: Quorums) -> usize {
    3 * FORKS_MAX * (1 + quorums.replicas - quorums.faults)
}

/// What a peer's frontier leaves out of what it has said counts for so many looks of the timer more: it may be what it was
/// asked for, which lies before one of its tips.
const LOOKS_WANING: u32 = 5;

/// What others have and is not here is fetched when the timer finds so for so many times, in a lane that stands still and in
/// one that moves.
const LOOKS_STANDING: u32 = 2;
const LOOKS_MOVING: u32 = 4;

/// The facts of one peer that cannot be placed.
#[derive(Clone, Debug, Default)]
struct Unplaced {
    said: BTreeSet<Mark>,
    /// What its last frontiers have left out, and for how many looks it still counts.
    waning: BTreeMap<Mark, u32>,
}

impl Unplaced {
    fn contains(&self, mark: Mark) -> bool {
        self.said.contains(&mark) || self.waning.contains_key(&mark)
    }

    fn iter(&self) -> impl Iterator<Item = Mark> {
        self.said.iter().chain(self.waning.keys()).copied()
    }

    /// Of more than `most` the lowest give way.
    fn insert(&mut self, mark: Mark, most: usize) {
        self.waning.remove(&mark);
        self.said.insert(mark);
        if self.said.len() > most {
            self.said.pop_first();
        }
    }

    fn remove(&mut self, mark: Mark) -> bool {
        self.said.remove(&mark) | self.waning.remove(&mark).is_some()
    }

    fn is_empty(&self) -> bool {
        self.said.is_empty() && self.waning.is_empty()
    }

    fn on_frontier(&mut self, tips: &[Mark], most: usize) {
        let left_out = self.said.extract_if(.., |mark| !tips.contains(mark));
        self.waning.extend(left_out.map(|mark| (mark, LOOKS_WANING)));
        while self.waning.len() > most {
            self.waning.pop_first();
        }
    }

    fn on_look(&mut self) {
        self.waning.retain(|_, looks| {
            *looks -= 1;
            *looks > 0
        });
    }

    fn on_executed(&mut self, executed: LaneNumber) {
        while self.said.first().is_some_and(|lowest| lowest.upto <= executed) {
            self.said.pop_first();
        }
        while self.waning.first_key_value().is_some_and(|(lowest, _)| lowest.upto <= executed) {
            self.waning.pop_first();
        }
    }
}

/// The acknowledgements of all replicas for one lane, this one's own included.
#[derive(Debug)]
pub(crate) struct Acknowledged {
    quorums: Quorums,
    /// By replica.
    unplaced: Vec<Unplaced>,
    /// The ends of what this replica may say and has not said.
    unsaid: Vec<Mark>,
    /// What f+1 others had acknowledged without its being here when the timer looked last, and how often it has found
    /// that.
    awaited: BTreeMap<Mark, u32>,
    /// What was fetched last for that.
    target: Option<Target>,
}

/// What is fetched because f+1 others have acknowledged it. It is not let go of because they have moved on meanwhile, along
/// its chain or elsewhere: they are asked which.
#[derive(Debug)]
struct Target {
    mark: Mark,
    /// Who has said to hold it.
    holders: ReplicaSet,
    /// Whose frontiers name it no more, for as many looks as they still count.
    doubted: BTreeMap<ReplicaId, u32>,
}

impl Target {
    fn insert(&mut self, from: ReplicaId) {
        self.holders.insert(from);
        self.doubted.remove(&from);
    }

    fn remove(&mut self, from: ReplicaId) {
        self.holders.remove(from);
        self.doubted.remove(&from);
    }

    fn on_frontier(&mut self, from: ReplicaId, tips: &[Mark]) {
        if tips.contains(&self.mark) {
            self.insert(from);
        } else if self.holders.contains(from) {
            self.doubted.entry(from).or_insert(LOOKS_WANING);
        }
    }

    fn on_look(&mut self) {
        for (from, looks) in &mut self.doubted {
            *looks -= 1;
            if *looks == 0 {
                self.holders.remove(*from);
            }
        }
        self.doubted.retain(|_, looks| *looks > 0);
    }
}

impl Acknowledged {
    pub(crate) fn new(quorums: Quorums) -> Self {
        let unplaced = vec![Unplaced::default(); quorums.replicas];
        Self { quorums, unplaced, unsaid: Vec::new(), awaited: BTreeMap::new(), target: None }
    }

    /// A replica says to hold the chain up to `mark`. Returns the highest batch that is merely named and now has f+1
    /// acknowledgements of others than `me`.
    pub(crate) fn note(
        &mut self,
        held: &mut Held,
        eligible: &mut Eligible,
        me: ReplicaId,
        from: ReplicaId,
        mark: Mark,
    ) -> Option<Mark> {
        if mark.upto <= held.executed().upto {
            return None;
        }
        if is_made(Mistake::ReplacesAcknowledgements) {
            self.unplaced[from.index()] = Unplaced::default();
            self.target = None;
            forget_beside(held, from, mark);
        }
        if held.contains(mark) {
            return spread(self.quorums, held, eligible, me, from, mark);
        }
        self.keep_unplaced(from, mark);
        None
    }

    /// A replica says to hold what is not here.
    pub(crate) fn keep_unplaced(&mut self, from: ReplicaId, mark: Mark) {
        if let Some(target) = self.target.as_mut().filter(|target| target.mark == mark) {
            target.insert(from);
        }
        self.unplaced[from.index()].insert(mark, unplaced_max(self.quorums));
    }

    /// A replica has shown all its live tips: what else it has said of what is not here lies before one of them, and can be
    /// asked for, or is dead there.
    pub(crate) fn on_frontier(&mut self, from: ReplicaId, tips: &[Mark]) {
        if let Some(target) = &mut self.target {
            target.on_frontier(from, tips);
        }
        let unplaced = &mut self.unplaced[from.index()];
        if !unplaced.said.is_empty() {
            unplaced.on_frontier(tips, unplaced_max(self.quorums));
        }
    }

    /// What peers have said to hold and is not here.
    pub(crate) fn unplaced(&self) -> impl Iterator<Item = Mark> {
        self.unplaced.iter().flat_map(Unplaced::iter)
    }

    /// This is fetched, as f+1 others have acknowledged it.
    pub(crate) fn walk_to(&mut self, mark: Mark) {
        if self.target() == Some(mark) {
            return;
        }
        let holders = self.holders_of_unplaced(mark);
        let looks = |(from, unplaced): (ReplicaId, &Unplaced)| Some((from, *unplaced.waning.get(&mark)?));
        let doubted = (0u8..).map(ReplicaId).zip(&self.unplaced).filter_map(looks).collect();
        self.target = Some(Target { mark, holders, doubted });
    }

    /// What is fetched so.
    pub(crate) fn target(&self) -> Option<Mark> {
        self.target.as_ref().map(|target| target.mark)
    }

    /// Whether this has been acknowledged by a replica that names it no more, and may have moved on.
    pub(crate) fn is_doubted(&self, from: ReplicaId, mark: Mark) -> bool {
        self.target.as_ref().is_some_and(|target| target.mark == mark && target.doubted.contains_key(&from))
    }

    /// A replica that has said to hold this has nothing of it any more: it is executed there, or dead.
    pub(crate) fn disown(&mut self, from: ReplicaId, mark: Mark) {
        if let Some(target) = self.target.as_mut().filter(|target| target.mark == mark) {
            target.remove(from);
        }
        self.unplaced[from.index()].remove(mark);
    }

    /// A batch is held now: facts about it are placed.
    pub(crate) fn place(
        &mut self,
        held: &mut Held,
        eligible: &mut Eligible,
        me: ReplicaId,
        mark: Mark,
    ) -> Option<Mark> {
        let mut named = None;
        let target = self.target.take_if(|target| target.mark == mark);
        let holders = target.map_or(ReplicaSet::EMPTY, |target| target.holders);
        for (from, unplaced) in (0u8..).map(ReplicaId).zip(&mut self.unplaced) {
            let is_said = !unplaced.is_empty() && unplaced.remove(mark);
            if is_said || holders.contains(from) {
                named = named.max(spread(self.quorums, held, eligible, me, from, mark));
            }
        }
        named
    }

    /// Who has said to hold exactly this, though it is not here.
    pub(crate) fn holders_of_unplaced(&self, mark: Mark) -> ReplicaSet {
        let target = self.target.as_ref().filter(|target| target.mark == mark);
        let mut holders = target.map_or(ReplicaSet::EMPTY, |target| target.holders);
        for (from, unplaced) in (0u8..).map(ReplicaId).zip(&self.unplaced) {
            if unplaced.contains(mark) {
                holders.insert(from);
            }
        }
        holders
    }

    /// Whether a replica has said something of what lies above `number` that cannot be placed.
    pub(crate) fn is_unplaced_above(&self, from: ReplicaId, number: LaneNumber) -> bool {
        self.unplaced[from.index()].said.last().is_some_and(|highest| highest.upto > number)
    }

    /// Whether anything cannot be placed.
    pub(crate) fn is_open(&self) -> bool {
        self.unplaced.iter().any(|unplaced| !unplaced.said.is_empty())
    }

    /// What f+1 replicas other than `me` have acknowledged and is not here, the lowest first.
    pub(crate) fn lacking(&self, me: ReplicaId) -> Vec<Mark> {
        let others = (0u8..).map(ReplicaId).zip(&self.unplaced).filter(|(from, _)| *from != me);
        let mut counts: BTreeMap<Mark, usize> = BTreeMap::new();
        for mark in others.flat_map(|(_, unplaced)| unplaced.iter()) {
            *counts.entry(mark).or_default() += 1;
        }
        counts.into_iter().filter(|(_, count)| *count >= self.quorums.weak).map(|(mark, _)| mark).collect()
    }

    /// Of what [`Acknowledged::lacking`] gives, that which has been lacking for long: longer if the lane has moved, as then
    /// its origin may be about to bring it. However it moves, that is not for ever.
    pub(crate) fn look(&mut self, me: ReplicaId, has_moved: bool) -> Vec<Mark> {
        let looks = |mark: Mark| (mark, self.awaited.get(&mark).map_or(1, |looks| looks + 1));
        let awaited: BTreeMap<Mark, u32> = self.lacking(me).into_iter().map(looks).collect();
        self.awaited = awaited;
        self.unplaced.iter_mut().for_each(Unplaced::on_look);
        self.target.iter_mut().for_each(Target::on_look);
        self.target.take_if(|target| target.holders.len() < self.quorums.weak);
        let long = if has_moved { LOOKS_MOVING } else { LOOKS_STANDING };
        self.awaited.iter().filter(|(_, looks)| **looks >= long).map(|(mark, _)| *mark).collect()
    }

    /// This chain is dead: it does not pass through the executed tip.
    pub(crate) fn forget(&mut self, mark: Mark) {
        self.target.take_if(|target| target.mark == mark);
        for unplaced in &mut self.unplaced {
            unplaced.remove(mark);
        }
    }

    /// The lane is executed further.
    pub(crate) fn on_executed(&mut self, held: &Held) {
        let executed = held.executed().upto;
        self.target.take_if(|target| target.mark.upto <= executed);
        self.unplaced.iter_mut().for_each(|unplaced| unplaced.on_executed(executed));
    }

    /// This replica may say that it holds a batch.
    pub(crate) fn may_say(&mut self, parent: Mark, mark: Mark) {
        match self.unsaid.last_mut() {
            Some(last) if *last == parent => *last = mark,
            _ => self.unsaid.push(mark),
        }
    }

    /// What may be said anew: the ends of chains, and up to where the journal must be durable for that.
    pub(crate) fn say(&mut self, held: &Held) -> (Vec<Mark>, Lsn) {
        let mut unsaid = std::mem::take(&mut self.unsaid);
        unsaid.retain(|mark| mark.upto >= held.executed().upto && held.contains(*mark));
        if unsaid.len() > 1 {
            unsaid.sort_unstable();
            unsaid.dedup();
            let all = unsaid.clone();
            unsaid.retain(|mark| !all.iter().any(|other| other != mark && held.descends(*other, *mark)));
        }
        let durable = unsaid.iter().map(|mark| held.durable(*mark)).max().unwrap_or_default();
        (unsaid, durable)
    }
}

/// For a mistake alone: takes the replica's bit from all nodes that are not on the way to `mark`.
fn forget_beside(held: &mut Held, from: ReplicaId, mark: Mark) {
    let leaves = held.leaves();
    let all: Vec<Mark> = leaves.into_iter().flat_map(|leaf| held.down_from(leaf)).map(|(at, _)| at).collect();
    for at in all {
        if !held.descends(mark, at)
            && let Some(node) = held.get_mut(at)
        {
            node.holders.remove(from);
        }
    }
}

/// Sets the replica's bit in a node and all before it.
fn spread(
    quorums: Quorums,
    held: &mut Held,
    eligible: &mut Eligible,
    me: ReplicaId,
    from: ReplicaId,
    mark: Mark,
) -> Option<Mark> {
    let executed = held.executed().upto;
    let (mut at, mut named) = (mark, None);
    let (mut weak, mut quorum) = (false, false);
    while at.upto > executed
        && let Some(node) = held.get_mut(at)
        && node.holders.insert(from)
    {
        let count = node.holders.len();
        let others = count - usize::from(node.holders.contains(me));
        if named.is_none() && node.why == Why::Named && others >= quorums.weak {
            named = Some(at);
        }
        // What lies below is on the way to the highest that so many have, which is told.
        if count == quorums.weak && !std::mem::replace(&mut weak, true) {
            eligible.on_support(held, at, Support::Weak);
        }
        if count == quorums.quorum && !std::mem::replace(&mut quorum, true) {
            eligible.on_support(held, at, Support::Quorum);
        }
        match held.parent(at) {
            Some(parent) => at = parent,
            None => break,
        }
    }
    named
}
