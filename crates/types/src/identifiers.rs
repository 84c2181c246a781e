//! Newtypes for identifiers and positions, so that an index, a count and a position cannot be mixed up.
#![allow(missing_debug_implementations, reason = "the resolvers that rkyv derives inside a macro")]

use rkyv::{Archive, Deserialize, Serialize};
use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(
            Archive, Serialize, Deserialize, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
        )]
        #[rkyv(derive(Debug))]
        pub struct $name(pub $inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

macro_rules! position {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        number!($(#[$doc])* $name(u64), $prefix);

        impl $name {
            /// The position after this one. Saturating, as any position may come from a peer; own ones never
            /// get there.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }

            /// The position before this one, or zero at zero.
            #[must_use]
            pub fn previous(self) -> Self {
                Self(self.0.saturating_sub(1))
            }

            /// The position `count` steps after this one, saturating.
            #[must_use]
            pub fn plus(self, count: u64) -> Self {
                Self(self.0.saturating_add(count))
            }

            /// The number of steps from `earlier` to this one, or zero when `earlier` is not earlier.
            #[must_use]
            pub fn since(self, earlier: Self) -> u64 {
                self.0.saturating_sub(earlier.0)
            }
        }
    };
}

number!(
    /// The identity of one replica inside a cluster, from 0 to n − 1.
    ReplicaId(u8), "r"
);
number!(
    /// One pinned thread of a replica, counted from 0 in the order of the configuration.
    CoreId(u8), "core"
);
number!(
    /// The place of a client's key among those that the configuration of the cluster names.
    KeyIndex(u32), "key"
);
number!(
    /// One of the parallel connections between each pair of replicas; each origin has one lane per link.
    LinkId(u8), "link"
);
number!(
    /// One journal of a replica.
    JournalId(u8), "journal"
);
position!(
    /// An epoch with one primary: the replica with number `view mod n`.
    View, "v"
);
position!(
    /// A slot of the ordered log. Slot 0 is the genesis; the first header has seq 1.
    Seq, "s"
);
position!(
    /// The position of a batch in its lane. The first batch has number 1.
    LaneNumber, "k"
);
position!(
    /// The number of a bundle in its session. Number 0 is the registration; the first other bundle has 1.
    BundleNumber, "b"
);
position!(
    /// A period with one configuration.
    Epoch, "e"
);
position!(
    /// A log sequence number: the position of a record in one journal, from 1; 0 is "nothing".
    Lsn, "lsn"
);
position!(
    /// Nanoseconds: a point in time given by the caller, or a duration. Pure parts never ask a clock.
    Nanoseconds, "ns"
);

impl ReplicaId {
    /// The identity as an index into arrays of length n.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl LinkId {
    /// The link as an index.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl CoreId {
    /// The core as an index.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl JournalId {
    /// The journal as an index.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl Nanoseconds {
    /// A duration of so many milliseconds.
    #[must_use]
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(milliseconds * 1_000_000)
    }

    /// A duration of so many microseconds.
    #[must_use]
    pub const fn from_micros(microseconds: u64) -> Self {
        Self(microseconds * 1_000)
    }
}

/// The hash-chained stream of batches from one origin over one link (DESIGN section 1).
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[rkyv(derive(Debug))]
pub struct LaneId {
    /// The replica whose clients' bundles the lane carries.
    pub origin: ReplicaId,
    /// The link it travels on.
    pub link: LinkId,
}

impl LaneId {
    /// The lane as two little-endian bytes, for canonical layouts.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 2] {
        [self.origin.0, self.link.0]
    }
}

impl fmt::Debug for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lane{}.{}", self.origin.0, self.link.0)
    }
}

impl fmt::Display for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.origin.0, self.link.0)
    }
}

/// A client session, named by the registration that opened it (DESIGN section 6): the header that executed it, and its
/// place among those that did in this header, from 0. Never used twice.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[rkyv(derive(Debug))]
pub struct SessionId {
    /// The header.
    pub seq: Seq,
    /// The place among the sessions that it opened.
    pub place: u32,
}

impl SessionId {
    /// The length of [`SessionId::to_bytes`].
    pub const BYTES: usize = 12;

    /// No session: what a registration is signed over. Nothing is executed at seq 0.
    pub const NONE: Self = Self { seq: Seq(0), place: 0 };

    /// The session in little-endian bytes, for canonical layouts.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.seq.0.to_le_bytes());
        bytes[8..].copy_from_slice(&self.place.to_le_bytes());
        bytes
    }

    /// The session that has these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, place @ ..] = bytes;
        let seq = Seq(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
        Self { seq, place: u32::from_le_bytes(place) }
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session:{}.{}", self.seq, self.place)
    }
}

/// 128 random bits that tell a client's registrations apart. Whoever registers draws fresh ones.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[rkyv(derive(Debug))]
pub struct Nonce(pub [u8; 16]);

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nonce:{}", hex::encode(&self.0[..4]))
    }
}
