//! When a primary is given up (DESIGN section 4, view change 1 and 7).
//!
//! Clocks run from when there is something to wait for: a lane's tip to be named, a header to be committed, batches
//! to be had, a view to begin. None runs while this replica knows that it is itself behind, nor within one timeout
//! of having caught up, as all of them start anew then.

use crate::board::{Board, Mark, Marks};
use crate::consensus::Consensus;
use crate::output::{Destination, Outgoing, Output};
use quorate_types::{After, LaneId, Nanoseconds, Seq, Signature, Tuning, View, limits};
use quorate_wire::message::Suspect;
use quorate_wire::{LaneTip, SuspectReason};
use std::collections::BTreeMap;

/// A tip with q acknowledgements that no accepted header names, and since when.
#[derive(Clone, Copy, Debug)]
struct Unnamed {
    tip: Mark,
    since: Nanoseconds,
}

/// The clocks of the present view.
#[derive(Debug, Default)]
pub(crate) struct Suspicion {
    /// k: the views that have failed since one of them brought a pipeline full of commits.
    failures: u64,
    /// The headers committed in the present view.
    commits: u64,
    unnamed: BTreeMap<LaneId, Unnamed>,
    /// Since when nothing above this committed slot is committed, though something is accepted.
    uncommitted: Option<(Seq, Nanoseconds)>,
    /// Since when this batch is missing that the primary named.
    unavailable: Option<(LaneTip, Nanoseconds)>,
    /// Since when q replicas want this view or a higher one.
    awaited: Option<(View, Nanoseconds)>,
    /// Since when others claim to have committed more than this slot and nothing proves it.
    behind: Option<(Seq, Nanoseconds)>,
}

impl Suspicion {
    /// T_v = T0 · 2^k, with a cap.
    pub(crate) fn timeout(&self, tuning: &Tuning) -> Nanoseconds {
        let factor = 1u64 << self.failures.min(40);
        Nanoseconds(tuning.view_timeout.0.saturating_mul(factor)).min(limits::VIEW_TIMEOUT_MAX)
    }

    /// The number of failed views that lengthen the timeout.
    pub(crate) fn failures(&self) -> u64 {
        self.failures
    }

    /// This replica has gone from one view to another: all between them have failed.
    pub(crate) fn on_view(&mut self, from: View, to: View) {
        self.failures = self.failures.saturating_add(to.since(from));
        self.commits = 0;
        self.stop();
    }

    /// So many headers more are committed.
    pub(crate) fn on_commits(&mut self, count: u64, tuning: &Tuning) {
        self.commits = self.commits.saturating_add(count);
        if self.commits >= tuning.proposals_max {
            self.failures = 0;
        }
    }

    /// All clocks stop.
    fn stop(&mut self) {
        self.unnamed.clear();
        self.uncommitted = None;
        self.unavailable = None;
        self.awaited = None;
    }

    /// The earliest start of any clock, with what it stands for.
    fn oldest(&self) -> Option<(Nanoseconds, SuspectReason)> {
        let unnamed = self.unnamed.values().map(|unnamed| unnamed.since).min();
        [
            (unnamed, SuspectReason::Unnamed),
            (self.uncommitted.map(|(_, since)| since), SuspectReason::Uncommitted),
            (self.unavailable.map(|(_, since)| since), SuspectReason::Unavailable),
            (self.awaited.map(|(_, since)| since), SuspectReason::NoNewView),
        ]
        .into_iter()
        .filter_map(|(since, reason)| Some((since?, reason)))
        .min_by_key(|(since, _)| *since)
    }

    /// Starts the clocks of tips that wait to be named. One stops when an accepted header leaves its lane at or beyond that
    /// place, on whatever chain, or beside its chain; if that header goes, it starts anew.
    fn watch_lanes(&mut self, now: Nanoseconds, accepted: &Marks, board: &Board) {
        self.unnamed.retain(|lane, unnamed| board.is_awaited(accepted, *lane, unnamed.tip));
        for (lane, tip) in board.awaited(accepted) {
            self.unnamed.entry(lane).or_insert(Unnamed { tip, since: now });
        }
    }
}

impl Consensus {
    /// Runs the clocks, and wishes for another view when one of them has run out.
    pub(crate) fn suspect_on_time(&mut self, now: Nanoseconds, out: &mut Vec<Output>) {
        if !self.is_voter() || self.has_suspected() {
            return;
        }
        if self.restarted == Some(self.view()) {
            return self.suspect(SuspectReason::Restarted, out);
        }
        self.run_clocks(now);
        let timeout = self.suspicion.timeout(&self.tuning);
        if let Some((since, reason)) = self.suspicion.oldest()
            && now.since(since) >= timeout.0
        {
            self.suspect(reason, out);
        }
    }

    /// Whether the clocks rest because this replica is behind. A certificate proves that; mere claims are believed for
    /// the time of a view only, as they may be lies, and one lie together with one truth is f+1 claims that nothing can
    /// ever prove.
    fn rests(&mut self, now: Nanoseconds) -> bool {
        if self.lacks_a_certified_slot() {
            return true;
        }
        let committed = self.chain.committed().seq;
        if self.suspicion.behind.is_some_and(|(seq, _)| seq != committed) {
            // What it has caught up with is no reason to suspect anybody.
            self.suspicion.stop();
        }
        let since = self.suspicion.behind.filter(|(seq, _)| *seq == committed);
        self.suspicion.behind = self.is_behind().then(|| since.unwrap_or((committed, now)));
        let timeout = self.suspicion.timeout(&self.tuning);
        self.suspicion.behind.is_some_and(|(_, since)| now.since(since) < timeout.0)
    }

    fn run_clocks(&mut self, now: Nanoseconds) {
        if self.rests(now) {
            return self.suspicion.stop();
        }
        if !self.has_entered() {
            let view = self.view();
            let wanted = self.claims.count(view) >= self.quorums.quorum;
            let since = self.suspicion.awaited.filter(|(awaited, _)| *awaited == view);
            self.suspicion.awaited = since.or(wanted.then_some((view, now)));
            return;
        }
        // What is committed and not here says that this replica is behind, too.
        if !self.missing.is_empty() {
            return self.suspicion.stop();
        }
        if self.is_full() {
            self.suspicion.unnamed.clear();
        } else {
            self.suspicion.watch_lanes(now, &self.accepted_marks, &self.board);
        }
        let committed = self.chain.committed().seq;
        let open = self.chain.accepted().seq > committed;
        let since = self.suspicion.uncommitted.filter(|(seq, _)| *seq == committed);
        self.suspicion.uncommitted = open.then(|| since.unwrap_or((committed, now)));
        let lacking = self.lacking.as_ref().and_then(|lacking| lacking.values().next().copied());
        let unavailable = lacking.or(self.waits_for.map(|waiting| waiting.tip));
        let since = self.suspicion.unavailable.filter(|(tip, _)| Some(*tip) == unavailable);
        self.suspicion.unavailable = unavailable.map(|tip| since.unwrap_or((tip, now)));
    }

    /// When a clock runs out, if one runs, or when claims that nothing has proved hold the clocks up no longer.
    pub(crate) fn suspicion_deadline(&self) -> Option<Nanoseconds> {
        if !self.is_voter() || self.has_suspected() {
            return None;
        }
        let timeout = self.suspicion.timeout(&self.tuning).0;
        let runs_out = self.suspicion.oldest().map(|(since, _)| since.plus(timeout));
        let rested = self.suspicion.behind.map(|(_, since)| since.plus(timeout));
        runs_out.into_iter().chain(rested.filter(|rested| *rested > self.now)).min()
    }

    /// Whether this replica has wished for the end of the present view already. It goes on voting in it until it
    /// moves.
    pub(crate) fn has_suspected(&self) -> bool {
        self.claims.claim(self.me) > self.view()
    }

    pub(crate) fn suspect(&mut self, reason: SuspectReason, out: &mut Vec<Output>) {
        let message = self.wish(self.view(), reason);
        let (message, after) = (Outgoing::Suspect(message), After::nothing());
        out.push(Output::Send { to: Destination::Others, message, after });
        // With this one there may be f+1.
        self.follow_claims(out);
    }

    /// Signs and notes the own wish for the view after `view`.
    pub(crate) fn wish(&mut self, view: View, reason: SuspectReason) -> Suspect {
        let message = Suspect { view, reason, signature: Signature([0; 64]) };
        let message = self.keyring.sign_suspect(message).into_message();
        self.claims.note(self.me, message.clone());
        message
    }
}
