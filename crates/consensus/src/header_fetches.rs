//! Whom headers are fetched from, whatever for, and what an answer is the answer to.
//!
//! Headers are fetched backwards by digest, so what a server sends is checked against what it was asked for. What comes
//! from anybody else is no answer. Several servers may be asked at once, each for what is wanted next at that time.

use crate::output::{Destination, Outgoing, Output};
use quorate_fetch::{Budget, Fetches, Limits};
use quorate_types::{After, Nanoseconds, ReplicaId, Seq, Tuning, limits};
use quorate_wire::message::FetchHeaders;
use quorate_wire::{Header, Position};
use std::collections::BTreeMap;

/// After so many retransmission times without a full answer a server is slow, in the first round.
const ANSWER_TIMES: u64 = 4;
const ANSWER_TIME_MAX: Nanoseconds = Nanoseconds::from_millis(5_000);
/// So many servers are asked at a time.
const SERVERS_MAX: usize = 2;

/// What headers are fetched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// Others have committed them.
    Committed,
    /// A view begins with them.
    View,
}

/// The fetches of headers.
#[derive(Debug)]
pub(crate) struct HeaderFetches {
    fetches: Fetches<Purpose>,
    /// What each server was asked for last. It has one open question at most: its answers come in order, and an empty
    /// one names nothing.
    asked: BTreeMap<ReplicaId, (Purpose, Position)>,
    /// How many questions each server has not answered, those that were given up too.
    unanswered: BTreeMap<ReplicaId, u64>,
    headers_max: u64,
}

impl HeaderFetches {
    pub(crate) fn new(tuning: &Tuning) -> Self {
        let limits = Limits {
            patience: Nanoseconds(tuning.retransmit.0.saturating_mul(ANSWER_TIMES)),
            patience_max: ANSWER_TIME_MAX,
            servers_max: SERVERS_MAX,
            budget: Budget { questions_per_server: 1, ..Budget::default() },
        };
        let headers_max = tuning.fetch_headers_max.max(1) as u64;
        Self {
            fetches: Fetches::new(limits),
            asked: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            headers_max,
        }
    }

    /// Begins to fetch so many headers, after so many rounds of all servers that did not help.
    pub(crate) fn begin(&mut self, now: Nanoseconds, purpose: Purpose, headers: u64, rounds: u32) {
        self.fetches.begin(now, purpose, headers.div_ceil(self.headers_max), rounds);
    }

    pub(crate) fn contains(&self, purpose: Purpose) -> bool {
        self.fetches.contains(&purpose)
    }

    /// Asks for headers from `next` down to what is above `above`, whomever it is time to ask.
    pub(crate) fn ask(
        &mut self,
        now: Nanoseconds,
        purpose: Purpose,
        servers: &[ReplicaId],
        next: Position,
        above: Seq,
        out: &mut Vec<Output>,
    ) {
        let headers = next.seq.since(above).min(self.headers_max).max(1);
        let bytes = headers.saturating_mul(HEADER_BYTES_ABOUT as u64);
        while let Some(server) = self.fetches.ask(now, &purpose, servers.iter().copied(), bytes) {
            self.asked.insert(server, (purpose, next));
            *self.unanswered.entry(server).or_default() += 1;
            let message = Outgoing::FetchHeaders(FetchHeaders { last: next, above });
            out.push(Output::Send { to: Destination::One(server), message, after: After::nothing() });
        }
    }

    /// An answer has come, one for each question and in their order; says whether it is the one to the last. That one is
    /// known to be the last, too, if it begins with what was asked for last.
    pub(crate) fn ends_questions(&mut self, server: ReplicaId, begins_as_asked: bool) -> bool {
        let unanswered = self.unanswered.entry(server).or_default();
        *unanswered = if begins_as_asked { 0 } else { unanswered.saturating_sub(1) };
        *unanswered == 0
    }

    /// Whether an answer of this server may be one to anything.
    pub(crate) fn expects(&self, server: ReplicaId) -> bool {
        self.unanswered.get(&server).is_some_and(|count| *count > 0) || self.question(server).is_some()
    }

    /// What this server is asked for; nothing when it is not asked.
    pub(crate) fn question(&self, server: ReplicaId) -> Option<(Purpose, Position)> {
        let (purpose, position) = *self.asked.get(&server)?;
        self.fetches.is_asked(&purpose, server).then_some((purpose, position))
    }

    /// The server that is asked has given headers that link, or none.
    pub(crate) fn answered(
        &mut self,
        now: Nanoseconds,
        purpose: Purpose,
        server: ReplicaId,
        headers: &[Header],
    ) {
        if headers.is_empty() {
            self.fetches.has_nothing(now, &purpose, server);
        } else {
            let bytes = headers.iter().map(|header| bytes_about(header) as u64).sum();
            self.fetches.answered(now, &purpose, server, bytes);
        }
    }

    /// The server that is asked has given headers that do not link.
    pub(crate) fn was_wrong(&mut self, now: Nanoseconds, purpose: Purpose, server: ReplicaId) {
        self.fetches.was_wrong(now, &purpose, server);
    }

    /// All has come.
    pub(crate) fn finish(&mut self, now: Nanoseconds, purpose: Purpose) {
        self.fetches.finish(now, &purpose);
    }

    /// It is no longer wanted.
    pub(crate) fn forget(&mut self, purpose: Purpose) {
        self.fetches.forget(&purpose);
    }

    /// Whether none of these servers has helped in this round.
    pub(crate) fn is_exhausted(&self, purpose: Purpose, servers: &[ReplicaId]) -> bool {
        self.fetches.is_exhausted(&purpose, servers.iter().copied())
    }

    /// How much is remembered against a server.
    pub(crate) fn faults(&self, now: Nanoseconds, server: ReplicaId) -> u32 {
        self.fetches.servers().faults(now, server)
    }

    /// A connection stands, or frames were lost on it: questions and answers, perhaps.
    pub(crate) fn on_connected(&mut self, server: ReplicaId) {
        self.unanswered.remove(&server);
    }

    pub(crate) fn on_disconnected(&mut self, now: Nanoseconds, server: ReplicaId) {
        self.unanswered.remove(&server);
        self.fetches.disconnected(now, server);
    }

    /// What has taken too long as a whole.
    pub(crate) fn on_time(&mut self, now: Nanoseconds) -> Vec<Purpose> {
        self.fetches.on_time(now)
    }

    pub(crate) fn deadline(&self) -> Option<Nanoseconds> {
        self.fetches.deadline()
    }
}

/// What a header and one lane's tip take in an answer, rounded up.
const HEADER_BYTES_ABOUT: usize = 96;
const TIP_BYTES_ABOUT: usize = 48;
const _: () = assert!(
    limits::FETCH_BYTES_MAX + HEADER_BYTES_ABOUT + TIP_BYTES_ABOUT * limits::REPLICAS_MAX * limits::LINKS_MAX
        <= limits::FRAME_BYTES_MAX
);

pub(crate) fn bytes_about(header: &Header) -> usize {
    HEADER_BYTES_ABOUT + TIP_BYTES_ABOUT * header.cut.len()
}

/// Whether a header is the one at a position.
pub(crate) fn matches(header: &Header, position: Position) -> bool {
    header.seq == position.seq && header.digest() == position.digest
}

/// How many of the headers link backwards from a position.
pub(crate) fn linked(headers: &[Header], from: Position) -> usize {
    let mut next = from;
    let links = |header: &&Header| {
        let is_next = matches(header, next);
        next = Position { seq: header.seq.previous(), digest: header.parent };
        is_next
    };
    headers.iter().take_while(links).count()
}
