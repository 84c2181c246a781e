//! What holds for each source file: its header, its length, and what it may not leave behind.

use super::{Source, Violation};

/// Above so many lines a file splits by noun, or its header says why it does not.
const LINES_MAX: usize = 900;
/// How the header of a longer file begins its reason.
const LONG_REASON: &str = "Long because";

/// Whose sources write to the terminal: the binary, and the reports and help of the tools in it.
const PRINTERS: [&str; 3] = ["crates/quorate/src/", "crates/bench/src/", "crates/simulator/src/main.rs"];
const PRINTS: [&str; 4] = ["print", "println", "eprint", "eprintln"];
const LEFT_BEHIND: [&str; 3] = ["todo", "dbg", "unimplemented"];

/// Folders and files of helpers that poll for a condition with a deadline, and so may sleep in between.
const SLEEPERS: [&str; 8] = [
    "tests/src/",
    "/tests/common/",
    "/tests/support/",
    "/src/testing.rs",
    "/src/testing/",
    "crates/quorate/src/",
    // Pace work that nobody waits for.
    "crates/daemon/src/checkpointer.rs",
    "crates/daemon/src/hasher.rs",
];

/// Who opens files for writing, each with how what it writes is made durable, or why it need not be. Keys and whatever else
/// must not be forgotten go through the first: `write_durably` and `create_durably`.
const WRITERS: [(&str, &str); 12] = [
    ("crates/daemon/src/data_directory/layout.rs", "synced, and its name with it"),
    ("crates/daemon/src/data_directory/lock.rs", "a lock ends with its process"),
    ("crates/daemon/src/never_spoken.rs", "synced; the mark lies in a directory that may not be written"),
    ("crates/daemon/src/segment_files.rs", "synced, and its name with it"),
    ("crates/daemon/src/log_reader.rs", "only reads, past the cache"),
    ("crates/daemon/src/page_folder.rs", "synced, unless the replica is not"),
    ("crates/daemon/src/sync_probe.rs", "measures the disk"),
    ("crates/daemon/src/dump.rs", "figures"),
    ("crates/quorate/src/new_backup.rs", "synced, and its name with it"),
    ("crates/quorate/src/histograms.rs", "figures"),
    ("crates/quorate/src/local_cluster.rs", "what replicas say"),
    ("crates/bench/src/", "figures"),
];
const WRITES: [&str; 4] = ["File :: create", "File :: create_new", "fs :: write", "OpenOptions :: new"];

/// Everything that is wrong with single files.
#[must_use]
pub fn check(sources: &[Source]) -> Vec<Violation> {
    let mut found = Vec::new();
    for source in sources {
        check_header(source, &mut found);
        check_prints(source, &mut found);
        check_macros(source, &mut found);
        check_ignored(source, &mut found);
        check_sleeps(source, &mut found);
        check_writes(source, &mut found);
    }
    found
}

fn check_header(source: &Source, found: &mut Vec<Violation>) {
    if source.is_in_src() && !source.text.starts_with("//!") {
        let rule = "header (CONVENTIONS rule 1): the first line is no `//!`";
        found.push(Violation::new(&source.path, 1, rule, "say what the file is, why, and its limits"));
    }
    let lines = source.text.lines().count();
    let header: Vec<&str> = source.text.lines().take_while(|line| line.starts_with("//!")).collect();
    if lines > LINES_MAX && !header.iter().any(|line| line.contains(LONG_REASON)) {
        let rule = format!("length (CONVENTIONS rule 1): {lines} lines, above {LINES_MAX}");
        let remedy = format!("split it by noun, or give the reason in the header: `//! {LONG_REASON} …`");
        found.push(Violation::new(&source.path, LINES_MAX + 1, rule, remedy));
    }
}

fn check_prints(source: &Source, found: &mut Vec<Violation>) {
    if PRINTERS.iter().any(|printer| source.path.starts_with(printer)) {
        return;
    }
    for print in PRINTS {
        for token in source.find(&format!("{print} !")).filter(|token| !token.test && source.is_in_src()) {
            let rule = format!("stray output (CONVENTIONS rule 15): `{print}!`");
            let remedy =
                format!("return the text, use `tracing`, or print in one of {}", PRINTERS.join(", "));
            found.push(Violation::new(&source.path, token.line, rule, remedy));
        }
    }
}

fn check_macros(source: &Source, found: &mut Vec<Violation>) {
    for name in LEFT_BEHIND {
        for token in source.find(&format!("{name} !")) {
            let rule = format!("left behind (CONVENTIONS rule 15): `{name}!`");
            found.push(Violation::new(&source.path, token.line, rule, "finish it, or take it out"));
        }
    }
}

fn check_ignored(source: &Source, found: &mut Vec<Violation>) {
    for token in source.find("# [ ignore") {
        let rule = "tests (CONVENTIONS rule 9): `#[ignore]`";
        found.push(Violation::new(
            &source.path,
            token.line,
            rule,
            "make the test pass and quick, or delete it",
        ));
    }
}

fn check_sleeps(source: &Source, found: &mut Vec<Violation>) {
    if SLEEPERS.iter().any(|sleeper| source.path.starts_with(sleeper) || source.path.contains(sleeper)) {
        return;
    }
    let imported = source
        .standard_paths()
        .into_iter()
        .filter(|path| path.segments == ["thread", "sleep"])
        .map(|path| path.line);
    let mut lines: Vec<usize> =
        source.find("thread :: sleep").map(|token| token.line).chain(imported).collect();
    lines.sort_unstable();
    lines.dedup();
    for line in lines {
        let rule = "sleeping (CONVENTIONS rule 9): `thread::sleep`";
        let remedy = "wait for a condition with a deadline, in a helper of the tests";
        found.push(Violation::new(&source.path, line, rule, remedy));
    }
}

fn check_writes(source: &Source, found: &mut Vec<Violation>) {
    let of_product = source.is_in_src() && source.path.starts_with("crates/");
    if !of_product || WRITERS.iter().any(|(writer, _)| source.path.starts_with(writer)) {
        return;
    }
    for write in WRITES {
        for token in source.find(write).filter(|token| !token.test) {
            let rule = format!("durability (DESIGN section 5): `{}`", write.replace(' ', ""));
            let remedy =
                "write it by `write_durably` or `create_durably`, or say in WRITERS why that is not needed";
            found.push(Violation::new(&source.path, token.line, rule, remedy));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines and first words of what is wrong.
    fn complaints(path: &str, text: &str) -> Vec<(usize, String)> {
        let sources = [Source::new(path, text)];
        let word = |rule: &str| rule.split(" (").next().unwrap_or_default().to_owned();
        check(&sources).into_iter().map(|found| (found.line, word(&found.rule))).collect()
    }

    fn one(line: usize, rule: &str) -> Vec<(usize, String)> {
        vec![(line, rule.to_owned())]
    }

    #[test]
    fn a_source_without_header_is_found() {
        assert_eq!(complaints("crates/a/src/b.rs", "// b\n//! c"), one(1, "header"));
        assert_eq!(complaints("crates/a/src/b.rs", ""), one(1, "header"));
        assert!(complaints("crates/a/src/b.rs", "//! b").is_empty());
        assert!(complaints("crates/a/tests/b.rs", "mod b;").is_empty());
    }

    #[test]
    fn a_long_file_needs_a_reason() {
        let long = |header: &str| format!("{header}\n{}", "fn a() {}\n".repeat(LINES_MAX));
        assert_eq!(complaints("crates/a/src/b.rs", &long("//! b")), one(901, "length"));
        assert!(complaints("crates/a/src/b.rs", &long("//! b\n//! Long because c.")).is_empty());
        assert_eq!(complaints("tests/tests/b.rs", &long("//! b")), one(901, "length"));
    }

    #[test]
    fn output_belongs_to_binaries() {
        let text = "//! a\nfn b() { eprintln!(); }\n#[cfg(test)] mod tests { fn c() { println!(); } }";
        assert_eq!(complaints("crates/daemon/src/a.rs", text), one(2, "stray output"));
        assert!(complaints("crates/quorate/src/a.rs", text).is_empty());
        assert!(complaints("crates/daemon/tests/a.rs", text).is_empty());
    }

    #[test]
    fn nothing_is_left_behind() {
        assert_eq!(complaints("crates/a/tests/b.rs", "fn c() { dbg!(1); }"), one(1, "left behind"));
        assert_eq!(complaints("crates/a/src/b.rs", "//! b\nfn c() { todo!() }"), one(2, "left behind"));
        assert!(complaints("crates/a/src/b.rs", "//! b\n// todo!() later").is_empty());
    }

    #[test]
    fn no_test_is_ignored() {
        assert_eq!(
            complaints("crates/a/tests/b.rs", "#[test]\n#[ignore = \"slow\"]\nfn c() {}"),
            one(2, "tests")
        );
    }

    #[test]
    fn who_writes_files_says_how_they_are_made_durable() {
        for write in ["std::fs::write(b, c)", "File::create(b)", "File::create_new(b)", "OpenOptions::new()"]
        {
            let text =
                format!("//! a\nfn b() {{ {write}; }}\n#[cfg(test)] mod tests {{ fn c() {{ {write}; }} }}");
            assert_eq!(complaints("crates/a/src/b.rs", &text), one(2, "durability"), "{write}");
            assert!(complaints("crates/daemon/src/data_directory/layout.rs", &text).is_empty());
            assert!(complaints("crates/a/tests/b.rs", &text).is_empty());
        }
    }

    #[test]
    fn only_helpers_of_tests_sleep() {
        let text = "//! a\nfn b() { std::thread::sleep(c); }";
        assert_eq!(complaints("crates/a/src/b.rs", text), one(2, "sleeping"));
        assert_eq!(
            complaints("crates/a/tests/b.rs", "use std::thread;\nthread::sleep(c);"),
            one(2, "sleeping")
        );
        assert_eq!(complaints("crates/a/tests/b.rs", "use std::thread::{sleep, spawn};"), one(1, "sleeping"));
        assert!(complaints("tests/src/wait.rs", text).is_empty());
        assert!(complaints("crates/a/tests/common/mod.rs", text).is_empty());
    }
}
