//! The disks: writes finish late and out of order; what is reported is the contiguous durable prefix.

use quorate_types::{JournalId, Lsn};
use std::collections::BTreeSet;

#[derive(Debug, Default)]
struct Journal {
    appended: Lsn,
    /// Written records above the durable prefix.
    written: BTreeSet<Lsn>,
    durable: Lsn,
}

/// The journals of one replica.
#[derive(Debug)]
pub struct Disk {
    journals: Vec<Journal>,
}

impl Disk {
    /// Empty journals.
    #[must_use]
    pub fn new(journals: usize) -> Self {
        Self { journals: (0..journals).map(|_| Journal::default()).collect() }
    }

    /// Begins to write a record; returns the position that was due when `lsn` is another one.
    pub fn append(&mut self, journal: JournalId, lsn: Lsn) -> Result<(), Lsn> {
        let journal = &mut self.journals[journal.index()];
        let due = journal.appended.next();
        if lsn != due {
            return Err(due);
        }
        journal.appended = due;
        Ok(())
    }

    /// A record is written; returns the end of the durable prefix if that grew.
    pub fn written(&mut self, journal: JournalId, lsn: Lsn) -> Option<Lsn> {
        let journal = &mut self.journals[journal.index()];
        journal.written.insert(lsn);
        let before = journal.durable;
        while journal.written.remove(&journal.durable.next()) {
            journal.durable = journal.durable.next();
        }
        (journal.durable > before).then_some(journal.durable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_contiguous_prefix_is_durable() {
        let mut disk = Disk::new(1);
        let journal = JournalId(0);
        for lsn in 1..=3 {
            disk.append(journal, Lsn(lsn)).unwrap();
        }
        assert_eq!(disk.append(journal, Lsn(5)), Err(Lsn(4)));
        assert_eq!(disk.written(journal, Lsn(2)), None);
        assert_eq!(disk.written(journal, Lsn(1)), Some(Lsn(2)));
        assert_eq!(disk.written(journal, Lsn(3)), Some(Lsn(3)));
    }
}
