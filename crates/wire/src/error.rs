//! Why bytes are no message.

use thiserror::Error;

/// Why bytes were refused. The sender is at fault; the link is closed and a counter rises.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// A frame's header does not match its own checksum: the stream is not made of frames.
    #[error("frame header with a wrong checksum")]
    HeaderChecksum,
    /// A frame's payload does not match its checksum.
    #[error("frame payload with a wrong checksum")]
    PayloadChecksum,
    /// A frame is longer than is allowed at this point.
    #[error("frame of {length} bytes where {limit} are allowed")]
    TooLong {
        /// The announced length of the payload.
        length: usize,
        /// The limit in force.
        limit: usize,
    },
    /// A frame of an unknown kind.
    #[error("unknown frame kind {0}")]
    UnknownKind(u16),
    /// A frame of another version of the format.
    #[error("frame format version {0}; this build speaks version 1")]
    Version(u16),
    /// A frame whose kind has no place here: for example a vote from a client.
    #[error("a {0:?} frame has no place on this connection now")]
    Misplaced(crate::Kind),
    /// The payload is no valid message of its kind.
    #[error("malformed {0:?} message")]
    Malformed(crate::Kind),
    /// A count or length inside the message is above its limit.
    #[error("{what}: {value} exceeds the limit of {limit}")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// The value found.
        value: u64,
        /// The limit.
        limit: u64,
    },
}
