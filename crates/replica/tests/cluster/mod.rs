//! Replicas in memory: an instant network, disks that are as slow as they are told, mail between cores, and a
//! log of all that left.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

use quorate_journal::LostBatch;
use quorate_replica::mail::Mail;
use quorate_replica::report::RoleReport;
use quorate_replica::{
    Answered, ClientConnection, Core, Effect, Found, Frozen, Input, Layout, Record, Recovery, Reject,
    ReplicaSetup,
};
use quorate_state::State;
use quorate_types::{
    BundleNumber, ClusterConfig, Condition, CoreId, JournalId, LinkId, Lsn, Nanoseconds, Nonce, Operation,
    OperationResult, ReplicaId, SessionId, SigningKey, Stage, StageTime, Tuning,
};
use quorate_wire::message::{Attach, Message};
use quorate_wire::reply::ReplyBody;
use quorate_wire::{Frame, Kind, Position, ReplyView, bundle, testing};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

pub(crate) const R0: ReplicaId = ReplicaId(0);
pub(crate) const R1: ReplicaId = ReplicaId(1);
pub(crate) const R2: ReplicaId = ReplicaId(2);
pub(crate) const R3: ReplicaId = ReplicaId(3);

/// A frame that left a replica.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) from: ReplicaId,
    pub(crate) to: ReplicaId,
    pub(crate) link: LinkId,
    pub(crate) frame: Frame,
}

/// A reply as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeenReply {
    pub(crate) replica: ReplicaId,
    pub(crate) number: u64,
    pub(crate) seq: u64,
    pub(crate) digest: [u8; 32],
    pub(crate) with_results: bool,
}

pub(crate) struct Machine {
    pub(crate) cores: Vec<Core>,
    /// The records of each journal: which core appends, how far it has grown, and how far that is durable.
    pub(crate) journals: BTreeMap<JournalId, (CoreId, Lsn, Lsn)>,
    /// What was appended and not trimmed.
    pub(crate) records: Vec<(JournalId, Lsn, Record)>,
    /// Batches that went bad.
    pub(crate) lost: Vec<LostBatch>,
    /// The newest state that is durable.
    pub(crate) checkpoint: Option<Frozen>,
    /// A slow disk makes durable only what it is told to.
    pub(crate) slow: bool,
    /// Neither takes nor sends anything.
    pub(crate) crashed: bool,
    dirty: BTreeSet<usize>,
    connections: u64,
}

pub(crate) struct Cluster {
    pub(crate) config: Arc<ClusterConfig>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) now: Nanoseconds,
    layout: Layout,
    flights: VecDeque<Sent>,
    mails: VecDeque<(usize, CoreId, Mail)>,
    /// States that are to be hashed.
    states: VecDeque<(ReplicaId, CoreId, Position, Frozen)>,
    /// Who takes nothing of what it is sent, and what it is to be told when it does.
    pub(crate) takes_nothing: BTreeSet<ReplicaId>,
    untaken: Vec<(ReplicaId, ReplicaId, LinkId, Answered)>,
    /// Pairs between which nothing arrives.
    pub(crate) cut: BTreeSet<(ReplicaId, ReplicaId)>,
    pub(crate) sent: Vec<Sent>,
    pub(crate) to_clients: Vec<(ReplicaId, ClientConnection, Frame)>,
    pub(crate) rejects: Vec<(ReplicaId, Reject)>,
    pub(crate) closed_clients: Vec<(ReplicaId, ClientConnection, Reject)>,
    pub(crate) replaced_clients: Vec<(ReplicaId, ClientConnection)>,
    pub(crate) closed_peers: Vec<(ReplicaId, ReplicaId, Reject)>,
    pub(crate) reports: Vec<(ReplicaId, ClientConnection, RoleReport)>,
    pub(crate) operations: BTreeMap<ReplicaId, u64>,
    /// The most that one turn has executed.
    pub(crate) largest_turn: u64,
    /// Bundles that have waited at their homes.
    pub(crate) waits: BTreeMap<ReplicaId, u64>,
    /// How often a credit for answers was used up, and one for signature checks did not cover something.
    pub(crate) bitten: (u64, u64),
    /// The bundles that have passed each stage, by home.
    pub(crate) stages: BTreeMap<(ReplicaId, Stage), u64>,
    /// The most bytes that one step sent to clients.
    pub(crate) largest_step_to_clients: usize,
    /// The most bytes of pages of states that one step sent to anyone.
    pub(crate) largest_step_of_pages: usize,
    /// What a liar does with each frame that it gets.
    pub(crate) liar: Option<(ReplicaId, Liar)>,
    /// Frames that their sender never sent.
    pub(crate) withheld: Option<fn(&Sent) -> bool>,
}

pub(crate) type Liar = Box<dyn FnMut(&mut Cluster, &Sent)>;

impl Cluster {
    pub(crate) fn new(replicas: u8, links: u8, cores: usize) -> Self {
        Self::with(replicas, links, cores, |_| ())
    }

    pub(crate) fn with(replicas: u8, links: u8, cores: usize, tune: impl FnOnce(&mut Tuning)) -> Self {
        let mut tuning = Tuning::default();
        tune(&mut tuning);
        Self::over(testing::config_with_links(replicas, links).with_tuning(tuning), cores, None)
    }

    /// A cluster of one core each that begins with `state`.
    pub(crate) fn restored(replicas: u8, state: &Frozen, tune: impl FnOnce(&mut Tuning)) -> Self {
        let mut tuning = Tuning::default();
        tune(&mut tuning);
        Self::over(testing::restored_config(replicas, state.root()).with_tuning(tuning), 1, Some(state))
    }

    fn over(config: ClusterConfig, cores: usize, state: Option<&Frozen>) -> Self {
        let config = Arc::new(config);
        let layout = Layout::new(&config, cores);
        let machine = |me: ReplicaId| {
            let setup =
                ReplicaSetup { config: Arc::clone(&config), me, key: testing::replica_key(me.0), cores };
            let cores_of = |state| {
                let found = Found { state: Some(thawed(state)), ..Found::default() };
                let mut recovery = Recovery::of(&setup, found).expect("empty logs");
                layout.all().map(|core| Core::recover(&setup, core, &mut recovery)).collect()
            };
            let new = || layout.all().map(|core| Core::new(&setup, core)).collect();
            Machine {
                cores: state.map_or_else(new, cores_of),
                journals: BTreeMap::new(),
                records: Vec::new(),
                lost: Vec::new(),
                checkpoint: None,
                slow: false,
                crashed: false,
                dirty: (0..cores).collect(),
                connections: 0,
            }
        };
        let machines = config.replica_ids().map(machine).collect();
        let mut cluster = Self {
            machines,
            now: Nanoseconds::from_millis(1_000_000),
            layout,
            flights: VecDeque::new(),
            mails: VecDeque::new(),
            states: VecDeque::new(),
            takes_nothing: BTreeSet::new(),
            untaken: Vec::new(),
            cut: BTreeSet::new(),
            sent: Vec::new(),
            to_clients: Vec::new(),
            rejects: Vec::new(),
            closed_clients: Vec::new(),
            replaced_clients: Vec::new(),
            closed_peers: Vec::new(),
            reports: Vec::new(),
            operations: BTreeMap::new(),
            largest_turn: 0,
            waits: BTreeMap::new(),
            bitten: (0, 0),
            stages: BTreeMap::new(),
            largest_step_of_pages: 0,
            liar: None,
            withheld: None,
            largest_step_to_clients: 0,
            config,
        };
        for me in cluster.ids() {
            for peer in cluster.ids().into_iter().filter(|peer| *peer != me) {
                for link in cluster.config.link_ids() {
                    cluster.peer_input(me, link, Input::PeerConnected { peer, link });
                }
            }
        }
        cluster.run();
        cluster.sent.clear();
        cluster
    }

    pub(crate) fn ids(&self) -> Vec<ReplicaId> {
        self.config.replica_ids().collect()
    }

    pub(crate) fn machine(&mut self, id: ReplicaId) -> &mut Machine {
        &mut self.machines[id.index()]
    }

    pub(crate) fn peer_input(&mut self, me: ReplicaId, link: LinkId, input: Input<'_>) {
        self.step(me, self.layout.core_of_link(link), input);
    }

    /// A frame reaches `to` as if `from` had sent it on link 0.
    pub(crate) fn inject(&mut self, from: ReplicaId, to: ReplicaId, frame: &Frame) {
        let link = LinkId(0);
        self.peer_input(to, link, Input::PeerFrame { peer: from, link, frame: frame.as_frame_ref() });
    }

    pub(crate) fn step(&mut self, me: ReplicaId, core: CoreId, input: Input<'_>) {
        let now = self.now;
        let machine = &mut self.machines[me.index()];
        if machine.crashed {
            return;
        }
        if !matches!(input, Input::TickEnd) {
            machine.dirty.insert(core.index());
        }
        let mut effects = Vec::new();
        machine.cores[core.index()].step(now, input, &mut effects);
        let to_clients = |effect: &Effect| match effect {
            Effect::SendClient { frame, .. } => frame.bytes().len(),
            _ => 0,
        };
        let bytes = effects.iter().map(to_clients).sum();
        self.largest_step_to_clients = self.largest_step_to_clients.max(bytes);
        let of_pages = |effect: &Effect| match effect {
            Effect::SendPeer { frame, .. } | Effect::SendClient { frame, .. }
                if frame.kind() == Kind::FetchedPages =>
            {
                frame.bytes().len()
            }
            _ => 0,
        };
        self.largest_step_of_pages = self.largest_step_of_pages.max(effects.iter().map(of_pages).sum());
        effects.into_iter().for_each(|effect| self.carry_out(me, core, effect));
    }

    fn carry_out(&mut self, me: ReplicaId, core: CoreId, effect: Effect) {
        match effect {
            Effect::Append { journal, lsn, record, .. } => {
                self.machines[me.index()].records.push((journal, lsn, record));
                let journals = &mut self.machines[me.index()].journals;
                let (owner, appended, _) = journals.entry(journal).or_insert((core, Lsn(0), Lsn(0)));
                assert_eq!((*owner, appended.next()), (core, lsn), "records of a journal are consecutive");
                *appended = lsn;
            }
            Effect::Trim { journal, upto } => {
                let records = &mut self.machines[me.index()].records;
                records.retain(|(other, lsn, _)| *other != journal || *lsn > upto);
            }
            Effect::ReadBack { journal, lsn } => {
                let records = &self.machines[me.index()].records;
                let found = records.iter().find(|(other, at, _)| (*other, *at) == (journal, lsn));
                let record = found.map(|(.., record)| record.clone());
                self.step(me, core, Input::ReadBack { journal, lsn, record });
            }
            Effect::SendPeer { peer, link, frame } => {
                assert_ne!(peer, me);
                assert_eq!(self.layout.core_of_link(link), core, "a core sends on its own links");
                let sent = Sent { from: me, to: peer, link, frame };
                self.sent.push(sent.clone());
                self.flights.push_back(sent);
            }
            Effect::AwaitTaken { peer, link, answered } => {
                assert_eq!(self.layout.core_of_link(link), core, "a core awaits what its own links take");
                self.untaken.push((me, peer, link, answered));
                self.tell_taken();
            }
            Effect::SendClient { connection, frame } => {
                assert_eq!(connection.core, core, "a core sends to its own clients");
                self.to_clients.push((me, connection, frame));
            }
            Effect::ClosePeer { peer, reject, .. } => self.closed_peers.push((me, peer, reject)),
            Effect::CloseClient { connection, reject } => self.closed_clients.push((me, connection, reject)),
            Effect::ClientReplaced { connection } => self.replaced_clients.push((me, connection)),
            Effect::Mail { core, mail } => self.mails.push_back((me.index(), core, mail)),
            Effect::KeepPart { .. }
            | Effect::KeepStates(_)
            | Effect::ViewEntered { .. }
            | Effect::ViewLeft { .. } => {}
            Effect::Bitten { credits_used_up, checks_uncovered } => {
                self.bitten.0 += credits_used_up;
                self.bitten.1 += checks_uncovered;
            }
            Effect::Checkpoint { position, state, .. } => self.states.push_back((me, core, position, state)),
            Effect::Report { connections, report } => {
                let told = connections.into_iter().map(|connection| (me, connection, (*report).clone()));
                self.reports.extend(told);
            }
            Effect::Rejected(reject) => self.rejects.push((me, reject)),
            Effect::Executed { operations, .. } => {
                self.largest_turn = self.largest_turn.max(operations);
                *self.operations.entry(me).or_default() += operations;
            }
            Effect::BundlesWait { bundles } => *self.waits.entry(me).or_default() += bundles,
            Effect::Stage(StageTime { stage, bundles, elapsed_ns }) => {
                assert!(elapsed_ns < self.now.0, "a stage that began before time did");
                *self.stages.entry((me, stage)).or_default() += bundles;
            }
            Effect::StageEnds { stage, bundles, .. } => {
                *self.stages.entry((me, stage)).or_default() += bundles;
            }
            Effect::Halt { reason } => panic!("r{me} halts: {reason}"),
        }
    }

    /// Tells the cores what is taken of what was sent.
    pub(crate) fn tell_taken(&mut self) {
        let nothing = self.takes_nothing.clone();
        let (untaken, taken) =
            std::mem::take(&mut self.untaken).into_iter().partition(|(_, peer, ..)| nothing.contains(peer));
        self.untaken = untaken;
        for (me, peer, link, answered) in taken {
            self.peer_input(me, link, Input::PeerTook { peer, link, answered });
        }
    }

    /// Tells the cores what their disks have made durable of one journal, up to `upto`.
    pub(crate) fn make_durable(&mut self, me: ReplicaId, journal: JournalId, upto: Lsn) {
        let Some((core, _, durable)) = self.machines[me.index()].journals.get_mut(&journal) else { return };
        *durable = upto;
        let core = *core;
        self.step(me, core, Input::Durable { journal, upto });
    }

    /// The end of a journal.
    pub(crate) fn appended(&self, me: ReplicaId, journal: JournalId) -> Lsn {
        self.machines[me.index()].journals.get(&journal).map_or(Lsn(0), |(_, appended, _)| *appended)
    }

    /// Delivers everything until nothing moves.
    pub(crate) fn run(&mut self) {
        for _ in 0..100_000 {
            if !self.run_once() {
                return;
            }
        }
        panic!("the cluster does not come to rest");
    }

    fn run_once(&mut self) -> bool {
        let mut moved = false;
        while let Some(sent) = self.flights.pop_front() {
            moved = true;
            if let Some((me, mut liar)) = self.liar.take() {
                if me == sent.to {
                    liar(self, &sent);
                }
                self.liar = Some((me, liar));
            }
            if self.withheld.is_some_and(|withheld| withheld(&sent)) {
                continue;
            }
            let Sent { from, to, link, frame } = sent;
            if !self.cut.contains(&(from, to)) && !self.machines[from.index()].crashed {
                self.peer_input(to, link, Input::PeerFrame { peer: from, link, frame: frame.as_frame_ref() });
            }
        }
        while let Some((me, core, mail)) = self.mails.pop_front() {
            moved = true;
            self.step(self.ids()[me], core, Input::Mail(mail));
        }
        while let Some((me, core, position, state)) = self.states.pop_front() {
            moved = true;
            let root = state.root();
            self.machine(me).checkpoint = Some(state);
            self.step(me, core, Input::Checkpointed { position, root });
        }
        for me in self.ids() {
            moved |= self.tick(me);
            if !self.machine(me).slow {
                let journals = self.machine(me).journals.clone();
                for (journal, (_, appended, durable)) in journals {
                    if appended > durable {
                        moved = true;
                        self.make_durable(me, journal, appended);
                    }
                }
            }
        }
        moved
    }

    fn tick(&mut self, me: ReplicaId) -> bool {
        let now = self.now;
        let machine = self.machine(me);
        let mut due = std::mem::take(&mut machine.dirty);
        for (index, core) in machine.cores.iter().enumerate() {
            if core.deadline().is_some_and(|deadline| deadline <= now) {
                due.insert(index);
            }
        }
        if machine.crashed {
            return false;
        }
        for core in &due {
            self.step(me, CoreId(u8::try_from(*core).expect("few cores")), Input::TickEnd);
        }
        !due.is_empty()
    }

    /// Lets the retransmission time pass, `times` times.
    pub(crate) fn wait(&mut self, times: u64) {
        for _ in 0..times {
            self.now = self.now.plus(self.config.tuning().retransmit.0);
            for machine in &mut self.machines {
                machine.dirty.extend(0..machine.cores.len());
            }
            self.run();
        }
    }

    /// Frames of a kind that a replica has sent.
    pub(crate) fn sent_by(&self, from: ReplicaId, kind: Kind) -> Vec<Frame> {
        let of = |sent: &&Sent| sent.from == from && sent.frame.kind() == kind;
        self.sent.iter().filter(of).map(|sent| sent.frame.clone()).collect()
    }

    pub(crate) fn connect(&mut self, replica: ReplicaId, core: CoreId, key: &SigningKey) -> ClientConnection {
        let machine = self.machine(replica);
        machine.connections += 1;
        let connection = ClientConnection { core, number: machine.connections };
        self.step(replica, core, Input::ClientConnected { connection, key: *key.public().as_bytes() });
        connection
    }

    pub(crate) fn client_frame(&mut self, replica: ReplicaId, connection: ClientConnection, frame: &Frame) {
        let frame = frame.as_frame_ref();
        self.step(replica, connection.core, Input::ClientFrame { connection, frame });
    }

    /// The replies that arrived at one connection.
    pub(crate) fn replies(&self, replica: ReplicaId, connection: ClientConnection) -> Vec<SeenReply> {
        let to_it = self.to_clients.iter().filter(|(from, to, _)| (*from, *to) == (replica, connection));
        to_it
            .filter(|(_, _, frame)| frame.kind() == Kind::Reply)
            .map(|(_, _, frame)| {
                let reply = ReplyView::parse(frame.payload()).expect("an own reply");
                SeenReply {
                    replica,
                    number: reply.number.0,
                    seq: reply.seq.0,
                    digest: reply.digest.0,
                    with_results: matches!(reply.body, ReplyBody::Results(_)),
                }
            })
            .collect()
    }

    /// A replica is gone, and with it all that is not durable; its peers notice.
    pub(crate) fn crash(&mut self, me: ReplicaId) {
        self.machine(me).crashed = true;
        for peer in self.ids().into_iter().filter(|peer| *peer != me) {
            for link in self.config.link_ids() {
                self.peer_input(peer, link, Input::PeerDisconnected { peer: me, link });
            }
        }
    }

    /// From their next restart on replicas have so many cores; all must have crashed.
    pub(crate) fn set_cores(&mut self, cores: usize) {
        assert!(self.machines.iter().all(|machine| machine.crashed));
        self.layout = Layout::new(&self.config, cores);
    }

    pub(crate) fn setup(&self, me: ReplicaId) -> ReplicaSetup {
        let (config, cores) = (Arc::clone(&self.config), self.layout.all().count());
        ReplicaSetup { config, me, key: testing::replica_key(me.0), cores }
    }

    /// What the disk of a crashed replica gives back.
    pub(crate) fn found(&mut self, me: ReplicaId) -> Found {
        let machine = &mut self.machines[me.index()];
        let durable: BTreeMap<JournalId, Lsn> =
            machine.journals.iter().map(|(journal, (_, _, durable))| (*journal, *durable)).collect();
        machine.records.retain(|(journal, lsn, _)| *lsn <= durable[journal]);
        for (_, appended, durable) in machine.journals.values_mut() {
            *appended = *durable;
        }
        let state = machine.checkpoint.as_ref().map(thawed);
        let (records, lost) = (machine.records.clone(), machine.lost.clone());
        Found { state, records, lost, ends: durable, ..Found::default() }
    }

    /// A crashed replica comes back from what its disk holds, or from an empty one as a learner.
    pub(crate) fn restart(&mut self, me: ReplicaId, learner: Option<&str>) {
        if learner.is_some() {
            let machine = self.machine(me);
            (machine.records, machine.journals, machine.checkpoint) = (Vec::new(), BTreeMap::new(), None);
        }
        let setup = self.setup(me);
        let found = Found { learner: learner.map(str::to_owned), ..self.found(me) };
        let mut recovery = Recovery::of(&setup, found).expect("no batches of another number of cores");
        let machine = &mut self.machines[me.index()];
        machine.cores = self.layout.all().map(|core| Core::recover(&setup, core, &mut recovery)).collect();
        machine.crashed = false;
        machine.dirty = (0..setup.cores).collect();
        for peer in self.ids().into_iter().filter(|peer| *peer != me) {
            for link in self.config.link_ids() {
                self.peer_input(me, link, Input::PeerConnected { peer, link });
                self.peer_input(peer, link, Input::PeerConnected { peer: me, link });
            }
        }
        self.run();
    }

    /// Whether all replicas that live have executed the same slot with the same root.
    pub(crate) fn assert_equal_states(&mut self) {
        let mut states = Vec::new();
        for me in self.ids() {
            if self.machine(me).crashed {
                continue;
            }
            let connection = self.connect(me, CoreId(0), &testing::client_key_number(7));
            let request = quorate_wire::message::ReportRequest { root: true, histograms: false }.encode();
            self.client_frame(me, connection, &request);
            self.run();
            let (_, to, report) = self.reports.pop().expect("a report");
            assert_eq!(to, connection);
            let execution = report.execution;
            states.push((execution.executed, execution.root.expect("it was asked for")));
        }
        assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "{states:?}");
    }
}

fn thawed(frozen: &Frozen) -> State {
    State::from_frozen(frozen, quorate_types::StateLimits::default())
}

/// Keys differ between clients, so the nonce need not.
pub(crate) const NONCE: Nonce = Nonce([7; 16]);

/// A client that is connected to all replicas.
pub(crate) struct Client {
    pub(crate) key: SigningKey,
    pub(crate) session: SessionId,
    pub(crate) connections: Vec<ClientConnection>,
}

impl Client {
    /// Client `number` with its first session, attached everywhere on `core` and registered through `home`.
    pub(crate) fn open(cluster: &mut Cluster, number: u8, core: CoreId, home: ReplicaId) -> Self {
        let mut client = Self::registering(cluster, number, core, home);
        cluster.run();
        client.session = client.registered(cluster).expect("the cluster makes progress");
        client
    }

    /// As [`Client::open`], its registration only sent.
    pub(crate) fn registering(cluster: &mut Cluster, number: u8, core: CoreId, home: ReplicaId) -> Self {
        let (key, session) = (testing::client_key_number(number), SessionId::NONE);
        let mut client = Self { key, session, connections: Vec::new() };
        client.connections = client.connect(cluster, core);
        client.send(cluster, home, 0, &vec![Operation::Register { nonce: NONCE, recent: 0 }]);
        client
    }

    fn connect(&self, cluster: &mut Cluster, core: CoreId) -> Vec<ClientConnection> {
        let attach = Attach { nonce: NONCE, session: self.session }.encode();
        let ids = cluster.ids();
        let connect = |replica| {
            let connection = cluster.connect(replica, core, &self.key);
            cluster.client_frame(replica, connection, &attach);
            connection
        };
        ids.into_iter().map(connect).collect()
    }

    /// The session that the first answer to the registration names.
    fn registered(&self, cluster: &Cluster) -> Option<SessionId> {
        let own = |connection| self.connections.contains(connection);
        let replies =
            cluster.to_clients.iter().filter(|(_, to, frame)| own(to) && frame.kind() == Kind::Reply);
        let mut results = replies.filter_map(|(_, _, frame)| {
            let reply = ReplyView::parse(frame.payload()).expect("an own reply");
            let ReplyBody::Results(results) = reply.body else { return None };
            let results = rkyv::from_bytes::<Vec<OperationResult>, rkyv::rancor::Failure>(results);
            results.expect("own results").pop()
        });
        results.find_map(|result| match result {
            OperationResult::Registered { session } => Some(session),
            _ => None,
        })
    }

    /// The same client with new connections, as the old ones went with the replicas; its session goes on.
    pub(crate) fn open_again(cluster: &mut Cluster, before: &Self, core: CoreId) -> Self {
        let connections = before.connect(cluster, core);
        Self { key: before.key.clone(), session: before.session, connections }
    }

    pub(crate) fn bundle(&self, config: &ClusterConfig, number: u64, operations: &Vec<Operation>) -> Frame {
        Frame::encode(Kind::Bundle, |out| {
            bundle::write(out, config, &self.key, self.session, BundleNumber(number), operations);
        })
    }

    pub(crate) fn send(
        &self,
        cluster: &mut Cluster,
        to: ReplicaId,
        number: u64,
        operations: &Vec<Operation>,
    ) {
        let frame = self.bundle(&cluster.config.clone(), number, operations);
        cluster.client_frame(to, self.connections[to.index()], &frame);
    }

    pub(crate) fn replies(&self, cluster: &Cluster, replica: ReplicaId) -> Vec<SeenReply> {
        cluster.replies(replica, self.connections[replica.index()])
    }
}

pub(crate) fn set(key: &str, value: usize) -> Operation {
    let (key, value) = (key.as_bytes().to_vec(), vec![1; value]);
    Operation::Set { key, value, condition: Condition::Always }
}

pub(crate) fn get(key: &str) -> Operation {
    Operation::Get { key: key.as_bytes().to_vec() }
}
