//! A cluster of real processes on loopback, for tests.
//!
//! Everything waits for a condition with a deadline. Only processes that were started here are ended.

use quorate_client::{Client, ClientOptions};
use quorate_types::{ClusterConfig, Condition, Operation, ReplicaId, SigningKey};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long anything that should happen may take on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The binary, built if a test is run alone.
///
/// # Panics
/// When it cannot be built.
#[must_use]
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let directory = test.parent().and_then(Path::parent).expect("tests lie in deps/");
    let binary = directory.join("quorate");
    static BUILT: std::sync::Once = std::sync::Once::new();
    BUILT.call_once(|| {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let mut command = Command::new(cargo);
        command.args(["build", "--quiet", "--package", "quorate", "--bin", "quorate"]);
        command.arg("--target-dir").arg(directory.parent().expect("the target directory"));
        if directory.ends_with("release") {
            command.arg("--release");
        }
        assert!(command.status().expect("cargo runs").success(), "cargo build of quorate failed");
    });
    binary
}

/// Waits until `condition` gives something.
///
/// # Panics
/// After [`PATIENCE`], naming `what` was waited for.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < end, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Looks again and again for `time` whether `condition` holds.
///
/// # Panics
/// When it once does not, naming `what` should.
pub fn assert_holds(what: &str, time: Duration, condition: impl Fn() -> bool) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        assert!(condition(), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A cluster of real processes.
#[derive(Debug)]
pub struct Cluster {
    directory: tempfile::TempDir,
    config: Arc<ClusterConfig>,
    replicas: Vec<Option<Child>>,
    /// Nobody else takes its ports while a replica is down: see `--free-ports`.
    _guard: TcpListener,
}

impl Cluster {
    /// Writes the files of a new cluster on free ports and starts nothing yet.
    ///
    /// # Panics
    /// When `quorate init` fails.
    #[must_use]
    pub fn prepare(replicas: usize, arguments: &[&str]) -> Self {
        Self::made_by("init", replicas, arguments)
    }

    /// Writes the files of a new cluster that begins with the keys of a backup, and starts nothing yet.
    ///
    /// # Panics
    /// When `quorate restore` fails.
    #[must_use]
    pub fn restore(backup: &Path, replicas: usize) -> Self {
        Self::made_by("restore", replicas, &["--from", &backup.display().to_string()])
    }

    fn made_by(command: &str, replicas: usize, arguments: &[&str]) -> Self {
        loop {
            if let Some(cluster) = Self::try_made_by(command, replicas, arguments) {
                return cluster;
            }
        }
    }

    /// Nothing where somebody else was quicker to take the ports that were chosen.
    fn try_made_by(command: &str, replicas: usize, arguments: &[&str]) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let output = Command::new(binary())
            .args([command, "--free-ports", "--clients", "4", "--replicas", &replicas.to_string()])
            .arg("--dir")
            .arg(directory.path())
            .args(arguments)
            .output()
            .expect("quorate runs");
        assert!(output.status.success(), "quorate {command}: {}", String::from_utf8_lossy(&output.stderr));
        let text = std::fs::read_to_string(directory.path().join("cluster.toml")).expect("init wrote it");
        let config = Arc::new(ClusterConfig::parse(&text).expect("init writes a valid file"));
        let first: SocketAddr = config.members()[0].client;
        let guard = TcpListener::bind((first.ip(), first.port() - 1)).ok()?;
        Some(Self { directory, config, replicas: (0..replicas).map(|_| None).collect(), _guard: guard })
    }

    /// A running cluster of `replicas` replicas.
    #[must_use]
    pub fn start(replicas: usize) -> Self {
        let mut cluster = Self::prepare(replicas, &[]);
        for replica in 0..replicas {
            cluster.start_replica(replica);
        }
        cluster
    }

    /// Changes `replica-N.toml` before the replica is started.
    ///
    /// # Panics
    /// When the file is not there.
    pub fn edit(&self, replica: usize, edit: impl FnOnce(String) -> String) {
        let path = self.file(&format!("replica-{replica}.toml"));
        let text = std::fs::read_to_string(&path).expect("init wrote it");
        std::fs::write(&path, edit(text)).expect("the directory is ours");
    }

    /// Has a replica that is not running lose its disk.
    ///
    /// # Panics
    /// When it had none.
    pub fn lose_disk(&self, replica: usize) {
        std::fs::remove_dir_all(self.file(&format!("data-{replica}"))).expect("`quorate init` made it");
    }

    /// Runs a subcommand on the configuration of a replica; returns its exit code and all that it says.
    ///
    /// # Panics
    /// When it cannot be run.
    #[must_use]
    pub fn command(&self, replica: usize, name: &str, flags: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(binary());
        command.arg(name).arg("--config").arg(self.file(&format!("replica-{replica}.toml"))).args(flags);
        let output = command.output().expect("quorate runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    }

    /// Starts one replica and waits until it listens.
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn start_replica(&mut self, replica: usize) {
        self.spawn_replica(replica, &mut Command::new(binary()));
    }

    /// As [`Cluster::start_replica`], where so many open files are the usual limit, which a process may raise.
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn start_replica_with_open_files(&mut self, replica: usize, count: u32) {
        self.start_replica_after(replica, &format!("ulimit -Sn {count}"));
    }

    /// As [`Cluster::start_replica`], where no process may raise the limit of open files above that.
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn start_replica_with_at_most_open_files(&mut self, replica: usize, count: u32) {
        self.start_replica_after(replica, &format!("ulimit -n {count}"));
    }

    fn start_replica_after(&mut self, replica: usize, command: &str) {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{command}; exec \"$0\" \"$@\"")]).arg(binary());
        self.spawn_replica(replica, &mut shell);
    }

    fn spawn_replica(&mut self, replica: usize, command: &mut Command) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.file(&format!("log-{replica}.txt")))
            .expect("our directory");
        let mut child = command
            .args(["start", "--config"])
            .arg(self.file(&format!("replica-{replica}.toml")))
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("quorate runs");
        let mut ready = String::new();
        BufReader::new(child.stdout.take().expect("piped"))
            .read_line(&mut ready)
            .expect("its output is text");
        assert!(ready.contains("ready"), "replica {replica} is not ready: {ready} {}", self.log(replica));
        self.replicas[replica] = Some(child);
    }

    /// The checked configuration.
    #[must_use]
    pub fn config(&self) -> &Arc<ClusterConfig> {
        &self.config
    }

    /// A file of the cluster's directory.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What a replica has logged.
    #[must_use]
    pub fn log(&self, replica: usize) -> String {
        std::fs::read_to_string(self.file(&format!("log-{replica}.txt"))).unwrap_or_default()
    }

    fn key(&self, name: &str) -> SigningKey {
        let text = std::fs::read_to_string(self.file(name)).expect("init wrote it");
        SigningKey::from_hex(&text).expect("init writes valid keys")
    }

    /// The secret key of a client.
    #[must_use]
    pub fn client_key(&self, client: usize) -> SigningKey {
        self.key(&format!("client-{client}.key"))
    }

    /// The secret key of a replica.
    #[must_use]
    pub fn replica_key(&self, replica: usize) -> SigningKey {
        self.key(&format!("replica-{replica}.key"))
    }

    /// Where a replica takes clients.
    #[must_use]
    pub fn client_address(&self, replica: usize) -> SocketAddr {
        self.config.members()[replica].client
    }

    /// Where a replica takes other replicas.
    #[must_use]
    pub fn mesh_address(&self, replica: usize) -> SocketAddr {
        self.config.members()[replica].mesh
    }

    /// The process of a replica that was started here.
    ///
    /// # Panics
    /// When the replica is not running.
    #[must_use]
    pub fn process(&self, replica: usize) -> rustix::process::Pid {
        rustix::process::Pid::from_child(self.replicas[replica].as_ref().expect("the replica was started"))
    }

    /// What a replica has counted under this name.
    ///
    /// # Panics
    /// When it does not answer, or counts nothing of that name.
    #[must_use]
    pub fn counter(&self, replica: usize, name: &str) -> u64 {
        self.report(replica, false)["counters"][name].as_u64().expect("a counter")
    }

    /// What a replica has in memory.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn resident_bytes(&self, replica: usize) -> u64 {
        let path = format!("/proc/{}/statm", self.process(replica).as_raw_nonzero());
        let text = std::fs::read_to_string(path).expect("our own child runs");
        let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
        pages * rustix::param::page_size() as u64
    }

    /// Sends a signal to a replica that was started here.
    ///
    /// # Panics
    /// When the replica is not running.
    pub fn signal(&self, replica: usize, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.process(replica), signal).expect("our own child");
    }

    /// Waits for a replica that ends by itself and returns its exit code.
    ///
    /// # Panics
    /// When the replica is not running or does not end.
    pub fn wait_for_end(&mut self, replica: usize) -> Option<i32> {
        let mut child = self.replicas[replica].take().expect("the replica was started");
        wait_for("a replica ends", || child.try_wait().expect("our own child")).code()
    }

    /// Starts a replica that does not start, and returns what it says.
    ///
    /// # Panics
    /// When it starts.
    #[must_use]
    pub fn refused_start(&self, replica: usize) -> String {
        let (code, said) = self.command(replica, "start", &[]);
        assert_eq!(code, Some(2), "{said}");
        assert!(!said.contains("is ready"), "{said}");
        said
    }

    /// Kills a replica.
    ///
    /// # Panics
    /// When the replica is not running.
    pub fn kill(&mut self, replica: usize) {
        let mut child = self.replicas[replica].take().expect("the replica was started");
        child.kill().expect("our own child");
        child.wait().expect("our own child");
    }

    /// Stops a replica in order and returns its exit code.
    ///
    /// # Panics
    /// When the replica is not running or does not end.
    pub fn stop(&mut self, replica: usize) -> Option<i32> {
        self.signal(replica, rustix::process::Signal::TERM);
        self.wait_for_end(replica)
    }

    /// Whether a replica's process is running.
    ///
    /// # Panics
    /// Never for own children.
    pub fn is_running(&mut self, replica: usize) -> bool {
        self.replicas[replica]
            .as_mut()
            .is_some_and(|child| child.try_wait().expect("our own child").is_none())
    }

    /// The exit code of `quorate status`, and what it says.
    ///
    /// # Panics
    /// When it cannot be run.
    #[must_use]
    pub fn status(&self) -> (Option<i32>, String) {
        let mut command = Command::new(binary());
        command.arg("status").arg("--cluster").arg(self.file("cluster.toml"));
        let output = command.output().expect("quorate runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The report of a replica.
    #[must_use]
    pub fn report(&self, replica: usize, root: bool) -> serde_json::Value {
        self.reports(&[replica], root, |_| true).remove(0)
    }

    /// The reports of some replicas, asked again until they are `good`; one session serves all questions, as
    /// opening one is an ordered operation itself.
    ///
    /// # Panics
    /// When a replica does not answer, or the reports never are good.
    #[must_use]
    pub fn reports(
        &self,
        replicas: &[usize],
        root: bool,
        good: impl Fn(&[serde_json::Value]) -> bool,
    ) -> Vec<serde_json::Value> {
        let (config, key) = (Arc::clone(&self.config), self.client_key(3));
        let ids: Vec<ReplicaId> = replicas
            .iter()
            .map(|replica| ReplicaId(u8::try_from(*replica).expect("a small number")))
            .collect();
        tokio_uring::start(async move {
            let options =
                ClientOptions { home: ids[0], connect_deadline: PATIENCE, ..ClientOptions::default() };
            let client = Client::connect(config, key, options).await.expect("a quorum is connected");
            let end = Instant::now() + PATIENCE;
            loop {
                let mut reports: Vec<serde_json::Value> = Vec::new();
                for id in &ids {
                    // A replica that has just come back may still be without its connection.
                    if let Ok(text) = client.report(*id, root).await {
                        reports.push(serde_json::from_str(&text).expect("a report is JSON"));
                    }
                }
                if reports.len() == ids.len() && good(&reports) {
                    client.close().await;
                    return reports;
                }
                assert!(Instant::now() < end, "waited {PATIENCE:?} in vain for good reports: {reports:?}");
                std::thread::sleep(Duration::from_millis(20));
            }
        })
    }

    /// How often a replica has rejected something, by label.
    #[must_use]
    pub fn rejects(&self, replica: usize) -> BTreeMap<String, u64> {
        serde_json::from_value(self.report(replica, false)["rejects"].clone()).expect("a map of numbers")
    }

    /// Waits until all of `replicas` have executed the same and compares their roots.
    ///
    /// # Panics
    /// When they do not come together, or their roots differ.
    pub fn assert_equal_roots(&self, replicas: &[usize]) {
        let same_seq = |reports: &[serde_json::Value]| {
            reports.windows(2).all(|pair| pair[0]["root_seq"] == pair[1]["root_seq"])
        };
        let reports = self.reports(replicas, true, same_seq);
        for report in &reports {
            assert_eq!(report["root"], reports[0]["root"], "roots differ after {}", report["root_seq"]);
            assert!(report["root"].is_string(), "a root was asked for");
        }
    }

    /// Writes one key through an ordinary client and reads it back.
    ///
    /// # Panics
    /// When the cluster does not do it.
    pub fn assert_works(&self) {
        let load = Load::start(self, 1, ReplicaId(1), 1);
        let before = load.completed();
        wait_for("the cluster executes operations", || (load.completed() >= before + 3).then_some(()));
        load.stop();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.replicas.iter_mut().flatten() {
            // A stopped process cannot be killed in order, and nothing is worth keeping.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A client in a thread of its own that writes until it is stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    completed: Arc<AtomicU64>,
    thread: JoinHandle<u64>,
}

impl Load {
    /// Starts a client of number `client` at home `home` that writes bundles of `bundle` operations.
    ///
    /// # Panics
    /// When it cannot connect.
    #[must_use]
    pub fn start(cluster: &Cluster, client: usize, home: ReplicaId, bundle: usize) -> Self {
        let (stop, completed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (config, key) = (Arc::clone(cluster.config()), cluster.client_key(client));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&completed));
        let body = move || {
            tokio_uring::start(async move {
                let options = ClientOptions { home, answer_deadline: PATIENCE, ..ClientOptions::default() };
                let client = Client::connect(config, key, options).await.expect("a quorum is connected");
                let mut number = 0u64;
                while !stopped.load(Ordering::Relaxed) {
                    let operations = (0..bundle).map(|_| next_set(&mut number)).collect::<Vec<_>>();
                    client.execute(&operations).await.expect("the bundle completes");
                    count.fetch_add(1, Ordering::Relaxed);
                }
                client.close().await;
                count.load(Ordering::Relaxed)
            })
        };
        Self { stop, completed, thread: std::thread::spawn(body) }
    }

    /// The bundles that are complete.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.completed.load(Ordering::Relaxed)
    }

    /// Stops it; returns the number of completed bundles.
    ///
    /// # Panics
    /// When a bundle failed.
    #[must_use]
    pub fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("every bundle completed")
    }

    /// Stops it.
    ///
    /// # Panics
    /// When a bundle failed.
    pub fn stop(self) {
        let _ = self.finish();
    }
}

fn next_set(number: &mut u64) -> Operation {
    *number += 1;
    let key = format!("key:{:012}", *number % 10_000).into_bytes();
    Operation::Set { key, value: vec![b'v'; 100], condition: Condition::Always }
}
