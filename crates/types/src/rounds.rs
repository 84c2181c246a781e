//! Whom to ask next, when any of several replicas may help.

use crate::{ReplicaId, ReplicaSet};

/// Asks each candidate once before any is asked again, however the list of candidates changes meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rounds {
    asked: ReplicaSet,
    /// Full rounds that did not help; the caller gives servers more time after each.
    completed: u32,
}

impl Rounds {
    /// The first candidate that was not asked in this round; when all were, a new round begins.
    pub fn next(&mut self, candidates: impl Iterator<Item = ReplicaId> + Clone) -> Option<ReplicaId> {
        let fresh = candidates.clone().find(|candidate| !self.asked.contains(*candidate));
        let chosen = fresh.or_else(|| {
            let first = candidates.into_iter().next()?;
            self.asked = ReplicaSet::EMPTY;
            self.completed = self.completed.saturating_add(1);
            Some(first)
        })?;
        self.asked.insert(chosen);
        Some(chosen)
    }

    /// Somebody helped: the next search begins anew.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Full rounds that did not help.
    #[must_use]
    pub fn completed(&self) -> u32 {
        self.completed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_asked_once_a_round_even_if_the_list_grows() {
        let mut rounds = Rounds::default();
        let (two, three) = ([1, 3].map(ReplicaId), [1, 2, 3].map(ReplicaId));
        assert_eq!(rounds.next(two.into_iter()), Some(ReplicaId(1)));
        assert_eq!(rounds.next(two.into_iter()), Some(ReplicaId(3)));
        assert_eq!(rounds.next(three.into_iter()), Some(ReplicaId(2)));
        assert_eq!(rounds.completed(), 0);
        assert_eq!(rounds.next(three.into_iter()), Some(ReplicaId(1)));
        assert_eq!(rounds.completed(), 1);
        assert_eq!(rounds.next(std::iter::empty()), None);
        rounds.reset();
        assert_eq!(rounds.completed(), 0);
    }
}
