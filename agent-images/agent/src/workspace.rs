//! The work tree before and after the engine: checkout, merge, leftovers, push.

use crate::{
    door::{BackOff, HOLD},
    git::{Git, GitError, QUICK},
    processes::{Exit, is_init},
    resume::Checkpoint,
    status::Status,
    stop::Stop,
};
use factory_core::{ids::Oid, wire::START_REF};
use std::{
    collections::BTreeSet,
    io::{self, Read as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// Time for fetch and push: the door alone may hold them for [`HOLD`].
const TRANSFER: Duration = HOLD.saturating_add(QUICK);
/// How often a transfer is tried that broke, rather than was refused.
const TRANSFERS: u32 = 3;
/// What is read of a file to see whether its conflict is solved.
const MAX_CONFLICT: u64 = 8 * 1024 * 1024;

/// The work tree could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A git command did not work.
    #[error("the work tree could not be prepared")]
    Git(#[source] GitError),
    /// The door served something else.
    #[error("the door's {name} does not bring {wanted}")]
    WrongCommit {
        /// The ref.
        name: &'static str,
        /// The commit it was to bring.
        wanted: Oid,
    },
    /// A file of git's cannot be written.
    #[error("{path} cannot be written")]
    Unwritable {
        /// The file.
        path: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl From<GitError> for PrepareError {
    fn from(e: GitError) -> Self {
        Self::Git(e)
    }
}

/// The run's work tree.
#[derive(Debug)]
pub struct Workspace<'a> {
    /// Git, in it.
    pub git: Git<'a>,
    /// The commit the run starts from.
    pub start: &'a Oid,
    /// Files in which merging the target conflicted.
    pub conflicts: BTreeSet<PathBuf>,
    /// What else the engine has to know of its work tree; paragraphs.
    pub notes: Vec<String>,
}

impl<'a> Workspace<'a> {
    /// Nothing is prepared yet.
    pub fn new(git: Git<'a>, start: &'a Oid) -> Self {
        Self {
            git,
            start,
            conflicts: BTreeSet::new(),
            notes: Vec::new(),
        }
    }

    /// Its directory.
    pub fn path(&self) -> PathBuf {
        self.git.places.workspace()
    }

    /// Git's own directory in it.
    pub fn git_dir(&self) -> PathBuf {
        self.path().join(".git")
    }

    /// The commits that a merge in progress brings in.
    pub fn merging(&self) -> Vec<String> {
        let heads = std::fs::read_to_string(self.git_dir().join("MERGE_HEAD"));
        let heads = heads.unwrap_or_default();
        heads.lines().map(str::to_owned).collect()
    }

    /// True within a rebase.
    pub fn rebasing(&self) -> bool {
        ["rebase-merge", "rebase-apply"]
            .iter()
            .any(|dir| self.git_dir().join(dir).exists())
    }

    /// Has `wanted` come in by the door's ref `name`, unless it is here already.
    ///
    /// # Errors
    /// [`PrepareError`].
    pub async fn fetch(
        &self,
        name: &'static str,
        wanted: &Oid,
        stop: &Stop,
    ) -> Result<(), PrepareError> {
        let commit = format!("{wanted}^{{commit}}");
        let have = ["cat-file", "-e", &commit];
        if self.git.run(&have, QUICK, Some(stop)).await?.exit == Exit::Code(0) {
            return Ok(());
        }
        let mut back_off = BackOff::new();
        let mut tries = 1;
        loop {
            let fetch = [
                "fetch",
                "-q",
                "--no-tags",
                "--no-write-fetch-head",
                "origin",
                name,
            ];
            match self.git.run(&fetch, TRANSFER, Some(stop)).await?.ok() {
                Ok(_) => break,
                Err(e) if tries == TRANSFERS => return Err(e.into()),
                Err(e) => crate::log(format_args!("{e}; trying again")),
            }
            tries += 1;
            back_off.wait().await;
        }
        match self.git.run(&have, QUICK, Some(stop)).await?.exit {
            Exit::Code(0) => Ok(()),
            _ => Err(PrepareError::WrongCommit {
                name,
                wanted: wanted.clone(),
            }),
        }
    }

    /// Checks out the start commit, without a branch.
    ///
    /// # Errors
    /// [`PrepareError`].
    pub async fn detached(&self, stop: &Stop) -> Result<(), PrepareError> {
        self.checkout(&["--detach", self.start.as_str()], stop)
            .await
    }

    /// Checks out the start commit, which mostly is here, and is asked for only where it
    /// is not.
    ///
    /// # Errors
    /// [`PrepareError`].
    pub async fn checkout(&self, what: &[&str], stop: &Stop) -> Result<(), PrepareError> {
        let checkout = [&["checkout", "-q", "-f"], what].concat();
        let run = || self.git.run(&checkout, QUICK, Some(stop));
        if run().await?.exit != Exit::Code(0) {
            self.fetch(START_REF, self.start, stop).await?;
            run().await?.ok()?;
        }
        Ok(())
    }

    /// Checks out `branch` at the start commit (whoever made the workspace set
    /// its upstream), or as `checkpoint` saved it, and merges `target` into it. A
    /// conflicting merge stays in progress; its files are in `conflicts`.
    ///
    /// # Errors
    /// [`PrepareError`].
    pub async fn branch(
        &mut self,
        branch: &str,
        checkpoint: Option<&Checkpoint<'_>>,
        target: Option<&Oid>,
        stop: &Stop,
    ) -> Result<(), PrepareError> {
        match checkpoint {
            Some(checkpoint) => {
                self.fetch(START_REF, self.start, stop).await?;
                checkpoint.lay(self, branch, stop).await?;
            }
            None => {
                self.checkout(&["-B", branch, self.start.as_str()], stop)
                    .await?;
            }
        }
        let Some(target) = target else { return Ok(()) };
        if checkpoint.is_some() && !self.clean().await? {
            crate::log(format_args!(
                "the target is not merged: the work tree has uncommitted changes"
            ));
            self.notes.push(format!(
                "## A merge to make at the end\n\nThe target branch moved on to {target}. It is not merged into \
                 `{branch}` yet, since your work tree has uncommitted changes. When your work is committed, run \
                 `git merge {target}`, solve what conflicts, and only then push."
            ));
            return Ok(());
        }
        let merged = self
            .git
            .run(
                &["merge", "-q", "--no-edit", target.as_str()],
                QUICK,
                Some(stop),
            )
            .await?;
        if merged.exit != Exit::Code(0) {
            self.conflicts = self
                .unmerged()
                .await?
                .into_iter()
                .map(|(path, _)| path)
                .collect();
            if self.conflicts.is_empty() {
                merged.ok()?;
            }
        }
        Ok(())
    }

    async fn clean(&self) -> Result<bool, GitError> {
        let status = Status::read(self.git, QUICK).await?;
        Ok(status.changed.is_empty() && self.merging().is_empty())
    }

    /// Paths that git calls unmerged, with how many sides still have the file.
    async fn unmerged(&self) -> Result<Vec<(PathBuf, usize)>, GitError> {
        let list = self
            .git
            .run(&["ls-files", "-u", "-z", "--full-name"], QUICK, None)
            .await?
            .ok()?;
        let mut files: Vec<(PathBuf, usize)> = Vec::new();
        for entry in list.split(|b| *b == 0) {
            // <mode> <id> <stage>\t<path>
            let Some(tab) = entry.iter().position(|b| *b == b'\t') else {
                continue;
            };
            let path = PathBuf::from(std::ffi::OsStr::from_bytes(&entry[tab + 1..]));
            let side = usize::from(!entry[..tab].ends_with(b"1"));
            match files.last_mut() {
                Some((last, sides)) if *last == path => *sides += side,
                _ => files.push((path, side)),
            }
        }
        Ok(files)
    }

    /// Files whose conflict nobody solved: with conflict markers in them, or
    /// removed on one side and not decided.
    async fn unsolved(&self) -> Result<BTreeSet<PathBuf>, GitError> {
        let unmerged = self.unmerged().await?;
        let one_sided = unmerged
            .iter()
            .filter(|(_, sides)| *sides < 2)
            .map(|(path, _)| path.clone());
        let marked = unmerged.iter().map(|(path, _)| path).chain(&self.conflicts);
        let marked = marked
            .filter(|path| has_markers(&self.path().join(path)))
            .cloned();
        Ok(one_sided.chain(marked).collect())
    }

    /// Removes locks of git commands that were killed. Only as pid 1 and after
    /// everything else was ended is a lock known to be nobody's.
    fn unlock(&self, branch: &str) {
        if !is_init() {
            return;
        }
        let git_dir = self.git_dir();
        for lock in [
            "index.lock",
            "HEAD.lock",
            &format!("refs/heads/{branch}.lock"),
        ] {
            match std::fs::remove_file(git_dir.join(lock)) {
                Ok(()) => crate::log(format_args!(
                    "removed {lock}, left by a git command that was ended"
                )),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => crate::log(format_args!("{lock}: {e}")),
            }
        }
    }

    /// Commits what the engine left uncommitted, where `leftovers` is the subject for it, and
    /// pushes, so that HEAD is on the run's branch. The text says what stands in the way.
    ///
    /// # Errors
    /// A paragraph that the engine or a person can act on.
    pub async fn hand_in(&self, branch: &str, leftovers: Option<&str>) -> Result<(), String> {
        self.unlock(branch);
        if let Some(subject) = leftovers {
            self.commit_leftovers(subject).await?;
        }
        self.push(branch).await
    }

    async fn commit_leftovers(&self, subject: &str) -> Result<(), String> {
        let cannot = |e: GitError| {
            format!("What is uncommitted in the work tree could not be committed: {e}")
        };
        let status = self
            .git
            .run(&["status", "--porcelain", "-z"], QUICK, None)
            .await;
        let status = status.and_then(|done| done.ok()).map_err(cannot)?;
        let merging = !self.merging().is_empty();
        // Nothing can be unsolved where nothing differs from a commit that is no merge.
        let unsolved = match status.is_empty() && !merging && self.conflicts.is_empty() {
            true => BTreeSet::new(),
            false => self.unsolved().await.map_err(cannot)?,
        };
        if !unsolved.is_empty() {
            return Err(format!(
                "These files still hold an unsolved merge conflict: {}. Solve it in each of them, `git add` them \
                 and commit the merge; nothing can be pushed before.",
                names(&unsolved)
            ));
        }
        if self.rebasing() {
            return Err("A rebase is in progress, so the work is in pieces. Finish it (`git rebase --continue`) or \
                        undo it (`git rebase --abort`)."
                .to_owned());
        }
        if status.is_empty() && !merging {
            return Ok(());
        }
        let added = self.git.run(&["add", "-A"], QUICK, None).await;
        added.and_then(|done| done.ok()).map_err(cannot)?;
        let commit: &[&str] = if merging {
            &["commit", "-q", "--no-edit", "--cleanup=strip"]
        } else {
            let staged = self
                .git
                .run(&["diff", "--cached", "--quiet"], QUICK, None)
                .await
                .map_err(cannot)?;
            if staged.exit == Exit::Code(0) {
                return Ok(());
            }
            &["commit", "-q", "-m", subject]
        };
        let committed = self.git.run(commit, QUICK, None).await;
        committed.and_then(|done| done.ok()).map_err(cannot)?;
        crate::log(format_args!("committed what the engine left uncommitted"));
        Ok(())
    }

    /// What is to be pushed: HEAD, wherever the engine left it, unless the
    /// branch itself is further on. None when there is nothing beyond the start.
    /// None as well where the engine pushed it; one that notes down a push that it did not
    /// make harms itself.
    async fn tip(&self, branch: &str) -> Result<Option<String>, String> {
        let cannot = |e: GitError| format!("The work could not be pushed: {e}");
        let named = format!("refs/heads/{branch}");
        let tracked = format!("refs/remotes/origin/{branch}");
        // The usual end, told by three files, as git writes them, without a process.
        let file = |name: &str| small_file(&self.git_dir().join(name));
        if file("HEAD").is_some_and(|head| head == format!("ref: {named}\n"))
            && file(&named).is_some_and(|own| file(&tracked) == Some(own))
        {
            return Ok(None);
        }
        let names = ["HEAD", &named, &tracked];
        let [head, own, pushed] = self.git.commits(names).await.map_err(cannot)?;
        let tip = match (head, own) {
            (None, None) => {
                return Err(format!(
                    "Neither HEAD nor `{branch}` is a commit; nothing can be pushed."
                ));
            }
            (Some(tip), None) | (None, Some(tip)) => tip,
            (Some(head), Some(own)) if head == own => head,
            (Some(head), Some(own)) => {
                match self.git.merge_base(&head, &own).await.map_err(cannot)? {
                    Some(base) if base == head => own,
                    Some(base) if base == own => head,
                    _ => {
                        return Err(format!(
                            "HEAD ({head}) and the branch `{branch}` ({own}) have both moved on, and only one can be \
                         pushed. Bring everything that belongs to the work onto `{branch}` and stay on it."
                        ));
                    }
                }
            }
        };
        let is_new = tip != self.start.as_str() && pushed.as_ref() != Some(&tip);
        Ok(is_new.then_some(tip))
    }

    async fn push(&self, branch: &str) -> Result<(), String> {
        let Some(tip) = self.tip(branch).await? else {
            return Ok(());
        };
        crate::log(format_args!("push {tip} to {branch}"));
        let to = format!("{tip}:refs/heads/{branch}");
        let mut back_off = BackOff::new();
        let mut tries = 1;
        loop {
            let done = self
                .git
                .run(
                    &["push", "-q", "--no-verify", "origin", &to],
                    TRANSFER,
                    None,
                )
                .await;
            let done = done.map_err(|e| format!("The work could not be pushed: {e}"))?;
            match done.exit {
                Exit::Code(0) => return Ok(()),
                // 1 is a refused ref; anything else may be a connection that broke.
                Exit::Code(1) => {}
                _ if tries < TRANSFERS => {
                    crate::log(format_args!("push broke: {}; trying again", done.stderr));
                    tries += 1;
                    back_off.wait().await;
                    continue;
                }
                _ => {}
            }
            return Err(format!(
                "`git push` to `{branch}` was refused ({}):\n{}",
                done.exit, done.stderr
            ));
        }
    }
}

/// A regular file that is as short as a ref's.
fn small_file(path: &Path) -> Option<String> {
    const MOST: u64 = 4096;
    let meta = std::fs::symlink_metadata(path).ok()?;
    let small = meta.is_file() && meta.len() <= MOST;
    small.then(|| std::fs::read_to_string(path).ok()).flatten()
}

/// True where all three conflict markers stand at the beginning of lines.
pub fn has_markers(path: &Path) -> bool {
    let is_file = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
    let Some(file) = is_file.then(|| std::fs::File::open(path).ok()).flatten() else {
        return false;
    };
    let mut content = Vec::new();
    if let Err(e) = file.take(MAX_CONFLICT).read_to_end(&mut content) {
        crate::log(format_args!("{}: {e}", path.display()));
    }
    let mut lines = content.split(|b| *b == b'\n');
    lines.by_ref().any(|l| l.starts_with(b"<<<<<<< "))
        && lines.by_ref().any(|l| l.starts_with(b"======="))
        && lines.any(|l| l.starts_with(b">>>>>>> "))
}

/// A list for a sentence, bounded.
pub fn names(paths: &BTreeSet<PathBuf>) -> String {
    const SHOWN: usize = 50;
    let mut text = paths
        .iter()
        .take(SHOWN)
        .map(|p| format!("`{}`", p.display()))
        .collect::<Vec<_>>()
        .join(", ");
    if paths.len() > SHOWN {
        text.push_str(&format!(" and {} more", paths.len() - SHOWN));
    }
    text
}
