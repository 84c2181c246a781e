//! A cluster of real processes of this binary on this machine, for `quorate dev` and `quorate bench`.
//!
//! Each process is started, watched, told to stop and waited for through its own handle. It gets a process group
//! of its own, so that the terminal's Ctrl-C reaches the parent alone, and the kernel ends it when the parent
//! ends. What it writes goes to a log file beside its configuration.

use crate::cluster_files::{CLUSTER_FILE, NewCluster, client_key_file, replica_file};
use crate::failure::Failure;
use crate::ports::Reservation;
use crate::report::{POSITIONS, ask_all};
use crate::start::ready_line;
use anyhow::{Context, anyhow, bail};
use quorate_daemon::{NodeConfig, read_cluster, read_key};
use quorate_types::{ClusterConfig, ReplicaId, SigningKey};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long all replicas may take to be linked with each other.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// How long one round of asking them may take.
const REPORT_DEADLINE: Duration = Duration::from_secs(2);
/// How long replicas may take to stop in order before they are killed.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The lines of a log that are shown when something is wrong.
const TAIL_LINES: usize = 10;
const TAIL_BYTES: u64 = 16 * 1024;

/// Where the files of a local cluster are.
#[derive(Debug)]
enum Directory {
    /// Removed in the end.
    Temporary(TempDir),
    /// The user's own.
    Kept(PathBuf),
}

/// A cluster of processes. Dropping it stops them.
#[derive(Debug)]
pub(crate) struct LocalCluster {
    directory: Directory,
    config: Arc<ClusterConfig>,
    client_keys: Vec<SigningKey>,
    replicas: Vec<Replica>,
    /// Nobody else runs the cluster of the directory meanwhile.
    _held: File,
    /// Nobody else takes its ports while a replica is down.
    _ports: Option<Reservation>,
}

/// One process.
#[derive(Debug)]
struct Replica {
    id: ReplicaId,
    child: Child,
    log: PathBuf,
    /// Where in the log what it writes begins.
    log_start: u64,
    /// How it ended, once that was noticed.
    ended: Option<ExitStatus>,
}

impl LocalCluster {
    /// Starts a new cluster in a temporary directory whose name begins with `prefix`, on free ports.
    pub(crate) fn start_new(
        prefix: &str,
        replicas: usize,
        clients: usize,
        durability: &'static str,
    ) -> Result<Self, Failure> {
        let (cluster, reservation) = NewCluster::local(replicas, clients, durability)?;
        let directory =
            tempfile::Builder::new().prefix(prefix).tempdir().context("cannot make a temporary directory")?;
        cluster.write(directory.path())?;
        Self::start(Directory::Temporary(directory), Some(reservation))
    }

    /// Starts the cluster whose files are in `directory`, which stays, with its ports if they were chosen just now.
    pub(crate) fn start_in(directory: &Path, ports: Option<Reservation>) -> Result<Self, Failure> {
        Self::start(Directory::Kept(directory.to_owned()), ports)
    }

    fn start(directory: Directory, ports: Option<Reservation>) -> Result<Self, Failure> {
        let path = directory.path();
        let config = Arc::new(read_cluster(&path.join(CLUSTER_FILE))?);
        let client_keys = read_client_keys(path, config.clients().len())?;
        let files: Vec<_> =
            config.replica_ids().map(|replica| path.join(replica_file(replica.index()))).collect();
        let held = hold(path)?;
        for file in &files {
            // One that another process runs would answer in place of the one that is started here.
            quorate_daemon::check_unused(&NodeConfig::read(file)?.data_directory)?;
        }
        let mut cluster =
            Self { directory, config, client_keys, replicas: Vec::new(), _held: held, _ports: ports };
        for (replica, file) in cluster.config.replica_ids().zip(&files) {
            let log = file.with_extension("log");
            cluster.replicas.push(Replica::start(replica, file, log)?);
        }
        Ok(cluster)
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn is_temporary(&self) -> bool {
        matches!(self.directory, Directory::Temporary(_))
    }

    pub(crate) fn config(&self) -> &Arc<ClusterConfig> {
        &self.config
    }

    pub(crate) fn client_keys(&self) -> &[SigningKey] {
        &self.client_keys
    }

    pub(crate) fn process_ids(&self) -> Vec<u32> {
        self.replicas.iter().map(|replica| replica.child.id()).collect()
    }

    /// Waits until all replicas are linked with each other; says `false` when `give_up` said so first. It is
    /// called between attempts and may wait a little.
    pub(crate) fn wait_until_ready(
        &mut self,
        mut give_up: impl FnMut(Duration) -> bool,
    ) -> anyhow::Result<bool> {
        let deadline = Instant::now() + READY_DEADLINE;
        loop {
            let ended = self.newly_ended();
            if !ended.is_empty() {
                bail!("{}", ended.join("\n"));
            }
            let waits_for = self.waits_for();
            if waits_for.is_empty() {
                return Ok(true);
            }
            if Instant::now() > deadline {
                let seconds = READY_DEADLINE.as_secs();
                return Err(anyhow!("{}", self.tails())
                    .context(format!("not ready after {seconds} s: {}", waits_for.join("; "))));
            }
            if give_up(POLL_INTERVAL) {
                return Ok(false);
            }
        }
    }

    /// What is not as it should be yet. Until all have their ports, it may be other processes who answer there.
    fn waits_for(&self) -> Vec<String> {
        let starting = self.replicas.iter().filter(|replica| !replica.is_ready());
        let starting: Vec<_> =
            starting.map(|replica| format!("replica {} is starting", replica.id)).collect();
        if !starting.is_empty() {
            return starting;
        }
        let answers = ask_all(&self.config, &self.client_keys[0], &POSITIONS, REPORT_DEADLINE);
        let answers = self.config.replica_ids().zip(answers);
        let waits_for = answers.filter_map(|(replica, answer)| match answer {
            Err(error) => Some(format!("replica {replica}: {error}")),
            Ok(report) => report
                .peers
                .iter()
                .find(|peer| !peer.connected)
                .map(|peer| format!("replica {replica} is not linked with replica {}", peer.replica)),
        });
        waits_for.collect()
    }

    /// The replicas that have ended since the last call, one text each: how, and the end of the log.
    pub(crate) fn newly_ended(&mut self) -> Vec<String> {
        self.replicas.iter_mut().filter_map(Replica::newly_ended).collect()
    }

    /// The end of every log.
    pub(crate) fn tails(&self) -> String {
        let tails: Vec<_> = self
            .replicas
            .iter()
            .map(|replica| format!("replica {}:\n{}", replica.id, tail(&replica.log)))
            .collect();
        tails.join("\n")
    }

    /// Leaves the directory with its logs where it is.
    pub(crate) fn keep_directory(&mut self) {
        if let Directory::Temporary(directory) = &mut self.directory {
            directory.disable_cleanup(true);
        }
    }

    /// Tells all replicas to stop, waits for them, and kills what does not. Says what did not go in order,
    /// a replica that had ended before included unless that was told already.
    pub(crate) fn stop(&mut self) -> Vec<String> {
        self.stop_each().into_iter().map(|(_, problem)| problem).collect()
    }

    /// The same, with the replica to which each problem belongs.
    pub(crate) fn stop_each(&mut self) -> Vec<(ReplicaId, String)> {
        let ended = |replica: &mut Replica| Some((replica.id, replica.newly_ended()?));
        let mut problems: Vec<_> = self.replicas.iter_mut().filter_map(ended).collect();
        self.replicas.iter().for_each(|replica| replica.tell(Signal::TERM));
        let deadline = Instant::now() + STOP_DEADLINE;
        for replica in &mut self.replicas {
            problems.extend(replica.stop(deadline).map(|problem| (replica.id, problem)));
        }
        problems
    }
}

/// Keeps other processes like this one away from the cluster of a directory, as long as the file is open.
fn hold(directory: &Path) -> Result<File, Failure> {
    let path = directory.join(CLUSTER_FILE);
    let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Failure::usage(format!(
            "{}: another `quorate dev` runs this cluster already; use it as it is (QUORATE_CLUSTER={}), stop that one \
             first, or give another --dir",
            directory.display(),
            path.display()
        ))),
        // Where a file system knows no locks, those of the data directories are missed first.
        Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// The keys of the clients whose files are here; at least the first one must be.
fn read_client_keys(directory: &Path, clients: usize) -> Result<Vec<SigningKey>, Failure> {
    let paths = (0..clients.max(1)).map(|client| directory.join(client_key_file(client)));
    let here = paths.enumerate().filter(|(client, path)| *client == 0 || path.exists());
    here.map(|(_, path)| read_key(&path).map_err(Failure::from)).collect()
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        // Whoever wanted to know the problems has called it already.
        self.stop();
    }
}

impl Directory {
    fn path(&self) -> &Path {
        match self {
            Self::Temporary(directory) => directory.path(),
            Self::Kept(path) => path,
        }
    }
}

impl Replica {
    fn start(id: ReplicaId, config: &Path, log: PathBuf) -> anyhow::Result<Self> {
        let open = || -> std::io::Result<(File, File)> {
            let file = OpenOptions::new().create(true).append(true).open(&log)?;
            Ok((file.try_clone()?, file))
        };
        let (out, errors) = open().with_context(|| format!("cannot write {}", log.display()))?;
        let log_start = errors.metadata().map_or(0, |log| log.len());
        let config = config.canonicalize().with_context(|| format!("cannot find {}", config.display()))?;
        let directory = config.parent().unwrap_or(Path::new("/"));
        let program = std::env::current_exe().context("cannot find the program that runs")?;
        let child = Command::new(program)
            .arg("start")
            .arg("--config")
            .arg(&config)
            .arg("--parent")
            .arg(std::process::id().to_string())
            .env_remove("NOTIFY_SOCKET")
            // What it writes by default belongs beside its files.
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start replica {id}"))?;
        Ok(Self { id, child, log, log_start, ended: None })
    }

    /// Whether it has said that it takes connections.
    fn is_ready(&self) -> bool {
        let own = read_from(&self.log, self.log_start).unwrap_or_default();
        String::from_utf8_lossy(&own).contains(&ready_line(self.id))
    }

    fn newly_ended(&mut self) -> Option<String> {
        if self.ended.is_some() {
            return None;
        }
        // An error means that there is no such child any more, and nothing is known about its end.
        let status = self.child.try_wait().ok().flatten()?;
        self.ended = Some(status);
        Some(format!(
            "replica {} ended: {}; the end of its log:\n{}",
            self.id,
            describe(status),
            tail(&self.log)
        ))
    }

    /// Sends a signal. The child has not been waited for, so its id cannot belong to another process.
    fn tell(&self, signal: Signal) {
        if self.ended.is_none()
            && let Some(id) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            // It may be ending just now.
            let _ = kill_process(id, signal);
        }
    }

    /// Waits until `deadline`, then kills; says what was wrong.
    fn stop(&mut self, deadline: Instant) -> Option<String> {
        while self.ended.is_none() {
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    self.ended = Some(status);
                    let (id, log) = (self.id, &self.log);
                    return (!status.success()).then(|| {
                        format!(
                            "replica {id} did not stop in order: {}; the end of its log:\n{}",
                            describe(status),
                            tail(log)
                        )
                    });
                }
                Ok(None) if Instant::now() > deadline => {
                    let _ = self.child.kill();
                    self.ended = self.child.wait().ok();
                    let seconds = STOP_DEADLINE.as_secs();
                    return Some(format!(
                        "replica {} did not stop within {seconds} s and was killed",
                        self.id
                    ));
                }
                Ok(None) => std::thread::sleep(POLL_INTERVAL),
                Err(error) => return Some(format!("replica {}: cannot wait for it: {error}", self.id)),
            }
        }
        None
    }
}

/// How a process ended, in words.
fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(2), _) => "exit code 2, wrong configuration".to_owned(),
        (Some(3), _) => "exit code 3, halted by a safety check".to_owned(),
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// What a file has from an offset on.
fn read_from(path: &Path, offset: u64) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The last lines of a log, indented; after a panic its first lines, which say more than the end of the backtrace.
fn tail(path: &Path) -> String {
    let read = || read_from(path, std::fs::metadata(path)?.len().saturating_sub(TAIL_BYTES));
    let text = match read() {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("{}: {error}", path.display()),
    };
    let lines: Vec<_> = text.lines().collect();
    let end = match lines.iter().rposition(|line| line.contains("panicked at")) {
        Some(panic) => lines.len().min(panic + TAIL_LINES),
        None => lines.len(),
    };
    let shown = &lines[end.saturating_sub(TAIL_LINES)..end];
    if shown.is_empty() {
        return format!("  {} is empty", path.display());
    }
    shown.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
