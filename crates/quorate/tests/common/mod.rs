//! What the tests of the binary share: running it with a deadline, and clusters that end with their test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(dead_code, reason = "each test file uses a part of it")]

use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than anything takes on a machine that is busy with other tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// What a run of the binary has left.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The binary with arguments, without what the environment of the tests may set.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(arguments).stdin(Stdio::null()).env("RUST_BACKTRACE", "0");
    for variable in ["QUORATE_CLUSTER", "QUORATE_KEY", "QUORATE_LOG", "NOTIFY_SOCKET"] {
        command.env_remove(variable);
    }
    command
}

/// Runs the binary to its end.
pub(crate) fn quorate(arguments: &[&str]) -> Outcome {
    run(command(arguments))
}

/// Runs a command to its end.
pub(crate) fn run(command: Command) -> Outcome {
    Running::start(command).finish()
}

/// Waits until `condition` gives something; `what` names it in the panic after the deadline.
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A process that is killed when the test is over.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    /// Files instead of pipes: nobody has to read while it runs, and nothing can block it.
    directory: TempDir,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| File::create(directory.path().join(name)).unwrap();
        let child = command.stdout(file("stdout")).stderr(file("stderr")).spawn().unwrap();
        Self { child, directory }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stdout(&self) -> String {
        read(&self.directory.path().join("stdout"))
    }

    pub(crate) fn stderr(&self) -> String {
        read(&self.directory.path().join("stderr"))
    }

    /// Waits until standard output holds `text`.
    pub(crate) fn wait_for_output(&mut self, text: &str) {
        wait_for(text, || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?} before {text:?}: {}{}", self.stdout(), self.stderr());
            self.stdout().contains(text).then_some(())
        });
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(process(self.id()), signal).unwrap();
    }

    /// Waits for the end.
    pub(crate) fn finish(mut self) -> Outcome {
        let status: ExitStatus = wait_for("the end of a process", || self.child.try_wait().unwrap());
        Outcome { code: status.code(), stdout: self.stdout(), stderr: self.stderr() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn process(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap()).unwrap()
}

/// The children of a process.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    text.split_whitespace().map(|id| id.parse().unwrap()).collect()
}

/// Whether a process runs; one that has ended and was not yet waited for does not.
pub(crate) fn is_running(id: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z') && !line.contains('X'))
}

/// Sends a signal to a process that the test knows to be its own.
pub(crate) fn signal(id: u32, signal: Signal) {
    kill_process(process(id), signal).unwrap();
}

/// The files of a cluster on free ports.
#[derive(Debug)]
pub(crate) struct Files {
    directory: TempDir,
    /// Nobody else takes its ports while a replica is down: see `--free-ports`.
    _guard: TcpListener,
}

impl Files {
    pub(crate) fn new(replicas: usize) -> Self {
        Self::made(&["init"], replicas)
    }

    /// Those that `init` or `restore` makes with these arguments.
    pub(crate) fn made(by: &[&str], replicas: usize) -> Self {
        loop {
            if let Some(files) = Self::try_made(by, replicas) {
                return files;
            }
        }
    }

    /// Nothing where somebody else was quicker to take the ports that were chosen.
    fn try_made(by: &[&str], replicas: usize) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let (path, replicas) = (directory.path().display().to_string(), replicas.to_string());
        let outcome = quorate(&[by, &["--free-ports", "--replicas", &replicas, "--dir", &path]].concat());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let text = std::fs::read_to_string(directory.path().join("cluster.toml")).unwrap();
        let first = text.lines().find_map(|line| line.strip_prefix("client = \"")).unwrap();
        let first: SocketAddr = first.trim_end_matches('"').parse().unwrap();
        let guard = TcpListener::bind((first.ip(), first.port() - 1)).ok()?;
        Some(Self { directory, _guard: guard })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The path as an argument.
    pub(crate) fn argument(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub(crate) fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Replaces `from`, which must be there, in a file.
    pub(crate) fn edit(&self, name: &str, from: &str, to: &str) {
        let text = self.text(name);
        assert!(text.contains(from), "{name} holds no {from:?}");
        std::fs::write(self.path(name), text.replacen(from, to, 1)).unwrap();
    }

    /// The values of all lines `field = "value"` of a file, in order.
    pub(crate) fn values(&self, name: &str, field: &str) -> Vec<String> {
        let start = format!("{field} = \"");
        let text = self.text(name);
        text.lines()
            .filter_map(|line| Some(line.strip_prefix(&start)?.trim_end_matches('"').to_owned()))
            .collect()
    }

    /// Starts one replica.
    pub(crate) fn start(&self, replica: usize) -> Running {
        let mut start = command(&["start", "--config", &self.argument(&format!("replica-{replica}.toml"))]);
        // What it writes where it runs.
        start.current_dir(self.directory.path());
        Running::start(start)
    }

    /// Runs `quorate kv` with these words.
    pub(crate) fn kv(&self, words: &[&str]) -> Outcome {
        let (cluster, seconds) = (self.argument("cluster.toml"), DEADLINE.as_secs().to_string());
        let mut arguments = vec!["kv", "--cluster", &cluster];
        arguments.extend(words);
        // The usual time is for people, on machines that do nothing else.
        if !words.contains(&"--timeout") {
            arguments.extend(["--timeout", &seconds]);
        }
        quorate(&arguments)
    }

    /// Runs `quorate status` with these flags.
    pub(crate) fn status(&self, flags: &[&str]) -> Outcome {
        let cluster = self.argument("cluster.toml");
        let mut arguments = vec!["status", "--cluster", &cluster];
        arguments.extend(flags);
        quorate(&arguments)
    }
}
