//! Disks that fill up: writes are declined in time, with a reason, and taken again when there is room.

use quorate_tests::cluster::{Cluster, Load, binary, wait_for};
use quorate_types::ReplicaId;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A disk of so many bytes, with room for the log of a replica that has just begun, is nearly full with this filler.
const DISK: &str = "size=320m";
const FILLER_BYTES: usize = 225 << 20;
/// Less than a quarter of what is to be free.
const LITTLE: usize = 12 << 20;

/// A small file system of its own; unmounted in the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Nothing where this process may not mount.
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).expect("our directory");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "none"]).arg(at).status();
        status.is_ok_and(|status| status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// What is free on the file system of `path`.
fn free_bytes(path: &Path) -> usize {
    let output = Command::new("df").args(["--block-size=1", "--output=avail"]).arg(path).output();
    let text = String::from_utf8(output.expect("df runs").stdout).expect("a number");
    text.lines().last().and_then(|line| line.trim().parse().ok()).expect("a number")
}

/// What a replica takes of clients.
fn takes(cluster: &Cluster, replica: usize) -> String {
    cluster.report(replica, false)["takes"].as_str().expect("an enumeration").to_owned()
}

fn kv(cluster: &Cluster, words: &[&str]) -> (bool, String) {
    let output = Command::new(binary())
        .arg("kv")
        .args(words)
        .args(["--timeout", "60", "--cluster"])
        .arg(cluster.file("cluster.toml"))
        .arg("--key")
        .arg(cluster.file("client-2.key"))
        .output()
        .expect("quorate runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn where_all_disks_are_nearly_full_reads_work_and_writes_are_declined_with_the_reason() {
    let mut cluster = Cluster::prepare(4, &[]);
    // Of which a part is always in use.
    let disk = rustix::fs::statvfs(cluster.file("data-0")).expect("a disk");
    let all = disk.f_blocks * disk.f_frsize;
    for replica in 0..4 {
        cluster.edit(replica, |text| format!("min_free_bytes = {all}\n{text}"));
        cluster.start_replica(replica);
    }
    wait_for("all replicas look at their disks", || {
        (0..4).all(|replica| takes(&cluster, replica) == "reads").then_some(())
    });
    let (code, said) = cluster.status();
    assert_eq!(code, Some(1), "{said}");
    let headline = "No writes: 4 replicas vote, and none of them takes writes; reads are answered.";
    assert!(said.starts_with(headline), "{said}");
    assert_eq!(
        said.matches("takes no writes: the disk has less room than min_free_bytes").count(),
        4,
        "{said}"
    );
    let (done, text) = kv(&cluster, &["get", "greeting"]);
    assert!(!done && text.contains("does not exist"), "a read is answered: {text}");
    let (done, text) = kv(&cluster, &["set", "greeting", "hello"]);
    assert!(!done && text.contains("takes no writes because its disk or journal is nearly full"), "{text}");
    assert!(text.contains("was not executed and will not be"), "that is definite, not unknown: {text}");
}

#[test]
fn a_replica_whose_disk_fills_up_declines_writes_and_takes_them_again_when_there_is_room() {
    let mut cluster = Cluster::prepare(4, &[]);
    let data = cluster.file("small-disk");
    let Some(_disk) = SmallDisk::mount(&data) else {
        println!(
            "skipped: a_replica_whose_disk_fills_up_declines_writes_and_takes_them_again_when_there_is_room needs to \
             mount a file system"
        );
        return;
    };
    cluster.edit(3, |text| {
        let moved = text.replace("data_dir = \"data-3\"", "data_dir = \"small-disk/data\"");
        format!("min_free_bytes = 67108864\n{moved}")
    });
    let formatted = Command::new(binary())
        .args(["format", "--config"])
        .arg(cluster.file("replica-3.toml"))
        .status()
        .expect("quorate runs");
    assert!(formatted.success());
    for replica in 0..4 {
        cluster.start_replica(replica);
    }
    let load = Load::start(&cluster, 0, ReplicaId(3), 5);
    wait_for("operations flow", || (load.completed() > 20).then_some(()));
    let filler = data.join("filler");
    std::fs::write(&filler, vec![1; FILLER_BYTES]).expect("there is room for it");
    wait_for("writes are declined", || (takes(&cluster, 3) == "reads").then_some(()));
    let (code, said) = cluster.status();
    let takes_writes = said.starts_with("Degraded: the cluster takes writes and tolerates no more faults");
    assert!(
        code == Some(4) && takes_writes && said.contains("- Replica 3 takes no writes: the disk"),
        "{code:?} {said}"
    );
    let completed = load.completed();
    wait_for("clients have found another home", || (load.completed() > completed + 20).then_some(()));
    // With next to nothing free it takes no reads either, and at last not even what ends something.
    let more = data.join("more");
    std::fs::write(&more, vec![1; free_bytes(&data).saturating_sub(LITTLE)]).expect("there is room for it");
    wait_for("nothing is taken", || (takes(&cluster, 3) == "nothing").then_some(()));
    std::fs::remove_file(&more).expect("our own file");
    std::fs::remove_file(&filler).expect("our own file");
    wait_for("there is room again", || (takes(&cluster, 3) == "writes").then_some(()));
    load.stop();
    cluster.assert_equal_roots(&[0, 1, 2, 3]);
}
