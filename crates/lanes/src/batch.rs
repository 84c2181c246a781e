//! A batch that is here whole, with the verdict on each signature.

use quorate_types::{ArchivedOperation, ClusterConfig, Digest, LaneId, LaneNumber, Mark};
use quorate_wire::{
    BatchHead, BatchView, BundleHead, Claims, DecodeError, Frame, Kind, LaneTip, Verdicts, batch, bundle,
};
use rkyv::vec::ArchivedVec;
use std::ops::Range;

/// One bundle of a batch.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Who signed what for which session.
    pub head: BundleHead,
    /// Whether the signature matches: the same verdict on every replica, as it depends on the bytes alone.
    pub signed: bool,
    /// Where the operations stand in the payload of the batch.
    pub(crate) body: Range<usize>,
}

/// A batch with its place in the lane, its frame as it travelled, and its bundles.
#[derive(Clone, Debug)]
pub struct Batch {
    head: BatchHead,
    chain: Digest,
    frame: Frame,
    bundles: Vec<Bundle>,
    /// The verdicts on so many of the first are in.
    settled: usize,
}

impl Batch {
    /// Reads a batch, computes its digests and checks every client's signature.
    pub fn check(config: &ClusterConfig, frame: Frame) -> Result<Self, DecodeError> {
        let mut batch = Self::read(frame)?;
        let mut claims = Claims::new(config);
        let claimed = batch.claim(usize::MAX, &mut claims);
        batch.settle(claimed, &mut claims.verdicts());
        Ok(batch)
    }

    /// Asks for the verdicts on the signatures of at most so many bundles, from where the last ones have ended; says of how
    /// many.
    pub(crate) fn claim(&self, most: usize, claims: &mut Claims<'_>) -> usize {
        let claimed = most.min(self.bundles.len() - self.settled);
        self.bundles[self.settled..][..claimed].iter().for_each(|bundle| claims.add_bundle(&bundle.head));
        claimed
    }

    /// Takes the verdicts on so many bundles, which [`Batch::claim`] has asked for; says how many of these are forged.
    pub(crate) fn settle(&mut self, claimed: usize, verdicts: &mut Verdicts) -> usize {
        let bundles = &mut self.bundles[self.settled..][..claimed];
        for bundle in &mut *bundles {
            bundle.signed = verdicts.next().expect("invariant: one for each claim").holds();
        }
        self.settled += claimed;
        bundles.iter().filter(|bundle| !bundle.signed).count()
    }

    /// How many bundles have no verdict yet.
    pub(crate) fn unsettled(&self) -> usize {
        self.bundles.len() - self.settled
    }

    /// Reads the payload of a batch that is expected at `mark` of `lane`, whatever else it may be; no signature counts as
    /// right yet.
    pub(crate) fn read_as(payload: &[u8], lane: LaneId, mark: Mark) -> Option<Self> {
        let batch = Self::read(Frame::encode(Kind::Batch, |out| out.extend_from_slice(payload))).ok()?;
        (batch.tip() == LaneTip::at(lane, mark)).then_some(batch)
    }

    /// The batch that this replica has sealed: everything about its bundles is known already.
    pub(crate) fn sealed(head: BatchHead, frame: Frame, bundles: Vec<Bundle>) -> Self {
        let content = batch::content_digest(bundles.iter().map(|bundle| &bundle.head));
        let chain = batch::chain(head.lane, head.number, &head.previous, &content);
        let settled = bundles.len();
        let sealed = Self { head, chain, frame, bundles, settled };
        debug_assert_eq!(Self::read(sealed.frame.clone()).map(|read| read.chain), Ok(chain));
        sealed
    }

    /// Reads a batch; no signature counts as right yet.
    pub(crate) fn read(frame: Frame) -> Result<Self, DecodeError> {
        let payload = frame.payload();
        let view = BatchView::parse(payload)?;
        let start = payload.as_ptr().addr();
        let bundles = view
            .bundles
            .iter()
            .map(|bundle| {
                let from = bundle.body.as_ptr().addr() - start;
                Bundle { head: bundle.head, signed: false, body: from..from + bundle.body.len() }
            })
            .collect();
        let (head, chain) = (view.head, view.chain());
        Ok(Self { head, chain, bundles, frame, settled: 0 })
    }

    /// The lane.
    #[must_use]
    pub fn lane(&self) -> LaneId {
        self.head.lane
    }

    /// The position in the lane.
    #[must_use]
    pub fn number(&self) -> LaneNumber {
        self.head.number
    }

    /// The chain digest of the batch before.
    #[must_use]
    pub fn previous(&self) -> Digest {
        self.head.previous
    }

    /// The chain digest up to this batch.
    #[must_use]
    pub fn chain(&self) -> Digest {
        self.chain
    }

    /// The place in the lane.
    pub(crate) fn mark(&self) -> Mark {
        Mark { upto: self.number(), chain: self.chain }
    }

    /// The frame as it travelled.
    #[must_use]
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    /// The size of the frame in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.frame.bytes().len()
    }

    /// The bundles in order.
    #[must_use]
    pub fn bundles(&self) -> &[Bundle] {
        &self.bundles
    }

    /// The operations of one of the bundles, as the client sent them.
    #[must_use]
    pub fn body(&self, bundle: &Bundle) -> &[u8] {
        &self.frame.payload()[bundle.body.clone()]
    }

    /// One of the bundles as the client sent it.
    pub(crate) fn bundle_bytes(&self, bundle: &Bundle) -> &[u8] {
        &self.frame.payload()[bundle.body.start - bundle::HEAD_BYTES..bundle.body.end]
    }

    /// The operations of one of the bundles.
    ///
    /// # Panics
    /// Never for a bundle of this batch: it was checked when the batch was read.
    #[must_use]
    pub fn operations(&self, bundle: &Bundle) -> &ArchivedVec<ArchivedOperation> {
        bundle::access_operations(self.body(bundle)).expect("invariant: checked when the batch was read")
    }

    /// The tip of the lane with this batch.
    #[must_use]
    pub fn tip(&self) -> LaneTip {
        LaneTip { lane: self.lane(), upto: self.number(), chain: self.chain }
    }
}
