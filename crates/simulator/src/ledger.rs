//! Everything that replicas wrote down: headers by chain digest, batches by lane chain digest. The oracles
//! read the committed order from here and from no replica's own account.

use quorate_types::{BundleNumber, Digest, LaneId, LaneNumber, Nanoseconds, Operation, Seq, SessionId};
use quorate_wire::bundle::{access_operations, encode_operations, request_digest};
use quorate_wire::{BatchView, DecodeError, Frame, Header, LaneTip, Position};
use rkyv::rancor::Failure;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A bundle as it stands in a batch.
#[derive(Clone, Debug)]
pub struct WrittenBundle {
    /// The client's key.
    pub client: [u8; 32],
    /// The session.
    pub session: SessionId,
    /// The bundle.
    pub number: BundleNumber,
    /// The digest of its operations.
    pub request: Digest,
    /// The operations.
    pub operations: Vec<Operation>,
}

impl WrittenBundle {
    /// A bundle with these operations.
    #[must_use]
    pub fn new(
        client: [u8; 32],
        session: SessionId,
        number: BundleNumber,
        operations: Vec<Operation>,
    ) -> Self {
        let request = request_digest(&encode_operations(&operations));
        Self { client, session, number, request, operations }
    }
}

/// A batch.
#[derive(Clone, Debug)]
pub struct WrittenBatch {
    /// The lane.
    pub lane: LaneId,
    /// The position in the lane.
    pub number: LaneNumber,
    /// The chain digest before it.
    pub previous: Digest,
    /// The bundles in order.
    pub bundles: Vec<WrittenBundle>,
}

/// A header and the bundles that it orders.
#[derive(Clone, Debug)]
pub struct Ordered<'a> {
    /// The slot.
    pub seq: Seq,
    /// The header's time.
    pub timestamp: Nanoseconds,
    /// The bundles in order.
    pub bundles: Vec<&'a WrittenBundle>,
}

/// What was written down.
#[derive(Debug, Default)]
pub struct Ledger {
    headers: BTreeMap<Digest, Arc<Header>>,
    batches: BTreeMap<Digest, WrittenBatch>,
}

impl Ledger {
    /// Takes a header; returns its chain digest.
    pub fn note_header(&mut self, header: &Arc<Header>) -> Digest {
        let digest = header.digest();
        self.headers.entry(digest).or_insert_with(|| Arc::clone(header));
        digest
    }

    /// Takes a batch; returns its tip.
    pub fn note_batch(&mut self, frame: &Frame) -> Result<LaneTip, DecodeError> {
        let view = BatchView::parse(frame.payload())?;
        let chain = view.chain();
        let tip = LaneTip { lane: view.head.lane, upto: view.head.number, chain };
        if self.batches.contains_key(&chain) {
            return Ok(tip);
        }
        let mut bundles = Vec::with_capacity(view.bundles.len());
        for bundle in &view.bundles {
            access_operations(bundle.body)?;
            let operations = rkyv::from_bytes::<Vec<Operation>, Failure>(bundle.body)
                .map_err(|_| DecodeError::Malformed(frame.kind()))?;
            let head = &bundle.head;
            let (client, session, number, request) = (head.client, head.session, head.number, head.body);
            bundles.push(WrittenBundle { client, session, number, request, operations });
        }
        let (lane, number, previous) = (tip.lane, tip.upto, view.head.previous);
        self.batches.insert(chain, WrittenBatch { lane, number, previous, bundles });
        Ok(tip)
    }

    /// The number of batches.
    #[must_use]
    pub fn batches(&self) -> usize {
        self.batches.len()
    }

    /// The header with this chain digest.
    #[must_use]
    pub fn header(&self, digest: &Digest) -> Option<&Arc<Header>> {
        self.headers.get(digest)
    }

    /// The batch with this chain digest.
    #[must_use]
    pub fn batch(&self, chain: &Digest) -> Option<&WrittenBatch> {
        self.batches.get(chain)
    }

    /// The headers from `tip` down to, but without, slot `above`; nothing if one was never written down.
    #[must_use]
    pub fn headers_down(&self, tip: Position, above: Seq) -> Option<Vec<(Position, Arc<Header>)>> {
        let mut found = Vec::new();
        let mut at = tip;
        while at.seq > above {
            let header = self.headers.get(&at.digest)?;
            if header.seq != at.seq {
                return None;
            }
            found.push((at, Arc::clone(header)));
            at = Position { seq: at.seq.previous(), digest: header.parent };
        }
        Some(found)
    }

    /// The batches from `tip` down to, but without, number `above`, oldest first; nothing if one was never
    /// written down.
    #[must_use]
    pub fn batches_between(&self, above: LaneNumber, tip: &LaneTip) -> Option<Vec<&WrittenBatch>> {
        let mut found = Vec::new();
        let mut at = (tip.upto, tip.chain);
        while at.0 > above {
            let batch = self.batches.get(&at.1)?;
            if batch.lane != tip.lane || batch.number != at.0 {
                return None;
            }
            found.push(batch);
            at = (at.0.previous(), batch.previous);
        }
        found.reverse();
        Some(found)
    }

    /// Where the chain that ends at `at` has left the lanes that it names.
    #[must_use]
    pub fn tips_at(&self, at: Position) -> BTreeMap<LaneId, LaneTip> {
        let mut tips = BTreeMap::new();
        let mut digest = at.digest;
        while let Some(header) = self.headers.get(&digest) {
            for tip in &header.cut {
                tips.entry(tip.lane).or_insert(*tip);
            }
            digest = header.parent;
        }
        tips
    }

    /// The headers of the chain up to `tip` in order and the bundles that they order: in each the lanes of its cut in
    /// order, in each lane the batches, in each batch the bundles.
    #[must_use]
    pub fn order(&self, tip: Position) -> Option<Vec<Ordered<'_>>> {
        let mut headers = self.headers_down(tip, Seq(0))?;
        headers.reverse();
        let mut lanes: BTreeMap<LaneId, LaneNumber> = BTreeMap::new();
        let mut order = Vec::new();
        for (position, header) in &headers {
            let mut bundles = Vec::new();
            for tip in &header.cut {
                let executed = lanes.insert(tip.lane, tip.upto).unwrap_or_default();
                for batch in self.batches_between(executed, tip)? {
                    bundles.extend(&batch.bundles);
                }
            }
            order.push(Ordered { seq: position.seq, timestamp: header.timestamp, bundles });
        }
        Some(order)
    }
}
