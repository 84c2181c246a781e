//! How recent a registration must be: in headers, and in the time of headers where those are many.
//!
//! A registration names a seq that its client was told. Headers alone are no measure of that: a busy cluster executes
//! hundreds a second, and a client far away would come too late for ever. So the state marks, a few times within T, which seq
//! was reached when, and what is younger than T is recent however many headers came since. Marks are few and stand in
//! the tree, so the rule is a function of the history; clients know nothing of time.

use quorate_types::{Nanoseconds, Seq, StateLimits};

use crate::system::{self, Mark};
use crate::tree::Tree;

/// Into so many parts T is marked: by one of them a registration may be older.
const PARTS: u64 = 8;

/// The marks, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recency {
    marks: Vec<Mark>,
    /// The time of the last header.
    now: Nanoseconds,
}

impl Recency {
    /// That of a tree whose last header has this time.
    pub(crate) fn rebuild(tree: &Tree, now: Nanoseconds) -> Self {
        let record = tree.get(&system::marks_key());
        Self { marks: record.map(|record| system::marks_of(record.value)).unwrap_or_default(), now }
    }

    /// A header was executed to its end. Returns the record of the marks if they have changed.
    pub(crate) fn note(&mut self, seq: Seq, now: Nanoseconds, limits: &StateLimits) -> Option<Vec<u8>> {
        self.now = now;
        let part = limits.registration_time.0 / PARTS;
        if self.marks.last().is_some_and(|last| self.now < last.at.plus(part)) {
            return None;
        }
        self.marks.push(Mark { seq, at: self.now });
        // Of those that are older than T the youngest says all.
        let old = self.marks.iter().filter(|mark| self.is_old(mark, limits)).count();
        self.marks.drain(..old.saturating_sub(1));
        Some(system::marks_value(&self.marks))
    }

    fn is_old(&self, mark: &Mark, limits: &StateLimits) -> bool {
        mark.at.plus(limits.registration_time.0) <= self.now
    }

    /// The lowest seq that a registration may name that is executed at `executing`. Never falls, as each header is later than
    /// its parent.
    pub(crate) fn floor(&self, executing: Seq, limits: &StateLimits) -> Seq {
        let old = self.marks.iter().rev().find(|mark| self.is_old(mark, limits));
        let by_time = old.map_or(Seq(0), |mark| mark.seq.next());
        Seq(executing.0.saturating_sub(limits.registration_age)).min(by_time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(registration_age: u64, seconds: u64) -> StateLimits {
        let registration_time = Nanoseconds::from_millis(seconds * 1000);
        StateLimits { registration_age, registration_time, ..StateLimits::default() }
    }

    /// The floor after each of the headers at these tenths of seconds.
    fn floors(limits: StateLimits, tenths: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut recency = Recency::default();
        let mut floors = Vec::new();
        for (seq, at) in (1..).zip(tenths) {
            recency.note(Seq(seq), Nanoseconds::from_millis(at * 100), &limits);
            floors.push(recency.floor(Seq(seq + 1), &limits).0);
        }
        floors
    }

    #[test]
    fn few_headers_are_recent_however_long_they_took() {
        assert_eq!(floors(limits(3, 1), (0..8).map(|at| at * 100)), [0, 0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_short_time_is_recent_however_many_headers_it_took() {
        // Ten headers a second; T is 2 s and marked each quarter of one.
        let floors = floors(limits(3, 2), 0..60);
        assert_eq!(floors[..20], [0; 20]);
        for (at, floor) in floors.iter().enumerate().skip(20) {
            let oldest = at as u64 - 20 + 1;
            assert!((oldest.saturating_sub(3)..=oldest + 1).contains(floor), "header {at}: {floor}");
        }
        assert!(floors.is_sorted());
    }

    #[test]
    fn marks_are_few_and_no_clock_that_stands_still_or_jumps_ahead_lowers_the_floor() {
        let limits = limits(2, 1);
        let mut recency = Recency::default();
        let mut floor = Seq(0);
        let mut now = 0;
        for (seq, later) in (1..2000).zip([0, 0, 1, 5, 5, 900, 3, 40_000].into_iter().cycle()) {
            now += later;
            recency.note(Seq(seq), Nanoseconds::from_millis(now), &limits);
            assert!(recency.marks.len() as u64 <= PARTS + 2, "{recency:?}");
            let next = recency.floor(Seq(seq + 1), &limits);
            assert!(next >= floor, "{next:?} after {floor:?}");
            floor = next;
        }
    }
}
