//! What may be wrong with a log, from harmless to grave.

use crate::{GroupNumber, SegmentNumber};
use quorate_types::{JournalId, Lsn};
use std::fmt;

/// What is wrong with a log, and what follows from it (DESIGN section 5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Damage {
    /// Nothing.
    #[default]
    None,
    /// Writes that were under way did not reach the disk whole. Nobody was told that they are durable.
    TornTail(TornTail),
    /// Batches that were durable are lost: they are to be had from other replicas.
    LostBatches(Vec<LostRecords>),
    /// What another version has written and this one does not know. Nobody starts from there.
    Unknown {
        /// What, and where.
        what: String,
    },
    /// Votes, certificates or views that were durable are lost, or may be: whoever votes on would contradict
    /// himself. The replica goes on as a learner.
    LostVotes {
        /// What is known of it.
        reason: String,
    },
}

/// Where a torn tail begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment of the first part of it that was found.
    pub segment: SegmentNumber,
    /// The offset in the segment.
    pub offset: u64,
    /// The first group that does not count.
    pub group: GroupNumber,
    /// The number of groups found that do not count.
    pub groups: usize,
}

/// Records of one journal that follow one another and are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostRecords {
    /// The journal.
    pub journal: JournalId,
    /// The first.
    pub first: Lsn,
    /// The last.
    pub last: Lsn,
}

impl fmt::Display for TornTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, offset, group, groups } = self;
        write!(f, "torn tail from group {group}, segment {segment} offset {offset}, groups dropped {groups}")
    }
}

impl fmt::Display for LostRecords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { journal, first, last } = self;
        write!(f, "journal {journal} records {first} to {last}")
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::TornTail(torn) => write!(f, "{torn}"),
            Self::LostBatches(lost) => {
                f.write_str("batches lost, to be fetched from other replicas:")?;
                lost.iter().try_for_each(|records| write!(f, " {records};"))
            }
            Self::Unknown { what } => {
                write!(
                    f,
                    "nothing, but it was written by another version, which has to go on with it: {what}"
                )
            }
            Self::LostVotes { reason } => write!(f, "votes lost, never to vote again: {reason}"),
        }
    }
}
