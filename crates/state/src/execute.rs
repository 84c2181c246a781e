//! The operations: each works on its archived form, in one descent of the tree, and writes its result.
//!
//! Operations of one bundle run in order and see each other's effects. Each succeeds or fails by itself.

use std::collections::BTreeMap;
use std::io::Write;

use quorate_types::{ArchivedCondition, ArchivedKeyValue, ArchivedOperation, OperationError, limits};
use rkyv::vec::ArchivedVec;

use crate::leaf::{Change, Edit, VersionedRef};
use crate::results::{Overflow, Results};
use crate::totals::{self, Totals};
use crate::tree::Tree;
use crate::window::Window;

/// The digits and sign of the longest 64-bit integer.
const INTEGER_BYTES_MAX: usize = 20;

/// What the operations of one window work on.
#[derive(Debug)]
pub(crate) struct Execution<'a> {
    pub(crate) tree: &'a mut Tree,
    pub(crate) totals: &'a mut Totals,
    pub(crate) results: &'a mut Results,
    /// The keys of all operations of the window.
    pub(crate) keys: &'a Window,
    /// The place there of the next operation's first key.
    pub(crate) first_key: usize,
    /// What users' entries may come to.
    pub(crate) bytes_max: u64,
    /// How many operations there was no room for.
    pub(crate) declined_full: &'a mut u64,
}

impl Execution<'_> {
    /// Executes one operation and appends its result.
    pub(crate) fn operation(&mut self, operation: &ArchivedOperation) {
        if let Err(error) = self.dispatch(operation) {
            *self.declined_full += u64::from(matches!(error, OperationError::StateFull { .. }));
            self.results.error(error);
        }
        self.first_key += Window::keys_of(operation);
    }

    fn dispatch(&mut self, operation: &ArchivedOperation) -> Result<(), OperationError> {
        match operation {
            ArchivedOperation::Register { .. } | ArchivedOperation::Void => Err(OperationError::Misplaced),
            ArchivedOperation::Get { key } => self.get(key),
            ArchivedOperation::Set { key, value, condition } => self.set(key, value, condition),
            ArchivedOperation::Delete { key } => self.delete(key),
            ArchivedOperation::Exists { key } => self.exists(key),
            ArchivedOperation::IncrementBy { key, by } => self.increment(key, by.to_native()),
            ArchivedOperation::Append { key, value } => self.append(key, value),
            ArchivedOperation::MultiGet { keys } => self.multi_get(keys),
            ArchivedOperation::MultiSet { entries } => self.multi_set(entries),
            ArchivedOperation::Scan { start, end, limit } => self.scan(start, end, limit.to_native()),
        }
    }

    fn get(&mut self, key: &[u8]) -> Result<(), OperationError> {
        check_key(key)?;
        self.check_room()?;
        let entry = read(self.tree, self.keys, self.first_key);
        self.results.value(entry).map_err(too_long)
    }

    fn set(&mut self, key: &[u8], value: &[u8], condition: &ArchivedCondition) -> Result<(), OperationError> {
        check_key(key)?;
        check_value(value.len())?;
        let mut present = None;
        let mut outcome = Ok(());
        let room = self.room(0);
        let change = self.edit(0, |entry| {
            present = entry.map(|entry| entry.version);
            if !holds(condition, present) {
                return Edit::Keep;
            }
            outcome = room.check(entry, value.len());
            if outcome.is_ok() { Edit::Put(value) } else { Edit::Keep }
        });
        outcome?;
        if change.written {
            self.results.written(self.totals.revision);
        } else {
            self.results.not_written(present);
        }
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), OperationError> {
        check_key(key)?;
        let change = self.edit(0, |_| Edit::Remove);
        self.results.existed(change.before.is_some());
        Ok(())
    }

    fn exists(&mut self, key: &[u8]) -> Result<(), OperationError> {
        check_key(key)?;
        let entry = read(self.tree, self.keys, self.first_key);
        self.results.existed(entry.is_some());
        Ok(())
    }

    fn increment(&mut self, key: &[u8], by: i64) -> Result<(), OperationError> {
        check_key(key)?;
        let mut text = [0; INTEGER_BYTES_MAX];
        let text = &mut text;
        let mut outcome = Ok(0);
        let room = self.room(0);
        let change = self.edit(0, |entry| {
            let value = match sum(entry, by) {
                Ok(value) => value,
                Err(error) => {
                    outcome = Err(error);
                    return Edit::Keep;
                }
            };
            let text = decimal(value, text);
            outcome = room.check(entry, text.len()).map(|()| value);
            if outcome.is_ok() { Edit::Put(text) } else { Edit::Keep }
        });
        let value = outcome?;
        assert!(change.written, "invariant: a sum is written");
        self.results.integer(value, self.totals.revision);
        Ok(())
    }

    fn append(&mut self, key: &[u8], suffix: &[u8]) -> Result<(), OperationError> {
        check_key(key)?;
        let mut outcome = Ok(());
        let room = self.room(0);
        let change = self.edit(0, |entry| {
            let length = entry.map_or(0, |entry| entry.value.len()) + suffix.len();
            outcome = check_value(length).and_then(|()| room.check(entry, length));
            if outcome.is_ok() { Edit::Append(suffix) } else { Edit::Keep }
        });
        outcome?;
        self.results.length(change.after.unwrap_or_default() as u64, self.totals.revision);
        Ok(())
    }

    fn multi_get(&mut self, keys: &[ArchivedVec<u8>]) -> Result<(), OperationError> {
        check_count(keys.len())?;
        for key in keys {
            check_key(key)?;
        }
        self.check_room()?;
        let (tree, window) = (&*self.tree, self.keys);
        let entries = (self.first_key..self.first_key + keys.len()).map(|at| read(tree, window, at));
        self.results.values(entries).map_err(too_long)
    }

    fn multi_set(&mut self, entries: &[ArchivedKeyValue]) -> Result<(), OperationError> {
        check_count(entries.len())?;
        for entry in entries {
            check_key(&entry.key)?;
            check_value(entry.value.len())?;
        }
        self.check_room_for(entries)?;
        for (at, entry) in entries.iter().enumerate() {
            self.edit(at, |_| Edit::Put(&entry.value));
        }
        self.results.written(self.totals.revision);
        Ok(())
    }

    fn scan(&mut self, start: &[u8], end: &[u8], limit: u32) -> Result<(), OperationError> {
        check_key(start)?;
        check_key(end)?;
        let limit = limit as usize;
        if limit > limits::SCAN_ENTRIES_MAX {
            return Err(OperationError::ScanTooLong { entries: limit as u64 });
        }
        self.check_room()?;
        let range = self.tree.range(self.keys.key(self.first_key).0, &[]);
        let users =
            range.map(|(key, entry)| (&key[1..], entry)).take_while(|(key, _)| end.is_empty() || *key < end);
        self.results.entries(limit, users).map_err(too_long)
    }

    /// Edits the entry with the operation's key number `at`. What changes anything is a write and has the next revision
    /// for itself: a version names one value, and operations of one header are told apart.
    fn edit<'e>(&mut self, at: usize, decide: impl FnOnce(Option<VersionedRef<'_>>) -> Edit<'e>) -> Change {
        let (key, hint) = self.keys.key(self.first_key + at);
        let change = self.tree.edit_hinted(key, hint, self.totals.revision + 1, decide);
        self.totals.count(key.len(), change);
        self.totals.count_user_key(key.len(), change);
        change
    }

    /// The room that there is for the entry with the operation's key number `at`.
    fn room(&self, at: usize) -> Room {
        let key_bytes = self.keys.key(self.first_key + at).0.len();
        Room { key_bytes, bytes: self.totals.user_bytes, bytes_max: self.bytes_max }
    }

    /// Whether there is room for all entries of an MSET. Where an upper bound does not fit, each key counts with the last
    /// value that it gets.
    fn check_room_for(&self, entries: &[ArchivedKeyValue]) -> Result<(), OperationError> {
        let bytes = self.totals.user_bytes;
        let added =
            |entry: &ArchivedKeyValue| totals::user_entry(1 + entry.key.len(), Some(entry.value.len()));
        if bytes + entries.iter().map(added).sum::<u64>() <= self.bytes_max {
            return Ok(());
        }
        let last: BTreeMap<&[u8], usize> = (entries.iter().enumerate())
            .map(|(at, entry)| (self.keys.key(self.first_key + at).0, entry.value.len()))
            .collect();
        let (mut before, mut after) = (0, 0);
        for (key, value) in last {
            before += totals::user_entry(key.len(), self.tree.get(key).map(|entry| entry.value.len()));
            after += totals::user_entry(key.len(), Some(value));
        }
        check_growth(bytes, before, after, self.bytes_max)
    }

    fn check_room(&self) -> Result<(), OperationError> {
        if self.results.overflowed() { Err(OperationError::ResultsTooLong) } else { Ok(()) }
    }
}

/// What is left of the room for users' entries.
#[derive(Clone, Copy, Debug)]
struct Room {
    /// The length of the key that is about to be written, its namespace byte included.
    key_bytes: usize,
    bytes: u64,
    bytes_max: u64,
}

impl Room {
    /// Whether the entry may get a value of so many bytes.
    fn check(self, entry: Option<VersionedRef<'_>>, value_bytes: usize) -> Result<(), OperationError> {
        let before = totals::user_entry(self.key_bytes, entry.map(|entry| entry.value.len()));
        let after = totals::user_entry(self.key_bytes, Some(value_bytes));
        check_growth(self.bytes, before, after, self.bytes_max)
    }
}

/// Whether entries may come to `after` that came to `before`. What grows nothing always may, so that a full state can be
/// worked with, and emptied.
fn check_growth(bytes: u64, before: u64, after: u64, bytes_max: u64) -> Result<(), OperationError> {
    if after > before && bytes + (after - before) > bytes_max {
        return Err(OperationError::StateFull { bytes, bytes_max });
    }
    Ok(())
}

/// The entry with key number `at` of the window.
fn read<'t>(tree: &'t Tree, keys: &Window, at: usize) -> Option<VersionedRef<'t>> {
    let (key, hint) = keys.key(at);
    tree.get_hinted(key, hint)
}

fn too_long(_: Overflow) -> OperationError {
    OperationError::ResultsTooLong
}

fn check_key(key: &[u8]) -> Result<(), OperationError> {
    if key.len() > limits::KEY_BYTES_MAX {
        return Err(OperationError::KeyTooLong { bytes: key.len() as u64 });
    }
    Ok(())
}

fn check_value(bytes: usize) -> Result<(), OperationError> {
    if bytes > limits::VALUE_BYTES_MAX {
        return Err(OperationError::ValueTooLong { bytes: bytes as u64 });
    }
    Ok(())
}

fn check_count(keys: usize) -> Result<(), OperationError> {
    if keys > limits::MULTI_KEYS_MAX {
        return Err(OperationError::TooManyKeys { keys: keys as u64 });
    }
    Ok(())
}

fn holds(condition: &ArchivedCondition, present: Option<u64>) -> bool {
    match condition {
        ArchivedCondition::Always => true,
        ArchivedCondition::Absent => present.is_none(),
        ArchivedCondition::Present => present.is_some(),
        ArchivedCondition::Version(version) => present == Some(version.to_native()),
    }
}

fn sum(entry: Option<VersionedRef<'_>>, by: i64) -> Result<i64, OperationError> {
    let old = match entry {
        Some(entry) => integer(entry.value).ok_or(OperationError::NotAnInteger)?,
        None => 0,
    };
    old.checked_add(by).ok_or(OperationError::Overflow)
}

/// The integer that `text` is, if it is written as [`decimal`] would write it: no sign but one minus, no
/// leading zero, no blank, no "-0".
fn integer(text: &[u8]) -> Option<i64> {
    if text.len() > INTEGER_BYTES_MAX {
        return None;
    }
    let value: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (decimal(value, &mut [0; INTEGER_BYTES_MAX]) == text).then_some(value)
}

fn decimal(value: i64, text: &mut [u8; INTEGER_BYTES_MAX]) -> &[u8] {
    let mut rest = &mut text[..];
    write!(rest, "{value}").expect("invariant: 20 bytes hold every 64-bit integer");
    let unused = rest.len();
    &text[..INTEGER_BYTES_MAX - unused]
}
