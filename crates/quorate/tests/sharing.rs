//! Many processes, one client key: each is its own client, whatever its clock says.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::Files;

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
