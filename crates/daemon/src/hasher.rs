//! Hashing the states of checkpoints on a thread of its own: the cores go on meanwhile.
//!
//! A frozen state shares its nodes with the living one, which copies what it changes until the hash is there. The
//! thread is nicer than the cores, so that it gets what they leave where CPUs are short.

use quorate_reactor::Waker;
use quorate_replica::Frozen;
use quorate_types::Digest;
use quorate_wire::Position;
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

    fn keep(&mut self) {
        let worked = self.worked_since.elapsed();
        if worked >= SLICE {
            std::thread::sleep(worked * (SHARE - 1));
            self.worked_since = Instant::now();
        }
    }
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
}

impl Hasher {
    /// Starts the thread, from one that is not pinned to a core.
    pub(crate) fn start() -> std::io::Result<(Self, JoinHandle<()>)> {
        let (jobs, waiting) = mpsc::channel::<Job>();
        let (finished, roots) = mpsc::channel();
        let body = move || {
            if let Err(error) = quorate_reactor::be_nicer(NICE) {
                debug!("states are hashed with the priority of the cores: {error}");
            }
            for Job { position, state, done } in waiting {
                let mut pace = Pace::start();
                let root = state.root_with_pauses(|| pace.keep());
                drop(state);
                if finished.send((position, root)).is_err() {
                    return;
                }
                done.wake();
            }
        };
        let thread = std::thread::Builder::new().name("hasher".to_owned()).spawn(body)?;
        Ok((Self { jobs, roots }, thread))
    }

    /// Has a state hashed; `done` is woken when its root can be taken.
    pub(crate) fn hash(&self, position: Position, state: Frozen, done: Waker) {
        let sent = self.jobs.send(Job { position, state, done });
        assert!(sent.is_ok(), "the thread lasts as long as this handle");
    }

    /// The next root that is there, in the order of the states.
    pub(crate) fn take(&self) -> Option<(Position, Digest)> {
        self.roots.try_recv().ok()
    }
}
