//! The operations of the key-value store and their results, in the form that travels and is stored.
//!
//! Both are rkyv archives: readers use checked access to the archived form and do not deserialise it. The
//! archives are unaligned and little-endian, so they may stand at any offset of a frame.

use crate::{ByteCount, Nonce, SessionId, limits};
use rkyv::{Archive, Deserialize, Serialize};

/// What a SET demands of the key's present state before it writes.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub enum Condition {
    /// Nothing.
    Always,
    /// The key does not exist (NX).
    Absent,
    /// The key exists (XX).
    Present,
    /// The key exists with exactly this version: it holds for one value of the key and for no other, ever.
    Version(u64),
}

/// One operation of a bundle. Limits are those of [`crate::limits`].
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub enum Operation {
    /// Opens a session; stands alone in bundle 0 of no session.
    Register {
        /// Tells the registrations of the key apart; a repeated one opens nothing more.
        nonce: Nonce,
        /// A seq that was executed not long before, so that an old registration is void.
        recent: u64,
    },
    /// Does nothing, in the place of a bundle that was not taken; stands alone. Whichever of both is executed first
    /// decides what became of the number; if that is the other, this one is answered with its reply.
    Void,
    /// Reads a value.
    Get {
        /// The key.
        key: Vec<u8>,
    },
    /// Writes a value if the condition holds.
    Set {
        /// The key.
        key: Vec<u8>,
        /// The new value.
        value: Vec<u8>,
        /// What must hold before.
        condition: Condition,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: Vec<u8>,
    },
    /// Says whether a key exists.
    Exists {
        /// The key.
        key: Vec<u8>,
    },
    /// Adds to a decimal integer; an absent key counts as 0.
    IncrementBy {
        /// The key.
        key: Vec<u8>,
        /// What is added; may be negative.
        by: i64,
    },
    /// Appends to a value; an absent key counts as empty.
    Append {
        /// The key.
        key: Vec<u8>,
        /// What is appended.
        value: Vec<u8>,
    },
    /// Reads several values.
    MultiGet {
        /// The keys.
        keys: Vec<Vec<u8>>,
    },
    /// Writes several values, all or none.
    MultiSet {
        /// The keys with their new values.
        entries: Vec<KeyValue>,
    },
    /// Reads the entries with start ≤ key < end in key order.
    Scan {
        /// The first key.
        start: Vec<u8>,
        /// The key after the last; empty means "to the end".
        end: Vec<u8>,
        /// The largest number of entries to return.
        limit: u32,
    },
}

impl ArchivedOperation {
    /// How much there is to do for it, of which an operation on one key is one. A SCAN counts for what it may read, up to
    /// [`limits::SCAN_STEPS_MAX`].
    #[must_use]
    pub fn steps(&self) -> u32 {
        let steps = match self {
            Self::MultiGet { keys } => keys.len(),
            Self::MultiSet { entries } => entries.len(),
            Self::Scan { limit, .. } => return (limit.to_native() / 8).min(limits::SCAN_STEPS_MAX - 1) + 1,
            Self::Register { .. }
            | Self::Void
            | Self::Get { .. }
            | Self::Exists { .. }
            | Self::Set { .. }
            | Self::Delete { .. }
            | Self::IncrementBy { .. }
            | Self::Append { .. } => 1,
        };
        u32::try_from(steps).unwrap_or(u32::MAX).max(1)
    }

    /// Whether it does nothing but begin a session, or give up what was not taken.
    #[must_use]
    pub fn opens_or_ends(&self) -> bool {
        matches!(self, Self::Register { .. } | Self::Void)
    }

    /// Whether it may change a user's keys. Opening a session does not: readers need one too.
    #[must_use]
    pub fn writes(&self) -> bool {
        match self {
            Self::Register { .. }
            | Self::Void
            | Self::Get { .. }
            | Self::Exists { .. }
            | Self::MultiGet { .. }
            | Self::Scan { .. } => false,
            Self::Set { .. }
            | Self::Delete { .. }
            | Self::IncrementBy { .. }
            | Self::Append { .. }
            | Self::MultiSet { .. } => true,
        }
    }
}

/// A key with a value to write.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct KeyValue {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

/// A value with its version.
///
/// A version is a *revision*: the number of a write in the order of all writes of the cluster, beginning with 1.
/// Each entry of an MSET is a write of its own, and so is each removal of a key that exists. What writes nothing
/// (a condition that does not hold, an error) has no revision, and no revision is given twice. A cluster that was
/// restored from a backup goes on far above the revisions of the backup.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Versioned {
    /// The value.
    pub value: Vec<u8>,
    /// The revision of the write that it comes from.
    pub version: u64,
}

/// A key with its value and version.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct VersionedEntry {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// The revision of the write that it comes from.
    pub version: u64,
}

/// The result of one operation.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub enum OperationResult {
    /// The session is open.
    Registered {
        /// Its identity.
        session: SessionId,
    },
    /// The value, or nothing (GET).
    Value(Option<Versioned>),
    /// The write was done (SET, MSET); the version of what was written. The entries of an MSET have consecutive
    /// versions in their order, of which this is the last; of an MSET without entries it is that of the last write before.
    Written {
        /// The revision of the (last) write.
        version: u64,
    },
    /// The condition did not hold (SET); the version that the key has, if it exists.
    NotWritten {
        /// The present version.
        version: Option<u64>,
    },
    /// Whether the key existed (DEL, EXISTS).
    Existed(bool),
    /// The integer after the addition (INCRBY).
    Integer {
        /// The new value.
        value: i64,
        /// The revision of the write.
        version: u64,
    },
    /// The length of the value after the append (APPEND).
    Length {
        /// The new length in bytes.
        length: u64,
        /// The revision of the write.
        version: u64,
    },
    /// The values in the order of the keys (MGET).
    Values(Vec<Option<Versioned>>),
    /// The entries of a range (SCAN): up to the limit asked for, or fewer if the results of the bundle have no room for
    /// more. A SCAN that stands alone gives one at least, if there is one.
    Entries {
        /// The entries in key order.
        entries: Vec<VersionedEntry>,
        /// Whether more entries follow in the range.
        more: bool,
    },
    /// The operation had no effect.
    Error(OperationError),
    /// Nothing was done, and the number of the bundle is used up (VOID).
    Voided,
}

/// Why an operation had no effect.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[rkyv(derive(Debug))]
pub enum OperationError {
    /// The key is longer than the limit.
    #[error("the key has {bytes} bytes; the limit is {}", crate::limits::KEY_BYTES_MAX)]
    KeyTooLong {
        /// Its length.
        bytes: u64,
    },
    /// The value would be longer than the limit.
    #[error("the value would have {bytes} bytes; the limit is {}", crate::limits::VALUE_BYTES_MAX)]
    ValueTooLong {
        /// Its length.
        bytes: u64,
    },
    /// The value is no decimal integer of 64 bits.
    #[error("the value is not an integer of 64 bits")]
    NotAnInteger,
    /// The sum does not fit into 64 bits.
    #[error("the sum does not fit into a signed integer of 64 bits")]
    Overflow,
    /// An MGET or MSET names more keys than the limit.
    #[error("{keys} keys in one operation; the limit is {}", crate::limits::MULTI_KEYS_MAX)]
    TooManyKeys {
        /// Their number.
        keys: u64,
    },
    /// A SCAN asks for more entries than the limit.
    #[error("a scan of {entries} entries; the limit is {}", crate::limits::SCAN_ENTRIES_MAX)]
    ScanTooLong {
        /// What was asked for.
        entries: u64,
    },
    /// The results of the bundle would exceed the limit; ask for less, or in smaller bundles. A SCAN gives this only if
    /// there is no room for its first entry.
    #[error("the results of the bundle would exceed {} bytes", crate::limits::RESULTS_BYTES_MAX)]
    ResultsTooLong,
    /// A registration that does not stand alone in bundle 0, or a void bundle with other operations.
    #[error(
        "a registration must be the only operation of bundle 0 of no session, and a void one of its bundle"
    )]
    Misplaced,
    /// A registration names a seq that is too old, or one that is not executed yet; sign another.
    #[error(
        "the registration names seq {recent}, which is above {executing}, or more than {} headers and {} s below it",
        crate::limits::REGISTRATION_AGE_MAX,
        crate::limits::REGISTRATION_TIME_MAX.0 / 1_000_000_000
    )]
    RegistrationNotRecent {
        /// The seq that it names.
        recent: u64,
        /// The seq at which it came up.
        executing: u64,
    },
    /// The key has opened as many sessions lately as it may keep; try again later, with another registration.
    #[error("the key has opened {sessions} sessions within the last headers; try again later")]
    TooManyRegistrations {
        /// Their number.
        sessions: u64,
    },
    /// The registration was executed before, and its session is evicted.
    #[error("the session that this registration opened was evicted; register anew")]
    RegistrationUsed,
    /// The session was evicted, as its key has opened others since.
    #[error("the session was evicted; open another one")]
    SessionEvicted {
        /// The number of its first bundle that was never executed, and never will be; 0 if that is not known any more.
        next: u64,
    },
    /// The number was used by a bundle with other operations.
    #[error("the number of the bundle was used by another one of the same session")]
    NumberUsed,
    /// The state has no room for what the operation would add. What makes it no larger is done all the same.
    #[error(
        "the state is full ({} of {}); delete keys, or write nothing that makes it larger",
        ByteCount(*bytes),
        ByteCount(*bytes_max)
    )]
    StateFull {
        /// What users' entries come to.
        bytes: u64,
        /// What they may come to.
        bytes_max: u64,
    },
}
