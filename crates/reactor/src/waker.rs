//! Makes a reactor's `wait` return from any thread, through an eventfd that its ring reads.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

/// A handle that makes [`Reactor::wait`](crate::Reactor::wait) return with [`Event::Woken`](crate::Event::Woken).
///
/// It may be cloned and used from any thread. After the reactor is gone it does nothing.
#[derive(Debug, Clone)]
pub struct Waker {
    descriptor: Arc<OwnedFd>,
}

impl Waker {
    /// A waker whose eventfd is a blocking one: on a non-blocking one io_uring answers EAGAIN instead of waiting.
    pub(crate) fn new() -> rustix::io::Result<Waker> {
        Ok(Waker { descriptor: Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?) })
    }

    /// Wakes the reactor; several calls before it looks count as one. Costs one system call and never blocks.
    pub fn wake(&self) {
        // The counter would have to reach 2^64 − 1 unread wake-ups for this to block or fail; a failure has no
        // other cause on an eventfd that we own.
        let _ = rustix::io::write(&*self.descriptor, &1u64.to_ne_bytes());
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
