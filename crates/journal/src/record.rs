//! The records of the journals.

use quorate_types::{CoreId, Digest, JournalId, View};
use quorate_wire::message::{CheckpointCertificate, Prepare};
use quorate_wire::{Frame, Header, Position};
use std::sync::Arc;

/// The journal of the ordering role.
pub const CONSENSUS_JOURNAL: JournalId = JournalId(0);

/// The journal of the batches that arrive on `core`.
#[must_use]
pub fn batch_journal(core: CoreId) -> JournalId {
    JournalId(core.0 + 1)
}

/// One fact that must survive, in the form in which it was received: nothing is encoded again.
#[derive(Clone, Debug)]
pub enum Record {
    /// A batch, the frame as it travelled.
    Batch(Frame),
    /// A header accepted in a view.
    Accept {
        /// The view.
        view: View,
        /// The header.
        header: Arc<Header>,
        /// Whether the replica votes for exactly this slot in this view.
        voted: bool,
    },
    /// A certificate: q PREPAREs for a slot.
    Prepared {
        /// The view.
        view: View,
        /// The slot.
        position: Position,
        /// The votes, with the signers' ids ascending.
        votes: Vec<(quorate_types::ReplicaId, Arc<Prepare>)>,
    },
    /// A certificate for the state after a slot.
    Checkpoint(Arc<CheckpointCertificate>),
    /// From now on no vote in any view below.
    ViewState {
        /// The view.
        view: View,
    },
    /// A view begins; at most one for each view.
    EnterView {
        /// The view.
        view: View,
        /// The digest of what it begins with.
        new_view: Digest,
        /// The slot at which votes begin in it.
        head: Position,
    },
}
