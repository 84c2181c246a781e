//! Many processes, one client key: each is its own client, whatever its clock says.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::Files;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROCESSES: usize = 100;
/// As many at once as a shell with `xargs -P` starts.
const AT_ONCE: usize = 20;

/// Runs one command per process, several at once, and returns the exit codes and what was printed.
fn run_all(files: &Files, words: impl Fn(usize) -> Vec<String> + Sync) -> Vec<(Option<i32>, String)> {
    let mut outcomes = vec![(None, String::new()); PROCESSES];
    std::thread::scope(|scope| {
        for (thread, part) in outcomes.chunks_mut(PROCESSES / AT_ONCE).enumerate() {
            let words = &words;
            scope.spawn(move || {
                for (at, outcome) in part.iter_mut().enumerate() {
                    let words = words(thread * (PROCESSES / AT_ONCE) + at);
                    let words: Vec<&str> = words.iter().map(String::as_str).collect();
                    let done = files.kv(&[&words[..], &["--timeout", "60"]].concat());
                    *outcome = (done.code, done.stdout);
                }
            });
        }
    });
    outcomes
}

/// Where distributions put the library that shows a process another time; nothing if it is not installed.
fn clock_library() -> Option<PathBuf> {
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"]
        .map(|directory| Path::new(directory).join("faketime/libfaketime.so.1"))
        .into_iter()
        .find(|path| path.exists())
}

/// A `kv` under a clock that differs from the true one by so much. Only the time of day: what counts seconds goes on.
fn kv_at(files: &Files, library: &Path, offset: &str, words: &[&str]) -> (Option<i32>, String) {
    let mut command = common::command(&["kv", "--cluster", &files.argument("cluster.toml")]);
    command.args(words).args(["--timeout", "60"]);
    command.env("LD_PRELOAD", library).env("FAKETIME", offset).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let done = common::run(command);
    (done.code, done.stdout)
}

/// A process from an hour ahead must not use up what those of the present need: no clock of a client takes part in anything.
#[test]
fn a_process_under_a_clock_an_hour_fast_takes_nothing_from_the_others_of_its_key() {
    let Some(library) = clock_library() else {
        println!(
            "skipped: a_process_under_a_clock_an_hour_fast_takes_nothing_from_the_others_of_its_key needs libfaketime"
        );
        return;
    };
    let files = Files::new(4);
    let mut running: Vec<_> = (0..4).map(|replica| files.start(replica)).collect();
    for (replica, process) in running.iter_mut().enumerate() {
        process.wait_for_output(&format!("replica {replica} is ready on 127.0.0.1:"));
    }
    let time = |offset: &str| {
        let mut command = Command::new("date");
        command.arg("+%s").env("LD_PRELOAD", &library).env("FAKETIME", offset);
        let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
        text.trim().parse::<u64>().unwrap()
    };
    assert!(time("+1h") > time("+0") + 3000, "the library shows another time");
    for round in 0..5 {
        // The one ahead comes first, then both at once, each in a session of its own.
        let key = |who: &str| format!("{who}-{round}");
        assert_eq!(kv_at(&files, &library, "+1h", &["set", "before", "fast"]), (Some(0), "OK\n".to_owned()));
        std::thread::scope(|scope| {
            for (who, offset) in [("fast", "+1h"), ("true", "+0"), ("slow", "-1h")] {
                let (files, library) = (&files, library.as_path());
                scope.spawn(move || {
                    let (key, ok) = (key(who), (Some(0), "OK\n".to_owned()));
                    assert_eq!(kv_at(files, library, offset, &["set", &key, who]), ok);
                    let read = kv_at(files, library, offset, &["get", &key]);
                    assert_eq!(read, (Some(0), format!("{who}\n")));
                });
            }
        });
        for who in ["fast", "true", "slow"] {
            assert_eq!(kv_at(&files, &library, "+0", &["get", &key(who)]), (Some(0), format!("{who}\n")));
        }
    }
}

#[test]
fn parallel_processes_with_one_key_lose_nothing_and_each_gets_its_own_answer() {
    let files = Files::new(4);
    let mut running: Vec<_> = (0..4).map(|replica| files.start(replica)).collect();
    for (replica, process) in running.iter_mut().enumerate() {
        process.wait_for_output(&format!("replica {replica} is ready on 127.0.0.1:"));
    }
    let written =
        run_all(&files, |number| vec!["set".to_owned(), format!("key-{number}"), format!("value-{number}")]);
    let read = run_all(&files, |number| vec!["get".to_owned(), format!("key-{number}")]);
    for (number, (written, read)) in written.into_iter().zip(read).enumerate() {
        assert_eq!(written, (Some(0), "OK\n".to_owned()), "set {number}");
        assert_eq!(read, (Some(0), format!("value-{number}\n")), "get {number}");
    }
    drop(running);
}
