//! Nothing is lost between a read and a write on condition of its version, however many write the key meanwhile.

use quorate_client::{Client, ClientOptions};
use quorate_tests::cluster::{Cluster, PATIENCE};
use quorate_types::{ClusterConfig, Condition, Operation, OperationResult, ReplicaId, SigningKey};
use std::sync::Arc;

/// Sessions that read and set, and as many that increment.
const SESSIONS: usize = 20;
/// What each of them does: the key must be written many times in one header to tell versions from seqs.
const ROUNDS: usize = 40;
const KEYS: usize = 4;

#[test]
fn sessions_that_compare_and_set_beside_others_that_increment_lose_nothing() {
    let cluster = Cluster::start(4);
    let keys: Vec<SigningKey> = (0..KEYS).map(|number| cluster.client_key(number)).collect();
    let config = Arc::clone(cluster.config());
    let (written, counter) = tokio_uring::start(async move {
        let open = |number: usize| connect(Arc::clone(&config), keys[number % KEYS].clone(), number);
        let tasks: Vec<_> = (0..2 * SESSIONS)
            .map(|number| {
                let connecting = open(number);
                tokio_uring::spawn(async move {
                    let client = connecting.await;
                    let mut written = 0;
                    for _ in 0..ROUNDS {
                        let sets = number % 2 == 0;
                        written += if sets { count_on(&client).await } else { increment(&client).await };
                    }
                    client.close().await;
                    written
                })
            })
            .collect();
        let mut written = 0;
        for task in tasks {
            written += task.await.expect("no task panics");
        }
        let reader = open(0).await;
        let counter = read(&reader).await.expect("it was written").0;
        reader.close().await;
        (written, counter)
    });
    assert!(written > (SESSIONS * ROUNDS) as u64, "all increments and some sets are done: {written}");
    assert_eq!(counter, written, "updates were lost");
}

async fn connect(config: Arc<ClusterConfig>, key: SigningKey, number: usize) -> Client {
    let home = ReplicaId(u8::try_from(number % 4).expect("one of four"));
    let options = ClientOptions {
        home,
        connect_deadline: PATIENCE,
        answer_deadline: 2 * PATIENCE,
        ..ClientOptions::default()
    };
    Client::connect(config, key, options).await.expect("a quorum is connected")
}

async fn execute(client: &Client, operation: Operation) -> OperationResult {
    let (_, mut results) = client.execute(&vec![operation]).await.expect("the bundle completes");
    results.pop().expect("one result")
}

fn key() -> Vec<u8> {
    b"counter".to_vec()
}

/// The counter and its version, if it exists.
async fn read(client: &Client) -> Option<(u64, u64)> {
    let OperationResult::Value(value) = execute(client, Operation::Get { key: key() }).await else {
        panic!("GET gives a value");
    };
    let found = value?;
    let text = String::from_utf8(found.value).expect("a decimal number");
    Some((text.parse().expect("a decimal number"), found.version))
}

/// Reads the counter and sets it to the next number, if nobody has written it meanwhile; how often that was done.
async fn count_on(client: &Client) -> u64 {
    let (next, condition) = match read(client).await {
        Some((counter, version)) => (counter + 1, Condition::Version(version)),
        None => (1, Condition::Absent),
    };
    let set = Operation::Set { key: key(), value: next.to_string().into_bytes(), condition };
    u64::from(matches!(execute(client, set).await, OperationResult::Written { .. }))
}

async fn increment(client: &Client) -> u64 {
    let sum = execute(client, Operation::IncrementBy { key: key(), by: 1 }).await;
    assert!(matches!(sum, OperationResult::Integer { .. }), "INCRBY gave {sum:?}");
    1
}
