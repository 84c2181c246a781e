//! What a ladder found: as a table for people and as JSON for everything else.

use super::job::Measured;
use super::matrix::Matrix;
use super::rung::RungName;
use serde::Serialize;
use std::process::Command;

/// The columns of the table; [`Summary::cells`] fills them.
const HEADER: [&str; 8] = [
    "rung",
    "broadcasts/s",
    "CPU µs",
    "syscalls",
    "own count",
    "switches: voluntary",
    "involuntary",
    "receivers' CPU µs",
];

/// The results, and under which circumstances they came about.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    version: &'static str,
    commit: Option<String>,
    kernel: Option<String>,
    processor: Option<String>,
    cpus: Option<usize>,
    settings: Matrix,
    /// Which tool counted system calls.
    syscalls_counted_by: Option<String>,
    /// Why none did.
    syscalls_not_counted: Option<String>,
    rows: Vec<Summary>,
}

/// The runs of one rung in one cell.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) receivers: usize,
    pub(super) message_bytes: usize,
    pub(super) rung: RungName,
    pub(super) runs: Vec<Measured>,
    /// System calls per broadcast, in a run of its own.
    pub(super) syscalls: Option<f64>,
}

impl Row {
    pub(super) fn new(receivers: usize, message_bytes: usize, rung: RungName) -> Self {
        Self { receivers, message_bytes, rung, runs: Vec::new(), syscalls: None }
    }

    pub(super) fn describe(&self) -> String {
        format!("{} with {} bytes to {} receivers", self.rung, self.message_bytes, self.receivers)
    }
}

/// A row with its figures per broadcast.
#[derive(Clone, Debug, Serialize)]
struct Summary {
    broadcasts_per_second: Spread,
    cpu_us: Spread,
    own_syscalls: Option<Spread>,
    voluntary_switches: Spread,
    involuntary_switches: Spread,
    receivers_cpu_us: Spread,
    #[serde(flatten)]
    row: Row,
}

/// The least, middle and greatest of some runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    /// None without values.
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let upper = values.len() / 2;
        let median = (values[(values.len() - 1) / 2] + values[upper]) / 2.0;
        Some(Self { min, median, max })
    }
}

#[expect(clippy::cast_precision_loss, reason = "ratios")]
fn per_broadcast(runs: &[Measured], value: impl Fn(&Measured) -> Option<u64>) -> Option<Spread> {
    let ratio = |run: &Measured| Some(value(run)? as f64 / run.broadcasts as f64);
    Spread::of(runs.iter().map(ratio).collect::<Option<_>>()?)
}

impl Summary {
    #[expect(clippy::cast_precision_loss, reason = "ratios")]
    fn of(row: Row) -> Option<Self> {
        let per_second = |run: &Measured| run.broadcasts as f64 * 1e9 / run.nanoseconds as f64;
        let runs = &row.runs;
        Some(Self {
            broadcasts_per_second: Spread::of(runs.iter().map(per_second).collect())?,
            cpu_us: per_broadcast(runs, |run| Some(run.cpu_us))?,
            own_syscalls: per_broadcast(runs, |run| run.own_syscalls),
            voluntary_switches: per_broadcast(runs, |run| Some(run.voluntary_switches))?,
            involuntary_switches: per_broadcast(runs, |run| Some(run.involuntary_switches))?,
            receivers_cpu_us: per_broadcast(runs, |run| Some(run.receivers_cpu_us))?,
            row,
        })
    }
}

impl Report {
    pub(super) fn new(settings: Matrix, tracer: Result<String, String>, rows: Vec<Row>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            commit: commit(),
            kernel: first_line("/proc/sys/kernel/osrelease", |_| true),
            processor: first_line("/proc/cpuinfo", |line| line.starts_with("model name")),
            cpus: std::thread::available_parallelism().ok().map(usize::from),
            settings,
            syscalls_counted_by: tracer.as_ref().ok().cloned(),
            syscalls_not_counted: tracer.err(),
            rows: rows.into_iter().filter_map(Summary::of).collect(),
        }
    }

    /// The whole report as JSON.
    ///
    /// # Errors
    /// When a figure is not a number.
    pub fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// A table for each cell.
    #[must_use]
    pub fn table(&self) -> String {
        let settings = &self.settings;
        let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
        let mut text = format!(
            "quorate {} ({}), Linux {}, {} CPUs: {}\n{} rounds of {} ms, bursts of {}, \
             {} of them may be queued when the next is made\n\
             median (least to greatest); all but broadcasts/s per broadcast\n",
            self.version,
            known(&self.commit),
            known(&self.kernel),
            self.cpus.unwrap_or(0),
            known(&self.processor),
            settings.rounds,
            settings.milliseconds,
            settings.burst,
            settings.window_bursts,
        );
        text.push_str(&match (&self.syscalls_counted_by, &self.syscalls_not_counted) {
            (Some(tool), _) => format!("syscalls: counted by {tool}, in one more run each\n"),
            (None, reason) => format!("syscalls: skipped, {}\n", known(reason)),
        });
        let same_cell = |left: &Summary, right: &Summary| {
            (left.row.receivers, left.row.message_bytes) == (right.row.receivers, right.row.message_bytes)
        };
        for cell in self.rows.chunk_by(same_cell) {
            let Row { receivers, message_bytes, .. } = cell[0].row;
            text.push_str(&format!("\n{receivers} receivers, {message_bytes} B\n"));
            let rows = cell.iter().map(Summary::cells);
            text.push_str(&aligned(std::iter::once(HEADER.map(str::to_owned)).chain(rows).collect()));
        }
        text
    }
}

impl Summary {
    fn cells(&self) -> [String; 8] {
        let optional = |spread: Option<Spread>| spread.map_or("-".to_owned(), |spread| figure(spread.median));
        [
            self.row.rung.to_string(),
            spread(&self.broadcasts_per_second),
            spread(&self.cpu_us),
            self.row.syscalls.map_or("-".to_owned(), figure),
            optional(self.own_syscalls),
            figure(self.voluntary_switches.median),
            figure(self.involuntary_switches.median),
            figure(self.receivers_cpu_us.median),
        ]
    }
}

fn spread(spread: &Spread) -> String {
    format!("{} ({} to {})", figure(spread.median), figure(spread.min), figure(spread.max))
}

/// Three digits that mean something, and no more than four places.
fn figure(value: f64) -> String {
    match value {
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ if value >= 1.0 => format!("{value:.2}"),
        _ if value >= 0.1 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

/// The first column to the left, the others to the right.
fn aligned<const N: usize>(rows: Vec<[String; N]>) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            match column {
                0 => line.push_str(&format!("  {cell:<width$}")),
                _ => line.push_str(&format!("  {cell:>width$}")),
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn commit() -> Option<String> {
    let output = Command::new("git").args(["describe", "--always", "--dirty"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

/// What stands behind the colon, if there is one, in the first line of a file that is `wanted`.
fn first_line(path: &str, wanted: impl Fn(&str) -> bool) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| wanted(line))?;
    Some(line.split_once(':').map_or(line, |(_, value)| value).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_lies_in_the_middle() {
        let spread = |values: &[f64]| Spread::of(values.to_vec());
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some(Spread { min: 1.0, median: 2.0, max: 3.0 }));
        assert_eq!(spread(&[4.0, 1.0]), Some(Spread { min: 1.0, median: 2.5, max: 4.0 }));
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn columns_stand_under_each_other() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        let text = aligned(vec![row(["rung", "µs", "b"]), row(["a", "12.5", "1234"])]);
        assert_eq!(text, "  rung    µs     b\n  a     12.5  1234\n");
    }

    #[test]
    fn figures_are_per_broadcast() {
        let run = Measured {
            broadcasts: 100,
            nanoseconds: 1_000_000,
            cpu_us: 250,
            voluntary_switches: 20,
            involuntary_switches: 5,
            own_syscalls: None,
            receivers_cpu_us: 50,
        };
        let mut row = Row::new(3, 64, RungName::Epoll);
        row.runs = vec![run];
        let cells = Summary::of(row).unwrap().cells();
        assert_eq!(
            cells,
            [
                "epoll",
                "100000 (100000 to 100000)",
                "2.50 (2.50 to 2.50)",
                "-",
                "-",
                "0.200",
                "0.0500",
                "0.500"
            ]
        );
    }
}
