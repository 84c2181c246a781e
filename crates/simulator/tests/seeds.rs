//! Histories from many seeds, all oracles on.

use quorate_simulator::trace::Trace;
use quorate_simulator::{Finding, Plan, run, run_many};

#[test]
fn three_hundred_histories_keep_every_promise() {
    let mut findings: Vec<Finding> = Vec::new();
    let (mut completed, mut roots, mut histories, mut broken) = (0, 0, 0, 0);
    run_many(
        0..300,
        2,
        None,
        5,
        |_| true,
        |report| {
            findings.extend(report.finding.clone());
            completed += report.completed;
            roots += report.roots;
            broken += report.broken;
            histories += 1;
        },
    );
    let text: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(text.is_empty(), "{}", text.join("\n"));
    // Nothing is proven by histories in which nothing happens.
    assert_eq!(histories, 300);
    assert!(completed > 300 * 20, "{completed} bundles in all histories");
    assert!(roots > 300, "{roots} roots compared in all histories");
    assert!(broken > 20, "{broken} times a checkpoint had bad pages, and its replica its state again");
}

/// Seeds outside the first 300 that have once found something. Plans change with every kind of fault that is added, so none of
/// them replays the history that it is known for; those have scenes: live batches that overtake a fetch in
/// `lanes/tests/fetching.rs`, what must be durable before a vote of a view in `consensus/tests/scenarios/13` and `34`, and from
/// which checkpoint a restart goes on in `daemon/src/page_folder/tests.rs`. They stay as seeds like any others.
#[test]
fn seeds_that_once_found_something_find_nothing() {
    let seeds = [1264, 626, 710, 859, 412, 1160, 359];
    for seed in seeds {
        let report = run(Plan::of(seed), Trace::silent());
        assert!(report.finding.is_none(), "{:?}", report.finding);
    }
}

#[test]
fn a_seed_always_gives_the_same_history() {
    for seed in [1, 2, 3] {
        let first = run(Plan::of(seed), Trace::silent());
        let second = run(Plan::of(seed), Trace::silent());
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!(first.frames, second.frames, "seed {seed}");
    }
}
