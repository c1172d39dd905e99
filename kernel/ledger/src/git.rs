//! The one way in which this crate runs the `git` binary: fixed locale, no
//! standard input unless given, no prompt, no hooks, no file system monitor,
//! and nothing of the caller's `GIT_*` environment.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// Variables that say which repository git works in. Others of the caller's
/// are kept where a remote is talked to: they say how the user reaches it.
const OF_A_REPOSITORY: [&str; 15] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_COMMON_DIR",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
    "GIT_GRAFT_FILE",
    "GIT_SHALLOW_FILE",
    "GIT_REPLACE_REF_BASE",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_CEILING_DIRECTORIES",
];

/// Whose configuration a call obeys.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Config {
    /// Repository, user and system: for the user's own repository.
    Users,
    /// The repository's only: for repositories of ours.
    Isolated,
    /// The user's, that of this other repository first, and the user's
    /// environment: for a repository of ours that talks to a remote of that one.
    Remote(PathBuf),
}

/// The git binary at one directory. Cheap to clone; every call is a new process.
#[derive(Debug, Clone)]
pub struct Git {
    dir: PathBuf,
    config: Config,
}

/// What a call of git left. Its exit code was one that the caller accepts.
#[derive(Debug, Clone)]
pub struct GitOutput {
    /// Exit code: 0, or one named with [`GitCall::accept`].
    pub status: i32,
    /// Standard output, untouched.
    pub stdout: Vec<u8>,
    /// Standard error, untouched.
    pub stderr: Vec<u8>,
}

impl GitOutput {
    /// Standard output as text without trailing white space; bytes that are no
    /// UTF-8 are replaced, so use `stdout` for paths.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// True for exit code 0.
    pub fn success(&self) -> bool {
        self.status == 0
    }
}

/// A call of git that did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The process could not be started or talked to.
    #[error("could not run `git {args}` in {dir}; is git installed and in PATH?", dir = dir.display())]
    NotRun {
        /// Arguments, joined for people.
        args: String,
        /// Where it was to run.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It ended with an exit code that the caller does not accept.
    #[error("`git {args}` in {dir} failed ({status}): {stderr}", dir = dir.display())]
    Failed {
        /// Arguments, joined for people.
        args: String,
        /// Where it ran.
        dir: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// What it said, trimmed.
        stderr: String,
    },
    /// It succeeded, but printed something else than it is documented to.
    #[error("`git {args}` in {dir} printed something unexpected: `{output}`", dir = dir.display())]
    Unexpected {
        /// Arguments, joined for people.
        args: String,
        /// Where it ran.
        dir: PathBuf,
        /// What it printed.
        output: String,
    },
}

impl Git {
    /// Git at `dir` with the user's configuration: for the user's repository.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            config: Config::Users,
        }
    }

    /// Git at `dir` without the user's and the system's configuration,
    /// attributes and ignore rules: for repositories of ours.
    pub fn isolated(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            config: Config::Isolated,
        }
    }

    /// Git at `dir`, a bare repository of ours, as the user's git in the
    /// repository with the common directory `user` would talk to its remotes:
    /// with its configuration, credential helpers and ssh; it may ask for a
    /// password where there is a terminal.
    pub fn to_remote(dir: impl Into<PathBuf>, user: &Path) -> Self {
        Self {
            dir: dir.into(),
            config: Config::Remote(user.join("config")),
        }
    }

    /// The directory it runs at.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts to describe a call: `git.call(["rev-parse", "HEAD"]).run()`.
    pub fn call<I, A>(&self, args: I) -> GitCall
    where
        I: IntoIterator<Item = A>,
        A: AsRef<OsStr>,
    {
        GitCall {
            git: self.clone(),
            args: args.into_iter().map(|a| a.as_ref().to_owned()).collect(),
            env: Vec::new(),
            stdin: None,
            accepted: Vec::new(),
        }
    }

    /// Runs git and accepts exit code 0 only.
    pub fn run<I, A>(&self, args: I) -> Result<GitOutput, GitError>
    where
        I: IntoIterator<Item = A>,
        A: AsRef<OsStr>,
    {
        self.call(args).run()
    }
}

/// One call of git, described but not run.
#[derive(Debug, Clone)]
pub struct GitCall {
    git: Git,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    stdin: Option<Vec<u8>>,
    accepted: Vec<i32>,
}

impl GitCall {
    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args
            .extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets one variable of the child's environment.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Gives it bytes on standard input; without, it reads end of file.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Takes this exit code for an answer as well (`git diff --quiet` says 1).
    pub fn accept(mut self, code: i32) -> Self {
        self.accepted.push(code);
        self
    }

    /// The process as it would be started, for those who stream its output.
    /// Standard input is `/dev/null`; what was given with [`GitCall::stdin`] is not in it.
    pub fn command(&self) -> Command {
        let mut command = Command::new("git");
        let remote = match &self.git.config {
            Config::Remote(settings) => Some(settings),
            Config::Users | Config::Isolated => None,
        };
        for (key, _) in std::env::vars_os() {
            let kept = remote.is_some() && OF_A_REPOSITORY.iter().all(|name| key != *name);
            if key.as_encoded_bytes().starts_with(b"GIT_") && !kept {
                command.env_remove(key);
            }
        }
        if let Some(settings) = remote {
            // First: what follows wins.
            let mut include = OsString::from("include.path=");
            include.push(settings);
            command.arg("-c").arg(include);
        }
        command
            .args([
                "-c",
                "core.hooksPath=/dev/null",
                "-c",
                "core.fsmonitor=false",
            ])
            .env("LC_ALL", "C")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .stdin(Stdio::null());
        if remote.is_some() {
            // Not found by looking: a user may have forbidden that for bare repositories.
            command.env("GIT_DIR", &self.git.dir);
        }
        if remote.is_none() || !std::io::stderr().is_terminal() {
            command.env("GIT_TERMINAL_PROMPT", "0");
        }
        if self.git.config == Config::Isolated {
            // Attributes and ignore rules have default places in the home
            // directory that no configuration file needs to name.
            command
                .args([
                    "-c",
                    "core.attributesFile=/dev/null",
                    "-c",
                    "core.excludesFile=/dev/null",
                ])
                .env("GIT_CONFIG_GLOBAL", "/dev/null")
                .env("GIT_CONFIG_SYSTEM", "/dev/null")
                .env("GIT_ATTR_NOSYSTEM", "1");
        }
        command.arg("-C").arg(&self.git.dir).args(&self.args);
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }

    /// Runs it to its end.
    pub fn run(self) -> Result<GitOutput, GitError> {
        let mut command = self.command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if self.stdin.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn().map_err(|source| self.not_run(source))?;
        let pipe = child.stdin.take();
        // A second thread writes, or both sides could wait on full pipes.
        let (written, output) = std::thread::scope(|scope| {
            let writer = self
                .stdin
                .as_deref()
                .zip(pipe)
                .map(|(bytes, mut pipe)| scope.spawn(move || pipe.write_all(bytes)));
            let output = child.wait_with_output();
            let written = writer.map_or(Ok(()), |w| w.join().unwrap_or(Ok(())));
            (written, output)
        });
        let output = output.map_err(|source| self.not_run(source))?;
        let code = output.status.code();
        match code {
            Some(status) if status == 0 || self.accepted.contains(&status) => {
                match written {
                    // A git that had its answer early may close its input.
                    Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(self.not_run(e)),
                    _ => Ok(GitOutput {
                        status,
                        stdout: output.stdout,
                        stderr: output.stderr,
                    }),
                }
            }
            _ => Err(GitError::Failed {
                args: self.shown_args(),
                dir: self.git.dir.clone(),
                status: output.status,
                stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            }),
        }
    }

    /// Runs it to its end, or until it has printed more than `limit` bytes: then it is ended,
    /// and there is none. It reads end of file on standard input.
    pub fn run_up_to(self, limit: usize) -> Result<Option<Vec<u8>>, GitError> {
        let mut command = self.command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|source| self.not_run(source))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        // A second thread reads what it complains of, or it could wait on a full pipe.
        let (printed, said) = std::thread::scope(|scope| {
            let said = scope.spawn(move || read_all(stderr, u64::MAX));
            let printed = read_all(stdout, limit as u64 + 1);
            let is_whole = matches!(&printed, Ok(bytes) if bytes.len() <= limit);
            let killed = if is_whole { Ok(()) } else { child.kill() };
            let said = said.join().unwrap_or_else(|_| Ok(Vec::new()));
            (killed.and(printed), said)
        });
        let status = child.wait().map_err(|source| self.not_run(source))?;
        let printed = printed.map_err(|source| self.not_run(source))?;
        if printed.len() > limit {
            return Ok(None);
        }
        if status.success() {
            return Ok(Some(printed));
        }
        Err(GitError::Failed {
            args: self.shown_args(),
            dir: self.git.dir.clone(),
            status,
            stderr: String::from_utf8_lossy(&said.unwrap_or_default())
                .trim()
                .to_owned(),
        })
    }

    /// Runs it and returns its output as text without trailing white space.
    pub fn text(self) -> Result<String, GitError> {
        Ok(self.run()?.text())
    }

    /// The error for output that is not what git documents.
    pub fn unexpected(&self, output: &[u8]) -> GitError {
        GitError::Unexpected {
            args: self.shown_args(),
            dir: self.git.dir.clone(),
            output: String::from_utf8_lossy(output).trim().to_owned(),
        }
    }

    fn not_run(&self, source: std::io::Error) -> GitError {
        GitError::NotRun {
            args: self.shown_args(),
            dir: self.git.dir.clone(),
            source,
        }
    }

    fn shown_args(&self) -> String {
        let shown: Vec<_> = self.args.iter().map(|a| a.to_string_lossy()).collect();
        shown.join(" ")
    }
}

/// What a pipe gives, up to `limit` bytes; without one, nothing.
fn read_all(pipe: Option<impl Read>, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(limit).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}
