//! The normal case: propose, accept, PREPARE, COMMIT (DESIGN section 4, rules 1 to 5).

use crate::board::{Board, Marks, Verdict, advance};
use crate::chain::{Chain, PreparedCertificate, Slot};
use crate::checkpoint::Checkpoints;
use crate::output::{Destination, Fact, Outgoing, Output, Reject};
use crate::sync::Sync;
use crate::verified::{Keyring, Verified};
use crate::votes::{Votes, voted};
use quorate_types::{
    After, ClusterConfig, JournalId, LaneUpdate, Lsn, Nanoseconds, Quorums, ReplicaId, Seq, Signature,
    SigningKey, Tuning, View,
};
use quorate_wire::message::{Commit, PrePrepare, Prepare};
use quorate_wire::{Header, LaneTip, Position, header};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// How far this replica is; all on its own chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positions {
    /// The highest accepted slot.
    pub accepted: Position,
    /// The highest prepared slot.
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
    pub(crate) view: View,
    journal: JournalId,
    lsn: Lsn,
    pub(crate) chain: Chain,
    pub(crate) votes: Votes,
    pub(crate) board: Board,
    /// Where the lanes stand after the accepted and after the committed slot.
    accepted_marks: Marks,
    committed_marks: Marks,
    /// Proposals that cannot be accepted yet, above the accepted slot.
    pending: BTreeMap<Seq, Verified<PrePrepare>>,
    /// When all batches that committed headers name are durable, as far as they are held.
    settled: After,
    /// Tips that committed headers name and that are not held.
    pub(crate) missing: BTreeMap<quorate_types::LaneId, LaneTip>,
    /// The highest slot that an own PREPARE named.
    pub(crate) voted: Seq,
    /// Own PREPAREs above the committed slot, to send again.
    pub(crate) own_prepares: VecDeque<(Arc<Prepare>, After)>,
    pub(crate) certificate: Option<PreparedCertificate>,
    pub(crate) own_commit: Option<(Commit, After)>,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) executed: Position,
    pub(crate) sync: Sync,
    pub(crate) status_due: Nanoseconds,
    now: Nanoseconds,
    /// When the header at the front may be looked at again because its time has come.
    clock_wait: Option<Nanoseconds>,
    /// What the front of `pending` waits for.
    waits_for: Option<LaneTip>,
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
            journal,
            lsn: Lsn(0),
            chain: Chain::new(genesis),
            votes: Votes::new(View(0), config.members().len()),
            board: Board::new(&config),
            accepted_marks: Marks::new(),
            committed_marks: Marks::new(),
            pending: BTreeMap::new(),
            settled: After::nothing(),
            missing: BTreeMap::new(),
            voted: Seq(0),
            own_prepares: VecDeque::new(),
            certificate: None,
            own_commit: None,
            checkpoints: Checkpoints::new(genesis),
            executed: genesis,
            sync: Sync::default(),
            status_due: Nanoseconds(0),
            now: Nanoseconds(0),
            clock_wait: None,
            waits_for: None,
            config,
        }
    }

    /// The keys with which messages are verified before they come in.
    #[must_use]
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// The present view.
    #[must_use]
    pub fn view(&self) -> View {
        self.view
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

    pub(crate) fn prepared(&self) -> Position {
        let genesis = || header::genesis(self.config.digest());
        self.certificate.as_ref().map_or_else(genesis, |found| found.position)
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
        if accepted.seq > committed.seq {
            let votes = self.votes.count_prepares(accepted);
            let quorum = self.quorums.quorum;
            return format!("header {} has {votes} of {quorum} PREPAREs", accepted.seq);
        }
        if let Some(tip) = self.waits_for {
            let (lane, upto) = (tip.lane, tip.upto);
            return format!(
                "header {} names batch {upto} of lane {lane}, which is not here",
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
        self.board.on_update(update);
        if let Some(tip) = self.missing.get(&update.lane)
            && self.board.holds(tip)
        {
            let durable = self.board.settle(tip);
            self.settled.and_all(&durable);
            self.missing.remove(&update.lane);
        }
    }

    /// Whether a proposal is worth verifying.
    #[must_use]
    pub fn wants_pre_prepare(&self, message: &PrePrepare) -> bool {
        let seq = message.header.seq;
        let accepted = self.chain.accepted().seq;
        if message.view != self.view || seq <= self.chain.committed().seq || seq > self.window_end() {
            return false;
        }
        if seq <= accepted {
            // Only a second, different proposal says something new: it is evidence.
            let slot = self.chain.slot(seq);
            return slot
                .is_some_and(|slot| slot.proposal.is_some() && slot.digest != message.header.digest());
        }
        seq.since(accepted) <= self.tuning.proposals_max
            && self.pending.get(&seq).is_none_or(|known| known.message().header != message.header)
    }

    fn window_end(&self) -> Seq {
        self.checkpoints.stable().seq.plus(self.tuning.window)
    }

    /// The last slot for which votes are kept: those of two full pipelines above the accepted slot. What comes
    /// earlier than that is sent again on Status.
    fn votes_end(&self) -> Seq {
        self.window_end().min(self.chain.accepted().seq.plus(2 * self.tuning.proposals_max))
    }

    /// Takes a proposal; it is accepted at the end of the tick, or when what it waits for has come.
    pub fn on_pre_prepare(&mut self, message: Verified<PrePrepare>, out: &mut Vec<Output>) {
        if !self.wants_pre_prepare(message.message()) {
            return;
        }
        let seq = message.message().header.seq;
        if seq <= self.chain.accepted().seq || self.pending.contains_key(&seq) {
            out.push(Output::Rejected(Reject::Equivocation));
            return;
        }
        self.pending.insert(seq, message);
    }

    /// Whether a PREPARE is worth verifying: it adds a vote to a slot that is not prepared yet.
    #[must_use]
    pub fn wants_prepare(&self, signer: ReplicaId, message: &Prepare) -> bool {
        let committed = self.chain.committed().seq;
        let end = self.votes_end();
        let undecided = (0..message.digests.len() as u64)
            .map(|offset| message.lo.plus(offset))
            .any(|seq| seq > committed && self.chain.slot(seq).is_none_or(|slot| !slot.prepared));
        undecided && self.votes.is_news(signer, message, committed, end)
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
        let (above, upto) = (self.chain.committed().seq, self.votes_end());
        if !self.votes.on_prepare(signer, &prepare, above, upto) {
            out.push(Output::Rejected(Reject::DoubleVote));
        }
        for offset in 0..prepare.digests.len() as u64 {
            self.check_prepared(prepare.lo.plus(offset));
        }
    }

    /// q valid PREPAREs with the same digest at a slot make it prepared (rule 3).
    fn check_prepared(&mut self, seq: Seq) {
        let Some(slot) = self.chain.slot(seq).filter(|slot| !slot.prepared) else { return };
        let position = Position { seq, digest: slot.digest };
        if seq <= self.chain.committed().seq || self.votes.count_prepares(position) < self.quorums.quorum {
            return;
        }
        self.chain.slot_mut(seq).expect("invariant: just found").prepared = true;
        let present = self.certificate.as_ref().map(|found| (found.view, found.position.seq));
        if present < Some((self.view, seq)) {
            let votes = self.votes.prepares(position);
            assert!(votes.len() >= self.quorums.quorum, "a certificate has a quorum of votes");
            self.certificate = Some(PreparedCertificate { view: self.view, position, votes });
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

    pub(crate) fn check_committed(&mut self, out: &mut Vec<Output>) {
        let chain = &self.chain;
        let seq = self.votes.committed(self.quorums.quorum, |position| chain.contains(position));
        self.commit_up_to(seq, out);
    }

    pub(crate) fn commit_up_to(&mut self, seq: Seq, out: &mut Vec<Output>) {
        if seq <= self.chain.committed().seq {
            return;
        }
        while self.chain.committed().seq < seq {
            let (header, position) = self.chain.commit_next();
            advance(&mut self.committed_marks, &header);
            for tip in &header.cut {
                self.settle(tip, out);
            }
            out.push(Output::Committed { header, position });
        }
        self.votes.forget(seq);
        // Others may still need this replica's PREPAREs for what is decided here.
        let recent = Seq(seq.0.saturating_sub(self.tuning.proposals_max));
        self.own_prepares.retain(|(prepare, _)| last_slot(prepare) > recent);
        self.pending = self.pending.split_off(&seq.next());
        self.voted = self.voted.max(recent);
    }

    fn settle(&mut self, tip: &LaneTip, out: &mut Vec<Output>) {
        if self.board.holds(tip) {
            let durable = self.board.settle(tip);
            self.settled.and_all(&durable);
            self.missing.remove(&tip.lane);
        } else {
            self.missing.insert(tip.lane, *tip);
            out.push(Output::Want(*tip));
        }
    }

    /// Puts headers that are known to be committed on the chain, above `attach`, in place of what was
    /// accepted there, and commits them.
    pub(crate) fn adopt(&mut self, attach: Seq, headers: Vec<Arc<Header>>, out: &mut Vec<Output>) {
        self.chain.truncate(attach);
        self.recompute_marks();
        let mut last = attach;
        for header in headers {
            last = header.seq;
            advance(&mut self.accepted_marks, &header);
            let digest = header.digest();
            let after = self.append(Fact::Accepted { view: self.view, header: Arc::clone(&header) }, out);
            self.chain.push(Slot { header, digest, proposal: None, after, prepared: false });
        }
        self.commit_up_to(last, out);
    }

    fn recompute_marks(&mut self) {
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

    /// The burst of inputs is over: propose, accept, vote, and send again what may be lost.
    ///
    /// `now` never counts backwards: an earlier time than the last one is taken for the last one.
    pub fn on_tick_end(&mut self, now: Nanoseconds, out: &mut Vec<Output>) {
        self.now = now.max(self.now);
        let now = self.now;
        self.propose(now, out);
        self.accept(now, out);
        self.vote(out);
        self.send_commit(out);
        self.check_committed(out);
        self.check_claims(out);
        self.sync_on_time(now, out);
        self.trim();
        self.status_on_time(now, out);
    }

    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty() || !self.missing.is_empty()
    }

    /// The next time at which [`Consensus::on_tick_end`] has something to do without any input.
    #[must_use]
    pub fn deadline(&self) -> Option<Nanoseconds> {
        [Some(self.status_due), self.clock_wait, self.sync.deadline()].into_iter().flatten().min()
    }

    fn is_primary(&self) -> bool {
        self.config.primary(self.view) == self.me
    }

    /// Rule 5: the primary names new tips while the pipeline has room.
    fn propose(&mut self, now: Nanoseconds, out: &mut Vec<Output>) {
        if !self.is_primary() || !self.missing.is_empty() || self.has_fallen_behind() {
            return;
        }
        loop {
            let parent = self.chain.accepted();
            let open = parent.seq.since(self.chain.committed().seq);
            let seq = parent.seq.next();
            if open >= self.tuning.proposals_max
                || seq > self.window_end()
                || seq > self.executed.seq.plus(2 * self.tuning.window)
            {
                return;
            }
            let (cut, bytes) = self.board.propose(&self.accepted_marks, self.me);
            if cut.is_empty() || (open > 0 && bytes < self.tuning.pipeline_bytes) {
                return;
            }
            let floor = Nanoseconds(self.parent_timestamp().0 + 1);
            let header = Header {
                epoch: self.config.epoch(),
                seq,
                parent: parent.digest,
                timestamp: now.max(floor),
                cut,
            };
            let signature = Signature([0; 64]);
            let signed = self.keyring.sign_pre_prepare(PrePrepare { view: self.view, header, signature });
            let message = Arc::new(signed.message().clone());
            let after = After::nothing();
            out.push(Output::Send { to: Destination::Others, message: Outgoing::PrePrepare(message), after });
            self.pending.insert(seq, signed);
            self.accept(now, out);
            assert_eq!(self.chain.accepted().seq, seq, "a primary accepts its own proposal");
        }
    }

    fn parent_timestamp(&self) -> Nanoseconds {
        let tip = self.chain.accepted().seq;
        self.chain.slot(tip).map_or_else(|| self.trimmed_timestamp(), |slot| slot.header.timestamp)
    }

    /// The tip is trimmed only when nothing is kept at all, which [`Consensus::trim`] rules out above genesis.
    fn trimmed_timestamp(&self) -> Nanoseconds {
        assert_eq!(self.chain.accepted().seq, Seq(0), "the tip of the chain is always kept");
        Nanoseconds(0)
    }

    /// Rule 1: accepts proposals in order while the next one may be.
    fn accept(&mut self, now: Nanoseconds, out: &mut Vec<Output>) {
        self.clock_wait = None;
        self.waits_for = None;
        // A vote for a slot speaks for its ancestors' batches too: they must be here first.
        if !self.missing.is_empty() {
            return;
        }
        // Where execution stands still, the chain must not grow for ever by the others' checkpoints.
        let room = self.executed.seq.plus(2 * self.tuning.window);
        while self.chain.accepted().seq < room
            && let Some(proposal) = self.pending.get(&self.chain.accepted().seq.next())
        {
            let header = &proposal.message().header;
            let verdict = self.judge(header, now);
            let seq = header.seq;
            match verdict {
                Ok(Verdict::Accept(after)) => self.accept_next(seq, after, out),
                Ok(Verdict::Wait(tip)) => {
                    self.waits_for = Some(tip);
                    return;
                }
                Ok(Verdict::Refuse(reject)) => {
                    self.pending.remove(&seq);
                    out.push(Output::Rejected(reject));
                }
                Err(until) => {
                    self.clock_wait = Some(until);
                    return;
                }
            }
        }
    }

    /// The verdict on the header that would be next, or the time at which its timestamp has come.
    fn judge(&self, header: &Header, now: Nanoseconds) -> Result<Verdict, Nanoseconds> {
        let parent = self.chain.accepted();
        let floor = Nanoseconds(self.parent_timestamp().0 + 1);
        if header.epoch != self.config.epoch() {
            return Ok(Verdict::Refuse(Reject::Epoch));
        }
        if header.parent != parent.digest {
            return Ok(Verdict::Refuse(Reject::Parent));
        }
        if header.timestamp < floor {
            return Ok(Verdict::Refuse(Reject::Timestamp));
        }
        let latest = now.plus(self.tuning.clock_skew_max.0);
        if header.timestamp > latest && header.timestamp != floor {
            return Err(Nanoseconds(header.timestamp.0 - self.tuning.clock_skew_max.0));
        }
        Ok(self.board.judge(header, &self.accepted_marks, self.config.primary(self.view)))
    }

    fn accept_next(&mut self, seq: Seq, batches: After, out: &mut Vec<Output>) {
        let proposal = self.pending.remove(&seq).expect("invariant: just judged");
        let proposal = Arc::new(proposal.into_message());
        let header = Arc::new(proposal.header.clone());
        let fact = Fact::Accepted { view: self.view, header: Arc::clone(&header) };
        let mut after = self.append(fact, out);
        after.and_all(&batches);
        // A vote for this slot speaks for its ancestors' batches too.
        if let Some(parent) = self.chain.slot(seq.previous()) {
            after.and_all(&parent.after);
        }
        advance(&mut self.accepted_marks, &header);
        let digest = header.digest();
        self.chain.push(Slot { header, digest, proposal: Some(proposal), after, prepared: false });
        self.check_prepared(seq);
    }

    /// Rule 2: one signed PREPARE for the slots accepted since the last one, once they are durable with
    /// every batch that they name.
    fn vote(&mut self, out: &mut Vec<Output>) {
        if !self.missing.is_empty() {
            return;
        }
        self.voted = self.voted.max(self.chain.floor().seq);
        while self.voted < self.chain.accepted().seq {
            let lo = self.voted.next();
            let longest = self.voted.plus(quorate_types::limits::PROPOSALS_MAX);
            self.vote_for(lo, self.chain.accepted().seq.min(longest), out);
        }
    }

    fn vote_for(&mut self, lo: Seq, hi: Seq, out: &mut Vec<Output>) {
        let mut digests = Vec::new();
        let mut after = self.settled.clone();
        for seq in (lo.0..=hi.0).map(Seq) {
            let slot = self.chain.slot(seq).expect("invariant: slots above the floor are kept");
            digests.push(slot.digest);
            after.and_all(&slot.after);
        }
        let message = Prepare { view: self.view, lo, digests, signature: Signature([0; 64]) };
        let message = Arc::new(self.keyring.sign_prepare(message).into_message());
        self.voted = hi;
        self.own_prepares.push_back((Arc::clone(&message), after.clone()));
        out.push(Output::Send { to: Destination::All, message: Outgoing::Prepare(message), after });
    }

    /// Rule 3: the highest certificate of the tick goes to the journal; its COMMIT leaves when that is
    /// durable.
    fn send_commit(&mut self, out: &mut Vec<Output>) {
        let Some(certificate) = &self.certificate else { return };
        let (view, position) = (certificate.view, certificate.position);
        let sent = self.own_commit.as_ref().is_some_and(|(commit, _)| commit.position.seq >= position.seq);
        if view != self.view || sent {
            return;
        }
        let votes = certificate.votes.clone();
        let after = self.append(Fact::Prepared { view, position, votes }, out);
        let commit = Commit { view, position };
        self.own_commit = Some((commit.clone(), after.clone()));
        out.push(Output::Send { to: Destination::All, message: Outgoing::Commit(commit), after });
    }

    /// Forgets headers that every live replica has and that lagging ones may no longer expect.
    fn trim(&mut self) {
        let decided = self.executed.seq.min(self.checkpoints.stable().seq);
        let keep = Seq(decided.0.saturating_sub(self.tuning.headers_kept_max));
        if keep > self.chain.floor().seq && keep < self.chain.accepted().seq {
            self.chain.trim(keep);
        }
    }
}

/// The last slot that a PREPARE names.
pub(crate) fn last_slot(prepare: &Prepare) -> Seq {
    prepare.lo.plus(prepare.digests.len() as u64).previous()
}
