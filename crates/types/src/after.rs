//! What must be durable before an effect may leave (DESIGN section 5).

use crate::{JournalId, Lsn};

/// Log positions that must be durable first; at most one per journal. Empty: nothing to wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct After(Vec<(JournalId, Lsn)>);

impl After {
    /// Waits for nothing.
    #[must_use]
    pub const fn nothing() -> Self {
        Self(Vec::new())
    }

    /// Waits for one position.
    #[must_use]
    pub fn position(journal: JournalId, lsn: Lsn) -> Self {
        let mut after = Self::nothing();
        after.and(journal, lsn);
        after
    }

    /// Waits for `lsn` of `journal` too. Lsn 0 is nothing.
    pub fn and(&mut self, journal: JournalId, lsn: Lsn) {
        if lsn == Lsn(0) {
            return;
        }
        match self.0.iter_mut().find(|(other, _)| *other == journal) {
            Some((_, highest)) => *highest = lsn.max(*highest),
            None => self.0.push((journal, lsn)),
        }
    }

    /// Waits for all that `other` waits for too.
    pub fn and_all(&mut self, other: &Self) {
        for (journal, lsn) in &other.0 {
            self.and(*journal, *lsn);
        }
    }

    /// The positions, each journal at most once.
    #[must_use]
    pub fn positions(&self) -> &[(JournalId, Lsn)] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_position_of_each_journal_counts() {
        let mut after = After::position(JournalId(1), Lsn(5));
        after.and(JournalId(1), Lsn(3));
        after.and(JournalId(0), Lsn(2));
        after.and(JournalId(2), Lsn(0));
        after.and_all(&After::position(JournalId(1), Lsn(9)));
        assert_eq!(after.positions(), [(JournalId(1), Lsn(9)), (JournalId(0), Lsn(2))]);
    }
}
