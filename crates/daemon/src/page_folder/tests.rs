//! The folder with real files.

use super::*;
use quorate_state::State;
use quorate_types::{Digest, LaneId, LaneNumber, LinkId, Nanoseconds, ReplicaId, Seq};

pub(crate) fn head(seq: u64) -> CheckpointHead {
    let digest = Digest([3; 32]);
    CheckpointHead { seq: Seq(seq), digest, timestamp: Nanoseconds(seq), certificate: vec![4; 9] }
}

/// A state of a few hundred pages.
pub(crate) fn state() -> State {
    let client = |number: u32| {
        let mut key = [0; 32];
        key[28..].copy_from_slice(&number.wrapping_mul(2_654_435_761).to_be_bytes());
        key
    };
    State::new((0..20_000).map(client))
}

pub(crate) fn change(state: &mut State, number: u64) {
    let lane = LaneId { origin: ReplicaId(1), link: LinkId(0) };
    state.note_lane_tip(lane, LaneNumber(number), Digest([5; 32]));
    state.note_header(Seq(number), Digest([6; 32]), Nanoseconds(number));
}

fn write(folder: &mut PageFolder, store: &mut PageStore, seq: u64, state: &Frozen) -> Manifest {
    let mut checkpoint = store.begin(head(seq), state);
    loop {
        match checkpoint.advance(store) {
            Progress::Remove(removal) => folder.remove(&removal).unwrap(),
            Progress::Write(write) => folder.write(&write).unwrap(),
            Progress::Pause => {}
            Progress::Finished => break,
        }
    }
    folder.sync(checkpoint.files_written()).unwrap();
    let manifest = checkpoint.manifest(store);
    folder.commit(&manifest).unwrap();
    folder.remove(&store.on_durable(checkpoint)).unwrap();
    manifest
}

fn found(path: &Path) -> (PageFolder, Found) {
    found_upto(path, u64::MAX)
}

fn found_upto(path: &Path, certified: u64) -> (PageFolder, Found) {
    let mut folder = PageFolder::open(path, true).unwrap();
    let (found, _) = settled(&mut folder, upto(certified));
    (folder, found)
}

/// As a start does it; also the manifests that it has mended.
pub(crate) fn settled(folder: &mut PageFolder, known: Known) -> (Found, Vec<u64>) {
    let mut found = find(folder, StoreOptions::default(), known).unwrap();
    let mended = found.settle(folder).unwrap();
    (found, mended)
}

pub(crate) fn upto(seq: u64) -> Known {
    Known { certificate: None, upto: Seq(seq) }
}

fn certified(seq: u64) -> Known {
    Known { certificate: Some(Seq(seq)), upto: Seq(seq) }
}

/// Flips a bit of a file.
fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

#[test]
fn what_was_written_is_found_again_and_continued() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pages");
    let mut state = state();
    let (mut pages, Found { mut store, restored: Restored { whole: none, .. }, .. }) = found(&path);
    assert!(none.is_none());
    for seq in 1..=4 {
        change(&mut state, seq);
        write(&mut pages, &mut store, seq, &state.freeze());
    }
    drop((pages, store));
    std::fs::write(path.join("manifest-00000009.new"), b"unfinished").unwrap();
    std::fs::write(path.join("pages-00000077"), b"of no checkpoint").unwrap();
    let (mut pages, Found { mut store, restored: Restored { whole: latest, .. }, damaged, .. }) =
        found(&path);
    assert!(damaged.is_empty());
    let (manifest, frozen) = latest.unwrap();
    assert_eq!((manifest.head.clone(), manifest.root), (head(4), state.root()));
    assert_eq!(frozen.root(), state.root());
    let listing = pages.list().unwrap();
    assert_eq!((listing.manifests, listing.pages.len(), listing.unfinished), (vec![3, 4], 1, vec![]));
    // Only what changes is written, to a new file.
    let mut state = State::from_frozen(&frozen, quorate_types::StateLimits::default());
    change(&mut state, 5);
    let next = write(&mut pages, &mut store, 5, &state.freeze());
    assert!(next.bytes() - manifest.bytes() < 100_000);
    let (verified, figures) = verify_checkpoint(&mut pages, next.number).unwrap();
    assert_eq!(verified, next);
    assert!(figures.blocks > 100);
}

#[test]
fn a_restart_goes_on_from_what_others_have_certified() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = state();
    let (mut pages, Found { mut store, .. }) = found_upto(folder.path(), 0);
    let mut roots = Vec::new();
    for seq in 1..=4 {
        change(&mut state, seq);
        write(&mut pages, &mut store, seq, &state.freeze());
        roots.push(state.root());
        pages.remove(&store.keep_states(&[Seq(1), Seq(seq.saturating_sub(1).max(1)), Seq(seq)])).unwrap();
    }
    let left = pages.list().unwrap().manifests;
    assert_eq!(left, [1, 3, 4], "the certified one stays, and the newest two");
    let (mut pages, Found { mut store, restored: Restored { whole: certified, .. }, damaged, .. }) =
        found_upto(folder.path(), 1);
    assert!(damaged.is_empty());
    let (manifest, frozen) = certified.unwrap();
    assert_eq!((manifest.head.seq, frozen.root()), (Seq(1), roots[0]));
    let left = pages.list().unwrap().manifests;
    assert_eq!(left, [1, 3, 4], "what was voted for stays until it is certified, and is written again");
    assert_eq!([1, 2, 3, 4, 5].map(|seq| store.is_owed(Seq(seq))), [false, false, true, true, false]);
    let mut state = State::from_frozen(&frozen, quorate_types::StateLimits::default());
    for seq in 2..=4 {
        change(&mut state, seq);
        write(&mut pages, &mut store, seq, &state.freeze());
        assert_eq!(state.root(), roots[usize::try_from(seq).unwrap() - 1]);
    }
    pages.remove(&store.keep_states(&[Seq(3), Seq(4)])).unwrap();
    assert_eq!(pages.list().unwrap().manifests, [6, 7], "what is written again takes its place");
    pages.remove(&store.keep_states(&[Seq(4)])).unwrap();
    assert!(!store.is_owed(Seq(4)));
    change(&mut state, 5);
    write(&mut pages, &mut store, 5, &state.freeze());
    assert_eq!(pages.list().unwrap().manifests, [7, 8]);
    let (pages, Found { restored: Restored { whole: none, .. }, .. }) = found_upto(folder.path(), 0);
    assert!(none.is_none(), "nothing is certified: the log has everything");
    assert_eq!(pages.list().unwrap().manifests, [7, 8], "which shows with the next checkpoint");
}

/// While nothing is certified, whoever starts again and again writes its states each time.
#[test]
fn what_is_written_again_at_each_start_takes_no_more_room() {
    let folder = tempfile::tempdir().unwrap();
    let (_, Found { mut store, .. }) = found_upto(folder.path(), 0);
    let mut pages = PageFolder::open(folder.path(), true).unwrap();
    let mut state = state();
    change(&mut state, 1);
    write(&mut pages, &mut store, 1, &state.freeze());
    for _ in 0..5 {
        let (mut pages, Found { mut store, restored: Restored { whole, .. }, .. }) =
            found_upto(folder.path(), 1);
        let limits = quorate_types::StateLimits::default();
        let mut state = State::from_frozen(&whole.unwrap().1, limits);
        for seq in 2..=4 {
            change(&mut state, seq);
            write(&mut pages, &mut store, seq, &state.freeze());
            pages.remove(&store.keep_states(&(1..=seq).map(Seq).collect::<Vec<_>>())).unwrap();
        }
        assert_eq!(pages.list().unwrap().manifests.len(), 4);
    }
}

#[test]
fn a_state_that_nobody_has_certified_serves_where_the_certified_one_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = state();
    let (mut pages, Found { mut store, .. }) = found_upto(folder.path(), 0);
    pages.remove(&store.keep_states(&[Seq(1)])).unwrap();
    for seq in 1..=2 {
        change(&mut state, seq);
        write(&mut pages, &mut store, seq, &state.freeze());
    }
    for copy in pages.manifest_copies(1) {
        std::fs::write(copy, b"no manifest").unwrap();
    }
    let (_, Found { restored: Restored { whole: found, .. }, damaged, .. }) = found_upto(folder.path(), 1);
    assert_eq!(found.unwrap().0.head.seq, Seq(2));
    assert_eq!(damaged.len(), 1);
}

#[test]
fn a_damaged_checkpoint_is_passed_over_and_kept_until_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = state();
    let (mut pages, Found { mut store, .. }) = found(folder.path());
    change(&mut state, 1);
    write(&mut pages, &mut store, 1, &state.freeze());
    let root = state.root();
    change(&mut state, 2);
    let damaged = write(&mut pages, &mut store, 2, &state.freeze());
    flip(&pages.page_file(damaged.files[0].number), u64::from(damaged.files[0].bytes) - 1);
    let (mut pages, Found { mut store, restored: Restored { whole: latest, .. }, damaged, .. }) =
        found(folder.path());
    let (manifest, frozen) = latest.unwrap();
    assert_eq!((manifest.number, frozen.root()), (1, root));
    let message = damaged[0].to_string();
    assert!(message.contains("manifest-00000002") && message.contains("page file 00000001"), "{message}");
    assert_eq!(pages.list().unwrap().manifests, [1, 2], "evidence is kept");
    let mut state = State::from_frozen(&frozen, quorate_types::StateLimits::default());
    change(&mut state, 2);
    write(&mut pages, &mut store, 2, &state.freeze());
    assert_eq!(pages.list().unwrap().manifests, [1, 2, 3], "nobody has said that it is certified");
    pages.remove(&store.keep_states(&[Seq(2)])).unwrap();
    assert_eq!(pages.list().unwrap().manifests, [1, 3]);
    assert!(found(folder.path()).1.damaged.is_empty());
}

#[test]
fn a_copy_needs_nothing_of_the_first() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut state = state();
    let (mut pages, Found { mut store, .. }) = found(from.path());
    change(&mut state, 1);
    let manifest = write(&mut pages, &mut store, 1, &state.freeze());
    let mut copy = PageFolder::open(to.path(), true).unwrap();
    let (mut last, mut total) = (0, 0);
    let copied = copy_checkpoint(&mut pages, &manifest, head(1), &mut copy, |done, of| {
        assert!(done >= last);
        (last, total) = (done, of);
    });
    assert_eq!((copied.unwrap().root, last), (manifest.root, total));
    from.close().unwrap();
    let (_, Found { restored: Restored { whole: latest, .. }, .. }) = found(to.path());
    assert_eq!(latest.unwrap().1.root(), state.root());
}

#[test]
fn errors_name_the_file_and_what_was_tried() {
    let folder = tempfile::tempdir().unwrap();
    let pages = PageFolder::open(folder.path(), true).unwrap();
    let message = pages.read_manifest(3).unwrap_err().to_string();
    assert!(message.contains("manifest-00000003") && message.starts_with("cannot look at "), "{message}");
    std::fs::write(pages.manifest_file(3), b"no manifest").unwrap();
    assert!(matches!(pages.read_manifest(3), Err(FolderError::Manifest { .. })));
}

#[test]
fn what_is_found_is_durable_before_the_replica_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = state();
    // Nothing of this is made durable.
    let mut pages = PageFolder::open(directory.path(), false).unwrap();
    let (Found { mut store, .. }, _) = settled(&mut pages, upto(0));
    for seq in 1..=2 {
        change(&mut state, seq);
        write(&mut pages, &mut store, seq, &state.freeze());
    }
    assert!(pages.made_durable.take().is_empty());
    let (pages, Found { restored: Restored { whole: latest, .. }, .. }) = found(directory.path());
    let (manifest, _) = latest.unwrap();
    let mut expected: Vec<_> = manifest.files.iter().map(|file| pages.page_file(file.number)).collect();
    expected.extend(pages.manifest_copies(manifest.number));
    expected.push(directory.path().to_owned());
    assert_eq!(pages.made_durable.take(), expected);
    let mut careless = PageFolder::open(directory.path(), false).unwrap();
    settled(&mut careless, upto(2));
    assert!(careless.made_durable.take().is_empty(), "a replica whose writes do not wait does not wait here");
}

#[test]
fn one_copy_of_a_manifest_is_enough_and_makes_the_other_good() {
    let directory = tempfile::tempdir().unwrap();
    let (mut pages, Found { mut store, .. }) = found(directory.path());
    let mut state = state();
    change(&mut state, 1);
    let manifest = write(&mut pages, &mut store, 1, &state.freeze());
    let [first, second] = pages.manifest_copies(manifest.number);
    let whole = std::fs::read(&first).unwrap();
    for (number, path) in [&first, &second].into_iter().enumerate() {
        if number == 0 {
            flip(path, 77)
        } else {
            std::fs::remove_file(path).unwrap()
        }
        let unfinished = unfinished(&first);
        std::fs::write(&unfinished, [7; 9]).unwrap();
        let before = [&first, &second].map(|path| std::fs::read(path).ok());
        let looked = find(&mut pages, StoreOptions::default(), upto(u64::MAX)).unwrap();
        assert!(looked.restored.whole.is_some() && unfinished.exists(), "whoever only looks changes nothing");
        assert_eq!([&first, &second].map(|path| std::fs::read(path).ok()), before);
        let (Found { restored, damaged, .. }, mended) = settled(&mut pages, upto(u64::MAX));
        assert!(!unfinished.exists());
        assert_eq!((restored.whole.unwrap().0, mended), (manifest.clone(), vec![manifest.number]));
        assert!(damaged.is_empty());
        assert_eq!(
            (std::fs::read(&first).unwrap(), std::fs::read(&second).unwrap()),
            (whole.clone(), whole.clone())
        );
    }
    assert!(settled(&mut pages, upto(u64::MAX)).1.is_empty());
}

#[test]
fn a_checkpoint_with_bad_pages_gives_what_is_intact_and_stays_until_a_certified_one_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let (mut pages, Found { mut store, .. }) = found_upto(directory.path(), 0);
    let mut state = state();
    change(&mut state, 5);
    let first = write(&mut pages, &mut store, 5, &state.freeze());
    let file = pages.page_file(first.files[0].number);
    flip(&file, u64::from(first.files[0].bytes) / 2);
    let damaged = std::fs::read(&file).unwrap();
    for _ in 0..2 {
        let (found, _) = settled(&mut pages, certified(5));
        let Restored { whole, broken, salvage, may_tidy, .. } = found.restored;
        assert!(whole.is_none() && !may_tidy, "a start after a start changes nothing");
        let broken = broken.unwrap();
        assert_eq!((&broken, broken.tips.len()), (&first, 1), "where it stands is known");
        let blocks = verify_count(&state);
        assert_eq!(salvage.unwrap().blocks(), blocks - 1, "one page is lost, and no other");
        assert_eq!(std::fs::read(&file).unwrap(), damaged);
        store = found.store;
    }
    // A state that nobody has certified takes the place of nothing.
    pages.remove(&store.keep_states(&[Seq(5)])).unwrap();
    change(&mut state, 6);
    let second = write(&mut pages, &mut store, 6, &state.freeze());
    assert!(store.has_set_aside() && pages.list().unwrap().manifests == [1, second.number]);
    pages.remove(&store.keep_states(&[Seq(6)])).unwrap();
    assert!(!store.has_set_aside() && pages.list().unwrap().manifests == [second.number]);
    assert!(!file.exists());
}

/// The number of blocks of a state.
fn verify_count(state: &State) -> usize {
    let directory = tempfile::tempdir().unwrap();
    let mut folder = PageFolder::open(directory.path(), false).unwrap();
    let manifest = write_checkpoint(&state.freeze(), head(1), &mut folder, |_| {}).unwrap();
    let (_, figures) = verify_checkpoint(&mut folder, manifest.number).unwrap();
    usize::try_from(figures.blocks).unwrap()
}

#[test]
fn what_is_whole_and_cannot_be_read_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (mut pages, Found { mut store, .. }) = found_upto(directory.path(), 0);
    let mut state = state();
    change(&mut state, 5);
    let manifest = write(&mut pages, &mut store, 5, &state.freeze());
    let all = |pages: &PageFolder| -> Vec<(PathBuf, Vec<u8>)> {
        let mut files: Vec<_> =
            fs::read_dir(pages.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap_or_default())).collect()
    };
    // A newer version, with a checksum that fits.
    let copies = pages.manifest_copies(manifest.number);
    let mut newer = manifest.encode();
    newer[16] = 9;
    let end = newer.len() - 4;
    let sum = crc32c::crc32c(&newer[..end]).to_le_bytes();
    newer[end..].copy_from_slice(&sum);
    for copy in &copies {
        fs::write(copy, &newer).unwrap();
    }
    let before = all(&pages);
    let refused = find(&mut pages, StoreOptions::default(), certified(5)).unwrap_err();
    assert!(!refused.is_damage() && refused.to_string().contains("version 9"), "{refused}");
    assert_eq!(all(&pages), before);
    // A file that cannot be opened, and not because it is gone: a name in the way stands for rights and limits.
    copies.iter().for_each(|copy| fs::write(copy, manifest.encode()).unwrap());
    let file = pages.page_file(manifest.files[0].number);
    let aside = directory.path().join("elsewhere");
    fs::rename(&file, &aside).unwrap();
    std::os::unix::fs::symlink(&file, &file).unwrap();
    let refused = find(&mut pages, StoreOptions::default(), certified(5)).unwrap_err();
    assert!(!refused.is_damage(), "{refused}");
    fs::remove_file(&file).unwrap();
    fs::rename(&aside, &file).unwrap();
    assert!(find(&mut pages, StoreOptions::default(), certified(5)).unwrap().restored.whole.is_some());
}
