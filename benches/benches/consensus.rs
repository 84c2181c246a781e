//! One header through consensus on four machines in memory: proposed, accepted, prepared and committed by all.

use criterion::{Criterion, criterion_group, criterion_main};
use quorate_benches::cases::order_one_header;
use quorate_benches::settings;

fn one_header(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("consensus");
    group.bench_function("one_header_on_4_machines", |bencher| bencher.iter(order_one_header()));
    group.finish();
}

criterion_group! {
    name = benches;
    config = settings();
    targets = one_header
}
criterion_main!(benches);
