//! `quorate bench`: loads a cluster. The load and the figures are the library's; here is the local cluster of real
//! processes that it loads by default.

use crate::failure::{Failure, in_full};
use crate::local_cluster::LocalCluster;
use crate::{interrupt, output};
use clap::{Args, Subcommand};
use quorate_bench::{
    BenchArguments, CompareArguments, Launch, LaunchRequest, LoadArguments, RunningCluster, StopProblem,
    SweepArguments, Verdict,
};
use quorate_daemon::{read_cluster, read_key};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// As shells report a command that Ctrl-C has ended.
const INTERRUPTED: i32 = 130;

const AFTER_HELP: &str = "\
Without --cluster a local cluster of real processes is started on free ports, loaded, compared and removed. \
Without --rate the loop is closed: clients submit when they get an answer, and latency is service time. With \
--rate bundles leave on a fixed schedule and latency counts from when they should have left.

The exit code is 0 only when no operation failed, all replicas reported and hold the same state, the load \
generator was not the bottleneck and, with --rate, the cluster kept up.

Examples:
  quorate bench                                        throughput of 4 replicas and 4 clients here
  quorate bench --clients 1 --depth 1 --bundle 1       latency of single operations
  quorate bench --rate 50000 --arrival poisson         response time at 50,000 operations/s
  quorate bench --replicas 7 --mix set=10,get=90 --distribution zipfian --out results
  quorate bench --cluster data/cluster.toml --key data/client-0.key
  quorate bench sweep --out results                    climb to the rate that is too high
  quorate bench compare results-before results-after";

const SWEEP_AFTER_HELP: &str = "\
Each rate is an open loop on the same cluster, --step times the one before. The sweep ends when less than 98 % \
of what was due was completed, or when the 99th percentile of response time is above --p99-max; the knee is the \
last rate before that. With --out it writes sweep.json and sweep.html.

Examples:
  quorate bench sweep
  quorate bench sweep --from 10000 --to 200000 --step 1.5 --p99-max 20 --out results";

const COMPARE_AFTER_HELP: &str = "\
A and B are summaries that `quorate bench` wrote with --json, or directories of --out.

Examples:
  quorate bench compare results-before results-after";

/// Load a cluster, measure what an operation costs, and compare the states of all replicas.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP, args_conflicts_with_subcommands = true)]
pub(crate) struct BenchCommand {
    #[command(flatten)]
    arguments: BenchArguments,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Load a cluster at one rate after the other, up to the knee where it no longer keeps up.
    #[command(after_help = SWEEP_AFTER_HELP)]
    Sweep(Box<SweepArguments>),
    /// Print two results side by side, and what was different about the runs.
    #[command(after_help = COMPARE_AFTER_HELP)]
    Compare(CompareArguments),
}

/// The local cluster, for whoever comes first: the end of the run or Ctrl-C.
type Slot = Arc<Mutex<Local>>;

#[derive(Debug, Default)]
struct Local {
    cluster: Option<LocalCluster>,
    interrupted: bool,
}

pub(crate) fn run(command: &BenchCommand) -> Result<ExitCode, Failure> {
    match &command.action {
        None => run_bench(&command.arguments),
        Some(Action::Sweep(arguments)) => run_sweep(arguments),
        Some(Action::Compare(arguments)) => {
            let compared = quorate_bench::compare(arguments);
            output::print(compared.map_err(|error| Failure::usage(in_full(&error)))?.to_string())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn run_bench(arguments: &BenchArguments) -> Result<ExitCode, Failure> {
    arguments.check().map_err(|error| Failure::usage(in_full(&error)))?;
    check_files(&arguments.load)?;
    let verdict = with_cluster(|launch| quorate_bench::run(arguments, launch), Verdict::is_about_replicas)?;
    output::print(verdict.to_string())?;
    say_where(&arguments.load, "report.html");
    Ok(ExitCode::from(verdict.exit_code()))
}

fn run_sweep(arguments: &SweepArguments) -> Result<ExitCode, Failure> {
    arguments.check().map_err(|error| Failure::usage(in_full(&error)))?;
    check_files(&arguments.load)?;
    let report =
        with_cluster(|launch| quorate_bench::sweep(arguments, launch), |report| report.exit_code() != 0)?;
    output::print(report.to_string())?;
    say_where(&arguments.load, "sweep.html");
    Ok(ExitCode::from(report.exit_code()))
}

/// What is wrong with the files that the arguments name is told before anything runs.
fn check_files(arguments: &LoadArguments) -> Result<(), Failure> {
    if let Some(cluster) = &arguments.cluster {
        read_cluster(cluster)?;
    }
    for key in &arguments.key {
        read_key(key)?;
    }
    Ok(())
}

fn say_where(arguments: &LoadArguments, page: &str) {
    if let Some(directory) = &arguments.out {
        output::note(&format!("for the browser: {}", directory.join(page).display()));
    }
}

/// Does something with a local cluster at hand, which ends with it or with Ctrl-C.
fn with_cluster<T>(
    work: impl FnOnce(Launch<'_>) -> anyhow::Result<T>,
    is_about_replicas: fn(&T) -> bool,
) -> anyhow::Result<T> {
    let slot = Slot::default();
    stop_on_signal(&slot)?;
    let result = work(&|request: &LaunchRequest| launch(request, &slot));
    finish(&slot, result.as_ref().is_ok_and(|done| !is_about_replicas(done)));
    result
}

fn launch(request: &LaunchRequest, slot: &Slot) -> anyhow::Result<RunningCluster> {
    let start = || -> Result<LocalCluster, Failure> {
        let LaunchRequest { replicas, clients, durability } = *request;
        LocalCluster::start_new("quorate-bench-", replicas, clients, durability.as_str())
    };
    // Ctrl-C meanwhile waits until the processes are known.
    let mut local = lock(slot);
    let mut cluster = start().map_err(Failure::into_error)?;
    let ready = cluster.wait_until_ready(|time| {
        std::thread::sleep(time);
        false
    });
    let running = {
        let (config, keys) = (Arc::clone(cluster.config()), cluster.client_keys().to_vec());
        let slot = Arc::clone(slot);
        let stop = move || stop(&mut lock(&slot));
        RunningCluster::local(config, keys, cluster.process_ids(), stop)
    };
    local.cluster = Some(cluster);
    drop(local);
    ready.map(|_| running)
}

/// Stops the processes; their files stay until the results are known.
fn stop(local: &mut Local) -> Vec<StopProblem> {
    let problems = local.cluster.as_mut().map(LocalCluster::stop_each).unwrap_or_default();
    problems.into_iter().map(|(replica, text)| StopProblem { replica, text }).collect()
}

/// After a failure the logs stay, and their ends are shown.
fn finish(slot: &Slot, good: bool) {
    wait_for_exit_if_interrupted(slot);
    let Some(mut cluster) = lock(slot).cluster.take() else { return };
    if !good {
        cluster.stop();
        output::note(&format!("the ends of the logs:\n{}", cluster.tails()));
        output::note(&format!("all of the logs are kept in {}", cluster.directory().display()));
        cluster.keep_directory();
    }
}

fn stop_on_signal(slot: &Slot) -> anyhow::Result<()> {
    let slot = Arc::clone(slot);
    interrupt::on_signal(move || {
        let mut local = lock(&slot);
        local.interrupted = true;
        // The directory goes with the cluster.
        drop(local.cluster.take());
        output::note("interrupted");
        std::process::exit(INTERRUPTED);
    })
}

/// The thread that got the signal ends the process; what failed because of it is not worth a message.
fn wait_for_exit_if_interrupted(slot: &Slot) {
    while lock(slot).interrupted {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn lock(slot: &Slot) -> MutexGuard<'_, Local> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}
