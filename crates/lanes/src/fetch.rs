//! Fetching a lane backwards along its chain, each batch checked against the digest asked for.
//!
//! Five walks of a lane go on side by side, so that none can hold up another: to what headers name that are decided, to what
//! a primary proposes, to what f+1 others have acknowledged, to what this replica has acknowledged and lost, and to what is
//! executed and cannot be read any more. Whom to ask, and for how long, `quorate_fetch` says; what has come stays when the
//! next server goes on, and what is a stray here need not come.

use crate::batch::Batch;
use crate::lanes::{Destination, Lanes, Output, Reject, Share};
use crate::strays::Strays;
use quorate_types::mistakes::is_made;
use quorate_types::{LaneId, LinkId, Mark, Mistake, Nanoseconds, ReplicaId, ReplicaSet, Tuning, Why};
use quorate_wire::message::{FetchBatches, Message, decode_fetched_batches};
use quorate_wire::{FrameRef, LaneTip};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// A server has so many retransmission times for an answer; twice as many after each round of all servers, up to
/// [`ANSWER_TIME_MAX`].
const ANSWER_TIMES: u64 = 4;
const ANSWER_TIME_MAX: Nanoseconds = Nanoseconds::from_millis(5_000);
/// A walk is expected to take no more answers than that.
const ANSWERS_MAX: u64 = 64;
/// Nobody may have what was lost: each pass over all of that waits for twice as many looks of the timer as the one before,
/// up to so many.
const LOST_LOOKS_MAX: u32 = 64;

/// Why a tip is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// A header names it that is committed, or at which a view begins: all of it is taken.
    Named,
    /// The primary has proposed it: all of it is taken that one cut may name.
    Proposed,
    /// f+1 others have acknowledged it.
    Acknowledged,
    /// This replica has acknowledged it, and lost it.
    Lost,
    /// It is executed, was to be served from the journal, and cannot be read there any more: it alone is taken.
    Unreadable,
}

const PURPOSES: [Purpose; 5] =
    [Purpose::Named, Purpose::Proposed, Purpose::Acknowledged, Purpose::Lost, Purpose::Unreadable];

pub(crate) type Key = (LaneId, Purpose);

/// All fetches of a link role.
pub(crate) fn scheduler(tuning: &Tuning) -> quorate_fetch::Fetches<Key> {
    let patience = Nanoseconds(ANSWER_TIMES * tuning.retransmit.0);
    quorate_fetch::Fetches::new(quorate_fetch::Limits {
        patience,
        patience_max: ANSWER_TIME_MAX.max(patience),
        ..quorate_fetch::Limits::default()
    })
}

/// A batch on the way of a walk.
#[derive(Debug)]
enum Step {
    Fetched(Arc<Batch>),
    /// It was here, and connected to nothing when the walk passed it.
    Stray(Mark),
}

impl Step {
    fn mark(&self) -> Mark {
        match self {
            Self::Fetched(batch) => batch.mark(),
            Self::Stray(mark) => *mark,
        }
    }
}

/// A walk down a chain.
#[derive(Debug)]
struct Walk {
    target: Mark,
    /// What is wanted next, descending.
    next: Mark,
    /// A cut leaves from here: the walk ends where it must have met that.
    floor: Mark,
    bytes_max: usize,
    /// What has come or was here, descending from the target.
    steps: Vec<Step>,
    /// The bytes of what has come, and of all.
    bytes: usize,
    bytes_passed: usize,
    /// What each server was asked for last.
    asked: BTreeMap<ReplicaId, Mark>,
    /// Who has nothing of what is wanted next.
    lacking: ReplicaSet,
}

impl Walk {
    /// Goes on below the strays that are next.
    fn pass_strays(&mut self, strays: &Strays) {
        for (mark, stray) in strays.down_from(self.next) {
            self.steps.push(Step::Stray(mark));
            self.bytes_passed += stray.batch.bytes();
            self.next = Mark { upto: mark.upto.previous(), chain: stray.batch.previous() };
        }
    }

    fn take(&mut self, batch: Batch) {
        self.next = Mark { upto: batch.number().previous(), chain: batch.previous() };
        self.bytes += batch.bytes();
        self.bytes_passed += batch.bytes();
        self.steps.push(Step::Fetched(Arc::new(batch)));
    }
}

/// What of several batches, which nobody may have, is looked for next.
#[derive(Debug, Default)]
pub(crate) struct Search {
    tried: Option<Mark>,
    /// The looks of the timer that the next pass still waits for, and those that it has waited for in all.
    looks: u32,
    rest: u32,
}

impl Search {
    /// The next of what was lost, descending, as a walk brings what was lost below its target, too; nothing after each pass,
    /// for a while.
    fn next(&mut self, lost: impl DoubleEndedIterator<Item = Mark>) -> Option<Mark> {
        if self.looks > 0 {
            self.looks -= 1;
            return None;
        }
        let next = lost.rev().find(|mark| self.tried.is_none_or(|tried| *mark < tried));
        self.tried = next;
        if next.is_none() {
            self.rest = (2 * self.rest).clamp(1, LOST_LOOKS_MAX);
            self.looks = self.rest;
        }
        next
    }

    /// Somebody may have what was lost: the next pass waits for nothing. One that is under way goes on, or a peer that comes
    /// and goes would keep it from ever reaching what is last.
    fn go_on(&mut self) {
        (self.looks, self.rest) = (0, 0);
    }
}

/// What is being fetched of one lane.
#[derive(Debug, Default)]
pub(crate) struct Walks {
    /// Tips that headers name, fetched in the order in which they were asked for.
    wanted: VecDeque<Mark>,
    walks: BTreeMap<Purpose, Walk>,
    /// Whether it was told last that all who answer have nothing of what headers name.
    is_unserved: bool,
    /// What f+1 others had acknowledged for long when the timer looked last, ascending; and which of that was fetched last,
    /// or tried to be.
    due: Vec<Mark>,
    tried: Mark,
    pub(crate) lost: Search,
    /// What is executed, lies in the journal alone, and cannot be read there.
    pub(crate) unreadable: BTreeSet<Mark>,
    unreadable_next: Search,
}

impl Walks {
    pub(crate) fn is_open(&self) -> bool {
        !self.wanted.is_empty() || !self.walks.is_empty()
    }

    /// Somebody may have what others had nothing of.
    pub(crate) fn go_on(&mut self) {
        self.lost.go_on();
        self.unreadable_next.go_on();
    }

    pub(crate) fn bytes(&self) -> usize {
        self.walks.values().map(|walk| walk.bytes).sum()
    }
}

impl Lanes {
    /// A header names `tip` that is committed, or on the way to where a view begins: it is fetched from whoever has it.
    pub fn want(&mut self, now: Nanoseconds, tip: LaneTip, out: &mut Vec<Output>) {
        let Some(share) = self.share_mut(tip.lane) else { return };
        let mark = tip.mark();
        if mark.upto <= share.lane.executed() || share.lane.held.contains(mark) {
            return;
        }
        if !share.walks.wanted.contains(&mark) {
            share.walks.wanted.push_back(mark);
        }
        self.walk_to_wanted(now, tip.lane, out);
    }

    /// The header that would be accepted next takes the lane from `floor` to `tip`, and has waited for that for a while.
    /// What is not held is fetched, whoever else has it; of what is held, others are asked whether they have
    /// acknowledged it.
    pub fn want_proposed(
        &mut self,
        now: Nanoseconds,
        tip: LaneTip,
        floor: Mark,
        primary: ReplicaId,
        out: &mut Vec<Output>,
    ) {
        let (lane, mark) = (tip.lane, tip.mark());
        // Whatever comes in one cut, and the batch that makes it too much.
        let weak = self.config().quorums().weak;
        let tuning = self.tuning();
        let cut_bytes_max = usize::try_from(tuning.cut_bytes_max).unwrap_or(usize::MAX);
        let bytes_max = cut_bytes_max.saturating_add(quorate_types::limits::BATCH_BYTES_MAX);
        let Some(share) = self.share_mut(lane) else { return };
        share.proposer = Some(primary);
        if share.lane.held.contains(mark) || mark.upto <= share.lane.executed() {
            return self.ask_for_acknowledgements(lane, &[mark], out);
        }
        if share.lane.holders(mark).len() < weak && is_made(Mistake::FetchesAcknowledgedOnly) {
            return;
        }
        let walk = share.walks.walks.get(&Purpose::Proposed);
        if walk.is_none_or(|walk| walk.target != mark) {
            self.begin_walk(now, (lane, Purpose::Proposed), mark, floor, bytes_max, out);
        }
    }

    fn walk_to_wanted(&mut self, now: Nanoseconds, lane: LaneId, out: &mut Vec<Output>) {
        let Some(share) = self.share_mut(lane) else { return };
        let (held, walks) = (&share.lane.held, &mut share.walks);
        walks.wanted.retain(|mark| mark.upto > held.executed().upto && !held.contains(*mark));
        let Some(mark) = walks.wanted.front().copied() else { return };
        let is_walking =
            walks.walks.get(&Purpose::Named).is_some_and(|walk| walks.wanted.contains(&walk.target));
        if !is_walking {
            let floor = share.lane.held.executed();
            self.begin_walk(now, (lane, Purpose::Named), mark, floor, usize::MAX, out);
        }
    }

    fn begin_walk(
        &mut self,
        now: Nanoseconds,
        key: Key,
        target: Mark,
        floor: Mark,
        bytes_max: usize,
        out: &mut Vec<Output>,
    ) {
        let answers = target.upto.since(floor.upto).clamp(1, ANSWERS_MAX);
        let Some(share) = self.share_mut(key.0) else { return };
        let mut walk = Walk {
            target,
            next: target,
            floor,
            bytes_max,
            steps: Vec::new(),
            bytes: 0,
            bytes_passed: 0,
            asked: BTreeMap::new(),
            lacking: ReplicaSet::EMPTY,
        };
        walk.pass_strays(&share.lane.strays);
        share.walks.walks.insert(key.1, walk);
        self.fetches.begin(now, key, answers, 0);
        self.ask(now, key, out);
    }

    fn target(&self, key: Key) -> Option<Mark> {
        self.shares.get(&key.0)?.walks.walks.get(&key.1).map(|walk| walk.target)
    }

    fn end_walk(&mut self, key: Key) -> Option<Walk> {
        self.fetches.forget(&key);
        self.share_mut(key.0)?.walks.walks.remove(&key.1)
    }

    /// The lane is executed at or beyond what is fetched of it.
    pub(crate) fn end_walks_behind(&mut self, lane: LaneId) {
        let Some(share) = self.shares.get(&lane) else { return };
        let executed = share.lane.executed();
        let is_behind =
            |purpose: Purpose, walk: &Walk| purpose != Purpose::Unreadable && walk.target.upto <= executed;
        let behind = share.walks.walks.iter().filter(|(purpose, walk)| is_behind(**purpose, walk));
        let behind: Vec<Purpose> = behind.map(|(purpose, _)| *purpose).collect();
        for purpose in behind {
            self.end_walk((lane, purpose));
        }
    }

    /// Who may serve, those first that are the likeliest to.
    fn servers(&self, key: Key) -> Vec<ReplicaId> {
        let (lane, purpose) = key;
        let Some(share) = self.shares.get(&lane) else { return Vec::new() };
        let Some(walk) = share.walks.walks.get(&purpose) else { return Vec::new() };
        let holders = share.lane.holders(walk.target);
        let proposer = share.proposer.filter(|_| purpose == Purpose::Proposed);
        let mut servers: Vec<ReplicaId> = self.connected_peers(lane.link).collect();
        if purpose == Purpose::Acknowledged {
            servers.retain(|server| holders.contains(*server));
        }
        // The origin sends by itself whenever it can: it is asked last.
        servers.sort_by_key(|server| {
            (Some(*server) != proposer, !holders.contains(*server), *server == lane.origin)
        });
        servers
    }

    /// Asks whoever is to be asked now.
    fn ask(&mut self, now: Nanoseconds, key: Key, out: &mut Vec<Output>) {
        if self.is_disk_behind() {
            return;
        }
        let (lane, purpose) = key;
        let servers = self.servers(key);
        let bytes = self.tuning().fetch_bytes_max as u64;
        while let Some(server) = self.fetches.ask(now, &key, servers.iter().copied(), bytes) {
            let Some(share) = self.share_mut(lane) else { return };
            let executed = share.lane.executed();
            let Some(walk) = share.walks.walks.get_mut(&purpose) else { return };
            let above = if purpose == Purpose::Unreadable { walk.floor.upto } else { executed };
            let Mark { upto, chain } = walk.next;
            walk.asked.insert(server, walk.next);
            let frame = FetchBatches { lane, upto, chain, above }.encode();
            out.push(Output::Send { to: Destination::One(server), link: lane.link, frame, after: None });
        }
    }

    /// Time has passed: asks others where servers are slow, and goes on with something else where nobody helps.
    pub(crate) fn fetches_on_time(&mut self, now: Nanoseconds, out: &mut Vec<Output>) {
        for key in self.fetches.on_time(now) {
            self.give_up(now, key, out);
        }
        let mut keys: Vec<Key> = Vec::new();
        for (lane, share) in &self.shares {
            keys.extend(share.walks.walks.keys().map(|purpose| (*lane, *purpose)));
        }
        keys.into_iter().for_each(|key| self.ask_or_give_up(now, key, out));
    }

    fn ask_or_give_up(&mut self, now: Nanoseconds, key: Key, out: &mut Vec<Output>) {
        if self.fetches.is_exhausted(&key, self.servers(key)) {
            self.give_up(now, key, out);
        }
        self.ask(now, key, out);
    }

    /// Nobody has had it so far. What is proposed or acknowledged is looked for again as long as it is; of what is wanted
    /// the next one has its turn.
    fn give_up(&mut self, now: Nanoseconds, key: Key, out: &mut Vec<Output>) {
        let (lane, purpose) = key;
        if purpose != Purpose::Named {
            let target = self.target(key);
            self.end_walk(key);
            self.walk_to_acknowledged(now, lane, target, out);
            return;
        }
        let Some(share) = self.share_mut(lane) else { return };
        if share.walks.wanted.len() > 1 {
            share.walks.wanted.rotate_left(1);
            self.end_walk(key);
            self.walk_to_wanted(now, lane, out);
        }
    }

    /// Every T_retx: fetches what f+1 others have acknowledged, and goes on with what is wanted.
    pub(crate) fn fetch_lacking(&mut self, now: Nanoseconds, lane: LaneId, out: &mut Vec<Output>) {
        self.walk_to_wanted(now, lane, out);
        let (me, is_settling) = (self.me(), self.is_settling(lane));
        let Some(share) = self.share_mut(lane) else { return };
        let has_moved =
            std::mem::replace(&mut share.seen_tip, share.lane.held.tip()) != share.lane.held.tip();
        let due = share.lane.acknowledged.look(me, has_moved);
        // An origin that was restarted does nothing before it has this.
        share.walks.due = if is_settling { share.lane.acknowledged.lacking(me) } else { due };
        // There may be a connection now, or room on the disk.
        PURPOSES.into_iter().for_each(|purpose| self.ask_or_give_up(now, (lane, purpose), out));
        self.walk_to_acknowledged(now, lane, None, out);
    }

    /// Fetches the next of what is due, but not what was tried just now: that waits for the timer. A walk under way goes on as
    /// long as f+1 others have acknowledged its target. When too few are left, because the others have nothing of it, it may
    /// be that of silent liars alone, and holds up nothing else.
    fn walk_to_acknowledged(
        &mut self,
        now: Nanoseconds,
        lane: LaneId,
        tried: Option<Mark>,
        out: &mut Vec<Output>,
    ) {
        let rests = self.rests(lane);
        let Some(Share { lane: of_lane, walks, .. }) = self.share_mut(lane) else { return };
        if rests || walks.due.is_empty() {
            return;
        }
        let is_lacking = |mark: &Mark| {
            !of_lane.held.contains(*mark)
                && of_lane.is_vouched_for(of_lane.acknowledged.holders_of_unplaced(*mark))
        };
        walks.due.retain(is_lacking);
        let walk = walks.walks.get(&Purpose::Acknowledged);
        if walk.is_some_and(|walk| is_lacking(&walk.target)) {
            return;
        }
        // The highest brings the most; what it does not bring is on another chain, and has its turn.
        let below = walks.due.iter().rev().find(|mark| **mark < walks.tried);
        let Some(target) = below.or(walks.due.last()).copied() else { return };
        if tried == Some(target) {
            return;
        }
        walks.tried = target;
        of_lane.acknowledged.walk_to(target);
        let floor = of_lane.held.executed();
        let key = (lane, Purpose::Acknowledged);
        self.end_walk(key);
        self.begin_walk(now, key, target, floor, usize::MAX, out);
    }

    /// Every T_retx, and when a walk to such a batch has ended: fetches what this replica has acknowledged and lost. Without
    /// it, that acknowledgement is not true, and what is intact behind it is of no use here; and if every replica has lost
    /// another batch, nobody could go on.
    pub(crate) fn fetch_lost(&mut self, now: Nanoseconds, lane: LaneId, out: &mut Vec<Output>) {
        let rests = self.rests(lane);
        let Some(share) = self.share_mut(lane) else { return };
        if share.lane.strays.is_empty() || rests || share.walks.walks.contains_key(&Purpose::Lost) {
            return;
        }
        self.begin_own_search(lane);
        let Some(share) = self.share_mut(lane) else { return };
        let Some(target) = share.walks.lost.next(share.lane.strays.lost().into_iter()) else {
            return self.end_own_search(lane);
        };
        let floor = share.lane.held.executed();
        self.begin_walk(now, (lane, Purpose::Lost), target, floor, usize::MAX, out);
    }

    /// Every T_retx, and when such a fetch has ended: fetches what is executed, is to be served until a certified state covers
    /// it, and cannot be read from the journal any more.
    pub(crate) fn fetch_unreadable(&mut self, now: Nanoseconds, lane: LaneId, out: &mut Vec<Output>) {
        let is_disk_behind = self.is_disk_behind();
        let Some(Share { lane: of_lane, walks, .. }) = self.share_mut(lane) else { return };
        if walks.unreadable.is_empty() || is_disk_behind || walks.walks.contains_key(&Purpose::Unreadable) {
            return;
        }
        walks.unreadable.retain(|mark| of_lane.held.shelved(*mark).is_some());
        let Some(target) = walks.unreadable_next.next(walks.unreadable.iter().copied()) else { return };
        let floor = Mark { upto: target.upto.previous(), ..target };
        self.begin_walk(now, (lane, Purpose::Unreadable), target, floor, usize::MAX, out);
    }

    /// Appends what was unreadable again, once it has come.
    fn finish_unreadable(&mut self, now: Nanoseconds, lane: LaneId, out: &mut Vec<Output>) {
        let key = (lane, Purpose::Unreadable);
        let is_disk_behind = self.is_disk_behind();
        self.fetches.finish(now, &key);
        let Some(walk) = self.end_walk(key) else { return };
        let Some(share) = self.share_mut(lane) else { return };
        let Some(Step::Fetched(batch)) = walk.steps.first().filter(|_| !is_disk_behind) else { return };
        share.walks.unreadable.remove(&walk.target);
        // A certified state may cover it by now.
        if let Some(shelved) = share.lane.held.shelved(walk.target) {
            let lsn = self.write(batch, shelved.why, out);
            if let Some(share) = self.share_mut(lane) {
                share.lane.moved(walk.target, lsn);
            }
        }
    }

    /// Whether a lane holds as much for others as all honest replicas together may have taken from its origin: then this
    /// one is behind, and has other worries.
    fn rests(&self, lane: LaneId) -> bool {
        let quorums = self.config().quorums();
        let budgets = quorums.replicas - quorums.faults;
        let most = budgets * self.lane_bytes_held_max();
        self.is_disk_behind()
            || self.is_behind
            || self.shares.get(&lane).is_some_and(|share| share.lane.held.other_bytes() > most)
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
        let (asked, payloads) = decode_fetched_batches(frame.payload)?;
        let (lane, asked) = (asked.lane, asked.mark());
        self.share_on(lane, link)?;
        let mut result = Ok(());
        // A server answers a question once, though walks may have met that ask it for the same. What one of them has from
        // it may end another, and begin the next.
        for key in PURPOSES.into_iter().map(|purpose| (lane, purpose)) {
            if self.is_asked(key, from, asked) {
                let target = self.target(key);
                result = result.and(self.take_answer(now, from, key, asked, &payloads));
                self.tell_unserved(key, payloads.is_empty(), out);
                self.go_on(now, key, out);
                self.walk_to_acknowledged(now, lane, target, out);
            }
        }
        result
    }

    /// Whether this is what a server was asked for last, and has not answered.
    fn is_asked(&self, key: Key, from: ReplicaId, asked: Mark) -> bool {
        let walk = self.shares.get(&key.0).and_then(|share| share.walks.walks.get(&key.1));
        walk.is_some_and(|walk| walk.asked.get(&from) == Some(&asked)) && self.fetches.is_asked(&key, from)
    }

    fn take_answer(
        &mut self,
        now: Nanoseconds,
        from: ReplicaId,
        key: Key,
        asked: Mark,
        payloads: &[&[u8]],
    ) -> Result<(), Reject> {
        if payloads.is_empty() {
            self.fetches.has_nothing(now, &key, from);
            let Some(share) = self.share_mut(key.0) else { return Ok(()) };
            share.lane.acknowledged.disown(from, asked);
            // It may have what comes below.
            if let Some(walk) = share.walks.walks.get_mut(&key.1).filter(|walk| walk.next == asked) {
                walk.lacking.insert(from);
            }
            return Ok(());
        }
        let taken = self.take_payloads(key, asked, payloads);
        match taken {
            Ok(bytes) => self.fetches.answered(now, &key, from, bytes),
            Err(_) => self.fetches.was_wrong(now, &key, from),
        };
        taken.map(|_| ())
    }

    /// Where as many have nothing of what is wanted next as answer for certain, perhaps a certified state covers it, and it
    /// comes no more. Whoever serves it after all refutes that.
    fn tell_unserved(&mut self, (lane, purpose): Key, is_empty: bool, out: &mut Vec<Output>) {
        let answers = self.config().quorums().answers();
        let Some(Share { walks, .. }) = self.share_mut(lane).filter(|_| purpose == Purpose::Named) else {
            return;
        };
        let Some(walk) = walks.walks.get(&purpose) else { return };
        let unserved = if is_empty && walk.lacking.len() >= answers {
            walks.is_unserved = true;
            let Mark { upto, chain } = walk.next;
            Some(LaneTip { lane, upto, chain })
        } else if !is_empty && walk.lacking.is_empty() && std::mem::take(&mut walks.is_unserved) {
            None
        } else {
            return;
        };
        out.push(Output::Unserved { lane, unserved });
    }

    /// Takes what is wanted next of an answer; says how many bytes that is.
    fn take_payloads(&mut self, key: Key, asked: Mark, payloads: &[&[u8]]) -> Result<u64, Reject> {
        let lane = key.0;
        let Some(share) = self.shares.get_mut(&lane) else { return Ok(0) };
        let Some(walk) = share.walks.walks.get_mut(&key.1) else { return Ok(0) };
        let (before, next, mut taken) = (walk.bytes, walk.next, Ok(()));
        for (below, payload) in (0..).zip(payloads) {
            // Another server may have brought the first of them, and others are strays here.
            if asked.upto.0.saturating_sub(below) > walk.next.upto.0 {
                continue;
            }
            let Some(batch) = Batch::read_as(payload, lane, walk.next) else {
                taken = Err(Reject::FetchMismatch);
                break;
            };
            walk.take(batch);
            walk.pass_strays(&share.lane.strays);
            if share.lane.held.contains(walk.next) || walk.next.upto <= walk.floor.upto {
                break;
            }
        }
        if walk.next != next {
            for server in std::mem::take(&mut walk.lacking).iter() {
                self.fetches.may_have_next(&key, server);
            }
        }
        taken.map(|()| (walk.bytes - before) as u64)
    }

    /// Ends a walk that has met what is held, or cannot any more; else asks on.
    fn go_on(&mut self, now: Nanoseconds, key: Key, out: &mut Vec<Output>) {
        let Some(share) = self.share_mut(key.0) else { return };
        let Some(walk) = share.walks.walks.get(&key.1) else { return };
        if key.1 == Purpose::Unreadable {
            match walk.next == walk.target {
                true if !self.fetches.is_exhausted(&key, self.servers(key)) => {
                    return self.ask(now, key, out);
                }
                true => drop(self.end_walk(key)),
                false => self.finish_unreadable(now, key.0, out),
            }
            return self.fetch_unreadable(now, key.0, out);
        }
        let executed = share.lane.executed();
        let is_held = |mark: Mark| share.lane.held.contains(mark) && mark.upto >= executed;
        let misses = walk.next.upto <= executed.max(walk.floor.upto) || walk.bytes_passed > walk.bytes_max;
        // Live batches, and execution, may have overtaken the lower part of it.
        let meets = is_held(walk.next) || misses && walk.steps.iter().any(|step| is_held(step.mark()));
        if meets {
            self.fetches.finish(now, &key);
            self.finish_walk(key, out);
            self.walk_to_wanted(now, key.0, out);
        } else if misses {
            // It does not pass through the executed tip, or is not what may be named next.
            let target = walk.target;
            share.walks.wanted.retain(|mark| *mark != target);
            if walk.next.upto <= executed {
                share.lane.acknowledged.forget(target);
                share.lane.strays.forget_behind(target);
                walk.steps.iter().for_each(|step| share.lane.strays.forget_behind(step.mark()));
            }
            self.end_walk(key);
            self.walk_to_wanted(now, key.0, out);
        } else if key.1 == Purpose::Lost && self.fetches.is_exhausted(&key, self.servers(key)) {
            self.end_walk(key);
        } else {
            return self.ask(now, key, out);
        }
        if key.1 == Purpose::Lost {
            self.fetch_lost(now, key.0, out);
        }
    }

    /// Holds what a walk has brought: the live batches may have brought a part of it meanwhile.
    fn finish_walk(&mut self, key: Key, out: &mut Vec<Output>) {
        let (lane, purpose) = key;
        let (is_disk_behind, held_max) = (self.is_disk_behind(), self.lane_bytes_held_max());
        let Some(walk) = self.end_walk(key) else { return };
        let Some(share) = self.share_mut(lane) else { return };
        let held = &share.lane.held;
        let is_full = held.own_link_bytes() + held.other_bytes() + walk.bytes > held_max;
        if is_disk_behind || (is_full && is_made(Mistake::DropsNamedForBudget)) {
            // It is fetched again when the disk has caught up.
            return;
        }
        // Who has acknowledged a batch has acknowledged those before it: others, and this replica where it is a stray.
        let (mut holders, mut inherited) = (ReplicaSet::EMPTY, Why::Named);
        let mut fresh = Vec::new();
        for step in walk.steps {
            let mark = step.mark();
            if share.lane.held.contains(mark) {
                break;
            }
            holders = holders.union(share.lane.holders(mark));
            inherited = inherited.max(share.lane.strays.why_lost(mark).unwrap_or(Why::Named));
            let is_vouched_for = purpose == Purpose::Acknowledged || share.lane.is_vouched_for(holders);
            let why = if is_vouched_for { Why::Acknowledged } else { Why::Named };
            if let Step::Fetched(batch) = step {
                fresh.push((batch, why.max(inherited)));
            }
        }
        for (batch, why) in fresh.into_iter().rev() {
            // The strays between them are held with what comes below.
            let parent = Mark { upto: batch.number().previous(), chain: batch.previous() };
            if !self.shares.get(&lane).is_some_and(|share| share.lane.held.contains(parent)) {
                return;
            }
            if why != Why::Named {
                self.raise(lane, parent, why, out);
            }
            self.append_unchecked(batch, why, out);
        }
    }
}
