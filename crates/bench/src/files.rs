//! The files of `--out`.

use crate::findings::Findings;
use crate::page;
use crate::series::{IntervalLog, NANOSECONDS_PER_MILLISECOND, Row};
use anyhow::Context;
use quorate_telemetry::{HistogramLog, percentiles};
use serde::Serialize;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub(crate) const SUMMARY: &str = "summary.json";
const TIME_SERIES: &str = "timeseries.csv";
const LOG: &str = "latency.hlog";
const PERCENTILES: &str = "latency.hgrm";
const PAGE: &str = "report.html";

/// The directory.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    directory: PathBuf,
}

impl Files {
    /// Makes the directory, before minutes are spent on what could not be written.
    pub(crate) fn create(directory: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("--out: cannot make {}", directory.display()))?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// The log to which each interval is written as it ends.
    pub(crate) fn interval_log(&self) -> anyhow::Result<HistogramLog<BufWriter<File>>> {
        let path = self.directory.join(LOG);
        let comments = ["latency of bundles in nanoseconds; Interval_Max in milliseconds"];
        let open = || -> std::io::Result<_> {
            HistogramLog::start(BufWriter::new(File::create(&path)?), SystemTime::now(), &comments)
        };
        open().with_context(|| format!("--out: cannot write {}", path.display()))
    }

    /// Writes everything but the log.
    pub(crate) fn write(&self, findings: &Findings) -> anyhow::Result<()> {
        write_json(&self.directory.join(SUMMARY), &findings.verdict.report)?;
        self.write_text(
            TIME_SERIES,
            &time_series(&findings.rows, findings.verdict.report.flags.load.bundle),
        )?;
        let mut text = Vec::new();
        percentiles(&findings.response, NANOSECONDS_PER_MILLISECOND, &mut text)
            .context("the percentiles as text")?;
        self.write_text(PERCENTILES, &String::from_utf8_lossy(&text))?;
        self.write_text(PAGE, &page::of_run(findings))
    }

    pub(crate) fn write_text(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.directory.join(name);
        let write = || -> std::io::Result<()> { File::create(&path)?.write_all(text.as_bytes()) };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// The log of a run that writes none.
pub(crate) const NO_LOG: IntervalLog = None;

/// Writes JSON that people can read.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).context("the results as JSON")?;
    std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

/// One line per interval, latencies in microseconds.
fn time_series(rows: &[Row], bundle: usize) -> String {
    let mut text =
        String::from("run,start_s,seconds,operations_per_s,bundles_per_s,errors,scheduled,backlog");
    for kind in ["response", "service"] {
        for name in ["p50", "p90", "p99", "p999", "max"] {
            write!(text, ",{kind}_{name}_us").expect("invariant: writing to a string does not fail");
        }
    }
    text +=
        ",cluster_cpu_us_per_op,enters_per_op,entries_per_enter,context_switches_per_op,replicas_reporting\n";
    for row in rows {
        let rate = row.throughput();
        let mut fields = vec![
            row.run.to_string(),
            format!("{:.3}", row.start_s),
            format!("{:.3}", row.seconds),
            format!("{rate:.1}"),
            format!("{:.2}", rate / bundle as f64),
            row.errors.to_string(),
            row.scheduled.to_string(),
            row.backlog.to_string(),
        ];
        for latency in [&row.response_us, &row.service_us] {
            fields.extend(latency.points().map(|(_, value)| format!("{value:.1}")));
        }
        let cluster = &row.cluster;
        let costs = [
            cluster.cpu_us_per_op,
            cluster.enters_per_op,
            cluster.entries_per_enter,
            cluster.context_switches_per_op,
        ];
        fields.extend(costs.map(|cost| format!("{cost:.5}")));
        fields.push(row.reporting.to_string());
        text += &fields.join(",");
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_time_series_has_every_column() {
        let rows = [
            Row { run: 1, seconds: 0.5, operations: 100, ..Row::default() },
            Row { run: 2, start_s: 0.5, seconds: 1.0, backlog: 7, ..Row::default() },
        ];
        let text = time_series(&rows, 10);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{text}");
        assert_eq!(lines[1][..6], ["1", "0.000", "0.500", "200.0", "20.00", "0"]);
        assert_eq!(lines[2][7], "7");
        assert_eq!(lines[0][lines[0].len() - 1], "replicas_reporting");
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_told_with_the_flag() {
        let error = Files::create(Path::new("/proc/nothing/here")).unwrap_err();
        assert!(format!("{error:#}").contains("--out: cannot make /proc/nothing/here"));
    }
}
