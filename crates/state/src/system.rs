//! System records: what the replicated state holds besides the users' keys. They live in the same tree in
//! a namespace below that of the users, so that one root covers everything.
//!
//! | key behind the namespace byte | value | version |
//! | --- | --- | --- |
//! | 0 | digest and timestamp of the last executed header | its seq |
//! | 1 | revision of the last write up to that header, absent before the first | 0 |
//! | 2 ‖ client key | present = allowed; the lowest seq that its registrations may name, if any was forgotten early | 0 |
//! | 3 ‖ lane | number and chain digest of the lane's executed tip | 0 |
//! | 4 ‖ session | client key, nonce, next bundle, first kept results, bytes of kept results | seq of the last bundle |
//! | 4 ‖ session ‖ slot | archived results of the bundle with number mod 64 = slot, if kept, and the digest of its request | its seq |
//! | 5 ‖ session | client key and nonce of the registration, for as long as it could be executed again | 0 |
//! | 6 ‖ client key ‖ session | next bundle of a session that was evicted | seq of the eviction |
//! | 7 | marks: seq and timestamp of a few headers | 0 |
//!
//! Numbers in values are little-endian; sessions in keys are big-endian, so that they lie in the order in which they were
//! opened. Replies reuse their slots, so the tree keeps its shape while a session runs.

use quorate_types::{
    BundleNumber, Digest, LaneId, LaneNumber, LinkId, Nanoseconds, Nonce, ReplicaId, Seq, SessionId, limits,
};

/// The namespace byte of system records.
pub(crate) const SYSTEM: u8 = 0;
/// The namespace byte of users' keys.
pub(crate) const USER: u8 = 1;
/// The prefixes that end the namespaces' parts: keys from the first (included) to the second (excluded).
pub(crate) const CLIENTS: [[u8; 2]; 2] = [[SYSTEM, CLIENT], [SYSTEM, LANE]];
pub(crate) const LANES: [[u8; 2]; 2] = [[SYSTEM, LANE], [SYSTEM, SESSION]];
pub(crate) const SESSIONS: [[u8; 2]; 2] = [[SYSTEM, SESSION], [SYSTEM, REGISTRATION]];
pub(crate) const REGISTRATIONS: [[u8; 2]; 2] = [[SYSTEM, REGISTRATION], [SYSTEM, EVICTED]];
pub(crate) const EVICTIONS: [[u8; 2]; 2] = [[SYSTEM, EVICTED], [SYSTEM, EVICTED + 1]];

const HEADER: u8 = 0;
const REVISION: u8 = 1;
const CLIENT: u8 = 2;
const LANE: u8 = 3;
const SESSION: u8 = 4;
const REGISTRATION: u8 = 5;
const EVICTED: u8 = 6;
const MARKS: u8 = 7;

const SESSION_KEY_BYTES: usize = 2 + SessionId::BYTES;
const REPLY_KEY_BYTES: usize = SESSION_KEY_BYTES + 1;
const EVICTED_KEY_BYTES: usize = 2 + 32 + SessionId::BYTES;
/// What stands behind the results of a kept reply: the digest of its request.
pub(crate) const REQUEST_BYTES: usize = 32;
const _: () = assert!(limits::REPLIES_KEPT_MAX <= 256);

pub(crate) fn header_key() -> [u8; 2] {
    [SYSTEM, HEADER]
}

pub(crate) fn revision_key() -> [u8; 2] {
    [SYSTEM, REVISION]
}

pub(crate) fn marks_key() -> [u8; 2] {
    [SYSTEM, MARKS]
}

pub(crate) fn client_key(client: &[u8; 32]) -> [u8; 34] {
    let mut key = [0; 34];
    key[..2].copy_from_slice(&[SYSTEM, CLIENT]);
    key[2..].copy_from_slice(client);
    key
}

pub(crate) fn lane_key(lane: LaneId) -> [u8; 4] {
    let [origin, link] = lane.to_bytes();
    [SYSTEM, LANE, origin, link]
}

/// The lane of a record's key, if it is a lane's.
pub(crate) fn lane_of(key: &[u8]) -> Option<LaneId> {
    let [SYSTEM, LANE, origin, link] = *key else { return None };
    Some(LaneId { origin: ReplicaId(origin), link: LinkId(link) })
}

pub(crate) fn session_key(session: SessionId) -> [u8; SESSION_KEY_BYTES] {
    named_by(SESSION, session)
}

pub(crate) fn reply_key(session: SessionId, number: BundleNumber) -> [u8; REPLY_KEY_BYTES] {
    let slot = number.0 % limits::REPLIES_KEPT_MAX as u64;
    let mut key = [0; REPLY_KEY_BYTES];
    key[..SESSION_KEY_BYTES].copy_from_slice(&session_key(session));
    key[SESSION_KEY_BYTES] = slot.to_le_bytes()[0];
    key
}

pub(crate) fn registration_key(session: SessionId) -> [u8; SESSION_KEY_BYTES] {
    named_by(REGISTRATION, session)
}

pub(crate) fn evicted_key(client: &[u8; 32], session: SessionId) -> [u8; EVICTED_KEY_BYTES] {
    let mut key = [0; EVICTED_KEY_BYTES];
    key[..2].copy_from_slice(&[SYSTEM, EVICTED]);
    key[2..34].copy_from_slice(client);
    key[34..].copy_from_slice(&ordered(session));
    key
}

/// The client of a client's key.
pub(crate) fn client_of(key: &[u8]) -> Option<[u8; 32]> {
    key.get(2..)?.try_into().ok()
}

/// The session that the key of a session itself, or of its registration, names.
pub(crate) fn session_of(key: &[u8]) -> Option<SessionId> {
    parse_ordered(key.get(2..)?)
}

/// The client and the session that the key of an evicted one names.
pub(crate) fn evicted_of(key: &[u8]) -> Option<([u8; 32], SessionId)> {
    let (client, session) = key.get(2..)?.split_first_chunk()?;
    Some((*client, parse_ordered(session)?))
}

/// A user's key in the tree.
pub(crate) fn user_key(key: &[u8]) -> Vec<u8> {
    [&[USER], key].concat()
}

fn named_by(kind: u8, session: SessionId) -> [u8; SESSION_KEY_BYTES] {
    let mut key = [0; SESSION_KEY_BYTES];
    key[..2].copy_from_slice(&[SYSTEM, kind]);
    key[2..].copy_from_slice(&ordered(session));
    key
}

fn ordered(session: SessionId) -> [u8; SessionId::BYTES] {
    let mut bytes = [0; SessionId::BYTES];
    bytes[..8].copy_from_slice(&session.seq.0.to_be_bytes());
    bytes[8..].copy_from_slice(&session.place.to_be_bytes());
    bytes
}

fn parse_ordered(bytes: &[u8]) -> Option<SessionId> {
    let (seq, place) = bytes.split_first_chunk()?;
    let place = u32::from_be_bytes(place.try_into().ok()?);
    Some(SessionId { seq: Seq(u64::from_be_bytes(*seq)), place })
}

/// The last executed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderRecord {
    /// Its seq.
    pub seq: quorate_types::Seq,
    /// Its digest.
    pub digest: Digest,
    /// Its timestamp.
    pub timestamp: Nanoseconds,
}

pub(crate) fn header_value(digest: Digest, timestamp: Nanoseconds) -> [u8; 40] {
    join(digest.0, timestamp.0)
}

pub(crate) fn header_fields(value: &[u8]) -> Option<(Digest, Nanoseconds)> {
    let (digest, timestamp) = split(value)?;
    Some((Digest(digest), Nanoseconds(timestamp)))
}

pub(crate) fn lane_value(upto: LaneNumber, chain: Digest) -> [u8; 40] {
    join(chain.0, upto.0)
}

pub(crate) fn lane_fields(value: &[u8]) -> Option<(LaneNumber, Digest)> {
    let (chain, upto) = split(value)?;
    Some((LaneNumber(upto), Digest(chain)))
}

/// The fields of a session's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionFields {
    pub(crate) client: [u8; 32],
    /// The nonce of its registration.
    pub(crate) nonce: Nonce,
    pub(crate) next: BundleNumber,
    /// Results from this one to `next` are kept; of the last [`limits::REPLIES_KEPT_MAX`] bundles, the requests' digests.
    pub(crate) kept_from: BundleNumber,
    pub(crate) kept_bytes: u64,
}

const SESSION_VALUE_BYTES: usize = 32 + 16 + 3 * 8;

impl SessionFields {
    pub(crate) fn to_value(self) -> [u8; SESSION_VALUE_BYTES] {
        let mut value = [0; SESSION_VALUE_BYTES];
        value[..32].copy_from_slice(&self.client);
        value[32..48].copy_from_slice(&self.nonce.0);
        value[48..56].copy_from_slice(&self.next.0.to_le_bytes());
        value[56..64].copy_from_slice(&self.kept_from.0.to_le_bytes());
        value[64..].copy_from_slice(&self.kept_bytes.to_le_bytes());
        value
    }

    pub(crate) fn from_value(value: &[u8]) -> Option<Self> {
        let (client, rest) = value.split_first_chunk()?;
        let (nonce, numbers) = rest.split_first_chunk()?;
        let number = |at: usize| Some(u64::from_le_bytes(numbers.get(at..at + 8)?.try_into().ok()?));
        (value.len() == SESSION_VALUE_BYTES).then_some(())?;
        Some(Self {
            client: *client,
            nonce: Nonce(*nonce),
            next: BundleNumber(number(0)?),
            kept_from: BundleNumber(number(8)?),
            kept_bytes: number(16)?,
        })
    }
}

/// The revision in its record.
pub(crate) fn revision_of(value: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(value.try_into().ok()?))
}

/// Which seq was reached when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) seq: Seq,
    pub(crate) at: Nanoseconds,
}

pub(crate) fn marks_value(marks: &[Mark]) -> Vec<u8> {
    marks.iter().flat_map(|mark| [mark.seq.0.to_le_bytes(), mark.at.0.to_le_bytes()].concat()).collect()
}

pub(crate) fn marks_of(value: &[u8]) -> Vec<Mark> {
    let (numbers, _) = value.as_chunks::<8>();
    let (marks, _) = numbers.as_chunks::<2>();
    let number = |bytes: [u8; 8]| u64::from_le_bytes(bytes);
    marks.iter().map(|[seq, at]| Mark { seq: Seq(number(*seq)), at: Nanoseconds(number(*at)) }).collect()
}

/// The lowest seq that registrations of a client may name, in its record.
pub(crate) fn floor_of(value: &[u8]) -> Seq {
    value.try_into().map_or(Seq(0), |bytes| Seq(u64::from_le_bytes(bytes)))
}

/// The value of a registration's record.
pub(crate) fn registration_value(client: &[u8; 32], nonce: Nonce) -> [u8; 48] {
    let mut value = [0; 48];
    value[..32].copy_from_slice(client);
    value[32..].copy_from_slice(&nonce.0);
    value
}

pub(crate) fn registration_fields(value: &[u8]) -> Option<([u8; 32], Nonce)> {
    let (client, nonce) = value.split_first_chunk()?;
    Some((*client, Nonce(nonce.try_into().ok()?)))
}

/// The next bundle in the record of an evicted session.
pub(crate) fn next_of(value: &[u8]) -> Option<BundleNumber> {
    Some(BundleNumber(u64::from_le_bytes(value.try_into().ok()?)))
}

fn join(first: [u8; 32], second: u64) -> [u8; 40] {
    let mut value = [0; 40];
    value[..32].copy_from_slice(&first);
    value[32..].copy_from_slice(&second.to_le_bytes());
    value
}

fn split(value: &[u8]) -> Option<([u8; 32], u64)> {
    let (first, second) = value.split_first_chunk()?;
    Some((*first, u64::from_le_bytes(second.try_into().ok()?)))
}
