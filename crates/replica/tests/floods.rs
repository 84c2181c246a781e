//! What a peer that floods costs: each of its messages says something new and is signed, and still it may cause so many
//! signature checks and no more, while everybody else goes on.

mod cluster;

use cluster::*;
use quorate_consensus::Reject as Refusal;
use quorate_replica::Reject;
use quorate_types::{
    CoreId, Digest, LaneId, LaneNumber, LinkId, Nanoseconds, ReplicaId, Seq, Signature, View,
};
use quorate_wire::message::{
    FetchBatches, FetchHeaders, LaneAcks, Message, PrePrepare, Prepare, Status, Suspect, ViewChange,
};
use quorate_wire::{
    BatchHead, Frame, Header, Kind, LaneTip, Statement, SuspectReason, batch, header, testing,
};

/// More than any credit, and far less than what is sent.
const CHECKS_MAX: u64 = 100;
const FLOOD: u64 = 1_000;
/// What is beyond that was refused something.
const CREDIT: u64 = 64;

/// What r1 has checked after `flood` came from `from`, each message in a tick of its own. Nobody is disconnected for it:
/// all of it is genuine. A client is served before and after.
fn checks_of(from: ReplicaId, flood: impl Fn(&Cluster, u64) -> Frame) -> (u64, Cluster) {
    checks_in(Cluster::new(4, 1, 1), from, flood)
}

/// The most checks that one peer has caused r1.
fn checks_max(cluster: &mut Cluster) -> u64 {
    let checks = cluster.machine(R1).cores[0].audit().checks;
    checks.iter().map(|checks| checks.charged + checks.windowed).max().expect("the ordering core")
}

fn checks_in(
    mut cluster: Cluster,
    from: ReplicaId,
    flood: impl Fn(&Cluster, u64) -> Frame,
) -> (u64, Cluster) {
    let client = Client::open(&mut cluster, 0, CoreId(0), R2);
    cluster.run();
    let before = checks_max(&mut cluster);
    for number in 0..FLOOD {
        let frame = flood(&cluster, number);
        cluster.inject(from, R1, &frame);
        cluster.step(R1, CoreId(0), quorate_replica::Input::TickEnd);
    }
    let checks = checks_max(&mut cluster) - before;
    assert!(checks < CREDIT || cluster.bitten.1 > 0, "it is counted");
    assert_eq!(cluster.closed_peers, []);
    client.send(&mut cluster, R2, 1, &vec![set("a", 1)]);
    cluster.wait(20);
    assert_eq!(client.replies(&cluster, R1).len(), 2, "r1 goes on");
    (checks, cluster)
}

#[test]
fn wishes_for_ever_higher_views() {
    let (checks, _) = checks_of(R3, |cluster, number| {
        let (view, reason) = (View(10 + number), SuspectReason::Unnamed);
        let signature = Statement::suspect(&cluster.config, view, reason).sign(&testing::replica_key(3));
        Suspect { view, reason, signature }.encode()
    });
    assert!(checks <= CHECKS_MAX, "{checks}");
}

#[test]
fn changes_to_ever_higher_views() {
    let (checks, _) = checks_of(R3, |cluster, number| {
        let new_view = View(10 + number);
        let (stable, prepared, signature) = (None, None, Signature([0; 64]));
        let (suspects, proposals) = (Vec::new(), Vec::new());
        let mut message = ViewChange { new_view, stable, prepared, suspects, proposals, signature };
        let summary = message.summary(header::genesis(cluster.config.digest()));
        message.signature =
            Statement::view_change(&cluster.config, new_view, &summary).sign(&testing::replica_key(3));
        message.encode()
    });
    assert!(checks <= CHECKS_MAX, "{checks}");
}

/// The next slot that nobody has voted for yet.
fn next_slot(cluster: &Cluster) -> (Seq, Digest) {
    let committed = cluster.machines[1].cores[0].audit().committed.expect("the ordering core");
    (committed.seq.next(), committed.digest)
}

#[test]
fn votes_that_contradict_each_other_are_evidence_once() {
    let (checks, cluster) = checks_of(R3, |cluster, number| {
        let (lo, _) = next_slot(cluster);
        let mut digest = [9; 32];
        digest[..8].copy_from_slice(&number.to_le_bytes());
        let digests = vec![Digest(digest)];
        let signature =
            Statement::prepare(&cluster.config, View(0), lo, &digests).sign(&testing::replica_key(3));
        Prepare { view: View(0), lo, digests, signature }.encode()
    });
    assert!(checks <= 4, "{checks}");
    let evidence = Reject::Consensus(Refusal::DoubleVote);
    assert_eq!(cluster.rejects.iter().filter(|reject| **reject == (R1, evidence)).count(), 1);
}

/// A proposal of the primary, genuine and of its making; `salt` tells them apart.
fn proposal(cluster: &Cluster, parent: Digest, seq: Seq, salt: u64) -> Frame {
    let timestamp = Nanoseconds(cluster.now.0 + 1 + salt);
    let header = Header { epoch: cluster.config.epoch(), seq, parent, timestamp, cut: Vec::new() };
    let statement = Statement::pre_prepare(&cluster.config, View(0), seq, &header.digest());
    PrePrepare { view: View(0), header, signature: statement.sign(&testing::replica_key(0)) }.encode()
}

/// A voter leaves the view with the second one; a learner stays.
#[test]
fn proposals_that_contradict_each_other_are_evidence_once() {
    let mut cluster = Cluster::new(4, 1, 1);
    cluster.run();
    cluster.crash(R1);
    cluster.restart(R1, Some("its log was damaged"));
    cluster.run();
    let (checks, cluster) = checks_in(cluster, R0, |cluster, number| {
        let (seq, parent) = next_slot(cluster);
        // It waits for the one before it, which never comes.
        proposal(cluster, parent, seq.next(), number)
    });
    assert!(checks <= 4, "{checks}");
    let evidence = Reject::Consensus(Refusal::Equivocation);
    assert_eq!(cluster.rejects.iter().filter(|reject| **reject == (R1, evidence)).count(), 1);
}

#[test]
fn proposals_that_are_refused_one_after_the_other() {
    let (checks, _) = checks_of(R0, |cluster, number| {
        let (seq, _) = next_slot(cluster);
        proposal(cluster, Digest([7; 32]), seq, number)
    });
    assert!(checks <= CHECKS_MAX, "{checks}");
}

/// Each forged bundle that is found closes the lane for a hundred times what it cost to find it, and no connection: it is
/// clients that sign, and the others' verdict on them is the same.
#[test]
fn forged_bundles_in_a_liars_lane() {
    let mut cluster = Cluster::new(4, 1, 1);
    let client = Client::open(&mut cluster, 0, CoreId(0), R2);
    cluster.run();
    let lane = LaneId { origin: R3, link: LinkId(0) };
    let mut bundle = client.bundle(&cluster.config, 1, &vec![set("a", 1)]).payload().to_vec();
    bundle[80] ^= 1;
    let mut tip = LaneTip { lane, upto: LaneNumber(0), chain: Digest::ZERO };
    let mut frames = Vec::new();
    for _ in 0..2 {
        let head = BatchHead { lane, number: tip.upto.next(), previous: tip.chain };
        let frame = Frame::encode(Kind::Batch, |out| {
            batch::write_head(out, &head, 100);
            (0..100).for_each(|_| batch::write_bundle(out, &bundle));
        });
        tip = quorate_lanes::Batch::check(&cluster.config, frame.clone()).expect("well-formed").tip();
        frames.push(frame);
    }
    cluster.inject(R3, R1, &frames[0]);
    cluster.step(R1, CoreId(0), quorate_replica::Input::TickEnd);
    for _ in 0..FLOOD {
        cluster.inject(R3, R1, &frames[1]);
    }
    let throttled = cluster.rejects.iter().filter(|reject| **reject == (R1, Reject::LaneThrottled)).count();
    assert_eq!(throttled as u64, FLOOD);
    assert_eq!(cluster.closed_peers, []);
    // Half a second later, or a little more.
    cluster.wait(11);
    cluster.rejects.clear();
    cluster.inject(R3, R1, &frames[1]);
    assert!(!cluster.rejects.contains(&(R1, Reject::LaneThrottled)), "{:?}", cluster.rejects);
}

/// The bytes of frames of some kinds that r1 sends r3 for a flood of one question after the other, a thousand in a second,
/// and their number. A question of another peer is answered beside it, the last one of the flood in time, and a client is
/// served before and after.
fn answers_to(home: ReplicaId, kind: Kind, flood: impl Fn(&Cluster) -> Frame) -> (usize, usize) {
    let mut cluster = Cluster::new(4, 1, 1);
    let client = Client::open(&mut cluster, 0, CoreId(0), home);
    cluster.run();
    client.send(&mut cluster, home, 1, &vec![set("a", 100_000), set("b", 100_000)]);
    cluster.run();
    cluster.withheld = Some(|sent| sent.to == R3);
    let sent = |cluster: &Cluster, to: ReplicaId| {
        let is_one = |sent: &&Sent| (sent.from, sent.to, sent.frame.kind()) == (R1, to, kind);
        let frames = cluster.sent.iter().filter(is_one).map(|sent| sent.frame.bytes().len());
        // What was asked before the last question is answered with nothing.
        let frames: Vec<usize> = frames.filter(|bytes| kind != Kind::FetchedHeaders || *bytes > 64).collect();
        (frames.iter().sum::<usize>(), frames.len())
    };
    let before = sent(&cluster, R3);
    let question = flood(&cluster);
    for _ in 0..FLOOD {
        cluster.now = cluster.now.plus(1_000_000);
        cluster.inject(R3, R1, &question);
        cluster.step(R1, CoreId(0), quorate_replica::Input::TickEnd);
    }
    let during = sent(&cluster, R3);
    let (_, of_other) = sent(&cluster, R2);
    cluster.inject(R2, R1, &question);
    cluster.step(R1, CoreId(0), quorate_replica::Input::TickEnd);
    assert!(sent(&cluster, R2).1 > of_other, "another peer has credit of its own");
    let last = sent(&cluster, R3);
    cluster.wait(1);
    // A true Status of r3 has come since, which shows nothing to be missing.
    let waits = kind != Kind::Commit;
    assert!(!waits || sent(&cluster, R3).1 > last.1, "what waits is answered when there is credit");
    assert_eq!(cluster.closed_peers, [], "it is no lie to ask much");
    assert!(cluster.bitten.0 > 0, "it is counted");
    client.send(&mut cluster, home, 2, &vec![set("a", 1)]);
    cluster.wait(20);
    assert_eq!(client.replies(&cluster, R1).len(), 3, "r1 goes on");
    (during.0 - before.0, during.1 - before.1)
}

/// A peer that takes nothing has one answer queued, whatever it asks; one that takes has an answer to each question, and so
/// has another peer meanwhile. What waits of it is answered when it takes.
fn answers_to_what_takes_nothing(home: ReplicaId, kind: Kind, flood: impl Fn(&Cluster) -> Frame) {
    let mut cluster = Cluster::new(4, 1, 1);
    let client = Client::open(&mut cluster, 0, CoreId(0), home);
    cluster.run();
    client.send(&mut cluster, home, 1, &vec![set("a", 100_000), set("b", 100_000)]);
    cluster.run();
    cluster.withheld = Some(|sent| sent.to == R3);
    let question = flood(&cluster);
    cluster.sent.clear();
    let answers = |cluster: &Cluster, to: ReplicaId| {
        let is_one = |sent: &&Sent| (sent.from, sent.to, sent.frame.kind()) == (R1, to, kind);
        cluster.sent.iter().filter(is_one).count()
    };
    let ask = |cluster: &mut Cluster, from: ReplicaId| {
        cluster.now = cluster.now.plus(1_000_000);
        cluster.inject(from, R1, &question);
        cluster.step(R1, CoreId(0), quorate_replica::Input::TickEnd);
    };
    ask(&mut cluster, R3);
    let one = answers(&cluster, R3);
    assert!(one > 0);
    (0..9).for_each(|_| ask(&mut cluster, R3));
    assert_eq!(answers(&cluster, R3), 10 * one, "it takes what it is sent");
    cluster.takes_nothing.insert(R3);
    (0..10).for_each(|_| ask(&mut cluster, R3));
    assert_eq!(answers(&cluster, R3), 11 * one, "no answer while the last is queued");
    (0..10).for_each(|_| ask(&mut cluster, R2));
    assert_eq!(answers(&cluster, R2), 10 * one, "another takes");
    let link = LinkId(0);
    cluster.peer_input(R1, link, quorate_replica::Input::PeerDisconnected { peer: R3, link });
    cluster.peer_input(R1, link, quorate_replica::Input::PeerConnected { peer: R3, link });
    cluster.step(R1, CoreId(0), quorate_replica::Input::TickEnd);
    assert_eq!(
        answers(&cluster, R3),
        11 * one,
        "what was asked on a connection that is gone is not answered"
    );
    (0..2).for_each(|_| ask(&mut cluster, R3));
    assert_eq!(answers(&cluster, R3), 12 * one, "nothing is queued on a new connection");
    cluster.takes_nothing.clear();
    cluster.tell_taken();
    cluster.step(R1, CoreId(0), quorate_replica::Input::TickEnd);
    assert_eq!(answers(&cluster, R3), 13 * one, "what waited is answered");
    assert_eq!(cluster.closed_peers, []);
    client.send(&mut cluster, home, 2, &vec![set("a", 1)]);
    cluster.wait(20);
    assert_eq!(client.replies(&cluster, R1).len(), 3, "r1 goes on");
}

#[test]
fn questions_for_batches_wait_while_the_last_answer_is_queued() {
    answers_to_what_takes_nothing(R0, Kind::FetchedBatches, question_for_batches);
}

#[test]
fn batches_of_the_own_lane_are_not_sent_again_while_the_last_are_queued() {
    answers_to_what_takes_nothing(R1, Kind::Batch, empty_frontier);
}

/// They are long, and whoever has nothing open with a peer need not read them.
#[test]
fn answers_that_nobody_has_asked_for_are_not_read() {
    let mut cluster = Cluster::new(4, 1, 1);
    let client = Client::open(&mut cluster, 0, CoreId(0), R2);
    cluster.run();
    for kind in [Kind::FetchedHeaders, Kind::FetchedPages] {
        cluster.rejects.clear();
        let no_message = Frame::encode(kind, |out| out.push(1));
        cluster.inject(R3, R1, &no_message);
        assert_eq!(cluster.rejects, [(R1, Reject::Unasked)], "{kind:?}");
    }
    assert_eq!(cluster.closed_peers, []);
    client.send(&mut cluster, R2, 1, &vec![set("a", 1)]);
    cluster.wait(20);
    assert_eq!(client.replies(&cluster, R1).len(), 2, "r1 goes on");
}

#[test]
fn questions_for_headers_are_answered_at_a_bounded_rate() {
    let (_, answers) = answers_to(R0, Kind::FetchedHeaders, |cluster| {
        let last = cluster.machines[1].cores[0].audit().committed.expect("the ordering core");
        FetchHeaders { last, above: Seq(0) }.encode()
    });
    // 64 at once and one in 5 ms.
    assert!((260..=266).contains(&answers), "{answers}");
}

#[test]
fn what_a_status_shows_to_be_missing_is_sent_again_at_a_bounded_rate() {
    let (_, answers) = answers_to(R0, Kind::Commit, |cluster| {
        let start = header::genesis(cluster.config.digest());
        Status {
            view: View(0),
            entered: true,
            stable: start,
            accepted: start,
            prepared: start,
            committed: start,
            executed: start,
        }
        .encode()
    });
    // 16 at once and 5 in each retransmission time.
    assert!((100..=120).contains(&answers), "{answers}");
}

/// What is sent in a second: the burst, what is earned, and one answer more.
const ANSWERS_BYTES_MAX: usize = 16 * 1024 * 1024 + 1_000_000_000 / 15 + 300_000;

#[test]
fn questions_for_batches_are_answered_at_a_bounded_rate() {
    let (bytes, answers) = answers_to(R0, Kind::FetchedBatches, question_for_batches);
    assert!(bytes <= ANSWERS_BYTES_MAX && bytes > ANSWERS_BYTES_MAX / 2, "{bytes} in {answers}");
}

#[test]
fn batches_of_the_own_lane_are_sent_again_at_a_bounded_rate() {
    let (bytes, answers) = answers_to(R1, Kind::Batch, empty_frontier);
    assert!(bytes <= ANSWERS_BYTES_MAX && bytes > ANSWERS_BYTES_MAX / 2, "{bytes} in {answers}");
}

fn question_for_batches(cluster: &Cluster) -> Frame {
    let tip = last_tip(cluster, R0);
    FetchBatches { lane: tip.lane, upto: tip.upto, chain: tip.chain, above: LaneNumber(0) }.encode()
}

/// That of a replica that has nothing of the lane of r1.
fn empty_frontier(cluster: &Cluster) -> Frame {
    let lane = LaneId { origin: R1, link: LinkId(0) };
    let tips = vec![LaneTip { lane, upto: LaneNumber(0), chain: Digest::ZERO }];
    assert!(last_tip(cluster, R1).upto > LaneNumber(0));
    LaneAcks { full: true, tips }.encode()
}

/// The tip of the last batch that a replica has sent of its lane.
fn last_tip(cluster: &Cluster, origin: ReplicaId) -> LaneTip {
    let frame = cluster.sent_by(origin, Kind::Batch).pop().expect("it has sealed one");
    quorate_lanes::Batch::check(&cluster.config, frame).expect("well-formed").tip()
}
