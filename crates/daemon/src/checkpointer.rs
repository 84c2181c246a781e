//! Writing checkpoints on a thread of its own: the cores go on meanwhile.
//!
//! A frozen state shares its nodes with the living one, which copies what it changes until the state is written. The
//! thread is nicer than the cores, so that it gets what they leave where CPUs are short, and works for a small part
//! of the time: a checkpoint is in no hurry, and what a burst of hashing takes from caches and memory slows the cores
//! down.
//!
//! A state that waits is replaced by a newer one, and what a transfer has received so far by any state; one that is
//! not newer than what is durable is left out. After an error nothing more is written: the replica has to stop.
//! When the replica stops, what is being written is left unfinished.

use crate::page_folder::{FolderError, PageFolder};
use quorate_state::{CheckpointHead, Forest, Frozen, PageStore, Progress};
use quorate_types::{Digest, Nanoseconds, Seq};
use quorate_wire::Position;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracing::debug;

/// How much nicer than the cores the thread is.
const NICE: i32 = 10;
/// It works for one part in so many of the time.
const SHARE: u32 = 8;
/// How long it works before it pauses.
const SLICE: Duration = Duration::from_micros(200);

/// What is to be written.
#[derive(Debug)]
pub enum Contents {
    /// A whole state.
    State(Frozen),
    /// What a transfer of the state with this root has received.
    Partial {
        /// The root.
        root: Digest,
        /// What is there of it.
        received: Forest,
    },
}

/// A checkpoint to be written.
#[derive(Debug)]
pub struct Job {
    /// The slot with its chain digest.
    pub position: Position,
    /// The timestamp of the slot's header.
    pub timestamp: Nanoseconds,
    /// The certificate of the state's root, encoded, if it is known; else empty.
    pub certificate: Vec<u8>,
    /// The state.
    pub contents: Contents,
}

impl Job {
    /// Of several that wait, the highest is written.
    fn rank(&self) -> (bool, Seq) {
        (matches!(self.contents, Contents::State(_)), self.position.seq)
    }
}

/// What became of a job.
#[derive(Debug)]
pub enum Outcome {
    /// It is durable, directory entry included.
    Durable(Written),
    /// A newer one came before it was begun, or is durable already.
    Replaced(Position),
    /// It is not, and nothing more will be.
    Failed(Position, FolderError),
}

/// A durable checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// The slot.
    pub position: Position,
    /// Whether it is of a whole state.
    pub complete: bool,
    /// The root of the state.
    pub root: Digest,
    /// The bytes that were written to page files.
    pub written_bytes: u64,
    /// The bytes that live in page files.
    pub live_bytes: u64,
    /// The bytes of all page files that are there.
    pub disk_bytes: u64,
    /// From its beginning until it was durable, pauses included.
    pub elapsed: Duration,
    /// How much of that was making files durable.
    pub syncing: Duration,
}

/// Keeps to a share of the time.
struct Pace {
    worked_since: Instant,
}

impl Pace {
    fn start() -> Self {
        Self { worked_since: Instant::now() }
    }

    /// Pauses if it is time to, unless another state waits: then nothing is gained by patience.
    fn keep(&mut self, hurry: &Hurry) {
        let worked = self.worked_since.elapsed();
        if worked >= SLICE {
            if hurry.waiting.load(Ordering::Relaxed) <= 1 && !hurry.stop.load(Ordering::Relaxed) {
                // A slice that was preempted has not worked for all of its time.
                std::thread::sleep(worked.min(2 * SLICE) * (SHARE - 1));
            }
            self.worked_since = Instant::now();
        }
    }
}

/// What both sides know of the haste that is due.
#[derive(Debug, Default)]
struct Hurry {
    /// Jobs that were given out and have no outcome yet.
    waiting: AtomicUsize,
    stop: AtomicBool,
}

/// Tells whoever gave a job out that its outcome can be taken; usually a reactor's waker.
pub type Notify = Box<dyn FnOnce() + Send>;

/// What the thread is told.
enum Order {
    Write(Job, Notify),
    Keep(Vec<Seq>),
}

/// What the execution core holds of the thread. The thread ends when this is dropped.
#[derive(Debug)]
pub struct Checkpointer {
    orders: Sender<Order>,
    outcomes: Receiver<Outcome>,
    hurry: Arc<Hurry>,
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.hurry.stop.store(true, Ordering::Relaxed);
    }
}

impl Checkpointer {
    /// Starts the thread, from one that is not pinned to a core.
    pub fn start(folder: PageFolder, store: PageStore) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (orders, waiting) = mpsc::channel();
        let (finished, outcomes) = mpsc::channel();
        let hurry = Arc::new(Hurry::default());
        let writer = Writer { folder, store, hurry: Arc::clone(&hurry), outcomes: finished };
        let body = move || {
            if let Err(error) = quorate_reactor::be_nicer(NICE) {
                debug!("checkpoints are written with the priority of the cores: {error}");
            }
            writer.run(&waiting);
        };
        let thread = std::thread::Builder::new().name("checkpointer".to_owned()).spawn(body)?;
        Ok((Self { orders, outcomes, hurry }, thread))
    }

    /// Has a checkpoint written; `done` is called, on the thread, when its outcome can be taken.
    pub fn write(&self, job: Job, done: Notify) {
        self.hurry.waiting.fetch_add(1, Ordering::Relaxed);
        // After a failure the thread is gone; its outcome has told so.
        let _ = self.orders.send(Order::Write(job, done));
    }

    /// Tells which of the states that are durable by now are needed: those after these slots, ascending.
    pub fn keep(&self, needed: Vec<Seq>) {
        let _ = self.orders.send(Order::Keep(needed));
    }

    /// The next outcome that is there, in the order of the jobs.
    #[must_use]
    pub fn take(&self) -> Option<Outcome> {
        self.outcomes.try_recv().ok()
    }
}

/// The thread's side.
struct Writer {
    folder: PageFolder,
    store: PageStore,
    hurry: Arc<Hurry>,
    outcomes: Sender<Outcome>,
}

impl Writer {
    fn run(mut self, waiting: &Receiver<Order>) {
        while let Ok(order) = waiting.recv() {
            let mut newest = None;
            for order in std::iter::once(order).chain(waiting.try_iter()) {
                match order {
                    Order::Keep(needed) => self.store.keep_states(&needed),
                    Order::Write(job, done) => self.choose(&mut newest, job, done),
                }
            }
            let Some((job, done)) = newest else { continue };
            let position = job.position;
            match self.write(job) {
                Ok(Some(written)) => self.report(Outcome::Durable(written), done),
                Ok(None) => return,
                Err(error) => {
                    self.report(Outcome::Failed(position, error), done);
                    return;
                }
            }
        }
    }

    fn choose(&self, chosen: &mut Option<(Job, Notify)>, job: Job, done: Notify) {
        let is_due = match &job.contents {
            Contents::State(_) => self.store.is_news(job.position.seq),
            Contents::Partial { .. } => true,
        };
        let is_highest = chosen.as_ref().is_none_or(|(other, _)| other.rank() <= job.rank());
        let left_out = if is_due && is_highest { chosen.replace((job, done)) } else { Some((job, done)) };
        if let Some((left_out, done)) = left_out {
            self.report(Outcome::Replaced(left_out.position), done);
        }
    }

    fn report(&self, outcome: Outcome, done: Notify) {
        self.hurry.waiting.fetch_sub(1, Ordering::Relaxed);
        // Nobody listens any more when the replica stops.
        let _ = self.outcomes.send(outcome);
        done();
    }

    /// Writes one checkpoint; nothing comes back when the replica stops.
    fn write(&mut self, job: Job) -> Result<Option<Written>, FolderError> {
        let started = Instant::now();
        let Job { position, timestamp, certificate, contents } = job;
        let head = CheckpointHead { seq: position.seq, digest: position.digest, timestamp, certificate };
        let complete = matches!(contents, Contents::State(_));
        let mut checkpoint = match contents {
            Contents::State(state) => self.store.begin(head, &state),
            Contents::Partial { root, received } => self.store.begin_partial(head, root, received),
        };
        let mut pace = Pace::start();
        loop {
            if self.hurry.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            match checkpoint.advance(&mut self.store) {
                Progress::Remove(removal) => self.folder.remove(&removal)?,
                Progress::Write(write) => self.folder.write(&write)?,
                Progress::Pause => {}
                Progress::Finished => break,
            }
            pace.keep(&self.hurry);
        }
        let syncing = Instant::now();
        self.folder.sync(checkpoint.files_written())?;
        let manifest = checkpoint.manifest(&self.store);
        self.folder.commit(&manifest)?;
        let syncing = syncing.elapsed();
        let written_bytes = checkpoint.written_bytes();
        let removal = self.store.on_durable(checkpoint);
        self.folder.remove(&removal)?;
        Ok(Some(Written {
            position,
            complete,
            root: manifest.root,
            written_bytes,
            live_bytes: manifest.live_bytes(),
            disk_bytes: self.store.disk_bytes(),
            elapsed: started.elapsed(),
            syncing,
        }))
    }
}

#[cfg(test)]
mod tests;
