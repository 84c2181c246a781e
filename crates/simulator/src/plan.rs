//! The shape of one history: sizes, tuning, network, disks, clocks and workload, all drawn from its seed.
//!
//! Figures are shrunk so that a short history reaches the edges: windows fill, checkpoints pass every few
//! headers, batches are full after a few bundles, budgets overflow.

use crate::faults::{self, Fault, FaultKind};
use crate::liars::{self, Liar};
use crate::random::{Random, Stream};
use crate::scenes::{self, Scene};
use quorate_journal::{BLOCK_BYTES, LogOptions};
use quorate_types::{Mistake, Nanoseconds, ReplicaId, ReplicaSet, StateLimits, Tuning, limits};
use std::fmt;

/// Client keys that the test configuration of `wire` allows.
const CLIENTS_MAX: u64 = 8;

/// The key of those who are greedy, which nobody else has.
pub const GREEDY_KEY: u8 = 6;
/// The bundles that each of them submits, and keeps open as far as it may.
const GREEDY_BUNDLES: u64 = 40;
/// So many others there are at most beside them.
const GREEDY_CLIENTS_MAX: u64 = 3;
/// More than what one of their operations takes.
const GREEDY_OPERATION_BYTES: u64 = 32;

/// The longest value of the rare sort.
pub const LARGE_VALUE_BYTES_MAX: usize = 12 * 1024;

/// How the links between replicas behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carriage {
    /// Bytes arrive in order or the connection breaks, as over TCP.
    Stream,
    /// Each frame for itself may be lost, doubled or overtaken. Harsher than any transport that is used.
    Single {
        /// Frames lost, of a thousand.
        lost_permille: u64,
        /// Frames doubled, of a thousand.
        doubled_permille: u64,
    },
}

/// Delays and capacities of the network.
#[derive(Clone, Copy, Debug)]
pub struct NetworkPlan {
    /// How links between replicas behave.
    pub carriage: Carriage,
    /// The shortest way of a frame.
    pub delay_min: Nanoseconds,
    /// The longest way of a frame, but for stragglers.
    pub delay_max: Nanoseconds,
    /// Deliveries that take twenty times as long, of a thousand.
    pub straggler_permille: u64,
    /// The bytes that a connection carries in a millisecond.
    pub bytes_per_millisecond: u64,
    /// The bytes that wait for one peer before frames are dropped.
    pub queue_bytes_max: usize,
    /// Deliveries that arrive in several pieces, of a hundred.
    pub cut_percent: u64,
    /// The shortest time before a lost connection is tried again.
    pub redial_min: Nanoseconds,
    /// The longest.
    pub redial_max: Nanoseconds,
}

/// How long writes take.
#[derive(Clone, Copy, Debug)]
pub struct DiskPlan {
    /// The fastest write; zero means that writes are durable at once.
    pub write_min: Nanoseconds,
    /// The slowest write, but for stalls.
    pub write_max: Nanoseconds,
    /// Writes that take twenty times as long, of a thousand.
    pub stall_permille: u64,
}

/// How fast cores are.
#[derive(Clone, Copy, Debug)]
pub struct CorePlan {
    /// The longest time from an input to the tick that takes it.
    pub wake_max: Nanoseconds,
    /// The longest time of a message from core to core.
    pub mail_max: Nanoseconds,
    /// The inputs that one tick takes at most.
    pub burst_max: u64,
}

/// What clients do.
#[derive(Clone, Copy, Debug)]
pub struct WorkloadPlan {
    /// The number of clients.
    pub clients: u64,
    /// The number of keys that they have: some share one.
    pub client_keys: u8,
    /// The bundles that each client submits during the fault phase.
    pub bundles: u64,
    /// The bundles that each client submits after it.
    pub bundles_after: u64,
    /// The longest time between an answer and the next bundle then.
    pub think_after_max: Nanoseconds,
    /// The bundles that a client keeps open.
    pub depth: u64,
    /// The longest time between an answer and the next bundle.
    pub think_max: Nanoseconds,
    /// The most operations of one bundle.
    pub operations_max: u64,
    /// The number of keys of each sort.
    pub keys: u64,
    /// The longest value of the frequent sort.
    pub value_bytes_max: u64,
    /// Bundles with a value near the size of a full batch, of a thousand.
    pub large_permille: u64,
    /// The operations of each bundle of a client that wants all it can get; nothing where nobody does.
    pub greedy: Option<u64>,
}

impl WorkloadPlan {
    /// What a greedy client does.
    #[must_use]
    pub fn of_greedy(self) -> Self {
        let depth = limits::OPEN_BUNDLES_MAX as u64;
        Self { bundles: GREEDY_BUNDLES, bundles_after: 0, depth, think_max: Nanoseconds(0), ..self }
    }

    /// More than any bundle has.
    #[must_use]
    pub fn bundle_bytes_max(&self) -> usize {
        // The longest operation is an MSET of three values, or a read of a key that is too long.
        let operation = (3 * (self.value_bytes_max + 64)).max(limits::KEY_BYTES_MAX as u64 + 128);
        let large = if self.large_permille > 0 { LARGE_VALUE_BYTES_MAX as u64 } else { 0 };
        let greedy = self.greedy.unwrap_or(0) * GREEDY_OPERATION_BYTES;
        usize::try_from(512 + (self.operations_max * operation + large).max(greedy))
            .expect("invariant: small")
    }
}

/// One history.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed from which everything is drawn.
    pub seed: u64,
    /// The mistake that all replicas make, if any.
    pub mistake: Option<Mistake>,
    /// The scene that all of it is made for, if it is.
    pub scene: Option<Scene>,
    /// The number of replicas.
    pub replicas: u8,
    /// The number of links between two replicas.
    pub links: u8,
    /// The number of cores of each replica.
    pub cores: usize,
    /// The figures of the cluster.
    pub tuning: Tuning,
    /// The network.
    pub network: NetworkPlan,
    /// The disks.
    pub disk: DiskPlan,
    /// How logs are laid out.
    pub log: LogOptions,
    /// The cores.
    pub core: CorePlan,
    /// How far each replica's clock is ahead of the true one.
    pub clocks: Vec<Nanoseconds>,
    /// The clients.
    pub workload: WorkloadPlan,
    /// The faults, in the order of their beginning.
    pub faults: Vec<Fault>,
    /// The replicas that lie.
    pub liars: Vec<Liar>,
    /// When every fault is over.
    pub heal_at: Nanoseconds,
    /// When progress must have been made.
    pub deadline: Nanoseconds,
}

impl Plan {
    /// Whether blocks go bad of which there are copies.
    #[must_use]
    pub fn has_rot(&self) -> bool {
        self.faults.iter().any(|fault| matches!(fault.kind, FaultKind::Rot { .. } | FaultKind::Decay { .. }))
    }

    /// Whether a replica may find that it has lost its votes.
    #[must_use]
    pub fn may_forget(&self, replica: ReplicaId) -> bool {
        let loses = |fault: &Fault| match fault.kind {
            FaultKind::LoseDisk { replica: other } | FaultKind::Corrupt { replica: other } => {
                other == replica
            }
            _ => false,
        };
        self.faults.iter().any(loses)
    }

    /// The plan of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed, Stream::Plan);
        let random = &mut random;
        let replicas = u8::try_from(*random.pick(&[1, 4, 4, 4, 4, 5, 6, 7])).expect("invariant: small");
        let links = if random.percent(35) { 2 } else { 1 };
        let cores = 1 + random.index(3);
        let network = draw_network(random);
        let heal_at = Nanoseconds::from_millis(random.between(200, 2000));
        let mut workload = draw_workload(random, replicas, heal_at);
        let mut greed = Random::new(seed, Stream::Greed);
        if greed.percent(12) && workload.clients <= GREEDY_CLIENTS_MAX {
            workload.greedy = Some(greed.magnitude(50, 200));
            (workload.large_permille, workload.value_bytes_max) = (0, workload.value_bytes_max.min(64));
        }
        let mut tuning = draw_tuning(random, workload.bundle_bytes_max());
        let mut sessions = Random::new(seed, Stream::Sessions);
        if sessions.percent(60) {
            share_keys(&mut sessions, &mut workload, &mut tuning);
        }
        let clocks = draw_clocks(random, replicas, tuning.clock_skew_max);
        let disk = draw_disk(random);
        let core = CorePlan {
            wake_max: Nanoseconds(random.magnitude(1_000, 100_000)),
            mail_max: Nanoseconds(random.magnitude(500, 500_000)),
            burst_max: random.magnitude(1, 64),
        };
        let log = draw_log(random, tuning.batch_bytes_full + workload.bundle_bytes_max());
        let mut plan = Self {
            seed,
            mistake: None,
            scene: None,
            replicas,
            links,
            cores,
            tuning,
            network,
            disk,
            log,
            core,
            clocks,
            workload,
            faults: Vec::new(),
            liars: Vec::new(),
            heal_at,
            deadline: heal_at.plus(Nanoseconds::from_millis(30_000).0),
        };
        plan.faults = faults::draw(&plan);
        shrink_bounds(&mut plan);
        plan.liars = liars::draw(&mut plan);
        if !plan.liars.is_empty() {
            liars::make_room(&mut plan);
        }
        scenes::direct(&mut plan);
        if plan.scene.is_some() {
            plan.workload.greedy = None;
        }
        if plan.workload.greedy.is_some() {
            make_fair(&mut plan, &mut greed);
        }
        plan
    }

    /// Whether nothing goes wrong in this history: no fault, no loss, no queue that overflows.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        self.faults.is_empty()
            && self.liars.is_empty()
            && self.network.carriage == Carriage::Stream
            && !self.has_small_queues()
    }

    /// Whether a replica crashes.
    #[must_use]
    pub fn has_crashes(&self) -> bool {
        self.faults.iter().any(Fault::is_crash)
    }

    /// Whether something is lost that was durable.
    #[must_use]
    pub fn has_damage(&self) -> bool {
        self.faults.iter().any(Fault::is_damage)
    }

    /// The replicas that stand still at the end.
    #[must_use]
    pub fn stopped(&self) -> ReplicaSet {
        let mut stopped = ReplicaSet::EMPTY;
        for fault in self.faults.iter().filter(|fault| fault.is_lasting()) {
            if let FaultKind::Pause { replica } = fault.kind {
                stopped.insert(replica);
            }
        }
        stopped
    }

    /// The replicas that lie.
    #[must_use]
    pub fn lying(&self) -> ReplicaSet {
        let mut lying = ReplicaSet::EMPTY;
        self.liars.iter().for_each(|liar| {
            lying.insert(liar.replica);
        });
        lying
    }

    /// The time that a primary needs at most, where nothing is lost: four ways and a fetch, all of them stragglers where
    /// there are any (DESIGN section 4, T0), and so is the first write; what came too early is sent again.
    #[must_use]
    pub fn patience(&self) -> Nanoseconds {
        let ways = if self.network.straggler_permille > 0 { 130 } else { 50 };
        let network = self.network.delay_max.0 + 64 * 1024 * 1_000_000 / self.network.bytes_per_millisecond;
        let cores = self.core.wake_max.0 + self.core.mail_max.0;
        Nanoseconds(ways * (network + cores) + 45 * self.disk.write_max.0 + 6 * self.tuning.retransmit.0)
    }

    /// The replicas of which nothing is expected at the end: they stand still, or lie.
    #[must_use]
    pub fn unreliable(&self) -> ReplicaSet {
        self.stopped().union(self.lying())
    }

    /// More bytes than any batch has that an honest replica seals.
    #[must_use]
    pub fn batch_bytes_max(&self) -> usize {
        self.tuning.batch_bytes_full + self.workload.bundle_bytes_max() + 1024
    }

    /// Whether queues to peers may overflow.
    #[must_use]
    pub fn has_small_queues(&self) -> bool {
        self.network.queue_bytes_max < 1024 * 1024
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { replicas, links, cores, workload, tuning, network, .. } = self;
        write!(
            f,
            "n={replicas} links={links} cores={cores} clients={}x{}",
            workload.clients, workload.bundles
        )?;
        write!(f, " P={} W={} C={}", tuning.proposals_max, tuning.window, tuning.checkpoint_interval)?;
        write!(f, " pipeline={} cut={}", tuning.pipeline_bytes, tuning.cut_batches_max)?;
        write!(f, " batch={} {:?}", tuning.batch_bytes_full, network.carriage)?;
        write!(f, " queue={} disk<={}us", network.queue_bytes_max, self.disk.write_max.0 / 1000)?;
        write!(f, " faults={} heal={}ms", self.faults.len(), self.heal_at.0 / 1_000_000)?;
        self.scene.iter().try_for_each(|scene| write!(f, " {scene:?}"))?;
        self.liars.iter().try_for_each(|liar| write!(f, " r{} lies: {:?}", liar.replica, liar.habits))
    }
}

fn draw_tuning(random: &mut Random, bundle_bytes_max: usize) -> Tuning {
    let checkpoint_interval = random.magnitude(2, 16);
    let batch_bytes_full =
        usize::try_from(random.magnitude(256, 16 * 1024)).expect("invariant: below 16 KiB");
    // A full batch may be one byte short before its last bundle.
    let batch_bytes_max = batch_bytes_full + bundle_bytes_max + 1024;
    Tuning {
        window: checkpoint_interval * random.between(2, 6),
        checkpoint_interval,
        checkpoint_bytes: random.magnitude(4 * 1024, 1024 * 1024),
        proposals_max: random.magnitude(1, 16),
        pipeline_bytes: *random.pick(&[0, 1, 500, 5_000, 256 * 1024]),
        cut_batches_max: random.magnitude(1, limits::CUT_BATCHES_MAX),
        // Room for the largest batch, or its lane would stand still.
        cut_bytes_max: batch_bytes_max as u64 * random.magnitude(1, 16),
        fetch_headers_max: 1 + random.index(16),
        fetch_bytes_max: *random.pick(&[1, 4 * 1024, 64 * 1024, limits::FETCH_BYTES_MAX]),
        batch_bytes_full,
        batches_in_flight: random.between(1, 3),
        // Down to the room for one bundle, so that clients are told to wait.
        lane_bytes_open_max: bundle_bytes_max + 1024 + random.index(4) * random.index(batch_bytes_max),
        lane_units_flying_max: limits::LANE_UNITS_FLYING_MAX,
        key_units_beside_max: limits::KEY_UNITS_BESIDE_MAX,
        lane_bytes_kept_max: 16 * 1024 * 1024,
        // A few full batches, so that a stalled disk makes the lanes wait.
        undurable_bytes_max: 8 * batch_bytes_max,
        headers_kept_max: limits::HEADERS_KEPT_MAX,
        state: StateLimits::default(),
        retransmit: Nanoseconds::from_millis(random.between(10, 80)),
        idle: Nanoseconds::from_millis(random.between(100, 800)),
        clock_skew_max: Nanoseconds::from_millis(random.magnitude(1, 500)),
        view_timeout: Nanoseconds::from_millis(random.between(100, 600)),
    }
}

/// In some histories bounds are so small that they are met: batches leave memory as soon as they are executed, headers too,
/// and the disk may be behind by little more than a batch.
fn shrink_bounds(plan: &mut Plan) {
    let mut random = Random::new(plan.seed, Stream::Bounds);
    let batch_bytes_max = plan.batch_bytes_max();
    let tuning = &mut plan.tuning;
    if random.percent(50) {
        tuning.lane_bytes_kept_max =
            usize::try_from(random.magnitude(1, 8 * 1024)).expect("invariant: small");
    }
    if random.percent(30) {
        tuning.undurable_bytes_max = batch_bytes_max * (1 + random.index(3));
    }
    if random.percent(30) {
        tuning.headers_kept_max = random.magnitude(1, 64);
    }
    // From no entry at all to a few long ones.
    if random.percent(25) {
        tuning.state.bytes_max = random.magnitude(1, 8 * 1024);
    }
    if random.percent(50) {
        // Little enough that most bundles wait for the one before.
        tuning.lane_units_flying_max = random.magnitude(1, 1024);
        tuning.key_units_beside_max = random.magnitude(24, 1024);
    }
}

/// Where somebody is greedy there is as much room as fairness needs to let everybody else in: others have at most twice of
/// it what is left, beside the bundle that each may have in any case.
fn make_fair(plan: &mut Plan, random: &mut Random) {
    let keys = usize::from(plan.workload.client_keys);
    let bundle = plan.workload.bundle_bytes_max();
    plan.tuning.lane_bytes_open_max = (2 * keys + 1) * 4 * bundle + 2 * keys * bundle + 16 * 1024;
    plan.tuning.lane_units_flying_max = random.magnitude(256, 1024);
    // Of the others nobody has so much that it is heavy.
    plan.tuning.key_units_beside_max = limits::KEY_UNITS_BESIDE_MAX;
}

/// Clients share keys, and a key may have so few sessions that restarts and second thoughts evict them, and so little
/// room for replies that they are gone when they are wanted again. A client waits until registrations are forgotten: that is not to take long.
fn share_keys(random: &mut Random, workload: &mut WorkloadPlan, tuning: &mut Tuning) {
    let keys = random.between(1, workload.clients);
    workload.client_keys = u8::try_from(keys).expect("invariant: a few clients");
    let per_key = usize::try_from(workload.clients.div_ceil(keys)).expect("invariant: a few clients");
    let (sessions_per_client, registration_age) = (per_key + random.index(3), random.magnitude(2, 30));
    // A reply has some twenty bytes, and a read of everything a few thousand.
    let reply_bytes_per_client = random.magnitude(1, 20_000);
    let reply_bytes = reply_bytes_per_client * random.between(1, keys);
    let registration_time = Nanoseconds::from_millis(random.magnitude(1, 2000));
    tuning.state = StateLimits {
        bytes_max: tuning.state.bytes_max,
        sessions_per_client,
        registration_age,
        registration_time,
        reply_bytes_per_client,
        reply_bytes,
    };
}

fn draw_network(random: &mut Random) -> NetworkPlan {
    let carriage = if random.percent(30) {
        Carriage::Single { lost_permille: random.between(0, 150), doubled_permille: random.between(0, 150) }
    } else {
        Carriage::Stream
    };
    let delay_min = random.magnitude(10_000, 1_000_000);
    let queue_bytes_max =
        if random.percent(30) { random.magnitude(512, 32 * 1024) } else { 64 * 1024 * 1024 };
    NetworkPlan {
        carriage,
        delay_min: Nanoseconds(delay_min),
        delay_max: Nanoseconds(delay_min * random.between(1, 10)),
        straggler_permille: random.between(0, 30),
        bytes_per_millisecond: random.magnitude(2_000, 1_000_000),
        queue_bytes_max: usize::try_from(queue_bytes_max).expect("invariant: 64 MiB at most"),
        cut_percent: *random.pick(&[0, 10, 80]),
        redial_min: Nanoseconds::from_millis(random.between(1, 5)),
        redial_max: Nanoseconds::from_millis(random.between(5, 60)),
    }
}

fn draw_disk(random: &mut Random) -> DiskPlan {
    if random.percent(20) {
        let zero = Nanoseconds(0);
        return DiskPlan { write_min: zero, write_max: zero, stall_permille: 0 };
    }
    let write_min = random.magnitude(1_000, 500_000);
    DiskPlan {
        write_min: Nanoseconds(write_min),
        write_max: Nanoseconds(write_min * random.between(1, 12)),
        stall_permille: random.between(0, 20),
    }
}

/// Segments so short that a history fills many of them.
fn draw_log(random: &mut Random, batch_bytes_max: usize) -> LogOptions {
    let longest = (batch_bytes_max + 4096).next_multiple_of(BLOCK_BYTES);
    let segment_bytes = longest + BLOCK_BYTES * (4 + random.index(16));
    LogOptions {
        segment_bytes,
        writes_in_flight_max: 1 + random.index(4),
        group_bytes_max: BLOCK_BYTES * (2 + random.index(16)),
        eager_bytes: *random.pick(&[0, 4096, 64 * 1024]),
        segments_ahead: 1 + random.index(2),
        segments_spare_max: random.index(3),
        durable_watermark: true,
    }
}

fn draw_workload(random: &mut Random, replicas: u8, heal_at: Nanoseconds) -> WorkloadPlan {
    let clients = random.between(1, CLIENTS_MAX - 3);
    // Signatures are the cost of a history: every replica checks every bundle and every vote.
    let bundles_all = random.between(20, 360 / u64::from(replicas).max(4));
    let bundles = bundles_all.div_ceil(clients);
    let depth = random.magnitude(1, 16);
    WorkloadPlan {
        clients,
        client_keys: u8::try_from(clients).expect("invariant: a few clients"),
        bundles,
        bundles_after: 1 + random.below(2),
        think_after_max: Nanoseconds::from_millis(5),
        depth,
        think_max: Nanoseconds(2 * heal_at.0 * depth / (bundles + 1)),
        operations_max: random.magnitude(1, 8),
        keys: random.between(2, 6),
        value_bytes_max: random.magnitude(8, 512),
        large_permille: *random.pick(&[0, 0, 30, 100]),
        greedy: None,
    }
}

/// Within the bound of skew as a rule; in some histories above it, where headers wait and are not refused.
fn draw_clocks(random: &mut Random, replicas: u8, skew_max: Nanoseconds) -> Vec<Nanoseconds> {
    let spread = if random.percent(15) { skew_max.0 + skew_max.0.min(200_000_000) / 2 } else { skew_max.0 };
    let epoch = Nanoseconds::from_millis(1_000_000);
    (0..replicas).map(|_| epoch.plus(random.below(spread))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_shape_occurs_and_is_consistent() {
        let plans: Vec<Plan> = (0..400).map(Plan::of).collect();
        let sizes: BTreeSet<u8> = plans.iter().map(|plan| plan.replicas).collect();
        assert_eq!(sizes, BTreeSet::from([1, 4, 5, 6, 7]));
        assert!(plans.iter().any(Plan::is_calm));
        let shares = |plan: &&Plan| u64::from(plan.workload.client_keys) < plan.workload.clients;
        assert!(plans.iter().filter(shares).count() > 100);
        assert!(plans.iter().any(|plan| !plan.stopped().is_empty()));
        assert!(plans.iter().filter(|plan| plan.has_crashes()).count() > 150);
        assert!(plans.iter().filter(|plan| plan.has_damage()).count() > 50);
        assert!(plans.iter().any(|plan| plan.has_small_queues() && plan.links == 2 && plan.cores == 3));
        for plan in &plans {
            assert!(2 * plan.tuning.checkpoint_interval <= plan.tuning.window);
            assert!(plan.tuning.proposals_max <= limits::PROPOSALS_MAX);
            assert!(plan.faults.iter().all(|fault| fault.end <= plan.heal_at || fault.is_lasting()));
            assert_eq!(plan.clocks.len(), usize::from(plan.replicas));
        }
    }

    #[test]
    fn a_seed_always_gives_the_same_plan() {
        assert_eq!(format!("{:?}", Plan::of(42)), format!("{:?}", Plan::of(42)));
    }
}
