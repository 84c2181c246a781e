//! Admission and batching of the bundles of one own lane.

use crate::batch::{Batch, Bundle};
use quorate_types::{LaneNumber, limits};
use quorate_wire::{
    BatchHead, BundleHead, BundleView, Claims, Frame, Kind, LaneTip, Verdicts, batch, bundle,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What stands in front of a bundle's operations in a batch: its length and its head.
const BUNDLE_OVERHEAD: usize = 4 + bundle::HEAD_BYTES;

/// Whoever a bundle came from; a number of the caller's.
pub(crate) type Owner = u64;

/// A bundle that waits for its batch.
#[derive(Debug)]
struct Pending {
    owner: Owner,
    head: BundleHead,
    /// Where it ends in the pending bytes.
    end: usize,
}

/// Bundles on their way into batches, and batches on their way to execution.
#[derive(Debug, Default)]
pub(crate) struct OwnLane {
    /// Encoded as they will stand in the batch.
    bytes: Vec<u8>,
    /// The pending bundles in the order of `bytes`.
    pending: VecDeque<Pending>,
    /// How many of them, from the first on, have a signature that was checked.
    checked: usize,
    /// What each owner has admitted and not yet executed.
    open: BTreeMap<Owner, usize>,
    /// The owners of the bundles of each sealed batch, until it is executed.
    sealed: VecDeque<(LaneNumber, Vec<Owner>)>,
}

impl OwnLane {
    /// Takes a bundle whose signature is still to be checked.
    pub(crate) fn admit(&mut self, owner: Owner, bundle: &BundleView<'_>) {
        *self.open.entry(owner).or_insert(0) += 1;
        batch::write_bundle(&mut self.bytes, bundle.bytes);
        self.pending.push_back(Pending { owner, head: bundle.head, end: self.bytes.len() });
    }

    /// Asks for the verdicts on all signatures that were not checked yet.
    pub(crate) fn claim(&self, claims: &mut Claims<'_>) {
        self.pending.range(self.checked..).for_each(|one| claims.add_bundle(&one.head));
    }

    /// Takes the verdicts that [`OwnLane::claim`] asked for. Returns the owners of bundles whose signature is wrong;
    /// nothing that they brought since the last time is taken.
    pub(crate) fn settle(&mut self, verdicts: &mut Verdicts) -> BTreeSet<Owner> {
        let unchecked = self.pending.range(self.checked..).zip(verdicts);
        let liars: BTreeSet<Owner> =
            unchecked.filter(|(_, verdict)| !verdict.holds()).map(|(one, _)| one.owner).collect();
        if !liars.is_empty() {
            for at in (self.checked..self.pending.len()).rev() {
                if liars.contains(&self.pending[at].owner) {
                    self.take_out(at);
                }
            }
        }
        self.checked = self.pending.len();
        liars
    }

    fn take_out(&mut self, at: usize) {
        let start = at.checked_sub(1).map_or(0, |before| self.pending[before].end);
        let removed = self.pending.remove(at).expect("invariant: the caller counts what is pending");
        self.bytes.drain(start..removed.end);
        self.pending.range_mut(at..).for_each(|after| after.end -= removed.end - start);
        self.close(removed.owner);
    }

    /// How many bundles an owner has admitted that are not executed.
    pub(crate) fn open(&self, owner: Owner) -> usize {
        self.open.get(&owner).copied().unwrap_or(0)
    }

    pub(crate) fn pending_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Makes the next batch after `tip`: all that is pending and checked, up to a full batch.
    pub(crate) fn seal(&mut self, tip: LaneTip, full: usize) -> Option<Batch> {
        let most = self.checked.min(limits::BATCH_BUNDLES_MAX);
        let fills = self.pending.iter().take(most).position(|one| one.end >= full);
        let count = fills.map_or(most, |index| index + 1);
        let bytes = self.pending.get(count.checked_sub(1)?)?.end;
        let head = BatchHead { lane: tip.lane, number: tip.upto.next(), previous: tip.chain };
        let frame = Frame::encode(Kind::Batch, |out| {
            out.reserve(batch::HEAD_BYTES + bytes);
            batch::write_head(out, &head, count);
            out.extend_from_slice(&self.bytes[..bytes]);
        });
        self.bytes.drain(..bytes);
        let (mut owners, mut bundles) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut start = 0;
        for Pending { owner, head, end } in self.pending.drain(..count) {
            owners.push(owner);
            let body = start + BUNDLE_OVERHEAD..end;
            bundles.push(Bundle {
                head,
                signed: true,
                body: batch::HEAD_BYTES + body.start..batch::HEAD_BYTES + body.end,
            });
            start = end;
        }
        self.pending.iter_mut().for_each(|one| one.end -= bytes);
        self.checked -= count;
        self.sealed.push_back((head.number, owners));
        Some(Batch::sealed(head, frame, bundles))
    }

    /// Batches up to `number` are executed: their owners may admit more.
    pub(crate) fn on_executed(&mut self, number: LaneNumber) {
        while let Some((_, owners)) = self.sealed.pop_front_if(|(sealed, _)| *sealed <= number) {
            owners.into_iter().for_each(|owner| self.close(owner));
        }
    }

    /// One bundle of `owner` is no longer open.
    fn close(&mut self, owner: Owner) {
        if let Some(open) = self.open.get_mut(&owner) {
            *open -= 1;
            if *open == 0 {
                self.open.remove(&owner);
            }
        }
    }
}
