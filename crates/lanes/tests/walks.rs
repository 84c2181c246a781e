//! A random walk through the lanes of 4 or 7 replicas, f of which lie to the end: they fork their lanes, say that they hold
//! what they like, lead views, and serve badly. Before the network is well, frames are lost, disks lag, replicas crash and
//! come back or stay away for long, and all may lose power at once, each with a bad batch on its disk. When it is well one of them may be cut off for a while,
//! learn slowly what was committed without it, and rest from fetching meanwhile; and all may lose power once more. In the
//! end what a quorum has acknowledged and what is named is held by all honest replicas, their own lanes are executed, along
//! what they have sealed alone, nobody has given an honest primary up, and what is held is bounded.
//!
//! The mistakes that DESIGN section 4 lists for lanes are made on purpose below ([`walk::Mistake`]), and each is found; but for
//! a proposal that is fetched only when f+1 others have acknowledged it, of which a scene tells (`forks.rs`): in a walk, who
//! is shown a digest asks for acknowledgements until there are so many.
//!
//! `QUORATE_LANE_EPISODES=100000 cargo test --release -p quorate-lanes --test walks` walks longer, from `QUORATE_LANE_FIRST`
//! on; `QUORATE_LANE_SEED` names one episode.

mod common;
mod walk;

use common::bundle_of;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use walk::{Bundles, Mistake, ROUND, Random, VIEW_ROUNDS, World};

/// The rounds after the network is well in which liars fork on, and in which they only lie on.
const FORKING_ROUNDS: u64 = 20;
const QUIET_ROUNDS: u64 = 60;
/// Of those in which they fork, in so many one replica is cut off.
const CUT_OFF_ROUNDS: u64 = 12;

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
            19 if random.one_in(12) => world.lose_power(random),
            19 if random.one_in(4) => world.crash(at, random),
            19 if at != away => world.start(at),
            20 if random.one_in(2) => (0..world.machines.len()).for_each(|at| world.checkpoint(at)),
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

/// The network is well: a round brings everything to everyone who is not cut off.
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
    if random.one_in(8) {
        (0..world.machines.len()).for_each(|at| world.checkpoint(at));
    }
    world.note_round();
    let suspicion = world.suspicion();
    if !world.is_led_well() {
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

/// Liars fork on. Meanwhile one replica may be cut off; when it is back it is told only bit by bit what was committed.
fn forking(world: &mut World, random: &mut Random) {
    let apart = Some(random.below(world.machines.len())).filter(|_| random.one_in(2));
    world.cut_off(apart);
    for round in 0..FORKING_ROUNDS {
        if round < 4 || round % 4 == 0 {
            (0..world.machines.len()).for_each(|at| world.admit(at));
        }
        if round == CUT_OFF_ROUNDS
            && let Some(at) = apart
        {
            world.cut_off(None);
            world.slow_down(at);
            world.next_view();
        }
        fair(world, random, true);
    }
}

fn episode(seed: u64, bundles: &Bundles, mistake: Option<Mistake>) -> Vec<String> {
    let mut random = Random::new(seed);
    let replicas = [4, 4, 7][random.below(3)];
    let mut world = World::new(replicas, &mut random, bundles, mistake);
    let steps = [60, 200][random.below(2)];
    wild(&mut world, &mut random, steps);
    for at in 0..world.machines.len() {
        world.start(at);
    }
    // Connections stand anew when the network is well, so that nothing is lost from here on without anybody's knowing.
    world.reconnect();
    world.next_view();
    forking(&mut world, &mut random);
    if random.one_in(3) {
        world.lose_power(&mut random);
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

/// A panic is a finding of its episode, too.
fn episode_or_panic(seed: u64, bundles: &Bundles, mistake: Option<Mistake>) -> Vec<String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| episode(seed, bundles, mistake)));
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        vec![text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()]
    })
}

fn bundles() -> Bundles {
    let config = common::config(|_| ());
    let signed: Vec<Vec<u8>> = (0..64).map(|number| bundle_of(&config, number, 16)).collect();
    let verdict = common::verdict(&config, &signed[0]);
    Bundles { signed: Arc::new(signed), verdict }
}

#[test]
fn whatever_liars_do_what_a_quorum_holds_and_what_is_named_ends_held_by_all() {
    let bundles = bundles();
    let (first, count) = match number("QUORATE_LANE_SEED") {
        Some(seed) => (seed, 1),
        None => (number("QUORATE_LANE_FIRST").unwrap_or(0), number("QUORATE_LANE_EPISODES").unwrap_or(100)),
    };
    let (mut failed, mut shown) = (0u64, Vec::new());
    for seed in first..first + count {
        let findings = episode_or_panic(seed, &bundles, None);
        if !findings.is_empty() {
            failed += 1;
            shown.extend(findings.into_iter().take(2).map(|finding| format!("seed {seed}: {finding}")));
            shown.truncate(12);
        }
    }
    assert_eq!(failed, 0, "of {count} episodes\n{}", shown.join("\n"));
}

/// The episodes in which a mistake is looked for.
const MISTAKEN_EPISODES: u64 = 2000;

/// Walks with a mistake, from a seed on that lies before one which is known to find it, until one says what is to be expected.
fn find(mistake: Mistake, first: u64, expected: &str) {
    let bundles = bundles();
    let says_so = |seed: &u64| {
        episode_or_panic(*seed, &bundles, Some(mistake)).iter().any(|finding| finding.contains(expected))
    };
    let found = (first..first + MISTAKEN_EPISODES).find(says_so);
    assert!(found.is_some(), "{mistake:?} is not found in {MISTAKEN_EPISODES} episodes from {first}");
}

#[test]
fn an_acknowledgement_replaced_by_a_forks_is_found() {
    find(Mistake::ReplacedAcknowledgement, 0, "an honest primary is given up");
}

#[test]
fn a_dead_tip_that_is_awaited_for_ever_is_found() {
    find(Mistake::DeadTipAwaited, 0, "an honest primary is given up");
}

#[test]
fn an_acknowledgement_that_cannot_be_counted_is_found() {
    find(Mistake::UncountableAcknowledgement, 0, "an honest primary is given up");
}

#[test]
fn a_certified_batch_that_is_dropped_for_a_budget_is_found() {
    find(Mistake::CertifiedDroppedForBudget, 0, "an honest primary is given up");
}

#[test]
fn batches_that_are_not_served_from_the_journal_are_found() {
    find(Mistake::NotServedFromJournal, 4400, "an honest primary is given up");
}

#[test]
fn a_cut_that_nobody_has_acknowledged_is_found() {
    find(Mistake::AcknowledgementlessCut, 0, "is committed, and");
}

#[test]
fn an_intact_batch_that_is_dropped_is_found() {
    find(Mistake::IntactDropped, 0, "");
}

#[test]
fn a_reason_that_is_forgotten_is_found() {
    find(Mistake::ReasonForgotten, 0, "as Some(Named)");
}

#[test]
fn learning_that_rests_for_ever_is_found() {
    find(Mistake::RestsForEver, 0, "an honest primary is given up");
}
