//! The quota of the state: replicas agree on what there is room for, whatever way they came to the state.

use proptest::prelude::*;
use quorate_state::{PageStore, State, Transfer, VersionedRef};
use quorate_types::{KeyValue, Operation, OperationError, OperationResult, StateLimits};

use crate::checkpoints::{SMALL, header, write};
use crate::common::{Client, opened};
use crate::disk::Disk;
use crate::random::Random;
use crate::transfers;

/// Few keys, so that most writes meet an entry.
const KEYS: usize = 60;

/// As [`Random::operations`], and writes of several keys, some of them twice.
fn operations(random: &mut Random) -> Vec<Operation> {
    let mut operations = random.operations(20, KEYS);
    let entry = |random: &mut Random| KeyValue {
        key: format!("key:{:06}", random.below(KEYS)).into_bytes(),
        value: vec![b'm'; random.below(300)],
    };
    let entries = (0..random.below(6)).map(|_| entry(random)).collect();
    operations.push(Operation::MultiSet { entries });
    operations
}

/// The same state, taken over from others.
fn transferred(state: &mut State, limits: StateLimits) -> State {
    let root = state.root();
    let mut transfer = Transfer::new(root, transfers::SMALL);
    transfers::Network::new(&[transfers::Manner::Honest; 3], &state.freeze(), 1).run(&mut transfer);
    State::from_frozen(&transfer.finish().expect("a sound state"), limits)
}

/// The same state, found on the disk.
fn loaded(state: &State, seq: u64, limits: StateLimits) -> State {
    let (mut disk, mut store) = (Disk::endless(), PageStore::new(SMALL, [], []));
    write(&mut disk, &mut store, seq, &state.freeze());
    let (_, found, errors) = disk.recover(SMALL);
    assert!(errors.is_empty(), "{errors:?}");
    State::from_frozen(&found.expect("a checkpoint").1, limits)
}

/// Another cluster that begins with the same entries, and a client of it.
fn restored(state: &State, client: &Client, limits: StateLimits) -> (State, Client) {
    let frozen = state.freeze();
    let mut client = Client::new(1, client.nonce.0[0].wrapping_add(1));
    let entries = frozen.user_entries().map(|(key, entry)| (key, VersionedRef { ..entry }));
    let mut other = State::beginning_with([client.key], state.revision(), entries).limited(limits);
    client.register(&mut other, 1);
    (other, client)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn replicas_agree_on_what_there_is_room_for_whatever_way_they_came_to_the_state(
        seed in any::<u64>(),
        bytes_max in 0u64..40_000,
    ) {
        let limits = StateLimits { bytes_max, ..StateLimits::default() };
        let (state, mut client) = opened();
        let mut random = Random(seed);
        let mut executed = state.limited(limits);
        for seq in 2..8 {
            let operations = operations(&mut random);
            header(&mut executed, &mut client, seq, &operations);
        }
        let (other_cluster, mut other_client) = restored(&executed, &client, limits);
        let mut others = [
            State::from_frozen(&executed.freeze(), limits),
            transferred(&mut executed, limits),
            loaded(&executed, 7, limits),
        ];
        let mut other_cluster = other_cluster;
        let is_error = |result: &OperationResult| match result {
            OperationResult::Error(error) => Some(*error),
            _ => None,
        };
        for seq in 8..20 {
            let operations = operations(&mut random);
            let mut clients = others.each_ref().map(|_| client.clone());
            let results = client.run(&mut executed, seq, &operations);
            for (state, client) in others.iter_mut().zip(&mut clients) {
                prop_assert_eq!(&client.run(state, seq, &operations), &results);
                prop_assert_eq!(state.user_bytes(), executed.user_bytes());
                prop_assert_eq!(state.root(), executed.root());
            }
            // Versions are others there.
            let told = other_client.run(&mut other_cluster, seq, &operations);
            let errors: Vec<Option<OperationError>> = results.iter().map(is_error).collect();
            prop_assert_eq!(told.iter().map(is_error).collect::<Vec<_>>(), errors);
            prop_assert!(executed.user_bytes() <= bytes_max);
        }
        for state in others.iter().chain([&executed, &other_cluster]) {
            state.check_invariants();
        }
    }
}
