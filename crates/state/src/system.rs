//! System records: what the replicated state holds besides the users' keys. They live in the same tree in
//! a namespace below that of the users, so that one root covers everything.
//!
//! | key behind the namespace byte | value | version |
//! | --- | --- | --- |
//! | 0 | digest and timestamp of the last executed header | its seq |
//! | 1 | revision of the last write up to that header, absent before the first | 0 |
//! | 2 ‖ client key | highest session counter used, empty if none; present = allowed | seq of its registration |
//! | 3 ‖ lane | number and chain digest of the lane's executed tip | 0 |
//! | 4 ‖ session id | client key, next bundle, first kept reply, bytes of kept replies | seq of the last bundle |
//! | 4 ‖ session id ‖ slot | archived results of the bundle with number mod 64 = slot | its seq |
//!
//! Numbers are little-endian. Replies reuse their slots, so the tree keeps its shape while a session runs.

use quorate_types::{
    BundleNumber, Digest, LaneId, LaneNumber, LinkId, Nanoseconds, ReplicaId, SessionId, limits,
};

/// The namespace byte of system records.
pub(crate) const SYSTEM: u8 = 0;
/// The namespace byte of users' keys.
pub(crate) const USER: u8 = 1;
/// The prefixes that end the namespaces' parts: keys from the first (included) to the second (excluded).
pub(crate) const CLIENTS: [[u8; 2]; 2] = [[SYSTEM, CLIENT], [SYSTEM, LANE]];
pub(crate) const LANES: [[u8; 2]; 2] = [[SYSTEM, LANE], [SYSTEM, SESSION]];
pub(crate) const SESSIONS: [[u8; 2]; 2] = [[SYSTEM, SESSION], [SYSTEM, SESSION + 1]];

const HEADER: u8 = 0;
const REVISION: u8 = 1;
const CLIENT: u8 = 2;
const LANE: u8 = 3;
const SESSION: u8 = 4;

const REPLY_KEY_BYTES: usize = 2 + 32 + 1;
const _: () = assert!(limits::REPLIES_KEPT_MAX <= 256);

pub(crate) fn header_key() -> [u8; 2] {
    [SYSTEM, HEADER]
}

pub(crate) fn revision_key() -> [u8; 2] {
    [SYSTEM, REVISION]
}

pub(crate) fn client_key(client: &[u8; 32]) -> [u8; 34] {
    prefixed(CLIENT, client)
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

pub(crate) fn session_key(session: &SessionId) -> [u8; 34] {
    prefixed(SESSION, &session.0)
}

pub(crate) fn reply_key(session: &SessionId, number: BundleNumber) -> [u8; REPLY_KEY_BYTES] {
    let slot = number.0 % limits::REPLIES_KEPT_MAX as u64;
    let mut key = [0; REPLY_KEY_BYTES];
    key[..34].copy_from_slice(&session_key(session));
    key[34] = slot.to_le_bytes()[0];
    key
}

/// The client or session id of a record's key, if it is the key of a client or session itself.
pub(crate) fn id_of(key: &[u8]) -> Option<[u8; 32]> {
    key.get(2..)?.try_into().ok()
}

/// A user's key in the tree.
pub(crate) fn user_key(key: &[u8]) -> Vec<u8> {
    [&[USER], key].concat()
}

fn prefixed(kind: u8, id: &[u8; 32]) -> [u8; 34] {
    let mut key = [0; 34];
    key[0] = SYSTEM;
    key[1] = kind;
    key[2..].copy_from_slice(id);
    key
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
    pub(crate) next: BundleNumber,
    /// Replies from this one to `next` are kept.
    pub(crate) kept_from: BundleNumber,
    pub(crate) kept_bytes: u64,
}

const SESSION_VALUE_BYTES: usize = 32 + 3 * 8;

impl SessionFields {
    pub(crate) fn to_value(self) -> [u8; SESSION_VALUE_BYTES] {
        let mut value = [0; SESSION_VALUE_BYTES];
        value[..32].copy_from_slice(&self.client);
        value[32..40].copy_from_slice(&self.next.0.to_le_bytes());
        value[40..48].copy_from_slice(&self.kept_from.0.to_le_bytes());
        value[48..].copy_from_slice(&self.kept_bytes.to_le_bytes());
        value
    }

    pub(crate) fn from_value(value: &[u8]) -> Option<Self> {
        let (client, numbers) = value.split_first_chunk()?;
        let number = |at: usize| Some(u64::from_le_bytes(numbers.get(at..at + 8)?.try_into().ok()?));
        (value.len() == SESSION_VALUE_BYTES).then_some(())?;
        Some(Self {
            client: *client,
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

/// The counter in a client's record: nothing when it never opened a session.
pub(crate) fn counter_of(value: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(value.try_into().ok()?))
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
