//! The chains of one lane, by digest: what is known above one root, however often the origin has forked it.
//!
//! One chain, the *main* one, lies in a deque, where every place is an index; all others lie in a map. That is a matter of
//! speed alone: callers name a place by its digest and never ask for "the one at k".
//!
//! An origin that lies makes chains as long as it may, and several of them. So what lies beside the main chain is a tree of
//! *branches*, runs without a fork, and descent hops from branch to branch: no question costs as much as a chain is long, and
//! what moves a chain costs each of its places once.

use crate::{Digest, LaneNumber};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A place in a lane: the number of a batch and the digest of the chain up to it. The default is the start of every lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The number of the batch.
    pub upto: LaneNumber,
    /// The chain digest up to it.
    pub chain: Digest,
}

#[derive(Clone, Debug)]
struct Fork<T> {
    previous: Digest,
    branch: usize,
    value: T,
}

impl<T> Fork<T> {
    /// The place before this one, which is at `mark`.
    fn parent(&self, mark: Mark) -> Mark {
        Mark { upto: mark.upto.previous(), chain: self.previous }
    }
}

/// A run of places beside the main chain, each behind the one before.
#[derive(Clone, Copy, Debug)]
struct Branch {
    /// The place just before it: on another branch, on the main chain, or the root.
    from: Mark,
    last: Mark,
}

/// A value for each place above a root; each place descends from the root.
#[derive(Clone, Debug)]
pub struct Chains<T> {
    root: Mark,
    main: VecDeque<(Digest, T)>,
    forks: BTreeMap<Mark, Fork<T>>,
    branches: BTreeMap<usize, Branch>,
    /// How often a place beside the main chain was looked up.
    #[cfg(test)]
    steps: std::cell::Cell<usize>,
}

impl<T> Chains<T> {
    /// Nothing is known above `root`.
    #[must_use]
    pub fn new(root: Mark) -> Self {
        Self {
            root,
            main: VecDeque::new(),
            forks: BTreeMap::new(),
            branches: BTreeMap::new(),
            #[cfg(test)]
            steps: std::cell::Cell::default(),
        }
    }

    fn fork(&self, mark: Mark) -> Option<&Fork<T>> {
        #[cfg(test)]
        self.steps.update(|steps| steps + 1);
        self.forks.get(&mark)
    }

    /// Where all chains begin.
    #[must_use]
    pub fn root(&self) -> Mark {
        self.root
    }

    /// The end of the main chain.
    #[must_use]
    pub fn tip(&self) -> Mark {
        let upto = self.root.upto.plus(self.main.len() as u64);
        self.main.back().map_or(self.root, |(chain, _)| Mark { upto, chain: *chain })
    }

    /// The number of places.
    #[must_use]
    pub fn len(&self) -> usize {
        self.main.len() + self.forks.len()
    }

    /// Whether there is no place above the root.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of places beside the main chain.
    #[must_use]
    pub fn forked(&self) -> usize {
        self.forks.len()
    }

    fn index(&self, number: LaneNumber) -> Option<usize> {
        usize::try_from(number.0.checked_sub(self.root.upto.0)?.checked_sub(1)?).ok()
    }

    /// The place at `number` on the main chain, the root included.
    #[must_use]
    pub fn main_at(&self, number: LaneNumber) -> Option<Mark> {
        if number == self.root.upto {
            return Some(self.root);
        }
        let (chain, _) = self.main.get(self.index(number)?)?;
        Some(Mark { upto: number, chain: *chain })
    }

    /// Whether a place is on the main chain, or the root.
    #[must_use]
    pub fn is_main(&self, mark: Mark) -> bool {
        self.main_at(mark.upto) == Some(mark)
    }

    /// Whether a place is known, or the root.
    #[must_use]
    pub fn contains(&self, mark: Mark) -> bool {
        self.is_main(mark) || self.fork(mark).is_some()
    }

    /// The value of a place; the root has none.
    #[must_use]
    pub fn get(&self, mark: Mark) -> Option<&T> {
        match self.index(mark.upto).and_then(|index| self.main.get(index)) {
            Some((chain, value)) if *chain == mark.chain => Some(value),
            _ => self.fork(mark).map(|fork| &fork.value),
        }
    }

    /// As [`Chains::get`], to be changed.
    pub fn get_mut(&mut self, mark: Mark) -> Option<&mut T> {
        let index = self.index(mark.upto);
        match index.and_then(|index| self.main.get_mut(index)) {
            Some((chain, value)) if *chain == mark.chain => Some(value),
            _ => self.forks.get_mut(&mark).map(|fork| &mut fork.value),
        }
    }

    /// The place before one that is known.
    #[must_use]
    pub fn parent(&self, mark: Mark) -> Option<Mark> {
        if mark.upto > self.root.upto && self.is_main(mark) {
            return self.main_at(mark.upto.previous());
        }
        self.fork(mark).map(|fork| fork.parent(mark))
    }

    /// Takes a place behind one that is known. False, and nothing taken, when it is known itself or its parent is not.
    pub fn insert(&mut self, mark: Mark, previous: Digest, value: T) -> bool {
        let parent = Mark { upto: mark.upto.previous(), chain: previous };
        if mark.upto <= self.root.upto || self.contains(mark) || !self.contains(parent) {
            return false;
        }
        if parent == self.tip() {
            self.main.push_back((mark.chain, value));
        } else {
            let branch = self.join(mark, parent);
            self.forks.insert(mark, Fork { previous, branch, value });
        }
        true
    }

    /// The branch of a place that comes behind `parent`: the one that ends there, or a new one.
    fn join(&mut self, mark: Mark, parent: Mark) -> usize {
        if let Some(branch) = self.fork(parent).map(|fork| fork.branch) {
            let known = self.branches.get_mut(&branch).expect("invariant: a branch of a place is known");
            if known.last == parent {
                known.last = mark;
                return branch;
            }
        }
        let branch = self.branches.last_key_value().map_or(0, |(last, _)| last + 1);
        self.branches.insert(branch, Branch { from: parent, last: mark });
        branch
    }

    /// Finds the branches anew.
    fn find_branches(&mut self) {
        self.branches.clear();
        let places: Vec<(Mark, Mark)> =
            self.forks.iter().map(|(mark, fork)| (*mark, fork.parent(*mark))).collect();
        // Each comes after its parent, as they are in the order of their numbers.
        for (mark, parent) in places {
            let branch = self.join(mark, parent);
            self.forks.get_mut(&mark).expect("invariant: just found").branch = branch;
        }
    }

    /// The places from one that is known down to the root, which is left out. Nothing for one that is not known.
    pub fn down_from(&self, mark: Mark) -> impl Iterator<Item = (Mark, &T)> {
        let mut next = Some(mark);
        std::iter::from_fn(move || {
            let at = next?;
            let value = self.get(at)?;
            next = self.parent(at);
            Some((at, value))
        })
    }

    /// Whether `from` lies on the way from a known `mark` down to the root, both included.
    #[must_use]
    pub fn descends(&self, mark: Mark, from: Mark) -> bool {
        if self.is_main(mark) && (self.is_main(from) || from.upto < self.root.upto) {
            return from.upto <= mark.upto && from.upto >= self.root.upto;
        }
        if !self.contains(mark) || from.upto < self.root.upto {
            return false;
        }
        let branch = self.fork(from).map(|fork| fork.branch);
        let mut at = mark;
        while at.upto >= from.upto {
            match self.fork(at).map(|fork| fork.branch) {
                // From here on down there is the main chain only.
                None => return self.is_main(from),
                known if known == branch => return true,
                Some(known) => at = self.branches[&known].from,
            }
        }
        false
    }

    /// Where the way from a known place down meets the main chain, or the root.
    #[must_use]
    pub fn meets_main(&self, mark: Mark) -> Option<Mark> {
        let mut at = mark;
        while !self.is_main(at) {
            at = self.branches[&self.fork(at)?.branch].from;
        }
        Some(at)
    }

    /// The places just behind `mark`: those that name it as their parent.
    pub fn children(&self, mark: Mark) -> impl Iterator<Item = Mark> {
        let upto = mark.upto.next();
        let main = self.is_main(mark).then(|| self.main_at(upto)).flatten();
        let from = Mark { upto, chain: Digest::ZERO };
        let beside = self.forks.range(from..).take_while(move |(other, _)| other.upto == upto);
        let beside = beside.filter(move |(_, fork)| fork.previous == mark.chain);
        main.into_iter().chain(beside.map(|(other, _)| *other))
    }

    /// All ends, that of the main chain first; none while nothing is known above the root.
    #[must_use]
    pub fn leaves(&self) -> Vec<Mark> {
        let mut leaves: Vec<Mark> = (!self.main.is_empty()).then(|| self.tip()).into_iter().collect();
        if !self.branches.is_empty() {
            let before: BTreeSet<Mark> = self.branches.values().map(|branch| branch.from).collect();
            let lasts = self.branches.values().map(|branch| branch.last);
            let ends: BTreeSet<Mark> = lasts.filter(|last| !before.contains(last)).collect();
            leaves.extend(ends);
        }
        leaves
    }

    /// All places, each after its parent.
    pub fn iter(&self) -> impl Iterator<Item = (Mark, &T)> {
        let main = (1..)
            .zip(&self.main)
            .map(|(above, (chain, value))| (Mark { upto: self.root.upto.plus(above), chain: *chain }, value));
        main.chain(self.forks.iter().map(|(mark, fork)| (*mark, &fork.value)))
    }

    /// Makes the chain through a known place the main one, and of what lies behind it the longest.
    pub fn prefer(&mut self, mark: Mark) {
        let is_moved = self.make_main(mark);
        if self.grow_main(mark) || is_moved {
            self.find_branches();
        }
    }

    /// Makes the chain up to a known place the main one, if it is not. The caller finds the branches anew.
    fn make_main(&mut self, mark: Mark) -> bool {
        assert!(self.contains(mark), "only a known place is on a chain");
        if self.is_main(mark) {
            return false;
        }
        let (at, path) = self.take_out_to_main(mark);
        while self.tip().upto > at.upto {
            let mark = self.tip();
            let (_, value) = self.main.pop_back().expect("invariant: the tip lies above the root");
            self.forks.insert(mark, Fork { previous: self.tip().chain, branch: 0, value });
        }
        self.main.extend(path.into_iter().rev());
        true
    }

    /// Takes out the places from `mark` down to the main chain, descending; also where they leave it.
    fn take_out_to_main(&mut self, mark: Mark) -> (Mark, Vec<(Digest, T)>) {
        let (mut at, mut path) = (mark, Vec::new());
        while let Some(fork) = self.forks.remove(&at) {
            let parent = fork.parent(at);
            path.push((at.chain, fork.value));
            at = parent;
        }
        (at, path)
    }

    /// If the main chain ends with `mark`, moves the longest chain behind that there. The caller finds the branches anew.
    fn grow_main(&mut self, mark: Mark) -> bool {
        if self.tip() != mark {
            return false;
        }
        let (mut highest, mut level) = (mark, BTreeSet::from([mark]));
        while let Some(last) = level.last() {
            highest = *last;
            let upto = highest.upto.next();
            let next = self.forks.range(Mark { upto, chain: Digest::ZERO }..);
            let next = next.take_while(|(other, _)| other.upto == upto);
            level = next
                .filter(|(other, fork)| level.contains(&fork.parent(**other)))
                .map(|(other, _)| *other)
                .collect();
        }
        let (at, path) = self.take_out_to_main(highest);
        assert_eq!(at, mark, "what was found behind a place leads back to it");
        self.main.extend(path.into_iter().rev());
        highest != mark
    }

    /// A known place is decided: takes out everything that neither lies on the way to it nor descends from it, parents
    /// first. The chain through it is the main one then.
    pub fn decide(&mut self, mark: Mark) -> Vec<(Mark, T)> {
        let is_moved = self.make_main(mark);
        let mut dead = Vec::new();
        if !is_moved && self.branches.values().all(|branch| branch.from.upto >= mark.upto) {
            return dead;
        }
        for (at, fork) in std::mem::take(&mut self.forks) {
            let parent = fork.parent(at);
            let lives = at.upto > mark.upto && (self.is_main(parent) || self.fork(parent).is_some());
            if lives {
                self.forks.insert(at, fork);
            } else {
                dead.push((at, fork.value));
            }
        }
        // Only what lives is looked through for what goes on.
        if is_moved {
            self.grow_main(mark);
        }
        self.find_branches();
        dead
    }

    /// The root moves up by one place of the main chain, which is taken out. What forks off below must be gone.
    pub fn advance(&mut self) -> Option<(Mark, T)> {
        let (chain, value) = self.main.pop_front()?;
        self.root = Mark { upto: self.root.upto.next(), chain };
        let lowest = self.forks.keys().next();
        assert!(lowest.is_none_or(|lowest| lowest.upto > self.root.upto), "a fork lies below the root");
        Some((self.root, value))
    }

    /// Takes out a place that nothing lies behind.
    pub fn remove_leaf(&mut self, mark: Mark) -> Option<T> {
        if self.children(mark).next().is_some() {
            return None;
        }
        if mark == self.tip() {
            let (_, value) = self.main.pop_back()?;
            if self.grow_main(self.tip()) {
                self.find_branches();
            }
            return Some(value);
        }
        let fork = self.forks.remove(&mark)?;
        let (parent, branch) = (fork.parent(mark), fork.branch);
        let known = self.branches.get_mut(&branch).expect("invariant: a branch of a place is known");
        known.last = parent;
        if known.from == parent {
            self.branches.remove(&branch);
        }
        Some(fork.value)
    }

    /// Everything begins anew behind a place that is not known. Takes all out, parents first.
    pub fn restart(&mut self, root: Mark) -> Vec<(Mark, T)> {
        let old = std::mem::replace(self, Self::new(root));
        let main = (1..)
            .zip(old.main)
            .map(|(above, (chain, value))| (Mark { upto: old.root.upto.plus(above), chain }, value));
        main.chain(old.forks.into_iter().map(|(mark, fork)| (mark, fork.value))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The place `number` of the chain that is called `name`.
    fn mark(number: u64, name: u8) -> Mark {
        let mut chain = Digest([name; 32]);
        chain.0[0] = u8::try_from(number).expect("a short chain");
        Mark { upto: LaneNumber(number), chain }
    }

    fn grow(chains: &mut Chains<u64>, from: Mark, name: u8, count: u64) {
        let mut before = from;
        for number in from.upto.0 + 1..=from.upto.0 + count {
            let next = mark(number, name);
            assert!(chains.insert(next, before.chain, number));
            before = next;
        }
    }

    /// A: 1..5; B leaves it behind 2 and has 3..4; C leaves B behind 3 and has 4..7.
    fn forest() -> Chains<u64> {
        let mut chains = Chains::new(Mark::default());
        grow(&mut chains, Mark::default(), 1, 5);
        grow(&mut chains, mark(2, 1), 2, 2);
        grow(&mut chains, mark(3, 2), 3, 4);
        chains
    }

    /// The ends as they follow from the places.
    fn check_ends(chains: &Chains<u64>) {
        let leaf = |mark: &Mark| chains.children(*mark).next().is_none();
        let mut expected: Vec<Mark> = chains.iter().map(|(mark, _)| mark).filter(leaf).collect();
        let mut leaves = chains.leaves();
        expected.sort();
        leaves.sort();
        assert_eq!(leaves, expected);
    }

    #[test]
    fn whatever_happens_the_ends_are_known() {
        let mut chains = forest();
        check_ends(&chains);
        for place in [mark(3, 2), mark(5, 1), mark(4, 2), mark(7, 3), mark(3, 1)] {
            chains.prefer(place);
            check_ends(&chains);
        }
        for place in [mark(5, 1), mark(4, 2), mark(7, 3), mark(6, 3), mark(5, 3), mark(4, 3), mark(3, 2)] {
            assert!(chains.remove_leaf(place).is_some(), "{place:?}");
            check_ends(&chains);
        }
        grow(&mut chains, mark(2, 1), 5, 3);
        grow(&mut chains, mark(2, 1), 6, 4);
        check_ends(&chains);
        chains.decide(mark(3, 6));
        check_ends(&chains);
        grow(&mut chains, mark(4, 6), 7, 3);
        check_ends(&chains);
        for _ in 0..4 {
            chains.advance();
        }
        chains.restart(mark(9, 9));
        check_ends(&chains);
    }

    #[test]
    fn a_place_is_taken_behind_one_that_is_known_and_once() {
        let mut chains = forest();
        assert!(!chains.insert(mark(5, 1), mark(4, 1).chain, 5), "known");
        assert!(!chains.insert(mark(7, 1), mark(6, 1).chain, 7), "its parent is not known");
        assert!(!chains.insert(Mark::default(), Digest::ZERO, 0), "the root");
        assert_eq!((chains.len(), chains.forked()), (11, 6));
        assert_eq!(chains.get(mark(6, 3)), Some(&6));
        assert_eq!(chains.parent(mark(4, 3)), Some(mark(3, 2)));
        assert_eq!(chains.parent(mark(3, 2)), Some(mark(2, 1)));
        assert_eq!(chains.parent(mark(1, 1)), Some(Mark::default()));
        assert_eq!(chains.parent(Mark::default()), None);
    }

    #[test]
    fn descent_follows_the_digests() {
        let chains = forest();
        let descends = |mark, from| chains.descends(mark, from);
        assert!(descends(mark(5, 1), mark(2, 1)) && descends(mark(7, 3), mark(2, 1)));
        assert!(descends(mark(7, 3), mark(3, 2)) && descends(mark(7, 3), Mark::default()));
        assert!(descends(mark(7, 3), mark(7, 3)) && descends(Mark::default(), Mark::default()));
        assert!(!descends(mark(7, 3), mark(4, 2)) && !descends(mark(7, 3), mark(3, 1)));
        assert!(!descends(mark(5, 1), mark(3, 2)) && !descends(mark(2, 1), mark(5, 1)));
        assert!(!descends(mark(9, 9), Mark::default()), "it is not known");
        let down: Vec<u64> = chains.down_from(mark(5, 3)).map(|(at, _)| at.upto.0).collect();
        assert_eq!(down, [5, 4, 3, 2, 1]);
    }

    #[test]
    fn leaves_and_children() {
        let chains = forest();
        assert_eq!(chains.leaves(), [mark(5, 1), mark(4, 2), mark(7, 3)]);
        let children = |of| chains.children(of).collect::<Vec<_>>();
        assert_eq!(children(mark(2, 1)), [mark(3, 1), mark(3, 2)]);
        assert_eq!(children(mark(3, 2)), [mark(4, 2), mark(4, 3)]);
        assert_eq!(children(mark(7, 3)), []);
        assert_eq!(Chains::<u64>::new(Mark::default()).leaves(), []);
    }

    #[test]
    fn another_chain_can_be_the_main_one() {
        let mut chains = forest();
        chains.prefer(mark(3, 2));
        assert_eq!(chains.tip(), mark(7, 3), "the longest behind it");
        assert_eq!((chains.len(), chains.forked()), (11, 4));
        assert_eq!(chains.leaves(), [mark(7, 3), mark(4, 2), mark(5, 1)]);
        let main: Vec<Mark> = (0..=8).filter_map(|number| chains.main_at(LaneNumber(number))).collect();
        assert_eq!(main[2..=4], [mark(2, 1), mark(3, 2), mark(4, 3)]);
        assert_eq!(chains.parent(mark(3, 1)), Some(mark(2, 1)));
        chains.prefer(mark(5, 1));
        assert_eq!(chains.tip(), mark(5, 1));
        assert_eq!(chains.get(mark(6, 3)), Some(&6));
    }

    /// An origin may give out a long chain and have a short one executed: that costs one look at each place.
    #[test]
    fn a_long_chain_beside_a_decided_one_dies_in_one_pass() {
        let mut chains = Chains::new(Mark::default());
        let place = |number: u64, name: u8| {
            let mut chain = Digest([name; 32]);
            chain.0[..8].copy_from_slice(&number.to_le_bytes());
            Mark { upto: LaneNumber(number), chain }
        };
        let (mut before, count) = (Mark::default(), 200_000);
        for number in 1..=count {
            let next = place(number, 1);
            assert!(chains.insert(next, before.chain, number));
            before = next;
        }
        assert!(chains.insert(place(1, 2), Digest::ZERO, 1));
        assert_eq!(chains.decide(place(1, 2)).len() as u64, count);
        assert_eq!((chains.tip(), chains.len()), (place(1, 2), 1));
        for number in 2..=count {
            chains.insert(place(number, 2), place(number - 1, 2).chain, number);
        }
        chains.insert(place(2, 3), place(1, 2).chain, 2);
        chains.prefer(place(2, 3));
        chains.prefer(place(1, 2));
        assert_eq!(chains.decide(place(2, 2)).len(), 1);
        assert_eq!(chains.tip(), place(count, 2));
    }

    #[test]
    fn only_ends_are_taken_out() {
        let mut chains = forest();
        assert_eq!(chains.remove_leaf(mark(3, 2)), None, "others lie behind it");
        assert_eq!(chains.remove_leaf(mark(4, 2)), Some(4));
        assert_eq!(chains.remove_leaf(mark(5, 1)), Some(5));
        assert_eq!(chains.leaves(), [mark(4, 1), mark(7, 3)]);
        assert_eq!(chains.remove_leaf(mark(9, 9)), None, "it is not known");
    }

    #[test]
    fn what_is_decided_kills_what_lies_beside_it() {
        let mut chains = forest();
        let dead: Vec<Mark> = chains.decide(mark(3, 2)).into_iter().map(|(at, _)| at).collect();
        assert_eq!(dead, [mark(3, 1), mark(4, 1), mark(5, 1)]);
        assert_eq!(chains.leaves(), [mark(7, 3), mark(4, 2)]);
        let passed: Vec<Mark> = std::iter::from_fn(|| chains.advance()).take(3).map(|(at, _)| at).collect();
        assert_eq!(passed, [mark(1, 1), mark(2, 1), mark(3, 2)]);
        assert_eq!(chains.root(), mark(3, 2));
        assert!(chains.descends(mark(4, 2), mark(3, 2)) && !chains.descends(mark(4, 2), mark(2, 1)));
        let gone: Vec<Mark> = chains.restart(mark(9, 9)).into_iter().map(|(at, _)| at).collect();
        assert_eq!(
            gone,
            [4, 5, 6, 7].map(|number| mark(number, 3)).into_iter().chain([mark(4, 2)]).collect::<Vec<_>>()
        );
        assert!(chains.is_empty() && chains.tip() == mark(9, 9));
    }

    /// Place `number` of the chain that is called `name`, for long ones.
    fn far(number: u64, name: u8) -> Mark {
        let mut chain = Digest([name; 32]);
        chain.0[..8].copy_from_slice(&number.to_be_bytes());
        Mark { upto: LaneNumber(number), chain }
    }

    fn grow_far(chains: &mut Chains<u64>, name: u8, count: u64) {
        let mut before = chains.root();
        for number in 1..=count {
            assert!(chains.insert(far(number, name), before.chain, number));
            before = far(number, name);
        }
    }

    /// The look-ups of one run for each of `count` places.
    fn steps_each(chains: &Chains<u64>, count: u64, run: impl FnOnce(&mut Chains<u64>)) -> u64 {
        let mut chains = chains.clone();
        chains.steps.set(0);
        run(&mut chains);
        chains.steps.get() as u64 / count
    }

    /// An origin that lies has sent a long chain, and a short one is decided beside it: each place of the long one is
    /// looked at a few times, however long it is.
    #[test]
    fn a_long_chain_dies_in_as_many_steps_as_it_has_places() {
        for count in [100, 1000, 10_000] {
            let mut chains = Chains::new(Mark::default());
            grow_far(&mut chains, 1, count);
            grow_far(&mut chains, 2, 1);
            assert!(steps_each(&chains, count, |chains| drop(chains.decide(far(1, 2)))) <= 4, "{count}");
            assert!(steps_each(&chains, count, |chains| chains.prefer(far(1, 2))) <= 4, "{count}");
        }
    }

    /// Which places of a long fork descend from which costs nothing for its length, nor do its ends.
    #[test]
    fn a_long_fork_is_asked_about_in_few_steps() {
        for count in [100, 1000, 10_000] {
            let mut chains = Chains::new(Mark::default());
            grow_far(&mut chains, 1, 3);
            grow_far(&mut chains, 2, count);
            grow_far(&mut chains, 3, count);
            let steps = steps_each(&chains, 1, |chains| {
                assert!(
                    chains.descends(far(count, 2), far(1, 2))
                        && chains.descends(far(count, 2), Mark::default())
                );
                assert!(
                    !chains.descends(far(count, 2), far(1, 3)) && !chains.descends(far(count, 3), far(2, 1))
                );
                assert_eq!(chains.leaves(), [far(3, 1), far(count, 2), far(count, 3)]);
                assert_eq!(chains.meets_main(far(count, 3)), Some(Mark::default()));
            });
            assert!(steps <= 20, "{steps} steps for {count}");
        }
    }

    /// Whatever is done to it, the chains are those of a plain map from places to their parents.
    #[test]
    fn a_walk_agrees_with_a_plain_map() {
        let mut seed = 7u64;
        let mut random = move |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(seed >> 33).expect("31 bits") % below
        };
        for _ in 0..300 {
            let mut chains: Chains<u64> = Chains::new(Mark::default());
            let mut plain: BTreeMap<Mark, Mark> = BTreeMap::new();
            for step in 0..60u64 {
                let known: Vec<Mark> = std::iter::once(chains.root()).chain(plain.keys().copied()).collect();
                let at = known[random(known.len())];
                match random(12) {
                    0 if at != chains.root() => chains.prefer(at),
                    1 if at != chains.root() => {
                        for (dead, _) in chains.decide(at) {
                            plain.remove(&dead);
                        }
                        let on_way = |mark: &Mark| {
                            descends_plainly(&plain, *mark, at) || descends_plainly(&plain, at, *mark)
                        };
                        assert!(plain.keys().all(on_way), "nothing beside it is left");
                        if random(2) == 0 {
                            while chains.root() != at {
                                let (passed, _) = chains.advance().expect("it is on the main chain");
                                plain.remove(&passed);
                            }
                        }
                    }
                    2 => {
                        let is_leaf = at != chains.root() && !plain.values().any(|parent| *parent == at);
                        assert_eq!(chains.remove_leaf(at).is_some(), is_leaf);
                        plain.retain(|mark, _| !is_leaf || *mark != at);
                    }
                    _ => {
                        let new = far(at.upto.0 + 1, u8::try_from(step + 1).expect("few steps"));
                        assert!(chains.insert(new, at.chain, step));
                        plain.insert(new, at);
                    }
                }
                agrees(&chains, &plain);
            }
        }
    }

    fn descends_plainly(plain: &BTreeMap<Mark, Mark>, mark: Mark, from: Mark) -> bool {
        std::iter::successors(Some(mark), |at| plain.get(at).copied()).any(|at| at == from)
    }

    fn agrees(chains: &Chains<u64>, plain: &BTreeMap<Mark, Mark>) {
        assert_eq!(chains.len(), plain.len());
        for (mark, parent) in plain {
            assert_eq!(chains.parent(*mark), Some(*parent));
            let mut way = std::iter::successors(Some(*mark), |at| plain.get(at).copied());
            assert_eq!(chains.meets_main(*mark), way.find(|at| chains.is_main(*at)));
            for from in plain.keys() {
                assert_eq!(chains.descends(*mark, *from), descends_plainly(plain, *mark, *from));
            }
        }
        let mut leaves = chains.leaves();
        leaves.retain(|leaf| *leaf != chains.tip());
        let is_leaf = |mark: &&Mark| **mark != chains.tip() && !plain.values().any(|parent| parent == *mark);
        assert!(leaves.iter().eq(plain.keys().filter(is_leaf)));
    }
}
