//! Votes as they leave a replica: one per (view, seq), ranges that never overlap, certificates made of votes
//! that were really cast.

use super::Violation;
use crate::ledger::Ledger;
use quorate_types::{Digest, Quorums, ReplicaId, ReplicaSet, Seq, View};
use quorate_wire::Position;
use quorate_wire::message::{Commit, NewView, PrePrepare, Prepare, ViewChange};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const ORACLE: &str = "vote once";

/// What one replica has voted for.
#[derive(Debug, Default)]
struct Cast {
    /// PREPARE: the first slot of the range and the digest, by slot. After a restart the ranges may be others.
    prepared: BTreeMap<(View, Seq), (Option<Seq>, Digest)>,
    committed: BTreeMap<(View, Seq), Digest>,
    checkpoints: BTreeMap<Seq, Digest>,
    /// The highest view that it has said anything in.
    spoke_in: View,
    /// The highest certificate that it has sent COMMIT for.
    certified: Option<(View, Seq)>,
    /// The views that it has entered, with their heads.
    entered: BTreeMap<View, Position>,
    /// The views whose end it has wished for.
    suspected: BTreeSet<View>,
    /// Whether it must never vote again.
    learner: bool,
}

impl Cast {
    fn vote(&self, what: &str) -> Result<(), Violation> {
        if self.learner {
            return Err(Violation::new("a learner never votes", format!("signs {what}")));
        }
        Ok(())
    }

    /// Something is said in `view`: then nothing may be said in a lower one any more.
    fn speak(&mut self, what: &str, view: View) -> Result<(), Violation> {
        self.vote(what)?;
        if view < self.spoke_in {
            let text = format!("{what} in {view:?} after {:?} was entered or waited for", self.spoke_in);
            return Err(Violation::new("no vote in a lower view", text));
        }
        self.spoke_in = view;
        Ok(())
    }
}

/// All votes of all replicas.
#[derive(Debug)]
pub struct Votes {
    /// How many make a certificate: any two quorums share an honest replica.
    quorum: usize,
    /// Who says what it likes.
    lying: ReplicaSet,
    cast: Vec<Cast>,
    proposed: BTreeMap<(View, Seq), Digest>,
    /// Where each view begins, as the first replica that entered it wrote down.
    heads: BTreeMap<View, Position>,
    new_views: BTreeMap<View, Digest>,
}

impl Votes {
    /// Nobody has voted yet.
    #[must_use]
    pub fn new(quorums: Quorums, lying: ReplicaSet) -> Self {
        // Reckoned here, and not by those who are judged.
        let quorum = (quorums.replicas + quorums.faults) / 2 + 1;
        let cast = (0..quorums.replicas).map(|_| Cast::default()).collect();
        let (proposed, heads, new_views) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { quorum, lying, cast, proposed, heads, new_views }
    }

    /// A replica must never vote again.
    pub fn on_learner(&mut self, replica: ReplicaId) {
        self.cast[replica.index()].learner = true;
    }

    /// A replica starts again.
    pub fn on_restart(&mut self, replica: ReplicaId) {
        self.cast[replica.index()].prepared.values_mut().for_each(|(start, _)| *start = None);
    }

    /// A suspicion of `replica` leaves it. A learner may say again what others have shown it that it had said.
    pub fn on_suspect(&mut self, replica: ReplicaId, view: View) -> Result<(), Violation> {
        let cast = &mut self.cast[replica.index()];
        if cast.suspected.insert(view) {
            cast.vote("SUSPECT")?;
        }
        Ok(())
    }

    /// A NEW-VIEW leaves `replica`: its primary, or one that passes it on. There is one for each view.
    pub fn on_new_view(
        &mut self,
        replica: ReplicaId,
        primary: ReplicaId,
        message: &NewView,
    ) -> Result<(), Violation> {
        if self.lying.contains(primary) {
            return Ok(());
        }
        let digest = message.digest();
        if replica == primary && !self.new_views.contains_key(&message.view) {
            self.cast[replica.index()].vote("NEW-VIEW")?;
        }
        let first = *self.new_views.entry(message.view).or_insert(digest);
        if first != digest {
            let text = format!("two NEW-VIEWs of {:?}", message.view);
            return Err(Violation::new("one beginning of a view", text));
        }
        Ok(())
    }

    /// A proposal leaves the primary, or is passed on by `replica`.
    pub fn on_pre_prepare(
        &mut self,
        replica: ReplicaId,
        primary: ReplicaId,
        message: &PrePrepare,
    ) -> Result<(), Violation> {
        if self.lying.contains(primary) {
            return Ok(());
        }
        let (view, seq, digest) = (message.view, message.header.seq, message.header.digest());
        if replica == primary && !self.proposed.contains_key(&(view, seq)) {
            self.cast[replica.index()].vote("PRE-PREPARE")?;
        }
        let first = *self.proposed.entry((view, seq)).or_insert(digest);
        if first != digest {
            let text = format!("the primary proposed {first:?} and {digest:?} at ({view:?}, {seq:?})");
            return Err(Violation::new("equivocation", text));
        }
        Ok(())
    }

    /// A PREPARE of `replica` leaves it: it goes on from what the replica has voted for last in the view. Else its votes
    /// would stand for two chains there, and one quorum could prove each of them. Only what is `decided` may take the
    /// place of what was voted for.
    pub fn on_chain(
        &self,
        ledger: &Ledger,
        replica: ReplicaId,
        message: &Prepare,
        decided: impl Fn(Seq) -> Option<Position>,
    ) -> Result<(), Violation> {
        let (view, lo) = (message.view, message.lo);
        let cast = &self.cast[replica.index()].prepared;
        let before = cast.range((view, Seq(0))..(view, lo)).next_back();
        let (Some(((_, seq), (_, voted))), Some(first)) = (before, message.digests.first()) else {
            return Ok(());
        };
        let Some(headers) = ledger.headers_down(Position { seq: lo, digest: *first }, *seq) else {
            return Ok(());
        };
        let bottom = headers.last().map(|(_, header)| Position { seq: *seq, digest: header.parent });
        if bottom.is_some_and(|bottom| bottom.digest != *voted && decided(*seq) != Some(bottom)) {
            let text = format!("PREPARE from {lo:?} in {view:?} beside what it voted for at {seq:?}");
            return Err(Violation::new("one chain in a view", text));
        }
        Ok(())
    }

    /// A PREPARE of `replica` leaves it.
    pub fn on_prepare(&mut self, replica: ReplicaId, message: &Prepare) -> Result<(), Violation> {
        let (view, lo) = (message.view, message.lo);
        self.cast[replica.index()].speak("PREPARE", view)?;
        if let Some(head) = self.cast[replica.index()].entered.get(&view).filter(|head| lo < head.seq) {
            let text = format!("PREPARE from {lo:?} in {view:?}, which begins at {head:?}");
            return Err(Violation::new("votes from the head on", text));
        }
        let cast = &mut self.cast[replica.index()].prepared;
        for (offset, digest) in (0..).zip(&message.digests) {
            let seq = lo.plus(offset);
            let (start, first) = cast.entry((view, seq)).or_insert((None, *digest));
            let start = *start.get_or_insert(lo);
            if first != digest {
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
        let cast = &mut self.cast[replica.index()];
        cast.speak("COMMIT", view)?;
        cast.certified = cast.certified.max(Some((view, position.seq)));
        let cast = &mut cast.committed;
        let first = *cast.entry((view, position.seq)).or_insert(position.digest);
        if first != position.digest {
            let (seq, digest) = (position.seq, position.digest);
            let text = format!("COMMIT for {first:?} and then {digest:?} at ({view:?}, {seq:?})");
            return Err(Violation::new(ORACLE, text));
        }
        Ok(())
    }

    /// A VIEW-CHANGE of `replica` leaves it: it shows the highest certificate that the replica has sent COMMIT for,
    /// or a higher one.
    pub fn on_view_change(&mut self, replica: ReplicaId, message: &ViewChange) -> Result<(), Violation> {
        let cast = &mut self.cast[replica.index()];
        cast.speak("VIEW-CHANGE", message.new_view)?;
        let shown = message.prepared.as_ref().map(|found| (found.view, found.position.seq));
        if shown < cast.certified {
            let text = format!("shows {shown:?} as prepared, after COMMIT for {:?}", cast.certified);
            return Err(Violation::new("certificates", text));
        }
        // The wishes that it shows are out with it, its own included.
        let own = message.suspects.iter().filter(|(wisher, _)| *wisher == replica);
        cast.suspected.extend(own.map(|(_, suspect)| suspect.view));
        Ok(())
    }

    /// `replica` has durably written down that a view begins: at the same slot as everybody, however often. A primary that
    /// lies may begin it elsewhere for each.
    pub fn on_enter(
        &mut self,
        replica: ReplicaId,
        primary: ReplicaId,
        view: View,
        head: Position,
    ) -> Result<(), Violation> {
        let lies = self.lying.contains(primary);
        let first = if lies { head } else { *self.heads.entry(view).or_insert(head) };
        let before = self.cast[replica.index()].entered.insert(view, head);
        if first != head || before.is_some_and(|before| before != head) {
            let text = format!("enters {view:?} at {head:?}, before at {before:?}, others at {first:?}");
            return Err(Violation::new("one beginning of a view", text));
        }
        Ok(())
    }

    /// A checkpoint vote of `replica` leaves it.
    pub fn on_checkpoint(&mut self, replica: ReplicaId, seq: Seq, root: Digest) -> Result<(), Violation> {
        self.cast[replica.index()].vote("CHECKPOINT")?;
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
        if let Some(head) = self.heads.get(&view).filter(|head| position.seq < head.seq) {
            let text = format!("a certificate for {position:?} in {view:?}, which begins at {head:?}");
            return Err(Violation::new("certificates", text));
        }
        let mut signers = ReplicaSet::EMPTY;
        for (signer, vote) in votes {
            let offset =
                position.seq.0.checked_sub(vote.lo.0).and_then(|offset| usize::try_from(offset).ok());
            let named = offset.and_then(|offset| vote.digests.get(offset));
            let cast =
                self.cast.get(signer.index()).and_then(|cast| cast.prepared.get(&(view, position.seq)));
            let really = *signer == replica
                || self.lying.contains(*signer)
                || cast.is_some_and(|(_, digest)| *digest == position.digest);
            if vote.view != view || named != Some(&position.digest) || !really {
                let text =
                    format!("a certificate for {position:?} with a vote that {signer:?} did not cast for it");
                return Err(Violation::new("certificates", text));
            }
            signers.insert(*signer);
        }
        if signers.len() < self.quorum || signers.len() != votes.len() {
            let text =
                format!("a certificate for {position:?} with {} of {} votes", signers.len(), self.quorum);
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
        let mut votes = Votes::new(Quorums::of(4), ReplicaSet::EMPTY);
        votes.on_prepare(ReplicaId(1), &prepare(1, &[1, 2])).unwrap();
        votes.on_prepare(ReplicaId(1), &prepare(1, &[1, 2])).unwrap();
        votes.on_prepare(ReplicaId(1), &prepare(3, &[3])).unwrap();
        assert!(votes.on_prepare(ReplicaId(1), &prepare(3, &[4])).is_err());
        // The same digest in another range is a second vote too.
        assert!(votes.on_prepare(ReplicaId(1), &prepare(2, &[2])).is_err());
        votes.on_prepare(ReplicaId(2), &prepare(3, &[4])).unwrap();
    }

    #[test]
    fn a_vote_in_a_view_that_was_left_is_seen() {
        let mut votes = Votes::new(Quorums::of(4), ReplicaSet::EMPTY);
        let change = |new_view| ViewChange {
            new_view: View(new_view),
            stable: None,
            prepared: None,
            suspects: vec![],
            proposals: vec![],
            signature: Signature([0; 64]),
        };
        votes.on_prepare(ReplicaId(1), &prepare(1, &[1])).unwrap();
        votes.on_view_change(ReplicaId(1), &change(1)).unwrap();
        assert!(votes.on_prepare(ReplicaId(1), &prepare(2, &[2])).is_err());
        let commit = Commit { view: View(0), position: position(1, 1) };
        assert!(votes.on_commit(ReplicaId(1), &commit).is_err());
        // A certificate that was sent COMMIT for must be shown.
        votes.on_commit(ReplicaId(2), &commit).unwrap();
        assert!(votes.on_view_change(ReplicaId(2), &change(1)).is_err());
    }

    #[test]
    fn a_view_begins_once_and_votes_and_certificates_begin_at_its_head() {
        let mut votes = Votes::new(Quorums::of(4), ReplicaSet::EMPTY);
        votes.on_enter(ReplicaId(0), ReplicaId(1), View(1), position(3, 3)).unwrap();
        votes.on_enter(ReplicaId(1), ReplicaId(1), View(1), position(3, 3)).unwrap();
        // Saying so again, to let go of older records, is no second beginning.
        votes.on_enter(ReplicaId(1), ReplicaId(1), View(1), position(3, 3)).unwrap();
        assert!(votes.on_enter(ReplicaId(1), ReplicaId(1), View(1), position(3, 4)).is_err());
        assert!(votes.on_enter(ReplicaId(2), ReplicaId(1), View(1), position(4, 4)).is_err());
        let below = Prepare { view: View(1), ..prepare(2, &[2, 3]) };
        assert!(votes.on_prepare(ReplicaId(0), &below).is_err());
        let cast: Vec<_> = (0..3).map(|id| (ReplicaId(id), Arc::new(below.clone()))).collect();
        assert!(votes.on_certificate(ReplicaId(0), View(1), position(2, 2), &cast).is_err());
    }

    #[test]
    fn two_commits_and_two_checkpoint_votes_are_seen() {
        let mut votes = Votes::new(Quorums::of(4), ReplicaSet::EMPTY);
        let commit = |byte| Commit { view: View(0), position: position(5, byte) };
        votes.on_commit(ReplicaId(0), &commit(1)).unwrap();
        assert!(votes.on_commit(ReplicaId(0), &commit(2)).is_err());
        votes.on_checkpoint(ReplicaId(0), Seq(8), Digest([1; 32])).unwrap();
        assert!(votes.on_checkpoint(ReplicaId(0), Seq(8), Digest([2; 32])).is_err());
    }

    #[test]
    fn certificates_need_a_quorum_of_votes_that_were_cast() {
        let mut votes = Votes::new(Quorums::of(4), ReplicaSet::EMPTY);
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
