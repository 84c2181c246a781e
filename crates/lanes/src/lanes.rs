//! The lanes of one link role together.

use crate::admission::{Moment, Uses};
use crate::batch::Batch;
use crate::checks::{Checks, Portion};
use crate::fetch::{Key, Search, Walks, scheduler};
use crate::held::Node;
use crate::lane::Lane;
use crate::own::{OwnLane, Owner, Sender};
use crate::recovery::Adoption;
use crate::retention::Records;
use crate::serve::Reading;
use crate::throttle::Throttles;
use quorate_types::{
    After, AnswerCredits, ArchivedOperation, ClusterConfig, JournalId, KeyIndex, LaneId, LaneNumber,
    LaneUpdate, LinkId, Lsn, Mark, Nanoseconds, ReplicaId, ReplicaSet, Stage, StageTime, Tuning, Why,
};
use quorate_wire::message::{FetchBatches, LaneAcks};
use quorate_wire::{BundleView, Claims, DecodeError, Frame, LaneTip, Verdicts};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use thiserror::Error;

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
        /// Which batch it is.
        tip: LaneTip,
        /// Why it is held: what it may be acknowledged for.
        why: Why,
    },
    /// Read a batch of the journal of this core back, then call [`Lanes::on_read_back`].
    ReadBack {
        /// Its position; it is durable and not trimmed.
        lsn: Lsn,
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
    /// What a peer was sent on a link so far answers it: call [`Lanes::on_taken`] when its connection has taken that. It gets no
    /// other answer before.
    Answered {
        /// Whom.
        to: ReplicaId,
        /// On which link.
        link: LinkId,
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
    /// A batch is held no more, though its lane is not executed at or beyond it: nothing can name it again.
    LetGo(LaneTip),
    /// As many others as answer for certain have nothing of a batch that leads to what a header names; or somebody has served
    /// it after all.
    Unserved {
        /// The lane.
        lane: LaneId,
        /// The batch that is looked for in vain.
        unserved: Option<LaneTip>,
    },
    /// A lane has moved.
    Progress(LaneUpdate),
    /// So many bundles were admitted and wait, as their keys have enough on its way.
    Waits(u64),
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
    pub(crate) walks: Walks,
    /// Who has proposed last what was not here.
    pub(crate) proposer: Option<ReplicaId>,
    /// What was open when the retransmission timer last looked, and whether something could not be placed.
    pub(crate) seen: (BTreeSet<Mark>, bool),
    /// The end of the main chain then.
    pub(crate) seen_tip: Mark,
    /// What peers have shown since then that too few have acknowledged, for all that is known here.
    pub(crate) shown: BTreeSet<Mark>,
    /// Of much that others may have acknowledged, up to here was asked about last.
    pub(crate) asked_upto: Mark,
}

impl Share {
    pub(crate) fn new(lane: Lane) -> Self {
        let (seen, shown, seen_tip) = ((BTreeSet::new(), false), BTreeSet::new(), lane.held.tip());
        let (walks, asked_upto) = (Walks::default(), Mark::default());
        Self { lane, walks, proposer: None, seen, seen_tip, shown, asked_upto }
    }
}

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) own: OwnLane,
    /// Set while the own lane waits for what peers hold of it.
    pub(crate) adoption: Option<Adoption>,
    pub(crate) connected: ReplicaSet,
    /// Peers that are to get a full acknowledgement at the end of the tick.
    pub(crate) greet: ReplicaSet,
    /// Peers that have shown that frames were lost: they get a full acknowledgement when the timer next looks, and
    /// not with every further batch.
    pub(crate) gaps: ReplicaSet,
    /// The frontiers of the own lane that peers have shown. One small frame may show many, and an answer is large: the last
    /// one counts, at the end of the tick, or when its peer's credit covers an answer.
    pub(crate) frontiers: BTreeMap<ReplicaId, Vec<Mark>>,
    /// Questions for batches, at most a few per peer and lane, answered in bounded portions at the end of a tick.
    pub(crate) questions: VecDeque<(ReplicaId, FetchBatches)>,
    /// The last question of each peer for acknowledgements of each lane in this tick.
    pub(crate) asked: BTreeMap<(ReplicaId, LaneId), Vec<LaneTip>>,
    /// Peers that have not taken the last answer, or whose answer is being read back: their questions and frontiers wait.
    pub(crate) answering: ReplicaSet,
}

impl Link {
    fn new() -> Self {
        Self {
            own: OwnLane::default(),
            adoption: None,
            connected: ReplicaSet::EMPTY,
            greet: ReplicaSet::EMPTY,
            gaps: ReplicaSet::EMPTY,
            frontiers: BTreeMap::new(),
            questions: VecDeque::new(),
            asked: BTreeMap::new(),
            answering: ReplicaSet::EMPTY,
        }
    }

    /// When something that was asked can be answered.
    fn deadline(&self, credits: &Credits) -> Option<Nanoseconds> {
        let is_free = |peer: &ReplicaId| !self.answering.contains(*peer);
        // What is sent of a lane whose chain is not settled might have to be replaced.
        let frontiers = self.frontiers.keys().filter(|peer| self.adoption.is_none() && is_free(peer));
        let frontiers = frontiers.map(|peer| credits.resent.due(*peer));
        let questions = self.questions.iter().filter(|(peer, _)| is_free(peer));
        questions.map(|(peer, _)| credits.answered.due(*peer)).chain(frontiers).min()
    }
}

/// What batches are sent to peers by this core, on all links. It outlasts connections.
#[derive(Debug, Default)]
pub(crate) struct Credits {
    /// For their questions.
    pub(crate) answered: AnswerCredits,
    /// Again, for their frontiers. Who is far away is sent the same more than once; that takes nothing from its questions.
    pub(crate) resent: AnswerCredits,
}

/// The lanes of one link role.
#[derive(Debug)]
pub struct Lanes {
    config: Arc<ClusterConfig>,
    me: ReplicaId,
    journal: JournalId,
    pub(crate) last_lsn: Lsn,
    pub(crate) links: BTreeMap<LinkId, Link>,
    /// The keys of `links`.
    link_ids: Vec<LinkId>,
    pub(crate) shares: BTreeMap<LaneId, Share>,
    pub(crate) fetches: quorate_fetch::Fetches<Key>,
    pub(crate) credits: Credits,
    /// Answers that are read back from the journal.
    pub(crate) readings: Vec<Reading>,
    pub(crate) records: Records,
    pub(crate) checks: Checks,
    pub(crate) throttles: Throttles,
    /// What clients' keys have used lately.
    uses: Uses,
    /// Set for a learner: it has nothing to send in lanes of its own.
    pub(crate) is_mute: bool,
    /// Set while this replica knows that others have committed more: what they acknowledge meanwhile, it need not fetch.
    pub(crate) is_behind: bool,
    pub(crate) timer: Nanoseconds,
}

impl Lanes {
    /// The lanes of `links` of a replica that has never run; batches go to `journal`. Any other one goes on with
    /// [`Lanes::recover`].
    #[must_use]
    pub fn new(config: Arc<ClusterConfig>, me: ReplicaId, links: &[LinkId], journal: JournalId) -> Self {
        let lanes = config.lanes().filter(|lane| links.contains(&lane.link));
        let share = |lane| (lane, Share::new(Lane::new(lane, me, &config, journal, Mark::default())));
        let shares: BTreeMap<LaneId, Share> = lanes.map(share).collect();
        let links: BTreeMap<LinkId, Link> = links.iter().map(|id| (*id, Link::new())).collect();

        Self {
            fetches: scheduler(config.tuning()),
            credits: Credits::default(),
            config,
            me,
            journal,
            last_lsn: Lsn(0),
            link_ids: links.keys().copied().collect(),
            links,
            checks: Checks::new(shares.keys().copied()),
            shares,
            readings: Vec::new(),
            records: Records::default(),
            throttles: Throttles::default(),
            uses: Uses::default(),
            is_mute: false,
            is_behind: false,
            timer: Nanoseconds(0),
        }
    }

    pub(crate) fn me(&self) -> ReplicaId {
        self.me
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

    /// Takes a bundle of `sender` into the own lane of `link`. Its signature is checked with those that come with it,
    /// before it is sealed. False when the owner has `owner_max` bundles open, or its key has its share of what the lane may
    /// have: the client is to try again later.
    #[must_use]
    pub fn admit(&mut self, link: LinkId, sender: Sender, bundle: &BundleView<'_>, owner_max: usize) -> bool {
        let ends = || bundle.operations().iter().all(ArchivedOperation::opens_or_ends);
        if !self.has_room_for(link, sender, bundle.bytes.len(), owner_max, ends) {
            return false;
        }
        let at = moment(&self.throttles, &self.uses, &self.config);
        let Some(link) = self.links.get_mut(&link) else { return false };
        link.own.admit(sender, bundle, at);
        true
    }

    /// The units that keys have used of all execution lately, by their places in the configuration: who uses far more than
    /// somebody else has its work done piece by piece.
    pub fn note_uses(&mut self, uses: Arc<[u32]>) {
        self.uses = Uses::new(uses);
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

    /// Whether [`Lanes::admit`] takes a bundle of so many bytes that neither opens a session nor ends what was not taken.
    #[must_use]
    pub fn has_room(&self, link: LinkId, sender: Sender, bytes: usize, owner_max: usize) -> bool {
        self.has_room_for(link, sender, bytes, owner_max, || false)
    }

    fn has_room_for(
        &self,
        link: LinkId,
        sender: Sender,
        bytes: usize,
        owner_max: usize,
        ends: impl FnOnce() -> bool,
    ) -> bool {
        let Some(share) = self.shares.get(&self.own_lane(link)) else { return false };
        let Some(own) = self.links.get(&link).map(|link| &link.own) else { return false };
        let open = share.lane.held.own_link_bytes() + own.unsealed_bytes();
        let left = self.tuning().lane_bytes_open_max.saturating_sub(open);
        !self.is_mute && own.open(sender.owner) < owner_max && own.has_room(sender.key, bytes, left, ends)
    }

    /// Appends a batch to its lane and to the journal. It is held with the verdicts on its signatures at the end of
    /// the tick, after all that was appended before.
    pub(crate) fn append_unchecked(&mut self, batch: Arc<Batch>, why: Why, out: &mut Vec<Output>) {
        self.checks.push(batch.tip(), why);
        self.append(batch, why, out);
    }

    fn append(&mut self, batch: Arc<Batch>, why: Why, out: &mut Vec<Output>) {
        let lsn = self.write(&batch, why, out);
        let tip = batch.tip();
        let share = self.shares.get_mut(&tip.lane).expect("invariant: the lane was looked up before");
        share.lane.insert(batch, lsn, why);
        if !share.lane.strays.is_empty() {
            self.connect(tip);
        }
    }

    /// A place is held, or executed, that was not before: what connects to it is held, with the verdicts on its signatures.
    fn connect(&mut self, tip: LaneTip) {
        let Some(share) = self.shares.get_mut(&tip.lane) else { return };
        let connected = share.lane.connect(tip.mark());
        if !connected.is_empty() {
            share.walks.lost = Search::default();
            for mark in connected {
                let why = share.lane.held.get(mark).map_or(Why::Named, |node| node.why);
                self.checks.push(LaneTip::at(tip.lane, mark), why);
            }
            self.sort_checks(tip.lane);
        }
    }

    /// Holds what is merely named on the way to `mark` for a better reason, and writes that down.
    pub(crate) fn raise(&mut self, lane: LaneId, mark: Mark, why: Why, out: &mut Vec<Output>) {
        let Some(share) = self.shares.get(&lane) else { return };
        for named in share.lane.held.named_up_to(mark) {
            let Some(batch) = self.shares.get(&lane).and_then(|share| share.lane.find(named)).cloned() else {
                break;
            };
            let lsn = self.write(&batch, why, out);
            let share = self.shares.get_mut(&lane).expect("invariant: just found");
            share.lane.raise(named, why, lsn);
            // What is written there says more than the place before.
            share.lane.moved(named, lsn);
        }
        self.sort_checks(lane);
    }

    /// What is held for a better reason than before is checked before what is merely named.
    fn sort_checks(&mut self, lane: LaneId) {
        let Some(share) = self.shares.get(&lane) else { return };
        let held = &share.lane.held;
        self.checks.sort(lane, |mark| held.get(mark).is_some_and(|node| node.why != Why::Named));
    }

    /// Appends a batch to the journal.
    pub(crate) fn write(&mut self, batch: &Batch, why: Why, out: &mut Vec<Output>) -> Lsn {
        self.last_lsn = self.last_lsn.next();
        let lsn = self.last_lsn;
        let tip = batch.tip();
        out.push(Output::Append { lsn, frame: batch.frame().clone(), tip, why });
        self.records.push(lsn, tip, batch.bytes());
        lsn
    }

    /// The burst of inputs is over: asks for the verdicts on all signatures of clients that came in it. They must be
    /// given to [`Lanes::settle`] before anything else happens.
    pub fn claim(&mut self, claims: &mut Claims<'_>) {
        self.finish_adoptions();
        let at = moment(&self.throttles, &self.uses, &self.config);
        self.links.values_mut().for_each(|link| link.own.go_on(at));
        let shares = &self.shares;
        self.checks.claim(|tip, most| {
            // What was replaced and dropped in the meantime is of no more interest.
            let batch = shares.get(&tip.lane)?.lane.find(tip.mark())?;
            let bundles = batch.claim(most, claims);
            Some(Portion { bundles, is_last: bundles == batch.unsettled() })
        });
        for (link, state) in &self.links {
            if self.may_seal(*link) {
                state.own.claim(claims);
            }
        }
    }

    /// Takes the verdicts that [`Lanes::claim`] has asked for: batches are held with them, and what is forged is not
    /// sealed.
    pub fn settle(&mut self, verdicts: &mut Verdicts, out: &mut Vec<Output>) {
        while let Some((tip, bundles)) = self.checks.next_claimed() {
            let share = self.shares.get_mut(&tip.lane);
            let node = share.and_then(|share| share.lane.held.get_mut(tip.mark()));
            let node = node.expect("invariant: nothing has happened since the claims were gathered");
            let batch = &mut node.batch;
            let forged = Arc::get_mut(batch)
                .expect("invariant: nobody has the batch before its verdicts")
                .settle(bundles, verdicts);
            self.checks.checked(tip.lane, node.why, bundles, forged);
            // Whoever names a batch, or has acknowledged it, is not its origin.
            if node.why == Why::OwnLink {
                self.throttles.checked(tip.lane, bundles, forged);
            }
            if batch.unsettled() == 0 {
                out.push(Output::Held(Arc::clone(batch)));
            }
        }
        self.throttles.forget_dropped(|lane| self.checks.has(lane));
        for at in 0..self.link_ids.len() {
            let link = self.link_ids[at];
            if !self.may_seal(link) {
                continue;
            }
            let at = moment(&self.throttles, &self.uses, &self.config);
            let Some(state) = self.links.get_mut(&link) else { continue };
            let liars = state.own.settle(verdicts, at);
            out.extend(liars.into_iter().map(|owner| Output::Forged { owner }));
        }
    }

    /// How often what a peer was sent has used its credit up since this was asked last.
    pub fn take_credits_used_up(&mut self) -> u64 {
        self.credits.answered.take_used_up() + self.credits.resent.take_used_up()
    }

    pub(crate) fn greet(&mut self, peer: ReplicaId, link: LinkId) {
        if let Some(link) = self.links.get_mut(&link) {
            link.greet.insert(peer);
        }
    }

    /// Batches up to these tips are executed.
    pub fn on_executed(&mut self, tips: &[LaneTip]) {
        let kept_max = self.tuning().lane_bytes_kept_max;
        for tip in tips {
            let Some(share) = self.shares.get_mut(&tip.lane) else { continue };
            let dead = share.lane.on_executed(tip.mark(), kept_max);
            if share.walks.is_open() {
                self.end_walks_behind(tip.lane);
            }
            self.connect(*tip);
            if tip.lane.origin == self.me
                && let Some(link) = self.links.get_mut(&tip.lane.link)
            {
                // What was merely named may be anybody's.
                let is_own = |node: &Node| node.why != Why::Named && !self.is_mute;
                let dead = dead.into_iter().filter(|(_, node)| is_own(node)).map(|(_, node)| node.batch);
                let mut dead: Vec<Arc<Batch>> = dead.collect();
                dead.sort_by_key(|batch| batch.number());
                link.own.on_executed(tip.upto, &dead, moment(&self.throttles, &self.uses, &self.config));
            }
        }
    }

    /// Nothing names these any more but headers that are void, each before its parent: those that are held for nothing else
    /// are let go of, and the others told of again.
    pub fn unname(&mut self, tips: &[LaneTip], out: &mut Vec<Output>) {
        for tip in tips {
            let Some(share) = self.shares.get_mut(&tip.lane) else { continue };
            if share.lane.unname(tip.mark()) {
                self.checks.forget(*tip);
                out.push(Output::LetGo(*tip));
            }
        }
    }

    /// The connection to a peer stands, or takes frames again after some were dropped: it gets a full
    /// acknowledgement.
    pub fn on_connected(&mut self, peer: ReplicaId, link: LinkId) {
        if let Some(state) = self.links.get_mut(&link) {
            state.connected.insert(peer);
        }
        // It may have what was lost here.
        let of_link = self.shares.iter_mut().filter(|(lane, _)| lane.link == link);
        of_link.for_each(|(_, share)| share.walks.go_on());
        self.greet(peer, link);
    }

    /// The connection to a peer is gone.
    pub fn on_disconnected(&mut self, now: Nanoseconds, peer: ReplicaId, link: LinkId) {
        if let Some(state) = self.links.get_mut(&link) {
            state.connected.remove(peer);
            state.frontiers.remove(&peer);
            state.asked.retain(|(from, _), _| *from != peer);
            state.questions.retain(|(from, _)| *from != peer);
            state.answering.remove(peer);
        }
        self.forget_readings(peer, link);
        // Of several links, the others ask it again.
        self.fetches.disconnected(now, peer);
    }

    /// Whether this replica knows that others have committed more than it has.
    pub fn set_behind(&mut self, is_behind: bool) {
        self.is_behind = is_behind;
    }

    /// The burst of inputs is over: seal, acknowledge, report, and send again what may be lost.
    pub fn on_tick_end(&mut self, now: Nanoseconds, out: &mut Vec<Output>) {
        for at in 0..self.link_ids.len() {
            self.seal(self.link_ids[at], out);
            let waits = self.links.get_mut(&self.link_ids[at]).map_or(0, |link| link.own.take_waits());
            if waits > 0 {
                out.push(Output::Waits(waits));
            }
        }
        self.raise_vouched_for(out);
        if self.fetches.deadline().is_some_and(|deadline| now >= deadline) {
            self.fetches_on_time(now, out);
        }
        if now >= self.timer {
            self.on_timer(now, out);
        }
        for at in 0..self.link_ids.len() {
            self.acknowledge(self.link_ids[at], out);
            self.answer(now, self.link_ids[at], out);
        }
        for share in self.shares.values_mut() {
            let Some(update) = share.lane.report() else { continue };
            if update.lane.origin == self.me
                && let Some(link) = self.links.get_mut(&update.lane.link)
            {
                let upto = share.lane.main_quorum();
                link.own.on_acknowledged(now, upto, |time| out.push(Output::Stage(time)));
            }
            out.push(Output::Progress(update));
        }
        let (open, closed) = (now.plus(self.tuning().retransmit.0), now.plus(self.tuning().idle.0));
        // Whether anything is open is asked only where that makes a difference.
        let latest = if self.timer > open && self.is_open() { open } else { closed };
        self.timer = self.timer.min(latest);
    }

    /// The next time at which [`Lanes::on_tick_end`] has something to do without any input.
    #[must_use]
    pub fn deadline(&self) -> Nanoseconds {
        if !self.checks.is_empty() || self.finishes_adoptions() {
            return Nanoseconds(0);
        }
        let is_checking = |(link, state): (&LinkId, &Link)| state.own.has_unchecked() && self.may_seal(*link);
        if self.links.iter().any(is_checking) {
            return Nanoseconds(0);
        }
        let answers = self.links.values().filter_map(|link| link.deadline(&self.credits));
        let at = moment(&self.throttles, &self.uses, &self.config);
        let waiting = self.links.values().filter_map(|link| link.own.deadline(at));
        answers.chain(waiting).chain(self.fetches.deadline()).fold(self.timer, Nanoseconds::min)
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
        if pending == 0 {
            return false;
        }
        // Peers that were restarted, or hold another tail, may say nothing of what is executed.
        let in_flight = share.lane.held.end().upto.since(share.lane.main_quorum());
        // While the own lane is forked, one of the chains will be executed soon and the bundles of the others be sealed
        // again: those of one session keep their order only if nothing is sealed in between.
        let is_forked = || share.lane.held.forked() > 0 && share.lane.held.live_tips().len() > 1;
        !self.is_mute
            && !self.is_disk_behind()
            && state.adoption.is_none()
            && (in_flight < tuning.batches_in_flight || pending >= tuning.batch_bytes_full)
            && share.lane.held.own_link_bytes() <= tuning.lane_bytes_open_max
            && !is_forked()
    }

    /// Seals what may be sealed of the bundles whose signatures are checked.
    fn seal(&mut self, link: LinkId, out: &mut Vec<Output>) {
        let lane = self.own_lane(link);
        let full = self.tuning().batch_bytes_full;
        // Execution takes no batch before those that it follows, which may still be checked. None of those is merely named.
        while !self.checks.has_vouched_for(lane) && self.may_seal(link) {
            let (Some(share), Some(state)) = (self.shares.get(&lane), self.links.get_mut(&link)) else {
                return;
            };
            let end = LaneTip::at(lane, share.lane.held.end());
            let Some(batch) = state.own.seal(end, full, self.last_lsn.next()) else { return };
            let (to, frame, after) = (Destination::Others, batch.frame().clone(), None);
            out.push(Output::Send { to, link, frame, after });
            if share.lane.held.contains(batch.mark()) {
                // A primary that was shown the bundles has named it before; execution has it.
                self.raise(lane, batch.mark(), Why::OwnLink, out);
                continue;
            }
            let batch = Arc::new(batch);
            self.append(Arc::clone(&batch), Why::OwnLink, out);
            out.push(Output::Held(batch));
        }
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

    /// The bundles of a key that are admitted and not executed, of all links: for audits.
    #[must_use]
    pub fn open_bundles(&self, key: KeyIndex) -> usize {
        self.links.values().map(|link| link.own.open_bundles(key)).sum()
    }

    /// The bytes of own batches and bundles that are not executed, of all links; what is merely named of an own lane is
    /// somebody else's. Looks through all of them: for audits.
    #[must_use]
    pub fn open_bytes(&self) -> usize {
        let of_link = |(link, state): (&LinkId, &Link)| {
            let share = self.shares.get(&self.own_lane(*link));
            share.map_or(0, |share| share.lane.held.own_bytes()) + state.own.unsealed_bytes()
        };
        self.links.iter().map(of_link).sum()
    }

    /// The bytes held, for audits of bounded memory.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let shares: usize = self.shares.values().map(|share| share.lane.bytes() + share.walks.bytes()).sum();
        shares + self.links.values().map(|link| link.own.unsealed_bytes()).sum::<usize>()
    }
}

/// When something happens to own bundles.
fn moment<'u>(throttles: &Throttles, uses: &'u Uses, config: &'u ClusterConfig) -> Moment<'u> {
    Moment { now: throttles.now(), uses, others: config.members().len() as u64 - 1, tuning: config.tuning() }
}
