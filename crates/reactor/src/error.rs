//! What can go wrong in a reactor, in words that name the thing and the remedy.

use std::io;
use std::net::SocketAddr;

/// Why a reactor could not be built or could not go on.
///
/// What happens to a single connection is never an error; it is an [`Event::Closed`](crate::Event::Closed).
#[derive(Debug, thiserror::Error)]
pub enum ReactorError {
    /// io_uring is missing or forbidden.
    #[error("io_uring cannot be used: {reason}")]
    Unavailable {
        /// Why, and what to change.
        reason: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The kernel has io_uring, but lacks something that the reactor cannot do without.
    #[error("the kernel refuses {feature}: {source}; Linux 6.1 or newer is needed")]
    Unsupported {
        /// The missing feature.
        feature: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// Memory for the ring or the buffers is refused, even for the smallest ring.
    #[error(
        "no memory for {what}: {source}; raise the memory-lock limit (ulimit -l, LimitMEMLOCK=) or the memory \
         limit of the control group, or lower the number of receive buffers"
    )]
    Memory {
        /// What the memory was for.
        what: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// An option has a value that cannot work.
    #[error("reactor option {option} is {value}, but must be {expected}")]
    Option {
        /// The name of the option.
        option: &'static str,
        /// Its value.
        value: u64,
        /// What would be accepted.
        expected: &'static str,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}; {remedy}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What to do about it.
        remedy: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A socket for an outgoing connection cannot be made.
    #[error("cannot open a socket to connect to {address}: {source}; {remedy}")]
    Connect {
        /// The address asked for.
        address: SocketAddr,
        /// What to do about it.
        remedy: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A file descriptor that the reactor needs for itself cannot be made.
    #[error("cannot create the {what}: {source}; raise the limit of open files (ulimit -n, LimitNOFILE=)")]
    Descriptor {
        /// What it was for.
        what: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// `io_uring_enter` failed in a way that no retry repairs.
    #[error("io_uring_enter failed: {source}; a reactor must be used on the thread that made it")]
    Enter {
        /// What the kernel answered.
        source: io::Error,
    },
    /// CPU affinity cannot be read or set.
    #[error(
        "cannot {what}: {source}; check the cores in the configuration against taskset -p and the cpuset"
    )]
    Affinity {
        /// What was tried.
        what: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// Signals cannot be blocked or watched.
    #[error("cannot {what} signals: {source}")]
    Signals {
        /// What was tried.
        what: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
}

/// What to do when a socket, a bind or a listen fails with `source`.
pub(crate) fn socket_remedy(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            "the port is taken: stop the process that holds it (ss -ltnp) or choose another"
        }
        Some(libc::EADDRNOTAVAIL) => "no interface has that address: use one that `ip address` lists",
        Some(libc::EACCES) => "ports below 1024 need CAP_NET_BIND_SERVICE: choose a higher one or grant it",
        Some(libc::EMFILE | libc::ENFILE) => "raise the limit of open files (ulimit -n, LimitNOFILE=)",
        Some(libc::EAFNOSUPPORT) => "the kernel lacks that address family: use IPv4 or enable IPv6",
        _ => "check the address and the limits of the process",
    }
}
