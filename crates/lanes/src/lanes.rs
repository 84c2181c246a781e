//! The lanes of one link role together.

use crate::batch::Batch;
use crate::fetch::Fetches;
use crate::lane::Lane;
use crate::own::{OwnLane, Owner};
use crate::recovery::Adoption;
use crate::retention::Records;
use crate::throttle::Throttles;
use quorate_types::{
    After, ClusterConfig, JournalId, LaneId, LaneNumber, LaneUpdate, LinkId, Lsn, Nanoseconds, ReplicaId,
    ReplicaSet, Stage, StageTime, Tuning,
};
use quorate_wire::message::{FetchBatches, LaneAcks, Message};
use quorate_wire::{BundleView, Claims, DecodeError, Frame, LaneTip, Verdicts};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use thiserror::Error;

/// The bundles whose signatures one tick has checked; a recovered lane has many.
const CLAIMED_BUNDLES_MAX: usize = 4 * 1024;
/// The bytes of batches that one frontier brings; the next frontier brings the next ones.
const RESEND_BYTES_MAX: usize = 1024 * 1024;

/// Who gets a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// All replicas but this one.
    Others,
    /// One other replica.
    One(ReplicaId),
}

/// What the lanes want done, in order.
#[derive(Debug)]
pub enum Output {
    /// Append a batch to the journal of this core.
    Append {
        /// Its position; consecutive.
        lsn: Lsn,
        /// The frame as it travelled.
        frame: Frame,
    },
    /// Send a frame on a link once `after` is durable.
    Send {
        /// To whom.
        to: Destination,
        /// On which link.
        link: LinkId,
        /// What.
        frame: Frame,
        /// The position in the journal of this core that must be durable first.
        after: Option<Lsn>,
    },
    /// Acknowledge once `after` is durable: to all others, and to this replica itself.
    Acknowledge {
        /// On which link.
        link: LinkId,
        /// What is held.
        acks: LaneAcks,
        /// The position in the journal of this core that must be durable first.
        after: Lsn,
    },
    /// A bundle that this owner brought has a wrong signature and was dropped.
    Forged {
        /// Whoever brought it.
        owner: Owner,
    },
    /// A batch is held.
    Held(Arc<Batch>),
    /// A lane has moved.
    Progress(LaneUpdate),
    /// Own bundles have passed a stage.
    Stage(StageTime),
    /// The journal of this core is not needed up to and with this position.
    Trim {
        /// The position.
        upto: Lsn,
    },
}

/// Why something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Reject {
    /// Bytes that are no message.
    #[error("malformed: {0}")]
    Malformed(#[from] DecodeError),
    /// A lane that is not the sender's, not of this link, or does not exist.
    #[error("a lane that is not the sender's or not of this link")]
    ForeignLane,
    /// A batch that does not continue what is held.
    #[error("a batch that does not continue its lane")]
    Gap,
    /// Two different batches at one position.
    #[error("a second batch at one position of a lane")]
    Fork,
    /// A lane with too much that is not executed, or a journal with too much that is not durable.
    #[error("a lane over its budget, or a disk that is far behind")]
    Budget,
    /// A lane in which forged bundles were found.
    #[error("a lane that is closed for a while because of forged bundles in it")]
    Throttled,
    /// Fetched batches that are not what was asked for.
    #[error("fetched batches that do not match the digest asked for")]
    FetchMismatch,
}

/// One lane with what is being fetched of it.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) lane: Lane,
    pub(crate) fetches: Fetches,
    /// The tip and the quorum's tip when the retransmission timer last looked.
    seen: (LaneNumber, LaneNumber),
    /// How often the origin has made this lane change its chain since then.
    pub(crate) switches: usize,
}

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) own: OwnLane,
    /// Set while the own lane waits for what peers hold of it.
    pub(crate) adoption: Option<Adoption>,
    connected: ReplicaSet,
    /// Peers that are to get a full acknowledgement at the end of the tick.
    greet: ReplicaSet,
    /// Peers whose frames were lost: they get a full acknowledgement when the timer next looks, and not with
    /// every further batch.
    pub(crate) gaps: ReplicaSet,
    /// The frontiers of the own lane that peers have shown in this tick. One small frame may show many, and an
    /// answer is large: the last one counts, at the end of the tick.
    frontiers: BTreeMap<ReplicaId, LaneTip>,
    /// Questions for batches, at most one per peer and lane, answered in bounded portions at the end of a tick.
    questions: VecDeque<(ReplicaId, FetchBatches)>,
}

/// The lanes of one link role.
#[derive(Debug)]
pub struct Lanes {
    config: Arc<ClusterConfig>,
    me: ReplicaId,
    journal: JournalId,
    pub(crate) last_lsn: Lsn,
    pub(crate) links: BTreeMap<LinkId, Link>,
    pub(crate) shares: BTreeMap<LaneId, Share>,
    pub(crate) records: Records,
    /// Batches, the signatures in which are still to be checked: those of this tick, and what was recovered.
    pub(crate) unchecked: VecDeque<LaneTip>,
    /// The verdicts on so many of them are under way.
    claimed: usize,
    pub(crate) throttles: Throttles,
    /// Set for a learner: it has nothing to send in lanes of its own.
    is_mute: bool,
    timer: Nanoseconds,
}

impl Lanes {
    /// The lanes of `links` of a replica that has never run; batches go to `journal`. Any other one goes on with
    /// [`Lanes::recover`].
    #[must_use]
    pub fn new(config: Arc<ClusterConfig>, me: ReplicaId, links: &[LinkId], journal: JournalId) -> Self {
        let replicas = config.members().len();
        let shares = config
            .lanes()
            .filter(|lane| links.contains(&lane.link))
            .map(|lane| {
                let lane_state = Lane::new(lane, replicas, journal);
                let seen = (LaneNumber(0), LaneNumber(0));
                (lane, Share { lane: lane_state, fetches: Fetches::default(), seen, switches: 0 })
            })
            .collect();
        let link = || Link {
            own: OwnLane::default(),
            adoption: None,
            connected: ReplicaSet::EMPTY,
            greet: ReplicaSet::EMPTY,
            gaps: ReplicaSet::EMPTY,
            frontiers: BTreeMap::new(),
            questions: VecDeque::new(),
        };
        let links = links.iter().map(|id| (*id, link())).collect();

        Self {
            config,
            me,
            journal,
            last_lsn: Lsn(0),
            links,
            shares,
            records: Records::default(),
            unchecked: VecDeque::new(),
            claimed: 0,
            throttles: Throttles::default(),
            is_mute: false,
            timer: Nanoseconds(0),
        }
    }

    pub(crate) fn me(&self) -> ReplicaId {
        self.me
    }

    pub(crate) fn weak(&self) -> usize {
        self.config.quorums().weak
    }

    pub(crate) fn tuning(&self) -> &Tuning {
        self.config.tuning()
    }

    pub(crate) fn lane_bytes_held_max(&self) -> usize {
        self.tuning().lane_bytes_held_max()
    }

    pub(crate) fn config(&self) -> &Arc<ClusterConfig> {
        &self.config
    }

    pub(crate) fn share_mut(&mut self, lane: LaneId) -> Option<&mut Share> {
        self.shares.get_mut(&lane)
    }

    /// The share of a lane that a message on `link` may speak of.
    pub(crate) fn share_on(&mut self, lane: LaneId, link: LinkId) -> Result<&mut Share, Reject> {
        if lane.link != link {
            return Err(Reject::ForeignLane);
        }
        self.shares.get_mut(&lane).ok_or(Reject::ForeignLane)
    }

    pub(crate) fn connected_peers(&self, link: LinkId) -> impl Iterator<Item = ReplicaId> + use<> {
        self.links.get(&link).map_or(ReplicaSet::EMPTY, |link| link.connected).iter()
    }

    pub(crate) fn own_lane(&self, link: LinkId) -> LaneId {
        LaneId { origin: self.me, link }
    }

    /// Takes a bundle of `owner` into the own lane of `link`. Its signature is checked with those that come with it,
    /// before it is sealed. False when the owner has `owner_max` bundles open or the lane is over its budget: the
    /// client is to try again later.
    #[must_use]
    pub fn admit(&mut self, link: LinkId, owner: Owner, bundle: &BundleView<'_>, owner_max: usize) -> bool {
        if !self.has_room(link, owner, bundle.bytes.len(), owner_max) {
            return false;
        }
        let Some(link) = self.links.get_mut(&link) else { return false };
        link.own.admit(owner, bundle);
        true
    }

    /// The bundle that [`Lanes::admit`] took last was in at `now`; the next stage counts from there.
    pub fn note_admitted(&mut self, link: LinkId, now: Nanoseconds) {
        if let Some(link) = self.links.get_mut(&link) {
            link.own.note_admitted(now);
        }
    }

    /// What the last step has sealed was sealed by `now`. To be called at the start of each step, as the steps
    /// themselves have no clock.
    pub fn note_sealed(&mut self, now: Nanoseconds, mut report: impl FnMut(StageTime)) {
        self.throttles.note_time(now);
        self.links.values_mut().for_each(|link| link.own.note_sealed(now, &mut report));
    }

    /// The journal of these lanes is durable up to `upto`.
    pub fn on_durable(&mut self, now: Nanoseconds, upto: Lsn, out: &mut Vec<Output>) {
        for link in self.links.values_mut() {
            link.own.on_durable(now, upto, |time| out.push(Output::Stage(time)));
        }
        self.records_on_durable(upto, out);
    }

    /// A committed header names the own lane of `link` up to `upto`; it was accepted, prepared and committed here at
    /// `times`.
    pub fn on_ordered(
        &mut self,
        link: LinkId,
        upto: LaneNumber,
        times: &[(Stage, Nanoseconds); 3],
        out: &mut Vec<Output>,
    ) {
        if let Some(link) = self.links.get_mut(&link) {
            link.own.on_ordered(upto, times, |time| out.push(Output::Stage(time)));
        }
    }

    /// From now on nothing is sealed in own lanes, and no bundle admitted: this replica has lost what it has signed, or
    /// sent, and is a learner. What others send is held and acknowledged as ever.
    pub fn mute(&mut self) {
        self.is_mute = true;
    }

    fn has_room(&self, link: LinkId, owner: Owner, bytes: usize, owner_max: usize) -> bool {
        let Some(share) = self.shares.get(&self.own_lane(link)) else { return false };
        let Some(link) = self.links.get(&link) else { return false };
        let open = share.lane.open_bytes() + link.own.pending_bytes();
        !self.is_mute && open + bytes <= self.tuning().lane_bytes_open_max && link.own.open(owner) < owner_max
    }

    /// Appends a batch to its lane and to the journal. It is held with the verdicts on its signatures at the end of
    /// the tick, after all that was appended before.
    pub(crate) fn append_unchecked(&mut self, batch: Arc<Batch>, out: &mut Vec<Output>) {
        let tip = batch.tip();
        let share = self.shares.get_mut(&tip.lane).expect("invariant: the lane was looked up before");
        if share.lane.take_back(&tip) {
            return;
        }
        self.unchecked.push_back(tip);
        self.append(batch, out);
    }

    fn append(&mut self, batch: Arc<Batch>, out: &mut Vec<Output>) {
        let lsn = self.write(&batch, out);
        let share = self.shares.get_mut(&batch.lane()).expect("invariant: the lane was looked up before");
        share.lane.append(batch, lsn);
    }

    /// As [`Lanes::append_unchecked`], but beside the present chain.
    pub(crate) fn set_aside_unchecked(&mut self, batch: Arc<Batch>, out: &mut Vec<Output>) {
        self.unchecked.push_back(batch.tip());
        let lsn = self.write(&batch, out);
        let share = self.shares.get_mut(&batch.lane()).expect("invariant: the lane was looked up before");
        share.lane.set_aside(batch, lsn);
    }

    /// Appends a batch to the journal.
    pub(crate) fn write(&mut self, batch: &Batch, out: &mut Vec<Output>) -> Lsn {
        self.last_lsn = self.last_lsn.next();
        let lsn = self.last_lsn;
        out.push(Output::Append { lsn, frame: batch.frame().clone() });
        self.records.push(lsn, batch.tip(), batch.bytes());
        lsn
    }

    /// The burst of inputs is over: asks for the verdicts on all signatures of clients that came in it. They must be
    /// given to [`Lanes::settle`] before anything else happens.
    pub fn claim(&mut self, claims: &mut Claims<'_>) {
        self.finish_adoptions();
        let shares = &self.shares;
        // What came twice is held once; what was replaced and dropped in the meantime is of no more interest.
        let mut seen = BTreeSet::new();
        let (mut claimed, mut bundles) = (0, 0);
        self.unchecked.retain(|tip| {
            if !seen.insert((tip.lane, tip.upto, tip.chain)) {
                return false;
            }
            if bundles >= CLAIMED_BUNDLES_MAX {
                return true;
            }
            let batch = shares.get(&tip.lane).and_then(|share| share.lane.find(tip.upto, tip.chain));
            let Some(batch) = batch else { return false };
            batch.claim(claims);
            bundles += batch.bundles().len();
            claimed += 1;
            true
        });
        self.claimed = claimed;
        for (link, state) in &self.links {
            if self.may_seal(*link) {
                state.own.claim(claims);
            }
        }
    }

    /// Takes the verdicts that [`Lanes::claim`] has asked for: batches are held with them, and what is forged is not
    /// sealed.
    pub fn settle(&mut self, verdicts: &mut Verdicts, out: &mut Vec<Output>) {
        let claimed = std::mem::take(&mut self.claimed);
        for tip in self.unchecked.drain(..claimed) {
            let share = self.shares.get_mut(&tip.lane);
            let batch = share.and_then(|share| share.lane.find_mut(tip.upto, tip.chain));
            let batch = batch.expect("invariant: nothing has happened since the claims were gathered");
            Arc::get_mut(batch)
                .expect("invariant: nobody has the batch before its verdicts")
                .settle(verdicts);
            let forged = batch.bundles().iter().filter(|bundle| !bundle.signed).count();
            self.throttles.checked(tip.lane, batch.bundles().len(), forged);
            out.push(Output::Held(Arc::clone(batch)));
        }
        if self.unchecked.is_empty() {
            self.throttles.nothing_waits();
        }
        let links: Vec<LinkId> = self.links.keys().copied().filter(|link| self.may_seal(*link)).collect();
        for link in links {
            let Some(state) = self.links.get_mut(&link) else { continue };
            let liars = state.own.settle(verdicts);
            out.extend(liars.into_iter().map(|owner| Output::Forged { owner }));
        }
    }

    pub(crate) fn greet(&mut self, peer: ReplicaId, link: LinkId) {
        if let Some(link) = self.links.get_mut(&link) {
            link.greet.insert(peer);
        }
    }

    /// Takes acknowledgements; a full one is also the peer's frontier, and brings it what it lacks of the own
    /// lane at the end of the tick.
    pub fn on_acks(&mut self, from: ReplicaId, link: LinkId, acks: &LaneAcks) -> Result<(), Reject> {
        let me = self.me;
        for tip in &acks.tips {
            let share = self.share_on(tip.lane, link)?;
            share.lane.on_acknowledgement(from, tip, acks.full);
            let lost = tip.lane.origin == from && tip.upto > share.lane.tip().upto;
            if !acks.full || from == me {
                continue;
            }
            let Some(state) = self.links.get_mut(&link) else { continue };
            if tip.lane.origin == me {
                state.frontiers.insert(from, *tip);
                if let Some(adoption) = &mut state.adoption {
                    adoption.heard.insert(from);
                }
            } else if lost {
                // The origin has more than ever came: it learns what to send again, as after a gap.
                state.gaps.insert(from);
            }
        }
        Ok(())
    }

    /// Sends a peer what it lacks of the own lane. One that holds another chain gets all that may differ.
    fn resend_above(&self, to: ReplicaId, tip: &LaneTip, out: &mut Vec<Output>) {
        let Some(share) = self.shares.get(&tip.lane) else { return };
        let common = share.lane.branch(tip).unwrap_or(tip.upto.min(share.lane.executed()));
        let (mut number, mut bytes) = (common.next(), 0);
        while let Some(batch) = share.lane.batch(number)
            && bytes < RESEND_BYTES_MAX
        {
            bytes += batch.bytes();
            let (to, link, frame) = (Destination::One(to), tip.lane.link, batch.frame().clone());
            out.push(Output::Send { to, link, frame, after: None });
            number = number.next();
        }
    }

    /// Batches up to these tips are executed.
    pub fn on_executed(&mut self, tips: &[LaneTip]) {
        let kept_max = self.tuning().lane_bytes_kept_max;
        for tip in tips {
            let Some(share) = self.shares.get_mut(&tip.lane) else { continue };
            let dead = share.lane.on_executed(tip, kept_max);
            if tip.lane.origin == self.me
                && let Some(link) = self.links.get_mut(&tip.lane.link)
            {
                let dead = if self.is_mute { &[][..] } else { &dead };
                link.own.on_executed(tip.upto, dead);
            }
        }
    }

    /// The connection to a peer stands, or takes frames again after some were dropped: it gets a full
    /// acknowledgement.
    pub fn on_connected(&mut self, peer: ReplicaId, link: LinkId) {
        if let Some(state) = self.links.get_mut(&link) {
            state.connected.insert(peer);
        }
        self.greet(peer, link);
    }

    /// The connection to a peer is gone.
    pub fn on_disconnected(&mut self, peer: ReplicaId, link: LinkId) {
        if let Some(state) = self.links.get_mut(&link) {
            state.connected.remove(peer);
            state.frontiers.remove(&peer);
            state.questions.retain(|(from, _)| *from != peer);
        }
    }

    /// The burst of inputs is over: seal, acknowledge, report, and send again what may be lost.
    pub fn on_tick_end(&mut self, now: Nanoseconds, out: &mut Vec<Output>) {
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for link in &links {
            self.seal(*link, out);
        }
        if now >= self.timer {
            self.on_timer(now, out);
        }
        for link in &links {
            self.acknowledge(*link, out);
            self.answer(*link, out);
        }
        let (weak, quorum) = (self.config.quorums().weak, self.config.quorums().quorum);
        for share in self.shares.values_mut() {
            let Some(update) = share.lane.report(weak, quorum) else { continue };
            if update.lane.origin == self.me
                && let Some(link) = self.links.get_mut(&update.lane.link)
            {
                link.own.on_acknowledged(now, update.quorum, |time| out.push(Output::Stage(time)));
            }
            out.push(Output::Progress(update));
        }
        let period = if self.is_open() { self.tuning().retransmit } else { self.tuning().idle };
        self.timer = self.timer.min(now.plus(period.0));
    }

    /// The next time at which [`Lanes::on_tick_end`] has something to do without any input.
    #[must_use]
    pub fn deadline(&self) -> Nanoseconds {
        let unanswered = self.links.values().any(|link| !link.questions.is_empty());
        if unanswered || !self.unchecked.is_empty() { Nanoseconds(0) } else { self.timer }
    }

    /// Answers what was asked on a link: all frontiers, and questions up to a bounded number of bytes.
    fn answer(&mut self, link: LinkId, out: &mut Vec<Output>) {
        let bytes_max = self.tuning().fetch_bytes_max;
        let Some(state) = self.links.get_mut(&link) else { return };
        // What is sent of a lane whose chain is not settled might have to be replaced.
        let settled = state.adoption.is_none();
        let frontiers = if settled { std::mem::take(&mut state.frontiers) } else { BTreeMap::new() };
        for (peer, tip) in frontiers {
            self.resend_above(peer, &tip, out);
        }
        let mut bytes = 0;
        while bytes < bytes_max
            && let Some(state) = self.links.get_mut(&link)
            && let Some((from, question)) = state.questions.pop_front()
        {
            bytes += self.answer_fetch(from, &question, out);
        }
    }

    /// Notes a question for batches; a later one of the same peer for the same lane takes its place.
    pub fn on_fetch(&mut self, from: ReplicaId, link: LinkId, question: &FetchBatches) -> Result<(), Reject> {
        self.share_on(question.lane, link)?;
        let Some(state) = self.links.get_mut(&link) else { return Err(Reject::ForeignLane) };
        let same =
            |(peer, other): &&mut (ReplicaId, FetchBatches)| *peer == from && other.lane == question.lane;
        match state.questions.iter_mut().find(same) {
            Some((_, other)) => *other = question.clone(),
            None => state.questions.push_back((from, question.clone())),
        }
        Ok(())
    }

    /// Natural batching: a batch leaves when few enough before it await their quorum, or when it is full.
    /// No timer: load makes batches larger, and an idle lane seals at once.
    fn may_seal(&self, link: LinkId) -> bool {
        let (Some(share), Some(state)) = (self.shares.get(&self.own_lane(link)), self.links.get(&link))
        else {
            return false;
        };
        let tuning = self.tuning();
        let pending = state.own.pending_bytes();
        // Peers that were restarted, or hold another tail, may say nothing of what is executed.
        let acknowledged = share.lane.acknowledgements.acknowledged_by(self.config.quorums().quorum);
        let in_flight = share.lane.tip().upto.since(acknowledged.max(share.lane.executed()));
        // While the own lane is forked, one of the chains will be executed soon and the bundles of the others be sealed
        // again: those of one session keep their order only if nothing is sealed in between.
        pending > 0
            && !self.is_mute
            && !self.is_disk_behind()
            && state.adoption.is_none()
            && share.lane.forked() == 0
            && (in_flight < tuning.batches_in_flight || pending >= tuning.batch_bytes_full)
            && share.lane.open_bytes() <= tuning.lane_bytes_open_max
    }

    /// Seals what may be sealed of the bundles whose signatures are checked.
    fn seal(&mut self, link: LinkId, out: &mut Vec<Output>) {
        let lane = self.own_lane(link);
        let full = self.tuning().batch_bytes_full;
        while self.may_seal(link) {
            let (Some(share), Some(state)) = (self.shares.get(&lane), self.links.get_mut(&link)) else {
                return;
            };
            let Some(batch) = state.own.seal(share.lane.tip(), full, self.last_lsn.next()) else { return };
            let (to, frame, after) = (Destination::Others, batch.frame().clone(), None);
            out.push(Output::Send { to, link, frame, after });
            let batch = Arc::new(batch);
            self.append(Arc::clone(&batch), out);
            out.push(Output::Held(batch));
        }
    }

    fn acknowledge(&mut self, link: LinkId, out: &mut Vec<Output>) {
        let (mut tips, mut replacing) = (Vec::new(), Vec::new());
        let mut after = Lsn(0);
        for share in self.shares.values_mut().filter(|share| share.lane.id.link == link) {
            if let Some((tip, lsn, replaced)) = share.lane.announce() {
                if replaced { &mut replacing } else { &mut tips }.push(tip);
                after = after.max(lsn);
            }
        }
        if !tips.is_empty() {
            out.push(Output::Acknowledge { link, acks: LaneAcks { full: false, tips }, after });
        }
        if !replacing.is_empty() {
            // Later than all that was acknowledged of the other chain, and in its place.
            let (acks, after) = (LaneAcks { full: true, tips: replacing }, self.last_lsn);
            out.push(Output::Acknowledge { link, acks, after });
        }
        let Some(state) = self.links.get_mut(&link) else { return };
        for peer in std::mem::take(&mut state.greet).iter() {
            let (acks, after) = self.frontier(link, peer);
            let (to, frame) = (Destination::One(peer), acks.encode());
            out.push(Output::Send { to, link, frame, after: Some(after) });
        }
    }

    /// All that is held on a link, with the journal position up to which it must be durable.
    ///
    /// A tip means nothing to a peer that does not hold it: what the peer holds of the same chain is named before it.
    /// Otherwise a tail that an origin has lost, and nobody fetches, would hide for ever what is held below it.
    fn frontier(&self, link: LinkId, peer: ReplicaId) -> (LaneAcks, Lsn) {
        let (mut tips, mut after) = (Vec::new(), Lsn(0));
        for share in self.shares.values().filter(|share| share.lane.id.link == link) {
            let (tip, lsn) = share.lane.frontier();
            let claim = share.lane.acknowledgements.claim(peer, tip.lane);
            if claim.upto > LaneNumber(0)
                && claim.upto < tip.upto
                && share.lane.chain_at(claim.upto) == Some(claim.chain)
            {
                tips.push(claim);
            }
            tips.push(tip);
            after = after.max(lsn);
        }
        (LaneAcks { full: true, tips }, after)
    }

    fn is_open(&self) -> bool {
        let quorum = self.config.quorums().quorum;
        self.shares.values().any(|share| {
            share.fetches.is_open()
                || share.lane.tip().upto > share.lane.acknowledgements.acknowledged_by(quorum)
                || !share.lane.acknowledgements.ahead_of(share.lane.tip().upto, self.me).is_empty()
        }) || self
            .links
            .values()
            .any(|link| link.adoption.is_some() || link.own.pending_bytes() > 0 || !link.gaps.is_empty())
    }

    /// Every T_retx while anything is open, else every T_idle: a lane that has not moved since the last time
    /// is stuck, and everybody learns what is held of it.
    fn on_timer(&mut self, now: Nanoseconds, out: &mut Vec<Output>) {
        let was_open = self.is_open();
        let quorum = self.config.quorums().quorum;
        let lanes: Vec<LaneId> = self.shares.keys().copied().collect();
        for lane in lanes {
            let Some(share) = self.shares.get_mut(&lane) else { continue };
            let state = (share.lane.tip().upto, share.lane.acknowledgements.acknowledged_by(quorum));
            let stuck = share.seen == state;
            let open = state.0 > state.1;
            share.seen = state;
            share.switches = 0;
            self.fetches_on_time(now, lane, stuck, out);
            if (stuck && open) || !was_open {
                let peers = self.connected_peers(lane.link);
                peers.for_each(|peer| self.greet(peer, lane.link));
            }
        }
        for link in self.links.values_mut() {
            let gaps = std::mem::take(&mut link.gaps);
            gaps.iter().for_each(|peer| {
                link.greet.insert(peer);
            });
        }
        let period = if was_open { self.tuning().retransmit } else { self.tuning().idle };
        self.timer = now.plus(period.0);
    }

    /// The journal of these lanes.
    #[must_use]
    pub fn journal(&self) -> JournalId {
        self.journal
    }

    /// What an `after` of these lanes means.
    #[must_use]
    pub fn after(&self, lsn: Option<Lsn>) -> After {
        lsn.map_or(After::nothing(), |lsn| After::position(self.journal, lsn))
    }

    /// The bytes of own batches and bundles that are not executed, of all links.
    #[must_use]
    pub fn open_bytes(&self) -> usize {
        let of_link = |(link, state): (&LinkId, &Link)| {
            let share = self.shares.get(&self.own_lane(*link));
            share.map_or(0, |share| share.lane.unexecuted_bytes()) + state.own.pending_bytes()
        };
        self.links.iter().map(of_link).sum()
    }

    /// The bytes held, for audits of bounded memory.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let shares: usize =
            self.shares.values().map(|share| share.lane.held_bytes() + share.fetches.bytes()).sum();
        shares + self.links.values().map(|link| link.own.pending_bytes()).sum::<usize>()
    }
}
