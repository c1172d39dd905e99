//! The git binary in the work tree, bounded in time and output.

use crate::{
    output::{Tail, text},
    places::Places,
    processes::{Exit, Output, Processes, stdin_with},
    stop::{Stop, Why},
};
use std::{
    ffi::OsStr,
    io,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};
use tokio::sync::watch;

/// What is kept of git's standard output, unless told otherwise: lists of paths.
const MAX_STDOUT: usize = 1024 * 1024;
/// What is kept of git's standard error.
const MAX_STDERR: usize = 8 * 1024;

/// Git did not do what the agent needs.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// It could not be started at all.
    #[error("`git {what}` cannot be started; does the image hold git?")]
    NotStarted {
        /// The arguments.
        what: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It took too long.
    #[error("`git {what}` was ended after {seconds} s")]
    Slow {
        /// The arguments.
        what: String,
        /// How long it was let run.
        seconds: u64,
    },
    /// The run was ended meanwhile.
    #[error("`git {what}` was ended: {}", why.as_str())]
    Stopped {
        /// The arguments.
        what: String,
        /// Why.
        why: Why,
    },
    /// It failed.
    #[error("`git {what}` failed ({exit}): {stderr}")]
    Failed {
        /// The arguments.
        what: String,
        /// How it ended.
        exit: Exit,
        /// What it said.
        stderr: String,
    },
}

/// How one git command ended.
#[derive(Debug)]
pub struct Done {
    what: String,
    /// How it ended.
    pub exit: Exit,
    /// What it wrote, cut at 1 MiB or as told.
    pub stdout: Vec<u8>,
    /// The end of what it said.
    pub stderr: String,
}

impl Done {
    /// The output of a command that has to succeed.
    ///
    /// # Errors
    /// [`GitError::Failed`] for any other exit than 0.
    pub fn ok(self) -> Result<Vec<u8>, GitError> {
        match self.exit {
            Exit::Code(0) => Ok(self.stdout),
            exit => Err(GitError::Failed {
                what: self.what,
                exit,
                stderr: self.stderr,
            }),
        }
    }
}

/// What few git commands need.
#[derive(Debug, Default, Clone, Copy)]
pub struct Extra<'a> {
    /// Its standard input; nothing by default.
    pub stdin: Option<&'a [u8]>,
    /// An index of its own instead of the repository's.
    pub index: Option<&'a Path>,
    /// Bytes of its standard output that are kept; 1 MiB by default.
    pub max_stdout: Option<usize>,
}

/// Runs git in the work tree.
#[derive(Debug, Clone, Copy)]
pub struct Git<'a> {
    /// Reaps it.
    pub processes: &'a Processes,
    /// Where and with what environment.
    pub places: &'a Places,
}

/// Git in the work tree, as nothing that was configured there changes it.
pub fn command(places: &Places, args: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new("git");
    // What the engine or the repository configured for people and hooks must
    // not stop the agent from saving work; nor may git leave a process behind.
    for setting in [
        "core.hooksPath=/dev/null",
        "core.fsmonitor=false",
        "commit.gpgSign=false",
        "gc.auto=0",
        "maintenance.auto=false",
        "advice.detachedHead=false",
    ] {
        command.args(["-c", setting]);
    }
    command
        .args(args)
        .current_dir(places.workspace())
        .env_clear()
        .envs(places.base_env())
        .env("LC_ALL", "C.UTF-8")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_EDITOR", "true");
    command
}

impl Git<'_> {
    /// Runs one command to its end, at most for `limit`; `stop` ends it early.
    ///
    /// # Errors
    /// It could not be started, or was ended by us.
    pub async fn run(
        &self,
        args: &[impl AsRef<OsStr>],
        limit: Duration,
        stop: Option<&Stop>,
    ) -> Result<Done, GitError> {
        self.run_with(args, limit, stop, Extra::default()).await
    }

    /// The same, with something extra.
    ///
    /// # Errors
    /// It could not be started, or was ended by us.
    pub async fn run_with(
        &self,
        args: &[impl AsRef<OsStr>],
        limit: Duration,
        stop: Option<&Stop>,
        extra: Extra<'_>,
    ) -> Result<Done, GitError> {
        let what = args
            .iter()
            .map(|a| a.as_ref().to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ");
        let (gone, writers_gone) = watch::channel(false);
        let started = || {
            let (stdout, stdout_end) = Output::new(writers_gone.clone())?;
            let (stderr, stderr_end) = Output::new(writers_gone)?;
            let mut command = command(self.places, args);
            match extra.stdin {
                Some(text) => command.stdin(stdin_with(text)?),
                None => command.stdin(Stdio::null()),
            };
            if let Some(index) = extra.index {
                command.env("GIT_INDEX_FILE", index);
            }
            command.stdout(stdout_end).stderr(stderr_end);
            Ok((self.processes.spawn(command)?, stdout, stderr))
        };
        let (mut running, stdout, stderr) = started().map_err(|source| GitError::NotStarted {
            what: what.clone(),
            source,
        })?;

        let life = async {
            let stopped = async {
                match stop {
                    Some(stop) => stop.wait().await,
                    None => std::future::pending().await,
                }
            };
            let end = tokio::select! {
                biased;
                exit = running.wait() => Ok(exit),
                why = stopped => Err(GitError::Stopped { what: what.clone(), why }),
                () = tokio::time::sleep(limit) => Err(GitError::Slow { what: what.clone(), seconds: limit.as_secs() }),
            };
            if end.is_err() {
                self.processes.kill(&mut running).await;
            }
            gone.send_replace(true);
            end
        };
        let max_stdout = extra.max_stdout.unwrap_or(MAX_STDOUT);
        let (end, stdout, stderr) =
            tokio::join!(life, beginning(stdout, max_stdout), ending(stderr));
        Ok(Done {
            what,
            exit: end?,
            stdout,
            stderr,
        })
    }

    /// The commit that a name stands for; none where it stands for nothing.
    ///
    /// # Errors
    /// Git cannot run.
    pub async fn commit(&self, name: &str) -> Result<Option<String>, GitError> {
        let [commit] = self.commits([name]).await?;
        Ok(commit)
    }

    /// The commits that names stand for, in one process.
    ///
    /// # Errors
    /// Git cannot run.
    pub async fn commits<const N: usize>(
        &self,
        names: [&str; N],
    ) -> Result<[Option<String>; N], GitError> {
        let wanted: String = names.map(|name| format!("{name}^{{commit}}\n")).concat();
        let extra = Extra {
            stdin: Some(wanted.as_bytes()),
            ..Extra::default()
        };
        let check = ["cat-file", "--batch-check=%(objectname) %(objecttype)"];
        let found = self.run_with(&check, QUICK, None, extra).await?.ok()?;
        let found = String::from_utf8_lossy(&found);
        let mut lines = found.lines();
        Ok(names.map(|_| {
            let id = lines.next()?.strip_suffix(" commit")?;
            Some(id.to_owned())
        }))
    }

    /// The newest common ancestor of two commits; none where they share nothing.
    ///
    /// # Errors
    /// Git cannot run.
    pub async fn merge_base(&self, one: &str, other: &str) -> Result<Option<String>, GitError> {
        let done = self.run(&["merge-base", one, other], QUICK, None).await?;
        let id = text(&done.stdout, 80).trim().to_owned();
        Ok((done.exit == Exit::Code(0)).then_some(id))
    }

    /// True where `commit` is `ancestor` or descends from it.
    ///
    /// # Errors
    /// Git cannot run.
    pub async fn descends(&self, commit: &str, ancestor: &str) -> Result<bool, GitError> {
        Ok(commit == ancestor
            || self.merge_base(commit, ancestor).await?.as_deref() == Some(ancestor))
    }
}

/// Time for a command that only reads or writes the local repository.
pub const QUICK: Duration = Duration::from_secs(300);

async fn beginning(mut from: Output, max: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut piece = vec![0; 16 * 1024];
    loop {
        match from.read(&mut piece).await {
            0 => return all,
            n => all.extend_from_slice(&piece[..n.min(max - all.len())]),
        }
    }
}

async fn ending(mut from: Output) -> String {
    let mut tail = Tail::new(MAX_STDERR);
    let mut piece = vec![0; 4 * 1024];
    loop {
        match from.read(&mut piece).await {
            0 => return tail.text().trim().to_owned(),
            n => tail.take(&piece[..n]),
        }
    }
}
