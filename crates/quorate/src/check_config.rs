//! `quorate check-config`: says what files would run, without running it.

use crate::failure::Failure;
use crate::output;
use crate::start;
use clap::Args;
use quorate_daemon::{
    DirectoryError, HistogramConfig, Identity, MemoryBounds, NodeConfig, Role, StartError, check_plaintext,
    examine_start, memory, read_cluster,
};
use quorate_types::{ByteCount, ClusterConfig, Quorums, limits};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const AFTER_HELP: &str = "\
A replica's file is checked together with the cluster file, the key and the data directory that it names, as `quorate \
start` checks them. Whether ports are free, and what is in the log, is found out by the start alone; `quorate inspect` \
reads a log. What works and is rarely meant is a hint.

Exit codes: 0 all files are sound, 2 one is not; every problem is one line that names file, field and remedy. A replica \
whose data directory is yet to be made, or that has halted, has sound files all the same: the output says what it needs.

Examples:
  quorate check-config quorate-data/cluster.toml
  quorate check-config quorate-data/*.toml";

/// Check cluster.toml or replica-N.toml files without starting anything.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct CheckConfigArguments {
    /// Files to check, of either kind.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(crate) fn run(arguments: &CheckConfigArguments) -> Result<ExitCode, Failure> {
    let mut code = ExitCode::SUCCESS;
    for file in &arguments.files {
        match describe(file) {
            Ok(text) => output::print(text)?,
            Err(failure) => code = failure.report(),
        }
    }
    Ok(code)
}

fn describe(path: &Path) -> Result<String, Failure> {
    if is_cluster_file(path) {
        let cluster = read_cluster(path)?;
        check_plaintext(path, &cluster)?;
        Ok(describe_cluster(path, &cluster))
    } else {
        let config = NodeConfig::read(path)?;
        let data = describe_data(path, &config)?;
        Ok(describe_replica(path, &config, &data))
    }
}

/// Only a cluster file has an id or a list of replicas. What cannot be read at all is left to the readers, whose
/// messages are better; the name then tells which.
fn is_cluster_file(path: &Path) -> bool {
    let table = std::fs::read_to_string(path).ok().and_then(|text| text.parse::<toml::Table>().ok());
    match table {
        Some(table) => {
            table.contains_key("cluster_id") || table.get("replica").is_some_and(toml::Value::is_array)
        }
        None => path.file_name().is_some_and(|name| name.to_string_lossy().contains("cluster")),
    }
}

fn describe_cluster(path: &Path, config: &ClusterConfig) -> String {
    let Quorums { replicas, faults, quorum, .. } = config.quorums();
    let mut text = format!(
        "{}: a cluster of {replicas} replicas, {quorum} of which must work together and {faults} may crash or lie\n",
        path.display()
    );
    for (replica, member) in config.replica_ids().zip(config.members()) {
        let _ = writeln!(text, "  replica {replica}: clients {}, replicas {}", member.client, member.mesh);
    }
    let _ = writeln!(
        text,
        "  {} allowed clients, {} links between each pair of replicas, epoch {}, configuration {}",
        config.clients().len(),
        config.links(),
        config.epoch(),
        config.digest().short()
    );
    let state_max = config.tuning().state.bytes_max;
    let memory = state_max / 10 * limits::STATE_MEMORY_TENTHS;
    let _ = writeln!(
        text,
        "  room for keys and values that come to {}, with 32 bytes for each entry: up to {} MiB of memory in each replica",
        ByteCount(state_max),
        memory >> 20
    );
    memory::remark(state_max).iter().for_each(|remark| text += &format!("  hint: {remark}\n"));
    text
}

fn describe_replica(path: &Path, config: &NodeConfig, data: &str) -> String {
    let Quorums { replicas, .. } = config.cluster.quorums();
    let member = &config.cluster.members()[config.replica.index()];
    let cores = match config.cores.iter().flatten().map(ToString::to_string).collect::<Vec<_>>() {
        pinned if pinned.is_empty() => "one thread that is not pinned".to_owned(),
        pinned => format!("one thread on each of the CPUs {}", pinned.join(", ")),
    };
    let mut text = format!(
        "{}: replica {} of {replicas}: clients {}, replicas {}\n  {cores}, polling for {} µs before it sleeps; \
         durability {}, security {}, configuration {}\n  {data}\n  {}\n  {}\n",
        path.display(),
        config.replica,
        member.client,
        member.mesh,
        config.spin.as_micros(),
        config.durability.name(),
        config.security,
        config.cluster.digest().short(),
        describe_memory(&MemoryBounds::of(&config.cluster, config.cores.len())),
        describe_dumps(&config.histograms),
    );
    config.remarks.iter().for_each(|remark| text += &format!("  hint: {remark}\n"));
    text
}

/// Where the data is, whose it is, and what it may take. That of others is as wrong as a wrong file.
fn describe_data(path: &Path, config: &NodeConfig) -> Result<String, Failure> {
    let directory = &config.data_directory;
    let role = match examine_start(config) {
        Ok(Identity { role: Role::Founding, .. }) => "formatted".to_owned(),
        Ok(Identity { role: Role::Learner { reason }, .. }) => {
            format!("of a learner, which casts no votes: {reason}")
        }
        Err(StartError::Halted { reason, .. }) => {
            format!("of a replica that has halted and does not start before `quorate clear-halt`: {reason}")
        }
        Err(StartError::Directory(DirectoryError::Unformatted { reason, .. })) => {
            format!("not formatted, so that the replica does not start: {reason}; `quorate format` makes it")
        }
        Err(StartError::Recovery { problem, .. }) => {
            format!("not formatted, so that the replica does not start: {problem}")
        }
        Err(error) => return Err(start::explain(path, &config.cluster, error)),
    };
    Ok(format!(
        "data in {}, {role}; the log takes at most {} MiB and leaves {} MiB of the disk free",
        directory.display(),
        config.journal_bytes_max >> 20,
        config.free_bytes_min >> 20
    ))
}

fn describe_memory(bounds: &MemoryBounds) -> String {
    let MemoryBounds { clients, replies, lanes, peers } = *bounds;
    format!(
        "memory beside the state and the log's buffers at most {} MiB, whatever others do: clients {}, replies kept for retries {}, \
         batches {}, queues to other replicas {}",
        bounds.sum() >> 20,
        clients >> 20,
        replies >> 20,
        lanes >> 20,
        peers >> 20
    )
}

fn describe_dumps(config: &HistogramConfig) -> String {
    let also = match config.interval {
        Some(interval) => format!(" and every {} s", interval.as_secs()),
        None => String::new(),
    };
    format!("histograms to {} on SIGUSR1{also}", config.directory.display())
}
