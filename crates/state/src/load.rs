//! Reading a checkpoint from page files: level by level, the blocks of a level in the order in which they are on
//! disk, so that files are read forwards; everything checked against the root.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::block::{self, Address, Block, BlockFault, BlockKind, FILE_HEAD_BYTES};
use crate::builder::{Builder, Content, Want, check_order};
use crate::cache::FileNumber;
use crate::forest::Forest;
use crate::frozen::Frozen;
use crate::manifest::{Manifest, ManifestFault};
use crate::page::PageFault;
use crate::store::PageStore;
use crate::totals::Totals;
use crate::tree::Tree;

/// Blocks that lie at most so far apart are read with one read.
const GAP_BYTES_MAX: u64 = 64 * 1024;
/// The length up to which blocks are read together.
const READ_BYTES: u64 = 1024 * 1024;

/// Page files, as they are read.
pub trait ReadPages {
    /// Fills `buffer` with the bytes of a page file from `offset` on.
    fn read(&mut self, file: FileNumber, offset: u64, buffer: &mut [u8]) -> std::io::Result<()>;
}

/// Why a checkpoint could not be read.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A page file is missing, too short, or cannot be read.
    #[error("page file {file} cannot be read at byte {offset}: {cause}")]
    Unreadable {
        /// The file.
        file: FileNumber,
        /// Where in it.
        offset: u64,
        /// What the system says.
        cause: std::io::Error,
    },
    /// A page file does not begin as it should.
    #[error("page file {file} is damaged at byte 0: it does not begin as page file {file} does")]
    FileHead {
        /// The file.
        file: FileNumber,
    },
    /// A page file was written by another version.
    #[error(
        "page file {file} is of another version; start the version that has written it, or go on with an upgrade that \
         reads both"
    )]
    Version {
        /// The file.
        file: FileNumber,
    },
    /// A block is damaged.
    #[error("page file {file} is damaged at byte {offset}: the block there is wrong: {fault}")]
    Block {
        /// The file.
        file: FileNumber,
        /// Where the block begins.
        offset: u64,
        /// What is wrong with it.
        fault: BlockFault,
    },
    /// What a block holds is not what was written.
    #[error("page file {file} is damaged at byte {offset}: the page there is wrong: {fault}")]
    Page {
        /// The file.
        file: FileNumber,
        /// Where the block begins.
        offset: u64,
        /// What is wrong with its page.
        fault: PageFault,
    },
    /// A block lies outside of what the manifest says of its file.
    #[error("a block is said to be in page file {file} at byte {offset}, which the manifest does not cover")]
    Outside {
        /// The file.
        file: FileNumber,
        /// Where the block should begin.
        offset: u64,
    },
    /// The manifest contradicts itself, or is not of the kind that is asked for.
    #[error("the manifest is wrong: {0}")]
    Manifest(#[from] ManifestFault),
}

impl LoadError {
    /// Whether something is damaged, so that others may serve in its place. Otherwise it is whole as far as anybody can
    /// tell, and whoever cannot read it must not go on without it.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Unreadable { cause, .. } => is_of_the_medium(cause),
            Self::Manifest(fault) => fault.is_damage(),
            Self::Version { .. } | Self::Block { fault: BlockFault::Unknown(_), .. } => false,
            Self::FileHead { .. } | Self::Block { .. } | Self::Page { .. } | Self::Outside { .. } => true,
        }
    }
}

/// What the kernel says where a file system is broken (`EBADMSG`, `EUCLEAN`, `ENODATA`) or a medium fails (`EIO`).
const MEDIUM_ERRORS: [i32; 4] = [5, 61, 74, 117];

/// Whether bytes are gone, or the medium does not give them. Rights, limits and mounts are for the operator to mend, and
/// the bytes are there afterwards.
#[must_use]
pub fn is_of_the_medium(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotFound, UnexpectedEof};
    matches!(error.kind(), NotFound | UnexpectedEof)
        || error.raw_os_error().is_some_and(|number| MEDIUM_ERRORS.contains(&number))
}

/// What reading a checkpoint showed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadFigures {
    /// Nodes and long values.
    pub blocks: u64,
    /// Their bytes on disk.
    pub block_bytes: u64,
    /// All bytes of the page files.
    pub file_bytes: u64,
}

/// A want, and the block that fills it.
#[derive(Clone, Copy, Debug)]
struct Piece {
    address: Address,
    want: Want,
}

impl PageStore {
    /// The state of a complete checkpoint. Its page files are needed from now on, and the next checkpoint writes only
    /// what has changed since. Blocks while it reads.
    ///
    /// # Errors
    /// Names the file and place that is missing or damaged; an older manifest may serve.
    pub fn load(
        &mut self,
        manifest: &Manifest,
        source: &mut impl ReadPages,
    ) -> Result<(Frozen, LoadFigures), LoadError> {
        if !manifest.complete || !manifest.is_sound() {
            return Err(ManifestFault::Contradiction.into());
        }
        let (forest, figures) = self.load_forest(manifest, source)?;
        let Some((height, root)) = forest.trees.into_iter().next() else {
            return Err(ManifestFault::Contradiction.into());
        };
        let tree = Tree::over(root, usize::from(height));
        assert_eq!(tree.digest(&mut Vec::new()), manifest.root, "invariant: a sound manifest names its root");
        let totals = Totals::rebuild(&tree);
        Ok((Frozen { tree, totals }, figures))
    }

    /// What is in a checkpoint, complete or not. Otherwise as [`PageStore::load`].
    ///
    /// # Errors
    /// Names the file and place that is missing or damaged.
    pub fn load_forest(
        &mut self,
        manifest: &Manifest,
        source: &mut impl ReadPages,
    ) -> Result<(Forest, LoadFigures), LoadError> {
        let mut loader = Loader::new(manifest, source);
        loader.check_heads()?;
        let mut pieces = Vec::new();
        for root in &manifest.roots {
            let want = loader.builder.plant(root.height, root.digest);
            let want = want.map_err(|_| ManifestFault::Contradiction)?;
            pieces.push(Piece { address: root.address, want });
        }
        while !pieces.is_empty() {
            pieces = loader.read_level(pieces, self)?;
        }
        let nodes = loader.builder.finish().expect("invariant: all wants were filled");
        for (node, root) in nodes.iter().zip(&manifest.roots) {
            check_order(node, &[], None).map_err(|fault| page_error(root.address, fault))?;
        }
        let figures = loader.figures;
        let live = loader.live;
        let trees = manifest.roots.iter().map(|root| root.height).zip(nodes).collect();
        self.adopt(manifest, &live);
        Ok((Forest { trees }, figures))
    }
}

struct Loader<'a, Source> {
    manifest: &'a Manifest,
    lengths: BTreeMap<FileNumber, u32>,
    source: &'a mut Source,
    builder: Builder,
    live: BTreeMap<FileNumber, u64>,
    figures: LoadFigures,
    buffer: Vec<u8>,
}

impl<'a, Source: ReadPages> Loader<'a, Source> {
    fn new(manifest: &'a Manifest, source: &'a mut Source) -> Self {
        let lengths = manifest.files.iter().map(|file| (file.number, file.bytes)).collect();
        Self {
            manifest,
            lengths,
            source,
            builder: Builder::default(),
            live: BTreeMap::new(),
            figures: LoadFigures { file_bytes: manifest.bytes(), ..LoadFigures::default() },
            buffer: Vec::new(),
        }
    }

    fn check_heads(&mut self) -> Result<(), LoadError> {
        for entry in &self.manifest.files {
            let file = entry.number;
            let mut head = [0; FILE_HEAD_BYTES];
            self.source.read(file, 0, &mut head).map_err(|cause| LoadError::Unreadable {
                file,
                offset: 0,
                cause,
            })?;
            if block::is_of_another_version(&head) {
                return Err(LoadError::Version { file });
            }
            if head != block::file_head(file) {
                return Err(LoadError::FileHead { file });
            }
        }
        Ok(())
    }

    /// Reads the blocks of one level; returns those of the next.
    fn read_level(&mut self, mut pieces: Vec<Piece>, store: &PageStore) -> Result<Vec<Piece>, LoadError> {
        pieces.sort_by_key(|piece| piece.address);
        let mut below = Vec::new();
        let mut wants = Vec::new();
        let mut rest = &pieces[..];
        while let Some(first) = rest.first() {
            let count = self.run_of(rest)?;
            let (run, later) = rest.split_at(count);
            let (file, start) = (first.address.file, u64::from(first.address.offset));
            let end = run[count - 1].address.end();
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.resize(usize::try_from(end - start).expect("invariant: a run is short"), 0);
            self.source.read(file, start, &mut buffer).map_err(|cause| LoadError::Unreadable {
                file,
                offset: start,
                cause,
            })?;
            for piece in run {
                let at = usize::try_from(u64::from(piece.address.offset) - start)
                    .expect("invariant: a run is short");
                let bytes = &buffer[at..at + piece.address.bytes as usize];
                self.take(piece, bytes, store, &mut wants, &mut below)?;
            }
            self.buffer = buffer;
            rest = later;
        }
        Ok(below)
    }

    /// How many pieces from the first on are read with one read; checks that they lie within their files.
    fn run_of(&self, pieces: &[Piece]) -> Result<usize, LoadError> {
        let first = pieces[0].address;
        let mut end = u64::from(first.offset);
        let mut count = 0;
        for Piece { address, .. } in pieces {
            let near = address.file == first.file
                && u64::from(address.offset) <= end + GAP_BYTES_MAX
                && address.end() - u64::from(first.offset) <= READ_BYTES;
            if count > 0 && !near {
                break;
            }
            let length = self.lengths.get(&address.file).copied().unwrap_or_default();
            let inside = address.offset as usize >= FILE_HEAD_BYTES
                && address.end() <= u64::from(length)
                && address.bytes as usize <= block::BLOCK_BYTES_MAX;
            if !inside {
                return Err(LoadError::Outside { file: address.file, offset: u64::from(address.offset) });
            }
            end = end.max(address.end());
            count += 1;
        }
        Ok(count)
    }

    fn take(
        &mut self,
        piece: &Piece,
        bytes: &[u8],
        store: &PageStore,
        wants: &mut Vec<Want>,
        below: &mut Vec<Piece>,
    ) -> Result<(), LoadError> {
        let Piece { address, want } = piece;
        let wrong = |fault| block_error(*address, fault);
        let Block { kind, addresses, content } = block::read_block(*address, bytes).map_err(wrong)?;
        let expected = match want.content {
            Content::Inner => BlockKind::Inner,
            Content::Leaf => BlockKind::Leaf,
            Content::Value { .. } => BlockKind::Value,
        };
        if kind != expected {
            return Err(wrong(BlockFault::Kind));
        }
        wants.clear();
        let located = Some((store.epoch, address.place()));
        self.builder.fill(want, content, located, wants).map_err(|fault| page_error(*address, fault))?;
        if wants.len() != addresses.len() {
            return Err(wrong(BlockFault::Addresses));
        }
        let pieces = addresses.into_iter().zip(wants.drain(..));
        below.extend(pieces.map(|(address, want)| Piece { address, want }));
        *self.live.entry(address.file).or_default() += u64::from(address.bytes);
        self.figures.blocks += 1;
        self.figures.block_bytes += u64::from(address.bytes);
        Ok(())
    }
}

fn block_error(address: Address, fault: BlockFault) -> LoadError {
    LoadError::Block { file: address.file, offset: u64::from(address.offset), fault }
}

fn page_error(address: Address, fault: PageFault) -> LoadError {
    LoadError::Page { file: address.file, offset: u64::from(address.offset), fault }
}

/// Reads a whole checkpoint and checks every block of it, without keeping anything.
///
/// # Errors
/// Names the file and place that is missing or damaged.
pub fn verify(manifest: &Manifest, source: &mut impl ReadPages) -> Result<LoadFigures, LoadError> {
    let mut store = PageStore::new(crate::StoreOptions::default(), [], []);
    store.load_forest(manifest, source).map(|(_, figures)| figures)
}
