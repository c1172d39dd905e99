//! Moving the target branch forward to a tested merge, with the files of the
//! worktree that has it checked out.
//!
//! The order for the caller: [`prepare_advance`]; record the effect (old, new,
//! worktree); [`advance_target`]; record its result. An effect without a
//! result goes through [`recover_advance`], which relies on what
//! `prepare_advance` saw: every path that the merge changes was clean.

use crate::door::{Change, DoorRepo};
use crate::git::{Git, GitError};
use crate::repair::{self, Cut, Locks};
use crate::repo::{RepoError, doing, nul_separated, path_from};
use crate::user::{Hold, Swap, UserRepo, Worktree};
use factory_core::ids::Oid;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

/// At most this many files in the way are named.
const NAMED: usize = 100;

/// Why a worktree cannot take the merge now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// Another git works on the worktree's index, or died while it did.
    IndexLock,
    /// Another git moves the branch or HEAD, or died while it did.
    RefLock,
    /// A merge is unfinished.
    Merge,
    /// A rebase (or `git am`) is unfinished.
    Rebase,
    /// A cherry-pick is unfinished.
    CherryPick,
    /// A revert is unfinished.
    Revert,
    /// A bisect is going on.
    Bisect,
    /// Files have unresolved conflicts.
    Unmerged,
    /// Files that the merge changes have changes that are not committed.
    LocalChanges,
    /// Files that the merge changes are marked `skip-worktree` and are there all the same.
    Hidden,
    /// Files that git does not track lie where the merge puts files.
    Untracked,
    /// More than one worktree has the branch checked out.
    SeveralWorktrees,
    /// A merge was cut short, and since then another worktree checked the branch out.
    OtherWorktree,
    /// The worktree's directory is not there.
    WorktreeMissing,
    /// The git that an earlier kernel started for this merge still works.
    StillMerging,
}

impl fmt::Display for Obstacle {
    /// What is in the way and what to do about it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Obstacle::IndexLock => {
                "another git is at work (index.lock); let it end, or remove the file if none runs"
            }
            Obstacle::RefLock => {
                "another git moves the branch (a .lock file of HEAD or the branch); let it end, or remove the file if none runs"
            }
            Obstacle::Merge => "a merge is unfinished; commit it or run `git merge --abort`",
            Obstacle::Rebase => {
                "a rebase is unfinished; run `git rebase --continue` or `git rebase --abort`"
            }
            Obstacle::CherryPick => {
                "a cherry-pick is unfinished; run `git cherry-pick --continue` or `--abort`"
            }
            Obstacle::Revert => "a revert is unfinished; run `git revert --continue` or `--abort`",
            Obstacle::Bisect => "a bisect is going on; end it with `git bisect reset`",
            Obstacle::Unmerged => "files have unresolved conflicts; resolve and commit them",
            Obstacle::LocalChanges => {
                "files that the merge changes have uncommitted changes; commit or stash them"
            }
            Obstacle::Hidden => {
                "files that the merge changes are marked skip-worktree and have content of their own; run `git update-index --no-skip-worktree` on them, then commit or stash them"
            }
            Obstacle::Untracked => {
                "untracked files lie where the merge puts files; move them away"
            }
            Obstacle::SeveralWorktrees => {
                "more than one worktree has the branch checked out; switch all but one to another branch"
            }
            Obstacle::OtherWorktree => {
                "the branch was checked out here after the merge began elsewhere; order the merge again"
            }
            Obstacle::WorktreeMissing => {
                "its directory is not there; bring it back or run `git worktree prune`"
            }
            Obstacle::StillMerging => "the merge that was started before still runs; let it end",
        })
    }
}

/// What became of an ordered move of the target branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advance {
    /// The branch is at the new commit, and so are the files of its worktree.
    Advanced,
    /// The branch was at the new commit already.
    AlreadyThere,
    /// Somebody else moved the branch; the merge has to be made and tested again.
    TargetMoved {
        /// Where it is now; none when it does not exist any more.
        now: Option<Oid>,
    },
    /// The worktree cannot take the merge now. No file, index or branch was changed.
    Refused {
        /// The worktree.
        worktree: PathBuf,
        /// What is in the way.
        obstacle: Obstacle,
        /// The files in the way, relative to the worktree, at most a hundred;
        /// bytes that are no UTF-8 are replaced.
        paths: Vec<String>,
    },
}

/// What [`prepare_advance`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prepared {
    /// Nothing is in the way.
    Ready {
        /// The worktree that has the branch checked out, to be recorded with
        /// the effect; none when no worktree has.
        worktree: Option<PathBuf>,
    },
    /// There is nothing to do, or it cannot be done now.
    Settled(Advance),
}

/// What the checks before the move came to.
enum Examined {
    Ready(Option<Held>),
    Settled(Advance),
}

/// The one worktree that has the branch checked out, and what the merge changes there.
struct Held {
    tree: Worktree,
    git_dir: PathBuf,
    changes: Vec<Change>,
}

/// Looks whether `branch` can go from `old` to `new` now, and brings the
/// commits into the user's repository. Moves nothing.
pub fn prepare_advance(
    user: &UserRepo,
    door: &DoorRepo,
    branch: &str,
    old: &Oid,
    new: &Oid,
) -> Result<Prepared, RepoError> {
    Ok(match examine(user, door, branch, old, new)? {
        Examined::Ready(held) => Prepared::Ready {
            worktree: held.map(|h| h.tree.path),
        },
        Examined::Settled(outcome) => Prepared::Settled(outcome),
    })
}

/// Moves `branch` of the user's repository from `old` to `new`, a descendant
/// that `door` holds: by `git merge --ff-only` in the worktree that has it
/// checked out, by a swap of the ref where none has. After an error the effect
/// is still open: [`recover_advance`] is what comes next.
pub fn advance_target(
    user: &UserRepo,
    door: &DoorRepo,
    branch: &str,
    old: &Oid,
    new: &Oid,
) -> Result<Advance, RepoError> {
    match examine(user, door, branch, old, new)? {
        Examined::Settled(outcome) => Ok(outcome),
        Examined::Ready(held) => perform(user, branch, old, new, held),
    }
}

fn perform(
    user: &UserRepo,
    branch: &str,
    old: &Oid,
    new: &Oid,
    held: Option<Held>,
) -> Result<Advance, RepoError> {
    let Some(held) = held else {
        return move_ref(user, branch, old, new);
    };
    let merged = Git::new(&held.tree.path)
        // Settings of the user's that would stash their files, work elsewhere
        // or in the background, or write several files at a time: a merge that
        // was cut short must leave at most one file unfinished.
        .call(["-c", "submodule.recurse=false", "-c", "checkout.workers=1"])
        .args([
            "-c",
            "gc.auto=0",
            "-c",
            "maintenance.auto=false",
            "-c",
            "core.fsync=all",
        ])
        .args([
            "merge",
            "--ff-only",
            "--quiet",
            "--no-stat",
            "--no-squash",
            "--no-autostash",
        ])
        .args([
            "--no-verify-signatures",
            "--no-overwrite-ignore",
            new.as_str(),
        ])
        .env("GIT_REFLOG_ACTION", "factory: merge")
        .run();
    let Err(source) = merged else {
        return Ok(Advance::Advanced);
    };
    let tip = user.tip(branch)?;
    if tip.as_ref() == Some(new) {
        return Ok(Advance::Advanced);
    }
    if tip.as_ref() != Some(old) {
        return Ok(Advance::TargetMoved { now: tip });
    }
    // Git refuses before it writes, but a full disk stops it in the middle; and
    // a git that a signal ended had no time to unlock.
    if matches!(&source, GitError::Failed { status, .. } if status.code().is_none()) {
        let (git_dir, top) = (Some(held.git_dir.as_path()), Some(held.tree.path.as_path()));
        if let Some(lock) = repair::remove_locks(user.dir(), git_dir, branch, Locks::All, top)? {
            return Ok(refused(&held.tree.path, lock, []));
        }
    }
    if let Some(outcome) = busy(user, &held, branch) {
        return Ok(outcome);
    }
    match repair::put_back(&held.tree.path, &held.changes)? {
        Cut::IndexWritten => return move_ref(user, branch, old, new),
        Cut::PutBack(theirs) if theirs.is_empty() => {}
        Cut::PutBack(theirs) => {
            return Ok(refused(&held.tree.path, Obstacle::LocalChanges, theirs));
        }
    }
    if let Some(outcome) = files_in_the_way(&held)? {
        return Ok(outcome);
    }
    // Marked as absent, yet there: nothing but git's refusal tells of their changes.
    let hidden = repair::hidden(&held.tree.path, &held.changes)?;
    match hidden.is_empty() {
        false => Ok(refused(&held.tree.path, Obstacle::Hidden, hidden)),
        true => Err(doing(format!("merge into branch `{branch}`"))(source)),
    }
}

/// Finishes a move whose effect was recorded, after [`prepare_advance`] had
/// found it ready, and whose result was not: the process that performed it
/// died at any point of it. Call it only for such an effect: it removes lock
/// files that no living process holds, and puts files back that the cut merge
/// had written. What else is found in files is the user's and is named.
pub fn recover_advance(
    user: &UserRepo,
    door: &DoorRepo,
    branch: &str,
    old: &Oid,
    new: &Oid,
    worktree: Option<&Path>,
) -> Result<Advance, RepoError> {
    let shown = worktree.unwrap_or(user.dir());
    if worktree.is_some_and(|path| repair::git_lives_with(new, path)) {
        return Ok(refused(shown, Obstacle::StillMerging, []));
    }
    let tip = user.tip(branch)?;
    let git_dir = match worktree {
        Some(path) => user
            .worktrees()?
            .into_iter()
            .find(|t| t.path == path)
            .and_then(|t| t.git_dir),
        None => None,
    };
    // A branch that moved was moved with its index written: only the locks
    // that git holds until the very end can be left.
    let locks = match &tip {
        Some(oid) if oid == old => Locks::All,
        Some(oid) if oid == new => Locks::Head,
        _ => return Ok(Advance::TargetMoved { now: tip }),
    };
    if let Some(held_lock) =
        repair::remove_locks(user.dir(), git_dir.as_deref(), branch, locks, worktree)?
    {
        return Ok(refused(shown, held_lock, []));
    }
    if let (Locks::All, Some(path), Some(_)) = (locks, worktree, git_dir) {
        user.bring(door, new)?;
        match repair::put_back(path, &door.changes(old, new)?)? {
            Cut::IndexWritten => return move_ref(user, branch, old, new),
            Cut::PutBack(theirs) if theirs.is_empty() => {}
            Cut::PutBack(theirs) => return Ok(refused(path, Obstacle::LocalChanges, theirs)),
        }
    }
    match examine(user, door, branch, old, new)? {
        Examined::Settled(outcome) => Ok(outcome),
        // Its files were not looked at when the effect was recorded.
        Examined::Ready(Some(held)) if Some(held.tree.path.as_path()) != worktree => {
            Ok(refused(&held.tree.path, Obstacle::OtherWorktree, []))
        }
        Examined::Ready(held) => perform(user, branch, old, new, held),
    }
}

/// Moves the ref alone: no worktree has the branch, or its files are there already.
fn move_ref(user: &UserRepo, branch: &str, old: &Oid, new: &Oid) -> Result<Advance, RepoError> {
    Ok(match user.swap(branch, Some(old), new, "factory: merge")? {
        Swap::Done => Advance::Advanced,
        Swap::Lost { found } if found.as_ref() == Some(new) => Advance::AlreadyThere,
        Swap::Lost { found } => Advance::TargetMoved { now: found },
    })
}

fn examine(
    user: &UserRepo,
    door: &DoorRepo,
    branch: &str,
    old: &Oid,
    new: &Oid,
) -> Result<Examined, RepoError> {
    let settled = |outcome| Ok(Examined::Settled(outcome));
    let tip = user.tip(branch)?;
    if tip.as_ref() == Some(new) {
        return settled(Advance::AlreadyThere);
    }
    if tip.as_ref() != Some(old) {
        return settled(Advance::TargetMoved { now: tip });
    }
    if !door.is_ancestor(old, new)? {
        return Err(RepoError::NotForward {
            old: old.clone(),
            new: new.clone(),
        });
    }
    let mut holders = user.holders(branch)?;
    for (tree, hold) in &holders {
        match hold {
            Hold::CheckedOut => {}
            Hold::Rebase => return settled(refused(&tree.path, Obstacle::Rebase, [])),
            Hold::Bisect => return settled(refused(&tree.path, Obstacle::Bisect, [])),
        }
    }
    if let [_, (second, _), ..] = holders.as_slice() {
        return settled(refused(&second.path, Obstacle::SeveralWorktrees, []));
    }
    let Some((tree, _)) = holders.pop() else {
        user.bring(door, new)?;
        return Ok(Examined::Ready(None));
    };
    let Some(git_dir) = tree.git_dir.clone() else {
        return settled(refused(&tree.path, Obstacle::WorktreeMissing, []));
    };
    let held = Held {
        tree,
        git_dir,
        changes: door.changes(old, new)?,
    };
    if let Some(outcome) = busy(user, &held, branch) {
        return settled(outcome);
    }
    if let Some(outcome) = files_in_the_way(&held)? {
        return settled(outcome);
    }
    user.bring(door, new)?;
    Ok(Examined::Ready(Some(held)))
}

/// What somebody else is doing in the worktree.
fn busy(user: &UserRepo, held: &Held, branch: &str) -> Option<Advance> {
    let signs = [
        ("index.lock", Obstacle::IndexLock),
        ("HEAD.lock", Obstacle::RefLock),
        ("MERGE_HEAD", Obstacle::Merge),
        ("rebase-merge", Obstacle::Rebase),
        ("rebase-apply", Obstacle::Rebase),
        ("CHERRY_PICK_HEAD", Obstacle::CherryPick),
        ("REVERT_HEAD", Obstacle::Revert),
        ("BISECT_LOG", Obstacle::Bisect),
    ];
    let there = |path: PathBuf| path.symlink_metadata().is_ok();
    let sign = signs
        .into_iter()
        .find(|(file, _)| there(held.git_dir.join(file)));
    let obstacle = match sign {
        Some((_, obstacle)) => obstacle,
        None if there(user.dir().join(format!("refs/heads/{branch}.lock"))) => Obstacle::RefLock,
        None => return None,
    };
    Some(refused(&held.tree.path, obstacle, []))
}

/// The user's files that the merge would have to overwrite. As git sees it, a
/// path whose index entry is the new one already is not touched.
fn files_in_the_way(held: &Held) -> Result<Option<Advance>, RepoError> {
    let top = &held.tree.path;
    let call = Git::new(top)
        .call([
            "status",
            "--porcelain=v2",
            "-z",
            "--untracked-files=no",
            "--no-renames",
        ])
        .arg("--ignore-submodules=dirty");
    let wrong = || doing(format!("look for changes in {}", top.display()));
    let status = call.clone().run().map_err(wrong())?;
    let changes: BTreeMap<&Path, &Change> =
        held.changes.iter().map(|c| (c.path.as_path(), c)).collect();
    let mut unmerged = BTreeSet::new();
    let mut dirty = BTreeSet::new();
    let mut done = BTreeSet::new();
    for line in nul_separated(&status.stdout) {
        let entry = StatusEntry::parse(line).ok_or_else(|| wrong()(call.unexpected(line)))?;
        if entry.unmerged {
            unmerged.insert(entry.path);
        } else if let Some(change) = changes.get(entry.path.as_path()) {
            if entry.staged && entry.index == change.new {
                done.insert(entry.path);
            } else if entry.staged || !change.is_submodule() {
                // A submodule's own checkout is not touched by a merge.
                dirty.insert(entry.path);
            }
        }
    }
    if !unmerged.is_empty() {
        return Ok(Some(refused(top, Obstacle::Unmerged, unmerged)));
    }
    let mut untracked = BTreeSet::new();
    for change in held.changes.iter().filter(|c| c.old.is_none()) {
        if !dirty.contains(&change.path) && !done.contains(&change.path) {
            repair::untracked_at(top, &change.path, &changes, &mut untracked)?;
        }
    }
    let obstacle = match (dirty.is_empty(), untracked.is_empty()) {
        (true, true) => return Ok(None),
        (true, false) => Obstacle::Untracked,
        (false, _) => Obstacle::LocalChanges,
    };
    dirty.append(&mut untracked);
    Ok(Some(refused(top, obstacle, dirty)))
}

/// One line of `git status --porcelain=v2 -z`.
struct StatusEntry {
    unmerged: bool,
    /// The index differs from HEAD.
    staged: bool,
    /// Mode and object in the index.
    index: Option<(String, Oid)>,
    path: PathBuf,
}

impl StatusEntry {
    /// Parses `1 <XY> <sub> <mH> <mI> <mW> <hH> <hI> <path>` and
    /// `u <XY> <sub> <m1> <m2> <m3> <mW> <h1> <h2> <h3> <path>`.
    fn parse(line: &[u8]) -> Option<Self> {
        let unmerged = line.starts_with(b"u ");
        if !unmerged && !line.starts_with(b"1 ") {
            return None;
        }
        let fields: Vec<&[u8]> = line
            .splitn(if unmerged { 11 } else { 9 }, |b| *b == b' ')
            .collect();
        let text = |n: usize| fields.get(n).and_then(|f| std::str::from_utf8(f).ok());
        let mode = text(4)?.to_owned();
        let index = match unmerged {
            true => None,
            false => Some(text(7)?.parse().ok()?).filter(|o: &Oid| !o.is_zero()),
        };
        Some(Self {
            unmerged,
            staged: !text(1)?.starts_with('.'),
            index: index.map(|oid| (mode, oid)),
            path: path_from(fields.last()?),
        })
    }
}

fn refused(
    worktree: &Path,
    obstacle: Obstacle,
    paths: impl IntoIterator<Item = PathBuf>,
) -> Advance {
    let paths = paths
        .into_iter()
        .take(NAMED)
        .map(|p| p.to_string_lossy().into_owned())
        .collect();
    Advance::Refused {
        worktree: worktree.to_owned(),
        obstacle,
        paths,
    }
}
