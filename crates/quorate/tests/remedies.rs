//! What the binary tells an operator to do works: each remedy is followed here as it is printed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::{DEADLINE, Files, Outcome, Running, quorate};

/// What a command says that did not do what was asked.
#[track_caller]
fn fails(outcome: &Outcome, code: i32, parts: &[&str]) {
    assert_eq!(outcome.code, Some(code), "{outcome:?}");
    for part in parts {
        assert!(outcome.stderr.contains(part), "no {part:?} in: {}", outcome.stderr);
    }
}

#[track_caller]
fn works(outcome: &Outcome) {
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

/// Starts all replicas and waits until each takes clients.
fn start_all(files: &Files, replicas: usize) -> Vec<Running> {
    let mut running: Vec<_> = (0..replicas).map(|replica| files.start(replica)).collect();
    for (replica, process) in running.iter_mut().enumerate() {
        process.wait_for_output(&format!("replica {replica} is ready on"));
    }
    running
}

fn stop(running: Vec<Running>) {
    running.iter().for_each(|process| process.signal(rustix::process::Signal::TERM));
    running.into_iter().for_each(|process| works(&process.finish()));
}

/// The key of a client of `of`, taken to the cluster of `to`, as a command that needs a client says it.
fn with_key(to: &Files, of: &Files, key: &str, words: &[&str]) -> Outcome {
    let seconds = DEADLINE.as_secs().to_string();
    let (cluster, key) = (to.argument("cluster.toml"), of.argument(key));
    let mut arguments = vec!["kv", "--cluster", &cluster, "--key", &key, "--timeout", &seconds];
    arguments.extend(words);
    quorate(&arguments)
}

/// The clients of a cluster are part of what it is: a new key comes with a new cluster that has the same data.
#[test]
fn a_key_that_a_cluster_does_not_know() {
    let (files, other) = (Files::new(4), Files::new(1));
    let running = start_all(&files, 4);
    works(&files.kv(&["set", "greeting", "hello"]));
    let advice = [
        "not among `clients`",
        "use the key of one of them",
        "`quorate backup`",
        "`quorate restore --clients N`",
    ];
    fails(&with_key(&files, &other, "client-0.key", &["get", "greeting"]), 2, &advice);
    works(&with_key(&files, &files, "client-0.key", &["get", "greeting"]));

    let (cluster, backup) = (files.argument("cluster.toml"), files.argument("backup"));
    works(&quorate(&["backup", "--cluster", &cluster, "--to", &backup]));
    let restored = Files::made(&["restore", "--from", &backup, "--clients", "2"], 4);
    stop(running);
    let running = start_all(&restored, 4);
    let got = with_key(&restored, &restored, "client-1.key", &["get", "greeting"]);
    assert_eq!((got.code, got.stdout.as_str()), (Some(0), "hello\n"), "{got:?}");
    stop(running);
}

/// Nobody is told to change the cluster file: who does it all the same is told the way back.
#[test]
fn a_cluster_file_that_was_changed() {
    let files = Files::new(4);
    let key =
        files.text("cluster.toml").lines().find(|line| line.contains("# client-0.key")).unwrap().to_owned();
    let added =
        format!("{key}\n    \"{}\",", quorate_types::SigningKey::from_seed(&[7; 32]).public().to_hex());
    files.edit("cluster.toml", &key, &added);
    let refused = quorate(&["start", "--config", &files.argument("replica-1.toml")]);
    fails(&refused, 2, &["put the old cluster file back"]);
    files.edit("cluster.toml", &added, &key);
    stop(start_all(&files, 4));
}
