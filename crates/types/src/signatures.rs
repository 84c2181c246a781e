//! What counts as an Ed25519 signature: one predicate for the whole system, alone and for many at once.
//!
//! A verdict that differed between replicas would split the state (DESIGN sections 3 and 6), and libraries differ in
//! what they make of points outside the prime-order group. The predicate here is that of ZIP 215 for keys that
//! [`PublicKey::from_bytes`] accepts: `S` is below the group's order, `R` is any encoding of a point, and
//! `[8]([S]B − [k]A − R)` is the neutral element, `k` being SHA-512 of `R`, `A` and the message. Because of the factor
//! 8, a random linear combination of such equations holds if each holds, and otherwise, but for a chance of 2^−128,
//! does not: checking many together gives the verdicts of checking each, at about a third of the price.
//!
//! The coefficients of the combination are hashed from all the claims, so there is no source of chance here: whoever
//! looks for claims that cancel out has to search for them, and each attempt succeeds with that same chance.

use crate::{Digest, Domain, PublicKey, Signature};
use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::{IsIdentity, VartimeMultiscalarMul};
use sha2::{Digest as _, Sha512};

/// As many claims as are combined in one equation: beyond it, nothing is gained and tables leave the caches.
const TOGETHER_MAX: usize = 64;
/// As many are combined once the whole has failed.
const APART: usize = 8;
const COEFFICIENT_BYTES: usize = 16;

/// That `signature` is one of `key` over `message`.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// Who is said to have signed.
    pub key: &'a PublicKey,
    /// What.
    pub message: &'a [u8],
    /// The signature.
    pub signature: &'a Signature,
}

/// A claim as numbers and points.
struct Equation<'a> {
    key: &'a PublicKey,
    s: Scalar,
    r: EdwardsPoint,
    k: Scalar,
}

impl<'a> Equation<'a> {
    /// None when `S` or `R` is no encoding.
    fn read(claim: &Claim<'a>) -> Option<Self> {
        let (r, s) = claim.signature.halves();
        let hash =
            Sha512::new().chain_update(r).chain_update(claim.key.as_bytes()).chain_update(claim.message);
        Some(Self {
            key: claim.key,
            s: Scalar::from_canonical_bytes(s).into_option()?,
            r: CompressedEdwardsY(r).decompress()?,
            k: Scalar::from_bytes_mod_order_wide(&hash.finalize().into()),
        })
    }

    fn holds(&self) -> bool {
        let r = EdwardsPoint::vartime_double_scalar_mul_basepoint(&self.k, self.key.minus(), &self.s);
        (r - self.r).mul_by_cofactor().is_identity()
    }
}

/// Whether one claim holds.
#[must_use]
pub(crate) fn holds(claim: &Claim<'_>) -> bool {
    Equation::read(claim).is_some_and(|equation| equation.holds())
}

/// Whether each of `claims` holds, in their order. Many that all hold cost about a third of what they cost alone. One
/// that does not has the up to 64 claims around it checked again in eights, and its own eight one by one. Allocates
/// scratch space.
#[must_use]
pub fn verdicts(claims: &[Claim<'_>]) -> Vec<bool> {
    let mut verdicts = Vec::with_capacity(claims.len());
    for group in claims.chunks(TOGETHER_MAX) {
        let equations: Vec<Option<Equation<'_>>> = group.iter().map(Equation::read).collect();
        let coefficients = coefficients(group);
        let all_hold = hold_together(&equations, &coefficients);
        for (part, coefficients) in equations.chunks(APART).zip(coefficients.chunks(APART)) {
            let hold = all_hold || (group.len() > APART && hold_together(part, coefficients));
            let holds = |one: &Equation<'_>| hold || one.holds();
            verdicts.extend(part.iter().map(|equation| equation.as_ref().is_some_and(holds)));
        }
    }
    verdicts
}

/// Numbers that nobody knew before all the claims were fixed.
fn coefficients(claims: &[Claim<'_>]) -> Vec<Scalar> {
    let mut writer = Digest::writer(Domain::Signatures);
    for claim in claims {
        writer.bytes(claim.key.as_bytes()).bytes(&claim.signature.0).sized(claim.message);
    }
    let mut bytes = [0; TOGETHER_MAX * COEFFICIENT_BYTES];
    let bytes = &mut bytes[..claims.len() * COEFFICIENT_BYTES];
    writer.fill(bytes);
    let wide = |bytes: &[u8]| {
        let mut wide = [0; 32];
        wide[..COEFFICIENT_BYTES].copy_from_slice(bytes);
        Scalar::from_bytes_mod_order(wide)
    };
    bytes.chunks_exact(COEFFICIENT_BYTES).map(wide).collect()
}

/// Whether `[8] Σ z(sB − kA − R)` is the neutral element, over those that could be read; there must be two or more.
/// Claims of one key share its point.
fn hold_together(equations: &[Option<Equation<'_>>], coefficients: &[Scalar]) -> bool {
    if equations.iter().flatten().count() < 2 {
        return false;
    }
    let mut scalars = Vec::with_capacity(2 * equations.len() + 1);
    let mut points = Vec::with_capacity(2 * equations.len() + 1);
    let mut base = Scalar::ZERO;
    let mut keys: Vec<(&PublicKey, Scalar)> = Vec::new();
    for (equation, z) in equations.iter().zip(coefficients) {
        let Some(equation) = equation else { continue };
        base += z * equation.s;
        scalars.push(*z);
        points.push(-equation.r);
        match keys.iter_mut().find(|(key, _)| *key == equation.key) {
            Some((_, sum)) => *sum += z * equation.k,
            None => keys.push((equation.key, z * equation.k)),
        }
    }
    for (key, sum) in keys {
        scalars.push(sum);
        points.push(*key.minus());
    }
    scalars.push(base);
    points.push(ED25519_BASEPOINT_POINT);
    EdwardsPoint::vartime_multiscalar_mul(&scalars, &points).mul_by_cofactor().is_identity()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SigningKey;
    use curve25519_dalek::constants::EIGHT_TORSION;
    use proptest::prelude::*;

    fn zip_215(claim: &Claim<'_>) -> bool {
        let key = ed25519_zebra::VerificationKey::try_from(*claim.key.as_bytes()).unwrap();
        key.verify(&ed25519_zebra::Signature::from(claim.signature.0), claim.message).is_ok()
    }

    /// Signs with parts of small order mixed into key and `R`: what only a signer of ill will makes.
    fn crooked(secret: u64, message: &[u8], in_key: usize, in_r: usize) -> (PublicKey, Signature) {
        let secret = Scalar::from(secret);
        let key = EdwardsPoint::mul_base(&secret) + EIGHT_TORSION[in_key];
        let key = PublicKey::from_bytes(&key.compress().0).unwrap();
        let nonce = Scalar::from(77u64);
        let r = (EdwardsPoint::mul_base(&nonce) + EIGHT_TORSION[in_r]).compress().0;
        let hash =
            Sha512::new().chain_update(r).chain_update(key.as_bytes()).chain_update(message).finalize();
        let s = nonce + Scalar::from_bytes_mod_order_wide(&hash.into()) * secret;
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&r);
        signature[32..].copy_from_slice(s.as_bytes());
        (key, Signature(signature))
    }

    #[test]
    fn parts_of_small_order_change_no_verdict_alone_or_together() {
        let honest = SigningKey::from_seed(&[3; 32]);
        let (public, good) = (honest.public(), honest.sign(b"m"));
        for in_key in 0..8 {
            for in_r in 0..8 {
                let (key, signature) = crooked(5, b"m", in_key, in_r);
                let claim = Claim { key: &key, message: b"m", signature: &signature };
                assert!(holds(&claim) && zip_215(&claim), "{in_key} {in_r}");
                let beside = Claim { key: &public, message: b"m", signature: &good };
                assert_eq!(verdicts(&[beside, claim, claim]), [true; 3]);
            }
        }
    }

    #[test]
    fn encodings_that_are_none_and_scalars_beyond_the_order_are_refused() {
        let key = SigningKey::from_seed(&[3; 32]);
        let (public, good) = (key.public(), key.sign(b"m"));
        let order = Scalar::ZERO - Scalar::ONE;
        let mut beyond = good;
        let mut carry = 1u16;
        for (at, byte) in order.as_bytes().iter().enumerate() {
            let sum = u16::from(beyond.0[32 + at]) + u16::from(*byte) + carry;
            beyond.0[32 + at] = sum.to_le_bytes()[0];
            carry = sum >> 8;
        }
        let mut no_point = good;
        no_point.0[..32].copy_from_slice(&[2; 32]);
        let refused: Vec<[u8; 32]> = (0..=255)
            .map(|byte| [byte; 32])
            .filter(|r| CompressedEdwardsY(*r).decompress().is_none())
            .collect();
        no_point.0[..32].copy_from_slice(&refused[0]);
        for signature in [beyond, no_point] {
            let claim = Claim { key: &public, message: b"m", signature: &signature };
            assert!(!holds(&claim) && !zip_215(&claim));
            let fine = Claim { signature: &good, ..claim };
            assert_eq!(verdicts(&[fine, claim, fine]), [true, false, true]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn together_gives_the_verdicts_of_each_alone_and_those_of_zip_215(
            made in prop::collection::vec((0u8..4, any::<[u8; 4]>(), 0usize..80, any::<u8>()), 0..70),
            spoil in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        ) {
            let mut signed: Vec<(PublicKey, [u8; 4], Signature)> = made
                .iter()
                .map(|(seed, message, ..)| {
                    let key = SigningKey::from_seed(&[*seed; 32]);
                    (key.public(), *message, key.sign(message))
                })
                .collect();
            for index in &spoil {
                if signed.is_empty() { break; }
                let at = index.index(signed.len());
                let (_, _, byte, flip) = made[at];
                match byte {
                    0..64 => signed[at].2.0[byte] ^= flip,
                    _ => signed[at].1[byte % 4] ^= flip,
                }
            }
            let claims: Vec<Claim<'_>> = signed
                .iter()
                .map(|(key, message, signature)| Claim { key, message, signature })
                .collect();
            let alone: Vec<bool> = claims.iter().map(holds).collect();
            prop_assert_eq!(&verdicts(&claims), &alone);
            prop_assert_eq!(claims.iter().map(zip_215).collect::<Vec<_>>(), alone);
        }
    }
}
