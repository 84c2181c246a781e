//! The index of clients and sessions: what execution looks up for every bundle.
//!
//! The truth is in the tree's system records; the index repeats them so that a bundle's fate is known
//! without a descent, and adds the order in which sessions were last used. [`Sessions::rebuild`] gives the
//! same index from a tree alone.

use std::collections::{BTreeMap, BTreeSet};

use quorate_types::{BundleNumber, Seq, SessionId};

use crate::system::{self, SessionFields};
use crate::tree::Tree;

/// A session as the index knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Session {
    pub(crate) fields: SessionFields,
    /// The seq at which a bundle was last executed.
    pub(crate) used: Seq,
}

/// Clients and sessions, and the order of eviction.
#[derive(Clone, Debug)]
pub(crate) struct Sessions {
    sessions_max: usize,
    sessions: BTreeMap<SessionId, Session>,
    by_use: BTreeSet<(Seq, SessionId)>,
    /// The highest counter of each allowed client.
    clients: BTreeMap<[u8; 32], Option<u64>>,
}

impl Sessions {
    /// The index of a tree.
    pub(crate) fn rebuild(tree: &Tree, sessions_max: usize) -> Self {
        assert!(sessions_max > 0, "the session table needs room for one");
        let mut index = Self {
            sessions_max,
            sessions: BTreeMap::new(),
            by_use: BTreeSet::new(),
            clients: BTreeMap::new(),
        };
        let [start, end] = &system::CLIENTS;
        for (key, record) in tree.range(start, end) {
            if let Some(client) = system::id_of(key) {
                index.clients.insert(client, system::counter_of(record.value));
            }
        }
        let [start, end] = &system::SESSIONS;
        for (key, record) in tree.range(start, end) {
            if let Some(id) = system::id_of(key)
                && let Some(fields) = SessionFields::from_value(record.value)
            {
                index.insert(SessionId(id), fields, Seq(record.version));
            }
        }
        index
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    pub(crate) fn get(&self, id: &SessionId) -> Option<&Session> {
        self.sessions.get(id)
    }

    /// The highest counter of a client, or nothing if it is not allowed.
    pub(crate) fn counter(&self, client: &[u8; 32]) -> Option<Option<u64>> {
        self.clients.get(client).copied()
    }

    pub(crate) fn set_counter(&mut self, client: [u8; 32], counter: u64) {
        self.clients.insert(client, Some(counter));
    }

    /// Takes out the session that was unused for longest when there is no room for one more. Equal use is
    /// decided by the session id.
    pub(crate) fn evict_for_one(&mut self) -> Option<(SessionId, Session)> {
        if self.sessions.len() < self.sessions_max {
            return None;
        }
        let (_, id) = self.by_use.pop_first()?;
        let session = self.sessions.remove(&id)?;
        Some((id, session))
    }

    pub(crate) fn insert(&mut self, id: SessionId, fields: SessionFields, used: Seq) {
        let fresh = self.by_use.insert((used, id));
        assert!(fresh, "invariant: a session is inserted once");
        self.sessions.insert(id, Session { fields, used });
    }

    /// Records that the session executed a bundle.
    pub(crate) fn update(&mut self, id: SessionId, fields: SessionFields, used: Seq) {
        let session = self.sessions.get_mut(&id).expect("invariant: a session that executes is open");
        session.fields = fields;
        if session.used != used {
            self.by_use.remove(&(session.used, id));
            self.by_use.insert((used, id));
            session.used = used;
        }
    }

    /// Panics when the index is not that of `tree`.
    pub(crate) fn check_invariants(&self, tree: &Tree) {
        let fresh = Self::rebuild(tree, self.sessions_max);
        assert_eq!(self.by_use, fresh.by_use);
        assert_eq!(self.clients, fresh.clients);
        assert_eq!(self.sessions.len(), fresh.sessions.len());
        for (id, session) in &self.sessions {
            let other = &fresh.sessions[id];
            assert_eq!((session.fields, session.used), (other.fields, other.used));
            let SessionFields { next, kept_from, kept_bytes, .. } = session.fields;
            let kept: usize = (kept_from.0..next.0)
                .filter_map(|number| tree.get(&system::reply_key(id, BundleNumber(number))))
                .map(|reply| reply.value.len())
                .sum();
            assert_eq!(kept as u64, kept_bytes, "bytes of kept replies");
            let start = system::session_key(id);
            let records =
                tree.range(&start, &[]).take_while(|(key, _)| key.starts_with(&start)).count() as u64;
            assert_eq!(records, 1 + next.since(kept_from), "a session is its record and its kept replies");
        }
        assert!(self.sessions.len() <= self.sessions_max);
        assert_eq!(self.by_use.len(), self.sessions.len());
    }
}
