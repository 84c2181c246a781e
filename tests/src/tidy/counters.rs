//! Every counter of `telemetry` is counted somewhere (CONVENTIONS rule 12).

use super::{Source, Violation};

const TABLE: &str = "crates/telemetry/src/counters.rs";
/// Calls that read a counter and raise nothing.
const READERS: [&str; 2] = ["get", "sum"];

/// The counters of the table that nothing outside `telemetry` adds to, increments or sets.
#[must_use]
pub fn check(sources: &[Source]) -> Vec<Violation> {
    let Some(table) = sources.iter().find(|source| source.path == TABLE) else {
        return vec![Violation::new(TABLE, 1, "counters: the file is missing", "name its new place here")];
    };
    let variants = variants(table);
    if variants.is_empty() {
        let rule = "counters: no `counters! { … }` table was found";
        return vec![Violation::new(TABLE, 1, rule, format!("teach {} the new form", file!()))];
    }
    let others = || sources.iter().filter(|source| source.package() != table.package());
    variants
        .into_iter()
        .filter(|(variant, _)| !others().any(|source| raises(source, variant)))
        .map(|(variant, line)| {
            let rule = format!("counters (CONVENTIONS rule 12): nothing raises `Counter::{variant}`");
            Violation::new(TABLE, line, rule, "count it where it happens, or take it out of the table")
        })
        .collect()
}

/// The variants in the table with their lines: the words of `counters! { … }` outside brackets.
fn variants(table: &Source) -> Vec<(String, usize)> {
    let texts: Vec<&str> = table.tokens.iter().map(|token| token.text.as_str()).collect();
    let Some(start) = texts.windows(3).position(|window| window == ["counters", "!", "{"]) else {
        return Vec::new();
    };
    table.tokens[start + 3..]
        .iter()
        .take_while(|token| token.text != "}")
        .filter(|token| token.text.starts_with(|first: char| first.is_ascii_uppercase()))
        .map(|token| (token.text.clone(), token.line))
        .collect()
}

fn raises(source: &Source, variant: &str) -> bool {
    let tokens: Vec<&str> = source.production().map(|token| token.text.as_str()).collect();
    let named = |at: usize| tokens[at..].starts_with(&["Counter", "::", variant]);
    (0..tokens.len()).any(|at| {
        let read = at >= 2 && tokens[at - 1] == "(" && READERS.contains(&tokens[at - 2]);
        named(at) && !read
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(table: &str, user: &str) -> Vec<(usize, String)> {
        let sources = [Source::new(TABLE, table), Source::new("crates/daemon/src/a.rs", user)];
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
        let rule = "counters (CONVENTIONS rule 12): nothing raises `Counter::B`".to_owned();
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
    fn a_table_that_is_not_found_is_no_pass() {
        assert_eq!(complaints("enum Counter { A }", "core.add(Counter::A, 1)").len(), 1);
        assert_eq!(check(&[]).len(), 1);
    }
}
