//! The end of a tick: what coalesces leaves.

use super::states::checkpoint;
use super::wake::Waking;
use super::{CONSENSUS_LINK, Core};
use crate::execution::{Answer, ExecutionRole};
use crate::interface::{ClientConnection, Effect, Reject};
use crate::link::LinkRole;
use crate::mail::{LinkMail, Mail, OrderingMail};
use crate::ordering::OrderingRole;
use quorate_types::Nanoseconds;
use quorate_wire::Claims;
use std::sync::Arc;

impl Core {
    /// What coalesces leaves: first the lanes, then what consensus makes of them, then execution; of these those that are
    /// due.
    pub(super) fn on_tick_end(&mut self, now: Nanoseconds, effects: &mut Vec<Effect>) {
        let (link, ordering) = (self.link.is_due(now), is_due(self.ordering.as_ref(), now));
        if link || ordering {
            self.check_signatures(now, link, ordering, effects);
        }
        if self.link.is_due(now) {
            self.end_lanes(now, effects);
        } else if cfg!(debug_assertions) {
            self.link.asleep().lanes.on_tick_end(now, &mut self.lanes_outputs);
            assert!(self.lanes_outputs.is_empty(), "said without cause: {:?}", self.lanes_outputs);
            self.link.assert_asleep(LinkRole::deadline);
        }
        self.drain(now, effects);
        if is_due(self.ordering.as_ref(), now) {
            self.end_ordering(now, effects);
        } else if cfg!(debug_assertions)
            && let Some(ordering) = &mut self.ordering
        {
            ordering.asleep().consensus.on_tick_end(now, &mut self.consensus_outputs);
            assert!(self.consensus_outputs.is_empty(), "said without cause: {:?}", self.consensus_outputs);
            ordering.assert_asleep(OrderingRole::deadline);
        }
        if is_due(self.execution.as_ref(), now) {
            self.end_execution(now, effects);
        }
        self.drain(now, effects);
    }

    fn end_lanes(&mut self, now: Nanoseconds, effects: &mut Vec<Effect>) {
        self.link.lanes.on_tick_end(now, &mut self.lanes_outputs);
        let reports = self.link.reports.begin(now);
        self.link.ran(!self.lanes_outputs.is_empty(), LinkRole::deadline);
        self.carry_out_lanes(now, effects);
        tell_bitten(self.link.asleep().lanes.take_credits_used_up(), 0, effects);
        for extras in reports {
            let mail = Mail::Ordering(OrderingMail::Report { core: self.core, extras });
            self.post(self.layout.ordering(), mail, effects);
        }
    }

    fn end_ordering(&mut self, now: Nanoseconds, effects: &mut Vec<Effect>) {
        let ordering = self.ordering.as_mut().expect("invariant: only the ordering core has consensus");
        ordering.consensus.note_time(now);
        let liars = ordering.take_view_changes(now);
        ordering.answer(now, &mut self.consensus_outputs);
        let (credits_used_up, checks_uncovered) = ordering.take_bites();
        tell_bitten(credits_used_up, checks_uncovered, effects);
        for peer in liars.iter() {
            self.reject_peer(peer, CONSENSUS_LINK, Reject::ConsensusSignature, effects);
        }
        self.end_consensus(now, effects);
        if self.ordering.as_ref().is_some_and(|ordering| ordering.completes_a_certificate()) {
            // What was just accepted is voted for already: its COMMIT need not wait for another tick.
            self.check_signatures(now, false, true, effects);
            self.end_consensus(now, effects);
        }
    }

    fn end_consensus(&mut self, now: Nanoseconds, effects: &mut Vec<Effect>) {
        let ordering = self.ordering.as_mut().expect("invariant: only the ordering core has consensus");
        ordering.consensus.on_tick_end(now, &mut self.consensus_outputs);
        let goes_on = !self.consensus_outputs.is_empty() || ordering.has_unchecked();
        ordering.ran(goes_on, OrderingRole::deadline);
        self.carry_out_consensus(now, effects);
        self.drain(now, effects);
    }

    fn end_execution(&mut self, now: Nanoseconds, effects: &mut Vec<Effect>) {
        let before = (effects.len(), self.local.len());
        self.execute(now, effects);
        self.answer_pages(now, effects);
        self.look_after_transfers(now, effects);
        let said = (effects.len(), self.local.len()) != before;
        if let Some(execution) = &mut self.execution {
            execution.ran(said, ExecutionRole::deadline);
            tell_bitten(execution.asleep().take_credits_used_up(), 0, effects);
        }
    }

    fn execute(&mut self, now: Nanoseconds, effects: &mut Vec<Effect>) {
        let Some(execution) = &mut self.execution else { return };
        let turn = execution.run(effects);
        let executed = execution.executed();
        self.reply(turn.replies, effects);
        self.tell_replaced(turn.replaced, effects);
        if !turn.progress {
            return;
        }
        effects.extend(turn.checkpoints.into_iter().map(checkpoint));
        self.post(self.layout.ordering(), Mail::Ordering(OrderingMail::Executed(executed)), effects);
        let tips: Arc<[_]> = turn.tips.into();
        for core in self.layout.all() {
            self.post(core, Mail::Link(LinkMail::Executed(Arc::clone(&tips))), effects);
        }
        if let Some(uses) = self.execution.as_mut().and_then(|execution| execution.asleep().uses(now)) {
            for core in self.layout.all() {
                self.post(core, Mail::Link(LinkMail::Used(Arc::clone(&uses))), effects);
            }
        }
    }

    /// Replies go to the cores of their connections, and after them how many of them carry results.
    fn reply(&mut self, replies: Vec<Answer>, effects: &mut Vec<Effect>) {
        for Answer { connection, frame, results } in replies {
            self.replied[usize::from(connection.core.0)] += u64::from(results);
            self.post(connection.core, Mail::Link(LinkMail::Reply { connection, frame }), effects);
        }
        for core in self.layout.all() {
            let bundles = std::mem::take(&mut self.replied[usize::from(core.0)]);
            if bundles > 0 {
                self.post(core, Mail::Link(LinkMail::Replied { bundles, executed: None }), effects);
            }
        }
    }

    pub(super) fn tell_replaced(
        &mut self,
        replaced: impl IntoIterator<Item = ClientConnection>,
        effects: &mut Vec<Effect>,
    ) {
        for connection in replaced {
            self.post(connection.core, Mail::Link(LinkMail::Replaced(connection)), effects);
        }
    }

    /// Checks all signatures together that this tick has brought: of clients to the link role, of replicas to the ordering
    /// role, of each if it is due.
    fn check_signatures(&mut self, now: Nanoseconds, link: bool, ordering: bool, effects: &mut Vec<Effect>) {
        let config = Arc::clone(&self.config);
        let mut claims = Claims::new(&config);
        if link {
            self.link.lanes.claim(&mut claims);
        }
        if let Some(role) = self.ordering.as_mut().filter(|_| ordering) {
            role.claim(&mut claims);
        }
        let mut verdicts = claims.verdicts();
        if link {
            self.link.lanes.settle(&mut verdicts, &mut self.lanes_outputs);
            self.carry_out_lanes(now, effects);
        }
        if let Some(role) = self.ordering.as_mut().filter(|_| ordering) {
            let liars = role.settle(&mut verdicts, &mut self.consensus_outputs);
            self.carry_out_consensus(now, effects);
            for peer in liars.iter() {
                self.reject_peer(peer, CONSENSUS_LINK, Reject::ConsensusSignature, effects);
            }
        }
        assert!(verdicts.next().is_none(), "each verdict was asked for by somebody");
    }
}

fn tell_bitten(credits_used_up: u64, checks_uncovered: u64, effects: &mut Vec<Effect>) {
    if credits_used_up + checks_uncovered > 0 {
        effects.push(Effect::Bitten { credits_used_up, checks_uncovered });
    }
}

/// Whether this core has the role, and it is to be run.
fn is_due<T>(role: Option<&Waking<T>>, now: Nanoseconds) -> bool {
    role.is_some_and(|role| role.is_due(now))
}
