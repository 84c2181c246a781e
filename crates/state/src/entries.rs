//! An iterator over the entries of a part of the tree, in key order, without allocation.

use std::sync::Arc;

use crate::leaf::{Leaf, VersionedRef};
use crate::node::{HEIGHT_MAX, Node};

/// Entries in key order: the key with its namespace byte, and the value with its version.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    /// The children still to visit at each level above the leaf.
    above: [&'a [Arc<Node>]; HEIGHT_MAX],
    depth: usize,
    leaf: Option<&'a Leaf>,
    next: usize,
    /// The key after the last; empty means "to the end".
    end: &'a [u8],
}

impl<'a> Entries<'a> {
    pub(crate) fn new(root: &'a Node, start: &[u8], end: &'a [u8]) -> Self {
        let mut entries = Self { above: [&[]; HEIGHT_MAX], depth: 0, leaf: None, next: 0, end };
        let mut node = root;
        loop {
            match node {
                Node::Inner(inner) => {
                    let at = inner.child_for(start);
                    node = &inner.children()[at];
                    entries.push(&inner.children()[at + 1..]);
                }
                Node::Leaf(leaf) => {
                    entries.leaf = Some(leaf);
                    entries.next = leaf.lower_bound(start);
                    return entries;
                }
            }
        }
    }

    fn push(&mut self, children: &'a [Arc<Node>]) {
        self.above[self.depth] = children;
        self.depth += 1;
    }

    /// Goes to the next leaf, or to the end.
    fn advance(&mut self) {
        self.next = 0;
        self.leaf = None;
        while self.depth > 0 {
            let Some((first, rest)) = self.above[self.depth - 1].split_first() else {
                self.depth -= 1;
                continue;
            };
            self.above[self.depth - 1] = rest;
            match &**first {
                Node::Inner(inner) => self.push(inner.children()),
                Node::Leaf(leaf) => {
                    self.leaf = Some(leaf);
                    return;
                }
            }
        }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a [u8], VersionedRef<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let leaf = self.leaf?;
            if self.next == leaf.len() {
                self.advance();
                continue;
            }
            let key = leaf.key(self.next);
            if !self.end.is_empty() && key >= self.end {
                self.leaf = None;
                return None;
            }
            let entry = leaf.entry(self.next);
            self.next += 1;
            return Some((key, entry));
        }
    }
}
