//! A lane with forged bundles in it: its origin waits for what it costs, and nobody else.

mod common;

use common::*;
use quorate_lanes::Reject;
use quorate_types::{ClusterConfig, LaneId, LaneNumber, ReplicaId, limits};

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

/// Has a chain fetched that a primary which lies has named. All of it is here at once, and none is checked.
fn name(node: &mut Node, chain: &Chain) {
    node.want_proposed(chain.tip(), R1);
    let mut lowest = usize::MAX;
    while lowest > 1 {
        let (server, question) = node.take().question();
        let highest = index(question.upto);
        lowest = highest.saturating_sub(29).max(1);
        node.fetched(server, &chain.answer(highest, lowest)).expect("what was asked for");
    }
}

fn forged_in(held: &[(LaneId, LaneNumber, usize)]) -> usize {
    held.iter().map(|(_, _, forged)| forged).sum()
}

/// Headers must be had with all that they name: a primary that lies has as much checked as it likes. That has a budget of its
/// own, or all others would wait for it.
#[test]
fn an_honest_lane_does_not_wait_behind_what_a_liar_has_named() {
    let mut node = Node::new(R0);
    let liars = chain(&node.config, R1, 100, 100, 100);
    let honest = chain(&node.config, R2, 10, 0, 3);
    name(&mut node, &liars);
    node.receive(&honest, 1..=1);
    let mut numbers = Vec::new();
    for number in 1..=3 {
        let mut held = held(&mut node);
        let of_honest = held.extract_if(.., |(lane, ..)| *lane == honest.lane);
        assert_eq!(of_honest.count(), 1, "tick {number}: {} others", held.len());
        assert_eq!(node.checked, 10 + 128, "tick {number}");
        numbers.extend(held.iter().map(|(_, number, _)| number.0));
        if number < 3 {
            node.receive(&honest, number + 1..=number + 1);
        }
    }
    while node.lanes.deadline() < node.now {
        node.tick();
        numbers.extend(held(&mut node).iter().map(|(_, number, _)| number.0));
    }
    assert!(numbers.into_iter().eq(1..=100), "all are checked, each after its parent");
}

/// Anybody can make up batches of any lane. Whoever does takes nothing from its origin.
#[test]
fn what_a_liar_has_made_up_of_an_honest_lane_comes_after_what_its_origin_sends() {
    let mut node = Node::new(R0);
    let made_up = chain(&node.config, R2, 100, 100, 100);
    let honest = chain(&node.config, R2, 10, 0, 40);
    name(&mut node, &made_up);
    assert!(forged_in(&held(&mut node)) > 0);
    node.receive(&honest, 1..=40);
    let (mut of_honest, mut of_liar) = (Vec::new(), 0);
    while of_honest.len() < 40 {
        assert_eq!(of_liar, 0, "nothing better waits of the lane");
        let mut held = held(&mut node);
        of_honest.extend(held.extract_if(.., |(.., forged)| *forged == 0).map(|(_, number, _)| number.0));
        of_liar = held.len();
    }
    assert!(of_honest.into_iter().eq(1..=40));
}

/// Nor does an origin wait with its next batch until all is checked that others have made up of its lane.
#[test]
fn an_origin_seals_beside_what_a_liar_has_made_up_of_its_lane() {
    let mut node = Node::new(R0);
    let made_up = chain(&node.config, R0, 100, 100, 100);
    name(&mut node, &made_up);
    assert!(node.admit(16));
    node.tick();
    assert_eq!(node.take().broadcasts(), [(1, 1)]);
}

/// What the origin sends was held for its name: it is checked with what the origin sends, each batch after its parent.
#[test]
fn what_is_vouched_for_leaves_the_queue_of_what_is_named() {
    let mut node = Node::new(R0);
    let forged = chain(&node.config, R2, 10, 10, 1);
    let named = chain(&node.config, R2, 100, 0, 60);
    name(&mut node, &forged);
    assert_eq!(forged_in(&held(&mut node)), 10);
    name(&mut node, &named);
    node.receive(&named, 40..=40);
    let mut numbers = Vec::new();
    while numbers.len() < 60 {
        numbers.extend(held(&mut node).iter().map(|(_, number, _)| number.0));
    }
    assert!(numbers.into_iter().eq(1..=60));
}

/// Listed mistake: the first forged bundle is found when all of a burst are checked, or all of a batch.
#[test]
fn a_tick_checks_one_turn_of_a_lane_however_much_is_named_or_sent_at_once() {
    let mut node = Node::new(R0);
    let (all, each) = (limits::BATCH_BUNDLES_MAX, 7);
    let mut content: Vec<Vec<u8>> =
        (0..all as u64).map(|number| bundle_of(&node.config, number, 16)).collect();
    content.iter_mut().step_by(each).for_each(|bundle| bundle[80] ^= 1);
    let mut liars = Chain::new(&node.config, R1, 0, 1);
    (0..2).for_each(|_| liars.push(&node.config, &content));
    name(&mut node, &liars);
    begin_step(&mut node);
    let (mut ticks, mut batches) = (0, Vec::new());
    while batches.len() < 2 {
        assert!(node.lanes.deadline() < node.now, "the next tick follows at once");
        ticks += 1;
        batches.extend(node.take().held());
        assert_eq!(node.checked, 128, "tick {ticks}");
    }
    assert_eq!(ticks, 2 * all / 128);
    // A verdict depends on nothing but its bundle.
    for (batch, frame) in batches.iter().zip(&liars.frames) {
        let alone = quorate_lanes::Batch::check(&node.config, frame.clone()).expect("a batch");
        assert_eq!(batch.tip(), alone.tip());
        assert!(
            batch
                .bundles()
                .iter()
                .map(|bundle| bundle.signed)
                .eq(alone.bundles().iter().map(|bundle| bundle.signed))
        );
        assert_eq!(alone.bundles().iter().filter(|bundle| !bundle.signed).count(), all.div_ceil(each));
    }
}
