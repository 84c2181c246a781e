//! Writing a checkpoint: one walk over a frozen state that hashes and writes what is not on disk, children before
//! parents, in pieces.
//!
//! First the walk measures what it will write. If the page files would then be too large for what lives in them, or
//! become so while the next checkpoint is written, a second walk counts what is live in each file, and those with the
//! least become *victims*: what lives in them is written again, and the files are needed no more. Only then every node
//! is visited; otherwise subtrees that are on disk are passed by.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::mem;

use quorate_types::Digest;

use crate::block::{self, Address, BlockKind};
use crate::block_writer::BlockWriter;
use crate::cache::{Cache, FileNumber, Place, PlaceEpoch};
use crate::forest::Forest;
use crate::frozen::Frozen;
use crate::leaf::Leaf;
use crate::manifest::{CheckpointHead, ExecutedTip, FileEntry, Manifest, RootEntry, root_digest};
use crate::node::{Node, digest_of_page};
use crate::store::{FileUse, PageStore, Removal};
use crate::totals::ENTRY_BYTES_MIN;
use crate::walk::{Exit, Walk};

/// After so many bytes of pages, others may go first: some tens of microseconds.
const PAUSE_BYTES: usize = 128 * 1024;
/// What looking at a node costs, in bytes hashed and written.
const VISIT_BYTES: usize = 256;

/// What the writer does next.
#[derive(Debug)]
pub enum Progress {
    /// Remove these files first, so that the checkpoint has room.
    Remove(Removal),
    /// Write these bytes.
    Write(PageWrite),
    /// Some tens of microseconds were worked: others may go first.
    Pause,
    /// All was written: make the page files durable, then the manifest, then its directory entry.
    Finished,
}

/// Bytes to be written to a page file. A file is written from its beginning, without gaps.
#[derive(Debug, PartialEq, Eq)]
pub struct PageWrite {
    /// The file; it begins to exist with the write at offset 0.
    pub file: FileNumber,
    /// Where in it.
    pub offset: u32,
    /// What.
    pub bytes: Vec<u8>,
}

/// What brings the files back to what they were before a checkpoint that was abandoned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Undo {
    /// A manifest that may have been written goes before all page files.
    pub manifest: u64,
    /// Page files that it has begun.
    pub pages: Vec<FileNumber>,
    /// Page files that it has appended to, with the length that they had.
    pub cut: Vec<(FileNumber, u32)>,
}

impl Undo {
    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty() && self.cut.is_empty()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Measure,
    Count,
    Write,
    Finished,
}

/// A checkpoint that is being written. Belongs to the store that began it.
pub struct Checkpoint {
    head: CheckpointHead,
    complete: bool,
    /// What a partial one is on the way to.
    target: Digest,
    tips: Vec<ExecutedTip>,
    forest: Forest,
    /// A lower bound of what the state takes on disk.
    live_bytes_min: u64,
    /// How much page files may take in all; once it is known.
    disk_bytes_max: u64,
    phase: Phase,
    walk: Walk,
    /// The bytes of blocks that are not on disk.
    missing_bytes: u64,
    /// The live bytes of each file: exact once they were counted.
    live: BTreeMap<FileNumber, u64>,
    /// The files that the new manifest does not need.
    gone: BTreeSet<FileNumber>,
    /// The epoch of the places that nodes get: another than the store's when files are gone.
    epoch: PlaceEpoch,
    old_epoch: PlaceEpoch,
    writer: BlockWriter,
    work: usize,
    removal: Option<Removal>,
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("head", &self.head)
            .field("phase", &self.phase)
            .field("written_bytes", &self.writer.written_bytes)
            .finish_non_exhaustive()
    }
}

impl PageStore {
    /// Begins the checkpoint of a state that is [news](Self::is_news). One at a time.
    #[must_use]
    pub fn begin(&self, head: CheckpointHead, state: &Frozen) -> Checkpoint {
        let totals = state.totals;
        let live_bytes_min = totals.stored_bytes + totals.user_keys * ENTRY_BYTES_MIN;
        Checkpoint::new(self, head, Forest::of(&state.tree), None, live_bytes_min)
            .with_tips(state.executed_tips())
    }

    /// Begins a partial checkpoint: of what a transfer of the state with this `root` has received.
    #[must_use]
    pub fn begin_partial(&self, head: CheckpointHead, root: Digest, forest: Forest) -> Checkpoint {
        Checkpoint::new(self, head, forest, Some(root), 0)
    }

    /// The checkpoint's manifest, as [`Checkpoint::manifest`] gave it, and its directory entry are durable: says what
    /// may be removed.
    ///
    /// # Panics
    /// When the checkpoint is not finished.
    pub fn on_durable(&mut self, checkpoint: Checkpoint) -> Removal {
        let manifest = checkpoint.manifest(self);
        let open = checkpoint.writer.file.map(|(file, _)| file);
        let open = open.or(self.open).filter(|file| !checkpoint.gone.contains(file));
        self.install(&manifest, checkpoint.epoch, open, checkpoint.disk_bytes_max)
    }

    /// The checkpoint will not become durable: says how to undo what was written of it. The next one writes everything
    /// anew, unless this one had written nothing yet.
    #[must_use]
    pub fn abandon(&mut self, checkpoint: Checkpoint) -> Undo {
        let ends = checkpoint.writer.ends;
        if ends.is_empty() {
            return Undo::default();
        }
        let (appended, begun): (Vec<_>, Vec<_>) =
            ends.into_keys().partition(|number| self.files.contains_key(number));
        let cut: Vec<_> = appended.into_iter().map(|number| (number, self.files[&number].bytes)).collect();
        self.void(&begun, &cut);
        Undo { manifest: self.next_manifest(), pages: begun, cut }
    }
}

impl Checkpoint {
    fn new(
        store: &PageStore,
        head: CheckpointHead,
        forest: Forest,
        target: Option<Digest>,
        live_bytes_min: u64,
    ) -> Self {
        Self {
            head,
            complete: target.is_none(),
            target: target.unwrap_or_default(),
            tips: Vec::new(),
            walk: Walk::over(&forest),
            forest,
            live_bytes_min,
            disk_bytes_max: 0,
            phase: Phase::Measure,
            missing_bytes: 0,
            live: store.files.iter().map(|(number, file)| (*number, u64::from(file.live_bytes))).collect(),
            gone: BTreeSet::new(),
            epoch: store.epoch,
            old_epoch: store.epoch,
            writer: BlockWriter::new(store),
            work: 0,
            removal: None,
        }
    }

    fn with_tips(self, tips: Vec<ExecutedTip>) -> Self {
        Self { tips, ..self }
    }

    /// Works a little.
    pub fn advance(&mut self, store: &mut PageStore) -> Progress {
        assert_eq!(self.old_epoch, store.epoch, "invariant: one checkpoint of a store at a time");
        loop {
            if let Some(removal) = self.removal.take() {
                return Progress::Remove(removal);
            }
            if let Some(write) = self.writer.take(self.phase == Phase::Finished) {
                return Progress::Write(write);
            }
            if self.work >= PAUSE_BYTES {
                self.work = 0;
                return Progress::Pause;
            }
            match self.phase {
                Phase::Measure => self.measure(store),
                Phase::Count => self.count(store),
                Phase::Write => self.write(store),
                Phase::Finished => return Progress::Finished,
            }
        }
    }

    /// The bytes that were written so far.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.writer.written_bytes
    }

    /// The bytes of blocks that it will have written in all, from when it has measured them on; that is told by a
    /// [`Progress::Pause`] before the first is written.
    #[must_use]
    pub fn planned_bytes(&self) -> Option<u64> {
        matches!(self.phase, Phase::Write | Phase::Finished).then_some(self.missing_bytes)
    }

    /// The page files that must be durable before the manifest is written.
    #[must_use]
    pub fn files_written(&self) -> &BTreeSet<FileNumber> {
        &self.writer.files
    }

    /// The root of the state; of a partial checkpoint, the one that it is on the way to.
    ///
    /// # Panics
    /// When the checkpoint is not finished.
    #[must_use]
    pub fn root(&self) -> Digest {
        assert_eq!(self.phase, Phase::Finished, "invariant: asked for when all is written");
        match &self.forest.trees[..] {
            [(height, node)] if self.complete => root_digest(*height, &digest_of(node.cache())),
            _ => self.target,
        }
    }

    /// The manifest, to be written once the page files are durable.
    ///
    /// # Panics
    /// When the checkpoint is not finished.
    #[must_use]
    pub fn manifest(&self, store: &PageStore) -> Manifest {
        let roots = self.forest.trees.iter().map(|(height, node)| RootEntry {
            height: *height,
            digest: digest_of(node.cache()),
            address: address_of_node(node, self.epoch).expect("invariant: the roots are written"),
        });
        let mut files: BTreeMap<FileNumber, FileUse> = store.files.clone();
        files.extend(
            self.writer
                .ends
                .iter()
                .map(|(number, bytes)| (*number, FileUse { bytes: *bytes, live_bytes: 0 })),
        );
        files.retain(|number, _| !self.gone.contains(number));
        let files = files.into_iter().map(|(number, file)| {
            let live = self.live.get(&number).copied().unwrap_or_default();
            let live_bytes = u32::try_from(live).map_or(file.bytes, |live| live.min(file.bytes));
            FileEntry { number, bytes: file.bytes, live_bytes }
        });
        Manifest {
            number: store.next_manifest(),
            complete: self.complete,
            head: self.head.clone(),
            root: self.root(),
            roots: roots.collect(),
            files: files.collect(),
            tips: self.tips.clone(),
        }
    }

    /// Adds up what is not on disk.
    fn measure(&mut self, store: &mut PageStore) {
        let epoch = self.epoch;
        match self.walk.next(|node| node.cache().place(epoch).is_none()) {
            Exit::Node { node, .. } => {
                self.work += VISIT_BYTES;
                self.count_block(node.cache(), block_bytes_of(&node));
                self.count_values(&node);
            }
            Exit::Passed => self.work += VISIT_BYTES,
            Exit::End => {
                let bytes = store.bytes() + self.missing_bytes;
                self.walk = Walk::over(&self.forest);
                // The next one may write as much while all of this is there.
                if bytes + self.missing_bytes > store.bytes_max(self.live_bytes_min) {
                    self.missing_bytes = 0;
                    self.live.values_mut().for_each(|live| *live = 0);
                    self.phase = Phase::Count;
                } else {
                    self.make_room(store, self.live_bytes_min);
                    self.start_writing();
                }
            }
        }
    }

    /// Counts what is live in each file, and what is not on disk.
    fn count(&mut self, store: &mut PageStore) {
        match self.walk.next(|_| true) {
            Exit::Node { node, .. } => {
                self.work += VISIT_BYTES;
                self.count_block(node.cache(), block_bytes_of(&node));
                self.count_values(&node);
            }
            Exit::Passed => {}
            Exit::End => {
                self.walk = Walk::over(&self.forest);
                self.choose_victims(store);
                self.start_writing();
            }
        }
    }

    fn count_values(&mut self, node: &Node) {
        if let Node::Leaf(leaf) = node {
            for value in leaf.long_values() {
                self.count_block(&value.cache, block::block_bytes(0, value.bytes().len()));
            }
        }
    }

    /// Adds a block to those that are missing, or while live bytes are counted to those of its file.
    fn count_block(&mut self, cache: &Cache, bytes: u32) {
        match cache.place(self.old_epoch) {
            None => self.missing_bytes += u64::from(bytes),
            Some(place) if self.phase == Phase::Count => {
                *self.live.entry(place.file).or_default() += u64::from(bytes);
            }
            Some(_) => {}
        }
    }

    /// Decides which files the new manifest will not need: those without live blocks, and if the others are still too
    /// large for what lives in them, or would be while the next checkpoint is written beside them, those with the least
    /// share of it.
    fn choose_victims(&mut self, store: &mut PageStore) {
        let live: u64 = self.live.values().sum::<u64>() + self.missing_bytes;
        let dead = |number: &FileNumber| self.live.get(number).copied().unwrap_or_default() == 0;
        self.gone = store.files.keys().copied().filter(dead).collect();
        let mut left: Vec<(FileNumber, u64, u64)> = store
            .files
            .keys()
            .filter(|number| !self.gone.contains(number))
            .map(|number| (*number, store.file_bytes(*number), self.live[number]))
            .collect();
        let mut bytes = left.iter().map(|(_, bytes, _)| bytes).sum::<u64>() + self.missing_bytes;
        let next = self.missing_bytes;
        let enough = (live + live / 2).min((2 * live).saturating_sub(next)).max(live);
        if bytes + next > store.bytes_max(live) {
            left.retain(|(number, ..)| store.open != Some(*number));
            // The least live share first, without fractions.
            left.sort_by(|(_, bytes, live), (_, other_bytes, other_live)| {
                (u128::from(*live) * u128::from(*other_bytes))
                    .cmp(&(u128::from(*other_live) * u128::from(*bytes)))
            });
            for (number, file_bytes, file_live) in left {
                if bytes <= enough {
                    break;
                }
                bytes -= file_bytes - file_live;
                self.missing_bytes += file_live;
                self.gone.insert(number);
            }
        }
        if !self.gone.is_empty() {
            self.epoch = PlaceEpoch::fresh();
            self.live.values_mut().for_each(|live| *live = 0);
            self.writer.leave(&self.gone);
        }
        self.make_room(store, live);
    }

    /// Gives the older manifest up if this checkpoint would not fit beside it.
    fn make_room(&mut self, store: &mut PageStore, live_bytes: u64) {
        self.disk_bytes_max = 2 * live_bytes;
        if store.disk_bytes() + self.missing_bytes > self.disk_bytes_max {
            self.removal = Some(store.release()).filter(|removal| !removal.is_empty());
        }
    }

    /// Pauses before the first block, so that the caller may look whether there is room for all.
    fn start_writing(&mut self) {
        self.phase = Phase::Write;
        self.work = PAUSE_BYTES;
    }

    fn write(&mut self, store: &mut PageStore) {
        // With files that go, all nodes are told the new epoch; else those on disk are passed by.
        let (everything, epoch) = (!self.gone.is_empty(), self.epoch);
        match self.walk.next(|node| everything || node.cache().place(epoch).is_none()) {
            Exit::Node { node, moved } => {
                self.work += VISIT_BYTES;
                if self.write_node(&node, moved, store) {
                    self.walk.mark_moved();
                }
            }
            Exit::Passed => self.work += VISIT_BYTES,
            Exit::End => self.phase = Phase::Finished,
        }
    }

    /// Writes a node whose children are on disk, if it is not there itself or if what it names has `moved`; says
    /// whether it did.
    fn write_node(&mut self, node: &Node, mut moved: bool, store: &mut PageStore) -> bool {
        if let Node::Leaf(leaf) = node {
            moved |= self.write_values(leaf, store);
        }
        if !moved && self.stays(node.cache(), block_bytes_of(node)) {
            return false;
        }
        let mut page = mem::take(&mut self.writer.page);
        node.encode(&mut page);
        node.cache().digest_or(|| digest_of_page(&page));
        assert_eq!(page.len(), node.page_bytes(), "invariant: a page's length follows from its weight");
        let below = addresses_below(node, self.epoch);
        let (kind, addresses) = below.expect("invariant: children are on disk before their parent");
        let place = self.put(kind, &addresses, &page, store);
        node.cache().set_place(self.epoch, place);
        self.writer.page = page;
        true
    }

    fn write_values(&mut self, leaf: &Leaf, store: &mut PageStore) -> bool {
        let mut moved = false;
        for value in leaf.long_values() {
            let bytes = value.bytes();
            if self.stays(&value.cache, block::block_bytes(0, bytes.len())) {
                continue;
            }
            value.digest();
            let place = self.put(BlockKind::Value, &[], bytes, store);
            value.cache.set_place(self.epoch, place);
            moved = true;
        }
        moved
    }

    /// Whether the block is on disk and remains there; then it has its place in the new epoch, too.
    fn stays(&mut self, cache: &Cache, bytes: u32) -> bool {
        if self.epoch == self.old_epoch {
            return cache.place(self.epoch).is_some();
        }
        let Some(place) = cache.place(self.old_epoch).filter(|place| !self.gone.contains(&place.file)) else {
            return false;
        };
        cache.set_place(self.epoch, place);
        *self.live.entry(place.file).or_default() += u64::from(bytes);
        true
    }

    fn put(
        &mut self,
        kind: BlockKind,
        addresses: &[Address],
        content: &[u8],
        store: &mut PageStore,
    ) -> Place {
        self.work += content.len();
        let bytes = block::block_bytes(addresses.len(), content.len());
        let place = self.writer.place(bytes, store);
        self.writer.append(place, kind, addresses, content);
        *self.live.entry(place.file).or_default() += u64::from(bytes);
        place
    }
}

/// What a node's block says of those below: nothing as long as one of them is not on disk.
pub(crate) fn addresses_below(node: &Node, epoch: PlaceEpoch) -> Option<(BlockKind, Vec<Address>)> {
    Some(match node {
        Node::Leaf(leaf) => {
            let addresses = leaf.long_values().map(|value| address_of_value(value, epoch));
            (BlockKind::Leaf, addresses.collect::<Option<_>>()?)
        }
        Node::Inner(inner) => {
            let addresses = inner.children().iter().map(|child| address_of_node(child, epoch));
            (BlockKind::Inner, addresses.collect::<Option<_>>()?)
        }
    })
}

fn digest_of(cache: &Cache) -> Digest {
    *cache.digest().expect("invariant: what is written is hashed")
}

fn block_bytes_of(node: &Node) -> u32 {
    let addresses = match node {
        Node::Leaf(leaf) => leaf.long_values().count(),
        Node::Inner(inner) => inner.children().len(),
    };
    block::block_bytes(addresses, node.page_bytes())
}

fn address(cache: &Cache, bytes: u32, epoch: PlaceEpoch) -> Option<Address> {
    let Place { file, offset } = cache.place(epoch)?;
    Some(Address { file, offset, bytes })
}

pub(crate) fn address_of_node(node: &Node, epoch: PlaceEpoch) -> Option<Address> {
    address(node.cache(), block_bytes_of(node), epoch)
}

pub(crate) fn address_of_value(value: &crate::leaf::LongValue, epoch: PlaceEpoch) -> Option<Address> {
    address(&value.cache, block::block_bytes(0, value.bytes().len()), epoch)
}
