//! Reads a log back after a stop of any kind.
//!
//! **What counts.** Groups are numbered one after the other. A *run* (one life of the process) begins on a fresh
//! segment and goes on behind the last group that its scan has accepted. So the log is: the groups of the first run up
//! to where the second goes on, those of the second up to where the third goes on, and so forth. Each group states
//! where its own run and the runs before began, as far as something of them may be needed: the newest run decides
//! which group of each number counts, even if a run in between cannot be read at all. What a run left behind is
//! *abandoned*: it was found torn once, and it is never read again, however well parts of it look.
//!
//! **Torn or damaged.** Each group states its *watermark*: the group up to which all were durable when it was
//! written. The first group that is missing or bad and lies above every watermark ends the log: nobody was told that
//! it is durable, so it is a torn tail, and it is dropped with all behind it (several writes are in flight, so later
//! ones may be whole). One at or below a watermark was durable and is damage: it is told what was lost, the rest of
//! the group is used, and reading goes on behind it.
//!
//! **Why any number of crashes is safe.** Numbers of segments are never given twice, and a run writes only to segments
//! above all that its scan has seen; so it overwrites nothing that an earlier run wrote (a [`Repair`] only what is
//! bad, with what it was). Suppose a scan ends the log at
//! group g and the process dies again
//! - before any group of the new run is readable: the next scan sees what this one saw, and ends the log at g again;
//! - when some are: each states that its run begins behind g, so that whatever stands there in older segments is
//!   abandoned; and
//!   "durable up to g", so that the loss of a group up to g, on which votes may rest by now, is damage. If the first
//!   of them, g + 1, is missing, it ends the log there like any torn tail: others of this run do not count, and
//!   neither does the abandoned g + 1 of the older run.
//!
//! A segment is given up only after a durable group has stated that it is not needed; therefore a first segment that
//! is missing and not stated so is damage, not a log that begins later.
//!
//! **Which records are lost** is known from the group that follows: it states where each journal stood. Where a lost
//! group may have held votes and nothing tells, they count as lost. That votes were lost is stated in every group
//! written later, so that it is not forgotten when the damaged place is trimmed.
//!
//! **Without a durable watermark** (`async`) the same rules take whatever is missing or bad for a torn tail, even in
//! the middle, and drop all behind it: after a loss of power the log ends at the first gap. That is what `async`
//! gives up; after a mere crash of the process nothing is missing.
//!
//! What cannot be seen: that the very last groups were durable, as long as no later group says so ([`crate::Log::confirm`]
//! writes one when there is nothing else to write), and that all segments are gone. The latter is for whoever
//! knows the checkpoints and the other logs to tell.

use crate::chain::Chain;
use crate::damage::{Damage, LostRecords, TornTail};
use crate::layout::{
    BLOCK_BYTES, ENTRY_BYTES, Entry, GROUP_HEADER_BYTES, GroupHeader, GroupNumber, HeaderFound, LogIdentity,
    Run, SegmentHeader, SegmentNumber, decode_directory,
};
use crate::{Record, RecordKind, RecordPlace};
use quorate_types::{JournalId, Lsn};
use std::collections::BTreeMap;

/// What a log holds.
#[derive(Debug, Default)]
pub struct Scan {
    /// The records that count and are not trimmed, in the order in which they were appended.
    pub records: Vec<(JournalId, Lsn, Record)>,
    /// Where each of them lies.
    pub places: Vec<(JournalId, Lsn, RecordPlace)>,
    /// The last record of each journal; the next one follows it.
    pub last: BTreeMap<JournalId, Lsn>,
    /// What is wrong, the worst of it.
    pub damage: Damage,
    /// The tail that was dropped, whatever else is wrong.
    pub torn: Option<TornTail>,
    /// The records that were durable and are lost, whatever their kind.
    pub lost: Vec<LostRecords>,
    /// The number of groups of which one copy of something was bad and the other served.
    pub repaired: u64,
    /// What makes bad copies good again. Whoever goes on with the log writes these first.
    pub repairs: Vec<Repair>,
    /// The number of headers of other logs.
    pub foreign: u64,
    /// The number of groups of this log that stand at a wrong place.
    pub misdirected: u64,
    /// The segments found, ascending.
    pub segments: Vec<SegmentSummary>,
    /// The groups found, by segment and offset.
    pub groups: Vec<GroupSummary>,
    /// The last group that counts.
    pub last_group: GroupNumber,
    /// The highest watermark.
    pub watermark: GroupNumber,
    /// The number from which on no segment was ever used.
    pub next_segment: SegmentNumber,
    pub(crate) lowest: Option<(SegmentNumber, GroupNumber)>,
    pub(crate) trimmed: BTreeMap<JournalId, Lsn>,
    pub(crate) votes_lost: bool,
    /// The runs that the log consists of, as far as something of them may be needed.
    pub(crate) runs: Vec<Run>,
}

impl Scan {
    /// The last record of `journal`; 0 when there was none.
    #[must_use]
    pub fn last(&self, journal: JournalId) -> Lsn {
        self.last.get(&journal).copied().unwrap_or_default()
    }

    /// Up to where `journal` was trimmed.
    #[must_use]
    pub fn trimmed(&self, journal: JournalId) -> Lsn {
        self.trimmed.get(&journal).copied().unwrap_or_default()
    }

    /// Whether nothing was ever written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether votes, certificates or views were lost, now or before.
    #[must_use]
    pub fn votes_are_lost(&self) -> bool {
        self.votes_lost || matches!(self.damage, Damage::LostVotes { .. })
    }
}

/// Blocks to write in place. They hold a bad copy of what stands whole in other blocks, which are not touched: a
/// repair that is cut short loses nothing. Without it, a group of which only one copy has reached the disk would be
/// trusted from now on and still have no second one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// The segment.
    pub segment: SegmentNumber,
    /// The offset in the segment, a multiple of a block.
    pub offset: u64,
    /// Whole blocks.
    pub bytes: Vec<u8>,
}

/// A segment found.
#[derive(Clone, Debug)]
pub struct SegmentSummary {
    /// Its number.
    pub number: SegmentNumber,
    /// The length of the file.
    pub bytes: u64,
    /// What its first block says.
    pub header: SegmentHeader,
    /// The number of groups found in it.
    pub groups: usize,
    /// The first group that counts.
    pub first_group: Option<GroupNumber>,
    /// The last record of each journal that counts.
    pub highest: BTreeMap<JournalId, Lsn>,
    /// Where the beginning of a group stands that cannot be read.
    pub broken_at: Option<u64>,
}

/// What became of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It counts.
    Kept,
    /// It counts, and something of it is lost.
    Damaged,
    /// It is not needed any more.
    Trimmed,
    /// It belongs to the torn tail.
    Torn,
    /// It stands behind the point after which a later run went on.
    Abandoned,
}

/// Whether a record could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordState {
    /// It, and its second copy if it has one.
    Whole,
    /// One of its two copies.
    Repaired,
    /// It could not.
    Lost,
}

/// A record as the directory of its group names it.
#[derive(Clone, Copy, Debug)]
pub struct RecordSummary {
    /// The journal.
    pub journal: JournalId,
    /// The position.
    pub lsn: Lsn,
    /// The kind.
    pub kind: RecordKind,
    /// The length of its bytes.
    pub bytes: u32,
    /// Whether it could be read.
    pub state: RecordState,
}

/// A group found.
#[derive(Clone, Debug)]
pub struct GroupSummary {
    /// Where it stands.
    pub segment: SegmentNumber,
    /// The offset in the segment.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
    /// Its number.
    pub number: GroupNumber,
    /// Its watermark.
    pub watermark: GroupNumber,
    /// The first segment of its run.
    pub run: SegmentNumber,
    /// What became of it.
    pub fate: Fate,
    /// Whether something of it was bad and its second copy served.
    pub repaired: bool,
    /// The number of records that it announces.
    pub announced: u32,
    /// Its records; none when both copies of the directory are bad.
    pub records: Vec<RecordSummary>,
}

/// A group with its content.
#[derive(Debug)]
pub(crate) struct FoundGroup {
    pub(crate) header: GroupHeader,
    pub(crate) repaired: bool,
    pub(crate) repairs: Vec<Repair>,
    pub(crate) directory_lost: bool,
    pub(crate) records: Vec<FoundRecord>,
}

#[derive(Debug)]
pub(crate) struct FoundRecord {
    pub(crate) entry: Entry,
    /// Where its bytes stand in the group: those of the first copy that is good.
    pub(crate) at: usize,
    pub(crate) state: RecordState,
    pub(crate) record: Option<Record>,
}

impl FoundGroup {
    /// Whether all that it was written with is here.
    pub(crate) fn is_whole(&self) -> bool {
        !self.directory_lost && self.records.iter().all(|record| record.record.is_some())
    }
}

/// Takes the bytes of segments, one at a time and in any order, and tells what they hold.
#[derive(Debug)]
pub struct Scanner {
    identity: LogIdentity,
    segments: BTreeMap<SegmentNumber, SegmentSummary>,
    groups: Vec<FoundGroup>,
    foreign: u64,
    misdirected: u64,
}

impl Scanner {
    /// A scanner of the log of `identity`.
    #[must_use]
    pub fn new(identity: LogIdentity) -> Self {
        Self { identity, segments: BTreeMap::new(), groups: Vec::new(), foreign: 0, misdirected: 0 }
    }

    /// Reads a segment: the number that its file is named by, and its bytes, however many there are.
    pub fn segment(&mut self, number: SegmentNumber, bytes: &[u8]) {
        let header = SegmentHeader::find(&self.identity, number, bytes);
        self.foreign += u64::from(header == SegmentHeader::Foreign);
        let mut offset = BLOCK_BYTES;
        let (mut groups, mut broken_at) = (0, None);
        while offset < bytes.len() {
            match self.find_group(number, bytes, offset) {
                Found::Group { at, header, one_copy } => {
                    if at > offset {
                        broken_at = broken_at.or(Some(offset as u64));
                    }
                    offset = at + header.sizes.group_bytes();
                    let content = bytes.get(at..offset.min(bytes.len())).unwrap_or_default();
                    self.groups.push(read_group(&self.identity, header, one_copy, content));
                    groups += 1;
                }
                Found::Nothing { broken } => {
                    if broken {
                        broken_at = broken_at.or(Some(offset as u64));
                    }
                    break;
                }
            }
        }
        let (bytes, first_group, highest) = (bytes.len() as u64, None, BTreeMap::new());
        let summary = SegmentSummary { number, bytes, header, groups, first_group, highest, broken_at };
        self.segments.insert(number, summary);
    }

    /// The next group at or behind `offset`. Where its header is bad, the copy at its end serves; where both are,
    /// the group is passed over.
    fn find_group(&mut self, number: SegmentNumber, bytes: &[u8], offset: usize) -> Found {
        let mut broken = false;
        for at in (offset..=bytes.len()).step_by(BLOCK_BYTES) {
            if at > offset
                && let HeaderFound::Valid(header) =
                    GroupHeader::find(&self.identity, &bytes[at - GROUP_HEADER_BYTES..at])
                && header.segment == number
                && let Some(start) = at.checked_sub(header.sizes.group_bytes())
                && start >= offset
                && header.offset == start as u64
            {
                return Found::Group { at: start, header, one_copy: true };
            }
            match GroupHeader::find(&self.identity, &bytes[at..]) {
                HeaderFound::Valid(header) if header.segment == number && header.offset == at as u64 => {
                    let end = at + header.sizes.group_bytes();
                    let copy = bytes.get(end - GROUP_HEADER_BYTES..end);
                    let twice = copy.is_some_and(|copy| copy == &bytes[at..at + GROUP_HEADER_BYTES]);
                    return Found::Group { at, header, one_copy: !twice };
                }
                // An older segment's, in a file that is used again.
                HeaderFound::Valid(header) if header.segment < number => {}
                HeaderFound::Valid(_) => self.misdirected += 1,
                HeaderFound::Foreign => self.foreign += 1,
                HeaderFound::Broken if at == offset => broken = true,
                HeaderFound::Broken | HeaderFound::Nothing => {}
            }
        }
        Found::Nothing { broken }
    }

    /// What all segments together hold.
    #[must_use]
    pub fn finish(self) -> Scan {
        let seen =
            self.groups.iter().map(|group| group.header.segment.max(group.header.run().first_segment)).max();
        let highest = self.segments.keys().next_back().copied().max(seen).unwrap_or_default();
        let mut scan = Scan {
            next_segment: highest.next(),
            foreign: self.foreign,
            misdirected: self.misdirected,
            segments: self.segments.into_values().collect(),
            ..Scan::default()
        };
        Chain::link(self.groups).read(self.identity, &mut scan);
        scan
    }
}

enum Found {
    Group { at: usize, header: GroupHeader, one_copy: bool },
    Nothing { broken: bool },
}

/// Scans segments that are all in memory.
pub fn scan<'a>(
    identity: LogIdentity,
    segments: impl IntoIterator<Item = (SegmentNumber, &'a [u8])>,
) -> Scan {
    let mut scanner = Scanner::new(identity);
    for (number, bytes) in segments {
        scanner.segment(number, bytes);
    }
    scanner.finish()
}

/// Reads the content of a group. `bytes` begins with it, and may end before it does.
fn read_group(identity: &LogIdentity, header: GroupHeader, one_copy: bool, bytes: &[u8]) -> FoundGroup {
    let directory_bytes = header.sizes.directory_bytes();
    let copy_bytes = header.sizes.copy_bytes();
    let tail = header.sizes.group_bytes() - copy_bytes;
    let directory_at = |at: usize| {
        let directory = bytes.get(at..at + directory_bytes)?;
        decode_directory(&header, directory)
    };
    let directories = [directory_at(GROUP_HEADER_BYTES), directory_at(tail)];
    let mut repaired = one_copy || directories.iter().any(Option::is_none);
    let Some(entries) = directories.into_iter().flatten().next() else {
        let (repairs, records) = (Vec::new(), Vec::new());
        return FoundGroup { header, repaired: false, repairs, directory_lost: true, records };
    };
    let front = GROUP_HEADER_BYTES + directory_bytes;
    let (mut critical_at, mut batch_at) = (0, copy_bytes);
    let mut records = Vec::with_capacity(entries.len());
    for entry in entries {
        let length = entry.bytes as usize;
        let read = |at: usize| read_record(&entry, bytes.get(at..at + length)?);
        let (at, state, record) = if entry.kind.is_critical() {
            let [first, second] = [front, tail + directory_bytes].map(|start| start + critical_at);
            critical_at += length;
            match (read(first), read(second)) {
                (Some(record), Some(_)) => (first, RecordState::Whole, Some(record)),
                (Some(record), None) => (first, RecordState::Repaired, Some(record)),
                (None, Some(record)) => (second, RecordState::Repaired, Some(record)),
                (None, None) => (first, RecordState::Lost, None),
            }
        } else {
            let (at, record) = (batch_at, read(batch_at));
            batch_at += length;
            (at, record.as_ref().map_or(RecordState::Lost, |_| RecordState::Whole), record)
        };
        repaired |= state == RecordState::Repaired;
        records.push(FoundRecord { entry, at, state, record });
    }
    let mut group = FoundGroup { header, repaired, repairs: Vec::new(), directory_lost: false, records };
    if repaired {
        group.repairs = repairs(identity, &group, bytes);
    }
    group
}

/// The blocks of a group that differ from what they are when both copies are good.
fn repairs(identity: &LogIdentity, group: &FoundGroup, bytes: &[u8]) -> Vec<Repair> {
    let mut critical = Vec::with_capacity(group.header.sizes.critical_bytes as usize);
    for found in group.records.iter().filter(|found| found.entry.kind.is_critical()) {
        let Some(record) = &found.record else { return Vec::new() };
        let start = critical.len();
        critical.resize(start + found.entry.bytes as usize, 0);
        record.encode(&mut critical[start..]);
    }
    let mut whole = bytes.to_vec();
    whole.resize(group.header.sizes.group_bytes(), 0);
    let (entries, rest) = whole[GROUP_HEADER_BYTES..].split_at_mut(group.header.sizes.directory_bytes());
    for (found, out) in group.records.iter().zip(entries.chunks_exact_mut(ENTRY_BYTES)) {
        found.entry.encode(out);
    }
    rest[..critical.len()].copy_from_slice(&critical);
    group.header.seal(identity, &mut whole);
    let mut repairs = Vec::new();
    for (index, block) in whole.chunks_exact(BLOCK_BYTES).enumerate() {
        let at = index * BLOCK_BYTES;
        if bytes.get(at..at + BLOCK_BYTES) != Some(block) {
            let (segment, offset) = (group.header.segment, group.header.offset + at as u64);
            repairs.push(Repair { segment, offset, bytes: block.to_vec() });
        }
    }
    repairs
}

fn read_record(entry: &Entry, bytes: &[u8]) -> Option<Record> {
    if Record::checksum(entry.kind, bytes) != entry.checksum {
        return None;
    }
    Record::decode(entry.kind, bytes).ok()
}
