//! Serving batches to whoever fetches a lane: from memory, and what is executed and has left that from the journal.
//!
//! What no certified state of this replica covers is served, however long it lies back: a replica that was away may have
//! nobody else to ask, and no state to take over. So are strays: if all replicas have lost another batch of a lane, whoever
//! wants its tip can have that only from those who cannot use it themselves. Reading back costs the disk, so each peer has one answer under way, of one
//! question at a time, and no more than one answer holds.

use crate::batch::Batch;
use crate::lanes::{Destination, Lanes, Output};
use quorate_types::mistakes::is_made;
use quorate_types::{LinkId, Lsn, Mark, Mistake, ReplicaId};
use quorate_wire::message::{FetchBatches, encode_fetched_batches};
use quorate_wire::{Frame, LaneTip};
use std::collections::VecDeque;

/// An answer whose batches are read back from the journal.
#[derive(Debug)]
pub(crate) struct Reading {
    to: ReplicaId,
    asked: LaneTip,
    /// What is still to be read, descending.
    places: VecDeque<(Lsn, Mark)>,
    batches: Vec<Frame>,
}

impl Lanes {
    /// Answers a question for batches with what is held on the chain that it names; says how many bytes that is, or will be
    /// when they are read back.
    pub(crate) fn answer_fetch(
        &mut self,
        from: ReplicaId,
        question: &FetchBatches,
        out: &mut Vec<Output>,
    ) -> usize {
        let bytes_max = self.tuning().fetch_bytes_max;
        let Some(share) = self.shares.get(&question.lane) else { return 0 };
        let asked = Mark { upto: question.upto, chain: question.chain };
        let tip = LaneTip::at(question.lane, asked);
        if question.upto > question.above
            && share.lane.find_any(asked).is_none()
            && let Some(bytes) = self.read_back(from, tip, question, out)
        {
            return bytes;
        }
        let Some(share) = self.shares.get(&question.lane) else { return 0 };
        let (mut payloads, mut bytes) = (Vec::new(), 0);
        for (at, batch) in share.lane.down_from(asked) {
            let size = batch.bytes();
            if at.upto <= question.above || bytes > 0 && bytes + size > bytes_max {
                break;
            }
            bytes += size;
            payloads.push(batch.frame().payload());
        }
        let frame = encode_fetched_batches(&tip, payloads.into_iter());
        let (to, link) = (Destination::One(from), question.lane.link);
        out.push(Output::Send { to, link, frame, after: None });
        out.push(Output::Answered { to: from, link });
        self.begin_answer(from, link);
        bytes
    }

    /// Begins to read an answer back from the journal, if it lies there; says how many bytes that is.
    fn read_back(
        &mut self,
        to: ReplicaId,
        asked: LaneTip,
        question: &FetchBatches,
        out: &mut Vec<Output>,
    ) -> Option<usize> {
        let bytes_max = self.tuning().fetch_bytes_max;
        let share = self.shares.get(&asked.lane)?;
        let (mut places, mut bytes) = (VecDeque::new(), 0);
        for shelved in share.lane.held.shelved_from(asked.mark()) {
            let is_enough = bytes > 0 && bytes + shelved.bytes > bytes_max;
            if shelved.mark.upto <= question.above || is_enough {
                break;
            }
            bytes += shelved.bytes;
            places.push_back((shelved.lsn, shelved.mark));
        }
        let (first, _) = places.front().copied()?;
        if is_made(Mistake::ServesMemoryOnly) {
            return None;
        }
        if self.readings.iter().any(|reading| reading.to == to) {
            // It asks again when it has that.
            return Some(0);
        }
        self.readings.push(Reading { to, asked, places, batches: Vec::new() });
        self.begin_answer(to, asked.lane.link);
        out.push(Output::ReadBack { lsn: first });
        Some(bytes)
    }

    /// What lies at `lsn` of the journal of these lanes, if it can be read.
    pub fn on_read_back(&mut self, lsn: Lsn, frame: Option<Frame>, out: &mut Vec<Output>) {
        let due = |reading: &Reading| reading.places.front().is_some_and(|(first, _)| *first == lsn);
        let mut index = 0;
        while let Some(reading) = self.readings.get_mut(index) {
            if !due(reading) {
                index += 1;
                continue;
            }
            let (_, mark) = reading.places.pop_front().expect("invariant: it was just looked at");
            let is_it = |frame: &Frame| Batch::read(frame.clone()).is_ok_and(|batch| batch.mark() == mark);
            match frame.clone().filter(is_it) {
                Some(frame) => reading.batches.push(frame),
                None => reading.places.clear(),
            }
            if let Some((next, _)) = reading.places.front().copied() {
                out.push(Output::ReadBack { lsn: next });
                index += 1;
                continue;
            }
            let Reading { to, asked, batches, .. } = self.readings.remove(index);
            let frame = encode_fetched_batches(&asked, batches.iter().map(Frame::payload));
            let link = asked.lane.link;
            out.push(Output::Send { to: Destination::One(to), link, frame, after: None });
            out.push(Output::Answered { to, link });
        }
    }

    /// A peer is gone: nothing is read for it any more.
    pub(crate) fn forget_readings(&mut self, peer: ReplicaId, link: LinkId) {
        self.readings.retain(|reading| reading.to != peer || reading.asked.lane.link != link);
    }
}
