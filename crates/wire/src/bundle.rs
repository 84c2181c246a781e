//! Bundles: the operations that one client session signs together.
//!
//! | offset | field | |
//! | --- | --- | --- |
//! | 0 | client key | 32 bytes |
//! | 32 | session: the seq and the place of its registration | u64, u32 |
//! | 44 | bundle number | u64 |
//! | 52 | signature | 64 bytes |
//! | 116 | operations | rkyv archive of `Vec<Operation>` |
//!
//! The operations are hashed once per replica: the signature, the batch's digest and so the lane's chain all
//! cover that one digest.

use crate::{DecodeError, Kind, Statement};
use quorate_types::{
    ArchivedOperation, BundleNumber, ClusterConfig, Digest, Domain, Operation, PublicKey, SessionId,
    Signature, SigningKey, limits,
};
use rkyv::vec::ArchivedVec;

/// The bytes in front of the operations.
pub const HEAD_BYTES: usize = 116;

/// The fields in front of the operations, and the digest of the operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BundleHead {
    /// The key of the client that signed.
    pub client: [u8; 32],
    /// The session.
    pub session: SessionId,
    /// The number of the bundle in its session.
    pub number: BundleNumber,
    /// The client's signature.
    pub signature: Signature,
    /// The digest of the operations' bytes; computed, not sent.
    pub body: Digest,
}

impl BundleHead {
    /// Whether the bundle was signed by the client that it names. A pure function of the bundle's bytes.
    /// `key` is the parsed form of `self.client`.
    #[must_use]
    pub fn is_signed_by(&self, config: &ClusterConfig, key: &PublicKey) -> bool {
        key.as_bytes() == &self.client
            && Statement::bundle(config, &self.client, self.session, self.number, &self.body)
                .is_signed_by(key, &self.signature)
    }
}

/// A bundle in borrowed memory: its head, and its operations checked as an archive.
#[derive(Clone, Copy, Debug)]
pub struct BundleView<'a> {
    operations: &'a ArchivedVec<ArchivedOperation>,
    /// The fields in front, with the digest of the operations.
    pub head: BundleHead,
    /// The operations as they were sent.
    pub body: &'a [u8],
    /// The whole bundle as it was sent.
    pub bytes: &'a [u8],
}

impl<'a> BundleView<'a> {
    /// Reads a bundle: layout, limits and the archive of operations are checked; the signature is not.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        if bytes.len() > limits::BUNDLE_BYTES_MAX {
            let (value, limit) = (bytes.len() as u64, limits::BUNDLE_BYTES_MAX as u64);
            return Err(DecodeError::Limit { what: "bytes of a bundle", value, limit });
        }
        let Some((head, body)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
            return Err(DecodeError::Malformed(Kind::Bundle));
        };
        let operations = access_operations(body)?;
        if operations.is_empty() || operations.len() > limits::BUNDLE_OPERATIONS_MAX {
            let (value, limit) = (operations.len() as u64, limits::BUNDLE_OPERATIONS_MAX as u64);
            return Err(DecodeError::Limit { what: "operations in a bundle (at least 1)", value, limit });
        }
        Ok(Self { operations, head: decode_head(head, request_digest(body)), body, bytes })
    }

    /// The operations.
    #[must_use]
    pub fn operations(&self) -> &'a ArchivedVec<ArchivedOperation> {
        self.operations
    }

    /// What it costs all replicas, as [`units`].
    #[must_use]
    pub fn units(&self) -> u32 {
        units(self.operations, self.bytes.len())
    }
}

/// What a bundle of so many bytes costs all replicas, in units of about a microsecond ([`limits::BUNDLE_UNITS`]). How long
/// the results are is not known before it is executed.
#[must_use]
pub fn units(operations: &ArchivedVec<ArchivedOperation>, bytes: usize) -> u32 {
    let steps = operations.iter().map(ArchivedOperation::steps).fold(0, u32::saturating_add);
    let bytes = u32::try_from(bytes / limits::UNIT_BYTES).unwrap_or(u32::MAX);
    steps.max(bytes).saturating_add(limits::BUNDLE_UNITS)
}

/// Whose bundle this seems to be: the client's key, its session and the number, without a look at the rest.
pub fn peek(bytes: &[u8]) -> Result<([u8; 32], SessionId, BundleNumber), DecodeError> {
    let (head, _) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(DecodeError::Malformed(Kind::Bundle))?;
    let head = decode_head(head, Digest::ZERO);
    Ok((head.client, head.session, head.number))
}

/// Checked access to the operations of a bundle.
pub fn access_operations(body: &[u8]) -> Result<&ArchivedVec<ArchivedOperation>, DecodeError> {
    rkyv::access::<ArchivedVec<ArchivedOperation>, rkyv::rancor::Failure>(body)
        .map_err(|_| DecodeError::Malformed(Kind::Bundle))
}

fn decode_head(bytes: &[u8; HEAD_BYTES], body: Digest) -> BundleHead {
    BundleHead {
        client: std::array::from_fn(|index| bytes[index]),
        session: SessionId::from_bytes(std::array::from_fn(|index| bytes[32 + index])),
        number: BundleNumber(u64::from_le_bytes(std::array::from_fn(|index| bytes[44 + index]))),
        signature: Signature(std::array::from_fn(|index| bytes[52 + index])),
        body,
    }
}

/// The digest of a bundle's operations: what its replies name as the request (DESIGN section 6).
#[must_use]
pub fn request_digest(body: &[u8]) -> Digest {
    Digest::of(Domain::BundleBody, body)
}

/// Encodes and signs a bundle; appends it to `out` and returns the digest of its operations.
pub fn write(
    out: &mut Vec<u8>,
    config: &ClusterConfig,
    key: &SigningKey,
    session: SessionId,
    number: BundleNumber,
    operations: &Vec<Operation>,
) -> Digest {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD_BYTES]);
    crate::message::append_archive(out, operations);
    sign(&mut out[start..], config, key, session, number)
}

/// As [`write`], with operations that were encoded before.
pub fn write_encoded(
    out: &mut Vec<u8>,
    config: &ClusterConfig,
    key: &SigningKey,
    session: SessionId,
    number: BundleNumber,
    body: &[u8],
) -> Digest {
    let start = out.len();
    out.reserve(HEAD_BYTES + body.len());
    out.extend_from_slice(&[0; HEAD_BYTES]);
    out.extend_from_slice(body);
    sign(&mut out[start..], config, key, session, number)
}

/// The operations of a bundle as they stand behind its head.
#[must_use]
pub fn encode_operations(operations: &Vec<Operation>) -> Vec<u8> {
    let mut body = Vec::new();
    crate::message::append_archive(&mut body, operations);
    body
}

/// Fills in the head of a bundle.
fn sign(
    bundle: &mut [u8],
    config: &ClusterConfig,
    key: &SigningKey,
    session: SessionId,
    number: BundleNumber,
) -> Digest {
    let (head, body) = bundle.split_at_mut(HEAD_BYTES);
    let request = request_digest(body);
    let client = *key.public().as_bytes();
    let signature = Statement::bundle(config, &client, session, number, &request).sign(key);
    head[0..32].copy_from_slice(&client);
    head[32..44].copy_from_slice(&session.to_bytes());
    head[44..52].copy_from_slice(&number.0.to_le_bytes());
    head[52..116].copy_from_slice(&signature.0);
    request
}
