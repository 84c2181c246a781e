//! A log in words, for whoever inspects it.

use crate::layout::SegmentHeader;
use crate::scan::{Fate, GroupSummary, RecordState, RecordSummary, Scan, SegmentSummary};
use crate::{Record, RecordKind};
use quorate_types::{JournalId, Lsn};
use std::collections::BTreeMap;
use std::fmt;

/// Every segment, group and record of a scan, one a line, and a verdict at the end.
#[derive(Clone, Copy, Debug)]
pub struct Description<'a> {
    scan: &'a Scan,
}

impl Scan {
    /// What was found, in words.
    #[must_use]
    pub fn describe(&self) -> Description<'_> {
        Description { scan: self }
    }
}

impl fmt::Display for Description<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scan = self.scan;
        let records: BTreeMap<(JournalId, Lsn), &Record> =
            scan.records.iter().map(|(journal, lsn, record)| ((*journal, *lsn), record)).collect();
        for segment in &scan.segments {
            writeln!(f, "{segment}")?;
            for group in scan.groups.iter().filter(|group| group.segment == segment.number) {
                writeln!(f, "  {group}")?;
                let counts = matches!(group.fate, Fate::Kept | Fate::Damaged);
                for found in &group.records {
                    let content = records.get(&(found.journal, found.lsn)).filter(|_| counts);
                    match content.filter(|record| record.kind() == found.kind) {
                        Some(record) => writeln!(f, "    {found}: {record}")?,
                        None => writeln!(f, "    {found}")?,
                    }
                }
            }
        }
        for (journal, last) in &scan.last {
            writeln!(f, "journal {journal}: last {last}, trimmed up to {}", scan.trimmed(*journal))?;
        }
        for lost in &scan.lost {
            writeln!(f, "lost: {lost}")?;
        }
        for lost in &scan.torn_batches {
            writeln!(f, "not written whole: {lost}")?;
        }
        if let Some(torn) = &scan.torn {
            writeln!(f, "dropped: {torn}")?;
        }
        let (last, watermark, repaired) = (scan.last_group, scan.watermark, scan.repaired);
        writeln!(f, "groups up to {last}, watermark {watermark}, repaired {repaired}")?;
        if scan.foreign + scan.misdirected > 0 {
            writeln!(f, "headers of other logs {}, at wrong places {}", scan.foreign, scan.misdirected)?;
        }
        writeln!(f, "damage: {}", scan.damage)
    }
}

impl fmt::Display for SegmentHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("own"),
            Self::Other(number) => write!(f, "prepared for segment {number}"),
            Self::Foreign => f.write_str("of another log"),
            Self::Unknown => f.write_str("of another version"),
            Self::Blank => f.write_str("blank"),
            Self::Damaged => f.write_str("with a damaged header"),
        }
    }
}

impl fmt::Display for SegmentSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, bytes, header, groups, broken_at, .. } = self;
        write!(f, "segment {number} {header}: bytes {bytes}, groups {groups}")?;
        broken_at.map_or(Ok(()), |offset| write!(f, ", unreadable from {offset}"))
    }
}

impl fmt::Display for GroupSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, bytes, number, watermark, run, announced, .. } = self;
        write!(f, "group {number} at {offset}: bytes {bytes}, records {announced}, ")?;
        write!(f, "watermark {watermark}, run {run}")?;
        f.write_str(match self.fate {
            Fate::Kept => "",
            Fate::Damaged => ", damaged",
            Fate::Trimmed => ", not needed",
            Fate::Torn => ", torn",
            Fate::Abandoned => ", abandoned",
        })?;
        f.write_str(if self.repaired { ", repaired" } else { "" })
    }
}

impl fmt::Display for RecordSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { journal, lsn, bytes, .. } = self;
        write!(f, "journal {journal} lsn {lsn} {} bytes {bytes}", self.kind)?;
        f.write_str(match self.state {
            RecordState::Whole => "",
            RecordState::Repaired => " repaired",
            RecordState::Lost => " lost",
        })
    }
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
