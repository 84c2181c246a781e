//! What an origin pays for forged bundles (DESIGN section 4).
//!
//! A signature that does not hold costs more to check than many that do, and an honest origin seals no bundle without having
//! checked it. So a lane in which some are found is closed to its origin for a while, in proportion to their number; and of a
//! lane whose bundles are not checked yet no more is taken than so much, or the first burst would know no bound. What headers
//! name and what f+1 others have acknowledged is fetched, and is none of this module's business.

use crate::lanes::Reject;
use quorate_types::{LaneId, Nanoseconds};
use std::collections::BTreeMap;

/// For each forged bundle a lane is closed for so long: about a hundred times what it costs to find it.
const FORGED_TIME: Nanoseconds = Nanoseconds::from_millis(5);
const CLOSED_TIME_MAX: Nanoseconds = Nanoseconds::from_millis(60_000);
/// The bundles of one lane whose signatures may wait to be checked; the batch that goes beyond is the last.
const UNCHECKED_BUNDLES_MAX: usize = 8 * 1024;

#[derive(Clone, Copy, Debug, Default)]
struct Throttle {
    /// Until when nothing is taken from the origin.
    closed_until: Nanoseconds,
    /// Bundles that were taken from it and are not checked.
    unchecked: usize,
}

/// The throttles of the lanes that need one.
#[derive(Debug, Default)]
pub(crate) struct Throttles {
    lanes: BTreeMap<LaneId, Throttle>,
    now: Nanoseconds,
}

impl Throttles {
    /// Says what time it is.
    pub(crate) fn note_time(&mut self, now: Nanoseconds) {
        self.now = self.now.max(now);
    }

    /// The time that was said last.
    pub(crate) fn now(&self) -> Nanoseconds {
        self.now
    }

    /// Whether another batch is taken from the origin of a lane.
    pub(crate) fn admit(&self, lane: LaneId) -> Result<(), Reject> {
        match self.lanes.get(&lane) {
            Some(throttle) if throttle.closed_until > self.now => Err(Reject::Throttled),
            Some(throttle) if throttle.unchecked >= UNCHECKED_BUNDLES_MAX => Err(Reject::Budget),
            _ => Ok(()),
        }
    }

    /// A batch with so many bundles was taken from the origin of a lane.
    pub(crate) fn took(&mut self, lane: LaneId, bundles: usize) {
        self.lanes.entry(lane).or_default().unchecked += bundles;
    }

    /// The bundles of a batch were checked, and so many of them are forged.
    pub(crate) fn checked(&mut self, lane: LaneId, bundles: usize, forged: usize) {
        let (now, entry) = (self.now, self.lanes.entry(lane));
        let throttle = entry.or_default();
        throttle.unchecked = throttle.unchecked.saturating_sub(bundles);
        if forged > 0 {
            let time = FORGED_TIME.0.saturating_mul(forged as u64);
            let until = throttle.closed_until.max(now).plus(time);
            throttle.closed_until = until.min(now.plus(CLOSED_TIME_MAX.0));
        }
    }

    /// Of lanes of which nothing waits to be checked any more: what was dropped before it was is not waited for.
    pub(crate) fn forget_dropped(&mut self, is_waiting: impl Fn(LaneId) -> bool) {
        let now = self.now;
        self.lanes.retain(|lane, throttle| {
            if is_waiting(*lane) {
                return true;
            }
            throttle.unchecked = 0;
            throttle.closed_until > now
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::{LinkId, ReplicaId};

    const LANE: LaneId = LaneId { origin: ReplicaId(3), link: LinkId(0) };
    const OTHER: LaneId = LaneId { origin: ReplicaId(2), link: LinkId(0) };

    #[test]
    fn a_lane_is_closed_in_proportion_to_what_was_forged_in_it() {
        let mut throttles = Throttles::default();
        throttles.note_time(Nanoseconds(100));
        throttles.checked(LANE, 10, 0);
        assert_eq!(throttles.admit(LANE), Ok(()));
        throttles.checked(LANE, 10, 2);
        throttles.checked(LANE, 10, 1);
        assert_eq!(throttles.admit(LANE), Err(Reject::Throttled));
        assert_eq!(throttles.admit(OTHER), Ok(()));
        throttles.forget_dropped(|_| false);
        throttles.note_time(Nanoseconds(99 + 3 * FORGED_TIME.0));
        assert_eq!(throttles.admit(LANE), Err(Reject::Throttled));
        throttles.note_time(Nanoseconds(100 + 3 * FORGED_TIME.0));
        assert_eq!(throttles.admit(LANE), Ok(()));
        throttles.checked(LANE, 1_000_000, 1_000_000);
        throttles.note_time(Nanoseconds(100 + 3 * FORGED_TIME.0 + CLOSED_TIME_MAX.0));
        assert_eq!(throttles.admit(LANE), Ok(()), "nobody is closed for ever");
    }

    #[test]
    fn of_an_unchecked_lane_no_more_than_so_much_is_taken() {
        let mut throttles = Throttles::default();
        throttles.took(LANE, UNCHECKED_BUNDLES_MAX - 1);
        assert_eq!(throttles.admit(LANE), Ok(()));
        throttles.took(LANE, 100);
        assert_eq!(throttles.admit(LANE), Err(Reject::Budget));
        assert_eq!(throttles.admit(OTHER), Ok(()));
        throttles.checked(LANE, 200, 0);
        assert_eq!(throttles.admit(LANE), Ok(()));
        throttles.took(LANE, UNCHECKED_BUNDLES_MAX);
        throttles.took(OTHER, UNCHECKED_BUNDLES_MAX);
        throttles.forget_dropped(|lane| lane == OTHER);
        assert_eq!(throttles.admit(LANE), Ok(()));
        assert_eq!(throttles.admit(OTHER), Err(Reject::Budget), "which still waits");
        throttles.forget_dropped(|_| false);
        assert!(throttles.lanes.is_empty(), "nothing is remembered of a lane that is in order");
    }
}
