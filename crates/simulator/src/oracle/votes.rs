//! Votes as they leave a replica: one per (view, seq), ranges that never overlap, certificates made of votes
//! that were really cast.

use super::Violation;
use quorate_types::{Digest, Quorums, ReplicaId, ReplicaSet, Seq, View};
use quorate_wire::Position;
use quorate_wire::message::{Commit, PrePrepare, Prepare};
use std::collections::BTreeMap;
use std::sync::Arc;

const ORACLE: &str = "vote once";

/// What one replica has voted for.
#[derive(Debug, Default)]
struct Cast {
    /// PREPARE: the first slot of the range and the digest, by slot.
    prepared: BTreeMap<(View, Seq), (Seq, Digest)>,
    committed: BTreeMap<(View, Seq), Digest>,
    checkpoints: BTreeMap<Seq, Digest>,
}

/// All votes of all replicas.
#[derive(Debug)]
pub struct Votes {
    quorums: Quorums,
    cast: Vec<Cast>,
    proposed: BTreeMap<(View, Seq), Digest>,
}

impl Votes {
    /// Nobody has voted yet.
    #[must_use]
    pub fn new(quorums: Quorums) -> Self {
        let cast = (0..quorums.replicas).map(|_| Cast::default()).collect();
        Self { quorums, cast, proposed: BTreeMap::new() }
    }

    /// A proposal leaves the primary, or is passed on.
    pub fn on_pre_prepare(&mut self, message: &PrePrepare) -> Result<(), Violation> {
        let (view, seq, digest) = (message.view, message.header.seq, message.header.digest());
        let first = *self.proposed.entry((view, seq)).or_insert(digest);
        if first != digest {
            let text = format!("the primary proposed {first:?} and {digest:?} at ({view:?}, {seq:?})");
            return Err(Violation::new("equivocation", text));
        }
        Ok(())
    }

    /// A PREPARE of `replica` leaves it.
    pub fn on_prepare(&mut self, replica: ReplicaId, message: &Prepare) -> Result<(), Violation> {
        let (view, lo) = (message.view, message.lo);
        let cast = &mut self.cast[replica.index()].prepared;
        for (offset, digest) in (0..).zip(&message.digests) {
            let seq = lo.plus(offset);
            let (start, first) = *cast.entry((view, seq)).or_insert((lo, *digest));
            if first != *digest {
                let text = format!("PREPARE for {first:?} and then {digest:?} at ({view:?}, {seq:?})");
                return Err(Violation::new(ORACLE, text));
            }
            if start != lo {
                let text =
                    format!("PREPARE ranges from {start:?} and from {lo:?} both name ({view:?}, {seq:?})");
                return Err(Violation::new(ORACLE, text));
            }
        }
        Ok(())
    }

    /// A COMMIT of `replica` leaves it.
    pub fn on_commit(&mut self, replica: ReplicaId, message: &Commit) -> Result<(), Violation> {
        let (view, position) = (message.view, message.position);
        let cast = &mut self.cast[replica.index()].committed;
        let first = *cast.entry((view, position.seq)).or_insert(position.digest);
        if first != position.digest {
            let (seq, digest) = (position.seq, position.digest);
            let text = format!("COMMIT for {first:?} and then {digest:?} at ({view:?}, {seq:?})");
            return Err(Violation::new(ORACLE, text));
        }
        Ok(())
    }

    /// A checkpoint vote of `replica` leaves it.
    pub fn on_checkpoint(&mut self, replica: ReplicaId, seq: Seq, root: Digest) -> Result<(), Violation> {
        let first = *self.cast[replica.index()].checkpoints.entry(seq).or_insert(root);
        if first != root {
            let text = format!("checkpoint votes for roots {first:?} and {root:?} after {seq:?}");
            return Err(Violation::new(ORACLE, text));
        }
        Ok(())
    }

    /// `replica` writes down a certificate. `replica`'s own vote may not have left yet.
    pub fn on_certificate(
        &self,
        replica: ReplicaId,
        view: View,
        position: Position,
        votes: &[(ReplicaId, Arc<Prepare>)],
    ) -> Result<(), Violation> {
        let mut signers = ReplicaSet::EMPTY;
        for (signer, vote) in votes {
            let offset =
                position.seq.0.checked_sub(vote.lo.0).and_then(|offset| usize::try_from(offset).ok());
            let named = offset.and_then(|offset| vote.digests.get(offset));
            let cast =
                self.cast.get(signer.index()).and_then(|cast| cast.prepared.get(&(view, position.seq)));
            let really = *signer == replica || cast.is_some_and(|(_, digest)| *digest == position.digest);
            if vote.view != view || named != Some(&position.digest) || !really {
                let text =
                    format!("a certificate for {position:?} with a vote that {signer:?} did not cast for it");
                return Err(Violation::new("certificates", text));
            }
            signers.insert(*signer);
        }
        if signers.len() < self.quorums.quorum || signers.len() != votes.len() {
            let text = format!(
                "a certificate for {position:?} with {} of {} votes",
                signers.len(),
                self.quorums.quorum
            );
            return Err(Violation::new("certificates", text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::Signature;

    fn prepare(lo: u64, digests: &[u8]) -> Prepare {
        let digests = digests.iter().map(|byte| Digest([*byte; 32])).collect();
        Prepare { view: View(0), lo: Seq(lo), digests, signature: Signature([0; 64]) }
    }

    fn position(seq: u64, byte: u8) -> Position {
        Position { seq: Seq(seq), digest: Digest([byte; 32]) }
    }

    #[test]
    fn a_second_vote_at_one_slot_is_seen_and_sending_again_is_not() {
        let mut votes = Votes::new(Quorums::of(4));
        votes.on_prepare(ReplicaId(1), &prepare(1, &[1, 2])).unwrap();
        votes.on_prepare(ReplicaId(1), &prepare(1, &[1, 2])).unwrap();
        votes.on_prepare(ReplicaId(1), &prepare(3, &[3])).unwrap();
        assert!(votes.on_prepare(ReplicaId(1), &prepare(3, &[4])).is_err());
        // The same digest in another range is a second vote too.
        assert!(votes.on_prepare(ReplicaId(1), &prepare(2, &[2])).is_err());
        votes.on_prepare(ReplicaId(2), &prepare(3, &[4])).unwrap();
    }

    #[test]
    fn two_commits_and_two_checkpoint_votes_are_seen() {
        let mut votes = Votes::new(Quorums::of(4));
        let commit = |byte| Commit { view: View(0), position: position(5, byte) };
        votes.on_commit(ReplicaId(0), &commit(1)).unwrap();
        assert!(votes.on_commit(ReplicaId(0), &commit(2)).is_err());
        votes.on_checkpoint(ReplicaId(0), Seq(8), Digest([1; 32])).unwrap();
        assert!(votes.on_checkpoint(ReplicaId(0), Seq(8), Digest([2; 32])).is_err());
    }

    #[test]
    fn certificates_need_a_quorum_of_votes_that_were_cast() {
        let mut votes = Votes::new(Quorums::of(4));
        for replica in 0..3 {
            votes.on_prepare(ReplicaId(replica), &prepare(1, &[1])).unwrap();
        }
        let certificate = |signers: &[u8]| -> Vec<(ReplicaId, Arc<Prepare>)> {
            signers.iter().map(|signer| (ReplicaId(*signer), Arc::new(prepare(1, &[1])))).collect()
        };
        let check = |signers: &[u8]| {
            votes.on_certificate(ReplicaId(0), View(0), position(1, 1), &certificate(signers))
        };
        check(&[0, 1, 2]).unwrap();
        assert!(check(&[0, 1]).is_err());
        assert!(check(&[0, 1, 1]).is_err());
        assert!(check(&[0, 1, 3]).is_err());
        // A vote for a descendant is no vote for its ancestor.
        let descendants = certificate(&[0, 1, 2]);
        assert!(votes.on_certificate(ReplicaId(0), View(0), position(0, 1), &descendants).is_err());
    }
}
