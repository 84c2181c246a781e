//! What is left of damaged page files: every block that is intact, by the digest of what it holds.
//!
//! A block that cannot be read costs its own page, not those below it, although it alone knows where they are: files
//! are read from one end to the other, and blocks that intact ones name are looked for where the length of a damaged
//! one leads nowhere. So a replica whose checkpoint has a bad page still gives all others to its peers, takes from them
//! what it lacks, and has its state again. Nothing is believed of a block but bytes that have the digest that is asked
//! for, so it does not matter of which checkpoint they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use quorate_types::{Digest, Domain};
use thiserror::Error;

use crate::block::{
    self, Address, BLOCK_BYTES_MAX, BLOCK_HEAD_BYTES, BlockFault, BlockKind, FILE_HEAD_BYTES,
};
use crate::cache::{FileNumber, Place};
use crate::frozen::Frozen;
use crate::load::{LoadError, ReadPages, is_of_the_medium};
use crate::manifest::{Manifest, root_digest};
use crate::node::{HEIGHT_MAX, digest_of_page};
use crate::page::PageFault;
use crate::serve::{PageAnswer, PageRequest};
use crate::transfer::{Transfer, TransferOptions};

/// So much is read at a time; what a medium refuses to give is lost in pieces of this length.
const READ_BYTES: usize = 64 * 1024;

/// Pages and long values by their digests.
#[derive(Default)]
pub struct Salvage {
    pages: BTreeMap<Digest, Vec<u8>>,
    values: BTreeMap<Digest, Vec<u8>>,
    /// Height and root node of the states that are known by a manifest, by their roots.
    tops: BTreeMap<Digest, (u8, Digest)>,
    /// Where blocks are named that are not intact.
    damaged: BTreeSet<Address>,
}

/// Why a state cannot be put together from pages.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotWhole {
    /// Some are not there.
    #[error("{} of its pages are not there", .0.len())]
    Lacks(Vec<Digest>),
    /// All are there, and contradict each other, which whoever has signed the root would have to explain.
    #[error("it contradicts itself: {0}")]
    Contradicts(PageFault),
}

impl fmt::Debug for Salvage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Salvage")
            .field("pages", &self.pages.len())
            .field("values", &self.values.len())
            .field("tops", &self.tops)
            .field("damaged", &self.damaged)
            .finish()
    }
}

impl Salvage {
    /// All intact blocks of these page files, which have these lengths.
    ///
    /// # Errors
    /// When a file cannot be read for a reason that is not the medium's: nothing is known of its blocks then.
    pub fn gather<'a>(
        files: &BTreeMap<FileNumber, u32>,
        manifests: impl Iterator<Item = &'a Manifest>,
        source: &mut impl ReadPages,
    ) -> Result<Self, LoadError> {
        let mut gatherer = Gatherer::default();
        for manifest in manifests {
            gatherer.named.extend(manifest.roots.iter().map(|root| root.address));
            if let ([root], true) = (&manifest.roots[..], manifest.complete) {
                let top = (root.height, root.digest);
                gatherer.found.tops.insert(root_digest(root.height, &root.digest), top);
            }
        }
        for (file, length) in files {
            let bytes = read_file(*file, *length, source)?;
            gatherer.scan(*file, &bytes, FILE_HEAD_BYTES);
        }
        // What is found may name more, though not for ever: a block names only earlier ones.
        while !gatherer.broken.is_empty() {
            let known = gatherer.taken.len();
            for file in gatherer.broken.clone() {
                let bytes = read_file(file, files[&file], source)?;
                gatherer.look_where_named(file, &bytes);
            }
            if gatherer.taken.len() == known {
                break;
            }
        }
        let is_damaged = |address: &&Address| {
            files.contains_key(&address.file) && !gatherer.taken.contains(&address.place())
        };
        gatherer.found.damaged = gatherer.named.iter().filter(is_damaged).copied().collect();
        Ok(gatherer.found)
    }

    /// Takes what is intact in other page files, too. Where blocks of those are damaged is forgotten.
    pub fn add(&mut self, other: Self) {
        self.pages.extend(other.pages);
        self.values.extend(other.values);
        self.tops.extend(other.tops);
    }

    /// Where blocks should be and are not intact, as far as intact ones and manifests name them.
    pub fn damaged(&self) -> impl Iterator<Item = &Address> {
        self.damaged.iter()
    }

    /// The state with this root, every page checked against it.
    ///
    /// # Errors
    /// When pages are not here: those that are wanted first, as what is below them is not known.
    pub fn assemble(self: &Arc<Self>, root: Digest) -> Result<Frozen, NotWhole> {
        let mut walk = Transfer::new(root, TransferOptions::default());
        walk.reuse_salvage(Arc::clone(self));
        if !walk.is_finished() {
            return Err(NotWhole::Lacks(walk.lacking()));
        }
        walk.finish().map_err(NotWhole::Contradicts)
    }

    /// The page with this digest.
    pub(crate) fn page(&self, digest: &Digest) -> Option<&[u8]> {
        self.pages.get(digest).map(Vec::as_slice)
    }

    /// The long value with this digest.
    pub(crate) fn value(&self, digest: &Digest) -> Option<&[u8]> {
        self.values.get(digest).map(Vec::as_slice)
    }

    /// The number of levels of the state with this root, and the digest of its root node.
    pub(crate) fn top(&self, root: &Digest) -> Option<(u8, Digest)> {
        self.tops.get(root).copied()
    }

    /// As [`Salvage::top`], or found among the pages: where both copies of a manifest are bad, nothing else tells.
    pub(crate) fn find_top(&self, root: &Digest) -> Option<(u8, Digest)> {
        let heights = 1..=u8::try_from(HEIGHT_MAX).expect("invariant: a small number");
        let is_it = |height: &u8, digest: &Digest| root_digest(*height, digest) == *root;
        let found = || {
            self.pages.keys().find_map(|digest| {
                heights.clone().find(|height| is_it(height, digest)).map(|height| (height, *digest))
            })
        };
        self.top(root).or_else(found)
    }

    /// The number of pages and long values.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.pages.len() + self.values.len()
    }

    /// What is here of what is asked for, whatever state it is of: as [`Frozen::answer`](crate::Frozen::answer).
    #[must_use]
    pub fn answer(&self, request: &PageRequest, bytes_max: usize) -> PageAnswer {
        let top = self.top(&request.root);
        let (number, root) = (request.number, request.root);
        let mut answer = PageAnswer { number, root, top, pages: Vec::new(), values: Vec::new() };
        let (mut left, mut given) = (bytes_max, BTreeSet::new());
        for name in &request.wanted {
            let found = match name.entry {
                None => self.page(&name.digest),
                Some(_) => self.value(&name.digest),
            };
            let Some(found) = found else { continue };
            if !given.insert(name.digest) {
                continue;
            }
            if found.len() > left && left < bytes_max {
                break;
            }
            left = left.saturating_sub(found.len());
            match name.entry {
                None => answer.pages.push(found.to_vec()),
                Some(_) => answer.values.push(found.to_vec()),
            }
        }
        answer
    }
}

#[derive(Default)]
struct Gatherer {
    found: Salvage,
    /// Where blocks are said to be by manifests and by intact blocks.
    named: BTreeSet<Address>,
    /// Where intact blocks were found.
    taken: BTreeSet<Place>,
    /// The files in which something could not be read.
    broken: BTreeSet<FileNumber>,
}

impl Gatherer {
    /// Takes the blocks of a file from `at` on, one behind the other, as far as their lengths lead.
    fn scan(&mut self, file: FileNumber, bytes: &[u8], mut at: usize) {
        while let Some(address) = block_at(file, bytes, at) {
            if self.taken.contains(&address.place()) {
                return;
            }
            if self.take(address, bytes).is_err() {
                self.broken.insert(file);
            }
            at += address.bytes as usize;
        }
        if at < bytes.len() {
            self.broken.insert(file);
        }
    }

    /// Takes the blocks of a file that are named and were not met, and what follows them.
    fn look_where_named(&mut self, file: FileNumber, bytes: &[u8]) {
        let first = Address { file, offset: 0, bytes: 0 };
        let last = Address { file, offset: u32::MAX, bytes: u32::MAX };
        let named: Vec<Address> = self.named.range(first..=last).copied().collect();
        for address in named {
            let is_inside = address.end() <= bytes.len() as u64;
            if is_inside && !self.taken.contains(&address.place()) && self.take(address, bytes).is_ok() {
                let next = address.offset as usize + address.bytes as usize;
                self.scan(file, bytes, next);
            }
        }
    }

    fn take(&mut self, address: Address, bytes: &[u8]) -> Result<(), BlockFault> {
        let start = address.offset as usize;
        let block = block::read_block(address, &bytes[start..start + address.bytes as usize])?;
        self.taken.insert(address.place());
        self.named.extend(block.addresses);
        let content = block.content.to_vec();
        match block.kind {
            BlockKind::Inner | BlockKind::Leaf => {
                self.found.pages.insert(digest_of_page(&content), content);
            }
            BlockKind::Value => {
                self.found.values.insert(Digest::of(Domain::TreeValue, &content), content);
            }
        }
        Ok(())
    }
}

/// The block that begins at `at`, if its length leads to somewhere in the file.
fn block_at(file: FileNumber, bytes: &[u8], at: usize) -> Option<Address> {
    let length = bytes.get(at..)?.first_chunk().map(|length| u32::from_le_bytes(*length))?;
    let whole = (length as usize).checked_add(BLOCK_HEAD_BYTES)?;
    let is_sane = length > 0 && whole <= BLOCK_BYTES_MAX && at.checked_add(whole)? <= bytes.len();
    let offset = u32::try_from(at).ok()?;
    is_sane.then(|| Address { file, offset, bytes: u32::try_from(whole).unwrap_or(u32::MAX) })
}

/// The bytes of a file, with zeros where the medium does not give them.
fn read_file(file: FileNumber, length: u32, source: &mut impl ReadPages) -> Result<Vec<u8>, LoadError> {
    let mut bytes = vec![0; length as usize];
    for (index, piece) in bytes.chunks_mut(READ_BYTES).enumerate() {
        let offset = (index * READ_BYTES) as u64;
        match source.read(file, offset, piece) {
            Ok(()) => {}
            Err(cause) if is_of_the_medium(&cause) => piece.fill(0),
            Err(cause) => return Err(LoadError::Unreadable { file, offset, cause }),
        }
    }
    Ok(bytes)
}
