//! What is still needed of the journal, and of executed batches.

use crate::lanes::{Lanes, Output};
use quorate_types::{LaneId, LaneNumber, Lsn};
use quorate_wire::LaneTip;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// The bytes that one checkpoint appends again, at most: old batches that nobody orders would keep all that came after
/// them in the journal.
const REWRITTEN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The batches that lie in the journal and are needed there, in its order.
#[derive(Debug, Default)]
pub(crate) struct Records {
    records: VecDeque<(Lsn, LaneTip)>,
    durable: Lsn,
    /// The end of the journal when it was trimmed last, and the time before.
    ends: [Lsn; 2],
    trimmed: Lsn,
    /// What may be trimmed once the journal is durable up to a position.
    waiting: Option<(Lsn, Lsn)>,
}

impl Records {
    pub(crate) fn push(&mut self, lsn: Lsn, tip: LaneTip) {
        self.records.push_back((lsn, tip));
    }

    /// These lie in the journal, which ends at `last`.
    pub(crate) fn recover(&mut self, last: Lsn, records: Vec<(Lsn, LaneTip)>) {
        self.records = records.into();
        self.durable = last;
    }

    /// The journal is durable up to `upto`: what waited for that may be trimmed.
    pub(crate) fn on_durable(&mut self, upto: Lsn, out: &mut Vec<Output>) {
        self.durable = self.durable.max(upto);
        if let Some((after, upto)) = self.waiting
            && after <= self.durable
        {
            self.waiting = None;
            if upto > self.trimmed {
                self.trimmed = upto;
                out.push(Output::Trim { upto });
            }
        }
    }
}

impl Lanes {
    /// The state with these lane tips is durable and certified: puts out, now or once the journal is durable far enough,
    /// up to where it is not needed any more.
    ///
    /// Needed is each batch above its lane's tip in that state, on whatever chain, as long as it may be executed. One
    /// that was there two calls ago already is appended again, within bounds, so that a lane that stands still does not
    /// keep what others have appended after it.
    pub fn trim(&mut self, tips: &[LaneTip], out: &mut Vec<Output>) {
        let floors: BTreeMap<LaneId, LaneNumber> = tips.iter().map(|tip| (tip.lane, tip.upto)).collect();
        let (last, mut rewritten) = (self.last_lsn, 0);
        while let Some((lsn, tip)) = self.records.records.front().copied()
            && lsn <= last
        {
            let floor = floors.get(&tip.lane).copied().unwrap_or_default();
            if tip.upto > floor
                && let Some(share) = self.shares.get(&tip.lane)
            {
                // An executed one is needed to execute it again. One that is neither executed nor held is dead.
                if tip.upto <= share.lane.executed() {
                    break;
                }
                if let Some(batch) = share.lane.find(tip.upto, tip.chain) {
                    let is_old = lsn <= self.records.ends[1] && lsn <= self.records.durable;
                    if !is_old || rewritten >= REWRITTEN_BYTES_MAX {
                        break;
                    }
                    rewritten += batch.bytes();
                    let batch = Arc::clone(batch);
                    self.write(&batch, out);
                }
            }
            self.records.records.pop_front();
        }
        let needed = self.records.records.front().map(|(lsn, _)| *lsn);
        let upto = Lsn(needed.map_or(last.0, |lsn| lsn.0 - 1)).min(last);
        let after = if rewritten > 0 { self.last_lsn } else { upto };
        self.records.ends = [last, self.records.ends[0]];
        // This point takes the place of one that still waits, and waits for what that waits for.
        let before = self.records.waiting.map_or(Lsn(0), |(after, _)| after);
        self.records.waiting = Some((after.max(before), upto));
        self.records.on_durable(Lsn(0), out);
    }

    /// A peer copies the state with these lane tips: what is executed above them is kept for it beyond the usual bound,
    /// up to four times as much, until [`Lanes::unpin`].
    pub fn pin(&mut self, tips: &[LaneTip]) {
        let kept_max = self.tuning().lane_bytes_kept_max;
        let pinned: BTreeMap<LaneId, LaneNumber> = tips.iter().map(|tip| (tip.lane, tip.upto)).collect();
        for (lane, share) in &mut self.shares {
            share.lane.pin(Some(pinned.get(lane).copied().unwrap_or_default()), kept_max);
        }
    }

    /// The peer has what it needs.
    pub fn unpin(&mut self) {
        let kept_max = self.tuning().lane_bytes_kept_max;
        self.shares.values_mut().for_each(|share| share.lane.pin(None, kept_max));
    }
}
