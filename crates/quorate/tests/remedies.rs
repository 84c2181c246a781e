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
    let (files, other) = (Files::new(1), Files::new(1));
    let running = start_all(&files, 1);
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
    let restored = Files::made(&["restore", "--from", &backup, "--clients", "2"], 1);
    stop(running);
    let running = start_all(&restored, 1);
    let got = with_key(&restored, &restored, "client-1.key", &["get", "greeting"]);
    assert_eq!((got.code, got.stdout.as_str()), (Some(0), "hello\n"), "{got:?}");
    stop(running);
}

/// A full state takes deletions, and a cluster with more room for it is made from a backup.
#[test]
fn a_state_that_is_full() {
    let least = "use 1 MiB or more";
    fails(
        &quorate(&["init", "--state-max", "1000", "--dir", "/nowhere"]),
        2,
        &["--state-max 1000 bytes", least],
    );
    let files = Files::made(&["init", "--state-max", "1 MiB"], 1);
    let checked = quorate(&["check-config", &files.argument("cluster.toml")]);
    assert!(checked.stdout.contains("come to 1 MiB") && !checked.stdout.contains("hint:"), "{checked:?}");
    let value = "v".repeat(100_000);
    let running = start_all(&files, 1);
    for key in 0..10 {
        works(&files.kv(&["set", &key.to_string(), &value]));
    }
    let advice = ["not done: the state is full (1000330 bytes of 1 MiB); delete keys"];
    fails(&files.kv(&["set", "more", &value]), 5, &advice);
    fails(&files.kv(&["append", "0", &value]), 5, &advice);
    let (cluster, backup) = (files.argument("cluster.toml"), files.argument("backup"));
    let status = quorate(&["status", "--cluster", &cluster]);
    assert_eq!(status.code, Some(4), "{status:?}");
    for part in ["`quorate backup`", "`quorate restore --state-max`", "976 KiB of 1 MiB"] {
        assert!(status.stdout.contains(part), "no {part:?} in: {}", status.stdout);
    }
    works(&quorate(&["backup", "--cluster", &cluster, "--to", &backup]));
    works(&files.kv(&["del", "0"]));
    works(&files.kv(&["set", "more", &value]));
    stop(running);

    let restored = Files::made(&["restore", "--from", &backup, "--state-max", "2 MiB"], 1);
    let running = start_all(&restored, 1);
    works(&restored.kv(&["set", "more", &value]));
    let (cluster, backup) = (restored.argument("cluster.toml"), restored.argument("backup"));
    works(&quorate(&["backup", "--cluster", &cluster, "--to", &backup]));
    stop(running);
    let small = quorate(&["restore", "--from", &backup, "--state-max", "1 MiB", "--dir", "/nowhere"]);
    fails(&small, 2, &["--state-max 1 MiB", "come to 1100366 bytes", "name as much or more"]);
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

/// The file of a cluster's only replica.
const REPLICA: &str = "replica-0.toml";

fn start(files: &Files) -> Outcome {
    quorate(&["start", "--config", &files.argument(REPLICA)])
}

/// It starts, and is ended in order.
#[track_caller]
fn starts(files: &Files) {
    stop(start_all(files, 1));
}

/// What stands between two texts.
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let found = text.split_once(before).and_then(|(_, rest)| rest.split_once(after));
    found.unwrap_or_else(|| panic!("nothing between {before:?} and {after:?} in: {text}")).0
}

/// A wrong line of a file, what is said of it, and the line that follows the advice.
#[track_caller]
fn corrected(file: &str, right: &str, wrong: &str, advice: &str, followed: &str) {
    let files = Files::new(1);
    files.edit(file, right, wrong);
    fails(&start(&files), 2, &[file, advice]);
    fails(&quorate(&["check-config", &files.argument(REPLICA)]), 2, &[file, advice]);
    files.edit(file, wrong, followed);
    works(&quorate(&["check-config", &files.argument(REPLICA)]));
    starts(&files);
}

#[test]
fn a_line_of_a_file_that_is_wrong() {
    let replica = |right, wrong, advice, followed| corrected(REPLICA, right, wrong, advice, followed);
    replica("replica = 0", "replica = 4", "the cluster has replicas 0 to 0", "replica = 0");
    replica(
        "replica = 0",
        "replica = zero",
        "in `replica = zero`; correct that line of the file",
        "replica = 0",
    );
    replica(
        "security = \"plaintext\"",
        "security = \"tls\"",
        "only \"plaintext\" exists",
        "security = \"plaintext\"",
    );
    for followed in ["durability = \"sync\"", "durability = \"async\""] {
        let (right, advice) = ("durability = \"sync\"", "use \"sync\" or \"async\"");
        corrected(REPLICA, right, "durability = \"eternal\"", advice, followed);
        corrected(REPLICA, right, "durability = \"memory\"", "use \"sync\", or \"async\"", followed);
    }
    let (size, free) = ("# max_journal_bytes = \"2 GiB\"", "# min_free_bytes = \"256 MiB\"");
    replica(
        size,
        "max_journal_bytes = \"2 GB\"",
        "write it as 1048576, 512 MiB or 2G",
        "max_journal_bytes = \"2G\"",
    );
    replica(free, "min_free_bytes = -1", "\"512 MiB\" or \"2G\"", "min_free_bytes = \"12 MiB\"");
    replica(
        free,
        "min_free_bytes = \"1000000T\"",
        "use less, or mount the disk",
        "min_free_bytes = \"12 MiB\"",
    );
    replica("spin_us = 0", "spin_us = 1000001", "use 0 to 1000000", "spin_us = 1000000");
    replica("interval_s = 0", "interval_s = 86401", "use 0 (only on SIGUSR1) to 86400", "interval_s = 86400");
    let directory = "# directory = \"histograms\"";
    replica(
        directory,
        "directory = \"cluster.toml\"",
        "name another one or move it away",
        "directory = \"times\"",
    );
    replica(
        "data_dir = \"data-0\"",
        "data_dir = \"cluster.toml\"",
        "name another one",
        "data_dir = \"data-0\"",
    );
    let cluster = |right, wrong, advice, followed| corrected("cluster.toml", right, wrong, advice, followed);
    cluster("links = 1", "links = 0", "links = 0; use 1 to 64", "links = 1");
    cluster("id = 0", "id = 3", "give it id 0", "id = 0");
}

/// The advice names a number that suffices.
#[test]
fn a_size_or_a_limit_that_is_too_low() {
    let files = Files::new(1);
    files.edit(REPLICA, "# max_journal_bytes = \"2 GiB\"", "max_journal_bytes = \"1M\"");
    let refused = start(&files);
    fails(&refused, 2, &["or more"]);
    let enough = format!("max_journal_bytes = \"{}\"", between(&refused.stderr, "use \"", "\" or more"));
    files.edit(REPLICA, "max_journal_bytes = \"1M\"", &enough);
    starts(&files);

    files.edit(REPLICA, "# cores = [0]", "cores = [4095]");
    let refused = start(&files);
    let first = between(&refused.stderr, "this process may use [", "]").split(',').next().unwrap().to_owned();
    files.edit(REPLICA, "cores = [4095]", &format!("cores = [{first}]"));
    starts(&files);

    let with_descriptors = |limit: &str| {
        let mut limited = std::process::Command::new("prlimit");
        let program = common::command(&[]);
        limited.arg(format!("--nofile={limit}:{limit}")).arg(program.get_program());
        limited.args(["start", "--config", &files.argument(REPLICA)]);
        limited
    };
    let refused = common::run(with_descriptors("100"));
    fails(&refused, 2, &["raise it", "LimitNOFILE=", "ulimit -Hn"]);
    let needed = between(&refused.stderr, "links to others needs ", ":").to_owned();
    let mut replica = Running::start(with_descriptors(&needed));
    replica.wait_for_output("replica 0 is ready on");
}

#[test]
fn a_port_that_is_taken() {
    let files = Files::new(1);
    for field in ["client", "mesh"] {
        let address = files.values("cluster.toml", field)[0].clone();
        let holder = std::net::TcpListener::bind(&address).unwrap();
        let advice = "the port is taken: stop the process that holds it (ss -ltnp) or choose another";
        fails(&start(&files), 2, &["cluster.toml", advice]);
        drop(holder);
        starts(&files);
        // Addresses are no part of what a cluster is.
        let _holder = std::net::TcpListener::bind(&address).unwrap();
        let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
        files.edit("cluster.toml", &address, &format!("127.0.0.1:{}", port + 8));
        starts(&files);
    }
    let address = files.values("cluster.toml", "client")[0].clone();
    files.edit("cluster.toml", &address, "127.0.0.1:0");
    fails(&start(&files), 2, &["replica 0: client has port 0", "give it a port of 1 to 65535"]);
    files.edit("cluster.toml", "127.0.0.1:0", &address);
    starts(&files);
    files.edit("cluster.toml", &address, "192.0.2.1:7400");
    fails(&start(&files), 2, &["use loopback addresses in the cluster file"]);
    files.edit("cluster.toml", "192.0.2.1:7400", &address);
    starts(&files);
}

#[test]
fn a_key_file_that_is_readable_or_anothers() {
    use std::os::unix::fs::PermissionsExt;
    let files = Files::new(1);
    std::fs::set_permissions(files.path("replica-0.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    fails(&start(&files), 2, &["replica-0.key", "run `chmod 600` on it"]);
    let chmod = std::process::Command::new("chmod").arg("600").arg(files.path("replica-0.key")).status();
    assert!(chmod.unwrap().success());
    starts(&files);
    files.edit(REPLICA, "replica-0.key", "client-0.key");
    fails(&start(&files), 2, &["name the key file of replica 0 in key_file"]);
    files.edit(REPLICA, "client-0.key", "replica-0.key");
    starts(&files);
    let moved = files.path("elsewhere.key");
    std::fs::rename(files.path("replica-0.key"), &moved).unwrap();
    fails(&start(&files), 2, &["No such file", "name the right one in key_file"]);
    files.edit(REPLICA, "replica-0.key", "elsewhere.key");
    starts(&files);
}

/// A file that is lost is copied from another replica, or named rightly; what `init` writes is of a new cluster.
#[test]
fn a_file_that_is_missing() {
    let files = Files::new(4);
    std::fs::rename(files.path("cluster.toml"), files.path("copy.toml")).unwrap();
    let config = files.argument("replica-1.toml");
    let advice = "copy that of another replica of the cluster; `quorate init` writes one for a new cluster";
    fails(&quorate(&["check-config", &config]), 2, &["cluster.toml", "No such file", advice]);
    std::fs::copy(files.path("copy.toml"), files.path("cluster.toml")).unwrap();
    works(&quorate(&["check-config", &config]));
    files.edit("cluster.toml", "cluster_id = \"", "cluster_id = \"x");
    fails(
        &quorate(&["check-config", &config]),
        2,
        &["cluster_id must be 64 hexadecimal digits", "as another replica's"],
    );
    std::fs::copy(files.path("copy.toml"), files.path("cluster.toml")).unwrap();
    let wrong = files.argument("replica-9.toml");
    let advice = "name the right file; `quorate init` writes one for each replica of a new cluster";
    fails(&quorate(&["check-config", &wrong]), 2, &["replica-9.toml", "No such file", advice]);
    works(&quorate(&["check-config", &config]));
}

#[test]
fn a_data_directory_that_is_away_or_lost() {
    let files = Files::new(1);
    starts(&files);
    std::fs::rename(files.path("data-0"), files.path("unmounted")).unwrap();
    let advice =
        ["mount the disk that holds it, or correct data_dir", "`quorate format --learner --config FILE`"];
    fails(&start(&files), 2, &advice);
    files.edit(REPLICA, "data_dir = \"data-0\"", "data_dir = \"unmounted\"");
    starts(&files);
    files.edit(REPLICA, "data_dir = \"unmounted\"", "data_dir = \"data-0\"");
    fails(&start(&files), 2, &advice);
    works(&quorate(&["format", "--learner", "--config", &files.argument(REPLICA)]));
    starts(&files);
    // A voter's directory is not formatted over.
    let again = quorate(&["format", "--config", &files.argument(REPLICA)]);
    fails(&again, 2, &["name another data_dir, or move this one away if it is no longer wanted"]);
    std::fs::rename(files.path("data-0"), files.path("moved")).unwrap();
    works(&quorate(&["format", "--config", &files.argument(REPLICA)]));
    files.edit(REPLICA, "data_dir = \"data-0\"", "data_dir = \"another\"");
    works(&quorate(&["format", "--config", &files.argument(REPLICA)]));
    starts(&files);
}

#[test]
fn data_that_is_anothers_or_in_use() {
    let files = Files::new(4);
    files.edit("replica-1.toml", "data_dir = \"data-1\"", "data_dir = \"data-3\"");
    let config = files.argument("replica-1.toml");
    fails(&quorate(&["check-config", &config]), 2, &["name the data_dir of replica 1"]);
    files.edit("replica-1.toml", "data_dir = \"data-3\"", "data_dir = \"data-1\"");
    works(&quorate(&["check-config", &config]));
    let other = Files::new(4);
    files.edit(
        "replica-1.toml",
        "data_dir = \"data-1\"",
        &format!("data_dir = \"{}\"", other.argument("data-1")),
    );
    fails(
        &quorate(&["check-config", &config]),
        2,
        &["name the data_dir of this cluster, or another one for a new cluster"],
    );

    let files = Files::new(1);
    files.edit(REPLICA, "data_dir = \"data-0\"", "data_dir = \".\"");
    fails(&start(&files), 2, &["no part of a replica's data; name a directory of its own in data_dir"]);
    files.edit(REPLICA, "data_dir = \".\"", "data_dir = \"data-0\"");
    let running = start_all(&files, 1);
    let refused = start(&files);
    fails(&refused, 2, &["in use by replica 0", "stop that process, or name another data_dir"]);
    let process: u32 = between(&refused.stderr, "process ", ";").parse().unwrap();
    assert_eq!(process, running[0].id());
    stop(running);
    starts(&files);
}

#[test]
fn a_key_that_was_taken_into_use_elsewhere() {
    let advice = [
        "Name that directory in data_dir",
        "`quorate format --learner --config FILE`",
        "move that file here, too",
    ];
    // A copy of the directory was started; this one is the older.
    let files = Files::new(1);
    let copied =
        std::process::Command::new("cp").arg("-r").arg(files.path("data-0")).arg(files.path("used")).status();
    assert!(copied.unwrap().success());
    files.edit(REPLICA, "data_dir = \"data-0\"", "data_dir = \"used\"");
    starts(&files);
    files.edit(REPLICA, "data_dir = \"used\"", "data_dir = \"data-0\"");
    fails(&start(&files), 2, &advice);
    files.edit(REPLICA, "data_dir = \"data-0\"", "data_dir = \"used\"");
    starts(&files);
    // That one is lost.
    files.edit(REPLICA, "data_dir = \"used\"", "data_dir = \"data-0\"");
    works(&quorate(&["format", "--learner", "--config", &files.argument(REPLICA)]));
    starts(&files);
    // The key was moved, and its mark was left behind.
    let files = Files::new(1);
    let mark = "replica-0.key.never-spoken";
    std::fs::rename(files.path(mark), files.path("left-behind")).unwrap();
    fails(&start(&files), 2, &advice);
    std::fs::rename(files.path("left-behind"), files.path(mark)).unwrap();
    starts(&files);
}

#[test]
fn a_client_that_finds_no_cluster() {
    let home = tempfile::tempdir().unwrap();
    let there = |words: &[&str]| {
        let mut command = common::command(words);
        command.current_dir(home.path());
        command
    };
    let get = ["kv", "--timeout", "60", "exists", "greeting"];
    let refused = common::run(there(&get));
    let advice =
        ["--cluster FILE or QUORATE_CLUSTER=FILE", "`quorate dev --dir quorate-data`", "`quorate init`"];
    fails(&refused, 2, &advice);
    let mut dev = Running::start(there(&["dev", "--dir", "quorate-data", "--replicas", "1"]));
    dev.wait_for_output("Ctrl-C stops all replicas");
    assert_eq!(common::run(there(&get)).code, Some(4), "it is asked, and says no");
    let cluster = home.path().join("quorate-data/cluster.toml").display().to_string();
    assert_eq!(quorate(&[&get[..], &["--cluster", &cluster]].concat()).code, Some(4));
    let key = home.path().join("quorate-data/client-0.key").display().to_string();
    let lost = quorate(&[&get[..], &["--cluster", &cluster, "--key", "/nonexistent"]].concat());
    fails(&lost, 2, &["--key FILE or QUORATE_KEY=FILE"]);
    assert_eq!(quorate(&[&get[..], &["--cluster", &cluster, "--key", &key]].concat()).code, Some(4));
    let home_of = |home: &str| quorate(&[&get[..], &["--cluster", &cluster, "--home", home]].concat());
    fails(&home_of("1"), 2, &["--home 1: the cluster has replicas 0 to 0"]);
    assert_eq!(home_of("0").code, Some(4));
    let other = quorate(&[
        "dev",
        "--dir",
        &home.path().join("quorate-data").display().to_string(),
        "--replicas",
        "4",
    ]);
    fails(&other, 2, &["another `quorate dev` runs this cluster already"]);
    dev.signal(rustix::process::Signal::INT);
    works(&dev.finish());
    let other = common::run(there(&["dev", "--dir", "quorate-data", "--replicas", "4"]));
    fails(&other, 2, &["leave --replicas out, or give another --dir"]);
    let mut dev = Running::start(there(&["dev", "--dir", "quorate-data"]));
    dev.wait_for_output("Ctrl-C stops all replicas");
}

#[test]
fn a_cluster_of_which_too_few_run() {
    let files = Files::new(4);
    let mut running = vec![files.start(0)];
    running[0].wait_for_output("is ready on");
    let refused = files.kv(&["set", "a", "b", "--timeout", "1"]);
    fails(
        &refused,
        7,
        &["1 of 4 replicas connected", "start the others, or correct their client addresses in cluster.toml"],
    );
    running.extend((1..4).map(|replica| files.start(replica)));
    works(&files.kv(&["set", "a", "b"]));
    // A client whose file has wrong addresses of too many.
    let text = files.text("cluster.toml");
    let client = files.values("cluster.toml", "client");
    files.edit("cluster.toml", &client[0], "127.0.0.1:9");
    files.edit("cluster.toml", &client[1], "127.0.0.1:10");
    let refused = files.kv(&["set", "a", "c", "--timeout", "1"]);
    fails(&refused, 7, &["2 of 4 replicas connected", "correct their client addresses in cluster.toml"]);
    std::fs::write(files.path("cluster.toml"), text).unwrap();
    works(&files.kv(&["set", "a", "c"]));
}

#[test]
fn backups_and_where_they_go() {
    let files = Files::new(1);
    let (cluster, first, second) =
        (files.argument("cluster.toml"), files.argument("first"), files.argument("second"));
    let data = files.argument("data-0");
    let running = start_all(&files, 1);
    works(&files.kv(&["set", "greeting", "hello"]));
    let back_up = |more: &[&str]| quorate(&[&["backup", "--cluster", &cluster], more].concat());
    let offline = back_up(&["--to", &first, "--data-dir", &data]);
    fails(&offline, 2, &["A cluster that orders is backed up while it runs, without --data-dir"]);
    works(&back_up(&["--to", &first]));
    fails(&back_up(&["--to", &first]), 2, &["name another --to"]);
    fails(&back_up(&["--to", &second, "--replica", "1"]), 2, &["the cluster has replicas 0 to 0"]);
    works(&back_up(&["--to", &second, "--replica", "0"]));
    let refused = back_up(&["--to", &files.argument("third"), "--data-dir", &first]);
    let advice = format!("`quorate restore --from {first}`");
    fails(&refused, 2, &["that is a backup already", &advice]);
    let lost = back_up(&["--to", &files.argument("third"), "--data-dir", "/nonexistent"]);
    fails(&lost, 2, &["name what replica-N.toml has in data_dir"]);
    stop(running);
    works(&back_up(&["--to", &files.argument("third"), "--data-dir", &data]));
    let inside = back_up(&["--to", &format!("{data}/backup"), "--data-dir", &data]);
    fails(&inside, 2, &["name another --to"]);

    let nothing = quorate(&["restore", "--from", "/nonexistent", "--dir", &files.argument("new")]);
    fails(&nothing, 2, &["name the directory that `quorate backup --to` has written"]);
    let over = quorate(&["restore", "--from", &first, "--dir", &files.argument("")]);
    fails(&over, 2, &["give another --dir, or remove the directory if that cluster is no longer wanted"]);
    let restored = Files::made(&["restore", "--from", &first], 1);
    // A replica of it that has lost its disk.
    std::fs::rename(restored.path("data-0"), restored.path("lost")).unwrap();
    let config = restored.argument(REPLICA);
    let refused = start(&restored);
    fails(
        &refused,
        2,
        &["move the directory away and make it anew with `quorate restore --from BACKUP --config FILE`"],
    );
    let another = Files::new(1);
    let of_another = quorate(&["restore", "--from", &first, "--config", &another.argument(REPLICA)]);
    fails(&of_another, 2, &["name the backup that it was restored from"]);
    works(&quorate(&["restore", "--from", &first, "--config", &config]));
    starts(&restored);
}

#[test]
fn a_machine_with_low_limits() {
    let quorate = common::command(&[]);
    let doctor = |limits: &str| {
        let mut shell = std::process::Command::new("bash");
        shell.args(["-c", &format!("{limits}; \"$0\" doctor")]).arg(quorate.get_program());
        common::run(shell).stdout
    };
    let low = "ulimit -S -n 300; ulimit -S -l 64";
    let told = doctor(low);
    assert!(told.contains("open files: 300; each client takes one: `ulimit -n 1024` or more"), "{told}");
    let locked = told.contains("are better for replicas with several cores: `ulimit -l 8192`");
    assert!(locked, "{told}");
    let told = doctor(&format!("{low}; ulimit -n 1024; ulimit -l 8192"));
    for good in ["ok    open files: 1024", "ok    locked memory: 8192 KiB"] {
        assert!(told.contains(good), "no {good:?} in {told}");
    }
}
