//! BLAKE3 digests with domain separation: what was hashed for one purpose never equals what was hashed
//! for another.

use rkyv::{Archive, Deserialize, Serialize};
use std::fmt;

/// A 32-byte BLAKE3 digest.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[rkyv(derive(Debug))]
pub struct Digest(pub [u8; 32]);

/// What a digest is of. Each domain is a BLAKE3 key of its own rather than a byte in front of what is hashed: data
/// then starts at the beginning of a block, and a body of 13 KiB takes half the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Domain {
    /// The body of a bundle: its archived operations.
    BundleBody = 1,
    /// The content of a batch: the heads of its bundles.
    Batch = 2,
    /// One step of a lane's chain.
    LaneChain = 3,
    /// A header, and so the chain up to it.
    Header = 4,
    /// The archived results of one bundle.
    Results = 5,
    /// The nonce of a registration.
    Nonce = 6,
    /// The configuration of a cluster.
    Configuration = 7,
    /// A leaf of the state tree.
    TreeLeaf = 8,
    /// An inner node of the state tree.
    TreeInner = 9,
    /// A value that is too long to stand in its leaf's digest itself.
    TreeValue = 10,
    /// The root of the state.
    StateRoot = 11,
    /// The transcript of a handshake.
    Handshake = 12,
    /// Signatures that are checked together: where the coefficients come from.
    Signatures = 13,
    /// The summaries with which a view begins.
    NewView = 14,
    /// A file of a backup.
    BackupFile = 15,
}

impl Domain {
    /// The public key under which everything of this domain is hashed.
    const fn key(self) -> [u8; 32] {
        let mut key = *b"quorate digests, version 1.  \0\0\0";
        key[31] = self as u8;
        key
    }
}

impl Digest {
    /// The digest that stands for "nothing before this".
    pub const ZERO: Self = Self([0; 32]);

    /// Starts a digest in `domain`.
    #[must_use]
    pub fn writer(domain: Domain) -> DigestWriter {
        DigestWriter(blake3::Hasher::new_keyed(&domain.key()))
    }

    /// The digest of `bytes` in `domain`.
    #[must_use]
    pub fn of(domain: Domain, bytes: &[u8]) -> Self {
        Self(*blake3::keyed_hash(&domain.key(), bytes).as_bytes())
    }

    /// The first eight hexadecimal digits, for logs.
    #[must_use]
    pub fn short(&self) -> String {
        hex::encode(&self.0[..4])
    }

    /// All 64 hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

/// An unfinished digest. Fields are written with fixed widths or with their length in front, so that two
/// different sequences of fields never give the same bytes.
#[derive(Clone, Debug)]
pub struct DigestWriter(blake3::Hasher);

impl DigestWriter {
    /// Appends bytes of a length that the layout fixes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(bytes);
        self
    }

    /// Appends bytes of any length, their length (u32, little-endian) first.
    pub fn sized(&mut self, bytes: &[u8]) -> &mut Self {
        let length = u32::try_from(bytes.len()).expect("invariant: limits keep every field below 4 GiB");
        self.0.update(&length.to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// Appends a number, little-endian.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.0.update(&value.to_le_bytes());
        self
    }

    /// Appends another digest.
    pub fn digest(&mut self, digest: &Digest) -> &mut Self {
        self.0.update(&digest.0);
        self
    }

    /// As many bytes as wanted that depend on all that was written (BLAKE3's extended output).
    pub fn fill(&self, output: &mut [u8]) {
        self.0.finalize_xof().fill(output);
    }

    /// The digest of all that was written.
    #[must_use]
    pub fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_separate_and_lengths_are_unambiguous() {
        assert_ne!(Digest::of(Domain::Batch, b"x"), Digest::of(Domain::Header, b"x"));
        let mut left = Digest::writer(Domain::Batch);
        left.sized(b"ab").sized(b"c");
        let mut right = Digest::writer(Domain::Batch);
        right.sized(b"a").sized(b"bc");
        assert_ne!(left.finish(), right.finish());
        assert_eq!(Digest::writer(Domain::Batch).bytes(b"x").finish(), Digest::of(Domain::Batch, b"x"));
    }
}
