//! Cumulative acknowledgements, weak and quorum tips, frontiers and what they bring.

mod common;

use common::*;
use quorate_lanes::Reject;
use quorate_types::{Digest, LaneId, LaneNumber, LinkId, Lsn};
use quorate_wire::LaneTip;
use quorate_wire::message::LaneAcks;

fn garbage(lane: LaneId, upto: u64) -> LaneTip {
    LaneTip { lane, upto: LaneNumber(upto), chain: Digest([9; 32]) }
}

#[test]
fn one_acknowledgement_a_tick_covers_all_and_waits_for_the_last_batch() {
    let mut node = Node::new(R0);
    let (one, two) = (Chain::new(&node.config, R1, 3, 1), Chain::new(&node.config, R2, 2, 2));
    node.receive(&one, 1..=3);
    node.receive(&two, 1..=2);
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.appended(), [1, 2, 3, 4, 5].map(Lsn));
    assert_eq!(outputs.held_numbers(), [1, 2, 3, 1, 2]);
    assert_eq!(outputs.acknowledgements(), [(one.tip(), Lsn(5)), (two.tip(), Lsn(5))]);
    node.tick();
    assert!(node.take().acknowledgements().is_empty(), "once");
}

#[test]
fn own_batches_are_acknowledged_too_and_own_acknowledgements_count_when_they_come_back() {
    let mut node = Node::new(R0);
    assert!(node.admit(16));
    node.tick();
    let outputs = node.take();
    let tip = outputs.held()[0].tip();
    assert_eq!(outputs.acknowledgements(), [(tip, Lsn(1))]);
    assert_eq!(outputs.tips(lane_of(R0)), Some((0, 0)));
    node.ack(R0, tip);
    node.ack(R1, tip);
    node.tick();
    assert_eq!(node.take().tips(lane_of(R0)), Some((1, 0)), "f+1 = 2");
    node.ack(R2, tip);
    node.tick();
    assert_eq!(node.take().tips(lane_of(R0)), Some((0, 1)), "q = 3");
}

#[test]
fn acknowledgements_out_of_order_and_ahead_of_the_batches_count_when_those_come() {
    let mut node = Node::new(R0);
    let chain = Chain::new(&node.config, R1, 5, 1);
    node.ack(R1, chain.tips[5]);
    node.ack(R2, chain.tips[3]);
    node.ack(R2, chain.tips[2]);
    node.ack(R3, chain.tips[4]);
    node.receive(&chain, 1..=2);
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.tips(lane_of(R1)), Some((0, 0)), "only the named tips are known");
    node.receive(&chain, 3..=3);
    node.ack(R0, chain.tips[3]);
    node.tick();
    assert_eq!(node.take().tips(lane_of(R1)), Some((3, 0)));
    node.receive(&chain, 4..=5);
    node.ack(R0, chain.tips[5]);
    node.tick();
    assert_eq!(node.take().tips(lane_of(R1)), Some((5, 4)), "r0 5, r1 5, r2 3, r3 4");
}

#[test]
fn an_acknowledgement_of_another_chain_counts_for_nothing() {
    let mut node = Node::new(R0);
    let (chain, fork) = (Chain::new(&node.config, R1, 2, 1), Chain::new(&node.config, R1, 2, 2));
    node.receive(&chain, 1..=2);
    for replica in [R1, R2, R3] {
        node.ack(replica, fork.tips[2]);
    }
    node.tick();
    assert_eq!(node.take().tips(lane_of(R1)), Some((0, 0)));
}

/// A peer with more than is held here still holds what it acknowledged before (lanes-6).
#[test]
fn a_full_acknowledgement_of_a_peer_that_is_ahead_keeps_what_it_covers() {
    let mut node = Node::new(R0);
    let chain = Chain::new(&node.config, R3, 2, 1);
    node.receive(&chain, 1..=1);
    for replica in [R0, R1, R2] {
        node.ack(replica, chain.tips[1]);
    }
    node.tick();
    assert_eq!(node.take().tips(lane_of(R3)), Some((1, 1)));
    node.acks(R1, true, vec![chain.tips[2]]);
    node.tick();
    assert_eq!(node.take().tips(lane_of(R3)), None, "nothing has changed");
}

#[test]
fn a_new_connection_gets_a_full_acknowledgement_that_waits_for_what_it_names() {
    let mut node = Node::new(R0);
    let chain = Chain::new(&node.config, R1, 2, 1);
    node.receive(&chain, 1..=2);
    node.lanes.on_connected(R3, LINK);
    node.tick();
    assert_eq!(node.take().frontiers(lane_of(R1)), [(R3, 2, Some(Lsn(2)))]);
    node.lanes.on_connected(R2, LINK);
    node.tick();
    assert_eq!(node.take().frontiers(lane_of(R1)), [(R2, 2, Some(Lsn(2)))]);
}

#[test]
fn a_frontier_brings_the_origin_to_send_what_is_above_and_only_then() {
    let mut node = Node::with(R0, |tuning| tuning.batches_in_flight = 100);
    for _ in 0..4 {
        assert!(node.admit(16));
        node.tick();
    }
    let tips: Vec<LaneTip> = node.take().held().iter().map(|batch| batch.tip()).collect();
    node.ack(R2, tips[1]);
    node.tick();
    assert!(node.take().resent(R2).is_empty(), "a cumulative acknowledgement is no frontier");
    node.acks(R2, true, vec![tips[1]]);
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.resent(R2), [3, 4]);
    assert!(outputs.broadcasts().is_empty());
    node.acks(R2, true, vec![tips[3]]);
    node.tick();
    assert!(node.take().resent(R2).is_empty());
}

/// A peer that holds a tail which was lost here may hold anything below it too.
#[test]
fn a_frontier_on_an_unknown_chain_brings_all_that_is_not_executed() {
    let mut node = Node::with(R0, |tuning| tuning.batches_in_flight = 100);
    for _ in 0..4 {
        assert!(node.admit(16));
        node.tick();
    }
    let tips: Vec<LaneTip> = node.take().held().iter().map(|batch| batch.tip()).collect();
    node.acks(R2, true, vec![garbage(lane_of(R0), 3)]);
    node.tick();
    assert_eq!(node.take().resent(R2), [1, 2, 3, 4]);
    node.lanes.on_executed(&[tips[1]]);
    node.acks(R2, true, vec![garbage(lane_of(R0), 9)]);
    node.tick();
    assert_eq!(node.take().resent(R2), [3, 4]);
}

/// One small frame that shows many frontiers, and many frames, bring one answer (lanes-2).
#[test]
fn many_frontiers_in_one_tick_bring_one_answer() {
    let mut node = Node::with(R0, |tuning| tuning.batches_in_flight = 100);
    for _ in 0..4 {
        assert!(node.admit(16));
        node.tick();
    }
    node.take();
    let start = LaneTip { lane: lane_of(R0), upto: LaneNumber(0), chain: Digest::ZERO };
    for _ in 0..10 {
        node.acks(R2, true, vec![start; 6400]);
    }
    assert!(node.take().0.is_empty(), "nothing before the end of the tick");
    node.tick();
    assert_eq!(node.take().resent(R2), [1, 2, 3, 4]);
}

#[test]
fn one_frontier_brings_a_bounded_number_of_bytes() {
    let mut node = Node::with(R0, |tuning| tuning.batches_in_flight = 100);
    for _ in 0..20 {
        assert!(node.admit(200_000));
        node.tick();
    }
    let tips: Vec<LaneTip> = node.take().held().iter().map(|batch| batch.tip()).collect();
    let start = LaneTip { lane: lane_of(R0), upto: LaneNumber(0), chain: Digest::ZERO };
    node.acks(R2, true, vec![start]);
    node.tick();
    assert_eq!(node.take().resent(R2), [1, 2, 3, 4, 5, 6]);
    node.acks(R2, true, vec![tips[5]]);
    node.tick();
    assert_eq!(node.take().resent(R2), [7, 8, 9, 10, 11, 12]);
}

#[test]
fn a_gap_is_answered_by_the_timer_and_not_by_every_batch() {
    let mut node = Node::new(R0);
    let chain = Chain::new(&node.config, R1, 20, 1);
    node.receive(&chain, 1..=1);
    for number in 3..=20 {
        assert_eq!(node.batch(chain.frame(number)), Err(Reject::Gap));
        node.tick();
    }
    assert!(node.take().frontiers(lane_of(R1)).is_empty());
    node.wait(1);
    let frontiers = node.take().frontiers(lane_of(R1));
    assert_eq!(frontiers.iter().filter(|(peer, ..)| *peer == R1).count(), 1, "{frontiers:?}");
    assert_eq!(node.lanes.on_acks(R1, LINK, &LaneAcks { full: false, tips: vec![] }), Ok(()));
}

/// The last batch of a lane was lost on its way to everyone: the origin's own frontier shows it (lanes-7).
#[test]
fn a_batch_that_nobody_got_is_asked_for_when_the_origin_shows_its_frontier() {
    let mut node = Node::new(R0);
    let chain = Chain::new(&node.config, R1, 2, 1);
    node.receive(&chain, 1..=1);
    for replica in [R0, R1, R2, R3] {
        node.ack(replica, chain.tips[1]);
    }
    node.wait(3);
    node.take();
    // A liar that is ahead for ever must not keep the lanes from looking idle and asking.
    node.ack(R3, garbage(lane_of(R2), u64::MAX));
    node.acks(R1, true, vec![chain.tips[2]]);
    node.tick();
    assert!(node.take().frontiers(lane_of(R1)).is_empty(), "not before the timer");
    node.wait(1);
    let frontiers = node.take().frontiers(lane_of(R1));
    assert_eq!(frontiers.iter().filter(|(peer, ..)| *peer == R1).count(), 1, "{frontiers:?}");
}

#[test]
fn a_stuck_lane_is_shown_to_everyone_every_retransmission_and_an_idle_one_seldom() {
    let mut node = Node::new(R0);
    assert!(node.admit(16));
    node.tick();
    node.take();
    node.wait(2);
    assert_eq!(node.take().frontiers(lane_of(R0)).len(), 3, "stuck since the timer looked first");
    node.wait(5);
    assert_eq!(node.take().frontiers(lane_of(R0)).len(), 15);

    let mut idle = Node::new(R0);
    idle.wait(60);
    let frontiers = idle.take().frontiers(lane_of(R0)).len();
    assert!((6..=12).contains(&frontiers), "three every second, for three seconds: {frontiers}");
}

#[test]
fn something_open_always_has_a_deadline_within_the_retransmission_time() {
    let mut node = Node::new(R0);
    let due = |node: &Node| node.lanes.deadline().since(node.now);
    node.wait(60);
    assert!(node.admit(16));
    node.tick();
    assert!(due(&node) <= node.config.tuning().retransmit.0, "an own batch awaits its quorum");

    let mut node = Node::new(R0);
    let chain = Chain::new(&node.config, R1, 3, 1);
    node.wait(60);
    node.ack(R2, chain.tips[3]);
    node.tick();
    assert!(due(&node) <= node.config.tuning().retransmit.0, "somebody is ahead");

    let mut node = Node::new(R0);
    node.wait(60);
    assert_eq!(node.batch(chain.frame(2)), Err(Reject::Gap));
    node.tick();
    assert!(due(&node) <= node.config.tuning().retransmit.0, "a gap is open");
}

#[test]
fn foreign_lanes_are_refused() {
    let mut node = Node::new(R0);
    let chain = Chain::new(&node.config, R1, 1, 1);
    let frame = chain.frame(1).as_frame_ref();
    let mut out = Vec::new();
    let refused = node.lanes.on_batch(R2, LINK, frame, &mut out);
    assert_eq!(refused, Err(Reject::ForeignLane), "not the sender's");
    let refused = node.lanes.on_batch(R1, LinkId(1), frame, &mut out);
    assert_eq!(refused, Err(Reject::ForeignLane), "not of this link");
    assert!(out.is_empty());
    for lane in
        [LaneId { origin: R1, link: LinkId(1) }, LaneId { origin: quorate_types::ReplicaId(4), link: LINK }]
    {
        let acks = LaneAcks { full: true, tips: vec![garbage(lane, 1)] };
        assert_eq!(node.lanes.on_acks(R1, LINK, &acks), Err(Reject::ForeignLane));
    }
}

#[test]
fn forks_are_refused_and_repetitions_are_harmless() {
    let mut node = Node::new(R0);
    let (chain, fork) = (Chain::new(&node.config, R1, 3, 1), Chain::new(&node.config, R1, 3, 2));
    node.receive(&chain, 1..=2);
    node.take();
    assert_eq!(node.batch(chain.frame(1)), Ok(()));
    assert_eq!(node.batch(chain.frame(2)), Ok(()));
    assert_eq!(node.batch(fork.frame(2)), Err(Reject::Fork), "a second batch at one position");
    assert_eq!(node.batch(fork.frame(3)), Err(Reject::Fork), "another chain below");
    assert!(node.take().0.is_empty());
}

#[test]
fn a_lane_over_its_budget_is_neither_kept_nor_acknowledged_until_batches_are_executed() {
    let mut node = Node::with(R0, |tuning| tuning.lane_bytes_open_max = 1000);
    let chain = Chain::new(&node.config, R1, 20, 1);
    let mut held = 0;
    while node.batch(chain.frame(held + 1)) != Err(Reject::Budget) {
        held += 1;
    }
    node.tick();
    assert!(node.lanes.held_bytes() <= 4000);
    assert_eq!(node.take().acknowledgements()[0].0, chain.tips[held]);
    let other = Chain::new(&node.config, R2, 1, 2);
    assert_eq!(node.batch(other.frame(1)), Ok(()), "another origin has a budget of its own");
    node.lanes.on_executed(&[chain.tips[2]]);
    assert_eq!(node.batch(chain.frame(held + 1)), Ok(()));
}
