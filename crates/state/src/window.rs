//! The next operations' keys, looked up ahead: where each is, found for a group of keys at once.
//!
//! Neighbouring operations name keys in leaves that are far apart, and a state does not fit the caches. An
//! operation alone waits for its leaf, then for the place of the key in it, then for the entry: one after the
//! other, and the atomic counts on the way to a leaf keep the processor from starting on the next operation.
//! A window takes each of these steps for a group of keys before the next step, so that the waits of a group
//! overlap. It keeps what it found as a [`Hint`], so that nothing is searched twice.
//!
//! A window changes nothing, and what operations do never depends on it: a hint is checked when it is used.

use std::hint::black_box;

use quorate_types::{ArchivedOperation, limits};

use crate::node::{Hint, Node};
use crate::records::Records;
use crate::system::USER;
use crate::tree::Tree;

/// How many keys are looked up at once. More than the processor has loads in flight is of no use, and what is
/// read ahead must still be in the first cache when it is used.
pub(crate) const GROUP_KEYS: usize = 16;

/// Keys of the tree, one after the other in a buffer that is used again, and where they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    hints: Vec<Hint>,
    /// How many keys of system records stand before those of operations.
    system_keys: usize,
}

impl Window {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.system_keys = 0;
    }

    /// Adds the key of a system record, before those of operations, only so that it is read ahead.
    pub(crate) fn push_system(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len());
        self.system_keys += 1;
    }

    /// The place of the first operation's first key.
    pub(crate) fn first_key(&self) -> usize {
        self.system_keys
    }

    /// Takes the keys of the first of `operations`, as many as fill a group, and looks them up if that is
    /// `wanted`; returns the number of operations. Keys of one list are never torn apart: their limit bounds a
    /// window.
    pub(crate) fn fill(&mut self, tree: &Tree, operations: &[ArchivedOperation], wanted: bool) -> usize {
        let mut taken = 0;
        for operation in operations {
            if self.ends.len() >= GROUP_KEYS {
                break;
            }
            self.add(operation);
            taken += 1;
        }
        self.hints.clear();
        self.hints.resize(self.ends.len(), Hint::default());
        let wanted_to = if wanted { self.ends.len() } else { 0 };
        for from in (0..wanted_to).step_by(GROUP_KEYS) {
            self.look_up(tree, from, wanted_to.min(from + GROUP_KEYS));
        }
        taken
    }

    /// The key at `at` behind its namespace byte, and where it probably is.
    pub(crate) fn key(&self, at: usize) -> (&[u8], &Hint) {
        (self.bytes_of(at), &self.hints[at])
    }

    /// How many keys an operation has in a window: none if it has too many, for then it asks for none.
    pub(crate) fn keys_of(operation: &ArchivedOperation) -> usize {
        let count = match operation {
            ArchivedOperation::Register { .. } | ArchivedOperation::Void => 0,
            ArchivedOperation::MultiGet { keys } => keys.len(),
            ArchivedOperation::MultiSet { entries } => entries.len(),
            _ => 1,
        };
        if count <= limits::MULTI_KEYS_MAX { count } else { 0 }
    }

    fn add(&mut self, operation: &ArchivedOperation) {
        match operation {
            ArchivedOperation::Register { .. } | ArchivedOperation::Void => {}
            ArchivedOperation::Get { key }
            | ArchivedOperation::Set { key, .. }
            | ArchivedOperation::Delete { key }
            | ArchivedOperation::Exists { key }
            | ArchivedOperation::IncrementBy { key, .. }
            | ArchivedOperation::Append { key, .. }
            | ArchivedOperation::Scan { start: key, .. } => self.push(key),
            ArchivedOperation::MultiGet { keys } => {
                keys.iter().take(Self::keys_of(operation)).for_each(|key| self.push(key));
            }
            ArchivedOperation::MultiSet { entries } => {
                entries.iter().take(Self::keys_of(operation)).for_each(|entry| self.push(&entry.key));
            }
        }
    }

    /// A key that is too long has its place in the window but is cut off: no operation will ask for it.
    fn push(&mut self, key: &[u8]) {
        self.bytes.push(USER);
        self.bytes.extend_from_slice(&key[..key.len().min(limits::KEY_BYTES_MAX)]);
        self.ends.push(self.bytes.len());
    }

    fn bytes_of(&self, at: usize) -> &[u8] {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.bytes[start..self.ends[at]]
    }

    /// Looks up one group. Each loop is one step for all keys, with as few branches as possible that depend on
    /// what the step waits for, so that the processor goes on to the next key meanwhile.
    fn look_up(&mut self, tree: &Tree, from: usize, to: usize) {
        let mut nodes = [tree.root(); GROUP_KEYS];
        let nodes = &mut nodes[..to - from];
        for depth in 0..tree.height() - 1 {
            for (at, node) in nodes.iter_mut().enumerate() {
                if let Node::Inner(inner) = node {
                    let child = inner.child_for(self.bytes_of(from + at));
                    self.hints[from + at].descend(depth, child);
                    *node = &inner.children()[child];
                }
            }
        }
        let none = Records::default();
        let mut leaves = [&none; GROUP_KEYS];
        let leaves = &mut leaves[..to - from];
        let mut sum = 0;
        for (leaf, node) in leaves.iter_mut().zip(nodes.iter()) {
            if let Node::Leaf(found) = node {
                *leaf = found.records();
                sum += found.touch();
            }
        }
        let mut spans = [(0, 0); GROUP_KEYS];
        for (at, leaf) in leaves.iter().enumerate() {
            let guess = leaf.guess(self.bytes_of(from + at));
            self.hints[from + at].arrive(tree.shape(), guess);
        }
        for (at, leaf) in leaves.iter().enumerate() {
            spans[at] = leaf.span(self.hints[from + at].guess());
        }
        for (leaf, span) in leaves.iter().zip(spans) {
            sum += leaf.touch_span(span);
        }
        for (at, node) in nodes.iter().enumerate() {
            if let Node::Leaf(leaf) = node {
                sum += leaf.touch_long(self.hints[from + at].guess());
            }
        }
        // The sum is of no use but that its parts must be read.
        black_box(sum);
    }
}
