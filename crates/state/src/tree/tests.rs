//! The tree against an ordered map, over long random histories.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::window::Window;

type Model = BTreeMap<Vec<u8>, (Vec<u8>, u64)>;

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<u8>, Vec<u8>),
    Append(Vec<u8>, Vec<u8>),
    Remove(Vec<u8>),
    RemoveRange(Vec<u8>, usize),
    Range(Vec<u8>, Vec<u8>),
    Digest,
    Freeze,
}

impl Step {
    /// The key that the step is about, if it is about one.
    fn key(&self) -> &[u8] {
        match self {
            Self::Put(key, _) | Self::Append(key, _) | Self::Remove(key) => key,
            Self::RemoveRange(key, _) | Self::Range(key, _) => key,
            Self::Digest | Self::Freeze => &[],
        }
    }
}

/// Keys that share prefixes, are prefixes of each other, differ in trailing zeros, or are very long.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => (0u32..4000).prop_map(|number| format!("user:{number:08}").into_bytes()),
        3 => prop::collection::vec(0u8..3, 0..12),
        2 => (0u8..4, 0usize..1025).prop_map(|(byte, length)| vec![byte; length]),
        2 => (0u16..300).prop_map(|number| {
            let mut key = vec![b'k'; 1000];
            key.extend(number.to_be_bytes());
            key
        }),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![6 => 0usize..120, 3 => 900usize..1200, 1 => 1020usize..5000];
    (any::<u8>(), length).prop_map(|(byte, length)| vec![byte; length])
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        60 => (key(), value()).prop_map(|(key, value)| Step::Put(key, value)),
        10 => (key(), value()).prop_map(|(key, value)| Step::Append(key, value)),
        25 => key().prop_map(Step::Remove),
        2 => (key(), 0usize..200).prop_map(|(key, count)| Step::RemoveRange(key, count)),
        5 => (key(), key()).prop_map(|(start, end)| Step::Range(start, end)),
        1 => Just(Step::Digest),
        1 => Just(Step::Freeze),
    ]
}

fn contents(tree: &Tree) -> Vec<(Vec<u8>, Vec<u8>, u64)> {
    tree.range(&[], &[]).map(|(key, entry)| (key.to_vec(), entry.value.to_vec(), entry.version)).collect()
}

fn listed(model: &Model) -> Vec<(Vec<u8>, Vec<u8>, u64)> {
    model.iter().map(|(key, (value, version))| (key.clone(), value.clone(), *version)).collect()
}

fn digest(tree: &Tree) -> Digest {
    tree.digest(&mut Vec::new())
}

#[derive(Default)]
struct Pair {
    tree: Tree,
    model: Model,
    frozen: Vec<(Tree, Model, Option<Digest>)>,
}

impl Pair {
    fn apply(&mut self, version: u64, step: &Step) {
        match step {
            Step::Put(key, value) => {
                let old = self.model.insert(key.clone(), (value.clone(), version));
                let change = self.tree.put(key, version, value);
                assert_eq!(change.before, old.map(|(value, _)| value.len()));
                assert_eq!(change.after, Some(value.len()));
            }
            Step::Append(key, suffix) => {
                let entry = self.model.entry(key.clone()).or_default();
                entry.0.extend_from_slice(suffix);
                entry.1 = version;
                let change = self.tree.edit(key, version, |_| Edit::Append(suffix));
                assert_eq!(change.after, Some(entry.0.len()));
            }
            Step::Remove(key) => self.remove(key),
            Step::RemoveRange(start, count) => {
                let keys: Vec<_> =
                    self.model.range(start.clone()..).take(*count).map(|(key, _)| key.clone()).collect();
                for key in keys {
                    self.remove(&key);
                }
            }
            Step::Range(start, end) => self.range(start, end),
            Step::Digest => {
                digest(&self.tree);
            }
            Step::Freeze => {
                let seen = version.is_multiple_of(2).then(|| digest(&self.tree));
                self.frozen.push((self.tree.clone(), self.model.clone(), seen));
            }
        }
    }

    /// As [`Pair::apply`], but the tree alone.
    fn repeat(&mut self, version: u64, step: &Step) {
        match step {
            Step::Put(key, value) => {
                self.tree.put(key, version, value);
            }
            Step::Append(key, suffix) => {
                self.tree.edit(key, version, |_| Edit::Append(suffix));
            }
            Step::Remove(key) => {
                self.tree.remove(key);
            }
            Step::RemoveRange(start, count) => {
                let keys: Vec<_> =
                    self.tree.range(start, &[]).take(*count).map(|(key, _)| key.to_vec()).collect();
                for key in keys {
                    self.tree.remove(&key);
                }
            }
            Step::Range(..) => {}
            Step::Digest => {
                digest(&self.tree);
            }
            Step::Freeze => self.frozen.push((self.tree.clone(), Model::new(), None)),
        }
    }

    fn remove(&mut self, key: &[u8]) {
        let old = self.model.remove(key);
        let change = self.tree.remove(key);
        assert_eq!(change.before, old.map(|(value, _)| value.len()));
        assert_eq!(change.after, None);
    }

    fn range(&self, start: &[u8], end: &[u8]) {
        let expected: Vec<_> = self
            .model
            .range(start.to_vec()..)
            .take_while(|(key, _)| end.is_empty() || key.as_slice() < end)
            .map(|(key, _)| key.clone())
            .collect();
        let found: Vec<_> = self.tree.range(start, end).map(|(key, _)| key.to_vec()).collect();
        assert_eq!(found, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_tree_agrees_with_an_ordered_map(steps in prop::collection::vec(step(), 1..2500)) {
        let mut pair = Pair::default();
        for (version, step) in steps.iter().enumerate() {
            pair.apply(version as u64, step);
            if version % 256 == 0 {
                pair.tree.check_invariants();
            }
        }
        pair.tree.check_invariants();
        prop_assert_eq!(contents(&pair.tree), listed(&pair.model));
        for (key, (value, version)) in &pair.model {
            prop_assert_eq!(pair.tree.get(key), Some(VersionedRef { value, version: *version }));
        }
        for (tree, model, seen) in &pair.frozen {
            tree.check_invariants();
            prop_assert_eq!(contents(tree), listed(model), "a frozen tree never changes");
            prop_assert!(seen.is_none_or(|seen| seen == digest(tree)));
        }
    }

    #[test]
    fn digests_and_frozen_copies_leave_no_trace_in_the_root(
        steps in prop::collection::vec(step(), 1..1500)
    ) {
        let (mut watched, mut plain) = (Pair::default(), Pair::default());
        for (version, step) in steps.iter().enumerate() {
            watched.apply(version as u64, step);
            if !matches!(step, Step::Digest | Step::Freeze) {
                plain.apply(version as u64, step);
            }
        }
        prop_assert_eq!(digest(&watched.tree), digest(&plain.tree));
    }

    /// Hints from before any number of edits, also of ones that split and join the very nodes that they name.
    #[test]
    fn a_stale_hint_changes_nothing(
        steps in prop::collection::vec((step(), any::<bool>()), 1..1500),
        ahead in 1usize..300,
    ) {
        let (mut hinted, mut plain) = (Pair::default(), Pair::default());
        for (chunk, steps) in steps.chunks(ahead).enumerate() {
            let mut window = Window::default();
            steps.iter().for_each(|(step, _)| window.push_system(step.key()));
            window.fill(&hinted.tree, &[], true);
            for (at, (step, is_hinted)) in steps.iter().enumerate() {
                let version = (chunk * ahead + at) as u64;
                let (key, hint) = window.key(at);
                prop_assert_eq!(key, step.key());
                prop_assert_eq!(hinted.tree.get_hinted(key, hint), hinted.tree.get(key));
                plain.apply(version, step);
                let change = match step {
                    Step::Put(_, value) if *is_hinted => {
                        hinted.tree.edit_hinted(key, hint, version, |_| Edit::Put(value))
                    }
                    Step::Append(_, suffix) if *is_hinted => {
                        hinted.tree.edit_hinted(key, hint, version, |_| Edit::Append(suffix))
                    }
                    Step::Remove(_) if *is_hinted => hinted.tree.edit_hinted(key, hint, 0, |_| Edit::Remove),
                    other => {
                        hinted.repeat(version, other);
                        continue;
                    }
                };
                prop_assert_eq!(change.after, plain.tree.get(key).map(|entry| entry.value.len()));
            }
            hinted.tree.check_invariants();
        }
        prop_assert_eq!(contents(&hinted.tree), listed(&plain.model));
        prop_assert_eq!(digest(&hinted.tree), digest(&plain.tree));
    }

    #[test]
    fn any_difference_in_content_shows_in_the_root(
        steps in prop::collection::vec(step(), 1..600),
        pick in any::<prop::sample::Index>(),
    ) {
        let mut pair = Pair::default();
        for (version, step) in steps.iter().enumerate() {
            pair.apply(version as u64, step);
        }
        prop_assume!(!pair.model.is_empty());
        let before = digest(&pair.tree);
        let (key, (value, version)) = pair.model.iter().nth(pick.index(pair.model.len())).unwrap();
        let mut changed = pair.tree.clone();
        changed.put(key, version + 1, value);
        prop_assert_ne!(digest(&changed), before, "a version");
        changed.put(key, *version, value);
        prop_assert_eq!(digest(&changed), before, "the same again");
        changed.put(key, *version, &[&value[..], &[0]].concat());
        prop_assert_ne!(digest(&changed), before, "a value");
        changed.remove(key);
        prop_assert_ne!(digest(&changed), before, "a key");
    }
}

#[test]
fn many_levels_grow_and_shrink_back_to_nothing() {
    let mut tree = Tree::default();
    let empty = digest(&tree);
    // Long separators, so that inner nodes are split by weight long before they have many children.
    let key = |number: u32| {
        let mut key = vec![b'k'; 1000];
        key.extend(number.wrapping_mul(0x9E37_79B9).to_be_bytes());
        key
    };
    for number in 0..6000 {
        tree.put(&key(number), 1, &[7; 1024]);
    }
    tree.check_invariants();
    assert!(tree.height >= 4, "{} levels", tree.height);
    let frozen = tree.clone();
    for number in 0..6000 {
        tree.remove(&key(number));
        if number % 500 == 0 {
            tree.check_invariants();
        }
    }
    assert_eq!(digest(&tree), empty);
    assert_eq!(tree.height, 1);
    frozen.check_invariants();
    assert_eq!(contents(&frozen).len(), 6000);
}

#[test]
fn a_shared_value_has_the_digest_of_an_owned_one() {
    for length in [0, 1024, 1025, 70_000] {
        let bytes = vec![3; length];
        let (mut owned, mut shared) = (Tree::default(), Tree::default());
        owned.put(b"key", 1, &bytes);
        let value = Shared { bytes: bytes.clone().into(), digest: Digest::ZERO };
        shared.put_shared(b"key", 1, &value);
        assert_eq!(digest(&owned), digest(&shared));
        assert_eq!(shared.shared(b"key").is_some(), length > 1024);
        owned.edit(b"key", 2, |_| Edit::Append(b"tail"));
        shared.edit(b"key", 2, |_| Edit::Append(b"tail"));
        assert_eq!(digest(&owned), digest(&shared));
        shared.check_invariants();
    }
}

#[test]
fn bodies_that_grow_and_shrink_in_turn_keep_the_heap_small() {
    let mut tree = Tree::default();
    for round in 0..40u64 {
        for number in 0..60u8 {
            tree.put(&[number], round, &[1; 1024]);
            tree.put(&[number], round, &[1]);
        }
        tree.check_invariants();
    }
}
