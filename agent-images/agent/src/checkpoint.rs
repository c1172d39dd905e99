//! Checkpoints: work in progress and the engine's session, saved as a commit
//! that the door keeps, so that another run can go on from there.
//!
//! The commit's first parent is the run's HEAD (a merge in progress adds its
//! other parents), its tree holds `work` and `session`. Nothing of the engine's
//! is touched: not its index, not its HEAD, no lock.

use crate::{
    git::{Extra, GitError},
    session,
    status::{Changed, Status},
    workspace::{Workspace, names},
};
use factory_core::{
    ids::RunId,
    wire::{CHECKPOINT_REF, CHECKPOINT_SESSION, CHECKPOINT_WORK},
};
use std::{
    collections::BTreeSet,
    convert::Infallible,
    ffi::{OsStr, OsString},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::Instant;

/// A checkpoint is at most this large, before compression: as large as the pack
/// that the door takes.
const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// Room in it for trees and commits.
const RESERVE: u64 = 1024 * 1024;
/// A longer session is not saved.
pub const MAX_SESSION: u64 = 16 * 1024 * 1024;
/// How long one checkpoint may take in all.
const LIMIT: Duration = Duration::from_secs(120);
/// Wait before the first look: a checkpoint costs a push, and what so short a run
/// did is soon done again. It doubles up to the given time between two: a
/// young run, too, has at most half of its work to do again.
const FIRST: Duration = Duration::from_secs(4);
/// How often the wait doubles while no checkpoint can be made.
const DOUBLINGS: u32 = 4;
/// What a checkpoint's message says before the names of what it lacks.
pub const LEFT_OUT: &str = "Left out: ";

/// No checkpoint was made.
#[derive(Debug, thiserror::Error)]
enum CheckpointError {
    /// A git command did not work.
    #[error("git did not save the work")]
    Git(#[source] GitError),
    /// The old index cannot be removed.
    #[error("{} cannot be removed", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Neither HEAD nor the branch goes on from the start.
    #[error("neither HEAD nor the branch contains the commit that the run started from")]
    Astray,
}

impl From<GitError> for CheckpointError {
    fn from(e: GitError) -> Self {
        Self::Git(e)
    }
}

/// The checkpoints of one run.
#[derive(Debug)]
pub struct Checkpoints<'a> {
    /// The work tree.
    workspace: &'a Workspace<'a>,
    run: RunId,
    /// None for a run that only reads: nothing of its work is kept.
    branch: Option<&'a str>,
    /// Where the engine keeps its session.
    session_place: Option<session::Place>,
    /// Time between two, once the run is older than that.
    every: Duration,
    /// Time until the next look.
    wait: Duration,
    /// What was seen when the last one was made.
    saved: Option<u64>,
    /// The newest session that could be saved: the name of its file, and its blob.
    session: Option<(OsString, String)>,
    failures: u32,
}

impl<'a> Checkpoints<'a> {
    /// None so far.
    pub fn new(
        workspace: &'a Workspace<'a>,
        run: RunId,
        branch: Option<&'a str>,
        session_place: Option<session::Place>,
        every: Duration,
    ) -> Self {
        Self {
            workspace,
            run,
            branch,
            session_place,
            every,
            wait: FIRST.min(every),
            saved: None,
            session: None,
            failures: 0,
        }
    }

    /// Makes one whenever something changed. May be dropped at any moment.
    pub async fn keep(&mut self) -> Infallible {
        loop {
            tokio::time::sleep(self.wait * (1 << self.failures.min(DOUBLINGS))).await;
            self.wait = (self.wait * 2).min(self.every);
            self.make().await;
        }
    }

    /// Makes one, unless nothing changed since the last one. Failing is logged:
    /// no run ends for lack of a checkpoint.
    pub async fn make(&mut self) {
        match self.save().await {
            Ok(None) => self.failures = 0,
            Ok(Some(commit)) => {
                self.failures = 0;
                crate::log(format_args!("checkpoint {commit}"));
            }
            Err(e) => {
                self.failures += 1;
                crate::log(format_args!("no checkpoint: {}", crate::chain(&e)));
            }
        }
    }

    async fn save(&mut self) -> Result<Option<String>, CheckpointError> {
        let Some(branch) = self.branch else {
            return Ok(None);
        };
        let until = Instant::now() + LIMIT;
        let git = self.workspace.git;
        let left = || until.saturating_duration_since(Instant::now());
        let status = Status::read(git, left()).await?;
        let merging = self.workspace.merging();
        let session = self.session_place.as_ref();
        let session = session.and_then(session::Place::session);
        let start = self.workspace.start.as_str();
        if status.changed.is_empty()
            && merging.is_empty()
            && session.is_none()
            && status.head.as_deref() == Some(start)
            && status.branch.as_deref() == Some(branch)
        {
            return Ok(None);
        }
        let mut mark = DefaultHasher::new();
        status.mark(&self.workspace.path(), &mut mark);
        merging.hash(&mut mark);
        if let Some((_, meta)) = &session {
            (meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()).hash(&mut mark);
        }
        let mark = mark.finish();
        if self.saved == Some(mark) {
            return Ok(None);
        }

        let mut session_bytes = 0;
        if let Some((path, meta)) = &session {
            if meta.size() <= MAX_SESSION {
                session_bytes = meta.size();
                let hash: [&OsStr; 5] = [
                    "hash-object".as_ref(),
                    "-w".as_ref(),
                    "--no-filters".as_ref(),
                    "--".as_ref(),
                    path.as_os_str(),
                ];
                let done = git.run(&hash, left(), None).await?;
                let name = path.file_name().unwrap_or_default().to_owned();
                self.session = Some((name, line(done.ok()?)));
            } else {
                crate::log(format_args!(
                    "checkpoint: the engine's session is longer than {} MiB; an earlier one stays in its place",
                    MAX_SESSION >> 20
                ));
            }
        }
        let base = self.base(branch, &status).await?;
        let (work, left_out) = if base.holds_work_tree {
            let room = MAX_BYTES - RESERVE - session_bytes;
            self.work(&base.commit, &status, room, until).await?
        } else {
            let tree = format!("{}^{{tree}}", base.commit);
            let parse = ["rev-parse", "--verify", &tree];
            let tree = git.run(&parse, left(), None).await?;
            (line(tree.ok()?), BTreeSet::new())
        };
        let tree = self.tree(&work, until).await?;

        let mut message = format!("checkpoint of {}", self.run);
        if !left_out.is_empty() {
            let named = names(&left_out);
            crate::log(format_args!("checkpoint: left out: {named}"));
            message.push_str(&format!("\n\n{LEFT_OUT}{named}"));
        }
        let mut commit = vec!["commit-tree", &tree, "-m", &message, "-p", &base.commit];
        if base.holds_work_tree {
            commit.extend(merging.iter().flat_map(|other| ["-p", other]));
        }
        let commit = line(git.run(&commit, left(), None).await?.ok()?);
        let to = format!("+{commit}:{CHECKPOINT_REF}");
        let push = ["push", "-q", "--no-verify", "origin", &to];
        git.run(&push, left(), None).await?.ok()?;
        self.saved = Some(mark);
        Ok(Some(commit))
    }

    /// HEAD with the work tree, where that goes on from the run's start. While
    /// it does not, as within a rebase: what is safe on the branch.
    async fn base(&self, branch: &str, status: &Status) -> Result<Base, CheckpointError> {
        let git = self.workspace.git;
        let start = self.workspace.start.as_str();
        let own = git.commit(&format!("refs/heads/{branch}")).await?;
        let mut head = status.head.clone();
        if let Some(id) = &head
            && (self.workspace.rebasing() || !git.descends(id, start).await?)
        {
            head = None;
        }
        let holds_work_tree = match (&head, &own) {
            // A look at an older commit; the work is further on.
            (Some(head), Some(own)) => head == own || !git.descends(own, head).await?,
            (Some(_), None) => true,
            (None, Some(own)) if git.descends(own, start).await? => false,
            (None, _) => return Err(CheckpointError::Astray),
        };
        let commit = if holds_work_tree { head } else { own };
        Ok(Base {
            commit: commit.ok_or(CheckpointError::Astray)?,
            holds_work_tree,
        })
    }

    /// The work tree as a tree, and what of it is too large or unreadable.
    async fn work(
        &self,
        head: &str,
        status: &Status,
        room: u64,
        until: Instant,
    ) -> Result<(String, BTreeSet<PathBuf>), CheckpointError> {
        let git = self.workspace.git;
        let left = || until.saturating_duration_since(Instant::now());
        let (paths, left_out) = kept(&self.workspace.path(), &status.changed, room);
        if status.cut {
            crate::log(format_args!(
                "checkpoint: so many files changed that not all are saved"
            ));
        }
        let index = git.places.state().join(".factory-checkpoint-index");
        for file in [&index, &index.with_extension("lock")] {
            // Left by one that was cut short.
            match std::fs::remove_file(file) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(CheckpointError::Index {
                        path: file.clone(),
                        source: e,
                    });
                }
                Ok(()) | Err(_) => {}
            }
        }
        let own = Extra {
            index: Some(&index),
            ..Extra::default()
        };
        let read = ["read-tree", head];
        git.run_with(&read, left(), None, own).await?.ok()?;
        if !paths.is_empty() {
            let update = [
                "update-index",
                "--add",
                "--remove",
                "--replace",
                "-z",
                "--stdin",
            ];
            let extra = Extra {
                stdin: Some(&paths),
                ..own
            };
            git.run_with(&update, left(), None, extra).await?.ok()?;
        }
        let tree = git.run_with(&["write-tree"], left(), None, own).await?;
        Ok((line(tree.ok()?), left_out))
    }

    /// The checkpoint's tree around the work tree's.
    async fn tree(&self, work: &str, until: Instant) -> Result<String, CheckpointError> {
        let mut entries = format!("040000 tree {work}\t{CHECKPOINT_WORK}\0").into_bytes();
        if let Some((name, blob)) = &self.session {
            let mut entry = OsString::from(format!("100644 blob {blob}\t"));
            entry.push(name);
            entry.push("\0");
            let session = self.mktree(entry.as_bytes(), until).await?;
            entries.extend_from_slice(
                format!("040000 tree {session}\t{CHECKPOINT_SESSION}\0").as_bytes(),
            );
        }
        self.mktree(&entries, until).await
    }

    async fn mktree(&self, entries: &[u8], until: Instant) -> Result<String, CheckpointError> {
        let extra = Extra {
            stdin: Some(entries),
            ..Extra::default()
        };
        let left = until.saturating_duration_since(Instant::now());
        let git = self.workspace.git;
        let tree = git.run_with(&["mktree", "-z"], left, None, extra).await?;
        Ok(line(tree.ok()?))
    }
}

/// What a checkpoint stands on.
#[derive(Debug)]
struct Base {
    commit: String,
    /// The work tree is this commit's, with changes; else it has no part in it.
    holds_work_tree: bool,
}

/// The changed paths that fit into `room`, each with a NUL, for git; the largest
/// are left out first. Also left out is what nobody can read: git would give up.
fn kept(work_tree: &Path, changed: &[Changed], mut room: u64) -> (Vec<u8>, BTreeSet<PathBuf>) {
    let mut left_out = BTreeSet::new();
    let mut sized = Vec::with_capacity(changed.len());
    for Changed { path, .. } in changed {
        let full = work_tree.join(path);
        let bytes = match std::fs::symlink_metadata(&full) {
            Ok(meta) if meta.is_file() => {
                if rustix::fs::access(&full, rustix::fs::Access::READ_OK).is_err() {
                    left_out.insert(path.clone());
                    continue;
                }
                meta.size()
            }
            // Links are small, and what is gone is removed.
            Ok(_) | Err(_) => 0,
        };
        sized.push((bytes, path));
    }
    sized.sort();
    let mut paths = Vec::new();
    for (bytes, path) in sized {
        match room.checked_sub(bytes) {
            Some(rest) => {
                room = rest;
                paths.extend_from_slice(path.as_os_str().as_bytes());
                paths.push(0);
            }
            None => {
                left_out.insert(path.clone());
            }
        }
    }
    (paths, left_out)
}

/// The one line that git wrote.
fn line(text: Vec<u8>) -> String {
    String::from_utf8_lossy(&text).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_left_out_and_what_is_gone_costs_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut changed = Vec::new();
        for (name, bytes) in [("large", 70), ("small", 10), ("middle", 50), ("gone", 0)] {
            if bytes > 0 {
                std::fs::write(dir.path().join(name), vec![b'x'; bytes]).unwrap();
            }
            changed.push(Changed {
                path: name.into(),
                letters: *b"??",
            });
        }
        std::os::unix::fs::symlink("/nowhere", dir.path().join("link")).unwrap();
        changed.push(Changed {
            path: "link".into(),
            letters: *b"??",
        });
        let (paths, left_out) = kept(dir.path(), &changed, 100);
        assert_eq!(paths, b"gone\0link\0small\0middle\0");
        assert_eq!(left_out, BTreeSet::from(["large".into()]));
    }
}
