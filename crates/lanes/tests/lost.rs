//! Batches that went bad in the journal: what is intact behind them is not lost with them. A restart serves it, keeps it in
//! the journal, and uses it again once what was lost is fetched; but it acknowledges nothing whose chain has a hole.

mod common;

use common::*;
use quorate_lanes::{Destination, Output, Recovered, Reject};
use quorate_types::{LaneNumber, Lsn, Mark, ReplicaId, Why};
use quorate_wire::message::{AskLanes, FetchBatches, LaneAcks, Message};
use quorate_wire::{Frame, Kind, LaneTip};
use std::collections::{BTreeSet, VecDeque};

fn chain(origin: ReplicaId, count: u64) -> Chain {
    Chain::new(&config(|_| ()), origin, count, 1)
}

/// What the journal gives back of a chain whose batches `lost` went bad; positions are numbers.
fn without(chain: &Chain, lost: &[u64], tips: &[LaneTip]) -> Recovered {
    let mut recovered = journal(&chain.frames, tips);
    recovered.batches.retain(|(lsn, ..)| !lost.contains(&lsn.0));
    recovered
}

/// r0 after its first tick.
fn restarted(recovered: Recovered) -> Node {
    let mut node = Node::recovered(R0, config(|_| ()), recovered);
    node.tick();
    node
}

/// Listed mistake: a restart that drops intact batches because their parent is bad.
#[test]
fn what_lies_behind_a_lost_batch_is_served_and_is_neither_acknowledged_nor_told() {
    let chain = chain(R1, 6);
    let mut node = restarted(without(&chain, &[3], &[]));
    let outputs = node.take();
    assert_eq!(outputs.held_numbers(), [1, 2]);
    assert_eq!(outputs.acknowledgements(), [(chain.tips[2], Lsn(2))]);
    assert_eq!(outputs.frontiers(lane_of(R1))[0].1, 2);
    let told = outputs.progress(lane_of(R1));
    assert_eq!(told[0].held.iter().map(|entry| entry.mark.upto.0).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(node.asked(R2, chain.tip(), 0), [6, 5, 4], "down to what was lost");
    assert_eq!(node.asked(R2, chain.tips[5], 4), [5]);
    assert_eq!(node.asked(R2, chain.tips[3], 0), Vec::<u64>::new());
    assert_eq!(node.asked(R2, chain.tips[2], 0), [2, 1]);
}

#[test]
fn what_was_acknowledged_and_lost_is_fetched_by_its_digest_and_what_follows_is_held_again() {
    let chain = chain(R1, 6);
    let mut node = restarted(without(&chain, &[3], &[]));
    let bytes = node.lanes.held_bytes();
    let (server, question) = node.take().question();
    assert_eq!((question.upto, question.chain), (LaneNumber(3), chain.tips[3].chain));
    node.fetched(server, &chain.answer(3, 3)).unwrap();
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.held_numbers(), [3, 4, 5, 6]);
    assert!(outputs.held().iter().all(|batch| batch.bundles().iter().all(|bundle| bundle.signed)));
    assert_eq!(outputs.appended(), [Lsn(7)], "only what was lost is written anew");
    assert_eq!(outputs.acknowledgements(), [(chain.tip(), Lsn(7))], "it was acknowledged before");
    let told = outputs.progress(lane_of(R1));
    let places: Vec<u64> = told[0].held.iter().map(|entry| entry.lsn.0).collect();
    assert_eq!(places, [7, 4, 5, 6]);
    assert!(node.lanes.held_bytes() > bytes);
    assert_eq!(node.asked(R2, chain.tip(), 0), [6, 5, 4, 3, 2, 1]);
}

/// The reason of what was lost went with it; that of what follows tells it.
#[test]
fn only_what_this_replica_has_acknowledged_is_acknowledged_again() {
    let chain = chain(R1, 6);
    let mut recovered = without(&chain, &[3, 5], &[]);
    recovered.batches.iter_mut().filter(|(lsn, ..)| lsn.0 >= 4).for_each(|(.., why)| *why = Why::Named);
    let mut node = restarted(recovered);
    node.wait(4);
    assert!(node.take().questions().is_empty(), "nobody may ever name it again");
    node.want(chain.tip());
    let (server, question) = node.take().question();
    assert_eq!(question.upto, LaneNumber(5), "the tip is here");
    node.fetched(server, &chain.answer(5, 5)).unwrap();
    let (server, question) = node.take().question();
    assert_eq!(question.upto, LaneNumber(3), "and so is 4");
    node.fetched(server, &chain.answer(3, 3)).unwrap();
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.held_numbers(), [3, 4, 5, 6]);
    assert!(outputs.acknowledgements().is_empty(), "a header alone names them");
}

/// What the journal names and has lost of a chain; positions are numbers.
fn naming(chain: &Chain, bad: &[(u64, Why)], tips: &[LaneTip]) -> Recovered {
    let lost: Vec<u64> = bad.iter().map(|(number, _)| *number).collect();
    let mut recovered = without(chain, &lost, tips);
    let named = bad.iter().map(|(number, why)| (Lsn(*number), chain.tips[index(LaneNumber(*number))], *why));
    recovered.lost = named.collect();
    recovered
}

/// Listed mistake: a restart that forgets a batch with nothing intact behind it, which it has acknowledged.
#[test]
fn what_went_bad_at_the_end_of_its_chain_is_fetched_by_the_name_that_the_journal_has() {
    let chain = chain(R1, 6);
    for why in [Why::OwnLink, Why::Acknowledged] {
        let mut node = restarted(naming(&chain, &[(5, why), (6, why)], &[]));
        let outputs = node.take();
        assert_eq!(outputs.acknowledgements(), [(chain.tips[4], Lsn(4))]);
        let (server, question) = outputs.question();
        assert_eq!(question.chain, chain.tips[6].chain, "the highest brings them all");
        node.fetched(server, &chain.answer(6, 5)).unwrap();
        node.tick();
        let outputs = node.take();
        assert_eq!(outputs.acknowledgements(), [(chain.tip(), Lsn(8))], "it was acknowledged before");
        let kept = outputs.0.iter().find_map(|output| match output {
            Output::Append { why, .. } => Some(*why),
            _ => None,
        });
        assert_eq!(kept, Some(why));
        node.wait(100);
        assert!(node.take().questions().is_empty(), "nothing is missing any more");
    }
}

/// Other chains of the lane have ends of their own, and what nobody has keeps nothing waiting.
#[test]
fn the_next_of_what_went_bad_is_asked_for_when_the_one_before_has_come_or_nobody_has_it() {
    let chain = chain(R1, 6);
    let beside = |number: usize, salt: u64| chain.upto(number - 1).grown(&config(|_| ()), 1, salt, 16);
    let (fork, dead) = (beside(5, 2), beside(6, 3));
    let mut recovered = naming(&chain, &[(6, Why::OwnLink)], &[]);
    let forks = [&fork, &dead].map(|chain| chain.tip());
    recovered.lost.extend((7..).map(Lsn).zip(forks).map(|(lsn, tip)| (lsn, tip, Why::OwnLink)));
    recovered.last_lsn = Lsn(8);
    let mut node = restarted(recovered);
    let mut came = BTreeSet::new();
    loop {
        let questions = node.take().questions();
        for (server, question) in &questions {
            let known = [&chain, &fork].into_iter().find(|chain| chain.tip().chain == question.chain);
            let Some(known) = known else {
                node.fetched(*server, &chain.answer_to(question, 0, 1)).unwrap();
                continue;
            };
            let number = index(question.upto);
            node.fetched(*server, &known.answer(number, number)).unwrap();
            came.insert(known.tip().mark());
        }
        if questions.is_empty() {
            break;
        }
    }
    assert_eq!(came, BTreeSet::from([chain.tip().mark(), fork.tip().mark()]), "no time has passed");
}

/// r0's own lane up to 5, with a bundle to seal; 6 went bad, and nobody says to hold it. `has` tells who has it.
fn origin_that_has_lost_its_tip(has: Option<ReplicaId>) -> (Vec<(u64, usize)>, BTreeSet<ReplicaId>) {
    let own = chain(R0, 6);
    let mut node = Node::recovered(R0, config(|_| ()), naming(&own, &[(6, Why::OwnLink)], &[]));
    node.next_bundle = 100;
    assert!(node.admit(16));
    node.tick();
    let (mut sealed, mut asked) = (Vec::new(), BTreeSet::new());
    for round in 0..8 {
        loop {
            let outputs = node.take();
            sealed.extend(outputs.broadcasts());
            let questions = outputs.questions();
            for (server, question) in &questions {
                // What was asked before the others have shown what they hold tells nothing.
                let (from, to) = if has == Some(*server) && round > 0 { (6, 6) } else { (0, 1) };
                node.fetched(*server, &own.answer_to(question, from, to)).expect("what was asked for");
                if sealed.is_empty() && round > 0 {
                    asked.insert(*server);
                }
            }
            if questions.is_empty() {
                break;
            }
        }
        if round == 0 {
            node.peers().into_iter().for_each(|peer| node.acks(peer, true, vec![own.tips[5]]));
        }
        node.wait(1);
    }
    (sealed, asked)
}

#[test]
fn an_origin_seals_behind_what_it_has_lost_if_anybody_has_it() {
    let (sealed, _) = origin_that_has_lost_its_tip(Some(R2));
    assert_eq!(sealed, [(7, 1)]);
}

#[test]
fn an_origin_seals_beside_what_it_has_lost_when_all_were_asked_in_vain() {
    let (sealed, asked) = origin_that_has_lost_its_tip(None);
    assert_eq!(sealed, [(6, 1)]);
    assert_eq!(asked, BTreeSet::from([R1, R2, R3]));
}

#[test]
fn what_went_bad_is_not_looked_for_where_nobody_needs_it() {
    let chain = chain(R1, 6);
    let questions = |recovered: Recovered| {
        let mut node = restarted(recovered);
        node.wait(4);
        node.take().questions().len()
    };
    assert_eq!(questions(naming(&chain, &[(6, Why::Named)], &[])), 0, "nobody may ever name it again");
    assert_eq!(questions(naming(&chain, &[(6, Why::OwnLink)], &[chain.tip()])), 0, "it is executed");
    let mut again = naming(&chain, &[(6, Why::OwnLink)], &[]);
    again.batches.push((Lsn(7), chain.frame(6).clone(), Why::OwnLink));
    again.last_lsn = Lsn(7);
    assert_eq!(questions(again), 0, "it was written again");
    // A walk shows that its chain passes the executed tip by.
    let other = chain.upto(4).grown(&config(|_| ()), 1, 2, 16);
    let mut node = restarted(naming(&chain, &[(6, Why::OwnLink)], &[other.tip()]));
    let (server, question) = node.take().question();
    node.fetched(server, &chain.answer_to(&question, 6, 6)).unwrap();
    node.wait(100);
    assert!(node.take().questions().is_empty(), "it is dead");
}

/// A batch was named first and acknowledged later, and the record that says so went bad.
#[test]
fn the_name_of_a_bad_record_tells_why_what_is_intact_was_held() {
    let chain = chain(R1, 6);
    for lost in [&[][..], &[3]] {
        let mut recovered = without(&chain, lost, &[]);
        let behind = recovered.batches.iter_mut().filter(|(lsn, ..)| lsn.0 > 3);
        behind.for_each(|(.., why)| *why = Why::Named);
        recovered.lost = vec![(Lsn(7), chain.tips[5], Why::OwnLink)];
        recovered.last_lsn = Lsn(7);
        let mut node = restarted(recovered);
        let outputs = node.take();
        if lost.is_empty() {
            assert_eq!(outputs.acknowledgements(), [(chain.tips[5], Lsn(5))]);
        } else {
            assert_eq!(outputs.question().1.upto, LaneNumber(3), "the hole before what was acknowledged");
        }
    }
}

/// An honest server answers with the whole chain, the strays included, of which this replica needs nothing.
#[test]
fn a_walk_passes_what_is_here_wherever_it_lies() {
    let chain = chain(R1, 9);
    let mut node = restarted(without(&chain, &[2, 5, 6, 8], &[]));
    node.take();
    node.want(chain.tip());
    let (server, question) = node.take().question();
    assert_eq!(question.upto, LaneNumber(8));
    node.fetched(server, &chain.answer(8, 1)).unwrap();
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.held_numbers(), [2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(outputs.appended(), [10, 11, 12, 13].map(Lsn));
    assert_eq!(outputs.acknowledgements(), [(chain.tip(), Lsn(13))]);
}

/// The walk is under way when the origin closes the hole, and part of what it has passed is held by then.
#[test]
fn the_origin_may_be_faster_than_a_walk() {
    let chain = chain(R1, 6);
    let mut node = restarted(without(&chain, &[3, 5], &[]));
    node.take();
    node.want(chain.tip());
    let (server, _) = node.take().question();
    node.receive(&chain, 3..=3);
    node.fetched(server, &chain.answer(5, 4)).unwrap();
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.held_numbers(), [3, 4, 5, 6]);
    assert_eq!(outputs.acknowledgements(), [(chain.tip(), Lsn(8))]);
}

/// Who has nothing of one hole may have the next.
#[test]
fn a_server_that_lacks_one_batch_is_asked_for_those_below() {
    let chain = chain(R1, 6);
    let mut recovered = without(&chain, &[2, 4], &[]);
    // Nothing but the header asks for them.
    recovered.batches.iter_mut().for_each(|(.., why)| *why = Why::Named);
    let mut node = restarted(recovered);
    node.disconnect(R3);
    node.take();
    node.want(chain.tip());
    let (without_4, question) = node.take().question();
    node.fetched(without_4, &chain.answer_to(&question, 0, 1)).unwrap();
    let (without_2, _) = node.take().question();
    assert_ne!(without_4, without_2);
    node.fetched(without_2, &chain.answer(4, 4)).unwrap();
    let (mut server, mut question) = node.take().question();
    if server == without_2 {
        node.fetched(server, &chain.answer_to(&question, 0, 1)).unwrap();
        (server, question) = node.take().question();
    }
    assert_eq!((server, question.upto), (without_4, LaneNumber(2)));
    node.fetched(server, &chain.answer(2, 2)).unwrap();
    assert_eq!(node.take().held_numbers(), [2, 3, 4, 5, 6]);
}

/// It may be dead, and executed past by all others.
#[test]
fn what_nobody_has_is_asked_for_ever_more_seldom_and_anew_when_somebody_comes() {
    let chain = chain(R1, 4);
    let mut node = restarted(without(&chain, &[2], &[]));
    node.take();
    let asks = |node: &mut Node, looks: u32| {
        let mut asked = 0;
        for _ in 0..looks {
            node.now = node.now.plus(node.config.tuning().idle.0);
            node.tick();
            loop {
                let questions = node.take().questions();
                asked += questions.len();
                for (server, question) in &questions {
                    node.fetched(*server, &chain.answer_to(question, 0, 1)).unwrap();
                }
                if questions.is_empty() {
                    break;
                }
            }
        }
        asked
    };
    let (first, later) = (asks(&mut node, 100), asks(&mut node, 100));
    assert!((9..=24).contains(&first) && (3..=6).contains(&later), "{first}, {later}");
    node.disconnect(R2);
    node.lanes.on_connected(R2, LINK);
    assert_eq!(asks(&mut node, 1), 3, "it may have it");
}

#[test]
fn the_journal_is_not_trimmed_beyond_what_lies_behind_a_lost_batch() {
    let chain = chain(R1, 6);
    let mut node = restarted(without(&chain, &[3], &[]));
    node.take();
    node.lanes.trim(&[chain.tips[2]], &mut node.out);
    node.lanes.on_durable(node.now, Lsn(6), &mut node.out);
    assert_eq!(node.take().trims(), [3]);
    // What nobody has ordered since is written again, and does not hold the journal up.
    node.lanes.trim(&[chain.tips[2]], &mut node.out);
    let outputs = node.take();
    assert_eq!(outputs.appended(), [7, 8, 9].map(Lsn));
    assert!(outputs.trims().is_empty(), "before that is durable");
    node.lanes.on_durable(node.now, Lsn(9), &mut node.out);
    assert_eq!(node.take().trims(), [6]);
    assert_eq!(node.asked(R2, chain.tip(), 0), [6, 5, 4]);
}

/// A restart after that would not know of it any more.
#[test]
fn the_journal_keeps_the_name_of_what_went_bad_from_one_trim_to_the_next() {
    let chain = chain(R1, 6);
    let mut node = restarted(naming(&chain, &[(6, Why::OwnLink)], &[]));
    node.lanes.on_executed(&[chain.tips[5]]);
    node.take();
    node.lanes.trim(&[chain.tips[5]], &mut node.out);
    assert_eq!(node.take().trims(), [5]);
    node.lanes.trim(&[chain.tips[5]], &mut node.out);
    assert_eq!(node.take().trims(), [6], "nobody may have it");
}

/// The state is lost, or so old that the logs do not lead on from it; then it is taken over from others.
#[test]
fn a_state_that_came_from_others_finds_what_was_acknowledged_above_it() {
    let chain = chain(R1, 8);
    let mut node = restarted(without(&chain, &[1, 2, 3, 4], &[]));
    let outputs = node.take();
    assert!(outputs.held().is_empty() && outputs.acknowledgements().is_empty());
    node.lanes.install(&[chain.tips[6]], &mut node.out);
    node.tick();
    let outputs = node.take();
    assert_eq!(outputs.held_numbers(), [7, 8]);
    assert_eq!(outputs.acknowledgements(), [(chain.tip(), Lsn(8))]);
    node.lanes.trim(&[chain.tips[6]], &mut node.out);
    node.lanes.on_durable(node.now, Lsn(8), &mut node.out);
    assert_eq!(node.take().trims(), [6], "7 and 8 are needed");
}

#[test]
fn the_journal_keeps_what_was_lost_and_found_when_it_goes_bad_again() {
    let chain = chain(R1, 4);
    let mut node = restarted(without(&chain, &[2], &[]));
    node.take();
    node.lanes.on_lost(Lsn(4), &mut node.out);
    assert_eq!(node.take().appended(), [Lsn(5)], "it is in memory");
}

/// Listed mistake: of what was written again for a better reason only the first record is watched, which says less.
#[test]
fn what_tells_why_a_batch_is_held_is_written_again_when_it_goes_bad() {
    let chain = chain(R1, 3);
    for lost in [&[][..], &[2]] {
        let mut recovered = journal(chain.frames.iter().chain([chain.frame(3)]), &[]);
        recovered.batches[2].2 = Why::Named;
        recovered.batches[3].2 = Why::Acknowledged;
        recovered.batches.retain(|(lsn, ..)| !lost.contains(&lsn.0));
        let mut node = restarted(recovered);
        node.take();
        node.lanes.on_lost(Lsn(4), &mut node.out);
        let written = node.take().0.into_iter().find_map(|output| match output {
            Output::Append { lsn, why, .. } => Some((lsn, why)),
            _ => None,
        });
        assert_eq!(written, Some((Lsn(5), Why::Acknowledged)), "without {lost:?}");
    }
}

/// What is found of a stray for its name alone was held for a better reason if what lies behind it was.
#[test]
fn a_hole_below_named_strays_was_acknowledged_if_what_follows_them_was() {
    let chain = chain(R1, 6);
    let mut recovered = without(&chain, &[3], &[]);
    let named = |lsn: &Lsn| (4..=5).contains(&lsn.0);
    recovered.batches.iter_mut().filter(|(lsn, ..)| named(lsn)).for_each(|(.., why)| *why = Why::Named);
    let mut node = restarted(recovered);
    let (server, question) = node.take().question();
    assert_eq!((question.upto, question.chain), (LaneNumber(3), chain.tips[3].chain));
    node.fetched(server, &chain.answer(3, 3)).unwrap();
    node.tick();
    assert_eq!(node.take().acknowledgements(), [(chain.tip(), Lsn(7))]);
}

/// Nobody has the first hole, and a peer comes again before each look of the timer.
#[test]
fn a_peer_that_comes_and_goes_does_not_keep_later_holes_from_being_looked_for() {
    let chain = chain(R1, 6);
    let mut node = restarted(without(&chain, &[2, 5], &[]));
    let mut asked = BTreeSet::new();
    for _ in 0..20 {
        loop {
            let questions = node.take().questions();
            for (server, question) in &questions {
                asked.insert(question.upto.0);
                node.fetched(*server, &chain.answer_to(question, 0, 1)).unwrap();
            }
            if questions.is_empty() {
                break;
            }
        }
        node.disconnect(R2);
        node.lanes.on_connected(R2, LINK);
        node.now = node.now.plus(node.config.tuning().idle.0);
        node.tick();
    }
    assert_eq!(asked, BTreeSet::from([2, 5]));
}

#[test]
fn strays_of_a_chain_that_will_never_be_executed_are_forgotten() {
    let (config, trunk) = (config(|_| ()), chain(R1, 3));
    let (a, b) = (trunk.clone().grown(&config, 4, 1, 16), trunk.grown(&config, 4, 2, 16));
    // What lies at the executed tip and is not it is dead with what is known to follow.
    let (dead, open) = (Vec::<u64>::new(), vec![7]);
    let cases = [(b.tips[4], &open), (b.tips[5], &open), (a.tips[5], &open), (a.tips[6], &open)];
    for (tip, left) in cases.into_iter().chain([(b.tips[6], &dead), (a.tips[7], &dead)]) {
        let mut node = restarted(without(&a, &[4, 6], &[]));
        node.take();
        node.lanes.install(&[tip], &mut node.out);
        node.tick();
        assert_eq!(node.asked(R2, a.tip(), tip.upto.0), *left, "{tip:?}");
        assert_eq!(node.lanes.held_bytes() > 0, !left.is_empty(), "{tip:?}");
    }
    // A walk finds that the chain of what is left passes the executed tip by.
    let mut node = restarted(without(&a, &[4, 6], &[]));
    node.lanes.install(&[b.tips[5]], &mut node.out);
    node.take();
    node.wait(2);
    let (server, question) = node.take().question();
    assert_eq!((question.upto, question.chain), (LaneNumber(6), a.tips[6].chain));
    node.fetched(server, &a.answer(6, 6)).unwrap();
    assert_eq!(node.lanes.held_bytes(), 0);
}

/// Frames arrive in order, and what is written is durable at once.
struct Network {
    nodes: Vec<Node>,
    flights: VecDeque<(ReplicaId, ReplicaId, Frame)>,
    acknowledged: Vec<BTreeSet<Mark>>,
}

impl Network {
    fn round(&mut self) {
        for at in 0..self.nodes.len() {
            self.nodes[at].wait(1);
            self.carry_out(at);
        }
        while let Some((from, to, frame)) = self.flights.pop_front() {
            let Some(node) = self.nodes.get_mut(to.index()) else { continue };
            match deliver(node, from, &frame) {
                Ok(()) | Err(Reject::Gap | Reject::Fork) => {}
                Err(reject) => panic!("{reject} among honest replicas"),
            }
            node.tick();
            self.carry_out(to.index());
        }
    }

    fn carry_out(&mut self, at: usize) {
        let (me, peers) = (self.nodes[at].me, self.nodes[at].peers());
        for output in self.nodes[at].take().0 {
            match output {
                Output::Send { to: Destination::Others, frame, .. } => {
                    self.flights.extend(peers.iter().map(|peer| (me, *peer, frame.clone())));
                }
                Output::Send { to: Destination::One(peer), frame, .. } => {
                    self.flights.push_back((me, peer, frame));
                }
                Output::Acknowledge { acks, .. } => {
                    self.acknowledged[at].extend(acks.tips.iter().map(LaneTip::mark));
                    let all = peers.iter().chain([&me]);
                    self.flights.extend(all.map(|peer| (me, *peer, acks.encode())));
                }
                _ => {}
            }
        }
    }
}

fn deliver(node: &mut Node, from: ReplicaId, frame: &Frame) -> Result<(), Reject> {
    let (payload, frame_ref) = (frame.payload(), frame.as_frame_ref());
    match frame.kind() {
        Kind::Batch => node.lanes.on_batch(from, LINK, frame_ref, &mut node.out),
        Kind::LaneAcks => node.lanes.on_acks(from, LINK, &LaneAcks::decode(payload).expect("own messages")),
        Kind::AskLanes => node.lanes.on_ask(from, LINK, AskLanes::decode(payload).expect("own messages")),
        Kind::FetchBatches => {
            node.lanes.on_fetch(from, LINK, &FetchBatches::decode(payload).expect("own messages"))
        }
        _ => node.lanes.on_fetched(node.now, from, LINK, frame_ref, &mut node.out),
    }
}

/// All replicas held and acknowledged a lane, and all lost power; each finds other batches of it bad, the origin too. A
/// quorum's acknowledgement is a promise that none of them may forget for that.
#[test]
fn when_every_replica_has_lost_another_batch_all_of_them_hold_the_lane_again() {
    let lost: [[&[u64]; 4]; 4] = [
        [&[3], &[5], &[7], &[9]],
        [&[9], &[7], &[5], &[3]],
        [&[1], &[2], &[3], &[4]],
        [&[2, 6], &[3, 7], &[4, 8], &[5, 9]],
    ];
    for lost in lost {
        let chain = chain(R1, 10);
        let node = |me: u8, lost: &[u64]| {
            let mut node = Node::recovered(ReplicaId(me), config(|_| ()), without(&chain, lost, &[]));
            node.next_bundle = 50_000 * u64::from(me);
            node
        };
        let nodes: Vec<Node> = (0..4).zip(lost).map(|(me, lost)| node(me, lost)).collect();
        let mut network = Network { nodes, flights: VecDeque::new(), acknowledged: vec![BTreeSet::new(); 4] };
        for node in &mut network.nodes {
            node.take();
        }
        let tip = chain.tip().mark();
        let is_held = |network: &Network| network.acknowledged.iter().all(|said| said.contains(&tip));
        for _ in 0..40 {
            network.round();
        }
        assert!(is_held(&network), "{lost:?}: {:?}", network.acknowledged);
    }
}

/// A quorum has acknowledged a tip: two honest replicas and a liar, which says nothing any more. It went bad at one of them
/// with nothing intact behind it, and there are not f+1 left who say to hold it, before that one has it again.
#[test]
fn what_a_quorum_holds_reaches_all_though_it_went_bad_at_the_end_of_its_chain() {
    let chain = chain(R3, 6);
    let found =
        [without(&chain, &[5, 6], &[]), naming(&chain, &[(6, Why::OwnLink)], &[]), without(&chain, &[], &[])];
    let node = |(me, found): (u8, Recovered)| {
        let mut node = Node::recovered(ReplicaId(me), config(|_| ()), found);
        node.disconnect(R3);
        node.take();
        node
    };
    let nodes: Vec<Node> = (0..3).zip(found).map(node).collect();
    let mut network = Network { nodes, flights: VecDeque::new(), acknowledged: vec![BTreeSet::new(); 3] };
    for _ in 0..20 {
        network.round();
    }
    let tip = chain.tip().mark();
    assert!(network.acknowledged.iter().all(|said| said.contains(&tip)), "{:?}", network.acknowledged);
}

/// Nothing names the tip but a header that is committed: each has it from the others, piece by piece.
#[test]
fn a_committed_tip_that_every_replica_has_lost_something_below_is_had_by_all() {
    let chain = chain(R1, 10);
    let lost: [&[u64]; 4] = [&[2, 3, 8], &[4, 9], &[5, 6], &[1, 7, 10]];
    let node = |(me, lost): (u8, &[u64])| {
        let mut recovered = without(&chain, lost, &[]);
        recovered.batches.iter_mut().for_each(|(.., why)| *why = Why::Named);
        Node::recovered(ReplicaId(me), config(|_| ()), recovered)
    };
    let nodes: Vec<Node> = (0..4).zip(lost).map(node).collect();
    let mut network = Network { nodes, flights: VecDeque::new(), acknowledged: vec![BTreeSet::new(); 4] };
    for at in 0..4 {
        network.nodes[at].want(chain.tip());
        network.carry_out(at);
    }
    for _ in 0..40 {
        network.round();
    }
    for node in &mut network.nodes {
        assert_eq!(node.asked(ReplicaId(3 - node.me.0), chain.tip(), 0).len(), 10, "r{}", node.me);
    }
    let tip = chain.tip().mark();
    assert!(!network.acknowledged.iter().any(|said| said.contains(&tip)), "a header alone names it");
}
