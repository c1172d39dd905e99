//! The user's repository: it receives work branches and ordered merges and is
//! otherwise only read. Always by the `git` binary, so that any ref format,
//! worktree and configuration works; never with hooks.

use crate::door::DoorRepo;
use crate::git::Git;
use crate::outgoing;
use crate::repo::{self, RepoError, TreeEntry, commit_of, doing, nul_separated, path_from};
use factory_core::ids::Oid;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Serves objects out of `door.git`, whose configuration hides everything, to
/// the one client that may have all of it.
const UPLOAD_PACK: &str = "--upload-pack=env GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null \
     git -c uploadpack.allowAnySHA1InWant=true upload-pack";

/// What user-facing commits and merges are signed with, as far as it is configured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// `user.name`.
    pub name: Option<String>,
    /// `user.email`.
    pub email: Option<String>,
}

/// One worktree of the user's repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worktree {
    /// Its top directory; may be gone.
    pub path: PathBuf,
    /// Where its HEAD and index lie; none when the worktree is gone.
    pub git_dir: Option<PathBuf>,
    /// The branch (without `refs/heads/`) that HEAD names; none when detached.
    pub branch: Option<String>,
}

/// Why a worktree holds on to a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    CheckedOut,
    Rebase,
    Bisect,
}

/// What became of a work branch that was to be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// It was moved, or made.
    Moved,
    /// It was already at the new commit.
    AlreadyThere,
    /// It is not where it was expected, so somebody else moved, made or
    /// removed it. Nothing was changed.
    Diverged {
        /// Where it is; none when it does not exist.
        found: Option<Oid>,
    },
    /// A worktree has it checked out, or rebases or bisects it. Nothing was changed.
    CheckedOut {
        /// The worktree.
        worktree: PathBuf,
    },
}

/// The user's repository.
#[derive(Debug, Clone)]
pub struct UserRepo {
    git: Git,
    read: Arc<Mutex<Read>>,
}

/// Files of a commit by path, and what of it was asked for.
type Files = ((Oid, Vec<String>), BTreeMap<String, Vec<u8>>);

/// What was read last, the newest at the end: what a commit holds never changes, and every
/// run asks the same of the same few.
#[derive(Debug, Default)]
struct Read(VecDeque<Files>);

impl Read {
    /// Commits that are looked at by turns: the target, and what a run was briefed with,
    /// each with its configuration, its base, its agents and its intent layer.
    const MOST: usize = 8;
    /// Most bytes of one that is kept.
    const LARGEST: usize = 128 << 10;

    fn get(&mut self, commit: &Oid, dirs: &[&str]) -> Option<BTreeMap<String, Vec<u8>>> {
        let same = |((of, asked), _): &Files| of == commit && asked == dirs;
        let at = self.0.iter().position(same)?;
        let read = self.0.remove(at)?;
        let files = read.1.clone();
        self.0.push_back(read);
        Some(files)
    }

    fn put(&mut self, commit: &Oid, dirs: &[&str], files: &BTreeMap<String, Vec<u8>>) {
        let bytes = files.iter().map(|(path, bytes)| path.len() + bytes.len());
        if bytes.sum::<usize>() > Self::LARGEST {
            return;
        }
        let dirs = dirs.iter().map(|dir| (*dir).to_owned()).collect();
        self.0.push_back(((commit.clone(), dirs), files.clone()));
        if self.0.len() > Self::MOST {
            self.0.pop_front();
        }
    }
}

impl UserRepo {
    /// The repository with this common git directory, an absolute path (any
    /// worktree may go away while we work).
    pub fn open(common_dir: impl Into<PathBuf>) -> Self {
        Self {
            git: Git::new(common_dir),
            read: Arc::default(),
        }
    }

    /// Its common git directory.
    pub fn dir(&self) -> &Path {
        self.git.dir()
    }

    pub(crate) fn git(&self) -> &Git {
        &self.git
    }

    /// The commit that a branch (without `refs/heads/`) is at.
    pub fn tip(&self, branch: &str) -> Result<Option<Oid>, RepoError> {
        commit_of(&self.git, &format!("refs/heads/{branch}"))
    }

    /// The user's name and address.
    pub fn identity(&self) -> Result<Identity, RepoError> {
        let pattern = r"^user\.(name|email)$";
        let call = self
            .git
            .call(["config", "--null", "--get-regexp", pattern])
            .accept(1);
        let out = call
            .run()
            .map_err(doing("read the user's name and address"))?;
        let mut identity = Identity::default();
        // Of several values, the last one holds.
        for entry in nul_separated(&out.stdout) {
            match String::from_utf8_lossy(entry).split_once('\n') {
                Some(("user.name", name)) => identity.name = Some(name.to_owned()),
                Some(("user.email", email)) => identity.email = Some(email.to_owned()),
                _ => {}
            }
        }
        Ok(identity)
    }

    /// Everything below a directory of a commit (the whole tree for `""`).
    pub fn list_tree(&self, commit: &Oid, dir: &str) -> Result<Vec<TreeEntry>, RepoError> {
        repo::list_tree(&self.git, commit, &[dir])
    }

    /// A regular file of a commit, of at most `limit` bytes; none when the
    /// path is missing or something else.
    pub fn read_file(
        &self,
        commit: &Oid,
        path: &str,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, RepoError> {
        Ok(self.read_files(commit, &[path], limit)?.remove(path))
    }

    /// All regular files below the directories of a commit, by path; together
    /// at most `limit` bytes. Two processes, however many files there are; none where
    /// the same was read a short time ago.
    pub fn read_files(
        &self,
        commit: &Oid,
        dirs: &[&str],
        limit: u64,
    ) -> Result<BTreeMap<String, Vec<u8>>, RepoError> {
        let read = || self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = |files: &BTreeMap<String, Vec<u8>>| files.values().map(Vec::len).sum::<usize>();
        let known = read().get(commit, dirs);
        if let Some(files) = known.filter(|files| bytes(files) as u64 <= limit) {
            return Ok(files);
        }
        let files = repo::read_files(&self.git, commit, dirs, limit)?;
        read().put(commit, dirs, &files);
        Ok(files)
    }

    /// The contents of entries of [`UserRepo::list_tree`], in their order; of
    /// links, where they lead. Two processes, however many there are.
    pub fn read_entries(
        &self,
        commit: &Oid,
        entries: &[TreeEntry],
    ) -> Result<Vec<Vec<u8>>, RepoError> {
        repo::read_entries(&self.git, commit, entries)
    }

    /// All worktrees, the main one first.
    pub fn worktrees(&self) -> Result<Vec<Worktree>, RepoError> {
        let call = self.git.call(["worktree", "list", "--porcelain", "-z"]);
        let out = call.run().map_err(doing("list the worktrees"))?.stdout;
        let mut found: Vec<Worktree> = Vec::new();
        for line in nul_separated(&out) {
            if let Some(path) = line.strip_prefix(b"worktree ") {
                let path = path_from(path);
                let main = found.is_empty();
                found.push(match main {
                    true => self.main_worktree(path)?,
                    false => Worktree {
                        git_dir: linked_git_dir(&path),
                        path,
                        branch: None,
                    },
                });
            } else if let (Some(name), Some(last)) =
                (line.strip_prefix(b"branch refs/heads/"), found.last_mut())
            {
                last.branch = Some(String::from_utf8_lossy(name).into_owned());
            }
        }
        Ok(found)
    }

    /// Git names the main worktree after the git directory, which is wrong
    /// where `core.worktree` places it elsewhere (submodules do that).
    fn main_worktree(&self, listed: PathBuf) -> Result<Worktree, RepoError> {
        let common = self.git.dir().to_owned();
        let mut path = listed;
        if !path.join(".git").exists() {
            let call = self
                .git
                .call(["config", "--null", "--get", "core.worktree"])
                .accept(1);
            let out = call.run().map_err(doing("find the main worktree"))?;
            if let Some(configured) = nul_separated(&out.stdout).next() {
                path = common.join(path_from(configured));
            }
        }
        let git_dir = path.join(".git").exists().then_some(common);
        Ok(Worktree {
            path,
            git_dir,
            branch: None,
        })
    }

    /// The worktrees that hold on to a branch.
    pub(crate) fn holders(&self, branch: &str) -> Result<Vec<(Worktree, Hold)>, RepoError> {
        let mut holders = Vec::new();
        if self.is_alone_elsewhere(branch) {
            return Ok(holders);
        }
        for tree in self.worktrees()? {
            let hold = match (&tree.branch, &tree.git_dir) {
                (Some(b), _) if b == branch => Some(Hold::CheckedOut),
                (_, Some(git_dir)) => hold_of(git_dir, branch),
                (_, None) => None,
            };
            holders.extend(hold.map(|h| (tree, h)));
        }
        Ok(holders)
    }

    /// True where files alone say that there is one work tree, and that it does not hold on
    /// to the branch: no process is needed then.
    fn is_alone_elsewhere(&self, branch: &str) -> bool {
        let common = self.git.dir();
        let head = std::fs::read_to_string(common.join("HEAD")).unwrap_or_default();
        let on = head.strip_prefix("ref: refs/heads/").map(str::trim_end);
        // Where refs are no files, that one says nothing.
        let elsewhere = on.is_some_and(|on| on != branch && on != ".invalid");
        // A branch may stand for another one.
        let of_head = common.join(head.trim_end().trim_start_matches("ref: "));
        let text = std::fs::read_to_string(of_head).unwrap_or_default();
        let elsewhere = elsewhere && !text.starts_with("ref:");
        elsewhere && !common.join("worktrees").exists() && hold_of(common, branch).is_none()
    }

    /// Moves a work branch from `expected` (none: it must not exist yet) to
    /// `new`, which `door` holds. Whatever else is found there stays.
    pub fn move_branch(
        &self,
        branch: &str,
        expected: Option<&Oid>,
        new: &Oid,
        door: &DoorRepo,
    ) -> Result<Move, RepoError> {
        let had = self.tips(&[branch, &door.base().default_branch()?])?;
        let found = had.get(branch).cloned();
        if found.as_ref() == Some(new) {
            return Ok(Move::AlreadyThere);
        }
        if found.as_ref() != expected {
            return Ok(Move::Diverged { found });
        }
        if let Some((tree, _)) = self.holders(branch)?.into_iter().next() {
            return Ok(Move::CheckedOut {
                worktree: tree.path,
            });
        }
        let small = outgoing::small_pack(door, new, had.values());
        let unpacked = small.and_then(|pack| pack.map(|pack| self.unpack(pack, new)).transpose());
        match unpacked {
            Ok(Some(())) => {}
            Ok(None) => self.bring(door, new)?,
            // Git may manage what we cannot; it also looks at what is really there.
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::info!(error, commit = %new, "brought by git");
                self.bring(door, new)?;
            }
        }
        Ok(
            match self.swap(branch, expected, new, "factory: work branch")? {
                Swap::Done => Move::Moved,
                Swap::Lost { found } if found.as_ref() == Some(new) => Move::AlreadyThere,
                Swap::Lost { found } => Move::Diverged { found },
            },
        )
    }

    /// Where branches (without `refs/heads/`) are, in one process; those that do not exist are
    /// not among them.
    pub fn tips(&self, branches: &[&str]) -> Result<BTreeMap<String, Oid>, RepoError> {
        let format = "--format=%(objectname) %(objecttype) %(refname:lstrip=2)";
        let names = branches.iter().map(|branch| format!("refs/heads/{branch}"));
        let call = self.git.call(["for-each-ref", format]).args(names);
        let out = call.run().map_err(doing("read the branches"))?;
        // A name also matches what is below it.
        let tip = |line: &str| {
            let (oid, name) = line.split_once(" commit ")?;
            let asked = branches.contains(&name);
            asked.then_some((name.to_owned(), oid.parse().ok()?))
        };
        Ok(out.text().lines().filter_map(tip).collect())
    }

    /// Takes in the objects of a pack that holds `commit`, if all that they name is there or
    /// comes with them; no ref is touched.
    fn unpack(&self, pack: Vec<u8>, commit: &Oid) -> Result<(), RepoError> {
        let call = self
            .git
            .call(["-c", "core.fsync=all", "unpack-objects", "-q", "--strict"])
            .stdin(pack);
        call.run()
            .map_err(doing(format!("take {commit} into the repository")))?;
        Ok(())
    }

    /// Brings a commit and its history from `door.git`; no ref is touched.
    pub(crate) fn bring(&self, door: &DoorRepo, commit: &Oid) -> Result<(), RepoError> {
        self.git
            // Settings of the user's that would keep us out, or work in the
            // background in a repository that is not ours.
            .call([
                "-c",
                "protocol.version=2",
                "-c",
                "protocol.file.allow=always",
            ])
            .args([
                "-c",
                "fetch.writeCommitGraph=false",
                "-c",
                "gc.auto=0",
                "-c",
                "core.fsync=all",
            ])
            .args([
                "fetch",
                "--quiet",
                "--no-tags",
                "--no-write-fetch-head",
                "--no-prune",
            ])
            .args([
                "--no-auto-maintenance",
                "--no-recurse-submodules",
                UPLOAD_PACK,
                "--",
            ])
            .arg(door.dir())
            .arg(commit.as_str())
            .run()
            .map_err(doing(format!("bring {commit} into the repository")))?;
        Ok(())
    }

    /// Moves a branch if it still is where it was.
    pub(crate) fn swap(
        &self,
        branch: &str,
        old: Option<&Oid>,
        new: &Oid,
        reflog: &str,
    ) -> Result<Swap, RepoError> {
        let zero = Oid::zero();
        let call = self
            .git
            .call(["-c", "core.fsync=all", "update-ref", "-m", reflog])
            .arg(format!("refs/heads/{branch}"))
            .args([new.as_str(), old.unwrap_or(&zero).as_str()]);
        match call.run() {
            Ok(_) => Ok(Swap::Done),
            Err(source) => {
                let found = self.tip(branch)?;
                if found.as_ref() != old {
                    return Ok(Swap::Lost { found });
                }
                Err(doing(format!("move branch `{branch}`"))(source))
            }
        }
    }
}

/// How a compare-and-swap of a branch went.
pub(crate) enum Swap {
    Done,
    Lost { found: Option<Oid> },
}

/// Follows a worktree's `.git`; none when the worktree is gone.
fn linked_git_dir(worktree: &Path) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let dot_git = worktree.join(".git");
    if dot_git.is_dir() {
        return Some(dot_git);
    }
    let text = std::fs::read(&dot_git).ok()?;
    let target = text.strip_prefix(b"gitdir: ")?;
    let target = target.strip_suffix(b"\n").unwrap_or(target);
    let dir = worktree.join(std::ffi::OsStr::from_bytes(target));
    dir.is_dir().then_some(dir)
}

/// A rebase or bisect detaches HEAD and comes back to its branch at its end.
fn hold_of(git_dir: &Path, branch: &str) -> Option<Hold> {
    let names = |file: &str| {
        std::fs::read_to_string(git_dir.join(file)).is_ok_and(|text| {
            let text = text.trim_end();
            text.strip_prefix("refs/heads/").unwrap_or(text) == branch
        })
    };
    if names("rebase-merge/head-name") || names("rebase-apply/head-name") {
        Some(Hold::Rebase)
    } else if names("BISECT_START") {
        Some(Hold::Bisect)
    } else {
        None
    }
}
