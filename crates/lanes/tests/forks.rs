//! An origin that equivocates: all its chains are held and acknowledged beside one another within bounds, what is executed
//! decides, and what is merely named is held and not acknowledged.

mod common;

use common::*;
use quorate_lanes::{Output, Reject};
use quorate_types::{Digest, LaneNumber, Support, Why};
use quorate_wire::{BatchHead, BatchView, LaneTip};

/// r3's lane forks after 5: A6 on one side, B6', B7' on the other.
fn forked(node: &Node) -> (Chain, Chain) {
    let trunk = Chain::new(&node.config, R3, 5, 1);
    (trunk.clone().grown(&node.config, 1, 1, 16), trunk.grown(&node.config, 2, 2, 16))
}

fn said(outputs: &Outputs) -> Vec<LaneTip> {
    outputs.acknowledgements().into_iter().map(|(tip, _)| tip).collect()
}

/// r0 holds A, and B as far as a header names it.
fn with_named() -> (Node, Chain, Chain) {
    let mut node = Node::new(R0);
    let (a, b) = forked(&node);
    node.receive(&a, 1..=6);
    node.tick();
    node.take();
    node.want(b.tips[7]);
    let (server, question) = node.take().question();
    assert_eq!((question.upto, question.chain), (LaneNumber(7), b.tips[7].chain));
    node.fetched(server, &b.answer(7, 1)).expect("an honest answer");
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.held_numbers(), [6, 7]);
    assert!(said(&outputs).is_empty(), "a header makes nobody say what no origin has sent");
    assert!(outputs.progress(lane_of(R3))[0].held.iter().all(|entry| entry.why == Why::Named));
    (node, a, b)
}

#[test]
fn both_chains_of_an_origin_are_held_acknowledged_and_served() {
    let mut node = Node::new(R0);
    let (a, b) = forked(&node);
    node.receive(&a, 1..=6);
    node.tick();
    assert_eq!(said(&node.take()), [a.tips[6]]);
    node.receive(&b, 6..=7);
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.held_numbers(), [6, 7]);
    assert_eq!(said(&outputs), [b.tips[7]], "it is one acknowledgement more");
    node.lanes.on_connected(R1, LINK);
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.frontiers(lane_of(R3)).len(), 1);
    let frontier = outputs.sent(quorate_wire::Kind::LaneAcks);
    let frontier = quorate_wire::message::Message::from_frame(frontier[0].1.as_frame_ref());
    let quorate_wire::message::LaneAcks { tips, .. } = frontier.unwrap();
    assert!(tips.contains(&a.tips[6]) && tips.contains(&b.tips[7]), "all live tips are told");
    assert_eq!(node.asked(R2, a.tips[6], 4), [6, 5]);
    assert_eq!(node.asked(R2, b.tips[7], 4), [7, 6, 5]);
}

/// Listed mistake: an acknowledgement replaced by a fork's.
#[test]
fn an_acknowledgement_is_a_fact_whatever_its_sender_says_later() {
    let mut node = Node::new(R0);
    let (a, b) = forked(&node);
    node.receive(&a, 1..=6);
    node.tick();
    for full in [false, true] {
        node.acks(R1, full, vec![a.tips[6]]);
        node.acks(R1, full, vec![b.tips[7]]);
        node.acks(R1, full, vec![a.tips[2]]);
    }
    node.ack(R3, a.tips[6]);
    node.ack(R0, a.tips[6]);
    node.tick();
    assert_eq!(node.take().tips(lane_of(R3)), Some((6, 6)));
}

#[test]
fn what_came_before_its_batch_counts_when_that_comes() {
    let mut node = Node::new(R0);
    let (a, b) = forked(&node);
    node.ack(R1, b.tips[7]);
    node.ack(R2, b.tips[6]);
    node.ack(R1, a.tips[6]);
    node.receive(&b, 1..=7);
    node.receive(&a, 6..=6);
    node.ack(R3, a.tips[6]);
    node.tick();
    let outputs = node.take();
    let mut weak: Vec<LaneNumber> = Vec::new();
    let mut quorum: Vec<LaneNumber> = Vec::new();
    for update in outputs.progress(lane_of(R3)) {
        for (support, mark) in update.supported {
            if support == Support::Weak { &mut weak } else { &mut quorum }.push(mark.upto);
        }
    }
    assert!(weak.contains(&LaneNumber(6)), "{weak:?}");
    assert_eq!(quorum.iter().max(), Some(&LaneNumber(5)), "r1, r2 and r3 have the trunk");
}

#[test]
fn what_is_named_is_acknowledged_once_f_plus_1_others_have() {
    let (mut node, _, b) = with_named();
    node.ack(R1, b.tips[7]);
    node.tick();
    assert!(said(&node.take()).is_empty(), "one of them may lie");
    node.ack(R2, b.tips[6]);
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.appended().len(), 1, "the journal hears why before anybody else does");
    let (tip, after) = outputs.acknowledgements()[0];
    assert_eq!((tip, after), (b.tips[6], *outputs.appended().last().unwrap()));
    let why = outputs.0.iter().find_map(|output| match output {
        Output::Append { why, .. } => Some(*why),
        _ => None,
    });
    assert_eq!(why, Some(Why::Acknowledged));
}

#[test]
fn what_is_named_is_acknowledged_once_its_origin_sends_it() {
    let (mut node, _, b) = with_named();
    let more = b.clone().grown(&node.config, 1, 2, 16);
    node.receive(&more, 8..=8);
    node.tick();
    let outputs = node.take();
    assert_eq!(said(&outputs), [more.tips[8]], "it vouches for what lies before");
    assert_eq!(outputs.appended().len(), 3);
    let (mut node, _, b) = with_named();
    node.receive(&b, 6..=7);
    node.tick();
    let outputs = node.take();
    assert_eq!(said(&outputs), [b.tips[7]]);
    assert!(outputs.held().is_empty(), "execution has it");
}

#[test]
fn void_headers_leave_nothing() {
    let (mut node, a, b) = with_named();
    let before = node.lanes.held_bytes();
    node.ack(R1, b.tips[6]);
    node.ack(R2, b.tips[6]);
    node.tick();
    node.take();
    node.lanes.unname(&[b.tips[7], b.tips[6], a.tips[6]], &mut node.out);
    node.tick();
    let outputs = node.take();
    let gone = |output: &Output| match output {
        Output::LetGo(tip) => Some(*tip),
        _ => None,
    };
    assert_eq!(outputs.0.iter().filter_map(gone).collect::<Vec<_>>(), [b.tips[7]]);
    assert_eq!(node.lanes.held_bytes(), before - b.frame(7).bytes().len());
    let again: Vec<_> = outputs.progress(lane_of(R3))[0].held.iter().map(|entry| entry.mark).collect();
    assert_eq!(
        again,
        [b.tips[6].mark(), a.tips[6].mark()],
        "what is acknowledged stays, and is told of again"
    );
    assert!(outputs.progress(lane_of(R3))[0].supported.contains(&(Support::Weak, b.tips[6].mark())));
}

/// An origin may fork its lane so often, and a chain that f+1 others have is held beyond that.
#[test]
fn an_origin_that_forks_for_ever_hurts_its_own_lane_alone() {
    let mut node = Node::new(R0);
    let trunk = Chain::new(&node.config, R3, 1, 1);
    node.receive(&trunk, 1..=1);
    let fork = |node: &Node, salt: u64| trunk.clone().grown(&node.config, 2, salt, 16);
    let taken: Vec<bool> = (2..30)
        .map(|salt| {
            let fork = fork(&node, salt);
            node.batch(fork.frame(2)).is_ok()
        })
        .collect();
    assert_eq!(taken.iter().filter(|taken| **taken).count(), 8);
    assert!(taken[..8].iter().all(|taken| *taken), "the first ones");
    let first = fork(&node, 2);
    assert_eq!(node.batch(first.frame(3)), Ok(()), "each of them goes on");
    let late = fork(&node, 29);
    assert_eq!(node.batch(late.frame(2)), Err(Reject::Fork));
    node.tick();
    node.take();
    node.ack(R1, late.tips[2]);
    node.ack(R2, late.tips[2]);
    node.wait(2);
    let (server, _) = node.take().question();
    node.fetched(server, &late.answer(2, 2)).unwrap();
    node.tick();
    assert_eq!(said(&node.take()), [late.tips[2]]);
    node.lanes.on_executed(&[late.tips[2]]);
    let kept: usize = [trunk.frame(1), late.frame(2)].map(|frame| frame.bytes().len()).iter().sum();
    assert_eq!(node.lanes.held_bytes(), kept, "all others are dead");
    assert_eq!(node.batch(first.frame(3)), Err(Reject::Fork));
}

#[test]
fn the_budget_of_a_lane_counts_what_its_origin_sends_on_all_chains() {
    let mut node = Node::with(R0, |tuning| tuning.lane_bytes_open_max = 1000);
    let trunk = Chain::new(&node.config, R3, 1, 1);
    node.receive(&trunk, 1..=1);
    let mut refused = 0;
    for salt in 2..9 {
        let fork = trunk.clone().grown(&node.config, 20, salt, 16);
        for number in 2..=21 {
            refused += usize::from(node.batch(fork.frame(number)) == Err(Reject::Budget));
        }
    }
    assert!(refused > 4, "{refused}");
    assert!(node.lanes.held_bytes() <= 4000);
    let other = Chain::new(&node.config, R2, 1, 2);
    assert_eq!(node.batch(other.frame(1)), Ok(()));
    // A header names more: it is fetched whatever the budget says.
    let named = trunk.clone().grown(&node.config, 30, 77, 16);
    node.want(named.tip());
    let (server, _) = node.take().question();
    node.fetched(server, &named.answer(31, 2)).unwrap();
    node.tick();
    assert_eq!(node.take().held_numbers().len(), 30, "all of it");
}

#[test]
fn executed_on_the_other_chain_the_lane_goes_on_there() {
    let mut node = Node::new(R0);
    let (a, b) = forked(&node);
    node.receive(&b, 1..=7);
    node.receive(&a, 6..=6);
    node.lanes.on_executed(&[a.tips[6]]);
    node.tick();
    node.take();
    let more = a.clone().grown(&node.config, 1, 1, 16);
    node.receive(&more, 7..=7);
    assert_eq!(node.batch(b.frame(7)), Err(Reject::Fork));
    assert_eq!(node.asked(R2, more.tip(), 0), [7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(node.asked(R2, b.tips[7], 5), Vec::<u64>::new(), "the fork is dead and gone");
    let alive: usize = more.frames.iter().map(|frame| frame.bytes().len()).sum();
    assert_eq!(node.lanes.held_bytes(), alive);
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
    assert_eq!((update.held[0].mark.upto, update.held[0].previous), (LaneNumber(9), a.tips[8].chain));
    assert_eq!(said(&outputs), [a.tips[9]]);
}

#[test]
fn nothing_executed_is_replaced() {
    let mut node = Node::new(R0);
    let (a, b) = forked(&node);
    node.receive(&a, 1..=6);
    node.want(b.tips[7]);
    let (server, _) = node.take().question();
    node.lanes.on_executed(&[a.tips[6]]);
    assert_eq!(node.fetched(server, &b.answer(7, 1)), Ok(()));
    assert_eq!(node.batch(b.frame(6)), Err(Reject::Fork));
    assert_eq!(node.batch(b.frame(7)), Err(Reject::Fork));
    node.tick();
    assert!(node.take().held_numbers().iter().all(|number| *number <= 6));
    assert_eq!(node.asked(R1, a.tips[6], 5), [6]);
    node.wait(3);
    assert!(node.take().questions().is_empty(), "a dead chain is not fetched");
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
    node.ack(R1, first.tip());
    node.ack(R2, first.tip());
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
    assert!(!node.lanes.admit(LINK, sender(1), &bundle, 4), "four are open");
    node.lanes.on_executed(&[batch.tip()]);
    for _ in 0..4 {
        assert!(node.lanes.admit(LINK, sender(1), &bundle, 4), "none is");
    }
    assert!(!node.lanes.admit(LINK, sender(1), &bundle, 4));
}

/// Anybody can make up a batch of a lane that is not its own, and name it as a primary.
#[test]
fn a_made_up_batch_does_not_keep_an_origin_from_sealing() {
    let mut node = Node::new(R0);
    assert!(node.admit(16));
    node.tick();
    let own = node.take().held()[0].tip();
    let made_up = Chain { lane: own.lane, frames: Vec::new(), tips: vec![own] }.grown(&node.config, 1, 9, 16);
    node.want_proposed(made_up.tip(), R3);
    let (server, _) = node.take().question();
    node.fetched(
        server,
        &quorate_wire::message::encode_fetched_batches(
            &made_up.tip(),
            [made_up.frames[0].payload()].into_iter(),
        ),
    )
    .unwrap();
    node.tick();
    assert_eq!(node.take().held_numbers(), [2]);
    assert!(node.admit(16));
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.broadcasts(), [(2, 1)]);
    assert_eq!(outputs.held()[0].previous(), own.chain, "it goes on where it was");
    for replica in [R0, R1, R2] {
        node.ack(replica, outputs.held()[0].tip());
    }
    assert!(node.admit(16));
    node.tick();
    assert_eq!(node.take().broadcasts(), [(3, 1)]);
    assert_eq!(node.asked(R1, outputs.held()[0].tip(), 0), [2, 1]);
}

/// Where an origin's lane is executed along a fork, what it has acknowledged behind that may be shorter than what a primary
/// has made up there.
#[test]
fn an_origin_seals_behind_what_it_has_acknowledged_however_long_the_rest_is() {
    let mut node = Node::new(R0);
    let own = Chain::new(&node.config, R0, 2, 5);
    let made_up = own.upto(1).grown(&node.config, 3, 9, 16);
    assert!(node.admit(16));
    node.tick();
    for (chain, count) in [(&own, 2), (&made_up, 4)] {
        node.take();
        node.want(chain.tip());
        let (server, _) = node.take().question();
        node.fetched(server, &chain.answer(count, 1)).expect("an honest answer");
        node.tick();
    }
    for peer in [R1, R2] {
        node.ack(peer, own.tip());
    }
    node.tick();
    assert_eq!(said(&node.take()), [own.tip()]);
    node.lanes.on_executed(&[own.tips[1]]);
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.broadcasts(), [(3, 1)], "what is dead is sealed again");
    assert_eq!(outputs.held()[0].previous(), own.tip().chain);
}

/// A restarted origin finds two chains of its own, and takes the one up to where others have acknowledged it.
#[test]
fn a_restarted_origin_seals_behind_what_it_has_acknowledged_however_long_the_rest_is() {
    let config = config(|_| ());
    let own = Chain::new(&config, R0, 3, 5);
    let made_up = own.upto(2).grown(&config, 2, 9, 16);
    let last = Chain::new(&config, R0, 1, 6);
    let frames = own.frames.iter().chain(&made_up.frames[2..]).chain(&last.frames);
    let mut recovered = journal(frames, &[]);
    recovered.batches[3..5].iter_mut().for_each(|(.., why)| *why = Why::Named);
    let mut node = Node::recovered(R0, config, recovered);
    node.tick();
    for peer in [R1, R2] {
        node.acks(peer, true, vec![own.tips[2]]);
    }
    assert!(node.admit(16));
    node.tick();
    assert!(!node.lanes.is_adopting() && node.take().broadcasts().is_empty(), "two chains are its own");
    node.lanes.on_executed(&[own.tips[2]]);
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.broadcasts(), [(4, 2)], "what is dead is sealed again");
    assert!(outputs.held().iter().any(|batch| batch.previous() == own.tip().chain));
}

/// Listed mistake: a proposal that is fetched only when f+1 others have acknowledged it.
#[test]
fn what_a_primary_proposes_is_fetched_whatever_anybody_has_acknowledged() {
    let mut node = Node::new(R0);
    let (a, b) = forked(&node);
    let long = b.grown(&node.config, 9, 1, 16);
    node.receive(&long, 1..=9);
    node.tick();
    node.take();
    node.want_proposed(a.tips[6], R2);
    let (server, question) = node.take().question();
    assert_eq!((question.upto, question.chain), (LaneNumber(6), a.tips[6].chain));
    assert_eq!(server, R2, "the primary has it, or should");
    node.fetched(server, &a.answer(6, 6)).unwrap();
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.held_numbers(), [6]);
    assert!(said(&outputs).is_empty());
    node.want_proposed(a.tips[6], R2);
    assert!(node.take().questions().is_empty(), "it is here");
}

#[test]
fn a_proposal_is_fetched_beside_what_is_named() {
    let mut node = Node::new(R0);
    let (a, b) = forked(&node);
    node.receive(&a, 1..=5);
    node.tick();
    node.take();
    node.want_proposed(b.tips[7], R3);
    let (_, question) = node.take().question();
    assert_eq!(question.chain, b.tips[7].chain);
    node.want(a.tips[6]);
    let (server, question) = node.take().question();
    assert_eq!(question.chain, a.tips[6].chain);
    node.fetched(server, &a.answer(6, 6)).unwrap();
    node.tick();
    assert_eq!(node.take().held_numbers(), [6]);
    node.fetched(R3, &b.answer(7, 6)).unwrap();
    node.tick();
    assert_eq!(node.take().held_numbers(), [6, 7]);
}

/// A primary that lies names more than a cut may: the walk ends where the parent should have been met.
#[test]
fn of_a_proposal_no_more_is_fetched_than_one_cut_may_name() {
    let mut node = Node::new(R0);
    let (a, b) = forked(&node);
    node.receive(&a, 1..=6);
    node.tick();
    node.take();
    let (now, tip, floor) = (node.now, b.tips[7], a.tips[6].mark());
    node.lanes.want_proposed(now, tip, floor, R1, &mut node.out);
    let (server, _) = node.take().question();
    node.fetched(server, &b.answer(7, 7)).unwrap();
    node.tick();
    let outputs = node.take();
    assert!(
        outputs.questions().is_empty() && outputs.held().is_empty(),
        "it does not continue what is named"
    );
}

/// Listed mistake: a coalesced acknowledgement that cannot be counted.
#[test]
fn whoever_said_more_than_can_be_placed_is_asked() {
    let mut node = Node::new(R0);
    let (a, b) = forked(&node);
    let long = a.clone().grown(&node.config, 3, 1, 16);
    node.receive(&a, 1..=6);
    node.tick();
    node.ack(R0, a.tips[6]);
    node.ack(R1, long.tips[9]);
    node.ack(R2, b.tips[5]);
    node.wait(1);
    node.take();
    node.wait(1);
    let outputs = node.take();
    assert_eq!(outputs.asked(), [(R1, vec![a.tips[6]])], "of r2 it is known where it is");
    // A header waits: it is asked at once.
    node.want_proposed(a.tips[6], R2);
    assert_eq!(node.take().asked(), [(R1, vec![a.tips[6]])]);
    node.ack(R1, a.tips[6]);
    node.ack(R3, a.tips[6]);
    node.want_proposed(a.tips[6], R2);
    assert!(node.take().asked().is_empty());
    // And r1 answers what it has acknowledged, of whatever chain, once that is durable.
    let mut peer = Node::new(R1);
    peer.receive(&long, 1..=9);
    let question = quorate_wire::message::AskLanes { tips: vec![a.tips[6], b.tips[7], long.tips[9]] };
    peer.lanes.on_ask(R0, LINK, question).unwrap();
    peer.tick();
    let outputs = peer.take();
    let answers = outputs.sent(quorate_wire::Kind::LaneAcks);
    let (_, frame, after) =
        answers.iter().find(|(to, ..)| *to == quorate_lanes::Destination::One(R0)).unwrap();
    let acks: quorate_wire::message::LaneAcks =
        quorate_wire::message::Message::from_frame(frame.as_frame_ref()).unwrap();
    assert_eq!((acks.full, acks.tips), (false, vec![a.tips[6], long.tips[9]]));
    assert_eq!(*after, Some(*outputs.appended().last().unwrap()));
}

/// Besides all live tips a frontier names the highest digests that f+1, and that q, are known to hold.
#[test]
fn a_frontier_names_what_f_plus_1_and_a_quorum_hold() {
    let mut node = Node::new(R0);
    let chain = Chain::new(&node.config, R3, 9, 1);
    node.receive(&chain, 1..=9);
    for (replica, upto) in [(R0, 9), (R1, 7), (R2, 4)] {
        node.ack(replica, chain.tips[upto]);
    }
    node.tick();
    node.take();
    node.lanes.on_connected(R2, LINK);
    node.tick();
    let frontier = node.take().sent(quorate_wire::Kind::LaneAcks);
    let acks: quorate_wire::message::LaneAcks =
        quorate_wire::message::Message::from_frame(frontier[0].1.as_frame_ref()).unwrap();
    let of_lane: Vec<u64> =
        acks.tips.iter().filter(|tip| tip.lane == chain.lane).map(|tip| tip.upto.0).collect();
    assert_eq!(of_lane, [9, 7, 4]);
}

/// Within a budget of bytes there would be hundreds of thousands of them.
#[test]
fn tiny_batches_of_a_lane_are_bounded_in_number() {
    const BATCHES_MAX: usize = 16 * 1024;
    let mut node = Node::new(R0);
    let bundle = bundle_of(&node.config, 1, 1);
    let mut tip = LaneTip { lane: lane_of(R3), upto: LaneNumber(0), chain: Digest::ZERO };
    let mut taken = 0;
    loop {
        let head = BatchHead { lane: tip.lane, number: tip.upto.next(), previous: tip.chain };
        let frame = batch_frame(&head, std::slice::from_ref(&bundle));
        tip.upto = head.number;
        tip.chain = BatchView::parse(frame.payload()).expect("a batch").chain();
        match node.batch(&frame) {
            Ok(()) => taken += 1,
            Err(reject) => break assert_eq!(reject, Reject::Budget),
        }
        assert!(taken <= BATCHES_MAX);
        if taken % 4096 == 0 {
            while node.lanes.deadline() < node.now {
                node.tick();
            }
            node.take();
        }
    }
    assert_eq!(taken, BATCHES_MAX);
}
