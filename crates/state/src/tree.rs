//! The ordered, authenticated tree: a B+tree whose nodes are shared with frozen copies (DESIGN section 6).
//!
//! Its shape, and so its root digest, is a function of the history of edits alone: weights decide about
//! splits and joins, never memory, nor when digests were computed or copies frozen.

use std::fmt;
use std::sync::Arc;

use quorate_types::Digest;

use crate::entries::Entries;
use crate::leaf::{Change, Edit, Leaf, Shared, VersionedRef};
use crate::manifest::root_digest;
use crate::node::{self, HEIGHT_MAX, Hint, Inner, Node, Target};

#[derive(Clone)]
pub(crate) struct Tree {
    root: Arc<Node>,
    height: usize,
    /// Counts splits and joins: as long as it stands still, every key has the same way from the root.
    shape: u64,
}

impl fmt::Debug for Tree {
    /// Never the contents: they may be gigabytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").field("height", &self.height).finish_non_exhaustive()
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self { root: Arc::default(), height: 1, shape: 0 }
    }
}

impl Tree {
    pub(crate) fn get(&self, key: &[u8]) -> Option<VersionedRef<'_>> {
        self.leaf_for(key).get(key)
    }

    /// The value with `key` as it was shared, if it was and is long.
    pub(crate) fn shared(&self, key: &[u8]) -> Option<&Shared> {
        self.leaf_for(key).shared(key)
    }

    pub(crate) fn root(&self) -> &Node {
        &self.root
    }

    pub(crate) fn shared_root(&self) -> &Arc<Node> {
        &self.root
    }

    /// The tree with this root node, all of whose leaves are at the last of `height` levels.
    pub(crate) fn over(root: Arc<Node>, height: usize) -> Self {
        Self { root, height, shape: 0 }
    }

    pub(crate) fn height(&self) -> usize {
        self.height
    }

    /// A number that changes when nodes are split or joined.
    pub(crate) fn shape(&self) -> u64 {
        self.shape
    }

    /// As [`Tree::get`], without a search where the hint holds.
    pub(crate) fn get_hinted(&self, key: &[u8], hint: &Hint) -> Option<VersionedRef<'_>> {
        let Some(path) = hint.path(self.shape, self.height) else { return self.get(key) };
        let mut node = &*self.root;
        for at in path {
            let Node::Inner(inner) = node else { break };
            node = &inner.children()[usize::from(*at)];
        }
        match node {
            Node::Leaf(leaf) => leaf.get_hinted(key, hint.guess()),
            Node::Inner(_) => self.get(key),
        }
    }

    fn leaf_for(&self, key: &[u8]) -> &Leaf {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(leaf) => return leaf,
                Node::Inner(inner) => node = &inner.children()[inner.child_for(key)],
            }
        }
    }

    /// Shows the entry with `key` to `decide` and does what it says, in one descent. What is written gets
    /// `version`.
    pub(crate) fn edit<'e>(
        &mut self,
        key: &[u8],
        version: u64,
        decide: impl FnOnce(Option<VersionedRef<'_>>) -> Edit<'e>,
    ) -> Change {
        self.edit_hinted(key, &Hint::default(), version, decide)
    }

    /// As [`Tree::edit`], without a search where the hint holds.
    pub(crate) fn edit_hinted<'e>(
        &mut self,
        key: &[u8],
        hint: &Hint,
        version: u64,
        decide: impl FnOnce(Option<VersionedRef<'_>>) -> Edit<'e>,
    ) -> Change {
        let path = hint.path(self.shape, self.height);
        let target = Target { key, path, guess: hint.guess(), version };
        let root = Arc::make_mut(&mut self.root);
        let change = root.edit(&target, 0, decide);
        self.shape += u64::from(change.reshaped);
        if root.is_overweight() {
            self.grow();
        } else {
            self.shrink();
        }
        change
    }

    /// Writes a value, whatever was there.
    pub(crate) fn put(&mut self, key: &[u8], version: u64, value: &[u8]) -> Change {
        self.edit(key, version, |_| Edit::Put(value))
    }

    /// As [`Tree::put`], but a long value is not copied.
    pub(crate) fn put_shared(&mut self, key: &[u8], version: u64, value: &Shared) -> Change {
        self.edit(key, version, |_| Edit::Share(value))
    }

    /// Removes an entry if it exists.
    pub(crate) fn remove(&mut self, key: &[u8]) -> Change {
        self.edit(key, 0, |_| Edit::Remove)
    }

    /// The entries with start ≤ key, and key < end unless `end` is empty, in key order.
    pub(crate) fn range<'a>(&'a self, start: &[u8], end: &'a [u8]) -> Entries<'a> {
        Entries::new(&self.root, start, end)
    }

    pub(crate) fn node(&self, path: &[usize]) -> Option<&Node> {
        let mut node = &*self.root;
        for at in path {
            let Node::Inner(inner) = node else { return None };
            node = inner.children().get(*at)?;
        }
        Some(node)
    }

    /// The digest of the whole: of the layout's version, the height and the root node's digest.
    pub(crate) fn digest(&self, page: &mut Vec<u8>) -> Digest {
        let root = self.root.digest(page);
        let height = u8::try_from(self.height).expect("invariant: HEIGHT_MAX fits 8 bits");
        root_digest(height, &root)
    }

    /// Hashes all nodes below the root, calling `pause` after the children of each inner node.
    pub(crate) fn hash_below(&self, page: &mut Vec<u8>, pause: &mut impl FnMut()) {
        self.root.hash_below(page, pause);
    }

    fn grow(&mut self) {
        let (separator, upper) = Arc::make_mut(&mut self.root).split();
        let lower = std::mem::take(&mut self.root);
        self.root = Arc::new(Node::Inner(Inner::over(lower, &separator, Arc::new(upper))));
        self.height += 1;
        self.shape += 1;
        assert!(self.height <= HEIGHT_MAX, "invariant: the tree has at most {HEIGHT_MAX} levels");
    }

    fn shrink(&mut self) {
        while let Node::Inner(inner) = &*self.root
            && let [only] = inner.children()
        {
            self.root = Arc::clone(only);
            self.height -= 1;
            self.shape += 1;
        }
    }

    /// Panics when the tree contradicts itself.
    pub(crate) fn check_invariants(&self) {
        assert_eq!(node::check_invariants(&self.root, &[], None, true), self.height);
    }
}

#[cfg(test)]
mod tests;
