//! Proposing and accepting headers (DESIGN section 4, rules 1 and 5).

use crate::board::{Advance, Cut, Mark, advance};
use crate::chain::Slot;
use crate::consensus::Consensus;
use crate::output::{Destination, Fact, Outgoing, Output, Reject};
use crate::verified::Verified;
use quorate_types::mistakes::is_made;
use quorate_types::{After, Mistake, Nanoseconds, Seq, Signature, Support, limits};
use quorate_wire::message::PrePrepare;
use quorate_wire::{Header, LaneTip, Position};
use std::sync::Arc;

/// Whether a header may be accepted now.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// Yes; its batches are durable after this, and have so many bytes.
    Accept(After, u64),
    /// Not before this replica has come further: a checkpoint, its own execution, or a slot that it lacks.
    Later,
    /// Not before this time.
    Clock(Nanoseconds),
    /// Not before a batch, or an acknowledgement of it, is here.
    Wait(LaneTip),
    /// Never.
    Refuse(Reject),
}

/// What the header that would be accepted next waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub(crate) tip: LaneTip,
    /// Where the header before it leaves the lane.
    pub(crate) floor: Mark,
    pub(crate) since: Nanoseconds,
}

impl Consensus {
    /// Whether a proposal is worth verifying.
    #[must_use]
    pub fn wants_pre_prepare(&self, message: &PrePrepare) -> bool {
        let seq = message.header.seq;
        let accepted = self.chain.accepted().seq;
        if message.view != self.view
            || !self.has_entered()
            || seq <= self.chain.committed().seq
            || seq > self.window_end()
        {
            return false;
        }
        // A second, different proposal says something new once: it is evidence.
        let is_evidence = self.claims.evidence(message.view).is_none();
        if seq <= accepted {
            let slot = self.chain.slot(seq);
            return is_evidence
                && slot
                    .is_some_and(|slot| slot.proposal.is_some() && slot.digest != message.header.digest());
        }
        let differs = |known: &Verified<PrePrepare>| is_evidence && known.message().header != message.header;
        seq.since(accepted) <= self.tuning.proposals_max && self.pending.get(&seq).is_none_or(differs)
    }

    /// Whether a signed proposal of this view was refused. Its primary could sign any number of those, each of them new.
    #[must_use]
    pub fn distrusts_proposals(&self) -> bool {
        self.refused_in == Some(self.view)
    }

    /// Takes a proposal; it is accepted at the end of the tick, or when what it waits for has come.
    pub fn on_pre_prepare(&mut self, message: Verified<PrePrepare>, out: &mut Vec<Output>) {
        if !self.wants_pre_prepare(message.message()) {
            return;
        }
        let seq = message.message().header.seq;
        let accepted = self.chain.slot(seq).and_then(|slot| slot.proposal.as_deref());
        if let Some(first) = accepted.or(self.pending.get(&seq).map(Verified::message)) {
            out.push(Output::Rejected(Reject::Equivocation));
            let first = first.clone();
            return self.convict(first, message.into_message());
        }
        self.pending.insert(seq, message);
    }

    /// Whether this replica proposes. One that has restarted in a view does not in that view: what it had proposed
    /// before is forgotten (view change rule 9).
    fn is_primary(&self) -> bool {
        self.config.primary(self.view) == self.me
            && self.has_entered()
            && self.is_voter()
            && self.restarted != Some(self.view)
    }

    /// Whether batches are missing that headers on the own chain name.
    pub(crate) fn lacks_batches(&self) -> bool {
        !self.missing.is_empty() || self.lacking.is_some()
    }

    /// The last slot that is accepted while execution stands where it does: whoever accepts a slot has executed that which
    /// lies R before it.
    pub(crate) fn execution_room(&self) -> Seq {
        self.executed.seq.plus(self.tuning.accepted_ahead_max())
    }

    /// Whether a certificate is over a slot that is not on the own chain: of a checkpoint above it, or of a slot that is
    /// prepared in this view beside it.
    fn lacks_what_is_certified(&self) -> bool {
        let beside = self.certificate.as_ref().is_some_and(|found| {
            let accepted = self.chain.accepted().seq;
            let decided = self.chain.committed().seq;
            let seq = found.position.seq;
            found.view == self.view
                && seq > decided
                && seq <= accepted
                && !self.chain.contains(found.position)
        });
        beside || self.lacks_a_certified_slot()
    }

    fn may_propose(&self) -> bool {
        self.is_primary()
            && !self.lacks_batches()
            && !self.has_fallen_behind()
            && self.is_above_its_promises()
            && !self.lacks_what_is_certified()
    }

    /// Rule 5: the primary names new tips while the pipeline has room.
    pub(crate) fn propose(&mut self, now: Nanoseconds, out: &mut Vec<Output>) {
        if !self.may_propose() {
            return;
        }
        loop {
            let parent = self.chain.accepted();
            let open = parent.seq.since(self.chain.committed().seq);
            let seq = parent.seq.next();
            if open >= self.tuning.proposals_max || self.is_full() {
                return;
            }
            let Cut { tips: cut, bytes, is_cut_short } = self.board.propose(&self.accepted_marks, self.me);
            let is_due = if cut.is_empty() { self.is_idle(now) } else { true };
            // Where a lane has more than one header may name, waiting makes no header larger.
            let waits = open > 0 && bytes < self.tuning.pipeline_bytes && !is_cut_short;
            if !is_due || waits {
                return;
            }
            let floor = Nanoseconds(self.chain.timestamp().0 + 1);
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
            // Not before the view's beginning, which must be on disk.
            let after = self.entered_after.clone();
            out.push(Output::Send { to: Destination::Others, message: Outgoing::PrePrepare(message), after });
            self.pending.insert(seq, signed);
            self.accept(now, out);
            assert_eq!(self.chain.accepted().seq, seq, "a primary accepts its own proposal");
        }
    }

    /// Whether an empty header may come next at `timestamp`: it asks for a checkpoint, and may do so once after something
    /// was ordered and nothing was for long. This is a function of the chain alone.
    fn may_follow_idly(&self, timestamp: Nanoseconds) -> bool {
        self.follows_idly_from().is_some_and(|from| timestamp >= from)
    }

    fn follows_idly_from(&self) -> Option<Nanoseconds> {
        let parent = self.chain.slot(self.chain.accepted().seq)?;
        let orders = !parent.header.cut.is_empty();
        orders.then(|| self.chain.timestamp().plus(limits::CHECKPOINT_IDLE.0))
    }

    /// Whether the cluster has been idle for so long that what no certified state covers gets one: else that would have to
    /// be served from journals for ever.
    fn is_idle(&self, now: Nanoseconds) -> bool {
        self.awaits_a_checkpoint() && self.may_follow_idly(now)
    }

    fn awaits_a_checkpoint(&self) -> bool {
        let accepted = self.chain.accepted();
        self.chain.committed() == accepted
            && self.executed == accepted
            && self.checkpoints.stable().seq < accepted.seq
    }

    /// When the primary of an idle cluster proposes a header that names nothing.
    pub(crate) fn idle_deadline(&self) -> Option<Nanoseconds> {
        if !self.awaits_a_checkpoint() || self.is_full() || !self.may_propose() {
            return None;
        }
        self.follows_idly_from()
    }

    /// Rule 1: accepts proposals in order while the next one may be.
    pub(crate) fn accept(&mut self, now: Nanoseconds, out: &mut Vec<Output>) {
        self.clock_wait = None;
        let waited = self.waits_for.take();
        // A vote for a slot speaks for its ancestors' batches too: they must be here first.
        if self.lacks_batches() || !self.has_entered() {
            return;
        }
        while let Some(proposal) = self.pending.get(&self.chain.accepted().seq.next()) {
            let header = &proposal.message().header;
            let verdict = self.judge(header, now);
            let seq = header.seq;
            match verdict {
                Verdict::Accept(after, bytes) => self.accept_next(seq, after, bytes, out),
                Verdict::Later => return,
                Verdict::Clock(until) => {
                    self.clock_wait = Some(until);
                    return;
                }
                Verdict::Wait(tip) => {
                    let since = waited.filter(|waited| waited.tip == tip).map_or(now, |waited| waited.since);
                    let floor = self.accepted_marks.get(&tip.lane).copied().unwrap_or_default();
                    self.waits_for = Some(Waiting { tip, floor, since });
                    return;
                }
                Verdict::Refuse(reject) => {
                    self.pending.remove(&seq);
                    self.refused_in = Some(self.view);
                    out.push(Output::Rejected(reject));
                }
            }
        }
    }

    /// Rule 1, in the order of DESIGN section 4: whether the proposal of this view's primary that would be next may be
    /// accepted. Who has signed it, for which view, and that no other was accepted for its slot, was checked when it came.
    ///
    /// A learner follows by the same rule; it votes for nothing that it accepts.
    fn judge(&self, header: &Header, now: Nanoseconds) -> Verdict {
        let parent = self.chain.accepted();
        let stable = self.checkpoints.stable().seq;
        let is_bound = self.lacks_what_is_certified() || !self.is_above_its_promises();
        if is_bound && !is_made(Mistake::AcceptsBelowStable) {
            return Verdict::Later;
        }
        assert_eq!(header.seq, parent.seq.next(), "the next header is judged");
        if header.parent != parent.digest {
            return Verdict::Refuse(Reject::Parent);
        }
        if (header.seq <= stable && !is_made(Mistake::AcceptsBelowStable)) || self.is_full() {
            return Verdict::Later;
        }
        if header.epoch != self.config.epoch() {
            return Verdict::Refuse(Reject::Epoch);
        }
        let floor = Nanoseconds(self.chain.timestamp().0 + 1);
        if header.timestamp < floor {
            return Verdict::Refuse(Reject::Timestamp);
        }
        let latest = now.plus(self.tuning.clock_skew_max.0);
        if header.timestamp > latest && header.timestamp != floor {
            return Verdict::Clock(Nanoseconds(header.timestamp.0 - self.tuning.clock_skew_max.0));
        }
        if header.cut.is_empty() {
            let asks = self.may_follow_idly(header.timestamp);
            return if asks { Verdict::Accept(After::nothing(), 0) } else { Verdict::Refuse(Reject::Cut) };
        }
        if !header.cut_is_canonical() {
            return Verdict::Refuse(Reject::Cut);
        }
        self.judge_cut(&header.cut)
    }

    /// The part of rule 1 that is about lanes: each tip advances its lane along its own chain, by at most K batches and B
    /// bytes, all of them held, and f+1 replicas have acknowledged it unless the lane is the primary's.
    fn judge_cut(&self, cut: &[LaneTip]) -> Verdict {
        let primary = self.config.primary(self.view);
        let mut after = After::nothing();
        let mut total = 0;
        for tip in cut {
            let from = self.accepted_marks.get(&tip.lane).copied().unwrap_or_default();
            let batches = tip.upto.since(from.upto);
            if batches == 0 || batches > self.tuning.cut_batches_max {
                return Verdict::Refuse(Reject::Cut);
            }
            match self.board.advance(&self.accepted_marks, tip) {
                None | Some(Advance::Beside) => return Verdict::Refuse(Reject::Cut),
                Some(Advance::Lacks) => return Verdict::Wait(*tip),
                Some(Advance::Takes(bytes, ..)) if bytes > self.tuning.cut_bytes_max => {
                    return Verdict::Refuse(Reject::Cut);
                }
                Some(Advance::Takes(_, _, support))
                    if tip.lane.origin != primary
                        && support < Some(Support::Weak)
                        && !is_made(Mistake::AcceptsUnacknowledged) =>
                {
                    return Verdict::Wait(*tip);
                }
                Some(Advance::Takes(bytes, durable, _)) => {
                    after.and_all(&durable);
                    total += bytes;
                }
            }
        }
        Verdict::Accept(after, total)
    }

    fn accept_next(&mut self, seq: Seq, batches: After, bytes: u64, out: &mut Vec<Output>) {
        let proposal = self.pending.remove(&seq).expect("invariant: just judged");
        let proposal = Arc::new(proposal.into_message());
        let header = Arc::new(proposal.header.clone());
        let voted = self.is_voter() && seq > self.voted;
        let fact = Fact::Accepted { view: self.view, header: Arc::clone(&header), voted };
        let mut after = self.append(fact, out);
        after.and_all(&batches);
        // What was voted in lower views leaves before anything of this one, also where no vote for the head is due.
        after.and_all(&self.entered_after);
        // A vote for this slot speaks for its ancestors' batches too.
        if let Some(parent) = self.chain.slot(seq.previous()) {
            after.and_all(&parent.after);
        }
        advance(&mut self.accepted_marks, &header);
        let digest = header.digest();
        let lsn = self.lsn;
        if voted {
            self.ballot = Some(Position { seq, digest });
        }
        self.chain.push(Slot {
            proposal: Some(proposal),
            voted,
            bytes,
            ..Slot::new(header, digest, lsn, after)
        });
        self.check_prepared(seq);
    }
}
