//! Starting the cores of a replica, and stopping them.

use crate::checkpointer::Checkpointer;
use crate::config::{Durability, NodeConfig};
use crate::data_directory::{self, DataDirectory, DirectoryError};
use crate::disk::{Disk, LogPlace};
use crate::driver::{CoreParts, Driver};
use crate::dump::Dumper;
use crate::log_driver::{LogSetup, segment_bytes};
use crate::log_error::LogError;
use crate::log_reader::ReaderThread;
use crate::page_folder::{FolderError, PageFolder};
use crate::recover::{self, Beginning, recover};
use crate::segment_files::Opening;
use crate::shared::Shared;
use crate::space::Limits;
use crate::sync_probe::{self, DiskReport};
use quorate_journal::Scan;
use quorate_reactor::{FileSync, ReactorError, Signal, Waker, mailbox, signals};
use quorate_replica::mail::Mail;
use quorate_replica::{Core, Layout, ReplicaSetup};
use quorate_types::CoreId;
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
    /// The page files cannot be read or written.
    #[error(transparent)]
    Pages(#[from] FolderError),
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
    let mut data = open_directory(&config)?;
    let disk = sync_probe::probe(data.path())
        .map_err(|source| StartError::Disk { path: data.path().to_owned(), source })?;
    // Those of this run are there from here on.
    for core in config.core_ids() {
        data.log(core)?;
    }
    let setup = ReplicaSetup {
        config: Arc::clone(&config.cluster),
        me: config.replica,
        key: config.key.clone(),
        cores: config.cores.len(),
    };
    let mut folder = PageFolder::open(&data.pages(), config.durability == Durability::Sync)?;
    let Beginning { mut recovery, mut scans, store } = recover(&config, &setup, &mut data, &mut folder)?;
    let config = Arc::new(config);
    let shared = Arc::new(Shared::new(&config.cluster, config.cores.len()));
    let limits =
        Limits { journal_bytes_max: config.journal_bytes_max, free_bytes_min: config.free_bytes_min };
    let files = Disk::start(&shared, data.path(), limits).map_err(StartError::Thread)?;
    let reading = ReaderThread::start().map_err(StartError::Thread)?;
    let mut threads = Vec::new();
    let (checkpointer, writing) = Checkpointer::start(folder, store).map_err(StartError::Thread)?;
    let mut checkpointer = Some(checkpointer);
    let execution = Layout::new(&config.cluster, config.cores.len()).execution();
    for (id, mailbox) in config.core_ids().zip(mailbox::mesh::<Mail>(config.cores.len())) {
        let core = Core::recover(&setup, id, &mut recovery);
        let checkpointer = if id == execution { checkpointer.take() } else { None };
        let scan = scans.remove(&id).expect("invariant: each core has a directory, and all were read");
        let log = set_up_log(&config, &data, (&files, &reading), &disk, id, scan)?;
        let parts = CoreParts { id, core, mailbox, checkpointer, log };
        threads.push(CoreThread::start(&config, &shared, parts)?);
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
    reading.finish();
    writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    if let Some(dumper) = dumper {
        dumper.finish();
    }
    match (failure, shared.halted()) {
        (Some(error), _) => Err(error),
        (None, Some(reason)) => Ok(Outcome::Halted(reason.to_owned())),
        (None, None) => Ok(Outcome::Stopped),
    }
}

/// Opens the data directory. Where a cluster began with the state of a backup, a learner needs that state too, so that
/// it cannot be made here.
fn open_directory(config: &NodeConfig) -> Result<DataDirectory, StartError> {
    let (path, cluster) = (&config.data_directory, &config.cluster);
    if cluster.genesis_root().is_some()
        && let Err(reason) = data_directory::examine(path, cluster, config.replica)?
    {
        return Err(recover::no_beginning(path, &reason));
    }
    Ok(data_directory::open_or_learn(path, cluster, config.replica)?)
}

fn set_up_log(
    config: &NodeConfig,
    data: &DataDirectory,
    (files, reading): (&Disk, &ReaderThread),
    disk: &DiskReport,
    core: CoreId,
    scan: Scan,
) -> Result<LogSetup, StartError> {
    let (sync, opening) = match config.durability {
        Durability::Sync => (disk.choice(), Opening::Direct),
        Durability::Async => (FileSync::None, Opening::Buffered),
    };
    let segment_bytes = segment_bytes(config.journal_bytes_max, config.cores.len());
    let directory = data.log(core)?;
    let reader = reading.reader(&directory);
    let maker = files.maker(LogPlace { directory, segment_bytes, opening });
    Ok(LogSetup { identity: data.log_identity(core), scan, sync, maker, reader })
}

struct CoreThread {
    ready: mpsc::Receiver<Ready>,
    go: mpsc::Sender<Vec<Waker>>,
    handle: JoinHandle<Result<(), StartError>>,
}

impl CoreThread {
    /// Sets a core up on its own thread; it runs once it is given the wakers of all.
    fn start(config: &Arc<NodeConfig>, shared: &Arc<Shared>, parts: CoreParts) -> Result<Self, StartError> {
        let (report, ready) = mpsc::channel();
        let (go, started) = mpsc::channel::<Vec<Waker>>();
        let (config, shared, core) = (Arc::clone(config), Arc::clone(shared), parts.id);
        let body = move || {
            let mut driver = match Driver::new(config, shared, parts) {
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
