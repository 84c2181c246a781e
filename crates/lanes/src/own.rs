//! Admission and batching of the bundles of one own lane, and where their time goes on the way to being committed.

use crate::batch::{Batch, Bundle};
use quorate_types::{Digest, LaneNumber, Lsn, Nanoseconds, Stage, StageTime, limits};
use quorate_wire::{
    BatchHead, BundleHead, BundleView, Claims, Frame, Kind, LaneTip, Verdicts, batch, bundle,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// What stands in front of a bundle's operations in a batch: its length and its head.
const BUNDLE_OVERHEAD: usize = 4 + bundle::HEAD_BYTES;

/// Whoever a bundle came from; a number of the caller's.
pub(crate) type Owner = u64;

/// A bundle that waits for its batch.
#[derive(Debug)]
struct Pending {
    /// Nobody for a bundle that was sealed before this replica was restarted.
    owner: Option<Owner>,
    head: BundleHead,
    /// Where it ends in the pending bytes.
    end: usize,
    /// When it was admitted, once that is known.
    admitted: Option<Nanoseconds>,
}

/// A batch on its way to execution.
#[derive(Debug)]
struct Sealed {
    number: LaneNumber,
    chain: Digest,
    lsn: Lsn,
    /// The owners of its bundles, and when each bundle was admitted.
    bundles: Vec<(Option<Owner>, Option<Nanoseconds>)>,
    /// The last stage that it has passed, and when.
    passed: Stage,
    at: Nanoseconds,
}

impl Sealed {
    /// The batch has passed `stage` at `now`, and all stages before: none is left out, whatever order the news
    /// came in. A stage that ended before the one before it took no time of its own.
    fn pass(&mut self, stage: Stage, now: Nanoseconds, report: &mut impl FnMut(StageTime)) {
        let bundles = self.bundles.len() as u64;
        for next in Stage::ALL.into_iter().filter(|next| *next > self.passed && *next <= stage) {
            report(StageTime { stage: next, elapsed_ns: now.since(self.at), bundles });
            self.at = self.at.max(now);
        }
        self.passed = self.passed.max(stage);
    }
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
    /// The sealed batches that are not executed.
    sealed: VecDeque<Sealed>,
}

impl OwnLane {
    /// Takes a bundle whose signature is still to be checked.
    pub(crate) fn admit(&mut self, owner: Owner, bundle: &BundleView<'_>) {
        *self.open.entry(owner).or_insert(0) += 1;
        batch::write_bundle(&mut self.bytes, bundle.bytes);
        self.pending.push_back(Pending {
            owner: Some(owner),
            head: bundle.head,
            end: self.bytes.len(),
            admitted: None,
        });
    }

    /// Asks for the verdicts on all signatures that were not checked yet.
    pub(crate) fn claim(&self, claims: &mut Claims<'_>) {
        self.pending.range(self.checked..).for_each(|one| claims.add_bundle(&one.head));
    }

    /// Takes the verdicts that [`OwnLane::claim`] asked for. Returns the owners of bundles whose signature is wrong;
    /// nothing that they brought since the last time is taken.
    pub(crate) fn settle(&mut self, verdicts: &mut Verdicts) -> BTreeSet<Owner> {
        let holds: Vec<bool> =
            self.pending.range(self.checked..).zip(verdicts).map(|(_, verdict)| verdict.holds()).collect();
        let mut liars = BTreeSet::new();
        if holds.contains(&false) {
            let unchecked = self.pending.range(self.checked..).zip(&holds);
            liars = unchecked.filter(|(_, holds)| !**holds).filter_map(|(one, _)| one.owner).collect();
            for (at, holds) in (self.checked..).zip(holds).collect::<Vec<_>>().into_iter().rev() {
                if !holds || self.pending[at].owner.is_some_and(|owner| liars.contains(&owner)) {
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

    /// The last bundle was admitted at `now`.
    pub(crate) fn note_admitted(&mut self, now: Nanoseconds) {
        if let Some(bundle) = self.pending.back_mut() {
            bundle.admitted = Some(now);
        }
    }

    /// How many bundles an owner has admitted that are not executed.
    pub(crate) fn open(&self, owner: Owner) -> usize {
        self.open.get(&owner).copied().unwrap_or(0)
    }

    pub(crate) fn pending_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Makes the next batch after `tip`: all that is pending and checked, up to a full batch. It will lie at `lsn` of
    /// the journal.
    pub(crate) fn seal(&mut self, tip: LaneTip, full: usize, lsn: Lsn) -> Option<Batch> {
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
        let mut start = batch::HEAD_BYTES;
        for Pending { owner, head, end, admitted } in self.pending.drain(..count) {
            let end = batch::HEAD_BYTES + end;
            owners.push((owner, admitted));
            bundles.push(Bundle { head, signed: true, body: start + BUNDLE_OVERHEAD..end });
            start = end;
        }
        self.pending.iter_mut().for_each(|one| one.end -= bytes);
        self.checked -= count;
        let batch = Batch::sealed(head, frame, bundles);
        let (number, chain, passed, at) = (batch.number(), batch.chain(), Stage::Admitted, Nanoseconds(0));
        self.sealed.push_back(Sealed { number, chain, lsn, bundles: owners, passed, at });
        Some(batch)
    }

    /// The batches that were sealed since this was last called are on their way at `now`.
    pub(crate) fn note_sealed(&mut self, now: Nanoseconds, report: &mut impl FnMut(StageTime)) {
        for batch in self.sealed.iter_mut().rev().take_while(|batch| batch.passed == Stage::Admitted) {
            for (_, admitted) in &batch.bundles {
                let elapsed_ns = now.since(admitted.unwrap_or(now));
                report(StageTime { stage: Stage::Sealed, elapsed_ns, bundles: 1 });
            }
            (batch.passed, batch.at) = (Stage::Sealed, now);
        }
    }

    /// The journal is durable up to `upto`.
    pub(crate) fn on_durable(&mut self, now: Nanoseconds, upto: Lsn, mut report: impl FnMut(StageTime)) {
        let durable = self.sealed.iter_mut().take_while(|batch| batch.lsn <= upto);
        durable.for_each(|batch| batch.pass(Stage::Durable, now, &mut report));
    }

    /// A quorum holds the lane up to `upto`.
    pub(crate) fn on_acknowledged(
        &mut self,
        now: Nanoseconds,
        upto: LaneNumber,
        mut report: impl FnMut(StageTime),
    ) {
        let held = self.sealed.iter_mut().take_while(|batch| batch.number <= upto);
        held.for_each(|batch| batch.pass(Stage::Acknowledged, now, &mut report));
    }

    /// A committed header names the lane up to `upto`. The header was accepted, prepared and committed at `times`.
    pub(crate) fn on_ordered(
        &mut self,
        upto: LaneNumber,
        times: &[(Stage, Nanoseconds); 3],
        mut report: impl FnMut(StageTime),
    ) {
        for batch in self.sealed.iter_mut().take_while(|batch| batch.number <= upto) {
            times.iter().for_each(|(stage, at)| batch.pass(*stage, *at, &mut report));
        }
    }

    /// Batches up to `number` are executed: their owners may admit more. What is `dead` will never be executed: its
    /// bundles are sealed again, before all that came later (DESIGN section 6).
    pub(crate) fn on_executed(&mut self, number: LaneNumber, dead: &[Arc<Batch>]) {
        let mut returned = Vec::new();
        for batch in dead {
            let sealed = self.sealed.iter().position(|sealed| sealed.chain == batch.chain());
            let sealed = sealed.and_then(|at| self.sealed.remove(at));
            let mut owners = sealed.map(|sealed| sealed.bundles).unwrap_or_default().into_iter();
            for bundle in batch.bundles() {
                let (owner, admitted) = owners.next().unwrap_or_default();
                let bytes = batch.bundle_bytes(bundle);
                returned.push((Pending { owner, head: bundle.head, end: 0, admitted }, bytes));
            }
        }
        self.put_back(returned);
        // They lie here in the order of sealing and, the dead ones gone, in that of their numbers.
        while let Some(batch) = self.sealed.pop_front_if(|batch| batch.number <= number) {
            batch.bundles.into_iter().for_each(|(owner, _)| self.close(owner));
        }
    }

    /// Puts bundles in front of what is pending. Their signatures are checked once more with the next ones: whether
    /// those in a batch that was recovered were checked yet is not known here.
    fn put_back(&mut self, returned: Vec<(Pending, &[u8])>) {
        if returned.is_empty() {
            return;
        }
        let mut bytes = Vec::new();
        let mut pending = VecDeque::new();
        for (mut one, bundle) in returned {
            batch::write_bundle(&mut bytes, bundle);
            one.end = bytes.len();
            pending.push_back(one);
        }
        self.pending.iter_mut().for_each(|one| one.end += bytes.len());
        bytes.append(&mut self.bytes);
        pending.append(&mut self.pending);
        (self.bytes, self.pending, self.checked) = (bytes, pending, 0);
    }

    /// One bundle of `owner` is no longer open.
    fn close(&mut self, owner: Option<Owner>) {
        let Some(owner) = owner else { return };
        if let Some(open) = self.open.get_mut(&owner) {
            *open -= 1;
            if *open == 0 {
                self.open.remove(&owner);
            }
        }
    }
}
