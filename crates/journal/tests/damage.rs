//! Damage of every kind: no panic, nothing that was not appended, no lost vote taken for a torn tail, and no vote lost
//! where one copy remains.

mod common;

use common::{BATCHES, Chance, Machine, VOTES, bytes_of, identity, options, scan_files, scan_made};
use proptest::prelude::*;
use quorate_journal::{
    BLOCK_BYTES, Damage, Fate, GroupSummary, Log, LogIdentity, LogOptions, LostBatch, RecordState,
    RecordSummary, Scan, SegmentHeader, SegmentNumber, scan,
};
use quorate_types::{CoreId, JournalId, Lsn};
use std::collections::BTreeMap;

type Files = BTreeMap<SegmentNumber, Vec<u8>>;

#[derive(Clone, Copy, Debug)]
enum Harm {
    FlipBits(usize),
    Garbage { blocks: usize, zero: bool },
    Cut,
    Remove,
    Swap,
    Misdirect,
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        (1usize..20).prop_map(Harm::FlipBits),
        (1usize..6, any::<bool>()).prop_map(|(blocks, zero)| Harm::Garbage { blocks, zero }),
        Just(Harm::Cut),
        Just(Harm::Remove),
        Just(Harm::Swap),
        Just(Harm::Misdirect),
    ]
}

/// A log with some lives, some trimmed away, and all that it holds known to be durable.
fn history(seed: u64, core: u8) -> Machine {
    let mut chance = Chance(seed);
    let mut machine = Machine::new(LogOptions { segments_ahead: 1 + chance.below(2), ..options() });
    for _ in 0..=chance.below(4) {
        for _ in 0..chance.below(30) {
            if core == 0 && chance.below(2) == 0 {
                machine.append_fact(chance.below(40));
            } else {
                machine.append_batch(chance.below(9000));
            }
            machine.act();
            machine.start_write();
            if chance.below(2) == 0 {
                machine.complete(chance.below(9));
            }
            if chance.below(6) == 0 {
                let journal = if chance.below(2) == 0 { VOTES } else { BATCHES };
                let last = machine.log.last(journal).0;
                machine.trim(journal, Lsn(last.saturating_sub(chance.below(20) as u64)));
            }
        }
        machine.cut_power(&[common::Landing::Torn(chance.next()), common::Landing::Whole], false);
        machine.recover();
    }
    machine.append_batch(10);
    if core == 0 {
        machine.append_fact(5);
    }
    machine.confirm();
    machine
}

/// The places of blocks that hold groups that count.
fn blocks(scan: &Scan) -> Vec<(SegmentNumber, usize)> {
    let kept = scan.groups.iter().filter(|group| group.fate == Fate::Kept);
    let place = |group: &GroupSummary| {
        let (number, range) = (group.segment, range(group));
        range.step_by(BLOCK_BYTES).map(move |at| (number, at)).collect::<Vec<_>>()
    };
    kept.flat_map(place).collect()
}

fn range(group: &GroupSummary) -> std::ops::Range<usize> {
    let start = usize::try_from(group.offset).expect("invariant: small");
    start..start + usize::try_from(group.bytes).expect("invariant: small")
}

/// A block that is still there.
fn block_mut(files: &mut Files, (number, at): (SegmentNumber, usize)) -> Option<&mut [u8]> {
    files.get_mut(&number)?.get_mut(at..at + BLOCK_BYTES)
}

fn flip(files: &mut Files, place: (SegmentNumber, usize), chance: &mut Chance) {
    if let Some(block) = block_mut(files, place) {
        block[chance.below(BLOCK_BYTES)] ^= 1 << chance.below(8);
    }
}

fn overwrite(files: &mut Files, place: (SegmentNumber, usize), zero: bool, chance: &mut Chance) {
    for byte in block_mut(files, place).into_iter().flatten() {
        *byte = if zero { 0 } else { chance.next().to_le_bytes()[0] };
    }
}

fn do_harm(files: &mut Files, before: &Scan, harm: Harm, chance: &mut Chance) {
    let blocks = blocks(before);
    let numbers: Vec<SegmentNumber> = files.keys().copied().collect();
    let any = |chance: &mut Chance| blocks[chance.below(blocks.len())];
    let Some(first) = numbers.get(chance.below(numbers.len())).copied() else { return };
    let second = numbers[chance.below(numbers.len())];
    match harm {
        Harm::FlipBits(count) => (0..count).for_each(|_| flip(files, any(chance), chance)),
        Harm::Garbage { blocks, zero } => {
            (0..blocks).for_each(|_| overwrite(files, any(chance), zero, chance));
        }
        Harm::Cut => {
            let file = files.get_mut(&first).expect("one of them");
            file.truncate(chance.below(file.len()));
        }
        Harm::Remove => {
            files.remove(&first);
        }
        Harm::Swap => {
            let (one, other) = (files[&first].clone(), files[&second].clone());
            files.insert(first, other);
            files.insert(second, one);
        }
        Harm::Misdirect => {
            let (from, to) = (any(chance), any(chance));
            let bytes = block_mut(files, from).map(|block| block.to_vec());
            if let (Some(bytes), Some(block)) = (bytes, block_mut(files, to)) {
                block.copy_from_slice(&bytes);
            }
        }
    }
}

/// The batches that a scan says are lost.
fn lost(scan: &Scan) -> impl Iterator<Item = (JournalId, Lsn)> {
    let all = scan.lost.iter().chain(&scan.torn_batches);
    all.flat_map(|lost| (lost.first.0..=lost.last.0).map(|lsn| (lost.journal, Lsn(lsn))))
}

/// Compares what is read after damage with what was read before.
fn check(machine: &Machine, files: &Files, before: &Scan, after: &Scan) {
    machine.check_authentic(after);
    // Whatever stands on disk about durability counts.
    let untouched = |group: &&GroupSummary| {
        let of = |files: &Files| files.get(&group.segment)?.get(range(group)).map(<[u8]>::to_vec);
        of(files).is_some() && of(files) == of(&machine.files)
    };
    let stated = before.groups.iter().filter(untouched).map(|group| group.watermark).max();
    assert!(Some(after.watermark) >= stated, "{stated:?}\n{}", after.describe());
    let read: BTreeMap<(JournalId, Lsn), Vec<u8>> =
        after.records.iter().map(|(journal, lsn, record)| ((*journal, *lsn), bytes_of(record))).collect();
    let protected =
        before.groups.iter().filter(|group| group.fate == Fate::Kept && group.number <= after.watermark);
    for record in protected.flat_map(|group| &group.records) {
        let key = (record.journal, record.lsn);
        if record.lsn <= before.trimmed(record.journal) || read.contains_key(&key) {
            continue;
        }
        let told = match (&after.damage, record.kind.is_critical()) {
            (Damage::LostVotes { .. }, _) => true,
            (Damage::LostBatches(_), critical) => !critical,
            _ => false,
        };
        let told = told || lost(after).any(|lost| lost == key);
        assert!(told, "{key:?} is lost\nbefore\n{}after\n{}", before.describe(), after.describe());
    }
    if let Some(torn) = after.torn {
        assert!(torn.group > after.watermark);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn whatever_is_lost_is_told(seed in any::<u64>(), harms in prop::collection::vec(harm(), 1..4), core in 0u8..2) {
        let machine = history(seed, core);
        let before = machine.scan();
        prop_assert_eq!(&before.damage, &Damage::None);
        let mut files = machine.files.clone();
        let mut chance = Chance(seed);
        for harm in harms {
            do_harm(&mut files, &before, harm, &mut chance);
        }
        check(&machine, &files, &before, &scan_files(&files));
    }

    #[test]
    fn one_bad_block_loses_no_vote(seed in any::<u64>(), bits in any::<bool>(), zero in any::<bool>()) {
        let machine = history(seed, 0);
        let before = machine.scan();
        let mut files = machine.files.clone();
        let mut chance = Chance(seed);
        let place = blocks(&before)[chance.below(blocks(&before).len())];
        if bits { flip(&mut files, place, &mut chance) } else { overwrite(&mut files, place, zero, &mut chance) }
        let after = scan_made(&files, machine.made);
        check(&machine, &files, &before, &after);
        prop_assert!(!after.votes_are_lost(), "{}", after.describe());
        let votes = |scan: &Scan| scan.records.iter().filter(|(_, _, record)| record.is_critical()).count();
        prop_assert_eq!(votes(&after), votes(&before), "{}", after.describe());
        // Whoever loses batches knows which.
        let known = lost(&before).count();
        prop_assert_eq!(before.records.len() - after.records.len(), lost(&after).count() - known);
        // And by which names to ask others for them, unless the directory is gone, too.
        let named = |scan: &Scan| scan.lost_batches.iter().map(|batch| (batch.journal, batch.lsn)).collect::<Vec<_>>();
        prop_assert!(named(&after).iter().all(|batch| lost(&after).any(|lost| lost == *batch)));
        let unreadable = |record: &&RecordSummary| {
            let is_needed = record.lsn > after.trimmed(record.journal);
            record.state == RecordState::Lost && !record.kind.is_critical() && is_needed
        };
        let counts = after.groups.iter().filter(|group| group.fate == Fate::Damaged);
        let unreadable = counts.flat_map(|group| &group.records).filter(unreadable);
        let unreadable: Vec<_> = unreadable.map(|record| (record.journal, record.lsn)).collect();
        prop_assert_eq!(named(&after), unreadable);
        prop_assert!(after.lost_batches.iter().all(|batch| batch.tip == common::name(batch.lsn)));
        // The log goes on behind the damage, which is found again where it was.
        let mut machine = Machine { files, ..machine };
        machine.repair(&after);
        machine.log = Log::resume(identity(), machine.options, &after);
        machine.append_fact(1);
        machine.confirm();
        let again = machine.scan();
        prop_assert_eq!((again.lost, again.torn_batches), (after.lost, after.torn_batches));
        prop_assert_eq!(again.lost_batches, after.lost_batches);
        prop_assert_eq!(again.records.len(), after.records.len() + 1);
    }

    #[test]
    fn any_bytes_are_scanned(bytes in prop::collection::vec(any::<u8>(), 0..20_000), cut in 0usize..9000) {
        let machine = history(1, 0);
        let mut file = machine.files.values().next().expect("a segment").clone();
        file.truncate(cut);
        file.extend_from_slice(&bytes);
        let found = scan(identity(), [(SegmentNumber(1), &bytes[..]), (SegmentNumber(2), &file[..])]);
        prop_assert!(found.describe().to_string().contains("damage: "));
    }
}

fn written(facts: u64) -> Machine {
    let mut machine = Machine::new(options());
    for _ in 0..facts {
        machine.append_fact(3);
        machine.append_batch(6000);
        machine.flush();
    }
    machine.confirm();
    machine
}

/// Overwrites both copies of the header of a group.
fn destroy(machine: &mut Machine, number: u64) {
    let scan = machine.scan();
    let group = scan.groups.iter().find(|group| group.number.0 == number).expect("it exists");
    let file = machine.files.get_mut(&group.segment).expect("its segment exists");
    file[range(group)].fill(0xff);
}

#[test]
fn a_lost_group_with_votes_is_amnesia_until_the_end_of_the_log() {
    let mut machine = written(5);
    destroy(&mut machine, 2);
    let scan = machine.scan();
    expect_test::expect![["votes lost, never to vote again: journal 0 records 2 to 2: group 2 is missing"]]
        .assert_eq(&scan.damage.to_string());
    assert_eq!(scan.records.len(), 8);
    machine.log = Log::resume(identity(), machine.options, &scan);
    machine.append_fact(1);
    for _ in 0..40 {
        machine.append_batch(6000);
        machine.flush();
    }
    machine.trim(VOTES, machine.log.last(VOTES));
    machine.trim(BATCHES, machine.log.last(BATCHES));
    machine.confirm();
    machine.flush();
    let scan = machine.scan();
    assert!(scan.lost.is_empty(), "the damaged place is trimmed away");
    expect_test::expect!["votes lost, never to vote again: an earlier start has found votes lost"]
        .assert_eq(&scan.damage.to_string());
}

#[test]
fn the_second_header_of_a_group_is_found_behind_a_destroyed_group() {
    let mut machine = written(4);
    destroy(&mut machine, 2);
    let group = machine.scan().groups.iter().find(|group| group.number.0 == 3).cloned().expect("it exists");
    let file = machine.files.get_mut(&group.segment).expect("its segment exists");
    file[range(&group)][..BLOCK_BYTES].fill(0);
    let scan = machine.scan();
    assert!(scan.records.iter().any(|(journal, lsn, _)| (*journal, *lsn) == (VOTES, Lsn(3))));
    expect_test::expect![["votes lost, never to vote again: journal 0 records 2 to 2: group 2 is missing"]]
        .assert_eq(&scan.damage.to_string());
}

#[test]
fn a_lost_batch_is_named() {
    let mut machine = written(3);
    let group = machine.scan().groups[1].clone();
    let middle = range(&group).start + range(&group).len() / 2;
    machine.files.get_mut(&group.segment).expect("its segment exists")[middle] ^= 1;
    let scan = machine.scan();
    expect_test::expect!["batches lost, to be fetched from other replicas: journal 1 records 2 to 2;"]
        .assert_eq(&scan.damage.to_string());
    assert_eq!(scan.records.len(), 5);
    let lost = LostBatch {
        journal: BATCHES,
        lsn: Lsn(2),
        tip: common::name(Lsn(2)),
        why: quorate_types::Why::OwnLink,
    };
    assert_eq!(scan.lost_batches, [lost]);
}

#[test]
fn the_last_groups_are_protected_once_a_watermark_stands_above_them() {
    let mut machine = Machine::new(options());
    machine.append_fact(1);
    machine.flush();
    let unprotected = {
        let mut machine = Machine { files: machine.files.clone(), ..Machine::new(options()) };
        destroy(&mut machine, 1);
        machine.scan()
    };
    assert!(!unprotected.votes_are_lost(), "nothing on disk says that it was durable");
    machine.confirm();
    destroy(&mut machine, 1);
    assert!(machine.scan().votes_are_lost());
}

#[test]
fn a_missing_first_segment_is_damage_unless_it_was_given_up() {
    let mut machine = written(20);
    let first = *machine.files.keys().next().expect("a segment");
    let kept = machine.files.remove(&first).expect("it exists");
    assert!(machine.scan().votes_are_lost());
    machine.files.insert(first, kept);
    machine.trim(VOTES, machine.log.last(VOTES));
    machine.trim(BATCHES, machine.log.last(BATCHES));
    machine.confirm();
    assert!(!machine.files.contains_key(&first), "it was used again or removed");
    let scan = machine.scan();
    assert_eq!(scan.damage, Damage::None);
    assert!(scan.records.is_empty());
    assert_eq!(scan.last(VOTES), Lsn(20));
}

#[test]
fn the_log_of_another_is_not_read() {
    let machine = written(2);
    let own = identity();
    let others = [
        LogIdentity { cluster_id: [1; 32], ..own },
        LogIdentity { replica: quorate_types::ReplicaId(3), ..own },
        LogIdentity { core: CoreId(1), ..own },
        LogIdentity { directory: [8; 16], ..own },
    ];
    for other in others {
        let found = scan(other, machine.files.iter().map(|(number, bytes)| (*number, &bytes[..])));
        assert!(found.records.is_empty() && found.foreign > 0);
        assert!(matches!(found.damage, Damage::LostVotes { .. } | Damage::LostBatches(_)));
        assert_eq!(found.segments[0].header, SegmentHeader::Foreign);
    }
}

#[test]
fn an_empty_log_and_prepared_files_are_no_damage() {
    assert_eq!(scan(identity(), []).damage, Damage::None);
    let mut machine = Machine::new(options());
    machine.act();
    let scan = machine.scan();
    assert_eq!((scan.damage.clone(), scan.is_empty()), (Damage::None, true));
    machine.log = Log::resume(identity(), machine.options, &scan);
    machine.append_fact(1);
    machine.confirm();
    machine.recover();
    assert_eq!(machine.scan().records.len(), 1);
}
