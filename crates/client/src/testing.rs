//! A cluster for tests of clients: replicas that are faked with blocking sockets and threads.
//!
//! They speak the real protocol and agree on everything at once, because they share their state. Threads end
//! with the connections they serve, those that accept with the process.
#![allow(clippy::unwrap_used, reason = "a fake for tests: what it does not expect fails the test")]

use quorate_types::{
    ArchivedOperation, ClusterConfig, ClusterFile, Digest, Domain, Nonce, OperationError, OperationResult,
    ReplicaEntry, ReplicaId, Seq, SessionId, View, limits,
};
use quorate_wire::handshake::{Accepts, HandshakeError, Listener, ListenerStep, refusal_frame};
use quorate_wire::message::{Attach, Attached, Busy, BusyReason, Message, Report, ReportRequest};
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
    /// How many registrations were executed, repeated ones included.
    pub registrations: usize,
    /// How many handshakes were completed.
    pub connections: usize,
    /// Takes bundles and answers nothing.
    pub mute: bool,
    /// Declines writes, as if all disks were full.
    pub read_only: bool,
    /// This replica answers each frame with bytes that are no frame.
    pub liar: Option<u8>,
    /// Makes reports.
    pub report: MakeReport,
    /// How many bundles were executed.
    executed: u64,
    /// The session of each registration.
    registered: BTreeMap<Nonce, SessionId>,
    /// What was executed in each session, in order.
    sessions: BTreeMap<SessionId, Vec<Executed>>,
    /// How far each evicted session came.
    evicted: BTreeMap<SessionId, u64>,
    /// Who wants replies.
    attached: Vec<Attachment>,
}

/// An executed bundle.
#[derive(Clone)]
struct Executed {
    request: Digest,
    seq: Seq,
    results: Vec<u8>,
}

/// A connection that wants replies.
struct Attachment {
    replica: u8,
    /// Tells connections of a replica apart.
    port: u16,
    nonce: Nonce,
    session: SessionId,
    stream: TcpStream,
}

impl FakeState {
    /// Evicts all sessions, as if their key had opened many others.
    pub fn evict_all(&mut self) {
        for (session, executed) in std::mem::take(&mut self.sessions) {
            self.evicted.insert(session, executed.len() as u64 + 1);
        }
    }

    /// What was executed, voids included, in the order of sessions.
    #[must_use]
    pub fn executed_bundles(&self) -> usize {
        self.sessions.values().map(Vec::len).sum()
    }
}

impl fmt::Debug for FakeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeState").field("connections", &self.connections).finish_non_exhaustive()
    }
}

impl Default for FakeState {
    fn default() -> Self {
        Self {
            registrations: 0,
            connections: 0,
            mute: false,
            read_only: false,
            executed: 0,
            registered: BTreeMap::new(),
            evicted: BTreeMap::new(),
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
            state_max: None,
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
        for connection in state.attached.iter().filter(|connection| connection.replica == replica) {
            let _ = connection.stream.shutdown(Shutdown::Both);
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
            let Attach { nonce, session } = Attach::from_frame(frame).unwrap();
            let executed = Seq(state.executed);
            stream.write_all(Attached { executed }.encode().bytes()).unwrap();
            let port = stream.peer_addr().unwrap().port();
            state.attached.retain(|connection| connection.port != port);
            let stream = stream.try_clone().unwrap();
            state.attached.push(Attachment { replica: id, port, nonce, session, stream });
        }
        Kind::Bundle => on_bundle(id, &BundleView::parse(frame.payload).unwrap(), stream, state),
        Kind::ReportRequest => {
            let ReportRequest { root, .. } = ReportRequest::from_frame(frame).unwrap();
            let json = (state.report)(id, root);
            stream.write_all(Report { json }.encode().bytes()).unwrap();
        }
        other => panic!("{other:?} from a client"),
    }
}

/// Executes what comes next in its session, answers again what was executed, skips the rest.
fn on_bundle(home: u8, bundle: &BundleView<'_>, stream: &mut TcpStream, state: &mut FakeState) {
    if state.mute {
        return;
    }
    let (session, number) = (bundle.head.session, bundle.head.number);
    let writes = bundle.operations().iter().any(quorate_types::ArchivedOperation::writes);
    if state.read_only && writes {
        let busy = Busy { session, number, reason: BusyReason::ReadOnly };
        return stream.write_all(busy.encode().bytes()).unwrap();
    }
    state.executed += 1;
    let operations = bundle.operations();
    if let [ArchivedOperation::Register { nonce, .. }] = operations.as_slice() {
        return register(home, bundle, Nonce(nonce.0), state);
    }
    let Some(executed) = state.sessions.get(&session) else {
        let next = state.evicted.get(&session).copied().unwrap_or_default();
        let error = OperationError::SessionEvicted { next };
        let results = archive(&vec![OperationResult::Error(error)]);
        return answer(home, bundle, bundle.head.body, Seq(state.executed), &results, state);
    };
    let index = usize::try_from(number.0 - 1).unwrap();
    let is_void = matches!(operations.as_slice(), [ArchivedOperation::Void]);
    match executed.get(index).cloned() {
        Some(kept) if kept.request == bundle.head.body || is_void => {
            answer(home, bundle, kept.request, kept.seq, &kept.results, state);
        }
        Some(kept) => {
            let results = archive(&vec![OperationResult::Error(OperationError::NumberUsed)]);
            answer(home, bundle, bundle.head.body, kept.seq, &results, state);
        }
        None if index == executed.len() => {
            // The result of each operation is the number of its bundle.
            let result = OperationResult::Length { length: number.0, version: 1 };
            let results =
                if is_void { vec![OperationResult::Voided] } else { vec![result; operations.len()] };
            let (request, seq, results) = (bundle.head.body, Seq(state.executed), archive(&results));
            let executed = state.sessions.get_mut(&session).unwrap();
            executed.push(Executed { request, seq, results: results.clone() });
            answer(home, bundle, request, seq, &results, state);
        }
        None => {}
    }
}

fn register(home: u8, bundle: &BundleView<'_>, nonce: Nonce, state: &mut FakeState) {
    state.registrations += 1;
    let fresh = SessionId { seq: Seq(state.executed), place: 0 };
    let session = *state.registered.entry(nonce).or_insert(fresh);
    state.sessions.entry(session).or_default();
    let results = archive(&vec![OperationResult::Registered { session }]);
    answer(home, bundle, bundle.head.body, session.seq, &results, state);
    for connection in state.attached.iter_mut().filter(|connection| connection.nonce == nonce) {
        connection.session = session;
    }
}

/// Every replica answers: the home with the results, the others with their digest; short ones all with results.
fn answer(
    home: u8,
    bundle: &BundleView<'_>,
    request: Digest,
    seq: Seq,
    results: &[u8],
    state: &mut FakeState,
) {
    let (session, number) = (bundle.head.session, bundle.head.number);
    let digest = Digest::of(Domain::Results, results);
    for to in state.attached.iter_mut().filter(|to| to.session == session) {
        let whole = to.replica == home || session == SessionId::NONE;
        let body = if whole { ReplyBody::Results(results) } else { ReplyBody::DigestOnly };
        let view = View(u64::from(to.replica));
        let reply = ReplyView { session, number, seq, view, request, digest, body };
        // The client may have gone.
        let _ = to.stream.write_all(reply.encode().bytes());
    }
}

fn archive(results: &Vec<OperationResult>) -> Vec<u8> {
    rkyv::to_bytes::<rkyv::rancor::Failure>(results).unwrap().to_vec()
}
