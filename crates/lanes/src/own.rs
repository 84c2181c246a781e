//! Admission and batching of the bundles of one own lane.

use quorate_types::{LaneNumber, limits};
use quorate_wire::{BatchHead, Frame, Kind, LaneTip, batch};
use std::collections::{BTreeMap, VecDeque};

/// Whoever a bundle came from; a number of the caller's.
pub(crate) type Owner = u64;

/// Bundles on their way into batches, and batches on their way to execution.
#[derive(Debug, Default)]
pub(crate) struct OwnLane {
    /// Encoded as they will stand in the batch.
    pending: Vec<u8>,
    /// The end of each pending bundle in `pending`, with its owner.
    ends: VecDeque<(usize, Owner)>,
    /// What each owner has admitted and not yet executed.
    open: BTreeMap<Owner, usize>,
    /// The owners of the bundles of each sealed batch, until it is executed.
    sealed: VecDeque<(LaneNumber, Vec<Owner>)>,
}

impl OwnLane {
    /// Takes a checked bundle.
    pub(crate) fn admit(&mut self, owner: Owner, bundle: &[u8]) {
        *self.open.entry(owner).or_insert(0) += 1;
        batch::write_bundle(&mut self.pending, bundle);
        self.ends.push_back((self.pending.len(), owner));
    }

    /// How many bundles an owner has admitted that are not executed.
    pub(crate) fn open(&self, owner: Owner) -> usize {
        self.open.get(&owner).copied().unwrap_or(0)
    }

    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    /// Makes the next batch after `tip`: all that is pending, up to a full batch.
    pub(crate) fn seal(&mut self, tip: LaneTip, full: usize) -> Option<Frame> {
        let count = self
            .ends
            .iter()
            .take(limits::BATCH_BUNDLES_MAX)
            .position(|(end, _)| *end >= full)
            .map_or(self.ends.len().min(limits::BATCH_BUNDLES_MAX), |index| index + 1);
        let bytes = self.ends.get(count.checked_sub(1)?)?.0;
        let head = BatchHead { lane: tip.lane, number: tip.upto.next(), previous: tip.chain };
        let frame = Frame::encode(Kind::Batch, |out| {
            out.reserve(batch::HEAD_BYTES + bytes);
            batch::write_head(out, &head, count);
            out.extend_from_slice(&self.pending[..bytes]);
        });
        self.pending.drain(..bytes);
        let owners = self.ends.drain(..count).map(|(_, owner)| owner).collect();
        self.ends.iter_mut().for_each(|(end, _)| *end -= bytes);
        self.sealed.push_back((head.number, owners));
        Some(frame)
    }

    /// Batches up to `number` are executed: their owners may admit more.
    pub(crate) fn on_executed(&mut self, number: LaneNumber) {
        while let Some((_, owners)) = self.sealed.pop_front_if(|(sealed, _)| *sealed <= number) {
            for owner in owners {
                if let Some(open) = self.open.get_mut(&owner) {
                    *open -= 1;
                    if *open == 0 {
                        self.open.remove(&owner);
                    }
                }
            }
        }
    }
}
