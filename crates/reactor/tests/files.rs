//! Writes to real files: every byte where it belongs, every error told once, no memory that is let go too early.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use quorate_reactor::{AlignedBuffer, AlignedBuffers, BLOCK_BYTES, Event, FileId, FileSync, Reactor};
use support::{pair, pattern, reactor, run};

const SYNCS: [FileSync; 3] = [FileSync::None, FileSync::Dsync, FileSync::ThenDatasync];

/// A new file, opened with O_DIRECT where the file system takes it.
fn create(directory: &Path, name: &str) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    let path = directory.join(name);
    let direct = options.clone().custom_flags(libc::O_DIRECT).open(&path);
    direct.unwrap_or_else(|_| options.create_new(false).create(true).truncate(true).open(&path).unwrap())
}

/// Block `number` of a file.
fn block(number: u64) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::zeroed(BLOCK_BYTES);
    for (position, byte) in buffer.iter_mut().enumerate() {
        *byte = pattern(number * BLOCK_BYTES as u64 + position as u64);
    }
    buffer
}

/// Waits for `count` endings; by token.
fn endings(reactor: &mut Reactor, count: usize) -> BTreeMap<u64, (FileId, AlignedBuffer, io::Result<()>)> {
    let mut found = BTreeMap::new();
    run(reactor, |_, event| {
        if let Some(Event::FileWritten { file, token, buffer, result }) = event {
            assert!(found.insert(token, (file, buffer, result)).is_none(), "write {token} ended twice");
        }
        found.len() == count
    });
    found
}

fn errno(reactor: &mut Reactor) -> Option<i32> {
    let (_, (_, _, result)) = endings(reactor, 1).pop_first().unwrap();
    result.unwrap_err().raw_os_error()
}

fn all_kinds_of_writes_arrive(directory: &Path) {
    const BLOCKS: usize = 200;
    for sync in SYNCS {
        let mut reactor = reactor();
        let file = create(directory, &format!("{sync:?}"));
        let id = reactor.add_file(file.try_clone().unwrap().into());
        // Backwards and many at once.
        for number in (0..BLOCKS as u64).rev() {
            reactor.write(id, number * BLOCK_BYTES as u64, block(number), sync, number);
        }
        for (token, (file, buffer, result)) in endings(&mut reactor, BLOCKS) {
            result.unwrap();
            assert_eq!((file, &*buffer), (id, &*block(token)));
        }
        let mut found = AlignedBuffer::zeroed(BLOCK_BYTES * BLOCKS);
        file.read_exact_at(&mut found, 0).unwrap();
        assert!(found.iter().zip(0..).all(|(byte, position)| *byte == pattern(position)));
        let counters = reactor.counters();
        assert_eq!(counters.file_writes, BLOCKS as u64);
        assert_eq!(counters.file_bytes, (BLOCKS * BLOCK_BYTES) as u64);
        assert_eq!(counters.file_syncs, if sync == FileSync::None { 0 } else { BLOCKS as u64 });
    }
}

#[test]
fn every_write_arrives_on_a_disk() {
    // Where the sources are, since the directory for temporary files may be in memory.
    all_kinds_of_writes_arrive(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap().path());
}

#[test]
fn every_write_arrives_in_memory() {
    let Ok(directory) = tempfile::tempdir_in("/dev/shm") else {
        return eprintln!("every_write_arrives_in_memory: skipped, there is no /dev/shm");
    };
    all_kinds_of_writes_arrive(directory.path());
}

#[test]
fn linked_writes_through_a_small_submission_queue_all_arrive() {
    let options = quorate_reactor::ReactorOptions {
        submission_entries: 32,
        ..quorate_reactor::ReactorOptions::default()
    };
    let mut reactor = Reactor::new(&options).unwrap();
    let file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let id = reactor.add_file(file.try_clone().unwrap().into());
    for number in 0..500 {
        reactor.write(id, number * BLOCK_BYTES as u64, block(number), FileSync::ThenDatasync, number);
    }
    for (_, (_, _, result)) in endings(&mut reactor, 500) {
        result.unwrap();
    }
    assert_eq!(file.metadata().unwrap().len(), 500 * BLOCK_BYTES as u64);
}

#[test]
fn a_write_to_a_file_that_is_only_read_or_that_is_full_fails() {
    let directory = tempfile::tempdir().unwrap();
    drop(create(directory.path(), "file"));
    for sync in SYNCS {
        let mut reactor = reactor();
        let read_only = reactor.add_file(File::open(directory.path().join("file")).unwrap().into());
        reactor.write(read_only, 0, block(0), sync, 1);
        assert_eq!(errno(&mut reactor), Some(libc::EBADF));
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let full = reactor.add_file(full.into());
        reactor.write(full, 0, block(0), sync, 2);
        assert_eq!(errno(&mut reactor), Some(libc::ENOSPC));
        assert_eq!(reactor.counters().file_writes, 0);
    }
}

/// A file system that is unmounted in the end.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_disk_that_fills_up_during_a_write_fails_it() {
    let directory = tempfile::tempdir().unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=64k", "none"];
    let mounted = Command::new("mount").args(mount).arg(directory.path()).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        return eprintln!("a_disk_that_fills_up_during_a_write_fails_it: skipped, mounting needs privileges");
    }
    let mounted = Mounted(directory.path());
    for sync in SYNCS {
        let mut reactor = reactor();
        let file = create(mounted.0, &format!("{sync:?}"));
        let id = reactor.add_file(file.into());
        // The first half fits; the rest does not, which the kernel says only when it is asked to go on.
        reactor.write(id, 0, AlignedBuffer::zeroed(128 << 10), sync, 1);
        assert_eq!(errno(&mut reactor), Some(libc::ENOSPC));
        drop(reactor);
        std::fs::remove_file(mounted.0.join(format!("{sync:?}"))).unwrap();
    }
}

#[test]
fn a_removed_file_is_closed_after_its_writes_and_its_id_is_stale() {
    let mut reactor = reactor();
    let file = tempfile::tempfile().unwrap();
    let id = reactor.add_file(file.try_clone().unwrap().into());
    reactor.write(id, 0, block(0), FileSync::Dsync, 1);
    reactor.remove_file(id);
    reactor.remove_file(id);
    reactor.write(id, 0, block(1), FileSync::Dsync, 2);
    let mut ended = endings(&mut reactor, 2);
    ended.remove(&1).unwrap().2.unwrap();
    let refused = ended.remove(&2).unwrap();
    assert_eq!(refused.2.unwrap_err().raw_os_error(), Some(libc::EBADF));
    assert_eq!(&*refused.1, &*block(1), "the buffer comes back in any case");
    // Its place is used again, under another name.
    let next = reactor.add_file(tempfile::tempfile().unwrap().into());
    assert_ne!(next, id);
    reactor.remove_file(id);
    reactor.write(next, 0, block(3), FileSync::None, 3);
    endings(&mut reactor, 1).remove(&3).unwrap().2.unwrap();
    let mut found = block(9);
    file.read_exact_at(&mut found, 0).unwrap();
    assert_eq!(&*found, &*block(0));
}

#[test]
fn a_dropped_reactor_waits_for_its_writes() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for (round, sync) in SYNCS.into_iter().cycle().take(30).enumerate() {
        let mut reactor = reactor();
        let id = reactor.add_file(create(directory.path(), &format!("{round}")).into());
        for number in 0..50 {
            reactor.write(id, number * BLOCK_BYTES as u64, block(number), sync, number);
        }
        if round % 2 == 0 {
            reactor.wait(Some(Instant::now())).unwrap();
        }
        let started = Instant::now();
        drop(reactor);
        assert!(started.elapsed() < support::PATIENCE, "the kernel did not let go");
    }
}

#[test]
fn a_lone_write_wakes_a_reactor_with_little_to_do_at_once() {
    // Asleep with an idle connection and no deadline, the completion of the write is all that comes.
    let mut reactor = reactor();
    let _pair = pair(&mut reactor);
    let id = reactor
        .add_file(tempfile::tempfile_in("/dev/shm").unwrap_or_else(|_| tempfile::tempfile().unwrap()).into());
    let mut buffers = AlignedBuffers::default();
    for token in 0..100 {
        let buffer = buffers.take(BLOCK_BYTES);
        reactor.write(id, 0, buffer, FileSync::Dsync, token);
        let before = reactor.counters().enters;
        let mut returned = None;
        while returned.is_none() {
            reactor.wait(None).unwrap();
            while let Some(event) = reactor.next_event() {
                if let Event::FileWritten { buffer, result, .. } = event {
                    result.unwrap();
                    returned = Some(buffer);
                }
            }
        }
        let enters = reactor.counters().enters - before;
        assert!(enters <= 2, "{enters} enters for one write");
        returned.into_iter().for_each(|buffer| buffers.give_back(buffer));
    }
}
