//! What the f replicas do that lie: to the end, and about all that lanes are told.

use super::{Cut, Proposal, Random, World};
use crate::common::*;
use quorate_types::{Digest, LaneId, LaneNumber, Mark, ReplicaId};
use quorate_wire::message::{FetchBatches, LaneAcks, Message, encode_fetched_batches};
use quorate_wire::{BatchHead, BatchView, Frame, Kind, LaneTip};

/// Of the batches of a lane, mostly the newest are lied about.
const RECENT: usize = 24;

impl World {
    /// A liar is asked for batches: it says nothing, that it has nothing, one of them, or what is right.
    pub(super) fn ask_liar(&mut self, from: ReplicaId, liar: ReplicaId, frame: &Frame, random: &mut Random) {
        if frame.kind() != Kind::FetchBatches {
            return;
        }
        let asked = FetchBatches::decode(frame.payload()).expect("a question");
        let tip = LaneTip { lane: asked.lane, upto: asked.upto, chain: asked.chain };
        let mut payloads: Vec<Frame> = Vec::new();
        let mut at = tip.mark();
        while at.upto > asked.above
            && let Some((before, frame)) = self.registry.get(&(tip.lane, at))
        {
            payloads.push(frame.clone());
            at = *before;
        }
        match random.below(5) {
            0 => return,
            1 => payloads.clear(),
            2 | 3 => payloads.truncate(1),
            _ => {}
        }
        let answer = encode_fetched_batches(&tip, payloads.iter().map(Frame::payload));
        self.receive(liar, from, &answer);
    }

    /// Something of a lane, known or made up.
    fn some_mark(&mut self, lane: LaneId, random: &mut Random) -> Mark {
        let known = self.made.get(&lane).map_or(&[][..], Vec::as_slice);
        if known.is_empty() || random.one_in(12) {
            self.salt += 1;
            let mut chain = Digest([9; 32]);
            chain.0[..8].copy_from_slice(&self.salt.to_le_bytes());
            return Mark { upto: LaneNumber(1 + random.below(20) as u64), chain };
        }
        let from = if random.one_in(8) { 0 } else { known.len().saturating_sub(RECENT) };
        known[from + random.below(known.len() - from)]
    }

    fn some_honest(&self, random: &mut Random) -> ReplicaId {
        self.machines[random.below(self.machines.len())].me
    }

    fn some_lane(&self, random: &mut Random) -> LaneId {
        lane_of(ReplicaId(u8::try_from(random.below(self.config.members().len())).expect("few")))
    }

    /// A liar does something with its lane, or with what it says of others.
    pub(crate) fn lie(&mut self, random: &mut Random, forks: bool) {
        let liar = self.liars[random.below(self.liars.len())];
        match random.below(if forks { 8 } else { 3 }) {
            0..=2 => {
                let lane = if random.one_in(2) { lane_of(liar) } else { self.some_lane(random) };
                let count = 1 + random.below(2);
                let tips = (0..count).map(|_| LaneTip::at(lane, self.some_mark(lane, random))).collect();
                let acks = LaneAcks { full: random.one_in(2), tips };
                let to = self.some_honest(random);
                self.receive(liar, to, &acks.encode());
            }
            3..=5 => {
                let mark = self.make_up(lane_of(liar), random);
                let some: Vec<ReplicaId> = self.machines.iter().map(|machine| machine.me).collect();
                let some: Vec<ReplicaId> = some.into_iter().filter(|_| random.one_in(2)).collect();
                some.into_iter().for_each(|to| self.show(liar, to, lane_of(liar), mark));
            }
            _ => {
                let lane = lane_of(liar);
                let mark = self.some_mark(lane, random);
                let to = self.some_honest(random);
                self.show(liar, to, lane, mark);
            }
        }
    }

    /// A batch behind something that there is, mostly the newest.
    fn make_up(&mut self, lane: LaneId, random: &mut Random) -> Mark {
        let known = self.made.get(&lane).map_or(&[][..], Vec::as_slice);
        let before = match known.last() {
            None => Mark::default(),
            Some(_) if random.one_in(3) => {
                let from = known.len().saturating_sub(RECENT);
                let picked = random.below(known.len() - from + 1);
                if picked == 0 { self.committed(lane) } else { known[from + picked - 1] }
            }
            Some(last) => *last,
        };
        let bundle = self.next_bundle();
        let head = BatchHead { lane, number: before.upto.next(), previous: before.chain };
        let frame = batch_frame(&head, std::slice::from_ref(&bundle));
        let chain = BatchView::parse(frame.payload()).expect("a batch").chain();
        let mark = Mark { upto: before.upto.next(), chain };
        self.register(lane, mark, before, frame);
        mark
    }

    /// The whole chain up to a batch, from its origin.
    fn show(&mut self, liar: ReplicaId, to: ReplicaId, lane: LaneId, mark: Mark) {
        let Some(at) = self.at(to) else { return };
        let executed = self.mark_after(self.machines[at].executed, lane);
        let (mut frames, mut at) = (Vec::new(), mark);
        while let Some((before, frame)) = self.registry.get(&(lane, at)) {
            frames.push(frame.clone());
            if at.upto <= executed.upto {
                break;
            }
            at = *before;
        }
        frames.iter().rev().for_each(|frame| self.receive(liar, to, frame));
    }

    /// The primary lies: it names what it likes, made up by itself if need be.
    pub(crate) fn propose_as_liar(&mut self, random: &mut Random) {
        let lane = if random.one_in(2) { lane_of(self.primary()) } else { self.some_lane(random) };
        let mark = if random.one_in(6) { self.make_up(lane, random) } else { self.some_mark(lane, random) };
        if mark.upto > self.committed(lane).upto {
            self.proposal = Some(Proposal { view: self.view, cut: Cut::from([(lane, mark)]) });
        }
    }
}
