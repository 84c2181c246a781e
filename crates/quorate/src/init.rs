//! `quorate init`: writes the files of a new cluster.

use crate::cluster_files::{CLUSTER_FILE, NewCluster, replica_file};
use crate::failure::Failure;
use crate::ports::Reservation;
use clap::Args;
use quorate_types::{ByteCount, Quorums};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const AFTER_HELP: &str = "\
Written are cluster.toml, which all replicas and clients share, replica-N.toml and replica-N.key for each replica, \
client-N.key for each client, keys with mode 0600, and data-N for each replica: its data directory, empty and formatted. \
Nothing that exists is overwritten. On another host, `quorate format` makes the data directory.

Ports from the base on: one for the clients of each replica, then `links` mesh ports for each replica. With the \
defaults clients use 7400 to 7403 and replicas among themselves 7404 to 7407.

Examples:
  quorate init --replicas 4
  quorate init --replicas 7 --dir /var/lib/quorate --base-port 9000 --clients 3";

/// Write keys and configuration of a new cluster.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct InitArguments {
    #[command(flatten)]
    cluster: NewClusterArguments,
}

/// What a new cluster is to be like.
#[derive(Args, Debug)]
pub(crate) struct NewClusterArguments {
    /// Number of replicas, 1 to 100. 4 tolerate one that crashes or lies, 7 two, 10 three.
    #[arg(long, value_name = "N", default_value_t = 4)]
    replicas: usize,
    /// Directory for the files; it is created.
    #[arg(long, value_name = "DIR", default_value = "quorate-data")]
    pub(crate) dir: PathBuf,
    /// Address of all replicas. Only loopback addresses work in this version.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,
    /// First of the ports; `quorate init --help` says which follow it.
    #[arg(long, value_name = "PORT", default_value_t = 7400)]
    base_port: u16,
    /// Take ports that are free now instead of those from `--base-port` on. Whoever listens on the port before them keeps
    /// others that ask for free ports away from all of them.
    #[arg(long, conflicts_with = "base_port")]
    free_ports: bool,
    /// Parallel connections between each pair of replicas, 1 to 64. More pay only with as many cores per replica.
    #[arg(long, value_name = "N", default_value_t = 1)]
    links: u8,
    /// Number of client keys. The first is what `quorate kv` and `quorate status` use by default.
    #[arg(long, value_name = "N", default_value_t = 1)]
    clients: usize,
    /// What users' keys and values may come to in all, as `512 MiB`, each entry with 32 bytes more; 8 GiB if left out. The
    /// state is in the memory of every replica, where it takes up to 1.7 times as much. It stays as it is for the life of the
    /// cluster; `quorate restore` makes one with more of a backup.
    #[arg(long, value_name = "BYTES")]
    state_max: Option<ByteCount>,
}

impl NewClusterArguments {
    /// The cluster, if there can be such a one.
    pub(crate) fn check(&self) -> Result<NewCluster, Failure> {
        let mut cluster = NewCluster {
            replicas: self.replicas,
            clients: self.clients,
            links: self.links,
            host: self.host,
            base_port: self.base_port,
            durability: "sync",
            state_max: self.state_max,
        };
        cluster.check()?;
        if self.free_ports {
            cluster.base_port = Reservation::of(cluster.host, cluster.ports())?.first();
        }
        Ok(cluster)
    }
}

pub(crate) fn run(arguments: &InitArguments) -> Result<ExitCode, Failure> {
    let cluster = arguments.cluster.check()?;
    let names = cluster.write(&arguments.cluster.dir)?;
    crate::output::print(describe(&cluster, &arguments.cluster.dir, &names))?;
    Ok(ExitCode::SUCCESS)
}

/// What was written for a new cluster, and how to go on.
pub(crate) fn describe(cluster: &NewCluster, directory: &Path, names: &[String]) -> String {
    let Quorums { replicas, faults, quorum, .. } = Quorums::of(cluster.replicas);
    let program = std::env::args().next().unwrap_or_else(|| "quorate".to_owned());
    let shown = directory.display();
    let mut text = format!(
        "A cluster of {replicas} replicas: {quorum} must work together, {faults} may crash or lie.\n\
         Written to {shown}: {}\n\nStart each replica, each in a terminal of its own:\n",
        names.join(", ")
    );
    for replica in 0..replicas {
        let config = directory.join(replica_file(replica));
        text += &format!("  {program} start --config {}\n", config.display());
    }
    let file = directory.join(CLUSTER_FILE);
    let file = file.display();
    text += &format!(
        "or all of them at once:\n  {program} dev --dir {shown}\n\nThen:\n  \
         {program} status --cluster {file}\n  {program} kv --cluster {file} set greeting hello\n"
    );
    text
}
