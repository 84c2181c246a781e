//! The thread that does with files what blocks: it makes the segments that the logs will need, and watches how much room
//! there is and how long syncs take.
//!
//! It ends when the last core has let go of its [`SegmentMaker`].

use crate::log_error::LogError;
use crate::segment_files::{self, Opening};
use crate::shared::Shared;
use crate::space::{self, Limits, Room};
use hdrhistogram::Histogram;
use quorate_journal::SegmentAction;
use quorate_reactor::Waker;
use quorate_telemetry::{Measure, difference};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// How often the room on the disk is looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// How often the times of syncs are looked at, and from when on they are too long.
const SYNC_INTERVAL: Duration = Duration::from_secs(60);
const SYNC_P99_MAX: Duration = Duration::from_millis(20);

/// Where the segments of one log are, and how they are made.
#[derive(Clone, Debug)]
pub(crate) struct LogPlace {
    pub(crate) directory: PathBuf,
    pub(crate) segment_bytes: u64,
    pub(crate) opening: Opening,
}

struct Job {
    place: Arc<LogPlace>,
    action: SegmentAction,
    done: Sender<Made>,
    waker: Waker,
}

/// A segment that is ready, or why it never will be.
pub(crate) type Made = Result<(quorate_journal::SegmentNumber, File), LogError>;

/// What one core holds of the thread.
#[derive(Debug)]
pub(crate) struct SegmentMaker {
    place: Arc<LogPlace>,
    jobs: Sender<Job>,
    done: Sender<Made>,
    made: Receiver<Made>,
    /// Segments that were asked for and are not there.
    open: usize,
}

impl SegmentMaker {
    pub(crate) fn place(&self) -> &LogPlace {
        &self.place
    }

    /// Has something done with the file of a segment; `waker` is used when there is something to take.
    pub(crate) fn ask(&mut self, action: SegmentAction, waker: Waker) {
        self.open += usize::from(!matches!(action, SegmentAction::Remove { .. }));
        let (place, done) = (Arc::clone(&self.place), self.done.clone());
        let sent = self.jobs.send(Job { place, action, done, waker });
        assert!(sent.is_ok(), "the thread lasts as long as this handle");
    }

    /// The next segment that is ready.
    pub(crate) fn take(&mut self) -> Option<Made> {
        if self.open == 0 {
            return None;
        }
        let made = self.made.try_recv().ok()?;
        self.open -= 1;
        Some(made)
    }
}

/// The thread.
#[derive(Debug)]
pub(crate) struct Disk {
    jobs: Sender<Job>,
    thread: JoinHandle<()>,
}

impl Disk {
    /// Starts the thread, from one that is not pinned to a core. `directory` is on the disk that is watched.
    pub(crate) fn start(shared: &Arc<Shared>, directory: &Path, limits: Limits) -> io::Result<Self> {
        let (jobs, waiting) = mpsc::channel();
        let mut worker = Worker {
            shared: Arc::clone(shared),
            directory: directory.to_owned(),
            limits,
            put_off: Vec::new(),
            syncs: SyncWatch { known: shared.histogram(Measure::Sync), due: Instant::now() + SYNC_INTERVAL },
        };
        let thread =
            std::thread::Builder::new().name("disk".to_owned()).spawn(move || worker.run(&waiting))?;
        Ok(Self { jobs, thread })
    }

    /// The handle of one core.
    pub(crate) fn maker(&self, place: LogPlace) -> SegmentMaker {
        let (done, made) = mpsc::channel();
        SegmentMaker { place: Arc::new(place), jobs: self.jobs.clone(), done, made, open: 0 }
    }

    /// Waits for the thread to end, once no core needs it any more.
    pub(crate) fn finish(self) {
        drop(self.jobs);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

struct Worker {
    shared: Arc<Shared>,
    directory: PathBuf,
    limits: Limits,
    /// What found the disk full: nothing is lost yet, and room may come back.
    put_off: Vec<Job>,
    syncs: SyncWatch,
}

impl Worker {
    fn run(&mut self, jobs: &Receiver<Job>) {
        self.watch();
        let mut due = Instant::now() + WATCH_INTERVAL;
        loop {
            match jobs.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(job) => self.carry_out(job),
                Err(RecvTimeoutError::Timeout) => {
                    std::mem::take(&mut self.put_off).into_iter().for_each(|job| self.carry_out(job));
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if due <= Instant::now() {
                self.watch();
                self.syncs.look(&self.shared);
                due = Instant::now() + WATCH_INTERVAL;
            }
        }
    }

    fn carry_out(&mut self, job: Job) {
        let LogPlace { directory, segment_bytes, opening } = &*job.place;
        let (number, what, made) = match job.action {
            SegmentAction::Create { number } => {
                let made = segment_files::create(directory, number, *segment_bytes, *opening);
                (number, "prepare it", made)
            }
            SegmentAction::Recycle { from, to } => {
                (to, "rename another segment to it", segment_files::recycle(directory, from, to, *opening))
            }
            SegmentAction::Remove { number } => {
                let path = segment_files::path(directory, number);
                if let Err(error) = segment_files::remove(directory, number) {
                    warn!("{}: cannot remove a segment that is not needed: {error}", path.display());
                }
                return;
            }
        };
        if made.as_ref().is_err_and(space::is_full) {
            self.put_off.push(job);
            return;
        }
        let path = segment_files::path(directory, number);
        let made = made.map(|file| (number, file)).map_err(|source| LogError::new(path, what, source));
        // A core that is gone needs nothing.
        if job.done.send(made).is_ok() {
            job.waker.wake();
        }
    }

    /// Looks at the room on the disk and in the logs.
    fn watch(&mut self) {
        let free = space::free_bytes(&self.directory).unwrap_or_else(|error| {
            warn!("{}: cannot tell how full the disk is: {error}", self.directory.display());
            u64::MAX
        });
        let (needed, checkpoint_waits) = (self.shared.log_bytes(), self.shared.checkpoint_waits());
        let before = self.shared.read_only();
        let now = self.limits.judge(before, Room { needed, free, checkpoint_waits });
        if before == now {
            return;
        }
        self.shared.set_read_only(now);
        match now {
            Some(reason) => warn!("{reason} ({} MiB of the disk are free)", free >> 20),
            None => info!("there is room again: writes are taken"),
        }
    }
}

/// Warns when the syncs of a minute were slow.
struct SyncWatch {
    known: Histogram<u64>,
    due: Instant,
}

impl SyncWatch {
    fn look(&mut self, shared: &Shared) {
        if Instant::now() < self.due {
            return;
        }
        self.due += SYNC_INTERVAL;
        let now = shared.histogram(Measure::Sync);
        let recent = difference(&now, &self.known);
        self.known = now;
        let Ok(recent) = recent else { return };
        if let Some(p99) = too_slow(&recent) {
            warn!(
                "syncs of the log are slow: 1 % of the {} in the last minute took {} ms or more; check what else uses the \
                 disk, or put data_dir on a faster one",
                recent.len(),
                p99.as_millis()
            );
        }
    }
}

/// The 99th percentile, if it is too long.
fn too_slow(recent: &Histogram<u64>) -> Option<Duration> {
    let p99 = Duration::from_nanos(recent.value_at_quantile(0.99));
    (!recent.is_empty() && p99 > SYNC_P99_MAX).then_some(p99)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_sync_in_a_hundred_is_too_slow_and_one_in_a_thousand_is_not() {
        let histogram = |slow: u64| {
            let mut histogram = Histogram::<u64>::new(2).unwrap();
            histogram.record_n(1_000_000, 1000 - slow).unwrap();
            histogram.record_n(30_000_000, slow).unwrap();
            histogram
        };
        assert_eq!(too_slow(&histogram(1)), None);
        assert!(too_slow(&histogram(11)).is_some_and(|p99| p99.as_millis() == 30));
        assert_eq!(too_slow(&Histogram::<u64>::new(2).unwrap()), None);
    }
}
