//! What the load threads and their controller share: what to do at present, and what is done.

use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// What the clients do at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Those that are connected wait for the others.
    Connect,
    /// They load.
    Load,
    /// They submit nothing more and wait for what is open.
    Drain,
}

/// The state of the load. Times are nanoseconds since the load began.
#[derive(Debug)]
pub(crate) struct Progress {
    phase: AtomicU8,
    began: OnceLock<Instant>,
    /// The present interval: 0 is the warm-up, the measured ones count from 1.
    interval: AtomicU64,
    /// When the interval before the present one ended.
    edge_ns: AtomicU64,
    connected: AtomicUsize,
    operations: AtomicU64,
    errors: AtomicU64,
    first_error: Mutex<Option<String>>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            phase: AtomicU8::new(Phase::Connect as u8),
            began: OnceLock::new(),
            interval: AtomicU64::new(0),
            edge_ns: AtomicU64::new(0),
            connected: AtomicUsize::new(0),
            operations: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            first_error: Mutex::new(None),
        }
    }

    /// The load begins now.
    pub(crate) fn begin(&self) {
        self.began.get_or_init(Instant::now);
        self.enter(Phase::Load);
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    pub(crate) fn is(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Acquire) == phase as u8
    }

    /// When the load began.
    pub(crate) fn began(&self) -> Instant {
        *self.began.get().expect("invariant: asked for after the load began")
    }

    /// The present interval ends now.
    pub(crate) fn end_interval(&self) -> Instant {
        let now = Instant::now();
        let edge = u64::try_from((now - self.began()).as_nanos()).unwrap_or(u64::MAX);
        self.edge_ns.store(edge, Ordering::Relaxed);
        self.interval.fetch_add(1, Ordering::Release);
        now
    }

    pub(crate) fn interval(&self) -> u64 {
        self.interval.load(Ordering::Acquire)
    }

    /// When the last interval ended, since the load began. To be read after the number of the interval.
    pub(crate) fn edge(&self) -> Duration {
        Duration::from_nanos(self.edge_ns.load(Ordering::Relaxed))
    }

    pub(crate) fn note_connected(&self) {
        self.connected.fetch_add(1, Ordering::Relaxed);
    }

    /// How many clients are connected.
    pub(crate) fn connected(&self) -> usize {
        self.connected.load(Ordering::Relaxed)
    }

    pub(crate) fn complete(&self, operations: usize) {
        self.operations.fetch_add(operations as u64, Ordering::Relaxed);
    }

    /// How many operations are complete, from the first on.
    pub(crate) fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }

    /// How many operations failed or have an unknown outcome.
    pub(crate) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// What the first error said.
    pub(crate) fn first_error(&self) -> Option<String> {
        self.first_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn fail(&self, operations: usize, why: impl FnOnce() -> String) {
        self.errors.fetch_add(operations as u64, Ordering::Relaxed);
        let mut first = self.first_error.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_seen_by_their_number_alone() {
        let progress = Progress::new();
        assert!(progress.is(Phase::Connect));
        progress.begin();
        assert!(progress.is(Phase::Load) && !progress.is(Phase::Drain));
        progress.enter(Phase::Drain);
        assert!(progress.is(Phase::Drain));
    }

    #[test]
    fn an_interval_ends_when_it_is_said_to() {
        let progress = Progress::new();
        progress.begin();
        assert_eq!(progress.interval(), 0, "the warm-up");
        let edge = progress.end_interval();
        assert_eq!((progress.interval(), progress.began() + progress.edge()), (1, edge));
    }
}
