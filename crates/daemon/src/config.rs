//! The configuration of one replica process: `replica.toml`, the cluster file and the key that it names.

use crate::log_driver::SEGMENT_BYTES_MAX;
use crate::memory;
use crate::space;
use quorate_types::{ByteCount, ClusterConfig, CoreId, Member, ReplicaId, SigningKey};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// How long a core polls before it sleeps when it has a CPU of its own: about as long as a wake takes (DESIGN section 3).
const SPIN_US: u64 = 20;
/// The largest number of cores of one replica.
const CORES_MAX: usize = 64;
/// The longest time for which a core may be told to poll: with that it never sleeps while anything goes on.
const SPIN_US_MAX: u64 = 1_000_000;
/// What the logs of all cores may take when nothing is said.
const JOURNAL_BYTES: u64 = 2 << 30;
/// With less, the log of a core would be a few segments, and could not be trimmed finely.
const JOURNAL_BYTES_PER_CORE_MIN: u64 = 64 << 20;
/// What is left free on the disk when nothing is said.
const FREE_BYTES: u64 = 256 << 20;

/// The longest time between two dumps of histograms.
const HISTOGRAM_INTERVAL_S_MAX: u64 = 86_400;

/// `replica.toml` as written. Paths are relative to the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFile {
    /// The cluster file, the same for all replicas and clients.
    pub cluster: PathBuf,
    /// Which replica of the cluster this is.
    pub replica: u8,
    /// The file with the secret key, mode 0600.
    pub key_file: PathBuf,
    /// The CPUs to pin to, one thread and one ring each. Default: one thread, not pinned. The first runs
    /// ordering, the last runs execution. More than one pays when a core of its own is free for each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cores: Vec<usize>,
    /// What protects the links. Only `plaintext` exists yet, and only on loopback addresses.
    #[serde(default = "plaintext")]
    pub security: String,
    /// Where the replica keeps its data: a directory of its own, made by `quorate init` or `quorate format`. Default:
    /// `data-N` for replica N, beside this file. Change it to put the data on another disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// What an acknowledgement promises. Default `sync`: what is acknowledged is on the disks of a quorum and survives
    /// the loss of power of all. `async`: it survives the end of all processes, and not the loss of power of more than
    /// f machines; faster where syncs are slow.
    #[serde(default = "sync")]
    pub durability: String,
    /// The bytes that the logs of all cores may take. Default 2 GiB, or the least that serves if that is more: what comes
    /// between three checkpoints and what lanes hold must fit, which is about 750 MiB for four replicas on one core, and
    /// grows with replicas, links and cores. When they are full of what is still needed, the replica takes no writes
    /// until it is not. Raise it when replicas are away for long. A number, or a text with a unit: `"4 GiB"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_journal_bytes: Option<ByteCount>,
    /// The bytes that are left free on the disk, as a number or a text with a unit. Default 256 MiB. With less the replica
    /// takes no writes until there is room again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_free_bytes: Option<ByteCount>,
    /// How long a core polls before it sleeps, in microseconds. Default: 20 when `cores` are named, else 0. Polling
    /// shortens hand-offs but burns a core; 0 when cores are shared with others. With more threads than CPUs it is 0
    /// whatever stands here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spin_us: Option<u64>,
    /// Where the replica writes where its time goes.
    #[serde(default)]
    pub histograms: HistogramFile,
}

/// The section `[histograms]` of `replica.toml`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HistogramFile {
    /// Where dumps go. Default: `histograms` in the working directory of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// The seconds between two dumps. Default: 0, which is only when SIGUSR1 asks for one.
    pub interval_s: u64,
}

fn plaintext() -> String {
    "plaintext".to_owned()
}

fn sync() -> String {
    Durability::Sync.name().to_owned()
}

/// What an acknowledgement promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It is on the disks of a quorum.
    Sync,
    /// A quorum's systems have it; the loss of power of more than f machines may lose it.
    Async,
}

impl Durability {
    /// The word in configurations and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Async => "async",
        }
    }
}

/// What is wrong with the configuration, with the file, the field and the remedy.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{path}: {source}; {remedy}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// A file is malformed or contradicts itself.
    #[error("{path}: {problem}", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, and the remedy.
        problem: String,
    },
}

fn invalid(path: &Path, problem: impl Into<String>) -> ConfigError {
    ConfigError::Invalid { path: path.to_owned(), problem: problem.into() }
}

fn read(path: &Path, remedy: &'static str) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
        remedy,
    })
}

/// Where and how often histograms are dumped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistogramConfig {
    /// The directory; it is made when it is needed.
    pub directory: PathBuf,
    /// The time between two dumps; none when only SIGUSR1 asks for one.
    pub interval: Option<Duration>,
}

/// The checked configuration of one replica process.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The cluster.
    pub cluster: Arc<ClusterConfig>,
    /// Which replica this is.
    pub replica: ReplicaId,
    /// Its secret key.
    pub key: SigningKey,
    /// Where that is.
    pub key_file: PathBuf,
    /// The CPU of each core; none for a thread that is not pinned. At least one.
    pub cores: Vec<Option<usize>>,
    /// How long a core polls before it sleeps.
    pub spin: Duration,
    /// Where its data is.
    pub data_directory: PathBuf,
    /// What an acknowledgement promises.
    pub durability: Durability,
    /// What the logs of all cores may take.
    pub journal_bytes_max: u64,
    /// What is left free on the disk.
    pub free_bytes_min: u64,
    /// What protects the links.
    pub security: &'static str,
    /// Where and how often histograms are dumped.
    pub histograms: HistogramConfig,
    /// What is allowed and rarely meant, a sentence each.
    pub remarks: Vec<String>,
}

impl NodeConfig {
    /// Reads and checks `replica.toml` and the files that it names.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            read(path, "name the right file; `quorate init` writes one for each replica of a new cluster")?;
        let file: NodeFile = toml::from_str(&text).map_err(|error| invalid(path, error.to_string()))?;
        let directory = path.parent().unwrap_or(Path::new("."));
        let cluster = Arc::new(read_cluster(&directory.join(&file.cluster))?);
        let replica = ReplicaId(file.replica);
        let Some(member) = cluster.member(replica) else {
            let last = cluster.members().len() - 1;
            return Err(invalid(
                path,
                format!("replica = {}; the cluster has replicas 0 to {last}", replica.0),
            ));
        };
        let key_path = directory.join(&file.key_file);
        let key = read_key(&key_path)?;
        if key.public() != member.key {
            return Err(invalid(
                &key_path,
                format!(
                    "the key belongs to {}, but replica {replica} has {} in the cluster file; name the key \
                     file of replica {replica} in key_file",
                    key.public().to_hex(),
                    member.key.to_hex()
                ),
            ));
        }
        let security = check_security(path, &file.security, &cluster)?;
        let mut remarks = remarks(&file);
        remarks.extend(memory::remark(cluster.tuning().state.bytes_max));
        let durability = check_durability(path, &file.durability)?;
        let cores = check_cores(path, &file.cores)?;
        let spin = check_spin(path, &file)?;
        let histograms = check_histograms(path, &file.histograms)?;
        let data_directory = check_data_directory(path, &file)?;
        let journal_bytes_max = check_journal_bytes(path, file.max_journal_bytes, &cluster, cores.len())?;
        let free_bytes_min = file.min_free_bytes.map_or(FREE_BYTES, |wanted| wanted.0);
        check_disk(path, &file, &data_directory)?;
        Ok(Self {
            cluster,
            replica,
            key,
            key_file: key_path,
            cores,
            spin,
            data_directory,
            durability,
            journal_bytes_max,
            free_bytes_min,
            security,
            histograms,
            remarks,
        })
    }

    /// The core ids, in order.
    pub fn core_ids(&self) -> impl Iterator<Item = CoreId> + use<> {
        let cores = u8::try_from(self.cores.len()).expect("invariant: at most CORES_MAX cores");
        (0..cores).map(CoreId)
    }

    /// Where clients connect.
    #[must_use]
    pub fn client_address(&self) -> SocketAddr {
        self.cluster.members()[self.replica.index()].client
    }
}

/// Reads and checks a cluster file.
pub fn read_cluster(path: &Path) -> Result<ClusterConfig, ConfigError> {
    let text = read(
        path,
        "copy that of another replica of the cluster; `quorate init` writes one for a new cluster",
    )?;
    ClusterConfig::parse(&text).map_err(|error| invalid(path, error.to_string()))
}

/// Reads a secret key; refuses one that others may read.
pub fn read_key(path: &Path) -> Result<SigningKey, ConfigError> {
    use std::os::unix::fs::PermissionsExt;
    let text = read(path, "`quorate init` writes the keys; name the right one in key_file")?;
    let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode() & 0o777);
    if mode & 0o077 != 0 {
        let problem = format!("mode {mode:04o} lets others read the secret key; run `chmod 600` on it");
        return Err(invalid(path, problem));
    }
    SigningKey::from_hex(&text).map_err(|error| invalid(path, error.to_string()))
}

fn check_security(path: &Path, security: &str, cluster: &ClusterConfig) -> Result<&'static str, ConfigError> {
    if security != "plaintext" {
        let problem = format!("security = \"{security}\"; only \"plaintext\" exists in this version");
        return Err(invalid(path, problem));
    }
    check_plaintext(path, cluster)?;
    Ok("plaintext")
}

/// Refuses a cluster whose replicas would not start, as there is nothing but plaintext in this version. `path` is the file
/// that is checked.
pub fn check_plaintext(path: &Path, cluster: &ClusterConfig) -> Result<(), ConfigError> {
    let addresses = |member: &Member| [member.mesh, member.client];
    match cluster.members().iter().flat_map(addresses).find(|address| !address.ip().is_loopback()) {
        None => Ok(()),
        Some(address) => Err(invalid(
            path,
            format!(
                "security = \"plaintext\" is refused because {address} is not a loopback address: anybody on \
                 the way could read and change what is sent; use loopback addresses in the cluster file"
            ),
        )),
    }
}

fn check_durability(path: &Path, durability: &str) -> Result<Durability, ConfigError> {
    let both = [Durability::Sync, Durability::Async];
    match both.into_iter().find(|known| known.name() == durability) {
        Some(durability) => Ok(durability),
        None if durability == "memory" => Err(invalid(
            path,
            "durability = \"memory\" was removed: replicas keep their data on disk; use \"sync\", or \"async\" where a \
             loss of power may cost what was acknowledged last",
        )),
        None => Err(invalid(path, format!("durability = \"{durability}\"; use \"sync\" or \"async\""))),
    }
}

fn check_data_directory(path: &Path, file: &NodeFile) -> Result<PathBuf, ConfigError> {
    let beside = path.parent().unwrap_or(Path::new("."));
    let directory = match &file.data_dir {
        Some(directory) => beside.join(directory),
        None => beside.join(format!("data-{}", file.replica)),
    };
    if directory.exists() && !directory.is_dir() {
        let problem = format!("data_dir: {} is no directory; name another one", directory.display());
        return Err(invalid(path, problem));
    }
    Ok(directory)
}

/// Each core has a log of its own, made of segments that must not be too small; together they must have room for what
/// comes until they are trimmed.
fn check_journal_bytes(
    path: &Path,
    wanted: Option<ByteCount>,
    cluster: &ClusterConfig,
    cores: usize,
) -> Result<u64, ConfigError> {
    let least = space::journal_bytes_min(cluster, cores, SEGMENT_BYTES_MAX)
        .max(cores as u64 * JOURNAL_BYTES_PER_CORE_MIN)
        .next_multiple_of(1 << 20);
    match wanted {
        Some(wanted) if wanted.0 < least => Err(invalid(
            path,
            format!(
                "max_journal_bytes = \"{wanted}\"; use \"{}\" or more with {} replicas, {} links and {cores} \
                 cores: a smaller log could be full before a checkpoint lets it be trimmed, and writes would end for ever",
                ByteCount(least),
                cluster.members().len(),
                cluster.links()
            ),
        )),
        Some(wanted) => Ok(wanted.0),
        None => Ok(JOURNAL_BYTES.max(least)),
    }
}

/// What is asked for must be less than the disk of the data directory has in all: else the replica never takes a write, or
/// the disk is full before the log is.
fn check_disk(path: &Path, file: &NodeFile, data_directory: &Path) -> Result<(), ConfigError> {
    let there = data_directory.ancestors().find(|above| above.exists()).unwrap_or(Path::new("."));
    let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
    // Where the system does not tell, the start will say more.
    let Ok(disk) = rustix::fs::statvfs(there) else { return Ok(()) };
    let has = disk.f_blocks.saturating_mul(disk.f_frsize);
    let sizes = [("max_journal_bytes", file.max_journal_bytes), ("min_free_bytes", file.min_free_bytes)];
    for (name, wanted) in sizes.iter().filter_map(|(name, wanted)| Some((name, (*wanted)?))) {
        if wanted.0 > has {
            let problem = format!(
                "{name} = \"{wanted}\"; use less, or mount the disk that belongs there: that of {} has {} MiB in all",
                data_directory.display(),
                has >> 20
            );
            return Err(invalid(path, problem));
        }
    }
    Ok(())
}

fn check_histograms(path: &Path, file: &HistogramFile) -> Result<HistogramConfig, ConfigError> {
    if file.interval_s > HISTOGRAM_INTERVAL_S_MAX {
        let problem = format!(
            "histograms.interval_s = {}; use 0 (only on SIGUSR1) to {HISTOGRAM_INTERVAL_S_MAX}, which is a day",
            file.interval_s
        );
        return Err(invalid(path, problem));
    }
    let beside = path.parent().unwrap_or(Path::new("."));
    let directory = match &file.directory {
        Some(directory) => beside.join(directory),
        None => PathBuf::from("histograms"),
    };
    if directory.exists() && !directory.is_dir() {
        let problem = format!(
            "histograms.directory: {} is no directory; name another one or move it away",
            directory.display()
        );
        return Err(invalid(path, problem));
    }
    let interval = (file.interval_s > 0).then(|| Duration::from_secs(file.interval_s));
    Ok(HistogramConfig { directory, interval })
}

fn check_cores(path: &Path, cores: &[usize]) -> Result<Vec<Option<usize>>, ConfigError> {
    if cores.is_empty() {
        return Ok(vec![None]);
    }
    if cores.len() > CORES_MAX {
        return Err(invalid(path, format!("cores names {} CPUs; at most {CORES_MAX}", cores.len())));
    }
    let allowed = quorate_reactor::allowed_cpus().unwrap_or_default();
    for core in cores {
        if !allowed.contains(core) {
            let problem = format!("cores names CPU {core}; this process may use {allowed:?}");
            return Err(invalid(path, problem));
        }
    }
    Ok(cores.iter().map(|core| Some(*core)).collect())
}

fn check_spin(path: &Path, file: &NodeFile) -> Result<Duration, ConfigError> {
    match file.spin_us {
        Some(wanted) if wanted > SPIN_US_MAX => Err(invalid(
            path,
            format!("spin_us = {wanted}; use 0 to {SPIN_US_MAX}, with which a core polls all the time"),
        )),
        wanted => Ok(Duration::from_micros(spin_us(wanted, &file.cores))),
    }
}

/// What the file asks for that works, and that whoever wrote it did probably not mean.
fn remarks(file: &NodeFile) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    let twice: std::collections::BTreeSet<_> = file.cores.iter().filter(|cpu| !seen.insert(**cpu)).collect();
    let remark = |cpu: &usize| {
        format!(
            "cores names CPU {cpu} more than once: its threads take turns on it, and none of them polls; name each CPU \
             once, unless there are too few for the links"
        )
    };
    twice.into_iter().map(remark).collect()
}

/// Polling pays only while every polling thread has a CPU; otherwise it takes the CPU from the thread that is waited
/// for, whatever the file says.
fn spin_us(wanted: Option<u64>, cores: &[usize]) -> u64 {
    let distinct: std::collections::BTreeSet<_> = cores.iter().collect();
    let allowed = quorate_reactor::allowed_cpus().map_or(1, |cpus| cpus.len());
    let threads = cores.len().max(1);
    match wanted {
        _ if distinct.len() < cores.len() || threads > allowed => 0,
        Some(wanted) => wanted,
        None if cores.is_empty() => 0,
        None => SPIN_US,
    }
}
