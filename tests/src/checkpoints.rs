//! The files of checkpoints, as far as tests damage them and look at them.

use crate::cluster::{Cluster, binary, wait_for};
use crate::recorder::{Acknowledged, Recorder};
use quorate_types::ReplicaId;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

/// Where a block is: the page file, the offset, and the length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The number of the page file.
    pub file: u32,
    /// Where in it.
    pub offset: u32,
    /// How long.
    pub bytes: u32,
}

/// The newest manifest in a folder of checkpoints, as far as these tests need it.
#[derive(Debug)]
pub struct Manifest {
    /// The slot that the checkpoint is after.
    pub seq: u64,
    /// The root node.
    pub root: Place,
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn place(bytes: &[u8], at: usize) -> Place {
    Place { file: number(bytes, at), offset: number(bytes, at + 4), bytes: number(bytes, at + 8) }
}

/// The folder of a replica's checkpoints.
#[must_use]
pub fn pages(cluster: &Cluster, replica: usize) -> PathBuf {
    cluster.file(&format!("data-{replica}")).join("pages")
}

/// The files in it, in order.
///
/// # Panics
/// When files are not as a replica makes them.
#[must_use]
pub fn names(cluster: &Cluster, replica: usize) -> Vec<String> {
    let entries = fs::read_dir(pages(cluster, replica)).expect("a replica makes it");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("ours").file_name().into_string().expect("plain names")).collect();
    names.sort();
    names
}

/// The newest manifest, unless a newer one is just taking its place.
///
/// # Panics
/// When files are not as a replica makes them.
#[must_use]
pub fn newest_manifest(cluster: &Cluster, replica: usize) -> Option<Manifest> {
    let is_one = |name: &&String| name.starts_with("manifest-") && name.len() == "manifest-00000000".len();
    let names = names(cluster, replica);
    // It may be replaced by a newer one meanwhile.
    let bytes = fs::read(pages(cluster, replica).join(names.iter().rfind(is_one)?)).ok()?;
    let seq = u64::from_le_bytes(bytes[29..37].try_into().expect("eight bytes"));
    Some(Manifest { seq, root: place(&bytes, 146) })
}

/// The blocks below an inner node.
///
/// # Panics
/// When files are not as a replica makes them.
#[must_use]
pub fn children(cluster: &Cluster, replica: usize, node: Place) -> Vec<Place> {
    let file = fs::File::open(page_file(cluster, replica, node)).expect("it is there");
    let mut block = vec![0; node.bytes as usize];
    file.read_exact_at(&mut block, u64::from(node.offset)).expect("it is whole");
    assert_eq!(block[4], 2, "it is an inner node");
    let count = usize::from(u16::from_le_bytes([block[6], block[7]]));
    (0..count).map(|index| place(&block, 12 + 12 * index)).collect()
}

/// The page file of a block.
#[must_use]
pub fn page_file(cluster: &Cluster, replica: usize, block: Place) -> PathBuf {
    pages(cluster, replica).join(format!("pages-{:08}", block.file))
}

/// Flips one bit in the middle of a block.
///
/// # Panics
/// When files are not as a replica makes them.
pub fn flip(cluster: &Cluster, replica: usize, block: Place) {
    let path = page_file(cluster, replica, block);
    let file = OpenOptions::new().read(true).write(true).open(path).expect("it is there");
    let at = u64::from(block.offset + block.bytes / 2);
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("it is whole");
    file.write_all_at(&[byte[0] ^ 1], at).expect("the directory is ours");
}

/// The checksums of all files of a replica's data, but for what says who uses it.
///
/// # Panics
/// When files are not as a replica makes them.
#[must_use]
pub fn contents(cluster: &Cluster, replica: usize) -> BTreeMap<PathBuf, u32> {
    let mut directories = vec![cluster.file(&format!("data-{replica}"))];
    let mut found = BTreeMap::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("it is there") {
            let path = entry.expect("ours").path();
            if path.is_dir() {
                directories.push(path);
            } else if !path.ends_with("lock") {
                // What cannot be read is not looked at.
                let sum = fs::read(&path).map_or(0, |bytes| crc32c::crc32c(&bytes));
                found.insert(path, sum);
            }
        }
    }
    found
}

/// Has a backup made into `name`, as whoever copies a state orders until one is certified. Then waits until the newest
/// checkpoint of these replicas is the one that all of them know to be certified, while nothing is ordered.
///
/// # Panics
/// When it never is.
pub fn settle(cluster: &Cluster, replicas: &[usize], name: &str) {
    let copy = cluster.file(name).display().to_string();
    let file = cluster.file("cluster.toml").display().to_string();
    let output = Command::new(binary()).args(["backup", "--cluster", &file, "--to", &copy]).output();
    let output = output.expect("quorate runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    wait_for("the newest checkpoint of all is certified", || {
        let reports = cluster.reports(replicas, false, |_| true);
        let stable = reports[0]["stable"].as_u64()?;
        let is_settled = |(replica, report): (&usize, &serde_json::Value)| {
            let newest = newest_manifest(cluster, *replica).map(|manifest| manifest.seq);
            report["stable"].as_u64() == Some(stable) && newest == Some(stable)
        };
        (stable > 0 && replicas.iter().zip(&reports).all(is_settled)).then_some(())
    });
}

/// A cluster with certified checkpoints, and what was acknowledged in it; nothing is ordered any more.
///
/// # Panics
/// When it does not work.
#[must_use]
pub fn with_checkpoints() -> (Cluster, Vec<Acknowledged>) {
    let cluster = Cluster::start(4);
    let recorders = [Recorder::start(&cluster, 0, ReplicaId(1)), Recorder::start(&cluster, 1, ReplicaId(2))];
    wait_for("a tree with several leaves is written", || {
        recorders.iter().all(|recorder| recorder.completed() >= 40).then_some(())
    });
    let acknowledged = recorders.into_iter().flat_map(Recorder::finish).collect();
    settle(&cluster, &[0, 1, 2, 3], "copy");
    (cluster, acknowledged)
}
