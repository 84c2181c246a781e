//! `quorate start`: runs one replica in the foreground.

use crate::failure::Failure;
use anyhow::Context;
use clap::Args;
use quorate_daemon::{NodeConfig, NodeFile, Outcome, StartError};
use quorate_reactor::ReactorError;
use quorate_types::{ClusterConfig, LinkId, ReplicaId};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const AFTER_HELP: &str = "\
SIGTERM and SIGINT (Ctrl-C) stop the replica in order. SIGUSR1 has it write its histograms to the directory that \
its configuration names. Once it takes connections it writes one line to standard \
output, and tells systemd (Type=notify). The log goes to standard error.

Examples:
  quorate start --config quorate-data/replica-0.toml
  quorate start --config quorate-data/replica-0.toml --log debug 2> replica-0.log";

/// Run one replica in the foreground until SIGTERM or Ctrl-C.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct StartArguments {
    /// Configuration of the replica, as `quorate init` writes it.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Stop when the process with this ID, which must be the parent, has ended. `quorate dev` and `quorate bench`
    /// start their replicas so.
    #[arg(long, value_name = "PROCESS", hide = true)]
    parent: Option<i32>,
}

pub(crate) fn run(arguments: &StartArguments) -> Result<ExitCode, Failure> {
    if let Some(parent) = arguments.parent {
        end_with(parent)?;
    }
    let config = NodeConfig::read(&arguments.config)?;
    let cluster = config.cluster.clone();
    let replica = config.replica;
    let notifier = Notifier::from_environment(std::env::var_os("NOTIFY_SOCKET"))?;
    let clients = config.client_address();
    let mesh = cluster.members()[replica.index()].mesh;
    let on_ready = || {
        let line = format!("{}{clients} for clients and {mesh} for replicas\n", ready_line(replica));
        // A replica serves its cluster also when nobody reads its output.
        let _ = crate::output::print(line);
        notifier.tell(&format!("READY=1\nSTATUS=Replica {replica} takes clients on {clients}.\n"));
    };
    let outcome = quorate_daemon::run(config, on_ready);
    notifier.tell("STOPPING=1\n");
    match outcome {
        Ok(Outcome::Stopped) => Ok(ExitCode::SUCCESS),
        Ok(Outcome::Halted(reason)) => Err(Failure::Halted(reason)),
        Err(error) => Err(explain(&arguments.config, &cluster, error)),
    }
}

/// How the line begins that says that a replica takes connections.
pub(crate) fn ready_line(replica: ReplicaId) -> String {
    format!("replica {replica} is ready on ")
}

/// Asks the kernel for a SIGTERM when the parent ends.
fn end_with(parent: i32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))
        .context("cannot ask to end with the parent process")?;
    // It may have ended before that.
    anyhow::ensure!(
        getppid() == Pid::from_raw(parent),
        "--parent {parent}: that process is not, or no longer, the parent of this one"
    );
    Ok(())
}

/// What lies in the configuration or the machine is told apart from what went wrong later.
pub(crate) fn explain(path: &Path, cluster: &ClusterConfig, error: StartError) -> Failure {
    match error {
        StartError::Reactor(error @ ReactorError::Enter { .. }) => Failure::Run(error.into()),
        StartError::Reactor(error @ ReactorError::Listen { address, .. }) => {
            let path = cluster_path(path);
            Failure::usage(format!("{}: {}: {error}", path.display(), field(cluster, address)))
        }
        StartError::Reactor(error @ ReactorError::Affinity { .. }) => {
            Failure::usage(format!("{}: cores: {error}", path.display()))
        }
        StartError::Reactor(error) => {
            Failure::usage(format!("{error}; `quorate doctor` checks this machine"))
        }
        StartError::Directory(error) => error.into(),
        error @ (StartError::Recovery { .. } | StartError::KeyInUse { .. }) => Failure::usage(error),
        StartError::Descriptors(error) => Failure::usage(error),
        error @ StartError::Halted { .. } => Failure::Halted(error.to_string()),
        error @ (StartError::Thread(_)
        | StartError::Disk { .. }
        | StartError::Log(_)
        | StartError::Pages(_)) => Failure::Run(error.into()),
    }
}

/// The cluster file that a replica's file names.
fn cluster_path(path: &Path) -> PathBuf {
    let file = std::fs::read_to_string(path).ok().and_then(|text| toml::from_str::<NodeFile>(&text).ok());
    let directory = path.parent().unwrap_or(Path::new("."));
    file.map_or_else(|| path.to_owned(), |file| directory.join(file.cluster))
}

/// The field of the cluster file where an address comes from.
fn field(cluster: &ClusterConfig, address: SocketAddr) -> String {
    let members = cluster.replica_ids().zip(cluster.members());
    for (replica, member) in members {
        if member.client == address {
            return format!("client of replica {replica}");
        }
        let link = cluster.link_ids().find(|link| member.mesh_address(*link) == address);
        if let Some(LinkId(link)) = link {
            return format!("mesh of replica {replica} (link {link})");
        }
    }
    "an address".to_owned()
}

/// Tells a service manager how the service is (sd_notify(3)).
#[derive(Debug)]
struct Notifier(Option<(UnixDatagram, UnixAddress)>);

impl Notifier {
    /// The service manager that `socket` names, or none.
    fn from_environment(socket: Option<OsString>) -> Result<Self, Failure> {
        let Some(name) = socket.filter(|name| !name.is_empty()) else { return Ok(Self(None)) };
        let address = match name.as_bytes() {
            [b'@', abstract_name @ ..] => UnixAddress::from_abstract_name(abstract_name),
            _ => UnixAddress::from_pathname(&name),
        };
        let address = address.map_err(|error| {
            Failure::usage(format!("NOTIFY_SOCKET={}: {error}; unset it", name.to_string_lossy()))
        })?;
        let socket = UnixDatagram::unbound().context("cannot open a socket for NOTIFY_SOCKET")?;
        Ok(Self(Some((socket, address))))
    }

    fn tell(&self, state: &str) {
        if let Some((socket, address)) = &self.0
            && let Err(error) = socket.send_to_addr(state.as_bytes(), address)
        {
            tracing::warn!(%error, "the service manager at NOTIFY_SOCKET does not listen");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_notify_sockets_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = format!("quorate-test-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name =
            UnixDatagram::bind_addr(&UnixAddress::from_abstract_name(name.as_bytes()).unwrap()).unwrap();
        for (socket, variable) in [(by_path, path.into_os_string()), (by_name, format!("@{name}").into())] {
            Notifier::from_environment(Some(variable)).unwrap().tell("READY=1\n");
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"READY=1\n");
        }
        assert!(Notifier::from_environment(None).unwrap().0.is_none());
        assert!(Notifier::from_environment(Some(OsString::new())).unwrap().0.is_none());
    }
}
