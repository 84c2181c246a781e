//! What a reactor did, as plain counters: they cost one addition on the thread that owns them.

/// Totals since the reactor was made. None ever decreases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReactorCounters {
    /// Calls of `io_uring_enter`.
    pub enters: u64,
    /// Entries handed to the kernel by those calls.
    pub entries_submitted: u64,
    /// Completions taken from the ring.
    pub completions: u64,
    /// Send operations that completed, whole or in part.
    pub sends: u64,
    /// Bytes that the kernel took.
    pub bytes_sent: u64,
    /// Receives that brought bytes.
    pub receives: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Accepts that failed, for example because no file descriptor was left.
    pub accept_failures: u64,
    /// Outgoing connections that were established.
    pub connects: u64,
    /// Connections closed, for whatever reason.
    pub closed: u64,
    /// Other system calls made by the reactor: sockets, options, addresses, close, registration.
    pub other_syscalls: u64,
    /// Receives that found no buffer (ENOBUFS) and were armed again later.
    pub buffers_exhausted: u64,
    /// Waits that found something while spinning.
    pub spins: u64,
    /// Waits that had nothing to do and entered the kernel ready to sleep.
    pub sleeps: u64,
    /// Doorbells rung at other cores.
    pub doorbells_rung: u64,
    /// Doorbells heard from other cores.
    pub doorbells_heard: u64,
    /// Writes to files that ended well; a short one that was continued counts once.
    pub file_writes: u64,
    /// Bytes of those writes.
    pub file_bytes: u64,
    /// Those of them that were synced, in whatever way.
    pub file_syncs: u64,
}
