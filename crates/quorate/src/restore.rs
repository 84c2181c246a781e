//! `quorate restore`: a new cluster with the keys of a backup, or the data directory of one of its replicas.

use crate::backup_files::Backup;
use crate::failure::Failure;
use crate::init::{NewClusterArguments, describe};
use crate::output;
use clap::Args;
use quorate_daemon::{Identity, NodeConfig, Role, format_with_state, read_cluster};
use quorate_state::{Frozen, State};
use quorate_types::{ByteCount, ClusterConfig, PublicKey, limits};
use std::path::PathBuf;
use std::process::ExitCode;

const AFTER_HELP: &str = "\
The backup is verified whole first: every page, and the signatures of a quorum of the cluster that it was taken from. \
Which cluster that was is read from the backup; with --trust it must be the one that you name.

The new cluster has a new identity, new keys, and the same keys and values, each with the version that it had. New \
versions begin far above: none that the old cluster gave, also after the backup, is given again. Sessions are not \
carried over: clients of the old cluster are none of the new one. All files are those that `quorate init` writes; the \
root of the first state stands in cluster.toml, so that no replica starts without it. The old and the new state are in \
memory meanwhile.

With --config, only the data directory of one replica of a restored cluster is made anew from the same backup. The \
replica may have forgotten votes, so it casts none from then on.

Examples:
  quorate restore --from /backups/monday --dir data
  quorate restore --from /backups/monday --dir data --replicas 7 --base-port 9000 --trust old/cluster.toml
  quorate restore --from /backups/monday --config data/replica-2.toml     a replica that has lost its disk";

/// How many revisions a restored cluster leaves out: more than the old one can have given after the backup, which is
/// twelve days of a million writes a second. A version that a program still holds then names no other value. Eight
/// thousand restores fit below 2^53, up to which programs that take numbers for floating point read versions exactly.
const REVISIONS_LEFT_OUT: u64 = 1 << 40;

/// Make a new cluster from a backup.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct RestoreArguments {
    /// The backup, as `quorate backup` has written it.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// Cluster file of the cluster that was backed up, from a source that you trust.
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// Configuration of one replica of a restored cluster whose data directory is to be made anew.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["replicas", "dir", "host", "base_port", "free_ports", "links", "clients", "state_max"]
    )]
    config: Option<PathBuf>,
    #[command(flatten)]
    cluster: NewClusterArguments,
}

pub(crate) fn run(arguments: &RestoreArguments) -> Result<ExitCode, Failure> {
    Backup::check_is_there(&arguments.from)?;
    let trusted = arguments.trust.as_ref().map(|path| read_cluster(path)).transpose()?;
    let text = match &arguments.config {
        Some(path) => {
            let config = NodeConfig::read(path)?;
            let backup = Backup::read(&arguments.from, trusted.as_ref())?;
            restore_replica(&config, &backup, path.display())?
        }
        None => {
            let cluster = arguments.cluster.check()?;
            let backup = Backup::read(&arguments.from, trusted.as_ref())?;
            check_room(&backup, cluster.state_max)?;
            let names =
                cluster.write_with(&arguments.cluster.dir, |clients| first_state(&backup, clients))?;
            let (seq, keys) = (backup.summary.seq, backup.summary.user_keys);
            let from = arguments.from.display();
            let first = format!("{keys} keys of {from}, as they were after seq {seq} of their cluster.\n");
            first + &describe(&cluster, &arguments.cluster.dir, &names)
        }
    };
    output::print(text)?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses a cluster that could not write what the backup holds.
fn check_room(backup: &Backup, state_max: Option<ByteCount>) -> Result<(), Failure> {
    let bytes = backup.state.user_bytes();
    let max = state_max.unwrap_or(ByteCount(limits::STATE_BYTES_MAX));
    if bytes > max.0 {
        return Err(Failure::usage(format!(
            "--state-max {max}: the keys and values of the backup come to {} with 32 for each entry; name as much or more",
            ByteCount(bytes)
        )));
    }
    Ok(())
}

/// The state with which a cluster with these clients begins.
fn first_state(backup: &Backup, clients: &[PublicKey]) -> Frozen {
    let clients = clients.iter().map(|key| *key.as_bytes());
    let revision = backup.state.revision().saturating_add(REVISIONS_LEFT_OUT);
    State::beginning_with(clients, revision, backup.state.user_entries()).freeze()
}

fn restore_replica(
    config: &NodeConfig,
    backup: &Backup,
    path: std::path::Display<'_>,
) -> Result<String, Failure> {
    let cluster: &ClusterConfig = &config.cluster;
    let state = first_state(backup, cluster.clients());
    if cluster.genesis_root() != Some(state.root()) {
        return Err(Failure::usage(format!(
            "{path}: its cluster did not begin with this backup (genesis_root in its cluster file); name the backup that \
             it was restored from"
        )));
    }
    let role = Role::Learner { reason: "its directory was made anew from a backup".to_owned() };
    let identity = Identity::new(cluster, config.replica, role);
    format_with_state(&config.data_directory, &identity, &state)?;
    let (directory, replica) = (config.data_directory.display(), config.replica);
    Ok(format!("{directory} is formatted for replica {replica}, which casts no votes\n"))
}
