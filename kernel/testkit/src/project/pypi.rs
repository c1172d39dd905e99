//! Releases from PyPI, by pip.

use super::{ProjectError, Release, files, run, write};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Downloads a release into `scratch` and gives its root there.
pub(super) fn unpack(
    name: &str,
    release: &Release,
    scratch: &Path,
) -> Result<PathBuf, ProjectError> {
    let requirement = format!("{name}=={}", release.version);
    let pinned = scratch.join("requirements.txt");
    let line = format!("{requirement} --hash=sha256:{}\n", release.sha256);
    write(&pinned, &line)?;
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ]);
    pip.args(["--no-binary", name, "--dest"])
        .arg(scratch)
        .arg("-r")
        .arg(&pinned);
    run(&mut pip, "python3", |stderr| ProjectError::Download {
        client: "pip",
        requirement,
        stderr,
    })?;
    let archive = scratch.join(format!("{name}-{}.tar.gz", release.version));
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(&archive).arg("-C").arg(scratch);
    run(&mut tar, "tar", |stderr| ProjectError::Unpack {
        archive: archive.clone(),
        stderr,
    })?;
    let tree = scratch.join(format!("{name}-{}", release.version));
    normalise(&tree)?;
    Ok(tree)
}

/// Removes what only the archive has.
fn normalise(tree: &Path) -> Result<(), ProjectError> {
    for entry in fs::read_dir(tree).map_err(files(tree))? {
        let path = entry.map_err(files(tree))?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name == "PKG-INFO" {
            fs::remove_file(&path).map_err(files(&path))?;
        } else if name.ends_with(".egg-info") {
            fs::remove_dir_all(&path).map_err(files(&path))?;
        }
    }
    Ok(())
}
