//! Starting the cores of a replica, and stopping them.

use crate::config::{Durability, NodeConfig};
use crate::data_directory::{self, DataDirectory, DirectoryError, Role};
use crate::disk::{Disk, LogPlace};
use crate::driver::Driver;
use crate::dump::Dumper;
use crate::hasher::Hasher;
use crate::log_driver::{LogSetup, segment_bytes};
use crate::log_error::LogError;
use crate::segment_files::{self, Opening};
use crate::shared::Shared;
use crate::space::Limits;
use crate::sync_probe::{self, DiskReport};
use quorate_journal::Scan;
use quorate_reactor::{FileSync, Mailbox, ReactorError, Signal, Waker, mailbox, signals};
use quorate_replica::Layout;
use quorate_replica::mail::Mail;
use quorate_types::CoreId;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use thiserror::Error;
use tracing::{error, info, warn};

/// The signals that a replica heeds; blocked in all threads, read on the first core.
const SIGNALS: [Signal; 3] = [Signal::Interrupt, Signal::Terminate, Signal::User1];

/// Why a replica did not start, or did not go on.
#[derive(Debug, Error)]
pub enum StartError {
    /// A core could not be set up, or its ring failed.
    #[error(transparent)]
    Reactor(#[from] ReactorError),
    /// The data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The disk of the data directory does not take writes.
    #[error("{path}: cannot write to the disk: {source}; check its space and its rights", path = path.display())]
    Disk {
        /// The data directory.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A write to the log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// There is data that this version cannot go on with.
    #[error("{path}: {problem}", path = path.display())]
    Recovery {
        /// The data directory.
        path: PathBuf,
        /// What, and the remedy.
        problem: String,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}; raise the limit of processes")]
    Thread(std::io::Error),
}

/// How a replica ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was told to stop.
    Stopped,
    /// Going on would not have been safe.
    Halted(String),
}

/// What a core's thread tells the starting one, and what it waits for.
type Ready = Result<Waker, StartError>;

/// Runs a replica until SIGINT or SIGTERM; SIGUSR1 has it write its histograms. `on_ready` is called once every core listens.
pub fn run(config: NodeConfig, on_ready: impl FnOnce()) -> Result<Outcome, StartError> {
    signals::block(&SIGNALS)?;
    // A write that is not allowed is to fail, so that it is told.
    signals::block(&[Signal::FileSize])?;
    if let Err(error) = quorate_reactor::refuse_huge_pages() {
        warn!("the kernel may make huge pages of this process's memory, and pause it for that: {error}");
    }
    let data = data_directory::open_or_learn(&config.data_directory, &config.cluster, config.replica)?;
    check_role(&data)?;
    let disk = sync_probe::probe(data.path())
        .map_err(|source| StartError::Disk { path: data.path().to_owned(), source })?;
    // Those of this run are there from here on.
    for core in config.core_ids() {
        data.log(core)?;
    }
    let mut scans = read_logs(&data, config.durability)?;
    let config = Arc::new(config);
    let shared = Arc::new(Shared::new(&config.cluster, config.cores.len()));
    let limits =
        Limits { journal_bytes_max: config.journal_bytes_max, free_bytes_min: config.free_bytes_min };
    let files = Disk::start(&shared, data.path(), limits).map_err(StartError::Thread)?;
    let incarnation = fresh_incarnation();
    let mut threads = Vec::new();
    let (hasher, hashing) = Hasher::start().map_err(StartError::Thread)?;
    let mut hasher = Some(hasher);
    let execution = Layout::new(&config.cluster, config.cores.len()).execution();
    for (core, mailbox) in config.core_ids().zip(mailbox::mesh::<Mail>(config.cores.len())) {
        let hasher = if core == execution { hasher.take() } else { None };
        let scan = scans.remove(&core).expect("invariant: each core has a directory, and all were read");
        let log = set_up_log(&config, &data, &files, &disk, core, scan)?;
        threads.push(CoreThread::start(&config, &shared, core, mailbox, hasher, log, incarnation)?);
    }
    let wakers: Result<Vec<Waker>, StartError> = threads
        .iter()
        .map(|thread| thread.ready.recv().expect("invariant: a core reports before its thread ends"))
        .collect();
    let wakers = match wakers {
        Ok(wakers) => wakers,
        Err(error) => {
            shared.request_stop();
            drop(threads);
            return Err(error);
        }
    };
    info!(
        replica = config.replica.0,
        cores = config.cores.len(),
        clients = %config.client_address(),
        durability = config.durability.name(),
        security = config.security,
        "replica is ready"
    );
    match config.durability {
        Durability::Sync => disk.tell(data.path()),
        Durability::Async => warn!(
            "durability = \"async\": no write waits for the disk, so the loss of power of more than f machines may cost \
             what was acknowledged last"
        ),
    }
    let dumper = Dumper::start(&shared, config.replica, config.histograms.clone());
    let dumper = dumper.inspect_err(|error| warn!("there will be no dumps of histograms: {error}")).ok();
    on_ready();
    for thread in &threads {
        let _ = thread.go.send(wakers.clone());
    }
    let mut failure = None;
    for thread in threads {
        if let Err(error) = thread.join() {
            error!("{error}");
            failure = Some(error);
        }
    }
    files.finish();
    hashing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    if let Some(dumper) = dumper {
        dumper.finish();
    }
    match (failure, shared.halted()) {
        (Some(error), _) => Err(error),
        (None, Some(reason)) => Ok(Outcome::Halted(reason.to_owned())),
        (None, None) => Ok(Outcome::Stopped),
    }
}

/// A learner's core does not exist yet; one that votes must not run on its directory.
fn check_role(data: &DataDirectory) -> Result<(), StartError> {
    match data.role() {
        Role::Founding => Ok(()),
        Role::Learner { reason } => Err(StartError::Recovery {
            path: data.path().to_owned(),
            problem: format!(
                "the replica may cast no votes ({reason}), and this version cannot run one that casts none; start it on \
                 the directory that it had"
            ),
        }),
    }
}

/// Reads what earlier runs have left in the logs of all cores, which may have been more than there are now.
fn read_logs(data: &DataDirectory, durability: Durability) -> Result<BTreeMap<CoreId, Scan>, StartError> {
    let mut scans = BTreeMap::new();
    for (core, directory) in data.logs()? {
        let sync = durability == Durability::Sync;
        let scan = segment_files::read_log(&directory, data.log_identity(core), sync)
            .map_err(|source| StartError::Disk { path: directory.clone(), source })?;
        if !scan.is_empty() {
            return Err(StartError::Recovery {
                path: directory,
                problem: "the log holds records of an earlier run, and this version cannot go on from them; move the \
                          data directory away and make a new one with `quorate format`, for all replicas alike"
                    .to_owned(),
            });
        }
        scans.insert(core, scan);
    }
    Ok(scans)
}

fn set_up_log(
    config: &NodeConfig,
    data: &DataDirectory,
    files: &Disk,
    disk: &DiskReport,
    core: CoreId,
    scan: Scan,
) -> Result<LogSetup, StartError> {
    let (sync, opening) = match config.durability {
        Durability::Sync => (disk.choice(), Opening::Direct),
        Durability::Async => (FileSync::None, Opening::Buffered),
    };
    let segment_bytes = segment_bytes(config.journal_bytes_max, config.cores.len());
    let maker = files.maker(LogPlace { directory: data.log(core)?, segment_bytes, opening });
    Ok(LogSetup { identity: data.log_identity(core), scan, sync, maker })
}

struct CoreThread {
    ready: mpsc::Receiver<Ready>,
    go: mpsc::Sender<Vec<Waker>>,
    handle: JoinHandle<Result<(), StartError>>,
}

impl CoreThread {
    /// Sets a core up on its own thread; it runs once it is given the wakers of all.
    fn start(
        config: &Arc<NodeConfig>,
        shared: &Arc<Shared>,
        core: CoreId,
        mailbox: Mailbox<Mail>,
        hasher: Option<Hasher>,
        log: LogSetup,
        incarnation: u64,
    ) -> Result<Self, StartError> {
        let (report, ready) = mpsc::channel();
        let (go, started) = mpsc::channel::<Vec<Waker>>();
        let (config, shared) = (Arc::clone(config), Arc::clone(shared));
        let body = move || {
            let mut driver = match Driver::new(config, shared, core, mailbox, hasher, log, incarnation) {
                Ok(driver) => driver,
                Err(error) => {
                    let _ = report.send(Err(error.into()));
                    return Ok(());
                }
            };
            if core.index() == 0
                && let Err(error) = driver.watch_signals(&SIGNALS)
            {
                let _ = report.send(Err(error.into()));
                return Ok(());
            }
            let _ = report.send(Ok(driver.waker()));
            let Ok(wakers) = started.recv() else { return Ok(()) };
            driver.set_others(wakers);
            driver.run()
        };
        let name = format!("core-{core}");
        let handle = std::thread::Builder::new().name(name).spawn(body).map_err(StartError::Thread)?;
        Ok(Self { ready, go, handle })
    }

    fn join(self) -> Result<(), StartError> {
        self.handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// A number that no other run of this replica has.
fn fresh_incarnation() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("invariant: the kernel's random source does not fail");
    u64::from_le_bytes(bytes)
}
