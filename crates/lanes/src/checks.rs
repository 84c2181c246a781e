//! Whose signatures are checked next.
//!
//! All that is gathered in a tick is checked in one go, votes included, and whoever waits for one verdict waits for all. So
//! each lane has one turn a tick: however many signatures of one wait, those of another are checked with them and not behind
//! them. What is left over is checked in the ticks that follow at once, and links are served and votes leave between; execution
//! waits for the whole of what a header names. Lanes with forged bundles in them have one turn a tick together, beside what
//! all others have. That is their budget: an origin that forges is closed out besides (`throttle`), but what headers name is
//! taken from anybody, and a primary that lies names what it likes.
//!
//! Anybody can make up batches of any lane and name them. What its origin, or f+1 others, vouch for goes before what is
//! merely named of the same lane, and is not blamed for that.

use quorate_types::{LaneId, Mark, Why};
use quorate_wire::LaneTip;
use std::collections::{BTreeSet, VecDeque};

/// The bundles that one tick has checked of lanes with nothing forged in them, and the turn that goes beyond is the last.
const BUNDLES_MAX: usize = 4 * 1024;
/// A turn has so many bundles at most, be it in the middle of a batch: if all are forged, that is about 10 ms.
const TURN_BUNDLES: usize = 128;
/// For each forged bundle so many good ones are checked in short turns: about what it costs to find it.
const FORGED_DEBT: usize = 64;
const DEBT_MAX: usize = FORGED_DEBT * 4 * 1024;

/// What was claimed of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portion {
    pub(crate) bundles: usize,
    /// Whether nothing of it is left.
    pub(crate) is_last: bool,
}

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
    /// Whose turn is next, and whose of those with forged bundles.
    next: usize,
    next_debtor: usize,
    /// So many verdicts on each of these are under way, in this order.
    claimed: VecDeque<(LaneTip, usize)>,
}

impl Checks {
    /// Nothing waits of these lanes, which ascend.
    pub(crate) fn new(lanes: impl Iterator<Item = LaneId>) -> Self {
        let queues = |lane| Queues { lane, vouched_for: Queue::default(), named: Queue::default() };
        let lanes: Vec<Queues> = lanes.map(queues).collect();
        assert!(lanes.is_sorted_by_key(|queues| queues.lane), "lanes are looked up in order");
        Self { lanes, waiting: 0, next: 0, next_debtor: 0, claimed: VecDeque::new() }
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

    /// Takes out what this tick has checked. `claim` asks for the verdicts on so many bundles of one batch at most, from where
    /// it has ended the last time, or returns nothing for one that is held no more; each lane's come after their parents.
    /// The verdicts belong to what [`Checks::next_claimed`] returns, in that order.
    pub(crate) fn claim(&mut self, mut claim: impl FnMut(LaneTip, usize) -> Option<Portion>) {
        assert!(self.claimed.is_empty(), "verdicts are given before others are asked for");
        if self.waiting == 0 {
            return;
        }
        let mut bundles = 0;
        for _ in 0..self.lanes.len() {
            if bundles >= BUNDLES_MAX {
                break;
            }
            let at = self.next;
            self.next = (at + 1) % self.lanes.len();
            if self.lanes[at].first().debt == 0 {
                bundles += self.turn(at, TURN_BUNDLES, &mut claim);
            }
        }
        let mut left = TURN_BUNDLES;
        for _ in 0..self.lanes.len() {
            if left == 0 {
                break;
            }
            let at = self.next_debtor;
            self.next_debtor = (at + 1) % self.lanes.len();
            if self.lanes[at].first().debt > 0 {
                left -= self.turn(at, left, &mut claim);
            }
        }
    }

    /// One turn of a lane, of so many bundles at most. Returns their number.
    fn turn(
        &mut self,
        at: usize,
        most: usize,
        claim: &mut impl FnMut(LaneTip, usize) -> Option<Portion>,
    ) -> usize {
        let lane = self.lanes[at].lane;
        let queue = self.lanes[at].first();
        let mut taken = 0;
        while taken < most
            && let Some(mark) = queue.waiting.first().copied()
        {
            let tip = LaneTip::at(lane, mark);
            let portion = claim(tip, most - taken);
            if portion.is_none_or(|portion| portion.is_last) {
                queue.waiting.pop_first();
                self.waiting -= 1;
            }
            if let Some(Portion { bundles, .. }) = portion {
                taken += bundles;
                self.claimed.push_back((tip, bundles));
            }
        }
        taken
    }

    /// The batch to which the next verdicts belong, and their number.
    pub(crate) fn next_claimed(&mut self) -> Option<(LaneTip, usize)> {
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
    use std::collections::BTreeMap;

    fn lane(origin: u8) -> LaneId {
        LaneId { origin: ReplicaId(origin), link: LinkId(0) }
    }

    fn tip(origin: u8, number: u64) -> LaneTip {
        LaneTip { lane: lane(origin), upto: LaneNumber(number), chain: Digest::ZERO }
    }

    fn checks() -> Checks {
        Checks::new((0..4).map(lane))
    }

    /// What one tick has checked: origins, numbers and bundles. All batches have so many, of which `settled` are checked.
    fn portions(
        checks: &mut Checks,
        each: usize,
        settled: &mut BTreeMap<LaneTip, usize>,
    ) -> Vec<(u8, u64, usize)> {
        checks.claim(|tip, most| {
            let settled = settled.entry(tip).or_default();
            let bundles = most.min(each - *settled);
            *settled += bundles;
            Some(Portion { bundles, is_last: *settled == each })
        });
        let claimed = std::iter::from_fn(|| checks.next_claimed());
        claimed.map(|(tip, bundles)| (tip.lane.origin.0, tip.upto.0, bundles)).collect()
    }

    /// What one tick has checked, where nothing is cut: origins and numbers.
    fn tick(checks: &mut Checks, each: usize) -> Vec<(u8, u64)> {
        let portions = portions(checks, each, &mut BTreeMap::new());
        portions.into_iter().map(|(origin, number, _)| (origin, number)).collect()
    }

    #[test]
    fn lanes_take_turns() {
        let mut checks = checks();
        (1..=6).for_each(|number| checks.push(tip(1, number), Why::OwnLink));
        (1..=2).for_each(|number| checks.push(tip(3, number), Why::Named));
        assert_eq!(tick(&mut checks, 64), [(1, 1), (1, 2), (3, 1), (3, 2)]);
        assert_eq!(tick(&mut checks, 64), [(1, 3), (1, 4)]);
        assert_eq!(tick(&mut checks, 64).len(), 2);
        assert!(checks.is_empty() && tick(&mut checks, 64).is_empty());
    }

    #[test]
    fn whoever_did_not_have_its_turn_has_the_first_in_the_next_tick() {
        let mut checks = Checks::new((0..40).map(lane));
        for origin in 0..40 {
            (1..=2).for_each(|number| checks.push(tip(origin, number), Why::OwnLink));
        }
        let first: Vec<(u8, u64)> = (0..32).map(|origin| (origin, 1)).collect();
        assert_eq!(tick(&mut checks, 128), first);
        assert_eq!(
            tick(&mut checks, 128)[..10],
            [(32, 1), (33, 1), (34, 1), (35, 1), (36, 1), (37, 1), (38, 1), (39, 1), (0, 2), (1, 2)]
        );
    }

    /// Listed mistake: a batch is checked in one go, however many bundles it has.
    #[test]
    fn a_turn_ends_in_the_middle_of_a_batch() {
        let (mut checks, mut settled) = (checks(), BTreeMap::new());
        (1..=2).for_each(|number| checks.push(tip(1, number), Why::OwnLink));
        let mut ticks = Vec::new();
        while !checks.is_empty() {
            ticks.push(portions(&mut checks, 300, &mut settled));
        }
        let first = [vec![(1, 1, 128)], vec![(1, 1, 128)], vec![(1, 1, 44), (1, 2, 84)]];
        assert_eq!(ticks, [&first[..], &[vec![(1, 2, 128)], vec![(1, 2, 88)]]].concat());
    }

    #[test]
    fn lanes_with_forged_bundles_have_one_turn_beside_the_others_until_good_ones_make_up_for_it() {
        let mut checks = checks();
        for origin in [0, 2] {
            checks.checked(lane(origin), Why::OwnLink, 100, 2);
            (1..=9).for_each(|number| checks.push(tip(origin, number), Why::OwnLink));
        }
        (1..=9).for_each(|number| checks.push(tip(1, number), Why::OwnLink));
        assert_eq!(tick(&mut checks, 64), [(1, 1), (1, 2), (0, 1), (0, 2)], "nobody has less for it");
        assert_eq!(tick(&mut checks, 64), [(1, 3), (1, 4), (2, 1), (2, 2)]);
        assert_eq!(tick(&mut checks, 64)[2..], [(0, 3), (0, 4)]);
        checks.checked(lane(0), Why::OwnLink, 127, 0);
        assert_eq!(tick(&mut checks, 64)[2..], [(2, 3), (2, 4)]);
        checks.checked(lane(0), Why::OwnLink, 1, 0);
        assert_eq!(tick(&mut checks, 64), [(0, 5), (0, 6), (1, 9), (2, 5), (2, 6)]);
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
        let numbers =
            |checks: &mut Checks| tick(checks, 64).into_iter().map(|(_, number)| number).collect::<Vec<_>>();
        assert_eq!(numbers(&mut checks), [2, 4]);
        assert_eq!(numbers(&mut checks), [5, 6]);
        assert!(checks.has_vouched_for(lane(2)) && checks.has(lane(2)));
        assert_eq!(numbers(&mut checks), [7, 1, 3], "the turn of those that are blamed is another one");
        assert!(!checks.has_vouched_for(lane(2)) && !checks.has(lane(2)) && checks.is_empty());
        checks.push(tip(2, 8), Why::Named);
        checks.forget(tip(2, 8));
        checks.forget(tip(2, 8));
        assert!(!checks.has(lane(2)) && checks.is_empty());
    }

    /// They share a turn, and a lone bundle does not use it up.
    #[test]
    fn lanes_with_forged_bundles_share_their_turn() {
        let mut checks = Checks::new((0..40).map(lane));
        for origin in 0..40 {
            checks.checked(lane(origin), Why::OwnLink, 100, 2);
            (1..=2).for_each(|number| checks.push(tip(origin, number), Why::OwnLink));
        }
        let all: Vec<(u8, u64)> = (0..40).flat_map(|origin| [(origin, 1), (origin, 2)]).collect();
        assert_eq!(tick(&mut checks, 2)[..64], all[..64]);
        assert_eq!(tick(&mut checks, 2), all[64..]);
    }

    #[test]
    fn what_is_held_no_more_costs_nothing() {
        let mut checks = checks();
        (1..=500).for_each(|number| checks.push(tip(0, number), Why::Named));
        let last = Portion { bundles: 100, is_last: true };
        checks.claim(|tip, _| (tip.upto > LaneNumber(499)).then_some(last));
        assert_eq!(checks.next_claimed(), Some((tip(0, 500), 100)));
        assert!(checks.next_claimed().is_none() && checks.is_empty());
    }
}
