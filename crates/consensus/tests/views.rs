//! Random histories in which primaries die, are cut off and come back: whatever happens, nobody breaks a promise
//! and nobody contradicts what is committed; and when the network heals, everything is ordered in bounded time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use cluster::{Cluster, Growth};
use proptest::prelude::*;
use quorate_consensus::Voting;
use quorate_types::{JournalId, LaneId, LaneNumber, LinkId, Nanoseconds, ReplicaId, View};

/// One step of a history. Indices are taken modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    Deliver(usize),
    DeliverMany(usize),
    /// All that is in flight, in some other order.
    DeliverAll(usize),
    Drop(usize),
    Duplicate(usize),
    Durable(u8),
    Tick(u8, u64),
    /// Time passes for all, so that clocks run out.
    Wait(u64),
    Batch {
        origin: u8,
        bytes: u64,
    },
    /// The primary of the highest view that anybody works in stops for good, if so many may.
    CrashPrimary,
    Crash(u8),
    /// One that is up or down comes back with what is on its disk.
    Restart(u8),
    /// All of them, at once.
    RestartAll,
    /// All that the journal of one holds goes bad while it runs.
    Rot(u8),
    /// Nothing passes between one replica and the others, until it is another one's turn.
    Isolate(u8),
    IsolatePrimary,
    Rejoin,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any::<usize>().prop_map(Step::Deliver),
        6 => (1usize..40).prop_map(Step::DeliverMany),
        8 => any::<usize>().prop_map(Step::DeliverAll),
        2 => any::<usize>().prop_map(Step::Drop),
        1 => any::<usize>().prop_map(Step::Duplicate),
        4 => any::<u8>().prop_map(Step::Durable),
        3 => (any::<u8>(), 0u64..80).prop_map(|(replica, passed)| Step::Tick(replica, passed)),
        5 => (1u64..150).prop_map(Step::Wait),
        4 => (any::<u8>(), prop_oneof![Just(100u64), Just(300_000)])
            .prop_map(|(origin, bytes)| Step::Batch { origin, bytes }),
        1 => Just(Step::CrashPrimary),
        1 => any::<u8>().prop_map(Step::Crash),
        2 => any::<u8>().prop_map(Step::Restart),
        1 => Just(Step::RestartAll),
        1 => any::<u8>().prop_map(Step::Rot),
        1 => any::<u8>().prop_map(Step::Isolate),
        1 => Just(Step::IsolatePrimary),
        1 => Just(Step::Rejoin),
    ]
}

struct World {
    cluster: Cluster,
    lanes: Vec<(LaneId, u64)>,
    isolated: Option<ReplicaId>,
}

impl World {
    fn new(replicas: u8, slow: &[bool]) -> Self {
        let mut cluster = Cluster::new(replicas, |tuning| {
            tuning.window = 24;
            tuning.checkpoint_interval = 4;
            tuning.proposals_max = 4;
            tuning.headers_kept_max = 100;
            tuning.fetch_headers_max = 3;
            tuning.view_timeout = Nanoseconds::from_millis(100);
        });
        for (node, slow) in cluster.nodes.iter_mut().zip(slow) {
            node.slow = *slow;
        }
        let lanes = (0..replicas).map(|id| (LaneId { origin: ReplicaId(id), link: LinkId(0) }, 0)).collect();
        Self { cluster, lanes, isolated: None }
    }

    fn live(&self) -> Vec<ReplicaId> {
        let all = self.cluster.ids();
        all.into_iter().filter(|id| !self.cluster.node(*id).crashed).collect()
    }

    fn replica(&self, number: u8) -> ReplicaId {
        let live = self.live();
        live[usize::from(number) % live.len()]
    }

    /// The primary of the highest view that a live replica works in.
    fn primary(&self) -> ReplicaId {
        let view = |id: &ReplicaId| {
            let consensus = &self.cluster.node(*id).consensus;
            if consensus.has_entered() { consensus.view() } else { View(0) }
        };
        let highest = self.live().iter().map(view).max().unwrap();
        self.cluster.config.primary(highest)
    }

    fn crash(&mut self, id: ReplicaId) {
        let crashed = self.cluster.nodes.iter().filter(|node| node.crashed).count();
        if crashed < self.cluster.config.quorums().faults {
            self.cluster.node_mut(id).crashed = true;
        }
    }

    fn deliver(&mut self, index: usize) {
        let flight = self.cluster.pool.remove(index);
        if self.isolated.is_some_and(|isolated| flight.to == isolated || flight.from == isolated) {
            return;
        }
        self.cluster.receive(flight.from, flight.to, &flight.message);
        self.cluster.tick(flight.to);
    }

    fn perform(&mut self, step: &Step) {
        let flights = self.cluster.pool.len();
        match step {
            Step::Deliver(index) if flights > 0 => self.deliver(index % flights),
            Step::DeliverMany(count) => (0..*count.min(&flights)).for_each(|_| self.deliver(0)),
            Step::DeliverAll(turn) if flights > 0 => {
                self.cluster.pool.rotate_left(turn % flights);
                (0..flights).for_each(|_| self.deliver(0));
            }
            Step::Drop(index) if flights > 0 => drop(self.cluster.pool.remove(index % flights)),
            Step::Duplicate(index) if flights > 0 => {
                let flight = self.cluster.pool[index % flights].clone();
                self.cluster.pool.push(flight);
            }
            Step::Durable(replica) => self.cluster.make_durable(self.replica(*replica), None),
            Step::Tick(replica, passed) => {
                self.cluster.now = self.cluster.now.plus(Nanoseconds::from_millis(*passed).0);
                self.cluster.tick(self.replica(*replica));
            }
            Step::Wait(passed) => {
                self.cluster.now = self.cluster.now.plus(Nanoseconds::from_millis(*passed).0);
                self.live().into_iter().for_each(|id| self.cluster.tick(id));
            }
            Step::Batch { origin, bytes } => {
                let index = usize::from(*origin) % self.lanes.len();
                if !self.cluster.node(self.lanes[index].0.origin).crashed {
                    self.lanes[index].1 += 1;
                    self.grow(index, *bytes);
                }
            }
            Step::CrashPrimary => self.crash(self.primary()),
            Step::Crash(number) => self.crash(self.replica(*number)),
            Step::Restart(number) => self.restart(number % u8::try_from(self.lanes.len()).unwrap()),
            Step::RestartAll => {
                (0..u8::try_from(self.lanes.len()).unwrap()).for_each(|number| self.restart(number));
            }
            Step::Rot(number) => self.cluster.rot(self.replica(*number)),
            Step::Isolate(number) => self.isolated = Some(self.replica(*number)),
            Step::IsolatePrimary => self.isolated = Some(self.primary()),
            Step::Rejoin => self.isolated = None,
            _ => {}
        }
    }

    /// What it had not on its disk it gets from the others.
    fn restart(&mut self, number: u8) {
        let id = ReplicaId(number);
        self.cluster.restart(id, Voting::Voter);
        self.fetch_batches(id);
    }

    fn fetch_batches(&mut self, id: ReplicaId) {
        for (lane, upto) in self.lanes.clone().into_iter().filter(|(_, upto)| *upto > 0) {
            let (journal, holders) = (JournalId(1 + lane.link.0), vec![id]);
            let growth = Growth { ackers: holders.clone(), holders, bytes: 100, journal, fork: None };
            self.cluster.grow_lane(lane, upto, &growth);
        }
        self.cluster.tick(id);
    }

    /// Headers below the checkpoint from which a replica has restarted are only in its state: who lacks them takes
    /// that over.
    fn transfer_states(&mut self) {
        for id in self.live() {
            let positions = self.cluster.node(id).consensus.positions();
            let ahead = |peer: &ReplicaId| {
                let floor = self.cluster.floor(*peer).seq;
                floor > positions.committed.seq && floor <= positions.stable.seq
            };
            if let Some(peer) = self.live().into_iter().find(ahead) {
                self.cluster.install(id, peer);
                self.fetch_batches(id);
            }
        }
    }

    /// All live replicas hold and acknowledge the lane up to its tip.
    fn grow(&mut self, index: usize, bytes: u64) {
        let (lane, upto) = self.lanes[index];
        let live = self.live();
        let (journal, fork) = (JournalId(1 + lane.link.0), None);
        let growth = Growth { holders: live.clone(), ackers: live.clone(), bytes, journal, fork };
        self.cluster.grow_lane(lane, upto, &growth);
        live.into_iter().for_each(|id| self.cluster.tick(id));
    }

    fn is_done(&self) -> bool {
        let live = self.live();
        let goal: Vec<(LaneId, LaneNumber)> = self
            .lanes
            .iter()
            .filter(|(_, upto)| *upto > 0)
            .map(|(lane, upto)| (*lane, LaneNumber(*upto)))
            .collect();
        let committed = self.cluster.node(live[0]).consensus.positions().committed;
        live.iter().all(|id| {
            let ordered = self.cluster.ordered(*id);
            self.cluster.node(*id).consensus.positions().committed == committed
                && goal.iter().all(|(lane, upto)| ordered.get(lane) == Some(upto))
        })
    }

    /// The network and the disks are well again; says how much time passes until everything is ordered, in
    /// milliseconds. Time is skipped while nothing is in flight.
    fn heal(&mut self) -> Option<u64> {
        self.isolated = None;
        let start = self.cluster.now;
        for round in 0..4_000 {
            if round % 100 == 99 {
                self.transfer_states();
            }
            if self.is_done() {
                return Some(self.cluster.now.since(start) / 1_000_000);
            }
            let live = self.live();
            let deadlines = live.iter().filter_map(|id| self.cluster.node(*id).consensus.deadline());
            let soon = self.cluster.now.plus(Nanoseconds::from_millis(5).0);
            let next = deadlines.min().unwrap_or(soon);
            self.cluster.now = if self.cluster.pool.is_empty() { next.max(soon) } else { soon };
            for id in live {
                self.cluster.make_durable(id, None);
            }
            for flight in std::mem::take(&mut self.cluster.pool) {
                self.cluster.receive(flight.from, flight.to, &flight.message);
            }
            self.live().into_iter().for_each(|id| self.cluster.tick(id));
        }
        None
    }

    fn describe(&self) -> String {
        let lines: Vec<String> = self
            .cluster
            .ids()
            .into_iter()
            .map(|id| {
                let node = self.cluster.node(id);
                let (view, entered) = (node.consensus.view(), node.consensus.has_entered());
                let positions = node.consensus.positions();
                format!(
                    "r{id} crashed {} view {view} entered {entered} accepted {} committed {} failed {}: {}",
                    node.crashed,
                    positions.accepted.seq,
                    positions.committed.seq,
                    node.consensus.failed_views(),
                    node.consensus.waiting()
                )
            })
            .collect();
        lines.join("\n")
    }
}

/// More of them when asked for: `HISTORIES=10000 cargo test -p quorate-consensus --test views`.
fn cases() -> u32 {
    std::env::var("HISTORIES").ok().and_then(|number| number.parse().ok()).unwrap_or(150)
}

/// The cap of the timeout, and some of them, as the first primaries after the healing may be dead.
const HEALED_MS_MAX: u64 = 400_000;

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn primaries_may_die_and_nothing_is_lost(
        replicas in 4u8..=7,
        slow in prop::collection::vec(any::<bool>(), 7),
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut world = World::new(replicas, &slow);
        for step in &steps {
            world.perform(step);
            prop_assert!(world.cluster.violations.is_empty(), "{:?}", world.cluster.violations);
        }
        prop_assert!(!world.cluster.nodes.iter().any(|node| node.halted), "{:?}", world.cluster.log.last());
        let healed = world.heal();
        prop_assert!(world.cluster.violations.is_empty(), "{:?}", world.cluster.violations);
        prop_assert!(healed.is_some_and(|passed| passed <= HEALED_MS_MAX), "{healed:?}: {}", world.describe());
        for id in world.live() {
            prop_assert!(world.cluster.node(id).consensus.kept() < 3_000);
        }
    }
}
