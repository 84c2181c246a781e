//! The replicated state and its one way to change: executing bundles in order.

use std::fmt;
use std::sync::Arc;

use quorate_types::{
    ArchivedOperation, BundleNumber, Digest, LaneId, LaneNumber, Nanoseconds, OperationError, PublicKey, Seq,
    SessionId, limits,
};
use rkyv::vec::ArchivedVec;

use crate::execute::Execution;
use crate::frozen::Frozen;
use crate::leaf::{Shared, VersionedRef};
use crate::reply::{Outcome, Reply, SkipReason};
use crate::results::Results;
use crate::session::Sessions;
use crate::system::{self, HeaderRecord, SessionFields, USER};
use crate::totals::Totals;
use crate::tree::Tree;
use crate::window::Window;

const _: () =
    assert!(limits::RESULTS_BYTES_MAX <= limits::REPLY_BYTES_KEPT_MAX, "the newest reply is always kept");

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
    /// Its operations, in an archive that the caller has checked.
    pub operations: &'a ArchivedVec<ArchivedOperation>,
}

/// The authenticated key-value state.
pub struct State {
    tree: Tree,
    totals: Totals,
    sessions: Sessions,
    results: Results,
    window: Window,
    page: Vec<u8>,
    /// The seq of the last checkpoint, and the bytes of batches executed since. Not in the tree: at every checkpoint
    /// they are what they are after a restart from it.
    checkpointed: Seq,
    bytes_since: u64,
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
        Self::with_sessions_max(allowed_clients, limits::SESSIONS_MAX)
    }

    /// As [`State::new`], with another limit of sessions. For tests: all replicas must agree on it.
    ///
    /// # Panics
    /// When `sessions_max` is zero.
    #[must_use]
    pub fn with_sessions_max(
        allowed_clients: impl IntoIterator<Item = [u8; 32]>,
        sessions_max: usize,
    ) -> Self {
        let tree = tree_of(allowed_clients);
        Self::over(Totals::rebuild(&tree), tree, sessions_max)
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
        Self::over(Totals::rebuild(&tree), tree, limits::SESSIONS_MAX)
    }

    /// The living state that continues a frozen one. Walks its sessions.
    #[must_use]
    pub fn from_frozen(frozen: &Frozen, sessions_max: usize) -> Self {
        Self::over(frozen.totals, frozen.tree.clone(), sessions_max)
    }

    fn over(totals: Totals, tree: Tree, sessions_max: usize) -> Self {
        let mut state = Self {
            totals,
            sessions: Sessions::rebuild(&tree, sessions_max),
            tree,
            results: Results::default(),
            window: Window::default(),
            page: Vec::new(),
            checkpointed: Seq(0),
            bytes_since: 0,
        };
        state.checkpointed = state.header().map_or(Seq(0), |header| header.seq);
        state
    }

    /// Executes a bundle, or says why not. Allocates the reply's results and what the tree keeps, no more.
    pub fn execute(&mut self, context: Context, input: BundleInput<'_>) -> Outcome {
        if input.operations.len() > limits::BUNDLE_OPERATIONS_MAX {
            return Outcome::Skipped(SkipReason::TooManyOperations);
        }
        let Some(session) = self.sessions.get(&input.session) else {
            return self.execute_unopened(context, input);
        };
        let fields = session.fields;
        if fields.client != *input.client {
            return Outcome::Skipped(SkipReason::SessionNotOwned);
        }
        if input.number > fields.next {
            return Outcome::Skipped(SkipReason::NumberAboveNext);
        }
        if input.number < fields.next {
            return self.repeat(input.session, input.number);
        }
        self.run(input);
        let reply = self.reply(context, input);
        self.keep(context, fields, &reply);
        Outcome::Executed(reply)
    }

    fn run(&mut self, input: BundleInput<'_>) {
        self.results.begin(input.operations.len());
        self.window.clear();
        // The records that the bundle will write at its end are read ahead with its first operations.
        self.window.push_system(&system::reply_key(&input.session, input.number));
        self.window.push_system(&system::session_key(&input.session));
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
            };
            for operation in group {
                execution.operation(operation);
            }
            rest = later;
            self.window.clear();
        }
    }

    fn execute_unopened(&mut self, context: Context, input: BundleInput<'_>) -> Outcome {
        let Some(highest) = self.sessions.counter(input.client) else {
            return Outcome::Skipped(SkipReason::ClientNotAllowed);
        };
        if input.number != BundleNumber(0) {
            return Outcome::Skipped(SkipReason::SessionUnknown);
        }
        self.results.begin(input.operations.len());
        let [ArchivedOperation::Register { counter }] = input.operations.as_slice() else {
            for _ in input.operations.iter() {
                self.results.error(OperationError::MisplacedRegistration);
            }
            return Outcome::Refused(self.reply(context, input));
        };
        let counter = counter.to_native();
        let derived = PublicKey::from_bytes(input.client).map(|key| SessionId::derive(&key, counter));
        if derived != Ok(input.session) {
            return Outcome::Skipped(SkipReason::SessionNotDerived);
        }
        if let Some(highest) = highest
            && counter <= highest
        {
            self.results.error(OperationError::CounterTooLow { counter, highest });
            return Outcome::Refused(self.reply(context, input));
        }
        self.open(context, input, counter)
    }

    fn open(&mut self, context: Context, input: BundleInput<'_>, counter: u64) -> Outcome {
        if let Some((id, evicted)) = self.sessions.evict_for_one() {
            self.forget(id, evicted.fields);
        }
        self.sessions.set_counter(*input.client, counter);
        let client_key = system::client_key(input.client);
        let change = self.tree.put(&client_key, context.seq.0, &counter.to_le_bytes());
        self.totals.count(client_key.len(), change);
        let fields = SessionFields {
            client: *input.client,
            next: BundleNumber(0),
            kept_from: BundleNumber(0),
            kept_bytes: 0,
        };
        self.sessions.insert(input.session, fields, context.seq);
        self.results.registered();
        let reply = self.reply(context, input);
        self.keep(context, fields, &reply);
        Outcome::Executed(reply)
    }

    fn reply(&mut self, context: Context, input: BundleInput<'_>) -> Reply {
        Reply::new(input.session, input.number, context.seq, Arc::from(self.results.finish()))
    }

    /// Keeps a reply in its slot, drops those that are over the limits, and records the session's progress.
    fn keep(&mut self, context: Context, mut fields: SessionFields, reply: &Reply) {
        let bytes = reply.results.len() as u64;
        fields.next = reply.number.next();
        while fields.kept_from < reply.number
            && fields.kept_bytes + bytes > limits::REPLY_BYTES_KEPT_MAX as u64
        {
            self.drop_reply(&reply.session, &mut fields);
        }
        let results = Shared { bytes: Arc::clone(&reply.results), digest: reply.digest };
        let key = system::reply_key(&reply.session, reply.number);
        let change = self.tree.put_shared(&key, context.seq.0, &results);
        self.totals.count(key.len(), change);
        fields.kept_bytes += bytes;
        if let Some(overwritten) = change.before {
            fields.kept_bytes -= overwritten as u64;
            fields.kept_from = fields.kept_from.next();
        }
        assert!(fields.next.since(fields.kept_from) <= limits::REPLIES_KEPT_MAX as u64);
        let key = system::session_key(&reply.session);
        let change = self.tree.put(&key, context.seq.0, &fields.to_value());
        self.totals.count(key.len(), change);
        self.sessions.update(reply.session, fields, context.seq);
    }

    fn drop_reply(&mut self, session: &SessionId, fields: &mut SessionFields) {
        let key = system::reply_key(session, fields.kept_from);
        let change = self.tree.remove(&key);
        self.totals.count(key.len(), change);
        let dropped = change.before.expect("invariant: replies from kept_from to next are kept");
        fields.kept_bytes -= dropped as u64;
        fields.kept_from = fields.kept_from.next();
    }

    fn forget(&mut self, id: SessionId, mut fields: SessionFields) {
        while fields.kept_from < fields.next {
            self.drop_reply(&id, &mut fields);
        }
        let key = system::session_key(&id);
        let change = self.tree.remove(&key);
        self.totals.count(key.len(), change);
    }

    /// The answer to a bundle that was executed before. A long reply is neither copied nor hashed again, so
    /// that retries cost little.
    fn repeat(&self, session: SessionId, number: BundleNumber) -> Outcome {
        let kept_from = self.sessions.get(&session).map(|known| known.fields.kept_from);
        if kept_from.is_none_or(|kept_from| number < kept_from) {
            return Outcome::Gone { session, number };
        }
        let key = system::reply_key(&session, number);
        let kept = self.tree.get(&key).expect("invariant: replies from kept_from to next are kept");
        let seq = Seq(kept.version);
        Outcome::Repeated(match self.tree.shared(&key) {
            Some(Shared { bytes, digest }) => {
                Reply { session, number, seq, results: Arc::clone(bytes), digest: *digest }
            }
            None => Reply::new(session, number, seq, Arc::from(kept.value)),
        })
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

    /// The number of open sessions.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
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
        let Totals { user_keys, stored_bytes, revision } = Totals::rebuild(&self.tree);
        assert_eq!((self.totals.user_keys, self.totals.stored_bytes), (user_keys, stored_bytes));
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
