//! A liar about where it is and what it votes for: it votes for what there is not, not alike to all, and many times.

use super::{Agent, Leaving, at_once};
use quorate_types::{LinkId, Nanoseconds, ReplicaId, Seq, View};
use quorate_wire::message::{Checkpoint, Commit, Message, Prepare, Status, Suspect};
use quorate_wire::signing::Statement;
use quorate_wire::{Frame, Kind, Position, SuspectReason, header};

/// So many votes leave in the place of one, where it floods.
const FLOOD: u64 = 100;
/// It claims at most so many slots more than it has.
const SLOTS_MAX: u64 = 40;

impl Agent {
    /// What a peer is told in the place of a vote.
    pub(super) fn vote(&mut self, to: ReplicaId, link: LinkId, frame: Frame) -> Vec<Leaving> {
        match self.random.below(20) {
            0..=9 => vec![at_once(to, link, frame)],
            10..=16 => vec![at_once(to, link, self.distort_vote(&frame))],
            17 => {
                let lies: Vec<Frame> = (0..FLOOD).map(|_| self.distort_vote(&frame)).collect();
                lies.into_iter().map(|lie| at_once(to, link, lie)).collect()
            }
            18 => (0..FLOOD).map(|more| at_once(to, link, self.wish(&frame, more))).collect(),
            _ => {
                // The second one contradicts the first.
                let after = Nanoseconds(self.random.below(self.config.tuning().retransmit.0));
                let lie = self.distort_vote(&frame);
                vec![at_once(to, link, frame), Leaving { after, to, link, frame: lie }]
            }
        }
    }

    fn distort_vote(&mut self, frame: &Frame) -> Frame {
        match frame.kind() {
            Kind::Prepare => Prepare::decode(frame.payload()).map(|vote| self.distort_prepare(vote).encode()),
            Kind::Commit => Commit::decode(frame.payload()).map(|vote| self.distort_commit(vote).encode()),
            _ => Checkpoint::decode(frame.payload()).map(|vote| self.distort_checkpoint(vote).encode()),
        }
        .unwrap_or_else(|_| frame.clone())
    }

    fn distort_prepare(&mut self, mut vote: Prepare) -> Prepare {
        match self.random.below(8) {
            0..=3 => {
                let index = self.random.index(vote.digests.len());
                vote.digests[index] = self.any_digest();
            }
            4 => vote.lo = vote.lo.plus(self.random.between(1, SLOTS_MAX)),
            5 => vote.view = vote.view.next(),
            6 => vote.digests.push(self.any_digest()),
            // Nobody has signed this.
            _ => {
                vote.lo = vote.lo.next();
                return vote;
            }
        }
        let statement = Statement::prepare(&self.config, vote.view, vote.lo, &vote.digests);
        vote.signature = statement.sign(&self.key);
        vote
    }

    fn distort_commit(&mut self, mut vote: Commit) -> Commit {
        match self.random.below(3) {
            0 => vote.position.digest = self.any_digest(),
            1 => vote.position = self.far_from(vote.position),
            _ => vote.view = vote.view.next(),
        }
        vote
    }

    fn distort_checkpoint(&mut self, mut vote: Checkpoint) -> Checkpoint {
        match self.random.below(4) {
            0 => vote.root = self.any_digest(),
            1 => vote.position.digest = self.any_digest(),
            2 => vote.position = self.far_from(vote.position),
            _ => {
                vote.root = self.any_digest();
                return vote;
            }
        }
        let Checkpoint { position, root, next_config, .. } = &vote;
        let statement =
            Statement::checkpoint(&self.config, position.seq, &position.digest, root, next_config);
        vote.signature = statement.sign(&self.key);
        vote
    }

    /// A wish for the view after one that is so many ahead of where it votes.
    fn wish(&self, frame: &Frame, more: u64) -> Frame {
        let view = match frame.kind() {
            Kind::Prepare => Prepare::decode(frame.payload()).map(|vote| vote.view).unwrap_or_default(),
            Kind::Commit => Commit::decode(frame.payload()).map(|vote| vote.view).unwrap_or_default(),
            _ => View(0),
        };
        let (view, reason) = (View(view.0 + more), SuspectReason::Unnamed);
        let signature = Statement::suspect(&self.config, view, reason).sign(&self.key);
        Suspect { view, reason, signature }.encode()
    }

    /// Where it says to be in the place of where it is.
    pub(super) fn claim(&mut self, frame: Frame) -> Frame {
        let Ok(mut status) = Status::decode(frame.payload()) else { return frame };
        let genesis = header::genesis(self.config.digest());
        match self.random.below(10) {
            0..=2 => return frame,
            3 => {
                let ahead = self.far_from(status.accepted);
                (status.accepted, status.prepared) = (ahead, ahead);
                (status.committed, status.executed) = (ahead, ahead);
            }
            4 => status.committed = self.far_from(status.committed),
            5 => {
                (status.accepted, status.prepared) = (genesis, genesis);
                (status.committed, status.executed, status.stable) = (genesis, genesis, genesis);
            }
            6 => {
                status.committed.digest = self.any_digest();
                status.prepared.digest = self.any_digest();
            }
            7 => status.stable = self.far_from(status.stable),
            8 => status.view = View(status.view.0 + self.random.between(1, SLOTS_MAX)),
            _ => {
                status.view = View(0);
                status.entered = !status.entered;
            }
        }
        status.encode()
    }

    /// A slot above one, with the digest of nothing.
    fn far_from(&mut self, position: Position) -> Position {
        let seq = Seq(position.seq.0 + self.random.magnitude(1, SLOTS_MAX));
        Position { seq, digest: self.any_digest() }
    }
}
