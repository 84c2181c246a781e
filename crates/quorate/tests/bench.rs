//! `quorate bench` with the local cluster that it starts.

mod common;

use common::{Running, children, command, is_running, quorate, wait_for};
use rustix::process::Signal;

const SHORT: [&str; 8] = ["--duration", "1", "--warmup", "0.2", "--clients", "2", "--depth", "4"];

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
fn an_open_loop_writes_everything_that_it_measured() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out").display().to_string();
    let line = "bench --rate 2000 --arrival poisson --bundle 10 --interval 0.25 --value-size 64..256 \
                --distribution zipfian --mix set=50,get=40,incr=5,append=1,del=2,scan=2";
    let mut arguments: Vec<_> = line.split_whitespace().chain(SHORT).collect();
    arguments.extend(["--out", &out]);
    let outcome = quorate(&arguments);
    // Whether such a short run keeps up and finds the generator in time depends on what else runs here.
    assert!(outcome.stdout.contains("all 4 roots are equal at seq"), "{outcome:?}");
    assert!(!outcome.stdout.contains("operations failed"), "{outcome:?}");
    let text = |name: &str| std::fs::read_to_string(format!("{out}/{name}")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&text("summary.json")).unwrap();
    assert_eq!((&summary["load"], &summary["errors"]), (&"open loop".into(), &0.into()));
    assert!(summary["open_loop"]["scheduled_operations"].as_u64().unwrap() > 0);
    let rows = text("timeseries.csv").lines().count() - 1;
    assert!(rows >= 1);
    assert!(text("latency.hlog").contains("#[Histogram log format version 1.3]"));
    assert_eq!(text("latency.hlog").matches("Tag=response,").count(), rows);
    assert!(text("latency.hgrm").contains("1/(1-Percentile)"));
    let page = text("report.html");
    assert!(page.contains("<svg") && page.trim_end().ends_with("</html>"));
    let same = quorate(&["bench", "compare", &out, &out]);
    assert_eq!(same.code, Some(0), "{same:?}");
    assert!(same.stdout.contains("all flags and circumstances are the same"), "{}", same.stdout);
}

#[test]
fn a_replica_that_is_killed_fails_the_run_unless_it_may_be_down() {
    // Long enough that the replica dies before the run is over, also where this process has to wait for a CPU: it may die
    // at any moment from the first load on.
    for (flags, code) in [(&["--duration", "5"][..], 1), (&["--duration", "5", "--allow-down", "1"], 0)] {
        let directory = tempfile::tempdir().unwrap();
        let mut arguments = vec!["bench", "--warmup", "0.3", "--interval", "0.2", "--clients", "2"];
        arguments.extend(flags);
        let mut bench = command(&arguments);
        bench.env("TMPDIR", directory.path());
        let process = Running::start(bench);
        let replicas =
            wait_for("four replicas", || Some(children(process.id())).filter(|ids| ids.len() == 4));
        wait_for("load", || process.stderr().contains("operations/s").then_some(()));
        // The last one is a backup.
        common::signal(replicas[3], Signal::KILL);
        let outcome = process.finish();
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        assert!(outcome.stdout.contains("replica 3 was down"), "{outcome:?}");
        assert!(outcome.stdout.contains("the 3 roots of 4 replicas that report are equal"), "{outcome:?}");
    }
}

#[test]
fn a_sweep_finds_where_the_rates_end() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out").display().to_string();
    let mut arguments = vec!["bench", "sweep", "--from", "500", "--to", "1000", "--step", "2", "--out", &out];
    arguments.extend(SHORT);
    let outcome = quorate(&arguments);
    assert!(outcome.stdout.contains("target/s"), "{outcome:?}");
    let text = std::fs::read_to_string(format!("{out}/sweep.json")).unwrap();
    let sweep: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(!sweep["steps"].as_array().unwrap().is_empty());
    assert!(std::fs::read_to_string(format!("{out}/sweep.html")).unwrap().contains("<svg"));
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
