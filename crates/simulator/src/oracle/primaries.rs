//! No honest primary is given up while all is well, before all faults and after: whoever is in its view has what it needs in time, however others lie.

use super::Violation;
use crate::plan::{Carriage, Plan};
use quorate_types::{Nanoseconds, ReplicaId, ReplicaSet, View};
use quorate_wire::SuspectReason;
use quorate_wire::message::Suspect;
use std::collections::BTreeSet;
use std::ops::Range;

const ORACLE: &str = "no honest primary deposed";
/// After all faults, the time in which everybody has caught up, beside a few views.
const SETTLING: Nanoseconds = Nanoseconds::from_millis(2_000);
const VIEWS: u64 = 4;

/// How long after all faults a clock may still run out that began when something was wrong.
pub(crate) fn settling(plan: &Plan) -> Nanoseconds {
    Nanoseconds(SETTLING.0 + (VIEWS + 1) * plan.tuning.view_timeout.0)
}

/// Who must not be given up, and from when on.
#[derive(Debug)]
pub struct Primaries {
    /// Whose views may end.
    bad: ReplicaSet,
    /// Who leads well, but each of its headers takes a fetch: what others want to see named may take it longer.
    slow: ReplicaSet,
    /// A clock that runs out between these may have begun when something was wrong: from the first fault on.
    trouble: Range<Nanoseconds>,
    /// What each has wished for.
    wished: BTreeSet<(ReplicaId, View)>,
}

impl Primaries {
    /// The oracle of a plan.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let timeout = plan.tuning.view_timeout;
        let is_well = timeout >= plan.patience()
            && plan.network.carriage == Carriage::Stream
            && !plan.has_small_queues()
            && plan.faults.iter().all(|fault| !fault.is_lasting());
        let (mut bad, mut slow) = (ReplicaSet::EMPTY, ReplicaSet::EMPTY);
        for liar in &plan.liars {
            if liar.leads_well() {
                slow.insert(liar.replica)
            } else {
                bad.insert(liar.replica)
            };
        }
        // The time of a view may be too short for what is drawn: then it may run out whenever it likes.
        let first = plan.faults.iter().map(|fault| fault.begin).min();
        let trouble = match first.filter(|_| is_well) {
            Some(first) => first..plan.heal_at.plus(settling(plan).0),
            None if is_well => Nanoseconds(0)..Nanoseconds(0),
            None => Nanoseconds(0)..Nanoseconds(u64::MAX),
        };
        Self { bad, slow, trouble, wished: BTreeSet::new() }
    }

    /// An honest replica wishes for the end of a view.
    pub fn on_suspect(
        &mut self,
        now: Nanoseconds,
        replica: ReplicaId,
        primary: ReplicaId,
        message: &Suspect,
    ) -> Result<(), Violation> {
        let is_new = self.wished.insert((replica, message.view));
        let is_own = !matches!(message.reason, SuspectReason::Joined | SuspectReason::Restarted);
        let is_slow = message.reason == SuspectReason::Unnamed && self.slow.contains(primary);
        if is_new && is_own && !is_slow && !self.bad.contains(primary) && !self.trouble.contains(&now) {
            let (view, reason) = (message.view, message.reason);
            let text = format!("wishes for the end of {view:?}, which replica {primary} leads: {reason:?}");
            return Err(Violation::new(ORACLE, text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{Fault, FaultKind};
    use crate::liars::{Habit, Liar};
    use quorate_types::Signature;

    #[test]
    fn only_a_liar_may_be_given_up_and_others_while_all_is_not_well() {
        let (replica, habits) = (ReplicaId(1), vec![Habit::NamesAnything]);
        let liar = Liar { replica, habits, votes_until: Nanoseconds(0) };
        let begin = Nanoseconds(10);
        let fault = Fault { kind: FaultKind::Pause { replica: ReplicaId(2) }, begin, end: begin.next() };
        let mut plan = Plan { faults: vec![fault], liars: vec![liar], ..Plan::of(0) };
        plan.network.carriage = Carriage::Stream;
        plan.network.queue_bytes_max = usize::MAX;
        plan.tuning.view_timeout = plan.patience();
        let late = plan.heal_at.plus(settling(&plan).0);
        let judge = |plan: &Plan, now, reason| {
            let message = Suspect { view: View(4), reason, signature: Signature([0; 64]) };
            let mut primaries = Primaries::new(plan);
            let bad = primaries.on_suspect(now, ReplicaId(3), ReplicaId(1), &message).is_err();
            (bad, primaries.on_suspect(now, ReplicaId(2), ReplicaId(0), &message).is_err())
        };
        assert_eq!(judge(&plan, late, SuspectReason::Unnamed), (false, true));
        assert_eq!(judge(&plan, late, SuspectReason::Joined), (false, false));
        assert_eq!(judge(&plan, plan.heal_at, SuspectReason::Unnamed), (false, false));
        assert_eq!(judge(&plan, Nanoseconds(9), SuspectReason::Unnamed), (false, true));
        // A liar that only keeps its batches from those who do not ask may be late, and makes nothing unavailable.
        let habits = vec![Habit::KeepsBatches];
        plan.liars = vec![Liar { replica: ReplicaId(1), habits, votes_until: Nanoseconds(u64::MAX) }];
        assert_eq!(judge(&plan, late, SuspectReason::Unnamed), (false, true));
        assert_eq!(judge(&plan, late, SuspectReason::Unavailable), (true, true));
        plan.tuning.view_timeout = Nanoseconds(1);
        assert_eq!(judge(&plan, late, SuspectReason::Unnamed), (false, false));
    }
}
