//! A node of the tree: a leaf, or an inner node with its children. Nodes are shared between the tree and
//! its frozen copies; who changes one that is shared copies it first.

use std::sync::Arc;

use quorate_types::{Digest, Domain};

use crate::cache::Cache;
use crate::leaf::count_bytes;
use crate::leaf::{Change, Edit, LEAF_WEIGHT_MAX, LEAF_WEIGHT_MIN, Leaf, TREE_KEY_BYTES_MAX, VersionedRef};
use crate::page::{PageFault, Reader};
use crate::records::Records;

/// An inner node above this weight is split.
pub(crate) const INNER_WEIGHT_MAX: usize = 32 * 1024;
/// An inner node below this weight is joined with a neighbour.
pub(crate) const INNER_WEIGHT_MIN: usize = INNER_WEIGHT_MAX / 4;
/// What a child weighs besides its separator; bounds an inner node to 128 children.
const CHILD_WEIGHT: usize = 256;
/// The longest way from the root to a leaf. Nodes at the least weight have at least six children, so the
/// tree would hold more than 10^12 entries.
pub(crate) const HEIGHT_MAX: usize = quorate_types::limits::TREE_HEIGHT_MAX;

/// After hashing so many leaves, others may go first.
const LEAVES_PER_PAUSE: usize = 8;

const CHILD_WEIGHT_MAX: usize = CHILD_WEIGHT + TREE_KEY_BYTES_MAX;
// Both parts of a split inner node stay above the least weight, the separator that moves up deducted.
const _: () = assert!((INNER_WEIGHT_MAX / 2).saturating_sub(2 * CHILD_WEIGHT_MAX) >= INNER_WEIGHT_MIN);
const _: () = assert!(INNER_WEIGHT_MIN / CHILD_WEIGHT_MAX >= 6);

/// Tag and count.
const PAGE_HEAD_BYTES: usize = 1 + 2;
/// The length of a child's separator, and its digest.
const CHILD_HEAD_BYTES: usize = 2 + 32;

#[derive(Clone, Debug)]
pub(crate) enum Node {
    Leaf(Leaf),
    Inner(Inner),
}

/// Children and the keys between them: child `i` holds the keys from separator `i − 1` (included) to
/// separator `i` (excluded).
#[derive(Clone, Debug)]
pub(crate) struct Inner {
    cache: Cache,
    weight: usize,
    separators: Records,
    children: Vec<Arc<Node>>,
}

/// What the page of an inner node says: all but the children themselves.
#[derive(Debug)]
pub(crate) struct InnerPage {
    weight: usize,
    separators: Records,
    pub(crate) digests: Vec<Digest>,
}

impl InnerPage {
    /// Whether a node with this page is too light unless it is a root.
    pub(crate) fn is_underweight(&self) -> bool {
        self.weight < INNER_WEIGHT_MIN
    }

    /// Reads a page. Takes the canonical form alone.
    pub(crate) fn decode(page: &[u8]) -> Result<Self, PageFault> {
        let mut reader = Reader::new(page);
        if reader.byte()? != Domain::TreeInner as u8 {
            return Err(PageFault::Kind);
        }
        let count = usize::from(reader.u16()?);
        if count < 2 || count * CHILD_WEIGHT > INNER_WEIGHT_MAX {
            return Err(PageFault::Weight);
        }
        let mut separators =
            Records::with_room(count - 1, page.len().saturating_sub(count * CHILD_HEAD_BYTES));
        let mut digests = Vec::with_capacity(count);
        let mut weight = count * CHILD_WEIGHT;
        for at in 0..count {
            let bytes = usize::from(reader.u16()?);
            if bytes > TREE_KEY_BYTES_MAX || (at == 0 && bytes > 0) {
                return Err(PageFault::Length);
            }
            let separator = reader.bytes(bytes)?;
            weight += bytes;
            if weight > INNER_WEIGHT_MAX {
                return Err(PageFault::Weight);
            }
            if at > 0 {
                if separator.is_empty() || (at > 1 && separators.key(at - 2) >= separator) {
                    return Err(PageFault::Order);
                }
                separators.push_body(separator, 0);
            }
            digests.push(Digest(reader.array()?));
        }
        reader.end()?;
        separators.index();
        Ok(Self { weight, separators, digests })
    }
}

/// Where a key was found at some time: the children's indices from the root down and a guess of the place in
/// the leaf. The way holds as long as the tree has the same shape; the guess is checked against the key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hint {
    /// The tree's shape, or [`Hint::NOWHERE`].
    shape: u64,
    path: [u8; HEIGHT_MAX],
    guess: u16,
}

impl Default for Hint {
    fn default() -> Self {
        Self { shape: Self::NOWHERE, path: [0; HEIGHT_MAX], guess: 0 }
    }
}

impl Hint {
    const NOWHERE: u64 = u64::MAX;

    /// Notes the child that the way to the key takes at this depth.
    pub(crate) fn descend(&mut self, depth: usize, child: usize) {
        self.path[depth] = u8::try_from(child).expect("invariant: an inner node has at most 128 children");
    }

    /// Notes that the way is complete in a tree of this shape, and the guess.
    pub(crate) fn arrive(&mut self, shape: u64, guess: usize) {
        self.shape = shape;
        self.guess = u16::try_from(guess).expect("invariant: a leaf has at most 64 entries");
    }

    pub(crate) fn guess(&self) -> usize {
        usize::from(self.guess)
    }

    /// The way from the root to the leaf, if the tree still has the shape that it was found in.
    pub(crate) fn path(&self, shape: u64, height: usize) -> Option<&[u8]> {
        (self.shape == shape).then(|| &self.path[..height - 1])
    }
}

/// What an edit is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) key: &'a [u8],
    /// The children's indices from the root down, if they are known.
    pub(crate) path: Option<&'a [u8]>,
    /// Where the key may be in its leaf.
    pub(crate) guess: usize,
    /// The version that what is written gets.
    pub(crate) version: u64,
}

impl Default for Node {
    fn default() -> Self {
        Self::Leaf(Leaf::default())
    }
}

impl Node {
    /// Edits the entry. `depth` is this node's distance from the root.
    pub(crate) fn edit<'e>(
        &mut self,
        target: &Target<'_>,
        depth: usize,
        decide: impl FnOnce(Option<VersionedRef<'_>>) -> Edit<'e>,
    ) -> Change {
        match self {
            Self::Leaf(leaf) => leaf.edit(target, decide),
            Self::Inner(inner) => inner.edit(target, depth, decide),
        }
    }

    pub(crate) fn is_overweight(&self) -> bool {
        match self {
            Self::Leaf(leaf) => leaf.weight() > LEAF_WEIGHT_MAX,
            Self::Inner(inner) => inner.weight > INNER_WEIGHT_MAX,
        }
    }

    pub(crate) fn is_underweight(&self) -> bool {
        match self {
            Self::Leaf(leaf) => leaf.weight() < LEAF_WEIGHT_MIN,
            Self::Inner(inner) => inner.weight < INNER_WEIGHT_MIN,
        }
    }

    /// Moves the upper half into a new node; returns it with the key that separates both.
    pub(crate) fn split(&mut self) -> (Vec<u8>, Self) {
        match self {
            Self::Leaf(leaf) => {
                let (separator, upper) = leaf.split();
                (separator, Self::Leaf(upper))
            }
            Self::Inner(inner) => {
                let (separator, upper) = inner.split();
                (separator, Self::Inner(upper))
            }
        }
    }

    fn join(&mut self, separator: &[u8], next: Self) {
        match (self, next) {
            (Self::Leaf(leaf), Self::Leaf(next)) => leaf.join(next),
            (Self::Inner(inner), Self::Inner(next)) => inner.join(separator, next),
            _ => unreachable!("invariant: all leaves are at the same depth"),
        }
    }

    /// The digest, from the cache or from the page; children first. `page` is scratch space.
    pub(crate) fn digest(&self, page: &mut Vec<u8>) -> Digest {
        self.cache().digest_or(|| {
            self.encode(page);
            digest_of_page(page)
        })
    }

    /// Hashes what is below this node and was not hashed yet, calling `pause` after each few leaves.
    pub(crate) fn hash_below(&self, page: &mut Vec<u8>, pause: &mut impl FnMut()) {
        let Self::Inner(inner) = self else { return };
        if inner.cache.digest().is_some() {
            return;
        }
        for children in inner.children.chunks(LEAVES_PER_PAUSE) {
            for child in children {
                child.hash_below(page, pause);
                child.digest(page);
            }
            pause();
        }
    }

    /// Replaces `page` by the node's page. Its first byte is the domain tag, so one call hashes it whole.
    ///
    /// Inner nodes: tag ‖ count u16 ‖ per child: separator length u16 ‖ separator ‖ digest; the first
    /// separator is empty.
    pub(crate) fn encode(&self, page: &mut Vec<u8>) {
        match self {
            Self::Leaf(leaf) => {
                page.clear();
                leaf.encode(page);
            }
            Self::Inner(inner) => {
                for child in &inner.children {
                    child.digest(page);
                }
                page.clear();
                inner.encode(page);
            }
        }
    }

    /// The length of the node's page.
    pub(crate) fn page_bytes(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.page_bytes(),
            Self::Inner(inner) => inner.page_bytes(),
        }
    }

    pub(crate) fn cache(&self) -> &Cache {
        match self {
            Self::Leaf(leaf) => &leaf.cache,
            Self::Inner(inner) => &inner.cache,
        }
    }
}

impl Inner {
    /// A new root over the two parts of the old one.
    pub(crate) fn over(lower: Arc<Node>, separator: &[u8], upper: Arc<Node>) -> Self {
        let mut inner = Self {
            cache: Cache::default(),
            weight: 2 * CHILD_WEIGHT + separator.len(),
            separators: Records::default(),
            children: vec![lower, upper],
        };
        inner.separators.append_one(separator);
        inner
    }

    /// The length of the page.
    pub(crate) fn page_bytes(&self) -> usize {
        PAGE_HEAD_BYTES + self.weight + self.children.len() * CHILD_HEAD_BYTES
            - self.children.len() * CHILD_WEIGHT
    }

    /// The node that [`InnerPage::decode`] told of, over its children. `digest` is that of the page.
    pub(crate) fn assemble(page: InnerPage, children: Vec<Arc<Node>>) -> Self {
        assert_eq!(page.digests.len(), children.len(), "invariant: all children are there");
        Self { cache: Cache::default(), weight: page.weight, separators: page.separators, children }
    }

    pub(crate) fn separators(&self) -> &Records {
        &self.separators
    }

    pub(crate) fn children(&self) -> &[Arc<Node>] {
        &self.children
    }

    /// The child that holds `key` if any does.
    pub(crate) fn child_for(&self, key: &[u8]) -> usize {
        self.separators.count_upto(key)
    }

    fn edit<'e>(
        &mut self,
        target: &Target<'_>,
        depth: usize,
        decide: impl FnOnce(Option<VersionedRef<'_>>) -> Edit<'e>,
    ) -> Change {
        let at = match target.path {
            Some(path) => usize::from(path[depth]),
            None => self.child_for(target.key),
        };
        let child = Arc::make_mut(&mut self.children[at]);
        let mut change = child.edit(target, depth + 1, decide);
        if change.written {
            let (overweight, underweight) = (child.is_overweight(), child.is_underweight());
            self.cache.forget();
            if overweight {
                self.split_child(at);
            } else if underweight {
                self.join_child(at);
            }
            change.reshaped |= overweight || underweight;
        }
        change
    }

    fn split_child(&mut self, at: usize) {
        let (separator, upper) = Arc::make_mut(&mut self.children[at]).split();
        self.separators.insert(at, &separator, 0);
        self.children.insert(at + 1, Arc::new(upper));
        self.weight += CHILD_WEIGHT + separator.len();
    }

    /// Joins an underweight child with the next one (the last with the one before), and splits the two anew
    /// when they are too heavy for one node.
    fn join_child(&mut self, at: usize) {
        if self.children.len() == 1 {
            return;
        }
        let lower = at.min(self.children.len() - 2);
        let separator = self.separators.key(lower).to_vec();
        let next = Arc::unwrap_or_clone(self.children.remove(lower + 1));
        self.separators.remove(lower);
        self.weight -= CHILD_WEIGHT + separator.len();
        let node = Arc::make_mut(&mut self.children[lower]);
        node.join(&separator, next);
        if node.is_overweight() {
            self.split_child(lower);
        }
    }

    fn split(&mut self) -> (Vec<u8>, Self) {
        let mut at = 1;
        let mut lower_weight = CHILD_WEIGHT;
        while lower_weight * 2 < self.weight {
            lower_weight += CHILD_WEIGHT + self.separators.key(at - 1).len();
            at += 1;
        }
        let separator = self.separators.key(at - 1).to_vec();
        let upper = Self {
            cache: Cache::default(),
            weight: self.weight - lower_weight - separator.len(),
            separators: self.separators.split_off(at),
            children: self.children.split_off(at),
        };
        self.separators.remove(at - 1);
        self.weight = lower_weight;
        self.cache.forget();
        (separator, upper)
    }

    fn join(&mut self, separator: &[u8], next: Self) {
        self.separators.append_one(separator);
        self.separators.append(&next.separators);
        self.children.extend(next.children);
        self.weight += separator.len() + next.weight;
        self.cache.forget();
    }

    fn encode(&self, page: &mut Vec<u8>) {
        page.push(Domain::TreeInner as u8);
        page.extend_from_slice(&count_bytes(self.children.len()));
        for (at, child) in self.children.iter().enumerate() {
            let separator = if at == 0 { &[][..] } else { self.separators.key(at - 1) };
            let digest = child.cache().digest().expect("invariant: children are hashed before their parent");
            page.extend_from_slice(&count_bytes(separator.len()));
            page.extend_from_slice(separator);
            page.extend_from_slice(&digest.0);
        }
    }
}

/// The digest of the node with this page: the domain tag is the page's first byte.
pub(crate) fn digest_of_page(page: &[u8]) -> Digest {
    Digest(*blake3::hash(page).as_bytes())
}

/// Panics when the part of the tree below `node` contradicts itself; returns its height.
pub(crate) fn check_invariants(node: &Node, low: &[u8], high: Option<&[u8]>, is_root: bool) -> usize {
    assert!(!node.is_overweight(), "a node is too heavy");
    assert!(is_root || !node.is_underweight(), "a node is too light");
    if let Some(digest) = node.cache().digest() {
        let mut page = Vec::new();
        node.encode(&mut page);
        assert_eq!(*digest, digest_of_page(&page), "a cached digest is stale");
    }
    match node {
        Node::Leaf(leaf) => {
            leaf.check_invariants();
            for at in 0..leaf.len() {
                assert!(
                    leaf.key(at) >= low && high.is_none_or(|high| leaf.key(at) < high),
                    "a key is misplaced"
                );
            }
            1
        }
        Node::Inner(inner) => 1 + inner.check_invariants(low, high),
    }
}

impl Inner {
    fn check_invariants(&self, low: &[u8], high: Option<&[u8]>) -> usize {
        self.separators.check_invariants();
        let count = self.children.len();
        assert!(count >= 2, "an inner node with one child");
        assert_eq!(self.separators.len(), count - 1);
        let separators: usize = (0..count - 1).map(|at| self.separators.key(at).len()).sum();
        assert_eq!(self.weight, count * CHILD_WEIGHT + separators);
        let heights: Vec<usize> = (0..count)
            .map(|at| {
                let low = if at == 0 { low } else { self.separators.key(at - 1) };
                let high = if at + 1 == count { high } else { Some(self.separators.key(at)) };
                check_invariants(&self.children[at], low, high, false)
            })
            .collect();
        assert!(heights.iter().all(|height| *height == heights[0]), "leaves at different depths");
        heights[0]
    }
}
