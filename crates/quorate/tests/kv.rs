//! `quorate kv` as scripts use it: exit codes, long reads, and keys that hold anything.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::{Files, Outcome, Running, command, run, wait_for};
use rustix::process::Signal;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

/// A value of which four do not fit into one answer.
const LONG_BYTES: usize = 250_000;
const LONG_KEYS: usize = 18;

/// One replica: the code of the answers does not depend on how many give them.
fn start() -> (Files, Running) {
    let files = Files::new(1);
    let mut replica = files.start(0);
    replica.wait_for_output("replica 0 is ready on 127.0.0.1:");
    (files, replica)
}

fn kv_command(files: &Files, words: &[&str]) -> Command {
    let cluster = files.argument("cluster.toml");
    let patient: &[&str] = if words.contains(&"--timeout") { &[] } else { &["--timeout", "60"] };
    command(&[&["kv", "--cluster", &cluster], words, patient].concat())
}

/// Sets a key to what standard input holds.
fn set_from_file(files: &Files, key: &str, value: &[u8]) -> Outcome {
    with_input(files, &["set", key, "-"], value)
}

/// Runs a command that reads these bytes.
fn with_input(files: &Files, words: &[&str], value: &[u8]) -> Outcome {
    let path = files.path("value");
    std::fs::write(&path, value).unwrap();
    let mut set = kv_command(files, words);
    set.stdin(File::open(path).unwrap());
    run(set)
}

fn long_key(number: usize) -> String {
    format!("long:{number:02}")
}

/// Writes more than several answers hold.
fn write_long_values(files: &Files) {
    for number in 0..LONG_KEYS {
        let value = vec![b'a' + u8::try_from(number).unwrap(); LONG_BYTES];
        let outcome = set_from_file(files, &long_key(number), &value);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }
}

/// A command whose output is read by the test.
fn piped(files: &Files, words: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut command = kv_command(files, words);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    (child, stdout)
}

fn end(mut child: Child) -> Option<i32> {
    wait_for("the end of kv", || child.try_wait().unwrap()).code()
}

#[test]
fn every_outcome_has_an_exit_code_of_its_own() {
    let (files, replica) = start();
    let code = |words: &[&str]| files.kv(words).code;
    assert_eq!(code(&["mset", "text", "x", "number", "7"]), Some(0));
    assert_eq!(with_input(&files, &["mset", "a", "1", "read", "-"], b"in").code, Some(0));
    assert_eq!(files.kv(&["get", "read"]).stdout.trim_end(), "in");
    for no in [
        &["get", "none"][..],
        &["exists", "text", "none"],
        &["mget", "text", "none"],
        &["set", "text", "y", "--nx"],
        &["set", "none", "y", "--xx"],
        &["set", "text", "y", "--version", "9"],
    ] {
        assert_eq!(code(no), Some(4), "{no:?}");
    }
    assert_eq!(code(&["del", "none"]), Some(0), "it says how many there were");
    let long = "k".repeat(1025);
    for (not_done, reason) in [
        (&["incr", "text"][..], "not an integer"),
        (&["incr", "number", "9223372036854775807"], "does not fit"),
        (&["del", "number", &long], "1025 bytes"),
        (&["scan", "--prefix", &long], "1025 bytes"),
    ] {
        let outcome = files.kv(not_done);
        let told = outcome.stderr.contains("not done") && outcome.stderr.contains(reason);
        assert!(outcome.code == Some(5) && told, "{outcome:?}");
    }
    let outcome = set_from_file(&files, "text", &vec![b'v'; 256 * 1024 + 1]);
    assert_eq!(outcome.code, Some(5), "{outcome:?}");
    assert_eq!(files.kv(&["mget", "text", "number"]).stdout, "text\tx\nnumber\t7\n", "nothing was done");
    for usage in
        [&["mset", "a"][..], &["get"], &["get", "a", "--home", "1"], &["--input", "escaped", "get", r"\q"]]
    {
        assert_eq!(code(usage), Some(2), "{usage:?}");
    }
    replica.signal(Signal::STOP);
    let outcome = files.kv(&["set", "text", "y", "--timeout", "1"]);
    assert!(outcome.code == Some(7) && outcome.stderr.contains("0 of 1 replicas"), "{outcome:?}");
}

#[test]
fn an_answer_that_does_not_come_is_unknown() {
    let (files, replica) = start();
    write_long_values(&files);
    // The first page is longer than the pipe: the scan asks for the second when it is read to its end.
    let (scan, mut stdout) = piped(&files, &["scan", "--timeout", "2"]);
    stdout.read_exact(&mut [0]).unwrap();
    replica.signal(Signal::STOP);
    stdout.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(end(scan), Some(6));
}

#[test]
fn reads_of_more_than_an_answer_holds_go_on_by_themselves() {
    let (files, _replica) = start();
    write_long_values(&files);
    let keys: Vec<_> = (0..LONG_KEYS).map(long_key).collect();
    let check = |outcome: &Outcome, keys: &[String]| {
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        let printed: Vec<_> = outcome.stdout.lines().map(|line| line.split_once('\t').unwrap()).collect();
        assert_eq!(printed.iter().map(|(key, _)| *key).collect::<Vec<_>>(), keys);
        assert!(printed.iter().all(|(_, value)| value.len() == LONG_BYTES));
    };
    let scan = files.kv(&["scan", "--prefix", "long:"]);
    check(&scan, &keys);
    assert_eq!(scan.stderr, "");
    let words: Vec<&str> = std::iter::once("mget").chain(keys.iter().rev().map(String::as_str)).collect();
    let mget = files.kv(&words);
    check(&mget, &keys.iter().rev().cloned().collect::<Vec<_>>());
    assert!(mget.stderr.contains("moments"), "{}", mget.stderr);
    // A limit that no page ends with, and the rest with the flags that it names.
    let first = files.kv(&["scan", "--limit", "7"]);
    check(&first, &keys[..7]);
    assert!(first.stderr.contains("go on with --after='long:06'"), "{}", first.stderr);
    check(&files.kv(&["scan", "--after=long:06", "--limit", "11"]), &keys[7..]);
    // A reader that has seen enough ends it.
    let (scan, mut stdout) = piped(&files, &["scan"]);
    stdout.read_line(&mut String::new()).unwrap();
    drop(stdout);
    assert_eq!(end(scan), Some(0));
}

#[test]
fn keys_and_values_of_any_bytes_are_told_apart_in_every_form() {
    let (files, _replica) = start();
    let pairs = [r"a\tb", r"tab\tline\n", r"\x1b[2J", r"\xff\x00", r"back\\slash", "plain"];
    let words = [&["--input", "escaped", "mset"], &pairs[..]].concat();
    assert_eq!(files.kv(&words).code, Some(0));
    let printed = |flags: &[&str]| files.kv(&[&["scan"], flags].concat()).stdout;
    let lines = [r"\x1b[2J", r"a\tb", r"back\\slash"];
    let values = [r"\xff\x00", r"tab\tline\n", "plain"];
    let escaped: String = lines.iter().zip(values).map(|(key, value)| format!("{key}\t{value}\n")).collect();
    assert_eq!(printed(&["--escape"]), escaped);
    assert_eq!(printed(&["--start", "a"]), "a\tb\ttab\tline\n\nback\\slash\tplain\n");
    assert_eq!(printed(&["--start", "a", "-0"]), "a\tb\0tab\tline\n\0back\\slash\0plain\0");
    let objects: Vec<serde_json::Value> =
        printed(&["--json"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.len(), 3);
    assert_eq!((&objects[0]["key"], &objects[0]["value_base64"]), (&"\u{1b}[2J".into(), &"/wA=".into()));
    assert_eq!((&objects[1]["key"], &objects[1]["value"]), (&"a\tb".into(), &"tab\tline\n".into()));
    assert_eq!(objects.iter().map(|object| &object["version"]).collect::<Vec<_>>(), [2, 1, 3]);
    // Where a scan ended, it goes on, whatever the key holds.
    let first = files.kv(&["scan", "--limit", "1", "--escape"]);
    assert!(first.stderr.contains(r"--input escaped --after='\x1b[2J'"), "{}", first.stderr);
    let rest = ["scan", "--input", "escaped", r"--after=\x1b[2J", "--escape", "--limit", "1"];
    assert_eq!(files.kv(&rest).stdout, format!("{}\t{}\n", lines[1], values[1]));
    // What is said beside it cannot act on a terminal either.
    let absent = files.kv(&["mget", "\u{1b}[2Jnone"]);
    assert!(absent.code == Some(4) && absent.stderr.contains(r"\x1b[2Jnone"), "{absent:?}");
}

#[test]
fn json_says_the_same_as_the_exit_code() {
    let (files, _replica) = start();
    for (words, code, line) in [
        (&["set", "a", "1"][..], 0, r#"{"version":1,"written":true}"#),
        (&["set", "a", "1", "--nx"], 4, r#"{"version":1,"written":false}"#),
        (&["incr", "a"], 0, r#"{"value":2,"version":2}"#),
        (&["append", "a", "0"], 0, r#"{"length":2,"version":3}"#),
        (&["get", "a"], 0, r#"{"key":"a","value":"20","version":3}"#),
        (&["get", "b"], 4, r#"{"key":"b","value":null}"#),
        (&["mset", "b", "1", "c", "2"], 0, r#"{"version":5,"written":true}"#),
        (&["exists", "a", "none"], 4, r#"{"existing":1}"#),
        (&["del", "a", "b"], 0, r#"{"removed":2}"#),
        (&["set", "a", "1", "--version", "3"], 4, r#"{"version":null,"written":false}"#),
        (&["set", "a", "1"], 0, r#"{"version":8,"written":true}"#),
    ] {
        let outcome = files.kv(&[words, &["--json"]].concat());
        assert_eq!(
            (outcome.code, outcome.stdout.as_str()),
            (Some(code), format!("{line}\n").as_str()),
            "{words:?}"
        );
    }
}
