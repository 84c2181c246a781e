//! The groups that count, and what is missing among them. [`crate::scan`] has the rules.

use crate::damage::{Damage, LostRecords, TornTail};
use crate::layout::{Entry, GroupHeader, GroupNumber, LogIdentity, RUNS_MAX, Run, SegmentNumber};
use crate::scan::{Content, Fate, FoundBatch, FoundGroup, GroupSummary, RecordState, RecordSummary, Scan};
use crate::{CONSENSUS_JOURNAL, RecordPlace};
use quorate_types::{CoreId, JournalId, Lsn};
use quorate_wire::batch::BatchHead;
use std::collections::BTreeMap;

/// The groups found, in the order of the log.
pub(crate) struct Chain {
    groups: Vec<FoundGroup>,
    abandoned: Vec<FoundGroup>,
    runs: Vec<Run>,
    watermark: GroupNumber,
    /// The highest watermark of each run, by its first segment.
    watermarks: BTreeMap<SegmentNumber, GroupNumber>,
    lowest: Option<(SegmentNumber, GroupNumber)>,
    trimmed: BTreeMap<JournalId, Lsn>,
    votes_lost: bool,
}

impl Chain {
    /// Tells the groups that count from those that a run has left behind. What a header states was true when it was
    /// written, whatever became of its group: watermarks, trims and the lowest segment count from all of them.
    pub(crate) fn link(mut found: Vec<FoundGroup>) -> Self {
        found.sort_by_key(|group| (group.header.number, group.header.run().first_segment));
        let mut chain = Self {
            groups: Vec::with_capacity(found.len()),
            abandoned: Vec::new(),
            runs: runs(&found),
            watermark: GroupNumber(0),
            watermarks: BTreeMap::new(),
            lowest: None,
            trimmed: BTreeMap::new(),
            votes_lost: false,
        };
        for group in found {
            chain.note_statements(&group.header);
            let number = group.header.number;
            let later = chain.runs.partition_point(|run| run.first_group <= number);
            let owner = later.checked_sub(1).map(|owner| chain.runs[owner].first_segment);
            let follows = chain.groups.last().is_none_or(|last| last.header.number < number);
            let counts = owner == Some(group.header.run().first_segment) && follows;
            if counts { &mut chain.groups } else { &mut chain.abandoned }.push(group);
        }
        chain
    }

    fn note_statements(&mut self, header: &GroupHeader) {
        self.watermark = self.watermark.max(header.watermark);
        let of_run = self.watermarks.entry(header.run().first_segment).or_default();
        *of_run = header.watermark.max(*of_run);
        self.votes_lost |= header.votes_lost;
        let lowest = (header.lowest_segment, header.lowest_group);
        // The same group may be the first of a later segment: then nothing of the one before counts.
        if self.lowest.is_none_or(|(segment, group)| (group, segment) < (lowest.1, lowest.0)) {
            self.lowest = Some(lowest);
        }
        for mark in &header.journals {
            let trimmed = self.trimmed.entry(mark.journal).or_default();
            *trimmed = mark.trimmed.max(*trimmed);
        }
    }

    /// The lowest segment that is needed, as far as anything says so.
    pub(crate) fn lowest_segment(&self) -> SegmentNumber {
        self.lowest.map(|(segment, _)| segment).unwrap_or_default()
    }

    /// Reads the groups in order into `scan`.
    pub(crate) fn read(self, identity: LogIdentity, scan: &mut Scan) {
        let mut reading = Reading {
            watermark: self.watermark,
            watermarks: self.watermarks,
            begun: false,
            carries_votes: identity.core == CoreId(0),
            expected: self.lowest.map_or(GroupNumber(1), |(_, group)| group.max(GroupNumber(1))),
            last: self.trimmed.clone(),
            trimmed: self.trimmed,
            unknown: None,
            votes: None,
            scan,
        };
        reading.read(self.groups);
        for group in self.abandoned {
            reading.summarize(group, Fate::Abandoned);
        }
        let Reading { expected, last, trimmed, votes, .. } = reading;
        scan.last_group = expected.previous();
        scan.watermark = self.watermark;
        scan.lowest = self.lowest;
        scan.last = last;
        scan.trimmed = trimmed;
        scan.votes_lost = self.votes_lost;
        scan.runs = needed_runs(self.runs, expected, self.lowest);
        scan.groups.sort_by_key(|group| (group.segment, group.offset));
        conclude(scan, votes, identity.core == CoreId(0));
    }
}

/// The runs that the log consists of, ascending: as the newest one states them, and before those that it has no
/// room for as the oldest of them states.
fn runs(found: &[FoundGroup]) -> Vec<Run> {
    let stated = |segment: SegmentNumber| {
        found.iter().map(|group| &group.header).find(|header| header.run().first_segment == segment)
    };
    let newest = found.iter().map(|group| group.header.run().first_segment).max();
    let mut runs: Vec<Run> = newest.and_then(stated).map(|header| header.runs.clone()).unwrap_or_default();
    let mut known = runs.len();
    while known == RUNS_MAX {
        let Run { first_segment, first_group } = runs[0];
        let Some(header) = stated(first_segment) else { break };
        let before = header.runs.iter().filter(|run| run.first_group < first_group).copied();
        let older: Vec<Run> = before.filter(|run| run.first_segment < first_segment).collect();
        known = older.len() + 1;
        runs.splice(0..0, older);
    }
    runs
}

/// Where a reader of the chain stands.
struct Reading<'a> {
    watermark: GroupNumber,
    watermarks: BTreeMap<SegmentNumber, GroupNumber>,
    carries_votes: bool,
    /// Whether a group that is needed was reached.
    begun: bool,
    /// The group that comes next.
    expected: GroupNumber,
    /// Where each journal stands.
    last: BTreeMap<JournalId, Lsn>,
    trimmed: BTreeMap<JournalId, Lsn>,
    /// A durable group of which nothing is known, until the next one tells where the journals stood.
    unknown: Option<String>,
    /// Why votes are lost.
    votes: Option<String>,
    scan: &'a mut Scan,
}

impl Reading<'_> {
    fn read(&mut self, groups: Vec<FoundGroup>) {
        let mut groups = groups.into_iter().peekable();
        while let Some(group) = groups.next_if(|group| self.admit(group)) {
            self.take(group);
        }
        let mut torn = None;
        for group in groups {
            let GroupHeader { segment, offset, .. } = group.header;
            let first = TornTail { segment, offset, group: self.expected, groups: 0 };
            torn.get_or_insert(first).groups += 1;
            self.summarize(group, Fate::Torn);
        }
        if torn.is_none() && self.expected <= self.watermark {
            self.unknown = Some(format!("group {} is missing", self.expected));
            self.expected = self.watermark.next();
        }
        self.scan.torn = torn.or_else(|| self.broken_end());
        if let Some(reason) = self.unknown.take() {
            self.lose_unknown(reason);
        }
    }

    /// Whether the log goes on with `group`. What is missing before it is noted as lost if it was durable.
    fn admit(&mut self, group: &FoundGroup) -> bool {
        let header = &group.header;
        if header.number < self.expected {
            return true;
        }
        if header.number > self.expected {
            if self.expected > self.watermark {
                self.note_lost_before(header);
                return false;
            }
            self.unknown = Some(format!("group {} is missing", self.expected));
            self.note_lost_before(header);
            self.expected = header.number.min(self.watermark.next());
        } else {
            if !self.begun {
                // A segment that holds nothing readable is given up like one that holds nothing needed.
                self.unknown = Some(format!("something before group {} could not be read", self.expected));
            }
            self.note_lost_before(header);
        }
        self.begun = true;
        header.number == self.expected && (group.counts() || header.number <= self.watermark)
    }

    /// Compares where the journals stood before a group with what was read, if something durable was not.
    fn note_lost_before(&mut self, header: &GroupHeader) {
        let Some(reason) = self.unknown.take() else { return };
        for mark in &header.journals {
            let last = self.last.entry(mark.journal).or_default();
            if mark.last > *last {
                let lost = LostRecords { journal: mark.journal, first: last.next(), last: mark.last };
                *last = mark.last;
                self.lose(lost, mark.journal == CONSENSUS_JOURNAL, &reason);
            }
        }
    }

    fn lose(&mut self, lost: LostRecords, votes: bool, reason: &str) {
        if votes && self.votes.is_none() {
            self.votes = Some(format!("{lost}: {reason}"));
        }
        note(&mut self.scan.lost, lost);
    }

    /// A durable group is lost, and nothing tells what was in it.
    fn lose_unknown(&mut self, reason: String) {
        if self.carries_votes {
            self.votes.get_or_insert(reason);
        } else {
            self.scan.damage = Damage::LostBatches(Vec::new());
        }
    }

    /// Takes a group that counts.
    fn take(&mut self, mut group: FoundGroup) {
        let trimmed = group.header.number < self.expected;
        let stands = place(&group.header);
        self.note_in_segment(&group, trimmed);
        if trimmed {
            self.summarize(group, Fate::Trimmed);
            return;
        }
        self.expected = group.header.number.next();
        if group.directory_lost {
            self.unknown = Some(format!("{stands} has no readable directory"));
        }
        let reported = self.reported(&group.header);
        let mut fate = if group.directory_lost { Fate::Damaged } else { Fate::Kept };
        for found in &mut group.records {
            let (journal, lsn) = (found.entry.journal, found.entry.lsn);
            let needed = lsn > self.trimmed.get(&journal).copied().unwrap_or_default();
            let last = self.last.entry(journal).or_default();
            *last = lsn.max(*last);
            let Entry { bytes, checksum, kind, .. } = found.entry;
            let (segment, offset) = (group.header.segment, group.header.offset + found.at as u64);
            let place = RecordPlace { segment, offset, bytes, checksum, kind };
            let name = found.entry.name();
            if needed && found.state != RecordState::Lost {
                self.scan.places.push((journal, lsn, place));
            }
            match std::mem::replace(&mut found.content, Content::Lost) {
                Content::Kept(record) if needed => self.scan.records.push((journal, lsn, record)),
                Content::LetGo(BatchHead { lane, number, .. }) if needed => {
                    self.scan.batches.push(FoundBatch { journal, lsn, lane, number, place, name });
                }
                Content::Kept(_) | Content::LetGo(_) => {}
                Content::Lost => {
                    fate = Fate::Damaged;
                    self.scan.lost_batches.extend(name.filter(|_| needed));
                    let votes = kind.is_critical() || journal == CONSENSUS_JOURNAL;
                    let lost = LostRecords { journal, first: lsn, last: lsn };
                    if needed && group.header.number > reported {
                        note(&mut self.scan.torn_batches, lost);
                    } else if needed {
                        self.lose(lost, votes, &format!("{stands} is damaged"));
                    }
                }
            }
        }
        self.scan.repaired += u64::from(group.repaired);
        self.scan.repairs.append(&mut group.repairs);
        self.summarize(group, fate);
    }

    /// Up to which group of the same run and those before it all is known to have been durable in their time. What a
    /// later run says is true of what counts, and that has gone on without the batches of a write that was cut short.
    fn reported(&self, header: &GroupHeader) -> GroupNumber {
        let runs = self.watermarks.range(..=header.run().first_segment);
        runs.map(|(_, watermark)| *watermark).max().unwrap_or_default()
    }

    fn note_in_segment(&mut self, group: &FoundGroup, trimmed: bool) {
        let number = group.header.segment;
        let Ok(index) = self.scan.segments.binary_search_by_key(&number, |segment| segment.number) else {
            return;
        };
        let segment = &mut self.scan.segments[index];
        let first = segment.first_group.get_or_insert(group.header.number);
        *first = group.header.number.min(*first);
        if trimmed {
            return;
        }
        for found in &group.records {
            let highest = segment.highest.entry(found.entry.journal).or_default();
            *highest = found.entry.lsn.max(*highest);
        }
    }

    /// The beginning of a group behind the last one that counts, of which no more can be read.
    fn broken_end(&self) -> Option<TornTail> {
        let last = self.scan.groups.iter().filter(|group| group.fate != Fate::Abandoned);
        let last = last.map(|group| group.segment).max().unwrap_or_default();
        let mut ends = self.scan.segments.iter().filter(|segment| segment.number >= last);
        let end = ends.find_map(|segment| Some((segment.number, segment.broken_at?)));
        end.map(|(segment, offset)| TornTail { segment, offset, group: self.expected, groups: 0 })
    }

    fn summarize(&mut self, group: FoundGroup, fate: Fate) {
        let record = |found: &crate::scan::FoundRecord| RecordSummary {
            journal: found.entry.journal,
            lsn: found.entry.lsn,
            kind: found.entry.kind,
            bytes: found.entry.bytes,
            state: found.state,
        };
        self.scan.groups.push(GroupSummary {
            segment: group.header.segment,
            offset: group.header.offset,
            bytes: group.header.sizes.group_bytes() as u64,
            number: group.header.number,
            watermark: group.header.watermark,
            run: group.header.run().first_segment,
            fate,
            repaired: group.repaired,
            announced: group.header.sizes.records,
            records: group.records.iter().map(record).collect(),
        });
    }
}

/// The runs with groups that count and are not known to be without use.
fn needed_runs(
    mut runs: Vec<Run>,
    end: GroupNumber,
    lowest: Option<(SegmentNumber, GroupNumber)>,
) -> Vec<Run> {
    runs.retain(|run| run.first_group < end);
    let lowest = lowest.map(|(_, group)| group).unwrap_or_default();
    let needed = runs.partition_point(|run| run.first_group <= lowest).saturating_sub(1);
    runs.drain(..needed);
    runs
}

/// Adds records to those that are known to be lost.
fn note(known: &mut Vec<LostRecords>, lost: LostRecords) {
    match known.last_mut() {
        Some(before) if before.journal == lost.journal && before.last.next() == lost.first => {
            before.last = lost.last;
        }
        _ => known.push(lost),
    }
}

fn place(header: &GroupHeader) -> String {
    format!("group {} in segment {} at {}", header.number, header.segment, header.offset)
}

/// Names the worst of what was found.
fn conclude(scan: &mut Scan, votes: Option<String>, carries_votes: bool) {
    let reason = if scan.votes_lost {
        Some("an earlier start has found votes lost".to_owned())
    } else {
        scan.absent.clone().filter(|_| carries_votes).or(votes)
    };
    scan.damage = match (reason, scan.torn) {
        (Some(reason), _) => Damage::LostVotes { reason },
        _ if scan.absent.is_some() => Damage::LostBatches(scan.lost.clone()),
        _ if !scan.lost.is_empty() => Damage::LostBatches(scan.lost.clone()),
        _ if matches!(scan.damage, Damage::LostBatches(_)) => Damage::LostBatches(Vec::new()),
        (None, Some(torn)) => Damage::TornTail(torn),
        (None, None) => Damage::None,
    };
}
