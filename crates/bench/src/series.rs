//! The time series: what the threads recorded and what the replicas report, put together interval by interval.

use crate::ClusterCosts;
use crate::recorder::{Slice, Totals};
use crate::report::LatencyMicroseconds;
use anyhow::Context;
use quorate_telemetry::HistogramLog;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::BufWriter;
use std::sync::mpsc::Receiver;
use std::time::{Duration, SystemTime};

/// What the log's values are divided by where people read them.
pub(crate) const NANOSECONDS_PER_MILLISECOND: f64 = 1e6;

/// One interval.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Row {
    /// The run, from 1.
    pub(crate) run: usize,
    /// When the interval began, in seconds since the measuring did.
    pub(crate) start_s: f64,
    /// How long it was.
    pub(crate) seconds: f64,
    /// Operations that were completed in it.
    pub(crate) operations: u64,
    /// Operations that failed in it.
    pub(crate) errors: u64,
    /// Operations that became due in it.
    pub(crate) scheduled: u64,
    /// Operations that were due and not sent at its end.
    pub(crate) backlog: u64,
    /// Latency from the intended start.
    pub(crate) response_us: LatencyMicroseconds,
    /// Latency from sending.
    pub(crate) service_us: LatencyMicroseconds,
    /// The costs of those replicas that reported before and after.
    pub(crate) cluster: ClusterCosts,
    /// The number of those replicas.
    pub(crate) reporting: usize,
}

impl Row {
    /// Operations per second.
    pub(crate) fn throughput(&self) -> f64 {
        self.operations as f64 / self.seconds
    }
}

/// Collects. Intervals are numbered from 1; 0 is the warm-up.
#[derive(Debug)]
pub(crate) struct Series {
    slices: Receiver<Slice>,
    /// Operations of a bundle.
    bundle: u64,
    /// By thread: the interval up to which it has handed over everything.
    handed_over: Vec<Option<u64>>,
    drained: usize,
    open: BTreeMap<u64, Totals>,
    /// Rows that lack what the threads have recorded, each with the time at which its interval began.
    waiting: VecDeque<(Row, SystemTime)>,
    /// The number of the first of them.
    next: u64,
    /// The number of rows so far.
    pushed: u64,
    /// The number of the last interval, once it has ended. Its row waits for what ends after it.
    last: Option<u64>,
    scheduled: u64,
    sent: u64,
    rows: Vec<Row>,
    runs: Vec<Totals>,
    log: IntervalLog,
}

/// Everything that was measured.
#[derive(Debug)]
pub(crate) struct Collected {
    pub(crate) rows: Vec<Row>,
    /// The totals of each run.
    pub(crate) runs: Vec<Totals>,
}

/// Writes every interval's histograms to a file, if there is one.
pub(crate) type IntervalLog = Option<HistogramLog<BufWriter<File>>>;

impl Series {
    pub(crate) fn new(
        slices: Receiver<Slice>,
        threads: usize,
        bundle: usize,
        runs: usize,
        log: IntervalLog,
    ) -> Self {
        Self {
            slices,
            bundle: bundle as u64,
            handed_over: vec![None; threads],
            drained: 0,
            open: BTreeMap::new(),
            waiting: VecDeque::new(),
            next: 1,
            pushed: 0,
            last: None,
            scheduled: 0,
            sent: 0,
            rows: Vec::new(),
            runs: (0..runs).map(|_| Totals::new(threads)).collect(),
            log,
        }
    }

    /// An interval has ended, the last one of all perhaps; its latencies are yet to come.
    pub(crate) fn push(&mut self, row: Row, last: bool) {
        self.pushed += 1;
        self.last = last.then_some(self.pushed);
        let length = Duration::from_secs_f64(row.seconds);
        self.waiting.push_back((row, SystemTime::now() - length));
    }

    /// Takes what the threads have handed over and completes the rows for which all have.
    pub(crate) fn collect(&mut self) -> anyhow::Result<()> {
        while let Ok(slice) = self.slices.try_recv() {
            let threads = self.handed_over.len();
            self.handed_over[slice.thread] = Some(slice.interval);
            self.drained += usize::from(slice.last);
            // What ends after the last interval was due in it.
            let interval = slice.interval.min(self.last.unwrap_or(u64::MAX));
            self.open.entry(interval).or_insert_with(|| Totals::new(threads)).add(&slice.totals);
        }
        let ended = self.handed_over.iter().min().copied().flatten();
        let drained = self.drained == self.handed_over.len();
        while ended.is_some_and(|ended| ended >= self.next) && (self.last != Some(self.next) || drained) {
            let Some((row, from)) = self.waiting.pop_front() else { break };
            self.complete(row, from)?;
            self.next += 1;
        }
        Ok(())
    }

    fn complete(&mut self, mut row: Row, from: SystemTime) -> anyhow::Result<()> {
        if let Some(warmup) = self.open.remove(&0) {
            self.scheduled += warmup.scheduled;
            self.sent += warmup.sent;
        }
        let threads = self.handed_over.len();
        let totals = self.open.remove(&self.next).unwrap_or_else(|| Totals::new(threads));
        self.scheduled += totals.scheduled;
        self.sent += totals.sent;
        row.scheduled = totals.scheduled * self.bundle;
        row.backlog = self.scheduled.saturating_sub(self.sent) * self.bundle;
        row.response_us = LatencyMicroseconds::of(&totals.response);
        row.service_us = LatencyMicroseconds::of(&totals.service);
        if let Some(log) = &mut self.log {
            let length = Duration::from_secs_f64(row.seconds);
            for (tag, histogram) in [("response", &totals.response), ("service", &totals.service)] {
                log.write(tag, from, length, NANOSECONDS_PER_MILLISECOND, histogram)
                    .context("cannot write the log of latencies")?;
            }
        }
        self.runs[row.run - 1].add(&totals);
        self.rows.push(row);
        Ok(())
    }

    /// The last row that is complete.
    pub(crate) fn latest(&self) -> Option<&Row> {
        self.rows.last()
    }

    /// To be called when all threads have drained.
    pub(crate) fn finish(mut self) -> anyhow::Result<Collected> {
        self.collect()?;
        // A thread that has failed hands nothing over; its failure is told elsewhere.
        while let Some((row, from)) = self.waiting.pop_front() {
            self.complete(row, from)?;
            self.next += 1;
        }
        Ok(Collected { rows: self.rows, runs: self.runs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    fn slice(thread: usize, interval: u64, last: bool, values: &[u64]) -> Slice {
        let mut totals = Totals::new(2);
        values.iter().for_each(|value| totals.response.saturating_record(*value * 1000));
        (totals.scheduled, totals.sent) = (5, 4);
        Slice { thread, interval, last, totals }
    }

    fn row(run: usize) -> Row {
        Row { run, seconds: 1.0, ..Row::default() }
    }

    fn series(runs: usize) -> (Sender<Slice>, Series) {
        let (sender, receiver) = channel();
        (sender, Series::new(receiver, 2, 10, runs, None))
    }

    #[test]
    fn a_row_waits_for_all_threads_and_the_last_for_what_ends_after_it() {
        let (sender, mut series) = series(1);
        let send = |slice| sender.send(slice).unwrap();
        send(slice(0, 0, false, &[]));
        send(slice(1, 0, false, &[]));
        series.push(row(1), false);
        send(slice(0, 1, false, &[10]));
        series.collect().unwrap();
        assert!(series.latest().is_none());
        send(slice(1, 1, false, &[20]));
        series.collect().unwrap();
        let first = series.latest().unwrap().clone();
        assert_eq!((first.response_us.max.floor(), first.scheduled, first.backlog), (20.0, 100, 40));
        series.push(row(1), true);
        send(slice(0, 2, false, &[30]));
        send(slice(1, 2, false, &[]));
        series.collect().unwrap();
        assert_eq!(series.rows.len(), 1, "bundles are open");
        send(slice(0, 2, true, &[]));
        send(slice(1, 2, true, &[40]));
        let collected = series.finish().unwrap();
        assert_eq!(collected.rows[1].response_us.max.floor(), 40.0);
        assert_eq!(collected.runs[0].response.len(), 4);
    }

    #[test]
    fn a_thread_that_missed_an_interval_holds_nothing_up_for_ever() {
        let (sender, mut series) = series(2);
        for (run, last) in [(1, false), (1, false), (2, true)] {
            series.push(row(run), last);
        }
        sender.send(slice(0, 2, false, &[1, 2])).unwrap();
        sender.send(slice(1, 2, false, &[])).unwrap();
        series.collect().unwrap();
        assert_eq!(series.rows.len(), 2);
        // A thread has failed and says nothing more.
        sender.send(slice(0, 3, true, &[3])).unwrap();
        let collected = series.finish().unwrap();
        assert_eq!(collected.rows.len(), 3);
        assert_eq!((collected.runs[0].response.len(), collected.runs[1].response.len()), (2, 1));
    }
}
