//! What becomes of registrations, numbers and evicted sessions, written a second time and as plainly as possible.

use quorate_types::{
    BundleNumber, Digest, Nanoseconds, Nonce, OperationError, Seq, SessionId, StateLimits, limits,
};
use std::collections::{BTreeMap, BTreeSet};

/// What is to be done with a bundle of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Its operations take effect.
    Execute,
    /// Nothing, and this is answered, as of this seq.
    Refuse(OperationError, Seq),
    /// Nothing that was not answered before.
    Nothing,
}

#[derive(Debug)]
struct Row {
    client: [u8; 32],
    nonce: Nonce,
    used: Seq,
    /// What was executed, from bundle 1 on, and where.
    executed: Vec<(Digest, Seq)>,
    /// Of which results are kept, and how many bytes; the oldest first.
    kept: Vec<(BundleNumber, u64)>,
}

impl Row {
    fn kept_bytes(&self) -> u64 {
        self.kept.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// A registration that was executed.
#[derive(Debug)]
struct Registered {
    client: [u8; 32],
    nonce: Nonce,
    session: SessionId,
}

/// The sessions of all clients.
#[derive(Debug)]
pub struct Sessions {
    limits: StateLimits,
    /// How many keys may have some.
    clients: usize,
    rows: BTreeMap<SessionId, Row>,
    /// All there ever were, the latest at the end.
    registered: Vec<Registered>,
    /// How many bundles each evicted session has executed, as far as that is kept, and where it was evicted.
    evicted: BTreeMap<([u8; 32], SessionId), (u64, Seq)>,
    /// Of which results were kept and are no more.
    gone: BTreeSet<(SessionId, BundleNumber)>,
    /// Which seq was reached when, as often as that is marked, and when the last header was.
    marks: Vec<(Seq, Nanoseconds)>,
    now: Nanoseconds,
}

impl Sessions {
    /// No sessions yet, of so many client keys.
    #[must_use]
    pub fn new(limits: StateLimits, clients: usize) -> Self {
        Self {
            limits,
            clients,
            rows: BTreeMap::new(),
            registered: Vec::new(),
            evicted: BTreeMap::new(),
            gone: BTreeSet::new(),
            marks: Vec::new(),
            now: Nanoseconds(0),
        }
    }

    /// The number of sessions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no session.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The session that a registration has, or why it has none.
    pub fn register(
        &mut self,
        seq: Seq,
        client: [u8; 32],
        nonce: Nonce,
        recent: u64,
    ) -> Result<SessionId, OperationError> {
        let StateLimits { sessions_per_client, registration_age, .. } = self.limits;
        let remembered_max = (sessions_per_client - 1).max(1);
        let kept = self.rows.iter().find(|(_, row)| (row.client, row.nonce) == (client, nonce));
        if let Some((session, _)) = kept {
            return Ok(*session);
        }
        // The last ones of a key are remembered; what they name must be above those that are not.
        let mut own: Vec<&Registered> = self.registered.iter().filter(|past| past.client == client).collect();
        let last = own.split_off(own.len().saturating_sub(remembered_max));
        let recent_from = seq.0.saturating_sub(registration_age).min(self.first_within_time());
        let floor = own.last().map_or(recent_from, |past| recent_from.max(past.session.seq.0 + 1));
        if last.iter().any(|past| past.nonce == nonce && past.session.seq.0 >= recent_from) {
            return Err(OperationError::RegistrationUsed);
        }
        if recent > seq.0 || recent < floor {
            return Err(OperationError::RegistrationNotRecent { recent, executing: seq.0 });
        }
        if last.len() == remembered_max && last[0].session.seq.0 + registration_age >= seq.0 {
            return Err(OperationError::TooManyRegistrations { sessions: remembered_max as u64 });
        }
        let own = || self.rows.iter().filter(|(_, row)| row.client == client);
        if own().count() == sessions_per_client {
            let (oldest, _) =
                own().min_by_key(|(session, row)| (row.used, **session)).expect("invariant: there are some");
            self.evict(seq, *oldest);
        }
        let before = self.registered.iter().filter(|past| past.session.seq == seq).count();
        let session = SessionId { seq, place: u32::try_from(before).expect("invariant: a short history") };
        self.registered.push(Registered { client, nonce, session });
        self.rows.insert(session, Row { client, nonce, used: seq, executed: Vec::new(), kept: Vec::new() });
        Ok(session)
    }

    /// The header with this time is executed to its end.
    pub fn header(&mut self, seq: Seq, timestamp: Nanoseconds) {
        let part = self.limits.registration_time.0 / 8;
        if self.marks.last().is_none_or(|(_, last)| timestamp >= last.plus(part)) {
            self.marks.push((seq, timestamp));
        }
        self.now = timestamp;
    }

    /// The first header that may be younger than T, as far as every eighth of it is marked.
    fn first_within_time(&self) -> u64 {
        let time = self.limits.registration_time.0;
        let old = self.marks.iter().rev().find(|(_, at)| at.plus(time) <= self.now);
        old.map_or(0, |(seq, _)| seq.0 + 1)
    }

    fn evict(&mut self, seq: Seq, session: SessionId) {
        let row = self.rows.remove(&session).expect("invariant: it was found");
        self.evicted.insert((row.client, session), (row.executed.len() as u64, seq));
        let own = || self.evicted.iter().filter(|((client, _), _)| *client == row.client);
        if own().count() > self.limits.sessions_per_client
            && let Some((oldest, _)) = own().min_by_key(|((_, session), (_, at))| (*at, *session))
        {
            let oldest = *oldest;
            self.evicted.remove(&oldest);
        }
    }

    /// A bundle was executed, and its results have so many bytes.
    pub fn keep(&mut self, session: SessionId, number: BundleNumber, bytes: u64) {
        let row = self.rows.get_mut(&session).expect("invariant: it has executed");
        row.kept.push((number, bytes));
        // So old a number is not known any more, and so nobody is told of its results.
        row.kept.retain(|(kept, _)| kept.0 + limits::REPLIES_KEPT_MAX as u64 > number.0);
        while row.kept_bytes() > limits::REPLY_BYTES_KEPT_MAX as u64 {
            self.gone.insert((session, row.kept.remove(0).0));
        }
        let client = row.client;
        while self.keeps_too_much(client) {
            let others = self.rows.iter().filter(|(id, row)| row.client == client && **id != session);
            let least_used =
                others.filter(|(_, row)| !row.kept.is_empty()).min_by_key(|(id, row)| (row.used, **id));
            let id = least_used.map_or(session, |(id, _)| *id);
            let row = self.rows.get_mut(&id).expect("invariant: it was found");
            if id == session && row.kept.len() == 1 {
                return;
            }
            self.gone.insert((id, row.kept.remove(0).0));
        }
    }

    fn keeps_too_much(&self, client: [u8; 32]) -> bool {
        let of = |wanted: Option<[u8; 32]>| -> u64 {
            let rows = self.rows.values().filter(|row| wanted.is_none_or(|wanted| wanted == row.client));
            rows.map(Row::kept_bytes).sum()
        };
        let StateLimits { reply_bytes_per_client, reply_bytes, .. } = self.limits;
        let (own, all) = (of(Some(client)), of(None));
        own > reply_bytes_per_client || all > reply_bytes && own > reply_bytes / self.clients as u64
    }

    /// The bytes of results that are kept.
    #[must_use]
    pub fn reply_bytes(&self) -> u64 {
        self.rows.values().map(Row::kept_bytes).sum()
    }

    /// The bundles whose results are not kept any more though their numbers are.
    #[must_use]
    pub fn gone(&self) -> &BTreeSet<(SessionId, BundleNumber)> {
        &self.gone
    }

    /// What is to be done with a bundle with these operations.
    pub fn admit(
        &mut self,
        seq: Seq,
        client: [u8; 32],
        session: SessionId,
        number: BundleNumber,
        (request, is_void): (Digest, bool),
    ) -> Admission {
        let Some(row) = self.rows.get_mut(&session) else {
            if session.seq > seq {
                return Admission::Nothing;
            }
            let next = self.evicted.get(&(client, session)).map_or(0, |(executed, _)| executed + 1);
            return Admission::Refuse(OperationError::SessionEvicted { next }, seq);
        };
        let executed = row.executed.len() as u64;
        if row.client != client || number.0 == 0 || number.0 > executed + 1 {
            return Admission::Nothing;
        }
        if number.0 == executed + 1 {
            row.executed.push((request, seq));
            row.used = seq;
            return Admission::Execute;
        }
        let (used_by, at) = row.executed[usize::try_from(number.0 - 1).expect("invariant: a short history")];
        let is_kept = number.0 + limits::REPLIES_KEPT_MAX as u64 > executed;
        if is_kept && used_by != request && !is_void {
            return Admission::Refuse(OperationError::NumberUsed, at);
        }
        Admission::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: [u8; 32] = [1; 32];
    const REQUEST: Digest = Digest([5; 32]);

    fn sessions() -> Sessions {
        let registration_time = Nanoseconds(40);
        let limits = StateLimits {
            sessions_per_client: 2,
            registration_age: 10,
            registration_time,
            ..StateLimits::default()
        };
        let mut sessions = Sessions::new(limits, 1);
        (1..20).for_each(|seq| sessions.header(Seq(seq), Nanoseconds(100 * seq)));
        sessions
    }

    fn nonce(byte: u8) -> Nonce {
        Nonce([byte; 16])
    }

    #[test]
    fn a_registration_opens_one_session_and_a_recent_one_only() {
        let mut sessions = sessions();
        let first = SessionId { seq: Seq(20), place: 0 };
        let not_recent = |recent| Err(OperationError::RegistrationNotRecent { recent, executing: 20 });
        assert_eq!(sessions.register(Seq(20), CLIENT, nonce(1), 9), not_recent(9));
        assert_eq!(sessions.register(Seq(20), CLIENT, nonce(1), 21), not_recent(21));
        assert_eq!(sessions.register(Seq(20), CLIENT, nonce(1), 10), Ok(first));
        assert_eq!(sessions.register(Seq(99), CLIENT, nonce(1), 10), Ok(first));
        let too_many = Err(OperationError::TooManyRegistrations { sessions: 1 });
        assert_eq!(sessions.register(Seq(20), CLIENT, nonce(2), 20), too_many);
        assert_eq!(
            sessions.register(Seq(31), CLIENT, nonce(2), 30),
            Ok(SessionId { seq: Seq(31), place: 0 })
        );
    }

    #[test]
    fn a_number_is_used_once_and_an_evicted_session_says_how_far_it_came() {
        let mut sessions = sessions();
        let first = sessions.register(Seq(1), CLIENT, nonce(1), 1).unwrap();
        let mut admit =
            |seq, number, content| sessions.admit(Seq(seq), CLIENT, first, BundleNumber(number), content);
        assert_eq!(admit(2, 2, (REQUEST, false)), Admission::Nothing);
        assert_eq!(admit(2, 1, (REQUEST, false)), Admission::Execute);
        assert_eq!(admit(3, 1, (REQUEST, false)), Admission::Nothing);
        let used = Admission::Refuse(OperationError::NumberUsed, Seq(2));
        assert_eq!(admit(3, 1, (Digest::ZERO, false)), used);
        assert_eq!(admit(3, 1, (Digest::ZERO, true)), Admission::Nothing);
        for (seq, byte) in [(12, 2), (23, 3)] {
            sessions.register(Seq(seq), CLIENT, nonce(byte), seq).unwrap();
        }
        let gone = Admission::Refuse(OperationError::SessionEvicted { next: 2 }, Seq(24));
        assert_eq!(sessions.admit(Seq(24), CLIENT, first, BundleNumber(2), (REQUEST, false)), gone);
        assert_eq!(sessions.len(), 2);
    }
}
