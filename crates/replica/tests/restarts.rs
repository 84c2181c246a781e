//! Replicas come back from their disks, or without them, and catch up (DESIGN sections 5 and 6).

mod cluster;

use cluster::*;
use quorate_replica::Reject;
use quorate_types::{CoreId, ReplicaId, Tuning};
use quorate_wire::Kind;

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

#[test]
fn a_replica_that_misses_what_nobody_keeps_takes_over_a_certified_state() {
    for (learner, cores) in [(None, 1), (Some("its disk was lost"), 1), (None, 2)] {
        let mut cluster = Cluster::with(4, 1, cores, small);
        let client = Client::open(&mut cluster, 0, CoreId(0), R1);
        cluster.run();
        write(&mut cluster, &client, R1, 1..=3);
        cluster.crash(R3);
        write(&mut cluster, &client, R1, 4..=40);
        cluster.sent.clear();
        cluster.restart(R3, learner);
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
