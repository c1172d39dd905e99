//! What our repositories and the user's have in common: how they are made,
//! asked and read, and how that fails.

use crate::git::{Git, GitCall, GitError};
use crate::places::way_out;
use factory_core::ids::Oid;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Something that a repository, ours or the user's, could not do.
#[derive(Debug, thiserror::Error)]
pub enum RepoError {
    /// A call of git failed.
    #[error("cannot {doing}")]
    Git {
        /// What was being done, to continue "cannot".
        doing: String,
        /// What git said.
        #[source]
        source: GitError,
    },
    /// The refs of a repository of ours could not be read.
    #[error("cannot read the refs in {path}", path = path.display())]
    Refs {
        /// The repository.
        path: PathBuf,
        /// What libgit2 said.
        #[source]
        source: git2::Error,
    },
    /// The objects of a repository of ours, or of a push to it, could not be read.
    #[error("cannot read the objects in {path}", path = path.display())]
    Objects {
        /// The repository's objects.
        path: PathBuf,
        /// What libgit2 said.
        #[source]
        source: git2::Error,
    },
    /// A file or directory could not be made, read or removed.
    #[error("cannot {doing} {path}; {way_out}", path = path.display(), way_out = way_out(.source))]
    Io {
        /// What was being done with it.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The branch does not exist.
    #[error("there is no branch `{branch}` in {repository}; create it, or name another with `factory start --target`", repository = repository.display())]
    NoBranch {
        /// Its name, without `refs/heads/`.
        branch: String,
        /// Where it was looked for.
        repository: PathBuf,
    },
    /// A file in a commit is larger than what is read of it.
    #[error(
        "`{path}` in commit {commit} has {size} bytes, and at most {limit} are read; make it smaller"
    )]
    TooLarge {
        /// The file, or the directory whose files are too large together.
        path: String,
        /// The commit.
        commit: Oid,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A branch was to be moved forward to a commit that does not follow from it.
    #[error("{new} does not descend from {old}; make the merge again on the branch's tip")]
    NotForward {
        /// Where the branch is.
        old: Oid,
        /// Where it was to go.
        new: Oid,
    },
}

/// Names what was being done when git failed.
pub(crate) fn doing(what: impl Into<String>) -> impl FnOnce(GitError) -> RepoError {
    move |source| RepoError::Git {
        doing: what.into(),
        source,
    }
}

/// Names the objects that could not be read.
pub(crate) fn unread(objects: &Path) -> impl FnOnce(git2::Error) -> RepoError {
    move |source| RepoError::Objects {
        path: objects.to_owned(),
        source,
    }
}

/// Names what was being done with a path when the system refused.
pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> RepoError {
    move |source| RepoError::Io {
        doing: what,
        path: path.to_owned(),
        source,
    }
}

/// The commit that `spec` (a full ref name or object id) leads to.
pub(crate) fn commit_of(git: &Git, spec: &str) -> Result<Option<Oid>, RepoError> {
    let call = git
        .call(["rev-parse", "--verify", "--quiet"])
        .arg(format!("{spec}^{{commit}}"));
    let wrong = || doing(format!("look up `{spec}`"));
    let out = call.clone().accept(1).run().map_err(wrong())?;
    if !out.success() {
        return Ok(None);
    }
    oid_in(&call, &out.stdout).map(Some).map_err(wrong())
}

/// The refs of a repository of ours whose names begin with `prefix`, with the objects that
/// they name, sorted. Costs no process: every push asks several times.
pub(crate) fn refs_below(dir: &Path, prefix: &str) -> Result<Vec<(String, Oid)>, RepoError> {
    let failed = |source| RepoError::Refs {
        path: dir.to_owned(),
        source,
    };
    let repository = git2::Repository::open_bare(dir).map_err(failed)?;
    let all = repository.references_glob(&format!("{prefix}*"));
    let mut found = Vec::new();
    for reference in all.map_err(failed)? {
        let reference = reference.map_err(failed)?;
        let name = reference.name().map_err(failed)?.to_owned();
        let oid = reference.target().map(|oid| oid.to_string().parse());
        // Symbolic ones lead to others of them.
        found.extend(oid.and_then(Result::ok).map(|oid| (name, oid)));
    }
    found.sort_unstable();
    Ok(found)
}

/// The object id that is all of `output`.
pub(crate) fn oid_in(call: &GitCall, output: &[u8]) -> Result<Oid, GitError> {
    String::from_utf8_lossy(output)
        .trim_end()
        .parse()
        .map_err(|_| call.unexpected(output))
}

/// A path as git prints it with `-z`.
pub(crate) fn path_from(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

/// The pieces of output that is separated or ended by NUL.
pub(crate) fn nul_separated(output: &[u8]) -> impl Iterator<Item = &[u8]> {
    output.split(|b| *b == 0).filter(|piece| !piece.is_empty())
}

/// Makes a bare repository of ours, unless it is there, and gives it exactly
/// this configuration. A half-made one is never seen under its name.
pub(crate) fn make_bare(dir: &Path, init_args: &[&str], config: &str) -> Result<(), RepoError> {
    if !dir.join("HEAD").is_file() {
        let parent = dir.parent().unwrap_or(Path::new("/"));
        let scratch = tempfile::Builder::new()
            .prefix(".new-")
            .tempdir_in(parent)
            .map_err(io("make a directory in", parent))?;
        let made = scratch.path().join("repository");
        Git::isolated(parent)
            .call([
                "init",
                "--quiet",
                "--bare",
                "--template=",
                "--object-format=sha1",
            ])
            .args(init_args)
            .arg("--initial-branch=main")
            .arg(&made)
            .run()
            .map_err(doing(format!("make the repository {}", dir.display())))?;
        write_file(&made.join("config"), config.as_bytes())?;
        match std::fs::rename(&made, dir) {
            Ok(()) => {}
            // Another process of ours was quicker, and made the same.
            Err(_) if dir.join("HEAD").is_file() => {}
            Err(source) => return Err(io("make the repository", dir)(source)),
        }
    }
    let file = dir.join("config");
    let there = std::fs::read(&file).map_err(io("read", &file))?;
    if there != config.as_bytes() {
        write_file(&file, config.as_bytes())?;
    }
    Ok(())
}

/// Replaces a file at once, durably, and readable for all: containers read
/// `base.git` under another uid.
pub(crate) fn write_file(path: &Path, content: &[u8]) -> Result<(), RepoError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let failed = || io("write", path);
    let mut new = tempfile::NamedTempFile::new_in(parent).map_err(failed())?;
    new.write_all(content).map_err(failed())?;
    // Afterwards, since a mode asked for at creation is cut by the umask.
    let mode = std::fs::Permissions::from_mode(0o644);
    new.as_file().set_permissions(mode).map_err(failed())?;
    new.as_file().sync_all().map_err(failed())?;
    new.persist(path).map_err(|e| failed()(e.error))?;
    Ok(())
}

/// One line of `objects/info/alternates`.
pub(crate) fn alternates_line(objects: &Path) -> Vec<u8> {
    let raw = objects.as_os_str().as_bytes();
    let mut line = Vec::with_capacity(raw.len() + 1);
    // Git takes a line that starts with a quote for a C string; without one,
    // only a line feed has a meaning.
    if raw.contains(&b'\n') {
        line.push(b'"');
        for byte in raw {
            match byte {
                b'\n' => line.extend(b"\\n"),
                b'"' | b'\\' => line.extend([b'\\', *byte]),
                _ => line.push(*byte),
            }
        }
        line.push(b'"');
    } else {
        line.extend(raw);
    }
    line.push(b'\n');
    line
}

/// What a path in a commit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A symbolic link; its target is its content.
    Link,
    /// A submodule's commit.
    Submodule,
}

/// One path below a directory of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// Path from the top of the tree; bytes that are no UTF-8 are replaced.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// A file that may be run.
    pub executable: bool,
    /// Its object.
    pub oid: Oid,
    /// Bytes; 0 for submodules.
    pub size: u64,
}

/// Everything below `dir` (the whole tree when it is empty), in git's order.
pub(crate) fn list_tree(
    git: &Git,
    commit: &Oid,
    dirs: &[&str],
) -> Result<Vec<TreeEntry>, RepoError> {
    let call = git
        .call([
            "ls-tree",
            "-r",
            "-l",
            "-z",
            "--full-tree",
            commit.as_str(),
            "--",
        ])
        .args(dirs.iter().filter(|d| !d.is_empty()));
    let wrong = || doing(format!("list the files of {commit}"));
    let out = call.clone().run().map_err(wrong())?;
    nul_separated(&out.stdout)
        .map(|line| tree_entry(line).ok_or_else(|| wrong()(call.unexpected(line))))
        .collect()
}

/// Parses `<mode> <type> <oid> <size, padded>\t<path>`.
fn tree_entry(line: &[u8]) -> Option<TreeEntry> {
    let tab = line.iter().position(|b| *b == b'\t')?;
    let facts = std::str::from_utf8(&line[..tab]).ok()?;
    let mut facts = facts.split_ascii_whitespace();
    let (mode, _kind, oid, size) = (facts.next()?, facts.next()?, facts.next()?, facts.next()?);
    Some(TreeEntry {
        path: String::from_utf8_lossy(&line[tab + 1..]).into_owned(),
        kind: match mode {
            "120000" => EntryKind::Link,
            "160000" => EntryKind::Submodule,
            _ => EntryKind::File,
        },
        executable: mode == "100755",
        oid: oid.parse().ok()?,
        size: if size == "-" { 0 } else { size.parse().ok()? },
    })
}

/// The regular files below `dirs` with their content.
pub(crate) fn read_files(
    git: &Git,
    commit: &Oid,
    dirs: &[&str],
    limit: u64,
) -> Result<BTreeMap<String, Vec<u8>>, RepoError> {
    let mut files = list_tree(git, commit, dirs)?;
    files.retain(|f| f.kind == EntryKind::File);
    let size = files.iter().map(|f| f.size).sum();
    if size > limit {
        let path = dirs.join(", ");
        return Err(RepoError::TooLarge {
            path,
            commit: commit.clone(),
            size,
            limit,
        });
    }
    let contents = read_entries(git, commit, &files)?;
    Ok(files.into_iter().map(|f| f.path).zip(contents).collect())
}

/// The contents of files and the targets of links, in the same order.
pub(crate) fn read_entries(
    git: &Git,
    commit: &Oid,
    files: &[TreeEntry],
) -> Result<Vec<Vec<u8>>, RepoError> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let wanted: String = files.iter().map(|f| format!("{}\n", f.oid)).collect();
    let call = git.call(["cat-file", "--batch"]).stdin(wanted);
    let wrong = || doing(format!("read files of {commit}"));
    let out = call.clone().run().map_err(wrong())?.stdout;
    let mut rest = out.as_slice();
    let mut contents = Vec::with_capacity(files.len());
    for file in files {
        // `<oid> blob <size>\n<content>\n`
        let header = format!("{} blob {}\n", file.oid, file.size);
        let body = rest.strip_prefix(header.as_bytes()).and_then(|r| {
            usize::try_from(file.size)
                .ok()
                .and_then(|n| r.split_at_checked(n))
        });
        let Some((content, after)) = body else {
            return Err(wrong()(call.unexpected(&rest[..rest.len().min(200)])));
        };
        contents.push(content.to_vec());
        rest = after.strip_prefix(b"\n").unwrap_or(after);
    }
    Ok(contents)
}
