//! `quorate status --watch`: what an operation costs just now, and where its time goes.

use crate::failure::{Failure, in_full};
use crate::histograms;
use crate::interrupt::Interrupt;
use crate::output;
use crate::report::{Answer, WITH_HISTOGRAMS, ask_all};
use crate::verdict::{Roots, Verdict};
use hdrhistogram::Histogram;
use quorate_telemetry::{Costs, Measure, ReplicaReport, Unit, difference};
use quorate_types::{ClusterConfig, SigningKey};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the replicas may take to answer, all at the same time.
const DEADLINE: Duration = Duration::from_secs(3);
/// How often it is looked whether anybody reads.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Puts the cursor at the top of a terminal that is cleared.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// Shows a block every `interval` until Ctrl-C.
pub(crate) fn run(
    config: &Arc<ClusterConfig>,
    key: &SigningKey,
    interval: Duration,
) -> Result<ExitCode, Failure> {
    let interrupt = Interrupt::watch()?;
    let clear = std::io::stdout().is_terminal();
    let mut before: Option<Vec<Answer>> = None;
    loop {
        let started = Instant::now();
        let after = ask_all(config, key, &WITH_HISTOGRAMS, DEADLINE);
        if let Some(before) = &before {
            let verdict = Verdict::of(config, &after, &Roots::of(&after)).text(config, &after);
            let block = format!("{verdict}\n{}", block(before, &after));
            output::print(if clear { format!("{CLEAR}{block}") } else { format!("{block}\n") })?;
        } else if clear {
            output::print(format!("{CLEAR}Measuring for {} s …\n", interval.as_secs()))?;
        }
        before = Some(after);
        if !waits(&interrupt, started + interval) {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Waits until a time; says `false` when the process was asked to end before, or nobody reads any more.
fn waits(interrupt: &Interrupt, until: Instant) -> bool {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if interrupt.wait(left.min(LOOK_INTERVAL)) || output::is_unread() {
            return false;
        }
        if left.is_zero() {
            return true;
        }
    }
}

/// What happened between two answers of each replica.
fn block(before: &[Answer], after: &[Answer]) -> String {
    let windows: Vec<Result<Window, String>> =
        before.iter().zip(after).map(|(before, after)| Window::between(before, after)).collect();
    let times = times(windows.iter().flatten());
    format!("{}\n{}\n{}", costs_table(&windows), stages_table(&times), others_table(&times))
}

/// What one replica did in the time between two reports.
struct Window {
    seconds: f64,
    operations: f64,
    enters: f64,
    entries: f64,
    switches: f64,
    cpu_us: f64,
    allocations: f64,
    bytes_sent: f64,
    bytes_received: f64,
    recorded: Vec<(Measure, Histogram<u64>)>,
}

impl Window {
    fn between(before: &Answer, after: &Answer) -> Result<Self, String> {
        let after = after.as_ref().map_err(ToString::to_string)?;
        let before = before.as_ref().map_err(|_| "it has just come back".to_owned())?;
        let restarted = || "it was restarted".to_owned();
        let (old, new) = (&before.costs, &after.costs);
        if new.restarted_since(old) {
            return Err(restarted());
        }
        let grown =
            |total: fn(&Costs) -> u64| total(new).checked_sub(total(old)).map(real).ok_or_else(restarted);
        let seconds = grown(|costs| costs.uptime_ms)? / 1000.0;
        if seconds <= 0.0 {
            return Err("its clock stands still".to_owned());
        }
        Ok(Self {
            seconds,
            operations: grown(|costs| costs.operations_executed)?,
            enters: grown(|costs| costs.enters)?,
            entries: grown(|costs| costs.entries)?,
            switches: grown(|costs| {
                costs.context_switches_voluntary.saturating_add(costs.context_switches_involuntary)
            })?,
            cpu_us: grown(|costs| costs.cpu_us)?,
            allocations: grown(|costs| costs.allocations)?,
            bytes_sent: grown(|costs| costs.bytes_sent)?,
            bytes_received: grown(|costs| costs.bytes_received)?,
            recorded: recorded(before, after)?,
        })
    }
}

fn recorded(before: &ReplicaReport, after: &ReplicaReport) -> Result<Vec<(Measure, Histogram<u64>)>, String> {
    let read = |report| histograms::read(report).map_err(|error| in_full(&error));
    let before = read(before)?;
    let later = |(measure, after): (Measure, Histogram<u64>)| {
        let earlier = before.iter().find(|(other, _)| *other == measure);
        let grown = earlier.map_or_else(|| Ok(after.clone()), |(_, before)| difference(&after, before));
        grown.map(|histogram| (measure, histogram)).map_err(|error| error.to_string())
    };
    read(after)?.into_iter().map(later).collect()
}

/// What all replicas recorded of one measure, and how often a second.
struct Times {
    measure: Measure,
    histogram: Histogram<u64>,
    per_second: f64,
}

fn times<'a>(windows: impl Iterator<Item = &'a Window> + Clone) -> Vec<Times> {
    let mut all = Vec::new();
    for measure in Measure::ALL {
        let mut merged: Option<Times> = None;
        for window in windows.clone() {
            let Some((_, histogram)) = window.recorded.iter().find(|(other, _)| other == measure) else {
                continue;
            };
            let per_second = real(histogram.len()) / window.seconds;
            let times = merged.get_or_insert_with(|| {
                let histogram = Histogram::new_from(histogram);
                Times { measure: *measure, histogram, per_second: 0.0 }
            });
            // One that does not fit is not of this version; the others still say something.
            if times.histogram.add(histogram).is_ok() {
                times.per_second += per_second;
            }
        }
        all.extend(merged);
    }
    all
}

const COSTS: [&str; 9] = [
    "per operation",
    "ops/s",
    "enters",
    "entries/enter",
    "switches",
    "CPU µs",
    "allocations",
    "B sent",
    "B received",
];

fn costs_table(windows: &[Result<Window, String>]) -> String {
    let mut rows = vec![COSTS.map(str::to_owned).to_vec()];
    for (replica, window) in windows.iter().enumerate() {
        let mut row = vec![format!("replica {replica}")];
        match window {
            Ok(window) => {
                row.push(number(Some(window.operations / window.seconds)));
                row.extend(per_operation(window).map(number));
            }
            Err(error) => row.push(format!("no figures: {error}")),
        }
        rows.push(row);
    }
    rows.push(sum_row(windows));
    aligned(&rows)
}

fn per_operation(window: &Window) -> [Option<f64>; 7] {
    let each = |total: f64| ratio(total, window.operations);
    [
        each(window.enters),
        ratio(window.entries, window.enters),
        each(window.switches),
        each(window.cpu_us),
        each(window.allocations),
        each(window.bytes_sent),
        each(window.bytes_received),
    ]
}

/// What the whole cluster pays for one operation. Every replica executes all operations, so the rate is that of the
/// fastest, and costs are added.
fn sum_row(windows: &[Result<Window, String>]) -> Vec<String> {
    let windows: Vec<&Window> = windows.iter().flatten().collect();
    let rates = windows.iter().map(|window| window.operations / window.seconds);
    let mut row = vec!["together".to_owned(), number(rates.reduce(f64::max))];
    let columns: Vec<[Option<f64>; 7]> = windows.iter().map(|window| per_operation(window)).collect();
    for column in 0..7 {
        row.push(match column {
            1 => {
                let (entries, enters) = windows.iter().fold((0.0, 0.0), |(entries, enters), window| {
                    (entries + window.entries, enters + window.enters)
                });
                number(ratio(entries, enters))
            }
            _ => number(
                columns.iter().map(|values| values[column]).reduce(|sum, next| Some(sum? + next?)).flatten(),
            ),
        });
    }
    row
}

fn stages_table(times: &[Times]) -> String {
    let head = ["stage", "count/s", "mean ms", "p50 ms", "p99 ms", "max ms", "share"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let stages = || times.iter().filter(|times| times.measure.is_stage());
    let weight = |times: &Times| times.histogram.mean() * real(times.histogram.len());
    let whole: f64 = stages().map(weight).sum();
    for stage in stages() {
        let mut row = row(stage);
        row.push(
            ratio(100.0 * weight(stage), whole)
                .map_or_else(|| "-".to_owned(), |share| format!("{share:.1} %")),
        );
        rows.push(row);
    }
    let bundles = stages().map(|stage| stage.histogram.len()).max().unwrap_or(0);
    let mean = ratio(whole / Measure::Replied.divisor(), real(bundles));
    let rate = stages().map(|stage| stage.per_second).reduce(f64::max);
    rows.push(vec!["together".to_owned(), number(rate), milliseconds(mean)]);
    aligned(&rows)
}

fn others_table(times: &[Times]) -> String {
    let head = ["besides", "count/s", "mean", "p50", "p99", "max"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for other in times.iter().filter(|times| !times.measure.is_stage()) {
        let mut row = row(other);
        row[0] = match other.measure {
            Measure::Tick => "turn of a core, ms".to_owned(),
            Measure::Sync => "sync of the log, ms".to_owned(),
            measure => measure.name().replace('_', " "),
        };
        rows.push(row);
    }
    aligned(&rows)
}

/// Name, rate, mean and percentiles, in milliseconds or in what is counted.
fn row(times: &Times) -> Vec<String> {
    let (measure, histogram) = (times.measure, &times.histogram);
    let print = |value: f64| {
        let value = Some(value / measure.divisor()).filter(|_| !histogram.is_empty());
        if measure.unit() == Unit::Nanoseconds { milliseconds(value) } else { number(value) }
    };
    let quantile = |quantile| print(real(histogram.value_at_quantile(quantile)));
    vec![
        measure.name().to_owned(),
        number(Some(times.per_second)),
        print(histogram.mean()),
        quantile(0.5),
        quantile(0.99),
        print(real(histogram.max())),
    ]
}

fn ratio(value: f64, of: f64) -> Option<f64> {
    (of > 0.0).then(|| value / of)
}

fn milliseconds(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
}

/// With about three digits.
fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.3}"),
    }
}

#[allow(clippy::cast_precision_loss, reason = "shown with few digits")]
fn real(value: u64) -> f64 {
    value as f64
}

/// The first column at the left, the others at the right. A row of two cells under a longer head is a name and a
/// sentence.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let is_sentence = |row: &[String]| row.len() == 2 && columns > 2;
    let mut widths = vec![0; columns];
    for row in rows {
        let cells = if is_sentence(row) { &row[..1] } else { &row[..] };
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
            text += &match index {
                0 => format!("{cell:<width$}"),
                _ if is_sentence(row) => format!("  {cell}"),
                _ => format!("  {cell:>width$}"),
            };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::NoReport;
    use expect_test::expect;
    use quorate_telemetry::{Histograms, encode};

    /// A replica that has run for `seconds` and has executed a thousand operations in each of them.
    fn report(seconds: u64) -> ReplicaReport {
        let histograms = Histograms::new(1);
        let core = histograms.core(0).unwrap();
        for (index, measure) in Measure::ALL.iter().enumerate() {
            let value = if measure.unit() == Unit::Nanoseconds { 1_000_000 * (index as u64 + 1) } else { 12 };
            core.record(*measure, value, 100 * seconds);
        }
        let text = |measure: &Measure| (measure.name().to_owned(), encode(&histograms.read(*measure)));
        let costs = Costs {
            uptime_ms: 1000 * seconds,
            operations_executed: 1000 * seconds,
            enters: 100 * seconds,
            entries: 800 * seconds,
            cpu_us: 20_000 * seconds,
            context_switches_voluntary: 30 * seconds,
            context_switches_involuntary: 20 * seconds,
            allocations: 4000 * seconds,
            bytes_sent: 300_000 * seconds,
            bytes_received: 200_000 * seconds,
            ..Costs::default()
        };
        let (stages, others): (Vec<_>, Vec<_>) = Measure::ALL.iter().partition(|measure| measure.is_stage());
        ReplicaReport {
            costs,
            stages: stages.into_iter().map(text).collect(),
            distributions: others.into_iter().map(text).collect(),
            ..ReplicaReport::default()
        }
    }

    #[test]
    fn costs_are_per_operation_and_time_is_by_stage() {
        let gone = || Err(NoReport::unreachable("Connection refused"));
        let before = [Ok(report(10)), Ok(report(20)), gone(), Ok(report(9)), Ok(report(9))];
        let anew = ReplicaReport { costs: Costs { started_ns: 1, ..report(12).costs }, ..report(12) };
        let after = [Ok(report(12)), Ok(report(22)), gone(), Ok(anew), gone()];
        expect![[r#"
            per operation  ops/s  enters  entries/enter  switches  CPU µs  allocations  B sent  B received
            replica 0       1000   0.100          8.000     0.050    20.0        4.000     300         200
            replica 1       1000   0.100          8.000     0.050    20.0        4.000     300         200
            replica 2      no figures: Connection refused
            replica 3      no figures: it was restarted
            replica 4      no figures: Connection refused
            together        1000   0.200          8.000     0.100    40.0        8.000     600         400

            stage         count/s  mean ms  p50 ms  p99 ms  max ms   share
            admitted          200    1.001   1.004   1.004   1.004   2.2 %
            sealed            200    2.003   2.007   2.007   2.007   4.4 %
            durable           200    3.006   3.015   3.015   3.015   6.7 %
            acknowledged      200    4.006   4.014   4.014   4.014   8.9 %
            proposed          200    4.997   5.014   5.014   5.014  11.1 %
            prepared          200    6.013   6.029   6.029   6.029  13.3 %
            committed         200    6.996   7.012   7.012   7.012  15.5 %
            executed          200    8.012   8.028   8.028   8.028  17.8 %
            replied           200    9.011   9.044   9.044   9.044  20.0 %
            together          200   45.046

            besides              count/s    mean     p50     p99     max
            turn of a core, ms       200   9.994  10.027  10.027  10.027
            sync of the log, ms      200  10.977  11.010  11.010  11.010
            entries per enter        200    12.0    12.0    12.0    12.0
            bytes per send           200    12.0    12.0    12.0    12.0
        "#]]
        .assert_eq(&block(&before, &after));
    }

    #[test]
    fn a_cluster_that_is_idle_or_gone_shows_dashes() {
        let idle = ReplicaReport { costs: Costs { uptime_ms: 9000, ..report(0).costs }, ..report(0) };
        let text = block(&[Ok(report(0))], &[Ok(idle)]);
        assert!(text.contains("replica 0      0.000       -"), "{text}");
        let text = block(&[Err(NoReport::unreachable("a"))], &[Err(NoReport::unreachable("b"))]);
        assert!(text.contains("replica 0      no figures: b"), "{text}");
        let mut wrong = report(2);
        wrong.stages.insert("sealed".to_owned(), "%".to_owned());
        let text = block(&[Ok(report(1))], &[Ok(wrong)]);
        assert!(text.contains("no figures: its report, `sealed`"), "{text}");
    }
}
