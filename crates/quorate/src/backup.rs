//! `quorate backup`: copies the state of a running cluster from one of its replicas, which need not be trusted.

use crate::backup_files::{
    CERTIFICATE, CLUSTER, Origin, PAGES, SUMMARY, Summary, check_certificate, check_state,
};
use crate::channel::Channel;
use crate::cluster_arguments::ClusterArguments;
use crate::failure::Failure;
use crate::interrupt::on_signal;
use crate::output;
use anyhow::{Context, anyhow, bail, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use quorate_client::{Client, ClientOptions};
use quorate_daemon::page_folder::{PageFolder, write_checkpoint};
use quorate_daemon::sync_directory;
use quorate_state::{BadAnswer, CheckpointHead, Frozen, PageAnswer, State, Transfer, TransferOptions};
use quorate_types::{ClusterConfig, Nanoseconds, Operation, ReplicaId, SessionLimits, SigningKey, limits};
use quorate_wire::message::{
    CheckpointCertificate, FetchCertificate, FetchPages, FetchedCertificate, FetchedPages, Message,
};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a replica may take for one answer, and may have nothing new to give.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait before a replica that had nothing is asked again.
const PAUSE: Duration = Duration::from_millis(100);
/// The reads that are on their way at a time while a checkpoint is waited for.
const READS_OPEN: usize = 4;
/// After so many reads the replica is asked whether the checkpoint has passed.
const READS_PER_QUESTION: u64 = 64;
/// A checkpoint that a replica does not have after so many headers, it does not make.
const HEADERS_MAX: u64 = 3 * limits::CHECKPOINT_INTERVAL;
/// The key that is read while a checkpoint is waited for. Whether it exists makes no difference.
const READ_KEY: &[u8] = b"quorate backup";

const AFTER_HELP: &str = "\
The backup holds everything that was acknowledged to any client before the command began. It is the state at a \
checkpoint that a quorum has signed, so the replica that it is copied from need not be trusted: every page is checked \
against the root that was signed. If there is no such checkpoint yet, small reads are ordered until one passes, which \
takes some seconds on an idle cluster. The cluster goes on working.

Written are the pages of the state, the certificate with the signatures, a copy of the cluster file, and backup.toml, \
which says what the backup is of. The directory appears when all of it is durable, and not before. Who reads it reads \
all keys and values. It contains no secret keys, sessions are copied but not restored, and `quorate restore` makes a \
new cluster from it. The state is in memory while it is copied.

Examples:
  quorate backup --to /backups/monday
  quorate backup --to /backups/monday --cluster data/cluster.toml --key data/client-0.key --replica 2";

/// Back up the state of a running cluster.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct BackupArguments {
    /// Directory for the backup. It must not exist.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    #[command(flatten)]
    cluster: ClusterArguments,
    /// The replica to copy from. [default: the first that answers]
    #[arg(long, value_name = "REPLICA")]
    replica: Option<u8>,
}

pub(crate) fn run(arguments: &BackupArguments) -> Result<ExitCode, Failure> {
    let (config, key) = arguments.cluster.read()?;
    if arguments.to.exists() {
        let path = arguments.to.display();
        return Err(Failure::usage(format!("{path}: it exists and is not overwritten; name another --to")));
    }
    if let Some(replica) = arguments.replica
        && config.member(ReplicaId(replica)).is_none()
    {
        let last = config.members().len() - 1;
        return Err(Failure::usage(format!("--replica {replica}: the cluster has replicas 0 to {last}")));
    }
    let cluster_text = arguments.cluster.text()?;
    let unfinished = Unfinished::begin(&arguments.to)?;
    let mut source = Source::open(&config, &key, arguments.replica.map(ReplicaId))?;
    let certificate = wait_for_checkpoint(&config, &key, &mut source)?;
    let (certificate, frozen) = source.fetch(certificate)?;
    let state = State::from_frozen(&frozen, SessionLimits::default());
    check_state(&state, &certificate).with_context(|| source.name())?;
    let summary = unfinished.write(&config, &cluster_text, &source, &certificate, &state, &frozen)?;
    unfinished.finish(&arguments.to)?;
    output::print(format!(
        "{}: the state after seq {}, {} keys, root {}, copied from replica {} and verified against its certificate\n",
        arguments.to.display(),
        summary.seq,
        summary.user_keys,
        summary.root,
        summary.replica
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// The replica that is copied from.
struct Source {
    config: Arc<ClusterConfig>,
    replica: ReplicaId,
    channel: Channel,
    questions: u64,
}

impl Source {
    fn open(
        config: &Arc<ClusterConfig>,
        key: &SigningKey,
        replica: Option<ReplicaId>,
    ) -> anyhow::Result<Self> {
        let candidates = replica.map_or_else(|| config.replica_ids().collect(), |replica| vec![replica]);
        let mut states = String::new();
        for replica in candidates {
            match Channel::open(config, key, replica, Instant::now() + PATIENCE) {
                Ok(channel) => {
                    return Ok(Self { config: Arc::clone(config), replica, channel, questions: 0 });
                }
                Err(error) => {
                    let address = config.members()[replica.index()].client;
                    states += &format!("\n  replica {replica} at {address}: {error}");
                }
            }
        }
        bail!("no replica can be copied from:{states}")
    }

    fn name(&self) -> String {
        format!("replica {}", self.replica)
    }

    fn failed(&self, error: &str) -> anyhow::Error {
        anyhow!("{}: {error}; name another one with --replica", self.name())
    }

    /// The certificate of the newest state that the replica can give, if it has one; a quorum has signed it.
    fn certificate(&mut self) -> anyhow::Result<Option<CheckpointCertificate>> {
        self.questions += 1;
        let question = FetchCertificate { request: self.questions }.encode();
        let answer: Result<FetchedCertificate, _> = self.channel.ask(&question, Instant::now() + PATIENCE);
        let certificate = answer.map_err(|error| self.failed(&error))?.certificate;
        if let Some(certificate) = &certificate {
            let genuine = check_certificate(&self.config, certificate);
            genuine.with_context(|| format!("{} gave a certificate that proves nothing", self.name()))?;
        }
        Ok(certificate)
    }

    /// Copies the state of a certificate, or of a newer one if the replica lets go of it meanwhile.
    fn fetch(
        &mut self,
        mut certificate: CheckpointCertificate,
    ) -> anyhow::Result<(CheckpointCertificate, Frozen)> {
        let started = Instant::now();
        let now = || Nanoseconds(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
        let pause = Nanoseconds::from_millis(100);
        let options = TransferOptions { requests_per_peer: 1, pause, ..TransferOptions::default() };
        let mut walk = Transfer::new(certificate.root, options);
        let mut useful = Instant::now();
        let bar = Bar::start("{prefix} {spinner} {bytes} received, {bytes_per_sec}", "copying the state");
        while !walk.is_finished() {
            let Some(request) = walk.request(now(), self.replica) else {
                ensure!(
                    useful.elapsed() < PATIENCE,
                    self.failed("it has no more of the state that it certified")
                );
                match self.certificate()? {
                    Some(newer) if newer.position.seq > certificate.position.seq => {
                        walk.retarget(newer.root);
                        certificate = newer;
                    }
                    _ => std::thread::sleep(PAUSE),
                }
                continue;
            };
            let question = FetchPages { request: request.number, root: request.root, wanted: request.wanted };
            let answer = self.channel.ask(&question.encode(), Instant::now() + PATIENCE);
            let FetchedPages { request: number, root, top, pages, values } =
                answer.map_err(|error| self.failed(&error))?;
            let had_top = top.is_some();
            let answer = PageAnswer { number, root, top, pages, values };
            let received = walk.on_answer(now(), self.replica, &answer);
            let received = received.map_err(|bad: BadAnswer| self.failed(&bad.to_string()))?;
            if received.pages > 0 || had_top {
                useful = Instant::now();
            }
            bar.show(walk.figures().bytes);
        }
        let frozen = walk.finish().map_err(|fault| {
            anyhow!(
                "the state that a quorum has certified contradicts itself: {fault}; keep the replicas' logs"
            )
        })?;
        Ok((certificate, frozen))
    }
}

/// A certificate of a state that holds everything that was acknowledged before.
fn wait_for_checkpoint(
    config: &Arc<ClusterConfig>,
    key: &SigningKey,
    source: &mut Source,
) -> anyhow::Result<CheckpointCertificate> {
    let runtime = tokio_uring::Runtime::new(&tokio_uring::builder())
        .context("io_uring cannot be used; `quorate doctor` says why")?;
    runtime.block_on(async {
        let options = ClientOptions { home: source.replica, ..ClientOptions::default() };
        let client = Client::connect(Arc::clone(config), key.clone(), options).await?;
        let found = order_until_checkpoint(&client, source).await;
        client.close().await;
        found
    })
}

async fn order_until_checkpoint(
    client: &Client,
    source: &mut Source,
) -> anyhow::Result<CheckpointCertificate> {
    let read = vec![Operation::Get { key: READ_KEY.to_vec() }];
    // What f + 1 replicas say about a read that is ordered now: all that was acknowledged comes before it.
    let (floor, _) = client.execute(&read).await?;
    let bar = Bar::start("{prefix} {spinner} {pos} headers ordered", "waiting for a checkpoint");
    let (mut pending, mut reads, mut late) = (VecDeque::new(), 0u64, None);
    let mut seq = floor;
    loop {
        if reads.is_multiple_of(READS_PER_QUESTION) {
            let certificate = source.certificate()?;
            if let Some(certificate) = certificate.filter(|found| found.position.seq >= floor) {
                return Ok(certificate);
            }
            if seq.since(floor) > HEADERS_MAX {
                let since: &mut Instant = late.get_or_insert_with(Instant::now);
                let problem = format!("it has no certified checkpoint after seq {floor}");
                ensure!(since.elapsed() < PATIENCE, source.failed(&problem));
            }
        }
        while pending.len() < READS_OPEN && client.can_submit() {
            pending.push_back(client.submit(&read)?);
        }
        if let Some(first) = pending.pop_front() {
            let answer = tokio::time::timeout(PATIENCE, first).await;
            seq = answer.context("the cluster orders nothing; `quorate status` says why")??.seq;
        }
        reads += 1;
        bar.show(seq.since(floor));
    }
}

/// A backup that is being written. It is removed unless it is finished.
struct Unfinished {
    directory: tempfile::TempDir,
    parent: PathBuf,
}

impl Unfinished {
    fn begin(to: &Path) -> anyhow::Result<Self> {
        let parent = match to.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        std::fs::create_dir_all(&parent).with_context(|| format!("cannot create {}", parent.display()))?;
        let directory = tempfile::Builder::new().prefix(".quorate-backup-").tempdir_in(&parent);
        let directory =
            directory.with_context(|| format!("cannot make a directory in {}", parent.display()))?;
        let path = directory.path().to_owned();
        on_signal(move || {
            let _ = std::fs::remove_dir_all(&path);
            std::process::exit(1);
        })?;
        Ok(Self { directory, parent })
    }

    fn write(
        &self,
        config: &ClusterConfig,
        cluster_text: &str,
        source: &Source,
        certificate: &CheckpointCertificate,
        state: &State,
        frozen: &Frozen,
    ) -> anyhow::Result<Summary> {
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
        let origin = Origin { created_unix_s: created.as_secs(), replica: source.replica.0 };
        let summary = Summary::new(origin, config, cluster_text, certificate, state, &manifest);
        write_file(&path.join(CERTIFICATE), frame.bytes())?;
        write_file(&path.join(CLUSTER), cluster_text.as_bytes())?;
        write_file(&path.join(SUMMARY), summary.text().as_bytes())?;
        sync_directory(path)?;
        Ok(summary)
    }

    /// Gives it its name.
    fn finish(self, to: &Path) -> anyhow::Result<()> {
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
        let mut file = File::create_new(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// What is shown on a terminal while something goes on.
struct Bar(Option<ProgressBar>);

impl Bar {
    fn start(template: &str, name: &'static str) -> Self {
        Self(std::io::stderr().is_terminal().then(|| {
            let style =
                ProgressStyle::with_template(template).expect("invariant: the templates here are valid");
            ProgressBar::new_spinner().with_style(style).with_prefix(name)
        }))
    }

    fn show(&self, position: u64) {
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
