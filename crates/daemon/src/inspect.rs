//! Looking at a data directory without changing anything: what is in it, whether it is sound, and what a replica that
//! starts on it would do.
//!
//! Nothing is locked and nothing is written. While a replica runs on the directory, what it is writing may look torn.
//! All records of a log are in memory while it is looked at, and so is each checkpoint while it is verified. What a start
//! would do, and what it would go on from, is judged by the code that a start uses (`evidence.rs`, `page_folder.rs`).

use crate::data_directory::{self, DirectoryError, Look};
use crate::evidence::{Evidence, Verdict, boot_id};
use crate::identity::{Identity, Role};
use crate::page_folder::{self, FolderError, PageFolder, verify_checkpoint};
use crate::recover::check_beginning;
use crate::segment_files::{self, LogRead, Reading, Unreadable};
use quorate_journal::{
    CONSENSUS_JOURNAL, Damage, Fate, Record, RecordKind, Scan, SegmentHeader, SegmentSummary,
};
use quorate_replica::Found;
use quorate_state::{LoadFigures, Manifest, StoreOptions};
use quorate_types::{ClusterConfig, CoreId, Digest, ReplicaId, Seq};
use quorate_wire::Statement;
use quorate_wire::message::{CheckpointCertificate, Prepare};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is in a data directory.
#[derive(Debug)]
pub struct Inspection {
    path: PathBuf,
    look: Look,
    logs: Vec<LogFound>,
    /// What a start would do; nothing where something of the directory cannot be read.
    verdict: Option<Verdict>,
    checkpoints: Vec<CheckpointFound>,
    /// What a start would go on from; nothing where none would go on.
    beginning: Option<Result<Beginning, FolderError>>,
    /// Why the checkpoints could not be listed.
    unlisted: Option<FolderError>,
    /// Whether every record is told.
    records: bool,
    /// What the signatures in certificates are worth; nothing without the cluster's keys.
    proofs: Option<Proofs>,
}

/// What the signatures in the certificates of the logs are worth.
#[derive(Debug, Default)]
struct Proofs {
    genuine: usize,
    /// Records whose signatures do not prove what they say.
    unproven: Vec<String>,
}

#[derive(Debug)]
struct LogFound {
    core: CoreId,
    path: PathBuf,
    scan: Result<Scan, DirectoryError>,
    unreadable: Vec<Unreadable>,
}

#[derive(Debug)]
struct CheckpointFound {
    number: u64,
    verified: Result<(Manifest, LoadFigures), FolderError>,
}

/// The checkpoint that a start goes on from.
#[derive(Clone, Copy, Debug)]
enum Beginning {
    Whole(Seq),
    /// Its pages cannot all be read.
    Broken(Seq),
    Nothing,
}

/// Looks at the data directory at `path`; with `records`, every record of its logs is told, and with the `cluster`'s
/// configuration, the signatures in certificates are verified.
///
/// # Errors
/// When the directory itself cannot be read. What is wrong with its content is part of what is found.
pub fn inspect(
    path: &Path,
    records: bool,
    cluster: Option<&ClusterConfig>,
) -> Result<Inspection, DirectoryError> {
    let look = data_directory::look(path)?;
    let mut logs = Vec::new();
    if let Ok(identity) = &look.identity {
        for (core, path) in &look.logs {
            let reading = Reading { sync: false, batches: true };
            let (scan, unreadable) = match segment_files::read_log(path, identity.log(*core), reading) {
                Ok(LogRead { scan, unreadable }) => (Ok(scan), unreadable),
                Err(error) => (Err(error), Vec::new()),
            };
            logs.push(LogFound { core: *core, path: path.clone(), scan, unreadable });
        }
    }
    let mut folder = PageFolder::for_reading(&look.pages);
    let (mut checkpoints, mut unlisted) = (Vec::new(), None);
    match folder.list() {
        Ok(listing) => {
            for number in listing.manifests {
                let verified = verify_checkpoint(&mut folder, number);
                checkpoints.push(CheckpointFound { number, verified });
            }
        }
        Err(error) if look.identity.is_ok() => unlisted = Some(error),
        Err(_) => {}
    }
    let mut verdict = judge(path, &look, &logs, &folder)?;
    let beginning = begin(cluster, &mut verdict, &logs, &mut folder);
    let path = path.to_owned();
    let mut found =
        Inspection { path, look, logs, verdict, checkpoints, beginning, unlisted, records, proofs: None };
    found.proofs = cluster.map(|config| Proofs::of(config, found.records()));
    Ok(found)
}

/// What a start would do. What cannot be read or listed is told already.
fn judge(
    path: &Path,
    look: &Look,
    logs: &[LogFound],
    folder: &PageFolder,
) -> Result<Option<Verdict>, DirectoryError> {
    let logs = logs.iter().map(|log| Some((log.core, &*log.path, log.scan.as_ref().ok()?)));
    let (Ok(identity), Some(logs)) = (&look.identity, logs.collect::<Option<Vec<_>>>()) else {
        return Ok(None);
    };
    let Ok(pages) = folder.survey() else { return Ok(None) };
    let (boot, has_spoken) = (boot_id()?, data_directory::has_spoken(path)?);
    Ok(Some(Evidence::new(identity, &boot, has_spoken, logs, pages).judge()))
}

/// What a start would go on from, found by what a start uses; nothing where that is refused. Whether it is what the
/// `cluster` began with, its configuration tells.
fn begin(
    cluster: Option<&ClusterConfig>,
    verdict: &mut Option<Verdict>,
    logs: &[LogFound],
    folder: &mut PageFolder,
) -> Option<Result<Beginning, FolderError>> {
    let learner = match verdict.as_ref()? {
        Verdict::Refuse(_) => return None,
        Verdict::Learn(reason) => Some(reason.clone()),
        Verdict::Vote => None,
    };
    // Only a cluster that began with the state of a backup has one of before the first slot.
    let has_first = || folder.survey().is_ok_and(|survey| survey.oldest == Some(Seq(0)));
    let is_restored = cluster.map_or_else(has_first, |cluster| cluster.genesis_root().is_some());
    let mut found = Found { learner, is_restored, ..Found::default() };
    for scan in logs.iter().filter_map(|log| log.scan.as_ref().ok()) {
        let of_consensus = scan.records.iter().filter(|(journal, ..)| *journal == CONSENSUS_JOURNAL);
        found.records.extend(of_consensus.cloned());
        found.ends.extend(&scan.last);
    }
    let restored = match page_folder::find(folder, StoreOptions::default(), found.known()) {
        Ok(pages) => pages.restored,
        Err(error) => return Some(Err(error)),
    };
    let beginning = match (&restored.whole, &restored.broken) {
        (Some((manifest, _)), _) => Beginning::Whole(manifest.head.seq),
        (None, Some(manifest)) => Beginning::Broken(manifest.head.seq),
        (None, None) => Beginning::Nothing,
    };
    found.take(restored);
    if let Some(cluster) = cluster
        && let Err(problem) = check_beginning(cluster, &found)
    {
        *verdict = Some(Verdict::Refuse(problem));
        return None;
    }
    Some(Ok(beginning))
}

impl Proofs {
    fn of<'a>(config: &ClusterConfig, records: impl Iterator<Item = &'a Record>) -> Self {
        let quorum = config.quorums().quorum;
        let mut proofs = Self::default();
        for record in records {
            let signers = match record {
                Record::Checkpoint(certificate) => certificate.signers(config),
                Record::Prepared { view, position, votes } => {
                    let names = |vote: &Prepare| {
                        let index =
                            position.seq.0.checked_sub(vote.lo.0).and_then(|at| usize::try_from(at).ok());
                        index.and_then(|index| vote.digests.get(index)) == Some(&position.digest)
                    };
                    let is_genuine =
                        |signer: ReplicaId, vote: &Prepare| {
                            Statement::prepare(config, vote.view, vote.lo, &vote.digests)
                                .is_signed_by_replica(config, signer, &vote.signature)
                        };
                    let genuine = votes.iter().filter(|(signer, vote)| {
                        vote.view == *view && names(vote) && is_genuine(*signer, vote)
                    });
                    genuine.map(|(signer, _)| *signer).collect::<BTreeSet<_>>().len()
                }
                _ => continue,
            };
            if signers >= quorum {
                proofs.genuine += 1;
            } else {
                proofs.unproven.push(format!(
                    "{record}: {signers} replicas of the cluster have signed it, and a quorum is {quorum}"
                ));
            }
        }
        proofs
    }
}

impl Inspection {
    /// Whether nothing is damaged, and a replica starts on it.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        !self.is_refused() && self.damages().is_empty()
    }

    fn is_refused(&self) -> bool {
        matches!(self.verdict, Some(Verdict::Refuse(_)))
    }

    /// Everything that is damaged, a line each. A torn tail is none: it is what a crash leaves. Nor is what makes a start
    /// refuse and can be put back or cleared.
    #[must_use]
    pub fn damages(&self) -> Vec<String> {
        let mut found = Vec::new();
        match &self.look.identity {
            Err(reason) => found.push(format!("the directory does not tell whose it is: {reason}")),
            Ok(_) => {
                found.extend(self.look.bad_copies.iter().map(|name| format!("{name} is missing or damaged")));
            }
        }
        if let Some(name) = &self.look.foreign {
            found.push(format!("{name:?} is no part of a replica's data"));
        }
        for log in &self.logs {
            let path = log.path.display();
            let scan = match &log.scan {
                Ok(scan) => scan,
                Err(error) => {
                    found.push(error.to_string());
                    continue;
                }
            };
            found.extend(log.unreadable.iter().map(ToString::to_string));
            if !matches!(scan.damage, Damage::None | Damage::TornTail(_)) {
                found.push(format!("{path}: {}", scan.damage));
            }
            let repaired = repaired_after_it_was_durable(scan);
            if repaired > 0 {
                found.push(format!("{path}: {repaired} groups have one bad copy; the other one serves"));
            }
            if scan.misdirected > 0 {
                found.push(format!("{path}: {} groups stand at a wrong place", scan.misdirected));
            }
        }
        found.extend(self.proofs.iter().flat_map(|proofs| proofs.unproven.iter().cloned()));
        found.extend(self.unlisted.iter().map(ToString::to_string));
        let errors = self.checkpoints.iter().filter_map(|checkpoint| checkpoint.verified.as_ref().err());
        found.extend(errors.map(ToString::to_string));
        found
    }

    /// What a replica that starts on the directory would do, a sentence each.
    #[must_use]
    pub fn verdict(&self) -> Vec<String> {
        if let Err(reason) = &self.look.identity {
            return vec![format!("No replica starts on it: {reason}.")];
        }
        if let Some(name) = &self.look.foreign {
            return vec![format!("No replica starts on it, because of {name:?}.")];
        }
        let mut found = vec![self.votes()];
        if self.verdict.is_none() || self.is_refused() {
            return found;
        }
        for (log, scan) in self.scans() {
            let core = log.core;
            if let Some(torn) = &scan.torn {
                found.push(format!(
                    "It drops the torn tail of the log of core {core}, of which nobody was told that it is durable: \
                     {} groups from segment {} offset {} on.",
                    torn.groups, torn.segment, torn.offset
                ));
            }
            let lost: u64 = scan.lost.iter().map(|lost| lost.last.0 - lost.first.0 + 1).sum();
            if lost > 0 && !self.is_learner() {
                found
                    .push(format!("It fetches {lost} batches of core {core} from other replicas as needed."));
            }
        }
        found.push(self.state());
        found
    }

    fn scans(&self) -> impl Iterator<Item = (&LogFound, &Scan)> {
        self.logs.iter().filter_map(|log| Some((log, log.scan.as_ref().ok()?)))
    }

    fn votes(&self) -> String {
        match &self.verdict {
            None => "No replica starts on it, as it cannot be read.".to_owned(),
            Some(Verdict::Refuse(reason)) => format!("No replica starts on it: {reason}."),
            Some(Verdict::Learn(reason)) => {
                format!("A replica that starts on it goes on as a learner, because {reason}.")
            }
            Some(Verdict::Vote) => "A replica that starts on it goes on and votes.".to_owned(),
        }
    }

    fn is_learner(&self) -> bool {
        matches!(self.verdict, Some(Verdict::Learn(_)))
    }

    fn state(&self) -> String {
        let stable = self.newest_certificate().map_or(0, |certificate| certificate.position.seq.0);
        match &self.beginning {
            Some(Ok(Beginning::Whole(seq))) if seq.0 > stable => {
                format!("It begins with the state after seq {seq}, which no certificate in its logs proves.")
            }
            Some(Ok(Beginning::Whole(seq))) if seq.0 == stable => {
                format!("It begins with the state after seq {seq}.")
            }
            Some(Ok(Beginning::Whole(seq))) => format!(
                "It begins with the state after seq {seq}, and takes that after seq {stable} from other replicas if they \
                 do not keep what is between."
            ),
            Some(Ok(Beginning::Broken(seq))) => format!(
                "It stands after seq {seq}, serves the pages that are intact, and executes nothing before it has the \
                 others from other replicas."
            ),
            Some(Err(error)) => format!("But it does not start before this can be read: {error}."),
            _ if stable == 0 => "It begins with the empty state.".to_owned(),
            _ => format!(
                "It has no checkpoint that is whole, and takes the state after seq {stable}, or a later one, from other \
                 replicas."
            ),
        }
    }

    fn records(&self) -> impl Iterator<Item = &Record> {
        self.scans().flat_map(|(_, scan)| scan.records.iter().map(|(_, _, record)| record))
    }

    fn certificates(&self) -> impl Iterator<Item = &Arc<CheckpointCertificate>> {
        self.records().filter_map(|record| match record {
            Record::Checkpoint(certificate) => Some(certificate),
            _ => None,
        })
    }

    fn newest_certificate(&self) -> Option<&Arc<CheckpointCertificate>> {
        self.certificates().max_by_key(|certificate| certificate.position.seq)
    }

    fn write_identity(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.path.display())?;
        if let Some(holder) = &self.look.holder {
            writeln!(f, "  in use by {holder}: what it is writing now may look torn")?;
        }
        match &self.look.identity {
            Err(reason) => writeln!(f, "  whose it is cannot be told: {reason}"),
            Ok(identity) => {
                let Identity { cluster_id, configuration, replica, role, halted, .. } = identity;
                writeln!(f, "  replica {replica} of cluster {}", Digest(*cluster_id).to_hex())?;
                writeln!(f, "  configuration {configuration}")?;
                match role {
                    Role::Founding => writeln!(f, "  role: it has all its votes since the cluster began"),
                    Role::Learner { reason } => writeln!(f, "  role: learner, because {reason}"),
                }?;
                halted.iter().try_for_each(|reason| writeln!(f, "  halted, because {reason}"))
            }
        }
    }

    fn write_log(&self, f: &mut fmt::Formatter<'_>, log: &LogFound) -> fmt::Result {
        writeln!(f, "log of core {}: {}", log.core, log.path.display())?;
        let scan = match &log.scan {
            Ok(scan) => scan,
            Err(error) => return writeln!(f, "  {error}"),
        };
        if self.records {
            return scan.describe().to_string().lines().try_for_each(|line| writeln!(f, "  {line}"));
        }
        for segment in &scan.segments {
            writeln!(f, "  {}", Summary { scan, segment })?;
        }
        for (journal, last) in &scan.last {
            writeln!(f, "  journal {journal}: last {last}, trimmed up to {}", scan.trimmed(*journal))?;
        }
        writeln!(f, "  groups up to {}, durable up to {} for sure", scan.last_group, scan.watermark)?;
        scan.lost.iter().try_for_each(|lost| writeln!(f, "  lost: {lost}"))?;
        scan.torn_batches.iter().try_for_each(|torn| writeln!(f, "  not written whole: {torn}"))?;
        scan.torn.iter().try_for_each(|torn| writeln!(f, "  dropped: {torn}"))?;
        if scan.repaired > 0 {
            writeln!(f, "  groups with one bad copy, of which the other serves: {}", scan.repaired)?;
        }
        writeln!(f, "  damage: {}", scan.damage)
    }

    /// The records of which a replica must not forget the highest.
    fn write_highest(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let highest = |kind: RecordKind| {
            let of_kind = self.records().filter(move |record| record.kind() == kind);
            of_kind.max_by_key(|record| rank(record))
        };
        let kinds = RecordKind::ALL.into_iter().filter(|kind| kind.is_critical());
        let mut found = kinds.filter_map(highest).peekable();
        if found.peek().is_some() {
            writeln!(f, "the highest of each kind of record that must not be forgotten:")?;
        }
        found.try_for_each(|record| writeln!(f, "  {record}"))
    }

    fn write_checkpoint(&self, f: &mut fmt::Formatter<'_>, found: &CheckpointFound) -> fmt::Result {
        let (manifest, figures) = match &found.verified {
            Ok(verified) => verified,
            Err(error) => return writeln!(f, "checkpoint {:08}: {error}", found.number),
        };
        let what = if manifest.complete { "whole" } else { "partly received" };
        let (seq, root) = (manifest.head.seq, manifest.root);
        writeln!(f, "checkpoint {:08}: {what}, after seq {seq}, root {root}", found.number)?;
        let (files, bytes, live) = (manifest.files.len(), manifest.bytes(), manifest.live_bytes());
        writeln!(f, "  page files {files}, bytes {bytes}, of which at most {live} live")?;
        let (blocks, read) = (figures.blocks, figures.block_bytes);
        writeln!(f, "  every block was read and fits the root: blocks {blocks}, bytes {read}")?;
        if !manifest.complete {
            return Ok(());
        }
        let same = |certificate: &&Arc<CheckpointCertificate>| certificate.position.seq == seq;
        match self.certificates().find(same) {
            Some(certificate) if certificate.root == root => {
                writeln!(f, "  certified by {} replicas", certificate.signatures.len())
            }
            Some(certificate) => {
                writeln!(f, "  the log has a certificate of ANOTHER root, {}", certificate.root)
            }
            None => writeln!(f, "  its certificate is not in the log"),
        }
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_identity(f)?;
        self.logs.iter().try_for_each(|log| self.write_log(f, log))?;
        self.write_highest(f)?;
        self.checkpoints.iter().try_for_each(|found| self.write_checkpoint(f, found))?;
        if self.checkpoints.is_empty() {
            writeln!(f, "no checkpoints")?;
        }
        match &self.proofs {
            Some(proofs) => {
                let Proofs { genuine, unproven } = proofs;
                let all = genuine + unproven.len();
                writeln!(f, "certificates in the logs: {all}, signed by a quorum: {genuine}")?;
            }
            None => {
                writeln!(f, "signatures in certificates were not verified: the cluster file has the keys")?
            }
        }
        let damages = self.damages();
        damages.iter().try_for_each(|damage| writeln!(f, "DAMAGED: {damage}"))?;
        let verdict = self.verdict().join(" ");
        let state = match damages.is_empty() {
            true if self.is_refused() => "Refused.",
            true => "Sound.",
            false => "Damaged.",
        };
        writeln!(f, "{state} {verdict}")
    }
}

/// What orders records of one kind.
fn rank(record: &Record) -> (u64, u64) {
    match record {
        Record::Batch(..) => (0, 0),
        Record::Accept { view, header, .. } => (view.0, header.seq.0),
        Record::Prepared { view, position, .. } => (view.0, position.seq.0),
        Record::Checkpoint(certificate) => (certificate.position.seq.0, 0),
        Record::ViewState { view } | Record::EnterView { view, .. } => (view.0, 0),
        Record::Promised { view, voted, .. } => (view.0, voted.map_or(0, |voted| voted.seq.0)),
    }
}

/// The number of groups of which one copy went bad after all of them was durable; before that, a crash may have cut
/// the second copy off.
fn repaired_after_it_was_durable(scan: &Scan) -> usize {
    let counts = |fate: Fate| matches!(fate, Fate::Kept | Fate::Damaged);
    let bad = scan.groups.iter().filter(|group| group.repaired && counts(group.fate));
    bad.filter(|group| group.number <= scan.watermark).count()
}

/// A segment in a line, and what is in it by kind.
struct Summary<'a> {
    scan: &'a Scan,
    segment: &'a SegmentSummary,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.segment)?;
        if self.segment.header != SegmentHeader::Own && self.segment.groups == 0 {
            return Ok(());
        }
        let groups = || self.scan.groups.iter().filter(|group| group.segment == self.segment.number);
        let fates = [
            (Fate::Damaged, "damaged"),
            (Fate::Trimmed, "not needed"),
            (Fate::Torn, "torn"),
            (Fate::Abandoned, "abandoned"),
        ];
        for (fate, name) in fates {
            let count = groups().filter(|group| group.fate == fate).count();
            if count > 0 {
                write!(f, ", {name} {count}")?;
            }
        }
        let mut kinds: BTreeMap<RecordKind, (u64, u64)> = BTreeMap::new();
        for record in groups().flat_map(|group| &group.records) {
            let (count, bytes) = kinds.entry(record.kind).or_default();
            *count += 1;
            *bytes += u64::from(record.bytes);
        }
        for (kind, (count, bytes)) in kinds {
            write!(f, ", {kind} {count} of {bytes} bytes")?;
        }
        Ok(())
    }
}
