//! Versions keep their promise: each is given to one write, in the order of the writes, and a condition on one holds
//! for the value that it names and for no other. So nothing that is read, changed and written back on condition loses
//! what others have written meanwhile.
//!
//! Judged from what replicas have told alone, without the model, in the committed order. What nobody has told (a
//! bundle whose answers were all lost) may have done whatever its operations may do.

use super::Violation;
use super::history::Executed;
use quorate_types::{Condition, Operation, OperationResult};
use std::collections::BTreeMap;

const ORACLE: &str = "versions";

/// What is known of a key's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Known {
    /// Nothing but that it is not older than the highest version told of the key.
    #[default]
    Little,
    Absent,
    Version(u64),
}

#[derive(Debug, Default)]
struct Key {
    known: Known,
    /// The highest version told of it.
    floor: u64,
}

/// What was told so far.
#[derive(Debug, Default)]
struct Told {
    keys: BTreeMap<Vec<u8>, Key>,
    /// The highest version given to a write.
    highest: u64,
}

/// Checks the results told of bundles in the order of their execution.
pub fn check<'a>(
    bundles: impl Iterator<Item = (&'a Executed, Option<Vec<OperationResult>>)>,
) -> Result<(), Violation> {
    let mut told = Told::default();
    for (bundle, results) in bundles {
        let Some(results) = results else {
            bundle.operations.iter().for_each(|operation| told.on_untold(operation));
            continue;
        };
        for (operation, result) in bundle.operations.iter().zip(&results) {
            told.on_result(operation, result).map_err(|problem| {
                let (session, number, seq) = (bundle.session, bundle.number, bundle.seq);
                let text = format!(
                    "{session:?} {number:?} at {seq:?}: {operation:?} answered {result:?}, but {problem}"
                );
                Violation::new(ORACLE, text)
            })?;
        }
    }
    Ok(())
}

impl Told {
    fn key(&mut self, key: &[u8]) -> &mut Key {
        self.keys.entry(key.to_vec()).or_default()
    }

    fn on_untold(&mut self, operation: &Operation) {
        match operation {
            Operation::Set { key, .. }
            | Operation::Delete { key }
            | Operation::IncrementBy { key, .. }
            | Operation::Append { key, .. } => self.key(key).known = Known::Little,
            Operation::MultiSet { entries } => {
                entries.iter().for_each(|entry| self.key(&entry.key).known = Known::Little);
            }
            Operation::Register { .. }
            | Operation::Void
            | Operation::Get { .. }
            | Operation::Exists { .. }
            | Operation::MultiGet { .. }
            | Operation::Scan { .. } => {}
        }
    }

    fn on_result(&mut self, operation: &Operation, result: &OperationResult) -> Result<(), String> {
        match (operation, result) {
            (Operation::Set { key, condition, .. }, OperationResult::Written { version }) => {
                self.key(key).check_held(*condition)?;
                self.on_written(key, *version)
            }
            (Operation::Set { key, condition, .. }, OperationResult::NotWritten { version }) => {
                self.key(key).on_read(*version)?;
                self.key(key).check_not_held(*condition)
            }
            (
                Operation::IncrementBy { key, .. } | Operation::Append { key, .. },
                OperationResult::Integer { version, .. } | OperationResult::Length { version, .. },
            ) => self.on_written(key, *version),
            (Operation::MultiSet { entries }, OperationResult::Written { version }) => {
                let first = (version + 1).saturating_sub(entries.len() as u64);
                (first..).zip(entries).try_for_each(|(version, entry)| self.on_written(&entry.key, version))
            }
            (Operation::Delete { key } | Operation::Exists { key }, OperationResult::Existed(existed)) => {
                let removes = matches!(operation, Operation::Delete { .. });
                self.key(key).on_existed(*existed, removes)
            }
            (Operation::Get { key }, OperationResult::Value(value)) => {
                self.key(key).on_read(value.as_ref().map(|found| found.version))
            }
            (Operation::MultiGet { keys }, OperationResult::Values(values)) => {
                let mut pairs = keys.iter().zip(values);
                pairs.try_for_each(|(key, value)| {
                    self.key(key).on_read(value.as_ref().map(|found| found.version))
                })
            }
            (Operation::Scan { .. }, OperationResult::Entries { entries, .. }) => {
                entries.iter().try_for_each(|entry| self.key(&entry.key).on_read(Some(entry.version)))
            }
            // An error changes nothing; a result of another sort is seen by the comparison with the model.
            _ => Ok(()),
        }
    }

    fn on_written(&mut self, key: &[u8], version: u64) -> Result<(), String> {
        if version <= self.highest {
            return Err(format!("version {} was given to a write before", self.highest));
        }
        self.highest = version;
        *self.key(key) = Key { known: Known::Version(version), floor: version };
        Ok(())
    }
}

impl Key {
    /// The key is told to have this version, or not to exist.
    fn on_read(&mut self, version: Option<u64>) -> Result<(), String> {
        let read = version.map_or(Known::Absent, Known::Version);
        if self.known != Known::Little && self.known != read {
            return Err(format!("the key is {:?}", self.known));
        }
        let version = version.unwrap_or(self.floor);
        if version < self.floor {
            return Err(format!("the key had version {} before", self.floor));
        }
        (self.known, self.floor) = (read, version);
        Ok(())
    }

    fn on_existed(&mut self, existed: bool, removes: bool) -> Result<(), String> {
        match (self.known, existed) {
            (Known::Absent, true) => return Err("the key is absent".to_owned()),
            (Known::Version(version), false) => return Err(format!("the key has version {version}")),
            _ => {}
        }
        if removes || !existed {
            self.known = Known::Absent;
        }
        Ok(())
    }

    /// A write was done on this condition.
    fn check_held(&self, condition: Condition) -> Result<(), String> {
        let held = match (condition, self.known) {
            (Condition::Version(wanted), Known::Little) => wanted >= self.floor,
            (Condition::Version(wanted), Known::Version(version)) => wanted == version,
            (Condition::Version(_) | Condition::Present, Known::Absent)
            | (Condition::Absent, Known::Version(_)) => false,
            _ => true,
        };
        if held { Ok(()) } else { Err(format!("the key is {:?}: an update is lost", self.known)) }
    }

    /// A write was not done on this condition; what the key has is known by now.
    fn check_not_held(&self, condition: Condition) -> Result<(), String> {
        let holds = match (condition, self.known) {
            (Condition::Version(wanted), Known::Version(version)) => wanted == version,
            (Condition::Absent, Known::Absent)
            | (Condition::Present, Known::Version(_))
            | (Condition::Always, _) => true,
            _ => false,
        };
        if holds { Err("the condition holds".to_owned()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::{BundleNumber, Digest, KeyValue, Seq, Versioned};
    use quorate_wire::testing::SESSION;

    type Told = Option<Vec<OperationResult>>;

    fn bundle(operation: Operation, result: Option<OperationResult>) -> (Executed, Told) {
        let executed = Executed {
            seq: Seq(3),
            session: SESSION,
            number: BundleNumber(1),
            request: Digest::ZERO,
            operations: vec![operation],
            results: Vec::new(),
        };
        (executed, result.map(|result| vec![result]))
    }

    fn increment(version: u64) -> (Executed, Told) {
        let result = OperationResult::Integer { value: 1, version };
        bundle(Operation::IncrementBy { key: b"n".to_vec(), by: 1 }, Some(result))
    }

    fn set(condition: Condition, result: Option<OperationResult>) -> (Executed, Told) {
        bundle(Operation::Set { key: b"n".to_vec(), value: b"7".to_vec(), condition }, result)
    }

    fn written(version: u64) -> Option<OperationResult> {
        Some(OperationResult::Written { version })
    }

    fn read(version: Option<u64>) -> (Executed, Told) {
        let value = version.map(|version| Versioned { value: b"1".to_vec(), version });
        bundle(Operation::Get { key: b"n".to_vec() }, Some(OperationResult::Value(value)))
    }

    fn remove() -> (Executed, Told) {
        bundle(Operation::Delete { key: b"n".to_vec() }, Some(OperationResult::Existed(true)))
    }

    fn judge(bundles: &[(Executed, Told)]) -> Result<(), String> {
        check(bundles.iter().map(|(executed, told)| (executed, told.clone())))
            .map_err(|violation| violation.message)
    }

    #[test]
    fn what_keeps_the_promise_passes() {
        let on = |version| Condition::Version(version);
        let not = |version| Some(OperationResult::NotWritten { version });
        judge(&[
            read(None),
            increment(1),
            read(Some(1)),
            increment(2),
            set(on(1), not(Some(2))),
            set(on(2), written(3)),
            remove(),
            set(on(3), not(None)),
            set(Condition::Absent, written(5)),
            set(Condition::Present, written(6)),
        ])
        .unwrap();
    }

    #[test]
    fn two_writes_of_one_version_are_seen() {
        assert!(judge(&[increment(3), increment(3)]).unwrap_err().contains("was given to a write before"));
        let entry = |key: &[u8]| KeyValue { key: key.to_vec(), value: vec![] };
        let entries = vec![entry(b"a"), entry(b"b")];
        let both = bundle(Operation::MultiSet { entries }, written(3));
        judge(&[increment(1), both.clone()]).unwrap();
        assert!(judge(&[increment(2), both]).is_err(), "the first of both has version 2 as well");
    }

    #[test]
    fn a_lost_update_is_seen() {
        let lost = [increment(1), read(Some(1)), increment(2), set(Condition::Version(1), written(3))];
        assert!(judge(&lost).unwrap_err().contains("an update is lost"));
        let gone = [increment(1), remove(), set(Condition::Version(1), written(3))];
        assert!(judge(&gone).unwrap_err().contains("an update is lost"));
        assert!(judge(&[increment(1), set(Condition::Absent, written(2))]).is_err());
    }

    #[test]
    fn a_condition_that_holds_and_is_refused_is_seen() {
        let refused = OperationResult::NotWritten { version: Some(1) };
        let bundles = [increment(1), set(Condition::Version(1), Some(refused))];
        assert!(judge(&bundles).unwrap_err().contains("the condition holds"));
    }

    #[test]
    fn a_stale_read_is_seen() {
        assert!(judge(&[increment(1), increment(2), read(Some(1))]).is_err());
        assert!(judge(&[increment(1), read(None)]).is_err());
        assert!(judge(&[increment(1), remove(), read(Some(1))]).is_err());
    }

    #[test]
    fn what_nobody_told_may_have_been_done_or_not() {
        let untold = set(Condition::Version(1), None);
        judge(&[increment(1), untold.clone(), read(Some(1)), set(Condition::Version(1), written(2))])
            .unwrap();
        judge(&[increment(1), untold.clone(), read(Some(2)), set(Condition::Version(2), written(3))])
            .unwrap();
        judge(&[increment(1), untold.clone(), set(Condition::Version(2), written(3))]).unwrap();
        assert!(judge(&[increment(2), untold, set(Condition::Version(1), written(4))]).is_err());
    }
}
