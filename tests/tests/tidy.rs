//! The tree is tidy: each rule of `quorate_tests::tidy` applied to it (CONVENTIONS rule 15).

use quorate_tests::tidy::workspace::TextFile;
use quorate_tests::tidy::{
    Violation, Workspace, commands, counters, dependencies, expect_none, files, layers, limits, purity,
};
use std::sync::LazyLock;

static WORKSPACE: LazyLock<Workspace> = LazyLock::new(Workspace::load);

fn required(path: &str) -> TextFile {
    WORKSPACE.file(path).unwrap_or_else(|| panic!("{path} is missing"))
}

#[test]
fn crates_use_only_the_layers_below() {
    expect_none(&layers::check(&WORKSPACE.members));
}

#[test]
fn pure_crates_touch_nothing_of_the_world() {
    expect_none(&purity::check(&WORKSPACE.sources));
}

#[test]
fn unsafe_code_lives_in_the_reactor_alone() {
    let roots: Vec<String> = WORKSPACE.members.iter().flat_map(|member| member.roots.clone()).collect();
    expect_none(&purity::check_unsafe(&roots, &WORKSPACE.sources));
}

#[test]
fn files_have_headers_and_leave_nothing_behind() {
    expect_none(&files::check(&WORKSPACE.sources));
}

#[test]
fn dependencies_are_declared_once_and_explained() {
    let (manifest, explained) = (required("Cargo.toml"), required("docs/dependencies.md"));
    expect_none(&dependencies::check(&manifest, &WORKSPACE.manifests(), &explained));
}

#[test]
fn dependencies_are_used() {
    expect_none(&dependencies::check_unused(&WORKSPACE.manifests(), &WORKSPACE.sources));
}

#[test]
fn every_counter_and_every_histogram_is_recorded() {
    expect_none(&counters::check(&WORKSPACE.sources));
}

#[test]
fn every_limit_has_a_name_and_a_metric() {
    expect_none(&limits::check(&required("docs/limits.md"), &WORKSPACE.sources));
}

#[test]
fn documents_name_only_commands_that_exist() {
    let mut documents: Vec<TextFile> = vec![required("README.md")];
    let others = ["ARCHITECTURE.md", "docs/dependencies.md", "docs/profiling.md"];
    documents.extend(others.iter().filter_map(|path| WORKSPACE.file(path)));
    let config = WORKSPACE.file(".cargo/config.toml");
    let found: Vec<Violation> = commands::check(&documents, config.as_ref(), &WORKSPACE.members);
    expect_none(&found);
}
