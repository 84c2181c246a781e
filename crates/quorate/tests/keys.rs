//! Keys: durable before anything depends on them, and in use by one directory.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::{Files, Running, command, run, wait_for};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

/// Whether a line says that the system has made a file durable.
fn synced(line: &str, path: &str) -> bool {
    line.contains("sync(") && line.contains(&format!("<{path}>")) && line.ends_with("= 0")
}

/// strace with what it is to tell of, and where.
fn strace(trace: &Path) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-e", "trace=fsync,fdatasync,mkdir,mkdirat", "-o"]).arg(trace);
    strace
}

/// A loss of power while or after `quorate init` runs leaves nothing of a directory whose key, or the mark of that, it takes.
#[test]
fn keys_and_their_marks_are_durable_before_a_directory_is_made_for_them() {
    let directory = tempfile::tempdir().unwrap();
    // As the system names it.
    let directory = directory.path().canonicalize().unwrap();
    let (trace, cluster) = (directory.join("trace"), directory.join("cluster").display().to_string());
    if !strace(&trace).arg("true").status().is_ok_and(|status| status.success()) {
        println!(
            "skipped: keys_and_their_marks_are_durable_before_a_directory_is_made_for_them needs strace"
        );
        return;
    }
    let init = command(&["init", "--free-ports", "--clients", "2", "--dir", &cluster]);
    let mut traced = strace(&trace);
    traced.arg(init.get_program()).args(init.get_args());
    let outcome = run(traced);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let text = std::fs::read_to_string(&trace).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let at = |what: &str, found: &dyn Fn(&str) -> bool| {
        lines.iter().position(|line| found(line)).unwrap_or_else(|| panic!("{what} is nowhere in {text}"))
    };
    let made = at("a data directory", &|line| line.contains("mkdir") && line.contains("/data-0\""));
    let names = at("the names", &|line| synced(line, &cluster));
    assert!(names < made, "the names of the keys are durable too late: {text}");
    let parent = directory.display().to_string();
    assert!(at("its own name", &|line| synced(line, &parent)) < made, "of the whole cluster: {text}");
    let keys = (0..4).map(|replica| format!("replica-{replica}.key"));
    let keys = keys.clone().chain(keys.map(|key| format!("{key}.never-spoken")));
    for name in keys.chain((0..2).map(|client| format!("client-{client}.key"))) {
        let content = at(&name, &|line| synced(line, &format!("{cluster}/{name}")));
        assert!(content < names, "{name} is named before it is durable: {text}");
    }
}

/// Real processes: each round draws the key's mark anew, as only a test may.
#[test]
fn of_two_formats_with_one_key_at_the_same_moment_one_makes_a_voter() {
    let files = Files::new(4);
    let mark = files.text("replica-3.key.never-spoken");
    let whole = files.text("replica-3.toml");
    for name in ["one", "other"] {
        let moved = whole.replace("data_dir = \"data-3\"", &format!("data_dir = \"{name}\""));
        std::fs::write(files.path(&format!("{name}.toml")), moved).unwrap();
    }
    for round in 0..20 {
        std::fs::write(files.path("replica-3.key.never-spoken"), &mark).unwrap();
        let format = |name: &str| command(&["format", "--config", &files.argument(&format!("{name}.toml"))]);
        let both = ["one", "other"].map(|name| Running::start(format(name)));
        let ended = both.map(Running::finish);
        let mut voters = 0;
        for (name, outcome) in ["one", "other"].iter().zip(ended) {
            let outcome = match outcome.code {
                Some(1) if outcome.stderr.contains("another process is just taking this key into use") => {
                    run(format(name))
                }
                _ => outcome,
            };
            assert_eq!(outcome.code, Some(0), "round {round}: {outcome:?}");
            voters += usize::from(!outcome.stdout.contains("casts no votes"));
            std::fs::remove_dir_all(files.path(name)).unwrap();
        }
        assert_eq!(voters, 1, "round {round}");
    }
}

/// One is in the middle of judging the mark for as long as the test likes: it reads it from a pipe.
#[test]
fn while_one_format_judges_a_key_another_is_refused() {
    let files = Files::new(4);
    let (mark, whole) = (files.text("replica-3.key.never-spoken"), files.text("replica-3.toml"));
    let format = |name: &str| {
        let moved = whole.replace("data_dir = \"data-3\"", &format!("data_dir = \"{name}\""));
        std::fs::write(files.path(&format!("{name}.toml")), moved).unwrap();
        command(&["format", "--config", &files.argument(&format!("{name}.toml"))])
    };
    let pipe = files.path("replica-3.key.never-spoken");
    std::fs::remove_file(&pipe).unwrap();
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let one = Running::start(format("one"));
    // It can be opened once there is somebody who reads from it.
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(i32::try_from(OFlags::NONBLOCK.bits()).unwrap());
    let mut writer = wait_for("the mark is read", || options.open(&pipe).ok());
    let refused = Running::start(format("other")).finish();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("another process is just taking this key into use"), "{refused:?}");
    assert!(!files.path("other").exists(), "nothing is made");
    writer.write_all(mark.as_bytes()).unwrap();
    drop(writer);
    let outcome = one.finish();
    assert!(outcome.code == Some(0) && !outcome.stdout.contains("casts no votes"), "{outcome:?}");
    let late = run(format("other"));
    assert!(late.code == Some(0) && late.stdout.contains("casts no votes"), "{late:?}");
}
