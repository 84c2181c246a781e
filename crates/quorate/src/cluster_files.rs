//! The files of a new cluster: `cluster.toml`, a configuration and a key for each party, and the data directories.

use crate::failure::Failure;
use crate::ports::Reservation;
use anyhow::Context;
use quorate_daemon::{
    DirectoryError, Identity, NodeConfig, Role, create_durably, make_directory, never_spoken,
};
use quorate_state::Frozen;
use quorate_types::{ByteCount, ClusterConfig, PublicKey, Quorums, SigningKey, limits};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// The name of the file that all replicas and clients share.
pub(crate) const CLUSTER_FILE: &str = "cluster.toml";
/// The name of the configuration of a replica.
pub(crate) fn replica_file(replica: usize) -> String {
    format!("replica-{replica}.toml")
}

/// The name of the data directory of a replica.
pub(crate) fn data_directory(replica: usize) -> String {
    format!("data-{replica}")
}

/// The name of the secret key of a client.
pub(crate) fn client_key_file(client: usize) -> String {
    format!("client-{client}.key")
}

/// What a new cluster is to have.
#[derive(Clone, Debug)]
pub(crate) struct NewCluster {
    /// The number of replicas, n.
    pub(crate) replicas: usize,
    /// The number of client keys.
    pub(crate) clients: usize,
    /// Parallel connections between each pair of replicas.
    pub(crate) links: u8,
    /// The address of all replicas.
    pub(crate) host: IpAddr,
    /// The first port: clients' ports first, one per replica, then `links` mesh ports per replica.
    pub(crate) base_port: u16,
    /// What an acknowledgement promises.
    pub(crate) durability: &'static str,
    /// What users' entries may come to; nothing for the default.
    pub(crate) state_max: Option<ByteCount>,
}

impl NewCluster {
    /// A cluster on ports of 127.0.0.1 that are free, and stay so for it.
    pub(crate) fn local(
        replicas: usize,
        clients: usize,
        durability: &'static str,
    ) -> Result<(Self, Reservation), Failure> {
        let host = IpAddr::from([127, 0, 0, 1]);
        let mut cluster =
            Self { replicas, clients, links: 1, host, base_port: 1, durability, state_max: None };
        cluster.check()?;
        let reservation = Reservation::of(host, cluster.ports())?;
        cluster.base_port = reservation.first();
        Ok((cluster, reservation))
    }

    /// Refuses what no cluster can have.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let within = |flag: &str, value: usize, limit: usize| match (1..=limit).contains(&value) {
            true => Ok(()),
            false => Err(Failure::usage(format!("{flag} {value}: use 1 to {limit}"))),
        };
        within("--replicas", self.replicas, limits::REPLICAS_MAX)?;
        within("--links", usize::from(self.links), limits::LINKS_MAX)?;
        within("--clients", self.clients, CLIENTS_MAX)?;
        if let Some(given) = self.state_max.filter(|max| max.0 < limits::STATE_BYTES_MIN) {
            let least = ByteCount(limits::STATE_BYTES_MIN);
            return Err(Failure::usage(format!("--state-max {given}: use {least} or more")));
        }
        if !self.host.is_loopback() {
            return Err(Failure::usage(format!(
                "--host {}: links are not encrypted in this version, so replicas refuse to start on anything \
                 but loopback; use --host 127.0.0.1",
                self.host
            )));
        }
        let highest = 65_536 - self.ports();
        if !(1..=highest).contains(&usize::from(self.base_port)) {
            let (port, ports) = (self.base_port, self.ports());
            let problem =
                format!("--base-port {port}: {ports} ports are needed from there on; use 1 to {highest}");
            return Err(Failure::usage(problem));
        }
        Ok(())
    }

    /// Draws keys, writes all files into `directory`, and formats the data directories; returns the names of all. What
    /// exists is left alone and makes it fail.
    pub(crate) fn write(&self, directory: &Path) -> Result<Vec<String>, Failure> {
        self.write_files(directory, None)
    }

    /// As [`NewCluster::write`], for a cluster that begins with a state, which depends on the keys of its clients.
    pub(crate) fn write_with(
        &self,
        directory: &Path,
        state: impl FnOnce(&[PublicKey]) -> Frozen,
    ) -> Result<Vec<String>, Failure> {
        self.write_files(directory, Some(Box::new(state)))
    }

    fn write_files(&self, directory: &Path, state: Option<FirstState<'_>>) -> Result<Vec<String>, Failure> {
        let (files, state) = self.files(state)?;
        make_directory(directory, 0o777)?;
        for file in &files {
            let path = directory.join(&file.name);
            if path.exists() {
                return Err(Failure::usage(format!(
                    "{}: the file exists, and its cluster is not overwritten; give another --dir, or remove the \
                     directory if that cluster is no longer wanted",
                    path.display()
                )));
            }
        }
        for (count, file) in files.iter().enumerate() {
            if let Err(error) = file.write(directory) {
                // What is half written would be in the way of the next attempt.
                files[..count].iter().for_each(|file| drop(std::fs::remove_file(directory.join(&file.name))));
                return Err(error.into());
            }
        }
        // A directory that is formatted never outlives its key.
        quorate_daemon::sync_directory(directory)?;
        let mut names: Vec<String> = files.iter().map(|file| file.name.clone()).collect();
        for replica in 0..self.replicas {
            if let Err(failure) = format_data(&directory.join(replica_file(replica)), state.as_ref()) {
                files.iter().for_each(|file| drop(std::fs::remove_file(directory.join(&file.name))));
                // Those before it were made here a moment ago, and hold nothing.
                (0..replica)
                    .for_each(|made| drop(std::fs::remove_dir_all(directory.join(data_directory(made)))));
                return Err(failure);
            }
            names.push(data_directory(replica));
        }
        Ok(names)
    }

    fn files(&self, state: Option<FirstState<'_>>) -> Result<(Vec<NewFile>, Option<Frozen>), Failure> {
        let replica_keys = draw_keys(self.replicas)?;
        let client_keys = draw_keys(self.clients)?;
        let clients: Vec<PublicKey> = client_keys.iter().map(SigningKey::public).collect();
        let state = state.map(|state| state(&clients));
        let genesis = state.as_ref().map(|state| genesis_text(&state.root().to_hex())).unwrap_or_default();
        let cluster = self.cluster_text(&hex::encode(draw()?), &genesis, &replica_keys, &client_keys);
        ClusterConfig::parse(&cluster).context("the cluster file that was about to be written")?;
        let mut files = vec![NewFile { name: CLUSTER_FILE.to_owned(), mode: 0o644, text: cluster }];
        for (replica, key) in replica_keys.iter().enumerate() {
            files.push(NewFile {
                name: replica_file(replica),
                mode: 0o644,
                text: self.replica_text(replica),
            });
            files.push(NewFile::secret(replica_key_file(replica), key));
            let mark = never_spoken::mark_path(Path::new(&replica_key_file(replica)));
            let (name, text) = (mark.display().to_string(), never_spoken::mark_text(&key.public()));
            files.push(NewFile { name, mode: 0o644, text });
        }
        for (client, key) in client_keys.iter().enumerate() {
            files.push(NewFile::secret(client_key_file(client), key));
        }
        Ok((files, state))
    }

    /// How many ports the cluster takes, from `base_port` on.
    pub(crate) fn ports(&self) -> usize {
        self.replicas * (1 + usize::from(self.links))
    }

    fn address(&self, offset: usize) -> SocketAddr {
        let port = usize::from(self.base_port) + offset;
        SocketAddr::new(self.host, u16::try_from(port).expect("invariant: the range of ports was checked"))
    }

    fn cluster_text(
        &self,
        id: &str,
        genesis: &str,
        replicas: &[SigningKey],
        clients: &[SigningKey],
    ) -> String {
        let Quorums { replicas: n, faults, quorum, .. } = Quorums::of(self.replicas);
        let mut text = format!(
            "\
# A Quorate cluster of {n}: it makes progress while {quorum} replicas work together, and stays correct while at
# most {faults} of them crash or lie. All replicas and clients need this same file; after a change,
# `quorate check-config {CLUSTER_FILE}` says whether it is sound.

# Tells this cluster from every other; it is part of all that is signed.
cluster_id = \"{id}\"

# The number of this configuration; a new cluster has 0.
epoch = 0

# Parallel connections between each pair of replicas. Raise it together with `cores` in the replicas' own files,
# when one core per connection is the bottleneck. Link i uses the mesh port + i.
links = {}
{genesis}{quota}
# The public keys of those who may connect as clients.
clients = [
",
            self.links,
            quota = self.state_max.map(quota_text).unwrap_or_default(),
        );
        for (client, key) in clients.iter().enumerate() {
            let _ = writeln!(text, "    \"{}\", # {}", key.public().to_hex(), client_key_file(client));
        }
        text += "]\n\n# The replicas: `key` is the public half of replica-N.key, `mesh` is where other replicas connect, \
                 `client`\n# where clients do.\n";
        for (replica, key) in replicas.iter().enumerate() {
            let _ = write!(
                text,
                "[[replica]]\nid = {replica}\nkey = \"{}\"\nmesh = \"{}\"\nclient = \"{}\"\n\n",
                key.public().to_hex(),
                self.address(self.replicas + replica * usize::from(self.links)),
                self.address(replica),
            );
        }
        text.truncate(text.trim_end().len());
        text + "\n"
    }

    fn replica_text(&self, replica: usize) -> String {
        let key = replica_key_file(replica);
        let durability = self.durability;
        let data = data_directory(replica);
        format!(
            "\
# Replica {replica}. `quorate start --config {file}` runs it; `quorate check-config {file}` checks it.
# Paths are relative to this file.

# What all replicas and clients share.
cluster = \"{CLUSTER_FILE}\"

# Which of its replicas this is.
replica = {replica}

# The secret key. Nobody else may read it (mode 0600), and no two processes may use it.
key_file = \"{key}\"

# Where the data is, relative to this file: a directory that `quorate init` or `quorate format` has made, used by no
# other process. Never give a replica an older copy of it: a vote that it has forgotten may be cast again.
data_dir = \"{data}\"

# What an acknowledgement promises. \"sync\": what is acknowledged is on the disks of a quorum, and survives the loss of
# power of all. \"async\": no write waits for a disk; the end of all processes costs nothing. The loss of power of more
# than f machines may cost what was acknowledged last, and it ends the cluster, as who may have lost votes casts none: a
# new one is made from its newest certified state (`quorate backup --data-dir`, `quorate restore`).
durability = \"{durability}\"

# The bytes that the log may take, and those that are left free on the disk. When the log is full of what is still
# needed, or the disk nearly full, the replica takes no writes until there is room again. The log needs room for what
# comes between checkpoints: less than that is refused. Without a unit the numbers are bytes.
# max_journal_bytes = \"2 GiB\"
# min_free_bytes = \"256 MiB\"

# What protects the connections. \"plaintext\": nothing, so only loopback addresses are accepted.
security = \"plaintext\"

# The CPUs to pin to, one thread and one ring each. Left out: one thread that is not pinned. With CPUs of its own a
# replica is faster, and more than one pays when a single one is busy all the time.
# cores = [0]

# How long a core polls before it sleeps, in microseconds. 0 is right when replicas share CPUs, as here; about 20
# shortens every hand-off when each core has a CPU of its own.
spin_us = 0

# Where the replica writes where its time goes, for every stage of a request: HdrHistogram logs and percentiles.
[histograms]

# The directory, relative to this file. Left out: `histograms` in the directory where the replica runs.
# directory = \"histograms\"

# The seconds between two dumps. 0: only when SIGUSR1 asks for one; `quorate histograms` reads them at any time.
interval_s = 0
",
            file = replica_file(replica),
        )
    }
}

/// Formats the data directory of a replica of a new cluster, whose configuration is at `path`.
fn format_data(path: &Path, state: Option<&Frozen>) -> Result<(), Failure> {
    let config = NodeConfig::read(path)?;
    let identity = Identity::new(&config.cluster, config.replica, Role::Founding);
    match state {
        None => Ok(quorate_daemon::format(&config.data_directory, &identity)?),
        Some(state) => Ok(quorate_daemon::format_with_state(&config.data_directory, &identity, state)?),
    }
}

/// Makes the state that a cluster with these clients begins with.
type FirstState<'a> = Box<dyn FnOnce(&[PublicKey]) -> Frozen + 'a>;

/// What a cluster file says of the state that the cluster begins with.
fn genesis_text(root: &str) -> String {
    format!(
        "
# The root of the state that the cluster began with: the keys of a backup. A replica without it does not start.
genesis_root = \"{root}\"
"
    )
}

/// What a cluster file says of the room that there is for users' entries.
fn quota_text(state_max: ByteCount) -> String {
    format!(
        "
# What users' keys and values may come to in all, each entry with 32 bytes more. Over it nothing is written that makes
# them more; the rest goes on. Part of what the cluster is, so it stays as it was when the replicas first started.
state_max = \"{state_max}\"
"
    )
}

/// More keys than this in one cluster file are a mistake.
const CLIENTS_MAX: usize = 10_000;

fn replica_key_file(replica: usize) -> String {
    format!("replica-{replica}.key")
}

#[derive(Debug)]
struct NewFile {
    name: String,
    mode: u32,
    text: String,
}

impl NewFile {
    fn secret(name: String, key: &SigningKey) -> Self {
        Self { name, mode: 0o600, text: key.to_hex() + "\n" }
    }

    fn write(&self, directory: &Path) -> Result<(), DirectoryError> {
        create_durably(&directory.join(&self.name), self.mode, self.text.as_bytes())
    }
}

fn draw() -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).context("the system's random source failed")?;
    Ok(bytes)
}

fn draw_keys(count: usize) -> anyhow::Result<Vec<SigningKey>> {
    (0..count).map(|_| Ok(SigningKey::from_seed(&draw()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_replicas_accept_and_only_its_owner_reads_keys() {
        let directory = tempfile::tempdir().unwrap();
        let (mut cluster, _) = NewCluster::local(7, 2, "sync").unwrap();
        cluster.links = 3;
        let names = cluster.write(directory.path()).unwrap();
        assert_eq!(names.len(), 1 + 7 * 4 + 2);
        for replica in 0..7 {
            let config = NodeConfig::read(&directory.path().join(replica_file(replica))).unwrap();
            assert_eq!(config.replica.index(), replica);
            assert_eq!(config.cluster.clients().len(), 2);
            assert_eq!(config.cluster.links(), 3);
        }
        let again = cluster.write(directory.path()).unwrap_err();
        assert!(
            matches!(&again, Failure::Usage(text) if text.contains("cluster.toml: the file exists")),
            "{again:?}"
        );
    }

    #[test]
    fn the_last_port_is_used_and_no_port_beyond_it() {
        let (mut cluster, _) = NewCluster::local(4, 1, "sync").unwrap();
        cluster.base_port = 65_528;
        cluster.check().unwrap();
        cluster.files(None).unwrap();
        cluster.base_port = 65_529;
        let error = cluster.check().unwrap_err();
        assert!(matches!(&error, Failure::Usage(text) if text.contains("use 1 to 65528")), "{error:?}");
    }
}
