//! One pinned thread and one io_uring per core: connections, buffers, timers and mailboxes.
