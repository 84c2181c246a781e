//! An origin that leaves a fork behind: all but who leads hold a long one, and know that a quorum does, before it shows
//! everybody the batch beside which that began, and goes on there.

use super::forks::make_batch;
use super::{Agent, Leaving, at_once};
use crate::random::Random;
use quorate_types::{LaneNumber, LinkId, Mark, Nanoseconds, ReplicaId};
use quorate_wire::message::{LaneAcks, Message};
use quorate_wire::{BatchView, Frame, LaneTip};
use std::collections::BTreeMap;

/// The fork is so long that the lane does not pass it soon.
const FORK_BATCHES: usize = 24;
/// It begins beside one of the first so many batches.
const LEFT_MAX: u64 = 4;

/// Where a liar leaves forks behind.
#[derive(Debug)]
pub(super) struct Left {
    /// From which batch on, as soon as somebody else leads; and where it has.
    from: LaneNumber,
    beside: BTreeMap<LinkId, (LaneNumber, Vec<Frame>, LaneTip)>,
}

impl Left {
    pub(super) fn new(random: &mut Random) -> Self {
        Self { from: LaneNumber(random.between(1, LEFT_MAX)), beside: BTreeMap::new() }
    }
}

impl Agent {
    /// What a peer gets of the own lane, where a fork is left behind.
    pub(super) fn leave(&mut self, to: ReplicaId, link: LinkId, frame: Frame) -> Vec<Leaving> {
        let Ok(view) = BatchView::parse(frame.payload()) else { return vec![at_once(to, link, frame)] };
        self.named.keep_bundle(&view);
        let (number, primary) = (view.head.number, self.config.primary(self.view));
        if !self.left.beside.contains_key(&link) && number >= self.left.from && primary != self.liar.replica {
            let parent = Mark { upto: number.previous(), chain: view.head.previous };
            let (tip, fork) = self.fork_from(LaneTip::at(view.head.lane, parent));
            self.left.beside.insert(link, (number, fork, tip));
        }
        let Some((beside, fork, tip)) = self.left.beside.get(&link).filter(|(beside, ..)| *beside == number)
        else {
            return vec![at_once(to, link, frame)];
        };
        // Before anybody fetches the fork for who leads.
        let after = Nanoseconds(self.config.tuning().retransmit.0 / 2);
        let last = Leaving { after, to, link, frame };
        if to == primary || *beside != number {
            return vec![last];
        }
        let acks = LaneAcks { full: false, tips: vec![*tip] }.encode();
        let first = fork.iter().cloned().chain([acks]).map(|frame| at_once(to, link, frame));
        first.chain([last]).collect()
    }

    fn fork_from(&mut self, mut before: LaneTip) -> (LaneTip, Vec<Frame>) {
        let bundle = self.named.bundle().to_vec();
        let mut fork = Vec::new();
        while fork.len() < FORK_BATCHES {
            let (tip, frame) = make_batch(&before, &[bundle.as_slice(); 2]);
            self.note_made(tip, before, frame.clone());
            fork.push(frame);
            before = tip;
        }
        (before, fork)
    }
}
