//! The fetches of one owner.

use crate::servers::{Budget, Servers};
use crate::turn::{Stage, Turn};
use quorate_types::mistakes::is_made;
use quorate_types::{Mistake, Nanoseconds, ReplicaId};
use std::collections::BTreeMap;

/// How a fetch goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a server may take for what one question may bring, in the first round.
    pub patience: Nanoseconds,
    /// The most that this becomes.
    pub patience_max: Nanoseconds,
    /// How many servers are asked at a time for one fetch, those aside whose time is over.
    pub servers_max: usize,
    /// What may be open in all.
    pub budget: Budget,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            patience: Nanoseconds::from_millis(200),
            patience_max: Nanoseconds::from_millis(5_000),
            servers_max: 3,
            budget: Budget::default(),
        }
    }
}

/// One fetch.
#[derive(Debug)]
struct Fetch {
    /// About how many full answers it takes.
    answers: u64,
    /// The present round: how many went before, when it began, and when all of it is given up.
    rounds: u32,
    began: Nanoseconds,
    ends: Nanoseconds,
    patience: u64,
    turns: BTreeMap<ReplicaId, Turn>,
}

impl Fetch {
    fn new(now: Nanoseconds, rounds: u32, answers: u64, limits: &Limits) -> Self {
        let grown = limits.patience.0.saturating_mul(1 << rounds.min(32));
        let patience = grown.min(limits.patience_max.0).max(1);
        // Each server may be given a chance before the end, and one of them all the time that it needs.
        let ends = now.plus(patience.saturating_mul(answers.saturating_add(2)));
        Self { answers, rounds, began: now, ends, patience, turns: BTreeMap::new() }
    }

    /// How many may be asked at a time that do not lag: one more with each equal part of the time.
    fn allowed(&self, now: Nanoseconds, servers_max: usize) -> usize {
        let parts = servers_max.max(1) as u64;
        let part = (self.ends.since(self.began) / parts).max(1);
        usize::try_from((now.since(self.began) / part).saturating_add(1))
            .unwrap_or(servers_max)
            .min(servers_max)
    }

    /// When one more is allowed.
    fn grows(&self, seen: Nanoseconds, servers_max: usize) -> Nanoseconds {
        let part = (self.ends.since(self.began) / servers_max.max(1) as u64).max(1);
        self.began.plus(part.saturating_mul(seen.since(self.began) / part + 1))
    }

    fn has_room(&self, now: Nanoseconds, servers_max: usize) -> bool {
        let asked = || self.turns.values().filter_map(Turn::lags);
        asked().count() < servers_max.max(1)
            && asked().filter(|lags| now < *lags).count() < self.allowed(now, servers_max)
    }

    /// When the next round may begin, where everybody has had a turn in this one.
    fn rests_until(&self) -> Nanoseconds {
        self.began.plus(self.patience)
    }

    fn is_over_for(&self, server: ReplicaId) -> bool {
        let stage = self.turns.get(&server).map(|turn| turn.stage);
        matches!(stage, Some(Stage::Late { .. } | Stage::Over))
    }

    fn close(self, servers: &mut Servers) {
        for (server, turn) in &self.turns {
            if turn.is_open() {
                servers.closed(*server, turn.in_time());
            }
        }
    }
}

/// The fetches of one owner, each under a key of the owner's.
#[derive(Debug)]
pub struct Fetches<K> {
    limits: Limits,
    servers: Servers,
    fetches: BTreeMap<K, Fetch>,
    /// The latest time that was told.
    seen: Nanoseconds,
}

impl<K: Ord + Clone> Fetches<K> {
    /// Nothing is fetched.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let servers = Servers::new(limits.budget);
        Self { limits, servers, fetches: BTreeMap::new(), seen: Nanoseconds(0) }
    }

    /// Begins a fetch of about so many full answers, anew if it is under way; its deadline follows from that. After each
    /// round of servers that could not serve it, and so many have gone before, servers have twice the time.
    pub fn begin(&mut self, now: Nanoseconds, key: K, answers: u64, rounds: u32) {
        self.seen = self.seen.max(now);
        let fetch = Fetch::new(now, rounds, answers, &self.limits);
        if let Some(before) = self.fetches.insert(key, fetch) {
            before.close(&mut self.servers);
        }
    }

    /// Whether this is fetched.
    #[must_use]
    pub fn contains(&self, key: &K) -> bool {
        self.fetches.contains_key(key)
    }

    /// Whom to ask now, for at most so many bytes; the candidates that are asked rather come first. Ask until there is
    /// none, after each answer too: whoever gives goes on.
    pub fn ask(
        &mut self,
        now: Nanoseconds,
        key: &K,
        candidates: impl IntoIterator<Item = ReplicaId>,
        bytes: u64,
    ) -> Option<ReplicaId> {
        self.seen = self.seen.max(now);
        let fetch = self.fetches.get_mut(key)?;
        expire(now, fetch, &mut self.servers);
        if !fetch.has_room(now, self.limits.servers_max) {
            return None;
        }
        let candidates: Vec<ReplicaId> = candidates.into_iter().collect();
        let is_over = !candidates.is_empty() && candidates.iter().all(|server| fetch.is_over_for(*server));
        if is_over && now >= fetch.rests_until() {
            let next = Fetch::new(now, fetch.rounds.saturating_add(1), fetch.answers, &self.limits);
            std::mem::replace(fetch, next).close(&mut self.servers);
        }
        let servers = &self.servers;
        // Whoever gives goes on; whoever gives little, when there is nobody else.
        let rank = |server: ReplicaId| match fetch.turns.get(&server) {
            None => Some((1, servers.faults(now, server))),
            Some(turn) if turn.stage == Stage::Ready => Some((if turn.is_prompt() { 0 } else { 2 }, 0)),
            Some(_) => None,
        };
        let may = candidates.iter().filter(|server| servers.has_room(**server, bytes));
        // Of equals the first is the lowest.
        let (_, server) =
            may.filter_map(|server| Some((rank(*server)?, *server))).min_by_key(|(rank, _)| *rank)?;
        let patience = fetch.patience;
        fetch.turns.entry(server).or_insert_with(|| Turn::new(patience)).ask(now, bytes);
        self.servers.asked(server, bytes);
        Some(server)
    }

    /// Whether all these servers have had their turn in this round: the next one begins by itself, after a rest, but the
    /// owner may want something else rather.
    #[must_use]
    pub fn is_exhausted(&self, key: &K, candidates: impl IntoIterator<Item = ReplicaId>) -> bool {
        let fetch = self.fetches.get(key);
        fetch.is_some_and(|fetch| candidates.into_iter().all(|server| fetch.is_over_for(server)))
    }

    /// Whether this server has an open question of this fetch: what comes from anybody else is no answer, and is not
    /// to be looked at.
    #[must_use]
    pub fn is_asked(&self, key: &K, server: ReplicaId) -> bool {
        self.turn(key, server).is_some_and(Turn::is_open)
    }

    /// The server that is asked gave so many useful bytes; says whether it was asked.
    pub fn answered(&mut self, now: Nanoseconds, key: &K, server: ReplicaId, bytes: u64) -> bool {
        let was_asked = self.end_question(now, key, server, |turn| turn.answer(now, bytes));
        if was_asked
            && bytes > 0
            && let Some(fetch) = self.fetches.get_mut(key)
            && is_made(Mistake::RenewsDeadlines)
        {
            fetch.ends = now.plus(fetch.ends.since(fetch.began));
            fetch.began = now;
        }
        was_asked
    }

    /// The server that is asked has nothing of it, which honest ones may say; says whether it was asked. It has had its
    /// turn in this round.
    pub fn has_nothing(&mut self, now: Nanoseconds, key: &K, server: ReplicaId) -> bool {
        self.end_question(now, key, server, |turn| {
            turn.answer(now, 0);
            turn.stage = Stage::Over;
        })
    }

    /// What is wanted next is something else than what this server had nothing of: if it said so in time, its turn goes on
    /// with what is left of its credit.
    pub fn may_have_next(&mut self, key: &K, server: ReplicaId) {
        let turn = self.fetches.get_mut(key).and_then(|fetch| fetch.turns.get_mut(&server));
        if let Some(turn) = turn.filter(|turn| turn.stage == Stage::Over && turn.is_prompt()) {
            turn.stage = Stage::Ready;
        }
    }

    /// The server that is asked gave what no honest one does; says whether it was asked. It has had its turn, and is
    /// asked after all others for long.
    pub fn was_wrong(&mut self, now: Nanoseconds, key: &K, server: ReplicaId) -> bool {
        let was_asked = self.has_nothing(now, key, server);
        if was_asked {
            self.servers.wrong(now, server);
        }
        was_asked
    }

    /// All of it is here. Whoever gave its part in time is thought better of, and whoever others were asked beside, less
    /// well.
    pub fn finish(&mut self, now: Nanoseconds, key: &K) {
        let Some(mut fetch) = self.fetches.remove(key) else { return };
        expire(now, &mut fetch, &mut self.servers);
        for (server, turn) in &fetch.turns {
            match turn.stage {
                // It has had nothing of what was wanted.
                Stage::Ready if !turn.has_given => {}
                Stage::Ready if turn.is_prompt() => self.servers.helped(*server),
                Stage::Ready => self.servers.slow(now, *server),
                Stage::Asked { .. } if turn.lags().is_some_and(|lags| now >= lags) => {
                    self.servers.slow(now, *server);
                }
                // Its time has hardly begun, or what is to be remembered is.
                Stage::Asked { .. } | Stage::Late { .. } | Stage::Over => {}
            }
        }
        fetch.close(&mut self.servers);
    }

    /// It is no longer wanted. Whoever others were asked beside is thought less well of, as if all of it had come.
    pub fn forget(&mut self, key: &K) {
        let (Some(mut fetch), now) = (self.fetches.remove(key), self.seen) else { return };
        expire(now, &mut fetch, &mut self.servers);
        for (server, turn) in &fetch.turns {
            if turn.lags().is_some_and(|lags| now >= lags) {
                self.servers.slow(now, *server);
            }
        }
        fetch.close(&mut self.servers);
    }

    /// The connection to this server is gone, and what was asked of it. Going away without an answer is slow.
    pub fn disconnected(&mut self, now: Nanoseconds, server: ReplicaId) {
        for fetch in self.fetches.values_mut() {
            let Some(turn) = fetch.turns.get_mut(&server) else { continue };
            if turn.is_open() {
                self.servers.closed(server, turn.in_time());
                self.servers.slow(now, server);
            }
            turn.stage = Stage::Over;
        }
    }

    /// What has reached its deadline as a whole. Each of these begins a new round, in which everybody has twice the
    /// time; the owner forgets what it would rather not go on with.
    pub fn on_time(&mut self, now: Nanoseconds) -> Vec<K> {
        self.seen = self.seen.max(now);
        let mut overdue = Vec::new();
        for (key, fetch) in &mut self.fetches {
            expire(now, fetch, &mut self.servers);
            if now < fetch.ends {
                continue;
            }
            // Nobody gave too little at a time, and all together did.
            for (server, turn) in &fetch.turns {
                if matches!(turn.stage, Stage::Asked { .. } | Stage::Ready) {
                    self.servers.slow(now, *server);
                }
            }
            let next = Fetch::new(now, fetch.rounds.saturating_add(1), fetch.answers, &self.limits);
            std::mem::replace(fetch, next).close(&mut self.servers);
            overdue.push(key.clone());
        }
        overdue
    }

    /// When [`Fetches::on_time`] and [`Fetches::ask`] want to be called next, as far as time alone decides that.
    #[must_use]
    pub fn deadline(&self) -> Option<Nanoseconds> {
        self.fetches.values().flat_map(|fetch| self.times(fetch)).min()
    }

    /// What is remembered of the servers, and is open with them.
    #[must_use]
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    fn times(&self, fetch: &Fetch) -> impl Iterator<Item = Nanoseconds> {
        let turns = fetch.turns.values();
        let ahead: Vec<Nanoseconds> = turns
            .clone()
            .filter_map(Turn::lags)
            .chain([fetch.rests_until(), fetch.grows(self.seen, self.limits.servers_max)])
            .filter(|time| *time > self.seen)
            .collect();
        ahead.into_iter().chain(turns.filter_map(Turn::ends)).chain([fetch.ends])
    }

    fn turn(&self, key: &K, server: ReplicaId) -> Option<&Turn> {
        self.fetches.get(key)?.turns.get(&server)
    }

    fn end_question(
        &mut self,
        now: Nanoseconds,
        key: &K,
        server: ReplicaId,
        change: impl FnOnce(&mut Turn),
    ) -> bool {
        self.seen = self.seen.max(now);
        let Some(fetch) = self.fetches.get_mut(key) else { return false };
        expire(now, fetch, &mut self.servers);
        let Some(turn) = fetch.turns.get_mut(&server) else { return false };
        if !turn.is_open() {
            return false;
        }
        self.servers.closed(server, turn.in_time());
        change(turn);
        true
    }
}

/// Remembers whose time is over.
fn expire(now: Nanoseconds, fetch: &mut Fetch, servers: &mut Servers) {
    for (server, turn) in &mut fetch.turns {
        if let Some(bytes) = turn.expire(now) {
            servers.lapsed(bytes);
            servers.slow(now, *server);
        }
    }
}
