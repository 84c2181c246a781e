//! Whoever can open a socket gets no further, and costs nobody else anything (DESIGN section 7).

use quorate_tests::cluster::{Cluster, binary, wait_for};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

/// As many connections as there may be half open at one door of one core, and some.
const IDLE: usize = 1_100;

/// Descriptors that the crowd takes, with room for what else a test does.
const NEEDED: u64 = 6_000;

/// This process may hold as many descriptors as the hard limit says; whether those suffice.
fn raise_own_limit() -> bool {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the hard limit");
    maximum.is_none_or(|maximum| maximum >= NEEDED)
}

/// Connections that say nothing.
fn crowd(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let connect = |_| TcpStream::connect(address).expect("the port listens");
    (0..count).map(connect).collect()
}

/// A number in a line of a log.
fn field(line: &str, name: &str) -> usize {
    let (_, rest) = line.split_once(&format!("{name}=")).expect("it is told");
    rest.split(|other: char| !other.is_ascii_digit())
        .next()
        .and_then(|digits| digits.parse().ok())
        .expect("a number")
}

fn kv(cluster: &Cluster, words: &[&str]) -> String {
    let output = Command::new(binary())
        .arg("kv")
        .args(words)
        .args(["--timeout", "60", "--cluster"])
        .arg(cluster.file("cluster.toml"))
        .arg("--key")
        .arg(cluster.file("client-2.key"))
        .output()
        .expect("quorate runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// With the usual soft limit of 1,024 open files that would have ended every replica.
#[test]
fn idle_connections_lock_out_no_client_and_no_replica() {
    if !raise_own_limit() {
        println!(
            "skipped: idle_connections_lock_out_no_client_and_no_replica needs a hard limit of {NEEDED} open files"
        );
        return;
    }
    let mut cluster = Cluster::prepare(4, &[]);
    for replica in 0..4 {
        cluster.start_replica_with_open_files(replica, 1_024);
    }
    let mut idle = Vec::new();
    for replica in 0..4 {
        idle.extend(crowd(cluster.client_address(replica), IDLE));
    }
    idle.extend(crowd(cluster.mesh_address(0), 300));
    assert_eq!(kv(&cluster, &["set", "greeting", "hello"]).trim(), "OK");
    cluster.kill(0);
    cluster.start_replica_with_open_files(0, 1_024);
    wait_for("replica 0 has all its links again", || {
        let linked = (1..4).all(|replica| {
            let report = cluster.report(replica, false);
            let peers = report["peers"].as_array().expect("peers");
            peers.iter().all(|peer| peer["connected"] == true)
        });
        linked.then_some(())
    });
    assert_eq!(kv(&cluster, &["get", "greeting"]).trim(), "hello");
    let log = cluster.log(1);
    let told: Vec<&str> = log.lines().filter(|line| line.contains("crowded:")).collect();
    let turned_away: usize = told.iter().map(|line| field(line, "half_open")).sum();
    assert!(
        !told.is_empty() && turned_away > told.len(),
        "told, and not once for each: {turned_away}\n{log}"
    );
    drop(idle);
    cluster.assert_works();
}

#[test]
fn more_clients_than_handshakes_are_let_in_together() {
    let output = Command::new(binary())
        .args([
            "bench",
            "--clients",
            "600",
            "--depth",
            "1",
            "--bundle",
            "1",
            "--duration",
            "2",
            "--warmup",
            "1",
        ])
        .output()
        .expect("quorate runs");
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}
