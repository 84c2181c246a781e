//! Counts over the tree, kept up to date with every edit.

use crate::leaf::Change;
use crate::system::USER;
use crate::tree::Tree;

/// What an entry takes on disk besides its key and value, at the least.
pub(crate) const ENTRY_BYTES_MIN: u64 = 15;

/// What the tree holds in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) user_keys: u64,
    /// Keys with their namespace byte, and values; system records included.
    pub(crate) stored_bytes: u64,
}

impl Totals {
    /// The totals of a tree, counted entry by entry.
    pub(crate) fn rebuild(tree: &Tree) -> Self {
        let mut totals = Self::default();
        for (key, entry) in tree.range(&[], &[]) {
            totals.user_keys += u64::from(key.first() == Some(&USER));
            totals.stored_bytes += (key.len() + entry.value.len()) as u64;
        }
        totals
    }

    pub(crate) fn count(&mut self, key_bytes: usize, change: Change) {
        let entry = |value: Option<usize>| value.map_or(0, |value| (key_bytes + value) as u64);
        self.stored_bytes = self.stored_bytes + entry(change.after) - entry(change.before);
    }

    pub(crate) fn count_user_key(&mut self, change: Change) {
        self.user_keys =
            self.user_keys + u64::from(change.after.is_some()) - u64::from(change.before.is_some());
    }
}
