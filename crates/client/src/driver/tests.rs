//! The driver against the fake cluster of [`crate::testing`].

use super::*;
use crate::testing::FakeCluster;
use crate::{NotDone, Outcome};
use quorate_wire::message::BusyReason;
use quorate_wire::testing::{client_key, client_key_number};

fn connect(
    fake: &FakeCluster,
    options: ClientOptions,
) -> impl Future<Output = Result<Client, ClientError>> + use<> {
    Client::connect(Arc::clone(&fake.config), client_key(), options)
}

fn bundle() -> Vec<Operation> {
    vec![Operation::Append { key: b"key".to_vec(), value: b"value".to_vec() }]
}

/// Connects in vain, with more and more time, until the error says what it should: on a busy machine the replicas that
/// answer may need longer than a deadline for which nobody wants to wait.
async fn connect_in_vain(fake: &FakeCluster, is_told: impl Fn(&ClientError) -> bool) {
    for attempt in 0..8 {
        let connect_deadline = Duration::from_millis(500 << attempt);
        let options = ClientOptions { connect_deadline, ..ClientOptions::default() };
        let error = connect(fake, options).await.expect_err("too little answers");
        if is_told(&error) {
            return;
        }
        assert!(attempt < 7, "{error}");
    }
}

/// Runs `count` bundles from as many tasks and checks that each was executed once.
async fn load(client: &Client, count: u64) -> Vec<u64> {
    let tasks: Vec<_> = (0..count)
        .map(|_| {
            let client = client.clone();
            tokio_uring::spawn(async move {
                let (_, results) = client.execute(&bundle()).await.unwrap();
                let OperationResult::Length { length, .. } = results[0] else { panic!("{results:?}") };
                length
            })
        })
        .collect();
    let mut lengths = Vec::new();
    for task in tasks {
        lengths.push(task.await.unwrap());
    }
    lengths.sort_unstable();
    lengths
}

#[test]
fn concurrent_bundles_beyond_the_window_are_each_executed_once() {
    tokio_uring::start(async {
        let fake = FakeCluster::start(&[0, 1, 2, 3]);
        let client = connect(&fake, ClientOptions::default()).await.unwrap();
        assert_eq!(load(&client, 300).await, (1..=300).collect::<Vec<_>>());
        client.close().await;
    });
}

#[test]
fn lost_connections_are_made_again_and_every_bundle_is_executed_once() {
    tokio_uring::start(async {
        let fake = FakeCluster::start(&[0, 1, 2, 3]);
        let options = ClientOptions { home: ReplicaId(2), ..ClientOptions::default() };
        let client = connect(&fake, options).await.unwrap();
        let mut expected = 0;
        for replica in [2, 3, 0, 1, 2] {
            let background = client.clone();
            let load = tokio_uring::spawn(async move { load(&background, 150).await });
            tokio::task::yield_now().await;
            fake.cut(replica);
            assert_eq!(load.await.unwrap(), (expected + 1..=expected + 150).collect::<Vec<_>>());
            expected += 150;
        }
        assert!(fake.state().connections > 4, "nothing was cut");
        client.close().await;
    });
}

#[test]
fn one_replica_less_than_n_is_enough_and_its_connection_error_is_told() {
    tokio_uring::start(async {
        let fake = FakeCluster::start(&[0, 1, 3]);
        let options = ClientOptions { home: ReplicaId(2), ..ClientOptions::default() };
        let client = connect(&fake, options).await.unwrap();
        assert_eq!(load(&client, 10).await, (1..=10).collect::<Vec<_>>());
        let error = client.report(ReplicaId(2), false).await.unwrap_err().to_string();
        assert!(error.contains("replica 2 at 127.0.0.1:") && error.contains("refused"), "{error}");
        client.close().await;
    });
}

#[test]
fn too_few_replicas_are_listed_with_address_and_reason() {
    tokio_uring::start(async {
        let fake = FakeCluster::start(&[0, 1]);
        connect_in_vain(&fake, |error| {
            let text = error.to_string();
            text.contains("2 of 4 replicas connected after ")
                && text.contains(" s, 3 are needed")
                && text.contains("replica 1 at 127.0.0.1:")
                && text.matches(": connected").count() == 2
                && text.matches("refused").count() == 2
        })
        .await;
    });
}

#[test]
fn a_key_that_the_cluster_does_not_know_is_refused_at_once_with_the_remedy() {
    tokio_uring::start(async {
        let fake = FakeCluster::start(&[0, 1, 2, 3]);
        let key = client_key_number(1);
        let connect = Client::connect(Arc::clone(&fake.config), key, ClientOptions::default());
        let error = connect.await.unwrap_err();
        assert!(matches!(error, ClientError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("use the key of one of them"), "{error}");
    });
}

/// Each is its own process as far as the cluster can tell: they share nothing but the key.
#[test]
fn clients_that_share_a_key_have_sessions_of_their_own() {
    tokio_uring::start(async {
        let fake = FakeCluster::start(&[0, 1, 2, 3]);
        let mut clients = Vec::new();
        for _ in 0..5 {
            clients.push(connect(&fake, ClientOptions::default()).await.unwrap());
        }
        for client in &clients {
            assert_eq!(load(client, 20).await, (1..=20).collect::<Vec<_>>());
        }
        assert_eq!(fake.state().executed_bundles(), 100);
        for client in clients {
            client.close().await;
        }
    });
}

#[test]
fn what_all_decline_is_definitely_not_done_and_says_why_at_once() {
    tokio_uring::start(async {
        let fake = FakeCluster::start(&[0, 1, 2, 3]);
        // Patience plays no part: if anything waited for it, the test would not end.
        let timing = Timing { patience: Nanoseconds(u64::MAX / 4), ..Timing::default() };
        let options =
            ClientOptions { timing, answer_deadline: Duration::from_secs(3600), ..ClientOptions::default() };
        let client = connect(&fake, options).await.unwrap();
        assert_eq!(load(&client, 1).await, [1]);
        fake.state().read_only = true;
        for _ in 0..3 {
            let error = client.execute(&bundle()).await.unwrap_err();
            assert!(
                matches!(error, ClientError::NotDone(NotDone::Declined(BusyReason::ReadOnly))),
                "{error}"
            );
            assert_eq!(error.outcome(), Outcome::NotDone);
            assert!(error.to_string().contains("nearly full"), "{error}");
        }
        let read = vec![Operation::Get { key: b"key".to_vec() }];
        client.execute(&read).await.unwrap();
        fake.state().read_only = false;
        // Numbers 2, 3 and 4 are void, 5 was the read.
        assert_eq!(load(&client, 2).await, [6, 7]);
        client.close().await;
    });
}

#[test]
fn an_evicted_client_opens_another_session_and_goes_on_with_what_was_not_executed() {
    tokio_uring::start(async {
        let fake = FakeCluster::start(&[0, 1, 2, 3]);
        let client = connect(&fake, ClientOptions::default()).await.unwrap();
        assert_eq!(load(&client, 3).await, [1, 2, 3]);
        for _ in 0..3 {
            fake.state().evict_all();
            assert_eq!(load(&client, 100).await, (1..=100).collect::<Vec<_>>());
        }
        assert_eq!(fake.state().executed_bundles(), 100);
        client.close().await;
    });
}

#[test]
fn reports_come_from_the_replica_that_was_asked() {
    tokio_uring::start(async {
        let fake = FakeCluster::start(&[0, 1, 2, 3]);
        let client = connect(&fake, ClientOptions::default()).await.unwrap();
        while !client.handle.shared.links.iter().all(Link::is_connected) {
            client.handle.shared.changed.notified().await;
        }
        let (first, second) =
            tokio::join!(client.report(ReplicaId(3), false), client.report(ReplicaId(3), true));
        assert_eq!(first.unwrap(), r#"{"replica":3,"root":false}"#);
        assert_eq!(second.unwrap(), r#"{"replica":3,"root":true}"#);
        let error = client.report(ReplicaId(4), false).await.unwrap_err();
        assert_eq!(error.to_string(), "there is no replica 4; this cluster has 4");
        client.close().await;
    });
}

#[test]
fn a_replica_that_does_not_speak_the_protocol_is_left_and_the_others_go_on() {
    tokio_uring::start(async {
        let fake = FakeCluster::start(&[0, 1, 2, 3]);
        fake.state().liar = Some(0);
        let client = connect(&fake, ClientOptions::default()).await.unwrap();
        assert_eq!(load(&client, 100).await, (1..=100).collect::<Vec<_>>());
        assert_ne!(client.home(), ReplicaId(0));
        client.close().await;
    });
}

#[test]
fn a_cluster_that_makes_no_progress_is_told_from_one_that_is_not_there() {
    tokio_uring::start(async {
        let fake = FakeCluster::start(&[0, 1, 2, 3]);
        fake.state().mute = true;
        connect_in_vain(&fake, |error| matches!(error, ClientError::NotRegistered { connected: 3 | 4, .. }))
            .await;
        fake.state().mute = false;
        let options =
            ClientOptions { answer_deadline: Duration::from_millis(300), ..ClientOptions::default() };
        let client = connect(&fake, options).await.unwrap();
        fake.state().mute = true;
        let error = client.execute(&bundle()).await.unwrap_err();
        assert!(matches!(error, ClientError::Unanswered { .. }), "{error}");
        assert!(error.to_string().contains("unknown"), "{error}");
        client.close().await;
    });
}

#[test]
fn what_found_no_room_in_time_was_surely_not_done() {
    tokio_uring::start(async {
        let fake = FakeCluster::start(&[0, 1, 2, 3]);
        let options =
            ClientOptions { answer_deadline: Duration::from_millis(300), ..ClientOptions::default() };
        let client = connect(&fake, options).await.unwrap();
        fake.state().mute = true;
        let open: Vec<_> = (0..64).map(|_| client.submit(&bundle()).unwrap()).collect();
        let error = client.execute(&bundle()).await.unwrap_err();
        assert!(matches!(error, ClientError::NoRoom { .. }), "{error}");
        assert_eq!(error.outcome(), Outcome::NotDone);
        drop(open);
        client.close().await;
    });
}

#[test]
fn a_bundle_over_its_limit_and_a_bundle_of_a_closed_client_are_errors() {
    tokio_uring::start(async {
        let fake = FakeCluster::start(&[0, 1, 2, 3]);
        let client = connect(&fake, ClientOptions::default()).await.unwrap();
        let error = client.execute(&vec![]).await.unwrap_err();
        assert!(matches!(error, ClientError::Submit(SubmitError::Empty)), "{error}");
        fake.state().mute = true;
        let pending = client.submit(&bundle()).unwrap();
        client.close().await;
        assert!(matches!(pending.await, Err(ClientError::Closed)));
    });
}
