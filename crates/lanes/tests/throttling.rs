//! A lane with forged bundles in it: its origin waits for what it costs, and nobody else.

mod common;

use common::*;
use quorate_lanes::Reject;
use quorate_types::{ClusterConfig, LaneId, LaneNumber, ReplicaId};

/// A chain of r1's lane whose batches have so many bundles, some of them with a signature that does not hold.
fn chain(config: &ClusterConfig, origin: ReplicaId, bundles: usize, forged: usize, batches: usize) -> Chain {
    let mut chain = Chain::new(config, origin, 0, 1);
    let mut content: Vec<Vec<u8>> = (0..bundles as u64).map(|number| bundle_of(config, number, 16)).collect();
    content.iter_mut().take(forged).for_each(|bundle| bundle[80] ^= 1);
    (0..batches).for_each(|_| chain.push(config, &content));
    chain
}

/// As each step of the replica begins.
fn begin_step(node: &mut Node) {
    node.lanes.note_sealed(node.now, |_| ());
}

/// Bundles that were found to be forged, out of what is held for the first time.
fn held(node: &mut Node) -> Vec<(LaneId, LaneNumber, usize)> {
    let forged =
        |batch: &quorate_lanes::Batch| batch.bundles().iter().filter(|bundle| !bundle.signed).count();
    node.take().held().iter().map(|batch| (batch.lane(), batch.number(), forged(batch))).collect()
}

#[test]
fn forged_bundles_close_the_lane_to_its_origin_for_a_while() {
    let mut node = Node::new(R0);
    let liars = chain(&node.config, R1, 30, 10, 3);
    let honest = chain(&node.config, R2, 30, 0, 3);
    begin_step(&mut node);
    node.receive(&liars, 1..=1);
    node.receive(&honest, 1..=1);
    node.tick();
    assert_eq!(held(&mut node), [(liars.lane, LaneNumber(1), 10), (honest.lane, LaneNumber(1), 0)]);
    assert_eq!(node.batch(liars.frame(2)), Err(Reject::Throttled));
    assert_eq!(node.batch(honest.frame(2)), Ok(()), "another lane is not concerned");
    // Ten bundles at five milliseconds each are as long as one retransmission time.
    node.wait(1);
    begin_step(&mut node);
    assert_eq!(node.batch(liars.frame(2)), Ok(()));
    node.take();
    assert_eq!(node.batch(liars.frame(3)), Err(Reject::Throttled), "and so again");
}

#[test]
fn what_a_header_names_is_taken_from_a_closed_lane() {
    let mut node = Node::new(R0);
    let liars = chain(&node.config, R1, 10, 10, 2);
    begin_step(&mut node);
    node.receive(&liars, 1..=1);
    node.tick();
    assert_eq!(node.batch(liars.frame(2)), Err(Reject::Throttled));
    node.take();
    node.want(liars.tip());
    let (server, _) = node.take().question();
    node.fetched(server, &liars.answer(2, 2)).expect("what was asked for");
    node.tick();
    assert_eq!(held(&mut node), [(liars.lane, LaneNumber(2), 10)]);
}

/// The first forged bundle is found when the burst is over: what a burst brings is bounded too.
#[test]
fn a_burst_brings_a_bounded_number_of_signatures_to_check() {
    let mut node = Node::new(R0);
    let liars = chain(&node.config, R1, 1_000, 0, 20);
    begin_step(&mut node);
    let taken = (1..=20).take_while(|number| node.batch(liars.frame(*number)).is_ok()).count();
    assert_eq!(taken, 9, "the one that goes beyond 8192 is the last");
    assert_eq!(node.batch(liars.frame(10)), Err(Reject::Budget));
    while node.lanes.deadline() < node.now {
        node.tick();
    }
    assert_eq!(node.batch(liars.frame(10)), Ok(()), "it goes on when they are checked");
}
