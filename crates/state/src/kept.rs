//! The replies that the state keeps, so that a retry gets the answer to what was executed (DESIGN sections 6 and 7).
//!
//! Of each session the last bundles leave a record: the results, and the digest of the request. Results are bounded in
//! bytes, by session, by client key and in all. Whoever is over a bound loses results of its own, the oldest of what it uses
//! least, and nobody those of another key. Digests of requests stay, so a retry learns that its bundle was executed.

use std::sync::Arc;

use quorate_types::{BundleNumber, OperationError, Seq, SessionId, limits};

use crate::leaf::Shared;
use crate::reply::{self, Outcome, Reply, SkipReason};
use crate::session::Session;
use crate::state::{BundleInput, Context, State, is_void};
use crate::system::{self, REQUEST_BYTES, SessionFields};

const _: () =
    assert!(limits::RESULTS_BYTES_MAX <= limits::REPLY_BYTES_KEPT_MAX, "the newest reply is always kept");

impl State {
    /// Keeps a reply in its slot, drops the results that are over the limits, and records the session's progress.
    pub(crate) fn keep(&mut self, context: Context, mut fields: SessionFields, reply: &Reply) {
        let bytes = reply.results().len() as u64;
        fields.next = reply.number.next();
        while fields.kept_from < reply.number
            && fields.kept_bytes + bytes > limits::REPLY_BYTES_KEPT_MAX as u64
        {
            self.drop_results(reply.session, &mut fields);
        }
        let shared = Shared { bytes: Arc::clone(&reply.record), digest: reply.digest };
        let key = system::reply_key(reply.session, reply.number);
        let change = self.tree.put_shared(&key, context.seq.0, &shared);
        self.totals.count(key.len(), change);
        fields.kept_bytes += bytes;
        if let Some(overwritten) = change.before {
            fields.kept_bytes -= (overwritten - REQUEST_BYTES) as u64;
            let oldest = BundleNumber(fields.next.0 - limits::REPLIES_KEPT_MAX as u64);
            fields.kept_from = fields.kept_from.max(oldest);
        }
        assert!(fields.next.since(fields.kept_from) <= limits::REPLIES_KEPT_MAX as u64);
        self.put(&system::session_key(reply.session), context.seq.0, &fields.to_value());
        if self.sessions.update(reply.session, fields, context.seq) {
            self.drop_excess(reply.session);
        }
    }

    /// The client of `current` keeps more than it may: results go, its oldest of the session that is unused for longest
    /// first. So each that goes was once kept, and costs its client no more than that has.
    fn drop_excess(&mut self, current: SessionId) {
        while let Some((id, Session { mut fields, used, .. })) = self.sessions.with_too_many_results(current)
        {
            self.drop_results(id, &mut fields);
            self.put(&system::session_key(id), used.0, &fields.to_value());
            self.sessions.update(id, fields, used);
        }
    }

    /// Drops the oldest results that are kept; what they answered stays known.
    fn drop_results(&mut self, session: SessionId, fields: &mut SessionFields) {
        let key = system::reply_key(session, fields.kept_from);
        let kept = self.tree.get(&key).expect("invariant: replies from kept_from to next are kept");
        let (seq, (results, request)) = (kept.version, reply::split(kept.value));
        fields.kept_bytes -= results.len() as u64;
        fields.kept_from = fields.kept_from.next();
        self.put(&key, seq, &request.0);
    }

    /// The answer to a bundle whose number was executed before. A long reply is neither copied nor hashed again, so
    /// that retries cost little.
    pub(crate) fn repeat(&mut self, input: BundleInput<'_>, fields: SessionFields) -> Outcome {
        let BundleInput { session, number, .. } = input;
        if number == BundleNumber(0) || fields.next.since(number) > limits::REPLIES_KEPT_MAX as u64 {
            return Outcome::Skipped(SkipReason::NumberForgotten);
        }
        let key = system::reply_key(session, number);
        let kept = self.tree.get(&key).expect("invariant: the last bundles leave a record each");
        let (seq, (_, request)) = (Seq(kept.version), reply::split(kept.value));
        if request != input.request && !is_void(input.operations) {
            return self.refuse(seq, input, OperationError::NumberUsed);
        }
        if number < fields.kept_from {
            return Outcome::Gone { session, number, request, seq };
        }
        Outcome::Repeated(match self.tree.shared(&key) {
            Some(Shared { bytes, digest }) => {
                Reply { session, number, request, seq, digest: *digest, record: Arc::clone(bytes) }
            }
            None => Reply::new(session, number, seq, Arc::from(kept.value)),
        })
    }
}
