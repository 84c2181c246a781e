//! A replica that was away for a moment while much was written, and another that is lost when it is back.

use quorate_client::{Client, ClientOptions};
use quorate_tests::cluster::{Cluster, PATIENCE, wait_for};
use quorate_tests::recorder::{Recorder, assert_all_there};
use quorate_types::{Condition, Operation, ReplicaId};
use std::sync::Arc;

/// What is written meanwhile: more than lanes keep in memory of what is executed, and less than after which a checkpoint is
/// due.
const BYTES: usize = 44 << 20;
const VALUE_BYTES: usize = 4000;
/// The values of one bundle, which has nearly the bytes that it may have.
const VALUES: usize = 240;

/// Writes through one home, one bundle after the other.
fn write(cluster: &Cluster, home: ReplicaId) {
    let (config, key) = (Arc::clone(cluster.config()), cluster.client_key(0));
    tokio_uring::start(async move {
        let options = ClientOptions { home, answer_deadline: PATIENCE, ..ClientOptions::default() };
        let client = Client::connect(config, key, options).await.expect("a quorum is connected");
        for bundle in 0..BYTES / (VALUES * VALUE_BYTES) {
            let set = |at: usize| Operation::Set {
                key: format!("blip:{bundle}:{at}").into_bytes(),
                value: vec![b'v'; VALUE_BYTES],
                condition: Condition::Always,
            };
            client.execute(&(0..VALUES).map(set).collect()).await.expect("the bundle completes");
        }
        client.close().await;
    });
}

/// Nobody lies and nobody is cut off: three of four replicas hold all together what each of them needs.
#[test]
fn a_replica_that_was_away_makes_up_for_the_next_that_is_lost() {
    let mut cluster = Cluster::start(4);
    cluster.assert_works();
    cluster.kill(2);
    write(&cluster, ReplicaId(1));
    let stable = cluster.report(0, false)["stable"].as_u64().expect("a number");
    assert_eq!(stable, 0, "no checkpoint covers what was written: batches and headers are all there is");
    cluster.start_replica(2);
    // At once, and with it the lane's own origin.
    cluster.kill(1);
    cluster.lose_disk(1);
    let recorder = Recorder::start(&cluster, 1, ReplicaId(0));
    wait_for("writes go on", || (recorder.completed() > 20).then_some(()));
    assert_all_there(&cluster, 2, &recorder.finish());
    cluster.assert_equal_roots(&[0, 2, 3]);
}
