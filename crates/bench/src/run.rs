//! The course of a run: start, connect, warm up, measure, drain, compare roots, stop.

use crate::cluster::{Launch, RunningCluster};
use crate::control::{Roots, reports, roots};
use crate::cost::view_changes;
use crate::load::{self, CONNECT_DEADLINE, Phase, Progress};
use crate::progress::Display;
use crate::report::{BenchReport, ClientCosts, LatencyMicroseconds, Verdict};
use crate::{BenchArguments, ClusterCosts};
use anyhow::{Context, anyhow, bail};
use hdrhistogram::Histogram;
use quorate_client::{Client, ClientOptions};
use quorate_telemetry::ReplicaReport;
use quorate_types::ReplicaId;
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the display is refreshed and the threads are looked after.
const TICK: Duration = Duration::from_millis(100);

type LoadThread = JoinHandle<anyhow::Result<Histogram<u64>>>;

/// The results of a run, which the caller prints; progress goes to standard error. Errors are those that
/// leave nothing to report; everything else that went wrong is in the verdict. Blocks the calling thread for the
/// whole run.
pub fn run(arguments: &BenchArguments, launch: Launch<'_>) -> anyhow::Result<Verdict> {
    arguments.check()?;
    if let Some(path) = &arguments.json {
        // Before minutes are spent on results that could not be written.
        std::fs::write(path, "").with_context(|| format!("--json: cannot write {}", path.display()))?;
    }
    let cluster = RunningCluster::open(arguments, launch)?;
    let progress = Arc::new(Progress::new());
    let threads = load::start(arguments, &cluster, &progress)?;
    let outcome = tokio_uring::start(control(arguments, &cluster, &progress, threads));
    let stopped = cluster.stop();
    let mut verdict = outcome?;
    if let Err(error) = stopped {
        verdict.problems.push(format!("{error:#}"));
    }
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&verdict.report).context("the results as JSON")?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(verdict)
}

/// The cluster and the load generator at one moment.
struct Mark {
    at: Instant,
    operations: u64,
    client_cpu: Duration,
    reports: Vec<ReplicaReport>,
}

impl Mark {
    async fn take(client: &Client, replicas: &[ReplicaId], progress: &Progress) -> anyhow::Result<Self> {
        let reports = reports(client, replicas).await?;
        let (operations, client_cpu) = (progress.operations(), cpu_time());
        Ok(Self { at: Instant::now(), operations, client_cpu, reports })
    }
}

fn cpu_time() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap_or_default()
}

async fn control(
    arguments: &BenchArguments,
    cluster: &RunningCluster,
    progress: &Arc<Progress>,
    mut threads: Vec<LoadThread>,
) -> anyhow::Result<Verdict> {
    let options = ClientOptions { connect_deadline: CONNECT_DEADLINE, ..ClientOptions::default() };
    let client = Client::connect(Arc::clone(&cluster.config), cluster.key(0).clone(), options).await?;
    let result = measure(arguments, cluster, &client, progress, &mut threads).await;
    // Also after an error: threads that go on would load a cluster that is being stopped.
    progress.enter(Phase::Drain);
    client.close().await;
    result
}

async fn measure(
    arguments: &BenchArguments,
    cluster: &RunningCluster,
    client: &Client,
    progress: &Progress,
    threads: &mut Vec<LoadThread>,
) -> anyhow::Result<Verdict> {
    let replicas: Vec<_> = cluster.config.replica_ids().collect();
    wait_for_clients(arguments, progress, threads).await?;

    progress.enter(Phase::Warmup);
    load_for("warm-up", arguments.warmup, progress, threads).await?;
    let start = Mark::take(client, &replicas, progress).await?;
    progress.enter(Phase::Measure);
    load_for("measuring", arguments.duration, progress, threads).await?;
    let end = Mark::take(client, &replicas, progress).await?;
    progress.enter(Phase::Drain);

    let latencies = join(threads).await?;
    let (verdict, lines) = roots(client, &replicas).await;
    let report = assemble(arguments, cluster, &start, &end, &latencies, progress, &verdict);
    Ok(judge(report, progress, &verdict, &lines))
}

/// All clients are connected, or one has failed.
async fn wait_for_clients(
    arguments: &BenchArguments,
    progress: &Progress,
    threads: &mut Vec<LoadThread>,
) -> anyhow::Result<()> {
    while progress.connected() < arguments.clients {
        look_after(threads)?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn load_for(
    name: &'static str,
    seconds: f64,
    progress: &Progress,
    threads: &mut Vec<LoadThread>,
) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut display = Display::start(name, Duration::from_secs_f64(seconds), progress.operations());
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        tokio::time::sleep(left.min(TICK)).await;
        look_after(threads)?;
        display.show(progress.operations());
    }
}

/// A thread that has ended before the load did has failed.
fn look_after(threads: &mut Vec<LoadThread>) -> anyhow::Result<()> {
    match threads.iter().position(JoinHandle::is_finished) {
        None => Ok(()),
        Some(index) => match threads.swap_remove(index).join() {
            Ok(Ok(_)) => bail!("a load thread ended before the load did"),
            Ok(Err(error)) => Err(error.context("a client failed")),
            Err(_) => bail!("a load thread panicked"),
        },
    }
}

/// Waits until all threads have drained, and merges their latencies.
async fn join(threads: &mut Vec<LoadThread>) -> anyhow::Result<Histogram<u64>> {
    let mut merged = load::histogram();
    while let Some(thread) = threads.pop() {
        while !thread.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let latencies = thread.join().map_err(|_| anyhow!("a load thread panicked"))??;
        merged.add(latencies).context("histograms of one shape")?;
    }
    Ok(merged)
}

fn assemble(
    arguments: &BenchArguments,
    cluster: &RunningCluster,
    start: &Mark,
    end: &Mark,
    latencies: &Histogram<u64>,
    progress: &Progress,
    verdict: &Roots,
) -> BenchReport {
    let seconds = (end.at - start.at).as_secs_f64();
    let operations = end.operations - start.operations;
    let per_operation = |value: f64| if operations == 0 { 0.0 } else { value / operations as f64 };
    let client_cpu = end.client_cpu.saturating_sub(start.client_cpu);
    let said = |word: fn(&ReplicaReport) -> &str| {
        let mut words: Vec<_> = end.reports.iter().map(word).collect();
        words.dedup();
        words.join(", ")
    };
    let kernel = rustix::system::uname();
    BenchReport {
        throughput_ops_s: operations as f64 / seconds,
        operations,
        errors: progress.errors(),
        latency_us: LatencyMicroseconds::of(latencies),
        cluster: ClusterCosts::between(&start.reports, &end.reports, operations),
        client: ClientCosts { cpu_us_per_op: per_operation(client_cpu.as_secs_f64() * 1e6) },
        roots_equal: matches!(verdict, Roots::Equal { .. }),
        durability: said(|report| &report.durability),
        security: said(|report| &report.security),
        replicas: cluster.config.members().len(),
        faults: cluster.config.quorums().faults,
        view_changes: view_changes(&start.reports, &end.reports),
        seconds,
        load: "closed loop",
        version: env!("CARGO_PKG_VERSION"),
        kernel: format!("{} {}", kernel.sysname().to_string_lossy(), kernel.release().to_string_lossy()),
        cpus: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        seed: arguments.seed,
        flags: arguments.clone(),
    }
}

fn judge(report: BenchReport, progress: &Progress, verdict: &Roots, lines: &str) -> Verdict {
    let mut problems = Vec::new();
    if report.errors > 0 {
        let first = progress.first_error().unwrap_or_default();
        problems.push(format!("{} operations failed; the first: {first}", report.errors));
    }
    if report.operations == 0 {
        problems.push("no operation was completed in the measured time".to_owned());
    }
    let replicas = report.replicas;
    let roots = match verdict {
        Roots::Equal { seq, root } => format!("all {replicas} roots are equal at seq {seq}: {root}"),
        Roots::Different => format!("the replicas hold DIFFERENT states:{lines}"),
        Roots::Unknown => {
            format!("the replicas did not come to the same seq, so roots are not comparable:{lines}")
        }
    };
    if !report.roots_equal {
        problems.push("the roots are not all equal".to_owned());
    }
    Verdict { report, problems, roots }
}

#[cfg(test)]
mod tests;
