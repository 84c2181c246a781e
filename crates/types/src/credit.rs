//! Credit in time: what somebody may cause others, however it asks.

use crate::{Nanoseconds, ReplicaId, limits};
use std::collections::BTreeMap;

/// An account that pays with time (the generic cell rate algorithm, ITU-T I.371): whatever is caused costs so much time, and
/// an account may be ahead of the clock by its burst. What costs more than is left is paid for afterwards.
///
/// ```
/// use quorate_types::{Credit, Nanoseconds};
///
/// let (mut credit, burst, mut now) = (Credit::default(), 10, Nanoseconds(1000));
/// assert!(credit.covers(now, burst));
/// credit.spend(now, 25);
/// assert!(!credit.covers(now, burst));
/// now = credit.due(burst);
/// assert_eq!(now, Nanoseconds(1015));
/// assert!(credit.covers(now, burst));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credit {
    /// Up to when time is spent.
    spent: Nanoseconds,
}

impl Credit {
    /// Whether the account is ahead of the clock by no more than `burst`, in nanoseconds.
    #[must_use]
    pub fn covers(&self, now: Nanoseconds, burst: u64) -> bool {
        self.due(burst) <= now
    }

    /// When the account covers something again.
    #[must_use]
    pub fn due(&self, burst: u64) -> Nanoseconds {
        Nanoseconds(self.spent.0.saturating_sub(burst))
    }

    /// Spends so many nanoseconds. Time that has passed unspent is gone.
    pub fn spend(&mut self, now: Nanoseconds, nanoseconds: u64) {
        self.spent = self.spent.max(now).plus(nanoseconds);
    }
}

/// An account of each peer for the bytes that it is sent as answers, or again. It outlasts connections.
#[derive(Debug, Default)]
pub struct AnswerCredits {
    peers: BTreeMap<ReplicaId, Credit>,
    used_up: u64,
}

impl AnswerCredits {
    /// When a peer's credit covers an answer.
    #[must_use]
    pub fn due(&self, peer: ReplicaId) -> Nanoseconds {
        self.peers.get(&peer).map_or(Nanoseconds(0), |credit| credit.due(limits::ANSWER_BURST.0))
    }

    /// Whether a peer's credit covers an answer now.
    #[must_use]
    pub fn covers(&self, now: Nanoseconds, peer: ReplicaId) -> bool {
        self.due(peer) <= now
    }

    /// A peer is sent so many bytes.
    pub fn charge(&mut self, now: Nanoseconds, peer: ReplicaId, bytes: usize) {
        let credit = self.peers.entry(peer).or_default();
        credit.spend(now, time_of(bytes.max(limits::ANSWER_BYTES_MIN)));
        self.used_up += u64::from(!credit.covers(now, limits::ANSWER_BURST.0));
    }

    /// How often an answer has used a peer's credit up since this was asked last: its next question waits.
    pub fn take_used_up(&mut self) -> u64 {
        std::mem::take(&mut self.used_up)
    }
}

/// What so many bytes cost the peer that they are sent to, in nanoseconds.
#[must_use]
pub fn time_of(bytes: usize) -> u64 {
    bytes as u64 * limits::ANSWER_BYTE_TIME.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_caused_than_burst_and_rate_allow() {
        let (mut credit, mut now, mut caused) = (Credit::default(), Nanoseconds(1_000_000), 0u64);
        for _ in 0..100_000 {
            if credit.covers(now, 500) {
                credit.spend(now, 100);
                caused += 1;
            }
            now = now.plus(3);
        }
        let most = (300_000 + 500) / 100 + 1;
        assert!(caused <= most && caused >= most - 1, "{caused} of {most}");
    }

    #[test]
    fn what_was_not_spent_for_long_is_a_burst_and_no_more() {
        let mut credit = Credit::default();
        let now = Nanoseconds(u64::MAX / 2);
        let mut caused = 0;
        while credit.covers(now, 500) {
            credit.spend(now, 100);
            caused += 1;
        }
        assert_eq!(caused, 6);
    }
}
