//! What keys have open and on its way in an own lane: who waits for whom, and that nothing is lost, doubled or out of order.

mod common;

use common::*;
use proptest::prelude::*;
use quorate_lanes::{Output, Sender};
use quorate_types::{BundleNumber, KeyIndex, Nanoseconds, Nonce, Operation, Seq, SessionId, Tuning, limits};
use quorate_wire::{BatchView, BundleView, LaneTip, bundle, testing};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What tells a bundle apart: the key, the session of the owner, and the number.
type Name = (u8, u64, u64);

const KEYS: u8 = 3;
const LIGHT: u8 = 2;

/// A replica with clients that have sessions of their own for each connection, and batches that are executed in order.
struct Home {
    node: Node,
    /// The numbers of the bundles sent last.
    sent: BTreeMap<(u8, u64), u64>,
    /// Sealed and not executed.
    sealed: Vec<LaneTip>,
    /// The names of bundles in the order of sealing, by batches.
    batches: Vec<Vec<Name>>,
    forged: BTreeSet<u64>,
}

impl Home {
    fn new(tune: impl FnOnce(&mut Tuning)) -> Self {
        let mut node = Node::with(R0, tune);
        node.lanes.note_sealed(node.now, |_| ());
        let (sent, sealed, batches) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { node, sent, sealed, batches, forged: BTreeSet::new() }
    }

    /// Sends a bundle of so many operations; its name if it is admitted.
    fn send(&mut self, key: u8, owner: u64, operations: usize, forged: bool) -> Option<Name> {
        let number = self.sent.get(&(key, owner)).map_or(1, |last| last + 1);
        let session = SessionId { seq: Seq(owner), place: u32::from(key) };
        let add = Operation::IncrementBy { key: b"k".to_vec(), by: 1 };
        let bytes = self.bundle(key, session, number, &vec![add; operations], forged);
        let sender = Sender { owner: owner * 4 + u64::from(key), key: KeyIndex(u32::from(key)) };
        let bundle = BundleView::parse(&bytes).expect("a bundle");
        let admitted = self.node.lanes.admit(LINK, sender, &bundle, 1000);
        admitted.then(|| {
            self.sent.insert((key, owner), number);
            (key, owner, number)
        })
    }

    fn bundle(
        &self,
        key: u8,
        session: SessionId,
        number: u64,
        operations: &Vec<Operation>,
        forged: bool,
    ) -> Vec<u8> {
        let (mut bytes, key) = (Vec::new(), testing::client_key_number(key));
        bundle::write(&mut bytes, &self.node.config, &key, session, BundleNumber(number), operations);
        if forged {
            bytes[80] ^= 1;
        }
        bytes
    }

    fn tick(&mut self) {
        self.node.lanes.note_sealed(self.node.now, |_| ());
        self.node.tick();
        for output in self.node.take().0 {
            match output {
                Output::Held(batch) => {
                    let view = BatchView::parse(batch.frame().payload()).expect("an own batch");
                    let name = |bundle: &BundleView<'_>| {
                        let key = u8::try_from(bundle.head.session.place).expect("a small number");
                        (key, bundle.head.session.seq.0, bundle.head.number.0)
                    };
                    self.batches.push(view.bundles.iter().map(name).collect());
                    self.sealed.push(batch.tip());
                    [R0, R1, R2].into_iter().for_each(|peer| self.node.ack(peer, batch.tip()));
                }
                Output::Forged { owner } => {
                    self.forged.insert(owner / 4);
                }
                _ => {}
            }
        }
    }

    /// As [`Home::tick`], as often as something is due at once.
    fn ticks(&mut self) {
        self.tick();
        while self.node.lanes.deadline() <= self.node.now {
            self.tick();
        }
    }

    /// The first of the sealed batches is executed.
    fn execute(&mut self) {
        if !self.sealed.is_empty() {
            let tip = self.sealed.remove(0);
            self.node.lanes.note_sealed(self.node.now, |_| ());
            self.node.lanes.on_executed(&[tip]);
        }
    }

    fn wait(&mut self, time: Nanoseconds) {
        self.node.now = self.node.now.plus(time.0);
        self.node.lanes.note_sealed(self.node.now, |_| ());
    }

    /// Until nothing is open any more, going from deadline to deadline.
    fn drain(&mut self) {
        for _ in 0..10_000 {
            self.tick();
            while !self.sealed.is_empty() {
                self.execute();
            }
            if self.node.lanes.open_bytes() == 0 {
                return;
            }
            let next = self.node.lanes.deadline().max(self.node.now);
            assert!(next.since(self.node.now) <= limits::REST_MAX.0, "something waits for nothing");
            self.node.now = next;
        }
        panic!("something is open for ever");
    }

    fn is_sealed(&self, name: Name) -> bool {
        self.batches.iter().flatten().any(|sealed| *sealed == name)
    }

    /// Whether what is sealed of each key is in the order in which it was sent.
    fn assert_in_order(&self) {
        let mut last: BTreeMap<(u8, u64), u64> = BTreeMap::new();
        for (key, owner, number) in self.batches.iter().flatten() {
            let before = last.insert((*key, *owner), *number);
            assert!(before.is_none_or(|before| before < *number), "{number} of {owner} after {before:?}");
        }
    }
}

/// The heavy keys have used far more than the light one.
fn uses() -> Arc<[u32]> {
    Arc::new([1_000_000, 1_000_000, 100])
}

#[test]
fn a_key_that_has_nothing_open_is_admitted_however_much_others_want() {
    let mut home = Home::new(|tuning| tuning.lane_bytes_open_max = 100_000);
    for round in 0..10_000u64 {
        let (key, owner) = ((round % 2) as u8, round);
        if home.send(key, owner, 100, false).is_none() && home.send(1 - key, owner, 100, false).is_none() {
            break;
        }
        home.ticks();
    }
    assert!(home.node.lanes.open_bytes() < 100_000);
    assert!(home.send(LIGHT, 1, 100, false).is_some());
    let open = |key: u8| home.sent.iter().filter(|((of, _), _)| *of == key).count();
    assert!(open(0).abs_diff(open(1)) <= 1, "{} and {}", open(0), open(1));
}

#[test]
fn what_opens_or_ends_is_admitted_beyond_the_share_of_its_key() {
    let mut home = Home::new(|tuning| tuning.lane_bytes_open_max = 1_000_000);
    let mut owner = 0;
    while home.send(0, owner, 1000, false).is_some() {
        owner += 1;
    }
    let mut endings = 0;
    while endings < 10_000 {
        let (session, kind) = (SessionId { seq: Seq(9), place: 0 }, endings % 2);
        let nonce = Nonce([0; 16]);
        let ends = if kind == 0 { Operation::Void } else { Operation::Register { nonce, recent: 1 } };
        let bytes = home.bundle(0, session, 1, &vec![ends], false);
        let sender = Sender { owner: 1_000_000 + endings, key: KeyIndex(0) };
        if !home.node.lanes.admit(LINK, sender, &BundleView::parse(&bytes).unwrap(), 1) {
            break;
        }
        endings += 1;
    }
    assert!((50..500).contains(&endings), "{endings} bundles that end something");
    assert!(home.send(LIGHT, 1, 1000, false).is_some());
}

/// Of a key alone, so much is on its way to execution that nobody who comes waits for long.
#[test]
fn a_key_alone_has_half_of_what_may_be_on_its_way() {
    let mut home = Home::new(|_| ());
    (0..20).for_each(|_| assert!(home.send(0, 1, 10_000, false).is_some()));
    home.ticks();
    let sealed: usize = home.batches.iter().map(Vec::len).sum();
    assert_eq!(sealed as u64, limits::LANE_UNITS_FLYING_MAX / 2 / 10_016);
    home.execute();
    home.ticks();
    assert!(home.batches.iter().map(Vec::len).sum::<usize>() > sealed, "it goes on");
    home.drain();
    assert_eq!(home.batches.iter().map(Vec::len).sum::<usize>(), 20);
}

/// Listed mistake: what was admitted is sealed in the order in which it came.
#[test]
fn beside_a_light_key_a_heavy_one_has_one_piece_of_work_on_its_way_and_rests_after_it() {
    let mut home = Home::new(|_| ());
    home.node.lanes.note_uses(uses());
    (0..5).for_each(|_| assert!(home.send(0, 1, 10_000, false).is_some()));
    home.ticks();
    assert_eq!(home.batches, [[(0, 1, 1)]]);
    let light = home.send(LIGHT, 1, 1, false).expect("it has nothing open");
    home.ticks();
    assert_eq!(home.batches.last(), Some(&vec![light]), "it waits for nobody");
    home.wait(Nanoseconds::from_millis(10));
    (0..2).for_each(|_| home.execute());
    home.ticks();
    assert_eq!(home.batches.len(), 2, "it rests");
    // Twice what it would take at four homes, less its own time.
    home.wait(Nanoseconds::from_millis(69));
    home.ticks();
    assert_eq!(home.batches.len(), 2);
    assert_eq!(home.node.lanes.deadline(), home.node.now.plus(1_000_000));
    home.wait(Nanoseconds::from_millis(1));
    home.ticks();
    assert_eq!(home.batches.last(), Some(&vec![(0, 1, 2)]));
    home.node.lanes.note_uses(Arc::new([1_000_000, 0, 0]));
    home.execute();
    home.ticks();
    assert_eq!(home.batches.len(), 5, "three more, once nobody is light any more");
    home.drain();
    home.assert_in_order();
}

/// A gateway is one key with many people behind it.
#[test]
fn small_bundles_of_a_session_pass_the_large_ones_of_another_by() {
    let mut home = Home::new(|_| ());
    (0..4).for_each(|_| assert!(home.send(0, 1, 10_000, false).is_some()));
    home.ticks();
    let alone = home.batches.iter().map(Vec::len).sum::<usize>();
    assert_eq!(alone, 3, "who is alone waits for itself only");
    let small = home.send(0, 2, 1, false).expect("there is room");
    home.ticks();
    assert_eq!(home.batches.last(), Some(&vec![small]));
    home.wait(Nanoseconds::from_millis(10));
    (0..4).for_each(|_| home.execute());
    let other = home.send(0, 2, 1, false).expect("there is room");
    home.ticks();
    assert_eq!(home.batches.last(), Some(&vec![other]), "the large one rests");
    home.drain();
    home.assert_in_order();
    assert_eq!(home.batches.iter().map(Vec::len).sum::<usize>(), 6);
}

/// A client that is not answered in time sends again: that is no more work.
#[test]
fn a_bundle_that_waits_is_not_admitted_twice() {
    let mut home = Home::new(|_| ());
    home.node.lanes.note_uses(uses());
    (0..2).for_each(|_| assert!(home.send(0, 1, 10_000, false).is_some()));
    home.ticks();
    let before = home.node.lanes.open_bytes();
    home.sent.insert((0, 1), 1);
    assert!(home.send(0, 1, 10_000, false).is_some());
    assert_eq!(home.node.lanes.open_bytes(), before);
    home.drain();
    assert_eq!(home.batches, [[(0, 1, 1)], [(0, 1, 2)]]);
    assert_eq!(home.node.lanes.open_bundles(KeyIndex(0)), 0);
}

/// Work that is no more than a key may have beside light ones goes on without a rest.
#[test]
fn a_key_that_has_little_on_its_way_does_not_rest() {
    let mut home = Home::new(|_| ());
    home.node.lanes.note_uses(uses());
    for owner in 0..40 {
        assert!(home.send(0, owner, 1000, false).is_some());
    }
    while home.batches.iter().map(Vec::len).sum::<usize>() < 40 {
        home.ticks();
        let flying: usize = home.batches[home.batches.len() - home.sealed.len()..].iter().map(Vec::len).sum();
        assert!(flying as u64 * 1016 <= limits::KEY_UNITS_BESIDE_MAX && flying > 0);
        home.wait(Nanoseconds::from_millis(10));
        home.execute();
    }
}

#[test]
fn so_many_own_signatures_are_checked_in_a_tick_and_a_batch_holds_those_of_several() {
    let mut home = Home::new(|_| ());
    let count = limits::OWN_CHECKS_PER_TICK * 2 + 10;
    for owner in 0..count as u64 {
        assert!(home.send(0, owner, 1, false).is_some());
    }
    home.node.lanes.note_sealed(home.node.now, |_| ());
    home.node.tick();
    assert_eq!(home.node.checked, limits::OWN_CHECKS_PER_TICK);
    assert!(home.node.take().held().is_empty(), "most of the batch is still to come");
    assert_eq!(home.node.lanes.deadline(), Nanoseconds(0), "the others are checked at once");
    home.ticks();
    assert_eq!(home.batches.iter().map(Vec::len).collect::<Vec<_>>(), [count]);
}

/// Whoever forges loses what it has brought and is not checked, wherever that is.
#[test]
fn what_waits_of_an_owner_that_forges_is_dropped_with_it() {
    let mut home = Home::new(|_| ());
    home.node.lanes.note_uses(uses());
    assert!(home.send(0, 1, 10_000, false).is_some());
    home.ticks();
    for owner in [7, 8] {
        assert!(home.send(1, owner, 3000, owner == 7).is_some());
        (0..3).for_each(|_| assert!(home.send(1, owner, 3000, false).is_some()));
    }
    home.ticks();
    assert_eq!(home.forged, BTreeSet::from([7]));
    home.drain();
    let of_key: Vec<Name> = home.batches.iter().flatten().filter(|name| name.0 == 1).copied().collect();
    assert_eq!(of_key, [(1, 8, 1), (1, 8, 2), (1, 8, 3), (1, 8, 4)]);
}

/// What is sealed again was sent before what still waits.
#[test]
fn bundles_of_dead_batches_go_before_those_of_their_session_that_wait() {
    let mut home = Home::new(|_| ());
    home.node.lanes.note_uses(uses());
    let other = Chain::new(&home.node.config, R0, 1, 5);
    (0..4).for_each(|_| assert!(home.send(0, 1, 3000, false).is_some()));
    home.tick();
    assert_eq!(home.batches, [[(0, 1, 1)]]);
    home.node.want(other.tip());
    let (server, _) = home.node.take().question();
    home.node.fetched(server, &other.answer(1, 1)).expect("an honest answer");
    home.node.tick();
    home.node.take();
    home.node.lanes.on_executed(&[other.tip()]);
    home.sealed.clear();
    home.batches.clear();
    home.drain();
    let numbers: Vec<u64> = home.batches.iter().flatten().map(|(.., number)| *number).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
}

/// Many may stand behind one key.
#[test]
fn sessions_of_a_key_have_their_turns() {
    let mut home = Home::new(|_| ());
    (0..20).for_each(|_| assert!(home.send(0, 1, 10_000, false).is_some()));
    home.ticks();
    let flying = home.batches.iter().map(Vec::len).sum::<usize>();
    let small: Vec<Name> = (0..5).filter_map(|_| home.send(0, 2, 100, false)).collect();
    let lone = home.send(0, 3, 1, false).expect("there is room");
    for _ in 0..flying + 1 {
        home.execute();
        home.ticks();
    }
    let sealed: Vec<Name> = home.batches.iter().flatten().copied().collect();
    let before: Vec<Name> = sealed.into_iter().take(flying + 1 + 6).collect();
    assert!(small.iter().chain([&lone]).all(|name| before.contains(name)), "{before:?}");
    home.drain();
    home.assert_in_order();
    assert_eq!(home.batches.iter().map(Vec::len).sum::<usize>(), 26);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Send { key: u8, owner: u64, operations: usize, forged: bool },
    Tick,
    Execute,
    Wait(u64),
    Uses([u32; KEYS as usize]),
}

fn step() -> impl Strategy<Value = Step> {
    let operations = prop_oneof![4 => 1usize..200, 2 => 1000usize..3000, 1 => Just(10_000usize)];
    prop_oneof![
        8 => (0..KEYS, 0u64..3, operations, prop::bool::weighted(0.04)).prop_map(
            |(key, owner, operations, forged)| {
                // Connections belong to one key each.
                Step::Send { key, owner: owner * u64::from(KEYS) + u64::from(key), operations, forged }
            }
        ),
        4 => Just(Step::Tick),
        2 => Just(Step::Execute),
        1 => (1u64..100).prop_map(Step::Wait),
        1 => prop::array::uniform3(prop_oneof![Just(0u32), 1u32..100, 10_000u32..1_000_000])
            .prop_map(Step::Uses),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Each bundle that was admitted is sealed once and in the order of its session, or dropped with an owner that has forged.
    #[test]
    fn nothing_is_lost_doubled_or_out_of_order(
        steps in prop::collection::vec(step(), 1..120),
        lane_bytes_open_max in prop_oneof![Just(20_000usize), Just(400_000), Just(limits::LANE_BYTES_OPEN_MAX)],
        batch_bytes_full in prop_oneof![Just(2_000usize), Just(limits::BATCH_BYTES_FULL)],
    ) {
        let mut home = Home::new(|tuning| {
            (tuning.lane_bytes_open_max, tuning.batch_bytes_full) = (lane_bytes_open_max, batch_bytes_full);
        });
        let (mut admitted, mut bad) = (BTreeSet::new(), BTreeSet::new());
        let mut gone: BTreeSet<u64> = BTreeSet::new();
        for step in steps {
            match step {
                Step::Send { owner, .. } if gone.contains(&owner) || home.forged.contains(&owner) => {
                    // Its connection is closed; what is left of the key goes on.
                    gone.insert(owner);
                }
                Step::Send { key, owner, operations, forged } => {
                    let open: usize = admitted.iter().filter(|name: &&Name| name.0 == key && !home.is_sealed(**name)).count();
                    let left = lane_bytes_open_max.saturating_sub(home.node.lanes.open_bytes());
                    let name = home.send(key, owner, operations, forged);
                    let fits = operations * 64 + 200 <= left;
                    let has_none = open == 0 && home.sealed.is_empty() && !bad.iter().any(|name: &Name| name.0 == key);
                    prop_assert!(name.is_some() || !(has_none && fits), "{} left", left);
                    if forged { &mut bad } else { &mut admitted }.extend(name);
                }
                Step::Tick => home.tick(),
                Step::Execute => home.execute(),
                Step::Wait(millis) => home.wait(Nanoseconds::from_millis(millis)),
                Step::Uses(uses) => home.node.lanes.note_uses(Arc::new(uses)),
            }
        }
        home.drain();
        home.assert_in_order();
        let sealed: Vec<Name> = home.batches.iter().flatten().copied().collect();
        let distinct: BTreeSet<Name> = sealed.iter().copied().collect();
        prop_assert_eq!(sealed.len(), distinct.len(), "twice");
        prop_assert!(distinct.is_subset(&admitted));
        for (key, owner, number) in admitted.difference(&distinct) {
            prop_assert!(home.forged.contains(owner), "{} of {} of {} is lost", number, owner, key);
        }
    }
}

/// However many heavy keys there are, a light one's bundle is in the first batch that is sealed after what may be on its way.
#[test]
fn a_light_bundle_leaves_with_the_next_batches() {
    let mut home = Home::new(|_| ());
    home.node.lanes.note_uses(uses());
    for round in 0..200 {
        for key in 0..2 {
            let _ = home.send(key, round % 16, if round % 2 == 0 { 10_000 } else { 700 }, false);
        }
        let light = home.send(LIGHT, 1, 1, false).expect("it has nothing open");
        home.ticks();
        assert!(home.is_sealed(light), "round {round}");
        home.wait(Nanoseconds::from_millis(5));
        while !home.sealed.is_empty() {
            home.execute();
        }
    }
    home.drain();
    home.assert_in_order();
}
