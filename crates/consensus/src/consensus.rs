//! The state of one replica, and the order in which a tick does its work.

use crate::board::{Board, Marks, advance};
use crate::chain::{Chain, PreparedCertificate, Slot};
use crate::checkpoint::Checkpoints;
use crate::claims::ViewClaims;
use crate::header_fetches::HeaderFetches;
use crate::new_view::Candidate;
use crate::output::{Fact, Output};
use crate::proposals::Waiting;
use crate::recovery::Voting;
use crate::spare::SpareHeaders;
use crate::suspicion::Suspicion;
use crate::sync::Sync;
use crate::verified::{Keyring, Verified};
use crate::view_change::{Change, Standing};
use crate::votes::Votes;
use crate::voting::last_slot;
use quorate_types::{
    After, ClusterConfig, Digest, JournalId, LaneId, LaneUpdate, Lsn, Nanoseconds, Quorums, ReplicaId, Seq,
    SigningKey, Tuning, View,
};
use quorate_wire::message::{Commit, NewView, PrePrepare, Prepare};
use quorate_wire::{Header, LaneTip, Position, header};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// How far this replica is; all on its own chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positions {
    /// The highest accepted slot.
    pub accepted: Position,
    /// The highest slot that is prepared in the present view, or the one before it begins.
    pub prepared: Position,
    /// The highest committed slot.
    pub committed: Position,
    /// The highest slot with a checkpoint certificate; its state may not be here yet.
    pub stable: Position,
    /// The highest executed slot, as the execution role last said.
    pub executed: Position,
}

/// One replica's part in consensus.
#[derive(Debug)]
pub struct Consensus {
    pub(crate) config: Arc<ClusterConfig>,
    pub(crate) keyring: Keyring,
    pub(crate) me: ReplicaId,
    pub(crate) quorums: Quorums,
    pub(crate) tuning: Tuning,
    /// The highest view that this replica has entered.
    pub(crate) view: View,
    /// Whether it works there, or waits for a higher one.
    pub(crate) standing: Standing,
    /// The slot at which votes begin in the view, and what its votes wait for beside their own.
    pub(crate) head: Position,
    pub(crate) entered_after: After,
    /// With what the view began, to be passed on until the next one.
    pub(crate) new_view: Option<Arc<NewView>>,
    /// A new view that is right and cannot be entered yet.
    pub(crate) candidate: Option<Candidate>,
    pub(crate) claims: ViewClaims,
    /// The highest view change of each replica.
    pub(crate) changes: Vec<Option<Change>>,
    pub(crate) suspicion: Suspicion,
    /// The view in which this replica has restarted, or lost what it had proposed: if it is its primary, it does nothing
    /// as such there.
    pub(crate) restarted: Option<View>,
    pub(crate) voting: Voting,
    /// Whether the own view change is to be sent again, as this replica has restarted.
    pub(crate) announce: bool,
    /// The digest with which the view has begun.
    pub(crate) new_view_digest: Digest,
    pub(crate) spare: SpareHeaders,
    pub(crate) journal: JournalId,
    pub(crate) lsn: Lsn,
    pub(crate) chain: Chain,
    pub(crate) votes: Votes,
    pub(crate) board: Board,
    /// Where the lanes stand after the accepted and after the committed slot.
    pub(crate) accepted_marks: Marks,
    pub(crate) committed_marks: Marks,
    /// Proposals that cannot be accepted yet, above the accepted slot.
    pub(crate) pending: BTreeMap<Seq, Verified<PrePrepare>>,
    /// The last view in which a proposal was refused.
    pub(crate) refused_in: Option<View>,
    /// When all batches that committed headers name are durable, as far as they are held.
    pub(crate) settled: After,
    /// Tips that committed headers name and that are not held.
    pub(crate) missing: BTreeMap<LaneId, LaneTip>,
    /// Tips that headers taken over from a new view name and that are not held; none when all of them are.
    pub(crate) lacking: Option<BTreeMap<LaneId, LaneTip>>,
    /// The highest slot that is voted for in this view, or passed over for good.
    pub(crate) voted: Seq,
    /// The head of the view while the vote for it is still to be cast.
    pub(crate) head_vote: Option<Seq>,
    /// The highest slot that is written down to be voted for in this view, whether it is on the own chain or not.
    pub(crate) ballot: Option<Position>,
    /// The slot up to which a certificate was known when the journal was trimmed last before a restart.
    pub(crate) promised: Seq,
    /// The slots of this view that were written down to be voted for before a restart.
    pub(crate) recast: BTreeMap<Seq, Digest>,
    /// The slot up to which the journal was trimmed last.
    pub(crate) trimmed: Seq,
    /// Whether something in the journal has gone bad, so that what is needed of it is to be written again.
    pub(crate) rewrite_due: bool,
    /// Up to here of the journal nothing is needed, or will be once what was written again is durable.
    pub(crate) released: Lsn,
    /// What the own PREPAREs have waited for, in whatever view they were cast.
    pub(crate) cast: After,
    /// Own PREPAREs of this view above the committed slot, to send again.
    pub(crate) own_prepares: VecDeque<(Arc<Prepare>, After)>,
    pub(crate) certificate: Option<PreparedCertificate>,
    pub(crate) own_commit: Option<(Commit, After)>,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) executed: Position,
    pub(crate) sync: Sync,
    pub(crate) header_fetches: HeaderFetches,
    pub(crate) status_due: Nanoseconds,
    pub(crate) now: Nanoseconds,
    /// When the header at the front may be looked at again because its time has come.
    pub(crate) clock_wait: Option<Nanoseconds>,
    /// What the front of `pending` waits for.
    pub(crate) waits_for: Option<Waiting>,
    /// The view up to which what lower ones have named was let go of, and whether others were told to be ahead.
    pub(crate) unnamed: View,
    pub(crate) told_behind: bool,
}

impl Consensus {
    /// A replica that has seen nothing yet. Facts go to `journal`.
    #[must_use]
    pub fn new(config: Arc<ClusterConfig>, me: ReplicaId, key: SigningKey, journal: JournalId) -> Self {
        let genesis = header::genesis(config.digest());
        Self {
            keyring: Keyring::new(Arc::clone(&config), me, key),
            me,
            quorums: config.quorums(),
            tuning: *config.tuning(),
            view: View(0),
            standing: Standing::Entered,
            head: genesis,
            entered_after: After::nothing(),
            new_view: None,
            candidate: None,
            claims: ViewClaims::new(config.members().len()),
            changes: vec![None; config.members().len()],
            suspicion: Suspicion::default(),
            restarted: None,
            voting: Voting::Voter,
            announce: false,
            new_view_digest: Digest::ZERO,
            spare: SpareHeaders::new(config.tuning().window),
            journal,
            lsn: Lsn(0),
            chain: Chain::new(genesis, Nanoseconds(0)),
            votes: Votes::new(View(0), config.members().len()),
            board: Board::new(&config),
            accepted_marks: Marks::new(),
            committed_marks: Marks::new(),
            pending: BTreeMap::new(),
            refused_in: None,
            settled: After::nothing(),
            missing: BTreeMap::new(),
            lacking: None,
            voted: Seq(0),
            head_vote: None,
            ballot: None,
            promised: Seq(0),
            recast: BTreeMap::new(),
            trimmed: Seq(0),
            rewrite_due: false,
            released: Lsn(0),
            cast: After::nothing(),
            own_prepares: VecDeque::new(),
            certificate: None,
            own_commit: None,
            checkpoints: Checkpoints::new(genesis),
            executed: genesis,
            sync: Sync::default(),
            header_fetches: HeaderFetches::new(config.tuning()),
            status_due: Nanoseconds(0),
            now: Nanoseconds(0),
            clock_wait: None,
            waits_for: None,
            unnamed: View(0),
            told_behind: false,
            config,
        }
    }

    /// The keys with which messages are verified before they come in.
    #[must_use]
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// How far this replica is.
    #[must_use]
    pub fn positions(&self) -> Positions {
        Positions {
            accepted: self.chain.accepted(),
            prepared: self.prepared(),
            committed: self.chain.committed(),
            stable: self.checkpoints.stable(),
            executed: self.executed,
        }
    }

    /// The highest slot prepared in this view. What was prepared in lower ones says nothing of the votes that are
    /// still needed here: then it is the slot before the view's head.
    fn prepared(&self) -> Position {
        match &self.certificate {
            // One that came with a state may lie above the own chain: its votes are still needed here.
            Some(found) if found.view == self.view && found.position.seq <= self.chain.accepted().seq => {
                found.position
            }
            _ if self.head.seq <= Seq(1) => header::genesis(self.config.digest()),
            _ => {
                let seq = self.head.seq.previous();
                let digest = self.chain.digest(seq).unwrap_or_default();
                Position { seq, digest }
            }
        }
    }

    /// Whether this replica signs statements of its own.
    #[must_use]
    pub fn is_voter(&self) -> bool {
        self.voting == Voting::Voter
    }

    /// The number of views that have failed since one of them brought progress; each doubles the patience with a
    /// primary.
    #[must_use]
    pub fn failed_views(&self) -> u64 {
        self.suspicion.failures()
    }

    /// The highest slot that `replica` is known to have committed.
    #[must_use]
    pub fn claim_of(&self, replica: ReplicaId) -> Seq {
        self.votes.peer(replica).claim.seq
    }

    /// The number of things kept, for audits of bounded memory.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.chain.len()
            + self.pending.len()
            + self.votes.len()
            + self.board.entries()
            + self.sync.len()
            + self.own_prepares.len()
            + self.spare.len()
    }

    /// The last of the committed headers that are being fetched.
    #[must_use]
    pub fn fetching_upto(&self) -> Option<Seq> {
        self.sync.target().map(|target| target.seq)
    }

    /// What this replica waits for, in words; empty when nothing is open.
    #[must_use]
    pub fn waiting(&self) -> String {
        let Positions { accepted, committed, stable, executed, .. } = self.positions();
        if let Some(target) = self.sync.target() {
            return format!("fetching headers {} to {}", committed.seq.next(), target.seq);
        }
        if let Some(tip) = self.missing.values().next() {
            return format!("fetching batches of lane {} up to {}", tip.lane, tip.upto);
        }
        if let Some(words) = self.waiting_for_view() {
            return words;
        }
        if self.chain.accepted().seq < self.bound() {
            let (next, bound) = (accepted.seq.next(), self.bound());
            return format!(
                "headers {next} to {bound}, on which this replica has voted or which are certified, and which it lacks"
            );
        }
        if accepted.seq > committed.seq {
            let votes = self.votes.count_prepares(accepted);
            let quorum = self.quorums.quorum;
            return format!("header {} has {votes} of {quorum} PREPAREs", accepted.seq);
        }
        if let Some(Waiting { tip, .. }) = self.waits_for {
            let (lane, upto) = (tip.lane, tip.upto);
            return format!(
                "header {} names batch {upto} of lane {lane}, which is not here or not known to be held by f+1 replicas",
                accepted.seq.next()
            );
        }
        if executed.seq < stable.seq {
            return format!("executing up to the stable checkpoint at {}", stable.seq);
        }
        String::new()
    }

    pub(crate) fn append(&mut self, fact: Fact, out: &mut Vec<Output>) -> After {
        self.lsn = self.lsn.next();
        out.push(Output::Append { lsn: self.lsn, fact });
        After::position(self.journal, self.lsn)
    }

    /// Takes the progress of a lane.
    pub fn on_lane_update(&mut self, update: &LaneUpdate) {
        self.board.on_update(update, self.view());
        if let Some(tip) = self.missing.get(&update.lane)
            && self.board.holds(tip)
        {
            let durable = self.board.settle(tip);
            self.settled.and_all(&durable);
            self.missing.remove(&update.lane);
        }
    }

    pub(crate) fn check_committed(&mut self, out: &mut Vec<Output>) {
        let chain = &self.chain;
        let seq = self.votes.committed(self.quorums.quorum, |position| chain.contains(position));
        self.commit_up_to(seq, out);
    }

    pub(crate) fn commit_up_to(&mut self, seq: Seq, out: &mut Vec<Output>) {
        if seq <= self.chain.committed().seq {
            return;
        }
        self.suspicion.on_commits(seq.since(self.chain.committed().seq), &self.tuning);
        while self.chain.committed().seq < seq {
            let (header, position) = self.chain.commit_next();
            advance(&mut self.committed_marks, &header);
            for tip in &header.cut {
                self.settle(tip, out);
            }
            out.push(Output::Committed { header, position });
        }
        self.votes.forget(seq);
        self.spare.forget(seq);
        // Others may still need this replica's PREPAREs for what is decided here.
        let recent = Seq(seq.0.saturating_sub(self.tuning.proposals_max));
        while self.own_prepares.front().is_some_and(|(prepare, _)| last_slot(prepare) <= recent) {
            self.own_prepares.pop_front();
        }
        self.pending = self.pending.split_off(&seq.next());
        self.voted = self.voted.max(recent);
    }

    pub(crate) fn settle(&mut self, tip: &LaneTip, out: &mut Vec<Output>) {
        if self.board.holds(tip) {
            let durable = self.board.settle(tip);
            self.settled.and_all(&durable);
            self.missing.remove(&tip.lane);
        } else {
            self.missing.insert(tip.lane, *tip);
            out.push(Output::Want(*tip));
        }
    }

    /// Takes uncommitted headers off the chain, above `seq`. They are kept: a later view may bring them back, and
    /// others may ask for them.
    pub(crate) fn set_aside_above(&mut self, seq: Seq) -> Vec<Position> {
        let certified = self.certificate.as_ref().map(|found| found.position);
        let mut gone = Vec::new();
        for slot in self.chain.truncate(seq) {
            gone.push(Position { seq: slot.header.seq, digest: slot.digest });
            self.spare.insert(slot.header, Some(slot.lsn), certified);
        }
        self.votes.uncover(seq);
        gone
    }

    /// These have left the chain: if what a primary has proposed in its view is not on it any more, it must not propose
    /// anything else there.
    pub(crate) fn stop_leading_without(&mut self, gone: &[Position]) {
        let is_own = self.config.primary(self.view) == self.me;
        if is_own && gone.iter().any(|position| !self.chain.contains(*position)) {
            self.restarted = Some(self.view);
        }
    }

    /// Puts headers that are known to be committed on the chain, above `attach`, in place of what was
    /// accepted there, and commits them. They are not voted for: f+1 replicas have committed them and say so.
    pub(crate) fn adopt(&mut self, attach: Seq, headers: Vec<Arc<Header>>, out: &mut Vec<Output>) {
        let gone = self.set_aside_above(attach);
        self.recompute_marks();
        let mut last = attach;
        for header in headers {
            last = header.seq;
            advance(&mut self.accepted_marks, &header);
            let digest = header.digest();
            let fact = Fact::Accepted { view: self.view, header: Arc::clone(&header), voted: false };
            let after = self.append(fact, out);
            let lsn = self.lsn;
            self.chain.push(Slot::new(header, digest, lsn, after));
        }
        self.stop_leading_without(&gone);
        self.voted = self.voted.max(last);
        self.commit_up_to(last, out);
        self.lacking = None;
    }

    pub(crate) fn recompute_marks(&mut self) {
        let mut marks = self.committed_marks.clone();
        let mut seq = self.chain.committed().seq.next();
        while let Some(slot) = self.chain.slot(seq) {
            advance(&mut marks, &slot.header);
            seq = seq.next();
        }
        self.accepted_marks = marks;
    }

    /// Takes what the execution role has executed.
    pub fn on_executed(&mut self, position: Position) {
        assert!(position.seq >= self.executed.seq, "execution does not go back");
        self.executed = position;
    }

    /// It is at least so late.
    pub fn note_time(&mut self, now: Nanoseconds) {
        self.now = now.max(self.now);
    }

    /// The burst of inputs is over: propose, accept, vote, and send again what may be lost.
    ///
    /// `now` never counts backwards: an earlier time than the last one is taken for the last one.
    pub fn on_tick_end(&mut self, now: Nanoseconds, out: &mut Vec<Output>) {
        self.note_time(now);
        let now = self.now;
        self.announce(out);
        self.follow_claims(out);
        self.lead(out);
        self.try_enter(out);
        self.check_lacking();
        self.adopt_certified_proposals(out);
        self.propose(now, out);
        self.accept(now, out);
        self.vote(out);
        self.send_commit(out);
        self.check_committed(out);
        self.check_claims(out);
        self.finish_for_view(now);
        self.sync_on_time(now, out);
        self.fetch_for_view(now, out);
        self.suspect_on_time(now, out);
        self.unname(out);
        self.tell_behind(out);
        self.trim();
        self.tell_of_states(out);
        self.trim_journal(out);
        self.status_on_time(now, out);
    }

    /// Something is committed that was proposed in this view: what headers of lower views name beside it comes back in no
    /// later one.
    fn unname(&mut self, out: &mut Vec<Output>) {
        if self.unnamed < self.view && self.has_entered() && self.chain.committed().seq > self.head.seq {
            self.unnamed = self.view;
            let gone = self.board.unname(self.view, &self.accepted_marks);
            if !gone.is_empty() {
                out.push(Output::Unname(gone));
            }
        }
    }

    fn tell_behind(&mut self, out: &mut Vec<Output>) {
        let is_behind = self.is_behind();
        if is_behind != self.told_behind {
            self.told_behind = is_behind;
            out.push(Output::Behind(is_behind));
        }
    }

    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty() || !self.missing.is_empty() || self.lacking.is_some()
    }

    /// The next time at which [`Consensus::on_tick_end`] has something to do without any input.
    #[must_use]
    pub fn deadline(&self) -> Option<Nanoseconds> {
        let (suspicion, fetch) = (self.suspicion_deadline(), self.header_fetches.deadline());
        let (sync, idle) = (self.sync_deadline(), self.idle_deadline());
        [Some(self.status_due), self.clock_wait, suspicion, fetch, sync, idle].into_iter().flatten().min()
    }

    /// Forgets headers that every live replica has and that lagging ones may no longer expect, as far as the own
    /// durable checkpoint covers them.
    fn trim(&mut self) {
        let decided = self.executed.seq.min(self.checkpoints.settled());
        let keep = Seq(decided.0.saturating_sub(self.tuning.headers_kept_max));
        if keep > self.chain.floor().seq && keep < self.chain.accepted().seq {
            self.chain.trim(keep);
        }
    }
}
