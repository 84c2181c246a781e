//! Replays one seed for a reader, or runs many for a verdict.
#![forbid(unsafe_code)]

use anyhow::{Result, bail};
use clap::Parser;
use quorate_simulator::faults::Fault;
use quorate_simulator::runner::{describe_running, replay_command};
use quorate_simulator::scenes::Scene;
use quorate_simulator::trace::{Detail, Trace, time};
use quorate_simulator::{Plan, Report, run, run_many};
use quorate_types::Mistake;
use std::collections::BTreeMap;
use std::io::{BufWriter, stdout};
use std::process::ExitCode;

/// Simulates whole Quorate clusters, each history drawn from one seed.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Replays this seed and prints what happens.
    #[arg(long, conflicts_with_all = ["seeds", "start"])]
    seed: Option<u64>,
    /// Prints every frame, write and tick of the replayed seed.
    #[arg(long, requires = "seed")]
    verbose: bool,
    /// Runs so many seeds.
    #[arg(long, default_value_t = 300)]
    seeds: u64,
    /// The first seed to run.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Runs so many seeds at once; each stays on one thread.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Runs only histories of this kind; the others are passed over, and counted as seeds all the same.
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Runs only histories that are made for this scene.
    #[arg(long, value_enum)]
    scene: Option<Scene>,
    /// Stops after so many findings.
    #[arg(long, default_value_t = 10)]
    findings: usize,
    /// Lets all replicas make this mistake.
    #[arg(long, value_parser = mistake)]
    mistake: Option<Mistake>,
}

fn mistake(name: &str) -> Result<Mistake, String> {
    let names = || Mistake::ALL.iter().map(|mistake| mistake.name()).collect::<Vec<_>>().join(", ");
    let found = Mistake::ALL.iter().copied().find(|mistake| mistake.name() == name);
    found.ok_or_else(|| format!("no mistake of this name; there are: {}", names()))
}

/// A kind of history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// Nobody crashes.
    Standing,
    /// Replicas crash, and all disks keep what they have.
    Crashes,
    /// Blocks go bad of which there are copies.
    Rot,
    /// Disks lose what was durable.
    Damage,
    /// Replicas lie.
    Liars,
}

impl Kind {
    fn of(plan: &Plan) -> Self {
        if !plan.liars.is_empty() {
            return Self::Liars;
        }
        match (plan.has_crashes(), plan.has_damage()) {
            (_, true) => Self::Damage,
            (true, false) if plan.has_rot() => Self::Rot,
            (true, false) => Self::Crashes,
            (false, false) => Self::Standing,
        }
    }
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.threads == 0 {
        bail!("--threads 0: at least one thread must run the seeds");
    }
    name_seed_in_panics();
    Ok(match arguments.seed {
        Some(seed) => replay(seed, arguments.verbose, arguments.mistake),
        None => run_all(&arguments),
    })
}

fn replay(seed: u64, verbose: bool, mistake: Option<Mistake>) -> ExitCode {
    let plan = Plan { mistake, ..Plan::of(seed) };
    println!("seed {seed}: {plan}");
    for fault in &plan.faults {
        println!("  {} to {}: {:?}", time(fault.begin), end(fault), fault.kind);
    }
    let detail = if verbose { Detail::Verbose } else { Detail::Readable };
    let report = run(plan, Trace::written(detail, Box::new(BufWriter::new(stdout()))));
    println!(
        "{} bundles complete, {} headers, {} roots compared, {} frames, {} of virtual time, trace {:016x}",
        report.completed,
        report.headers,
        report.roots,
        report.frames,
        time(report.ended_at).trim_start(),
        report.hash
    );
    println!(
        "refused: {:?}; most in one core: {} bytes pending, {} effects held back, {} items kept",
        report.rejects, report.pending_peak, report.held_peak, report.kept_peak
    );
    match &report.finding {
        None => ExitCode::SUCCESS,
        Some(finding) => {
            println!("FINDING {finding}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Default)]
struct Totals {
    seeds: u64,
    findings: u64,
    completed: usize,
    headers: u64,
    roots: usize,
    frames: u64,
    broken: u64,
    rejects: BTreeMap<&'static str, u64>,
    pending_peak: usize,
    held_peak: usize,
    kept_peak: usize,
    differences: u64,
}

impl Totals {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.findings += u64::from(report.finding.is_some());
        self.completed += report.completed;
        self.headers += report.headers;
        self.roots += report.roots;
        self.frames += report.frames;
        self.broken += report.broken;
        self.pending_peak = self.pending_peak.max(report.pending_peak);
        self.held_peak = self.held_peak.max(report.held_peak);
        self.differences += report.differences;
        self.kept_peak = self.kept_peak.max(report.kept_peak);
        for (label, count) in &report.rejects {
            *self.rejects.entry(label).or_default() += count;
        }
    }
}

fn run_all(arguments: &Arguments) -> ExitCode {
    let mut totals = Totals::default();
    let seeds = arguments.start..arguments.start.saturating_add(arguments.seeds);
    let wanted = |plan: &Plan| {
        arguments.kind.is_none_or(|kind| kind == Kind::of(plan))
            && (arguments.scene.is_none() || arguments.scene == plan.scene)
    };
    run_many(seeds, arguments.threads, arguments.mistake, arguments.findings, wanted, |report| {
        totals.add(report);
        if let Some(finding) = &report.finding {
            println!("FINDING {finding}\n  replay: {}", replay_command(report.seed));
        }
    });
    println!(
        "{} seeds from {}: {} findings; {} bundles, {} headers, {} roots compared, {} frames, {} broken states mended; refused {:?}",
        totals.seeds,
        arguments.start,
        totals.findings,
        totals.completed,
        totals.headers,
        totals.roots,
        totals.frames,
        totals.broken,
        totals.rejects
    );
    println!(
        "most in one core: {} bytes pending, {} effects held back, {} items kept",
        totals.pending_peak, totals.held_peak, totals.kept_peak
    );
    if let Some(mistake) = arguments.mistake {
        println!("the mistake {} has made a difference {} times", mistake.name(), totals.differences);
    }
    if totals.findings == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn end(fault: &Fault) -> String {
    if fault.is_lasting() { "the end          ".to_owned() } else { time(fault.end) }
}

/// Lets a panic name the seed that it happened in.
fn name_seed_in_panics() {
    let inner = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if let Some(line) = describe_running() {
            eprintln!("{line}");
        }
        inner(info);
    }));
}
