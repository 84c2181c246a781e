//! Bad disks with real processes: lost, cut and flipped files, and what each costs.

use quorate_tests::cluster::{Cluster, assert_holds, wait_for};
use quorate_tests::recorder::{Recorder, assert_all_there};
use quorate_types::ReplicaId;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A loaded cluster whose last replica was stopped in order; what was acknowledged so far is recorded.
fn loaded() -> (Cluster, Recorder) {
    let mut cluster = Cluster::start(4);
    let recorder = Recorder::start(&cluster, 0, ReplicaId(1));
    wait_for("the load runs", || (recorder.completed() > 40).then_some(()));
    assert_eq!(cluster.stop(3), Some(0), "{}", cluster.log(3));
    (cluster, recorder)
}

/// All acknowledged writes are there, and all replicas have the same state.
fn finish(cluster: &Cluster, recorder: Recorder, replicas: &[usize]) {
    let completed = recorder.completed();
    wait_for("operations flow", || (recorder.completed() > completed + 20).then_some(()));
    let acknowledged = recorder.finish();
    assert_all_there(cluster, 2, &acknowledged);
    cluster.assert_equal_roots(replicas);
}

fn is_learner(cluster: &Cluster, replica: usize) -> bool {
    cluster.report(replica, false)["role"] == "learner"
}

/// It casts no votes, and lacks nothing that the others have.
fn follows(cluster: &Cluster, replica: usize) -> Option<()> {
    let report = cluster.report(replica, false);
    let kind = report["activity"]["kind"].as_str().expect("an enumeration");
    (report["role"] == "learner" && !kind.starts_with("fetching") && !kind.starts_with("awaiting"))
        .then_some(())
}

/// The files below `directory` with `part` in their name, the largest name last.
fn files(directory: &Path, part: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("the replica made it");
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    found.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(part)));
    found.sort();
    found
}

/// Flips a bit in every `step`-th byte of a part of a file that holds something.
fn damage(path: &Path, step: usize) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).expect("our own file");
    let bytes = std::fs::read(path).expect("our own file");
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
    for at in (step..used).step_by(step) {
        file.write_all_at(&[bytes[at] ^ 0x10], at as u64).expect("our own file");
    }
}

#[test]
fn a_replica_that_lost_its_disk_comes_back_as_a_learner_and_casts_no_votes() {
    let (mut cluster, recorder) = loaded();
    cluster.lose_disk(3);
    let refused = cluster.refused_start(3);
    assert!(refused.contains("data-3: the data directory does not exist; mount the disk"), "{refused}");
    assert!(!cluster.file("data-3").exists(), "nothing is made in its place");
    // Its key has voted: without its votes it is no voter, asked for or not.
    let (code, said) = cluster.command(3, "format", &[]);
    assert!(code == Some(0) && said.contains("casts no votes: its key may have voted before"), "{said}");
    cluster.start_replica(3);
    assert!(cluster.log(3).contains("learner"), "{}", cluster.log(3));
    wait_for("the learner follows", || follows(&cluster, 3));
    finish(&cluster, recorder, &[0, 1, 2, 3]);
    // It counts among the faulty ones: with another one down, nothing is committed.
    cluster.kill(2);
    let recorder = Recorder::start(&cluster, 1, ReplicaId(0));
    assert_holds("two of four must not commit", Duration::from_secs(2), || recorder.completed() == 0);
    cluster.start_replica(2);
    wait_for("operations flow again", || (recorder.completed() > 5).then_some(()));
    let _ = recorder.finish();
    cluster.assert_equal_roots(&[0, 1, 2, 3]);
}

#[test]
fn a_log_that_is_damaged_all_over_makes_a_learner_that_follows() {
    let (mut cluster, recorder) = loaded();
    for segment in files(&cluster.file("data-3/log-0"), "segment") {
        damage(&segment, 700);
    }
    cluster.start_replica(3);
    wait_for("the learner follows", || follows(&cluster, 3));
    finish(&cluster, recorder, &[0, 1, 2, 3]);
    // It stays one.
    assert_eq!(cluster.stop(3), Some(0), "{}", cluster.log(3));
    cluster.start_replica(3);
    wait_for("it is a learner still", || is_learner(&cluster, 3).then_some(()));
}

#[test]
fn one_flipped_bit_in_a_log_costs_neither_the_vote_nor_data() {
    let (mut cluster, recorder) = loaded();
    let segments = files(&cluster.file("data-3/log-0"), "segment");
    let segment = segments.first().expect("a segment");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(segment).expect("our own file");
    let mut byte = [0];
    // Inside the records of one of the first groups.
    file.read_exact_at(&mut byte, 9000).expect("a segment is longer");
    file.write_all_at(&[byte[0] ^ 1], 9000).expect("our own file");
    cluster.start_replica(3);
    finish(&cluster, recorder, &[0, 1, 2, 3]);
    assert!(!is_learner(&cluster, 3), "{}", cluster.log(3));
}

#[test]
fn damaged_checkpoints_are_replaced_by_what_the_others_have() {
    let (mut cluster, recorder) = loaded();
    for directory in ["data-3/pages", "data-3/checkpoints"] {
        for path in files(&cluster.file(directory), "") {
            damage(&path, 100);
        }
    }
    cluster.start_replica(3);
    finish(&cluster, recorder, &[0, 1, 2, 3]);
}
