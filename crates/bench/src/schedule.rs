//! When the bundles of an open loop should be sent: fixed before the first is, so that a cluster that is slow
//! cannot slow down those who measure it.

use clap::ValueEnum;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Streams of random numbers from here on belong to arrivals, those below to operations.
const FIRST_STREAM: u64 = 1 << 32;

/// How bundles arrive in an open loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrival {
    /// At equal distances; clients take turns.
    Constant,
    /// At random, independent of each other, as from many users (a Poisson process).
    Poisson,
}

impl Arrival {
    /// The word on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Poisson => "poisson",
        }
    }
}

/// The intended starts of one client's bundles, as time since the start of the load; never falling.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    /// The mean time between two bundles of this client.
    gap_ns: f64,
    arrivals: Arrivals,
    next_ns: f64,
}

#[derive(Clone, Debug)]
enum Arrivals {
    /// The number of the next bundle, and when the first is due.
    Constant {
        number: u64,
        first_ns: f64,
    },
    Poisson(Box<ChaCha8Rng>),
}

/// All clients' arrivals together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) arrival: Arrival,
    /// Of all clients.
    pub(crate) operations_per_s: f64,
    pub(crate) bundle: usize,
    pub(crate) clients: usize,
    pub(crate) seed: u64,
}

impl Schedule {
    /// The part of one client.
    pub(crate) fn new(rate: &Rate, client: usize) -> Self {
        let gap_ns = rate.clients as f64 * rate.bundle as f64 * 1e9 / rate.operations_per_s;
        let arrivals = match rate.arrival {
            Arrival::Constant => {
                let first_ns = gap_ns * client as f64 / rate.clients as f64;
                Arrivals::Constant { number: 0, first_ns }
            }
            Arrival::Poisson => {
                let mut random = ChaCha8Rng::seed_from_u64(rate.seed);
                random.set_stream(FIRST_STREAM + client as u64);
                Arrivals::Poisson(Box::new(random))
            }
        };
        let mut schedule = Self { gap_ns, arrivals, next_ns: 0.0 };
        schedule.advance();
        schedule
    }

    /// When the next bundle is due.
    pub(crate) fn due(&self) -> Duration {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "never negative; the cast saturates after 584 years"
        )]
        Duration::from_nanos(self.next_ns as u64)
    }

    /// Goes on to the bundle after it.
    pub(crate) fn advance(&mut self) {
        match &mut self.arrivals {
            Arrivals::Constant { number, first_ns } => {
                // Not a sum, which would add up its rounding.
                self.next_ns = *first_ns + *number as f64 * self.gap_ns;
                *number += 1;
            }
            Arrivals::Poisson(random) => {
                // Above 0 and at most 1, so that the logarithm exists.
                let uniform = ((random.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
                self.next_ns -= uniform.ln() * self.gap_ns;
            }
        }
    }

    /// How many bundles are due before `end` and were not counted before.
    pub(crate) fn count_until(&mut self, end: Duration) -> u64 {
        let mut count = 0;
        while self.due() < end {
            self.advance();
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(arrival: Arrival, operations_per_s: f64, bundle: usize, clients: usize) -> Rate {
        Rate { arrival, operations_per_s, bundle, clients, seed: 1 }
    }

    #[test]
    fn constant_arrivals_are_equally_far_apart_and_clients_take_turns() {
        let rate = rate(Arrival::Constant, 1000.0, 10, 4);
        let mut all = Vec::new();
        for client in 0..4 {
            let mut schedule = Schedule::new(&rate, client);
            for _ in 0..25 {
                all.push(schedule.due());
                schedule.advance();
            }
        }
        all.sort();
        let expected: Vec<_> = (0..100).map(|number| Duration::from_millis(10 * number)).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread() {
        let rate = rate(Arrival::Poisson, 100_000.0, 10, 2);
        let mut schedule = Schedule::new(&rate, 1);
        let mut gaps = Vec::new();
        let mut last = Duration::ZERO;
        for _ in 0..20_000 {
            gaps.push((schedule.due() - last).as_secs_f64() * 1e6);
            last = schedule.due();
            schedule.advance();
        }
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        assert!((mean / 200.0 - 1.0).abs() < 0.05, "{mean}");
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "exponential gaps: {variance} {mean}");
    }

    #[test]
    fn the_same_seed_makes_the_same_arrivals_and_clients_differ() {
        let rate = rate(Arrival::Poisson, 1000.0, 1, 3);
        let due = |client| Schedule::new(&rate, client).due();
        assert_eq!(due(1), due(1));
        assert_ne!(due(1), due(2));
        let other = Rate { seed: 2, ..rate };
        assert_ne!(due(1), Schedule::new(&other, 1).due());
    }

    #[test]
    fn slow_rates_and_long_runs_stay_on_schedule() {
        let rate = rate(Arrival::Constant, 0.5, 1, 1);
        let mut schedule = Schedule::new(&rate, 0);
        assert_eq!(schedule.count_until(Duration::from_secs(86_400)), 43_200);
        assert_eq!(schedule.due(), Duration::from_secs(86_400));
    }

    proptest! {
        #[test]
        fn counting_in_pieces_counts_everything_once(
            operations_per_s in 1.0f64..1e6,
            bundle in 1usize..200,
            clients in 1usize..9,
            poisson: bool,
            edges in proptest::collection::vec(0u64..200, 1..10),
        ) {
            let arrival = if poisson { Arrival::Poisson } else { Arrival::Constant };
            let rate = rate(arrival, operations_per_s, bundle, clients);
            let mut edges: Vec<_> = edges.into_iter().map(Duration::from_millis).collect();
            edges.sort();
            let (mut whole, mut pieces) = (0, 0);
            for client in 0..clients {
                whole += Schedule::new(&rate, client).count_until(*edges.last().unwrap());
                let mut schedule = Schedule::new(&rate, client);
                pieces += edges.iter().map(|edge| schedule.count_until(*edge)).sum::<u64>();
            }
            prop_assert_eq!(whole, pieces);
            if arrival == Arrival::Constant {
                let expected = edges.last().unwrap().as_secs_f64() * operations_per_s / bundle as f64;
                prop_assert!((whole as f64 - expected).abs() <= 1.0 + 1e-6 * expected, "{whole} {expected}");
            }
        }
    }
}
