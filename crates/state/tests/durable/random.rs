//! Random operations from one number, without a crate for it.

use quorate_types::{Condition, Operation};

/// SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }

    /// Writes, few deletions, conditions that fail, and long values, over so many keys.
    pub(crate) fn operations(&mut self, count: usize, keys: usize) -> Vec<Operation> {
        (0..count).map(|_| self.operation(keys)).collect()
    }

    fn operation(&mut self, keys: usize) -> Operation {
        let key = format!("key:{:06}", self.below(keys)).into_bytes();
        let byte = u8::try_from(self.below(256)).expect("a byte");
        let value = |length| vec![byte; length];
        match self.below(20) {
            0..2 => Operation::Delete { key },
            2 => Operation::Append { key, value: value(600) },
            3 => Operation::Set { key, value: value(1), condition: Condition::Version(1) },
            4 => Operation::Set { key, value: value(1000 + self.below(6000)), condition: Condition::Always },
            _ => Operation::Set { key, value: value(self.below(200)), condition: Condition::Always },
        }
    }
}
