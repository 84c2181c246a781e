//! An origin that forks its lane: batches of one number, each shown to some.
//!
//! It forks for a few batches at a time, each chain going on as far as the lane does meanwhile, and then goes on with the
//! chain that its core knows; if another is executed, its core seals again behind that. What a fork holds are the bundles
//! of the batch that it stands beside, and an old one more than once: a client has signed it, and execution skips it.

use super::{Agent, Leaving, at_once};
use crate::liars::Habit;
use crate::random::Random;
use quorate_types::{LinkId, Mark, Nanoseconds, ReplicaId};
use quorate_wire::message::{LaneAcks, Message};
use quorate_wire::{BatchHead, BatchView, Frame, Kind, LaneTip, batch};
use std::collections::BTreeMap;

/// Of so many chains beside the one that its core knows.
const CHAINS_MAX: usize = 3;
/// For so many batches it forks at a time.
const BATCHES_MAX: u64 = 6;

/// In some of the forks so many batches follow for which there are none beside, and in few so many that a lane is full.
const LONGER_MAX: u64 = 3;
const FLOOD_MAX: u64 = 16;

/// What stands beside a batch, and what follows it that stands beside nothing.
#[derive(Clone, Debug)]
pub(super) struct Fork {
    batches: Vec<(LaneTip, Frame)>,
}

impl Fork {
    /// Where it ends, beside the batch.
    pub(super) fn tip(&self) -> LaneTip {
        self.batches[0].0
    }

    fn frames(&self, all: bool) -> impl Iterator<Item = Frame> {
        let count = if all { self.batches.len() } else { 1 };
        self.batches.iter().take(count).map(|(_, frame)| frame.clone())
    }
}

/// What a peer is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// What the core has sealed.
    Sealed,
    /// One of the forks.
    Fork(usize),
    /// All forks, one after the other, from this one on.
    Forks(usize),
    /// The same, and what was sealed.
    All(usize),
    /// Nothing.
    Nothing,
}

/// The forks of a liar's own lanes.
#[derive(Debug)]
pub(super) struct Forks {
    /// For each batch that was sealed while it forked: those beside it.
    beside: BTreeMap<(LinkId, Mark), Vec<Fork>>,
    /// By peer: what it is shown, and whether all of that.
    sides: Vec<(Side, bool)>,
    /// How many batches more it forks.
    left: u64,
}

impl Forks {
    pub(super) fn new(replicas: usize) -> Self {
        Self { beside: BTreeMap::new(), sides: vec![(Side::Sealed, false); replicas], left: 0 }
    }

    /// What stands beside a batch of the lane.
    pub(super) fn beside(&self, tip: &LaneTip) -> &[Fork] {
        self.beside.get(&(tip.lane.link, tip.mark())).map_or(&[], Vec::as_slice)
    }

    /// Decides who is shown what: all of it to all, the same to all and to one of them more, or to each something else.
    fn choose_sides(&mut self, random: &mut Random) {
        let (manner, favoured) = (random.below(3), random.index(self.sides.len()));
        for (peer, side) in self.sides.iter_mut().enumerate() {
            *side = match manner {
                0 => (Side::Forks(0), true),
                1 if peer == favoured => (Side::Forks(random.index(CHAINS_MAX)), true),
                1 => (Side::Fork(0), false),
                _ => {
                    let side = match random.below(10) {
                        0..=2 => Side::Sealed,
                        3..=5 => Side::Fork(random.index(CHAINS_MAX)),
                        6..=8 => Side::All(random.index(CHAINS_MAX + 1)),
                        _ => Side::Nothing,
                    };
                    (side, random.percent(30))
                }
            };
        }
    }
}

impl Agent {
    /// What a peer is shown of a batch of the own lane.
    pub(super) fn show_batch(&mut self, to: ReplicaId, link: LinkId, frame: Frame) -> Vec<Leaving> {
        let Ok(view) = BatchView::parse(frame.payload()) else { return vec![at_once(to, link, frame)] };
        let tip = LaneTip { lane: view.head.lane, upto: view.head.number, chain: view.chain() };
        self.note_known(tip);
        self.named.keep_bundle(&view);
        if !self.liar.has(Habit::ForksLane) || tip.lane.origin != self.liar.replica {
            return vec![at_once(to, link, frame)];
        }
        self.fork(&view, tip);
        let forks = self.forks.beside(&tip).to_vec();
        if forks.is_empty() {
            return vec![at_once(to, link, frame)];
        }
        let (side, longer) = self.forks.sides[to.index()];
        let shown: Vec<Frame> = match side {
            Side::Sealed => vec![frame],
            Side::Fork(chain) => forks[chain % forks.len()].frames(longer).collect(),
            Side::Forks(first) | Side::All(first) => {
                let mut all: Vec<Vec<Frame>> =
                    forks.iter().map(|fork| fork.frames(longer).collect()).collect();
                all.extend(matches!(side, Side::All(_)).then(|| vec![frame]));
                let first = first % all.len();
                all.rotate_left(first);
                all.concat()
            }
            Side::Nothing => Vec::new(),
        };
        // What comes first may be named by the time that the next one comes.
        let retransmit = self.config.tuning().retransmit.0;
        let delay = if self.random.percent(50) { self.random.magnitude(10_000, 4 * retransmit) } else { 0 };
        let mut leaving: Vec<Leaving> = (0..)
            .zip(shown)
            .map(|(place, frame)| Leaving { after: Nanoseconds(place * delay), to, link, frame })
            .collect();
        // It has what it has made, and says so to whom it likes.
        if self.random.percent(50) {
            let tip = self.random.pick(&forks).tip();
            let frame = LaneAcks { full: false, tips: vec![tip] }.encode();
            let after = Nanoseconds(self.random.below(retransmit));
            leaving.push(Leaving { after, to, link, frame });
        }
        leaving
    }

    /// Makes what stands beside a batch that was just sealed, while it forks.
    fn fork(&mut self, view: &BatchView<'_>, tip: LaneTip) {
        let key = (tip.lane.link, tip.mark());
        if self.forks.beside.contains_key(&key) {
            return;
        }
        if self.forks.left == 0 {
            if !self.random.percent(40) {
                self.forks.beside.insert(key, Vec::new());
                return;
            }
            self.forks.left = self.random.magnitude(1, BATCHES_MAX);
            self.forks.choose_sides(&mut self.random);
        }
        self.forks.left -= 1;
        let parent = LaneTip::at(tip.lane, Mark { upto: tip.upto.previous(), chain: view.head.previous });
        let mut behind: Vec<LaneTip> = self.forks.beside(&parent).iter().map(Fork::tip).collect();
        if behind.is_empty() {
            behind = vec![parent; 1 + self.random.index(CHAINS_MAX)];
        }
        let forks = (1..).zip(behind).map(|(more, before)| self.fork_behind(view, before, more)).collect();
        self.forks.beside.insert(key, forks);
    }

    fn fork_behind(&mut self, view: &BatchView<'_>, before: LaneTip, more: usize) -> Fork {
        let sealed: Vec<&[u8]> = view.bundles.iter().map(|bundle| bundle.bytes).collect();
        let again = vec![self.named.bundle().to_vec(); more];
        let again = again.iter().map(Vec::as_slice);
        let all: Vec<&[u8]> = sealed.into_iter().chain(again.clone()).collect();
        let bytes: usize = all.iter().map(|bundle| bundle.len() + 4).sum();
        let first = if bytes > self.batch_bytes_max { again.collect::<Vec<_>>() } else { all };
        let mut batches = vec![make_batch(&before, &first)];
        self.note_made(batches[0].0, before, batches[0].1.clone());
        let (bundle, length) = match self.random.below(10) {
            0 => (self.named.long_bundle().to_vec(), self.random.between(LONGER_MAX, FLOOD_MAX)),
            1..=5 => (self.named.bundle().to_vec(), self.random.between(1, LONGER_MAX)),
            _ => (Vec::new(), 0),
        };
        for _ in 0..if self.forks.left == 0 { length } else { 0 } {
            let before = batches[batches.len() - 1].0;
            let (tip, frame) = make_batch(&before, &[&bundle]);
            self.note_made(tip, before, frame.clone());
            batches.push((tip, frame));
        }
        Fork { batches }
    }
}

/// A batch with these bundles behind a place in a lane.
pub(super) fn make_batch(before: &LaneTip, bundles: &[&[u8]]) -> (LaneTip, Frame) {
    let head = BatchHead { lane: before.lane, number: before.upto.next(), previous: before.chain };
    let frame = Frame::encode(Kind::Batch, |out| {
        batch::write_head(out, &head, bundles.len());
        bundles.iter().for_each(|bundle| batch::write_bundle(out, bundle));
    });
    let view =
        BatchView::parse(frame.payload()).expect("invariant: it was just made of bundles that are ones");
    let tip = LaneTip { lane: head.lane, upto: head.number, chain: view.chain() };
    drop(view);
    (tip, frame)
}
