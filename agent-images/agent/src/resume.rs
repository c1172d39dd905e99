//! The beginning of a run that goes on from a checkpoint.

use crate::{
    checkpoint::{LEFT_OUT, MAX_SESSION},
    git::{Extra, Git, GitError, QUICK},
    places::Places,
    processes::Exit,
    status::Status,
    stop::Stop,
    workspace::{PrepareError, Workspace, has_markers},
};
use factory_core::{
    ids::Oid,
    wire::{CHECKPOINT_SESSION, CHECKPOINT_WORK, EngineLaunch, RESUME_REF},
};
use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// A checkpoint that was fetched.
#[derive(Debug)]
pub struct Checkpoint<'a> {
    id: &'a Oid,
    /// HEAD when it was made.
    head: String,
    /// Commits that were being merged into it.
    merging: Vec<String>,
    /// What it lacks, in words.
    left_out: Option<String>,
}

/// The engine's session cannot be had from the checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// There is none, or another engine's.
    #[error("the checkpoint holds no session {name}")]
    None {
        /// Name of the file that was looked for.
        name: String,
    },
    /// Git did not hand it out.
    #[error("the session could not be read from the checkpoint")]
    Git(#[source] GitError),
    /// It cannot be written.
    #[error("the session cannot be written to {path}")]
    Unwritable {
        /// The file.
        path: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl<'a> Checkpoint<'a> {
    /// Fetches a checkpoint.
    ///
    /// # Errors
    /// [`PrepareError`].
    pub async fn fetch(
        workspace: &Workspace<'_>,
        id: &'a Oid,
        stop: &Stop,
    ) -> Result<Self, PrepareError> {
        workspace.fetch(RESUME_REF, id, stop).await?;
        let show = ["show", "-s", "--format=%P%n%b", id.as_str()];
        let shown = workspace.git.run(&show, QUICK, Some(stop)).await?.ok()?;
        let shown = String::from_utf8_lossy(&shown);
        let mut lines = shown.lines();
        let mut parents = lines.next().unwrap_or("").split(' ').map(str::to_owned);
        Ok(Self {
            id,
            head: parents.next().unwrap_or_default(),
            merging: parents.collect(),
            left_out: lines
                .find_map(|line| line.strip_prefix(LEFT_OUT))
                .map(str::to_owned),
        })
    }

    fn work(&self) -> String {
        format!("{}:{CHECKPOINT_WORK}", self.id)
    }

    /// Checks out `branch` where the checkpoint was made and lays its work over
    /// it, uncommitted. Where the branch has moved on without that commit, it
    /// stays where it is, and a note says where the work is.
    ///
    /// # Errors
    /// [`PrepareError`].
    pub async fn lay(
        &self,
        workspace: &mut Workspace<'_>,
        branch: &str,
        stop: &Stop,
    ) -> Result<(), PrepareError> {
        let git = workspace.git;
        let start = workspace.start.as_str();
        if !git.descends(&self.head, start).await? {
            checkout(git, branch, start, stop).await?;
            return self.set_aside(workspace, branch, stop).await;
        }
        checkout(git, branch, &self.head, stop).await?;
        let lay = ["read-tree", "-u", "--reset", &self.work()];
        git.run(&lay, QUICK, Some(stop)).await?.ok()?;
        let uncommitted = ["reset", "-q"];
        git.run(&uncommitted, QUICK, Some(stop)).await?.ok()?;
        if let Some(names) = &self.left_out {
            workspace.notes.push(format!(
                "## Files that are missing\n\nThe run before you broke off. All that it had changed is in your work \
                 tree, but these files, too large to be saved or not readable: {names}. Make them again where the \
                 task needs them."
            ));
        }
        if !self.merging.is_empty() {
            self.merge_again(workspace, branch).await?;
        }
        Ok(())
    }

    /// Puts a merge that was in progress back in progress.
    async fn merge_again(
        &self,
        workspace: &mut Workspace<'_>,
        branch: &str,
    ) -> Result<(), PrepareError> {
        let git_dir = workspace.git_dir();
        for (name, text) in [
            ("MERGE_MSG", format!("Merge the target into {branch}\n")),
            ("MERGE_HEAD", self.merging.join("\n") + "\n"),
        ] {
            let path = git_dir.join(name);
            std::fs::write(&path, text).map_err(|source| PrepareError::Unwritable {
                path: path.display().to_string(),
                source,
            })?;
        }
        let changed = Status::read(workspace.git, QUICK).await?.changed;
        let marked = changed.into_iter().map(|changed| changed.path);
        let marked = marked.filter(|path| has_markers(&workspace.path().join(path)));
        workspace.conflicts = marked.collect();
        Ok(())
    }

    /// Keeps the work as a commit that the engine can look at, and says so,
    /// unless the branch holds all of it.
    async fn set_aside(
        &self,
        workspace: &mut Workspace<'_>,
        branch: &str,
        stop: &Stop,
    ) -> Result<(), PrepareError> {
        let git = workspace.git;
        let (head, start) = (&self.head, workspace.start.as_str());
        let trees = [
            "rev-parse".to_owned(),
            self.work(),
            format!("{head}^{{tree}}"),
            format!("{start}^{{tree}}"),
        ];
        let trees = git.run(&trees, QUICK, Some(stop)).await?.ok()?;
        let trees = String::from_utf8_lossy(&trees);
        let trees: Vec<&str> = trees.lines().collect();
        let held = match trees[..] {
            // What was left uncommitted was committed and pushed after all.
            [work, _, start] if work == start => true,
            [work, head_tree, _] if work == head_tree => git.descends(start, head).await?,
            _ => false,
        };
        if held {
            return Ok(());
        }
        let commit = [
            "commit-tree",
            &self.work(),
            "-p",
            head,
            "-m",
            "Work in progress of the run before",
        ];
        let commit = git.run(&commit, QUICK, Some(stop)).await?.ok()?;
        let commit = String::from_utf8_lossy(&commit).trim().to_owned();
        crate::log(format_args!(
            "the branch moved on: the checkpoint's work is not laid over it, but kept as {commit}"
        ));
        workspace.notes.push(format!(
            "## Work of the run before you\n\nThe run before you broke off, and `{branch}` does not begin where it \
             did. What it had done, and you do not have, is the commit {commit}: see `git diff {base} {commit}`. \
             Some of it may be on your branch already, in a newer form. Take over what is still needed.",
            base = git.merge_base(head, start).await?.as_deref().unwrap_or(head)
        ));
        Ok(())
    }

    /// Gives the engine the checkpoint's session, where it is to go on in it.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn restore_session(
        &self,
        git: Git<'_>,
        places: &Places,
        launch: &EngineLaunch,
    ) -> Result<(), SessionError> {
        // An engine that begins a session of its own would trip over another's.
        let Some(file) = launch.session_file.as_deref().filter(|_| resumes(launch)) else {
            return Ok(());
        };
        let name = Path::new(file).file_name().unwrap_or_default();
        let mut name = name.to_string_lossy().into_owned();
        if name == "*" {
            // The engine named it: it is the one file that the checkpoint holds.
            let tree = format!("{}:{CHECKPOINT_SESSION}", self.id);
            let list = ["ls-tree", "--name-only", &tree];
            let listed = git.run(&list, QUICK, None).await;
            let listed = listed.map_err(SessionError::Git)?;
            let listed = String::from_utf8_lossy(&listed.stdout);
            name = match listed.lines().next() {
                Some(first) => first.to_owned(),
                None => return Err(SessionError::None { name }),
            };
        }
        let blob = format!("{}:{CHECKPOINT_SESSION}/{name}", self.id);
        let extra = Extra {
            max_stdout: usize::try_from(MAX_SESSION).ok(),
            ..Extra::default()
        };
        let read = git
            .run_with(&["cat-file", "blob", &blob], QUICK, None, extra)
            .await
            .map_err(SessionError::Git)?;
        if read.exit != Exit::Code(0) {
            return Err(SessionError::None { name });
        }
        let path = places.at(file).with_file_name(&name);
        let written = path
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| {
                OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(&path)
            })
            .and_then(|mut file| file.write_all(&read.stdout));
        written.map_err(|source| SessionError::Unwritable {
            path: path.display().to_string(),
            source,
        })?;
        crate::log(format_args!(
            "session {name}: {} bytes from the checkpoint",
            read.stdout.len()
        ));
        Ok(())
    }
}

/// True where the engine's first start already continues a session.
fn resumes(launch: &EngineLaunch) -> bool {
    launch.resume_argv.as_ref() == Some(&launch.argv)
}

/// Checks out `branch` at `commit`.
async fn checkout(git: Git<'_>, branch: &str, commit: &str, stop: &Stop) -> Result<(), GitError> {
    let checkout = ["checkout", "-q", "-f", "-B", branch, commit];
    git.run(&checkout, QUICK, Some(stop)).await?.ok()?;
    Ok(())
}
