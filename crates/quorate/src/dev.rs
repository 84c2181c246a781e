//! `quorate dev`: a local cluster in the foreground, for trying things out.

use crate::cluster_files::{CLUSTER_FILE, NewCluster};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::local_cluster::LocalCluster;
use crate::output;
use crate::report::{POSITIONS, ask_all};
use crate::verdict::{Roots, Verdict};
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// How often the replicas are looked after.
const TICK: Duration = Duration::from_millis(200);
/// How long replicas may take to say how they are after one has died.
const REPORT_DEADLINE: Duration = Duration::from_secs(5);

const AFTER_HELP: &str = "\
Each replica is a process of its own, on free ports of 127.0.0.1. Their logs are replica-N.log in the directory; \
QUORATE_LOG=debug makes them longer. When a replica dies, the others go on.

Without --dir the data is gone after Ctrl-C.

Examples:
  quorate dev
  quorate dev --replicas 7 --dir quorate-data          `quorate kv` and `quorate status` find it there";

/// Run a local cluster in the foreground until Ctrl-C.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct DevArguments {
    /// Number of replicas, 1 to 100. [default: 4, or what the cluster in `--dir` has]
    #[arg(long, value_name = "N")]
    replicas: Option<usize>,
    /// Directory for configuration, keys and logs; a cluster that is there is used again. [default: a temporary
    /// one, removed in the end]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn run(arguments: &DevArguments) -> Result<ExitCode, Failure> {
    let interrupt = Interrupt::watch()?;
    let mut cluster = start(arguments)?;
    let ready = cluster.wait_until_ready(|time| interrupt.wait(time))?;
    if ready {
        output::print(greeting(&cluster))?;
        watch(&mut cluster, &interrupt);
        output::note("stopping all replicas");
    }
    match cluster.stop().as_slice() {
        [] => Ok(ExitCode::SUCCESS),
        problems => Err(Failure::Run(anyhow::anyhow!("{}", problems.join("\n")))),
    }
}

fn start(arguments: &DevArguments) -> Result<LocalCluster, Failure> {
    let Some(directory) = &arguments.dir else {
        return LocalCluster::start_new("quorate-dev-", arguments.replicas.unwrap_or(4), 1, "sync");
    };
    if !directory.join(CLUSTER_FILE).exists() {
        let (cluster, reservation) = NewCluster::local(arguments.replicas.unwrap_or(4), 1, "sync")?;
        cluster.write(directory)?;
        return LocalCluster::start_in(directory, Some(reservation));
    }
    let cluster = LocalCluster::start_in(directory, None)?;
    check_size(arguments.replicas, cluster.config().members().len(), directory)?;
    Ok(cluster)
}

fn check_size(wanted: Option<usize>, found: usize, directory: &Path) -> Result<(), Failure> {
    match wanted {
        Some(wanted) if wanted != found => Err(Failure::usage(format!(
            "{}: the cluster has {found} replicas and --replicas asks for {wanted}; leave --replicas out, or give \
             another --dir",
            directory.join(CLUSTER_FILE).display()
        ))),
        _ => Ok(()),
    }
}

fn greeting(cluster: &LocalCluster) -> String {
    let quorums = cluster.config().quorums();
    let program = std::env::args().next().unwrap_or_else(|| "quorate".to_owned());
    // Absolute, since the other terminal may be in another directory.
    let path = std::path::absolute(cluster.directory()).unwrap_or_else(|_| cluster.directory().to_owned());
    let directory = path.display();
    let end = if cluster.is_temporary() { " and removes the directory" } else { "" };
    format!(
        "{} replicas are ready: {} must work together, {} may crash or lie. Files and logs: {directory}\n\n\
         In another terminal:\n  export QUORATE_CLUSTER={}\n  {program} kv set greeting hello\n  \
         {program} kv get greeting\n  {program} status\n\nCtrl-C stops all replicas{end}.\n",
        quorums.replicas,
        quorums.quorum,
        quorums.faults,
        path.join(CLUSTER_FILE).display(),
    )
}

/// Tells who dies, until somebody ends it.
fn watch(cluster: &mut LocalCluster, interrupt: &Interrupt) {
    while !interrupt.wait(TICK) {
        let ended = cluster.newly_ended();
        if ended.is_empty() {
            continue;
        }
        ended.iter().for_each(|text| output::note(text));
        let answers = ask_all(cluster.config(), &cluster.client_keys()[0], &POSITIONS, REPORT_DEADLINE);
        let verdict = Verdict::of(cluster.config(), &answers, &Roots::of(&answers));
        output::note(verdict.text(cluster.config(), &answers).trim_end());
    }
}
