//! Hashing the states of checkpoints on a thread of its own: the cores go on meanwhile.
//!
//! A frozen state shares its nodes with the living one, which copies what it changes until the hash is there. The
//! thread is nicer than the cores, so that it gets what they leave where CPUs are short.

use quorate_reactor::Waker;
use quorate_replica::Frozen;
use quorate_types::Digest;
use quorate_wire::Position;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracing::debug;

/// How much nicer than the cores the thread is.
const NICE: i32 = 10;
/// It works for one part in so many of the time: a checkpoint is in no hurry, and what a burst of hashing takes from
/// caches and memory slows the cores down.
const SHARE: u32 = 8;
/// How long it works before it pauses.
const SLICE: Duration = Duration::from_micros(200);

/// Keeps to a share of the time.
struct Pace {
    worked_since: Instant,
}

impl Pace {
    fn start() -> Self {
        Self { worked_since: Instant::now() }
    }

    /// Pauses if it is time to, unless another state waits or the replica stops: then nothing is gained by patience.
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
    /// States that were given out and whose root is not there.
    waiting: AtomicUsize,
    stop: AtomicBool,
}

struct Job {
    position: Position,
    state: Frozen,
    done: Waker,
}

/// What the execution core holds of the thread. The thread ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Hasher {
    jobs: Sender<Job>,
    roots: Receiver<(Position, Digest)>,
    hurry: Arc<Hurry>,
}

impl Drop for Hasher {
    fn drop(&mut self) {
        self.hurry.stop.store(true, Ordering::Relaxed);
    }
}

impl Hasher {
    /// Starts the thread, from one that is not pinned to a core.
    pub(crate) fn start() -> std::io::Result<(Self, JoinHandle<()>)> {
        let (jobs, waiting) = mpsc::channel::<Job>();
        let (finished, roots) = mpsc::channel();
        let hurry = Arc::new(Hurry::default());
        let seen = Arc::clone(&hurry);
        let body = move || {
            if let Err(error) = quorate_reactor::be_nicer(NICE) {
                debug!("states are hashed with the priority of the cores: {error}");
            }
            for Job { position, state, done } in waiting {
                let mut pace = Pace::start();
                let root = state.root_with_pauses(|| pace.keep(&seen));
                drop(state);
                seen.waiting.fetch_sub(1, Ordering::Relaxed);
                if finished.send((position, root)).is_err() {
                    return;
                }
                done.wake();
            }
        };
        let thread = std::thread::Builder::new().name("hasher".to_owned()).spawn(body)?;
        Ok((Self { jobs, roots, hurry }, thread))
    }

    /// Has a state hashed; `done` is woken when its root can be taken.
    pub(crate) fn hash(&self, position: Position, state: Frozen, done: Waker) {
        self.hurry.waiting.fetch_add(1, Ordering::Relaxed);
        let sent = self.jobs.send(Job { position, state, done });
        assert!(sent.is_ok(), "the thread lasts as long as this handle");
    }

    /// The next root that is there, in the order of the states.
    pub(crate) fn take(&self) -> Option<(Position, Digest)> {
        self.roots.try_recv().ok()
    }
}
