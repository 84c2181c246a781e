//! Nothing passes the gate before what it depends on is durable (DESIGN section 5, table).

mod cluster;

use cluster::*;
use quorate_journal::{CONSENSUS_JOURNAL, batch_journal};
use quorate_types::{CoreId, Lsn};
use quorate_wire::Kind;
use quorate_wire::message::{LaneAcks, Message};

/// Acknowledgements of anything in the frames that r1 sent.
fn acknowledged(cluster: &Cluster) -> u64 {
    let highest = |frame: quorate_wire::Frame| {
        let acks = LaneAcks::decode(frame.payload()).expect("own acknowledgements");
        acks.tips.iter().map(|tip| tip.upto.0).max().unwrap_or(0)
    };
    cluster.sent_by(R1, Kind::LaneAcks).into_iter().map(highest).max().unwrap_or(0)
}

fn votes(cluster: &Cluster) -> (usize, usize) {
    (cluster.sent_by(R1, Kind::Prepare).len(), cluster.sent_by(R1, Kind::Commit).len())
}

#[test]
fn each_row_of_the_table_waits_for_its_own_records() {
    let mut cluster = Cluster::new(4, 1, 1);
    cluster.machine(R1).slow = true;
    let client = Client::open(&mut cluster, 0, CoreId(0), R0);
    cluster.wait(4);
    assert_eq!(client.replies(&cluster, R0).len(), 1, "the others are a quorum");
    assert_eq!(client.replies(&cluster, R1).len(), 1, "and r1 learns what they committed");
    let batches = batch_journal(CoreId(0));
    assert_eq!((cluster.appended(R1, batches), acknowledged(&cluster), votes(&cluster)), (Lsn(1), 0, (0, 0)));

    cluster.make_durable(R1, CONSENSUS_JOURNAL, Lsn(1));
    cluster.run();
    assert_eq!((acknowledged(&cluster), votes(&cluster)), (0, (0, 0)), "PREPARE waits for the batch too");

    cluster.make_durable(R1, batches, Lsn(1));
    cluster.run();
    assert_eq!(acknowledged(&cluster), 1, "acknowledged when durable");
    assert_eq!(votes(&cluster).0, 3, "PREPARE to each of the others");
    let commits = votes(&cluster).1;
    assert_eq!(commits, 0, "COMMIT waits for its certificate");
    let end = cluster.appended(R1, CONSENSUS_JOURNAL);
    cluster.make_durable(R1, CONSENSUS_JOURNAL, end);
    cluster.run();
    assert!(end == Lsn(1) || votes(&cluster).1 >= 3, "COMMIT leaves with it");
}

#[test]
fn accept_alone_holds_the_prepare_back() {
    let mut cluster = Cluster::new(4, 1, 1);
    cluster.machine(R1).slow = true;
    let _client = Client::open(&mut cluster, 0, CoreId(0), R0);
    cluster.run();
    cluster.make_durable(R1, batch_journal(CoreId(0)), Lsn(1));
    cluster.run();
    assert_eq!((acknowledged(&cluster), votes(&cluster)), (1, (0, 0)));
    cluster.make_durable(R1, CONSENSUS_JOURNAL, Lsn(1));
    cluster.run();
    assert_eq!(votes(&cluster).0, 3);
}

/// With a batch on one core and the vote on another, the other core's journal counts too.
#[test]
fn a_prepare_waits_for_the_journals_of_other_cores() {
    let mut cluster = Cluster::new(4, 2, 2);
    cluster.machine(R1).slow = true;
    let client = Client::open(&mut cluster, 0, CoreId(1), R0);
    cluster.run();
    let batches = batch_journal(CoreId(1));
    assert_eq!(cluster.appended(R1, batches), Lsn(1), "the batch travelled on link 1");
    cluster.make_durable(R1, CONSENSUS_JOURNAL, Lsn(1));
    cluster.run();
    assert_eq!((acknowledged(&cluster), votes(&cluster)), (0, (0, 0)));
    cluster.make_durable(R1, batches, Lsn(1));
    cluster.run();
    assert_eq!((acknowledged(&cluster), votes(&cluster).0), (1, 3));
    assert_eq!(client.replies(&cluster, R2).len(), 1);
}

/// Own votes and own acknowledgements count when they are durable, not before.
#[test]
fn a_quorum_does_not_count_what_its_own_disk_may_lose() {
    let mut cluster = Cluster::new(4, 1, 1);
    cluster.machine(R3).crashed = true;
    cluster.machine(R1).slow = true;
    let client = Client::registering(&mut cluster, 0, CoreId(0), R0);
    cluster.wait(10);
    assert!(client.replies(&cluster, R0).is_empty());
    assert!(client.replies(&cluster, R1).is_empty(), "r1 does not even count itself");
    cluster.machine(R1).slow = false;
    cluster.wait(3);
    assert_eq!(client.replies(&cluster, R0).len(), 1);
    assert_eq!(client.replies(&cluster, R1).len(), 1);

    let mut cluster = Cluster::new(1, 1, 1);
    cluster.machine(R0).slow = true;
    let client = Client::registering(&mut cluster, 0, CoreId(0), R0);
    cluster.wait(10);
    assert!(client.replies(&cluster, R0).is_empty());
    cluster.machine(R0).slow = false;
    cluster.run();
    assert_eq!(client.replies(&cluster, R0).len(), 1);
}

/// Votes sent again do not pile up behind a slow disk (lanes-8).
#[test]
fn the_gate_holds_each_vote_once() {
    let mut cluster = Cluster::new(4, 1, 1);
    cluster.machine(R1).slow = true;
    let _client = Client::open(&mut cluster, 0, CoreId(0), R0);
    cluster.run();
    let held = cluster.machine(R1).cores[0].audit().held_effects;
    assert!(held > 0);
    let genesis = quorate_wire::header::genesis(cluster.config.digest());
    let status = quorate_wire::message::Status {
        view: quorate_types::View(0),
        entered: true,
        stable: genesis,
        accepted: genesis,
        prepared: genesis,
        committed: genesis,
        executed: genesis,
    };
    for _ in 0..100 {
        cluster.inject(R3, R1, &status.encode());
        cluster.run();
    }
    assert_eq!(cluster.machine(R1).cores[0].audit().held_effects, held);
    assert_eq!(votes(&cluster).0, 0);
    cluster.machine(R1).slow = false;
    cluster.wait(2);
    assert!(votes(&cluster).0 >= 3);
    assert_eq!(cluster.machine(R1).cores[0].audit().held_effects, 0);
}
