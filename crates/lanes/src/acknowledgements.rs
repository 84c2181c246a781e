//! Who acknowledged how much of one lane.

use quorate_types::{Digest, LaneId, LaneNumber, ReplicaId, nth_highest};
use quorate_wire::LaneTip;

/// What one replica said last, and how much of the own chain that covers.
#[derive(Clone, Copy, Debug, Default)]
struct Acknowledgement {
    /// Its tip as it said.
    upto: LaneNumber,
    chain: Digest,
    /// The highest batch of the own chain that it is known to hold.
    covered: LaneNumber,
}

/// The acknowledgements of all replicas for one lane, this one's own included. Soft state: a full
/// acknowledgement replaces what was known.
#[derive(Debug)]
pub(crate) struct Acknowledgements(Vec<Acknowledgement>);

impl Acknowledgements {
    pub(crate) fn new(replicas: usize) -> Self {
        Self(vec![Acknowledgement::default(); replicas])
    }

    /// Takes an acknowledgement. `chain_at` gives the own chain digest at a position.
    pub(crate) fn on_acknowledgement(
        &mut self,
        from: ReplicaId,
        upto: LaneNumber,
        chain: Digest,
        replace: bool,
        chain_at: impl Fn(LaneNumber) -> Option<Digest>,
    ) {
        let entry = &mut self.0[from.index()];
        if replace {
            // A tip that is not known here says nothing against what was acknowledged below it.
            let covered = if upto >= entry.covered { entry.covered } else { LaneNumber(0) };
            *entry = Acknowledgement { covered, ..Acknowledgement::default() };
        }
        if upto >= entry.upto {
            entry.upto = upto;
            entry.chain = chain;
        }
        if chain_at(upto) == Some(chain) {
            entry.covered = entry.covered.max(upto);
        }
    }

    /// The own chain has changed from `first` on: what was covered there counts anew.
    pub(crate) fn on_chain_changed(
        &mut self,
        first: LaneNumber,
        replaced: bool,
        chain_at: impl Fn(LaneNumber) -> Option<Digest>,
    ) {
        for entry in &mut self.0 {
            if replaced {
                entry.covered = entry.covered.min(first.previous());
            }
            if entry.upto > entry.covered && chain_at(entry.upto) == Some(entry.chain) {
                entry.covered = entry.upto;
            }
        }
    }

    /// The highest batch of the own chain that `count` replicas hold.
    pub(crate) fn acknowledged_by(&self, count: usize) -> LaneNumber {
        nth_highest(self.0.iter().map(|entry| entry.covered), count)
    }

    /// The tip of `lane` that a replica named last.
    pub(crate) fn claim(&self, replica: ReplicaId, lane: LaneId) -> LaneTip {
        let Acknowledgement { upto, chain, .. } = self.0[replica.index()];
        LaneTip { lane, upto, chain }
    }

    /// How many replicas hold the batch at `number` of the own chain, if they still hold what they said last:
    /// `holds` tells whether that may be.
    pub(crate) fn holders(&self, number: LaneNumber, holds: impl Fn(LaneNumber, Digest) -> bool) -> usize {
        let held = |entry: &&Acknowledgement| entry.covered >= number && holds(entry.upto, entry.chain);
        self.0.iter().filter(held).count()
    }

    /// The replicas other than `me` that say to hold more than `tip`, with what they say.
    pub(crate) fn ahead_of(&self, tip: LaneNumber, me: ReplicaId) -> Vec<(ReplicaId, LaneNumber, Digest)> {
        (0u8..)
            .map(ReplicaId)
            .zip(&self.0)
            .filter(|(replica, entry)| *replica != me && entry.upto > tip)
            .map(|(replica, entry)| (replica, entry.upto, entry.chain))
            .collect()
    }
}
