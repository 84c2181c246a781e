//! The files of a log: which is open, which come next, and which are needed.

use crate::layout::{BLOCK_BYTES, GroupNumber, JournalMark, SegmentNumber};
use crate::scan::SegmentSummary;
use crate::{Damage, LogOptions, Scan};
use quorate_types::{JournalId, Lsn};
use std::collections::VecDeque;

/// A file is shortened if that saves so much.
const SHORTENED_BYTES_MIN: u64 = 8 * BLOCK_BYTES as u64;

/// What to do with the file of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentAction {
    /// Create the file, write zeroes over its whole length but for its first block ([`crate::Log::first_block`]), and
    /// report it ready when it is durable.
    Create {
        /// The number of the segment.
        number: SegmentNumber,
    },
    /// Write the new first block into a file that is not needed, rename it when that is durable, and report it ready
    /// when the new name is. What it holds besides names the number under which it was written and is never read again.
    Recycle {
        /// Its number until now.
        from: SegmentNumber,
        /// Its number from now on.
        to: SegmentNumber,
    },
    /// Shorten the file of a segment that an earlier run has used: nothing stands behind.
    Shorten {
        /// The number of the segment.
        number: SegmentNumber,
        /// Its length from now on.
        bytes: u64,
    },
    /// Remove the file.
    Remove {
        /// The number of the segment.
        number: SegmentNumber,
    },
}

/// A segment with groups in it.
#[derive(Debug)]
struct Used {
    number: SegmentNumber,
    /// The length of the file. One of the length of a segment may be used again.
    bytes: u64,
    /// Its first group that counts.
    first_group: Option<GroupNumber>,
    /// The last record of each journal.
    highest: Vec<(JournalId, Lsn)>,
}

#[derive(Debug)]
pub(crate) struct Segments {
    segment_bytes: u64,
    ahead_count: usize,
    spare_max: usize,
    /// Ascending; the last one is open if there is an `open_offset`.
    used: VecDeque<Used>,
    open_offset: Option<u64>,
    /// Asked for, in the order of use, and whether they are ready.
    ahead: VecDeque<(SegmentNumber, bool)>,
    spare: Vec<SegmentNumber>,
    next_number: SegmentNumber,
    lowest: (SegmentNumber, GroupNumber),
    /// Of the segments below, a durable group has said that they are not needed.
    needed_from: SegmentNumber,
    may_rise: bool,
    actions: VecDeque<SegmentAction>,
}

impl Segments {
    pub(crate) fn new(options: &LogOptions, first: SegmentNumber) -> Self {
        let mut segments = Self {
            segment_bytes: options.segment_bytes as u64,
            ahead_count: options.segments_ahead,
            spare_max: options.segments_spare_max,
            used: VecDeque::new(),
            open_offset: None,
            ahead: VecDeque::new(),
            spare: Vec::new(),
            next_number: first,
            lowest: (first, GroupNumber(1)),
            needed_from: SegmentNumber(0),
            may_rise: false,
            actions: VecDeque::new(),
        };
        segments.plan();
        segments
    }

    /// The files that a scan has found. Those behind the last one with a group were prepared and never used.
    pub(crate) fn resume(options: &LogOptions, scan: &Scan) -> Self {
        let mut segments = Self::new(options, scan.next_segment);
        segments.ahead.clear();
        segments.actions.clear();
        segments.next_number = scan.next_segment;
        // Where something stands that cannot be read, something was written.
        let is_used = |found: &&SegmentSummary| found.groups > 0 || found.broken_at.is_some();
        let last_used = scan.segments.iter().rev().find(is_used).map(|found| found.number);
        // A life that writes little would otherwise take a whole segment until the next trim, and so would each after it.
        let may_shorten = matches!(scan.damage, Damage::None | Damage::TornTail(_));
        let (mut interrupted, mut shortened) = (Vec::new(), Vec::new());
        for found in &scan.segments {
            let (number, first_group, mut bytes) = (found.number, found.first_group, found.bytes);
            if Some(number) <= last_used {
                let highest = found.highest.iter().map(|(journal, lsn)| (*journal, *lsn)).collect();
                if may_shorten && found.broken_at.is_none() && found.end + SHORTENED_BYTES_MIN <= bytes {
                    bytes = found.end;
                    shortened.push(SegmentAction::Shorten { number, bytes });
                }
                segments.used.push_back(Used { number, bytes, first_group, highest });
            } else if bytes == segments.segment_bytes {
                segments.spare.push(number);
            } else {
                // Its preparation was interrupted.
                interrupted.push(SegmentAction::Remove { number });
            }
        }
        // What the log goes on with is the first group of the next segment.
        segments.lowest = match scan.lowest {
            Some(lowest) => lowest,
            None => (scan.next_segment, scan.last_group.next()),
        };
        segments.needed_from = scan.lowest.map(|(segment, _)| segment).unwrap_or_default();
        segments.may_rise = true;
        segments.plan();
        // Behind those that are made first, which say that this number was never used.
        segments.actions.extend(interrupted);
        segments.actions.extend(shortened);
        segments
    }

    pub(crate) fn first_planned(&self) -> SegmentNumber {
        self.ahead.front().map_or(self.next_number, |(number, _)| *number)
    }

    /// The last segment that was written to.
    pub(crate) fn last_used(&self) -> SegmentNumber {
        self.used.back().map(|used| used.number).unwrap_or_default()
    }

    /// The lowest segment with something needed, and its first group.
    pub(crate) fn lowest(&self) -> (SegmentNumber, GroupNumber) {
        self.lowest
    }

    fn has_room_in_open(&self, bytes: usize) -> bool {
        self.open_offset.is_some_and(|offset| offset + bytes as u64 <= self.segment_bytes)
    }

    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.has_room_in_open(bytes) || self.ahead.front().is_some_and(|(_, ready)| *ready)
    }

    /// Takes room for a group; closes the open segment when it has none.
    pub(crate) fn place(&mut self, group: GroupNumber, bytes: usize) -> Option<(SegmentNumber, u64)> {
        if !self.has_room(bytes) {
            return None;
        }
        if !self.has_room_in_open(bytes) {
            let (number, _) = self.ahead.pop_front()?;
            let (bytes, first_group) = (self.segment_bytes, Some(group));
            self.used.push_back(Used { number, bytes, first_group, highest: Vec::new() });
            self.open_offset = Some(BLOCK_BYTES as u64);
            self.may_rise = true;
            self.plan();
        }
        let offset = self.open_offset?;
        self.open_offset = Some(offset + bytes as u64);
        Some((self.used.back()?.number, offset))
    }

    /// Notes the last record of `journal` in the open segment.
    pub(crate) fn note(&mut self, segment: SegmentNumber, journal: JournalId, upto: Lsn) {
        let open = self.used.back_mut().filter(|used| used.number == segment);
        let open = open.expect("invariant: groups go to the open segment");
        match open.highest.iter_mut().find(|(other, _)| *other == journal) {
            Some((_, highest)) => *highest = upto,
            None => open.highest.push((journal, upto)),
        }
    }

    /// Whether a segment was closed since the lowest one was looked for.
    pub(crate) fn may_rise(&self) -> bool {
        self.may_rise
    }

    /// Looks for the lowest segment that is needed: one with a record above the trims, or the last one. What trims
    /// cover is durable, so no segment below comes into being after it was given up.
    pub(crate) fn raise_lowest(&mut self, marks: &[JournalMark]) {
        self.may_rise = false;
        let trimmed = |journal: JournalId| {
            marks.iter().find(|mark| mark.journal == journal).map(|mark| mark.trimmed).unwrap_or_default()
        };
        for used in &self.used {
            if let Some(first) = used.first_group
                && used.number > self.lowest.0
            {
                self.lowest = (used.number, first);
            }
            if used.highest.iter().any(|(journal, highest)| *highest > trimmed(*journal)) {
                return;
            }
        }
    }

    /// A durable group has said that no segment below `lowest` is needed.
    pub(crate) fn release_below(&mut self, lowest: SegmentNumber) {
        self.needed_from = self.needed_from.max(lowest);
        while self.used.len() > 1 && self.used.front().is_some_and(|used| used.number < lowest) {
            match self.used.pop_front() {
                Some(Used { number, bytes, .. }) if bytes == self.segment_bytes => self.spare.push(number),
                Some(Used { number, .. }) => self.actions.push_back(SegmentAction::Remove { number }),
                None => {}
            }
        }
        self.plan();
    }

    /// Prepares segments ahead, and removes spare ones that are too many.
    fn plan(&mut self) {
        while self.ahead.len() < self.ahead_count {
            let to = self.next_number;
            self.next_number = to.next();
            self.ahead.push_back((to, false));
            self.actions.push_back(match self.spare.pop() {
                Some(from) => SegmentAction::Recycle { from, to },
                None => SegmentAction::Create { number: to },
            });
        }
        while self.spare.len() > self.spare_max {
            let number = self.spare.remove(0);
            self.actions.push_back(SegmentAction::Remove { number });
        }
    }

    pub(crate) fn next_action(&mut self) -> Option<SegmentAction> {
        self.actions.pop_front()
    }

    pub(crate) fn on_ready(&mut self, number: SegmentNumber) {
        let ahead = self.ahead.iter_mut().find(|(other, ready)| *other == number && !ready);
        ahead.expect("invariant: a segment is reported ready once, after it was asked for").1 = true;
    }

    /// The segments that hold something needed and are not written to any more, ascending.
    pub(crate) fn closed(&self) -> impl Iterator<Item = SegmentNumber> + '_ {
        let open = self.used.back().filter(|_| self.open_offset.is_some()).map(|used| used.number);
        self.needed().map(|(number, _)| number).filter(move |number| Some(*number) != open)
    }

    /// The records of each journal in a segment: behind a position, up to a position.
    pub(crate) fn records_in(&self, number: SegmentNumber) -> Vec<(JournalId, Lsn, Lsn)> {
        let Some(index) = self.used.iter().position(|used| used.number == number) else { return Vec::new() };
        let before = |journal: JournalId| {
            let earlier = self.used.iter().take(index).flat_map(|used| &used.highest);
            earlier.filter(|(other, _)| *other == journal).map(|(_, upto)| *upto).max().unwrap_or_default()
        };
        let here = &self.used[index].highest;
        here.iter().map(|(journal, upto)| (*journal, before(*journal), *upto)).collect()
    }

    /// The lowest segment that is needed, as the disk says.
    pub(crate) fn needed_from(&self) -> SegmentNumber {
        self.needed_from
    }

    /// The segments that hold something needed, with the lengths of their files.
    pub(crate) fn needed(&self) -> impl Iterator<Item = (SegmentNumber, u64)> + '_ {
        let needed = self.used.iter().filter(|used| used.number >= self.lowest.0);
        needed.map(|used| (used.number, used.bytes))
    }

    /// The bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        let prepared = (self.ahead.len() + self.spare.len()) as u64 * self.segment_bytes;
        prepared + self.used.iter().map(|used| used.bytes).sum::<u64>()
    }
}
