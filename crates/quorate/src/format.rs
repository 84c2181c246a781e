//! `quorate format`: makes the data directory of one replica.

use crate::failure::Failure;
use clap::Args;
use quorate_daemon::{NodeConfig, Role};
use std::path::PathBuf;
use std::process::ExitCode;

const AFTER_HELP: &str = "\
The directory is the one that the configuration names in data_dir. It must be empty or missing: nothing is formatted \
over. `quorate init` has made the directories of a new cluster already; this is for a replica whose files were moved \
to another host, and for one that has lost its disk.

A replica that has ever voted may have forgotten its votes with its disk, and could contradict them. So a new directory \
makes a voter only where the key was never used, which the file KEY.never-spoken beside it says, written by `quorate \
init` and removed here or by the first start. Without it, or with --learner, the replica follows the cluster, stores \
and serves, and casts no votes.

With --learner a directory that is there and the replica's own is kept: what is in it is used, and no votes are cast. \
That is for one of which a part is lost, so that `quorate start` refuses it. Nothing makes a voter of it again, and with \
more than f learners nothing is ordered any more: `quorate backup --help` has the way out of that.

Examples:
  quorate format --config /etc/quorate/replica-2.toml             a replica of a new cluster
  quorate format --config /etc/quorate/replica-2.toml --learner   a replica that has lost its disk, or a part of it";

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
    let text = if arguments.learner {
        let (path, reason) = (&config.data_directory, "formatted with --learner".to_owned());
        let is_new = quorate_daemon::format_learner(path, &config.cluster, config.replica, reason)?;
        describe(&config, is_new, ", which casts no votes")
    } else {
        format(&config)?
    };
    crate::output::print(text)?;
    Ok(ExitCode::SUCCESS)
}

/// Makes the directory of a voter where the key was never used, else of a learner.
fn format(config: &NodeConfig) -> Result<String, Failure> {
    let (path, key_file, key) = (&config.data_directory, &config.key_file, config.key.public());
    let role = quorate_daemon::format_with_key(path, &config.cluster, config.replica, (key_file, &key))?;
    let why = match role {
        Role::Founding => String::new(),
        Role::Learner { reason } => format!(", which casts no votes: {reason}"),
    };
    Ok(describe(config, true, &why))
}

fn describe(config: &NodeConfig, is_new: bool, role: &str) -> String {
    let what = if is_new { "is formatted for" } else { "is kept for" };
    format!("{} {what} replica {}{role}\n", config.data_directory.display(), config.replica)
}
