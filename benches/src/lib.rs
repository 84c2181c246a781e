//! What the benchmarks share: the bundles of the main job (100 SETs of 100 bytes), set-ups and criterion's settings,
//! and the tools around them.
//!
//! `cargo bench -p quorate-benches --bench state` (or `wire`, `signatures`, `consensus`, `journal`) takes about a
//! second for each case; `-- --measurement-time 5` measures longer. `--bench broadcast` is the ladder.
//! `docs/profiling.md` says how to read all of them. Keys are those of `quorate_wire::testing`, so figures compare
//! between runs and machines.
#![forbid(unsafe_code)]

pub mod broadcast;
pub mod cases;
pub mod flame;
mod loaded_state;
mod machines;
mod replicas;

pub use loaded_state::{BUNDLES, LoadedState};
pub use machines::Machines;
pub use replicas::Replicas;

use criterion::Criterion;
use quorate_types::{BundleNumber, ClusterConfig, Condition, Operation, SessionId};
use quorate_wire::batch::{self, BatchHead};
use quorate_wire::{bundle, testing};
use std::time::Duration;

/// The operations in a bundle of the main job.
pub const OPERATIONS: u64 = 100;
/// The bytes of a value of the main job.
pub const VALUE_BYTES: usize = 100;
/// The keys of the main job.
pub const KEYS: u64 = 100_000;

/// Settings under which one benchmark takes about a second.
#[must_use]
pub fn settings() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(700))
        .sample_size(20)
}

/// The session of the only client.
#[must_use]
pub fn session() -> SessionId {
    testing::SESSION
}

/// The operations of bundle `number`: SETs of 16-byte keys, spread over all [`KEYS`] by a step that is prime
/// to their number, so that every [`KEYS`] / [`OPERATIONS`] bundles write each key once.
#[must_use]
pub fn operations(number: u64) -> Vec<Operation> {
    const STEP: u64 = 61_803;
    let first = number * OPERATIONS;
    let key = |index: u64| format!("key:{:012}", index * STEP % KEYS).into_bytes();
    (first..first + OPERATIONS)
        .map(|index| Operation::Set {
            key: key(index),
            value: vec![b'v'; VALUE_BYTES],
            condition: Condition::Always,
        })
        .collect()
}

/// The signed bundle `number` as it travels.
#[must_use]
pub fn bundle(config: &ClusterConfig, number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let key = testing::client_key();
    bundle::write(&mut bytes, config, &key, session(), BundleNumber(number), &operations(number));
    bytes
}

/// A batch of `count` bundles as it travels.
#[must_use]
pub fn batch(config: &ClusterConfig, head: &BatchHead, count: u64) -> Vec<u8> {
    let bundles: Vec<Vec<u8>> = (0..count).map(|number| bundle(config, number)).collect();
    let mut bytes = Vec::new();
    batch::write_head(&mut bytes, head, bundles.len());
    bundles.iter().for_each(|bundle| batch::write_bundle(&mut bytes, bundle));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::{Digest, LaneId, LaneNumber, LinkId, ReplicaId};
    use quorate_wire::BatchView;
    use std::collections::BTreeSet;

    #[test]
    fn a_batch_is_what_it_says() {
        let config = testing::config(4);
        let lane = LaneId { origin: ReplicaId(0), link: LinkId(0) };
        let head = BatchHead { lane, number: LaneNumber(1), previous: Digest::ZERO };
        let bytes = batch(&config, &head, 3);
        let view = BatchView::parse(&bytes).expect("a valid batch");
        let key = testing::client_key().public();
        assert_eq!(view.bundles.len(), 3);
        for bundle in &view.bundles {
            assert_eq!(bundle.operations().len() as u64, OPERATIONS);
            assert!(bundle.head.is_signed_by(&config, &key));
        }
    }

    #[test]
    fn bundles_write_each_key_once() {
        let keys: BTreeSet<Vec<u8>> = (0..KEYS / OPERATIONS)
            .flat_map(operations)
            .filter_map(|operation| match operation {
                Operation::Set { key, .. } => Some(key),
                _ => None,
            })
            .collect();
        assert_eq!(keys.len() as u64, KEYS);
    }
}
