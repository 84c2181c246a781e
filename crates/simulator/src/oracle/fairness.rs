//! Fairness at homes: whoever has nothing open is let in, and of others' work only so much stands before its own as may be
//! on its way (DESIGN section 7, "after somebody is known").
//!
//! Virtual time has no price for work, so work is what is measured: the units of other keys that a home seals between the
//! moment at which it takes a bundle and the batch that has it. Judged are homes in their first life, as what is found again
//! after a restart stands in no account, and histories in which a key is greedy, whose bounds are such that no other key is
//! ever heavy.

use super::Violation;
use crate::plan::{GREEDY_KEY, Plan};
use quorate_types::{BundleNumber, LaneId, LaneNumber, ReplicaId, SessionId};
use quorate_wire::{BatchView, BundleView};
use std::collections::BTreeMap;

const ORACLE: &str = "fairness";

type Key = [u8; 32];
type Name = (SessionId, BundleNumber);

/// What one own lane has sealed.
#[derive(Clone, Debug, Default)]
struct Lane {
    last: LaneNumber,
    units: u64,
    by_key: BTreeMap<Key, u64>,
}

impl Lane {
    fn of_others(&self, key: &Key) -> u64 {
        self.units - self.by_key.get(key).copied().unwrap_or(0)
    }
}

/// A bundle of a key that had nothing open at this home, and what others had sealed in each of its lanes by then.
#[derive(Debug)]
struct Light {
    before: BTreeMap<LaneId, u64>,
}

/// What homes do with the bundles of their clients.
#[derive(Debug)]
pub struct Fairness {
    /// None where nobody is greedy.
    flying_max: Option<u64>,
    lanes: BTreeMap<LaneId, Lane>,
    lights: BTreeMap<(ReplicaId, Key, Name), Light>,
    /// The most that one bundle of a key costs.
    largest: BTreeMap<Key, u64>,
    /// The bundles that were judged.
    pub judged: u64,
}

/// How a home has answered a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It said nothing: the bundle is admitted, or the connection is gone.
    Silently,
    /// It has too much open to take it.
    Busy,
    /// It takes nothing of the kind now, for another reason.
    Declined,
}

impl Fairness {
    /// Nothing is sealed yet.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let flying_max = plan.workload.greedy.map(|_| plan.tuning.lane_units_flying_max);
        Self {
            flying_max,
            lanes: BTreeMap::new(),
            lights: BTreeMap::new(),
            largest: BTreeMap::new(),
            judged: 0,
        }
    }

    /// Whether there is anything to judge.
    #[must_use]
    pub fn watches(&self) -> bool {
        self.flying_max.is_some()
    }

    /// A home was given a bundle by its client. `open` is how many of the key it had open before.
    pub fn on_bundle(
        &mut self,
        home: ReplicaId,
        bundle: &BundleView<'_>,
        open: usize,
        taken: Taken,
    ) -> Result<(), Violation> {
        let key = bundle.head.client;
        let largest = self.largest.entry(key).or_default();
        *largest = (*largest).max(u64::from(bundle.units()));
        let name = (bundle.head.session, bundle.head.number);
        if open > 0 || is_greedy(&key) {
            return Ok(());
        }
        match taken {
            Taken::Busy => {
                let text = format!("has no room for {name:?} of a key that has nothing open");
                return Err(Violation::new(ORACLE, text));
            }
            Taken::Declined => {}
            Taken::Silently => {
                let own = self.lanes.iter().filter(|(lane, _)| lane.origin == home);
                let before = own.map(|(lane, sealed)| (*lane, sealed.of_others(&key))).collect();
                self.lights.insert((home, key, name), Light { before });
            }
        }
        Ok(())
    }

    /// A home has sealed a batch of its own lane.
    pub fn on_sealed(&mut self, home: ReplicaId, batch: &BatchView<'_>) -> Result<(), Violation> {
        let Some(flying_max) = self.flying_max else { return Ok(()) };
        let lane = self.lanes.entry(batch.head.lane).or_default();
        if batch.head.number <= lane.last {
            // Written once more.
            return Ok(());
        }
        lane.last = batch.head.number;
        for bundle in &batch.bundles {
            let (key, name) = (bundle.head.client, (bundle.head.session, bundle.head.number));
            if let Some(light) = self.lights.remove(&(home, key, name)) {
                self.judged += 1;
                let before = light.before.get(&batch.head.lane).copied().unwrap_or(0);
                let stood = lane.of_others(&key) - before;
                let others = self.largest.iter().filter(|(other, _)| **other != key);
                let most = flying_max + others.map(|(_, units)| units).sum::<u64>();
                if stood > most {
                    let text = format!("{stood} units of other keys stand before {name:?}, {most} may");
                    return Err(Violation::new(ORACLE, text));
                }
            }
            let units = u64::from(bundle.units());
            lane.units += units;
            *lane.by_key.entry(key).or_default() += units;
        }
        Ok(())
    }

    /// A replica has ended; what it finds again stands in no account.
    pub fn on_end(&mut self, home: ReplicaId) {
        self.lights.retain(|(other, ..), _| *other != home);
    }
}

fn is_greedy(key: &Key) -> bool {
    quorate_wire::testing::client_key_number(GREEDY_KEY).public().as_bytes() == key
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::{Digest, LinkId, Operation, SigningKey};
    use quorate_wire::{BatchHead, Frame, Kind, batch, bundle, testing};

    const R0: ReplicaId = ReplicaId(0);
    const LANE: LaneId = LaneId { origin: R0, link: LinkId(0) };

    fn plan() -> Plan {
        let mut plan = (0..).map(Plan::of).find(|plan| plan.workload.greedy.is_some()).unwrap();
        plan.tuning.lane_units_flying_max = 100;
        plan
    }

    fn bundle(key: &SigningKey, number: u64, operations: usize) -> Frame {
        let config = testing::config(4);
        let operations = vec![Operation::IncrementBy { key: b"n".to_vec(), by: 1 }; operations];
        Frame::encode(Kind::Bundle, |out| {
            bundle::write(out, &config, key, SessionId::NONE, BundleNumber(number), &operations);
        })
    }

    fn sealed(number: u64, bundles: &[&Frame]) -> Frame {
        let head = BatchHead { lane: LANE, number: LaneNumber(number), previous: Digest::ZERO };
        Frame::encode(Kind::Batch, |out| {
            batch::write_head(out, &head, bundles.len());
            bundles.iter().for_each(|bundle| batch::write_bundle(out, bundle.payload()));
        })
    }

    fn given(fairness: &mut Fairness, frame: &Frame, open: usize, taken: Taken) -> Result<(), Violation> {
        fairness.on_bundle(R0, &BundleView::parse(frame.payload()).unwrap(), open, taken)
    }

    fn seal(fairness: &mut Fairness, number: u64, bundles: &[&Frame]) -> Result<(), Violation> {
        let frame = sealed(number, bundles);
        fairness.on_sealed(R0, &BatchView::parse(frame.payload()).unwrap())
    }

    #[test]
    fn of_others_no_more_is_sealed_before_a_light_bundle_than_may_be_on_its_way() {
        let (greedy, light) = (testing::client_key_number(GREEDY_KEY), testing::client_key_number(1));
        let heavy: Vec<Frame> = (1..=4).map(|number| bundle(&greedy, number, 50)).collect();
        let units = u64::from(BundleView::parse(heavy[0].payload()).unwrap().units());
        let mine = bundle(&light, 1, 1);
        for (before, is_fair) in [(1, true), (2, true), (3, false)] {
            let mut fairness = Fairness::new(&plan());
            fairness.flying_max = Some(2 * units - units);
            given(&mut fairness, &heavy[0], 0, Taken::Silently).unwrap();
            seal(&mut fairness, 1, &[&heavy[3]]).unwrap();
            given(&mut fairness, &mine, 0, Taken::Silently).unwrap();
            let mut batch: Vec<&Frame> = heavy[..before].iter().collect();
            batch.push(&mine);
            assert_eq!(seal(&mut fairness, 2, &batch).is_ok(), is_fair, "{before}");
            assert_eq!(fairness.judged, 1);
            seal(&mut fairness, 2, &batch).expect("the same batch once more");
        }
    }

    #[test]
    fn only_who_has_something_open_or_is_greedy_may_be_told_to_wait() {
        let (greedy, light) = (testing::client_key_number(GREEDY_KEY), testing::client_key_number(1));
        let mut fairness = Fairness::new(&plan());
        assert!(given(&mut fairness, &bundle(&greedy, 1, 1), 0, Taken::Busy).is_ok());
        let mine = bundle(&light, 1, 1);
        assert!(given(&mut fairness, &mine, 1, Taken::Busy).is_ok());
        assert!(given(&mut fairness, &mine, 0, Taken::Declined).is_ok());
        assert!(given(&mut fairness, &mine, 0, Taken::Busy).is_err());
    }
}
