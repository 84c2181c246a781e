//! What operators meet beside the cluster itself: pipes that end, logs that others read, rights, two at a time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::{Files, Outcome, Running, children, command, quorate, run, wait_for};
use rustix::process::Signal;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs a line of shell, in which `$Q` is the binary.
fn shell(line: &str) -> Outcome {
    let quorate = command(&[]);
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).env("Q", quorate.get_program()).stdin(Stdio::null());
    run(shell)
}

#[track_caller]
fn refused(outcome: &Outcome, code: i32, parts: &[&str]) {
    assert_eq!(outcome.code, Some(code), "{outcome:?}");
    assert_eq!(outcome.stdout, "");
    for part in parts {
        assert!(outcome.stderr.contains(part), "no {part:?} in: {}", outcome.stderr);
    }
}

fn ready(mut replica: Running) -> Running {
    replica.wait_for_output("is ready on");
    replica
}

#[test]
fn who_writes_on_and_on_ends_with_its_reader() {
    let files = Files::new(1);
    let _replica = ready(files.start(0));
    let cluster = files.argument("cluster.toml");
    // The next block would be due when nobody waits any more.
    for line in ["status --watch 1 | head -n 1", "status --watch 3600 | true"] {
        let outcome = shell(&line.replacen("status", &format!("$Q status --cluster {cluster}"), 1));
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{line}: {outcome:?}");
    }
    let keys: Vec<String> = (0..200).map(|key| format!("{key:0500}")).collect();
    for pairs in keys.chunks(20) {
        let words: Vec<&str> = pairs.iter().flat_map(|key| [key.as_str(), "value"]).collect();
        assert_eq!(files.kv(&[&["mset"], &words[..]].concat()).code, Some(0));
    }
    let outcome = shell(&format!("$Q kv --timeout 60 --cluster {cluster} scan | head -c 1"));
    assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (Some(0), "0", ""));
}

/// Whoever reads the log may go away at any time; a replica goes on.
#[test]
fn a_replica_outlives_the_reader_of_its_log() {
    let files = Files::new(1);
    let config = files.argument("replica-0.toml");
    let mut start = command(&["start", "--config", &config, "--log", "debug"]);
    let mut child = start.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    wait_for("an answer", || (files.kv(&["set", "a", "b"]).code == Some(0)).then_some(()));
    assert_eq!(child.try_wait().unwrap(), None);
    child.kill().unwrap();
    child.wait().unwrap();
}

fn in_the_journal(
    words: &[&str],
    stream: impl FnOnce(&File) -> String,
) -> (Running, PathBuf, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let file = File::create(&path).unwrap();
    let quorate = command(words);
    // The helper of these tests has standard error go to a file of its own: the shell sends it on to this one.
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$0\" \"$@\" 2>>\"$JOURNAL\""]).arg(quorate.get_program()).args(words);
    shell.env("JOURNAL", &path).env("JOURNAL_STREAM", stream(&file)).env_remove("QUORATE_LOG");
    (Running::start(shell), path, directory)
}

fn of_file(file: &File) -> String {
    let metadata = file.metadata().unwrap();
    format!("{}:{}", metadata.dev(), metadata.ino())
}

#[test]
fn the_journal_is_given_priorities_and_no_second_time() {
    let files = Files::new(1);
    files.edit("replica-0.toml", "durability = \"sync\"", "durability = \"async\"");
    let words = ["start", "--config", &files.argument("replica-0.toml")];
    let (replica, path, _directory) = in_the_journal(&words, of_file);
    let replica = ready(replica);
    // The port is taken: this one says why it ends.
    let (second, other, _other_directory) = in_the_journal(&words, of_file);
    assert_eq!(second.finish().code, Some(2));
    let last = std::fs::read_to_string(other).unwrap();
    assert!(last.lines().last().unwrap().starts_with("<3>quorate: "), "{last}");
    let text = wait_for("the log", || {
        let text = std::fs::read_to_string(&path).unwrap();
        text.contains("replica is ready").then_some(text)
    });
    for line in text.lines() {
        let rest = line.strip_prefix('<').and_then(|rest| rest.split_once('>'));
        let (priority, rest) = rest.unwrap_or_else(|| panic!("{line}"));
        assert!(["4", "6"].contains(&priority), "{line}");
        let time = rest.get(..4).is_some_and(|begin| begin.bytes().all(|byte| byte.is_ascii_digit()));
        assert!(!time && !rest.contains(" INFO ") && !rest.contains(" WARN "), "{line}");
    }
    assert!(text.contains("<6>replica is ready"), "{text}");
    assert!(text.contains("<4>durability = \"async\""), "{text}");
    replica.signal(Signal::TERM);
    assert_eq!(replica.finish().code, Some(0));
    // Who has standard error elsewhere writes for people, whatever the environment still says.
    let (replica, path, _directory) = in_the_journal(&words, |_| "1:2".to_owned());
    drop(ready(replica));
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(" INFO ") && !text.contains("<6>"), "{text}");
}

/// All that lies below a directory.
fn below(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_owned()];
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(below(&path)) } else { found.push(path) }
    }
    found
}

#[track_caller]
fn is_private(path: &Path) {
    let mode = std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let expected = if path.is_dir() { 0o700 } else { 0o600 };
    assert_eq!(mode, expected, "{} has mode {mode:o}", path.display());
}

/// Whatever the umask of whoever runs it.
#[test]
fn what_holds_keys_and_values_is_for_its_owner_alone() {
    let files = Files::new(1);
    let (cluster, home) = (files.argument("cluster.toml"), files.argument("home"));
    std::fs::remove_dir_all(files.path("data-0")).unwrap();
    let config = files.argument("replica-0.toml");
    let formatted = shell(&format!("umask 000; $Q format --config {config}"));
    assert_eq!(formatted.code, Some(0), "{formatted:?}");
    let mut start = Command::new("sh");
    start.args(["-c", "umask 000; exec \"$0\" \"$@\""]).arg(command(&[]).get_program());
    let _replica = ready(Running::start({
        start.args(["start", "--config", &config]);
        start
    }));
    assert_eq!(files.kv(&["set", "greeting", "hello"]).code, Some(0));
    let backed_up = shell(&format!("umask 000; $Q backup --cluster {cluster} --to {home}/backups/monday"));
    assert_eq!(backed_up.code, Some(0), "{backed_up:?}");
    let restored = shell(&format!(
        "umask 000; $Q restore --free-ports --replicas 1 --from {home}/backups/monday --dir {home}/new"
    ));
    assert_eq!(restored.code, Some(0), "{restored:?}");
    let mut found = below(&files.path("home/backups"));
    assert!(found.iter().any(|path| path.ends_with("monday/backup.toml")), "{found:?}");
    found.extend(below(&files.path("data-0")));
    assert!(
        found.iter().any(|path| path.starts_with(files.path("data-0/pages")) && path.is_file()),
        "{found:?}"
    );
    found.extend(below(&files.path("home/new/data-0")));
    found.push(files.path("home/new/client-0.key"));
    found.push(files.path("home/new/replica-0.key"));
    found.iter().for_each(|path| is_private(path));
}

#[test]
fn one_cluster_is_run_once() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("data").display().to_string();
    let mut first = Running::start(command(&["dev", "--dir", &path, "--replicas", "1"]));
    first.wait_for_output("Ctrl-C stops all replicas");
    let again = quorate(&["dev", "--dir", &path]);
    refused(
        &again,
        2,
        &[&path, "another `quorate dev` runs this cluster already", "stop that one first", "another --dir"],
    );
    // As it says: it is used, or another one is run, or the first is stopped.
    let cluster = again.stderr.split("QUORATE_CLUSTER=").nth(1).unwrap().split(')').next().unwrap();
    let mut used = command(&["kv", "--timeout", "60", "set", "a", "b"]);
    used.env("QUORATE_CLUSTER", cluster);
    assert_eq!(run(used).code, Some(0));
    let other = parent.path().join("other").display().to_string();
    let mut second = Running::start(command(&["dev", "--dir", &other, "--replicas", "1"]));
    second.wait_for_output("Ctrl-C stops all replicas");
    let replicas = children(first.id());
    first.signal(Signal::INT);
    assert_eq!(first.finish().code, Some(0));
    assert_eq!(replicas.len(), 1);
    let mut third = Running::start(command(&["dev", "--dir", &path]));
    third.wait_for_output("Ctrl-C stops all replicas");
}

#[test]
fn dev_takes_no_other_processes_for_its_own() {
    // One whose replicas run already, as services.
    let files = Files::new(1);
    // Its data is its own, and its ports are not.
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(files.path("")).unwrap() {
        let path = entry.unwrap().path();
        let copied = Command::new("cp").arg("-r").arg(&path).arg(copy.path()).status().unwrap();
        assert!(copied.success());
    }
    let replica = ready(files.start(0));
    let outcome = quorate(&["dev", "--dir", &files.argument("")]);
    refused(
        &outcome,
        2,
        &["/data-0", &format!("in use by replica 0, process {}", replica.id()), "stop that process"],
    );
    // The copy.
    let outcome = quorate(&["dev", "--dir", &copy.path().display().to_string()]);
    refused(&outcome, 1, &["replica 0 ended: exit code 2"]);
    // As it says.
    replica.signal(Signal::TERM);
    assert_eq!(replica.finish().code, Some(0));
    let mut dev = Running::start(command(&["dev", "--dir", &files.argument("")]));
    dev.wait_for_output("1 replicas are ready");
}

#[test]
fn what_is_not_there_is_neither_restored_nor_compared() {
    let directory = tempfile::tempdir().unwrap();
    let (empty, new) =
        (directory.path().display().to_string(), directory.path().join("new").display().to_string());
    for (from, problem) in
        [("/nonexistent", "there is no such directory"), (empty.as_str(), "this is no backup")]
    {
        let outcome = quorate(&["restore", "--from", from, "--dir", &new]);
        refused(
            &outcome,
            2,
            &[
                &format!("--from {from}: {problem}"),
                "name the directory that `quorate backup --to` has written",
            ],
        );
    }
    let junk = directory.path().join("junk");
    std::fs::write(&junk, "{}").unwrap();
    let junk = junk.display().to_string();
    for (given, problem) in [
        ("/nonexistent", "cannot read /nonexistent"),
        (&empty, "summary.json"),
        (&junk, "these are no results"),
    ] {
        let outcome = quorate(&["bench", "compare", given, given]);
        refused(&outcome, 2, &[problem, "give a directory that `quorate bench --out` has written"]);
    }
    std::fs::write(directory.path().join("backup.toml"), "format = 1\n").unwrap();
    let damaged = quorate(&["restore", "--from", &empty, "--dir", &new]);
    refused(
        &damaged,
        1,
        &["backup.toml: this is no sound backup; use another copy of it, or another one: it is cut off"],
    );
}

/// What went wrong is said once, whoever has noticed it.
#[test]
fn an_error_is_told_once() {
    let files = Files::new(1);
    let config = files.argument("replica-0.toml");
    let replica = ready(files.start(0));
    // A page file cannot be a directory: the checkpoint that is written at last fails.
    std::fs::remove_dir_all(files.path("data-0/pages")).unwrap();
    std::fs::write(files.path("data-0/pages"), "").unwrap();
    assert_eq!(files.kv(&["set", "a", "b"]).code, Some(0));
    let outcome = replica.finish();
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let last = outcome.stderr.lines().last().unwrap().to_owned();
    let cause =
        last.split(": ").find(|part| part.contains("os error")).unwrap_or_else(|| panic!("{outcome:?}"));
    assert_eq!(outcome.stderr.matches(cause).count(), 1, "{config}: {}", outcome.stderr);
}

#[test]
fn numbers_that_are_none_are_explained_with_option_value_and_remedy() {
    for (words, parts) in [
        (
            &["bench", "--duration", "ten"][..],
            ["--duration <SECONDS>: `ten`", "this is no number; use one as 10 or 0.5"],
        ),
        (&["bench", "--clients", "4.5"], ["--clients <N>: `4.5`", "this is no whole number; use one as 10"]),
        (
            &["bench", "--value-size", "2 KB"],
            ["--value-size <BYTES>: `2 KB`", "write it as 1048576, 512 MiB or 2G"],
        ),
        (
            &["bench", "--mix", "set=x"],
            ["--mix <KIND=WEIGHT,…>: `set=x`", "use a whole number as the weight"],
        ),
        (&["init", "--host", "here"], ["--host <ADDRESS>: `here`", "use one as 127.0.0.1"]),
        (&["init", "--base-port", "65536"], ["--base-port <PORT>: `65536`", "is not in 0..=65535"]),
        (&["kv", "incr", "key", "1e3"], ["`1e3`", "this is no whole number; use one as 10"]),
    ] {
        let outcome = quorate(words);
        refused(&outcome, 2, &parts);
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    }
}

/// All replicas say which view ended, which begins, who leads it and why.
#[test]
fn a_change_of_the_view_is_in_the_log_with_its_reason() {
    let files = Files::new(4);
    let mut running: Vec<_> = (0..4).map(|replica| files.start(replica)).collect();
    running.iter_mut().for_each(|replica| replica.wait_for_output("is ready on"));
    assert_eq!(files.kv(&["set", "a", "b"]).code, Some(0));
    drop(running.remove(0));
    assert_eq!(files.kv(&["set", "a", "c", "--home", "1"]).code, Some(0));
    for replica in &running {
        let log = wait_for("the new view in the log", || {
            let log = replica.stderr();
            log.contains("view 1 begins with primary 1").then_some(log)
        });
        let line = log.lines().find(|line| line.contains("view 1 begins")).unwrap();
        assert!(line.contains(" INFO ") && line.contains("view 0 with primary 0 was left: "), "{line}");
        let reasons = ["no header names a batch", "a header stays uncommitted", "so many others want it"];
        assert!(reasons.iter().any(|reason| line.contains(reason)), "{line}");
        assert!(log.contains("view 0 with primary 0 is left for view 1 with primary 1: "), "{log}");
    }
}

/// However many knock, the log has a line a second of them, with counts.
#[test]
fn refusals_are_in_the_log_once_a_second_with_counts() {
    let (files, other) = (Files::new(1), Files::new(1));
    let replica = ready(files.start(0));
    let port = files.values("cluster.toml", "client")[0].clone();
    // Clients of another cluster, one after the other, and one that speaks no protocol.
    other.edit("cluster.toml", &other.values("cluster.toml", "client")[0], &port);
    let knock = || {
        let mut kv =
            command(&["kv", "--cluster", &other.argument("cluster.toml"), "--timeout", "1", "get", "a"]);
        kv.env_remove("QUORATE_LOG");
        run(kv)
    };
    let began = std::time::Instant::now();
    for _ in 0..12 {
        refused(&knock(), 5, &["different cluster ids"]);
    }
    let mut stranger = std::net::TcpStream::connect(&port).unwrap();
    std::io::Write::write_all(&mut stranger, &[7; 64]).unwrap();
    let count = |log: &str, label: &str| -> u64 {
        let told = log.lines().filter(|line| line.contains("refused since this was told last: "));
        let counts =
            told.filter_map(|line| line.split(&format!("{label} ")).nth(1)?.split([' ', ',']).next());
        counts.map(|count| count.parse::<u64>().unwrap()).sum()
    };
    let log = wait_for("all of them in the log", || {
        let log = replica.stderr();
        (count(&log, "other_cluster") >= 12 && count(&log, "malformed") == 1).then_some(log)
    });
    let lines = log.lines().filter(|line| line.contains("refused since")).count() as u64;
    assert!(lines <= began.elapsed().as_secs() + 2, "{log}");
    assert!(log.contains("(the last from 127.0.0.1:"), "{log}");
}
