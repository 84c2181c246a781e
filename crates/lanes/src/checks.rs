//! Whose signatures are checked next.
//!
//! All that is gathered in a tick is checked in one go, votes included, and whoever waits for one verdict waits for all. So
//! lanes take turns: however many signatures of one lane wait, those of another are checked with them and not behind them.
//! Lanes with forged bundles in them have one turn a tick, beside what all others have. That is their budget: an origin that
//! forges is closed out besides (`throttle`), but what headers name is taken from anybody, and a primary that lies names what
//! it likes.
//!
//! Anybody can make up batches of any lane and name them. What its origin, or f+1 others, vouch for goes before what is
//! merely named of the same lane, and is not blamed for that.

use quorate_types::{LaneId, Mark, Why};
use quorate_wire::LaneTip;
use std::collections::{BTreeSet, VecDeque};

/// The bundles that one tick has checked of lanes with nothing forged in them, and the turn that goes beyond is the last; a
/// recovered lane has many.
const BUNDLES_MAX: usize = 4 * 1024;
/// A turn is over after so many bundles; the batch that goes beyond is the last.
const TURN_BUNDLES: usize = 128;
/// For each forged bundle so many good ones are checked in short turns: about what it costs to find it.
const FORGED_DEBT: usize = 64;
const DEBT_MAX: usize = FORGED_DEBT * 4 * 1024;

/// Batches of one lane that wait, each after its parent.
#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeSet<Mark>,
    /// So many good bundles make up for the forged ones that were found.
    debt: usize,
}

/// What waits of one lane.
#[derive(Debug)]
struct Queues {
    lane: LaneId,
    vouched_for: Queue,
    named: Queue,
}

impl Queues {
    fn of(&mut self, why: Why) -> &mut Queue {
        if why == Why::Named { &mut self.named } else { &mut self.vouched_for }
    }

    /// What is merely named lies behind what is vouched for, or beside it: never before it.
    fn first(&mut self) -> &mut Queue {
        if self.vouched_for.waiting.is_empty() { &mut self.named } else { &mut self.vouched_for }
    }

    fn contains(&self, mark: Mark) -> bool {
        self.vouched_for.waiting.contains(&mark) || self.named.waiting.contains(&mark)
    }
}

/// The batches, the signatures in which are still to be checked: those of this tick, what did not fit in ticks before, and
/// what was recovered.
#[derive(Debug)]
pub(crate) struct Checks {
    /// In the order of the lanes, which is that of their turns.
    lanes: Vec<Queues>,
    /// The batches in all queues.
    waiting: usize,
    /// Whose turn is next.
    next: usize,
    /// The verdicts on these are under way, in this order.
    claimed: VecDeque<LaneTip>,
}

impl Checks {
    /// Nothing waits of these lanes, which ascend.
    pub(crate) fn new(lanes: impl Iterator<Item = LaneId>) -> Self {
        let queues = |lane| Queues { lane, vouched_for: Queue::default(), named: Queue::default() };
        let lanes: Vec<Queues> = lanes.map(queues).collect();
        assert!(lanes.is_sorted_by_key(|queues| queues.lane), "lanes are looked up in order");
        Self { lanes, waiting: 0, next: 0, claimed: VecDeque::new() }
    }

    fn queues(&self, lane: LaneId) -> Option<&Queues> {
        let at = self.lanes.binary_search_by_key(&lane, |queues| queues.lane).ok()?;
        Some(&self.lanes[at])
    }

    fn queues_mut(&mut self, lane: LaneId) -> Option<&mut Queues> {
        let at = self.lanes.binary_search_by_key(&lane, |queues| queues.lane).ok()?;
        Some(&mut self.lanes[at])
    }

    /// A batch is to be checked that is held for this reason. One that waits already goes where the reason puts it.
    pub(crate) fn push(&mut self, tip: LaneTip, why: Why) {
        let Some(queues) = self.queues_mut(tip.lane) else { return };
        let other = if why == Why::Named { Why::OwnLink } else { Why::Named };
        let was_there = queues.of(other).waiting.remove(&tip.mark());
        let is_new = queues.of(why).waiting.insert(tip.mark());
        self.waiting += usize::from(is_new && !was_there);
    }

    /// Batches of a lane may be held for a better reason than their names by now: those go before the others.
    pub(crate) fn sort(&mut self, lane: LaneId, is_vouched_for: impl Fn(Mark) -> bool) {
        let Some(queues) = self.queues_mut(lane).filter(|queues| !queues.named.waiting.is_empty()) else {
            return;
        };
        queues.vouched_for.waiting.extend(queues.named.waiting.extract_if(.., |mark| is_vouched_for(*mark)));
    }

    /// A batch that was merely named is held no more.
    pub(crate) fn forget(&mut self, tip: LaneTip) {
        let Some(queues) = self.queues_mut(tip.lane) else { return };
        let was_there = queues.named.waiting.remove(&tip.mark());
        self.waiting -= usize::from(was_there);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Whether anything waits of a lane.
    pub(crate) fn has(&self, lane: LaneId) -> bool {
        self.has_vouched_for(lane) || self.queues(lane).is_some_and(|queues| !queues.named.waiting.is_empty())
    }

    /// Whether anything waits that is held for a better reason than its name.
    pub(crate) fn has_vouched_for(&self, lane: LaneId) -> bool {
        self.queues(lane).is_some_and(|queues| !queues.vouched_for.waiting.is_empty())
    }

    pub(crate) fn contains(&self, tip: LaneTip) -> bool {
        self.queues(tip.lane).is_some_and(|queues| queues.contains(tip.mark()))
    }

    /// Takes out what this tick has checked. `claim` asks for the verdicts on the bundles of one batch and returns their
    /// number, or nothing for one that is held no more; each lane's come after their parents. The verdicts belong to what
    /// [`Checks::next_claimed`] returns, in that order.
    pub(crate) fn claim(&mut self, mut claim: impl FnMut(LaneTip) -> Option<usize>) {
        assert!(self.claimed.is_empty(), "verdicts are given before others are asked for");
        if self.waiting == 0 {
            return;
        }
        let (mut bundles, mut passed) = (0, 0);
        while passed < self.lanes.len() && bundles < BUNDLES_MAX {
            let at = self.next;
            self.next = (at + 1) % self.lanes.len();
            passed += 1;
            if self.lanes[at].first().debt == 0
                && let Some(taken) = self.turn(at, &mut claim)
            {
                bundles += taken;
                passed = 0;
            }
        }
        for at in 0..self.lanes.len() {
            if self.lanes[at].first().debt > 0 {
                self.turn(at, &mut claim);
            }
        }
    }

    /// One turn of a lane. Returns the number of bundles, or nothing if no batch was there.
    fn turn(&mut self, at: usize, claim: &mut impl FnMut(LaneTip) -> Option<usize>) -> Option<usize> {
        let lane = self.lanes[at].lane;
        let queue = self.lanes[at].first();
        let mut bundles = None;
        while bundles.unwrap_or(0) < TURN_BUNDLES
            && let Some(mark) = queue.waiting.pop_first()
        {
            self.waiting -= 1;
            let tip = LaneTip::at(lane, mark);
            if let Some(of_batch) = claim(tip) {
                bundles = Some(bundles.unwrap_or(0) + of_batch);
                self.claimed.push_back(tip);
            }
        }
        bundles
    }

    /// The batch to which the next verdicts belong.
    pub(crate) fn next_claimed(&mut self) -> Option<LaneTip> {
        self.claimed.pop_front()
    }

    /// The bundles of a batch of a lane that is held for this reason were checked, and so many of them are forged.
    pub(crate) fn checked(&mut self, lane: LaneId, why: Why, bundles: usize, forged: usize) {
        let Some(queues) = self.queues_mut(lane) else { return };
        let queue = queues.of(why);
        let good = bundles - forged;
        queue.debt = queue.debt.saturating_sub(good).saturating_add(forged * FORGED_DEBT).min(DEBT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::{Digest, LaneNumber, LinkId, ReplicaId};

    fn lane(origin: u8) -> LaneId {
        LaneId { origin: ReplicaId(origin), link: LinkId(0) }
    }

    fn tip(origin: u8, number: u64) -> LaneTip {
        LaneTip { lane: lane(origin), upto: LaneNumber(number), chain: Digest::ZERO }
    }

    fn checks() -> Checks {
        Checks::new((0..4).map(lane))
    }

    /// What one tick has checked: origins and numbers. All batches have so many bundles.
    fn tick(checks: &mut Checks, bundles: usize) -> Vec<(u8, u64)> {
        checks.claim(|_| Some(bundles));
        std::iter::from_fn(|| checks.next_claimed()).map(|tip| (tip.lane.origin.0, tip.upto.0)).collect()
    }

    #[test]
    fn lanes_take_turns() {
        let mut checks = checks();
        (1..=100).for_each(|number| checks.push(tip(1, number), Why::OwnLink));
        (1..=2).for_each(|number| checks.push(tip(3, number), Why::Named));
        let first = tick(&mut checks, 100);
        assert_eq!(first[..5], [(1, 1), (1, 2), (3, 1), (3, 2), (1, 3)]);
        assert_eq!(first.len(), 42, "as many as 4096 bundles are in");
        assert_eq!(tick(&mut checks, 100)[0], (1, 41));
        assert_eq!(tick(&mut checks, 100).len(), 18);
        assert!(checks.is_empty() && tick(&mut checks, 100).is_empty());
    }

    #[test]
    fn whoever_did_not_have_its_turn_has_the_first_in_the_next_tick() {
        let mut checks = checks();
        for origin in [0, 1, 2] {
            (1..=2).for_each(|number| checks.push(tip(origin, number), Why::OwnLink));
        }
        assert_eq!(tick(&mut checks, 3000), [(0, 1), (1, 1)]);
        assert_eq!(tick(&mut checks, 3000), [(2, 1), (0, 2)]);
        assert_eq!(tick(&mut checks, 3000), [(1, 2), (2, 2)]);
    }

    #[test]
    fn a_lane_with_forged_bundles_has_one_turn_beside_the_others_until_good_ones_make_up_for_it() {
        let mut checks = checks();
        checks.checked(lane(0), Why::OwnLink, 100, 2);
        (1..=200).for_each(|number| checks.push(tip(0, number), Why::OwnLink));
        (1..=50).for_each(|number| checks.push(tip(1, number), Why::OwnLink));
        let first = tick(&mut checks, 100);
        assert_eq!(first.len(), 42 + 2, "nobody has less for it");
        assert_eq!(first[42..], [(0, 1), (0, 2)]);
        checks.checked(lane(0), Why::OwnLink, 127, 0);
        assert_eq!(tick(&mut checks, 100).len(), 8 + 2);
        checks.checked(lane(0), Why::OwnLink, 1, 0);
        assert_eq!(tick(&mut checks, 100).len(), 42);
    }

    #[test]
    fn what_is_vouched_for_goes_before_what_is_named_and_is_not_blamed_for_it() {
        let mut checks = checks();
        checks.checked(lane(2), Why::Named, 1, 1);
        (1..=3).for_each(|number| checks.push(tip(2, number), Why::Named));
        (4..=7).for_each(|number| checks.push(tip(2, number), Why::OwnLink));
        checks.push(tip(2, 3), Why::Named);
        checks.sort(lane(2), |mark| mark.upto == LaneNumber(2));
        assert!(checks.contains(tip(2, 2)) && checks.has_vouched_for(lane(2)));
        let numbers: Vec<u64> = tick(&mut checks, 200).into_iter().map(|(_, number)| number).collect();
        assert_eq!(numbers, [2, 4, 5, 6, 7, 1]);
        assert!(!checks.has_vouched_for(lane(2)) && checks.has(lane(2)) && !checks.is_empty());
        assert_eq!(tick(&mut checks, 200), [(2, 3)]);
        assert!(!checks.has(lane(2)) && checks.is_empty());
        checks.push(tip(2, 8), Why::Named);
        checks.forget(tip(2, 8));
        checks.forget(tip(2, 8));
        assert!(!checks.has(lane(2)) && checks.is_empty());
    }

    #[test]
    fn what_is_held_no_more_costs_nothing() {
        let mut checks = checks();
        (1..=500).for_each(|number| checks.push(tip(0, number), Why::Named));
        checks.claim(|tip| (tip.upto > LaneNumber(499)).then_some(1000));
        assert_eq!(checks.next_claimed(), Some(tip(0, 500)));
        assert!(checks.next_claimed().is_none() && checks.is_empty());
    }
}
