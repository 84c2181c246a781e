//! What execution answers.

use std::sync::Arc;

use quorate_types::{BundleNumber, Digest, Domain, Seq, SessionId};

/// The results of one bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The session.
    pub session: SessionId,
    /// The bundle.
    pub number: BundleNumber,
    /// The seq at which the bundle was executed; in a repeated reply the original one.
    pub seq: Seq,
    /// The archive of a `Vec<OperationResult>`: the very bytes that rkyv gives for it, the same everywhere.
    pub results: Arc<[u8]>,
    /// The digest of `results`, in [`Domain::Results`].
    pub digest: Digest,
}

impl Reply {
    pub(crate) fn new(session: SessionId, number: BundleNumber, seq: Seq, results: Arc<[u8]>) -> Self {
        let digest = Digest::of(Domain::Results, &results);
        Self { session, number, seq, results, digest }
    }
}

/// What became of a bundle. The same on every replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The bundle was the session's next and was executed; the reply is kept.
    Executed(Reply),
    /// The bundle was executed before; the kept reply.
    Repeated(Reply),
    /// Bundle 0 did not open its session (the counter is too low, or it is no registration). The reply says
    /// why in its results; nothing changed and nothing is kept, so `seq` is that of this attempt.
    Refused(Reply),
    /// The bundle was executed before; its results are no longer kept.
    Gone {
        /// The session.
        session: SessionId,
        /// The bundle.
        number: BundleNumber,
    },
    /// The bundle has no effect and no answer.
    Skipped(SkipReason),
}

/// Why a bundle has no effect and no answer. For counters and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SkipReason {
    /// The configuration does not allow the client's key.
    ClientNotAllowed,
    /// The session was never opened, or was evicted.
    SessionUnknown,
    /// The session belongs to another key.
    SessionNotOwned,
    /// Bundle 0 names a session that is not the one of its key and counter.
    SessionNotDerived,
    /// The bundle is not the next one; those before it are missing.
    NumberAboveNext,
    /// The bundle has more operations than [`quorate_types::limits::BUNDLE_OPERATIONS_MAX`].
    TooManyOperations,
}
