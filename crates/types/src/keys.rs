//! Ed25519 keys and signatures. What counts as a signature is decided in [`crate::signatures`].

use crate::signatures::{self, Claim};
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use ed25519_dalek::Signer;
use rkyv::{Archive, Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// Why bytes are no key.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum KeyError {
    /// The text is not 64 hexadecimal digits.
    #[error("a key is 64 hexadecimal digits; this one has {length} characters or other ones")]
    NotHexadecimal {
        /// The length of the text in characters.
        length: usize,
    },
    /// The bytes are no point of the curve, or one of small order.
    #[error("{key} is not a usable Ed25519 public key")]
    NotAPoint {
        /// The refused bytes in hexadecimal.
        key: String,
    },
}

/// A public key whose curve point is already decompressed, so that a verification does not repeat it.
#[derive(Clone)]
pub struct PublicKey {
    bytes: [u8; 32],
    /// The point with its sign turned, as the equation of a signature wants it.
    minus: EdwardsPoint,
}

impl PublicKey {
    /// The key with these 32 bytes: the canonical encoding of a point that is not of small order, as under such
    /// a key everything would be signed.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        match CompressedEdwardsY(*bytes).decompress() {
            Some(point) if !point.is_small_order() && point.compress().0 == *bytes => {
                Ok(Self { bytes: *bytes, minus: -point })
            }
            _ => Err(KeyError::NotAPoint { key: hex::encode(bytes) }),
        }
    }

    /// The key with these 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(&decode(text)?)
    }

    /// The 32 bytes of the key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// The curve point of the key with its sign turned.
    pub(crate) fn minus(&self) -> &EdwardsPoint {
        &self.minus
    }

    /// The key as 64 hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(self.bytes)
    }

    /// Whether `signature` is one of this key over `message`.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &Signature) -> bool {
        signatures::holds(&Claim { key: self, message, signature })
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key:{}", &self.to_hex()[..8])
    }
}

/// A secret key. Its bytes are wiped from memory when it is dropped.
#[derive(Clone)]
pub struct SigningKey {
    secret: ed25519_dalek::SigningKey,
    public: PublicKey,
}

impl SigningKey {
    /// The key with this seed. The caller draws the seed from the system's random source.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let secret = ed25519_dalek::SigningKey::from_bytes(seed);
        let public = PublicKey::from_bytes(secret.verifying_key().as_bytes());
        let public = public.expect("invariant: a secret scalar times the base is no point of small order");
        Self { secret, public }
    }

    /// The key whose seed these 64 hexadecimal digits are.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        Ok(Self::from_seed(&decode(text)?))
    }

    /// The seed as 64 hexadecimal digits, for the key file.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(self.secret.as_bytes())
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public.clone()
    }

    /// The signature over `message`. Deterministic (RFC 8032).
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.secret.sign(message).to_bytes())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "secret of {:?}", self.public)
    }
}

/// An Ed25519 signature, not verified by existing.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Signature(pub [u8; 64]);

impl Signature {
    /// The encodings of the point `R` and of the scalar `S`.
    pub(crate) fn halves(&self) -> ([u8; 32], [u8; 32]) {
        (std::array::from_fn(|at| self.0[at]), std::array::from_fn(|at| self.0[32 + at]))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signature:{}", hex::encode(&self.0[..4]))
    }
}

fn decode(text: &str) -> Result<[u8; 32], KeyError> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text.trim(), &mut bytes)
        .map_err(|_| KeyError::NotHexadecimal { length: text.trim().chars().count() })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_binds_key_and_message() {
        let key = SigningKey::from_seed(&[7; 32]);
        let signature = key.sign(b"message");
        assert!(key.public().verify(b"message", &signature));
        assert!(!key.public().verify(b"massage", &signature));
        assert!(!SigningKey::from_seed(&[8; 32]).public().verify(b"message", &signature));
    }

    #[test]
    fn weak_and_malformed_keys_are_refused() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert!(matches!(PublicKey::from_bytes(&identity), Err(KeyError::NotAPoint { .. })));
        assert_eq!(PublicKey::from_hex("12").unwrap_err(), KeyError::NotHexadecimal { length: 2 });
        let key = SigningKey::from_seed(&[7; 32]);
        assert_eq!(PublicKey::from_hex(&key.public().to_hex()).unwrap(), key.public());
        assert_eq!(SigningKey::from_hex(&key.to_hex()).unwrap().public(), key.public());
    }
}
