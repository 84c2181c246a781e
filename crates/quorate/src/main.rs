//! The one binary of Quorate. Each subcommand has a file of its own and hands over to a library.
#![forbid(unsafe_code)]

mod backup;
mod backup_files;
mod bench;
mod channel;
mod check_config;
mod clear_halt;
mod cluster_arguments;
mod cluster_files;
mod dev;
mod doctor;
mod failure;
mod format;
mod histograms;
mod init;
mod inspect;
mod interrupt;
mod kv;
mod local_cluster;
mod logging;
mod new_backup;
mod offline_backup;
mod output;
mod ports;
mod report;
mod restore;
mod start;
mod status;
mod usage;
mod verdict;
mod watch;

use crate::failure::Failure;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: quorate_reactor::CountingAllocator = quorate_reactor::CountingAllocator;

const AFTER_HELP: &str = "\
Examples:
  quorate dev --dir quorate-data              run 4 replicas here until Ctrl-C
  quorate kv set greeting hello               in another terminal of that directory: write a key
  quorate status                              see whether the cluster makes progress
  quorate status --watch                      see what an operation costs and where its time goes
  quorate bench --duration 10                 load a local cluster and compare all roots
  quorate init --replicas 4 --dir data        write keys and configuration, then run each replica:
  quorate start --config data/replica-0.toml

Exit codes: 0 good, 1 failed at run time, 2 wrong configuration or usage, 3 halted by a safety check; `kv` and \
`status` have others, which their help explains.";

/// A key-value store that n replicas keep alike, also when f = (n − 1) / 3 of them crash or lie.
#[derive(Parser, Debug)]
#[command(name = "quorate", version, after_help = AFTER_HELP, max_term_width = 100)]
struct Cli {
    /// What to write to standard error: off, error, warn, info, debug or trace, or per part, such as
    /// `warn,quorate_daemon=debug`. [default: info for `start`, warn for all others]
    #[arg(long, global = true, value_name = "LEVEL", env = "QUORATE_LOG")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Init(init::InitArguments),
    Format(format::FormatArguments),
    Start(start::StartArguments),
    Dev(dev::DevArguments),
    Kv(kv::KvArguments),
    Status(status::StatusArguments),
    Histograms(histograms::HistogramsArguments),
    CheckConfig(check_config::CheckConfigArguments),
    Inspect(inspect::InspectArguments),
    ClearHalt(clear_halt::ClearHaltArguments),
    Backup(backup::BackupArguments),
    Restore(restore::RestoreArguments),
    Doctor(doctor::DoctorArguments),
    Bench(Box<bench::BenchCommand>),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => match usage::explain(&error) {
            Some(text) => return Failure::usage(text).report(),
            None => error.exit(),
        },
    };
    match start_logging(&cli).and_then(|()| run(&cli.command)) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

fn run(command: &Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Init(arguments) => init::run(arguments),
        Command::Format(arguments) => format::run(arguments),
        Command::Start(arguments) => start::run(arguments),
        Command::Dev(arguments) => dev::run(arguments),
        Command::Kv(arguments) => kv::run(arguments),
        Command::Status(arguments) => status::run(arguments),
        Command::Histograms(arguments) => histograms::run(arguments),
        Command::CheckConfig(arguments) => check_config::run(arguments),
        Command::Inspect(arguments) => inspect::run(arguments),
        Command::ClearHalt(arguments) => clear_halt::run(arguments),
        Command::Backup(arguments) => backup::run(arguments),
        Command::Restore(arguments) => restore::run(arguments),
        Command::Doctor(arguments) => doctor::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
    }
}

fn start_logging(cli: &Cli) -> Result<(), Failure> {
    let default = if matches!(cli.command, Command::Start(_)) { "info" } else { "warn" };
    logging::start(cli.log.as_deref().filter(|level| !level.is_empty()).unwrap_or(default))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn check(command: &clap::Command, path: &str) {
        let name = format!("{path} {}", command.get_name());
        assert!(command.get_about().is_some(), "`{name}` says nothing about itself");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "`{name}`: {argument} is not documented");
        }
        command.get_subcommands().for_each(|subcommand| check(subcommand, &name));
    }

    #[test]
    fn every_command_and_flag_is_documented() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        check(&command, "");
    }
}
