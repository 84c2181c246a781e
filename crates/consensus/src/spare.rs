//! Headers that are known and not on the own chain: what a new view has dropped, and what was fetched for one.
//!
//! A slot that q replicas prepared may be dropped by a view in which nobody knew of it, and come back with a later
//! one. Then whoever voted for it must still be able to hand its header out. A header is of no use any more once
//! its slot is committed, whichever header that was.

use quorate_types::{Digest, Lsn, Seq};
use quorate_wire::{Header, Position};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How many windows full of headers are kept.
const WINDOWS_KEPT: u64 = 2;

#[derive(Debug)]
struct Spare {
    header: Arc<Header>,
    /// Where the journal has it, if it does.
    lsn: Option<Lsn>,
    /// Counts up: the oldest goes first when there are too many.
    age: u64,
}

/// Headers off the chain, by slot and digest.
#[derive(Debug)]
pub(crate) struct SpareHeaders {
    headers: BTreeMap<(Seq, Digest), Spare>,
    kept_max: usize,
    age: u64,
}

impl SpareHeaders {
    pub(crate) fn new(window: u64) -> Self {
        let kept_max = usize::try_from(window.saturating_mul(WINDOWS_KEPT)).unwrap_or(usize::MAX);
        Self { headers: BTreeMap::new(), kept_max, age: 0 }
    }

    /// The number of slots over which headers may be gathered.
    pub(crate) fn reach(&self) -> u64 {
        self.kept_max as u64
    }

    pub(crate) fn len(&self) -> usize {
        self.headers.len()
    }

    pub(crate) fn get(&self, position: Position) -> Option<&Arc<Header>> {
        self.headers.get(&(position.seq, position.digest)).map(|spare| &spare.header)
    }

    /// Where the journal has the header of a slot.
    pub(crate) fn lsn(&self, position: Position) -> Option<Lsn> {
        self.headers.get(&(position.seq, position.digest))?.lsn
    }

    /// The lowest journal position among the headers, which must not be trimmed.
    pub(crate) fn lowest_lsn(&self) -> Option<Lsn> {
        self.headers.values().filter_map(|spare| spare.lsn).min()
    }

    /// What the journal has of the headers, ascending.
    pub(crate) fn recorded(&self) -> Vec<Position> {
        let recorded = self.headers.iter().filter(|(_, spare)| spare.lsn.is_some());
        recorded.map(|((seq, digest), _)| Position { seq: *seq, digest: *digest }).collect()
    }

    /// A header was written to the journal again and lies at `lsn` from now on.
    pub(crate) fn moved(&mut self, position: Position, lsn: Lsn) {
        if let Some(spare) = self.headers.get_mut(&(position.seq, position.digest)) {
            spare.lsn = Some(lsn);
        }
    }

    /// Keeps a header. If that is too many, the oldest goes that is not on the way down from `certified`, the
    /// highest slot that this replica can prove to be prepared.
    pub(crate) fn insert(&mut self, header: Arc<Header>, lsn: Option<Lsn>, certified: Option<Position>) {
        self.age += 1;
        let (key, age) = ((header.seq, header.digest()), self.age);
        let spare = self.headers.entry(key).or_insert(Spare { header, lsn, age });
        spare.lsn = spare.lsn.or(lsn);
        while self.headers.len() > self.kept_max {
            let proven = self.way_down(certified);
            let others = self.headers.iter().filter(|(key, _)| !proven.contains(*key));
            let Some(oldest) = others.min_by_key(|(_, spare)| spare.age).map(|(key, _)| *key) else { return };
            self.headers.remove(&oldest);
        }
    }

    fn way_down(&self, from: Option<Position>) -> BTreeSet<(Seq, Digest)> {
        let mut found = BTreeSet::new();
        let mut next = from;
        while let Some(position) = next
            && let Some(header) = self.get(position)
        {
            found.insert((position.seq, position.digest));
            next = Some(Position { seq: position.seq.previous(), digest: header.parent });
        }
        found
    }

    /// Forgets headers up to a committed slot.
    pub(crate) fn forget(&mut self, upto: Seq) {
        if !self.headers.is_empty() {
            self.headers = self.headers.split_off(&(upto.next(), Digest::ZERO));
        }
    }
}
