//! Quorum arithmetic: how many of n replicas must agree (DESIGN section 1).

use crate::mistakes::is_made;
use crate::{Mistake, ReplicaId};

/// The sizes that follow from the number of replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quorums {
    /// n, the number of replicas.
    pub replicas: usize,
    /// f = ⌊(n−1)/3⌋, the number of arbitrary faults that are tolerated.
    pub faults: usize,
    /// q = ⌈(n+f+1)/2⌉. Any two quorums share at least f+1 replicas, so at least one honest one. 2f+1 would
    /// not do that at n = 5 and 6.
    pub quorum: usize,
    /// f+1: among so many there is at least one honest replica.
    pub weak: usize,
}

impl Quorums {
    /// The sizes for `replicas` replicas.
    ///
    /// # Panics
    /// When `replicas` is zero or above [`crate::limits::REPLICAS_MAX`]; configuration is checked before.
    #[must_use]
    pub fn of(replicas: usize) -> Self {
        assert!((1..=crate::limits::REPLICAS_MAX).contains(&replicas), "{replicas} replicas");
        let faults = (replicas - 1) / 3;
        let mut quorum = (replicas + faults + 1).div_ceil(2);
        if quorum != 2 * faults + 1 && is_made(Mistake::SmallQuorum) {
            quorum = 2 * faults + 1;
        }
        Self { replicas, faults, quorum, weak: faults + 1 }
    }

    /// n − f − 1: whoever asks all others has so many answers for certain, and waits for no more.
    #[must_use]
    pub fn answers(&self) -> usize {
        self.replicas - self.faults - 1
    }
}

/// A set of replicas, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicaSet(u128);

impl ReplicaSet {
    /// The set of nobody.
    pub const EMPTY: Self = Self(0);

    /// The set of `replica` alone.
    #[must_use]
    pub fn only(replica: ReplicaId) -> Self {
        let mut set = Self::EMPTY;
        set.insert(replica);
        set
    }

    /// The set of replicas 0 to n − 1.
    #[must_use]
    pub fn all(replicas: usize) -> Self {
        assert!(replicas <= crate::limits::REPLICAS_MAX);
        Self((1u128 << replicas) - 1)
    }

    /// Adds a replica; says whether it was absent.
    pub fn insert(&mut self, replica: ReplicaId) -> bool {
        assert!(replica.index() < crate::limits::REPLICAS_MAX);
        let bit = 1u128 << replica.0;
        let absent = self.0 & bit == 0;
        self.0 |= bit;
        absent
    }

    /// Removes a replica.
    pub fn remove(&mut self, replica: ReplicaId) {
        self.0 &= !(1u128 << replica.0);
    }

    /// The members of either set.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether `replica` is in the set.
    #[must_use]
    pub fn contains(self, replica: ReplicaId) -> bool {
        replica.index() < crate::limits::REPLICAS_MAX && self.0 & (1u128 << replica.0) != 0
    }

    /// The number of replicas in the set.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether nobody is in the set.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members in ascending order.
    pub fn iter(self) -> impl Iterator<Item = ReplicaId> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let lowest = u8::try_from(rest.trailing_zeros()).ok().filter(|_| rest != 0)?;
            rest &= rest - 1;
            Some(ReplicaId(lowest))
        })
    }
}

/// The `n`-th highest of `values`, counting from 1: so much `n` replicas have reached, each of them reporting one
/// value. The lowest possible value when there are fewer. Does not allocate.
///
/// # Panics
/// With more than [`crate::limits::REPLICAS_MAX`] values.
pub fn nth_highest<T: Copy + Default + Ord>(values: impl Iterator<Item = T>, n: usize) -> T {
    let mut sorted = [T::default(); crate::limits::REPLICAS_MAX];
    let mut count = 0;
    for value in values {
        sorted[count] = value;
        count += 1;
    }
    let sorted = &mut sorted[..count];
    sorted.sort_unstable_by(|left, right| right.cmp(left));
    n.checked_sub(1).and_then(|index| sorted.get(index)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quorums_intersect_in_an_honest_replica_and_survive_f_silent_ones() {
        for replicas in 1..=100 {
            let quorums = Quorums::of(replicas);
            assert!(replicas > 3 * quorums.faults);
            assert!(replicas <= 3 * quorums.faults + 3);
            // Safety: two quorums share more than f replicas.
            assert!(2 * quorums.quorum > replicas + quorums.faults, "n = {replicas}");
            // Liveness: the honest ones alone are a quorum.
            assert!(quorums.quorum <= replicas - quorums.faults, "n = {replicas}");
            // Not larger than safety needs.
            assert!(2 * (quorums.quorum - 1) <= replicas + quorums.faults, "n = {replicas}");
            assert_eq!(quorums.weak, quorums.faults + 1);
        }
    }

    #[test]
    fn known_sizes() {
        let table: Vec<(usize, usize, usize)> =
            (1..=10).map(|n| (n, Quorums::of(n).faults, Quorums::of(n).quorum)).collect();
        assert_eq!(
            table,
            [
                (1, 0, 1),
                (2, 0, 2),
                (3, 0, 2),
                (4, 1, 3),
                (5, 1, 4),
                (6, 1, 4),
                (7, 2, 5),
                (8, 2, 6),
                (9, 2, 6),
                (10, 3, 7)
            ]
        );
    }

    #[test]
    fn sets_count_each_replica_once() {
        let mut set = ReplicaSet::EMPTY;
        assert!(set.insert(ReplicaId(3)));
        assert!(!set.insert(ReplicaId(3)));
        assert!(set.insert(ReplicaId(99)));
        assert_eq!(set.iter().collect::<Vec<_>>(), [ReplicaId(3), ReplicaId(99)]);
        set.remove(ReplicaId(3));
        assert_eq!(set.len(), 1);
        assert_eq!(ReplicaSet::all(4).len(), 4);
    }

    #[test]
    fn the_nth_highest_is_what_n_have_reached() {
        let reached = |n| nth_highest([7, 3, 9, 3].into_iter(), n);
        assert_eq!([1, 2, 3, 4, 5].map(reached), [9, 7, 3, 3, 0]);
    }
}
