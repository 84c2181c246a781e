//! What is believed of a batch, and that any bytes are answered and none panics.

mod common;

use common::*;
use proptest::prelude::*;
use quorate_lanes::{Batch, Reject};
use quorate_types::{BundleNumber, Digest, LaneNumber, Operation};
use quorate_wire::message::{FetchBatches, LaneAcks, Message};
use quorate_wire::{BatchHead, Frame, Kind, LaneTip, bundle, testing};

#[test]
fn a_wrong_signature_condemns_its_bundle_and_not_the_batch() {
    let mut node = Node::new(R0);
    let good = bundle_of(&node.config, 1, 16);
    let mut wrong = good.clone();
    wrong[72] ^= 1;
    let mut other_number = good.clone();
    other_number[64] ^= 1;
    // A valid signature of a key that the configuration does not know.
    let key = quorate_types::SigningKey::from_seed(&[77; 32]);
    let session = testing::SESSION;
    let mut unknown = Vec::new();
    let operations = vec![Operation::Get { key: vec![1] }];
    bundle::write(&mut unknown, &node.config, &key, session, BundleNumber(1), &operations);
    // A key that is no point of the curve.
    let mut no_point = good.clone();
    no_point[..32].fill(2);

    let mut chain = Chain::new(&node.config, R1, 0, 1);
    chain.push(&node.config, &[good.clone(), wrong, other_number, unknown, no_point, good]);
    node.receive(&chain, 1..=1);
    node.tick();
    let outputs = node.take();
    let held = outputs.held();
    let verdicts: Vec<bool> = held[0].bundles().iter().map(|bundle| bundle.signed).collect();
    assert_eq!(verdicts, [true, false, false, false, false, true]);
    assert_eq!(outputs.acknowledgements()[0].0, chain.tip());
    assert_eq!(held[0].operations(&held[0].bundles()[0]).len(), 1);
}

#[test]
fn the_verdict_is_the_same_for_fetched_batches() {
    let mut node = Node::new(R0);
    let mut wrong = bundle_of(&node.config, 1, 16);
    wrong[72] ^= 1;
    let mut chain = Chain::new(&node.config, R1, 0, 1);
    chain.push(&node.config, &[wrong, bundle_of(&node.config, 2, 16)]);
    node.want(chain.tip());
    let (server, _) = node.take().question();
    node.fetched(server, &chain.answer(1, 1)).unwrap();
    let verdicts: Vec<bool> = node.take().held()[0].bundles().iter().map(|bundle| bundle.signed).collect();
    assert_eq!(verdicts, [false, true]);
}

#[test]
fn a_malformed_bundle_condemns_its_batch() {
    let mut node = Node::new(R0);
    let head = BatchHead { lane: lane_of(R1), number: LaneNumber(1), previous: Digest::ZERO };
    let frame = batch_frame(&head, &[bundle_of(&node.config, 1, 16), vec![0; 200]]);
    assert!(matches!(node.batch(&frame), Err(Reject::Malformed(_))));
    assert!(node.take().0.is_empty());
}

#[test]
fn number_zero_is_nothing() {
    let mut node = Node::new(R0);
    let head = BatchHead { lane: lane_of(R1), number: LaneNumber(0), previous: Digest::ZERO };
    let frame = batch_frame(&head, &[bundle_of(&node.config, 1, 16)]);
    assert_eq!(node.batch(&frame), Ok(()));
    assert!(node.take().0.is_empty());
    let head = BatchHead { number: LaneNumber(u64::MAX), ..head };
    let frame = batch_frame(&head, &[bundle_of(&node.config, 1, 16)]);
    assert_eq!(node.batch(&frame), Err(Reject::Gap));
}

fn number() -> impl Strategy<Value = LaneNumber> {
    prop_oneof![0u64..8, Just(u64::MAX), Just(u64::MAX - 1), any::<u64>()].prop_map(LaneNumber)
}

fn digest() -> impl Strategy<Value = Digest> {
    prop_oneof![Just(Digest::ZERO), any::<[u8; 32]>().prop_map(Digest)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_of_a_peer_are_answered(
        kind in 0usize..3,
        prefix in prop_oneof![Just(vec![1u8, 0, 0, 0]), prop::collection::vec(any::<u8>(), 0..4)],
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut node = Node::new(R0);
        node.want(LaneTip { lane: lane_of(R1), upto: LaneNumber(3), chain: Digest([1; 32]) });
        let payload = [prefix, bytes].concat();
        let kind = [Kind::Batch, Kind::FetchedBatches, Kind::LaneAcks][kind];
        let frame = Frame::encode(kind, |out| out.extend_from_slice(&payload));
        for from in [R1, R2, R3] {
            match kind {
                Kind::Batch => drop(node.lanes.on_batch(from, LINK, frame.as_frame_ref(), &mut node.out)),
                Kind::FetchedBatches => drop(node.fetched(from, &frame)),
                _ => drop(LaneAcks::decode(&payload)),
            }
        }
        let _ = (FetchBatches::decode(&payload), Batch::check(&node.config, frame.clone()));
        node.wait(1);
        prop_assert!(node.lanes.held_bytes() < 1000);
    }

    /// A flipped byte anywhere in a batch gives another chain digest, an unsigned bundle or a refusal: never the
    /// same batch.
    #[test]
    fn a_changed_batch_is_another_batch(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let config = testing::config(4);
        let chain = Chain::new(&config, R1, 1, 1);
        let mut payload = chain.frame(1).payload().to_vec();
        let index = at.index(payload.len());
        payload[index] ^= 1 << bit;
        let frame = Frame::encode(Kind::Batch, |out| out.extend_from_slice(&payload));
        if let Ok(batch) = Batch::check(&config, frame) {
            prop_assert_ne!(batch.tip(), chain.tip());
        }
    }

    /// Positions from a peer may be anything.
    #[test]
    fn any_positions_are_answered(
        tips in prop::collection::vec((0u8..4, number(), digest(), any::<bool>(), 1u8..4), 1..20),
        questions in prop::collection::vec((0u8..4, number(), digest(), number()), 0..10),
    ) {
        let mut node = Node::new(R0);
        let chain = Chain::new(&node.config, R1, 3, 1);
        node.receive(&chain, 1..=3);
        prop_assert!(node.admit(16));
        node.tick();
        for (origin, upto, chain, full, from) in tips {
            let tip = LaneTip { lane: lane_of(quorate_types::ReplicaId(origin)), upto, chain };
            node.acks(quorate_types::ReplicaId(from), full, vec![tip]);
            node.wait(1);
        }
        for (origin, upto, chain, above) in questions {
            let lane = lane_of(quorate_types::ReplicaId(origin));
            node.lanes.on_fetch(R2, LINK, &FetchBatches { lane, upto, chain, above }).unwrap();
        }
        node.wait(10);
        prop_assert!(node.lanes.held_bytes() < 5000);
    }
}
