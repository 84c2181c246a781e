//! What can happen next in a history.

use crate::agent::Leaving;
use crate::network::NetworkEvent;
use quorate_journal::WriteId;
use quorate_types::{CoreId, JournalId, Lsn, ReplicaId};

/// A replica from one start to its end; what is still under way for an earlier life means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// The replica.
    pub replica: ReplicaId,
    /// Which life, counted from 0.
    pub number: u64,
}

/// Something that happens at a virtual time.
#[derive(Debug)]
pub enum Event {
    /// Inside the network.
    Network(NetworkEvent),
    /// A core takes its inputs, or a deadline of it has passed.
    Tick {
        /// The replica.
        replica: ReplicaId,
        /// The core.
        core: CoreId,
    },
    /// The oldest message between two cores of a replica arrives.
    Mail {
        /// The replica.
        life: Life,
        /// The core that sent it.
        from: CoreId,
        /// The core that gets it.
        to: CoreId,
    },
    /// A group of a log is on disk.
    Written {
        /// The replica.
        life: Life,
        /// The core of the log.
        core: CoreId,
        /// The write.
        write: WriteId,
    },
    /// A record of a log is read back.
    ReadBack {
        /// The replica.
        life: Life,
        /// The core of the log.
        core: CoreId,
        /// The journal.
        journal: JournalId,
        /// The record's position.
        lsn: Lsn,
    },
    /// The slow reading of a log comes past a record that has gone bad.
    Lost {
        /// The replica.
        life: Life,
        /// The core of the log.
        core: CoreId,
        /// The journal.
        journal: JournalId,
        /// The record's position.
        lsn: Lsn,
    },
    /// The file of a segment is made, renamed or removed.
    SegmentMade {
        /// The replica.
        life: Life,
        /// The core of the log.
        core: CoreId,
    },
    /// A log may have been quiet for a while.
    Quiet {
        /// The replica.
        life: Life,
        /// The core of the log.
        core: CoreId,
        /// Its activity when the while began.
        since: u64,
    },
    /// A checkpoint is on disk.
    PagesWritten {
        /// The replica.
        life: Life,
    },
    /// A replica that is to crash has had its time to do so in the middle of something.
    Crash {
        /// The replica.
        life: Life,
    },
    /// A client submits its next bundle.
    Submit {
        /// The client.
        client: usize,
    },
    /// A deadline of a client's session has passed.
    Patience {
        /// The client.
        client: usize,
    },
    /// A fault begins.
    FaultBegins {
        /// Its index in the plan.
        fault: usize,
    },
    /// A fault is over.
    FaultEnds {
        /// Its index in the plan.
        fault: usize,
    },
    /// A liar sends what it has held back.
    Lie {
        /// The liar.
        life: Life,
        /// What, and to whom.
        leaving: Leaving,
    },
    /// The fault phase is over.
    Heal,
    /// The oracles look at the whole cluster.
    Probe,
}

impl From<NetworkEvent> for Event {
    fn from(event: NetworkEvent) -> Self {
        Self::Network(event)
    }
}
