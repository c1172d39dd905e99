//! Real projects with real defects, for end-to-end tests: two neighbouring
//! releases each, of which the second fixes what an issue describes.

mod crates;
mod played;
mod pypi;

pub use played::{of_csv, of_numbers, of_paths};

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A project that cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// A program cannot be started.
    #[error("cannot run `{program}`; install it")]
    NoProgram {
        /// The program.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The registry's client gave no release.
    #[error("{client} could not download {requirement}: {stderr}; is its registry within reach?")]
    Download {
        /// The program that was asked.
        client: &'static str,
        /// Name and version asked for.
        requirement: String,
        /// What it said.
        stderr: String,
    },
    /// An archive cannot be unpacked.
    #[error("cannot unpack {}: {stderr}; remove it and try again", archive.display())]
    Unpack {
        /// The archive.
        archive: PathBuf,
        /// What tar said.
        stderr: String,
    },
    /// cargo gave a crate, or a version of one, that the project does not name.
    #[error(
        "cargo gave {found}, which is not what {project} pins; pin name, version and SHA-256 there"
    )]
    NotPinned {
        /// The project.
        project: &'static str,
        /// The crate's name and the SHA-256 of its archive.
        found: String,
    },
    /// A file operation failed.
    #[error("cannot read or write {}", path.display())]
    Files {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// One release, pinned by the hash of its archive.
#[derive(Debug, Clone, Copy)]
pub struct Release {
    /// Version.
    pub version: &'static str,
    /// SHA-256 of the archive that was released.
    pub sha256: &'static str,
}

/// Where the releases come from.
#[derive(Debug, Clone, Copy)]
pub enum Registry {
    /// Source archives, by pip.
    Pypi,
    /// Crates, by cargo. What the project's tests need comes along in its `vendor/`.
    Crates {
        /// Every crate that is needed to run the tests, by name.
        needs: &'static [(&'static str, Release)],
    },
}

/// A project whose next release fixes a documented defect.
#[derive(Debug, Clone, Copy)]
pub struct Project {
    /// Name in its registry.
    pub name: &'static str,
    /// Where it comes from.
    pub registry: Registry,
    /// The release with the defect.
    pub before: Release,
    /// The next release, without it.
    pub after: Release,
    /// The files that the fix changes.
    pub sources: &'static [&'static str],
    /// The Debian package that `check` needs.
    pub package: &'static str,
    /// Runs all tests in the project's root.
    pub check: &'static str,
    /// The defect, as someone would report it: title and body.
    pub issue: (&'static str, &'static str),
    /// Path of a test that shows the defect.
    pub test_path: &'static str,
    /// The test: fails before, passes after.
    pub test_text: &'static str,
}

/// The unpacked releases. Tests copy them; nobody writes into them.
#[derive(Debug, Clone)]
pub struct Releases {
    /// The release with the defect.
    pub before: PathBuf,
    /// The next release.
    pub after: PathBuf,
    /// The release with the defect, with the next one's `sources` and the test:
    /// what a good fix leaves.
    pub fixed: PathBuf,
}

impl Project {
    /// Downloads what is not below `cache` yet, and unpacks it there.
    ///
    /// # Errors
    /// The registry's client or tar is missing, the registry is out of reach, what
    /// it gives is not what is pinned, or the disk fails.
    pub fn fetch(&self, cache: &Path) -> Result<Releases, ProjectError> {
        fs::create_dir_all(cache).map_err(files(cache))?;
        let before = self.unpacked(&self.before, cache)?;
        let after = self.unpacked(&self.after, cache)?;
        let fixed = cache.join(format!("{}-{}-fixed", self.name, self.before.version));
        finished(&fixed, cache, |scratch| {
            let tree = scratch.join("fixed");
            copy(&before, &tree)?;
            for source in self.sources {
                fs::copy(after.join(source), tree.join(source)).map_err(files(&tree))?;
            }
            write(&tree.join(self.test_path), self.test_text)?;
            Ok(tree)
        })?;
        Ok(Releases {
            before,
            after,
            fixed,
        })
    }

    fn unpacked(&self, release: &Release, cache: &Path) -> Result<PathBuf, ProjectError> {
        let directory = cache.join(format!("{}-{}", self.name, release.version));
        finished(&directory, cache, |scratch| match self.registry {
            Registry::Pypi => pypi::unpack(self.name, release, scratch),
            Registry::Crates { needs } => crates::unpack(self.name, release, needs, scratch),
        })?;
        Ok(directory)
    }
}

/// Makes `target` by renaming what `build` made in a scratch directory, so that
/// it is whole or absent, also with two tests at once.
fn finished(
    target: &Path,
    cache: &Path,
    build: impl FnOnce(&Path) -> Result<PathBuf, ProjectError>,
) -> Result<(), ProjectError> {
    if target.exists() {
        return Ok(());
    }
    let scratch = tempfile::tempdir_in(cache).map_err(files(cache))?;
    let tree = build(scratch.path())?;
    match fs::rename(tree, target) {
        Err(_) if target.exists() => Ok(()),
        done => done.map_err(files(target)),
    }
}

/// Copies a tree of plain files.
fn copy(from: &Path, to: &Path) -> Result<(), ProjectError> {
    fs::create_dir(to).map_err(files(to))?;
    for entry in fs::read_dir(from).map_err(files(from))? {
        let entry = entry.map_err(files(from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy(&source, &target)?;
        } else {
            fs::copy(&source, &target).map_err(files(&target))?;
        }
    }
    Ok(())
}

/// Writes a file, in a directory that need not be there.
fn write(path: &Path, text: &str) -> Result<(), ProjectError> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(files(directory))?;
    }
    fs::write(path, text).map_err(files(path))
}

fn run(
    command: &mut Command,
    program: &'static str,
    failed: impl FnOnce(String) -> ProjectError,
) -> Result<(), ProjectError> {
    let output = command
        .output()
        .map_err(|source| ProjectError::NoProgram { program, source })?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}

fn files(path: &Path) -> impl Fn(io::Error) -> ProjectError {
    move |source| ProjectError::Files {
        path: path.to_owned(),
        source,
    }
}
