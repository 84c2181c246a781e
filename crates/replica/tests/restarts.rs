//! Replicas come back from their disks, or without them, and catch up (DESIGN sections 5 and 6).

mod cluster;

use cluster::*;
use quorate_journal::{CONSENSUS_JOURNAL, LostBatch, batch_journal};
use quorate_replica::{Found, Input, Record, Recovery, Reject};
use quorate_state::State;
use quorate_types::{CoreId, Digest, JournalId, LaneId, LaneNumber, LinkId, Lsn, ReplicaId, Tuning, Why};
use quorate_wire::message::{FetchBatches, Message};
use quorate_wire::{Kind, LaneTip, testing};

fn small(tuning: &mut Tuning) {
    tuning.checkpoint_interval = 4;
    tuning.window = 16;
    tuning.lane_bytes_kept_max = 600;
    tuning.headers_kept_max = 4;
}

fn write(cluster: &mut Cluster, client: &Client, home: ReplicaId, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        client.send(cluster, home, number, &vec![set(&format!("key {number}"), 10)]);
        cluster.wait(1);
    }
}

fn executed(cluster: &mut Cluster, replica: ReplicaId) -> u64 {
    let last = cluster.machine(replica).cores.len() - 1;
    cluster.machine(replica).cores[last].audit().executed.expect("the execution core").seq.0
}

#[test]
fn all_replicas_stop_at_once_and_go_on_where_they_were() {
    for cores in [1, 2] {
        let mut cluster = Cluster::with(4, 2, cores, small);
        let client = Client::open(&mut cluster, 0, CoreId(0), R1);
        cluster.run();
        write(&mut cluster, &client, R1, 1..=10);
        let before = executed(&mut cluster, R0);
        assert!(before >= 10, "{before}");
        for replica in cluster.ids() {
            cluster.crash(replica);
        }
        for replica in cluster.ids() {
            cluster.restart(replica, None);
        }
        cluster.wait(40);
        for replica in cluster.ids() {
            assert!(executed(&mut cluster, replica) >= before, "r{replica} has lost what was acknowledged");
        }
        let client = Client::open_again(&mut cluster, &client, CoreId(0));
        write(&mut cluster, &client, R1, 11..=12);
        cluster.wait(20);
        assert!(executed(&mut cluster, R0) > before, "operations flow");
        cluster.assert_equal_states();
    }
}

/// r3 is back from where it has missed what the others have trimmed, as a learner for that reason.
fn left_behind(cores: usize, tune: fn(&mut Tuning), learner: Option<&str>) -> (Cluster, Client) {
    let mut cluster = Cluster::with(4, 1, cores, tune);
    let client = Client::open(&mut cluster, 0, CoreId(0), R1);
    cluster.run();
    write(&mut cluster, &client, R1, 1..=3);
    cluster.crash(R3);
    write(&mut cluster, &client, R1, 4..=40);
    cluster.sent.clear();
    cluster.restart(R3, learner);
    (cluster, client)
}

#[test]
fn a_replica_that_misses_what_nobody_keeps_takes_over_a_certified_state() {
    for (learner, cores) in [(None, 1), (Some("its disk was lost"), 1), (None, 2)] {
        let (mut cluster, client) = left_behind(cores, small, learner);
        cluster.wait(60);
        assert!(!cluster.sent_by(R3, Kind::FetchPages).is_empty(), "pages were asked for");
        assert_eq!(executed(&mut cluster, R3), executed(&mut cluster, R0));
        cluster.assert_equal_states();
        cluster.sent.clear();
        write(&mut cluster, &client, R1, 41..=45);
        cluster.wait(20);
        let votes = cluster.sent_by(R3, Kind::Prepare).len();
        assert_eq!(votes == 0, learner.is_some(), "{votes} votes of {learner:?}");
        cluster.assert_equal_states();
        // It is a home for clients again, unless it is a learner.
        let client = Client::open_again(&mut cluster, &client, CoreId(0));
        let before = cluster.rejects.len();
        write(&mut cluster, &client, R3, 46..=46);
        cluster.wait(10);
        let declined = cluster.rejects[before..].contains(&(R3, Reject::Busy));
        assert_eq!(declined, learner.is_some(), "a bundle sent to r3 that is {learner:?}");
    }
}

/// Ten retransmission times are for what stands still for no reason that anybody knows. Here all others say at once that they
/// have nothing, of headers or of the batches of several of them.
#[test]
fn what_all_others_have_nothing_of_is_waited_for_no_longer() {
    let keeps_headers: fn(&mut Tuning) = |tuning| {
        small(tuning);
        (tuning.headers_kept_max, tuning.window) = (1_000, 1_000);
    };
    for (tune, cores) in [(small as fn(&mut Tuning), 1), (keeps_headers, 1), (keeps_headers, 2)] {
        let (mut cluster, _) = left_behind(cores, tune, None);
        let mut times = 0;
        while cluster.sent_by(R3, Kind::FetchPages).is_empty() {
            cluster.wait(1);
            times += 1;
            assert!(times <= 4, "of {cores} cores");
        }
        cluster.wait(20);
        assert_eq!(executed(&mut cluster, R3), executed(&mut cluster, R0));
        cluster.assert_equal_states();
    }
}

/// Whether a log of some replica holds batches.
fn holds_batches(cluster: &Cluster) -> bool {
    let mut records = cluster.machines.iter().flat_map(|machine| &machine.records);
    records.any(|(_, _, record)| matches!(record, Record::Batch(..)))
}

#[test]
fn another_number_of_cores_is_refused_while_logs_hold_batches_of_the_old_one() {
    for (before, after) in [(2, 1), (1, 2)] {
        let mut cluster = Cluster::with(4, 2, before, small);
        // On the core of the last link.
        let core = CoreId(u8::try_from(before - 1).unwrap());
        let clients = [0, 1].map(|number| Client::open(&mut cluster, number, core, R1));
        cluster.run();
        // A checkpoint may just have trimmed all of them.
        let mut number = 0;
        while !holds_batches(&cluster) {
            number += 1;
            assert!(number < 20, "batches are logged");
            clients.iter().for_each(|client| write(&mut cluster, client, R1, number..=number));
        }
        cluster.ids().into_iter().for_each(|replica| cluster.crash(replica));
        cluster.set_cores(after);
        let (setup, found) = (cluster.setup(R1), cluster.found(R1));
        let refused = Recovery::of(&setup, found).unwrap_err().to_string();
        let remedy =
            format!("another number of `cores` than {after}; start with the number of cores that was used");
        assert!(refused.contains(&remedy), "from {before} cores to {after}: {refused}");
    }
}

/// Others count on it, as on one that is intact.
#[test]
fn a_lost_batch_that_another_number_of_cores_has_acknowledged_is_refused_too() {
    let cluster = Cluster::with(4, 2, 2, small);
    let tip =
        LaneTip { lane: LaneId { origin: R1, link: LinkId(0) }, upto: LaneNumber(1), chain: Digest([7; 32]) };
    let recover = |core: u8, why| {
        let (journal, lsn) = (batch_journal(CoreId(core)), Lsn(1));
        let lost = vec![LostBatch { journal, lsn, tip, why }];
        Recovery::of(&cluster.setup(R0), Found { lost, ..Found::default() })
    };
    let refused = recover(1, Why::OwnLink).unwrap_err().to_string();
    assert!(refused.contains("another number of `cores` than 2"), "{refused}");
    for (core, why) in [(0, Why::OwnLink), (1, Why::Named)] {
        assert!(recover(core, why).is_ok(), "core {core}, {why:?}");
    }
}

/// Both copies of a vote go bad while the replica runs, long before its journal is trimmed there.
#[test]
fn what_goes_bad_of_the_votes_is_written_again_before_a_restart_can_miss_it() {
    let mut cluster = Cluster::with(4, 1, 1, small);
    let client = Client::open(&mut cluster, 0, CoreId(0), R1);
    cluster.run();
    write(&mut cluster, &client, R1, 1..=10);
    let (journal, bad) = (CONSENSUS_JOURNAL, cluster.appended(R3, CONSENSUS_JOURNAL));
    let is_bad = |(of, lsn, _): &(JournalId, Lsn, Record)| *of == journal && *lsn <= bad;
    assert!(cluster.machine(R3).records.iter().any(is_bad), "it is needed");
    cluster.step(R3, CoreId(0), Input::Lost { journal, lsn: bad });
    cluster.run();
    assert!(!cluster.machine(R3).records.iter().any(is_bad), "a restart does not need it");
    let before = executed(&mut cluster, R3);
    cluster.crash(R3);
    cluster.restart(R3, None);
    cluster.wait(20);
    assert!(executed(&mut cluster, R3) >= before);
    cluster.sent.clear();
    let client = Client::open_again(&mut cluster, &client, CoreId(0));
    write(&mut cluster, &client, R1, 11..=15);
    cluster.wait(10);
    assert!(!cluster.sent_by(R3, Kind::Prepare).is_empty(), "it votes");
    cluster.assert_equal_states();
}

#[test]
fn with_no_batches_in_the_logs_replicas_go_on_with_any_number_of_cores() {
    let mut cluster = Cluster::with(4, 2, 2, small);
    let mut client = Client::open(&mut cluster, 0, CoreId(1), R1);
    let mut number = 0;
    for cores in [1, 3, 2] {
        let deadline = number + 20;
        while number == 0 || holds_batches(&cluster) {
            number += 1;
            assert!(number < deadline, "the logs are trimmed up to the last checkpoint");
            write(&mut cluster, &client, R1, number..=number);
            cluster.wait(5);
        }
        let before = executed(&mut cluster, R0);
        cluster.ids().into_iter().for_each(|replica| cluster.crash(replica));
        cluster.set_cores(cores);
        cluster.ids().into_iter().for_each(|replica| cluster.restart(replica, None));
        cluster.wait(40);
        client = Client::open_again(&mut cluster, &client, CoreId(0));
        number += 1;
        write(&mut cluster, &client, R1, number..=number);
        cluster.wait(20);
        assert!(executed(&mut cluster, R0) > before, "operations flow on {cores} cores");
        cluster.assert_equal_states();
    }
}

/// The log knows by name what it cannot give back, and the lanes hear of it, on whatever core they are.
#[test]
fn a_batch_that_went_bad_is_asked_for_by_the_name_that_the_log_has() {
    for (cores, link) in [(1, 0), (2, 0), (2, 1)] {
        let mut cluster = Cluster::with(4, 2, cores, small);
        cluster.run();
        cluster.crash(R0);
        let core = CoreId(link % u8::try_from(cores).unwrap());
        let (journal, lane) = (batch_journal(core), LaneId { origin: R1, link: LinkId(link) });
        let tip = LaneTip { lane, upto: LaneNumber(1), chain: Digest([7; 32]) };
        let machine = cluster.machine(R0);
        machine.lost = vec![LostBatch { journal, lsn: Lsn(1), tip, why: Why::OwnLink }];
        machine.journals.insert(journal, (core, Lsn(1), Lsn(1)));
        cluster.restart(R0, None);
        cluster.wait(2);
        let asked = cluster.sent_by(R0, Kind::FetchBatches);
        let asked = asked.iter().map(|frame| FetchBatches::decode(frame.payload()).unwrap());
        assert!(asked.into_iter().any(|asked| (asked.lane, asked.chain) == (lane, tip.chain)), "{lane}");
    }
}

#[test]
fn who_has_lost_the_state_that_a_cluster_began_with_executes_nothing_before_it_has_another() {
    // A client more than the configuration names, so that it is not the empty state.
    let keys = (0..9).map(|number| *testing::client_key_number(number).public().as_bytes());
    let state = State::new(keys).freeze();
    let mut cluster = Cluster::restored(4, &state, |tuning| tuning.checkpoint_interval = 4);
    let client = Client::open(&mut cluster, 0, CoreId(0), R1);
    cluster.run();
    write(&mut cluster, &client, R1, 1..=10);
    cluster.crash(R3);
    assert!(cluster.found(R3).certificate().is_some(), "its log names a certified state");
    cluster.machine(R3).checkpoint = None;
    write(&mut cluster, &client, R1, 11..=20);
    cluster.sent.clear();
    cluster.restart(R3, None);
    // The others have all headers and batches from the first on, and hand them out.
    cluster.wait(60);
    assert!(!cluster.sent_by(R3, Kind::FetchPages).is_empty(), "it has taken over a state");
    assert_eq!(executed(&mut cluster, R3), executed(&mut cluster, R0));
    write(&mut cluster, &client, R1, 21..=30);
    cluster.wait(20);
    cluster.assert_equal_states();
}
