//! A small cluster for tests: keys from fixed seeds.

use quorate_types::{ClusterConfig, ClusterFile, Digest, ReplicaEntry, Seq, SessionId, SigningKey};
use std::net::SocketAddr;

/// A session for bundles of which it does not matter whether they are executed.
pub const SESSION: SessionId = SessionId { seq: Seq(1), place: 0 };

/// The secret key of a replica of [`config`].
#[must_use]
pub fn replica_key(id: u8) -> SigningKey {
    SigningKey::from_seed(&[id; 32])
}

/// The secret key of the first client of [`config`].
#[must_use]
pub fn client_key() -> SigningKey {
    client_key_number(0)
}

/// The secret key of one of the eight clients of [`config`].
#[must_use]
pub fn client_key_number(number: u8) -> SigningKey {
    SigningKey::from_seed(&[200 + number; 32])
}

/// A cluster of `replicas` replicas with one link and eight clients.
#[must_use]
pub fn config(replicas: u8) -> ClusterConfig {
    config_with_links(replicas, 1)
}

/// A cluster of `replicas` replicas with `links` links and eight clients.
///
/// # Panics
/// Never for sizes within the limits.
#[must_use]
pub fn config_with_links(replicas: u8, links: u8) -> ClusterConfig {
    ClusterConfig::check(&file(replicas, links)).expect("invariant: the test cluster is valid")
}

/// A cluster of `replicas` replicas with one link and eight clients that began with the state of this root.
///
/// # Panics
/// Never for sizes within the limits.
#[must_use]
pub fn restored_config(replicas: u8, genesis_root: Digest) -> ClusterConfig {
    let file = ClusterFile { genesis_root: Some(genesis_root.to_hex()), ..file(replicas, 1) };
    ClusterConfig::check(&file).expect("invariant: the test cluster is valid")
}

fn file(replicas: u8, links: u8) -> ClusterFile {
    let entry = |id: u8| ReplicaEntry {
        id,
        key: replica_key(id).public().to_hex(),
        mesh: SocketAddr::from(([127, 0, 0, 1], 7000 + 100 * u16::from(id))),
        client: SocketAddr::from(([127, 0, 0, 1], 30_000 + u16::from(id))),
    };
    ClusterFile {
        cluster_id: "5a".repeat(32),
        epoch: 0,
        links,
        genesis_root: None,
        state_max: None,
        clients: (0..8).map(|number| client_key_number(number).public().to_hex()).collect(),
        replicas: (0..replicas).map(entry).collect(),
    }
}
