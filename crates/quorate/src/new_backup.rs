//! Writing a backup: under another name, which it gets when all of it is durable. Who reads it reads all keys and values, so
//! its owner alone may.

use crate::backup_files::{CERTIFICATE, CLUSTER, Origin, PAGES, SUMMARY, Summary, check_state};
use crate::failure::Failure;
use crate::interrupt::on_signal;
use anyhow::{Context, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use quorate_daemon::page_folder::{PageFolder, write_checkpoint};
use quorate_daemon::{make_directory, sync_directory};
use quorate_state::{CheckpointHead, Frozen, State};
use quorate_types::{ClusterConfig, ReplicaId, StateLimits};
use quorate_wire::message::{CheckpointCertificate, Message};
use std::fs::{OpenOptions, Permissions};
use std::io::{IsTerminal, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// What a backup is made of.
pub(crate) struct Contents<'a> {
    pub(crate) config: &'a ClusterConfig,
    /// The cluster file as it is written.
    pub(crate) cluster_text: &'a str,
    pub(crate) certificate: &'a CheckpointCertificate,
    pub(crate) state: &'a Frozen,
    /// The replica that it comes from.
    pub(crate) replica: ReplicaId,
}

/// A backup that is being written. It is removed unless it is finished.
pub(crate) struct Unfinished {
    directory: tempfile::TempDir,
    parent: PathBuf,
}

impl Unfinished {
    /// Begins a backup that will be named `to`.
    pub(crate) fn begin(to: &Path) -> Result<Self, Failure> {
        if to.exists() {
            let path = to.display();
            return Err(Failure::usage(format!(
                "{path}: it exists and is not overwritten; name another --to"
            )));
        }
        Ok(Self::make(to)?)
    }

    fn make(to: &Path) -> anyhow::Result<Self> {
        let parent = match to.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        make_directory(&parent, 0o700)?;
        let directory = tempfile::Builder::new()
            .prefix(".quorate-backup-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(&parent);
        let directory =
            directory.with_context(|| format!("cannot make a directory in {}", parent.display()))?;
        let path = directory.path().to_owned();
        on_signal(move || {
            let _ = std::fs::remove_dir_all(&path);
            std::process::exit(1);
        })?;
        Ok(Self { directory, parent })
    }

    /// Writes all of it, once the state was found to be the one that the certificate is of.
    pub(crate) fn write(&self, contents: &Contents<'_>) -> anyhow::Result<Summary> {
        let Contents { config, cluster_text, certificate, state: frozen, replica } = *contents;
        let state = State::from_frozen(frozen, StateLimits::default());
        check_state(&state, certificate)?;
        let path = self.directory.path();
        let frame = certificate.encode();
        let header = state.header().context("the state follows no header")?;
        let head = CheckpointHead {
            seq: header.seq,
            digest: header.digest,
            timestamp: header.timestamp,
            certificate: frame.payload().to_vec(),
        };
        let bar = Bar::start("{prefix} {spinner} {bytes} written", "writing");
        let mut folder = PageFolder::open(&path.join(PAGES), true)?;
        let manifest = write_checkpoint(frozen, head, &mut folder, |bytes| bar.show(bytes))?;
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let origin = Origin { created_unix_s: created.as_secs(), replica: replica.0 };
        let summary = Summary::new(origin, config, cluster_text, certificate, &state, &manifest);
        write_file(&path.join(CERTIFICATE), frame.bytes())?;
        write_file(&path.join(CLUSTER), cluster_text.as_bytes())?;
        write_file(&path.join(SUMMARY), summary.text().as_bytes())?;
        sync_directory(path)?;
        Ok(summary)
    }

    /// Gives it its name.
    pub(crate) fn finish(self, to: &Path) -> anyhow::Result<()> {
        ensure!(!to.exists(), "{}: it exists by now and is not overwritten", to.display());
        std::fs::rename(self.directory.path(), to)
            .with_context(|| format!("cannot name the backup {}", to.display()))?;
        // It is there under its new name, and not to be removed under the old one.
        let _ = self.directory.keep();
        sync_directory(&self.parent)?;
        Ok(())
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// What is shown on a terminal while something goes on.
pub(crate) struct Bar(Option<ProgressBar>);

impl Bar {
    /// Shows a line if somebody looks at it.
    pub(crate) fn start(template: &str, name: &'static str) -> Self {
        Self(std::io::stderr().is_terminal().then(|| {
            let style =
                ProgressStyle::with_template(template).expect("invariant: the templates here are valid");
            ProgressBar::new_spinner().with_style(style).with_prefix(name)
        }))
    }

    pub(crate) fn show(&self, position: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(position);
            bar.tick();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
