//! Catching up with headers that the others have committed: by commit proof, or by a checkpoint certificate.
//!
//! A commit proof is f+1 claims, in Status messages, to have committed a slot or a descendant of it: one of
//! them is an honest replica's. Claims on the own chain commit at once; for the rest the headers are fetched
//! backwards by digest, so that what a server sends is checked against what was asked for. A claim is a fact and
//! stays true, so those that were known when a fetch began still count when it ends.

use crate::consensus::Consensus;
use crate::header_fetches::{Purpose, bytes_about, linked, matches};
use crate::output::{Destination, Outgoing, Output, Reject};
use quorate_types::{After, Nanoseconds, ReplicaId, ReplicaSet, Rounds, Seq, limits, nth_highest};
use quorate_wire::message::{FetchHeaders, FetchedHeaders};
use quorate_wire::{Header, Position};
use std::sync::Arc;

/// The fetch of headers that is under way, if any.
#[derive(Debug, Default)]
pub(crate) struct Sync {
    fetch: Option<Fetch>,
    /// Whether it was told last that all who answer have nothing of what is wanted.
    is_unserved: bool,
    /// Since when this replica has known that it is behind, or has given a fetch up.
    behind_since: Option<Nanoseconds>,
    /// Whose claim to follow next: a false one leads nowhere, and only its author serves what it names.
    rounds: Rounds,
}

#[derive(Debug)]
struct Fetch {
    target: Position,
    claimant: ReplicaId,
    /// What is wanted next, descending.
    next: Position,
    /// What has come, descending from the target.
    headers: Vec<Arc<Header>>,
    /// What that takes, about.
    bytes: usize,
    /// What was claimed when the fetch began.
    claims: Vec<Position>,
    /// The checkpoint that was certified when the fetch began.
    stable: Position,
    /// Who has nothing of what is wanted next.
    lacking: ReplicaSet,
}

impl Sync {
    pub(crate) fn target(&self) -> Option<Position> {
        self.fetch.as_ref().map(|fetch| fetch.target)
    }

    pub(crate) fn len(&self) -> usize {
        self.fetch.as_ref().map_or(0, |fetch| fetch.headers.len())
    }
}

impl Consensus {
    /// Commits what f+1 claims on the own chain prove.
    pub(crate) fn check_claims(&mut self, out: &mut Vec<Output>) {
        let on_chain = self
            .votes
            .peers()
            .filter(|(_, peer)| self.chain.contains(peer.claim))
            .map(|(_, peer)| peer.claim.seq);
        let mut proven = nth_highest(on_chain, self.quorums.weak);
        let stable = self.checkpoints.stable();
        if self.chain.contains(stable) {
            proven = proven.max(stable.seq);
        }
        self.commit_up_to(proven, out);
        self.check_committed(out);
    }

    /// Starts, goes on with or gives up the fetch of headers.
    pub(crate) fn sync_on_time(&mut self, now: Nanoseconds, out: &mut Vec<Output>) {
        let committed = self.chain.committed().seq;
        let overdue = self.header_fetches.on_time(now);
        if self.sync.fetch.as_ref().is_some_and(|fetch| fetch.target.seq <= committed) {
            self.sync.fetch = None;
            self.header_fetches.finish(now, Purpose::Committed);
        }
        if self.sync.fetch.is_some() {
            if overdue.contains(&Purpose::Committed) {
                return self.abandon_sync(now);
            }
            return self.ask_for_committed(now, out);
        }
        let mut targets = self.targets_ahead();
        if targets.is_empty() || committed >= self.execution_room() {
            self.sync.behind_since = None;
            self.sync.rounds.reset();
            return;
        }
        let since = *self.sync.behind_since.get_or_insert(now);
        if now.since(since) < self.tuning.retransmit.0 {
            return;
        }
        targets.sort_by_key(|(replica, _)| self.header_fetches.faults(now, *replica));
        let claimants = targets.iter().map(|(replica, _)| *replica);
        let Some(claimant) = self.sync.rounds.next(claimants) else { return };
        let Some((_, target)) = targets.into_iter().find(|(replica, _)| *replica == claimant) else { return };
        let (headers, rounds) = (target.seq.since(committed), self.sync.rounds.completed());
        self.header_fetches.begin(now, Purpose::Committed, headers, rounds);
        self.sync.fetch = Some(Fetch {
            target,
            claimant,
            next: target,
            headers: Vec::new(),
            bytes: 0,
            claims: self.votes.peers().map(|(_, peer)| peer.claim).collect(),
            stable: self.checkpoints.stable(),
            lacking: ReplicaSet::EMPTY,
        });
        self.ask_for_committed(now, out);
    }

    /// When a replica that stays behind begins to fetch headers.
    pub(crate) fn sync_deadline(&self) -> Option<Nanoseconds> {
        let since = self.sync.behind_since.filter(|_| self.sync.fetch.is_none())?;
        // What could not begin then begins with what comes.
        Some(since.plus(self.tuning.retransmit.0)).filter(|begin| *begin > self.now)
    }

    /// Asks for what is wanted next, whoever claims as much or more; another target has its turn when all have had theirs.
    fn ask_for_committed(&mut self, now: Nanoseconds, out: &mut Vec<Output>) {
        let Some(fetch) = &self.sync.fetch else { return };
        let (claimant, target, next) = (fetch.claimant, fetch.target, fetch.next);
        // A certificate that has come meanwhile, over a slot below the target, makes nobody's claim to the target worse.
        let mut servers: Vec<ReplicaId> = self
            .targets_ahead()
            .into_iter()
            .filter(|(replica, position)| position.seq.max(self.claim_of(*replica)) >= target.seq)
            .map(|(replica, _)| replica)
            .collect();
        servers.sort_by_key(|replica| *replica != claimant);
        if self.header_fetches.is_exhausted(Purpose::Committed, &servers) {
            return self.abandon_sync(now);
        }
        let above = self.chain.committed().seq;
        self.header_fetches.ask(now, Purpose::Committed, &servers, next, above, out);
    }

    fn abandon_sync(&mut self, now: Nanoseconds) {
        self.sync.fetch = None;
        self.sync.behind_since = Some(now);
        self.header_fetches.forget(Purpose::Committed);
    }

    /// What would prove something new, with who may serve it; empty unless a certificate or f+1 claims say that
    /// this replica is behind. A claim more than a window above what f+1 claim is not believed worth the walk.
    fn targets_ahead(&self) -> Vec<(ReplicaId, Position)> {
        let committed = self.chain.committed().seq;
        let others = || self.votes.peers().filter(|(replica, peer)| *replica != self.me && peer.connected);
        if self.lacks_a_certified_slot() {
            let stable = self.checkpoints.stable();
            return others().map(|(replica, _)| (replica, stable)).collect();
        }
        let believed = nth_highest(others().map(|(_, peer)| peer.claim.seq), self.quorums.weak);
        if believed <= committed {
            return Vec::new();
        }
        let reach = believed.plus(self.tuning.window);
        others()
            .filter(|(_, peer)| peer.claim.seq > committed && peer.claim.seq <= reach)
            .map(|(replica, peer)| (replica, peer.claim))
            .collect()
    }

    /// The header at a position, on the own chain or off it.
    fn header_at(&self, position: Position) -> Option<&Arc<Header>> {
        self.chain.header(position).or_else(|| self.spare.get(position))
    }

    /// Answers a question for headers with what is kept, in one frame of bounded size; says about how many bytes that is.
    pub fn on_fetch_headers(
        &mut self,
        from: ReplicaId,
        message: &FetchHeaders,
        out: &mut Vec<Output>,
    ) -> usize {
        let mut headers = Vec::new();
        let mut bytes = 0;
        let mut at = message.last;
        while at.seq > message.above
            && headers.len() < self.tuning.fetch_headers_max
            && bytes < limits::FETCH_BYTES_MAX
            && let Some(header) = self.header_at(at)
        {
            bytes += bytes_about(header);
            headers.push(Header::clone(header));
            at = Position { seq: at.seq.previous(), digest: header.parent };
        }
        let message = Outgoing::FetchedHeaders(FetchedHeaders { headers });
        out.push(Output::Send { to: Destination::One(from), message, after: After::nothing() });
        bytes
    }

    /// Answers a question that whoever has asked it has given up: answers are counted.
    pub fn answer_nothing(&mut self, from: ReplicaId, out: &mut Vec<Output>) {
        let message = Outgoing::FetchedHeaders(FetchedHeaders { headers: Vec::new() });
        out.push(Output::Send { to: Destination::One(from), message, after: After::nothing() });
    }

    /// Whether headers of this peer may be an answer: others need not be decoded.
    #[must_use]
    pub fn expects_headers(&self, from: ReplicaId) -> bool {
        self.header_fetches.expects(from)
    }

    /// Takes an answer of somebody who was asked: each header is checked against the digest that its child names. What
    /// does not begin with what was asked for is late and is passed over.
    ///
    /// # Errors
    /// When what begins as asked does not link; what has come before is good.
    pub fn on_fetched_headers(
        &mut self,
        now: Nanoseconds,
        from: ReplicaId,
        message: FetchedHeaders,
        out: &mut Vec<Output>,
    ) -> Result<(), Reject> {
        let mut headers = message.headers;
        let question = self.header_fetches.question(from);
        let count = question.map_or(0, |(_, asked)| linked(&headers, asked));
        let is_last = self.header_fetches.ends_questions(from, count > 0);
        let Some((purpose, asked)) = question else { return Ok(()) };
        if count == 0 && !headers.is_empty() {
            return Ok(());
        }
        if headers.is_empty() && !is_last {
            // It is to a question that was given up. The one that is open has its answer yet.
            return Ok(());
        }
        let is_wrong = count < headers.len();
        headers.truncate(count);
        if is_wrong {
            self.header_fetches.was_wrong(now, purpose, from);
        } else {
            self.header_fetches.answered(now, purpose, from, &headers);
        }
        match purpose {
            Purpose::Committed if headers.is_empty() => self.has_none(now, from, asked, out),
            Purpose::Committed => self.take_committed(now, headers, out),
            Purpose::View => self.take_for_view(now, headers, out),
        }
        if is_wrong { Err(Reject::FetchMismatch) } else { Ok(()) }
    }

    /// Somebody has nothing of what it was asked for. Where that is on the way to a certified slot, and as many say so as
    /// answer for certain, perhaps nobody keeps it any more.
    fn has_none(&mut self, now: Nanoseconds, from: ReplicaId, asked: Position, out: &mut Vec<Output>) {
        let (answers, stable) = (self.quorums.answers(), self.checkpoints.stable());
        if let Some(fetch) = self.sync.fetch.as_mut().filter(|fetch| fetch.next == asked) {
            fetch.lacking.insert(from);
            if fetch.lacking.len() >= answers && [fetch.stable, stable].contains(&fetch.target) {
                self.sync.is_unserved = true;
                out.push(Output::Unserved(Some(asked)));
            }
        }
        self.ask_for_committed(now, out);
    }

    /// Takes headers that link backwards from one that was wanted.
    fn take_committed(&mut self, now: Nanoseconds, headers: Vec<Header>, out: &mut Vec<Output>) {
        let kept_max = self.tuning.window.saturating_add(self.tuning.headers_kept_max);
        let Some(fetch) = self.sync.fetch.as_mut() else { return };
        for header in headers {
            // Another server may have been faster.
            if !matches(&header, fetch.next) {
                continue;
            }
            if std::mem::take(&mut self.sync.is_unserved) {
                out.push(Output::Unserved(None));
            }
            let parent = Position { seq: header.seq.previous(), digest: header.parent };
            fetch.bytes += bytes_about(&header);
            fetch.headers.push(Arc::new(header));
            if parent.seq <= self.chain.committed().seq || self.chain.contains(parent) {
                return self.finish_sync(now, out);
            }
            if fetch.headers.len() as u64 > kept_max || fetch.bytes > SYNC_BYTES_MAX {
                return self.abandon_sync(now);
            }
            (fetch.next, fetch.lacking) = (parent, ReplicaSet::EMPTY);
        }
        self.ask_for_committed(now, out);
    }

    /// The fetched headers reach the own chain, or contradict it.
    fn finish_sync(&mut self, now: Nanoseconds, out: &mut Vec<Output>) {
        let fetch = self.sync.fetch.take().expect("invariant: called while a fetch is under way");
        self.header_fetches.finish(now, Purpose::Committed);
        let mut headers = fetch.headers;
        headers.reverse();
        // The normal case may have committed part of it meanwhile.
        let committed = self.chain.committed();
        headers.retain(|header| header.seq > committed.seq);
        let Some(first) = headers.first() else { return };
        let attach = Position { seq: first.seq.previous(), digest: first.parent };
        let on_result = |position: Position| {
            if position.seq <= attach.seq {
                return self.chain.contains(position);
            }
            let index = usize::try_from(position.seq.since(attach.seq) - 1).unwrap_or(usize::MAX);
            headers.get(index).is_some_and(|header| header.digest() == position.digest)
        };
        let claims = self.votes.peers().zip(&fetch.claims).filter_map(|((_, peer), earlier)| {
            [peer.claim, *earlier].into_iter().filter(|claim| on_result(*claim)).map(|claim| claim.seq).max()
        });
        let mut proven = nth_highest(claims, self.quorums.weak);
        for stable in [fetch.stable, self.checkpoints.stable()] {
            if on_result(stable) {
                proven = proven.max(stable.seq);
            }
        }
        headers.retain(|header| header.seq <= proven);
        if headers.is_empty() {
            // The claims may still prove what is accepted here.
            self.commit_up_to(if self.chain.contains(attach) { proven } else { Seq(0) }, out);
            return self.abandon_sync(now);
        }
        if !self.chain.contains(attach) {
            out.push(Output::Halt(format!(
                "the chain committed here up to {} ({}) contradicts one that f+1 replicas have committed",
                committed.seq, committed.digest
            )));
            return;
        }
        self.sync.behind_since = None;
        self.sync.rounds.reset();
        self.adopt(attach.seq, headers, out);
    }

    /// Whether f+1 others claim to have committed more than this replica has accepted: then it must not propose.
    pub(crate) fn has_fallen_behind(&self) -> bool {
        let claims =
            self.votes.peers().filter(|(replica, _)| *replica != self.me).map(|(_, peer)| peer.claim.seq);
        nth_highest(claims, self.quorums.weak) > self.chain.accepted().seq
    }

    /// Whether a certificate proves that others have committed more, and what it is over is not here.
    pub(crate) fn lacks_a_certified_slot(&self) -> bool {
        let stable = self.checkpoints.stable();
        stable.seq > self.chain.committed().seq && !self.chain.contains(stable)
    }

    /// Whether this replica knows that others have committed more.
    pub(crate) fn is_behind(&self) -> bool {
        !self.targets_ahead().is_empty()
    }
}

/// The headers of one fetch take no more than that: a chain that somebody has made up may be long, and its headers large.
const SYNC_BYTES_MAX: usize = 64 * 1024 * 1024;
