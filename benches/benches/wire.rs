//! Reading what arrives: bundles, batches and frames.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate_benches::{batch, bundle, settings};
use quorate_types::{Digest, LaneId, LaneNumber, LinkId, ReplicaId, limits};
use quorate_wire::batch::BatchHead;
use quorate_wire::{Assembler, BatchView, BundleView, Frame, Kind, testing};
use std::hint::black_box;

/// The bundles in the batch.
const BUNDLES: u64 = 16;
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

    let lane = LaneId { origin: ReplicaId(0), link: LinkId(0) };
    let head = BatchHead { lane, number: LaneNumber(1), previous: Digest::ZERO };
    let bytes = batch(&config, &head, BUNDLES);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("batch_parse_16_bundles", |bencher| {
        bencher.iter(|| BatchView::parse(black_box(&bytes)).expect("a valid batch").chain());
    });
    group.finish();
}

/// A stream of bundles, cut at the boundaries of receive buffers and not of frames.
fn assemble(criterion: &mut Criterion) {
    let config = testing::config(4);
    let frame = |number| Frame::encode(Kind::Bundle, |out| out.extend_from_slice(&bundle(&config, number)));
    let stream: Vec<u8> = (0..BUNDLES).flat_map(|number| frame(number).bytes().to_vec()).collect();
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
            assert_eq!(frames, BUNDLES);
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = settings();
    targets = parse, assemble
}
criterion_main!(benches);
