//! `quorate bench sweep`: an open loop at one rate after the other, up to the knee where the cluster no longer
//! keeps up or takes too long.

use crate::arguments::check_rate;
use crate::cluster::{Launch, RunningCluster};
use crate::files::{Files, NO_LOG, write_json};
use crate::findings::load_figures;
use crate::format::{duration, grouped_f64, milliseconds};
use crate::page;
use crate::report::{BenchReport, LatencyMicroseconds};
use crate::run::load_cluster;
use crate::verdict::{Bottleneck, bottleneck, remark};
use crate::{BenchArguments, Environment, LoadArguments};
use anyhow::ensure;
use clap::Args;
use quorate_types::Quorums;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::Write;

const SUMMARY: &str = "sweep.json";
const PAGE: &str = "sweep.html";
/// How much of what is due may be missing before the knee.
const MISSING_SHARE_MAX: f64 = 0.02;
/// How long the closed loop runs from which the rates are estimated, and before that warms up, in seconds.
const ESTIMATE_SECONDS: f64 = 2.0;
/// The first rate, in proportion to the throughput of the closed loop.
const FIRST_SHARE: f64 = 0.2;
/// The last rate, in proportion to the throughput of the closed loop.
const LAST_SHARE: f64 = 2.0;
/// The last rate, in proportion to a first one that was given.
const LAST_FACTOR: f64 = 64.0;
const STEPS_MAX: usize = 200;

/// What `quorate bench sweep` may be told.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[command(
    mut_arg("duration", |argument| argument.default_value("5")),
    mut_arg("warmup", |argument| argument.default_value("1"))
)]
pub struct SweepArguments {
    /// How to load which cluster.
    #[command(flatten)]
    #[serde(flatten)]
    pub load: LoadArguments,
    /// The first rate. By default a fifth of the throughput of a short closed loop.
    #[arg(long, value_name = "OPERATIONS/S")]
    pub from: Option<f64>,
    /// The highest rate. By default twice the throughput of a short closed loop, or 64 times `--from`.
    #[arg(long, value_name = "OPERATIONS/S")]
    pub to: Option<f64>,
    /// The factor from one rate to the next.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.25)]
    pub step: f64,
    /// The 99th percentile of response time above which a rate is too high, in milliseconds.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 100.0)]
    pub p99_max: f64,
}

impl SweepArguments {
    /// Refuses what cannot work; each message names the flag, the value and the remedy.
    pub fn check(&self) -> anyhow::Result<()> {
        self.at(Some(1.0)).check()?;
        for (flag, rate) in [("--from", self.from), ("--to", self.to)] {
            rate.map_or(Ok(()), |rate| check_rate(flag, rate))?;
        }
        ensure!((1.01..=10.0).contains(&self.step), "--step {}: use 1.01 to 10", self.step);
        ensure!((0.001..=1e6).contains(&self.p99_max), "--p99-max {}: use 0.001 to 1000000", self.p99_max);
        if let (Some(from), Some(to)) = (self.from, self.to) {
            ensure!(from <= to, "--from {from} is above --to {to}: use a lower first or a higher last rate");
        }
        Ok(())
    }

    /// The arguments of one step; without a rate those of the closed loop.
    fn at(&self, rate: Option<f64>) -> BenchArguments {
        BenchArguments { load: self.load.clone(), rate, runs: 1, json: None }.resolved()
    }
}

/// One rate and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SweepStep {
    /// The rate that was asked for, in operations per second.
    pub target_ops_s: f64,
    /// Operations that were completed per second.
    pub throughput_ops_s: f64,
    /// Completed operations in proportion to those that became due.
    pub achieved_share: f64,
    /// Latency from the intended start.
    pub response_us: LatencyMicroseconds,
    /// Latency from sending.
    pub service_us: LatencyMicroseconds,
    /// CPU time of all replicas per operation, in microseconds.
    pub cpu_us_per_op: f64,
    /// How late bundles left although they were due and there was room: all but one in 100 were earlier.
    pub lag_p99_us: f64,
    /// The share of one CPU that the busiest load thread used.
    pub generator_cpu_share: f64,
    /// Why this rate is too high; nothing before the knee.
    pub too_high: Option<String>,
}

/// The results of a sweep. Keys are added, and never renamed or removed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SweepReport {
    /// Each rate, in the order in which they were tried.
    pub steps: Vec<SweepStep>,
    /// The highest rate that was not too high.
    pub knee_ops_s: Option<f64>,
    /// The throughput of the closed loop from which the rates were estimated.
    pub closed_loop_ops_s: Option<f64>,
    /// Why the sweep ended.
    pub ended: String,
    /// What makes the sweep a failure; empty when it is a success.
    pub problems: Vec<String>,
    /// What should be known when the figures are read.
    pub warnings: Vec<String>,
    /// The number of replicas.
    pub replicas: usize,
    /// The number of faults that are tolerated.
    pub faults: usize,
    /// What an acknowledgement promises, as the replicas say.
    pub durability: String,
    /// What protects the links, as the replicas say.
    pub security: String,
    /// The program and the machine.
    #[serde(flatten)]
    pub environment: Environment,
    /// The flags.
    pub flags: SweepArguments,
}

impl SweepReport {
    /// A sweep that has not tried a rate yet.
    pub(crate) fn start(quorums: Quorums, environment: Environment, flags: SweepArguments) -> Self {
        Self {
            steps: Vec::new(),
            knee_ops_s: None,
            closed_loop_ops_s: None,
            ended: String::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
            replicas: quorums.replicas,
            faults: quorums.faults,
            durability: String::new(),
            security: String::new(),
            environment,
            flags,
        }
    }

    /// 0 when a knee was found or the highest rate was no problem; otherwise 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        u8::from(!self.problems.is_empty() || self.knee_ops_s.is_none())
    }
}

/// The results of a sweep on one cluster, which the caller prints. Blocks the calling thread.
pub fn sweep(arguments: &SweepArguments, launch: Launch<'_>) -> anyhow::Result<SweepReport> {
    arguments.check()?;
    let files = arguments.load.out.as_deref().map(Files::create).transpose()?;
    let cluster = RunningCluster::open(&arguments.load, launch)?;
    let climbed = climb(arguments, &cluster);
    let stopped = cluster.stop();
    let mut report = climbed?;
    let allowed = stopped.len() <= arguments.load.allow_down;
    let list = if allowed { &mut report.warnings } else { &mut report.problems };
    list.extend(stopped.into_iter().map(|problem| problem.text));
    if let Some(files) = files {
        write_json(&files.path(SUMMARY), &report)?;
        files.write_text(PAGE, &page::of_sweep(&report))?;
    }
    Ok(report)
}

fn climb(arguments: &SweepArguments, cluster: &RunningCluster) -> anyhow::Result<SweepReport> {
    let mut report = SweepReport::start(cluster.config.quorums(), Environment::here(), arguments.clone());
    let estimate = match arguments.from {
        Some(_) => None,
        None => Some(estimate(arguments, cluster)?),
    };
    report.closed_loop_ops_s = estimate;
    for rate in ladder(arguments, estimate) {
        // Standard error may be closed; the results do not depend on it.
        let _ = writeln!(std::io::stderr(), "at {} operations/s", grouped_f64(rate));
        let step = load_cluster(&arguments.at(Some(rate)), cluster, NO_LOG)?.verdict.report;
        if !report.take(&step, arguments.p99_max) {
            return Ok(report);
        }
    }
    report.ended = "the highest rate was reached before the knee; use a higher --to to find it".to_owned();
    Ok(report)
}

/// The throughput of a short closed loop.
fn estimate(arguments: &SweepArguments, cluster: &RunningCluster) -> anyhow::Result<f64> {
    let mut closed = arguments.at(None);
    let load = &mut closed.load;
    (load.duration, load.warmup) = (load.duration.min(ESTIMATE_SECONDS), load.warmup.min(ESTIMATE_SECONDS));
    load.interval = load.interval.min(load.duration);
    let _ = writeln!(std::io::stderr(), "a closed loop, to know what to expect");
    let report = load_cluster(&closed, cluster, NO_LOG)?.verdict.report;
    ensure!(report.operations > 0, "the closed loop completed nothing: {}", report.problems.join("; "));
    Ok(report.throughput_ops_s)
}

/// The rates from the first to the last.
fn ladder(arguments: &SweepArguments, estimate: Option<f64>) -> Vec<f64> {
    let expected = estimate.unwrap_or_default();
    let from = arguments.from.unwrap_or_else(|| {
        let first = two_digits(expected * FIRST_SHARE);
        arguments.to.map_or(first, |to| first.min(to))
    });
    let to = arguments.to.unwrap_or(if arguments.from.is_some() {
        from * LAST_FACTOR
    } else {
        expected * LAST_SHARE
    });
    let mut rates = Vec::new();
    let mut rate = from;
    while rate <= to * (1.0 + 1e-9) && rates.len() < STEPS_MAX {
        rates.push(rate);
        rate *= arguments.step;
    }
    rates
}

/// Rounded to two significant digits.
fn two_digits(number: f64) -> f64 {
    let power = 10f64.powf(number.max(1.0).log10().floor() - 1.0);
    (number / power).round().max(1.0) * power
}

impl SweepReport {
    /// Takes the results of one step; says whether to go on.
    fn take(&mut self, report: &BenchReport, p99_max_ms: f64) -> bool {
        let too_high = too_high(report, p99_max_ms);
        let open = report.open_loop.unwrap_or_default();
        self.steps.push(SweepStep {
            target_ops_s: open.target_ops_s,
            throughput_ops_s: report.throughput_ops_s,
            achieved_share: open.achieved_share,
            response_us: report.response_us,
            service_us: report.service_us,
            cpu_us_per_op: report.cluster.cpu_us_per_op,
            lag_p99_us: report.generator.lag_p99_us,
            generator_cpu_share: report.generator.cpu_share,
            too_high: too_high.clone(),
        });
        (self.durability, self.security) = (report.durability.clone(), report.security.clone());
        let rate = grouped_f64(open.target_ops_s);
        // How late bundles left has a column of its own.
        let remark = remark(&load_figures(report));
        let others = report.warnings.iter().filter(|warning| Some(*warning) != remark.as_ref());
        self.warnings.extend(others.map(|warning| format!("at {rate} operations/s: {warning}")));
        let problems = problems_of_step(report);
        if !problems.is_empty() {
            self.problems.extend(problems.iter().map(|problem| format!("at {rate} operations/s: {problem}")));
            self.ended = format!("something went wrong at {rate} operations/s");
            return false;
        }
        match too_high {
            None => self.knee_ops_s = Some(open.target_ops_s),
            Some(why) => {
                self.ended = format!("{rate} operations/s are too many: {why}");
                if self.knee_ops_s.is_none() {
                    self.problems.push("the first rate is too high already; use a lower --from".to_owned());
                }
                return false;
            }
        }
        true
    }
}

/// Why a rate is beyond the knee.
fn too_high(report: &BenchReport, p99_max_ms: f64) -> Option<String> {
    let open = report.open_loop?;
    if !load_figures(report).keeps_up(MISSING_SHARE_MAX) {
        return Some(format!("only {:.1} % of what was due was completed", 100.0 * open.achieved_share));
    }
    let p99 = report.response_us.p99;
    (p99 > 1000.0 * p99_max_ms)
        .then(|| format!("p99 is {}, above {}", milliseconds(p99), milliseconds(1000.0 * p99_max_ms)))
}

/// What went wrong besides that the cluster was too slow, which is what a sweep looks for.
fn problems_of_step(report: &BenchReport) -> Vec<String> {
    let expected = match bottleneck(&load_figures(report)) {
        (Bottleneck::Cluster, sentence) => sentence,
        _ => None,
    };
    report.problems.iter().filter(|problem| Some(*problem) != expected.as_ref()).cloned().collect()
}

impl fmt::Display for SweepReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} replicas (f = {}), {} durability, {}; open loop, {} arrivals; latency of bundles of {} from the \
             intended start\n",
            self.replicas,
            self.faults,
            self.durability,
            self.security,
            self.flags.load.arrival.as_str(),
            self.flags.load.bundle,
        )?;
        writeln!(
            f,
            "{:>12}{:>12}{:>10}{:>11}{:>11}{:>11}{:>11}{:>11}{:>10}",
            "target/s", "achieved/s", "of due", "p50", "p99", "p99.9", "max", "left late", "CPU/op"
        )?;
        for step in &self.steps {
            let latency = &step.response_us;
            let [p50, p99, p999, max] = [latency.p50, latency.p99, latency.p999, latency.max].map(duration);
            writeln!(
                f,
                "{:>12}{:>12}{:>10}{p50:>11}{p99:>11}{p999:>11}{max:>11}{:>11}{:>10}{}",
                grouped_f64(step.target_ops_s),
                grouped_f64(step.throughput_ops_s),
                format!("{:.1} %", 100.0 * step.achieved_share),
                duration(step.lag_p99_us),
                format!("{:.2} µs", step.cpu_us_per_op),
                if step.too_high.is_some() { "  too high" } else { "" },
            )?;
        }
        writeln!(f, "\n{}", self.conclusion())?;
        for warning in &self.warnings {
            writeln!(f, "note: {warning}")?;
        }
        for problem in &self.problems {
            writeln!(f, "FAILED: {problem}")?;
        }
        Ok(())
    }
}

impl SweepReport {
    /// Where the knee is.
    pub(crate) fn conclusion(&self) -> String {
        match self.knee_ops_s {
            Some(knee) => format!("the knee is at {} operations/s: {}", grouped_f64(knee), self.ended),
            None => format!("no rate was low enough: {}", self.ended),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
