//! The log of one core and its segments.

use super::{land, put};
use crate::random::Random;
use quorate_journal::{
    BLOCK_BYTES, Log, LogIdentity, LogOptions, Record, Repair, Scan, Scanner, SegmentAction, SegmentNumber,
    SegmentsMade, Write, WriteId,
};
use quorate_types::{JournalId, Lsn};
use quorate_wire::LaneTip;
use std::collections::{BTreeMap, VecDeque};

/// The log of one core, and the files that it has planned.
#[derive(Debug)]
pub struct LogDisk {
    identity: LogIdentity,
    options: LogOptions,
    log: Log,
    segments: BTreeMap<SegmentNumber, Vec<u8>>,
    /// The writes under way, with their bytes.
    writes: BTreeMap<WriteId, (Write, Vec<u8>)>,
    /// What is to be done with segments, the first of it under way if `is_making`.
    actions: VecDeque<SegmentAction>,
    is_making: bool,
    /// What is known beside the log of its files.
    made: SegmentsMade,
    /// How often something was appended or written; tells whether there was quiet.
    activity: u64,
}

impl LogDisk {
    /// An empty log.
    #[must_use]
    pub fn create(identity: LogIdentity, options: LogOptions) -> Self {
        let scan = Scanner::new(identity).finish();
        Self {
            identity,
            options,
            log: Log::resume(identity, options, &scan),
            segments: BTreeMap::new(),
            writes: BTreeMap::new(),
            actions: VecDeque::new(),
            is_making: false,
            made: SegmentsMade::default(),
            activity: 0,
        }
    }

    /// The position that is due next in a journal.
    #[must_use]
    pub fn due(&self, journal: JournalId) -> Lsn {
        self.log.last(journal).next()
    }

    /// Queues a record.
    pub fn append(&mut self, journal: JournalId, lsn: Lsn, record: Record, batch: Option<LaneTip>) {
        self.activity += 1;
        self.log.append(journal, lsn, record, batch);
    }

    /// Nothing up to a position is needed any more.
    pub fn trim(&mut self, journal: JournalId, upto: Lsn) {
        self.log.trim(journal, upto);
    }

    /// Begins the next write, if one is worth it.
    pub fn begin_write(&mut self) -> Option<(WriteId, usize)> {
        if !self.log.wants_write() {
            return None;
        }
        let write = self.log.next_write()?;
        let mut bytes = vec![0; write.len];
        self.log.encode(write.id, &mut bytes);
        self.writes.insert(write.id, (write, bytes));
        Some((write.id, write.len))
    }

    /// A write has reached the disk. Adds what is durable by it.
    pub fn end_write(&mut self, id: WriteId, durable: &mut Vec<(JournalId, Lsn)>) {
        let (write, bytes) = self.writes.remove(&id).expect("invariant: a write ends once");
        let segment = self.segments.get_mut(&write.segment);
        let segment = segment.expect("invariant: the log writes to segments that are ready");
        let offset = usize::try_from(write.offset).expect("invariant: segments are small");
        put(segment, offset, &bytes);
        self.activity += 1;
        self.log.on_written(id, durable);
    }

    /// Reads a record back; nothing if it is not durable, trimmed, or damaged.
    #[must_use]
    pub fn read_back(&self, journal: JournalId, lsn: Lsn) -> Option<Record> {
        let place = self.log.place(journal, lsn)?;
        let start = usize::try_from(place.offset).expect("invariant: segments are small");
        let bytes = self.segments.get(&place.segment)?.get(start..start + place.bytes as usize)?;
        place.record(bytes)
    }

    /// Whether a record is durable and not trimmed.
    #[must_use]
    pub fn needs(&self, journal: JournalId, lsn: Lsn) -> bool {
        self.log.place(journal, lsn).is_some()
    }

    /// Takes what is to be done with segments; says whether the next of it begins now.
    pub fn begin_action(&mut self) -> bool {
        self.actions.extend(std::iter::from_fn(|| self.log.next_action()));
        if self.is_making || self.actions.is_empty() {
            return false;
        }
        self.is_making = true;
        true
    }

    /// What began with [`LogDisk::begin_action`] is done.
    pub fn end_action(&mut self) {
        self.is_making = false;
        let action = self.actions.pop_front().expect("invariant: an action ends once");
        let ready = self.act(action);
        if let Some(number) = ready {
            self.made = self.log.segments_made(number);
            self.log.on_segment_ready(number);
        }
    }

    fn act(&mut self, action: SegmentAction) -> Option<SegmentNumber> {
        match action {
            SegmentAction::Create { number } => {
                self.segments.insert(number, vec![0; self.options.segment_bytes]);
                self.write_first_block(number, number);
                Some(number)
            }
            SegmentAction::Recycle { from, to } => {
                self.write_first_block(from, to);
                let bytes = self.segments.remove(&from).expect("invariant: a spare segment is there");
                self.segments.insert(to, bytes);
                Some(to)
            }
            SegmentAction::Shorten { number, bytes } => {
                let length = usize::try_from(bytes).expect("invariant: segments are small");
                self.segments.get_mut(&number).into_iter().for_each(|segment| segment.truncate(length));
                None
            }
            SegmentAction::Remove { number } => {
                self.segments.remove(&number);
                None
            }
        }
    }

    /// Writes into a file the first block of the segment that it is to be.
    fn write_first_block(&mut self, file: SegmentNumber, segment: SegmentNumber) {
        let block = self.log.first_block(segment);
        let file = self.segments.get_mut(&file).expect("invariant: a file that is to be used is there");
        put(file, 0, &block);
    }

    /// What tells whether there was quiet since.
    #[must_use]
    pub fn activity(&self) -> u64 {
        self.activity
    }

    /// It has been quiet: the last group is to be confirmed.
    pub fn confirm(&mut self) {
        self.log.confirm();
    }

    /// Whether all that was appended is written.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.writes.is_empty() && self.log.pending_records() == 0
    }

    /// The number of files, and the number of those that are needed.
    #[must_use]
    pub fn files(&self) -> (usize, usize) {
        (self.segments.len(), self.log.segments_needed().count())
    }

    /// The process is gone, with all that was not written.
    pub fn crash(&mut self, random: &mut Random) {
        for (write, bytes) in std::mem::take(&mut self.writes).into_values() {
            let offset = usize::try_from(write.offset).expect("invariant: segments are small");
            if let Some(segment) = self.segments.get_mut(&write.segment) {
                land(segment, offset, &bytes, random);
            }
        }
        let action = std::mem::take(&mut self.actions).pop_front().filter(|_| self.is_making);
        self.is_making = false;
        match action {
            Some(SegmentAction::Create { number }) if random.percent(60) => {
                let blocks = self.options.segment_bytes / BLOCK_BYTES;
                self.segments.insert(number, vec![0; random.index(blocks + 1) * BLOCK_BYTES]);
            }
            Some(SegmentAction::Recycle { from, to }) if random.percent(30) => {
                self.write_first_block(from, to)
            }
            Some(action) if random.percent(50) => {
                self.act(action);
            }
            _ => {}
        }
    }

    /// Reads all segments.
    #[must_use]
    pub fn scan(&self) -> Scan {
        let mut scanner = Scanner::new(self.identity).made(self.made).without_batches();
        for (number, bytes) in &self.segments {
            scanner.segment(*number, bytes);
        }
        scanner.finish()
    }

    /// Makes bad copies good again.
    pub fn repair(&mut self, repairs: impl IntoIterator<Item = Repair>) {
        for Repair { segment, offset, bytes } in repairs {
            if let Some(segment) = self.segments.get_mut(&segment) {
                put(segment, usize::try_from(offset).expect("invariant: segments are small"), &bytes);
            }
        }
    }

    /// Goes on after a scan.
    pub fn resume(&mut self, scan: &Scan) {
        self.log = Log::resume(self.identity, self.options, scan);
        self.activity += 1;
    }

    /// Somebody takes the file of a segment away.
    pub fn take_away(&mut self, number: SegmentNumber) {
        self.segments.remove(&number);
    }

    /// The bytes of a segment.
    pub fn segment_mut(&mut self, number: SegmentNumber) -> Option<&mut Vec<u8>> {
        self.segments.get_mut(&number)
    }
}
