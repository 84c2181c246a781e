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
//! written. A group *counts* when its directory and its critical records can be read. The first group that does not and
//! lies above every watermark ends the log: nobody was told that it is durable, so it is a torn tail, and it is dropped
//! with all behind it (several writes are in flight, so later ones may be whole). One at or below a watermark was
//! durable and is damage: it is told what was lost, the rest of the group is used, and reading goes on behind it.
//!
//! **A bad batch is a lost batch, never a torn tail**: it stands once, and so is bad where a vote, which stands twice,
//! is not. Above every watermark of its run it may be the remainder of a write that was cut short, or rotten; both are
//! had from others again, and only the latter is damage, so it is told apart ([`Scan::torn_batches`]).
//!
//! **Unknown is not damaged.** What has a valid checksum and says something that this version does not know was written
//! by another one ([`Damage::Unknown`]). Nobody may go on from there, or change anything.
//!
//! **Absent is not lost.** Segments have consecutive numbers, but for those that a run has left out, which its
//! segments state. One that is missing above the lowest that is needed, or up to the highest that is known to have
//! been made ([`SegmentsMade`]), was taken away ([`Scan::absent`]): an operator may have it still.
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
//! is missing and not stated so was taken away, and the log does not begin later.
//!
//! **Which records are lost** is known from the group that follows: it states where each journal stood. Where a lost
//! group may have held votes and nothing tells, they count as lost. That votes were lost is stated in every group
//! written later, so that it is not forgotten when the damaged place is trimmed.
//!
//! **Without a durable watermark** (`async`) the same rules take a group that does not count for a torn tail, even in
//! the middle, and drop all behind it: after a loss of power the log ends at the first gap. That is what `async`
//! gives up; after a mere crash of the process nothing is missing.
//!
//! What cannot be seen: that the very last groups were durable, as long as no later group says so ([`crate::Log::confirm`]
//! writes one when there is nothing else to write).

use crate::chain::Chain;
use crate::damage::{Damage, LostRecords, TornTail};
use crate::layout::{
    BLOCK_BYTES, Directory, ENTRY_BYTES, Entry, GROUP_HEADER_BYTES, GroupHeader, GroupNumber, HeaderFound,
    LogIdentity, Run, SegmentHeader, SegmentNumber, Unused,
};
use crate::{Record, RecordError, RecordKind, RecordPlace};
use quorate_types::mistakes::is_made;
use quorate_types::{JournalId, LaneId, LaneNumber, Lsn, Mistake, Why};
use quorate_wire::LaneTip;
use quorate_wire::batch::{BatchHead, parse_head};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// What is known beside a log of its files, so that one that is gone is missed: noted whenever a segment was made, before
/// it is used, and when one is to be removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentsMade {
    /// The highest segment that was made.
    pub upto: SegmentNumber,
    /// The lowest that is needed. What is in the log says it, too, in one place: this is the second copy.
    pub needed_from: SegmentNumber,
    /// The first one of the last run, and the last one that was used before: another copy of what the segments of the run
    /// say.
    pub run: SegmentNumber,
    /// See [`SegmentsMade::run`].
    pub used_before: SegmentNumber,
}

/// What a log holds.
#[derive(Debug, Default)]
pub struct Scan {
    /// The records that count and are not trimmed, in the order in which they were appended; of a scanner that keeps no
    /// batches ([`Scanner::without_batches`]), the others.
    pub records: Vec<(JournalId, Lsn, Record)>,
    /// The batches that such a scanner has not kept: they can be read back from their places.
    pub batches: Vec<FoundBatch>,
    /// Where each of both lies.
    pub places: Vec<(JournalId, Lsn, RecordPlace)>,
    /// The last record of each journal; the next one follows it.
    pub last: BTreeMap<JournalId, Lsn>,
    /// What is wrong, the worst of it.
    pub damage: Damage,
    /// The tail that was dropped, whatever else is wrong.
    pub torn: Option<TornTail>,
    /// The records that were durable and are lost, whatever their kind.
    pub lost: Vec<LostRecords>,
    /// Batches that cannot be read and of which nobody knows whether they were durable: a write that was cut short has
    /// left the rest of their groups.
    pub torn_batches: Vec<LostRecords>,
    /// Of both, the batches that the directories of their groups name.
    pub lost_batches: Vec<LostBatch>,
    /// What was taken away, in words: segments that are needed and missing, or the own log as a whole. Votes may stand
    /// in there, or batches on another core than the first.
    pub absent: Option<String>,
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

/// A batch that is in the log, whole, and not in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundBatch {
    /// The journal.
    pub journal: JournalId,
    /// The position.
    pub lsn: Lsn,
    /// Its place among batches, as its head says.
    pub lane: LaneId,
    /// Its number in the lane.
    pub number: LaneNumber,
    /// Where it lies.
    pub place: RecordPlace,
    /// What is lost if it cannot be read back.
    pub name: Option<LostBatch>,
}

/// A batch that was written and cannot be read. It may have been acknowledged, and can be had from others by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostBatch {
    /// The journal.
    pub journal: JournalId,
    /// The position.
    pub lsn: Lsn,
    /// Which one it is.
    pub tip: LaneTip,
    /// Why it was held.
    pub why: Why,
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
    /// Where the last group ends that was found; behind the first block if there is none.
    pub end: u64,
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
    pub(crate) content: Content,
}

/// What became of the content of a record that was read.
#[derive(Debug)]
pub(crate) enum Content {
    Lost,
    Kept(Record),
    /// A batch that was found whole and let go.
    LetGo(BatchHead),
}

impl Entry {
    /// The name of a batch.
    pub(crate) fn name(&self) -> Option<LostBatch> {
        let (tip, why) = self.batch.zip(self.kind.why())?;
        Some(LostBatch { journal: self.journal, lsn: self.lsn, tip, why })
    }
}

impl FoundGroup {
    fn without_batches(mut self) -> Self {
        for found in &mut self.records {
            if let Content::Kept(Record::Batch(frame, _)) = &found.content
                && let Ok(head) = parse_head(frame.payload())
            {
                found.content = Content::LetGo(head);
            }
        }
        self
    }

    /// Whether what cannot be had from others is here.
    pub(crate) fn counts(&self) -> bool {
        let is_here = |record: &FoundRecord| {
            let is_lost = record.state == RecordState::Lost;
            !is_lost || (!record.entry.kind.is_critical() && !is_made(Mistake::TearsWithBatch))
        };
        !self.directory_lost && self.records.iter().all(is_here)
    }
}

/// Takes the bytes of segments, one at a time and in any order, and tells what they hold.
#[derive(Debug)]
pub struct Scanner {
    identity: LogIdentity,
    segments: BTreeMap<SegmentNumber, SegmentSummary>,
    groups: Vec<FoundGroup>,
    /// Where numbers were left out.
    unused: Vec<Unused>,
    made: SegmentsMade,
    keeps_batches: bool,
    /// What this version does not know, the first of it.
    unknown: Option<String>,
    foreign: u64,
    misdirected: u64,
}

impl Scanner {
    /// A scanner of the log of `identity`.
    #[must_use]
    pub fn new(identity: LogIdentity) -> Self {
        Self {
            identity,
            segments: BTreeMap::new(),
            groups: Vec::new(),
            unused: Vec::new(),
            made: SegmentsMade::default(),
            keeps_batches: true,
            unknown: None,
            foreign: 0,
            misdirected: 0,
        }
    }

    /// These segments are known to have been made, whether they are found or not.
    #[must_use]
    pub fn made(mut self, made: SegmentsMade) -> Self {
        self.made = made;
        self
    }

    /// Batches are verified and let go: a log may be larger than memory, and not all of it is needed.
    #[must_use]
    pub fn without_batches(mut self) -> Self {
        self.keeps_batches = false;
        self
    }

    /// Reads a segment: the number that its file is named by, and its bytes, however many there are.
    pub fn segment(&mut self, number: SegmentNumber, bytes: &[u8]) {
        let (header, unused) = SegmentHeader::find(&self.identity, number, bytes);
        self.unused.extend(unused);
        if header == SegmentHeader::Unknown {
            self.note_unknown(number, 0, &"a segment of another version");
        }
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
                    match read_group(&self.identity, header, one_copy, content) {
                        Ok(group) if self.keeps_batches => self.groups.push(group),
                        Ok(group) => self.groups.push(group.without_batches()),
                        Err(unknown) => self.note_unknown(number, at, &unknown),
                    }
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
        let (bytes, end, first_group, highest) = (bytes.len() as u64, offset as u64, None, BTreeMap::new());
        let summary = SegmentSummary { number, bytes, header, groups, first_group, highest, end, broken_at };
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
                HeaderFound::Unknown(segment) if segment < number => {}
                HeaderFound::Unknown(_) => self.note_unknown(number, at, &"a group of another version"),
                HeaderFound::Valid(_) => self.misdirected += 1,
                HeaderFound::Foreign => self.foreign += 1,
                HeaderFound::Broken if at == offset => broken = true,
                HeaderFound::Broken | HeaderFound::Nothing => {}
            }
        }
        Found::Nothing { broken }
    }

    /// The groups found so far.
    pub(crate) fn into_groups(self) -> Vec<FoundGroup> {
        self.groups
    }

    fn note_unknown(&mut self, number: SegmentNumber, at: usize, what: &dyn fmt::Display) {
        self.unknown.get_or_insert_with(|| format!("{what} in segment {number} at {at}"));
    }

    /// What all segments together hold.
    #[must_use]
    pub fn finish(mut self) -> Scan {
        let seen =
            self.groups.iter().map(|group| group.header.segment.max(group.header.run().first_segment)).max();
        let highest =
            self.segments.keys().next_back().copied().max(seen).unwrap_or_default().max(self.made.upto);
        let stated = |group: &FoundGroup| {
            let GroupHeader { used_before, .. } = group.header;
            Unused { used_before, run: group.header.run().first_segment }
        };
        self.unused.extend(self.groups.iter().map(stated));
        self.unused.push(Unused { run: self.made.run, used_before: self.made.used_before });
        let mut scan = Scan {
            next_segment: highest.next(),
            foreign: self.foreign,
            misdirected: self.misdirected,
            segments: self.segments.into_values().collect(),
            ..Scan::default()
        };
        let chain = Chain::link(self.groups);
        scan.absent =
            absent(&scan, chain.lowest_segment().max(self.made.needed_from), self.made.upto, &self.unused);
        chain.read(self.identity, &mut scan);
        if let Some(what) = self.unknown {
            scan.damage = Damage::Unknown { what };
        }
        scan
    }
}

/// What was taken away. Needed is `lowest` and what follows; `made` is the highest segment that is known to have been
/// made.
fn absent(scan: &Scan, lowest: SegmentNumber, made: SegmentNumber, unused: &[Unused]) -> Option<String> {
    let first = lowest.max(SegmentNumber(1));
    let found = scan.segments.iter().map(|segment| segment.number).filter(|number| *number >= first);
    let mut next = first;
    // The end stands behind the last that there should be.
    for number in found.chain([made.next()]) {
        while next < number {
            let left_out = unused.iter().find(|unused| unused.used_before < next && next < unused.run);
            let Some(left_out) = left_out else {
                let gaps = unused.iter().map(|unused| unused.used_before).filter(|before| *before >= next);
                return Some(match gaps.min().unwrap_or(number).min(number.previous()) {
                    last if last == next => format!("segment {next} is missing"),
                    last => format!("segments {next} to {last} are missing"),
                });
            };
            next = left_out.run;
        }
        next = next.max(number.next());
    }
    (scan.foreign > 0 && scan.segments.iter().all(|segment| segment.groups == 0))
        .then(|| "the files hold the log of another cluster, replica, core or data directory".to_owned())
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

/// Reads the content of a group. `bytes` begins with it, and may end before it does. An error is what is whole and not
/// known to this version.
fn read_group(
    identity: &LogIdentity,
    header: GroupHeader,
    one_copy: bool,
    bytes: &[u8],
) -> Result<FoundGroup, RecordError> {
    let directory_bytes = header.sizes.directory_bytes();
    let copy_bytes = header.sizes.copy_bytes();
    let tail = header.sizes.group_bytes() - copy_bytes;
    let directory_at = |at: usize| match bytes.get(at..at + directory_bytes) {
        Some(directory) => Directory::read(&header, directory),
        None => Directory::Damaged,
    };
    let (mut repaired, mut entries) = (one_copy, None);
    for at in [GROUP_HEADER_BYTES, tail] {
        match directory_at(at) {
            Directory::Whole(found) => entries = Some(found),
            Directory::Unknown(unknown) => return Err(unknown),
            Directory::Damaged => repaired = true,
        }
    }
    let Some(entries) = entries else {
        let (repairs, records) = (Vec::new(), Vec::new());
        return Ok(FoundGroup { header, repaired: false, repairs, directory_lost: true, records });
    };
    let front = GROUP_HEADER_BYTES + directory_bytes;
    let (mut critical_at, mut batch_at) = (0, copy_bytes);
    let mut records = Vec::with_capacity(entries.len());
    for entry in entries {
        let length = entry.bytes as usize;
        let read = |at: usize| match bytes.get(at..at + length) {
            Some(bytes) => read_record(&entry, bytes),
            None => Ok(None),
        };
        let (at, state, record) = if entry.kind.is_critical() {
            let [first, second] = [front, tail + directory_bytes].map(|start| start + critical_at);
            critical_at += length;
            match (read(first)?, read(second)?) {
                (Some(record), Some(_)) => (first, RecordState::Whole, Some(record)),
                (Some(record), None) => (first, RecordState::Repaired, Some(record)),
                (None, Some(record)) => (second, RecordState::Repaired, Some(record)),
                (None, None) => (first, RecordState::Lost, None),
            }
        } else {
            let (at, record) = (batch_at, read(batch_at)?);
            batch_at += length;
            (at, record.as_ref().map_or(RecordState::Lost, |_| RecordState::Whole), record)
        };
        repaired |= state == RecordState::Repaired;
        let content = record.map_or(Content::Lost, Content::Kept);
        records.push(FoundRecord { entry, at, state, content });
    }
    let mut group = FoundGroup { header, repaired, repairs: Vec::new(), directory_lost: false, records };
    if repaired {
        group.repairs = repairs(identity, &group, bytes);
    }
    Ok(group)
}

/// The blocks of a group that differ from what they are when both copies are good.
fn repairs(identity: &LogIdentity, group: &FoundGroup, bytes: &[u8]) -> Vec<Repair> {
    let mut critical = Vec::with_capacity(group.header.sizes.critical_bytes as usize);
    for found in group.records.iter().filter(|found| found.entry.kind.is_critical()) {
        let Content::Kept(record) = &found.content else { return Vec::new() };
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
    // What the disk does not give back stays as it is: it is told, and may be readable another time.
    let lost: Vec<Range<usize>> = group
        .records
        .iter()
        .filter(|found| found.state == RecordState::Lost)
        .map(|found| found.at..found.at + found.entry.bytes as usize)
        .collect();
    for (index, block) in whole.chunks_exact(BLOCK_BYTES).enumerate() {
        let at = index * BLOCK_BYTES;
        if lost.iter().any(|lost| lost.start < at + BLOCK_BYTES && at < lost.end) {
            continue;
        }
        if bytes.get(at..at + BLOCK_BYTES) != Some(block) {
            let (segment, offset) = (group.header.segment, group.header.offset + at as u64);
            repairs.push(Repair { segment, offset, bytes: block.to_vec() });
        }
    }
    repairs
}

/// The record, or nothing where its bytes are not what was written. What was written and is no record to this version
/// is an error; the checksum of a batch covers its frame's header alone, so what is wrong with a frame is damage.
fn read_record(entry: &Entry, bytes: &[u8]) -> Result<Option<Record>, RecordError> {
    if Record::checksum(entry.kind, bytes) != entry.checksum {
        return Ok(None);
    }
    match Record::decode(entry.kind, bytes) {
        Ok(record) => Ok(Some(record)),
        Err(_) if !entry.kind.is_critical() => Ok(None),
        Err(unknown) => Err(unknown),
    }
}
