//! What will happen, ordered by virtual time; chance decides between simultaneous events.

use crate::random::{Random, Stream};
use quorate_types::Nanoseconds;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

#[derive(Debug)]
struct Entry<E> {
    at: Nanoseconds,
    tie: u32,
    number: u64,
    event: E,
}

impl<E> Entry<E> {
    fn key(&self) -> (Nanoseconds, u32, u64) {
        (self.at, self.tie, self.number)
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    /// The earliest entry is the greatest, as the heap hands out the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

/// The queue of events.
#[derive(Debug)]
pub struct Queue<E> {
    heap: BinaryHeap<Entry<E>>,
    random: Random,
    pushed: u64,
}

impl<E> Queue<E> {
    /// An empty queue.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { heap: BinaryHeap::new(), random: Random::new(seed, Stream::Queue), pushed: 0 }
    }

    /// Lets `event` happen at `at`.
    pub fn push(&mut self, at: Nanoseconds, event: impl Into<E>) {
        self.pushed += 1;
        let tie = self.random.bits();
        self.heap.push(Entry { at, tie, number: self.pushed, event: event.into() });
    }

    /// The next event and its time.
    pub fn pop(&mut self) -> Option<(Nanoseconds, E)> {
        self.heap.pop().map(|entry| (entry.at, entry.event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_the_order_of_time_and_ties_in_any_order() {
        let orders: Vec<Vec<u32>> = (0..20)
            .map(|seed| {
                let mut queue: Queue<u32> = Queue::new(seed);
                for event in [30u32, 10, 11, 20] {
                    queue.push(Nanoseconds(u64::from(event / 10)), event);
                }
                std::iter::from_fn(|| queue.pop()).map(|(_, event)| event).collect()
            })
            .collect();
        assert!(orders.contains(&vec![10, 11, 20, 30]));
        assert!(orders.contains(&vec![11, 10, 20, 30]));
        assert!(orders.iter().all(|order| order[2..] == [20, 30]));
    }
}
