//! Whole runs against the fake cluster of `quorate-client`.

use super::*;
use crate::LaunchRequest;
use crate::arguments::tests::parse;
use quorate_client::testing::FakeCluster;
use quorate_telemetry::Costs;
use quorate_wire::testing::client_key;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

/// A report whose totals grow by `step` per replica and call.
fn report(calls: &AtomicU64, replica: u8, root: bool, roots: [&str; 4]) -> String {
    let call = calls.fetch_add(1, Ordering::Relaxed);
    let costs = Costs { cpu_us: call * 1000, enters: call, entries: 8 * call, ..Costs::default() };
    let report = ReplicaReport {
        replica,
        root: root.then(|| roots[usize::from(replica)].to_owned()),
        root_seq: root.then_some(77),
        durability: "memory".to_owned(),
        security: "plaintext".to_owned(),
        costs,
        ..ReplicaReport::default()
    };
    serde_json::to_string(&report).unwrap()
}

fn bench(line: &str, roots: [&'static str; 4]) -> (anyhow::Result<Verdict>, Vec<&'static str>) {
    let events = std::rc::Rc::new(RefCell::new(Vec::new()));
    let fake = FakeCluster::start(&[0, 1, 2, 3]);
    let calls = AtomicU64::new(0);
    fake.state().report = Box::new(move |replica, root| report(&calls, replica, root, roots));
    let launch = |_: &LaunchRequest| {
        events.borrow_mut().push("launched");
        let events = std::rc::Rc::clone(&events);
        let stop = move || {
            events.borrow_mut().push("stopped");
            Ok(())
        };
        Ok(RunningCluster::local(Arc::clone(&fake.config), vec![client_key()], Vec::new(), stop))
    };
    let verdict = run(&parse(line).unwrap(), &launch);
    let events = events.borrow().clone();
    (verdict, events)
}

#[test]
fn a_run_loads_measures_compares_roots_and_stops_the_cluster() {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("results.json");
    let line = format!(
        "--clients 3 --depth 4 --bundle 5 --duration 0.3 --warmup 0.1 --read-ratio 0.5 --threads 2 --json {}",
        json.display()
    );
    let (verdict, events) = bench(&line, ["aa"; 4]);
    let verdict = verdict.unwrap();
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    assert_eq!(events, ["launched", "stopped"]);
    assert!(verdict.report.operations > 0 && verdict.report.operations % 5 == 0, "{verdict}");
    assert!(verdict.report.seconds >= 0.3);
    assert!(verdict.report.latency_us.p50 > 0.0);
    assert!((verdict.report.cluster.entries_per_enter - 8.0).abs() < 1e-9);
    assert!(verdict.roots.contains("all 4 roots are equal at seq 77: aa"));
    let written: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(written["roots_equal"], true);
    assert_eq!(written["durability"], "memory");
    assert_eq!(written["flags"]["bundle"], 5);
}

#[test]
fn different_roots_fail_the_run() {
    let (verdict, events) = bench("--clients 1 --duration 0.1 --warmup 0", ["aa", "aa", "bb", "aa"]);
    let verdict = verdict.unwrap();
    assert_eq!((verdict.exit_code(), verdict.report.roots_equal), (1, false));
    assert!(verdict.to_string().contains("DIFFERENT states:\n  replica 0 at seq 77: aa"), "{verdict}");
    assert_eq!(events, ["launched", "stopped"]);
}

#[test]
fn a_run_that_cannot_start_says_why_and_leaves_no_cluster_behind() {
    let error = run(&parse("--clients 0").unwrap(), &|_| unreachable!("the flags are checked first"));
    assert!(error.unwrap_err().to_string().contains("--clients 0"));
    let (verdict, events) = bench("--json /nonexistent/results.json", ["aa"; 4]);
    assert!(format!("{:#}", verdict.unwrap_err()).contains("--json: cannot write /nonexistent/results.json"));
    assert!(events.is_empty());
}
