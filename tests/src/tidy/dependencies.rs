//! Dependencies are declared once in the workspace, explained once in `docs/dependencies.md`, and used
//! (CONVENTIONS rule 11).

use super::workspace::{TextFile, declares};
use super::{Source, Violation};
use std::collections::{BTreeMap, BTreeSet};
use toml::{Table, Value};

const RULE: &str = "dependencies (CONVENTIONS rule 11)";
const SECTIONS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];
const MANIFEST: &str = "Cargo.toml";
const EXPLAINED: &str = "docs/dependencies.md";

/// One dependency of one member.
#[derive(Debug)]
struct Declared {
    name: String,
    section: &'static str,
    inherited: bool,
}

/// The dependencies of members, of the workspace, and of the document that explains them, against each other.
#[must_use]
pub fn check(workspace: &TextFile, members: &[TextFile], explained: &TextFile) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut used = BTreeSet::new();
    for manifest in members {
        let Some(table) = parse(manifest, &mut found) else { continue };
        for dependency in declared(&table) {
            used.insert(dependency.name.clone());
            if !dependency.inherited {
                let line = manifest.line_where(|line| declares(line, &dependency.name));
                let rule = format!("{RULE}: `{}` is not taken from the workspace", dependency.name);
                let remedy =
                    format!("write `{}.workspace = true` and declare it in {MANIFEST}", dependency.name);
                found.push(Violation::new(&manifest.path, line, rule, remedy));
            }
        }
    }
    let Some(table) = parse(workspace, &mut found) else { return found };
    let shared = workspace_dependencies(&table);
    for (name, _) in shared.iter().filter(|(name, is_ours)| !**is_ours && !used.contains(*name)) {
        let line = workspace.line_where(|line| declares(line, name));
        let rule = format!("{RULE}: no member uses `{name}`");
        found.push(Violation::new(&workspace.path, line, rule, "take it out"));
    }
    let outside: BTreeSet<&str> =
        shared.iter().filter(|(_, is_ours)| !**is_ours).map(|(name, _)| name.as_str()).collect();
    check_explained(&outside, workspace, explained, &mut found);
    found
}

/// Dependencies that their crate never names.
#[must_use]
pub fn check_unused(members: &[TextFile], sources: &[Source]) -> Vec<Violation> {
    let mut found = Vec::new();
    for manifest in members {
        let folder = manifest.path.strip_suffix("/Cargo.toml").unwrap_or(&manifest.path);
        let Some(table) = parse(manifest, &mut found) else { continue };
        for Declared { name, section, .. } in declared(&table) {
            let word = name.replace('-', "_");
            let development = section == "dev-dependencies";
            let named = sources.iter().filter(|source| source.package() == folder).any(|source| {
                let mut words = source.tokens.iter().filter(|token| development || !token.test);
                (development || source.is_in_src()) && words.any(|token| token.text == word)
            });
            if !named {
                let line = manifest.line_where(|line| declares(line, &name));
                let rule = format!("{RULE}: `{name}` in [{section}] is not used");
                let remedy = match development {
                    true => "take it out",
                    false => "take it out, or move it to [dev-dependencies] if tests use it",
                };
                found.push(Violation::new(&manifest.path, line, rule, remedy));
            }
        }
    }
    found
}

fn parse(manifest: &TextFile, found: &mut Vec<Violation>) -> Option<Table> {
    match manifest.text.parse() {
        Ok(table) => Some(table),
        Err(error) => {
            let rule = format!("{RULE}: the manifest cannot be read: {error}");
            found.push(Violation::new(&manifest.path, 1, rule, "correct it"));
            None
        }
    }
}

fn declared(manifest: &Table) -> Vec<Declared> {
    let targets = manifest.get("target").and_then(Value::as_table);
    let tables = targets.into_iter().flat_map(|targets| targets.values().filter_map(Value::as_table));
    let mut found = Vec::new();
    for table in tables.chain([manifest]) {
        for section in SECTIONS {
            let entries = table.get(section).and_then(Value::as_table);
            found.extend(entries.into_iter().flatten().map(|(name, value)| Declared {
                name: name.clone(),
                section,
                inherited: value.get("workspace").and_then(Value::as_bool) == Some(true),
            }));
        }
    }
    found
}

/// What the workspace declares, each with whether it is a crate of the workspace.
fn workspace_dependencies(manifest: &Table) -> BTreeMap<String, bool> {
    let entries =
        manifest.get("workspace").and_then(|value| value.get("dependencies")).and_then(Value::as_table);
    entries.into_iter().flatten().map(|(name, value)| (name.clone(), value.get("path").is_some())).collect()
}

fn check_explained(
    outside: &BTreeSet<&str>,
    workspace: &TextFile,
    explained: &TextFile,
    found: &mut Vec<Violation>,
) {
    let rows = rows(&explained.text);
    for name in outside.iter().filter(|name| !rows.iter().any(|(_, row)| row == *name)) {
        let line = workspace.line_where(|line| declares(line, name));
        let rule = format!("{RULE}: `{name}` has no line in {EXPLAINED}");
        found.push(Violation::new(&workspace.path, line, rule, "say there what for, and why this one"));
    }
    for (line, name) in rows.iter().filter(|(_, name)| !outside.contains(name.as_str())) {
        let rule = format!("{RULE}: `{name}` is explained and not declared in {MANIFEST}");
        found.push(Violation::new(&explained.path, *line, rule, "take the line out"));
    }
    for pair in rows.windows(2).filter(|pair| pair[0].1 >= pair[1].1) {
        let rule = format!("{RULE}: `{}` stands behind `{}`", pair[1].1, pair[0].1);
        found.push(Violation::new(&explained.path, pair[1].0, rule, "one line each, in alphabetical order"));
    }
}

/// The rows of the table of dependencies: "| `name` | … |".
fn rows(text: &str) -> Vec<(usize, String)> {
    let name = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    text.lines().enumerate().filter_map(|(index, line)| Some((index + 1, name(line)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> TextFile {
        TextFile { path: path.to_owned(), text: text.to_owned() }
    }

    fn complaints(workspace: &str, member: &str, explained: &str) -> Vec<String> {
        let workspace = file(MANIFEST, &format!("[workspace.dependencies]\n{workspace}"));
        let member = file("crates/a/Cargo.toml", &format!("[dependencies]\n{member}"));
        check(&workspace, &[member], &file(EXPLAINED, explained))
            .into_iter()
            .map(|found| format!("{}:{} {}", found.path, found.line, found.rule.replace(RULE, "")))
            .collect()
    }

    const ROWS: &str = "| crate | what for |\n| --- | --- |\n| `b` | c |\n";

    #[test]
    fn what_is_declared_used_and_explained_passes() {
        assert!(
            complaints(
                "b = \"1\"\nours = { path = \"d\" }",
                "b.workspace = true\nours.workspace = true",
                ROWS
            )
            .is_empty()
        );
        assert!(complaints("b = \"1\"", "b = { workspace = true, features = [\"e\"] }", ROWS).is_empty());
    }

    #[test]
    fn each_gap_is_found() {
        let own = complaints("b = \"1\"", "b = \"1\"", ROWS);
        assert_eq!(own, ["crates/a/Cargo.toml:2 : `b` is not taken from the workspace"]);
        let unused = complaints("b = \"1\"", "", ROWS);
        assert_eq!(unused, ["Cargo.toml:2 : no member uses `b`"]);
        let unexplained = complaints("b = \"1\"\nc = \"1\"", "b.workspace = true\nc.workspace = true", ROWS);
        assert_eq!(unexplained, ["Cargo.toml:3 : `c` has no line in docs/dependencies.md"]);
        let stale = complaints("", "", ROWS);
        assert_eq!(stale, ["docs/dependencies.md:3 : `b` is explained and not declared in Cargo.toml"]);
        assert_eq!(complaints("b = 1 1", "", ROWS).len(), 1, "a broken manifest");
    }

    #[test]
    fn lines_that_are_doubled_or_out_of_order_are_found() {
        let both = "b.workspace = true\nc.workspace = true";
        let out_of_order = complaints("b = \"1\"\nc = \"1\"", both, "| `c` | d |\n| `b` | d |");
        assert_eq!(out_of_order, ["docs/dependencies.md:2 : `b` stands behind `c`"]);
        assert_eq!(complaints("b = \"1\"", "b.workspace = true", "| `b` | c |\n| `b` | c |").len(), 1);
    }

    #[test]
    fn dependencies_that_are_not_named_are_found() {
        let manifest = file(
            "crates/a/Cargo.toml",
            "[dependencies]\nfast-b.workspace = true\nc.workspace = true\n[dev-dependencies]\nd.workspace = true",
        );
        let sources = [
            Source::new("crates/a/src/lib.rs", "use fast_b::E; // c\n#[cfg(test)] mod tests { use c::F; }"),
            Source::new("crates/a/tests/g.rs", "d::h();"),
            Source::new("crates/i/src/lib.rs", "c::j();"),
        ];
        let found = check_unused(&[manifest], &sources);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].line, found[0].rule.contains("`c` in [dependencies]")), (3, true));
    }
}
