//! PREPAREs, certificates and COMMITs (DESIGN section 4, rules 2 to 4).

use crate::chain::PreparedCertificate;
use crate::consensus::Consensus;
use crate::output::{Destination, Fact, Outgoing, Output, Reject};
use crate::verified::Verified;
use crate::votes::voted;
use quorate_types::mistakes::is_made;
use quorate_types::{After, Mistake, ReplicaId, Seq, Signature};
use quorate_wire::Position;
use quorate_wire::message::{Commit, Prepare};
use std::sync::Arc;

impl Consensus {
    pub(crate) fn window_end(&self) -> Seq {
        self.checkpoints.stable().seq.plus(self.tuning.window)
    }

    /// Whether nothing more is accepted now, whoever proposes it: before a checkpoint moves the window, in slots or in
    /// bytes, or the own execution has come further.
    pub(crate) fn is_full(&self) -> bool {
        let accepted = self.chain.accepted().seq;
        let stable = self.checkpoints.stable().seq;
        accepted >= self.window_end()
            || accepted >= self.execution_room()
            || self.chain.bytes_above(stable) >= self.tuning.window_bytes()
    }

    /// The last slot for which votes are kept: those of two full pipelines above the accepted slot. What comes
    /// earlier than that is sent again on Status.
    /// The slot up to which votes count no longer: they are committed, or below the head of the view.
    fn votes_above(&self) -> Seq {
        self.chain.committed().seq.max(self.head.seq.previous())
    }

    fn votes_end(&self) -> Seq {
        self.window_end().min(self.chain.accepted().seq.plus(2 * self.tuning.proposals_max))
    }

    /// Whether a PREPARE is worth verifying: it adds a vote to a slot that is not prepared yet.
    #[must_use]
    pub fn wants_prepare(&self, signer: ReplicaId, message: &Prepare) -> bool {
        let (above, end) = (self.votes_above(), self.votes_end());
        let undecided = (0..message.digests.len() as u64)
            .map(|offset| message.lo.plus(offset))
            .any(|seq| seq > above && self.chain.slot(seq).is_none_or(|slot| !slot.prepared));
        undecided && self.votes.is_news(signer, message, above, end)
    }

    /// Whether PREPAREs that nobody has verified yet, each with its sender, would make an accepted slot prepared if
    /// they were all genuine. Until they do, there is no hurry to verify them, and together they cost less.
    #[must_use]
    pub fn would_prepare(&self, unverified: &[(ReplicaId, Prepare)]) -> bool {
        let (committed, accepted) = (self.chain.committed().seq, self.chain.accepted().seq);
        (committed.0 + 1..=accepted.0).map(Seq).any(|seq| {
            let Some(slot) = self.chain.slot(seq).filter(|slot| !slot.prepared) else { return false };
            let mut voters = self.votes.voters(Position { seq, digest: slot.digest });
            for (from, prepare) in unverified {
                if prepare.view == self.view && voted(prepare, seq) == Some(slot.digest) {
                    voters.insert(*from);
                }
            }
            voters.len() >= self.quorums.quorum
        })
    }

    /// Takes a vote for a range of slots.
    pub fn on_prepare(&mut self, message: Verified<Prepare>, out: &mut Vec<Output>) {
        if message.message().view != self.view {
            return;
        }
        let signer = message.signer();
        let prepare = Arc::new(message.into_message());
        let (above, upto) = (self.votes_above(), self.votes_end());
        if !self.votes.on_prepare(signer, &prepare, above, upto) {
            out.push(Output::Rejected(Reject::DoubleVote));
        }
        for offset in 0..prepare.digests.len() as u64 {
            self.check_prepared(prepare.lo.plus(offset));
        }
    }

    /// q valid PREPAREs with the same digest at a slot make it prepared (rule 3).
    pub(crate) fn check_prepared(&mut self, seq: Seq) {
        let Some(slot) = self.chain.slot(seq).filter(|slot| !slot.prepared) else { return };
        let position = Position { seq, digest: slot.digest };
        if seq <= self.chain.committed().seq || self.votes.count_prepares(position) < self.quorums.quorum {
            return;
        }
        self.chain.slot_mut(seq).expect("invariant: just found").prepared = true;
        if self.certificate.as_ref().map(PreparedCertificate::rank) < Some((self.view, seq)) {
            let votes = self.votes.prepares(position);
            assert!(votes.len() >= self.quorums.quorum, "a certificate has a quorum of votes");
            assert!(seq >= self.head.seq, "nothing is prepared below the head of its view");
            self.certificate =
                Some(PreparedCertificate { view: self.view, position, votes, recorded: false });
        }
    }

    /// Takes a COMMIT: it counts for its slot and every ancestor (rule 4).
    pub fn on_commit(&mut self, from: ReplicaId, message: &Commit, out: &mut Vec<Output>) {
        if message.view != self.view {
            return;
        }
        self.votes.on_commit(from, message.position);
        self.check_committed(out);
    }

    /// Rule 2: one signed PREPARE for the slots accepted since the last one, once they are durable with
    /// every batch that they name. The first of a view is for its head alone (view change rule 5).
    pub(crate) fn vote(&mut self, out: &mut Vec<Output>) {
        if self.lacks_batches() || !self.has_entered() || !self.is_voter() {
            return;
        }
        self.cast_again(out);
        if let Some(head) = self.head_vote.take()
            && self.chain.contains(self.head)
            && self.chain.slot(head).is_some()
            && head > self.checkpoints.stable().seq
        {
            let lo = self.chain.floor().seq.max(self.checkpoints.stable().seq).next().min(head);
            let lo = if lo < head && is_made(Mistake::VotesBelowHead) { lo } else { head };
            self.vote_for(lo, head, out);
        }
        // What a certificate covers needs no vote any more.
        self.voted = self.voted.max(self.chain.floor().seq);
        if self.voted < self.checkpoints.stable().seq && !is_made(Mistake::AcceptsBelowStable) {
            self.voted = self.checkpoints.stable().seq;
        }
        while self.voted < self.chain.accepted().seq {
            let lo = self.voted.next();
            let longest = self.voted.plus(quorate_types::limits::PROPOSALS_MAX);
            self.vote_for(lo, self.chain.accepted().seq.min(longest), out);
        }
    }

    pub(crate) fn vote_for(&mut self, lo: Seq, hi: Seq, out: &mut Vec<Output>) {
        let mut digests = Vec::new();
        let mut after = self.settled.clone();
        for seq in (lo.0..=hi.0).map(Seq) {
            let slot = self.chain.slot(seq).expect("invariant: slots above the floor are kept");
            digests.push(slot.digest);
            after.and_all(&slot.after);
        }
        if is_made(Mistake::VotesBeforeDurable) {
            after = After::nothing();
        }
        let message = Prepare { view: self.view, lo, digests, signature: Signature([0; 64]) };
        let message = Arc::new(self.keyring.sign_prepare(message).into_message());
        self.voted = self.voted.max(hi);
        self.cast.and_all(&after);
        self.own_prepares.push_back((Arc::clone(&message), after.clone()));
        out.push(Output::Send { to: Destination::All, message: Outgoing::Prepare(message), after });
    }

    /// Rule 3: the highest certificate of the tick goes to the journal; its COMMIT leaves when that is
    /// durable. A certificate of a view that this replica has left is kept, but yields no COMMIT (view change
    /// rule 6).
    pub(crate) fn send_commit(&mut self, out: &mut Vec<Output>) {
        if !self.is_voter() || (!self.has_entered() && !is_made(Mistake::CommitsInOldView)) {
            return;
        }
        let Some(certificate) = &self.certificate else { return };
        let (view, position) = (certificate.view, certificate.position);
        let sent = self.own_commit.as_ref().is_some_and(|(commit, _)| commit.position.seq >= position.seq);
        if view != self.view || sent || !self.chain.contains(position) {
            return;
        }
        self.record_certificate(out);
        let mut after = After::position(self.journal, self.lsn);
        // Votes of lower views, which may wait for batches, leave before anything is said in this one.
        after.and_all(&self.entered_after);
        if is_made(Mistake::CommitsBeforeDurable) {
            after = After::nothing();
        }
        let commit = Commit { view, position };
        self.own_commit = Some((commit.clone(), after.clone()));
        out.push(Output::Send { to: Destination::All, message: Outgoing::Commit(commit), after });
    }

    /// Writes the highest certificate down, if it is not yet.
    pub(crate) fn record_certificate(&mut self, out: &mut Vec<Output>) {
        let Some(certificate) = self.certificate.as_mut().filter(|certificate| !certificate.recorded) else {
            return;
        };
        certificate.recorded = true;
        let (view, position, votes) = (certificate.view, certificate.position, certificate.votes.clone());
        self.append(Fact::Prepared { view, position, votes }, out);
    }
}

/// The last slot that a PREPARE names.
pub(crate) fn last_slot(prepare: &Prepare) -> Seq {
    prepare.lo.plus(prepare.digests.len() as u64).previous()
}
