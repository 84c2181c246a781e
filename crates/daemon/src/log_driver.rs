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
use crate::log_reader::{LogReader, ReadBack};
use crate::segment_files;
use quorate_journal::{
    Log, LogIdentity, LogOptions, Record, Scan, SegmentAction, SegmentNumber, Write, WriteId,
};
use quorate_reactor::{AlignedBuffer, AlignedBuffers, FileId, FileSync, Reactor};
use quorate_types::{JournalId, Lsn};
use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

/// When nothing was written for so long, a last group says that all before it are durable, so that damage to them is
/// never taken for a torn tail.
const QUIET: Duration = Duration::from_millis(100);
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
            silence: if is_silent { Silence::Kept } else { Silence::Over },
            files: BTreeMap::new(),
            buffers: AlignedBuffers::default(),
            writes: BTreeMap::new(),
            quiet_since: None,
        }
    }

    /// Queues a record; it is written at the end of a tick.
    pub(crate) fn append(&mut self, journal: JournalId, lsn: Lsn, record: Record) {
        self.log.append(journal, lsn, record);
        self.quiet_since = None;
    }

    /// Nothing of `journal` at or below `upto` is needed any more.
    pub(crate) fn trim(&mut self, journal: JournalId, upto: Lsn) {
        self.log.trim(journal, upto);
    }

    /// Has a record read back; see [`LogDriver::take_read_back`].
    pub(crate) fn read_back(&mut self, journal: JournalId, lsn: Lsn) {
        self.reader.ask(journal, lsn);
    }

    /// The next record that was read back.
    pub(crate) fn take_read_back(&mut self) -> Option<ReadBack> {
        self.reader.take()
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
        self.quiet_since.map(|since| since + QUIET)
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

    /// The bytes of the segments that hold something needed.
    pub(crate) fn bytes_needed(&self) -> u64 {
        self.log.bytes_needed()
    }
}

#[cfg(test)]
mod tests;
