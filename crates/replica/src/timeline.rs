//! When this replica accepted, prepared and committed each header, for the stages of bundles.
//!
//! Consensus itself does not need these times; they are read off its positions after every step, so that what
//! measures cannot change what is decided.

use quorate_consensus::Positions;
use quorate_types::{Nanoseconds, Seq, Stage};
use std::collections::VecDeque;

/// When a header passed its stages.
pub(crate) type HeaderTimes = [(Stage, Nanoseconds); 3];

#[derive(Debug)]
struct Open {
    accepted: Nanoseconds,
    prepared: Option<Nanoseconds>,
}

/// The headers that are accepted and not committed.
#[derive(Debug, Default)]
pub(crate) struct Timeline {
    /// The slot before the first of `open`.
    floor: Seq,
    /// The slot up to which headers are prepared.
    prepared: Seq,
    open: VecDeque<Open>,
}

impl Timeline {
    /// Headers up to `floor` are committed and of no interest.
    pub(crate) fn starting_at(floor: Seq) -> Self {
        Self { floor, prepared: floor, open: VecDeque::new() }
    }

    /// Consensus stands at `positions` now. To be called before what it has committed is taken with
    /// [`Timeline::commit`].
    pub(crate) fn observe(&mut self, now: Nanoseconds, positions: &Positions) {
        let accepted = usize::try_from(positions.accepted.seq.since(self.floor))
            .expect("invariant: the accepted headers above the committed one are in memory");
        self.open.truncate(accepted);
        while self.open.len() < accepted {
            self.open.push_back(Open { accepted: now, prepared: None });
        }
        let prepared = positions.prepared.seq.min(positions.accepted.seq);
        if prepared == self.prepared {
            return;
        }
        self.prepared = prepared;
        let count = usize::try_from(prepared.since(self.floor)).unwrap_or(usize::MAX);
        // A quorum of PREPAREs for a slot comes after those of its ancestors, or makes them needless.
        for open in self.open.iter_mut().take(count) {
            open.prepared.get_or_insert(now);
        }
    }

    /// The next slot is committed: when it passed its stages. One that was never seen prepared was committed by what
    /// others say, which is when it counts as prepared.
    pub(crate) fn commit(&mut self, now: Nanoseconds, seq: Seq) -> HeaderTimes {
        assert_eq!(seq, self.floor.next(), "headers are committed in order");
        self.floor = seq;
        let open = self.open.pop_front();
        let accepted = open.as_ref().map_or(now, |open| open.accepted);
        let prepared = open.and_then(|open| open.prepared).unwrap_or(now);
        [(Stage::Proposed, accepted), (Stage::Prepared, prepared), (Stage::Committed, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::Digest;
    use quorate_wire::Position;

    fn positions(accepted: u64, prepared: u64) -> Positions {
        let at = |seq| Position { seq: Seq(seq), digest: Digest::ZERO };
        let genesis = at(0);
        Positions {
            accepted: at(accepted),
            prepared: at(prepared),
            committed: genesis,
            stable: genesis,
            executed: genesis,
        }
    }

    fn nanoseconds(times: HeaderTimes) -> [u64; 3] {
        times.map(|(_, at)| at.0)
    }

    #[test]
    fn a_header_has_the_times_at_which_it_was_first_seen_there() {
        let mut timeline = Timeline::default();
        timeline.observe(Nanoseconds(10), &positions(2, 0));
        timeline.observe(Nanoseconds(20), &positions(3, 2));
        timeline.observe(Nanoseconds(30), &positions(3, 3));
        assert_eq!(nanoseconds(timeline.commit(Nanoseconds(40), Seq(1))), [10, 20, 40]);
        assert_eq!(nanoseconds(timeline.commit(Nanoseconds(40), Seq(2))), [10, 20, 40]);
        assert_eq!(nanoseconds(timeline.commit(Nanoseconds(50), Seq(3))), [20, 30, 50]);
    }

    #[test]
    fn what_is_committed_by_what_others_say_counts_as_prepared_then() {
        let mut timeline = Timeline::default();
        timeline.observe(Nanoseconds(10), &positions(1, 0));
        assert_eq!(nanoseconds(timeline.commit(Nanoseconds(15), Seq(1))), [10, 15, 15]);
        // Fetched: accepted and committed at once, the certificate is below.
        timeline.observe(Nanoseconds(20), &positions(3, 1));
        assert_eq!(nanoseconds(timeline.commit(Nanoseconds(20), Seq(2))), [20, 20, 20]);
        assert_eq!(nanoseconds(timeline.commit(Nanoseconds(21), Seq(3))), [20, 21, 21]);
    }

    #[test]
    fn a_chain_that_is_cut_back_begins_anew_there() {
        let mut timeline = Timeline::default();
        timeline.observe(Nanoseconds(10), &positions(3, 0));
        timeline.observe(Nanoseconds(20), &positions(1, 0));
        timeline.observe(Nanoseconds(30), &positions(2, 0));
        assert_eq!(nanoseconds(timeline.commit(Nanoseconds(40), Seq(1))), [10, 40, 40]);
        assert_eq!(nanoseconds(timeline.commit(Nanoseconds(40), Seq(2))), [30, 40, 40]);
    }
}
