//! A cluster that can order nothing any more, as more than f of its replicas are learners, and the new one that is made of
//! what the data directories of its stopped replicas hold. Real processes, real files.

use quorate_tests::checkpoints::{
    Manifest, children, contents, flip, newest_manifest, page_file, settle, with_checkpoints,
};
use quorate_tests::cluster::{Cluster, binary, wait_for};
use quorate_tests::recorder::{Recorder, assert_all_there};
use quorate_types::ReplicaId;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Makes a backup from data directories; the exit code, and all that was said.
fn back_up(cluster_file: &Path, data: &[PathBuf], to: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(binary());
    command.arg("backup").arg("--cluster").arg(cluster_file).arg("--to").arg(to).arg("--data-dir").args(data);
    let output = command.output().expect("quorate runs");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.code(), said)
}

fn data(cluster: &Cluster, replicas: &[usize]) -> Vec<PathBuf> {
    replicas.iter().map(|replica| cluster.file(&format!("data-{replica}"))).collect()
}

/// Nothing of the log of the votes can be read any more.
fn damage_votes(cluster: &Cluster, replica: usize) {
    for entry in fs::read_dir(cluster.file(&format!("data-{replica}/log-0"))).expect("it is there") {
        let path = entry.expect("ours").path();
        let file = fs::OpenOptions::new().write(true).open(&path).expect("the directory is ours");
        let length = file.metadata().expect("it is there").len();
        file.write_all_at(&vec![7; usize::try_from(length).expect("a segment") - 4096], 4096).expect("ours");
    }
}

#[test]
fn a_cluster_of_learners_becomes_a_new_one_with_all_that_was_certified() {
    let (mut cluster, acknowledged) = with_checkpoints();
    let Manifest { seq, .. } = newest_manifest(&cluster, 0).expect("there is one");
    // What comes after the last checkpoint is certified by nobody.
    let recorder = Recorder::start(&cluster, 2, ReplicaId(1));
    wait_for("it is written to", || (recorder.completed() >= 3).then_some(()));
    let after = recorder.finish();
    (0..4).for_each(|replica| cluster.kill(replica));
    for replica in 0..4 {
        let (code, said) = cluster.command(replica, "format", &["--learner"]);
        assert_eq!(code, Some(0), "{said}");
        cluster.start_replica(replica);
    }
    let said = wait_for("all are known to be learners", || {
        let (code, said) = cluster.status();
        assert_eq!(code, Some(1), "{said}");
        said.starts_with("No progress: 4 of 4 replicas are learners").then_some(said)
    });
    assert!(said.contains("quorate backup --data-dir"), "{said}");
    let (file, to) = (cluster.file("cluster.toml"), cluster.file("last"));
    let all = data(&cluster, &[0, 1, 2, 3]);
    let (code, said) = back_up(&file, &all, &to);
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("data-0: in use by replica 0, process") && said.contains("without --data-dir"),
        "{said}"
    );
    (0..4).for_each(|replica| cluster.kill(replica));

    let other = Cluster::prepare(4, &[]);
    let refused = [
        (other.file("cluster.toml"), all.clone(), "this is the data of a replica of the cluster"),
        (file.clone(), vec![cluster.file("data-4")], "there is no such directory"),
        (file.clone(), vec![cluster.file("")], "it is no data directory of a replica"),
        (file.clone(), vec![cluster.file("copy")], "that is a backup already"),
    ];
    for (file, data, part) in refused {
        let (code, said) = back_up(&file, &data, &to);
        assert!(code == Some(2) && said.contains(part), "{code:?} {said}");
    }
    let (code, said) = back_up(&file, &all, &all[1].join("last"));
    assert!(code == Some(2) && said.contains("of which nothing is changed"), "{said}");

    let before: Vec<_> = (0..4).map(|replica| contents(&cluster, replica)).collect();
    let (code, said) = back_up(&file, &all, &to);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("the state after seq {seq}, ")), "{seq}: {said}");
    assert!(said.contains("NOT in it is what came after"), "{said}");
    // A single one has all of it, too.
    let (code, said) = back_up(&file, &all[2..3], &cluster.file("of-one"));
    assert!(code == Some(0) && said.contains(&format!("the state after seq {seq}, ")), "{said}");
    for (replica, before) in before.iter().enumerate() {
        assert_eq!(&contents(&cluster, replica), before, "nothing of them is changed");
    }
    let mut restored = Cluster::restore(&to, 4);
    drop(cluster);
    (0..4).for_each(|replica| restored.start_replica(replica));
    assert_all_there(&restored, 3, &acknowledged);
    restored.assert_works();
    restored.assert_equal_roots(&[0, 1, 2, 3]);
    let highest = acknowledged.iter().chain(&after).map(|write| write.version).max().expect("writes");
    let recorder = Recorder::start(&restored, 2, ReplicaId(1));
    wait_for("it is written to", || (recorder.completed() >= 1).then_some(()));
    assert!(recorder.finish().iter().all(|write| write.version > highest), "no version is given again");
}

#[test]
fn what_is_damaged_in_one_directory_is_taken_from_another_and_what_no_one_has_is_named() {
    let (mut cluster, acknowledged) = with_checkpoints();
    (0..4).for_each(|replica| cluster.kill(replica));
    (0..2).for_each(|replica| damage_votes(&cluster, replica));
    let bad: Vec<_> = [(0, 1), (2, 2)]
        .into_iter()
        .map(|(replica, leaf)| {
            let Manifest { root, .. } = newest_manifest(&cluster, replica).expect("there is one");
            let block = children(&cluster, replica, root)[leaf];
            flip(&cluster, replica, block);
            let name = page_file(&cluster, replica, block).display().to_string();
            format!("{name} at byte {}", block.offset)
        })
        .collect();
    let (file, to) = (cluster.file("cluster.toml"), cluster.file("last"));
    // Pages without a certificate prove nothing, and a certificate without a page is of no use.
    let (code, said) = back_up(&file, &data(&cluster, &[0, 1]), &to);
    assert_eq!(code, Some(1), "{said}");
    for part in [
        "no certified state can be had",
        "no certificate of a state can be read",
        "Name the directories of all replicas",
    ] {
        assert!(said.contains(part), "{part:?} is missing: {said}");
    }
    let (code, said) = back_up(&file, &data(&cluster, &[2]), &to);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("1 of its pages") && said.contains("intact in none") && said.contains(&bad[1]),
        "{said}"
    );
    assert!(!to.exists(), "nothing is left behind");
    // One that does not even tell whose it is serves as well.
    for name in ["identity", "identity.copy"] {
        fs::remove_file(cluster.file("data-0").join(name)).expect("the directory is ours");
    }
    let (code, said) = back_up(&file, &data(&cluster, &[2, 0]), &to);
    assert_eq!(code, Some(0), "{said}");
    for part in [&*bad[0], &*bad[1], "data-0: its identity is missing", "which replica 2 had"] {
        assert!(said.contains(part), "{part:?} is missing: {said}");
    }
    let mut restored = Cluster::restore(&to, 4);
    drop(cluster);
    (0..4).for_each(|replica| restored.start_replica(replica));
    assert_all_there(&restored, 3, &acknowledged);
    restored.assert_works();
}

/// A replica was away when the newest one was certified, and of that the same page is bad everywhere.
#[test]
fn where_the_newest_certified_state_is_whole_nowhere_an_older_one_is_taken_and_it_says_why() {
    let (mut cluster, acknowledged) = with_checkpoints();
    let Manifest { seq: older, .. } = newest_manifest(&cluster, 3).expect("there is one");
    cluster.kill(3);
    let recorder = Recorder::start(&cluster, 2, ReplicaId(1));
    wait_for("it is written to", || (recorder.completed() >= 3).then_some(()));
    let after = recorder.finish();
    let others = [0, 1, 2];
    settle(&cluster, &others, "copy-of-the-newest");
    others.into_iter().for_each(|replica| cluster.kill(replica));
    let mut newer = 0;
    for replica in others {
        let Manifest { seq, root } = newest_manifest(&cluster, replica).expect("there is one");
        flip(&cluster, replica, root);
        newer = seq;
    }
    assert!(newer > older, "{newer} {older}");
    let (file, to) = (cluster.file("cluster.toml"), cluster.file("last"));
    let (code, said) = back_up(&file, &data(&cluster, &[0, 1, 2, 3]), &to);
    assert_eq!(code, Some(0), "{said}");
    for part in [
        format!("the state after seq {older}, "),
        format!("It is not the newest: the state after seq {newer} is certified, and 1 of its pages"),
        format!("NOT in it is what came after: a quorum has signed the state after seq {newer}"),
    ] {
        assert!(said.contains(&part), "{part:?} is missing: {said}");
    }
    let mut restored = Cluster::restore(&to, 4);
    drop(cluster);
    (0..4).for_each(|replica| restored.start_replica(replica));
    assert_all_there(&restored, 3, &acknowledged);
    restored.assert_works();
    let highest = acknowledged.iter().chain(&after).map(|write| write.version).max().expect("writes");
    let recorder = Recorder::start(&restored, 2, ReplicaId(1));
    wait_for("it is written to", || (recorder.completed() >= 1).then_some(()));
    assert!(recorder.finish().iter().all(|write| write.version > highest), "no version is given again");
}
