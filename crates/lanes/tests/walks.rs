//! A random walk through the lanes of 4 or 7 replicas, f of which lie to the end: they fork their lanes, say that they hold
//! what they like, lead views, and serve badly. Before the network is well, frames are lost, disks lag, replicas crash and
//! come back or stay away for long. Once it is well, what a quorum has acknowledged and what is named ends held by all
//! honest replicas, their own lanes are executed to the end, nobody gives an honest primary up, and what is held is bounded.
//!
//! `QUORATE_LANE_EPISODES=100000 cargo test -p quorate-lanes --test walks` walks longer; `QUORATE_LANE_SEED` names one episode.

mod common;
mod walk;

use common::bundle_of;
use walk::{ROUND, Random, VIEW_ROUNDS, World};

/// The rounds after the network is well in which liars fork on, and in which they only lie on.
const FORKING_ROUNDS: u64 = 20;
const QUIET_ROUNDS: u64 = 60;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Anything may happen in any order.
fn wild(world: &mut World, random: &mut Random, steps: usize) {
    let away = random.below(world.machines.len() * 2);
    for step in 0..steps {
        let at = random.below(world.machines.len());
        match random.below(24) {
            0..=7 => {
                for _ in 0..1 + random.below(8) {
                    let index = random.below(world.in_flight());
                    let lost = random.one_in(8);
                    world.deliver(index, lost, random);
                }
            }
            8..=11 => world.tick(at, [0, ROUND / 5, ROUND][random.below(3)]),
            12..=13 => world.sync(at),
            14..=17 => world.lie(random, true),
            18 => world.admit(at),
            19 if random.one_in(4) => world.crash(at, random),
            19 if at != away => world.start(at),
            20 if random.one_in(2) => world.checkpoint(at),
            21 => world.decide(random.one_in(2)),
            22 if random.one_in(4) => world.next_view(),
            22 if world.is_led_by_a_liar() => world.propose_as_liar(random),
            _ => world.round += u64::from(random.one_in(2)),
        }
        if step == steps / 3 && away < world.machines.len() {
            // It comes back when the network is well.
            world.crash(away, random);
        }
    }
}

/// The network is well: a round brings everything to everyone.
fn fair(world: &mut World, random: &mut Random, forks: bool) {
    world.round += 1;
    for _ in 0..2 {
        (0..1 + random.below(3)).for_each(|_| world.lie(random, forks));
        if world.is_led_by_a_liar() && random.one_in(3) {
            world.propose_as_liar(random);
        }
        let mut delivered = 0;
        while world.in_flight() > 0 && delivered < 4000 {
            world.deliver(0, false, random);
            delivered += 1;
        }
        for at in 0..world.machines.len() {
            world.sync(at);
            world.tick(at, ROUND / 2);
        }
        world.decide(random.one_in(2));
    }
    let suspicion = world.suspicion();
    if world.is_led_by_a_liar() {
        if suspicion.is_some() || world.view_age() >= VIEW_ROUNDS {
            world.next_view();
        }
    } else if let Some(reason) = suspicion {
        if number("QUORATE_LANE_SEED").is_some() {
            for lane in world.config.lanes() {
                eprintln!("{reason}; lane {lane}: {}", world.describe(lane));
            }
        }
        world.violations.push(format!("an honest primary is given up: {reason}"));
        world.next_view();
    }
}

fn episode(seed: u64, signed: &[Vec<u8>]) -> Vec<String> {
    let mut random = Random::new(seed);
    let replicas = [4, 4, 7][random.below(3)];
    let mut world = World::new(replicas, &mut random, signed);
    let steps = [60, 200][random.below(2)];
    wild(&mut world, &mut random, steps);
    for at in 0..world.machines.len() {
        world.start(at);
    }
    // Connections stand anew when the network is well, so that nothing is lost from here on without anybody's knowing.
    world.reconnect();
    world.next_view();
    for round in 0..FORKING_ROUNDS {
        if round < 4 {
            (0..world.machines.len()).for_each(|at| world.admit(at));
        }
        fair(&mut world, &mut random, true);
    }
    let mut rounds = 0;
    while rounds < QUIET_ROUNDS || world.is_led_by_a_liar() {
        fair(&mut world, &mut random, false);
        rounds += 1;
    }
    // What was decided last may still be on its way.
    let mut more = 0;
    while !world.findings().is_empty() && more < 2 * VIEW_ROUNDS {
        fair(&mut world, &mut random, false);
        more += 1;
    }
    let findings = world.findings();
    if number("QUORATE_LANE_SEED").is_some() && !findings.is_empty() {
        for lane in world.config.lanes() {
            eprintln!("lane {lane}: {}", world.describe(lane));
        }
    }
    findings
}

#[test]
fn whatever_liars_do_what_a_quorum_holds_and_what_is_named_ends_held_by_all() {
    let signed: Vec<Vec<u8>> = {
        let config = common::config(|_| ());
        (0..64).map(|number| bundle_of(&config, number, 16)).collect()
    };
    let (first, count) = match number("QUORATE_LANE_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("QUORATE_LANE_EPISODES").unwrap_or(100)),
    };
    let (mut failed, mut shown) = (0u64, Vec::new());
    for seed in first..first + count {
        let findings = episode(seed, &signed);
        if !findings.is_empty() {
            failed += 1;
            shown.extend(findings.into_iter().take(2).map(|finding| format!("seed {seed}: {finding}")));
            shown.truncate(12);
        }
    }
    assert_eq!(failed, 0, "of {count} episodes\n{}", shown.join("\n"));
}
