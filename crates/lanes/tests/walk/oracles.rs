//! What must hold in every walk: while it goes on, and when all has come to rest.

use super::{Cut, VIEW_ROUNDS, World};
use crate::common::*;
use quorate_types::{LaneId, Mark, Why};
use quorate_wire::LaneTip;

impl World {
    /// What is acknowledged lies on the disk down to what is in the state there, and not for a header alone; but for a chain
    /// that has died while that was waited for. A better reason stands for all before it, on whatever chain behind it it
    /// lies: that was held for such a reason too, or executed, and may be executed again.
    pub(super) fn check_durable(&mut self, at: usize, tip: &LaneTip) {
        let machine = &self.machines[at];
        let floor = self.mark_after(machine.checkpoint, tip.lane);
        let executed = self.mark_after(machine.executed, tip.lane);
        let mut mark = tip.mark();
        if mark.upto > executed.upto && !self.extends(tip.lane, mark, executed) {
            return;
        }
        let mut best = Some(Why::Acknowledged).filter(|_| mark.upto <= executed.upto);
        while mark.upto > floor.upto {
            let why = machine.disk.durable_reason(tip.lane, mark);
            best = best.max(why);
            let is_vouched_for = best > Some(Why::Named) || self.is_vouched_behind(at, tip.lane, mark);
            if why.is_none() || !is_vouched_for {
                let text = format!("r{} acknowledges {tip:?}, and has {mark:?} as {why:?}", machine.me);
                return self.violations.push(text);
            }
            mark = self.registry[&(tip.lane, mark)].0;
        }
    }

    /// Whether something lies durably behind a batch, and for a better reason than a name.
    fn is_vouched_behind(&self, at: usize, lane: LaneId, mark: Mark) -> bool {
        let mut behind = self.machines[at].disk.durable_above(lane, mark);
        behind.any(|(other, why)| why > Why::Named && self.extends(lane, other, mark))
    }

    /// An honest origin seals behind all that it has acknowledged of a chain: it forks its lane only when it has lost a tail.
    pub(super) fn check_seal(&mut self, at: usize, lane: LaneId, mark: Mark, before: Mark) {
        let machine = &self.machines[at];
        let is_beside = |(other, why): &(Mark, Why)| {
            other.upto == mark.upto
                && *other != mark
                && *why > Why::Named
                && self.registry[&(lane, *other)].0 == before
        };
        if let Some((other, _)) = machine.disk.durable_above(lane, before).find(is_beside) {
            self.violations.push(format!("r{} seals {mark:?} beside {other:?}", machine.me));
        }
    }

    /// Of the lane of an honest origin nothing is committed that it has not sealed.
    pub(super) fn check_origins(&mut self, cut: &Cut) {
        for (lane, tip) in cut {
            let (mut at, from) = (*tip, self.committed(*lane));
            let is_honest = !self.liars.contains(&lane.origin);
            while is_honest && at.upto > from.upto {
                if !self.sealed.contains(&(*lane, at)) {
                    let text = format!("{at:?} of lane {lane} is committed, and r{} is honest", lane.origin);
                    return self.violations.push(text);
                }
                at = self.registry[&(*lane, at)].0;
            }
        }
    }

    /// What everybody knows of a lane, to be read.
    pub(crate) fn describe(&self, lane: LaneId) -> String {
        let mut text = format!(
            "round {}, view {} led by r{}, liars {:?}, committed {} cuts, here up to {:?}\n",
            self.round,
            self.view,
            self.primary(),
            self.liars,
            self.last(),
            self.committed(lane)
        );
        for machine in &self.machines {
            let board = machine.boards.get(&lane);
            let known = board.iter().flat_map(|board| &board.known);
            let known: Vec<String> = known
                .map(|(mark, known)| format!("{mark:?} {:?} {:?}", known.support, known.named))
                .collect();
            text += &format!(
                "  r{} knows {}, has executed {}, awaits {:?}, {}\n",
                machine.me,
                machine.known,
                machine.executed,
                machine.awaited.get(&lane),
                known.join("; ")
            );
        }
        text
    }

    /// What is wrong when all has come to rest.
    pub(crate) fn findings(&self) -> Vec<String> {
        let mut found = self.violations.clone();
        for at in 0..self.machines.len() {
            found.extend(self.unfinished(at));
        }
        // What is new may still be on its way.
        let old = self.certain.iter().filter(|(_, since)| self.round - **since > VIEW_ROUNDS);
        for ((lane, mark), _) in old {
            let decided = self.committed(*lane);
            if mark.upto <= decided.upto || !self.extends(*lane, *mark, decided) {
                continue;
            }
            for machine in &self.machines {
                if !machine.boards.get(lane).is_some_and(|board| board.holds(*mark, decided)) {
                    found
                        .push(format!("r{} lacks {mark:?} of lane {lane}, which a quorum holds", machine.me));
                }
            }
        }
        found.extend(self.over_budget());
        found
    }

    /// What a replica has not done.
    fn unfinished(&self, at: usize) -> Vec<String> {
        let (machine, mut found) = (&self.machines[at], Vec::new());
        if machine.executed != self.last() {
            found.push(format!("r{} has executed {} of {} cuts", machine.me, machine.executed, self.last()));
        }
        let own = lane_of(machine.me);
        if let Some(board) = machine.boards.get(&own)
            && board.tip != self.committed(own)
        {
            let committed = self.committed(own);
            found.push(format!(
                "the lane of r{} ends at {:?}, executed is {committed:?}",
                machine.me, board.tip
            ));
        }
        let Some(node) = &machine.node else { return vec![format!("r{} is down", machine.me)] };
        if node.lanes.is_adopting() {
            found.push(format!("r{} waits for what others hold of its lane", machine.me));
        } else if node.lanes.open_bytes() > 0 {
            found.push(format!("r{} has {} bytes open", machine.me, node.lanes.open_bytes()));
        }
        found
    }

    /// A lane holds n − f budgets, what is named, what is kept, and what is being fetched.
    fn over_budget(&self) -> Option<String> {
        let quorums = self.config.quorums();
        let tuning = self.config.tuning();
        let of_lane = (quorums.replicas - quorums.faults + 1) * tuning.lane_bytes_held_max()
            + tuning.lane_bytes_kept_max;
        let most = quorums.replicas * (of_lane + 64 * 1024);
        self.machines.iter().find_map(|machine| {
            let held = machine.node.as_ref()?.lanes.held_bytes();
            (held > most).then(|| format!("r{} holds {held} bytes", machine.me))
        })
    }
}
