//! Starting the cores of a replica, and stopping them.

use crate::checkpointer::Checkpointer;
use crate::config::{Durability, NodeConfig};
use crate::data_directory::{self, DataDirectory, DirectoryError, failed};
use crate::descriptors::{self, Doors, TooFew};
use crate::disk::{Disk, LogPlace};
use crate::driver::{CoreParts, Driver};
use crate::dump::Dumper;
use crate::evidence::{self, FIRST_CORE, boot_id};
use crate::identity::{Identity, Role};
use crate::log_driver::{LogSetup, segment_bytes};
use crate::log_error::LogError;
use crate::log_reader::ReaderThread;
use crate::never_spoken::{self, Mark};
use crate::page_folder::{FolderError, PageFolder};
use crate::recover::{self, Beginning, recover};
use crate::segment_files::Opening;
use crate::shared::Shared;
use crate::space::Limits;
use crate::sync_probe::{self, DiskReport};
use quorate_journal::{Scan, Scanner};
use quorate_reactor::{FileSync, ReactorError, Signal, Waker, mailbox, signals};
use quorate_replica::mail::Mail;
use quorate_replica::{Core, Layout, ReplicaSetup};
use quorate_types::CoreId;
use std::fs::File;
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
    /// It has halted before, and was not told to go on.
    #[error("{path}: {}", evidence::halted(reason), path = path.display())]
    Halted {
        /// The data directory.
        path: PathBuf,
        /// Why it halted.
        reason: String,
    },
    /// Its key was taken into use with another directory.
    #[error(
        "{path}: `quorate init` has made this directory, and the key was taken into use with another one since: {mark} is \
         gone, or names that one. Name that directory in data_dir. If it is lost, `quorate format --learner --config FILE` lets the replica go \
         on here and cast no votes. If the key was moved here and never used, move that file here, too",
        path = path.display(),
        mark = mark.display()
    )]
    KeyInUse {
        /// The data directory.
        path: PathBuf,
        /// The mark that is missing.
        mark: PathBuf,
    },
    /// There are too few descriptors for it.
    #[error(transparent)]
    Descriptors(#[from] TooFew),
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
    config.remarks.iter().for_each(|remark| warn!("{remark}"));
    let doors = doors(&config, descriptors::raise())?;
    let mut data = open_directory(&config)?;
    let disk = sync_probe::probe(data.path())
        .map_err(|source| StartError::Disk { path: data.path().to_owned(), source })?;
    let setup = ReplicaSetup {
        config: Arc::clone(&config.cluster),
        me: config.replica,
        key: config.key.clone(),
        cores: config.cores.len(),
    };
    let mut folder = PageFolder::at(&data.pages(), config.durability == Durability::Sync);
    let Beginning { mut recovery, mut scans, store, newest } =
        recover(&config, &setup, &mut data, &mut folder)?;
    // From here on something may be written that a loss of power would take back; or all is durable.
    let unsynced = (config.durability == Durability::Async).then(boot_id).transpose()?;
    data.set_unsynced_boot(unsynced)?;
    let config = Arc::new(config);
    let shared = Arc::new(Shared::new(&config.cluster, config.cores.len()));
    let limits =
        Limits { journal_bytes_max: config.journal_bytes_max, free_bytes_min: config.free_bytes_min };
    let files = Disk::start(&shared, data.path(), limits).map_err(StartError::Thread)?;
    let reading = ReaderThread::start().map_err(StartError::Thread)?;
    let mut threads = Vec::new();
    let (checkpointer, writing) = Checkpointer::start(folder, store, newest).map_err(StartError::Thread)?;
    let mut checkpointer = Some(checkpointer);
    let execution = Layout::new(&config.cluster, config.cores.len()).execution();
    for (id, mailbox) in config.core_ids().zip(mailbox::mesh::<Mail>(config.cores.len())) {
        let core = Core::recover(&setup, id, &mut recovery);
        let checkpointer = if id == execution { checkpointer.take() } else { None };
        let identity = data.log_identity(id);
        let scan = scans.remove(&id).unwrap_or_else(|| Scanner::new(identity).finish());
        let log = set_up_log(&config, &data, (&files, &reading), &disk, id, scan)?;
        let parts = CoreParts { id, core, mailbox, checkpointer, log, doors };
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
             what was acknowledged last, and it leaves that many learners, so that the cluster orders nothing any more \
             and a new one is made from its newest certified state (`quorate backup --help`)"
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
        // The last one is told by whoever has called this.
        if let Err(error) = thread.join()
            && let Some(other) = failure.replace(error)
        {
            error!("{other}");
        }
    }
    files.finish();
    reading.finish();
    writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    if let Some(dumper) = dumper {
        dumper.finish();
    }
    conclude(&config, &mut data, failure, shared.halted())
}

/// What is remembered of how the replica has ended. One that has halted is to halt again.
fn conclude(
    config: &NodeConfig,
    data: &mut DataDirectory,
    failure: Option<StartError>,
    halted: Option<&str>,
) -> Result<Outcome, StartError> {
    if let Some(reason) = halted {
        data.set_halted(Some(reason.to_owned()))?;
    }
    match (failure, halted) {
        (Some(error), _) => Err(error),
        (None, Some(reason)) => Ok(Outcome::Halted(reason.to_owned())),
        (None, None) => {
            leave_in_order(config, data)?;
            Ok(Outcome::Stopped)
        }
    }
}

/// What was not made durable while it ran is so when it has stopped.
fn leave_in_order(config: &NodeConfig, data: &mut DataDirectory) -> Result<(), DirectoryError> {
    if config.durability == Durability::Async {
        let path = data.path();
        let synced = File::open(path).and_then(|directory| Ok(rustix::fs::syncfs(&directory)?));
        synced.map_err(failed(path, "sync its disk"))?;
        data.set_unsynced_boot(None)?;
    }
    Ok(())
}

/// What a start refuses before it has changed anything, judged as it does, without taking anything into use; gives whose the
/// data directory is. Whether ports are free, whether a reactor can be built, and what the logs hold is for the start.
///
/// # Errors
/// As [`run`].
pub fn examine_start(config: &NodeConfig) -> Result<Identity, StartError> {
    doors(config, descriptors::highest())?;
    let identity = data_directory::examine(&config.data_directory, &config.cluster, config.replica)
        .map_err(|error| not_opened(config, error))?;
    check_halted(config, &identity)?;
    if !identity.claimed && identity.role == Role::Founding {
        let (key_file, key) = (&config.key_file, config.key.public());
        if !never_spoken::seems_free_for(key_file, &key, &identity.directory)? {
            return Err(key_in_use(config));
        }
    }
    Ok(identity)
}

/// How many connections each core may have with so many descriptors.
fn doors(config: &NodeConfig, descriptors: u64) -> Result<Doors, TooFew> {
    let links = (config.cluster.members().len() - 1) * usize::from(config.cluster.links());
    Doors::budget(descriptors, config.cores.len(), links)
}

/// Opens the data directory of a replica that may start.
fn open_directory(config: &NodeConfig) -> Result<DataDirectory, StartError> {
    let mut data = data_directory::open(&config.data_directory, &config.cluster, config.replica)
        .map_err(|error| not_opened(config, error))?;
    check_halted(config, data.identity())?;
    take_key_into_use(config, &mut data)?;
    Ok(data)
}

/// Where a cluster began with the state of a backup, a new directory needs that state, too.
fn not_opened(config: &NodeConfig, error: DirectoryError) -> StartError {
    match error {
        DirectoryError::Unformatted { path, reason } if config.cluster.genesis_root().is_some() => {
            StartError::Recovery { path, problem: recover::no_beginning(&reason) }
        }
        error => error.into(),
    }
}

fn check_halted(config: &NodeConfig, identity: &Identity) -> Result<(), StartError> {
    match &identity.halted {
        None => Ok(()),
        Some(reason) => {
            Err(StartError::Halted { path: config.data_directory.clone(), reason: reason.clone() })
        }
    }
}

fn key_in_use(config: &NodeConfig) -> StartError {
    StartError::KeyInUse {
        path: config.data_directory.clone(),
        mark: never_spoken::mark_path(&config.key_file),
    }
}

/// From here on the key belongs to this directory, and no other one is ever made for it.
fn take_key_into_use(config: &NodeConfig, data: &mut DataDirectory) -> Result<(), StartError> {
    let (key_file, directory) = (&config.key_file, data.identity().directory);
    // A key that was taken into use is nobody's to fight for.
    let is_settled = data.identity().claimed && !never_spoken::is_there(key_file)?;
    if *data.role() != Role::Founding || is_settled {
        return Ok(());
    }
    let mark = Mark::hold(key_file, &config.key.public())?;
    claim_key(&mark, config, data)?;
    Ok(mark.consume(&directory)?)
}

/// The directory says that the key is its own. Before it does, the mark of the key is no other directory's any more: a kill
/// between the two, or before the mark is gone, must leave none with which another directory becomes a second voter.
fn claim_key(mark: &Mark, config: &NodeConfig, data: &mut DataDirectory) -> Result<(), StartError> {
    let directory = data.identity().directory;
    if data.identity().claimed {
        return Ok(());
    }
    if !mark.is_free_for(&directory)? {
        return Err(key_in_use(config));
    }
    mark.assign(&directory)?;
    Ok(data.claim()?)
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
    let is_silent = core == FIRST_CORE && !data.has_spoken()?;
    Ok(LogSetup { identity: data.log_identity(core), scan, sync, maker, reader, is_silent })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HistogramConfig;
    use crate::data_directory::{format, format_learner};
    use quorate_types::ReplicaId;
    use quorate_wire::testing;
    use std::path::Path;
    use std::time::Duration;

    fn config(directory: &Path, durability: Durability) -> NodeConfig {
        NodeConfig {
            cluster: Arc::new(testing::config(4)),
            replica: ReplicaId(2),
            key: testing::replica_key(2),
            key_file: directory.join("replica-2.key"),
            cores: vec![None],
            spin: Duration::ZERO,
            data_directory: directory.join("data"),
            durability,
            journal_bytes_max: 1 << 30,
            free_bytes_min: 0,
            security: "plaintext",
            histograms: HistogramConfig { directory: directory.to_owned(), interval: None },
            remarks: Vec::new(),
        }
    }

    fn new_directory(config: &NodeConfig) {
        let identity = Identity::new(&config.cluster, config.replica, Role::Founding);
        format(&config.data_directory, &identity).unwrap();
        std::fs::write(&config.key_file, "").unwrap();
        never_spoken::mark(&config.key_file, &config.key.public()).unwrap();
    }

    /// Another directory for the same replica and key.
    fn beside(config: &NodeConfig, name: &str) -> NodeConfig {
        let other =
            NodeConfig { data_directory: config.data_directory.with_file_name(name), ..config.clone() };
        let identity = Identity::new(&other.cluster, other.replica, Role::Founding);
        format(&other.data_directory, &identity).unwrap();
        other
    }

    #[test]
    fn a_key_is_taken_into_use_by_one_directory() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), Durability::Sync);
        new_directory(&config);
        for _ in 0..2 {
            assert!(open_directory(&config).unwrap().identity().claimed);
            assert!(!never_spoken::mark_path(&config.key_file).exists());
        }
        let other = beside(&config, "other");
        let refused = open_directory(&other).unwrap_err();
        assert!(matches!(refused, StartError::KeyInUse { .. }), "{refused}");
        assert!(refused.to_string().contains("replica-2.key.never-spoken is gone, or names"), "{refused}");
        // A learner says nothing, and leaves the key as it is.
        never_spoken::mark(&config.key_file, &config.key.public()).unwrap();
        let reason = "on purpose".to_owned();
        format_learner(&other.data_directory, &other.cluster, other.replica, reason).unwrap();
        open_directory(&other).unwrap();
        assert!(never_spoken::mark_path(&config.key_file).exists());
    }

    /// A kill between what the directory says of itself and the end of the mark.
    #[test]
    fn a_start_that_is_killed_leaves_no_mark_for_a_second_voter() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), Durability::Sync);
        new_directory(&config);
        let mut data = data_directory::open(&config.data_directory, &config.cluster, config.replica).unwrap();
        let mark = Mark::hold(&config.key_file, &config.key.public()).unwrap();
        claim_key(&mark, &config, &mut data).unwrap();
        drop(mark);
        assert!(data.identity().claimed && never_spoken::mark_path(&config.key_file).exists());
        drop(data);
        let other = beside(&config, "other");
        let refused = open_directory(&other).unwrap_err();
        assert!(matches!(refused, StartError::KeyInUse { .. }), "{refused}");
        let mark = Mark::hold(&config.key_file, &config.key.public()).unwrap();
        assert!(!mark.is_free_for(&[9; 16]).unwrap(), "a directory that is formatted now is a learner's");
        drop(mark);
        open_directory(&config).unwrap();
        assert!(!never_spoken::mark_path(&config.key_file).exists());
    }

    /// Each pair of starts has a key of its own, and both look at its mark at the same moment.
    #[test]
    fn of_two_starts_with_one_key_at_the_same_moment_one_goes_on() {
        for round in 0..40 {
            let directory = tempfile::tempdir().unwrap();
            let config = config(directory.path(), Durability::Sync);
            new_directory(&config);
            let both = [config.clone(), beside(&config, "other")];
            let gate = std::sync::Barrier::new(2);
            let start = |config: &NodeConfig| {
                gate.wait();
                open_directory(config).map(drop)
            };
            let outcomes = std::thread::scope(|scope| {
                both.each_ref().map(|config| scope.spawn(|| start(config))).map(|one| one.join().unwrap())
            });
            let refused: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
            assert_eq!(refused.len(), 1, "round {round}: {outcomes:?}");
            assert!(
                matches!(
                    refused[0],
                    StartError::KeyInUse { .. } | StartError::Directory(DirectoryError::KeyBusy { .. })
                ),
                "{outcomes:?}"
            );
            let winner = outcomes.iter().position(Result::is_ok).unwrap();
            for (index, config) in both.iter().enumerate() {
                assert_eq!(open_directory(config).is_ok(), index == winner, "round {round}: it stays so");
            }
        }
    }

    /// Threads may take their time to end, and be killed in it.
    #[test]
    fn who_is_killed_after_it_has_halted_halts_again() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), Durability::Sync);
        new_directory(&config);
        let data = open_directory(&config).unwrap();
        let shared = Shared::new(&config.cluster, 1);
        for reason in ["two roots", "a contradiction"] {
            crate::effects::halt(&shared, &config.data_directory, reason.to_owned());
        }
        drop(data);
        let refused = open_directory(&config).unwrap_err();
        assert!(matches!(&refused, StartError::Halted { reason, .. } if reason == "two roots"), "{refused}");
    }

    /// A disk takes its time, in which other cores could send what follows from what made the replica halt.
    #[test]
    fn all_cores_have_stopped_before_the_disk_has_noted_that_it_halted() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), Durability::Sync);
        new_directory(&config);
        let mut data = open_directory(&config).unwrap();
        // Whoever opens it to write waits for a reader.
        let slow = config.data_directory.join("identity.copy.new");
        mknodat(CWD, &slow, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let shared = Arc::new(Shared::new(&config.cluster, 1));
        let (told, path) = (Arc::clone(&shared), config.data_directory.clone());
        let halting = std::thread::spawn(move || crate::effects::halt(&told, &path, "two roots".to_owned()));
        let end = std::time::Instant::now() + Duration::from_secs(60);
        while shared.halted().is_none() {
            assert!(std::time::Instant::now() < end && !halting.is_finished(), "cores go on meanwhile");
            std::thread::yield_now();
        }
        assert!(shared.should_stop() && !halting.is_finished(), "the disk has not taken it yet");
        drop(std::fs::OpenOptions::new().read(true).open(&slow).unwrap());
        halting.join().unwrap();
        // What the disk did not take then is noted at the end.
        std::fs::remove_file(&slow).unwrap();
        conclude(&config, &mut data, None, shared.halted()).unwrap();
        drop(data);
        assert!(matches!(open_directory(&config).unwrap_err(), StartError::Halted { .. }));
    }

    #[test]
    fn who_has_halted_remembers_it_and_who_stopped_in_order_that_all_is_durable() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), Durability::Async);
        new_directory(&config);
        let mut data = open_directory(&config).unwrap();
        data.set_unsynced_boot(Some("this".to_owned())).unwrap();
        let halted = conclude(&config, &mut data, None, Some("two roots")).unwrap();
        assert_eq!(halted, Outcome::Halted("two roots".to_owned()));
        assert!(data.identity().unsynced_boot.is_some());
        drop(data);
        let refused = open_directory(&config).unwrap_err().to_string();
        for part in ["two roots", "`quorate clear-halt --config FILE`"] {
            assert!(refused.contains(part), "{refused}");
        }
        let mut data = data_directory::open(&config.data_directory, &config.cluster, config.replica).unwrap();
        data.set_halted(None).unwrap();
        assert_eq!(conclude(&config, &mut data, None, None).unwrap(), Outcome::Stopped);
        drop(data);
        assert_eq!(open_directory(&config).unwrap().identity().unsynced_boot, None);
    }
}
