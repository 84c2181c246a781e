//! Replicas with the real lanes, and around them a small model of what else there is: disks, a network, one order of cuts,
//! primaries that change, and f replicas that lie about everything that lanes are told.

use crate::common::*;
use quorate_lanes::{Destination, Output, Recovered};
use quorate_types::{
    ClusterConfig, Digest, LaneId, LaneNumber, LaneUpdate, Lsn, Mark, ReplicaId, Support, Why,
};
use quorate_wire::message::{AskLanes, FetchBatches, LaneAcks, Message, encode_fetched_batches};
use quorate_wire::{BatchHead, Frame, Kind, LaneTip, testing};
use std::collections::{BTreeMap, VecDeque};
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

/// What a replica's ordering role knows of one batch.
#[derive(Clone, Copy)]
struct Known {
    previous: Mark,
    support: Option<Support>,
    named: Option<u64>,
}

/// What a replica's ordering role knows of one lane.
#[derive(Default)]
struct Board {
    known: BTreeMap<Mark, Known>,
    tip: Mark,
}

impl Board {
    fn descends(&self, mark: Mark, from: Mark) -> bool {
        let mut at = mark;
        while at.upto > from.upto {
            let Some(known) = self.known.get(&at) else { return false };
            at = known.previous;
        }
        at == from
    }

    fn holds(&self, mark: Mark, from: Mark) -> bool {
        mark.upto <= from.upto || self.known.contains_key(&mark) && self.descends(mark, from)
    }

    /// The highest that q replicas have acknowledged and that continues `from`.
    fn quorum(&self, from: Mark) -> Option<Mark> {
        let quorum = self.known.iter().filter(|(_, known)| known.support == Some(Support::Quorum));
        quorum.map(|(mark, _)| *mark).filter(|mark| mark.upto > from.upto && self.descends(*mark, from)).max()
    }
}

pub(crate) struct Machine {
    me: ReplicaId,
    pub(crate) node: Option<Node>,
    disk: Vec<(Lsn, Frame, Why)>,
    appended: Lsn,
    durable: Lsn,
    gated: VecDeque<(Lsn, Destination, Frame)>,
    boards: BTreeMap<LaneId, Board>,
    /// How many cuts are executed, and in the state on the disk.
    executed: usize,
    checkpoint: usize,
    /// Since when a lane is awaited, and a cut waits here.
    awaited: BTreeMap<LaneId, (Mark, u64)>,
    waits: Option<u64>,
    looked: u64,
    incarnation: u64,
}

/// A cut that a primary has proposed.
struct Proposal {
    view: u64,
    cut: Cut,
}

pub(crate) struct World {
    pub(crate) config: Arc<ClusterConfig>,
    pub(crate) liars: Vec<ReplicaId>,
    pub(crate) machines: Vec<Machine>,
    flights: VecDeque<(ReplicaId, ReplicaId, Frame)>,
    /// All batches that were ever made, each with what comes before it.
    registry: BTreeMap<(LaneId, Mark), (Mark, Frame)>,
    /// Where the lanes stand after each cut; the first is the beginning.
    history: Vec<Cut>,
    view: u64,
    view_round: u64,
    proposal: Option<Proposal>,
    pub(crate) round: u64,
    salt: u64,
    unnamed: u64,
    /// What somebody counted q acknowledgements for, and since when.
    certain: BTreeMap<(LaneId, Mark), u64>,
    pub(crate) violations: Vec<String>,
    /// The bundles that origins go on sealing, signed once for all.
    signed: Vec<Vec<u8>>,
}

impl World {
    pub(crate) fn new(replicas: u8, random: &mut Random, signed: &[Vec<u8>]) -> Self {
        let tuning = quorate_types::Tuning {
            lane_bytes_open_max: [900, 4000][random.below(2)],
            lane_bytes_kept_max: [300, 4000][random.below(2)],
            fetch_bytes_max: [400, 2000][random.below(2)],
            ..quorate_types::Tuning::default()
        };
        let config = Arc::new(testing::config_with_links(replicas, 1).with_tuning(tuning));
        let mut ids: Vec<ReplicaId> = config.replica_ids().collect();
        let faults = config.quorums().faults;
        let liars = (0..faults).map(|_| ids.remove(random.below(ids.len()))).collect();
        let machine = |me| Machine {
            me,
            node: None,
            disk: Vec::new(),
            appended: Lsn(0),
            durable: Lsn(0),
            gated: VecDeque::new(),
            boards: BTreeMap::new(),
            executed: 0,
            checkpoint: 0,
            awaited: BTreeMap::new(),
            waits: None,
            looked: 0,
            incarnation: 0,
        };
        let mut world = Self {
            machines: ids.into_iter().map(machine).collect(),
            config,
            liars,
            flights: VecDeque::new(),
            registry: BTreeMap::new(),
            history: vec![Cut::new()],
            view: random.below(7) as u64,
            view_round: 0,
            proposal: None,
            round: 0,
            salt: 0,
            unnamed: 0,
            certain: BTreeMap::new(),
            violations: Vec::new(),
            signed: signed.to_vec(),
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

    fn primary(&self) -> ReplicaId {
        self.config.primary(quorate_types::View(self.view))
    }

    fn mark_after(&self, cuts: usize, lane: LaneId) -> Mark {
        self.history[cuts].get(&lane).copied().unwrap_or_default()
    }

    fn committed(&self, lane: LaneId) -> Mark {
        self.mark_after(self.history.len() - 1, lane)
    }

    fn extends(&self, lane: LaneId, mark: Mark, from: Mark) -> bool {
        let mut at = mark;
        while at.upto > from.upto {
            let Some((before, _)) = self.registry.get(&(lane, at)) else { return false };
            at = *before;
        }
        at == from
    }

    pub(crate) fn start(&mut self, at: usize) {
        if self.machines[at].node.is_some() {
            return;
        }
        let tips =
            self.history[self.machines[at].checkpoint].iter().map(|(lane, mark)| LaneTip::at(*lane, *mark));
        let tips: Vec<LaneTip> = tips.collect();
        let config = Arc::clone(&self.config);
        let machine = &mut self.machines[at];
        let recovered = Recovered { last_lsn: machine.appended, tips, batches: machine.disk.clone() };
        let mut node = Node::recovered(machine.me, config, recovered);
        node.now = quorate_types::Nanoseconds(START.0 + self.round * ROUND);
        machine.incarnation += 1;
        machine.executed = machine.checkpoint;
        machine.boards.clear();
        machine.awaited.clear();
        machine.waits = None;
        let me = machine.me;
        for peer in node.peers() {
            if !self.is_up(peer) {
                node.disconnect(peer);
            }
        }
        self.machines[at].node = Some(node);
        self.flights.retain(|(from, to, _)| *from != me && *to != me);
        for other in self.machines.iter_mut().filter(|other| other.me != me) {
            if let Some(node) = &mut other.node {
                node.disconnect(me);
                node.lanes.on_connected(me, LINK);
            }
        }
        self.tick(at, 0);
    }

    /// All connections of those that are up stand anew.
    pub(crate) fn reconnect(&mut self) {
        let up: Vec<ReplicaId> = self.config.replica_ids().filter(|id| self.is_up(*id)).collect();
        self.flights.retain(|(from, to, _)| from == to);
        for machine in &mut self.machines {
            let me = machine.me;
            let Some(node) = &mut machine.node else { continue };
            for peer in up.iter().filter(|peer| **peer != me) {
                node.disconnect(*peer);
                node.lanes.on_connected(*peer, LINK);
            }
        }
    }

    /// The disk may have written more than it has told.
    pub(crate) fn crash(&mut self, at: usize, random: &mut Random) {
        let machine = &mut self.machines[at];
        if machine.node.take().is_none() {
            return;
        }
        let unwritten = usize::try_from(machine.appended.0 - machine.durable.0).expect("a small number");
        let end = Lsn(machine.durable.0 + random.below(unwritten + 1) as u64);
        machine.disk.retain(|(lsn, ..)| *lsn <= end);
        (machine.appended, machine.durable) = (end, end);
        machine.gated.clear();
        let me = machine.me;
        self.flights.retain(|(_, to, _)| *to != me);
        for node in self.machines.iter_mut().filter_map(|machine| machine.node.as_mut()) {
            node.disconnect(me);
        }
    }

    pub(crate) fn tick(&mut self, at: usize, elapsed: u64) {
        let Some(node) = &mut self.machines[at].node else { return };
        node.now = node.now.plus(elapsed);
        node.tick();
        self.carry_out(at);
        self.look(at);
        self.execute(at);
        self.carry_out(at);
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
            Output::Append { lsn, frame, why } => {
                let view = quorate_wire::BatchView::parse(frame.payload()).expect("a batch");
                let mark = Mark { upto: view.head.number, chain: view.chain() };
                let before = Mark { upto: mark.upto.previous(), chain: view.head.previous };
                self.registry.insert((view.head.lane, mark), (before, frame.clone()));
                let machine = &mut self.machines[at];
                assert_eq!(lsn, machine.appended.next(), "records of a journal are consecutive");
                machine.appended = lsn;
                machine.disk.push((lsn, frame, why));
            }
            Output::Send { to, frame, after, .. } => self.send(at, to, frame, after.unwrap_or_default()),
            Output::Acknowledge { acks, after, .. } => {
                let me = self.machines[at].me;
                self.send(at, Destination::Others, acks.encode(), after);
                self.send(at, Destination::One(me), acks.encode(), after);
            }
            Output::Progress(update) => self.on_progress(at, &update),
            Output::Trim { upto } => {
                let machine = &mut self.machines[at];
                assert!(upto <= machine.durable, "what is trimmed is durable");
                machine.disk.retain(|(lsn, ..)| *lsn > upto);
            }
            Output::ReadBack { lsn } => {
                let machine = &mut self.machines[at];
                let found =
                    machine.disk.iter().find(|(at, ..)| *at == lsn).map(|(_, frame, _)| frame.clone());
                let node = machine.node.as_mut().expect("it has asked");
                node.lanes.on_read_back(lsn, found, &mut node.out);
            }
            Output::Held(_) | Output::LetGo(_) | Output::Forged { .. } | Output::Stage(_) => {}
        }
    }

    fn on_progress(&mut self, at: usize, update: &LaneUpdate) {
        let (view, lane) = (self.view, update.lane);
        let board = self.machines[at].boards.entry(lane).or_default();
        for entry in &update.held {
            let previous = Mark { upto: entry.mark.upto.previous(), chain: entry.previous };
            let named = (entry.why == Why::Named).then_some(view);
            let fresh = Known { previous, support: None, named };
            let known = board.known.entry(entry.mark).or_insert(fresh);
            known.named = named.and(known.named);
        }
        board.tip = update.tip;
        for (support, mark) in &update.supported {
            let mut at = *mark;
            while let Some(known) = board.known.get_mut(&at)
                && known.support < Some(*support)
            {
                known.support = Some(*support);
                at = known.previous;
            }
            if *support == Support::Quorum {
                self.certain.entry((lane, *mark)).or_insert(self.round);
            }
        }
    }

    fn send(&mut self, at: usize, to: Destination, frame: Frame, after: Lsn) {
        let machine = &mut self.machines[at];
        if after > machine.durable {
            return machine.gated.push_back((after, to, frame));
        }
        let me = machine.me;
        if frame.kind() == Kind::LaneAcks {
            let acks = LaneAcks::decode(frame.payload()).expect("own messages");
            acks.tips.iter().for_each(|tip| self.check_durable(at, tip));
        }
        let to: Vec<ReplicaId> = match to {
            Destination::Others => self.config.replica_ids().filter(|id| *id != me).collect(),
            Destination::One(peer) => vec![peer],
        };
        let up: Vec<ReplicaId> = to.into_iter().filter(|peer| self.is_up(*peer)).collect();
        self.flights.extend(up.into_iter().map(|peer| (me, peer, frame.clone())));
    }

    /// What is acknowledged lies on the disk down to what is in the state there, and not for a header alone.
    fn check_durable(&mut self, at: usize, tip: &LaneTip) {
        let machine = &self.machines[at];
        let floor = self.mark_after(machine.checkpoint, tip.lane);
        let mut mark = tip.mark();
        while mark.upto > floor.upto {
            let is_it = |frame: &Frame| {
                let found = self.registry.get(&(tip.lane, mark));
                found.is_some_and(|(_, other)| other.payload() == frame.payload())
            };
            let why = machine.disk.iter().filter(|(lsn, frame, _)| *lsn <= machine.durable && is_it(frame));
            let why = why.map(|(.., why)| *why).max();
            let is_decided = mark.upto <= self.mark_after(machine.executed, tip.lane).upto;
            if why.is_none() || why == Some(Why::Named) && !is_decided {
                let text = format!("r{} acknowledges {tip:?}, and has {mark:?} as {why:?}", machine.me);
                return self.violations.push(text);
            }
            mark = self.registry[&(tip.lane, mark)].0;
        }
    }

    pub(crate) fn sync(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        let Some(node) = &mut machine.node else { return };
        machine.durable = machine.appended;
        node.lanes.on_durable(node.now, machine.durable, &mut node.out);
        for (after, to, frame) in std::mem::take(&mut machine.gated) {
            self.send(at, to, frame, after);
        }
        self.carry_out(at);
    }

    /// The state as it is executed is on the disk, and certified.
    pub(crate) fn checkpoint(&mut self, at: usize) {
        let executed = self.machines[at].executed;
        let tips: Vec<LaneTip> =
            self.history[executed].iter().map(|(lane, mark)| LaneTip::at(*lane, *mark)).collect();
        let machine = &mut self.machines[at];
        if let Some(node) = &mut machine.node {
            machine.checkpoint = executed;
            node.lanes.trim(&tips, &mut node.out);
            self.carry_out(at);
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Delivers a flight; the order of one connection is kept, as TCP keeps it.
    pub(crate) fn deliver(&mut self, index: usize, lost: bool, random: &mut Random) {
        let Some((from, to, _)) = self.flights.get(index) else { return };
        let pair = (*from, *to);
        let first = self.flights.iter().position(|(from, to, _)| (*from, *to) == pair).unwrap_or(index);
        let Some((from, to, frame)) = self.flights.remove(first) else { return };
        if self.liars.contains(&to) {
            return self.ask_liar(from, to, &frame, random);
        }
        if !lost || from == to {
            self.receive(from, to, &frame);
        }
    }

    fn receive(&mut self, from: ReplicaId, to: ReplicaId, frame: &Frame) {
        let Some(at) = self.at(to) else { return };
        let is_honest = !self.liars.contains(&from);
        let Some(node) = &mut self.machines[at].node else { return };
        let payload = frame.payload();
        let result = match frame.kind() {
            Kind::Batch => node.lanes.on_batch(from, LINK, frame.as_frame_ref(), &mut node.out),
            Kind::LaneAcks => node.lanes.on_acks(from, LINK, &LaneAcks::decode(payload).expect("acks")),
            Kind::AskLanes => node.lanes.on_ask(from, LINK, AskLanes::decode(payload).expect("a question")),
            Kind::FetchBatches => {
                node.lanes.on_fetch(from, LINK, &FetchBatches::decode(payload).expect("a question"))
            }
            _ => node.lanes.on_fetched(node.now, from, LINK, frame.as_frame_ref(), &mut node.out),
        };
        if is_honest && result == Err(quorate_lanes::Reject::FetchMismatch) {
            self.violations.push(format!("r{to} condemns r{from}, which is honest"));
        }
        self.carry_out(at);
    }

    /// A liar is asked for batches: it says nothing, that it has nothing, one of them, another, or what is right.
    fn ask_liar(&mut self, from: ReplicaId, liar: ReplicaId, frame: &Frame, random: &mut Random) {
        if frame.kind() != Kind::FetchBatches {
            return;
        }
        let asked = FetchBatches::decode(frame.payload()).expect("a question");
        let tip = LaneTip { lane: asked.lane, upto: asked.upto, chain: asked.chain };
        let mut payloads: Vec<Frame> = Vec::new();
        let choice = random.below(5);
        let mut at = tip.mark();
        while at.upto > asked.above
            && let Some((before, frame)) = self.registry.get(&(tip.lane, at))
        {
            payloads.push(frame.clone());
            at = *before;
        }
        match choice {
            0 => return,
            1 => payloads.clear(),
            2 | 3 => payloads.truncate(1),
            _ => {}
        }
        let answer = encode_fetched_batches(&tip, payloads.iter().map(Frame::payload));
        self.receive(liar, from, &answer);
    }

    /// Something of a lane, known or made up.
    fn some_mark(&mut self, lane: LaneId, random: &mut Random) -> Mark {
        let known: Vec<Mark> =
            self.registry.keys().filter(|(of, _)| *of == lane).map(|(_, mark)| *mark).collect();
        if known.is_empty() || random.one_in(12) {
            self.salt += 1;
            let mut chain = Digest([9; 32]);
            chain.0[..8].copy_from_slice(&self.salt.to_le_bytes());
            return Mark { upto: LaneNumber(1 + random.below(20) as u64), chain };
        }
        known[random.below(known.len())]
    }

    fn some_honest(&self, random: &mut Random) -> ReplicaId {
        self.machines[random.below(self.machines.len())].me
    }

    /// A liar does something with its lane, or with what it says of others.
    pub(crate) fn lie(&mut self, random: &mut Random, forks: bool) {
        let liar = self.liars[random.below(self.liars.len())];
        match random.below(if forks { 8 } else { 3 }) {
            0..=2 => {
                let origin = ReplicaId(u8::try_from(random.below(self.config.members().len())).expect("few"));
                let lane = if random.one_in(2) { lane_of(liar) } else { lane_of(origin) };
                let count = 1 + random.below(2);
                let tips = (0..count).map(|_| LaneTip::at(lane, self.some_mark(lane, random))).collect();
                let acks = LaneAcks { full: random.one_in(2), tips };
                let to = self.some_honest(random);
                self.receive(liar, to, &acks.encode());
            }
            3..=5 => {
                // A batch behind something that was sent, mostly the newest.
                let lane = lane_of(liar);
                let mut known: Vec<Mark> = vec![Mark::default()];
                known.extend(self.registry.keys().filter(|(of, _)| *of == lane).map(|(_, mark)| *mark));
                let from = if random.one_in(3) { random.below(known.len()) } else { known.len() - 1 };
                let before = known[from];
                self.salt += 1;
                let index = usize::try_from(self.salt).expect("few") % self.signed.len();
                let head = BatchHead { lane, number: before.upto.next(), previous: before.chain };
                let frame = batch_frame(&head, &[self.signed[index].clone()]);
                let chain = quorate_wire::BatchView::parse(frame.payload()).expect("a batch").chain();
                let mark = Mark { upto: before.upto.next(), chain };
                self.registry.insert((lane, mark), (before, frame));
                let some: Vec<ReplicaId> = self.machines.iter().map(|machine| machine.me).collect();
                let some: Vec<ReplicaId> = some.into_iter().filter(|_| random.one_in(2)).collect();
                some.into_iter().for_each(|to| self.show(liar, to, lane, mark));
            }
            _ => {
                let lane = lane_of(liar);
                let mark = self.some_mark(lane, random);
                let to = self.some_honest(random);
                self.show(liar, to, lane, mark);
            }
        }
    }

    /// The whole chain up to a batch, from its origin.
    fn show(&mut self, liar: ReplicaId, to: ReplicaId, lane: LaneId, mark: Mark) {
        let (mut frames, mut at) = (Vec::new(), mark);
        while let Some((before, frame)) = self.registry.get(&(lane, at)) {
            frames.push(frame.clone());
            at = *before;
        }
        frames.iter().rev().for_each(|frame| self.receive(liar, to, frame));
    }

    pub(crate) fn admit(&mut self, at: usize) {
        self.salt += 1;
        let index = usize::try_from(self.salt).expect("few") % self.signed.len();
        let bundle = quorate_wire::BundleView::parse(&self.signed[index]).expect("a bundle");
        if let Some(node) = &mut self.machines[at].node {
            let _taken = node.lanes.admit(LINK, 1, &bundle, 1000);
        }
    }

    /// What the ordering role does with the lanes: it proposes, accepts, and asks for what it waits for.
    fn look(&mut self, at: usize) {
        let me = self.machines[at].me;
        if self.primary() == me && self.proposal.is_none() {
            self.propose(at);
        }
        let is_due = self.machines[at].looked < self.round;
        self.machines[at].looked = self.round;
        let waits = self.waits_for(at);
        let (round, primary) = (self.round, self.primary());
        let machine = &mut self.machines[at];
        let since = machine.waits.unwrap_or(round);
        machine.waits = waits.map(|_| since);
        if let (Some((tip, floor)), Some(node), true) = (waits, &mut machine.node, is_due && round > since) {
            node.lanes.want_proposed(node.now, tip, floor, primary, &mut node.out);
        }
        self.watch(at);
    }

    /// What the cut that is proposed waits for here.
    fn waits_for(&self, at: usize) -> Option<(LaneTip, Mark)> {
        let proposal = self.proposal.as_ref()?;
        let primary = self.config.primary(quorate_types::View(proposal.view));
        let waits = |(lane, mark): (&LaneId, &Mark)| {
            let from = self.committed(*lane);
            let board = self.machines[at].boards.get(lane);
            let accepts = board.is_some_and(|board| {
                let known = board.known.get(mark);
                let supported = known.is_some_and(|known| known.support.is_some());
                board.holds(*mark, from) && (supported || lane.origin == primary)
            });
            (!accepts).then_some((LaneTip::at(*lane, *mark), from))
        };
        proposal.cut.iter().find_map(waits)
    }

    fn propose(&mut self, at: usize) {
        let me = self.machines[at].me;
        let mut cut = Cut::new();
        for lane in self.config.lanes().collect::<Vec<_>>() {
            let from = self.committed(lane);
            let Some(board) = self.machines[at].boards.get(&lane) else { continue };
            let own = Some(board.tip)
                .filter(|tip| lane.origin == me && tip.upto > from.upto && board.descends(*tip, from));
            if let Some(mark) = board.quorum(from).max(own) {
                cut.insert(lane, mark);
            }
        }
        if !cut.is_empty() {
            self.proposal = Some(Proposal { view: self.view, cut });
        }
    }

    /// The primary lies: it names what it likes.
    pub(crate) fn propose_as_liar(&mut self, random: &mut Random) {
        let lanes: Vec<LaneId> = self.config.lanes().collect();
        let lane = if random.one_in(2) { lane_of(self.primary()) } else { lanes[random.below(lanes.len())] };
        let mark = self.some_mark(lane, random);
        if mark.upto > self.committed(lane).upto {
            self.proposal = Some(Proposal { view: self.view, cut: Cut::from([(lane, mark)]) });
        }
    }

    /// A lane is awaited; nobody gives an honest primary up for that once the network is well.
    fn watch(&mut self, at: usize) {
        let mut awaited = BTreeMap::new();
        for lane in self.config.lanes().collect::<Vec<_>>() {
            let named = self.proposal.as_ref().and_then(|proposal| proposal.cut.get(&lane)).copied();
            let stands = self.waits_for(at).is_none();
            let from = named.filter(|_| stands).unwrap_or(self.committed(lane));
            let Some(board) = self.machines[at].boards.get(&lane) else { continue };
            let Some(tip) = board.quorum(from) else { continue };
            let before = self.machines[at].awaited.get(&lane);
            let stays = before.filter(|(old, _)| old.upto > from.upto && board.descends(*old, from));
            awaited.insert(lane, stays.copied().unwrap_or((tip, self.round)));
        }
        self.machines[at].awaited = awaited;
    }

    /// Whether some honest replica would give the view up by now, and why.
    pub(crate) fn suspicion(&self) -> Option<String> {
        let over = |since: u64| self.round.saturating_sub(since.max(self.view_round)) >= VIEW_ROUNDS;
        self.machines.iter().find_map(|machine| {
            let waits = machine.waits.filter(|since| over(*since));
            let waits = waits.map(|_| format!("r{}: what the primary named cannot be had", machine.me));
            let awaited = machine.awaited.iter().find(|(_, (_, since))| over(*since));
            waits.or(awaited.map(|(lane, (mark, _))| {
                format!("r{}: {mark:?} of lane {lane} is not named by r{}", machine.me, self.primary())
            }))
        })
    }

    pub(crate) fn is_led_by_a_liar(&self) -> bool {
        self.liars.contains(&self.primary())
    }

    pub(crate) fn next_view(&mut self) {
        self.view += 1;
        self.view_round = self.round;
        self.proposal = None;
        self.machines.iter_mut().for_each(|machine| {
            machine.waits = None;
            machine.awaited.clear();
        });
    }

    pub(crate) fn view_age(&self) -> u64 {
        self.round - self.view_round
    }

    /// Commits what is proposed if a quorum accepts it, the liars among it if they like.
    pub(crate) fn decide(&mut self, liars_vote: bool) {
        let up = (0..self.machines.len()).filter(|at| self.machines[*at].node.is_some());
        let votes = up.filter(|at| self.waits_for(*at).is_none()).count();
        let votes = votes + if liars_vote { self.liars.len() } else { 0 };
        if votes < self.config.quorums().quorum {
            return;
        }
        let Some(Proposal { view, cut }) = self.proposal.take() else { return };
        let mut next = self.history[self.history.len() - 1].clone();
        next.extend(cut);
        self.history.push(next);
        if self.unnamed < view {
            self.unnamed = view;
            (0..self.machines.len()).for_each(|at| self.unname(at, view));
        }
    }

    /// What only headers of lower views name, and what is committed leaves out, is let go of.
    fn unname(&mut self, at: usize, view: u64) {
        let committed = self.history[self.history.len() - 1].clone();
        let machine = &mut self.machines[at];
        let mut gone = Vec::new();
        for (lane, board) in &mut machine.boards {
            let decided = committed.get(lane).copied().unwrap_or_default();
            let marks: Vec<Mark> = board.known.keys().rev().copied().collect();
            for mark in marks {
                let has_child = board.known.values().any(|known| known.previous == mark);
                let named = board.known[&mark].named.is_some_and(|named| named < view);
                if named && !has_child && !board.descends(decided, mark) {
                    board.known.remove(&mark);
                    gone.push(LaneTip::at(*lane, mark));
                }
            }
        }
        if let Some(node) = &mut machine.node {
            node.lanes.unname(&gone, &mut node.out);
            self.carry_out(at);
        }
    }

    fn execute(&mut self, at: usize) {
        while self.machines[at].node.is_some() && self.machines[at].executed + 1 < self.history.len() {
            let executed = self.machines[at].executed;
            let next = self.history[executed + 1].clone();
            let lacks = next.iter().find(|(lane, mark)| {
                let from = self.mark_after(executed, **lane);
                mark.upto > from.upto
                    && !self.machines[at].boards.get(lane).is_some_and(|board| board.holds(**mark, from))
            });
            let machine = &mut self.machines[at];
            let node = machine.node.as_mut().expect("it is up");
            if let Some((lane, mark)) = lacks {
                node.lanes.want(node.now, LaneTip::at(*lane, *mark), &mut node.out);
                return;
            }
            let tips: Vec<LaneTip> = next.iter().map(|(lane, mark)| LaneTip::at(*lane, *mark)).collect();
            node.lanes.on_executed(&tips);
            machine.executed += 1;
        }
    }

    /// What everybody knows of a lane, to be read.
    pub(crate) fn describe(&self, lane: LaneId) -> String {
        let mut text = format!(
            "round {}, view {} led by r{}, liars {:?}\n",
            self.round,
            self.view,
            self.primary(),
            self.liars
        );
        for machine in &self.machines {
            let board = machine.boards.get(&lane);
            let known = board.iter().flat_map(|board| &board.known);
            let known: Vec<String> = known
                .map(|(mark, known)| format!("{mark:?} {:?} {:?}", known.support, known.named))
                .collect();
            text +=
                &format!("  r{} awaits {:?}, {}\n", machine.me, machine.awaited.get(&lane), known.join("; "));
        }
        text
    }

    /// What is wrong when all has come to rest.
    pub(crate) fn findings(&self) -> Vec<String> {
        let mut found = self.violations.clone();
        let last = self.history.len() - 1;
        for machine in &self.machines {
            if machine.executed != last {
                found.push(format!("r{} has executed {} of {last} cuts", machine.me, machine.executed));
            }
            let own = lane_of(machine.me);
            if let Some(board) = machine.boards.get(&own)
                && board.tip != self.committed(own)
            {
                found.push(format!(
                    "the lane of r{} ends at {:?}, executed is {:?}",
                    machine.me,
                    board.tip,
                    self.committed(own)
                ));
            }
            if machine
                .node
                .as_ref()
                .is_some_and(|node| node.lanes.is_adopting() || node.lanes.open_bytes() > 0)
            {
                found.push(format!("r{} does not seal", machine.me));
            }
        }
        // What is new may still be on its way.
        let old = self.certain.iter().filter(|(_, since)| self.round - **since > VIEW_ROUNDS);
        for ((lane, mark), _) in old {
            let decided = self.committed(*lane);
            if mark.upto <= decided.upto || !self.extends(*lane, *mark, decided) {
                continue;
            }
            for machine in &self.machines {
                if !machine.boards.get(lane).is_some_and(|board| board.holds(*mark, decided)) {
                    found
                        .push(format!("r{} lacks {mark:?} of lane {lane}, which a quorum holds", machine.me));
                }
            }
        }
        found.extend(self.over_budget());
        found
    }

    /// A lane holds n − f budgets, what is named, what is kept, and what is being fetched.
    fn over_budget(&self) -> Option<String> {
        let quorums = self.config.quorums();
        let tuning = self.config.tuning();
        let of_lane = (quorums.replicas - quorums.faults + 1) * tuning.lane_bytes_held_max()
            + tuning.lane_bytes_kept_max;
        let most = quorums.replicas * (of_lane + 64 * 1024);
        self.machines.iter().find_map(|machine| {
            let held = machine.node.as_ref()?.lanes.held_bytes();
            (held > most).then(|| format!("r{} holds {held} bytes", machine.me))
        })
    }
}
