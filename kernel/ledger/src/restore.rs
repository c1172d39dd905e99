//! The way back from a broken state: the newest intact step goes on under
//! counters that nobody was given yet.

use crate::git::Git;
use crate::history::{Landmark, StepNo, decode, loose_file, scan};
use crate::places::Places;
use crate::state::{ANCHOR_REF, ARCHIVE, CommitError, STATE_REF, StateRepo};
use crate::store::{Store, StoreError};
use factory_core::ids::Oid;
use factory_core::state::{Delta, Put, State};
use git2::{ErrorCode, ObjectType, Repository, Tree};
use std::path::{Path, PathBuf};

/// What is added to every counter, at least.
const RAISE: u64 = 1000;
/// Where tips that were replaced are kept.
const LOST_REFS: &str = "refs/factory-lost/";

/// A state that was not restored. Nothing was changed, except that damaged
/// objects may have been moved away.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is nothing to go back to.
    #[error("no step in {path} is intact; put the folder back from a backup, or delete it to begin anew", path = path.display())]
    NothingIntact {
        /// The repository.
        path: PathBuf,
    },
    /// A damaged object could not be moved away.
    #[error("cannot move the damaged file {path} away; make it writable and free some space", path = path.display())]
    Stuck {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The new state could not be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// `state.git` could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A state that was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The step that it goes on from.
    pub from: Landmark,
    /// The new state.
    pub commit: Oid,
    /// Its step.
    pub step: StepNo,
    /// What was added to every counter.
    pub raised: u64,
    /// Later steps that are lost, as far as they can be read, oldest first.
    pub lost: Vec<Landmark>,
    /// Archived files that are lost.
    pub lost_files: Vec<String>,
    /// Where the state was before; none where that cannot be read.
    pub old: Option<Oid>,
    /// The ref that keeps it; none where git could not walk its history.
    pub kept: Option<String>,
    /// Damaged objects, and the directory that they were moved to.
    pub damaged: Vec<Oid>,
    /// See `damaged`.
    pub damaged_dir: PathBuf,
    /// The history before `from` is damaged: the new state begins a new one.
    pub cut: bool,
}

/// Goes back to the highest intact step. The caller holds the kernel's lock.
/// `seconds` is now, in unix seconds.
pub fn restore(places: &Places, seconds: i64) -> Result<Restored, RestoreError> {
    let state = StateRepo::open(places)?;
    let found = state.store.with(|repo| scan(&state.store, repo))?;
    // An object that is there is not written again, however damaged it is.
    let damaged_dir = state.path().join(format!("damaged/{seconds}"));
    for oid in &found.damaged {
        move_away(&loose_file(state.path(), oid), &damaged_dir)?;
    }
    // libgit2 remembers what it has seen.
    let state = StateRepo::open(places)?;
    let store = &state.store;
    store.with(|repo| {
        let old = match repo.refname_to_id(STATE_REF) {
            Ok(id) => Some(store.core_oid(id)?),
            Err(_) => None,
        };
        let mut steps = found.steps;
        // Of equal ones, first the one that landed.
        steps.sort_by_key(|mark| (mark.step, old.as_ref() == Some(&mark.oid)));
        let intact = steps.iter().enumerate().rev().find_map(|(at, mark)| {
            let state = decode(&state, &mark.oid).ok()?;
            Some((at, state))
        });
        let Some((at, good)) = intact else {
            return Err(RestoreError::NothingIntact {
                path: store.path().to_owned(),
            });
        };
        let mut lost = steps.split_off(at + 1);
        let Some(from) = steps.pop() else {
            return Err(RestoreError::NothingIntact {
                path: store.path().to_owned(),
            });
        };
        lost.retain(|mark| mark.step > from.step);
        let last = lost.last().map_or(from.step.n, |mark| mark.step.n);
        let raised = RAISE * (1 + last.saturating_sub(from.step.n) / RAISE);
        let (step, delta) = raise(&good, raised);

        let mut lost_files = Vec::new();
        let before = store
            .find_commit(repo, &from.oid)?
            .tree()
            .map_err(|e| store.failed(format!("read the tree of commit {}", from.oid), e))?;
        let before = without_lost_archive(store, repo, before, &mut lost_files)?;
        let tree = state.write_tree(repo, Some(&before), &delta.files())?;
        let cut = !walks(store.path(), &from.oid);
        let message = format!(
            "state: restored from step {} (commit {}), counters raised by {raised}\n\nFactory-Step: {step}\n",
            from.step, from.oid,
        );
        let parent = Some(&from.oid).filter(|_| !cut);
        let commit = store.write_commit(repo, tree, parent, &message, seconds)?;

        let kept = old
            .as_ref()
            .filter(|old| walks(store.path(), old))
            .map(|_| format!("{LOST_REFS}{seconds}"));
        let _turn = store.ref_turn()?;
        if let (Some(old), Some(kept)) = (&old, &kept) {
            point(store, repo, kept, old)?;
        }
        point(store, repo, ANCHOR_REF, &commit)?;
        point(store, repo, STATE_REF, &commit)?;
        Ok(Restored {
            from,
            commit,
            step,
            raised,
            lost,
            lost_files,
            old,
            kept,
            damaged: found.damaged.into_iter().collect(),
            damaged_dir,
            cut,
        })
    })
}

/// The same state with counters that give no number a second time.
fn raise(state: &State, by: u64) -> (StepNo, Delta) {
    let mut meta = state.meta.clone();
    meta.epoch.0 += by;
    meta.step += by;
    meta.last_issue += by;
    meta.last_pr += by;
    let step = StepNo {
        epoch: meta.epoch.0,
        n: meta.step,
    };
    let mut delta = Delta {
        meta: Some(meta),
        ..Delta::default()
    };
    for (number, issue) in &state.issues {
        let mut issue = issue.clone();
        let runs = u32::try_from(by).unwrap_or(u32::MAX);
        issue.runs = issue.runs.saturating_add(runs);
        delta.issues.insert(*number, Put::Live(issue));
    }
    (step, delta)
}

/// The tree without those archived files that cannot be read.
fn without_lost_archive<'r>(
    store: &Store,
    repo: &'r Repository,
    tree: Tree<'r>,
    lost: &mut Vec<String>,
) -> Result<Tree<'r>, StoreError> {
    let Some(archive) = tree.get_name(ARCHIVE).map(|entry| entry.id()) else {
        return Ok(tree);
    };
    let failed = |e| store.not_written("write the archive again", e);
    let kept = readable(repo, archive, ARCHIVE, lost).map_err(failed)?;
    if kept == Some(archive) {
        return Ok(tree);
    }
    let write = || {
        let mut builder = repo.treebuilder(Some(&tree))?;
        match kept {
            Some(kept) => builder.insert(ARCHIVE, kept, 0o040_000).map(drop)?,
            None => builder.remove(ARCHIVE)?,
        }
        repo.find_tree(builder.write()?)
    };
    write().map_err(failed)
}

/// What can be read of the directory `id`; none when nothing can.
fn readable(
    repo: &Repository,
    id: git2::Oid,
    path: &str,
    lost: &mut Vec<String>,
) -> Result<Option<git2::Oid>, git2::Error> {
    let Ok(tree) = repo.find_tree(id) else {
        lost.push(format!("{path}/"));
        return Ok(None);
    };
    let mut builder = repo.treebuilder(None)?;
    for entry in &tree {
        let name = String::from_utf8_lossy(entry.name_bytes()).into_owned();
        let path = format!("{path}/{name}");
        let kept = match entry.kind() {
            Some(ObjectType::Tree) => readable(repo, entry.id(), &path, lost)?,
            _ if repo.find_blob(entry.id()).is_ok() => Some(entry.id()),
            _ => {
                lost.push(path);
                None
            }
        };
        if let Some(kept) = kept {
            builder.insert(entry.name_bytes(), kept, entry.filemode())?;
        }
    }
    match builder.is_empty() {
        true => Ok(None),
        false => builder.write().map(Some),
    }
}

/// True when everything that a commit leads to is there: a ref to anything
/// else would keep git from packing the repository.
fn walks(repository: &Path, commit: &Oid) -> bool {
    let call = Git::isolated(repository).call(["rev-list", "--objects", "--quiet"]);
    match call.arg(commit.as_str()).run() {
        Ok(_) => true,
        Err(error) => {
            tracing::debug!(%error, "a history is not whole");
            false
        }
    }
}

/// Sets a ref, whatever is in its place. The caller has the turn.
fn point(store: &Store, repo: &Repository, name: &str, to: &Oid) -> Result<(), StoreError> {
    let file = store.path().join(name);
    let lock = store.path().join(format!("{name}.lock"));
    let broken = matches!(repo.find_reference(name), Err(e) if e.code() != ErrorCode::NotFound);
    for (stale, gone) in [(file, broken), (lock, true)] {
        if !gone {
            continue;
        }
        match std::fs::remove_file(&stale) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::Unwritable {
                    path: stale,
                    source,
                });
            }
            _ => {}
        }
    }
    let to = store.git_oid(to)?;
    repo.reference(name, to, true, "")
        .map(drop)
        .map_err(|e| store.not_written(format!("set {name}"), e))
}

fn move_away(file: &Path, to: &Path) -> Result<(), RestoreError> {
    let failed = |source| RestoreError::Stuck {
        path: file.to_owned(),
        source,
    };
    let Some((name, dir)) = file
        .file_name()
        .zip(file.parent().and_then(Path::file_name))
    else {
        return Ok(());
    };
    if !file.exists() {
        // It is in a pack: what else is there can still be read.
        return Ok(());
    }
    std::fs::create_dir_all(to).map_err(failed)?;
    let mut whole = dir.to_owned();
    whole.push(name);
    std::fs::rename(file, to.join(whole)).map_err(failed)
}
