//! Scenes: faults that coincide as they would by luck of one in thousands, drawn on purpose in a share of the histories.
//!
//! They come on top of what [`crate::faults`] has drawn, from a stream of their own, so that they leave all other choices
//! as they are. Whether one plays as it is meant depends on what else happens; that is no loss.

mod lies;

use crate::faults::{FOR_EVER, Fault, FaultKind};
use crate::plan::{Carriage, CorePlan, DiskPlan, Plan};
use crate::random::{Random, Stream};
use quorate_types::{Nanoseconds, Quorums, ReplicaId, limits};

/// What everything in a history is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scene {
    /// A chain that is prepared in a low view is longer than what a higher view commits.
    LongerChain,
    /// What those acknowledge who know that a quorum holds a batch cannot be counted by who leads.
    UncountedAcknowledgements,
    /// The budget of a lane is full of a fork where a quorum has acknowledged another chain.
    FullLane,
    /// Who is asked first for what many have acknowledged gives it a little at a time.
    TricklingServer,
    /// A quorum holds a long fork, and the lane goes on beside it, with few batches.
    DeadFork,
    /// A state is certified when all who will be up have a newer one, and one of them needs it.
    LateCertificate,
}

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

/// In few histories everything is made for one scene.
pub(crate) fn direct(plan: &mut Plan) {
    direct_longer_chain(plan);
    lies::direct(plan);
    direct_late_certificate(plan);
}

/// Nobody lies, and a chain that is prepared in a low view is longer than what a higher
/// view commits.
///
/// The disk of the first primary stalls while a client is busy: what that primary proposes all others vote for, and nobody
/// else can prove it, as its own vote and those of who is away are missing. When it could vote it is cut off. The second
/// view orders all of it in few headers, and when it has begun to, the first primary comes back in the place of the second.
fn direct_longer_chain(plan: &mut Plan) {
    let mut random = Random::new(plan.seed, Stream::Direction);
    if plan.replicas < 4 || !plan.liars.is_empty() || !random.percent(4) {
        return;
    }
    plan.scene = Some(Scene::LongerChain);
    make_busy(&mut random, plan);
    let timeout = plan.tuning.view_timeout.0;
    let stall = random.between(40_000_000, 80_000_000);
    let cut = stall + random.between(15_000_000, 40_000_000);
    let moved = cut + timeout + random.between(1_000_000, 30_000_000);
    let back = moved + random.magnitude(2_000_000, 16_000_000);
    let (mut faults, [first, second]) = (Vec::new(), [0, 1].map(|number| replica(plan, number)));
    let quorum = Quorums::of(usize::from(plan.replicas)).quorum as u64;
    for number in 0..u64::from(plan.replicas) - quorum {
        let away = FaultKind::Isolate { replica: replica(plan, 2 + number) };
        add(&mut faults, plan, away, stall, moved);
    }
    add(&mut faults, plan, FaultKind::StallDisk { replica: first }, stall, cut + MOMENT);
    for number in 1..u64::from(plan.replicas) {
        let kind = FaultKind::CutOneWay { from: first, to: replica(plan, number) };
        add(&mut faults, plan, kind, cut, back);
    }
    add(&mut faults, plan, FaultKind::Isolate { replica: first }, cut + 5_000_000, back);
    add(&mut faults, plan, FaultKind::Pause { replica: second }, back, back + 3 * timeout);
    plan.faults = faults;
}

/// Nobody lies, and f replicas vote late for a state, and then never again.
///
/// Their disks are full while others are away, so that each vote of theirs counts: the state that they were writing is
/// certified when there is room again, though the rest have newer ones by then. Whoever was away can go on from just that
/// one, and nothing newer is ever certified without them. The rest may have started anew shortly before, and have to
/// execute again what led to their states.
fn direct_late_certificate(plan: &mut Plan) {
    let mut random = Random::new(plan.seed, Stream::Lateness);
    if plan.replicas < 4 || plan.scene.is_some() || !plan.liars.is_empty() || !random.percent(4) {
        return;
    }
    plan.scene = Some(Scene::LateCertificate);
    let workload = &mut plan.workload;
    (workload.clients, workload.client_keys, workload.bundles, workload.depth) = (1, 1, 60, 1);
    make_fast(plan, Nanoseconds(500_000), 16);
    // Most states are written before the next one is due.
    plan.workload.think_max = Nanoseconds::from_millis(random.between(10, 30));
    plan.tuning.checkpoint_interval = random.between(3, 6);
    // Nobody has all that led to a state for long.
    (plan.tuning.headers_kept_max, plan.tuning.lane_bytes_kept_max) = (4, 1);
    plan.tuning.view_timeout = Nanoseconds::from_millis(1_000);
    let full = random.between(150_000_000, 350_000_000);
    let end = full + random.between(100_000_000, 200_000_000);
    let gone = end + random.between(1_000_000, 20_000_000);
    heal(plan, Nanoseconds(gone + 60_000_000));
    let (mut faults, replicas) = (Vec::new(), u64::from(plan.replicas));
    let faulty = Quorums::of(usize::from(plan.replicas)).faults as u64;
    for number in 1..=faulty {
        let away = FaultKind::Isolate { replica: replica(plan, replicas - number) };
        add(&mut faults, plan, away, 20_000_000, gone + 20_000_000);
        let late = replica(plan, number);
        add(&mut faults, plan, FaultKind::FillDisk { replica: late }, full, end);
        let kind = FaultKind::Pause { replica: late };
        faults.push(Fault { kind, begin: Nanoseconds(gone), end: FOR_EVER });
    }
    if random.percent(50) {
        let crash = end - random.below(30_000_000);
        let others =
            (0..replicas).filter(|number| *number == 0 || (faulty + 1..replicas - faulty).contains(number));
        for number in others {
            let begin = crash + random.below(1_000_000);
            add(
                &mut faults,
                plan,
                FaultKind::Crash { replica: replica(plan, number) },
                begin,
                begin + 1_000_000,
            );
        }
    }
    plan.faults = faults;
}

/// One client at the first primary keeps many small bundles open, on fast disks and links.
fn make_busy(random: &mut Random, plan: &mut Plan) {
    let workload = &mut plan.workload;
    (workload.clients, workload.client_keys, workload.bundles) = (1, 1, 90);
    workload.depth = 16;
    make_fast(plan, Nanoseconds(500_000), 16);
    plan.tuning.view_timeout = Nanoseconds::from_millis(random.between(100, 300));
    heal(plan, Nanoseconds::from_millis(2_000));
}

/// Disks and links are fast, the longest way is that, and a core takes so many inputs at once. No limit is in the way of
/// small bundles.
fn make_fast(plan: &mut Plan, delay_max: Nanoseconds, burst_max: u64) {
    let workload = &mut plan.workload;
    (workload.think_max, workload.large_permille) = (Nanoseconds::from_millis(60), 0);
    let tuning = &mut plan.tuning;
    (tuning.checkpoint_interval, tuning.window, tuning.proposals_max) = (16, 64, 16);
    (tuning.pipeline_bytes, tuning.batches_in_flight) = (0, 16);
    tuning.cut_batches_max = limits::CUT_BATCHES_MAX;
    tuning.cut_bytes_max = limits::CUT_BYTES_MAX;
    tuning.lane_bytes_open_max = limits::LANE_BYTES_OPEN_MAX;
    tuning.undurable_bytes_max = limits::UNDURABLE_BYTES_MAX;
    let network = &mut plan.network;
    (network.carriage, network.straggler_permille) = (Carriage::Stream, 0);
    (network.delay_min, network.delay_max) = (Nanoseconds(50_000), delay_max);
    (network.bytes_per_millisecond, network.queue_bytes_max) = (1_000_000, 64 * 1024 * 1024);
    plan.disk =
        DiskPlan { write_min: Nanoseconds(20_000), write_max: Nanoseconds(200_000), stall_permille: 0 };
    plan.core = CorePlan { wake_max: Nanoseconds(20_000), mail_max: Nanoseconds(20_000), burst_max };
}

/// All faults are over then, and the history is in time.
fn heal(plan: &mut Plan, at: Nanoseconds) {
    (plan.heal_at, plan.deadline) = (at, at.plus(Nanoseconds::from_millis(30_000).0));
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_scene_is_played_and_nothing_is_wrong_with_those_in_which_somebody_lies_but_that() {
        let plans: Vec<Plan> = (0..2000).map(Plan::of).filter(|plan| plan.scene.is_some()).collect();
        for scene in Scene::value_variants() {
            assert!(plans.iter().filter(|plan| plan.scene == Some(*scene)).count() > 3, "{scene:?}");
        }
        for plan in &plans {
            let faults = Quorums::of(usize::from(plan.replicas)).faults;
            assert!(plan.liars.len() <= faults, "{plan}");
            let is_honest = matches!(plan.scene, Some(Scene::LongerChain | Scene::LateCertificate));
            assert_eq!(plan.liars.is_empty(), is_honest);
            assert_eq!(plan.faults.is_empty(), !plan.liars.is_empty());
            assert!(plan.liars.is_empty() || plan.tuning.view_timeout >= plan.patience());
        }
    }
}
