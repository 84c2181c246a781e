//! Memory for direct writes: aligned as disks want it, and used again.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// The alignment of a buffer, and what offsets and lengths of direct writes are best multiples of: the largest block of
/// usual disks and the page of usual machines.
pub const BLOCK_BYTES: usize = 4096;

/// Buffers that an [`AlignedBuffers`] keeps for later.
const KEPT_MAX: usize = 8;
/// The bytes that it keeps in all.
const KEPT_BYTES_MAX: usize = 8 << 20;

/// Bytes in memory that begins at a multiple of [`BLOCK_BYTES`].
pub struct AlignedBuffer {
    pointer: NonNull<u8>,
    /// Bytes allocated: a multiple of [`BLOCK_BYTES`], never zero.
    capacity: usize,
    length: usize,
}

// SAFETY: an AlignedBuffer owns its memory alone, as a Vec does; nothing in it belongs to a thread.
unsafe impl Send for AlignedBuffer {}
// SAFETY: through a shared reference it can only be read.
unsafe impl Sync for AlignedBuffer {}

impl AlignedBuffer {
    /// `length` zeroes. Allocates; [`AlignedBuffers`] spares that.
    ///
    /// # Panics
    /// When memory is short, or `length` is beyond half the address space.
    #[must_use]
    pub fn zeroed(length: usize) -> AlignedBuffer {
        let capacity = length.max(1).next_multiple_of(BLOCK_BYTES);
        let layout = Self::layout(capacity);
        // SAFETY: the layout is of at least one block, not zero bytes.
        let pointer = unsafe { alloc_zeroed(layout) };
        let Some(pointer) = NonNull::new(pointer) else { handle_alloc_error(layout) };
        AlignedBuffer { pointer, capacity, length }
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, BLOCK_BYTES).expect("invariant: a buffer fits into memory")
    }

    /// The bytes that it can be resized to without another allocation.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Changes the length; what comes in by that is what was there before.
    ///
    /// # Panics
    /// When `length` is beyond the capacity.
    pub fn resize_within(&mut self, length: usize) {
        assert!(length <= self.capacity, "a buffer of {} bytes cannot have {length}", self.capacity);
        self.length = length;
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the memory is ours, zeroed when it was allocated, and `length` is at most `capacity`. Nobody writes
        // to it while it is borrowed: the kernel only reads from buffers, and only while the reactor owns them.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.length) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.length) }
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated with this very layout, and freed once. The reactor drops no buffer that is with the kernel.
        unsafe { dealloc(self.pointer.as_ptr(), Self::layout(self.capacity)) };
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AlignedBuffer")
            .field("length", &self.length)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

/// A few buffers that are used again and again.
#[derive(Debug, Default)]
pub struct AlignedBuffers {
    kept: Vec<AlignedBuffer>,
}

impl AlignedBuffers {
    /// A buffer of `length` bytes, whose content is whatever its last user left. Allocates only when none that is
    /// kept is large enough.
    pub fn take(&mut self, length: usize) -> AlignedBuffer {
        let fitting = self.kept.iter().enumerate().filter(|(_, buffer)| buffer.capacity >= length);
        match fitting.min_by_key(|(_, buffer)| buffer.capacity).map(|(index, _)| index) {
            Some(index) => {
                let mut buffer = self.kept.swap_remove(index);
                buffer.resize_within(length);
                buffer
            }
            None => {
                // Rounded up, so that lengths that vary a little share buffers.
                let mut buffer = AlignedBuffer::zeroed(length.max(BLOCK_BYTES).next_power_of_two());
                buffer.resize_within(length);
                buffer
            }
        }
    }

    /// Keeps a buffer for later, or frees it, or a smaller one, when enough are kept.
    pub fn give_back(&mut self, buffer: AlignedBuffer) {
        self.kept.push(buffer);
        let bytes: usize = self.kept.iter().map(AlignedBuffer::capacity).sum();
        if bytes > KEPT_BYTES_MAX {
            self.kept.pop();
        } else if self.kept.len() > KEPT_MAX {
            let smallest = self.kept.iter().enumerate().min_by_key(|(_, buffer)| buffer.capacity);
            let smallest = smallest.map(|(index, _)| index);
            smallest.into_iter().for_each(|index| drop(self.kept.swap_remove(index)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_zeroed_and_as_long_as_asked_for() {
        for length in [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, 1 << 20] {
            let mut buffer = AlignedBuffer::zeroed(length);
            assert_eq!(buffer.len(), length);
            assert_eq!(buffer.as_ptr() as usize % BLOCK_BYTES, 0);
            assert!(buffer.iter().all(|byte| *byte == 0));
            buffer.fill(7);
            let capacity = buffer.capacity();
            buffer.resize_within(capacity);
            assert_eq!(buffer.iter().filter(|byte| **byte == 7).count(), length);
        }
    }

    #[test]
    #[should_panic(expected = "cannot have")]
    fn a_buffer_does_not_outgrow_its_memory() {
        AlignedBuffer::zeroed(1).resize_within(BLOCK_BYTES + 1);
    }

    #[test]
    fn buffers_are_used_again_and_few_are_kept() {
        let mut buffers = AlignedBuffers::default();
        let first = buffers.take(5000);
        let address = first.as_ptr();
        assert_eq!((first.len(), first.capacity()), (5000, 8192));
        buffers.give_back(first);
        let again = buffers.take(8192);
        assert_eq!(again.as_ptr(), address);
        buffers.give_back(again);
        assert_ne!(buffers.take(8193).as_ptr(), address);
        let many: Vec<_> = (0..2 * KEPT_MAX).map(|_| buffers.take(BLOCK_BYTES)).collect();
        many.into_iter().for_each(|buffer| buffers.give_back(buffer));
        assert_eq!(buffers.kept.len(), KEPT_MAX);
        buffers.give_back(AlignedBuffer::zeroed(2 * KEPT_BYTES_MAX));
        assert_eq!(buffers.kept.len(), KEPT_MAX);
    }
}
