//! The way of a request through all roles, on one core and on several.

mod cluster;

use cluster::*;
use quorate_types::{CoreId, Operation, SessionId, Stage, limits};

/// A bundle to each home in turn: every replica replies alike, the home with the results.
fn every_replica_replies(links: u8, cores: usize) {
    let mut cluster = Cluster::new(4, links, cores);
    for home in cluster.ids() {
        let with_links = u8::try_from(cores.min(usize::from(links))).expect("few cores");
        let client = Client::open(&mut cluster, home.0, CoreId(home.0 % with_links), home);
        client.send(&mut cluster, home, 1, &vec![set("a", 10), get("a")]);
        cluster.run();
        for replica in cluster.ids() {
            let replies = client.replies(&cluster, replica);
            let seen: Vec<_> = replies.iter().map(|reply| (reply.number, reply.with_results)).collect();
            assert_eq!(seen, [(0, true), (1, replica == home)], "{links} links, {cores} cores");
            let at_home = client.replies(&cluster, home);
            let same = replies
                .iter()
                .zip(&at_home)
                .all(|(one, other)| (one.seq, one.digest) == (other.seq, other.digest));
            assert!(same);
        }
    }
    assert!(cluster.rejects.is_empty(), "{:?}", cluster.rejects);
    cluster.assert_equal_states();
    assert!(cluster.operations.values().all(|operations| *operations == 4 * 3));
    // The two bundles of each home, the first of which opens the session, have passed every stage there once.
    for home in cluster.ids() {
        for stage in Stage::ALL {
            assert_eq!(cluster.stages.get(&(home, stage)), Some(&2), "{stage:?} of r{home}, {cores} cores");
        }
    }
}

#[test]
fn on_one_core() {
    every_replica_replies(1, 1);
    every_replica_replies(3, 1);
}

#[test]
fn on_two_cores() {
    every_replica_replies(1, 2);
    every_replica_replies(2, 2);
}

#[test]
fn on_three_cores_and_more() {
    every_replica_replies(1, 3);
    every_replica_replies(2, 3);
    every_replica_replies(3, 3);
    every_replica_replies(5, 3);
    every_replica_replies(2, 5);
}

#[test]
fn a_cluster_of_one_answers_itself() {
    let mut cluster = Cluster::new(1, 1, 1);
    let client = Client::open(&mut cluster, 0, CoreId(0), R0);
    client.send(&mut cluster, R0, 1, &vec![set("a", 10)]);
    cluster.run();
    assert_eq!(client.replies(&cluster, R0).len(), 2);
}

#[test]
fn a_bundle_sent_to_two_homes_is_executed_once_and_answered_alike() {
    let mut cluster = Cluster::new(4, 1, 1);
    let client = Client::open(&mut cluster, 0, CoreId(0), R0);
    cluster.run();
    let before = cluster.operations.clone();
    client.send(&mut cluster, R1, 1, &vec![set("a", 10)]);
    client.send(&mut cluster, R2, 1, &vec![set("a", 10)]);
    client.send(&mut cluster, R2, 1, &vec![set("a", 10)]);
    cluster.run();
    for replica in cluster.ids() {
        assert_eq!(cluster.operations[&replica], before[&replica] + 1);
        let replies: Vec<_> =
            client.replies(&cluster, replica).into_iter().filter(|reply| reply.number == 1).collect();
        assert_eq!(replies.len(), 3);
        assert!(replies.iter().all(|reply| (reply.seq, reply.digest) == (replies[0].seq, replies[0].digest)));
    }
}

#[test]
fn three_of_four_replicas_suffice_and_two_do_not() {
    let mut cluster = Cluster::new(4, 1, 1);
    cluster.machine(R3).crashed = true;
    let client = Client::open(&mut cluster, 0, CoreId(0), R1);
    cluster.run();
    assert_eq!(client.replies(&cluster, R0).len(), 1);
    cluster.machine(R2).crashed = true;
    client.send(&mut cluster, R1, 1, &vec![set("a", 10)]);
    cluster.wait(20);
    assert_eq!(client.replies(&cluster, R0).len(), 1);
    cluster.machine(R2).crashed = false;
    cluster.wait(20);
    assert_eq!(client.replies(&cluster, R0).len(), 2, "it goes on by itself");
    assert_eq!(client.replies(&cluster, R2).len(), 2);
}

#[test]
fn a_connection_that_is_gone_or_attached_elsewhere_gets_no_reply() {
    let mut cluster = Cluster::new(4, 2, 3);
    let client = Client::open(&mut cluster, 0, CoreId(1), R0);
    cluster.run();
    let gone = client.connections[1];
    cluster.step(R1, gone.core, quorate_replica::Input::ClientDisconnected { connection: gone });
    let elsewhere = client.connections[2];
    cluster.client_frame(
        R2,
        elsewhere,
        &quorate_wire::message::Message::encode(&quorate_wire::message::Attach {
            nonce: quorate_types::Nonce([2; 16]),
            session: quorate_types::SessionId::NONE,
        }),
    );
    client.send(&mut cluster, R0, 1, &vec![set("a", 10)]);
    cluster.run();
    let count = |cluster: &Cluster, replica| client.replies(cluster, replica).len();
    assert_eq!(cluster.ids().map_counts(|replica| count(&cluster, replica)), [2, 1, 1, 2]);
    // Frames of a connection that is gone are not looked at.
    client.send(&mut cluster, R1, 2, &vec![set("a", 10)]);
    cluster.run();
    assert_eq!(count(&cluster, R0), 2);
}

/// However many connections a key opens for a session, each reply is sent once.
#[test]
fn the_newest_connection_of_a_session_replaces_the_one_before() {
    let mut cluster = Cluster::new(4, 2, 3);
    let before = Client::open(&mut cluster, 0, CoreId(1), R0);
    cluster.run();
    let after = Client::open_again(&mut cluster, &before, CoreId(0));
    cluster.run();
    let replaced = |client: &Client| {
        let ids = [R0, R1, R2, R3].into_iter();
        ids.zip(client.connections.iter().copied()).collect::<Vec<_>>()
    };
    let mut told = cluster.replaced_clients.clone();
    told.sort_unstable();
    assert_eq!(told, replaced(&before));
    let count = before.replies(&cluster, R0).len();
    after.send(&mut cluster, R0, 1, &vec![set("a", 10)]);
    cluster.run();
    assert_eq!(before.replies(&cluster, R0).len(), count);
    assert_eq!(after.replies(&cluster, R0).len(), 1);
    // The end of the older one, which comes late, takes nothing from the newer one.
    for (replica, connection) in replaced(&before) {
        cluster.step(replica, connection.core, quorate_replica::Input::ClientDisconnected { connection });
    }
    after.send(&mut cluster, R0, 2, &vec![set("a", 10)]);
    cluster.run();
    assert_eq!(after.replies(&cluster, R0).len(), 2);
    assert_eq!(cluster.replaced_clients.len(), 4);
}

#[test]
fn a_registration_that_is_repeated_takes_nothing_from_a_newer_connection() {
    let mut cluster = Cluster::new(4, 2, 3);
    let first = Client::open(&mut cluster, 0, CoreId(1), R0);
    let unopened = Client { key: first.key.clone(), session: SessionId::NONE, connections: Vec::new() };
    let older = Client::open_again(&mut cluster, &unopened, CoreId(1));
    cluster.run();
    let newer = Client::open_again(&mut cluster, &first, CoreId(0));
    cluster.run();
    cluster.replaced_clients.clear();
    older.send(&mut cluster, R0, 0, &vec![Operation::Register { nonce: NONCE, recent: 0 }]);
    cluster.run();
    assert_eq!(cluster.replaced_clients.len(), 4);
    assert!(cluster.replaced_clients.iter().all(|(_, connection)| older.connections.contains(connection)));
    newer.send(&mut cluster, R0, 1, &vec![set("a", 10)]);
    cluster.run();
    assert_eq!(newer.replies(&cluster, R0).len(), 1);
}

trait MapCounts {
    fn map_counts(self, count: impl Fn(quorate_types::ReplicaId) -> usize) -> Vec<usize>;
}

impl MapCounts for Vec<quorate_types::ReplicaId> {
    fn map_counts(self, count: impl Fn(quorate_types::ReplicaId) -> usize) -> Vec<usize> {
        self.into_iter().map(count).collect()
    }
}

#[test]
fn a_report_goes_through_all_roles_and_back() {
    for (links, cores) in [(1, 1), (2, 3), (1, 3)] {
        let mut cluster = Cluster::new(4, links, cores);
        let client = Client::open(&mut cluster, 0, CoreId(0), R2);
        client.send(&mut cluster, R2, 1, &vec![set("a", 10)]);
        cluster.run();
        for root in [false, true] {
            let request = quorate_wire::message::ReportRequest { root, histograms: !root };
            let frame = quorate_wire::message::Message::encode(&request);
            cluster.client_frame(R1, client.connections[1], &frame);
            cluster.run();
            let (replica, connection, report) = cluster.reports.pop().expect("a report");
            assert_eq!((replica, connection), (R1, client.connections[1]));
            assert_eq!((report.execution.root.is_some(), report.extras.histograms), (root, !root));
            assert_eq!(report.execution.executed, report.ordering.committed);
            assert_eq!((report.execution.sessions, report.execution.user_keys), (1, 1));
            assert_eq!(report.ordering.primary, R0);
            assert_eq!(report.ordering.peers_committed.len(), 3);
            assert!(!report.execution.waits_for_batches);
        }
        assert!(cluster.reports.is_empty());
    }
}

/// Replies are larger than the bundles that ask for them: a turn is bounded by both (lanes-3).
#[test]
fn a_turn_of_execution_is_bounded_in_bundles_and_replies() {
    let mut cluster = Cluster::new(4, 1, 1);
    let client = Client::open(&mut cluster, 0, CoreId(0), R0);
    client.send(&mut cluster, R0, 1, &vec![set("a", 250_000), set("b", 250_000), set("c", 250_000)]);
    cluster.run();
    for number in 2..=30 {
        client.send(&mut cluster, R0, number, &vec![get("a"), get("b"), get("c")]);
    }
    cluster.run();
    let replies = client.replies(&cluster, R0);
    assert_eq!(replies.iter().map(|reply| reply.number).collect::<Vec<_>>(), (0..=30).collect::<Vec<_>>());
    let seqs: std::collections::BTreeSet<u64> = replies[2..].iter().map(|reply| reply.seq).collect();
    assert!(seqs.len() < 29, "several bundles of one header: {seqs:?}");
    assert!(cluster.largest_step_to_clients < 3_000_000, "{}", cluster.largest_step_to_clients);
    cluster.assert_equal_states();
}

#[test]
fn a_drained_peer_catches_up() {
    for (links, cores) in [(1, 1), (2, 2)] {
        let mut cluster = Cluster::new(4, links, cores);
        let client = Client::open(&mut cluster, 0, CoreId(0), R1);
        cluster.run();
        // r1's queue to everyone overflows: its batch, the last for a while, is lost.
        for to in [R0, R2, R3] {
            cluster.cut.insert((R1, to));
        }
        client.send(&mut cluster, R1, 1, &vec![set("a", 10)]);
        cluster.run();
        cluster.cut.clear();
        for peer in [R0, R2, R3] {
            for link in cluster.config.link_ids().collect::<Vec<_>>() {
                cluster.peer_input(R1, link, quorate_replica::Input::PeerDrained { peer, link });
            }
        }
        cluster.wait(3);
        for replica in cluster.ids() {
            assert_eq!(client.replies(&cluster, replica).len(), 2, "r{replica}, {cores} cores");
        }
    }
}

#[test]
fn a_replica_that_was_cut_off_catches_up_with_headers_and_batches() {
    let mut cluster = Cluster::new(4, 2, 3);
    for peer in [R0, R1, R2] {
        cluster.cut.insert((R3, peer));
        cluster.cut.insert((peer, R3));
    }
    let client = Client::open(&mut cluster, 0, CoreId(0), R1);
    for number in 1..=40 {
        client.send(&mut cluster, R1, number, &vec![set("a", 1000)]);
        cluster.run();
    }
    assert_eq!(client.replies(&cluster, R0).len(), 41);
    assert!(client.replies(&cluster, R3).is_empty());
    cluster.cut.clear();
    cluster.wait(40);
    assert_eq!(client.replies(&cluster, R3).len(), 41);
    cluster.assert_equal_states();
}

#[test]
fn a_report_that_waits_for_its_pace_comes_without_any_other_input() {
    let mut cluster = Cluster::new(4, 1, 2);
    let client = Client::open(&mut cluster, 0, CoreId(0), R2);
    cluster.run();
    let request = quorate_wire::message::ReportRequest { root: false, histograms: false };
    let frame = quorate_wire::message::Message::encode(&request);
    for asked in 1..=2 {
        cluster.client_frame(R1, client.connections[1], &frame);
        cluster.run();
        assert_eq!(cluster.reports.len(), 1, "{asked} asked for");
    }
    let due = cluster.now.plus(2 * limits::REPORT_PACE.0);
    assert_eq!(cluster.machine(R1).cores[0].deadline(), Some(due));
    cluster.now = due;
    cluster.step(R1, CoreId(0), quorate_replica::Input::TickEnd);
    cluster.run();
    assert_eq!(cluster.reports.len(), 2);
}
