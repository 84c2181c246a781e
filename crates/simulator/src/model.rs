//! What operations mean, written a second time and as plainly as possible: a `BTreeMap` and sessions with
//! strict order. The oracles replay the committed order here and compare what clients were told.
//!
//! Nothing is shared with the `state` crate but the types that travel. Limits on the results of one bundle
//! are left out, as no workload comes near them.

use crate::ledger::WrittenBundle;
use crate::sessions::{Admission, Sessions};
use quorate_types::{
    BundleNumber, Condition, KeyValue, Nanoseconds, Operation, OperationError, OperationResult, Seq,
    SessionId, StateLimits, Versioned, VersionedEntry, limits,
};
use std::collections::{BTreeMap, BTreeSet};

/// What became of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It took effect; these are its results.
    Executed(Vec<OperationResult>),
    /// It had no effect on keys, or none at all, and this is answered as of a seq.
    Answered(Seq, OperationResult),
    /// It had no effect.
    Nothing,
}

/// The state that the committed order leads to.
#[derive(Debug)]
pub struct Model {
    entries: BTreeMap<Vec<u8>, Versioned>,
    /// The number of the last write in the order of all writes.
    revision: u64,
    sessions: Sessions,
    /// What the entries may come to.
    bytes_max: u64,
}

impl Model {
    /// The state before the first header, with so many client keys.
    #[must_use]
    pub fn new(limits: StateLimits, clients: usize) -> Self {
        let bytes_max = limits.bytes_max;
        Self { entries: BTreeMap::new(), revision: 0, sessions: Sessions::new(limits, clients), bytes_max }
    }

    /// Executes a bundle with a good signature of an allowed client.
    pub fn bundle(&mut self, seq: Seq, bundle: &WrittenBundle) -> Fate {
        let WrittenBundle { client, session, number, request, operations } = bundle;
        if *session == SessionId::NONE {
            return match (operations.as_slice(), number) {
                ([Operation::Register { nonce, recent }], BundleNumber(0)) => {
                    match self.sessions.register(seq, *client, *nonce, *recent) {
                        Ok(session) => Fate::Answered(session.seq, OperationResult::Registered { session }),
                        Err(error) => Fate::Answered(seq, OperationResult::Error(error)),
                    }
                }
                _ => Fate::Nothing,
            };
        }
        let is_void = *operations == [Operation::Void];
        match self.sessions.admit(seq, *client, *session, *number, (*request, is_void)) {
            Admission::Execute => {
                let results = if is_void {
                    vec![OperationResult::Voided]
                } else {
                    operations.iter().map(|operation| self.operation(operation)).collect()
                };
                self.sessions.keep(*session, *number, archived_bytes(&results));
                Fate::Executed(results)
            }
            Admission::Refuse(error, at) => Fate::Answered(at, OperationResult::Error(error)),
            Admission::Nothing => Fate::Nothing,
        }
    }

    /// The header with this time is executed to its end.
    pub fn header(&mut self, seq: Seq, timestamp: Nanoseconds) {
        self.sessions.header(seq, timestamp);
    }

    fn operation(&mut self, operation: &Operation) -> OperationResult {
        self.apply(operation).unwrap_or_else(OperationResult::Error)
    }

    fn apply(&mut self, operation: &Operation) -> Result<OperationResult, OperationError> {
        Ok(match operation {
            Operation::Register { .. } | Operation::Void => return Err(OperationError::Misplaced),
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
                let text = value.to_string().into_bytes();
                self.check_room(&BTreeMap::from([(key, &text)]))?;
                OperationResult::Integer { value, version: self.put(key, text) }
            }
            Operation::Append { key, value } => {
                let mut whole = self.entries.get(checked(key)?).map(|e| e.value.clone()).unwrap_or_default();
                whole.extend_from_slice(value);
                let length = fitting(&whole)?.len() as u64;
                self.check_room(&BTreeMap::from([(key, &whole)]))?;
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
        let value = value.to_vec();
        self.check_room(&BTreeMap::from([(&key.to_vec(), &value)]))?;
        Ok(OperationResult::Written { version: self.put(key, value) })
    }

    fn multi_set(&mut self, entries: &[KeyValue]) -> Result<OperationResult, OperationError> {
        few(entries.len())?;
        for entry in entries {
            checked(&entry.key)?;
            fitting(&entry.value)?;
        }
        self.check_room(&entries.iter().map(|entry| (&entry.key, &entry.value)).collect())?;
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

    /// Whether these values may be written, all of them: there is room for them, or they make the state no larger.
    fn check_room(&self, values: &BTreeMap<&Vec<u8>, &Vec<u8>>) -> Result<(), OperationError> {
        let size = |key: &Vec<u8>, value: &Vec<u8>| (key.len() + value.len() + 32) as u64;
        let bytes = self.bytes();
        let replaced: u64 =
            values.keys().filter_map(|key| Some(size(key, &self.entries.get(*key)?.value))).sum();
        let written: u64 = values.iter().map(|(key, value)| size(key, value)).sum();
        let after = bytes - replaced + written;
        if after > bytes && after > self.bytes_max {
            return Err(OperationError::StateFull { bytes, bytes_max: self.bytes_max });
        }
        Ok(())
    }

    /// What all entries come to.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|(key, entry)| (key.len() + entry.value.len() + 32) as u64).sum()
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

    /// The bytes of results that are kept.
    #[must_use]
    pub fn reply_bytes(&self) -> u64 {
        self.sessions.reply_bytes()
    }

    /// The bundles whose results are not kept any more though their numbers are.
    #[must_use]
    pub fn gone(&self) -> &BTreeSet<(SessionId, BundleNumber)> {
        self.sessions.gone()
    }
}

/// How long results are as they travel.
fn archived_bytes(results: &Vec<OperationResult>) -> u64 {
    rkyv::to_bytes::<rkyv::rancor::Failure>(results).expect("invariant: results can be archived").len() as u64
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
    use quorate_types::Nonce;
    use quorate_wire::testing::client_key;

    fn bundle(session: SessionId, number: u64, operation: Operation) -> WrittenBundle {
        let client = *client_key().public().as_bytes();
        WrittenBundle::new(client, session, BundleNumber(number), vec![operation])
    }

    fn opened() -> (Model, SessionId) {
        let mut model = Model::new(StateLimits::default(), 1);
        let register = Operation::Register { nonce: Nonce([3; 16]), recent: 0 };
        let fate = model.bundle(Seq(1), &bundle(SessionId::NONE, 0, register));
        let session = SessionId { seq: Seq(1), place: 0 };
        assert_eq!(fate, Fate::Answered(Seq(1), OperationResult::Registered { session }));
        (model, session)
    }

    #[test]
    fn a_bundle_takes_effect_once_and_in_order() {
        let (mut model, session) = opened();
        let increment = Operation::IncrementBy { key: b"n".to_vec(), by: 2 };
        let mut run = |number| model.bundle(Seq(2), &bundle(session, number, increment.clone()));
        assert_eq!(run(2), Fate::Nothing);
        assert_eq!(run(1), Fate::Executed(vec![OperationResult::Integer { value: 2, version: 1 }]));
        assert_eq!(run(1), Fate::Nothing);
        assert_eq!(run(2), Fate::Executed(vec![OperationResult::Integer { value: 4, version: 2 }]));
        let void = model.bundle(Seq(3), &bundle(session, 3, Operation::Void));
        assert_eq!(void, Fate::Executed(vec![OperationResult::Voided]));
        let late = model.bundle(Seq(4), &bundle(session, 3, increment));
        assert_eq!(late, Fate::Answered(Seq(3), OperationResult::Error(OperationError::NumberUsed)));
    }

    #[test]
    fn a_full_state_takes_what_makes_it_no_larger() {
        let set = |key: &str, value: &str| Operation::Set {
            key: key.into(),
            value: value.into(),
            condition: Condition::Always,
        };
        let mut model = Model::new(StateLimits { bytes_max: 69, ..StateLimits::default() }, 1);
        assert_eq!(model.operation(&set("a", "12")), OperationResult::Written { version: 1 });
        assert_eq!(model.operation(&set("b", "9")), OperationResult::Written { version: 2 });
        let full = |bytes| OperationResult::Error(OperationError::StateFull { bytes, bytes_max: 69 });
        assert_eq!(model.operation(&set("b", "99")), full(69));
        assert_eq!(model.operation(&set("c", "")), full(69));
        let add = |by| Operation::IncrementBy { key: b"b".to_vec(), by };
        assert_eq!(model.operation(&add(-1)), OperationResult::Integer { value: 8, version: 3 });
        assert_eq!(model.operation(&add(2)), full(69));
        let entries = ["a", "b", "b"].map(|key| KeyValue { key: key.into(), value: vec![b'v'; key.len()] });
        let mset = Operation::MultiSet { entries: entries.to_vec() };
        assert_eq!(model.operation(&mset), OperationResult::Written { version: 6 });
        assert_eq!(model.bytes(), 68);
    }

    #[test]
    fn conditions_and_scans() {
        let (mut model, _) = opened();
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
