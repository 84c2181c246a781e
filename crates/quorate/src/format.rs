//! `quorate format`: makes the data directory of one replica.

use crate::failure::Failure;
use clap::Args;
use quorate_daemon::{Identity, NodeConfig, Role};
use std::path::PathBuf;
use std::process::ExitCode;

const AFTER_HELP: &str = "\
The directory is the one that the configuration names in data_dir. It must be empty or missing: nothing is formatted \
over. `quorate init` has made the directories of a new cluster already; this is for a replica whose files were moved \
to another host, and for one that has lost its disk.

A replica that has ever voted may have forgotten its votes with its disk, and could contradict them. It must be \
formatted with --learner: it then follows the cluster, stores and serves, and casts no votes.

Examples:
  quorate format --config /etc/quorate/replica-2.toml             a replica of a new cluster
  quorate format --config /etc/quorate/replica-2.toml --learner   a replica that has lost its disk";

/// Make the data directory of a replica.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct FormatArguments {
    /// Configuration of the replica, as `quorate init` writes it.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The replica may have voted before: it is to cast no votes.
    #[arg(long)]
    learner: bool,
}

pub(crate) fn run(arguments: &FormatArguments) -> Result<ExitCode, Failure> {
    let config = NodeConfig::read(&arguments.config)?;
    let role = match arguments.learner {
        true => Role::Learner { reason: "formatted with --learner".to_owned() },
        false => Role::Founding,
    };
    let identity = Identity::new(&config.cluster, config.replica, role);
    quorate_daemon::format(&config.data_directory, &identity)?;
    let role = if arguments.learner { ", which casts no votes" } else { "" };
    let (directory, replica) = (config.data_directory.display(), config.replica);
    crate::output::print(format!("{directory} is formatted for replica {replica}{role}\n"))?;
    Ok(ExitCode::SUCCESS)
}
