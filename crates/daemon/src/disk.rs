//! The thread that does with files what blocks: it makes the segments that the logs will need, notes that the replica
//! begins to speak, and watches how much room there is and how long syncs take.
//!
//! It ends when the last core has let go of its [`SegmentMaker`].

use crate::data_directory;
use crate::log_error::LogError;
use crate::segment_files::{self, Opening};
use crate::shared::Shared;
use crate::space::{self, Limits, Room};
use hdrhistogram::Histogram;
use quorate_journal::{Repair, SegmentAction, SegmentNumber, SegmentsMade};
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

/// What is to be done with the file of a segment.
#[derive(Debug)]
pub(crate) struct SegmentTask {
    pub(crate) action: SegmentAction,
    /// What it begins with if it is made.
    pub(crate) first_block: Vec<u8>,
    /// What is known beside the log when it is made.
    pub(crate) known: SegmentsMade,
}

impl SegmentTask {
    /// Whether a later start would see that it was done before another one. What is not needed any more may go at any
    /// time: room comes of it.
    fn keeps_order(&self) -> bool {
        match self.action {
            SegmentAction::Create { .. } | SegmentAction::Recycle { .. } => true,
            SegmentAction::Remove { number } => number >= self.known.needed_from,
            SegmentAction::Shorten { .. } => false,
        }
    }
}

/// What is to be done.
enum Task {
    /// Something with the file of a segment.
    Segment(SegmentTask),
    /// To note that the replica speaks from here on.
    Speak,
    /// To write blocks of segments again.
    Repair(Vec<Repair>),
}

struct Job {
    place: Arc<LogPlace>,
    task: Task,
    done: Sender<Made>,
    waker: Waker,
}

impl Job {
    fn tell(&self, made: Made) {
        // A core that is gone needs nothing.
        if self.done.send(made).is_ok() {
            self.waker.wake();
        }
    }
}

/// What is done.
#[derive(Debug)]
pub(crate) enum Done {
    /// A segment is ready.
    Made(SegmentNumber, File),
    /// It is noted that the replica speaks.
    Noted,
}

/// What is done, or why it never will be.
pub(crate) type Made = Result<Done, LogError>;

/// What one core holds of the thread.
#[derive(Debug)]
pub(crate) struct SegmentMaker {
    place: Arc<LogPlace>,
    jobs: Sender<Job>,
    done: Sender<Made>,
    made: Receiver<Made>,
    /// What was asked for and is not done.
    open: usize,
}

impl SegmentMaker {
    pub(crate) fn place(&self) -> &LogPlace {
        &self.place
    }

    /// Has something done with the file of a segment; `waker` is used when there is something to take.
    pub(crate) fn ask(&mut self, task: SegmentTask, waker: Waker) {
        let makes = matches!(task.action, SegmentAction::Create { .. } | SegmentAction::Recycle { .. });
        self.open += usize::from(makes);
        self.send(Task::Segment(task), waker);
    }

    /// Has it noted, durably, that the replica speaks from here on.
    pub(crate) fn speak(&mut self, waker: Waker) {
        self.open += 1;
        self.send(Task::Speak, waker);
    }

    /// Has blocks of segments written again, before anything else that is asked for later.
    pub(crate) fn repair(&mut self, repairs: Vec<Repair>, waker: Waker) {
        self.send(Task::Repair(repairs), waker);
    }

    fn send(&mut self, task: Task, waker: Waker) {
        let (place, done) = (Arc::clone(&self.place), self.done.clone());
        let sent = self.jobs.send(Job { place, task, done, waker });
        assert!(sent.is_ok(), "the thread lasts as long as this handle");
    }

    /// The next thing that is done.
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
            is_full: false,
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
    /// What found the disk full, or no descriptor: nothing is lost yet, and room may come back.
    put_off: Vec<Job>,
    /// Whether one of those found the disk full.
    is_full: bool,
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
                    self.is_full = false;
                    std::mem::take(&mut self.put_off).into_iter().for_each(|job| self.carry_out(job));
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.shared.set_segment_waits(self.is_full);
            if due <= Instant::now() {
                self.watch();
                self.syncs.look(&self.shared);
                due = Instant::now() + WATCH_INTERVAL;
            }
        }
    }

    fn carry_out(&mut self, job: Job) {
        // Numbers of one log come into being in their order, or one that has none yet would be missed after a stop.
        if matches!(&job.task, Task::Segment(task) if task.keeps_order())
            && self.put_off.iter().any(|other| other.place.directory == job.place.directory)
        {
            return self.put_off.push(job);
        }
        let made = match &job.task {
            Task::Segment(task) => act(&job.place, task),
            Task::Speak => Some(self.note_spoken()),
            Task::Repair(repairs) => {
                // What is not repaired now is so at the next start.
                if let Err(error) = segment_files::repair(&job.place.directory, repairs) {
                    warn!("{error}");
                }
                None
            }
        };
        match made {
            None => {}
            Some(Err(error)) if space::is_full(&error.source) => {
                self.is_full = true;
                self.put_off.push(job);
            }
            Some(Err(error)) if space::lacks_descriptors(&error.source) => {
                warn!("{error}; it is tried again");
                self.put_off.push(job);
            }
            Some(made) => job.tell(made),
        }
    }

    fn note_spoken(&self) -> Made {
        let noted = data_directory::note_spoken(&self.directory);
        noted.map(|()| Done::Noted).map_err(|error| {
            LogError::new(self.directory.clone(), "note that the replica speaks", error.into_source())
        })
    }

    /// Looks at the room on the disk and in the logs.
    fn watch(&mut self) {
        let free = space::free_bytes(&self.directory).unwrap_or_else(|error| {
            warn!("{}: cannot tell how full the disk is: {error}", self.directory.display());
            u64::MAX
        });
        self.shared.set_disk_free_bytes(free);
        let (needed, checkpoint_waits) = (self.shared.log_bytes(), self.shared.checkpoint_waits());
        let before = self.shared.shortage();
        let now = self.limits.judge(before, Room { needed, free, checkpoint_waits });
        if before == now {
            return;
        }
        self.shared.set_shortage(now);
        match now {
            Some(shortage) => warn!("{shortage} ({} MiB of the disk are free)", free >> 20),
            None => info!("there is room again: writes are taken"),
        }
    }
}

/// Does something with the file of a segment; nothing is to be told of what nobody waits for.
fn act(place: &LogPlace, task: &SegmentTask) -> Option<Made> {
    let LogPlace { directory, segment_bytes, opening } = place;
    let SegmentTask { action, first_block, known } = task;
    let path = |number| segment_files::path(directory, number);
    let (number, what, made) = match *action {
        SegmentAction::Create { number } => {
            let made = segment_files::create(directory, number, first_block, *segment_bytes, *opening);
            (number, "prepare it", made)
        }
        SegmentAction::Recycle { from, to } => {
            let made = segment_files::recycle(directory, from, to, first_block, *opening);
            (to, "rename another segment to it", made)
        }
        SegmentAction::Shorten { number, bytes } => {
            if let Err(error) = segment_files::shorten(directory, number, bytes) {
                warn!(
                    "{}: cannot shorten a segment, which takes more room so: {error}",
                    path(number).display()
                );
            }
            return None;
        }
        SegmentAction::Remove { number } => {
            if let Err(error) = segment_files::remove(directory, number) {
                warn!("{}: cannot remove a segment that is not needed: {error}", path(number).display());
            }
            return None;
        }
    };
    let file = match made {
        Ok(file) => file,
        Err(source) => return Some(Err(LogError::new(path(number), what, source))),
    };
    let noted = segment_files::note_made(directory, *known);
    Some(
        noted
            .map(|()| Done::Made(number, file))
            .map_err(|error| LogError::new(path(number), "note that it was made", error.into_source())),
    )
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

    #[test]
    fn numbers_of_a_log_come_in_order_and_what_gives_room_goes_before() {
        let [two, five, six] = [2, 5, 6].map(SegmentNumber);
        let known = SegmentsMade { upto: six, needed_from: five, ..SegmentsMade::default() };
        let keeps = |action| SegmentTask { action, first_block: Vec::new(), known }.keeps_order();
        assert!(keeps(SegmentAction::Create { number: six }));
        assert!(keeps(SegmentAction::Recycle { from: two, to: six }));
        assert!(
            keeps(SegmentAction::Remove { number: five }),
            "its number was not left out before another was made"
        );
        assert!(!keeps(SegmentAction::Remove { number: two }), "nobody misses what is not needed");
        assert!(!keeps(SegmentAction::Shorten { number: five, bytes: 4096 }));
    }
}
