//! Catching up with headers that the others have committed: by commit proof, or by a checkpoint certificate.
//!
//! A commit proof is f+1 claims, in Status messages, to have committed a slot or a descendant of it: one of
//! them is an honest replica's. Claims on the own chain commit at once; for the rest the headers are fetched
//! backwards by digest, so that what a server sends is checked against what was asked for.

use crate::consensus::Consensus;
use crate::output::{Destination, Outgoing, Output, Reject};
use crate::votes::nth_highest;
use quorate_types::{After, Nanoseconds, ReplicaId};
use quorate_wire::message::{FetchHeaders, FetchedHeaders};
use quorate_wire::{Header, Position};
use std::sync::Arc;

/// After so many retransmission times without an answer another server is asked.
const ANSWER_TIMES: u64 = 4;

/// The fetch of headers that is under way, if any.
#[derive(Debug, Default)]
pub(crate) struct Sync {
    fetch: Option<Fetch>,
    /// Since when this replica has known that it is behind.
    behind_since: Option<Nanoseconds>,
    /// Counts servers that did not help, so that the next one is another.
    attempt: usize,
}

#[derive(Debug)]
struct Fetch {
    target: Position,
    server: ReplicaId,
    /// What is wanted next, descending.
    next: Position,
    /// What has come, descending from the target.
    headers: Vec<Arc<Header>>,
    expires: Nanoseconds,
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
    }

    /// Starts, repeats or gives up the fetch of headers.
    pub(crate) fn sync_on_time(&mut self, now: Nanoseconds, out: &mut Vec<Output>) {
        if self.sync.fetch.as_ref().is_some_and(|fetch| now >= fetch.expires) {
            self.abandon_sync();
        }
        if self.sync.fetch.is_some() {
            return;
        }
        let claimants = self.claimants_ahead();
        if claimants.is_empty() {
            self.sync.behind_since = None;
            return;
        }
        let since = *self.sync.behind_since.get_or_insert(now);
        if now.since(since) < self.tuning.retransmit.0 {
            return;
        }
        let (server, target) = claimants[self.sync.attempt % claimants.len()];
        let expires = now.plus(ANSWER_TIMES * self.tuning.retransmit.0);
        self.sync.fetch = Some(Fetch { target, server, next: target, headers: Vec::new(), expires });
        self.ask(out);
    }

    /// Who may serve headers that prove something new, with what each of them would prove; empty unless a
    /// certificate or f+1 claims say that this replica is behind.
    fn claimants_ahead(&self) -> Vec<(ReplicaId, Position)> {
        let committed = self.chain.committed().seq;
        let ahead: Vec<(ReplicaId, Position)> = self
            .votes
            .peers()
            .filter(|(replica, peer)| *replica != self.me && peer.connected && peer.claim.seq > committed)
            .map(|(replica, peer)| (replica, peer.claim))
            .collect();
        let stable = self.checkpoints.stable();
        if stable.seq > committed && !self.chain.contains(stable) {
            return ahead.into_iter().map(|(replica, _)| (replica, stable)).collect();
        }
        if ahead.len() < self.quorums.weak {
            return Vec::new();
        }
        ahead
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

    fn abandon_sync(&mut self) {
        self.sync.fetch = None;
        self.sync.attempt += 1;
    }

    /// Answers a question for headers with what is kept.
    pub fn on_fetch_headers(&mut self, from: ReplicaId, message: &FetchHeaders, out: &mut Vec<Output>) {
        let mut headers = Vec::new();
        if self.chain.contains(message.last) {
            let mut seq = message.last.seq;
            while seq > message.above
                && headers.len() < self.tuning.fetch_headers_max
                && let Some(slot) = self.chain.slot(seq)
            {
                headers.push(Header::clone(&slot.header));
                seq = seq.previous();
            }
        }
        let message = Outgoing::FetchedHeaders(FetchedHeaders { headers });
        out.push(Output::Send { to: Destination::One(from), message, after: After::nothing() });
    }

    /// Takes an answer. Each header is checked against the digest that its child names.
    pub fn on_fetched_headers(
        &mut self,
        now: Nanoseconds,
        from: ReplicaId,
        message: FetchedHeaders,
        out: &mut Vec<Output>,
    ) {
        let Some(fetch) = self.sync.fetch.as_mut().filter(|fetch| fetch.server == from) else {
            // A late answer of a server that was given up; nothing is taken from it.
            return;
        };
        if message.headers.is_empty() {
            self.abandon_sync();
            return;
        }
        for header in message.headers {
            if header.seq != fetch.next.seq || header.digest() != fetch.next.digest {
                out.push(Output::Rejected(Reject::FetchMismatch));
                self.abandon_sync();
                return;
            }
            let parent = Position { seq: header.seq.previous(), digest: header.parent };
            fetch.headers.push(Arc::new(header));
            if parent.seq <= self.chain.committed().seq || self.chain.contains(parent) {
                return self.finish_sync(parent, out);
            }
            fetch.next = parent;
        }
        fetch.expires = now.plus(ANSWER_TIMES * self.tuning.retransmit.0);
        self.ask(out);
    }

    /// The fetched headers reach the own chain at `attach`, or contradict it.
    fn finish_sync(&mut self, attach: Position, out: &mut Vec<Output>) {
        let fetch = self.sync.fetch.take().expect("invariant: called while a fetch is under way");
        self.sync.behind_since = None;
        let mut headers = fetch.headers;
        headers.reverse();
        let fetched = |position: Position| {
            let first = headers[0].seq;
            let index = usize::try_from(position.seq.0.checked_sub(first.0)?).ok()?;
            headers.get(index).filter(|header| header.digest() == position.digest)
        };
        let claims = self
            .votes
            .peers()
            .filter(|(_, peer)| self.chain.contains(peer.claim) || fetched(peer.claim).is_some())
            .map(|(_, peer)| peer.claim.seq);
        let mut proven = nth_highest(claims, self.quorums.weak);
        let stable = self.checkpoints.stable();
        if fetched(stable).is_some() {
            proven = proven.max(stable.seq);
        }
        headers.retain(|header| header.seq <= proven && header.seq > self.chain.committed().seq);
        if headers.is_empty() {
            self.sync.attempt += 1;
            return;
        }
        if attach.seq < self.chain.committed().seq || !self.chain.contains(attach) {
            out.push(Output::Halt(format!(
                "the chain committed here up to {} contradicts one that f+1 replicas have committed",
                self.chain.committed().seq
            )));
            return;
        }
        self.adopt(attach.seq, headers, out);
    }

    /// Whether this replica knows that others have committed more.
    pub(crate) fn is_behind(&self) -> bool {
        !self.claimants_ahead().is_empty()
    }
}
