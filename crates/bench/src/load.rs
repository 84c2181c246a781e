//! The clients that load the cluster: tasks on a few threads.
//!
//! In a closed loop a client keeps as many bundles open as it may. In an open one it sends each bundle when it
//! is due, or as soon as there is room: what is due is never skipped.

use crate::BenchArguments;
use crate::cluster::RunningCluster;
use crate::pacer::Pacer;
use crate::progress::{Phase, Progress};
use crate::recorder::{Recorder, Slice};
use crate::schedule::Schedule;
use crate::workload::Workload;
use anyhow::Context as _;
use quorate_client::{Client, ClientError, ClientOptions, Completion, Pending};
use quorate_types::{ArchivedOperationResult, ClusterConfig, OperationError, ReplicaId, SigningKey};
use quorate_wire::reply::access_results;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a local cluster may take to start, and any cluster to accept the clients.
pub(crate) const CONNECT_DEADLINE: Duration = Duration::from_secs(30);
/// How long open bundles may take after the load has ended.
const DRAIN_DEADLINE: Duration = Duration::from_secs(15);
/// How often a client that waits looks whether the load has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How often a thread looks whether an interval has ended.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(10);

/// A thread that generates load.
pub(crate) type LoadThread = JoinHandle<anyhow::Result<()>>;

/// One client's part.
#[derive(Debug)]
struct Job {
    config: Arc<ClusterConfig>,
    key: SigningKey,
    home: ReplicaId,
    depth: usize,
    bundle: usize,
    workload: Workload,
    /// The number of the client among those of its thread.
    place: usize,
    /// When bundles are due; nothing in a closed loop.
    schedule: Option<Schedule>,
}

/// One thread's part.
#[derive(Debug)]
struct Part {
    thread: usize,
    cpu: Option<usize>,
    jobs: Vec<Job>,
    recorder: Recorder,
    progress: Arc<Progress>,
}

/// What the tasks of one thread share.
#[derive(Debug)]
struct Shared {
    progress: Arc<Progress>,
    recorder: RefCell<Recorder>,
    pacer: Pacer,
}

/// Starts the threads. What they measure comes as slices.
pub(crate) fn start(
    arguments: &BenchArguments,
    cluster: &RunningCluster,
    progress: &Arc<Progress>,
    slices: &Sender<Slice>,
) -> anyhow::Result<Vec<LoadThread>> {
    let load = &arguments.load;
    let start = |thread: usize| {
        let clients = (thread..load.clients).step_by(load.threads);
        let jobs: Vec<_> =
            clients.enumerate().map(|(place, client)| job(arguments, cluster, place, client)).collect();
        let schedules = jobs.iter().filter_map(|job| job.schedule.clone()).collect();
        let recorder = Recorder::new(thread, load.threads, schedules, slices.clone());
        let cpu = load.client_cores.get(thread % load.client_cores.len().max(1)).copied();
        let part = Part { thread, cpu, jobs, recorder, progress: Arc::clone(progress) };
        std::thread::Builder::new()
            .name(format!("load-{thread}"))
            .spawn(move || run_thread(part))
            .context("cannot start a thread")
    };
    (0..load.threads).map(start).collect()
}

fn job(arguments: &BenchArguments, cluster: &RunningCluster, place: usize, client: usize) -> Job {
    let replicas = cluster.config.members().len();
    Job {
        config: Arc::clone(&cluster.config),
        key: cluster.key(client).clone(),
        home: ReplicaId(u8::try_from(client % replicas).expect("invariant: at most REPLICAS_MAX")),
        depth: arguments.depth(),
        bundle: arguments.load.bundle,
        workload: Workload::new(&arguments.load, client),
        place,
        schedule: arguments.arrivals().map(|rate| Schedule::new(&rate, client)),
    }
}

fn run_thread(part: Part) -> anyhow::Result<()> {
    if let Some(cpu) = part.cpu {
        let mut set = CpuSet::new();
        set.set(cpu);
        sched_setaffinity(None, &set).with_context(|| {
            format!("--client-cores: cannot pin load thread {} to CPU {cpu}", part.thread)
        })?;
    }
    tokio_uring::start(run_jobs(part))
}

async fn run_jobs(part: Part) -> anyhow::Result<()> {
    let Part { jobs, recorder, progress, .. } = part;
    let pacer = Pacer::new(jobs.len())?;
    let shared = Rc::new(Shared { progress, recorder: RefCell::new(recorder), pacer });
    let pacing = {
        let shared = Rc::clone(&shared);
        tokio_uring::spawn(async move { shared.pacer.run().await })
    };
    let tasks: Vec<_> =
        jobs.into_iter().map(|job| tokio_uring::spawn(run_job(job, Rc::clone(&shared)))).collect();
    let mut result = Ok(());
    for mut task in tasks {
        let ended = loop {
            if let Ok(ended) = tokio::time::timeout(FOLLOW_INTERVAL, &mut task).await {
                break ended;
            }
            shared.recorder.borrow_mut().follow(&shared.progress);
        };
        result = result.and(ended.context("a client task failed").and_then(|result| result));
    }
    shared.pacer.close();
    result = result.and(pacing.await.context("the task of the schedule failed").and_then(|result| result));
    let shared = Rc::into_inner(shared).expect("invariant: all tasks have ended");
    shared.recorder.into_inner().finish(&shared.progress);
    result
}

async fn run_job(job: Job, shared: Rc<Shared>) -> anyhow::Result<()> {
    let options =
        ClientOptions { home: job.home, connect_deadline: CONNECT_DEADLINE, ..ClientOptions::default() };
    let client = Client::connect(Arc::clone(&job.config), job.key.clone(), options).await?;
    shared.progress.note_connected();
    while shared.progress.is(Phase::Connect) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let open = VecDeque::with_capacity(job.depth);
    let mut load = Load { client: &client, job, shared: &shared, open, room: None };
    let result = load.run().await;
    client.close().await;
    result
}

/// A bundle that is not complete.
#[derive(Debug)]
struct Open {
    /// When it should have been sent.
    due: Instant,
    sent: Instant,
    pending: Pending,
}

/// What a client waits for.
#[derive(Debug)]
enum Event {
    /// The oldest open bundle has ended.
    Ended(Result<Completion, ClientError>),
    /// A bundle is due and there is room.
    Due,
}

/// One client while it loads. The oldest bundle is awaited first: bundles of a session are executed in order,
/// so that the others are complete hardly ever before it.
#[derive(Debug)]
struct Load<'a> {
    client: &'a Client,
    job: Job,
    shared: &'a Shared,
    open: VecDeque<Open>,
    /// When there was room again after there had been none.
    room: Option<Instant>,
}

impl Load<'_> {
    async fn run(&mut self) -> anyhow::Result<()> {
        let mut draining: Option<Instant> = None;
        loop {
            if self.shared.progress.is(Phase::Drain) {
                draining.get_or_insert_with(Instant::now);
            }
            if draining.is_none() {
                self.send_due()?;
            } else if self.open.is_empty() {
                return Ok(());
            }
            match tokio::time::timeout(LOOK_INTERVAL, self.next(draining.is_some())).await {
                Ok(Event::Ended(completion)) => self.note(completion),
                Ok(Event::Due) => {}
                Err(_) if draining.is_some_and(|since| since.elapsed() > DRAIN_DEADLINE) => {
                    self.give_up();
                    return Ok(());
                }
                Err(_) => {}
            }
        }
    }

    /// Sends what is due as long as there is room.
    fn send_due(&mut self) -> anyhow::Result<()> {
        while self.open.len() < self.job.depth {
            let mut due = self.due();
            if due.is_some_and(|due| due > Instant::now()) {
                break;
            }
            let operations = self.job.workload.next();
            let sent = Instant::now();
            let pending = self.client.submit(operations)?;
            if let Some(schedule) = &mut self.job.schedule {
                schedule.advance();
            }
            let due = *due.get_or_insert(sent);
            self.shared.recorder.borrow_mut().sent(due, self.room, sent);
            self.open.push_back(Open { due, sent, pending });
        }
        Ok(())
    }

    /// When the next bundle is due; in a closed loop at once.
    fn due(&self) -> Option<Instant> {
        self.job.schedule.as_ref().map(|schedule| self.shared.progress.began() + schedule.due())
    }

    async fn next(&mut self, draining: bool) -> Event {
        let due = self.due().filter(|_| !draining && self.open.len() < self.job.depth);
        poll_fn(|context| {
            if let Some(open) = self.open.front_mut()
                && let Poll::Ready(completion) = Pin::new(&mut open.pending).poll(context)
            {
                return Poll::Ready(Event::Ended(completion));
            }
            match due {
                Some(due) => self.shared.pacer.poll_until(self.job.place, due, context).map(|()| Event::Due),
                None => Poll::Pending,
            }
        })
        .await
    }

    fn note(&mut self, completion: Result<Completion, ClientError>) {
        let now = Instant::now();
        if self.open.len() == self.job.depth {
            self.room = Some(now);
        }
        let Open { due, sent, .. } = self.open.pop_front().expect("invariant: it was polled");
        let progress = &self.shared.progress;
        // What ends after a closed loop would not have, had it gone on; in an open one it was due before.
        let measured = self.job.schedule.is_some() || progress.is(Phase::Load);
        if note(completion, self.job.bundle, progress) && measured {
            self.shared.recorder.borrow_mut().completed(due, sent, now);
        }
    }

    fn give_up(&self) {
        let bundles = self.open.len();
        self.shared.progress.fail(bundles * self.job.bundle, || {
            let seconds = DRAIN_DEADLINE.as_secs();
            format!("{bundles} bundles of one client had no agreed answer {seconds} s after the load ended")
        });
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
            progress.complete(bundle);
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
}
