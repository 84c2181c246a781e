//! Scenes in which somebody lies, each made for one mistake of `types::mistakes`: nothing else is wrong in them, so that
//! no honest primary may be given up at any time.

use super::{Scene, replica};
use crate::liars::{Habit, Liar};
use crate::plan::{Carriage, CorePlan, DiskPlan, Plan};
use crate::random::{Random, Stream};
use quorate_types::{Nanoseconds, limits};

/// In few histories everything is made for one of these scenes.
pub(super) fn direct(plan: &mut Plan) {
    let mut random = Random::new(plan.seed, Stream::Intrigue);
    let scenes: &[Scene] = match plan.replicas {
        4 => &[Scene::UncountedAcknowledgements, Scene::FullLane, Scene::DeadFork],
        5 | 6 => &[Scene::FullLane, Scene::DeadFork],
        7 => &[Scene::TricklingServer],
        _ => return,
    };
    // One scene needs more replicas than most histories have.
    let share = if plan.replicas == 7 { 8 } else { 3 };
    if plan.scene.is_some() || !random.percent(share) {
        return;
    }
    let scene = *random.pick(scenes);
    plan.scene = Some(scene);
    plan.faults.clear();
    plan.liars.clear();
    make_calm(&mut random, plan);
    let honest = u64::from(plan.replicas) - 1;
    let liar = |plan: &mut Plan, number: u64, habit: Habit| {
        let votes_until = Nanoseconds(u64::MAX);
        plan.liars.push(Liar { replica: replica(plan, number), habits: vec![habit], votes_until });
    };
    match scene {
        Scene::LongerChain => {}
        // All but the first primary hold one batch that all have, and behind it each another one: they acknowledge that
        // alone. Three of four have acknowledged the first one, and each of them knows it: who leads must ask, or be
        // told.
        Scene::UncountedAcknowledgements => liar(plan, random.between(1, honest), Habit::PartsLane),
        // The first primary holds a fork that fills the lane's budget, and nothing of what all others have acknowledged.
        Scene::FullLane => {
            plan.tuning.lane_bytes_open_max = plan.workload.bundle_bytes_max() + 2048;
            liar(plan, random.between(1, honest), Habit::AvoidsPrimary);
        }
        // The first primary gets nothing of a lane in which many batches follow each other at once, and of the others that
        // hold them it asks the one first who gives one at a time.
        Scene::TricklingServer => {
            let workload = &mut plan.workload;
            (workload.depth, workload.bundles) = (random.between(24, 40), 40);
            workload.think_max = Nanoseconds::from_millis(random.between(5, 40));
            plan.tuning.batches_in_flight = 64;
            // One client is at home there, and few beside.
            (workload.clients, workload.client_keys) = (3, 3);
            liar(plan, 1, Habit::Trickles);
            liar(plan, 2, Habit::AvoidsPrimary);
        }
        // All but the first primary know that a quorum holds a long fork, before all go on beside it; then the lane has few
        // batches.
        Scene::DeadFork => {
            plan.workload.depth = 1;
            plan.workload.think_max = Nanoseconds::from_millis(60);
            liar(plan, random.between(1, honest), Habit::LeavesFork);
        }
    }
}

/// Every replica is some client's home, on fast disks and links.
fn make_calm(random: &mut Random, plan: &mut Plan) {
    let workload = &mut plan.workload;
    let clients = plan.replicas.min(6);
    (workload.clients, workload.client_keys, workload.bundles) = (u64::from(clients), clients, 8);
    (workload.bundles_after, workload.think_after_max) = (1, Nanoseconds::from_millis(5));
    (workload.depth, workload.think_max) = (random.between(1, 4), Nanoseconds::from_millis(60));
    workload.large_permille = 0;
    let tuning = &mut plan.tuning;
    (tuning.checkpoint_interval, tuning.window, tuning.proposals_max) = (16, 64, 16);
    (tuning.pipeline_bytes, tuning.batches_in_flight) = (0, 16);
    tuning.cut_batches_max = limits::CUT_BATCHES_MAX;
    tuning.cut_bytes_max = limits::CUT_BYTES_MAX;
    tuning.lane_bytes_open_max = limits::LANE_BYTES_OPEN_MAX;
    tuning.undurable_bytes_max = limits::UNDURABLE_BYTES_MAX;
    tuning.fetch_bytes_max = limits::FETCH_BYTES_MAX;
    tuning.fetch_headers_max = 16;
    tuning.retransmit = Nanoseconds::from_millis(random.between(10, 20));
    let network = &mut plan.network;
    (network.carriage, network.straggler_permille, network.cut_percent) = (Carriage::Stream, 0, 0);
    (network.delay_min, network.delay_max) = (Nanoseconds(50_000), Nanoseconds(300_000));
    (network.bytes_per_millisecond, network.queue_bytes_max) = (1_000_000, 64 * 1024 * 1024);
    plan.disk =
        DiskPlan { write_min: Nanoseconds(20_000), write_max: Nanoseconds(200_000), stall_permille: 0 };
    plan.core = CorePlan { wake_max: Nanoseconds(20_000), mail_max: Nanoseconds(20_000), burst_max: 64 };
    plan.tuning.view_timeout = Nanoseconds(plan.patience().0 + random.below(plan.patience().0));
    plan.heal_at = Nanoseconds::from_millis(600);
    plan.deadline = plan.heal_at.plus(Nanoseconds::from_millis(30_000).0);
}
