//! The thread that reads logs while the replica runs: records that have left memory, for the cores that ask for them.
//!
//! It blocks on the disk so that no core does. It ends when the last core has let go of its [`LogReader`].

use crate::segment_files;
use quorate_journal::{Record, RecordPlace, SegmentNumber};
use quorate_reactor::Waker;
use quorate_types::{JournalId, Lsn};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use tracing::warn;

/// The records that are read for one core at a time; each may be as long as a batch.
const READS_OPEN_MAX: usize = 8;

/// A record that was asked for.
#[derive(Debug)]
pub(crate) struct ReadBack {
    pub(crate) journal: JournalId,
    pub(crate) lsn: Lsn,
    /// Nothing if it is not there, or cannot be read.
    pub(crate) record: Option<Record>,
}

struct Job {
    directory: Arc<PathBuf>,
    journal: JournalId,
    lsn: Lsn,
    place: Option<RecordPlace>,
    done: Sender<ReadBack>,
    waker: Waker,
}

/// What one core holds of the thread.
#[derive(Debug)]
pub(crate) struct LogReader {
    directory: Arc<PathBuf>,
    jobs: Sender<Job>,
    done: Sender<ReadBack>,
    read: Receiver<ReadBack>,
    /// The records that the thread was asked for and has not given.
    open: usize,
    /// Those that are to be asked for when others have come.
    waiting: VecDeque<(JournalId, Lsn)>,
}

impl LogReader {
    /// Has a record read back, now or when there is room among those that are being read.
    pub(crate) fn ask(&mut self, journal: JournalId, lsn: Lsn) {
        self.waiting.push_back((journal, lsn));
    }

    /// Asks the thread for what is waiting, as far as there is room; `place` tells where it lies.
    pub(crate) fn start(
        &mut self,
        waker: impl Fn() -> Waker,
        place: impl Fn(JournalId, Lsn) -> Option<RecordPlace>,
    ) {
        while self.open < READS_OPEN_MAX
            && let Some((journal, lsn)) = self.waiting.pop_front()
        {
            self.open += 1;
            let (directory, done) = (Arc::clone(&self.directory), self.done.clone());
            let place = place(journal, lsn);
            let sent = self.jobs.send(Job { directory, journal, lsn, place, done, waker: waker() });
            assert!(sent.is_ok(), "the thread lasts as long as this handle");
        }
    }

    /// The next record that was read.
    pub(crate) fn take(&mut self) -> Option<ReadBack> {
        if self.open == 0 {
            return None;
        }
        let read = self.read.try_recv().ok()?;
        self.open -= 1;
        Some(read)
    }

    /// The records that are being read.
    #[cfg(test)]
    pub(crate) fn open(&self) -> usize {
        self.open
    }
}

/// The thread.
#[derive(Debug)]
pub(crate) struct ReaderThread {
    jobs: Sender<Job>,
    thread: JoinHandle<()>,
}

impl ReaderThread {
    /// Starts the thread, from one that is not pinned to a core.
    pub(crate) fn start() -> io::Result<Self> {
        let (jobs, waiting) = mpsc::channel::<Job>();
        let body = move || {
            let mut files = Files::default();
            for job in waiting {
                files.carry_out(job);
            }
        };
        let thread = std::thread::Builder::new().name("log-reader".to_owned()).spawn(body)?;
        Ok(Self { jobs, thread })
    }

    /// The handle of one core, whose log is in `directory`.
    pub(crate) fn reader(&self, directory: &Path) -> LogReader {
        let (done, read) = mpsc::channel();
        let (directory, jobs) = (Arc::new(directory.to_owned()), self.jobs.clone());
        LogReader { directory, jobs, done, read, open: 0, waiting: VecDeque::new() }
    }

    /// Waits for the thread to end, once no core needs it any more.
    pub(crate) fn finish(self) {
        drop(self.jobs);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

/// The file that was read from last: records that are asked for together mostly lie together.
#[derive(Default)]
struct Files {
    last: Option<(PathBuf, File)>,
}

impl Files {
    fn carry_out(&mut self, job: Job) {
        let Job { directory, journal, lsn, place, done, waker } = job;
        let record = place.and_then(|place| self.read(&directory, place));
        // A core that is gone needs nothing.
        if done.send(ReadBack { journal, lsn, record }).is_ok() {
            waker.wake();
        }
    }

    fn read(&mut self, directory: &Path, place: RecordPlace) -> Option<Record> {
        let path = segment_files::path(directory, place.segment);
        let mut bytes = vec![0; place.bytes as usize];
        let read = self.file(&path).and_then(|file| file.read_exact_at(&mut bytes, place.offset));
        match read {
            Ok(()) => {
                let record = place.record(&bytes);
                if record.is_none() {
                    warn_unreadable(&path, place.segment, place.offset, &"its checksum does not match");
                }
                record
            }
            // What was asked for just before its segment was given up.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.last = None;
                warn_unreadable(&path, place.segment, place.offset, &error);
                None
            }
        }
    }

    fn file(&mut self, path: &Path) -> io::Result<&File> {
        if self.last.as_ref().is_none_or(|(open, _)| open != path) {
            self.last = Some((path.to_owned(), File::open(path)?));
        }
        match &self.last {
            Some((_, file)) => Ok(file),
            None => unreachable!("invariant: just opened"),
        }
    }
}

fn warn_unreadable(path: &Path, segment: SegmentNumber, offset: u64, why: &dyn std::fmt::Display) {
    warn!(
        "{}: a record at offset {offset} of segment {segment} cannot be read back: {why}; others serve it",
        path.display()
    );
}
