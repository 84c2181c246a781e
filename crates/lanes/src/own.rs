//! Admission and batching of the bundles of one own lane, and where their time goes on the way to being committed.

use crate::admission::{Admission, Moment, Seat, Waiting};
use crate::batch::{Batch, Bundle};
use quorate_types::{Digest, KeyIndex, LaneNumber, Lsn, Nanoseconds, SessionId, Stage, StageTime, limits};
use quorate_wire::{
    BatchHead, BundleHead, BundleView, Claims, Frame, Kind, LaneTip, Verdicts, batch, bundle,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

/// What stands in front of a bundle's operations in a batch: its length and its head.
const BUNDLE_OVERHEAD: usize = 4 + bundle::HEAD_BYTES;

/// Whoever a bundle came from; a number of the caller's.
pub(crate) type Owner = u64;

/// Who brings a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The connection that it came on, or another number of the caller's.
    pub owner: u64,
    /// The key that has signed it, for all that is known yet.
    pub key: KeyIndex,
}

/// A bundle that waits for its batch.
#[derive(Debug)]
pub(crate) struct Pending {
    /// Nobody's for a bundle that was sealed before this replica was restarted.
    pub(crate) seat: Option<Seat>,
    pub(crate) head: BundleHead,
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
    /// Whose its bundles are, and when each was admitted.
    bundles: Vec<(Option<Seat>, Option<Nanoseconds>)>,
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
    /// What each key has, and what of it waits until it may be pending.
    admission: Admission,
    /// Whose bundle was admitted last.
    last: Option<(KeyIndex, SessionId)>,
    /// Bundles that had to wait and were not told of.
    waits: u64,
    /// The sealed batches that are not executed.
    sealed: VecDeque<Sealed>,
}

impl OwnLane {
    /// Takes a bundle whose signature is still to be checked.
    pub(crate) fn admit(&mut self, sender: Sender, bundle: &BundleView<'_>, at: Moment<'_>) {
        if self.admission.has_waiting(sender.key, &bundle.head) {
            self.last = None;
            return;
        }
        let open = self.open.entry(sender.owner).or_insert(0);
        *open += 1;
        if *open == 1 {
            self.admission.note_owner(sender.key, true);
        }
        self.last = Some((sender.key, bundle.head.session));
        let seat = Seat::new(sender.owner, sender.key, bundle.bytes.len(), bundle.units());
        self.admission.open(seat);
        let mut pending = Pending { seat: Some(seat), head: bundle.head, end: 0, admitted: None };
        if self.admission.try_take_off(seat, at) {
            batch::write_bundle(&mut self.bytes, bundle.bytes);
            pending.end = self.bytes.len();
            self.pending.push_back(pending);
        } else {
            self.waits += 1;
            self.admission.wait(seat, Waiting { pending, bytes: bundle.bytes.into() });
        }
    }

    /// Whether a sender may have another bundle of so many bytes open, of a lane of which so many are left.
    pub(crate) fn has_room(
        &self,
        key: KeyIndex,
        bytes: usize,
        left: usize,
        ends: impl FnOnce() -> bool,
    ) -> bool {
        self.admission.has_room(key, bytes, left, ends)
    }

    /// What has waited long enough is pending.
    pub(crate) fn go_on(&mut self, at: Moment<'_>) {
        if self.admission.is_empty() {
            return;
        }
        let Self { admission, bytes, pending, .. } = self;
        admission.go_on(at, |Waiting { pending: mut one, bytes: bundle }| {
            batch::write_bundle(bytes, &bundle);
            one.end = bytes.len();
            pending.push_back(one);
        });
    }

    /// How many bundles had to wait since this was last asked.
    pub(crate) fn take_waits(&mut self) -> u64 {
        std::mem::take(&mut self.waits)
    }

    /// When [`OwnLane::go_on`] has something to do without anything else that happens.
    pub(crate) fn deadline(&self, at: Moment<'_>) -> Option<Nanoseconds> {
        self.admission.deadline(at)
    }

    /// The pending bundles whose signatures are checked next.
    fn unchecked(&self) -> Range<usize> {
        self.checked..self.pending.len().min(self.checked + limits::OWN_CHECKS_PER_TICK)
    }

    /// Whether signatures are still to be checked.
    pub(crate) fn has_unchecked(&self) -> bool {
        !self.unchecked().is_empty()
    }

    /// Asks for the verdicts on signatures that were not checked yet, as many as one tick may check.
    pub(crate) fn claim(&self, claims: &mut Claims<'_>) {
        self.pending.range(self.unchecked()).for_each(|one| claims.add_bundle(&one.head));
    }

    /// Takes the verdicts that [`OwnLane::claim`] asked for. Returns the owners of bundles whose signature is wrong;
    /// nothing is taken that they brought and that was not checked before.
    pub(crate) fn settle(&mut self, verdicts: &mut Verdicts, at: Moment<'_>) -> BTreeSet<Owner> {
        let claimed = self.unchecked();
        let holds: Vec<bool> = claimed.clone().zip(verdicts).map(|(_, verdict)| verdict.holds()).collect();
        let mut liars = BTreeSet::new();
        let mut checked = claimed.end;
        if holds.contains(&false) {
            let owner = |at: usize| self.pending[at].seat.map(|seat| seat.owner);
            let wrong = claimed.clone().zip(&holds).filter(|(_, holds)| !**holds);
            liars = wrong.filter_map(|(at, _)| owner(at)).collect();
            for index in (claimed.start..self.pending.len()).rev() {
                let is_wrong = holds.get(index - claimed.start).is_some_and(|holds| !holds);
                let seat = self.pending[index].seat;
                if is_wrong || seat.is_some_and(|seat| liars.contains(&seat.owner)) {
                    self.take_out(index, at);
                    checked -= usize::from(index < claimed.end);
                }
            }
            liars.iter().for_each(|owner| self.drop_waiting(*owner));
        }
        self.checked = checked;
        liars
    }

    fn take_out(&mut self, index: usize, at: Moment<'_>) {
        let start = index.checked_sub(1).map_or(0, |before| self.pending[before].end);
        let removed = self.pending.remove(index).expect("invariant: the caller counts what is pending");
        self.bytes.drain(start..removed.end);
        self.pending.range_mut(index..).for_each(|after| after.end -= removed.end - start);
        self.close(removed.seat, at);
    }

    /// What an owner has brought that waits is not taken.
    fn drop_waiting(&mut self, owner: Owner) {
        if let Some((key, dropped)) = self.admission.drop_waiting(owner) {
            self.shut(owner, key, dropped);
        }
    }

    /// The last bundle was admitted at `now`.
    pub(crate) fn note_admitted(&mut self, now: Nanoseconds) {
        let Some((key, session)) = self.last else { return };
        let last = self.admission.last_waiting(key, session).or(self.pending.back_mut());
        if let Some(bundle) = last {
            bundle.admitted = Some(now);
        }
    }

    /// How many bundles an owner has admitted that are not executed.
    pub(crate) fn open(&self, owner: Owner) -> usize {
        self.open.get(&owner).copied().unwrap_or(0)
    }

    /// How many bundles of a key are admitted that are not executed.
    pub(crate) fn open_bundles(&self, key: KeyIndex) -> usize {
        self.admission.open_bundles(key)
    }

    /// The bytes of what is about to be sealed.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes of all that is admitted and not sealed.
    pub(crate) fn unsealed_bytes(&self) -> usize {
        self.bytes.len() + self.admission.waiting_bytes()
    }

    /// Makes the next batch after `tip`: all that is pending and checked, up to a full batch. It will lie at `lsn` of
    /// the journal. As long as signatures are still to be checked, it leaves only if it is full: else a batch would hold what
    /// one tick checks, and few may be in flight.
    pub(crate) fn seal(&mut self, tip: LaneTip, full: usize, lsn: Lsn) -> Option<Batch> {
        let most = self.checked.min(limits::BATCH_BUNDLES_MAX);
        let fills = self.pending.iter().take(most).position(|one| one.end >= full);
        if fills.is_none() && most < limits::BATCH_BUNDLES_MAX && self.has_unchecked() {
            return None;
        }
        let count = fills.map_or(most, |index| index + 1);
        let bytes = self.pending.get(count.checked_sub(1)?)?.end;
        let head = BatchHead { lane: tip.lane, number: tip.upto.next(), previous: tip.chain };
        let frame = Frame::encode(Kind::Batch, |out| {
            out.reserve(batch::HEAD_BYTES + bytes);
            batch::write_head(out, &head, count);
            out.extend_from_slice(&self.bytes[..bytes]);
        });
        self.bytes.drain(..bytes);
        let (mut seats, mut bundles) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut start = batch::HEAD_BYTES;
        for Pending { seat, head, end, admitted } in self.pending.drain(..count) {
            let end = batch::HEAD_BYTES + end;
            seats.push((seat, admitted));
            bundles.push(Bundle { head, signed: true, body: start + BUNDLE_OVERHEAD..end });
            start = end;
        }
        self.pending.iter_mut().for_each(|one| one.end -= bytes);
        self.checked -= count;
        let batch = Batch::sealed(head, frame, bundles);
        let (number, chain, passed, at) = (batch.number(), batch.chain(), Stage::Admitted, Nanoseconds(0));
        self.sealed.push_back(Sealed { number, chain, lsn, bundles: seats, passed, at });
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
    pub(crate) fn on_executed(&mut self, number: LaneNumber, dead: &[Arc<Batch>], at: Moment<'_>) {
        let mut returned = Vec::new();
        for batch in dead {
            let sealed = self.sealed.iter().position(|sealed| sealed.chain == batch.chain());
            let sealed = sealed.and_then(|at| self.sealed.remove(at));
            let mut seats = sealed.map(|sealed| sealed.bundles).unwrap_or_default().into_iter();
            for bundle in batch.bundles() {
                let (seat, admitted) = seats.next().unwrap_or_default();
                let bytes = batch.bundle_bytes(bundle);
                returned.push((Pending { seat, head: bundle.head, end: 0, admitted }, bytes));
            }
        }
        self.put_back(returned);
        // They lie here in the order of sealing and, the dead ones gone, in that of their numbers.
        while let Some(batch) = self.sealed.pop_front_if(|batch| batch.number <= number) {
            batch.bundles.into_iter().for_each(|(seat, _)| self.close(seat, at));
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

    /// A bundle that was pending is no longer open.
    fn close(&mut self, seat: Option<Seat>, at: Moment<'_>) {
        let Some(seat) = seat else { return };
        self.admission.land(seat, at);
        self.shut(seat.owner, seat.key, 1);
    }

    /// So many bundles of an owner, who has this key, are no longer open.
    fn shut(&mut self, owner: Owner, key: KeyIndex, bundles: usize) {
        if let Some(open) = self.open.get_mut(&owner) {
            *open -= bundles;
            if *open == 0 {
                self.open.remove(&owner);
                self.admission.note_owner(key, false);
            }
        }
    }
}
