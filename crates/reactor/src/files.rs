//! Files and the writes to them.
//!
//! A write owns its buffer from the call until its last operation has completed; the event that ends it gives the
//! buffer back. A short write is continued from where it stopped, and the caller sees one write. An error ends the
//! write and is reported; nothing is tried again, since after a failed write or sync nobody knows what is on the disk.
//!
//! A sync that follows its write is linked to it, so that the kernel starts it without a turn of the loop in between.
//! The kernel breaks a link when the write is short or fails; the sync is then cancelled and, if the write was only
//! short, asked for again with the rest. Should the kernel have taken one of the two entries without the other, the sync
//! may have come too early, and another one follows.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use io_uring::{opcode, types};

use crate::aligned::AlignedBuffer;
use crate::event::Event;
use crate::operation::{INDEX_MAX, Kind, Operation};
use crate::reactor::Reactor;

/// Bytes of one write; the kernel takes a little less than 2 GiB at once.
const WRITE_BYTES_MAX: usize = 1 << 30;

/// A file of one reactor. An id whose file was removed is harmless everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    index: u32,
    generation: u32,
}

/// What a write waits for besides having been taken by the kernel. (Not `Sync`, which is a trait of the language.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSync {
    /// Nothing: the data survives the process and not the machine.
    None,
    /// The write itself returns when the data is on the disk (RWF_DSYNC): one operation.
    Dsync,
    /// An fdatasync follows the write: two operations, better where a forced write is slow.
    ThenDatasync,
}

#[derive(Debug)]
struct OpenFile {
    descriptor: OwnedFd,
    /// Writes that are not over.
    writes: usize,
    /// Closed after the last of them.
    removed: bool,
}

/// How far a write has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// The write is with the kernel, alone.
    Writing,
    /// The write and the sync linked to it are with the kernel.
    Both,
    /// The linked sync alone is left with the kernel.
    LinkedSync,
    /// A sync of its own is with the kernel.
    Syncing,
}

#[derive(Debug)]
struct Write {
    file: FileId,
    offset: u64,
    /// The kernel reads from it; moving this struct does not move the bytes.
    buffer: AlignedBuffer,
    /// Bytes that the kernel has taken.
    written: usize,
    sync: FileSync,
    token: u64,
    progress: Progress,
    /// The linked sync succeeded.
    synced: bool,
    /// The first error, by its number.
    error: Option<i32>,
    /// The ring's partial submissions when the operations were queued.
    partial_submissions: u64,
}

/// A vector with reused places; a name is stale once its value was removed.
#[derive(Debug)]
struct Slab<T> {
    places: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    fn insert(&mut self, value: T) -> (u32, u32) {
        let index = self.free.pop().unwrap_or_else(|| {
            let index = u32::try_from(self.places.len()).unwrap_or(INDEX_MAX);
            assert!(index < INDEX_MAX, "a reactor has at most 16 million files and writes");
            self.places.push((0, None));
            index
        });
        let (generation, place) = &mut self.places[index as usize];
        assert!(place.is_none(), "invariant: the free list names empty places");
        *place = Some(value);
        (index, *generation)
    }

    fn get_mut(&mut self, index: u32, generation: u32) -> Option<&mut T> {
        let place = self.places.get_mut(index as usize).filter(|place| place.0 == generation)?;
        place.1.as_mut()
    }

    fn remove(&mut self, index: u32, generation: u32) -> Option<T> {
        self.get_mut(index, generation)?;
        let place = &mut self.places[index as usize];
        place.0 = place.0.wrapping_add(1);
        self.free.push(index);
        place.1.take()
    }
}

/// All files of a reactor and the writes that are not over.
#[derive(Debug, Default)]
pub(crate) struct Files {
    files: Slab<OpenFile>,
    writes: Slab<Write>,
}

impl Files {
    fn file(&mut self, id: FileId) -> Option<&mut OpenFile> {
        self.files.get_mut(id.index, id.generation)
    }

    fn write(&mut self, operation: Operation) -> &mut Write {
        let write = self.writes.get_mut(operation.index, operation.generation);
        write.expect("invariant: a write outlives its operations")
    }

    fn descriptor(&mut self, id: FileId) -> RawFd {
        let file = self.file(id).expect("invariant: a file stays while it is written to");
        file.descriptor.as_raw_fd()
    }

    /// Closes a removed file after its last write; says whether it did.
    fn release(&mut self, id: FileId) -> bool {
        let gone = self.file(id).is_some_and(|file| file.removed && file.writes == 0);
        gone && self.files.remove(id.index, id.generation).is_some()
    }
}

impl Reactor {
    /// Takes in a file that was opened elsewhere, in whatever way: with O_DIRECT offsets and lengths of writes must be
    /// multiples of [`BLOCK_BYTES`](crate::BLOCK_BYTES). Opening blocks, so it is not done here.
    pub fn add_file(&mut self, descriptor: OwnedFd) -> FileId {
        let (index, generation) = self.files.files.insert(OpenFile { descriptor, writes: 0, removed: false });
        FileId { index, generation }
    }

    /// Closes a file after the writes that are in flight, which are still reported. A stale id does nothing.
    pub fn remove_file(&mut self, id: FileId) {
        let Some(file) = self.files.file(id) else { return };
        file.removed = true;
        self.counters.other_syscalls += u64::from(self.files.release(id));
    }

    /// Writes all of `buffer` at `offset`, leaving with the next wait. [`Event::FileWritten`] with `token` ends it.
    /// Writes in flight at the same time complete in any order. A file that was removed gives EBADF.
    ///
    /// # Panics
    /// When the buffer is empty or longer than 1 GiB.
    pub fn write(&mut self, file: FileId, offset: u64, buffer: AlignedBuffer, sync: FileSync, token: u64) {
        assert!(
            (1..=WRITE_BYTES_MAX).contains(&buffer.len()),
            "a write has one byte at least and 1 GiB at most"
        );
        let Some(state) = self.files.file(file).filter(|state| !state.removed) else {
            let result = Err(io::Error::from_raw_os_error(libc::EBADF));
            return self.ready.push_back(Event::FileWritten { file, token, buffer, result });
        };
        state.writes += 1;
        let (index, generation) = self.files.writes.insert(Write {
            file,
            offset,
            buffer,
            written: 0,
            sync,
            token,
            progress: Progress::Writing,
            synced: false,
            error: None,
            partial_submissions: 0,
        });
        self.start_write(Operation::new(Kind::FileWrite, index, generation));
    }

    /// Gives what is left of a write to the kernel, with the sync that follows it.
    fn start_write(&mut self, operation: Operation) {
        let file = self.files.write(operation).file;
        let descriptor = types::Fd(self.files.descriptor(file));
        let partial_submissions = self.ring.partial_submissions;
        let write = self.files.write(operation);
        write.partial_submissions = partial_submissions;
        let rest = &write.buffer[write.written..];
        let length = u32::try_from(rest.len()).expect("invariant: a write is at most 1 GiB");
        let flags = if write.sync == FileSync::Dsync { libc::RWF_DSYNC } else { 0 };
        let entry = opcode::Write::new(descriptor, rest.as_ptr(), length)
            .offset(write.offset + write.written as u64)
            .rw_flags(flags)
            .build();
        if write.sync != FileSync::ThenDatasync {
            write.progress = Progress::Writing;
            // SAFETY: the buffer belongs to the write, which leaves the slab only after this operation has completed;
            // its bytes do not move with it and nobody else can reach them. The descriptor is open as long as a write
            // counts in its file.
            return unsafe { self.submit(entry, operation) };
        }
        write.progress = Progress::Both;
        let sync = opcode::Fsync::new(descriptor).flags(types::FsyncFlags::DATASYNC).build();
        let second = (sync, Operation { kind: Kind::FileSync, ..operation });
        // SAFETY: as above; a sync names no memory.
        unsafe { self.submit_linked((entry, operation), second) };
    }

    /// One operation of a write has completed.
    pub(crate) fn complete_file(&mut self, operation: Operation, result: i32) -> Option<Event> {
        self.operations -= 1;
        let operation_kind = operation.kind;
        let operation = Operation { kind: Kind::FileWrite, ..operation };
        let write = self.files.write(operation);
        let failure = (result < 0).then_some(-result);
        match operation_kind {
            Kind::FileSync => {
                // A cancelled link is no error of its own.
                let alone = write.progress == Progress::Syncing;
                let failure = failure.filter(|errno| alone || *errno != libc::ECANCELED);
                // Before the write was over, it covers nothing.
                write.synced = result >= 0 && write.progress != Progress::Both;
                write.error = write.error.or(failure);
            }
            _ => {
                let taken = usize::try_from(result).unwrap_or(0);
                write.written += taken;
                assert!(write.written <= write.buffer.len(), "invariant: the kernel takes what it was given");
                // A write that takes nothing and names no error would be continued for ever.
                write.error = write.error.or(failure).or((taken == 0).then_some(libc::EIO));
            }
        }
        match (write.progress, operation_kind) {
            (Progress::Both, Kind::FileSync) => {
                write.progress = Progress::Writing;
                None
            }
            (Progress::Both, _) => {
                write.progress = Progress::LinkedSync;
                None
            }
            (Progress::Writing | Progress::LinkedSync | Progress::Syncing, _) => self.go_on(operation),
        }
    }

    /// Nothing of the write is with the kernel: continues or ends it.
    fn go_on(&mut self, operation: Operation) -> Option<Event> {
        let partial_submissions = self.ring.partial_submissions;
        let write = self.files.write(operation);
        if write.error.is_some() {
            return Some(self.end_write(operation));
        }
        if write.written < write.buffer.len() {
            write.synced = false;
            self.start_write(operation);
            return None;
        }
        let in_order =
            write.progress == Progress::Syncing || write.partial_submissions == partial_submissions;
        if write.sync == FileSync::ThenDatasync && !(write.synced && in_order) {
            write.progress = Progress::Syncing;
            let file = write.file;
            let descriptor = types::Fd(self.files.descriptor(file));
            let sync = opcode::Fsync::new(descriptor).flags(types::FsyncFlags::DATASYNC).build();
            // SAFETY: a sync names no memory, and the descriptor is open as long as a write counts in its file.
            unsafe { self.submit(sync, Operation { kind: Kind::FileSync, ..operation }) };
            return None;
        }
        Some(self.end_write(operation))
    }

    fn end_write(&mut self, operation: Operation) -> Event {
        let write = self.files.writes.remove(operation.index, operation.generation);
        let Write { file, buffer, token, sync, error, .. } = write.expect("invariant: a write ends once");
        let state = self.files.file(file).expect("invariant: a file stays while it is written to");
        state.writes -= 1;
        self.counters.other_syscalls += u64::from(self.files.release(file));
        let result = match error {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => {
                self.counters.file_writes += 1;
                self.counters.file_bytes += buffer.len() as u64;
                self.counters.file_syncs += u64::from(sync != FileSync::None);
                Ok(())
            }
        };
        Event::FileWritten { file, token, buffer, result }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::ReactorOptions;
    use std::time::{Duration, Instant};

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A write whose operations the kernel never saw: what it answers is for the test to say.
    fn invented(reactor: &mut Reactor, sync: FileSync, progress: Progress) -> (Operation, std::fs::File) {
        let file = tempfile::tempfile().unwrap();
        let id = reactor.add_file(file.try_clone().unwrap().into());
        let mut buffer = AlignedBuffer::zeroed(10_000);
        buffer.fill(b'x');
        reactor.files.file(id).unwrap().writes += 1;
        let (index, generation) = reactor.files.writes.insert(Write {
            file: id,
            offset: 5,
            buffer,
            written: 0,
            sync,
            token: 77,
            progress,
            synced: false,
            error: None,
            partial_submissions: reactor.ring.partial_submissions,
        });
        reactor.operations += if progress == Progress::Both { 2 } else { 1 };
        (Operation::new(Kind::FileWrite, index, generation), file)
    }

    fn sync_of(operation: Operation) -> Operation {
        Operation { kind: Kind::FileSync, ..operation }
    }

    fn ending(reactor: &mut Reactor) -> io::Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(event) = reactor.next_event() {
                let Event::FileWritten { token: 77, result, .. } = event else { panic!("{event:?}") };
                return result;
            }
            assert!(Instant::now() < end, "nothing came of it");
            reactor.wait(Some(end)).unwrap();
        }
    }

    #[test]
    fn a_short_write_is_continued_where_it_stopped() {
        let mut reactor = Reactor::new(&ReactorOptions::default()).unwrap();
        for sync in [FileSync::None, FileSync::Dsync] {
            let (operation, file) = invented(&mut reactor, sync, Progress::Writing);
            assert!(reactor.complete_file(operation, 6000).is_none());
            ending(&mut reactor).unwrap();
            let mut found = vec![1; 10_005];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut found, 0).unwrap();
            assert!(found[..6005].iter().all(|byte| *byte == 0), "nobody has written those");
            assert!(found[6005..].iter().all(|byte| *byte == b'x'));
        }
        assert_eq!(reactor.counters().file_writes, 2);
        assert_eq!(reactor.counters().file_syncs, 1);
    }

    #[test]
    fn a_short_write_with_a_linked_sync_starts_both_again_whatever_came_first() {
        let mut reactor = Reactor::new(&ReactorOptions::default()).unwrap();
        for sync_first in [false, true] {
            let (operation, _file) = invented(&mut reactor, FileSync::ThenDatasync, Progress::Both);
            let before = reactor.ring.entries_submitted;
            let mut answers = [(operation, 6000), (sync_of(operation), -libc::ECANCELED)];
            if sync_first {
                answers.reverse();
            }
            for (operation, result) in answers {
                assert!(reactor.complete_file(operation, result).is_none());
            }
            ending(&mut reactor).unwrap();
            assert!(reactor.ring.entries_submitted - before >= 2);
        }
    }

    #[test]
    fn a_sync_that_may_have_come_too_early_is_followed_by_another() {
        let mut reactor = Reactor::new(&ReactorOptions::default()).unwrap();
        // Once the kernel took one entry without the other, once the sync was over before the write.
        for cut in [true, false] {
            let (operation, _file) = invented(&mut reactor, FileSync::ThenDatasync, Progress::Both);
            let mut answers = [(operation, 10_000), (sync_of(operation), 0)];
            if cut {
                reactor.ring.partial_submissions += 1;
            } else {
                answers.reverse();
            }
            for (operation, result) in answers {
                assert!(reactor.complete_file(operation, result).is_none());
            }
            assert_eq!(reactor.files.write(operation).progress, Progress::Syncing);
            ending(&mut reactor).unwrap();
        }
    }

    #[test]
    fn a_failed_write_or_sync_is_reported_and_not_tried_again() {
        let mut reactor = Reactor::new(&ReactorOptions::default()).unwrap();
        let failures = [(-libc::EIO, -libc::ECANCELED), (10_000, -libc::EIO), (0, -libc::ECANCELED)];
        for (write, sync) in failures {
            let (operation, _file) = invented(&mut reactor, FileSync::ThenDatasync, Progress::Both);
            assert!(reactor.complete_file(operation, write).is_none());
            let event = reactor.complete_file(sync_of(operation), sync);
            let Some(Event::FileWritten { result: Err(error), buffer, .. }) = event else {
                panic!("{event:?}")
            };
            assert_eq!(error.raw_os_error(), Some(libc::EIO));
            assert_eq!(buffer.len(), 10_000);
        }
        assert_eq!(reactor.counters().file_writes, 0);
    }
}
