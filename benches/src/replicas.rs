//! Four whole replicas in memory, one core each, and a client that waits for each of its operations.
//!
//! Every frame, and every report of what is durable, has a tick of its own, as for replicas that mostly wait: so this counts
//! what a tick costs beside what there is to do.

use quorate_replica::{ClientConnection, Core, Effect, Frozen, Input, ReplicaSetup};
use quorate_types::{
    BundleNumber, ClusterConfig, CoreId, JournalId, LinkId, Lsn, Nanoseconds, Nonce, Operation,
    OperationResult, ReplicaId, SessionId,
};
use quorate_wire::message::{Attach, Message};
use quorate_wire::reply::ReplyBody;
use quorate_wire::{Frame, Kind, Position, ReplyView, bundle, testing};
use rkyv::rancor::Failure;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

const REPLICAS: u8 = 4;
/// Where the client is at home; the primary is another one.
const HOME: ReplicaId = ReplicaId(1);
const CONNECTION: ClientConnection = ClientConnection { core: CoreId(0), number: 1 };
/// Each replica has this one link and this one core.
const LINK: LinkId = LinkId(0);
const CORE: CoreId = CoreId(0);
const NONCE: Nonce = Nonce([7; 16]);
const TICK_NS: u64 = 20_000;

#[derive(Debug)]
struct Flight {
    from: ReplicaId,
    to: ReplicaId,
    frame: Frame,
}

/// Four replicas, what is on its way between them, and the client's session.
#[derive(Debug)]
pub struct Replicas {
    config: Arc<ClusterConfig>,
    cores: Vec<Core>,
    flights: VecDeque<Flight>,
    /// Up to where each journal has been written and is not reported to be durable.
    written: BTreeMap<(ReplicaId, JournalId), Lsn>,
    states: VecDeque<(ReplicaId, Position, Frozen)>,
    /// What the home has answered.
    answers: Vec<Frame>,
    now: Nanoseconds,
    session: SessionId,
    number: u64,
}

impl Replicas {
    /// Replicas that have ordered a registration.
    ///
    /// # Panics
    /// When they have not.
    #[must_use]
    pub fn new() -> Self {
        let config = Arc::new(testing::config_with_links(REPLICAS, 1));
        let core = |me: ReplicaId| {
            let (config, key) = (Arc::clone(&config), testing::replica_key(me.0));
            Core::new(&ReplicaSetup { config, me, key, cores: 1 }, CORE)
        };
        let mut replicas = Self {
            cores: config.replica_ids().map(core).collect(),
            config,
            flights: VecDeque::new(),
            written: BTreeMap::new(),
            states: VecDeque::new(),
            answers: Vec::new(),
            now: Nanoseconds::from_millis(1_000_000),
            session: SessionId::NONE,
            number: 0,
        };
        replicas.connect();
        replicas.submit(&vec![Operation::Register { nonce: NONCE, recent: 0 }]);
        replicas.session = replicas.answers.iter().find_map(session_in).expect("a registration is answered");
        replicas
    }

    fn ids(&self) -> Vec<ReplicaId> {
        self.config.replica_ids().collect()
    }

    fn connect(&mut self) {
        let key = *testing::client_key().public().as_bytes();
        let attach = Attach { nonce: NONCE, session: SessionId::NONE }.encode();
        for me in self.ids() {
            for peer in self.ids().into_iter().filter(|peer| *peer != me) {
                self.step(me, Input::PeerConnected { peer, link: LINK });
            }
            self.step(me, Input::ClientConnected { connection: CONNECTION, key });
            self.step(me, Input::ClientFrame { connection: CONNECTION, frame: attach.as_frame_ref() });
        }
        self.run();
    }

    /// Signs, orders, executes and answers a bundle; returns how many ticks that took.
    ///
    /// # Panics
    /// When the home does not answer.
    pub fn submit(&mut self, operations: &Vec<Operation>) -> usize {
        let (config, key) = (Arc::clone(&self.config), testing::client_key());
        let (session, number) = (self.session, BundleNumber(self.number));
        let frame = Frame::encode(Kind::Bundle, |out| {
            bundle::write(out, &config, &key, session, number, operations);
        });
        self.number += 1;
        self.answers.clear();
        self.step(HOME, Input::ClientFrame { connection: CONNECTION, frame: frame.as_frame_ref() });
        self.tick(HOME);
        let ticks = self.run();
        assert!(!self.answers.is_empty(), "bundle {} is not answered", number.0);
        ticks
    }

    /// Goes on until nothing moves; returns the number of ticks.
    fn run(&mut self) -> usize {
        let mut ticks = 0;
        loop {
            let at = if let Some(Flight { from, to, frame }) = self.flights.pop_front() {
                self.step(to, Input::PeerFrame { peer: from, link: LINK, frame: frame.as_frame_ref() });
                to
            } else if let Some(((at, journal), upto)) = self.written.pop_first() {
                self.step(at, Input::Durable { journal, upto });
                at
            } else if let Some((at, position, state)) = self.states.pop_front() {
                self.step(at, Input::Checkpointed { position, root: state.root() });
                at
            } else {
                return ticks;
            };
            self.tick(at);
            ticks += 1;
        }
    }

    fn tick(&mut self, at: ReplicaId) {
        self.now = self.now.plus(TICK_NS);
        self.step(at, Input::TickEnd);
    }

    fn step(&mut self, me: ReplicaId, input: Input<'_>) {
        let mut effects = Vec::new();
        self.cores[me.index()].step(self.now, input, &mut effects);
        for effect in effects {
            match effect {
                Effect::Append { journal, lsn, .. } => drop(self.written.insert((me, journal), lsn)),
                Effect::SendPeer { peer, frame, .. } => {
                    self.flights.push_back(Flight { from: me, to: peer, frame });
                }
                Effect::SendClient { frame, .. } if me == HOME => self.answers.push(frame),
                Effect::Checkpoint { position, state, .. } => self.states.push_back((me, position, state)),
                Effect::Halt { reason } => panic!("r{me} halts: {reason}"),
                _ => {}
            }
        }
    }
}

impl Default for Replicas {
    fn default() -> Self {
        Self::new()
    }
}

/// The session that a registration was answered with.
fn session_in(frame: &Frame) -> Option<SessionId> {
    if frame.kind() != Kind::Reply {
        return None;
    }
    let reply = ReplyView::parse(frame.payload()).expect("an own reply");
    let ReplyBody::Results(results) = reply.body else { return None };
    let results = rkyv::from_bytes::<Vec<OperationResult>, Failure>(results).expect("own results");
    results.into_iter().find_map(|result| match result {
        OperationResult::Registered { session } => Some(session),
        _ => None,
    })
}
