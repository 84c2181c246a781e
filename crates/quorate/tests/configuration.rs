//! Every wrong configuration is one line that names file, field and remedy, and exit code 2.

mod common;

use common::{Files, Outcome, command, quorate, run};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// Exit code 2, nothing on standard output, and one line with all of `parts`.
#[track_caller]
fn refused(outcome: &Outcome, parts: &[&str]) {
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert_eq!(outcome.stdout, "");
    let lines: Vec<_> = outcome.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "more than one line: {}", outcome.stderr);
    for part in parts {
        assert!(lines[0].contains(part), "no {part:?} in: {}", lines[0]);
    }
}

fn start(files: &Files, replica: usize) -> Outcome {
    quorate(&["start", "--config", &files.argument(&format!("replica-{replica}.toml"))])
}

/// `start` and `check-config` say the same about replica 1.
#[track_caller]
fn both_refuse(files: &Files, parts: &[&str]) {
    refused(&start(files, 1), parts);
    refused(&quorate(&["check-config", &files.argument("replica-1.toml")]), parts);
}

#[test]
fn a_missing_replica_file() {
    let files = Files::new(4);
    std::fs::remove_file(files.path("replica-1.toml")).unwrap();
    both_refuse(&files, &["replica-1.toml", "No such file", "`quorate init` writes one"]);
}

#[test]
fn a_missing_cluster_file() {
    let files = Files::new(4);
    std::fs::remove_file(files.path("cluster.toml")).unwrap();
    both_refuse(&files, &["cluster.toml", "No such file", "`quorate init` writes one"]);
    refused(&quorate(&["check-config", &files.argument("cluster.toml")]), &["cluster.toml", "No such file"]);
}

#[test]
fn a_missing_key_file() {
    let files = Files::new(4);
    std::fs::remove_file(files.path("replica-1.key")).unwrap();
    both_refuse(&files, &["replica-1.key", "No such file", "name the right one in key_file"]);
}

#[test]
fn broken_syntax() {
    let files = Files::new(4);
    files.edit("replica-1.toml", "replica = 1", "replica = = 1");
    both_refuse(&files, &["replica-1.toml", "line 8", "correct that line"]);
    let files = Files::new(4);
    files.edit("cluster.toml", "epoch = 0", "epoch = zero");
    both_refuse(&files, &["cluster.toml", "line 9", "correct that line"]);
}

#[test]
fn unknown_fields() {
    let files = Files::new(4);
    files.edit("replica-1.toml", "spin_us", "spin_ms");
    both_refuse(&files, &["replica-1.toml", "unknown field `spin_ms`", "`spin_us`"]);
    let files = Files::new(4);
    files.edit("cluster.toml", "links = 1", "lanes = 1");
    both_refuse(&files, &["cluster.toml", "unknown field `lanes`", "`links`"]);
}

#[test]
fn a_missing_field() {
    let files = Files::new(4);
    files.edit("replica-1.toml", "key_file = ", "# key_file = ");
    both_refuse(&files, &["replica-1.toml", "missing field `key_file`"]);
}

#[test]
fn a_key_that_others_may_read() {
    let files = Files::new(4);
    std::fs::set_permissions(files.path("replica-1.key"), std::fs::Permissions::from_mode(0o640)).unwrap();
    both_refuse(&files, &["replica-1.key", "mode 0640", "chmod 600"]);
}

#[test]
fn the_key_of_another_replica() {
    let files = Files::new(4);
    files.edit("replica-1.toml", "replica-1.key", "replica-2.key");
    both_refuse(&files, &["replica-2.key", "the cluster file", "name the key file of replica 1 in key_file"]);
}

#[test]
fn a_key_that_is_no_key() {
    let files = Files::new(4);
    std::fs::write(files.path("replica-1.key"), "secret\n").unwrap();
    both_refuse(&files, &["replica-1.key", "64 hexadecimal digits"]);
}

#[test]
fn a_replica_that_the_cluster_does_not_have() {
    let files = Files::new(4);
    files.edit("replica-1.toml", "replica = 1", "replica = 4");
    both_refuse(&files, &["replica-1.toml", "replica = 4", "replicas 0 to 3"]);
}

#[test]
fn an_id_that_is_there_twice() {
    let files = Files::new(4);
    files.edit("cluster.toml", "id = 2", "id = 1");
    both_refuse(&files, &["cluster.toml", "[[replica]]", "id 1", "give it id 2"]);
}

#[test]
fn a_key_that_is_there_twice() {
    let files = Files::new(4);
    let keys = files.values("cluster.toml", "key");
    files.edit("cluster.toml", &keys[2], &keys[0]);
    both_refuse(&files, &["cluster.toml", "replica 0 and replica 2 have the same key", "one of its own"]);
}

#[test]
fn an_address_that_is_there_twice() {
    let files = Files::new(4);
    let (mesh, client) = (files.values("cluster.toml", "mesh"), files.values("cluster.toml", "client"));
    files.edit("cluster.toml", &mesh[2], &client[0]);
    both_refuse(&files, &["cluster.toml", &client[0], "another port"]);
}

#[test]
fn plaintext_beyond_loopback() {
    let files = Files::new(4);
    let client = &files.values("cluster.toml", "client")[3];
    files.edit("cluster.toml", client, "192.0.2.1:7400");
    both_refuse(
        &files,
        &["replica-1.toml", "security = \"plaintext\"", "192.0.2.1:7400", "use loopback addresses"],
    );
}

#[test]
fn unknown_security() {
    let files = Files::new(4);
    files.edit("replica-1.toml", "security = \"plaintext\"", "security = \"tls\"");
    both_refuse(&files, &["replica-1.toml", "security = \"tls\"", "only \"plaintext\""]);
}

#[test]
fn unknown_durability() {
    let files = Files::new(4);
    files.edit("replica-1.toml", "durability = \"sync\"", "durability = \"eternal\"");
    both_refuse(&files, &["replica-1.toml", "durability = \"eternal\"", "use \"sync\" or \"async\""]);
    files.edit("replica-1.toml", "durability = \"eternal\"", "durability = \"memory\"");
    both_refuse(&files, &["replica-1.toml", "durability = \"memory\" was removed", "use \"sync\""]);
}

#[test]
fn a_cpu_that_is_not_there() {
    let files = Files::new(4);
    files.edit("replica-1.toml", "# cores = [0]", "cores = [4095]");
    both_refuse(&files, &["replica-1.toml", "cores", "CPU 4095", "this process may use"]);
}

#[test]
fn a_port_that_is_taken() {
    let files = Files::new(4);
    for (field, name) in [("client", "client of replica 1"), ("mesh", "mesh of replica 1 (link 0)")] {
        let address = &files.values("cluster.toml", field)[1];
        let holder = TcpListener::bind(address).unwrap();
        refused(&start(&files, 1), &["cluster.toml", name, address, "the port is taken"]);
        drop(holder);
    }
}

#[test]
fn init_never_overwrites_a_cluster() {
    let files = Files::new(4);
    let before = files.text("cluster.toml");
    let directory = files.argument("");
    let again = quorate(&["init", "--dir", &directory]);
    refused(&again, &["cluster.toml", "not overwritten", "another --dir"]);
    std::fs::remove_file(files.path("cluster.toml")).unwrap();
    refused(&quorate(&["init", "--dir", &directory]), &["replica-0.toml", "not overwritten"]);
    std::fs::write(files.path("cluster.toml"), before).unwrap();
    assert_eq!(quorate(&["check-config", &files.argument("replica-3.toml")]).code, Some(0));
}

#[test]
fn init_leaves_nothing_behind_when_a_data_directory_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("data-2")).unwrap();
    std::fs::write(directory.path().join("data-2/precious"), "").unwrap();
    let path = directory.path().display().to_string();
    refused(&quorate(&["init", "--dir", &path]), &["/data-2", "precious", "not formatted over"]);
    let left: Vec<_> =
        std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["data-2"]);
    assert!(directory.path().join("data-2/precious").exists());
}

#[test]
fn init_refuses_what_no_cluster_can_have() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display().to_string();
    let init = |flags: &[&str]| {
        let mut arguments = vec!["init", "--dir", &path];
        arguments.extend(flags);
        quorate(&arguments)
    };
    refused(&init(&["--replicas", "0"]), &["--replicas 0: use 1 to 100"]);
    refused(&init(&["--replicas", "101"]), &["--replicas 101: use 1 to 100"]);
    refused(&init(&["--links", "65"]), &["--links 65: use 1 to 64"]);
    refused(&init(&["--clients", "0"]), &["--clients 0: use 1 to"]);
    refused(&init(&["--host", "192.0.2.1"]), &["--host 192.0.2.1", "use --host 127.0.0.1"]);
    refused(&init(&["--base-port", "65530"]), &["--base-port 65530: 8 ports", "use 1 to 65528"]);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn init_writes_secrets_for_their_owner_alone_and_says_what_comes_next() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new").display().to_string();
    let outcome = quorate(&["init", "--dir", &path, "--clients", "2", "--links", "2"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for part in ["3 must work together", "start --config", "replica-3.toml", "dev --dir", "kv --cluster"] {
        assert!(outcome.stdout.contains(part), "no {part:?} in {}", outcome.stdout);
    }
    for entry in std::fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        let secret = entry.path().extension().is_some_and(|extension| extension == "key");
        assert!(!secret || mode == 0o600, "{entry:?} has mode {mode:o}");
    }
    let text = std::fs::read_to_string(format!("{path}/cluster.toml")).unwrap();
    for address in ["client = \"127.0.0.1:7403\"", "mesh = \"127.0.0.1:7404\"", "mesh = \"127.0.0.1:7410\""] {
        assert!(text.contains(address), "no {address} in {text}");
    }
}

#[test]
fn histograms_go_to_a_directory_and_at_least_daily() {
    let files = Files::new(4);
    files.edit("replica-1.toml", "interval_s = 0", "interval_s = 86401");
    both_refuse(&files, &["replica-1.toml", "histograms.interval_s = 86401", "a day"]);
    let files = Files::new(4);
    files.edit("replica-1.toml", "# directory = \"histograms\"", "directory = \"cluster.toml\"");
    both_refuse(&files, &["replica-1.toml", "cluster.toml is no directory", "name another one"]);
    let files = Files::new(4);
    files.edit("replica-1.toml", "# directory = \"histograms\"", "directory = \"times\"");
    files.edit("replica-1.toml", "interval_s = 0", "interval_s = 60");
    let outcome = quorate(&["check-config", &files.argument("replica-1.toml")]);
    assert!(outcome.stdout.contains("/times on SIGUSR1 and every 60 s"), "{outcome:?}");
    assert!(outcome.stdout.contains("the log's buffers at most 3456 MiB, whatever others do"), "{outcome:?}");
}

#[test]
fn a_log_that_is_too_small() {
    let files = Files::new(4);
    files.edit("replica-1.toml", "# max_journal_bytes = \"2 GiB\"", "max_journal_bytes = 1000000");
    both_refuse(&files, &["replica-1.toml", "max_journal_bytes = \"1000000 bytes\"", "or more"]);
    // A checkpoint is due after as much.
    files.edit("replica-1.toml", "max_journal_bytes = 1000000", "max_journal_bytes = \"128M\"");
    both_refuse(&files, &["max_journal_bytes = \"128 MiB\"", "4 replicas", "use \"743 MiB\" or more"]);
    for enough in ["\"743 MiB\"", "779091968"] {
        let text = files.text("replica-1.toml");
        let line = text.lines().find(|line| line.starts_with("max_journal_bytes")).unwrap();
        files.edit("replica-1.toml", line, &format!("max_journal_bytes = {enough}"));
        let outcome = quorate(&["check-config", &files.argument("replica-1.toml")]);
        assert!(outcome.stdout.contains("the log takes at most 743 MiB"), "{outcome:?}");
    }
}

#[test]
fn sizes_that_are_none_or_beyond_the_disk() {
    for name in ["max_journal_bytes", "min_free_bytes"] {
        for (size, parts) in [
            ("\"2 GB\"", ["`2 GB` is no number of bytes", "512 MiB or 2G"]),
            ("\"much\"", ["`much` is no number of bytes", "512 MiB or 2G"]),
            ("-1", ["`-1`", "\"512 MiB\" or \"2G\""]),
            ("4000000000000000000", ["use less, or mount the disk", " MiB in all"]),
            ("\"1000000T\"", ["use less, or mount the disk", "/data-1 has"]),
        ] {
            let files = Files::new(1);
            std::fs::rename(files.path("replica-0.toml"), files.path("replica-1.toml")).unwrap();
            files.edit("replica-1.toml", "security = ", &format!("{name} = {size}\nsecurity = "));
            files.edit("replica-1.toml", "data_dir = \"data-0\"", "data_dir = \"data-1\"");
            both_refuse(&files, &[&["replica-1.toml", name], &parts[..]].concat());
        }
    }
}

#[test]
fn a_port_where_nobody_finds_a_replica() {
    for (field, of) in [("mesh", 2), ("client", 3)] {
        let files = Files::new(4);
        let address = &files.values("cluster.toml", field)[of];
        files.edit("cluster.toml", address, "127.0.0.1:0");
        let parts = ["cluster.toml", &format!("replica {of}: {field} has port 0"), "of 1 to 65535"];
        both_refuse(&files, &parts);
        refused(&quorate(&["check-config", &files.argument("cluster.toml")]), &parts);
    }
}

#[test]
fn a_core_that_polls_for_ever() {
    let files = Files::new(4);
    files.edit("replica-1.toml", "spin_us = 0", "spin_us = 1000001");
    both_refuse(&files, &["replica-1.toml", "spin_us = 1000001", "use 0 to 1000000"]);
}

/// It works, and is slow: both say so.
#[test]
fn a_cpu_that_is_named_twice() {
    let files = Files::new(1);
    files.edit("replica-0.toml", "# cores = [0]", "cores = [0, 0]");
    files.edit("replica-0.toml", "spin_us = 0", "spin_us = 20");
    let outcome = quorate(&["check-config", &files.argument("replica-0.toml")]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let hint = "cores names CPU 0 more than once: its threads take turns on it, and none of them polls";
    assert!(outcome.stdout.contains(&format!("hint: {hint}")), "{outcome:?}");
    assert!(outcome.stdout.contains("polling for 0 µs"), "{outcome:?}");
    let mut replica = files.start(0);
    replica.wait_for_output("replica 0 is ready");
    assert!(replica.stderr().contains(hint), "{}", replica.stderr());
}

/// A cluster file is judged by itself, too, and there is nothing but plaintext yet.
#[test]
fn a_cluster_file_with_which_no_replica_starts() {
    let files = Files::new(4);
    let client = &files.values("cluster.toml", "client")[3];
    files.edit("cluster.toml", client, "192.0.2.1:7400");
    refused(
        &quorate(&["check-config", &files.argument("cluster.toml")]),
        &["cluster.toml", "192.0.2.1:7400", "use loopback addresses"],
    );
}

/// A copy of the files on another host has a key that was in use before.
#[test]
fn a_key_that_is_in_use_with_another_directory() {
    let files = Files::new(4);
    std::fs::remove_file(files.path("replica-1.key.never-spoken")).unwrap();
    both_refuse(
        &files,
        &["/data-1", "taken into use with another one", "`quorate format --learner --config FILE`"],
    );
}

/// As a service manager that gives no more.
#[test]
fn a_limit_of_open_files_that_is_too_low() {
    let files = Files::new(4);
    let config = files.argument("replica-1.toml");
    for words in [["start", "--config", &config].as_slice(), &["check-config", &config]] {
        let quorate = command(words);
        let mut limited = Command::new("prlimit");
        limited.arg("--nofile=100:100").arg(quorate.get_program()).args(words);
        refused(&run(limited), &["the limit of open files is 100", "LimitNOFILE=", "ulimit -Hn"]);
    }
}

#[test]
fn the_data_of_another_replica_or_of_something_else() {
    let files = Files::new(4);
    files.edit("replica-1.toml", "data_dir = \"data-1\"", "data_dir = \"data-3\"");
    both_refuse(&files, &["/data-3", "data of replica 3", "name the data_dir of replica 1"]);
    files.edit("replica-1.toml", "data_dir = \"data-3\"", "data_dir = \".\"");
    both_refuse(&files, &["client-0.key", "no part of a replica's data", "data_dir"]);
    files.edit("replica-1.toml", "data_dir = \".\"", "data_dir = \"cluster.toml\"");
    both_refuse(&files, &["replica-1.toml", "cluster.toml is no directory"]);
}

/// A replica whose user may not read its data, or not write it, is told apart from one whose disk fails.
#[test]
fn a_data_directory_that_the_user_has_no_right_to() {
    const NOBODY: u32 = 65_534;
    let files = Files::new(4);
    let mode = |name: &str, mode| {
        std::fs::set_permissions(files.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let start = command(&["start", "--config", &files.argument("replica-1.toml")]);
    let as_nobody = || {
        let id = NOBODY.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).arg(start.get_program());
        command
    };
    // Nothing is denied to root.
    let is_root = rustix::process::geteuid().is_root();
    if is_root && !as_nobody().arg("--version").output().is_ok_and(|output| output.status.success()) {
        println!("skipped: a_data_directory_that_the_user_has_no_right_to needs a user without rights");
        return;
    }
    if is_root {
        mode("", 0o755);
        std::os::unix::fs::chown(files.path("replica-1.key"), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    for rights in [0o000, 0o555] {
        mode("data-1", rights);
        let mut attempt = if is_root { as_nobody() } else { Command::new(start.get_program()) };
        attempt.args(start.get_args());
        let outcome = run(attempt);
        mode("data-1", 0o700);
        refused(
            &outcome,
            &["/data-1", "Permission denied", "give the user that the replica runs as the right"],
        );
    }
}

#[test]
fn format_makes_a_data_directory_once() {
    let files = Files::new(4);
    let config = files.argument("replica-1.toml");
    let again = quorate(&["format", "--config", &config]);
    refused(&again, &["/data-1", "not formatted over", "name another data_dir"]);
    std::fs::remove_dir_all(files.path("data-1")).unwrap();
    let before = quorate(&["check-config", &config]);
    assert!(before.stdout.contains("not formatted") && before.code == Some(0), "{before:?}");
    let made = quorate(&["format", "--config", &config, "--learner"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(made.stdout.contains("casts no votes"), "{made:?}");
    let after = quorate(&["check-config", &config]);
    assert!(
        after.stdout.contains("of a learner, which casts no votes: formatted with --learner"),
        "{after:?}"
    );
    std::fs::remove_dir_all(files.path("data-1")).unwrap();
    assert_eq!(quorate(&["format", "--config", &config]).code, Some(0));
    let founding = quorate(&["check-config", &config]);
    assert!(founding.stdout.contains("/data-1, formatted"), "{founding:?}");
}

#[test]
fn check_config_says_what_would_run() {
    let files = Files::new(4);
    let (cluster, replica) = (files.argument("cluster.toml"), files.argument("replica-2.toml"));
    let outcome = quorate(&["check-config", &cluster, &replica]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{outcome:?}");
    for part in [
        "a cluster of 4 replicas",
        "replica 2 of 4",
        "not pinned",
        "durability sync",
        "/data-2, formatted; the log takes at most 2048 MiB and leaves 256 MiB",
        "histograms on SIGUSR1",
    ] {
        assert!(outcome.stdout.contains(part), "no {part:?} in {}", outcome.stdout);
    }
    files.edit("replica-2.toml", "spin_us", "spin");
    let outcome = quorate(&["check-config", &replica, &cluster]);
    assert_eq!(outcome.code, Some(2), "one unsound file is enough");
    assert!(outcome.stdout.contains("a cluster of 4 replicas"), "the others are checked all the same");
}

#[test]
fn client_commands_name_the_file_that_they_miss() {
    let files = Files::new(4);
    let cluster = files.argument("cluster.toml");
    let kv = |flags: &[&str]| {
        let mut arguments = vec!["kv"];
        arguments.extend(flags);
        arguments.extend(["get", "key"]);
        quorate(&arguments)
    };
    refused(&kv(&["--cluster", "/nonexistent"]), &["/nonexistent", "--cluster FILE", "quorate dev"]);
    refused(&kv(&["--cluster", &cluster, "--key", "/nonexistent"]), &["/nonexistent", "--key FILE"]);
    let stranger = files.argument("replica-0.key");
    refused(
        &kv(&["--cluster", &cluster, "--key", &stranger]),
        &["replica-0.key", "not among `clients`", &cluster],
    );
    refused(&kv(&["--cluster", &cluster, "--home", "4"]), &["--home 4", "replicas 0 to 3"]);
    refused(&quorate(&["status", "--cluster", "/nonexistent"]), &["/nonexistent", "--cluster FILE"]);
    refused(&quorate(&["--log", "loud", "doctor"]), &["--log loud", "QUORATE_LOG", "use off, error, warn"]);
}

#[test]
fn wrong_arguments_are_refused_with_code_2() {
    for arguments in
        [&["kv", "set", "k", "v", "--nx", "--xx"][..], &["start"], &["kv", "frobnicate"], &["--no"]]
    {
        let outcome = quorate(arguments);
        assert_eq!(outcome.code, Some(2), "{arguments:?}: {outcome:?}");
        assert!(outcome.stderr.contains("--help"), "{}", outcome.stderr);
    }
    refused(&quorate(&["bench", "--depth", "65"]), &["--depth 65: use 1 to 64"]);
    let cluster = ["bench", "--cluster", "/nonexistent", "--key", "/nonexistent"];
    refused(&quorate(&cluster), &["/nonexistent", "`quorate init` writes one"]);
}
