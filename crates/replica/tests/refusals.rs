//! What clients and peers may not do, that it is counted, and that any bytes are answered without a panic.

mod cluster;

use cluster::*;
use proptest::prelude::*;
use quorate_replica::{Frozen, Input, Intake, Reject};
use quorate_state::{PageAnswer, PageRequest, Transfer, TransferOptions};
use quorate_types::{
    BundleNumber, CoreId, Digest, LaneId, LaneNumber, LinkId, Nonce, Operation, ReplicaId, Seq, Signature,
    View, limits,
};
use quorate_wire::message::{
    Busy, BusyReason, FetchHeaders, FetchPages, FetchedHeaders, FetchedPages, LaneAcks, Message, PrePrepare,
    Prepare, ReportRequest, Status,
};
use quorate_wire::{DecodeError, Frame, Header, Kind, LaneTip, Position, bundle, header, testing};

fn frame(kind: Kind, payload: &[u8]) -> Frame {
    Frame::encode(kind, |out| out.extend_from_slice(payload))
}

/// A client sends one frame: its connection is closed for `reject`, counted once, and what it sends after that
/// in the same burst is not looked at.
fn is_refused(frame: impl Fn(&Cluster, &Client) -> Frame, expected: impl Fn(Reject) -> bool) {
    let mut cluster = Cluster::new(4, 1, 1);
    let client = Client::open(&mut cluster, 0, CoreId(0), R0);
    cluster.run();
    let refused = frame(&cluster, &client);
    for _ in 0..3 {
        cluster.client_frame(R1, client.connections[1], &refused);
    }
    client.send(&mut cluster, R1, 1, &vec![set("a", 1)]);
    cluster.run();
    assert_eq!(cluster.closed_clients.len(), 1);
    let (replica, connection, reject) = cluster.closed_clients[0];
    assert_eq!((replica, connection), (R1, client.connections[1]));
    assert!(expected(reject), "{reject:?}");
    assert_eq!(cluster.rejects, [(R1, reject)]);
    assert!(Reject::LABELS.contains(&reject.label()));
    assert_eq!(client.replies(&cluster, R0).len(), 1, "nothing else was taken");
}

#[test]
fn a_bundle_of_another_client_is_refused() {
    is_refused(
        |cluster, _| {
            let (key, mut bytes) = (testing::client_key_number(1), Vec::new());
            let session = testing::SESSION;
            bundle::write(&mut bytes, &cluster.config, &key, session, BundleNumber(1), &vec![set("a", 1)]);
            frame(Kind::Bundle, &bytes)
        },
        |reject| reject == Reject::ForeignBundle,
    );
}

#[test]
fn a_forged_signature_is_refused() {
    is_refused(
        |cluster, client| {
            let good = client.bundle(&cluster.config, 1, &vec![set("a", 1)]);
            let mut bytes = good.payload().to_vec();
            bytes[52] ^= 1;
            frame(Kind::Bundle, &bytes)
        },
        |reject| reject == Reject::BundleSignature,
    );
}

#[test]
fn a_bundle_over_a_limit_is_refused() {
    is_refused(
        |cluster, client| {
            let many = vec![get("a"); limits::BUNDLE_OPERATIONS_MAX + 1];
            client.bundle(&cluster.config, 1, &many)
        },
        |reject| matches!(reject, Reject::Malformed(DecodeError::Limit { .. })),
    );
    is_refused(
        |cluster, client| client.bundle(&cluster.config, 1, &vec![set("a", limits::VALUE_BYTES_MAX); 4]),
        |reject| matches!(reject, Reject::Malformed(DecodeError::Limit { .. })),
    );
    is_refused(
        |cluster, client| client.bundle(&cluster.config, 1, &vec![]),
        |reject| matches!(reject, Reject::Malformed(DecodeError::Limit { .. })),
    );
}

#[test]
fn frames_that_have_no_place_on_a_client_connection_are_refused() {
    for kind in Kind::ALL {
        let taken =
            [Kind::Bundle, Kind::Attach, Kind::ReportRequest, Kind::FetchPages, Kind::FetchCertificate];
        if taken.contains(kind) {
            is_refused(|_, _| frame(*kind, &[1, 2, 3]), |reject| matches!(reject, Reject::Malformed(_)));
        } else {
            let misplaced = Reject::Malformed(DecodeError::Misplaced(*kind));
            is_refused(|_, _| frame(*kind, &[1, 2, 3]), |reject| reject == misplaced);
        }
    }
}

#[test]
fn frames_that_have_no_place_between_replicas_close_the_link() {
    // What nobody has asked for is not even read.
    let unasked = [Kind::FetchedHeaders, Kind::FetchedPages];
    for kind in Kind::ALL.iter().filter(|kind| !unasked.contains(kind)) {
        let mut cluster = Cluster::new(4, 1, 1);
        cluster.inject(R3, R1, &frame(*kind, &[1, 2, 3]));
        cluster.run();
        let closed = cluster.closed_peers.first().map(|(me, peer, _)| (*me, *peer));
        assert_eq!(closed, Some((R1, R3)), "{kind:?}");
        assert!(matches!(cluster.rejects[..], [(R1, Reject::Malformed(_))]));
    }
}

#[test]
fn consensus_has_no_place_on_another_link() {
    let mut cluster = Cluster::new(4, 2, 2);
    let commit = frame(Kind::Commit, &[0; 56]);
    let link = LinkId(1);
    let input = quorate_replica::Input::PeerFrame { peer: R3, link, frame: commit.as_frame_ref() };
    cluster.peer_input(R1, link, input);
    assert_eq!(cluster.closed_peers[0].2, Reject::Malformed(DecodeError::Misplaced(Kind::Commit)));
}

/// At the cap a client is told to come again later, without the cost of a signature check.
#[test]
fn a_client_with_too_much_open_is_told_so() {
    let mut cluster = Cluster::new(4, 1, 1);
    let client = Client::open(&mut cluster, 0, CoreId(0), R0);
    cluster.run();
    let cap = 2 * u64::try_from(limits::OPEN_BUNDLES_MAX).unwrap();
    for number in 1..=cap + 2 {
        client.send(&mut cluster, R0, number, &vec![set("a", 1)]);
    }
    let good = client.bundle(&cluster.config.clone(), cap + 3, &vec![set("a", 1)]);
    let mut forged = good.payload().to_vec();
    forged[52] ^= 1;
    cluster.client_frame(R0, client.connections[0], &frame(Kind::Bundle, &forged));
    let busy: Vec<_> = cluster.to_clients.iter().filter(|(_, _, frame)| frame.kind() == Kind::Busy).collect();
    let numbers: Vec<u64> =
        busy.iter().map(|(_, _, frame)| Busy::decode(frame.payload()).unwrap().number.0).collect();
    assert_eq!(numbers, [cap + 1, cap + 2, cap + 3]);
    assert_eq!(cluster.rejects, [(R0, Reject::Busy); 3]);
    assert!(cluster.closed_clients.is_empty());
    cluster.run();
    assert_eq!(client.replies(&cluster, R0).len(), 1 + usize::try_from(cap).unwrap());
    client.send(&mut cluster, R0, cap + 1, &vec![set("a", 1)]);
    cluster.run();
    assert_eq!(client.replies(&cluster, R0).len(), 2 + usize::try_from(cap).unwrap(), "room again");
}

/// Whatever is ordered takes room in the logs. What ends something is taken longest, so that a client learns what became of
/// its bundles.
#[test]
fn the_less_room_there_is_the_less_is_taken_of_clients() {
    for (intake, expected) in [
        (Intake::All, [None, None, None, None]),
        (Intake::Reads, [Some(BusyReason::ReadOnly), None, None, None]),
        (Intake::Endings, [Some(BusyReason::ReadOnly), Some(BusyReason::Full), None, None]),
        (
            Intake::Nothing,
            [BusyReason::ReadOnly, BusyReason::Full, BusyReason::Full, BusyReason::Full].map(Some),
        ),
    ] {
        let mut cluster = Cluster::new(4, 1, 1);
        let client = Client::open(&mut cluster, 0, CoreId(0), R0);
        let newcomer = Client::registering(&mut cluster, 1, CoreId(0), R1);
        cluster.run();
        cluster.step(R0, CoreId(0), Input::Intake(intake));
        let mut said = |number: u64, operations: Vec<Operation>| {
            let from = cluster.to_clients.len();
            client.send(&mut cluster, R0, number, &operations);
            let busy = cluster.to_clients[from..].iter().find(|(_, _, frame)| frame.kind() == Kind::Busy);
            busy.map(|(_, _, frame)| Busy::decode(frame.payload()).unwrap().reason)
        };
        let told =
            [said(1, vec![get("a"), set("a", 1)]), said(1, vec![get("a")]), said(1, vec![Operation::Void])];
        assert_eq!(told, expected[..3], "{intake:?}");
        let from = cluster.to_clients.len();
        let register = vec![Operation::Register { nonce: Nonce([9; 16]), recent: 1 }];
        newcomer.send(&mut cluster, R0, 0, &register);
        let busy = cluster.to_clients[from..].iter().find(|(_, _, frame)| frame.kind() == Kind::Busy);
        let told = busy.map(|(_, _, frame)| Busy::decode(frame.payload()).unwrap().reason);
        assert_eq!(told, expected[3], "{intake:?}");
        // With room again everything is taken.
        cluster.step(R0, CoreId(0), Input::Intake(Intake::All));
        cluster.run();
        let replies = client.replies(&cluster, R0).len();
        client.send(&mut cluster, R0, 2, &vec![set("a", 2)]);
        client.send(&mut cluster, R0, 1, &vec![set("a", 1)]);
        cluster.run();
        assert!(client.replies(&cluster, R0).len() > replies, "{intake:?}");
    }
}

#[test]
fn every_reject_has_a_label_that_is_listed_once() {
    use quorate_consensus::Reject as Consensus;
    let all = [
        Reject::Malformed(DecodeError::HeaderChecksum),
        Reject::ForeignBundle,
        Reject::BundleSignature,
        Reject::Busy,
        Reject::ForeignBatch,
        Reject::BatchGap,
        Reject::BatchFork,
        Reject::LaneBudget,
        Reject::LaneThrottled,
        Reject::FetchMismatch,
        Reject::StatePage,
        Reject::PageQuestions,
        Reject::Unasked,
        Reject::ConsensusSignature,
        Reject::Handshake,
        Reject::Consensus(Consensus::Parent),
        Reject::Consensus(Consensus::Epoch),
        Reject::Consensus(Consensus::Timestamp),
        Reject::Consensus(Consensus::Cut),
        Reject::Consensus(Consensus::Equivocation),
        Reject::Consensus(Consensus::DoubleVote),
        Reject::Consensus(Consensus::FetchMismatch),
        Reject::Consensus(Consensus::Certificate),
        Reject::Consensus(Consensus::NewView),
    ];
    let labels: Vec<&str> = all.iter().map(Reject::label).collect();
    assert_eq!(labels, Reject::LABELS);
}

/// The check waits for the end of the tick, and still costs the sender its connection, whoever is the primary.
#[test]
fn a_forged_proposal_is_refused() {
    let mut cluster = Cluster::new(4, 1, 1);
    let parent = header::genesis(cluster.config.digest()).digest;
    let (epoch, timestamp) = (cluster.config.epoch(), cluster.now);
    let header = Header { epoch, seq: Seq(1), parent, timestamp, cut: Vec::new() };
    let forged = PrePrepare { view: View(0), header, signature: Signature([7; 64]) };
    for from in [R0, R3] {
        cluster.inject(from, R1, &forged.encode());
        cluster.run();
        assert_eq!(cluster.closed_peers.pop(), Some((R1, from, Reject::ConsensusSignature)));
    }
    let client = Client::open(&mut cluster, 0, CoreId(0), R0);
    cluster.run();
    assert_eq!(client.replies(&cluster, R1).len(), 1);
}

/// A vote that completes nothing waits unverified; a second one for its slot tells that one of both is no vote.
#[test]
fn forged_votes_for_one_slot_are_refused() {
    let mut cluster = Cluster::new(4, 1, 1);
    let forged = |byte| {
        let (digests, signature) = (vec![Digest([9; 32])], Signature([byte; 64]));
        Prepare { view: View(0), lo: Seq(1), digests, signature }.encode()
    };
    cluster.inject(R3, R1, &forged(1));
    cluster.run();
    cluster.inject(R3, R1, &forged(1));
    cluster.run();
    assert_eq!(cluster.closed_peers, [], "it waits, and said again it says nothing new");
    cluster.inject(R3, R1, &forged(2));
    cluster.run();
    assert_eq!(cluster.closed_peers, [(R1, R3, Reject::ConsensusSignature)]);
    let client = Client::open(&mut cluster, 0, CoreId(0), R0);
    cluster.run();
    assert_eq!(client.replies(&cluster, R1).len(), 1);
}

/// A small frame may ask for a large answer: one burst gets one, and perhaps an empty one (lanes-2, lanes-8).
#[test]
fn a_flood_of_questions_in_one_burst_gets_one_answer() {
    let mut cluster = Cluster::new(4, 1, 1);
    let client = Client::open(&mut cluster, 0, CoreId(0), R0);
    cluster.run();
    for number in 1..=20 {
        client.send(&mut cluster, R0, number, &vec![set("a", 1)]);
        cluster.run();
    }
    let genesis = header::genesis(cluster.config.digest());
    let position = cluster.machine(R0).cores[0].audit().committed.unwrap();
    let status = Status {
        view: View(0),
        entered: true,
        stable: genesis,
        accepted: genesis,
        prepared: genesis,
        committed: genesis,
        executed: genesis,
    };
    let lane = LaneId { origin: R0, link: LinkId(0) };
    let start = LaneTip { lane, upto: LaneNumber(0), chain: Digest::ZERO };
    cluster.sent.clear();
    for _ in 0..200 {
        cluster.inject(R3, R0, &status.encode());
        cluster.inject(R3, R0, &FetchHeaders { last: position, above: Seq(0) }.encode());
        cluster.inject(R3, R0, &LaneAcks { full: true, tips: vec![start; 100] }.encode());
    }
    assert!(cluster.sent.is_empty(), "nothing before the end of the burst");
    cluster.run();
    let answers = cluster.sent_by(R0, Kind::FetchedHeaders);
    let headers = answers.iter().map(|frame| FetchedHeaders::decode(frame.payload()).unwrap().headers.len());
    // Whoever has given a question up counts what is still to come.
    assert_eq!(headers.collect::<Vec<_>>(), [0, 0, 0, 0, 21]);
    assert_eq!(cluster.sent_by(R0, Kind::Batch).len(), 21);
    assert!(cluster.sent.len() < 300, "{}", cluster.sent.len());
}

/// Writes long values until a state with them is durable, and asks r0 for its pages until one question wants many of
/// the values. Returns that question.
fn question_with_a_long_answer(cluster: &mut Cluster) -> FetchPages {
    let client = Client::open(cluster, 0, CoreId(0), R0);
    cluster.run();
    for number in 1..=12 {
        // Equal values would be one.
        let bytes = 200_000 + usize::try_from(number).expect("a small number");
        client.send(cluster, R0, number, &vec![set(&format!("key {number}"), bytes)]);
        cluster.run();
    }
    let root = cluster.machine(R0).checkpoint.as_ref().and_then(Frozen::known_root).expect("it is hashed");
    let options = TransferOptions { request_bytes: limits::FETCH_BYTES_MAX, ..TransferOptions::default() };
    let mut walk = Transfer::new(root, options);
    for _ in 0..100 {
        let PageRequest { number, root, wanted } = walk.request(cluster.now, R0).expect("more is wanted");
        let values = wanted.iter().filter(|name| name.entry.is_some()).count();
        let question = FetchPages { request: number, root, wanted };
        if values > 6 {
            return question;
        }
        cluster.sent.clear();
        cluster.inject(R3, R0, &question.encode());
        cluster.run();
        let answer = cluster.sent_by(R0, Kind::FetchedPages).pop().expect("an answer");
        let FetchedPages { request: number, root, top, pages, values } =
            FetchedPages::decode(answer.payload()).expect("an own frame");
        walk.on_answer(cluster.now, R0, &PageAnswer { number, root, top, pages, values }).expect("no lie");
    }
    panic!("no question wants many values");
}

/// The answer is a thousand times as long as the question.
#[test]
fn a_flood_of_questions_for_pages_gets_bounded_answers() {
    for cores in [1, 2] {
        let mut cluster = Cluster::with(4, 1, cores, |tuning| tuning.checkpoint_interval = 4);
        let question = question_with_a_long_answer(&mut cluster);
        let connections: Vec<_> =
            (0..4).map(|_| cluster.connect(R0, CoreId(0), &testing::client_key_number(1))).collect();
        cluster.sent.clear();
        cluster.to_clients.clear();
        cluster.largest_step_of_pages = 0;
        for peer in [R2, R3] {
            for _ in 0..100 {
                cluster.inject(peer, R0, &question.encode());
            }
        }
        for connection in &connections {
            cluster.client_frame(R0, *connection, &question.encode());
        }
        assert!(
            cluster.sent.is_empty() && cluster.to_clients.is_empty(),
            "nothing before the end of the burst"
        );
        // The true R2 and R3 have asked for nothing.
        let refused = |cluster: &Cluster| {
            let at_r0 = cluster.rejects.iter().filter(|(me, _)| *me == R0);
            at_r0.map(|(_, reject)| *reject).collect::<Vec<Reject>>()
        };
        assert_eq!(refused(&cluster), [Reject::PageQuestions; 196], "dropped where they arrive");
        assert_eq!(cluster.closed_peers, []);
        cluster.run();
        let answers = cluster.sent_by(R0, Kind::FetchedPages);
        assert_eq!(answers.len(), 4, "two of each peer");
        assert!(answers.iter().all(|answer| answer.bytes().len() > limits::FETCH_BYTES_MAX / 2));
        assert_eq!(cluster.to_clients.len(), connections.len());
        let largest = cluster.largest_step_of_pages;
        assert!(largest < 2 * limits::FETCH_BYTES_MAX, "{largest} bytes in one tick");
        // What is answered makes room, and who is gone is not answered.
        cluster.inject(R3, R0, &question.encode());
        cluster.inject(R2, R0, &question.encode());
        let link = LinkId(0);
        cluster.peer_input(R0, link, quorate_replica::Input::PeerDisconnected { peer: R2, link });
        cluster.run();
        assert_eq!(cluster.sent_by(R0, Kind::FetchedPages).len(), 5);
        assert_eq!(refused(&cluster).len(), 196);
    }
}

#[test]
fn questions_for_pages_wait_while_the_last_answer_is_queued() {
    for cores in [1, 2] {
        let mut cluster = Cluster::with(4, 1, cores, |tuning| tuning.checkpoint_interval = 4);
        let question = question_with_a_long_answer(&mut cluster);
        cluster.sent.clear();
        cluster.takes_nothing.insert(R2);
        let answers = |cluster: &Cluster, to: ReplicaId| {
            let is_one = |sent: &&Sent| (sent.to, sent.frame.kind()) == (to, Kind::FetchedPages);
            cluster.sent.iter().filter(is_one).count()
        };
        for asked in 1..=4 {
            for peer in [R2, R3] {
                cluster.inject(peer, R0, &question.encode());
            }
            cluster.run();
            assert_eq!((answers(&cluster, R2), answers(&cluster, R3)), (1, asked));
        }
        let refused = cluster.rejects.iter().filter(|reject| **reject == (R0, Reject::PageQuestions)).count();
        assert_eq!(refused, 1, "two wait");
        cluster.takes_nothing.clear();
        cluster.tell_taken();
        cluster.run();
        assert_eq!(answers(&cluster, R2), 3, "what waited is answered");
        // Who comes again owes nothing.
        cluster.takes_nothing.insert(R2);
        let link = LinkId(0);
        for connected in [4, 5] {
            cluster.inject(R2, R0, &question.encode());
            cluster.run();
            assert_eq!(answers(&cluster, R2), connected);
            cluster.peer_input(R0, link, quorate_replica::Input::PeerDisconnected { peer: R2, link });
            cluster.peer_input(R0, link, quorate_replica::Input::PeerConnected { peer: R2, link });
            cluster.run();
        }
    }
}

fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(Kind::ALL)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_of_a_peer_or_a_client_change_nothing(
        frames in prop::collection::vec((kind(), prop::collection::vec(any::<u8>(), 0..250), any::<bool>()), 1..12),
    ) {
        let mut cluster = Cluster::new(4, 1, 1);
        let stranger = cluster.connect(R0, CoreId(0), &testing::client_key_number(5));
        for (kind, payload, of_client) in frames {
            let frame = frame(kind, &payload);
            if of_client {
                cluster.client_frame(R0, stranger, &frame);
            } else {
                cluster.inject(R3, R0, &frame);
            }
        }
        cluster.wait(2);
        let client = Client::open(&mut cluster, 0, CoreId(0), R0);
        cluster.run();
        for replica in cluster.ids() {
            prop_assert_eq!(client.replies(&cluster, replica).len(), 1);
        }
    }

    /// Messages that are well formed and say anything.
    #[test]
    fn any_positions_of_a_peer_change_nothing(
        seqs in prop::collection::vec(prop_oneof![0u64..5, Just(u64::MAX), any::<u64>()], 6),
        digest in any::<[u8; 32]>(),
    ) {
        let mut cluster = Cluster::new(4, 1, 1);
        let at = |index: usize| Position { seq: Seq(seqs[index]), digest: Digest(digest) };
        let status = Status {
            view: View(seqs[0] % 2),
            entered: true,
            stable: at(1),
            accepted: at(2),
            prepared: at(3),
            committed: at(4),
            executed: at(5),
        };
        let lane = LaneId { origin: R1, link: LinkId(0) };
        let tips = vec![LaneTip { lane, upto: LaneNumber(seqs[0]), chain: Digest(digest) }];
        cluster.inject(R3, R0, &status.encode());
        cluster.inject(R3, R0, &FetchHeaders { last: at(1), above: Seq(seqs[2]) }.encode());
        cluster.inject(R3, R0, &LaneAcks { full: true, tips }.encode());
        cluster.inject(R3, R0, &quorate_wire::message::Commit { view: View(0), position: at(3) }.encode());
        cluster.wait(2);
        let client = Client::open(&mut cluster, 0, CoreId(0), R1);
        cluster.wait(2);
        for replica in cluster.ids() {
            prop_assert_eq!(client.replies(&cluster, replica).len(), 1);
        }
    }
}

#[test]
fn a_report_is_for_known_connections_only() {
    let mut cluster = Cluster::new(4, 1, 1);
    let connection = quorate_replica::ClientConnection { core: CoreId(0), number: 99 };
    cluster.client_frame(R0, connection, &ReportRequest { root: true, histograms: false }.encode());
    cluster.run();
    assert!(cluster.reports.is_empty());
}
