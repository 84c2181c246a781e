//! `quorate dev` with its processes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::{Running, children, command, is_running, quorate, signal, wait_for};
use rustix::process::Signal;
use std::path::Path;
use tempfile::TempDir;

/// A running `quorate dev` with its replicas and its cluster file.
struct Dev {
    process: Running,
    /// Where its temporary directory is, so that nothing is left when the test fails.
    home: TempDir,
    replicas: Vec<u32>,
    cluster: String,
}

fn dev(arguments: &[&str], replicas: usize) -> Dev {
    let mut words = vec!["dev"];
    words.extend(arguments);
    let home = tempfile::tempdir().unwrap();
    let mut command = command(&words);
    command.env("TMPDIR", home.path());
    let mut process = Running::start(command);
    process.wait_for_output("Ctrl-C stops all replicas");
    let text = process.stdout();
    assert!(text.contains(&format!("{replicas} replicas are ready")), "{text}");
    let cluster = text.lines().find_map(|line| line.trim().strip_prefix("export QUORATE_CLUSTER=")).unwrap();
    let running = children(process.id());
    assert_eq!(running.len(), replicas);
    Dev { process, home, replicas: running, cluster: cluster.to_owned() }
}

fn set_and_get(cluster: &str) {
    let set = quorate(&["kv", "--timeout", "60", "--cluster", cluster, "set", "greeting", "hello"]);
    assert_eq!(set.code, Some(0), "{set:?}");
    assert_eq!(
        quorate(&["kv", "--timeout", "60", "--cluster", cluster, "get", "greeting"]).stdout,
        "hello\n"
    );
}

fn all_ended(replicas: &[u32]) {
    wait_for("the end of all replicas", || (!replicas.iter().any(|id| is_running(*id))).then_some(()));
}

#[test]
fn it_serves_until_ctrl_c_and_leaves_nothing() {
    let dev = dev(&[], 4);
    assert!(Path::new(&dev.cluster).starts_with(dev.home.path()));
    set_and_get(&dev.cluster);
    dev.process.signal(Signal::INT);
    let outcome = dev.process.finish();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    all_ended(&dev.replicas);
    let left: Vec<_> = std::fs::read_dir(dev.home.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?} is left");
}

#[test]
fn a_directory_is_kept_and_used_again() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("data").display().to_string();
    for round in 0..2 {
        let flags: &[&str] =
            if round == 0 { &["--replicas", "5", "--dir", &path] } else { &["--dir", &path] };
        let dev = dev(flags, 5);
        assert_eq!(Path::new(&dev.cluster), Path::new(&path).join("cluster.toml"));
        set_and_get(&dev.cluster);
        dev.process.signal(Signal::TERM);
        assert_eq!(dev.process.finish().code, Some(0));
        all_ended(&dev.replicas);
    }
    let other = quorate(&["dev", "--dir", &path, "--replicas", "4"]);
    assert_eq!(other.code, Some(2), "{other:?}");
    assert!(
        other.stderr.contains("the cluster has 5 replicas and --replicas asks for 4"),
        "{}",
        other.stderr
    );
}

#[test]
fn a_replica_that_dies_is_told_and_the_others_go_on() {
    let dev = dev(&[], 4);
    signal(dev.replicas[3], Signal::KILL);
    let text = wait_for("the message", || {
        let text = dev.process.stderr();
        text.contains("Replica 3 at ").then_some(text)
    });
    assert!(text.contains("replica 3 ended: killed by signal 9; the end of its log:"), "{text}");
    assert!(text.contains("Degraded: the cluster"), "{text}");
    assert!(text.contains("no more faults; 3 of 4 replicas"), "{text}");
    set_and_get(&dev.cluster);
    dev.process.signal(Signal::INT);
    let outcome = dev.process.finish();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    all_ended(&dev.replicas);
}

#[test]
fn replicas_end_with_a_parent_that_is_killed() {
    let dev = dev(&[], 4);
    dev.process.signal(Signal::KILL);
    assert_eq!(dev.process.finish().code, None);
    all_ended(&dev.replicas);
}

#[test]
fn a_cluster_that_cannot_start_ends_at_once_with_the_reason() {
    let files = common::Files::new(4);
    let address = &files.values("cluster.toml", "mesh")[2];
    let _holder = std::net::TcpListener::bind(address).unwrap();
    let outcome = quorate(&["dev", "--dir", &files.argument("")]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    for part in ["replica 2 ended: exit code 2", "mesh of replica 2", address, "the port is taken"] {
        assert!(outcome.stderr.contains(part), "no {part:?} in {}", outcome.stderr);
    }
}
