//! Damaged page files: what is intact of them is used and given to others, and what is lacking comes from those who have
//! it, though all are damaged.

use std::sync::Arc;

use proptest::prelude::*;
use quorate_state::{
    Frozen, Known, Manifest, NotWhole, PageAnswer, PageRequest, PageStore, Restored, Salvage, State,
    StoreOptions, Transfer, TransferOptions, verify,
};
use quorate_types::{Digest, Nanoseconds, ReplicaId, Seq};

use crate::checkpoints::filled;
use crate::disk::{Disk, head};
use crate::random::Random;

const OPTIONS: StoreOptions = StoreOptions { file_bytes_max: 96 * 1024, write_bytes: 8 * 1024 };
const ASKING: TransferOptions = TransferOptions {
    request_bytes: 100 * 1024,
    requests_per_peer: 2,
    patience: Nanoseconds(1000),
    share_after: Nanoseconds(500),
    pause: Nanoseconds(10),
};
const SEQ: u64 = 61;
/// Each replica's damage lies in stripes of its own, which are longer than any block: no block is bad on all of them.
const STRIPE_BYTES: usize = 16 * 1024;
const REPLICAS: usize = 4;

/// The disk of a replica that has a checkpoint and what it holds, after others that it has outlived.
fn disk(seed: u64) -> (Disk, Manifest, u64) {
    let (mut state, _) = filled(&mut Random(seed), SEQ - 1, 3000);
    let (mut disk, mut store) = (Disk::endless(), PageStore::new(OPTIONS, [], []));
    let checkpoint = store.begin(head(SEQ - 1), &state.freeze());
    disk.carry_out(&mut store, checkpoint).expect("no crash");
    state.note_header(Seq(SEQ), Digest([8; 32]), Nanoseconds(SEQ));
    let checkpoint = store.begin(head(SEQ), &state.freeze());
    let manifest = disk.carry_out(&mut store, checkpoint).expect("no crash");
    let blocks = verify(&manifest, &mut disk).expect("it is whole").blocks;
    (disk, manifest, blocks)
}

fn restore(disk: &mut Disk, certificate: u64) -> (PageStore, Restored) {
    let lengths: Vec<_> = disk.pages.iter().map(|(number, bytes)| (*number, bytes.len() as u64)).collect();
    let mut store = PageStore::new(OPTIONS, lengths, disk.manifests.keys().copied());
    let manifests: Vec<Manifest> =
        disk.manifests.values().map(|bytes| Manifest::decode(bytes).expect("it is whole")).collect();
    let known = Known { certificate: Some(Seq(certificate)), upto: Seq(certificate) };
    let restored = store.restore(manifests, false, known, disk).expect("nothing refuses");
    (store, restored)
}

/// What a replica answers from.
enum Shelf {
    Whole(Frozen),
    Salvage(Arc<Salvage>),
}

impl Shelf {
    fn of(restored: Restored) -> Self {
        match restored.whole {
            Some((_, frozen)) => Self::Whole(frozen),
            None => Self::Salvage(restored.salvage.expect("what is intact")),
        }
    }

    fn answer(&self, request: &PageRequest) -> PageAnswer {
        match self {
            Self::Whole(frozen) => {
                let _ = frozen.root();
                frozen.answer(request, ASKING.request_bytes)
            }
            Self::Salvage(salvage) => salvage.answer(request, ASKING.request_bytes),
        }
    }
}

/// Fetches the state at `me` from the others; the number of pages and values that came from them.
fn fetch(shelves: &[Shelf], me: usize, root: Digest) -> u64 {
    let Shelf::Salvage(own) = &shelves[me] else { return 0 };
    let mut transfer = Transfer::new(root, ASKING);
    transfer.reuse_salvage(Arc::clone(own));
    for now in (0..10_000).map(|turn| Nanoseconds(turn * ASKING.pause.0)) {
        for (peer, shelf) in (0u8..).zip(shelves).filter(|(peer, _)| usize::from(*peer) != me) {
            while let Some(request) = transfer.request(now, ReplicaId(peer)) {
                let answer = shelf.answer(&request);
                transfer.on_answer(now, ReplicaId(peer), &answer).expect("no lie");
            }
        }
        if transfer.is_finished() {
            let fetched = transfer.figures().pages;
            assert_eq!(transfer.finish().expect("a sound state").root(), root);
            return fetched;
        }
    }
    panic!("it is never whole: {transfer:?}");
}

#[test]
fn one_bad_block_costs_one_page_wherever_it_is() {
    let (whole, manifest, blocks) = disk(3);
    let root = manifest.roots[0].address;
    // A byte of the root's head (its length), of its addresses and of its page; then of the first block of a file.
    for (file, at) in
        [(root.file, root.offset), (root.file, root.offset + 13), (root.file, root.offset + root.bytes - 1)]
            .into_iter()
            .chain(manifest.files.iter().map(|file| (file.number, 32 + 20)))
    {
        let mut damaged = whole.clone();
        damaged.pages.get_mut(&file).expect("it is there")[at as usize] ^= 0x80;
        let (store, restored) = restore(&mut damaged, SEQ);
        if restored.whole.is_some() {
            assert!(store.has_set_aside() != restored.damaged.is_empty(), "nothing lives there");
            continue;
        }
        assert_eq!(restored.broken.as_ref(), Some(&manifest));
        let mut shelves = vec![Shelf::of(restored)];
        let (_, other) = restore(&mut whole.clone(), SEQ);
        shelves.push(Shelf::of(other));
        let fetched = fetch(&shelves, 0, manifest.root);
        assert_eq!(fetched, 1, "of {blocks} blocks, with the one at {at} of {file} bad");
    }
}

#[test]
fn a_file_that_is_gone_costs_what_is_in_it() {
    let (whole, manifest, _) = disk(4);
    let mut damaged = whole.clone();
    let last = manifest.files.last().expect("several").number;
    damaged.pages.remove(&last);
    let (store, restored) = restore(&mut damaged, SEQ);
    assert!(store.has_set_aside() && restored.broken.is_some(), "{:?}", restored.damaged);
    let (_, other) = restore(&mut whole.clone(), SEQ);
    let shelves = [Shelf::of(restored), Shelf::of(other)];
    assert!(fetch(&shelves, 0, manifest.root) > 1);
}

#[test]
fn an_older_checkpoint_is_no_substitute_for_a_certified_one() {
    let (whole, manifest, _) = disk(5);
    let root = manifest.roots[0].address;
    let mut damaged = whole.clone();
    damaged.pages.get_mut(&root.file).expect("it is there")[root.offset as usize + 9] ^= 1;
    let (_, restored) = restore(&mut damaged, SEQ);
    assert!(restored.whole.is_none() && restored.broken.is_some());
    // Where the logs lead on from the older one, it is.
    let (store, restored) = restore(&mut damaged, SEQ - 1);
    assert_eq!(restored.whole.expect("it is whole").0.head.seq, Seq(SEQ - 1));
    assert!(restored.broken.is_none() && restored.may_tidy);
    assert!(store.has_set_aside(), "this replica has voted for the other one");
    assert!(State::new([]).freeze().known_root().is_none());
}

/// Before anybody has said what is certified, the state that it has begun with is not.
#[test]
fn a_state_that_nobody_has_certified_takes_the_place_of_nothing_that_cannot_be_read() {
    let (mut disk, newest, _) = disk(6);
    let lengths: Vec<_> = disk.pages.iter().map(|(number, bytes)| (*number, bytes.len() as u64)).collect();
    let mut store = PageStore::new(OPTIONS, lengths, disk.manifests.keys().copied());
    let unreadable = *disk.manifests.keys().find(|number| **number != newest.number).expect("an older one");
    let known = Known { certificate: Some(Seq(SEQ - 1)), upto: Seq(SEQ - 1) };
    let restored = store.restore([newest], true, known, &mut disk).expect("nothing refuses");
    let (_, frozen) = restored.whole.expect("it is whole");
    let mut state = State::from_frozen(&frozen, quorate_types::StateLimits::default());
    state.note_header(Seq(SEQ + 1), Digest([9; 32]), Nanoseconds(SEQ + 1));
    let checkpoint = store.begin(head(SEQ + 1), &state.freeze());
    disk.carry_out(&mut store, checkpoint).expect("no crash");
    assert!(store.has_set_aside() && disk.manifests.contains_key(&unreadable));
    let removal = store.keep_states(&[Seq(SEQ)]);
    disk.remove(&removal).expect("no crash");
    assert!(!store.has_set_aside() && !disk.manifests.contains_key(&unreadable), "it is certified");
}

/// What is intact in the page files of a disk.
fn gather(disk: &mut Disk) -> Salvage {
    let length = |bytes: &Vec<u8>| u32::try_from(bytes.len()).expect("small files");
    let files = disk.pages.iter().map(|(number, bytes)| (*number, length(bytes))).collect();
    let manifests: Vec<Manifest> =
        disk.manifests.values().map(|bytes| Manifest::decode(bytes).expect("it is whole")).collect();
    Salvage::gather(&files, manifests.iter(), disk).expect("nothing refuses")
}

#[test]
fn a_state_is_put_together_from_what_is_intact_in_several_places() {
    let (whole, manifest, _) = disk(6);
    let root = manifest.roots[0].address;
    // Of one the root node, of the other the first block of each file.
    let heads: Vec<_> = manifest.files.iter().map(|file| (file.number, 32)).collect();
    let mut places = Vec::new();
    let mut copies = [vec![(root.file, root.offset)], heads].map(|bad| {
        let mut copy = whole.clone();
        for (file, offset) in &bad {
            copy.pages.get_mut(file).expect("it is there")[*offset as usize + 14] ^= 1;
        }
        places.push(bad);
        copy
    });
    let [first, second] = copies.each_mut().map(gather);
    let named = |found: &Salvage| -> Vec<_> { found.damaged().map(|at| (at.file, at.offset)).collect() };
    assert_eq!(named(&first), places[0]);
    let (lost, stale): (Vec<_>, Vec<_>) =
        named(&second).into_iter().partition(|place| places[1].contains(place));
    assert!(!lost.is_empty() && stale.is_empty(), "{lost:?} {stale:?}");
    let lacks = |found: &Arc<Salvage>| match found.assemble(manifest.root) {
        Err(NotWhole::Lacks(pages)) => pages.len(),
        other => panic!("{other:?}"),
    };
    let (first, mut both) = (Arc::new(first), second);
    assert_eq!(lacks(&first), 1, "its root node");
    assert_eq!(
        Arc::new(gather(&mut copies[0])).assemble(Digest([3; 32])).unwrap_err(),
        NotWhole::Lacks(vec![])
    );
    both.add(gather(&mut copies[0]));
    let both = Arc::new(both);
    assert_eq!(both.assemble(manifest.root).expect("each page is intact somewhere").root(), manifest.root);
    // The same block is bad everywhere.
    copies[1] = copies[0].clone();
    let mut same = gather(&mut copies[1]);
    same.add(gather(&mut copies[0]));
    assert_eq!(lacks(&Arc::new(same)), 1);
}

/// It is all that a new cluster can begin with, where so many are learners that none is certified any more.
#[test]
fn a_learner_that_goes_on_from_a_state_that_nobody_has_certified_keeps_the_one_that_somebody_has() {
    let (mut state, _) = filled(&mut Random(8), SEQ - 1, 3000);
    let (mut disk, mut store) = (Disk::endless(), PageStore::new(OPTIONS, [], []));
    let write = |disk: &mut Disk, store: &mut PageStore, seq: u64, state: &mut State| {
        state.note_header(Seq(seq), Digest([8; 32]), Nanoseconds(seq));
        let checkpoint = store.begin(head(seq), &state.freeze());
        disk.carry_out(store, checkpoint).expect("no crash")
    };
    let certified = write(&mut disk, &mut store, SEQ, &mut state);
    write(&mut disk, &mut store, SEQ + 1, &mut state);
    let manifests: Vec<Manifest> =
        disk.manifests.values().map(|bytes| Manifest::decode(bytes).expect("it is whole")).collect();
    let lengths: Vec<_> = disk.pages.iter().map(|(number, bytes)| (*number, bytes.len() as u64)).collect();
    let mut store = PageStore::new(OPTIONS, lengths, disk.manifests.keys().copied());
    let known = Known { certificate: Some(Seq(SEQ)), upto: Seq(u64::MAX) };
    let restored = store.restore(manifests, false, known, &mut disk).expect("nothing refuses");
    let (newest, frozen) = restored.whole.expect("it is whole");
    assert_eq!(newest.head.seq, Seq(SEQ + 1));
    let tidied = store.unneeded();
    disk.remove(&tidied).expect("no crash");
    // As far as it knows, a restart goes on from what it has begun with, or from the beginning.
    let mut state = State::from_frozen(&frozen, quorate_types::StateLimits::default());
    let removal = store.keep_states(&[Seq(0), Seq(SEQ + 1)]);
    disk.remove(&removal).expect("no crash");
    for seq in SEQ + 2..SEQ + 6 {
        write(&mut disk, &mut store, seq, &mut state);
        verify(&certified, &mut disk).expect("it is there");
        assert!(disk.manifests.contains_key(&certified.number));
    }
    let removal = store.keep_states(&[Seq(SEQ + 4), Seq(SEQ + 5)]);
    disk.remove(&removal).expect("no crash");
    assert!(!disk.manifests.contains_key(&certified.number), "a newer one is certified");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn all_are_damaged_and_all_have_their_state_again(seed in 0u64..1000, flips in 1usize..40, cut in any::<bool>()) {
        let (whole, manifest, blocks) = disk(seed % 7);
        let mut random = Random(seed);
        let shelves: Vec<Shelf> = (0..REPLICAS)
            .map(|replica| {
                let mut disk = whole.clone();
                for bytes in disk.pages.values_mut() {
                    for _ in 0..flips {
                        let at = random.below(bytes.len());
                        if at >= 32 && at / STRIPE_BYTES % REPLICAS == replica {
                            bytes[at] ^= 1 << random.below(8);
                        }
                    }
                    if cut && replica == 0 {
                        bytes.truncate(bytes.len().min(STRIPE_BYTES));
                    }
                }
                Shelf::of(restore(&mut disk, SEQ).1)
            })
            .collect();
        for (replica, shelf) in shelves.iter().enumerate() {
            let Shelf::Salvage(salvage) = shelf else { continue };
            let fetched = fetch(&shelves, replica, manifest.root);
            prop_assert!(fetched <= blocks, "{fetched} of {blocks}");
            prop_assert!(salvage.blocks() as u64 + fetched >= blocks, "what is intact is used");
        }
    }
}
