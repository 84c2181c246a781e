//! The index of clients and sessions: what execution looks up for every bundle.
//!
//! The truth is in the tree's system records; the index repeats them so that a bundle's fate is known
//! without a descent, and adds the order in which sessions were last used. [`Sessions::rebuild`] gives the
//! same index from a tree alone.

use std::collections::{BTreeMap, BTreeSet};

use quorate_types::{BundleNumber, Nonce, Seq, SessionId, StateLimits, limits};

use crate::system::{self, SessionFields};
use crate::tree::Tree;

/// A session as the index knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Session {
    pub(crate) fields: SessionFields,
    /// The seq at which a bundle was last executed.
    pub(crate) used: Seq,
    /// The place of its client.
    client: usize,
}

/// What is kept of one client key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Client {
    /// Its sessions of which no results are kept, the one unused for longest first. Equal use is decided by their age.
    without_results: BTreeSet<(Seq, SessionId)>,
    /// Those of which results are kept, in the same order.
    with_results: BTreeSet<(Seq, SessionId)>,
    /// The bytes of all results that are kept.
    kept_bytes: u64,
    /// Those that were evicted, with their next bundles: as many as it may keep.
    evicted: BTreeMap<SessionId, BundleNumber>,
    /// They, those first that were evicted first.
    by_eviction: BTreeSet<(Seq, SessionId)>,
    /// Its registrations that are remembered, by the sessions that they have opened.
    registrations: BTreeSet<SessionId>,
    /// The lowest seq that its registrations may name: those were forgotten that opened sessions below.
    floor: Seq,
}

impl Client {
    /// The session that is unused for longest.
    fn least_used(&self) -> Option<SessionId> {
        let firsts = self.without_results.first().into_iter().chain(self.with_results.first());
        firsts.min().map(|(_, id)| *id)
    }

    /// Those of its sessions that are, in regard of results, as this one is.
    fn like(&mut self, fields: &SessionFields) -> &mut BTreeSet<(Seq, SessionId)> {
        if fields.kept_bytes > 0 { &mut self.with_results } else { &mut self.without_results }
    }
}

/// Clients and sessions, and the order of eviction.
#[derive(Clone, Debug)]
pub(crate) struct Sessions {
    limits: StateLimits,
    sessions: BTreeMap<SessionId, Session>,
    /// The bytes of results that are kept for all of them.
    kept_bytes: u64,
    /// The place of each allowed client.
    places: BTreeMap<[u8; 32], usize>,
    clients: Vec<Client>,
    /// The session of each registration that is remembered, or whose session is kept.
    nonces: BTreeMap<([u8; 32], Nonce), SessionId>,
    /// The registrations that could be executed again if they were not remembered, in the order of execution.
    remembered: BTreeMap<SessionId, ([u8; 32], Nonce)>,
}

impl Sessions {
    /// The index of a tree.
    pub(crate) fn rebuild(tree: &Tree, limits: StateLimits) -> Self {
        assert!(limits.sessions_per_client > 0, "the session table needs room for one");
        let mut index = Self {
            limits,
            sessions: BTreeMap::new(),
            kept_bytes: 0,
            places: BTreeMap::new(),
            clients: Vec::new(),
            nonces: BTreeMap::new(),
            remembered: BTreeMap::new(),
        };
        let [start, end] = &system::CLIENTS;
        for (key, record) in tree.range(start, end) {
            if let Some(client) = system::client_of(key) {
                index.places.insert(client, index.clients.len());
                index.clients.push(Client { floor: system::floor_of(record.value), ..Client::default() });
            }
        }
        let [start, end] = &system::SESSIONS;
        for (key, record) in tree.range(start, end) {
            if let Some(id) = system::session_of(key)
                && let Some(fields) = SessionFields::from_value(record.value)
            {
                index.insert(id, fields, Seq(record.version));
            }
        }
        let [start, end] = &system::REGISTRATIONS;
        for (key, record) in tree.range(start, end) {
            if let Some(id) = system::session_of(key)
                && let Some((client, nonce)) = system::registration_fields(record.value)
            {
                index.remember(id, client, nonce);
            }
        }
        let [start, end] = &system::EVICTIONS;
        for (key, record) in tree.range(start, end) {
            if let Some((client, id)) = system::evicted_of(key)
                && let Some(next) = system::next_of(record.value)
                && let Some(place) = index.places.get(&client)
            {
                let client = &mut index.clients[*place];
                client.evicted.insert(id, next);
                client.by_eviction.insert((Seq(record.version), id));
            }
        }
        index
    }

    pub(crate) fn limits(&self) -> StateLimits {
        self.limits
    }

    pub(crate) fn set_limits(&mut self, limits: StateLimits) {
        self.limits = limits;
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    pub(crate) fn get(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id)
    }

    pub(crate) fn is_allowed(&self, client: &[u8; 32]) -> bool {
        self.places.contains_key(client)
    }

    /// The session that the registration with this nonce has opened, if it is remembered.
    pub(crate) fn registered(&self, client: &[u8; 32], nonce: Nonce) -> Option<SessionId> {
        self.nonces.get(&(*client, nonce)).copied()
    }

    /// The session that was opened last, of those that are known.
    pub(crate) fn last(&self) -> Option<SessionId> {
        let kept = self.sessions.last_key_value().map(|(id, _)| *id);
        kept.max(self.remembered.last_key_value().map(|(id, _)| *id))
    }

    /// How many registrations of a client are remembered at once. One less than it may keep sessions: then none that is
    /// used again within A headers is evicted.
    pub(crate) fn registrations_max(&self) -> usize {
        self.limits.sessions_per_client.saturating_sub(1).max(1)
    }

    /// The oldest registration of a client that must be forgotten before another is remembered, if one must.
    pub(crate) fn registration_in_the_way(&self, client: &[u8; 32]) -> Option<SessionId> {
        let registrations = &self.clients[*self.places.get(client)?].registrations;
        registrations.first().copied().filter(|_| registrations.len() >= self.registrations_max())
    }

    /// The lowest seq that registrations of a client may name, for those of its that were forgotten early.
    pub(crate) fn floor(&self, client: &[u8; 32]) -> Seq {
        self.places.get(client).map_or(Seq(0), |place| self.clients[*place].floor)
    }

    /// The next bundle of a session of this client that was evicted, if that is known.
    pub(crate) fn evicted(&self, client: &[u8; 32], id: SessionId) -> Option<BundleNumber> {
        self.clients[*self.places.get(client)?].evicted.get(&id).copied()
    }

    /// The session of this client that has to make room for one more: the one unused for longest.
    pub(crate) fn to_evict(&self, client: &[u8; 32]) -> Option<(SessionId, SessionFields)> {
        let client = &self.clients[*self.places.get(client)?];
        let sessions = client.without_results.len() + client.with_results.len();
        let id = client.least_used().filter(|_| sessions >= self.limits.sessions_per_client)?;
        Some((id, self.sessions[&id].fields))
    }

    /// The bytes of results that are kept for all sessions.
    pub(crate) fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }

    /// Whether the client of a session keeps more results than it may.
    fn keeps_too_much(&self, session: &Session) -> bool {
        let StateLimits { reply_bytes_per_client, reply_bytes, .. } = self.limits;
        let kept = self.clients[session.client].kept_bytes;
        kept > reply_bytes_per_client
            || self.kept_bytes > reply_bytes && kept > reply_bytes / self.clients.len() as u64
    }

    /// The session whose oldest results must go now that `current` has executed a bundle: of the same client, the one
    /// unused for longest, and `current` itself when it is the only one. Its newest results stay.
    pub(crate) fn with_too_many_results(&self, current: SessionId) -> Option<(SessionId, Session)> {
        let session = self.sessions.get(&current).filter(|session| self.keeps_too_much(session))?;
        let holders = self.clients[session.client].with_results.iter().map(|(_, id)| *id);
        if let Some(other) = holders.take(2).find(|id| *id != current) {
            return Some((other, self.sessions[&other]));
        }
        let SessionFields { next, kept_from, .. } = session.fields;
        (next.since(kept_from) > 1).then_some((current, *session))
    }

    /// Notes that a session is evicted at `seq`. Returns another that is so for longest and is forgotten for that.
    pub(crate) fn evict(&mut self, seq: Seq, id: SessionId) -> Option<SessionId> {
        let session = self.sessions.remove(&id).expect("invariant: only a kept session is evicted");
        let client = &mut self.clients[session.client];
        client.like(&session.fields).remove(&(session.used, id));
        client.kept_bytes -= session.fields.kept_bytes;
        self.kept_bytes -= session.fields.kept_bytes;
        client.evicted.insert(id, session.fields.next);
        client.by_eviction.insert((seq, id));
        if !self.remembered.contains_key(&id) {
            self.nonces.remove(&(session.fields.client, session.fields.nonce));
        }
        if client.evicted.len() <= self.limits.sessions_per_client {
            return None;
        }
        let (_, forgotten) = client.by_eviction.pop_first()?;
        client.evicted.remove(&forgotten);
        Some(forgotten)
    }

    /// Notes a registration that was executed.
    pub(crate) fn remember(&mut self, id: SessionId, client: [u8; 32], nonce: Nonce) {
        let place = *self.places.get(&client).expect("invariant: a client that registers is allowed");
        self.clients[place].registrations.insert(id);
        self.nonces.insert((client, nonce), id);
        self.remembered.insert(id, (client, nonce));
    }

    /// Forgets one registration that names a seq below `floor`, if there is one; returns the session that it opened.
    pub(crate) fn forget_registration(&mut self, floor: Seq) -> Option<SessionId> {
        let oldest = self.remembered.first_key_value().map(|(id, _)| *id)?;
        // It names a seq up to that of its session.
        (oldest.seq < floor).then(|| self.forget(oldest))
    }

    /// Forgets a registration before its time: from now on its client may name no seq up to that of its session.
    pub(crate) fn forget_early(&mut self, client: &[u8; 32], id: SessionId) -> Seq {
        self.forget(id);
        let client = &mut self.clients[self.places[client]];
        client.floor = client.floor.max(id.seq.next());
        client.floor
    }

    fn forget(&mut self, id: SessionId) -> SessionId {
        let (client, nonce) = self.remembered.remove(&id).expect("invariant: it is remembered");
        self.clients[self.places[&client]].registrations.remove(&id);
        if !self.sessions.contains_key(&id) {
            self.nonces.remove(&(client, nonce));
        }
        id
    }

    pub(crate) fn insert(&mut self, id: SessionId, fields: SessionFields, used: Seq) {
        let place = *self.places.get(&fields.client).expect("invariant: the client of a session is allowed");
        let client = &mut self.clients[place];
        let fresh = client.like(&fields).insert((used, id));
        assert!(fresh, "invariant: a session is inserted once");
        client.kept_bytes += fields.kept_bytes;
        self.kept_bytes += fields.kept_bytes;
        self.nonces.insert((fields.client, fields.nonce), id);
        self.sessions.insert(id, Session { fields, used, client: place });
    }

    /// Records that the session executed a bundle, or lost results. Returns whether its client keeps too many now.
    pub(crate) fn update(&mut self, id: SessionId, fields: SessionFields, used: Seq) -> bool {
        let session = self.sessions.get_mut(&id).expect("invariant: a session that executes is open");
        let before = std::mem::replace(session, Session { fields, used, ..*session });
        let after = *session;
        let client = &mut self.clients[after.client];
        if before.used != used || (before.fields.kept_bytes > 0) != (fields.kept_bytes > 0) {
            client.like(&before.fields).remove(&(before.used, id));
            client.like(&fields).insert((used, id));
        }
        client.kept_bytes = client.kept_bytes + fields.kept_bytes - before.fields.kept_bytes;
        self.kept_bytes = self.kept_bytes + fields.kept_bytes - before.fields.kept_bytes;
        self.keeps_too_much(&after)
    }

    /// Panics when the index is not that of `tree`.
    pub(crate) fn check_invariants(&self, tree: &Tree) {
        let fresh = Self::rebuild(tree, self.limits);
        assert_eq!(self.places, fresh.places);
        assert_eq!(self.clients, fresh.clients);
        assert_eq!(self.nonces, fresh.nonces);
        assert_eq!(self.remembered, fresh.remembered);
        assert_eq!(self.kept_bytes, fresh.kept_bytes);
        assert_eq!(self.sessions.len(), fresh.sessions.len());
        for (id, session) in &self.sessions {
            let other = &fresh.sessions[id];
            assert_eq!((session.fields, session.used), (other.fields, other.used));
            let SessionFields { next, kept_from, kept_bytes, .. } = session.fields;
            let start = system::session_key(*id);
            let records: Vec<usize> = tree
                .range(&start, &[])
                .take_while(|(key, _)| key.starts_with(&start))
                .skip(1)
                .map(|(_, reply)| reply.value.len() - system::REQUEST_BYTES)
                .collect();
            let executed = next.since(BundleNumber(1)).min(limits::REPLIES_KEPT_MAX as u64);
            assert_eq!(records.len() as u64, executed, "the last bundles leave a record each");
            assert_eq!(records.iter().sum::<usize>() as u64, kept_bytes, "bytes of kept results");
            let kept = records.iter().filter(|bytes| **bytes > 0).count();
            assert_eq!(kept as u64, next.since(kept_from), "results are kept of these bundles");
        }
        for client in &self.clients {
            assert!(
                client.without_results.len() + client.with_results.len() <= self.limits.sessions_per_client
            );
            assert!(client.evicted.len() <= self.limits.sessions_per_client);
            assert!(client.registrations.len() <= self.limits.sessions_per_client);
        }
    }
}
