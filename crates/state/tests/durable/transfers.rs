//! State transfer: what arrives is the certified state, whatever the servers do.

use std::collections::BTreeMap;

use proptest::prelude::*;
use quorate_state::{
    BadAnswer, Frozen, Manifest, PageAnswer, PageRequest, PageStore, State, StoreOptions, Transfer,
    TransferOptions,
};
use quorate_types::{Digest, Nanoseconds, ReplicaId, StateLimits, limits};

use crate::checkpoints::{filled, header};
use crate::disk::{Disk, head};
use crate::random::Random;

pub(crate) const SMALL: TransferOptions = TransferOptions {
    request_bytes: 100 * 1024,
    requests_per_peer: 2,
    patience: Nanoseconds(1000),
    share_after: Nanoseconds(500),
    pause: Nanoseconds(10),
};
const ANSWER_BYTES_MAX: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Honest,
    Mute,
    Empty,
    /// Turns a byte of what it sends.
    Flips,
    /// Claims another height.
    Tall,
    /// Sends more than was asked for.
    Chatty,
}

/// Peers that answer in some order.
pub(crate) struct Network<'a> {
    peers: Vec<(ReplicaId, Manner, &'a Frozen)>,
    underway: Vec<(ReplicaId, PageRequest)>,
    now: u64,
    random: Random,
    bad: BTreeMap<ReplicaId, BadAnswer>,
}

impl<'a> Network<'a> {
    pub(crate) fn new(manners: &[Manner], state: &'a Frozen, seed: u64) -> Self {
        let peers = (0u8..).zip(manners).map(|(id, manner)| (ReplicaId(id), *manner, state)).collect();
        Self { peers, underway: Vec::new(), now: 0, random: Random(seed), bad: BTreeMap::new() }
    }

    /// Lets everyone ask, and one request be answered or run out.
    fn turn(&mut self, transfer: &mut Transfer) {
        self.now += 1;
        for (peer, ..) in &self.peers {
            while let Some(request) = transfer.request(Nanoseconds(self.now), *peer) {
                assert!(request.wanted.len() <= limits::FETCH_PAGES_MAX);
                self.underway.push((*peer, request));
            }
        }
        if self.underway.is_empty() {
            self.now += 100;
            transfer.expire(Nanoseconds(self.now));
            return;
        }
        let (peer, request) = self.underway.swap_remove(self.random.below(self.underway.len()));
        let (_, manner, state) = self.peers[usize::from(peer.0)];
        let Some(answer) = self.answer(manner, state, &request) else { return };
        if let Err(bad) = transfer.on_answer(Nanoseconds(self.now), peer, &answer) {
            self.bad.insert(peer, bad);
        }
    }

    fn answer(&mut self, manner: Manner, state: &Frozen, request: &PageRequest) -> Option<PageAnswer> {
        let mut answer = state.answer(request, ANSWER_BYTES_MAX);
        let bytes: usize = answer.pages.iter().chain(&answer.values).map(Vec::len).sum();
        assert!(bytes <= ANSWER_BYTES_MAX || answer.pages.len() + answer.values.len() == 1);
        match manner {
            Manner::Honest => {}
            Manner::Mute => return None,
            Manner::Empty => {
                answer.top = None;
                answer.pages.clear();
                answer.values.clear();
            }
            Manner::Flips => {
                if let Some(page) = answer.pages.last_mut() {
                    let at = self.random.below(page.len());
                    page[at] ^= 1;
                }
            }
            Manner::Tall => answer.top = answer.top.map(|(height, digest)| (height + 1, digest)),
            Manner::Chatty => answer.pages.push(vec![1, 2, 3]),
        }
        Some(answer)
    }

    pub(crate) fn run(&mut self, transfer: &mut Transfer) {
        for _ in 0..20_000 {
            if transfer.is_finished() {
                return;
            }
            self.turn(transfer);
        }
        panic!("the transfer does not end: {transfer:?}");
    }
}

fn hashed(bundles: u64, keys: usize) -> (State, Frozen, Digest) {
    let (mut state, _) = filled(&mut Random(9), bundles, keys);
    let root = state.root();
    let frozen = state.freeze();
    assert_eq!(frozen.known_root(), Some(root));
    (state, frozen, root)
}

fn finish(transfer: Transfer, root: Digest) -> State {
    let mut state = State::from_frozen(&transfer.finish().expect("a sound state"), StateLimits::default());
    state.check_invariants();
    assert_eq!(state.root(), root);
    state
}

#[test]
fn an_empty_replica_fetches_everything_from_several_peers() {
    let (_, frozen, root) = hashed(60, 4000);
    let mut transfer = Transfer::new(root, SMALL);
    let mut network = Network::new(&[Manner::Honest; 3], &frozen, 1);
    network.run(&mut transfer);
    assert!(network.bad.is_empty());
    assert!(transfer.figures().bytes > 500_000, "{:?}", transfer.figures());
    finish(transfer, root);
}

#[test]
fn the_smallest_states_are_fetched_too() {
    let mut state = State::new([]);
    let root = state.root();
    let frozen = state.freeze();
    let mut transfer = Transfer::new(root, SMALL);
    Network::new(&[Manner::Honest], &frozen, 1).run(&mut transfer);
    finish(transfer, root);
}

#[test]
fn only_what_differs_is_fetched() {
    let (mut random, keys) = (Random(9), 4000);
    let (mut state, mut client) = filled(&mut random, 60, keys);
    let own = state.freeze();
    let operations = random.operations(5, keys);
    header(&mut state, &mut client, 100, &operations);
    let root = state.root();
    let frozen = state.freeze();
    let mut transfer = Transfer::new(root, SMALL);
    transfer.reuse(&own);
    Network::new(&[Manner::Honest; 2], &frozen, 1).run(&mut transfer);
    let received = transfer.figures();
    assert!(received.pages < 20 && received.bytes < 200_000, "{received:?}");
    assert!(transfer.reused() > 10);
    finish(transfer, root);
    // What is there whole is not fetched at all.
    let mut transfer = Transfer::new(root, SMALL);
    transfer.reuse(&frozen);
    Network::new(&[Manner::Honest], &frozen, 1).run(&mut transfer);
    assert_eq!(transfer.figures().pages, 0);
    finish(transfer, root);
}

#[test]
fn a_newer_state_still_serves_what_is_the_same() {
    let (mut random, keys) = (Random(9), 4000);
    let (mut state, mut client) = filled(&mut random, 60, keys);
    let root = state.root();
    let old = state.freeze();
    let operations = random.operations(3, keys);
    header(&mut state, &mut client, 100, &operations);
    state.root();
    let new = state.freeze();
    let mut transfer = Transfer::new(root, SMALL);
    let mut network = Network::new(&[Manner::Honest; 2], &new, 1);
    network.peers[1].2 = &old;
    network.run(&mut transfer);
    assert!(network.bad.is_empty());
    finish(transfer, root);
}

#[test]
fn a_newer_root_in_the_middle_keeps_what_is_equal() {
    let (mut random, keys) = (Random(9), 4000);
    let (mut state, mut client) = filled(&mut random, 60, keys);
    let first = state.root();
    let old = state.freeze();
    let operations = random.operations(3, keys);
    header(&mut state, &mut client, 100, &operations);
    let second = state.root();
    let new = state.freeze();
    let mut transfer = Transfer::new(first, SMALL);
    let mut network = Network::new(&[Manner::Honest; 2], &old, 1);
    for _ in 0..20 {
        network.turn(&mut transfer);
    }
    let before = transfer.figures().bytes;
    assert!(before > 100_000 && !transfer.is_finished());
    transfer.retarget(second);
    assert_eq!(transfer.root(), second);
    let mut network = Network::new(&[Manner::Honest; 2], &new, 1);
    network.run(&mut transfer);
    assert!(transfer.reused() > 5);
    let mut whole = Transfer::new(second, SMALL);
    Network::new(&[Manner::Honest; 2], &new, 1).run(&mut whole);
    assert!(transfer.figures().bytes < whole.figures().bytes + before / 2, "little is fetched twice");
    finish(transfer, second);
}

/// Whoever answers counts what is open, and drops what is too much.
#[test]
fn after_a_newer_root_no_peer_is_asked_for_more_than_before() {
    let (_, frozen, root) = hashed(60, 4000);
    let mut transfer = Transfer::new(root, SMALL);
    let mut network = Network::new(&[Manner::Honest], &frozen, 1);
    for _ in 0..9 {
        network.turn(&mut transfer);
    }
    while let Some(request) = transfer.request(Nanoseconds(network.now), ReplicaId(0)) {
        network.underway.push((ReplicaId(0), request));
    }
    assert_eq!(network.underway.len(), SMALL.requests_per_peer);
    transfer.retarget(Digest([7; 32]));
    let now = Nanoseconds(network.now);
    assert_eq!(transfer.request(now, ReplicaId(0)), None, "it is busy with what was asked before");
    let (peer, request) = network.underway.pop().expect("just counted");
    let before = transfer.figures();
    transfer
        .on_answer(now, peer, &frozen.answer(&request, ANSWER_BYTES_MAX))
        .expect("it is of no use, and no lie");
    assert_eq!(transfer.figures(), before);
    let next = transfer.request(now, ReplicaId(0)).expect("a place is free");
    assert_eq!((next.root, next.wanted.len()), (transfer.root(), 0));
}

#[test]
fn what_is_named_twice_is_given_out_once() {
    let (_, frozen, root) = hashed(60, 4000);
    let mut transfer = Transfer::new(root, SMALL);
    let mut network = Network::new(&[Manner::Honest], &frozen, 1);
    network.turn(&mut transfer);
    network.turn(&mut transfer);
    let mut request = transfer.request(Nanoseconds(2), ReplicaId(0)).expect("the root's children are wanted");
    let once = frozen.answer(&request, ANSWER_BYTES_MAX);
    assert!(!once.pages.is_empty());
    let first = request.wanted[0].clone();
    request.wanted.splice(0..0, vec![first; 100]);
    assert_eq!(frozen.answer(&request, ANSWER_BYTES_MAX), once);
}

#[test]
fn what_was_received_outlasts_a_restart() {
    let (_, frozen, root) = hashed(60, 4000);
    let options = StoreOptions { file_bytes_max: 96 * 1024, write_bytes: 8 * 1024 };
    let (mut disk, mut store) = (Disk::endless(), PageStore::new(options, [], []));
    let mut transfer = Transfer::new(root, SMALL);
    let mut network = Network::new(&[Manner::Honest; 2], &frozen, 1);
    for _ in 0..3 {
        for _ in 0..8 {
            network.turn(&mut transfer);
        }
        let partial = store.begin_partial(head(5), root, transfer.received());
        let manifest = disk.carry_out(&mut store, partial).expect("no crash");
        assert!(!manifest.complete);
        assert_eq!((disk.manifests.len(), manifest.root), (1, root));
    }
    let bytes = transfer.figures().bytes;
    assert!(bytes > 100_000 && !transfer.is_finished());
    drop((transfer, store));

    let manifest = disk.manifests.values().next().map(|bytes| Manifest::decode(bytes)).expect("one");
    let manifest = manifest.expect("it is whole");
    let mut store = PageStore::new(options, [], disk.manifests.keys().copied());
    let (forest, _) = store.load_forest(&manifest, &mut disk).expect("nothing is damaged");
    assert!(store.load(&manifest, &mut disk).is_err(), "a partial checkpoint is no state");
    let mut transfer = Transfer::new(root, SMALL);
    transfer.reuse_forest(&forest);
    let mut network = Network::new(&[Manner::Honest; 2], &frozen, 1);
    network.run(&mut transfer);
    let mut whole = Transfer::new(root, SMALL);
    Network::new(&[Manner::Honest; 2], &frozen, 1).run(&mut whole);
    assert!(transfer.figures().bytes + bytes / 2 < whole.figures().bytes, "little is fetched twice");
    // The complete checkpoint writes what the partial one has not, and takes its place.
    let state = finish(transfer, root);
    let complete = store.begin(head(5), &state.freeze());
    let manifest = disk.carry_out(&mut store, complete).expect("no crash");
    assert_eq!((manifest.root, disk.manifests.len()), (root, 1));
    quorate_state::verify(&manifest, &mut disk).expect("nothing is damaged");
}

#[test]
fn liars_are_told_from_the_slow_and_the_poor() {
    use Manner::{Chatty, Empty, Flips, Honest, Mute, Tall};
    let (_, frozen, root) = hashed(60, 4000);
    let mut transfer = Transfer::new(root, SMALL);
    let manners = [Mute, Flips, Honest, Tall, Empty, Chatty];
    let mut network = Network::new(&manners, &frozen, 1);
    network.run(&mut transfer);
    let bad: Vec<_> = network.bad.iter().map(|(peer, bad)| (manners[usize::from(peer.0)], *bad)).collect();
    let expected = [(Flips, BadAnswer::Unasked), (Tall, BadAnswer::Top), (Chatty, BadAnswer::Unasked)];
    assert_eq!(bad, expected);
    finish(transfer, root);
}

/// A peer that answers each question with one page, just before patience ends, keeps what it was asked for from nobody
/// for longer than half of that.
#[test]
fn a_miser_does_not_hold_the_transfer_up() {
    let (_, frozen, root) = hashed(60, 4000);
    let (miser, honest) = (ReplicaId(0), ReplicaId(1));
    let mut transfer = Transfer::new(root, SMALL);
    let (mut now, mut slow) = (0, Vec::new());
    let late = SMALL.patience.0 - 1;
    while !transfer.is_finished() {
        now += 1;
        assert!(now < late, "{transfer:?}");
        transfer.expire(Nanoseconds(now));
        // It is asked first, always.
        while let Some(request) = transfer.request(Nanoseconds(now), miser) {
            slow.push((now + late, request));
        }
        if let Some(request) = transfer.request(Nanoseconds(now), honest) {
            let answer = frozen.answer(&request, SMALL.request_bytes);
            transfer.on_answer(Nanoseconds(now), honest, &answer).expect("no lie");
        }
        while slow.first().is_some_and(|(due, _)| *due <= now) {
            let (_, request) = slow.remove(0);
            let mut answer = frozen.answer(&request, SMALL.request_bytes);
            answer.pages.truncate(1);
            answer.values.clear();
            transfer.on_answer(Nanoseconds(now), miser, &answer).expect("no lie");
        }
    }
    finish(transfer, root);
}

#[test]
fn what_comes_late_is_taken_though_others_are_asked_for_it_too() {
    let (_, frozen, root) = hashed(10, 40);
    let (late, other) = (ReplicaId(0), ReplicaId(1));
    let mut transfer = Transfer::new(root, SMALL);
    let top = transfer.request(Nanoseconds(0), late).expect("the top");
    transfer.on_answer(Nanoseconds(0), late, &frozen.answer(&top, usize::MAX)).expect("no lie");
    let asked = transfer.request(Nanoseconds(0), late).expect("the root's page");
    assert!(!asked.wanted.is_empty() && transfer.request(Nanoseconds(0), other).is_none());
    assert!(transfer.expire(Nanoseconds(SMALL.patience.0 / 2 - 1)).is_empty());
    assert!(transfer.request(Nanoseconds(SMALL.patience.0 / 2 - 1), other).is_none());
    assert!(transfer.expire(Nanoseconds(SMALL.patience.0 / 2)).is_empty());
    let now = SMALL.patience;
    let shared = transfer.request(now, other).expect("the same");
    assert_eq!(shared.wanted, asked.wanted);
    assert_eq!(transfer.expire(now), [late]);
    assert_eq!((transfer.faults(now, late), transfer.faults(now, other)), (1, 0));
    let received = transfer.on_answer(now, late, &frozen.answer(&asked, usize::MAX)).expect("no lie");
    assert_eq!(received.pages, asked.wanted.len() as u64);
    assert_eq!(transfer.faults(now, late), 0, "it was worth waiting for");
    // The other's answer brings nothing more, and is no lie.
    transfer.on_answer(now, other, &frozen.answer(&shared, usize::MAX)).expect("no lie");
    let mut network = Network::new(&[Manner::Honest, Manner::Honest], &frozen, 1);
    network.now = now.0 + SMALL.pause.0 * 100;
    network.run(&mut transfer);
    finish(transfer, root);
}

/// Pages take their time, one takes little. Nobody is thought slow for that, and its answer is as good as another's.
#[test]
fn who_is_asked_for_little_is_not_waited_for_long() {
    let (_, frozen, root) = hashed(60, 1600);
    let (first, other) = (ReplicaId(0), ReplicaId(1));
    let share_after = Nanoseconds(SMALL.patience.0 / 20);
    let mut transfer = Transfer::new(root, TransferOptions { request_bytes: 1 << 20, share_after, ..SMALL });
    let ask = |transfer: &mut Transfer, at: u64, peer| {
        assert!(transfer.expire(Nanoseconds(at)).is_empty());
        transfer.request(Nanoseconds(at), peer)
    };
    let answer = |transfer: &mut Transfer, at: u64, peer, request| {
        let answer = frozen.answer(request, usize::MAX);
        transfer.on_answer(Nanoseconds(at), peer, &answer).expect("no lie").pages
    };
    let top = ask(&mut transfer, 0, first).expect("the top");
    answer(&mut transfer, 0, first, &top);
    let page = ask(&mut transfer, 0, first).expect("the root's page");
    ask(&mut transfer, 0, other);
    assert!(!transfer.owes(first));
    let late = 2 * share_after.0;
    let shared = ask(&mut transfer, late, other).expect("the same");
    assert_eq!(shared.wanted, page.wanted);
    assert!(transfer.owes(first) && transfer.faults(Nanoseconds(late), first) == 0);
    assert_eq!(answer(&mut transfer, late, first, &page), 1);
    answer(&mut transfer, late, other, &shared);
    let pages = ask(&mut transfer, late, first).expect("what stands below");
    assert!(pages.wanted.len() > 10);
    assert_eq!(ask(&mut transfer, 2 * late, other), None, "that takes longer");
    let shared = ask(&mut transfer, late + SMALL.patience.0 / 2, other).expect("the same");
    assert_eq!(shared.wanted.len(), pages.wanted.len(), "all of it");
}

#[test]
fn what_a_peer_that_was_slow_is_asked_for_is_kept_from_nobody() {
    let (_, frozen, root) = hashed(10, 40);
    let (slow, other) = (ReplicaId(0), ReplicaId(1));
    let mut transfer = Transfer::new(root, SMALL);
    // It says the top when its time is over.
    let top = transfer.request(Nanoseconds(0), slow).expect("the top");
    assert_eq!(transfer.expire(SMALL.patience), [slow]);
    transfer.on_answer(SMALL.patience, slow, &frozen.answer(&top, usize::MAX)).expect("no lie");
    let now = Nanoseconds(SMALL.patience.0 + SMALL.pause.0);
    let asked = transfer.request(now, slow).expect("it has rested");
    assert_eq!(transfer.request(now, other).expect("the same").wanted, asked.wanted);
}

#[test]
fn a_state_that_was_not_hashed_answers_nothing() {
    let (state, _) = filled(&mut Random(9), 5, 100);
    let frozen = state.freeze();
    let request = PageRequest { number: 3, root: Digest([1; 32]), wanted: Vec::new() };
    assert_eq!(frozen.known_root(), None);
    let answer = frozen.answer(&request, ANSWER_BYTES_MAX);
    assert_eq!((answer.number, answer.top, answer.pages.len()), (3, None, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn with_one_honest_peer_every_transfer_ends_right(
        seed in any::<u64>(),
        others in prop::collection::vec(0usize..6, 0..5),
        bundles in 1u64..30,
        overlap in 0u64..30,
    ) {
        use Manner::{Chatty, Empty, Flips, Honest, Mute, Tall};
        let (mut state, _) = filled(&mut Random(seed), bundles, 2000);
        let (own, _) = filled(&mut Random(seed), overlap, 2000);
        let root = state.root();
        let frozen = state.freeze();
        let mut manners = vec![Honest];
        manners.extend(others.into_iter().map(|at| [Honest, Mute, Empty, Flips, Tall, Chatty][at]));
        let mut transfer = Transfer::new(root, SMALL);
        transfer.reuse(&own.freeze());
        let mut network = Network::new(&manners, &frozen, seed);
        network.run(&mut transfer);
        for peer in network.bad.keys() {
            prop_assert!(![Honest, Mute, Empty].contains(&manners[usize::from(peer.0)]));
        }
        finish(transfer, root);
    }
}
