//! The cluster that is loaded: one that runs already, or a local one that the caller starts.

use crate::{Durability, LoadArguments};
use anyhow::{Context, ensure};
use quorate_types::{ClusterConfig, OTHER_CLIENT, ReplicaId, SigningKey};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// What the local cluster must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchRequest {
    /// The number of replicas.
    pub replicas: usize,
    /// The number of client keys.
    pub clients: usize,
    /// What an acknowledgement promises.
    pub durability: Durability,
}

/// Starts a local cluster. It may still be starting when this returns: clients try for a while.
pub type Launch<'a> = &'a dyn Fn(&LaunchRequest) -> anyhow::Result<RunningCluster>;

/// A replica of a local cluster that did not stop in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopProblem {
    /// The replica.
    pub replica: ReplicaId,
    /// What was wrong, with the end of its log.
    pub text: String,
}

type Stop = Box<dyn FnOnce() -> Vec<StopProblem>>;

/// A cluster with the keys to use it. Dropping it stops a local cluster.
pub struct RunningCluster {
    /// The configuration.
    pub config: Arc<ClusterConfig>,
    /// The secret keys of clients; at least one.
    pub client_keys: Vec<SigningKey>,
    /// The processes of a local cluster, by replica.
    pub process_ids: Vec<u32>,
    stop: Option<Stop>,
}

impl fmt::Debug for RunningCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningCluster").field("process_ids", &self.process_ids).finish_non_exhaustive()
    }
}

impl RunningCluster {
    /// A local cluster; `stop` ends its processes, removes what they left and says what went wrong.
    pub fn local(
        config: Arc<ClusterConfig>,
        client_keys: Vec<SigningKey>,
        process_ids: Vec<u32>,
        stop: impl FnOnce() -> Vec<StopProblem> + 'static,
    ) -> Self {
        Self { config, client_keys, process_ids, stop: Some(Box::new(stop)) }
    }

    /// The cluster that the arguments name, or a local one that `launch` starts.
    pub(crate) fn open(arguments: &LoadArguments, launch: Launch<'_>) -> anyhow::Result<Self> {
        let Some(file) = &arguments.cluster else {
            return launch(&LaunchRequest {
                replicas: arguments.replicas,
                clients: arguments.clients,
                durability: arguments.durability,
            })
            .context("cannot start the local cluster");
        };
        let config = ClusterConfig::parse(&read(file)?).with_context(|| file.display().to_string())?;
        let client_keys =
            arguments.key.iter().map(|path| read_key(&config, path)).collect::<Result<_, _>>()?;
        Ok(Self { config: Arc::new(config), client_keys, process_ids: Vec::new(), stop: None })
    }

    /// The key of one client; clients take turns with the keys there are.
    pub(crate) fn key(&self, client: usize) -> &SigningKey {
        &self.client_keys[client % self.client_keys.len()]
    }

    /// Stops a local cluster and says what went wrong.
    pub fn stop(mut self) -> Vec<StopProblem> {
        self.stop.take().map_or_else(Vec::new, |stop| stop())
    }
}

impl Drop for RunningCluster {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // Another error is on its way to the user, or this one was not asked for.
            let _ = stop();
        }
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn read_key(config: &ClusterConfig, path: &Path) -> anyhow::Result<SigningKey> {
    let key = SigningKey::from_hex(&read(path)?).with_context(|| path.display().to_string())?;
    ensure!(
        config.client(key.public().as_bytes()).is_some(),
        "{}: its public key {} is not among `clients` of the cluster file; {OTHER_CLIENT}",
        path.display(),
        key.public().to_hex()
    );
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::tests::parse;
    use quorate_wire::testing::{client_key, config, replica_key};
    use std::cell::Cell;
    use std::rc::Rc;

    fn no_launch(_: &LaunchRequest) -> anyhow::Result<RunningCluster> {
        anyhow::bail!("not asked for")
    }

    #[test]
    fn without_a_cluster_file_one_is_launched_and_stopped_exactly_once() {
        let stopped = Rc::new(Cell::new(0));
        let launch = |request: &LaunchRequest| {
            assert_eq!((request.replicas, request.clients), (7, 3));
            let stopped = Rc::clone(&stopped);
            let stop = move || {
                stopped.set(stopped.get() + 1);
                vec![StopProblem { replica: ReplicaId(2), text: "ended with code 1".to_owned() }]
            };
            Ok(RunningCluster::local(Arc::new(config(7)), vec![client_key()], vec![1], stop))
        };
        let arguments = parse("--replicas 7 --clients 3").unwrap().load;
        drop(RunningCluster::open(&arguments, &launch).unwrap());
        assert_eq!(stopped.get(), 1);
        let problems = RunningCluster::open(&arguments, &launch).unwrap().stop();
        assert_eq!(problems[0].text, "ended with code 1");
        assert_eq!(stopped.get(), 2);
        let error = format!("{:#}", RunningCluster::open(&arguments, &no_launch).unwrap_err());
        assert_eq!(error, "cannot start the local cluster: not asked for");
    }

    #[test]
    fn files_of_a_running_cluster_are_checked_before_anything_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let toml = format!(
            "cluster_id = \"{}\"\nclients = [\"{}\"]\n[[replica]]\nid = 0\nkey = \"{}\"\nmesh = \"127.0.0.1:1\"\n\
             client = \"127.0.0.1:2\"\n",
            "ab".repeat(32),
            client_key().public().to_hex(),
            replica_key(0).public().to_hex()
        );
        let cluster = file("cluster.toml", &toml);
        let known = file("known.key", &format!("{}\n", client_key().to_hex()));
        let unknown = file("unknown.key", &replica_key(9).to_hex());
        let broken = file("broken.key", "12");
        let open = |cluster: &str, key: &str| {
            let arguments = parse(&format!("--cluster {cluster} --key {key}")).unwrap().load;
            RunningCluster::open(&arguments, &no_launch).map_err(|error| format!("{error:#}"))
        };
        let running = open(&cluster, &known).unwrap();
        assert_eq!(running.key(3).public(), client_key().public());
        assert!(running.stop().is_empty());
        assert!(open(&cluster, &unknown).unwrap_err().contains("is not among `clients`"));
        assert!(open(&cluster, &broken).unwrap_err().contains("broken.key: a key is 64 hexadecimal digits"));
        assert!(open("/nonexistent", &known).unwrap_err().contains("cannot read /nonexistent"));
        assert!(open(&broken, &known).unwrap_err().contains("broken.key"));
    }
}
