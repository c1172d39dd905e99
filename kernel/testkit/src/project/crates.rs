//! Releases of Rust crates, by cargo.

use super::{ProjectError, Release, files, run, write};
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A package that needs what is wanted makes cargo download it.
const WANTED: &str = "[package]\nname = \"wanted\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\
                      [lib]\npath = \"lib.rs\"\n[dependencies]\n";
/// Where cargo finds what a project needs, as `cargo vendor` says it.
const VENDORED: &str = "[source.crates-io]\nreplace-with = \"vendored-sources\"\n\n\
                        [source.vendored-sources]\ndirectory = \"vendor\"\n";
/// As libraries do: whoever builds makes a lock file of their own. Those below
/// `vendor/` are what cargo compares with its checksums, so they are kept.
const IGNORED: &str = "/target\n/Cargo.lock\n";
/// cargo's list of a vendored crate's files.
const CHECKSUMS: &str = ".cargo-checksum.json";

#[derive(Deserialize)]
struct Checksums {
    /// SHA-256 of the archive.
    package: String,
}

/// Downloads a release and what it needs into `scratch`, and gives its root there.
pub(super) fn unpack(
    project: &'static str,
    release: &Release,
    needs: &[(&str, Release)],
    scratch: &Path,
) -> Result<PathBuf, ProjectError> {
    let wanted: Vec<(&str, Release)> = [(project, *release)]
        .into_iter()
        .chain(needs.iter().copied())
        .collect();
    let lines: String = wanted
        .iter()
        .map(|(name, Release { version, .. })| {
            format!("{name} = {{version = \"={version}\", default-features = false}}\n")
        })
        .collect();
    write(&scratch.join("Cargo.toml"), &format!("{WANTED}{lines}"))?;
    write(&scratch.join("lib.rs"), "")?;
    let mut cargo = Command::new("cargo");
    cargo
        .args(["vendor", "--quiet", "--respect-source-config"])
        .current_dir(scratch);
    run(&mut cargo, "cargo", |stderr| ProjectError::Download {
        client: "cargo",
        requirement: format!("{project} {}", release.version),
        stderr,
    })?;

    let vendor = scratch.join("vendor");
    for entry in fs::read_dir(&vendor).map_err(files(&vendor))? {
        let path = entry.map_err(files(&vendor))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let sha256 = sha256_of(&path)?;
        if !wanted
            .iter()
            .any(|(known, pinned)| *known == name && pinned.sha256 == sha256)
        {
            return Err(ProjectError::NotPinned {
                project,
                found: format!("{name} {sha256}"),
            });
        }
    }

    // The project is out of `vendor/`, and what it needs is in the project's own.
    let tree = scratch.join("tree");
    fs::rename(vendor.join(project), &tree).map_err(files(&tree))?;
    fs::rename(&vendor, tree.join("vendor")).map_err(files(&tree))?;
    normalise(&tree)?;
    write(&tree.join(".cargo/config.toml"), VENDORED)?;
    write(&tree.join(".gitignore"), IGNORED)?;
    Ok(tree)
}

/// What cargo noted of the archive of a vendored crate, which it compared with the registry's.
fn sha256_of(vendored: &Path) -> Result<String, ProjectError> {
    let path = vendored.join(CHECKSUMS);
    let bytes = fs::read(&path).map_err(files(&path))?;
    let checksums: Checksums =
        serde_json::from_slice(&bytes).map_err(|error| files(&path)(error.into()))?;
    Ok(checksums.package)
}

/// Removes what only the archive and the vendored copy have. An archive's manifest may
/// name its targets and forbid others (`autotests = false`), but a new test is to be one.
fn normalise(tree: &Path) -> Result<(), ProjectError> {
    for name in [
        CHECKSUMS,
        ".cargo_vcs_info.json",
        "Cargo.toml.orig",
        "Cargo.lock",
    ] {
        let path = tree.join(name);
        if path.exists() {
            fs::remove_file(&path).map_err(files(&path))?;
        }
    }
    let manifest = tree.join("Cargo.toml");
    let text = fs::read_to_string(&manifest).map_err(files(&manifest))?;
    let kept: String = text
        .split_inclusive('\n')
        .filter(|line| !line.starts_with("auto"))
        .collect();
    write(&manifest, &kept)
}
