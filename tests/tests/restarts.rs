//! Nothing that was acknowledged is lost: kill −9 of one, of some and of all, under load.

use quorate_tests::cluster::{Cluster, wait_for};
use quorate_tests::recorder::{Acknowledged, Recorder, assert_all_there};
use quorate_types::ReplicaId;

/// How many rounds of killing a random subset the test does; `scripts/kill-rounds` asks for 100.
const ROUNDS_VARIABLE: &str = "QUORATE_KILL_ROUNDS";
const ROUNDS: u64 = 5;

/// The next number of a sequence that looks like chance; the same in every run, so that a failure can be repeated.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

fn finish(cluster: &Cluster, recorders: Vec<Recorder>) -> Vec<Acknowledged> {
    let acknowledged: Vec<Acknowledged> = recorders.into_iter().flat_map(Recorder::finish).collect();
    assert_all_there(cluster, 3, &acknowledged);
    acknowledged
}

/// Waits until every recorder has completed `more` bundles.
fn wait_for_progress(what: &str, recorders: &[Recorder], more: u64) {
    let before: Vec<u64> = recorders.iter().map(Recorder::completed).collect();
    wait_for(what, || {
        let after = recorders.iter().map(Recorder::completed);
        before.iter().zip(after).all(|(before, after)| after >= before + more).then_some(())
    });
}

#[test]
fn the_primary_is_killed_and_operations_go_on_and_it_comes_back() {
    let mut cluster = Cluster::start(4);
    let recorders =
        vec![Recorder::start(&cluster, 0, ReplicaId(1)), Recorder::start(&cluster, 1, ReplicaId(0))];
    wait_for_progress("the load runs", &recorders, 20);
    cluster.kill(0);
    wait_for_progress("operations flow without the first primary", &recorders, 20);
    let view = cluster.report(1, false)["view"].as_u64().expect("a number");
    assert!(view >= 1, "the view changed");
    cluster.start_replica(0);
    wait_for_progress("operations flow with the old primary back", &recorders, 20);
    finish(&cluster, recorders);
    cluster.assert_equal_roots(&[0, 1, 2, 3]);
}

#[test]
fn all_replicas_lose_power_at_once_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start(4);
    let recorders =
        vec![Recorder::start(&cluster, 0, ReplicaId(1)), Recorder::start(&cluster, 1, ReplicaId(2))];
    wait_for_progress("the load runs", &recorders, 30);
    for replica in 0..4 {
        cluster.kill(replica);
    }
    for replica in 0..4 {
        cluster.start_replica(replica);
    }
    wait_for_progress("operations flow again", &recorders, 20);
    let acknowledged = finish(&cluster, recorders);
    assert!(!acknowledged.is_empty());
    cluster.assert_equal_roots(&[0, 1, 2, 3]);
}

#[test]
fn rounds_of_killing_a_random_subset_lose_nothing() {
    let rounds = std::env::var(ROUNDS_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let mut cluster = Cluster::start(4);
    let recorders =
        vec![Recorder::start(&cluster, 0, ReplicaId(1)), Recorder::start(&cluster, 1, ReplicaId(2))];
    let mut chance = 42;
    for round in 0..rounds {
        wait_for_progress(&format!("operations flow before round {round}"), &recorders, 3);
        // The first round kills all; then any subset that is not empty.
        let subset = if round == 0 { 0b1111 } else { 1 + next(&mut chance) % 15 };
        let chosen: Vec<usize> = (0..4).filter(|replica| subset >> replica & 1 == 1).collect();
        println!("round {round}: kill -9 of {chosen:?}");
        for replica in &chosen {
            cluster.kill(*replica);
        }
        for replica in &chosen {
            cluster.start_replica(*replica);
        }
    }
    wait_for_progress("operations flow after the last round", &recorders, 10);
    let acknowledged = finish(&cluster, recorders);
    println!("{rounds} rounds, {} acknowledged writes, none lost", acknowledged.len());
    cluster.assert_equal_roots(&[0, 1, 2, 3]);
}

#[test]
fn a_replica_that_was_away_for_longer_than_the_others_keep_comes_back_and_votes() {
    let mut cluster = Cluster::start(4);
    let recorders = vec![Recorder::start(&cluster, 0, ReplicaId(1))];
    wait_for_progress("the load runs", &recorders, 20);
    cluster.kill(3);
    wait_for_progress("operations flow without it", &recorders, 400);
    cluster.start_replica(3);
    wait_for_progress("operations flow while it catches up", &recorders, 20);
    finish(&cluster, recorders);
    cluster.assert_equal_roots(&[0, 1, 2, 3]);
    // It counts again: with another one down it is needed for a quorum.
    cluster.kill(2);
    cluster.assert_works();
    cluster.assert_equal_roots(&[0, 1, 3]);
}
