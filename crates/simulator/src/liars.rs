//! Who lies in a history, and how. Liars count among the f, beside those who lose what was durable and those with whom a
//! fault never ends; they lie from the first frame to the last.

use crate::faults::FaultKind;
use crate::oracle::primaries;
use crate::plan::{Carriage, Plan};
use crate::random::{Random, Stream};
use quorate_types::{Nanoseconds, Quorums, ReplicaId, ReplicaSet};

/// A way of lying.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Habit {
    /// It makes several batches of one number in its lane, and shows each of them to others.
    ForksLane,
    /// It acknowledges to some and not to others, what there is and what there is not.
    DistortsAcknowledgements,
    /// It answers fetches not, late, with little, or with what is wrong.
    ServesBadly,
    /// As a primary it names forks of its own lane, what nobody has acknowledged, and what no origin has made; and says not
    /// the same to all.
    NamesAnything,
    /// From some time on it sends no votes.
    KeepsVotes,
    /// It sends the batches of its lane to all but who leads, who gets nothing, or too much.
    AvoidsPrimary,
    /// It gives each another batch of its lane behind one that all have, but for who leads.
    PartsLane,
    /// It answers fetches a little at a time, each time just before its time is over.
    Drips,
    /// It serves headers and pages that are not what was asked for, or are nobody's.
    Forges,
    /// It votes not alike to all, for what there is not, many times, and with signatures that do not hold.
    ForgesVotes,
    /// It claims to be elsewhere than it is, and not alike to all.
    LiesInStatus,
    /// It shows certificates as it likes when a view ends, not alike to all, and begins its own views not alike for all.
    LiesInViewChanges,
    /// It answers fetches a little at a time, each time before anybody else is asked.
    Trickles,
    /// It shows all but who leads a long fork of its lane, and goes on beside that.
    LeavesFork,
    /// It sends the batches of its lane to nobody who does not ask for them, and lies about nothing else: it is no reason to
    /// give it up as a primary.
    KeepsBatches,
}

impl Habit {
    const MIXED: [Self; 5] = [
        Self::ForksLane,
        Self::DistortsAcknowledgements,
        Self::ServesBadly,
        Self::NamesAnything,
        Self::KeepsVotes,
    ];

    const MORE: [Self; 7] = [
        Self::AvoidsPrimary,
        Self::PartsLane,
        Self::Drips,
        Self::Forges,
        Self::ForgesVotes,
        Self::LiesInStatus,
        Self::LiesInViewChanges,
    ];
}

/// A replica that lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Liar {
    /// Which.
    pub replica: ReplicaId,
    /// How.
    pub habits: Vec<Habit>,
    /// When it has sent its last vote, if it keeps them.
    pub votes_until: Nanoseconds,
}

impl Liar {
    /// Whether it lies so.
    #[must_use]
    pub fn has(&self, habit: Habit) -> bool {
        self.habits.contains(&habit)
    }

    /// Whether the others have no reason to give it up as a primary.
    #[must_use]
    pub fn leads_well(&self) -> bool {
        self.habits == [Habit::KeepsBatches]
    }
}

/// The liars of a history, as many as what else counts among the f leaves. In some, nothing else counts.
pub(crate) fn draw(plan: &mut Plan) -> Vec<Liar> {
    let mut random = Random::new(plan.seed, Stream::Liars);
    let faults = Quorums::of(usize::from(plan.replicas)).faults;
    if faults == 0 || !random.percent(40) {
        return Vec::new();
    }
    if faulty(plan).len() >= faults {
        if random.percent(50) {
            return Vec::new();
        }
        plan.faults.retain(|fault| !fault.is_damage() && !fault.is_lasting());
    }
    // What goes bad on one disk is to be had from the others: all of them must be willing.
    plan.faults.retain(|fault| !matches!(fault.kind, FaultKind::Rot { .. }));
    let most = faults - faulty(plan).len();
    let mut honest: Vec<ReplicaId> = (0..plan.replicas).map(ReplicaId).collect();
    honest.retain(|replica| !faulty(plan).contains(*replica));
    let count = if random.percent(70) { most } else { 1 + random.index(most) };
    let mut liars: Vec<Liar> = (0..count)
        .map(|_| {
            let habits = draw_habits(&mut random);
            // Who lies as a primary leads at once, or perhaps never.
            let leads =
                habits.iter().any(|habit| matches!(habit, Habit::NamesAnything | Habit::KeepsBatches));
            let index = if leads && random.percent(60) { 0 } else { random.index(honest.len()) };
            let replica = honest.remove(index);
            let votes_until = Nanoseconds(random.below(plan.heal_at.0));
            Liar { replica, habits, votes_until }
        })
        .collect();
    liars.sort_by_key(|liar| liar.replica);
    let mut random = Random::new(plan.seed, Stream::Habits);
    // What one habit alone does shows where there are few beside it.
    if random.percent(50) {
        return liars;
    }
    for liar in liars.iter_mut().filter(|liar| !liar.leads_well()) {
        liar.habits.extend(Habit::MORE.into_iter().filter(|_| random.percent(25)));
    }
    // One makes all others fetch, and the other is whom they ask.
    if let [server, origin, ..] = liars.as_mut_slice()
        && random.percent(35)
    {
        server.habits = vec![Habit::Drips];
        origin.habits = vec![Habit::AvoidsPrimary];
    }
    liars
}

/// Progress is asked for while the liars go on: clients go on for long after all faults, and primaries have the time that
/// they need.
pub(crate) fn make_room(plan: &mut Plan) {
    let mut random = Random::new(plan.seed, Stream::Room);
    plan.workload.bundles_after = random.between(3, 8);
    // What lies alone do is seen best where nothing else is wrong.
    if random.percent(35) {
        plan.faults.clear();
    }
    if random.percent(75) {
        plan.tuning.view_timeout = plan.tuning.view_timeout.max(plan.patience());
    }
    if random.percent(70) {
        let long = 2 * primaries::settling(plan).0 * plan.workload.depth / plan.workload.bundles_after;
        plan.workload.think_after_max = Nanoseconds(long);
    }
    // What is done to who leads shows where nothing else explains that it is given up.
    let avoids = |liar: &Liar| liar.has(Habit::AvoidsPrimary) || liar.has(Habit::PartsLane);
    if plan.liars.iter().any(avoids) && random.percent(80) {
        plan.network.carriage = Carriage::Stream;
        plan.network.queue_bytes_max = 64 * 1024 * 1024;
        plan.faults.retain(|fault| !fault.is_lasting());
        plan.tuning.view_timeout = plan.tuning.view_timeout.max(plan.patience());
    }
    plan.deadline = plan.heal_at.plus(Nanoseconds::from_millis(120_000).0);
}

fn draw_habits(random: &mut Random) -> Vec<Habit> {
    if random.percent(15) {
        return vec![Habit::KeepsBatches];
    }
    let mut habits: Vec<Habit> = Habit::MIXED.into_iter().filter(|_| random.percent(40)).collect();
    if habits.is_empty() {
        habits.push(*random.pick(&Habit::MIXED));
    }
    habits
}

/// Who counts among the f already. Where a fault between two never ends, one of the two does.
fn faulty(plan: &Plan) -> ReplicaSet {
    let mut faulty = ReplicaSet::EMPTY;
    for fault in plan.faults.iter().filter(|fault| fault.is_damage() || fault.is_lasting()) {
        match fault.kind {
            FaultKind::LoseDisk { replica }
            | FaultKind::Corrupt { replica }
            | FaultKind::Pause { replica }
            | FaultKind::Slow { replica, .. }
            | FaultKind::CutClient { replica, .. }
            | FaultKind::CutOneWay { from: replica, .. }
            | FaultKind::CutBothWays { from: replica, .. } => {
                faulty.insert(replica);
            }
            _ => {}
        }
    }
    faulty
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn liars_and_what_else_counts_are_no_more_than_f() {
        let plans: Vec<Plan> = (0..400).map(Plan::of).collect();
        for plan in &plans {
            let mut all = faulty(plan);
            assert!(plan.liars.iter().all(|liar| all.insert(liar.replica)), "{plan}");
            assert!(plan.liars.is_empty() || all.len() <= Quorums::of(usize::from(plan.replicas)).faults);
        }
        for habit in Habit::MIXED.into_iter().chain(Habit::MORE).chain([Habit::KeepsBatches]) {
            assert!(plans.iter().any(|plan| plan.liars.iter().any(|liar| liar.has(habit))), "{habit:?}");
        }
        assert!(plans.iter().filter(|plan| plan.liars.len() > 1).count() > 10);
    }
}
