//! The manifest: what makes blocks in page files a checkpoint.
//!
//! A manifest is a file of its own, written whole and renamed into place when every block that it names is durable.
//! A *partial* manifest keeps what a state transfer has received so far: subtrees of a state that is not whole yet.
//!
//! | field | |
//! | --- | --- |
//! | `quorate manifest` | 16 bytes |
//! | version | u32, 2 |
//! | kind | u8: 0 complete, 1 partial |
//! | number | u64 |
//! | seq, chain digest, timestamp | u64, 32 bytes, u64 |
//! | root | 32 bytes |
//! | roots | count u32, each: height u8, digest of the node, address |
//! | files | count u32, each: number, length, live bytes, u32 each |
//! | certificate | length u32, bytes |
//! | lane tips | count u32, each: origin u8, link u8, number u64, chain 32 bytes; none in a partial one |
//! | crc32c of all before | u32 |

use quorate_types::{Digest, Domain, LaneId, LaneNumber, LinkId, Nanoseconds, ReplicaId, Seq};
use thiserror::Error;

use crate::block::{ADDRESS_BYTES, Address, BlockFault};
use crate::cache::FileNumber;
use crate::node::HEIGHT_MAX;
use crate::page::{PageFault, Reader};

const MAGIC: &[u8; 16] = b"quorate manifest";
const VERSION: u32 = 2;
const TIP_BYTES: usize = 2 + 8 + 32;
const COMPLETE: u8 = 0;
const PARTIAL: u8 = 1;
/// The longest manifest that is read: room for more page files than any disk has.
pub const MANIFEST_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The version of the page layout; part of the root.
const FORMAT: u8 = 1;

/// What a checkpoint is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointHead {
    /// The seq of the last executed header.
    pub seq: Seq,
    /// The chain digest there.
    pub digest: Digest,
    /// The header's timestamp.
    pub timestamp: Nanoseconds,
    /// The certificate over the root, if it is known; its form is the caller's. Empty if not.
    pub certificate: Vec<u8>,
}

/// A node that is not below another one of the same checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootEntry {
    /// How many levels it has, itself and the leaves included.
    pub height: u8,
    /// Its digest.
    pub digest: Digest,
    /// Its block.
    pub address: Address,
}

/// A page file as a manifest needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Its number.
    pub number: FileNumber,
    /// How many bytes of it count; what follows is of no checkpoint.
    pub bytes: u32,
    /// How many bytes of it the checkpoint needs, or more: edits since they were last counted are not known.
    pub live_bytes: u32,
}

/// Where a lane stands in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecutedTip {
    /// The lane.
    pub lane: LaneId,
    /// The last batch that was executed.
    pub upto: LaneNumber,
    /// The chain digest there.
    pub chain: Digest,
}

/// What makes blocks in page files a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its number: later ones have higher numbers.
    pub number: u64,
    /// Whether it is of a whole state.
    pub complete: bool,
    /// What it is of.
    pub head: CheckpointHead,
    /// The root of the state; of a partial one, the root that was being fetched.
    pub root: Digest,
    /// The tree's root node, or the subtrees that were there.
    pub roots: Vec<RootEntry>,
    /// The page files, ascending.
    pub files: Vec<FileEntry>,
    /// Where the lanes stand in the state, by lane: so what leads on from it is understood even where the pages that say
    /// so cannot be read.
    pub tips: Vec<ExecutedTip>,
}

/// What is wrong with a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ManifestFault {
    /// It is no manifest.
    #[error("it does not begin as a manifest does")]
    Magic,
    /// It is whole, and of another version.
    #[error(
        "it is of version {0}, and this program reads version {VERSION}: start the version that has written it, or an \
         upgrade that reads both"
    )]
    Version(u32),
    /// It is cut off, or too long.
    #[error("its length is wrong")]
    Length,
    /// The checksum does not fit.
    #[error("its checksum is wrong")]
    Checksum,
    /// Its fields contradict each other.
    #[error("its fields contradict each other")]
    Contradiction,
}

impl ManifestFault {
    /// Whether it is damaged, rather than of a version that this one does not know.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::Version(_))
    }
}

impl From<PageFault> for ManifestFault {
    fn from(_: PageFault) -> Self {
        Self::Length
    }
}

impl From<BlockFault> for ManifestFault {
    fn from(_: BlockFault) -> Self {
        Self::Length
    }
}

/// The root of a state whose tree has this height and this root node: what certificates are over.
#[must_use]
pub fn root_digest(height: u8, node: &Digest) -> Digest {
    let mut writer = Digest::writer(Domain::StateRoot);
    writer.bytes(&[FORMAT, height]).digest(node);
    writer.finish()
}

impl Manifest {
    /// All bytes of its page files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| u64::from(file.bytes)).sum()
    }

    /// The bytes of its page files that it needs, or more.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.files.iter().map(|file| u64::from(file.live_bytes)).sum()
    }

    /// The bytes of its file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.push(if self.complete { COMPLETE } else { PARTIAL });
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.head.seq.0.to_le_bytes());
        out.extend_from_slice(&self.head.digest.0);
        out.extend_from_slice(&self.head.timestamp.0.to_le_bytes());
        out.extend_from_slice(&self.root.0);
        out.extend_from_slice(&count(self.roots.len()));
        for root in &self.roots {
            out.push(root.height);
            out.extend_from_slice(&root.digest.0);
            root.address.encode(&mut out);
        }
        out.extend_from_slice(&count(self.files.len()));
        for file in &self.files {
            for number in [file.number.0, file.bytes, file.live_bytes] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        out.extend_from_slice(&count(self.head.certificate.len()));
        out.extend_from_slice(&self.head.certificate);
        out.extend_from_slice(&count(self.tips.len()));
        for tip in &self.tips {
            out.extend_from_slice(&tip.lane.to_bytes());
            out.extend_from_slice(&tip.upto.0.to_le_bytes());
            out.extend_from_slice(&tip.chain.0);
        }
        let sum = crc32c::crc32c(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads the bytes of a manifest's file. Any bytes give a manifest or what is wrong with them.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestFault> {
        if bytes.get(..16) != Some(&MAGIC[..]) {
            return Err(ManifestFault::Magic);
        }
        let (fields, sum) = bytes.split_last_chunk().ok_or(ManifestFault::Length)?;
        if crc32c::crc32c(fields) != u32::from_le_bytes(*sum) {
            return Err(ManifestFault::Checksum);
        }
        let mut reader = Reader::new(fields.get(16..).ok_or(ManifestFault::Length)?);
        let version = reader.u32()?;
        if version != VERSION {
            return Err(ManifestFault::Version(version));
        }
        let complete = match reader.byte()? {
            COMPLETE => true,
            PARTIAL => false,
            _ => return Err(ManifestFault::Contradiction),
        };
        let number = reader.u64()?;
        let seq = Seq(reader.u64()?);
        let digest = Digest(reader.array()?);
        let timestamp = Nanoseconds(reader.u64()?);
        let root = Digest(reader.array()?);
        let roots = list(&mut reader, 1 + 32 + ADDRESS_BYTES, |reader| {
            let (height, digest) = (reader.byte()?, Digest(reader.array()?));
            Ok(RootEntry { height, digest, address: Address::read(reader)? })
        })?;
        let files = list(&mut reader, 12, |reader| {
            let number = FileNumber(reader.u32()?);
            Ok(FileEntry { number, bytes: reader.u32()?, live_bytes: reader.u32()? })
        })?;
        let length = reader.u32()? as usize;
        let certificate = reader.bytes(length)?.to_vec();
        let tips = list(&mut reader, TIP_BYTES, |reader| {
            let lane = LaneId { origin: ReplicaId(reader.byte()?), link: LinkId(reader.byte()?) };
            Ok(ExecutedTip { lane, upto: LaneNumber(reader.u64()?), chain: Digest(reader.array()?) })
        })?;
        reader.end()?;
        let head = CheckpointHead { seq, digest, timestamp, certificate };
        let manifest = Self { number, complete, head, root, roots, files, tips };
        if manifest.is_sound() { Ok(manifest) } else { Err(ManifestFault::Contradiction) }
    }

    /// Whether its fields agree with each other.
    pub(crate) fn is_sound(&self) -> bool {
        let ascending = self.files.windows(2).all(|pair| pair[0].number < pair[1].number);
        let heights = self.roots.iter().all(|root| (1..=HEIGHT_MAX).contains(&usize::from(root.height)));
        let root = match &self.roots[..] {
            [only] if self.complete => root_digest(only.height, &only.digest) == self.root,
            _ => !self.complete,
        };
        ascending && heights && root
    }
}

fn count(length: usize) -> [u8; 4] {
    u32::try_from(length).expect("invariant: a manifest's lists are short").to_le_bytes()
}

fn list<T>(
    reader: &mut Reader<'_>,
    element_bytes: usize,
    mut element: impl FnMut(&mut Reader<'_>) -> Result<T, ManifestFault>,
) -> Result<Vec<T>, ManifestFault> {
    let count = reader.u32()? as usize;
    if reader.rest().len() / element_bytes < count {
        return Err(ManifestFault::Length);
    }
    (0..count).map(|_| element(reader)).collect()
}
