//! A liar about acknowledgements: what it says to hold depends on whom it talks to, and not on what it holds.

use super::{Agent, Leaving, at_once};
use crate::liars::Habit;
use quorate_types::{LinkId, ReplicaId};
use quorate_wire::message::{LaneAcks, Message};
use quorate_wire::{Frame, LaneTip};

impl Agent {
    /// What a peer is told in the place of acknowledgements.
    pub(super) fn say(&mut self, to: ReplicaId, link: LinkId, frame: Frame) -> Vec<Leaving> {
        let Ok(mut acks) = LaneAcks::decode(frame.payload()) else { return vec![at_once(to, link, frame)] };
        acks.tips.iter().for_each(|tip| self.note_known(*tip));
        if self.spares(to, link) {
            acks.tips.retain(|tip| tip.lane.origin != self.liar.replica);
            return vec![at_once(to, link, acks.encode())];
        }
        if !self.liar.has(Habit::DistortsAcknowledgements) {
            return vec![at_once(to, link, frame)];
        }
        match self.random.below(10) {
            0 | 1 => return Vec::new(),
            2..=4 => acks.tips.retain(|_| self.random.percent(50)),
            5..=7 => {
                for _ in 0..self.random.between(1, 2) {
                    let known = self.some_tip(link);
                    acks.tips.extend(known);
                }
            }
            _ => {}
        }
        vec![at_once(to, link, acks.encode())]
    }

    /// A tip of a lane of this link that there is, or at times one that there is not.
    pub(super) fn some_tip(&mut self, link: LinkId) -> Option<LaneTip> {
        let known: Vec<LaneTip> = self.known.iter().filter(|tip| tip.lane.link == link).copied().collect();
        let index = self.random.index(known.len().max(1));
        let mut tip = known.get(index).copied()?;
        if self.random.percent(15) {
            tip.upto = tip.upto.next();
            tip.chain = self.any_digest();
        }
        Some(tip)
    }
}
