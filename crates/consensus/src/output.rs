//! What consensus wants done.

use quorate_types::{After, Digest, Lsn, Mark, ReplicaId, Seq, View};
use quorate_wire::message::{
    Checkpoint, CheckpointCertificate, Commit, FetchHeaders, FetchedHeaders, Message, NewView, PrePrepare,
    Prepare, Status, Suspect, ViewChange,
};
use quorate_wire::{Frame, Header, LaneTip, Position, SuspectReason};
use std::sync::Arc;
use thiserror::Error;

/// Who gets a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// All replicas, this one included: it takes its own vote as it takes any other, once it is durable.
    All,
    /// All replicas but this one.
    Others,
    /// One other replica.
    One(ReplicaId),
}

/// A message of consensus on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// A proposal.
    PrePrepare(Arc<PrePrepare>),
    /// A vote for a range of slots.
    Prepare(Arc<Prepare>),
    /// A vote for a slot and its ancestors.
    Commit(Commit),
    /// A vote for a state.
    Checkpoint(Checkpoint),
    /// Proof of a state.
    CheckpointCertificate(Arc<CheckpointCertificate>),
    /// What this replica has.
    Status(Status),
    /// A question for headers.
    FetchHeaders(FetchHeaders),
    /// The answer.
    FetchedHeaders(FetchedHeaders),
    /// A wish for the next view.
    Suspect(Suspect),
    /// This replica has left all views below one.
    ViewChange(Arc<ViewChange>),
    /// Where a view begins.
    NewView(Arc<NewView>),
}

impl Outgoing {
    /// The message as a frame.
    #[must_use]
    pub fn encode(&self) -> Frame {
        match self {
            Self::PrePrepare(message) => message.encode(),
            Self::Prepare(message) => message.encode(),
            Self::Commit(message) => message.encode(),
            Self::Checkpoint(message) => message.encode(),
            Self::CheckpointCertificate(message) => message.encode(),
            Self::Status(message) => message.encode(),
            Self::FetchHeaders(message) => message.encode(),
            Self::FetchedHeaders(message) => message.encode(),
            Self::Suspect(message) => message.encode(),
            Self::ViewChange(message) => message.encode(),
            Self::NewView(message) => message.encode(),
        }
    }
}

/// A fact for the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A header was accepted in a view.
    Accepted {
        /// The view.
        view: View,
        /// The header.
        header: Arc<Header>,
        /// Whether this replica votes for exactly this slot in this view. Headers that were taken over from a new
        /// view or a commit proof are not voted for one by one.
        voted: bool,
    },
    /// q PREPAREs name a slot.
    Prepared {
        /// The view.
        view: View,
        /// The slot.
        position: Position,
        /// The votes, signers ascending.
        votes: Vec<(ReplicaId, Arc<Prepare>)>,
    },
    /// q replicas have the same state after a slot.
    Stable(Arc<CheckpointCertificate>),
    /// What outlives the trimmed facts before this one: in `view`, nothing is voted for that is not above `voted` or
    /// on its chain, nor in any view below; and nothing at or below `stable` is accepted.
    Promised {
        /// The view that was entered last.
        view: View,
        /// The highest slot that was written down to be voted for in it, if there was one.
        voted: Option<Position>,
        /// The highest slot with a checkpoint certificate.
        stable: Position,
    },
    /// From now on this replica votes in no view below this one.
    ViewState {
        /// The view.
        view: View,
    },
    /// A view begins here, at most one in each way; it implies the [`Fact::ViewState`] of the view.
    EnterView {
        /// The view.
        view: View,
        /// The digest of the summaries that it begins with.
        new_view: Digest,
        /// The slot at which votes begin in it.
        head: Position,
    },
}

/// What consensus wants done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Append a fact to the consensus journal at this position.
    Append {
        /// The position; consecutive.
        lsn: Lsn,
        /// The fact.
        fact: Fact,
    },
    /// Send a message once `after` is durable.
    Send {
        /// To whom.
        to: Destination,
        /// What.
        message: Outgoing,
        /// What must be durable first.
        after: After,
    },
    /// A header is committed; they come in order, each once.
    Committed {
        /// The header.
        header: Arc<Header>,
        /// Its chain digest.
        position: Position,
    },
    /// As many others have nothing of this header, which leads to a certified slot, as answer for certain; or somebody has
    /// served it after all.
    Unserved(Option<Position>),
    /// Once `after` is durable, the consensus journal needs nothing at or below this position any more.
    Trim {
        /// The position.
        upto: Lsn,
        /// What must be durable first: facts that were written again.
        after: After,
    },
    /// Once `after` is durable, these of the own durable states are needed, ascending, and those that become durable
    /// later: a restart goes on from the lowest, and the others may be certified yet. Nothing below the lowest is
    /// needed of any journal.
    States {
        /// The slots that they follow; 0 is the beginning.
        needed: Vec<Seq>,
        /// What must be durable first: the certificate of the lowest.
        after: After,
    },
    /// This replica works in a view.
    ViewEntered {
        /// The view.
        view: View,
        /// The one in which it worked before.
        from: View,
        /// Who has wished to leave that or a later one, and why, as far as it was told here.
        why: Vec<(ReplicaId, SuspectReason)>,
    },
    /// This replica has left a view, and waits for another one to begin.
    ViewLeft {
        /// The view that it has left, or waited for.
        view: View,
        /// The one that it waits for.
        target: View,
        /// As above.
        why: Vec<(ReplicaId, SuspectReason)>,
    },
    /// A committed header, or one at which a view begins, names batches that are not held: fetch them.
    Want(LaneTip),
    /// The header that would be accepted next names a batch that has not come for a while, or that too few have
    /// acknowledged for all that is known here.
    WantProposed {
        /// The batch.
        tip: LaneTip,
        /// Where the header before leaves its lane.
        floor: Mark,
        /// Who has proposed it.
        primary: ReplicaId,
    },
    /// These batches are held for headers of lower views alone, which no later view brings back: none of them is needed.
    /// Each comes before its parent.
    Unname(Vec<LaneTip>),
    /// Whether this replica knows that others have committed more; told when it changes.
    Behind(bool),
    /// The replica broke no rule but somebody else did.
    Rejected(Reject),
    /// Going on would not be safe.
    Halt(String),
}

/// Why a message was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Reject {
    /// A proposal whose parent is not the header before it.
    #[error("a header with a wrong parent")]
    Parent,
    /// A proposal of another epoch.
    #[error("a header of another epoch")]
    Epoch,
    /// A proposal whose time does not exceed its parent's.
    #[error("a header whose timestamp does not exceed its parent's")]
    Timestamp,
    /// A cut that is empty, unordered, names no lane, goes back or advances too far.
    #[error("a cut that is malformed or advances a lane by nothing or by too much")]
    Cut,
    /// Two proposals for one (view, seq), both signed by the primary.
    #[error("two proposals of the primary for one slot")]
    Equivocation,
    /// Two votes of one replica for one (view, seq).
    #[error("two votes of one replica for one slot")]
    DoubleVote,
    /// Headers that do not link to what was asked for.
    #[error("headers that do not link to the digest asked for")]
    FetchMismatch,
    /// A certificate without q valid signatures of distinct replicas.
    #[error("a certificate that does not prove its statement")]
    Certificate,
    /// A new view whose head does not extend the highest checkpoint, or conflicts with the own one.
    #[error("a new view that does not extend a checkpoint")]
    NewView,
}

impl Reject {
    /// The label under which it is counted.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Parent => "header_parent",
            Self::Epoch => "header_epoch",
            Self::Timestamp => "header_timestamp",
            Self::Cut => "header_cut",
            Self::Equivocation => "equivocation",
            Self::DoubleVote => "double_vote",
            Self::FetchMismatch => "header_fetch_mismatch",
            Self::Certificate => "certificate",
            Self::NewView => "new_view",
        }
    }
}
