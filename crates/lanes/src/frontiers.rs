//! What is said of lanes and heard of them: acknowledgements, frontiers, and questions for both.
//!
//! An acknowledgement of c(k+1) says nothing to whoever holds c(k) alone. So a frontier names besides all live tips the
//! highest digests that f+1 and q replicas are known to hold, and whoever has a digest that too few have acknowledged asks
//! every peer that has said something above it which cannot be placed. Either alone leaves histories in which a batch that a
//! quorum holds is not known to be held.

use crate::lanes::{Destination, Lanes, Output, Reject};
use quorate_types::mistakes::is_made;
use quorate_types::{LaneId, LinkId, Lsn, Mark, Mistake, Nanoseconds, ReplicaId, Why};
use quorate_wire::LaneTip;
use quorate_wire::message::{AskLanes, FetchBatches, LaneAcks, Message};
use std::collections::{BTreeMap, BTreeSet};

/// The bytes of batches that one frontier brings; the next frontier brings the next ones.
const RESEND_BYTES_MAX: usize = 1024 * 1024;
/// The tips in one frame; the tips of one lane are never parted.
const FRAME_TIPS_MAX: usize = 4096;
/// The digests of one lane that are asked about at a time.
const ASKED_MAX: usize = 64;
/// The questions of one peer for batches of one lane that wait for an answer: one for each purpose of a fetch.
const QUESTIONS_MAX: usize = 5;

impl Lanes {
    /// Takes acknowledgements; full ones are also the peer's frontier, and bring it what it lacks of the own lane at the
    /// end of the tick.
    pub fn on_acks(&mut self, from: ReplicaId, link: LinkId, acks: &LaneAcks) -> Result<(), Reject> {
        let me = self.me();
        let mut frontiers: BTreeMap<LaneId, Vec<Mark>> = BTreeMap::new();
        for tip in &acks.tips {
            self.share_on(tip.lane, link)?;
            if acks.full && from != me {
                frontiers.entry(tip.lane).or_default().push(tip.mark());
            }
        }
        for (lane, tips) in &frontiers {
            self.share_on(*lane, link)?.lane.acknowledged.on_frontier(from, tips);
        }
        for tip in &acks.tips {
            self.share_on(tip.lane, link)?.lane.on_acknowledgement(from, tip.mark());
        }
        for (lane, tips) in frontiers {
            self.on_frontier(from, lane, tips);
        }
        Ok(())
    }

    fn on_frontier(&mut self, from: ReplicaId, lane: LaneId, tips: Vec<Mark>) {
        let me = self.me();
        let Some(share) = self.shares.get_mut(&lane) else { return };
        let executed = share.lane.executed();
        for mark in tips.iter().filter(|mark| mark.upto > executed) {
            let held = share.lane.held.contains(*mark);
            if held && !share.lane.is_quorums(*mark) && share.shown.len() < ASKED_MAX {
                share.shown.insert(*mark);
            }
        }
        // The origin has more than ever came here, or the peer lacks what others have.
        let is_lost = lane.origin == from
            && tips.iter().any(|mark| mark.upto > executed && !share.lane.held.contains(*mark));
        let lags = share.lane.lags(from);
        let Some(state) = self.links.get_mut(&lane.link) else { return };
        if is_lost || lags {
            state.gaps.insert(from);
        }
        if lane.origin == me {
            if let Some(adoption) = &mut state.adoption {
                adoption.heard.insert(from);
            }
            state.frontiers.insert(from, tips);
        }
    }

    /// A peer asks which of these this replica has acknowledged.
    pub fn on_ask(&mut self, from: ReplicaId, link: LinkId, question: AskLanes) -> Result<(), Reject> {
        for tip in &question.tips {
            self.share_on(tip.lane, link)?;
        }
        let Some(state) = self.links.get_mut(&link) else { return Ok(()) };
        // Peers ask about each lane for itself, and about several in one tick: what is asked last goes first.
        for tip in question.tips.into_iter().take(ASKED_MAX).rev() {
            let asked = state.asked.entry((from, tip.lane)).or_default();
            asked.retain(|other| *other != tip);
            asked.insert(0, tip);
            asked.truncate(ASKED_MAX);
        }
        Ok(())
    }

    /// Notes a question for batches; of more than a few of the same peer for the same lane the oldest goes.
    pub fn on_fetch(&mut self, from: ReplicaId, link: LinkId, question: &FetchBatches) -> Result<(), Reject> {
        self.share_on(question.lane, link)?;
        let Some(state) = self.links.get_mut(&link) else { return Err(Reject::ForeignLane) };
        let same = |(peer, other): &(ReplicaId, FetchBatches)| *peer == from && other.lane == question.lane;
        let asked = |(peer, other): &(ReplicaId, FetchBatches)| *peer == from && other == question;
        if state.questions.iter().any(asked) {
            return Ok(());
        }
        if state.questions.iter().filter(|one| same(one)).count() >= QUESTIONS_MAX
            && let Some(oldest) = state.questions.iter().position(same)
        {
            state.questions.remove(oldest);
        }
        state.questions.push_back((from, question.clone()));
        Ok(())
    }

    /// Answers what was asked on a link, up to a bounded number of bytes a tick and as far as each peer's credit goes, and no
    /// peer that has not taken the last answer: an honest one is answered late, and none is refused.
    pub(crate) fn answer(&mut self, now: Nanoseconds, link: LinkId, out: &mut Vec<Output>) {
        let bytes_max = self.tuning().fetch_bytes_max;
        let Some(state) = self.links.get_mut(&link) else { return };
        let asked = std::mem::take(&mut state.asked);
        // What is sent of a lane whose chain is not settled might have to be replaced.
        if state.adoption.is_none() && !state.frontiers.is_empty() {
            let answering = state.answering;
            let (covered, waiting) =
                std::mem::take(&mut state.frontiers).into_iter().partition::<BTreeMap<_, _>, _>(
                    |(peer, _)| !answering.contains(*peer) && self.credits.resent.covers(now, *peer),
                );
            state.frontiers = waiting;
            for (peer, tips) in covered {
                let bytes = self.resend(peer, link, &tips, out);
                self.credits.resent.charge(now, peer, bytes);
                if bytes > 0 {
                    self.begin_answer(peer, link);
                    out.push(Output::Answered { to: peer, link });
                }
            }
        }
        for ((peer, _), tips) in asked {
            self.answer_ask(peer, link, &tips, out);
        }
        let mut bytes = 0;
        while bytes < bytes_max
            && let Some(state) = self.links.get_mut(&link)
            && let Some(next) = state.questions.iter().position(|(from, _)| {
                !state.answering.contains(*from) && self.credits.answered.covers(now, *from)
            })
            && let Some((from, question)) = state.questions.remove(next)
        {
            let answered = self.answer_fetch(from, &question, out);
            self.credits.answered.charge(now, from, answered);
            bytes += answered;
        }
    }

    /// A peer has taken the last answer: the next one may follow.
    pub fn on_taken(&mut self, peer: ReplicaId, link: LinkId) {
        if let Some(state) = self.links.get_mut(&link) {
            state.answering.remove(peer);
        }
    }

    /// No other answer follows this one before it is taken.
    pub(crate) fn begin_answer(&mut self, peer: ReplicaId, link: LinkId) {
        if let Some(state) = self.links.get_mut(&link) {
            state.answering.insert(peer);
        }
    }

    /// Sends a peer what it lacks of the own lane; says how many bytes that is. One that holds another chain gets all that
    /// may differ.
    fn resend(&self, to: ReplicaId, link: LinkId, tips: &[Mark], out: &mut Vec<Output>) -> usize {
        let Some(share) = self.shares.get(&self.own_lane(link)) else { return 0 };
        let end = share.lane.held.end();
        let (mut number, mut bytes) = (share.lane.common(tips).next(), 0);
        while number <= end.upto
            && let Some(batch) = share.lane.main_batch(number)
            && bytes < RESEND_BYTES_MAX
        {
            bytes += batch.bytes();
            let (to, frame) = (Destination::One(to), batch.frame().clone());
            out.push(Output::Send { to, link, frame, after: None });
            number = number.next();
        }
        bytes
    }

    fn answer_ask(&self, to: ReplicaId, link: LinkId, asked: &[LaneTip], out: &mut Vec<Output>) {
        let (mut tips, mut after) = (Vec::new(), Lsn(0));
        for tip in asked {
            let share = self.shares.get(&tip.lane);
            if let Some(durable) = share.and_then(|share| share.lane.says(tip.mark())) {
                after = after.max(durable);
                tips.push(*tip);
            }
        }
        if !tips.is_empty() {
            let (to, frame) = (Destination::One(to), LaneAcks { full: false, tips }.encode());
            out.push(Output::Send { to, link, frame, after: Some(after) });
        }
    }

    /// Asks whoever has said something above these digests that cannot be placed, and has not acknowledged them, or names them
    /// no more.
    pub(crate) fn ask_for_acknowledgements(&self, lane: LaneId, marks: &[Mark], out: &mut Vec<Output>) {
        let Some(share) = self.shares.get(&lane) else { return };
        for peer in self.connected_peers(lane.link) {
            let is_open = |mark: &&Mark| {
                share.lane.acknowledged.is_unplaced_above(peer, mark.upto)
                    && (!share.lane.holders(**mark).contains(peer)
                        || share.lane.acknowledged.is_doubted(peer, **mark))
            };
            let tips = marks.iter().filter(is_open).take(ASKED_MAX).map(|mark| LaneTip::at(lane, *mark));
            let tips: Vec<LaneTip> = tips.collect();
            if !tips.is_empty() && !is_made(Mistake::CoalescesAcknowledgements) {
                let (to, frame) = (Destination::One(peer), AskLanes { tips }.encode());
                out.push(Output::Send { to, link: lane.link, frame, after: None });
            }
        }
    }

    /// What was merely named and has f+1 acknowledgements by now may be acknowledged here, too.
    pub(crate) fn raise_vouched_for(&mut self, out: &mut Vec<Output>) {
        let lanes: Vec<LaneId> =
            self.shares.iter().filter(|(_, share)| share.lane.has_raised()).map(|(lane, _)| *lane).collect();
        for lane in lanes {
            let raised = self.share_mut(lane).map(|share| share.lane.take_raised()).unwrap_or_default();
            for mark in raised {
                self.raise(lane, mark, Why::Acknowledged, out);
            }
        }
    }

    /// Says what may be said anew: to all what is new, to those that are to be greeted all of it.
    pub(crate) fn acknowledge(&mut self, link: LinkId, out: &mut Vec<Output>) {
        let (mut tips, mut after) = (Vec::new(), Lsn(0));
        for (lane, share) in self.shares.iter_mut().filter(|(lane, _)| lane.link == link) {
            let (said, durable) = share.lane.say();
            tips.extend(said.into_iter().map(|mark| LaneTip::at(*lane, mark)));
            after = after.max(durable);
        }
        for some in tips.chunks(FRAME_TIPS_MAX) {
            let acks = LaneAcks { full: false, tips: some.to_vec() };
            out.push(Output::Acknowledge { link, acks, after });
        }
        let Some(state) = self.links.get_mut(&link) else { return };
        let greet = std::mem::take(&mut state.greet);
        if greet.is_empty() {
            return;
        }
        for (acks, after) in self.frontier(link) {
            let frame = acks.encode();
            for peer in greet.iter() {
                let (to, frame) = (Destination::One(peer), frame.clone());
                out.push(Output::Send { to, link, frame, after: Some(after) });
            }
        }
    }

    /// The frontiers of all lanes of a link, with the journal position up to which they must be durable.
    fn frontier(&self, link: LinkId) -> Vec<(LaneAcks, Lsn)> {
        let (mut frames, mut tips, mut after) = (Vec::new(), Vec::new(), Lsn(0));
        for (lane, share) in self.shares.iter().filter(|(lane, _)| lane.link == link) {
            let (of_lane, durable) = share.lane.frontier();
            if tips.len() + of_lane.len() > FRAME_TIPS_MAX && !tips.is_empty() {
                frames.push((LaneAcks { full: true, tips: std::mem::take(&mut tips) }, after));
                after = Lsn(0);
            }
            tips.extend(of_lane.into_iter().map(|mark| LaneTip::at(*lane, mark)));
            after = after.max(durable);
        }
        frames.push((LaneAcks { full: true, tips }, after));
        frames
    }

    pub(crate) fn is_open(&self) -> bool {
        self.shares.values().any(|share| share.walks.is_open() || share.lane.is_open())
            || self
                .links
                .values()
                .any(|link| link.adoption.is_some() || link.own.pending_bytes() > 0 || !link.gaps.is_empty())
    }

    /// Every T_retx while anything is open, else every T_idle: a lane of which the same batch is still open as the last time
    /// is stuck, and everybody learns what is held of it.
    pub(crate) fn on_timer(&mut self, now: Nanoseconds, out: &mut Vec<Output>) {
        let was_open = self.is_open();
        let lanes: Vec<LaneId> = self.shares.keys().copied().collect();
        for lane in lanes {
            let Some(share) = self.share_mut(lane) else { continue };
            let open: BTreeSet<Mark> = share.lane.open().into_iter().collect();
            let lacks = share.lane.acknowledged.is_open();
            let stuck = open.intersection(&share.seen.0).next().is_some() || lacks && share.seen.1;
            share.seen = (open, lacks);
            let mut shown: BTreeSet<Mark> = std::mem::take(&mut share.shown);
            self.fetch_lacking(now, lane, out);
            self.fetch_lost(now, lane, out);
            self.fetch_unreadable(now, lane, out);
            if stuck && let Some(share) = self.shares.get_mut(&lane) {
                shown.extend(share.lane.held.live_tips());
                shown.retain(|mark| !share.lane.is_quorums(*mark));
                // f+1 may have what is not here, and say so of different digests above it.
                shown.extend(share.lane.acknowledged.unplaced());
                // Whoever has acknowledged what is fetched may have moved on along its chain, or elsewhere.
                let target = share.lane.acknowledged.target();
                shown.retain(|mark| Some(*mark) != target);
                let room = ASKED_MAX - usize::from(target.is_some());
                let mut marks = in_turn(shown, room, &mut share.asked_upto);
                marks.splice(..0, target);
                self.ask_for_acknowledgements(lane, &marks, out);
            }
            if stuck || !was_open {
                self.connected_peers(lane.link).for_each(|peer| self.greet(peer, lane.link));
            }
        }
        for link in self.links.values_mut() {
            link.greet = link.greet.union(std::mem::take(&mut link.gaps));
        }
        let period = if was_open { self.tuning().retransmit } else { self.tuning().idle };
        self.timer = now.plus(period.0);
    }
}

/// What is asked about next: where that is too much for one question, each has its turn.
fn in_turn(marks: BTreeSet<Mark>, most: usize, upto: &mut Mark) -> Vec<Mark> {
    let mut marks: Vec<Mark> = marks.into_iter().collect();
    let next = marks.partition_point(|mark| mark <= upto);
    marks.rotate_left(next);
    *upto = marks.get(most).and(marks.get(most - 1)).copied().unwrap_or_default();
    marks
}
