//! What is bad, unknown or absent is told apart, from each other and from what was never there (DESIGN section 5).

mod common;

use common::{BATCHES, Landing, Machine, VOTES, options, scan_files};
use quorate_journal::{
    BLOCK_BYTES, Damage, GroupSummary, LogOptions, RecordKind, Scan, Scanner, Scrubbed, SegmentNumber,
    SegmentsMade, scan, scrub,
};
use quorate_types::Lsn;
use std::collections::BTreeMap;
use std::ops::Range;

const HEADER: usize = 512;
const ENTRY: usize = 64;

fn group(scan: &Scan, index: usize) -> (GroupSummary, Range<usize>) {
    let group = scan.groups[index].clone();
    let start = usize::try_from(group.offset).expect("invariant: small");
    let end = start + usize::try_from(group.bytes).expect("invariant: small");
    (group, start..end)
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    let number = u32::from_le_bytes(bytes[at..at + 4].try_into().expect("invariant: four bytes"));
    usize::try_from(number).expect("invariant: a pointer has 32 bits or more")
}

/// The length of header, directory and critical records, which stand at both ends of a group.
fn copy_bytes(group: &[u8]) -> usize {
    HEADER + ENTRY * u32_at(group, 100) + u32_at(group, 104)
}

/// Writes the checksums of both headers of a group anew, as whoever wrote something else there would have.
fn sum_up(group: &mut [u8]) {
    let directory = HEADER..HEADER + ENTRY * u32_at(group, 100);
    let sum = crc32c::crc32c(&group[directory]).to_le_bytes();
    for head in [0, group.len() - HEADER] {
        group[head + 112..head + 116].copy_from_slice(&sum);
        let sum = crc32c::crc32c(&group[head..head + 508]).to_le_bytes();
        group[head + 508..head + 512].copy_from_slice(&sum);
    }
}

/// Some groups, all reported durable, and nothing on disk that says so.
fn unconfirmed(groups: usize) -> Machine {
    let mut machine = Machine::new(options());
    machine.act();
    for _ in 0..groups {
        machine.append_fact(3);
        machine.append_batch(6000);
        assert!(machine.start_write());
    }
    (0..groups).for_each(|_| machine.complete(0));
    assert_eq!(machine.durable[&VOTES], Lsn(groups as u64));
    machine
}

fn confirmed(groups: usize) -> Machine {
    let mut machine = Machine::new(options());
    for _ in 0..groups {
        machine.append_fact(3);
        machine.append_batch(6000);
        machine.flush();
    }
    machine.confirm();
    machine
}

fn critical(scan: &Scan) -> usize {
    scan.records.iter().filter(|(_, _, record)| record.is_critical()).count()
}

#[test]
fn a_bit_of_a_batch_that_nothing_vouches_for_drops_no_vote() {
    for bad in 0..3 {
        let mut machine = unconfirmed(3);
        let before = machine.scan();
        let (_, range) = group(&before, bad);
        machine.files.get_mut(&SegmentNumber(1)).unwrap()[range.start + range.len() / 2] ^= 1;
        let after = machine.scan();
        assert_eq!((after.last(VOTES), after.last(BATCHES), critical(&after)), (Lsn(3), Lsn(3), 3));
        let torn: Vec<_> =
            after.torn_batches.iter().map(|lost| (lost.journal, lost.first, lost.last)).collect();
        let lsn = Lsn(bad as u64 + 1);
        assert_eq!(torn, [(BATCHES, lsn, lsn)]);
        // A write that was cut short looks the same: it is no damage.
        assert_eq!((after.damage, after.torn, after.lost.len()), (Damage::None, None, 0));
    }
}

#[test]
fn a_batch_that_was_cut_short_is_no_damage_later_either() {
    let mut machine = Machine::new(options());
    machine.append_batch(10);
    machine.flush();
    machine.append_fact(1);
    machine.append_batch(9000);
    machine.act();
    assert!(machine.start_write());
    let (write, _) = machine.in_flight[0];
    machine.cut_power(&[Landing::Whole], false);
    let middle = usize::try_from(write.offset).unwrap() + 5000;
    machine.files.get_mut(&write.segment).unwrap()[middle..middle + 512].fill(0);
    machine.recover();
    machine.append_fact(1);
    machine.confirm();
    let scan = machine.scan();
    assert_eq!((scan.torn_batches.len(), scan.lost.len(), scan.damage), (1, 0, Damage::None));
}

#[test]
fn a_group_whose_votes_are_bad_ends_a_log_that_nothing_vouches_for() {
    let mut machine = unconfirmed(3);
    let (_, range) = group(&machine.scan(), 1);
    let file = &mut machine.files.get_mut(&SegmentNumber(1)).unwrap()[range];
    let copy = copy_bytes(file);
    let second = file.len() - HEADER - 1;
    file[copy - 1] ^= 1;
    file[second] ^= 1;
    let after = machine.scan();
    assert_eq!((after.last(VOTES), after.torn.unwrap().groups), (Lsn(1), 2));
    let mut machine = confirmed(3);
    let (_, range) = group(&machine.scan(), 1);
    let file = &mut machine.files.get_mut(&SegmentNumber(1)).unwrap()[range];
    file[copy - 1] ^= 1;
    let second = file.len() - HEADER - 1;
    file[second] ^= 1;
    assert!(machine.scan().votes_are_lost(), "what was reported is not torn");
}

#[test]
fn two_bad_neighbouring_blocks_lose_no_vote() {
    let mut machine = Machine::new(options());
    for size in [1, 30, 90, 200] {
        machine.append_fact(size);
        machine.append_fact(2);
        machine.flush();
    }
    machine.confirm();
    let before = machine.scan();
    for index in 0..4 {
        let (group, range) = group(&before, index);
        for first in (range.start..range.end - BLOCK_BYTES).step_by(BLOCK_BYTES) {
            let mut files = machine.files.clone();
            files.get_mut(&group.segment).unwrap()[first..first + 2 * BLOCK_BYTES].fill(0xff);
            let after = scan_files(&files);
            assert_eq!(after.damage, Damage::None, "{}", after.describe());
            assert_eq!(critical(&after), critical(&before));
        }
    }
}

#[test]
fn what_another_version_wrote_is_neither_damage_nor_a_reason_to_go_on() {
    let check = |machine: &Machine, what: &str| {
        let scan = machine.scan();
        let Damage::Unknown { what: found } = &scan.damage else { panic!("{what}: {}", scan.describe()) };
        assert!(found.contains(what), "{found}");
        assert!(!scan.votes_are_lost(), "nobody becomes a learner for that");
    };
    for machine in [confirmed(3), unconfirmed(3)] {
        let (_, range) = group(&machine.scan(), 1);
        let edit = |edit: &dyn Fn(&mut [u8])| {
            let mut files = machine.files.clone();
            let bytes = &mut files.get_mut(&SegmentNumber(1)).unwrap()[range.clone()];
            edit(bytes);
            sum_up(bytes);
            Machine { files, made: machine.made, ..Machine::new(options()) }
        };
        // The kind of the first record, in both directories.
        let kind = edit(&|group| {
            let second = group.len() - copy_bytes(group) + HEADER;
            for directory in [HEADER, second] {
                group[directory + 17] = 99;
            }
        });
        check(&kind, "unknown kind 99 of a record in segment 1");
        for (at, value) in [(8, 4), (8, 2), (10, 2)] {
            let version = edit(&|group| {
                let second = group.len() - HEADER;
                for header in [0, second] {
                    group[header + at] = value;
                }
            });
            check(&version, "a group of another version in segment 1");
        }
        // A record that has a known kind and a longer form.
        let form = edit(&|group| {
            let (copy, end) = (copy_bytes(group), group.len());
            let first = HEADER + 2 * ENTRY;
            let bytes = u32_at(group, HEADER + 8);
            group[first..first + bytes].fill(0xee);
            group[end - copy + 2 * ENTRY..end - copy + 2 * ENTRY + bytes].fill(0xee);
            let sum = crc32c::crc32c(&vec![0xee; bytes]).to_le_bytes();
            for directory in [HEADER, end - copy] {
                group[directory + 12..directory + 16].copy_from_slice(&sum);
            }
        });
        check(&form, "malformed");
    }
}

#[test]
fn what_another_version_left_in_a_file_that_is_used_again_does_not_matter() {
    let mut machine = confirmed(30);
    let first = *machine.files.keys().next().unwrap();
    let (_, range) = group(&machine.scan(), 1);
    let bytes = &mut machine.files.get_mut(&first).unwrap()[range];
    bytes[8] = 3;
    let second = bytes.len() - HEADER;
    bytes[second + 8] = 3;
    sum_up(bytes);
    machine.trim(VOTES, machine.log.last(VOTES));
    machine.trim(BATCHES, machine.log.last(BATCHES));
    machine.confirm();
    assert!(!machine.files.contains_key(&first), "it was used again or removed");
    assert_eq!(machine.scan().damage, Damage::None);
}

#[test]
fn a_file_that_another_version_has_prepared_is_left_to_it() {
    let mut machine = confirmed(3);
    let last = *machine.files.keys().next_back().unwrap();
    let file = machine.files.get_mut(&last).unwrap();
    file[8] = 4;
    let sum = crc32c::crc32c(&file[..72]).to_le_bytes();
    file[72..76].copy_from_slice(&sum);
    let Damage::Unknown { what } = machine.scan().damage else { panic!("{}", machine.scan().describe()) };
    assert_eq!(what, format!("a segment of another version in segment {last} at 0"));
}

/// Lives that end in order, and one that is cut short before it writes anything.
fn lives(ahead: usize) -> Machine {
    let mut machine = Machine::new(LogOptions { segments_ahead: ahead, ..options() });
    for life in 0..4 {
        for _ in 0..12 {
            machine.append_fact(3);
            machine.append_batch(6000);
            machine.flush();
        }
        if life % 2 == 0 {
            machine.confirm();
        }
        machine.cut_power(&[], true);
        machine.recover();
    }
    machine.act();
    machine
}

#[test]
fn each_file_that_is_taken_away_is_missed() {
    for ahead in [1, 2, 3] {
        let machine = lives(ahead);
        let before = machine.scan();
        assert_eq!(
            (before.damage.clone(), before.absent.clone()),
            (Damage::None, None),
            "{}",
            before.describe()
        );
        for number in machine.files.keys() {
            let mut files = machine.files.clone();
            files.remove(number);
            let made = machine.made;
            let mut scanner = Scanner::new(common::identity()).made(made);
            files.iter().for_each(|(number, bytes)| scanner.segment(*number, bytes));
            let after = scanner.finish();
            // Beside a number that was left out only its own first block and the note beside the log say which is which.
            let told = [format!("segment {number} is missing"), format!(" to {number} are missing")];
            let absent = after.absent.as_ref().expect("it is missed");
            assert!(told.iter().any(|told| absent.ends_with(told)), "{absent}\n{}", after.describe());
            assert!(
                after.votes_are_lost() && after.next_segment > made.upto,
                "and nobody votes on from there"
            );
        }
    }
}

#[test]
fn a_missing_file_is_missed_by_its_neighbours_alone() {
    let machine = lives(2);
    let numbers: Vec<SegmentNumber> = machine.files.keys().copied().collect();
    let last_used = machine.scan().segments.iter().rev().find(|segment| segment.groups > 0).unwrap().number;
    for number in &numbers[..numbers.len() - 1] {
        let mut files = machine.files.clone();
        files.remove(number);
        assert!(scan_files(&files).absent.is_some(), "segment {number}");
    }
    // All that is left are files that were prepared and never used.
    let mut files = machine.files.clone();
    files.retain(|number, _| *number > last_used);
    assert!(!files.is_empty());
    assert!(scan_files(&files).absent.is_some());
}

#[test]
fn a_log_whose_files_are_all_gone_is_told_from_one_that_never_was() {
    let none = BTreeMap::<SegmentNumber, Vec<u8>>::new();
    assert_eq!(scan_files(&none).absent, None);
    let gone = Scanner::new(common::identity())
        .made(SegmentsMade { upto: SegmentNumber(7), ..SegmentsMade::default() })
        .finish();
    assert_eq!(gone.absent.as_deref(), Some("segments 1 to 7 are missing"));
    assert!(gone.votes_are_lost());
    // Prepared, and never used: it has said nothing.
    let mut machine = Machine::new(options());
    machine.act();
    assert_eq!((machine.scan().absent, machine.scan().damage), (None, Damage::None));
    machine.recover();
    machine.act();
    assert_eq!(machine.scan().absent, None, "the numbers of the first life are left out");
}

#[test]
fn batches_that_are_let_go_can_be_read_back() {
    let machine = lives(2);
    let whole = machine.scan();
    let mut scanner = Scanner::new(common::identity()).made(machine.made).without_batches();
    machine.files.iter().for_each(|(number, bytes)| scanner.segment(*number, bytes));
    let found = scanner.finish();
    assert!(found.records.iter().all(|(_, _, record)| record.is_critical()));
    assert_eq!((found.places.len(), found.places), (whole.records.len(), whole.places));
    assert_eq!((found.last, found.damage), (whole.last.clone(), whole.damage.clone()));
    let batches: Vec<_> = whole.records.iter().filter(|(journal, ..)| *journal == BATCHES).collect();
    assert_eq!(found.batches.len(), batches.len());
    for (found, (journal, lsn, record)) in found.batches.iter().zip(batches) {
        let start = usize::try_from(found.place.offset).unwrap();
        let bytes = &machine.files[&found.place.segment][start..start + found.place.bytes as usize];
        let read = found.place.record(bytes).expect("it is whole");
        assert_eq!((found.journal, found.lsn), (*journal, *lsn));
        assert_eq!(common::bytes_of(&read), common::bytes_of(record));
        assert_eq!(found.name.map(|lost| lost.tip), Some(common::name(*lsn)), "if it goes bad meanwhile");
    }
}

#[test]
fn the_files_of_another_log_are_absence_too() {
    let machine = confirmed(2);
    let other = quorate_journal::LogIdentity { directory: [8; 16], ..common::identity() };
    let found = scan(other, machine.files.iter().map(|(number, bytes)| (*number, &bytes[..])));
    assert!(found.absent.is_some_and(|absent| absent.contains("another cluster, replica, core")));
}

#[test]
fn a_life_that_writes_little_does_not_keep_a_whole_segment() {
    let mut machine = Machine::new(options());
    machine.append_batch(9000);
    for _ in 0..40 {
        machine.append_fact(1);
        machine.confirm();
        machine.cut_power(&[], false);
        machine.recover();
    }
    machine.act();
    assert_eq!(machine.scan().last(VOTES), Lsn(40), "nothing is trimmed");
    let whole = machine.options.segment_bytes as u64;
    let needed = machine.log.bytes_needed();
    assert!(needed < 40 * 6 * BLOCK_BYTES as u64, "{needed} bytes for 40 lives, segments of {whole}");
    // What is trimmed later goes as ever.
    machine.trim(VOTES, Lsn(40));
    machine.trim(BATCHES, Lsn(1));
    machine.append_fact(1);
    machine.confirm();
    assert_eq!(machine.log.bytes_needed(), whole);
    assert!(machine.files.len() <= 5, "{} files", machine.files.len());
}

/// What a look at a closed segment finds of harm to it.
fn scrubbed(machine: &Machine, segment: SegmentNumber, harm: impl FnOnce(&mut [u8])) -> Scrubbed {
    let mut bytes = machine.files[&segment].clone();
    harm(&mut bytes);
    scrub(common::identity(), segment, &bytes, &machine.log.places_in(segment))
}

#[test]
fn a_closed_segment_is_checked_while_the_log_goes_on() {
    let mut machine = lives(2);
    for _ in 0..12 {
        machine.append_fact(3);
        machine.append_batch(6000);
        machine.flush();
    }
    let scan = machine.scan();
    let closed: Vec<SegmentNumber> = machine.log.closed_segments().collect();
    let used = scan.segments.iter().filter(|segment| segment.groups > 0).map(|segment| segment.number);
    let (open, others) =
        used.collect::<Vec<_>>().split_last().map(|(open, others)| (*open, others.to_vec())).unwrap();
    assert_eq!(closed, others, "all but {open}, which is written to");
    let records: usize = closed.iter().map(|segment| machine.log.places_in(*segment).len()).sum();
    assert_eq!(records, scan.records.len() - machine.log.places_in(open).len());
    for segment in closed {
        assert_eq!(scrubbed(&machine, segment, |_| {}), Scrubbed::default());
        let group =
            scan.groups.iter().find(|group| group.segment == segment && group.records.len() == 2).unwrap();
        let (start, lsn) = (usize::try_from(group.offset).unwrap(), group.records[1].lsn);
        let end = start + usize::try_from(group.bytes).unwrap();
        // One copy of a vote.
        let found = scrubbed(&machine, segment, |bytes| bytes[end - 600] ^= 1);
        assert_eq!((found.repairs.len(), found.lost.len()), (1, 0), "{found:?}");
        assert_eq!(found.repairs[0].bytes, machine.files[&segment][end - BLOCK_BYTES..end]);
        // A batch, and all of the group.
        let found = scrubbed(&machine, segment, |bytes| bytes[start + 5000] ^= 1);
        assert_eq!((found.repairs, found.lost), (Vec::new(), vec![(BATCHES, lsn, RecordKind::Batch)]));
        let found = scrubbed(&machine, segment, |bytes| bytes[start..end].fill(0));
        assert_eq!(found.lost.len(), 2);
    }
    machine.trim(VOTES, machine.log.last(VOTES));
    machine.trim(BATCHES, machine.log.last(BATCHES));
    machine.confirm();
    assert_eq!(machine.log.closed_segments().count(), 0, "nobody looks at what is not needed");
}
