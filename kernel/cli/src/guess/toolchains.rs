//! Rust and Go: languages with one usual command.

use super::{
    Candidate,
    text::{Tree, line_of, some_of, toml, version},
};
use std::collections::BTreeSet;
use toml::{Table, Value};

/// What Debian 12 has.
const DEBIAN_RUST: (u32, u32) = (1, 63);
const DEBIAN_GO: (u32, u32) = (1, 19);

/// `cargo test`, for a package or workspace at the top.
pub fn rust(tree: &Tree) -> Result<Option<Candidate>, String> {
    const FILE: &str = "Cargo.toml";
    let Some(text) = tree.text(FILE) else {
        return Ok(None);
    };
    let manifest = toml(FILE, text)?;
    let (package, workspace) = (manifest.get("package"), manifest.get("workspace"));
    let (command, header) = match (package, workspace) {
        (None, None) => return Ok(None),
        (Some(_), None) => ("cargo test --offline", "package"),
        (Some(_), Some(_)) => ("cargo test --offline --workspace", "workspace"),
        (None, Some(_)) => ("cargo test --offline", "workspace"),
    };
    let line = line_of(text, &format!("[{header}]"));
    let because = format!("{FILE}:{line}: a Rust {header}");
    let mut found = Candidate::new(command, because, &["cargo"]);

    let crates = fetched_crates(tree, &manifest);
    if !crates.is_empty() && !is_vendored(tree) {
        found.lacks.push(format!(
            "crates cannot be fetched without a network ({}): run `cargo vendor`, add what it prints to \
             .cargo/config.toml, and commit both; or name an image.base that holds them",
            some_of(&crates)
        ));
    }
    if let Some((needs, why)) = rust_needed(tree, &manifest)
        && needs > DEBIAN_RUST
    {
        found.lacks.push(format!(
            "{why} needs Rust {}.{}, Debian 12 has {}.{}: name an image.base with a newer one, such as rust:slim, \
             and take cargo out of image.packages",
            needs.0, needs.1, DEBIAN_RUST.0, DEBIAN_RUST.1
        ));
    }
    Ok(Some(found))
}

/// Names of crates that are neither here nor in the standard library.
fn fetched_crates(tree: &Tree, manifest: &Table) -> BTreeSet<String> {
    let named = |package: &Value| {
        let is_fetched = package.get("source").is_some();
        let name = package.get("name")?.as_str()?;
        is_fetched.then(|| name.to_owned())
    };
    // A lock file knows all of them, those of all members too.
    let lock = tree.text("Cargo.lock");
    if let Some(lock) = lock.and_then(|lock| toml("Cargo.lock", lock).ok()) {
        let packages = lock.get("package").and_then(Value::as_array);
        return packages.into_iter().flatten().filter_map(named).collect();
    }
    let workspace = manifest.get("workspace");
    let mut tables: Vec<&Table> = vec![manifest];
    tables.extend(workspace.and_then(Value::as_table));
    let targets = manifest.get("target").and_then(Value::as_table);
    tables.extend(
        targets
            .into_iter()
            .flatten()
            .filter_map(|(_, t)| t.as_table()),
    );
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    let lists = tables.into_iter().flat_map(|table| {
        kinds
            .into_iter()
            .filter_map(|kind| table.get(kind)?.as_table())
    });
    let is_fetched = |value: &Value| match value {
        Value::Table(table) => !table.contains_key("path") && !table.contains_key("workspace"),
        _ => true,
    };
    lists
        .flatten()
        .filter(|(_, value)| is_fetched(value))
        .map(|(name, _)| name.clone())
        .collect()
}

/// Cargo is told to look for crates in the repository.
fn is_vendored(tree: &Tree) -> bool {
    let files = [".cargo/config.toml", ".cargo/config"];
    files.iter().any(|file| {
        let config = tree.text(file).and_then(|text| toml(file, text).ok());
        let sources = config
            .as_ref()
            .and_then(|config| config.get("source")?.as_table());
        sources.is_some_and(|sources| {
            let replaces = |source: &Value| source.get("replace-with").is_some();
            sources.iter().any(|(_, source)| replaces(source))
        })
    })
}

/// The oldest Rust that understands this, and what says so.
fn rust_needed(tree: &Tree, manifest: &Table) -> Option<((u32, u32), String)> {
    let lock = tree.text("Cargo.lock").unwrap_or_default();
    let format = lock
        .lines()
        .find_map(|line| line.strip_prefix("version = "));
    let package = manifest.get("package").and_then(Value::as_table);
    let shared = manifest
        .get("workspace")
        .and_then(|w| w.get("package")?.as_table());
    let of = |key: &str| {
        [package, shared]
            .into_iter()
            .flatten()
            .find_map(|table| table.get(key)?.as_str())
    };
    let mut needs: Vec<((u32, u32), String)> = Vec::new();
    if let Some(number) = of("rust-version").and_then(version) {
        needs.push((number, "rust-version in Cargo.toml".to_owned()));
    }
    if of("edition") == Some("2024") {
        needs.push(((1, 85), "edition 2024 in Cargo.toml".to_owned()));
    }
    if format == Some("4") {
        needs.push(((1, 78), "the format of Cargo.lock".to_owned()));
    }
    needs.into_iter().max()
}

/// `go test`, for a module at the top.
pub fn go(tree: &Tree) -> Result<Option<Candidate>, String> {
    const FILE: &str = "go.mod";
    let Some(text) = tree.text(FILE) else {
        return Ok(None);
    };
    let Some(module) = text
        .lines()
        .find(|line| line.trim_start().starts_with("module "))
    else {
        return Err(format!("{FILE}: names no module"));
    };
    let because = format!("{FILE}:{}: a Go module", line_of(text, module));
    let mut found = Candidate::new("go test ./...", because, &["golang-go"]);
    let required = required_modules(text);
    if !required.is_empty() && !tree.has("vendor/modules.txt") {
        found.lacks.push(format!(
            "modules cannot be fetched without a network ({}): run `go mod vendor` and commit vendor/",
            some_of(&required)
        ));
    }
    let wanted = text
        .lines()
        .find_map(|line| version(line.strip_prefix("go ")?));
    if let Some(needs) = wanted.filter(|needs| *needs > DEBIAN_GO) {
        found.lacks.push(format!(
            "go.mod is for Go {}.{}, Debian 12 has {}.{}: name an image.base with a newer one, such as golang, \
             and take golang-go out of image.packages",
            needs.0, needs.1, DEBIAN_GO.0, DEBIAN_GO.1
        ));
    }
    Ok(Some(found))
}

fn required_modules(text: &str) -> BTreeSet<String> {
    let mut inside = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let line = line.split("//").next().unwrap_or_default().trim();
        let entry = match line.strip_prefix("require") {
            Some(rest) if rest.trim() == "(" => {
                inside = true;
                continue;
            }
            Some(rest) if rest.starts_with([' ', '\t']) => rest,
            _ if line == ")" => {
                inside = false;
                continue;
            }
            _ if inside => line,
            _ => continue,
        };
        found.extend(entry.split_whitespace().next().map(str::to_owned));
    }
    found
}
