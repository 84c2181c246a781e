//! Rotten media: what is damaged on a disk is not lost as long as others have it, and nobody forgets what it has
//! promised. Real files, real processes.

use quorate_tests::checkpoints::{
    Manifest, children, contents, flip, names, newest_manifest, page_file, pages, with_checkpoints,
};
use quorate_tests::cluster::{Cluster, binary, wait_for};
use quorate_tests::recorder::{Acknowledged, Recorder, assert_all_there};
use quorate_types::ReplicaId;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Flips a bit in the newest checkpoint of each of four replicas, in another block of each.
fn flip_one_block_each(cluster: &Cluster) {
    for replica in 0..4 {
        let Manifest { root, .. } = newest_manifest(cluster, replica).expect("there is one");
        let below = children(cluster, replica, root);
        assert!(below.len() >= 4, "a tree with several leaves");
        // Of the first the root itself, of the others one leaf each, and no leaf twice.
        flip(cluster, replica, if replica == 0 { root } else { below[replica] });
    }
}

/// Flips one bit in the batch that holds an acknowledged write, in whichever log of a replica it lies.
fn flip_batch(cluster: &Cluster, replica: usize, write: &Acknowledged) {
    let of =
        |path: PathBuf| fs::read_dir(path).expect("it is there").map(|entry| entry.expect("ours").path());
    let data = cluster.file(&format!("data-{replica}"));
    let logs = of(data).filter(|path| path.is_dir() && !path.ends_with("pages"));
    let mut flipped = 0;
    for segment in logs.flat_map(of) {
        let mut bytes = fs::read(&segment).expect("it is there");
        let places: Vec<usize> = (0..bytes.len().saturating_sub(write.value.len()))
            .filter(|at| bytes[*at..].starts_with(&write.value))
            .collect();
        places.iter().for_each(|at| bytes[*at] ^= 1);
        flipped += places.len();
        fs::write(&segment, bytes).expect("the directory is ours");
    }
    assert!(flipped > 0, "the log of replica {replica} has {write:?}");
}

#[test]
fn one_bad_block_on_each_replica_and_all_killed_lose_nothing() {
    let (mut cluster, acknowledged) = with_checkpoints();
    (0..4).for_each(|replica| cluster.kill(replica));
    flip_one_block_each(&cluster);
    let before: Vec<Vec<String>> = (0..4).map(|replica| names(&cluster, replica)).collect();
    let data = cluster.file("data-2").display().to_string();
    let output = Command::new(binary()).args(["inspect", &data]).output().expect("quorate runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("serves the pages that are intact, and executes nothing before"), "{said}");
    (0..4).for_each(|replica| cluster.start_replica(replica));
    for replica in 0..4 {
        assert!(cluster.log(replica).contains("has bad pages"), "{}", cluster.log(replica));
    }
    assert_all_there(&cluster, 3, &acknowledged);
    cluster.assert_equal_roots(&[0, 1, 2, 3]);
    // They are voters: with one down, each of the others is needed.
    for report in cluster.reports(&[0, 1, 2, 3], false, |_| true) {
        assert_eq!(report["role"], "voter");
    }
    cluster.kill(0);
    cluster.assert_works();
    cluster.start_replica(0);
    cluster.assert_equal_roots(&[0, 1, 2, 3]);
    // What was damaged goes when a certified checkpoint has taken its place, and another start finds nothing wrong.
    wait_for("what was damaged is gone", || {
        let is_gone = |replica: usize| {
            let now = names(&cluster, replica);
            before[replica]
                .iter()
                .filter(|name| name.starts_with("manifest-"))
                .all(|name| !now.contains(name))
        };
        (0..4).all(is_gone).then_some(())
    });
    for replica in 0..4 {
        cluster.kill(replica);
        let told = cluster.log(replica).len();
        cluster.start_replica(replica);
        let since = cluster.log(replica)[told..].to_owned();
        assert!(!since.contains("damaged") && !since.contains("bad pages"), "{since}");
    }
    assert_all_there(&cluster, 3, &acknowledged);
    cluster.assert_equal_roots(&[0, 1, 2, 3]);
}

/// What a cluster began with has no certificate: its root stands in the configuration.
#[test]
fn a_restored_cluster_starts_with_one_bad_block_of_its_first_state_on_each_replica() {
    let (source, mut acknowledged) = with_checkpoints();
    let mut cluster = Cluster::restore(&source.file("copy"), 4);
    drop(source);
    // Before anybody has started, and when all have and nothing is certified yet.
    for round in 0..2 {
        flip_one_block_each(&cluster);
        (0..4).for_each(|replica| cluster.start_replica(replica));
        for replica in 0..4 {
            assert!(cluster.log(replica).contains("has bad pages"), "{}", cluster.log(replica));
        }
        assert_all_there(&cluster, 3, &acknowledged);
        if round == 0 {
            let recorder = Recorder::start(&cluster, 2, ReplicaId(1));
            wait_for("it is written to", || (recorder.completed() >= 5).then_some(()));
            acknowledged.extend(recorder.finish());
        }
        cluster.assert_equal_roots(&[0, 1, 2, 3]);
        (0..4).for_each(|replica| cluster.kill(replica));
    }
    let told: Vec<usize> = (0..4).map(|replica| cluster.log(replica).len()).collect();
    (0..4).for_each(|replica| cluster.start_replica(replica));
    for (replica, told) in told.into_iter().enumerate() {
        let since = cluster.log(replica)[told..].to_owned();
        assert!(!since.contains("damaged") && !since.contains("bad pages"), "{since}");
    }
    assert_all_there(&cluster, 3, &acknowledged);
}

/// Who could give what two have lost of the first state is down for a while. Meanwhile nothing of it goes, and nobody starts
/// from an empty one.
#[test]
fn a_restored_cluster_waits_for_those_who_have_what_others_have_lost_of_its_first_state() {
    let (source, mut acknowledged) = with_checkpoints();
    let mut cluster = Cluster::restore(&source.file("copy"), 4);
    drop(source);
    for replica in [0, 1] {
        let Manifest { root, .. } = newest_manifest(&cluster, replica).expect("there is one");
        // The same leaf of both.
        flip(&cluster, replica, children(&cluster, replica, root)[1]);
        let before = names(&cluster, replica);
        cluster.start_replica(replica);
        assert!(cluster.log(replica).contains("has bad pages"), "{}", cluster.log(replica));
        assert_eq!(names(&cluster, replica), before, "what is intact stays");
    }
    // Once more, as somebody would who wonders why nothing goes on.
    for replica in [0, 1] {
        cluster.kill(replica);
        cluster.start_replica(replica);
        assert_eq!(cluster.log(replica).matches("has bad pages").count(), 2, "{}", cluster.log(replica));
    }
    let said = wait_for("it is known that nobody can vote", || {
        let (code, said) = cluster.status();
        assert_eq!(code, Some(1), "{said}");
        said.contains("No progress: 0 of 4 replicas can vote").then_some(said)
    });
    assert!(!said.contains("idle"), "{said}");
    cluster.start_replica(2);
    assert_all_there(&cluster, 3, &acknowledged);
    let recorder = Recorder::start(&cluster, 2, ReplicaId(1));
    wait_for("it is written to", || (recorder.completed() >= 5).then_some(()));
    acknowledged.extend(recorder.finish());
    cluster.start_replica(3);
    cluster.assert_equal_roots(&[0, 1, 2, 3]);
    // The two have it whole now, and make a quorum with one of those who had it.
    cluster.kill(2);
    cluster.assert_works();
    assert_all_there(&cluster, 3, &acknowledged);
    cluster.assert_equal_roots(&[0, 1, 3]);
}

/// Listed mistake: a restart that drops intact batches because the one before them is bad. Then nobody could begin to fetch
/// what lies behind all of the bad ones.
#[test]
fn one_bad_batch_in_the_log_of_each_replica_and_all_killed_lose_nothing() {
    let mut cluster = Cluster::start(4);
    let recorder = Recorder::start(&cluster, 0, ReplicaId(1));
    wait_for("one lane has many batches", || (recorder.completed() >= 40).then_some(()));
    let acknowledged = recorder.finish();
    for report in cluster.reports(&[0, 1, 2, 3], false, |_| true) {
        assert_eq!(report["stable"].as_u64(), Some(0), "all of it must be executed again");
    }
    (0..4).for_each(|replica| cluster.kill(replica));
    // Each bundle is a batch of its own, as the client sends one after the other.
    (0..4).for_each(|replica| flip_batch(&cluster, replica, &acknowledged[50 + 100 * replica]));
    (0..4).for_each(|replica| cluster.start_replica(replica));
    for replica in 0..4 {
        assert!(cluster.log(replica).contains("batches lost"), "{}", cluster.log(replica));
    }
    assert_all_there(&cluster, 3, &acknowledged);
    cluster.assert_equal_roots(&[0, 1, 2, 3]);
    cluster.kill(0);
    cluster.assert_works();
}

#[test]
fn a_page_file_that_may_not_be_opened_and_a_newer_manifest_refuse_the_start_and_change_nothing() {
    let (mut cluster, acknowledged) = with_checkpoints();
    cluster.kill(3);
    let before = names(&cluster, 3);
    let Manifest { root, .. } = newest_manifest(&cluster, 3).expect("there is one");
    let file = page_file(&cluster, 3, root);
    // A loop of links stands for whatever the kernel may refuse: root may open everything.
    let elsewhere = cluster.file("elsewhere");
    fs::rename(&file, &elsewhere).expect("the directory is ours");
    std::os::unix::fs::symlink(&file, &file).expect("the directory is ours");
    // A start would note this again, and write a bad copy of a manifest anew.
    let spoken = cluster.file("data-3").join("spoken");
    let note = fs::read(&spoken).expect("it is there");
    fs::remove_file(&spoken).expect("the directory is ours");
    let copy = before.iter().rfind(|name| name.ends_with("-copy")).expect("there is one");
    let copy = pages(&cluster, 3).join(copy);
    let bytes = fs::read(&copy).expect("it is there");
    fs::write(&copy, [0; 9]).expect("the directory is ours");
    let all = contents(&cluster, 3);
    let refused = cluster.refused_start(3);
    assert!(refused.contains("nothing was changed: see to the rights"), "{refused}");
    assert_eq!(contents(&cluster, 3), all);
    fs::write(&copy, bytes).expect("the directory is ours");
    fs::write(&spoken, note).expect("the directory is ours");
    fs::remove_file(&file).expect("the directory is ours");
    fs::rename(&elsewhere, &file).expect("the directory is ours");
    let of_manifests = |name: &&String| name.starts_with("manifest-");
    let whole: Vec<(PathBuf, Vec<u8>)> = (before.iter().filter(of_manifests))
        .map(|name| pages(&cluster, 3).join(name))
        .map(|path| (path.clone(), fs::read(path).expect("it is there")))
        .collect();
    for (path, bytes) in &whole {
        let mut newer = bytes.clone();
        newer[16] = 9;
        let end = newer.len() - 4;
        let sum = crc32c::crc32c(&newer[..end]).to_le_bytes();
        newer[end..].copy_from_slice(&sum);
        fs::write(path, newer).expect("the directory is ours");
    }
    let refused = cluster.refused_start(3);
    assert!(refused.contains("version 9") && refused.contains("nothing was changed"), "{refused}");
    assert_eq!(names(&cluster, 3), before);
    whole.iter().for_each(|(path, bytes)| fs::write(path, bytes).expect("the directory is ours"));
    cluster.start_replica(3);
    assert_all_there(&cluster, 3, &acknowledged);
    cluster.assert_equal_roots(&[0, 1, 2, 3]);
}

/// Manifests that are gone are not taken for ones that never were: the log leads on from there, and from nowhere else.
#[test]
fn a_checkpoint_that_was_taken_away_refuses_the_start_until_it_is_back() {
    let (mut cluster, acknowledged) = with_checkpoints();
    cluster.kill(3);
    let (folder, elsewhere) = (pages(&cluster, 3), cluster.file("elsewhere"));
    let moves = |back: bool| {
        fs::create_dir_all(&elsewhere).expect("the directory is ours");
        let (from, to) = if back { (&elsewhere, &folder) } else { (&folder, &elsewhere) };
        for entry in fs::read_dir(from).expect("it is there") {
            let name = entry.expect("ours").file_name();
            if name.to_string_lossy().starts_with("manifest-") {
                fs::rename(from.join(&name), to.join(&name)).expect("the directory is ours");
            }
        }
    };
    moves(false);
    let before = contents(&cluster, 3);
    let refused = cluster.refused_start(3);
    assert!(refused.contains("there is no manifest of it in pages; mount or put back"), "{refused}");
    assert_eq!(contents(&cluster, 3), before);
    moves(true);
    fs::remove_dir(&elsewhere).expect("it is empty");
    fs::rename(&folder, &elsewhere).expect("the directory is ours");
    let refused = cluster.refused_start(3);
    assert!(refused.contains("pages is not there") && !folder.exists(), "{refused}");
    fs::rename(&elsewhere, &folder).expect("the directory is ours");
    cluster.start_replica(3);
    assert_all_there(&cluster, 3, &acknowledged);
    cluster.assert_equal_roots(&[0, 1, 2, 3]);
}

#[test]
fn a_block_that_goes_bad_under_a_running_replica_is_found_and_written_anew() {
    let (cluster, _) = with_checkpoints();
    let Manifest { root, .. } = newest_manifest(&cluster, 2).expect("there is one");
    let block = children(&cluster, 2, root)[1];
    let path = page_file(&cluster, 2, block);
    let whole = fs::read(&path).expect("it is there");
    flip(&cluster, 2, block);
    wait_for("it is found", || (cluster.report(2, false)["blocks_mended"].as_u64() == Some(1)).then_some(()));
    assert_eq!(fs::read(&path).expect("it is there"), whole);
    let (code, said) = cluster.status();
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("- Replica 2 has found 1 blocks of its checkpoint damaged"), "{said}");
}
