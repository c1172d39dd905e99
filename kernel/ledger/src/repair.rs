//! The worktree of the user's after a merge of ours was cut short: what it
//! wrote is put back, what it locked is unlocked, and what is the user's is
//! left alone.

use crate::advance::Obstacle;
use crate::door::Change;
use crate::git::Git;
use crate::repo::{RepoError, doing, io, nul_separated, path_from};
use factory_core::ids::Oid;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Which lock files a cut merge can have left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locks {
    /// Those of the index, HEAD, ORIG_HEAD and the branch.
    All,
    /// That of HEAD.
    Head,
}

/// True while a git process works in the worktree that was given this commit.
pub(crate) fn git_lives_with(commit: &Oid, worktree: &Path) -> bool {
    let commit = commit.as_str().as_bytes();
    processes().any(|proc| {
        works_in(&proc, worktree)
            && fs::read(proc.join("cmdline"))
                .is_ok_and(|line| line.split(|b| *b == 0).any(|arg| arg == commit))
    })
}

/// Removes the lock files that a dead git of ours left; returns what is
/// locked instead where somebody living holds a lock.
pub(crate) fn remove_locks(
    common: &Path,
    git_dir: Option<&Path>,
    branch: &str,
    which: Locks,
    worktree: Option<&Path>,
) -> Result<Option<Obstacle>, RepoError> {
    let head_dir = git_dir.unwrap_or(common);
    let mut locks = vec![(head_dir.join("HEAD.lock"), Obstacle::RefLock)];
    if which == Locks::All {
        locks.push((
            common.join(format!("refs/heads/{branch}.lock")),
            Obstacle::RefLock,
        ));
        locks.push((head_dir.join("ORIG_HEAD.lock"), Obstacle::RefLock));
        if let Some(dir) = git_dir {
            locks.push((dir.join("index.lock"), Obstacle::IndexLock));
        }
    }
    for (lock, obstacle) in locks {
        let Ok(meta) = fs::symlink_metadata(&lock) else {
            continue;
        };
        if processes()
            .any(|proc| holds(&proc, &meta) || worktree.is_some_and(|w| works_in(&proc, w)))
        {
            return Ok(Some(obstacle));
        }
        tracing::info!(lock = %lock.display(), "removing the lock of a merge that was cut short");
        remove_file(&lock)?;
    }
    Ok(None)
}

fn processes() -> impl Iterator<Item = PathBuf> {
    let numbered =
        |entry: &fs::DirEntry| entry.file_name().as_bytes().iter().all(u8::is_ascii_digit);
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter(numbered)
        .map(|e| e.path())
}

fn is_git(proc: &Path) -> bool {
    fs::read(proc.join("comm")).is_ok_and(|name| name == b"git\n")
}

/// True for a git that was started somewhere in the worktree: it may have
/// closed the lock that it still relies on.
fn works_in(proc: &Path, worktree: &Path) -> bool {
    is_git(proc) && fs::read_link(proc.join("cwd")).is_ok_and(|cwd| cwd.starts_with(worktree))
}

/// True while any git process works in the directory.
pub(crate) fn git_works_in(dir: &Path) -> bool {
    processes().any(|proc| works_in(&proc, dir))
}

/// True when the file at `path` is the one that was looked at before.
pub(crate) fn is_still(path: &Path, seen: &fs::Metadata) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| {
        (m.dev(), m.ino(), m.mtime_nsec()) == (seen.dev(), seen.ino(), seen.mtime_nsec())
    })
}

fn holds(proc: &Path, file: &fs::Metadata) -> bool {
    fs::read_dir(proc.join("fd"))
        .into_iter()
        .flatten()
        .flatten()
        .any(|fd| {
            fs::metadata(fd.path()).is_ok_and(|m| (m.dev(), m.ino()) == (file.dev(), file.ino()))
        })
}

/// What lies at a path of a worktree. No link on the way is followed.
enum Seen {
    Absent,
    /// A parent is no directory: nothing of ours can be there, and it is not
    /// to be touched.
    Behind(PathBuf),
    Dir,
    Link(Oid),
    File {
        len: u64,
        executable: bool,
    },
    /// A socket, a device.
    Other,
}

fn look(top: &Path, path: &Path) -> Result<Seen, RepoError> {
    let mut at = top.to_owned();
    let mut parts = path.components().peekable();
    while let Some(part) = parts.next() {
        at.push(part);
        let meta = match fs::symlink_metadata(&at) {
            Ok(meta) => meta,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Seen::Absent),
            Err(e) => return Err(io("look at", &at)(e)),
        };
        if parts.peek().is_some() {
            if !meta.is_dir() {
                return Ok(Seen::Behind(at.strip_prefix(top).unwrap_or(&at).to_owned()));
            }
        } else if meta.is_dir() {
            return Ok(Seen::Dir);
        } else if meta.is_file() {
            return Ok(Seen::File {
                len: meta.len(),
                executable: meta.mode() & 0o100 != 0,
            });
        } else if meta.is_symlink() {
            let target = fs::read_link(&at).map_err(io("look at", &at))?;
            return Ok(blob_id(target.as_os_str().as_bytes()).map_or(Seen::Other, Seen::Link));
        } else {
            return Ok(Seen::Other);
        }
    }
    Ok(Seen::Other)
}

fn blob_id(content: &[u8]) -> Option<Oid> {
    git2::Oid::hash_object(git2::ObjectType::Blob, content)
        .ok()?
        .to_string()
        .parse()
        .ok()
}

/// Adds what git does not track but a merge that adds `path` would overwrite.
/// `changes` are all paths of the merge.
pub(crate) fn untracked_at(
    top: &Path,
    path: &Path,
    changes: &BTreeMap<&Path, &Change>,
    found: &mut BTreeSet<PathBuf>,
) -> Result<(), RepoError> {
    let goes_away = |path: &Path| changes.get(path).is_some_and(|c| c.old.is_some());
    match look(top, path)? {
        Seen::Absent => {}
        Seen::Behind(parent) if goes_away(&parent) => {}
        Seen::Behind(parent) => {
            found.insert(parent);
        }
        Seen::Link(_) | Seen::File { .. } | Seen::Other => {
            found.insert(path.to_owned());
        }
        Seen::Dir => {
            let mut todo = vec![path.to_owned()];
            while let Some(dir) = todo.pop() {
                let full = top.join(&dir);
                for entry in fs::read_dir(&full).map_err(io("list", &full))? {
                    let entry = entry.map_err(io("list", &full))?;
                    let inner = dir.join(entry.file_name());
                    if entry.file_type().map_err(io("look at", &full))?.is_dir() {
                        todo.push(inner);
                    } else if !goes_away(&inner) {
                        found.insert(inner);
                    }
                }
            }
        }
    }
    Ok(())
}

/// How far a cut merge had come.
#[derive(Debug)]
pub(crate) enum Cut {
    /// Files and index are the new ones; only the ref is missing. A merge run
    /// again may fail here: git takes a file where a directory was for untracked.
    IndexWritten,
    /// All it wrote is put back. These paths have other content: they are the user's.
    PutBack(BTreeSet<PathBuf>),
}

/// Undoes what a cut merge wrote into the files of a worktree, unless it had
/// come to the index: every path whose content is the new one's, a beginning
/// of it, or absent goes back to what the index has. The paths must have been
/// clean before the merge.
pub(crate) fn put_back(top: &Path, changes: &[Change]) -> Result<Cut, RepoError> {
    let git = Git::new(top);
    let index = Index::read(&git)?;
    if changes.iter().all(|change| index.has_new(change)) {
        return Ok(Cut::IndexWritten);
    }
    let mut theirs = BTreeSet::new();
    let mut seen = Vec::new();
    for change in changes.iter().filter(|c| !c.is_submodule()) {
        match index.side_of(change) {
            IndexSide::Old => seen.push((change, look(top, &change.path)?)),
            // The same change, staged by the user: git leaves such a path alone.
            IndexSide::New | IndexSide::Sparse => {}
            IndexSide::Other => {
                theirs.insert(change.path.clone());
            }
        }
    }
    let hashes = hashes(&git, &seen)?;
    let (mut restore, mut delete) = (Vec::new(), Vec::new());
    for (change, at) in &seen {
        match verdict(&git, change, at, hashes.get(change.path.as_path()))? {
            Verdict::Leave => {}
            Verdict::Theirs => {
                theirs.insert(change.path.clone());
            }
            Verdict::PutBack if change.old.is_some() => restore.push(change.path.as_path()),
            Verdict::PutBack => delete.push(change.path.as_path()),
        }
    }
    for path in delete {
        remove_file(&top.join(path))?;
        remove_empty_parents(top, path);
    }
    // A file of the user's may now be where a directory has to go, or the
    // other way round; git would remove it.
    let mut safe = Vec::new();
    for path in restore {
        match look(top, path)? {
            Seen::Dir if fs::remove_dir(top.join(path)).is_err() => {
                theirs.insert(path.to_owned());
            }
            Seen::Behind(parent) => {
                theirs.insert(parent);
            }
            _ => {
                safe.extend(path.as_os_str().as_bytes());
                safe.push(0);
            }
        }
    }
    if !safe.is_empty() {
        git.call(["checkout-index", "--force", "--quiet", "-z", "--stdin"])
            .stdin(safe)
            .run()
            .map_err(doing(format!("put files back in {}", top.display())))?;
    }
    Ok(Cut::PutBack(theirs))
}

/// Files that the merge changes, which the index says are meant to be absent, and that are there.
pub(crate) fn hidden(top: &Path, changes: &[Change]) -> Result<BTreeSet<PathBuf>, RepoError> {
    let index = Index::read(&Git::new(top))?;
    let mut found = BTreeSet::new();
    for change in changes {
        if matches!(index.side_of(change), IndexSide::Sparse)
            && !matches!(look(top, &change.path)?, Seen::Absent | Seen::Behind(_))
        {
            found.insert(change.path.clone());
        }
    }
    Ok(found)
}

enum Verdict {
    Leave,
    PutBack,
    Theirs,
}

/// Judges one path whose index entry is the old one.
fn verdict(
    git: &Git,
    change: &Change,
    at: &Seen,
    hash: Option<&Oid>,
) -> Result<Verdict, RepoError> {
    let is = |side: &Option<(String, Oid)>, exact: bool| match (side, at) {
        (None, Seen::Absent | Seen::Dir | Seen::Behind(_)) => true,
        (Some((mode, oid)), Seen::Link(target)) => mode == "120000" && oid == target,
        (Some((mode, oid)), Seen::File { executable, .. }) => {
            mode.starts_with("100")
                && hash == Some(oid)
                && (!exact || (mode == "100755") == *executable)
        }
        _ => false,
    };
    // With core.fileMode off the executable bit says nothing.
    if is(&change.old, true) || (is(&change.old, false) && !is(&change.new, false)) {
        return Ok(Verdict::Leave);
    }
    if is(&change.new, false) {
        return Ok(Verdict::PutBack);
    }
    match (at, &change.new) {
        (Seen::Absent | Seen::Dir, _) => Ok(Verdict::PutBack),
        (Seen::File { len: 0, .. }, Some((mode, _))) if mode.starts_with("100") => {
            Ok(Verdict::PutBack)
        }
        (Seen::File { .. }, Some((mode, oid))) if mode.starts_with("100") => {
            begins(git, &change.path, oid)
        }
        _ => Ok(Verdict::Theirs),
    }
}

/// Whether a file holds the beginning of what checking out `oid` would write.
fn begins(git: &Git, path: &Path, oid: &Oid) -> Result<Verdict, RepoError> {
    let mut option = std::ffi::OsString::from("--path=");
    option.push(path);
    let whole = git
        .call(["cat-file", "--filters"])
        .arg(option)
        .arg(oid.as_str())
        .run()
        .map_err(doing(format!("read {oid}")))?
        .stdout;
    let file = git.dir().join(path);
    let there = fs::read(&file).map_err(io("read", &file))?;
    Ok(if whole.starts_with(&there) {
        Verdict::PutBack
    } else {
        Verdict::Theirs
    })
}

/// The blob each regular file would be, with the user's filters applied.
fn hashes<'a>(git: &Git, seen: &[(&'a Change, Seen)]) -> Result<HashMap<&'a Path, Oid>, RepoError> {
    let files: Vec<&Path> = seen
        .iter()
        .filter(|(_, at)| matches!(at, Seen::File { .. }))
        .map(|(change, _)| change.path.as_path())
        .collect();
    if files.is_empty() {
        return Ok(HashMap::new());
    }
    let mut names = Vec::new();
    for path in &files {
        let raw = path.as_os_str().as_bytes();
        // A name that starts with a quote is read as a C string.
        if raw.first() == Some(&b'"') || raw.contains(&b'\n') {
            names.push(b'"');
            for byte in raw {
                names.extend(format!("\\{byte:03o}").bytes());
            }
            names.push(b'"');
        } else {
            names.extend(raw);
        }
        names.push(b'\n');
    }
    let call = git.call(["hash-object", "--stdin-paths"]).stdin(names);
    let wrong = || doing(format!("compare files in {}", git.dir().display()));
    let out = call.clone().run().map_err(wrong())?.text();
    let ids: Option<Vec<Oid>> = out.lines().map(|line| line.parse().ok()).collect();
    match ids {
        Some(ids) if ids.len() == files.len() => Ok(files.into_iter().zip(ids).collect()),
        _ => Err(wrong()(call.unexpected(out.as_bytes()))),
    }
}

/// The worktree's index.
struct Index(HashMap<PathBuf, Entry>);

struct Entry {
    sparse: bool,
    merged: bool,
    side: (String, Oid),
}

enum IndexSide {
    Old,
    New,
    /// Outside of the sparse checkout: the file is meant to be absent.
    Sparse,
    Other,
}

impl Index {
    fn read(git: &Git) -> Result<Self, RepoError> {
        let call = git.call(["ls-files", "-v", "--stage", "-z"]);
        let wrong = || doing(format!("read the index of {}", git.dir().display()));
        let out = call.clone().run().map_err(wrong())?.stdout;
        nul_separated(&out)
            .map(|line| Self::entry(line).ok_or_else(|| wrong()(call.unexpected(line))))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Parses `<tag> <mode> <oid> <stage>\t<path>`.
    fn entry(line: &[u8]) -> Option<(PathBuf, Entry)> {
        let tab = line.iter().position(|b| *b == b'\t')?;
        let mut facts = std::str::from_utf8(&line[..tab]).ok()?.split(' ');
        let (tag, mode, oid, stage) = (facts.next()?, facts.next()?, facts.next()?, facts.next()?);
        let entry = Entry {
            sparse: tag.eq_ignore_ascii_case("s"),
            merged: stage == "0",
            side: (mode.to_owned(), oid.parse().ok()?),
        };
        Some((path_from(&line[tab + 1..]), entry))
    }

    fn has_new(&self, change: &Change) -> bool {
        self.0.get(&change.path).map(|e| &e.side) == change.new.as_ref()
    }

    fn side_of(&self, change: &Change) -> IndexSide {
        let entry = self.0.get(&change.path);
        match entry {
            Some(e) if e.sparse => return IndexSide::Sparse,
            Some(e) if !e.merged => return IndexSide::Other,
            _ => {}
        }
        let side = entry.map(|e| &e.side);
        if side == change.old.as_ref() {
            IndexSide::Old
        } else if side == change.new.as_ref() {
            IndexSide::New
        } else {
            IndexSide::Other
        }
    }
}

fn remove_file(path: &Path) -> Result<(), RepoError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Removes the directories that a merge made for a file, as far as they are empty.
fn remove_empty_parents(top: &Path, path: &Path) {
    for dir in path
        .ancestors()
        .skip(1)
        .filter(|d| !d.as_os_str().is_empty())
    {
        // A directory that is not empty has other reasons to be there.
        if fs::remove_dir(top.join(dir)).is_err() {
            return;
        }
    }
}
