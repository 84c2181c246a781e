//! The serving side of a state transfer.

use std::collections::BTreeSet;

use quorate_types::{Digest, PageName};

use crate::frozen::Frozen;
use crate::leaf::Leaf;
use crate::node::Node;

/// What is asked of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// Repeated in the answer.
    pub number: u64,
    /// The root of the state.
    pub root: Digest,
    /// The pages and values; none when only the top is wanted.
    pub wanted: Vec<PageName>,
}

/// What a peer has of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageAnswer {
    /// The number of the request.
    pub number: u64,
    /// The root of the state.
    pub root: Digest,
    /// The number of levels of its tree and the digest of its root node, if the peer has it.
    pub top: Option<(u8, Digest)>,
    /// Pages.
    pub pages: Vec<Vec<u8>>,
    /// Long values.
    pub values: Vec<Vec<u8>>,
}

impl Frozen {
    /// The root, if all of the state was hashed.
    #[must_use]
    pub fn known_root(&self) -> Option<Digest> {
        let (height, digest) = self.top()?;
        Some(crate::root_digest(height, &digest))
    }

    /// What this state has of what is asked for, in that order, up to the first page that would exceed `bytes_max`
    /// (but always one). A page is given out only if it has the digest that is asked for, so any state may answer:
    /// much of a newer one is the same. What is named twice is given out once. Costs copying what is sent; hashes nothing, and so has nothing to say while
    /// the state was not hashed.
    #[must_use]
    pub fn answer(&self, request: &PageRequest, bytes_max: usize) -> PageAnswer {
        let top = self.top().filter(|(height, digest)| crate::root_digest(*height, digest) == request.root);
        let mut answer = PageAnswer {
            number: request.number,
            root: request.root,
            top,
            pages: Vec::new(),
            values: Vec::new(),
        };
        let (mut left, mut given) = (bytes_max, BTreeSet::new());
        for name in &request.wanted {
            let Some(found) = self.find(name) else { continue };
            if !given.insert(name.digest) {
                continue;
            }
            let bytes = found.len();
            if bytes > left && left < bytes_max {
                break;
            }
            left = left.saturating_sub(bytes);
            match found {
                Found::Page(node) => {
                    let mut page = Vec::with_capacity(bytes);
                    node.encode(&mut page);
                    answer.pages.push(page);
                }
                Found::Value(value) => answer.values.push(value.to_vec()),
            }
        }
        answer
    }

    fn top(&self) -> Option<(u8, Digest)> {
        let height = u8::try_from(self.tree.height()).expect("invariant: HEIGHT_MAX fits 8 bits");
        Some((height, *self.tree.root().cache().digest()?))
    }

    fn find(&self, name: &PageName) -> Option<Found<'_>> {
        let mut node = self.tree.root();
        for at in &name.path {
            let Node::Inner(inner) = node else { return None };
            node = inner.children().get(usize::from(*at))?;
        }
        match (name.entry, node) {
            // A node that is hashed has only such below it: encoding it computes nothing more.
            (None, node) => (*node.cache().digest()? == name.digest).then_some(Found::Page(node)),
            (Some(entry), Node::Leaf(leaf)) => value_of(leaf, entry, &name.digest).map(Found::Value),
            (Some(_), Node::Inner(_)) => None,
        }
    }
}

enum Found<'a> {
    Page(&'a Node),
    Value(&'a [u8]),
}

impl Found<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Page(node) => node.page_bytes(),
            Self::Value(value) => value.len(),
        }
    }
}

fn value_of<'a>(leaf: &'a Leaf, entry: u16, digest: &Digest) -> Option<&'a [u8]> {
    let value = leaf.long_value(usize::from(entry))?;
    (value.cache.digest()? == digest).then(|| value.bytes())
}
