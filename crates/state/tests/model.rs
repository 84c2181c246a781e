//! The whole state against a simple model, over random histories of all operations; and what the root
//! may and may not depend on.

mod common;

use std::collections::BTreeMap;

use common::{Client, opened};
use proptest::prelude::*;
use quorate_state::State;
use quorate_types::{
    Condition, KeyValue, Nonce, Operation, OperationError, OperationResult, StateLimits, Versioned,
    VersionedEntry, limits,
};

#[derive(Default)]
struct Model {
    entries: BTreeMap<Vec<u8>, (Vec<u8>, u64)>,
    /// The revision of the last write.
    revision: u64,
    /// What the entries may come to.
    bytes_max: Option<u64>,
}

impl Model {
    fn read(&self, key: &[u8]) -> Option<Versioned> {
        self.entries.get(key).map(|(value, version)| Versioned { value: value.clone(), version: *version })
    }

    /// Writes a value; its version.
    fn write(&mut self, key: &[u8], value: Vec<u8>) -> u64 {
        self.revision += 1;
        self.entries.insert(key.to_vec(), (value, self.revision));
        self.revision
    }

    fn remove(&mut self, key: &[u8]) -> bool {
        let existed = self.entries.remove(key).is_some();
        self.revision += u64::from(existed);
        existed
    }

    fn bundle(&mut self, operations: &[Operation]) -> Vec<OperationResult> {
        match operations {
            [Operation::Void] => vec![OperationResult::Voided],
            operations => operations.iter().map(|operation| self.apply_in_room(operation)).collect(),
        }
    }

    fn bytes(&self) -> u64 {
        let bytes = |(key, (value, _)): (&Vec<u8>, &(Vec<u8>, u64))| (key.len() + value.len()) as u64;
        self.entries.iter().map(bytes).sum::<u64>() + limits::STATE_ENTRY_BYTES * self.entries.len() as u64
    }

    /// What grows the state beyond its bound is taken back.
    fn apply_in_room(&mut self, operation: &Operation) -> OperationResult {
        let Some(bytes_max) = self.bytes_max else { return self.apply(operation) };
        let (entries, revision, bytes) = (self.entries.clone(), self.revision, self.bytes());
        let result = self.apply(operation);
        if self.bytes() > bytes && self.bytes() > bytes_max {
            (self.entries, self.revision) = (entries, revision);
            return OperationResult::Error(OperationError::StateFull { bytes, bytes_max });
        }
        result
    }

    fn apply(&mut self, operation: &Operation) -> OperationResult {
        match operation {
            Operation::Register { .. } | Operation::Void => OperationResult::Error(OperationError::Misplaced),
            Operation::Get { key } => OperationResult::Value(self.read(key)),
            Operation::Set { key, value, condition } => {
                let present = self.entries.get(key).map(|(_, version)| *version);
                let holds = match condition {
                    Condition::Always => true,
                    Condition::Absent => present.is_none(),
                    Condition::Present => present.is_some(),
                    Condition::Version(wanted) => present == Some(*wanted),
                };
                if !holds {
                    return OperationResult::NotWritten { version: present };
                }
                OperationResult::Written { version: self.write(key, value.clone()) }
            }
            Operation::Delete { key } => OperationResult::Existed(self.remove(key)),
            Operation::Exists { key } => OperationResult::Existed(self.entries.contains_key(key)),
            Operation::IncrementBy { key, by } => self.increment(key, *by),
            Operation::Append { key, value } => self.append(key, value),
            Operation::MultiGet { keys } => {
                OperationResult::Values(keys.iter().map(|key| self.read(key)).collect())
            }
            Operation::MultiSet { entries } => {
                for entry in entries {
                    self.write(&entry.key, entry.value.clone());
                }
                OperationResult::Written { version: self.revision }
            }
            Operation::Scan { start, end, limit } => self.scan(start, end, *limit as usize),
        }
    }

    fn increment(&mut self, key: &[u8], by: i64) -> OperationResult {
        let old = match self.entries.get(key) {
            None => Some(0),
            Some((value, _)) => String::from_utf8(value.clone())
                .ok()
                .and_then(|text| text.parse::<i64>().ok().filter(|value| value.to_string() == text)),
        };
        let Some(old) = old else { return OperationResult::Error(OperationError::NotAnInteger) };
        let Some(value) = old.checked_add(by) else {
            return OperationResult::Error(OperationError::Overflow);
        };
        let version = self.write(key, value.to_string().into_bytes());
        OperationResult::Integer { value, version }
    }

    fn append(&mut self, key: &[u8], suffix: &[u8]) -> OperationResult {
        let mut value = self.entries.get(key).map_or_else(Vec::new, |(value, _)| value.clone());
        value.extend_from_slice(suffix);
        let length = value.len() as u64;
        if value.len() > limits::VALUE_BYTES_MAX {
            return OperationResult::Error(OperationError::ValueTooLong { bytes: length });
        }
        let version = self.write(key, value);
        OperationResult::Length { length, version }
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> OperationResult {
        let mut range = self
            .entries
            .range(start.to_vec()..)
            .take_while(|(key, _)| end.is_empty() || key.as_slice() < end);
        let entry = |(key, (value, version)): (&Vec<u8>, &(Vec<u8>, u64))| VersionedEntry {
            key: key.clone(),
            value: value.clone(),
            version: *version,
        };
        let entries = range.by_ref().take(limit).map(entry).collect();
        OperationResult::Entries { entries, more: range.next().is_some() }
    }
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => (0u32..600).prop_map(|number| format!("k{number:03}").into_bytes()),
        1 => (0u8..3, 0usize..700).prop_map(|(byte, length)| vec![byte; length]),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        2 => any::<i64>().prop_map(|value| value.to_string().into_bytes()),
        4 => (any::<u8>(), 0usize..150).prop_map(|(byte, length)| vec![byte; length]),
        1 => (any::<u8>(), 1000usize..1100).prop_map(|(byte, length)| vec![byte; length]),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        5 => Just(Condition::Always),
        1 => Just(Condition::Absent),
        1 => Just(Condition::Present),
        1 => (0u64..60).prop_map(Condition::Version),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let entry = || (key(), value()).prop_map(|(key, value)| KeyValue { key, value });
    prop_oneof![
        4 => key().prop_map(|key| Operation::Get { key }),
        8 => (key(), value(), condition())
            .prop_map(|(key, value, condition)| Operation::Set { key, value, condition }),
        3 => key().prop_map(|key| Operation::Delete { key }),
        1 => key().prop_map(|key| Operation::Exists { key }),
        3 => (key(), any::<i64>()).prop_map(|(key, by)| Operation::IncrementBy { key, by }),
        3 => (key(), value()).prop_map(|(key, value)| Operation::Append { key, value }),
        1 => prop::collection::vec(key(), 0..6).prop_map(|keys| Operation::MultiGet { keys }),
        2 => prop::collection::vec(entry(), 0..12).prop_map(|entries| Operation::MultiSet { entries }),
        1 => (key(), key(), 0u32..30).prop_map(|(start, end, limit)| Operation::Scan { start, end, limit }),
        1 => Just(Operation::Register { nonce: Nonce([3; 16]), recent: 0 }),
        1 => Just(Operation::Void),
    ]
}

fn history() -> impl Strategy<Value = Vec<Vec<Operation>>> {
    prop::collection::vec(
        prop_oneof![8 => prop::collection::vec(operation(), 0..40), 1 => Just(vec![Operation::Void])],
        1..60,
    )
}

fn registered() -> (State, Client) {
    let mut client = Client::new(1, 1);
    let mut state = State::new([client.key]);
    client.register(&mut state, 1);
    (state, client)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_state_agrees_with_the_model(bundles in history()) {
        let (mut state, mut client) = opened();
        let mut model = Model::default();
        for (seq, operations) in (2..).zip(&bundles) {
            let expected = model.bundle(operations);
            prop_assert_eq!(client.run(&mut state, seq, operations), expected);
        }
        state.check_invariants();
        prop_assert_eq!(state.user_keys(), model.entries.len() as u64);
        prop_assert_eq!(state.revision(), model.revision);
        let frozen = state.freeze();
        let users = frozen.entries().filter(|(key, _)| key[0] == 1);
        let users: Vec<_> = users.map(|(key, entry)| (key[1..].to_vec(), entry.value.to_vec(), entry.version)).collect();
        let expected: Vec<_> =
            model.entries.into_iter().map(|(key, (value, version))| (key, value, version)).collect();
        prop_assert_eq!(users, expected);
    }

    #[test]
    fn a_state_with_a_quota_agrees_with_the_model(bundles in history(), bytes_max in 0u64..40_000) {
        let (state, mut client) = opened();
        let mut state = state.limited(StateLimits { bytes_max, ..StateLimits::default() });
        let mut model = Model { bytes_max: Some(bytes_max), ..Model::default() };
        let mut declined = 0;
        for (seq, operations) in (2..).zip(&bundles) {
            let expected = model.bundle(operations);
            declined += expected
                .iter()
                .filter(|result| matches!(result, OperationResult::Error(OperationError::StateFull { .. })))
                .count() as u64;
            prop_assert_eq!(client.run(&mut state, seq, operations), expected);
            prop_assert_eq!(state.user_bytes(), model.bytes());
        }
        state.check_invariants();
        prop_assert_eq!(state.take_declined_full(), declined);
        prop_assert_eq!((state.user_keys(), state.revision()), (model.entries.len() as u64, model.revision));
    }

    #[test]
    fn equal_histories_have_equal_roots_whatever_is_watched_frozen_or_restarted(
        bundles in history(),
        interruptions in prop::collection::vec(0u8..6, 60),
    ) {
        let ((mut plain, mut first), (mut watched, mut second)) = (registered(), registered());
        let mut frozen = Vec::new();
        for ((seq, operations), interruption) in (2..).zip(&bundles).zip(interruptions) {
            first.run(&mut plain, seq, operations);
            second.run(&mut watched, seq, operations);
            match interruption {
                0 => frozen.push((watched.freeze(), None)),
                1 => {
                    let root = watched.root();
                    frozen.push((watched.freeze(), Some(root)));
                }
                2 => watched = State::from_frozen(&watched.freeze(), StateLimits::default()),
                3 => frozen.clear(),
                _ => {}
            }
        }
        prop_assert_eq!(plain.root(), watched.root());
        prop_assert_eq!(plain.user_keys(), watched.user_keys());
        prop_assert_eq!(plain.revision(), watched.revision());
        prop_assert_eq!(plain.stored_bytes(), watched.stored_bytes());
        for (copy, root) in frozen {
            prop_assert!(root.is_none_or(|root| root == copy.root()));
        }
    }
}
