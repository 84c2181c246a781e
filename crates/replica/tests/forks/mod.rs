//! The lane of r3, which forks it, and what it says of that.

use crate::cluster::R3;
use quorate_lanes::Batch;
use quorate_types::{BundleNumber, ClusterConfig, Digest, LaneId, LaneNumber, LinkId, Operation};
use quorate_wire::message::{LaneAcks, Message};
use quorate_wire::{BatchHead, Frame, Kind, LaneTip, batch, bundle, testing};
use std::sync::Arc;

pub(crate) const LANE: LaneId = LaneId { origin: R3, link: LinkId(0) };

/// Batches of r3's lane after `tip`, each with one bundle; `salt` tells forks apart.
pub(crate) fn fork(config: &ClusterConfig, mut tip: LaneTip, count: u64, salt: u64) -> Vec<Arc<Batch>> {
    let key = testing::client_key();
    let session = testing::SESSION;
    let mut batches = Vec::new();
    for _ in 0..count {
        let mut content = Vec::new();
        let operations = vec![Operation::Get { key: vec![1] }];
        bundle::write(&mut content, config, &key, session, BundleNumber(salt), &operations);
        let head = BatchHead { lane: tip.lane, number: tip.upto.next(), previous: tip.chain };
        let frame = Frame::encode(Kind::Batch, |out| {
            batch::write_head(out, &head, 1);
            batch::write_bundle(out, &content);
        });
        let batch = Arc::new(Batch::check(config, frame).expect("a batch of one bundle"));
        tip = batch.tip();
        batches.push(batch);
    }
    batches
}

/// Before the first batch of r3's lane.
pub(crate) fn start() -> LaneTip {
    LaneTip { lane: LANE, upto: LaneNumber(0), chain: Digest::ZERO }
}

/// That r3 acknowledges this, or what it says that it holds in all.
pub(crate) fn ack(tip: LaneTip, full: bool) -> Frame {
    LaneAcks { full, tips: vec![tip] }.encode()
}
