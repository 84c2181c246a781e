//! A cluster of real processes from `init` to SIGTERM.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::{DEADLINE, Files, Running, command, wait_for};
use rustix::process::Signal;
use std::os::unix::net::UnixDatagram;
use std::time::Instant;

/// Starts all replicas and waits until each is linked with all others.
fn start_all(files: &Files, replicas: usize) -> Vec<Running> {
    let mut running: Vec<_> = (0..replicas).map(|replica| files.start(replica)).collect();
    for (replica, process) in running.iter_mut().enumerate() {
        process.wait_for_output(&format!("replica {replica} is ready on 127.0.0.1:"));
    }
    wait_for("links between all replicas", || all_linked(files).then_some(()));
    running
}

fn all_linked(files: &Files) -> bool {
    let status = json(files);
    let replicas = status["replicas"].as_array().unwrap();
    replicas.iter().all(|replica| {
        let peers = replica["report"]["peers"].as_array();
        peers.is_some_and(|peers| peers.iter().all(|peer| peer["connected"] == true))
    })
}

fn json(files: &Files) -> serde_json::Value {
    serde_json::from_str(&files.status(&["--json"]).stdout).unwrap()
}

/// Exit code and standard output of a kv command.
fn kv(files: &Files, line: &str) -> (Option<i32>, String) {
    let words: Vec<_> = line.split_whitespace().collect();
    let outcome = files.kv(&words);
    (outcome.code, outcome.stdout)
}

#[track_caller]
fn prints(files: &Files, line: &str, expected: &str) {
    assert_eq!(kv(files, line), (Some(0), expected.to_owned()), "{line}");
}

#[test]
fn four_replicas_from_init_to_sigterm() {
    let files = Files::new(4);
    let running = start_all(&files, 4);

    prints(&files, "set greeting hello", "OK\n");
    prints(&files, "get greeting", "hello\n");
    prints(&files, "get greeting --raw", "hello");
    prints(&files, "append greeting !", "6\n");
    prints(&files, "incr visits 5", "5\n");
    prints(&files, "incr visits -7", "-2\n");
    prints(&files, "mset user:1 ann user:2 bob user:3 eve", "OK\n");
    prints(&files, "mget user:1 user:3", "user:1\tann\nuser:3\teve\n");
    prints(&files, "scan", "greeting\thello!\nuser:1\tann\nuser:2\tbob\nuser:3\teve\nvisits\t-2\n");
    prints(&files, "scan --prefix user: --limit 2", "user:1\tann\nuser:2\tbob\n");
    prints(&files, "scan --start user:2 --end user:3", "user:2\tbob\n");
    prints(&files, "exists user:1 user:2", "2\n");
    prints(&files, "del user:1 user:2 user:9", "2\n");

    assert_eq!(kv(&files, "get user:1"), (Some(4), String::new()));
    assert_eq!(kv(&files, "exists user:1 user:3"), (Some(4), "1\n".to_owned()));
    assert_eq!(kv(&files, "mget user:1 user:3"), (Some(4), "user:3\teve\n".to_owned()));
    assert_eq!(kv(&files, "set greeting x --nx"), (Some(4), String::new()));
    assert_eq!(kv(&files, "set nobody x --xx"), (Some(4), String::new()));
    assert_eq!(kv(&files, "set greeting x --version 1"), (Some(4), String::new()));
    let failed = files.kv(&["incr", "greeting"]);
    assert!(failed.code == Some(5) && failed.stderr.contains("not an integer"), "{failed:?}");

    let (_, versioned) = kv(&files, "get greeting --versions");
    let (version, value) = versioned.split_once('\t').unwrap();
    assert_eq!(value, "hello!\n");
    prints(&files, &format!("set greeting bye --version {version}"), "OK\n");
    prints(&files, "get greeting --home 3", "bye\n");

    let status = wait_for("equal roots at one seq", || {
        let status = files.status(&[]);
        status.stdout.contains("The roots of all 4 replicas that answer are equal").then_some(status)
    });
    assert_eq!(status.code, Some(0), "{status:?}");
    assert!(
        status
            .stdout
            .starts_with("Good: the cluster takes writes and tolerates 1 more fault; all 4 replicas vote"),
        "{}",
        status.stdout
    );
    let whole = files.status(&["--root"]);
    let roots = whole.stdout.split_whitespace().filter(|word| word.len() == 64).count();
    assert_eq!(roots, 4, "{}", whole.stdout);
    let status = json(&files);
    assert_eq!(
        (&status["verdict"], &status["takes"], &status["tolerates"]),
        (&"good".into(), &"writes".into(), &1.into())
    );
    assert_eq!((&status["roots"], &status["findings"]), (&"equal".into(), &serde_json::json!([])));
    for replica in status["replicas"].as_array().unwrap() {
        let report = &replica["report"];
        assert_eq!(
            (&report["version"], &report["role"]),
            (&env!("CARGO_PKG_VERSION").into(), &"voter".into())
        );
        for figure in ["log_bytes", "log_bytes_max", "disk_free_bytes"] {
            assert!(report[figure].as_u64().unwrap() > 0, "{figure}: {report}");
        }
        assert!(report["costs"]["uptime_ms"].as_u64().unwrap() > 0, "{report}");
    }

    for (replica, process) in running.into_iter().enumerate() {
        process.signal(Signal::TERM);
        let outcome = process.finish();
        assert_eq!(outcome.code, Some(0), "replica {replica}: {outcome:?}");
        assert!(!outcome.stderr.contains("panicked"), "replica {replica}: {}", outcome.stderr);
    }
}

#[test]
fn a_cluster_that_does_not_run_is_told_within_the_time_out() {
    let files = Files::new(4);
    let started = Instant::now();
    let outcome = files.kv(&["get", "key", "--timeout", "3"]);
    assert!(started.elapsed() < DEADLINE / 2, "it took {:?}", started.elapsed());
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(7), ""), "{outcome:?}");
    for part in
        ["0 of 4 replicas connected after 3 s", "start the others", "replica 3 at 127.0.0.1:", "refused"]
    {
        assert!(outcome.stderr.contains(part), "no {part:?} in {}", outcome.stderr);
    }
    let status = files.status(&[]);
    assert_eq!(status.code, Some(1), "{status:?}");
    assert_eq!(status.stdout.matches("does not answer: Connection refused").count(), 4, "{}", status.stdout);
    assert!(status.stdout.starts_with("No progress: 0 of 4 replicas can vote"), "{}", status.stdout);
}

#[test]
fn too_few_replicas_are_told_in_words_and_a_stopped_one_does_not_hold_status_up() {
    let files = Files::new(4);
    let mut running = start_all(&files, 4);
    running[3].signal(Signal::STOP);
    wait_for("the answers of the three others", || {
        let status = files.status(&[]);
        let told = status.stdout.contains("silent for") && status.stdout.contains("3 of 4 replicas ");
        told.then(|| assert_eq!(status.code, Some(4), "{status:?}"))
    });
    running[3].signal(Signal::CONT);
    running.truncate(2);
    let status = wait_for("the answers of the two that are left", || {
        let status = files.status(&[]);
        status.stdout.contains("2 of 4 replicas can vote and a quorum is 3").then_some(status)
    });
    assert_eq!(status.code, Some(1), "{status:?}");
    wait_for("a replica that says why", || {
        let status = files.status(&[]);
        status.stdout.contains("cut off: linked with 2, itself included, and a quorum is 3").then_some(())
    });
}

#[test]
fn a_service_manager_is_told_of_readiness_and_of_the_end() {
    let files = Files::new(1);
    let path = files.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let receive = || {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let mut start = command(&["start", "--config", &files.argument("replica-0.toml")]);
    start.env("NOTIFY_SOCKET", &path);
    let process = Running::start(start);
    assert!(receive().starts_with("READY=1\n"));
    process.signal(Signal::INT);
    assert_eq!(receive(), "STOPPING=1\n");
    assert_eq!(process.finish().code, Some(0));
}

#[test]
fn a_cluster_of_one_serves_alone() {
    let files = Files::new(1);
    let _running = start_all(&files, 1);
    prints(&files, "set a 1", "OK\n");
    prints(&files, "get a", "1\n");
}
