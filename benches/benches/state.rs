//! Executing bundles on a state of 100,000 keys, and its root.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate_benches::{KEYS, OPERATIONS, operations, session, settings};
use quorate_state::{BundleInput, Context, Outcome, State};
use quorate_types::{ArchivedOperation, BundleNumber, Nanoseconds, Operation, Seq};
use quorate_wire::testing;
use rkyv::rancor::Error;
use rkyv::util::AlignedVec;
use rkyv::vec::ArchivedVec;
use std::time::{Duration, Instant};

/// The bundles that write each key once.
const BUNDLES: u64 = KEYS / OPERATIONS;

/// A state with one session, and the archived bundles that it executes over and over.
struct Loaded {
    state: State,
    client: [u8; 32],
    bundles: Vec<AlignedVec>,
    number: u64,
}

fn archive(operations: &Vec<Operation>) -> AlignedVec {
    rkyv::to_bytes::<Error>(operations).expect("operations can be archived")
}

impl Loaded {
    /// A state in which each key was written once.
    fn new() -> Self {
        let client = *testing::client_key().public().as_bytes();
        let bundles = (0..BUNDLES).map(|number| archive(&operations(number))).collect();
        let mut loaded = Self { state: State::new([client]), client, bundles, number: 0 };
        loaded.execute(&archive(&vec![Operation::Register { counter: 1 }]));
        loaded.next(BUNDLES);
        assert_eq!(loaded.state.user_keys(), KEYS);
        loaded
    }

    /// Executes the next bundles; bundle 0 of the session is its registration, those that follow take turns.
    fn next(&mut self, count: u64) {
        let bundles = std::mem::take(&mut self.bundles);
        for _ in 0..count {
            let turn = usize::try_from((self.number - 1) % BUNDLES).expect("a small number");
            self.execute(&bundles[turn]);
        }
        self.bundles = bundles;
    }

    fn execute(&mut self, archive: &[u8]) {
        let operations =
            rkyv::access::<ArchivedVec<ArchivedOperation>, Error>(archive).expect("a fresh archive");
        let seq = self.number + 1;
        let context = Context { seq: Seq(seq), timestamp: Nanoseconds(seq) };
        let number = BundleNumber(self.number);
        let input = BundleInput { client: &self.client, session: session(), number, operations };
        assert!(matches!(self.state.execute(context, input), Outcome::Executed(_)));
        self.number += 1;
    }
}

fn execute(criterion: &mut Criterion) {
    let mut loaded = Loaded::new();
    let mut group = criterion.benchmark_group("state");
    group.throughput(Throughput::Elements(OPERATIONS));
    group.bench_function("execute_100_sets_into_100k_keys", |bencher| {
        bencher.iter(|| loaded.next(1));
    });
    group.finish();
}

/// The time of the root alone; what changed since the last one is a thousand bundles, that is every key.
fn root(criterion: &mut Criterion) {
    let mut loaded = Loaded::new();
    let mut group = criterion.benchmark_group("state");
    group.sample_size(10);
    group.bench_function("root_after_1000_bundles", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut total = Duration::ZERO;
            for _ in 0..iterations {
                loaded.next(BUNDLES);
                let started = Instant::now();
                std::hint::black_box(loaded.state.root());
                total += started.elapsed();
            }
            total
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = settings();
    targets = execute, root
}
criterion_main!(benches);
