//! Admission and batching of the bundles of one own lane, and where their time goes on the way to being committed.

use quorate_types::{LaneNumber, Lsn, Nanoseconds, Stage, StageTime, limits};
use quorate_wire::{BatchHead, Frame, Kind, LaneTip, batch};
use std::collections::{BTreeMap, VecDeque};

/// Whoever a bundle came from; a number of the caller's.
pub(crate) type Owner = u64;

#[derive(Debug)]
struct Pending {
    /// Where it ends in the encoded bundles.
    end: usize,
    owner: Owner,
    /// When it was admitted, once that is known.
    admitted: Option<Nanoseconds>,
}

/// A batch on its way to execution.
#[derive(Debug)]
struct Sealed {
    number: LaneNumber,
    lsn: Lsn,
    /// The owners of its bundles.
    owners: Vec<Owner>,
    /// The last stage that it has passed, and when.
    passed: Stage,
    at: Nanoseconds,
}

impl Sealed {
    /// The batch has passed `stage` at `now`, and all stages before: none is left out, whatever order the news
    /// came in. A stage that ended before the one before it took no time of its own.
    fn pass(&mut self, stage: Stage, now: Nanoseconds, report: &mut impl FnMut(StageTime)) {
        let bundles = self.owners.len() as u64;
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
    encoded: Vec<u8>,
    pending: VecDeque<Pending>,
    /// What each owner has admitted and not yet executed.
    open: BTreeMap<Owner, usize>,
    /// The sealed batches that are not executed.
    sealed: VecDeque<Sealed>,
}

impl OwnLane {
    /// Takes a checked bundle.
    pub(crate) fn admit(&mut self, owner: Owner, bundle: &[u8]) {
        *self.open.entry(owner).or_insert(0) += 1;
        batch::write_bundle(&mut self.encoded, bundle);
        self.pending.push_back(Pending { end: self.encoded.len(), owner, admitted: None });
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
        self.encoded.len()
    }

    /// Makes the next batch after `tip`: all that is pending, up to a full batch. It will lie at `lsn` of the journal.
    pub(crate) fn seal(
        &mut self,
        tip: LaneTip,
        full: usize,
        lsn: Lsn,
        now: Nanoseconds,
        mut report: impl FnMut(StageTime),
    ) -> Option<Frame> {
        let count = self
            .pending
            .iter()
            .take(limits::BATCH_BUNDLES_MAX)
            .position(|bundle| bundle.end >= full)
            .map_or(self.pending.len().min(limits::BATCH_BUNDLES_MAX), |index| index + 1);
        let bytes = self.pending.get(count.checked_sub(1)?)?.end;
        let head = BatchHead { lane: tip.lane, number: tip.upto.next(), previous: tip.chain };
        let frame = Frame::encode(Kind::Batch, |out| {
            out.reserve(batch::HEAD_BYTES + bytes);
            batch::write_head(out, &head, count);
            out.extend_from_slice(&self.encoded[..bytes]);
        });
        self.encoded.drain(..bytes);
        let owners = self.pending.drain(..count).map(|bundle| {
            let elapsed_ns = now.since(bundle.admitted.unwrap_or(now));
            report(StageTime { stage: Stage::Sealed, elapsed_ns, bundles: 1 });
            bundle.owner
        });
        let owners = owners.collect();
        self.pending.iter_mut().for_each(|bundle| bundle.end -= bytes);
        self.sealed.push_back(Sealed { number: head.number, lsn, owners, passed: Stage::Sealed, at: now });
        Some(frame)
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

    /// Batches up to `number` are executed: their owners may admit more.
    pub(crate) fn on_executed(&mut self, number: LaneNumber) {
        while let Some(batch) = self.sealed.pop_front_if(|batch| batch.number <= number) {
            for owner in batch.owners {
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

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::{Digest, LaneId, LinkId, ReplicaId};

    const LANE: LaneId = LaneId { origin: ReplicaId(0), link: LinkId(0) };

    /// A batch of two bundles, admitted at 10 and 20 and sealed at 50.
    fn sealed(times: &mut Vec<(Stage, u64, u64)>) -> OwnLane {
        let mut lane = OwnLane::default();
        for admitted in [10, 20] {
            lane.admit(7, b"bundle");
            lane.note_admitted(Nanoseconds(admitted));
        }
        let tip = LaneTip { lane: LANE, upto: LaneNumber(0), chain: Digest::ZERO };
        assert!(lane.seal(tip, 1000, Lsn(1), Nanoseconds(50), note(times)).is_some());
        lane
    }

    fn note(times: &mut Vec<(Stage, u64, u64)>) -> impl FnMut(StageTime) {
        |time| times.push((time.stage, time.elapsed_ns, time.bundles))
    }

    fn ordered(lane: &mut OwnLane, at: [u64; 3], times: &mut Vec<(Stage, u64, u64)>) {
        let [proposed, prepared, committed] = at.map(Nanoseconds);
        let at = [(Stage::Proposed, proposed), (Stage::Prepared, prepared), (Stage::Committed, committed)];
        lane.on_ordered(LaneNumber(1), &at, note(times));
    }

    #[test]
    fn each_stage_counts_from_the_end_of_the_one_before() {
        let mut times = Vec::new();
        let mut lane = sealed(&mut times);
        lane.on_durable(Nanoseconds(60), Lsn(0), note(&mut times));
        lane.on_durable(Nanoseconds(70), Lsn(1), note(&mut times));
        lane.on_durable(Nanoseconds(75), Lsn(1), note(&mut times));
        lane.on_acknowledged(Nanoseconds(100), LaneNumber(1), note(&mut times));
        ordered(&mut lane, [110, 130, 160], &mut times);
        let expected = [
            (Stage::Sealed, 40, 1),
            (Stage::Sealed, 30, 1),
            (Stage::Durable, 20, 2),
            (Stage::Acknowledged, 30, 2),
            (Stage::Proposed, 10, 2),
            (Stage::Prepared, 20, 2),
            (Stage::Committed, 30, 2),
        ];
        assert_eq!(times, expected);
    }

    #[test]
    fn no_stage_is_left_out_or_counted_twice_when_news_come_late() {
        let mut times = Vec::new();
        let mut lane = sealed(&mut times);
        times.clear();
        // The primary names its own batch at once: the header is accepted before the quorum's acknowledgement.
        lane.on_acknowledged(Nanoseconds(100), LaneNumber(1), note(&mut times));
        ordered(&mut lane, [60, 130, 130], &mut times);
        lane.on_durable(Nanoseconds(140), Lsn(1), note(&mut times));
        lane.on_acknowledged(Nanoseconds(150), LaneNumber(1), note(&mut times));
        let expected = [
            (Stage::Durable, 50, 2),
            (Stage::Acknowledged, 0, 2),
            (Stage::Proposed, 0, 2),
            (Stage::Prepared, 30, 2),
            (Stage::Committed, 0, 2),
        ];
        assert_eq!(times, expected);
    }
}
