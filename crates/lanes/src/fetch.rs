//! Fetching a lane backwards along its chain, each batch checked against the digest asked for.

use crate::batch::Batch;
use crate::lanes::{Destination, Lanes, Output, Reject};
use quorate_types::{Digest, LaneId, LaneNumber, LinkId, Nanoseconds, ReplicaId, Rounds, nth_highest};
use quorate_wire::message::{FetchBatches, Message, decode_fetched_batches, encode_fetched_batches};
use quorate_wire::{FrameRef, LaneTip, batch};
use std::collections::VecDeque;
use std::sync::Arc;

/// After so many retransmission times without an answer another server is asked; twice as many after each round of
/// all servers, up to [`ANSWER_TIME_MAX`].
const ANSWER_TIMES: u64 = 4;
const ANSWER_TIME_MAX: Nanoseconds = Nanoseconds::from_millis(5_000);
/// What a primary proposes is fetched while a lane holds up to so many times its budget: an origin may have filled that
/// with a chain that nobody else has.
const PROPOSED_TIMES: usize = 2;

/// What is being fetched of one lane.
#[derive(Debug, Default)]
pub(crate) struct Fetches {
    /// Tips that headers name, fetched in the order in which they were asked for.
    wanted: VecDeque<LaneTip>,
    /// The last tip that a primary proposed while it was not held; it has its turn when nothing else is wanted.
    proposed: Option<LaneTip>,
    current: Option<Fetch>,
    /// Whom to ask next.
    rounds: Rounds,
}

/// Why a tip is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// f+1 others have acknowledged it, and the lane stands still.
    Acknowledged,
    /// The primary has proposed it: all of it is taken, within the lane's budget.
    Proposed,
    /// A header names it that is committed, or at which a view begins: all of it is taken.
    Named,
}

#[derive(Debug)]
struct Fetch {
    reason: Reason,
    server: ReplicaId,
    /// What is wanted next, descending.
    next: LaneNumber,
    next_chain: Digest,
    /// What has come, descending from the target.
    batches: Vec<Arc<Batch>>,
    bytes: usize,
    expires: Nanoseconds,
}

impl Fetches {
    pub(crate) fn is_open(&self) -> bool {
        self.current.is_some() || !self.wanted.is_empty() || self.proposed.is_some()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.current.as_ref().map_or(0, |fetch| fetch.bytes)
    }

    /// Until when a server may take that is asked now.
    fn expires(&self, now: Nanoseconds, retransmit: Nanoseconds) -> Nanoseconds {
        now.plus(self.rounds.patience(ANSWER_TIMES * retransmit.0, ANSWER_TIME_MAX.0))
    }

    /// Nobody has had it so far: the next one that is wanted has its turn. What was proposed may never have been there; as
    /// long as it is waited for, it is asked for again.
    fn abandon(&mut self) {
        match self.current.take().map(|fetch| fetch.reason) {
            Some(Reason::Named) if !self.wanted.is_empty() => self.wanted.rotate_left(1),
            Some(Reason::Proposed) => self.proposed = None,
            _ => {}
        }
    }
}

impl Lanes {
    /// A committed header names `tip`, which is not held: it is fetched from whoever has it.
    pub fn want(&mut self, now: Nanoseconds, tip: LaneTip, out: &mut Vec<Output>) {
        let Some(share) = self.share_mut(tip.lane) else { return };
        if tip.upto <= share.lane.executed() || share.lane.chain_at(tip.upto) == Some(tip.chain) {
            return;
        }
        if !share.fetches.wanted.contains(&tip) {
            share.fetches.wanted.push_back(tip);
        }
        self.start_wanted_fetch(now, tip.lane, out);
    }

    /// The header that would be accepted next names `tip`, which has not come for a while. If it is on a chain that was
    /// set aside, that becomes the present one; otherwise it is fetched.
    ///
    /// A primary names own batches as it likes. Those of another origin are not taken from anybody but the origin
    /// unless f+1 others say to hold a chain that is not known here.
    pub fn want_proposed(
        &mut self,
        now: Nanoseconds,
        tip: LaneTip,
        primary: ReplicaId,
        out: &mut Vec<Output>,
    ) {
        let (me, weak) = (self.me(), self.weak());
        let Some(share) = self.share_mut(tip.lane) else { return };
        if tip.upto <= share.lane.executed() || share.lane.chain_at(tip.upto) == Some(tip.chain) {
            return;
        }
        let others = share.lane.acknowledgements.ahead_of(tip.upto.previous(), me);
        let elsewhere = others.iter().filter(|(_, upto, chain)| share.lane.chain_at(*upto) != Some(*chain));
        if tip.lane.origin != primary && elsewhere.count() < weak {
            return;
        }
        share.fetches.proposed = Some(tip);
        self.start_wanted_fetch(now, tip.lane, out);
    }

    /// Starts the fetch of the next tip that headers name, unless one is under way.
    fn start_wanted_fetch(&mut self, now: Nanoseconds, lane: LaneId, out: &mut Vec<Output>) {
        let servers: Vec<ReplicaId> = self.connected_peers(lane.link).collect();
        let is_disk_behind = self.is_disk_behind();
        let Some(share) = self.share_mut(lane) else { return };
        while let Some(tip) = share.fetches.wanted.front()
            && (tip.upto <= share.lane.executed() || share.lane.reaches(tip))
        {
            share.fetches.wanted.pop_front();
        }
        if let Some(tip) = share.fetches.proposed
            && (tip.upto <= share.lane.executed() || share.lane.reaches(&tip))
        {
            share.fetches.proposed = None;
        }
        let named = share.fetches.wanted.front().map(|tip| (*tip, Reason::Named));
        let Some((tip, reason)) = named.or(share.fetches.proposed.map(|tip| (tip, Reason::Proposed))) else {
            return;
        };
        if share
            .fetches
            .current
            .as_ref()
            .is_some_and(|fetch| fetch.reason == Reason::Named || fetch.reason == reason)
            || is_disk_behind
        {
            return;
        }
        let Some(server) = share.fetches.rounds.next(servers.iter().copied()) else { return };
        self.start_fetch(now, tip, reason, server, out);
    }

    fn start_fetch(
        &mut self,
        now: Nanoseconds,
        target: LaneTip,
        reason: Reason,
        server: ReplicaId,
        out: &mut Vec<Output>,
    ) {
        let retransmit = self.tuning().retransmit;
        let Some(share) = self.share_mut(target.lane) else { return };
        let expires = share.fetches.expires(now, retransmit);
        share.fetches.current = Some(Fetch {
            reason,
            server,
            next: target.upto,
            next_chain: target.chain,
            batches: Vec::new(),
            bytes: 0,
            expires,
        });
        self.ask(target.lane, out);
    }

    fn ask(&mut self, lane: LaneId, out: &mut Vec<Output>) {
        let Some(share) = self.share_mut(lane) else { return };
        let Some(fetch) = &share.fetches.current else { return };
        let (upto, chain, above) = (fetch.next, fetch.next_chain, share.lane.executed());
        let frame = FetchBatches { lane, upto, chain, above }.encode();
        out.push(Output::Send { to: Destination::One(fetch.server), link: lane.link, frame, after: None });
    }

    /// Gives up fetches whose server is silent, and starts those that are due. Called every T_retx.
    pub(crate) fn fetches_on_time(
        &mut self,
        now: Nanoseconds,
        lane: LaneId,
        stuck: bool,
        out: &mut Vec<Output>,
    ) {
        let (me, weak, held_max) = (self.me(), self.weak(), self.lane_bytes_held_max());
        let is_disk_behind = self.is_disk_behind();
        let Some(share) = self.share_mut(lane) else { return };
        if share.fetches.current.as_ref().is_some_and(|fetch| now >= fetch.expires) {
            share.fetches.abandon();
        }
        if !share.fetches.wanted.is_empty() || share.fetches.proposed.is_some() {
            return self.start_wanted_fetch(now, lane, out);
        }
        if share.fetches.current.is_some() || (!stuck && lane.origin != me) {
            return;
        }
        if share.lane.unexecuted_bytes() > held_max || is_disk_behind {
            return;
        }
        // Rule (b): a chain that f+1 others acknowledged, once fetched.
        let mut ahead = share.lane.acknowledgements.ahead_of(share.lane.tip().upto, me);
        if lane.origin == me {
            ahead = self.unknown_claims(lane, ahead);
        }
        if ahead.len() < weak {
            return;
        }
        let Some(share) = self.share_mut(lane) else { return };
        // The origin sends by itself whenever it can: it is asked last.
        let others = ahead.iter().map(|(replica, ..)| *replica).filter(|replica| *replica != lane.origin);
        let candidates = others.chain(ahead.iter().map(|(replica, ..)| *replica));
        let Some(server) = share.fetches.rounds.next(candidates) else { return };
        let Some((_, upto, chain)) = ahead.iter().copied().find(|(replica, ..)| *replica == server) else {
            return;
        };
        self.start_fetch(now, LaneTip { lane, upto, chain }, Reason::Acknowledged, server, out);
    }

    /// Answers a question for batches with what is held on the chain that it names; says how many bytes that is.
    pub(crate) fn answer_fetch(
        &mut self,
        from: ReplicaId,
        question: &FetchBatches,
        out: &mut Vec<Output>,
    ) -> usize {
        let bytes_max = self.tuning().fetch_bytes_max;
        let Some(share) = self.share_mut(question.lane) else { return 0 };
        let mut payloads = Vec::new();
        let (mut number, mut chain, mut bytes) = (question.upto, question.chain, 0);
        while number > question.above
            && let Some(batch) = share.lane.find(number, chain)
            && (bytes == 0 || bytes + batch.bytes() <= bytes_max)
        {
            bytes += batch.bytes();
            payloads.push(batch.frame().payload());
            (number, chain) = (number.previous(), batch.previous());
        }
        let frame = encode_fetched_batches(question.lane, payloads.into_iter());
        let (to, link) = (Destination::One(from), question.lane.link);
        out.push(Output::Send { to, link, frame, after: None });
        bytes
    }

    /// Takes an answer.
    pub fn on_fetched(
        &mut self,
        now: Nanoseconds,
        from: ReplicaId,
        link: LinkId,
        frame: FrameRef<'_>,
        out: &mut Vec<Output>,
    ) -> Result<(), Reject> {
        let (lane, payloads) = decode_fetched_batches(frame.payload)?;
        let retransmit = self.tuning().retransmit;
        let bytes_max = self.tuning().lane_bytes_kept_max + self.lane_bytes_held_max();
        let share = self.share_on(lane, link)?;
        let expires = share.fetches.expires(now, retransmit);
        let Some(fetch) = share.fetches.current.as_mut() else { return Ok(()) };
        let Some(first) = payloads.first() else {
            if fetch.server == from {
                share.fetches.abandon();
            }
            return Ok(());
        };
        if share.lane.chain_at(fetch.next) == Some(fetch.next_chain) {
            // The live batches were faster.
            self.finish_fetch(now, lane, out);
            return Ok(());
        }
        // What does not begin with what is wanted next answers an earlier question, or comes twice.
        if batch::parse_head(first)?.number != fetch.next {
            return Ok(());
        }
        for (index, payload) in payloads.into_iter().enumerate() {
            let wanted = LaneTip { lane, upto: fetch.next, chain: fetch.next_chain };
            let Some(batch) = Batch::read_as(payload, &wanted) else {
                // The first may still belong to another chain that was asked for before; the others must link.
                if index == 0 {
                    return Ok(());
                }
                // Nobody but the one who was asked can end a fetch.
                if fetch.server == from {
                    share.fetches.abandon();
                } else {
                    self.ask(lane, out);
                }
                return Err(Reject::FetchMismatch);
            };
            fetch.expires = expires;
            fetch.next = batch.number().previous();
            fetch.next_chain = batch.previous();
            fetch.bytes += batch.bytes();
            fetch.batches.push(Arc::new(batch));
            if share.lane.chain_at(fetch.next) == Some(fetch.next_chain) {
                self.finish_fetch(now, lane, out);
                return Ok(());
            }
            if fetch.next <= share.lane.executed() || fetch.bytes > bytes_max {
                // Overtaken by the normal path, a chain that contradicts it, or more than is worth holding.
                share.fetches.abandon();
                return Ok(());
            }
        }
        self.ask(lane, out);
        Ok(())
    }

    /// The fetched batches reach the own chain.
    fn finish_fetch(&mut self, now: Nanoseconds, lane: LaneId, out: &mut Vec<Output>) {
        let is_disk_behind = self.is_disk_behind();
        let Some(share) = self.share_mut(lane) else { return };
        let Some(fetch) = share.fetches.current.take() else { return };
        if is_disk_behind {
            // What is still wanted is fetched when the disk has caught up.
            return;
        }
        // The live batches may have brought a part of it meanwhile, and more.
        let mut floor = fetch.next;
        let mut batches: VecDeque<Arc<Batch>> = fetch.batches.into_iter().rev().collect();
        while let Some(held) =
            batches.pop_front_if(|batch| share.lane.chain_at(batch.number()) == Some(batch.chain()))
        {
            floor = held.number();
        }
        if fetch.reason == Reason::Acknowledged {
            let upto = self.acknowledged_by_others(lane, floor, &batches);
            batches.retain(|batch| batch.number() <= upto);
        }
        let budget = PROPOSED_TIMES * self.lane_bytes_held_max();
        let Some(share) = self.share_mut(lane) else { return };
        if fetch.reason == Reason::Proposed {
            share.fetches.proposed = None;
            let over = share.lane.unexecuted_bytes() + fetch.bytes > budget;
            batches.retain(|_| !over);
        }
        let useful = !batches.is_empty() && floor >= share.lane.executed();
        if useful {
            share.fetches.rounds.reset();
            share.lane.truncate(floor);
            batches.into_iter().for_each(|batch| self.append_unchecked(batch, out));
        }
        self.start_wanted_fetch(now, lane, out);
    }

    /// Up to where f+1 others acknowledged a fetched chain that leaves the own one at `floor`. Nothing if it would
    /// take the place of what a quorum acknowledged, or if the lane is over its budget.
    fn acknowledged_by_others(
        &mut self,
        lane: LaneId,
        floor: LaneNumber,
        batches: &VecDeque<Arc<Batch>>,
    ) -> LaneNumber {
        let (me, weak, held_max) = (self.me(), self.weak(), self.lane_bytes_held_max());
        let quorum = self.config().quorums().quorum;
        let Some(share) = self.share_mut(lane) else { return LaneNumber(0) };
        let replaced = share.lane.is_quorums(floor.next(), quorum);
        if replaced || share.lane.unexecuted_bytes() > held_max {
            return LaneNumber(0);
        }
        let mut claims = share.lane.acknowledgements.ahead_of(floor, me);
        claims.retain(|(_, upto, chain)| {
            batches.iter().any(|batch| (batch.number(), batch.chain()) == (*upto, *chain))
        });
        self.note_known_claims(lane, &claims);
        nth_highest(claims.into_iter().map(|(_, upto, _)| upto), weak)
    }
}
