//! Which keys are used how often.
//!
//! The skewed ones are those of the Yahoo cloud serving benchmark: Gray's constant-time Zipfian numbers with
//! exponent 0.99, scattered over the keys by a hash, or counted back from the key that was written last.

use clap::ValueEnum;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use serde::{Deserialize, Serialize};

/// The exponent of the Zipfian distribution.
const THETA: f64 = 0.99;
/// So many terms of the zeta function are added up one by one; the rest is integrated.
const EXACT_TERMS: u64 = 1000;

/// Which keys are likely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    /// All keys are equally likely.
    Uniform,
    /// A few keys, scattered over all, get most operations (Zipf, exponent 0.99).
    Zipfian,
    /// Each SET goes to the next key, and everything else most likely to what the client wrote last.
    Latest,
    /// Each client goes through the keys one by one, from a place of its own.
    Sequential,
}

impl Distribution {
    /// The word on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipfian => "zipfian",
            Self::Latest => "latest",
            Self::Sequential => "sequential",
        }
    }
}

/// Chooses the keys of one client, by number.
#[derive(Clone, Debug)]
pub(crate) struct KeyChooser {
    distribution: Distribution,
    keys: u64,
    zipf: Zipf,
    /// The next key in the order of the keys, for those that go through them.
    next: u64,
}

impl KeyChooser {
    pub(crate) fn new(distribution: Distribution, keys: u64, client: usize, clients: usize) -> Self {
        let start = u128::from(keys) * client as u128 / clients.max(1) as u128;
        let next = u64::try_from(start).expect("invariant: below the number of keys");
        Self { distribution, keys, zipf: Zipf::new(keys), next }
    }

    /// The number of the next operation's key, below `keys`; `writes` says whether it is a SET.
    pub(crate) fn choose(&mut self, writes: bool, random: &mut ChaCha8Rng) -> u64 {
        match self.distribution {
            Distribution::Uniform => scale(random.next_u64(), self.keys),
            Distribution::Zipfian => scale(scatter(self.zipf.rank(random.next_u64())), self.keys),
            Distribution::Sequential => self.advance(),
            Distribution::Latest if writes => self.advance(),
            Distribution::Latest => {
                let back = self.zipf.rank(random.next_u64()) + 1;
                (self.next + self.keys - back) % self.keys
            }
        }
    }

    fn advance(&mut self) -> u64 {
        let number = self.next;
        self.next = if number + 1 == self.keys { 0 } else { number + 1 };
        number
    }
}

/// A number below `keys`; all are equally likely up to one part in 2^24 when `random` is uniform.
fn scale(random: u64, keys: u64) -> u64 {
    u64::try_from((u128::from(random) * u128::from(keys)) >> 64).expect("invariant: below the number of keys")
}

/// Spreads ranks over all 64-bit numbers (the finalizer of splitmix64, a bijection).
fn scatter(rank: u64) -> u64 {
    let mut value = rank.wrapping_add(0x9E37_79B9_7F4A_7C15);
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// Ranks from 0, where rank r has a probability in proportion to 1/(r+1)^θ.
#[derive(Clone, Debug)]
struct Zipf {
    items: u64,
    zeta: f64,
    alpha: f64,
    eta: f64,
}

impl Zipf {
    fn new(items: u64) -> Self {
        let zeta = zeta(items);
        let eta = (1.0 - (2.0 / items as f64).powf(1.0 - THETA)) / (1.0 - zeta_2() / zeta);
        Self { items, zeta, alpha: 1.0 / (1.0 - THETA), eta }
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the product lies between 0 and the number of items"
    )]
    fn rank(&self, random: u64) -> u64 {
        let uniform = (random >> 11) as f64 / (1u64 << 53) as f64;
        let scaled = uniform * self.zeta;
        let rank = if scaled < 1.0 {
            0
        } else if scaled < zeta_2() {
            1
        } else {
            (self.items as f64 * (self.eta * uniform - self.eta + 1.0).powf(self.alpha)) as u64
        };
        rank.min(self.items - 1)
    }
}

/// The sum of the weights of the first two ranks.
fn zeta_2() -> f64 {
    1.0 + 0.5f64.powf(THETA)
}

/// The sum of 1/i^θ for i from 1 to `items`, by Euler and Maclaurin beyond the first terms.
fn zeta(items: u64) -> f64 {
    let term = |number: u64| (number as f64).powf(-THETA);
    let exact = items.min(EXACT_TERMS);
    let sum: f64 = (1..=exact).map(term).sum();
    if items == exact {
        return sum;
    }
    let power = 1.0 - THETA;
    let integral = ((items as f64).powf(power) - (exact as f64).powf(power)) / power;
    sum + integral + (term(items) - term(exact)) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::rand_core::SeedableRng;

    fn counts(distribution: Distribution, keys: u64, draws: usize) -> Vec<usize> {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let mut chooser = KeyChooser::new(distribution, keys, 0, 1);
        let mut counts = vec![0; usize::try_from(keys).unwrap()];
        for _ in 0..draws {
            counts[usize::try_from(chooser.choose(false, &mut random)).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn the_zeta_function_is_right_where_it_is_known() {
        let exact: f64 = (1..=100_000u64).map(|number| (number as f64).powf(-THETA)).sum();
        assert!((zeta(100_000) - exact).abs() < 1e-6, "{} {exact}", zeta(100_000));
        // The constant in YCSB for ten thousand million items.
        assert!((zeta(10_000_000_000) - 26.469_028_201_783_02).abs() < 1e-4, "{}", zeta(10_000_000_000));
    }

    #[test]
    fn zipfian_ranks_have_their_shares() {
        const DRAWS: usize = 200_000;
        let zipf = Zipf::new(1000);
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let mut counts = vec![0usize; 1000];
        for _ in 0..DRAWS {
            counts[usize::try_from(zipf.rank(random.next_u64())).unwrap()] += 1;
        }
        for rank in [0usize, 1] {
            let expected = ((rank + 1) as f64).powf(-THETA) / zeta(1000) * DRAWS as f64;
            let found = counts[rank] as f64;
            assert!((found / expected - 1.0).abs() < 0.05, "rank {rank}: {found} for {expected}");
        }
        // Gray's method is approximate for the others; tens of ranks together are close.
        let expected = (10..100u64).map(|rank| ((rank + 1) as f64).powf(-THETA)).sum::<f64>() / zeta(1000);
        let found = counts[10..100].iter().sum::<usize>() as f64 / DRAWS as f64;
        assert!((found / expected - 1.0).abs() < 0.1, "{found} for {expected}");
    }

    #[test]
    fn zipfian_keys_are_scattered_and_uniform_ones_are_alike() {
        let zipfian = counts(Distribution::Zipfian, 1000, 100_000);
        let hottest = zipfian.iter().enumerate().max_by_key(|(_, count)| **count).unwrap();
        assert!(*hottest.1 > 10_000, "{hottest:?}");
        let mut sorted = zipfian.clone();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        assert_ne!(zipfian, sorted, "hot keys are not the first ones");
        let uniform = counts(Distribution::Uniform, 100, 100_000);
        assert!(uniform.iter().all(|count| (800..1200).contains(count)), "{uniform:?}");
    }

    #[test]
    fn sequential_goes_through_all_keys_and_starts_again() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut chooser = KeyChooser::new(Distribution::Sequential, 5, 1, 2);
        let numbers: Vec<_> = (0..7).map(|_| chooser.choose(true, &mut random)).collect();
        assert_eq!(numbers, [2, 3, 4, 0, 1, 2, 3]);
    }

    #[test]
    fn latest_reads_most_what_was_written_last() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut chooser = KeyChooser::new(Distribution::Latest, 1000, 0, 1);
        for written in 0..100 {
            assert_eq!(chooser.choose(true, &mut random), written);
        }
        let mut reads = [0usize; 1000];
        for _ in 0..10_000 {
            reads[usize::try_from(chooser.choose(false, &mut random)).unwrap()] += 1;
        }
        assert!(reads[99] > reads[98] && reads[98] > reads[50] && reads[99] > 1000, "{:?}", &reads[90..100]);
    }

    proptest! {
        #[test]
        fn every_choice_is_a_key(
            keys in prop_oneof![1u64..5, 1u64..1 << 40],
            clients in 1usize..50,
            seed: u64,
            which in 0usize..4,
        ) {
            let distribution = Distribution::value_variants()[which];
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let mut chooser = KeyChooser::new(distribution, keys, clients - 1, clients);
            for step in 0..50 {
                prop_assert!(chooser.choose(step % 3 == 0, &mut random) < keys);
            }
        }
    }
}
