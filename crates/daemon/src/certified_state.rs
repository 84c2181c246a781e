//! The newest certified state in the data directories of replicas that do not run: the way out where nothing is ordered
//! any more, as too many replicas cast no votes (DESIGN section 5).
//!
//! Certificates come from the logs, read as a start reads them, and pages from whichever directory has them intact.
//! Nothing is believed of either but what a quorum has signed and bytes with the digest that is asked for, so no directory
//! need be whole, and no replica a voter or trusted. What is there and cannot be read, for rights, limits or its version,
//! is no damage: nobody goes on without it. Nothing is changed, and no replica starts on a directory meanwhile.

use crate::data_directory::{self, DirectoryError};
use crate::evidence::FIRST_CORE;
use crate::identity::{Copies, Identity};
use crate::page_folder::{FolderError, PageFolder, load_checkpoint};
use crate::segment_files::{self, LogRead, Reading};
use quorate_journal::{Damage, Record};
use quorate_state::{Address, Frozen, Manifest, NotWhole, Salvage};
use quorate_types::{ClusterConfig, Digest, ReplicaId, Seq};
use quorate_wire::message::CheckpointCertificate;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// So many places or pages are named in one sentence.
const NAMED_MAX: usize = 8;

/// Why there is none.
#[derive(Debug, Error)]
pub enum NoCertifiedState {
    /// A directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// It is not what it should be.
    #[error("{}: {problem}", path.display())]
    NoData {
        /// The directory.
        path: PathBuf,
        /// What it is instead, and the remedy.
        problem: String,
    },
    /// Something is there and cannot be read.
    #[error(
        "{0}; it is not damaged: see to the rights, limits and mounts of this directory, or to the version of this program"
    )]
    Refused(#[from] FolderError),
    /// The directories do not hold one.
    #[error("{0}")]
    None(String),
}

/// What the directories hold.
#[derive(Debug)]
pub struct CertifiedState {
    /// What proves it: a quorum of the cluster has signed it.
    pub certificate: Arc<CheckpointCertificate>,
    /// The state, every page checked against the root that is signed.
    pub state: Frozen,
    /// The replica in whose log the certificate was found.
    pub replica: ReplicaId,
    /// What is damaged or missing in the directories, a sentence each.
    pub remarks: Vec<String>,
    /// Which newer states are certified and could not be had, and why, a sentence each.
    pub newer: Vec<String>,
    /// What is known to lie beyond it, a sentence.
    pub beyond: String,
}

impl CertifiedState {
    /// The newest state that a quorum of the cluster has signed and all of whose pages are intact in some of these data
    /// directories. Blocks while it reads; holds the state in memory, and where no directory has all of it, the pages of
    /// all of them.
    ///
    /// # Errors
    /// When a directory is in use, of others or refused, and when there is no such state; names what is missing.
    pub fn find(paths: &[PathBuf], cluster: &ClusterConfig) -> Result<Self, NoCertifiedState> {
        let mut remarks = Vec::new();
        let directories = paths.iter().map(|path| Directory::open(path, cluster, &mut remarks));
        let mut directories = directories.collect::<Result<Vec<_>, _>>()?;
        let certified = certified(&directories, cluster, &mut remarks);
        let highest = certified.first().map(|(certificate, _)| certificate.position.seq);
        let (mut pages, mut newer) = (None, Vec::new());
        for (certificate, replica) in certified {
            let whole =
                directories.iter_mut().find_map(|directory| directory.load(&certificate, &mut remarks));
            let state = match whole {
                Some(state) => state?,
                None => {
                    let pages = match &pages {
                        Some(pages) => Arc::clone(pages),
                        None => pages.insert(gather(&mut directories, &mut remarks)?).clone(),
                    };
                    match pages.assemble(certificate.root) {
                        Ok(state) => state,
                        Err(problem) => {
                            newer.push(not_whole(&certificate, &problem));
                            continue;
                        }
                    }
                }
            };
            let beyond = beyond(&directories, certificate.position.seq, highest);
            return Ok(Self { certificate, state, replica, remarks, newer, beyond });
        }
        remarks.append(&mut newer);
        Err(NoCertifiedState::None(none(cluster, &remarks)))
    }
}

/// A data directory, and what its log and its manifests say.
#[derive(Debug)]
struct Directory {
    /// No replica starts on it as long as this is open.
    _lock: Option<File>,
    folder: PageFolder,
    /// Of whole states.
    manifests: Vec<Manifest>,
    /// Whose log it is, and its records; nothing where the directory does not tell whose it is.
    log: Option<(ReplicaId, Vec<Record>)>,
}

impl Directory {
    fn open(
        path: &Path,
        cluster: &ClusterConfig,
        remarks: &mut Vec<String>,
    ) -> Result<Self, NoCertifiedState> {
        let lock = data_directory::hold(path)?;
        let copies = Copies::read(path)?;
        if let Some(problem) = copies.other_format() {
            return Err(NoCertifiedState::NoData { path: path.to_owned(), problem });
        }
        let look = data_directory::look(path)?;
        let log = match &copies.identity {
            Some(identity) => {
                identity.check(path, cluster, identity.replica)?;
                Some((identity.replica, read_log(path, identity, remarks)?))
            }
            None if look.pages.is_dir() => {
                let why = copies.why_none();
                remarks.push(format!(
                    "{}: its identity is {why}, so its log cannot be read; its pages are used",
                    path.display()
                ));
                None
            }
            None => {
                let problem =
                    "it is no data directory of a replica; name what replica-N.toml has in data_dir"
                        .to_owned();
                return Err(NoCertifiedState::NoData { path: path.to_owned(), problem });
            }
        };
        let folder = PageFolder::for_reading(&look.pages);
        let manifests = read_manifests(&folder, remarks)?;
        Ok(Self { _lock: lock, folder, manifests, log })
    }

    /// The state of a certificate, if there is a checkpoint of it that is whole.
    fn load(
        &mut self,
        certificate: &CheckpointCertificate,
        remarks: &mut Vec<String>,
    ) -> Option<Result<Frozen, FolderError>> {
        for manifest in self.manifests.iter().filter(|manifest| manifest.root == certificate.root) {
            match load_checkpoint(&mut self.folder, manifest) {
                Err(error) if error.is_damage() => remarks.push(error.to_string()),
                loaded => return Some(loaded),
            }
        }
        None
    }

    fn certificates(&self) -> impl Iterator<Item = (&Arc<CheckpointCertificate>, ReplicaId)> {
        let records =
            self.log.iter().flat_map(|(replica, records)| records.iter().map(|record| (record, *replica)));
        records.filter_map(|(record, replica)| match record {
            Record::Checkpoint(certificate) => Some((certificate, replica)),
            _ => None,
        })
    }
}

/// The records of the log of votes.
fn read_log(
    path: &Path,
    identity: &Identity,
    remarks: &mut Vec<String>,
) -> Result<Vec<Record>, NoCertifiedState> {
    let path = data_directory::log_path(path, FIRST_CORE);
    let reading = Reading { sync: false, batches: false };
    let LogRead { scan, unreadable } = segment_files::read_log(&path, identity.log(FIRST_CORE), reading)?;
    remarks.extend(unreadable.iter().map(ToString::to_string));
    let named = path.display();
    match &scan.damage {
        Damage::Unknown { what } => {
            let problem =
                format!("another version has written what this one does not know: {what}; use that version");
            return Err(NoCertifiedState::NoData { path, problem });
        }
        damage @ Damage::LostVotes { .. } => remarks.push(format!("{named}: {damage}")),
        Damage::None | Damage::TornTail(_) | Damage::LostBatches(_) => {}
    }
    remarks.extend(scan.absent.iter().map(|absent| format!("{named}: {absent}")));
    let records: Vec<Record> = scan.records.into_iter().map(|(_, _, record)| record).collect();
    if !records.iter().any(|record| matches!(record, Record::Checkpoint(_))) {
        remarks.push(format!("{named}: no certificate of a state can be read in it"));
    }
    Ok(records)
}

fn read_manifests(folder: &PageFolder, remarks: &mut Vec<String>) -> Result<Vec<Manifest>, FolderError> {
    let mut manifests = Vec::new();
    for number in folder.list()?.manifests {
        match folder.read_manifest(number) {
            Ok(manifest) => manifests.push(manifest),
            Err(error) if error.is_damage() => remarks.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    manifests.retain(|manifest| manifest.complete);
    Ok(manifests)
}

/// The certificates that a quorum of the cluster has signed, the newest first, each with the replica in whose log it is.
fn certified(
    directories: &[Directory],
    cluster: &ClusterConfig,
    remarks: &mut Vec<String>,
) -> Vec<(Arc<CheckpointCertificate>, ReplicaId)> {
    let quorum = cluster.quorums().quorum;
    let mut found: BTreeMap<(Seq, Digest), (Arc<CheckpointCertificate>, ReplicaId)> = BTreeMap::new();
    for (certificate, replica) in directories.iter().flat_map(Directory::certificates) {
        let signers = certificate.signers(cluster);
        let (seq, root) = (certificate.position.seq, certificate.root);
        if signers >= quorum {
            found.entry((seq, root)).or_insert_with(|| (Arc::clone(certificate), replica));
        } else {
            remarks.push(format!(
                "the log of replica {replica} has a certificate of the state after seq {seq} that {signers} replicas of the \
                 cluster have signed, and a quorum is {quorum}: it is not used"
            ));
        }
    }
    found.into_values().rev().collect()
}

/// All pages that are intact in any of the directories.
fn gather(directories: &mut [Directory], remarks: &mut Vec<String>) -> Result<Arc<Salvage>, FolderError> {
    let mut pages = Salvage::default();
    for Directory { folder, manifests, .. } in directories {
        let found = folder.salvage(manifests)?;
        let places: Vec<Address> = found.damaged().copied().collect();
        let name =
            |place: &Address| format!("{} at byte {}", folder.page_file(place.file).display(), place.offset);
        if !places.is_empty() {
            remarks.push(format!("damaged blocks: {}", some(places.iter().map(name))));
        }
        pages.add(found);
    }
    Ok(Arc::new(pages))
}

/// The first few of many, in words.
fn some(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(NAMED_MAX);
    let mut named: Vec<String> = names.take(NAMED_MAX).collect();
    if more > 0 {
        named.push(format!("and {more} more"));
    }
    named.join(", ")
}

/// Why a certified state cannot be had from the directories.
fn not_whole(certificate: &CheckpointCertificate, problem: &NotWhole) -> String {
    let seq = certificate.position.seq;
    match problem {
        NotWhole::Lacks(pages) if pages.is_empty() => {
            format!("the state after seq {seq} is certified, and none of its pages is in these directories")
        }
        NotWhole::Lacks(pages) => format!(
            "the state after seq {seq} is certified, and {} of its pages, with what may be below them, are intact in none \
             of these directories: {}",
            pages.len(),
            some(pages.iter().map(Digest::short))
        ),
        NotWhole::Contradicts(fault) => {
            format!(
                "the state after seq {seq} is certified and contradicts itself: {fault}; keep these directories"
            )
        }
    }
}

/// Why there is nothing to be had at all, with the remedy.
fn none(cluster: &ClusterConfig, remarks: &[String]) -> String {
    let mut text = "no certified state can be had from these directories".to_owned();
    remarks.iter().for_each(|remark| text += &format!("\n  {remark}"));
    text += "\nName the directories of all replicas, and copies of damaged ones if there are some.";
    text += match cluster.genesis_root() {
        Some(_) => {
            " If the cluster has certified none since it was restored, the backup that it was restored from is the newest."
        }
        None => {
            " If the cluster has certified none since it began, what it did stands in the logs alone, and only a quorum of \
             voters can execute it."
        }
    };
    text
}

/// What the logs know beyond a slot; `certified` is the highest after which a state is certified.
fn beyond(directories: &[Directory], seq: Seq, certified: Option<Seq>) -> String {
    let records =
        || directories.iter().filter_map(|directory| directory.log.as_ref()).flat_map(|(_, records)| records);
    let accepted = records().filter_map(|record| match record {
        Record::Accept { header, .. } => Some(header.seq),
        Record::Promised { voted, .. } => voted.map(|voted| voted.seq),
        _ => None,
    });
    let prepared = records().filter_map(|record| match record {
        Record::Prepared { position, .. } => Some(position.seq),
        _ => None,
    });
    let highest = |seqs: &mut dyn Iterator<Item = Seq>| seqs.max().filter(|highest| *highest > seq);
    let (accepted, prepared) = (highest(&mut accepted.into_iter()), highest(&mut prepared.into_iter()));
    if let Some(certified) = certified.filter(|certified| *certified > seq) {
        let named = accepted.max(prepared).filter(|named| *named > certified);
        let more = named.map(|named| format!("; and the logs name headers up to seq {named}"));
        return format!(
            "NOT in it is what came after: a quorum has signed the state after seq {certified}, so what was done up to there is \
             committed, and may have been acknowledged{}.",
            more.unwrap_or_default()
        );
    }
    match (accepted, prepared) {
        (None, None) => "The logs that were read name no header beyond it.".to_owned(),
        (Some(accepted), None) => format!(
            "The logs name headers up to seq {accepted} beyond it; as far as they tell, no quorum has voted for these, so \
             nothing of them was acknowledged."
        ),
        (accepted, Some(prepared)) => format!(
            "NOT in it is what came after: the logs name headers up to seq {}, and a quorum has voted for those up to seq \
             {prepared}, and what those did may have been acknowledged.",
            accepted.max(Some(prepared)).unwrap_or_default()
        ),
    }
}
