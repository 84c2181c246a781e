//! Writing histograms to files, on a thread of its own: no core ever waits for a disk on their behalf.
//!
//! The thread sleeps until SIGUSR1 or its interval wakes it, and reads what the cores have recorded. Each dump
//! appends to `replica-N.hlog` what was recorded since the last one, and writes the percentiles since the start of
//! the process to `replica-N-<name>.hgrm`.

use crate::config::HistogramConfig;
use crate::shared::Shared;
use hdrhistogram::Histogram;
use quorate_telemetry::{
    HistogramLog, LOG_COMMENTS, Measure, base_time, difference, log_name, percentiles, percentiles_name,
};
use quorate_types::ReplicaId;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, UNIX_EPOCH};
use tracing::{info, warn};

/// Where in a log its head is looked for.
const HEAD_BYTES_MAX: u64 = 4096;

/// The thread that dumps.
#[derive(Debug)]
pub(crate) struct Dumper {
    thread: JoinHandle<()>,
    finished: Arc<AtomicBool>,
}

impl Dumper {
    pub(crate) fn start(
        shared: &Arc<Shared>,
        replica: ReplicaId,
        config: HistogramConfig,
    ) -> std::io::Result<Self> {
        let finished = Arc::new(AtomicBool::new(false));
        let interval = config.interval;
        let mut dump =
            Dump { shared: Arc::clone(shared), replica, config, last: Vec::new(), from: Duration::ZERO };
        let over = Arc::clone(&finished);
        let body = move || dump.run(interval, &over);
        let thread = std::thread::Builder::new().name("histograms".to_owned()).spawn(body)?;
        shared.set_dumper(thread.thread().clone());
        Ok(Self { thread, finished })
    }

    /// Ends the thread, once no core records any more. What the last interval holds is still written.
    pub(crate) fn finish(self) {
        self.finished.store(true, Ordering::Release);
        self.thread.thread().unpark();
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

/// What is dumped, and how far it was.
struct Dump {
    shared: Arc<Shared>,
    replica: ReplicaId,
    config: HistogramConfig,
    /// What was recorded up to the last dump, in the order of the table; empty before the first.
    last: Vec<Histogram<u64>>,
    /// The uptime at the last dump.
    from: Duration,
}

impl Dump {
    fn run(&mut self, interval: Option<Duration>, finished: &AtomicBool) {
        let mut due = interval.map(|interval| Instant::now() + interval);
        loop {
            let over = finished.load(Ordering::Acquire);
            let timer = due.is_some_and(|due| over || due <= Instant::now());
            if self.shared.take_dump_request() || timer {
                self.dump();
                due = interval.map(|interval| Instant::now() + interval);
            }
            if over {
                return;
            }
            match due {
                Some(due) => std::thread::park_timeout(due.saturating_duration_since(Instant::now())),
                None => std::thread::park(),
            }
        }
    }

    fn dump(&mut self) {
        let directory = self.config.directory.display().to_string();
        match self.write() {
            Ok(()) => info!("histograms are written to {directory}"),
            Err(error) => {
                warn!(
                    "cannot write histograms to {directory}: {error}; see `histograms` in the configuration"
                );
            }
        }
    }

    /// What fails to be written stays for the next time.
    fn write(&mut self) -> std::io::Result<()> {
        let until = self.shared.clock.uptime();
        let now: Vec<_> = Measure::ALL.iter().map(|measure| self.shared.histogram(*measure)).collect();
        std::fs::create_dir_all(&self.config.directory)?;
        self.append_interval(&now, until)?;
        for (measure, histogram) in Measure::ALL.iter().zip(&now) {
            let mut text = Vec::new();
            percentiles(histogram, measure.divisor(), &mut text)?;
            std::fs::write(self.config.directory.join(percentiles_name(self.replica.0, *measure)), text)?;
        }
        (self.last, self.from) = (now, until);
        Ok(())
    }

    /// Appends what was recorded since the last dump in one write, so that a reader finds whole lines.
    fn append_interval(&self, now: &[Histogram<u64>], until: Duration) -> std::io::Result<()> {
        let path = self.config.directory.join(log_name(self.replica.0));
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let start = UNIX_EPOCH + Duration::from_nanos(self.shared.clock.started().0);
        let mut text = Vec::new();
        let mut log = match read_head(&mut file)? {
            head if head.is_empty() => {
                let name = format!("replica {}", self.replica);
                let comments: Vec<&str> = std::iter::once(name.as_str()).chain(LOG_COMMENTS).collect();
                HistogramLog::start(&mut text, start, &comments)?
            }
            head => {
                let base = base_time(&head).ok_or_else(|| {
                    std::io::Error::other(format!("{} is no histogram log", log_name(self.replica.0)))
                })?;
                HistogramLog::resume(&mut text, base)
            }
        };
        for (index, (measure, histogram)) in Measure::ALL.iter().zip(now).enumerate() {
            let recorded = match self.last.get(index) {
                Some(last) => difference(histogram, last).map_err(std::io::Error::other)?,
                None => histogram.clone(),
            };
            let (from, length) = (start + self.from, until.saturating_sub(self.from));
            log.write(measure.name(), from, length, measure.divisor(), &recorded)?;
        }
        file.write_all(&text)
    }
}

fn read_head(file: &mut File) -> std::io::Result<String> {
    let mut head = Vec::new();
    file.take(HEAD_BYTES_MAX).read_to_end(&mut head)?;
    Ok(String::from_utf8_lossy(&head).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_telemetry::decode;
    use quorate_wire::testing;

    fn dump(shared: &Arc<Shared>, directory: &std::path::Path) -> Dump {
        let config = HistogramConfig { directory: directory.join("histograms"), interval: None };
        Dump {
            shared: Arc::clone(shared),
            replica: ReplicaId(2),
            config,
            last: Vec::new(),
            from: Duration::ZERO,
        }
    }

    /// The counts of the intervals of one tag in the log.
    fn counts(directory: &std::path::Path, tag: &str) -> Vec<u64> {
        let log = std::fs::read_to_string(directory.join("histograms/replica-2.hlog")).unwrap();
        let prefix = format!("Tag={tag},");
        let lines = log.lines().filter(|line| line.starts_with(&prefix));
        lines.map(|line| decode(line.rsplit_once(',').unwrap().1).unwrap().len()).collect()
    }

    #[test]
    fn each_dump_holds_what_was_recorded_since_the_last_also_over_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared::new(&testing::config(4), 2));
        let mut first = dump(&shared, directory.path());
        for count in [3, 4] {
            shared.histograms(1).record(Measure::Sealed, 1_000_000, count);
            first.write().unwrap();
        }
        assert_eq!(counts(directory.path(), "sealed"), [3, 4]);
        assert_eq!(counts(directory.path(), "replied"), [0, 0]);
        // Another process goes on with the file and starts from nothing.
        dump(&shared, directory.path()).write().unwrap();
        assert_eq!(counts(directory.path(), "sealed"), [3, 4, 7]);
        let log = std::fs::read_to_string(directory.path().join("histograms/replica-2.hlog")).unwrap();
        assert_eq!(log.matches("StartTimestamp").count(), 1, "{log}");
        let percentiles = directory.path().join("histograms/replica-2-sealed.hgrm");
        assert!(std::fs::read_to_string(percentiles).unwrap().contains("Total count    =            7"));
    }

    #[test]
    fn a_file_that_is_no_log_is_left_alone_and_named() {
        let directory = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared::new(&testing::config(4), 1));
        let path = directory.path().join("histograms/replica-2.hlog");
        std::fs::create_dir(directory.path().join("histograms")).unwrap();
        std::fs::write(&path, "something else").unwrap();
        let error = dump(&shared, directory.path()).write().unwrap_err();
        assert!(error.to_string().contains("replica-2.hlog is no histogram log"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "something else");
    }

    #[test]
    fn the_thread_dumps_when_it_is_asked_and_when_it_ends() {
        let directory = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared::new(&testing::config(4), 1));
        let directory_of_dumps = directory.path().join("histograms");
        let interval = Some(Duration::from_secs(3600));
        let config = HistogramConfig { directory: directory_of_dumps.clone(), interval };
        let dumper = Dumper::start(&shared, ReplicaId(2), config).unwrap();
        shared.request_dump();
        let end = Instant::now() + Duration::from_secs(60);
        while !directory_of_dumps.join("replica-2-bytes_per_send.hgrm").exists() {
            assert!(Instant::now() < end, "no dump was written");
            std::thread::yield_now();
        }
        shared.histograms(0).record(Measure::Tick, 5, 9);
        dumper.finish();
        assert_eq!(counts(directory.path(), "tick_ns").iter().sum::<u64>(), 9);
    }
}
