//! Which faults happen when. Faults end with the fault phase at the latest: then the cluster must make progress
//! again. One fault may last for ever: one that a cluster has to live with, such as a way between two replicas
//! that never opens again, or f of the replicas standing still or cut off, the first primaries among them. Whoever
//! crashes comes back; at most f replicas lose something that was durable.

use crate::plan::Plan;
use crate::random::{Random, Stream};
use crate::scenes;
use quorate_types::{LinkId, Nanoseconds, Quorums, ReplicaId};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A connection between two replicas breaks once.
    BreakPeer {
        /// One end.
        from: ReplicaId,
        /// The other end.
        to: ReplicaId,
        /// The link.
        link: LinkId,
    },
    /// A connection of a client breaks once.
    BreakClient {
        /// The client.
        client: usize,
        /// The replica.
        replica: ReplicaId,
    },
    /// A client forgets everything and comes back with its next session; its open bundles may or may not be
    /// executed.
    RestartClient {
        /// The client.
        client: usize,
    },
    /// Nothing passes from one replica to another.
    CutOneWay {
        /// The sender.
        from: ReplicaId,
        /// The receiver.
        to: ReplicaId,
    },
    /// Nothing passes between two replicas.
    CutBothWays {
        /// One end.
        from: ReplicaId,
        /// The other end.
        to: ReplicaId,
    },
    /// Nothing passes between the replicas below a number and the others.
    Split {
        /// The first replica of the upper part.
        at: ReplicaId,
    },
    /// Nothing passes between a replica and any other.
    Isolate {
        /// The replica.
        replica: ReplicaId,
    },
    /// Nothing passes between a client and a replica.
    CutClient {
        /// The client.
        client: usize,
        /// The replica.
        replica: ReplicaId,
    },
    /// A replica does nothing, as after SIGSTOP; its inputs queue up.
    Pause {
        /// The replica.
        replica: ReplicaId,
    },
    /// A replica's cores take so many times as long.
    Slow {
        /// The replica.
        replica: ReplicaId,
        /// How many times.
        factor: u64,
    },
    /// Nothing that a replica writes becomes durable.
    StallDisk {
        /// The replica.
        replica: ReplicaId,
    },
    /// A replica's disk is full: no segment is made and no checkpoint written, and it takes no more from clients.
    FillDisk {
        /// The replica.
        replica: ReplicaId,
    },
    /// A replica crashes, soon and in the middle of a step, and starts again when this is over.
    Crash {
        /// The replica.
        replica: ReplicaId,
    },
    /// A replica crashes and its disk is gone; it comes back as a learner.
    LoseDisk {
        /// The replica.
        replica: ReplicaId,
    },
    /// A replica crashes and what it has on disk is damaged while it is down; it may come back as a learner.
    Corrupt {
        /// The replica.
        replica: ReplicaId,
    },
    /// A replica crashes and blocks go bad while it is down, of which there are copies, on its own disk or on others'. It
    /// is none of the f: it must come back as a voter, and all may have this at once.
    Rot {
        /// The replica.
        replica: ReplicaId,
    },
    /// Batches go bad under a replica that runs, of which others have copies; its slow reading of the log finds them.
    Decay {
        /// The replica.
        replica: ReplicaId,
    },
}

/// A fault with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// When it begins.
    pub begin: Nanoseconds,
    /// When it is over.
    pub end: Nanoseconds,
}

/// The end of a fault that never ends.
pub const FOR_EVER: Nanoseconds = Nanoseconds(u64::MAX);

impl Fault {
    /// Whether it never ends.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        self.end == FOR_EVER
    }

    /// Whether it takes a process with it.
    #[must_use]
    pub fn is_crash(&self) -> bool {
        matches!(self.kind, FaultKind::Crash { .. } | FaultKind::Rot { .. }) || self.is_damage()
    }

    /// Whether it takes something from a disk that was durable.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self.kind, FaultKind::LoseDisk { .. } | FaultKind::Corrupt { .. })
    }
}

/// The faults of a history.
pub(crate) fn draw(plan: &Plan) -> Vec<Fault> {
    let mut random = Random::new(plan.seed, Stream::Faults);
    if random.percent(12) {
        return Vec::new();
    }
    let count = random.magnitude(1, 16);
    let mut faults: Vec<Fault> = (0..count).map(|_| draw_one(&mut random, plan)).collect();
    if random.percent(50) {
        faults.extend(draw_crashes(&mut random, plan));
    }
    let damage = if random.percent(25) { draw_damage(&mut random, plan) } else { Vec::new() };
    let is_damaged = !damage.is_empty();
    faults.extend(damage);
    let rot = if !is_damaged && plan.replicas > 1 && random.percent(30) {
        draw_rot(&mut random, plan)
    } else {
        Vec::new()
    };
    let is_rotten = !rot.is_empty();
    faults.extend(rot);
    if is_rotten {
        // What goes bad is to be had from the others: none of them is away for good.
    } else if is_damaged {
        // Those with damage count among the f for good.
    } else if plan.replicas > 1 && random.percent(30) {
        let (kind, begin) = (draw_lasting(&mut random, plan), Nanoseconds(random.below(plan.heal_at.0)));
        faults.push(Fault { kind, begin, end: FOR_EVER });
    } else if plan.replicas > 1 && random.percent(30) {
        faults.extend(draw_dead_primaries(&mut random, plan));
    }
    if plan.replicas > 1 && random.percent(30) {
        faults.extend(draw_failing_primaries(&mut random, plan));
    }
    faults.extend(scenes::draw(plan, is_damaged || is_rotten));
    faults.sort_by_key(|fault| fault.begin);
    faults
}

/// Crashes of one sort: here and there, of all at once, of primaries one after the other, or of one again and again.
fn draw_crashes(random: &mut Random, plan: &Plan) -> Vec<Fault> {
    let replica =
        |number: u64| ReplicaId(u8::try_from(number % u64::from(plan.replicas)).expect("invariant: below n"));
    let length_max = |begin: u64| (plan.heal_at.0 - begin).clamp(1, 800_000_000);
    let crash = |random: &mut Random, replica: ReplicaId, begin: u64| {
        let end = begin + random.magnitude(10_000, length_max(begin)).min(length_max(begin));
        Fault { kind: FaultKind::Crash { replica }, begin: Nanoseconds(begin), end: Nanoseconds(end) }
    };
    let mut faults = Vec::new();
    match random.below(4) {
        0 => {
            for _ in 0..random.between(1, 6) {
                let (victim, begin) = (replica(random.below(64)), random.below(plan.heal_at.0));
                faults.push(crash(random, victim, begin));
            }
        }
        1 => {
            for _ in 0..random.between(1, 3) {
                let begin = random.below(plan.heal_at.0);
                for number in 0..u64::from(plan.replicas) {
                    let begin = (begin + random.below(3_000_000)).min(plan.heal_at.0 - 1);
                    faults.push(crash(random, replica(number), begin));
                }
            }
        }
        2 => {
            let mut begin = random.below(plan.heal_at.0 / 2);
            for view in 0..random.between(1, u64::from(plan.replicas) + 2) {
                faults.push(crash(random, replica(view), begin));
                begin += random.below(2 * plan.tuning.view_timeout.0);
                if begin >= plan.heal_at.0 {
                    break;
                }
            }
        }
        _ => {
            let victim = replica(random.below(64));
            let mut begin = random.below(plan.heal_at.0 / 2);
            for _ in 0..random.between(2, 8) {
                let fault = crash(random, victim, begin);
                faults.push(fault);
                begin = fault.end.0 + random.magnitude(1_000, 100_000_000);
                if begin >= plan.heal_at.0 {
                    break;
                }
            }
        }
    }
    faults
}

/// Up to f replicas lose something that was durable, each one some of it or all.
fn draw_damage(random: &mut Random, plan: &Plan) -> Vec<Fault> {
    let faulty = u64::try_from(Quorums::of(usize::from(plan.replicas)).faults).expect("invariant: below n");
    if faulty == 0 {
        return Vec::new();
    }
    let first = random.below(u64::from(plan.replicas));
    let mut faults = Vec::new();
    for number in first..first + random.between(1, faulty) {
        let replica = ReplicaId(u8::try_from(number % u64::from(plan.replicas)).expect("invariant: below n"));
        // Late enough that there is something.
        let begin = random.between(plan.heal_at.0 / 4, plan.heal_at.0 - 1);
        let end = begin + random.below(plan.heal_at.0 - begin) + 1;
        let kind =
            if random.percent(30) { FaultKind::LoseDisk { replica } } else { FaultKind::Corrupt { replica } };
        faults.push(Fault { kind, begin: Nanoseconds(begin), end: Nanoseconds(end) });
    }
    faults
}

/// Blocks go bad under some replicas or all, each on its own or at once, and perhaps again later.
fn draw_rot(random: &mut Random, plan: &Plan) -> Vec<Fault> {
    let mut faults = Vec::new();
    for _ in 0..random.between(1, 3) {
        let begin = random.between(plan.heal_at.0 / 4, plan.heal_at.0 - 1);
        let count = if random.percent(50) {
            u64::from(plan.replicas)
        } else {
            random.between(1, u64::from(plan.replicas))
        };
        let first = random.below(u64::from(plan.replicas));
        for number in first..first + count {
            let id = u8::try_from(number % u64::from(plan.replicas)).expect("invariant: below n");
            let begin = (begin + random.below(3_000_000)).min(plan.heal_at.0 - 1);
            let end = begin + random.magnitude(1, plan.heal_at.0 - begin);
            let kind = FaultKind::Rot { replica: ReplicaId(id) };
            faults.push(Fault { kind, begin: Nanoseconds(begin), end: Nanoseconds(end) });
        }
    }
    faults
}

/// The first primaries stand still for good, one after the other, as many as may.
fn draw_dead_primaries(random: &mut Random, plan: &Plan) -> Vec<Fault> {
    let faults = Quorums::of(usize::from(plan.replicas)).faults;
    let count = u8::try_from(faults).expect("invariant: below n");
    let dead = (0..count).map(|id| {
        let begin = Nanoseconds(random.below(plan.heal_at.0));
        Fault { kind: FaultKind::Pause { replica: ReplicaId(id) }, begin, end: FOR_EVER }
    });
    dead.collect()
}

/// The primaries of several views in a row are in trouble, each in turn and about as long as it takes to be
/// replaced.
fn draw_failing_primaries(random: &mut Random, plan: &Plan) -> Vec<Fault> {
    let mut begin = random.below(plan.heal_at.0 / 2);
    let mut faults = Vec::new();
    for view in 0..random.between(1, u64::from(plan.replicas) + 1) {
        let id = u8::try_from(view % u64::from(plan.replicas)).expect("invariant: below n");
        let replica = ReplicaId(id);
        let kind = match random.below(3) {
            0 => FaultKind::Pause { replica },
            1 => FaultKind::Isolate { replica },
            _ => FaultKind::StallDisk { replica },
        };
        let length = random.between(plan.tuning.view_timeout.0 / 2, 3 * plan.tuning.view_timeout.0);
        let end = (begin + length).min(plan.heal_at.0);
        if end > begin {
            faults.push(Fault { kind, begin: Nanoseconds(begin), end: Nanoseconds(end) });
        }
        begin = end;
    }
    faults
}

/// What the others must be able to live with.
fn draw_lasting(random: &mut Random, plan: &Plan) -> FaultKind {
    let replica = |number: u64| ReplicaId(u8::try_from(number).expect("invariant: below n"));
    let replicas = u64::from(plan.replicas);
    let any = replica(random.below(replicas));
    let other = replica((u64::from(any.0) + random.between(1, replicas - 1)) % replicas);
    let client = random.index(usize::try_from(plan.workload.clients).expect("invariant: a few clients"));
    match random.below(5) {
        0 => FaultKind::CutOneWay { from: any, to: other },
        1 => FaultKind::CutBothWays { from: any, to: other },
        2 => FaultKind::CutClient { client, replica: any },
        3 => FaultKind::Slow { replica: any, factor: 5 },
        _ => FaultKind::Pause { replica: any },
    }
}

fn draw_one(random: &mut Random, plan: &Plan) -> Fault {
    let kind = draw_kind(random, plan);
    let begin = random.below(plan.heal_at.0);
    let longest = plan.heal_at.0 - begin;
    // Long ones overflow windows and queues; short ones hit the middle of something.
    let length = if random.percent(20) { longest } else { random.magnitude(100_000, longest.max(100_000)) };
    Fault { kind, begin: Nanoseconds(begin), end: Nanoseconds(begin + length.min(longest)) }
}

fn draw_kind(random: &mut Random, plan: &Plan) -> FaultKind {
    let replicas = u64::from(plan.replicas);
    let replica = |number: u64| ReplicaId(u8::try_from(number).expect("invariant: below n"));
    let any = replica(random.below(replicas));
    let client = random.index(usize::try_from(plan.workload.clients).expect("invariant: a few clients"));
    if replicas == 1 {
        return match random.below(6) {
            5 => FaultKind::RestartClient { client },
            0 | 1 => FaultKind::BreakClient { client, replica: any },
            2 => FaultKind::Pause { replica: any },
            3 => FaultKind::CutClient { client, replica: any },
            _ => FaultKind::StallDisk { replica: any },
        };
    }
    let other = replica((u64::from(any.0) + random.between(1, replicas - 1)) % replicas);
    match random.below(18) {
        16 => FaultKind::FillDisk { replica: any },
        0..=2 => {
            let link = u8::try_from(random.below(u64::from(plan.links))).expect("invariant: a few links");
            FaultKind::BreakPeer { from: any, to: other, link: LinkId(link) }
        }
        3 | 4 => FaultKind::BreakClient { client, replica: any },
        5 | 6 => FaultKind::CutOneWay { from: any, to: other },
        7 => FaultKind::CutBothWays { from: any, to: other },
        8 => FaultKind::Split { at: replica(random.between(1, replicas - 1)) },
        9 | 10 => FaultKind::Isolate { replica: any },
        11 => FaultKind::CutClient { client, replica: any },
        12 | 13 => FaultKind::Pause { replica: any },
        14 => FaultKind::Slow { replica: any, factor: random.magnitude(5, 500) },
        15 => FaultKind::RestartClient { client },
        _ => FaultKind::StallDisk { replica: any },
    }
}

/// The directed pairs of replicas between which a fault lets nothing pass.
#[must_use]
pub(crate) fn blocked_pairs(kind: FaultKind, replicas: u8) -> Vec<(ReplicaId, ReplicaId)> {
    let all = || (0..replicas).map(ReplicaId);
    let pairs = all().flat_map(|from| all().map(move |to| (from, to))).filter(|(from, to)| from != to);
    let blocked = |from: ReplicaId, to: ReplicaId| match kind {
        FaultKind::CutOneWay { from: a, to: b } => (from, to) == (a, b),
        FaultKind::CutBothWays { from: a, to: b } => (from, to) == (a, b) || (to, from) == (a, b),
        FaultKind::Split { at } => (from < at) != (to < at),
        FaultKind::Isolate { replica } => from == replica || to == replica,
        // The kernel of a stopped process still takes a little; the network model queues the rest.
        FaultKind::Pause { replica } => to == replica,
        FaultKind::BreakPeer { .. }
        | FaultKind::BreakClient { .. }
        | FaultKind::RestartClient { .. }
        | FaultKind::CutClient { .. }
        | FaultKind::Slow { .. }
        | FaultKind::StallDisk { .. }
        | FaultKind::FillDisk { .. }
        | FaultKind::Crash { .. }
        | FaultKind::LoseDisk { .. }
        | FaultKind::Corrupt { .. }
        | FaultKind::Rot { .. }
        | FaultKind::Decay { .. } => false,
    };
    pairs.filter(|(from, to)| blocked(*from, *to)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_blocks_both_ways_between_the_parts_only() {
        let pairs = blocked_pairs(FaultKind::Split { at: ReplicaId(1) }, 3);
        let numbers: Vec<(u8, u8)> = pairs.iter().map(|(from, to)| (from.0, to.0)).collect();
        assert_eq!(numbers, [(0, 1), (0, 2), (1, 0), (2, 0)]);
        assert_eq!(blocked_pairs(FaultKind::CutOneWay { from: ReplicaId(1), to: ReplicaId(0) }, 3).len(), 1);
    }
}
