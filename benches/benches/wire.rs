//! Reading what arrives: bundles, batches and frames.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate_benches::cases::{
    BATCH_BUNDLES, access_archive, batch_bytes, deserialize_archive, encode_operations, parse_batch,
};
use quorate_benches::{bundle, settings};
use quorate_types::limits;
use quorate_wire::{Assembler, BundleView, Frame, Kind, testing};
use std::hint::black_box;

/// The size of the reactor's receive buffers.
const PIECE_BYTES: usize = 16 * 1024;

fn parse(criterion: &mut Criterion) {
    let config = testing::config(4);
    let mut group = criterion.benchmark_group("wire");

    let bytes = bundle(&config, 1);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("bundle_parse_100_sets", |bencher| {
        bencher.iter(|| BundleView::parse(black_box(&bytes)).expect("a valid bundle").head);
    });

    group.throughput(Throughput::Bytes(batch_bytes().len() as u64));
    group.bench_function("batch_parse_16_bundles", |bencher| bencher.iter(parse_batch()));
    group.finish();
}

/// The archive alone: written, checked in place, and copied out.
fn archive(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wire");
    group.bench_function("encode_100_sets_of_200_bytes", |bencher| bencher.iter(encode_operations()));
    group.bench_function("access_100_sets_of_200_bytes", |bencher| bencher.iter(access_archive()));
    group.bench_function("from_bytes_100_sets_of_200_bytes", |bencher| bencher.iter(deserialize_archive()));
    group.finish();
}

/// A stream of bundles, cut at the boundaries of receive buffers and not of frames.
fn assemble(criterion: &mut Criterion) {
    let config = testing::config(4);
    let frame = |number| Frame::encode(Kind::Bundle, |out| out.extend_from_slice(&bundle(&config, number)));
    let stream: Vec<u8> = (0..BATCH_BUNDLES).flat_map(|number| frame(number).bytes().to_vec()).collect();
    let mut group = criterion.benchmark_group("wire");
    group.throughput(Throughput::Bytes(stream.len() as u64));
    group.bench_function("frame_assemble_16_bundles", |bencher| {
        let mut assembler = Assembler::new(limits::FRAME_BYTES_MAX);
        bencher.iter(|| {
            let mut frames = 0;
            for piece in black_box(&stream).chunks(PIECE_BYTES) {
                let mut input = piece;
                while assembler.next(&mut input).expect("a valid stream").is_some() {
                    frames += 1;
                }
            }
            assert_eq!(frames, BATCH_BUNDLES);
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = settings();
    targets = parse, archive, assemble
}
criterion_main!(benches);
