//! The beginning of a view (DESIGN section 4, view change 3 to 6).
//!
//! The primary shows the summaries of exactly q view changes and proves the highest of their claims. Everybody
//! selects the head anew: the highest prepared slot, by view first, or the highest checkpoint. What was committed in
//! any lower view is at or below the head, because one of any q replicas is honest and has prepared it.

use crate::chain::Slot;
use crate::consensus::Consensus;
use crate::header_fetches::Purpose;
use crate::output::{Destination, Fact, Outgoing, Output, Reject};
use crate::verified::Verified;
use crate::view_change::Standing;
use quorate_types::mistakes::is_made;
use quorate_types::{After, Digest, Mistake, Nanoseconds, ReplicaId, Seq, Signature, View};
use quorate_wire::message::{NewView, ViewChange};
use quorate_wire::{Header, Position, ViewChangeSummary, header};
use std::sync::Arc;

/// What the summaries of a new view say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Selection {
    /// The highest prepared slot, by view first.
    pub(crate) prepared: Option<(View, Position)>,
    /// The highest checkpoint with its root; none before the first.
    pub(crate) stable: Option<(Position, Digest)>,
    /// That, or the genesis.
    pub(crate) checkpoint: Position,
    /// The slot at which votes begin.
    pub(crate) head: Position,
}

/// The head of a view: over its summaries, the prepared slot that is maximal by (view, seq), view first; the highest
/// checkpoint if there is none above that. Nothing when two different claims are both the highest, as one of them
/// is a lie.
pub(crate) fn select(genesis: Position, summaries: &[(ReplicaId, ViewChangeSummary)]) -> Option<Selection> {
    let summaries = || summaries.iter().map(|(_, summary)| summary);
    let rank = |(view, position): (View, Position)| (view, position.seq);
    let mut prepared = summaries().filter_map(|summary| summary.prepared).max_by_key(|found| rank(*found));
    if is_made(Mistake::SelectsAnyCertificate) {
        prepared = summaries().find_map(|summary| summary.prepared);
    }
    let longest = summaries().filter_map(|summary| summary.prepared).max_by_key(|found| found.1.seq);
    if longest.map(|found| found.1.seq) > prepared.map(|found| found.1.seq)
        && is_made(Mistake::SelectsLongestChain)
    {
        prepared = longest;
    }
    let highest = summaries().max_by_key(|summary| summary.stable.seq)?;
    let checkpoint = highest.stable;
    for summary in summaries() {
        let other = summary.prepared.is_some_and(|found| {
            prepared.is_some_and(|highest| rank(highest) == rank(found) && highest != found)
        });
        let unlike = summary.stable.seq == checkpoint.seq
            && (summary.stable, summary.root) != (checkpoint, highest.root);
        if other || unlike {
            return None;
        }
    }
    let stable = (checkpoint.seq > genesis.seq).then_some((checkpoint, highest.root));
    if stable.is_none() && (checkpoint != genesis || highest.root != Digest::ZERO) {
        return None;
    }
    let above = prepared.map(|(_, position)| position).filter(|position| position.seq > checkpoint.seq);
    Some(Selection { prepared, stable, checkpoint, head: above.unwrap_or(checkpoint) })
}

/// A new view that is known to be right and that this replica has not entered yet.
#[derive(Debug)]
pub(crate) struct Candidate {
    message: Arc<NewView>,
    selection: Selection,
    /// The header that is wanted next on the way down from the head.
    wanted: Option<Position>,
}

impl Candidate {
    fn new(message: Arc<NewView>, selection: Selection) -> Self {
        Self { message, selection, wanted: None }
    }

    pub(crate) fn view(&self) -> View {
        self.message.view
    }

    pub(crate) fn wanted(&self) -> Option<Position> {
        self.wanted
    }
}

/// The way from the head of a new view down to the own chain.
enum Way {
    /// It joins the own chain at a slot; the headers above, ascending.
    Joins(Position, Vec<Arc<Header>>),
    /// This header is not known.
    Lacks(Position),
    /// It cannot be told yet: this replica is too far behind.
    Unknown,
    /// It passes beside a checkpoint that it must contain, or beside what is committed here: that was committed in a
    /// later view then, of which others have told.
    Refused,
}

impl Consensus {
    /// Rule 3: the primary of the view that this replica waits for begins it when q replicas have come, this one
    /// included.
    pub(crate) fn lead(&mut self, out: &mut Vec<Output>) {
        let Standing::Pending(pending) = &self.standing else { return };
        let view = pending.target;
        if self.config.primary(view) != self.me
            || self.restarted == Some(view)
            || self.candidate.as_ref().is_some_and(|candidate| candidate.view() >= view)
        {
            return;
        }
        let Some((message, selection)) = self.compose(view, out) else { return };
        self.candidate = Some(Candidate::new(Arc::new(message), selection));
        self.try_enter(out);
    }

    /// A new view from the view changes that have come, with proofs that were checked.
    fn compose(&mut self, view: View, out: &mut Vec<Output>) -> Option<(NewView, Selection)> {
        let genesis = header::genesis(self.config.digest());
        loop {
            let chosen = self.quorum_of_changes(view)?;
            if let Some(liar) = self.disproved(&chosen) {
                self.disprove(liar, out);
                continue;
            }
            let summaries: Vec<(ReplicaId, ViewChangeSummary)> =
                chosen.iter().map(|(signer, change)| (*signer, change.summary(genesis))).collect();
            let selection = select(genesis, &summaries)?;
            let prepared = chosen.iter().filter_map(|(_, change)| change.prepared.as_ref());
            let prepared = prepared
                .into_iter()
                .find(|found| Some((found.view, found.position)) == selection.prepared)
                .cloned();
            let stable = chosen.iter().filter_map(|(_, change)| change.stable.as_ref());
            let stable =
                stable.into_iter().find(|found| Some((found.position, found.root)) == selection.stable);
            let (stable, signature) = (stable.cloned(), Signature([0; 64]));
            let message = NewView { view, summaries, prepared, stable, signature };
            return Some((self.keyring.sign_new_view(message).into_message(), selection));
        }
    }

    /// The view changes of exactly q replicas for `view`, signers ascending. The own one is among them: it came back
    /// when it was durable.
    fn quorum_of_changes(&self, view: View) -> Option<Vec<(ReplicaId, Arc<ViewChange>)>> {
        let changes = (0u8..).map(ReplicaId).zip(&self.changes).filter_map(|(replica, change)| {
            let change = change.as_ref().filter(|change| change.view == view)?;
            Some((replica, Arc::clone(change.message.as_ref()?)))
        });
        let (own, others): (Vec<_>, Vec<_>) = changes.partition(|(replica, _)| *replica == self.me);
        let mut chosen = own;
        if chosen.is_empty() || others.len() + 1 < self.quorums.quorum {
            return None;
        }
        chosen.extend(others.into_iter().take(self.quorums.quorum - 1));
        chosen.sort_by_key(|(replica, _)| *replica);
        Some(chosen)
    }

    /// Whose view change claims one of the highest slots and does not prove it.
    fn disproved(&self, chosen: &[(ReplicaId, Arc<ViewChange>)]) -> Option<ReplicaId> {
        let rank =
            |change: &ViewChange| change.prepared.as_ref().map(|found| (found.view, found.position.seq));
        let height = |change: &ViewChange| change.stable.as_ref().map(|found| found.position.seq);
        let highest = chosen.iter().map(|(_, change)| rank(change)).max()?;
        let tallest = chosen.iter().map(|(_, change)| height(change)).max()?;
        let (mut proven, mut certified) = (None, None);
        for (signer, change) in chosen {
            if let Some(prepared) = change.prepared.as_ref().filter(|_| rank(change) == highest) {
                let known = proven.is_some_and(|position| position == prepared.position);
                if !known && !self.keyring.proves_prepared(prepared) {
                    return Some(*signer);
                }
                proven = Some(prepared.position);
            }
            if let Some(stable) = change.stable.as_ref().filter(|_| height(change) == tallest) {
                let known = certified.is_some_and(|found| found == (stable.position, stable.root));
                if !known && !self.keyring.proves_stable(stable) {
                    return Some(*signer);
                }
                certified = Some((stable.position, stable.root));
            }
        }
        None
    }

    /// Whether a new view is worth verifying: it is of the view that this replica waits for or of a higher one, and
    /// the first of that view.
    #[must_use]
    pub fn wants_new_view(&self, message: &NewView) -> bool {
        (message.view > self.view || (message.view == self.view && is_made(Mistake::EntersViewTwice)))
            && message.view >= self.view()
            && self.candidate.as_ref().is_none_or(|candidate| candidate.view() < message.view)
    }

    /// Takes a new view, and enters it if all headers up to its head are here.
    pub fn on_new_view(&mut self, message: Verified<NewView>, out: &mut Vec<Output>) {
        if !self.wants_new_view(message.message()) {
            return;
        }
        let message = message.into_message();
        if let Some(stable) = message.stable.clone().filter(|stable| self.wants_certificate(stable)) {
            self.set_stable(stable, out);
        }
        let selection = select(header::genesis(self.config.digest()), &message.summaries);
        let selection = selection.expect("invariant: a verified new view has one selection");
        self.candidate = Some(Candidate::new(Arc::new(message), selection));
        self.try_enter(out);
    }

    /// Enters the new view at hand if the own chain can follow it.
    pub(crate) fn try_enter(&mut self, out: &mut Vec<Output>) {
        let Some(mut candidate) = self.candidate.take() else { return };
        candidate.wanted = None;
        match self.way_to(&candidate.selection) {
            Way::Joins(at, headers) => self.enter(&candidate, at, headers, out),
            Way::Lacks(position) => {
                candidate.wanted = Some(position);
                self.candidate = Some(candidate);
            }
            Way::Unknown => self.candidate = Some(candidate),
            Way::Refused => out.push(Output::Rejected(Reject::NewView)),
        }
    }

    /// Goes from the head down until the own chain is met.
    fn way_to(&self, selection: &Selection) -> Way {
        let (head, committed, stable) = (selection.head, self.chain.committed(), self.checkpoints.stable());
        if head.seq <= committed.seq {
            // What is committed extends the head, or the head is trimmed: then a checkpoint vouches for both.
            let known = self.chain.digest(head.seq).is_none_or(|digest| digest == head.digest);
            return if known { Way::Joins(committed, Vec::new()) } else { Way::Refused };
        }
        if head.seq < stable.seq || head.seq.since(committed.seq) > self.spare.reach() {
            return Way::Unknown;
        }
        let mut headers = Vec::new();
        let mut at = head;
        while !self.chain.contains(at) {
            if at.seq <= committed.seq {
                return Way::Refused;
            }
            let Some(header) = self.spare.get(at) else { return Way::Lacks(at) };
            headers.push(Arc::clone(header));
            at = Position { seq: at.seq.previous(), digest: header.parent };
        }
        headers.reverse();
        let contains = |position: Position| match position.seq.0.checked_sub(at.seq.0 + 1) {
            None => self.chain.digest(position.seq).is_none_or(|digest| digest == position.digest),
            Some(index) => usize::try_from(index)
                .ok()
                .and_then(|index| headers.get(index))
                .is_some_and(|header| header.digest() == position.digest),
        };
        let extends = contains(selection.checkpoint) && contains(stable);
        if extends { Way::Joins(at, headers) } else { Way::Refused }
    }

    /// Rules 4 and 5: puts the headers up to the head on the chain, writes down that the view begins there, and votes
    /// for the head when that and all batches up to it are durable.
    fn enter(
        &mut self,
        candidate: &Candidate,
        at: Position,
        headers: Vec<Arc<Header>>,
        out: &mut Vec<Output>,
    ) {
        let (view, head) = (candidate.view(), candidate.selection.head);
        let (from, why) = (self.view, self.claims.why_left(self.view));
        assert!(view > self.view && view >= self.view(), "a view is entered once");
        self.record_certificate(out);
        self.set_aside_above(at.seq.max(self.chain.committed().seq));
        for header in headers {
            self.take_over(view, header, out);
        }
        self.chain.forget_view();
        self.recompute_marks();
        let new_view = candidate.message.digest();
        let mut after = self.append(Fact::EnterView { view, new_view, head }, out);
        // What was voted in lower views leaves before anything of this one.
        after.and_all(&self.cast);
        self.suspicion.on_view(self.view(), view);
        self.begin(view, head, after);
        self.new_view_digest = new_view;
        self.vote_for_head(out);
        self.expect_batches(out);
        let message = Arc::clone(&candidate.message);
        let primary = self.config.primary(view);
        if primary == self.me && self.is_voter() {
            let (to, message) = (Destination::Others, Outgoing::NewView(Arc::clone(&message)));
            out.push(Output::Send { to, message, after: self.entered_after.clone() });
        }
        self.new_view = Some(message);
        out.push(Output::ViewEntered { view, from, why });
        self.check_claims(out);
    }

    /// A header that lies on the way to the head of `view`: written down unless it was before.
    fn take_over(&mut self, view: View, header: Arc<Header>, out: &mut Vec<Output>) {
        let digest = header.digest();
        let known = self.spare.lsn(Position { seq: header.seq, digest });
        let lsn = known.unwrap_or_else(|| {
            let fact = Fact::Accepted { view, header: Arc::clone(&header), voted: false };
            self.append(fact, out);
            self.lsn
        });
        let after = After::position(self.journal, lsn);
        self.chain.push(Slot::new(header, digest, lsn, after));
    }

    /// Everything that belongs to one view alone starts anew.
    fn begin(&mut self, view: View, head: Position, after: After) {
        self.view = view;
        self.standing = Standing::Entered;
        self.ballot = None;
        self.recast.clear();
        self.votes.enter(view);
        self.votes.help_anew();
        self.head = head;
        self.entered_after = after;
        self.pending.clear();
        self.waits_for = None;
        self.clock_wait = None;
        self.own_prepares.clear();
        self.own_commit = None;
        self.head_vote = None;
        for change in self.changes.iter_mut().flatten().filter(|change| change.view <= view) {
            change.message = None;
        }
        self.voted = self.chain.accepted().seq;
        // Status goes out at once: what others have voted in this view already was lost here.
        self.status_due = Nanoseconds(0);
    }

    /// The first vote in a view is for its head alone, and there is none where a checkpoint covers it.
    fn vote_for_head(&mut self, out: &mut Vec<Output>) {
        let (view, head) = (self.view, self.head);
        if !self.is_voter() || head.seq <= self.checkpoints.stable().seq {
            return;
        }
        let Some(header) = self.chain.header(head).cloned() else { return };
        let mut after = self.append(Fact::Accepted { view, header, voted: true }, out);
        after.and_all(&self.entered_after);
        let lsn = self.lsn;
        let slot = self.chain.slot_mut(head.seq).expect("invariant: just found");
        (slot.lsn, slot.after, slot.voted) = (lsn, after, true);
        self.ballot = Some(head);
        self.head_vote = Some(head.seq);
    }

    /// A vote for the head speaks for the batches of all its ancestors: those that are not held are fetched.
    pub(crate) fn expect_batches(&mut self, out: &mut Vec<Output>) {
        let mut lacking = std::collections::BTreeMap::new();
        let mut seq = self.chain.committed().seq.next();
        while let Some(slot) = self.chain.slot(seq) {
            lacking.extend(slot.header.cut.iter().map(|tip| (tip.lane, *tip)));
            seq = seq.next();
        }
        lacking.retain(|_, tip| !self.board.holds(tip));
        out.extend(lacking.values().map(|tip| Output::Want(*tip)));
        self.lacking = Some(lacking);
        self.check_lacking();
    }

    /// When the last batch has come that the chain names, the votes wait for all of them to be durable.
    pub(crate) fn check_lacking(&mut self) {
        let Some(lacking) = &mut self.lacking else { return };
        let committed = &self.committed_marks;
        lacking.retain(|lane, tip| {
            let settled = committed.get(lane).is_some_and(|mark| mark.upto >= tip.upto);
            !settled && !self.board.holds(tip)
        });
        if !lacking.is_empty() {
            return;
        }
        // One that is committed and not held is missing besides.
        let Some(batches) = self.board.cover(&self.accepted_marks) else { return };
        self.lacking = None;
        let (accepted, committed) = (self.chain.accepted().seq, self.chain.committed().seq);
        for seq in (committed.0 + 1..=accepted.0).map(Seq) {
            let slot = self.chain.slot_mut(seq).expect("invariant: slots above the committed one are kept");
            slot.after.and_all(&batches);
        }
    }

    fn wanted_for_view(&self) -> Option<(Position, View)> {
        self.candidate.as_ref().and_then(|candidate| Some((candidate.wanted?, candidate.view())))
    }

    /// No headers are wanted for a view any more: whoever was asked for them has room for other questions of this tick.
    pub(crate) fn finish_for_view(&mut self, now: Nanoseconds) {
        if self.wanted_for_view().is_none() {
            self.header_fetches.finish(now, Purpose::View);
        }
    }

    /// Asks for headers on the way to the head of a new view: its primary first, which has entered it and so has them all.
    pub(crate) fn fetch_for_view(&mut self, now: Nanoseconds, out: &mut Vec<Output>) {
        let above = self.chain.committed().seq;
        let Some((wanted, view)) = self.wanted_for_view() else { return };
        // What is asked for on the way into one view may be wanted on the way into the next.
        if !self.header_fetches.contains(Purpose::View) {
            self.header_fetches.begin(now, Purpose::View, wanted.seq.since(above), 0);
        }
        let primary = self.config.primary(view);
        let connected = self.votes.peers().filter(|(_, peer)| peer.connected).map(|(replica, _)| replica);
        let mut servers: Vec<ReplicaId> = connected.filter(|replica| *replica != self.me).collect();
        servers.sort_by_key(|replica| *replica != primary);
        self.header_fetches.ask(now, Purpose::View, &servers, wanted, above, out);
    }

    /// Takes headers on the way to the head of a new view, which link backwards from one that was wanted.
    pub(crate) fn take_for_view(&mut self, now: Nanoseconds, headers: Vec<Header>, out: &mut Vec<Output>) {
        let certified = self.certificate.as_ref().map(|found| found.position);
        let committed = self.chain.committed().seq;
        for header in headers.into_iter().filter(|header| header.seq > committed) {
            self.spare.insert(Arc::new(header), None, certified);
        }
        self.try_enter(out);
        self.fetch_for_view(now, out);
    }
}
