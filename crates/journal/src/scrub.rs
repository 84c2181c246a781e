//! Checks a closed segment while the log goes on, by the rules of a scan.

use crate::layout::{LogIdentity, SegmentNumber};
use crate::scan::{RecordState, Repair, Scanner};
use crate::{RecordKind, RecordPlace};
use quorate_types::{JournalId, Lsn};
use std::collections::BTreeSet;

/// What is wrong with a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// What makes bad copies good again.
    pub repairs: Vec<Repair>,
    /// The records that cannot be read from any copy.
    pub lost: Vec<(JournalId, Lsn, RecordKind)>,
}

/// Checks the bytes of a segment, in which the records stand that `needed` names ([`crate::Log::places_in`]). What else
/// stands there is of no interest: groups that a run has left behind, or that are on their way.
#[must_use]
pub fn scrub(
    identity: LogIdentity,
    segment: SegmentNumber,
    bytes: &[u8],
    needed: &[(JournalId, Lsn, RecordPlace)],
) -> Scrubbed {
    let mut scanner = Scanner::new(identity).without_batches();
    scanner.segment(segment, bytes);
    let wanted: BTreeSet<(JournalId, Lsn)> =
        needed.iter().map(|(journal, lsn, _)| (*journal, *lsn)).collect();
    let mut found = BTreeSet::new();
    let mut scrubbed = Scrubbed::default();
    for mut group in scanner.into_groups() {
        let whole = group.records.iter().filter(|record| record.state != RecordState::Lost);
        found.extend(whole.map(|record| (record.entry.journal, record.entry.lsn)));
        let is_wanted =
            group.records.iter().any(|record| wanted.contains(&(record.entry.journal, record.entry.lsn)));
        if is_wanted {
            scrubbed.repairs.append(&mut group.repairs);
        }
    }
    let lost = needed.iter().filter(|(journal, lsn, _)| !found.contains(&(*journal, *lsn)));
    scrubbed.lost = lost.map(|(journal, lsn, place)| (*journal, *lsn, place.kind)).collect();
    scrubbed
}
