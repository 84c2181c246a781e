//! The vocabulary of Quorate: identifiers, digests, keys, quorum arithmetic, operations and the
//! configuration of a cluster.
//!
//! Everything here is a plain value. Nothing reads a clock, a file or a socket, so every other crate may
//! depend on this one. The words are those of DESIGN section 1.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod after;
mod byte_count;
mod chains;
mod cluster;
mod credit;
mod digest;
mod identifiers;
mod keys;
mod lane;
pub mod limits;
pub mod mistakes;
mod operation;
mod page;
mod quorum;
mod rounds;
pub mod signatures;
mod stage;

pub use after::After;
pub use byte_count::{ByteCount, NoByteCount};
pub use chains::{Chains, Mark};
pub use cluster::{
    ClusterConfig, ClusterFile, ClusterFileError, Member, OTHER_CLIENT, ReplicaEntry, StateLimits, Tuning,
};
pub use credit::{AnswerCredits, Credit, time_of};
pub use digest::{Digest, DigestWriter, Domain};
pub use identifiers::{
    BundleNumber, CoreId, Epoch, JournalId, KeyIndex, LaneId, LaneNumber, LinkId, Lsn, Nanoseconds, Nonce,
    ReplicaId, Seq, SessionId, View,
};
pub use keys::{KeyError, PublicKey, Signature, SigningKey};
pub use lane::{BoardEntry, LaneUpdate, Support, Why};
pub use mistakes::Mistake;
pub use operation::{
    ArchivedCondition, ArchivedKeyValue, ArchivedOperation, ArchivedOperationError, ArchivedOperationResult,
    ArchivedVersioned, ArchivedVersionedEntry, Condition, KeyValue, Operation, OperationError,
    OperationResult, Versioned, VersionedEntry,
};
pub use page::PageName;
pub use quorum::{Quorums, ReplicaSet, nth_highest};
pub use rounds::Rounds;
pub use stage::{Stage, StageTime};
