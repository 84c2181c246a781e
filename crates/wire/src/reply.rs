//! Replies: one bundle's results, or their digest.
//!
//! | offset | field | |
//! | --- | --- | --- |
//! | 0 | session: the seq and the place of its registration; zeros for a registration | u64, u32 |
//! | 12 | bundle number | u64 |
//! | 20 | seq at which the bundle was executed | u64 |
//! | 28 | view hint | u64 |
//! | 36 | digest of the request: of the bundle's operations | 32 bytes |
//! | 68 | digest of the results | 32 bytes |
//! | 100 | form: 0 digest only, 1 results follow, 2 results are gone | u8 |
//! | 101 | results | rkyv archive of `Vec<OperationResult>` |

use crate::{DecodeError, Frame, Kind};
use quorate_types::{ArchivedOperationResult, BundleNumber, Digest, Domain, Seq, SessionId, View, limits};
use rkyv::vec::ArchivedVec;

const HEAD_BYTES: usize = 101;

/// What a reply brings besides its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyBody<'a> {
    /// The digest alone; another replica sends the results.
    DigestOnly,
    /// The results; they match the digest.
    Results(&'a [u8]),
    /// The bundle was executed, but its results are no longer kept.
    Gone,
}

/// A reply in borrowed memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyView<'a> {
    /// The session.
    pub session: SessionId,
    /// The bundle.
    pub number: BundleNumber,
    /// Where it was executed.
    pub seq: Seq,
    /// The replica's view; a hint that is compared with nothing.
    pub view: View,
    /// The digest of the operations that this answers: another bundle may have had the same number.
    pub request: Digest,
    /// The digest of the results; zero when they are gone.
    pub digest: Digest,
    /// The results, if they are here.
    pub body: ReplyBody<'a>,
}

impl<'a> ReplyView<'a> {
    /// Reads a reply. Results are checked against the digest and as an archive.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let malformed = DecodeError::Malformed(Kind::Reply);
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(malformed)?;
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| head[at + index]));
        let array = |at: usize| -> [u8; 32] { std::array::from_fn(|index| head[at + index]) };
        let digest = Digest(array(68));
        let body = match head[100] {
            0 if rest.is_empty() => ReplyBody::DigestOnly,
            1 if rest.len() <= limits::RESULTS_BYTES_MAX && Digest::of(Domain::Results, rest) == digest => {
                access_results(rest)?;
                ReplyBody::Results(rest)
            }
            2 if rest.is_empty() => ReplyBody::Gone,
            _ => return Err(malformed),
        };
        Ok(Self {
            session: SessionId::from_bytes(std::array::from_fn(|index| head[index])),
            number: BundleNumber(u64_at(12)),
            seq: Seq(u64_at(20)),
            view: View(u64_at(28)),
            request: Digest(array(36)),
            digest,
            body,
        })
    }

    /// Encodes the reply as a frame.
    #[must_use]
    pub fn encode(&self) -> Frame {
        Frame::encode(Kind::Reply, |out| {
            out.extend_from_slice(&self.session.to_bytes());
            out.extend_from_slice(&self.number.0.to_le_bytes());
            out.extend_from_slice(&self.seq.0.to_le_bytes());
            out.extend_from_slice(&self.view.0.to_le_bytes());
            out.extend_from_slice(&self.request.0);
            out.extend_from_slice(&self.digest.0);
            match self.body {
                ReplyBody::DigestOnly => out.push(0),
                ReplyBody::Results(results) => {
                    out.push(1);
                    out.extend_from_slice(results);
                }
                ReplyBody::Gone => out.push(2),
            }
        })
    }
}

/// Checked access to results.
pub fn access_results(bytes: &[u8]) -> Result<&ArchivedVec<ArchivedOperationResult>, DecodeError> {
    rkyv::access::<ArchivedVec<ArchivedOperationResult>, rkyv::rancor::Failure>(bytes)
        .map_err(|_| DecodeError::Malformed(Kind::Reply))
}
