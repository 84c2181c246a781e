//! What execution answers.

use std::sync::Arc;

use quorate_types::{BundleNumber, Digest, Domain, Nonce, Seq, SessionId};

use crate::system::REQUEST_BYTES;

/// The results of one bundle, and what they answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The session; none for a registration.
    pub session: SessionId,
    /// The bundle.
    pub number: BundleNumber,
    /// The digest of the operations that this answers.
    pub request: Digest,
    /// The seq at which the bundle was executed; in a repeated reply the original one.
    pub seq: Seq,
    /// The digest of the results, in [`Domain::Results`].
    pub digest: Digest,
    /// As the state keeps it: the results, then the digest of the request.
    pub(crate) record: Arc<[u8]>,
}

impl Reply {
    /// A reply whose results were not hashed yet.
    pub(crate) fn new(session: SessionId, number: BundleNumber, seq: Seq, record: Arc<[u8]>) -> Self {
        let (results, request) = split(&record);
        let digest = Digest::of(Domain::Results, results);
        Self { session, number, request, seq, digest, record }
    }

    /// The archive of a `Vec<OperationResult>`: the very bytes that rkyv gives for it, the same everywhere.
    #[must_use]
    pub fn results(&self) -> &[u8] {
        split(&self.record).0
    }
}

/// The results and the digest of the request in the record of a reply. Results that are gone are empty.
///
/// # Panics
/// When it is no such record.
pub(crate) fn split(record: &[u8]) -> (&[u8], Digest) {
    let (results, request) =
        record.split_last_chunk::<REQUEST_BYTES>().expect("invariant: a reply ends with its request");
    (results, Digest(*request))
}

/// What became of a bundle. The same on every replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The bundle was the session's next and was executed; the reply is kept.
    Executed(Reply),
    /// The bundle was executed before; the kept reply. To a void bundle, that of the bundle in its place.
    Repeated(Reply),
    /// The bundle has no effect, and the results say why: its session is evicted, or its number was used by another.
    /// Nothing changed. Unless the number was used, `seq` is that of this attempt.
    Refused(Reply),
    /// The bundle was executed before; its results are no longer kept.
    Gone {
        /// The session.
        session: SessionId,
        /// The bundle.
        number: BundleNumber,
        /// The digest of the operations that were executed.
        request: Digest,
        /// Where.
        seq: Seq,
    },
    /// A registration was executed.
    Registration {
        /// Tells it apart from others of its key.
        nonce: Nonce,
        /// The session that it has opened, now or before; nothing if it is void, and then `seq` in its reply is that of
        /// this attempt.
        session: Option<SessionId>,
        /// Whether it is the first time that it was executed.
        fresh: bool,
        /// The answer.
        reply: Reply,
    },
    /// The bundle has no effect and no answer.
    Skipped(SkipReason),
}

/// Why a bundle has no effect and no answer. For counters and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SkipReason {
    /// The configuration does not allow the client's key.
    ClientNotAllowed,
    /// The session was never opened.
    SessionUnknown,
    /// The session belongs to another key.
    SessionNotOwned,
    /// A bundle of no session that is no registration.
    MisplacedRegistration,
    /// The bundle is not the next one; those before it are missing.
    NumberAboveNext,
    /// The number is so far below the next one that what it was used for is not known any more. No client has it open.
    NumberForgotten,
    /// The bundle has more operations than [`quorate_types::limits::BUNDLE_OPERATIONS_MAX`].
    TooManyOperations,
}
