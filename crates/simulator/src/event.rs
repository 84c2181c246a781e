//! What can happen next in a history.

use crate::network::NetworkEvent;
use quorate_types::{CoreId, Digest, JournalId, Lsn, ReplicaId};
use quorate_wire::Position;

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
        replica: ReplicaId,
        /// The core that sent it.
        from: CoreId,
        /// The core that gets it.
        to: CoreId,
    },
    /// A write is on disk.
    Written {
        /// The replica.
        replica: ReplicaId,
        /// The journal.
        journal: JournalId,
        /// The record.
        lsn: Lsn,
    },
    /// The state of a checkpoint is hashed.
    Checkpointed {
        /// The replica.
        replica: ReplicaId,
        /// Its execution core.
        core: CoreId,
        /// The slot.
        position: Position,
        /// The root.
        root: Digest,
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
