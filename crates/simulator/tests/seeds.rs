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

/// Seeds outside the first 300 that have found something.
#[test]
fn what_was_found_once_stays_mended() {
    let seeds: &[u64] = &[
        1264, // A fetched batch was held before the live one that it follows, and execution dropped it.
        626,  // A COMMIT of one view left before PREPAREs of the view before.
        710,  // The same.
        859,  // The same, with a batch in another core's log.
        412,  // A restart went on from a checkpoint that nobody had certified, with f others down for good.
        1160, // The same.
        359,  // A state was taken over below the committed slot: the lanes' windows stood still.
    ];
    for seed in seeds {
        let report = run(Plan::of(*seed), Trace::silent());
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
