//! Scenes in which somebody lies, each made for one mistake of `types::mistakes`: nothing else is wrong in them, so that
//! no honest primary may be given up at any time.

use super::{Scene, heal, make_fast, replica};
use crate::liars::{Habit, Liar};
use crate::plan::Plan;
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
        Scene::LongerChain | Scene::LateCertificate => {}
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
    workload.depth = random.between(1, 4);
    make_fast(plan, Nanoseconds(300_000), 64);
    plan.network.cut_percent = 0;
    let tuning = &mut plan.tuning;
    tuning.fetch_bytes_max = limits::FETCH_BYTES_MAX;
    tuning.fetch_headers_max = 16;
    tuning.retransmit = Nanoseconds::from_millis(random.between(10, 20));
    plan.tuning.view_timeout = Nanoseconds(plan.patience().0 + random.below(plan.patience().0));
    heal(plan, Nanoseconds::from_millis(600));
}
