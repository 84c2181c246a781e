//! Bounds and refusals: nothing grows without limit, nobody halts, and an honest cluster refuses only what the
//! faults of its history explain.

use super::Violation;
use crate::plan::{Carriage, Plan};
use quorate_replica::Reject;
use std::collections::BTreeMap;

/// Effects that wait for the disk; a stalled disk holds one tick's votes and acknowledgements each.
const HELD_EFFECTS_MAX: usize = 5_000;
/// Headers, votes and lane positions of a role; a history has a few hundred headers.
const KEPT_ITEMS_MAX: usize = 4_000;
/// What queues of fixed size may hold beside the bytes of the workload.
const FIXED_BYTES: usize = 256 * 1024;

/// How much trouble explains refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// None: every frame arrives once and in order.
    Calm,
    /// Frames may be missing: connections break, queues overflow.
    Gaps,
    /// Frames may be missing, doubled or out of order.
    Disorder,
    /// The same, and replicas come back without what was not durable: what they seal next may be the second batch at
    /// its place.
    Amnesia,
}

impl Trouble {
    /// The trouble that a plan makes.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        match plan.network.carriage {
            _ if plan.has_crashes() => Self::Amnesia,
            Carriage::Single { .. } => Self::Disorder,
            Carriage::Stream if plan.is_calm() => Self::Calm,
            Carriage::Stream => Self::Gaps,
        }
    }

    /// Whether it explains that honest replicas refuse something like this of each other.
    fn explains(self, reject: &Reject) -> bool {
        match reject {
            // Clients send more than lanes take; they are told so and try again.
            Reject::Busy => true,
            // A replica that is cut off or slow executes late, and holds a bounded part of what comes meanwhile.
            Reject::BatchGap | Reject::LaneBudget => self != Self::Calm,
            // Questions that come doubled, or with those that were given up before them.
            Reject::PageQuestions => self != Self::Calm,
            // Answers that come doubled, or to what was asked before frames were lost.
            Reject::Unasked => self != Self::Calm,
            Reject::BatchFork => self == Self::Amnesia,
            Reject::Malformed(_)
            | Reject::ForeignBundle
            | Reject::BundleSignature
            | Reject::ForeignBatch
            | Reject::LaneThrottled
            | Reject::FetchMismatch
            | Reject::StatePage
            | Reject::ConsensusSignature
            | Reject::Handshake
            | Reject::Consensus(_) => false,
        }
    }
}

/// What replicas hold and refuse.
#[derive(Debug)]
pub struct Resources {
    trouble: Trouble,
    /// The bytes of all distinct batches; what replicas buffer is made of these.
    workload_bytes: usize,
    /// The bytes of bundles that may wait at their homes, in no batch yet.
    waiting_bytes_max: usize,
    rejects: BTreeMap<&'static str, u64>,
    pending_peak: usize,
    held_peak: usize,
    kept_peak: usize,
}

impl Resources {
    /// Nothing is held yet.
    #[must_use]
    pub fn new(trouble: Trouble, waiting_bytes_max: usize) -> Self {
        Self {
            trouble,
            workload_bytes: 0,
            waiting_bytes_max,
            rejects: BTreeMap::new(),
            pending_peak: 0,
            held_peak: 0,
            kept_peak: 0,
        }
    }

    /// A batch was written down.
    pub fn on_batch(&mut self, bytes: usize) {
        self.workload_bytes += bytes;
    }

    /// A core says what it holds.
    pub fn on_audit(
        &mut self,
        pending_bytes: usize,
        held_effects: usize,
        kept_items: usize,
    ) -> Result<(), Violation> {
        self.pending_peak = self.pending_peak.max(pending_bytes);
        self.held_peak = self.held_peak.max(held_effects);
        self.kept_peak = self.kept_peak.max(kept_items);
        // A batch is held once, and once more while it is fetched.
        let bound = 2 * self.workload_bytes + self.waiting_bytes_max + FIXED_BYTES;
        if pending_bytes > bound {
            let text = format!("{pending_bytes} bytes pending, {bound} are allowed");
            return Err(Violation::new("bounded memory", text));
        }
        if held_effects > HELD_EFFECTS_MAX {
            let text = format!("{held_effects} effects wait for the disk, {HELD_EFFECTS_MAX} are allowed");
            return Err(Violation::new("bounded memory", text));
        }
        if kept_items > KEPT_ITEMS_MAX {
            let text =
                format!("{kept_items} headers, votes and positions are kept, {KEPT_ITEMS_MAX} are allowed");
            return Err(Violation::new("bounded memory", text));
        }
        Ok(())
    }

    /// A core refused something, perhaps of a liar.
    pub fn on_reject(&mut self, reject: &Reject, may_lie: bool) -> Result<(), Violation> {
        *self.rejects.entry(reject.label()).or_default() += 1;
        if !may_lie && !self.trouble.explains(reject) {
            let text = format!("{reject}, which {:?} does not explain", self.trouble);
            return Err(Violation::new("no unexplained refusal", text));
        }
        Ok(())
    }

    /// The most items that one core kept.
    #[must_use]
    pub fn kept_peak(&self) -> usize {
        self.kept_peak
    }

    /// The most effects that one core held back.
    #[must_use]
    pub fn held_peak(&self) -> usize {
        self.held_peak
    }

    /// What was refused, by label.
    #[must_use]
    pub fn rejects(&self) -> &BTreeMap<&'static str, u64> {
        &self.rejects
    }

    /// The most bytes that one core held.
    #[must_use]
    pub fn pending_peak(&self) -> usize {
        self.pending_peak
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_outgrows_the_workload_is_seen() {
        let mut resources = Resources::new(Trouble::Calm, 0);
        resources.on_batch(1000);
        resources.on_audit(FIXED_BYTES + 2000, HELD_EFFECTS_MAX, KEPT_ITEMS_MAX).unwrap();
        assert!(resources.on_audit(FIXED_BYTES + 2001, 0, 0).is_err());
        assert!(resources.on_audit(0, HELD_EFFECTS_MAX + 1, 0).is_err());
        assert!(resources.on_audit(0, 0, KEPT_ITEMS_MAX + 1).is_err());
    }

    #[test]
    fn refusals_need_an_explanation() {
        let refuse = |trouble, reject| Resources::new(trouble, 0).on_reject(&reject, false);
        refuse(Trouble::Gaps, Reject::BatchGap).unwrap();
        assert!(refuse(Trouble::Calm, Reject::BatchGap).is_err());
        assert!(refuse(Trouble::Calm, Reject::LaneBudget).is_err());
        assert!(refuse(Trouble::Disorder, Reject::BatchFork).is_err());
        assert!(refuse(Trouble::Disorder, quorate_consensus::Reject::Equivocation.into()).is_err());
    }
}
