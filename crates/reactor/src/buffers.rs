//! The receive buffers: one mapping that holds the kernel's buffer ring and the buffers themselves.
//!
//! A buffer is in one of two hands. While it is in the ring the kernel may write to it; from the completion that
//! names it until [`ReceivedBuffer`] is dropped it is ours. Dropping is the only way back, and it happens once.

use std::cell::Cell;
use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::error::ReactorError;
use crate::ring::Ring;

/// The only buffer group of a reactor.
pub(crate) const BUFFER_GROUP: u16 = 0;
const PAGE_BYTES: usize = 4096;

/// `struct io_uring_buf` of the kernel. In the entry with index zero, `tail` is the tail of the whole ring.
#[repr(C)]
struct BufferEntry {
    address: u64,
    length: u32,
    id: u16,
    tail: u16,
}

const _: () = assert!(size_of::<BufferEntry>() == 16);

/// Memory for the ring of entries, then the buffers.
pub(crate) struct BufferPool {
    mapping: NonNull<u8>,
    mapping_bytes: usize,
    buffers_offset: usize,
    buffers: u16,
    buffer_bytes: u32,
    tail: Cell<u16>,
    available: Cell<u16>,
}

impl BufferPool {
    /// Maps the memory and puts every buffer into the (still unregistered) ring.
    pub(crate) fn new(buffers: u16, buffer_bytes: u32) -> Result<Rc<BufferPool>, ReactorError> {
        let entries_bytes = usize::from(buffers) * size_of::<BufferEntry>();
        let buffers_offset = entries_bytes.next_multiple_of(PAGE_BYTES);
        let mapping_bytes = buffers_offset + usize::from(buffers) * buffer_bytes as usize;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice replaces nothing.
        let mapping = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                mapping_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }
        .map_err(|source| ReactorError::Memory { what: "the receive buffers", source: source.into() })?;
        let pool = Rc::new(BufferPool {
            mapping: NonNull::new(mapping.cast()).expect("invariant: mmap does not map page zero"),
            mapping_bytes,
            buffers_offset,
            buffers,
            buffer_bytes,
            tail: Cell::new(0),
            available: Cell::new(0),
        });
        for id in 0..buffers {
            pool.give_back(id);
        }
        Ok(pool)
    }

    /// Tells the kernel about the ring of entries.
    pub(crate) fn register(&self, ring: &Ring) -> Result<(), ReactorError> {
        let address = self.mapping.as_ptr() as u64;
        // SAFETY: the mapping starts with `buffers` entries, is page aligned, and is unmapped only when the last
        // Rc is gone; the reactor holds one until it has unregistered the group.
        let result =
            unsafe { ring.submitter().register_buf_ring_with_flags(address, self.buffers, BUFFER_GROUP, 0) };
        result.map_err(|source| match source.raw_os_error() {
            Some(libc::ENOMEM) => ReactorError::Memory { what: "the ring of receive buffers", source },
            _ => ReactorError::Unsupported { feature: "buffer rings (IORING_REGISTER_PBUF_RING)", source },
        })
    }

    /// Buffers that the kernel holds, completions that were not taken yet included.
    pub(crate) fn available(&self) -> u16 {
        self.available.get()
    }

    /// Takes over the buffer that a completion names.
    pub(crate) fn take(self: &Rc<Self>, id: u16, length: u32) -> ReceivedBuffer {
        assert!(id < self.buffers, "invariant: the kernel names only buffers that it was given");
        assert!(length <= self.buffer_bytes, "invariant: the kernel fills at most one buffer");
        let available = self.available.get();
        assert!(available > 0, "invariant: the kernel names each buffer once until it is given back");
        self.available.set(available - 1);
        ReceivedBuffer { pool: Rc::clone(self), id, length }
    }

    fn address(&self, id: u16) -> NonNull<u8> {
        let offset = self.buffers_offset + usize::from(id) * self.buffer_bytes as usize;
        // SAFETY: `id` is below `buffers` (checked in `take`, by construction elsewhere), so the offset lies inside
        // the mapping.
        unsafe { self.mapping.add(offset) }
    }

    /// Puts a buffer into the ring. Callers are `new`, for each id once, and the drop of a ReceivedBuffer.
    fn give_back(&self, id: u16) {
        let tail = self.tail.get();
        let entries = self.mapping.cast::<BufferEntry>().as_ptr();
        // SAFETY: the index is below `buffers` (a power of two), so the entry lies in the mapping. The kernel reads
        // entries between its head and the published tail only, and at most `buffers` are outstanding, so it does
        // not look at this one. Only fields are written, through raw pointers: the `tail` field of entry zero,
        // which the kernel may read at any time, is touched as an atomic alone.
        unsafe {
            let entry = entries.add(usize::from(tail & (self.buffers - 1)));
            (&raw mut (*entry).address).write(self.address(id).as_ptr() as u64);
            (&raw mut (*entry).length).write(self.buffer_bytes);
            (&raw mut (*entry).id).write(id);
        }
        let next = tail.wrapping_add(1);
        // SAFETY: the field is aligned, lives as long as the mapping, and all accesses of ours are atomic.
        let shared_tail = unsafe { AtomicU16::from_ptr(&raw mut (*entries).tail) };
        // Release: the kernel must see the entry before the tail that publishes it.
        shared_tail.store(next, Ordering::Release);
        self.tail.set(next);
        self.available.set(self.available.get() + 1);
    }
}

impl Drop for BufferPool {
    fn drop(&mut self) {
        // SAFETY: the last Rc is gone: no ReceivedBuffer borrows the memory, and the reactor has dropped its own
        // only after every receive completed and the group was unregistered (or has leaked it on purpose).
        let _ = unsafe { munmap(self.mapping.as_ptr().cast(), self.mapping_bytes) };
    }
}

/// Bytes that arrived, still in the buffer that the kernel wrote them to.
///
/// It may be kept while the reactor is used. Dropping it gives the buffer back, so keep it for a short time only:
/// while all buffers are kept, nothing is received on any connection.
pub struct ReceivedBuffer {
    pool: Rc<BufferPool>,
    id: u16,
    length: u32,
}

impl Deref for ReceivedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: from the completion on, the kernel does not write to this buffer until it is given back, which
        // only our own drop does. The length was checked against the buffer, the mapping is initialised (zeroed by
        // mmap), and `pool` keeps it mapped.
        unsafe { std::slice::from_raw_parts(self.pool.address(self.id).as_ptr(), self.length as usize) }
    }
}

impl Drop for ReceivedBuffer {
    fn drop(&mut self) {
        self.pool.give_back(self.id);
    }
}

impl fmt::Debug for ReceivedBuffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ReceivedBuffer").field("id", &self.id).field("length", &self.length).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_go_round_and_never_overlap() {
        let pool = BufferPool::new(4, 100).unwrap();
        assert_eq!(pool.available(), 4);
        let addresses: Vec<usize> = (0..4).map(|id| pool.address(id).as_ptr() as usize).collect();
        assert!(addresses.windows(2).all(|pair| pair[1] - pair[0] == 100));
        for round in 0..100_000u32 {
            let id = u16::try_from(round % 4).unwrap();
            let buffer = pool.take(id, round % 101);
            assert_eq!(buffer.len(), (round % 101) as usize);
            assert_eq!(pool.available(), 3);
        }
        assert_eq!(pool.available(), 4);
    }

    #[test]
    fn a_buffer_may_outlive_the_pool_of_the_reactor() {
        let pool = BufferPool::new(2, 64).unwrap();
        let buffer = pool.take(0, 64);
        drop(pool);
        assert!(buffer.iter().all(|byte| *byte == 0));
    }
}
