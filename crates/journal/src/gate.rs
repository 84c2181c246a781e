//! Durable before send: effects wait here until what they depend on cannot be lost (DESIGN section 5).

use quorate_types::{After, JournalId, Lsn};
use std::collections::VecDeque;

/// The contiguous durable prefix of each journal.
#[derive(Clone, Debug)]
pub struct Watermarks(Vec<Lsn>);

impl Watermarks {
    /// Nothing is durable yet in any of `journals` journals.
    #[must_use]
    pub fn new(journals: usize) -> Self {
        Self(vec![Lsn(0); journals])
    }

    /// Notes that `journal` is durable up to `upto`; says whether that is news.
    ///
    /// # Panics
    /// When there is no such journal: journals are a replica's own.
    pub fn raise(&mut self, journal: JournalId, upto: Lsn) -> bool {
        let mark = &mut self.0[journal.index()];
        let news = upto > *mark;
        *mark = upto.max(*mark);
        news
    }

    /// Whether all that `after` names is durable.
    #[must_use]
    pub fn reached(&self, after: &After) -> bool {
        after.positions().iter().all(|(journal, lsn)| self.0[journal.index()] >= *lsn)
    }
}

/// Holds items until what they wait for is durable. Items that wait for the same leave in the order in which
/// they came; an item that waits for nothing passes at once.
#[derive(Debug)]
pub struct Gate<T> {
    watermarks: Watermarks,
    held: VecDeque<(After, T)>,
}

impl<T> Gate<T> {
    /// A gate in front of `journals` journals.
    #[must_use]
    pub fn new(journals: usize) -> Self {
        Self { watermarks: Watermarks::new(journals), held: VecDeque::new() }
    }

    /// Passes `item` on at once if it need not wait, and holds it otherwise.
    pub fn admit(&mut self, after: After, item: T) -> Option<T> {
        if self.watermarks.reached(&after) {
            return Some(item);
        }
        self.held.push_back((after, item));
        None
    }

    /// Notes durability and hands every item that has waited long enough to `release`, oldest first.
    /// Says whether the durability was news.
    pub fn on_durable(&mut self, journal: JournalId, upto: Lsn, mut release: impl FnMut(T)) -> bool {
        if !self.watermarks.raise(journal, upto) {
            return false;
        }
        for _ in 0..self.held.len() {
            let Some((after, item)) = self.held.pop_front() else { break };
            if self.watermarks.reached(&after) {
                release(item);
            } else {
                self.held.push_back((after, item));
            }
        }
        true
    }

    /// The number of items held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_item_waits_for_every_journal_that_it_names() {
        let mut gate = Gate::new(2);
        let mut after = After::position(JournalId(0), Lsn(2));
        after.and(JournalId(1), Lsn(1));
        assert_eq!(gate.admit(after, "vote"), None);
        assert_eq!(gate.admit(After::nothing(), "free"), Some("free"));
        let mut released = Vec::new();
        gate.on_durable(JournalId(0), Lsn(2), |item| released.push(item));
        assert!(released.is_empty());
        gate.on_durable(JournalId(1), Lsn(7), |item| released.push(item));
        assert_eq!(released, ["vote"]);
        assert_eq!(gate.held(), 0);
    }

    proptest! {
        #[test]
        fn nothing_leaves_early_nothing_stays_and_order_is_kept(
            waits in prop::collection::vec((0u8..3, 0u64..20), 1..40),
            mut marks in prop::collection::vec((0u8..3, 0u64..20), 0..40),
        ) {
            marks.extend([(0, 20), (1, 20), (2, 20)]);
            let mut gate = Gate::new(3);
            let mut durable = [0u64; 3];
            let mut left = Vec::new();
            for (index, (journal, lsn)) in waits.iter().enumerate() {
                if gate.admit(After::position(JournalId(*journal), Lsn(*lsn)), index).is_some() {
                    prop_assert_eq!(*lsn, 0);
                }
            }
            for (journal, lsn) in marks {
                durable[usize::from(journal)] = durable[usize::from(journal)].max(lsn);
                gate.on_durable(JournalId(journal), Lsn(lsn), |index| left.push((index, durable)));
            }
            prop_assert_eq!(gate.held(), 0);
            for (index, at) in &left {
                prop_assert!(at[usize::from(waits[*index].0)] >= waits[*index].1);
            }
            for pair in left.windows(2) {
                if waits[pair[0].0] == waits[pair[1].0] {
                    prop_assert!(pair[0].0 < pair[1].0);
                }
            }
        }
    }
}
