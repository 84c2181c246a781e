//! The configuration that all replicas and clients of a cluster share, and its digest.
//!
//! [`ClusterFile`] is the TOML form as written; [`ClusterConfig`] is the checked form. The digest of the
//! checked form is part of every signed statement and of every handshake, so two parties with different
//! configurations never understand each other by accident.

use crate::limits;
use crate::{
    ByteCount, Digest, Domain, Epoch, KeyError, KeyIndex, LaneId, LinkId, Nanoseconds, PublicKey, Quorums,
    ReplicaId, View,
};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use thiserror::Error;

/// What to do where a key is none of a cluster's clients. The cluster file is part of all that is signed, and of every data
/// directory: a key that is added to it makes another cluster of it.
pub const OTHER_CLIENT: &str = "use the key of one of them, as they are fixed when a cluster is made; one with more keys is \
     made from a backup (`quorate backup`, `quorate restore --clients N`)";

/// `cluster.toml` as written.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterFile {
    /// 64 hexadecimal digits that tell this cluster from every other; drawn by `quorate init`.
    pub cluster_id: String,
    /// The number of the configuration; 0 for a new cluster.
    #[serde(default)]
    pub epoch: u64,
    /// Parallel connections between each pair of replicas, and lanes per origin. Default 1; as many as the
    /// cores of a replica when one connection's core is the bottleneck. Link `i` uses mesh port + `i`.
    #[serde(default = "one")]
    pub links: u8,
    /// The root of the state that the cluster began with, 64 hexadecimal digits, when that was not the empty one:
    /// written by `quorate restore`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub genesis_root: Option<String>,
    /// What users' keys and values may come to in all, each entry with 32 bytes more: over it nothing is written that makes
    /// them more. It is part of what the cluster is. Default 8 GiB; the state is in the memory of every replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_max: Option<ByteCount>,
    /// The public keys of the clients that may connect.
    pub clients: Vec<String>,
    /// The replicas, in the order of their ids.
    #[serde(rename = "replica")]
    pub replicas: Vec<ReplicaEntry>,
}

fn one() -> u8 {
    1
}

/// One replica in `cluster.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaEntry {
    /// 0 to n − 1, each once.
    pub id: u8,
    /// The public key, 64 hexadecimal digits.
    pub key: String,
    /// Where other replicas connect; link `i` listens on this port + `i`.
    pub mesh: SocketAddr,
    /// Where clients connect.
    pub client: SocketAddr,
}

/// What is wrong with a `cluster.toml`, and the remedy.
#[derive(Clone, Debug, Error)]
pub enum ClusterFileError {
    /// Not TOML, a missing or an unknown field.
    #[error("{0}")]
    Syntax(String),
    /// The cluster id is malformed.
    #[error("cluster_id must be 64 hexadecimal digits, as another replica's cluster file has it")]
    ClusterId,
    /// The root of the first state is malformed.
    #[error("genesis_root must be 64 hexadecimal digits, as `quorate restore` writes it")]
    GenesisRoot,
    /// There is no replica, or there are too many.
    #[error("{count} [[replica]] entries; a cluster has 1 to {}", limits::REPLICAS_MAX)]
    ReplicaCount {
        /// How many there are.
        count: usize,
    },
    /// An id is missing, doubled or out of order.
    #[error(
        "[[replica]] number {position} has id {id}; ids must be 0 to n − 1, each once and in order: \
         give it id {position}"
    )]
    ReplicaId {
        /// The position in the file, from 0.
        position: usize,
        /// The id found there.
        id: u8,
    },
    /// A key is malformed.
    #[error("{field}: {source}")]
    Key {
        /// Where the key stands.
        field: String,
        /// What is wrong with it.
        source: KeyError,
    },
    /// Two parties have the same key.
    #[error("{first} and {second} have the same key; every replica and client needs one of its own")]
    DuplicateKey {
        /// Where the key stands first.
        first: String,
        /// Where it stands again.
        second: String,
    },
    /// Two listeners have the same address.
    #[error("{first} and {second} are both {address}; give one of them another port")]
    DuplicateAddress {
        /// The address.
        address: SocketAddr,
        /// Where it stands first.
        first: String,
        /// Where it stands again.
        second: String,
    },
    /// The number of links is out of range.
    #[error("links = {links}; use 1 to {}", limits::LINKS_MAX)]
    Links {
        /// The number given.
        links: u8,
    },
    /// The state would have no room for the longest entry.
    #[error("state_max = \"{given}\"; use {} or more", ByteCount(limits::STATE_BYTES_MIN))]
    StateMax {
        /// What is given.
        given: ByteCount,
    },
    /// A port is 0, on which the system would choose one that nobody knows.
    #[error("replica {id}: {field} has port 0, where nobody finds it; give it a port of 1 to 65535")]
    NoPort {
        /// The replica.
        id: u8,
        /// The field.
        field: &'static str,
    },
    /// A mesh port is so high that a link's port would not exist.
    #[error("replica {id}: mesh port {port} + {links} links exceeds 65535; choose a lower port")]
    PortRange {
        /// The replica.
        id: u8,
        /// Its mesh port.
        port: u16,
        /// The number of links.
        links: u8,
    },
}

/// One replica in the checked configuration.
#[derive(Clone, Debug)]
pub struct Member {
    /// The public key.
    pub key: PublicKey,
    /// Where other replicas connect on link 0; link `i` listens on this port + `i`.
    pub mesh: SocketAddr,
    /// Where clients connect.
    pub client: SocketAddr,
}

impl Member {
    /// Where other replicas connect on `link`.
    #[must_use]
    pub fn mesh_address(&self, link: LinkId) -> SocketAddr {
        let mut address = self.mesh;
        address.set_port(address.port() + u16::from(link.0));
        address
    }
}

/// How much the state keeps, alike on every replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateLimits {
    /// What users' entries may come to, each with [`limits::STATE_ENTRY_BYTES`] beside its key and value. What would make
    /// them more has no effect; what does not make them more is done, however much there is.
    pub bytes_max: u64,
    /// The sessions of one client key; one less may register within [`StateLimits::registration_age`] headers.
    pub sessions_per_client: usize,
    /// How many headers after the seq that it names a registration may be executed, however long they took.
    pub registration_age: u64,
    /// How long after that seq it may be executed, in the time of headers, however many there were.
    pub registration_time: Nanoseconds,
    /// The bytes of results that are kept for all sessions of one client key.
    pub reply_bytes_per_client: u64,
    /// The bytes of results that are kept for all keys together, over which a key keeps no more than an equal part.
    pub reply_bytes: u64,
}

impl Default for StateLimits {
    fn default() -> Self {
        Self {
            bytes_max: limits::STATE_BYTES_MAX,
            sessions_per_client: limits::SESSIONS_PER_CLIENT_MAX,
            registration_age: limits::REGISTRATION_AGE_MAX,
            registration_time: limits::REGISTRATION_TIME_MAX,
            reply_bytes_per_client: limits::REPLY_BYTES_KEPT_PER_CLIENT_MAX,
            reply_bytes: limits::REPLY_BYTES_KEPT_IN_ALL_MAX,
        }
    }
}

/// Figures that all replicas share. Users do not set them; the simulator shrinks them so that short
/// histories reach every edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// How far above the stable checkpoint headers are accepted (W), in headers; [`Tuning::window_bytes`] says how far in
    /// bytes.
    pub window: u64,
    /// The longest distance of checkpoints, in headers.
    pub checkpoint_interval: u64,
    /// The bytes of executed batches after which a checkpoint is due however few headers named them, so that what
    /// a restart has to execute again is bounded.
    pub checkpoint_bytes: u64,
    /// The number of headers that may be proposed and uncommitted (P).
    pub proposals_max: u64,
    /// While so many bytes wait to be proposed, another header is proposed beside an uncommitted one; below it,
    /// proposals wait for the commit before, so that load makes headers larger and not more.
    pub pipeline_bytes: u64,
    /// By how many batches one cut may advance one lane (K).
    pub cut_batches_max: u64,
    /// By how many bytes one cut may advance one lane (B).
    pub cut_bytes_max: u64,
    /// The number of headers in one answer to a fetch.
    pub fetch_headers_max: usize,
    /// The bytes of batches in one answer to a fetch; one batch is always sent.
    pub fetch_bytes_max: usize,
    /// The size from which a batch is full, in bytes.
    pub batch_bytes_full: usize,
    /// The number of own batches per lane that may await a quorum of acknowledgements before the next one
    /// is sealed, unless it is full.
    pub batches_in_flight: u64,
    /// The bytes of one own lane that may be sealed and not yet executed.
    pub lane_bytes_open_max: usize,
    /// The units of one own lane that may be on their way to execution.
    pub lane_units_flying_max: u64,
    /// The units of one key in there, beside a key that uses far less.
    pub key_units_beside_max: u64,
    /// The bytes of executed batches that each lane keeps for peers that lag.
    pub lane_bytes_kept_max: usize,
    /// The bytes of batches that a core has appended to its log and that are not durable, over which it takes no more.
    pub undurable_bytes_max: usize,
    /// The number of executed headers that are kept for peers that lag.
    pub headers_kept_max: u64,
    /// What the state keeps of users' entries, and of each client key's sessions.
    pub state: StateLimits,
    /// T_retx: how often Status is sent while anything is open.
    pub retransmit: Nanoseconds,
    /// T_idle: how often Status is sent when nothing is open.
    pub idle: Nanoseconds,
    /// How far ahead of the local clock a header's timestamp may be before the header waits.
    pub clock_skew_max: Nanoseconds,
    /// T0: how long a primary may take before it is suspected; doubled for each view that failed. More than four
    /// network delays, a fetch and three syncs.
    pub view_timeout: Nanoseconds,
}

impl Tuning {
    /// R: how many headers are accepted beyond the executed one; a constant of the protocol, as all of these are.
    #[must_use]
    pub const fn accepted_ahead_max(&self) -> u64 {
        2 * self.window
    }

    /// The bytes of batches that accepted headers above the stable checkpoint name, from which on no other is accepted (W
    /// in bytes). So many that a checkpoint is due long before: what closes the window opens it again.
    #[must_use]
    pub const fn window_bytes(&self) -> u64 {
        4 * self.checkpoint_bytes
    }

    /// The bytes of one lane that a receiver holds above the executed tip. More than the origin's own bound, as executed
    /// tips differ between replicas.
    #[must_use]
    pub const fn lane_bytes_held_max(&self) -> usize {
        4 * self.lane_bytes_open_max
    }
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            window: limits::WINDOW,
            checkpoint_interval: limits::CHECKPOINT_INTERVAL,
            checkpoint_bytes: limits::CHECKPOINT_BYTES,
            proposals_max: limits::PROPOSALS_MAX,
            pipeline_bytes: 256 * 1024,
            cut_batches_max: limits::CUT_BATCHES_MAX,
            cut_bytes_max: limits::CUT_BYTES_MAX,
            fetch_headers_max: limits::FETCH_HEADERS_MAX,
            fetch_bytes_max: limits::FETCH_BYTES_MAX,
            batch_bytes_full: limits::BATCH_BYTES_FULL,
            batches_in_flight: 2,
            lane_bytes_open_max: limits::LANE_BYTES_OPEN_MAX,
            lane_units_flying_max: limits::LANE_UNITS_FLYING_MAX,
            key_units_beside_max: limits::KEY_UNITS_BESIDE_MAX,
            lane_bytes_kept_max: limits::LANE_BYTES_KEPT_MAX,
            undurable_bytes_max: limits::UNDURABLE_BYTES_MAX,
            headers_kept_max: limits::HEADERS_KEPT_MAX,
            state: StateLimits::default(),
            retransmit: Nanoseconds::from_millis(50),
            idle: Nanoseconds::from_millis(1000),
            clock_skew_max: Nanoseconds::from_millis(500),
            view_timeout: Nanoseconds::from_millis(500),
        }
    }
}

/// The checked configuration of a cluster.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    cluster_id: [u8; 32],
    epoch: Epoch,
    links: u8,
    genesis_root: Option<Digest>,
    members: Vec<Member>,
    clients: Vec<PublicKey>,
    quorums: Quorums,
    tuning: Tuning,
    digest: Digest,
}

impl ClusterConfig {
    /// Parses and checks the text of a `cluster.toml`.
    pub fn parse(text: &str) -> Result<Self, ClusterFileError> {
        let file: ClusterFile =
            toml::from_str(text).map_err(|error| ClusterFileError::Syntax(error.to_string()))?;
        Self::check(&file)
    }

    /// Checks a configuration.
    pub fn check(file: &ClusterFile) -> Result<Self, ClusterFileError> {
        let mut cluster_id = [0; 32];
        hex::decode_to_slice(&file.cluster_id, &mut cluster_id).map_err(|_| ClusterFileError::ClusterId)?;
        let genesis_root = file.genesis_root.as_deref().map(parse_root).transpose()?;
        if !(1..=limits::LINKS_MAX).contains(&usize::from(file.links)) {
            return Err(ClusterFileError::Links { links: file.links });
        }
        if !(1..=limits::REPLICAS_MAX).contains(&file.replicas.len()) {
            return Err(ClusterFileError::ReplicaCount { count: file.replicas.len() });
        }
        let mut members = Vec::with_capacity(file.replicas.len());
        for (position, entry) in file.replicas.iter().enumerate() {
            if usize::from(entry.id) != position {
                return Err(ClusterFileError::ReplicaId { position, id: entry.id });
            }
            let key = parse_key(&entry.key, &format!("key of replica {}", entry.id))?;
            let ports = [("mesh", entry.mesh.port()), ("client", entry.client.port())];
            if let Some((field, _)) = ports.into_iter().find(|(_, port)| *port == 0) {
                return Err(ClusterFileError::NoPort { id: entry.id, field });
            }
            if entry.mesh.port().checked_add(u16::from(file.links) - 1).is_none() {
                let port = entry.mesh.port();
                return Err(ClusterFileError::PortRange { id: entry.id, port, links: file.links });
            }
            members.push(Member { key, mesh: entry.mesh, client: entry.client });
        }
        let clients = file
            .clients
            .iter()
            .enumerate()
            .map(|(position, key)| parse_key(key, &format!("clients[{position}]")))
            .collect::<Result<Vec<_>, _>>()?;
        check_distinct_keys(&members, &clients)?;
        check_distinct_addresses(&members, file.links)?;
        let mut tuning = Tuning::default();
        if let Some(ByteCount(bytes_max)) = file.state_max {
            if bytes_max < limits::STATE_BYTES_MIN {
                return Err(ClusterFileError::StateMax { given: ByteCount(bytes_max) });
            }
            tuning.state.bytes_max = bytes_max;
        }
        Ok(Self {
            cluster_id,
            epoch: Epoch(file.epoch),
            links: file.links,
            genesis_root,
            quorums: Quorums::of(members.len()),
            members,
            clients,
            tuning,
            digest: Digest::ZERO,
        }
        .with_digest())
    }

    fn with_digest(mut self) -> Self {
        self.digest = self.compute_digest();
        self
    }

    /// The same cluster with other figures, for the simulator.
    #[must_use]
    pub fn with_tuning(self, tuning: Tuning) -> Self {
        Self { tuning, ..self }.with_digest()
    }

    /// Addresses are left out: moving a replica to another host changes nothing that is signed.
    fn compute_digest(&self) -> Digest {
        let mut writer = Digest::writer(Domain::Configuration);
        writer.bytes(&self.cluster_id).u64(self.epoch.0).u64(u64::from(self.links));
        writer.u64(self.members.len() as u64);
        for member in &self.members {
            writer.bytes(member.key.as_bytes());
        }
        writer.u64(self.clients.len() as u64);
        for client in &self.clients {
            writer.bytes(client.as_bytes());
        }
        writer.u64(self.tuning.window).u64(self.tuning.checkpoint_interval);
        writer.u64(self.tuning.checkpoint_bytes);
        writer.u64(self.tuning.proposals_max);
        writer.u64(self.tuning.cut_batches_max).u64(self.tuning.cut_bytes_max);
        let StateLimits {
            bytes_max,
            sessions_per_client,
            registration_age,
            registration_time,
            reply_bytes_per_client,
            reply_bytes,
        } = self.tuning.state;
        writer.u64(sessions_per_client as u64).u64(registration_age).u64(registration_time.0);
        writer.u64(reply_bytes_per_client).u64(reply_bytes).u64(bytes_max);
        if let Some(root) = &self.genesis_root {
            writer.digest(root);
        }
        writer.finish()
    }

    /// The identity of the cluster.
    #[must_use]
    pub fn cluster_id(&self) -> &[u8; 32] {
        &self.cluster_id
    }

    /// The number of this configuration.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The root of the state that the cluster began with; nothing when that was the empty one.
    #[must_use]
    pub fn genesis_root(&self) -> Option<Digest> {
        self.genesis_root
    }

    /// The number of links between each pair of replicas.
    #[must_use]
    pub fn links(&self) -> u8 {
        self.links
    }

    /// All links.
    pub fn link_ids(&self) -> impl Iterator<Item = LinkId> + use<> {
        (0..self.links).map(LinkId)
    }

    /// All lanes, ordered by origin, then link.
    pub fn lanes(&self) -> impl Iterator<Item = LaneId> + '_ {
        self.replica_ids().flat_map(|origin| self.link_ids().map(move |link| LaneId { origin, link }))
    }

    /// The replicas, indexed by id.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The replica with this id, if there is one.
    #[must_use]
    pub fn member(&self, replica: ReplicaId) -> Option<&Member> {
        self.members.get(replica.index())
    }

    /// All replica ids in ascending order.
    pub fn replica_ids(&self) -> impl Iterator<Item = ReplicaId> + use<> {
        let count = u8::try_from(self.members.len()).expect("invariant: at most REPLICAS_MAX members");
        (0..count).map(ReplicaId)
    }

    /// The keys of the clients that may connect.
    #[must_use]
    pub fn clients(&self) -> &[PublicKey] {
        &self.clients
    }

    /// The key with these bytes, when it is one of an allowed client.
    #[must_use]
    pub fn client(&self, key: &[u8; 32]) -> Option<&PublicKey> {
        self.clients.iter().find(|client| client.as_bytes() == key)
    }

    /// The place of the key with these bytes among [`ClusterConfig::clients`], when it is one of them.
    #[must_use]
    pub fn client_index(&self, key: &[u8; 32]) -> Option<KeyIndex> {
        let index = self.clients.iter().position(|client| client.as_bytes() == key)?;
        u32::try_from(index).ok().map(KeyIndex)
    }

    /// The sizes of quorums.
    #[must_use]
    pub fn quorums(&self) -> Quorums {
        self.quorums
    }

    /// The shared figures.
    #[must_use]
    pub fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    /// The digest that stands for this configuration in signatures and handshakes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The primary of `view`.
    #[must_use]
    pub fn primary(&self, view: View) -> ReplicaId {
        let index = view.0 % self.members.len() as u64;
        ReplicaId(u8::try_from(index).expect("invariant: below the number of members"))
    }
}

fn parse_root(text: &str) -> Result<Digest, ClusterFileError> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| ClusterFileError::GenesisRoot)?;
    Ok(Digest(bytes))
}

fn parse_key(text: &str, field: &str) -> Result<PublicKey, ClusterFileError> {
    PublicKey::from_hex(text).map_err(|source| ClusterFileError::Key { field: field.to_owned(), source })
}

fn check_distinct_keys(members: &[Member], clients: &[PublicKey]) -> Result<(), ClusterFileError> {
    let replicas = members.iter().enumerate().map(|(id, member)| (&member.key, format!("replica {id}")));
    let clients = clients.iter().enumerate().map(|(index, key)| (key, format!("clients[{index}]")));
    let mut seen: Vec<(&PublicKey, String)> = Vec::new();
    for (key, name) in replicas.chain(clients) {
        if let Some((_, first)) = seen.iter().find(|(other, _)| *other == key) {
            return Err(ClusterFileError::DuplicateKey { first: first.clone(), second: name });
        }
        seen.push((key, name));
    }
    Ok(())
}

fn check_distinct_addresses(members: &[Member], links: u8) -> Result<(), ClusterFileError> {
    let mut seen: Vec<(SocketAddr, String)> = Vec::new();
    for (id, member) in members.iter().enumerate() {
        let mesh = (0..links).map(|link| {
            (member.mesh_address(LinkId(link)), format!("mesh address of replica {id}, link {link}"))
        });
        let client = std::iter::once((member.client, format!("client address of replica {id}")));
        for (address, name) in mesh.chain(client) {
            if let Some((_, first)) = seen.iter().find(|(other, _)| *other == address) {
                return Err(ClusterFileError::DuplicateAddress {
                    address,
                    first: first.clone(),
                    second: name,
                });
            }
            seen.push((address, name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SigningKey;

    fn key(seed: u8) -> String {
        SigningKey::from_seed(&[seed; 32]).public().to_hex()
    }

    fn file(replicas: u8) -> ClusterFile {
        ClusterFile {
            cluster_id: "ab".repeat(32),
            epoch: 0,
            links: 2,
            genesis_root: None,
            state_max: None,
            clients: vec![key(200)],
            replicas: (0..replicas)
                .map(|id| ReplicaEntry {
                    id,
                    key: key(id),
                    mesh: SocketAddr::from(([127, 0, 0, 1], 7000 + 10 * u16::from(id))),
                    client: SocketAddr::from(([127, 0, 0, 1], 8000 + u16::from(id))),
                })
                .collect(),
        }
    }

    fn complaint(change: impl FnOnce(&mut ClusterFile)) -> String {
        let mut file = file(4);
        change(&mut file);
        ClusterConfig::check(&file).unwrap_err().to_string()
    }

    #[test]
    fn a_written_file_is_read_back() {
        let text = toml::to_string(&file(4)).unwrap();
        let config = ClusterConfig::parse(&text).unwrap();
        assert_eq!(config.quorums().quorum, 3);
        assert_eq!(config.primary(View(6)), ReplicaId(2));
        assert_eq!(config.lanes().count(), 8);
        assert_eq!(config.digest(), ClusterConfig::check(&file(4)).unwrap().digest());
        assert!(config.client(SigningKey::from_seed(&[200; 32]).public().as_bytes()).is_some());
    }

    #[test]
    fn every_mistake_is_named_with_its_remedy() {
        assert!(complaint(|file| file.cluster_id.truncate(3)).contains("64 hexadecimal"));
        assert!(complaint(|file| file.genesis_root = Some("12".to_owned())).contains("genesis_root"));
        assert!(complaint(|file| file.replicas[2].id = 1).contains("give it id 2"));
        assert!(complaint(|file| file.replicas[2].key = key(1)).contains("replica 1 and replica 2"));
        assert!(complaint(|file| file.clients[0] = key(3)).contains("replica 3 and clients[0]"));
        assert!(complaint(|file| file.clients[0].clear()).contains("clients[0]"));
        assert!(complaint(|file| file.links = 0).contains("links = 0"));
        assert!(complaint(|file| file.replicas.clear()).contains("0 [[replica]]"));
        assert!(complaint(|file| file.replicas[1].mesh.set_port(7001)).contains("link 1"));
        assert!(complaint(|file| file.replicas[3].mesh.set_port(65535)).contains("65535"));
        assert!(complaint(|file| file.replicas[3].mesh.set_port(0)).contains("replica 3: mesh has port 0"));
        assert!(
            complaint(|file| file.replicas[0].client.set_port(0)).contains("replica 0: client has port 0")
        );
        assert!(
            complaint(|file| file.state_max = Some(ByteCount(1000)))
                .contains("state_max = \"1000 bytes\"; use 1 MiB or more")
        );
        let text = toml::to_string(&file(4)).unwrap().replace("epoch = 0", "epoch = 0\nepok = 1");
        assert!(ClusterConfig::parse(&text).unwrap_err().to_string().contains("epok"));
    }

    #[test]
    fn the_digest_covers_keys_but_not_addresses() {
        let base = ClusterConfig::check(&file(4)).unwrap();
        let mut moved = file(4);
        moved.replicas[0].client.set_port(9999);
        assert_eq!(ClusterConfig::check(&moved).unwrap().digest(), base.digest());
        let mut other = file(4);
        other.clients.push(key(201));
        assert_ne!(ClusterConfig::check(&other).unwrap().digest(), base.digest());
        let mut restored = file(4);
        restored.genesis_root = Some("cd".repeat(32));
        let restored = ClusterConfig::check(&restored).unwrap();
        assert_ne!(restored.digest(), base.digest());
        assert_eq!(restored.genesis_root(), Some(Digest([0xcd; 32])));
    }

    #[test]
    fn the_quota_of_the_state_is_part_of_what_a_cluster_is() {
        let text = toml::to_string(&file(4)).unwrap();
        assert!(!text.contains("state_max"), "{text}");
        let base = ClusterConfig::parse(&text).unwrap();
        assert_eq!(base.tuning().state.bytes_max, limits::STATE_BYTES_MAX);
        let with = |max: &str| ClusterConfig::parse(&format!("state_max = {max}\n{text}")).unwrap();
        let small = with("\"64MiB\"");
        assert_eq!(small.tuning().state.bytes_max, 64 << 20);
        assert_ne!(small.digest(), base.digest());
        assert_eq!(small.digest(), with("67108864").digest());
        assert_eq!(with("\"8GiB\"").digest(), base.digest());
    }
}
