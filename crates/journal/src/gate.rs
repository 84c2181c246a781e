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
        self.missing(after).is_none()
    }

    /// The first position in `after` that is not durable.
    fn missing(&self, after: &After) -> Option<(JournalId, Lsn)> {
        after.positions().iter().copied().find(|(journal, lsn)| self.0[journal.index()] < *lsn)
    }
}

/// Holds items until what they wait for is durable. Items that wait for the same leave in the order in which
/// they came; an item that waits for nothing passes at once.
///
/// An item stands in the queue of one journal that it waits for, ascending by position, and changes over when that
/// one is reached and another is not: a report of durability touches only what stands before it.
#[derive(Debug)]
pub struct Gate<T> {
    watermarks: Watermarks,
    /// By journal.
    queues: Vec<VecDeque<Held<T>>>,
    /// The number of items ever held, which is their order.
    admitted: u64,
    held: usize,
    /// Kept for its memory.
    released: Vec<Held<T>>,
}

#[derive(Debug)]
struct Held<T> {
    lsn: Lsn,
    order: u64,
    after: After,
    item: T,
}

impl<T> Gate<T> {
    /// A gate in front of `journals` journals.
    #[must_use]
    pub fn new(journals: usize) -> Self {
        Self {
            watermarks: Watermarks::new(journals),
            queues: std::iter::repeat_with(VecDeque::new).take(journals).collect(),
            admitted: 0,
            held: 0,
            released: Vec::new(),
        }
    }

    /// Passes `item` on at once if it need not wait, and holds it otherwise.
    pub fn admit(&mut self, after: After, item: T) -> Option<T> {
        let Some((journal, lsn)) = self.watermarks.missing(&after) else { return Some(item) };
        let order = self.admitted;
        self.admitted += 1;
        self.held += 1;
        self.enqueue(journal, Held { lsn, order, after, item });
        None
    }

    fn enqueue(&mut self, journal: JournalId, held: Held<T>) {
        let queue = &mut self.queues[journal.index()];
        let key = (held.lsn, held.order);
        // Positions mostly rise.
        if queue.back().is_none_or(|last| (last.lsn, last.order) < key) {
            queue.push_back(held);
        } else {
            let at = queue.partition_point(|other| (other.lsn, other.order) < key);
            queue.insert(at, held);
        }
    }

    /// Notes durability and hands every item that has waited long enough to `release`, oldest first.
    /// Says whether the durability was news.
    pub fn on_durable(&mut self, journal: JournalId, upto: Lsn, mut release: impl FnMut(T)) -> bool {
        if !self.watermarks.raise(journal, upto) {
            return false;
        }
        let mut released = std::mem::take(&mut self.released);
        while let Some(mut held) = self.queues[journal.index()].pop_front_if(|held| held.lsn <= upto) {
            match self.watermarks.missing(&held.after) {
                Some((other, lsn)) => {
                    held.lsn = lsn;
                    self.enqueue(other, held);
                }
                None => released.push(held),
            }
        }
        released.sort_unstable_by_key(|held| held.order);
        self.held -= released.len();
        released.drain(..).for_each(|held| release(held.item));
        self.released = released;
        true
    }

    /// The number of items held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
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
            waits in prop::collection::vec(prop::collection::vec((0u8..3, 0u64..20), 1..3), 1..40),
            mut marks in prop::collection::vec((0u8..3, 0u64..20), 0..40),
        ) {
            marks.extend([(0, 20), (1, 20), (2, 20)]);
            let mut gate = Gate::new(3);
            let mut durable = [0u64; 3];
            let mut left = Vec::new();
            let due = |index: usize, durable: &[u64; 3]| {
                waits[index].iter().all(|(journal, lsn)| durable[usize::from(*journal)] >= *lsn)
            };
            for (index, positions) in waits.iter().enumerate() {
                let mut after = After::nothing();
                positions.iter().for_each(|(journal, lsn)| after.and(JournalId(*journal), Lsn(*lsn)));
                prop_assert_eq!(gate.admit(after, index).is_some(), due(index, &durable));
            }
            let mut waiting = (0..waits.len()).filter(|index| !due(*index, &durable)).count();
            for (journal, lsn) in marks {
                durable[usize::from(journal)] = durable[usize::from(journal)].max(lsn);
                gate.on_durable(JournalId(journal), Lsn(lsn), |index| left.push((index, durable)));
                let stay = (0..waits.len()).filter(|index| !due(*index, &durable)).count();
                prop_assert!(stay <= waiting);
                waiting = stay;
                prop_assert_eq!(gate.held(), stay);
            }
            prop_assert_eq!(gate.held(), 0);
            for (index, at) in &left {
                prop_assert!(due(*index, at));
            }
            for pair in left.windows(2) {
                if waits[pair[0].0] == waits[pair[1].0] {
                    prop_assert!(pair[0].0 < pair[1].0);
                }
            }
        }
    }
}
