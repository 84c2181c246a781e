//! The bytes of segments and groups.
//!
//! A **segment** is a file of fixed length. Its first block names it; groups follow, each at a multiple of 4096
//! bytes. A **group** is what one write brings to the disk:
//!
//! | part | content |
//! | --- | --- |
//! | header | 512 bytes, below |
//! | directory | 64 bytes per record, in the order appended |
//! | critical records | the bytes of all records but batches, in order |
//! | batches | the frames of the batches, in order |
//! | padding | zeroes, up to a whole number of blocks |
//! | directory again | as above |
//! | critical records again | as above |
//! | header again | as above; it ends with the group |
//!
//! Where there are critical records, a whole block lies between the two copies: neither one damaged sector nor two
//! neighbouring ones lose a vote. Batches stand once; they can be had from others, by the names that the directory has of
//! them.
//!
//! In every version of the format, magic, version, replica, core, cluster, mark of the data directory and segment stand
//! where they stand here, and so does the checksum of a group's header: a header that this version cannot read is so
//! known to be whole and own, and is left to the version that wrote it.
//!
//! | offset | header of a group | |
//! | --- | --- | --- |
//! | 0 | magic `QUORGRUP` | 8 bytes |
//! | 8 | format version | u16, 3 |
//! | 10 | flags: 1 = votes of this log were lost before | u16 |
//! | 12 | replica, core, number of journals, number of runs | 4 × u8 |
//! | 16 | first half of the cluster's id | 16 bytes |
//! | 32 | mark of the data directory | 16 bytes |
//! | 48 | segment, offset in it | 2 × u64 |
//! | 64 | number of the group | u64 |
//! | 72 | durable watermark: the group up to which all were durable | u64 |
//! | 80 | lowest segment needed, its first group | 2 × u64 |
//! | 96 | bytes of the group | u32 |
//! | 100 | records, bytes of critical ones, bytes of batches | 3 × u32 |
//! | 112 | crc32c of the directory | u32 |
//! | 116 | zero | u32 |
//! | 120 | per journal: its number, its last record before this group, up to which nothing is needed | 4 × 3 × u64 |
//! | 216 | per run, ascending, the own one last: its first segment, its first group | 16 × 2 × u64 |
//! | 472 | the last segment that was used before the own run | u64 |
//! | 480 | zero | 28 bytes |
//! | 508 | crc32c of bytes 0 to 507 | u32 |
//!
//! | offset | entry of a directory | |
//! | --- | --- | --- |
//! | 0 | log sequence number | u64 |
//! | 8 | bytes of the record | u32 |
//! | 12 | crc32c of the record (of a batch: of its frame's header, which holds the payload's) | u32 |
//! | 16 | journal, kind | 2 × u8 |
//! | 18 | of a batch: origin and link of its lane | 2 × u8 |
//! | 20 | of a batch: its number in the lane, or zero where it has no name | u64 |
//! | 28 | of a batch: the digest of its chain | 32 bytes |
//! | 60 | zero | 4 bytes |
//!
//! | offset | first block of a segment | |
//! | --- | --- | --- |
//! | 0 | magic `QUORSEGM` | 8 bytes |
//! | 8 | format version, zero, replica, core, zero | u16, u16, 2 × u8, u16 |
//! | 16 | first half of the cluster's id, mark of the data directory | 2 × 16 bytes |
//! | 48 | segment, first segment of its run, last one that was used before | 3 × u64 |
//! | 72 | crc32c of bytes 0 to 71 | u32 |
//!
//! The first block is on the disk before the file is used. It says which numbers were never used, so that a file that
//! is gone is told from one that never was.

use crate::bytes::{Reader, Writer};
use crate::{RecordError, RecordKind};
use quorate_types::{CoreId, JournalId, LaneId, LaneNumber, LinkId, Lsn, ReplicaId};
use quorate_wire::LaneTip;
use std::fmt;

/// What groups and segments are multiples of.
pub const BLOCK_BYTES: usize = 4096;
/// The number of journals that may share one log: a core has at most two.
pub const JOURNALS_MAX: usize = 4;

/// The number of runs that a group names. Those that hold nothing needed are left out.
pub(crate) const RUNS_MAX: usize = 16;

pub(crate) const GROUP_HEADER_BYTES: usize = 512;
pub(crate) const ENTRY_BYTES: usize = 64;
const SEGMENT_HEADER_BYTES: usize = 76;
const GROUP_MAGIC: [u8; 8] = *b"QUORGRUP";
const SEGMENT_MAGIC: [u8; 8] = *b"QUORSEGM";
const VERSION: u16 = 3;
const VOTES_LOST: u16 = 1;
const RUNS_AT: usize = 216;
const USED_BEFORE_AT: usize = 472;
const _: () = assert!(RUNS_AT + 16 * RUNS_MAX == USED_BEFORE_AT && USED_BEFORE_AT + 8 < GROUP_HEADER_BYTES);

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// The number after this one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }

            /// The number before this one, or zero at zero.
            #[must_use]
            pub fn previous(self) -> Self {
                Self(self.0.saturating_sub(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number!(
    /// The number of a segment, from 1; never given twice.
    SegmentNumber
);
number!(
    /// The number of a group, from 1; 0 is "none". Consecutive along the log.
    GroupNumber
);

/// Whose log it is. Groups of another log are recognised and never read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    /// The cluster.
    pub cluster_id: [u8; 32],
    /// The replica.
    pub replica: ReplicaId,
    /// The core.
    pub core: CoreId,
    /// What tells this data directory from every other, drawn when it is formatted. As nobody else knows it, no
    /// bytes of a client that stand in a damaged group are ever taken for a group.
    pub directory: [u8; 16],
}

impl LogIdentity {
    fn write(&self, writer: &mut Writer<'_>) {
        writer.bytes(&self.cluster_id[..16]);
        writer.bytes(&self.directory);
    }

    fn matches(&self, replica: u8, core: u8, cluster: [u8; 16], directory: [u8; 16]) -> bool {
        (replica, core) == (self.replica.0, self.core.0)
            && cluster[..] == self.cluster_id[..16]
            && directory == self.directory
    }
}

/// Where a journal stood when a group was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JournalMark {
    pub(crate) journal: JournalId,
    /// Its last record before the group.
    pub(crate) last: Lsn,
    /// Nothing at or below is needed.
    pub(crate) trimmed: Lsn,
}

/// The header of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    pub(crate) votes_lost: bool,
    pub(crate) segment: SegmentNumber,
    pub(crate) offset: u64,
    pub(crate) number: GroupNumber,
    pub(crate) watermark: GroupNumber,
    pub(crate) lowest_segment: SegmentNumber,
    pub(crate) lowest_group: GroupNumber,
    pub(crate) sizes: Sizes,
    pub(crate) directory_checksum: u32,
    pub(crate) journals: Vec<JournalMark>,
    /// At least the own one.
    pub(crate) runs: Vec<Run>,
    /// The last segment that was used before the own run began.
    pub(crate) used_before: SegmentNumber,
}

/// One life of the process. It owns the groups from its first one on, up to the first one of the next run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first_segment: SegmentNumber,
    pub(crate) first_group: GroupNumber,
}

/// What the length of a group follows from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) records: u32,
    pub(crate) critical_bytes: u32,
    pub(crate) batch_bytes: u32,
}

impl Sizes {
    /// With one more record.
    pub(crate) fn and(self, kind: RecordKind, bytes: u32) -> Option<Self> {
        let mut sizes = self;
        sizes.records = sizes.records.checked_add(1)?;
        let part = if kind.is_critical() { &mut sizes.critical_bytes } else { &mut sizes.batch_bytes };
        *part = part.checked_add(bytes)?;
        Some(sizes)
    }

    pub(crate) fn directory_bytes(self) -> usize {
        self.records as usize * ENTRY_BYTES
    }

    /// The length of header, directory and critical records, which all stand twice.
    pub(crate) fn copy_bytes(self) -> usize {
        GROUP_HEADER_BYTES + self.directory_bytes() + self.critical_bytes as usize
    }

    /// The length of the group.
    pub(crate) fn group_bytes(self) -> usize {
        let copy = self.copy_bytes();
        let whole = (2 * copy + self.batch_bytes as usize).next_multiple_of(BLOCK_BYTES);
        if self.critical_bytes == 0 {
            return whole;
        }
        // The second copy begins in the second block behind the first copy, or later.
        let apart = copy.next_multiple_of(BLOCK_BYTES) + BLOCK_BYTES + copy;
        whole.max(apart.next_multiple_of(BLOCK_BYTES))
    }
}

/// What stands where the header of a group was looked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeaderFound {
    /// A header of this log, at its place or not.
    Valid(GroupHeader),
    /// A header of another log.
    Foreign,
    /// A whole header of this log, of a segment, that says something which this version does not know.
    Unknown(SegmentNumber),
    /// The beginning of a header, and no more.
    Broken,
    /// No header.
    Nothing,
}

impl GroupHeader {
    fn encode(&self, identity: &LogIdentity, out: &mut [u8]) {
        assert_eq!(out.len(), GROUP_HEADER_BYTES);
        assert!(self.journals.len() <= JOURNALS_MAX && (1..=RUNS_MAX).contains(&self.runs.len()));
        out.fill(0);
        let mut writer = Writer::new(out);
        writer.bytes(&GROUP_MAGIC);
        writer.u16(VERSION);
        writer.u16(if self.votes_lost { VOTES_LOST } else { 0 });
        writer.u8(identity.replica.0);
        writer.u8(identity.core.0);
        for count in [self.journals.len(), self.runs.len()] {
            writer.u8(u8::try_from(count).expect("invariant: just checked"));
        }
        identity.write(&mut writer);
        for number in [self.segment.0, self.offset, self.number.0, self.watermark.0] {
            writer.u64(number);
        }
        writer.u64(self.lowest_segment.0);
        writer.u64(self.lowest_group.0);
        writer.count(self.sizes.group_bytes());
        for number in [self.sizes.records, self.sizes.critical_bytes, self.sizes.batch_bytes] {
            writer.u32(number);
        }
        writer.u32(self.directory_checksum);
        writer.u32(0);
        for mark in &self.journals {
            writer.u64(u64::from(mark.journal.0));
            writer.u64(mark.last.0);
            writer.u64(mark.trimmed.0);
        }
        let mut writer = Writer::new(&mut out[RUNS_AT..]);
        for run in &self.runs {
            writer.u64(run.first_segment.0);
            writer.u64(run.first_group.0);
        }
        Writer::new(&mut out[USED_BEFORE_AT..]).u64(self.used_before.0);
        let checksum = crc32c::crc32c(&out[..GROUP_HEADER_BYTES - 4]);
        out[GROUP_HEADER_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Completes a group in which directory and critical records stand behind the place of the header: writes the
    /// header, and all three again at the end.
    pub(crate) fn seal(&self, identity: &LogIdentity, group: &mut [u8]) {
        let copy = self.sizes.copy_bytes();
        let end = group.len();
        assert_eq!(end, self.sizes.group_bytes());
        self.encode(identity, &mut group[..GROUP_HEADER_BYTES]);
        group.copy_within(GROUP_HEADER_BYTES..copy, end - copy);
        group.copy_within(..GROUP_HEADER_BYTES, end - GROUP_HEADER_BYTES);
    }

    /// Reads what stands at the beginning of `bytes`.
    pub(crate) fn find(identity: &LogIdentity, bytes: &[u8]) -> HeaderFound {
        if !bytes.starts_with(&GROUP_MAGIC) {
            return HeaderFound::Nothing;
        }
        let Some(header) = bytes.first_chunk::<GROUP_HEADER_BYTES>() else { return HeaderFound::Broken };
        let (content, checksum) = header.split_at(GROUP_HEADER_BYTES - 4);
        if crc32c::crc32c(content).to_le_bytes() != checksum {
            return HeaderFound::Broken;
        }
        let mut reader = Reader::new(&content[GROUP_MAGIC.len()..]);
        Self::read(identity, &mut reader).unwrap_or(HeaderFound::Broken)
    }

    fn read(identity: &LogIdentity, reader: &mut Reader<'_>) -> Option<HeaderFound> {
        let (version, flags) = (reader.u16()?, reader.u16()?);
        let [replica, core, journals, runs] = reader.array()?;
        if !identity.matches(replica, core, reader.array()?, reader.array()?) {
            return Some(HeaderFound::Foreign);
        }
        let segment = SegmentNumber(reader.u64()?);
        if version != VERSION || flags & !VOTES_LOST != 0 {
            return Some(HeaderFound::Unknown(segment));
        }
        let offset = reader.u64()?;
        let (number, watermark) = (GroupNumber(reader.u64()?), GroupNumber(reader.u64()?));
        let (lowest_segment, lowest_group) = (SegmentNumber(reader.u64()?), GroupNumber(reader.u64()?));
        let bytes = reader.u32()? as usize;
        let sizes =
            Sizes { records: reader.u32()?, critical_bytes: reader.u32()?, batch_bytes: reader.u32()? };
        let directory_checksum = reader.u32()?;
        reader.u32()?;
        let mut marks = Vec::with_capacity(JOURNALS_MAX);
        for _ in 0..JOURNALS_MAX {
            let journal = JournalId(u8::try_from(reader.u64()?).ok()?);
            marks.push(JournalMark { journal, last: Lsn(reader.u64()?), trimmed: Lsn(reader.u64()?) });
        }
        let mut own_runs = Vec::with_capacity(RUNS_MAX);
        for _ in 0..RUNS_MAX {
            let (first_segment, first_group) = (SegmentNumber(reader.u64()?), GroupNumber(reader.u64()?));
            own_runs.push(Run { first_segment, first_group });
        }
        let used_before = SegmentNumber(reader.u64()?);
        let (journals, runs) = (usize::from(journals), usize::from(runs));
        let counts = journals <= JOURNALS_MAX && (1..=RUNS_MAX).contains(&runs);
        if !counts || bytes != sizes.group_bytes() || number == GroupNumber(0) {
            return None;
        }
        marks.truncate(journals);
        own_runs.truncate(runs);
        let votes_lost = flags & VOTES_LOST != 0;
        Some(HeaderFound::Valid(Self {
            votes_lost,
            segment,
            offset,
            number,
            watermark,
            lowest_segment,
            lowest_group,
            sizes,
            directory_checksum,
            journals: marks,
            runs: own_runs,
            used_before,
        }))
    }

    /// The run that wrote it.
    pub(crate) fn run(&self) -> Run {
        *self.runs.last().expect("invariant: checked when it was read")
    }
}

/// The entry of a record in the directory of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) journal: JournalId,
    pub(crate) lsn: Lsn,
    pub(crate) kind: RecordKind,
    pub(crate) bytes: u32,
    pub(crate) checksum: u32,
    /// Which batch it is, if it is one.
    pub(crate) batch: Option<LaneTip>,
}

impl Entry {
    pub(crate) fn encode(&self, out: &mut [u8]) {
        assert_eq!(out.len(), ENTRY_BYTES);
        let mut writer = Writer::new(out);
        writer.u64(self.lsn.0);
        writer.u32(self.bytes);
        writer.u32(self.checksum);
        writer.u8(self.journal.0);
        writer.u8(self.kind as u8);
        let (lane, upto, chain) =
            self.batch.map_or(([0; 2], 0, [0; 32]), |tip| (tip.lane.to_bytes(), tip.upto.0, tip.chain.0));
        writer.bytes(&lane);
        writer.u64(upto);
        writer.bytes(&chain);
        writer.u32(0);
    }

    fn decode(bytes: &[u8; ENTRY_BYTES]) -> Result<Self, RecordError> {
        let mut reader = Reader::new(bytes);
        let whole = "invariant: an entry has this length";
        let (lsn, bytes) = (Lsn(reader.u64().expect(whole)), reader.u32().expect(whole));
        let (checksum, journal) = (reader.u32().expect(whole), JournalId(reader.u8().expect(whole)));
        let kind = RecordKind::from_number(reader.u8().expect(whole))?;
        let (origin, link) = (ReplicaId(reader.u8().expect(whole)), LinkId(reader.u8().expect(whole)));
        let (upto, chain) = (LaneNumber(reader.u64().expect(whole)), reader.digest().expect(whole));
        let lane = LaneId { origin, link };
        let batch = (upto > LaneNumber(0)).then_some(LaneTip { lane, upto, chain });
        Ok(Self { journal, lsn, kind, bytes, checksum, batch })
    }
}

/// What stands where the directory of a group was looked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Directory {
    Whole(Vec<Entry>),
    /// It is whole, and names something that this version does not know.
    Unknown(RecordError),
    Damaged,
}

impl Directory {
    /// Reads a directory and compares it with the header that announces it.
    pub(crate) fn read(header: &GroupHeader, bytes: &[u8]) -> Self {
        if crc32c::crc32c(bytes) != header.directory_checksum || bytes.len() != header.sizes.directory_bytes()
        {
            return Self::Damaged;
        }
        let mut entries = Vec::with_capacity(bytes.len() / ENTRY_BYTES);
        let mut sizes = Some(Sizes::default());
        for entry in bytes.as_chunks().0 {
            match Entry::decode(entry) {
                Ok(entry) => {
                    sizes = sizes.and_then(|sizes| sizes.and(entry.kind, entry.bytes));
                    entries.push(entry);
                }
                Err(unknown) => return Self::Unknown(unknown),
            }
        }
        if sizes == Some(header.sizes) { Self::Whole(entries) } else { Self::Damaged }
    }
}

/// Makes the first block of a segment: it belongs to a run that begins with segment `run`, before which `used_before`
/// was the last one that was used.
pub(crate) fn segment_header(
    identity: &LogIdentity,
    segment: SegmentNumber,
    run: SegmentNumber,
    used_before: SegmentNumber,
) -> Vec<u8> {
    let mut out = vec![0; BLOCK_BYTES];
    let mut writer = Writer::new(&mut out);
    writer.bytes(&SEGMENT_MAGIC);
    writer.u16(VERSION);
    writer.u16(0);
    writer.u8(identity.replica.0);
    writer.u8(identity.core.0);
    writer.u16(0);
    identity.write(&mut writer);
    for number in [segment, run, used_before] {
        writer.u64(number.0);
    }
    let end = writer.at();
    assert_eq!(end, SEGMENT_HEADER_BYTES - 4);
    let checksum = crc32c::crc32c(&out[..end]);
    out[end..SEGMENT_HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    out
}

/// What the first block of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentHeader {
    /// It names this segment of this log.
    Own,
    /// It names another segment of this log: the file was to be used again, and that was cut short.
    Other(SegmentNumber),
    /// It names another log.
    Foreign,
    /// It is of this log, in a version of the format that this one does not know.
    Unknown,
    /// It is empty, as in a file whose preparation was cut short.
    Blank,
    /// It is neither.
    Damaged,
}

/// What the first block of a segment says of the numbers before its run: those between the two were never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unused {
    pub(crate) used_before: SegmentNumber,
    pub(crate) run: SegmentNumber,
}

impl SegmentHeader {
    pub(crate) fn find(
        identity: &LogIdentity,
        number: SegmentNumber,
        bytes: &[u8],
    ) -> (Self, Option<Unused>) {
        let Some(header) = bytes.first_chunk::<SEGMENT_HEADER_BYTES>() else { return (Self::Blank, None) };
        if header.iter().all(|byte| *byte == 0) {
            return (Self::Blank, None);
        }
        let (content, checksum) = header.split_at(SEGMENT_HEADER_BYTES - 4);
        if !content.starts_with(&SEGMENT_MAGIC) || crc32c::crc32c(content).to_le_bytes() != checksum {
            return (Self::Damaged, None);
        }
        let mut reader = Reader::new(&content[SEGMENT_MAGIC.len()..]);
        Self::read(identity, number, &mut reader).unwrap_or((Self::Damaged, None))
    }

    fn read(
        identity: &LogIdentity,
        number: SegmentNumber,
        reader: &mut Reader<'_>,
    ) -> Option<(Self, Option<Unused>)> {
        let version = reader.u16()?;
        reader.u16()?;
        let [replica, core, _, _] = reader.array()?;
        if !identity.matches(replica, core, reader.array()?, reader.array()?) {
            return Some((Self::Foreign, None));
        }
        if version != VERSION {
            return Some((Self::Unknown, None));
        }
        let found = SegmentNumber(reader.u64()?);
        let unused = Unused { run: SegmentNumber(reader.u64()?), used_before: SegmentNumber(reader.u64()?) };
        Some((if found == number { Self::Own } else { Self::Other(found) }, Some(unused)))
    }
}
