//! Replicas that were restarted: what they hold again, and what an origin does about the tail that it has lost.

mod common;

use common::*;
use quorate_lanes::{Output, Recovered};
use quorate_types::{LaneNumber, Lsn, Nanoseconds, Why};
use quorate_wire::{Frame, Kind, LaneTip, testing};
use std::sync::Arc;

fn chain(origin: quorate_types::ReplicaId, count: u64) -> Chain {
    Chain::new(&config(|_| ()), origin, count, 1)
}

/// r0 with what its journal says, after its first tick.
fn restarted(recovered: Recovered) -> Node {
    let mut node = Node::recovered(R0, config(|_| ()), recovered);
    node.tick();
    node
}

#[test]
fn what_lies_in_the_journal_above_the_executed_tip_is_held_reported_and_acknowledged_again() {
    let chain = chain(R1, 5);
    let mut node = restarted(journal(&chain.frames, &[chain.tips[2]]));
    let outputs = node.take();
    assert_eq!(outputs.held_numbers(), [3, 4, 5]);
    assert!(outputs.held().iter().all(|batch| batch.bundles().iter().all(|bundle| bundle.signed)));
    assert!(outputs.appended().is_empty(), "it lies in the journal already");
    assert_eq!(outputs.acknowledgements(), [(chain.tip(), Lsn(5))]);
    assert_eq!(outputs.frontiers(lane_of(R1)), [R1, R2, R3].map(|peer| (peer, 5, Some(Lsn(5)))));
    let update = &outputs.progress(lane_of(R1))[0];
    assert_eq!(update.held[0].previous, chain.tips[2].chain);
    assert_eq!(update.held.iter().map(|entry| entry.lsn).collect::<Vec<_>>(), [3, 4, 5].map(Lsn));
    node.ack(R0, chain.tip());
    node.ack(R2, chain.tip());
    node.ack(R3, chain.tip());
    node.receive(&chain.clone().grown(&node.config, 1, 1, 16), 6..=6);
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.tips(lane_of(R1)), Some((5, 5)), "own acknowledgements count again");
    assert_eq!(outputs.appended(), [Lsn(6)], "the journal goes on");
}

#[test]
fn a_lane_of_which_nothing_is_above_the_executed_tip_is_acknowledged_up_to_there() {
    let chain = chain(R1, 3);
    let mut node = restarted(journal(&chain.frames, &[chain.tips[3]]));
    let outputs = node.take();
    assert!(outputs.held().is_empty());
    assert_eq!(outputs.acknowledgements(), [(chain.tip(), Lsn(0))]);
    assert_eq!(node.lanes.held_bytes(), 0);
    node.receive(&chain.clone().grown(&node.config, 1, 1, 16), 4..=4);
    assert_eq!(node.take().held_numbers(), [4]);
}

#[test]
fn what_is_no_batch_is_dropped_and_what_does_not_connect_waits_for_what_was_lost() {
    let chain = chain(R1, 6);
    let garbage = Frame::encode(Kind::Batch, |out| out.extend_from_slice(&[7; 60]));
    let other = Frame::encode(Kind::LaneAcks, |_| ());
    let frames = [chain.frame(1), &garbage, chain.frame(2), &other, chain.frame(4), chain.frame(5)];
    let mut node = restarted(journal(frames, &[]));
    let outputs = node.take();
    assert_eq!(outputs.held_numbers(), [1, 2]);
    assert_eq!(outputs.acknowledgements(), [(chain.tips[2], Lsn(3))]);
    assert_eq!(outputs.frontiers(lane_of(R1))[0].1, 2, "by which the origin sends the rest");
    node.receive(&chain, 3..=6);
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.appended(), [7, 8].map(Lsn), "4 and 5 lie there already");
    assert_eq!(outputs.held_numbers(), [3, 4, 5, 6]);
    assert_eq!(outputs.acknowledgements(), [(chain.tip(), Lsn(8))]);
}

#[test]
fn a_batch_that_was_fetched_again_may_lie_behind_its_children() {
    let chain = chain(R1, 4);
    let frames = [1, 3, 4, 2, 3].map(|number| chain.frame(number));
    let mut node = restarted(journal(frames, &[]));
    let outputs = node.take();
    assert_eq!(outputs.held_numbers(), [1, 2, 3, 4]);
    assert_eq!(outputs.acknowledgements()[0].0, chain.tip());
}

#[test]
fn wrong_signatures_are_found_again() {
    let config = config(|_| ());
    let mut chain = Chain::new(&config, R1, 0, 1);
    let good = bundle_of(&config, 1, 16);
    let mut wrong = good.clone();
    wrong[72] ^= 1;
    chain.push(&config, &[good, wrong]);
    let mut node = restarted(journal(&chain.frames, &[]));
    let held = node.take().held();
    let signed: Vec<bool> = held[0].bundles().iter().map(|bundle| bundle.signed).collect();
    assert_eq!(signed, [true, false]);
}

/// Many signatures are not all checked in one tick, and batches that come meanwhile wait for their turn.
#[test]
fn a_long_journal_is_held_in_portions_and_in_order() {
    let config = config(|_| ());
    let mut chain = Chain::new(&config, R1, 0, 1);
    let bundles: Vec<Vec<u8>> = (0..1000).map(|_| bundle_of(&config, 1, 16)).collect();
    for _ in 0..20 {
        chain.push(&config, &bundles);
    }
    let mut node = restarted(journal(&chain.upto(19).frames, &[]));
    let held = |node: &mut Node| {
        let held = |output: &Output| match output {
            Output::Held(batch) => Some(batch.number().0),
            _ => None,
        };
        std::mem::take(&mut node.out).iter().filter_map(held).collect::<Vec<_>>()
    };
    let mut numbers = held(&mut node);
    assert_eq!(node.lanes.deadline(), Nanoseconds(0), "the rest is due at once");
    node.receive(&chain, 20..=20);
    while node.lanes.deadline() == Nanoseconds(0) {
        node.tick();
        let more = held(&mut node);
        assert!(more.len() <= 1, "{} batches of a thousand bundles", more.len());
        numbers.extend(more);
    }
    assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
}

/// r3's lane forks after 3.
fn forked() -> (Chain, Chain) {
    let (config, trunk) = (config(|_| ()), chain(R3, 3));
    (trunk.clone().grown(&config, 2, 1, 16), trunk.grown(&config, 1, 2, 16))
}

#[test]
fn of_two_chains_the_one_that_was_appended_last_goes_on_and_both_are_acknowledged() {
    let (a, b) = forked();
    let mut node = restarted(journal(a.frames.iter().chain([b.frame(4)]), &[a.tips[1]]));
    let outputs = node.take();
    assert_eq!(outputs.held_numbers(), [2, 3, 4, 4, 5]);
    let said: Vec<_> = outputs.acknowledgements().into_iter().map(|(tip, _)| tip).collect();
    assert!(said.contains(&a.tip()) && said.contains(&b.tip()) && said.len() == 2, "{said:?}");
    assert_eq!(outputs.progress(lane_of(R3))[0].tip, b.tip().mark());
    assert_eq!(node.asked(R1, a.tip(), 3), [5, 4]);

    let mut node = restarted(journal(b.frames.iter().chain([a.frame(4), a.frame(5)]), &[]));
    assert_eq!(node.take().progress(lane_of(R3))[0].tip, a.tip().mark());
}

/// Listed mistake: a restart acknowledges only what it may. What was held for a header alone is held again and not said.
#[test]
fn why_a_batch_was_held_survives_a_restart() {
    let chain = chain(R1, 5);
    let mut recovered = journal(chain.frames.iter().chain([chain.frame(3)]), &[]);
    for at in [2, 3, 4] {
        recovered.batches[at].2 = Why::Named;
    }
    recovered.batches[5].2 = Why::Acknowledged;
    let mut node = restarted(recovered);
    let outputs = node.take();
    assert_eq!(outputs.held_numbers(), [1, 2, 3, 4, 5]);
    assert_eq!(outputs.acknowledgements()[0].0, chain.tips[3], "that was written again for a better reason");
}

/// An acknowledgement is never taken back. What was acknowledged behind a batch that was merely named, and executed, is
/// acknowledged again by a restart whose state has not executed that.
#[test]
fn a_better_reason_stands_for_all_before_it() {
    let chain = chain(R1, 5);
    let mut recovered = journal(&chain.frames, &[]);
    for at in [0, 1, 4] {
        recovered.batches[at].2 = Why::Named;
    }
    let mut node = restarted(recovered);
    let said: Vec<LaneTip> = node
        .take()
        .acknowledgements()
        .into_iter()
        .map(|(tip, _)| tip)
        .filter(|tip| tip.lane == chain.lane)
        .collect();
    assert_eq!(said, [chain.tips[4]]);
}

#[test]
fn a_fork_that_left_below_the_executed_tip_is_dead() {
    let (a, b) = forked();
    let mut node = restarted(journal(a.frames.iter().chain([b.frame(4)]), &[a.tips[4]]));
    assert_eq!(node.take().held_numbers(), [5]);
    assert_eq!(node.asked(R1, b.tip(), 0), Vec::<u64>::new());
}

/// An origin that was restarted with `held` batches of its own lane, and has a bundle to seal.
fn origin(chain: &Chain, held: usize) -> Node {
    let mut node = restarted(journal(&chain.upto(held).frames, &[]));
    node.next_bundle = 100_000;
    assert!(node.admit(16), "bundles are admitted while sealing waits");
    node.tick();
    assert!(node.take().broadcasts().is_empty());
    assert!(node.lanes.is_adopting());
    node.ack(R0, chain.tips[held]);
    node
}

fn frontier(node: &mut Node, from: quorate_types::ReplicaId, tip: LaneTip) {
    node.acks(from, true, vec![tip]);
    node.tick();
}

/// A peer with more than this replica names what both hold before its tip.
fn frontier_with(node: &mut Node, from: quorate_types::ReplicaId, common: LaneTip, tip: LaneTip) {
    node.acks(from, true, vec![common, tip]);
    node.tick();
}

#[test]
fn an_origin_seals_when_n_minus_f_replicas_have_shown_that_it_has_lost_nothing() {
    let chain = chain(R0, 3);
    let mut node = origin(&chain, 3);
    node.ack(R2, chain.tip());
    node.ack(R3, chain.tip());
    node.wait(20);
    assert!(node.take().broadcasts().is_empty(), "those are no frontiers");
    frontier(&mut node, R1, chain.tips[2]);
    frontier(&mut node, R1, chain.tips[2]);
    let outputs = node.take();
    assert!(outputs.broadcasts().is_empty(), "two of three");
    assert!(outputs.resent(R1).is_empty(), "the chain is not settled");
    frontier(&mut node, R2, chain.tip());
    let outputs = node.take();
    assert_eq!(outputs.broadcasts(), [(4, 1)]);
    assert_eq!(outputs.resent(R1), [3, 4]);
    assert!(!node.lanes.is_adopting());
}

#[test]
fn a_tail_that_nobody_or_too_few_report_is_abandoned() {
    for reported in [3, 5] {
        let chain = chain(R0, 5);
        let mut node = origin(&chain, 3);
        frontier_with(&mut node, R1, chain.tips[3], chain.tips[reported]);
        frontier(&mut node, R2, chain.tips[3]);
        let outputs = node.take();
        assert!(outputs.questions().is_empty());
        assert_eq!(outputs.broadcasts(), [(4, 1)]);
        let own = outputs.held()[0].tip();
        assert_ne!(own, chain.tips[4]);
    }
}

#[test]
fn a_tail_that_f_plus_1_report_is_fetched_and_adopted_before_anything_is_sealed() {
    let chain = chain(R0, 6);
    let mut node = origin(&chain, 3);
    frontier_with(&mut node, R1, chain.tips[5], chain.tips[6]);
    frontier(&mut node, R2, chain.tips[5]);
    node.wait(1);
    let outputs = node.take();
    assert!(outputs.broadcasts().is_empty());
    let (server, question) = outputs.question();
    assert_eq!((server, question.upto), (R1, LaneNumber(5)));
    node.fetched(server, &chain.answer(5, 1)).unwrap();
    node.ack(R0, chain.tips[5]);
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.held_numbers(), [4, 5, 6], "two adopted and one sealed");
    assert_eq!(outputs.broadcasts(), [(6, 1)], "not what r1 alone reports");
    assert_eq!(outputs.held()[2].previous(), chain.tips[5].chain);
    assert_eq!(outputs.appended(), [4, 5, 6].map(Lsn));
}

/// A liar claims a chain that it has made up, and drips it to whoever asks.
#[test]
fn what_one_replica_alone_reports_delays_no_origin() {
    let chain = chain(R0, 6);
    let mut node = origin(&chain, 3);
    let made_up = Chain::new(&node.config, R0, 2_000, 9);
    node.ack(R2, chain.tips[3]);
    frontier(&mut node, R3, made_up.tip());
    frontier_with(&mut node, R1, chain.tips[3], chain.tips[6]);
    node.wait(1);
    let outputs = node.take();
    assert!(outputs.questions().is_empty());
    assert_eq!(outputs.broadcasts(), [(4, 1)]);
}

/// What an origin has in its own journal it continues, though others lack it.
#[test]
fn an_own_tail_that_nobody_else_has_is_kept_and_sent_again() {
    let chain = chain(R0, 4);
    let mut node = origin(&chain, 4);
    frontier(&mut node, R1, chain.tips[2]);
    frontier(&mut node, R2, chain.tips[2]);
    let outputs = node.take();
    assert_eq!(outputs.resent(R1), [3, 4]);
    assert_eq!(outputs.resent(R2), [3, 4]);
    for replica in [R0, R1, R2] {
        node.ack(replica, chain.tip());
    }
    node.tick();
    node.tick();
    assert_eq!(node.take().broadcasts(), [(5, 1)]);
}

/// One peer is down and another holds a tail that was lost: what is executed still counts as held by a quorum.
#[test]
fn an_origin_whose_lane_is_executed_seals_whatever_is_said_of_it() {
    let chain = chain(R0, 6);
    let mut node = restarted(journal([], &[chain.tips[5]]));
    assert!(node.admit(16));
    node.ack(R0, chain.tips[5]);
    frontier(&mut node, R1, chain.tips[6]);
    frontier(&mut node, R2, chain.tips[5]);
    assert_eq!(node.take().broadcasts(), [(6, 1)]);
}

#[test]
fn a_learner_takes_and_seals_nothing_and_holds_what_others_send() {
    let chain = chain(R1, 2);
    let mut node = Node::new(R0);
    assert!(node.admit(16));
    node.lanes.mute();
    assert!(!node.admit(16));
    node.receive(&chain, 1..=2);
    node.tick();
    let outputs = node.take();
    assert!(outputs.broadcasts().is_empty());
    assert_eq!(outputs.acknowledgements()[0].0, chain.tip());
}

#[test]
fn a_replica_alone_needs_no_answers() {
    let config = Arc::new(testing::config_with_links(1, 1));
    let mut node = Node::recovered(R0, config, journal([], &[]));
    assert!(node.admit(16));
    node.tick();
    assert_eq!(node.take().broadcasts(), [(1, 1)]);
}
