//! `quorate inspect`: what is in a data directory, offline.

use crate::backup_files::{Backup, SUMMARY};
use crate::failure::{Failure, in_full};
use crate::output;
use clap::Args;
use quorate_daemon::read_cluster;
use quorate_types::ClusterConfig;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const AFTER_HELP: &str = "\
Nothing is changed or locked, so this may be done while the replica runs; what it is writing at that moment may then \
look torn. Checkpoints are verified by reading every block of them, which holds one state in memory at a time.

The last line says whether the directory is sound, and what a replica that starts on it would do: go on and vote, or \
go on as a learner and why, which torn tail it drops, and which batches and states it takes from other replicas. A \
torn tail is what a crash leaves, and no damage. A backup is verified as `quorate restore` does.

Two things need the replica's own file, and are for a start to judge: whether its key is in use with another directory, \
and whether its number of cores is that of the logs. With --cluster it is seen whether the cluster began with this state.

Exit codes: 0 sound, 1 damaged or no replica starts on it, 2 wrong usage.

Examples:
  quorate inspect quorate-data/data-0
  quorate inspect quorate-data/data-0 --cluster quorate-data/cluster.toml
  quorate inspect quorate-data/data-0 --records | less";

/// Show what is in a data directory and verify it.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct InspectArguments {
    /// The data directory of a replica, or a backup.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Print every group and every record of the logs instead of a line per segment.
    #[arg(long)]
    records: bool,
    /// Verify the signatures in certificates with the keys in this cluster file.
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
}

pub(crate) fn run(arguments: &InspectArguments) -> Result<ExitCode, Failure> {
    if !arguments.directory.is_dir() {
        let path = arguments.directory.display();
        return Err(Failure::usage(format!(
            "{path}: there is no such directory; name the data_dir of a replica, or a backup"
        )));
    }
    let cluster = arguments.cluster.as_deref().map(read_cluster).transpose()?;
    if arguments.directory.join(SUMMARY).is_file() {
        return inspect_backup(&arguments.directory, cluster.as_ref());
    }
    let (directory, records) = (&arguments.directory, arguments.records);
    let inspection = quorate_daemon::inspect::inspect(directory, records, cluster.as_ref())?;
    output::print(inspection.to_string())?;
    Ok(if inspection.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn inspect_backup(directory: &Path, cluster: Option<&ClusterConfig>) -> Result<ExitCode, Failure> {
    let path = directory.display();
    match Backup::read(directory, cluster) {
        Ok(Backup { summary, .. }) => {
            let (seq, keys, cluster_id) = (summary.seq, summary.user_keys, summary.cluster_id);
            output::print(format!(
                "{path}: a backup of cluster {cluster_id}, {keys} keys, as they were after seq {seq}\nSound. Every block \
                 of it was read, and a quorum has signed the root of its state.\n"
            ))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            output::print(format!(
                "{path}: a backup\nDAMAGED: {}\nDamaged. Nothing is restored from it.\n",
                in_full(&error)
            ))?;
            Ok(ExitCode::FAILURE)
        }
    }
}
