//! Building trees from pages, from the root down: from page files, or from what peers send.
//!
//! Whoever fills a want gives bytes that hash to the digest it names, or is refused; the digest of the root vouches
//! for all. A node is made when everything below it is there, so that nodes never change afterwards.

use std::sync::Arc;

use quorate_types::{Digest, Domain};

use crate::cache::{Place, PlaceEpoch};
use crate::leaf::{Leaf, LongValue};
use crate::node::{HEIGHT_MAX, Inner, InnerPage, Node, digest_of_page};
use crate::page::PageFault;

/// What a want is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Inner,
    Leaf,
    /// A long value of so many bytes.
    Value {
        bytes: u32,
    },
}

/// A page or long value that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    pub(crate) digest: Digest,
    pub(crate) content: Content,
    /// How many levels the wanted node has; zero for values.
    pub(crate) height: u8,
    parent: Parent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parent {
    /// The root of the tree with this index.
    Tree(usize),
    /// Child or entry `at` of the unfinished node `index`.
    Node { index: usize, at: usize },
}

/// Where a block is, for whoever reads from page files.
pub(crate) type Located = Option<(PlaceEpoch, Place)>;

#[derive(Debug)]
enum Part {
    Inner { page: InnerPage, children: Vec<Option<Arc<Node>>> },
    Leaf(Leaf),
}

/// A node that lacks something below it.
#[derive(Debug)]
struct Unfinished {
    part: Part,
    missing: usize,
    digest: Digest,
    height: u8,
    located: Located,
    parent: Parent,
}

/// Trees that are being built.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    trees: Vec<Option<Arc<Node>>>,
    unfinished: Vec<Option<Unfinished>>,
    free: Vec<usize>,
}

impl Builder {
    /// One more tree to be built: returns what is wanted first.
    pub(crate) fn plant(&mut self, height: u8, digest: Digest) -> Result<Want, PageFault> {
        if height == 0 || usize::from(height) > HEIGHT_MAX {
            return Err(PageFault::Height);
        }
        self.trees.push(None);
        Ok(Want { digest, content: content_at(height), height, parent: Parent::Tree(self.trees.len() - 1) })
    }

    /// Takes the bytes that were wanted; what is wanted below them is appended to `wants`, in their order.
    pub(crate) fn fill(
        &mut self,
        want: &Want,
        bytes: &[u8],
        located: Located,
        wants: &mut Vec<Want>,
    ) -> Result<(), PageFault> {
        match want.content {
            Content::Inner => self.fill_inner(want, bytes, located, wants),
            Content::Leaf => self.fill_leaf(want, bytes, located, wants),
            Content::Value { bytes: length } => self.fill_value(want, length, bytes, located),
        }
    }

    /// Takes a node that is there already.
    pub(crate) fn adopt(&mut self, want: &Want, node: Arc<Node>) {
        self.deliver(want.parent, node);
    }

    /// Takes a long value that is there already.
    pub(crate) fn adopt_value(&mut self, want: &Want, value: Arc<LongValue>) {
        self.deliver_value(want.parent, value);
    }

    /// The trees, once none lacks anything.
    pub(crate) fn finish(&mut self) -> Option<Vec<Arc<Node>>> {
        if self.trees.iter().any(Option::is_none) {
            return None;
        }
        std::mem::take(&mut self.trees).into_iter().collect()
    }

    /// The largest subtrees that lack nothing, each with its height.
    pub(crate) fn finished_parts(&self) -> Vec<(u8, Arc<Node>)> {
        let mut found = Vec::new();
        for unfinished in self.unfinished.iter().flatten() {
            if let Part::Inner { children, .. } = &unfinished.part {
                let finished = children.iter().flatten();
                found.extend(finished.map(|child| (unfinished.height - 1, Arc::clone(child))));
            }
        }
        found
    }

    /// The long values that unfinished leaves have.
    pub(crate) fn finished_values(&self) -> impl Iterator<Item = &Arc<LongValue>> {
        self.unfinished.iter().flatten().flat_map(|unfinished| match &unfinished.part {
            Part::Leaf(leaf) => leaf.long_values().collect(),
            Part::Inner { .. } => Vec::new(),
        })
    }

    /// The way from the root of its tree to the wanted node, or to the leaf with the wanted value, and the value's
    /// entry.
    pub(crate) fn path(&self, want: &Want) -> (Vec<u8>, Option<u16>) {
        let mut path = Vec::new();
        let mut entry = None;
        let mut parent = want.parent;
        let mut is_value = matches!(want.content, Content::Value { .. });
        while let Parent::Node { index, at } = parent {
            if is_value {
                entry = Some(u16::try_from(at).expect("invariant: a leaf has at most 64 entries"));
                is_value = false;
            } else {
                path.push(u8::try_from(at).expect("invariant: an inner node has at most 128 children"));
            }
            parent = self.unfinished(index).parent;
        }
        path.reverse();
        (path, entry)
    }

    fn fill_inner(
        &mut self,
        want: &Want,
        bytes: &[u8],
        located: Located,
        wants: &mut Vec<Want>,
    ) -> Result<(), PageFault> {
        check_digest(&want.digest, digest_of_page(bytes))?;
        let page = InnerPage::decode(bytes)?;
        if page.is_underweight() && !matches!(want.parent, Parent::Tree(_)) {
            return Err(PageFault::Weight);
        }
        let height = want.height - 1;
        let count = page.digests.len();
        let index = self.reserve();
        wants.extend(page.digests.iter().enumerate().map(|(at, digest)| Want {
            digest: *digest,
            content: content_at(height),
            height,
            parent: Parent::Node { index, at },
        }));
        self.unfinished[index] = Some(Unfinished {
            part: Part::Inner { page, children: vec![None; count] },
            missing: count,
            digest: want.digest,
            height: want.height,
            located,
            parent: want.parent,
        });
        Ok(())
    }

    fn fill_leaf(
        &mut self,
        want: &Want,
        bytes: &[u8],
        located: Located,
        wants: &mut Vec<Want>,
    ) -> Result<(), PageFault> {
        check_digest(&want.digest, digest_of_page(bytes))?;
        let (leaf, missing) = Leaf::decode(bytes)?;
        let node = Node::Leaf(leaf);
        if node.is_underweight() && !matches!(want.parent, Parent::Tree(_)) {
            return Err(PageFault::Weight);
        }
        if missing.is_empty() {
            note(&node, want.digest, located);
            self.deliver(want.parent, Arc::new(node));
            return Ok(());
        }
        let Node::Leaf(leaf) = node else { unreachable!("invariant: it was made a leaf") };
        let index = self.reserve();
        wants.extend(missing.iter().map(|value| Want {
            digest: value.digest,
            content: Content::Value { bytes: value.bytes },
            height: 0,
            parent: Parent::Node { index, at: value.entry },
        }));
        self.unfinished[index] = Some(Unfinished {
            part: Part::Leaf(leaf),
            missing: missing.len(),
            digest: want.digest,
            height: want.height,
            located,
            parent: want.parent,
        });
        Ok(())
    }

    fn fill_value(
        &mut self,
        want: &Want,
        length: u32,
        bytes: &[u8],
        located: Located,
    ) -> Result<(), PageFault> {
        check_digest(&want.digest, Digest::of(Domain::TreeValue, bytes))?;
        if bytes.len() != length as usize {
            return Err(PageFault::Length);
        }
        let value = LongValue::own(bytes.to_vec());
        value.cache.digest_or(|| want.digest);
        if let Some((epoch, place)) = located {
            value.cache.set_place(epoch, place);
        }
        self.deliver_value(want.parent, value);
        Ok(())
    }

    fn deliver_value(&mut self, parent: Parent, value: Arc<LongValue>) {
        let Parent::Node { index, at } = parent else { unreachable!("invariant: a value has a leaf") };
        let unfinished = self.unfinished_mut(index);
        let Part::Leaf(leaf) = &mut unfinished.part else { unreachable!("invariant: a value has a leaf") };
        leaf.supply(at, value);
        unfinished.missing -= 1;
        self.complete(index);
    }

    fn deliver(&mut self, parent: Parent, node: Arc<Node>) {
        match parent {
            Parent::Tree(tree) => self.trees[tree] = Some(node),
            Parent::Node { index, at } => {
                let unfinished = self.unfinished_mut(index);
                let Part::Inner { children, .. } = &mut unfinished.part else {
                    unreachable!("invariant: a child has an inner node")
                };
                assert!(children[at].is_none(), "invariant: a want is filled once");
                children[at] = Some(node);
                unfinished.missing -= 1;
                self.complete(index);
            }
        }
    }

    /// Makes the node if nothing is missing.
    fn complete(&mut self, index: usize) {
        if self.unfinished(index).missing > 0 {
            return;
        }
        let whole = self.unfinished[index].take().expect("invariant: just looked at");
        self.free.push(index);
        let node = match whole.part {
            Part::Leaf(leaf) => Node::Leaf(leaf),
            Part::Inner { page, children } => {
                let children = children.into_iter().flatten().collect();
                Node::Inner(Inner::assemble(page, children))
            }
        };
        note(&node, whole.digest, whole.located);
        self.deliver(whole.parent, Arc::new(node));
    }

    fn reserve(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.unfinished.push(None);
            self.unfinished.len() - 1
        })
    }

    fn unfinished(&self, index: usize) -> &Unfinished {
        self.unfinished[index].as_ref().expect("invariant: wants name unfinished nodes")
    }

    fn unfinished_mut(&mut self, index: usize) -> &mut Unfinished {
        self.unfinished[index].as_mut().expect("invariant: wants name unfinished nodes")
    }
}

/// Checks what no page shows alone: that keys lie where the separators above them say.
pub(crate) fn check_order(node: &Node, low: &[u8], high: Option<&[u8]>) -> Result<(), PageFault> {
    let inside = |key: &[u8]| key >= low && high.is_none_or(|high| key < high);
    match node {
        Node::Leaf(leaf) => {
            let ends = leaf.len().checked_sub(1).map(|last| [leaf.key(0), leaf.key(last)]);
            if ends.is_some_and(|ends| !ends.iter().all(|key| inside(key))) {
                return Err(PageFault::Order);
            }
        }
        Node::Inner(inner) => {
            let (separators, count) = (inner.separators(), inner.children().len());
            for (at, child) in inner.children().iter().enumerate() {
                let low = if at == 0 { low } else { separators.key(at - 1) };
                let high = if at + 1 == count { high } else { Some(separators.key(at)) };
                if high.is_some_and(|high| low >= high) {
                    return Err(PageFault::Order);
                }
                check_order(child, low, high)?;
            }
        }
    }
    Ok(())
}

fn content_at(height: u8) -> Content {
    if height == 1 { Content::Leaf } else { Content::Inner }
}

fn check_digest(wanted: &Digest, found: Digest) -> Result<(), PageFault> {
    if *wanted == found { Ok(()) } else { Err(PageFault::Digest) }
}

/// Tells a node what is known of it.
fn note(node: &Node, digest: Digest, located: Located) {
    node.cache().digest_or(|| digest);
    if let Some((epoch, place)) = located {
        node.cache().set_place(epoch, place);
    }
}
