//! `quorate clear-halt`: lets a replica that a safety check has halted start again.

use crate::failure::Failure;
use clap::Args;
use quorate_daemon::NodeConfig;
use std::path::PathBuf;
use std::process::ExitCode;

const AFTER_HELP: &str = "\
A replica halts when going on would not be safe, such as when its state differs from the one that a quorum has signed. It \
remembers that and halts again at each start, so that no service manager brings it back before somebody has looked. Keep \
a copy of its data directory and find out why before this.

Examples:
  quorate clear-halt --config /etc/quorate/replica-2.toml";

/// Let a replica that has halted start again.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ClearHaltArguments {
    /// Configuration of the replica, as `quorate init` writes it.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(crate) fn run(arguments: &ClearHaltArguments) -> Result<ExitCode, Failure> {
    let config = NodeConfig::read(&arguments.config)?;
    let mut data = quorate_daemon::open(&config.data_directory, &config.cluster, config.replica)?;
    let text = match data.identity().halted.clone() {
        Some(reason) => {
            data.set_halted(None)?;
            format!("replica {} may start again; it had halted because: {reason}\n", config.replica)
        }
        None => format!("replica {} has not halted\n", config.replica),
    };
    crate::output::print(text)?;
    Ok(ExitCode::SUCCESS)
}
