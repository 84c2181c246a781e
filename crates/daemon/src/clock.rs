//! The time that a replica goes by.

use quorate_types::Nanoseconds;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Turns the monotonic clock into wall time: it does not step while the process runs. All cores share one, so that
/// times of different cores may be compared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    instant: Instant,
    wall: Nanoseconds,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { instant: Instant::now(), wall: nanoseconds(since_epoch) }
    }

    pub(crate) fn now(&self) -> Nanoseconds {
        self.wall.plus(nanoseconds(self.instant.elapsed()).0)
    }

    pub(crate) fn instant_of(&self, time: Nanoseconds) -> Instant {
        self.instant + Duration::from_nanos(time.since(self.wall))
    }

    /// The wall time at which it was started.
    pub(crate) fn started(&self) -> Nanoseconds {
        self.wall
    }

    /// How long it has run.
    pub(crate) fn uptime(&self) -> Duration {
        self.instant.elapsed()
    }
}

/// A time span as a number; longer ones than 584 years are cut.
pub(crate) fn nanoseconds(time: Duration) -> Nanoseconds {
    Nanoseconds(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}
