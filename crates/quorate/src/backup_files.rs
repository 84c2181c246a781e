//! The files of a backup, and their verification.
//!
//! | name | what |
//! | --- | --- |
//! | `pages/` | the state: page files and one manifest, in the form of a checkpoint |
//! | `certificate` | the certificate over the state's root, as the frame in which it travelled |
//! | `cluster.toml` | the cluster file of the cluster that signed it |
//! | `backup.toml` | what the backup is of, digests of the two files above, and a checksum of itself |
//!
//! Every byte of every file counts: one that has changed is found, and its file is named.

use crate::failure::Failure;
use anyhow::{Context, anyhow, bail, ensure};
use quorate_daemon::page_folder::{PageFolder, load_checkpoint};
use quorate_state::{Frozen, Manifest, State};
use quorate_types::{ClusterConfig, Digest, Domain, StateLimits, limits};
use quorate_wire::Assembler;
use quorate_wire::message::{CheckpointCertificate, Message};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The folder of the state.
pub(crate) const PAGES: &str = "pages";
/// The certificate over the state's root.
pub(crate) const CERTIFICATE: &str = "certificate";
/// The cluster file.
pub(crate) const CLUSTER: &str = "cluster.toml";
/// What the backup is of.
pub(crate) const SUMMARY: &str = "backup.toml";
/// The form of all these files. Another one is another program's.
const FORMAT: u32 = 1;
const CHECK: &str = "check = \"";
const HEADER: &str = "\
# What this backup is of. Written by `quorate backup`; a change by hand is taken for damage.
";

/// `backup.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Summary {
    format: u32,
    /// The version of the program that wrote it.
    pub(crate) version: String,
    /// When, in seconds since the Unix epoch.
    pub(crate) created_unix_s: u64,
    /// The cluster.
    pub(crate) cluster_id: String,
    /// The replica that the state was copied from, or in whose data its certificate was found.
    pub(crate) replica: u8,
    /// The seq of the last header that the state contains.
    pub(crate) seq: u64,
    /// The root of the state.
    pub(crate) root: String,
    /// The number of users' keys.
    pub(crate) user_keys: u64,
    /// The bytes of all keys and values.
    pub(crate) stored_bytes: u64,
    /// The bytes of the page files.
    pub(crate) page_bytes: u64,
    /// The digest of the certificate's file.
    certificate: String,
    /// The digest of the cluster file.
    cluster: String,
}

/// What a new summary says beside what follows from the files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) created_unix_s: u64,
    pub(crate) replica: u8,
}

impl Summary {
    /// The summary of a backup that consists of these parts.
    pub(crate) fn new(
        origin: Origin,
        config: &ClusterConfig,
        cluster_text: &str,
        certificate: &CheckpointCertificate,
        state: &State,
        manifest: &Manifest,
    ) -> Self {
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            created_unix_s: origin.created_unix_s,
            cluster_id: hex::encode(config.cluster_id()),
            replica: origin.replica,
            seq: certificate.position.seq.0,
            root: certificate.root.to_hex(),
            user_keys: state.user_keys(),
            stored_bytes: state.stored_bytes(),
            page_bytes: manifest.bytes(),
            certificate: digest(certificate.encode().bytes()),
            cluster: digest(cluster_text.as_bytes()),
        }
    }

    /// What the backup at a place is of.
    pub(crate) fn sentence(&self, at: &Path) -> String {
        let (seq, keys, root) = (self.seq, self.user_keys, &self.root);
        format!("{}: the state after seq {seq}, {keys} keys, root {root}", at.display())
    }

    /// The text of its file.
    pub(crate) fn text(&self) -> String {
        let fields = toml::to_string(self).expect("invariant: numbers and strings are valid TOML");
        let text = format!("{HEADER}{fields}");
        let check = digest(text.as_bytes());
        format!("{text}{CHECK}{check}\"\n")
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let (covered, check) = text.rsplit_once(CHECK).context("it is cut off")?;
        let format: toml::Table = covered.parse().context("it is no TOML")?;
        if let Some(other) = format.get("format").and_then(toml::Value::as_integer)
            && other != i64::from(FORMAT)
        {
            bail!("its format is {other}, and this version knows {FORMAT}; use the version that wrote it");
        }
        ensure!(check == format!("{}\"\n", digest(covered.as_bytes())), "its checksum does not fit");
        Ok(toml::from_str(covered)?)
    }
}

fn digest(bytes: &[u8]) -> String {
    Digest::of(Domain::BackupFile, bytes).to_hex()
}

/// Whether a quorum of a cluster has signed a certificate.
pub(crate) fn check_certificate(
    config: &ClusterConfig,
    certificate: &CheckpointCertificate,
) -> anyhow::Result<()> {
    let (signers, quorum) = (certificate.signers(config), config.quorums().quorum);
    ensure!(signers >= quorum, "{signers} replicas of the cluster have signed it, and a quorum is {quorum}");
    Ok(())
}

/// Whether a state is the one that a certificate is of.
pub(crate) fn check_state(state: &State, certificate: &CheckpointCertificate) -> anyhow::Result<()> {
    let position = certificate.position;
    let header = state.header().context("the state follows no header")?;
    ensure!(
        (header.seq, header.digest) == (position.seq, position.digest),
        "the state follows header {}, and the certificate is of the state after header {}",
        header.seq,
        position.seq
    );
    Ok(())
}

/// The highest revision that a state may have reached: far more than any cluster can write, and with room for all that
/// a restored one will.
const REVISION_MAX: u64 = 1 << 62;

/// Whether versions are as writes give them. A quorum has signed the state, but which cluster's, only `--trust` says.
fn check_versions(state: &Frozen) -> anyhow::Result<()> {
    let revision = state.revision();
    let highest = state.user_entries().map(|(_, entry)| entry.version).max().unwrap_or_default();
    ensure!(
        highest <= revision && revision <= REVISION_MAX,
        "the state contradicts itself: a key has version {highest}, the last write had {revision}, and no cluster comes \
         to more than {REVISION_MAX}"
    );
    Ok(())
}

/// A backup that was verified whole.
#[derive(Debug)]
pub(crate) struct Backup {
    pub(crate) summary: Summary,
    pub(crate) state: Frozen,
}

impl Backup {
    /// Refuses a directory that is none at a glance.
    pub(crate) fn check_is_there(directory: &Path) -> Result<(), Failure> {
        let shown = directory.display();
        if directory.join(SUMMARY).exists() {
            return Ok(());
        }
        let problem = if !directory.exists() { "there is no such directory" } else { "this is no backup" };
        Err(Failure::usage(format!(
            "--from {shown}: {problem}; name the directory that `quorate backup --to` has written"
        )))
    }

    /// Reads and verifies a backup: that nothing of it has changed, and that a quorum of the cluster has signed the
    /// root of its state. The cluster is the one whose file is in the backup, and is `trusted` if that is given.
    pub(crate) fn read(directory: &Path, trusted: Option<&ClusterConfig>) -> anyhow::Result<Self> {
        let summary = at(directory, SUMMARY, |path| Summary::parse(&text(path)?))?;
        let config = at(directory, CLUSTER, |path| {
            let text = text(path)?;
            ensure!(digest(text.as_bytes()) == summary.cluster, "it is not the file that was backed up");
            let config = ClusterConfig::parse(&text)?;
            ensure!(hex::encode(config.cluster_id()) == summary.cluster_id, "it is of another cluster");
            if let Some(trusted) = trusted {
                let same = trusted.digest() == config.digest();
                ensure!(same, "it is not the configuration that --trust names");
            }
            Ok(config)
        })?;
        let certificate = at(directory, CERTIFICATE, |path| {
            let bytes = std::fs::read(path)?;
            let certificate = decode_certificate(&bytes)?;
            check_certificate(&config, &certificate)?;
            ensure!(digest(&bytes) == summary.certificate, "it is not the file that was backed up");
            let fits = (certificate.position.seq.0, certificate.root.to_hex());
            ensure!(
                fits == (summary.seq, summary.root.clone()),
                "it is of another state than {SUMMARY} names"
            );
            Ok(certificate)
        })?;
        let mut folder = PageFolder::for_reading(&directory.join(PAGES));
        let manifest = read_manifest(&folder)?;
        let named = folder.manifest_file(manifest.number);
        let whole = || -> anyhow::Result<()> {
            ensure!(manifest.root == certificate.root, "its root is not the one that is certified");
            ensure!(
                manifest.head.certificate == certificate.encode().payload(),
                "it has another certificate"
            );
            ensure!(manifest.bytes() == summary.page_bytes, "its page files are not those of {SUMMARY}");
            Ok(())
        };
        whole().with_context(|| named.display().to_string())?;
        let state = load_checkpoint(&mut folder, &manifest)?;
        check_state(&State::from_frozen(&state, StateLimits::default()), &certificate)
            .and_then(|()| check_versions(&state))
            .with_context(|| named.display().to_string())?;
        Ok(Self { summary, state })
    }
}

/// Does something with a file of a backup; an error names the file.
fn at<T>(directory: &Path, name: &str, read: impl FnOnce(&Path) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let path: PathBuf = directory.join(name);
    read(&path).with_context(|| {
        format!("{}: this is no sound backup; use another copy of it, or another one", path.display())
    })
}

fn text(path: &Path) -> anyhow::Result<String> {
    String::from_utf8(std::fs::read(path)?).map_err(|_| anyhow!("it is no text"))
}

fn decode_certificate(bytes: &[u8]) -> anyhow::Result<CheckpointCertificate> {
    let mut assembler = Assembler::new(limits::FRAME_BYTES_MAX);
    let mut input = bytes;
    let frame = assembler.next(&mut input)?.context("it is cut off")?;
    let certificate = CheckpointCertificate::from_frame(frame)?;
    ensure!(input.is_empty(), "something follows the certificate");
    Ok(certificate)
}

/// The one manifest; there are the page files that it names, no others, and each is as long as it says.
fn read_manifest(folder: &PageFolder) -> anyhow::Result<Manifest> {
    let listing = folder.list()?;
    let path = folder.path().display();
    let [number] = listing.manifests[..] else {
        bail!("{path}: there is not one manifest but {}", listing.manifests.len());
    };
    let manifest = folder.read_manifest(number)?;
    for (number, bytes) in &listing.pages {
        let named = manifest.files.iter().find(|file| file.number == *number);
        let file = folder.page_file(*number);
        match named {
            Some(entry) if u64::from(entry.bytes) == *bytes => {}
            Some(entry) => bail!("{}: it has {bytes} bytes and not {}", file.display(), entry.bytes),
            None => bail!("{}: it is no part of the backup", file.display()),
        }
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_state::VersionedRef;

    #[test]
    fn versions_that_leave_no_room_for_writes_are_refused() {
        let state = |revision| {
            let entry = VersionedRef { value: b"1", version: 7 };
            State::beginning_with([], revision, [(&b"a"[..], entry)]).freeze()
        };
        check_versions(&state(7)).unwrap();
        check_versions(&state(REVISION_MAX)).unwrap();
        let error = check_versions(&state(REVISION_MAX + 1)).unwrap_err().to_string();
        assert!(error.contains("contradicts itself"), "{error}");
    }
}
