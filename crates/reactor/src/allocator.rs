//! mimalloc with a counter, so that "no allocation per message" is a figure and not a hope.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use mimalloc::MiMalloc;

/// Counters that threads share only when there are more threads than this.
const SHARDS: usize = 64;

/// A counter on its own cache line.
#[repr(align(128))]
struct Shard(AtomicU64);

static COUNTS: [Shard; SHARDS] = [const { Shard(AtomicU64::new(0)) }; SHARDS];
static NEXT_SHARD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    // Constant and without a destructor, so that the allocator may use it at any time in a thread's life.
    static SHARD: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The global allocator of the binary: mimalloc, counting each allocation and reallocation.
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: quorate_reactor::CountingAllocator = quorate_reactor::CountingAllocator;
/// let before = quorate_reactor::allocations();
/// drop(Box::new(7));
/// assert!(quorate_reactor::allocations() > before);
/// ```
#[derive(Debug, Default, Clone, Copy)]
pub struct CountingAllocator;

/// How often memory was allocated or reallocated since the start, on all threads; zero unless
/// [`CountingAllocator`] is the global allocator. A thread's own allocations are always included.
pub fn allocations() -> u64 {
    COUNTS.iter().map(|shard| shard.0.load(Ordering::Relaxed)).sum()
}

/// Gives up huge pages for this process. Clearing one takes the core that touches it first a hundred times as long as
/// an ordinary page, milliseconds on a virtual machine whose memory the host has to find, and all requests wait.
/// For the start of a process.
///
/// # Errors
/// What the kernel says; the process works as well, with longer pauses.
pub fn refuse_huge_pages() -> std::io::Result<()> {
    rustix::thread::disable_transparent_huge_pages(true)?;
    Ok(())
}

fn count() {
    let shard = SHARD.with(|shard| match shard.get() {
        Some(index) => index,
        None => {
            let index = NEXT_SHARD.fetch_add(1, Ordering::Relaxed) % SHARDS;
            shard.set(Some(index));
            index
        }
    });
    COUNTS[shard].0.fetch_add(1, Ordering::Relaxed);
}

// SAFETY: every call is passed on unchanged to mimalloc, which is a correct allocator; counting neither allocates
// nor panics (the thread-local is constant, without a destructor, and the index is below SHARDS).
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of GlobalAlloc::alloc, which is mimalloc's too.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as for alloc.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the pointer came from this allocator, hence from mimalloc, with this layout.
        unsafe { MiMalloc.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from this allocator, hence from mimalloc, with this layout.
        unsafe { MiMalloc.dealloc(pointer, layout) }
    }
}
