//! The replicated state and its one way to change: executing bundles in order.

use std::fmt;
use std::sync::Arc;

use quorate_types::{
    ArchivedOperation, BundleNumber, Digest, LaneId, LaneNumber, Nanoseconds, Seq, SessionId, StateLimits,
    limits,
};
use rkyv::vec::ArchivedVec;

use crate::execute::Execution;
use crate::frozen::Frozen;
use crate::leaf::VersionedRef;
use crate::recency::Recency;
use crate::reply::{Outcome, Reply, SkipReason};
use crate::results::Results;
use crate::session::Sessions;
use crate::system::{self, HeaderRecord, USER};
use crate::totals::Totals;
use crate::tree::Tree;
use crate::window::Window;

/// The header whose bundles are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Its seq; the version of the system records that are written.
    pub seq: Seq,
    /// Its timestamp: the only time that operations may see.
    pub timestamp: Nanoseconds,
}

/// A bundle with a good signature.
#[derive(Clone, Copy, Debug)]
pub struct BundleInput<'a> {
    /// The key that signed it.
    pub client: &'a [u8; 32],
    /// Its session.
    pub session: SessionId,
    /// Its number in the session.
    pub number: BundleNumber,
    /// The digest of its operations.
    pub request: Digest,
    /// Its operations, in an archive that the caller has checked.
    pub operations: &'a ArchivedVec<ArchivedOperation>,
}

/// The authenticated key-value state.
pub struct State {
    pub(crate) tree: Tree,
    pub(crate) totals: Totals,
    pub(crate) sessions: Sessions,
    pub(crate) results: Results,
    pub(crate) recency: Recency,
    /// The session that was opened last.
    pub(crate) last_opened: SessionId,
    window: Window,
    page: Vec<u8>,
    /// The seq of the last checkpoint, and the bytes of batches executed since. Not in the tree: at every checkpoint
    /// they are what they are after a restart from it.
    checkpointed: Seq,
    bytes_since: u64,
    /// The operations that there was no room for. No part of the state: for the counters.
    declined_full: u64,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("tree", &self.tree)
            .field("totals", &self.totals)
            .field("sessions", &self.sessions.len())
            .finish_non_exhaustive()
    }
}

impl State {
    /// The state before the first header: empty but for the clients that are allowed.
    #[must_use]
    pub fn new(allowed_clients: impl IntoIterator<Item = [u8; 32]>) -> Self {
        Self::with_limits(allowed_clients, StateLimits::default())
    }

    /// As [`State::new`], with other limits. All replicas must agree on them.
    ///
    /// # Panics
    /// When a client may have no session.
    #[must_use]
    pub fn with_limits(allowed_clients: impl IntoIterator<Item = [u8; 32]>, limits: StateLimits) -> Self {
        let tree = tree_of(allowed_clients);
        Self::over(Totals::rebuild(&tree), tree, limits)
    }

    /// The state before the first header of a cluster that begins with users' keys and goes on after `revision`, which
    /// no version exceeds. Its root depends on the order of the entries; replicas that are to agree take them in the
    /// order of their keys.
    ///
    /// # Panics
    /// When an entry's version is above `revision`.
    #[must_use]
    pub fn beginning_with<'a>(
        allowed_clients: impl IntoIterator<Item = [u8; 32]>,
        revision: u64,
        entries: impl IntoIterator<Item = (&'a [u8], VersionedRef<'a>)>,
    ) -> Self {
        let mut tree = tree_of(allowed_clients);
        tree.put(&system::revision_key(), 0, &revision.to_le_bytes());
        for (key, entry) in entries {
            assert!(entry.version <= revision, "version {} is above revision {revision}", entry.version);
            tree.put(&system::user_key(key), entry.version, entry.value);
        }
        Self::over(Totals::rebuild(&tree), tree, StateLimits::default())
    }

    /// The living state that continues a frozen one. Walks its sessions.
    #[must_use]
    pub fn from_frozen(frozen: &Frozen, limits: StateLimits) -> Self {
        Self::over(frozen.totals, frozen.tree.clone(), limits)
    }

    /// The same state with other limits. All replicas must agree on them.
    #[must_use]
    pub fn limited(mut self, limits: StateLimits) -> Self {
        self.sessions.set_limits(limits);
        self
    }

    fn over(totals: Totals, tree: Tree, limits: StateLimits) -> Self {
        let mut state = Self {
            totals,
            sessions: Sessions::rebuild(&tree, limits),
            tree,
            results: Results::default(),
            recency: Recency::default(),
            last_opened: SessionId::NONE,
            window: Window::default(),
            page: Vec::new(),
            checkpointed: Seq(0),
            bytes_since: 0,
            declined_full: 0,
        };
        state.last_opened = state.sessions.last().unwrap_or_default();
        if let Some(header) = state.header() {
            state.checkpointed = header.seq;
            state.recency = Recency::rebuild(&state.tree, header.timestamp);
        }
        state
    }

    /// Executes a bundle, or says why not. Allocates the reply's results and what the tree keeps, no more.
    pub fn execute(&mut self, context: Context, input: BundleInput<'_>) -> Outcome {
        if input.operations.len() > limits::BUNDLE_OPERATIONS_MAX {
            return Outcome::Skipped(SkipReason::TooManyOperations);
        }
        if input.session == SessionId::NONE {
            return self.register(context, input);
        }
        let Some(session) = self.sessions.get(input.session) else {
            return self.refuse_unopened(context, input);
        };
        let fields = session.fields;
        if fields.client != *input.client {
            return Outcome::Skipped(SkipReason::SessionNotOwned);
        }
        if input.number > fields.next {
            return Outcome::Skipped(SkipReason::NumberAboveNext);
        }
        if input.number < fields.next {
            return self.repeat(input, fields);
        }
        self.run(input);
        let reply = self.reply(context.seq, input);
        self.keep(context, fields, &reply);
        Outcome::Executed(reply)
    }

    fn run(&mut self, input: BundleInput<'_>) {
        self.results.begin(input.operations.len());
        if is_void(input.operations) {
            return self.results.voided();
        }
        self.window.clear();
        // The records that the bundle will write at its end are read ahead with its first operations.
        self.window.push_system(&system::reply_key(input.session, input.number));
        self.window.push_system(&system::session_key(input.session));
        let mut rest = input.operations.as_slice();
        while !rest.is_empty() {
            // What follows an overflow is mostly refused unread, and must then cost no search either.
            let taken = self.window.fill(&self.tree, rest, !self.results.overflowed());
            let (group, later) = rest.split_at(taken);
            let mut execution = Execution {
                tree: &mut self.tree,
                totals: &mut self.totals,
                results: &mut self.results,
                keys: &self.window,
                first_key: self.window.first_key(),
                bytes_max: self.sessions.limits().bytes_max,
                declined_full: &mut self.declined_full,
            };
            for operation in group {
                execution.operation(operation);
            }
            rest = later;
            self.window.clear();
        }
    }

    /// The reply with the finished results.
    pub(crate) fn reply(&mut self, seq: Seq, input: BundleInput<'_>) -> Reply {
        let record = Arc::from(self.results.finish_for(&input.request));
        Reply::new(input.session, input.number, seq, record)
    }

    /// Writes a system record.
    pub(crate) fn put(&mut self, key: &[u8], version: u64, value: &[u8]) {
        let change = self.tree.put(key, version, value);
        self.totals.count(key.len(), change);
    }

    /// Removes a system record.
    pub(crate) fn remove(&mut self, key: &[u8]) {
        let change = self.tree.remove(key);
        assert!(change.before.is_some(), "invariant: what is removed is there");
        self.totals.count(key.len(), change);
    }

    /// The value of a user's key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<VersionedRef<'_>> {
        self.tree.get(&system::user_key(key))
    }

    /// Records the last executed header, and the revision that was reached with it.
    pub fn note_header(&mut self, seq: Seq, digest: Digest, timestamp: Nanoseconds) {
        let key = system::header_key();
        let change = self.tree.put(&key, seq.0, &system::header_value(digest, timestamp));
        self.totals.count(key.len(), change);
        if self.totals.revision > 0 {
            let key = system::revision_key();
            let change = self.tree.put(&key, 0, &self.totals.revision.to_le_bytes());
            self.totals.count(key.len(), change);
        }
        if let Some(marks) = self.recency.note(seq, timestamp, &self.sessions.limits()) {
            self.put(&system::marks_key(), 0, &marks);
        }
        self.forget_registrations(seq);
    }

    /// The last executed header, or nothing before the first.
    #[must_use]
    pub fn header(&self) -> Option<HeaderRecord> {
        let record = self.tree.get(&system::header_key())?;
        let (digest, timestamp) = system::header_fields(record.value)?;
        Some(HeaderRecord { seq: Seq(record.version), digest, timestamp })
    }

    /// Records how far a lane is executed.
    pub fn note_lane_tip(&mut self, lane: LaneId, upto: LaneNumber, chain: Digest) {
        let key = system::lane_key(lane);
        let change = self.tree.put(&key, 0, &system::lane_value(upto, chain));
        self.totals.count(key.len(), change);
    }

    /// How far a lane is executed and its chain digest there, or nothing before its first batch.
    #[must_use]
    pub fn lane_tip(&self, lane: LaneId) -> Option<(LaneNumber, Digest)> {
        system::lane_fields(self.tree.get(&system::lane_key(lane))?.value)
    }

    /// The root digest. Hashes only what changed since it was last asked for.
    pub fn root(&mut self) -> Digest {
        self.tree.digest(&mut self.page)
    }

    /// An unchanging copy, in constant time. Until it is dropped, what the state changes is copied first.
    #[must_use]
    pub fn freeze(&self) -> Frozen {
        Frozen { tree: self.tree.clone(), totals: self.totals }
    }

    /// Counts the bytes of executed batches towards the next checkpoint.
    pub fn note_executed_bytes(&mut self, bytes: u64) {
        self.bytes_since = self.bytes_since.saturating_add(bytes);
    }

    /// The bytes of batches executed since the last checkpoint.
    #[must_use]
    pub fn bytes_since_checkpoint(&self) -> u64 {
        self.bytes_since
    }

    /// The seq of the last checkpoint: of the last [`State::checkpoint`], or of the state that this one continues.
    #[must_use]
    pub fn last_checkpoint(&self) -> Seq {
        self.checkpointed
    }

    /// Whether so many headers or bytes have passed since the last checkpoint. A function of the history alone, as
    /// long as every state that is continued was frozen by [`State::checkpoint`].
    #[must_use]
    pub fn is_checkpoint_due(&self, headers: u64, bytes: u64) -> bool {
        let seq = self.header().map_or(Seq(0), |header| header.seq);
        seq.since(self.checkpointed) >= headers || (self.bytes_since >= bytes && seq > self.checkpointed)
    }

    /// As [`State::freeze`], and the counts towards the next checkpoint begin anew.
    ///
    /// # Panics
    /// When something was written since the last header was recorded: the tree would lack its revision.
    pub fn checkpoint(&mut self) -> Frozen {
        let recorded = Totals::recorded_revision(&self.tree);
        assert_eq!(recorded, self.totals.revision, "a checkpoint follows a header");
        self.checkpointed = self.header().map_or(Seq(0), |header| header.seq);
        self.bytes_since = 0;
        self.freeze()
    }

    /// The revision of the last write, 0 before the first.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.totals.revision
    }

    /// The number of users' keys.
    #[must_use]
    pub fn user_keys(&self) -> u64 {
        self.totals.user_keys
    }

    /// What users' entries come to, as [`StateLimits::bytes_max`] counts them.
    #[must_use]
    pub fn user_bytes(&self) -> u64 {
        self.totals.user_bytes
    }

    /// How many operations had no effect for want of room since this was asked last.
    pub fn take_declined_full(&mut self) -> u64 {
        std::mem::take(&mut self.declined_full)
    }

    /// The number of open sessions.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// The bytes of results that are kept of all sessions.
    #[must_use]
    pub fn reply_bytes(&self) -> u64 {
        self.sessions.kept_bytes()
    }

    /// The bytes of all keys and values, system records included.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.totals.stored_bytes
    }

    /// Checks everything that must hold inside. Walks the whole state.
    ///
    /// # Panics
    /// When something does not hold.
    pub fn check_invariants(&self) {
        self.tree.check_invariants();
        self.sessions.check_invariants(&self.tree);
        if let Some(header) = self.header() {
            assert_eq!(self.recency, Recency::rebuild(&self.tree, header.timestamp));
        }
        let counted = Totals::rebuild(&self.tree);
        let revision = counted.revision;
        assert_eq!(Totals { revision, ..self.totals }, counted);
        assert!(revision <= self.totals.revision, "the revision never falls");
        let mut versions = self.tree.range(&[USER], &[]).map(|(_, entry)| entry.version);
        assert!(versions.all(|version| version <= self.totals.revision), "every version was given out");
    }
}

/// What there is before anything else: the clients that are allowed.
fn tree_of(allowed_clients: impl IntoIterator<Item = [u8; 32]>) -> Tree {
    let mut tree = Tree::default();
    for client in allowed_clients {
        tree.put(&system::client_key(&client), 0, &[]);
    }
    tree
}

/// Whether a bundle only stands in the place of another.
pub(crate) fn is_void(operations: &[ArchivedOperation]) -> bool {
    matches!(operations, [ArchivedOperation::Void])
}
