//! Runs seeds: one for a reader, or many for a verdict.

use crate::cluster::Cluster;
use crate::oracle::{Finding, Violation};
use crate::plan::Plan;
use crate::trace::Trace;
use quorate_types::{Mistake, Nanoseconds, mistakes};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

thread_local! {
    /// The history that this thread runs, for the message of a panic that ends the process.
    static RUNNING: Cell<Option<(u64, Nanoseconds)>> = const { Cell::new(None) };
}

/// What came of one history.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What must not be, if anything.
    pub finding: Option<Finding>,
    /// The hash of everything that happened.
    pub hash: u64,
    /// The virtual time at its end.
    pub ended_at: Nanoseconds,
    /// Bundles that clients know to be complete.
    pub completed: usize,
    /// Headers that were executed.
    pub headers: u64,
    /// Checkpoints whose roots were compared.
    pub roots: usize,
    /// Frames that arrived.
    pub frames: u64,
    /// How often a replica has come back without a state that could be read, with others to have it from.
    pub broken: u64,
    /// What replicas refused, by label.
    pub rejects: BTreeMap<&'static str, u64>,
    /// The most bytes that one core held.
    pub pending_peak: usize,
    /// The most effects that one core held back.
    pub held_peak: usize,
    /// The most headers, votes and positions that one core kept.
    pub kept_peak: usize,
    /// How often the mistake that was made on purpose has made a difference.
    pub differences: u64,
}

/// Runs the history of a plan. A panic inside a replica is a finding.
#[must_use]
pub fn run(plan: Plan, trace: Trace) -> Report {
    let seed = plan.seed;
    mistakes::make(plan.mistake);
    let mut cluster = Cluster::new(plan, trace);
    let mut finding = None;
    loop {
        RUNNING.set(Some((seed, cluster.now())));
        match catch_unwind(AssertUnwindSafe(|| cluster.step())) {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => break,
            Ok(Err(found)) => {
                finding = Some(found);
                break;
            }
            Err(panic) => {
                let violation = Violation::new("no panic", panic_text(panic.as_ref()));
                finding = Some(Finding { seed, at: cluster.now(), replica: None, violation });
                break;
            }
        }
    }
    RUNNING.set(None);
    let differences = mistakes::differences();
    mistakes::make(None);
    let oracles = cluster.oracles();
    Report {
        seed,
        finding,
        hash: cluster.trace().hash(),
        ended_at: cluster.now(),
        completed: oracles.completions.len(),
        headers: oracles.agreement.executed_highest().seq.0,
        roots: oracles.agreement.roots(),
        frames: cluster.frames(),
        broken: cluster.broken(),
        rejects: oracles.resources.rejects().clone(),
        pending_peak: oracles.resources.pending_peak(),
        held_peak: oracles.resources.held_peak(),
        kept_peak: oracles.resources.kept_peak(),
        differences,
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
}

/// Runs those of the seeds whose plan is `wanted`, with a mistake or without, on `threads` threads; calls `each` for every report, in any order.
/// Stops early once `findings_max` histories have a finding.
pub fn run_many(
    seeds: Range<u64>,
    threads: usize,
    mistake: Option<Mistake>,
    findings_max: usize,
    wanted: impl Fn(&Plan) -> bool + Sync,
    each: impl FnMut(&Report) + Send,
) {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let sink = Mutex::new((each, 0));
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let plan = Plan { mistake, ..Plan::of(seed) };
            if !wanted(&plan) {
                continue;
            }
            let report = run(plan, Trace::silent());
            let mut sink = sink.lock().expect("invariant: no panic while reporting");
            (sink.0)(&report);
            sink.1 += usize::from(report.finding.is_some());
            if sink.1 >= findings_max {
                stop.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(work);
        }
    });
}

/// The command that replays a seed.
#[must_use]
pub fn replay_command(seed: u64) -> String {
    format!("cargo run -p quorate-simulator --release -- --seed {seed}")
}

/// What names the seed that this thread is running, for builds in which a panic ends the process.
#[must_use]
pub fn describe_running() -> Option<String> {
    let (seed, at) = RUNNING.get()?;
    let at = crate::trace::time(at);
    Some(format!("FINDING seed {seed} at {}: no panic; replay: {}", at.trim_start(), replay_command(seed)))
}
