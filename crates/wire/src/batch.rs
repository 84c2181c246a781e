//! Batches: the bundles that one replica disseminates together, one link of its lane's chain.
//!
//! | offset | field | |
//! | --- | --- | --- |
//! | 0 | origin, link | 2 × u8 |
//! | 2 | reserved, zero | u16 |
//! | 4 | number of bundles | u32 |
//! | 8 | number of the batch in its lane | u64 |
//! | 16 | chain digest of the batch before | 32 bytes |
//! | 48 | each bundle: length (u32), bytes as the client sent them | |
//!
//! The digest of a batch covers the heads of its bundles, and through the digest of each body the rest.

use crate::{BundleHead, BundleView, DecodeError, Kind, bundle};
use quorate_types::{Digest, Domain, LaneId, LaneNumber, LinkId, ReplicaId, limits};

/// The bytes in front of the bundles.
pub const HEAD_BYTES: usize = 48;

/// Where a batch stands in its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHead {
    /// The lane.
    pub lane: LaneId,
    /// The position in the lane.
    pub number: LaneNumber,
    /// The chain digest of the batch before.
    pub previous: Digest,
}

/// A batch in borrowed memory; all its bundles are well-formed.
#[derive(Clone, Debug)]
pub struct BatchView<'a> {
    /// Where it stands.
    pub head: BatchHead,
    /// The bundles in order; signatures are not checked.
    pub bundles: Vec<BundleView<'a>>,
    /// The digest of the content.
    pub digest: Digest,
}

impl<'a> BatchView<'a> {
    /// Reads a batch and every bundle in it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let malformed = DecodeError::Malformed(Kind::Batch);
        if bytes.len() > limits::BATCH_BYTES_MAX {
            let (value, limit) = (bytes.len() as u64, limits::BATCH_BYTES_MAX as u64);
            return Err(DecodeError::Limit { what: "bytes of a batch", value, limit });
        }
        let (head, mut rest) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(malformed)?;
        if head[2] != 0 || head[3] != 0 {
            return Err(malformed);
        }
        let count = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        if count == 0 || count > limits::BATCH_BUNDLES_MAX {
            let (value, limit) = (count as u64, limits::BATCH_BUNDLES_MAX as u64);
            return Err(DecodeError::Limit { what: "bundles in a batch (at least 1)", value, limit });
        }
        // What is reserved is paid for by bytes that are here, not by what the head announces.
        let mut bundles = Vec::with_capacity(count.min(rest.len() / (4 + bundle::HEAD_BYTES)));
        for _ in 0..count {
            let (length, after) = rest.split_first_chunk::<4>().ok_or(malformed)?;
            let length = u32::from_le_bytes(*length) as usize;
            let bytes = after.get(..length).ok_or(malformed)?;
            bundles.push(BundleView::parse(bytes)?);
            rest = &after[length..];
        }
        if !rest.is_empty() {
            return Err(malformed);
        }
        let digest = content_digest(bundles.iter().map(|bundle| &bundle.head));
        Ok(Self { head: decode_head(head), bundles, digest })
    }

    /// c(k): the chain digest up to this batch.
    #[must_use]
    pub fn chain(&self) -> Digest {
        chain(self.head.lane, self.head.number, &self.head.previous, &self.digest)
    }
}

/// Reads the head alone, to decide cheaply whether the rest is worth reading.
pub fn parse_head(bytes: &[u8]) -> Result<BatchHead, DecodeError> {
    bytes.first_chunk().map(decode_head).ok_or(DecodeError::Malformed(Kind::Batch))
}

fn decode_head(head: &[u8; HEAD_BYTES]) -> BatchHead {
    BatchHead {
        lane: LaneId { origin: ReplicaId(head[0]), link: LinkId(head[1]) },
        number: LaneNumber(u64::from_le_bytes(std::array::from_fn(|index| head[8 + index]))),
        previous: Digest(std::array::from_fn(|index| head[16 + index])),
    }
}

/// Appends the head of a batch with `bundles` bundles.
///
/// # Panics
/// When `bundles` exceeds [`limits::BATCH_BUNDLES_MAX`].
pub fn write_head(out: &mut Vec<u8>, head: &BatchHead, bundles: usize) {
    assert!((1..=limits::BATCH_BUNDLES_MAX).contains(&bundles));
    out.extend_from_slice(&head.lane.to_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&u32::try_from(bundles).expect("invariant: just checked").to_le_bytes());
    out.extend_from_slice(&head.number.0.to_le_bytes());
    out.extend_from_slice(&head.previous.0);
}

/// Appends one bundle, verbatim.
///
/// # Panics
/// When the bundle exceeds 4 GiB, which its own limit forbids.
pub fn write_bundle(out: &mut Vec<u8>, bundle: &[u8]) {
    out.extend_from_slice(&u32::try_from(bundle.len()).expect("invariant: limited").to_le_bytes());
    out.extend_from_slice(bundle);
}

/// The digest of the content of a batch with these bundles.
pub fn content_digest<'a>(heads: impl Iterator<Item = &'a BundleHead>) -> Digest {
    let mut writer = Digest::writer(Domain::Batch);
    for head in heads {
        writer.bytes(&head.client).bytes(&head.session.to_bytes()).u64(head.number.0);
        writer.bytes(&head.signature.0).digest(&head.body);
    }
    writer.finish()
}

/// c(k) = H(lane, k, c(k−1), batch digest) (DESIGN section 1).
#[must_use]
pub fn chain(lane: LaneId, number: LaneNumber, previous: &Digest, content: &Digest) -> Digest {
    let mut writer = Digest::writer(Domain::LaneChain);
    writer.bytes(&lane.to_bytes()).u64(number.0).digest(previous).digest(content);
    writer.finish()
}
