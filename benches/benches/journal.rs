//! What a record costs today, when journals are in memory: its bytes are the frame as it travelled, encoded once for
//! network and journal alike, and the gate holds what waits for its durability.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate_benches::cases::{
    FRAME_BYTES, encode_frame, frame_of_bytes, pass_gate, read_frame, record_of_frame,
};
use quorate_benches::settings;

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal");
    group.throughput(Throughput::Bytes(FRAME_BYTES as u64));
    group.bench_function("frame_encode_64_kib", |bencher| bencher.iter(encode_frame()));
    group.bench_function("frame_copy_64_kib", |bencher| bencher.iter(frame_of_bytes()));
    group.bench_function("frame_check_64_kib", |bencher| bencher.iter(read_frame()));
    group.finish();
}

fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal");
    group.bench_function("record_of_frame", |bencher| bencher.iter(record_of_frame()));
    group.bench_function("gate_holds_and_releases_64", |bencher| bencher.iter(pass_gate()));
    group.finish();
}

criterion_group! {
    name = benches;
    config = settings();
    targets = frames, records
}
criterion_main!(benches);
