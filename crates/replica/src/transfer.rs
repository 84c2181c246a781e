//! State transfer: a replica that lacks what the others no longer keep takes over a certified state, page by page
//! (DESIGN section 6).
//!
//! It begins when a state ahead of the own one is certified and execution has stood still for a while, whatever
//! the reason: headers or batches that nobody keeps, a lost disk, a damaged checkpoint. The fetched state is made
//! durable like a checkpoint of the own making before anything builds on it. The other side is [`crate::library`].

use quorate_state::{
    BadAnswer, Forest, Frozen, PageAnswer, PageFault, PageRequest, Salvage, Transfer as Walk, TransferOptions,
};
use quorate_types::{Digest, Nanoseconds, ReplicaId, ReplicaSet, Seq, Tuning};
use quorate_wire::Position;
use quorate_wire::message::{CheckpointCertificate, FetchPages, FetchedPages};
use std::sync::Arc;

/// A state ahead of an execution that has stood still for so many retransmission times is fetched.
const STANDSTILL_TIMES: u64 = 10;
/// The same where others have nothing of what is to be executed next. What its origin sends may be on its way yet.
const UNSERVED_TIMES: u64 = 1;
/// How often a walk under way looks at its clock, in retransmission times.
const STEP_TIMES: u64 = 1;
/// When nothing useful has come for so many retransmission times, a newer certified state is fetched instead.
const RETARGET_TIMES: u64 = 40;
/// However useful peers are, a newer certified state is fetched instead after so many retransmission times, then after
/// twice as many, and so on: what has come and is equal is kept, and a state that changes faster than it travels is
/// copied all the same.
const TARGET_TIMES: u64 = 600;
/// How often what has come is kept on the disk, in retransmission times.
const KEEP_TIMES: u64 = 100;

/// After so many retransmission times, besides what the bytes take, others are asked for the same, as in all fetches.
const SHARE_TIMES: u64 = 2;

fn options(tuning: &Tuning) -> TransferOptions {
    let share_after = Nanoseconds(SHARE_TIMES.saturating_mul(tuning.retransmit.0));
    TransferOptions { share_after, ..TransferOptions::default() }
}

/// What this role is to tell its peers, and its disk.
#[derive(Debug)]
pub(crate) enum ToPeer {
    Ask(ReplicaId, FetchPages),
    /// What has come so far is to be kept on the disk.
    Keep {
        position: Position,
        root: Digest,
        received: Forest,
    },
    /// The peer answered what no honest one does.
    Condemn(ReplicaId),
}

/// Where the own execution stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(crate) executed: Seq,
    /// Whether there is no state to go on from there: that one, or a later one, is fetched at once.
    pub(crate) lacks_state: bool,
    /// Since when others are known to have nothing of what is to be executed next, if they have nothing.
    pub(crate) unserved_since: Option<Nanoseconds>,
}

/// A walk that is under way.
#[derive(Debug)]
struct Fetching {
    target: Arc<CheckpointCertificate>,
    walk: Walk,
    useful_at: Nanoseconds,
    /// Who has nothing of the target.
    lacking: ReplicaSet,
    /// Since when this target is fetched, and after how many retransmission times a newer one takes its place.
    targeted_at: Nanoseconds,
    target_times: u64,
    /// When what had come was kept last.
    kept_at: Nanoseconds,
    /// The whole state, on its way to the disk.
    whole: Option<Whole>,
}

/// A state that has come.
#[derive(Debug)]
struct Whole {
    state: Frozen,
    /// Where execution stood when it was given out; nothing while it is to be given out.
    given: Option<Seq>,
}

impl Fetching {
    /// Goes on with a newer certified state where this one does not come, or not soon.
    fn retarget(&mut self, now: Nanoseconds, step: u64, answers: usize, stable: &Arc<CheckpointCertificate>) {
        let useless = now.since(self.useful_at) >= RETARGET_TIMES * step || self.lacking.len() >= answers;
        let long = now.since(self.targeted_at) >= self.target_times.saturating_mul(step);
        if stable.position.seq <= self.target.position.seq || !(useless || long) {
            return;
        }
        if long {
            self.target_times = self.target_times.saturating_mul(2);
        }
        self.walk.retarget(stable.root);
        self.target = Arc::clone(stable);
        (self.useful_at, self.targeted_at, self.lacking) = (now, now, ReplicaSet::EMPTY);
    }
}

/// The fetching side.
#[derive(Debug)]
pub(crate) struct Transfer {
    /// How many others answer for certain.
    answers: usize,
    peers: ReplicaSet,
    /// The peer that was asked first last: the next round begins after it.
    first: ReplicaId,
    /// The state that execution reached last, and since when.
    reached: Option<(Seq, Nanoseconds)>,
    fetching: Option<Fetching>,
    /// Whether the last walk began in vain: execution got there by itself.
    in_vain: bool,
    /// What an earlier walk had received when the replica stopped.
    part: Option<Forest>,
    /// What is intact of own states that cannot be read.
    salvage: Option<Arc<Salvage>>,
    /// Nothing is to be done before.
    due: Option<Nanoseconds>,
}

impl Transfer {
    /// A walk that begins will take over what an earlier one had received, and what is intact of damaged states.
    pub(crate) fn resuming(answers: usize, part: Option<Forest>, salvage: Option<Arc<Salvage>>) -> Self {
        Self {
            answers,
            peers: ReplicaSet::EMPTY,
            first: ReplicaId::default(),
            reached: None,
            fetching: None,
            in_vain: false,
            part,
            salvage,
            due: None,
        }
    }

    pub(crate) fn on_peer(&mut self, peer: ReplicaId, connected: bool) {
        if connected {
            self.peers.insert(peer);
        } else {
            self.peers.remove(peer);
            if let Some(fetching) = &mut self.fetching {
                fetching.walk.forget(peer);
            }
        }
    }

    /// When [`Transfer::on_time`] wants to be called next.
    pub(crate) fn deadline(&self) -> Option<Nanoseconds> {
        self.due
    }

    /// Whether a state is being fetched.
    pub(crate) fn is_fetching(&self) -> bool {
        self.fetching.is_some()
    }

    /// The certified state that is being fetched.
    pub(crate) fn target(&self) -> Option<Position> {
        self.fetching.as_ref().map(|fetching| fetching.target.position)
    }

    /// What came and how many parts were here already, for reports.
    pub(crate) fn figures(&self) -> Option<(u64, u64)> {
        let walk = &self.fetching.as_ref()?.walk;
        Some((walk.figures().pages, walk.reused()))
    }

    /// Begins, goes on with or gives up a walk; `own` is the present state, if there is one.
    pub(crate) fn on_time(
        &mut self,
        now: Nanoseconds,
        tuning: &Tuning,
        stable: Option<&Arc<CheckpointCertificate>>,
        standing: Standing,
        own: impl FnOnce() -> Frozen,
    ) -> Vec<ToPeer> {
        let Standing { executed, lacks_state, unserved_since } = standing;
        let is_ahead = |stable: &&Arc<CheckpointCertificate>| {
            stable.position.seq > executed || (lacks_state && stable.position.seq == executed)
        };
        let is_known = stable.is_some();
        let Some(stable) = stable.filter(is_ahead) else {
            self.in_vain |= self.fetching.take().is_some();
            (self.reached, self.due) = (None, None);
            if is_known && !lacks_state {
                // Execution got there by itself. Before anything is known to be certified, nobody can tell.
                self.salvage = None;
            }
            return Vec::new();
        };
        let step = tuning.retransmit.0;
        // Who came too early once is in no hurry.
        let unserved_since = unserved_since.filter(|_| !self.in_vain);
        let begins = |since: Nanoseconds| {
            let early = unserved_since.map(|unserved| since.max(unserved).plus(UNSERVED_TIMES * step));
            let late = since.plus(STANDSTILL_TIMES * step);
            early.map_or(late, |early| early.min(late))
        };
        if lacks_state {
            self.reached.get_or_insert((executed, Nanoseconds(0)));
        }
        match self.reached {
            Some((seq, since)) if seq == executed => {
                if self.fetching.is_none() {
                    let begins = begins(since);
                    if now < begins {
                        self.due = Some(begins);
                        return Vec::new();
                    }
                    let mut walk = Walk::new(stable.root, options(tuning));
                    walk.reuse(&own());
                    if let Some(part) = self.part.take() {
                        walk.reuse_forest(&part);
                    }
                    if let Some(salvage) = self.salvage.take() {
                        walk.reuse_salvage(salvage);
                    }
                    let target = Arc::clone(stable);
                    self.fetching = Some(Fetching {
                        target,
                        walk,
                        useful_at: now,
                        lacking: ReplicaSet::EMPTY,
                        targeted_at: now,
                        target_times: TARGET_TIMES,
                        kept_at: now,
                        whole: None,
                    });
                }
            }
            _ => {
                self.reached = Some((executed, now));
                if self.fetching.as_ref().is_none_or(|fetching| fetching.target.position.seq <= executed) {
                    self.in_vain |= self.fetching.take().is_some();
                    self.due = Some(begins(now));
                    return Vec::new();
                }
            }
        }
        self.due = Some(now.plus(STEP_TIMES * step));
        self.ask(now, step, stable)
    }

    fn ask(&mut self, now: Nanoseconds, step: u64, stable: &Arc<CheckpointCertificate>) -> Vec<ToPeer> {
        let Some(fetching) = &mut self.fetching else { return Vec::new() };
        if fetching.whole.is_some() {
            return Vec::new();
        }
        fetching.retarget(now, step, self.answers, stable);
        fetching.walk.expire(now);
        let mut questions = Vec::new();
        if now.since(fetching.kept_at) >= KEEP_TIMES * step {
            fetching.kept_at = now;
            let (position, root) = (fetching.target.position, fetching.target.root);
            questions.push(ToPeer::Keep { position, root, received: fetching.walk.received() });
        }
        // Each peer in turn is the first to choose, those first that were not slow, and has one question before another has
        // two.
        let (after, upto): (Vec<_>, Vec<_>) = self.peers.iter().partition(|peer| *peer > self.first);
        let mut round: Vec<ReplicaId> = after.into_iter().chain(upto).collect();
        round.sort_by_key(|peer| (fetching.walk.faults(now, *peer), fetching.walk.owes(*peer)));
        let (mut first, mut more) = (None, true);
        while std::mem::take(&mut more) {
            for peer in &round {
                if let Some(PageRequest { number, root, wanted }) = fetching.walk.request(now, *peer) {
                    questions.push(ToPeer::Ask(*peer, FetchPages { request: number, root, wanted }));
                    (first, more) = (first.or(Some(*peer)), true);
                }
            }
        }
        self.first = first.unwrap_or(self.first);
        questions
    }

    /// Takes an answer; asks for more at once.
    ///
    /// # Errors
    /// When the certified state contradicts itself.
    pub(crate) fn on_answer(
        &mut self,
        now: Nanoseconds,
        tuning: &Tuning,
        peer: ReplicaId,
        message: FetchedPages,
    ) -> Result<Vec<ToPeer>, PageFault> {
        let Some(fetching) = &mut self.fetching else { return Ok(Vec::new()) };
        let FetchedPages { request, root, top, pages, values } = message;
        if root == fetching.target.root && top.is_none() && pages.is_empty() && values.is_empty() {
            fetching.lacking.insert(peer);
        }
        let answer = PageAnswer { number: request, root, top, pages, values };
        let mut told = Vec::new();
        match fetching.walk.on_answer(now, peer, &answer) {
            Ok(received) if received.pages > 0 => fetching.useful_at = now,
            Ok(_) => {}
            Err(BadAnswer::Page(fault)) => return Err(fault),
            Err(_) => told.push(ToPeer::Condemn(peer)),
        }
        let target = Arc::clone(&fetching.target);
        told.extend(self.ask(now, tuning.retransmit.0, &target));
        Ok(told)
    }

    /// The whole state, once it is here; it is given out once, and again if the disk has left it out.
    ///
    /// # Errors
    /// When the certified state contradicts itself.
    pub(crate) fn take_whole(&mut self, executed: Seq) -> Result<Option<(Position, Frozen)>, PageFault> {
        let Some(fetching) = &mut self.fetching else { return Ok(None) };
        if fetching.whole.is_none() {
            if !fetching.walk.is_finished() {
                return Ok(None);
            }
            let nothing = Walk::new(Digest::ZERO, TransferOptions::default());
            let state = std::mem::replace(&mut fetching.walk, nothing).finish()?;
            fetching.whole = Some(Whole { state, given: None });
        }
        let due = fetching.whole.as_mut().filter(|whole| whole.given.is_none());
        Ok(due.map(|whole| {
            whole.given = Some(executed);
            (fetching.target.position, whole.state.clone())
        }))
    }

    /// A state is durable. If it is the one that was fetched, or a later one, the walk is over. If it was given out
    /// after the one that was fetched, it has overtaken that on its way to the disk.
    pub(crate) fn on_durable(&mut self, position: Position) -> Option<Frozen> {
        let fetching = self.fetching.as_mut()?;
        let target = fetching.target.position;
        if position.seq < target.seq {
            // Own states ascend, and the earlier ones are not above where execution stood.
            if let Some(whole) = &mut fetching.whole {
                whole.given = whole.given.filter(|executed| position.seq <= *executed);
            }
            return None;
        }
        let whole = self.fetching.take()?.whole;
        (self.reached, self.due, self.in_vain) = (None, None, false);
        whole.filter(|_| position == target).map(|whole| whole.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_state::{
        CheckpointHead, FileNumber, Known, PageStore, Progress, ReadPages, State, StoreOptions,
    };
    use std::collections::{BTreeMap, VecDeque};

    const STEP: Nanoseconds = Nanoseconds::from_millis(50);

    fn tuning() -> Tuning {
        Tuning { retransmit: STEP, ..Tuning::default() }
    }

    fn after(steps: u64) -> Nanoseconds {
        Nanoseconds(steps * STEP.0)
    }

    fn position(seq: u64) -> Position {
        Position { seq: Seq(seq), digest: Digest([1; 32]) }
    }

    /// A state with some hundred pages after a slot, and its certificate.
    fn certified(seq: u64) -> (Frozen, Arc<CheckpointCertificate>) {
        let client = |number: u32| {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&number.to_be_bytes());
            key
        };
        let mut state = State::new((0..40_000).map(client));
        state.note_header(Seq(seq), Digest([1; 32]), Nanoseconds(seq));
        let root = state.root();
        let (position, next_config) = (position(seq), Digest::ZERO);
        let certificate = CheckpointCertificate { position, root, next_config, signatures: Vec::new() };
        (state.freeze(), Arc::new(certificate))
    }

    fn at(executed: u64) -> Standing {
        Standing { executed: Seq(executed), lacks_state: false, unserved_since: None }
    }

    fn nothing() -> Frozen {
        State::new([]).freeze()
    }

    fn transfer(peers: u8) -> Transfer {
        let mut transfer = Transfer::resuming(2, None, None);
        (1..=peers).for_each(|peer| transfer.on_peer(ReplicaId(peer), true));
        transfer
    }

    fn answer(state: &Frozen, question: FetchPages, pages_max: usize) -> FetchedPages {
        let FetchPages { request: number, root, wanted } = question;
        let request = PageRequest { number, root, wanted };
        let PageAnswer { number, root, top, mut pages, values } = state.answer(&request, usize::MAX);
        pages.truncate(pages_max);
        FetchedPages { request: number, root, top, pages, values }
    }

    #[test]
    fn each_peer_in_turn_is_asked_first() {
        let (_, stable) = certified(10);
        let mut transfer = transfer(3);
        let mut first = ReplicaSet::EMPTY;
        for steps in 0..1000 {
            let told = transfer.on_time(after(steps), &tuning(), Some(&stable), at(0), nothing);
            if let Some(ToPeer::Ask(peer, _)) = told.first() {
                first.insert(*peer);
            }
        }
        assert_eq!(first.iter().collect::<Vec<_>>(), [1, 2, 3].map(ReplicaId));
    }

    /// A peer that answers each question with one page, late, is useful, and must not choose which state is fetched.
    #[test]
    fn a_newer_state_is_fetched_after_a_while_however_useful_peers_are() {
        let states: Vec<_> = [10, 20, 30].into_iter().map(certified).collect();
        let (late, mut questions, mut targeted) = (RETARGET_TIMES / 5, VecDeque::new(), Vec::new());
        let mut transfer = transfer(1);
        for steps in 0..STANDSTILL_TIMES + 4 * TARGET_TIMES {
            let now = after(steps);
            // There is always a newer one, until there is none.
            let (_, stable) = &states[targeted.len().min(2)];
            let mut told = transfer.on_time(now, &tuning(), Some(stable), at(0), nothing);
            if transfer.target() == Some(stable.position) && targeted.len() < 3 {
                targeted.push(steps);
            }
            while questions.front().is_some_and(|(due, _)| *due <= steps) {
                let (_, question): (_, FetchPages) = questions.pop_front().expect("just seen");
                let (state, _) = states.iter().find(|(_, of)| of.root == question.root).expect("one of them");
                let answer = answer(state, question, 1);
                told.extend(transfer.on_answer(now, &tuning(), ReplicaId(1), answer).expect("sound pages"));
            }
            for one in told {
                if let ToPeer::Ask(_, question) = one {
                    questions.push_back((steps + late, question));
                }
            }
        }
        let first = STANDSTILL_TIMES;
        assert_eq!(targeted, [first, first + TARGET_TIMES, first + 3 * TARGET_TIMES]);
    }

    /// What its origin sends may be on its way.
    #[test]
    fn what_others_have_nothing_of_is_waited_for_a_little() {
        let (_, stable) = certified(10);
        let mut transfer = transfer(2);
        let unserved = Standing { unserved_since: Some(after(7)), ..at(2) };
        assert!(transfer.on_time(after(7), &tuning(), Some(&stable), unserved, nothing).is_empty());
        assert_eq!(transfer.deadline(), Some(after(7 + UNSERVED_TIMES)));
        let told = transfer.on_time(after(7 + UNSERVED_TIMES), &tuning(), Some(&stable), unserved, nothing);
        assert_eq!(told.len(), 2, "each is asked");
        // It was waited for before others said so, and what they say now may not be all.
        let mut longer = self::transfer(2);
        longer.on_time(after(0), &tuning(), Some(&stable), at(2), nothing);
        assert!(longer.on_time(after(7), &tuning(), Some(&stable), unserved, nothing).is_empty());
        assert_eq!(longer.deadline(), Some(after(7 + UNSERVED_TIMES)));
        // Not when it has come meanwhile.
        let mut served = self::transfer(2);
        served.on_time(after(7), &tuning(), Some(&stable), unserved, nothing);
        assert!(served.on_time(after(8), &tuning(), Some(&stable), at(2), nothing).is_empty());
    }

    /// Each walk looks at all of the own state first.
    #[test]
    fn who_began_in_vain_is_in_no_hurry() {
        let (_, stable) = certified(10);
        let mut transfer = transfer(2);
        let unserved = |executed| Standing { unserved_since: Some(after(0)), ..at(executed) };
        let mut look = |steps, executed| {
            transfer.on_time(after(steps), &tuning(), Some(&stable), unserved(executed), nothing);
            transfer.is_fetching()
        };
        assert!(!look(0, 2) && look(UNSERVED_TIMES, 2));
        assert!(!look(2, 10), "execution has got there");
        let (_, stable) = certified(20);
        let mut look = |steps| {
            transfer.on_time(after(steps), &tuning(), Some(&stable), unserved(10), nothing);
            transfer.is_fetching()
        };
        assert!(!look(3) && !look(3 + STANDSTILL_TIMES - 1) && look(3 + STANDSTILL_TIMES));
        transfer.on_durable(position(20));
        assert!(!transfer.in_vain, "that one was not");
    }

    /// Who answers has a newer state, and will not have this one again.
    #[test]
    fn a_state_that_nobody_has_any_more_gives_way_to_a_newer_one_at_once() {
        let [(_, stable), (_, newer)] = [10, 20].map(certified);
        let mut transfer = transfer(3);
        let unserved = Standing { unserved_since: Some(after(0)), ..at(2) };
        transfer.on_time(after(0), &tuning(), Some(&stable), unserved, nothing);
        let now = after(UNSERVED_TIMES);
        let mut questions = transfer.on_time(now, &tuning(), Some(&stable), unserved, nothing);
        transfer.on_time(now, &tuning(), Some(&newer), unserved, nothing);
        for answers in 1..=2 {
            assert_eq!(transfer.target(), Some(position(10)), "after {answers} answers");
            let Some(ToPeer::Ask(peer, FetchPages { request, root, .. })) = questions.pop() else { panic!() };
            let nothing = FetchedPages { request, root, top: None, pages: Vec::new(), values: Vec::new() };
            transfer.on_answer(now, &tuning(), peer, nothing).expect("no lie");
            transfer.on_time(now, &tuning(), Some(&newer), unserved, self::nothing);
        }
        assert_eq!(transfer.target(), Some(position(20)));
    }

    /// Whoever keeps the first page back keeps the others from being asked for it only as long as so little may take.
    #[test]
    fn who_says_nothing_is_waited_for_as_long_as_little_takes() {
        let (state, stable) = certified(10);
        let mut transfer = transfer(2);
        let unserved = Standing { unserved_since: Some(after(7)), ..at(2) };
        let mut asked = BTreeMap::new();
        for steps in 7..=8 + UNSERVED_TIMES + SHARE_TIMES {
            let now = after(steps);
            let mut told = transfer.on_time(now, &tuning(), Some(&stable), unserved, nothing);
            while let Some(one) = told.pop() {
                let ToPeer::Ask(peer, question) = one else { continue };
                asked.entry(peer).or_insert(Vec::new()).push(question.wanted.len());
                if question.wanted.is_empty() {
                    let answer = answer(&state, question, usize::MAX);
                    told.extend(transfer.on_answer(now, &tuning(), peer, answer).expect("a sound top"));
                }
            }
        }
        assert_eq!(asked, BTreeMap::from([1, 2].map(|peer| (ReplicaId(peer), vec![0, 1]))));
    }

    #[test]
    fn a_state_that_the_disk_left_out_is_given_out_again() {
        let (state, stable) = certified(10);
        let mut transfer = transfer(1);
        let whole = |transfer: &mut Transfer| transfer.take_whole(Seq(2)).expect("a sound state");
        let told = transfer.on_time(after(0), &tuning(), Some(&stable), at(2), nothing);
        assert!(told.is_empty(), "execution has not stood still yet");
        let now = after(STANDSTILL_TIMES);
        let mut told = transfer.on_time(now, &tuning(), Some(&stable), at(2), nothing);
        while let Some(ToPeer::Ask(peer, question)) = told.pop() {
            let answer = answer(&state, question, usize::MAX);
            told.extend(transfer.on_answer(now, &tuning(), peer, answer).expect("sound pages"));
        }
        let (given, _) = whole(&mut transfer).expect("it is whole");
        assert_eq!(given, position(10));
        assert!(transfer.on_durable(position(1)).is_none());
        assert!(whole(&mut transfer).is_none(), "what was given out before says nothing of it");
        assert!(transfer.on_durable(position(3)).is_none());
        let (given, _) = whole(&mut transfer).expect("what was given out after it has overtaken it");
        assert_eq!(given, position(10));
        assert!(whole(&mut transfer).is_none(), "once");
        assert!(transfer.on_durable(position(10)).is_some() && !transfer.is_fetching());
    }

    /// Page files in memory.
    struct Files(BTreeMap<FileNumber, Vec<u8>>);

    impl ReadPages for Files {
        fn read(&mut self, number: FileNumber, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
            let (file, from) = (&self.0[&number], usize::try_from(offset).expect("a small file"));
            buffer.copy_from_slice(&file[from..from + buffer.len()]);
            Ok(())
        }
    }

    /// What is intact of a state on a disk where its root is not.
    fn salvaged(state: &Frozen, seq: u64) -> Arc<Salvage> {
        let mut store = PageStore::new(StoreOptions::default(), [], []);
        let position = position(seq);
        let (timestamp, certificate) = (Nanoseconds(seq), Vec::new());
        let head = CheckpointHead { seq: position.seq, digest: position.digest, timestamp, certificate };
        let (mut checkpoint, mut files) = (store.begin(head, state), Files(BTreeMap::new()));
        loop {
            match checkpoint.advance(&mut store) {
                Progress::Write(write) => files.0.entry(write.file).or_default().extend(write.bytes),
                Progress::Finished => break,
                Progress::Remove(_) | Progress::Pause => {}
            }
        }
        let manifest = checkpoint.manifest(&store);
        let root = manifest.roots[0].address;
        files.0.get_mut(&root.file).expect("it is there")[root.offset as usize + 13] ^= 1;
        let lengths: Vec<_> = files.0.iter().map(|(number, bytes)| (*number, bytes.len() as u64)).collect();
        let mut store = PageStore::new(StoreOptions::default(), lengths, [manifest.number]);
        let known = Known { certificate: None, upto: Seq(u64::MAX) };
        store.restore([manifest], false, known, &mut files).expect("nothing refuses").salvage.expect("pages")
    }

    /// A learner whose log is lost knows of no certificate when it starts, and has most of the pages all the same.
    #[test]
    fn what_is_intact_is_kept_until_something_is_known_to_be_certified() {
        let (state, stable) = certified(10);
        let mut transfer = Transfer::resuming(2, None, Some(salvaged(&state, 10)));
        transfer.on_peer(ReplicaId(1), true);
        transfer.on_time(after(0), &tuning(), None, at(0), nothing);
        let begins = 1 + STANDSTILL_TIMES;
        transfer.on_time(after(1), &tuning(), Some(&stable), at(0), nothing);
        let mut told = transfer.on_time(after(begins), &tuning(), Some(&stable), at(0), nothing);
        while let Some(ToPeer::Ask(peer, question)) = told.pop() {
            let answer = answer(&state, question, usize::MAX);
            told.extend(transfer.on_answer(after(begins), &tuning(), peer, answer).expect("sound pages"));
        }
        let (fetched, _) = transfer.figures().expect("a walk");
        let _ = transfer.take_whole(Seq(0)).expect("a sound state").expect("it is whole");
        assert_eq!(fetched, 1, "the root is all that it lacked");
        // One that execution has reached by itself needs none.
        let mut reached = Transfer::resuming(2, None, Some(salvaged(&state, 10)));
        reached.on_time(after(0), &tuning(), Some(&stable), at(10), nothing);
        assert!(reached.salvage.is_none());
    }

    #[test]
    fn a_later_own_state_ends_the_transfer() {
        let (_, stable) = certified(10);
        let mut transfer = transfer(1);
        for steps in [0, STANDSTILL_TIMES] {
            transfer.on_time(after(steps), &tuning(), Some(&stable), at(2), nothing);
        }
        assert!(transfer.is_fetching());
        assert!(transfer.on_durable(position(11)).is_none() && !transfer.is_fetching());
    }
}
