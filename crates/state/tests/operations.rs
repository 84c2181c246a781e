//! Each operation by itself: what it answers, every error it can give, and what it leaves alone.

mod common;

use common::opened;
use quorate_types::{
    Condition, KeyValue, Nonce, Operation, OperationError, OperationResult, Versioned, VersionedEntry, limits,
};

fn get(key: &str) -> Operation {
    Operation::Get { key: key.into() }
}

fn set(key: &str, value: &str) -> Operation {
    Operation::Set { key: key.into(), value: value.into(), condition: Condition::Always }
}

fn set_if(key: &str, value: &str, condition: Condition) -> Operation {
    Operation::Set { key: key.into(), value: value.into(), condition }
}

fn increment(key: &str, by: i64) -> Operation {
    Operation::IncrementBy { key: key.into(), by }
}

fn scan(start: &str, end: &str, limit: u32) -> Operation {
    Operation::Scan { start: start.into(), end: end.into(), limit }
}

fn value(value: &str, version: u64) -> OperationResult {
    OperationResult::Value(Some(Versioned { value: value.into(), version }))
}

fn error(error: OperationError) -> OperationResult {
    OperationResult::Error(error)
}

#[test]
fn operations_of_a_bundle_see_each_other_and_every_write_has_a_revision_of_its_own() {
    let (mut state, mut client) = opened();
    let results = client.run(
        &mut state,
        5,
        &[
            get("a"),
            set("a", "1"),
            get("a"),
            increment("a", 41),
            get("a"),
            Operation::Delete { key: "a".into() },
            get("a"),
        ],
    );
    assert_eq!(
        results,
        [
            OperationResult::Value(None),
            OperationResult::Written { version: 1 },
            value("1", 1),
            OperationResult::Integer { value: 42, version: 2 },
            value("42", 2),
            OperationResult::Existed(true),
            OperationResult::Value(None),
        ]
    );
    assert_eq!((state.user_keys(), state.revision()), (0, 3), "a removal is a write, too");
}

#[test]
fn conditions_of_set() {
    let (mut state, mut client) = opened();
    let first = [
        set_if("a", "1", Condition::Present),
        set_if("a", "2", Condition::Version(0)),
        set_if("a", "3", Condition::Absent),
        set_if("a", "4", Condition::Absent),
    ];
    assert_eq!(
        client.run(&mut state, 7, &first),
        [
            OperationResult::NotWritten { version: None },
            OperationResult::NotWritten { version: None },
            OperationResult::Written { version: 1 },
            OperationResult::NotWritten { version: Some(1) },
        ]
    );
    let second = [
        set_if("a", "5", Condition::Version(7)),
        set_if("a", "6", Condition::Version(1)),
        set_if("a", "7", Condition::Version(1)),
        set_if("a", "8", Condition::Present),
    ];
    assert_eq!(
        client.run(&mut state, 8, &second),
        [
            OperationResult::NotWritten { version: Some(1) },
            OperationResult::Written { version: 2 },
            OperationResult::NotWritten { version: Some(2) },
            OperationResult::Written { version: 3 },
        ]
    );
    assert_eq!(state.get(b"a").map(|entry| entry.value), Some(&b"8"[..]));
}

#[test]
fn existence_and_deletion() {
    let (mut state, mut client) = opened();
    let exists = || Operation::Exists { key: b"a".to_vec() };
    let delete = || Operation::Delete { key: b"a".to_vec() };
    let results =
        client.run(&mut state, 2, &[exists(), delete(), set("a", ""), exists(), delete(), exists()]);
    assert_eq!(
        results,
        [
            OperationResult::Existed(false),
            OperationResult::Existed(false),
            OperationResult::Written { version: 1 },
            OperationResult::Existed(true),
            OperationResult::Existed(true),
            OperationResult::Existed(false),
        ]
    );
}

#[test]
fn the_empty_key_is_a_key() {
    let (mut state, mut client) = opened();
    let results = client.run(&mut state, 2, &[set("", "x"), get(""), scan("", "", 5)]);
    assert_eq!(results[1], value("x", 1));
    let entries = vec![VersionedEntry { key: vec![], value: b"x".to_vec(), version: 1 }];
    assert_eq!(results[2], OperationResult::Entries { entries, more: false });
}

#[test]
fn only_canonical_integers_are_added_to() {
    let (mut state, mut client) = opened();
    for text in
        ["", " 1", "1 ", "+1", "01", "-0", "--1", "-", "1.0", "0x1", "9223372036854775808", "1e3", "１"]
    {
        let results = client.run(&mut state, 2, &[set("a", text), increment("a", 1), get("a")]);
        let version = state.revision();
        assert_eq!(results[0], OperationResult::Written { version });
        assert_eq!(results[1..], [error(OperationError::NotAnInteger), value(text, version)], "{text:?}");
    }
    for (text, by, sum) in [
        ("0", 0, 0),
        ("-1", 1, 0),
        ("9223372036854775807", -1, i64::MAX - 1),
        ("-9223372036854775808", 1, i64::MIN + 1),
        ("0", i64::MIN, i64::MIN),
    ] {
        let results = client.run(&mut state, 3, &[set("a", text), increment("a", by), get("a")]);
        let version = state.revision();
        assert_eq!(results[0], OperationResult::Written { version: version - 1 });
        assert_eq!(results[1], OperationResult::Integer { value: sum, version });
        assert_eq!(results[2], value(&sum.to_string(), version));
    }
    for (text, by) in [("9223372036854775807", 1), ("-9223372036854775808", -1), ("-1", i64::MIN)] {
        let results = client.run(&mut state, 4, &[set("a", text), increment("a", by), get("a")]);
        assert_eq!(results[1..], [error(OperationError::Overflow), value(text, state.revision())]);
    }
    assert_eq!(
        client.run(&mut state, 5, &[increment("new", -3), get("new")])[1],
        value("-3", state.revision())
    );
}

#[test]
fn appends_grow_to_the_limit_and_not_beyond() {
    let (mut state, mut client) = opened();
    let append = |bytes: usize| Operation::Append { key: b"a".to_vec(), value: vec![b'x'; bytes] };
    let length = |length: usize, version| OperationResult::Length { length: length as u64, version };
    let max = limits::VALUE_BYTES_MAX;
    let too_long = error(OperationError::ValueTooLong { bytes: max as u64 + 1 });
    let results = client.run(
        &mut state,
        2,
        &[append(0), append(1000), append(24), append(1), append(max - 1025), append(1), append(0)],
    );
    assert_eq!(
        results,
        [
            length(0, 1),
            length(1000, 2),
            length(1024, 3),
            length(1025, 4),
            length(max, 5),
            too_long,
            length(max, 6)
        ]
    );
    assert_eq!(state.get(b"a").map(|entry| entry.value.len()), Some(max));
    state.check_invariants();
}

#[test]
fn several_keys_at_once() {
    let (mut state, mut client) = opened();
    let entry = |key: &str, value: &str| KeyValue { key: key.into(), value: value.into() };
    let entries = vec![entry("a", "1"), entry("b", "2"), entry("a", "3")];
    let keys = vec![b"b".to_vec(), b"none".to_vec(), b"a".to_vec(), b"b".to_vec()];
    let results = client.run(
        &mut state,
        2,
        &[
            Operation::MultiSet { entries },
            Operation::MultiGet { keys },
            Operation::MultiSet { entries: vec![] },
            Operation::MultiGet { keys: vec![] },
        ],
    );
    let read = |value: &str, version| Some(Versioned { value: value.into(), version });
    assert_eq!(
        results,
        [
            OperationResult::Written { version: 3 },
            OperationResult::Values(vec![read("2", 2), None, read("3", 3), read("2", 2)]),
            OperationResult::Written { version: 3 },
            OperationResult::Values(vec![]),
        ]
    );
}

#[test]
fn a_scan_returns_a_part_of_the_range_in_order_and_says_whether_more_follows() {
    let (mut state, mut client) = opened();
    let sets: Vec<_> = ["d", "b", "a", "c"].iter().map(|key| set(key, "x")).collect();
    client.run(&mut state, 2, &sets);
    let found = |keys: &[&str], more| {
        let version = |key: &str| 1 + "dbac".find(key).expect("one of the four keys") as u64;
        let entry =
            |key: &&str| VersionedEntry { key: (*key).into(), value: b"x".to_vec(), version: version(key) };
        OperationResult::Entries { entries: keys.iter().map(entry).collect(), more }
    };
    for (operation, expected) in [
        (scan("", "", 10), found(&["a", "b", "c", "d"], false)),
        (scan("", "", 4), found(&["a", "b", "c", "d"], false)),
        (scan("", "", 3), found(&["a", "b", "c"], true)),
        (scan("b", "d", 10), found(&["b", "c"], false)),
        (scan("b", "d", 1), found(&["b"], true)),
        (scan("b", "d", 0), found(&[], true)),
        (scan("bb", "", 10), found(&["c", "d"], false)),
        (scan("d", "b", 10), found(&[], false)),
        (scan("b", "b", 10), found(&[], false)),
        (scan("e", "", 10), found(&[], false)),
        (scan("", "a", 10), found(&[], false)),
    ] {
        assert_eq!(client.run(&mut state, 3, std::slice::from_ref(&operation)), [expected], "{operation:?}");
    }
}

#[test]
fn what_is_too_long_is_refused_and_changes_nothing() {
    let (mut state, mut client) = opened();
    let long = vec![b'k'; limits::KEY_BYTES_MAX + 1];
    let key_error = error(OperationError::KeyTooLong { bytes: 1025 });
    let entry = |key: &[u8], bytes: usize| KeyValue { key: key.to_vec(), value: vec![0; bytes] };
    let by_key = [
        Operation::Get { key: long.clone() },
        Operation::Set { key: long.clone(), value: vec![], condition: Condition::Always },
        Operation::Delete { key: long.clone() },
        Operation::Exists { key: long.clone() },
        Operation::IncrementBy { key: long.clone(), by: 1 },
        Operation::Append { key: long.clone(), value: vec![] },
        Operation::MultiGet { keys: vec![b"a".to_vec(), long.clone()] },
        Operation::MultiSet { entries: vec![entry(b"a", 1), entry(&long, 1)] },
        Operation::Scan { start: long.clone(), end: vec![], limit: 1 },
        Operation::Scan { start: vec![], end: long.clone(), limit: 1 },
    ];
    assert_eq!(client.run(&mut state, 2, &by_key), vec![key_error; by_key.len()]);

    let bytes = limits::VALUE_BYTES_MAX + 1;
    let value_error = error(OperationError::ValueTooLong { bytes: bytes as u64 });
    let by_value = [
        Operation::Set { key: b"a".to_vec(), value: vec![0; bytes], condition: Condition::Always },
        Operation::Append { key: b"a".to_vec(), value: vec![0; bytes] },
        Operation::MultiSet { entries: vec![entry(b"a", 1), entry(b"b", bytes)] },
    ];
    assert_eq!(client.run(&mut state, 3, &by_value), vec![value_error; by_value.len()]);

    let keys = limits::MULTI_KEYS_MAX + 1;
    let count_error = error(OperationError::TooManyKeys { keys: keys as u64 });
    let by_count = [
        Operation::MultiGet { keys: vec![vec![]; keys] },
        Operation::MultiSet { entries: vec![entry(b"a", 1); keys] },
    ];
    assert_eq!(client.run(&mut state, 4, &by_count), vec![count_error; by_count.len()]);
    let results = client.run(
        &mut state,
        5,
        &[scan("", "", 10_001), Operation::Register { nonce: Nonce([9; 16]), recent: 5 }],
    );
    assert_eq!(results[0], error(OperationError::ScanTooLong { entries: 10_001 }));
    assert_eq!(results[1], error(OperationError::Misplaced));
    assert_eq!(state.user_keys(), 0);
    state.check_invariants();
}

#[test]
fn the_longest_keys_and_values_are_kept() {
    let (mut state, mut client) = opened();
    for byte in 0..8u8 {
        let key = vec![byte; limits::KEY_BYTES_MAX];
        let value = vec![byte; limits::VALUE_BYTES_MAX];
        let set = Operation::Set { key: key.clone(), value: value.clone(), condition: Condition::Always };
        client.run(&mut state, 2, &[set]);
        assert_eq!(state.get(&key).map(|entry| entry.value), Some(&value[..]));
    }
    state.check_invariants();
}

#[test]
fn once_a_read_does_not_fit_later_reads_are_refused_and_writes_go_on() {
    let (mut state, mut client) = opened();
    let value_bytes = limits::VALUE_BYTES_MAX;
    let long =
        Operation::Set { key: b"l".to_vec(), value: vec![1; value_bytes], condition: Condition::Always };
    client.run(&mut state, 2, &[long, set("s", "short")]);
    let multi_get = Operation::MultiGet { keys: vec![b"s".to_vec()] };
    let exists = Operation::Exists { key: b"l".to_vec() };
    let results = client.run(
        &mut state,
        3,
        &[
            get("l"),
            get("l"),
            get("l"),
            get("l"),
            get("s"),
            multi_get,
            scan("", "", 1),
            exists,
            set("s", "new"),
        ],
    );
    let refused = error(OperationError::ResultsTooLong);
    assert!(results[..3].iter().all(|result| matches!(result, OperationResult::Value(Some(_)))));
    assert_eq!(results[3..7], vec![refused.clone(); 4]);
    assert_eq!(results[7..], [OperationResult::Existed(true), OperationResult::Written { version: 3 }]);
    let keys = vec![b"l".to_vec(); 4];
    assert_eq!(client.run(&mut state, 4, &[Operation::MultiGet { keys }, get("s")]), vec![refused; 2]);
    assert_eq!(client.run(&mut state, 5, &[get("s")]), [value("new", 3)]);
}

#[test]
fn a_scan_of_more_than_fits_gives_a_part_with_which_a_reader_goes_on() {
    let (mut state, mut client) = opened();
    let key = |number: u8| format!("key:{number:02}").into_bytes();
    for number in 0..10 {
        let value = vec![number; limits::VALUE_BYTES_MAX];
        let set = Operation::Set { key: key(number), value, condition: Condition::Always };
        client.run(&mut state, 2, &[set]);
    }
    let (mut found, mut start) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        let next = Operation::Scan { start, end: Vec::new(), limit: 10 };
        let results = client.run(&mut state, 3, &[next]);
        let [OperationResult::Entries { entries, more }] = &results[..] else { panic!("{results:?}") };
        found.extend(entries.iter().map(|entry| entry.key.clone()));
        let Some(last) = found.last().filter(|_| *more) else { break };
        start = [last.as_slice(), &[0]].concat();
    }
    assert_eq!(found, (0..10).map(key).collect::<Vec<_>>());
}
