//! Data directories that are not what they should be, with real processes: what is absent, of another version, halted or
//! left by a loss of power is told, and never makes a voter that has forgotten its votes.

use quorate_tests::cluster::{Cluster, Load, binary, wait_for};
use quorate_types::ReplicaId;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A cluster that has done something, and whose last replica was stopped in order.
fn loaded(edit: impl Fn(String) -> String) -> Cluster {
    loaded_with(&[], edit)
}

/// As [`loaded`], made by `init` with more arguments.
fn loaded_with(arguments: &[&str], edit: impl Fn(String) -> String) -> Cluster {
    let mut cluster = Cluster::prepare(4, arguments);
    for replica in 0..4 {
        cluster.edit(replica, &edit);
        cluster.start_replica(replica);
    }
    let load = Load::start(&cluster, 0, ReplicaId(1), 1);
    wait_for("operations flow", || (load.completed() > 20).then_some(()));
    load.stop();
    cluster
}

fn is_learner(cluster: &Cluster, replica: usize) -> bool {
    cluster.report(replica, false)["role"] == "learner"
}

/// Starts a replica again, which then is needed for a quorum, and stops it in order.
fn assert_votes(cluster: &mut Cluster, replica: usize) {
    cluster.start_replica(replica);
    cluster.kill(2);
    cluster.assert_works();
    cluster.start_replica(2);
    assert!(!is_learner(cluster, replica), "{}", cluster.log(replica));
    assert_eq!(cluster.stop(replica), Some(0), "{}", cluster.log(replica));
}

/// All files below a directory with their content.
fn content(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).expect("it is there") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(content(&path));
        } else {
            found.insert(path.clone(), std::fs::read(&path).expect("our own file"));
        }
    }
    // Whoever looks at a directory says who it is.
    found.retain(|path, _| !path.ends_with("lock"));
    found
}

/// Changes both copies of an identity as its writer would.
fn edit_identity(data: &Path, from: &str, to: &str) {
    for name in ["identity", "identity.copy"] {
        let path = data.join(name);
        let text = std::fs::read_to_string(&path).expect("it is formatted");
        let (covered, _) = text.rsplit_once("check = ").expect("it has a checksum");
        assert!(covered.contains(from), "{covered}");
        let covered = covered.replace(from, to);
        let check = crc32c::crc32c(covered.as_bytes());
        std::fs::write(&path, format!("{covered}check = \"{check:08x}\"\n")).expect("our own file");
    }
}

#[test]
fn a_log_that_was_taken_away_is_missed_and_can_be_put_back() {
    let mut cluster = loaded(|text| text);
    assert_eq!(cluster.stop(3), Some(0), "{}", cluster.log(3));
    let (data, aside) = (cluster.file("data-3"), cluster.file("aside"));
    // The whole of it, as a disk that is not mounted.
    let log = data.join("log-0");
    std::fs::rename(&log, &aside).expect("our own directory");
    let before = content(&data);
    for _ in 0..2 {
        let refused = cluster.refused_start(3);
        for part in [
            "/log-0: segment",
            "votes of this replica stand there",
            "mount or put back what was taken away",
            "format --learner",
        ] {
            assert!(refused.contains(part), "{refused}");
        }
    }
    assert!(!log.exists() && content(&data) == before, "nothing is written");
    std::fs::rename(&aside, &log).expect("our own directory");
    assert_votes(&mut cluster, 3);
    // One file of it, whichever: those that hold something, and those that were prepared.
    for path in content(&log).into_keys() {
        std::fs::rename(&path, &aside).expect("our own file");
        let refused = cluster.refused_start(3);
        assert!(
            refused.contains("missing: votes of this replica stand there"),
            "{}: {refused}",
            path.display()
        );
        std::fs::rename(&aside, &path).expect("our own file");
    }
    assert_votes(&mut cluster, 3);
    // What is lost for good makes a learner, on demand, and the rest is kept.
    let first = content(&log).into_keys().next().expect("a segment");
    std::fs::remove_file(first).expect("our own file");
    let _ = cluster.refused_start(3);
    let (code, said) = cluster.command(3, "format", &["--learner"]);
    assert!(code == Some(0) && said.contains("is kept for replica 3, which casts no votes"), "{said}");
    cluster.start_replica(3);
    wait_for("the learner follows", || is_learner(&cluster, 3).then_some(()));
    cluster.assert_works();
    cluster.assert_equal_roots(&[0, 1, 2, 3]);
}

/// The other cores' logs have no votes, but what was acknowledged.
#[test]
fn a_log_of_another_core_that_was_taken_away_is_missed_too() {
    let mut cluster = loaded_with(&["--links", "2"], |text| text.replace("# cores = [0]", "cores = [0, 1]"));
    assert_eq!(cluster.stop(3), Some(0), "{}", cluster.log(3));
    let (data, aside) = (cluster.file("data-3"), cluster.file("aside"));
    let log = data.join("log-1");
    let assert_refuses = |cluster: &mut Cluster| {
        let before = content(&data);
        let refused = cluster.refused_start(3);
        for part in ["/log-1: segment", "batches that this replica has acknowledged", "mount or put back"] {
            assert!(refused.contains(part), "{refused}");
        }
        assert!(content(&data) == before, "nothing is written");
    };
    std::fs::rename(&log, &aside).expect("our own directory");
    assert_refuses(&mut cluster);
    // A place to mount it at.
    std::fs::create_dir(&log).expect("our own directory");
    assert_refuses(&mut cluster);
    std::fs::remove_dir(&log).expect("our own directory");
    std::fs::rename(&aside, &log).expect("our own directory");
    assert_votes(&mut cluster, 3);
}

#[test]
fn a_directory_without_its_replica_or_a_replica_without_its_directory_does_not_start() {
    let mut cluster = Cluster::prepare(4, &[]);
    // It never ran: formatting it once more makes a voter, once.
    cluster.lose_disk(3);
    assert!(cluster.refused_start(3).contains("the data directory does not exist"));
    let (code, said) = cluster.command(3, "format", &[]);
    assert!(code == Some(0) && said.ends_with("is formatted for replica 3\n"), "{said}");
    cluster.lose_disk(3);
    let (code, said) = cluster.command(3, "format", &[]);
    assert!(code == Some(0) && said.contains("casts no votes: its key may have voted before"), "{said}");
    cluster.lose_disk(3);
    std::fs::create_dir(cluster.file("data-3")).expect("our own directory");
    assert!(cluster.refused_start(3).contains("the data directory is empty"));
    // A key that speaks from one directory never does from another.
    cluster.edit(2, |text| text.replace("data_dir = \"data-2\"", "data_dir = \"moved\""));
    let (code, said) = cluster.command(2, "format", &[]);
    assert!(code == Some(0), "{said}");
    cluster.edit(2, |text| text.replace("data_dir = \"moved\"", "data_dir = \"data-2\""));
    let refused = cluster.refused_start(2);
    assert!(refused.contains("the key was taken into use with another one since"), "{refused}");
    // The first start takes the key into use, too.
    assert!(cluster.file("replica-1.key.never-spoken").exists());
    cluster.start_replica(1);
    assert!(!cluster.file("replica-1.key.never-spoken").exists());
}

#[test]
fn what_another_version_has_written_is_left_to_it() {
    let mut cluster = loaded(|text| text);
    assert_eq!(cluster.stop(3), Some(0), "{}", cluster.log(3));
    let data = cluster.file("data-3");
    let whole = content(&data);
    let (segment, bytes) =
        whole.iter().find(|(path, _)| path.to_string_lossy().ends_with(".segment")).expect("a segment");
    // The version in both headers of its first group.
    let mut changed = bytes.clone();
    let length = u32::from_le_bytes(bytes[4096 + 96..4096 + 100].try_into().expect("four bytes"));
    for header in [4096, 4096 + usize::try_from(length).expect("a length") - 512] {
        changed[header + 8] = 9;
        let check = crc32c::crc32c(&changed[header..header + 508]);
        changed[header + 508..header + 512].copy_from_slice(&check.to_le_bytes());
    }
    std::fs::write(segment, changed).expect("our own file");
    let before = content(&data);
    let refused = cluster.refused_start(3);
    for part in ["a group of another version in segment 1 at 4096", "run the version that wrote it"] {
        assert!(refused.contains(part), "{refused}");
    }
    assert_eq!(content(&data), before, "nothing is changed");
    std::fs::write(segment, bytes).expect("our own file");
    edit_identity(&data, "reader = 4", "reader = 5");
    let refused = cluster.refused_start(3);
    assert!(
        refused.contains("programs of format 5 and newer may open, and this version knows 4; run"),
        "{refused}"
    );
    edit_identity(&data, "reader = 5", "reader = 4");
    assert_votes(&mut cluster, 3);
}

#[test]
fn a_replica_that_has_halted_halts_again_until_it_is_told_otherwise() {
    let mut cluster = loaded(|text| text);
    assert_eq!(cluster.stop(3), Some(0), "{}", cluster.log(3));
    edit_identity(&cluster.file("data-3"), "halted = \"\"", "halted = \"two roots after seq 7\"");
    for _ in 0..2 {
        let (code, said) = cluster.command(3, "start", &[]);
        assert_eq!(code, Some(3), "{said}");
        for part in ["two roots after seq 7", "`quorate clear-halt --config FILE`"] {
            assert!(said.contains(part), "{said}");
        }
    }
    // What is sound and halted is not called damaged.
    let data = cluster.file("data-3");
    let inspected = Command::new(binary()).arg("inspect").arg(&data).output().expect("quorate runs");
    let said = String::from_utf8_lossy(&inspected.stdout).into_owned();
    assert_eq!(inspected.status.code(), Some(1), "{said}");
    assert!(said.contains("Refused. No replica starts on it: it has halted"), "{said}");
    assert!(!said.contains("DAMAGED"), "{said}");
    let (code, said) = cluster.command(3, "clear-halt", &[]);
    assert!(code == Some(0) && said.contains("replica 3 may start again; it had halted because"), "{said}");
    assert!(cluster.command(3, "clear-halt", &[]).1.contains("replica 3 has not halted"));
    assert_votes(&mut cluster, 3);
}

#[test]
fn an_asynchronous_replica_remembers_in_which_boot_it_did_not_stop_in_order() {
    let mut cluster = loaded(|text| text.replace("durability = \"sync\"", "durability = \"async\""));
    let data = cluster.file("data-3");
    let unsynced = || {
        let text = std::fs::read_to_string(data.join("identity")).expect("it is formatted");
        let line = text.lines().find_map(|line| line.strip_prefix("unsynced_boot = ")).expect("a field");
        line.trim_matches('"').to_owned()
    };
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("Linux has it");
    assert_eq!(unsynced(), boot.trim(), "while it runs");
    // The end of the process alone costs nothing.
    cluster.kill(3);
    cluster.start_replica(3);
    cluster.assert_works();
    assert!(!is_learner(&cluster, 3), "{}", cluster.log(3));
    assert_eq!(cluster.stop(3), Some(0), "{}", cluster.log(3));
    assert_eq!(unsynced(), "", "a stop in order makes all durable");
    cluster.start_replica(3);
    cluster.kill(3);
    // As if the system had been booted anew.
    edit_identity(&data, boot.trim(), "another-boot");
    cluster.start_replica(3);
    wait_for("the learner follows", || is_learner(&cluster, 3).then_some(()));
    assert!(cluster.log(3).contains("in another boot of the system (another-boot)"), "{}", cluster.log(3));
}
