//! The execution role: applies batches in header order and answers clients.

use crate::interface::{ClientConnection, Effect};
use crate::library::{Library, Reader};
use crate::mail::Wanted;
use crate::report::{ExecutionReport, Fetching};
use crate::transfer::{Standing, ToPeer, Transfer};
use crate::usage::Usage;
use quorate_lanes::{Batch, Bundle};
use quorate_state::{BundleInput, Context, Forest, Frozen, Outcome, Reply, Salvage, State};
use quorate_types::mistakes::is_made;
use quorate_types::{
    ClusterConfig, Digest, LaneId, LaneNumber, Mistake, Nanoseconds, ReplicaId, Seq, Stage, View, limits,
};
use quorate_wire::message::{
    Attached, CheckpointCertificate, FetchCertificate, FetchPages, FetchedCertificate, FetchedPages,
};
use quorate_wire::reply::{ReplyBody, ReplyView};
use quorate_wire::{Frame, Header, LaneTip, Position, bundle, header};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// The bytes of bundles and of replies after which a turn ends, if not after [`limits::TURN_UNITS_MAX`], so that the core
/// comes back to its links and what waits for clients stays small. A turn ends between two bundles, so it may exceed this
/// by one of each.
const TURN_BYTES_MAX: usize = 2 * 1024 * 1024;

/// How far the first header of the queue is executed, when a turn ended inside it.
#[derive(Debug)]
struct Progress {
    /// What it names, in the order of execution.
    batches: Vec<Arc<Batch>>,
    /// The next bundle: the batch and the place in it.
    batch: usize,
    bundle: usize,
    /// The bundles so far whose home is this replica.
    own: u64,
}

/// A reply for a connection that is attached to its session.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) connection: ClientConnection,
    pub(crate) frame: Frame,
    /// Whether it is the home's, which carries results and not only their digest.
    pub(crate) results: bool,
}

/// A committed header that is not executed to its end.
#[derive(Debug, Clone)]
struct Committed {
    header: Arc<Header>,
    position: Position,
    at: Nanoseconds,
}

/// What a turn of execution brought about.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    pub(crate) replies: Vec<Answer>,
    /// The lanes' new executed tips.
    pub(crate) tips: Vec<LaneTip>,
    /// The states at slots at which a checkpoint is due, ascending.
    pub(crate) checkpoints: Vec<(Position, Nanoseconds, Frozen)>,
    /// Connections that newer ones of their sessions have replaced.
    pub(crate) replaced: Vec<ClientConnection>,
    /// Whether a header was executed to its end.
    pub(crate) progress: bool,
    bundles: u64,
    operations: u64,
    /// The bytes of bundles executed and of replies made.
    bytes: usize,
    /// What those bundles cost.
    units: u64,
}

impl Turn {
    fn is_over(&self) -> bool {
        self.bytes >= TURN_BYTES_MAX || self.units >= limits::TURN_UNITS_MAX
    }
}

/// A connection that is attached, and when it came among all that did.
#[derive(Clone, Copy, Debug)]
struct Attachment {
    connection: ClientConnection,
    number: u64,
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
    queue: VecDeque<Committed>,
    /// Set while the first header of the queue is executed in part.
    progress: Option<Progress>,
    tips: BTreeMap<LaneId, (LaneNumber, Digest)>,
    executed: Position,
    timestamp: Nanoseconds,
    view: View,
    /// Who gets which replies: the connection that came for them last.
    attached: BTreeMap<Wanted, Attachment>,
    attachments: u64,
    sessions: BTreeMap<ClientConnection, Wanted>,
    last_root: Option<(Position, Digest)>,
    /// The checkpoints that were given out and are of use yet, ascending.
    checkpoints: VecDeque<Checkpoint>,
    /// The highest certificate.
    stable: Option<Arc<CheckpointCertificate>>,
    /// The checkpoint up to which journals were last said to be trimmed.
    trimmed: Seq,
    /// Whether the own state is lost, or cannot be read: nothing is executed before one is taken over.
    lacks_state: bool,
    /// The state that the cluster began with, if that is not the empty one: its configuration proves it as a certificate
    /// does, though nobody has signed it and nobody is shown it.
    first: Option<Arc<CheckpointCertificate>>,
    /// Whether this replica never votes; it is no home for clients either.
    learner: bool,
    /// Whether the link roles were told last that clients are to find another home.
    following_told: bool,
    transfer: Transfer,
    library: Library,
    unserved: Unserved,
    usage: Usage,
}

/// What is committed, and as many others as answer for certain have nothing of, with when they had said so.
#[derive(Debug, Default)]
struct Unserved {
    /// The last batch of each lane that was looked for in vain.
    batches: BTreeMap<LaneId, (LaneTip, Nanoseconds)>,
    /// The highest header.
    header: Option<(Position, Nanoseconds)>,
}

/// What the role comes back with.
#[derive(Debug, Default)]
pub(crate) struct Beginning {
    pub(crate) state: Option<State>,
    /// The slot after which there is a state that cannot be read, and the timestamp of its header.
    pub(crate) broken: Option<(Position, Nanoseconds)>,
    /// Where the lanes stand.
    pub(crate) tips: Vec<LaneTip>,
    /// What is intact of states that cannot be read.
    pub(crate) salvage: Option<Arc<Salvage>>,
    pub(crate) part: Option<Forest>,
    pub(crate) stable: Option<Arc<CheckpointCertificate>>,
    pub(crate) learner: bool,
}

/// A state that came from others took the place of the own one.
#[derive(Debug)]
pub(crate) struct Installed {
    pub(crate) position: Position,
    pub(crate) timestamp: Nanoseconds,
    pub(crate) tips: Arc<[LaneTip]>,
}

/// A state that was given out to be made durable.
#[derive(Debug)]
struct Checkpoint {
    position: Position,
    tips: Arc<[LaneTip]>,
    state: Frozen,
    durable: bool,
}

impl ExecutionRole {
    pub(crate) fn new(config: Arc<ClusterConfig>, me: ReplicaId) -> Self {
        let clients = config.clients().iter().map(|key| *key.as_bytes());
        let state = State::new(clients);
        Self::over(config, me, state, &[])
    }

    /// The role with the state of a durable checkpoint; as before the first header when there is none, unless the
    /// cluster began with another state than the empty one. The state is served like any other, and the certificate may
    /// lead beyond it. Where it cannot be read, the role stands where it does, serves what is intact, and takes it over
    /// from others.
    pub(crate) fn recover(config: Arc<ClusterConfig>, me: ReplicaId, beginning: Beginning) -> Self {
        let Beginning { state, broken, tips, salvage, part, stable, learner } = beginning;
        let lacks_state = state.is_none() && (broken.is_some() || config.genesis_root().is_some());
        let first = config.genesis_root().map(|root| first_state(&config, root));
        let mut role = match (state, broken) {
            (Some(state), _) => Self::over(config, me, state, &tips),
            (None, Some((executed, timestamp))) => {
                Self { executed, timestamp, ..Self::over(config, me, State::new([]), &tips) }
            }
            (None, None) => Self::new(config, me),
        };
        role.stable = stable;
        role.library = Library::of(first.as_ref().map(|first| first.root));
        if role.state.header().is_some() {
            let (position, frozen) = (role.executed, role.state.freeze());
            role.add_durable(position, frozen.root(), frozen);
        } else if let Some(first) = first.as_ref().filter(|_| !lacks_state) {
            // Others may have lost it.
            role.library.add(first.position.seq, first.root, role.state.freeze(), Arc::new([]), None);
        }
        role.library.hold(salvage.clone());
        let answers = role.config.quorums().answers();
        let transfer = Transfer::resuming(answers, part, salvage);
        Self { lacks_state, first, learner, following_told: learner, transfer, ..role }
    }

    /// This is the present state, it is durable, and nothing older is of use.
    fn add_durable(&mut self, position: Position, root: Digest, state: Frozen) -> Arc<[LaneTip]> {
        let tips: Arc<[LaneTip]> = self.lane_tips().into();
        self.last_root = Some((position, root));
        self.library.add(position.seq, root, state.clone(), Arc::clone(&tips), self.stable.as_ref());
        self.checkpoints.clear();
        self.checkpoints.push_back(Checkpoint { position, tips: Arc::clone(&tips), state, durable: true });
        tips
    }

    fn over(config: Arc<ClusterConfig>, me: ReplicaId, state: State, tips: &[LaneTip]) -> Self {
        let state = state.limited(config.tuning().state);
        let answers = config.quorums().answers();
        let last = state.header();
        let executed = last.map_or_else(
            || header::genesis(config.digest()),
            |last| Position { seq: last.seq, digest: last.digest },
        );
        Self {
            config,
            me,
            state,
            pool: BTreeMap::new(),
            queue: VecDeque::new(),
            progress: None,
            tips: tips.iter().map(|tip| (tip.lane, (tip.upto, tip.chain))).collect(),
            executed,
            timestamp: last.map_or(Nanoseconds(0), |last| last.timestamp),
            view: View(0),
            attached: BTreeMap::new(),
            attachments: 0,
            sessions: BTreeMap::new(),
            last_root: None,
            checkpoints: VecDeque::new(),
            stable: None,
            trimmed: Seq(0),
            lacks_state: false,
            first: None,
            learner: false,
            following_told: false,
            transfer: Transfer::resuming(answers, None, None),
            library: Library::default(),
            unserved: Unserved::default(),
            usage: Usage::default(),
        }
    }

    pub(crate) fn executed(&self) -> Position {
        self.executed
    }

    /// A checkpoint's state is durable and its root is known. Those before it are of no more use. If it came from others,
    /// it takes the place of the own one.
    pub(crate) fn on_checkpointed(&mut self, position: Position, root: Digest) -> Option<Installed> {
        self.last_root = Some((position, root));
        let fetched = self.transfer.on_durable(position);
        let is_wanted = position.seq > self.executed.seq || self.lacks_state;
        if let Some(state) = fetched.filter(|_| is_wanted) {
            return Some(self.install(position, root, &state));
        }
        if let Some(own) = self.checkpoints.iter().find(|checkpoint| checkpoint.position == position) {
            self.library.add(
                position.seq,
                root,
                own.state.clone(),
                Arc::clone(&own.tips),
                self.stable.as_ref(),
            );
        }
        self.checkpoints.retain(|checkpoint| checkpoint.position.seq >= position.seq || checkpoint.durable);
        for checkpoint in &mut self.checkpoints {
            checkpoint.durable |= checkpoint.position == position;
        }
        None
    }

    fn install(&mut self, position: Position, root: Digest, frozen: &Frozen) -> Installed {
        self.state = State::from_frozen(frozen, self.config.tuning().state);
        self.lacks_state = false;
        let config = Arc::clone(&self.config);
        let tip = |lane| self.state.lane_tip(lane).map(|tip| (lane, tip));
        self.tips = config.lanes().filter_map(tip).collect();
        self.timestamp = self.state.header().map_or(Nanoseconds(0), |last| last.timestamp);
        self.executed = position;
        self.progress = None;
        self.queue.retain(|committed| committed.position.seq > position.seq);
        // Batches above the tips are taken back in the order of their lanes, as far as they descend from there.
        for (_, batch) in std::mem::take(&mut self.pool) {
            self.on_held(batch);
        }
        self.unserved = Unserved::default();
        let tips = self.add_durable(position, root, frozen.clone());
        Installed { position, timestamp: self.timestamp, tips }
    }

    pub(crate) fn on_peer(&mut self, peer: ReplicaId, connected: bool) {
        self.transfer.on_peer(peer, connected);
        if !connected {
            self.library.forget(Reader::Peer(peer));
        }
    }

    /// A peer has taken the last answer with pages.
    pub(crate) fn on_pages_taken(&mut self, peer: ReplicaId) {
        self.library.on_taken(peer);
    }

    /// A client's connection is gone.
    pub(crate) fn on_client_gone(&mut self, connection: ClientConnection) {
        self.on_detach(connection);
        self.library.forget(Reader::Client(connection));
    }

    /// Notes a question for pages of a state.
    pub(crate) fn ask_pages(&mut self, reader: Reader, question: FetchPages) {
        self.library.ask(reader, question);
    }

    /// The burst of inputs is over: the answers that leave with it.
    pub(crate) fn answer_pages(&mut self, now: Nanoseconds) -> Vec<(Reader, Frame)> {
        self.library.answers(now, self.config.tuning())
    }

    /// How often an answer with pages has used a peer's credit up since this was asked last.
    pub(crate) fn take_credits_used_up(&mut self) -> u64 {
        self.library.take_credits_used_up()
    }

    /// The certificate of the newest state that a client can copy.
    pub(crate) fn answer_certificate(
        &mut self,
        now: Nanoseconds,
        question: FetchCertificate,
    ) -> FetchedCertificate {
        let certificate = self.library.certified(now);
        FetchedCertificate { request: question.request, certificate }
    }

    /// Takes pages of a state that is fetched.
    ///
    /// # Errors
    /// When the certified state contradicts itself: going on would not be safe.
    pub(crate) fn on_pages(
        &mut self,
        now: Nanoseconds,
        peer: ReplicaId,
        pages: FetchedPages,
    ) -> Result<Vec<ToPeer>, String> {
        let config = Arc::clone(&self.config);
        let told = self.transfer.on_answer(now, config.tuning(), peer, pages);
        told.map_err(|fault| format!("a certified state has a page that is none: {fault}"))
    }

    /// Begins or goes on with taking over a state, if execution stands still behind a certified one.
    pub(crate) fn look_after_transfers(&mut self, now: Nanoseconds) -> Vec<ToPeer> {
        let config = Arc::clone(&self.config);
        let standing = Standing {
            executed: self.executed.seq,
            lacks_state: self.lacks_state,
            unserved_since: self.unserved_since(),
        };
        let target = self.stable.as_ref().or(self.first.as_ref());
        let own = || self.state.freeze();
        self.transfer.on_time(now, config.tuning(), target, standing, own)
    }

    /// A state that was fetched whole and is to be made durable.
    ///
    /// # Errors
    /// When the certified state contradicts itself or its certificate: going on would not be safe.
    pub(crate) fn fetched_state(&mut self) -> Result<Option<(Position, Nanoseconds, Frozen)>, String> {
        let whole = self.transfer.take_whole(self.executed.seq);
        let whole = whole.map_err(|fault| format!("a certified state contradicts itself: {fault}"))?;
        let Some((position, frozen)) = whole else { return Ok(None) };
        match State::from_frozen(&frozen, self.config.tuning().state).header() {
            Some(last) if (last.seq, last.digest) == (position.seq, position.digest) => {
                Ok(Some((position, last.timestamp, frozen)))
            }
            None if position.seq == Seq(0) => Ok(Some((position, Nanoseconds(0), frozen))),
            last => {
                let seq = position.seq;
                Err(format!("the state certified after header {seq} says that it follows {last:?}"))
            }
        }
    }

    /// Above which tips batches are to be kept for whoever copies a state, if that has changed.
    pub(crate) fn pins(&mut self, now: Nanoseconds) -> Option<Option<Arc<[LaneTip]>>> {
        self.library.on_time(now, self.config.tuning())
    }

    /// Whether clients are to find another home, if that has changed since it was last asked.
    pub(crate) fn following(&mut self) -> Option<bool> {
        let following = self.learner || self.lacks_state || self.transfer.is_fetching();
        (std::mem::replace(&mut self.following_told, following) != following).then_some(following)
    }

    /// The next time at which there is something to do: at once, or for transfers.
    pub(crate) fn deadline(&self) -> Option<Nanoseconds> {
        if self.is_ready() {
            return Some(Nanoseconds(0));
        }
        let library = self.library.deadline(self.config.tuning());
        [self.transfer.deadline(), library].into_iter().flatten().min()
    }

    pub(crate) fn on_stable(&mut self, certificate: Arc<CheckpointCertificate>) {
        self.library.certify(&certificate);
        self.stable = Some(certificate);
    }

    /// Of the durable states, only those after these slots are needed, and later ones. The lane tips of the lowest, if
    /// that is news.
    pub(crate) fn on_states_needed(&mut self, needed: &[Seq]) -> Option<Arc<[LaneTip]>> {
        let (lowest, highest) = (*needed.first()?, *needed.last()?);
        self.checkpoints.retain(|checkpoint| {
            let seq = checkpoint.position.seq;
            !checkpoint.durable || seq > highest || needed.binary_search(&seq).is_ok()
        });
        let settled = self.checkpoints.iter().find(|checkpoint| checkpoint.position.seq == lowest)?;
        let tips = Arc::clone(&settled.tips);
        (std::mem::replace(&mut self.trimmed, lowest) < lowest).then_some(tips)
    }

    pub(crate) fn last_root(&self) -> Option<(Position, Digest)> {
        self.last_root
    }

    pub(crate) fn pooled(&self) -> usize {
        self.pool.len() + self.queue.len()
    }

    /// Takes a batch that descends from its lane's executed tip; any other will never be committed.
    pub(crate) fn on_held(&mut self, batch: Arc<Batch>) {
        if self.descends(&batch) {
            self.pool.insert((batch.lane(), batch.number(), batch.chain()), batch);
        }
    }

    /// A batch can never be committed any more.
    pub(crate) fn on_let_go(&mut self, tip: &LaneTip) {
        self.pool.remove(&(tip.lane, tip.upto, tip.chain));
    }

    /// As many others as answer for certain have nothing of a batch of a lane; or somebody has served it after all.
    pub(crate) fn on_unserved_batch(&mut self, now: Nanoseconds, lane: LaneId, unserved: Option<LaneTip>) {
        let earlier = self.unserved.batches.remove(&lane).filter(|(tip, _)| !self.has_come(tip));
        if let Some(tip) = unserved {
            self.unserved.batches.insert(lane, (tip, earlier.map_or(now, |(_, since)| since)));
        }
    }

    /// Whether a batch is here or executed, or another in its place.
    fn has_come(&self, tip: &LaneTip) -> bool {
        tip.upto <= self.tip(tip.lane).0 || self.pool.contains_key(&(tip.lane, tip.upto, tip.chain))
    }

    /// As many others as answer for certain have nothing of a header; or somebody has served it after all.
    pub(crate) fn on_unserved_header(&mut self, now: Nanoseconds, unserved: Option<Position>) {
        let since = self.unserved.header.map_or(now, |(_, since)| since);
        let unserved = unserved.filter(|position| position.seq > self.committed().seq);
        self.unserved.header = unserved.map(|position| (position, since));
    }

    /// Since when what is to be executed next is looked for in vain, where it is not here. Whoever has trimmed a batch has
    /// trimmed those before it, so what is looked for in vain may lie above what comes next.
    fn unserved_since(&self) -> Option<Nanoseconds> {
        let Some(next) = self.queue.front() else { return self.unserved.header.map(|(_, since)| since) };
        if self.unserved.batches.is_empty() || self.progress.is_some() {
            return None;
        }
        let in_vain = |named: &LaneTip| {
            let (tip, since) = *self.unserved.batches.get(&named.lane)?;
            let is_here = self.has_come(&tip) || self.add_batches(named, &mut Vec::new()).is_some();
            (!is_here).then_some(since)
        };
        next.header.cut.iter().filter_map(in_vain).min()
    }

    /// The last header that is committed.
    fn committed(&self) -> Position {
        self.queue.back().map_or(self.executed, |committed| committed.position)
    }

    fn descends(&self, batch: &Batch) -> bool {
        let (executed, chain) = self.tip(batch.lane());
        let before = (batch.lane(), batch.number().previous(), batch.previous());
        if batch.number() <= executed.next() {
            return batch.number() > executed && batch.previous() == chain;
        }
        self.pool.contains_key(&before)
    }

    pub(crate) fn on_committed(
        &mut self,
        header: Arc<Header>,
        position: Position,
        view: View,
        at: Nanoseconds,
    ) {
        if position.seq <= self.executed.seq {
            // A state that came from others covers it.
            return;
        }
        let last = self.committed();
        assert_eq!(header.seq, last.seq.next(), "headers are committed in order");
        assert_eq!(header.parent, last.digest, "committed headers are one chain");
        self.view = view;
        self.queue.push_back(Committed { header, position, at });
        self.unserved.header = self.unserved.header.filter(|(unserved, _)| unserved.seq > position.seq);
    }

    /// A connection wants the replies of one session; one it wanted before is given up. The answer for it, and the
    /// connection that it replaces.
    pub(crate) fn on_attach(
        &mut self,
        connection: ClientConnection,
        wanted: Wanted,
    ) -> (Attached, Option<ClientConnection>) {
        self.attachments += 1;
        let replaced = self.attach(Attachment { connection, number: self.attachments }, wanted);
        (Attached { executed: self.executed.seq }, replaced)
    }

    /// Of two connections that want the same, the newer one gets it; the other is returned: it is half dead, or would have
    /// everything sent once more for nothing.
    fn attach(&mut self, attachment: Attachment, wanted: Wanted) -> Option<ClientConnection> {
        self.on_detach(attachment.connection);
        let present = self.attached.get(&wanted).copied();
        if present.is_some_and(|present| present.number > attachment.number) {
            return Some(attachment.connection);
        }
        self.sessions.insert(attachment.connection, wanted);
        self.attached.insert(wanted, attachment);
        let replaced = present.map(|present| present.connection)?;
        self.sessions.remove(&replaced);
        Some(replaced)
    }

    pub(crate) fn on_detach(&mut self, connection: ClientConnection) {
        if let Some(wanted) = self.sessions.remove(&connection) {
            self.attached.remove(&wanted);
        }
    }

    fn lane_tips(&self) -> Vec<LaneTip> {
        let tip = |(lane, (upto, chain)): (&LaneId, &(LaneNumber, Digest))| LaneTip {
            lane: *lane,
            upto: *upto,
            chain: *chain,
        };
        self.tips.iter().map(tip).collect()
    }

    fn tip(&self, lane: LaneId) -> (LaneNumber, Digest) {
        self.tips.get(&lane).copied().unwrap_or((LaneNumber(0), Digest::ZERO))
    }

    /// Whether the next committed header can be executed now.
    fn is_ready(&self) -> bool {
        self.progress.is_some()
            || self.queue.front().is_some_and(|committed| self.batches(&committed.header).is_some())
    }

    /// The batches that a header names, in the order of execution, if all are here, and a state to execute them on.
    fn batches(&self, header: &Header) -> Option<Vec<Arc<Batch>>> {
        if self.lacks_state {
            return None;
        }
        let mut batches = Vec::new();
        for tip in &header.cut {
            self.add_batches(tip, &mut batches)?;
        }
        Some(batches)
    }

    /// Adds the batches above what is executed of a lane, ascending, if all are here.
    fn add_batches(&self, tip: &LaneTip, batches: &mut Vec<Arc<Batch>>) -> Option<()> {
        let (floor, floor_chain) = self.tip(tip.lane);
        let (mut number, mut chain) = (tip.upto, tip.chain);
        let first = batches.len();
        while number > floor {
            let batch = self.pool.get(&(tip.lane, number, chain))?;
            batches.push(Arc::clone(batch));
            (number, chain) = (number.previous(), batch.previous());
        }
        assert_eq!(chain, floor_chain, "a committed cut extends the executed chain of lane {}", tip.lane);
        batches[first..].reverse();
        Some(())
    }

    /// What clients' keys have used lately, if that is news.
    pub(crate) fn uses(&mut self, now: Nanoseconds) -> Option<Arc<[u32]>> {
        self.usage.take(now)
    }

    /// Executes what is ready, up to a bounded amount.
    pub(crate) fn run(&mut self, effects: &mut Vec<Effect>) -> Turn {
        let mut turn = Turn::default();
        while !turn.is_over()
            && let Some(Committed { header, position, at }) = self.queue.front().cloned()
        {
            let ready = |batches| Progress { batches, batch: 0, bundle: 0, own: 0 };
            let Some(mut progress) = self.progress.take().or_else(|| self.batches(&header).map(ready)) else {
                break;
            };
            if self.execute_bundles(&header, &mut progress, &mut turn) {
                self.queue.pop_front();
                self.finish(&header, position, &mut turn);
                let (stage, since, bundles) = (Stage::Executed, Some(at), progress.own);
                if bundles > 0 {
                    effects.push(Effect::StageEnds { stage, since, bundles });
                }
            } else {
                self.progress = Some(progress);
            }
        }
        if turn.progress {
            turn.tips = self.lane_tips();
        }
        if turn.bundles > 0 {
            let Turn { bundles, operations, .. } = turn;
            let declined_full = self.state.take_declined_full();
            effects.push(Effect::Executed { bundles, operations, declined_full });
        }
        turn
    }

    /// Executes bundles until the header or the turn is at its end; says whether the header is.
    fn execute_bundles(&mut self, header: &Header, progress: &mut Progress, turn: &mut Turn) -> bool {
        let context = Context { seq: header.seq, timestamp: header.timestamp };
        while let Some(batch) = progress.batches.get(progress.batch) {
            while let Some(bundle) = batch.bundles().get(progress.bundle) {
                if turn.is_over() {
                    return false;
                }
                self.execute_bundle(context, batch, bundle, turn);
                progress.bundle += 1;
            }
            if batch.lane().origin == self.me {
                progress.own += batch.bundles().len() as u64;
            }
            self.state.note_executed_bytes(batch.bytes() as u64);
            progress.batch += 1;
            progress.bundle = 0;
        }
        true
    }

    fn finish(&mut self, header: &Header, position: Position, turn: &mut Turn) {
        for tip in &header.cut {
            let advance = tip.upto.since(self.tip(tip.lane).0);
            self.state.note_lane_tip(tip.lane, tip.upto, tip.chain);
            self.tips.insert(tip.lane, (tip.upto, tip.chain));
            if self.drop_executed(tip) > advance {
                self.drop_dead_forks(tip);
            }
        }
        self.state.note_header(header.seq, position.digest, header.timestamp);
        self.executed = position;
        self.timestamp = header.timestamp;
        turn.progress = true;
        let tuning = self.config.tuning();
        // An empty header asks for nothing else.
        let asks = header.cut.is_empty();
        if asks || self.state.is_checkpoint_due(tuning.checkpoint_interval, tuning.checkpoint_bytes) {
            let state = self.state.checkpoint();
            let (tips, durable) = (self.lane_tips().into(), false);
            self.checkpoints.push_back(Checkpoint { position, tips, state: state.clone(), durable });
            turn.checkpoints.push((position, header.timestamp, state));
        }
    }

    /// Batches at or below an executed tip are of no more use, whatever chain they are on. Returns their number.
    fn drop_executed(&mut self, tip: &LaneTip) -> u64 {
        let from = (tip.lane, LaneNumber(0), Digest::ZERO);
        let upto = (tip.lane, tip.upto, Digest([u8::MAX; 32]));
        let mut dropped = 0;
        while let Some((key, _)) = self.pool.range(from..=upto).next() {
            let key = *key;
            self.pool.remove(&key);
            dropped += 1;
        }
        dropped
    }

    /// A fork was dropped at or below an executed tip: what descends from it goes too.
    fn drop_dead_forks(&mut self, tip: &LaneTip) {
        let from = (tip.lane, LaneNumber(0), Digest::ZERO);
        let upto = (tip.lane, LaneNumber(u64::MAX), Digest([u8::MAX; 32]));
        let above: Vec<Arc<Batch>> =
            self.pool.range(from..=upto).map(|(_, batch)| Arc::clone(batch)).collect();
        for batch in above {
            if !self.descends(&batch) {
                self.pool.remove(&(batch.lane(), batch.number(), batch.chain()));
            }
        }
    }

    fn execute_bundle(&mut self, context: Context, batch: &Batch, bundle: &Bundle, turn: &mut Turn) {
        turn.bytes += bundle::HEAD_BYTES + batch.body(bundle).len();
        // A wrong signature condemns its bundle, not the batch; every replica sees the same verdict.
        if !bundle.signed || (self.view.0 % 2 == 1 && is_made(Mistake::JudgesByView)) {
            return;
        }
        let home = batch.lane().origin == self.me;
        let operations = batch.operations(bundle);
        let head = &bundle.head;
        let units = bundle::units(operations, bundle::HEAD_BYTES + batch.body(bundle).len());
        turn.units += u64::from(units);
        let (client, session, number, request) = (&head.client, head.session, head.number, head.body);
        let wanted = Wanted::Session(session, head.client);
        let input = BundleInput { client, session, number, request, operations };
        let outcome = self.state.execute(context, input);
        // What takes no effect may have been sent again by anybody, but here its client has sent it.
        if (home || matches!(outcome, Outcome::Executed(_)))
            && let Some(key) = self.config.client_index(client)
        {
            self.usage.note(key, units);
        }
        match outcome {
            Outcome::Executed(reply) => {
                turn.bundles += 1;
                turn.operations += operations.len() as u64;
                self.reply(&wanted, &reply, home, turn);
            }
            Outcome::Repeated(reply) => self.reply(&wanted, &reply, home, turn),
            Outcome::Refused(reply) => self.reply_shortly(&wanted, &reply, home, turn),
            Outcome::Gone { session, number, request, seq } => {
                let (view, digest, body) = (self.view, Digest::ZERO, ReplyBody::Gone);
                let gone = ReplyView { session, number, seq, view, request, digest, body };
                self.answer(&wanted, &gone, false, turn);
            }
            Outcome::Registration { nonce, session, fresh, reply } => {
                turn.bundles += u64::from(fresh);
                turn.operations += u64::from(fresh);
                let registration = Wanted::Registration(nonce, head.client);
                self.reply_shortly(&registration, &reply, home, turn);
                if let Some(session) = session {
                    let replaced =
                        self.attach_to_session(&registration, Wanted::Session(session, head.client));
                    turn.replaced.extend(replaced);
                }
            }
            Outcome::Skipped(_) => {}
        }
    }

    /// A registration has opened its session: whoever waits for it wants the session's replies, too.
    fn attach_to_session(&mut self, registration: &Wanted, session: Wanted) -> Option<ClientConnection> {
        let attachment = self.attached.get(registration).copied()?;
        self.attach(attachment, session)
    }

    /// The home replica, whose lane carried the bundle, sends the results; the others vouch for the digest.
    fn reply(&self, wanted: &Wanted, reply: &Reply, home: bool, turn: &mut Turn) {
        let body = if home { ReplyBody::Results(reply.results()) } else { ReplyBody::DigestOnly };
        self.answer(wanted, &self.view_of(reply, body), home, turn);
    }

    /// Every replica sends the results, as they are short: no home can keep them back.
    fn reply_shortly(&self, wanted: &Wanted, reply: &Reply, home: bool, turn: &mut Turn) {
        self.answer(wanted, &self.view_of(reply, ReplyBody::Results(reply.results())), home, turn);
    }

    fn view_of<'r>(&self, reply: &Reply, body: ReplyBody<'r>) -> ReplyView<'r> {
        let Reply { session, number, request, seq, digest, .. } = *reply;
        ReplyView { session, number, seq, view: self.view, request, digest, body }
    }

    fn answer(&self, wanted: &Wanted, reply: &ReplyView<'_>, results: bool, turn: &mut Turn) {
        let Some(Attachment { connection, .. }) = self.attached.get(wanted).copied() else { return };
        let frame = reply.encode();
        turn.bytes += frame.bytes().len();
        turn.replies.push(Answer { connection, frame, results });
    }

    pub(crate) fn report(&mut self, root: bool) -> ExecutionReport {
        ExecutionReport {
            executed: self.executed,
            timestamp: self.timestamp,
            root: (root && self.progress.is_none() && !self.lacks_state).then(|| self.state.root()),
            sessions: self.state.sessions() as u64,
            reply_bytes: self.state.reply_bytes(),
            user_keys: self.state.user_keys(),
            stored_bytes: self.state.stored_bytes(),
            user_bytes: self.state.user_bytes(),
            next: self.queue.front().map(|committed| committed.position.seq),
            waits_for_batches: !self.queue.is_empty() && !self.lacks_state && !self.is_ready(),
            lacks_state: self.lacks_state,
            learner: self.learner,
            fetching: self
                .transfer
                .target()
                .zip(self.transfer.figures())
                .map(|(target, (pages, reused))| Fetching { seq: target.seq, pages, reused }),
        }
    }
}

/// What stands for the certificate of the state that a cluster began with.
fn first_state(config: &ClusterConfig, root: Digest) -> Arc<CheckpointCertificate> {
    let (position, next_config) = (header::genesis(config.digest()), config.digest());
    Arc::new(CheckpointCertificate { position, root, next_config, signatures: Vec::new() })
}
