//! A client that writes down every write which was acknowledged, to read all of them back later.

use crate::cluster::{Cluster, PATIENCE};
use quorate_client::{Client, ClientOptions};
use quorate_types::{Condition, Operation, OperationResult, ReplicaId};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// The writes of one bundle.
const BUNDLE: u64 = 10;
/// The keys that are read back in one bundle.
const READ_BACK: usize = 500;

/// An acknowledged write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// The key; each is written once.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// The revision that it was given.
    pub version: u64,
}

/// A client in a thread of its own.
#[derive(Debug)]
pub struct Recorder {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
    thread: JoinHandle<()>,
}

impl Recorder {
    /// Starts client number `client` at home `home`. A bundle that gets no answer because replicas are down is sent
    /// again by the session until it does.
    #[must_use]
    pub fn start(cluster: &Cluster, client: usize, home: ReplicaId) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let (config, key) = (Arc::clone(cluster.config()), cluster.client_key(client));
        let (stopped, counted, noted) = (Arc::clone(&stop), Arc::clone(&count), Arc::clone(&acknowledged));
        let body = move || {
            tokio_uring::start(async move {
                let options = ClientOptions {
                    home,
                    connect_deadline: PATIENCE,
                    answer_deadline: 2 * PATIENCE,
                    ..ClientOptions::default()
                };
                let session = Client::connect(config, key, options).await.expect("a quorum is connected");
                let mut number = 0;
                while !stopped.load(Ordering::Relaxed) {
                    let writes: Vec<Operation> =
                        (number..number + BUNDLE).map(|n| write(client, n)).collect();
                    number += BUNDLE;
                    let (_, results) = session.execute(&writes).await.expect("the bundle completes");
                    note(&noted, &writes, &results);
                    counted.fetch_add(1, Ordering::Relaxed);
                }
                session.close().await;
            });
        };
        Self { stop, count, acknowledged, thread: std::thread::spawn(body) }
    }

    /// The bundles that are complete.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Stops it; returns what was acknowledged.
    ///
    /// # Panics
    /// When a bundle failed.
    #[must_use]
    pub fn finish(self) -> Vec<Acknowledged> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("every bundle completes");
        std::mem::take(&mut self.acknowledged.lock().expect("nobody panics with the lock"))
    }
}

fn write(client: usize, number: u64) -> Operation {
    let key = format!("write:{client}:{number:09}").into_bytes();
    let value = format!("value {number} of client {client} {}", "v".repeat(80)).into_bytes();
    // Nothing is written twice: a bundle that were executed twice would show.
    Operation::Set { key, value, condition: Condition::Absent }
}

fn note(noted: &Mutex<Vec<Acknowledged>>, writes: &[Operation], results: &[OperationResult]) {
    let mut noted = noted.lock().expect("nobody panics with the lock");
    for (write, result) in writes.iter().zip(results) {
        let Operation::Set { key, value, .. } = write else { continue };
        let OperationResult::Written { version } = result else {
            panic!("a first write of {} gave {result:?}", String::from_utf8_lossy(key));
        };
        noted.push(Acknowledged { key: key.clone(), value: value.clone(), version: *version });
    }
}

/// Reads every acknowledged write back through client number `client`.
///
/// # Panics
/// When one is lost or changed; the first is named.
pub fn assert_all_there(cluster: &Cluster, client: usize, acknowledged: &[Acknowledged]) {
    let (config, key) = (Arc::clone(cluster.config()), cluster.client_key(client));
    let acknowledged = acknowledged.to_vec();
    tokio_uring::start(async move {
        let options = ClientOptions {
            connect_deadline: PATIENCE,
            answer_deadline: PATIENCE.max(Duration::from_secs(30)),
            ..ClientOptions::default()
        };
        let session = Client::connect(config, key, options).await.expect("a quorum is connected");
        for some in acknowledged.chunks(READ_BACK) {
            let keys = some.iter().map(|one| one.key.clone()).collect();
            let reads = vec![Operation::MultiGet { keys }];
            let (_, results) = session.execute(&reads).await.expect("the reads complete");
            let [OperationResult::Values(values)] = results.as_slice() else {
                panic!("MGET gave {results:?}");
            };
            for (wanted, found) in some.iter().zip(values) {
                let name = String::from_utf8_lossy(&wanted.key);
                let found = found.as_ref().unwrap_or_else(|| panic!("{name} was acknowledged and is lost"));
                assert_eq!(found.version, wanted.version, "{name} was written again");
                assert_eq!(found.value, wanted.value, "{name} was changed");
            }
        }
        session.close().await;
    });
}
