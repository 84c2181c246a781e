//! Executing bundles on a state of 100,000 keys, and its root.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate_benches::cases::{execute_1_set, execute_100_sets};
use quorate_benches::{BUNDLES, LoadedState, OPERATIONS, settings};
use std::time::{Duration, Instant};

/// An upsert into the tree, with what belongs to it in a replica: the session, the reply and the version.
fn execute(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("state");
    group.bench_function("execute_1_set_into_100k_keys", |bencher| bencher.iter(execute_1_set()));
    group.throughput(Throughput::Elements(OPERATIONS));
    group.bench_function("execute_100_sets_into_100k_keys", |bencher| bencher.iter(execute_100_sets()));
    group.finish();
}

/// The time of the root alone, after so many bundles of 100 SETs; a thousand of them change every key.
fn root(criterion: &mut Criterion) {
    let mut loaded = LoadedState::new();
    let mut group = criterion.benchmark_group("state");
    group.sample_size(10);
    for bundles in [1, BUNDLES] {
        group.bench_function(format!("root_after_{bundles}_bundles"), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut total = Duration::ZERO;
                for _ in 0..iterations {
                    loaded.next(bundles);
                    let started = Instant::now();
                    std::hint::black_box(loaded.state.root());
                    total += started.elapsed();
                }
                total
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = settings();
    targets = execute, root
}
criterion_main!(benches);
