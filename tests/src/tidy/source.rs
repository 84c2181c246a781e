//! A Rust source as tokens that know their line and whether only tests compile them.

/// One token. Comments are none; a literal is one, without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// An identifier or number as written, `::`, one character of punctuation, or `""` for a literal.
    pub text: String,
    /// The line, from 1.
    pub line: usize,
    /// Whether it belongs to an item under `#[cfg(test)]`.
    pub test: bool,
}

/// A source file.
#[derive(Clone, Debug)]
pub struct Source {
    /// The path relative to the root of the tree, with `/`.
    pub path: String,
    /// The text.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<Token>,
    /// The modules that this file declares for tests alone, as paths without extension.
    pub test_modules: Vec<String>,
}

/// A path below `std`, `core` or `alloc`, from a `use` or from an expression; `use` groups are flattened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandardPath {
    /// The segments after `std`.
    pub segments: Vec<String>,
    /// The line of the last segment.
    pub line: usize,
    /// Whether only tests compile it.
    pub test: bool,
}

impl Source {
    /// Reads a source.
    #[must_use]
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let (path, text) = (path.into(), text.into());
        let mut tokens = tokenize(&text);
        let names = mark_tests(&mut tokens);
        let folder = folder_of_modules(&path);
        let test_modules = names.into_iter().map(|name| format!("{folder}/{name}")).collect();
        Self { path, text, tokens, test_modules }
    }

    /// The crate's folder: `crates/types`, `tests` or `benches`.
    #[must_use]
    pub fn package(&self) -> &str {
        let depth = if self.path.starts_with("crates/") { 2 } else { 1 };
        let end = self.path.match_indices('/').nth(depth - 1).map_or(self.path.len(), |(at, _)| at);
        &self.path[..end]
    }

    /// Whether it is part of a library or binary: not a test, bench or example target of its own.
    #[must_use]
    pub fn is_in_src(&self) -> bool {
        self.path[self.package().len()..].starts_with("/src/")
    }

    /// Makes all of it test code: it is a module that only tests compile.
    pub fn make_test(&mut self) {
        self.tokens.iter_mut().for_each(|token| token.test = true);
    }

    /// What a binary or library is compiled from.
    pub fn production(&self) -> impl Iterator<Item = &Token> {
        let in_src = self.is_in_src();
        self.tokens.iter().filter(move |token| in_src && !token.test)
    }

    /// The tokens at which the words of `pattern`, separated by spaces, begin.
    pub fn find<'a>(&'a self, pattern: &str) -> impl Iterator<Item = &'a Token> {
        let words: Vec<String> = pattern.split(' ').map(str::to_owned).collect();
        self.tokens
            .windows(words.len())
            .filter(move |window| window.iter().zip(&words).all(|(token, word)| token.text == *word))
            .map(|window| &window[0])
    }

    /// All paths that begin with `std::`, `core::` or `alloc::`.
    #[must_use]
    pub fn standard_paths(&self) -> Vec<StandardPath> {
        let mut found = Vec::new();
        for (at, token) in self.tokens.iter().enumerate() {
            if matches!(token.text.as_str(), "std" | "core" | "alloc") && self.text_at(at + 1) == "::" {
                self.flatten(at + 2, &[], &mut found);
            }
        }
        found
    }

    fn text_at(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| &token.text)
    }

    /// Adds the paths of the tree at `at`; returns where it ends.
    fn flatten(&self, mut at: usize, prefix: &[String], found: &mut Vec<StandardPath>) -> usize {
        let mut segments = prefix.to_vec();
        if self.text_at(at) == "{" {
            at += 1;
            while !matches!(self.text_at(at), "}" | "") {
                at = self.flatten(at, &segments, found);
                while !matches!(self.text_at(at), "," | "}" | "") {
                    at += 1;
                }
                at += usize::from(self.text_at(at) == ",");
            }
            return at + 1;
        }
        let Some(token) = self.tokens.get(at) else { return at };
        if token.text != "self" {
            segments.push(token.text.clone());
        }
        if self.text_at(at + 1) == "::" {
            return self.flatten(at + 2, &segments, found);
        }
        found.push(StandardPath { segments, line: token.line, test: token.test });
        at + 1
    }
}

/// Where the modules lie that the file at `path` declares.
fn folder_of_modules(path: &str) -> String {
    let stem = path.strip_suffix(".rs").unwrap_or(path);
    match stem.rsplit_once('/') {
        Some((folder, "lib" | "main" | "mod")) => folder.to_owned(),
        _ => stem.to_owned(),
    }
}

/// Takes a source apart, character by character.
struct Scanner<'a> {
    rest: &'a str,
    line: usize,
    tokens: Vec<Token>,
}

fn tokenize(text: &str) -> Vec<Token> {
    let mut scanner = Scanner { rest: text, line: 1, tokens: Vec::new() };
    while let Some(character) = scanner.rest.chars().next() {
        scanner.next(character);
    }
    scanner.tokens
}

impl Scanner<'_> {
    fn next(&mut self, character: char) {
        let rest = self.rest;
        if let Some(prefix) = raw_string_prefix(rest) {
            let hashes = prefix.matches('#').count();
            let end = format!("\"{}", "#".repeat(hashes));
            let length =
                rest[prefix.len()..].find(&end).map_or(rest.len(), |at| prefix.len() + at + end.len());
            return self.push("\"\"", length);
        }
        if rest.starts_with("//") {
            return self.skip(rest.find('\n').unwrap_or(rest.len()));
        }
        if rest.starts_with("/*") {
            return self.skip(block_comment_length(rest));
        }
        if character == '"' || ["b\"", "c\"", "b'"].iter().any(|start| rest.starts_with(start)) {
            let start = usize::from(character != '"');
            let quote = char::from(rest.as_bytes()[start]);
            return self.push("\"\"", quoted_length(rest, start, quote));
        }
        if character == '\'' {
            return self.quote();
        }
        if is_word(character) {
            let raw = if rest.starts_with("r#") { 2 } else { 0 };
            let length = rest[raw..].find(|other| !is_word(other)).map_or(rest.len(), |at| raw + at);
            return self.push(&rest[raw..length], length);
        }
        if rest.starts_with("::") {
            return self.push("::", 2);
        }
        if character.is_whitespace() {
            return self.skip(character.len_utf8());
        }
        self.push(&rest[..character.len_utf8()], character.len_utf8());
    }

    /// A character literal, or a lifetime, which is no token.
    fn quote(&mut self) {
        let mut following = self.rest.chars().skip(1);
        let (first, second) = (following.next(), following.next());
        if first == Some('\\') || second == Some('\'') {
            return self.push("\"\"", quoted_length(self.rest, 0, '\''));
        }
        let length = self.rest[1..].find(|other| !is_word(other)).map_or(self.rest.len(), |at| 1 + at);
        self.skip(length);
    }

    fn push(&mut self, text: &str, length: usize) {
        self.tokens.push(Token { text: text.to_owned(), line: self.line, test: false });
        self.skip(length);
    }

    fn skip(&mut self, length: usize) {
        self.line += self.rest[..length].matches('\n').count();
        self.rest = &self.rest[length..];
    }
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn raw_string_prefix(text: &str) -> Option<&str> {
    let letters = ["r", "br", "cr"].into_iter().find(|start| {
        text.strip_prefix(start).is_some_and(|after| after.trim_start_matches('#').starts_with('"'))
    })?;
    let hashes = text[letters.len()..].find('"')?;
    Some(&text[..letters.len() + hashes + 1])
}

fn block_comment_length(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of a literal whose opening `quote` stands at `start`.
fn quoted_length(text: &str, start: usize, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(start + 1) {
        if escaped {
            escaped = false;
        } else if character == '\\' {
            escaped = true;
        } else if character == quote {
            return at + 1;
        }
    }
    text.len()
}

/// Marks what only tests compile; returns the names of modules in other files among it.
fn mark_tests(tokens: &mut [Token]) -> Vec<String> {
    let mut modules = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let inner = text(tokens, at + 1) == "!";
        let open = at + 1 + usize::from(inner);
        if text(tokens, at) != "#" || text(tokens, open) != "[" {
            at += 1;
            continue;
        }
        let close = matching(tokens, open);
        if !is_test_condition(&tokens[open + 1..close.max(open + 1)]) {
            at = close + 1;
            continue;
        }
        let end = if inner { tokens.len() } else { item_end(tokens, close + 1) };
        modules.extend(module_in_other_file(&tokens[close + 1..end]));
        tokens[at..end].iter_mut().for_each(|token| token.test = true);
        at = end;
    }
    modules
}

fn text(tokens: &[Token], at: usize) -> &str {
    tokens.get(at).map_or("", |token| &token.text)
}

/// Whether the tokens of an attribute are a `cfg` that asks for tests: `test` without a `not` around it.
fn is_test_condition(attribute: &[Token]) -> bool {
    text(attribute, 0) == "cfg"
        && attribute
            .iter()
            .enumerate()
            .any(|(at, token)| token.text == "test" && (at < 2 || text(attribute, at - 2) != "not"))
}

/// The bracket that closes the one at `open`, or the last token.
fn matching(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len().saturating_sub(1)
}

/// Where the item ends that begins at `start`, further attributes included.
fn item_end(tokens: &[Token], start: usize) -> usize {
    const ITEMS: [&str; 14] = [
        "async", "const", "enum", "extern", "fn", "impl", "let", "mod", "pub", "static", "struct", "trait",
        "type", "use",
    ];
    let mut at = start;
    while text(tokens, at) == "#" {
        at = matching(tokens, at + 1) + 1;
    }
    // A field, an arm or an argument ends at its comma; the commas of an item stand between angle brackets.
    let ends_at_comma = !ITEMS.contains(&text(tokens, at));
    while at < tokens.len() {
        match text(tokens, at) {
            ";" => return at + 1,
            "," if ends_at_comma => return at + 1,
            "{" => return matching(tokens, at) + 1,
            "(" | "[" => at = matching(tokens, at),
            _ => {}
        }
        at += 1;
    }
    tokens.len()
}

fn module_in_other_file(item: &[Token]) -> Option<String> {
    let at = item.iter().position(|token| token.text == "mod")?;
    (text(item, at + 2) == ";").then(|| text(item, at + 1).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<String> {
        tokenize(source).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_and_literals_have_no_words() {
        let source = r##"a /* b /* c */ d */ "e \" f" r#"g " h"# 'i' '\'' b"j" b'k' &'l m // n
            r#type o"##;
        assert_eq!(
            words(source),
            ["a", "\"\"", "\"\"", "\"\"", "\"\"", "\"\"", "\"\"", "&", "m", "type", "o"]
        );
    }

    #[test]
    fn lines_are_counted_through_comments_and_strings() {
        let tokens = tokenize("/*\n\n*/ \"\n\" a\n b");
        let lines: Vec<usize> = tokens.iter().map(|token| token.line).collect();
        assert_eq!(lines, [3, 4, 5]);
    }

    #[test]
    fn what_stands_under_cfg_test_is_no_production() {
        let source = "
            fn a() {}
            #[cfg(test)] #[derive(Debug)] mod tests { fn b() { c(); } }
            #[cfg(any(test, feature = \"testing\"))] use d::{e, f};
            #[cfg(not(test))] fn g() {}
            struct S { #[cfg(test)] h: u8, i: u8 }
            #[cfg(test)] fn j<K, L>() -> [u8; 4] { m }
            #[cfg_attr(test, n)] fn o() {}";
        let source = Source::new("crates/x/src/lib.rs", source);
        let names: Vec<&str> = source
            .production()
            .map(|token| token.text.as_str())
            .filter(|text| text.len() == 1 && text.chars().all(char::is_alphanumeric))
            .collect();
        assert_eq!(names, ["a", "g", "S", "i", "n", "o"]);
    }

    #[test]
    fn modules_for_tests_in_files_of_their_own_are_found() {
        let found = |path, text: &str| Source::new(path, text).test_modules;
        assert_eq!(found("crates/x/src/lib.rs", "#[cfg(test)] mod tests;"), ["crates/x/src/tests"]);
        assert_eq!(found("crates/x/src/a.rs", "#[cfg(test)]\nmod tests;"), ["crates/x/src/a/tests"]);
        assert!(found("crates/x/src/a.rs", "mod tests; #[cfg(test)] mod inline {}").is_empty());
    }

    #[test]
    fn groups_of_paths_are_flattened() {
        let source = Source::new(
            "crates/x/src/lib.rs",
            "use std::{fs::{self, File}, collections::BTreeMap as Map, time::*};\nlet a = std::thread::sleep;",
        );
        let paths: Vec<(String, usize)> =
            source.standard_paths().into_iter().map(|path| (path.segments.join("::"), path.line)).collect();
        let expected =
            [("fs", 1), ("fs::File", 1), ("collections::BTreeMap", 1), ("time::*", 1), ("thread::sleep", 2)];
        assert_eq!(paths, expected.map(|(path, line)| (path.to_owned(), line)));
    }

    #[test]
    fn packages_and_sources_are_told_apart() {
        let place = |path| {
            let source = Source::new(path, "");
            (source.package().to_owned(), source.is_in_src())
        };
        assert_eq!(place("crates/x/src/a/b.rs"), ("crates/x".to_owned(), true));
        assert_eq!(place("crates/x/tests/src/a.rs"), ("crates/x".to_owned(), false));
        assert_eq!(place("tests/src/a.rs"), ("tests".to_owned(), true));
        assert_eq!(place("benches/benches/a.rs"), ("benches".to_owned(), false));
    }
}
