//! A server that answers fetches not at all, just in time and with little, or with what was not asked for, or is nobody's.
//! What it has made up itself it serves, too.

use super::{Agent, Leaving, at_once};
use crate::liars::Habit;
use quorate_types::{LinkId, Nanoseconds, ReplicaId};
use quorate_wire::message::{
    FetchedHeaders, FetchedPages, Message, decode_fetched_batches, encode_fetched_batches,
};
use quorate_wire::{Frame, Kind, LaneTip};

/// Whoever is asked for batches has so many retransmission times for an answer; more would be no dripping.
const PATIENCE_TIMES: u64 = 4;

impl Agent {
    /// What a peer gets in the place of an answer.
    pub(super) fn serve(&mut self, to: ReplicaId, link: LinkId, frame: Frame) -> Vec<Leaving> {
        let frame = self.with_what_is_made_up(frame);
        let patience = PATIENCE_TIMES * self.config.tuning().retransmit.0;
        if self.liar.has(Habit::Forges) && self.random.percent(40) {
            return vec![at_once(to, link, self.forge(&frame))];
        }
        if self.liar.has(Habit::Drips) {
            // A question and its answer are on the way for some of the time.
            let after = Nanoseconds(patience - patience / PATIENCE_TIMES);
            return vec![Leaving { after, to, link, frame: shorten(&frame, 1) }];
        }
        if self.liar.has(Habit::Trickles) {
            // Somebody else is asked when half of it is over.
            let after = Nanoseconds(patience * 3 / 8);
            return vec![Leaving { after, to, link, frame: shorten(&frame, 1) }];
        }
        if !self.liar.has(Habit::ServesBadly) {
            return vec![at_once(to, link, frame)];
        }
        let after = Nanoseconds(self.random.between(patience / 2, patience));
        match self.random.below(10) {
            0..=2 => Vec::new(),
            3 => vec![at_once(to, link, frame)],
            4 => vec![Leaving { after, to, link, frame }],
            5..=7 => vec![Leaving { after, to, link, frame: shorten(&frame, 1) }],
            8 => vec![at_once(to, link, shorten(&frame, 0))],
            _ => vec![at_once(to, link, reverse(&frame))],
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

    /// What nobody has made, in the form of an answer.
    fn forge(&mut self, frame: &Frame) -> Frame {
        match frame.kind() {
            Kind::FetchedHeaders => FetchedHeaders::decode(frame.payload())
                .map(|answer| self.forge_headers(answer).encode())
                .unwrap_or_else(|_| frame.clone()),
            Kind::FetchedPages => FetchedPages::decode(frame.payload())
                .map(|answer| self.forge_pages(answer).encode())
                .unwrap_or_else(|_| frame.clone()),
            _ => reverse(frame),
        }
    }

    fn forge_headers(&mut self, mut answer: FetchedHeaders) -> FetchedHeaders {
        let (headers, parent) = (&mut answer.headers, self.any_digest());
        if self.random.percent(30) {
            headers.reverse();
            return answer;
        }
        // What comes before it is genuine.
        let index = self.random.index(headers.len());
        if let Some(header) = headers.get_mut(index) {
            match self.random.below(3) {
                0 => header.parent = parent,
                1 => header.cut.clear(),
                _ => header.timestamp = header.timestamp.next(),
            }
        }
        answer
    }

    fn forge_pages(&mut self, mut answer: FetchedPages) -> FetchedPages {
        let (digest, bit) = (self.any_digest(), self.random.below(8));
        match self.random.below(5) {
            0 => answer.top = answer.top.map(|(levels, _)| (levels, digest)),
            1 => answer.pages.reverse(),
            2 => answer.root = digest,
            3 => answer.request = answer.request.wrapping_add(1),
            _ => {
                let (pages, values) = (&mut answer.pages, &mut answer.values);
                let all: Vec<&mut Vec<u8>> = pages.iter_mut().chain(values).collect();
                let index = self.random.index(all.len());
                let bytes = all.into_iter().nth(index);
                let place = bytes.as_ref().map_or(0, |bytes| self.random.index(bytes.len()));
                if let Some(byte) = bytes.and_then(|bytes| bytes.get_mut(place)) {
                    *byte ^= 1 << bit;
                }
            }
        }
        answer
    }
}

/// No more than so many of what is served.
fn shorten(frame: &Frame, most: usize) -> Frame {
    let payload = frame.payload();
    match frame.kind() {
        Kind::FetchedBatches => decode_fetched_batches(payload)
            .map(|(asked, payloads)| encode_fetched_batches(&asked, payloads.into_iter().take(most))),
        Kind::FetchedHeaders => FetchedHeaders::decode(payload).map(|mut answer| {
            answer.headers.truncate(most);
            answer.encode()
        }),
        _ => FetchedPages::decode(payload).map(|mut answer| {
            answer.pages.truncate(most);
            answer.values.truncate(most.saturating_sub(answer.pages.len()));
            answer.encode()
        }),
    }
    .unwrap_or_else(|_| frame.clone())
}

/// The batch before in the place of the one that was asked for.
fn reverse(frame: &Frame) -> Frame {
    if frame.kind() != Kind::FetchedBatches {
        return frame.clone();
    }
    let Ok((asked, payloads)) = decode_fetched_batches(frame.payload()) else { return frame.clone() };
    encode_fetched_batches(&asked, payloads.into_iter().rev())
}
