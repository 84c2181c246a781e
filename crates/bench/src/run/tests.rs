//! Whole runs against the fake cluster of `quorate-client`.

use super::*;
use crate::LaunchRequest;
use crate::StopProblem;
use crate::arguments::tests::parse;
use quorate_client::testing::FakeCluster;
use quorate_telemetry::{Costs, ReplicaReport};
use quorate_types::ReplicaId;
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
        durability: "sync".to_owned(),
        security: "plaintext".to_owned(),
        costs,
        ..ReplicaReport::default()
    };
    serde_json::to_string(&report).unwrap()
}

fn bench(line: &str, roots: [&'static str; 4]) -> (anyhow::Result<Verdict>, Vec<&'static str>) {
    bench_with(line, roots, &[0, 1, 2, 3])
}

/// A run on a cluster of four of which only `serving` answer; the others are told to have been killed.
fn bench_with(
    line: &str,
    roots: [&'static str; 4],
    serving: &[u8],
) -> (anyhow::Result<Verdict>, Vec<&'static str>) {
    let events = std::rc::Rc::new(RefCell::new(Vec::new()));
    let fake = FakeCluster::start(serving);
    let down: Vec<u8> = (0..4).filter(|replica| !serving.contains(replica)).collect();
    let calls = AtomicU64::new(0);
    fake.state().report = Box::new(move |replica, root| report(&calls, replica, root, roots));
    let launch = |_: &LaunchRequest| {
        events.borrow_mut().push("launched");
        let events = std::rc::Rc::clone(&events);
        let killed = |replica: &u8| StopProblem {
            replica: ReplicaId(*replica),
            text: format!("replica {replica} ended: killed by signal 9"),
        };
        let problems = down.iter().map(killed).collect();
        let stop = move || {
            events.borrow_mut().push("stopped");
            problems
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
        "--clients 3 --depth 1 --bundle 5 --duration 0.3 --warmup 0.1 --mix set=1,get=1 --threads 2 --json {}",
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
    assert!(verdict.report.roots.contains("all 4 roots are equal at seq 77: aa"));
    let written: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(written["roots_equal"], true);
    assert_eq!(written["durability"], "sync");
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
fn an_open_loop_sends_what_is_due_and_writes_all_files() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let line = format!(
        "--rate 2000 --bundle 5 --clients 3 --threads 2 --arrival poisson --duration 0.6 --warmup 0.1 --interval 0.2 \
         --runs 2 --out {}",
        out.display()
    );
    let (verdict, _) = bench(&line, ["aa"; 4]);
    let report = verdict.unwrap().report;
    let open = report.open_loop.unwrap();
    assert!(open.scheduled_operations > 0 && report.operations > 0);
    assert!(report.response_us.max >= report.service_us.p50);
    assert_eq!(report.runs.len(), 2);
    let text = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let summary: crate::BenchReport = serde_json::from_str(&text("summary.json")).unwrap();
    // The last digit of a number in JSON may differ.
    assert_eq!((summary.operations, summary.flags), (report.operations, report.flags));
    let rows: Vec<String> = text("timeseries.csv").lines().map(str::to_owned).collect();
    // At least the last interval of each run: others are left out where the machine was too busy for them.
    assert!(
        rows.len() >= 3 && rows[0].starts_with("run,") && rows[rows.len() - 1].starts_with("2,"),
        "{rows:?}"
    );
    assert_eq!(text("latency.hlog").matches("Tag=response,").count(), rows.len() - 1);
    assert_eq!(text("latency.hlog").matches("Tag=service,").count(), rows.len() - 1);
    assert!(text("latency.hgrm").contains("#[Max"));
    assert!(text("report.html").contains("<svg"));
    let bundles: u64 =
        rows[1..].iter().map(|row| row.split(',').nth(6).unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(bundles, open.scheduled_operations);
}

#[test]
fn a_replica_that_is_down_is_named_and_fails_the_run_unless_that_is_allowed() {
    // One small bundle at a time: a thread that waits for answers is not taken for the bottleneck, however slow the build.
    let line = "--clients 1 --depth 1 --bundle 1 --duration 0.5 --warmup 0";
    let (verdict, _) = bench_with(line, ["aa"; 4], &[0, 1, 2]);
    let verdict = verdict.unwrap();
    assert_eq!((verdict.exit_code(), verdict.report.roots_equal), (1, true));
    let text = verdict.to_string();
    assert!(text.contains("the 3 roots of 4 replicas that report are equal"), "{text}");
    assert!(
        text.contains("FAILED: replica 3 was down") && text.contains("3 of 4 replicas together"),
        "{text}"
    );
    let (verdict, _) = bench_with(&format!("{line} --allow-down 1"), ["aa"; 4], &[0, 1, 2]);
    let verdict = verdict.unwrap();
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    let text = verdict.to_string();
    assert!(text.contains("note: replica 3 was down, as --allow-down permits"), "{text}");
    assert!(text.contains("note: replica 3 ended: killed by signal 9"), "{text}");
}

#[test]
fn a_run_that_cannot_start_says_why_and_leaves_no_cluster_behind() {
    let error = run(&parse("--clients 0").unwrap(), &|_| unreachable!("the flags are checked first"));
    assert!(error.unwrap_err().to_string().contains("--clients 0"));
    let (verdict, events) = bench("--json /nonexistent/results.json", ["aa"; 4]);
    assert!(format!("{:#}", verdict.unwrap_err()).contains("--json: cannot write /nonexistent/results.json"));
    assert!(events.is_empty());
}
