//! The operations of one client, made from a seed.
//!
//! The bundle is kept and refilled in place, and values are windows into a block of random bytes, so that
//! making an operation costs a few random numbers and two small copies, and allocates nothing once each kind
//! has been seen often enough.

mod distribution;
mod mix;
mod value_size;

pub use distribution::Distribution;
pub use mix::Mix;
pub use value_size::ValueSize;

use crate::LoadArguments;
use crate::arguments::KEY_BYTES;
use distribution::KeyChooser;
pub(crate) use mix::OperationKind;
use quorate_types::{Condition, Operation};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const BLOCK_BYTES: usize = 64 * 1024;
/// What an APPEND adds at most. Values stay far below their limit although APPENDs come in a row.
pub(crate) const APPEND_BYTES_MAX: usize = 64;
/// How many entries a SCAN asks for.
pub(crate) const SCAN_ENTRIES: u32 = 10;

/// Makes bundles for ever.
#[derive(Debug)]
pub(crate) struct Workload {
    random: ChaCha8Rng,
    chooser: KeyChooser,
    /// A kind is chosen when the low 32 bits of a random number are below its threshold and not below the
    /// previous one.
    thresholds: [u64; OperationKind::COUNT],
    value_size: ValueSize,
    /// Random bytes; a value starts anywhere in the first [`BLOCK_BYTES`].
    block: Vec<u8>,
    kinds: Vec<OperationKind>,
    bundle: Vec<Operation>,
    /// Operations that are not in the bundle at present, by kind, kept for their memory.
    spares: [Vec<Operation>; OperationKind::COUNT],
}

impl Workload {
    /// The workload of one client; each client draws from a stream of its own.
    pub(crate) fn new(arguments: &LoadArguments, client: usize) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(arguments.seed);
        random.set_stream(client as u64);
        let value_size = arguments.value_size;
        let mut block = vec![0; BLOCK_BYTES + value_size.most.max(APPEND_BYTES_MAX)];
        random.fill_bytes(&mut block);
        let kind = OperationKind::Set;
        Self {
            random,
            chooser: KeyChooser::new(arguments.distribution, arguments.keys, client, arguments.clients),
            thresholds: arguments.mix.thresholds(),
            value_size,
            block,
            kinds: vec![kind; arguments.bundle],
            bundle: (0..arguments.bundle).map(|_| new_operation(kind, value_size)).collect(),
            spares: [const { Vec::new() }; OperationKind::COUNT],
        }
    }

    /// The next bundle.
    pub(crate) fn next(&mut self) -> &Vec<Operation> {
        for index in 0..self.bundle.len() {
            let which = self.random.next_u64();
            let kind = self.kind(which);
            if kind != self.kinds[index] {
                self.change_kind(index, kind);
            }
            let number = self.chooser.choose(kind == OperationKind::Set, &mut self.random);
            // The upper bits did not take part in the choice of the kind.
            let [_, _, _, _, place @ .., size_low, size_high] = which.to_le_bytes();
            let start = usize::from(u16::from_le_bytes(place));
            let length = self.value_size.pick(u16::from_le_bytes([size_low, size_high]));
            match &mut self.bundle[index] {
                Operation::Get { key } | Operation::Delete { key } | Operation::Scan { start: key, .. } => {
                    write_key(key, b"key-", number);
                }
                // A counter is no value that others have written.
                Operation::IncrementBy { key, .. } => write_key(key, b"cnt-", number),
                Operation::Set { key, value, .. } => {
                    write_key(key, b"key-", number);
                    value.clear();
                    value.extend_from_slice(&self.block[start..start + length]);
                }
                Operation::Append { key, value } => {
                    write_key(key, b"key-", number);
                    value.clear();
                    value.extend_from_slice(&self.block[start..start + length.min(APPEND_BYTES_MAX)]);
                }
                other => unreachable!("invariant: {other:?} is never put into the bundle"),
            }
        }
        &self.bundle
    }

    fn kind(&self, which: u64) -> OperationKind {
        let low = which & u64::from(u32::MAX);
        let index = self.thresholds.iter().position(|threshold| low < *threshold);
        OperationKind::ALL[index.expect("invariant: the last threshold is 2^32")]
    }

    fn change_kind(&mut self, index: usize, kind: OperationKind) {
        let spare = self.spares[kind as usize].pop();
        let new = spare.unwrap_or_else(|| new_operation(kind, self.value_size));
        let old = std::mem::replace(&mut self.bundle[index], new);
        let old_kind = std::mem::replace(&mut self.kinds[index], kind);
        self.spares[old_kind as usize].push(old);
    }
}

/// An operation with room for the longest key and value.
fn new_operation(kind: OperationKind, value_size: ValueSize) -> Operation {
    let key = vec![0; KEY_BYTES];
    match kind {
        OperationKind::Set => {
            let value = Vec::with_capacity(value_size.most);
            Operation::Set { key, value, condition: Condition::Always }
        }
        OperationKind::Get => Operation::Get { key },
        OperationKind::Increment => Operation::IncrementBy { key, by: 1 },
        OperationKind::Append => Operation::Append { key, value: Vec::with_capacity(APPEND_BYTES_MAX) },
        OperationKind::Delete => Operation::Delete { key },
        OperationKind::Scan => Operation::Scan { start: key, end: Vec::new(), limit: SCAN_ENTRIES },
    }
}

/// A prefix and twelve hexadecimal digits.
fn write_key(key: &mut [u8], prefix: &[u8; 4], number: u64) {
    key[..4].copy_from_slice(prefix);
    for (position, digit) in key[4..KEY_BYTES].iter_mut().rev().enumerate() {
        let nibble = usize::try_from(number >> (4 * position) & 15).expect("invariant: below 16");
        *digit = b"0123456789abcdef"[nibble];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::tests::parse;
    use std::collections::{BTreeMap, BTreeSet};

    fn workload(line: &str, client: usize) -> Workload {
        Workload::new(&parse(line).unwrap().load, client)
    }

    #[test]
    fn the_same_seed_and_client_make_the_same_operations_and_others_do_not() {
        let make = |line: &str, client| {
            let mut workload = workload(line, client);
            workload.next();
            workload.next().clone()
        };
        assert_eq!(make("--seed 5", 1), make("--seed 5", 1));
        assert_ne!(make("--seed 5", 1), make("--seed 5", 2));
        assert_ne!(make("--seed 5", 1), make("--seed 6", 1));
    }

    #[test]
    fn keys_stay_in_range_and_values_have_their_size() {
        let mut workload = workload("--keys 3 --value-size 7..9 --bundle 50", 0);
        let (mut keys, mut sizes) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..20 {
            for operation in workload.next() {
                let Operation::Set { key, value, condition: Condition::Always } = operation else {
                    panic!("{operation:?}")
                };
                sizes.insert(value.len());
                keys.insert(String::from_utf8(key.clone()).unwrap());
            }
        }
        let all = ["key-000000000000", "key-000000000001", "key-000000000002"];
        assert_eq!(keys.iter().map(String::as_str).collect::<Vec<_>>(), all);
        assert_eq!(sizes.into_iter().collect::<Vec<_>>(), [7, 8, 9]);
    }

    #[test]
    fn the_mix_is_kept_and_counters_have_keys_of_their_own() {
        let mut workload = workload("--mix set=50,get=30,incr=5,append=5,del=5,scan=5", 0);
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for _ in 0..100 {
            for operation in workload.next() {
                let (name, key) = match operation {
                    Operation::Set { key, .. } => ("set", key),
                    Operation::Get { key } => ("get", key),
                    Operation::IncrementBy { key, by: 1 } => ("incr", key),
                    Operation::Append { key, value } => {
                        assert_eq!(value.len(), APPEND_BYTES_MAX);
                        ("append", key)
                    }
                    Operation::Delete { key } => ("del", key),
                    Operation::Scan { start, limit: SCAN_ENTRIES, .. } => ("scan", start),
                    other => panic!("{other:?}"),
                };
                assert_eq!(key.starts_with(b"cnt-"), name == "incr");
                *counts.entry(name).or_default() += 1;
            }
        }
        for (name, expected) in [("set", 5000), ("get", 3000), ("incr", 500), ("append", 500), ("scan", 500)]
        {
            let found = counts[name];
            assert!((expected * 8 / 10..expected * 12 / 10).contains(&found), "{name}: {found}");
        }
    }

    #[test]
    fn one_kind_alone_is_never_mixed_with_another() {
        let mut reads = workload("--mix get=1", 0);
        assert!(reads.next().iter().all(|operation| matches!(operation, Operation::Get { .. })));
    }
}
