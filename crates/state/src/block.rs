//! Blocks: how nodes and long values stand in page files.
//!
//! A page file is a head of 32 bytes and blocks, one behind the other. All numbers are little-endian.
//!
//! | head | |
//! | --- | --- |
//! | 0 | `quorate pages 1`, a line feed; the digit is the version |
//! | 16 | file number, u32 |
//! | 20 | crc32c of bytes 0 to 19 |
//! | 24 | zeros |
//!
//! | block | |
//! | --- | --- |
//! | 0 | length of all that follows these 12 bytes, u32 |
//! | 4 | kind, u8: 1 leaf, 2 inner node, 3 long value |
//! | 5 | zero |
//! | 6 | number of addresses, u16 |
//! | 8 | crc32c of the file number, the offset, bytes 0 to 7 and all that follows |
//! | 12 | addresses: file number, offset and length of a block, u32 each |
//! | | the page, or the value |
//!
//! The addresses are those of an inner node's children, or of a leaf's long values, in their order. A block says
//! nothing of digests: whoever names it knows the digest. That it covers its own place, the checksum finds writes
//! that went elsewhere.

use thiserror::Error;

use crate::cache::{FileNumber, Place};
use crate::page::Reader;

/// The head of a page file.
pub const FILE_HEAD_BYTES: usize = 32;
/// The length of a block without its addresses and contents.
pub const BLOCK_HEAD_BYTES: usize = 12;
/// The length of an address in a block.
pub const ADDRESS_BYTES: usize = 12;
/// The longest block: a long value, or an inner node's page with as many addresses as it has children.
pub const BLOCK_BYTES_MAX: usize = BLOCK_HEAD_BYTES + crate::leaf::LONG_BYTES_MAX;

const MAGIC: &[u8; 16] = b"quorate pages 1\n";
const CRC_AT: usize = 8;

/// Where a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The page file.
    pub file: FileNumber,
    /// Where the block begins in it, in bytes.
    pub offset: u32,
    /// Its length in bytes, head included.
    pub bytes: u32,
}

impl Address {
    /// Where the block ends.
    #[must_use]
    pub fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.bytes)
    }

    pub(crate) fn place(&self) -> Place {
        Place { file: self.file, offset: self.offset }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for number in [self.file.0, self.offset, self.bytes] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, BlockFault> {
        let mut number = || reader.u32().map_err(|_| BlockFault::Short);
        Ok(Self { file: FileNumber(number()?), offset: number()?, bytes: number()? })
    }
}

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum BlockKind {
    Leaf = 1,
    Inner = 2,
    Value = 3,
}

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BlockFault {
    /// It ends too early, or its own length is not the one that its address says.
    #[error("its length is wrong")]
    Short,
    /// The checksum does not fit: it was damaged, or belongs elsewhere.
    #[error("its checksum is wrong")]
    Checksum,
    /// It is of another kind than is expected here.
    #[error("it is of another kind")]
    Kind,
    /// Its checksum fits and its kind is unknown: a newer version has written it.
    #[error("it is of kind {0}, which this version does not know")]
    Unknown(u8),
    /// It names more or fewer blocks than its page has children or long values.
    #[error("it names another number of blocks than its page asks for")]
    Addresses,
    /// It is named by a block that was written before it.
    #[error("it names a block behind itself")]
    Cycle,
}

/// A block, its checksum verified.
#[derive(Clone, Debug)]
pub(crate) struct Block<'a> {
    pub(crate) kind: BlockKind,
    pub(crate) addresses: Vec<Address>,
    pub(crate) content: &'a [u8],
}

/// The head of a page file.
pub(crate) fn file_head(file: FileNumber) -> [u8; FILE_HEAD_BYTES] {
    let mut head = [0; FILE_HEAD_BYTES];
    head[..16].copy_from_slice(MAGIC);
    head[16..20].copy_from_slice(&file.0.to_le_bytes());
    let sum = crc32c::crc32c(&head[..20]);
    head[20..24].copy_from_slice(&sum.to_le_bytes());
    head
}

/// Whether this is the sound head of a page file of another version.
pub(crate) fn is_of_another_version(head: &[u8; FILE_HEAD_BYTES]) -> bool {
    let sum = crc32c::crc32c(&head[..20]).to_le_bytes();
    head.starts_with(&MAGIC[..14]) && head[..16] != MAGIC[..] && head[20..24] == sum
}

/// The length of a block.
pub(crate) fn block_bytes(addresses: usize, content: usize) -> u32 {
    u32::try_from(BLOCK_HEAD_BYTES + addresses * ADDRESS_BYTES + content)
        .expect("invariant: pages and values are at most 1 MiB")
}

/// Appends a block that will stand at `place`.
pub(crate) fn append_block(
    out: &mut Vec<u8>,
    place: Place,
    kind: BlockKind,
    addresses: &[Address],
    content: &[u8],
) {
    let start = out.len();
    let length = addresses.len() * ADDRESS_BYTES + content.len();
    let length = u32::try_from(length).expect("invariant: pages and values are at most 1 MiB");
    let count = u16::try_from(addresses.len()).expect("invariant: a node has at most 128 children");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[kind as u8, 0]);
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for address in addresses {
        address.encode(out);
    }
    out.extend_from_slice(content);
    let sum = checksum(place, &out[start..]);
    out[start + CRC_AT..start + BLOCK_HEAD_BYTES].copy_from_slice(&sum.to_le_bytes());
}

/// Reads the block at `address`; `bytes` are exactly those of the address.
pub(crate) fn read_block(address: Address, bytes: &[u8]) -> Result<Block<'_>, BlockFault> {
    if bytes.len() < BLOCK_HEAD_BYTES || bytes.len() != address.bytes as usize {
        return Err(BlockFault::Short);
    }
    let mut reader = Reader::new(bytes);
    let short = |_| BlockFault::Short;
    let length = reader.u32().map_err(short)?;
    if length as usize != bytes.len() - BLOCK_HEAD_BYTES {
        return Err(BlockFault::Short);
    }
    let [kind, zero] = reader.array().map_err(short)?;
    let count = reader.u16().map_err(short)?;
    let sum = reader.u32().map_err(short)?;
    if sum != checksum(address.place(), bytes) || zero != 0 {
        return Err(BlockFault::Checksum);
    }
    let kind = match kind {
        1 => BlockKind::Leaf,
        2 => BlockKind::Inner,
        3 => BlockKind::Value,
        other => return Err(BlockFault::Unknown(other)),
    };
    let addresses: Vec<Address> =
        (0..count).map(|_| Address::read(&mut reader)).collect::<Result<_, BlockFault>>()?;
    // Children are written before their parents, so no walk goes round in circles.
    if addresses.iter().any(|child| child.place() >= address.place()) {
        return Err(BlockFault::Cycle);
    }
    Ok(Block { kind, addresses, content: reader.rest() })
}

/// Covers the place and the block but for the checksum itself.
fn checksum(place: Place, block: &[u8]) -> u32 {
    let sum = crc32c::crc32c(&place.file.0.to_le_bytes());
    let sum = crc32c::crc32c_append(sum, &place.offset.to_le_bytes());
    let sum = crc32c::crc32c_append(sum, &block[..CRC_AT]);
    crc32c::crc32c_append(sum, &block[BLOCK_HEAD_BYTES..])
}
