//! The chains of one lane, by digest: what is known above one root, however often the origin has forked it.
//!
//! One chain, the *main* one, lies in a deque, where every place is an index; all others lie in a map. That is a matter of
//! speed alone: callers name a place by its digest and never ask for "the one at k".

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
    value: T,
}

/// A value for each place above a root; each place descends from the root.
#[derive(Clone, Debug)]
pub struct Chains<T> {
    root: Mark,
    main: VecDeque<(Digest, T)>,
    forks: BTreeMap<Mark, Fork<T>>,
    /// The ends of chains beside the main one.
    ends: BTreeSet<Mark>,
}

impl<T> Chains<T> {
    /// Nothing is known above `root`.
    #[must_use]
    pub fn new(root: Mark) -> Self {
        Self { root, main: VecDeque::new(), forks: BTreeMap::new(), ends: BTreeSet::new() }
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
        self.is_main(mark) || self.forks.contains_key(&mark)
    }

    /// The value of a place; the root has none.
    #[must_use]
    pub fn get(&self, mark: Mark) -> Option<&T> {
        match self.index(mark.upto).and_then(|index| self.main.get(index)) {
            Some((chain, value)) if *chain == mark.chain => Some(value),
            _ => self.forks.get(&mark).map(|fork| &fork.value),
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
        let upto = mark.upto.previous();
        if mark.upto > self.root.upto && self.is_main(mark) {
            return self.main_at(upto);
        }
        self.forks.get(&mark).map(|fork| Mark { upto, chain: fork.previous })
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
            self.ends.remove(&parent);
            self.ends.insert(mark);
            self.forks.insert(mark, Fork { previous, value });
        }
        true
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
        let mut at = mark;
        while at.upto > from.upto {
            if self.is_main(at) {
                // From here on down there is the main chain only.
                return self.is_main(from);
            }
            match self.parent(at) {
                Some(parent) => at = parent,
                None => return false,
            }
        }
        at == from
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
        let main = (!self.main.is_empty()).then(|| self.tip());
        main.into_iter().chain(self.ends.iter().copied()).collect()
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
        self.bring_to_main(mark);
        if self.tip() == mark {
            self.grow_main();
        }
    }

    /// Makes the way to a known place a part of the main chain.
    fn bring_to_main(&mut self, mark: Mark) {
        assert!(self.contains(mark), "only a known place is on a chain");
        if self.is_main(mark) {
            return;
        }
        let mut path = Vec::new();
        let mut at = mark;
        while let Some(fork) = self.forks.remove(&at) {
            let parent = Mark { upto: at.upto.previous(), chain: fork.previous };
            path.push((at.chain, fork.value));
            at = parent;
        }
        self.cut_main_above(at.upto);
        self.ends.remove(&mark);
        self.main.extend(path.into_iter().rev());
    }

    fn cut_main_above(&mut self, number: LaneNumber) {
        if self.tip().upto > number {
            self.ends.insert(self.tip());
        }
        while self.tip().upto > number {
            let mark = self.tip();
            let (_, value) = self.main.pop_back().expect("invariant: the tip lies above the root");
            self.forks.insert(mark, Fork { previous: self.tip().chain, value });
        }
    }

    /// Moves the longest chain behind the end of the main one there. One pass: places come in the order of their numbers, each
    /// after its parent.
    fn grow_main(&mut self) {
        let tip = self.tip();
        let mut behind: BTreeSet<Mark> = BTreeSet::from([tip]);
        let from = Mark { upto: tip.upto.next(), chain: Digest::ZERO };
        for (mark, fork) in self.forks.range(from..) {
            if behind.contains(&Mark { upto: mark.upto.previous(), chain: fork.previous }) {
                behind.insert(*mark);
            }
        }
        let mut at = *behind.last().expect("invariant: the end of the main chain is in there");
        self.ends.remove(&at);
        let mut path = Vec::new();
        while at != tip {
            let fork = self.forks.remove(&at).expect("invariant: it descends from the end of the main chain");
            path.push((at.chain, fork.value));
            at = Mark { upto: at.upto.previous(), chain: fork.previous };
        }
        self.main.extend(path.into_iter().rev());
    }

    /// A known place is decided: takes out everything that neither lies on the way to it nor descends from it, parents
    /// first.
    pub fn decide(&mut self, mark: Mark) -> Vec<(Mark, T)> {
        let mut dead = Vec::new();
        if self.is_main(mark) && self.forks.is_empty() {
            return dead;
        }
        self.bring_to_main(mark);
        for (at, fork) in std::mem::take(&mut self.forks) {
            let parent = Mark { upto: at.upto.previous(), chain: fork.previous };
            let lives = at.upto > mark.upto && (self.is_main(parent) || self.forks.contains_key(&parent));
            if lives {
                self.forks.insert(at, fork);
            } else {
                self.ends.remove(&at);
                dead.push((at, fork.value));
            }
        }
        if self.tip() == mark {
            self.grow_main();
        }
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
            self.grow_main();
            return Some(value);
        }
        let Fork { previous, value } = self.forks.remove(&mark)?;
        let parent = Mark { upto: mark.upto.previous(), chain: previous };
        self.ends.remove(&mark);
        if self.forks.contains_key(&parent) && self.children(parent).next().is_none() {
            self.ends.insert(parent);
        }
        Some(value)
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
}
