//! What one client key may take of everybody's memory.

use quorate_client::{Client, ClientOptions};
use quorate_tests::cluster::Cluster;
use quorate_types::{KeyValue, Operation, ReplicaId, limits};
use std::sync::Arc;

/// Each reads nearly the bytes that results may have, once.
const SESSIONS: usize = 300;
const VALUES: usize = 4;
const VALUE_BYTES: usize = 250_000;
/// By how much a replica may grow: what is kept of replies, as much again in a copy that a checkpoint freezes, and as much
/// for buffers. Without a bound the replies alone are a half more.
const GROWTH_BYTES_MAX: u64 = 3 * limits::REPLY_BYTES_KEPT_PER_CLIENT_MAX;
const _: () = assert!(GROWTH_BYTES_MAX / 2 * 3 < (SESSIONS * VALUES * VALUE_BYTES) as u64 + (4 << 20));

#[test]
fn many_sessions_of_one_key_with_long_replies_take_no_more_memory_than_a_key_may() {
    let cluster = Cluster::start(4);
    let (config, key) = (Arc::clone(cluster.config()), cluster.client_key(0));
    let keys: Vec<Vec<u8>> = (0..VALUES).map(|at| format!("long:{at}").into_bytes()).collect();
    let before: Vec<u64> = (0..4).map(|replica| cluster.resident_bytes(replica)).collect();
    tokio_uring::start(async move {
        for session in 0..SESSIONS {
            let home = ReplicaId(u8::try_from(session % 4).expect("small"));
            let options = ClientOptions { home, ..ClientOptions::default() };
            let client = Client::connect(Arc::clone(&config), key.clone(), options).await;
            let client = client.expect("a quorum is connected");
            if session == 0 {
                let entry = |key: &Vec<u8>| KeyValue { key: key.clone(), value: vec![b'v'; VALUE_BYTES] };
                let entries = keys.iter().map(entry).collect();
                client.execute(&vec![Operation::MultiSet { entries }]).await.expect("the bundle completes");
            }
            let read = vec![Operation::MultiGet { keys: keys.clone() }];
            client.execute(&read).await.expect("the bundle completes");
            client.close().await;
        }
    });
    let level = |reports: &[serde_json::Value]| {
        reports.iter().all(|report| report["executed"] == reports[0]["executed"])
    };
    let reports = cluster.reports(&[0, 1, 2, 3], false, level);
    for (replica, report) in reports.iter().enumerate() {
        let kept = report["reply_bytes"].as_u64().expect("a number");
        assert!(report["sessions"].as_u64() > Some(SESSIONS as u64), "all sessions are kept: {report}");
        // The reports have a session of their own, of another key.
        let most = limits::REPLY_BYTES_KEPT_PER_CLIENT_MAX + limits::REPLY_BYTES_KEPT_MAX as u64;
        assert!((most / 2..=most).contains(&kept), "replica {replica} keeps {kept} bytes of replies");
        let grown = cluster.resident_bytes(replica).saturating_sub(before[replica]);
        assert!(grown <= GROWTH_BYTES_MAX, "replica {replica} has grown by {} MiB", grown >> 20);
    }
}
