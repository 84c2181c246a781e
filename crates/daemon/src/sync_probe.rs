//! Which way of making a group durable is the faster one on this disk, found out by trying both at start.
//!
//! One write that waits for the disk (RWF_DSYNC) is a single operation and wins on disks whose cache survives a power
//! cut; a write with an fdatasync behind it wins on others (DESIGN section 3). Both are as safe. Written is to a
//! zero-written scratch file, as segments are, so that no allocation is in the figures.

use quorate_reactor::{AlignedBuffer, BLOCK_BYTES, FileSync};
use rustix::fs::OFlags;
use rustix::io::{ReadWriteFlags, pwritev2};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// The name of the scratch file in the data directory.
pub(crate) const SCRATCH: &str = "probe";
/// The writes that are tried in each way.
const WRITES: usize = 64;
/// On a slow disk it ends after this time, if a few writes were tried.
const TIME_MAX: Duration = Duration::from_millis(300);
const WRITES_MIN: usize = 8;

/// What was found out about a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DiskReport {
    /// Whether files can be written past the cache of the system (O_DIRECT).
    pub(crate) direct: bool,
    /// The median time of one write with RWF_DSYNC.
    pub(crate) dsync: Duration,
    /// The median time of one write with an fdatasync behind it.
    pub(crate) datasync: Duration,
}

impl DiskReport {
    /// The way that the log is to take: one operation unless two are clearly faster, since on the ring the second one
    /// needs a thread of the kernel besides.
    pub(crate) fn choice(&self) -> FileSync {
        if self.dsync <= self.datasync * 5 / 4 { FileSync::Dsync } else { FileSync::ThenDatasync }
    }

    /// Tells the log of the process.
    pub(crate) fn tell(&self, directory: &Path) {
        let directory = directory.display();
        let choice = match self.choice() {
            FileSync::ThenDatasync => "a write and fdatasync",
            FileSync::None | FileSync::Dsync => "a write with RWF_DSYNC",
        };
        info!(
            "{directory}: a sync takes {} µs as a write with RWF_DSYNC and {} µs as a write and fdatasync; the log takes \
             {choice}",
            self.dsync.as_micros(),
            self.datasync.as_micros(),
        );
        if !self.direct {
            warn!(
                "{directory}: the file system refuses O_DIRECT, so the log goes through the cache of the system, which \
                 is slower; use ext4 or xfs"
            );
        }
    }
}

/// Tries the disk of `directory`. Blocks for as long as some syncs take, 0.6 s at most where one takes under 30 ms.
pub(crate) fn probe(directory: &Path) -> io::Result<DiskReport> {
    let path = directory.join(SCRATCH);
    let result = try_both(&path);
    // It may not even have been made.
    let _ = std::fs::remove_file(&path);
    result
}

fn try_both(path: &Path) -> io::Result<DiskReport> {
    let (file, direct) =
        open_direct(OpenOptions::new().write(true).create(true).truncate(true).mode(0o600), path)?;
    let zeroes = AlignedBuffer::zeroed(WRITES * BLOCK_BYTES);
    file.write_all_at(&zeroes, 0)?;
    file.sync_all()?;
    let mut block = AlignedBuffer::zeroed(BLOCK_BYTES);
    block.fill(1);
    let dsync = median(|offset| {
        let written = pwritev2(&file, &[IoSlice::new(&block)], offset, ReadWriteFlags::DSYNC)?;
        if written == block.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    })?;
    let datasync = median(|offset| {
        file.write_all_at(&block, offset)?;
        file.sync_data()
    })?;
    Ok(DiskReport { direct, dsync, datasync })
}

fn median(mut write: impl FnMut(u64) -> io::Result<()>) -> io::Result<Duration> {
    let begin = Instant::now();
    let mut times = Vec::with_capacity(WRITES);
    for number in 0..WRITES {
        let started = Instant::now();
        write((number * BLOCK_BYTES) as u64)?;
        times.push(started.elapsed());
        if times.len() >= WRITES_MIN && begin.elapsed() > TIME_MAX {
            break;
        }
    }
    times.sort();
    Ok(times[times.len() / 2])
}

/// Opens a file with O_DIRECT if the file system takes that; says whether it did.
pub(crate) fn open_direct(options: &OpenOptions, path: &Path) -> io::Result<(File, bool)> {
    let flags = i32::try_from(OFlags::DIRECT.bits()).expect("invariant: flags are positive numbers");
    match options.clone().mode(0o600).custom_flags(flags).open(path) {
        Ok(file) => Ok((file, true)),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            options.clone().mode(0o600).open(path).map(|file| (file, false))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_tried_and_nothing_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let report = probe(directory.path()).unwrap();
        report.tell(directory.path());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(probe(&directory.path().join("missing")).is_err());
    }

    #[test]
    fn the_faster_way_is_chosen_and_one_operation_rather_than_two_that_are_hardly_faster() {
        let report = |dsync, datasync| DiskReport {
            direct: true,
            dsync: Duration::from_micros(dsync),
            datasync: Duration::from_micros(datasync),
        };
        assert_eq!(report(175, 240).choice(), FileSync::Dsync);
        assert_eq!(report(256, 239).choice(), FileSync::Dsync);
        assert_eq!(report(2, 2).choice(), FileSync::Dsync);
        assert_eq!(report(900, 500).choice(), FileSync::ThenDatasync);
    }
}
