//! Tells the program its commit: `QUORATE_COMMIT` if it is set, otherwise what git says, in release builds only,
//! since every commit would rebuild what tests use.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=QUORATE_COMMIT");
    if std::env::var_os("QUORATE_COMMIT").is_some() || std::env::var("PROFILE").as_deref() != Ok("release") {
        println!("cargo::rerun-if-changed=build.rs");
        return;
    }
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    if let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) {
        println!("cargo::rustc-env=QUORATE_COMMIT={commit}");
    }
}

/// One line of what git prints; nothing where there is no git or no repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
