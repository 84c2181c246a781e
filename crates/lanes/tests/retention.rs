//! What stays in the journal and in memory: trimming, pinned batches, and lanes of an installed state.

mod common;

use common::*;
use quorate_lanes::{Output, Reject};
use quorate_types::{LaneNumber, Lsn, Nanoseconds, Why};
use quorate_wire::message::FetchBatches;

fn durable(node: &mut Node, upto: u64) {
    node.lanes.on_durable(Nanoseconds(0), Lsn(upto), &mut node.out);
}

fn trim(node: &mut Node, tips: &[quorate_wire::LaneTip]) -> Vec<u64> {
    node.take();
    node.lanes.trim(tips, &mut node.out);
    node.take().trims()
}

#[test]
fn the_journal_is_needed_from_the_first_batch_above_the_checkpoint() {
    let mut node = Node::new(R0);
    assert_eq!(trim(&mut node, &[]), Vec::<u64>::new());
    let (one, two) = (Chain::new(&node.config, R1, 4, 1), Chain::new(&node.config, R2, 4, 2));
    for number in 1..=4 {
        node.receive(&one, number..=number);
        node.receive(&two, number..=number);
    }
    durable(&mut node, 8);
    node.lanes.on_executed(&[one.tips[3], two.tips[1]]);
    assert_eq!(trim(&mut node, &[one.tips[2], two.tips[1]]), [3], "executed above the checkpoint is needed");
    node.lanes.on_executed(&[one.tips[4], two.tips[4]]);
    assert_eq!(trim(&mut node, &[one.tips[4], two.tips[3]]), [7]);
    assert_eq!(trim(&mut node, &[one.tips[4], two.tips[3]]), Vec::<u64>::new(), "once");
    assert_eq!(trim(&mut node, &[one.tips[4], two.tips[4]]), [8]);
}

#[test]
fn a_batch_that_the_disk_has_lost_is_appended_again_from_memory() {
    let mut node = Node::new(R0);
    let chain = Chain::new(&node.config, R1, 3, 1);
    node.receive(&chain, 1..=3);
    durable(&mut node, 3);
    node.take();
    let mut lost = |lsn: u64| {
        node.lanes.on_lost(Lsn(lsn), &mut node.out);
        let appended = |output: &Output| match output {
            Output::Append { lsn, frame, .. } => Some((*lsn, frame.bytes().to_vec())),
            _ => None,
        };
        std::mem::take(&mut node.out).iter().filter_map(appended).collect::<Vec<_>>()
    };
    assert_eq!(lost(2), [(Lsn(4), chain.frames[1].bytes().to_vec())]);
    assert_eq!(lost(9), [], "nothing lies there");
    assert_eq!(lost(1), [(Lsn(5), chain.frames[0].bytes().to_vec())]);
}

fn appended(outputs: &Outputs) -> Vec<(u64, Why)> {
    let appended = |output: &Output| match output {
        Output::Append { lsn, why, .. } => Some((lsn.0, *why)),
        _ => None,
    };
    outputs.0.iter().filter_map(appended).collect()
}

fn lost(node: &mut Node, lsn: u64) -> Vec<(u64, Why)> {
    node.take();
    node.lanes.on_lost(Lsn(lsn), &mut node.out);
    appended(&node.take())
}

/// Listed mistake: each round of the scrub that comes past a bad place appends what has lain there again.
#[test]
fn a_bad_place_that_is_found_in_every_round_is_written_elsewhere_once() {
    let mut node = Node::new(R0);
    let chain = Chain::new(&node.config, R1, 3, 1);
    node.receive(&chain, 1..=3);
    durable(&mut node, 3);
    assert_eq!(lost(&mut node, 2), [(4, Why::OwnLink)]);
    assert_eq!(lost(&mut node, 2), [], "it is on its way");
    durable(&mut node, 4);
    assert_eq!(lost(&mut node, 2), [], "it lies there");
    assert_eq!(lost(&mut node, 4), [(5, Why::OwnLink)], "that has gone bad, too");
    assert_eq!((lost(&mut node, 2), lost(&mut node, 4)), (vec![], vec![]));
    durable(&mut node, 5);
    // What is executed and still in memory is no other.
    node.lanes.on_executed(&[chain.tips[3]]);
    assert_eq!(lost(&mut node, 4), []);
    assert_eq!(lost(&mut node, 5), [(6, Why::OwnLink)]);
}

/// Of a batch that was written again for a better reason it is that record that must not be missed.
#[test]
fn the_record_with_the_better_reason_is_the_one_that_is_written_again() {
    let mut node = Node::new(R0);
    let chain = Chain::new(&node.config, R1, 1, 1);
    node.want(chain.tip());
    let (server, _) = node.take().question();
    node.fetched(server, &chain.answer(1, 1)).unwrap();
    assert_eq!(appended(&node.take()), [(1, Why::Named)]);
    node.receive(&chain, 1..=1);
    assert_eq!(appended(&node.take()), [(2, Why::OwnLink)]);
    durable(&mut node, 2);
    assert_eq!(lost(&mut node, 1), [], "the other says all of it");
    assert_eq!(lost(&mut node, 2), [(3, Why::OwnLink)]);
}

/// A place that a batch has left goes with the next trim, once the batch is durable elsewhere.
#[test]
fn a_trim_does_not_write_what_lies_elsewhere_by_now() {
    let mut node = Node::new(R0);
    let (still, busy) = (Chain::new(&node.config, R3, 1, 9), Chain::new(&node.config, R1, 2, 1));
    node.receive(&still, 1..=1);
    node.receive(&busy, 1..=1);
    durable(&mut node, 2);
    node.lanes.on_executed(&[busy.tips[1]]);
    assert_eq!(trim(&mut node, &[busy.tips[1]]), Vec::<u64>::new());
    assert_eq!(lost(&mut node, 1), [(3, Why::OwnLink)]);
    node.lanes.trim(&[busy.tips[1]], &mut node.out);
    let outputs = node.take();
    assert_eq!((appended(&outputs), outputs.trims()), (vec![], vec![]), "it is not durable yet");
    durable(&mut node, 3);
    assert_eq!(node.take().trims(), [2]);
    node.receive(&busy, 2..=2);
    durable(&mut node, 4);
    node.lanes.on_executed(&[busy.tips[2]]);
    node.take();
    node.lanes.trim(&[busy.tips[2]], &mut node.out);
    assert_eq!(appended(&node.take()), [(5, Why::OwnLink)], "nobody has ordered it for two trims");
    durable(&mut node, 5);
    assert_eq!(node.take().trims(), [4]);
}

/// The place that went bad is not where others' questions are answered from.
#[test]
fn what_was_lost_and_appended_again_is_read_back_from_there() {
    let mut node = Node::with(R0, |tuning| tuning.lane_bytes_kept_max = 0);
    let chain = Chain::new(&node.config, R1, 3, 1);
    node.receive(&chain, 1..=3);
    node.tick();
    durable(&mut node, 3);
    node.lanes.on_lost(Lsn(2), &mut node.out);
    durable(&mut node, 4);
    node.lanes.on_executed(&[chain.tips[3]]);
    node.take();
    let (lane, chain) = (chain.lane, chain.tips[2].chain);
    let question = FetchBatches { lane, upto: LaneNumber(2), chain, above: LaneNumber(1) };
    node.lanes.on_fetch(R2, LINK, &question).unwrap();
    node.tick();
    assert_eq!(node.take().read_back(), [4]);
}

/// r0 that has executed three batches of r1, none of them in memory, and finds 2 bad.
fn with_a_bad_shelf(find: impl FnOnce(&mut Node)) -> (Node, Chain) {
    let mut node = Node::with(R0, |tuning| tuning.lane_bytes_kept_max = 0);
    let chain = Chain::new(&node.config, R1, 3, 1);
    node.receive(&chain, 1..=3);
    node.tick();
    durable(&mut node, 3);
    node.lanes.on_executed(&[chain.tips[3]]);
    node.take();
    find(&mut node);
    (node, chain)
}

fn look(node: &mut Node) -> Vec<(quorate_types::ReplicaId, FetchBatches)> {
    node.now = node.now.plus(node.config.tuning().idle.0);
    node.tick();
    node.take().questions()
}

/// Until a certified state covers it, a peer may have nobody else to ask.
#[test]
fn what_is_executed_and_went_bad_in_the_journal_is_fetched_and_appended_again() {
    let (mut node, chain) = with_a_bad_shelf(|node| node.lanes.on_lost(Lsn(2), &mut node.out));
    let asked = look(&mut node);
    let (without, question) = asked[0].clone();
    assert_eq!((question.upto, question.chain), (LaneNumber(2), chain.tips[2].chain));
    assert_eq!((asked.len(), question.above), (1, LaneNumber(1)), "it alone");
    node.fetched(without, &chain.answer_to(&question, 0, 1)).unwrap();
    let (server, question) = node.take().question();
    assert_ne!(server, without);
    assert_eq!(node.fetched(server, &chain.answer_to(&question, 3, 3)), Err(Reject::FetchMismatch));
    let (server, _) = node.take().question();
    node.fetched(server, &chain.answer(2, 2)).unwrap();
    node.tick();
    let outputs = node.take();
    assert!(outputs.held().is_empty() && outputs.acknowledgements().is_empty(), "it is executed");
    let appended = outputs.0.iter().find_map(|output| match output {
        Output::Append { lsn, frame, tip, why } => Some((*lsn, frame.bytes().to_vec(), *tip, *why)),
        _ => None,
    });
    let again = (Lsn(4), chain.frame(2).bytes().to_vec(), chain.tips[2], quorate_types::Why::OwnLink);
    assert_eq!(appended, Some(again));
    durable(&mut node, 4);
    assert_eq!(look(&mut node), [], "nothing is missing any more");
    let question = FetchBatches { lane: chain.lane, above: LaneNumber(0), ..question };
    node.lanes.on_fetch(R2, LINK, &question).unwrap();
    node.tick();
    assert_eq!(node.take().read_back(), [4]);
    assert_eq!(trim(&mut node, &[chain.tips[3]]), [4], "both places go");
}

#[test]
fn what_went_bad_in_the_journal_is_not_fetched_once_a_certified_state_covers_it() {
    let (mut node, chain) = with_a_bad_shelf(|node| node.lanes.on_lost(Lsn(2), &mut node.out));
    let (server, question) = look(&mut node)[0].clone();
    trim(&mut node, &[chain.tips[2]]);
    node.fetched(server, &chain.answer_to(&question, 2, 2)).unwrap();
    assert_eq!(node.take().appended(), []);
    let (mut node, chain) = with_a_bad_shelf(|node| node.lanes.on_lost(Lsn(2), &mut node.out));
    trim(&mut node, &[chain.tips[2]]);
    assert_eq!(look(&mut node), []);
}

/// Others may have executed past it, and trimmed it.
#[test]
fn what_went_bad_in_the_journal_is_asked_for_ever_more_seldom() {
    let (mut node, chain) = with_a_bad_shelf(|node| {
        [1, 2, 3].map(Lsn).into_iter().for_each(|lsn| node.lanes.on_lost(lsn, &mut node.out));
    });
    let mut asked = Vec::new();
    for _ in 0..40 {
        let mut questions = look(&mut node);
        while let Some((server, question)) = questions.pop() {
            asked.push(question.upto.0);
            node.fetched(server, &chain.answer_to(&question, 0, 1)).unwrap();
            questions.extend(node.take().questions());
        }
    }
    assert_eq!(asked[..9], [3, 3, 3, 2, 2, 2, 1, 1, 1]);
    assert!((36..=63).contains(&asked.len()), "{}", asked.len());
}

#[test]
fn nothing_is_trimmed_that_is_not_durable_yet() {
    let mut node = Node::new(R0);
    let chain = Chain::new(&node.config, R1, 3, 1);
    node.receive(&chain, 1..=3);
    durable(&mut node, 2);
    node.lanes.on_executed(&[chain.tips[3]]);
    assert_eq!(trim(&mut node, &[chain.tips[3]]), Vec::<u64>::new());
    durable(&mut node, 3);
    assert_eq!(node.take().trims(), [3]);
}

/// A slow disk and a certified state with every flush.
#[test]
fn a_trim_that_waits_is_not_put_off_by_the_next() {
    let mut node = Node::new(R0);
    let chain = Chain::new(&node.config, R1, 3, 1);
    for number in 1..=3 {
        node.receive(&chain, number..=number);
        node.lanes.on_executed(&[chain.tips[number]]);
        assert_eq!(trim(&mut node, &[chain.tips[number]]), Vec::<u64>::new());
    }
    for upto in 1..=3 {
        durable(&mut node, upto);
        assert_eq!(node.take().trims(), [upto]);
    }
}

#[test]
fn chains_that_may_be_executed_are_needed_and_dead_ones_are_not() {
    let mut node = Node::new(R0);
    let trunk = Chain::new(&node.config, R3, 1, 1);
    let (a, b) = (trunk.clone().grown(&node.config, 1, 1, 16), trunk.grown(&node.config, 3, 2, 16));
    node.receive(&a, 1..=2);
    node.receive(&b, 2..=4);
    durable(&mut node, 5);
    node.lanes.on_executed(&[a.tips[1]]);
    assert_eq!(trim(&mut node, &[a.tips[1]]), [1], "2 is set aside");
    node.lanes.on_executed(&[a.tips[2]]);
    assert_eq!(trim(&mut node, &[a.tips[2]]), [5], "the other chain is dead");
}

/// A lane that stands still does not keep the journal of all others.
#[test]
fn an_old_batch_that_is_still_needed_is_appended_again() {
    let mut node = Node::new(R0);
    let (still, mut busy) = (Chain::new(&node.config, R3, 1, 9), Chain::new(&node.config, R1, 3, 1));
    node.receive(&still, 1..=1);
    node.receive(&busy, 1..=3);
    durable(&mut node, 4);
    node.lanes.on_executed(&[busy.tips[3]]);
    assert_eq!(trim(&mut node, &[busy.tips[2]]), Vec::<u64>::new());
    busy = busy.grown(&node.config, 1, 1, 16);
    node.receive(&busy, 4..=4);
    node.lanes.on_executed(&[busy.tips[4]]);
    durable(&mut node, 5);
    node.take();
    node.lanes.trim(&[busy.tips[4]], &mut node.out);
    let outputs = node.take();
    assert_eq!(
        (outputs.appended(), outputs.trims()),
        (vec![Lsn(6)], vec![]),
        "not before it is durable there"
    );
    durable(&mut node, 6);
    assert_eq!(node.take().trims(), [5]);
    node.lanes.on_executed(&[still.tips[1]]);
    assert_eq!(trim(&mut node, &[still.tips[1], busy.tips[4]]), [6]);
}

/// An origin that sends much that nobody orders keeps the journal no longer than from one checkpoint to the next but one.
#[test]
fn however_much_nobody_orders_the_journal_does_not_begin_there_for_long() {
    let mut node = Node::with(R0, |tuning| tuning.lane_bytes_open_max = 4000);
    let (still, busy) = (Chain::new(&node.config, R3, 40, 9), Chain::new(&node.config, R1, 2, 1));
    let each = still.frame(1).payload().len();
    node.receive(&still, 1..=40);
    assert!(40 * each > 2 * 4000, "more than what an honest origin has open");
    node.receive(&busy, 1..=1);
    node.lanes.on_executed(&[busy.tips[1]]);
    durable(&mut node, 41);
    assert_eq!(trim(&mut node, &[busy.tips[1]]), Vec::<u64>::new(), "it may be ordered yet");
    node.receive(&busy, 2..=2);
    durable(&mut node, 42);
    node.lanes.on_executed(&[busy.tips[2]]);
    node.take();
    node.lanes.trim(&[busy.tips[2]], &mut node.out);
    let (mut rewritten, mut trimmed) = (0, 0);
    loop {
        let outputs = node.take();
        let appended = outputs.appended();
        trimmed = outputs.trims().last().copied().unwrap_or(trimmed);
        let Some(last) = appended.last() else { break };
        assert!((appended.len() - 1) * each < 1000, "no more at once than the disk is to take beside others");
        rewritten += appended.len();
        durable(&mut node, last.0);
    }
    assert_eq!((rewritten, trimmed), (40, 42));
    node.lanes.on_executed(&[still.tips[40]]);
    assert_eq!(trim(&mut node, &[still.tips[40], busy.tips[2]]), [82]);
}

#[test]
fn a_recovered_journal_is_trimmed_as_well() {
    let config = config(|_| ());
    let chain = Chain::new(&config, R1, 5, 1);
    let mut node = Node::recovered(R0, config, journal(&chain.frames, &[chain.tips[2]]));
    node.tick();
    assert_eq!(trim(&mut node, &[chain.tips[2]]), [2]);
    node.lanes.on_executed(&[chain.tips[5]]);
    assert_eq!(trim(&mut node, &[chain.tips[4]]), [4]);
}

/// Others go on without a replica whose disk stalls: what they send must not pile up in its memory.
#[test]
fn what_is_not_durable_is_bounded_and_what_was_dropped_is_fetched_later() {
    const BOUND: usize = 2000;
    let mut node = Node::with(R0, |tuning| tuning.undurable_bytes_max = BOUND);
    let chain = Chain::new(&node.config, R1, 40, 1);
    let each = chain.frame(1).bytes().len();
    let mut taken = 0;
    while node.batch(chain.frame(taken + 1)).is_ok() {
        taken += 1;
        node.lanes.on_executed(&[chain.tips[taken]]);
    }
    assert_eq!(node.batch(chain.frame(taken + 1)), Err(Reject::Budget));
    assert!(taken * each > BOUND && taken * each <= BOUND + each, "{taken} batches of {each} bytes");
    node.tick();
    node.take();
    node.want(chain.tips[40]);
    assert!(node.admit(16));
    node.wait(3);
    let outputs = node.take();
    assert!(outputs.questions().is_empty(), "nothing is fetched either");
    assert!(outputs.broadcasts().is_empty() && outputs.appended().is_empty(), "and nothing sealed");
    durable(&mut node, taken as u64);
    node.wait(2);
    let outputs = node.take();
    assert_eq!(outputs.broadcasts().len(), 1);
    let (server, _) = outputs.question();
    node.fetched(server, &chain.answer(40, taken + 1)).unwrap();
    node.tick();
    assert_eq!(node.take().held_numbers().len(), 40 - taken);
}

#[test]
fn what_was_fetched_when_the_disk_fell_behind_is_fetched_again() {
    let mut node = Node::with(R0, |tuning| tuning.undurable_bytes_max = 2000);
    let (one, two) = (Chain::new(&node.config, R1, 3, 1), Chain::new(&node.config, R2, 40, 2));
    node.want(one.tips[3]);
    let (server, _) = node.take().question();
    let mut taken = 0;
    while node.batch(two.frame(taken + 1)).is_ok() {
        taken += 1;
    }
    node.take();
    node.fetched(server, &one.answer(3, 1)).unwrap();
    assert!(node.take().appended().is_empty());
    durable(&mut node, taken as u64);
    node.wait(2);
    let (server, _) = node.take().question();
    node.fetched(server, &one.answer(3, 1)).unwrap();
    node.tick();
    assert_eq!(node.take().held_numbers(), [1, 2, 3]);
}

#[test]
fn while_pinned_more_of_what_is_executed_is_kept_up_to_a_bound() {
    let mut node = Node::with(R0, |tuning| tuning.lane_bytes_kept_max = 2000);
    let chain = Chain::new(&node.config, R1, 100, 1);
    let each = chain.frame(1).bytes().len();
    node.receive(&chain, 1..=100);
    node.tick();
    node.take();
    let all = chain.frames.iter().map(|frame| frame.bytes().len());
    let beyond: Vec<usize> = (0..=100).map(|upto| all.clone().skip(upto).sum()).collect();
    // What is not executed is held in any case.
    let kept = |node: &mut Node, upto: usize| node.lanes.held_bytes() - beyond[upto];
    node.lanes.on_executed(&[chain.tips[10]]);
    assert!(kept(&mut node, 10) <= 2000);
    node.lanes.pin(&[chain.tips[8]]);
    node.lanes.on_executed(&[chain.tips[25]]);
    assert_eq!(node.asked(R2, chain.tips[25], 8).len(), 17, "all above the pinned tip");
    assert!(kept(&mut node, 25) <= 18 * each, "and nothing below");
    node.lanes.on_executed(&[chain.tips[99]]);
    let bytes = kept(&mut node, 99);
    assert!(bytes > 6000 && bytes <= 8000, "four times the usual: {bytes}");
    node.lanes.unpin();
    assert!(kept(&mut node, 99) <= 2000);
}

#[test]
fn after_an_installation_lanes_go_on_from_the_installed_tips() {
    let mut node = Node::new(R0);
    let (behind, beyond) = (Chain::new(&node.config, R1, 6, 1), Chain::new(&node.config, R2, 9, 2));
    node.receive(&behind, 1..=6);
    node.receive(&beyond, 1..=3);
    node.want(beyond.tips[5]);
    node.tick();
    let (server, _) = node.take().question();
    node.lanes.install(&[behind.tips[4], beyond.tips[8]], &mut node.out);
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.held_numbers(), [5, 6], "what descends from the installed tip is held on");
    let update = &outputs.progress(lane_of(R1))[0];
    assert_eq!(
        (update.held[0].mark.upto, update.held[0].previous, update.held.len()),
        (LaneNumber(5), behind.tips[4].chain, 2)
    );
    let acknowledged: Vec<_> = outputs.acknowledgements().into_iter().map(|(tip, _)| tip).collect();
    assert_eq!(acknowledged, [behind.tips[6], beyond.tips[8]]);
    assert_eq!(
        outputs.frontiers(lane_of(R2)).iter().map(|(_, upto, _)| *upto).collect::<Vec<_>>(),
        [8, 8, 8]
    );
    node.fetched(server, &beyond.answer(5, 4)).unwrap();
    node.wait(3);
    let outputs = node.take();
    assert!(outputs.held().is_empty() && outputs.questions().is_empty(), "fetches are of no more use");
    node.receive(&beyond, 9..=9);
    assert_eq!(node.take().held_numbers(), [9]);
}

/// What headers name above an installed state is asked for once, and is wanted until it is here.
#[test]
fn what_is_wanted_above_an_installed_tip_is_fetched_on() {
    let mut node = Node::new(R0);
    let (walked, queued) = (Chain::new(&node.config, R1, 9, 1), Chain::new(&node.config, R2, 9, 2));
    node.receive(&walked, 1..=3);
    node.receive(&queued, 1..=3);
    node.want(walked.tips[7]);
    let (server, question) = node.take().question();
    assert_eq!(question.chain, walked.tips[7].chain);
    node.want(queued.tips[4]);
    node.want(queued.tips[9]);
    let (_, question) = node.take().question();
    assert_eq!(question.chain, queued.tips[4].chain, "one after the other");

    node.lanes.install(&[walked.tips[5], queued.tips[5]], &mut node.out);
    node.fetched(server, &walked.answer(7, 4)).unwrap();
    assert_eq!(node.take().held_numbers(), [6, 7], "an answer that was under way is one");
    node.wait(2);
    let (server, question) = node.take().question();
    assert_eq!(question.chain, queued.tips[9].chain, "and what waited for its turn has it");
    node.fetched(server, &queued.answer(9, 6)).unwrap();
    assert_eq!(node.take().held_numbers(), [6, 7, 8, 9]);
}

#[test]
fn what_contradicts_an_installed_state_is_dropped() {
    let mut node = Node::new(R0);
    let trunk = Chain::new(&node.config, R3, 2, 1);
    let (a, b) = (trunk.clone().grown(&node.config, 3, 1, 16), trunk.grown(&node.config, 2, 2, 16));
    node.receive(&a, 1..=5);
    node.tick();
    node.take();
    node.lanes.install(&[b.tips[4]], &mut node.out);
    node.tick();
    assert!(node.take().held().is_empty());
    assert_eq!(node.lanes.held_bytes(), 0);
}
