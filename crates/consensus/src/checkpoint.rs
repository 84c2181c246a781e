//! Checkpoint votes and certificates: q signatures over the state after a slot.

use crate::consensus::Consensus;
use crate::output::{Destination, Fact, Outgoing, Output};
use crate::verified::Verified;
use quorate_types::mistakes::is_made;
use quorate_types::{After, Digest, Mistake, ReplicaId, Seq, Signature};
use quorate_wire::Position;
use quorate_wire::message::{Checkpoint, CheckpointCertificate};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The votes of one replica that are kept; it votes in ascending order, so older ones are obsolete.
const VOTES_KEPT: usize = 4;

/// As many certified roots are kept for a replica whose own come late.
const CERTIFIED_ROOTS_MAX: usize = 64;

/// Checkpoint votes of all replicas, and the highest certificate.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    stable: Position,
    /// The slots after which the own state is durable and needed, from the one on that a restart would go on from.
    durable: BTreeSet<Seq>,
    /// Those that were last said to be needed.
    told: Vec<Seq>,
    certificate: Option<Arc<CheckpointCertificate>>,
    votes: BTreeMap<(Seq, ReplicaId), Checkpoint>,
    /// The roots that this replica has computed itself and that no certificate covers yet.
    own_roots: BTreeMap<Seq, (Position, Digest)>,
    /// The certified roots that wait for this replica's own, which may come more than one checkpoint later.
    certified_roots: BTreeMap<Seq, Digest>,
    /// This replica's highest vote, to send again while it is not certified.
    pub(crate) own: Option<Checkpoint>,
}

impl Checkpoints {
    pub(crate) fn new(genesis: Position) -> Self {
        Self {
            stable: genesis,
            durable: BTreeSet::from([genesis.seq]),
            told: Vec::new(),
            certificate: None,
            votes: BTreeMap::new(),
            own_roots: BTreeMap::new(),
            certified_roots: BTreeMap::new(),
            own: None,
        }
    }

    pub(crate) fn stable(&self) -> Position {
        self.stable
    }

    /// The slot that a restart would go on from: the newest whose state is durable here and not above what is certified.
    pub(crate) fn settled(&self) -> Seq {
        self.durable.range(..=self.stable.seq).next_back().copied().unwrap_or_default()
    }

    /// The present state is that after `seq`, and it is durable.
    pub(crate) fn begin_at(&mut self, seq: Seq) {
        self.durable = BTreeSet::from([seq]);
    }

    /// Forgets the states from which nobody will go on; those that are left, if that is news.
    ///
    /// All that this replica has voted for above what is certified are needed: votes that come late may certify any of
    /// them, and others may then have to take over just that one. The window bounds their number.
    fn needed(&mut self) -> Option<Vec<Seq>> {
        let settled = self.settled();
        if self.told.first() == Some(&settled) && self.durable.iter().eq(&self.told) {
            return None;
        }
        self.durable = self.durable.split_off(&settled);
        let mut above: Vec<Seq> = self.durable.range(settled.next()..).copied().collect();
        if above.len() > 2 && is_made(Mistake::GivesUpVotedStates) {
            let surplus = above.len() - 2;
            above.drain(..surplus).for_each(|seq| _ = self.durable.remove(&seq));
        }
        // Whoever began with a state that nobody has certified needs all that led to it, too.
        let needed: Vec<Seq> = std::iter::once(settled).chain(above).collect();
        (needed != self.told).then(|| {
            self.told.clone_from(&needed);
            needed
        })
    }

    /// What was known before a restart.
    pub(crate) fn restore(&mut self, certificate: Arc<CheckpointCertificate>) {
        self.stable = certificate.position;
        self.certified_roots.insert(certificate.position.seq, certificate.root);
        self.certificate = Some(certificate);
    }

    /// Whether a vote says something new. A replica votes once for each slot and in ascending order.
    fn is_news(&self, signer: ReplicaId, seq: Seq) -> bool {
        let of_signer = || self.votes.keys().filter(|(_, replica)| *replica == signer);
        let highest = of_signer().map(|(seq, _)| *seq).max();
        !self.votes.contains_key(&(seq, signer))
            && (of_signer().count() < VOTES_KEPT || highest.is_none_or(|highest| highest < seq))
    }

    pub(crate) fn certificate(&self) -> Option<&Arc<CheckpointCertificate>> {
        self.certificate.as_ref()
    }

    /// Whether an own vote still awaits its certificate.
    pub(crate) fn is_open(&self) -> bool {
        self.own.as_ref().is_some_and(|own| own.position.seq > self.stable.seq)
    }

    fn insert(&mut self, signer: ReplicaId, vote: Checkpoint) {
        self.votes.insert((vote.position.seq, signer), vote);
        let of_signer: Vec<Seq> =
            self.votes.keys().filter(|(_, replica)| *replica == signer).map(|(seq, _)| *seq).collect();
        if let Some(oldest) = of_signer.first()
            && of_signer.len() > VOTES_KEPT
        {
            self.votes.remove(&(*oldest, signer));
        }
    }

    /// A certificate for `seq` when `quorum` replicas voted for the same state.
    fn certify(&self, vote: &Checkpoint, quorum: usize) -> Option<CheckpointCertificate> {
        let seq = vote.position.seq;
        let signatures: Vec<(ReplicaId, Signature)> = self
            .votes
            .range((seq, ReplicaId(0))..=(seq, ReplicaId(u8::MAX)))
            .filter(|(_, other)| {
                (other.position, other.root, other.next_config)
                    == (vote.position, vote.root, vote.next_config)
            })
            .map(|((_, signer), other)| (*signer, other.signature))
            .collect();
        (signatures.len() >= quorum).then_some(CheckpointCertificate {
            position: vote.position,
            root: vote.root,
            next_config: vote.next_config,
            signatures,
        })
    }
}

impl Consensus {
    /// Takes the root of the state after an executed slot at which a checkpoint was due. That state is durable: no
    /// vote leaves before.
    pub fn on_root(&mut self, position: Position, root: Digest, out: &mut Vec<Output>) {
        self.checkpoints.own_roots.insert(position.seq, (position, root));
        self.compare_roots(out);
        self.checkpoints.durable.insert(position.seq);
        if position.seq <= self.checkpoints.stable.seq || !self.is_voter() {
            return;
        }
        let next_config = self.config.digest();
        let vote = Checkpoint { position, root, next_config, signature: Signature([0; 64]) };
        let vote = self.keyring.sign_checkpoint(vote).into_message();
        self.checkpoints.own = Some(vote.clone());
        let (message, after) = (Outgoing::Checkpoint(vote), After::nothing());
        out.push(Output::Send { to: Destination::All, message, after });
    }

    /// Whether a checkpoint vote is worth verifying.
    #[must_use]
    pub fn wants_checkpoint(&self, signer: ReplicaId, message: &Checkpoint) -> bool {
        let seq = message.position.seq;
        seq > self.checkpoints.stable.seq && seq <= self.window_end() && self.checkpoints.is_news(signer, seq)
    }

    /// Takes a checkpoint vote.
    pub fn on_checkpoint(&mut self, message: Verified<Checkpoint>, out: &mut Vec<Output>) {
        if !self.wants_checkpoint(message.signer(), message.message()) {
            return;
        }
        let signer = message.signer();
        let vote = message.into_message();
        self.checkpoints.insert(signer, vote.clone());
        if let Some(certificate) = self.checkpoints.certify(&vote, self.quorums.quorum) {
            self.set_stable(certificate, out);
        }
    }

    /// Whether a certificate is worth verifying.
    #[must_use]
    pub fn wants_certificate(&self, message: &CheckpointCertificate) -> bool {
        message.position.seq > self.checkpoints.stable.seq
    }

    /// Says which of the own durable states are needed, when that has changed.
    pub(crate) fn tell_of_states(&mut self, out: &mut Vec<Output>) {
        if let Some(needed) = self.checkpoints.needed() {
            let after = After::position(self.journal, self.lsn);
            out.push(Output::States { needed, after });
        }
    }

    /// Takes a certificate.
    pub fn on_certificate(&mut self, message: Verified<CheckpointCertificate>, out: &mut Vec<Output>) {
        if self.wants_certificate(message.message()) {
            self.set_stable(message.into_message(), out);
        }
    }

    pub(crate) fn set_stable(&mut self, certificate: CheckpointCertificate, out: &mut Vec<Output>) {
        let certificate = Arc::new(certificate);
        self.checkpoints.stable = certificate.position;
        self.append(Fact::Stable(Arc::clone(&certificate)), out);
        self.checkpoints.certified_roots.insert(certificate.position.seq, certificate.root);
        if self.checkpoints.certified_roots.len() > CERTIFIED_ROOTS_MAX {
            self.checkpoints.certified_roots.pop_first();
        }
        self.checkpoints.certificate = Some(certificate);
        let stable = self.checkpoints.stable.seq;
        self.checkpoints.votes.retain(|(seq, _), _| *seq > stable);
        self.compare_roots(out);
    }

    /// A state or a chain that differs from a certified one halts the replica with both named.
    fn compare_roots(&mut self, out: &mut Vec<Output>) {
        let Some(certificate) = self.checkpoints.certificate.clone() else { return };
        let certified = certificate.position;
        if certified.seq <= self.chain.committed().seq
            && let Some(digest) = self.chain.digest(certified.seq)
            && digest != certified.digest
        {
            out.push(Output::Halt(format!(
                "header {} is {digest} here and {} in a checkpoint certificate",
                certified.seq, certified.digest
            )));
        }
        let uncovered = self.checkpoints.own_roots.split_off(&certified.seq.next());
        for (seq, (_, root)) in std::mem::replace(&mut self.checkpoints.own_roots, uncovered) {
            if let Some(proven) = self.checkpoints.certified_roots.get(&seq).filter(|proven| **proven != root)
            {
                out.push(Output::Halt(format!(
                    "the state after {seq} has root {root} here and {proven} in a checkpoint certificate"
                )));
            }
            // Own roots come in order: what is certified below this one has been compared, or never will be.
            self.checkpoints.certified_roots = self.checkpoints.certified_roots.split_off(&seq.next());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_states_are_needed_that_may_be_certified_yet() {
        let mut checkpoints = Checkpoints::new(Position::default());
        checkpoints.durable.extend([5, 10, 15, 20].map(Seq));
        assert_eq!(checkpoints.needed(), Some([0, 5, 10, 15, 20].map(Seq).to_vec()));
        assert_eq!(checkpoints.needed(), None, "that is no news");
        checkpoints.stable.seq = Seq(10);
        assert_eq!(checkpoints.needed(), Some([10, 15, 20].map(Seq).to_vec()));
        checkpoints.stable.seq = Seq(17);
        assert_eq!(
            checkpoints.needed(),
            Some([15, 20].map(Seq).to_vec()),
            "a restart goes on from one below"
        );
    }
}
