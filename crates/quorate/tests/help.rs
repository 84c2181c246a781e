//! The help of the real binary.

mod common;

use common::quorate;

fn help(path: &[&str]) -> String {
    let mut arguments = path.to_vec();
    arguments.push("--help");
    let outcome = quorate(&arguments);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{path:?}");
    outcome.stdout
}

/// The names in the list of subcommands.
fn subcommands(text: &str) -> Vec<String> {
    let list = text.split("Commands:\n").nth(1).unwrap_or_default();
    let lines = list.lines().take_while(|line| !line.is_empty());
    let name = |line: &str| line.strip_prefix("  ")?.split(' ').next().map(str::to_owned);
    lines.filter_map(name).filter(|name| !name.is_empty() && name != "help").collect()
}

#[test]
fn each_command_explains_itself_and_most_give_examples() {
    let top = help(&[]);
    let commands = subcommands(&top);
    assert!(commands.len() >= 8, "{commands:?}");
    for command in &commands {
        let text = help(&[command]);
        assert!(text.contains("Examples:") || command == "doctor", "`{command} --help` gives no example");
        for subcommand in subcommands(&text) {
            assert!(help(&[command, &subcommand]).contains("Usage:"));
        }
    }
    assert!(top.contains("Exit codes: 0 good, 1 failed at run time, 2 wrong configuration"));
}

#[test]
fn defaults_and_units_are_told() {
    // Long lines are wrapped anywhere.
    let words: Vec<String> = help(&["init"]).split_whitespace().map(str::to_owned).collect();
    assert!(words.join(" ").contains("[default: 7400]"));
    assert!(help(&["kv"]).contains("in seconds"));
    assert!(help(&["status"]).contains("QUORATE_CLUSTER"));
    assert!(help(&["dev"]).contains("[default: 4"));
}

#[test]
fn the_doctor_checks_this_machine() {
    let outcome = quorate(&["doctor"]);
    let usable = !outcome.stdout.contains("BAD");
    assert_eq!(outcome.code, Some(i32::from(!usable)), "{outcome:?}");
    for part in ["kernel", "io_uring", "sysctl", "locked memory", "open files", "CPUs"] {
        assert!(outcome.stdout.contains(part), "no {part:?} in {}", outcome.stdout);
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    use std::process::Stdio;
    let mut command = common::command(&["--help"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    child.wait().unwrap();
    let mut doctor = common::command(&["doctor"]);
    let mut child = doctor.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("panicked") && output.status.code().is_some_and(|code| code < 2), "{stderr}");
}
