//! The bytes on disk, and what is said about them.

mod common;

use common::{Landing, Machine, batch, bytes_of, fact, options};
use expect_test::expect;
use proptest::prelude::*;
use quorate_journal::{Record, RecordKind, Repair};

/// The rows of 16 bytes that are not all zero.
fn dump(bytes: &[u8]) -> String {
    let rows = bytes.chunks(16).enumerate().filter(|(_, row)| row.iter().any(|byte| *byte != 0));
    rows.map(|(index, row)| {
        let hex: String = row.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{:5} {hex}\n", index * 16)
    })
    .collect()
}

/// Changes only with the version of the format.
#[test]
fn golden_segment() {
    let mut machine = Machine::new(options());
    machine.append_fact(1);
    machine.append_batch(20);
    machine.append(common::VOTES, Record::ViewState { view: quorate_types::View(7) });
    machine.flush();
    let file = machine.files.values().next().expect("a segment");
    expect![[r#"
            0 51554f525345474d0300000002000000
           16 5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a
           32 07070707070707070707070707070707
           48 01000000000000000100000000000000
           64 00000000000000004b227e6800000000
         4096 51554f52475255500300000002000001
         4112 5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a
         4128 07070707070707070707070707070707
         4144 01000000000000000010000000000000
         4160 01000000000000000000000000000000
         4176 01000000000000000100000000000000
         4192 0030000003000000770000002c000000
         4208 45018ca7000000000000000000000000
         4304 00000000000000000100000000000000
         4320 01000000000000000000000000000000
         4592 000000000000000000000000aa8444e8
         4608 01000000000000006f000000f736eacb
         4624 00020000000000000000000000000000
         4672 01000000000000002c000000c74b6748
         4688 01010201650000000000000001010101
         4704 01010101010101010101010101010101
         4720 01010101010101010101010100000000
         4736 0200000000000000080000008eb77176
         4752 00050000000000000000000000000000
         4800 01000000000000000001000000000000
         4816 00010000000000000001010101010101
         4832 01010101010101010101010101010101
         4848 01010101010101010101000000000000
         4864 00010000000102000000000000000001
         4880 01010101010101010101010101010101
         4896 01010101010101010101010101010107
         4912 000000000000001c0000002000010067
         4928 59b6d91ec5abad0200000000000000ce
         4944 422f6429b38683ff6c357761aef31912
         4960 d452d500000000000000000000000000
        15552 00000000000000000001000000000000
        15568 006f000000f736eacb00020000000000
        15616 00000000000000000001000000000000
        15632 002c000000c74b674801010201650000
        15648 00000000000101010101010101010101
        15664 01010101010101010101010101010101
        15680 01010101010000000002000000000000
        15696 00080000008eb7717600050000000000
        15744 00000000000000000001000000000000
        15760 00000100000000000000010000000000
        15776 00000101010101010101010101010101
        15792 01010101010101010101010101010101
        15808 01010100000000000000010000000102
        15824 00000000000000000101010101010101
        15840 01010101010101010101010101010101
        15856 01010101010101010700000000000000
        15872 51554f52475255500300000002000001
        15888 5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a
        15904 07070707070707070707070707070707
        15920 01000000000000000010000000000000
        15936 01000000000000000000000000000000
        15952 01000000000000000100000000000000
        15968 0030000003000000770000002c000000
        15984 45018ca7000000000000000000000000
        16080 00000000000000000100000000000000
        16096 01000000000000000000000000000000
        16368 000000000000000000000000aa8444e8
    "#]]
    .assert_eq(&dump(file));
}

#[test]
fn a_description_names_everything() {
    let mut machine = Machine::new(options());
    for size in 0..5 {
        machine.append_fact(size);
        machine.append_batch(40 + size);
    }
    machine.flush();
    machine.append_batch(5000);
    machine.append_fact(2);
    machine.flush();
    machine.append_fact(2);
    machine.act();
    machine.start_write();
    machine.append_fact(3);
    machine.start_write();
    machine.cut_power(&[Landing::Nothing, Landing::Whole], false);
    machine.recover();
    machine.append_fact(9);
    machine.confirm();
    let file = machine.files.values_mut().next().expect("a segment");
    file[4096 + 600] ^= 1;
    file[4096 + 12288 + 3000] ^= 1;
    expect![[r#"
        segment 1 own: bytes 65536, groups 3, unreadable from 28672
          group 1 at 4096: bytes 12288, records 10, watermark 0, run 1, repaired
            journal 0 lsn 1 accept bytes 69: accept taken over view 1 seq 1 7f2add15 tips 0
            journal 1 lsn 1 batch bytes 64: batch lane 2.0 number 9477459456203637454 after ff6c3577
            journal 0 lsn 2 checkpoint bytes 173: checkpoint seq 3 03030303 root 03030303 signatures 1
            journal 1 lsn 2 batch bytes 65: batch lane 4.0 number 5935429546263130314 after c90522f9
            journal 0 lsn 3 promised bytes 89: promised view 5 not voted in, stable at 5 05050505
            journal 1 lsn 3 batch bytes 66: batch lane 6.0 number 5806389134813993216 after 5bfe6161
            journal 0 lsn 4 accept bytes 195: accept taken over view 7 seq 7 e2c8043c tips 3
            journal 1 lsn 4 batch bytes 67: batch lane 8.0 number 11108991368628863286 after 036c7364
            journal 0 lsn 5 checkpoint bytes 368: checkpoint seq 9 09090909 root 09090909 signatures 4
            journal 1 lsn 5 batch bytes 68: batch lane 10.0 number 4460246743018981066 after 283d8070
          group 2 at 16384: bytes 12288, records 2, watermark 1, run 1, damaged
            journal 1 lsn 6 batch bytes 5024 lost
            journal 0 lsn 6 view-state bytes 8: view-state view 12
          group 4 at 40960: bytes 12288, records 1, watermark 2, run 1, abandoned
            journal 0 lsn 8 prepared bytes 904
        segment 3 own: bytes 65536, groups 2
          group 3 at 4096: bytes 12288, records 1, watermark 2, run 3
            journal 0 lsn 7 checkpoint bytes 693: checkpoint seq 15 0f0f0f0f root 0f0f0f0f signatures 9
          group 4 at 16384: bytes 4096, records 0, watermark 3, run 3
        segment 4 own: bytes 65536, groups 0
        journal 0: last 7, trimmed up to 0
        journal 1: last 6, trimmed up to 0
        lost: journal 1 records 6 to 6
        groups up to 4, watermark 3, repaired 1
        damage: batches lost, to be fetched from other replicas: journal 1 records 6 to 6;
    "#]]
    .assert_eq(&machine.scan().describe().to_string());
}

#[test]
fn a_repair_touches_only_the_bad_copy() {
    let mut machine = Machine::new(options());
    machine.append_fact(30);
    machine.append_batch(9000);
    machine.confirm();
    let good = machine.files.clone();
    let file = machine.files.values_mut().next().expect("a segment");
    file[4096 + 700] ^= 4;
    let scan = machine.scan();
    let places: Vec<(u64, usize)> =
        scan.repairs.iter().map(|Repair { offset, bytes, .. }| (*offset, bytes.len())).collect();
    assert_eq!(places, [(4096, 4096)]);
    assert_eq!(scan.repaired, 1);
    machine.repair(&scan);
    assert_eq!(machine.files, good);
}

/// What the disk does not give back of a batch is read as something else, and may be readable another time: whoever wrote
/// the block anew, because a bad copy of a vote stands in it, too, would make that last.
#[test]
fn repairs_skip_blocks_that_overlap_a_lost_batch() {
    let mut machine = Machine::new(options());
    machine.append_fact(30);
    machine.append_batch(9000);
    machine.confirm();
    let good = machine.files.clone();
    // The first block holds the first copy of the vote and the beginning of the batch.
    let harm = |places: &[usize]| {
        let mut machine = Machine { files: good.clone(), ..Machine::new(options()) };
        let file = machine.files.values_mut().next().expect("a segment");
        places.iter().for_each(|at| file[*at] ^= 4);
        let harmed = machine.files.clone();
        let scan = machine.scan();
        assert_eq!(scan.repaired, 1);
        let lost = scan.lost.iter().chain(&scan.torn_batches).count();
        machine.repair(&scan);
        let untouched = machine.files == harmed;
        let places: Vec<u64> = scan.repairs.iter().map(|repair| repair.offset).collect();
        (lost, places, untouched)
    };
    let (vote, batch) = (4096 + 700, 4096 + 3500);
    assert_eq!(harm(&[vote]), (0, vec![4096], false));
    assert_eq!(harm(&[vote, batch]), (1, vec![], true));
    assert_eq!(harm(&[vote, batch + 4096]), (1, vec![], true), "it begins in the block of the vote");
}

fn record() -> impl Strategy<Value = Record> {
    (any::<bool>(), 1u64..1000, 0usize..200)
        .prop_map(|(critical, number, size)| if critical { fact(number, size) } else { batch(number, size) })
}

fn kind() -> impl Strategy<Value = RecordKind> {
    prop::sample::select(&RecordKind::ALL[..])
}

proptest! {
    #[test]
    fn records_come_back(record in record()) {
        let bytes = bytes_of(&record);
        let read = Record::decode(record.kind(), &bytes).expect("own bytes");
        prop_assert_eq!(&bytes_of(&read), &bytes);
        prop_assert_eq!(read.to_string(), record.to_string());
    }

    /// Whatever is read has these bytes and no others.
    #[test]
    fn any_bytes_are_a_record_or_an_error(
        record in record(), other in kind(), same in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(), whole in any::<bool>(),
    ) {
        let kind = if same { record.kind() } else { other };
        let mut bytes = bytes_of(&record);
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        if !whole {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(read) = Record::decode(kind, &bytes) {
            prop_assert_eq!(bytes_of(&read), bytes);
            prop_assert!(read.to_string().starts_with(kind.name()));
        }
    }

    #[test]
    fn garbage_is_a_record_or_an_error(kind in kind(), bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(read) = Record::decode(kind, &bytes) {
            prop_assert_eq!(bytes_of(&read), bytes);
        }
    }
}
