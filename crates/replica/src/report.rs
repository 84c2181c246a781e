//! What the roles of a replica know about themselves, for `quorate status`.

use quorate_types::{Digest, Nanoseconds, ReplicaId, Seq, View};
use quorate_wire::Position;

/// What may be asked for beside what each report tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// The root of the state.
    pub root: bool,
    /// Histograms; the driver has them.
    pub histograms: bool,
}

/// The answer to a report request, filled in role by role.
#[derive(Clone, Debug, Default)]
pub struct RoleReport {
    /// The ordering role's part.
    pub ordering: OrderingReport,
    /// The execution role's part.
    pub execution: ExecutionReport,
    /// What was asked for.
    pub extras: Extras,
}

/// What the ordering role knows.
#[derive(Clone, Debug, Default)]
pub struct OrderingReport {
    /// The view.
    pub view: View,
    /// Whether the role works in it; else it has left an earlier one and waits for this one to begin.
    pub entered: bool,
    /// The primary of the view.
    pub primary: ReplicaId,
    /// The highest accepted slot.
    pub accepted: Position,
    /// The highest prepared slot.
    pub prepared: Position,
    /// The highest committed slot.
    pub committed: Position,
    /// The highest slot with a checkpoint certificate.
    pub stable: Position,
    /// For each peer, the highest slot that it is known to have committed.
    pub peers_committed: Vec<(ReplicaId, Seq)>,
    /// The last of the committed headers that are being fetched.
    pub fetching_upto: Option<Seq>,
    /// What the role is waiting for, in words; empty when nothing is open.
    pub waiting: String,
}

/// What the execution role knows.
#[derive(Clone, Debug, Default)]
pub struct ExecutionReport {
    /// The highest executed slot.
    pub executed: Position,
    /// Its timestamp.
    pub timestamp: Nanoseconds,
    /// The root of the state after it, if it was asked for and the next header is not executed in part.
    pub root: Option<Digest>,
    /// The number of sessions in the state.
    pub sessions: u64,
    /// The bytes of results that the state keeps of all sessions.
    pub reply_bytes: u64,
    /// The number of user keys in the state.
    pub user_keys: u64,
    /// The bytes of keys and values in the state.
    pub stored_bytes: u64,
    /// What users' entries come to, of what they may come to.
    pub user_bytes: u64,
    /// The first header that is committed and not executed to its end.
    pub next: Option<Seq>,
    /// Whether batches of that header are still missing.
    pub waits_for_batches: bool,
    /// Whether the own state is lost or damaged: nothing is executed before one is taken over.
    pub lacks_state: bool,
    /// Whether the replica never votes.
    pub learner: bool,
    /// The state that is being taken over from others.
    pub fetching: Option<Fetching>,
}

/// A state on its way from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetching {
    /// The slot after which it is such.
    pub seq: Seq,
    /// The pages that have come.
    pub pages: u64,
    /// The subtrees and values that were here already.
    pub reused: u64,
}
