//! What operations mean, written a second time and as plainly as possible: a `BTreeMap` and sessions with
//! strict order. The oracles replay the committed order here and compare what clients were told.
//!
//! Nothing is shared with the `state` crate but the types that travel. Limits on the results of one bundle
//! are left out, as no workload comes near them.

use quorate_types::{
    BundleNumber, Condition, KeyValue, Operation, OperationError, OperationResult, PublicKey, SessionId,
    Versioned, VersionedEntry, limits,
};
use std::collections::BTreeMap;

/// What became of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It took effect; these are its results.
    Executed(Vec<OperationResult>),
    /// It had no effect.
    Nothing,
}

#[derive(Debug)]
struct ModelSession {
    client: [u8; 32],
    next: BundleNumber,
}

/// The state that the committed order leads to.
#[derive(Debug, Default)]
pub struct Model {
    entries: BTreeMap<Vec<u8>, Versioned>,
    /// The number of the last write in the order of all writes.
    revision: u64,
    sessions: BTreeMap<SessionId, ModelSession>,
    counters: BTreeMap<[u8; 32], u64>,
}

impl Model {
    /// Executes a bundle with a good signature of an allowed client.
    pub fn bundle(
        &mut self,
        client: [u8; 32],
        session: SessionId,
        number: BundleNumber,
        operations: &[Operation],
    ) -> Fate {
        let Some(open) = self.sessions.get_mut(&session) else {
            return self.register(client, session, number, operations);
        };
        if open.client != client || open.next != number {
            return Fate::Nothing;
        }
        open.next = number.next();
        Fate::Executed(operations.iter().map(|operation| self.operation(operation)).collect())
    }

    fn register(
        &mut self,
        client: [u8; 32],
        session: SessionId,
        number: BundleNumber,
        operations: &[Operation],
    ) -> Fate {
        let ([Operation::Register { counter }], BundleNumber(0)) = (operations, number) else {
            return Fate::Nothing;
        };
        let derived = PublicKey::from_bytes(&client).map(|key| SessionId::derive(&key, *counter));
        if derived != Ok(session) || self.counters.get(&client).is_some_and(|highest| highest >= counter) {
            return Fate::Nothing;
        }
        self.counters.insert(client, *counter);
        self.sessions.insert(session, ModelSession { client, next: BundleNumber(1) });
        Fate::Executed(vec![OperationResult::Registered])
    }

    fn operation(&mut self, operation: &Operation) -> OperationResult {
        self.apply(operation).unwrap_or_else(OperationResult::Error)
    }

    fn apply(&mut self, operation: &Operation) -> Result<OperationResult, OperationError> {
        Ok(match operation {
            Operation::Register { .. } => return Err(OperationError::MisplacedRegistration),
            Operation::Get { key } => OperationResult::Value(self.entries.get(checked(key)?).cloned()),
            Operation::Set { key, value, condition } => self.set(key, value, *condition)?,
            Operation::Delete { key } => {
                let existed = self.entries.remove(checked(key)?).is_some();
                self.revision += u64::from(existed);
                OperationResult::Existed(existed)
            }
            Operation::Exists { key } => OperationResult::Existed(self.entries.contains_key(checked(key)?)),
            Operation::IncrementBy { key, by } => {
                let value = self.integer(checked(key)?)?.checked_add(*by).ok_or(OperationError::Overflow)?;
                let version = self.put(key, value.to_string().into_bytes());
                OperationResult::Integer { value, version }
            }
            Operation::Append { key, value } => {
                let mut whole = self.entries.get(checked(key)?).map(|e| e.value.clone()).unwrap_or_default();
                whole.extend_from_slice(value);
                let length = fitting(&whole)?.len() as u64;
                OperationResult::Length { length, version: self.put(key, whole) }
            }
            Operation::MultiGet { keys } => {
                few(keys.len())?;
                for key in keys {
                    checked(key)?;
                }
                OperationResult::Values(keys.iter().map(|key| self.entries.get(key).cloned()).collect())
            }
            Operation::MultiSet { entries } => self.multi_set(entries)?,
            Operation::Scan { start, end, limit } => self.scan(start, end, *limit)?,
        })
    }

    fn set(
        &mut self,
        key: &[u8],
        value: &[u8],
        condition: Condition,
    ) -> Result<OperationResult, OperationError> {
        let present = self.entries.get(checked(key)?).map(|entry| entry.version);
        let value = fitting(value)?;
        let holds = match condition {
            Condition::Always => true,
            Condition::Absent => present.is_none(),
            Condition::Present => present.is_some(),
            Condition::Version(wanted) => present == Some(wanted),
        };
        if !holds {
            return Ok(OperationResult::NotWritten { version: present });
        }
        Ok(OperationResult::Written { version: self.put(key, value.to_vec()) })
    }

    fn multi_set(&mut self, entries: &[KeyValue]) -> Result<OperationResult, OperationError> {
        few(entries.len())?;
        for entry in entries {
            checked(&entry.key)?;
            fitting(&entry.value)?;
        }
        for entry in entries {
            self.put(&entry.key, entry.value.clone());
        }
        Ok(OperationResult::Written { version: self.revision })
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: u32) -> Result<OperationResult, OperationError> {
        checked(start)?;
        checked(end)?;
        if limit as usize > limits::SCAN_ENTRIES_MAX {
            return Err(OperationError::ScanTooLong { entries: u64::from(limit) });
        }
        let mut range = self
            .entries
            .iter()
            .filter(|(key, _)| key.as_slice() >= start && (end.is_empty() || key.as_slice() < end));
        let entry = |(key, entry): (&Vec<u8>, &Versioned)| VersionedEntry {
            key: key.clone(),
            value: entry.value.clone(),
            version: entry.version,
        };
        let entries = range.by_ref().take(limit as usize).map(entry).collect();
        Ok(OperationResult::Entries { entries, more: range.next().is_some() })
    }

    /// The number that a key holds: written as Rust writes it, so "07", "+7" and "-0" are none.
    fn integer(&self, key: &[u8]) -> Result<i64, OperationError> {
        let Some(entry) = self.entries.get(key) else { return Ok(0) };
        let text = std::str::from_utf8(&entry.value).map_err(|_| OperationError::NotAnInteger)?;
        let value: i64 = text.parse().map_err(|_| OperationError::NotAnInteger)?;
        if value.to_string() == text { Ok(value) } else { Err(OperationError::NotAnInteger) }
    }

    /// Writes a value; its version.
    fn put(&mut self, key: &[u8], value: Vec<u8>) -> u64 {
        self.revision += 1;
        self.entries.insert(key.to_vec(), Versioned { value, version: self.revision });
        self.revision
    }

    /// The number of keys.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.entries.len()
    }

    /// The number of sessions.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }
}

fn checked(key: &[u8]) -> Result<&[u8], OperationError> {
    if key.len() > limits::KEY_BYTES_MAX {
        return Err(OperationError::KeyTooLong { bytes: key.len() as u64 });
    }
    Ok(key)
}

fn fitting(value: &[u8]) -> Result<&[u8], OperationError> {
    if value.len() > limits::VALUE_BYTES_MAX {
        return Err(OperationError::ValueTooLong { bytes: value.len() as u64 });
    }
    Ok(value)
}

fn few(keys: usize) -> Result<(), OperationError> {
    if keys > limits::MULTI_KEYS_MAX {
        return Err(OperationError::TooManyKeys { keys: keys as u64 });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_wire::testing::client_key;

    fn opened() -> (Model, [u8; 32], SessionId) {
        let mut model = Model::default();
        let key = client_key().public();
        let session = SessionId::derive(&key, 3);
        let register = [Operation::Register { counter: 3 }];
        let fate = model.bundle(*key.as_bytes(), session, BundleNumber(0), &register);
        assert_eq!(fate, Fate::Executed(vec![OperationResult::Registered]));
        (model, *key.as_bytes(), session)
    }

    fn increment() -> Vec<Operation> {
        vec![Operation::IncrementBy { key: b"n".to_vec(), by: 2 }]
    }

    #[test]
    fn a_bundle_takes_effect_once_and_in_order() {
        let (mut model, client, session) = opened();
        let mut run = |number| model.bundle(client, session, BundleNumber(number), &increment());
        assert_eq!(run(2), Fate::Nothing);
        assert_eq!(run(1), Fate::Executed(vec![OperationResult::Integer { value: 2, version: 1 }]));
        assert_eq!(run(1), Fate::Nothing);
        assert_eq!(run(2), Fate::Executed(vec![OperationResult::Integer { value: 4, version: 2 }]));
    }

    #[test]
    fn an_old_counter_opens_no_session() {
        let (mut model, client, _) = opened();
        let key = client_key().public();
        let register = [Operation::Register { counter: 2 }];
        let old = SessionId::derive(&key, 2);
        assert_eq!(model.bundle(client, old, BundleNumber(0), &register), Fate::Nothing);
        assert_eq!(model.sessions(), 1);
    }

    #[test]
    fn conditions_and_scans() {
        let (mut model, _, _) = opened();
        let set = |key: &str, condition| Operation::Set { key: key.into(), value: b"v".to_vec(), condition };
        let mut run = |operation| model.operation(&operation);
        assert_eq!(run(set("a", Condition::Present)), OperationResult::NotWritten { version: None });
        assert_eq!(run(set("a", Condition::Absent)), OperationResult::Written { version: 1 });
        assert_eq!(run(set("a", Condition::Version(2))), OperationResult::NotWritten { version: Some(1) });
        assert_eq!(run(set("b", Condition::Always)), OperationResult::Written { version: 2 });
        let scan = Operation::Scan { start: b"a".to_vec(), end: Vec::new(), limit: 1 };
        let OperationResult::Entries { entries, more } = run(scan) else { panic!("a scan gives entries") };
        assert_eq!((entries.len(), entries[0].version, more), (1, 1, true));
        let error = OperationResult::Error(OperationError::NotAnInteger);
        assert_eq!(run(Operation::IncrementBy { key: b"a".to_vec(), by: 1 }), error);
    }
}
