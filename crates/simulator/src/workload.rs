//! What clients ask for: every operation, on few keys, with values that name their writer. Keys that are read and
//! written back on condition are also written without one.

use crate::plan::{LARGE_VALUE_BYTES_MAX, WorkloadPlan};
use crate::random::Random;
use quorate_types::{Condition, KeyValue, Operation, OperationResult, limits};
use std::collections::BTreeMap;

/// A version of a key, and the number that it held, if it was told one.
#[derive(Clone, Copy, Debug)]
struct Seen {
    version: u64,
    number: Option<i64>,
}

/// The operations of one client.
#[derive(Debug)]
pub struct Workload {
    plan: WorkloadPlan,
    client: usize,
    written: u64,
    /// What the client has seen last of each key, for conditions that have a chance to hold.
    seen: BTreeMap<Vec<u8>, Seen>,
}

impl Workload {
    /// The workload of one client.
    #[must_use]
    pub fn new(plan: WorkloadPlan, client: usize) -> Self {
        Self { plan, client, written: 0, seen: BTreeMap::new() }
    }

    /// The operations of the next bundle.
    pub fn bundle(&mut self, random: &mut Random) -> Vec<Operation> {
        let count = random.between(1, self.plan.operations_max);
        if let Some(count) = self.plan.greedy {
            return (0..count).map(|_| Operation::IncrementBy { key: self.counter(random), by: 1 }).collect();
        }
        let mut operations: Vec<Operation> = (0..count).map(|_| self.operation(random)).collect();
        if random.permille(self.plan.large_permille) {
            let length = random.index(LARGE_VALUE_BYTES_MAX);
            let value = vec![b'.'; length];
            operations.push(Operation::Set { key: b"large".to_vec(), value, condition: Condition::Always });
        }
        operations
    }

    /// A bundle that reads everything, so that nothing that happened stays unseen.
    #[must_use]
    pub fn read_everything() -> Vec<Operation> {
        let limit = u32::try_from(limits::SCAN_ENTRIES_MAX).expect("invariant: a small number");
        vec![Operation::Scan { start: Vec::new(), end: Vec::new(), limit }]
    }

    fn operation(&mut self, random: &mut Random) -> Operation {
        match random.below(24) {
            0..=2 => Operation::Get { key: self.key(random) },
            3..=6 => self.set(random),
            7 => Operation::Delete { key: self.key(random) },
            8 => Operation::Exists { key: self.key(random) },
            9..=12 => Operation::IncrementBy { key: self.counter(random), by: increment(random) },
            13..=15 => Operation::Append { key: self.log(random), value: self.value(random, 24) },
            16 => Operation::MultiGet { keys: (0..random.below(4)).map(|_| self.key(random)).collect() },
            17 => Operation::MultiSet {
                entries: (0..random.below(4))
                    .map(|_| KeyValue {
                        key: self.key(random),
                        value: self.value(random, self.plan.value_bytes_max),
                    })
                    .collect(),
            },
            18 => Operation::Scan {
                start: self.key(random),
                end: if random.percent(50) { Vec::new() } else { self.key(random) },
                limit: u32::try_from(random.below(6)).expect("invariant: small"),
            },
            19..=22 => self.compare_and_set(random),
            _ => odd(random),
        }
    }

    /// Counts on from what was seen of a counter, if nobody has written it since. Others add to it meanwhile.
    fn compare_and_set(&mut self, random: &mut Random) -> Operation {
        let key = self.counter(random);
        let seen = self.seen.get(&key).copied();
        let Some(Seen { version, number: Some(number) }) = seen else { return Operation::Get { key } };
        let value = number.saturating_add(1).to_string().into_bytes();
        Operation::Set { key, value, condition: Condition::Version(version) }
    }

    fn set(&mut self, random: &mut Random) -> Operation {
        let key = self.key(random);
        let condition = match random.below(8) {
            0 => Condition::Absent,
            1 => Condition::Present,
            2 | 3 => Condition::Version(self.seen.get(&key).map_or(0, |seen| seen.version)),
            _ => Condition::Always,
        };
        Operation::Set { key, value: self.value(random, self.plan.value_bytes_max), condition }
    }

    /// Any sort of key: reads and writes meet counters and logs too.
    fn key(&self, random: &mut Random) -> Vec<u8> {
        match random.below(8) {
            0 => self.counter(random),
            1 => self.log(random),
            _ => self.named("k", random),
        }
    }

    fn counter(&self, random: &mut Random) -> Vec<u8> {
        self.named("n", random)
    }

    fn log(&self, random: &mut Random) -> Vec<u8> {
        self.named("l", random)
    }

    fn named(&self, sort: &str, random: &mut Random) -> Vec<u8> {
        format!("{sort}{}", random.below(self.plan.keys)).into_bytes()
    }

    /// A value that no other operation writes, padded to a random length.
    fn value(&mut self, random: &mut Random, length_max: u64) -> Vec<u8> {
        self.written += 1;
        let mut value = format!("c{}w{};", self.client, self.written).into_bytes();
        let length = value.len() + random.index(usize::try_from(length_max).expect("invariant: small"));
        value.resize(length, b'.');
        value
    }

    /// Learns versions from an answer.
    pub fn on_results(&mut self, operations: &[Operation], results: &[OperationResult]) {
        for pair in operations.iter().zip(results) {
            match pair {
                (Operation::Get { key }, OperationResult::Value(Some(found))) => {
                    self.on_seen(key, found.version, number(&found.value));
                }
                (Operation::Set { key, value, .. }, OperationResult::Written { version }) => {
                    self.on_seen(key, *version, number(value));
                }
                (Operation::Set { key, .. }, OperationResult::NotWritten { version: Some(version) })
                | (Operation::Append { key, .. }, OperationResult::Length { version, .. }) => {
                    self.on_seen(key, *version, None);
                }
                (Operation::IncrementBy { key, .. }, OperationResult::Integer { value, version }) => {
                    self.on_seen(key, *version, Some(*value));
                }
                (Operation::Scan { .. }, OperationResult::Entries { entries, .. }) => {
                    for entry in entries {
                        self.on_seen(&entry.key, entry.version, number(&entry.value));
                    }
                }
                _ => {}
            }
        }
    }

    fn on_seen(&mut self, key: &[u8], version: u64, number: Option<i64>) {
        self.seen.insert(key.to_vec(), Seen { version, number });
    }
}

fn number(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn increment(random: &mut Random) -> i64 {
    let amount = i64::try_from(random.below(100)).expect("invariant: small");
    match random.below(20) {
        0 => i64::MAX,
        1 => i64::MIN,
        _ => amount - 30,
    }
}

/// What answers with an error.
fn odd(random: &mut Random) -> Operation {
    let long = vec![b'k'; limits::KEY_BYTES_MAX + 1];
    match random.below(4) {
        0 => Operation::Get { key: long },
        1 => Operation::Delete { key: long },
        2 => Operation::Scan { start: Vec::new(), end: Vec::new(), limit: u32::MAX },
        _ => Operation::MultiGet { keys: vec![b"k0".to_vec(), long] },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use crate::random::Stream;

    #[test]
    fn a_counter_that_was_seen_is_counted_on_unless_somebody_else_has() {
        let mut workload = Workload::new(Plan::of(3).workload, 0);
        let mut random = Random::new(3, Stream::Workload);
        let add = |key: &Vec<u8>| Operation::IncrementBy { key: key.clone(), by: 1 };
        let sum = [OperationResult::Integer { value: 41, version: 7 }];
        for _ in 0..20 {
            let Operation::Get { key } = workload.compare_and_set(&mut random) else { continue };
            workload.on_results(&[add(&key)], &sum);
        }
        let Operation::Set { value, condition, .. } = workload.compare_and_set(&mut random) else {
            panic!("every counter was seen");
        };
        assert_eq!((value.as_slice(), condition), (b"42".as_slice(), Condition::Version(7)));
    }

    #[test]
    fn every_operation_occurs_and_no_bundle_is_empty() {
        let mut workload = Workload::new(Plan::of(3).workload, 0);
        let mut random = Random::new(3, Stream::Workload);
        let mut names = std::collections::BTreeSet::new();
        for _ in 0..500 {
            let bundle = workload.bundle(&mut random);
            assert!(!bundle.is_empty());
            for operation in bundle {
                let text = format!("{operation:?}");
                names.insert(text.split([' ', '{']).next().unwrap().to_owned());
            }
        }
        let all = ["Append", "Delete", "Exists", "Get", "IncrementBy", "MultiGet", "MultiSet", "Scan", "Set"];
        assert_eq!(names.into_iter().collect::<Vec<_>>(), all);
    }
}
