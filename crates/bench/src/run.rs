//! The course of a run: start, connect, warm up, measure, drain, compare roots, stop.

use crate::BenchArguments;
use crate::cluster::{Launch, RunningCluster};
use crate::control::{Census, Contents};
use crate::cost::{ClusterCosts, pairs};
use crate::display::Display;
use crate::files::{Files, write_json};
use crate::findings::{Evidence, Findings, Mark, Missed, judge};
use crate::load::{self, CONNECT_DEADLINE, LoadThread};
use crate::progress::{Phase, Progress};
use crate::recorder::Slice;
use crate::report::Verdict;
use crate::series::{IntervalLog, Row, Series};
use anyhow::{Context, anyhow, bail};
use quorate_client::{Client, ClientOptions};
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the display is refreshed and the threads are looked after.
const TICK: Duration = Duration::from_millis(100);
/// How long replicas may take to be there when the measuring begins.
const START_PATIENCE: Duration = Duration::from_secs(3);
/// How long they may take to report at the start and end of a run.
const MARK_PATIENCE: Duration = Duration::from_secs(10);
/// How long they may take at the end of an interval: not so long that the next one is late.
const INTERVAL_PATIENCE: Duration = Duration::from_millis(300);
/// After so long without an answer a report counts as not given, and the next may be asked for.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// The results of a run, which the caller prints; progress goes to standard error. Errors are those that
/// leave nothing to report; everything else that went wrong is in the verdict. Blocks the calling thread for the
/// whole run.
pub fn run(arguments: &BenchArguments, launch: Launch<'_>) -> anyhow::Result<Verdict> {
    arguments.check()?;
    let arguments = arguments.resolved();
    if let Some(path) = &arguments.json {
        // Before minutes are spent on results that could not be written.
        std::fs::write(path, "").with_context(|| format!("--json: cannot write {}", path.display()))?;
    }
    let files = arguments.load.out.as_deref().map(Files::create).transpose()?;
    let log = files.as_ref().map(Files::interval_log).transpose()?;
    let cluster = RunningCluster::open(&arguments.load, launch)?;
    let outcome = load_cluster(&arguments, &cluster, log);
    let stopped = cluster.stop();
    let mut findings = outcome?;
    findings.note_stopped(&stopped);
    if let Some(path) = &arguments.json {
        write_json(path, &findings.verdict.report)?;
    }
    if let Some(files) = files {
        files.write(&findings)?;
    }
    Ok(findings.verdict)
}

/// Loads a cluster once with what the arguments say, and leaves it running.
pub(crate) fn load_cluster(
    arguments: &BenchArguments,
    cluster: &RunningCluster,
    log: IntervalLog,
) -> anyhow::Result<Findings> {
    let progress = Arc::new(Progress::new());
    let (sender, slices) = channel();
    let threads = load::start(arguments, cluster, &progress, &sender)?;
    drop(sender);
    tokio_uring::start(control(arguments, cluster, &progress, threads, slices, log))
}

fn cpu_time() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap_or_default()
}

async fn control(
    arguments: &BenchArguments,
    cluster: &RunningCluster,
    progress: &Arc<Progress>,
    threads: Vec<LoadThread>,
    slices: Receiver<Slice>,
    log: IntervalLog,
) -> anyhow::Result<Findings> {
    let options = ClientOptions {
        connect_deadline: CONNECT_DEADLINE,
        answer_deadline: ANSWER_DEADLINE,
        ..ClientOptions::default()
    };
    let client = Client::connect(Arc::clone(&cluster.config), cluster.key(0).clone(), options).await?;
    let load = &arguments.load;
    let controller = Controller {
        arguments,
        progress,
        census: Census::new(&client, cluster.config.replica_ids().collect()),
        threads,
        series: Series::new(slices, load.threads, load.bundle, arguments.runs, log),
        missed: vec![Missed::default(); cluster.config.members().len()],
    };
    let result = controller.measure(cluster).await;
    // Also after an error: threads that go on would load a cluster that is being stopped.
    progress.enter(Phase::Drain);
    client.close().await;
    result
}

/// When the interval after `elapsed` ends, and whether it is the last of its run. Ends that have passed while
/// replicas were asked are left out, and a row that would be shorter than half of the others is part of the one
/// before.
fn next_end(elapsed: Duration, interval: f64, duration: f64) -> (Duration, bool) {
    let end = ((elapsed.as_secs_f64() / interval).floor() + 1.0) * interval;
    let last = end > duration - 0.5 * interval;
    (Duration::from_secs_f64(if last { duration } else { end }), last)
}

struct Controller<'a> {
    arguments: &'a BenchArguments,
    progress: &'a Progress,
    census: Census,
    threads: Vec<LoadThread>,
    series: Series,
    /// How often each replica did not report at the end of an interval.
    missed: Vec<Missed>,
}

impl Controller<'_> {
    async fn measure(mut self, cluster: &RunningCluster) -> anyhow::Result<Findings> {
        self.wait_for_clients().await?;
        self.progress.begin();
        let warmup = Duration::from_secs_f64(self.arguments.load.warmup);
        let began = Instant::now();
        // Those that are still connecting come meanwhile.
        self.census.ask_until_all(Contents::Costs, START_PATIENCE).await;
        self.load_until(began + warmup, &mut self.display("warm-up".to_owned(), warmup)).await?;

        let mut marks = vec![self.mark(Contents::Histograms).await];
        for run in 1..=self.arguments.runs {
            let mark = self.run_once(run, &marks).await?;
            marks.push(mark);
        }
        self.progress.enter(Phase::Drain);

        self.join().await?;
        let (roots, answers) = self.census.roots().await;
        let evidence = Evidence {
            arguments: self.arguments,
            quorums: cluster.config.quorums(),
            progress: self.progress,
            marks: &marks,
            missed: &self.missed,
            roots,
            answers,
        };
        Ok(judge(&evidence, self.series.finish()?))
    }

    /// All clients are connected, or one has failed.
    async fn wait_for_clients(&mut self) -> anyhow::Result<()> {
        while self.progress.connected() < self.arguments.load.clients {
            self.look_after()?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Ends an interval and asks all replicas what they have spent so far.
    async fn mark(&mut self, contents: Contents) -> Mark {
        let at = self.progress.end_interval();
        let (operations, errors) = (self.progress.operations(), self.progress.errors());
        let client_cpu = cpu_time();
        let reports = match contents {
            Contents::Histograms => self.census.ask_until_all(contents, MARK_PATIENCE).await,
            _ => {
                let half = Duration::from_secs_f64(self.arguments.load.interval / 2.0);
                self.census.ask(contents, INTERVAL_PATIENCE.min(half)).await
            }
        };
        Mark { at, operations, errors, client_cpu, reports }
    }

    /// One run, from the last of the marks on; gives the mark at its end.
    async fn run_once(&mut self, run: usize, marks: &[Mark]) -> anyhow::Result<Mark> {
        let first = &marks[0];
        let start = &marks[marks.len() - 1];
        let length = Duration::from_secs_f64(self.arguments.load.duration);
        let name = match self.arguments.runs {
            1 => "measuring".to_owned(),
            runs => format!("run {run} of {runs}"),
        };
        let mut display = self.display(name, length);
        let mut last: Option<Mark> = None;
        loop {
            let load = &self.arguments.load;
            let (end, of_run) = next_end(start.at.elapsed(), load.interval, load.duration);
            self.load_until(start.at + end, &mut display).await?;
            let contents = if of_run { Contents::Histograms } else { Contents::Costs };
            let mark = self.mark(contents).await;
            let row = row(run, first, last.as_ref().unwrap_or(start), &mark);
            self.series.push(row, of_run && run == self.arguments.runs);
            for (missed, answer) in self.missed.iter_mut().zip(&mark.reports) {
                missed.note(answer);
            }
            if of_run {
                return Ok(mark);
            }
            last = Some(mark);
        }
    }

    fn display(&self, name: String, length: Duration) -> Display {
        let interval = Duration::from_secs_f64(self.arguments.load.interval);
        Display::start(name, length, interval, self.progress.operations())
    }

    async fn load_until(&mut self, end: Instant, display: &mut Display) -> anyhow::Result<()> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            tokio::time::sleep(left.min(TICK)).await;
            self.look_after()?;
            self.series.collect()?;
            display.show(self.progress.operations(), &self.remark());
        }
    }

    /// What the last row says besides throughput.
    fn remark(&self) -> String {
        let Some(row) = self.series.latest() else { return String::new() };
        let latency = crate::format::duration(row.response_us.p99);
        match (self.arguments.rate, row.backlog) {
            (None, _) => format!(", p99 {latency}"),
            (Some(_), 0) => format!(", p99 {latency} from the intended start"),
            (Some(_), backlog) => {
                format!(", p99 {latency} from the intended start, {backlog} wait to be sent")
            }
        }
    }

    /// A thread that has ended before the load did has failed.
    fn look_after(&mut self) -> anyhow::Result<()> {
        match self.threads.iter().position(JoinHandle::is_finished) {
            None => Ok(()),
            Some(index) => match self.threads.swap_remove(index).join() {
                Ok(Ok(())) => bail!("a load thread ended before the load did"),
                Ok(Err(error)) => Err(error.context("a client failed")),
                Err(_) => bail!("a load thread panicked"),
            },
        }
    }

    /// Waits until all threads have drained.
    async fn join(&mut self) -> anyhow::Result<()> {
        while let Some(thread) = self.threads.pop() {
            while !thread.is_finished() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            thread.join().map_err(|_| anyhow!("a load thread panicked"))?.context("a client failed")?;
        }
        Ok(())
    }
}

fn row(run: usize, first: &Mark, start: &Mark, end: &Mark) -> Row {
    let operations = end.operations - start.operations;
    let reporting = pairs(&start.reports, &end.reports).count();
    Row {
        run,
        start_s: (start.at - first.at).as_secs_f64(),
        seconds: (end.at - start.at).as_secs_f64(),
        operations,
        errors: end.errors - start.errors,
        cluster: ClusterCosts::between(&start.reports, &end.reports, operations),
        reporting,
        ..Row::default()
    }
}

#[cfg(test)]
mod tests;
