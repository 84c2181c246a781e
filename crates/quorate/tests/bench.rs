//! `quorate bench` with the local cluster that it starts.

mod common;

use common::{Running, children, command, is_running, quorate, wait_for};
use rustix::process::Signal;

const SHORT: [&str; 8] = ["--duration", "0.5", "--warmup", "0.2", "--clients", "2", "--depth", "4"];

#[test]
fn it_loads_a_cluster_of_its_own_and_writes_the_results() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("results.json").display().to_string();
    let mut arguments = vec!["bench", "--json", &path];
    arguments.extend(SHORT);
    let mut bench = command(&arguments);
    bench.env("TMPDIR", directory.path());
    let outcome = common::run(bench);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stdout.contains("all 4 roots are equal at seq"), "{}", outcome.stdout);
    let results: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(results["roots_equal"], true);
    assert_eq!(results["replicas"], 4);
    assert!(results["operations"].as_u64().unwrap() > 0);
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "only the results are left: {left:?}");
}

#[test]
fn ctrl_c_ends_it_with_its_cluster() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = command(&["bench", "--duration", "600", "--depth", "1", "--clients", "1"]);
    bench.env("TMPDIR", directory.path());
    let process = Running::start(bench);
    let replicas = wait_for("four replicas", || Some(children(process.id())).filter(|ids| ids.len() == 4));
    wait_for("load", || process.stderr().contains("operations/s").then_some(()));
    process.signal(Signal::INT);
    let outcome = process.finish();
    assert_eq!(outcome.code, Some(130), "{outcome:?}");
    assert!(!replicas.iter().any(|id| is_running(*id)), "replicas are left");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "files are left");
}

#[test]
fn it_loads_a_cluster_that_runs_already() {
    let files = common::Files::new(4);
    let mut running: Vec<_> = (0..4).map(|replica| files.start(replica)).collect();
    running.iter_mut().for_each(|process| process.wait_for_output("is ready on"));
    let (cluster, key) = (files.argument("cluster.toml"), files.argument("client-0.key"));
    let mut arguments = vec!["bench", "--cluster", &cluster, "--key", &key];
    arguments.extend(SHORT);
    let outcome = quorate(&arguments);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}
