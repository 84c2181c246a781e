//! How far a lane is on one replica, as the link role that holds it tells the ordering role.

use crate::{Digest, JournalId, LaneId, LaneNumber, Lsn};

/// One held batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoardEntry {
    /// The chain digest up to it.
    pub chain: Digest,
    /// Its size in bytes.
    pub bytes: u64,
    /// The journal in which it lies.
    pub journal: JournalId,
    /// Its position there.
    pub lsn: Lsn,
}

/// Progress of one lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneUpdate {
    /// The lane.
    pub lane: LaneId,
    /// The number of the first of `entries`; what was held from there on is replaced.
    pub first: LaneNumber,
    /// The chain digest before `first`: the entries stand on this chain and on no other.
    pub before: Digest,
    /// Batches newly held, consecutive.
    pub entries: Vec<BoardEntry>,
    /// The highest held batch that f+1 replicas acknowledged.
    pub weak: LaneNumber,
    /// The highest held batch that q replicas acknowledged.
    pub quorum: LaneNumber,
}
