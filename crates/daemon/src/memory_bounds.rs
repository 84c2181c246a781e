//! How much memory clients and other replicas can have a replica hold beside its state: the sum of the bounds by name.

use crate::descriptors::CLIENTS_MAX;
use crate::effects::PEER_QUEUE_BYTES_MAX;
use quorate_types::{ClusterConfig, limits};

/// The bounds, in bytes, of all cores of a replica together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryBounds {
    /// Connections of clients: idle ones, replies that are not taken, frames that are not whole.
    pub clients: u64,
    /// Results that are kept for retries.
    pub replies: u64,
    /// Batches of all lanes, and those that are not durable yet.
    pub lanes: u64,
    /// What waits for other replicas.
    pub peers: u64,
}

impl MemoryBounds {
    /// Those of a replica with so many cores.
    #[must_use]
    pub fn of(config: &ClusterConfig, cores: usize) -> Self {
        let (replicas, links) = (config.members().len(), usize::from(config.links()));
        // Only cores with a link take clients. What is unread may be a quarter more than by the last count.
        let doors = cores.min(links);
        let idle = CLIENTS_MAX * limits::CLIENT_IDLE_BYTES_MAX;
        let client_core = idle + limits::UNREAD_BYTES_MAX / 4 * 5 + limits::HALF_SENT_BYTES_MAX;
        let lane = limits::LANE_BYTES_HELD_MAX + limits::LANE_BYTES_KEPT_MAX;
        let lanes = replicas * links * lane + links * limits::LANE_BYTES_OPEN_MAX;
        Self {
            clients: (doors * client_core) as u64,
            // A key that adds may be below its part when all together are over it.
            replies: 2 * limits::REPLY_BYTES_KEPT_IN_ALL_MAX,
            lanes: (lanes + cores * limits::UNDURABLE_BYTES_MAX) as u64,
            peers: ((replicas - 1) * links * PEER_QUEUE_BYTES_MAX) as u64,
        }
    }

    /// All together.
    #[must_use]
    pub fn sum(&self) -> u64 {
        let Self { clients, replies, lanes, peers } = *self;
        clients + replies + lanes + peers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_wire::testing;

    #[test]
    fn each_core_with_clients_and_each_lane_counts() {
        let config = testing::config(4);
        let (one, three) = (MemoryBounds::of(&config, 1), MemoryBounds::of(&config, 3));
        let mib = |bytes: u64| bytes >> 20;
        assert_eq!(
            (mib(one.clients), mib(one.lanes), mib(one.peers)),
            (256 + 320 + 128, 4 * 96 + 16 + 256, 48)
        );
        assert_eq!(three.clients, one.clients, "one link, and so one core that takes clients");
        assert_eq!(mib(three.lanes - one.lanes), 2 * 256);
        assert_eq!(mib(one.sum()), 704 + 2048 + 656 + 48);
    }
}
