//! Signing and checking: what a client pays for each bundle, and a replica for each bundle and vote.

use criterion::{Criterion, criterion_group, criterion_main};
use quorate_benches::cases::{sign_bundle, verify_bundle, verify_prepare};
use quorate_benches::settings;

/// A bundle by the digest of its operations: hashing them is part of reading it.
fn bundles(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("signatures");
    group.bench_function("bundle_sign", |bencher| bencher.iter(sign_bundle()));
    group.bench_function("bundle_verify", |bencher| bencher.iter(verify_bundle()));
    group.finish();
}

fn prepares(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("signatures");
    for slots in [1u8, 64] {
        let name = format!("prepare_verify_{slots}_slots");
        group.bench_function(name, |bencher| bencher.iter(verify_prepare(slots)));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = settings();
    targets = bundles, prepares
}
criterion_main!(benches);
