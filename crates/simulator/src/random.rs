//! The one source of chance: streams of ChaCha8, one per purpose, all derived from the seed of a history.
//!
//! Separate streams keep one decision from shifting all others: a history with one fault more still has the
//! same workload, which makes findings easier to compare.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What a stream of chance decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Stream {
    /// The shape of the history.
    Plan = 1,
    /// Which faults happen when.
    Faults = 2,
    /// Delays and losses of frames.
    Network = 3,
    /// How long writes take.
    Disk = 4,
    /// How fast cores run.
    Cores = 5,
    /// Which of two simultaneous events comes first.
    Queue = 6,
    /// What clients do.
    Workload = 7,
    /// In the middle of what replicas crash, and what is left on their disks.
    Crashes = 8,
    /// Which clients share a key, and which registrations are sent again.
    Sessions = 9,
    /// Which faults coincide on purpose.
    Scenes = 10,
    /// Who lies, and how.
    Liars = 11,
    /// What liars say.
    Lies = 12,
    /// Which bounds are small.
    Bounds = 13,
    /// What time there is after all faults, where somebody lies.
    Room = 14,
    /// What else liars do.
    Habits = 15,
    /// Whom liars avoid, and how.
    Avoidance = 17,
    /// Whether a history is one scene.
    Direction = 16,
    /// Whether a history is one scene in which somebody lies.
    Intrigue = 18,
    /// Where in its lane a liar leaves a fork behind.
    Leaving = 19,
    /// Whether a history is one scene in which votes come late.
    Lateness = 20,
    /// Whether a client key wants all it can get.
    Greed = 21,
}

/// One stream of chance.
#[derive(Debug)]
pub struct Random(ChaCha8Rng);

impl Random {
    /// The stream of `seed` for one purpose.
    #[must_use]
    pub fn new(seed: u64, stream: Stream) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(stream as u64);
        Self(generator)
    }

    /// 32 random bits.
    pub fn bits(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.0.next_u64()) * u128::from(bound);
        u64::try_from(wide >> 64).expect("invariant: below the bound, which has 64 bits")
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// A number from `low` to `high` whose order of magnitude is uniform, so that small ones are frequent.
    pub fn magnitude(&mut self, low: u64, high: u64) -> u64 {
        let low = low.max(1);
        let doublings = u64::from((high / low).max(1).ilog2());
        let start = low << self.between(0, doublings);
        self.between(start, (2 * start).min(high)).min(high)
    }

    /// True in `chance` of 100 cases.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// True in `chance` of 1000 cases.
    pub fn permille(&mut self, chance: u64) -> bool {
        self.below(1000) < chance
    }

    /// An index below `length`.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("invariant: below a usize")
    }

    /// One of `items`.
    ///
    /// # Panics
    /// When there is none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.index(items.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ() {
        let draw = |seed, stream| Random::new(seed, stream).below(u64::MAX);
        assert_eq!(draw(1, Stream::Plan), draw(1, Stream::Plan));
        assert_ne!(draw(1, Stream::Plan), draw(2, Stream::Plan));
        assert_ne!(draw(1, Stream::Plan), draw(1, Stream::Faults));
    }

    #[test]
    fn numbers_stay_within_their_bounds() {
        let mut random = Random::new(7, Stream::Plan);
        for _ in 0..1000 {
            assert!(random.below(10) < 10);
            assert!((5..=9).contains(&random.between(5, 9)));
            assert!((20..=5000).contains(&random.magnitude(20, 5000)));
        }
        assert_eq!(random.below(0), 0);
        assert_eq!(random.between(4, 4), 4);
    }
}
