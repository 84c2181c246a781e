//! A disk in memory that a log writes to, which can lose what is under way and be damaged, and what was written to
//! it, to compare with.
#![allow(dead_code, reason = "each test uses its part")]

use quorate_journal::{
    BLOCK_BYTES, Damage, Log, LogIdentity, LogOptions, Record, Scan, Scanner, SegmentAction, SegmentNumber,
    SegmentsMade, Write,
};
use quorate_types::{
    CoreId, Digest, Epoch, JournalId, LaneId, LaneNumber, LinkId, Lsn, Nanoseconds, ReplicaId, Seq,
    Signature, View,
};
use quorate_wire::message::{CheckpointCertificate, Prepare};
use quorate_wire::{Frame, Header, Kind, LaneTip, Position};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(crate) const VOTES: JournalId = JournalId(0);
pub(crate) const BATCHES: JournalId = JournalId(1);
const SECTOR_BYTES: usize = 512;

pub(crate) fn identity() -> LogIdentity {
    LogIdentity { cluster_id: [0x5a; 32], replica: ReplicaId(2), core: CoreId(0), directory: [7; 16] }
}

pub(crate) fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 16 * BLOCK_BYTES,
        writes_in_flight_max: 3,
        group_bytes_max: 5 * BLOCK_BYTES,
        eager_bytes: 2 * BLOCK_BYTES,
        segments_ahead: 1,
        segments_spare_max: 1,
        durable_watermark: true,
    }
}

/// Numbers from a seed, for what a test need not shrink.
#[derive(Clone, Debug)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).expect("invariant: below a usize")
    }
}

fn position(number: u64) -> Position {
    Position { seq: Seq(number), digest: Digest([number.to_le_bytes()[0]; 32]) }
}

/// A batch of `bytes` bytes that are told apart by `number`.
pub(crate) fn batch(number: u64, bytes: usize) -> Record {
    let frame = Frame::encode(Kind::Batch, |out| {
        out.extend_from_slice(&number.to_le_bytes());
        let mut chance = Chance(number);
        out.extend((0..bytes).map(|_| chance.next().to_le_bytes()[0]));
    });
    Record::Batch(frame, quorate_types::Why::OwnLink)
}

/// What the directory calls the batch at a position.
pub(crate) fn name(lsn: Lsn) -> LaneTip {
    let lane = LaneId { origin: ReplicaId(2), link: LinkId(1) };
    LaneTip { lane, upto: LaneNumber(100 + lsn.0), chain: Digest([lsn.0.to_le_bytes()[0]; 32]) }
}

/// One critical record of each kind in turn, told apart by `number`, larger with `size`.
pub(crate) fn fact(number: u64, size: usize) -> Record {
    let view = View(number);
    let at = position(number);
    match number % 6 {
        0 => Record::ViewState { view },
        1 => {
            let lane = LaneId { origin: ReplicaId(1), link: LinkId(2) };
            let tip = |index| LaneTip { lane, upto: LaneNumber(index), chain: at.digest };
            let (parent, timestamp) = (at.digest, Nanoseconds(number));
            let cut = (0..size as u64).map(tip).collect();
            let header = Arc::new(Header { epoch: Epoch(1), seq: at.seq, parent, timestamp, cut });
            Record::Accept { view, header, voted: number.is_multiple_of(2) }
        }
        2 => {
            let signature = Signature([9; 64]);
            let digests = vec![at.digest; 1 + size % 64];
            let prepare = Arc::new(Prepare { view, lo: at.seq, digests, signature });
            Record::Prepared { view, position: at, votes: vec![(ReplicaId(0), prepare); 1 + size % 4] }
        }
        3 => {
            let signatures = vec![(ReplicaId(3), Signature([8; 64])); size];
            let (root, next_config) = (at.digest, at.digest);
            Record::Checkpoint(Arc::new(CheckpointCertificate {
                position: at,
                root,
                next_config,
                signatures,
            }))
        }
        4 => Record::EnterView { view, new_view: at.digest, head: at },
        _ => Record::Promised { view, voted: (size % 2 == 1).then_some(at), stable: at },
    }
}

pub(crate) fn bytes_of(record: &Record) -> Vec<u8> {
    let mut bytes = vec![0; record.encoded_bytes()];
    record.encode(&mut bytes);
    bytes
}

/// What becomes of a write that is under way when the power goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Landing {
    Nothing,
    Whole,
    /// Each sector by chance.
    Torn(u64),
    /// The first half.
    Half,
}

/// A trim, and what had been appended when it was asked for.
#[derive(Debug)]
pub(crate) struct Trimmed {
    journal: JournalId,
    upto: Lsn,
    appended: Vec<(JournalId, Lsn)>,
}

/// A log, its files, and what was appended to it.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) options: LogOptions,
    pub(crate) log: Log,
    pub(crate) files: BTreeMap<SegmentNumber, Vec<u8>>,
    pub(crate) in_flight: Vec<(Write, Vec<u8>)>,
    /// The bytes of each journal's records, from 1.
    pub(crate) appended: BTreeMap<JournalId, Vec<Vec<u8>>>,
    pub(crate) critical: BTreeMap<(JournalId, Lsn), bool>,
    pub(crate) durable: BTreeMap<JournalId, Lsn>,
    pub(crate) trimmed: BTreeMap<JournalId, Lsn>,
    /// Batches of writes that were cut short, whose groups count.
    pub(crate) torn: BTreeSet<(JournalId, Lsn)>,
    /// Where a trim is in effect, what had been appended by then is on disk.
    pub(crate) trims: Vec<Trimmed>,
    pub(crate) number: u64,
    pub(crate) files_max: usize,
    /// What is known beside the log of its files.
    pub(crate) made: SegmentsMade,
}

impl Machine {
    pub(crate) fn new(options: LogOptions) -> Self {
        Self {
            options,
            log: Log::create(identity(), options),
            files: BTreeMap::new(),
            in_flight: Vec::new(),
            appended: BTreeMap::new(),
            critical: BTreeMap::new(),
            durable: BTreeMap::new(),
            trimmed: BTreeMap::new(),
            torn: BTreeSet::new(),
            trims: Vec::new(),
            number: 0,
            files_max: 0,
            made: SegmentsMade::default(),
        }
    }

    /// Carries out what the log wants done with files.
    pub(crate) fn act(&mut self) {
        while let Some(action) = self.log.next_action() {
            self.carry_out(action);
        }
        self.files_max = self.files_max.max(self.files.len());
        let bytes: usize = self.files.values().map(Vec::len).sum();
        assert_eq!(self.log.bytes_on_disk(), bytes as u64);
    }

    fn carry_out(&mut self, action: SegmentAction) {
        let ready = match action {
            SegmentAction::Create { number } => {
                let file = vec![0; self.options.segment_bytes];
                assert!(self.files.insert(number, file).is_none());
                self.write_first_block(number, number);
                number
            }
            SegmentAction::Recycle { from, to } => {
                self.write_first_block(from, to);
                let file = self.files.remove(&from).expect("a file that is recycled exists");
                assert!(self.files.insert(to, file).is_none());
                to
            }
            SegmentAction::Shorten { number, bytes } => {
                let file = self.files.get_mut(&number).expect("a file that is shortened exists");
                file.truncate(usize::try_from(bytes).expect("invariant: small"));
                return;
            }
            SegmentAction::Remove { number } => {
                self.made = self.log.segments_made(self.made.upto);
                self.files.remove(&number).expect("a file that is removed exists");
                return;
            }
        };
        self.made = self.log.segments_made(ready);
        self.log.on_segment_ready(ready);
    }

    /// Writes into a file the first block of the segment that it is to be.
    fn write_first_block(&mut self, file: SegmentNumber, segment: SegmentNumber) {
        let block = self.log.first_block(segment);
        let file = self.files.get_mut(&file).expect("a file that is written to exists");
        file[..block.len()].copy_from_slice(&block);
    }

    pub(crate) fn append(&mut self, journal: JournalId, record: Record) {
        let records = self.appended.entry(journal).or_default();
        records.push(bytes_of(&record));
        let lsn = Lsn(records.len() as u64);
        self.critical.insert((journal, lsn), record.is_critical());
        let batch = (!record.is_critical()).then(|| name(lsn));
        self.log.append(journal, lsn, record, batch);
    }

    pub(crate) fn append_fact(&mut self, size: usize) {
        self.number += 1;
        self.append(VOTES, fact(self.number, size));
    }

    pub(crate) fn append_batch(&mut self, bytes: usize) {
        self.number += 1;
        self.append(BATCHES, batch(self.number, bytes));
    }

    /// Starts a write, if the log has one.
    pub(crate) fn start_write(&mut self) -> bool {
        let Some(write) = self.log.next_write() else { return false };
        assert!(write.len.is_multiple_of(BLOCK_BYTES) && write.offset.is_multiple_of(BLOCK_BYTES as u64));
        let mut bytes = vec![0xee; write.len];
        self.log.encode(write.id, &mut bytes);
        self.in_flight.push((write, bytes));
        true
    }

    fn land(&mut self, write: &Write, bytes: &[u8], mut landed: impl FnMut(usize) -> bool) {
        let offset = usize::try_from(write.offset).expect("invariant: small");
        let file = self.files.get_mut(&write.segment).expect("a segment that is written to exists");
        for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
            let at = offset + index * SECTOR_BYTES;
            if landed(index) {
                file[at..at + sector.len()].copy_from_slice(sector);
            }
        }
    }

    /// Completes one of the writes under way.
    pub(crate) fn complete(&mut self, index: usize) {
        if self.in_flight.is_empty() {
            return;
        }
        let (write, bytes) = self.in_flight.remove(index % self.in_flight.len());
        self.land(&write, &bytes, |_| true);
        let mut durable = Vec::new();
        self.log.on_written(write.id, &mut durable);
        for (journal, upto) in durable {
            let before = self.durable.insert(journal, upto).unwrap_or_default();
            assert!(upto > before, "durability is news");
        }
    }

    pub(crate) fn trim(&mut self, journal: JournalId, upto: Lsn) {
        self.log.trim(journal, upto);
        let appended = [VOTES, BATCHES].map(|journal| (journal, self.log.last(journal)));
        self.trims.push(Trimmed { journal, upto, appended: appended.to_vec() });
        let trimmed = self.trimmed.entry(journal).or_default();
        *trimmed = upto.max(*trimmed);
    }

    /// Writes all that is pending and waits for it.
    pub(crate) fn flush(&mut self) {
        loop {
            self.act();
            let started = self.start_write();
            if self.in_flight.is_empty() && !started {
                break;
            }
            self.complete(0);
        }
        assert_eq!(self.log.pending_records(), 0);
    }

    /// As [`Self::flush`], and then states on disk that all is durable.
    pub(crate) fn confirm(&mut self) {
        self.flush();
        self.log.confirm();
        self.flush();
    }

    pub(crate) fn scan(&self) -> Scan {
        scan_made(&self.files, self.made)
    }

    /// The power goes: what is under way lands or does not, and what was not reported is forgotten.
    pub(crate) fn cut_power(&mut self, landings: &[Landing], interrupted: bool) {
        let in_flight = std::mem::take(&mut self.in_flight);
        for (index, (write, bytes)) in in_flight.iter().enumerate() {
            let sectors = bytes.len() / SECTOR_BYTES;
            match landings.get(index % landings.len().max(1)).copied().unwrap_or(Landing::Nothing) {
                Landing::Nothing => {}
                Landing::Whole => self.land(write, bytes, |_| true),
                Landing::Half => self.land(write, bytes, |sector| sector < sectors / 2),
                Landing::Torn(seed) => {
                    let mut chance = Chance(seed);
                    self.land(write, bytes, |_| chance.next().is_multiple_of(2));
                }
            }
        }
        if !interrupted {
            return;
        }
        match self.log.next_action() {
            Some(SegmentAction::Create { number }) => {
                self.files.insert(number, vec![0; self.options.segment_bytes / 2]);
            }
            Some(SegmentAction::Recycle { from, to }) => {
                self.write_first_block(from, to);
                if landings.len().is_multiple_of(2) {
                    let file = self.files.remove(&from).expect("a file that is recycled exists");
                    self.files.insert(to, file);
                }
            }
            Some(SegmentAction::Remove { number }) => {
                self.files.remove(&number);
            }
            Some(SegmentAction::Shorten { .. }) | None => {}
        }
    }

    /// Makes bad copies good again; a second look then finds none.
    pub(crate) fn repair(&mut self, scan: &Scan) {
        for repair in &scan.repairs {
            let file = self.files.get_mut(&repair.segment).expect("a segment that was read exists");
            let at = usize::try_from(repair.offset).expect("invariant: small");
            if file.len() < at + repair.bytes.len() {
                file.resize(at + repair.bytes.len(), 0);
            }
            file[at..at + repair.bytes.len()].copy_from_slice(&repair.bytes);
        }
        let again = self.scan();
        assert!(again.repairs.is_empty(), "{}", again.describe());
        assert_eq!(again.damage, scan.damage);
    }

    /// Reads the log back, compares it with what was appended, and goes on with what it holds.
    pub(crate) fn recover(&mut self) {
        let scan = self.scan();
        assert!(matches!(scan.damage, Damage::None | Damage::TornTail(_)), "{}", scan.describe());
        assert!(scan.lost.is_empty() && scan.absent.is_none(), "{}", scan.describe());
        for torn in &scan.torn_batches {
            let durable = self.durable.get(&torn.journal).copied().unwrap_or_default();
            let known =
                (torn.first.0..=torn.last.0).filter(|lsn| !self.torn.contains(&(torn.journal, Lsn(*lsn))));
            assert!(known.min().is_none_or(|lsn| Lsn(lsn) > durable), "{}", scan.describe());
            self.torn.extend((torn.first.0..=torn.last.0).map(|lsn| (torn.journal, Lsn(lsn))));
        }
        self.check_prefix(&scan);
        for (journal, durable) in &self.durable {
            assert!(scan.last(*journal) >= *durable, "{journal:?} {durable:?}\n{}", scan.describe());
        }
        for (journal, trimmed) in [VOTES, BATCHES].map(|journal| (journal, scan.trimmed(journal))) {
            let safe = |trim: &Trimmed| {
                let there = trim.appended.iter().all(|(journal, last)| scan.last(*journal) >= *last);
                (trim.journal, trim.upto) == (journal, trimmed) && there
            };
            assert!(trimmed == Lsn(0) || self.trims.iter().any(safe), "{}", scan.describe());
        }
        self.trims.retain(|trim| scan.trimmed(trim.journal) == trim.upto);
        self.trims.iter_mut().for_each(|trim| trim.appended.clear());
        self.torn.retain(|(journal, lsn)| *lsn <= scan.last(*journal));
        for (journal, records) in &mut self.appended {
            let last = scan.last(*journal);
            records.truncate(usize::try_from(last.0).expect("invariant: few records"));
            self.durable.insert(*journal, last);
            self.trimmed.insert(*journal, scan.trimmed(*journal));
        }
        self.repair(&scan);
        self.log = Log::resume(identity(), self.options, &scan);
    }

    /// The records of each journal are those that were appended, without a gap.
    pub(crate) fn check_prefix(&self, scan: &Scan) {
        for (journal, appended) in &self.appended {
            let (trimmed, last) = (scan.trimmed(*journal), scan.last(*journal));
            let asked = self.trimmed.get(journal).copied().unwrap_or_default();
            assert!(trimmed <= asked, "{trimmed:?} {asked:?}");
            let mut expected = trimmed;
            let skip = |mut expected: Lsn| {
                while self.torn.contains(&(*journal, expected.next())) {
                    expected = expected.next();
                }
                expected
            };
            for (_, lsn, record) in scan.records.iter().filter(|(other, _, _)| other == journal) {
                expected = skip(expected).next();
                assert_eq!(*lsn, expected, "{}", scan.describe());
                let index = usize::try_from(lsn.previous().0).expect("invariant: few records");
                assert_eq!(Some(&bytes_of(record)), appended.get(index));
            }
            assert_eq!(skip(expected), last.max(trimmed), "{}", scan.describe());
        }
    }

    /// Each record that is read was appended at that place.
    pub(crate) fn check_authentic(&self, scan: &Scan) {
        for (journal, lsn, record) in &scan.records {
            let index = usize::try_from(lsn.previous().0).expect("invariant: few records");
            let appended = self.appended.get(journal).and_then(|records| records.get(index));
            assert_eq!(Some(&bytes_of(record)), appended, "{journal:?} {lsn:?}\n{}", scan.describe());
        }
    }
}

pub(crate) fn scan_files(files: &BTreeMap<SegmentNumber, Vec<u8>>) -> Scan {
    scan_made(files, SegmentsMade::default())
}

pub(crate) fn scan_made(files: &BTreeMap<SegmentNumber, Vec<u8>>, made: SegmentsMade) -> Scan {
    let mut scanner = Scanner::new(identity()).made(made);
    for (number, bytes) in files {
        scanner.segment(*number, bytes);
    }
    scanner.finish()
}
