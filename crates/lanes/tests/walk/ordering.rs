//! What the ordering and execution roles do with the lanes: a small model of consensus, of which there is one for all.

use super::{Cut, Decided, Mistake, Proposal, VIEW_ROUNDS, World};
use quorate_types::{LaneId, Mark, View};
use quorate_wire::LaneTip;
use std::collections::BTreeMap;

/// Who lacks batches for so many rounds takes over a certified state.
const TRANSFER_ROUNDS: u64 = 3;

impl World {
    /// What the ordering role does with the lanes: it proposes, accepts, and asks for what it waits for. Who is behind has
    /// other worries, and no clock of its runs.
    pub(super) fn look(&mut self, at: usize) {
        let lanes: Vec<LaneId> = self.machines[at].boards.keys().copied().collect();
        lanes.into_iter().for_each(|lane| self.count_last(at, lane));
        let is_due = self.machines[at].looked < self.round;
        self.machines[at].looked = self.round;
        if self.is_behind(at) || self.cut_off == Some(at) {
            self.machines[at].waits = None;
            self.machines[at].awaited.clear();
            return;
        }
        if self.primary() == self.machines[at].me && self.proposal.is_none() {
            self.propose(at);
        }
        let waits = self.waits_for(at);
        let (round, primary) = (self.round, self.primary());
        let machine = &mut self.machines[at];
        let since = machine.waits.unwrap_or(round);
        machine.waits = waits.map(|_| since);
        if let (Some((tip, floor)), Some(node), true) = (waits, &mut machine.node, is_due && round > since) {
            node.lanes.want_proposed(node.now, tip, floor, primary, &mut node.out);
        }
        self.watch(at);
    }

    /// What the cut that is proposed waits for here.
    fn waits_for(&self, at: usize) -> Option<(LaneTip, Mark)> {
        let proposal = self.proposal.as_ref()?;
        let primary = self.config.primary(View(proposal.view));
        let anybody = self.makes(Mistake::AcknowledgementlessCut);
        let waits = |(lane, mark): (&LaneId, &Mark)| {
            let from = self.committed(*lane);
            let board = self.machines[at].boards.get(lane);
            let accepts = board.is_some_and(|board| {
                let supported = board.known.get(mark).is_some_and(|known| known.support.is_some());
                board.holds(*mark, from) && (supported || anybody || lane.origin == primary)
            });
            (!accepts).then_some((LaneTip::at(*lane, *mark), from))
        };
        proposal.cut.iter().find_map(waits)
    }

    /// Whether a replica votes for what is proposed: it has accepted it, and all that it names is durable.
    fn votes(&self, at: usize) -> bool {
        let Some(proposal) = &self.proposal else { return false };
        let machine = &self.machines[at];
        let is_durable = |(lane, mark): (&LaneId, &Mark)| {
            let after =
                machine.boards.get(lane).map(|board| board.durable_after(*mark, self.committed(*lane)));
            after.is_some_and(|after| after <= machine.disk.durable())
        };
        machine.node.is_some()
            && self.cut_off != Some(at)
            && !self.is_behind(at)
            && self.waits_for(at).is_none()
            && proposal.cut.iter().all(is_durable)
    }

    fn propose(&mut self, at: usize) {
        let me = self.machines[at].me;
        let mut cut = Cut::new();
        for (lane, board) in &self.machines[at].boards {
            let from = self.committed(*lane);
            let own = Some(board.tip)
                .filter(|tip| lane.origin == me && tip.upto > from.upto && board.descends(*tip, from));
            if let Some(mark) = board.quorum(from).max(own) {
                cut.insert(*lane, mark);
            }
        }
        if !cut.is_empty() {
            self.proposal = Some(Proposal { view: self.view, cut });
        }
    }

    /// A lane is awaited; nobody gives an honest primary up for that once the network is well.
    fn watch(&mut self, at: usize) {
        let mut awaited = BTreeMap::new();
        let stands = self.proposal.is_some() && self.waits_for(at).is_none();
        let dead = self.makes(Mistake::DeadTipAwaited);
        for (lane, board) in &self.machines[at].boards {
            let named = self.proposal.as_ref().filter(|_| stands);
            let named = named.and_then(|proposal| proposal.cut.get(lane)).copied();
            let from = named.unwrap_or(self.committed(*lane));
            let tip = if dead { board.quorum_anywhere(from) } else { board.quorum(from) };
            let Some(tip) = tip else { continue };
            let before = self.machines[at].awaited.get(lane);
            let stays =
                before.filter(|(old, _)| old.upto > from.upto && (dead || board.descends(*old, from)));
            awaited.insert(*lane, stays.copied().unwrap_or((tip, self.round)));
        }
        self.machines[at].awaited = awaited;
    }

    /// Whether some honest replica would give the view up by now, and why.
    pub(crate) fn suspicion(&self) -> Option<String> {
        let over = |since: u64| self.round.saturating_sub(since.max(self.view_round)) >= VIEW_ROUNDS;
        self.machines.iter().find_map(|machine| {
            let waits = machine.waits.filter(|since| over(*since));
            let waits = waits.map(|_| format!("r{}: what the primary named cannot be had", machine.me));
            let awaited = machine.awaited.iter().find(|(_, (_, since))| over(*since));
            waits.or(awaited.map(|(lane, (mark, _))| {
                format!("r{}: {mark:?} of lane {lane} is not named by r{}", machine.me, self.primary())
            }))
        })
    }

    pub(crate) fn is_led_by_a_liar(&self) -> bool {
        self.liars.contains(&self.primary())
    }

    /// Whether nobody may be given up: the primary is honest, and for the time of a view all could do what they should. Who
    /// is behind acknowledges nothing that it has to fetch, and f liars may say to one of the others what they like.
    pub(crate) fn is_led_well(&self) -> bool {
        !self.is_led_by_a_liar() && self.round - self.unsettled >= VIEW_ROUNDS
    }

    /// A round is over.
    pub(crate) fn note_round(&mut self) {
        self.slow = self.slow.filter(|at| self.is_behind(*at));
        if self.cut_off.is_some() || self.slow.is_some() {
            self.unsettled = self.round;
        }
    }

    pub(crate) fn next_view(&mut self) {
        self.view += 1;
        self.view_round = self.round;
        self.proposal = None;
        self.machines.iter_mut().for_each(|machine| {
            machine.waits = None;
            machine.awaited.clear();
        });
    }

    pub(crate) fn view_age(&self) -> u64 {
        self.round - self.view_round
    }

    /// Commits what is proposed if a quorum votes for it, the liars among it if they like.
    pub(crate) fn decide(&mut self, liars_vote: bool) {
        let votes = (0..self.machines.len()).filter(|at| self.votes(*at)).count();
        let votes = votes + if liars_vote { self.liars.len() } else { 0 };
        if votes < self.config.quorums().quorum {
            return;
        }
        let Some(Proposal { view, cut }) = self.proposal.take() else { return };
        self.check_origins(&cut);
        let mut tips = self.history[self.last()].tips.clone();
        tips.extend(cut);
        self.certain.retain(|(lane, mark), _| mark.upto > tips.get(lane).copied().unwrap_or_default().upto);
        self.history.push(Decided { tips, view });
    }

    /// What only headers of lower views name, and what is committed leaves out, is let go of.
    pub(super) fn unname(&mut self, at: usize, known: usize, view: u64) {
        let mut gone = Vec::new();
        let machine = &mut self.machines[at];
        for (lane, board) in &mut machine.boards {
            let decided = self.history[known].tips.get(lane).copied().unwrap_or_default();
            gone.extend(board.unname(view, decided).into_iter().map(|mark| LaneTip::at(*lane, mark)));
        }
        if let Some(node) = &mut machine.node {
            node.lanes.unname(&gone, &mut node.out);
            self.carry_out(at);
        }
    }

    pub(super) fn execute(&mut self, at: usize) {
        while self.machines[at].node.is_some() && self.machines[at].executed < self.machines[at].known {
            let executed = self.machines[at].executed;
            let lacks = self.history[executed + 1].tips.iter().find(|(lane, mark)| {
                let from = self.mark_after(executed, **lane);
                mark.upto > from.upto
                    && !self.machines[at].boards.get(lane).is_some_and(|board| board.holds(**mark, from))
            });
            let lacks = lacks.map(|(lane, mark)| LaneTip::at(*lane, *mark));
            if let Some(tip) = lacks {
                return self.wait_or_take_over(at, tip);
            }
            self.take_executed(at, executed + 1, false);
        }
    }

    /// What is executed next is not here: it is asked for, and after a while a certified state is taken over.
    fn wait_or_take_over(&mut self, at: usize, tip: LaneTip) {
        let certified = self.certified.last().copied().unwrap_or_default();
        let round = self.round;
        let machine = &mut self.machines[at];
        let since = *machine.stuck.get_or_insert(round);
        let node = machine.node.as_mut().expect("it executes");
        node.lanes.want(node.now, tip, &mut node.out);
        let may_take = certified > machine.executed && certified <= machine.known;
        if may_take && round - since >= TRANSFER_ROUNDS && self.cut_off != Some(at) {
            machine.saved.insert(certified);
            machine.checkpoint = certified;
            self.take_executed(at, certified, true);
            let tips = self.tips_after(certified);
            let node = self.machines[at].node.as_mut().expect("it executes");
            node.lanes.trim(&tips, &mut node.out);
            self.carry_out(at);
        }
    }

    fn take_executed(&mut self, at: usize, executed: usize, is_installed: bool) {
        let tips = self.tips_after(executed);
        let machine = &mut self.machines[at];
        let node = machine.node.as_mut().expect("it executes");
        if is_installed {
            node.lanes.install(&tips, &mut node.out);
        } else {
            node.lanes.on_executed(&tips);
        }
        machine.executed = executed;
        machine.stuck = None;
        for tip in tips {
            machine.boards.entry(tip.lane).or_default().settle(tip.mark());
        }
    }
}
