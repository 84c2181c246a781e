//! Versions are revisions: each write has its own, so a condition on a version holds for one value and no other.

mod common;

use common::{Client, opened};
use proptest::prelude::*;
use quorate_state::{State, VersionedRef};
use quorate_types::{
    Condition, Digest, KeyValue, Nanoseconds, Operation, OperationResult, Seq, StateLimits, limits,
};

fn set(key: &str, value: &str, condition: Condition) -> Operation {
    Operation::Set { key: key.into(), value: value.into(), condition }
}

fn increment(key: &str) -> Operation {
    Operation::IncrementBy { key: key.into(), by: 1 }
}

fn note_header(state: &mut State, seq: u64) {
    state.note_header(Seq(seq), Digest([7; 32]), Nanoseconds(seq));
}

/// The version that a result says was written.
fn written(result: &OperationResult) -> Option<u64> {
    match result {
        OperationResult::Written { version }
        | OperationResult::Integer { version, .. }
        | OperationResult::Length { version, .. } => Some(*version),
        _ => None,
    }
}

#[test]
fn many_writes_of_one_header_have_each_a_version_and_only_the_last_one_holds() {
    let (mut state, mut client) = opened();
    let append = Operation::Append { key: b"a".to_vec(), value: b"0".to_vec() };
    let always = Condition::Always;
    let writes = [set("a", "1", always), increment("a"), append, set("a", "1", always)];
    let results = client.run(&mut state, 2, &writes);
    assert_eq!(results.iter().map(written).collect::<Vec<_>>(), [Some(1), Some(2), Some(3), Some(4)]);
    let late: Vec<_> = (0..6).map(|version| set("a", "x", Condition::Version(version))).collect();
    let results = client.run(&mut state, 2, &late);
    let not_written = OperationResult::NotWritten { version: Some(4) };
    assert_eq!(results[..4], vec![not_written; 4], "values of the same header are told apart");
    assert_eq!(results[4], OperationResult::Written { version: 5 });
    assert_eq!(results[5], OperationResult::Written { version: 6 }, "the revision before was 5");
}

#[test]
fn a_version_never_holds_again_after_a_removal() {
    let (mut state, mut client) = opened();
    let delete = || Operation::Delete { key: b"a".to_vec() };
    let bundle = [set("a", "1", Condition::Always), delete(), delete(), set("a", "1", Condition::Absent)];
    let results = client.run(&mut state, 2, &bundle);
    assert_eq!(results[0], OperationResult::Written { version: 1 });
    assert_eq!(results[3], OperationResult::Written { version: 3 }, "of both removals the first is a write");
    let results = client.run(&mut state, 2, &[set("a", "2", Condition::Version(1))]);
    assert_eq!(results, [OperationResult::NotWritten { version: Some(3) }]);
}

#[test]
fn what_writes_nothing_has_no_revision() {
    let (mut state, mut client) = opened();
    client.run(&mut state, 2, &[set("text", "x", Condition::Always)]);
    let long = vec![0; limits::VALUE_BYTES_MAX + 1];
    let nothing = [
        set("text", "y", Condition::Absent),
        set("none", "y", Condition::Present),
        set("text", "y", Condition::Version(9)),
        increment("text"),
        Operation::Set { key: b"a".to_vec(), value: long.clone(), condition: Condition::Always },
        Operation::Append { key: b"text".to_vec(), value: long },
        Operation::Delete { key: b"none".to_vec() },
        Operation::Get { key: b"text".to_vec() },
        Operation::MultiSet { entries: vec![] },
    ];
    client.run(&mut state, 3, &nothing);
    assert_eq!(state.revision(), 1);
}

#[test]
fn the_entries_of_an_mset_have_consecutive_versions_that_end_with_the_one_answered() {
    let (mut state, mut client) = opened();
    let entry = |key: &str| KeyValue { key: key.into(), value: b"x".to_vec() };
    let entries = ["c", "a", "b", "a"].map(entry).to_vec();
    let results = client.run(&mut state, 2, &[increment("n"), Operation::MultiSet { entries }]);
    assert_eq!(results[1], OperationResult::Written { version: 5 });
    let version = |key: &[u8]| state.get(key).map(|entry| entry.version);
    assert_eq!([version(b"c"), version(b"b"), version(b"a")], [Some(2), Some(4), Some(5)]);
}

#[test]
fn the_revision_stands_under_the_root_and_goes_on_after_a_restart() {
    let (mut state, mut client) = opened();
    let (mut other, mut other_client) = opened();
    client.run(&mut state, 2, &[increment("a"), Operation::Delete { key: b"a".to_vec() }]);
    other_client.run(&mut other, 2, &[Operation::Delete { key: b"a".to_vec() }, increment("b")]);
    client.run(&mut state, 3, &[increment("b"), Operation::Delete { key: b"b".to_vec() }]);
    other_client.run(&mut other, 3, &[Operation::Delete { key: b"b".to_vec() }]);
    note_header(&mut state, 3);
    note_header(&mut other, 3);
    assert_eq!((state.revision(), other.revision()), (4, 2));
    assert_eq!((state.user_keys(), other.user_keys()), (0, 0));
    assert_ne!(state.root(), other.root());
    let mut restarted = State::from_frozen(&state.checkpoint(), StateLimits::default());
    assert_eq!(restarted.revision(), 4);
    let results = client.run(&mut restarted, 4, &[increment("c")]);
    assert_eq!(results, [OperationResult::Integer { value: 1, version: 5 }]);
}

#[test]
#[should_panic(expected = "a checkpoint follows a header")]
fn a_checkpoint_inside_a_header_would_lack_the_revision_and_is_refused() {
    let (mut state, mut client) = opened();
    client.run(&mut state, 2, &[increment("a")]);
    note_header(&mut state, 2);
    client.run(&mut state, 3, &[increment("a")]);
    state.checkpoint();
}

#[test]
fn a_cluster_that_begins_with_entries_goes_on_above_them() {
    let mut client = Client::new(1, 1);
    let entries = [(&b"a"[..], VersionedRef { value: b"1", version: 7 })];
    let mut state = State::beginning_with([client.key], 9, entries);
    assert_eq!(state.revision(), 9);
    client.register(&mut state, 1);
    let stale = set("a", "2", Condition::Version(6));
    let results = client.run(&mut state, 1, &[stale, set("a", "2", Condition::Version(7))]);
    assert_eq!(results[0], OperationResult::NotWritten { version: Some(7) });
    assert_eq!(results[1], OperationResult::Written { version: 10 });
    state.check_invariants();
    let mut restarted =
        State::from_frozen(&State::beginning_with([], 9, entries).freeze(), StateLimits::default());
    note_header(&mut restarted, 1);
    assert_eq!(restarted.revision(), 9);
}

#[test]
#[should_panic(expected = "version 10 is above revision 9")]
fn a_cluster_cannot_begin_below_a_version_that_was_given() {
    let _ = State::beginning_with([], 9, [(&b"a"[..], VersionedRef { value: b"1", version: 10 })]);
}

/// What one of two clients does next to the key: one adds to it, the other reads and later writes what it read plus one,
/// if nobody has written meanwhile. A header ends after some of the steps.
#[derive(Clone, Copy, Debug)]
enum Step {
    Increment,
    Read,
    Write,
    EndHeader,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Increment),
        3 => Just(Step::Read),
        3 => Just(Step::Write),
        2 => Just(Step::EndHeader),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #[test]
    fn a_compare_and_set_beside_increments_loses_none(steps in steps()) {
        let (mut state, mut adder) = opened();
        let mut setter = Client::new(1, 2);
        setter.register(&mut state, 1);
        let (mut seq, mut done, mut last) = (2, 0, 0);
        let mut read = None;
        for step in steps {
            let result = match step {
                Step::EndHeader => {
                    note_header(&mut state, seq);
                    seq += 1;
                    continue;
                }
                Step::Read => {
                    read = state.get(b"n").map(|entry| (entry.value.to_vec(), entry.version));
                    continue;
                }
                Step::Increment => adder.run(&mut state, seq, &[increment("n")]),
                Step::Write => {
                    let (value, version) = read.clone().unwrap_or((b"0".to_vec(), 0));
                    let next = String::from_utf8(value).unwrap().parse::<u64>().unwrap() + 1;
                    let condition = if version == 0 { Condition::Absent } else { Condition::Version(version) };
                    setter.run(&mut state, seq, &[set("n", &next.to_string(), condition)])
                }
            };
            if let Some(version) = written(&result[0]) {
                prop_assert!(version > last, "{} after {}", version, last);
                (done, last) = (done + 1, version);
            }
        }
        let value = state.get(b"n").map_or(b"0".to_vec(), |entry| entry.value.to_vec());
        prop_assert_eq!(String::from_utf8(value).unwrap(), done.to_string());
    }
}
