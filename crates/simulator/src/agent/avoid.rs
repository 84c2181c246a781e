//! An origin against who leads: that one gets nothing of its lane, or a fork that fills the lane's budget, while all others
//! get what there is; or gets one batch, behind which each of the others gets another one at once, so that nothing of what
//! they acknowledge can be counted for it unless somebody asks.

use super::forks::make_batch;
use super::{Agent, Leaving, at_once};
use crate::oracle::primaries;
use crate::plan::Plan;
use crate::random::Random;
use crate::scenes::Scene;
use quorate_types::{LaneNumber, LinkId, Mark, Nanoseconds, ReplicaId, ReplicaSet};
use quorate_wire::message::{LaneAcks, Message};
use quorate_wire::{BatchView, Frame, LaneTip};
use std::collections::BTreeMap;

/// A flood has so many batches at most, each of so many bundles, or small, where that fills what is left.
const FLOOD_MAX: usize = 256;
const BUNDLES_MAX: usize = 64;
/// One of the first so many batches is that behind which it parts its lane.
const PARTED_MAX: u64 = 5;

/// Whom a liar avoids, and how.
#[derive(Debug)]
pub(super) struct Avoidance {
    /// From then on, when nothing else is wrong.
    from: Nanoseconds,
    floods: bool,
    flooded: ReplicaSet,
    /// From which batch on it parts its lanes, as soon as somebody else leads; and where it has, with who led there.
    parts_from: LaneNumber,
    parted: BTreeMap<LinkId, (LaneNumber, ReplicaId)>,
}

impl Avoidance {
    pub(super) fn new(plan: &Plan, random: &mut Random) -> Self {
        let healed = plan.heal_at.plus(primaries::settling(plan).0);
        let from = if plan.faults.is_empty() { Nanoseconds(0) } else { healed };
        let (floods, parts_from) = (random.percent(50), LaneNumber(random.between(1, PARTED_MAX)));
        let floods = plan.scene.map_or(floods, |scene| scene == Scene::FullLane);
        Self { from, floods, flooded: ReplicaSet::EMPTY, parts_from, parted: BTreeMap::new() }
    }
}

impl Agent {
    /// What a peer gets of the own lane, where the one who leads is avoided.
    pub(super) fn avoid(
        &mut self,
        now: Nanoseconds,
        to: ReplicaId,
        link: LinkId,
        frame: Frame,
    ) -> Vec<Leaving> {
        let Ok(view) = BatchView::parse(frame.payload()) else { return vec![at_once(to, link, frame)] };
        self.named.keep_bundle(&view);
        if now < self.avoidance.from || to != self.config.primary(self.view) {
            return vec![at_once(to, link, frame)];
        }
        if !self.avoidance.floods || !self.avoidance.flooded.insert(to) {
            return Vec::new();
        }
        let parent = Mark { upto: view.head.number.previous(), chain: view.head.previous };
        self.flood(to, link, LaneTip::at(view.head.lane, parent))
    }

    fn flood(&mut self, to: ReplicaId, link: LinkId, mut before: LaneTip) -> Vec<Leaving> {
        let (long, short) = (self.named.long_bundle().to_vec(), self.named.bundle().to_vec());
        let times = (self.batch_bytes_max / (long.len() + 4)).clamp(1, BUNDLES_MAX);
        let (full, small) = (vec![long.as_slice(); times], [short.as_slice()]);
        let mut left = self.config.tuning().lane_bytes_held_max();
        let mut flood = Vec::new();
        while flood.len() < FLOOD_MAX {
            let fits = |(_, frame): &(LaneTip, Frame)| frame.payload().len() <= left;
            let next = Some(make_batch(&before, &full)).filter(fits);
            let Some((tip, frame)) = next.or_else(|| Some(make_batch(&before, &small)).filter(fits)) else {
                break;
            };
            left -= frame.payload().len();
            self.note_made(tip, before, frame.clone());
            flood.push(at_once(to, link, frame));
            before = tip;
        }
        flood
    }

    /// What a peer gets of the own lane, where it is parted.
    pub(super) fn part(
        &mut self,
        now: Nanoseconds,
        to: ReplicaId,
        link: LinkId,
        frame: Frame,
    ) -> Vec<Leaving> {
        let Ok(view) = BatchView::parse(frame.payload()) else { return vec![at_once(to, link, frame)] };
        self.named.keep_bundle(&view);
        let (number, primary) = (view.head.number, self.config.primary(self.view));
        let known = self.avoidance.parted.get(&link).copied();
        let begins =
            now >= self.avoidance.from && number >= self.avoidance.parts_from && primary != self.liar.replica;
        let Some((parted, spared)) = known.or(begins.then_some((number, primary))) else {
            return vec![at_once(to, link, frame)];
        };
        self.avoidance.parted.insert(link, (parted, spared));
        if number > parted {
            return Vec::new();
        }
        if number < parted || to == spared {
            return vec![at_once(to, link, frame)];
        }
        let tip = LaneTip { lane: view.head.lane, upto: view.head.number, chain: view.chain() };
        drop(view);
        let acks = |tips| LaneAcks { full: false, tips }.encode();
        let behind = self.step_behind(tip, to.index());
        // What is sent while the first of these leaves goes together.
        let frames = [acks(Vec::new()), frame, behind, acks(vec![tip])].into_iter();
        frames.map(|frame| at_once(to, link, frame)).collect()
    }

    /// A batch behind another that is another one for each place.
    fn step_behind(&mut self, before: LaneTip, place: usize) -> Frame {
        let bundle = self.named.bundle().to_vec();
        let (tip, frame) = make_batch(&before, &vec![bundle.as_slice(); place + 1]);
        self.note_made(tip, before, frame.clone());
        frame
    }

    /// Whether it tells this peer nothing of what it holds of its own lane.
    pub(super) fn spares(&self, to: ReplicaId, link: LinkId) -> bool {
        self.avoidance.parted.get(&link).is_some_and(|(_, spared)| *spared == to)
    }
}
