//! What is known of a node, or of a long value, besides its contents: its digest, and where it is on disk.
//!
//! Frozen copies share nodes with the living state, so what the writer of a checkpoint finds out is known to all.
//! An edit forgets both. A copy forgets the place: only nodes that a checkpoint's walk has met may be believed to be
//! on disk *with everything below them*, and a copy is made behind the walk's back.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use quorate_types::Digest;

/// The number of a page file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileNumber(pub u32);

impl FileNumber {
    /// The number after this one.
    ///
    /// # Panics
    /// After 2^32 files, which are 256 PiB written.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("invariant: 2^32 page files are 256 PiB"))
    }
}

impl std::fmt::Display for FileNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:08}", self.0)
    }
}

/// Where a block begins. Its length follows from what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) file: FileNumber,
    pub(crate) offset: u32,
}

/// The time in which places are valid. Whoever takes page files away begins a new one, and tells it to the nodes
/// whose blocks, all of them down to the leaves, remain. So a node that the walk did not meet is never believed to
/// be on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlaceEpoch(u32);

impl PlaceEpoch {
    /// One that no other store of the process has: places of one store mean nothing to another. Nothing that
    /// leaves the process depends on the number.
    pub(crate) fn fresh() -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let last = LAST.fetch_add(1, Ordering::Relaxed);
        Self(last.checked_add(1).expect("invariant: an epoch takes a walk over a whole state"))
    }
}

/// The digest and the place, as far as they are known.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    digest: OnceLock<Digest>,
    /// The epoch of the place; zero while there is none.
    epoch: AtomicU32,
    place: AtomicU64,
}

impl Clone for Cache {
    fn clone(&self) -> Self {
        Self { digest: self.digest.clone(), ..Self::default() }
    }
}

impl Cache {
    pub(crate) fn digest(&self) -> Option<&Digest> {
        self.digest.get()
    }

    /// The digest, or the one that `compute` gives. Computes outside the cell, so that nobody ever waits.
    pub(crate) fn digest_or(&self, compute: impl FnOnce() -> Digest) -> Digest {
        if let Some(digest) = self.digest.get() {
            return *digest;
        }
        let digest = compute();
        *self.digest.get_or_init(|| digest)
    }

    /// Forgets both. Most often there is nothing to forget, and moving nothing out of the cell would cost more than
    /// to look.
    pub(crate) fn forget(&mut self) {
        if self.digest.get().is_some() {
            self.digest = OnceLock::new();
        }
        *self.epoch.get_mut() = 0;
    }

    /// Where it is on disk, if it is there in this epoch.
    pub(crate) fn place(&self, epoch: PlaceEpoch) -> Option<Place> {
        if self.epoch.load(Ordering::Acquire) != epoch.0 {
            return None;
        }
        let [high, low] = halves(self.place.load(Ordering::Relaxed));
        Some(Place { file: FileNumber(high), offset: low })
    }

    /// Notes where it is on disk. Only the one writer of checkpoints does.
    pub(crate) fn set_place(&self, epoch: PlaceEpoch, place: Place) {
        assert!(self.digest.get().is_some(), "invariant: what is on disk is hashed");
        let packed = u64::from(place.file.0) << 32 | u64::from(place.offset);
        self.place.store(packed, Ordering::Relaxed);
        self.epoch.store(epoch.0, Ordering::Release);
    }
}

fn halves(packed: u64) -> [u32; 2] {
    let bytes = packed.to_be_bytes();
    let half = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    [half(0), half(4)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { file: FileNumber(0xabcd_0001), offset: 0x1234_5678 };

    #[test]
    fn a_place_is_valid_in_its_epoch_only_and_forgotten_with_an_edit_or_a_copy() {
        let (first, second) = (PlaceEpoch::fresh(), PlaceEpoch::fresh());
        let mut cache = Cache::default();
        assert_eq!(cache.place(first), None);
        cache.digest_or(|| Digest([7; 32]));
        cache.set_place(first, PLACE);
        assert_eq!((cache.place(first), cache.place(second)), (Some(PLACE), None));
        let copy = cache.clone();
        assert_eq!((copy.digest(), copy.place(first)), (Some(&Digest([7; 32])), None));
        cache.forget();
        assert_eq!((cache.digest(), cache.place(first)), (None, None));
    }
}
