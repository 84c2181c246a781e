//! What a reactor tells its caller.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::aligned::AlignedBuffer;
use crate::buffers::ReceivedBuffer;
use crate::connections::{ConnectionId, ListenerId};
use crate::files::FileId;
use crate::signals::Signal;

/// Something that happened. Every connection that was announced, by [`Event::Accepted`] or as the result of
/// [`connect`](crate::Reactor::connect), ends with exactly one [`Event::Closed`]; nothing follows it.
#[derive(Debug)]
pub enum Event {
    /// A listener has a new connection, ready for sending.
    Accepted {
        /// The listener that it came in on.
        listener: ListenerId,
        /// The new connection.
        connection: ConnectionId,
        /// Where it comes from.
        peer: SocketAddr,
    },
    /// An outgoing connection stands.
    Connected {
        /// The connection that [`connect`](crate::Reactor::connect) returned.
        connection: ConnectionId,
    },
    /// Bytes arrived, in the order of the stream, never none.
    Received {
        /// The connection that they came on.
        connection: ConnectionId,
        /// The bytes; dropping it gives the buffer back to the kernel.
        buffer: ReceivedBuffer,
    },
    /// The kernel has taken everything that was queued for a connection.
    Drained {
        /// The connection whose queue is empty.
        connection: ConnectionId,
    },
    /// A connection is over; its id is stale from here on.
    Closed {
        /// The connection that ended.
        connection: ConnectionId,
        /// Why it ended.
        reason: CloseReason,
    },
    /// A [`write`](crate::Reactor::write) is over: all of it is where it was to go, and synced as was asked for, or
    /// nothing is known about any byte of it.
    FileWritten {
        /// The file.
        file: FileId,
        /// The number that the caller gave to the write.
        token: u64,
        /// What was written, for the next write.
        buffer: AlignedBuffer,
        /// The error, if it failed. It was not retried: after a failed sync the kernel may have dropped the data and
        /// report success the next time.
        result: io::Result<()>,
    },
    /// A [`Waker`](crate::Waker) was used since the last such event.
    Woken,
    /// A watched signal arrived.
    Signal(Signal),
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer closed its sending half; what was still queued here is discarded.
    EndOfStream,
    /// The peer reset the connection, or is gone.
    Reset,
    /// Nobody listens at the address.
    Refused,
    /// The peer did not answer in time.
    TimedOut,
    /// There is no route to the address.
    Unreachable,
    /// The caller called [`close`](crate::Reactor::close).
    Requested,
    /// The caller called [`finish`](crate::Reactor::finish), and all that was queued has been sent.
    Finished,
    /// Another error of the operating system, by its number.
    Failed(i32),
}

impl CloseReason {
    pub(crate) fn from_errno(errno: i32) -> CloseReason {
        match errno {
            libc::ECONNRESET | libc::EPIPE | libc::ECONNABORTED | libc::ENOTCONN => CloseReason::Reset,
            libc::ECONNREFUSED => CloseReason::Refused,
            libc::ETIMEDOUT => CloseReason::TimedOut,
            libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::ENETDOWN => {
                CloseReason::Unreachable
            }
            other => CloseReason::Failed(other),
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::EndOfStream => formatter.write_str("closed by the peer"),
            CloseReason::Reset => formatter.write_str("reset by the peer"),
            CloseReason::Refused => formatter.write_str("connection refused"),
            CloseReason::TimedOut => formatter.write_str("timed out"),
            CloseReason::Unreachable => formatter.write_str("address unreachable"),
            CloseReason::Requested => formatter.write_str("closed here"),
            CloseReason::Finished => formatter.write_str("finished here"),
            CloseReason::Failed(errno) => {
                write!(formatter, "failed: {}", io::Error::from_raw_os_error(*errno))
            }
        }
    }
}
