//! A log written here, read by another implementation: the Python package `hdrhistogram`.
//!
//! The interpreter is `$QUORATE_TEST_PYTHON`, or `python3`. Where it or the package is missing the test says so and
//! skips.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use hdrhistogram::Histogram;
use quorate_telemetry::{HistogramLog, Histograms, LOG_COMMENTS, Measure, percentiles};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

/// Prints each interval of the log as: tag, start and end in ms, count, percentiles, greatest value; then the
/// percentile distribution of the last one in a file of its own.
const SCRIPT: &str = "
import sys
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
reader = HistogramLogReader(sys.argv[1], HdrHistogram(1, 3600 * 10**9, 2))
while True:
    histogram = reader.get_next_interval_histogram()
    if histogram is None:
        break
    last = histogram
    percentiles = [histogram.get_value_at_percentile(p) for p in (50, 90, 99, 99.9)]
    start, end = round(histogram.get_start_time_stamp()), round(histogram.get_end_time_stamp())
    print(histogram.get_tag(), start, end, histogram.get_total_count(), *percentiles, histogram.get_max_value())
with open(sys.argv[2], 'wb') as out:
    last.output_percentile_distribution(out, 1e6)
";

const START_MS: u64 = 1_700_000_000_500;

/// Why the test cannot run here, or the interpreter that can.
fn python() -> Result<String, String> {
    let python = std::env::var("QUORATE_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let output = Command::new(&python).args(["-c", "import hdrh.log"]).output();
    match output {
        Err(error) => Err(format!("{python} does not run: {error}")),
        Ok(output) if !output.status.success() => {
            let errors = String::from_utf8_lossy(&output.stderr);
            let why = errors.lines().last().unwrap_or("it says nothing").to_owned();
            Err(format!("{python} has no package hdrhistogram: {why}"))
        }
        Ok(_) => Ok(python),
    }
}

fn record(histograms: &Histograms, round: u64) {
    let core = histograms.core(0).unwrap();
    for (index, measure) in Measure::ALL.iter().enumerate() {
        // From single units up to minutes, more of the small ones, and nothing of the last measure.
        for step in 0..u64::from(index + 1 < Measure::ALL.len()) * 1000 {
            core.record(*measure, (step * step * step * 7 + round) << (index % 4), step % 3 + 1);
        }
    }
}

/// What the reader should print for an interval.
fn expected(tag: &str, from: u64, until: u64, histogram: &Histogram<u64>) -> String {
    let value = |quantile| histogram.value_at_quantile(quantile);
    let [p50, p90, p99, p999] = [0.5, 0.9, 0.99, 0.999].map(value);
    let (count, max) = (histogram.len(), histogram.max());
    format!("{tag} {from} {until} {count} {p50} {p90} {p99} {p999} {max}\n")
}

fn write_log(path: &Path) -> (String, Histogram<u64>) {
    let base = UNIX_EPOCH + Duration::from_millis(START_MS);
    let file = std::fs::File::create(path).unwrap();
    let mut log = HistogramLog::start(file, base, &LOG_COMMENTS).unwrap();
    let mut lines = String::new();
    let histograms = Histograms::new(1);
    let mut last = histograms.read(Measure::Admitted);
    for round in 0..3 {
        record(&histograms, round);
        let (from, length) = (1000 * round, 1000);
        for measure in Measure::ALL {
            let histogram = histograms.read(*measure);
            let start = base + Duration::from_millis(from);
            let length_time = Duration::from_millis(length);
            log.write(measure.name(), start, length_time, measure.divisor(), &histogram).unwrap();
            lines += &expected(measure.name(), START_MS + from, START_MS + from + length, &histogram);
            last = histogram;
        }
    }
    let sealed = histograms.read(Measure::Sealed);
    assert!(last.is_empty(), "an interval without values is read too");
    let (start, length) = (base + Duration::from_secs(3), Duration::from_secs(2));
    log.write("last", start, length, 1e6, &sealed).unwrap();
    lines += &expected("last", START_MS + 3000, START_MS + 5000, &sealed);
    (lines, sealed)
}

/// The numbers of the lines of a percentile distribution, without its head and foot.
fn distribution(text: &str) -> Vec<Vec<f64>> {
    let lines =
        text.lines().filter(|line| line.trim_start().starts_with(|first: char| first.is_ascii_digit()));
    lines.map(|line| line.split_whitespace().map(|word| word.parse().unwrap()).collect()).collect()
}

#[test]
fn a_foreign_reader_finds_the_same_counts_and_percentiles() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => {
            // Not through a macro, whose output is swallowed when a test passes.
            let _ = writeln!(
                std::io::stderr(),
                "a_foreign_reader_finds_the_same_counts_and_percentiles is SKIPPED: {why}; name one that has it in \
                 QUORATE_TEST_PYTHON"
            );
            return;
        }
    };
    let directory = tempfile::tempdir().unwrap();
    let (log, theirs) = (directory.path().join("test.hlog"), directory.path().join("test.hgrm"));
    let (lines, histogram) = write_log(&log);
    let output = Command::new(python).args(["-c", SCRIPT]).args([&log, &theirs]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), lines, "{errors}");

    let mut ours = Vec::new();
    percentiles(&histogram, 1e6, &mut ours).unwrap();
    let ours = distribution(&String::from_utf8(ours).unwrap());
    let theirs = distribution(&std::fs::read_to_string(theirs).unwrap());
    assert!(ours.len() > 20, "{ours:?}");
    // The steps between percentiles are each implementation's own; the values at the same ones are not.
    let mut compared = 0;
    for line in &theirs {
        if let Some(same) = ours.iter().find(|other| other[1] == line[1]) {
            // They print as many decimals as the histogram has significant digits.
            assert!((same[0] - line[0]).abs() < 0.006 && same[2] == line[2], "{same:?} {line:?}");
            compared += 1;
        }
    }
    assert!(compared > 10, "{ours:?} {theirs:?}");
}
