//! Registrations, evictions and bundles of sessions that are gone (DESIGN section 6).
//!
//! A registration is executed at most once, whoever sends it again: its nonce is remembered for as long as its session
//! is kept, and for as long as the seq that it names is recent enough (`recency`). Sessions are numbered by the order of
//! execution, so neither clocks nor counters of clients matter.

use quorate_types::{ArchivedOperation, BundleNumber, Nonce, OperationError, Seq, SessionId};

use crate::reply::{Outcome, SkipReason};
use crate::state::{BundleInput, Context, State};
use crate::system::{self, SessionFields};

/// The first bundle of a session.
const FIRST: BundleNumber = BundleNumber(1);

impl State {
    /// Executes a bundle of no session.
    pub(crate) fn register(&mut self, context: Context, input: BundleInput<'_>) -> Outcome {
        if !self.sessions.is_allowed(input.client) {
            return Outcome::Skipped(SkipReason::ClientNotAllowed);
        }
        let [ArchivedOperation::Register { nonce, recent }] = input.operations.as_slice() else {
            return Outcome::Skipped(SkipReason::MisplacedRegistration);
        };
        if input.number != BundleNumber(0) {
            return Outcome::Skipped(SkipReason::MisplacedRegistration);
        }
        let (nonce, recent) = (Nonce(nonce.0), recent.to_native());
        match self.sessions.registered(input.client, nonce) {
            Some(session) if self.sessions.get(session).is_some() => {
                self.opened(input, nonce, session, false)
            }
            Some(_) => self.void(context, input, nonce, OperationError::RegistrationUsed),
            None => match self.objection(context, input.client, recent) {
                Some(error) => self.void(context, input, nonce, error),
                None => {
                    let session = self.open(context, input.client, nonce);
                    self.opened(input, nonce, session, true)
                }
            },
        }
    }

    /// Why a registration that names `recent` is void.
    fn objection(&self, context: Context, client: &[u8; 32], recent: u64) -> Option<OperationError> {
        let limits = self.sessions.limits();
        let executing = context.seq;
        let floor = self.recency.floor(executing, &limits).max(self.sessions.floor(client));
        if recent > executing.0 || recent < floor.0 {
            return Some(OperationError::RegistrationNotRecent { recent, executing: executing.0 });
        }
        let oldest = self.sessions.registration_in_the_way(client)?;
        (oldest.seq.plus(limits.registration_age) >= executing).then(|| {
            let sessions = self.sessions.registrations_max() as u64;
            OperationError::TooManyRegistrations { sessions }
        })
    }

    fn open(&mut self, context: Context, client: &[u8; 32], nonce: Nonce) -> SessionId {
        if let Some((evicted, fields)) = self.sessions.to_evict(client) {
            self.evict(context.seq, evicted, fields);
        }
        // Where headers are many, the time of some may not be over yet: more are not remembered for that.
        if let Some(oldest) = self.sessions.registration_in_the_way(client) {
            let floor = self.sessions.forget_early(client, oldest);
            self.remove(&system::registration_key(oldest));
            self.put(&system::client_key(client), 0, &floor.0.to_le_bytes());
        }
        let SessionId { seq, place } = self.last_opened;
        let place = if seq == context.seq { place + 1 } else { 0 };
        let session = SessionId { seq: context.seq, place };
        self.last_opened = session;
        let fields = SessionFields { client: *client, nonce, next: FIRST, kept_from: FIRST, kept_bytes: 0 };
        self.put(&system::session_key(session), context.seq.0, &fields.to_value());
        self.put(&system::registration_key(session), 0, &system::registration_value(client, nonce));
        self.sessions.insert(session, fields, context.seq);
        self.sessions.remember(session, *client, nonce);
        session
    }

    /// The answer to a registration whose session is kept: the same whenever it is asked.
    fn opened(&mut self, input: BundleInput<'_>, nonce: Nonce, session: SessionId, fresh: bool) -> Outcome {
        self.results.begin(1);
        self.results.registered(session);
        let reply = self.reply(session.seq, input);
        Outcome::Registration { nonce, session: Some(session), fresh, reply }
    }

    fn void(
        &mut self,
        context: Context,
        input: BundleInput<'_>,
        nonce: Nonce,
        error: OperationError,
    ) -> Outcome {
        self.results.begin(1);
        self.results.error(error);
        let reply = self.reply(context.seq, input);
        Outcome::Registration { nonce, session: None, fresh: false, reply }
    }

    /// Removes a session with all that is kept of it but the number of its next bundle, so that its owner learns what was
    /// executed.
    fn evict(&mut self, seq: Seq, session: SessionId, fields: SessionFields) {
        let (mut number, kept) = (fields.next, quorate_types::limits::REPLIES_KEPT_MAX as u64);
        while number > FIRST && fields.next.since(number) < kept {
            number = number.previous();
            self.remove(&system::reply_key(session, number));
        }
        self.remove(&system::session_key(session));
        self.put(&system::evicted_key(&fields.client, session), seq.0, &fields.next.0.to_le_bytes());
        if let Some(forgotten) = self.sessions.evict(seq, session) {
            self.remove(&system::evicted_key(&fields.client, forgotten));
        }
    }

    /// The header `seq` is executed to its end: forgets the registrations that are void for their age from the next one on.
    pub(crate) fn forget_registrations(&mut self, seq: Seq) {
        let floor = self.recency.floor(seq.next(), &self.sessions.limits());
        while let Some(session) = self.sessions.forget_registration(floor) {
            self.remove(&system::registration_key(session));
        }
    }

    /// The answer to a bundle whose session is not kept.
    pub(crate) fn refuse_unopened(&mut self, context: Context, input: BundleInput<'_>) -> Outcome {
        if !self.sessions.is_allowed(input.client) {
            return Outcome::Skipped(SkipReason::ClientNotAllowed);
        }
        if input.session.seq > context.seq {
            return Outcome::Skipped(SkipReason::SessionUnknown);
        }
        let next = self.sessions.evicted(input.client, input.session).unwrap_or_default();
        self.refuse(context.seq, input, OperationError::SessionEvicted { next: next.0 })
    }

    /// An answer that changes nothing.
    pub(crate) fn refuse(&mut self, seq: Seq, input: BundleInput<'_>, error: OperationError) -> Outcome {
        self.results.begin(1);
        self.results.error(error);
        Outcome::Refused(self.reply(seq, input))
    }
}
