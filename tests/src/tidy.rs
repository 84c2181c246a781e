//! The rules that keep the tree tidy (CONVENTIONS rule 15), each a function from sources or manifests to what
//! breaks it. `tests/tidy.rs` applies them to the tree; the unit tests beside each rule show that it can fail.
//!
//! Sources are read as tokens, not as syntax trees: comments and strings cannot mislead a rule, while what
//! macros produce is not seen. That is the limit of these checks; they catch mistakes, not malice.

pub mod commands;
pub mod counters;
pub mod dependencies;
pub mod files;
pub mod layers;
pub mod limits;
pub mod purity;
pub mod source;
pub mod workspace;

pub use source::Source;
pub use workspace::Workspace;

use std::fmt;

/// One place where the tree breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The file, relative to the root of the tree.
    pub path: String,
    /// The line, from 1.
    pub line: usize,
    /// What is there and which rule it breaks.
    pub rule: String,
    /// What to do about it.
    pub remedy: String,
}

impl Violation {
    pub(crate) fn new(
        path: impl Into<String>,
        line: usize,
        rule: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { path: path.into(), line, rule: rule.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}\n    remedy: {}", self.path, self.line, self.rule, self.remedy)
    }
}

/// Fails a test with all violations, one below the other.
///
/// # Panics
/// When there is a violation.
pub fn expect_none(violations: &[Violation]) {
    let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "the tree is not tidy; violations: {}\n{}", lines.len(), lines.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "a/b.rs:7: sleeps\n    remedy: wake up")]
    fn a_violation_names_file_line_rule_and_remedy() {
        expect_none(&[Violation::new("a/b.rs", 7, "sleeps", "wake up")]);
    }

    #[test]
    fn a_tidy_tree_passes() {
        expect_none(&[]);
    }
}
