//! The configuration of one replica process: `replica.toml`, the cluster file and the key that it names.

use quorate_types::{ClusterConfig, CoreId, ReplicaId, SigningKey};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// The largest number of cores of one replica.
const CORES_MAX: usize = 64;

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
    /// What an acknowledgement promises. Only `memory` exists yet: data lives as long as the processes.
    pub durability: String,
    /// How long a core polls before it sleeps, in microseconds. Default: 20 when `cores` are named and as many
    /// are free, else 0. Polling shortens hand-offs but burns a core; 0 when cores are shared with others.
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
    /// The CPU of each core; none for a thread that is not pinned. At least one.
    pub cores: Vec<Option<usize>>,
    /// How long a core polls before it sleeps.
    pub spin: Duration,
    /// What an acknowledgement promises.
    pub durability: &'static str,
    /// What protects the links.
    pub security: &'static str,
    /// Where and how often histograms are dumped.
    pub histograms: HistogramConfig,
}

impl NodeConfig {
    /// Reads and checks `replica.toml` and the files that it names.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path, "`quorate init` writes one for each replica")?;
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
        let durability = check_durability(path, &file.durability)?;
        let cores = check_cores(path, &file.cores)?;
        let spin = Duration::from_micros(file.spin_us.unwrap_or_else(|| default_spin_us(&file.cores)));
        let histograms = check_histograms(path, &file.histograms)?;
        Ok(Self { cluster, replica, key, cores, spin, durability, security, histograms })
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
    let text = read(path, "`quorate init` writes one; all replicas and clients share it")?;
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
    let mut addresses = cluster.members().iter().flat_map(|member| [member.mesh, member.client]);
    match addresses.find(|address| !address.ip().is_loopback()) {
        None => Ok("plaintext"),
        Some(address) => Err(invalid(
            path,
            format!(
                "security = \"plaintext\" is refused because {address} is not a loopback address: anybody on \
                 the way could read and change what is sent; use loopback addresses in the cluster file"
            ),
        )),
    }
}

fn check_durability(path: &Path, durability: &str) -> Result<&'static str, ConfigError> {
    match durability {
        "memory" => Ok("memory"),
        "sync" | "async" => Err(invalid(
            path,
            format!("durability = \"{durability}\" does not exist in this version; use \"memory\""),
        )),
        other => Err(invalid(path, format!("durability = \"{other}\"; use \"memory\""))),
    }
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

/// Polling pays only while every polling thread has a CPU.
fn default_spin_us(cores: &[usize]) -> u64 {
    let distinct: std::collections::BTreeSet<_> = cores.iter().collect();
    let allowed = quorate_reactor::allowed_cpus().map_or(1, |cpus| cpus.len());
    if !cores.is_empty() && distinct.len() == cores.len() && cores.len() <= allowed { 20 } else { 0 }
}
