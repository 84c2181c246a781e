//! Four replicas that crash, lose what their disks had not written, and come back, in any order: nothing is acknowledged
//! that is not durable, nothing executed is replaced, and in the end all hold and execute the same.

mod common;

use common::*;
use proptest::prelude::*;
use quorate_lanes::{Destination, Output, Recovered, Reject};
use quorate_types::{ClusterConfig, Digest, LaneId, LaneNumber, LaneUpdate, Lsn, ReplicaId};
use quorate_wire::message::{FetchBatches, LaneAcks, Message};
use quorate_wire::{Frame, Kind, LaneTip};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

type Key = (LaneId, LaneNumber, Digest);

fn key(tip: &LaneTip) -> Key {
    (tip.lane, tip.upto, tip.chain)
}

fn start(lane: LaneId) -> LaneTip {
    LaneTip { lane, upto: LaneNumber(0), chain: Digest::ZERO }
}

/// All batches that were ever sealed, with the tips before them.
type Registry = BTreeMap<Key, LaneTip>;

/// Whether the chain to `tip` passes through `floor`.
fn extends(registry: &Registry, tip: &LaneTip, floor: &LaneTip) -> bool {
    let mut at = *tip;
    while at.upto > floor.upto {
        let Some(before) = registry.get(&key(&at)) else { return false };
        at = *before;
    }
    at == *floor
}

/// How far a state is: headers executed, and the lanes' tips.
#[derive(Clone, Default)]
struct Executed {
    count: usize,
    tips: BTreeMap<LaneId, LaneTip>,
}

impl Executed {
    fn tip(&self, lane: LaneId) -> LaneTip {
        self.tips.get(&lane).copied().unwrap_or_else(|| start(lane))
    }

    fn tips(&self) -> Vec<LaneTip> {
        self.tips.values().copied().collect()
    }
}

/// What a replica's ordering role knows of a lane.
#[derive(Default)]
struct Board {
    chain: BTreeMap<LaneNumber, Digest>,
    quorum: LaneNumber,
}

/// One replica with its disk.
struct Machine {
    me: ReplicaId,
    node: Option<Node>,
    incarnation: u64,
    disk: Vec<(Lsn, Frame, Key)>,
    appended: Lsn,
    durable: Lsn,
    /// The state on the disk.
    checkpoint: Executed,
    executed: Executed,
    pool: BTreeSet<Key>,
    boards: BTreeMap<LaneId, Board>,
    gated: VecDeque<(Lsn, Destination, Frame)>,
}

impl Machine {
    fn new(me: ReplicaId, config: &Arc<ClusterConfig>) -> Self {
        let mut machine = Self {
            me,
            node: None,
            incarnation: 0,
            disk: Vec::new(),
            appended: Lsn(0),
            durable: Lsn(0),
            checkpoint: Executed::default(),
            executed: Executed::default(),
            pool: BTreeSet::new(),
            boards: BTreeMap::new(),
            gated: VecDeque::new(),
        };
        machine.start(config);
        machine
    }

    fn start(&mut self, config: &Arc<ClusterConfig>) {
        let batches = self.disk.iter().map(|(lsn, frame, _)| (*lsn, frame.clone())).collect();
        let recovered = Recovered { last_lsn: self.appended, tips: self.checkpoint.tips(), batches };
        let mut node = Node::recovered(self.me, Arc::clone(config), recovered);
        self.incarnation += 1;
        node.next_bundle = 1000 * (self.incarnation * 4 + u64::from(self.me.0));
        for peer in node.peers() {
            node.lanes.on_disconnected(peer, LINK);
        }
        self.node = Some(node);
        self.executed = self.checkpoint.clone();
        self.pool.clear();
        self.boards.clear();
    }

    /// The disk may have written more than it has told.
    fn crash(&mut self, written: prop::sample::Index) {
        let unwritten = usize::try_from(self.appended.0 - self.durable.0).expect("a small number");
        let end = Lsn(self.durable.0 + written.index(unwritten + 1) as u64);
        self.disk.retain(|(lsn, ..)| *lsn <= end);
        (self.appended, self.durable) = (end, end);
        self.gated.clear();
        self.node = None;
    }

    fn tip(&self, lane: LaneId) -> LaneTip {
        let last = self.boards.get(&lane).and_then(|board| board.chain.last_key_value());
        let held = last.map(|(upto, chain)| LaneTip { lane, upto: *upto, chain: *chain });
        held.filter(|held| held.upto > self.executed.tip(lane).upto)
            .unwrap_or_else(|| self.executed.tip(lane))
    }

    /// What is acknowledged is in the state on the disk, or every batch down to there is in the journal on it.
    fn check_durable(&self, registry: &Registry, tip: &LaneTip) {
        let durable = |key: &Key| self.disk.iter().any(|(lsn, _, on)| on == key && *lsn <= self.durable);
        let mut at = *tip;
        while at.upto > self.checkpoint.tip(tip.lane).upto {
            assert!(durable(&key(&at)), "{at:?} is acknowledged and not durable");
            at = registry[&key(&at)];
        }
    }

    fn on_held(&mut self, registry: &Registry, batch: Key) {
        let (before, executed) = (registry[&batch], self.executed.tip(batch.0));
        if before == executed || self.pool.contains(&key(&before)) {
            self.pool.insert(batch);
        }
    }

    fn on_progress(&mut self, registry: &Registry, update: &LaneUpdate) {
        let executed = self.executed.tip(update.lane);
        let board = self.boards.entry(update.lane).or_default();
        let dropped = board.chain.split_off(&update.first);
        if update.entries.is_empty() {
            board.chain.extend(dropped);
        }
        for (number, entry) in (update.first.0..).map(LaneNumber).zip(&update.entries) {
            assert!(entry.lsn <= self.appended);
            let tip = LaneTip { lane: update.lane, upto: number, chain: entry.chain };
            assert!(
                number > executed.upto && extends(registry, &tip, &executed)
                    || extends(registry, &executed, &tip),
                "an executed batch was replaced"
            );
            board.chain.insert(number, entry.chain);
        }
        board.quorum = update.quorum;
    }
}

struct Network {
    config: Arc<ClusterConfig>,
    machines: Vec<Machine>,
    flights: VecDeque<(ReplicaId, ReplicaId, Frame)>,
    registry: Registry,
    committed: Vec<LaneTip>,
}

impl Network {
    fn new() -> Self {
        let config = config(|tuning| {
            tuning.batch_bytes_full = 2000;
            tuning.fetch_bytes_max = 800;
            tuning.lane_bytes_kept_max = 3000;
        });
        let machines = (0..4).map(|id| Machine::new(ReplicaId(id), &config)).collect();
        let (flights, registry, committed) = (VecDeque::new(), Registry::new(), Vec::new());
        let mut network = Self { config, machines, flights, registry, committed };
        (0..4).for_each(|at| network.connect(at));
        network
    }

    /// Connects a replica that has started with those that run.
    fn connect(&mut self, at: usize) {
        let me = self.machines[at].me;
        self.flights.retain(|(from, to, _)| *from != me && *to != me);
        for other in (0..4).filter(|other| *other != at) {
            let peer = self.machines[other].me;
            if let Some(node) = &mut self.machines[other].node {
                node.lanes.on_disconnected(me, LINK);
                node.lanes.on_connected(me, LINK);
                self.machines[at].node.as_mut().expect("started").lanes.on_connected(peer, LINK);
            }
        }
    }

    fn crash(&mut self, at: usize, written: prop::sample::Index) {
        if self.machines[at].node.is_none() {
            return;
        }
        let me = self.machines[at].me;
        self.machines[at].crash(written);
        self.flights.retain(|(_, to, _)| *to != me);
        for node in self.machines.iter_mut().filter_map(|machine| machine.node.as_mut()) {
            node.lanes.on_disconnected(me, LINK);
        }
    }

    fn restart(&mut self, at: usize) {
        if self.machines[at].node.is_none() {
            let config = Arc::clone(&self.config);
            self.machines[at].start(&config);
            self.connect(at);
        }
    }

    fn tick(&mut self, at: usize, elapsed: u64) {
        if let Some(node) = &mut self.machines[at].node {
            node.now = node.now.plus(elapsed);
            node.tick();
            self.carry_out(at);
        }
    }

    fn carry_out(&mut self, at: usize) {
        let Some(node) = &mut self.machines[at].node else { return };
        let outputs = node.take().0;
        // What is appended is known before anything that follows from it.
        for output in &outputs {
            if let Output::Append { lsn, frame } = output {
                self.append(at, *lsn, frame);
            }
        }
        for output in outputs {
            let machine = &mut self.machines[at];
            match output {
                Output::Send { to, frame, after, .. } => self.send(at, to, frame, after.unwrap_or_default()),
                Output::Acknowledge { acks, after, .. } => {
                    self.send(at, Destination::Others, acks.encode(), after);
                    self.send(at, Destination::One(self.machines[at].me), acks.encode(), after);
                }
                Output::Held(batch) => machine.on_held(&self.registry, key(&batch.tip())),
                Output::Progress(update) => machine.on_progress(&self.registry, &update),
                Output::Trim { upto } => {
                    assert!(upto <= machine.durable, "what is trimmed is durable");
                    machine.disk.retain(|(lsn, ..)| *lsn > upto);
                }
                Output::Append { .. } | Output::Forged { .. } | Output::Stage(_) => {}
            }
        }
    }

    fn append(&mut self, at: usize, lsn: Lsn, frame: &Frame) {
        let machine = &mut self.machines[at];
        assert_eq!(lsn, machine.appended.next(), "records of a journal are consecutive");
        machine.appended = lsn;
        let batch = quorate_lanes::Batch::check(&self.config, frame.clone()).expect("a batch");
        let before = LaneTip { lane: batch.lane(), upto: batch.number().previous(), chain: batch.previous() };
        self.registry.insert(key(&batch.tip()), before);
        machine.disk.push((lsn, frame.clone(), key(&batch.tip())));
    }

    fn send(&mut self, at: usize, to: Destination, frame: Frame, after: Lsn) {
        let machine = &mut self.machines[at];
        if after > machine.durable {
            return machine.gated.push_back((after, to, frame));
        }
        if frame.kind() == Kind::LaneAcks {
            let acks = LaneAcks::decode(frame.payload()).expect("own messages");
            acks.tips.iter().for_each(|tip| machine.check_durable(&self.registry, tip));
        }
        let me = machine.me;
        let to: Vec<ReplicaId> = match to {
            Destination::Others => self.config.replica_ids().filter(|id| *id != me).collect(),
            Destination::One(peer) => vec![peer],
        };
        let up = to.into_iter().filter(|peer| self.machines[peer.index()].node.is_some());
        self.flights.extend(up.map(|peer| (me, peer, frame.clone())));
    }

    fn sync(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        let Some(node) = &mut machine.node else { return };
        machine.durable = machine.appended;
        node.lanes.on_durable(node.now, machine.durable, &mut node.out);
        for (after, to, frame) in std::mem::take(&mut machine.gated) {
            self.send(at, to, frame, after);
        }
        self.carry_out(at);
    }

    /// Delivers the flight at `index`; the order of one connection is kept, as TCP keeps it.
    fn deliver(&mut self, index: usize, lost: bool) {
        let Some((from, to, _)) = self.flights.get(index) else { return };
        let pair = (*from, *to);
        let first = self.flights.iter().position(|(from, to, _)| (*from, *to) == pair).unwrap_or(index);
        let Some((from, to, frame)) = self.flights.remove(first) else { return };
        if lost && from != to {
            return;
        }
        let Some(node) = &mut self.machines[to.index()].node else { return };
        let now = node.now;
        let result = match frame.kind() {
            Kind::Batch => node.lanes.on_batch(from, LINK, frame.as_frame_ref(), &mut node.out),
            Kind::LaneAcks => {
                node.lanes.on_acks(from, LINK, &LaneAcks::decode(frame.payload()).expect("own messages"))
            }
            Kind::FetchBatches => {
                node.lanes.on_fetch(from, LINK, &FetchBatches::decode(frame.payload()).expect("own messages"))
            }
            _ => node.lanes.on_fetched(now, from, LINK, frame.as_frame_ref(), &mut node.out),
        };
        let honest = matches!(result, Ok(()) | Err(Reject::Gap | Reject::Fork));
        assert!(honest, "{result:?} among honest replicas");
        self.carry_out(to.index());
    }

    /// A primary orders what a quorum has acknowledged behind what is ordered already.
    fn commit(&mut self, at: usize) {
        let machine = &self.machines[at];
        for (lane, board) in &machine.boards {
            let Some(chain) = board.chain.get(&board.quorum) else { continue };
            let tip = LaneTip { lane: *lane, upto: board.quorum, chain: *chain };
            let last = self.committed.iter().rfind(|last| last.lane == *lane);
            let last = last.copied().unwrap_or_else(|| start(*lane));
            if tip.upto > last.upto && extends(&self.registry, &tip, &last) {
                self.committed.push(tip);
            }
        }
    }

    fn execute(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        let Some(node) = &mut machine.node else { return };
        while let Some(tip) = self.committed.get(machine.executed.count) {
            let executed = machine.executed.tip(tip.lane);
            let mut at = *tip;
            while at.upto > executed.upto && machine.pool.contains(&key(&at)) {
                at = self.registry[&key(&at)];
            }
            if at.upto > executed.upto {
                node.want(*tip);
                break;
            }
            assert_eq!(at, executed, "committed tips are one chain");
            machine.executed.count += 1;
            machine.executed.tips.insert(tip.lane, *tip);
            machine.pool.retain(|(lane, upto, _)| *lane != tip.lane || *upto > tip.upto);
            let registry = &self.registry;
            machine.pool.retain(|(lane, upto, chain)| {
                let held = LaneTip { lane: *lane, upto: *upto, chain: *chain };
                *lane != tip.lane || extends(registry, &held, tip)
            });
            node.lanes.on_executed(&machine.executed.tips());
        }
        self.carry_out(at);
    }

    fn checkpoint(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        let Some(node) = &mut machine.node else { return };
        machine.checkpoint = machine.executed.clone();
        node.lanes.trim(&machine.checkpoint.tips(), &mut node.out);
        self.carry_out(at);
    }

    /// A replica takes over the state that another one has on its disk.
    fn install(&mut self, at: usize, from: usize) {
        let state = self.machines[from].checkpoint.clone();
        let machine = &mut self.machines[at];
        let Some(node) = &mut machine.node else { return };
        if state.count <= machine.executed.count {
            return;
        }
        (machine.checkpoint, machine.executed) = (state.clone(), state.clone());
        machine.pool.clear();
        machine.boards.clear();
        node.lanes.install(&state.tips(), &mut node.out);
        node.lanes.trim(&state.tips(), &mut node.out);
        self.carry_out(at);
    }

    fn round(&mut self) {
        while !self.flights.is_empty() {
            self.deliver(0, false);
        }
        for at in 0..4 {
            self.sync(at);
            self.tick(at, 50_000_000);
            self.commit(at);
            self.execute(at);
        }
    }

    /// All are up: each origin seals something, and everything is executed everywhere.
    fn settle(&mut self) {
        (0..4).for_each(|at| self.restart(at));
        for at in 0..4 {
            let node = self.machines[at].node.as_mut().expect("all are up");
            assert!(node.admit(100), "there is room");
        }
        for round in 0..600 {
            self.round();
            if self.is_settled() {
                return;
            }
            // What all others have in their state alone, no fetch of batches brings.
            if round % 50 == 49 {
                let best = (0..4).max_by_key(|at| self.machines[*at].checkpoint.count).expect("four");
                (0..4).for_each(|at| self.install(at, best));
            }
        }
        for machine in &self.machines {
            let lanes: Vec<_> = (0..4)
                .map(|id| {
                    let lane = lane_of(ReplicaId(id));
                    let quorum = machine.boards.get(&lane).map(|board| board.quorum);
                    (machine.tip(lane), machine.executed.tip(lane).upto, quorum)
                })
                .collect();
            let adopting = machine.node.as_ref().expect("all are up").lanes.is_adopting();
            eprintln!("{:?} adopting {adopting}: {lanes:#?}", machine.me);
        }
        panic!("the lanes do not settle");
    }

    fn is_settled(&self) -> bool {
        self.machines.iter().all(|machine| {
            let open = machine.node.as_ref().is_none_or(|node| node.lanes.open_bytes() > 0);
            let lanes = (0..4).map(|id| lane_of(ReplicaId(id)));
            !open
                && machine.executed.count == self.committed.len()
                && lanes.into_iter().all(|lane| {
                    let tip = machine.tip(lane);
                    tip == machine.executed.tip(lane) && tip == self.machines[0].tip(lane)
                })
        })
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Admit(usize),
    Tick(usize),
    Sync(usize),
    Deliver(prop::sample::Index),
    Lose(prop::sample::Index),
    Wait(usize),
    Round,
    Commit(usize),
    Execute(usize),
    Checkpoint(usize),
    Install(usize, usize),
    Crash(usize, prop::sample::Index),
    CrashAll(prop::sample::Index),
    Restart(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        6 => (0usize..4).prop_map(Step::Admit),
        8 => (0usize..4).prop_map(Step::Tick),
        4 => (0usize..4).prop_map(Step::Sync),
        16 => index().prop_map(Step::Deliver),
        2 => index().prop_map(Step::Lose),
        2 => (0usize..4).prop_map(Step::Wait),
        2 => Just(Step::Round),
        2 => (0usize..4).prop_map(Step::Commit),
        2 => (0usize..4).prop_map(Step::Execute),
        1 => (0usize..4).prop_map(Step::Checkpoint),
        1 => (0usize..4, 0usize..4).prop_map(|(at, from)| Step::Install(at, from)),
        2 => (0usize..4, index()).prop_map(|(at, written)| Step::Crash(at, written)),
        1 => index().prop_map(Step::CrashAll),
        5 => (0usize..4).prop_map(Step::Restart),
    ]
}

impl Network {
    fn step(&mut self, step: Step) {
        match step {
            Step::Admit(at) => {
                if let Some(node) = &mut self.machines[at].node {
                    let _ = node.admit(100);
                }
            }
            Step::Tick(at) => self.tick(at, 1000),
            Step::Sync(at) => self.sync(at),
            Step::Deliver(at) if !self.flights.is_empty() => {
                self.deliver(at.index(self.flights.len()), false);
            }
            Step::Lose(at) if !self.flights.is_empty() => self.deliver(at.index(self.flights.len()), true),
            Step::Wait(at) => self.tick(at, 50_000_000),
            Step::Round => self.round(),
            Step::Commit(at) => self.commit(at),
            Step::Execute(at) => self.execute(at),
            Step::Checkpoint(at) => self.checkpoint(at),
            Step::Install(at, from) => self.install(at, from),
            Step::Crash(at, written) => self.crash(at, written),
            Step::CrashAll(written) => (0..4).for_each(|at| self.crash(at, written)),
            Step::Restart(at) => self.restart(at),
            Step::Deliver(_) | Step::Lose(_) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_crashes_all_replicas_execute_one_chain_of_each_lane(
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut network = Network::new();
        steps.into_iter().for_each(|step| network.step(step));
        network.settle();
    }
}
