//! The operations of one client, made from a seed.
//!
//! The bundle is kept and refilled in place, and values are windows into a block of random bytes, so that
//! making an operation costs a few random numbers and two small copies, and allocates nothing.

use crate::BenchArguments;
use crate::arguments::KEY_BYTES;
use quorate_types::{Condition, Operation};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const BLOCK_BYTES: usize = 64 * 1024;

/// Makes bundles for ever.
#[derive(Debug)]
pub(crate) struct Workload {
    random: ChaCha8Rng,
    keys: u64,
    /// A GET when the low 32 bits of a random number are below it.
    read_threshold: u64,
    value_size: usize,
    /// Random bytes; a value starts anywhere in the first [`BLOCK_BYTES`].
    block: Vec<u8>,
    bundle: Vec<Operation>,
    /// Operations of the other kind, kept for their memory.
    spare_gets: Vec<Operation>,
    spare_sets: Vec<Operation>,
}

impl Workload {
    /// The workload of one client; each client draws from a stream of its own.
    pub(crate) fn new(arguments: &BenchArguments, client: usize) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(arguments.seed);
        random.set_stream(client as u64);
        let mut block = vec![0; BLOCK_BYTES + arguments.value_size];
        random.fill_bytes(&mut block);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the ratio was checked to lie between 0 and 1"
        )]
        let read_threshold = (arguments.read_ratio * (1u64 << 32) as f64) as u64;
        let mut workload = Self {
            random,
            keys: arguments.keys,
            read_threshold,
            value_size: arguments.value_size,
            block,
            bundle: Vec::with_capacity(arguments.bundle),
            spare_gets: Vec::new(),
            spare_sets: Vec::new(),
        };
        for _ in 0..arguments.bundle {
            let set = workload.new_set();
            workload.bundle.push(set);
        }
        workload
    }

    /// The next bundle.
    pub(crate) fn next(&mut self) -> &Vec<Operation> {
        for index in 0..self.bundle.len() {
            let which = self.random.next_u64();
            let number = self.number_of_key();
            let reads = (which & u64::from(u32::MAX)) < self.read_threshold;
            if reads != matches!(self.bundle[index], Operation::Get { .. }) {
                self.change_kind(index, reads);
            }
            match &mut self.bundle[index] {
                Operation::Get { key } => write_key(key, number),
                Operation::Set { key, value, .. } => {
                    write_key(key, number);
                    let start = usize::try_from(which >> 32).expect("invariant: 32 bits") % BLOCK_BYTES;
                    value.copy_from_slice(&self.block[start..start + self.value_size]);
                }
                other => unreachable!("invariant: {other:?} is never put into the bundle"),
            }
        }
        &self.bundle
    }

    /// A number below `keys`, all equally likely up to one part in 2^24.
    fn number_of_key(&mut self) -> u64 {
        let product = u128::from(self.random.next_u64()) * u128::from(self.keys);
        u64::try_from(product >> 64).expect("invariant: below the number of keys")
    }

    fn new_set(&self) -> Operation {
        let (key, value) = (vec![0; KEY_BYTES], vec![0; self.value_size]);
        Operation::Set { key, value, condition: Condition::Always }
    }

    fn change_kind(&mut self, index: usize, to_get: bool) {
        let spare = if to_get { self.spare_gets.pop() } else { self.spare_sets.pop() };
        let new = spare.unwrap_or_else(|| match to_get {
            true => Operation::Get { key: vec![0; KEY_BYTES] },
            false => self.new_set(),
        });
        let old = std::mem::replace(&mut self.bundle[index], new);
        if to_get {
            self.spare_sets.push(old);
        } else {
            self.spare_gets.push(old);
        }
    }
}

/// `key-` and twelve hexadecimal digits.
fn write_key(key: &mut [u8], number: u64) {
    key[..4].copy_from_slice(b"key-");
    for (position, digit) in key[4..KEY_BYTES].iter_mut().rev().enumerate() {
        let nibble = usize::try_from(number >> (4 * position) & 15).expect("invariant: below 16");
        *digit = b"0123456789abcdef"[nibble];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::tests::parse;
    use std::collections::BTreeSet;

    #[test]
    fn the_same_seed_and_client_make_the_same_operations_and_others_do_not() {
        let make = |line: &str, client| {
            let mut workload = Workload::new(&parse(line).unwrap(), client);
            workload.next();
            workload.next().clone()
        };
        assert_eq!(make("--seed 5", 1), make("--seed 5", 1));
        assert_ne!(make("--seed 5", 1), make("--seed 5", 2));
        assert_ne!(make("--seed 5", 1), make("--seed 6", 1));
    }

    #[test]
    fn keys_stay_in_range_and_values_have_their_size() {
        let mut workload = Workload::new(&parse("--keys 3 --value-size 7 --bundle 50").unwrap(), 0);
        let mut keys = BTreeSet::new();
        for _ in 0..20 {
            for operation in workload.next() {
                let Operation::Set { key, value, condition: Condition::Always } = operation else {
                    panic!("{operation:?}")
                };
                assert_eq!(value.len(), 7);
                keys.insert(String::from_utf8(key.clone()).unwrap());
            }
        }
        let all = ["key-000000000000", "key-000000000001", "key-000000000002"];
        assert_eq!(keys.iter().map(String::as_str).collect::<Vec<_>>(), all);
    }

    #[test]
    fn the_read_ratio_is_kept() {
        let share = |ratio: &str| {
            let mut workload = Workload::new(&parse(&format!("--read-ratio {ratio}")).unwrap(), 0);
            let mut gets = 0;
            for _ in 0..100 {
                let get = |operation: &&Operation| matches!(operation, Operation::Get { .. });
                gets += workload.next().iter().filter(get).count();
            }
            gets
        };
        assert_eq!(share("0"), 0);
        assert_eq!(share("1"), 10_000);
        assert!((2_700..3_300).contains(&share("0.3")), "{}", share("0.3"));
    }
}
