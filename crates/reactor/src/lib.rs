//! One pinned thread and one io_uring per core: TCP connections, receive buffers, deadlines, cross-core
//! mailboxes, writes to files and signals. It knows nothing of consensus.
//!
//! A caller turns one loop: take every [`Event`] with [`Reactor::next_event`], queue what follows from it with
//! [`Reactor::send`] and [`Reactor::send_shared`], then call [`Reactor::wait`], which submits everything in one
//! `io_uring_enter` and sleeps in the same call. There are no callbacks, no locks and no other threads.
//!
//! All `unsafe` code of the project lives in this crate (DESIGN section 2), each block with the invariants it
//! rests on. The memory that the kernel may touch is owned by the reactor until the last completion of the
//! operation that named it; see `reactor.rs` for the argument.
#![deny(missing_docs)]

mod address;
mod affinity;
mod aligned;
mod allocator;
mod buffers;
mod chunk;
mod completions;
mod connections;
mod counters;
mod doorbell;
mod error;
mod event;
mod files;
pub mod mailbox;
mod operation;
mod options;
mod outgoing;
mod probe;
mod reactor;
mod ring;
pub mod signals;
mod usage;
mod waker;

pub use affinity::{allowed_cpus, be_nicer, pin_current_thread};
pub use aligned::{AlignedBuffer, AlignedBuffers, BLOCK_BYTES};
pub use allocator::{CountingAllocator, allocations, refuse_huge_pages};
pub use buffers::ReceivedBuffer;
pub use chunk::Chunk;
pub use connections::{ConnectionId, ListenerId};
pub use counters::ReactorCounters;
pub use error::ReactorError;
pub use event::{CloseReason, Event};
pub use files::{FileId, FileSync};
pub use mailbox::Mailbox;
pub use options::ReactorOptions;
pub use probe::{KernelReport, Support, probe};
pub use reactor::Reactor;
pub use signals::Signal;
pub use usage::{Usage, resident_bytes, usage};
pub use waker::Waker;
