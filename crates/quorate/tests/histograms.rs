//! Where time goes, as files and on the terminal, from real processes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::{Files, Running, command, quorate, wait_for};
use quorate_telemetry::{Measure, decode};
use rustix::process::Signal;
use std::path::Path;

/// Starts all replicas, each with a directory of its own for dumps, and has each be home once.
fn start_all(files: &Files, interval_s: u64) -> Vec<Running> {
    let mut running = Vec::new();
    for replica in 0..4 {
        let file = format!("replica-{replica}.toml");
        files.edit(&file, "# directory = \"histograms\"", "directory = \"dumps\"");
        files.edit(&file, "interval_s = 0", &format!("interval_s = {interval_s}"));
        running.push(files.start(replica));
    }
    for (replica, process) in running.iter_mut().enumerate() {
        process.wait_for_output(&format!("replica {replica} is ready on 127.0.0.1:"));
    }
    (0..4).for_each(|home| be_home(files, home));
    running
}

/// Asks a replica to be home. On a busy machine it may take so long that another one is asked, too, and answers first: what
/// depends on it is asked for again.
fn be_home(files: &Files, home: usize) {
    let home = home.to_string();
    assert_eq!(files.kv(&["set", "key", &home, "--home", &home]).code, Some(0));
}

/// The values of a measure in all intervals of a log, or none if there is no such log yet.
fn count(log: &Path, measure: Measure) -> Option<u64> {
    let text = std::fs::read_to_string(log).ok()?;
    let prefix = format!("Tag={},", measure.name());
    let lines = text.lines().filter(|line| line.starts_with(&prefix));
    let histograms = lines.map(|line| decode(line.rsplit_once(',').unwrap().1).unwrap());
    histograms.map(|histogram| histogram.len()).reduce(|sum, next| sum + next)
}

/// Every bundle has passed every stage at its home: the registration of its session and the operation.
fn is_complete(log: &Path) -> bool {
    let suffices = |measure: &Measure| count(log, *measure) >= Some(if measure.is_stage() { 2 } else { 1 });
    Measure::ALL.iter().all(suffices)
}

#[test]
fn histograms_of_those_that_answer_are_written_and_the_others_named() {
    let files = Files::new(4);
    let mut running = start_all(&files, 0);
    let (cluster, out) = (files.argument("cluster.toml"), files.argument("out"));
    wait_for("histograms of all stages of all", || {
        let outcome = quorate(&["histograms", "--cluster", &cluster, "--out", &out]);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{outcome:?}");
        let lacks = |replica: &usize| !is_complete(&files.path(&format!("out/replica-{replica}.hlog")));
        let lacking: Vec<usize> = (0..4).filter(lacks).collect();
        lacking.iter().for_each(|replica| be_home(&files, *replica));
        lacking.is_empty().then_some(())
    });
    for replica in 0..4 {
        let stage = files.path(&format!("out/replica-{replica}-executed.hgrm"));
        let text = std::fs::read_to_string(stage).unwrap();
        assert!(text.contains("Percentile") && text.contains("#[Mean"), "{text}");
    }
    running.pop();
    let outcome = quorate(&["histograms", "--cluster", &cluster, "--out", &out]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stdout.contains("replica 3: nothing from 127.0.0.1:"), "{outcome:?}");
    assert_eq!(outcome.stdout.matches(" bundles in ").count(), 3, "{outcome:?}");
    // Nothing was written where a replica writes by itself.
    assert!(!files.path("dumps").exists());
}

#[test]
fn a_replica_dumps_when_it_is_signalled() {
    let files = Files::new(4);
    let running = start_all(&files, 0);
    let log = files.path("dumps/replica-1.hlog");
    running[1].signal(Signal::USR1);
    // The percentiles of the last measure are written last.
    wait_for("a dump", || files.path("dumps/replica-1-bytes_per_send.hgrm").exists().then_some(()));
    let before = count(&log, Measure::Replied);
    wait_for("another interval, in which all stages were passed", || {
        be_home(&files, 1);
        running[1].signal(Signal::USR1);
        (count(&log, Measure::Replied) > before && is_complete(&log)).then_some(())
    });
    assert!(!files.path("dumps/replica-0.hlog").exists(), "the others were not asked");
}

#[test]
fn a_replica_dumps_regularly_and_at_its_end() {
    let files = Files::new(4);
    let running = start_all(&files, 1);
    for replica in 0..4 {
        let log = files.path(&format!("dumps/replica-{replica}.hlog"));
        wait_for("a dump with all stages", || {
            let complete = is_complete(&log);
            if !complete {
                be_home(&files, replica);
            }
            complete.then_some(())
        });
    }
    for process in running {
        process.signal(Signal::TERM);
        assert_eq!(process.finish().code, Some(0));
    }
    (0..4).for_each(|replica| assert!(is_complete(&files.path(&format!("dumps/replica-{replica}.hlog")))));
}

#[test]
fn costs_and_stages_are_shown_until_ctrl_c_also_when_a_replica_is_down() {
    let files = Files::new(4);
    let mut running = start_all(&files, 0);
    running.pop();
    let cluster = files.argument("cluster.toml");
    let mut watch = Running::start(command(&["status", "--watch", "1", "--cluster", &cluster]));
    let mut writes = 0..1000;
    wait_for("a block with operations", || {
        let number = writes.next().unwrap().to_string();
        assert_eq!(files.kv(&["set", "key", &number, "--home", "1"]).code, Some(0));
        watch.stdout().contains("max ms   share").then_some(())
    });
    watch.wait_for_output("besides");
    watch.signal(Signal::INT);
    let outcome = watch.finish();
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{outcome:?}");
    for part in ["3 of 4 replicas vote", "per operation", "replica 3  ", "no figures: Connection refused"] {
        assert!(outcome.stdout.contains(part), "no {part:?} in {}", outcome.stdout);
    }
    assert!(!outcome.stdout.contains('\x1b'), "a file is no terminal: {}", outcome.stdout);
    let refused = quorate(&["status", "--watch", "0", "--cluster", &cluster]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
}
