//! Scenes: faults that coincide as they would by luck of one in thousands, drawn on purpose in a share of the histories.
//!
//! They come on top of what [`crate::faults`] has drawn, from a stream of their own, so that they leave all other choices
//! as they are. Whether one plays as it is meant depends on what else happens; that is no loss.

use crate::faults::{Fault, FaultKind};
use crate::plan::Plan;
use crate::random::{Random, Stream};
use quorate_types::{Nanoseconds, ReplicaId};

/// Something that happens at a moment has an end, too.
const MOMENT: u64 = 1;

/// The scenes of a history. Where it `is_in_trouble`, disks have lost or will lose something otherwise.
pub(crate) fn draw(plan: &Plan, is_in_trouble: bool) -> Vec<Fault> {
    let mut random = Random::new(plan.seed, Stream::Scenes);
    let mut faults = Vec::new();
    if plan.replicas == 1 {
        return faults;
    }
    if random.percent(25) {
        draw_decay(&mut random, plan, &mut faults);
    }
    match random.below(100) {
        0..15 if !is_in_trouble => draw_rot_again(&mut random, plan, &mut faults),
        15..35 if plan.replicas >= 4 => draw_hoarder(&mut random, plan, &mut faults),
        35..50 => draw_primary_again(&mut random, plan, &mut faults),
        _ => {}
    }
    faults
}

/// Adds a fault, as long as faults happen.
fn add(faults: &mut Vec<Fault>, plan: &Plan, kind: FaultKind, begin: u64, end: u64) {
    let (begin, end) = (Nanoseconds(begin), Nanoseconds(end.min(plan.heal_at.0)));
    if begin < end {
        faults.push(Fault { kind, begin, end });
    }
}

fn replica(plan: &Plan, number: u64) -> ReplicaId {
    ReplicaId(u8::try_from(number % u64::from(plan.replicas)).expect("invariant: below n"))
}

/// Batches go bad under replicas that run.
fn draw_decay(random: &mut Random, plan: &Plan, faults: &mut Vec<Fault>) {
    for _ in 0..random.between(1, 6) {
        let kind = FaultKind::Decay { replica: replica(plan, random.below(64)) };
        let begin = random.between(plan.heal_at.0 / 8, plan.heal_at.0 - 1);
        add(faults, plan, kind, begin, begin + MOMENT);
    }
}

/// All crash at once and find bad blocks, and once more before those are mended: each then has bad ones that another has
/// not, so all of what is intact is needed.
fn draw_rot_again(random: &mut Random, plan: &Plan, faults: &mut Vec<Fault>) {
    let mut begin = random.between(plan.heal_at.0 / 4, plan.heal_at.0 / 2);
    for _ in 0..random.between(2, 3) {
        let longest = random.magnitude(1_000, 30_000_000);
        for number in 0..u64::from(plan.replicas) {
            let begin = begin + random.below(1_000_000);
            let kind = FaultKind::Rot { replica: replica(plan, number) };
            add(faults, plan, kind, begin, begin + random.magnitude(1_000, longest.max(1_000)));
        }
        begin += longest + random.magnitude(1_000_000, 60_000_000);
    }
}

/// The first primary alone learns that what it has proposed last is prepared: it is cut off between its proposals and its
/// own votes, and hears those of others for a moment longer. They go on with others in a new view, until the first
/// primary is back, with what it can prove, and the second one goes in its turn. It may have to start again, too.
fn draw_hoarder(random: &mut Random, plan: &Plan, faults: &mut Vec<Fault>) {
    let timeout = plan.tuning.view_timeout.0;
    let (first, second) = (replica(plan, 0), replica(plan, 1));
    let begin = random.between(10_000_000, (plan.heal_at.0 / 3).max(10_000_001));
    let cut = begin + random.magnitude(1_000_000, 20_000_000);
    let deaf = cut + random.magnitude(1_000_000, 50_000_000);
    let moved = deaf + timeout + random.below(timeout);
    let back = moved + random.magnitude(500_000, 50_000_000);
    // As many as may be away have not heard of it: without them nobody else can prove it.
    for number in 0..u64::from(plan.replicas - 1) / 3 {
        let away = replica(plan, 2 + number);
        add(faults, plan, FaultKind::Isolate { replica: away }, begin, moved);
    }
    for number in 1..u64::from(plan.replicas) {
        let kind = FaultKind::CutOneWay { from: first, to: replica(plan, number) };
        add(faults, plan, kind, cut, back);
    }
    add(faults, plan, FaultKind::Isolate { replica: first }, deaf, back);
    add(faults, plan, FaultKind::Pause { replica: second }, back, back + timeout + random.below(2 * timeout));
    if random.percent(50) {
        let crash = back + random.below(2 * timeout);
        add(
            faults,
            plan,
            FaultKind::Crash { replica: first },
            crash,
            crash + random.magnitude(10_000, timeout),
        );
    }
}

/// Primaries crash at work, again and again, and are back before anybody misses them.
fn draw_primary_again(random: &mut Random, plan: &Plan, faults: &mut Vec<Fault>) {
    let mut begin = random.between(10_000_000, (plan.heal_at.0 / 2).max(10_000_001));
    for view in 0..random.between(2, 2 * u64::from(plan.replicas)) {
        let end = begin + random.magnitude(10_000, 10_000_000);
        add(faults, plan, FaultKind::Crash { replica: replica(plan, view) }, begin, end);
        begin = end + random.magnitude(10_000_000, plan.tuning.view_timeout.0);
    }
}
