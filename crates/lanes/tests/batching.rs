//! Natural batching, the hash chain, the one encoding, and back-pressure.

mod common;

use common::*;
use quorate_lanes::{Destination, Output, Sender};
use quorate_types::{Digest, KeyIndex, LaneNumber, limits};
use quorate_wire::{BatchView, BundleView, Kind, LaneTip};

/// The tip of the own lane after the batches put out so far, as acknowledgements name it.
fn own_tip(outputs: &Outputs) -> LaneTip {
    outputs.held().last().expect("a batch was sealed").tip()
}

#[test]
fn an_idle_lane_seals_at_once() {
    let mut node = Node::new(R0);
    assert!(node.admit(16));
    node.tick();
    assert_eq!(node.take().broadcasts(), [(1, 1)]);
}

#[test]
fn nothing_is_sealed_without_bundles() {
    let mut node = Node::new(R0);
    node.tick();
    assert!(node.take().broadcasts().is_empty());
}

#[test]
fn load_makes_batches_larger_and_an_acknowledging_quorum_lets_the_next_leave() {
    let mut node = Node::new(R0);
    let mut sealed = Vec::new();
    let mut tip = None;
    for _ in 0..10 {
        assert!(node.admit(16));
        node.tick();
        let outputs = node.take();
        sealed.extend(outputs.broadcasts());
        tip = outputs.held().last().map(|batch| batch.tip()).or(tip);
    }
    assert_eq!(sealed, [(1, 1), (2, 1)], "two batches may await their quorum; the rest waits");
    let tip = tip.expect("two batches were sealed");
    for replica in [R0, R1] {
        node.ack(replica, tip);
        node.tick();
        assert!(node.take().broadcasts().is_empty(), "q = 3 are needed");
    }
    node.ack(R3, tip);
    node.tick();
    assert_eq!(node.take().broadcasts(), [(3, 8)], "all that waited leaves together");
}

#[test]
fn full_batches_leave_regardless_of_what_is_in_flight() {
    let mut node = Node::with(R0, |tuning| tuning.batch_bytes_full = 4096);
    for _ in 0..20 {
        assert!(node.admit(1000));
    }
    node.tick();
    let sealed = node.take().broadcasts();
    assert_eq!(sealed, [(1, 4), (2, 4), (3, 4), (4, 4), (5, 4)]);
    assert!(node.admit(1000));
    node.tick();
    assert!(node.take().broadcasts().is_empty(), "the rest is not full");
}

#[test]
fn a_batch_ends_with_the_bundle_that_fills_it_and_never_exceeds_its_count() {
    let mut node = Node::new(R0);
    for _ in 0..3 {
        assert!(node.admit(limits::VALUE_BYTES_MAX));
    }
    node.tick();
    assert_eq!(node.take().broadcasts(), [(1, 2), (2, 1)], "512 KiB are full");

    let mut node = Node::new(R0);
    for _ in 0..limits::BATCH_BUNDLES_MAX + 1 {
        let bundle = bundle_of(&node.config, 1, 1);
        assert!(node.lanes.admit(LINK, sender(1), &BundleView::parse(&bundle).unwrap(), usize::MAX));
    }
    let ticks = limits::BATCH_BUNDLES_MAX.div_ceil(limits::OWN_CHECKS_PER_TICK) + 1;
    (0..ticks).for_each(|_| node.tick());
    assert_eq!(node.take().broadcasts(), [(1, limits::BATCH_BUNDLES_MAX), (2, 1)]);
}

#[test]
fn batches_form_a_hash_chain_and_bundles_stand_in_them_byte_for_byte() {
    let mut node = Node::new(R0);
    let mut previous = Digest::ZERO;
    for number in 1..=5 {
        assert!(node.admit(16));
        node.tick();
        let outputs = node.take();
        let (_, frame, _) = outputs.sent(Kind::Batch).remove(0);
        let view = BatchView::parse(frame.payload()).unwrap();
        assert_eq!((view.head.lane, view.head.number), (lane_of(R0), LaneNumber(number)));
        assert_eq!(view.head.previous, previous);
        let bundle = bundle_of(&node.config, number, 16);
        assert!(frame.payload().ends_with(&bundle));
        previous = view.chain();
        for replica in [R0, R1, R2] {
            node.ack(replica, own_tip(&outputs));
        }
    }
}

#[test]
fn one_encoding_serves_all_peers_the_journal_and_execution() {
    let mut node = Node::new(R0);
    assert!(node.admit(16));
    node.tick();
    let outputs = node.take();
    let sent = outputs.sent(Kind::Batch);
    assert_eq!(sent.len(), 1, "one entry for all others");
    let (to, frame, after) = &sent[0];
    assert_eq!((*to, *after), (Destination::Others, None), "a batch leaves before it is durable");
    assert_eq!(outputs.held()[0].frame().bytes().as_ptr(), frame.bytes().as_ptr());
    let appended = outputs.0.iter().find_map(|output| match output {
        quorate_lanes::Output::Append { frame, .. } => Some(frame.bytes().as_ptr()),
        _ => None,
    });
    assert_eq!(appended, Some(frame.bytes().as_ptr()));
}

#[test]
fn an_owner_may_have_so_many_bundles_open_until_they_are_executed() {
    let mut node = Node::new(R0);
    let bundle = bundle_of(&node.config, 1, 16);
    for _ in 0..3 {
        assert!(node.lanes.admit(LINK, sender(7), &BundleView::parse(&bundle).unwrap(), 3));
    }
    assert!(
        !node.lanes.admit(LINK, sender(7), &BundleView::parse(&bundle).unwrap(), 3),
        "the owner is at its cap"
    );
    assert!(
        node.lanes.admit(LINK, sender(8), &BundleView::parse(&bundle).unwrap(), 3),
        "another owner is not"
    );
    node.tick();
    let tip = own_tip(&node.take());
    for replica in [R0, R1, R2] {
        node.ack(replica, tip);
    }
    assert!(
        !node.lanes.admit(LINK, sender(7), &BundleView::parse(&bundle).unwrap(), 3),
        "acknowledged is not executed"
    );
    node.lanes.on_executed(&[tip]);
    assert!(node.lanes.admit(LINK, sender(7), &BundleView::parse(&bundle).unwrap(), 3));
}

#[test]
fn a_lane_over_its_budget_takes_no_bundle_until_batches_are_executed() {
    let mut node = Node::with(R0, |tuning| tuning.lane_bytes_open_max = 10_000);
    let mut admitted = 0;
    while node.admit(900) {
        admitted += 1;
        node.tick();
    }
    assert!((5..=7).contains(&admitted), "{admitted} bundles of about 1100 bytes: two thirds for one key");
    assert!(node.lanes.held_bytes() < 8_000);
    let first = node.take().held()[0].tip();
    for replica in [R0, R1, R2] {
        node.ack(replica, first);
    }
    assert!(!node.admit(900));
    node.lanes.on_executed(&[first]);
    assert!(node.admit(900));
}

#[test]
fn no_room_on_a_link_of_another_core() {
    let mut node = Node::new(R0);
    let bundle = bundle_of(&node.config, 1, 16);
    assert!(!node.lanes.admit(quorate_types::LinkId(1), sender(1), &BundleView::parse(&bundle).unwrap(), 10));
}

#[test]
fn forged_bundles_are_taken_out_of_what_is_sealed_and_their_owners_named() {
    let mut node = Node::new(R0);
    let good: Vec<Vec<u8>> = (0..6).map(|number| bundle_of(&node.config, number, 16)).collect();
    for (at, bundle) in good.iter().enumerate() {
        let mut bytes = bundle.clone();
        if at == 0 || at == 3 || at == 5 {
            bytes[80] ^= 1;
        }
        assert!(node.lanes.admit(LINK, sender(10 + at as u64), &BundleView::parse(&bytes).unwrap(), 1));
    }
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.broadcasts(), [(1, 3)]);
    let forged = |output: &Output| match output {
        Output::Forged { owner } => Some(*owner),
        _ => None,
    };
    assert_eq!(outputs.0.iter().filter_map(forged).collect::<Vec<_>>(), [10, 13, 15]);
    let held = outputs.held();
    let batch = held.last().expect("a batch was sealed");
    let read = BatchView::parse(batch.frame().payload()).unwrap();
    let sent: Vec<&[u8]> = read.bundles.iter().map(|bundle| bundle.bytes).collect();
    assert_eq!(sent, [&good[1][..], &good[2], &good[4]]);
    assert_eq!(read.chain(), batch.chain());
    for (bundle, view) in batch.bundles().iter().zip(&read.bundles) {
        assert!(bundle.signed);
        assert_eq!((bundle.head, batch.body(bundle)), (view.head, view.body));
    }
    let again = BundleView::parse(&good[0]).unwrap();
    assert!(node.lanes.admit(LINK, sender(10), &again, 1), "what was dropped is not open any more");
    assert!(!node.lanes.admit(LINK, sender(11), &again, 1), "what was sealed is");
}

/// Others take so many batches of a lane and no more, however small they are. Not even all keys together come near to that.
#[test]
fn so_many_batches_are_open_and_no_more() {
    const BATCHES_MAX: u64 = 4 * 1024;
    let mut node = Node::new(R0);
    let mut sealed = 0;
    let bundle = bundle_of(&node.config, 1, 1);
    let bundle = BundleView::parse(&bundle).expect("a bundle");
    for number in 0..BATCHES_MAX + 10 {
        let key = KeyIndex((number % 8) as u32);
        let _ = node.lanes.admit(LINK, Sender { owner: 1, key }, &bundle, usize::MAX);
        node.tick();
        if let Some(batch) = node.take().held().pop() {
            sealed += 1;
            [R1, R2, R3].into_iter().for_each(|from| node.ack(from, batch.tip()));
        }
    }
    let flying = sealed * u64::from(bundle.units());
    let part = limits::LANE_UNITS_FLYING_MAX * 8 / 9;
    assert!(sealed < BATCHES_MAX && flying.abs_diff(part) < 1000, "{sealed} batches");
}
