//! The journal of one replica: what is written, what of it is durable, and what a crash leaves.

use super::Random;
use quorate_types::{LaneId, Lsn, Mark, Why};
use quorate_wire::{Frame, LaneTip};
use std::collections::BTreeMap;

/// A batch in the journal.
struct Written {
    place: (LaneId, Mark),
    frame: Frame,
    why: Why,
}

/// A journal.
#[derive(Default)]
pub(crate) struct Disk {
    records: BTreeMap<Lsn, Written>,
    /// Where each batch lies, and why it is held.
    places: BTreeMap<(LaneId, Mark), Vec<(Lsn, Why)>>,
    /// What went bad: the directories of the journal still name it.
    bad: BTreeMap<Lsn, (LaneId, Mark, Why)>,
    appended: Lsn,
    durable: Lsn,
}

impl Disk {
    pub(crate) fn appended(&self) -> Lsn {
        self.appended
    }

    pub(crate) fn durable(&self) -> Lsn {
        self.durable
    }

    pub(crate) fn append(&mut self, lsn: Lsn, lane: LaneId, mark: Mark, frame: Frame, why: Why) {
        assert_eq!(lsn, self.appended.next(), "records of a journal are consecutive");
        self.appended = lsn;
        let place = (lane, mark);
        self.places.entry(place).or_default().push((lsn, why));
        self.records.insert(lsn, Written { place, frame, why });
    }

    /// All that was written is durable.
    pub(crate) fn sync(&mut self) {
        self.durable = self.appended;
    }

    pub(crate) fn trim(&mut self, upto: Lsn) {
        assert!(upto <= self.durable, "what is trimmed is durable");
        while let Some(entry) = self.records.first_entry()
            && *entry.key() <= upto
        {
            let (lsn, written) = entry.remove_entry();
            self.forget(lsn, written.place);
        }
        self.bad.retain(|lsn, _| *lsn > upto);
    }

    fn forget(&mut self, lsn: Lsn, place: (LaneId, Mark)) {
        if let Some(places) = self.places.get_mut(&place) {
            places.retain(|(at, _)| *at != lsn);
            if places.is_empty() {
                self.places.remove(&place);
            }
        }
    }

    /// The process is gone. The disk may have written more than it has told.
    pub(crate) fn crash(&mut self, random: &mut Random) {
        let unwritten = usize::try_from(self.appended.0 - self.durable.0).expect("a small number");
        let end = Lsn(self.durable.0 + random.below(unwritten + 1) as u64);
        while let Some(entry) = self.records.last_entry()
            && *entry.key() > end
        {
            let (lsn, written) = entry.remove_entry();
            self.forget(lsn, written.place);
        }
        (self.appended, self.durable) = (end, end);
    }

    /// One of the batches goes bad that may.
    pub(crate) fn rot(
        &mut self,
        random: &mut Random,
        may: impl Fn(&(LaneId, Mark)) -> bool,
    ) -> Option<(LaneId, Mark)> {
        let places: Vec<(LaneId, Mark)> = self.places.keys().filter(|place| may(place)).copied().collect();
        let place = *places.get(random.below(places.len()))?;
        self.places.remove(&place);
        for (lsn, written) in self.records.extract_if(.., |_, written| written.place == place) {
            self.bad.insert(lsn, (place.0, place.1, written.why));
        }
        Some(place)
    }

    /// What a restart hears to be lost.
    pub(crate) fn lost(&self) -> Vec<(Lsn, LaneTip, Why)> {
        self.bad.iter().map(|(lsn, (lane, mark, why))| (*lsn, LaneTip::at(*lane, *mark), *why)).collect()
    }

    /// What a restart finds.
    pub(crate) fn batches(&self) -> Vec<(Lsn, Frame, Why)> {
        self.records.iter().map(|(lsn, written)| (*lsn, written.frame.clone(), written.why)).collect()
    }

    pub(crate) fn read(&self, lsn: Lsn) -> Option<Frame> {
        self.records.get(&lsn).map(|written| written.frame.clone())
    }

    /// The best reason that lies durably beside a batch.
    pub(crate) fn durable_reason(&self, lane: LaneId, mark: Mark) -> Option<Why> {
        let places = self.places.get(&(lane, mark))?;
        places.iter().filter(|(lsn, _)| *lsn <= self.durable).map(|(_, why)| *why).max()
    }

    /// What lies durably above a number of a lane, each with a reason.
    pub(crate) fn durable_above(&self, lane: LaneId, mark: Mark) -> impl Iterator<Item = (Mark, Why)> {
        let above = self.places.range((lane, mark)..).take_while(move |((of, _), _)| *of == lane);
        let above = above.filter(move |((_, other), _)| other.upto > mark.upto);
        above.flat_map(|((_, other), places)| {
            let durable = places.iter().filter(|(lsn, _)| *lsn <= self.durable);
            durable.map(|(_, why)| (*other, *why))
        })
    }
}
