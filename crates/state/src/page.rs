//! Reading pages: any bytes give what a canonical page says, or what is wrong with them.

use thiserror::Error;

/// What is wrong with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PageFault {
    /// It ends too early.
    #[error("it is cut off")]
    Short,
    /// Bytes follow its end.
    #[error("something follows its end")]
    Long,
    /// It is of another kind than its place in the tree asks for, or a value stands in the wrong form.
    #[error("it is of another kind")]
    Kind,
    /// A key or value is longer than any may be.
    #[error("a key or value in it is too long")]
    Length,
    /// Its keys do not ascend, or lie outside of what the node is for.
    #[error("its keys are not in order")]
    Order,
    /// The node is too heavy or too light for a tree that history has formed.
    #[error("it is heavier or lighter than a node may be")]
    Weight,
    /// Its digest is not the one that was named.
    #[error("its digest is another")]
    Digest,
    /// The tree is higher than any may be.
    #[error("the tree is too high")]
    Height,
}

/// Reads fields one after the other.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], PageFault> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(PageFault::Short)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(crate) fn array<const COUNT: usize>(&mut self) -> Result<[u8; COUNT], PageFault> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(PageFault::Short)?;
        self.0 = rest;
        Ok(*bytes)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, PageFault> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, PageFault> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, PageFault> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, PageFault> {
        self.array().map(u64::from_le_bytes)
    }

    /// What was not read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn end(&self) -> Result<(), PageFault> {
        if self.0.is_empty() { Ok(()) } else { Err(PageFault::Long) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use proptest::sample::Index;
    use quorate_types::Digest;

    use super::*;
    use crate::leaf::{Leaf, LongValue};
    use crate::node::{Inner, InnerPage, Node};
    use crate::tree::Tree;

    /// What the page says, put into a page again. What stands elsewhere is made up.
    fn read_and_write(page: &[u8]) -> Result<(Node, Vec<u8>), PageFault> {
        let node = match Leaf::decode(page) {
            Ok((mut leaf, missing)) => {
                for value in missing {
                    let long = LongValue::own(vec![0; value.bytes as usize]);
                    long.cache.digest_or(|| value.digest);
                    leaf.supply(value.entry, long);
                }
                leaf.check_invariants();
                Node::Leaf(leaf)
            }
            Err(PageFault::Kind) => {
                let page = InnerPage::decode(page)?;
                let child = |digest: &Digest| {
                    let child = Node::default();
                    child.cache().digest_or(|| *digest);
                    Arc::new(child)
                };
                let children = page.digests.iter().map(child).collect();
                Node::Inner(Inner::assemble(page, children))
            }
            Err(fault) => return Err(fault),
        };
        assert!(!node.is_overweight());
        let mut again = Vec::new();
        node.encode(&mut again);
        assert_eq!(again.len(), node.page_bytes());
        Ok((node, again))
    }

    fn pages(tree: &Tree) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let mut open = vec![Vec::new()];
        while let Some(path) = open.pop() {
            let Some(node) = tree.node(&path) else { continue };
            let mut page = Vec::new();
            node.encode(&mut page);
            found.push(page);
            if let Node::Inner(inner) = node {
                open.extend((0..inner.children().len()).map(|at| [&path[..], &[at]].concat()));
            }
        }
        found
    }

    fn tree() -> impl Strategy<Value = Tree> {
        let key = prop_oneof![
            (0u32..3000).prop_map(|number| format!("key:{number}").into_bytes()),
            (0u8..9, 1usize..1025).prop_map(|(byte, length)| vec![byte; length]),
        ];
        let value = prop_oneof![4 => 0usize..200, 1 => 900usize..1100, 1 => 1000usize..3000];
        prop::collection::vec((key, any::<u64>(), value), 0..900).prop_map(|entries| {
            let mut tree = Tree::default();
            for (key, version, length) in entries {
                tree.put(&key, version, &vec![7; length]);
            }
            tree
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

        #[test]
        fn every_page_is_read_as_it_was_written_and_no_other_form_is_taken(
            tree in tree(),
            changes in prop::collection::vec((any::<Index>(), any::<Index>(), any::<u8>()), 200),
            head_changes in prop::collection::vec((any::<Index>(), 0usize..24, any::<u8>()), 200),
        ) {
            let pages = pages(&tree);
            for page in &pages {
                let (node, again) = read_and_write(page).unwrap();
                prop_assert_eq!(&again, page);
                prop_assert!(pages.len() == 1 || !node.is_underweight() || page == &pages[0]);
            }
            let changes = changes.into_iter().map(|(which, at, change)| {
                let page = &pages[which.index(pages.len())];
                (page, at.index(page.len()), change)
            });
            let heads = head_changes.into_iter().map(|(which, at, change)| {
                let page = &pages[which.index(pages.len())];
                (page, at.min(page.len() - 1), change)
            });
            for (page, at, change) in changes.chain(heads) {
                let mut changed = page.clone();
                changed[at] ^= change;
                if let Ok((_, again)) = read_and_write(&changed) {
                    prop_assert_eq!(again, changed, "the change at byte {} is taken", at);
                }
                prop_assert!(read_and_write(&page[..at]).is_err(), "{} bytes are taken", at);
            }
            for page in &pages {
                prop_assert_eq!(read_and_write(&[page, &[0][..]].concat()).err(), Some(PageFault::Long));
            }
        }

        #[test]
        fn any_bytes_are_a_page_or_a_fault(tag in 8u8..10, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let page = [&[tag][..], &bytes].concat();
            if let Ok((_, again)) = read_and_write(&page) {
                prop_assert_eq!(again, page);
            }
        }
    }
}
