//! What users may store in all: a full state ends in reads, deletions and writes that do not grow, never in want of memory.

use quorate_client::{Client, ClientOptions};
use quorate_tests::cluster::{Cluster, PATIENCE};
use quorate_types::{Condition, Operation, OperationError, OperationResult, ReplicaId, limits};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

const STATE_MIB: u64 = 16;
const STATE_BYTES_MAX: u64 = STATE_MIB << 20;
/// Both sessions that fill it write bundles of eight values of this length, a megabyte each.
const VALUE_BYTES: usize = 125_000;
const VALUES: usize = 8;
const OPEN: usize = 8;
/// So many bundles of each fill the state, and what lanes and buffers hold; and then there are as many more.
const FILLING: usize = 64;
const BEYOND: usize = 136;
/// Without a bound all of this would be in memory.
const BEYOND_BYTES: u64 = (2 * BEYOND * VALUES * VALUE_BYTES) as u64;
/// By how much a replica may grow meanwhile: by the state as a checkpoint may keep it beside, and by buffers.
const GROWTH_BYTES_MAX: u64 = BEYOND_BYTES / 2;
const _: () = assert!(GROWTH_BYTES_MAX > 4 * STATE_BYTES_MAX * limits::STATE_MEMORY_TENTHS / 10);
const _: () = assert!(BEYOND_BYTES > 2 * limits::CHECKPOINT_BYTES);

fn set(key: String, length: usize) -> Operation {
    Operation::Set { key: key.into_bytes(), value: vec![b'v'; length], condition: Condition::Always }
}

/// The key with this number of one of the sessions that fill the state.
fn key(session: usize, number: usize) -> String {
    format!("{session}:{number:08}")
}

fn is_full(result: &OperationResult) -> bool {
    matches!(
        result,
        OperationResult::Error(OperationError::StateFull { bytes, bytes_max: STATE_BYTES_MAX })
            if *bytes <= STATE_BYTES_MAX
    )
}

fn is_written(result: &OperationResult) -> bool {
    matches!(result, OperationResult::Written { .. })
}

async fn connect(cluster: &Cluster, client: usize) -> Client {
    let options = ClientOptions { home: ReplicaId(0), answer_deadline: PATIENCE, ..ClientOptions::default() };
    let (config, key) = (Arc::clone(cluster.config()), cluster.client_key(client));
    Client::connect(config, key, options).await.expect("a quorum is connected")
}

/// Executes one bundle in a session of its own.
fn execute(cluster: &Cluster, operations: &Vec<Operation>) -> Vec<OperationResult> {
    tokio_uring::start(async {
        let client = connect(cluster, 1).await;
        let results = client.execute(operations).await.expect("the bundle completes").1;
        client.close().await;
        results
    })
}

/// Two sessions write new keys, so many bundles of them each; the number of those that were written.
fn fill(cluster: &Cluster, bundles: &Range<usize>) -> usize {
    std::thread::scope(|scope| {
        let start = |session| scope.spawn(move || write(cluster, session, bundles.clone()));
        [0, 1].map(start).into_iter().map(|session| session.join().expect("it completes")).sum()
    })
}

fn write(cluster: &Cluster, session: usize, bundles: Range<usize>) -> usize {
    tokio_uring::start(async {
        let client = Rc::new(connect(cluster, 0).await);
        let mut written = 0;
        for first in bundles.step_by(OPEN) {
            let send = |bundle: usize| {
                let client = Rc::clone(&client);
                let name = move |value| key(session, bundle * VALUES + value);
                tokio_uring::spawn(async move {
                    let operations = (0..VALUES).map(|value| set(name(value), VALUE_BYTES)).collect();
                    client.execute(&operations).await.expect("the bundle completes").1
                })
            };
            let sent: Vec<_> = (first..first + OPEN).map(send).collect();
            for bundle in sent {
                let results = bundle.await.expect("it does not panic");
                assert!(results.iter().all(|result| is_written(result) || is_full(result)), "{results:?}");
                written += results.iter().filter(|result| is_written(result)).count();
            }
        }
        written
    })
}

#[test]
fn a_full_state_takes_no_more_memory_and_everything_that_does_not_grow() {
    let mut cluster = Cluster::prepare(4, &["--state-max", &format!("{STATE_MIB} MiB")]);
    (0..4).for_each(|replica| cluster.start_replica(replica));
    let written = fill(&cluster, &(0..FILLING));
    let before: Vec<u64> = (0..4).map(|replica| cluster.resident_bytes(replica)).collect();
    assert_eq!(fill(&cluster, &(FILLING..FILLING + BEYOND)), 0);
    let entry = (key(0, 0).len() + VALUE_BYTES) as u64 + limits::STATE_ENTRY_BYTES;
    assert_eq!(written as u64, STATE_BYTES_MAX / entry, "all the room is used, and no more");
    let level = |reports: &[serde_json::Value]| {
        reports.iter().all(|report| report["executed"] == reports[0]["executed"] && report["stable"] != 0)
    };
    let reports = cluster.reports(&[0, 1, 2, 3], false, level);
    let declined = (2 * (FILLING + BEYOND) * VALUES - written) as u64;
    for (replica, report) in reports.iter().enumerate() {
        let told = |field: &str| report[field].as_u64().expect("a number");
        assert_eq!(told("state_bytes"), written as u64 * entry, "{report}");
        assert_eq!(told("state_bytes_max"), STATE_BYTES_MAX);
        assert_eq!(report["counters"]["operations_declined_full"].as_u64().expect("a number"), declined);
        let grown = cluster.resident_bytes(replica).saturating_sub(before[replica]);
        assert!(grown <= GROWTH_BYTES_MAX, "replica {replica} has grown by {} MiB", grown >> 20);
        println!("replica {replica} has grown by {} MiB, {} MiB offered", grown >> 20, BEYOND_BYTES >> 20);
    }
    let (code, said) = cluster.status();
    assert!(code == Some(4) && said.contains("takes no growing writes"), "{said}");
    assert!(said.contains("- The state is full, with") && said.contains("of 16 MiB"), "{said}");

    // Sessions are opened, and what does not grow is done.
    let both = |replica: usize| (0..2).map(move |session| key(session, replica));
    let read = |key: String| Operation::Get { key: key.into_bytes() };
    let results = execute(&cluster, &both(0).map(read).collect());
    assert!(results.iter().all(|result| matches!(result, OperationResult::Value(Some(_)))), "{results:?}");
    let results = execute(&cluster, &both(0).map(|key| set(key, VALUE_BYTES)).collect());
    assert!(results.iter().all(is_written), "{results:?}");
    let results = execute(&cluster, &both(0).map(|key| set(key, VALUE_BYTES + 100_000)).collect());
    assert!(results.iter().all(is_full), "{results:?}");

    // One that comes back, and one that takes over the state of the others, count what there is like the others.
    cluster.kill(2);
    cluster.kill(3);
    cluster.lose_disk(3);
    let (code, said) = cluster.command(3, "format", &[]);
    assert_eq!(code, Some(0), "{said}");
    cluster.start_replica(2);
    cluster.start_replica(3);
    let delete = |key: String| Operation::Delete { key: key.into_bytes() };
    let results = execute(&cluster, &both(0).map(delete).collect());
    assert_eq!(results, [OperationResult::Existed(true), OperationResult::Existed(true)]);
    // There is room for two again, and not for a third.
    let again: Vec<Operation> = (0..3).map(|number| set(key(2, number), VALUE_BYTES)).collect();
    let results = execute(&cluster, &again);
    assert!(results[..2].iter().all(is_written) && is_full(&results[2]), "{results:?}");
    cluster.assert_equal_roots(&[0, 1, 2, 3]);
    for report in cluster.reports(&[0, 1, 2, 3], false, level) {
        assert_eq!(report["state_bytes"].as_u64(), Some(written as u64 * entry), "{report}");
    }
}
