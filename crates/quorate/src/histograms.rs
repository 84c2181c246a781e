//! `quorate histograms`: where the time of every replica goes, as files that other tools read.

use crate::cluster_arguments::ClusterArguments;
use crate::failure::{Failure, in_full};
use crate::output;
use crate::report::{WITH_HISTOGRAMS, ask_all};
use anyhow::Context;
use clap::Args;
use hdrhistogram::Histogram;
use quorate_telemetry::{
    HistogramLog, LOG_COMMENTS, Measure, ReplicaReport, decode, log_name, percentiles, percentiles_name,
};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

/// How long the replicas may take to answer, all at the same time.
const DEADLINE: Duration = Duration::from_secs(5);

const AFTER_HELP: &str = "\
For every replica that answers, DIR/replica-N.hlog gets an HdrHistogram log (format 1.3) with one tag per stage, and \
DIR/replica-N-STAGE.hgrm the percentiles of one stage in milliseconds; both hold everything since the process started. \
Files of the same name are replaced.

The stages of a bundle, each at the replica that its client talks to: admitted, sealed, durable, acknowledged, \
proposed, prepared, committed, executed, replied. Besides: tick_ns, the work of one turn of a core; sync_ns, how long a \
group of the log took to the disk; entries_per_enter and bytes_per_send.

A replica that gets SIGUSR1 writes its own files, with what was recorded since the last time; the section \
[histograms] of its configuration says where to, and can have it done regularly.

Exit codes: 0 every replica answered, 1 otherwise, 2 wrong usage.

Examples:
  quorate histograms --out histograms
  quorate histograms --out /tmp/run-1 --cluster data/cluster.toml";

/// Write where the time of every replica goes, as HdrHistogram logs and percentiles.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct HistogramsArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Directory for the files; made if it does not exist.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(crate) fn run(arguments: &HistogramsArguments) -> Result<ExitCode, Failure> {
    let (config, key) = arguments.cluster.read()?;
    let out = &arguments.out;
    std::fs::create_dir_all(out).with_context(|| format!("--out: cannot make {}", out.display()))?;
    let answers = ask_all(&config, &key, &WITH_HISTOGRAMS, DEADLINE);
    let mut code = ExitCode::SUCCESS;
    for ((replica, member), answer) in config.replica_ids().zip(config.members()).zip(&answers) {
        // By its place in the cluster, whatever it says of itself: it may lie, and this becomes a file name.
        let written = match answer {
            Ok(report) => write(out, replica.0, report).map_err(|error| in_full(&error)),
            Err(error) => Err(error.to_string()),
        };
        output::print(match written {
            Ok(bundles) => {
                format!(
                    "replica {replica}: {bundles} bundles in {}\n",
                    out.join(log_name(replica.0)).display()
                )
            }
            Err(error) => {
                code = ExitCode::FAILURE;
                format!("replica {replica}: nothing from {}: {error}\n", member.client)
            }
        })?;
    }
    Ok(code)
}

/// Writes the files of one replica; says how many bundles it has answered.
fn write(out: &Path, replica: u8, report: &ReplicaReport) -> anyhow::Result<u64> {
    let length = Duration::from_millis(report.costs.uptime_ms);
    let start = SystemTime::now().checked_sub(length).context("its clock has run for too long")?;
    let name = format!("replica {replica}");
    let comments: Vec<&str> = std::iter::once(name.as_str()).chain(LOG_COMMENTS).collect();
    let mut log = Vec::new();
    let mut writer = HistogramLog::start(&mut log, start, &comments)?;
    let mut bundles = 0;
    for (measure, histogram) in read(report)? {
        writer.write(measure.name(), start, length, measure.divisor(), &histogram)?;
        let mut text = Vec::new();
        percentiles(&histogram, measure.divisor(), &mut text)?;
        create(&out.join(percentiles_name(replica, measure)), &text)?;
        if measure == Measure::Replied {
            bundles = histogram.len();
        }
    }
    create(&out.join(log_name(replica)), &log)?;
    Ok(bundles)
}

fn create(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// The histograms of a report, in the order in which they are documented.
pub(crate) fn read(report: &ReplicaReport) -> anyhow::Result<Vec<(Measure, Histogram<u64>)>> {
    let text = |measure: &Measure| {
        let maps = [&report.stages, &report.distributions];
        let text = maps.into_iter().find_map(|map| map.get(measure.name()))?;
        Some((*measure, text))
    };
    let found = Measure::ALL.iter().filter_map(text);
    found
        .map(|(measure, text)| {
            let histogram = decode(text).with_context(|| format!("its report, `{}`", measure.name()))?;
            Ok((measure, histogram))
        })
        .collect()
}
