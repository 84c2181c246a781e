//! Every `cargo …` command that a document names exists: its subcommand or alias, its package and its target.

use super::Violation;
use super::workspace::{Member, TextFile};
use toml::Table;

const RULE: &str = "commands (CONVENTIONS rule 14)";
const CONFIG: &str = ".cargo/config.toml";

/// Subcommands of cargo itself and of the tools that a document may presuppose.
const SUBCOMMANDS: [&str; 19] = [
    "add", "bench", "build", "check", "clean", "clippy", "deny", "doc", "fetch", "fmt", "install",
    "metadata", "miri", "publish", "run", "test", "tree", "update", "vendor",
];

/// Commands of documents, and aliases, that would not run.
#[must_use]
pub fn check(documents: &[TextFile], config: Option<&TextFile>, members: &[Member]) -> Vec<Violation> {
    let mut found = Vec::new();
    let aliases = config.map(aliases).unwrap_or_default();
    if let Some(config) = config {
        for (name, command) in &aliases {
            let line = config.line_where(|line| line.starts_with(name));
            check_command(command, &[], members, |rule, remedy| {
                found.push(Violation::new(&config.path, line, rule, remedy));
            });
        }
    }
    let names: Vec<&str> = aliases.iter().map(|(name, _)| name.as_str()).collect();
    for document in documents {
        for (line, command) in commands(&document.text) {
            check_command(&command, &names, members, |rule, remedy| {
                found.push(Violation::new(&document.path, line, rule, remedy));
            });
        }
    }
    found
}

/// The aliases of a cargo configuration, each with what it stands for.
fn aliases(config: &TextFile) -> Vec<(String, String)> {
    let table: Table = config.text.parse().unwrap_or_default();
    let Some(aliases) = table.get("alias").and_then(|value| value.as_table()) else { return Vec::new() };
    let words = |value: &toml::Value| match value {
        toml::Value::Array(words) => {
            words.iter().filter_map(|word| word.as_str()).collect::<Vec<_>>().join(" ")
        }
        other => other.as_str().unwrap_or_default().to_owned(),
    };
    aliases.iter().map(|(name, value)| (name.clone(), words(value))).collect()
}

/// What stands behind `cargo` in code of a document, each with its line.
fn commands(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        let spans: Vec<&str> = if fenced { vec![line] } else { line.split('`').skip(1).step_by(2).collect() };
        for span in spans {
            let code = span.split(" #").next().unwrap_or(span);
            for piece in code.split(['&', ';', '|']) {
                let mut words =
                    piece.split_whitespace().skip_while(|word| *word == "$" || word.contains('='));
                if words.next() == Some("cargo") {
                    let rest: Vec<&str> = words.skip_while(|word| word.starts_with('+')).collect();
                    found.push((index + 1, rest.join(" ")));
                }
            }
        }
    }
    found
}

fn check_command(
    command: &str,
    aliases: &[&str],
    members: &[Member],
    mut report: impl FnMut(String, String),
) {
    let words: Vec<&str> = command.split_whitespace().take_while(|word| *word != "--").collect();
    if let Some(name) = words.first().filter(|word| !word.starts_with('-'))
        && !SUBCOMMANDS.contains(name)
        && !aliases.contains(name)
    {
        let remedy = format!("correct it, or add an alias to {CONFIG}");
        report(format!("{RULE}: `cargo {name}` does not exist"), remedy);
    }
    for (at, word) in words.iter().enumerate() {
        let package = match word.split_once('=') {
            Some(("-p" | "--package", name)) => name,
            None if matches!(*word, "-p" | "--package") => words.get(at + 1).copied().unwrap_or_default(),
            _ => continue,
        };
        if !members.iter().any(|member| member.name == package) {
            let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
            let rule = format!("{RULE}: `cargo {command}` names no package of the workspace");
            report(rule, format!("the packages are {}", names.join(", ")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(document: &str, config: &str) -> Vec<String> {
        let file = |path: &str, text: &str| TextFile { path: path.to_owned(), text: text.to_owned() };
        let member = Member {
            name: "quorate-a".to_owned(),
            folder: "crates/a".to_owned(),
            roots: Vec::new(),
            dependencies: Vec::new(),
        };
        check(&[file("README.md", document)], Some(&file(CONFIG, config)), &[member])
            .into_iter()
            .map(|found| format!("{}:{} {}", found.path, found.line, found.rule))
            .collect()
    }

    #[test]
    fn commands_that_exist_pass() {
        let config = "[alias]\nsimulate = \"run -p quorate-a --\"\nchaos = [\"run\", \"-p\", \"quorate-a\"]";
        let text = "Cargo and `cargo` alone, `cargo test --workspace`.\n```sh\n$ cargo simulate --seed 1\n\
                    RUST_LOG=info cargo +stable run -p quorate-a -- -p 7 && cargo chaos # cargo nothing\n```\n\
                    cargo nonsense in prose";
        assert_eq!(complaints(text, config), [""; 0]);
    }

    #[test]
    fn commands_that_do_not_exist_are_found() {
        let found =
            complaints("a\n`cargo simulate`\n```\ncargo run -p quorate-b\n```\n`cargo a && cargo c`", "");
        let expected = [
            "README.md:2 commands (CONVENTIONS rule 14): `cargo simulate` does not exist",
            "README.md:4 commands (CONVENTIONS rule 14): `cargo run -p quorate-b` names no package of the \
             workspace",
            "README.md:6 commands (CONVENTIONS rule 14): `cargo a` does not exist",
            "README.md:6 commands (CONVENTIONS rule 14): `cargo c` does not exist",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn an_alias_of_nothing_is_found() {
        let found = complaints("", "[alias]\nb = \"run --package=quorate-c\"");
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with(".cargo/config.toml:2 "));
    }
}
