//! Fetching a lane backwards: from honest, lying, silent and forgetful servers.

mod common;

use common::*;
use quorate_lanes::Reject;
use quorate_types::{LaneNumber, limits};
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
    assert!(outputs.acknowledgements().is_empty(), "a header makes nobody acknowledge anything");
    let update = &outputs.progress(lane_of(R1))[0];
    assert_eq!((update.held[0].previous, update.held.len()), (chain.tips[2].chain, 3));
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
    let mut answered = false;
    for _ in 0..40 {
        node.wait(1);
        for (server, question) in node.take().questions() {
            if question.chain == chain.tips[3].chain {
                node.fetched(server, &chain.answer(3, 1)).unwrap();
                answered = true;
            }
        }
        if answered {
            break;
        }
    }
    let outputs = node.take();
    assert_eq!(outputs.held_numbers(), [1, 2, 3]);
    assert_eq!(outputs.question().1.chain, lost.tips[3].chain);
    node.lanes.on_executed(&[chain.tips[3]]);
    pass_answer_time(&mut node);
    assert!(node.take().questions().is_empty(), "it will never be executed");
}

/// Whoever is silent is not waited for alone, and in the end everybody is asked again with more time.
#[test]
fn a_silent_server_is_given_up_for_the_next_one() {
    let chain = chain(3);
    let mut node = behind(0, &chain);
    let mut asked = vec![node.take().question().0];
    for _ in 0..40 {
        node.wait(1);
        asked.extend(node.take().questions().into_iter().map(|(server, _)| server));
    }
    let mut first: Vec<_> = asked[..3].to_vec();
    first.sort();
    assert_eq!(first, [R1, R2, R3]);
    assert!(asked.len() > 3, "they are asked again");
    assert!(asked.len() < 12, "and not all the time");
    assert_eq!(node.fetched(*asked.last().unwrap(), &chain.answer(3, 1)), Ok(()));
    assert_eq!(node.take().held_numbers(), [1, 2, 3]);
}

/// A server that gives a little each time holds a fetch no longer than one that is silent; what has come stays.
#[test]
fn a_dripping_server_holds_nothing_up() {
    let chain = chain(40);
    let mut node = behind(0, &chain);
    let (dripping, mut question) = node.take().question();
    let mut steps = 0;
    'dripping: loop {
        for _ in 0..2 {
            node.wait(1);
            steps += 1;
            for (server, other) in node.take().questions() {
                if server == dripping {
                    question = other;
                } else {
                    let upto = index(other.upto);
                    node.fetched(server, &chain.answer(upto, 1)).unwrap();
                    break 'dripping;
                }
            }
        }
        let at = index(question.upto);
        node.fetched(dripping, &chain.answer(at, at)).unwrap();
        if let Some((_, next)) = node.take().questions().into_iter().find(|(server, _)| *server == dripping) {
            question = next;
        }
    }
    assert!(steps < 10, "{steps} retransmission times");
    assert_eq!(node.take().held_numbers().len(), 40);
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
fn a_server_that_has_nothing_is_given_up_at_once() {
    let chain = chain(3);
    let mut node = behind(0, &chain);
    let (server, _) = node.take().question();
    let nothing = encode_fetched_batches(&chain.tip(), std::iter::empty());
    let other = if server == R2 { R3 } else { R2 };
    assert_eq!(node.fetched(other, &nothing), Ok(()), "not the one that was asked");
    assert!(node.take().questions().is_empty());
    assert_eq!(node.fetched(server, &nothing), Ok(()));
    assert_ne!(node.take().question().0, server);
}

/// Two of three others are all who answer for certain: the third may be silent for ever.
#[test]
fn what_all_who_answer_have_nothing_of_is_told() {
    let chain = chain(3);
    let mut node = behind(0, &chain);
    let nothing = encode_fetched_batches(&chain.tip(), std::iter::empty());
    let (first, _) = node.take().question();
    assert_eq!(node.fetched(first, &nothing), Ok(()));
    let outputs = node.take();
    assert!(outputs.unserved().is_empty(), "another may have it");
    let (second, _) = outputs.question();
    assert_eq!(node.fetched(second, &nothing), Ok(()));
    let outputs = node.take();
    assert_eq!(outputs.unserved(), [Some(chain.tip())]);
    let (third, _) = outputs.question();
    assert_eq!(node.fetched(third, &chain.answer(3, 2)), Ok(()));
    assert_eq!(node.take().unserved(), [None], "the third was not silent");
    // What comes below is another question.
    let mut node = behind(0, &chain);
    let (first, _) = node.take().question();
    assert_eq!(node.fetched(first, &nothing), Ok(()));
    let (second, _) = node.take().question();
    assert_eq!(node.fetched(second, &chain.answer(3, 2)), Ok(()));
    let (again, _) = node.take().question();
    let nothing = encode_fetched_batches(&chain.tips[1], std::iter::empty());
    assert_eq!(node.fetched(again, &nothing), Ok(()));
    assert!(node.take().unserved().is_empty());
}

/// What one server has given is not what others had nothing of, be the rest of its answer forged.
#[test]
fn what_a_liar_has_given_is_not_looked_for_in_vain() {
    let chain = chain(3);
    let mut node = behind(0, &chain);
    let nothing = encode_fetched_batches(&chain.tip(), std::iter::empty());
    for _ in 0..2 {
        let (server, _) = node.take().question();
        assert_eq!(node.fetched(server, &nothing), Ok(()));
    }
    let outputs = node.take();
    assert_eq!(outputs.unserved(), [Some(chain.tip())]);
    let (liar, _) = outputs.question();
    let forged = [chain.frame(3).payload(), chain.frame(1).payload()].into_iter();
    let answer = encode_fetched_batches(&chain.tip(), forged);
    assert_eq!(node.fetched(liar, &answer), Err(Reject::FetchMismatch));
    let outputs = node.take();
    assert_eq!(outputs.unserved(), [None]);
    assert_eq!(outputs.questions()[0].1.upto, LaneNumber(2), "the others may have what comes next");
}

/// The walk that has told it may be over.
#[test]
fn what_another_walk_brings_is_served_too() {
    let chain = chain(3);
    let mut node = behind(0, &chain);
    node.want(chain.tips[2]);
    let nothing = encode_fetched_batches(&chain.tip(), std::iter::empty());
    for _ in 0..3 {
        let (server, _) = node.take().question();
        assert_eq!(node.fetched(server, &nothing), Ok(()));
    }
    node.wait(1);
    let outputs = node.take();
    let (server, question) = outputs.question();
    assert_eq!(question.upto, LaneNumber(2), "the other that is wanted has its turn");
    assert_eq!(node.fetched(server, &chain.answer(2, 2)), Ok(()));
    assert_eq!(node.take().unserved(), [None]);
}

/// Nobody may have what is merely proposed or acknowledged.
#[test]
fn only_what_committed_headers_name_is_told_to_be_served_by_nobody() {
    let chain = chain(3);
    let mut node = Node::new(R0);
    node.want_proposed(chain.tip(), R1);
    let nothing = encode_fetched_batches(&chain.tip(), std::iter::empty());
    let mut answers = 0;
    for _ in 0..8 {
        for (server, _) in node.take().questions() {
            answers += 1;
            assert_eq!(node.fetched(server, &nothing), Ok(()));
            assert!(node.take().unserved().is_empty());
        }
        node.wait(1);
    }
    assert!(answers >= 2, "all who answer");
}

#[test]
fn a_server_that_has_trimmed_the_rest_leaves_that_to_the_next_one() {
    let chain = chain(5);
    let mut node = behind(0, &chain);
    let (server, _) = node.take().question();
    assert_eq!(node.fetched(server, &chain.answer(5, 4)), Ok(()));
    let (again, question) = node.take().question();
    assert_eq!((again, question.upto), (server, LaneNumber(3)));
    let nothing = encode_fetched_batches(&chain.tips[3], std::iter::empty());
    assert_eq!(node.fetched(server, &nothing), Ok(()));
    let (next, question) = node.take().question();
    assert_ne!(next, server);
    assert_eq!(question.upto, LaneNumber(3), "what has come stays");
    assert_eq!(node.fetched(next, &chain.answer(3, 1)), Ok(()));
    assert_eq!(node.take().held_numbers(), [1, 2, 3, 4, 5]);
}

#[test]
fn lies_are_never_held() {
    let chain = chain(5);
    let config = Node::new(R0).config;
    let fork = Chain::new(&config, R1, 5, 2);
    let foreign = Chain::new(&config, R2, 5, 1);
    let skipping =
        encode_fetched_batches(&chain.tip(), [5, 3].map(|at| chain.frame(at).payload()).into_iter());
    let ascending =
        encode_fetched_batches(&chain.tip(), [5, 4, 5].map(|at| chain.frame(at).payload()).into_iter());
    let forked =
        encode_fetched_batches(&chain.tip(), [chain.frame(5).payload(), fork.frame(4).payload()].into_iter());
    let mixed = encode_fetched_batches(
        &chain.tip(),
        [chain.frame(5).payload(), foreign.frame(4).payload()].into_iter(),
    );
    let payload = chain.frame(4).payload();
    let truncated = encode_fetched_batches(
        &chain.tip(),
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
        assert_eq!(node.fetched(server, &lie), Ok(()), "that was not asked for");
        assert!(node.take().0.is_empty());
        pass_answer_time(&mut node);
        assert_ne!(node.take().questions()[0].0, server, "and it gains no time");
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
    let half = encode_fetched_batches(&chain.tip(), payloads.into_iter());
    assert_eq!(node.fetched(liar, &half), Ok(()), "it is not looked at");
    assert!(node.take().0.is_empty());
    assert_eq!(node.fetched(server, &chain.answer(5, 1)), Ok(()));
    assert_eq!(node.take().held_numbers(), [1, 2, 3, 4, 5]);

    let mut node = behind(0, &chain);
    let (server, _) = node.take().question();
    for _ in 0..4 {
        node.wait(1);
        assert_eq!(node.fetched(liar, &fork.answer(5, 4)), Ok(()));
    }
    assert_ne!(node.take().questions()[0].0, server);
}

#[test]
fn without_a_connection_the_fetch_starts_when_there_is_one() {
    let chain = chain(2);
    let mut node = Node::new(R0);
    for peer in node.peers() {
        node.disconnect(peer);
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
            assert!(node.lanes.deadline() <= node.now, "the rest is due at once");
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
    node.disconnect(R2);
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
fn what_f_plus_1_others_acknowledged_is_fetched() {
    let chain = chain(4);
    let mut node = Node::new(R0);
    node.receive(&chain, 1..=1);
    node.ack(R1, chain.tips[4]);
    node.ack(R2, chain.tips[3]);
    node.wait(5);
    assert!(node.take().questions().is_empty(), "whether 4 descends from 3 is not known, and one may lie");
    node.ack(R1, chain.tips[3]);
    node.wait(2);
    let (server, question) = node.take().question();
    assert_eq!((server, question.upto), (R2, LaneNumber(3)), "the origin is asked last");
    assert_eq!(node.fetched(server, &chain.answer(3, 2)), Ok(()));
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.held_numbers(), [2, 3]);
    assert_eq!(outputs.acknowledgements()[0].0, chain.tips[3]);
}

/// A lane that moves may bring by itself what others have, but an origin that drips keeps nothing away.
#[test]
fn a_moving_lane_fetches_a_little_later() {
    let mut node = Node::new(R0);
    let trunk = Chain::new(&node.config, R1, 1, 1);
    let (chain, drip) = (trunk.clone().grown(&node.config, 3, 1, 16), trunk.grown(&node.config, 12, 2, 16));
    node.receive(&chain, 1..=1);
    node.ack(R2, chain.tip());
    node.ack(R3, chain.tip());
    let mut fetched_at = None;
    for number in 2..=12 {
        node.receive(&drip, number..=number);
        node.wait(1);
        let questions = node.take().questions();
        fetched_at = fetched_at.or((!questions.is_empty()).then_some(number));
    }
    assert_eq!(fetched_at, Some(6), "after four looks");
}

/// What others have is bounded by their budgets; over all of those together this replica is behind, and rests.
#[test]
fn a_lane_rests_over_the_budgets_of_all_honest_replicas() {
    let mut node = Node::with(R0, |tuning| tuning.lane_bytes_open_max = 1000);
    let chain = Chain::new(&node.config, R1, 160, 1);
    let each = chain.frame(1).bytes().len();
    let mut held = 0;
    while node.batch(chain.frame(held + 1)).is_ok() {
        held += 1;
    }
    let mut rests = 0;
    for step in (10..).step_by(10).take_while(|step| held + step <= 160) {
        for replica in [R2, R3] {
            node.ack(replica, chain.tips[held + step]);
        }
        node.wait(5);
        let questions = node.take().questions();
        rests += usize::from(questions.is_empty());
        for (server, question) in questions {
            let upto = index(question.upto);
            node.fetched(server, &chain.answer(upto, held + step - 9)).unwrap();
        }
    }
    assert!(rests > 0);
    assert!(node.lanes.held_bytes() > 4000, "its own budget is no bound");
    assert!(node.lanes.held_bytes() <= 4 * 4000 + 11 * each, "{} bytes", node.lanes.held_bytes());
    node.lanes.on_executed(&[chain.tips[held]]);
    node.lanes.set_behind(true);
    node.wait(5);
    assert!(node.take().questions().is_empty());
    node.lanes.set_behind(false);
    let room = chain.tips[held + 20];
    node.lanes.on_executed(&[room]);
    node.wait(5);
    assert!(!node.take().questions().is_empty(), "it goes on when batches are executed");
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

/// Listed mistake: batches dropped from memory and not served from the journal. What no certified state covers is read
/// back, one answer for each peer at a time.
#[test]
fn what_has_left_memory_is_read_back_until_a_certified_state_covers_it() {
    let mut node =
        Node::with(R0, |tuning| (tuning.lane_bytes_kept_max, tuning.fetch_bytes_max) = (1000, 1000));
    let chain = Chain::new(&node.config, R1, 20, 1);
    node.receive(&chain, 1..=20);
    node.tick();
    node.take();
    node.lanes.on_executed(&[chain.tips[18]]);
    let ask = |node: &mut Node, from, upto: usize| {
        let (lane, chain) = (chain.lane, chain.tips[upto].chain);
        let question = quorate_wire::message::FetchBatches {
            lane,
            upto: LaneNumber(upto as u64),
            chain,
            above: LaneNumber(0),
        };
        node.lanes.on_fetch(from, LINK, &question).unwrap();
        node.tick();
    };
    ask(&mut node, R2, 3);
    ask(&mut node, R2, 3);
    ask(&mut node, R3, 2);
    let outputs = node.take();
    assert!(outputs.answers().is_empty());
    assert_eq!(outputs.read_back(), [3, 2], "one for each peer");
    for number in [3, 2, 1] {
        let frame = chain.frame(number).clone();
        node.lanes.on_read_back(quorate_types::Lsn(number as u64), Some(frame), &mut node.out);
    }
    let outputs = node.take();
    assert_eq!(outputs.answers(), [(R2, vec![3, 2, 1]), (R3, vec![2, 1])]);
    // What cannot be read ends the answer.
    ask(&mut node, R2, 3);
    node.lanes.on_read_back(quorate_types::Lsn(3), None, &mut node.out);
    assert_eq!(node.take().answers(), [(R2, vec![])]);
    node.lanes.trim(&[chain.tips[2]], &mut node.out);
    assert_eq!(node.asked(R2, chain.tips[2], 0), Vec::<u64>::new(), "a certified state covers it");
    ask(&mut node, R2, 3);
    assert_eq!(node.take().read_back(), [3]);
}
