//! `quorate backup`: copies the state of a running cluster from one of its replicas, which need not be trusted. From the
//! data directories of stopped ones `offline_backup` copies.

use crate::backup_files::check_certificate;
use crate::channel::Channel;
use crate::cluster_arguments::ClusterArguments;
use crate::failure::Failure;
use crate::new_backup::{Bar, Contents, Unfinished};
use crate::offline_backup;
use crate::output;
use anyhow::{Context, anyhow, bail, ensure};
use clap::Args;
use quorate_client::{Client, ClientOptions};
use quorate_state::{BadAnswer, Frozen, PageAnswer, Transfer, TransferOptions};
use quorate_types::{ClusterConfig, Nanoseconds, Operation, ReplicaId, SigningKey, limits};
use quorate_wire::message::{
    CheckpointCertificate, FetchCertificate, FetchPages, FetchedCertificate, FetchedPages, Message,
};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
all keys and values, so it is for its owner alone (mode 0700, files 0600). It contains no secret keys, sessions are copied but not restored, and `quorate restore` makes a \
new cluster from it. The state is in memory while it is copied.

Where a cluster orders nothing any more, as more than f of its replicas are learners or lost, nobody answers, and \
--data-dir makes the backup from the data directories of replicas that were stopped first. It needs no key. It is of the \
newest state that a quorum of the cluster file's replicas has signed and all of whose pages are intact in some directory; \
so name all that there are, those of learners, halted and damaged replicas too, and copies. What was executed after \
that state is NOT in the backup, even if it was acknowledged: the output says what is known of it. A running cluster \
certifies a state after every 2048 headers or 128 MiB of batches, and when it was idle for ten seconds, not when it is stopped. Nothing \
of the directories is changed, and no replica starts on them meanwhile. `quorate restore` makes the new cluster.

Exit codes: 0 written, 1 nothing was written, 2 wrong usage.

Examples:
  quorate backup --to /backups/monday
  quorate backup --to /backups/monday --cluster data/cluster.toml --key data/client-0.key --replica 2
  quorate backup --to /backups/last --cluster data/cluster.toml --data-dir data/data-*";

/// Back up the state of a running cluster, or of one that can order nothing any more.
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
    /// Data directories of replicas that do not run, to copy from instead of a running cluster.
    #[arg(long = "data-dir", value_name = "DIR", num_args = 1.., conflicts_with = "replica")]
    data_dirs: Vec<PathBuf>,
}

pub(crate) fn run(arguments: &BackupArguments) -> Result<ExitCode, Failure> {
    if !arguments.data_dirs.is_empty() {
        return offline_backup::run(&arguments.data_dirs, &arguments.cluster, &arguments.to);
    }
    let (config, key) = arguments.cluster.read()?;
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
    let (certificate, state) = source.fetch(certificate)?;
    let replica = source.replica;
    let (certificate, state, cluster_text) = (&certificate, &state, &*cluster_text);
    let contents = Contents { config: &config, cluster_text, certificate, state, replica };
    let summary = unfinished.write(&contents).with_context(|| source.name())?;
    unfinished.finish(&arguments.to)?;
    output::print(format!(
        "{}, copied from replica {replica} and verified against its certificate\n",
        summary.sentence(&arguments.to)
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
