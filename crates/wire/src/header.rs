//! Headers: what consensus orders. They form a hash chain; a header's digest stands for all before it.

use quorate_types::{Digest, Domain, Epoch, LaneId, LaneNumber, Mark, Nanoseconds, Seq};
use rkyv::{Archive, Deserialize, Serialize};

/// The new tip of a lane.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[rkyv(derive(Debug))]
pub struct LaneTip {
    /// The lane.
    pub lane: LaneId,
    /// The number of the last batch.
    pub upto: LaneNumber,
    /// The chain digest up to it.
    pub chain: Digest,
}

impl LaneTip {
    /// A place in a lane as its tip.
    #[must_use]
    pub fn at(lane: LaneId, mark: Mark) -> Self {
        Self { lane, upto: mark.upto, chain: mark.chain }
    }

    /// The place, without the lane.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { upto: self.upto, chain: self.chain }
    }
}

/// A seq with the chain digest of its header.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[rkyv(derive(Debug))]
pub struct Position {
    /// The slot.
    pub seq: Seq,
    /// The chain digest of its header.
    pub digest: Digest,
}

/// One slot of the ordered log. It has no view, so it survives being proposed again (DESIGN section 4).
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Header {
    /// The configuration it belongs to.
    pub epoch: Epoch,
    /// Its slot.
    pub seq: Seq,
    /// The chain digest of the header before it.
    pub parent: Digest,
    /// The time that operations see; larger than the parent's.
    pub timestamp: Nanoseconds,
    /// The lanes that advance, ascending by lane, each at most once.
    pub cut: Vec<LaneTip>,
}

impl Header {
    /// The chain digest: of this header and, through its parent, of all before it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut writer = Digest::writer(Domain::Header);
        writer.u64(self.epoch.0).u64(self.seq.0).digest(&self.parent).u64(self.timestamp.0);
        writer.u64(self.cut.len() as u64);
        for tip in &self.cut {
            writer.bytes(&tip.lane.to_bytes()).u64(tip.upto.0).digest(&tip.chain);
        }
        writer.finish()
    }

    /// Whether the cut is ascending by lane, so that equal content has one form only.
    #[must_use]
    pub fn cut_is_canonical(&self) -> bool {
        self.cut.windows(2).all(|pair| pair[0].lane < pair[1].lane)
    }
}

/// The chain digest before the first header of a cluster: it names the configuration.
#[must_use]
pub fn genesis(config_digest: Digest) -> Position {
    Position { seq: Seq(0), digest: Digest::of(Domain::Header, &config_digest.0) }
}
