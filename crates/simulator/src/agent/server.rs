//! A server that answers fetches not at all, just in time and with little, or with what was not asked for. What it has made
//! up itself it serves, too.

use super::{Agent, Leaving, at_once};
use crate::liars::Habit;
use quorate_types::{LinkId, Nanoseconds, ReplicaId};
use quorate_wire::message::{decode_fetched_batches, encode_fetched_batches};
use quorate_wire::{Frame, Kind, LaneTip};

/// Whoever is asked for batches has so many retransmission times for an answer; more would be no dripping.
const PATIENCE_TIMES: u64 = 4;

impl Agent {
    /// What a peer gets in the place of an answer.
    pub(super) fn serve(&mut self, to: ReplicaId, link: LinkId, frame: Frame) -> Vec<Leaving> {
        let frame = self.with_what_is_made_up(frame);
        if !self.liar.has(Habit::ServesBadly) {
            return vec![at_once(to, link, frame)];
        }
        let patience = PATIENCE_TIMES * self.config.tuning().retransmit.0;
        let after = Nanoseconds(self.random.between(patience / 2, patience));
        match self.random.below(10) {
            0..=2 => Vec::new(),
            3 => vec![at_once(to, link, frame)],
            4 => vec![Leaving { after, to, link, frame }],
            5..=7 => vec![Leaving { after, to, link, frame: self.shorten(&frame, 1) }],
            8 => vec![at_once(to, link, self.shorten(&frame, 0))],
            _ => vec![at_once(to, link, self.falsify(&frame))],
        }
    }

    /// Its core has nothing of what its agent has made up.
    fn with_what_is_made_up(&self, frame: Frame) -> Frame {
        if frame.kind() != Kind::FetchedBatches {
            return frame;
        }
        let Ok((asked, payloads)) = decode_fetched_batches(frame.payload()) else { return frame };
        if !payloads.is_empty() {
            return frame;
        }
        let (mut found, mut at) = (Vec::new(), asked);
        while let Some((before, frame)) = self.made.get(&(at.lane, at.chain)) {
            found.push(frame.payload());
            at = LaneTip { ..*before };
        }
        encode_fetched_batches(&asked, found.into_iter())
    }

    /// No more than so many batches.
    fn shorten(&self, frame: &Frame, most: usize) -> Frame {
        if frame.kind() != Kind::FetchedBatches {
            return frame.clone();
        }
        let Ok((asked, payloads)) = decode_fetched_batches(frame.payload()) else { return frame.clone() };
        encode_fetched_batches(&asked, payloads.into_iter().take(most))
    }

    /// The batch before in the place of the one that was asked for.
    fn falsify(&self, frame: &Frame) -> Frame {
        if frame.kind() != Kind::FetchedBatches {
            return frame.clone();
        }
        let Ok((asked, payloads)) = decode_fetched_batches(frame.payload()) else { return frame.clone() };
        encode_fetched_batches(&asked, payloads.into_iter().rev())
    }
}
