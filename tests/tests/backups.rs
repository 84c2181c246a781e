//! Backups of running clusters, new clusters from them, and what `quorate inspect` says, with real processes.

use quorate_client::{Client, ClientOptions};
use quorate_tests::cluster::{Cluster, PATIENCE, binary, wait_for};
use quorate_tests::recorder::{Acknowledged, Recorder, assert_all_there};
use quorate_types::{Condition, Operation, OperationResult, ReplicaId, limits};
use quorate_wire::Assembler;
use quorate_wire::message::{CheckpointCertificate, Message};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

/// A value that does not stand in its leaf itself.
const LONG_BYTES: usize = 100_000;

fn quorate(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).output().expect("quorate runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn argument(path: &Path) -> String {
    path.display().to_string()
}

fn back_up(cluster: &Cluster, to: &Path, more: &[&str]) -> Output {
    let (file, to) = (argument(&cluster.file("cluster.toml")), argument(to));
    let mut arguments = vec!["backup", "--cluster", &file, "--to", &to];
    arguments.extend(more);
    quorate(&arguments)
}

/// Writes long values.
fn write_long_values(cluster: &Cluster) -> Vec<Acknowledged> {
    let value = |number: u8| vec![number; LONG_BYTES + usize::from(number)];
    let key = |number: u8| format!("long:{number}").into_bytes();
    let (config, client_key) = (Arc::clone(cluster.config()), cluster.client_key(2));
    let versions: Vec<u64> = tokio_uring::start(async move {
        let options = ClientOptions { connect_deadline: PATIENCE, ..ClientOptions::default() };
        let client = Client::connect(config, client_key, options).await.expect("a quorum is connected");
        let mut written = Vec::new();
        for number in 0..8 {
            let (key, value) = (key(number), value(number));
            let write = Operation::Set { key, value, condition: Condition::Always };
            let (_, results) = client.execute(&vec![write]).await.expect("the write completes");
            let [OperationResult::Written { version }] = results[..] else { panic!("SET gave {results:?}") };
            written.push(version);
        }
        client.close().await;
        written
    });
    let acknowledged = |(number, version)| Acknowledged { key: key(number), value: value(number), version };
    (0..8).zip(versions).map(acknowledged).collect()
}

/// All files of a backup with their names in it.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).expect("our own file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("inside the file");
    file.write_all_at(&[byte[0] ^ 4], at).expect("our own file");
}

fn write_at(path: &Path, at: u64, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(path).expect("our own file");
    file.write_all_at(bytes, at).expect("our own file");
}

#[test]
fn a_backup_under_load_holds_all_that_was_acknowledged_and_becomes_a_new_cluster() {
    let cluster = Cluster::start(4);
    let before = Recorder::start(&cluster, 0, ReplicaId(1));
    wait_for("the load runs", || (before.completed() > 40).then_some(()));
    let mut acknowledged = before.finish();
    acknowledged.extend(write_long_values(&cluster));
    let load = Recorder::start(&cluster, 1, ReplicaId(0));
    let parent = tempfile::tempdir().expect("a temporary directory");
    let backup = parent.path().join("backup");
    let output = back_up(&cluster, &backup, &["--replica", "2"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("copied from replica 2"), "{}", stdout(&output));
    assert!(load.completed() > 0, "the cluster goes on");
    let after = load.finish();
    let highest = after.iter().chain(&acknowledged).map(|one| one.version).max().expect("writes");
    let again = back_up(&cluster, &backup, &[]);
    assert_eq!(again.status.code(), Some(2), "{}", stderr(&again));
    drop(cluster);

    let mut restored = Cluster::restore(&backup, 7);
    (0..7).for_each(|replica| restored.start_replica(replica));
    assert_all_there(&restored, 1, &acknowledged);
    restored.assert_works();
    restored.assert_equal_roots(&[0, 1, 2, 3, 4, 5, 6]);
    // No version that the old cluster ever gave is given again, not even one from after the backup.
    let first = Recorder::start(&restored, 2, ReplicaId(0));
    wait_for("the restored cluster is written to", || (first.completed() > 0).then_some(()));
    assert!(
        first.finish().iter().all(|one| one.version > highest),
        "a version of the old cluster came again"
    );

    // A replica that has lost its disk lacks the first state too, and gets it from the same backup.
    restored.kill(6);
    let data = restored.file("data-6");
    std::fs::remove_dir_all(&data).expect("the replica had made it");
    let refused = restored.refused_start(6);
    assert!(refused.contains("genesis_root") && refused.contains("quorate restore"), "{refused}");
    assert!(!data.exists(), "nothing is made in its place");
    let (config, from) = (argument(&restored.file("replica-6.toml")), argument(&backup));
    let output = quorate(&["restore", "--from", &from, "--config", &config]);
    assert!(output.status.success(), "{}", stderr(&output));
    restored.start_replica(6);
    restored.assert_equal_roots(&[0, 1, 2, 3, 4, 5, 6]);
    // Another cluster did not begin with this backup.
    let other = Cluster::prepare(1, &[]);
    std::fs::remove_dir_all(other.file("data-0")).expect("init made it");
    let config = argument(&other.file("replica-0.toml"));
    let output = quorate(&["restore", "--from", &from, "--config", &config]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[test]
fn a_backup_that_was_tampered_with_is_refused_and_its_file_named() {
    let cluster = Cluster::start(4);
    let long = write_long_values(&cluster);
    let parent = tempfile::tempdir().expect("a temporary directory");
    let backup = parent.path().join("backup");
    let output = back_up(&cluster, &backup, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let target = parent.path().join("restored");
    let refused = |what: &str| {
        let (from, dir) = (argument(&backup), argument(&target));
        let output = quorate(&["restore", "--from", &from, "--dir", &dir, "--free-ports"]);
        assert_eq!(output.status.code(), Some(1), "{what}: {}{}", stdout(&output), stderr(&output));
        assert!(!target.exists(), "{what}: nothing is left behind");
        stderr(&output)
    };
    let all = files(&backup);
    assert!(all.len() >= 5, "{all:?}");
    let manifest = all.iter().find(|path| argument(path).contains("manifest-")).expect("a backup has one");
    for path in all.iter().filter(|path| !argument(path).ends_with("-copy")) {
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        let copy = path.with_file_name(format!("{name}-copy"));
        assert_eq!(copy.exists(), name.starts_with("manifest-"), "manifests stand twice: {name}");
        let named = name.replace("pages-", "page file ");
        let length = std::fs::metadata(path).expect("a file").len();
        for at in [0, 1, length / 3, length / 2, length - 2, length - 1] {
            let flip_all =
                || [path, &copy].into_iter().filter(|path| path.exists()).for_each(|path| flip(path, at));
            flip_all();
            let said = refused(&format!("{name} at {at}"));
            assert!(said.contains(&named), "{name} at {at}: {said}");
            flip_all();
        }
    }
    let other = Cluster::prepare(4, &[]);
    replaced(
        &backup.join("cluster.toml"),
        &std::fs::read(other.file("cluster.toml")).expect("init wrote it"),
        || {
            let said = refused("another cluster's file");
            assert!(said.contains("cluster.toml"), "{said}");
        },
    );
    replaced(&backup.join("certificate"), &without_signature(&backup.join("certificate")), || {
        let said = refused("a signature less");
        assert!(said.contains("certificate") && said.contains("a quorum is 3"), "{said}");
    });
    // With a cluster file from elsewhere, the one in the backup must be the same.
    let (from, dir) = (argument(&backup), argument(&target));
    let trust = argument(&other.file("cluster.toml"));
    let output = quorate(&["restore", "--from", &from, "--dir", &dir, "--free-ports", "--trust", &trust]);
    assert!(stderr(&output).contains("--trust"), "{}", stderr(&output));
    // As it was, it is good, and one copy of the manifest is enough.
    flip(manifest, 1);
    let mut restored = Cluster::restore(&backup, 1);
    restored.start_replica(0);
    assert_all_there(&restored, 1, &long);
}

fn replaced(path: &Path, bytes: &[u8], check: impl FnOnce()) {
    let before = std::fs::read(path).expect("a file");
    std::fs::write(path, bytes).expect("our own file");
    check();
    std::fs::write(path, before).expect("our own file");
}

/// The certificate in a file with one signature less than a quorum.
fn without_signature(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).expect("a file");
    let mut assembler = Assembler::new(limits::FRAME_BYTES_MAX);
    let frame = assembler.next(&mut &bytes[..]).expect("a frame").expect("a whole one");
    let mut certificate = CheckpointCertificate::from_frame(frame).expect("a certificate");
    certificate.signatures.truncate(2);
    certificate.encode().bytes().to_vec()
}

#[test]
fn a_backup_that_fails_leaves_nothing_behind() {
    let mut cluster = Cluster::start(4);
    cluster.kill(3);
    let parent = tempfile::tempdir().expect("a temporary directory");
    let output = back_up(&cluster, &parent.path().join("backup"), &["--replica", "3"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("replica 3"), "{}", stderr(&output));
    assert_eq!(std::fs::read_dir(parent.path()).expect("a directory").count(), 0);
}

fn inspect(directory: &Path, more: &[&str]) -> Output {
    let directory = argument(directory);
    let mut arguments = vec!["inspect", &directory];
    arguments.extend(more);
    quorate(&arguments)
}

#[test]
fn inspect_tells_sound_directories_from_damaged_ones() {
    let mut cluster = Cluster::start(4);
    write_long_values(&cluster);
    let parent = tempfile::tempdir().expect("a temporary directory");
    // So that there is a checkpoint.
    let output = back_up(&cluster, &parent.path().join("backup"), &["--replica", "0"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let data = cluster.file("data-0");
    assert!(stdout(&inspect(&data, &[])).contains("in use by replica 0, process"));
    assert_eq!(cluster.stop(0), Some(0), "{}", cluster.log(0));
    let before: Vec<_> = files(&data).into_iter().map(|path| (std::fs::read(&path).ok(), path)).collect();
    let output = inspect(&data, &[]);
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{said}{}", stderr(&output));
    for part in ["replica 0 of cluster", "log of core 0", "accept", "checkpoint", "fits the root", "votes."] {
        assert!(said.contains(part), "{part:?} is missing: {said}");
    }
    let cluster_file = argument(&cluster.file("cluster.toml"));
    let proven = inspect(&data, &["--cluster", &cluster_file]);
    assert_eq!(proven.status.code(), Some(0), "{}", stdout(&proven));
    assert!(stdout(&proven).contains("signed by a quorum: "), "{}", stdout(&proven));
    let strangers = Cluster::start(4);
    let unproven = inspect(&data, &["--cluster", &argument(&strangers.file("cluster.toml"))]);
    assert_eq!(unproven.status.code(), Some(1), "{}", stdout(&unproven));
    assert!(stdout(&unproven).contains("0 replicas of the cluster have signed it"), "{}", stdout(&unproven));
    drop(strangers);
    let records = stdout(&inspect(&data, &["--records"]));
    assert!(records.lines().count() > said.lines().count() && records.contains(" lsn "), "{records}");
    let after: Vec<_> = files(&data).into_iter().map(|path| (std::fs::read(&path).ok(), path)).collect();
    assert!(before == after, "nothing changed");

    let pages = files(&data.join("pages"));
    let page_file = pages.iter().find(|path| path.to_string_lossy().contains("pages-")).expect("one");
    flip(page_file, 2000);
    let output = inspect(&data, &[]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    assert!(
        stdout(&output).contains("DAMAGED") && stdout(&output).contains("page file"),
        "{}",
        stdout(&output)
    );
    flip(page_file, 2000);

    let segments = files(&data.join("log-0"));
    let used = |path: &Path| {
        let bytes = std::fs::read(path).expect("a segment");
        (bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0), bytes)
    };
    let in_use: Vec<_> = segments.iter().filter(|path| used(path).0 > 8192).collect();
    let whole: Vec<_> = in_use.iter().map(|path| used(path)).collect();
    // Both copies of all but the last writes, which say that it was durable.
    for (index, (path, (end, _))) in in_use.iter().zip(&whole).enumerate() {
        let kept = if index + 1 == in_use.len() { 4 * 4096 } else { 0 };
        write_at(path, 4096, &vec![7; end.saturating_sub(4096 + kept)]);
    }
    let output = inspect(&data, &[]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    assert!(stdout(&output).contains("goes on as a learner"), "{}", stdout(&output));
    for (path, (_, bytes)) in in_use.iter().zip(whole) {
        std::fs::write(path, bytes).expect("our own file");
    }

    // What a crash leaves: the end of the last write is missing.
    let last = segments.iter().rev().find(|path| used(path).0 > 8192).expect("one in use");
    write_at(last, used(last).0 as u64 - 199, &[0; 200]);
    let output = inspect(&data, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));

    // A backup is judged as one.
    let backup = inspect(&parent.path().join("backup"), &[]);
    assert_eq!(backup.status.code(), Some(0), "{}", stdout(&backup));
    assert!(
        stdout(&backup).contains("a backup of") && stdout(&backup).contains("Sound."),
        "{}",
        stdout(&backup)
    );
    let copied = files(&parent.path().join("backup/pages"));
    flip(copied.iter().find(|path| path.to_string_lossy().contains("pages-")).expect("one"), 2000);
    let backup = inspect(&parent.path().join("backup"), &[]);
    assert_eq!(backup.status.code(), Some(1), "{}", stdout(&backup));
    assert!(stdout(&backup).contains("DAMAGED"), "{}", stdout(&backup));

    // All of the log of the first core is gone: what is left shows that it was there, and a start says the same.
    segments.iter().for_each(|path| std::fs::remove_file(path).expect("our own file"));
    let output = inspect(&data, &[]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    let said = stdout(&output);
    let refused = cluster.refused_start(0);
    for part in ["are missing: votes of this replica stand there; mount or put back", "format --learner"] {
        assert!(said.contains(part) && refused.contains(part), "{part:?} is missing: {said}\n{refused}");
    }
    assert!(said.contains("No replica starts on it"), "{said}");
    let nobody = inspect(&parent.path().join("nothing"), &[]);
    assert_eq!(nobody.status.code(), Some(2), "{}", stderr(&nobody));
}
