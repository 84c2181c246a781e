//! What is remembered of each server beyond one fetch: what is open with it, and how often it was slow or wrong.

use quorate_types::{Nanoseconds, ReplicaId};
use std::collections::BTreeMap;

/// A wrong answer counts as so many slow ones.
const WRONG_FAULTS: u32 = 16;
/// More faults than that are not counted, so that everybody is forgiven some time.
const FAULTS_MAX: u32 = 64;

/// What may be open at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Questions that one server has open, late ones included.
    pub questions_per_server: usize,
    /// Bytes that the open questions of all may bring, those aside whose time is over: else silent servers would use it
    /// up, and nobody else be asked. One question is always allowed.
    pub bytes: u64,
    /// After so long half of a server's faults are forgotten.
    pub forgetting: Nanoseconds,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            questions_per_server: 8,
            bytes: 64 * 1024 * 1024,
            forgetting: Nanoseconds::from_millis(30_000),
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    questions: usize,
    faults: u32,
    /// When faults were counted or halved last.
    since: Nanoseconds,
}

/// The servers of all fetches of one owner.
#[derive(Debug, Default)]
pub struct Servers {
    budget: Budget,
    standings: BTreeMap<ReplicaId, Standing>,
    bytes: u64,
    questions: usize,
}

impl Servers {
    /// Nothing is open and nothing is known against anybody.
    #[must_use]
    pub fn new(budget: Budget) -> Self {
        Self { budget, ..Self::default() }
    }

    /// Whether the budget has room for a question to this server that may bring so many bytes.
    #[must_use]
    pub fn has_room(&self, server: ReplicaId, bytes: u64) -> bool {
        let questions = self.standings.get(&server).map_or(0, |standing| standing.questions);
        questions < self.budget.questions_per_server
            && (self.questions == 0 || self.bytes.saturating_add(bytes) <= self.budget.bytes)
    }

    /// A question is open with this server.
    pub fn asked(&mut self, server: ReplicaId, bytes: u64) {
        self.standings.entry(server).or_default().questions += 1;
        self.questions += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// The time of a question is over. It stays open, and counts with its server alone.
    pub fn lapsed(&mut self, bytes: u64) {
        self.questions = self.questions.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// A question is open no more; the bytes that it was asked with, if its time was not over.
    pub fn closed(&mut self, server: ReplicaId, in_time: Option<u64>) {
        if let Some(standing) = self.standings.get_mut(&server) {
            standing.questions = standing.questions.saturating_sub(1);
        }
        if let Some(bytes) = in_time {
            self.lapsed(bytes);
        }
    }

    /// The server did not give enough in its time.
    pub fn slow(&mut self, now: Nanoseconds, server: ReplicaId) {
        self.fault(now, server, 1);
    }

    /// The server gave what no honest one does.
    pub fn wrong(&mut self, now: Nanoseconds, server: ReplicaId) {
        self.fault(now, server, WRONG_FAULTS);
    }

    /// The server was of use: that makes up for one slow answer.
    pub fn helped(&mut self, server: ReplicaId) {
        if let Some(standing) = self.standings.get_mut(&server) {
            standing.faults = standing.faults.saturating_sub(1);
        }
    }

    /// How much is remembered against this server.
    #[must_use]
    pub fn faults(&self, now: Nanoseconds, server: ReplicaId) -> u32 {
        self.standings.get(&server).map_or(0, |standing| self.left(now, standing))
    }

    /// Questions that are open and whose time is not over, and the bytes that they may bring.
    #[must_use]
    pub fn open(&self) -> (usize, u64) {
        (self.questions, self.bytes)
    }

    fn left(&self, now: Nanoseconds, standing: &Standing) -> u32 {
        let halvings = now.since(standing.since) / self.budget.forgetting.0.max(1);
        u32::try_from(halvings).ok().and_then(|halvings| standing.faults.checked_shr(halvings)).unwrap_or(0)
    }

    fn fault(&mut self, now: Nanoseconds, server: ReplicaId, faults: u32) {
        let standing = self.standings.get(&server).copied().unwrap_or_default();
        let faults = self.left(now, &standing).saturating_add(faults).min(FAULTS_MAX);
        self.standings.insert(server, Standing { faults, since: now, ..standing });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const R1: ReplicaId = ReplicaId(1);
    const R2: ReplicaId = ReplicaId(2);

    #[test]
    fn the_budget_counts_questions_per_server_and_bytes_in_all() {
        let budget = Budget { questions_per_server: 2, bytes: 100, ..Budget::default() };
        let mut servers = Servers::new(budget);
        assert!(servers.has_room(R1, 1000), "one question is always allowed");
        servers.asked(R1, 40);
        assert!(servers.has_room(R1, 60) && !servers.has_room(R1, 61));
        servers.asked(R1, 40);
        assert!(!servers.has_room(R1, 0), "two of its own");
        assert!(servers.has_room(R2, 20) && !servers.has_room(R2, 21));
        servers.closed(R1, Some(40));
        assert!(servers.has_room(R1, 60));
        assert_eq!(servers.open(), (1, 40));
        servers.lapsed(40);
        assert_eq!(servers.open(), (0, 0));
        servers.asked(R1, 40);
        assert!(!servers.has_room(R1, 0), "a late question counts with its server");
        servers.closed(R1, None);
        assert_eq!(servers.open(), (1, 40));
    }

    #[test]
    fn faults_are_forgotten_by_halves_and_made_up_for() {
        let forgetting = Nanoseconds(10);
        let mut servers = Servers::new(Budget { forgetting, ..Budget::default() });
        servers.wrong(Nanoseconds(0), R1);
        servers.slow(Nanoseconds(0), R2);
        assert_eq!((servers.faults(Nanoseconds(0), R1), servers.faults(Nanoseconds(0), R2)), (16, 1));
        assert_eq!((servers.faults(Nanoseconds(10), R1), servers.faults(Nanoseconds(10), R2)), (8, 0));
        servers.slow(Nanoseconds(10), R1);
        assert_eq!(servers.faults(Nanoseconds(10), R1), 9);
        servers.helped(R1);
        assert_eq!(servers.faults(Nanoseconds(10), R1), 8);
        assert_eq!(servers.faults(Nanoseconds(u64::MAX), R1), 0);
        (0..100).for_each(|_| servers.wrong(Nanoseconds(20), R1));
        assert_eq!(servers.faults(Nanoseconds(20), R1), FAULTS_MAX);
    }
}
