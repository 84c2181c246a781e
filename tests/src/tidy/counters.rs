//! Every counter and every histogram of `telemetry` is recorded somewhere (CONVENTIONS rule 12).

use super::{Source, Violation};

/// A table of metrics: where it is, the macro that makes it, and the type of its rows.
#[derive(Clone, Copy)]
struct Table {
    path: &'static str,
    name: &'static str,
    row: &'static str,
}

const TABLES: [Table; 2] = [
    Table { path: "crates/telemetry/src/counters.rs", name: "counters", row: "Counter" },
    Table { path: "crates/telemetry/src/histograms.rs", name: "histograms", row: "Measure" },
];
/// Calls that read a metric and record nothing.
const READERS: [&str; 4] = ["get", "sum", "read", "histogram"];

/// The rows of the tables that nothing outside `telemetry` adds to, increments, sets or records.
#[must_use]
pub fn check(sources: &[Source]) -> Vec<Violation> {
    TABLES.into_iter().flat_map(|table| check_table(table, sources)).collect()
}

fn check_table(table: Table, sources: &[Source]) -> Vec<Violation> {
    let Table { path, name, row } = table;
    let Some(source) = sources.iter().find(|source| source.path == path) else {
        return vec![Violation::new(
            path,
            1,
            format!("{name}: the file is missing"),
            "name its new place here",
        )];
    };
    let variants = variants(name, source);
    if variants.is_empty() {
        let rule = format!("{name}: no `{name}! {{ … }}` table was found");
        return vec![Violation::new(path, 1, rule, format!("teach {} the new form", file!()))];
    }
    let others = || sources.iter().filter(|other| other.package() != source.package());
    variants
        .into_iter()
        .filter(|(variant, _)| !others().any(|source| records(source, row, variant)))
        .map(|(variant, line)| {
            let rule = format!("{name} (CONVENTIONS rule 12): nothing records `{row}::{variant}`");
            Violation::new(path, line, rule, "record it where it happens, or take it out of the table")
        })
        .collect()
}

/// The variants in the table with their lines: the words of `counters! { … }` outside brackets.
fn variants(name: &str, table: &Source) -> Vec<(String, usize)> {
    let texts: Vec<&str> = table.tokens.iter().map(|token| token.text.as_str()).collect();
    let Some(start) = texts.windows(3).position(|window| window == [name, "!", "{"]) else {
        return Vec::new();
    };
    table.tokens[start + 3..]
        .iter()
        .take_while(|token| token.text != "}")
        .filter(|token| token.text.starts_with(|first: char| first.is_ascii_uppercase()))
        .map(|token| (token.text.clone(), token.line))
        .collect()
}

fn records(source: &Source, row: &str, variant: &str) -> bool {
    let tokens: Vec<&str> = source.production().map(|token| token.text.as_str()).collect();
    let named = |at: usize| tokens[at..].starts_with(&[row, "::", variant]);
    (0..tokens.len()).any(|at| {
        let read = at >= 2 && tokens[at - 1] == "(" && READERS.contains(&tokens[at - 2]);
        named(at) && !read
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(table: &str, user: &str) -> Vec<(usize, String)> {
        let sources = [
            Source::new(TABLES[0].path, table),
            Source::new(TABLES[1].path, "histograms! { Tick \"tick\" \"T.\", }"),
            Source::new("crates/daemon/src/a.rs", user),
            Source::new("crates/daemon/src/b.rs", "core.record(Measure::Tick, 1, 1);"),
        ];
        check(&sources).into_iter().map(|found| (found.line, found.rule)).collect()
    }

    const TWO: &str =
        "macro_rules! counters { ($a:ident) => {} }\ncounters! {\n A \"a\" \"A.\",\n B \"b\" \"B.\",\n}";

    #[test]
    fn counters_that_are_raised_pass() {
        assert!(complaints(TWO, "core.add(Counter::A, 1); self.count(Counter::B);").is_empty());
    }

    #[test]
    fn a_counter_that_is_only_read_or_only_tested_is_found() {
        let rule = "counters (CONVENTIONS rule 12): nothing records `Counter::B`".to_owned();
        let expected = [(4, rule)];
        let raised = "core.set(Counter::A, 1);";
        assert_eq!(complaints(TWO, raised), expected);
        assert_eq!(
            complaints(TWO, &format!("{raised} shared.sum(Counter::B); core.get(Counter::B);")),
            expected
        );
        assert_eq!(complaints(TWO, &format!("{raised} #[cfg(test)] fn b() {{ c(Counter::B) }}")), expected);
    }

    #[test]
    fn a_histogram_that_is_only_read_is_found() {
        let sources = [
            Source::new(TABLES[0].path, TWO),
            Source::new(TABLES[1].path, "histograms! {\n Tick \"tick\" \"T.\",\n}"),
            Source::new(
                "crates/daemon/src/a.rs",
                "a(Counter::A); b(Counter::B); s.histogram(Measure::Tick);",
            ),
        ];
        let found: Vec<String> = check(&sources).iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("histograms.rs:2: "), "{}", found[0]);
        assert!(found[0].contains("nothing records `Measure::Tick`"), "{}", found[0]);
    }

    #[test]
    fn a_table_that_is_not_found_is_no_pass() {
        assert_eq!(complaints("enum Counter { A }", "core.add(Counter::A, 1)").len(), 1);
        assert_eq!(check(&[]).len(), 2);
    }
}
