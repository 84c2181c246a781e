//! The tree as the rules see it: members with their dependencies, manifests, sources and documents.

use super::Source;
use cargo_metadata::{DependencyKind, MetadataCommand, Package};
use std::path::{Path, PathBuf};

/// A file that is no Rust source.
#[derive(Clone, Debug)]
pub struct TextFile {
    /// The path relative to the root.
    pub path: String,
    /// The text.
    pub text: String,
}

impl TextFile {
    /// The first line, from 1, that `wanted` holds for; 1 if none does.
    #[must_use]
    pub fn line_where(&self, wanted: impl Fn(&str) -> bool) -> usize {
        self.text.lines().position(wanted).map_or(1, |index| index + 1)
    }
}

/// One member of the workspace.
#[derive(Clone, Debug)]
pub struct Member {
    /// The name of the package.
    pub name: String,
    /// Its folder relative to the root.
    pub folder: String,
    /// The root files of its library and binaries.
    pub roots: Vec<String>,
    /// What it depends on.
    pub dependencies: Vec<Dependency>,
}

/// A dependency as a member declares it.
#[derive(Clone, Debug)]
pub struct Dependency {
    /// The name of the package.
    pub name: String,
    /// Whether only tests, examples and benches use it.
    pub development: bool,
    /// The line of the manifest that declares it.
    pub line: usize,
}

/// The whole tree.
#[derive(Debug)]
pub struct Workspace {
    /// Where it lies.
    pub root: PathBuf,
    /// The members.
    pub members: Vec<Member>,
    /// All Rust sources of the members.
    pub sources: Vec<Source>,
}

impl Workspace {
    /// Reads the tree that this package belongs to.
    ///
    /// # Panics
    /// When `cargo metadata` fails or a file cannot be read.
    #[must_use]
    pub fn load() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace");
        let members = members(root);
        let mut sources = Vec::new();
        for member in &members {
            collect(root, &root.join(&member.folder), &mut sources);
        }
        sources.sort_by(|left, right| left.path.cmp(&right.path));
        mark_test_files(&mut sources);
        Self { root: root.to_owned(), members, sources }
    }

    /// The text of a file, or nothing if it does not exist.
    ///
    /// # Panics
    /// When the file exists and cannot be read.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<TextFile> {
        let whole = self.root.join(path);
        whole.exists().then(|| TextFile { path: path.to_owned(), text: read(&whole) })
    }

    /// The manifests of the members.
    #[must_use]
    pub fn manifests(&self) -> Vec<TextFile> {
        self.members.iter().filter_map(|member| self.file(&format!("{}/Cargo.toml", member.folder))).collect()
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).expect("members lie below the root").to_string_lossy().into_owned()
}

fn members(root: &Path) -> Vec<Member> {
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .expect("`cargo metadata --no-deps` reads the manifests");
    metadata.workspace_packages().into_iter().map(|package| member(root, package)).collect()
}

fn member(root: &Path, package: &Package) -> Member {
    let path = package.manifest_path.as_std_path();
    let manifest = TextFile { path: relative(root, path), text: read(path) };
    let targets = package.targets.iter().filter(|target| target.is_lib() || target.is_bin());
    let dependency = |dependency: &cargo_metadata::Dependency| Dependency {
        name: dependency.name.clone(),
        development: dependency.kind == DependencyKind::Development,
        line: manifest.line_where(|line| declares(line, &dependency.name)),
    };
    Member {
        name: package.name.to_string(),
        folder: relative(root, path.parent().expect("a manifest lies in a folder")),
        roots: targets.map(|target| relative(root, target.src_path.as_std_path())).collect(),
        dependencies: package.dependencies.iter().map(dependency).collect(),
    }
}

/// Whether a line of a manifest declares `name`: `name = …`, `name.workspace = …`.
pub(super) fn declares(line: &str, name: &str) -> bool {
    line.trim_start().strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '.', '=']))
}

fn collect(root: &Path, folder: &Path, sources: &mut Vec<Source>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            collect(root, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(Source::new(relative(root, &path), read(&path)));
        }
    }
}

/// Makes test code of the modules that another file declares under `#[cfg(test)]`, and of those below them.
pub fn mark_test_files(sources: &mut [Source]) {
    let modules: Vec<String> = sources.iter().flat_map(|source| source.test_modules.clone()).collect();
    for source in sources {
        let stem = source.path.strip_suffix(".rs").unwrap_or(&source.path);
        let below = |module: &String| stem == module || stem.starts_with(&format!("{module}/"));
        if modules.iter().any(below) {
            source.make_test();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_below_a_test_module_are_test_code() {
        let mut sources = [
            Source::new("crates/x/src/lib.rs", "#[cfg(test)] mod tests; mod testing;"),
            Source::new("crates/x/src/tests.rs", "mod deep;"),
            Source::new("crates/x/src/tests/deep.rs", "word"),
            Source::new("crates/x/src/testing.rs", "word"),
        ];
        mark_test_files(&mut sources);
        let production: Vec<bool> =
            sources.iter().map(|source| source.production().next().is_some()).collect();
        assert_eq!(production, [true, false, false, true]);
    }

    #[test]
    fn this_workspace_is_read() {
        let workspace = Workspace::load();
        let types = workspace.members.iter().find(|member| member.name == "quorate-types").expect("types");
        assert_eq!(
            (types.folder.as_str(), &types.roots[..]),
            ("crates/types", &["crates/types/src/lib.rs".to_owned()][..])
        );
        assert!(workspace.sources.iter().any(|source| source.path == file!()));
        assert!(workspace.file("no/such/file").is_none());
    }
}
