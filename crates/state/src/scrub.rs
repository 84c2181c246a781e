//! Reading back what is on disk: block after block of a state that is in memory, with what should stand there.
//!
//! A medium forgets in silence, and what is never read is found bad when it is needed. So whoever has the page files reads
//! them back slowly and writes anew what is bad, which is easy as long as the state is in memory. The walk goes on at about
//! the same place when a newer checkpoint takes the place of the one that it began with, so that it comes to an end however
//! often that happens, and holds no older state.

use std::collections::VecDeque;

use quorate_types::{Digest, Domain};

use crate::block::{self, Address, BlockKind};
use crate::cache::{FileNumber, Place};
use crate::checkpoint::{address_of_node, address_of_value, addresses_below};
use crate::forest::Forest;
use crate::frozen::Frozen;
use crate::node::{Node, digest_of_page};
use crate::store::PageStore;
use crate::walk::{Exit, Walk};

/// A block as it should stand in a page file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The page file.
    pub file: FileNumber,
    /// Where the block begins.
    pub offset: u32,
    /// All of it.
    pub bytes: Vec<u8>,
}

/// A walk over the blocks of the newest checkpoint.
#[derive(Debug)]
pub struct Scrub {
    walk: Walk,
    found: VecDeque<Stored>,
}

impl Scrub {
    /// Begins with the first block of a state whose checkpoint is durable.
    #[must_use]
    pub fn over(state: &Frozen) -> Self {
        Self { walk: Walk::over(&Forest::of(&state.tree)), found: VecDeque::new() }
    }

    /// A newer checkpoint is durable: goes on there, at about the same place.
    pub fn move_to(&mut self, state: &Frozen) {
        self.walk = Walk::resumed(&Forest::of(&state.tree), &self.walk.path());
        self.found.clear();
    }

    /// The next block; none at the end. What is not on disk, as it was changed meanwhile, is passed by, and so is what is
    /// not in memory as it was when it was hashed.
    pub fn next(&mut self, store: &PageStore) -> Option<Stored> {
        loop {
            if let Some(stored) = self.found.pop_front() {
                return Some(stored);
            }
            match self.walk.next(|node| node.cache().place(store.epoch).is_some()) {
                Exit::Node { node, .. } => self.find(&node, store),
                Exit::Passed => {}
                Exit::End => return None,
            }
        }
    }

    fn find(&mut self, node: &Node, store: &PageStore) {
        let epoch = store.epoch;
        if let Node::Leaf(leaf) = node {
            for value in leaf.long_values() {
                let is_sound = value.cache.digest() == Some(&Digest::of(Domain::TreeValue, value.bytes()));
                if let Some(address) = address_of_value(value, epoch).filter(|_| is_sound) {
                    self.found.push_back(stored(address, BlockKind::Value, &[], value.bytes()));
                }
            }
        }
        let mut page = Vec::with_capacity(node.page_bytes());
        node.encode(&mut page);
        let is_sound = node.cache().digest() == Some(&digest_of_page(&page));
        let Some(address) = address_of_node(node, epoch).filter(|_| is_sound) else { return };
        if let Some((kind, addresses)) = addresses_below(node, epoch) {
            self.found.push_back(stored(address, kind, &addresses, &page));
        }
    }
}

fn stored(address: Address, kind: BlockKind, addresses: &[Address], content: &[u8]) -> Stored {
    let Address { file, offset, .. } = address;
    let mut bytes = Vec::with_capacity(address.bytes as usize);
    block::append_block(&mut bytes, Place { file, offset }, kind, addresses, content);
    Stored { file, offset, bytes }
}
