//! The driver against replicas that are faked with blocking sockets and threads.

use super::*;
use quorate_types::{
    ArchivedOperation, ClusterFile, Digest, Domain, OperationError, ReplicaEntry, SessionId, View, limits,
};
use quorate_wire::handshake::{Accepts, Listener, ListenerStep, refusal_frame};
use quorate_wire::message::{Attach, Report};
use quorate_wire::reply::ReplyBody;
use quorate_wire::testing::{client_key, client_key_number, replica_key};
use quorate_wire::{Assembler, BundleView, Kind, ReplyView};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Mutex;

/// The state that all fake replicas share: they agree on everything at once.
#[derive(Default)]
struct State {
    highest_counter: u64,
    /// The results of each session's bundles in order.
    sessions: BTreeMap<SessionId, Vec<Vec<u8>>>,
    /// Who wants replies: replica, session, socket.
    attached: Vec<(u8, SessionId, TcpStream)>,
    registrations: usize,
    connections: usize,
    /// Takes bundles and answers nothing.
    mute: bool,
    /// Answers each frame of this replica's clients with bytes that are no frame.
    liar: Option<u8>,
}

struct Fake {
    config: Arc<ClusterConfig>,
    state: Arc<Mutex<State>>,
}

impl Fake {
    /// A cluster of four of which only `serving` answer; the others have an address where nobody listens.
    fn start(serving: &[u8]) -> Self {
        let listeners: Vec<_> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let address = |id: u8| listeners[usize::from(id)].local_addr().unwrap();
        let entry = |id: u8| {
            let mesh = ([127, 0, 0, 1], 100 + u16::from(id)).into();
            ReplicaEntry { id, key: replica_key(id).public().to_hex(), mesh, client: address(id) }
        };
        let file = ClusterFile {
            cluster_id: "5a".repeat(32),
            epoch: 0,
            links: 1,
            clients: vec![client_key().public().to_hex()],
            replicas: (0..4).map(entry).collect(),
        };
        let config = Arc::new(ClusterConfig::check(&file).unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        for (id, listener) in (0..4).zip(listeners).filter(|(id, _)| serving.contains(id)) {
            let (config, state) = (Arc::clone(&config), Arc::clone(&state));
            std::thread::spawn(move || accept(id, &listener, &config, &state));
        }
        Self { config, state }
    }

    fn connect(&self, options: ClientOptions) -> impl Future<Output = Result<Client, ClientError>> + use<> {
        Client::connect(Arc::clone(&self.config), client_key(), options)
    }

    /// Cuts all connections of one replica.
    fn cut(&self, replica: u8) {
        let state = self.state.lock().unwrap();
        for (_, _, stream) in state.attached.iter().filter(|(id, ..)| *id == replica) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept(id: u8, listener: &TcpListener, config: &Arc<ClusterConfig>, state: &Arc<Mutex<State>>) {
    for stream in listener.incoming() {
        let (config, state) = (Arc::clone(config), Arc::clone(state));
        std::thread::spawn(move || serve(id, stream.unwrap(), &config, &state));
    }
}

/// One connection, until it ends.
fn serve(id: u8, mut stream: TcpStream, config: &Arc<ClusterConfig>, state: &Mutex<State>) -> Option<()> {
    let mut handshake =
        Listener::new(Arc::clone(config), replica_key(id), ReplicaId(id), 1, Accepts::Clients, [id; 32]);
    let mut done = false;
    let mut assembler = Assembler::new(limits::FRAME_BYTES_MAX);
    let mut buffer = vec![0; 4096];
    loop {
        let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
        let mut input = &buffer[..count];
        while let Some(frame) = assembler.next(&mut input).unwrap() {
            if done {
                on_frame(id, frame, &mut stream, &mut state.lock().unwrap());
                continue;
            }
            match handshake.on_frame(frame) {
                Ok(ListenerStep::Send(frame)) => stream.write_all(frame.bytes()).ok()?,
                Ok(ListenerStep::Done(frame, _)) => {
                    stream.write_all(frame.bytes()).ok()?;
                    state.lock().unwrap().connections += 1;
                    done = true;
                }
                Err(quorate_wire::handshake::HandshakeError::Refuse(refusal)) => {
                    return stream.write_all(refusal_frame(refusal).bytes()).ok();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn on_frame(id: u8, frame: FrameRef<'_>, stream: &mut TcpStream, state: &mut State) {
    if state.liar == Some(id) {
        let _ = stream.write_all(&[0x55; 100]);
        return;
    }
    match frame.kind {
        Kind::Attach => {
            let Attach { counter } = Attach::from_frame(frame).unwrap();
            let session = SessionId::derive(&client_key().public(), counter);
            state.attached.push((id, session, stream.try_clone().unwrap()));
        }
        Kind::Bundle => on_bundle(id, &BundleView::parse(frame.payload).unwrap(), state),
        Kind::ReportRequest => {
            let ReportRequest { root } = ReportRequest::from_frame(frame).unwrap();
            let json = format!("{{\"replica\":{id},\"root\":{root}}}");
            stream.write_all(Report { json }.encode().bytes()).unwrap();
        }
        other => panic!("{other:?} from a client"),
    }
}

/// Executes what comes next in its session, answers again what was executed, skips the rest.
fn on_bundle(home: u8, bundle: &BundleView<'_>, state: &mut State) {
    if state.mute {
        return;
    }
    let (session, number) = (bundle.head.session, bundle.head.number);
    let results = match (state.sessions.get(&session), &bundle.operations()[0]) {
        (None, ArchivedOperation::Register { counter }) => register(session, counter.to_native(), state),
        (Some(results), _) if number.0 <= results.len() as u64 => {
            let executed = results.get(usize::try_from(number.0).unwrap()).cloned();
            executed.unwrap_or_else(|| execute(session, number, state))
        }
        _ => return,
    };
    let digest = Digest::of(Domain::Results, &results);
    for (id, _, stream) in state.attached.iter_mut().filter(|(_, wanted, _)| *wanted == session) {
        let body = if *id == home { ReplyBody::Results(&results) } else { ReplyBody::DigestOnly };
        let seq = Seq(number.0 + 10);
        let reply = ReplyView { session, number, seq, view: View(u64::from(*id)), digest, body };
        // The client may have gone.
        let _ = stream.write_all(reply.encode().bytes());
    }
}

fn archive(result: OperationResult) -> Vec<u8> {
    rkyv::to_bytes::<rkyv::rancor::Failure>(&vec![result]).unwrap().to_vec()
}

fn register(session: SessionId, counter: u64, state: &mut State) -> Vec<u8> {
    state.registrations += 1;
    let highest = state.highest_counter;
    if counter <= highest {
        return archive(OperationResult::Error(OperationError::CounterTooLow { counter, highest }));
    }
    state.highest_counter = counter;
    let results = archive(OperationResult::Registered);
    state.sessions.insert(session, vec![results.clone()]);
    results
}

/// Each bundle's result is how many were executed before it.
fn execute(session: SessionId, number: BundleNumber, state: &mut State) -> Vec<u8> {
    let results = archive(OperationResult::Length { length: number.0, version: 1 });
    state.sessions.get_mut(&session).unwrap().push(results.clone());
    results
}

fn bundle() -> Vec<Operation> {
    vec![Operation::Append { key: b"key".to_vec(), value: b"value".to_vec() }]
}

fn impatient() -> ClientOptions {
    ClientOptions {
        connect_deadline: Duration::from_millis(500),
        answer_deadline: Duration::from_millis(300),
        ..ClientOptions::default()
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
        let fake = Fake::start(&[0, 1, 2, 3]);
        let client = fake.connect(ClientOptions::default()).await.unwrap();
        assert_eq!(load(&client, 300).await, (1..=300).collect::<Vec<_>>());
        client.close().await;
    });
}

#[test]
fn lost_connections_are_made_again_and_every_bundle_is_executed_once() {
    tokio_uring::start(async {
        let fake = Fake::start(&[0, 1, 2, 3]);
        let options = ClientOptions { home: ReplicaId(2), ..ClientOptions::default() };
        let client = fake.connect(options).await.unwrap();
        let mut expected = 0;
        for replica in [2, 3, 0, 1, 2] {
            let background = client.clone();
            let load = tokio_uring::spawn(async move { load(&background, 150).await });
            tokio::task::yield_now().await;
            fake.cut(replica);
            assert_eq!(load.await.unwrap(), (expected + 1..=expected + 150).collect::<Vec<_>>());
            expected += 150;
        }
        assert!(fake.state.lock().unwrap().connections > 4, "nothing was cut");
        client.close().await;
    });
}

#[test]
fn one_replica_less_than_n_is_enough_and_its_connection_error_is_told() {
    tokio_uring::start(async {
        let fake = Fake::start(&[0, 1, 3]);
        let options = ClientOptions { home: ReplicaId(2), ..ClientOptions::default() };
        let client = fake.connect(options).await.unwrap();
        assert_eq!(load(&client, 10).await, (1..=10).collect::<Vec<_>>());
        let error = client.report(ReplicaId(2), false).await.unwrap_err().to_string();
        assert!(error.contains("replica 2 at 127.0.0.1:") && error.contains("refused"), "{error}");
        client.close().await;
    });
}

#[test]
fn too_few_replicas_are_listed_with_address_and_reason() {
    tokio_uring::start(async {
        let fake = Fake::start(&[0, 1]);
        let error = fake.connect(impatient()).await.unwrap_err().to_string();
        assert!(error.contains("2 of 4 replicas connected after 0 s, 3 are needed"), "{error}");
        assert!(error.contains("replica 1 at 127.0.0.1:"), "{error}");
        assert_eq!(error.matches(": connected").count(), 2, "{error}");
        assert_eq!(error.matches("refused").count(), 2, "{error}");
    });
}

#[test]
fn a_key_that_the_cluster_does_not_know_is_refused_at_once_with_the_remedy() {
    tokio_uring::start(async {
        let fake = Fake::start(&[0, 1, 2, 3]);
        let key = client_key_number(1);
        let connect = Client::connect(Arc::clone(&fake.config), key, ClientOptions::default());
        let error = connect.await.unwrap_err();
        assert!(matches!(error, ClientError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("add it to every replica's cluster.toml"), "{error}");
    });
}

#[test]
fn a_counter_that_was_used_is_replaced_by_a_higher_one() {
    tokio_uring::start(async {
        let fake = Fake::start(&[0, 1, 2, 3]);
        fake.state.lock().unwrap().highest_counter = u64::MAX - 9;
        let client = fake.connect(ClientOptions::default()).await.unwrap();
        assert_eq!(load(&client, 5).await, [1, 2, 3, 4, 5]);
        assert_eq!(fake.state.lock().unwrap().highest_counter, u64::MAX - 8);
        assert!(fake.state.lock().unwrap().registrations >= 2);
        client.close().await;
    });
}

#[test]
fn reports_come_from_the_replica_that_was_asked() {
    tokio_uring::start(async {
        let fake = Fake::start(&[0, 1, 2, 3]);
        let client = fake.connect(ClientOptions::default()).await.unwrap();
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
        let fake = Fake::start(&[0, 1, 2, 3]);
        fake.state.lock().unwrap().liar = Some(0);
        let client = fake.connect(ClientOptions::default()).await.unwrap();
        assert_eq!(load(&client, 100).await, (1..=100).collect::<Vec<_>>());
        assert_ne!(client.home(), ReplicaId(0));
        client.close().await;
    });
}

#[test]
fn a_cluster_that_makes_no_progress_is_told_from_one_that_is_not_there() {
    tokio_uring::start(async {
        let fake = Fake::start(&[0, 1, 2, 3]);
        fake.state.lock().unwrap().mute = true;
        let error = fake.connect(impatient()).await.unwrap_err();
        assert!(matches!(error, ClientError::NotRegistered { connected: 3 | 4, .. }), "{error}");
        fake.state.lock().unwrap().mute = false;
        let client = fake.connect(impatient()).await.unwrap();
        fake.state.lock().unwrap().mute = true;
        let error = client.execute(&bundle()).await.unwrap_err();
        assert!(matches!(error, ClientError::Unanswered { .. }), "{error}");
        assert!(error.to_string().contains("unknown"), "{error}");
        client.close().await;
    });
}

#[test]
fn a_bundle_over_its_limit_and_a_bundle_of_a_closed_client_are_errors() {
    tokio_uring::start(async {
        let fake = Fake::start(&[0, 1, 2, 3]);
        let client = fake.connect(ClientOptions::default()).await.unwrap();
        let error = client.execute(&vec![]).await.unwrap_err();
        assert!(matches!(error, ClientError::Submit(SubmitError::Empty)), "{error}");
        fake.state.lock().unwrap().mute = true;
        let pending = client.submit(&bundle()).unwrap();
        client.close().await;
        assert!(matches!(pending.await, Err(ClientError::Closed)));
    });
}
