//! How far a lane is on one replica, as the link role that holds it tells the ordering role.

use crate::{Digest, JournalId, LaneId, Lsn, Mark};

/// One held batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoardEntry {
    /// Its place: its number and the chain digest up to it.
    pub mark: Mark,
    /// The chain digest before it.
    pub previous: Digest,
    /// Its size in bytes.
    pub bytes: u64,
    /// The journal in which it lies.
    pub journal: JournalId,
    /// Its position there.
    pub lsn: Lsn,
    /// Why it is held.
    pub why: Why,
}

/// Why a replica holds a batch. It may acknowledge what is not merely named. A reason rises and never falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// A header names it.
    Named,
    /// f+1 others have acknowledged it.
    Acknowledged,
    /// It came on its origin's own link, or was sealed here.
    OwnLink,
}

/// How many have acknowledged a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Support {
    /// f+1 replicas: one of them is honest.
    Weak,
    /// q replicas.
    Quorum,
}

/// What is new of one lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneUpdate {
    /// The lane.
    pub lane: LaneId,
    /// Batches newly held, on whatever chain, each after its parent, and those that are held for a better reason than before.
    pub held: Vec<BoardEntry>,
    /// Per chain the highest held batch that so many have acknowledged, those before it included; only what has changed.
    pub supported: Vec<(Support, Mark)>,
    /// The end of the chain that goes on: of an own lane it may be named at once.
    pub tip: Mark,
}
