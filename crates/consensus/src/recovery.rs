//! Coming back (DESIGN section 5): from the durable prefix of the own journal, or from a state that others have
//! certified.
//!
//! What a replica may say after a restart is exactly what its disk remembers: the highest view that it has left or
//! entered, the chain as it was accepted there, the slots that it wrote down to vote for, and its highest prepared
//! certificate. It works from a floor, the position of a durable checkpoint of its own; what is below is in the state.

use crate::board::Marks;
use crate::chain::{Chain, PreparedCertificate, Slot};
use crate::claims::Target;
use crate::consensus::Consensus;
use crate::output::{Destination, Fact, Outgoing, Output};
use crate::verified::Verified;
use crate::view_change::{Pending, Standing};
use crate::votes::Votes;
use quorate_types::mistakes::is_made;
use quorate_types::{
    After, ClusterConfig, Digest, JournalId, LaneId, Lsn, Mistake, Nanoseconds, ReplicaId, Seq, SigningKey,
    View,
};
use quorate_wire::message::CheckpointCertificate;
use quorate_wire::{Header, LaneTip, Position, SuspectReason};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Whether a replica signs statements of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voting {
    /// It does.
    Voter,
    /// It signs none: its disk may have forgotten what it has signed before. It follows the others, executes, serves
    /// and proves.
    Learner,
}

#[derive(Debug)]
struct Accept {
    lsn: Lsn,
    view: View,
    position: Position,
    header: Arc<Header>,
    voted: bool,
}

/// What the journal remembers above a floor, gathered fact by fact in the order of their log positions. Facts that
/// were written again when the journal was trimmed change nothing.
#[derive(Debug)]
pub struct Recovered {
    floor: Position,
    timestamp: Nanoseconds,
    marks: Marks,
    left: View,
    entered: Option<(View, Digest, Position)>,
    accepts: Vec<Accept>,
    certificate: Option<PreparedCertificate>,
    stable: Option<Arc<CheckpointCertificate>>,
    /// What trimmed facts have left behind: the view, what was voted for in it, and what was stable.
    promised: Option<(View, Option<Position>, Seq)>,
}

impl Recovered {
    /// Nothing is remembered above `floor`, the position of a durable checkpoint whose header has `timestamp`, and
    /// after which the lanes stand at `tips`.
    #[must_use]
    pub fn new(floor: Position, timestamp: Nanoseconds, tips: impl IntoIterator<Item = LaneTip>) -> Self {
        Self {
            floor,
            timestamp,
            marks: marks_of(tips),
            left: View(0),
            entered: None,
            accepts: Vec::new(),
            certificate: None,
            stable: None,
            promised: None,
        }
    }

    /// Takes the next fact of the journal.
    pub fn fold(&mut self, lsn: Lsn, fact: Fact) {
        match fact {
            Fact::Accepted { view, header, voted } => {
                if header.seq > self.floor.seq && !is_made(Mistake::ForgetsVotes) {
                    let position = Position { seq: header.seq, digest: header.digest() };
                    self.accepts.push(Accept { lsn, view, position, header, voted });
                }
            }
            Fact::Prepared { view, position, votes } => {
                let found = PreparedCertificate { view, position, votes, recorded: true };
                let known = self.certificate.as_ref();
                let mut is_higher = known.map(PreparedCertificate::rank) < Some(found.rank());
                if is_made(Mistake::ComparesSlotsAlone) {
                    is_higher = known.map(|known| known.position.seq) < Some(position.seq);
                }
                if is_higher && !is_made(Mistake::ForgetsCertificate) {
                    self.certificate = Some(found);
                }
            }
            Fact::Stable(certificate) => {
                let known = self.stable.as_ref().map(|known| known.position.seq);
                if known < Some(certificate.position.seq) {
                    self.stable = Some(certificate);
                }
            }
            Fact::Promised { view, voted, stable } => {
                // By view first: a vote of a lower view binds nobody in a higher one.
                let rank = |(view, voted): (View, Option<Position>)| (view, voted.map(|voted| voted.seq));
                let known = self.promised.map(|(view, voted, _)| rank((view, voted)));
                if known.is_none_or(|known| known <= rank((view, voted))) {
                    self.promised = Some((view, voted, stable.seq));
                }
            }
            Fact::ViewState { view } => self.left = self.left.max(view),
            Fact::EnterView { view, new_view, head } => {
                let is_higher = self.entered.is_none_or(|(known, ..)| known < view);
                if is_higher && !is_made(Mistake::ForgetsEnterView) {
                    self.entered = Some((view, new_view, head));
                }
            }
        }
    }

    /// The accepted chain of `view` above the floor, ascending: from the last header accepted in it down by digest,
    /// through headers accepted in any view. Accepts of lower views beyond the head are void.
    fn chain(&self, view: View, head: Position) -> Vec<&Accept> {
        let by_digest: BTreeMap<Digest, &Accept> =
            self.accepts.iter().map(|accept| (accept.position.digest, accept)).collect();
        let last = self.accepts.iter().rfind(|accept| accept.view == view);
        let mut at = last.map_or(head, |accept| accept.position);
        let mut found = Vec::new();
        while at.seq > self.floor.seq
            && let Some(accept) = by_digest.get(&at.digest)
        {
            found.push(*accept);
            at = Position { seq: at.seq.previous(), digest: accept.header.parent };
        }
        if at != self.floor {
            // The floor lies off that chain, or above it: a state was installed since.
            found.clear();
        }
        found.reverse();
        found
    }
}

fn marks_of(tips: impl IntoIterator<Item = LaneTip>) -> Marks {
    let mut marks = Marks::new();
    for tip in tips {
        marks.insert(tip.lane, tip.mark());
    }
    marks
}

impl Consensus {
    /// A replica that goes on where the durable prefix of its journal ends, at `last_lsn`. All of that counts as
    /// durable: the caller's gate must know. The caller then gives [`Consensus::on_root`] the root of the state at
    /// the floor once more, as the vote for that checkpoint may have been lost.
    #[must_use]
    pub fn recover(
        config: Arc<ClusterConfig>,
        me: ReplicaId,
        key: SigningKey,
        journal: JournalId,
        recovered: Recovered,
        last_lsn: Lsn,
        voting: Voting,
    ) -> Self {
        let mut consensus = Self::new(config, me, key, journal);
        consensus.voting = voting;
        consensus.lsn = last_lsn;
        let (view, digest, head) = recovered.entered.unwrap_or((View(0), Digest::ZERO, consensus.head));
        consensus.view = view;
        consensus.head = head;
        consensus.new_view_digest = digest;
        consensus.votes = Votes::new(view, consensus.config.members().len());
        consensus.restore_chain(&recovered, view, head);
        consensus.certificate = recovered.certificate;
        if let Some(certificate) = recovered.stable {
            consensus.checkpoints.restore(certificate);
        }
        consensus.checkpoints.begin_at(recovered.floor.seq);
        if consensus.is_voter() {
            consensus.stand(recovered.left);
        }
        consensus
    }

    /// Takes up what was voted for in `view`, as far as it is written down, whether it is on the chain or not.
    fn restore_promises(&mut self, recovered: &Recovered, view: View) {
        if let Some((of_view, voted, stable)) = recovered.promised
            && !is_made(Mistake::ForgetsPromise)
        {
            self.promised = stable;
            self.ballot = voted.filter(|_| of_view == view);
        }
        for accept in recovered.accepts.iter().filter(|accept| accept.view == view && accept.voted) {
            if self.ballot.is_none_or(|highest| highest.seq <= accept.position.seq) {
                self.ballot = Some(accept.position);
            }
            if !self.chain.contains(accept.position) {
                continue;
            }
            if let Some(slot) = self.chain.slot_mut(accept.position.seq) {
                slot.voted = true;
            }
            if self.is_voter() {
                self.recast.insert(accept.position.seq, accept.position.digest);
            }
        }
        self.voted = self.voted.max(self.ballot.map_or(Seq(0), |ballot| ballot.seq));
    }

    fn restore_chain(&mut self, recovered: &Recovered, view: View, head: Position) {
        self.chain = Chain::new(recovered.floor, recovered.timestamp);
        self.executed = recovered.floor;
        self.committed_marks = recovered.marks.clone();
        self.board.rebase(&recovered.marks);
        for accept in recovered.chain(view, head) {
            let (header, digest) = (Arc::clone(&accept.header), accept.position.digest);
            self.chain.push(Slot::new(header, digest, accept.lsn, After::nothing()));
        }
        // Votes in the view begin at its head, whether that is here or not.
        self.voted = self.chain.accepted().seq.max(Seq(head.seq.0.saturating_sub(1)));
        for accept in &recovered.accepts {
            if !self.chain.contains(accept.position) {
                let header = Arc::clone(&accept.header);
                let certified = recovered.certificate.as_ref().map(|found| found.position);
                self.spare.insert(header, Some(accept.lsn), certified);
            }
        }
        self.restore_promises(recovered, view);
        self.recompute_marks();
        self.lacking = Some(self.uncommitted_tips());
    }

    /// The highest view that was left or entered is the one to be in. Its primary, having restarted, is none there.
    fn stand(&mut self, left: View) {
        if left > self.view && !is_made(Mistake::ForgetsViewState) {
            self.wish(left.previous(), SuspectReason::Joined);
            let message = Arc::new(self.view_change(Target { claimed: left, view: left }));
            let pending = Pending { target: left, message, after: After::nothing() };
            self.standing = Standing::Pending(pending);
            self.announce = true;
        }
        if self.lsn == Lsn(0) {
            self.announce = true;
        } else if self.config.primary(self.view()) == self.me {
            self.restarted = Some(self.view());
        }
    }

    /// After a restart, what is waited for is said again. On an empty journal the first view begins like any other: with
    /// a record, before which its primary proposes nothing. So who finds an empty journal has not said anything yet.
    pub(crate) fn announce(&mut self, out: &mut Vec<Output>) {
        if !std::mem::take(&mut self.announce) {
            return;
        }
        match &self.standing {
            Standing::Pending(Pending { message, after, .. }) => {
                let (message, after) = (Outgoing::ViewChange(Arc::clone(message)), after.clone());
                out.push(Output::Send { to: Destination::All, message, after });
            }
            Standing::Entered => {
                let (view, new_view, head) = (self.view, Digest::ZERO, self.head);
                self.entered_after = self.append(Fact::EnterView { view, new_view, head }, out);
            }
        }
    }

    /// Signs the own PREPAREs of this view again, for exactly the slots that were written down to be voted for and
    /// are still on the chain.
    pub(crate) fn cast_again(&mut self, out: &mut Vec<Output>) {
        let slots = std::mem::take(&mut self.recast);
        let mut runs: Vec<(Seq, Seq)> = Vec::new();
        for (seq, digest) in slots {
            let is_covered = seq <= self.checkpoints.stable().seq;
            if is_covered || self.chain.slot(seq).is_none_or(|slot| slot.digest != digest) {
                continue;
            }
            match runs.last_mut() {
                Some((lo, hi))
                    if hi.next() == seq && seq.since(*lo) < quorate_types::limits::PROPOSALS_MAX =>
                {
                    *hi = seq;
                }
                _ => runs.push((seq, seq)),
            }
        }
        for (lo, hi) in runs {
            self.vote_for(lo, hi, out);
        }
    }

    /// From now on this replica signs nothing: it cannot know any more what it has signed.
    pub fn set_learner(&mut self) {
        self.voting = Voting::Learner;
        self.standing = Standing::Entered;
        self.head_vote = None;
        self.recast.clear();
        self.own_prepares.clear();
        self.own_commit = None;
        self.checkpoints.own = None;
    }

    /// A state was taken over whole from others: that after `position`, which a checkpoint certificate proves, whose
    /// header has `timestamp`, and after which the lanes stand at `tips`. It is durable, so what the journal has up
    /// to there is not needed any more.
    ///
    /// # Panics
    /// When no certificate for that position or a later one is known: nothing else is ever installed.
    pub fn install(
        &mut self,
        position: Position,
        timestamp: Nanoseconds,
        tips: impl IntoIterator<Item = LaneTip>,
    ) {
        assert!(position.seq <= self.checkpoints.stable().seq, "a state that nobody has certified");
        if position.seq <= self.chain.committed().seq {
            // What is committed above it could not be executed without it: the lanes go on from its tips.
            let marks = marks_of(tips);
            self.board.raise(&marks);
            self.missing.retain(|lane, tip| marks.get(lane).is_none_or(|mark| mark.upto < tip.upto));
            return;
        }
        let certified = self.certificate.as_ref().map(|found| found.position);
        let mut gone = Vec::new();
        for slot in self.chain.install(position, timestamp) {
            gone.push(Position { seq: slot.header.seq, digest: slot.digest });
            self.spare.insert(slot.header, Some(slot.lsn), certified);
        }
        gone.retain(|slot| slot.seq > position.seq);
        self.stop_leading_without(&gone);
        let seq = position.seq;
        self.spare.forget(seq);
        self.votes.uncover(seq);
        self.votes.forget(seq);
        self.committed_marks = marks_of(tips);
        self.board.rebase(&self.committed_marks);
        self.recompute_marks();
        self.settled = After::nothing();
        self.missing.clear();
        self.lacking = Some(self.uncommitted_tips());
        self.pending = self.pending.split_off(&seq.next());
        self.recast = self.recast.split_off(&seq.next());
        self.voted = self.voted.max(self.chain.accepted().seq);
        self.executed = position;
        self.checkpoints.begin_at(seq);
    }

    /// The tips that uncommitted headers on the chain name, whether held or not.
    fn uncommitted_tips(&self) -> BTreeMap<LaneId, LaneTip> {
        let mut tips = BTreeMap::new();
        let mut seq = self.chain.committed().seq.next();
        while let Some(slot) = self.chain.slot(seq) {
            tips.extend(slot.header.cut.iter().map(|tip| (tip.lane, *tip)));
            seq = seq.next();
        }
        tips
    }

    /// The highest prepared certificate, which travels with a state that is given to others.
    #[must_use]
    pub fn prepared_certificate(&self) -> Option<quorate_wire::PreparedCertificate> {
        self.certificate.as_ref().map(PreparedCertificate::to_wire)
    }

    /// Takes a prepared certificate that came with a state: it is kept if it is higher than the own one, as it may
    /// prove something that must not be forgotten.
    pub fn on_prepared_certificate(
        &mut self,
        message: Verified<quorate_wire::PreparedCertificate>,
        out: &mut Vec<Output>,
    ) {
        let quorate_wire::PreparedCertificate { view, position, votes } = message.into_message();
        let votes = votes.into_iter().map(|(signer, vote)| (signer, Arc::new(vote))).collect();
        let found = PreparedCertificate { view, position, votes, recorded: false };
        if self.certificate.as_ref().map(PreparedCertificate::rank) < Some(found.rank()) {
            self.certificate = Some(found);
            self.record_certificate(out);
        }
    }

    /// What lies at `lsn` of the journal cannot be read any more: a start that needed it could not know what this replica has
    /// signed. So all that is needed of the journal is written again, and then nothing before that is needed; where that was
    /// done, nothing follows.
    pub fn on_lost(&mut self, lsn: Lsn) {
        self.rewrite_due |= lsn > self.released;
    }

    /// Releases what the journal need not remember, when the own durable checkpoint is certified or a certified one
    /// is durable: the few facts that live longer are written again, and what comes before the first fact that is
    /// still needed may go once they are durable.
    pub(crate) fn trim_journal(&mut self, out: &mut Vec<Output>) {
        let settled = self.checkpoints.settled();
        // Nothing is trimmed before there is a certified state to go on from. The first one is not far.
        let rewrites = self.rewrite_due && settled > Seq(0);
        if settled <= self.trimmed && !rewrites {
            return;
        }
        self.trimmed = settled;
        let mut needed = self.lsn.next();
        if rewrites {
            self.rewrite_due = false;
            self.record_headers(settled, out);
        }
        if let Standing::Pending(Pending { target, .. }) = &self.standing {
            self.append(Fact::ViewState { view: *target }, out);
        }
        if self.view > View(0) {
            let (view, new_view, head) = (self.view, self.new_view_digest, self.head);
            self.append(Fact::EnterView { view, new_view, head }, out);
        }
        let covered = self.certificate.as_ref().is_some_and(|found| found.position.seq <= settled);
        if covered && is_made(Mistake::DropsCertificateBelowStable) {
            self.certificate = None;
        }
        if let Some(certificate) = &mut self.certificate {
            certificate.recorded = false;
            self.record_certificate(out);
        }
        if let Some(certificate) = self.checkpoints.certificate().cloned() {
            self.append(Fact::Stable(certificate), out);
        }
        self.record_promises(out);
        let after = After::position(self.journal, self.lsn);
        needed = self.chain.lowest_lsn_above(settled).into_iter().fold(needed, Lsn::min);
        needed = self.spare.lowest_lsn().into_iter().fold(needed, Lsn::min);
        if needed > Lsn(1) {
            self.released = needed.previous();
            out.push(Output::Trim { upto: self.released, after });
        }
    }

    /// Writes the headers again that a restart needs: those above `settled`, and those that are kept aside.
    ///
    /// A restart takes the last one of the view for the end of the own chain, so the chain is written whole, and the others
    /// before it and as those of a lower view, where there is one.
    fn record_headers(&mut self, settled: Seq, out: &mut Vec<Output>) {
        let below = self.view.previous();
        for position in self.spare.recorded() {
            let Some(header) = self.spare.get(position).cloned() else { continue };
            self.append(Fact::Accepted { view: below, header, voted: false }, out);
            self.spare.moved(position, self.lsn);
        }
        let mut seq = settled.max(self.chain.floor().seq).next();
        while let Some(slot) = self.chain.slot(seq) {
            let (view, header, voted) = (self.view, Arc::clone(&slot.header), slot.voted);
            self.append(Fact::Accepted { view, header, voted }, out);
            let lsn = self.lsn;
            self.chain.slot_mut(seq).expect("invariant: just found").lsn = lsn;
            seq = seq.next();
        }
    }

    /// What this replica is bound by, in words: for the one who inspects a journal, and for tests.
    #[must_use]
    pub fn promises(&self) -> String {
        let (view, entered) = (self.view(), self.has_entered());
        let certificate = self.certificate.as_ref().map(|found| (found.view, found.position));
        let voted: Vec<(Seq, String)> =
            self.recast.iter().map(|(seq, digest)| (*seq, digest.short())).collect();
        format!(
            "view {view}, entered {entered}, last entered {} at {:?}; accepted {:?}; votes up to {} are cast, {voted:?} \
             on this chain; prepared {certificate:?}; stable {:?}",
            self.view,
            self.head,
            self.chain.accepted(),
            self.voted,
            self.checkpoints.stable(),
        )
    }
}
