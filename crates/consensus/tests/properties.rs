//! Random histories of a cluster in which up to f backups are silent: whatever the network does, nobody breaks a
//! promise, and when it heals everything proposed is committed everywhere. Random bytes never panic.

mod cluster;

use cluster::{Cluster, Growth, START};
use proptest::prelude::*;
use quorate_consensus::{Consensus, Outgoing};
use quorate_types::{Digest, JournalId, LaneId, LinkId, Nanoseconds, ReplicaId, Seq, Signature, View};
use quorate_wire::message::{
    Checkpoint, CheckpointCertificate, Commit, FetchHeaders, FetchedHeaders, Message, PrePrepare, Prepare,
    Status,
};
use quorate_wire::{Header, LaneTip, Position, testing};
use std::sync::Arc;

/// One step of a history. Indices are taken modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    Deliver(usize),
    DeliverMany(usize),
    Drop(usize),
    Duplicate(usize),
    Durable(u8),
    Tick(u8, u64),
    Batch { origin: u8, link: u8, bytes: u64 },
    Reconnect(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any::<usize>().prop_map(Step::Deliver),
        6 => (1usize..20).prop_map(Step::DeliverMany),
        3 => any::<usize>().prop_map(Step::Drop),
        1 => any::<usize>().prop_map(Step::Duplicate),
        3 => any::<u8>().prop_map(Step::Durable),
        3 => (any::<u8>(), 0u64..80).prop_map(|(replica, passed)| Step::Tick(replica, passed)),
        3 => (any::<u8>(), 0u8..2, prop_oneof![Just(100u64), Just(300_000)])
            .prop_map(|(origin, link, bytes)| Step::Batch { origin, link, bytes }),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(one, other)| Step::Reconnect(one, other)),
    ]
}

/// A cluster with the heights of its lanes.
struct World {
    cluster: Cluster,
    live: Vec<ReplicaId>,
    lanes: Vec<(LaneId, u64)>,
    /// Nothing reaches this one until the network heals: it has to catch up by headers.
    isolated: Option<ReplicaId>,
}

impl World {
    /// `silent` backups, counted from the highest id, never say anything; some disks are slow.
    fn new(replicas: u8, silent: u8, slow: &[bool]) -> Self {
        let mut cluster = Cluster::new(replicas, |tuning| {
            tuning.window = 24;
            tuning.checkpoint_interval = 4;
            tuning.proposals_max = 4;
            tuning.headers_kept_max = 100;
            tuning.fetch_headers_max = 3;
            tuning.view_timeout = Nanoseconds::from_millis(60_000);
        });
        for id in replicas - silent..replicas {
            cluster.node_mut(ReplicaId(id)).crashed = true;
        }
        for (node, slow) in cluster.nodes.iter_mut().zip(slow) {
            node.slow = *slow;
        }
        let live: Vec<ReplicaId> = (0..replicas - silent).map(ReplicaId).collect();
        let lanes = (0..2)
            .flat_map(|link| {
                live.iter().map(move |origin| (LaneId { origin: *origin, link: LinkId(link) }, 0))
            })
            .collect();
        Self { cluster, live, lanes, isolated: None }
    }

    fn replica(&self, number: u8) -> ReplicaId {
        self.live[usize::from(number) % self.live.len()]
    }

    fn deliver(&mut self, index: usize) {
        let flight = self.cluster.pool.remove(index);
        if self.isolated == Some(flight.to) {
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
            Step::Batch { origin, link, bytes } => {
                let index = usize::from(*origin) + usize::from(*link) * self.live.len();
                let index = index % self.lanes.len();
                self.lanes[index].1 += 1;
                self.grow(index, *bytes);
            }
            Step::Reconnect(one, other) if self.replica(*one) != self.replica(*other) => {
                let (one, other) = (self.replica(*one), self.replica(*other));
                for (here, there) in [(one, other), (other, one)] {
                    self.cluster.with(here, |consensus, out| {
                        consensus.on_disconnected(there);
                        consensus.on_connected(there, out);
                    });
                }
            }
            _ => {}
        }
    }

    /// All live replicas hold and acknowledge the lane up to its tip.
    fn grow(&mut self, index: usize, bytes: u64) {
        let (lane, upto) = self.lanes[index];
        let growth = Growth {
            holders: self.live.clone(),
            ackers: self.live.clone(),
            bytes,
            journal: JournalId(1 + lane.link.0),
            fork: None,
        };
        self.cluster.grow_lane(lane, upto, &growth);
        for id in self.live.clone() {
            self.cluster.tick(id);
        }
    }

    /// The network and the disks are well again, and time passes.
    fn heal(&mut self) {
        for _ in 0..400 {
            self.cluster.now = self.cluster.now.plus(Nanoseconds::from_millis(10).0);
            for id in self.live.clone() {
                self.cluster.make_durable(id, None);
            }
            for flight in std::mem::take(&mut self.cluster.pool) {
                self.cluster.receive(flight.from, flight.to, &flight.message);
                self.cluster.tick(flight.to);
            }
        }
    }

    fn check_progress(&self) -> Result<(), TestCaseError> {
        let primary = self.cluster.node(ReplicaId(0)).consensus.positions();
        for id in &self.live {
            let node = self.cluster.node(*id);
            let positions = node.consensus.positions();
            prop_assert_eq!(positions.committed, primary.accepted, "r{}: {}", id, node.consensus.waiting());
            prop_assert!(node.consensus.kept() < 3_000, "r{} keeps {} things", id, node.consensus.kept());
        }
        let named = self.lanes.iter().filter(|(_, upto)| *upto > 0).count();
        prop_assert!(named == 0 || primary.accepted.seq > Seq(0), "nothing was ordered");
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nobody_breaks_a_promise_and_a_healed_cluster_commits_everything(
        replicas in 1u8..=7,
        silent in 0u8..=2,
        slow in prop::collection::vec(any::<bool>(), 7),
        isolated in prop::option::of(1u8..7),
        steps in prop::collection::vec(step(), 1..250),
    ) {
        let silent = silent.min((replicas - 1) / 3);
        let mut world = World::new(replicas, silent, &slow);
        world.isolated = isolated.map(|number| world.replica(number));
        for step in &steps {
            world.perform(step);
            prop_assert!(world.cluster.violations.is_empty(), "{:?}", world.cluster.violations);
        }
        world.heal();
        prop_assert!(world.cluster.violations.is_empty(), "{:?}", world.cluster.violations);
        world.check_progress()?;
    }
}

/// What a peer may send: numbers at the edges, digests that are known, unknown and doubled.
fn seq() -> impl Strategy<Value = Seq> {
    prop_oneof![Just(0u64), 0..6u64, 0..200u64, Just(u64::MAX - 1), Just(u64::MAX), any::<u64>()]
        .prop_map(Seq)
}

fn digest() -> impl Strategy<Value = Digest> {
    prop_oneof![
        Just(Digest::ZERO),
        any::<u8>().prop_map(|byte| Digest([byte; 32])),
        Just(quorate_wire::header::genesis(testing::config_with_links(4, 2).digest()).digest),
    ]
}

fn position() -> impl Strategy<Value = Position> {
    (seq(), digest()).prop_map(|(seq, digest)| Position { seq, digest })
}

fn view() -> impl Strategy<Value = View> {
    prop_oneof![4 => Just(View(0)), 1 => seq().prop_map(|seq| View(seq.0))]
}

fn header() -> impl Strategy<Value = Header> {
    let tip = (0u8..5, 0u8..3, seq(), digest()).prop_map(|(origin, link, upto, chain)| LaneTip {
        lane: LaneId { origin: ReplicaId(origin), link: LinkId(link) },
        upto: quorate_types::LaneNumber(upto.0),
        chain,
    });
    let time = prop_oneof![Just(0), Just(START.0), Just(u64::MAX), Just(u64::MAX - 1), any::<u64>()];
    (0u64..2, seq(), digest(), time, prop::collection::vec(tip, 0..4)).prop_map(
        |(epoch, seq, parent, time, cut)| Header {
            epoch: quorate_types::Epoch(epoch),
            seq,
            parent,
            timestamp: Nanoseconds(time),
            cut,
        },
    )
}

fn message() -> impl Strategy<Value = Outgoing> {
    let signature = Signature([7; 64]);
    let signatures = prop::collection::vec((0u8..6).prop_map(move |id| (ReplicaId(id), signature)), 0..6);
    prop_oneof![
        (view(), header()).prop_map(move |(view, header)| Outgoing::PrePrepare(Arc::new(PrePrepare {
            view,
            header,
            signature
        }))),
        (view(), seq(), prop::collection::vec(digest(), 1..64)).prop_map(move |(view, lo, digests)| {
            Outgoing::Prepare(Arc::new(Prepare { view, lo, digests, signature }))
        }),
        (view(), position()).prop_map(|(view, position)| Outgoing::Commit(Commit { view, position })),
        (position(), digest(), digest()).prop_map(move |(position, root, next_config)| {
            Outgoing::Checkpoint(Checkpoint { position, root, next_config, signature })
        }),
        (position(), digest(), digest(), signatures).prop_map(|(position, root, next_config, signatures)| {
            let message = CheckpointCertificate { position, root, next_config, signatures };
            Outgoing::CheckpointCertificate(Arc::new(message))
        }),
        (view(), prop::array::uniform5(position())).prop_map(
            |(view, [stable, accepted, prepared, committed, executed])| {
                let entered = view.0 % 2 == 0;
                Outgoing::Status(Status { view, entered, stable, accepted, prepared, committed, executed })
            }
        ),
        (position(), seq()).prop_map(|(last, above)| Outgoing::FetchHeaders(FetchHeaders { last, above })),
        prop::collection::vec(header(), 0..4)
            .prop_map(|headers| Outgoing::FetchedHeaders(FetchedHeaders { headers })),
    ]
}

/// A replica in the middle of its work: something committed, something accepted, something proposed.
fn busy() -> Cluster {
    let mut world = World::new(4, 0, &[]);
    for number in 0..12 {
        world.perform(&Step::Batch { origin: number % 4, link: 0, bytes: 300_000 });
        world.perform(&Step::DeliverMany(9));
    }
    world.cluster
}

/// Takes a message as if its sender had signed it, where the liar `from` can sign.
fn take_signed(
    consensus: &mut Consensus,
    from: ReplicaId,
    message: &Outgoing,
    out: &mut Vec<quorate_consensus::Output>,
) {
    let config = Arc::new(testing::config_with_links(4, 2));
    let tuned = consensus.keyring().clone();
    let liar = quorate_consensus::Keyring::new(config, from, testing::replica_key(from.0));
    match message {
        Outgoing::PrePrepare(message) => {
            consensus.on_pre_prepare(tuned.own(PrePrepare::clone(message)), out);
        }
        Outgoing::Prepare(message) => consensus.on_prepare(liar.own(Prepare::clone(message)), out),
        Outgoing::Checkpoint(message) => consensus.on_checkpoint(liar.own(message.clone()), out),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, failure_persistence: None, ..ProptestConfig::default() })]

    /// One liar, so nothing that it says may make an honest replica fall over or commit anything.
    #[test]
    fn whatever_one_peer_says_nobody_panics(
        says in prop::collection::vec((message(), any::<bool>(), 0u64..300), 1..120),
        to in 0u8..3,
    ) {
        let (mut cluster, liar, to) = (busy(), ReplicaId(3), ReplicaId(to));
        let before = cluster.node(to).consensus.positions().committed;
        cluster.pool.clear();
        for (message, signed, passed) in says {
            if signed {
                let mut scratch = Vec::new();
                cluster.with(to, |consensus, _| take_signed(consensus, liar, &message, &mut scratch));
            } else {
                cluster.receive(liar, to, &message);
            }
            cluster.now = cluster.now.plus(Nanoseconds::from_millis(passed).0);
            cluster.tick(to);
            cluster.pool.clear();
        }
        prop_assert!(!cluster.node(to).crashed, "it halted");
        prop_assert!(cluster.node(to).consensus.kept() < 5_000);
        let after = cluster.node(to).consensus.positions().committed;
        prop_assert!(after.seq >= before.seq && after.seq <= before.seq.plus(64));
    }

    /// Any bytes decode to a message or to an error; what decodes is taken or refused.
    #[test]
    fn random_bytes_are_harmless(bytes in prop::collection::vec(any::<u8>(), 0..600), flips in prop::collection::vec((any::<usize>(), 0u8..8), 0..4), model in message()) {
        let mut cluster = busy();
        let mut flipped = model.encode().payload().to_vec();
        for (at, bit) in flips {
            let at = at % flipped.len();
            flipped[at] ^= 1 << bit;
        }
        for bytes in [bytes, flipped] {
            let decoded = [
                PrePrepare::decode(&bytes).ok().map(|message| Outgoing::PrePrepare(Arc::new(message))),
                Prepare::decode(&bytes).ok().map(|message| Outgoing::Prepare(Arc::new(message))),
                Commit::decode(&bytes).ok().map(Outgoing::Commit),
                Checkpoint::decode(&bytes).ok().map(Outgoing::Checkpoint),
                CheckpointCertificate::decode(&bytes)
                    .ok()
                    .map(|message| Outgoing::CheckpointCertificate(Arc::new(message))),
                Status::decode(&bytes).ok().map(Outgoing::Status),
                FetchHeaders::decode(&bytes).ok().map(Outgoing::FetchHeaders),
                FetchedHeaders::decode(&bytes).ok().map(Outgoing::FetchedHeaders),
            ];
            for message in decoded.into_iter().flatten() {
                cluster.receive(ReplicaId(3), ReplicaId(1), &message);
                cluster.tick(ReplicaId(1));
            }
        }
        prop_assert!(!cluster.node(ReplicaId(1)).crashed);
    }
}
