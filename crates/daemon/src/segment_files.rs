//! The files of a log's segments: their names, how they are made, and how they are read after a stop.
//!
//! A segment is written with zeroes over its whole length before it is used, so that a write to it later changes no
//! metadata and a sync of it is one write to the disk. All of it blocks, and is never done on a core.

use crate::sync_probe::open_direct;
use quorate_journal::{LogIdentity, Repair, Scan, Scanner, SegmentNumber};
use quorate_reactor::AlignedBuffer;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const SUFFIX: &str = ".segment";
/// How much is zeroed at once.
const ZEROES_BYTES: usize = 1 << 20;

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

/// Makes a segment of zeroes; it and its name are durable when this returns. What a broken attempt has left is made
/// anew.
pub(crate) fn create(
    directory: &Path,
    number: SegmentNumber,
    bytes: u64,
    opening: Opening,
) -> io::Result<File> {
    let path = path(directory, number);
    let file = open(OpenOptions::new().create(true).truncate(true), &path, opening)?;
    let zeroes = AlignedBuffer::zeroed(ZEROES_BYTES);
    let mut offset = 0;
    while offset < bytes {
        let length = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(ZEROES_BYTES);
        if let Err(error) = file.write_all_at(&zeroes[..length], offset) {
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

/// Gives a segment that is not needed a new number; durable when this returns.
pub(crate) fn recycle(
    directory: &Path,
    from: SegmentNumber,
    to: SegmentNumber,
    opening: Opening,
) -> io::Result<File> {
    let path = path(directory, to);
    std::fs::rename(self::path(directory, from), &path)?;
    let file = open(&mut OpenOptions::new(), &path, opening)?;
    sync_directory(directory)?;
    Ok(file)
}

/// Removes a segment. Its name may come back after a loss of power, which does no harm.
pub(crate) fn remove(directory: &Path, number: SegmentNumber) -> io::Result<()> {
    std::fs::remove_file(path(directory, number))
}

/// Reads the log in a directory, segment by segment. With `sync` what was read is durable when this returns: what a
/// killed process has written may stand in a cache, and is taken for durable from here on.
pub(crate) fn read_log(directory: &Path, identity: LogIdentity, sync: bool) -> io::Result<Scan> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        numbers.extend(number(&entry?.file_name().to_string_lossy()));
    }
    numbers.sort();
    let mut scanner = Scanner::new(identity);
    for number in numbers {
        let path = path(directory, number);
        scanner.segment(number, &std::fs::read(&path)?);
        if sync {
            File::open(&path)?.sync_all()?;
        }
    }
    if sync {
        sync_directory(directory)?;
    }
    Ok(scanner.finish())
}

/// Writes the bad copies anew that a scan has found beside good ones; they are durable when this returns. To be done
/// before the log goes on.
pub(crate) fn repair(directory: &Path, scan: &Scan) -> io::Result<()> {
    let mut segments = BTreeSet::new();
    for Repair { segment, offset, bytes } in &scan.repairs {
        let file = OpenOptions::new().write(true).open(path(directory, *segment))?;
        file.write_all_at(bytes, *offset)?;
        segments.insert(*segment);
    }
    segments.into_iter().try_for_each(|segment| File::open(path(directory, segment))?.sync_all())
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
            create(directory.path(), first, 3 << 19, opening).unwrap();
            assert_eq!(std::fs::read(path(directory.path(), first)).unwrap(), vec![0; 3 << 19]);
            let file = recycle(directory.path(), first, second, opening).unwrap();
            file.write_all_at(&AlignedBuffer::zeroed(4096), 0).unwrap();
            assert!(!path(directory.path(), first).exists());
            remove(directory.path(), second).unwrap();
            assert!(remove(directory.path(), second).is_err());
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
