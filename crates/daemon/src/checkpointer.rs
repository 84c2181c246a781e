//! Writing checkpoints on a thread of its own: the cores go on meanwhile.
//!
//! A frozen state shares its nodes with the living one, which copies what it changes until the state is written. The
//! thread is nicer than the cores, so that it gets what they leave where CPUs are short, and works for a small part
//! of the time: a checkpoint is in no hurry, and what a burst of hashing takes from caches and memory slows the cores
//! down.
//!
//! A state that waits is replaced by a newer one, and what a transfer has received so far by any state; one that is not
//! newer than what is durable is left out. One that was voted for before the replica started is written in any case. One that does not fit on the disk is undone and waits for room, or for a
//! newer one: without checkpoints logs would never be trimmed, and a replica that takes no writes for want of room may
//! be given no further one. After any other error nothing more is written: the replica has to stop.
//!
//! When the replica stops, what is being written is left unfinished.
//!
//! While nothing is to be written, the newest checkpoint is read back slowly and compared with the state in memory: a
//! block that has gone bad is written anew in its place, and where that does not help, everything is.

use crate::page_folder::{FolderError, PageFolder};
use quorate_state::{Checkpoint, CheckpointHead, Forest, Frozen, Manifest, PageStore, Progress, Scrub};
use quorate_types::{Digest, Nanoseconds, Seq};
use quorate_wire::Position;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// How much nicer than the cores the thread is.
const NICE: i32 = 10;
/// It works for one part in so many of the time.
const SHARE: u32 = 8;
/// How long it works before it pauses.
const SLICE: Duration = Duration::from_micros(200);
/// How often the disk is looked at while a checkpoint waits for room.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long it waits at most when a disk is full that seemed to have room, as with quotas: each attempt writes much. It
/// waits half as long, and so on, before.
const RETRY_TIME_MAX: Duration = Duration::from_secs(60);
/// How often some blocks are read back, and how many bytes of them: a state of a GiB takes half an hour.
const SCRUB_INTERVAL: Duration = Duration::from_millis(100);
const SCRUB_BYTES: usize = 64 * 1024;
/// What is to be free on the disk beside a checkpoint's blocks: for its manifest, and for what the file system needs.
const SPARE_BYTES: u64 = 1 << 20;

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
    /// Of several that wait, the highest is written, unless one is owed.
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
    /// There is no room for it. Nothing of it is left on the disk; it is tried again by itself, and has another
    /// outcome.
    PutOff {
        /// The slot.
        position: Position,
        /// Where there is no room.
        path: PathBuf,
        /// How much is needed there.
        needed_bytes: u64,
    },
    /// Not of a job: blocks were read back. What was bad is told in the log and written anew.
    Scrubbed {
        /// The blocks that were compared.
        blocks: u64,
        /// Those that were bad, and copies of manifests.
        bad: u64,
    },
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

/// Tells whoever gave a job out that an outcome can be taken; usually a reactor's waker.
pub type Notify = Box<dyn Fn() + Send>;

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
    ///
    /// `newest` is the checkpoint that the store was loaded from, if there is one.
    pub fn start(
        folder: PageFolder,
        store: PageStore,
        newest: Option<(Manifest, Frozen)>,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (orders, waiting) = mpsc::channel();
        let (finished, outcomes) = mpsc::channel();
        let hurry = Arc::new(Hurry::default());
        let hurried = Arc::clone(&hurry);
        let shelf = newest.map(|(manifest, state)| Shelf::new(manifest, state));
        let writer = Writer { folder, store, hurry: hurried, outcomes: finished, waits: None, shelf };
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

/// How an attempt to write a checkpoint has ended.
enum Attempt {
    Durable(Written),
    /// So many bytes are needed and not there.
    NoRoom {
        needed_bytes: u64,
        /// Whether the disk seemed to have them.
        is_surprise: bool,
    },
    /// The replica stops.
    Stopped,
}

/// The wait for room.
#[derive(Clone, Copy)]
struct Wait {
    needed_bytes: u64,
    until: Instant,
    /// How long to wait after the next surprise.
    patience: Duration,
}

/// The newest checkpoint, which is read back.
struct Shelf {
    manifest: Manifest,
    state: Frozen,
    scrub: Scrub,
    due: Instant,
}

impl Shelf {
    fn new(manifest: Manifest, state: Frozen) -> Self {
        let scrub = Scrub::over(&state);
        Self { manifest, state, scrub, due: Instant::now() + SCRUB_INTERVAL }
    }
}

/// The thread's side.
struct Writer {
    folder: PageFolder,
    store: PageStore,
    hurry: Arc<Hurry>,
    outcomes: Sender<Outcome>,
    waits: Option<Wait>,
    shelf: Option<Shelf>,
}

impl Writer {
    fn run(mut self, orders: &Receiver<Order>) {
        let mut waiting: VecDeque<(Job, Notify)> = VecDeque::new();
        while let Ok(first) = self.next_order(orders, !waiting.is_empty()) {
            for order in first.into_iter().chain(orders.try_iter()) {
                match order {
                    Order::Keep(needed) => self.keep(&needed),
                    Order::Write(job, done) => self.choose(&mut waiting, job, done),
                }
            }
            let is_idle = waiting.is_empty() || !self.may_try();
            let next = if is_idle { None } else { waiting.pop_front() };
            let Some((job, done)) = next else {
                if let Err(error) = self.scrub_if_due() {
                    warn!("a checkpoint that was read back cannot be mended: {error}; it is tried again");
                }
                continue;
            };
            match self.write(&job) {
                Ok(Attempt::Durable(written)) => {
                    self.waits = None;
                    self.finish(Outcome::Durable(written), &done);
                }
                Ok(Attempt::NoRoom { needed_bytes, is_surprise }) => {
                    self.wait_for_room(needed_bytes, is_surprise);
                    let (position, path) = (job.position, self.folder.path().to_owned());
                    self.tell(Outcome::PutOff { position, path, needed_bytes }, &done);
                    waiting.push_front((job, done));
                }
                Ok(Attempt::Stopped) => return,
                Err(error) => return self.finish(Outcome::Failed(job.position, error), &done),
            }
        }
    }

    fn choose(&self, waiting: &mut VecDeque<(Job, Notify)>, job: Job, done: Notify) {
        let is_due = match &job.contents {
            Contents::State(_) => self.store.is_news(job.position.seq),
            Contents::Partial { .. } => true,
        };
        if !is_due || waiting.back().is_some_and(|(other, _)| other.rank() > job.rank()) {
            return self.finish(Outcome::Replaced(job.position), &done);
        }
        let replaced = waiting.pop_back_if(|(other, _)| !self.is_owed(other));
        waiting.push_back((job, done));
        if let Some((replaced, done)) = replaced {
            self.finish(Outcome::Replaced(replaced.position), &done);
        }
    }

    fn is_owed(&self, job: &Job) -> bool {
        matches!(job.contents, Contents::State(_)) && self.store.is_owed(job.position.seq)
    }

    /// What cannot be removed takes room, and goes when the replica starts again.
    fn keep(&mut self, needed: &[Seq]) {
        let removal = self.store.keep_states(needed);
        if let Err(error) = self.folder.remove(&removal) {
            warn!("an old checkpoint stays on the disk: {error}");
        }
    }

    /// The next order; none when a job can be tried at once, or it is time to look at the disk, or to read something back.
    /// An error when the replica stops.
    fn next_order(&self, orders: &Receiver<Order>, has_job: bool) -> Result<Option<Order>, RecvTimeoutError> {
        if has_job && self.waits.is_none() {
            return match orders.try_recv() {
                Err(TryRecvError::Disconnected) => Err(RecvTimeoutError::Disconnected),
                order => Ok(order.ok()),
            };
        }
        let due =
            self.waits.map(|wait| wait.until).into_iter().chain(self.shelf.as_ref().map(|shelf| shelf.due));
        let Some(due) = due.min() else {
            return orders.recv().map(Some).map_err(|_| RecvTimeoutError::Disconnected);
        };
        match orders.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Timeout) => Ok(None),
            order => order.map(Some),
        }
    }

    /// Reads some blocks back, if it is time to, and writes anew what is bad.
    fn scrub_if_due(&mut self) -> Result<(), FolderError> {
        let now = Instant::now();
        let Some(shelf) = self.shelf.as_mut().filter(|shelf| shelf.due <= now) else { return Ok(()) };
        shelf.due = now + SCRUB_INTERVAL;
        let (mut blocks, mut bad, mut bytes, mut is_lost) = (0, 0, 0, false);
        while bytes < SCRUB_BYTES && !is_lost {
            let Some(stored) = shelf.scrub.next(&self.store) else {
                bad += u64::from(self.folder.mend_manifest(&shelf.manifest)?);
                shelf.scrub = Scrub::over(&shelf.state);
                break;
            };
            bytes += stored.bytes.len();
            blocks += 1;
            if !self.folder.holds(&stored) {
                bad += 1;
                warn!(
                    "page file {} was damaged at byte {}: the block is written anew",
                    stored.file, stored.offset
                );
                let rewritten = self.folder.rewrite(&stored);
                is_lost = rewritten.is_err() || !self.folder.holds(&stored);
            }
        }
        let _ = self.outcomes.send(Outcome::Scrubbed { blocks, bad });
        if is_lost { self.write_all_anew() } else { Ok(()) }
    }

    /// The newest checkpoint is written whole to other files, as those that it has cannot be relied upon.
    fn write_all_anew(&mut self) -> Result<(), FolderError> {
        let Some(Shelf { manifest, state, .. }) = self.shelf.take() else { return Ok(()) };
        self.store.distrust();
        let CheckpointHead { seq, digest, timestamp, certificate } = manifest.head.clone();
        let (position, contents) = (Position { seq, digest }, Contents::State(state.clone()));
        let attempt = self.write(&Job { position, timestamp, certificate, contents })?;
        if !matches!(attempt, Attempt::Durable(_)) {
            self.shelf = Some(Shelf::new(manifest, state));
        }
        Ok(())
    }

    /// Whether a checkpoint may be tried now; if not, when the disk is looked at next.
    fn may_try(&mut self) -> bool {
        let Some(wait) = &mut self.waits else { return true };
        let now = Instant::now();
        if now < wait.until {
            return false;
        }
        wait.until = now + LOOK_INTERVAL;
        self.folder.free_bytes() >= wait.needed_bytes
    }

    fn wait_for_room(&mut self, needed_bytes: u64, is_surprise: bool) {
        let patience = self.waits.map_or(LOOK_INTERVAL, |wait| wait.patience);
        let (time, patience) = match is_surprise {
            true => (patience, (2 * patience).min(RETRY_TIME_MAX)),
            false => (LOOK_INTERVAL, patience),
        };
        self.waits = Some(Wait { needed_bytes, until: Instant::now() + time, patience });
    }

    /// The last that is told of a job.
    fn finish(&self, outcome: Outcome, done: &Notify) {
        self.hurry.waiting.fetch_sub(1, Ordering::Relaxed);
        self.tell(outcome, done);
    }

    fn tell(&self, outcome: Outcome, done: &Notify) {
        // Nobody listens any more when the replica stops.
        let _ = self.outcomes.send(outcome);
        done();
    }

    /// Writes one checkpoint; what was written of one that has no room is undone.
    fn write(&mut self, job: &Job) -> Result<Attempt, FolderError> {
        let started = Instant::now();
        let Job { position, timestamp, certificate, contents } = job;
        let (seq, digest, certificate) = (position.seq, position.digest, certificate.clone());
        let head = CheckpointHead { seq, digest, timestamp: *timestamp, certificate };
        let mut checkpoint = match contents {
            Contents::State(state) => self.store.begin(head, state),
            Contents::Partial { root, received } => self.store.begin_partial(head, *root, received.clone()),
        };
        match self.write_blocks(&mut checkpoint) {
            Ok(None) => {}
            Ok(Some(attempt)) => {
                if let Attempt::NoRoom { .. } = attempt {
                    self.undo(checkpoint)?;
                }
                return Ok(attempt);
            }
            Err(error) => return self.on_error(checkpoint, error),
        }
        let syncing = Instant::now();
        let manifest = checkpoint.manifest(&self.store);
        let synced = self.folder.sync(checkpoint.files_written());
        if let Err(error) = synced.and_then(|()| self.folder.commit(&manifest)) {
            return self.on_error(checkpoint, error);
        }
        let syncing = syncing.elapsed();
        let written_bytes = checkpoint.written_bytes();
        let removal = self.store.on_durable(checkpoint);
        self.folder.remove(&removal)?;
        if let Contents::State(state) = contents {
            self.put_on_shelf(manifest.clone(), state.clone());
        }
        Ok(Attempt::Durable(Written {
            position: *position,
            complete: manifest.complete,
            root: manifest.root,
            written_bytes,
            live_bytes: manifest.live_bytes(),
            disk_bytes: self.store.disk_bytes(),
            elapsed: started.elapsed(),
            syncing,
        }))
    }

    /// What is read back is the newest checkpoint.
    fn put_on_shelf(&mut self, manifest: Manifest, state: Frozen) {
        match &mut self.shelf {
            Some(shelf) => {
                shelf.scrub.move_to(&state);
                (shelf.manifest, shelf.state) = (manifest, state);
            }
            None => self.shelf = Some(Shelf::new(manifest, state)),
        }
    }

    /// Writes all blocks, if there seems to be room for them; else says how the attempt has ended.
    fn write_blocks(&mut self, checkpoint: &mut Checkpoint) -> Result<Option<Attempt>, FolderError> {
        let mut pace = Pace::start();
        let mut is_measured = false;
        loop {
            if self.hurry.stop.load(Ordering::Relaxed) {
                return Ok(Some(Attempt::Stopped));
            }
            match checkpoint.advance(&mut self.store) {
                Progress::Remove(removal) => self.folder.remove(&removal)?,
                Progress::Write(write) => self.folder.write(&write)?,
                Progress::Pause if !is_measured && checkpoint.planned_bytes().is_some() => {
                    is_measured = true;
                    let needed_bytes = needed_bytes(checkpoint);
                    if self.folder.free_bytes() < needed_bytes {
                        return Ok(Some(Attempt::NoRoom { needed_bytes, is_surprise: false }));
                    }
                }
                Progress::Pause => {}
                Progress::Finished => return Ok(None),
            }
            pace.keep(&self.hurry);
        }
    }

    fn on_error(&mut self, checkpoint: Checkpoint, error: FolderError) -> Result<Attempt, FolderError> {
        if !error.is_full_disk() {
            return Err(error);
        }
        let needed_bytes = needed_bytes(&checkpoint);
        self.undo(checkpoint)?;
        Ok(Attempt::NoRoom { needed_bytes, is_surprise: true })
    }

    fn undo(&mut self, checkpoint: Checkpoint) -> Result<(), FolderError> {
        let undo = self.store.abandon(checkpoint);
        self.folder.undo(&undo)
    }
}

/// What is to be free on the disk for all of a checkpoint.
fn needed_bytes(checkpoint: &Checkpoint) -> u64 {
    checkpoint.planned_bytes().unwrap_or_default() + SPARE_BYTES
}

#[cfg(test)]
mod tests;
