//! What is still needed of the journal, and of executed batches.

use crate::lanes::{Lanes, Output};
use quorate_types::{LaneId, LaneNumber, Lsn};
use quorate_wire::LaneTip;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Of what the origin of a lane may have open, so large a part is appended again before that must be durable: the disk
/// has other things to do.
const REWRITTEN_PARTS: usize = 4;

/// A trim that goes on when what it has appended again is durable.
#[derive(Debug)]
struct Pass {
    floors: BTreeMap<LaneId, LaneNumber>,
    /// The end of the journal when it began.
    last: Lsn,
    /// What lies up to here and is needed is appended again.
    old: Lsn,
    /// When it goes on.
    after: Lsn,
}

/// The batches that lie in the journal and are needed there, in its order.
#[derive(Debug, Default)]
pub(crate) struct Records {
    records: VecDeque<(Lsn, LaneTip)>,
    durable: Lsn,
    /// What is not durable: positions with lengths.
    undurable: VecDeque<(Lsn, usize)>,
    undurable_bytes: usize,
    /// The end of the journal when it was trimmed last.
    end: Lsn,
    /// The trim that is not finished.
    pass: Option<Pass>,
    trimmed: Lsn,
    /// What may be trimmed once the journal is durable up to a position: those positions, ascending, with what. Others follow
    /// and take the place of none, or a trim might be put off for ever.
    waiting: VecDeque<(Lsn, Lsn)>,
}

impl Records {
    pub(crate) fn push(&mut self, lsn: Lsn, tip: LaneTip, bytes: usize) {
        self.records.push_back((lsn, tip));
        self.undurable.push_back((lsn, bytes));
        self.undurable_bytes += bytes;
    }

    /// These lie in the journal, which ends at `last`.
    pub(crate) fn recover(&mut self, last: Lsn, records: Vec<(Lsn, LaneTip)>) {
        self.records = records.into();
        self.durable = last;
    }

    /// The journal is durable up to `upto`: what waited for that may be trimmed.
    pub(crate) fn on_durable(&mut self, upto: Lsn, out: &mut Vec<Output>) {
        self.durable = self.durable.max(upto);
        while let Some((_, bytes)) = self.undurable.pop_front_if(|(lsn, _)| *lsn <= self.durable) {
            self.undurable_bytes -= bytes;
        }
        while let Some((_, upto)) = self.waiting.pop_front_if(|(after, _)| *after <= self.durable) {
            if upto > self.trimmed {
                self.trimmed = upto;
                out.push(Output::Trim { upto });
            }
        }
    }
}

impl Lanes {
    /// Whether the disk is so far behind that nothing more is appended to the journal. What others send meanwhile is
    /// dropped, and sent again or fetched later.
    pub(crate) fn is_disk_behind(&self) -> bool {
        self.records.undurable_bytes > self.tuning().undurable_bytes_max
    }

    /// The state with these lane tips is durable and certified: puts out, now or once the journal is durable far
    /// enough, up to where it is not needed any more.
    ///
    /// Needed is each batch above its lane's tip in that state, on whatever chain, as long as it may be executed. One
    /// that was there at the last call already is appended again, so that old batches that nobody orders do not keep
    /// what came after them: however much an origin has sent of them, the journal then begins where the last call
    /// found its end. That is done in pieces, each when the one before it is durable.
    pub fn trim(&mut self, tips: &[LaneTip], out: &mut Vec<Output>) {
        for tip in tips {
            if let Some(share) = self.shares.get_mut(&tip.lane) {
                share.lane.held.cover(tip.upto);
            }
        }
        let floors = tips.iter().map(|tip| (tip.lane, tip.upto)).collect();
        let (last, old) = (self.last_lsn, self.records.end.min(self.records.durable));
        self.records.end = last;
        self.records.pass = None;
        self.pass(Pass { floors, last, old, after: Lsn(0) }, out);
    }

    /// The journal is durable up to `upto`: goes on with a trim that has waited for that.
    pub(crate) fn records_on_durable(&mut self, upto: Lsn, out: &mut Vec<Output>) {
        self.records.on_durable(upto, out);
        let durable = self.records.durable;
        if let Some(pass) = self.records.pass.take_if(|pass| pass.after <= durable) {
            self.pass(pass, out);
        }
    }

    fn pass(&mut self, mut pass: Pass, out: &mut Vec<Output>) {
        let rewritten_max = self.tuning().lane_bytes_open_max / REWRITTEN_PARTS;
        let (mut rewritten, mut is_whole, mut elsewhere) = (0, true, Lsn(0));
        while let Some((lsn, tip)) = self.records.records.front().copied()
            && lsn <= pass.last
        {
            let floor = pass.floors.get(&tip.lane).copied().unwrap_or_default();
            if tip.upto > floor
                && let Some(share) = self.shares.get(&tip.lane)
            {
                // An executed one is needed to execute it again. One that is neither executed nor held nor a stray is dead.
                if tip.upto <= share.lane.executed() {
                    break;
                }
                if let Some((place, batch, why)) = share.lane.find_any(tip.mark()) {
                    if place != lsn {
                        // It lies elsewhere, too, and goes from here once it is durable there.
                        elsewhere = elsewhere.max(place);
                        self.records.records.pop_front();
                        continue;
                    }
                    is_whole = lsn > pass.old || rewritten < rewritten_max;
                    if lsn > pass.old || !is_whole {
                        break;
                    }
                    let batch = Arc::clone(batch);
                    rewritten += batch.bytes();
                    let lsn = self.write(&batch, why, out);
                    let share = self.shares.get_mut(&tip.lane).expect("invariant: just found");
                    share.lane.moved(tip.mark(), lsn);
                } else if lsn > pass.old && share.lane.strays.is_bad(tip.mark()) {
                    // Its name is all that is left of it. Nobody may have it, and it does not keep for ever what came later.
                    break;
                }
            }
            self.records.records.pop_front();
        }
        let needed = self.records.records.front().map(|(lsn, _)| *lsn);
        let upto = Lsn(needed.map_or(pass.last.0, |lsn| lsn.0 - 1)).min(pass.last);
        let after = if rewritten > 0 { self.last_lsn } else { upto.max(elsewhere) };
        // It waits for what an earlier one waits for.
        let before = self.records.waiting.back().map_or(Lsn(0), |(after, _)| *after);
        pass.after = after.max(before);
        self.records.waiting.push_back((pass.after, upto));
        self.records.pass = (!is_whole).then_some(pass);
        self.records.on_durable(Lsn(0), out);
    }

    /// What lies at `lsn` of the journal cannot be read any more: a batch that is in memory is appended again. What was
    /// executed and has left memory is fetched before. Nothing follows where the batch lies elsewhere by now: a place stays bad
    /// until it is trimmed, and may be found so again.
    pub fn on_lost(&mut self, lsn: Lsn, out: &mut Vec<Output>) {
        let records = &self.records.records;
        let Ok(index) = records.binary_search_by_key(&lsn, |(lsn, _)| *lsn) else { return };
        let tip = records[index].1;
        let Some(share) = self.shares.get_mut(&tip.lane) else { return };
        if let Some((place, batch, why)) = share.lane.find_any(tip.mark()) {
            if place == lsn {
                let batch = Arc::clone(batch);
                let lsn = self.write(&batch, why, out);
                let share = self.shares.get_mut(&tip.lane).expect("invariant: just found");
                share.lane.moved(tip.mark(), lsn);
            }
        } else if share.lane.held.shelved(tip.mark()).is_some_and(|shelved| shelved.lsn == lsn) {
            share.walks.unreadable.insert(tip.mark());
        }
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
