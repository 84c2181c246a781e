//! An origin that equivocates: what was acknowledged stays to be had, what is committed wins, nothing executed is
//! replaced, and memory stays bounded.

mod common;

use common::*;
use quorate_lanes::{Output, Reject};
use quorate_types::LaneNumber;

/// r3's lane forks after 5: A6 on one side, B6', B7' on the other.
fn forked(node: &Node) -> (Chain, Chain) {
    let trunk = Chain::new(&node.config, R3, 5, 1);
    (trunk.clone().grown(&node.config, 1, 1, 16), trunk.grown(&node.config, 2, 2, 16))
}

/// r0 holds and has acknowledged A6; r2 and the liar r3 acknowledge B7', and rule (b) brings B here.
fn switched() -> (Node, Chain, Chain) {
    let mut node = Node::new(R0);
    let (a, b) = forked(&node);
    node.receive(&a, 1..=6);
    node.tick();
    for tip in [a.tips[5], a.tips[6]] {
        node.ack(R0, tip);
        node.ack(R1, tip);
    }
    node.ack(R2, b.tips[7]);
    node.ack(R3, b.tips[7]);
    node.wait(2);
    let (server, question) = node.take().question();
    assert_eq!((question.upto, question.chain), (LaneNumber(7), b.tips[7].chain));
    node.fetched(server, &b.answer(7, 1)).expect("an honest answer");
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.held_numbers(), [6, 7]);
    let update = &outputs.progress(lane_of(R3))[0];
    assert_eq!((update.first, update.before), (LaneNumber(6), a.tips[5].chain));
    assert_eq!(outputs.acknowledgements()[0].0, b.tips[7]);
    (node, a, b)
}

/// lanes-1: what was acknowledged and given up for another chain may be what gets committed.
#[test]
fn what_rule_b_replaced_is_still_served() {
    let (mut node, a, b) = switched();
    assert_eq!(node.asked(R2, a.tips[6], 0), [6, 5, 4, 3, 2, 1]);
    assert_eq!(node.asked(R2, b.tips[7], 5), [7, 6]);
}

/// lanes-1: a committed header names the chain that was given up.
#[test]
fn a_wanted_chain_that_was_set_aside_comes_back_without_a_fetch() {
    let (mut node, a, b) = switched();
    node.want(a.tips[6]);
    node.tick();
    let outputs = node.take();
    assert!(outputs.questions().is_empty());
    assert!(outputs.appended().is_empty(), "it lies in the journal already");
    let update = &outputs.progress(lane_of(R3))[0];
    assert_eq!((update.first, update.entries[0].chain), (LaneNumber(6), a.tips[6].chain));
    assert_eq!(outputs.acknowledgements()[0].0, a.tips[6]);
    node.lanes.on_executed(&[a.tips[6]]);
    let more = a.clone().grown(&node.config, 2, 1, 16);
    node.receive(&more, 7..=8);
    assert_eq!(node.asked(R1, b.tips[7], 5), Vec::<u64>::new(), "the fork is dead and gone");
    let alive: usize = more.frames.iter().map(|frame| frame.bytes().len()).sum();
    assert_eq!(node.lanes.held_bytes(), alive);
}

/// lanes-1: execution knows the committed chain before this lane does.
#[test]
fn executed_on_the_other_chain_the_lane_goes_back_to_it() {
    let (mut node, a, b) = switched();
    node.lanes.on_executed(&[a.tips[6]]);
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.progress(lane_of(R3))[0].entries[0].chain, a.tips[6].chain);
    let more = a.clone().grown(&node.config, 1, 1, 16);
    node.receive(&more, 7..=7);
    assert_eq!(node.batch(b.frame(7)), Err(Reject::Fork));
    assert_eq!(node.asked(R2, more.tip(), 0), [7, 6, 5, 4, 3, 2, 1]);
    node.want(more.tips[7]);
    assert!(node.take().questions().is_empty());
}

#[test]
fn a_lane_whose_executed_tip_was_never_here_goes_on_from_it() {
    let mut node = Node::new(R0);
    let (a, b) = forked(&node);
    node.receive(&b, 1..=7);
    node.tick();
    node.take();
    let a = a.grown(&node.config, 4, 1, 16);
    node.lanes.on_executed(&[a.tips[8]]);
    node.tick();
    assert_eq!(node.lanes.held_bytes(), 0);
    node.receive(&a, 9..=9);
    node.tick();
    let outputs = node.take();
    let update = outputs.progress(lane_of(R3)).pop().unwrap();
    assert_eq!((update.first, update.before), (LaneNumber(9), a.tips[8].chain));
    assert_eq!(outputs.acknowledgements()[0].0, a.tips[9]);
}

#[test]
fn a_committed_fork_replaces_the_unexecuted_part() {
    let mut node = Node::new(R0);
    let (a, b) = forked(&node);
    node.receive(&a, 1..=6);
    node.lanes.on_executed(&[a.tips[4]]);
    node.want(b.tips[7]);
    let (server, _) = node.take().question();
    node.fetched(server, &b.answer(7, 5)).unwrap();
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.held_numbers(), [6, 7], "5 is on both");
    assert_eq!(outputs.acknowledgements()[0].0, b.tips[7]);
}

#[test]
fn an_executed_batch_is_never_replaced() {
    let mut node = Node::new(R0);
    let (a, b) = forked(&node);
    node.receive(&a, 1..=6);
    node.want(b.tips[7]);
    let (server, _) = node.take().question();
    node.lanes.on_executed(&[a.tips[6]]);
    assert_eq!(node.fetched(server, &b.answer(7, 1)), Ok(()));
    node.tick();
    let outputs = node.take();
    assert!(outputs.held().is_empty());
    assert_eq!(node.asked(R1, a.tips[6], 5), [6]);
}

#[test]
fn rule_b_does_not_replace_what_a_quorum_acknowledged() {
    let mut node = Node::new(R0);
    let (a, b) = forked(&node);
    node.receive(&a, 1..=6);
    for replica in [R0, R1, R3] {
        node.ack(replica, a.tips[6]);
    }
    node.ack(R2, b.tips[7]);
    node.ack(R3, b.tips[7]);
    node.tick();
    node.take();
    node.wait(2);
    let (server, _) = node.take().question();
    node.fetched(server, &b.answer(7, 1)).unwrap();
    node.tick();
    assert!(node.take().held().is_empty());
    assert_eq!(node.asked(R1, a.tips[6], 5), [6]);
}

/// An origin that has lost its tail sends other batches at those positions (DESIGN section 5).
#[test]
fn the_newest_chain_on_the_origins_own_link_wins() {
    let mut node = Node::new(R0);
    let (a, b) = forked(&node);
    node.receive(&a, 1..=6);
    node.lanes.on_executed(&[a.tips[4]]);
    node.tick();
    node.take();
    assert_eq!(node.batch(b.frame(7)), Err(Reject::Fork), "its parent is not here");
    node.wait(1);
    assert!(node.take().frontiers(lane_of(R3)).iter().any(|(peer, ..)| *peer == R3), "the origin is told");
    node.receive(&b, 6..=7);
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.held_numbers(), [6, 7]);
    assert_eq!(outputs.appended().len(), 2);
    assert_eq!(outputs.acknowledgements().last().unwrap(), &(b.tip(), *outputs.appended().last().unwrap()));
    let update = &outputs.progress(lane_of(R3))[0];
    assert_eq!((update.first, update.before), (LaneNumber(6), a.tips[5].chain));
    assert_eq!(node.asked(R2, a.tips[6], 5), [6], "what was replaced is still served");
}

/// What takes the place of an acknowledgement says so, or others would believe the higher one.
#[test]
fn a_shorter_chain_is_acknowledged_in_the_place_of_the_longer_one() {
    let mut node = Node::new(R0);
    let (a, b) = forked(&node);
    node.receive(&b, 1..=7);
    node.tick();
    node.take();
    node.receive(&a, 6..=6);
    node.tick();
    let full = |output: &Output| match output {
        Output::Acknowledge { acks, .. } => Some((acks.full, acks.tips[0])),
        _ => None,
    };
    assert_eq!(node.take().0.iter().filter_map(full).collect::<Vec<_>>(), [(true, a.tips[6])]);
}

#[test]
fn an_origin_replaces_nothing_that_is_executed() {
    let mut node = Node::new(R0);
    let (a, b) = forked(&node);
    node.receive(&a, 1..=6);
    node.lanes.on_executed(&[a.tips[6]]);
    node.take();
    assert_eq!(node.batch(b.frame(6)), Err(Reject::Fork));
    assert_eq!(node.batch(b.frame(7)), Err(Reject::Fork));
    node.tick();
    assert!(node.take().held().is_empty());
    assert_eq!(node.asked(R1, a.tips[6], 5), [6]);
}

/// A liar may have made this replica believe in a quorum: it ends when the others turn out to hold the newer chain.
#[test]
fn an_origin_replaces_nothing_that_a_quorum_holds_until_it_does_no_longer() {
    let mut node = Node::new(R0);
    let (a, b) = forked(&node);
    node.receive(&a, 1..=6);
    node.tick();
    for replica in [R0, R1, R2] {
        node.ack(replica, a.tips[6]);
    }
    node.tick();
    node.take();
    assert_eq!(node.batch(b.frame(6)), Err(Reject::Fork));
    assert_eq!(node.batch(b.frame(7)), Err(Reject::Fork));
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.held_numbers(), [6, 7], "the newer chain is held beside");
    assert!(outputs.acknowledgements().is_empty());
    assert_eq!(node.asked(R1, b.tips[7], 5), [7, 6]);
    node.acks(R2, true, vec![b.tips[7]]);
    node.acks(R3, true, vec![b.tips[7]]);
    assert_eq!(node.batch(b.frame(7)), Ok(()), "sent again");
    node.tick();
    let outputs = node.take();
    assert!(outputs.appended().is_empty() && outputs.held().is_empty());
    assert_eq!(outputs.acknowledgements()[0].0, b.tips[7]);
}

/// Each fork costs the origin its own budget, and changing the chain costs little.
#[test]
fn an_origin_that_forks_for_ever_fills_its_own_budget_and_no_more() {
    let mut node = Node::with(R0, |tuning| tuning.lane_bytes_open_max = 1000);
    let trunk = Chain::new(&node.config, R3, 1, 1);
    node.receive(&trunk, 1..=1);
    let mut refused = 0;
    for salt in 2..60 {
        let fork = trunk.clone().grown(&node.config, 1, salt, 16);
        refused += usize::from(node.batch(fork.frame(2)) == Err(Reject::Budget));
        node.wait(1);
        node.take();
    }
    assert!(refused > 40, "{refused}");
    assert!(node.lanes.held_bytes() <= 4000);
    let other = Chain::new(&node.config, R2, 1, 2);
    assert_eq!(node.batch(other.frame(1)), Ok(()));
    let (a, b) = (trunk.clone().grown(&node.config, 1, 2, 16), trunk.grown(&node.config, 1, 3, 16));
    let mut refused = 0;
    for _ in 0..50 {
        refused += usize::from(node.batch(a.frame(2)).is_err());
        refused += usize::from(node.batch(b.frame(2)).is_err());
    }
    assert!(refused > 40, "one of the two stays for the rest of the retransmission time: {refused}");
}

/// The own lane is executed along a chain that this replica has abandoned (DESIGN section 6).
#[test]
fn bundles_of_own_batches_that_are_dead_are_sealed_again_in_order() {
    let mut node = Node::with(R0, |tuning| tuning.batches_in_flight = 3);
    let first = Chain::new(&node.config, R0, 1, 5);
    for _ in 0..3 {
        assert!(node.admit(16));
        node.tick();
    }
    let own: Vec<Vec<u8>> =
        node.take().held().iter().map(|batch| batch.body(&batch.bundles()[0]).to_vec()).collect();
    assert!(node.admit(16), "a fourth one waits");
    node.want(first.tip());
    let (server, _) = node.take().question();
    node.fetched(server, &first.answer(1, 1)).unwrap();
    node.tick();
    assert!(node.take().broadcasts().is_empty(), "nothing is sealed out of order");
    node.lanes.on_executed(&[first.tip()]);
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.broadcasts(), [(2, 4)]);
    let batch = &outputs.held()[0];
    let bodies: Vec<Vec<u8>> = batch.bundles().iter().map(|bundle| batch.body(bundle).to_vec()).collect();
    assert_eq!(bodies[..3], own);
    assert!(batch.bundles().iter().all(|bundle| bundle.signed));
    assert_eq!(batch.previous(), first.tip().chain);
    let bundle = bundle_of(&node.config, 77, 16);
    let bundle = quorate_wire::BundleView::parse(&bundle).unwrap();
    assert!(!node.lanes.admit(LINK, 1, &bundle, 4), "four are open");
    node.lanes.on_executed(&[batch.tip()]);
    for _ in 0..4 {
        assert!(node.lanes.admit(LINK, 1, &bundle, 4), "none is");
    }
    assert!(!node.lanes.admit(LINK, 1, &bundle, 4));
}

/// An origin that makes two honest sides follow each other's forks cannot fill memory.
#[test]
fn what_is_set_aside_counts_against_the_budget() {
    let mut node = Node::with(R0, |tuning| tuning.lane_bytes_open_max = 1000);
    let trunk = Chain::new(&node.config, R3, 1, 1);
    node.receive(&trunk, 1..=1);
    for round in 2..30 {
        let fork = trunk.clone().grown(&node.config, round, round, 16);
        for replica in [R2, R3] {
            node.acks(replica, true, vec![fork.tip()]);
        }
        node.wait(3);
        for (server, question) in node.take().questions() {
            let upto = index(question.upto);
            if fork.tips[upto].chain == question.chain {
                node.fetched(server, &fork.answer(upto, 1)).unwrap();
            }
        }
        node.take();
        assert!(node.lanes.held_bytes() < 4000 + 30 * 400, "round {round}: {}", node.lanes.held_bytes());
    }
    node.lanes.on_executed(&[trunk.tips[1]]);
    assert!(node.lanes.held_bytes() > 0);
}

/// An origin sends a long chain here and a shorter one to the others: what a primary proposes of that one is fetched,
/// though it says less than what is held.
#[test]
fn a_shorter_chain_that_a_primary_proposes_is_fetched() {
    let mut node = Node::new(R0);
    let (a, b) = forked(&node);
    let long = b.grown(&node.config, 9, 1, 16);
    node.receive(&long, 1..=9);
    node.tick();
    node.take();
    node.want_proposed(a.tips[6], R1);
    assert!(node.take().questions().is_empty(), "nobody says to hold it");
    node.ack(R1, a.tips[6]);
    node.ack(R2, a.tips[6]);
    node.want_proposed(a.tips[6], R1);
    let (server, question) = node.take().question();
    assert_eq!((question.upto, question.chain), (LaneNumber(6), a.tips[6].chain));
    node.fetched(server, &a.answer(6, 6)).unwrap();
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.held_numbers(), [6]);
    assert_eq!(outputs.acknowledgements()[0].0, a.tips[6]);
    // The origin brings the long chain back; what is proposed is there then, and nothing is asked.
    node.want_proposed(long.tips[9], R3);
    node.tick();
    assert_eq!(node.take().acknowledgements()[0].0, long.tips[9]);
    node.want_proposed(a.tips[6], R1);
    node.tick();
    let outputs = node.take();
    assert!(outputs.questions().is_empty());
    assert_eq!(outputs.acknowledgements()[0].0, a.tips[6]);
}

#[test]
fn what_is_proposed_waits_for_what_is_named_and_is_given_up_once_it_is_dead() {
    let mut node = Node::new(R0);
    let (a, b) = forked(&node);
    node.receive(&a, 1..=5);
    node.tick();
    node.take();
    // Own batches of a primary are fetched whoever holds them.
    node.want_proposed(b.tips[7], R3);
    let (_, question) = node.take().question();
    assert_eq!(question.chain, b.tips[7].chain);
    node.want(a.tips[6]);
    let (server, question) = node.take().question();
    assert_eq!(question.chain, a.tips[6].chain, "a header that stands names it");
    node.fetched(server, &a.answer(6, 6)).unwrap();
    node.lanes.on_executed(&[a.tips[6]]);
    node.take();
    node.lanes.on_executed(&[a.clone().grown(&node.config, 2, 1, 16).tips[8]]);
    node.wait(3);
    assert!(node.take().questions().is_empty(), "the lane has gone on past it");
}

/// A primary may propose what nobody has; who waits for it no longer does not go on asking.
#[test]
fn what_nobody_has_is_not_asked_for_again_unless_it_is_still_proposed() {
    let mut node = Node::new(R0);
    let (a, b) = forked(&node);
    node.receive(&a, 1..=5);
    node.tick();
    node.take();
    node.want_proposed(b.tips[7], R3);
    let (first, _) = node.take().question();
    node.wait(6);
    node.take();
    node.wait(12);
    assert!(node.take().questions().is_empty(), "it was given up");
    node.want_proposed(b.tips[7], R3);
    assert_ne!(node.take().question().0, first, "another one is asked");
}
