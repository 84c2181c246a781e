//! Consensus on four machines in memory.
//!
//! Every signature is made and checked, as in a cluster: 1 proposal and 4 PREPAREs signed, 15 of them checked.
//! There is no network, no encoding and no disk: what is appended is durable at once.

use quorate_consensus::{
    BoardEntry, Consensus, Destination, LaneUpdate, Mark, Outgoing, Output, Support, Why,
};
use quorate_types::{
    ClusterConfig, Digest, Domain, JournalId, LaneId, LaneNumber, LinkId, Lsn, Nanoseconds, ReplicaId, Seq,
};
use quorate_wire::{Position, testing};
use std::collections::VecDeque;
use std::sync::Arc;

const REPLICAS: u8 = 4;
/// The primary of view 0.
const PRIMARY: ReplicaId = ReplicaId(0);
const BATCH_BYTES: u64 = 64 * 1024;

#[derive(Debug)]
struct Flight {
    from: ReplicaId,
    to: ReplicaId,
    message: Outgoing,
}

/// Four replicas' consensus, the messages between them, and the lane that the primary proposes.
#[derive(Debug)]
pub struct Machines {
    config: Arc<ClusterConfig>,
    machines: Vec<Consensus>,
    flights: VecDeque<Flight>,
    now: Nanoseconds,
    /// The lane of the primary: its last batch.
    batch: LaneNumber,
    chain: Digest,
}

impl Machines {
    /// Machines that have ordered nothing.
    #[must_use]
    pub fn new() -> Self {
        let config = Arc::new(testing::config(REPLICAS));
        let machine =
            |id: ReplicaId| Consensus::new(Arc::clone(&config), id, testing::replica_key(id.0), JournalId(0));
        Self {
            machines: config.replica_ids().map(machine).collect(),
            config,
            flights: VecDeque::new(),
            now: Nanoseconds::from_millis(1_000_000),
            batch: LaneNumber(0),
            chain: Digest::ZERO,
        }
    }

    fn ids(&self) -> impl Iterator<Item = ReplicaId> + use<> {
        (0..REPLICAS).map(ReplicaId)
    }

    /// Gives an input to a machine and carries out what it wants done.
    fn with(&mut self, id: ReplicaId, input: impl FnOnce(&mut Consensus, Nanoseconds, &mut Vec<Output>)) {
        let mut out = Vec::new();
        let machine = &mut self.machines[id.index()];
        input(machine, self.now, &mut out);
        for output in out {
            match output {
                Output::Send { to, message, .. } => self.send(id, to, &message),
                Output::Committed { position, .. } => self.execute(id, position),
                Output::Append { .. }
                | Output::Trim { .. }
                | Output::States { .. }
                | Output::ViewEntered { .. } => {}
                other => panic!("replica {id} does not go on: {other:?}"),
            }
        }
    }

    fn send(&mut self, from: ReplicaId, to: Destination, message: &Outgoing) {
        let goes = |id: ReplicaId| match to {
            Destination::All => true,
            Destination::Others => id != from,
            Destination::One(one) => id == one,
        };
        for to in self.ids().filter(|id| goes(*id)) {
            self.flights.push_back(Flight { from, to, message: message.clone() });
        }
    }

    /// A state for every checkpoint, so that the window moves.
    fn execute(&mut self, id: ReplicaId, position: Position) {
        let interval = self.config.tuning().checkpoint_interval;
        let root = Digest::of(Domain::StateRoot, &position.digest.0);
        self.with(id, |machine, _, out| {
            machine.on_executed(position);
            if position.seq.0.is_multiple_of(interval) {
                machine.on_root(position, root, out);
            }
        });
    }

    fn deliver(&mut self, Flight { from, to, message }: Flight) {
        self.with(to, |machine, _, out| match message {
            Outgoing::PrePrepare(message) => {
                let checked = machine.keyring().pre_prepare(Arc::unwrap_or_clone(message));
                machine.on_pre_prepare(checked.expect("a valid signature"), out);
            }
            Outgoing::Prepare(message) if from == to => {
                let own = machine.keyring().own(Arc::unwrap_or_clone(message));
                machine.on_prepare(own, out);
            }
            Outgoing::Prepare(message) => {
                let checked = machine.keyring().prepare(from, Arc::unwrap_or_clone(message));
                machine.on_prepare(checked.expect("a valid signature"), out);
            }
            Outgoing::Commit(message) => machine.on_commit(from, &message, out),
            Outgoing::Checkpoint(message) => {
                let checked = machine.keyring().checkpoint(from, message);
                machine.on_checkpoint(checked.expect("a valid signature"), out);
            }
            _ => {}
        });
    }

    /// Every replica holds and acknowledges one more batch of the primary's lane.
    fn grow_lane(&mut self) {
        let before = self.chain;
        self.batch = self.batch.next();
        self.chain = Digest::of(Domain::LaneChain, &self.batch.0.to_le_bytes());
        let lane = LaneId { origin: PRIMARY, link: LinkId(0) };
        let lsn = Lsn(self.batch.0);
        let mark = Mark { upto: self.batch, chain: self.chain };
        let (journal, why) = (JournalId(1), Why::OwnLink);
        let entry = BoardEntry { mark, previous: before, bytes: BATCH_BYTES, journal, lsn, why };
        let supported = vec![(Support::Weak, mark), (Support::Quorum, mark)];
        let update = LaneUpdate { lane, held: vec![entry], supported, tip: mark };
        self.machines.iter_mut().for_each(|machine| machine.on_lane_update(&update));
    }

    /// Orders one batch: until nothing is in flight and no machine has more to say.
    ///
    /// # Panics
    /// When the machines do not agree.
    pub fn order_one(&mut self) -> Seq {
        self.now = self.now.plus(1_000_000);
        self.grow_lane();
        loop {
            for id in self.ids() {
                self.with(id, |machine, now, out| machine.on_tick_end(now, out));
            }
            if self.flights.is_empty() {
                break;
            }
            for flight in std::mem::take(&mut self.flights) {
                self.deliver(flight);
            }
        }
        let committed = self.machines[0].positions().committed;
        assert!(self.machines.iter().all(|machine| machine.positions().committed == committed));
        assert_eq!(committed.seq.0, self.batch.0, "each batch is ordered by a header of its own");
        committed.seq
    }
}

impl Default for Machines {
    fn default() -> Self {
        Self::new()
    }
}
