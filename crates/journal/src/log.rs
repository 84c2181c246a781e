//! The physical log of one core: what to write where, what is durable, and which segments are needed.
//!
//! Pure: it plans, the driver acts. The driver
//! 1. carries out [`Log::next_action`]s on files: a created segment is written with zeroes over its whole length; a
//!    segment is reported ready ([`Log::on_segment_ready`]) only when the file and its directory entry are durable;
//! 2. asks [`Log::next_write`] when [`Log::wants_write`] (or whenever it likes), has it encoded into aligned memory, and
//!    reports it written ([`Log::on_written`]) when it is durable, in any order;
//! 3. stops the replica when a write or sync fails. Nothing is ever tried again.
//!
//! Before it resumes a log, a driver carries out [`Scan::repairs`], and one that promises durability syncs every
//! segment that the scan has read: what a killed process has written may stand in a cache, and from here on it is
//! taken for durable.

use crate::layout::{
    BLOCK_BYTES, ENTRY_BYTES, Entry, GROUP_HEADER_BYTES, GroupHeader, GroupNumber, JOURNALS_MAX, JournalMark,
    LogIdentity, RUNS_MAX, Run, SegmentNumber, Sizes, segment_header,
};
use crate::places::Places;
use crate::segments::{SegmentAction, Segments};
use crate::{Record, RecordPlace, Scan, SegmentsMade};
use quorate_types::{JournalId, Lsn};
use quorate_wire::LaneTip;
use std::collections::VecDeque;

/// How a log is laid out and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The length of a segment, a multiple of 4096. The largest record must fit with a block for the segment and
    /// less than three for its group.
    pub segment_bytes: usize,
    /// The number of writes that may be under way.
    pub writes_in_flight_max: usize,
    /// The length that a group may have, unless a single record is longer.
    pub group_bytes_max: usize,
    /// From how many pending bytes on a write does not wait for the one before.
    pub eager_bytes: usize,
    /// The number of segments that are prepared ahead.
    pub segments_ahead: usize,
    /// The number of segments without use that are kept to be used again, before they are removed.
    pub segments_spare_max: usize,
    /// Whether a written group is durable. Without it groups do not claim that those before them are, and a scan
    /// takes whatever is missing for a tail that was lost.
    pub durable_watermark: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 * 1024 * 1024,
            writes_in_flight_max: 4,
            group_bytes_max: 1024 * 1024,
            eager_bytes: 256 * 1024,
            segments_ahead: 1,
            segments_spare_max: 4,
            durable_watermark: true,
        }
    }
}

impl LogOptions {
    fn check(&self) {
        let segment = self.segment_bytes;
        assert!(
            segment.is_multiple_of(BLOCK_BYTES) && segment >= 4 * BLOCK_BYTES,
            "segment_bytes: {segment}"
        );
        assert!(self.writes_in_flight_max > 0 && self.segments_ahead > 0);
    }
}

/// The name of a write until it is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId(pub u64);

/// A write to carry out: aligned, of whole blocks, and of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Its name.
    pub id: WriteId,
    /// Where to.
    pub segment: SegmentNumber,
    /// The offset in the segment.
    pub offset: u64,
    /// Its length.
    pub len: usize,
}

#[derive(Debug)]
struct Pending {
    journal: JournalId,
    lsn: Lsn,
    record: Record,
    batch: Option<LaneTip>,
    bytes: u32,
}

/// A group on its way.
#[derive(Debug)]
struct InFlight {
    write: Write,
    header: GroupHeader,
    /// Until it is encoded.
    records: Vec<Pending>,
    /// The last record of each journal in it.
    ends: Vec<(JournalId, Lsn)>,
    /// The number of records appended up to its last one.
    appended: u64,
    encoded: bool,
    written: bool,
}

/// A trim that counts once all that was appended before it is durable.
#[derive(Debug)]
struct Trim {
    appended: u64,
    journal: JournalId,
    upto: Lsn,
}

/// The physical log of one core.
#[derive(Debug)]
pub struct Log {
    identity: LogIdentity,
    options: LogOptions,
    segments: Segments,
    /// The runs that the log consists of, this one last.
    runs: Vec<Run>,
    /// The last segment that was used before this run.
    used_before: SegmentNumber,
    votes_lost: bool,
    /// The last record appended to each journal.
    last: Vec<(JournalId, Lsn)>,
    /// Where each journal stands behind the last group planned.
    journals: Vec<JournalMark>,
    places: Places,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    /// The records appended by this process, and how many of them are durable.
    appended: u64,
    durable_appended: u64,
    trims: VecDeque<Trim>,
    next_group: GroupNumber,
    durable: GroupNumber,
    groups: VecDeque<InFlight>,
    /// What the last group planned says about those before it.
    stated: (GroupNumber, SegmentNumber),
    /// The last group with records.
    last_filled: GroupNumber,
    confirm: bool,
}

impl Log {
    /// An empty log.
    #[must_use]
    pub fn create(identity: LogIdentity, options: LogOptions) -> Self {
        let segments = Segments::new(&options, SegmentNumber(1));
        Self::start(identity, options, segments, Vec::new(), GroupNumber(0))
    }

    /// Goes on after `scan`, on a fresh segment: what was scanned is never overwritten.
    #[must_use]
    pub fn resume(identity: LogIdentity, options: LogOptions, scan: &Scan) -> Self {
        let segments = Segments::resume(&options, scan);
        let mark = |(journal, last): (&JournalId, &Lsn)| JournalMark {
            journal: *journal,
            last: *last,
            trimmed: scan.trimmed(*journal),
        };
        let journals = scan.last.iter().map(mark).collect();
        let mut log = Self::start(identity, options, segments, journals, scan.last_group);
        log.stated.0 = scan.watermark;
        let before = scan.runs.len().saturating_sub(RUNS_MAX - 1);
        log.runs.splice(0..0, scan.runs[before..].iter().copied());
        log.votes_lost = scan.votes_are_lost();
        scan.places.iter().for_each(|(journal, lsn, place)| log.places.set(*journal, *lsn, *place));
        scan.last.iter().for_each(|(journal, last)| log.places.note_durable(*journal, *last));
        log
    }

    fn start(
        identity: LogIdentity,
        options: LogOptions,
        segments: Segments,
        journals: Vec<JournalMark>,
        last: GroupNumber,
    ) -> Self {
        options.check();
        let stated = (last, segments.lowest().0);
        Self {
            identity,
            options,
            runs: vec![Run { first_segment: segments.first_planned(), first_group: last.next() }],
            used_before: segments.last_used(),
            segments,
            votes_lost: false,
            last: journals.iter().map(|mark| (mark.journal, mark.last)).collect(),
            journals,
            places: Places::default(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            appended: 0,
            durable_appended: 0,
            trims: VecDeque::new(),
            next_group: last.next(),
            durable: last,
            groups: VecDeque::new(),
            stated,
            last_filled: last,
            confirm: false,
        }
    }

    /// Queues a record for the next group; where it is a `batch`, the group's directory names it.
    ///
    /// # Panics
    /// When `lsn` is not the next one of `journal`, when more than [`JOURNALS_MAX`] journals share the log, or when
    /// the record does not fit into a segment: records are own and limited.
    pub fn append(&mut self, journal: JournalId, lsn: Lsn, record: Record, batch: Option<LaneTip>) {
        assert_eq!(lsn, self.last(journal).next(), "records of {journal:?} are consecutive");
        let bytes = u32::try_from(record.encoded_bytes()).expect("invariant: a record is limited");
        let alone = Sizes::default().and(record.kind(), bytes).expect("invariant: a record is limited");
        let room = self.options.segment_bytes - BLOCK_BYTES;
        assert!(
            alone.group_bytes() <= room,
            "a record of {bytes} bytes exceeds a segment: raise segment_bytes"
        );
        match self.last.iter_mut().find(|(other, _)| *other == journal) {
            Some((_, last)) => *last = lsn,
            None => self.last.push((journal, lsn)),
        }
        assert!(self.last.len() <= JOURNALS_MAX, "too many journals in one log");
        self.pending_bytes += bytes as usize;
        self.appended += 1;
        self.pending.push_back(Pending { journal, lsn, record, batch, bytes });
    }

    /// The last record appended to `journal`; 0 when there is none.
    #[must_use]
    pub fn last(&self, journal: JournalId) -> Lsn {
        self.last.iter().find(|(other, _)| *other == journal).map(|(_, last)| *last).unwrap_or_default()
    }

    /// The bytes of the records that are in no group yet.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// The number of records that are in no group yet.
    #[must_use]
    pub fn pending_records(&self) -> usize {
        self.pending.len()
    }

    /// The number of writes under way. One that is written counts as long as one before it is not: what is not
    /// known to be durable stays bounded.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.groups.len()
    }

    /// Whether a write now is worth it: what is pending forms one group while another is written, until it is so
    /// much that waiting would cost more than a further sync.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        let in_flight = self.in_flight();
        if in_flight >= self.options.writes_in_flight_max {
            return false;
        }
        match in_flight {
            0 => !self.pending.is_empty() || self.confirm_is_due(),
            _ => self.pending_bytes >= self.options.eager_bytes,
        }
    }

    /// Asks for a group without records, once nothing is pending or under way, if the last groups on disk are not
    /// yet known there to be durable, or segments without use are not yet known to be. Whoever is idle or stops can
    /// so have every record protected: only below a watermark is damage told from a torn tail.
    pub fn confirm(&mut self) {
        self.confirm = true;
    }

    fn confirm_is_due(&self) -> bool {
        let (watermark, lowest) = self.stated;
        let known = watermark >= self.last_filled || !self.options.durable_watermark;
        self.confirm
            && self.groups.is_empty()
            && self.pending.is_empty()
            && (!known || lowest < self.segments.lowest().0)
    }

    /// Forms the next group, if there is anything to write, a write may be added to those under way, and the segment
    /// is ready.
    pub fn next_write(&mut self) -> Option<Write> {
        if self.in_flight() >= self.options.writes_in_flight_max
            || (self.pending.is_empty() && !self.confirm_is_due())
        {
            return None;
        }
        let (count, sizes) = self.next_group_of_pending();
        let group_bytes = sizes.group_bytes();
        let (segment, offset) = self.segments.place(self.next_group, group_bytes)?;
        let header = self.next_header(segment, offset, sizes);
        let records: Vec<Pending> = self.pending.drain(..count).collect();
        let ends = self.note_ends(segment, &records);
        let write = Write { id: WriteId(self.next_group.0), segment, offset, len: group_bytes };
        self.stated = (header.watermark, header.lowest_segment);
        if count > 0 {
            self.last_filled = self.next_group;
        } else {
            self.confirm = false;
        }
        let appended = self.appended - self.pending.len() as u64;
        let (encoded, written) = (false, false);
        self.groups.push_back(InFlight { write, header, records, ends, appended, encoded, written });
        self.next_group = self.next_group.next();
        Some(write)
    }

    /// How many pending records the next group takes, and their sizes.
    fn next_group_of_pending(&self) -> (usize, Sizes) {
        let limit = self.options.group_bytes_max.min(self.options.segment_bytes - BLOCK_BYTES);
        let mut sizes = Sizes::default();
        let mut count = 0;
        for pending in &self.pending {
            let Some(more) = sizes.and(pending.record.kind(), pending.bytes) else { break };
            if count > 0 && more.group_bytes() > limit {
                break;
            }
            sizes = more;
            count += 1;
        }
        (count, sizes)
    }

    fn next_header(&self, segment: SegmentNumber, offset: u64, sizes: Sizes) -> GroupHeader {
        let (lowest_segment, lowest_group) = self.segments.lowest();
        GroupHeader {
            votes_lost: self.votes_lost,
            segment,
            offset,
            number: self.next_group,
            watermark: if self.options.durable_watermark { self.durable } else { GroupNumber(0) },
            lowest_segment,
            lowest_group,
            sizes,
            directory_checksum: 0,
            journals: self.journals.clone(),
            runs: self.runs.clone(),
            used_before: self.used_before,
        }
    }

    /// Notes where the journals stand behind a group.
    fn note_ends(&mut self, segment: SegmentNumber, records: &[Pending]) -> Vec<(JournalId, Lsn)> {
        let mut ends: Vec<(JournalId, Lsn)> = Vec::with_capacity(JOURNALS_MAX);
        for Pending { journal, lsn, bytes, .. } in records {
            self.pending_bytes -= *bytes as usize;
            match ends.iter_mut().find(|(other, _)| other == journal) {
                Some((_, end)) => *end = *lsn,
                None => ends.push((*journal, *lsn)),
            }
        }
        for (journal, end) in &ends {
            self.segments.note(segment, *journal, *end);
            match self.journals.iter_mut().find(|mark| mark.journal == *journal) {
                Some(mark) => mark.last = *end,
                None => {
                    self.journals.push(JournalMark { journal: *journal, last: *end, trimmed: Lsn(0) });
                }
            }
        }
        ends
    }

    /// Fills `out` with the bytes of a write. The records are let go.
    ///
    /// # Panics
    /// When there is no such write, when it was encoded before, or when `out` has not its length.
    pub fn encode(&mut self, id: WriteId, out: &mut [u8]) {
        let identity = self.identity;
        let group = group_mut(&mut self.groups, id);
        assert!(!group.encoded, "a write is encoded once");
        assert_eq!(out.len(), group.write.len);
        group.encoded = true;
        let records = std::mem::take(&mut group.records);
        let places = &mut self.places;
        encode_group(&identity, &mut group.header, &records, out, |journal, lsn, place| {
            places.set(journal, lsn, place);
        });
    }

    /// Notes that a write is durable. Adds to `durable` up to where each journal has become so.
    ///
    /// # Panics
    /// When there is no such write, or when it was not encoded.
    pub fn on_written(&mut self, id: WriteId, durable: &mut Vec<(JournalId, Lsn)>) {
        let group = group_mut(&mut self.groups, id);
        assert!(group.encoded, "a write is encoded before it is written");
        group.written = true;
        let start = durable.len();
        while self.groups.front().is_some_and(|group| group.written) {
            let Some(group) = self.groups.pop_front() else { break };
            self.durable = group.header.number;
            self.durable_appended = group.appended;
            self.segments.release_below(group.header.lowest_segment);
            for (journal, end) in group.ends {
                self.places.note_durable(journal, end);
                match durable[start..].iter_mut().find(|(other, _)| *other == journal) {
                    Some((_, upto)) => *upto = end,
                    None => durable.push((journal, end)),
                }
            }
        }
        self.apply_trims();
    }

    /// Notes that nothing of `journal` at or below `upto` is needed any more. It takes effect when all that was
    /// appended before, to any journal, is durable: what replaces the old records is so never behind them. Segments
    /// are released when a durable group has said that they are not needed.
    pub fn trim(&mut self, journal: JournalId, upto: Lsn) {
        let upto = upto.min(self.last(journal));
        self.trims.push_back(Trim { appended: self.appended, journal, upto });
        self.apply_trims();
    }

    fn apply_trims(&mut self) {
        let mut trimmed = false;
        while self.trims.front().is_some_and(|trim| trim.appended <= self.durable_appended) {
            let Some(trim) = self.trims.pop_front() else { break };
            if let Some(mark) = self.journals.iter_mut().find(|mark| mark.journal == trim.journal) {
                trimmed |= trim.upto > mark.trimmed;
                mark.trimmed = mark.trimmed.max(trim.upto);
                self.places.trim(trim.journal, trim.upto);
            }
        }
        if trimmed || self.segments.may_rise() {
            self.segments.raise_lowest(&self.journals);
        }
    }

    /// The next thing to do with the files of segments, in this order.
    pub fn next_action(&mut self) -> Option<SegmentAction> {
        self.segments.next_action()
    }

    /// The first block of a segment that is to be created or used again: it is in the file before its name is durable.
    #[must_use]
    pub fn first_block(&self, segment: SegmentNumber) -> Vec<u8> {
        let run = self.runs.last().expect("invariant: a log has a run").first_segment;
        segment_header(&self.identity, segment, run, self.used_before)
    }

    /// What is to be known beside the log of its files once `upto` is made.
    #[must_use]
    pub fn segments_made(&self, upto: SegmentNumber) -> SegmentsMade {
        let (needed_from, used_before) = (self.segments.needed_from(), self.used_before);
        let run = self.runs.last().expect("invariant: a log has a run").first_segment;
        SegmentsMade { upto, needed_from, run, used_before }
    }

    /// Notes that a segment that was created or recycled is ready: the file has its full length and is, like its
    /// directory entry, durable.
    ///
    /// # Panics
    /// When it was not asked for.
    pub fn on_segment_ready(&mut self, segment: SegmentNumber) {
        self.segments.on_ready(segment);
    }

    /// Whether the next group may have to wait for a segment to become ready.
    #[must_use]
    pub fn waits_for_segment(&self) -> bool {
        let (_, sizes) = self.next_group_of_pending();
        !self.pending.is_empty() && !self.segments.has_room(sizes.group_bytes())
    }

    /// The segments that hold something needed, ascending.
    pub fn segments_needed(&self) -> impl Iterator<Item = SegmentNumber> + '_ {
        self.segments.needed().map(|(number, _)| number)
    }

    /// The bytes of all files of the log: in use, prepared, and kept to be used again.
    #[must_use]
    pub fn bytes_on_disk(&self) -> u64 {
        self.segments.bytes()
    }

    /// The bytes of the segments that hold something needed.
    #[must_use]
    pub fn bytes_needed(&self) -> u64 {
        self.segments.needed().map(|(_, bytes)| bytes).sum()
    }

    /// Up to where `journal` is trimmed, in effect.
    #[must_use]
    pub fn trimmed(&self, journal: JournalId) -> Lsn {
        self.journals.iter().find(|mark| mark.journal == journal).map(|mark| mark.trimmed).unwrap_or_default()
    }

    /// Where a record lies that is durable and not trimmed; nothing of one that was lost.
    #[must_use]
    pub fn place(&self, journal: JournalId, lsn: Lsn) -> Option<RecordPlace> {
        self.places.get(journal, lsn)
    }

    /// A record cannot be read any more from where it lies: whoever wrote it is told so once.
    pub fn lose(&mut self, journal: JournalId, lsn: Lsn) {
        self.places.lose(journal, lsn);
    }

    /// The segments that hold something needed and are not written to any more, ascending.
    pub fn closed_segments(&self) -> impl Iterator<Item = SegmentNumber> + '_ {
        self.segments.closed()
    }

    /// Where the records lie that stand in a segment, are durable and not trimmed.
    #[must_use]
    pub fn places_in(&self, segment: SegmentNumber) -> Vec<(JournalId, Lsn, RecordPlace)> {
        let mut found = Vec::new();
        for (journal, before, upto) in self.segments.records_in(segment) {
            let first = before.max(self.trimmed(journal)).next();
            let places = (first.0..=upto.0).map(Lsn).map(|lsn| (journal, lsn, self.place(journal, lsn)));
            let here = places.filter_map(|(journal, lsn, place)| Some((journal, lsn, place?)));
            found.extend(here.filter(|(.., place)| place.segment == segment));
        }
        found
    }

    /// The group up to which all are durable.
    #[must_use]
    pub fn durable(&self) -> GroupNumber {
        self.durable
    }
}

fn group_mut(groups: &mut VecDeque<InFlight>, id: WriteId) -> &mut InFlight {
    let group = groups.iter_mut().find(|group| group.write.id == id && !group.written);
    group.expect("invariant: a write is reported once, by the name it was given")
}

fn encode_group(
    identity: &LogIdentity,
    header: &mut GroupHeader,
    records: &[Pending],
    out: &mut [u8],
    mut placed: impl FnMut(JournalId, Lsn, RecordPlace),
) {
    let copy = header.sizes.copy_bytes();
    let directory_end = GROUP_HEADER_BYTES + header.sizes.directory_bytes();
    let (mut critical_at, mut batch_at) = (directory_end, copy);
    for (index, pending) in records.iter().enumerate() {
        let kind = pending.record.kind();
        let at = if kind.is_critical() { &mut critical_at } else { &mut batch_at };
        let bytes = &mut out[*at..*at + pending.bytes as usize];
        let offset = header.offset + *at as u64;
        pending.record.encode(bytes);
        *at += bytes.len();
        let checksum = Record::checksum(kind, bytes);
        let Pending { journal, lsn, batch, bytes, .. } = *pending;
        let entry_at = GROUP_HEADER_BYTES + index * ENTRY_BYTES;
        let entry = Entry { journal, lsn, kind, bytes, checksum, batch };
        placed(journal, lsn, RecordPlace { segment: header.segment, offset, bytes, checksum, kind });
        entry.encode(&mut out[entry_at..entry_at + ENTRY_BYTES]);
    }
    assert_eq!((critical_at, batch_at), (copy, copy + header.sizes.batch_bytes as usize));
    header.directory_checksum = crc32c::crc32c(&out[GROUP_HEADER_BYTES..directory_end]);
    let tail = out.len() - copy;
    out[batch_at..tail].fill(0);
    header.seal(identity, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::{CoreId, ReplicaId, View};
    use quorate_wire::{Frame, Kind};

    const VOTES: JournalId = JournalId(0);
    const BATCHES: JournalId = JournalId(1);

    fn log(options: LogOptions) -> Log {
        let (cluster_id, directory) = ([1; 32], [2; 16]);
        let identity = LogIdentity { cluster_id, replica: ReplicaId(0), core: CoreId(0), directory };
        let mut log = Log::create(identity, options);
        act(&mut log);
        log
    }

    fn act(log: &mut Log) -> Vec<SegmentAction> {
        let actions: Vec<SegmentAction> = std::iter::from_fn(|| log.next_action()).collect();
        for action in &actions {
            if let SegmentAction::Create { number } | SegmentAction::Recycle { to: number, .. } = action {
                log.on_segment_ready(*number);
            }
        }
        actions
    }

    fn vote(log: &mut Log) {
        let lsn = log.last(VOTES).next();
        log.append(VOTES, lsn, Record::ViewState { view: View(lsn.0) }, None);
    }

    fn batch(log: &mut Log, bytes: usize) {
        let lsn = log.last(BATCHES).next();
        let frame = Frame::encode(Kind::Batch, |out| out.resize(out.len() + bytes, 0));
        log.append(BATCHES, lsn, Record::Batch(frame, quorate_types::Why::OwnLink), None);
    }

    fn write(log: &mut Log) -> WriteId {
        let write = log.next_write().expect("there is something to write");
        log.encode(write.id, &mut vec![0; write.len]);
        write.id
    }

    fn written(log: &mut Log, id: WriteId) -> Vec<(JournalId, Lsn)> {
        let mut durable = Vec::new();
        log.on_written(id, &mut durable);
        durable
    }

    #[test]
    fn what_is_appended_while_a_write_is_under_way_shares_the_next_one() {
        let mut log = log(LogOptions { eager_bytes: 10_000, ..LogOptions::default() });
        assert!(!log.wants_write());
        vote(&mut log);
        assert!(log.wants_write());
        let first = write(&mut log);
        (0..10).for_each(|_| vote(&mut log));
        assert!(!log.wants_write(), "little waits for the write before");
        batch(&mut log, 10_000);
        assert!(log.wants_write(), "much does not");
        let second = write(&mut log);
        assert_eq!((log.in_flight(), log.pending_records(), log.pending_bytes()), (2, 0, 0));
        assert_eq!(written(&mut log, first), [(VOTES, Lsn(1))]);
        assert_eq!(written(&mut log, second), [(VOTES, Lsn(11)), (BATCHES, Lsn(1))]);
    }

    #[test]
    fn durable_is_what_has_no_gap_before_it() {
        let mut log = log(LogOptions::default());
        let mut writes = Vec::new();
        for _ in 0..3 {
            vote(&mut log);
            writes.push(write(&mut log));
        }
        assert_eq!(written(&mut log, writes[2]), []);
        assert_eq!(written(&mut log, writes[0]), [(VOTES, Lsn(1))]);
        assert_eq!(written(&mut log, writes[1]), [(VOTES, Lsn(3))]);
        assert_eq!((log.durable(), log.in_flight()), (GroupNumber(3), 0));
    }

    #[test]
    fn no_more_writes_are_under_way_than_allowed() {
        let mut log = log(LogOptions { writes_in_flight_max: 2, ..LogOptions::default() });
        let mut writes = Vec::new();
        for _ in 0..2 {
            vote(&mut log);
            writes.push(write(&mut log));
        }
        vote(&mut log);
        assert_eq!(log.next_write(), None);
        assert_eq!(written(&mut log, writes[1]), []);
        assert_eq!(log.next_write(), None, "the first one is not durable yet");
        written(&mut log, writes[0]);
        assert!(log.next_write().is_some());
    }

    #[test]
    fn a_group_waits_for_its_segment() {
        let mut log = log(LogOptions { segment_bytes: 4 * BLOCK_BYTES, ..LogOptions::default() });
        batch(&mut log, 9000);
        let first = write(&mut log);
        written(&mut log, first);
        batch(&mut log, 9000);
        assert!(log.waits_for_segment());
        assert_eq!(log.next_write(), None);
        assert_eq!(act(&mut log), [SegmentAction::Create { number: SegmentNumber(2) }]);
        assert!(!log.waits_for_segment());
        let next = log.next_write().map(|write| (write.segment, write.offset));
        assert_eq!(next, Some((SegmentNumber(2), BLOCK_BYTES as u64)));
    }

    #[test]
    fn a_trim_counts_when_what_was_appended_before_is_durable() {
        let mut log = log(LogOptions::default());
        vote(&mut log);
        let first = write(&mut log);
        vote(&mut log);
        log.trim(VOTES, Lsn(1));
        written(&mut log, first);
        assert_eq!(log.trimmed(VOTES), Lsn(0), "what replaces it is not durable");
        let second = write(&mut log);
        written(&mut log, second);
        assert_eq!(log.trimmed(VOTES), Lsn(1));
    }

    #[test]
    fn a_segment_is_used_again_once_a_durable_group_has_given_it_up() {
        let segment_bytes = 4 * BLOCK_BYTES;
        let mut log = log(LogOptions { segment_bytes, segments_spare_max: 0, ..LogOptions::default() });
        for _ in 0..3 {
            batch(&mut log, 9000);
            let id = write(&mut log);
            written(&mut log, id);
            act(&mut log);
        }
        log.trim(BATCHES, Lsn(2));
        assert_eq!(log.segments_needed().collect::<Vec<_>>(), [SegmentNumber(3)]);
        assert_eq!((log.bytes_needed(), log.bytes_on_disk()), (16_384, 4 * 16_384));
        assert_eq!(act(&mut log), [], "nothing on disk says so yet");
        log.confirm();
        let id = write(&mut log);
        assert!(act(&mut log).iter().all(|action| matches!(action, SegmentAction::Create { .. })));
        written(&mut log, id);
        let removed: Vec<SegmentAction> = act(&mut log);
        assert_eq!(removed.len(), 2);
        assert!(!log.wants_write(), "a confirmation needs no other");
    }

    #[test]
    #[should_panic(expected = "are consecutive")]
    fn a_gap_in_a_journal_is_refused() {
        let mut log = log(LogOptions::default());
        log.append(VOTES, Lsn(2), Record::ViewState { view: View(1) }, None);
    }
}
