//! Every bound in the table of limits has a name in the code, and a metric beside it (DESIGN section 7).

use super::workspace::TextFile;
use super::{Source, Violation};

/// The table, and where metrics and the reasons of refusals are named.
const METRICS: [&str; 4] = [
    "crates/telemetry/src/counters.rs",
    "crates/telemetry/src/report.rs",
    "crates/replica/src/interface.rs",
    "crates/consensus/src/output.rs",
];
const COLUMNS: usize = 4;

/// Rows of a document's tables of accounts without a bound or a metric, or with one that does not exist.
#[must_use]
pub fn check(document: &TextFile, sources: &[Source]) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut rows = 0;
    for (index, line) in document.text.lines().enumerate() {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        if !line.starts_with('|') || cells[0] == "account" || cells[0].starts_with("---") {
            continue;
        }
        rows += 1;
        let mut violation = |rule: String, remedy: &str| {
            found.push(Violation::new(&document.path, index + 1, format!("limits: {rule}"), remedy));
        };
        let [account, bound, _, metric] = cells[..] else {
            violation(format!("a row of {} cells", cells.len()), &format!("make it {COLUMNS}"));
            continue;
        };
        for name in names(bound).filter(|name| !sources.iter().any(|source| is_constant(source, name))) {
            violation(format!("no constant `{name}`"), "correct the name, or take the row out");
        }
        for name in names(metric).filter(|name| !is_metric(sources, name)) {
            violation(format!("no metric `{name}`"), "correct the name, or count it");
        }
        if names(bound).next().is_none() && !matches!(bound, "one" | "none") {
            violation(format!("no bound for {account}"), "name the constant");
        }
        if names(metric).next().is_none() {
            violation(format!("no metric for {account}"), "name a counter, a field of a report or a reason");
        }
    }
    if rows == 0 {
        found.push(Violation::new(&document.path, 1, "limits: no table of accounts", "write it"));
    }
    found
}

/// What stands between backticks.
fn names(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

fn is_constant(source: &Source, name: &str) -> bool {
    source
        .production()
        .zip(source.production().skip(1))
        .any(|(word, next)| word.text == "const" && next.text == name)
}

/// A counter and a reason of a refusal are strings, a field of a report is a field.
fn is_metric(sources: &[Source], name: &str) -> bool {
    let places = sources.iter().filter(|source| METRICS.contains(&source.path.as_str()));
    let (string, field) = (format!("\"{name}\""), format!("pub {name}:"));
    places.into_iter().any(|source| source.text.contains(&string) || source.text.contains(&field))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(row: &str) -> Vec<String> {
        let head = "| account | bound | where it is reached | metric |\n| --- | --- | --- | --- |\n";
        let document = TextFile { path: "docs/limits.md".to_owned(), text: format!("{head}{row}\n") };
        let sources = [
            Source::new("crates/a/src/lib.rs", "const ROOM: usize = 3;"),
            Source::new(METRICS[0], "counters! { Full \"full\" \"Full rooms.\", }"),
            Source::new(METRICS[1], "pub struct Report { pub guests: u64 }"),
        ];
        check(&document, &sources).into_iter().map(|found| found.rule).collect()
    }

    #[test]
    fn each_account_has_a_bound_and_a_metric_that_exist() {
        assert_eq!(rules("| guests | `ROOM` | they wait | `full`, `guests` |"), [""; 0]);
        assert_eq!(rules("| hosts | one | the newest | `full` |"), [""; 0]);
        assert_eq!(rules("| guests | `RUM` | they wait | `full` |"), ["limits: no constant `RUM`"]);
        assert_eq!(rules("| guests | `ROOM` | they wait | `empty` |"), ["limits: no metric `empty`"]);
        assert_eq!(rules("| guests | three | they wait | `full` |"), ["limits: no bound for guests"]);
        assert_eq!(rules("| guests | `ROOM` | they wait | |"), ["limits: no metric for guests"]);
        assert_eq!(rules("| guests | `ROOM` | `full` |"), ["limits: a row of 3 cells"]);
        assert_eq!(rules(""), ["limits: no table of accounts"]);
    }
}
