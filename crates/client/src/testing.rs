//! A cluster for tests of clients: replicas that are faked with blocking sockets and threads.
//!
//! They speak the real protocol and agree on everything at once, because they share their state. Threads end
//! with the connections they serve, those that accept with the process.
#![allow(clippy::unwrap_used, reason = "a fake for tests: what it does not expect fails the test")]

use quorate_types::{
    ArchivedOperation, BundleNumber, ClusterConfig, ClusterFile, Digest, Domain, OperationError,
    OperationResult, ReplicaEntry, ReplicaId, Seq, SessionId, View, limits,
};
use quorate_wire::handshake::{Accepts, HandshakeError, Listener, ListenerStep, refusal_frame};
use quorate_wire::message::{Attach, Message, Report, ReportRequest};
use quorate_wire::reply::ReplyBody;
use quorate_wire::testing::{client_key, replica_key};
use quorate_wire::{Assembler, BundleView, FrameRef, Kind, ReplyView};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Makes the JSON of a report from a replica's number and whether the root is wanted.
type MakeReport = Box<dyn Fn(u8, bool) -> String + Send>;

/// What the fake replicas share, and how they misbehave.
pub struct FakeState {
    /// The highest counter of a session so far.
    pub highest_counter: u64,
    /// How many registrations were executed, refused ones included.
    pub registrations: usize,
    /// How many handshakes were completed.
    pub connections: usize,
    /// Takes bundles and answers nothing.
    pub mute: bool,
    /// This replica answers each frame with bytes that are no frame.
    pub liar: Option<u8>,
    /// Makes reports.
    pub report: MakeReport,
    /// The results of each session's bundles in order.
    sessions: BTreeMap<SessionId, Vec<Vec<u8>>>,
    /// Who wants replies: replica, session, socket.
    attached: Vec<(u8, SessionId, TcpStream)>,
}

impl fmt::Debug for FakeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeState").field("connections", &self.connections).finish_non_exhaustive()
    }
}

impl Default for FakeState {
    fn default() -> Self {
        Self {
            highest_counter: 0,
            registrations: 0,
            connections: 0,
            mute: false,
            liar: None,
            report: Box::new(|replica, root| format!("{{\"replica\":{replica},\"root\":{root}}}")),
            sessions: BTreeMap::new(),
            attached: Vec::new(),
        }
    }
}

/// Four replicas on loopback with the keys of [`quorate_wire::testing`]; the one client is
/// [`client_key`].
#[derive(Debug)]
pub struct FakeCluster {
    /// The configuration; its addresses are those of the fakes.
    pub config: Arc<ClusterConfig>,
    state: Arc<Mutex<FakeState>>,
}

impl FakeCluster {
    /// A cluster of four of which only `serving` answer; the others have an address where nobody listens.
    ///
    /// # Panics
    /// When the system gives no port.
    #[must_use]
    pub fn start(serving: &[u8]) -> Self {
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
            genesis_root: None,
            clients: vec![client_key().public().to_hex()],
            replicas: (0..4).map(entry).collect(),
        };
        let config = Arc::new(ClusterConfig::check(&file).unwrap());
        let state = Arc::new(Mutex::new(FakeState::default()));
        for (id, listener) in (0..4).zip(listeners).filter(|(id, _)| serving.contains(id)) {
            let (config, state) = (Arc::clone(&config), Arc::clone(&state));
            std::thread::spawn(move || accept(id, &listener, &config, &state));
        }
        Self { config, state }
    }

    /// The state that the replicas share.
    pub fn state(&self) -> MutexGuard<'_, FakeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts all connections of one replica.
    ///
    /// # Panics
    /// When a thread of the fake has panicked.
    pub fn cut(&self, replica: u8) {
        let state = self.state.lock().unwrap();
        for (_, _, stream) in state.attached.iter().filter(|(id, ..)| *id == replica) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept(id: u8, listener: &TcpListener, config: &Arc<ClusterConfig>, state: &Arc<Mutex<FakeState>>) {
    for stream in listener.incoming() {
        let (config, state) = (Arc::clone(config), Arc::clone(state));
        std::thread::spawn(move || serve(id, stream.unwrap(), &config, &state));
    }
}

/// One connection, until it ends.
fn serve(id: u8, mut stream: TcpStream, config: &Arc<ClusterConfig>, state: &Mutex<FakeState>) -> Option<()> {
    let mut handshake =
        Listener::new(Arc::clone(config), replica_key(id), ReplicaId(id), Accepts::Clients, [id; 32]);
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
                Err(HandshakeError::Refuse(refusal)) => {
                    return stream.write_all(refusal_frame(refusal).bytes()).ok();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn on_frame(id: u8, frame: FrameRef<'_>, stream: &mut TcpStream, state: &mut FakeState) {
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
            let ReportRequest { root, .. } = ReportRequest::from_frame(frame).unwrap();
            let json = (state.report)(id, root);
            stream.write_all(Report { json }.encode().bytes()).unwrap();
        }
        other => panic!("{other:?} from a client"),
    }
}

/// Executes what comes next in its session, answers again what was executed, skips the rest.
fn on_bundle(home: u8, bundle: &BundleView<'_>, state: &mut FakeState) {
    if state.mute {
        return;
    }
    let (session, number) = (bundle.head.session, bundle.head.number);
    let results = match (state.sessions.get(&session), &bundle.operations()[0]) {
        (None, ArchivedOperation::Register { counter }) => register(session, counter.to_native(), state),
        (Some(results), _) if number.0 <= results.len() as u64 => {
            let executed = results.get(usize::try_from(number.0).unwrap()).cloned();
            executed.unwrap_or_else(|| execute(session, number, bundle.operations().len(), state))
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

fn archive(results: &Vec<OperationResult>) -> Vec<u8> {
    rkyv::to_bytes::<rkyv::rancor::Failure>(results).unwrap().to_vec()
}

fn register(session: SessionId, counter: u64, state: &mut FakeState) -> Vec<u8> {
    state.registrations += 1;
    let highest = state.highest_counter;
    if counter <= highest {
        let error = OperationError::CounterTooLow { counter, highest };
        return archive(&vec![OperationResult::Error(error)]);
    }
    state.highest_counter = counter;
    let results = archive(&vec![OperationResult::Registered]);
    state.sessions.insert(session, vec![results.clone()]);
    results
}

/// The result of each operation is the number of its bundle.
fn execute(session: SessionId, number: BundleNumber, operations: usize, state: &mut FakeState) -> Vec<u8> {
    let results = archive(&vec![OperationResult::Length { length: number.0, version: 1 }; operations]);
    state.sessions.get_mut(&session).unwrap().push(results.clone());
    results
}
