//! Signing and checking: what a client pays for each bundle, and a replica for each bundle and vote.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use quorate_benches::{bundle, settings};
use quorate_consensus::Keyring;
use quorate_types::{Digest, ReplicaId, Seq, Signature, View};
use quorate_wire::message::Prepare;
use quorate_wire::{BundleView, Statement, testing};
use std::hint::black_box;
use std::sync::Arc;

/// A bundle by the digest of its operations: hashing them is part of reading it.
fn bundles(criterion: &mut Criterion) {
    let config = testing::config(4);
    let key = testing::client_key();
    let public = key.public();
    let bytes = bundle(&config, 1);
    let head = BundleView::parse(&bytes).expect("a valid bundle").head;
    let mut group = criterion.benchmark_group("signatures");
    group.bench_function("bundle_sign", |bencher| {
        bencher.iter(|| {
            let head = black_box(&head);
            Statement::bundle(&config, &head.client, &head.session, head.number, &head.body).sign(&key)
        });
    });
    group.bench_function("bundle_verify", |bencher| {
        bencher.iter(|| assert!(black_box(&head).is_signed_by(&config, &public)));
    });
    group.finish();
}

fn prepares(criterion: &mut Criterion) {
    let config = Arc::new(testing::config(4));
    let keyring = |id: u8| Keyring::new(Arc::clone(&config), ReplicaId(id), testing::replica_key(id));
    let (signer, verifier) = (keyring(1), keyring(0));
    let mut group = criterion.benchmark_group("signatures");
    for slots in [1u8, 64] {
        let digests = (0..slots).map(|slot| Digest([slot; 32])).collect();
        let vote = Prepare { view: View(0), lo: Seq(1), digests, signature: Signature([0; 64]) };
        let vote = signer.sign_prepare(vote).into_message();
        group.bench_function(format!("prepare_verify_{slots}_slots"), |bencher| {
            bencher.iter_batched(
                || vote.clone(),
                |vote| verifier.prepare(ReplicaId(1), vote).expect("a valid signature"),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = settings();
    targets = bundles, prepares
}
criterion_main!(benches);
