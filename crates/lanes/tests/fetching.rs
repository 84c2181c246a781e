//! Fetching a lane backwards: from honest, lying, silent and forgetful servers.

mod common;

use common::*;
use quorate_lanes::Reject;
use quorate_types::{LaneNumber, Nanoseconds, limits};
use quorate_wire::message::encode_fetched_batches;

/// A replica that holds the first batches of a lane of r1 and is told that a committed header names more.
fn behind(held: usize, chain: &Chain) -> Node {
    let mut node = Node::new(R0);
    if held > 0 {
        node.receive(chain, 1..=held);
    }
    node.tick();
    node.take();
    node.want(chain.tip());
    node.tick();
    node
}

fn chain(count: u64) -> Chain {
    Chain::new(&Node::new(R0).config, R1, count, 1)
}

fn pass_answer_time(node: &mut Node) {
    node.wait(4);
}

#[test]
fn a_wanted_tip_is_asked_for_at_once_and_one_answer_brings_it() {
    let chain = chain(5);
    let mut node = behind(2, &chain);
    let (server, question) = node.take().question();
    assert_eq!(
        (question.lane, question.upto, question.chain),
        (lane_of(R1), LaneNumber(5), chain.tip().chain)
    );
    assert_eq!(node.fetched(server, &chain.answer(5, 3)), Ok(()));
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.held_numbers(), [3, 4, 5]);
    assert_eq!(outputs.appended().len(), 3);
    assert_eq!(outputs.acknowledgements()[0].0, chain.tip(), "and acknowledged when durable");
    let update = &outputs.progress(lane_of(R1))[0];
    assert_eq!((update.first, update.before, update.entries.len()), (LaneNumber(3), chain.tips[2].chain, 3));
    assert_eq!(node.lanes.held_bytes(), chain.frames.iter().map(|frame| frame.bytes().len()).sum::<usize>());
}

#[test]
fn several_answers_walk_down_and_more_than_needed_is_passed_over() {
    let chain = chain(6);
    let mut node = behind(1, &chain);
    let (server, _) = node.take().question();
    assert_eq!(node.fetched(server, &chain.answer(6, 5)), Ok(()));
    let (next, question) = node.take().question();
    assert_eq!((next, question.upto, question.chain), (server, LaneNumber(4), chain.tips[4].chain));
    assert_eq!(node.fetched(server, &chain.answer(4, 1)), Ok(()));
    assert_eq!(node.take().held_numbers(), [2, 3, 4, 5, 6]);
}

#[test]
fn nothing_is_asked_for_what_is_held_or_executed() {
    let chain = chain(4);
    let mut node = behind(4, &chain);
    assert!(node.take().questions().is_empty());
    node.lanes.on_executed(&[chain.tips[3]]);
    let fork = Chain::new(&node.config, R1, 3, 2);
    node.want(fork.tips[2]);
    assert!(node.take().questions().is_empty(), "what is executed is never replaced");
}

#[test]
fn wanted_tips_are_fetched_oldest_first() {
    let chain = chain(6);
    let mut node = Node::new(R0);
    node.want(chain.tips[2]);
    node.want(chain.tips[4]);
    node.want(chain.tips[6]);
    let (server, question) = node.take().question();
    assert_eq!(question.upto, LaneNumber(2));
    assert_eq!(node.fetched(server, &chain.answer(2, 1)), Ok(()));
    let outputs = node.take();
    assert_eq!((outputs.held_numbers(), outputs.question().1.upto), (vec![1, 2], LaneNumber(4)));
    // Live batches bring the rest.
    node.receive(&chain, 3..=6);
    node.take();
    assert_eq!(node.fetched(server, &chain.answer(4, 3)), Ok(()));
    node.wait(1);
    let outputs = node.take();
    assert!(outputs.questions().is_empty() && outputs.held().is_empty());
}

/// A header of a view that failed may name what nobody has.
#[test]
fn what_nobody_has_does_not_keep_from_fetching_the_rest() {
    let chain = chain(4);
    let lost = Chain::new(&Node::new(R0).config, R1, 3, 2);
    let mut node = Node::new(R0);
    node.want(lost.tips[3]);
    node.want(chain.tips[3]);
    node.want(chain.tips[3]);
    assert_eq!(node.take().question().1.chain, lost.tips[3].chain);
    pass_answer_time(&mut node);
    let (server, question) = node.take().question();
    assert_eq!(question.chain, chain.tips[3].chain);
    node.fetched(server, &chain.answer(3, 1)).unwrap();
    let outputs = node.take();
    assert_eq!(outputs.held_numbers(), [1, 2, 3]);
    assert_eq!(outputs.question().1.chain, lost.tips[3].chain);
    node.lanes.on_executed(&[chain.tips[3]]);
    pass_answer_time(&mut node);
    assert!(node.take().questions().is_empty(), "it will never be executed");
}

#[test]
fn a_silent_server_is_given_up_for_the_next_one_with_more_time() {
    let chain = chain(3);
    let mut node = behind(0, &chain);
    let (first, _) = node.take().question();
    pass_answer_time(&mut node);
    let (second, _) = node.take().question();
    assert_ne!(first, second);
    pass_answer_time(&mut node);
    let (third, _) = node.take().question();
    assert!(third != first && third != second);
    pass_answer_time(&mut node);
    let (fourth, _) = node.take().question();
    assert_eq!(fourth, first, "all were asked");
    pass_answer_time(&mut node);
    assert!(node.take().questions().is_empty(), "in the second round everybody has twice as long");
    pass_answer_time(&mut node);
    assert_eq!(node.take().question().0, second);
    assert_eq!(node.fetched(second, &chain.answer(3, 1)), Ok(()));
    assert_eq!(node.take().held_numbers(), [1, 2, 3]);
}

#[test]
fn a_late_answer_of_another_server_is_as_good() {
    let chain = chain(3);
    let mut node = behind(0, &chain);
    let (first, _) = node.take().question();
    pass_answer_time(&mut node);
    node.take();
    assert_eq!(node.fetched(first, &chain.answer(3, 1)), Ok(()));
    assert_eq!(node.take().held_numbers(), [1, 2, 3]);
}

#[test]
fn a_server_that_has_nothing_any_more_is_given_up_at_the_next_look() {
    let chain = chain(3);
    let mut node = behind(0, &chain);
    let (server, _) = node.take().question();
    let nothing = encode_fetched_batches(lane_of(R1), std::iter::empty());
    let other = if server == R2 { R3 } else { R2 };
    assert_eq!(node.fetched(other, &nothing), Ok(()), "not the one that was asked");
    node.wait(1);
    assert!(node.take().questions().is_empty());
    assert_eq!(node.fetched(server, &nothing), Ok(()));
    node.wait(1);
    assert_ne!(node.take().question().0, server);
}

#[test]
fn a_server_that_has_trimmed_the_rest_leaves_the_fetch_to_the_next_one() {
    let chain = chain(5);
    let mut node = behind(0, &chain);
    let (server, _) = node.take().question();
    assert_eq!(node.fetched(server, &chain.answer(5, 4)), Ok(()));
    assert_eq!(node.take().question().1.upto, LaneNumber(3));
    assert_eq!(node.fetched(server, &encode_fetched_batches(lane_of(R1), std::iter::empty())), Ok(()));
    node.wait(1);
    let (next, question) = node.take().question();
    assert_ne!(next, server);
    assert_eq!(question.upto, LaneNumber(5), "from the start");
}

#[test]
fn lies_are_never_held() {
    let chain = chain(5);
    let config = Node::new(R0).config;
    let fork = Chain::new(&config, R1, 5, 2);
    let foreign = Chain::new(&config, R2, 5, 1);
    let skipping =
        encode_fetched_batches(lane_of(R1), [5, 3].map(|at| chain.frame(at).payload()).into_iter());
    let ascending =
        encode_fetched_batches(lane_of(R1), [5, 4, 5].map(|at| chain.frame(at).payload()).into_iter());
    let forked =
        encode_fetched_batches(lane_of(R1), [chain.frame(5).payload(), fork.frame(4).payload()].into_iter());
    let mixed = encode_fetched_batches(
        lane_of(R1),
        [chain.frame(5).payload(), foreign.frame(4).payload()].into_iter(),
    );
    let payload = chain.frame(4).payload();
    let truncated = encode_fetched_batches(
        lane_of(R1),
        [chain.frame(5).payload(), &payload[..payload.len() - 1]].into_iter(),
    );
    for lie in [skipping, ascending, forked, mixed, truncated] {
        let mut node = behind(1, &chain);
        let (server, _) = node.take().question();
        assert_eq!(node.fetched(server, &lie), Err(Reject::FetchMismatch));
        node.wait(1);
        let outputs = node.take();
        assert!(outputs.held().is_empty());
        assert_ne!(outputs.question().0, server, "another server is asked");
    }
    for lie in [fork.answer(5, 1), foreign.answer(5, 1), chain.answer(4, 1)] {
        let mut node = behind(1, &chain);
        let (server, _) = node.take().question();
        assert_eq!(node.fetched(server, &lie), Ok(()), "it may answer an earlier question");
        assert!(node.take().0.is_empty());
        pass_answer_time(&mut node);
        assert_ne!(node.take().question().0, server, "but it gains no time");
    }
}

/// Only the one who was asked can end a fetch, and nobody can keep a silent one alive.
#[test]
fn unasked_answers_neither_end_nor_prolong_a_fetch() {
    let chain = chain(5);
    let fork = Chain::new(&Node::new(R0).config, R1, 5, 2);
    let mut node = behind(0, &chain);
    let (server, _) = node.take().question();
    let liar = if server == R3 { R2 } else { R3 };
    let payloads = [chain.frame(5).payload(), fork.frame(4).payload()];
    let half = encode_fetched_batches(lane_of(R1), payloads.into_iter());
    assert_eq!(node.fetched(liar, &half), Err(Reject::FetchMismatch));
    let (asked, question) = node.take().question();
    assert_eq!((asked, question.upto), (server, LaneNumber(4)), "what was right is kept");
    assert_eq!(node.fetched(server, &chain.answer(4, 1)), Ok(()));
    assert_eq!(node.take().held_numbers(), [1, 2, 3, 4, 5]);

    let mut node = behind(0, &chain);
    let (server, _) = node.take().question();
    for _ in 0..4 {
        node.wait(1);
        assert_eq!(node.fetched(liar, &fork.answer(5, 4)), Ok(()));
    }
    assert_ne!(node.take().question().0, server);
}

#[test]
fn without_a_connection_the_fetch_starts_when_there_is_one() {
    let chain = chain(2);
    let mut node = Node::new(R0);
    for peer in node.peers() {
        node.lanes.on_disconnected(peer, LINK);
    }
    node.want(chain.tip());
    node.tick();
    assert!(node.take().questions().is_empty());
    node.lanes.on_connected(R2, LINK);
    node.wait(1);
    assert_eq!(node.take().question().0, R2);
}

#[test]
fn an_answer_holds_what_was_asked_for_down_to_a_bound() {
    let mut node = Node::with(R0, |tuning| tuning.fetch_bytes_max = 1000);
    let chain = Chain::new(&node.config, R1, 9, 1);
    let each = chain.frame(1).bytes().len();
    node.receive(&chain, 1..=9);
    let per_answer = 1000 / each as u64;
    assert!(per_answer >= 2);
    assert_eq!(node.asked(R2, chain.tips[9], 0), (10 - per_answer..=9).rev().collect::<Vec<_>>());
    assert_eq!(node.asked(R2, chain.tips[5], 4), [5]);
    assert_eq!(node.asked(R2, chain.tips[5], 5), Vec::<u64>::new());
    assert_eq!(node.asked(R2, chain.tips[5], u64::MAX), Vec::<u64>::new());
    let fork = Chain::new(&node.config, R1, 9, 2);
    assert_eq!(node.asked(R2, fork.tips[9], 0), Vec::<u64>::new(), "another chain");
    let beyond = quorate_wire::LaneTip { upto: LaneNumber(u64::MAX), ..chain.tips[9] };
    assert_eq!(node.asked(R2, beyond, 0), Vec::<u64>::new());
}

/// A question is small and its answer large: what one tick answers is bounded (lanes-2).
#[test]
fn a_flood_of_questions_is_answered_in_portions() {
    let mut node = Node::with(R0, |tuning| tuning.fetch_bytes_max = 1000);
    let chains: Vec<Chain> =
        [R1, R2, R3].iter().map(|origin| Chain::new(&node.config, *origin, 9, 1)).collect();
    for chain in &chains {
        node.receive(chain, 1..=9);
    }
    node.tick();
    node.take();
    for _ in 0..1000 {
        for (chain, from) in chains.iter().zip([R2, R3, R2]) {
            let tip = chain.tip();
            let (lane, upto, chain) = (tip.lane, tip.upto, tip.chain);
            let question = quorate_wire::message::FetchBatches { lane, upto, chain, above: LaneNumber(0) };
            node.lanes.on_fetch(from, LINK, &question).unwrap();
        }
    }
    assert!(node.take().0.is_empty());
    let mut answered = Vec::new();
    for _ in 0..3 {
        node.tick();
        let answers = node.take().answers();
        assert!(answers.len() <= 2, "about a thousand bytes a tick");
        answered.extend(answers.into_iter().map(|(to, _)| to));
        if answered.len() < 3 {
            assert_eq!(node.lanes.deadline(), Nanoseconds(0), "the rest is due at once");
        }
    }
    assert_eq!(answered, [R2, R3, R2], "one answer per peer and lane, in the order of asking");
    node.tick();
    assert!(node.take().answers().is_empty());
    assert!(node.lanes.deadline() > node.now);
}

#[test]
fn questions_of_a_peer_that_is_gone_are_dropped() {
    let mut node = Node::new(R0);
    let chain = Chain::new(&node.config, R1, 1, 1);
    node.receive(&chain, 1..=1);
    let tip = chain.tip();
    let (lane, upto, chain) = (tip.lane, tip.upto, tip.chain);
    let question = quorate_wire::message::FetchBatches { lane, upto, chain, above: LaneNumber(0) };
    node.lanes.on_fetch(R2, LINK, &question).unwrap();
    node.lanes.on_disconnected(R2, LINK);
    node.tick();
    assert!(node.take().answers().is_empty());
}

/// What came by the live path while a fetch was under way stays (lanes-4).
#[test]
fn live_batches_that_overtake_a_fetch_are_kept() {
    let chain = chain(8);
    let mut node = Node::new(R0);
    node.receive(&chain, 1..=2);
    node.tick();
    node.take();
    node.want(chain.tips[5]);
    let (server, _) = node.take().question();
    node.receive(&chain, 3..=8);
    node.tick();
    assert_eq!(node.take().acknowledgements()[0].0, chain.tips[8]);
    assert_eq!(node.fetched(server, &chain.answer(5, 3)), Ok(()));
    node.tick();
    let outputs = node.take();
    assert!(outputs.held().is_empty() && outputs.appended().is_empty(), "nothing is held twice");
    assert!(outputs.acknowledgements().is_empty(), "the tip stays");
    let next = chain.clone().grown(&node.config, 1, 1, 16);
    assert_eq!(node.batch(next.frame(9)), Ok(()));
}

#[test]
fn live_batches_and_execution_that_overtake_the_lower_part_of_a_fetch_do_not_end_it() {
    let chain = chain(8);
    let mut node = Node::new(R0);
    node.receive(&chain, 1..=2);
    node.want(chain.tips[8]);
    let (server, _) = node.take().question();
    assert_eq!(node.fetched(server, &chain.answer(8, 6)), Ok(()));
    node.receive(&chain, 3..=7);
    node.lanes.on_executed(&[chain.tips[7]]);
    node.take();
    assert_eq!(node.fetched(server, &chain.answer(5, 1)), Ok(()));
    assert_eq!(node.take().held_numbers(), [8]);
}

#[test]
fn a_chain_that_f_plus_1_others_acknowledged_is_fetched_when_the_lane_is_stuck() {
    let chain = chain(4);
    let mut node = Node::new(R0);
    node.receive(&chain, 1..=1);
    node.ack(R1, chain.tips[4]);
    node.wait(5);
    assert!(node.take().questions().is_empty(), "one replica may lie");
    node.ack(R2, chain.tips[3]);
    node.wait(2);
    let (server, question) = node.take().question();
    assert_eq!((server, question.upto), (R2, LaneNumber(3)), "the origin is asked last");
    assert_eq!(node.fetched(server, &chain.answer(3, 2)), Ok(()));
    assert!(node.take().held_numbers().is_empty(), "whether 4 descends from 3 is not known yet");
    node.wait(2);
    let (server, question) = node.take().question();
    assert_eq!((server, question.upto), (R1, LaneNumber(4)));
    assert_eq!(node.fetched(server, &chain.answer(4, 2)), Ok(()));
    node.tick();
    assert_eq!(node.take().held_numbers(), [2, 3], "up to what f+1 = 2 others have");
}

#[test]
fn a_moving_lane_fetches_nothing() {
    let mut node = Node::new(R0);
    let chain = Chain::new(&node.config, R1, 12, 1);
    node.ack(R2, chain.tip());
    node.ack(R3, chain.tip());
    for number in 1..=10 {
        node.receive(&chain, number..=number);
        node.wait(1);
        assert!(node.take().questions().is_empty());
    }
}

/// A lane over its budget takes nothing by fetch either (lanes-5).
#[test]
fn the_budget_bounds_what_is_fetched_because_others_have_it() {
    let mut node = Node::with(R0, |tuning| tuning.lane_bytes_open_max = 1000);
    let chain = Chain::new(&node.config, R1, 40, 1);
    let mut held = 0;
    while node.batch(chain.frame(held + 1)).is_ok() {
        held += 1;
    }
    for replica in [R0, R1, R2, R3] {
        node.ack(replica, chain.tips[held]);
    }
    for step in 1..=10 {
        for replica in [R1, R2] {
            node.ack(replica, chain.tips[held + step]);
        }
        node.wait(3);
        let questions = node.take().questions();
        assert!(
            questions.is_empty() || node.lanes.held_bytes() <= 4000,
            "nothing is asked for over the budget"
        );
        if let Some((server, question)) = questions.first().cloned() {
            let upto = index(question.upto);
            node.fetched(server, &chain.answer(upto, index(question.above) + 1)).unwrap();
        }
    }
    let bytes = node.lanes.held_bytes();
    assert!(bytes <= 4000 + 2 * chain.frame(1).bytes().len(), "{bytes} bytes held");
    node.lanes.on_executed(&[chain.tips[held]]);
    node.wait(4);
    assert_eq!(node.take().questions().len(), 1, "and goes on when batches are executed");
}

#[test]
fn executed_batches_are_kept_for_others_within_a_budget() {
    let mut node = Node::with(R0, |tuning| tuning.lane_bytes_kept_max = 1000);
    let chain = Chain::new(&node.config, R1, 20, 1);
    node.receive(&chain, 1..=20);
    node.tick();
    node.take();
    node.lanes.on_executed(&[chain.tips[18]]);
    let each = chain.frame(1).bytes().len();
    assert!(node.lanes.held_bytes() <= 1000 + 2 * each);
    let kept = 1000 / each as u64;
    let numbers = node.asked(R2, chain.tips[18], 0);
    assert_eq!(numbers, (19 - kept..=18).rev().collect::<Vec<_>>());
    assert_eq!(node.asked(R2, chain.tips[3], 0), Vec::<u64>::new(), "trimmed");
    let more = chain.clone().grown(&node.config, 1, 1, 16);
    assert_eq!(node.batch(more.frame(21)), Ok(()), "the lane goes on");
}

#[test]
fn the_largest_batches_fit_into_an_answer() {
    let mut node = Node::new(R0);
    let mut chain = Chain::new(&node.config, R1, 0, 1);
    let large: Vec<Vec<u8>> = (0..6).map(|at| bundle_of(&node.config, at, limits::VALUE_BYTES_MAX)).collect();
    for _ in 0..3 {
        chain.push(&node.config, &large);
    }
    node.receive(&chain, 1..=3);
    assert_eq!(node.asked(R2, chain.tip(), 0), [3]);
}
