//! Where the records lie that a log still needs, so that one that has left memory can be read back at run time.

use crate::layout::SegmentNumber;
use crate::{Record, RecordKind};
use quorate_types::{JournalId, Lsn};
use std::collections::VecDeque;

/// Where a record lies, and what guards it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordPlace {
    /// The segment.
    pub segment: SegmentNumber,
    /// The offset of its bytes in the segment; of a record that stands twice, of the first copy that was good.
    pub offset: u64,
    /// The length of its bytes.
    pub bytes: u32,
    pub(crate) checksum: u32,
    pub(crate) kind: RecordKind,
}

impl RecordPlace {
    /// The record, if `bytes`, which were read from its place, are still what was written there. A segment that was
    /// used again meanwhile holds something else.
    #[must_use]
    pub fn record(&self, bytes: &[u8]) -> Option<Record> {
        if bytes.len() != self.bytes as usize || Record::checksum(self.kind, bytes) != self.checksum {
            return None;
        }
        Record::decode(self.kind, bytes).ok()
    }
}

/// The places of the records of one log, by journal.
#[derive(Debug, Default)]
pub(crate) struct Places(Vec<Journal>);

#[derive(Debug)]
struct Journal {
    id: JournalId,
    /// The position of the first of `places`.
    first: Lsn,
    /// Nothing where a record was lost, or is not encoded yet.
    places: VecDeque<Option<RecordPlace>>,
    /// Up to where they are durable.
    durable: Lsn,
}

impl Places {
    pub(crate) fn set(&mut self, journal: JournalId, lsn: Lsn, place: RecordPlace) {
        let index = self.0.iter().position(|other| other.id == journal).unwrap_or_else(|| {
            self.0.push(Journal { id: journal, first: lsn, places: VecDeque::new(), durable: Lsn(0) });
            self.0.len() - 1
        });
        let known = &mut self.0[index];
        if known.places.is_empty() {
            known.first = lsn;
        }
        let Some(at) = known.index(lsn) else { return };
        if at >= known.places.len() {
            known.places.resize(at + 1, None);
        }
        known.places[at] = Some(place);
    }

    pub(crate) fn note_durable(&mut self, journal: JournalId, upto: Lsn) {
        if let Some(known) = self.0.iter_mut().find(|other| other.id == journal) {
            known.durable = known.durable.max(upto);
        }
    }

    /// What lies there was lost.
    pub(crate) fn lose(&mut self, journal: JournalId, lsn: Lsn) {
        let Some(known) = self.0.iter_mut().find(|other| other.id == journal) else { return };
        if let Some(at) = known.index(lsn)
            && let Some(place) = known.places.get_mut(at)
        {
            *place = None;
        }
    }

    /// Nothing at or below `upto` is needed any more.
    pub(crate) fn trim(&mut self, journal: JournalId, upto: Lsn) {
        let Some(known) = self.0.iter_mut().find(|other| other.id == journal) else { return };
        while known.first <= upto && known.places.pop_front().is_some() {
            known.first = known.first.next();
        }
    }

    /// The place of a record that is durable and needed.
    pub(crate) fn get(&self, journal: JournalId, lsn: Lsn) -> Option<RecordPlace> {
        let known = self.0.iter().find(|other| other.id == journal && lsn <= other.durable)?;
        known.places.get(known.index(lsn)?).copied().flatten()
    }
}

impl Journal {
    fn index(&self, lsn: Lsn) -> Option<usize> {
        usize::try_from(lsn.0.checked_sub(self.first.0)?).ok()
    }
}
