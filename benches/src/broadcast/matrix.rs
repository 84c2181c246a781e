//! All runs of a ladder, interleaved: each round goes through all rungs of all cells before the next begins, so
//! that noise of the machine hits all alike.

use super::job::{Job, Measured};
use super::processes::{Receivers, Sender};
use super::report::{Report, Row};
use super::rung::RungName;
use super::stream::{MESSAGE_BYTES_MAX, NUMBER_BYTES};
use super::tracer::Tracer;
use anyhow::{Context as _, ensure};
use serde::Serialize;

/// What to run.
#[derive(Clone, Debug, Serialize)]
pub struct Matrix {
    /// The rungs.
    pub rungs: Vec<RungName>,
    /// The sizes of messages in bytes.
    pub sizes: Vec<usize>,
    /// The numbers of receivers.
    pub receivers: Vec<usize>,
    /// How often each rung of each cell is run.
    pub rounds: usize,
    /// How long one run takes, in milliseconds.
    pub milliseconds: u64,
    /// The messages of a burst.
    pub burst: usize,
    /// The bursts that may still be queued for a receiver when the next one is made.
    pub window_bursts: usize,
}

impl Matrix {
    /// Runs everything; `progress` learns in words what is done.
    ///
    /// # Errors
    /// When the matrix has no sense, or a process cannot be started, fails or loses a message.
    pub fn run(&self, progress: &mut dyn FnMut(&str)) -> anyhow::Result<Report> {
        self.check()?;
        let receivers = Receivers::start(self.receivers.iter().copied().max().unwrap_or(0))?;
        let mut rows: Vec<Row> =
            self.cells().map(|(count, bytes, rung)| Row::new(count, bytes, rung)).collect();
        for round in 1..=self.rounds {
            progress(&format!("round {round} of {}", self.rounds));
            for row in &mut rows {
                let job = self.job(row, &receivers);
                let measured = measure(&job).with_context(|| row.describe())?;
                row.runs.push(measured);
            }
        }
        let tracer = Tracer::find();
        match &tracer {
            Ok(tracer) => progress(&format!("counting system calls with {tracer}")),
            Err(reason) => progress(&format!("skipped: counting system calls: {reason}")),
        }
        if let Ok(tracer) = tracer {
            for row in &mut rows {
                let job = self.job(row, &receivers);
                row.syscalls = Some(count(tracer, &job).with_context(|| row.describe())?);
            }
        }
        Ok(Report::new(self.clone(), tracer.map(|tracer| tracer.to_string()), rows))
    }

    fn check(&self) -> anyhow::Result<()> {
        let sizes = NUMBER_BYTES..=MESSAGE_BYTES_MAX;
        for size in &self.sizes {
            ensure!(
                sizes.contains(size),
                "a message of {size} bytes: between {NUMBER_BYTES} and {MESSAGE_BYTES_MAX}"
            );
        }
        ensure!(self.receivers.iter().all(|count| (1..=100).contains(count)), "between 1 and 100 receivers");
        ensure!(self.rounds > 0 && self.burst > 0 && self.milliseconds > 0, "nothing to do");
        Ok(())
    }

    fn cells(&self) -> impl Iterator<Item = (usize, usize, RungName)> {
        let sizes = |count| self.sizes.iter().map(move |bytes| (count, *bytes));
        let cells = self.receivers.iter().flat_map(move |count| sizes(*count));
        cells.flat_map(|(count, bytes)| self.rungs.iter().map(move |rung| (count, bytes, *rung)))
    }

    fn job(&self, row: &Row, receivers: &Receivers) -> Job {
        Job {
            rung: row.rung,
            message_bytes: row.message_bytes,
            milliseconds: self.milliseconds,
            burst: self.burst,
            window_bytes: row.message_bytes * self.burst * self.window_bursts,
            receivers: receivers.addresses(row.receivers),
        }
    }
}

fn measure(job: &Job) -> anyhow::Result<Measured> {
    let mut sender = Sender::start(job)?;
    let measured = sender.run()?;
    sender.finish()?;
    Ok(measured)
}

/// System calls per broadcast, in a run of its own.
#[expect(clippy::cast_precision_loss, reason = "a ratio")]
fn count(tracer: Tracer, job: &Job) -> anyhow::Result<f64> {
    let mut sender = Sender::start(job)?;
    let attached = tracer.attach(sender.process())?;
    let measured = sender.run()?;
    let calls = attached.calls()?;
    sender.finish()?;
    Ok(calls as f64 / measured.broadcasts as f64)
}
