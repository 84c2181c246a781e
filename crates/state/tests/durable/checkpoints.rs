//! Checkpoints on disk: what is loaded is what was written, whatever happened in between.

use std::collections::BTreeMap;

use expect_test::expect;
use proptest::prelude::*;
use quorate_state::{
    FILE_HEAD_BYTES, Frozen, LoadError, LoadFigures, Manifest, PageStore, Progress, State, StoreOptions,
    verify,
};
use quorate_types::{Condition, Digest, Nanoseconds, Operation, Seq, StateLimits};

use crate::common::{Client, opened};
use crate::disk::{Disk, head};
use crate::random::Random;

/// Small files, so that a short history fills many.
pub(crate) const SMALL: StoreOptions = StoreOptions { file_bytes_max: 96 * 1024, write_bytes: 8 * 1024 };

/// Executes operations as one header.
pub(crate) fn header(state: &mut State, client: &mut Client, seq: u64, operations: &[Operation]) {
    client.run(state, seq, operations);
    state.note_header(Seq(seq), Digest([7; 32]), Nanoseconds(seq));
}

pub(crate) fn filled(random: &mut Random, bundles: u64, keys: usize) -> (State, Client) {
    let (mut state, mut client) = opened();
    for seq in 2..2 + bundles {
        let operations = random.operations(100, keys);
        header(&mut state, &mut client, seq, &operations);
    }
    (state, client)
}

pub(crate) fn write(disk: &mut Disk, store: &mut PageStore, seq: u64, state: &Frozen) -> Manifest {
    let checkpoint = store.begin(head(seq), state);
    disk.carry_out(store, checkpoint).expect("no crash")
}

fn load(disk: &mut Disk) -> (PageStore, Manifest, State) {
    let (store, found, errors) = disk.recover(SMALL);
    assert!(errors.is_empty(), "{errors:?}");
    let (manifest, frozen) = found.expect("a checkpoint");
    (store, manifest, State::from_frozen(&frozen, StateLimits::default()))
}

fn check(manifest: &Manifest, disk: &mut Disk) -> LoadFigures {
    let figures = verify(manifest, disk).expect("nothing is damaged");
    assert!(manifest.live_bytes() >= figures.block_bytes, "live bytes are counted too low");
    // The files are counted when they become too large; inner nodes that only moved are not foreseen.
    let inner = figures.block_bytes / 8;
    let bound = 2 * figures.block_bytes + inner + u64::from(SMALL.file_bytes_max);
    let on_disk: u64 = disk.pages.values().map(|bytes| bytes.len() as u64).sum();
    assert!(on_disk <= bound, "{on_disk} bytes for {} live ones", figures.block_bytes);
    assert!(manifest.bytes() <= on_disk);
    figures
}

#[test]
fn a_state_is_loaded_as_it_was_and_goes_on_alike() {
    let (mut state, mut client) = filled(&mut Random(1), 60, 4000);
    let (mut disk, mut store) = (Disk::endless(), PageStore::new(SMALL, [], []));
    let manifest = write(&mut disk, &mut store, 61, &state.freeze());
    assert_eq!(manifest.root, state.root());
    assert_eq!(manifest.head, head(61));
    let (_, found, mut loaded) = load(&mut disk);
    assert_eq!(found, manifest);
    loaded.check_invariants();
    assert_eq!(loaded.root(), state.root());
    assert_eq!(loaded.user_keys(), state.user_keys());
    assert_eq!(loaded.revision(), state.revision());
    let (mut random, mut other) = (Random(2), client.clone());
    for seq in 62..90 {
        let operations = random.operations(100, 4000);
        let results = client.run(&mut state, seq, &operations);
        assert_eq!(other.run(&mut loaded, seq, &operations), results);
    }
    assert_eq!(loaded.root(), state.root());
}

#[test]
fn an_empty_state_is_a_checkpoint_too() {
    let (mut disk, mut store) = (Disk::endless(), PageStore::new(SMALL, [], []));
    let mut state = State::new([]);
    write(&mut disk, &mut store, 0, &state.freeze());
    assert_eq!(load(&mut disk).2.root(), state.root());
}

#[test]
fn only_what_changed_is_written_also_after_a_restart() {
    let (mut state, mut client) = filled(&mut Random(1), 60, 4000);
    let options = StoreOptions::default();
    let (mut disk, mut store) = (Disk::endless(), PageStore::new(options, [], []));
    let first = write(&mut disk, &mut store, 61, &state.freeze());
    assert!(first.bytes() > 700_000, "{}", first.bytes());
    let mut bytes = first.bytes();
    for round in 0..3u64 {
        let set =
            Operation::Set { key: b"key:002000".into(), value: vec![9; 30], condition: Condition::Always };
        header(&mut state, &mut client, 62 + round, &[set]);
        if round == 2 {
            let (again, found, _) = disk.recover(options);
            store = again;
            state = State::from_frozen(&found.expect("a checkpoint").1, StateLimits::default());
            client.next -= 1;
            let set = Operation::Set {
                key: b"key:002000".into(),
                value: vec![8; 30],
                condition: Condition::Always,
            };
            header(&mut state, &mut client, 64, &[set]);
        }
        let manifest = write(&mut disk, &mut store, 62 + round, &state.freeze());
        let written = manifest.bytes() - bytes;
        assert!(written < 100_000, "{written} bytes for one key and one session");
        bytes = manifest.bytes();
    }
    // Nothing changed: nothing but the manifest is written.
    let again = write(&mut disk, &mut store, 65, &state.freeze());
    assert_eq!(again.bytes(), bytes);
}

#[test]
fn a_write_that_changes_nothing_during_a_checkpoint_does_not_hide_what_moves() {
    let mut random = Random(5);
    let (mut state, mut client) = filled(&mut random, 40, 1500);
    let (mut disk, mut store) = (Disk::endless(), PageStore::new(SMALL, [], []));
    let mut seq = 42;
    for _ in 0..60 {
        let operations = random.operations(20, 1500);
        header(&mut state, &mut client, seq, &operations);
        let frozen = state.freeze();
        let mut checkpoint = store.begin(head(seq), &frozen);
        drop(frozen);
        // Nodes are copied behind the back of the walk, and what is copied stays as it is.
        for _ in 0..random.below(40) {
            match checkpoint.advance(&mut store) {
                Progress::Write(write) => {
                    disk.pages.entry(write.file).or_default().extend_from_slice(&write.bytes);
                }
                Progress::Remove(removal) => disk.remove(&removal).expect("no crash"),
                Progress::Pause | Progress::Finished => {}
            }
        }
        let never = |at: usize| Operation::Set {
            key: format!("key:{at:06}").into_bytes(),
            value: vec![1],
            condition: Condition::Version(u64::MAX),
        };
        let nothing: Vec<_> = (0..200).map(|_| never(random.below(1500))).collect();
        seq += 1;
        header(&mut state, &mut client, seq, &nothing);
        disk.carry_out(&mut store, checkpoint).expect("no crash");
        seq += 1;
        let root = state.root();
        let manifest = write(&mut disk, &mut store, seq, &state.freeze());
        assert_eq!(manifest.root, root);
        check(&manifest, &mut disk);
        seq += 1;
    }
}

#[test]
fn a_checkpoint_that_was_given_up_leaves_no_trace_in_the_next() {
    let mut random = Random(3);
    let (mut state, mut client) = filled(&mut random, 30, 2000);
    let (mut disk, mut store) = (Disk::endless(), PageStore::new(SMALL, [], []));
    write(&mut disk, &mut store, 31, &state.freeze());
    let operations = random.operations(100, 2000);
    header(&mut state, &mut client, 32, &operations);
    let (pages, bytes) = (disk.pages.clone(), store.disk_bytes());
    let mut checkpoint = store.begin(head(32), &state.freeze());
    loop {
        match checkpoint.advance(&mut store) {
            Progress::Write(write) => disk.write(&write).expect("no crash"),
            Progress::Finished => break,
            _ => {}
        }
    }
    let undo = store.abandon(checkpoint);
    assert!(
        !undo.pages.is_empty() && !undo.cut.is_empty(),
        "it has begun files and appended to one: {undo:?}"
    );
    disk.undo(&undo);
    assert_eq!((&disk.pages, store.disk_bytes()), (&pages, bytes));
    let manifest = write(&mut disk, &mut store, 33, &state.freeze());
    check(&manifest, &mut disk);
    assert_eq!(load(&mut disk).2.root(), state.root());
}

#[test]
fn a_checkpoint_says_what_it_will_write_and_one_given_up_then_costs_the_next_nothing() {
    let mut random = Random(4);
    let (mut state, mut client) = filled(&mut random, 30, 2000);
    let (mut disk, mut store) = (Disk::endless(), PageStore::new(SMALL, [], []));
    write(&mut disk, &mut store, 31, &state.freeze());
    let operations = random.operations(1, 2000);
    header(&mut state, &mut client, 32, &operations);
    let measured = |store: &mut PageStore| {
        let mut checkpoint = store.begin(head(32), &state.freeze());
        while checkpoint.planned_bytes().is_none() {
            let step = checkpoint.advance(store);
            assert!(matches!(step, Progress::Pause | Progress::Remove(_)), "{step:?}");
        }
        checkpoint
    };
    let checkpoint = measured(&mut store);
    let planned = checkpoint.planned_bytes().expect("just measured");
    assert!(store.abandon(checkpoint).is_empty());
    let mut checkpoint = measured(&mut store);
    assert_eq!(checkpoint.planned_bytes(), Some(planned));
    while !matches!(checkpoint.advance(&mut store), Progress::Finished) {}
    let heads = (checkpoint.files_written().len() * FILE_HEAD_BYTES) as u64;
    let written = checkpoint.written_bytes();
    assert!(written >= planned && written <= planned + heads, "{written} written, {planned} planned");
}

#[test]
fn a_backup_is_a_checkpoint_of_its_own() {
    let (state, _) = filled(&mut Random(8), 40, 3000);
    let (mut disk, mut store) = (Disk::endless(), PageStore::new(SMALL, [], []));
    let manifest = write(&mut disk, &mut store, 41, &state.freeze());
    let (mut copy, mut copies) = (Disk::endless(), PageStore::new(SMALL, [], []));
    let mut reading = PageStore::new(SMALL, [], []);
    let (frozen, _) = reading.load(&manifest, &mut disk).expect("nothing is damaged");
    let copied = write(&mut copy, &mut copies, 41, &frozen);
    assert_eq!(copied.root, manifest.root);
    assert_eq!(check(&copied, &mut copy).blocks, check(&manifest, &mut disk).blocks);
}

/// One history: bundles, checkpoints, crashes at any step, and after each the newest durable state.
fn history_with_crashes(seed: u64) -> Result<(), TestCaseError> {
    let mut random = Random(seed);
    let keys = [50, 800, 3000][random.below(3)];
    let (mut state, mut client) = opened();
    let (mut disk, mut store) = (Disk::endless(), PageStore::new(SMALL, [], []));
    let mut roots = BTreeMap::new();
    let mut known: BTreeMap<u64, (Client, State)> = BTreeMap::new();
    let mut seq = 2;
    let mut durable = None;
    for _ in 0..40 {
        for _ in 0..=random.below(4) {
            let count = 1 + random.below(200);
            let operations = random.operations(count, keys);
            header(&mut state, &mut client, seq, &operations);
            seq += 1;
        }
        let checkpoint = store.begin(head(seq), &state.freeze());
        roots.insert(seq, state.root());
        known.insert(seq, (client.clone(), State::from_frozen(&state.freeze(), StateLimits::default())));
        disk.steps = if random.below(3) == 0 { random.below(60) } else { usize::MAX };
        match disk.carry_out(&mut store, checkpoint) {
            Ok(manifest) => {
                prop_assert_eq!(manifest.root, roots[&seq]);
                check(&manifest, &mut disk);
                let on_disk: u64 = disk.pages.values().map(|bytes| bytes.len() as u64).sum();
                prop_assert_eq!(store.disk_bytes(), on_disk, "the store knows what is there");
                durable = Some(seq);
            }
            Err(_) => {
                disk = disk.crashed(|bound| random.below(bound));
                let (again, found, errors) = disk.recover(SMALL);
                prop_assert!(errors.is_empty(), "{:?}", errors);
                store = again;
                let found = found.map(|(manifest, frozen)| (manifest.head.seq.0, frozen));
                let found_seq = found.as_ref().map(|(seq, _)| *seq);
                prop_assert!(found_seq == durable || found_seq == Some(seq), "{:?}", found_seq);
                durable = found_seq;
                let Some((found, frozen)) = found else {
                    (state, client) = opened();
                    continue;
                };
                prop_assert_eq!(frozen.root(), roots[&found]);
                state = State::from_frozen(&frozen, StateLimits::default());
                state.check_invariants();
                client = known[&found].0.clone();
            }
        }
        seq += 1;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_edited_and_whenever_it_crashes_the_newest_checkpoint_is_there(seed in any::<u64>()) {
        history_with_crashes(seed)?;
    }
}

/// Loads from a damaged disk: the state is right, or an error says where the damage is.
fn expect_harmless(disk: &mut Disk, root: Digest) -> Option<LoadError> {
    let (_, found, mut errors) = disk.recover(SMALL);
    if let Some((manifest, frozen)) = found {
        assert_eq!(manifest.root, root);
        assert_eq!(frozen.root(), root);
    }
    errors.pop()
}

#[test]
fn damage_anywhere_is_found_or_harmless() {
    let mut random = Random(11);
    let (mut state, _) = filled(&mut random, 25, 1500);
    let (mut disk, mut store) = (Disk::endless(), PageStore::new(SMALL, [], []));
    let manifest = write(&mut disk, &mut store, 26, &state.freeze());
    let root = state.root();
    let live = check(&manifest, &mut disk).block_bytes;
    let mut found = 0u64;
    let numbers: Vec<_> = disk.pages.keys().copied().collect();
    for number in numbers {
        let length = disk.pages[&number].len();
        for at in (0..length).step_by(97).chain(0..64) {
            let mut damaged = disk.clone();
            damaged.pages.get_mut(&number).expect("it is there")[at] ^= 1 << random.below(8);
            let error = expect_harmless(&mut damaged, root);
            found += u64::from(error.is_some());
            if let Some(error) = error {
                assert!(error.to_string().contains(&format!("page file {number}")), "{error}");
            }
        }
        let mut cut = disk.clone();
        cut.pages.get_mut(&number).expect("it is there").truncate(length - 1);
        assert!(expect_harmless(&mut cut, root).is_some(), "the last block of each file lives");
    }
    assert!(live < manifest.bytes() && found > 1000, "{found}");
    let (number, bytes) =
        disk.manifests.iter().next().map(|(number, bytes)| (*number, bytes.clone())).expect("one");
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << random.below(8);
        assert!(Manifest::decode(&damaged).is_err(), "byte {at} of the manifest");
        assert!(Manifest::decode(&bytes[..at]).is_err(), "{at} bytes of the manifest");
    }
    assert_eq!(Manifest::decode(&bytes).expect("undamaged").number, number);
}

#[test]
fn an_older_checkpoint_serves_when_the_newest_is_damaged() {
    let mut random = Random(4);
    let (mut state, mut client) = filled(&mut random, 30, 1500);
    let (mut disk, mut store) = (Disk::endless(), PageStore::new(SMALL, [], []));
    write(&mut disk, &mut store, 31, &state.freeze());
    let old = state.root();
    let operations = random.operations(3, 1500);
    header(&mut state, &mut client, 32, &operations);
    write(&mut disk, &mut store, 32, &state.freeze());
    let last = disk.pages.values_mut().next_back().expect("a file");
    let end = last.len();
    last[end - 1] ^= 1;
    let (mut store, found, errors) = disk.recover(SMALL);
    let (manifest, frozen) = found.expect("the older one");
    assert_eq!((manifest.root, errors.len()), (old, 1));
    // It goes on from there, and nothing of the damaged one is named again.
    let mut state = State::from_frozen(&frozen, StateLimits::default());
    client.next -= 1;
    header(&mut state, &mut client, 32, &operations);
    let manifest = write(&mut disk, &mut store, 32, &state.freeze());
    check(&manifest, &mut disk);
    assert_eq!(load(&mut disk).2.root(), state.root());
}

#[test]
fn files_do_not_grow_with_time() {
    let mut random = Random(6);
    let (mut state, mut client) = filled(&mut random, 40, 2000);
    let (mut disk, mut store) = (Disk::endless(), PageStore::new(SMALL, [], []));
    let (mut most, mut both) = (0, 0);
    for seq in 42..240 {
        // A few neighbouring keys change often, a few others seldom: files age differently.
        let count = if seq % 7 == 0 { 300 } else { 5 };
        let operations = random.operations(count, 2000);
        header(&mut state, &mut client, seq, &operations);
        let manifest = write(&mut disk, &mut store, seq, &state.freeze());
        let figures = check(&manifest, &mut disk);
        let bytes: u64 = disk.pages.values().map(|bytes| bytes.len() as u64).sum();
        most = most.max(bytes * 100 / figures.block_bytes);
        assert!(disk.manifests.len() <= 2);
        both += u32::from(disk.manifests.len() == 2);
    }
    assert!(most > 150, "what is dead is not written again at once: {most} % of what is live");
    assert!(both > 150, "two manifests are there most of the time: {both}");
}

/// Lines of 32 bytes, so that a difference can be found.
fn hex(bytes: &[u8]) -> String {
    let line = |chunk: &[u8]| chunk.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
    bytes.chunks(32).map(line).collect()
}

/// Files of an older build are read by a newer one: a change here needs a new version.
#[test]
fn the_format_of_files_has_not_changed() {
    let (mut disk, mut store) = (Disk::endless(), PageStore::new(SMALL, [], []));
    let mut state = State::new([[1; 32]]);
    state.note_header(Seq(2), Digest([3; 32]), Nanoseconds(4));
    write(&mut disk, &mut store, 2, &state.freeze());
    let file = disk.pages.values().next().expect("one");
    expect![[r#"
        71756f7261746520706167657320310a01000000954ba7d00000000000000000
        8e00000001000000f4c3aab10803000200020000000000000000280000000000
        0303030303030303030303030303030303030303030303030303030303030303
        0400000000000000220000000000000000000000000000000201010101010101
        0101010101010101010101010101010101010101010101010102000000000000
        0000000010000000000702000000000000000400000000000000
    "#]]
    .assert_eq(&hex(file));
    expect![[r#"
        71756f72617465206d616e696665737402000000000100000000000000020000
        0000000000070707070707070707070707070707070707070707070707070707
        0707070707d0070000000000005219d7274c28765b2355b835c0b25bd33021e7
        c243d9c15b2387b9c487fee74401000000014f1b5d60383192701c81f9cfe0fe
        807a1845cf2432e9751bb8319dde2b44493e01000000200000009a0000000100
        000001000000ba0000009a0000000500000001010101010000000073e81f35
    "#]]
    .assert_eq(&hex(disk.manifests.values().next().expect("one")));

    let (state, _) = filled(&mut Random(1), 12, 300);
    let (mut disk, mut store) = (Disk::endless(), PageStore::new(SMALL, [], []));
    write(&mut disk, &mut store, 13, &state.freeze());
    let all: Vec<u8> = disk.pages.into_values().flatten().collect();
    let digest = Digest::of(quorate_types::Domain::TreeValue, &all);
    expect!["135279 bytes, f095c4b8d75da160416fba88e4a1ea4c0d14e3f21eab34bfbef5308acf9738e1"]
        .assert_eq(&format!("{} bytes, {digest}", all.len()));
}
