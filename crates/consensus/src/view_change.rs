//! Leaving a view (DESIGN section 4, view change 2).
//!
//! A replica follows the claims of others, never a clock: its own suspicion is one claim among them. What it has
//! promised by leaving (no vote in any view below) is on disk before anybody hears of it.

use crate::chain::PreparedCertificate;
use crate::claims::{Target, contradict};
use crate::consensus::Consensus;
use crate::output::{Destination, Fact, Outgoing, Output, Reject};
use crate::verified::Verified;
use quorate_types::mistakes::is_made;
use quorate_types::{After, Mistake, ReplicaId, Signature, View};
use quorate_wire::SuspectReason;
use quorate_wire::message::{PrePrepare, Suspect, ViewChange};
use std::sync::Arc;

/// Whether this replica works in a view or waits for one.
#[derive(Clone, Debug)]
pub(crate) enum Standing {
    /// It knows where the view begins and votes in it.
    Entered,
    /// It has left the view that it worked in and waits for the beginning of a higher one. It accepts and votes for
    /// nothing; what others prove to be committed it takes all the same.
    Pending(Pending),
}

/// What a replica that waits for a view says until it begins.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) target: View,
    pub(crate) message: Arc<ViewChange>,
    /// What must be durable before the message leaves.
    pub(crate) after: After,
}

/// The highest view change of a replica.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) view: View,
    /// What it says, kept by the primary of that view alone, without the reasons.
    pub(crate) message: Option<Arc<ViewChange>>,
}

impl Consensus {
    /// The view that this replica works in or, having left that, waits for.
    #[must_use]
    pub fn view(&self) -> View {
        match &self.standing {
            Standing::Entered => self.view,
            Standing::Pending(pending) => pending.target,
        }
    }

    /// Whether this replica works in its view, rather than waiting for it to begin.
    #[must_use]
    pub fn has_entered(&self) -> bool {
        matches!(self.standing, Standing::Entered)
    }

    /// Whether a wish for a view is worth verifying: per peer, only the highest says anything.
    #[must_use]
    pub fn wants_suspect(&self, signer: ReplicaId, message: &Suspect) -> bool {
        self.claims.is_news(signer, message)
    }

    /// Takes a wish for the next view. What follows from it happens at the end of the tick.
    pub fn on_suspect(&mut self, message: Verified<Suspect>) {
        self.claims.note(message.signer(), message.into_message());
    }

    /// What of a view change is worth verifying; nothing if it says nothing new.
    #[must_use]
    pub fn news_of_view_change(&self, from: ReplicaId, mut message: ViewChange) -> Option<ViewChange> {
        message.suspects.retain(|(signer, suspect)| self.claims.is_news(*signer, suspect));
        let present = self.view();
        if message.proposals.first().is_some_and(|first| first.view != present)
            || self.claims.evidence(present).is_some()
        {
            message.proposals.clear();
        }
        let known = self.changes.get(from.index())?.as_ref();
        let higher = known.is_none_or(|change| change.view < message.new_view);
        let news = higher || !message.suspects.is_empty() || !message.proposals.is_empty();
        news.then_some(message)
    }

    /// Takes a view change, and what made its sender move as if that had come by itself.
    pub fn on_view_change(&mut self, message: Verified<ViewChange>) {
        let signer = message.signer();
        let mut message = message.into_message();
        for (wisher, suspect) in std::mem::take(&mut message.suspects) {
            self.claims.note(wisher, suspect);
        }
        if let Ok([first, second]) = <[PrePrepare; 2]>::try_from(std::mem::take(&mut message.proposals)) {
            self.convict(first, second);
        }
        let view = message.new_view;
        let change = &mut self.changes[signer.index()];
        if change.as_ref().is_none_or(|known| known.view < view) {
            let leads = self.config.primary(view) == self.me;
            *change = Some(Change { view, message: leads.then(|| Arc::new(message)) });
        }
    }

    /// Two proposals of the primary for one slot: it is to be replaced.
    pub(crate) fn convict(&mut self, first: PrePrepare, second: PrePrepare) {
        if first.view == self.view() && contradict(&first, &second) {
            self.claims.convict(first, second);
        }
    }

    /// Follows the claims of others, and the own one, to a higher view.
    pub(crate) fn follow_claims(&mut self, out: &mut Vec<Output>) {
        if !self.is_voter() {
            return;
        }
        let config = Arc::clone(&self.config);
        let primary = |view| config.primary(view);
        let target = self.claims.target(self.view(), self.quorums.weak, primary);
        if target.view > self.view() {
            self.move_to(target, out);
        }
    }

    /// Leaves the present view for good. The VIEW-CHANGE waits until that is durable, and until every vote that this
    /// replica has cast before is on its way.
    fn move_to(&mut self, target: Target, out: &mut Vec<Output>) {
        assert!(target.view > self.view(), "views do not go back");
        self.record_certificate(out);
        let mut after = self.append(Fact::ViewState { view: target.view }, out);
        after.and_all(&self.cast);
        if is_made(Mistake::ChangesViewBeforeDurable) {
            after = After::nothing();
        }
        if self.claims.claim(self.me) < target.view {
            self.wish(target.view.previous(), SuspectReason::Joined);
        }
        let (view, why) = (self.view(), self.claims.why_left(self.view()));
        out.push(Output::ViewLeft { view, target: target.view, why });
        let message = Arc::new(self.view_change(target));
        self.suspicion.on_view(self.view(), target.view);
        self.votes.help_anew();
        self.pending.clear();
        self.waits_for = None;
        self.clock_wait = None;
        if self.candidate.as_ref().is_some_and(|candidate| candidate.view() < target.view) {
            self.candidate = None;
        }
        let pending = Pending { target: target.view, message: Arc::clone(&message), after: after.clone() };
        self.standing = Standing::Pending(pending);
        out.push(Output::Send { to: Destination::All, message: Outgoing::ViewChange(message), after });
    }

    /// The own VIEW-CHANGE with all that proves and explains it.
    pub(crate) fn view_change(&self, target: Target) -> ViewChange {
        let config = Arc::clone(&self.config);
        let primary = |view| config.primary(view);
        let passed = target.claimed.0..target.view.0;
        let evidence = passed.filter_map(|view| self.claims.evidence(View(view))).next();
        let committed = self.chain.committed().seq;
        let shown = |found: &&PreparedCertificate| {
            found.position.seq <= committed || !is_made(Mistake::ShowsCommittedAlone)
        };
        let message = ViewChange {
            new_view: target.view,
            stable: self.checkpoints.certificate().map(|certificate| (**certificate).clone()),
            prepared: self.certificate.as_ref().filter(shown).map(PreparedCertificate::to_wire),
            suspects: self.claims.reasons(target, self.quorums.weak, self.me, primary),
            proposals: evidence.map(|pair| pair.to_vec()).unwrap_or_default(),
            signature: Signature([0; 64]),
        };
        self.keyring.sign_view_change(message).into_message()
    }

    /// What the own view change says goes again to a peer that has not heard it, or to the primary of the view.
    pub(crate) fn resend_view_change(&self, to: ReplicaId, out: &mut Vec<Output>) {
        if let Standing::Pending(Pending { message, after, .. }) = &self.standing
            && to != self.me
        {
            let (message, after) = (Outgoing::ViewChange(Arc::clone(message)), after.clone());
            out.push(Output::Send { to: Destination::One(to), message, after });
        }
    }

    /// A view change whose proofs do not hold counts for nothing, and its sender gets no second chance in this view.
    pub(crate) fn disprove(&mut self, signer: ReplicaId, out: &mut Vec<Output>) {
        if let Some(change) = &mut self.changes[signer.index()] {
            change.message = None;
        }
        out.push(Output::Rejected(Reject::Certificate));
    }

    /// What a view change waits for, in words.
    pub(crate) fn waiting_for_view(&self) -> Option<String> {
        let (view, quorum) = (self.view(), self.quorums.quorum);
        if let Some(candidate) = &self.candidate {
            let view = candidate.view();
            return Some(match candidate.wanted() {
                Some(wanted) => format!("fetching header {}, on the way into view {view}", wanted.seq),
                None => format!("catching up before view {view} can be entered"),
            });
        }
        if !self.has_entered() {
            let count = self.claims.count(view);
            let primary = self.config.primary(view);
            return Some(format!(
                "replica {primary} to begin view {view}; {count} of {quorum} replicas want it"
            ));
        }
        if let Some(tip) = self.lacking.as_ref().and_then(|lacking| lacking.values().next()) {
            let (lane, upto) = (tip.lane, tip.upto);
            return Some(format!(
                "fetching batches of lane {lane} up to {upto}, named by headers that were taken over"
            ));
        }
        if self.has_suspected() {
            let (next, count) = (view.next(), self.claims.count(view.next()));
            return Some(format!("view {next}; {count} of {} replicas want it", self.quorums.weak));
        }
        None
    }
}
