//! The layers of DESIGN section 2: dependencies run downward only, and pure crates bring in nothing that
//! could touch the world.

use super::Violation;
use super::workspace::Member;
use std::collections::BTreeSet;

const RULE_LAYERS: &str = "layers (DESIGN section 2)";

/// The prefix of our packages; the binary is the bare word.
const PREFIX: &str = "quorate-";

/// Which crates each crate may use; what those may use is allowed too.
///
/// The table is that of DESIGN section 2 with three deliberate departures. `simulator` may also use `client`,
/// because it drives the session core of real clients; that core is as free of I/O as a pure crate. `journal`
/// may also use `wire`, because what it records are frames and headers as they travelled, never encoded again.
/// `fetch` is a crate of its own below the three that fetch, because section 4 wants one mechanism for all.
const LAYERS: &[(&str, &[&str])] = &[
    ("quorate", &["bench", "client", "simulator", "daemon"]),
    ("bench", &["client", "telemetry"]),
    ("client", &["wire", "types"]),
    ("simulator", &["replica", "client"]),
    ("daemon", &["replica", "reactor", "telemetry"]),
    ("reactor", &[]),
    ("telemetry", &[]),
    ("replica", &["consensus", "lanes", "state", "journal"]),
    ("consensus", &["fetch", "wire", "types"]),
    ("lanes", &["fetch", "wire", "types"]),
    ("state", &["fetch", "types"]),
    ("fetch", &["types"]),
    ("journal", &["wire", "types"]),
    ("wire", &["types"]),
    ("types", &[]),
];

/// What each pure crate may use from outside; tests may use more.
///
/// `rkyv` in `lanes` and `state` is a deliberate departure from "wire, types": both read the archived
/// operations of a bundle in place, and wrapping the archived types would copy or hide what is checked.
const PURE_EXTERNAL: &[(&str, &[&str])] = &[
    (
        "types",
        &["blake3", "curve25519-dalek", "ed25519-dalek", "hex", "rkyv", "serde", "sha2", "thiserror", "toml"],
    ),
    ("wire", &["blake3", "crc32c", "rkyv", "smallvec", "thiserror"]),
    ("journal", &["crc32c", "thiserror"]),
    ("fetch", &[]),
    ("state", &["blake3", "crc32c", "rkyv", "thiserror"]),
    ("lanes", &["rkyv", "thiserror"]),
    ("consensus", &["thiserror"]),
    ("replica", &["thiserror"]),
];

/// Who alone may use what touches the kernel.
const KEEPERS: &[(&str, &[&str])] =
    &[("io-uring", &["reactor"]), ("libc", &["reactor"]), ("tokio-uring", &["client", "bench", "quorate"])];

/// The members that use crates as a user does, and so may use all.
const USERS: [&str; 2] = ["quorate-tests", "quorate-benches"];

/// The pure crates.
pub fn pure_crates() -> impl Iterator<Item = &'static str> {
    PURE_EXTERNAL.iter().map(|(name, _)| *name)
}

/// The member's name in the tables.
fn short(package: &str) -> &str {
    package.strip_prefix(PREFIX).unwrap_or(package)
}

fn row(table: &[(&str, &'static [&'static str])], name: &str) -> Option<&'static [&'static str]> {
    table.iter().find(|(other, _)| *other == name).map(|(_, allowed)| *allowed)
}

/// Everything that `name` may use, directly or not.
fn reachable(name: &str) -> BTreeSet<&'static str> {
    let mut found = BTreeSet::new();
    let mut open = row(LAYERS, name).unwrap_or_default().to_vec();
    while let Some(next) = open.pop() {
        if found.insert(next) {
            open.extend(row(LAYERS, next).unwrap_or_default());
        }
    }
    found
}

/// Dependencies between members that do not run downward, and dependencies of pure crates on the world.
#[must_use]
pub fn check(members: &[Member]) -> Vec<Violation> {
    let mut found = Vec::new();
    for member in members.iter().filter(|member| !USERS.contains(&member.name.as_str())) {
        check_member(member, members, &mut found);
    }
    for (name, _) in LAYERS {
        if !members.iter().any(|member| short(&member.name) == *name) {
            let rule = format!("{RULE_LAYERS}: `{name}` is in the table and no member");
            found.push(Violation::new(file!(), 1, rule, "take it out of LAYERS"));
        }
    }
    found
}

fn check_member(member: &Member, members: &[Member], found: &mut Vec<Violation>) {
    let name = short(&member.name);
    let manifest = format!("{}/Cargo.toml", member.folder);
    if row(LAYERS, name).is_none() {
        let rule = format!("{RULE_LAYERS}: `{name}` is in no layer");
        let remedy = format!("add it to DESIGN section 2 and to LAYERS in {}", file!());
        found.push(Violation::new(manifest, 1, rule, remedy));
        return;
    }
    let allowed = reachable(name);
    for dependency in &member.dependencies {
        let used = short(&dependency.name);
        let inside = members.iter().any(|other| other.name == dependency.name);
        if inside && !allowed.contains(used) {
            let rule = format!("{RULE_LAYERS}: `{name}` may not use `{used}`");
            let below: Vec<&str> = allowed.iter().copied().collect();
            let remedy = match &below[..] {
                [] => "it may use no other crate; move what is shared to a lower layer".to_owned(),
                _ => format!("it may use {}; move what is shared to one of them", below.join(", ")),
            };
            found.push(Violation::new(&manifest, dependency.line, rule, remedy));
        }
        let unknown = row(PURE_EXTERNAL, name).is_some_and(|allowed| !allowed.contains(&used));
        if !inside && !dependency.development && unknown {
            let rule = format!("pure crates (DESIGN section 2): `{name}` may not use `{used}`");
            let remedy = format!("keep it out, or add it to PURE_EXTERNAL in {} with the reason", file!());
            found.push(Violation::new(&manifest, dependency.line, rule, remedy));
        }
        if let Some(keepers) = row(KEEPERS, used)
            && !keepers.contains(&name)
        {
            let rule = format!("{RULE_LAYERS}: `{name}` may not use `{used}`");
            let remedy = format!("only {} may; use what they offer", keepers.join(", "));
            found.push(Violation::new(&manifest, dependency.line, rule, remedy));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::workspace::Dependency;

    /// A tidy workspace, but for what `member` uses besides.
    fn complaints(member: &str, used: &[(&str, bool)]) -> Vec<String> {
        let package = |name: &str| match name {
            "quorate" => name.to_owned(),
            _ => format!("{PREFIX}{name}"),
        };
        let mut members: Vec<Member> = LAYERS
            .iter()
            .map(|(name, _)| Member {
                name: package(name),
                folder: format!("crates/{name}"),
                roots: Vec::new(),
                dependencies: Vec::new(),
            })
            .collect();
        let dependencies = used
            .iter()
            .zip(7..)
            .map(|((name, development), line)| Dependency {
                name: (*name).to_owned(),
                development: *development,
                line,
            })
            .collect();
        match members.iter_mut().find(|other| other.name == package(member)) {
            Some(other) => other.dependencies = dependencies,
            None => members.push(Member {
                name: package(member),
                folder: format!("crates/{member}"),
                roots: Vec::new(),
                dependencies,
            }),
        }
        check(&members).into_iter().map(|violation| violation.to_string()).collect()
    }

    #[test]
    fn dependencies_that_run_downward_pass() {
        assert!(complaints("daemon", &[("quorate-types", false), ("quorate-reactor", false)]).is_empty());
        assert!(complaints("simulator", &[("quorate-client", false), ("rand_chacha", false)]).is_empty());
    }

    #[test]
    fn dependencies_that_run_upward_or_sideways_are_found() {
        let found = complaints("consensus", &[("quorate-lanes", false)]);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("crates/consensus/Cargo.toml:7: layers (DESIGN section 2): `consensus` may")
        );
        assert!(found[0].ends_with("it may use fetch, types, wire; move what is shared to one of them"));
        assert_eq!(complaints("wire", &[("quorate-replica", true)]).len(), 1, "tests too");
        assert_eq!(complaints("types", &[("quorate-wire", false)]).len(), 1);
    }

    #[test]
    fn a_member_without_a_layer_and_a_row_without_a_member_are_found() {
        let found = complaints("gateway", &[]);
        assert!(found[0].contains("`gateway` is in no layer"), "{found:?}");
        assert!(check(&[]).iter().any(|violation| violation.rule.contains("`types` is in the table")));
    }

    #[test]
    fn what_touches_the_world_stays_out_of_pure_crates() {
        assert_eq!(complaints("state", &[("tokio", false)]).len(), 1);
        assert!(complaints("state", &[("proptest", true), ("rkyv", false)]).is_empty());
    }

    #[test]
    fn io_uring_has_one_keeper() {
        assert_eq!(complaints("daemon", &[("io-uring", false)]).len(), 1);
        assert!(complaints("reactor", &[("io-uring", false)]).is_empty());
    }
}
