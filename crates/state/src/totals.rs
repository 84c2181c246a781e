//! Counts over the tree and of its writes, kept up to date with every edit.

use quorate_types::limits;

use crate::leaf::Change;
use crate::system::{self, USER};
use crate::tree::Tree;

/// What an entry takes on disk besides its key and value, at the least.
pub(crate) const ENTRY_BYTES_MIN: u64 = 15;

/// What the tree holds in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) user_keys: u64,
    /// Users' keys and values, and [`limits::STATE_ENTRY_BYTES`] for each entry.
    pub(crate) user_bytes: u64,
    /// Keys with their namespace byte, and values; system records included.
    pub(crate) stored_bytes: u64,
    /// The revision of the last write. In the tree it is recorded with each header; between, it is here alone.
    pub(crate) revision: u64,
}

impl Totals {
    /// The totals of a tree as a header left it, counted entry by entry.
    pub(crate) fn rebuild(tree: &Tree) -> Self {
        let mut totals = Self { revision: Self::recorded_revision(tree), ..Self::default() };
        for (key, entry) in tree.range(&[], &[]) {
            if key.first() == Some(&USER) {
                totals.user_keys += 1;
                totals.user_bytes += user_entry(key.len(), Some(entry.value.len()));
            }
            totals.stored_bytes += (key.len() + entry.value.len()) as u64;
        }
        totals
    }

    /// The revision that the last header has recorded in a tree.
    pub(crate) fn recorded_revision(tree: &Tree) -> u64 {
        let record = tree.get(&system::revision_key());
        record.and_then(|record| system::revision_of(record.value)).unwrap_or_default()
    }

    pub(crate) fn count(&mut self, key_bytes: usize, change: Change) {
        let entry = |value: Option<usize>| value.map_or(0, |value| (key_bytes + value) as u64);
        self.stored_bytes = self.stored_bytes + entry(change.after) - entry(change.before);
    }

    /// Counts a change of a user's key, whose namespace byte is counted with it, and which is a write if it changed anything.
    pub(crate) fn count_user_key(&mut self, key_bytes: usize, change: Change) {
        self.revision += u64::from(change.written);
        let entry = |value: Option<usize>| user_entry(key_bytes, value);
        self.user_bytes = self.user_bytes + entry(change.after) - entry(change.before);
        self.user_keys =
            self.user_keys + u64::from(change.after.is_some()) - u64::from(change.before.is_some());
    }
}

/// What an entry of a user with so long a key, its namespace byte included, and so long a value counts, if there is one.
pub(crate) fn user_entry(key_bytes: usize, value_bytes: Option<usize>) -> u64 {
    value_bytes.map_or(0, |value_bytes| (key_bytes - 1 + value_bytes) as u64 + limits::STATE_ENTRY_BYTES)
}
