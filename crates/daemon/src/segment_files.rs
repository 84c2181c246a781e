//! The files of a log's segments: their names, how they are made, and how they are read after a stop.
//!
//! A segment is written with zeroes over its whole length before it is used, so that a write to it later changes no
//! metadata and a sync of it is one write to the disk. All of it blocks, and is never done on a core.
//!
//! Beside the directory of a log `log-N`, the file `log-N.made` says up to which number segments were made. It is
//! durable before one is used, so that a segment that is gone is missed, the last one and all of them, too.

use crate::data_directory::{DirectoryError, failed, write_durably};
use crate::sync_probe::open_direct;
use quorate_journal::{
    BLOCK_BYTES, LogIdentity, Record, RecordPlace, Repair, Scan, Scanner, SegmentNumber, SegmentsMade,
};
use quorate_reactor::AlignedBuffer;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tracing::warn;

const SUFFIX: &str = ".segment";
/// How much is zeroed at once.
const ZEROES_BYTES: usize = 1 << 20;
/// How much is read at once.
pub(crate) const READ_BYTES: usize = 1 << 20;
const _: () = assert!(READ_BYTES.is_multiple_of(BLOCK_BYTES));

/// How segments are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// Past the cache of the system, where the file system takes that.
    Direct,
    /// Through the cache: for logs whose writes do not wait for the disk.
    Buffered,
}

/// The file of a segment.
pub(crate) fn path(directory: &Path, number: SegmentNumber) -> PathBuf {
    directory.join(format!("{:012}{SUFFIX}", number.0))
}

fn number(name: &str) -> Option<SegmentNumber> {
    let digits =
        name.strip_suffix(SUFFIX).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok().map(SegmentNumber)
}

fn open(options: &mut OpenOptions, path: &Path, opening: Opening) -> io::Result<File> {
    options.write(true);
    match opening {
        Opening::Direct => open_direct(options, path).map(|(file, _)| file),
        Opening::Buffered => options.open(path),
    }
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Makes a segment of zeroes behind its first block; it and its name are durable when this returns. What a broken
/// attempt has left is made anew.
pub(crate) fn create(
    directory: &Path,
    number: SegmentNumber,
    first_block: &[u8],
    bytes: u64,
    opening: Opening,
) -> io::Result<File> {
    let path = path(directory, number);
    let file = open(OpenOptions::new().create(true).truncate(true).mode(0o600), &path, opening)?;
    let mut content = AlignedBuffer::zeroed(ZEROES_BYTES);
    content[..first_block.len()].copy_from_slice(first_block);
    let mut offset = 0;
    while offset < bytes {
        let length = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(ZEROES_BYTES);
        let written = file.write_all_at(&content[..length], offset);
        content[..first_block.len()].fill(0);
        if let Err(error) = written {
            // Half a segment is of no use, and takes room that may be short.
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        offset += length as u64;
    }
    file.sync_all()?;
    sync_directory(directory)?;
    Ok(file)
}

/// Gives a segment that is not needed a new number and a new first block; durable when this returns. The block is so
/// before the name: a number that is left out by this is stated to be.
pub(crate) fn recycle(
    directory: &Path,
    from: SegmentNumber,
    to: SegmentNumber,
    first_block: &[u8],
    opening: Opening,
) -> io::Result<File> {
    let (from, path) = (self::path(directory, from), path(directory, to));
    if path.exists() && !from.exists() {
        // An attempt that found no room for what comes behind has come so far.
        let file = open(&mut OpenOptions::new(), &path, opening)?;
        sync_directory(directory)?;
        return Ok(file);
    }
    let file = open(&mut OpenOptions::new(), &from, opening)?;
    let mut block = AlignedBuffer::zeroed(BLOCK_BYTES);
    block[..first_block.len()].copy_from_slice(first_block);
    file.write_all_at(&block, 0)?;
    file.sync_data()?;
    std::fs::rename(from, path)?;
    sync_directory(directory)?;
    Ok(file)
}

/// Cuts off the end of a segment, behind which nothing stands; durable when this returns.
pub(crate) fn shorten(directory: &Path, number: SegmentNumber, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path(directory, number))?;
    file.set_len(bytes)?;
    file.sync_all()
}

/// What the name of the file ends with that says how many segments of a log were made.
pub(crate) const MADE: &str = ".made";

/// The file that says how many segments of the log in `directory` were made: its directory and its name.
fn made_file(directory: &Path) -> (PathBuf, String) {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    (directory.parent().unwrap_or(Path::new(".")).to_owned(), format!("{name}{MADE}"))
}

/// Notes which segments of the log in `directory` were made; durable when this returns.
pub(crate) fn note_made(directory: &Path, made: SegmentsMade) -> Result<(), DirectoryError> {
    let (parent, name) = made_file(directory);
    let SegmentsMade { upto, needed_from, run, used_before } = made;
    let text = format!("{upto} {needed_from} {run} {used_before}");
    write_durably(&parent, &name, format!("{text} {:08x}\n", crc32c::crc32c(text.as_bytes())).as_bytes())
}

/// Which segments of the log in `directory` were made, as far as that is known.
pub(crate) fn made(directory: &Path) -> Result<SegmentsMade, DirectoryError> {
    let (parent, name) = made_file(directory);
    let path = parent.join(name);
    let text = match std::fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(SegmentsMade::default()),
        Err(error) => return Err(failed(&path, "read how many segments there were")(error)),
    };
    Ok(parse_made(text.trim_end()).unwrap_or_else(|| {
        warn!("{}: it is damaged, and is written again with the next segment", path.display());
        SegmentsMade::default()
    }))
}

fn parse_made(text: &str) -> Option<SegmentsMade> {
    let (numbers, check) = text.rsplit_once(' ')?;
    if check != format!("{:08x}", crc32c::crc32c(numbers.as_bytes())) {
        return None;
    }
    let numbers: Vec<SegmentNumber> =
        numbers.split(' ').map(|text| text.parse().ok().map(SegmentNumber)).collect::<Option<_>>()?;
    let [upto, needed_from, run, used_before] = *numbers.as_array()?;
    Some(SegmentsMade { upto, needed_from, run, used_before })
}

/// Removes a segment. Its name may come back after a loss of power, which does no harm.
pub(crate) fn remove(directory: &Path, number: SegmentNumber) -> io::Result<()> {
    std::fs::remove_file(path(directory, number))
}

/// Blocks of a segment that the disk does not give back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable {
    path: PathBuf,
    bytes: Range<u64>,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, Range { start, end }) = (self.path.display(), &self.bytes);
        write!(
            f,
            "{path}: the disk does not give back the bytes from offset {start} to {end}; what was there is damaged"
        )
    }
}

/// What the files of a log hold.
#[derive(Debug)]
pub(crate) struct LogRead {
    pub(crate) scan: Scan,
    /// What the scan has taken for zeroes.
    pub(crate) unreadable: Vec<Unreadable>,
}

/// How a log is read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reading {
    /// Makes what was read durable: what a killed process has written may stand in a cache, and is taken for durable from
    /// here on.
    pub(crate) sync: bool,
    /// Keeps the batches in memory, which may be all that the disk holds.
    pub(crate) batches: bool,
}

/// Reads the log in a directory, segment by segment.
pub(crate) fn read_log(
    directory: &Path,
    identity: LogIdentity,
    reading: Reading,
) -> Result<LogRead, DirectoryError> {
    read_log_by(directory, identity, reading, |file, buffer, offset| file.read_exact_at(buffer, offset))
}

/// As [`read_log`], by way of `read`. A directory that is not there has no segments, and what was made of it is absent.
pub(crate) fn read_log_by(
    directory: &Path,
    identity: LogIdentity,
    Reading { sync, batches }: Reading,
    read: impl Fn(&File, &mut [u8], u64) -> io::Result<()>,
) -> Result<LogRead, DirectoryError> {
    let is_there = directory.try_exists().map_err(failed(directory, "see whether it is there"))?;
    let numbers = if is_there { numbers(directory)? } else { Vec::new() };
    let (mut scanner, mut unreadable) = (Scanner::new(identity).made(made(directory)?), Vec::new());
    if !batches {
        scanner = scanner.without_batches();
    }
    for number in numbers {
        let path = path(directory, number);
        let file = File::open(&path).map_err(failed(&path, "open it"))?;
        let bytes = file
            .metadata()
            .and_then(|metadata| read_segment(metadata.len(), |buffer, offset| read(&file, buffer, offset)));
        let (bytes, bad) = bytes.map_err(failed(&path, "read it"))?;
        unreadable.extend(bad.into_iter().map(|bytes| Unreadable { path: path.clone(), bytes }));
        scanner.segment(number, &bytes);
        if sync {
            file.sync_all().map_err(failed(&path, "sync it"))?;
        }
    }
    if sync && is_there {
        sync_directory(directory).map_err(failed(directory, "sync it"))?;
    }
    Ok(LogRead { scan: scanner.finish(), unreadable })
}

/// The numbers of the segments in a directory, in order.
fn numbers(directory: &Path) -> Result<Vec<SegmentNumber>, DirectoryError> {
    let entries = std::fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = entries.map_err(failed(directory, "list it"))?;
    let mut numbers: Vec<SegmentNumber> =
        entries.iter().filter_map(|entry| number(&entry.file_name().to_string_lossy())).collect();
    numbers.sort();
    Ok(numbers)
}

/// The bytes of a segment, and where the disk does not give them back. There they are zeroes, so that the scan takes what
/// was there for damaged: it has a second copy of what must not be lost. If the disk gives nothing at all back, it is
/// gone rather than worn, and that is an error.
pub(crate) fn read_segment(
    length: u64,
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<()>,
) -> io::Result<(Vec<u8>, Vec<Range<u64>>)> {
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    let mut bad: Vec<Range<u64>> = Vec::new();
    let mut offset = 0;
    for chunk in bytes.chunks_mut(READ_BYTES) {
        if is_given(read(chunk, offset))? {
            offset += chunk.len() as u64;
            continue;
        }
        for block in chunk.chunks_mut(BLOCK_BYTES) {
            let end = offset + block.len() as u64;
            if !is_given(read(block, offset))? {
                block.fill(0);
                match bad.last_mut().filter(|last| last.end == offset) {
                    Some(last) => last.end = end,
                    None => bad.push(offset..end),
                }
            }
            offset = end;
        }
    }
    if bad.first().is_some_and(|first| *first == (0..length)) {
        return Err(Errno::IO.into());
    }
    Ok((bytes, bad))
}

/// Whether a read was not refused by the medium.
fn is_given(read: io::Result<()>) -> io::Result<bool> {
    match read {
        Ok(()) => Ok(true),
        // What the kernel makes of a bad sector.
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::IO | Errno::NODATA)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads a record back that a scan has found in the log in `directory`; nothing if it is not there any more.
pub(crate) fn read_record(directory: &Path, place: &RecordPlace) -> Result<Option<Record>, DirectoryError> {
    let path = path(directory, place.segment);
    let mut bytes = vec![0; place.bytes as usize];
    let read = File::open(&path).and_then(|file| file.read_exact_at(&mut bytes, place.offset));
    if is_given(read).map_err(failed(&path, "read it"))? {
        return Ok(place.record(&bytes));
    }
    Ok(None)
}

/// Writes the bad copies anew that were found beside good ones; they are durable when this returns. What a scan has found
/// is written before the log goes on. A disk replaces a sector that it cannot read when it is written.
pub(crate) fn repair(directory: &Path, repairs: &[Repair]) -> Result<(), DirectoryError> {
    let mut segments = BTreeSet::new();
    for Repair { segment, offset, bytes } in repairs {
        let path = path(directory, *segment);
        let write = |file: File| file.write_all_at(bytes, *offset);
        let written = OpenOptions::new().write(true).open(&path).and_then(write);
        written.map_err(failed(&path, "write a damaged copy anew"))?;
        segments.insert(path);
    }
    segments.iter().try_for_each(|path| {
        File::open(path).and_then(|file| file.sync_all()).map_err(failed(path, "sync it"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_numbers_and_others_say_none() {
        let name = |number| path(Path::new(""), SegmentNumber(number)).display().to_string();
        assert_eq!(name(7), "000000000007.segment");
        for value in [1, 999_999_999_999, 1_000_000_000_000] {
            assert_eq!(number(&name(value)), Some(SegmentNumber(value)));
        }
        for other in
            ["7", "x.segment", ".segment", "+1.segment", "1.segment.new", "99999999999999999999.segment"]
        {
            assert_eq!(number(other), None, "{other}");
        }
    }

    #[test]
    fn a_segment_is_made_renamed_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        for opening in [Opening::Direct, Opening::Buffered] {
            let (first, second) = (SegmentNumber(1), SegmentNumber(2));
            create(directory.path(), first, &[7; BLOCK_BYTES], 3 << 19, opening).unwrap();
            let content = std::fs::read(path(directory.path(), first)).unwrap();
            assert_eq!(content.len(), 3 << 19);
            assert!(content[..BLOCK_BYTES].iter().all(|byte| *byte == 7));
            assert!(content[BLOCK_BYTES..].iter().all(|byte| *byte == 0));
            let file = recycle(directory.path(), first, second, &[8; BLOCK_BYTES], opening).unwrap();
            file.write_all_at(&AlignedBuffer::zeroed(4096), 4096).unwrap();
            assert!(!path(directory.path(), first).exists());
            recycle(directory.path(), first, second, &[8; BLOCK_BYTES], opening).unwrap();
            shorten(directory.path(), second, 8192).unwrap();
            let content = std::fs::read(path(directory.path(), second)).unwrap();
            assert_eq!(content, [[8; BLOCK_BYTES], [0; BLOCK_BYTES]].concat());
            remove(directory.path(), second).unwrap();
            assert!(remove(directory.path(), second).is_err());
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn how_many_segments_were_made_is_known_beside_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log-0");
        std::fs::create_dir(&log).unwrap();
        let none = SegmentsMade::default();
        assert_eq!(made(&log).unwrap(), none);
        let [upto, needed_from, run, used_before] = [12, 9, 11, 8].map(SegmentNumber);
        let last = SegmentsMade { upto, needed_from, run, used_before };
        for known in [SegmentsMade { upto: SegmentNumber(1), ..none }, last] {
            note_made(&log, known).unwrap();
            assert_eq!(made(&log).unwrap(), known);
        }
        std::fs::remove_dir(&log).unwrap();
        assert_eq!(made(&log).unwrap(), last, "also when the log is gone");
        let file = directory.path().join("log-0.made");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("12 9", "13 9")).unwrap();
        assert_eq!(made(&log).unwrap(), none, "damaged, it says nothing");
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        assert!(made(&log).unwrap_err().to_string().contains("log-0.made: cannot read how many segments"));
    }
}
