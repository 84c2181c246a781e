//! Which cluster a client command is for, and as whom.

use crate::cluster_files::client_key_file;
use crate::failure::Failure;
use anyhow::Context;
use clap::Args;
use quorate_daemon::{read_cluster, read_key};
use quorate_types::{ClusterConfig, OTHER_CLIENT, SigningKey};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The flags of all client commands.
#[derive(Args, Debug)]
pub(crate) struct ClusterArguments {
    /// Cluster file, as `quorate init` writes it.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "QUORATE_CLUSTER",
        default_value = "quorate-data/cluster.toml"
    )]
    cluster: PathBuf,
    /// Secret key of an allowed client. [default: client-0.key beside the cluster file]
    #[arg(id = "client_key", long = "key", global = true, value_name = "FILE", env = "QUORATE_KEY")]
    key: Option<PathBuf>,
}

impl ClusterArguments {
    /// The cluster file as it is written.
    pub(crate) fn text(&self) -> anyhow::Result<String> {
        let path = &self.cluster;
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// The cluster.
    pub(crate) fn config(&self) -> Result<Arc<ClusterConfig>, Failure> {
        if !self.cluster.exists() {
            return Err(Failure::usage(format!(
                "{}: there is no such cluster file; name one with --cluster FILE or QUORATE_CLUSTER=FILE, start a \
                 cluster with `quorate dev --dir quorate-data`, or write one with `quorate init`",
                self.cluster.display()
            )));
        }
        Ok(Arc::new(read_cluster(&self.cluster)?))
    }

    /// The cluster and the client's key, checked to belong together.
    pub(crate) fn read(&self) -> Result<(Arc<ClusterConfig>, SigningKey), Failure> {
        let config = self.config()?;
        let beside = self.cluster.parent().unwrap_or(Path::new(".")).join(client_key_file(0));
        let path = self.key.as_ref().unwrap_or(&beside);
        if !path.exists() {
            return Err(Failure::usage(format!(
                "{}: there is no such key file; name the secret key of a client with --key FILE or QUORATE_KEY=FILE",
                path.display()
            )));
        }
        let key = read_key(path)?;
        let public = key.public();
        if config.client(public.as_bytes()).is_none() {
            return Err(Failure::usage(format!(
                "{}: its public key {} is not among `clients` of {}; {OTHER_CLIENT}",
                path.display(),
                public.to_hex(),
                self.cluster.display()
            )));
        }
        Ok((config, key))
    }
}
