//! The execution role: applies batches in header order and answers clients.

use crate::interface::{ClientConnection, Effect};
use crate::report::ExecutionReport;
use quorate_lanes::Batch;
use quorate_state::{BundleInput, Context, Outcome, Reply, State};
use quorate_types::{
    BundleNumber, ClusterConfig, Digest, LaneId, LaneNumber, Nanoseconds, ReplicaId, Seq, SessionId, View,
};
use quorate_wire::reply::{ReplyBody, ReplyView};
use quorate_wire::{Frame, Header, LaneTip, Position, header};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// The bytes of batches that one turn executes at the most, so that the core comes back to its links.
const TURN_BYTES_MAX: usize = 2 * 1024 * 1024;

/// What a turn of execution brought about.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Replies, each for a connection that is attached to the session.
    pub(crate) replies: Vec<(ClientConnection, Frame)>,
    /// The lanes' new executed tips.
    pub(crate) tips: Vec<LaneTip>,
    /// The roots at slots at which a checkpoint is due, ascending.
    pub(crate) roots: Vec<(Position, Digest)>,
    /// Whether anything was executed.
    pub(crate) progress: bool,
    bundles: u64,
    operations: u64,
}

/// The execution role of a replica.
#[derive(Debug)]
pub(crate) struct ExecutionRole {
    config: Arc<ClusterConfig>,
    me: ReplicaId,
    state: State,
    /// Batches that are held and not executed.
    pool: BTreeMap<(LaneId, LaneNumber, Digest), Arc<Batch>>,
    /// Committed headers that are not executed.
    queue: VecDeque<(Arc<Header>, Position)>,
    tips: BTreeMap<LaneId, (LaneNumber, Digest)>,
    executed: Position,
    timestamp: Nanoseconds,
    view: View,
    attached: BTreeMap<SessionId, BTreeSet<ClientConnection>>,
    sessions: BTreeMap<ClientConnection, SessionId>,
    last_root: Option<(Position, Digest)>,
}

impl ExecutionRole {
    pub(crate) fn new(config: Arc<ClusterConfig>, me: ReplicaId) -> Self {
        let state = State::new(config.clients().iter().map(|key| *key.as_bytes()));
        let executed = header::genesis(config.digest());
        Self {
            config,
            me,
            state,
            pool: BTreeMap::new(),
            queue: VecDeque::new(),
            tips: BTreeMap::new(),
            executed,
            timestamp: Nanoseconds(0),
            view: View(0),
            attached: BTreeMap::new(),
            sessions: BTreeMap::new(),
            last_root: None,
        }
    }

    pub(crate) fn executed(&self) -> Position {
        self.executed
    }

    pub(crate) fn last_root(&self) -> Option<(Position, Digest)> {
        self.last_root
    }

    pub(crate) fn pooled(&self) -> usize {
        self.pool.len() + self.queue.len()
    }

    pub(crate) fn on_held(&mut self, batch: Arc<Batch>) {
        let executed = self.tip(batch.lane()).0;
        if batch.number() > executed {
            self.pool.insert((batch.lane(), batch.number(), batch.chain()), batch);
        }
    }

    pub(crate) fn on_committed(&mut self, header: Arc<Header>, position: Position, view: View) {
        let last = self.queue.back().map_or(self.executed, |(_, position)| *position);
        assert_eq!(header.seq, last.seq.next(), "headers are committed in order");
        assert_eq!(header.parent, last.digest, "committed headers are one chain");
        self.view = view;
        self.queue.push_back((header, position));
    }

    /// A connection wants the replies of one session; one it wanted before is given up.
    pub(crate) fn on_attach(&mut self, connection: ClientConnection, session: SessionId) {
        self.on_detach(connection);
        self.sessions.insert(connection, session);
        self.attached.entry(session).or_default().insert(connection);
    }

    pub(crate) fn on_detach(&mut self, connection: ClientConnection) {
        let Some(session) = self.sessions.remove(&connection) else { return };
        if let Some(connections) = self.attached.get_mut(&session) {
            connections.remove(&connection);
            if connections.is_empty() {
                self.attached.remove(&session);
            }
        }
    }

    fn tip(&self, lane: LaneId) -> (LaneNumber, Digest) {
        self.tips.get(&lane).copied().unwrap_or((LaneNumber(0), Digest::ZERO))
    }

    /// Whether the next committed header can be executed now.
    pub(crate) fn is_ready(&self) -> bool {
        self.queue.front().is_some_and(|(header, _)| self.batches(header).is_some())
    }

    /// The batches that a header names, in the order of execution, if all are here.
    fn batches(&self, header: &Header) -> Option<Vec<Arc<Batch>>> {
        let mut batches = Vec::new();
        for tip in &header.cut {
            let (floor, floor_chain) = self.tip(tip.lane);
            let first = batches.len();
            let (mut number, mut chain) = (tip.upto, tip.chain);
            while number > floor {
                let batch = self.pool.get(&(tip.lane, number, chain))?;
                batches.push(Arc::clone(batch));
                (number, chain) = (number.previous(), batch.previous());
            }
            assert_eq!(chain, floor_chain, "a committed cut extends the executed chain of lane {}", tip.lane);
            batches[first..].reverse();
        }
        Some(batches)
    }

    /// Executes what is ready, up to a bounded amount.
    pub(crate) fn run(&mut self, effects: &mut Vec<Effect>) -> Turn {
        let mut turn = Turn::default();
        let mut bytes = 0;
        while bytes < TURN_BYTES_MAX
            && let Some((header, position)) = self.queue.front().cloned()
            && let Some(batches) = self.batches(&header)
        {
            self.queue.pop_front();
            bytes += batches.iter().map(|batch| batch.bytes()).sum::<usize>();
            self.execute(&header, position, &batches, &mut turn);
        }
        if turn.progress {
            turn.tips = self
                .tips
                .iter()
                .map(|(lane, (upto, chain))| LaneTip { lane: *lane, upto: *upto, chain: *chain })
                .collect();
            effects.push(Effect::Executed { bundles: turn.bundles, operations: turn.operations });
        }
        turn
    }

    fn execute(&mut self, header: &Header, position: Position, batches: &[Arc<Batch>], turn: &mut Turn) {
        let context = Context { seq: header.seq, timestamp: header.timestamp };
        for batch in batches {
            self.execute_batch(context, batch, turn);
        }
        for tip in &header.cut {
            self.state.note_lane_tip(tip.lane, tip.upto, tip.chain);
            self.tips.insert(tip.lane, (tip.upto, tip.chain));
            self.drop_executed(tip);
        }
        self.state.note_header(header.seq, position.digest, header.timestamp);
        self.executed = position;
        self.timestamp = header.timestamp;
        turn.progress = true;
        if header.seq.0.is_multiple_of(self.config.tuning().checkpoint_interval) {
            let root = self.state.root();
            self.last_root = Some((position, root));
            turn.roots.push((position, root));
        }
    }

    /// Batches at or below an executed tip are of no more use, whatever chain they are on.
    fn drop_executed(&mut self, tip: &LaneTip) {
        let from = (tip.lane, LaneNumber(0), Digest::ZERO);
        let upto = (tip.lane, tip.upto, Digest([u8::MAX; 32]));
        while let Some((key, _)) = self.pool.range(from..=upto).next() {
            let key = *key;
            self.pool.remove(&key);
        }
    }

    fn execute_batch(&mut self, context: Context, batch: &Batch, turn: &mut Turn) {
        let home = batch.lane().origin == self.me;
        for bundle in batch.bundles() {
            // A wrong signature condemns its bundle, not the batch; every replica sees the same verdict.
            if !bundle.signed {
                continue;
            }
            let operations = batch.operations(bundle);
            let head = &bundle.head;
            let (client, session, number) = (&head.client, head.session, head.number);
            match self.state.execute(context, BundleInput { client, session, number, operations }) {
                Outcome::Executed(reply) => {
                    turn.bundles += 1;
                    turn.operations += operations.len() as u64;
                    self.reply(&reply, home, turn);
                }
                Outcome::Repeated(reply) | Outcome::Refused(reply) => self.reply(&reply, home, turn),
                Outcome::Gone { session, number } => {
                    self.answer(session, number, Seq(0), Digest::ZERO, ReplyBody::Gone, turn);
                }
                Outcome::Skipped(_) => {}
            }
        }
    }

    /// The home replica, whose lane carried the bundle, sends the results; the others vouch for the digest.
    fn reply(&self, reply: &Reply, home: bool, turn: &mut Turn) {
        let body = if home { ReplyBody::Results(&reply.results) } else { ReplyBody::DigestOnly };
        self.answer(reply.session, reply.number, reply.seq, reply.digest, body, turn);
    }

    fn answer(
        &self,
        session: SessionId,
        number: BundleNumber,
        seq: Seq,
        digest: Digest,
        body: ReplyBody<'_>,
        turn: &mut Turn,
    ) {
        let Some(connections) = self.attached.get(&session) else { return };
        let frame = ReplyView { session, number, seq, view: self.view, digest, body }.encode();
        turn.replies.extend(connections.iter().map(|connection| (*connection, frame.clone())));
    }

    pub(crate) fn report(&mut self, root: bool) -> ExecutionReport {
        ExecutionReport {
            executed: self.executed,
            timestamp: self.timestamp,
            root: root.then(|| self.state.root()),
            sessions: self.state.sessions() as u64,
            user_keys: self.state.user_keys(),
            stored_bytes: self.state.stored_bytes(),
            waits_for_batches: !self.queue.is_empty() && !self.is_ready(),
        }
    }
}
