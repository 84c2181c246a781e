//! What pure crates may not name (DESIGN section 2), and where `unsafe` may stand.

use super::{Source, Violation, layers};

/// Modules of the standard library and what of them a pure crate may name; `&[]` is nothing.
const STANDARD: &[(&str, &[&str], &str)] = &[
    ("time", &["Duration"], "clock: take the time as an input (`now: Nanoseconds`)"),
    ("thread", &[], "thread: queue an effect; the driver has the threads"),
    ("fs", &[], "file: queue an effect; the driver has the files"),
    ("env", &[], "environment: take the value as an input"),
    ("process", &[], "process: queue an effect"),
    (
        "net",
        &["SocketAddr", "SocketAddrV4", "SocketAddrV6", "IpAddr", "Ipv4Addr", "Ipv6Addr"],
        "socket: queue an effect; the driver has the sockets",
    ),
];

/// Words that a pure crate may not use, wherever they come from.
const WORDS: &[(&str, &str)] = &[
    ("Instant", "clock: take the time as an input (`now: Nanoseconds`)"),
    ("SystemTime", "clock: take the time as an input (`now: Nanoseconds`)"),
    ("HashMap", "unordered map: use BTreeMap"),
    ("HashSet", "unordered set: use BTreeSet"),
    ("RandomState", "random hash: use BTreeMap"),
    ("rand", "random source: take the value as an input"),
    ("rand_chacha", "random source: take the value as an input"),
    ("getrandom", "random source: take the value as an input"),
    ("f32", "floating point: use integers"),
    ("f64", "floating point: use integers"),
];

/// The one crate with `unsafe` code.
const UNSAFE_CRATE: &str = "crates/reactor";
const FORBID: &str = "# ! [ forbid ( unsafe_code ) ]";

/// Clocks, threads, files, sockets, random sources, unordered maps and floating point in pure crates.
#[must_use]
pub fn check(sources: &[Source]) -> Vec<Violation> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| is_pure(source)) {
        let mut add = |line, what: &str, remedy: &str| {
            let rule = format!("pure crates (DESIGN section 2): `{what}`");
            found.push(Violation::new(&source.path, line, rule, remedy));
        };
        for path in source.standard_paths().iter().filter(|path| !path.test) {
            let Some((module, rest)) = path.segments.split_first() else { continue };
            let forbidden = STANDARD.iter().find(|(name, allowed, _)| {
                name == module && !rest.first().is_some_and(|first| allowed.contains(&first.as_str()))
            });
            if let Some((_, _, remedy)) = forbidden {
                add(path.line, &format!("std::{}", path.segments.join("::")), remedy);
            }
        }
        for token in source.production() {
            if let Some((word, remedy)) = WORDS.iter().find(|(word, _)| *word == token.text) {
                add(token.line, word, remedy);
            }
        }
    }
    found.sort_by(|left, right| (&left.path, left.line).cmp(&(&right.path, right.line)));
    found.dedup_by(|left, right| {
        (&left.path, left.line, &left.remedy) == (&right.path, right.line, &right.remedy)
    });
    found
}

fn is_pure(source: &Source) -> bool {
    source.is_in_src()
        && layers::pure_crates().any(|name| source.package().strip_prefix("crates/") == Some(name))
}

/// Libraries and binaries (by their root files) that do not forbid `unsafe`, and `unsafe` anywhere outside
/// the one crate that may have it.
#[must_use]
pub fn check_unsafe(roots: &[String], sources: &[Source]) -> Vec<Violation> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.package() != UNSAFE_CRATE) {
        if roots.contains(&source.path) && source.find(FORBID).next().is_none() {
            let rule = "unsafe (CONVENTIONS rule 7): the crate does not forbid it";
            let remedy = "add `#![forbid(unsafe_code)]` below the header";
            found.push(Violation::new(&source.path, 1, rule, remedy));
        }
        for token in source.tokens.iter().filter(|token| token.text == "unsafe") {
            let rule = "unsafe (CONVENTIONS rule 7): `unsafe` outside the reactor";
            let remedy = "give the reactor a safe function for it";
            found.push(Violation::new(&source.path, token.line, rule, remedy));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(path: &str, text: &str) -> Vec<(usize, String)> {
        check(&[Source::new(path, text)]).into_iter().map(|found| (found.line, found.rule)).collect()
    }

    fn in_pure(text: &str) -> Vec<usize> {
        complaints("crates/consensus/src/a.rs", text).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn each_forbidden_thing_is_found_however_it_is_named() {
        assert_eq!(in_pure("\nuse std::time::Instant;"), [2]);
        assert_eq!(in_pure("use std::time;"), [1]);
        assert_eq!(in_pure("use std::{collections::BTreeMap,\n fs::File,\n thread};"), [2, 3]);
        assert_eq!(in_pure("fn a() { std::thread::yield_now() }"), [1]);
        assert_eq!(in_pure("use std::net::{SocketAddr, TcpStream};"), [1]);
        assert_eq!(in_pure("use std::collections::{BTreeSet,\n HashSet};"), [2]);
        assert_eq!(in_pure("type A = hashbrown::HashMap<u8, u8>;"), [1]);
        assert_eq!(in_pure("let a = rand::random();"), [1]);
        assert_eq!(in_pure("let a: f64 = 1.0;"), [1]);
        assert_eq!(in_pure("use std::time::*;"), [1]);
    }

    #[test]
    fn a_message_names_what_and_why() {
        let found = check(&[Source::new("crates/types/src/a.rs", "std::fs::read(path)")]);
        let expected = "crates/types/src/a.rs:1: pure crates (DESIGN section 2): `std::fs::read`\n    \
                        remedy: file: queue an effect; the driver has the files";
        assert_eq!(found[0].to_string(), expected);
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn what_is_harmless_passes() {
        assert!(in_pure("use std::{net::SocketAddr, time::Duration, collections::BTreeMap};").is_empty());
        assert!(
            in_pure("// std::thread\n/// HashMap\nconst A: &str = \"std::fs::read HashMap\";").is_empty()
        );
        assert!(
            in_pure("#[cfg(test)] mod tests { use std::thread; use std::collections::HashMap; }").is_empty()
        );
        assert!(in_pure("let thread = operand; instant();").is_empty());
        assert!(complaints("crates/daemon/src/a.rs", "use std::time::Instant;").is_empty());
        assert!(complaints("crates/consensus/tests/a.rs", "use std::collections::HashMap;").is_empty());
    }

    #[test]
    fn a_crate_that_does_not_forbid_unsafe_is_found() {
        let roots = ["crates/a/src/lib.rs".to_owned(), "crates/reactor/src/lib.rs".to_owned()];
        let with = |path: &str, text: &str| check_unsafe(&roots, &[Source::new(path, text)]).len();
        assert_eq!(with("crates/a/src/lib.rs", "//! #![forbid(unsafe_code)]\nmod b;"), 1);
        assert_eq!(with("crates/a/src/lib.rs", "#![deny(unsafe_code)]"), 1);
        assert_eq!(with("crates/a/src/lib.rs", "#![forbid(unsafe_code)]"), 0);
        assert_eq!(with("crates/a/src/b.rs", "mod c;"), 0);
        assert_eq!(with("crates/a/tests/d.rs", "fn e() { unsafe { f() } }"), 1);
        assert_eq!(with("crates/reactor/src/lib.rs", "fn e() { unsafe { f() } }"), 0);
    }
}
