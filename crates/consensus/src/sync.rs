//! Catching up with headers that the others have committed: by commit proof, or by a checkpoint certificate.
//!
//! A commit proof is f+1 claims, in Status messages, to have committed a slot or a descendant of it: one of
//! them is an honest replica's. Claims on the own chain commit at once; for the rest the headers are fetched
//! backwards by digest, so that what a server sends is checked against what was asked for. A claim is a fact and
//! stays true, so those that were known when a fetch began still count when it ends.

use crate::consensus::Consensus;
use crate::output::{Destination, Outgoing, Output, Reject};
use quorate_types::{After, Nanoseconds, ReplicaId, Rounds, Seq, limits, nth_highest};
use quorate_wire::message::{FetchHeaders, FetchedHeaders};
use quorate_wire::{Header, Position};
use std::sync::Arc;

/// After so many retransmission times without an answer another server is asked; twice as many after each round of
/// all servers, up to [`ANSWER_TIME_MAX`].
const ANSWER_TIMES: u64 = 4;
const ANSWER_TIME_MAX: Nanoseconds = Nanoseconds::from_millis(5_000);

/// The fetch of headers that is under way, if any.
#[derive(Debug, Default)]
pub(crate) struct Sync {
    fetch: Option<Fetch>,
    /// Since when this replica has known that it is behind, or has given a fetch up.
    behind_since: Option<Nanoseconds>,
    /// Whom to ask next.
    rounds: Rounds,
}

#[derive(Debug)]
struct Fetch {
    target: Position,
    server: ReplicaId,
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
    /// When the present question is given up, and when all of the fetch is: a server that drips headers does not
    /// hold it for long.
    expires: Nanoseconds,
    ends: Nanoseconds,
}

impl Sync {
    pub(crate) fn target(&self) -> Option<Position> {
        self.fetch.as_ref().map(|fetch| fetch.target)
    }

    pub(crate) fn deadline(&self) -> Option<Nanoseconds> {
        self.fetch.as_ref().map(|fetch| fetch.expires)
    }

    pub(crate) fn len(&self) -> usize {
        self.fetch.as_ref().map_or(0, |fetch| fetch.headers.len())
    }

    fn abandon(&mut self, now: Nanoseconds) {
        self.fetch = None;
        self.behind_since = Some(now);
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

    /// Starts, repeats or gives up the fetch of headers.
    pub(crate) fn sync_on_time(&mut self, now: Nanoseconds, out: &mut Vec<Output>) {
        let committed = self.chain.committed().seq;
        if self.sync.fetch.as_ref().is_some_and(|fetch| fetch.target.seq <= committed) {
            self.sync.fetch = None;
        }
        if self.sync.fetch.as_ref().is_some_and(|fetch| now >= fetch.expires) {
            self.sync.abandon(now);
        }
        if self.sync.fetch.is_some() {
            return;
        }
        let targets = self.targets_ahead();
        if targets.is_empty() || committed >= self.execution_room() {
            self.sync.behind_since = None;
            self.sync.rounds.reset();
            return;
        }
        let since = *self.sync.behind_since.get_or_insert(now);
        if now.since(since) < self.tuning.retransmit.0 {
            return;
        }
        let Some(server) = self.sync.rounds.next(targets.iter().map(|(replica, _)| *replica)) else { return };
        let Some((_, target)) = targets.into_iter().find(|(replica, _)| *replica == server) else { return };
        let answers = target.seq.since(committed) / (self.tuning.fetch_headers_max as u64) + 2;
        let ends = now.plus(self.answer_time().saturating_mul(answers));
        self.sync.fetch = Some(Fetch {
            target,
            server,
            next: target,
            headers: Vec::new(),
            bytes: 0,
            claims: self.votes.peers().map(|(_, peer)| peer.claim).collect(),
            stable: self.checkpoints.stable(),
            expires: now.plus(self.answer_time()),
            ends,
        });
        self.ask(out);
    }

    /// How long a server may take, in nanoseconds.
    fn answer_time(&self) -> u64 {
        self.sync.rounds.patience(ANSWER_TIMES * self.tuning.retransmit.0, ANSWER_TIME_MAX.0)
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

    fn ask(&mut self, out: &mut Vec<Output>) {
        let Some(fetch) = &self.sync.fetch else { return };
        let question = FetchHeaders { last: fetch.next, above: self.chain.committed().seq };
        out.push(Output::Send {
            to: Destination::One(fetch.server),
            message: Outgoing::FetchHeaders(question),
            after: After::nothing(),
        });
    }

    /// The header at a position, on the own chain or off it.
    fn header_at(&self, position: Position) -> Option<&Arc<Header>> {
        self.chain.header(position).or_else(|| self.spare.get(position))
    }

    /// Answers a question for headers with what is kept, in one frame of bounded size.
    pub fn on_fetch_headers(&mut self, from: ReplicaId, message: &FetchHeaders, out: &mut Vec<Output>) {
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
    }

    /// Takes an answer, whoever sends it: each header is checked against the digest that its child names. What
    /// does not begin with what is wanted next is late and is passed over.
    pub fn on_fetched_headers(
        &mut self,
        now: Nanoseconds,
        from: ReplicaId,
        message: FetchedHeaders,
        out: &mut Vec<Output>,
    ) -> Result<(), Reject> {
        if self.take_for_view(now, from, &message, out) {
            return Ok(());
        }
        let expires = now.plus(self.answer_time());
        let kept_max = self.tuning.window.saturating_add(self.tuning.headers_kept_max);
        let Some(fetch) = self.sync.fetch.as_mut() else { return Ok(()) };
        let Some(first) = message.headers.first() else {
            if fetch.server == from {
                self.sync.abandon(now);
            }
            return Ok(());
        };
        if !matches(first, fetch.next) {
            return Ok(());
        }
        for header in message.headers {
            if !matches(&header, fetch.next) {
                // Nobody but the one who was asked can end a fetch; what has come before is good.
                if fetch.server == from {
                    self.sync.abandon(now);
                } else {
                    self.ask(out);
                }
                return Err(Reject::FetchMismatch);
            }
            let parent = Position { seq: header.seq.previous(), digest: header.parent };
            fetch.bytes += bytes_about(&header);
            fetch.headers.push(Arc::new(header));
            if parent.seq <= self.chain.committed().seq || self.chain.contains(parent) {
                self.finish_sync(now, out);
                return Ok(());
            }
            if fetch.headers.len() as u64 > kept_max || fetch.bytes > SYNC_BYTES_MAX {
                self.sync.abandon(now);
                return Ok(());
            }
            fetch.next = parent;
        }
        fetch.expires = expires.min(fetch.ends);
        self.ask(out);
        Ok(())
    }

    /// The fetched headers reach the own chain, or contradict it.
    fn finish_sync(&mut self, now: Nanoseconds, out: &mut Vec<Output>) {
        let fetch = self.sync.fetch.take().expect("invariant: called while a fetch is under way");
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
            return self.sync.abandon(now);
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

/// What a header and one lane's tip take in an answer, rounded up.
const HEADER_BYTES_ABOUT: usize = 96;
const TIP_BYTES_ABOUT: usize = 48;
const _: () = assert!(
    limits::FETCH_BYTES_MAX + HEADER_BYTES_ABOUT + TIP_BYTES_ABOUT * limits::REPLICAS_MAX * limits::LINKS_MAX
        <= limits::FRAME_BYTES_MAX
);

/// The headers of one fetch take no more than that: a chain that somebody has made up may be long, and its headers large.
const SYNC_BYTES_MAX: usize = 64 * 1024 * 1024;

fn bytes_about(header: &Header) -> usize {
    HEADER_BYTES_ABOUT + TIP_BYTES_ABOUT * header.cut.len()
}

fn matches(header: &Header, position: Position) -> bool {
    header.seq == position.seq && header.digest() == position.digest
}
