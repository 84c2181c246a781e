//! Shared immutable bytes: encoded once, sent to many connections without a copy.

use std::fmt;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::sync::Arc;

/// Shared immutable bytes. A clone costs one reference count; the owner is freed with the last clone.
#[derive(Clone)]
pub struct Chunk {
    pointer: NonNull<u8>,
    length: usize,
    owner: Arc<dyn Send + Sync>,
}

// SAFETY: a Chunk is a shared reference into `owner`, which is itself Send and Sync, and it gives out only shared
// access to bytes; moving it or sharing it across threads is what `Arc<T: Send + Sync>` allows.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Chunk {
    /// Takes `owner` and shares its bytes. Allocates one reference count.
    pub fn new(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Chunk {
        Chunk::from_arc(Arc::new(owner))
    }

    /// Shares the bytes of an `owner` that is already shared. Does not allocate.
    pub fn from_arc<T: AsRef<[u8]> + Send + Sync + 'static>(owner: Arc<T>) -> Chunk {
        // The bytes are asked for once only: an owner might answer differently the next time.
        let bytes: &[u8] = (*owner).as_ref();
        let length = bytes.len();
        let pointer = NonNull::from(bytes).cast();
        Chunk { pointer, length, owner }
    }

    /// The part of the chunk in `range`, sharing the same owner.
    ///
    /// # Panics
    /// When the range ends beyond the chunk or starts after its end, as slicing does.
    pub fn slice(&self, range: Range<usize>) -> Chunk {
        let part: &[u8] = &self[range];
        Chunk { length: part.len(), pointer: NonNull::from(part).cast(), owner: Arc::clone(&self.owner) }
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: pointer and length come from `owner.as_ref()`, a shared borrow of the value inside the Arc. This
        // Chunk holds a strong count, so until it is dropped nobody can move, drop or mutably borrow that value
        // (Arc::get_mut fails), exactly as if the borrow were still alive. The result borrows `self`.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.length) }
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Chunk").field("length", &self.length).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_outlives_the_name_of_its_owner() {
        let owner = Arc::new(vec![1u8, 2, 3, 4]);
        let chunk = Chunk::from_arc(Arc::clone(&owner));
        let middle = chunk.slice(1..3);
        assert_eq!(chunk.as_ptr(), owner.as_ptr());
        drop(chunk);
        assert_eq!(Arc::strong_count(&owner), 2);
        drop(owner);
        assert_eq!(&*middle, &[2, 3]);
        assert!(Chunk::new(Vec::new()).is_empty());
    }
}
