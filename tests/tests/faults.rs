//! Bad luck with real processes: stopped and killed replicas, lost homes, several cores.

use quorate_tests::cluster::{Cluster, Load, wait_for};
use quorate_types::ReplicaId;
use rustix::process::{Resource, Rlimit, Signal, prlimit};
use std::time::{Duration, Instant};

/// How long a stopped replica is left behind.
const STOPPED: Duration = Duration::from_secs(30);
/// By how much the memory of the others may grow meanwhile, besides the queue to the stopped one.
const GROWTH_BYTES_MAX: u64 = 256 * 1024 * 1024;

fn resident(cluster: &Cluster, replica: usize) -> u64 {
    cluster.report(replica, false)["costs"]["rss_bytes"].as_u64().expect("a number")
}

#[test]
fn a_stopped_replica_neither_stops_the_others_nor_grows_them_without_bound() {
    let cluster = Cluster::start(4);
    let load = Load::start(&cluster, 0, ReplicaId(1), 50);
    wait_for("the load runs", || (load.completed() > 50).then_some(()));
    let before = resident(&cluster, 0);
    cluster.signal(3, Signal::STOP);
    let end = Instant::now() + STOPPED;
    while Instant::now() < end {
        let completed = load.completed();
        wait_for("operations flow while a replica is stopped", || {
            (load.completed() > completed + 20).then_some(())
        });
    }
    for replica in 0..3 {
        let after = resident(&cluster, replica);
        assert!(after < before + GROWTH_BYTES_MAX, "replica {replica} grew from {before} to {after} bytes");
    }
    // What it missed is more than the others keep, and there is no state transfer yet: it must not do harm.
    cluster.signal(3, Signal::CONT);
    let completed = load.completed();
    wait_for("operations flow beside a replica far behind", || {
        (load.completed() > completed + 50).then_some(())
    });
    load.stop();
    cluster.assert_equal_roots(&[0, 1, 2]);
}

#[test]
fn a_replica_that_was_stopped_for_a_while_catches_up() {
    let cluster = Cluster::start(4);
    let load = Load::start(&cluster, 0, ReplicaId(1), 5);
    wait_for("the load runs", || (load.completed() > 20).then_some(()));
    cluster.signal(3, Signal::STOP);
    let completed = load.completed();
    wait_for("operations flow without it", || (load.completed() > completed + 500).then_some(()));
    cluster.signal(3, Signal::CONT);
    wait_for("operations flow with it", || (load.completed() > completed + 600).then_some(()));
    load.stop();
    cluster.assert_equal_roots(&[0, 1, 2, 3]);
}

#[test]
fn a_client_goes_on_when_its_home_dies() {
    let mut cluster = Cluster::start(4);
    let load = Load::start(&cluster, 0, ReplicaId(3), 10);
    wait_for("the load runs", || (load.completed() > 20).then_some(()));
    cluster.kill(3);
    let completed = load.completed();
    wait_for("the client has found another home", || (load.completed() > completed + 20).then_some(()));
    load.stop();
    cluster.assert_equal_roots(&[0, 1, 2]);
}

#[test]
fn several_cores_and_links_shard_the_work() {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if cpus < 2 {
        println!("skipped: several_cores_and_links_shard_the_work needs 2 CPUs, there is {cpus}");
        return;
    }
    for (links, cores) in [("2", "cores = [0, 1]"), ("1", "cores = [0, 1]"), ("3", "cores = [1, 0]")] {
        let mut cluster = Cluster::prepare(4, &["--links", links]);
        for replica in 0..4 {
            cluster.edit(replica, |text| format!("{cores}\n{text}"));
            cluster.start_replica(replica);
        }
        let loads: Vec<Load> =
            (0..3u8).map(|client| Load::start(&cluster, client.into(), ReplicaId(client), 10)).collect();
        for load in loads {
            wait_for("operations flow", || (load.completed() > 50).then_some(()));
            load.stop();
        }
        cluster.assert_equal_roots(&[0, 1, 2, 3]);
    }
}

/// Four replicas of two polling threads each, and four of eight threads each, all on the same two CPUs.
#[test]
fn many_threads_on_two_cpus_neither_block_nor_burn_each_other() {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if cpus < 2 {
        println!(
            "skipped: many_threads_on_two_cpus_neither_block_nor_burn_each_other needs 2 CPUs, there is {cpus}"
        );
        return;
    }
    for (links, cores) in [("2", "cores = [0, 1]"), ("8", "cores = [0, 1, 0, 1, 0, 1, 0, 1]")] {
        let mut cluster = Cluster::prepare(4, &["--links", links]);
        for replica in 0..4 {
            cluster.edit(replica, |text| format!("{cores}\n{}", text.replace("spin_us = 0", "spin_us = 20")));
            cluster.start_replica(replica);
        }
        let loads: Vec<Load> =
            (0..2u8).map(|client| Load::start(&cluster, client.into(), ReplicaId(client), 10)).collect();
        for load in loads {
            wait_for("operations flow", || (load.completed() > 50).then_some(()));
            load.stop();
        }
        cluster.assert_equal_roots(&[0, 1, 2, 3]);
        // Nothing is open any more: whoever still uses much of a CPU is spinning.
        let costs = |name: &str| cluster.report(0, false)["costs"][name].as_u64().expect("a number");
        let mut last = (costs("cpu_us"), costs("uptime_ms"));
        wait_for("idle replicas leave the CPUs alone", || {
            let (used, up) = (costs("cpu_us"), costs("uptime_ms"));
            if up < last.1 + 300 {
                return None;
            }
            let share = (used - last.0) as f64 / 1000.0 / (up - last.1) as f64;
            last = (used, up);
            (share < 0.25).then_some(())
        });
    }
}

#[test]
fn a_replica_that_starts_late_catches_up() {
    let mut cluster = Cluster::prepare(4, &[]);
    for replica in 0..3 {
        cluster.start_replica(replica);
    }
    let load = Load::start(&cluster, 0, ReplicaId(1), 20);
    wait_for("operations flow with three of four", || (load.completed() > 100).then_some(()));
    cluster.start_replica(3);
    load.stop();
    cluster.assert_equal_roots(&[0, 1, 2, 3]);
}

#[test]
fn replicas_end_in_order_on_sigterm() {
    let mut cluster = Cluster::start(4);
    cluster.assert_works();
    for replica in 0..4 {
        assert_eq!(cluster.stop(replica), Some(0), "{}", cluster.log(replica));
    }
}

#[test]
fn a_replica_whose_log_cannot_be_written_stops_at_once_and_says_why() {
    let mut cluster = Cluster::start(4);
    let load = Load::start(&cluster, 0, ReplicaId(1), 5);
    wait_for("the load runs", || (load.completed() > 20).then_some(()));
    // As a failing disk would: from now on no write beyond the first part of a file succeeds, which is enough for what
    // it has to say.
    let limit = Rlimit { current: Some(256 << 10), maximum: Some(256 << 10) };
    prlimit(Some(cluster.process(3)), Resource::Fsize, limit).expect("our own child");
    let code = cluster.wait_for_end(3);
    assert_eq!(code, Some(1));
    let log = cluster.log(3);
    let line = log.lines().find(|line| line.starts_with("quorate: ")).unwrap_or_default();
    for part in ["/data-3/log-0/", ".segment: cannot write to it", "File too large", "check the disk"] {
        assert!(line.contains(part), "no {part:?} in {log}");
    }
    let completed = load.completed();
    wait_for("operations flow without it", || (load.completed() > completed + 20).then_some(()));
    load.stop();
}
