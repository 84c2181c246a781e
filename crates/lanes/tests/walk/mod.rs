//! Replicas with the real lanes, and around them a small model of what else there is: disks, a network, one order of cuts,
//! checkpoints, primaries that change, and f replicas that lie about everything that lanes are told.
//!
//! Signatures of clients hold throughout and are not computed: what forged bundles do is told elsewhere (`throttling.rs`).

mod board;
mod disk;
mod liars;
mod mistakes;
mod network;
mod oracles;
mod ordering;

pub(crate) use mistakes::Mistake;

use crate::common::*;
use board::Board;
use disk::Disk;
use quorate_lanes::{Destination, Output, Recovered};
use quorate_types::{
    ClusterConfig, LaneId, LaneUpdate, Lsn, Mark, Nanoseconds, ReplicaId, Support, Tuning, View,
};
use quorate_wire::message::Message;
use quorate_wire::{BatchView, BundleView, Frame, Kind, LaneTip, Verdict, testing};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// The retransmission time, by which the model counts.
pub(crate) const ROUND: u64 = 50_000_000;
/// So many rounds a view waits before it is given up.
pub(crate) const VIEW_ROUNDS: u64 = 10;

pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        (0..8).for_each(|_| {
            random.below(2);
        });
        random
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % bound.max(1) as u64).expect("below the bound")
    }

    pub(crate) fn one_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }
}

type Cut = BTreeMap<LaneId, Mark>;

pub(crate) struct Machine {
    me: ReplicaId,
    pub(crate) node: Option<Node>,
    disk: Disk,
    gated: VecDeque<(Lsn, Destination, Frame)>,
    boards: BTreeMap<LaneId, Board>,
    /// How many cuts it knows to be committed, has executed, and has certified in the state on its disk.
    known: usize,
    executed: usize,
    checkpoint: usize,
    /// The states on its disk.
    saved: BTreeSet<usize>,
    /// The view of the last commit that it knows.
    unnamed: u64,
    /// Since when a lane is awaited, a cut waits here, and execution does.
    awaited: BTreeMap<LaneId, (Mark, u64)>,
    waits: Option<u64>,
    stuck: Option<u64>,
    looked: u64,
    /// The last acknowledgements of each replica, for those who count no others.
    last: BTreeMap<(ReplicaId, LaneId), Mark>,
}

impl Machine {
    fn new(me: ReplicaId) -> Self {
        Self {
            me,
            node: None,
            disk: Disk::default(),
            gated: VecDeque::new(),
            boards: BTreeMap::new(),
            known: 0,
            executed: 0,
            checkpoint: 0,
            saved: BTreeSet::from([0]),
            unnamed: 0,
            awaited: BTreeMap::new(),
            waits: None,
            stuck: None,
            looked: 0,
            last: BTreeMap::new(),
        }
    }
}

/// A cut that a primary has proposed.
struct Proposal {
    view: u64,
    cut: Cut,
}

/// A cut that is committed: where it leaves the lanes, and the view in which it was proposed.
struct Decided {
    tips: Cut,
    view: u64,
}

pub(crate) struct World {
    pub(crate) config: Arc<ClusterConfig>,
    pub(crate) liars: Vec<ReplicaId>,
    pub(crate) machines: Vec<Machine>,
    flights: VecDeque<(ReplicaId, ReplicaId, Frame)>,
    /// All batches that were ever made, each with what comes before it; those of each lane in the order of their making;
    /// and those that an honest origin has sealed.
    registry: BTreeMap<(LaneId, Mark), (Mark, Frame)>,
    made: BTreeMap<LaneId, Vec<Mark>>,
    sealed: BTreeSet<(LaneId, Mark)>,
    /// What went bad on one disk.
    rotten: BTreeSet<(LaneId, Mark)>,
    /// What is committed; the first is the beginning.
    history: Vec<Decided>,
    /// The states that a quorum has.
    certified: BTreeSet<usize>,
    view: u64,
    view_round: u64,
    proposal: Option<Proposal>,
    pub(crate) round: u64,
    salt: u64,
    /// The replica that nothing reaches.
    cut_off: Option<usize>,
    /// The replica that learns but slowly what is committed, while it is behind.
    slow: Option<usize>,
    /// When all were last not connected, or one of them behind.
    unsettled: u64,
    /// What somebody counted q acknowledgements for, and since when.
    certain: BTreeMap<(LaneId, Mark), u64>,
    pub(crate) violations: Vec<String>,
    /// The bundles that origins go on sealing, signed once for all.
    bundles: Bundles,
    mistake: Option<Mistake>,
}

/// Bundles, and the verdict on their signatures.
#[derive(Clone)]
pub(crate) struct Bundles {
    pub(crate) signed: Arc<Vec<Vec<u8>>>,
    pub(crate) verdict: Verdict,
}

impl World {
    pub(crate) fn new(
        replicas: u8,
        random: &mut Random,
        bundles: &Bundles,
        mistake: Option<Mistake>,
    ) -> Self {
        let tuning = Tuning {
            lane_bytes_open_max: [900, 4000][random.below(2)],
            lane_bytes_kept_max: [300, 4000][random.below(2)],
            fetch_bytes_max: [400, 2000][random.below(2)],
            ..Tuning::default()
        };
        let config = Arc::new(testing::config_with_links(replicas, 1).with_tuning(tuning));
        let mut ids: Vec<ReplicaId> = config.replica_ids().collect();
        let faults = config.quorums().faults;
        let liars = (0..faults).map(|_| ids.remove(random.below(ids.len()))).collect();
        let mut world = Self {
            machines: ids.into_iter().map(Machine::new).collect(),
            config,
            liars,
            flights: VecDeque::new(),
            registry: BTreeMap::new(),
            made: BTreeMap::new(),
            sealed: BTreeSet::new(),
            rotten: BTreeSet::new(),
            history: vec![Decided { tips: Cut::new(), view: 0 }],
            certified: BTreeSet::from([0]),
            view: random.below(7) as u64,
            view_round: 0,
            proposal: None,
            round: 0,
            salt: 0,
            cut_off: None,
            slow: None,
            unsettled: 0,
            certain: BTreeMap::new(),
            violations: Vec::new(),
            bundles: bundles.clone(),
            mistake,
        };
        (0..world.machines.len()).for_each(|at| world.start(at));
        world
    }

    fn at(&self, id: ReplicaId) -> Option<usize> {
        self.machines.iter().position(|machine| machine.me == id)
    }

    fn is_up(&self, id: ReplicaId) -> bool {
        self.liars.contains(&id) || self.at(id).is_some_and(|at| self.machines[at].node.is_some())
    }

    /// Whether frames pass between two replicas; each has itself.
    fn reaches(&self, from: ReplicaId, to: ReplicaId) -> bool {
        let cut_off = self.cut_off.map(|at| self.machines[at].me);
        self.is_up(to) && (from == to || cut_off != Some(from) && cut_off != Some(to))
    }

    fn primary(&self) -> ReplicaId {
        self.config.primary(View(self.view))
    }

    fn last(&self) -> usize {
        self.history.len() - 1
    }

    fn mark_after(&self, cuts: usize, lane: LaneId) -> Mark {
        self.history[cuts].tips.get(&lane).copied().unwrap_or_default()
    }

    fn committed(&self, lane: LaneId) -> Mark {
        self.mark_after(self.last(), lane)
    }

    fn tips_after(&self, cuts: usize) -> Vec<LaneTip> {
        self.history[cuts].tips.iter().map(|(lane, mark)| LaneTip::at(*lane, *mark)).collect()
    }

    fn extends(&self, lane: LaneId, mark: Mark, from: Mark) -> bool {
        let mut at = mark;
        while at.upto > from.upto {
            let Some((before, _)) = self.registry.get(&(lane, at)) else { return false };
            at = *before;
        }
        at == from
    }

    fn register(&mut self, lane: LaneId, mark: Mark, before: Mark, frame: Frame) {
        if self.registry.insert((lane, mark), (before, frame)).is_none() {
            self.made.entry(lane).or_default().push(mark);
        }
    }

    fn next_bundle(&mut self) -> Vec<u8> {
        self.salt += 1;
        let index = usize::try_from(self.salt).expect("few") % self.bundles.signed.len();
        self.bundles.signed[index].clone()
    }

    pub(crate) fn start(&mut self, at: usize) {
        if self.machines[at].node.is_some() {
            return;
        }
        let tips = self.tips_after(self.machines[at].checkpoint);
        let machine = &self.machines[at];
        let me = machine.me;
        let batches = self.found(machine.disk.batches(), &tips);
        let (last_lsn, lost) = (machine.disk.appended(), machine.disk.lost());
        let recovered = Recovered { last_lsn, tips, batches, lost };
        let mut node = Node::recovered(me, Arc::clone(&self.config), recovered);
        node.trusted = Some(self.bundles.verdict);
        node.now = Nanoseconds(START.0 + self.round * ROUND);
        let machine = &mut self.machines[at];
        machine.node = Some(node);
        machine.known = machine.checkpoint;
        machine.executed = machine.checkpoint;
        machine.boards.clear();
        machine.awaited.clear();
        machine.last.clear();
        machine.waits = None;
        machine.stuck = None;
        self.connect(at);
        self.tick(at, 0);
    }

    /// This replica learns but slowly what is committed, until it has caught up.
    pub(crate) fn slow_down(&mut self, at: usize) {
        self.slow = Some(at);
    }

    pub(crate) fn crash(&mut self, at: usize, random: &mut Random) {
        let machine = &mut self.machines[at];
        if machine.node.take().is_none() {
            return;
        }
        machine.disk.crash(random);
        machine.gated.clear();
        let me = machine.me;
        self.flights.retain(|(_, to, _)| *to != me);
        for node in self.machines.iter_mut().filter_map(|machine| machine.node.as_mut()) {
            node.disconnect(me);
        }
    }

    /// While a replica is down a batch goes bad on its disk, and this one nowhere else.
    fn rot(&mut self, at: usize, random: &mut Random) {
        let rotten = &self.rotten;
        let place = self.machines[at].disk.rot(random, |place| !rotten.contains(place));
        self.rotten.extend(place);
    }

    /// All lose power at once, and come back one after the other.
    pub(crate) fn lose_power(&mut self, random: &mut Random) {
        let mut all: Vec<usize> = (0..self.machines.len()).collect();
        for at in &all {
            self.crash(*at, random);
            if random.one_in(2) {
                self.rot(*at, random);
            }
        }
        while !all.is_empty() {
            let next = all.remove(random.below(all.len()));
            self.start(next);
            (0..random.below(4)).for_each(|_| self.deliver(0, false, random));
        }
        self.next_view();
    }

    pub(crate) fn tick(&mut self, at: usize, elapsed: u64) {
        if self.machines[at].node.is_none() {
            return;
        }
        self.learn(at);
        let rests =
            self.is_behind(at) || self.makes(Mistake::RestsForEver) && self.machines[at].checkpoint > 0;
        let Some(node) = &mut self.machines[at].node else { return };
        node.lanes.set_behind(rests);
        node.now = node.now.plus(elapsed);
        node.tick();
        self.carry_out(at);
        self.look(at);
        self.execute(at);
        self.carry_out(at);
    }

    /// Whether others have committed more than this replica knows.
    fn is_behind(&self, at: usize) -> bool {
        self.machines[at].known < self.last()
    }

    /// Others tell what is committed.
    fn learn(&mut self, at: usize) {
        if self.cut_off == Some(at) || self.slow == Some(at) && self.machines[at].looked >= self.round {
            return;
        }
        let most = if self.slow == Some(at) { 1 } else { usize::MAX };
        for _ in 0..most.min(self.last() - self.machines[at].known) {
            let machine = &mut self.machines[at];
            machine.known += 1;
            let (known, view) = (machine.known, self.history[machine.known].view);
            if machine.unnamed < view {
                machine.unnamed = view;
                self.unname(at, known, view);
            }
        }
    }

    fn carry_out(&mut self, at: usize) {
        loop {
            let Some(node) = &mut self.machines[at].node else { return };
            let outputs = node.take().0;
            if outputs.is_empty() {
                return;
            }
            for output in outputs {
                self.carry_out_one(at, output);
            }
        }
    }

    fn carry_out_one(&mut self, at: usize, output: Output) {
        match output {
            Output::Append { lsn, frame, tip, why } => {
                let view = BatchView::parse(frame.payload()).expect("a batch");
                let (lane, mark) = (view.head.lane, Mark { upto: view.head.number, chain: view.chain() });
                assert_eq!(tip, LaneTip::at(lane, mark), "the journal has its name");
                let before = Mark { upto: mark.upto.previous(), chain: view.head.previous };
                self.register(lane, mark, before, frame.clone());
                self.machines[at].disk.append(lsn, lane, mark, frame, why);
            }
            Output::Send { to, frame, after, .. } => {
                if frame.kind() == Kind::Batch && to == Destination::Others {
                    let view = BatchView::parse(frame.payload()).expect("an own batch");
                    let (lane, mark) = (view.head.lane, Mark { upto: view.head.number, chain: view.chain() });
                    let before = Mark { upto: mark.upto.previous(), chain: view.head.previous };
                    self.check_seal(at, lane, mark, before);
                    self.sealed.insert((lane, mark));
                }
                self.send(at, to, frame, after.unwrap_or_default());
            }
            Output::Acknowledge { acks, after, .. } => {
                let me = self.machines[at].me;
                let frame = acks.encode();
                self.send(at, Destination::Others, frame.clone(), after);
                self.send(at, Destination::One(me), frame, after);
            }
            Output::Progress(update) => self.on_progress(at, &update),
            Output::Trim { upto } => self.machines[at].disk.trim(upto),
            Output::ReadBack { lsn } => {
                let is_served = !self.makes(Mistake::NotServedFromJournal);
                let machine = &mut self.machines[at];
                let found = machine.disk.read(lsn).filter(|_| is_served);
                let node = machine.node.as_mut().expect("it has asked");
                node.lanes.on_read_back(lsn, found, &mut node.out);
            }
            Output::Held(_)
            | Output::Answered { .. }
            | Output::LetGo(_)
            | Output::Unserved { .. }
            | Output::Forged { .. }
            | Output::Waits(_)
            | Output::Stage(_) => {}
        }
    }

    fn on_progress(&mut self, at: usize, update: &LaneUpdate) {
        let (view, lane) = (self.view, update.lane);
        self.machines[at].boards.entry(lane).or_default().on_update(update, view);
        for (_, mark) in update.supported.iter().filter(|(support, _)| *support == Support::Quorum) {
            self.certain.entry((lane, *mark)).or_insert(self.round);
        }
    }

    /// The state as it is executed is on the disk, and certified once a quorum says so.
    pub(crate) fn checkpoint(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        if machine.node.is_none() || !machine.saved.insert(machine.executed) || self.cut_off == Some(at) {
            return;
        }
        let (saved, quorum) = (machine.executed, self.config.quorums().quorum);
        let voters = self.machines.iter().filter(|machine| machine.saved.contains(&saved)).count();
        if voters + self.liars.len() >= quorum && self.certified.insert(saved) {
            (0..self.machines.len()).for_each(|at| self.trim(at));
        }
    }

    /// What the newest certified state on the disk covers is not needed there any more.
    fn trim(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        let newest = machine.saved.iter().rev().find(|saved| self.certified.contains(saved));
        let newest = newest.copied().unwrap_or_default();
        if machine.node.is_none() || self.cut_off == Some(at) || newest <= machine.checkpoint {
            return;
        }
        machine.checkpoint = newest;
        machine.saved.retain(|saved| *saved >= newest);
        let tips = self.tips_after(newest);
        let node = self.machines[at].node.as_mut().expect("it was just looked at");
        node.lanes.trim(&tips, &mut node.out);
        self.carry_out(at);
    }

    pub(crate) fn admit(&mut self, at: usize) {
        let bundle = self.next_bundle();
        let bundle = BundleView::parse(&bundle).expect("a bundle");
        if let Some(node) = &mut self.machines[at].node {
            let _taken = node.lanes.admit(LINK, sender(1), &bundle, 1000);
        }
    }
}
