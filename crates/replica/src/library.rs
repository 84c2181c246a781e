//! The states that this replica serves to whoever copies one: a peer that catches up, or a client that makes a backup
//! (DESIGN section 6).
//!
//! The newest certified state answers, and all above it: any of them may be certified yet, by votes that come late, and
//! others may then have to take over just that one. Each stays until one of them is certified, or a later one; the
//! window bounds their number. One that was asked for lately stays beside them. The batches above the oldest of all are
//! kept, so that who copies it under load is not left behind again when it is done. There is one such place, and whoever
//! asks on and on must not keep it from others: a peer holds the one state that it has asked for last, for a bounded
//! time; clients' copies give way to peers.
//!
//! A question is small and its answer large. So answers leave at the end of a tick and are bounded in bytes; what is too
//! much waits for the next one. How many questions one reader has open is limited where they arrive.

use crate::interface::ClientConnection;
use quorate_state::{Frozen, PageAnswer, PageRequest, Salvage};
use quorate_types::mistakes::is_made;
use quorate_types::{
    AnswerCredits, Digest, Mistake, Nanoseconds, ReplicaId, ReplicaSet, Seq, Tuning, limits,
};
use quorate_wire::message::{CheckpointCertificate, FetchPages, FetchedPages, Message};
use quorate_wire::{Frame, LaneTip};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// How long a state that was asked for stays, in retransmission times after the last question.
const ASKED_TIMES: u64 = 100;
/// For how long the questions of one peer keep states, in retransmission times; a large one is copied in that. Being
/// silent wins back as much. A state that only clients ask for stays so long after a newer one has come.
const PINNED_TIMES: u64 = 36_000;
/// The states that are kept because they were asked for, beside those that are needed.
const ASKED_MAX: usize = 1;
/// The bytes of answers after which a tick answers no more.
const ANSWERS_BYTES_MAX: usize = limits::FETCH_BYTES_MAX;

/// A durable state that can be served.
#[derive(Debug)]
struct Served {
    seq: Seq,
    root: Digest,
    state: Frozen,
    tips: Arc<[LaneTip]>,
    certificate: Option<Arc<CheckpointCertificate>>,
    /// When a client has asked for it last.
    copied: Option<Nanoseconds>,
    /// Since when a newer one has taken its place.
    superseded: Option<Nanoseconds>,
}

/// What a peer asks for.
#[derive(Debug)]
struct Asking {
    /// The root of the state that it has asked for last, and when.
    root: Digest,
    last: Nanoseconds,
    /// For how many nanoseconds it has asked.
    used: u64,
}

impl Served {
    /// Until when a peer's questions keep it.
    fn asked_until(&self, askings: &BTreeMap<ReplicaId, Asking>, step: u64) -> Option<Nanoseconds> {
        let keeps = |asking: &&Asking| asking.root == self.root && asking.used < PINNED_TIMES * step;
        askings.values().filter(keeps).map(|asking| asking.last.plus(ASKED_TIMES * step)).max()
    }

    /// Until when anybody's questions keep it.
    fn in_use_until(&self, askings: &BTreeMap<ReplicaId, Asking>, step: u64) -> Option<Nanoseconds> {
        let copied = self.copied.map(|copied| copied.plus(ASKED_TIMES * step));
        let latest = self.superseded.map(|superseded| superseded.plus(PINNED_TIMES * step));
        let copied = copied.map(|copied| latest.map_or(copied, |latest| copied.min(latest)));
        self.asked_until(askings, step).max(copied)
    }
}

/// Who asks for pages. A client copies a state and needs nothing of what leads on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    Peer(ReplicaId),
    Client(ClientConnection),
}

/// The durable states that answer.
#[derive(Debug, Default)]
pub(crate) struct Library {
    states: VecDeque<Served>,
    /// The root of the state that the cluster began with, if its configuration names it: as good as certified for whoever
    /// lacks it.
    first: Option<Digest>,
    /// The slot of the highest certificate, whose state need not be here. What is not above it is certified no more.
    certified: Seq,
    /// The tips above which batches are kept.
    pinned: Option<Arc<[LaneTip]>>,
    /// What is to be answered, the oldest first: a few questions of each reader, so everyone has a turn.
    questions: VecDeque<(Reader, FetchPages)>,
    /// What peers ask for. It outlasts their connections.
    askings: BTreeMap<ReplicaId, Asking>,
    /// What is sent to each peer for its questions. It outlasts connections, too.
    credits: AnswerCredits,
    /// Peers that have not taken the last answer: their questions wait.
    answering: ReplicaSet,
    /// What is intact of own states that cannot be read, as long as there is none that can.
    salvage: Option<Arc<Salvage>>,
}

impl Library {
    /// That of a cluster whose configuration names the root of the state that it began with.
    pub(crate) fn of(first: Option<Digest>) -> Self {
        Self { first, ..Self::default() }
    }

    /// A newer state is durable: that after `seq`.
    pub(crate) fn add(
        &mut self,
        seq: Seq,
        root: Digest,
        state: Frozen,
        tips: Arc<[LaneTip]>,
        stable: Option<&Arc<CheckpointCertificate>>,
    ) {
        let (certificate, copied, superseded) = (None, None, None);
        self.states.push_back(Served { seq, root, state, tips, certificate, copied, superseded });
        // It has what others may lack of the older ones, or what has taken its place.
        self.salvage = None;
        stable.into_iter().for_each(|certificate| self.certify(certificate));
    }

    /// Serves what is intact of own states that cannot be read, or no more.
    pub(crate) fn hold(&mut self, salvage: Option<Arc<Salvage>>) {
        self.salvage = salvage;
    }

    /// A state is certified. Its root covers the slot, too.
    pub(crate) fn certify(&mut self, certificate: &Arc<CheckpointCertificate>) {
        self.certified = self.certified.max(certificate.position.seq);
        let of_it = self.states.iter_mut().find(|served| served.root == certificate.root);
        if let Some(served) = of_it {
            served.certificate = Some(Arc::clone(certificate));
        }
    }

    /// The certificate of the newest state that has one; the state stays for a while, to be copied.
    pub(crate) fn certified(&mut self, now: Nanoseconds) -> Option<CheckpointCertificate> {
        let newest = self.states.iter_mut().rev().find(|served| served.certificate.is_some())?;
        newest.copied = Some(now);
        newest.certificate.as_deref().cloned()
    }

    /// Notes a question.
    pub(crate) fn ask(&mut self, reader: Reader, question: FetchPages) {
        self.questions.push_back((reader, question));
    }

    /// This reader is gone: it is not answered any more.
    pub(crate) fn forget(&mut self, reader: Reader) {
        self.questions.retain(|(asker, _)| *asker != reader);
        if let Reader::Peer(peer) = reader {
            self.on_taken(peer);
        }
    }

    /// A peer has taken the last answer: the next one may follow.
    pub(crate) fn on_taken(&mut self, peer: ReplicaId) {
        self.answering.remove(peer);
    }

    /// The answers that leave with this tick, as far as the credit of each peer goes, and one at a time; the others wait.
    pub(crate) fn answers(&mut self, now: Nanoseconds, tuning: &Tuning) -> Vec<(Reader, Frame)> {
        let (mut answers, mut bytes) = (Vec::new(), 0);
        while bytes < ANSWERS_BYTES_MAX
            && let Some(next) = self
                .questions
                .iter()
                .position(|(reader, _)| self.answer_due(*reader).is_some_and(|due| due <= now))
            && let Some((reader, question)) = self.questions.remove(next)
        {
            let frame = self.answer(now, tuning, reader, question).encode();
            let frame_bytes = frame.bytes().len();
            if let Reader::Peer(peer) = reader {
                self.credits.charge(now, peer, frame_bytes);
                self.answering.insert(peer);
            }
            bytes += frame_bytes;
            answers.push((reader, frame));
        }
        answers
    }

    /// How often an answer has used a peer's credit up since this was asked last.
    pub(crate) fn take_credits_used_up(&mut self) -> u64 {
        self.credits.take_used_up()
    }

    /// When a reader can be answered, unless that waits for what it takes. Clients have one question open at a time.
    fn answer_due(&self, reader: Reader) -> Option<Nanoseconds> {
        match reader {
            Reader::Peer(peer) => (!self.answering.contains(peer)).then(|| self.credits.due(peer)),
            Reader::Client(_) => Some(Nanoseconds(0)),
        }
    }

    /// Answers a question from whichever state has the root, or else from the newest: much of it is the same.
    fn answer(
        &mut self,
        now: Nanoseconds,
        tuning: &Tuning,
        reader: Reader,
        question: FetchPages,
    ) -> FetchedPages {
        let FetchPages { request: number, root, wanted } = question;
        let found = self.states.iter().position(|served| served.root == root);
        if let Some(salvage) = self.salvage.as_ref().filter(|_| found.is_none()) {
            let request = PageRequest { number, root, wanted };
            return fetched(salvage.answer(&request, limits::FETCH_BYTES_MAX));
        }
        let index = found.or_else(|| self.states.len().checked_sub(1));
        let Some(served) = index.and_then(|index| self.states.get_mut(index)) else {
            return FetchedPages { request: number, root, top: None, pages: Vec::new(), values: Vec::new() };
        };
        if found.is_some() {
            match reader {
                Reader::Peer(peer) => note_asking(&mut self.askings, now, tuning, peer, root),
                Reader::Client(_) => served.copied = Some(now),
            }
        }
        let request = PageRequest { number, root, wanted };
        fetched(served.state.answer(&request, limits::FETCH_BYTES_MAX))
    }

    /// Lets go of states that are neither needed nor in use. Says above which tips batches are to be kept, if that has
    /// changed.
    pub(crate) fn on_time(&mut self, now: Nanoseconds, tuning: &Tuning) -> Option<Option<Arc<[LaneTip]>>> {
        let (askings, step) = (&self.askings, tuning.retransmit.0);
        let (is_needed, mut index) = (self.needed(), 0);
        self.states.retain_mut(|served| {
            index += 1;
            if is_needed(index - 1, served) {
                return true;
            }
            served.superseded.get_or_insert(now);
            served.in_use_until(askings, step).is_some_and(|until| now < until)
        });
        while self.asked().count() > ASKED_MAX {
            // What only clients read gives way first; else the oldest stays, which has been asked for the longest.
            let is_by_peer =
                |served: &Served| served.asked_until(askings, step).is_some_and(|until| now < until);
            let later = || self.asked().skip(1).chain(self.asked().take(1));
            let by_client = later().find(|(_, served)| !is_by_peer(served));
            let Some((victim, _)) = by_client.or_else(|| later().next()) else { break };
            self.states.remove(victim);
        }
        let pinned = self.states.front().map(|served| Arc::clone(&served.tips));
        let same = match (&self.pinned, &pinned) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (None, None) => true,
            _ => false,
        };
        if same {
            return None;
        }
        self.pinned.clone_from(&pinned);
        Some(pinned)
    }

    /// Which of the states stay, whoever asks: says so of each, by its index. With f others down for good, a newer one may
    /// be certified only by who has taken over the last certified one first.
    fn needed(&self) -> impl Fn(usize, &Served) -> bool + use<> {
        let is_proven = |served: &Served| served.certificate.is_some() || Some(served.root) == self.first;
        let certified = self.states.iter().rposition(is_proven);
        let (newest, upto) = (self.states.len().checked_sub(1), self.certified);
        move |index, served| {
            let (index, is_open) = (Some(index), served.seq > upto);
            index == certified || index == newest || is_open && !is_made(Mistake::ServesNewestState)
        }
    }

    /// The states that stay because they were asked for alone.
    fn asked(&self) -> impl Iterator<Item = (usize, &Served)> {
        let is_needed = self.needed();
        self.states.iter().enumerate().filter(move |(index, served)| !is_needed(*index, served))
    }

    /// When there is something to do: when a question can be answered, or a state may be let go of.
    pub(crate) fn deadline(&self, tuning: &Tuning) -> Option<Nanoseconds> {
        let answers = self.questions.iter().filter_map(|(reader, _)| self.answer_due(*reader));
        let step = tuning.retransmit.0;
        answers.chain(self.asked().filter_map(|(_, served)| served.in_use_until(&self.askings, step))).min()
    }
}

fn fetched(answer: PageAnswer) -> FetchedPages {
    let PageAnswer { number, root, top, pages, values } = answer;
    FetchedPages { request: number, root, top, pages, values }
}

fn note_asking(
    askings: &mut BTreeMap<ReplicaId, Asking>,
    now: Nanoseconds,
    tuning: &Tuning,
    peer: ReplicaId,
    root: Digest,
) {
    let asking = askings.entry(peer).or_insert(Asking { root, last: now, used: 0 });
    let gap = now.since(asking.last);
    let silent = gap >= ASKED_TIMES * tuning.retransmit.0;
    asking.used = if silent { asking.used.saturating_sub(gap) } else { asking.used.saturating_add(gap) };
    (asking.root, asking.last) = (root, now);
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_state::State;
    use quorate_types::CoreId;

    const CLIENT: Reader = Reader::Client(ClientConnection { core: CoreId(0), number: 1 });
    const HONEST: Reader = Reader::Peer(ReplicaId(1));
    const GREEDY: Reader = Reader::Peer(ReplicaId(2));
    const SECOND: u64 = 1_000_000_000;

    struct Shelf {
        library: Library,
        tuning: Tuning,
        now: Nanoseconds,
    }

    impl Shelf {
        fn new() -> Self {
            let (library, tuning) = (Library::default(), Tuning::default());
            Self { library, tuning, now: Nanoseconds(1_000 * SECOND) }
        }

        /// A state after a slot is durable and certified, and the tick ends; returns its root.
        fn add(&mut self, seq: u64) -> Digest {
            let root = self.add_open(seq);
            self.certify(seq, root);
            root
        }

        /// A state after a slot is durable, and the tick ends; returns its root.
        fn add_open(&mut self, seq: u64) -> Digest {
            let mut state = State::new([]);
            state.note_header(Seq(seq), Digest([1; 32]), Nanoseconds(seq));
            let root = state.root();
            self.library.add(Seq(seq), root, state.freeze(), Arc::new([]), None);
            self.end_tick();
            root
        }

        fn certify(&mut self, seq: u64, root: Digest) {
            let position = quorate_wire::Position { seq: Seq(seq), digest: Digest([1; 32]) };
            let (next_config, signatures) = (Digest([2; 32]), Vec::new());
            let certificate = CheckpointCertificate { position, root, next_config, signatures };
            self.library.certify(&Arc::new(certificate));
            self.end_tick();
        }

        fn ask(&mut self, reader: Reader, root: Digest) {
            self.library.ask(reader, FetchPages { request: 1, root, wanted: Vec::new() });
            assert!(self.library.deadline(&self.tuning).is_some_and(|deadline| deadline <= self.now));
            assert_eq!(self.library.answers(self.now, &self.tuning).len(), 1);
            if let Reader::Peer(peer) = reader {
                self.library.on_taken(peer);
            }
            self.end_tick();
        }

        fn end_tick(&mut self) {
            self.library.on_time(self.now, &self.tuning);
            let deadline = self.library.deadline(&self.tuning);
            assert!(deadline.is_none_or(|deadline| deadline > self.now), "it would be called again at once");
            assert!(self.library.asked().count() <= ASKED_MAX);
        }

        fn wait(&mut self, nanoseconds: u64) {
            self.now = self.now.plus(nanoseconds);
            self.end_tick();
        }

        fn pinned(&self) -> u64 {
            PINNED_TIMES * self.tuning.retransmit.0
        }

        fn roots(&self) -> Vec<Digest> {
            self.library.states.iter().map(|served| served.root).collect()
        }
    }

    #[test]
    fn what_only_clients_read_gives_way_to_what_a_peer_reads() {
        for readers in [[CLIENT, HONEST], [HONEST, CLIENT]] {
            let mut shelf = Shelf::new();
            let roots = readers.map(|reader| {
                let root = shelf.add(if reader == CLIENT { 10 } else { 20 });
                shelf.ask(reader, root);
                (reader, root)
            });
            let newest = shelf.add(30);
            let (_, read) = roots.into_iter().find(|(reader, _)| *reader == HONEST).expect("one is");
            assert_eq!(shelf.roots(), [read, newest], "{readers:?}");
        }
    }

    /// Votes that come late may certify any of them, and a replica that catches up may be needed to certify a newer one.
    #[test]
    fn all_states_stay_that_may_be_certified_until_a_newer_one_is() {
        let mut shelf = Shelf::new();
        let first = shelf.add(10);
        let open = [20, 30, 40].map(|seq| shelf.add_open(seq));
        shelf.wait(1_000 * SECOND);
        assert_eq!(shelf.roots(), [first, open[0], open[1], open[2]], "though nobody asks for them");
        shelf.certify(30, open[1]);
        assert_eq!(shelf.roots(), [open[1], open[2]]);
        shelf.ask(HONEST, open[1]);
        let last = shelf.add(50);
        assert_eq!(shelf.roots(), [open[1], last], "one of them is asked for");
        shelf.wait(1_000 * SECOND);
        assert_eq!(shelf.roots(), [last]);
    }

    /// What others have certified is missing here: the newest certified one that is not stays, and what is below that
    /// certificate is certified no more.
    #[test]
    fn what_is_passed_by_a_certificate_of_others_goes() {
        let mut shelf = Shelf::new();
        let first = shelf.add(10);
        let [_, open] = [20, 40].map(|seq| shelf.add_open(seq));
        shelf.certify(30, Digest([3; 32]));
        assert_eq!(shelf.roots(), [first, open]);
        let newest = shelf.add_open(50);
        assert_eq!(shelf.roots(), [first, open, newest]);
    }

    /// It has no certificate, and is all that a replica can take over before there is one.
    #[test]
    fn the_state_that_a_cluster_began_with_stays_until_one_is_certified() {
        let mut shelf = Shelf::new();
        let mut began = State::new([[7; 32]]);
        let first = began.root();
        shelf.library = Library::of(Some(first));
        shelf.library.add(Seq(0), first, began.freeze(), Arc::new([]), None);
        let second = shelf.add_open(20);
        shelf.wait(1_000 * SECOND);
        assert_eq!(shelf.roots(), [first, second]);
        assert_eq!(shelf.library.certified(shelf.now), None, "nobody has signed it");
        shelf.certify(20, second);
        shelf.wait(1_000 * SECOND);
        assert_eq!(shelf.roots(), [second]);
    }

    /// A peer that has gone on to a newer state holds the older one no more, and so not the place for it either.
    #[test]
    fn a_peer_holds_the_state_that_it_has_asked_for_last() {
        let mut shelf = Shelf::new();
        let first = shelf.add(10);
        shelf.ask(HONEST, first);
        let second = shelf.add(20);
        assert_eq!(shelf.roots(), [first, second]);
        shelf.ask(HONEST, second);
        let third = shelf.add(30);
        assert_eq!(shelf.roots(), [second, third]);
        shelf.wait(ASKED_TIMES * shelf.tuning.retransmit.0);
        assert_eq!(shelf.roots(), [third], "nobody has asked for long");
    }

    #[test]
    fn who_asks_on_and_on_does_not_keep_the_place_from_others() {
        for greedy in [GREEDY, CLIENT] {
            let mut shelf = Shelf::new();
            let first = shelf.add(1);
            shelf.ask(greedy, first);
            let mut newest = shelf.add(2);
            let end = shelf.now.plus(shelf.pinned());
            while shelf.now < end {
                assert_eq!(shelf.roots(), [first, newest], "a large state can be copied");
                shelf.wait(SECOND);
                shelf.ask(greedy, first);
            }
            assert_eq!(shelf.roots(), [newest], "long enough");
            // It goes on to what is the newest then, and another peer to the one after that.
            shelf.ask(greedy, newest);
            let read = shelf.add(3);
            shelf.ask(greedy, newest);
            shelf.ask(HONEST, read);
            newest = shelf.add(4);
            assert_eq!(shelf.roots(), [read, newest]);
            // Who was silent for long may copy one again.
            shelf.wait(shelf.pinned());
            shelf.ask(greedy, newest);
            let last = shelf.add(5);
            assert_eq!(shelf.roots(), [newest, last]);
        }
    }
}
