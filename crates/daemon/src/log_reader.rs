//! The thread that reads logs while the replica runs: records that have left memory, for the cores that ask for them, and
//! slowly, between those, all that is needed, to see whether it can still be read.
//!
//! It blocks on the disk so that no core does. It ends when the last core has let go of its [`LogReader`].

use crate::segment_files::{self, READ_BYTES};
use crate::sync_probe::open_direct;
use quorate_journal::{LogIdentity, Record, RecordPlace, Scrubbed, SegmentNumber, scrub};
use quorate_reactor::{AlignedBuffer, Waker};
use quorate_types::{JournalId, Lsn};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracing::warn;

/// How long checking a MiB takes at least: about 4 MiB a second, next to what a busy log writes.
const CHECK_TIME_PER_MIB: Duration = Duration::from_millis(250);

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

/// A segment that was checked.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) segment: SegmentNumber,
    pub(crate) bytes: u64,
    pub(crate) scrubbed: Scrubbed,
}

/// What the thread gives.
#[derive(Debug)]
enum Answer {
    Read(ReadBack),
    /// Nothing of a segment that is not there any more, or cannot be read at all.
    Checked(Option<Checked>),
}

/// What the thread is asked for.
enum Task {
    Read { journal: JournalId, lsn: Lsn, place: Option<RecordPlace> },
    Check { identity: LogIdentity, segment: SegmentNumber, needed: Vec<(JournalId, Lsn, RecordPlace)> },
}

struct Job {
    directory: Arc<PathBuf>,
    task: Task,
    done: Sender<Answer>,
    waker: Waker,
}

/// What one core holds of the thread.
#[derive(Debug)]
pub(crate) struct LogReader {
    directory: Arc<PathBuf>,
    jobs: Sender<Job>,
    done: Sender<Answer>,
    answers: Receiver<Answer>,
    /// The records that the thread was asked for and has not given.
    open: usize,
    is_checking: bool,
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
            let place = place(journal, lsn);
            self.send(Task::Read { journal, lsn, place }, waker());
        }
    }

    /// Has a segment checked, in which the `needed` records stand; one at a time.
    pub(crate) fn check(
        &mut self,
        identity: LogIdentity,
        segment: SegmentNumber,
        needed: Vec<(JournalId, Lsn, RecordPlace)>,
        waker: Waker,
    ) {
        assert!(!self.is_checking, "one segment of a log is checked at a time");
        self.is_checking = true;
        self.send(Task::Check { identity, segment, needed }, waker);
    }

    /// Whether a segment is being checked.
    pub(crate) fn is_checking(&self) -> bool {
        self.is_checking
    }

    fn send(&self, task: Task, waker: Waker) {
        let (directory, done) = (Arc::clone(&self.directory), self.done.clone());
        let sent = self.jobs.send(Job { directory, task, done, waker });
        assert!(sent.is_ok(), "the thread lasts as long as this handle");
    }

    /// Hands out what has come: a record that was read, or what came of checking a segment.
    pub(crate) fn take(&mut self, checked: impl FnMut(Checked)) -> Option<ReadBack> {
        if self.open == 0 && !self.is_checking {
            return None;
        }
        match self.answers.try_recv().ok()? {
            Answer::Read(read) => {
                self.open -= 1;
                Some(read)
            }
            Answer::Checked(found) => {
                self.is_checking = false;
                found.into_iter().for_each(checked);
                None
            }
        }
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
            let mut worker = Worker { jobs: waiting, last: None, checks: VecDeque::new() };
            worker.run();
        };
        let thread = std::thread::Builder::new().name("log-reader".to_owned()).spawn(body)?;
        Ok(Self { jobs, thread })
    }

    /// The handle of one core, whose log is in `directory`.
    pub(crate) fn reader(&self, directory: &Path) -> LogReader {
        let (done, answers) = mpsc::channel();
        let (directory, jobs) = (Arc::new(directory.to_owned()), self.jobs.clone());
        LogReader { directory, jobs, done, answers, open: 0, is_checking: false, waiting: VecDeque::new() }
    }

    /// Waits for the thread to end, once no core needs it any more.
    pub(crate) fn finish(self) {
        drop(self.jobs);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

struct Worker {
    jobs: Receiver<Job>,
    /// The file that was read from last: records that are asked for together mostly lie together.
    last: Option<(PathBuf, File)>,
    /// Segments that are to be checked.
    checks: VecDeque<Job>,
}

impl Worker {
    fn run(&mut self) {
        while let Ok(job) = self.jobs.recv() {
            self.carry_out(job);
            while let Some(job) = self.checks.pop_front() {
                if !self.check(job) {
                    return;
                }
            }
        }
    }

    /// Reads a record; what takes long is put off.
    fn carry_out(&mut self, job: Job) {
        let Task::Read { journal, lsn, place } = job.task else { return self.checks.push_back(job) };
        let record = place.and_then(|place| self.read(&job.directory, place));
        answer(&job.done, &job.waker, Answer::Read(ReadBack { journal, lsn, record }));
    }

    /// Checks a segment; says whether anybody is left who may ask for something.
    fn check(&mut self, job: Job) -> bool {
        let Job { directory, task, done, waker } = job;
        let Task::Check { identity, segment, needed } = task else { return true };
        let mut is_wanted = true;
        let bytes = self.read_slowly(&segment_files::path(&directory, segment), &mut is_wanted);
        let found = bytes.map(|bytes| {
            let scrubbed = scrub(identity, segment, &bytes, &needed);
            Checked { segment, bytes: bytes.len() as u64, scrubbed }
        });
        answer(&done, &waker, Answer::Checked(found));
        is_wanted
    }

    /// The bytes of a segment, read at a rate that leaves the disk to others; what it does not give back is zeroes. What
    /// is asked for meanwhile goes before.
    fn read_slowly(&mut self, path: &Path, is_wanted: &mut bool) -> Option<Vec<u8>> {
        // Past the cache of the system: it is the disk that is asked.
        let (file, _) = open_direct(OpenOptions::new().read(true), path).ok()?;
        let length = file.metadata().ok()?.len();
        let mut buffer = AlignedBuffer::zeroed(READ_BYTES);
        let read = segment_files::read_segment(length, |bytes, offset| {
            self.pause(bytes.len(), is_wanted)?;
            file.read_exact_at(&mut buffer[..bytes.len()], offset)?;
            bytes.copy_from_slice(&buffer[..bytes.len()]);
            Ok(())
        });
        match read {
            Ok((bytes, bad)) => {
                bad.iter().for_each(|Range { start, end }| {
                    warn!(
                        "{}: the disk does not give back the bytes from offset {start} to {end}",
                        path.display()
                    );
                });
                Some(bytes)
            }
            Err(error) => {
                if *is_wanted {
                    warn!("{}: a segment cannot be checked: {error}", path.display());
                }
                None
            }
        }
    }

    /// Waits for as long as so many bytes may take, and does meanwhile what is asked for. An error says that nobody is
    /// left to ask.
    fn pause(&mut self, bytes: usize, is_wanted: &mut bool) -> io::Result<()> {
        let end = Instant::now() + CHECK_TIME_PER_MIB.mul_f64(bytes as f64 / f64::from(1u32 << 20));
        loop {
            match self.jobs.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(job) => self.carry_out(job),
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => {
                    *is_wanted = false;
                    return Err(io::ErrorKind::Interrupted.into());
                }
            }
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

fn answer(done: &Sender<Answer>, waker: &Waker, answer: Answer) {
    // A core that is gone needs nothing.
    if done.send(answer).is_ok() {
        waker.wake();
    }
}

fn warn_unreadable(path: &Path, segment: SegmentNumber, offset: u64, why: &dyn std::fmt::Display) {
    warn!(
        "{}: a record at offset {offset} of segment {segment} cannot be read back: {why}; others serve it",
        path.display()
    );
}
