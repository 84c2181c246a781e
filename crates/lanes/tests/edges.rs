//! What liars found at the edges of holding and acknowledging: dead targets, floods of facts, batches that move, names that
//! end.

mod common;

use common::*;
use quorate_lanes::{Destination, Output};
use quorate_types::{LaneNumber, Lsn, ReplicaId, Support, Why};
use quorate_wire::message::{AskLanes, FetchBatches, LaneAcks, Message, encode_fetched_batches};
use quorate_wire::{Kind, LaneTip};

/// r3's lane forks after 1.
fn forked(node: &Node, left: u64, right: u64) -> (Chain, Chain) {
    let trunk = Chain::new(&node.config, R3, 1, 1);
    (trunk.clone().grown(&node.config, left, 1, 16), trunk.grown(&node.config, right, 2, 16))
}

/// What died with its chain elsewhere is the highest that f+1 have said, and nobody serves it: others have their turn, and
/// whoever has nothing of it any more does not count as having it.
#[test]
fn a_dead_target_keeps_nothing_from_being_fetched() {
    let mut node = Node::new(R0);
    let (alive, dead) = forked(&node, 2, 19);
    node.receive(&alive, 1..=1);
    node.tick();
    for (from, tip) in [(R1, dead.tip()), (R3, dead.tip()), (R1, alive.tip()), (R2, alive.tip())] {
        node.ack(from, tip);
    }
    let mut asked = Vec::new();
    for _ in 0..30 {
        node.wait(1);
        for (to, question) in node.take().questions() {
            asked.push(question.chain);
            let tip = LaneTip { lane: question.lane, upto: question.upto, chain: question.chain };
            if to != R3 && question.chain == dead.tip().chain {
                node.fetched(to, &encode_fetched_batches(&tip, std::iter::empty())).unwrap();
            } else if to != R3 && question.chain == alive.tip().chain {
                node.fetched(to, &alive.answer(3, 2)).unwrap();
            }
        }
    }
    assert!(asked.contains(&alive.tip().chain), "the lower one has its turn");
    let late = asked.len();
    node.wait(30);
    assert!(
        node.take().questions().is_empty(),
        "after {late} questions nobody is left who says to hold the dead one"
    );
}

/// f+1 have said to hold what is dead by now: the honest one of them says so, and the liar nothing. What others wait for is
/// fetched at once, of the honest one first.
#[test]
fn a_silent_liar_holds_up_nothing_that_others_wait_for() {
    let mut node = Node::new(R0);
    let (alive, dead) = forked(&node, 2, 19);
    node.receive(&alive, 1..=1);
    node.tick();
    for (from, tip) in [(R1, dead.tip()), (R2, dead.tip()), (R1, alive.tip()), (R2, alive.tip())] {
        node.ack(from, tip);
    }
    node.wait(2);
    let (liar, question) = node.take().question();
    assert_eq!((liar, question.chain), (R1, dead.tip().chain));
    node.wait(2);
    let (honest, question) = node.take().question();
    assert_eq!((honest, question.chain), (R2, dead.tip().chain), "the liar is not waited for alone");
    node.fetched(honest, &encode_fetched_batches(&dead.tip(), std::iter::empty())).unwrap();
    let (server, question) = node.take().question();
    assert_eq!((server, question.chain), (R2, alive.tip().chain), "and for what it alone says, not at all");
    node.fetched(server, &alive.answer(3, 2)).unwrap();
    node.tick();
    assert_eq!(node.take().held_numbers(), [2, 3]);
}

/// Peers that have all of a chain answer what is open, one batch to each question, and what else was asked since.
fn serve(node: &mut Node, chain: &Chain, open: &mut Vec<(ReplicaId, FetchBatches)>) -> Vec<u64> {
    let mut held = Vec::new();
    for (server, question) in std::mem::take(open) {
        let number = index(question.upto);
        // The walk may be over.
        let _ = node.fetched(server, &chain.answer_to(&question, number, number));
    }
    node.tick();
    let outputs = node.take();
    held.extend(outputs.held_numbers());
    open.extend(outputs.questions());
    for (to, frame, _) in outputs.sent(Kind::AskLanes) {
        let Destination::One(peer) = to else { panic!("a question for all") };
        let mut tips = AskLanes::decode(frame.payload()).expect("a question").tips;
        tips.retain(|tip| chain.tips.contains(tip));
        node.acks(peer, false, tips);
    }
    held
}

/// Listed mistake: who has shown newer tips since is no longer believed to have what is fetched. A lane that does not rest is
/// then fetched from its end again and again, and never had.
#[test]
fn a_walk_goes_on_while_those_who_have_its_target_move_on() {
    // Each tip is shown for so many looks of the timer: too few to be fetched next, and enough.
    for looks in [1, 4] {
        let mut node = Node::new(R0);
        let chain = Chain::new(&node.config, R1, 60, 1);
        node.disconnect(R1);
        let (mut open, mut held) = (Vec::new(), Vec::new());
        for look in 0..30 {
            for peer in [R2, R3] {
                node.acks(peer, true, vec![chain.tips[20 + look / looks]]);
            }
            node.now = node.now.plus(node.config.tuning().retransmit.0);
            held.extend(serve(&mut node, &chain, &mut open));
        }
        assert!(held.starts_with(&[1, 2, 3, 4]), "every {looks} looks: {held:?}, {open:?}");
    }
}

/// The honest one of those who have said it has nothing of it any more, and is not asked. The liar gives a bit at a time.
#[test]
fn what_a_liar_alone_still_has_is_not_fetched_for_long() {
    let mut node = Node::new(R0);
    let (alive, dead) = forked(&node, 2, 60);
    node.receive(&alive, 1..=1);
    node.tick();
    for peer in [R1, R2] {
        node.acks(peer, true, vec![dead.tip()]);
    }
    node.wait(2);
    let mut questions = node.take().questions();
    assert_eq!(questions[0].1.chain, dead.tip().chain);
    // A server is given up later than that.
    for _ in 0..5 {
        for peer in [R1, R2] {
            node.acks(peer, true, vec![alive.tip()]);
        }
        node.ack(R1, dead.tip());
        for (_, question) in questions.iter().filter(|(server, _)| *server == R1) {
            let number = index(question.upto);
            node.fetched(R1, &dead.answer_to(question, number, number)).unwrap();
        }
        node.wait(1);
        questions = node.take().questions();
        if questions.iter().any(|(_, question)| question.chain == alive.tip().chain) {
            return;
        }
    }
    panic!("what others wait for is not fetched");
}

/// Two walks have asked one server for the same. With its answer one of them ends, and the other goes on with something else,
/// for which it asks the same server.
#[test]
fn an_answer_is_none_to_the_question_that_it_leads_to() {
    let mut node = Node::new(R0);
    let (low, high) = forked(&node, 2, 3);
    node.receive(&low, 1..=1);
    node.tick();
    for (from, tip) in [(R1, low.tip()), (R2, low.tip()), (R1, high.tip()), (R2, high.tip())] {
        node.ack(from, tip);
    }
    node.wait(2);
    node.want(high.tip());
    let questions = node.take().questions();
    assert_eq!(
        questions.iter().map(|(to, asked)| (*to, asked.chain)).collect::<Vec<_>>(),
        [(R1, high.tip().chain), (R1, high.tip().chain)]
    );
    assert_eq!(node.fetched(R1, &high.answer(4, 2)), Ok(()), "it is what was asked for");
    let (server, question) = node.take().question();
    assert_eq!((server, question.chain), (R1, low.tip().chain));
    node.fetched(server, &low.answer(3, 2)).unwrap();
    node.tick();
    assert_eq!(node.take().held_numbers(), [2, 3]);
}

/// However much a peer has said of what cannot be placed, what its newest frontier names counts.
#[test]
fn facts_that_cannot_be_placed_give_way_to_a_frontier() {
    let mut node = Node::new(R0);
    let (alive, dead) = forked(&node, 1, 300);
    for tip in &dead.tips[2..] {
        node.ack(R1, *tip);
        node.ack(R2, *tip);
    }
    for peer in [R1, R2] {
        node.acks(peer, true, vec![alive.tip()]);
    }
    node.receive(&alive, 1..=2);
    node.tick();
    assert_eq!(node.take().tips(lane_of(R3)), Some((2, 0)));
}

/// A batch that was written again lies elsewhere from then on.
#[test]
fn what_was_written_again_is_read_back_from_there() {
    let mut node = Node::with(R0, |tuning| tuning.lane_bytes_kept_max = 100);
    let (still, moving) = (Chain::new(&node.config, R1, 1, 1), Chain::new(&node.config, R2, 4, 2));
    node.receive(&still, 1..=1);
    node.receive(&moving, 1..=4);
    let durable = |node: &mut Node, upto: u64| node.lanes.on_durable(node.now, Lsn(upto), &mut node.out);
    durable(&mut node, 5);
    node.tick();
    node.lanes.trim(&[], &mut node.out);
    node.lanes.on_executed(&[moving.tip()]);
    node.take();
    node.lanes.trim(&[moving.tip()], &mut node.out);
    let appended = node.take().appended();
    assert_eq!(appended, [Lsn(6)], "the batch that nobody orders makes room");
    durable(&mut node, 6);
    assert_eq!(node.take().trims().last(), Some(&5));
    let more = still.clone().grown(&node.config, 2, 1, 16);
    node.receive(&more, 2..=3);
    node.tick();
    node.lanes.on_executed(&[more.tip()]);
    node.take();
    let (lane, chain) = (still.lane, still.tip().chain);
    let question = FetchBatches { lane, upto: LaneNumber(1), chain, above: LaneNumber(0) };
    node.lanes.on_fetch(R2, LINK, &question).unwrap();
    node.tick();
    assert_eq!(node.take().read_back(), [6]);
}

/// A batch for which f+1 others speak by now is not let go of with its header, and what is let go of is not unsaid.
#[test]
fn no_acknowledgement_is_lost_when_a_name_ends() {
    let mut node = Node::new(R0);
    let (trunk, named) = forked(&node, 0, 2);
    node.receive(&trunk, 1..=1);
    node.want(named.tip());
    let (server, _) = node.take().question();
    node.fetched(server, &named.answer(3, 2)).unwrap();
    node.tick();
    node.take();
    node.ack(R1, named.tips[2]);
    node.ack(R2, named.tips[2]);
    node.ack(R1, named.tips[3]);
    node.lanes.unname(&[named.tips[3], named.tips[2]], &mut node.out);
    node.tick();
    let outputs = node.take();
    let gone = outputs.0.iter().filter_map(|output| match output {
        Output::LetGo(tip) => Some(*tip),
        _ => None,
    });
    assert_eq!(gone.collect::<Vec<_>>(), [named.tips[3]]);
    assert_eq!(outputs.acknowledgements()[0].0, named.tips[2]);
    // With one more it is fetched for what others have acknowledged.
    node.ack(R2, named.tips[3]);
    node.wait(3);
    assert_eq!(node.take().question().1.chain, named.tips[3].chain);
}

/// The ordering role has let go of a batch and so of what came behind it meanwhile: it is told of both.
#[test]
fn what_stays_when_a_name_ends_is_told_of_with_all_behind_it() {
    let mut node = Node::new(R0);
    let (trunk, named) = forked(&node, 0, 3);
    node.receive(&trunk, 1..=1);
    node.want(named.tips[2]);
    let (server, _) = node.take().question();
    node.fetched(server, &named.answer(2, 2)).unwrap();
    node.tick();
    node.take();
    node.want(named.tips[4]);
    let (server, _) = node.take().question();
    node.fetched(server, &named.answer(4, 3)).unwrap();
    node.tick();
    node.take();
    node.lanes.unname(&[named.tips[2]], &mut node.out);
    node.tick();
    let again: Vec<_> =
        node.take().progress(lane_of(R3))[0].held.iter().map(|entry| entry.mark.upto.0).collect();
    assert_eq!(again, [2, 3, 4]);
}

/// Whoever waits for a header may be behind whom it asks.
#[test]
fn what_is_executed_is_said_too() {
    let mut node = Node::new(R0);
    let chain = Chain::new(&node.config, R3, 5, 1);
    node.receive(&chain, 1..=5);
    node.tick();
    node.lanes.on_executed(&[chain.tips[5]]);
    node.take();
    node.lanes.on_ask(R1, LINK, AskLanes { tips: vec![chain.tips[3]] }).unwrap();
    node.tick();
    let answers = node.take().sent(Kind::LaneAcks);
    let acks = answers.iter().map(|(_, frame, _)| LaneAcks::decode(frame.payload()).unwrap());
    assert!(acks.into_iter().any(|acks| !acks.full && acks.tips == [chain.tips[3]]));
}

/// The timer asks about each lane that is stuck for itself, all in one tick: the last lane must not hide the others for ever.
#[test]
fn questions_about_several_lanes_are_all_answered() {
    let mut node = Node::new(R0);
    let [low, high] = [R2, R3].map(|origin| Chain::new(&node.config, origin, 5, 1));
    for chain in [&low, &high] {
        node.receive(chain, 1..=5);
    }
    node.tick();
    node.take();
    for tip in [low.tips[2], low.tips[3], high.tips[4]] {
        node.lanes.on_ask(R1, LINK, AskLanes { tips: vec![tip] }).unwrap();
    }
    node.tick();
    let answers = node.take().sent(Kind::LaneAcks);
    let acks = answers.iter().map(|(_, frame, _)| LaneAcks::decode(frame.payload()).unwrap());
    let said: Vec<LaneTip> = acks.filter(|acks| !acks.full).flat_map(|acks| acks.tips).collect();
    assert!([low.tips[2], low.tips[3], high.tips[4]].iter().all(|tip| said.contains(tip)), "{said:?}");
}

/// An origin gives out a chain as long as its budget; placing a fact about its end costs one look at each batch.
#[test]
fn a_long_fork_is_counted_in_one_pass() {
    let mut node = Node::new(R0);
    let (short, long) = forked(&node, 2, 4_000);
    node.receive(&short, 1..=3);
    node.want(long.tip());
    let mut number = 4_001;
    for _ in 0..200 {
        let Some((server, question)) = node.take().questions().first().cloned() else { break };
        number = index(question.upto);
        node.fetched(server, &long.answer(number, number.saturating_sub(999).max(2))).unwrap();
    }
    assert!(number <= 1001, "all of it has come: {number}");
    for peer in [R1, R2, R3] {
        node.ack(peer, long.tip());
    }
    node.tick();
    let outputs = node.take();
    let supported: Vec<_> =
        outputs.progress(lane_of(R3)).into_iter().flat_map(|update| update.supported).collect();
    assert!(supported.contains(&(Support::Quorum, long.tip().mark())));
    node.lanes.on_executed(&[short.tip()]);
    assert!(node.lanes.held_bytes() < 4000);
}

/// Anybody can make up forged batches of a lane that is not its own, and name them: its origin does not pay for that.
#[test]
fn forged_bundles_that_a_header_names_close_no_lane() {
    let mut node = Node::new(R0);
    let chain = Chain::new(&node.config, R3, 1, 1);
    let mut made_up = Chain { lane: chain.lane, frames: Vec::new(), tips: vec![chain.tips[0]] };
    let mut forged: Vec<Vec<u8>> = (0..100).map(|number| bundle_of(&node.config, number, 16)).collect();
    forged.iter_mut().for_each(|bundle| bundle[80] ^= 1);
    made_up.push(&node.config, &forged);
    node.want(made_up.tip());
    let (server, _) = node.take().question();
    node.fetched(server, &made_up.answer(1, 1)).unwrap();
    node.tick();
    let held = node.take().held();
    assert!(held[0].bundles().iter().any(|bundle| !bundle.signed), "they are forged");
    assert_eq!(node.batch(chain.frame(1)), Ok(()));
}

/// Execution takes no batch before those that it follows: nothing is sealed behind what is still checked.
#[test]
fn an_origin_seals_behind_what_is_checked() {
    let config = config(|_| ());
    let mut chain = Chain::new(&config, R0, 0, 1);
    let content: Vec<Vec<u8>> = (0..900).map(|number| bundle_of(&config, number, 1)).collect();
    (0..6).for_each(|_| chain.push(&config, &content));
    let mut node = Node::recovered(R0, config, journal(&chain.frames, &[]));
    node.next_bundle = 100_000;
    assert!(node.admit(16));
    for peer in [R1, R2, R3] {
        node.acks(peer, true, vec![chain.tip()]);
    }
    node.ack(R0, chain.tip());
    let mut order = Vec::new();
    while node.lanes.deadline() < node.now {
        node.tick();
        order.extend(node.take().held_numbers());
    }
    assert_eq!(order, [1, 2, 3, 4, 5, 6, 7]);
    let named = Why::Named;
    assert!(named < Why::Acknowledged && Why::Acknowledged < Why::OwnLink, "a reason rises");
}

/// A restarted origin waits for what f+1 others have said; not for what they have forgotten, as the lane was executed
/// beside it.
#[test]
fn an_origin_does_not_wait_for_a_dead_chain() {
    let config = config(|_| ());
    let trunk = Chain::new(&config, R0, 3, 1);
    let lost = trunk.clone().grown(&config, 6, 2, 16);
    let own = trunk.grown(&config, 2, 3, 16);
    let mut node = Node::recovered(R0, config, journal(&own.frames, &[own.tips[3]]));
    for from in [R1, R2] {
        node.acks(from, true, vec![lost.tips[9], own.tips[5]]);
    }
    node.wait(1);
    assert!(node.lanes.is_adopting(), "f+1 others have more");
    node.lanes.on_executed(&[own.tips[5]]);
    for _ in 0..20 {
        for from in [R1, R2] {
            node.acks(from, true, vec![own.tips[5]]);
        }
        node.wait(1);
    }
    assert!(!node.lanes.is_adopting(), "that is dead");
}

/// A client that conspires with a primary shows it the bundle first: the primary names the batch that the origin is about to
/// seal, byte for byte.
#[test]
fn what_a_primary_has_made_up_may_be_what_the_origin_seals_next() {
    let mut node = Node::new(R0);
    let lane = lane_of(R0);
    let start = LaneTip { lane, upto: LaneNumber(0), chain: quorate_types::Digest::ZERO };
    let mut made_up = Chain { lane, frames: Vec::new(), tips: vec![start] };
    let bundle = bundle_of(&node.config, 1, 16);
    made_up.push(&node.config.clone(), &[bundle]);
    node.want_proposed(made_up.tip(), R2);
    node.fetched(R2, &made_up.answer(1, 1)).unwrap();
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.held_numbers(), [1]);
    assert!(outputs.acknowledgements().is_empty(), "it is merely named");

    assert!(node.admit(16));
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.broadcasts(), [(1, 1)]);
    assert_eq!(outputs.acknowledgements(), [(made_up.tip(), Lsn(2))], "it was written again as sealed");
    assert!(outputs.held().is_empty(), "execution has it");
    for replica in [R0, R1, R2] {
        node.ack(replica, made_up.tip());
    }
    assert!(node.admit(16));
    node.tick();
    assert_eq!(node.take().broadcasts(), [(2, 1)]);
}

/// f+1 hold a digest that is not here, and in no two frontiers is it the same: who is shown it asks those who have said more.
#[test]
fn who_is_shown_what_is_not_here_asks_those_who_have_said_more() {
    let mut node = Node::new(R0);
    let (chain, _) = forked(&node, 3, 0);
    node.receive(&chain, 1..=1);
    node.tick();
    node.take();
    let (mut asked, mut fetched) = (false, false);
    for _ in 0..8 {
        node.acks(R1, true, vec![chain.tips[2]]);
        node.acks(R2, true, vec![chain.tips[3]]);
        node.wait(1);
        let outputs = node.take();
        if outputs.asked().iter().any(|(peer, tips)| *peer == R2 && tips.contains(&chain.tips[2])) {
            asked = true;
            node.ack(R2, chain.tips[2]);
        }
        fetched |= outputs.questions().iter().any(|(_, question)| question.chain == chain.tips[2].chain);
    }
    assert!(asked, "r2 has said 3, and may have 2");
    assert!(fetched, "what r2 has answered outlasts its next frontier");
}
