//! The log of one core at work: the plan of [`quorate_journal::Log`], carried out on the reactor.
//!
//! Records are appended during a tick; at its end what is pending leaves as one group, which is one write and one sync,
//! unless a group is under way already and little is pending: then what comes meanwhile is the next group. What a write
//! has made durable is told when it completes. Segments are made by another thread ahead of their use (`disk.rs`).
//!
//! What a replica that has never spoken writes first is told to be durable only when it is noted, beside the log, that
//! there is something in it: nothing leaves before, so that an empty log is later known to have lost what it held.

use crate::disk::{Done, SegmentMaker, SegmentTask};
use crate::log_error::LogError;
use crate::log_reader::{Checked, LogReader, ReadBack};
use crate::segment_files;
use quorate_journal::{
    Log, LogIdentity, LogOptions, Record, Scan, Scrubbed, SegmentAction, SegmentNumber, Write, WriteId,
};
use quorate_reactor::{AlignedBuffer, AlignedBuffers, FileId, FileSync, Reactor};
use quorate_types::{JournalId, Lsn};
use quorate_wire::LaneTip;
use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};
use tracing::warn;

/// When nothing was written for so long, a last group says that all before it are durable, so that damage to them is
/// never taken for a torn tail.
const QUIET: Duration = Duration::from_millis(100);
/// Between two rounds of checking what is needed of the log; a start has just read all of it.
const CHECK_ROUND: Duration = Duration::from_secs(600);
/// Segments between these lengths: so many of them make up what the log of a core may take that it can be trimmed
/// finely, and none is so large that making it takes long.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 16 << 20;
const SEGMENT_BYTES_MIN: u64 = 4 << 20;
const SEGMENTS_PER_LOG: u64 = 16;
/// Segments that are made ahead: one is used up faster than a slow disk makes one.
const SEGMENTS_AHEAD: usize = 2;
const SEGMENTS_SPARE_MAX: usize = 2;

const _: () = assert!(SEGMENT_BYTES_MIN > quorate_types::limits::BATCH_BYTES_MAX as u64 + (1 << 20));

/// The length of the segments of each of `cores` logs that may take `journal_bytes_max` together.
pub(crate) fn segment_bytes(journal_bytes_max: u64, cores: usize) -> u64 {
    let share = journal_bytes_max / (cores.max(1) as u64 * SEGMENTS_PER_LOG);
    share.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX).next_multiple_of(quorate_journal::BLOCK_BYTES as u64)
}

/// What a core's log is made of.
#[derive(Debug)]
pub(crate) struct LogSetup {
    pub(crate) identity: LogIdentity,
    /// What was found in its directory.
    pub(crate) scan: Scan,
    pub(crate) sync: FileSync,
    pub(crate) maker: SegmentMaker,
    pub(crate) reader: LogReader,
    /// Whether it is to be noted that the replica speaks before anything is told to be durable.
    pub(crate) is_silent: bool,
}

/// What was read of the log while it goes on.
#[derive(Debug)]
pub(crate) enum LogNews {
    Read(ReadBack),
    Checked(Damages),
}

/// What was found of a segment that was checked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Damages {
    /// So many bytes were checked.
    pub(crate) bytes: u64,
    /// So many blocks are written again.
    pub(crate) blocks: u64,
    /// The records that cannot be read any more.
    pub(crate) lost: Vec<(JournalId, Lsn)>,
}

/// Whether it is known beside the log that something is in it.
#[derive(Debug)]
enum Silence {
    /// Nothing was written yet, and nothing is known.
    Kept,
    /// It is being noted; so much waits for that.
    Ending(Vec<(JournalId, Lsn)>),
    /// It is.
    Over,
}

/// The log of one core.
#[derive(Debug)]
pub(crate) struct LogDriver {
    log: Log,
    sync: FileSync,
    maker: SegmentMaker,
    reader: LogReader,
    silence: Silence,
    identity: LogIdentity,
    /// The last segment that was checked in this round, and when the next one is.
    checked: SegmentNumber,
    next_check: Instant,
    files: BTreeMap<SegmentNumber, FileId>,
    buffers: AlignedBuffers,
    /// The writes under way: where to, and since when.
    writes: BTreeMap<WriteId, (SegmentNumber, Instant)>,
    /// When the last write ended, if nothing came after it.
    quiet_since: Option<Instant>,
}

impl LogDriver {
    pub(crate) fn new(setup: LogSetup) -> Self {
        let LogSetup { identity, scan, sync, maker, reader, is_silent } = setup;
        let segment_bytes = usize::try_from(maker.place().segment_bytes);
        let options = LogOptions {
            segment_bytes: segment_bytes.expect("invariant: a segment is at most 16 MiB"),
            segments_ahead: SEGMENTS_AHEAD,
            segments_spare_max: SEGMENTS_SPARE_MAX,
            durable_watermark: sync != FileSync::None,
            ..LogOptions::default()
        };
        Self {
            log: Log::resume(identity, options, &scan),
            sync,
            maker,
            reader,
            identity,
            checked: SegmentNumber(0),
            next_check: Instant::now() + CHECK_ROUND,
            silence: if is_silent { Silence::Kept } else { Silence::Over },
            files: BTreeMap::new(),
            buffers: AlignedBuffers::default(),
            writes: BTreeMap::new(),
            quiet_since: None,
        }
    }

    /// Queues a record; it is written at the end of a tick.
    pub(crate) fn append(&mut self, journal: JournalId, lsn: Lsn, record: Record, batch: Option<LaneTip>) {
        self.log.append(journal, lsn, record, batch);
        self.quiet_since = None;
    }

    /// Nothing of `journal` at or below `upto` is needed any more.
    pub(crate) fn trim(&mut self, journal: JournalId, upto: Lsn) {
        self.log.trim(journal, upto);
    }

    /// Has a record read back; see [`LogDriver::take_read`].
    pub(crate) fn read_back(&mut self, journal: JournalId, lsn: Lsn) {
        self.reader.ask(journal, lsn);
    }

    /// The next record that was read back, or what is told of a segment that was checked.
    pub(crate) fn take_read(&mut self, reactor: &Reactor) -> Option<LogNews> {
        let mut checked = None;
        let read = self.reader.take(|found| checked = Some(found));
        match (read, checked) {
            (Some(read), _) => Some(LogNews::Read(read)),
            (None, Some(found)) => Some(LogNews::Checked(self.on_checked(reactor, found))),
            (None, None) => None,
        }
    }

    /// Has the next segment checked, if one is due.
    fn check_next(&mut self, reactor: &Reactor, now: Instant) {
        if now < self.next_check || self.reader.is_checking() {
            return;
        }
        let next = self.log.closed_segments().find(|segment| *segment > self.checked);
        let Some(segment) = next else {
            self.checked = SegmentNumber(0);
            self.next_check = now + CHECK_ROUND;
            return;
        };
        self.checked = segment;
        self.reader.check(self.identity, segment, self.log.places_in(segment), reactor.waker());
    }

    /// A segment was checked: bad copies are written again, and what is lost is told.
    fn on_checked(&mut self, reactor: &Reactor, checked: Checked) -> Damages {
        let Checked { segment, bytes, scrubbed: Scrubbed { repairs, mut lost } } = checked;
        // One that was given up meanwhile may be another one by now.
        if !self.log.closed_segments().any(|other| other == segment) {
            return Damages { bytes, ..Damages::default() };
        }
        let path = segment_files::path(&self.maker.place().directory, segment);
        let blocks = repairs.len() as u64;
        if blocks > 0 {
            warn!(
                "{}: {blocks} blocks have gone bad and are written again from their second copies",
                path.display()
            );
            self.maker.repair(repairs, reactor.waker());
        }
        lost.retain(|(journal, lsn, _)| self.log.place(*journal, *lsn).is_some());
        for (journal, lsn, kind) in &lost {
            let what = if kind.is_critical() {
                "both copies are bad: what is needed of this journal is written again, after the first checkpoint at the \
                 latest; until then a start would find votes lost, so let it run, and replace the disk"
            } else {
                "it is written again, from memory or from what other replicas have"
            };
            warn!("{}: {kind} {lsn} of journal {journal} has gone bad; {what}", path.display());
            // The next round comes past it again.
            self.log.lose(*journal, *lsn);
        }
        Damages { bytes, blocks, lost: lost.into_iter().map(|(journal, lsn, _)| (journal, lsn)).collect() }
    }

    /// Gives what is to be written to the reactor, which takes it with its next wait.
    pub(crate) fn start_writes(&mut self, reactor: &mut Reactor, now: Instant) {
        if self.quiet_since.is_some_and(|since| now >= since + QUIET) {
            self.quiet_since = None;
            self.log.confirm();
        }
        while self.log.wants_write() {
            let Some(write) = self.log.next_write() else { break };
            self.start(reactor, write, now);
        }
        self.ask_for_segments(reactor);
        self.check_next(reactor, now);
        let log = &self.log;
        self.reader.start(|| reactor.waker(), |journal, lsn| log.place(journal, lsn));
    }

    fn start(&mut self, reactor: &mut Reactor, write: Write, now: Instant) {
        let Write { id, segment, offset, len } = write;
        let mut buffer = self.buffers.take(len);
        self.log.encode(id, &mut buffer);
        let file = self.files.get(&segment).expect("invariant: the log writes to segments that are ready");
        reactor.write(*file, offset, buffer, self.sync, id.0);
        self.writes.insert(id, (segment, now));
    }

    /// A write has ended. Adds what is durable by it, and returns how long it took.
    pub(crate) fn on_written(
        &mut self,
        reactor: &Reactor,
        token: u64,
        buffer: AlignedBuffer,
        result: io::Result<()>,
        now: Instant,
        durable: &mut Vec<(JournalId, Lsn)>,
    ) -> Result<Duration, LogError> {
        let id = WriteId(token);
        let (segment, started) = self.writes.remove(&id).expect("invariant: a write ends once");
        if let Err(source) = result {
            let path = segment_files::path(&self.maker.place().directory, segment);
            return Err(LogError::new(path, "write to it", source));
        }
        self.buffers.give_back(buffer);
        self.log.on_written(id, durable);
        let news = !durable.is_empty();
        match &mut self.silence {
            Silence::Over => {}
            Silence::Kept => {
                self.silence = Silence::Ending(std::mem::take(durable));
                self.maker.speak(reactor.waker());
            }
            Silence::Ending(waiting) => waiting.append(durable),
        }
        if self.is_idle() {
            // A group that said so is not followed by another one: then nothing is left to say.
            self.quiet_since = news.then_some(now);
        }
        Ok(now.saturating_duration_since(started))
    }

    /// Takes in the segments that were made meanwhile. Adds what is durable and has waited for something else.
    pub(crate) fn take_segments(
        &mut self,
        reactor: &mut Reactor,
        durable: &mut Vec<(JournalId, Lsn)>,
    ) -> Result<(), LogError> {
        while let Some(made) = self.maker.take() {
            match made? {
                Done::Made(number, file) => {
                    let file = reactor.add_file(file.into());
                    self.files.insert(number, file);
                    self.log.on_segment_ready(number);
                }
                Done::Noted => {
                    if let Silence::Ending(waiting) = std::mem::replace(&mut self.silence, Silence::Over) {
                        durable.extend(waiting);
                    }
                }
            }
        }
        Ok(())
    }

    fn ask_for_segments(&mut self, reactor: &mut Reactor) {
        while let Some(action) = self.log.next_action() {
            let (given_up, made) = match action {
                SegmentAction::Create { number } => (None, Some(number)),
                SegmentAction::Recycle { from, to } => (Some(from), Some(to)),
                SegmentAction::Remove { number } => (Some(number), None),
                SegmentAction::Shorten { .. } => (None, None),
            };
            let first_block = made.map(|number| self.log.first_block(number)).unwrap_or_default();
            let file = given_up.and_then(|number| self.files.remove(&number));
            file.into_iter().for_each(|file| reactor.remove_file(file));
            let known = self.log.segments_made(made.unwrap_or_default());
            self.maker.ask(SegmentTask { action, first_block, known }, reactor.waker());
        }
    }

    /// When there is something to do that nothing else wakes for.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let check = (!self.reader.is_checking()).then_some(self.next_check);
        self.quiet_since.map(|since| since + QUIET).into_iter().chain(check).min()
    }

    /// Whether all that was appended is written.
    pub(crate) fn is_idle(&self) -> bool {
        self.writes.is_empty() && self.log.pending_records() == 0
    }

    /// No more is to come: what is pending is written, and then a group that says that all is durable.
    pub(crate) fn finish(&mut self) {
        self.quiet_since = None;
        self.log.confirm();
    }

    /// Whether a write now would be of use.
    pub(crate) fn wants_write(&self) -> bool {
        self.log.wants_write()
    }

    /// Whether something is to be written and no segment is ready for it.
    pub(crate) fn stands(&self) -> bool {
        self.writes.is_empty() && self.log.pending_records() > 0
    }

    /// The bytes of the segments that hold something needed.
    pub(crate) fn bytes_needed(&self) -> u64 {
        self.log.bytes_needed()
    }
}

#[cfg(test)]
mod tests;
