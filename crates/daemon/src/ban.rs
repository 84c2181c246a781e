//! How long a peer is kept out that has sent what no honest replica sends (DESIGN section 7).
//!
//! It may be an honest one all the same, with a fault that is mended or a disk that has turned a bit: so it is let in again,
//! later each time, and what it did is forgotten by and by. Neither side dials or lets in before. Pure: whoever keeps the
//! links says what time it is.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_secs(1);
const MAX: Duration = Duration::from_secs(300);
/// In so much time without another offence one is forgotten.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// What is held against one peer on one link.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ban {
    /// Offences that are not forgotten, and when the last one was counted or forgotten.
    offences: u32,
    since: Option<Instant>,
    until: Option<Instant>,
    /// How often it was banned, for reports.
    count: u64,
}

impl Ban {
    /// The peer was condemned: it is kept out for the time that comes back.
    pub(crate) fn condemn(&mut self, now: Instant) -> Duration {
        let quiet = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let forgiven = u32::try_from(quiet.as_secs() / FORGIVEN_AFTER.as_secs()).unwrap_or(u32::MAX);
        self.offences = self.offences.saturating_sub(forgiven);
        let time = FIRST.saturating_mul(1 << self.offences.min(16)).min(MAX);
        self.offences = self.offences.saturating_add(1);
        self.since = Some(now);
        self.until = Some(now + time);
        self.count += 1;
        time
    }

    /// Until when the peer is kept out, if it is.
    pub(crate) fn until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }

    /// How often it was banned.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_offence_doubles_the_time_up_to_a_bound() {
        let (mut ban, mut now) = (Ban::default(), Instant::now());
        let mut times = Vec::new();
        for count in 1..=11 {
            assert_eq!(ban.until(now), None);
            let time = ban.condemn(now);
            assert_eq!(ban.count(), count);
            assert_eq!(ban.until(now + time - Duration::from_nanos(1)), Some(now + time));
            now += time;
            times.push(time.as_secs());
        }
        assert_eq!(times, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }

    #[test]
    fn offences_are_forgotten_one_by_one() {
        let (mut ban, mut now) = (Ban::default(), Instant::now());
        for expected in [1, 2, 4] {
            assert_eq!(ban.condemn(now).as_secs(), expected);
        }
        now += 2 * FORGIVEN_AFTER;
        assert_eq!(ban.condemn(now).as_secs(), 2);
        now += 100 * FORGIVEN_AFTER;
        assert_eq!(ban.condemn(now).as_secs(), 1);
    }

    #[test]
    fn an_offence_during_a_ban_counts_from_then_on() {
        let (mut ban, now) = (Ban::default(), Instant::now());
        ban.condemn(now);
        ban.condemn(now + FIRST / 2);
        assert_eq!(ban.until(now), Some(now + FIRST / 2 + 2 * FIRST));
    }
}
