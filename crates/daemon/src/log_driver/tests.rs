//! Logs on real files: what is told to be durable is read back, whatever the way of writing.

use super::*;
use crate::disk::{Disk, LogPlace};
use crate::log_reader::ReaderThread;
use crate::segment_files::{LogRead, Opening, Reading, read_log_by, repair};
use crate::shared::Shared;
use crate::space::Limits;
use quorate_journal::{BLOCK_BYTES, CONSENSUS_JOURNAL, Damage, batch_journal};
use quorate_reactor::{Event, ReactorOptions};
use quorate_types::{ClusterConfig, CoreId, ReplicaId, SigningKey, View};
use quorate_wire::{Frame, Kind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// Reads all of a log.
fn read_log(directory: &Path, identity: LogIdentity, sync: bool) -> Result<LogRead, crate::DirectoryError> {
    segment_files::read_log(directory, identity, Reading { sync, batches: true })
}

const PATIENCE: Duration = Duration::from_secs(60);
const BATCHES: JournalId = JournalId(1);

/// The directory of a log in a directory of its own.
struct TempLog {
    _root: tempfile::TempDir,
    path: PathBuf,
}

impl TempLog {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("log-0");
        std::fs::create_dir(&path).unwrap();
        Self { _root: root, path }
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

fn identity() -> LogIdentity {
    LogIdentity { cluster_id: [1; 32], replica: ReplicaId(2), core: CoreId(0), directory: [3; 16] }
}

fn shared() -> Arc<Shared> {
    let key = |number: u8| SigningKey::from_seed(&[number; 32]).public().to_hex();
    let text = format!(
        "cluster_id = \"{}\"\nepoch = 0\nlinks = 1\nclients = [\"{}\"]\n[[replica]]\nid = 0\nkey = \"{}\"\n\
         mesh = \"127.0.0.1:8000\"\nclient = \"127.0.0.1:9000\"\n",
        "01".repeat(32),
        key(1),
        key(2)
    );
    Arc::new(Shared::new(&ClusterConfig::parse(&text).unwrap(), 1))
}

/// A log at work in a directory.
struct Bench {
    shared: Arc<Shared>,
    log: LogDriver,
    reactor: Reactor,
    disk: Disk,
    reading: ReaderThread,
    appended: BTreeMap<JournalId, Lsn>,
    durable: BTreeMap<JournalId, Lsn>,
    failure: Option<LogError>,
}

impl Bench {
    fn start(directory: &Path, segment_bytes: u64, opening: Opening, sync: FileSync) -> Self {
        let shared = shared();
        let limits = Limits { journal_bytes_max: 1 << 30, free_bytes_min: 128 << 10 };
        let disk = Disk::start(&shared, directory, limits).unwrap();
        let maker = disk.maker(LogPlace { directory: directory.to_owned(), segment_bytes, opening });
        let scan = read_log(directory, identity(), true).unwrap().scan;
        let appended = scan.last.clone();
        let reading = ReaderThread::start().unwrap();
        let reader = reading.reader(directory);
        let log =
            LogDriver::new(LogSetup { identity: identity(), scan, sync, maker, reader, is_silent: false });
        let reactor = Reactor::new(&ReactorOptions::default()).unwrap();
        Self { shared, log, reactor, disk, reading, appended, durable: BTreeMap::new(), failure: None }
    }

    fn append(&mut self, journal: JournalId, record: Record) {
        let last = self.appended.entry(journal).or_default();
        *last = last.next();
        self.log.append(journal, *last, record, None);
    }

    fn append_batch(&mut self, bytes: usize) {
        self.append(
            BATCHES,
            Record::Batch(
                Frame::encode(Kind::Batch, |payload| payload.extend(vec![7; bytes])),
                quorate_types::Why::OwnLink,
            ),
        );
    }

    /// What a report says of it.
    fn lacks_room(&self) -> bool {
        self.shared.set_log_stands(0, self.log.stands());
        self.shared.log_lacks_room()
    }

    fn append_vote(&mut self) {
        let view = View(self.appended.get(&CONSENSUS_JOURNAL).map_or(0, |lsn| lsn.0));
        self.append(CONSENSUS_JOURNAL, Record::ViewState { view });
    }

    /// One turn, that sleeps for `time` at most.
    fn turn(&mut self, time: Duration) {
        self.log.start_writes(&mut self.reactor, Instant::now());
        self.reactor.wait(Some(Instant::now() + time)).unwrap();
        while let Some(event) = self.reactor.next_event() {
            if let Event::FileWritten { token, buffer, result, .. } = event {
                let mut durable = Vec::new();
                let ended =
                    self.log.on_written(&self.reactor, token, buffer, result, Instant::now(), &mut durable);
                self.failure = self.failure.take().or(ended.err());
                self.durable.extend(durable);
            }
        }
        let mut durable = Vec::new();
        let taken = self.log.take_segments(&mut self.reactor, &mut durable);
        self.durable.extend(durable);
        self.failure = self.failure.take().or(taken.err());
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < end, "waited in vain: {what}; {:?}", self.failure);
            self.turn(Duration::from_millis(10));
        }
    }

    /// A round of checking, in which records are read between; returns what is told of each of so many closed segments.
    fn round(&mut self, segments: usize) -> Vec<Damages> {
        let mut found: Vec<Damages> = Vec::new();
        let end = Instant::now() + PATIENCE;
        self.log.next_check = Instant::now();
        while found.len() < segments {
            assert!(Instant::now() < end, "{found:?}");
            self.log.read_back(BATCHES, Lsn(7));
            self.turn(Duration::from_millis(10));
            while let Some(news) = self.log.take_read(&self.reactor) {
                match news {
                    LogNews::Read(read) => assert!(read.record.is_some()),
                    LogNews::Checked(damages) => found.push(damages),
                }
            }
        }
        self.until("the round is over", |bench| bench.log.next_check > Instant::now());
        found
    }

    /// Ends in order.
    fn stop(mut self) {
        self.log.finish();
        self.until("the log is written", |bench| bench.log.is_idle() && !bench.log.wants_write());
        self.kill();
    }

    /// Ends as it is, with writes under way.
    fn kill(self) {
        let Self { log, disk, reading, .. } = self;
        drop(log);
        disk.finish();
        reading.finish();
    }
}

fn files(directory: &Path) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

#[test]
fn what_is_told_to_be_durable_is_read_back_in_every_way_of_writing() {
    let ways = [
        (Opening::Direct, FileSync::Dsync),
        (Opening::Direct, FileSync::ThenDatasync),
        (Opening::Buffered, FileSync::Dsync),
        (Opening::Buffered, FileSync::None),
    ];
    assert_eq!(batch_journal(CoreId(0)), BATCHES);
    for (opening, sync) in ways {
        let directory = TempLog::new();
        let mut bench = Bench::start(directory.path(), 256 << 10, opening, sync);
        for round in 0..200 {
            bench.append_batch(round * 97);
            bench.append_vote();
            bench.turn(Duration::ZERO);
        }
        bench.until("all is durable", |bench| bench.durable == bench.appended);
        assert_eq!(bench.durable.len(), 2);
        assert!(bench.failure.is_none());
        bench.stop();
        let scan = read_log(directory.path(), identity(), false).unwrap().scan;
        assert_eq!((scan.last(BATCHES), scan.last(CONSENSUS_JOURNAL)), (Lsn(200), Lsn(200)));
        assert_eq!(scan.records.len(), 400);
        assert!(scan.damage == Damage::None && scan.torn.is_none(), "{:?} {:?}", scan.damage, scan.torn);
        if sync != FileSync::None {
            assert_eq!(
                scan.watermark,
                scan.last_group.previous(),
                "the end says that all before it is durable"
            );
        }
    }
}

#[test]
fn a_killed_log_goes_on_behind_what_it_had_told() {
    let directory = TempLog::new();
    let mut durable = BTreeMap::new();
    for round in 0..5 {
        let mut bench = Bench::start(directory.path(), 256 << 10, Opening::Direct, FileSync::Dsync);
        for (journal, upto) in &durable {
            assert!(bench.appended[journal] >= *upto, "round {round}: {:?} of {durable:?}", bench.appended);
        }
        for _ in 0..20 {
            bench.append_batch(20_000);
            bench.append_vote();
            bench.turn(Duration::from_micros(200));
        }
        bench.until("something is durable", |bench| bench.durable.len() == 2);
        durable.clone_from(&bench.durable);
        bench.kill();
    }
    assert!(durable[&CONSENSUS_JOURNAL] > Lsn(4));
}

#[test]
fn little_waits_for_the_write_before_it_and_much_does_not() {
    let directory = TempLog::new();
    let mut bench = Bench::start(directory.path(), 4 << 20, Opening::Direct, FileSync::Dsync);
    bench.append_vote();
    bench.until("a segment is ready", |bench| bench.durable.len() == 1);
    bench.append_vote();
    bench.log.start_writes(&mut bench.reactor, Instant::now());
    bench.append_vote();
    bench.log.start_writes(&mut bench.reactor, Instant::now());
    assert_eq!(bench.log.writes.len(), 1, "the second vote is in the next group");
    for _ in 0..2 {
        bench.append_batch(300 << 10);
        bench.log.start_writes(&mut bench.reactor, Instant::now());
    }
    assert_eq!(bench.log.writes.len(), 3);
    bench.until("all is durable", |bench| bench.durable == bench.appended);
}

#[test]
fn an_idle_log_says_once_that_all_is_durable() {
    let directory = TempLog::new();
    let mut bench = Bench::start(directory.path(), 256 << 10, Opening::Direct, FileSync::Dsync);
    bench.append_vote();
    bench.until("it is durable", |bench| bench.durable.len() == 1);
    assert!(bench.log.deadline().is_some());
    bench.until("a last group", |bench| bench.reactor.counters().file_writes == 2);
    assert_eq!((bench.log.quiet_since, bench.log.is_idle()), (None, true));
    // Whoever reads now knows that the vote must be there.
    let scan = read_log(directory.path(), identity(), false).unwrap().scan;
    assert_eq!(scan.watermark.0, 1);
}

#[test]
fn segments_that_are_not_needed_are_used_again() {
    let directory = TempLog::new();
    let mut bench = Bench::start(directory.path(), 128 << 10, Opening::Direct, FileSync::Dsync);
    for _ in 0..100 {
        bench.append_batch(50_000);
        bench.until("it is durable", |bench| bench.durable == bench.appended);
        let upto = bench.durable[&BATCHES];
        bench.log.trim(BATCHES, upto);
    }
    assert!(bench.log.bytes_needed() <= 3 * (128 << 10), "{}", bench.log.bytes_needed());
    let files = files(directory.path());
    assert!(files <= 3 + SEGMENTS_AHEAD + SEGMENTS_SPARE_MAX, "{files} files for 50 segments");
    assert!(bench.log.files.len() <= files, "no file stays open that is gone");
    bench.stop();
    let scan = read_log(directory.path(), identity(), false).unwrap().scan;
    assert_eq!((scan.last(BATCHES), &scan.damage), (Lsn(100), &Damage::None));
}

impl Bench {
    /// Reads records back, and returns them in the order in which they come.
    fn read_back(&mut self, wanted: &[(JournalId, Lsn)]) -> Vec<ReadBack> {
        wanted.iter().for_each(|(journal, lsn)| self.log.read_back(*journal, *lsn));
        let (mut read, end) = (Vec::new(), Instant::now() + PATIENCE);
        while read.len() < wanted.len() {
            assert!(Instant::now() < end, "{} of {} records came", read.len(), wanted.len());
            assert!(self.log.reader.open() <= 8, "only so many are read at a time");
            self.turn(Duration::from_millis(10));
            while let Some(news) = self.log.take_read(&self.reactor) {
                let LogNews::Read(record) = news else { panic!("{news:?}") };
                read.push(record);
            }
        }
        read
    }
}

#[test]
fn a_record_is_read_back_as_it_was_written_or_not_at_all() {
    let directory = TempLog::new();
    let mut bench = Bench::start(directory.path(), 256 << 10, Opening::Direct, FileSync::Dsync);
    for round in 0..50 {
        bench.append_batch(10_000 + round);
        bench.append_vote();
        bench.turn(Duration::ZERO);
    }
    bench.until("all is durable", |bench| bench.durable == bench.appended);
    let wanted: Vec<_> =
        (1..=50).flat_map(|lsn| [(BATCHES, Lsn(lsn)), (CONSENSUS_JOURNAL, Lsn(lsn))]).collect();
    let check = |read: Vec<ReadBack>| {
        for ReadBack { journal, lsn, record } in read {
            match record {
                Some(Record::Batch(frame, _)) => {
                    assert_eq!((journal, frame.payload().len() as u64), (BATCHES, 10_000 + lsn.0 - 1));
                }
                Some(Record::ViewState { view }) => {
                    assert_eq!((journal, view.0), (CONSENSUS_JOURNAL, lsn.0 - 1));
                }
                other => panic!("{journal:?} {lsn:?}: {other:?}"),
            }
        }
    };
    check(bench.read_back(&wanted));
    bench.stop();
    // A restart knows where everything lies, too.
    let mut bench = Bench::start(directory.path(), 256 << 10, Opening::Direct, FileSync::Dsync);
    check(bench.read_back(&wanted));
    // Not what was never written, nor what is trimmed, nor what has changed on the disk.
    let place = bench.log.log.place(BATCHES, Lsn(20)).unwrap();
    let path = segment_files::path(directory.path(), place.segment);
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(b"?", place.offset + 5000).unwrap();
    bench.log.trim(BATCHES, Lsn(10));
    let wanted = [(BATCHES, Lsn(51)), (BATCHES, Lsn(10)), (BATCHES, Lsn(20)), (JournalId(7), Lsn(1))];
    let read = bench.read_back(&wanted);
    assert!(read.iter().all(|read| read.record.is_none()), "{read:?}");
    check(bench.read_back(&[(BATCHES, Lsn(11)), (BATCHES, Lsn(21))]));
    bench.stop();
}

#[test]
fn what_goes_bad_while_the_log_goes_on_is_found_and_written_again() {
    let directory = TempLog::new();
    let mut bench = Bench::start(directory.path(), 256 << 10, Opening::Direct, FileSync::Dsync);
    for _ in 0..60 {
        bench.append_batch(10_000);
        bench.append_vote();
        bench.until("it is durable", |bench| bench.durable == bench.appended);
    }
    let closed: Vec<SegmentNumber> = bench.log.log.closed_segments().collect();
    assert!(closed.len() >= 2, "{closed:?}");
    let first = segment_files::path(directory.path(), closed[0]);
    let file = std::fs::OpenOptions::new().write(true).open(&first).unwrap();
    // The first copy of the votes in the first group, and the batch in a later one.
    file.write_all_at(&[0xee; 64], BLOCK_BYTES as u64 + 100).unwrap();
    let bad = bench.log.log.place(BATCHES, Lsn(5)).unwrap();
    assert_eq!(bad.segment, closed[0]);
    file.write_all_at(&[0xee; 64], bad.offset + 5000).unwrap();
    let found = bench.round(closed.len());
    assert_eq!(found[0], Damages { bytes: 256 << 10, blocks: 1, lost: vec![(BATCHES, Lsn(5))] });
    assert!(found[1..].iter().all(|damages| (damages.blocks, damages.lost.len()) == (0, 0)), "{found:?}");
    let found = bench.round(closed.len());
    assert!(found.iter().all(|damages| damages.lost.is_empty()), "it was told: {found:?}");
    bench.stop();
    let scan = read_log(directory.path(), identity(), false).unwrap().scan;
    assert_eq!((scan.repaired, scan.repairs.len()), (0, 0), "the bad copy is a good one again");
    assert_eq!(scan.lost.len(), 1);
}

#[test]
fn a_failed_write_names_file_error_and_remedy() {
    let directory = TempLog::new();
    let mut bench = Bench::start(directory.path(), 128 << 10, Opening::Direct, FileSync::Dsync);
    bench.append_vote();
    bench.until("a segment is ready", |bench| bench.durable.len() == 1);
    // The file under the log's feet becomes one that cannot be written to.
    let read_only = std::fs::File::open("/dev/null").unwrap();
    let file = bench.reactor.add_file(read_only.into());
    bench.log.files.values_mut().for_each(|place| *place = file);
    bench.append_vote();
    bench.until("the failure", |bench| bench.failure.is_some());
    let text = bench.failure.take().unwrap().to_string();
    for part in ["000000000001.segment: cannot write to it", "Bad file descriptor", "check the disk"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert_eq!(bench.durable[&CONSENSUS_JOURNAL], Lsn(1));
}

#[test]
fn a_full_disk_puts_the_next_segment_off_until_there_is_room() {
    let directory = TempLog::new();
    let mount = ["-t", "tmpfs", "-o", "size=1m", "none"];
    let mounted = Command::new("mount").args(mount).arg(directory.path()).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        return eprintln!(
            "a_full_disk_puts_the_next_segment_off_until_there_is_room: skipped, mounting needs privileges"
        );
    }
    let mounted = Mounted(directory.path());
    let filler = mounted.0.join("filler");
    std::fs::write(&filler, vec![0; 700 << 10]).unwrap();
    let mut bench = Bench::start(mounted.0, 256 << 10, Opening::Direct, FileSync::Dsync);
    bench.append_batch(1000);
    bench.until("the first segment", |bench| bench.durable.len() == 1);
    bench.until("writes are refused", |bench| bench.shared.shortage().is_some());
    assert_eq!(bench.log.files.len(), 1, "the second one does not fit");
    assert!(bench.failure.is_none(), "{:?}", bench.failure);
    assert!(!bench.lacks_room(), "the first one has room left");
    (0..3).for_each(|_| bench.append_batch(100 << 10));
    bench.until("the log stands still for want of room", Bench::lacks_room);
    std::fs::remove_file(&filler).unwrap();
    bench.until("the other segments", |bench| bench.log.files.len() == 3);
    bench.until("the log goes on", |bench| !bench.lacks_room() && bench.durable == bench.appended);
    bench.until("writes are taken", |bench| bench.shared.shortage().is_none());
    bench.stop();
}

/// A file system that is unmounted in the end.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // A test that failed may still have files open.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn many_segments_make_up_a_log_and_the_largest_record_fits_into_each() {
    assert_eq!(segment_bytes(2 << 30, 1), 16 << 20);
    assert_eq!(segment_bytes(128 << 20, 1), 8 << 20);
    assert_eq!(segment_bytes(128 << 20, 2), 4 << 20);
    assert_eq!(segment_bytes(128 << 20, 64), 4 << 20);
    assert!(segment_bytes(3_333_333_333, 13).is_multiple_of(4096));
}

#[test]
fn a_bad_copy_is_written_anew_before_the_log_goes_on() {
    let directory = TempLog::new();
    let mut bench = Bench::start(directory.path(), 256 << 10, Opening::Direct, FileSync::Dsync);
    bench.append_vote();
    bench.until("all is durable", |bench| bench.durable == bench.appended);
    bench.stop();
    let first =
        std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(first).unwrap();
    // The first header of the first group, which stands behind the block of the segment.
    file.write_all_at(&[0; 64], BLOCK_BYTES as u64).unwrap();
    let scan = read_log(directory.path(), identity(), true).unwrap().scan;
    assert_eq!((scan.repaired, scan.last(CONSENSUS_JOURNAL)), (1, Lsn(1)));
    repair(directory.path(), &scan.repairs).unwrap();
    let again = read_log(directory.path(), identity(), true).unwrap().scan;
    assert_eq!((again.repaired, again.last(CONSENSUS_JOURNAL)), (0, Lsn(1)));
}

#[test]
fn a_block_that_the_disk_does_not_give_back_is_served_from_its_copy_and_written_anew() {
    let directory = TempLog::new();
    let mut bench = Bench::start(directory.path(), 2 << 20, Opening::Direct, FileSync::Dsync);
    bench.append_vote();
    bench.until("all is durable", |bench| bench.durable == bench.appended);
    bench.stop();
    let paths = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
    let first = paths.min().unwrap();
    // The first block of the first group, and a file that has zeroes there.
    let bad = BLOCK_BYTES as u64..2 * BLOCK_BYTES as u64;
    let file = std::fs::OpenOptions::new().write(true).open(&first).unwrap();
    file.write_all_at(&[0; BLOCK_BYTES], bad.start).unwrap();
    let inode = |file: &std::fs::File| std::os::unix::fs::MetadataExt::ino(&file.metadata().unwrap());
    let worn = |from: &std::fs::File, buffer: &mut [u8], offset: u64| {
        if inode(from) == inode(&file) && offset < bad.end && bad.start < offset + buffer.len() as u64 {
            return Err(rustix::io::Errno::IO.into());
        }
        from.read_exact_at(buffer, offset)
    };
    let found =
        read_log_by(directory.path(), identity(), Reading { sync: true, batches: true }, worn).unwrap();
    let scan = &found.scan;
    assert_eq!((scan.repaired, scan.last(CONSENSUS_JOURNAL), &scan.damage), (1, Lsn(1), &Damage::None));
    let told: Vec<String> = found.unreadable.iter().map(ToString::to_string).collect();
    let place =
        format!("{}: the disk does not give back the bytes from offset 4096 to 8192", first.display());
    assert!(told.len() == 1 && told[0].starts_with(&place), "{told:?}");
    repair(directory.path(), &scan.repairs).unwrap();
    let again = read_log(directory.path(), identity(), true).unwrap();
    assert_eq!((again.scan.repaired, again.unreadable.len()), (0, 0));
}

#[test]
fn a_log_that_cannot_be_read_is_named_with_a_remedy() {
    let directory = TempLog::new();
    let bench = Bench::start(directory.path(), 256 << 10, Opening::Direct, FileSync::Dsync);
    bench.stop();
    std::fs::write(directory.path().join("000000000001.segment"), [7; 3 * BLOCK_BYTES]).unwrap();
    // A disk that is gone, and whatever else is no worn sector.
    for errno in [rustix::io::Errno::IO, rustix::io::Errno::BADF] {
        let read =
            read_log_by(directory.path(), identity(), Reading { sync: true, batches: true }, |_, _, _| {
                Err(errno.into())
            });
        let text = read.unwrap_err().to_string();
        for part in ["000000000001.segment: cannot read it: ", "check data_dir and the disk"] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
    }
}
