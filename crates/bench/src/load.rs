//! The clients that load the cluster: tasks on a few threads, each a closed loop.

use crate::BenchArguments;
use crate::cluster::RunningCluster;
use crate::workload::Workload;
use anyhow::Context;
use hdrhistogram::Histogram;
use quorate_client::{Client, ClientError, ClientOptions, Completion, Pending};
use quorate_types::{ArchivedOperationResult, ClusterConfig, OperationError, ReplicaId, SigningKey};
use quorate_wire::reply::access_results;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a local cluster may take to start, and any cluster to accept the clients.
pub(crate) const CONNECT_DEADLINE: Duration = Duration::from_secs(30);
/// How long open bundles may take after the load has ended.
const DRAIN_DEADLINE: Duration = Duration::from_secs(15);
/// How often a client that waits for a bundle looks whether the load has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// The longest latency that is told from longer ones, in nanoseconds.
const LATENCY_MAX_NS: u64 = 600 * 1_000_000_000;

/// What the clients do at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Those that are connected wait for the others.
    Connect,
    /// They load.
    Warmup,
    /// They load, and latencies are recorded.
    Measure,
    /// They submit nothing more and wait for what is open.
    Drain,
}

/// What the threads and their controller share.
#[derive(Debug)]
pub(crate) struct Progress {
    phase: AtomicU8,
    connected: AtomicUsize,
    operations: AtomicU64,
    errors: AtomicU64,
    first_error: Mutex<Option<String>>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            phase: AtomicU8::new(Phase::Connect as u8),
            connected: AtomicUsize::new(0),
            operations: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            first_error: Mutex::new(None),
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    fn is(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Relaxed) == phase as u8
    }

    /// How many clients are connected.
    pub(crate) fn connected(&self) -> usize {
        self.connected.load(Ordering::Relaxed)
    }

    /// How many operations are complete, from the first on.
    pub(crate) fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }

    /// How many operations failed or have an unknown outcome.
    pub(crate) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// What the first error said.
    pub(crate) fn first_error(&self) -> Option<String> {
        self.first_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fail(&self, operations: usize, why: impl FnOnce() -> String) {
        self.errors.fetch_add(operations as u64, Ordering::Relaxed);
        let mut first = self.first_error.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(why);
    }
}

/// An empty histogram of latencies in nanoseconds, exact to three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("invariant: the bounds are constant and valid")
}

/// One client's part.
#[derive(Debug)]
struct Job {
    config: Arc<ClusterConfig>,
    key: SigningKey,
    home: ReplicaId,
    depth: usize,
    bundle: usize,
    workload: Workload,
}

/// Starts the threads; each gives the latencies of its clients, merged.
pub(crate) fn start(
    arguments: &BenchArguments,
    cluster: &RunningCluster,
    progress: &Arc<Progress>,
) -> anyhow::Result<Vec<JoinHandle<anyhow::Result<Histogram<u64>>>>> {
    let replicas = cluster.config.members().len();
    let mut jobs: Vec<Vec<Job>> = (0..arguments.threads).map(|_| Vec::new()).collect();
    for client in 0..arguments.clients {
        jobs[client % arguments.threads].push(Job {
            config: Arc::clone(&cluster.config),
            key: cluster.key(client).clone(),
            home: ReplicaId(u8::try_from(client % replicas).expect("invariant: at most REPLICAS_MAX")),
            depth: arguments.depth,
            bundle: arguments.bundle,
            workload: Workload::new(arguments, client),
        });
    }
    let start = |(index, jobs): (usize, Vec<Job>)| {
        let progress = Arc::clone(progress);
        std::thread::Builder::new()
            .name(format!("load-{index}"))
            .spawn(move || tokio_uring::start(run_jobs(jobs, progress)))
            .context("cannot start a thread")
    };
    jobs.into_iter().enumerate().map(start).collect()
}

async fn run_jobs(jobs: Vec<Job>, progress: Arc<Progress>) -> anyhow::Result<Histogram<u64>> {
    let tasks: Vec<_> =
        jobs.into_iter().map(|job| tokio_uring::spawn(run_job(job, Arc::clone(&progress)))).collect();
    let mut merged = histogram();
    for task in tasks {
        merged.add(task.await.context("a client task failed")??).context("histograms of one shape")?;
    }
    Ok(merged)
}

async fn run_job(mut job: Job, progress: Arc<Progress>) -> anyhow::Result<Histogram<u64>> {
    let options =
        ClientOptions { home: job.home, connect_deadline: CONNECT_DEADLINE, ..ClientOptions::default() };
    let client = Client::connect(Arc::clone(&job.config), job.key.clone(), options).await?;
    progress.connected.fetch_add(1, Ordering::Relaxed);
    while progress.is(Phase::Connect) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let latencies = load(&client, &mut job, &progress).await;
    client.close().await;
    latencies
}

/// Keeps `depth` bundles open until the load ends. The oldest is awaited first: bundles of a session are
/// executed in order, so that the others are complete hardly ever before it.
async fn load(client: &Client, job: &mut Job, progress: &Progress) -> anyhow::Result<Histogram<u64>> {
    let mut latencies = histogram();
    let mut open: VecDeque<(Instant, Pending)> = VecDeque::with_capacity(job.depth);
    let mut draining: Option<Instant> = None;
    loop {
        if progress.is(Phase::Drain) {
            draining.get_or_insert_with(Instant::now);
        }
        while draining.is_none() && open.len() < job.depth {
            let operations = job.workload.next();
            let submitted = Instant::now();
            open.push_back((submitted, client.submit(operations)?));
        }
        let Some((submitted, pending)) = open.front_mut() else { return Ok(latencies) };
        if let Ok(completion) = tokio::time::timeout(LOOK_INTERVAL, pending).await {
            let nanoseconds = u64::try_from(submitted.elapsed().as_nanos()).unwrap_or(u64::MAX);
            open.pop_front();
            if note(completion, job.bundle, progress) && progress.is(Phase::Measure) {
                latencies.saturating_record(nanoseconds.max(1));
            }
        } else if draining.is_some_and(|since| since.elapsed() > DRAIN_DEADLINE) {
            let bundles = open.len();
            progress.fail(bundles * job.bundle, || {
                let seconds = DRAIN_DEADLINE.as_secs();
                format!(
                    "{bundles} bundles of one client had no agreed answer {seconds} s after the load ended"
                )
            });
            return Ok(latencies);
        }
    }
}

/// Counts a bundle's operations as done or failed; says whether all were done.
fn note(completion: Result<Completion, ClientError>, bundle: usize, progress: &Progress) -> bool {
    let results = match completion {
        Ok(Completion { results: Some(results), .. }) => results,
        Ok(Completion { number, seq, results: None }) => {
            progress.fail(bundle, || ClientError::ResultsGone { number, seq }.to_string());
            return false;
        }
        Err(error) => {
            progress.fail(bundle, || error.to_string());
            return false;
        }
    };
    match count_failed(&results, bundle) {
        (0, _) => {
            progress.operations.fetch_add(bundle as u64, Ordering::Relaxed);
            true
        }
        (failed, why) => {
            progress.fail(failed, || why.unwrap_or_else(|| "the results do not match the bundle".to_owned()));
            false
        }
    }
}

/// How many operations of a bundle failed, and why the first did.
fn count_failed(results: &[u8], bundle: usize) -> (usize, Option<String>) {
    let Ok(results) = access_results(results) else { return (bundle, None) };
    let failed = results.iter().filter(|result| matches!(result, ArchivedOperationResult::Error(_))).count();
    if failed == 0 && results.len() == bundle {
        return (0, None);
    }
    let first = results.iter().find_map(|result| match result {
        ArchivedOperationResult::Error(error) => {
            rkyv::deserialize::<OperationError, rkyv::rancor::Failure>(error).ok()
        }
        _ => None,
    });
    (failed.max(1), first.map(|error| error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::{BundleNumber, OperationResult, Seq};

    fn completion(results: Vec<OperationResult>) -> Result<Completion, ClientError> {
        let results = rkyv::to_bytes::<rkyv::rancor::Failure>(&results).unwrap();
        Ok(Completion { number: BundleNumber(1), seq: Seq(2), results: Some(Arc::from(&results[..])) })
    }

    #[test]
    fn only_bundles_whose_operations_all_worked_count() {
        let progress = Progress::new();
        let done = OperationResult::Written { version: 3 };
        let failed = OperationResult::Error(OperationError::NotAnInteger);
        assert!(note(completion(vec![done.clone(); 3]), 3, &progress));
        assert_eq!((progress.operations(), progress.errors(), progress.first_error()), (3, 0, None));
        assert!(!note(completion(vec![done.clone(), failed.clone(), failed]), 3, &progress));
        assert_eq!((progress.operations(), progress.errors()), (3, 2));
        assert!(progress.first_error().unwrap().contains("not an integer"));
        assert!(!note(completion(vec![done]), 3, &progress));
        assert_eq!(progress.errors(), 3);
        assert!(!note(Err(ClientError::Closed), 3, &progress));
        let gone = Completion { number: BundleNumber(1), seq: Seq(2), results: None };
        assert!(!note(Ok(gone), 3, &progress));
        assert_eq!((progress.operations(), progress.errors()), (3, 9));
    }

    #[test]
    fn histograms_of_clients_merge_without_loss() {
        let mut merged = histogram();
        for client in 1..=4u64 {
            let mut latencies = histogram();
            for step in 1..=250 {
                latencies.saturating_record(1000 * (250 * (client - 1) + step));
            }
            latencies.saturating_record(u64::MAX);
            merged.add(latencies).unwrap();
        }
        assert_eq!(merged.len(), 1004);
        let median = merged.value_at_quantile(0.5);
        assert!((500_000..504_000).contains(&median), "{median}");
        assert!(merged.max() >= LATENCY_MAX_NS);
    }

    #[test]
    fn phases_are_seen_by_their_number_alone() {
        let progress = Progress::new();
        for phase in [Phase::Connect, Phase::Warmup, Phase::Measure, Phase::Drain] {
            progress.enter(phase);
            assert!(progress.is(phase));
        }
    }
}
